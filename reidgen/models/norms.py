"""Normalization modules: Instance and Switchable Norm, and Style Normalization and Restitution with its two variants.

Shapes: B images, C channels, H x W positions. All but SNRConv are one reduction, `moments`, and one multiply-add,
`scale_and_shift`, in the layout of the map and without another map kept for the backward pass; so are the modules of
`reidgen.models.mixing` and `reidgen.models.gates`.
"""

import functools
import logging
import math
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from reidgen.contracts import Look, Module
from reidgen.errors import RecipeError
from reidgen.parallel import average, count

log = logging.getLogger("reidgen")


class Pooled(NamedTuple):
    """What the dual causality loss compares: spatial means of the three feature maps of one SNR module.

    Each is float32 (B, C), with gradients: of F~ (style-normalized), of F~+ = F~ + R+ (restored), which is passed on,
    and of F~- = F~ + R- (contaminated), which exists for the loss only.
    """

    normalized: Tensor
    restored: Tensor
    contaminated: Tensor


class _Moments(torch.autograd.Function):
    """A map -> the same map, its spatial mean and biased variance, the two (B, C), in the type of `wide`.

    What goes on with the map that is returned hands its gradient over, and both are added up here in one pass.
    """

    @staticmethod
    def forward(ctx: Any, map_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if kernels := kernels_for(map_BCHW):
            mean_BC, variance_BC = kernels.moments(map_BCHW)
        elif map_BCHW.device.type == "cpu" and not torch.compiler.is_compiling():
            mean_BC, variance_BC = _two_passes(map_BCHW)
        else:
            variance_BC, mean_BC = torch.var_mean(wide(map_BCHW), dim=(2, 3), correction=0)
        ctx.save_for_backward(map_BCHW, mean_BC)
        return map_BCHW.view_as(map_BCHW), mean_BC, variance_BC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        map_BCHW, mean_BC = ctx.saved_tensors
        of_map, of_mean, of_variance = grads
        values = map_BCHW.shape[2] * map_BCHW.shape[3]
        factor_BC = of_variance * (2 / values)
        shift_BC = torch.addcmul(of_mean / values, factor_BC, mean_BC, value=-1)
        if kernels := kernels_for(map_BCHW):
            into: Tensor = kernels.affine(map_BCHW, factor_BC, shift_BC, of_map)
            return into
        return torch.addcmul(spread(shift_BC), map_BCHW, spread(factor_BC)).add_(of_map).to(of_map.dtype)


class _ScaleAndShift(torch.autograd.Function):
    """A map times a factor plus a shift, float32 (B, C), in the map's dtype; computed in float32."""

    @staticmethod
    def forward(ctx: Any, map_BCHW: Tensor, factor_BC: Tensor, shift_BC: Tensor) -> Tensor:
        ctx.save_for_backward(map_BCHW, factor_BC)
        if kernels := kernels_for(map_BCHW):
            scaled: Tensor = kernels.affine(map_BCHW, factor_BC, shift_BC)
            return scaled
        out = torch.empty_like(map_BCHW)
        return torch.addcmul(spread(shift_BC), map_BCHW, spread(factor_BC), out=out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        map_BCHW, factor_BC = ctx.saved_tensors
        (grad,) = grads
        if not any(ctx.needs_input_grad[1:]):  # then the map need not be read
            if kernels := kernels_for(grad):
                return kernels.affine(grad, factor_BC), None, None
            return grad * spread(factor_BC).to(grad.dtype), None, None
        if kernels := kernels_for(map_BCHW):
            of_map, of_factor, of_shift = kernels.scaled_grads(grad, map_BCHW, factor_BC)
            return of_map, of_factor, of_shift
        product = wide(grad) * map_BCHW
        of_factor, of_shift = product.sum((2, 3)), grad.sum((2, 3), dtype=product.dtype)
        of_map = product if grad.dtype == product.dtype else torch.empty_like(grad)
        return torch.mul(grad, spread(factor_BC), out=of_map), of_factor, of_shift


def kernels_for(map_BCHW: Tensor) -> ModuleType | None:
    """Return `reidgen.models.kernels` for a map on a GPU that they can read; torch.compile makes its own."""
    lies = map_BCHW.is_contiguous(memory_format=torch.channels_last)
    if not (map_BCHW.is_cuda and lies and map_BCHW.dtype != torch.float64) or torch.compiler.is_compiling():
        return None
    return _kernels(map_BCHW.device, map_BCHW.dtype)


@functools.cache
def _kernels(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Return the kernels where all of them work: which numbers they know depends on the GPU, too."""
    try:
        from reidgen.models import kernels

        map_BCHW, one_BC = torch.ones(1, 1, 1, 1, device=device, dtype=dtype), torch.ones(1, 1, device=device)
        kernels.moments(map_BCHW)
        for shift, more in ((one_BC, None), (one_BC, map_BCHW)):
            kernels.affine(map_BCHW, one_BC, shift, more)
        kernels.scaled_grads(map_BCHW, map_BCHW, one_BC)
    except Exception as error:  # no Triton, no C compiler, an old GPU: PyTorch's own operators do the same work
        log.warning(
            "normalization goes on with PyTorch's operators, slower: Triton cannot work here (%s)",
            (str(error).splitlines() or [type(error).__name__])[0],
        )
        return None
    return kernels


def _two_passes(map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spatial mean and biased variance, (B, C), of a map in any layout on a CPU; float64 of a float64 map,
    else float32.

    A few images after the other, so that what lies between the passes stays in the cache: torch.var_mean took ten
    times as long on maps in channels-last layout.
    """
    map_BPC = map_BCHW.permute(0, 2, 3, 1).flatten(1, 2)
    found = []
    for part_BPC in torch.split(map_BPC, max(1, 2**18 // max(1, math.prod(map_BPC.shape[1:])))):
        values_BPC = wide(part_BPC)
        mean_B1C = values_BPC.mean(dim=1, keepdim=True)
        off_BPC = values_BPC - mean_B1C
        found.append((mean_B1C[:, 0], torch.mul(off_BPC, off_BPC, out=off_BPC).mean(dim=1)))
    means, variances = zip(*found, strict=True)
    return torch.cat(means), torch.cat(variances)


def wide(map_BCHW: Tensor) -> Tensor:
    """Return the map in float32, a float64 one as it is."""
    return map_BCHW if map_BCHW.dtype == torch.float64 else map_BCHW.float()


def spread(values_BC: Tensor) -> Tensor:
    """Return one number per image and channel, (B, C), as (B, C, 1, 1)."""
    return values_BC[:, :, None, None]


def moments(map_BCHW: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_Moments` does. Raises ValueError for a map of another shape."""
    if map_BCHW.ndim != 4 or map_BCHW.shape[1] != channels:
        raise ValueError(f"a module for {channels} channels needs (B, {channels}, H, W); got {tuple(map_BCHW.shape)}")
    if torch.compiler.is_exporting():  # plain operators
        variance_BC, mean_BC = torch.var_mean(wide(map_BCHW), dim=(2, 3), correction=0)
        return map_BCHW, mean_BC, variance_BC
    found: tuple[Tensor, Tensor, Tensor] = _Moments.apply(map_BCHW)
    return found


def scale_and_shift(map_BCHW: Tensor, factor_BC: Tensor, shift_BC: Tensor) -> Tensor:
    """Return what `_ScaleAndShift` does: the map times a factor plus a shift, one of each per image and channel."""
    if torch.compiler.is_exporting():  # plain operators
        return torch.addcmul(spread(shift_BC), wide(map_BCHW), spread(factor_BC)).to(map_BCHW.dtype)
    scaled: Tensor = _ScaleAndShift.apply(map_BCHW, factor_BC, shift_BC)
    return scaled


def as_affine(map_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the map to go on with, its spatial mean, and the scale and shift that are Instance Norm: F~ = F s + t."""
    map_BCHW, mean_BC, variance_BC = moments(map_BCHW, len(weight_C))
    scale_BC = weight_C * torch.rsqrt(variance_BC + eps)
    return map_BCHW, mean_BC, scale_BC, torch.addcmul(bias_C, scale_BC, mean_BC, value=-1)


class InstanceNorm2d(Module, nn.InstanceNorm2d):
    """torch's Instance Norm with affine weight 1 and bias 0 at the start, without running statistics [A].

    affine: whether it has that weight and bias. forward: float (B, C, H, W) -> the same shape and dtype. Differences
    from torch's: it keeps the map's layout, where torch copies a channels-last map twice, and computes bfloat16 in
    float32.
    """

    capturable = True

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        nn.InstanceNorm2d.__init__(self, channels, affine=affine)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if self.affine:
            map_BCHW, _, scale_BC, shift_BC = as_affine(map_BCHW, self.weight, self.bias, self.eps)
        else:
            map_BCHW, mean_BC, variance_BC = moments(map_BCHW, self.num_features)
            scale_BC = torch.rsqrt(variance_BC + self.eps)
            shift_BC = -scale_BC * mean_BC
        return scale_and_shift(map_BCHW, scale_BC, shift_BC)

    def look(self, map_BCHW: Tensor) -> Look:
        """Return F and F~ = IN(F)."""
        return Look({"F": map_BCHW, "F~": _instance_norm(self, map_BCHW)}, {})


class _Restitution(Module):
    """What the SNR variants share: the affine parameters of IN, the pooled features for the loss, and how they look."""

    capturable = True
    offers: ClassVar[str] = "pooled"

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def restore(self, removed_BCHW: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return R+ and R- of R, (B, C, H, W) each, by the equations as they are written [S], and the gates by name."""
        raise NotImplementedError

    def look(self, map_BCHW: Tensor) -> Look:
        """Return F, F~ = IN(F), F~+ = F~ + R+ and F~- = F~ + R-, not by the shortcut of `SNR`, and the gates.

        Gates: a, which R+ = a R is made with; of two independent gates also "R-".
        """
        normalized = _instance_norm(self, map_BCHW)
        plus, minus, gates = self.restore(map_BCHW - normalized)
        return Look({"F": map_BCHW, "F~": normalized, "F~+": normalized + plus, "F~-": normalized + minus}, gates)


def _instance_norm(module: nn.InstanceNorm2d | _Restitution, map_BCHW: Tensor) -> Tensor:
    return functional.instance_norm(map_BCHW, weight=module.weight, bias=module.bias, eps=module.eps)


def gate_network(channels: int, reduction: int) -> nn.Sequential:
    """Return the gate of SNR and of squeeze-and-excitation: (B, C) -> (B, C) in 0..1; hidden width at least 4."""
    hidden = max(channels // reduction, 4)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())


class SNR(_Restitution):
    """Style Normalization and Restitution, to be put after any convolution block of any network.

        F~ = IN(F)    R = F - F~    a = g(pool(R)) in (0,1)^C    R+ = a R    R- = (1 - a) R    returns F~+ = F~ + R+

    Since IN is, per image and channel, one scale s = gamma / sigma and one shift, so is the whole module:

        F~+ = F (a + (1 - a) s) + (1 - a) (beta - s mu),    pool(R) = mu - beta

    hence the cost is one reduction and one multiply-add, and F~- never exists as a map. In training mode the pooled
    features for `reidgen.losses.dual_causality_loss` are left in `self.offered`: pool(F~) = beta, the same for every
    image (the mean of an affine IN output is its bias), pool(F~+) = beta + a (mu - beta), pool(F~-) = beta + (1 - a)
    (mu - beta). Where the module stands directly before global average pooling, gamma therefore gets no gradient.

    channels: C of the feature map. reduction: C / hidden width of the gate (hidden is at least 4).
    gates: 1, or 2 for independent gates of R+ and R- instead of a and 1 - a ("snr-g2") [D].
    forward: float (B, C, H, W) -> the same shape and dtype; the input is not modified. Raises ValueError on other
    shapes.
    Source: Jin et al., CVPR 2020, the equations [S]; IN affine, gate with biases: global average pool, 1x1 conv C ->
    C/16, ReLU, 1x1 conv -> C, sigmoid [A]. Difference: linear layers for the 1x1 convolutions on the pooled vector.

    >>> snr = SNR(8)
    >>> snr(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    >>> bool(torch.equal(snr.offered.normalized, torch.zeros(2, 8)))  # the bias at the start
    True
    """

    def __init__(self, channels: int, *, reduction: int = 16, gates: int = 1) -> None:
        super().__init__(channels)
        if reduction < 1 or gates not in (1, 2):
            raise ValueError(f"reduction must be at least 1 and gates 1 or 2; got {reduction} and {gates}")
        self.gate = gate_network(channels, reduction)
        self.gate_minus = gate_network(channels, reduction) if gates == 2 else None

    def forward(self, map_BCHW: Tensor) -> Tensor:
        map_BCHW, mean_BC, scale_BC, shift_BC = as_affine(map_BCHW, self.weight, self.bias, self.eps)
        removed_BC = mean_BC - self.bias
        keep_BC = wide(self.gate(removed_BC))
        drop_BC = 1 - keep_BC
        self.offered = None
        if self.training:
            minus_BC = drop_BC if self.gate_minus is None else wide(self.gate_minus(removed_BC))
            restored_BC, contaminated_BC = (
                torch.addcmul(self.bias, gate_BC, removed_BC) for gate_BC in (keep_BC, minus_BC)
            )
            self.offered = Pooled(self.bias.expand_as(mean_BC), restored_BC, contaminated_BC)
        return scale_and_shift(map_BCHW, torch.addcmul(keep_BC, drop_BC, scale_BC), drop_BC * shift_BC)

    def restore(self, removed_BCHW: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        pooled_BC = removed_BCHW.mean(dim=(2, 3))
        gates = {"a": self.gate(pooled_BC)}
        if self.gate_minus is not None:
            gates["R-"] = self.gate_minus(pooled_BC)
        minus_BC = gates["R-"] if "R-" in gates else 1 - gates["a"]
        return spread(gates["a"]) * removed_BCHW, spread(minus_BC) * removed_BCHW, gates


class SNRConv(_Restitution):
    """SNR whose R+ and R- each come from a 1x1 convolution, BatchNorm and ReLU of R, instead of a channel gate [A].

    Same contract as `SNR`; costs two C x C convolutions in training and one at inference.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.plus, self.minus = (
            nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
            for _ in range(2)
        )

    def forward(self, map_BCHW: Tensor) -> Tensor:
        same_BCHW, mean_BC, scale_BC, shift_BC = as_affine(map_BCHW, self.weight, self.bias, self.eps)
        normalized_BCHW = scale_and_shift(same_BCHW, scale_BC, shift_BC)
        removed_BCHW = map_BCHW - normalized_BCHW
        plus_BCHW = self.plus(removed_BCHW)
        self.offered = None
        if self.training:
            normalized_BC = self.bias.expand_as(mean_BC)
            self.offered = Pooled(
                normalized_BC,
                normalized_BC + wide(plus_BCHW).mean(dim=(2, 3)),
                normalized_BC + wide(self.minus(removed_BCHW)).mean(dim=(2, 3)),
            )
        restored_BCHW: Tensor = normalized_BCHW + plus_BCHW
        return restored_BCHW.to(map_BCHW.dtype)

    def restore(self, removed_BCHW: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return self.plus(removed_BCHW), self.minus(removed_BCHW), {}


class SwitchableNorm2d(Module):
    """Normalize with a learned mixture of the moments of Instance, Layer and Batch Norm.

        x^ = (x - sum_k w_k mean_k) / sqrt(sum_k w'_k var_k + eps) gamma + beta,    k in IN, LN, BN;  w, w' softmaxes

    All moments follow from the per-image, per-channel ones. In eval mode BN's are the running averages.
    forward: float (B, C, H, W) -> the same shape and dtype.
    Source: Luo et al., ICLR 2019, Eq. 2-3. Differences: BN's running variance is unbiased and its momentum 0.1, as in
    torch's BatchNorm2d, so that with all weight on BN this layer is torch's, in training and evaluation.
    """

    capturable = True
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels)
        if not (0 < eps <= 1 and 0 <= momentum <= 1):
            raise ValueError(
                f"eps must lie above 0 and momentum within 0 to 1, both at most 1; got {eps} and {momentum}"
            )
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mean_weight = nn.Parameter(torch.zeros(3))
        self.var_weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.eps, self.momentum = eps, momentum

    def forward(self, map_BCHW: Tensor) -> Tensor:
        map_BCHW, mean_in, var_in = moments(map_BCHW, len(self.weight))
        mean_ln = mean_in.mean(dim=1, keepdim=True)
        var_ln = (var_in + (mean_in - mean_ln).square()).mean(dim=1, keepdim=True)
        mean_bn, var_bn = batch_moments(self, mean_in, var_in, map_BCHW)
        each = torch.stack([x.expand_as(mean_in) for x in (mean_in, mean_ln, mean_bn, var_in, var_ln, var_bn)])
        share_23 = functional.softmax(torch.stack([self.mean_weight, self.var_weight]), 1)
        # the six moments are one tensor: on a GPU every operator of these small ones costs the start of a kernel
        mean_BC, var_BC = (share_23[:, :, None, None] * each.view(2, 3, *mean_in.shape)).sum(1)
        scale_BC = self.weight * torch.rsqrt(var_BC + self.eps)
        return scale_and_shift(map_BCHW, scale_BC, torch.addcmul(self.bias, mean_BC, scale_BC, value=-1))


class Running(Protocol):
    """A norm that keeps running averages of the batches' moments, as BatchNorm2d does."""

    running_mean: Tensor
    running_var: Tensor
    momentum: float
    training: bool


def batch_moments(norm: Running, mean_BC: Tensor, var_BC: Tensor, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return Batch Norm's mean and biased variance, (C,) each, from those of every image and channel.

    In training they are those of the batch of all ranks, and the norm's running averages follow them; in evaluation
    they are these averages.
    """
    if not norm.training:
        return norm.running_mean, norm.running_var
    mean_C = average(mean_BC.mean(dim=0))
    var_C = average((var_BC + (mean_BC - mean_C).square()).mean(dim=0))
    with torch.no_grad():
        norm.running_mean.lerp_(mean_C, norm.momentum)
        norm.running_var.lerp_(var_C * _unbiased(map_BCHW), norm.momentum)
    return mean_C, var_C


def _mean_and_scale(norm: nn.BatchNorm2d, mean_BC: Tensor, var_BC: Tensor, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a BatchNorm2d takes from a map and multiplies it by, (C,) each, and let it count the batch."""
    mean_C, var_C = batch_moments(cast(Running, norm), mean_BC, var_BC, map_BCHW)
    if norm.training:
        cast(Tensor, norm.num_batches_tracked).add_(1)
    return mean_C, norm.weight * torch.rsqrt(var_C + norm.eps)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose batch is that of all ranks, on CPU and GPU alike (torch's SyncBatchNorm waits for the GPU)."""

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(map_BCHW)
        map_BCHW, mean_BC, var_BC = moments(map_BCHW, self.num_features)
        mean_C, scale_C = _mean_and_scale(self, mean_BC, var_BC, map_BCHW)
        factor_BC, shift_BC = (x_C.expand(map_BCHW.shape[:2]) for x_C in (scale_C, self.bias - mean_C * scale_C))
        return scale_and_shift(map_BCHW, factor_BC, shift_BC)


class _SharedNormAct(SharedBatchNorm2d):
    """SharedBatchNorm2d for timm's BatchNormAct2d, which has its activation inside."""

    drop: nn.Module
    act: nn.Module

    def forward(self, map_BCHW: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(map_BCHW)))
        return out


def share_batch_norm(module: nn.Module) -> None:
    """Put a `SharedBatchNorm2d` with the same state in the place of every BatchNorm2d below `module`.

    Raises RecipeError for a kind of BatchNorm2d that does more than this, and what is not known.
    """
    for name, child in module.named_children():
        if isinstance(child, SharedBatchNorm2d):
            continue
        if not isinstance(child, nn.BatchNorm2d):
            share_batch_norm(child)
            continue
        inside = dict(child.named_children())
        if type(child) is not nn.BatchNorm2d and inside.keys() != {"drop", "act"}:
            raise RecipeError(
                f"{type(child).__name__} cannot share its batch over several processes; train in one, without torchrun"
            )
        kind = _SharedNormAct if inside else SharedBatchNorm2d
        shared = kind(child.num_features, eps=child.eps, momentum=child.momentum)
        shared.load_state_dict(child.state_dict())
        for own, part in inside.items():
            setattr(shared, own, part)
        setattr(module, name, shared)


def _unbiased(map_BCHW: Tensor) -> float:
    """Return n / (n - 1), n values of a channel in the batch of all ranks: it makes a variance unbiased, as torch's."""
    values = map_BCHW.numel() // map_BCHW.shape[1] * count()
    return values / max(values - 1, 1)


class InstanceBatchNorm2d(Module):
    """IBN-a: Instance Norm of the first half of the channels, BatchNorm of the others, both with affine parameters [A].

    forward: float (B, C, H, W) -> the same shape and dtype; of an odd number of channels, floor(C / 2) are IN's. IN
    keeps no running statistics. Raises ValueError for fewer than two channels.
    Source: Pan et al., ECCV 2018; XingangPan/IBN-Net@d167338:ibnnet/modules.py, where the halves are called IN and BN
    too, so that its weights fit by name.
    """

    capturable = True

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        if channels < 2:
            raise ValueError(f"IBN-a splits the channels into halves, so that it needs 2 at least; got {channels}")
        self.halves = [channels // 2, channels - channels // 2]
        self.IN = InstanceNorm2d(self.halves[0])
        self.BN = nn.BatchNorm2d(self.halves[1])  # which a row may replace by its own norm

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if type(self.IN) is not InstanceNorm2d or type(self.BN) not in (nn.BatchNorm2d, SharedBatchNorm2d):
            first, second = torch.split(map_BCHW, self.halves, dim=1)
            return torch.cat([self.IN(first), self.BN(second)], dim=1)
        # Both are one factor and one shift per image and channel, so the map is read and written whole.
        map_BCHW, mean_BC, var_BC = moments(map_BCHW, sum(self.halves))
        mean_in, mean_bn = torch.split(mean_BC, self.halves, dim=1)
        var_in, var_bn = torch.split(var_BC, self.halves, dim=1)
        mean_C, scale_C = _mean_and_scale(self.BN, mean_bn, var_bn, map_BCHW)
        scale_BC = torch.cat([self.IN.weight * torch.rsqrt(var_in + self.IN.eps), scale_C.expand_as(mean_bn)], dim=1)
        shift_BC = torch.cat([self.IN.bias, self.BN.bias]) - scale_BC * torch.cat(
            [mean_in, mean_C.expand_as(mean_bn)], dim=1
        )
        return scale_and_shift(map_BCHW, scale_BC, shift_BC)

    def take_over(self, norm: nn.BatchNorm2d) -> None:
        """Start from a BatchNorm2d: each half takes its weight and bias, BN its running statistics as well."""
        state = norm.state_dict()
        split = self.halves[0]
        for half, part in ((self.IN, slice(0, split)), (self.BN, slice(split, None))):
            own = half.state_dict().keys() & state.keys()
            half.load_state_dict({name: state[name][part] if state[name].ndim else state[name] for name in own})
