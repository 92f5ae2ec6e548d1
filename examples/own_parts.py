"""A plug-in: a norm, a module, a loss, a backbone and a test step of one's own, beside SNR in a table (table.md).

    reidgen methods --plugin examples/own_parts.py
    reidgen bench --plugin examples/own_parts.py --methods baseline,snr,half-norm,style-noise,spread --seeds 1
    reidgen train --plugin examples/own_parts.py --method baseline --backbone narrow
    reidgen evaluate RUN --plugin examples/own_parts.py --target synth-night --test root,flip+root

A plug-in holds a list ROWS of methods, backbones and test steps, and the classes that they name. What each class must
be is said in reidgen/contracts.py: it is built with what it stands on, then with its parameters as keywords; what it
draws of chance it draws in `draw`. Parameters can be changed: --set style-noise.strength=0.5
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from reidgen.contracts import Backbone, Batch, Given, Loss, Module, Output, Step, TestStep
from reidgen.parts import BackboneRow, Method, Part
from reidgen.teststeps import StepRow


class HalfNorm(Module):
    """In the place of BatchNorm2d: a share of it, the rest Instance Norm without parameters."""

    capturable = True

    def __init__(self, channels: int, *, share: float = 0.5) -> None:
        super().__init__(channels)
        self.share, self.batch = share, nn.BatchNorm2d(channels)

    def take_over(self, norm: nn.BatchNorm2d) -> None:
        self.batch.load_state_dict(norm.state_dict())  # the weights that the backbone came with

    def forward(self, map_BCHW: Tensor) -> Tensor:
        mixed: Tensor = self.share * self.batch(map_BCHW) + (1 - self.share) * functional.instance_norm(map_BCHW)
        return mixed


class StyleNoise(Module):
    """In training, scale and shift each channel of each image at random: a style that is nobody's. At test time,
    nothing.

    strength: standard deviation of the factor and, in units of the channel's own deviation, of the shift.
    """

    capturable = True

    def __init__(self, channels: int, *, strength: float = 0.3) -> None:
        super().__init__(channels)
        self.strength = strength

    def draw(self, step: Step) -> tuple[Tensor, Tensor]:
        shape = (len(step.pid), self.channels, 1, 1)  # for all rows of the batch, then cut to this rank's
        noise = torch.randn((2, *shape), generator=step.generator("style-noise"))[:, step.own]
        return noise[0], noise[1]

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if not self.training:
            return map_BCHW
        factor, shift = self.drawn
        deviation = map_BCHW.detach().std(dim=(2, 3), keepdim=True)
        return map_BCHW * (1 + self.strength * factor) + self.strength * shift * deviation


class Spread(Loss):
    """Push the identities of a batch apart on the sphere: log of the mean of exp(-2 d^2) between their mean features.

    It keeps what it has seen: a running mean of every identity, which lies in the checkpoint.
    weight: of the loss. momentum: of the running means.
    """

    def __init__(self, given: Given, *, weight: float = 0.1, momentum: float = 0.5) -> None:
        super().__init__(given)
        self.weight, self.momentum = weight, momentum
        self.register_buffer("mean_KD", torch.zeros(given.classes, given.dim))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        feature_BD = functional.normalize(output.neck.float(), dim=1)
        memory_KD = self.get_buffer("mean_KD")
        mean_KD = memory_KD.clone()  # as it is: the memory moves on below, before the backward pass
        distance_BK = torch.cdist(feature_BD, mean_KD).square()
        own_BK = functional.one_hot(batch.pid, len(mean_KD)).bool()
        known_K = mean_KD.square().sum(dim=1) > 0
        apart = torch.exp(-2 * distance_BK).masked_fill(own_BK | ~known_K, 0)
        loss = torch.log(apart.sum() / (~own_BK & known_K).sum().clamp_min(1) + 1e-6)
        with torch.no_grad():
            memory_KD.index_copy_(0, batch.pid, self.momentum * mean_KD[batch.pid] + (1 - self.momentum) * feature_BD)
        return self.weight * loss


class Narrow(Backbone):
    """Five convolutions of growing width, each with norm and ReLU: stride 8. Small enough for any CPU."""

    capturable = True

    def __init__(self) -> None:
        widths = (3, 16, 32, 64, 96, 128)
        super().__init__(
            [
                nn.Sequential(
                    nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
                )
                for before, width, stride in zip(widths, widths[1:], (2, 1, 2, 2, 1), strict=False)
            ],
            widths[1:],
        )

    def put_before_relu(self, place: int, module: nn.Module) -> None:
        stage = self.stages[place]
        assert isinstance(stage, nn.Sequential)
        stage[2] = nn.Sequential(module, stage[2])


class Root(TestStep):
    """A power of every feature, its sign kept: a few large features decide less."""

    def __init__(self, *, power: float = 0.5) -> None:
        self.power = power

    def embeddings(self, embedding_ND: Tensor, camid_N: Tensor) -> Tensor:
        return functional.normalize(embedding_ND.sign() * embedding_ND.abs() ** self.power, dim=1)


NOISE = Part(name="style-noise", build=StyleNoise, source="this file", places=(1, 2))
ROWS = [
    Method(name="half-norm", title="Half norm", source="this file", norm=Part(name="half-norm", build=HalfNorm)),
    Method(name="style-noise", title="Style noise", source="this file", modules=[NOISE]),
    Method(name="spread", title="Spread", source="this file", losses=[Part(name="spread", build=Spread)]),
    BackboneRow(name="narrow", build=Narrow, source="this file"),
    StepRow(name="root", build=Root, source="this file", stage="embeddings"),
]
