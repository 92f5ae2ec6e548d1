"""The comparison table as a reader sees it: Markdown, LaTeX, CSV, terminal. The looks hold no arithmetic.

Each prints the numbers of `Table.cells`, percent with one decimal.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from reidgen.methods import title_of
from reidgen.tables.paper import MEAN, in_order
from reidgen.tables.statistics import LEVEL

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

SHOWN = {"mAP": "mAP", "rank1": "R1"}  # what fits on a page, and its heading; the CSV holds all metrics
PAGE_COLUMNS, PAGE_LINES = 7, 44  # of one LaTeX tabular
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
        text += self.escape(mark(cell, metric))
        std = cell[f"{metric}_std_seeds"]
        return text if pd.isna(std) else text + self.spread.format(f"{std:.1f}")

    def beside(self, cell: _Cell, metric: str) -> str:
        """Return the paper's number and the difference, ours minus theirs."""
        if not cell or pd.isna(cell[f"paper_{metric}"]):
            return self.missing
        difference = f"{cell[f'diff_{metric}']:+.1f}"
        difference = "0.0" if difference in ("+0.0", "-0.0") else difference.replace("-", self.minus)
        return self.difference.format(f"{cell[f'paper_{metric}']:.1f}", difference)


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
_TEX |= {
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "→": r"$\to$",
    "|": r"\textbar{}",
}
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
_TEX_HEAD = r"""% \input this file into a document with \usepackage{booktabs,graphicx}, or compile it as it is.
\makeatletter\ifx\@nodocument\relax\def\reidgenend{}\else\def\reidgenend{\end{document}}
\documentclass{article}\usepackage{booktabs,graphicx}\usepackage[margin=2cm]{geometry}\begin{document}\fi\makeatother
\providecommand{\resizebox}[3]{#3}"""


@dataclass(frozen=True)
class Table:
    """The comparison table: its numbers, what to know about them, and four ways to print it.

    cells: one row per source, method and target, in the table's order, with the columns `tables.COLUMNS`; the target
    MEAN is the mean over the unseen targets. Scores, spreads and differences in percent, NaN where there is none.
    `*_std_seeds`: over seeds (ddof 1); `*_std_splits`: over the splits of a run (ddof 1), averaged over runs.
    `paper_*`, `diff_*`: the paper's number, and ours minus it. `gain_*`: ours minus that of the method `against`, its
    95 % interval, p-value and p-value after Holm's correction (see `significance.differences`).
    caption: one line of provenance. notes: one line for whatever was left out or is not alike.
    findings: one line for each answer of the statistics. name: the paper's table that it is laid out as, or "".
    """

    cells: pd.DataFrame
    caption: str
    notes: list[str]
    findings: list[str]
    name: str = ""

    def csv(self) -> str:
        """Return the cells as CSV, one line per source, method and target; pandas reads back the same frame."""
        return self.cells.to_csv(index=False, lineterminator="\n")

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown, with legend, findings, provenance and notes below it."""
        names = [_MARKDOWN.escape(name) for name in self._headings().values()]
        lines = [["Method", *names], [":--", *["--:"] * len(names)], *self._lines(_MARKDOWN)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| – / – ", "| – ")
        return text + "\n\n" + "\n".join(f"- {line}" for line in self._below(_MARKDOWN)) + "\n"

    def latex(self) -> str:
        r"""Return the table as LaTeX that compiles by itself and by `\input`; it needs booktabs, and graphicx where it is wide.

        More than PAGE_COLUMNS targets stand in several tabulars, more than PAGE_LINES lines in several floats.
        """
        legend, *below = self._below(_LATEX)
        notes = r"\par\medskip\begin{minipage}{\textwidth}\raggedright\tiny" + "\n" + "\\par\n".join(below)
        floats: list[list[str]] = []
        room = 0
        for tabular in self._tabulars():
            room -= tabular.count("\n")
            if room < 0:
                floats.append([])
                room = PAGE_LINES + 10 - tabular.count("\n")
            floats[-1].append(tabular)
        floats[-1].append(notes + r"\end{minipage}")
        captions = [rf"\caption{{{legend}}}", *[r"\caption{The table before, continued.}"] * (len(floats) - 1)]
        lines = [_TEX_HEAD]
        for caption, parts in zip(captions, floats, strict=True):
            lines += [r"\begin{table*}[tp]", r"\centering\scriptsize\setlength{\tabcolsep}{2.5pt}"]
            lines += [caption + r"\par\smallskip", "\\par\\medskip\n".join(parts), r"\end{table*}"]
        return "\n".join([*lines, r"\reidgenend", ""])

    def rich(self) -> "_Screen":
        """Return the table for a terminal, with legend, findings and caption; print the `notes` as warnings yourself."""
        return _Screen(self)

    def _tabulars(self) -> Iterator[str]:
        """Yield LaTeX tabulars that fit a page: so many columns, so many lines, cut before a source where possible."""
        names, lines = [_LATEX.escape(name) for name in self._headings().values()], list(self._lines(_LATEX))
        parts = -(-len(names) // PAGE_COLUMNS)
        step = -(-len(names) // parts)
        while lines:
            starts = [n for n, line in enumerate(lines) if n and line[0].startswith(r"\midrule")] + [len(lines)]
            end = max([n for n in starts if n <= PAGE_LINES], default=PAGE_LINES)
            for part in (slice(start, start + step) for start in range(0, len(names), step)):
                yield _tabular(names[part], [[first, *cells[part]] for first, *cells in lines[:end]])
            lines = lines[end:]

    def _lines(self, look: _Look) -> Iterator[list[str]]:
        """Yield the lines of all blocks: the source, then each method and, where there is one, the paper's line."""
        for block, methods in self._blocks().items():
            if block:
                yield [
                    look.source.format(look.escape(block)),
                    *(look.seen if s else look.unseen for s in self._seen(block)),
                ]
            for method, cells in methods.items():
                yield [look.escape(title(method)), *(look.pair.join(look.number(c, m) for m in SHOWN) for c in cells)]
                if any(not pd.isna(cell.get("paper_mAP")) for cell in cells):
                    yield [look.paper, *(look.pair.join(look.beside(c, m) for m in SHOWN) for c in cells)]

    def _in_pairs(self) -> bool:
        """Return whether the columns are `source → target`, as in the paper's ablations: one target for each source."""
        return self.name not in ("", "main") and bool(self.cells.groupby("source")["target"].nunique().eq(1).all())

    def _headings(self) -> dict[str, str]:
        """Return the columns as key (the target, or `source → target`) -> heading; "synth-" goes where every target has it."""
        if self._in_pairs():
            return {pair: pair for pair in dict.fromkeys(self.cells["source"] + " → " + self.cells["target"])}
        targets = in_order([*self.cells["target"], MEAN], "target")
        short = all(target.startswith("synth-") for target in targets[:-1])
        return {target: target.removeprefix("synth-") if short else target for target in targets}

    def _blocks(self) -> dict[str, dict[str, list[_Cell]]]:
        """Return source (or "", where the columns name it) -> method -> one cell per column."""
        cells, by = self.cells.copy(), [self.cells["source"], self.cells["target"]]
        for metric in SHOWN:
            shown = cells[metric].map("{:.1f}".format).astype(float)  # a tie is what the reader sees as one
            places = shown.groupby(by).rank(method="dense", ascending=False)
            cells[f"{metric}_place"] = places.where(shown.groupby(by).transform("size") > 1)
        pairs = self._in_pairs()
        column = {key: number for number, key in enumerate(self._headings())}
        blocks: dict[str, dict[str, list[_Cell]]] = {}
        for block, group in cells.groupby(
            cells["source"] if not pairs else cells["source"].map(lambda _: ""), sort=False
        ):
            lines: dict[str, list[_Cell]] = {
                method: [{} for _ in column] for method in in_order(group["method"], "method")
            }
            for cell in cast(list[_Cell], group.to_dict("records")):
                lines[cell["method"]][column[f"{cell['source']} → {cell['target']}" if pairs else cell["target"]]] = (
                    cell
                )
            blocks[str(block)] = lines
        return blocks

    def _seen(self, source: str) -> list[bool]:
        """Return for each column whether its target is seen by `source`."""
        seen = set(self.cells.query("source == @source and seen == 1")["target"])
        return [target in seen for target in self._headings()]

    def _below(self, look: _Look) -> list[str]:
        """Return the lines under the table: legend, findings, caption, notes."""
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
        if self.cells[[f"gain_{metric}_p" for metric in SHOWN]].notna().any(axis=None):
            other = title(self.cells["against"].dropna().iloc[0])
            words += look.escape(f"; {marks_legend(self.cells, other)}")
        notes = [f"Note: {note}" for note in self.notes]
        return [f"{words}.", *(look.escape(line) for line in (*self.findings, self.caption, *notes))]


def _tabular(names: list[str], lines: list[list[str]]) -> str:
    """Return one LaTeX tabular, scaled down where it is wider than the text."""
    head = [
        ["", *(rf"\multicolumn{{2}}{{c}}{{{name}}}" for name in names)],
        ["Method", *list(SHOWN.values()) * len(names)],
    ]
    rules = "".join(rf"\cmidrule(lr){{{left}-{left + 1}}}" for left in range(2, 2 * len(names) + 1, 2))
    first, *rest = [" & ".join(line) + r" \\" for line in [*head, *lines]]
    if not lines[0][0].startswith("\\midrule"):
        rest.insert(1, r"\midrule")
    return "\n".join([
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%", rf"\begin{{tabular}}{{l{'rr' * len(names)}}}",
        r"\toprule", first, rules, *rest, r"\bottomrule", r"\end{tabular}}",
    ])  # fmt: skip


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
        yield "\n".join(self.table._below(look)[: 2 + len(self.table.findings)])

    def _draw(self, look: _Look, part: slice) -> "RichTable":
        from rich import box
        from rich.table import Table as RichTable

        drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        width = max(len(title(method)) for method in self.table.cells["method"])
        drawn.add_column("Method", min_width=width, max_width=max(width, 11), overflow="fold")
        drawn.add_column("", style="dim", no_wrap=True)
        for name in list(self.table._headings().values())[part]:
            name = "mean of\nunseen" if name == MEAN else name.replace(" → ", "\n→ ")
            drawn.add_column(name, justify="right", no_wrap=True)
        for first, *cells in self.table._lines(look):
            if "\n" not in cells[-1]:
                drawn.add_section()
            drawn.add_row(first, "\n".join(SHOWN.values()) if "\n" in cells[-1] else "", *cells[part])
        return drawn


def mark(cell: "Mapping[Any, Any] | pd.Series[Any]", metric: str = "mAP") -> str:
    """Return the mark of a cell that differs by more than chance: another one where a single seed says so."""
    if not cell[f"gain_{metric}_holm"] < LEVEL:
        return ""
    return "†" if cell["gain_seeds"] > 1 else "‡"


def marks_legend(cells: pd.DataFrame, other: str) -> str:
    """Return what the marks in these cells mean; nothing where no difference was tested."""
    single = cells["gain_seeds"][cells["gain_mAP_p"].notna()].eq(1)
    if single.empty:
        return ""
    differs = f"differs from {other} (p < {LEVEL} after Holm's correction"
    words = [f"†: {differs})"] * (not single.all())
    return "; ".join([*words, *[f"‡: {differs}; of one seed, whose luck is not counted)"] * bool(single.any())])


def title(method: str) -> str:
    """Return the name that readers know a method by."""
    return title_of(method)
