"""Result rows -> the comparison table, as Markdown, LaTeX, CSV or for the terminal. Pure: no torch, nothing written.

    rows -> _comparable (one recipe, one version of the data) -> _average (splits, then seeds) -> Table.cells -> four looks

The looks hold no arithmetic: each prints the numbers of `Table.cells`, percent with one decimal.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from reidgen.errors import ReidgenError
from reidgen.methods import METHODS

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

METRICS = ("mAP", "rank1", "rank5", "rank10", "mINP")
SHOWN = {"mAP": "mAP", "rank1": "R1"}  # what fits on a page, and its heading; the CSV holds all METRICS
MEAN = "mean of unseen"  # stands in the column `target` of the cells
CELL = ["source", "method", "target"]
COLUMNS = [*CELL, "seen", "seeds", "splits"]
COLUMNS += [f"{metric}{part}" for metric in METRICS for part in ("", "_std_seeds", "_std_splits")]
COLUMNS += [f"{part}_{metric}" for metric in SHOWN for part in ("paper", "diff")] + ["recipe", "backbone", "version"]


_Cell = dict[str, Any]  # one row of Table.cells, and `<metric>_place`: 1, 2, ... or NaN; {} where there is no number


@dataclass(frozen=True)
class _Look:
    """How one format writes a number, its marks, a pair of numbers and a name."""

    best: str
    second: str
    spread: str
    pair: str
    scores: str
    source: str
    seen: str
    paper: str
    escape: Callable[[str], str]
    unseen: str = ""
    difference: str = "{} ({})"
    missing: str = "–"
    minus: str = "−"

    def number(self, cell: _Cell, metric: str) -> str:
        """Return our number with its marks and spread."""
        if not cell:
            return self.missing
        text = {1: self.best, 2: self.second}.get(cell[f"{metric}_place"], "{}").format(f"{cell[metric]:.1f}")
        std = cell[f"{metric}_std_seeds"]
        return text if pd.isna(std) else text + self.spread.format(f"{std:.1f}")

    def beside(self, cell: _Cell, metric: str) -> str:
        """Return the paper's number and the difference, ours minus theirs."""
        if not cell or pd.isna(cell[f"paper_{metric}"]):
            return self.missing
        difference = f"{cell[f'diff_{metric}']:+.1f}"
        difference = "0.0" if difference in ("+0.0", "-0.0") else difference.replace("-", self.minus)
        return self.difference.format(f"{cell[f'paper_{metric}']:.1f}", difference)


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "±": r"$\pm$"}
_TEX |= {character: f"\\{character}" for character in "_%&#${}"}
_MARKDOWN = _Look(  # <ins>, not <u>: GitHub's sanitizer drops <u>
    best="**{}**", second="<ins>{}</ins>", spread="±{}", pair=" / ", scores="mAP / Rank-1",
    source="**Source: {}**", seen="*seen*", paper="*paper (difference)*",
    escape=lambda text: re.sub(r"([\\`*_<|])", r"\\\1", text),
)  # fmt: skip
_TERMINAL = _Look(
    best="[bold]{}[/bold]", second="[underline]{}[/underline]", spread=" ±{}", pair="\n", scores="mAP, Rank-1 (R1)",
    source="[bold]{}[/bold]", seen="(seen)", paper="[dim]  paper[/dim]", difference="[dim]{} {}[/dim]",
    escape=lambda text: text.replace("[", r"\["),
)  # fmt: skip
_LATEX = _Look(
    best=r"\textbf{{{}}}", second=r"\underline{{{}}}", spread=r"$_{{\pm{}}}$", pair=" & ", scores="mAP and Rank-1 (R1)",
    source="\\midrule\n\\emph{{Source: {}}}", seen=r"\multicolumn{2}{c}{\emph{seen}}", unseen=r"\multicolumn{2}{c}{}",
    paper=r"\quad paper$_\mathrm{difference}$", difference="{}$_{{{}}}$", missing="--", minus="-",
    escape=lambda text: "".join(_TEX.get(character, character) for character in text),
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """The comparison table: its numbers, what to know about them, and four ways to print it.

    cells: one row per source, method and target, in the table's order, with the columns COLUMNS; the target MEAN is
    the mean over the unseen targets. Scores, spreads and differences in percent, NaN where there is none.
    `*_std_seeds`: over seeds (ddof 1); `*_std_splits`: over the splits of a run (ddof 1), averaged over runs.
    caption: one line of provenance. notes: one line for whatever was left out or is not alike.
    """

    cells: pd.DataFrame
    caption: str
    notes: list[str]

    def csv(self) -> str:
        """Return the cells as CSV, one line per source, method and target; pandas reads back the same frame."""
        return self.cells.to_csv(index=False, lineterminator="\n")

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown, with legend, provenance and notes below it."""
        names = [_MARKDOWN.escape(name) for name in self._headings().values()]
        lines = [["Method", *names], [":--", *["--:"] * len(names)], *self._lines(_MARKDOWN)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| – / – ", "| – ")
        return text + "\n\n" + "\n".join(f"- {line}" for line in self._below(_MARKDOWN)) + "\n"

    def latex(self) -> str:
        r"""Return the table as a LaTeX float for `\input`; it needs booktabs, and graphicx where it is wider than the text."""
        names = [_LATEX.escape(name) for name in self._headings().values()]
        lines = [["", *(rf"\multicolumn{{2}}{{c}}{{{name}}}" for name in names)]]
        lines += [["Method", *list(SHOWN.values()) * len(names)], *self._lines(_LATEX)]
        legend, *below = self._below(_LATEX)
        rules = "".join(rf"\cmidrule(lr){{{left}-{left + 1}}}" for left in range(2, 2 * len(names) + 1, 2))
        first, *rest = [" & ".join(line) + r" \\" for line in lines]
        return "\n".join([
            r"% Needs \usepackage{booktabs}; with \usepackage{graphicx} too, a table too wide is scaled to the text width.",
            r"\begin{table*}[t]", r"\centering\scriptsize\setlength{\tabcolsep}{2.5pt}\providecommand{\resizebox}[3]{#3}",
            rf"\caption{{{legend}}}\par\smallskip", r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'rr' * len(names)}}}", r"\toprule", first, rules, *rest, r"\bottomrule", r"\end{tabular}}",
            r"\par\medskip\begin{minipage}{\textwidth}\raggedright\tiny", "\\par\n".join(below), r"\end{minipage}",
            r"\end{table*}", "",
        ])  # fmt: skip

    def rich(self) -> "_Screen":
        """Return the table for a terminal, with legend and caption; `notes` are not in it: print them as warnings."""
        return _Screen(self)

    def _lines(self, look: _Look) -> Iterator[list[str]]:
        """Yield the lines of all blocks: the source, then each method and, where there is one, the paper's line."""
        for source, methods in self._blocks().items():
            name = look.source.format(look.escape(source))
            yield [name, *(look.seen if seen else look.unseen for seen in self._seen(source))]
            for method, cells in methods.items():
                yield [look.escape(_title(method)), *(look.pair.join(look.number(c, m) for m in SHOWN) for c in cells)]
                if any(not pd.isna(cell.get("paper_mAP")) for cell in cells):
                    yield [look.paper, *(look.pair.join(look.beside(c, m) for m in SHOWN) for c in cells)]

    def _headings(self) -> dict[str, str]:
        """Return the columns as target -> heading; "synth-" goes where every target has it."""
        targets = _in_order([*self.cells["target"], MEAN], _paper_order("target"))
        short = all(target.startswith("synth-") for target in targets[:-1])
        return {target: target.removeprefix("synth-") if short else target for target in targets}

    def _blocks(self) -> dict[str, dict[str, list[_Cell]]]:
        """Return source -> method -> one cell per column."""
        cells, by = self.cells.copy(), [self.cells["source"], self.cells["target"]]
        for metric in SHOWN:
            shown = cells[metric].map("{:.1f}".format).astype(float)  # a tie is what the reader sees as one
            places = shown.groupby(by).rank(method="dense", ascending=False)
            cells[f"{metric}_place"] = places.where(shown.groupby(by).transform("size") > 1)
        blocks: dict[str, dict[str, list[_Cell]]] = {}
        column = {target: number for number, target in enumerate(self._headings())}
        for cell in cast(list[_Cell], cells.to_dict("records")):
            line = blocks.setdefault(cell["source"], {}).setdefault(cell["method"], [{} for _ in column])
            line[column[cell["target"]]] = cell
        return blocks

    def _seen(self, source: str) -> list[bool]:
        """Return for each column whether its target is seen by `source`."""
        seen = set(self.cells.query("source == @source and seen == 1")["target"])
        return [target in seen for target in self._headings()]

    def _below(self, look: _Look) -> list[str]:
        """Return the lines under the table: legend, caption, notes."""
        words = (
            look.escape(f"{look.scores} in %; ")
            + f"{look.best.format('best')} and {look.second.format('second')} per source and column"
        )
        if look.spread and self.cells["seeds"].gt(1).any():
            words += look.escape("; ±: standard deviation over seeds")
        if self.cells["seen"].any():
            words += "; seen: the source's own cameras, not in the mean"
        if self.cells["diff_mAP"].notna().any():
            words += "; difference: ours minus the paper's"
        return [f"{words}.", look.escape(self.caption), *(look.escape(f"Note: {note}") for note in self.notes)]


@dataclass(frozen=True)
class _Screen:
    """A Table as Rich draws it: whole, or else without the spread, or else in parts below each other."""

    table: Table

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        names = list(self.table._headings())
        slim, wide = replace(_TERMINAL, spread=""), options.update(width=10_000)
        for parts, look in ((1, _TERMINAL), (1, slim), *((parts, _TERMINAL) for parts in range(2, len(names) + 1))):
            step = -(-len(names) // parts)
            drawn = [self._draw(look, slice(start, start + step)) for start in range(0, len(names), step)]
            if all(console.measure(part, options=wide).maximum <= options.max_width for part in drawn):
                break
        yield from drawn
        yield "\n".join(self.table._below(look)[:2])

    def _draw(self, look: _Look, part: slice) -> "RichTable":
        from rich import box
        from rich.table import Table as RichTable

        drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        width = max(len(_title(method)) for method in self.table.cells["method"])
        drawn.add_column("Method", min_width=width, max_width=max(width, 11), overflow="fold")
        drawn.add_column("", style="dim", no_wrap=True)
        for name in list(self.table._headings().values())[part]:
            drawn.add_column("mean of\nunseen" if name == MEAN else name, justify="right", no_wrap=True)
        for first, *cells in self.table._lines(look):
            if "\n" not in cells[-1]:
                drawn.add_section()
            drawn.add_row(first, "\n".join(SHOWN.values()) if "\n" in cells[-1] else "", *cells[part])
        return drawn


def make_table(rows: pd.DataFrame, *, paper: bool = False) -> Table:
    """Return the comparison table of result rows: source x method by target, laid out as the paper's main table.

    A cell is the mean over the splits of a run, then over seeds (std with ddof 1). The mean over unseen targets is
    taken per seed, over the seeds that have every unseen target its source has rows for; it is missing otherwise.
    Only like goes with like: per source the recipe hash, backbone, version and source data with the most rows (ties:
    the latest date), per target the data with the most rows, per run, target and split the latest row. Whatever is
    **excluded**, and every difference in seeds or splits, is said in `notes`.
    With `paper`, the numbers of the paper's main table for the same source, method and target, and ours minus theirs.

    rows: the columns of `reidgen.runs.COLUMNS`, scores as fractions; not modified.
    Raises ReidgenError when there are no rows.
    Source: the paper's numbers are those of Jin et al., CVPR 2020, as its slides show them (`paper_tables.csv`).

    >>> from reidgen.runs import COLUMNS as columns
    >>> rows = pd.DataFrame(dict.fromkeys(columns, ["0", "0"])).astype(columns)
    >>> rows = rows.assign(source="market", target="duke", method="snr", seed=[0, 1], mAP=[0.3, 0.34], rank1=0.5)
    >>> make_table(rows, paper=True).cells.loc[0, ["mAP", "mAP_std_seeds", "paper_mAP", "diff_mAP"]].tolist()
    [32.0, 2.828427, 33.6, -1.6]
    """
    if rows.empty:
        raise ReidgenError("there are no results yet; run: reidgen bench")
    rows, notes = _comparable(rows)
    cells = _average(rows)
    notes += _unlike(rows)
    if paper:
        cells, about_paper = _beside_paper(cells)
        notes += about_paper
    first = {"source": _paper_order("source"), "method": list(METHODS), "target": _paper_order("target")}
    order = {column: _in_order(cells[column], names) for column, names in first.items()}
    cells = cells.sort_values(CELL, key=lambda column: column.map(order[str(column.name)].index))
    cells = cells.reindex(columns=COLUMNS).round(6).reset_index(drop=True)
    return Table(cells=cells, caption=_caption(rows), notes=notes)


def _comparable(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows that may share a table, the latest of each, and a note for whatever is left out."""
    made = ["hash", "backbone", "version", "source_data"]
    rows = rows.fillna(dict.fromkeys([*made, "data"], "")).sort_values("date", kind="stable", ignore_index=True)
    latest = ~rows.duplicated([*CELL, "split", "seed", *made, "data"], keep="last")
    notes = [] if latest.all() else [f"{_count(~latest)} left out, repeated by a later one"]
    rows = rows[latest]
    key = _made(rows) + ", source data " + rows["source_data"].str[:8]
    alike = _most_rows(
        rows, "source", rows["hash"] + "/" + rows["backbone"] + "/" + rows["version"] + "/" + rows["source_data"]
    )
    for source, others in key[~alike].groupby(rows["source"]):
        notes.append(f"{source}: {_count(others.notna())} left out, made otherwise: {'; '.join(_distinct(others))}")
    rows = rows[alike]
    alike = _most_rows(rows, "target", rows["data"])
    for target, others in rows["data"][~alike].groupby(rows["target"]):
        digests = ", ".join(_distinct(others.str[:8]))
        notes.append(f"{target}: {_count(others.notna())} left out, measured on another version of it: {digests}")
    rows = rows[alike]
    return rows.assign(seen=rows.groupby(["source", "target"])["seen"].transform("max")), notes


def _most_rows(rows: pd.DataFrame, within: str, key: "pd.Series[str]") -> "pd.Series[bool]":
    """Return which rows have the key that most rows of their group have; of equals, the one with the latest date."""
    groups = rows.groupby([rows[within], key.rename("key")])["date"].agg(["size", "max"]).reset_index()
    best = groups.sort_values(["size", "max"], kind="stable").drop_duplicates(within, keep="last")
    return key == rows[within].map(best.set_index(within)["key"])


def _average(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the cells in percent: splits averaged first, then seeds; the target MEAN per seed over all unseen targets."""
    metrics, run = list(METRICS), [*CELL, "seed"]
    percent = rows.assign(**{metric: 100 * rows[metric] for metric in metrics})
    splits = percent.groupby([*run, "seen"])
    runs = (
        splits[metrics]
        .mean()
        .join(splits[metrics].std().add_suffix("_std_splits"))
        .join(splits.size().rename("splits"))
    )
    runs = runs.reset_index()
    unseen = runs[runs["seen"] == 0]
    over = {**dict.fromkeys(metrics, "mean"), "splits": "sum", "target": "nunique"}
    means = unseen.groupby(["source", "method", "seed"]).agg(over).reset_index()
    complete = means["target"] == means["source"].map(unseen.groupby("source")["target"].nunique())
    runs = pd.concat([runs, means[complete].assign(target=MEAN, seen=0)])
    seeds = runs.groupby([*CELL, "seen"])
    cells = seeds[[*metrics, *(f"{metric}_std_splits" for metric in metrics)]].mean()
    cells = cells.join(seeds[metrics].std().add_suffix("_std_seeds"))
    cells = cells.join(seeds.agg(seeds=("seed", "nunique"), splits=("splits", "max"))).reset_index()
    made = rows.assign(recipe=rows["recipe"] + "@" + rows["hash"].str[:8]).drop_duplicates("source")
    return cells.merge(made[["source", "recipe", "backbone", "version"]], on="source")


def _unlike(rows: pd.DataFrame) -> list[str]:
    """Return a note for each difference in seeds or splits, each missing mean and each query without a match."""
    notes = []
    for source, block in rows.groupby("source"):
        seeds = block.groupby(["method", "target"])["seed"].agg(lambda seed: ", ".join(_distinct(seed))).rename("seeds")
        usual, unusual = seeds.mode()[0], []
        for method, own in seeds.reset_index().groupby("method"):
            if own["seeds"].nunique() == 1:
                own = own.head(1).assign(target=method)
            else:
                own = own.assign(target=f"{method} on " + own["target"])
            own = own[own["seeds"] != usual]
            unusual += [f"{name} has {has}" for name, has in zip(own["target"], own["seeds"], strict=True)]
        if unusual:
            notes.append(f"{source}: seeds {usual}, but {'; '.join(unusual)}")
        unseen = set(block["target"][block["seen"] == 0])
        for method, targets in block.groupby("method")["target"]:
            if lacks := _in_order(unseen - set(targets), _paper_order("target")):
                notes.append(
                    f"{source}: {method} has no mean of unseen, as it has no {', '.join(lacks)} (run: reidgen bench)"
                )
    for where, splits in rows.groupby([*CELL, "seed"])["split"].nunique().groupby(["source", "target"]):
        if few := int((splits < splits.max()).sum()):
            notes.append(f"{where[0]} on {where[1]}: {few} of {len(splits)} runs have fewer than {splits.max()} splits")
    unmatched = rows.groupby(["target", "split"])["unmatched"].max().groupby("target").sum()
    notes += [f"{target}: {n} queries without a match do not count" for target, n in unmatched[unmatched > 0].items()]
    return notes


@cache
def _paper() -> pd.DataFrame:
    """Return the numbers of all the paper's tables, which agree where they meet: source, method, target, paper_mAP, paper_rank1 in percent."""
    with resources.files("reidgen").joinpath("paper_tables.csv").open(encoding="utf-8") as file:
        paper = pd.read_csv(file).rename(columns={"map": "paper_mAP", "rank1": "paper_rank1"})
    return paper.drop(columns="table").drop_duplicates(CELL)


def _paper_order(column: str) -> list[str]:
    return list(dict.fromkeys(_paper()[column]))


def _beside_paper(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the cells with the paper's numbers and ours minus theirs, and what to know before comparing."""
    columns = [f"paper_{metric}" for metric in SHOWN]
    unseen = cells[(cells["seen"] == 0) & (cells["target"] != MEAN)].merge(_paper(), how="left", on=CELL)
    means = unseen.groupby(["source", "method"])[columns]
    whole = means.mean()[means.count()["paper_mAP"] == means.size()].reset_index().assign(target=MEAN)
    cells = cells.merge(pd.concat([_paper(), whole]), how="left", on=CELL)
    cells = cells.assign(**{f"diff_{metric}": cells[metric] - cells[f"paper_{metric}"] for metric in SHOWN})
    others = set(cells["source"]) - set(_paper()["source"])
    notes = [f"{', '.join(sorted(others))}: the paper has no numbers for this source"] * bool(others)
    compared = cells[cells["paper_mAP"].notna()]
    if compared["target"].eq(MEAN).any():
        notes.append("the paper's mean of unseen is taken here, over the same targets as ours")
    if backbones := _distinct(compared["backbone"][compared["backbone"] != "resnet50"]):
        notes.append(f"the paper's numbers are of resnet50, ours of {', '.join(backbones)}")
    return cells, notes


def _caption(rows: pd.DataFrame) -> str:
    """Return one line that says how, with what and when the rows were made."""
    made = _made(rows).groupby(rows["source"]).first()
    parts = [f"{', '.join(made.index[made == how])}: {how}" for how in _distinct(made)]
    for name, column in (("seeds", "seed"), ("device", "device"), ("torch", "torch"), ("commit", "commit")):
        parts += [f"{name} {', '.join(values)}" for values in [_distinct(rows[column])] if values]
    days = _distinct(rows["date"].str[:10])
    return "; ".join([*parts, " to ".join(dict.fromkeys((days[0], days[-1])))])


def _made(rows: pd.DataFrame) -> "pd.Series[str]":
    """Return for each row the words for its recipe, backbone and version."""
    recipe = "recipe " + rows["recipe"] + "@" + rows["hash"].str[:8]
    return recipe + ", backbone " + rows["backbone"] + ", reidgen " + rows["version"]


def _distinct(values: "pd.Series[Any]") -> list[str]:
    return [str(value) for value in sorted(set(values.dropna())) if value != ""]


def _count(chosen: "pd.Series[bool]") -> str:
    n = int(chosen.sum())
    return f"{n:,} row{'s' * (n != 1)}"


def _in_order(names: Iterable[str], first: Sequence[str]) -> list[str]:
    """Return the names without repeats: those in `first` in its order, then the others by alphabet, MEAN last."""
    return sorted(set(names), key=lambda name: (name == MEAN, first.index(name) if name in first else len(first), name))


def _title(method: str) -> str:
    return METHODS[method].title if method in METHODS else method
