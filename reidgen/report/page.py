"""The report: everything a results folder holds, as one HTML file that opens anywhere. No torch, no data set is opened.

    rows -> reidgen.tables.compare -> headlines, tables, the runs behind every cell \\
    cells, run folders, pictures of `show` -> reidgen.report.sections -> plots      -> page.html.jinja -> report.html

This module collects, `plots` draws, the template lays out.
"""

import functools
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from reidgen.files import write_text
from reidgen.methods import FIRST
from reidgen.report.plots import styles
from reidgen.report.sections import Behind, for_curves, make_sections, mean_first, score, show_sections
from reidgen.rows import ELSEWHERE, UNDECLARED
from reidgen.runs import provenance, read_rows
from reidgen.tables.choose import CELL, GROUP, TRAINED, group_names, trained_on
from reidgen.tables.compare import MEAN, Table, make_table
from reidgen.tables.explain import repeat_run
from reidgen.tables.formats import difference, mark, marks_legend, p_value
from reidgen.tables.identities import read_identities, run_names
from reidgen.tables.paper import in_order
from reidgen.tables.settings import read_settings
from reidgen.tables.statistics import LEVEL
from reidgen.teststeps import PLAIN

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

Key = tuple[Any, ...]  # of a group: its source, backbone, recipe's hash and test
LEGEND = (
    "mAP in %, below it Rank-1 in %; bold: the best mAP of a column; ±: standard deviation over seeds; "
    "seen: the source's own cameras, not in the mean"
)


def make_report(results: Path, *, images: bool = False) -> Path:
    """Write `results`/report.html and return its path: one file without any request, for light, dark and narrow
    screens.

    It holds what `results` has: a finding per group computed from the numbers, the tables, a heat map, bars with
    spread and, where the table has them, intervals of the differences, CMC curves (mean over splits, then seeds),
    training curves (mean over seeds), what `reidgen show` drew, what others published of the same sources and targets,
    and the runs behind every cell. A results folder with
    rows.csv alone is enough. The same folder gives the same bytes.
    Pictures that show images of a data set are **excluded** unless `images`, whatever the file's size then; plots of
    `show` are embedded up to BUDGET characters, so that the file stays below 5 MB.
    Raises ReidgenError when there are no rows, RunError when a file of a run is damaged.
    """
    rows = read_rows(results)
    pictures = list(show_sections(results, images=images))  # before what takes long: one may be damaged
    identities, settings = read_identities(results, rows), read_settings(results, rows)
    table = make_table(rows, paper=True, literature=True, identities=identities, settings=settings)
    rows = _numbered(table)
    runs = _runs(rows, results)
    drawn = for_curves(table.cells)
    style = styles([*drawn, *table.cells["title"]])
    sections = [*make_sections(table.cells, runs, style, curves_of=drawn), *pictures]
    text = _template().render(
        facts=_facts(table.cells, rows),
        headlines=headlines(table),
        blocks=_blocks(table, rows),
        legend="; ".join(filter(None, (LEGEND, marks_legend(table.cells, table.against)))) + ".",
        statistics=table.findings,
        caption=table.caption,
        notes=table.notes,
        sections=[section for section in sections if section.panels],
        missing=[section.missing for section in sections if section.missing],
        groups=[group for group in table.cells["group"].unique() if group != FIRST] if table.has_groups else [],
        first=FIRST,
        literature=table.literature,
        style={name: style[name] for name in drawn},
        longest=max(map(len, table.cells["title"])),
        mean=MEAN,
        runs=[_birth_certificate(*run) for run in runs],
        made=provenance(),
    )
    path = results / "report.html"
    write_text(path, text)
    return path


@functools.cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    template = resources.files("reidgen.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"breakable": _breakable, "sentence": _sentence}
    return page.from_string(template)


def headlines(table: Table) -> list[tuple[str, str]]:
    """Return for each source, backbone and recipe the main finding in a sentence, and what is to be known of it.

    The finding is that of the plain test, or else of the first; the others' highest mAP stands behind it.
    Methods are compared by the mean mAP over the unseen targets that all of them have. A difference is called
    significant only by the table's test over people; without one, and between the first two, the spread over seeds is
    named, and what is unknown.
    """
    names = group_names(table.cells)
    found = []
    for _, trained in table.cells.groupby(TRAINED, sort=False):
        tests = {tuple(key): cells for key, cells in trained.groupby(GROUP, sort=False)}
        main = next((key for key in tests if key[-1] == PLAIN), next(iter(tests)))
        headline, sure = _headline(names[main], tests[main], table.means.get(main, []))
        found.append((headline, " ".join(filter(None, (sure, _other_tests(main, tests, table.means))))))
    return found


def _by_mean(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of the mean of unseen, the highest mAP first."""
    return cells[cells["target"] == MEAN].sort_values("mAP", ascending=False, kind="stable")


def _other_tests(main: Key, tests: dict[Key, pd.DataFrame], means: dict[Key, list[str]]) -> str:
    """Return the highest mAP of the tests that are not the main one, in few words; "" where there is none."""
    first, said = _by_mean(tests[main])["title"].head(1).tolist(), []
    for key, cells in tests.items():
        best = _by_mean(cells).head(1).to_dict("records")
        if key == main or not best:
            continue
        words = f"{key[-1]} {best[0]['mAP']:.1f}"
        words += f" by {best[0]['title']}" if [best[0]["title"]] != first else ""
        targets = means[key]
        where = targets[0] if len(targets) == 1 else f"the mean of {len(targets)} unseen targets"
        said.append(words + (f" on {where}" if targets != means.get(main) else ""))
    return f"The highest mAP with other test steps: {', '.join(said)}." if said else ""


def _headline(name: str, cells: pd.DataFrame, targets: list[str]) -> tuple[str, str]:
    means = _by_mean(cells)
    source, backbone = cells[["source", "backbone"]].iloc[0]
    trained = _sentence(trained_on(name)) + (":" if backbone == ELSEWHERE else ",")
    if source == UNDECLARED:
        return (
            f"{trained} no target is known to be unseen.",
            "To declare what a model was trained on, evaluate it again with --trained-on NAME.",
        )
    if cells["seen"].all():
        return f"{trained} the methods were measured on its own cameras only.", "Nothing unseen to compare yet."
    if means.empty:
        return (
            f"{trained} the methods were measured on no unseen set of the catalogue.",
            "Own crops enter a mean where they are asked for: reidgen table --target NAME,NAME",
        )
    best = means.iloc[0]
    where = "the one unseen target" if len(targets) == 1 else f"the mean of {len(targets)} unseen targets"
    if len(means) == 1:
        lacks = f"No other method was measured on {'it' if len(targets) == 1 else 'them'}."
        return (
            f"{trained} {best['title']} reaches {best['mAP']:.1f} mAP on {where}.",
            lacks if cells["method"].nunique() > 1 else "",
        )
    base = means[means["method"] == "baseline"]
    above = "."
    if len(base) and best["method"] != "baseline":
        gain = f"{best['mAP'] - base['mAP'].iloc[0]:.1f}"
        if pd.notna(best["gain_mAP"]):
            gain = difference({**best, "gain_mAP_p": None}).removeprefix("+")
        above = f", {gain} points above Baseline ({base['mAP'].iloc[0]:.1f})."
    said = [_tested(best)] if above != "." else []
    second = means.iloc[1]
    if second["method"] != "baseline":
        gap, both = best["mAP"] - second["mAP"], best["mAP_std_seeds"] + second["mAP_std_seeds"]
        said.append(f"Second is {second['title']} with {score(second)}, {gap:.1f} points behind")
        said[-1] += f": {'more' if gap > both else 'no more'} than the two spreads together." if pd.notna(both) else "."
    if min(best["seeds"], second["seeds"]) == 1:
        said.append("With one seed, nobody knows how much another seed would change.")
    headline = f"{trained} {best['title']} has the highest mAP on {where}: {best['mAP']:.1f}{above}"
    return headline, " ".join(said)


def _tested(cell: "pd.Series[Any]") -> str:
    """Return what the table's test says about the difference between a cell and Baseline."""
    p = cell["gain_mAP_holm"]
    if pd.isna(p):
        return "Whether the difference would hold for other people was not tested: there are no per-query numbers."
    words = "is significant" if p < LEVEL else "is not significant, it may be chance"
    interval = f"{cell['gain_mAP_low']:+.1f} to {cell['gain_mAP_high']:+.1f}".replace("-", "−")
    own = f"{p_value(p)}; its own 95 % interval: {interval}"
    return f"After Holm's correction for all comparisons here, that {words} ({own})."


def _facts(cells: pd.DataFrame, rows: pd.DataFrame) -> dict[str, str]:
    """Return what was compared, heading -> words."""
    days = sorted(rows["date"].str[:10])
    targets = [target for target in cells["target"].drop_duplicates() if target != MEAN]
    trained = cells[["source", "backbone"]].drop_duplicates().itertuples(index=False, name=None)
    sources = dict.fromkeys(_as_told(source, backbone) for source, backbone in trained)
    return {
        "Methods": ", ".join(cells["title"].drop_duplicates()),
        "Trained on": ", ".join(sources),
        "Measured on": ", ".join(targets),
        "Runs": f"{rows['folder'].nunique()} ({len(rows):,} rows), {' to '.join(dict.fromkeys((days[0], days[-1])))}",
    }


def _as_told(source: str, backbone: str) -> str:
    """Return a source, and whether it is only declared to be one."""
    if source == UNDECLARED:
        return "not declared"
    return f"{source} (as declared)" if backbone == ELSEWHERE else source


def _blocks(table: Table, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one block per group: its columns, the mean first, and per method the cells, {} where
    there is no number.
    """
    behind = rows.groupby(CELL).agg(anchor=("run", "min"), seeds_named=("seed", _names))
    total = rows.groupby(CELL[:-1]).agg(anchor=("run", "min"), seeds_named=("seed", _names))
    targets = list(table.columns())
    blocks = []
    for name, methods in table.blocks().items():
        lines = []
        for cells in methods.values():
            line = {}
            for target, cell in zip(targets, cells, strict=True):
                if cell:
                    key = tuple(cell[column] for column in CELL)
                    runs = total.loc[key[:-1]] if target == MEAN else behind.loc[key]
                    line[target] = {**cell, "mark": mark(cell), "best": cell["mAP_place"] == 1, **runs.to_dict()}
            first = next(iter(line.values()))
            lines.append((first["title"], first["group"], line))
        shown = {target for *_, line in lines for target in line}
        columns = [target for target in mean_first(targets) if target in shown]
        seen = table.seen(name)
        blocks.append({"trained": trained_on(name), "columns": columns, "seen": seen, "lines": lines})
    return blocks


def _numbered(table: Table) -> pd.DataFrame:
    """Return the rows behind the cells with `run` (a number), `folder` (its name), `title` and `group` (what they
    show).
    """
    order = {column: in_order(table.cells[column], column) for column in CELL}
    rows = table.rows.sort_values(
        [*GROUP, "method", "seed", "target", "split"],
        key=lambda part: part.map(order[str(part.name)].index) if part.name in order else part,
    )
    number = rows.groupby([*GROUP, "method", "seed"], sort=False).ngroup()
    titles = table.cells.drop_duplicates("method").set_index("method")["title"]
    names = group_names(rows)
    group = [names[key] for key in rows[GROUP].itertuples(index=False, name=None)]
    return rows.assign(run=number, folder=run_names(rows), title=rows["method"].map(titles), group=group)


def _runs(rows: pd.DataFrame, results: Path) -> list[Behind]:
    """Return one entry per run, in the order of the tables."""
    targets = rows.groupby("run")["target"].unique()
    runs = cast(list[dict[str, Any]], rows.drop_duplicates("run").to_dict("records"))
    return [(run, results / "runs" / run["folder"], list(targets[run["run"]])) for run in runs]


def _birth_certificate(run: dict[str, Any], folder: Path, targets: list[str]) -> dict[str, Any]:
    """Return where a run came from, and the command that repeats it."""
    repeat = " && ".join(repeat_run(run, "/".join(folder.parts[-2:]), targets, folder.parents[2]))
    return {**run, "targets": targets, "repeat": repeat, "alike": f"{run['group']} {run['method']}"}


def _sentence(text: str) -> str:
    """Return a text with a capital letter in front."""
    return text[:1].upper() + text[1:]


def _breakable(name: str) -> "Markup":
    """Return a name for a page, which may break a line behind the signs that stand between the words of names."""
    from markupsafe import Markup

    return Markup("<wbr>").join(re.split(r"(?<=[_@+=,.:/])", name))


def _names(values: "pd.Series[Any]") -> str:
    return ", ".join(map(str, sorted(set(values))))
