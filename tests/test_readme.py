"""The README's first table is what the committed rows say."""

import re
from pathlib import Path

from reidgen.rows import percent
from reidgen.runs import read_rows
from reidgen.tables.average import titles
from reidgen.tables.paper import in_order

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "market-pku-2026-11-26"
TESTS = ("plain", "flip", "centre", "bn", "rerank")


def lines() -> list[str]:
    """Return the table's lines: of each method its name, mAP / Rank-1 on PKU-Reid with each test and on the mean of all
    targets, and its seeds; the highest mAP of a column is bold.
    """
    rows = read_rows(RESULTS)
    names, people = titles(rows), rows[rows["target"] == "pku"]
    blocks = {test: people[people["test"] == test] for test in TESTS} | {"mean": rows[rows["test"] == "plain"]}
    columns = {}
    for column, block in blocks.items():
        mean = block.groupby("method")[["mAP", "rank1"]].mean()
        words = {method: f"{percent(mAP)} / {percent(rank1)}" for method, mAP, rank1 in mean.itertuples()}
        best = mean["mAP"].idxmax()
        columns[column] = {**words, best: f"**{words[best]}**"}
    return [
        f"| {names[method]} | `{method}` | {' | '.join(column[method] for column in columns.values())} | "
        f"{rows[rows['method'] == method]['seed'].nunique()} |"
        for method in in_order(rows["method"], "method")
    ]


def test_the_first_table_of_the_readme_is_what_the_rows_say() -> None:
    text = (ROOT / "README.md").read_text()
    first = re.search(r"^\|.*\n\|[-:| ]+\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert first is not None and first[1].splitlines() == lines()
    assert f"results/{RESULTS.name}" in text[: first.end() + 1500]
