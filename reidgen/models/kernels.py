"""The reductions and multiply-adds of `reidgen.models.norms` as Triton kernels, for maps in channels-last layout.

PyTorch's own operators copy a bfloat16 map to float32 before they reduce it, and reach a fraction of a GPU's bandwidth
where every image and channel has a number of its own; each function here reads every map that it is given once
(`moments` its first positions twice) and writes at most one. Sums are float32, in a fixed order, so the same map has
the same bits at every call.
Shapes: B images, C channels, H x W positions; maps float16, bfloat16 or float32 (B, C, H, W), numbers float32 (B, C).
Imported only where maps lie on a GPU, see `norms.kernels_for`: Triton comes with PyTorch for these, not for a CPU's.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

POSITIONS, CHANNELS, WARPS = 128, 64, 4  # of a map that one program has in hand at a time


@triton.jit  # type: ignore[untyped-decorator]
def _moments(map_ptr, mean_ptr, variance_ptr, positions, channels, P: tl.constexpr, C: tl.constexpr):  # type: ignore[no-untyped-def]
    """Mean and biased variance over the positions, by sums of what each value is above the mean of the first P."""
    image = tl.program_id(0).to(tl.int64)
    channel_C = tl.program_id(1) * C + tl.arange(0, C)
    inside_C = channel_C < channels
    start_C = map_ptr + image * positions * channels + channel_C
    position_P = tl.arange(0, P)
    mask_PC = (position_P < positions)[:, None] & inside_C[None, :]
    first_PC = tl.load(start_C[None, :] + position_P[:, None] * channels, mask=mask_PC, other=0.0).to(tl.float32)
    first_C = tl.sum(first_PC, 0) / tl.minimum(positions, P)
    sum_PC = tl.zeros((P, C), tl.float32)
    square_PC = tl.zeros((P, C), tl.float32)
    for at in range(0, positions, P):
        position_P = at + tl.arange(0, P)
        mask_PC = (position_P < positions)[:, None] & inside_C[None, :]
        value_PC = tl.load(start_C[None, :] + position_P[:, None] * channels, mask=mask_PC, other=0.0).to(tl.float32)
        above_PC = tl.where(mask_PC, value_PC - first_C[None, :], 0.0)
        sum_PC += above_PC
        square_PC += above_PC * above_PC
    above_C = tl.sum(sum_PC, 0) / positions
    number_C = image * channels + channel_C
    tl.store(mean_ptr + number_C, first_C + above_C, mask=inside_C)
    variance_C = tl.sum(square_PC, 0) / positions - above_C * above_C
    tl.store(variance_ptr + number_C, tl.maximum(variance_C, 0.0, propagate_nan=tl.PropagateNan.ALL), mask=inside_C)


@triton.jit  # type: ignore[untyped-decorator]
def _affine(  # type: ignore[no-untyped-def]
    map_ptr, factor_ptr, shift_ptr, more_ptr, out_ptr, positions, channels,
    SHIFT: tl.constexpr, MORE: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """A map times a factor, plus a shift, plus another map."""
    image = tl.program_id(0).to(tl.int64)
    channel_C = tl.program_id(1) * C + tl.arange(0, C)
    position_P = tl.program_id(2) * P + tl.arange(0, P)
    inside_C = channel_C < channels
    mask_PC = (position_P < positions)[:, None] & inside_C[None, :]
    offset_PC = (image * positions + position_P)[:, None] * channels + channel_C[None, :]
    number_C = image * channels + channel_C
    value_PC = tl.load(map_ptr + offset_PC, mask=mask_PC, other=0.0).to(tl.float32)
    out_PC = value_PC * tl.load(factor_ptr + number_C, mask=inside_C, other=0.0)[None, :]
    if SHIFT:
        out_PC += tl.load(shift_ptr + number_C, mask=inside_C, other=0.0)[None, :]
    if MORE:
        out_PC += tl.load(more_ptr + offset_PC, mask=mask_PC, other=0.0).to(tl.float32)
    tl.store(out_ptr + offset_PC, out_PC.to(out_ptr.dtype.element_ty), mask=mask_PC)


@triton.jit  # type: ignore[untyped-decorator]
def _scaled_grads(  # type: ignore[no-untyped-def]
    grad_ptr, map_ptr, factor_ptr, out_ptr, product_ptr, sum_ptr, positions, channels,
    P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """A gradient times a factor; its sum, and the sum of its products with the map, over the positions."""
    image = tl.program_id(0).to(tl.int64)
    channel_C = tl.program_id(1) * C + tl.arange(0, C)
    inside_C = channel_C < channels
    number_C = image * channels + channel_C
    factor_C = tl.load(factor_ptr + number_C, mask=inside_C, other=0.0)
    product_PC = tl.zeros((P, C), tl.float32)
    sum_PC = tl.zeros((P, C), tl.float32)
    for at in range(0, positions, P):
        position_P = at + tl.arange(0, P)
        mask_PC = (position_P < positions)[:, None] & inside_C[None, :]
        offset_PC = (image * positions + position_P)[:, None] * channels + channel_C[None, :]
        grad_PC = tl.load(grad_ptr + offset_PC, mask=mask_PC, other=0.0).to(tl.float32)
        value_PC = tl.load(map_ptr + offset_PC, mask=mask_PC, other=0.0).to(tl.float32)
        product_PC += grad_PC * value_PC
        sum_PC += grad_PC
        out_PC = grad_PC * factor_C[None, :]
        tl.store(out_ptr + offset_PC, out_PC.to(out_ptr.dtype.element_ty), mask=mask_PC)
    tl.store(product_ptr + number_C, tl.sum(product_PC, 0), mask=inside_C)
    tl.store(sum_ptr + number_C, tl.sum(sum_PC, 0), mask=inside_C)


def moments(map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spatial mean and biased variance of every image and channel, float32 (B, C)."""
    mean_BC, variance_BC = _numbers(map_BCHW), _numbers(map_BCHW)
    with _place(map_BCHW):
        _moments[_grid(map_BCHW)](map_BCHW, mean_BC, variance_BC, *_sizes(map_BCHW), **_BLOCK)
    return mean_BC, variance_BC


def affine(map_BCHW: Tensor, factor_BC: Tensor, shift_BC: Tensor | None = None, more: Tensor | None = None) -> Tensor:
    """Return map x factor + shift + more in the dtype of `more`, else of the map; more: a map of the same shape."""
    more = None if more is None else _lying(more)
    out = torch.empty_like(map_BCHW if more is None else more)
    grid = (*_grid(map_BCHW), triton.cdiv(_sizes(map_BCHW)[0], POSITIONS))
    factor_BC, shift_BC = factor_BC.contiguous(), None if shift_BC is None else shift_BC.contiguous()
    given = (map_BCHW, factor_BC, shift_BC, more, out)
    with _place(map_BCHW):
        _affine[grid](*given, *_sizes(map_BCHW), SHIFT=shift_BC is not None, MORE=more is not None, **_BLOCK)
    return out


def scaled_grads(grad_BCHW: Tensor, map_BCHW: Tensor, factor_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return grad x factor, like the gradient, and over the positions the sums of grad x map and of grad, (B, C)."""
    grad_BCHW = _lying(grad_BCHW)
    out, product_BC, sum_BC = torch.empty_like(grad_BCHW), _numbers(map_BCHW), _numbers(map_BCHW)
    given = (grad_BCHW, map_BCHW, factor_BC.contiguous(), out, product_BC, sum_BC)
    with _place(map_BCHW):
        _scaled_grads[_grid(map_BCHW)](*given, *_sizes(map_BCHW), **_BLOCK)
    return out, product_BC, sum_BC


_BLOCK = {"P": POSITIONS, "C": CHANNELS, "num_warps": WARPS, "enable_fp_fusion": True}  # said, as its default moves


def _place(map_BCHW: Tensor) -> torch.cuda.device_of:
    """Return the map's GPU as a context: Triton launches where PyTorch is, which may be another."""
    return torch.cuda.device_of(map_BCHW)  # type: ignore[no-untyped-call]


def _lying(map_BCHW: Tensor) -> Tensor:
    """Return the map in channels-last layout; gradients of a mean over positions come without any."""
    return map_BCHW.contiguous(memory_format=torch.channels_last)


def _numbers(map_BCHW: Tensor) -> Tensor:
    return torch.empty(map_BCHW.shape[:2], dtype=torch.float32, device=map_BCHW.device)


def _sizes(map_BCHW: Tensor) -> tuple[int, int]:
    return map_BCHW.shape[2] * map_BCHW.shape[3], map_BCHW.shape[1]


def _grid(map_BCHW: Tensor) -> tuple[int, int]:
    return len(map_BCHW), triton.cdiv(map_BCHW.shape[1], CHANNELS)
