"""BAU's losses against enumerated pairs, and its prototypes against one image after the other."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reidgen.balance import Alignment, DomainUniformity, Uniformity
from reidgen.contracts import Batch, Given, Output
from reidgen.errors import RecipeError

GIVEN = Given(places=(), dim=4, classes=5, domains=2)
PID = torch.tensor([0, 0, 1, 1, 3, 3])
DOMAIN = torch.tensor([0, 0, 0, 0, 1, 1])  # of identities 0, 1, 2: 0; of 3, 4: 1


def batch(views: int = 2) -> Batch:
    view = torch.arange(views).repeat_interleave(6)
    zero = torch.zeros(6 * views, dtype=torch.int64)
    return Batch(PID.repeat(views), zero, DOMAIN.repeat(views), view, images=6)


def output(seed: int = 0) -> Output:
    neck = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Output(feature=neck, neck=neck, logits=neck, offered={})


def units(found: Output) -> list[list[float]]:
    return [[value / math.hypot(*row) for value in row] for row in found.neck.tolist()]


def square(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("k", [3, 10])
def test_alignment_equals_the_enumerated_pairs(k: int) -> None:
    found = output()
    unit = units(found)
    nearest = [set(sorted(range(12), key=lambda j, i=i: square(unit[i], unit[j]))[:k]) for i in range(12)]
    mutual = [{j for j in nearest[i] if i in nearest[j]} for i in range(12)]
    over = under = 0.0
    for i in range(6):  # of the second view
        for j in range(6):  # of the first
            if PID[i] == PID[j]:
                weight = len(mutual[6 + i] & mutual[j]) / len(mutual[6 + i] | mutual[j])
                over, under = over + weight * square(unit[6 + i], unit[j]), under + weight
    assert under > 0
    loss = Alignment(GIVEN, weight=1.5, neighbours=k)(found, batch())
    assert float(loss) == pytest.approx(1.5 * over / under, rel=1e-4)


def test_uniformity_equals_the_enumerated_pairs() -> None:
    found = output(1)
    unit = units(found)
    expected = 0.0
    for view in (unit[:6], unit[6:]):
        pairs = [math.exp(-2 * square(view[i], view[j])) for i in range(6) for j in range(i)]
        expected += math.log(sum(pairs) / len(pairs)) / 2
    assert float(Uniformity(GIVEN, weight=2.0)(found, batch())) == pytest.approx(2 * expected, rel=1e-6)


def started() -> DomainUniformity:
    loss = DomainUniformity(GIVEN).double()
    torch.manual_seed(5)
    embedding, pid = functional.normalize(torch.randn(10, 4, dtype=torch.float64)), torch.arange(10) % 5
    loss.begin(lambda: (embedding, pid, (pid > 2).long()))
    expected = torch.stack([functional.normalize(embedding[pid == one].mean(0), dim=0) for one in range(5)])
    torch.testing.assert_close(loss.prototype_KD, expected)
    return loss


def test_domain_uniformity_equals_the_enumerated_prototypes_of_the_own_source() -> None:
    loss, found = started(), output(2)
    prototypes, unit, expected = loss.prototype_KD.tolist(), units(found), 0.0
    for view in (unit[:6], unit[6:]):
        values = []
        for one, domain in zip(view, DOMAIN.tolist(), strict=True):
            own = [prototypes[k] for k in range(5) if (k > 2) == domain]
            near = sorted(square(one, prototype) for prototype in own)[1:7]
            values += [math.exp(-2 * distance) for distance in near] + [0.0] * (4 - len(near))  # 4: all others
        expected += math.log(sum(values) / len(values)) / 2
    assert float(loss(found, batch())) == pytest.approx(expected, rel=1e-6)


def test_prototypes_follow_the_first_view_one_image_after_the_other() -> None:
    loss, found = started(), output(3)
    expected, unit = loss.prototype_KD.clone(), functional.normalize(found.neck[:6], dim=1)
    for one, pid in zip(unit, PID.tolist(), strict=True):
        expected[pid] = functional.normalize(0.1 * expected[pid] + 0.9 * one, dim=0)
    loss(found, batch())
    torch.testing.assert_close(loss.prototype_KD, expected)
    assert set(loss.state_dict()) == {"prototype_KD", "domain_K"}  # so in the checkpoint


@pytest.mark.parametrize("kind", [Alignment, Uniformity, DomainUniformity])
def test_gradients_flow_and_one_view_is_refused(kind: type) -> None:
    loss: Tensor = kind(GIVEN).double()(made := _with_gradient(), batch())
    loss.backward()
    assert made.neck.grad is not None and torch.isfinite(made.neck.grad).all()
    with pytest.raises(RecipeError, match="compares two views; give the row views=2"):
        kind(GIVEN)(output(), batch(views=1))
    with pytest.raises(RecipeError, match=r"must lie within 0\.\.1,000,000"):
        kind(GIVEN, weight=-1.0)


def _with_gradient() -> Output:
    neck = output().neck.requires_grad_()
    return Output(feature=neck, neck=neck, logits=neck, offered={})
