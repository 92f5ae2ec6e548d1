"""What may go wrong on the way: a process killed at any moment, a full disk, a folder that cannot be written."""

from pathlib import Path

import pandas as pd
import pytest
import warm
from conftest import quiet

from reidgen import training
from reidgen.errors import ReidgenError, RunError
from reidgen.recipe import Recipe
from reidgen.training import train


def test_killed_at_random_moments_training_and_the_grid_end_with_the_same_bits(
    small_data: Path, tmp_path: Path
) -> None:
    """A short run of scripts/prove_safety.py. The seed's moments are in the midst of the work, both in one folder."""
    recipe = 'base = "quick"\nidentities = 4\nimages = 2\nbatches_per_epoch = 4\nepochs = 2\nheight = 32\nwidth = 16\n'
    short = f"prove_safety.KILLS, prove_safety.SEED, prove_safety.RECIPE = 2, 29, {recipe!r}"
    warm.proof(tmp_path, small_data, "prove_safety", short)
    rows = pd.read_csv(tmp_path / "safety.csv")
    assert rows["what"].tolist() == ["train", "bench"] and (rows["kills"] >= 2).all()


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    whole = train(small_recipe, data=small_data, results=tmp_path / "whole", device="cpu", report=quiet)
    real, written = training.trailer, []

    def trailer(content: bytes) -> bytes:
        written.append(len(content))
        if len(written) == 3:  # the third state, half of which is on the disk
            raise OSError(28, "No space left on device")
        return real(content)

    monkeypatch.setattr(training, "trailer", trailer)
    with pytest.raises(ReidgenError, match=r"cannot write .*state\.pt: No space left on device; free some space"):
        train(small_recipe, data=small_data, results=tmp_path / "full", device="cpu", report=quiet)
    folder = next((tmp_path / "full" / "runs" / "synth-plaza").iterdir())
    assert not list(folder.glob(".*.part"))
    run = train(small_recipe, data=small_data, results=tmp_path / "full", device="cpu", report=quiet)
    assert run.weights.read_bytes() == whole.weights.read_bytes()


def test_a_loss_that_is_not_finite_names_the_checkpoint(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth step's rate is so high that the sixth step's loss cannot be computed."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(Recipe, "lr_at", lambda self, epoch: 1e30 if epoch > 1.2 else 1e-3)
    with pytest.raises(
        RunError, match=r"not finite at step 6 \(learning rate 1.00e\+30\); the checkpoint of step 5 is kept"
    ):
        train(small_recipe, data=small_data, results=tmp_path, device="cpu", report=quiet)
    assert list(tmp_path.glob("runs/*/*/state.pt"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write")
def test_a_folder_that_cannot_be_written_is_said(small_data: Path, small_recipe: Recipe) -> None:
    with pytest.raises(RunError, match=r"cannot write in /proc/reidgen/runs.*; choose another --results"):
        train(small_recipe, data=small_data, results=Path("/proc/reidgen"), device="cpu", report=quiet)


@pytest.mark.parametrize("gone", ["index.csv", "manifest.json"])
def test_a_file_that_vanished_from_a_prepared_set_is_said(
    gone: str, small_data: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    data = tmp_path / "data" / "synth-plaza"
    data.mkdir(parents=True)
    for path in (small_data / "synth-plaza").iterdir():
        if path.name != gone:
            (data / path.name).symlink_to(path)
    with pytest.raises(ReidgenError, match=r"synth-plaza.*prepare"):
        train(small_recipe, data=tmp_path / "data", results=tmp_path, device="cpu", report=quiet)
