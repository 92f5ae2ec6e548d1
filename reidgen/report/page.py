"""The report: everything a results folder holds, as one HTML file that opens anywhere. No torch, no data set is opened.

    rows -> reidgen.tables.compare -> headlines, tables, the runs behind every cell \\
    cells, run folders, pictures of `show` -> reidgen.report.sections -> plots      -> page.html.jinja -> report.html

This module collects, `plots` draws, the template lays out.
"""

from importlib import resources
from pathlib import Path
from typing import Any, cast

import pandas as pd

from reidgen.files import write_text
from reidgen.report.plots import styles
from reidgen.report.sections import Behind, headings, make_sections, score
from reidgen.runs import provenance, read_rows
from reidgen.tables.compare import CELL, MEAN, Table, comparable, make_table, p_value
from reidgen.tables.explain import repeat_run
from reidgen.tables.identities import read_identities, run_names
from reidgen.tables.looks import mark, marks_legend
from reidgen.tables.looks import title as title_of
from reidgen.tables.statistics import LEVEL

LEGEND = "mAP in %, below it Rank-1 in %; bold: the best mAP of a column; ±: standard deviation over seeds; seen: the source's own cameras, not in the mean"


def make_report(results: Path, *, images: bool = False) -> Path:
    """Write `results`/report.html and return its path: one file without any request, for light, dark and narrow screens.

    It holds what `results` has: a finding per source computed from the numbers, the tables, a heat map, bars with
    spread and, where the table has them, intervals of the differences, CMC curves (mean over splits, then seeds),
    training curves (mean over seeds), what `reidgen show` drew, and the runs behind every cell. A results folder with
    rows.csv alone is enough. The same folder gives the same bytes.
    Pictures that show images of a data set are **excluded** unless `images`, whatever the file's size then; plots of
    `show` are embedded up to BUDGET characters, so that the file stays below 5 MB.
    Raises ReidgenError when there are no rows, RunError when a file of a run is damaged.
    """
    from jinja2 import Environment, StrictUndefined

    rows = read_rows(results)
    table = make_table(rows, paper=True, identities=read_identities(results, rows))
    rows = _used(rows, table.cells)
    runs = _runs(rows, results)
    style = styles(map(title_of, dict.fromkeys(table.cells["method"])))
    sections = make_sections(table.cells, runs, results, style, images=images)
    template = resources.files("reidgen.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = page.from_string(template).render(
        facts=_facts(table.cells, rows),
        headlines=headlines(table),
        blocks=_blocks(table.cells, rows),
        legend="; ".join(filter(None, (LEGEND, marks_legend(table.cells, "Baseline")))) + ".",
        statistics=table.findings,
        caption=table.caption,
        notes=table.notes,
        sections=[section for section in sections if section.panels],
        missing=[section.missing for section in sections if section.missing],
        style=style,
        runs=[_birth_certificate(*run) for run in runs],
        made=provenance(),
    )
    path = results / "report.html"
    write_text(path, text)
    return path


def headlines(table: Table) -> list[tuple[str, str]]:
    """Return for each source the main finding in a sentence, and the sentences that say how sure it is.

    Methods are compared by the mean mAP over all unseen targets. A difference is called significant only by the table's
    test over people; without one, and between the first two, the spread over seeds is named, and what is unknown.
    """
    return [_headline(str(source), cells) for source, cells in table.cells.groupby("source", sort=False)]


def _headline(source: str, cells: pd.DataFrame) -> tuple[str, str]:
    unseen = cells[(cells["seen"] == 0) & (cells["target"] != MEAN)]
    means = cells[cells["target"] == MEAN].sort_values("mAP", ascending=False, kind="stable")
    if unseen.empty:
        return (
            f"Trained on {source}, the methods were measured on its own cameras only.",
            "Nothing unseen to compare yet.",
        )
    if means.empty:
        return (
            f"Trained on {source}, no method was measured on every unseen target.",
            "To fill the gaps, run: reidgen bench",
        )
    n, best = unseen["target"].nunique(), means.iloc[0]
    where = "the one unseen target" if n == 1 else f"the mean of {n} unseen targets"
    name = title_of(best["method"])
    if len(means) == 1:
        return (
            f"Trained on {source}, {name} reaches {best['mAP']:.1f} mAP on {where}.",
            "There is no other method to compare it with.",
        )
    base = means[means["method"] == "baseline"]
    above = "."
    if len(base) and best["method"] != "baseline":
        above = f", {best['mAP'] - base['mAP'].iloc[0]:.1f} points above Baseline ({base['mAP'].iloc[0]:.1f})."
    said = [_tested(best)] if above != "." else []
    second = means.iloc[1]
    if second["method"] != "baseline":
        gap, both = best["mAP"] - second["mAP"], best["mAP_std_seeds"] + second["mAP_std_seeds"]
        said.append(f"Second is {title_of(second['method'])} with {score(second)}, {gap:.1f} points behind")
        said[-1] += f": {'more' if gap > both else 'no more'} than the two spreads together." if pd.notna(both) else "."
    if min(best["seeds"], second["seeds"]) == 1:
        said.append("With one seed, nobody knows how much another seed would change.")
    return f"Trained on {source}, {name} has the highest mAP on {where}: {best['mAP']:.1f}{above}", " ".join(said)


def _tested(cell: "pd.Series[Any]") -> str:
    """Return what the table's test says about the difference between a cell and Baseline."""
    p = cell["gain_mAP_holm"]
    if pd.isna(p):
        return "Whether the difference would hold for other people was not tested: there are no per-query numbers."
    words = "is significant" if p < LEVEL else "is not significant, it may be chance"
    interval = f"{cell['gain_mAP_low']:+.1f} to {cell['gain_mAP_high']:+.1f}".replace("-", "−")
    return f"After Holm's correction for all comparisons here, that {words} ({p_value(p)}; its own 95 % interval: {interval})."


def _facts(cells: pd.DataFrame, rows: pd.DataFrame) -> dict[str, str]:
    """Return what was compared, heading -> words."""
    days = sorted(rows["date"].str[:10])
    targets = [target for target in cells["target"].drop_duplicates() if target != MEAN]
    return {
        "Methods": ", ".join(map(title_of, cells["method"].drop_duplicates())),
        "Trained on": ", ".join(cells["source"].drop_duplicates()),
        "Measured on": ", ".join(targets),
        "Runs": f"{rows['run'].nunique()} ({len(rows):,} rows), {' to '.join(dict.fromkeys((days[0], days[-1])))}",
    }


def _blocks(cells: pd.DataFrame, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one table per source: its columns, and per method the cells, {} where there is no number."""
    printed = cells["mAP"].round(1).groupby([cells["source"], cells["target"]])
    best = cells["mAP"].round(1).eq(printed.transform("max")) & printed.transform("size").gt(1)
    behind = rows.groupby(CELL).agg(anchor=("run", "min"), seeds_named=("seed", _names)).reset_index()
    total = rows.groupby(CELL[:2]).agg(anchor=("run", "min"), seeds_named=("seed", _names)).reset_index()
    behind = pd.concat([behind, total.assign(target=MEAN)])
    shown = cells.assign(best=best, mark=[mark(cell) for cell in cells.to_dict("records")]).merge(
        behind, how="left", on=CELL
    )
    blocks = []
    for source, block in shown.groupby("source", sort=False):
        columns = headings(block["target"])
        lines = {
            title_of(str(method)): {cell["target"]: cell for cell in line.to_dict("records")}
            for method, line in block.groupby("method", sort=False)
        }
        seen = set(block["target"][block["seen"] == 1])
        blocks.append({"source": source, "columns": columns, "seen": seen, "lines": lines})
    return blocks


def _used(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows behind the cells, the latest of each, with `run`: one number per run, by source and method."""
    order = {column: {name: i for i, name in enumerate(cells[column].drop_duplicates())} for column in CELL}
    used = comparable(rows)[0].sort_values(
        [*CELL[:2], "seed", "target", "split"],
        key=lambda part: part.map(order.get(str(part.name), lambda number: number)),
    )
    return used.assign(run=used.groupby(["source", "method", "seed"], sort=False).ngroup(), folder=run_names(used))


def _runs(rows: pd.DataFrame, results: Path) -> list[Behind]:
    """Return one entry per run, in the order of the tables."""
    targets = rows.groupby("run")["target"].unique()
    runs = cast(list[dict[str, Any]], rows.drop_duplicates("run").to_dict("records"))
    return [(run, results / "runs" / run["folder"], list(targets[run["run"]])) for run in runs]


def _birth_certificate(run: dict[str, Any], folder: Path, targets: list[str]) -> dict[str, Any]:
    """Return where a run came from, and the command that repeats it."""
    repeat = " && ".join(repeat_run(run, "/".join(folder.parts[-2:]), targets, folder.parents[2]))
    group = f"{run['source']} {run['method']}"
    return {**run, "title": title_of(run["method"]), "targets": targets, "repeat": repeat, "group": group}


def _names(values: "pd.Series[Any]") -> str:
    return ", ".join(map(str, sorted(set(values))))
