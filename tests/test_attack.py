"""The attack: an exact bound, a true gradient, the same bits for the same seed; rows that resume; transfer."""

import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, THIN, finish, quiet
from torch import Tensor, nn
from torch.nn import functional

from reidgen.data import manifest
from reidgen.data.batches import load_source
from reidgen.data.images import decode
from reidgen.data.manifest import load_index
from reidgen.errors import DataError, RecipeError, RunError, SharedImagesError
from reidgen.evaluation import load_network
from reidgen.integrity import trailer, without_trailer
from reidgen.models import tiny
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
from reidgen.rows import read_csv
from reidgen.runs import Run, run_of
from reidgen.training import train

WIDTHS = tiny.WIDTHS


@pytest.fixture(scope="module", autouse=True)
def _thin() -> Iterator[None]:
    """`tiny` with fewer channels: what is asserted of a search does not depend on them, but for one test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "WIDTHS", THIN)
        yield


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
    assert one.pattern_HWC.dtype == np.int16 and one.pattern_HWC.shape == (48, 32, 3)
    assert digest_of(found(1).pattern_HWC) != digest_of(one.pattern_HWC)


class Watched:
    """What a search does: its steps, as `pattern_gradient` sees and answers them, and the patterns that it measures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, effects: list[float] | None = None) -> None:
        self.steps: list[SimpleNamespace] = []
        self.patterns: list[attack_module.Pattern] = []
        self.reports: list[tuple[str, int, int]] = []
        gradient, effect = attack_module.pattern_gradient, attack_module._held_out_effect

        def step(network: nn.Module, images: Tensor, delta: Tensor, **fixed: Any) -> Tensor:
            found = gradient(network, images, delta, **fixed)
            self.steps.append(SimpleNamespace(images=images, delta=delta.clone(), gradient=found, **fixed))
            return found

        def measured(
            network: nn.Module, source: Any, clean_ND: Tensor, held_N: Any, pattern: Any, *, dtype: str
        ) -> float:
            self.clean_ND, self.held_N = clean_ND, held_N
            self.patterns.append(pattern.copy())
            if effects:
                return effects[len(self.patterns) - 1]
            return effect(network, source, clean_ND, held_N, pattern, dtype=dtype)

        monkeypatch.setattr(attack_module, "pattern_gradient", step)
        monkeypatch.setattr(attack_module, "_held_out_effect", measured)
        self.effect = effect

    def search(self, run: Run, data: Path, **changes: Any) -> attack_module.Found:
        self.network = load_network(run, torch.device("cpu"))
        self.source = load_source(run.recipe(), data=data, report=quiet)
        fixed = {"loss": "pair", "bound": 10, "seed": 0, "dtype": "float32", **changes}
        return find_pattern(self.network, self.source, report=lambda *told: self.reports.append(told), **fixed)


def test_the_search_follows_the_published_update_on_people_that_are_not_held_out(
    runs: list[Run], small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack_module, "BATCH", 16)
    watched = Watched(monkeypatch)
    watched.search(runs[0], small_data)
    label_N, held = watched.source.label_N, np.unique(watched.source.label_N[watched.held_N])
    fit_N = np.flatnonzero(~np.isin(label_N, held))
    assert len(held) == 2 and len(np.unique(label_N)) == 6  # at least two are held out
    np.testing.assert_array_equal(watched.held_N, np.flatnonzero(np.isin(label_N, held)))

    batches = -(-len(fit_N) // 16)
    assert batches >= 2 and len(watched.steps) == 2 * batches
    float_N = attack_module.to_float(watched.source.pixels_NHWC)
    orders = []
    for epoch in range(2):
        steps = watched.steps[epoch * batches : (epoch + 1) * batches]
        seen = torch.cat([step.images for step in steps])
        order = [int((float_N == image).flatten(1).all(1).nonzero()[0, 0]) for image in seen]
        assert sorted(order) == fit_N.tolist()
        assert torch.equal(torch.cat([step.clean_BD for step in steps]), watched.clean_ND[order])
        orders.append(order)
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])

    centre_CD = identity_centres(watched.clean_ND[fit_N], label_N[fit_N])
    assert all(torch.equal(step.centre_CD, centre_CD) for step in watched.steps)
    velocity, limit = 0.0, 10 / 255
    noise = torch.from_numpy(control_pattern("noise", bound=1, height=48, width=32)).permute(2, 0, 1)
    torch.testing.assert_close(watched.steps[0].delta[0], noise * limit / 10)
    for number, (step, after) in enumerate(zip(watched.steps, watched.steps[1:], strict=False)):
        velocity = velocity + step.gradient / step.gradient.abs().sum()
        moved = step.delta - limit / 10 * math.exp(-0.01 * (number // batches)) * velocity.sign()
        torch.testing.assert_close(after.delta, moved.clamp(-limit, limit))


def test_a_long_search_fills_the_bound_and_beats_noise(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "WIDTHS", WIDTHS)  # a network that has learnt enough to be misled
    recipe = SMALL.change(method="baseline", seed=1)
    run = train(recipe, data=small_data, results=tmp_path, device="cpu", report=quiet)
    monkeypatch.setattr(attack_module, "EPOCHS", 15)
    monkeypatch.setattr(attack_module, "PATIENCE", 15)
    monkeypatch.setattr(attack_module, "HELD_OUT", 0.5)  # of six people
    watched = Watched(monkeypatch)
    found = watched.search(run, small_data, loss="point")
    assert [abs(pattern).max() for pattern in watched.patterns][-5:] == [10] * 5

    def effect(pattern: attack_module.Pattern) -> float:
        searched = (watched.network, watched.source, watched.clean_ND, watched.held_N)
        return watched.effect(*searched, pattern, dtype="float32")

    controls = [effect(control_pattern(name, bound=10, height=48, width=32)) for name in CONTROLS]
    assert effect(found.pattern_HWC) == max(found.effects) > max(0.1, 3 * max(controls))


def test_the_best_pattern_is_returned_once_it_has_not_grown(
    runs: list[Run], small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack_module, "EPOCHS", 100)
    effects = [0.1, 0.2, 0.5, 0.501, 0.3, 0.504, 0.2, 0.503, 0.9]  # the third is the last that grew by 0.005
    watched = Watched(monkeypatch, effects)
    found = watched.search(runs[0], small_data)
    assert found.effects == effects[:8]
    np.testing.assert_array_equal(found.pattern_HWC, watched.patterns[5])
    told = [report for report in watched.reports if "pattern" in report[0]]
    assert [done for _, done, _ in told] == list(range(1, 9)) and [total for *_, total in told] == [6, 7, *[8] * 6]
    assert told[-1][0] == "pair-wise pattern, drop among trained people 50 %"
    monkeypatch.setattr(attack_module, "EPOCHS", 3)
    assert attack_module._epochs_expected([0.1, 0.2]) == 3


def test_the_effect_is_the_share_of_map_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images on a circle, of two people: at 0 and 60 degrees, at 48 and 100. Each has one match among three.

    Clean: the matches have the places 2, 3, 3, 2, mAP = 5/12. The first and the third query move to the far side of
    their match, which becomes the last; the gallery stays: places 3, 3, 3, 2, mAP = 3/8. Lost: 1 - (3/8) / (5/12).
    """

    def circle(*degrees: float) -> Tensor:
        angle = torch.tensor(degrees).deg2rad()
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    pixels = torch.arange(5 * 6, dtype=torch.uint8).view(5, 2, 1, 3)
    source = SimpleNamespace(pixels_NHWC=pixels, label_N=np.array([1, 7, 7, 3, 3]))
    pattern = np.full((2, 1, 3), -4, np.int16)

    def embed(network: object, images: Any, *, rows_N: Any, dtype: str, report: object) -> Tensor:
        np.testing.assert_array_equal(images, perturb(pixels[1:].numpy(), pattern))
        assert rows_N.tolist() == [0, 1, 2, 3] and dtype == "bfloat16"
        return circle(240, 60, 280, 100)

    monkeypatch.setattr(attack_module, "embed", embed)
    clean = circle(10, 0, 60, 48, 100)
    effect = attack_module._held_out_effect(None, source, clean, np.arange(1, 5), pattern, dtype="bfloat16")
    assert effect == pytest.approx(0.1)


def test_patterns_are_kept_whole_and_found_again_when_damaged(
    runs: list[Run], small_data: Path, tmp_path: Path
) -> None:
    told = []

    def pattern(run: Run = runs[0], data: Path = small_data) -> attack_module.Pattern:
        told.clear()
        return load_pattern(run, "pair", bound=10, data=data, device="cpu", report=lambda *said: told.append(said))

    first = pattern()
    folder = runs[0].folder / "attack"
    assert {path.suffix for path in folder.glob("pair-10.*")} == {".safetensors", ".png", ".json"}
    assert told[-1][0].startswith(f"synth-plaza/{runs[0].folder.name}: pair-wise pattern, drop among trained people")
    facts = json.loads((folder / "pair-10.json").read_text())
    assert facts["digest"] == digest_of(first) and facts["bound"] == 10 and len(facts["held_out_drop"]) == 2
    assert facts["source_data"] == str(runs[0].facts()["source_data"])[:8]
    (folder / "pair-10.safetensors").write_bytes(b"broken")
    np.testing.assert_array_equal(pattern(), first)
    other = {"loss": "list", "bound": 9, "seed": 5, "source_data": "01234567", "digest": "89abcdef"}
    for text in ("{", "[]", *(json.dumps({**facts, key: value}) for key, value in other.items())):
        (folder / "pair-10.json").write_text(text)
        np.testing.assert_array_equal(pattern(), first)
        assert told, text  # found again

    view = folder / "pair-10.png"
    seen = view.read_bytes()
    assert decode(view)[0].size == (4 * 32, 4 * 48)
    for spoil in (lambda: view.unlink(), lambda: view.write_bytes(seen[:200])):
        spoil()
        np.testing.assert_array_equal(pattern(), first)
        assert view.read_bytes() == seen and not told
    np.testing.assert_array_equal(pattern(data=tmp_path), first)  # brought from elsewhere: no source here
    assert not told


@pytest.fixture(scope="module")
def stopped(runs: list[Run], small_data: Path) -> tuple[bytes, attack_module.Found]:
    """Return what a search of four epochs keeps when it is interrupted after two, and what it finds when it is not."""
    folder = runs[0].folder / "attack"

    def stopping(what: str, done: int, total: int) -> None:
        if "pattern" in what and done == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack_module, "EPOCHS", 4)
        patch.setattr(attack_module, "BATCH", 16)
        with pytest.raises(KeyboardInterrupt):
            load_pattern(runs[0], "list", bound=7, data=small_data, device="cpu", report=stopping)
        assert [file.name for file in folder.glob("list-7.*")] == ["list-7.state.pt"]
        kept = (folder / "list-7.state.pt").read_bytes()
        return kept, Watched(patch).search(runs[0], small_data, loss="list", bound=7)


@pytest.mark.parametrize("spoil", ["nothing", "broken", "foreign", "a bit"])
def test_an_interrupted_search_goes_on_to_the_same_bits(
    spoil: str,
    runs: list[Run],
    small_data: Path,
    stopped: tuple[bytes, attack_module.Found],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attack_module, "EPOCHS", 4)
    monkeypatch.setattr(attack_module, "BATCH", 16)
    folder, (content, whole) = runs[0].folder / "attack", stopped
    state = folder / "list-7.state.pt"
    for file in folder.glob("list-7.*"):
        file.unlink()
    state.write_bytes(content)
    epochs = []

    def counting(what: str, done: int, total: int) -> None:
        epochs.extend([done] * ("pattern" in what))

    if spoil == "broken":
        state.write_bytes(b"broken")
    elif spoil == "foreign":
        kept = torch.load(io.BytesIO(without_trailer(content) or b""), weights_only=True)
        torch.save({**kept, "asked": {**kept["asked"], "source_data": "0" * 64}}, state)
        state.write_bytes(state.read_bytes() + trailer(state.read_bytes()))
    elif spoil == "a bit":  # of a number of delta: the zip is whole, and torch would not notice
        changed = bytearray(content)
        at = changed.index(bytes(torch.load(state, weights_only=True)["delta"].untyped_storage())[:4000])
        changed[at + 2003] ^= 1
        assert torch.load(io.BytesIO(changed), weights_only=True)
        state.write_bytes(changed)
    found = load_pattern(runs[0], "list", bound=7, data=small_data, device="cpu", report=counting)
    assert epochs == ([3, 4] if spoil == "nothing" else [1, 2, 3, 4]) and not state.exists()

    np.testing.assert_array_equal(found, whole.pattern_HWC)
    effects = json.loads((folder / "list-7.json").read_text())["held_out_drop"]
    assert effects == [round(effect, 4) for effect in whole.effects]


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


def test_bad_input_is_refused_before_any_long_work(
    runs: list[Run], small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = {"data": small_data, "device": "cpu", "report": quiet}
    with pytest.raises(RecipeError, match="unknown loss 'pairs'; did you mean 'pair'"):
        attack(runs[0], ["synth-night"], losses=["pairs"], **fixed)
    with pytest.raises(RecipeError, match="the bound must be 1 to 255 grey levels; got 0"):
        attack(runs[0], ["synth-night"], bound=0, **fixed)
    monkeypatch.setattr(attack_module, "load_pattern", lambda *_, **__: pytest.fail("long work before the check"))
    with pytest.raises(DataError, match="pku is not prepared"):
        attack(runs[0], ["synth-night", "pku"], **fixed)
    whole = tmp_path / "all"
    shutil.copytree(runs[0].folder, whole)
    text = (whole / "recipe.toml").read_text()
    (whole / "recipe.toml").write_text(text.replace('"synth-plaza"', '"synth-plaza-all"'))
    finish(Run(whole), sources=[{"name": "synth-plaza-all", "family": "synth-plaza", "whole": True}])
    with pytest.raises(
        SharedImagesError, match="shows people whose images were all trained on, by source synth-plaza-all"
    ):
        attack(Run(whole), ["synth-night", "synth-plaza"], **fixed)
    with monkeypatch.context() as context, pytest.raises(DataError, match="synth-night has no query images"):
        context.setattr(manifest, "load_index", lambda prepared: load_index(prepared).query("part != 'query'"))
        attack(runs[0], ["synth-night"], **fixed)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs[1].folder, unfinished)
    (unfinished / "done").unlink()
    with pytest.raises(RunError, match="unfinished is not finished; repeat its reidgen train command"):
        attack(runs[0], ["synth-night"], makers=[runs[1], Run(unfinished)], **fixed)


def test_a_maker_is_called_by_what_sets_it_apart(tmp_path: Path) -> None:
    victim = SMALL.change(method="baseline")

    def run(**changes: str) -> Run:
        recipe = SMALL.change(**changes)
        made = run_of(recipe, results=tmp_path, digest="00000000")
        made.folder.mkdir(parents=True)
        made.recipe_file.write_text(recipe.to_toml())
        made.row_file.write_text(json.dumps(recipe.row_facts()))
        return made

    assert attack_module._method_beside(run(method="in"), victim) == "in"
    other = run(method="snr", backbone="resnet18", source="market")
    assert attack_module._method_beside(other, victim) == "snr on resnet18 of market"
