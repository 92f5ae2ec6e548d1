"""Losses that every method shares, and the dual causality loss of SNR. Pure; computed in float32.

Shapes: B images of a batch, D features; every batch has two identities or more and two images or more of each.
"""

import torch
from torch import Tensor
from torch.nn import functional

from reidgen.models.norms import Pooled

COSINE = {"cosine": 0.25, "cosine-b": 0.5}  # the factor of a squared difference of unit vectors
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


def triplet_loss(feature_BD: Tensor, pid_B: Tensor) -> Tensor:
    """Return the soft-margin batch-hard triplet loss, mean of Softplus(d(a, p) - d(a, n)), a scalar.

    p: the anchor's farthest positive, n: its nearest negative; Euclidean distance.
    Source: Hermans et al., arXiv 1703.07737, Eq. 5 with the soft margin; used by the authors [A].
    """
    positive_B, negative_B = hardest(all_distances(feature_BD), pid_B)
    return functional.softplus(positive_B - negative_B).mean()


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
    more of each, as in every P x K batch: otherwise there is no triplet and the value means nothing (NaN with one identity).
    triplets: indices from `draw_triplets`, the same in all three sets [B]; None mines the hardest in each set [A].
    plus, minus: which of the two terms count, one at least. distance: see `pair_distance`.
    Since pool(F~) is IN's bias, the same for every image, d(f~_a, f~_p) = d(f~_a, f~_n) = 0: the four comparisons are
    with a constant, in every source of the method. The equations are computed as written all the same.
    Source: Jin et al., CVPR 2020 [S]; distances and mining as tagged above.
    Raises ValueError when there is not one identity per image.
    """
    if len(pid_B) != len(pooled.restored):
        raise ValueError(f"pid_B needs one identity per image: got {len(pid_B)} for {len(pooled.restored)} images")

    sets = [pooled.normalized, *[pooled.restored] * plus, *[pooled.contaminated] * minus]
    if triplets is None:
        near, far = zip(*(hardest(all_distances(x_BC, distance), pid_B) for x_BC in sets), strict=True)
    else:  # all sets at once: few kernels
        x_SBC = _comparable(torch.stack(sets), distance)
        near, far = (_between(x_SBC, x_SBC.index_select(1, other_B), distance).unbind() for other_B in triplets)
    terms = []
    if plus:
        terms += [near[1] - near[0], far[0] - far[1]]
    if minus:
        terms += [near[0] - near[-1], far[-1] - far[0]]
    return functional.softplus(torch.stack(terms)).mean(1).sum()
