"""The Triton kernels against float64, and where they are taken: on a GPU, or without one by Triton's interpreter."""

import logging
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from reidgen.models import norms

pytest.importorskip("triton", reason="Triton comes with PyTorch for GPUs, on Linux and Windows alone")
SHAPES = [(2, 5, 7, 3), (1, 70, 16, 9), (3, 33, 1, 1), (1, 64, 23, 13)]  # odd ones, one position, several programs
NEAR = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}  # of what is rounded to the map's dtype
PLACE = "cuda" if torch.cuda.is_available() else "cpu"  # where conftest asks for the interpreter
pytestmark = [pytest.mark.gpu] if PLACE == "cuda" else []


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    from reidgen.models import kernels

    return kernels


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a map whose mean is three deviations, a gradient, a factor and a shift."""
    generator = torch.Generator().manual_seed(0)
    maps = [(torch.randn(shape, generator=generator) + above).to(dtype) for above in (3, 0)]
    lying = [one.to(PLACE).contiguous(memory_format=torch.channels_last) for one in maps]
    numbers = [torch.randn(shape[:2], generator=generator).to(PLACE) for _ in range(2)]
    return lying[0], lying[1], numbers[0], numbers[1]


def near(found: Tensor, wanted: Tensor, by: float) -> bool:
    """Return whether a tensor is another but for a share of its length."""
    return float((found.double() - wanted).norm()) <= by * float(wanted.norm()) + 1e-12


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_float64(kernels: ModuleType, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    map_BCHW, grad, factor, shift = drawn(shape, dtype)
    mean, variance = kernels.moments(map_BCHW)
    true_variance, true_mean = torch.var_mean(map_BCHW.double(), (2, 3), correction=0)
    assert near(mean, true_mean, 1e-6) and near(variance, true_variance, 1e-5)
    wide, slope = map_BCHW.double(), grad.double()
    times, plus = (one[:, :, None, None].double() for one in (factor, shift))
    out = kernels.affine(map_BCHW, factor, shift)
    assert out.dtype == dtype and near(out, wide * times + plus, NEAR[dtype])
    assert near(kernels.affine(map_BCHW, factor), wide * times, NEAR[dtype])
    assert near(kernels.affine(map_BCHW, factor, shift, grad), wide * times + plus + slope, NEAR[dtype])
    of_map, products, sums = kernels.scaled_grads(grad, map_BCHW, factor)
    assert near(of_map, slope * times, NEAR[dtype])
    assert near(products, (slope * wide).sum((2, 3)), 1e-5) and near(sums, slope.sum((2, 3)), 1e-5)
    spread = torch.ones(shape[:2], device=PLACE).to(dtype)[:, :, None, None].expand(shape)  # without a layout
    assert near(kernels.scaled_grads(spread, map_BCHW, factor)[1], wide.sum((2, 3)), 1e-5)


def test_a_large_mean_costs_no_variance(kernels: ModuleType) -> None:
    """The mean square less the square of the mean would be lost in float32."""
    map_BCHW = (torch.randn(1, 4, 20, 10) + 1e4).to(PLACE).contiguous(memory_format=torch.channels_last)
    _, variance = kernels.moments(map_BCHW)
    assert near(variance, torch.var(map_BCHW.double(), (2, 3), correction=0), 1e-4)
    assert (kernels.moments(torch.full((1, 4, 5, 5), 7.1, device=PLACE))[1] == 0).all()


def through(module: torch.nn.Module, given: Tensor) -> list[Tensor]:
    """Return a module's output and all its gradients."""
    given = given.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = module(given)
    (out * torch.linspace(-1, 1, out.numel(), device=PLACE).reshape(out.shape)).sum().backward()
    return [out.detach(), given.grad, *(one.grad for one in module.parameters() if one.grad is not None)]  # type: ignore[list-item]


@pytest.mark.parametrize("make", [norms.InstanceNorm2d, norms.SNR, norms.SwitchableNorm2d, norms.SNRConv])
def test_modules_are_the_same_with_and_without_kernels(
    make: Callable[[int], torch.nn.Module], kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module, map_BCHW = make(6).to(PLACE), drawn((3, 6, 9, 5), torch.float32)[0]
    monkeypatch.setattr(norms, "kernels_for", lambda map_BCHW: None)
    plain = through(module, map_BCHW)
    module.zero_grad()
    monkeypatch.setattr(norms, "kernels_for", lambda map_BCHW: kernels)
    for found, wanted in zip(through(module, map_BCHW), plain, strict=True):
        assert float((found - wanted).norm()) <= 1e-4 * (1 + float(wanted.norm()))


def test_without_a_gpu_pytorch_does_it_and_a_failure_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert norms.kernels_for(torch.zeros(1, 3, 4, 4)) is None

    def broken(*what: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nmore")

    from reidgen.models import kernels

    monkeypatch.setattr(kernels, "moments", broken)
    monkeypatch.setattr(torch, "ones", lambda *size, device: None)
    norms._kernels.cache_clear()
    with caplog.at_level(logging.WARNING, logger="reidgen"):
        assert norms._kernels() is None and norms._kernels() is None
    norms._kernels.cache_clear()
    assert caplog.text.count("Triton cannot compile here (Failed to find C compiler.)") == 1
