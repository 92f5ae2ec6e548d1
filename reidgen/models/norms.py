"""Normalization modules: Switchable Norm, and Style Normalization and Restitution with its two variants.

Shapes: B images, C channels, H x W positions. Instance Norm itself is torch's InstanceNorm2d.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reidgen.parallel import average, count


class Pooled(NamedTuple):
    """What the dual causality loss compares: spatial means of the three feature maps of one SNR module.

    Each is float32 (B, C), with gradients: of F~ (style-normalized), of F~+ = F~ + R+ (restored), which is passed on,
    and of F~- = F~ + R- (contaminated), which exists for the loss only.
    """

    normalized: Tensor
    restored: Tensor
    contaminated: Tensor


def instance_norm(channels: int) -> nn.Module:
    """Return torch's Instance Norm with affine weight 1 and bias 0 at the start, without running statistics [A]."""
    return nn.InstanceNorm2d(channels, affine=True)


def _scale_and_shift(map_BCHW: Tensor, factor_BC: Tensor, shift_BC: Tensor) -> Tensor:
    """Return the map times a factor plus a shift per image and channel, computed in float32, in the map's dtype."""
    return torch.addcmul(shift_BC[:, :, None, None], map_BCHW.float(), factor_BC[:, :, None, None]).to(map_BCHW.dtype)


class _Restitution(nn.Module):
    """What the SNR variants share: the affine parameters of IN, and the pooled features kept for the loss."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self.pooled: Pooled | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the last batch's graph, so that the module can be copied at any time."""
        return {**self.__dict__, "pooled": None}

    def _moments(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spatial mean and gamma / sigma, each float32 (B, C)."""
        if map_BCHW.ndim != 4 or map_BCHW.shape[1] != len(self.weight):
            raise ValueError(
                f"SNR for {len(self.weight)} channels needs (B, {len(self.weight)}, H, W); got {tuple(map_BCHW.shape)}"
            )
        variance_BC, mean_BC = torch.var_mean(map_BCHW.float(), dim=(2, 3), correction=0)
        return mean_BC, self.weight * torch.rsqrt(variance_BC + self.eps)


def _gate(channels: int, reduction: int) -> nn.Sequential:
    hidden = max(channels // reduction, 4)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())


class SNR(_Restitution):
    """Style Normalization and Restitution, to be put after any convolution block of any network.

        F~ = IN(F)    R = F - F~    a = g(pool(R)) in (0,1)^C    R+ = a R    R- = (1 - a) R    returns F~+ = F~ + R+

    Since IN is, per image and channel, one scale s = gamma / sigma and one shift, so is the whole module:

        F~+ = F (a + (1 - a) s) + (1 - a) (beta - s mu),    pool(R) = mu - beta

    hence the cost is one reduction and one multiply-add, and F~- never exists as a map. In training mode the pooled
    features for `reidgen.losses.dual_causality_loss` are left in `self.pooled`: pool(F~) = beta, the same for every
    image (the mean of an affine IN output is its bias), pool(F~+) = beta + a (mu - beta), pool(F~-) = beta + (1 - a)
    (mu - beta). Where the module stands directly before global average pooling, gamma therefore gets no gradient.

    channels: C of the feature map. reduction: C / hidden width of the gate (hidden is at least 4).
    gates: 1, or 2 for independent gates of R+ and R- instead of a and 1 - a ("snr-g2") [D].
    forward: float (B, C, H, W) -> the same shape and dtype; the input is not modified. Raises ValueError on other shapes.
    Source: Jin et al., CVPR 2020, the equations [S]; IN affine, gate with biases: global average pool, 1x1 conv C ->
    C/16, ReLU, 1x1 conv -> C, sigmoid [A]. Difference: linear layers for the 1x1 convolutions on the pooled vector.

    >>> snr = SNR(8)
    >>> snr(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    >>> bool(torch.equal(snr.pooled.normalized, torch.zeros(2, 8)))  # the bias at the start
    True
    """

    def __init__(self, channels: int, *, reduction: int = 16, gates: int = 1) -> None:
        super().__init__(channels)
        self.gate = _gate(channels, reduction)
        self.gate_minus = _gate(channels, reduction) if gates == 2 else None

    def forward(self, map_BCHW: Tensor) -> Tensor:
        mean_BC, scale_BC = self._moments(map_BCHW)
        removed_BC = mean_BC - self.bias
        keep_BC = self.gate(removed_BC).float()
        self.pooled = None
        if self.training:
            drop_BC = 1 - keep_BC if self.gate_minus is None else self.gate_minus(removed_BC).float()
            self.pooled = Pooled(
                self.bias.expand_as(mean_BC), self.bias + keep_BC * removed_BC, self.bias + drop_BC * removed_BC
            )
        factor_BC = keep_BC + (1 - keep_BC) * scale_BC
        shift_BC = (1 - keep_BC) * (self.bias - scale_BC * mean_BC)
        return _scale_and_shift(map_BCHW, factor_BC, shift_BC)


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
        mean_BC, scale_BC = self._moments(map_BCHW)
        shift_BC = self.bias - scale_BC * mean_BC
        normalized_BCHW = map_BCHW * scale_BC[:, :, None, None] + shift_BC[:, :, None, None]
        removed_BCHW = map_BCHW - normalized_BCHW
        plus_BCHW = self.plus(removed_BCHW)
        self.pooled = None
        if self.training:
            normalized_BC = self.bias.expand_as(mean_BC)
            self.pooled = Pooled(
                normalized_BC,
                normalized_BC + plus_BCHW.float().mean(dim=(2, 3)),
                normalized_BC + self.minus(removed_BCHW).float().mean(dim=(2, 3)),
            )
        restored_BCHW: Tensor = normalized_BCHW + plus_BCHW
        return restored_BCHW.to(map_BCHW.dtype)


class SwitchableNorm2d(nn.Module):
    """Normalize with a learned mixture of the moments of Instance, Layer and Batch Norm.

        x^ = (x - sum_k w_k mean_k) / sqrt(sum_k w'_k var_k + eps) gamma + beta,    k in IN, LN, BN;  w, w' softmaxes

    All moments follow from the per-image, per-channel ones. In eval mode BN's are the running averages.
    forward: float (B, C, H, W) -> the same shape and dtype.
    Source: Luo et al., ICLR 2019, Eq. 2-3. Differences: BN's running variance is unbiased and its momentum 0.1, as in
    torch's BatchNorm2d, so that with all weight on BN this layer is torch's, in training and evaluation.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mean_weight = nn.Parameter(torch.zeros(3))
        self.var_weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.eps, self.momentum = eps, momentum

    def forward(self, map_BCHW: Tensor) -> Tensor:
        var_in, mean_in = torch.var_mean(map_BCHW.float(), dim=(2, 3), correction=0)
        square_in = var_in + mean_in.square()
        mean_ln = mean_in.mean(dim=1, keepdim=True)
        var_ln = square_in.mean(dim=1, keepdim=True) - mean_ln.square()
        if self.training:
            mean_bn = average(mean_in.mean(dim=0, keepdim=True))
            var_bn = average(square_in.mean(dim=0, keepdim=True)) - mean_bn.square()
            with torch.no_grad():
                self.running_mean.lerp_(mean_bn[0], self.momentum)
                self.running_var.lerp_(var_bn[0] * _unbiased(map_BCHW), self.momentum)
        else:
            mean_bn, var_bn = self.running_mean[None], self.running_var[None]
        mean_share, var_share = functional.softmax(self.mean_weight, 0), functional.softmax(self.var_weight, 0)
        mean = mean_share[0] * mean_in + mean_share[1] * mean_ln + mean_share[2] * mean_bn
        var = var_share[0] * var_in + var_share[1] * var_ln + var_share[2] * var_bn
        scale = self.weight * torch.rsqrt(var.clamp_min(0) + self.eps)
        return _scale_and_shift(map_BCHW, scale, self.bias - mean * scale)


class SharedBatchNorm2d(nn.SyncBatchNorm):
    """BatchNorm2d whose batch is that of all ranks: torch's on a GPU, and the same on a CPU, where torch has none."""

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if map_BCHW.is_cuda or not self.training:
            return super().forward(map_BCHW)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        var_C, mean_C = torch.var_mean(map_BCHW.float(), dim=(0, 2, 3), correction=0)
        square_C, mean_C = average(var_C + mean_C.square()), average(mean_C)
        var_C = square_C - mean_C.square()
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(var_C * _unbiased(map_BCHW), self.momentum)
        scale_C = self.weight * torch.rsqrt(var_C.clamp_min(0) + self.eps)
        return _scale_and_shift(map_BCHW, scale_C[None], (self.bias - mean_C * scale_C)[None])


def share_batch_norm(module: nn.Module) -> None:
    """Put a `SharedBatchNorm2d` with the same state in the place of every BatchNorm2d below `module`."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            shared = SharedBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            shared.load_state_dict(child.state_dict())
            setattr(module, name, shared)
        else:
            share_batch_norm(child)


def _unbiased(map_BCHW: Tensor) -> float:
    """Return n / (n - 1), n values of a channel in the batch of all ranks: it makes a variance unbiased, as torch's."""
    values = map_BCHW.numel() // map_BCHW.shape[1] * count()
    return values / max(values - 1, 1)
