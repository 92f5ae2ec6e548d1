"""The Triton kernels against float64, and where they are taken: on a GPU, or without one by Triton's interpreter."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from reidgen.models import norms

pytest.importorskip("triton", reason="Triton comes with PyTorch on Linux alone")
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
    laid = shift.to(dtype)[:, :, None, None].expand(shape)  # a gradient without a layout of its own
    assert near(kernels.affine(map_BCHW, factor, shift, laid), wide * times + plus + laid.double(), NEAR[dtype])
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
    assert (kernels.moments(torch.full((1, 4, 5, 5), 7.1, device=PLACE))[1] < 1e-10).all()
    spiked = torch.randn(1, 4, 64, 32).to(PLACE).contiguous(memory_format=torch.channels_last)
    spiked[..., 0, 0] = 1e3
    assert near(kernels.moments(spiked)[1], torch.var(spiked.double(), (2, 3), correction=0), 1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of NumPy, with which the interpreter works
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(kernels: ModuleType, bad: float) -> None:
    map_BCHW = torch.randn(1, 3, 6, 5).to(PLACE).contiguous(memory_format=torch.channels_last)
    map_BCHW[0, 1, 4, 2] = bad
    mean, variance = kernels.moments(map_BCHW)
    assert torch.isfinite(mean).tolist() == torch.isfinite(variance).tolist() == [[True, False, True]]


def test_a_factor_without_a_gradient_costs_no_look_at_the_map(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    map_BCHW, grad, factor, shift = drawn((2, 5, 7, 3), torch.float32)
    monkeypatch.setattr(norms, "kernels_for", lambda map_BCHW: kernels)
    monkeypatch.setattr(kernels, "scaled_grads", pytest.fail)
    map_BCHW.requires_grad_()
    norms.scale_and_shift(map_BCHW, factor, shift).backward(grad)
    assert map_BCHW.grad is not None and near(map_BCHW.grad, grad.double() * factor[:, :, None, None].double(), 2e-6)


COMPILED = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from reidgen.models import kernels

one = {"positions": 1, "channels": 1}  # which Triton takes for constants, as where it is tried
for kernel, constants in (
    (kernels._moments, {}), (kernels._moments, one), (kernels._scaled_grads, {}), (kernels._affine, {"SHIFT": 1, "MORE": 0}),
    (kernels._affine, {"SHIFT": 1, "MORE": 1}),
):
    constants = {"P": kernels.POSITIONS, "C": kernels.CHANNELS} | constants
    kinds = {"positions": "i32", "channels": "i32"} | dict.fromkeys(constants, "constexpr")
    maps = ("map_ptr", "more_ptr", "grad_ptr", "out_ptr")
    signature = {name: kinds.get(name, "*bf16" if name in maps else "*fp32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constants)
    made = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "enable_fp_fusion": True})
    assert made.asm["cubin"]
"""


def test_kernels_are_compiled_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = [sys.executable, "-W", "ignore", "-c", COMPILED]
    done = subprocess.run(run, env={**known, "TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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


class OnGPU(Tensor):
    """A tensor of the CPU that says it lies on a GPU."""

    is_cuda = True


def test_which_maps_the_kernels_are_taken_for(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(norms, "_kernels", lambda *which: asked.append(which) or kernels)
    plain = torch.zeros(2, 3, 4, 5)
    last = plain.contiguous(memory_format=torch.channels_last)
    assert norms.kernels_for(last) is None and not asked  # a CPU's
    for refused in (plain, last.double()):
        assert norms.kernels_for(refused.as_subclass(OnGPU)) is None and not asked
    assert norms.kernels_for(last.as_subclass(OnGPU)) is kernels
    assert norms.kernels_for(last.bfloat16().as_subclass(OnGPU)) is kernels
    assert [dtype for _, dtype in asked] == [torch.float32, torch.bfloat16]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert norms.kernels_for(last.as_subclass(OnGPU)) is None


@pytest.mark.parametrize("name", ["moments", "affine", "scaled_grads"])
def test_kernels_that_do_not_work_are_said_once_and_left(
    name: str, kernels: ModuleType, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = torch.device(PLACE)
    norms._kernels.cache_clear()
    assert norms._kernels(place, torch.bfloat16) is kernels

    def broken(*what: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nmore")

    monkeypatch.setattr(kernels, name, broken)
    with caplog.at_level(logging.WARNING, logger="reidgen"):
        assert norms._kernels(place, torch.float32) is None and norms._kernels(place, torch.float32) is None
    norms._kernels.cache_clear()
    assert caplog.text.count("Triton cannot work here (Failed to find C compiler.)") == 1
