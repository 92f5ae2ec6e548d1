"""Work of the same shapes at every call: done on tensors of fixed places, recorded as a CUDA graph, then replayed.

A step launches one to three thousand kernels, and a host may need longer to launch them than a fast GPU to do their
work; a graph is launched as one. Recorded work meets the host never again: what it decides by values, by numbers that
change or by chance of its own would be decided once for all. So parts say whether they may be recorded (`capturable` in
`reidgen.contracts`), and what is drawn reaches them in tensors of fixed places.
Source: PyTorch's notes on CUDA graphs, whole-network capture. Differences: the steps to warm up are steps of the
training, not repeated ones; they run on the stream of the recording, as autograd remembers the stream of a parameter.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from reidgen.devices import full
from reidgen.errors import RecipeError

Groups = Sequence[tuple[Tensor, ...]]
Work = Callable[[], None]
WARM = 3  # calls before the recording: constants, workspaces and cuDNN's choices, which a recording cannot make
RECORDING = threading.Lock()  # a recording begins by waiting for the whole device, which another thread's forbids
FAILED: list[torch.cuda.CUDAGraph] = []  # an older PyTorch's allocator of host memory still asks these


class _Streams(threading.local):
    """The stream of each GPU that a thread works on before it records, and records on.

    One recording after the other has the same: cuBLAS keeps 64 MiB for each stream that it has worked on, and cached
    memory serves its own stream alone. PyTorch has 32 streams of a GPU, and hands them out in turn.
    """

    def __init__(self) -> None:
        self.of: dict[int, torch.cuda.Stream] = {}

    def get(self, number: int) -> torch.cuda.Stream:
        """Return the calling thread's stream of a GPU."""
        if number not in self.of:
            self.of[number] = torch.cuda.Stream(number)  # type: ignore[no-untyped-call]
        return self.of[number]


_STREAMS = _Streams()


class Recorder(Protocol):
    """How work is done before it is recorded, and how it is recorded."""

    def warm(self, work: Work) -> None:
        """Do the work."""

    def record(self, work: Work) -> Work:
        """Return what does the same work again, on the same tensors. Raises RuntimeError where it cannot be."""


class CudaRecorder:
    """Records a CUDA graph, on a stream of the thread that asks for it."""

    def __init__(self, device: torch.device) -> None:
        self.number = torch.cuda.current_device() if device.index is None else device.index

    def warm(self, work: Work) -> None:
        """Do the work on the thread's stream, behind what was asked before and before what is asked next."""
        current, own = torch.cuda.current_stream(self.number), _STREAMS.get(self.number)
        own.wait_stream(current)
        with torch.cuda.stream(own):
            work()
        current.wait_stream(own)

    def record(self, work: Work) -> Work:
        """Return the replay of the work, which is recorded and not done. Other threads may go on meanwhile."""
        graph, pool, own = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), _STREAMS.get(self.number)
        with RECORDING, torch.cuda.device(self.number):
            try:
                with (
                    torch.cuda.stream(torch.cuda.current_stream(self.number)),  # to come back to when recording fails
                    torch.cuda.graph(graph, pool=pool, stream=own, capture_error_mode="thread_local"),
                ):
                    work()
            except BaseException:
                _end(graph, pool, self.number)
                raise
        return graph.replay


def _end(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], number: int) -> None:
    """End a recording that failed for PyTorch's allocator of a GPU's memory.

    PyTorch forgot to (2.11 does; mended by its pull request 180395), and takes the recording to be underway for good:
    then no cached memory goes back to the GPU any more, neither when asked for nor when the GPU is full. A newer one
    has done so, and refuses a second time.
    """
    with contextlib.suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(number, pool)
        FAILED.append(graph)
        torch._C._cuda_releasePool(number, pool)


class Rehearsal:
    """What stands for a GPU's recorder on a CPU: the same calls and tensors, and a replay that does the work again."""

    def warm(self, work: Work) -> None:
        """Do the work."""
        work()

    def record(self, work: Work) -> Work:
        """Return the work itself."""
        return work


class StaticStep:
    """A function of groups of tensors, which must have the same shapes at every call.

    recorder: None, where nothing is to be recorded: the tensors are brought to the device, and the work is done.
    refused: called once, with the reason, when the recording failed; the work is done as before then.
    """

    def __init__(self, *, device: torch.device, recorder: Recorder | None, refused: Callable[[str], object]) -> None:
        self.device, self.recorder, self.refused = device, recorder, refused
        self.inputs: Groups = []
        self.result: Tensor | None = None
        self.replay: Work | None = None
        self.calls = 0

    def __call__(self, work: Callable[[Groups], Tensor | None], groups: Groups) -> Tensor | None:
        """Do the work, which must be the same at every call: once recorded, it is not looked at. It gets the tensors on
        the device; what it returns is copied. It is not stored: its owner holds this step, and a cycle of the two would
        hold memory of the device until Python looks for cycles.
        Raises RecipeError for tensors of other shapes than at the first call.
        """
        if self.recorder is None:
            return work([bring(group, self.device) for group in groups])
        self._fill(groups)

        def run() -> None:
            self.result = work(self.inputs)

        if self.calls == WARM:
            self._record(self.recorder, run)
        self.calls += 1
        if self.replay is None:
            self.recorder.warm(run)
        else:
            self.replay()
        return None if self.result is None else self.result.clone()

    def _record(self, recorder: Recorder, run: Work) -> None:
        try:
            self.replay = recorder.record(run)
        except RuntimeError as error:  # what a recording may not do, PyTorch and CUDA refuse
            self.refused(_reason(error))

    def _fill(self, groups: Groups) -> None:
        """Copy what is given to where the work looks for it; from the host without waiting for the device."""
        if not self.inputs:
            self.inputs = [tuple(torch.empty_like(new, device=self.device) for new in group) for group in groups]
        for group, own in zip(groups, self.inputs, strict=True):
            for new, place in zip(group, own, strict=True):
                if new.shape != place.shape or new.dtype != place.dtype:
                    raise RecipeError(
                        f"a part drew {new.dtype} {tuple(new.shape)}, and {place.dtype} {tuple(place.shape)} in the "
                        "first step; what is drawn must have one shape, or the part's class say capturable = False"
                    )
                place.copy_(pinned(new, self.device), non_blocking=True)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host in memory that a GPU reads by itself; any other as it is."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def bring(tensors: Iterable[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """Return the tensors on the device; the host does not wait for it."""
    return tuple(pinned(tensor, device).to(device, non_blocking=True) for tensor in tensors)


def recorder_for(device: torch.device) -> Recorder | None:
    """Return what records work on a device: None where nothing can, or REIDGEN_GRAPHS is 0."""
    if device.type != "cuda" or os.environ.get("REIDGEN_GRAPHS") == "0":
        return None
    return CudaRecorder(device)


def incapable(parts: Iterable[object]) -> str:
    """Return why work of these parts must not be recorded: the first that does not say that it may be; "" if all do."""
    for part in parts:
        if not getattr(part, "capturable", False):
            return f"{type(part).__name__} does not say that it can be recorded (capturable = True in its class)"
    return ""


def _reason(error: BaseException) -> str:
    """Return what went wrong first, as its first line or that a memory is full: ending what failed fails too."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    lines = str(error).strip().splitlines()
    return full(error) or (lines[0] if lines else type(error).__name__)
