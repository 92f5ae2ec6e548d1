"""The shipped losses: those that every method shares, and the dual causality loss of SNR. Computed in float32.

Shapes: B images of a batch, D features; every batch has two identities or more and two images or more of each.
"""

import torch
from torch import Tensor
from torch.nn import functional

from reidgen.contracts import Batch, Given, Loss, Output, Step
from reidgen.errors import RecipeError, unknown
from reidgen.models.norms import Pooled

COSINE = {"cosine": 0.25, "cosine-b": 0.5}  # the factor of a squared difference of unit vectors
DISTANCES = (*COSINE, "euclidean")
Triplets = tuple[Tensor, Tensor]  # int64 (B,), (B,): the positive and the negative of each anchor


def pair_distance(a_BD: Tensor, b_BD: Tensor, kind: str) -> Tensor:
    """Return the distance of each row of `a_BD` to the same row of `b_BD`, float32 (B,); broadcasts.

    kind: "euclidean" [A]; "cosine": 0.5 - cos / 2, in 0..1 [D]; "cosine-b": 1 - cos, in 0..2, which is the
    re-implementation's 0.5 - cos [B] but for a constant that every comparison cancels.
    Cosine distances are a squared difference of unit vectors (a zero vector stays zero): a vector's distance to itself
    is exactly 0, for the zero vector too, where the usual quotient is rounding noise. Distances have a zero gradient
    there, never NaN.

    >>> pair_distance(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, -3.0]]), "cosine")
    tensor([0.5000])
    """
    return _between(_comparable(a_BD, kind), _comparable(b_BD, kind), kind)


def _comparable(x_BD: Tensor, kind: str) -> Tensor:
    return x_BD if kind == "euclidean" else functional.normalize(x_BD, dim=-1)


def _between(a_BD: Tensor, b_BD: Tensor, kind: str) -> Tensor:
    square_B = (a_BD - b_BD).square().sum(-1)
    return square_B.clamp_min(1e-12).sqrt() if kind == "euclidean" else square_B * COSINE[kind]


def all_distances(x_BD: Tensor, kind: str = "euclidean") -> Tensor:
    """Return the distances between all rows, float32 (B, B)."""
    x_BD = _comparable(x_BD, kind)
    return _between(x_BD[:, None], x_BD[None], kind)


def hardest(distance_BB: Tensor, pid_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return, per anchor, the distance of its farthest positive and of its nearest negative, each (B,).

    The anchor itself is no positive unless it is the only image of its identity.
    """
    same_BB = pid_B[:, None] == pid_B[None]
    positive_B = distance_BB.masked_fill(~same_BB, -torch.inf).amax(1)
    negative_B = distance_BB.masked_fill(same_BB, torch.inf).amin(1)
    return positive_B, negative_B


def triplet_loss(feature_BD: Tensor, pid_B: Tensor, *, margin: float = 0.0) -> Tensor:
    """Return the batch-hard triplet loss, a scalar: the mean of max(0, margin + d(a, p) - d(a, n)).

    p: the anchor's farthest positive, n: its nearest negative; Euclidean distance. margin: 0 stands for the soft
    margin, Softplus(d(a, p) - d(a, n)), which the authors of SNR use [A].
    Source: Hermans et al., arXiv 1703.07737, Eq. 5.
    """
    positive_B, negative_B = hardest(all_distances(feature_BD), pid_B)
    difference_B = positive_B - negative_B
    return (functional.relu(difference_B + margin) if margin else functional.softplus(difference_B)).mean()


def circle_loss(feature_BD: Tensor, pid_B: Tensor, *, margin: float = 0.25, gamma: float = 128.0) -> Tensor:
    """Return the pairwise circle loss, the mean over anchors of

        Softplus(logsumexp_p(-gamma a_p (s_p - 1 + margin)) + logsumexp_n(gamma a_n (s_n - margin)))

    s_p, s_n: cosines of an anchor and its other images, and images of others; a_p = max(0, 1 + margin - s_p) and
    a_n = max(0, s_n + margin), both without gradient. Every identity needs two images, and there must be two.
    Source: Sun et al., CVPR 2020, as fast-reid has it [A].
    """
    unit_BD = functional.normalize(feature_BD, dim=1)
    cosine_BB = unit_BD @ unit_BD.T
    same_BB = pid_B[:, None] == pid_B
    own_BB = torch.eye(len(pid_B), dtype=torch.bool, device=pid_B.device)
    near_BB = (1 + margin - cosine_BB.detach()).clamp_min(0)
    far_BB = (cosine_BB.detach() + margin).clamp_min(0)
    positive_BB = (-gamma * near_BB * (cosine_BB - 1 + margin)).masked_fill(~same_BB | own_BB, -torch.inf)
    negative_BB = (gamma * far_BB * (cosine_BB - margin)).masked_fill(same_BB, -torch.inf)
    return functional.softplus(positive_BB.logsumexp(1) + negative_BB.logsumexp(1)).mean()


def draw_triplets(pid_B: Tensor, generator: torch.Generator) -> Triplets:
    """Return, for each anchor, the index of a random other image of its identity and of a random other identity.

    pid_B: int (B,) on the generator's device. An anchor whose identity has no other image is its own positive.
    """
    same_BB = pid_B[:, None] == pid_B[None]
    chance_BB = torch.rand(same_BB.shape, generator=generator, device=pid_B.device)
    others_BB = same_BB & ~torch.eye(len(pid_B), dtype=torch.bool, device=pid_B.device)
    lonely_B = ~others_BB.any(1, keepdim=True)
    positive_B = chance_BB.masked_fill(~(others_BB | (same_BB & lonely_B)), -1).argmax(1)
    return positive_B, chance_BB.masked_fill(same_BB, -1).argmax(1)


def dual_causality_loss(
    pooled: Pooled,
    pid_B: Tensor,
    *,
    distance: str = "cosine",
    triplets: Triplets | None = None,
    plus: bool = True,
    minus: bool = True,
) -> Tensor:
    """Return L_SNR = L+ + L- of one SNR module, a scalar: the mean over anchors a with positive p and negative n of

        L+ = Softplus(d(f~+_a, f~+_p) - d(f~_a, f~_p)) + Softplus(d(f~_a, f~_n) - d(f~+_a, f~+_n))    clarification
        L- = Softplus(d(f~_a, f~_p) - d(f~-_a, f~-_p)) + Softplus(d(f~-_a, f~-_n) - d(f~_a, f~_n))    destruction

    pooled: float32 (B, C) each, as `SNR.pooled` holds them. pid_B: int (B,); two identities or more, and two images or
    more of each, as in every P x K batch: otherwise there is no triplet and the value means nothing (NaN with one
    identity).
    triplets: indices from `draw_triplets`, the same in all three sets [B]; None mines the hardest in each set [A].
    plus, minus: which of the two terms count, one at least. distance: see `pair_distance`.
    Since pool(F~) is IN's bias, the same for every image, d(f~_a, f~_p) = d(f~_a, f~_n) = 0: the four comparisons are
    with a constant, in every source of the method. The equations are computed as written all the same.
    Source: Jin et al., CVPR 2020 [S]; distances and mining as tagged above.
    Raises ValueError when there is not one identity per image.
    """
    if len(pid_B) != len(pooled.restored):
        raise ValueError(f"pid_B needs one identity per image: got {len(pid_B)} for {len(pooled.restored)} images")

    sets = [pooled.normalized]
    if plus:
        sets.append(pooled.restored)
    if minus:
        sets.append(pooled.contaminated)
    if triplets is None:
        near, far = zip(*(hardest(all_distances(x_BC, distance), pid_B) for x_BC in sets), strict=True)
    else:  # all sets at once: few kernels
        x_SBC = _comparable(torch.stack(sets), distance)
        near, far = (_between(x_SBC, x_SBC.index_select(1, other_B), distance).unbind() for other_B in triplets)
    terms = []
    if plus:
        terms += [near[1] - near[0], far[0] - far[1]]
    if minus:
        contaminated = len(sets) - 1
        terms += [near[0] - near[contaminated], far[contaminated] - far[0]]
    return functional.softplus(torch.stack(terms)).mean(1).sum()


def first_view(rows: Tensor, batch: Batch) -> Tensor:
    """Return the rows of the batch's first view: all of them where there is no other."""
    return rows if len(rows) == batch.images else rows[: batch.images]


class CrossEntropy(Loss):
    """Cross entropy of the identities, of the first view's images; smoothing: label smoothing, 0..1 [A]."""

    capturable = True

    def __init__(self, given: Given, *, smoothing: float = 0.1) -> None:
        super().__init__(given)
        self.smoothing = smoothing

    def forward(self, output: Output, batch: Batch) -> Tensor:
        logits, pid = first_view(output.logits, batch), first_view(batch.pid, batch)
        return functional.cross_entropy(logits.float(), pid, label_smoothing=self.smoothing)


class Triplet(Loss):
    """`triplet_loss` of the features before the neck, of the first view's images."""

    capturable = True

    def __init__(self, given: Given, *, margin: float = 0.0) -> None:
        super().__init__(given)
        self.margin = margin

    def forward(self, output: Output, batch: Batch) -> Tensor:
        return triplet_loss(first_view(output.feature, batch), first_view(batch.pid, batch), margin=self.margin)


class Circle(Loss):
    """`circle_loss` of the features before the neck, of the first view's images."""

    capturable = True

    def __init__(self, given: Given, *, margin: float = 0.25, gamma: float = 128.0) -> None:
        super().__init__(given)
        self.margin, self.gamma = margin, gamma

    def forward(self, output: Output, batch: Batch) -> Tensor:
        feature, pid = first_view(output.feature, batch), first_view(batch.pid, batch)
        return circle_loss(feature, pid, margin=self.margin, gamma=self.gamma)


class DualCausality(Loss):
    """Sum of `dual_causality_loss` over the places of SNR modules, each times its weight; of the first view's images.

    weights: lambda of each place in order, or one number for all. triplets: "random" or "hard"; distance: see
    `pair_distance`. Raises RecipeError when the weights do not match the places, a word is unknown, or neither of L+
    and L- counts.
    """

    capturable = True
    reads = "pooled"

    def __init__(
        self,
        given: Given,
        *,
        plus: bool = True,
        minus: bool = True,
        distance: str = "cosine",
        triplets: str = "random",
        weights: tuple[float, ...] = (1.0,),
    ) -> None:
        super().__init__(given)
        if distance not in DISTANCES:
            raise RecipeError(unknown("snr.distance", distance, DISTANCES))
        if triplets not in ("random", "hard"):
            raise RecipeError(unknown("snr.triplets", triplets, ("random", "hard")))
        if not plus and not minus:
            raise RecipeError("snr.plus and snr.minus are both off; one of the two terms must count")
        if len(weights) == 1:
            weights = weights * len(given.places)
        if len(weights) != len(given.places):
            raise RecipeError(
                f"snr.weights needs one number, or one for each of the places {', '.join(map(str, given.places))}; "
                f"got {len(weights)}"
            )
        if not all(0 <= weight <= 1e6 for weight in weights):
            raise RecipeError(f"snr.weights must lie within 0 to 1,000,000; got {weights}")
        self.plus, self.minus, self.distance, self.mined = plus, minus, distance, triplets == "hard"
        self.weights = dict(zip(given.places, weights, strict=True))

    def draw(self, step: Step) -> Triplets | tuple[()]:
        first = step.view == 0
        return () if self.mined else draw_triplets(step.pid[first], step.generator("triplets"))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        total = output.feature.new_zeros(())
        for place, pooled in output.offered[self.reads].items():
            total = total + self.weights[place] * dual_causality_loss(
                Pooled(*(first_view(part, batch) for part in pooled)),
                first_view(batch.pid, batch),
                distance=self.distance,
                triplets=None if self.mined else (self.drawn[0], self.drawn[1]),
                plus=self.plus,
                minus=self.minus,
            )
        return total
