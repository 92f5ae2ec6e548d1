"""Modules with learned gates that are no restitution: Batch-Instance Norm, and squeeze-and-excitation as a control."""

import torch
from torch import Tensor, nn

from reidgen.contracts import Look, Module
from reidgen.models.norms import batch_moments, gate_network, moments, scale_and_shift, spread, wide


class BatchInstanceNorm2d(Module):
    """Mix Batch Norm and Instance Norm, each with its own affine parameters, by a learned gate of each channel.

        out = g BN(x) + (1 - g) IN(x)    g in 0..1, 1 at the start, clamped after every step

    rate: the gate's learning rate is so many times the others', without weight decay [A: 20 on Market, 50 on Duke, 10
    with several sources]. BN starts from the weights of the norm that it replaces, IN from 1 and 0 [A].
    forward: float (B, C, H, W) -> the same shape and dtype; at test time BN's running averages count.
    Source: the layer of Choi et al. (MetaBIN), CVPR 2021, their "BIN_gate2" [A], without the meta part. Differences:
    the gate is trained by the recipe's optimizer (theirs: SGD without momentum); BNNeck stays as it is, as theirs does.
    """

    capturable = True
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, rate: float = 20.0, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels)
        if not (0 <= rate <= 1e6 and 0 < eps <= 1 and 0 <= momentum <= 1):
            raise ValueError(
                f"rate must be at least 0, eps lie above 0, momentum within 0..1; got {rate}, {eps}, {momentum}"
            )
        self.gate = nn.Parameter(torch.ones(channels))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.instance_weight = nn.Parameter(torch.ones(channels))
        self.instance_bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.rates, self.eps, self.momentum = {"gate": rate}, eps, momentum

    def after_step(self) -> None:
        """Clamp the gate to 0..1."""
        with torch.no_grad():
            self.gate.clamp_(0, 1)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        map_BCHW, mean_BC, variance_BC = moments(map_BCHW, self.channels)
        mean_C, variance_C = batch_moments(self, mean_BC, variance_BC, map_BCHW)
        batch_scale_C = self.gate * self.weight * torch.rsqrt(variance_C + self.eps)
        instance_scale_BC = (1 - self.gate) * self.instance_weight * torch.rsqrt(variance_BC + self.eps)
        bias_C = torch.lerp(self.instance_bias, self.bias, self.gate)
        shift_C = torch.addcmul(bias_C, batch_scale_C, mean_C, value=-1)
        shift_BC = torch.addcmul(shift_C, instance_scale_BC, mean_BC, value=-1)
        return scale_and_shift(map_BCHW, batch_scale_C + instance_scale_BC, shift_BC)


class SqueezeExcite(Module):
    """Multiply each channel by a gate of its spatial mean: a g(pool(x)), the gate of SNR without norm and without loss.

    What SNR can do directly before average pooling is such a gate on the pooled vector (and a shift), so this is the
    control for `snr-stage4` [C]. forward: float (B, C, H, W) -> the same shape and dtype.
    Source: Hu et al., CVPR 2018; the gate as in SNR [A]: C -> C / reduction -> C, hidden at least 4, sigmoid.
    """

    capturable = True
    keeps_signs = True

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__(channels)
        if reduction < 1:
            raise ValueError(f"reduction must be at least 1; got {reduction}")
        self.gate = gate_network(channels, reduction)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        gate_BC: Tensor = self.gate(wide(map_BCHW).mean(dim=(2, 3)))
        return map_BCHW * spread(gate_BC).to(map_BCHW.dtype)

    def look(self, map_BCHW: Tensor) -> Look:
        """Return F and a F, and the gate a."""
        return Look({"F": map_BCHW, "a F": self.forward(map_BCHW)}, {"a": self.gate(map_BCHW.mean(dim=(2, 3)))})
