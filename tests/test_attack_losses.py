"""The attack's losses: against worked examples, finite differences and a loop over pairs."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reidgen.robustness import attack_losses
from reidgen.robustness.attack_losses import LOSSES, lambda_gradient


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_lambda_gradient_of_a_list_worked_by_hand() -> None:
    """Three documents with clean places 0, 1, 2, scored in this order, which is the wrong one.

    Gains 0, 1/2, 1; discounts 1, 1/log2 3, 1/2; ideal DCG 1 + 1 / (2 log2 3); sigmoids of ln 2, 2 ln 2, ln 2: 2/3, 4/5, 2/3.
    """
    third = 1 / math.log2(3)
    ideal = 1 + third / 2
    w01, w02, w12 = 0.5 * (1 - third) / ideal * 2 / 3, 0.5 / ideal * 4 / 5, 0.5 * (third - 0.5) / ideal * 2 / 3
    score = torch.tensor([[math.log(2), 0.0, -math.log(2)]], dtype=torch.float64)
    expected = torch.tensor([[w01 + w02, w12 - w01, -w02 - w12]], dtype=torch.float64)
    torch.testing.assert_close(lambda_gradient(score, torch.tensor([[0, 1, 2]])), expected)
    assert expected[0].tolist() == pytest.approx([0.3976, -0.0603, -0.3373], abs=1e-4)


def test_lambda_gradient_equals_a_loop_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    score_BC = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    place_BC = torch.rand(4, 7, generator=generator).argsort(1)
    expected = np.zeros((4, 7))
    for b in range(4):
        rank = np.empty(7, int)
        rank[np.argsort(-score_BC[b].numpy(), kind="stable")] = np.arange(1, 8)
        gain = place_BC[b].numpy() / 6
        ideal = sum(g / math.log2(1 + r) for r, g in enumerate(sorted(gain, reverse=True), start=1))
        for i in range(7):
            for j in range(7):
                if place_BC[b, i] < place_BC[b, j]:
                    swap = (gain[j] - gain[i]) * abs(1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j])) / ideal
                    weight = swap / (1 + math.exp(float(score_BC[b, j] - score_BC[b, i])))
                    expected[b, i] += weight
                    expected[b, j] -= weight
    np.testing.assert_allclose(lambda_gradient(score_BC, place_BC).numpy(), expected, atol=1e-12)
    monkeypatch.setattr(attack_losses, "PAIRS_AT_ONCE", 1)  # one list at a time
    np.testing.assert_allclose(lambda_gradient(score_BC, place_BC).numpy(), expected, atol=1e-12)


def test_descent_on_the_scores_reverses_the_list() -> None:
    place = torch.arange(6)[None]
    score = -place.double()
    for _ in range(2000):
        score = score - 0.5 * lambda_gradient(score, place)
    assert score[0].argsort(descending=True).tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_falls_where_the_ranking_is_spoilt(loss: str) -> None:
    clean, centre = unit(5, 8, seed=1), unit(6, 8, seed=2)
    near = centre[(clean @ centre.T).argmax(1)]
    far = centre[(clean @ centre.T).argmin(1)]
    feature = clean.clone().requires_grad_()
    value = LOSSES[loss](functional.normalize(0.9 * feature + 0.1 * near, dim=1), clean, centre)
    (gradient,) = torch.autograd.grad(value, feature)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    if loss != "list":
        assert LOSSES[loss](far, clean, centre) < LOSSES[loss](near, clean, centre)


def test_known_values() -> None:
    centre = torch.eye(3, dtype=torch.float64)
    clean = functional.normalize(torch.tensor([[3.0, 2.0, 0.0]], dtype=torch.float64))
    feature = torch.tensor([[0.8, 0.0, 0.6]], dtype=torch.float64)
    assert LOSSES["point"](feature, clean, centre).item() == pytest.approx(2.4 / math.sqrt(13))
    assert LOSSES["label"](feature, clean, centre).item() == pytest.approx(0.2)
    far, near = math.sqrt(2 - 1.2), math.sqrt(2 - 1.6)  # centre 2 is the farthest, centre 0 the nearest
    assert LOSSES["pair"](feature, clean, centre).item() == pytest.approx(10 * far - 10 * near + 0.8, rel=1e-4)
    assert LOSSES["label"](centre[1:2], clean, centre).item() == 0  # it has left: nothing more to gain
