"""The grid: what it runs, what it skips, and a golden table from drawn images to text."""

import os
from pathlib import Path

import pandas as pd
import pytest
from conftest import SMALL, quiet

from reidgen import bench as bench_module
from reidgen.bench import bench, rows_of
from reidgen.data.prepare import prepare
from reidgen.entries import Protocol
from reidgen.errors import DataError
from reidgen.runs import read_rows
from reidgen.tables.compare import make_table

GOLDEN = Path(__file__).parent / "golden" / "end_to_end.md"


def run(
    data: Path, results: Path, methods: list[str], seeds: int, lr: float = SMALL.lr, targets: tuple[str, ...] = ()
) -> list[str]:
    said: list[str] = []
    bench(
        SMALL.change(lr=lr),
        methods=methods,
        seeds=range(seeds),
        data=data,
        results=results,
        targets=targets,
        device="cpu",
        report=quiet,
        say=said.append,
    )
    return said


def test_golden_end_to_end(small_data: Path, tmp_path: Path) -> None:
    """Drawn images -> two methods x two seeds -> the table's text.

    The learning rate is so small that another machine's rounding does not grow into another ranking.

    Renew (and look at the difference): REIDGEN_RENEW=1 pytest tests/test_bench.py
    """
    run(small_data, tmp_path, ["baseline", "snr"], 2, lr=1e-7)
    rows = read_rows(tmp_path)
    rows = rows[rows["target"].isin(["synth-plaza", "synth-night"])]
    text = "\n".join(line for line in make_table(rows).markdown().splitlines() if line.startswith("|")) + "\n"
    if os.environ.get("REIDGEN_RENEW"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_only_what_is_missing_runs(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_train, real_evaluate = bench_module.train, bench_module.evaluate

    def train(recipe, **settings):  # type: ignore[no-untyped-def]
        calls.append(f"train {recipe.method} s{recipe.seed}")
        return real_train(recipe, **settings)

    def evaluate(run, target, **settings):  # type: ignore[no-untyped-def]
        calls.append(f"evaluate {target}")
        return real_evaluate(run, target, **settings)

    monkeypatch.setattr(bench_module, "train", train)
    monkeypatch.setattr(bench_module, "evaluate", evaluate)
    run(small_data, tmp_path, ["baseline"], 1)
    first = list(calls)
    assert {"evaluate synth-plaza", "evaluate synth-night"} <= set(first)
    calls.clear()
    done = next(tmp_path.glob("runs/*/*/done")).stat().st_mtime_ns
    run(small_data, tmp_path, ["baseline", "in"], 1)
    assert calls == ["train baseline s0", "train in s0", *[call for call in first if call.startswith("evaluate")]]
    assert next(tmp_path.glob("runs/*/baseline*/done")).stat().st_mtime_ns == done


def test_a_target_that_shares_images_is_left_out_and_named(small_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    for number, path in enumerate(sorted((small_data / "synth-plaza").rglob("bounding_box_train/*.jpg"))[:16]):
        pid, camera = path.name.split("_")[0], path.name.split("_")[1][:2]
        (folder / pid).mkdir(parents=True, exist_ok=True)
        (folder / pid / f"{camera}_{number}.jpg").write_bytes(path.read_bytes())
    data = tmp_path / "data"
    data.mkdir()
    (data / "synth-plaza").symlink_to(small_data / "synth-plaza")
    prepare("leak", data=data, source=folder)
    said = run(data, tmp_path, ["baseline", "in"], 1)
    assert "not evaluated, as own crops or of the same people as another: leak (to do so: --target)" in said
    said = run(data, tmp_path, ["baseline", "in"], 1, targets=("synth-plaza", "leak"))
    assert sum(line.startswith("left out: target leak shares 16 image files") for line in said) == 1  # not once per run
    assert set(read_rows(tmp_path)["target"]) == {"synth-plaza"}


def test_a_protocol_runs_the_cells_that_are_prepared(small_data: Path, tmp_path: Path) -> None:
    protocol = Protocol(
        name="mine",
        title="",
        paper="",
        cells={
            "synth-night-all": ("synth-plaza",),
            "synth-plaza+synth-night": ("synth-plaza", "synth-mall", "synth-night"),
            "synth-plaza+synth-mall": ("synth-night",),
        },
    )
    said: list[str] = []

    def go(methods: list[str]) -> dict[str, tuple[str, list[str]]]:
        return bench(SMALL, methods=methods, seeds=[0], data=small_data, results=tmp_path, protocol=protocol,
                     device="cpu", report=quiet, say=said.append).sources  # fmt: skip

    grid = go(["baseline", "in"])
    assert {source: targets for source, (_, targets) in grid.items()} == {
        "synth-night-all": ["synth-plaza"],
        "synth-plaza+synth-night": ["synth-plaza", "synth-night"],
    }
    assert said[:2] == [
        "target synth-mall is left out: synth-mall is not prepared (run: reidgen prepare synth-mall)",
        "source synth-plaza+synth-mall is left out: synth-mall is not prepared (run: reidgen prepare synth-mall)",
    ]
    assert said[2].startswith("[1/4] synth-night-all: baseline s0: trained in ") and "mean of 1 unseen" in said[2]
    assert len(said) == 6 and "no unseen target" in said[5]  # both of the second cell's targets are seen
    rows = read_rows(tmp_path)
    assert len(rows) == 2 * 3 and rows["seen"].sum() == 4
    again = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("results.csv"))]
    assert go(["baseline", "in"]) == grid
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("results.csv"))] == again
    # The table of a protocol holds its cells and nothing else; that of a source leaves other sources' rows alone.
    others = rows.head(3).assign(hash=["x", rows["hash"][1], rows["hash"][2]], target=["synth-plaza", "grid", "grid"])
    others = others.assign(source=["synth-night-all", "synth-night-all", "market"])
    both = pd.concat([rows, others], ignore_index=True)
    assert rows_of(grid, both, alone=True).equals(rows)
    assert rows_of(grid, both, alone=False).equals(both.drop(index=len(rows)))
    means = make_table(rows_of(grid, both, alone=True)).cells.query("target == 'mean of unseen'")
    assert set(means["source"]) == {"synth-night-all"}


def test_a_protocol_of_which_nothing_is_prepared_ends_at_once(small_data: Path, tmp_path: Path) -> None:
    protocol = Protocol(name="mine", title="", paper="", cells={"synth-mall": ("synth-night",)})
    with pytest.raises(DataError, match="nothing of the protocol mine can be run; source synth-mall is left out"):
        bench(SMALL, methods=["snr"], seeds=[0], data=small_data, results=tmp_path, protocol=protocol,
              device="cpu", report=quiet, say=lambda line: None)  # fmt: skip
    assert not list(tmp_path.iterdir())
