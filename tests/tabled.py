"""Result rows made by hand, and how a table of them reads: for the tests of tables."""

import cProfile
import functools
import io
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from reidgen.rows import ADDED, COLUMNS
from reidgen.tables import compare
from reidgen.tables.choose import Note

PAPER = pd.read_csv(Path(compare.__file__).with_name("paper_tables.csv"))


SCORES = {"mAP": 0.3, "rank1": 0.5, "rank5": 0.6, "rank10": 0.7, "mINP": 0.1}


MADE = {
    "backbone": "tiny", "queries": 100, "gallery": 400, "unmatched": 0, "recipe": "quick", "hash": "1a2b3c4d5e6f7788",
    "data": "aaaa1111", "source_data": "bbbb2222", "version": "0.1.0", "commit": "abc1234", "torch": "2.9.1",
    "device": "cpu", "dtype": "float32", "date": "2026-05-01T10:00:00", **ADDED,
}  # fmt: skip


def row(
    method: str, target: str, *, source: str = "market", seed: int = 0, split: int = 0, **more: Any
) -> dict[str, Any]:
    place = {"source": source, "target": target, "seen": int(target in source.split("+")), "split": split}
    return {**place, "method": method, "seed": seed, **SCORES, **MADE, **more}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(COLUMNS)


def cell(table: compare.Table, method: str, target: str, source: str = "market") -> pd.Series:
    cells = table.cells
    found = cells[(cells["source"] == source) & (cells["method"] == method) & (cells["target"] == target)]
    assert len(found) == 1
    return found.iloc[0]


def line(markdown: str, start: str, nth: int = 0) -> list[str]:
    """The cells of the nth Markdown line whose first cell is `start`."""
    lines = [[part.strip() for part in text[2:-2].split(" | ")] for text in markdown.splitlines()]
    return [parts for parts in lines if parts[0] == start][nth]


def said(notes: list[Note]) -> list[str]:
    return [str(note) for note in notes]


def screen(table: compare.Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(table.rich())
    return capture.get()


def small() -> pd.DataFrame:
    """Two methods, two seeds, two sources; viper over two splits, duke lacks one seed of snr, one row made otherwise."""
    rows = [
        row(method, target, seed=seed, split=split, mAP=mAP + 0.04 * seed + 0.02 * split, rank1=mAP + 0.08)
        for method, plus in (("snr", 0.1), ("baseline", 0.0))
        for target, mAP, splits in (("market", 0.8 + plus, 1), ("duke", 0.2 + plus, 1), ("viper", 0.3 + plus, 2))
        for seed in (0, 1)
        for split in range(splits)
        if (method, target, seed) != ("snr", "duke", 1)
    ]
    rows += [row("baseline", target, source="synth-plaza") for target in ("synth-plaza", "viper", "duke")]
    rows += [row("my|norm", "market", date="2026-05-03T10:00:00"), row("snr", "grid", hash="ffff0000", date="2026-06")]
    return frame(*rows)


def of_paper(name: str, **more: Any) -> pd.DataFrame:
    """One row of ours for each number of a table of the paper, and one on a target it does not have."""
    own = PAPER[PAPER["table"] == name]
    rows = [
        row(r.method, r.target, source=r.source, mAP=r.map / 100, rank1=r.rank1 / 100, **more) for r in own.itertuples()
    ]
    return frame(*rows, *(row(m, "pku", source=s) for m, s in set(zip(own["method"], own["source"], strict=True))))


NAMES = [
    "duke",
    "msmt17-v1",
    "cuhk01",
    "cuhk-sysu",
    "prid",
    "grid",
    "viper",
    "ilids",
    "sensereid",
    "pku",
    "personx",
    "synth-mall",
]


@functools.cache
def compared(seeds: int, *, targets: int = 4, people: int = 40) -> tuple[pd.DataFrame, pd.DataFrame]:
    from test_significance import simulate

    methods = {"baseline": 0.3, "in": 0.3, "ibn": 0.4, "snr": 0.6}
    return simulate(targets=dict.fromkeys(NAMES[:targets], 1), seeds=seeds, methods=methods, people=people)


def calls(work: Callable[[], object]) -> int:
    """How many functions a piece of work calls: what it costs, on a busy machine too."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return pstats.Stats(profile).total_calls
