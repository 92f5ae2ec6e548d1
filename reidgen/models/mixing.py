"""Modules that mix styles in training and do nothing at test time: MixStyle, EFDMix and DSU.

Shapes: n images of this rank out of the N of the batch, C channels, H x W positions. A style is the spatial mean and
deviation of a channel; deviations are of the unbiased variance plus eps [A]. What a layer leaves alone in a step, it
multiplies by exactly 1: the host never waits to learn what the coin says.
"""

import numpy as np
import torch
from torch import Tensor

from reidgen import parallel
from reidgen.contracts import Module, Step
from reidgen.errors import RecipeError, unknown
from reidgen.models.norms import moments, scale_and_shift

EPS = 1e-6  # beside the variance, inside the root [A]
PARTNERS = ("random", "camera")


def style(map_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the map to go on with, and mean and deviation of each image and channel, float32 (B, C), with gradients.

    Raises ValueError for maps of one position, which have no deviation.
    """
    positions = map_BCHW.shape[2] * map_BCHW.shape[3]
    if positions < 2:
        raise ValueError(f"maps of one position have no style; got {tuple(map_BCHW.shape)}")
    biased = (positions - 1) / positions
    map_BCHW, mean_BC, variance_BC = moments(map_BCHW, map_BCHW.shape[1])
    return map_BCHW, mean_BC, (variance_BC / biased + EPS).sqrt()


class _Mixing(Module):
    """What MixStyle and EFDMix share: with a probability, a partner and a weight for every image of the batch.

    probability: of mixing at all, one coin for the layer and step [A]. alpha: the weight of an image's own style is
    drawn from Beta(alpha, alpha), per image [A]. partner: "random", the images of the batch in another order [A];
    "camera", any image of another camera, or the image itself where there is none.
    Difference: the authors' version with domain labels fills a batch with two cameras and exchanges its halves; here
    the batches stay those of every row.
    """

    capturable = True

    def __init__(self, channels: int, *, probability: float = 0.5, alpha: float = 0.1, partner: str = "random") -> None:
        super().__init__(channels)
        if not 0 <= probability <= 1 or not 0 < alpha <= 1e6:
            raise RecipeError(f"probability must lie within 0..1 and alpha above 0; got {probability} and {alpha}")
        if partner not in PARTNERS:
            raise RecipeError(unknown("partner", partner, PARTNERS))
        self.probability, self.alpha, self.partner = probability, alpha, partner
        self.views = 1

    def draw(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return each own image's weight of its own style, float32 (n,), and its partner's row in the batch, int64."""
        chance = np.random.Generator(np.random.PCG64(step.generator("mixing").initial_seed()))
        rows = len(step.pid)
        self.views = int(step.view.max()) + 1
        mixes = chance.random() < self.probability
        weight = chance.beta(self.alpha, self.alpha, rows) if mixes else np.ones(rows)
        if self.partner == "random":
            partner = chance.permutation(rows)
        else:
            apart = step.camid[:, None].numpy() != step.camid.numpy()
            partner = np.where(apart.any(1), np.argmax(chance.random((rows, rows)) * apart, axis=1), np.arange(rows))
        return torch.from_numpy(weight).float()[step.own], torch.from_numpy(partner)[step.own]


class MixStyle(_Mixing):
    """Give each image, in training, a style between its own and a partner's: at test time, and without the coin, x.

        x^ = (x - mu) / sigma    out = x^ (l sigma + (1 - l) sigma') + l mu + (1 - l) mu'    l ~ Beta(alpha, alpha)

    No gradient flows through the styles. forward: float (n, C, H, W) -> the same shape and dtype.
    Source: Zhou et al., ICLR 2021, and the authors' code [A]. Parameters and differences: see `_Mixing`; under torchrun
    partners are found in the whole batch.
    """

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if not self.training:
            return map_BCHW
        weight, partner = self.drawn
        with torch.no_grad():
            _, mean_BC, deviation_BC = style(map_BCHW)
            means_NC, deviations_NC = (parallel.gather(part, self.views) for part in (mean_BC, deviation_BC))
            share = 1 - weight.to(mean_BC)[:, None]
            factor_BC = (deviation_BC + share * (deviations_NC[partner] - deviation_BC)) / deviation_BC
            shift_BC = mean_BC + share * (means_NC[partner] - mean_BC) - mean_BC * factor_BC
        return scale_and_shift(map_BCHW, factor_BC, shift_BC)


class EFDMix(_Mixing):
    """Mix the whole distribution of each channel: the k-th smallest value moves to the partner's k-th smallest.

        out = x + (1 - l) (x'_(k) - x_(k))    l ~ Beta(alpha, alpha); the gradient of x is 1

    forward: float (n, C, H, W) -> the same shape and dtype. The dearest of its kind: a sort of every channel of every
    image; under torchrun the sorted maps of all ranks are gathered.
    Source: Zhang et al., CVPR 2022, and the authors' code [A]. Parameters and differences: see `_Mixing`.
    """

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if not self.training:
            return map_BCHW
        weight, partner = self.drawn
        with torch.no_grad():
            values_BCP, order_BCP = map_BCHW.detach().flatten(2).sort(dim=2)
            all_NCP = parallel.gather(values_BCP, self.views)
            share = (1 - weight).to(map_BCHW.dtype)[:, None, None]
            moved_BCP = torch.zeros_like(values_BCP).scatter_(2, order_BCP, share * (all_NCP[partner] - values_BCP))
        return map_BCHW + moved_BCP.view(map_BCHW.shape)


class DSU(Module):
    """Draw each image's style, in training, from a normal distribution around its own: at test time, x.

        out = (x - mu) / sigma (sigma + e1 S_sigma) + mu + e2 S_mu    e1, e2 ~ N(0, factor^2) per image and channel

    S: the deviation of mu, and of sigma, over the batch (of all ranks), per channel; with gradients, as are mu and
    sigma. probability: one coin for the layer and step. forward: float (n, C, H, W) -> the same shape and dtype.
    Source: Li et al., ICLR 2022, and the authors' code [A]. Difference: the row has one layer behind the stem, where
    the authors have one before its norm and one behind its pool.
    """

    capturable = True

    def __init__(self, channels: int, *, probability: float = 0.5, factor: float = 1.0) -> None:
        super().__init__(channels)
        if not 0 <= probability <= 1 or not 0 <= factor <= 1e6:
            raise RecipeError(f"probability must lie within 0..1, factor be at least 0; got {probability} and {factor}")
        self.probability, self.factor = probability, factor

    def draw(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return e1 and e2 of this rank's images, float32 (n, C) each; zeros where the coin says no."""
        chance = step.generator("uncertainty")
        mixes = float(torch.rand((), generator=chance)) < self.probability
        noise = torch.randn((2, len(step.pid), self.channels), generator=chance)[:, step.own]
        one, two = noise * (self.factor * mixes)
        return one, two

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if not self.training:
            return map_BCHW
        of_deviation, of_mean = self.drawn
        map_BCHW, mean_BC, deviation_BC = style(map_BCHW)
        mixed_BC = deviation_BC + of_deviation * _over_batch(deviation_BC)
        factor_BC = mixed_BC / deviation_BC
        shift_BC = mean_BC + of_mean * _over_batch(mean_BC) - mean_BC * factor_BC
        return scale_and_shift(map_BCHW, factor_BC, shift_BC)


def _over_batch(values_BC: Tensor) -> Tensor:
    """Return the deviation of a style's number over the batch of all ranks, (C,). A batch has two images or more."""
    rows = len(values_BC) * parallel.count()
    mean_C = parallel.average(values_BC.mean(0))
    biased_C = parallel.average((values_BC - mean_C).square().mean(0))
    return (biased_C * (rows / max(rows - 1, 1)) + EPS).sqrt()
