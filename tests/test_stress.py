"""Stress: its clean row is the result's, its rows resume, its directions go by camera; and the subject both tests share."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, quiet

from reidgen.errors import BusyError, DataError, RecipeError, ReidgenError, RunError
from reidgen.locks import CLAIM, held_here
from reidgen.robustness import stress as stress_module
from reidgen.robustness.shifts import SHIFTS, Shift
from reidgen.robustness.stress import camera_directions, stress
from reidgen.robustness.subject import clustered_error, load_subject
from reidgen.robustness.trials import CLEAN, STRESS, collect_trials, read_trials
from reidgen.rows import read_csv
from reidgen.runs import Run
from reidgen.training import train

FEW = ("brightness", "noise")  # of the eleven shifts, for speed


@pytest.fixture(scope="module")
def run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(SMALL, data=small_data, results=tmp_path_factory.mktemp("results"), device="cpu", report=quiet)


@pytest.fixture(autouse=True)
def _few_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [trial for trial in stress_module.TRIALS if trial[0] in (CLEAN, *FEW)]
    monkeypatch.setattr(stress_module, "TRIALS", trials)


def stressed(run: Run, data: Path, where: str = "query") -> pd.DataFrame:
    return stress(run, "synth-night", where=where, data=data, device="cpu", report=quiet)


def test_rows_carry_their_provenance_and_the_clean_one_equals_the_result(run: Run, small_data: Path) -> None:
    rows = stressed(run, small_data)
    assert list(rows) == list(STRESS) and len(rows) == 11
    result = read_csv(run.results).query("target == 'synth-night'").iloc[0]
    clean = rows[rows["shift"] == CLEAN].iloc[0]
    assert clean["severity"] == 0 and clean["drop"] == 0
    for key in (
        "mAP",
        "rank1",
        "queries",
        "seen",
        "method",
        "hash",
        "data",
        "source_data",
        "version",
        "torch",
        "split",
    ):
        assert clean[key] == result[key], key
    np.testing.assert_allclose(rows["drop"], 1 - rows["mAP"] / clean["mAP"], atol=1e-5)
    assert rows["mAP"].nunique() > 3
    pd.testing.assert_frame_equal(collect_trials(run.folder.parents[2], "stress"), rows)


def test_severity_0_of_a_shift_is_the_clean_result(run: Run, small_data: Path) -> None:
    subject = load_subject(run, "synth-night", data=small_data, device="cpu", report=quiet)
    same_ND = subject.embed_changed("query", lambda images, numbers: images)
    clean, same = subject.score(subject.clean_ND, subject.clean_ND), subject.score(same_ND, subject.clean_ND)
    assert clean["mAP"].tolist() == same["mAP"].tolist()
    black_ND = subject.embed_changed("query", lambda images, numbers: np.zeros_like(images))
    changed_N = (black_ND != subject.clean_ND).any(1)
    queries = set(subject.tested.loc[subject.tested["part"] == "query", "path"])
    assert {str(path) for path in subject.paths[changed_N.numpy()]} == queries  # and no gallery image


def test_a_stopped_command_goes_on_and_a_finished_one_does_nothing(
    run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stressed(run, small_data)
    file = run.folder / "stress.csv"
    file.unlink()

    def stop(what: str, done: int, total: int) -> None:
        if what == "synth-night: brightness 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stress(run, "synth-night", data=small_data, device="cpu", report=stop)
    assert len(read_trials(file, "stress")) == 3
    seen: list[str] = []
    again = stress(
        run, "synth-night", data=small_data, device="cpu", report=lambda what, done, total: seen.append(what)
    )
    assert "synth-night: brightness 2" not in seen and "synth-night: brightness 3" in seen
    pd.testing.assert_frame_equal(again.drop(columns="date"), whole.drop(columns="date"))
    with monkeypatch.context() as patch:
        patch.setattr(stress_module, "load_subject", lambda *_, **__: pytest.fail("nothing is missing"))
        pd.testing.assert_frame_equal(stressed(run, small_data), again)
    old = SHIFTS["noise"]  # another table of severities: all is measured again
    monkeypatch.setitem(SHIFTS, "noise", Shift(old.change, (1, 2, 3, 4, 5), old.unit))
    fresh = stressed(run, small_data)
    assert set(fresh["shifts"]).isdisjoint(again["shifts"]) and len(fresh) == 11
    pd.testing.assert_frame_equal(collect_trials(run.folder.parents[2], "stress"), fresh)


def test_a_run_that_was_taken_over_gets_no_rows(run: Run, small_data: Path) -> None:
    """This process slept behind its report of the second trial."""
    file = run.folder / "stress.csv"
    file.unlink(missing_ok=True)

    def sleep(what: str, done: int, total: int) -> None:
        if what == "synth-night: brightness 1" and (claim := held_here(run.folder)):
            claim.file.with_name(f"{int(claim.file.name) + 1}").touch()
            claim.file.unlink()

    with pytest.raises(BusyError, match="another process has taken over"):
        stress(run, "synth-night", data=small_data, device="cpu", report=sleep)
    assert len(read_trials(file, "stress")) == 2
    file.unlink()
    shutil.rmtree(run.folder / CLAIM)


def test_both_sides_are_rows_of_their_own(run: Run, small_data: Path) -> None:
    query, both = stressed(run, small_data), stressed(run, small_data, where="both")
    assert (both["where"] == "both").all() and len(both) == 11
    assert both["mAP"].iloc[0] == query["mAP"].iloc[0] and (both["mAP"] != query["mAP"]).any()
    pd.testing.assert_frame_equal(stressed(run, small_data), query)


def test_cameras_take_turns(run: Run, small_data: Path) -> None:
    subject = load_subject(run, "synth-night", data=small_data, device="cpu", report=quiet)
    directions = camera_directions(subject)
    of_camera = {
        int(str(path).split("_c")[1][0]): int(way) for path, way in zip(subject.paths, directions, strict=True)
    }
    assert [of_camera[camera] for camera in sorted(of_camera)] == [1, -1, 1, -1]


def test_the_clustered_error_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    alone = rng.random(40)
    assert clustered_error(alone, np.arange(40)) == pytest.approx(alone.std(ddof=1) / np.sqrt(40))
    person = rng.normal(size=(4000, 50, 1)).repeat(4, axis=2) + 0.3 * rng.normal(size=(4000, 50, 4))
    pid = np.arange(50).repeat(4)
    errors = [clustered_error(values.ravel(), pid) for values in person[:400]]
    assert np.mean(errors) == pytest.approx(person.mean((1, 2)).std(), rel=0.03)  # naive: half as large
    assert np.isnan(clustered_error(alone, np.zeros(40, dtype=np.int64)))
    gaps = np.append(alone, np.nan)
    assert clustered_error(gaps, np.arange(41)) == clustered_error(alone, np.arange(40))


def test_bad_input_says_what_to_do(run: Run, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown side 'gallery'"):
        stressed(run, small_data, where="gallery")
    with pytest.raises(DataError, match="pku is not prepared"):
        stress(run, "pku", data=small_data, device="cpu", report=quiet)
    (tmp_path / "stress.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match=r"stress\.csv is damaged or holds no stress rows of this version; restore it"):
        read_trials(tmp_path / "stress.csv", "stress")
    unfinished = Run(tmp_path / "run")
    unfinished.folder.mkdir()
    unfinished.recipe_file.write_text(run.recipe_file.read_text())
    with pytest.raises(ReidgenError, match="is not finished"):
        stressed(unfinished, small_data)
