"""The README's first table is what the committed rows say."""

import re
from pathlib import Path

from reidgen.runs import read_rows
from reidgen.tables.average import titles
from reidgen.tables.paper import in_order

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "market-pku-2026-11-26"
TESTS = ("plain", "flip", "centre", "bn", "rerank")


def lines() -> list[str]:
    """Return the table's lines: of each method mAP / Rank-1 on PKU-Reid with each test, and its mean on synth."""
    rows = read_rows(RESULTS)
    names = titles(rows)
    people, drawn = (
        rows[rows["target"] == "pku"],
        rows[rows["target"].str.startswith("synth-") & (rows["test"] == "plain")],
    )
    found = []
    for method in in_order(rows["method"], "method"):
        own = people[people["method"] == method].set_index("test")
        blocks = [own.loc[[test]] for test in TESTS] + [drawn[drawn["method"] == method]]
        cells = [f"{100 * one['mAP'].mean():.1f} / {100 * one['rank1'].mean():.1f}" for one in blocks]
        found.append(f"| {' | '.join([names[method], *cells])} |")
    return found


def test_the_first_table_of_the_readme_is_what_the_rows_say() -> None:
    text = (ROOT / "README.md").read_text()
    first = re.search(r"^\|.*\n\|[-:| ]+\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert first is not None and first[1].splitlines() == lines()
    assert f"results/{RESULTS.name}" in text[: first.end() + 1500]
