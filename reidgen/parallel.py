"""The processes of one training: this one alone, or the ranks that torchrun started. Alone, every function does
nothing.

A batch is drawn alike on every rank, each embeds its share of the rows, and everything behind the backbone (neck,
classifier, losses) sees the gathered whole, on every rank alike. So the gradient of gathered rows is known to each rank
without a message; it is multiplied by the number of ranks, as the mean over ranks then adds up the backbone's parts.
"""

import contextlib
import contextvars
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from reidgen.devices import choose_device
from reidgen.errors import RecipeError, ReidgenError, RunError

PATIENCE = timedelta(hours=6)  # one rank may decode a large source while the others wait; torchrun ends the dead


_ALONE = contextvars.ContextVar("alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Work as if no other rank had joined: what is tried out is not shared."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def count() -> int:
    """Return the number of ranks that have joined: 1 when this process is alone."""
    return distributed.get_world_size() if distributed.is_initialized() and not _ALONE.get() else 1


def number() -> int:
    """Return which rank this process is; 0 writes and reports."""
    return distributed.get_rank() if distributed.is_initialized() else 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Yield this process's device, as `choose_device` does; under torchrun the ranks are joined until the end.

    "auto" and "cuda" are then the GPU of the same number as the rank on its machine (NCCL), "cpu" is Gloo.
    Raises RecipeError when a machine has fewer GPUs than ranks, or one GPU is asked of several ranks.
    """
    if distributed.is_initialized() or not distributed.is_torchelastic_launched():
        yield choose_device(device)
        return
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if device.startswith("cuda:") and here > 1:
        raise RecipeError(f"--device {device} is one GPU, torchrun started {here} processes; use --device auto")
    place = choose_device(device)
    if place.type == "cuda":
        if here > torch.cuda.device_count():
            raise RecipeError(
                f"torchrun started {here} processes on a machine with {torch.cuda.device_count()} CUDA devices; "
                f"use --nproc-per-node {torch.cuda.device_count()}"
            )
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield place
    except ReidgenError:
        # torchrun ends all processes when one has died; the sentence that says so comes first
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Say in one sentence that another rank has died, where torch names a closed connection."""
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            "another process of this training is gone; the same command goes on from the last checkpoint"
        ) from error


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """Return, for each flag, whether it is set on any rank; the same on all. No GPU waits for it."""
    if count() == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.uint8)
    with _together():
        distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
    return tuple(map(bool, votes.tolist()))


def first(action: Callable[[], object]) -> None:
    """Do `action` on rank 0 while the others wait; when it fails with a ReidgenError, that is raised on every rank."""
    if count() == 1:
        action()
        return
    outcome: list[ReidgenError | None] = [None]
    if number() == 0:
        try:
            action()
        except ReidgenError as error:
            outcome = [error]
    with _together():
        distributed.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    if outcome[0] is not None:
        raise outcome[0]


@contextlib.contextmanager
def first_holds(lock: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """Enter `lock` on rank 0, for all; what that raises is raised on every rank."""
    with contextlib.ExitStack() as stack:
        first(lambda: stack.enter_context(lock))
        yield


def share(rows: int) -> slice:
    """Return which of a view's rows are this rank's: the same number on every rank, in order of rank."""
    each = rows // count()
    return slice(number() * each, (number() + 1) * each)


def check_share(identities: int) -> None:
    """Raise RecipeError when the identities of a batch cannot be divided equally over the ranks."""
    if identities % count():
        fitting = ", ".join(str(n) for n in range(1, identities + 1) if identities % n == 0)
        raise RecipeError(
            f"a batch of {identities} identities cannot be divided over {count()} processes; use one of {fitting}, "
            "or set identities in a recipe file"
        )


def gather(rows: Tensor, views: int = 1) -> Tensor:
    """Return the rows of all ranks, with gradients; every rank must go on with them alike.

    views: of each image there are so many rows, all of the first view before those of the next, on each rank and in
    what is returned, where the rows of a view are in order of rank.
    """
    if count() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    if views == 1:
        return gathered
    each = len(rows) // views
    return gathered.view(count(), views, each, *rows.shape[1:]).transpose(0, 1).reshape(-1, *rows.shape[1:])


def average(values: Tensor) -> Tensor:
    """Return the mean of the tensor over the ranks, with gradients."""
    return _Average.apply(values) if count() > 1 else values


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the ranks, in one message."""
    if count() == 1:
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    with _together():
        distributed.all_reduce(flat)
    for grad, part in zip(grads, torch.split(flat / count(), [grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(count())]
        with _together():
            distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad[share(len(grad))] * count()


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        mean = values.clone(memory_format=torch.contiguous_format)
        with _together():
            distributed.all_reduce(mean)
        return mean / count()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        mean: Tensor = _Average.forward(ctx, grad)
        return mean
