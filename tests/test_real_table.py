"""scripts/real_table.py: what is carried is what was prepared, and a second call goes on from the rows alone."""

import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest

from reidgen import training
from reidgen.data.batches import load_source
from reidgen.data.manifest import load_index, load_prepared
from reidgen.errors import DataError, RunError
from reidgen.methods import METHODS
from reidgen.planning import planned_run
from reidgen.recipe import RECIPES, Recipe
from reidgen.stopping import stop_signals
from reidgen.teststeps import Way
from reidgen.training import Trainer

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def real_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import real_table

    yield real_table
    sys.modules.pop("real_table")


@pytest.fixture
def carried(real_table: ModuleType, small_data: Path, tmp_path: Path) -> Path:
    weights = tmp_path / "some.pth"
    weights.write_bytes(b"weights")
    folder = tmp_path / "carried"
    size = real_table.carry(folder, small_data, ["synth-plaza"], ["synth-night"], weights)
    assert size == pytest.approx(sum(one.stat().st_size for one in folder.rglob("*") if one.is_file()) / 1e6)
    assert (folder / "weights.pth").read_bytes() == b"weights"
    return folder


@pytest.fixture
def rehearsal(real_table: ModuleType, carried: Path, tmp_path: Path) -> tuple[Recipe, Path]:
    """The tiny recipe, and the folder of the data that were carried."""
    real_table.unpack(carried, tmp_path / "data")
    return real_table.rehearsal_of(real_table.recipe_of("synth-plaza", "none", "float32")), tmp_path / "data"


def test_the_parts_that_are_carried_give_the_same_pixels(
    real_table: ModuleType, carried: Path, small_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "there"
    real_table.unpack(carried, data)
    real_table.unpack(carried, data)  # again: nothing to do
    before, after = (load_index(load_prepared("synth-plaza", one)) for one in (small_data, data))
    assert after.equals(before[before["part"] == "train"].reset_index(drop=True))
    assert "only train of the set with the digest" in load_prepared("synth-plaza", data).accepted
    assert set(load_index(load_prepared("synth-night", data))["part"]) == {"query", "gallery"}
    recipe = RECIPES["quick"].change(source="synth-plaza", identities=2, images=2)
    whole, part = (load_source(recipe, data=one, report=lambda *_: None) for one in (small_data, data))
    assert whole.pixels_NHWC.equal(part.pixels_NHWC) and (whole.label_N == part.label_N).all()
    assert whole.digest != part.digest
    with pytest.raises(DataError, match="synth-plaza has no query and no gallery"):
        real_table.cut("synth-plaza", data, tmp_path / "no", ["query", "gallery"])


def test_what_is_missing_runs_in_order_and_rows_alone_are_enough_to_go_on(
    real_table: ModuleType,
    carried: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun: list[tuple[str, int]] = []
    real = real_table.train

    def train(recipe, **options):  # type: ignore[no-untyped-def]
        begun.append((recipe.method, recipe.seed))
        if begun[-1] == ("snr", 0) and len(begun) == 2:
            raise RunError("the loss is not finite")
        return real(recipe, **options)

    monkeypatch.setattr(real_table, "train", train)
    monkeypatch.setattr(real_table, "SEEDS", (0, 1))
    first, second = tmp_path / "first", tmp_path / "second"
    command = ["real_table.py", "run", str(carried)]
    monkeypatch.setattr(sys, "argv", [*command, str(first), "--rehearse", "--device", "cpu"])
    real_table.main()
    assert begun == [("baseline", 0), ("snr", 0), ("baseline", 1), ("snr", 1)]
    said = capsys.readouterr().out
    assert "snr s0: failed: the loss is not finite; 2 to go" in said and "1 runs are left" in said
    assert "# Results" in (first / "table.md").read_text() or "| Method" in (first / "table.md").read_text()

    begun.clear()
    second.mkdir()
    for name in ("rows.csv", "rows.csv.sha256", "identities.csv.gz", "identities.csv.gz.sha256"):
        shutil.copyfile(first / name, second / name)
    monkeypatch.setattr(sys, "argv", [*command, str(second), "--rehearse", "--device", "cpu"])
    real_table.main()
    assert begun == [("snr", 0)] and "every run is there" in capsys.readouterr().out
    rows = pd.read_csv(second / "rows.csv")
    assert len(rows) == 4 and set(rows["target"]) == {"synth-night"} and rows["hash"].nunique() == 1


def test_the_six_come_first_and_none_is_begun_behind_the_end(
    real_table: ModuleType, rehearsal: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, data = rehearsal
    results = tmp_path / "results"
    waiting = list(real_table.missing(recipe, ["synth-night"], [Way()], data, results, list(METHODS)))
    six = {"baseline", "in", "ibn", "a-in", "a-sn", "snr"}
    assert len(waiting) == 3 * len(METHODS) and {one.method for one in waiting[:18]} == six
    assert [one.seed for one in waiting[:18]] == [0] * 6 + [1] * 6 + [2] * 6
    monkeypatch.setattr(real_table, "one_run", lambda *_: pytest.fail("begun"))
    assert real_table.work(recipe, ["synth-night"], data, results, "main", "cpu", end=0.0) == 18


def test_what_the_end_cuts_off_goes_on_and_what_another_is_at_is_passed_over(
    real_table: ModuleType,
    rehearsal: tuple[Recipe, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, data = rehearsal
    results = tmp_path / "results"
    real, begun, now = Trainer.learn, list[int](), [0.0]

    def learn(self: Trainer, *given: object) -> None:
        begun.append(self.step)
        real(self, *given)

    monkeypatch.setattr(Trainer, "learn", learn)
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(real_table, "SEEDS", (0,))
    monkeypatch.setattr(real_table, "time", SimpleNamespace(monotonic=lambda: now[0] + (len(begun) > 0)))
    arguments = (recipe, ["synth-night"], data, results, "baseline,snr", "cpu")
    before = signal.getsignal(signal.SIGTERM)
    assert real_table.work(*arguments, 1.0, "plain,bn") == 2
    said = capsys.readouterr().out
    assert "baseline s0: stopped at step 1 of 2; the state is kept in" in said and "snr" not in said and begun == [0]
    assert not (results / "rows.csv").exists() and signal.getsignal(signal.SIGTERM) == before

    now[0] = -1.0
    with planned_run(recipe.change(method="snr"), data=data, results=results).lock(), ThreadPoolExecutor(1) as other:
        assert other.submit(real_table.work, *arguments, 1.0, "plain,bn").result() == 1
    assert "snr s0: passed over: " in capsys.readouterr().out and begun == [0, 1]
    rows = pd.read_csv(results / "rows.csv")
    assert sorted(rows["test"]) == ["bn", "plain"] and set(rows["method"]) == {"baseline"}


def test_an_end_within_the_set_up_stops_the_training_once_it_listens(
    real_table: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_table, "time", SimpleNamespace(monotonic=lambda: 2.0))
    report = real_table.stopping_at(1.0)
    report("packing", 1, 2)  # of pixels; nobody listens, and the process lives on
    with stop_signals() as stop:
        report("a step", 1, 2)
        assert stop.is_set()
        report("a step", 2, 2)  # once: a second signal would stop hard
    real_table.stopping_at(3.0)("a step", 1, 2)


def test_the_recipe_is_the_papers_on_small_images(real_table: ModuleType) -> None:
    recipe, paper = real_table.recipe_of("market", "w.pth", "bfloat16"), RECIPES["paper"]
    assert (recipe.size, recipe.backbone, recipe.weights, recipe.dtype) == (
        (128, 64),
        "mobilenet_v2",
        "w.pth",
        "bfloat16",
    )
    assert (
        recipe.change(
            height=256, width=128, backbone="resnet50", weights="imagenet", dtype="float32", source=paper.source
        )
        == paper
    )
