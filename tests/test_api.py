"""The same verbs in Python: the README's example as it stands there, and what `import reidgen` costs."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL
from test_tables import frame, row

import reidgen
from reidgen import grid
from reidgen.errors import DataError, PluginError, RecipeError, ReidgenError, RunError
from reidgen.rows import write_rows
from reidgen.runs import Run

README = (Path(__file__).parents[1] / "README.md").read_text()


# What the example leaves out: it is about verbs, not sizes.
SMALLER = """
from reidgen.data import prepare as module
from reidgen.recipe import RECIPES
module.IDENTITIES = (6, 4)
RECIPES["quick"] = RECIPES["quick"].change(identities=4, images=2)
"""
KEPT = """
import pickle
Path("found.pickle").write_bytes(pickle.dumps((rows, cells, embedding)))
print(embedding.shape)
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Return how the README's example ended as a script, and what it left of its results."""
    folder = tmp_path_factory.mktemp("example")
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (folder / "demo.py").write_text(f"{SMALLER}\n{example}\n{KEPT}")
    command, environment = [sys.executable, "demo.py"], {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    return ended, folder / "found.pickle"


def test_the_example_of_the_readme_is_a_script_as_it_stands(
    example: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    """A file of its own, without a guard: the processes that draw images must not run it again."""
    ended, _ = example
    assert ended.returncode == 0 and ended.stdout.endswith("(4, 128)\n"), ended.stderr


def test_the_example_of_the_readme_says_the_truth(example: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    ended, found = example
    assert found.is_file(), ended.stderr
    rows, cells, embedding = pickle.loads(found.read_bytes())
    assert isinstance(rows, pd.DataFrame) and rows["target"].tolist() == ["synth-plaza", "synth-night"]
    assert isinstance(cells, pd.DataFrame) and "mean of unseen" in set(cells["target"])
    night = cells[cells["target"] == "synth-night"]["mAP"].item()
    assert night == pytest.approx(100 * rows["mAP"][1], abs=1e-3)
    assert isinstance(embedding, np.ndarray) and embedding.shape == (4, 128) and embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)


def test_the_mean_of_a_protocol_is_over_all_of_its_targets_as_in_the_commands_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own crops too, which a protocol of one's own names."""
    rows = frame(row("snr", "duke", mAP=0.2), row("snr", "mine", mAP=0.4))
    write_rows(tmp_path / "rows.csv", rows)
    done = grid.Grid({"market": (rows["hash"][0], ["duke", "mine"])}, [])
    monkeypatch.setattr(grid, "bench", lambda *words, **more: done)
    cells = reidgen.bench(protocol="single", methods="snr", results=tmp_path, progress=False)
    assert cells.loc[cells["target"] == "mean of unseen", "mAP"].tolist() == [30.0]


def test_every_verb_is_documented_and_errors_are_the_packages_own(small_data: Path, tmp_path: Path) -> None:
    for verb in reidgen.__all__:
        assert verb in dir(reidgen)  # where a notebook looks
        assert getattr(reidgen, verb).__doc__ and f"reidgen.{verb}(" in README.replace(
            "`reidgen.bench`", "reidgen.bench("
        )
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        _ = reidgen.trane  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="market is not prepared"):
        reidgen.train("snr", "market", data=small_data, results=tmp_path, progress=False)
    with pytest.raises(RunError, match="no run is called"):
        reidgen.load("absent", results=tmp_path)
    with pytest.raises(PluginError, match=r"no plug-in .*absent\.py"):
        reidgen.table(results=tmp_path, plugins="absent.py")
    for changes, message in (
        ({"epoch": 3}, "unknown setting 'epoch'; did you mean 'epochs'"),
        ({"epochs": "3"}, "epochs must be a whole"),
    ):
        with pytest.raises(RecipeError, match=message):
            reidgen.train("snr", "synth-plaza", data=small_data, results=tmp_path, **changes)
    with pytest.raises(DataError, match="evaluate needs a target"):
        reidgen.evaluate(Run(tmp_path), [], data=small_data, results=tmp_path)
    (tmp_path / "mine.toml").write_text('base = "quick"\nmethod = "in"\n')
    with pytest.raises(RecipeError, match="a grid has its methods and seeds from"):
        reidgen.bench(recipe=str(tmp_path / "mine.toml"), data=small_data, results=tmp_path)


def test_bench_returns_the_table_and_load_embeds_as_evaluate_does(small_data: Path, tmp_path: Path) -> None:
    cells = reidgen.bench(
        "synth-plaza", methods=["baseline"], seeds=1, recipe=SMALL, data=small_data, results=tmp_path, progress=False
    )
    assert set(cells["method"]) == {"baseline"} and not (tmp_path / "table.md").exists()
    pd.testing.assert_frame_equal(cells, reidgen.table(results=tmp_path))
    run = Run(next(tmp_path.glob("runs/*/*")))
    places = {"data": small_data, "results": tmp_path, "progress": False}
    rows = reidgen.evaluate(run, "synth-night", test=["flip+rerank", "plain"], settings={"rerank.k1": 4}, **places)
    assert rows["test"].tolist() == ["flip+rerank(k1=4)", "plain"]
    cells = reidgen.bench("synth-plaza", methods="baseline", seeds=1, recipe=SMALL, targets="synth-night",
                          tests=["plain", "flip+rerank", "centre"], settings={"rerank.k1": 4}, **places)  # fmt: skip
    assert cells["test"].drop_duplicates().tolist() == ["plain", "centre", "flip+rerank(k1=4)"]
    chosen = reidgen.table(results=tmp_path, tests=["rerank(k1=4)+flip"])
    assert set(chosen["test"]) == {"flip+rerank(k1=4)"}
    model = reidgen.load(run, device="cpu")
    assert model.dim == 128 and model.info["method"] == "baseline"
    paths = sorted((small_data / "synth-night").rglob("*.jpg"))[:3]
    from PIL import Image

    pictures = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    for images in (pictures, arrays):
        np.testing.assert_allclose(model.embed(images), model.embed(paths), atol=1e-5)
    assert model.embed([]).shape == (0, 128)
    with pytest.raises(DataError, match=r"must be uint8 \(H, W, 3\) in R, G, B; got float64"):
        model.embed([arrays[0] / 255])
    with pytest.raises(DataError, match="absent"):
        model.embed(["absent.jpg"])


def test_importing_costs_nothing() -> None:
    code = "import sys, reidgen; print([name for name in ('torch', 'numpy', 'pandas', 'typer', 'rich') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("seeds", [0, -1, 1001, [], [1.5], 1.5, "3", True])
def test_seeds_that_mean_nothing_are_refused(seeds: object, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"give 1 to 1,000 seeds, or a list of seeds such as \[2, 4\]"):
        reidgen.bench("synth-plaza", methods="snr", seeds=seeds, recipe=SMALL, data=small_data, results=tmp_path)  # type: ignore[arg-type]


def test_an_empty_text_is_no_default(tmp_path: Path) -> None:
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: reidgen.train(source="", results=tmp_path), "source '' has an empty name"),
        (lambda: reidgen.train(recipe="", results=tmp_path), "unknown recipe ''"),
        (lambda: reidgen.bench(protocol="", results=tmp_path), "unknown protocol ''"),
        (lambda: reidgen.evaluate(Run(tmp_path), "duke", test=["plain", ""], data=tmp_path), "has an empty name"),
    ]
    for call, says in calls:
        with pytest.raises(ReidgenError, match=says):
            call()


@pytest.mark.parametrize("verb", ["train", "bench"])
def test_a_setting_that_changes_nothing_is_said(
    verb: str, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for progress, says in ((None, "note: the setting snr.distance changes nothing of baseline\n"), (False, "")):
        with pytest.raises(DataError, match="market is not prepared"):
            getattr(reidgen, verb)(
                source="market",
                **{"train": {"method": "baseline"}, "bench": {"methods": "baseline"}}[verb],
                settings={"snr.distance": "euclidean"},
                data=small_data,
                results=tmp_path,
                progress=progress,
            )
        assert capsys.readouterr().out == says
