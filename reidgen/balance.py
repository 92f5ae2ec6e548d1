"""The losses of BAU: alignment of two views, uniformity, and uniformity within each source.

Shapes: B images, two views of each: rows 0..B-1 are the first view, B..2B-1 the second; D features, K identities.
f: the neck's output, L2-normalised. Source of all: Cho et al., "Generalizable Person Re-identification via Balancing
Alignment and Uniformity", NeurIPS 2024, and the authors' code [A]. Their published models are the best of three epochs
by the mAP on the target; here, as for every row, the last epoch counts. They train with GeM, a hinge of 0.3 and batches
of 256 (recipe `modern`); the recipes `paper` and `quick` have other pooling and triplets, and smaller batches, of which
the nearest prototypes are as many as the batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from reidgen.contracts import Batch, Given, Loss, Output, Step
from reidgen.errors import RecipeError
from reidgen.losses import first_view

SHARPNESS = 2.0  # of exp(-2 d^2) [A]


def _views(output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return f of the first and of the second view, float32 or wider, (B, D) each."""
    wide = torch.promote_types(output.neck.dtype, torch.float32)
    unit = functional.normalize(output.neck.to(wide), dim=1)
    return unit[: batch.images], unit[batch.images : 2 * batch.images]


def square_distances(a_AD: Tensor, b_BD: Tensor) -> Tensor:
    """Return the squared Euclidean distances of unit vectors, (A, B)."""
    return 2 - 2 * a_AD @ b_BD.T


class _TwoViews(Loss):
    """A loss of two views, times its weight."""

    capturable = True

    def __init__(self, given: Given, *, weight: float) -> None:
        super().__init__(given)
        if not 0 <= weight <= 1e6:
            raise RecipeError(f"the weight of a loss must lie within 0..1,000,000; got {weight}")
        self.weight = weight

    def check(self, batch: Batch) -> None:
        """Raise RecipeError where the batch has one view."""
        if len(batch.pid) < 2 * batch.images:
            raise RecipeError(f"{type(self).__name__} compares two views; give the row views=2")


class Alignment(_TwoViews):
    """Pull an image's second view to the first views of its identity, each pair by how far their neighbours agree.

        sum_ij w_ij |f_i'' - f_j'|^2 / sum_ij w_ij    over pairs of one identity, i of the second view, j of the first

    w_ij (no gradient): the Jaccard overlap of the reciprocal neighbours of i and j among all 2B rows; neighbours of a
    row are its `neighbours` nearest, itself included; reciprocal, where each is among the other's. 0 without any pair.
    """

    def __init__(self, given: Given, *, weight: float = 1.5, neighbours: int = 10) -> None:
        super().__init__(given, weight=weight)
        if neighbours < 1:
            raise RecipeError(f"neighbours must be at least 1; got {neighbours}")
        self.neighbours = neighbours

    def forward(self, output: Output, batch: Batch) -> Tensor:
        self.check(batch)
        first, second = _views(output, batch)
        pid = first_view(batch.pid, batch)
        overlap = self.overlap(torch.cat([first, second]).detach())
        weight = overlap[batch.images :, : batch.images] * (pid[:, None] == pid)
        return self.weight * (weight * square_distances(second, first)).sum() / weight.sum().clamp_min(1e-6)

    def overlap(self, unit_ND: Tensor) -> Tensor:
        """Return the Jaccard overlap of the reciprocal neighbours of all pairs of rows, (N, N)."""
        nearest = (unit_ND @ unit_ND.T).topk(min(self.neighbours, len(unit_ND)), dim=1).indices
        near = torch.zeros(len(unit_ND), len(unit_ND), dtype=unit_ND.dtype, device=unit_ND.device)
        near.scatter_(1, nearest, 1)
        mutual = near * near.T
        both = mutual @ mutual.T
        size = mutual.sum(1)
        return both / (size[:, None] + size - both + 1e-6)


class Uniformity(_TwoViews):
    """Spread the features: log of the mean over all pairs of exp(-2 |f_i - f_j|^2), the mean of both views."""

    def __init__(self, given: Given, *, weight: float = 1.0) -> None:
        super().__init__(given, weight=weight)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        self.check(batch)
        spread = [(-SHARPNESS * torch.pdist(view).square()).exp().mean().log() for view in _views(output, batch)]
        return self.weight * (spread[0] + spread[1]) / 2


class DomainUniformity(_TwoViews):
    """Push each feature from the prototypes of its own source that are near: one prototype for each identity.

        log mean exp(-2 |f_i - c|^2)    over the B nearest prototypes of the image's source but the very nearest (taken
        to be its own); of all B images at once, mean of both views

    A prototype starts as the normalised mean of the untrained network's embeddings of the identity, and follows each
    image of the first view, in order: c <- normalise(momentum c + (1 - momentum) f). Prototypes lie in the checkpoint.
    Where the source has fewer than B others, prototypes of other sources count in their place as infinitely far (0), as
    many as there are; of a single source the mean is then over all others.
    """

    prototype_KD: Tensor
    domain_K: Tensor

    def __init__(self, given: Given, *, weight: float = 1.0, momentum: float = 0.1) -> None:
        super().__init__(given, weight=weight)
        if not 0 <= momentum < 1:
            raise RecipeError(f"momentum must lie within 0..1, below 1; got {momentum}")
        self.momentum = momentum
        self.register_buffer("prototype_KD", torch.zeros(given.classes, given.dim))
        self.register_buffer("domain_K", torch.zeros(given.classes, dtype=torch.int64))

    def draw(self, step: Step) -> tuple[Tensor]:
        """Return the turns of the batch's images, see `turns`."""
        return (turns(step.pid[step.view == 0]),)

    def begin(self, embed: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> None:
        """Set each prototype to the mean of its identity's embeddings."""
        embedding_ND, pid_N, domain_N = embed()
        self.domain_K[pid_N] = domain_N
        self.prototype_KD.zero_().index_add_(0, pid_N, embedding_ND.to(self.prototype_KD))
        self.prototype_KD.copy_(functional.normalize(self.prototype_KD, dim=1))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        self.check(batch)
        first, second = _views(output, batch)
        pid, domain = first_view(batch.pid, batch), first_view(batch.domain, batch)
        prototypes = self.prototype_KD.clone()  # as they are: they move on below, before the backward pass
        apart = [self._apart(view, prototypes.to(view), domain) for view in (first, second)]
        self._follow(first.detach(), pid, self.drawn[0] if self.drawn else turns(pid))
        return self.weight * (apart[0] + apart[1]) / 2

    def _apart(self, unit_BD: Tensor, prototype_KD: Tensor, domain_B: Tensor) -> Tensor:
        distance_BK = square_distances(unit_BD, prototype_KD)
        foreign_BK = domain_B[:, None] != self.domain_K
        near = distance_BK.masked_fill(foreign_BK, torch.inf).sort(dim=1).values[:, 1 : len(unit_BD) + 1]
        return torch.exp(-SHARPNESS * near).mean().clamp_min(1e-12).log()

    @torch.no_grad()
    def _follow(self, unit_BD: Tensor, pid_B: Tensor, rows_TR: Tensor) -> None:
        """Move prototypes to the images, one image of an identity after the other, as the authors do."""
        for rows in rows_TR.unbind():
            unit = unit_BD[rows].to(self.prototype_KD)
            moved = self.momentum * self.prototype_KD[pid_B[rows]] + (1 - self.momentum) * unit
            self.prototype_KD[pid_B[rows]] = functional.normalize(moved, dim=1)


def turns(pid_B: Tensor) -> Tensor:
    """Return which rows come first, second, ... among those of their identity, int64 (T, R): one line for each turn.

    A turn with fewer rows than the widest repeats its last. Of P x K batches T is K and R is P: a shape that stays.

    >>> turns(torch.tensor([4, 4, 2, 4, 2])).tolist()
    [[2, 0], [4, 1], [3, 3]]
    """
    order = torch.argsort(pid_B, stable=True)
    _, counts = torch.unique_consecutive(pid_B[order], return_counts=True)
    start = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    turn = torch.arange(len(pid_B), device=pid_B.device) - start
    lines = [order[turn == number] for number in range(int(counts.max()))]
    return torch.stack([torch.cat([rows, rows[-1:].expand(len(counts) - len(rows))]) for rows in lines])
