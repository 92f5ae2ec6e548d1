"""Test steps: their words, what each does to a target's numbers, and that no number of one test stands for another's."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, quiet
from test_tables import MEAN, frame, row

from reidgen.errors import RecipeError
from reidgen.evaluation import evaluate
from reidgen.registry import select_ways
from reidgen.runs import Run, read_csv, read_rows
from reidgen.steps import Centre
from reidgen.tables.choose import Selection
from reidgen.tables.compare import make_table
from reidgen.training import train


@pytest.fixture(scope="module")
def run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = SMALL.change(method="baseline")
    return train(recipe, data=small_data, results=tmp_path_factory.mktemp("results"), device="cpu", report=quiet)


def scored(run: Run, data: Path, test: str, target: str = "synth-night") -> pd.DataFrame:
    return evaluate(run, target, ways=select_ways(test), data=data, device="cpu", report=quiet)


def test_centre_against_numpy_camera_by_camera() -> None:
    """Feature 2 is alike in all of camera 5; camera 7 has a single image."""
    rng = np.random.default_rng(0)
    embedding_ND = rng.normal(size=(9, 4)).astype(np.float32)
    embedding_ND[4:8, 2] = 0.25
    camid_N = np.array([2, 2, 2, 2, 5, 5, 5, 5, 7])
    expected = embedding_ND.astype(np.float64)
    for camera in (2, 5):
        own = expected[camid_N == camera]
        deviation = own.std(axis=0, ddof=1)
        expected[camid_N == camera] = (own - own.mean(axis=0)) / np.where(deviation > 1e-6, deviation, 1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    given = torch.from_numpy(embedding_ND)
    found = Centre().embeddings(given, torch.from_numpy(camid_N))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    whole = Centre(cameras=False).embeddings(given, torch.from_numpy(camid_N))
    standard = (embedding_ND - embedding_ND.mean(axis=0)) / embedding_ND.std(axis=0)
    np.testing.assert_allclose(whole, standard / np.linalg.norm(standard, axis=1, keepdims=True), atol=1e-6)
    assert np.array_equal(given, embedding_ND)


def test_every_test_has_rows_of_its_own(run: Run, small_data: Path) -> None:
    plain = scored(run, small_data, "plain")
    centred = scored(run, small_data, "centre")
    assert plain["test"].tolist() == ["plain"] and centred["test"].tolist() == ["centre"]
    assert plain["mAP"].iloc[0] != centred["mAP"].iloc[0]
    stored = read_csv(run.results).set_index("test")["mAP"]
    assert stored.round(5).to_dict() == {
        "plain": round(plain["mAP"].iloc[0], 5), "centre": round(centred["mAP"].iloc[0], 5),
    }  # fmt: skip
    scored(run, small_data, "centre,plain")
    assert read_csv(run.results).set_index("test")["mAP"].to_dict() == stored.to_dict()
    queries = run.queries()
    assert queries.groupby("test")["ap"].mean().to_numpy() == pytest.approx(stored.sort_index().to_numpy(), abs=1e-5)
    data = plain["data"].iloc[0]
    assert run.evaluated("synth-night", data, "centre") and not run.evaluated("synth-night", data, "flip")
    assert len(read_rows(run.folder.parents[2])) == 2


def test_tests_are_blocks_of_the_table_and_never_meet() -> None:
    rows = frame(
        *(
            row(method, target, mAP=mAP + gain, test=test)
            for method, mAP in (("baseline", 0.2), ("snr", 0.3))
            for target in ("duke", "prid")
            for test, gain in (("plain", 0.0), ("centre", 0.1))
        )
    )
    table = make_table(rows)
    assert table.cells.groupby("test")["mAP"].agg(["min", "max"]).to_numpy().tolist() == [[30.0, 40.0], [20.0, 30.0]]
    assert (table.cells["gain_mAP"].dropna() == 10).all()
    means = table.cells[table.cells["target"] == MEAN].set_index(["test", "method"])["mAP"]
    assert means.to_dict() == {
        ("plain", "baseline"): 20, ("plain", "snr"): 30, ("centre", "baseline"): 30, ("centre", "snr"): 40,
    }  # fmt: skip
    assert list(table.blocks()) == ["market", "market, tested with centre"]
    notes = [str(note) for note in table.notes]
    assert "test steps that use the target's unlabelled images: centre" in notes
    assert any(note.startswith("transductive test steps") and note.endswith(": centre") for note in notes)
    only = make_table(rows, selection=Selection(tests=("centre",)))
    assert set(only.cells["test"]) == {"centre"} and "market, tested with centre" in only.markdown()
    plain = make_table(rows, selection=Selection(tests=("plain",)))
    assert not any("test step" in str(note) for note in plain.notes)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("centr", "unknown test step 'centr'; did you mean 'centre'"),
        ("centre+centre", "names centre twice"),
        ("plain+centre", "plain stands alone"),
        ("centre(camera=false)", "unknown parameter of centre 'camera'; did you mean 'cameras'"),
        ("centre(cameras=3)", "centre.cameras must be like 'true'"),
        ("", "--test names no test"),
        ("centre)", "is no test step"),
    ],
)
def test_a_word_that_means_nothing_is_one_sentence(words: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says.replace("(", r"\(").replace(")", r"\)")):
        select_ways(words)
