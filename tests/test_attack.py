"""The attack: an exact bound, a true gradient, the same bits for the same seed; rows that resume; transfer."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, quiet
from torch import Tensor, nn
from torch.nn import functional

from reidgen.data.batches import load_source
from reidgen.errors import DataError, RecipeError
from reidgen.evaluation import load_network
from reidgen.robustness import attack as attack_module
from reidgen.robustness.attack import (
    CONTROLS,
    attack,
    control_pattern,
    digest_of,
    find_pattern,
    fit_pattern,
    identity_centres,
    load_pattern,
    pattern_gradient,
    perturb,
)  # fmt: skip
from reidgen.robustness.attack_losses import LOSSES, lambda_gradient
from reidgen.robustness.trials import ATTACK, CLEAN, read_trials
from reidgen.runs import Run, read_csv
from reidgen.training import train


@pytest.fixture(scope="module")
def runs(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two runs of different methods."""
    results = tmp_path_factory.mktemp("results")
    recipes = [SMALL.change(method=method) for method in ("baseline", "snr")]
    return [train(recipe, data=small_data, results=results, device="cpu", report=quiet) for recipe in recipes]


@pytest.fixture(autouse=True)
def _few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack_module, "EPOCHS", 2)


@pytest.mark.parametrize("bound", [1, 10, 255])
def test_the_bound_holds_exactly_for_every_value(bound: int) -> None:
    every = np.arange(256, dtype=np.uint8).repeat(2 * bound + 1).reshape(1, 256, 2 * bound + 1, 1).repeat(3, axis=3)
    pattern = np.arange(-bound, bound + 1, dtype=np.int16)[None, :, None].repeat(256, axis=0).repeat(3, axis=2)
    moved = perturb(every, pattern)
    difference = moved.astype(int) - every
    assert moved.dtype == np.uint8 and abs(difference).max() == min(bound, 255)
    np.testing.assert_array_equal(moved, np.clip(every.astype(int) + pattern, 0, 255))


def test_controls_have_the_largest_size_the_bound_allows() -> None:
    for name in CONTROLS:
        pattern = control_pattern(name, bound=10, height=64, width=33)
        assert pattern.shape == (64, 33, 3) and set(np.unique(pattern)) == {-10, 10} and abs(pattern.mean()) < 1
        np.testing.assert_array_equal(pattern, control_pattern(name, bound=10, height=64, width=33))
    blocks = control_pattern("blocks", bound=10, height=64, width=32)
    np.testing.assert_array_equal(blocks, blocks[::4, ::4].repeat(4, axis=0).repeat(4, axis=1))


def test_a_pattern_of_another_size_keeps_the_bound() -> None:
    pattern = control_pattern("noise", bound=10, height=64, width=32)
    assert fit_pattern(pattern, 64, 32) is pattern
    for size in ((256, 128), (48, 40)):
        fitted = fit_pattern(pattern, *size)
        assert fitted.shape == (*size, 3) and fitted.dtype == np.int16 and 5 < abs(fitted).max() <= 10
    np.testing.assert_array_equal(fit_pattern(np.full((2, 2, 3), 7, np.int16), 5, 3), np.full((5, 3, 3), 7))


class Tiny(nn.Module):
    """Two layers in float64, smooth enough for finite differences."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 4 * 2, 6)).double()

    def forward(self, images: Tensor) -> Tensor:
        return functional.normalize(self.layers(images), dim=1)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_equals_finite_differences(loss: str) -> None:
    network, generator = Tiny(), torch.Generator().manual_seed(1)
    images = torch.rand(5, 3, 6, 4, generator=generator, dtype=torch.float64)  # some values are clipped
    delta = 0.1 * torch.randn(1, 3, 6, 4, generator=generator, dtype=torch.float64)
    clean = functional.normalize(torch.randn(5, 6, generator=generator, dtype=torch.float64), dim=1)
    centre = functional.normalize(torch.randn(4, 6, generator=generator, dtype=torch.float64), dim=1)
    fixed = {"clean_BD": clean, "centre_CD": centre, "loss": loss}
    gradient = pattern_gradient(network, images, delta, **fixed)
    assert gradient.shape == delta.shape and gradient.abs().max() > 1e-4

    weight_BC = None
    if loss == "list":  # LambdaRank is defined by its gradient: the weights are those at delta
        place = (clean @ centre.T).argsort(dim=1, descending=True).argsort(dim=1)
        scores = network(attack_module.standardize((images + delta).clamp(0, 1))) @ centre.T
        weight_BC = lambda_gradient(scores.detach(), place)

    @torch.no_grad()
    def value(moved: Tensor) -> float:
        features = network(attack_module.standardize((images + moved).clamp(0, 1)))
        if weight_BC is not None:
            return float(((features @ centre.T) * weight_BC).sum(1).mean())
        return float(LOSSES[loss](features, clean, centre))

    step = 1e-6
    for index in np.random.default_rng(0).choice(delta.numel(), 24, replace=False):
        up, down = delta.clone(), delta.clone()
        up.view(-1)[index] += step
        down.view(-1)[index] -= step
        assert (value(up) - value(down)) / (2 * step) == pytest.approx(float(gradient.view(-1)[index]), abs=1e-6)


def test_centres_are_normalised_means() -> None:
    feature = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0], [-4.0, 0.0]])
    centres = identity_centres(feature, np.array([5, 2, 2, 5]))
    torch.testing.assert_close(centres, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_seed_finds_the_same_bits_within_the_bound(loss: str, runs: list[Run], small_data: Path) -> None:
    source = load_source(runs[0].recipe(), data=small_data, report=quiet)

    def found(seed: int) -> attack_module.Found:
        network = load_network(runs[0], torch.device("cpu"))
        return find_pattern(network, source, loss=loss, bound=8, seed=seed, dtype="float32", report=quiet)

    one, other = found(0), found(0)
    np.testing.assert_array_equal(one.pattern_HWC, other.pattern_HWC)
    assert one.effects == other.effects and len(one.effects) == 2
    assert one.pattern_HWC.dtype == np.int16 and 0 < abs(one.pattern_HWC).max() <= 8
    assert digest_of(found(1).pattern_HWC) != digest_of(one.pattern_HWC)


def test_patterns_are_kept_whole_and_found_again_when_damaged(runs: list[Run], small_data: Path) -> None:
    def pattern() -> attack_module.Pattern:
        return load_pattern(runs[0], "pair", bound=10, data=small_data, device="cpu", report=quiet)

    first = pattern()
    folder = runs[0].folder / "attack"
    assert {path.suffix for path in folder.glob("pair-10.*")} == {".safetensors", ".png", ".json"}
    facts = json.loads((folder / "pair-10.json").read_text())
    assert facts["digest"] == digest_of(first) and facts["bound"] == 10 and len(facts["held_out_drop"]) == 2
    (folder / "pair-10.json").write_text("{")
    np.testing.assert_array_equal(pattern(), first)
    (folder / "pair-10.safetensors").write_bytes(b"broken")
    np.testing.assert_array_equal(pattern(), first)


def test_rows_resume_and_transfer(runs: list[Run], small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = {"losses": ["list", "point"], "data": small_data, "device": "cpu", "report": quiet}
    rows = attack(runs[0], ["synth-plaza", "synth-night"], **fixed)
    assert list(rows) == list(ATTACK) and len(rows) == 10
    clean = rows[rows["pattern"] == CLEAN].set_index("target")
    results = read_csv(runs[0].results).set_index("target")
    assert clean["mAP"].to_dict() == results["mAP"].to_dict() and (clean["drop"] == 0).all()
    np.testing.assert_allclose(rows["drop"], 1 - rows["mAP"] / rows["target"].map(clean["mAP"]), atol=1e-5)
    assert rows.set_index("pattern").loc[["list", "point"], "own"].eq(1).all()

    crossed = attack(runs[0], ["synth-night"], makers=[runs[1]], **fixed)
    made = crossed[crossed["maker"] != ""]
    assert made["maker_method"].tolist() == ["snr", "snr"] and made["own"].eq(0).all() and len(crossed) == 5
    assert len(read_trials(runs[0].folder / "attack.csv", "attack")) == 12  # clean and controls only once
    monkeypatch.setattr(attack_module, "load_subject", lambda *_, **__: pytest.fail("nothing is missing"))
    pd.testing.assert_frame_equal(attack(runs[0], ["synth-plaza", "synth-night"], **fixed), rows)
    with pytest.raises(pytest.fail.Exception):
        attack(runs[0], ["synth-night"], bound=4, **fixed)  # another bound is another row


def test_bad_input_says_what_to_do(runs: list[Run], small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = {"data": small_data, "device": "cpu", "report": quiet}
    with pytest.raises(RecipeError, match="unknown loss 'pairs'; did you mean 'pair'"):
        attack(runs[0], ["synth-night"], losses=["pairs"], **fixed)
    with pytest.raises(RecipeError, match="the bound must be 1 to 255 grey levels; got 0"):
        attack(runs[0], ["synth-night"], bound=0, **fixed)
    with monkeypatch.context() as patch:
        patch.setattr(attack_module, "load_pattern", lambda *_, **__: pytest.fail("long work before the check"))
        with pytest.raises(DataError, match="pku is not prepared"):
            attack(runs[0], ["synth-night", "pku"], **fixed)


def test_a_maker_is_called_by_what_sets_it_apart() -> None:
    victim = SMALL.change(method="baseline")
    assert attack_module._method_beside(SMALL.change(method="in"), victim) == "in"
    other = SMALL.change(method="snr", backbone="resnet18", source="market")
    assert attack_module._method_beside(other, victim) == "snr on resnet18 of market"
