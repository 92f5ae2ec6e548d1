"""What a universal perturbation minimizes: four ways to spoil a ranking, from one feature to the whole list. Pure.

Shapes: B perturbed images, D features, C centres that stand for the gallery; all rows L2-normalised. `near_B` and
`far_B` below are the centre nearest to the clean feature and the farthest. Each loss is a mean over the images.
Source: Li et al., Universal Perturbation Attack Against Image Retrieval, ICCV 2019; the authors' public code [A]
(theFool32/UAP_retrieval@0dfb011:attack/attack.py).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SCALE, MARGIN = 10.0, 0.8  # of the pair-wise loss [A]
PAIRS_AT_ONCE = 1 << 24  # bounds the memory of `lambda_gradient`


def point_loss(feature_BD: Tensor, clean_BD: Tensor, centre_CD: Tensor) -> Tensor:
    """Return the cosine between the perturbed and the clean feature: the point-wise baseline [A] (there in 0..1)."""
    return (feature_BD * clean_BD).sum(1).mean()


def label_loss(feature_BD: Tensor, clean_BD: Tensor, centre_CD: Tensor) -> Tensor:
    """Return how much nearer the clean feature's centre is than the nearest other one, or 0: the label-wise baseline.

    Difference from [A]: classes are told by the cosine to the centres, there by a classifier trained on the clusters.
    """
    near_B1 = (clean_BD @ centre_CD.T).argmax(1, keepdim=True)
    cosine_BC = feature_BD @ centre_CD.T
    others_BC = cosine_BC.scatter(1, near_B1, -torch.inf)
    return functional.relu(cosine_BC.gather(1, near_B1).squeeze(1) - others_BC.amax(1)).mean()


def pair_loss(feature_BD: Tensor, clean_BD: Tensor, centre_CD: Tensor) -> Tensor:
    """Return max(0, d(f, far) - d(f, near) + 0.8), Euclidean on features ten times as long: the pair-wise loss [A]."""
    cosine_BC = clean_BD @ centre_CD.T
    near_BD, far_BD = centre_CD[cosine_BC.argmax(1)], centre_CD[cosine_BC.argmin(1)]
    return functional.triplet_margin_loss(SCALE * feature_BD, SCALE * far_BD, SCALE * near_BD, margin=MARGIN)


def list_loss(feature_BD: Tensor, clean_BD: Tensor, centre_CD: Tensor) -> Tensor:
    """Return a value whose gradient is LambdaRank's, the target being the clean ranking of all centres, reversed.

    The value itself means nothing. Cost: O(B C^2).
    """
    place_BC = (clean_BD @ centre_CD.T).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    score_BC = feature_BD @ centre_CD.T
    return (score_BC * lambda_gradient(score_BC.detach(), place_BC)).sum(1).mean()


def lambda_gradient(score_BC: Tensor, place_BC: Tensor) -> Tensor:
    """Return LambdaRank's gradient with respect to the scores, (B, C), for lists whose best document has the last
    place.

    place_BC: the clean rank of each document, counted from 0; its gain is place / (C - 1). For every pair (i, j) with
    place i < place j, where j should stand first, w = |change of NDCG if they swapped| * sigmoid(s_i - s_j) is added to
    i and taken from j, so that descent lowers s_i and lifts s_j. NDCG's discounts are 1 / log2(1 + rank) by the scores
    as they are; equal scores keep their order.
    Source: Burges, From RankNet to LambdaRank to LambdaMART, MSR-TR-2010-82. Differences from [A]: there all gains are
    1 and each pair counts in both orders, so that places do not matter (the paper's Eq. 7 has the order, as its
    authors say); and the first factor of w is |log2(1 + rank i) - log2(1 + rank j)| / ideal DCG there, here the change
    of NDCG itself, a difference of 1 / log2.
    """
    rows = max(1, PAIRS_AT_ONCE // score_BC.shape[1] ** 2)
    starts = range(0, len(score_BC), rows)
    return torch.cat([_lambda_gradient(score_BC[n : n + rows], place_BC[n : n + rows]) for n in starts])


def _lambda_gradient(score_BC: Tensor, place_BC: Tensor) -> Tensor:
    documents = score_BC.shape[1]
    discount_C = 1 / torch.arange(2, documents + 2, device=score_BC.device, dtype=score_BC.dtype).log2()
    discount_BC = discount_C[score_BC.argsort(dim=1, descending=True, stable=True).argsort(dim=1)]
    gain_BC = place_BC.to(score_BC.dtype) / max(1, documents - 1)
    ideal_B = gain_BC.sort(1, descending=True).values @ discount_C

    def differences(x_BC: Tensor) -> Tensor:
        return x_BC[:, :, None] - x_BC[:, None, :]

    below_BCC = -differences(gain_BC).sign()  # 1 where the row's document should stand below the column's
    change_BCC = (differences(gain_BC) * differences(discount_BC)).abs()
    wrong_BCC = torch.sigmoid(below_BCC * differences(score_BC))
    return (below_BCC * change_BCC * wrong_BCC).sum(2) / ideal_B[:, None]


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "point": point_loss,
    "label": label_loss,
    "pair": pair_loss,
    "list": list_loss,
}
