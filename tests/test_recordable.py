"""What a recording forbids is not there: no step of any row asks for a tensor's values, or makes one from the host's.

On a GPU such an operation ends the recording. Here every operation of the device's part of a step is looked at, forward
and backward; the optimizer is PyTorch's fused one, which a CPU does not stand for.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_graphs import RECIPE, noise, steps, trainer  # noqa: F401
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from reidgen import evaluation, training
from reidgen.data import augment
from reidgen.data.batches import Source
from reidgen.graphs import Groups, Rehearsal, StaticStep
from reidgen.methods import METHODS
from reidgen.models import norms
from reidgen.runs import Run
from reidgen.training import Trainer

pytestmark = pytest.mark.usefixtures("thin_tiny")
FORBIDDEN = {
    "_local_scalar_dense",  # .item(), int(), float(), if
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
    "repeat_interleave",
    "bincount",
    "lift_fresh",  # torch.tensor of the host's numbers: a copy from memory that is not pinned
    "lift_fresh_copy",
    "rand",  # chance that no step's stream gave
    "randn",
    "randint",
    "randperm",
    "bernoulli",
    "bernoulli_",
    "native_dropout",
}


class Audit(TorchDispatchMode):
    """Notes every forbidden operation that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.seen += 1
        name = func._schema.name.removeprefix("aten::")
        if name in FORBIDDEN:
            self.found.append(name)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [one for one in args[1] if isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8)]
            self.found += [f"{name} by a mask"] * len(masks)
        return func(*args, **(kwargs or {}))


def audit(work: Callable[[], object]) -> list[str]:
    with Audit() as found:
        work()
    assert found.seen > 0
    return found.found


def test_the_audit_finds_what_it_looks_for() -> None:
    ones = torch.ones(3)
    assert audit(lambda: ones.sum().item()) == ["_local_scalar_dense"]
    assert audit(lambda: ones[ones > 0])[:1] == ["index by a mask"]
    assert "lift_fresh" in audit(lambda: torch.tensor([1.0]))
    assert audit(lambda: torch.unique_consecutive(ones)) == ["unique_consecutive"]
    assert audit(lambda: ones[torch.arange(2)] * 2) == []


def found_in_a_step(recipe: Any, source: Source) -> list[str]:
    made = trainer(recipe, source)
    made.optimizer.step = lambda: None  # type: ignore[assignment, method-assign, misc]
    steps(made, 1)  # constants are made once
    images_B = next(made._batches())
    inside: list[str] = []
    made._do = lambda groups, do=made._do: inside.extend(audit(lambda: do(groups)))  # type: ignore[method-assign, misc]
    made.learn(made.source.read(images_B), images_B)
    return inside


@pytest.mark.parametrize("method", METHODS)
def test_no_row_asks_for_values(method: str, noise: Source) -> None:  # noqa: F811
    assert found_in_a_step(RECIPE.change(method=method), noise) == []


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "circle", "pooling": "gem", "dtype": "bfloat16"},
        {"pad": 2, "zoom": 0.0, "saturation": 0.1, "hue": 0.1, "jitter": 0.5, "erasing": 0.5},
        {"method": "snr", "settings": (("snr.triplets", "hard"), ("snr.distance", "euclidean"))},
        *({"backbone": name, "height": 64, "width": 32} for name in ("mobilenet_v2", "osnet-x0.25", "osnet-ain-x0.25")),
        {"backbone": "resnet18", "height": 64, "width": 32},
        {"backbone": "vit_b_16", "height": 32, "width": 16},
        {"backbone": "timm:mobilenetv3_small_050", "height": 64, "width": 32},
    ],
    ids=lambda change: " ".join(map(str, change.values())) if "backbone" in change else " ".join(change),
)
@pytest.mark.usefixtures("drawn_once", "short_nets")
def test_no_setting_and_no_backbone_does(change: dict[str, Any], noise: Source) -> None:  # noqa: F811
    recipe = RECIPE.change(**{"method": "baseline", "weights": "none"} | change)
    assert found_in_a_step(recipe, sized(noise, recipe.height, recipe.width)) == []


def sized(source: Source, height: int, width: int) -> Source:
    """Return the source with its images blown up."""
    packs = [np.asarray(pack) for pack in source.packs]
    factors = height // packs[0].shape[1], width // packs[0].shape[2]
    bigger = tuple(pack.repeat(factors[0], 1).repeat(factors[1], 2) for pack in packs)
    return dataclasses.replace(source, packs=bigger)


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors that are called cuda's and hold nothing: PyTorch works out shapes, types and devices as on a GPU, and
    refuses what meets a tensor of the CPU or would have to know a value.
    """

    def to(module: torch.nn.Module, *where: Any, **more: Any) -> torch.nn.Module:
        for one in module.modules():
            for name, tensor in one._parameters.items():
                if tensor is not None:
                    made = torch.empty(tensor.shape, device="cuda").contiguous(memory_format=_format(tensor))
                    one._parameters[name] = torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
            for name, buffer in one._buffers.items():
                if buffer is not None:
                    one._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
        return module

    def backward(loss: Tensor) -> None:
        assert loss.is_cuda and loss.ndim == 0 and loss.grad_fn is not None

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(torch.Tensor, "backward", backward)  # autograd's engine asks for a real device
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(training, "recorder_for", lambda device: Rehearsal())
    augment._channels.cache_clear()
    yield
    augment._channels.cache_clear()  # which holds none of them then


def _format(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.ndim == 4 else torch.contiguous_format


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize("method", METHODS)
def test_a_step_needs_nothing_of_the_host_on_a_pretended_gpu(method: str, noise: Source) -> None:  # noqa: F811
    """Augmentation, forward, losses, after_step and embedding in bfloat16. What backward asks for is looked at above; of the fused
    optimizers PyTorch knows no pretended form.
    """
    on_a_pretended_gpu(RECIPE.change(method=method, dtype="bfloat16"), noise)


def on_a_pretended_gpu(recipe: Any, source: Source) -> None:
    real = plain(recipe, source)
    with FakeTensorMode():
        made = Trainer(recipe, source, Run(Path("none")), torch.device("cuda"))
        assert made.eager == "" and all(group["fused"] and group["lr"].is_cuda for group in made.optimizer.param_groups)
        made.optimizer.step = lambda: None  # type: ignore[assignment, method-assign, misc]
        made.network.train()
        made._set_rates()
        made._do([tuple(torch.empty(one.shape, dtype=one.dtype, device="cuda") for one in group) for group in real])
        assert made.optimizer.param_groups[0]["capturable"]  # while it is recorded
        network, images = made.network.eval(), torch.empty(4, 3, recipe.height, recipe.width, device="cuda")
        with torch.no_grad(), evaluation._autocast(network, recipe.dtype):
            assert network.describe(images).is_cuda


def plain(recipe: Any, source: Source) -> Groups:
    """Return what a real step is given, on the CPU."""
    found: list[Groups] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StaticStep, "__call__", lambda self, work, groups: found.append(groups))
        patch.setattr(torch.nn.Module, "to", lambda module, *where, **more: module)
        patch.setattr(training, "recorder_for", lambda device: None)
        steps(trainer(recipe, source), 1)
    augment._channels.cache_clear()
    return found[0]


@pytest.mark.usefixtures("pretended_gpu")
def test_the_pretended_gpu_refuses_the_host(noise: Source, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    real = norms.SNR.forward
    cases: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("_local_scalar_dense", lambda x: x.sum().item() * x),
        ("devices", lambda x: x * torch.ones(x.shape)),
        ("aten.nonzero", lambda x: x[x > 0]),
    ]
    for said, wrong in cases:
        monkeypatch.setattr(norms.SNR, "forward", lambda self, x, wrong=wrong: real(self, wrong(x)))
        with pytest.raises(Exception, match=said):
            on_a_pretended_gpu(RECIPE.change(method="snr"), noise)
