"""The losses against triplets enumerated by hand."""

import math

import pytest
import torch
from torch import Tensor

from reidgen.losses import (
    all_distances,
    circle_loss,
    draw_triplets,
    dual_causality_loss,
    hardest,
    pair_distance,
    triplet_loss,
)
from reidgen.models.norms import Pooled

PID = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def distance(a: list[float], b: list[float], kind: str) -> float:
    if kind == "euclidean":
        return math.dist(a, b)
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    return (0.5 - cosine / 2) * (2 if kind == "cosine-b" else 1)


def enumerate_hardest(features: list[list[float]], pids: list[int], kind: str) -> list[tuple[float, float]]:
    found = []
    for a, anchor in enumerate(features):
        positives = [distance(anchor, x, kind) for p, x in enumerate(features) if pids[p] == pids[a] and p != a]
        negatives = [distance(anchor, x, kind) for n, x in enumerate(features) if pids[n] != pids[a]]
        found.append((max(positives), min(negatives)))
    return found


def test_triplet_loss_equals_the_enumerated_one() -> None:
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    pairs = enumerate_hardest(features.tolist(), PID.tolist(), "euclidean")
    expected = sum(softplus(positive - negative) for positive, negative in pairs) / len(pairs)
    assert triplet_loss(features, PID).item() == pytest.approx(expected, rel=1e-5)


def test_a_margin_makes_the_hinge() -> None:
    features, pids = torch.tensor([[0.0, 0], [3, 4], [1, 0], [6, 8]]), torch.tensor([0, 0, 1, 1])
    pairs = enumerate_hardest(features.tolist(), pids.tolist(), "euclidean")
    expected = sum(max(0.0, 0.3 + near - far) for near, far in pairs) / 4
    assert float(triplet_loss(features, pids, margin=0.3)) == pytest.approx(expected, rel=1e-5)


def test_circle_loss_equals_the_enumerated_one() -> None:
    torch.manual_seed(0)
    features, pids = torch.randn(6, 3, dtype=torch.float64), [0, 0, 1, 1, 1, 2]
    pids[5] = 0
    unit = [[x / math.hypot(*row) for x in row] for row in features.tolist()]
    total = 0.0
    for i in range(6):
        cosine = [sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) for j in range(6)]
        near = [s for j, s in enumerate(cosine) if pids[j] == pids[i] and j != i]
        far = [s for j, s in enumerate(cosine) if pids[j] != pids[i]]
        positive = sum(math.exp(-2 * max(0, 1.25 - s) * (s - 0.75)) for s in near)
        negative = sum(math.exp(2 * max(0, s + 0.25) * (s - 0.25)) for s in far)
        total += math.log(1 + positive * negative) / 6
    assert float(circle_loss(features, torch.tensor(pids), gamma=2.0)) == pytest.approx(total, rel=1e-9)


def test_triplet_loss_has_a_finite_gradient_where_images_are_alike() -> None:
    features = torch.ones(8, 5, requires_grad=True)
    triplet_loss(features, PID).backward()
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("kind", ["cosine", "cosine-b", "euclidean"])
def test_pair_distance_equals_its_definition_and_is_zero_to_itself(kind: str) -> None:
    a, b = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    expected = [distance(x, y, kind) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    torch.testing.assert_close(pair_distance(a, b, kind), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    zero = torch.zeros(1, 4, requires_grad=True)
    for vector in (a, zero):
        assert pair_distance(vector, vector, kind).abs().max().item() <= 1e-6
    pair_distance(zero, zero.detach(), kind).sum().backward()
    assert torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("kind", ["cosine", "cosine-b", "euclidean"])
@pytest.mark.parametrize("terms", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("mining", ["random", "hard"])
def test_dual_causality_loss_equals_the_enumerated_one(kind: str, terms: tuple[bool, bool], mining: str) -> None:
    """Also for an F~ that is not constant, so that each of the four comparisons is tested in its direction."""
    plus, minus = terms
    pooled = Pooled(*torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(3)))
    drawn = draw_triplets(PID, torch.Generator().manual_seed(0))
    triplets = drawn if mining == "random" else None

    def measure(features: Tensor) -> list[tuple[float, float]]:
        if mining == "hard":
            return enumerate_hardest(features.tolist(), PID.tolist(), kind)
        f = features.tolist()
        chosen = zip(range(8), drawn[0].tolist(), drawn[1].tolist(), strict=True)
        return [(distance(f[a], f[p], kind), distance(f[a], f[n], kind)) for a, p, n in chosen]

    expected = 0.0
    for (p, n), (p_plus, n_plus), (p_minus, n_minus) in zip(*map(measure, pooled), strict=True):
        if plus:
            expected += (softplus(p_plus - p) + softplus(n - n_plus)) / 8
        if minus:
            expected += (softplus(p - p_minus) + softplus(n_minus - n)) / 8
    loss = dual_causality_loss(pooled, PID, distance=kind, triplets=triplets, plus=plus, minus=minus)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_drawn_triplets_are_valid_random_and_repeatable() -> None:
    seen = set()
    for seed in range(200):
        positive, negative = draw_triplets(PID, torch.Generator().manual_seed(seed))
        again = draw_triplets(PID, torch.Generator().manual_seed(seed))
        assert torch.equal(positive, again[0]) and torch.equal(negative, again[1])
        assert (PID[positive] == PID).all() and (positive != torch.arange(8)).all()
        assert (PID[negative] != PID).all()
        seen |= {(0, int(positive[0]), int(negative[0]))}
    assert len(seen) == 2 * 5  # every positive with every negative of the first anchor


def test_an_identity_with_one_image_is_its_own_positive() -> None:
    positive, _ = draw_triplets(torch.tensor([0, 1, 1]), torch.Generator().manual_seed(0))
    assert positive[0] == 0
    near, far = hardest(all_distances(torch.tensor([[0.0], [1.0], [3.0]])), torch.tensor([0, 1, 1]))
    assert near[0] < 1e-5 and far.tolist() == [1.0, 1.0, 3.0]
