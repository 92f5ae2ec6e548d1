"""The comparison table as a reader sees it: Markdown, LaTeX, CSV, terminal. The looks hold no arithmetic.

Each prints the numbers of `Table.cells`, percent with one decimal.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from reidgen.escapes import no_formula, visible
from reidgen.tables.choose import GROUP, Note, group_names
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
    hintless: bool = False  # whether commands to run are left out

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
        ours_minus_theirs = signed(cell[f"diff_{metric}"]).replace("−", self.minus)
        return self.difference.format(f"{cell[f'paper_{metric}']:.1f}", ours_minus_theirs)


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


def _tex(text: str) -> str:
    """Return a text for LaTeX; two hyphens stay two, which LaTeX would join into a dash."""
    parts = re.split(r"(?<=-)(?=-)", visible(text))
    return "{}".join("".join(_TEX.get(character, character) for character in part) for part in parts)


def markdown(text: str) -> str:
    """Return a text for a line or a cell of GitHub's Markdown."""
    return re.sub(r"([\\`*_<|])", r"\\\1", visible(text))


def markup(text: str) -> str:
    """Return a text for Rich's markup, in which nothing of it is markup."""
    from rich.markup import escape

    return escape(visible(text, lines=True))


_MARKDOWN = _Look(  # <ins>, not <u>: GitHub's sanitizer drops <u>
    best="**{}**",
    second="<ins>{}</ins>",
    spread="±{}",
    pair=" / ",
    scores="mAP / Rank-1",
    source="**Source: {}**",
    seen="*seen*",
    paper="*paper (difference)*",
    escape=markdown,
)
_TERMINAL = _Look(
    best="[bold]{}[/bold]",
    second="[underline]{}[/underline]",
    spread=" ±{}",
    pair="\n",
    scores="mAP, Rank-1 (R1)",
    source="[bold]{}[/bold]",
    seen="(seen)",
    paper="[dim]  paper[/dim]",
    difference="[dim]{} {}[/dim]",
    escape=markup,
)
_LATEX = _Look(
    best=r"\textbf{{{}}}",
    second=r"\underline{{{}}}",
    spread=r"$_{{\pm{}}}$",
    pair=" & ",
    scores="mAP and Rank-1 (R1)",
    source="\\midrule\n\\emph{{Source: {}}}",
    seen=r"\multicolumn{2}{c}{\emph{seen}}",
    unseen=r"\multicolumn{2}{c}{}",
    paper=r"\quad paper$_\mathrm{difference}$",
    difference="{}$_{{{}}}$",
    missing="--",
    minus="-",
    hintless=True,
    escape=_tex,
)
_TEX_HEAD = r"""% \input this file into a document with \usepackage{booktabs,graphicx}, or compile it as it is.
\makeatletter\ifx\@nodocument\relax\def\reidgenend{}\else\def\reidgenend{\end{document}}
\documentclass{article}\usepackage{booktabs,graphicx}\usepackage[margin=2cm]{geometry}\begin{document}\fi\makeatother
\providecommand{\resizebox}[3]{#3}"""


@dataclass(frozen=True)
class Table:
    """The comparison table: its numbers, what to know about them, and five ways to print it.

    cells: one row per group, method and target, in the table's order, with the columns `compare.COLUMNS`; a group is a
    source, backbone, recipe and test. The target MEAN is the mean over the unseen targets that `means` names for the
    group. Scores, spreads and differences in percent, NaN where there is none.
    `*_std_seeds`: over seeds (ddof 1); `*_std_splits`: over the splits of a run (ddof 1), averaged over runs.
    `paper_*`, `diff_*`: the paper's number, and ours minus it. `gain_*`: ours minus that of the method `against`, its
    95 % interval, p-value and p-value after Holm's correction (see `significance.differences`).
    rows: the result rows that the cells are made of. caption: one line of provenance.
    notes: one for whatever was left out or is not alike. findings: one for each answer of the statistics.
    name: the paper's table that it is laid out as, or "". against: the title of the method that others are compared
    with.
    """

    cells: pd.DataFrame
    rows: pd.DataFrame
    means: dict[tuple[Any, ...], list[str]]
    caption: str
    notes: list[Note]
    findings: list[Note]
    name: str = ""
    against: str = "Baseline"

    def csv(self) -> str:
        """Return the cells as CSV, one line per group, method and target; pandas reads back the same frame.

        Without the hash, which reads as a number where it has no letter; `recipe` holds its beginning.
        A name that a spreadsheet would run as a formula has a ' in front.
        """
        cells = self.cells.drop(columns="hash")
        names = cells.select_dtypes(exclude="number").columns
        safe = cells.assign(**{name: cells[name].map(no_formula, na_action="ignore") for name in names})
        return safe.to_csv(index=False, lineterminator="\n")

    def json(self) -> dict[str, Any]:
        """Return the table as what JSON can hold: cells as one object each, null where there is no number."""
        return {
            "name": self.name,
            "cells": json.loads(self.cells.to_json(orient="records", double_precision=10)),
            "caption": self.caption,
            "findings": [str(finding) for finding in self.findings],
            "notes": [str(note) for note in self.notes],
        }

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown, with legend, findings, provenance and notes below it."""
        names = [_MARKDOWN.escape(name) for name in self.columns().values()]
        lines = [["Method", *names], [":--", *["--:"] * len(names)], *self._lines(_MARKDOWN)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| – / – ", "| – ")
        return text + "\n\n" + "\n".join(f"- {line}" for line in self._below(_MARKDOWN)) + "\n"

    def latex(self) -> str:
        r"""Return the table as LaTeX that compiles by itself and by `\input`; it needs booktabs, and graphicx where it
        is wide.

        Its label is `tab:reidgen`, or `tab:reidgen-NAME`. More than PAGE_COLUMNS targets stand in several tabulars,
        more than PAGE_LINES lines in several floats.
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
        label = f"tab:reidgen-{self.name}" if self.name else "tab:reidgen"
        captions = [
            rf"\caption{{{legend}}}\label{{{label}}}",
            *[r"\caption{The table before, continued.}"] * (len(floats) - 1),
        ]
        lines = [_TEX_HEAD]
        for caption, parts in zip(captions, floats, strict=True):
            lines += [r"\begin{table*}[tp]", r"\centering\scriptsize\setlength{\tabcolsep}{2.5pt}"]
            lines += [caption + r"\par\smallskip", "\\par\\medskip\n".join(parts), r"\end{table*}"]
        return "\n".join([*lines, r"\reidgenend", ""])

    def rich(self) -> "_Screen":
        """Return the table for a terminal, with legend, findings and caption; print the `notes` yourself."""
        return _Screen(self)

    def _tabulars(self) -> Iterator[str]:
        """Yield LaTeX tabulars that fit a page: so many columns, so many lines, cut before a source where possible."""
        names, lines = [_LATEX.escape(name) for name in self.columns().values()], list(self._lines(_LATEX))
        parts = -(-len(names) // PAGE_COLUMNS)
        step = -(-len(names) // parts)
        while lines:
            starts = [n for n, line in enumerate(lines) if n and line[0].startswith(r"\midrule")] + [len(lines)]
            end = max([n for n in starts if n <= PAGE_LINES], default=PAGE_LINES)
            for part in (slice(start, start + step) for start in range(0, len(names), step)):
                yield _tabular(names[part], [[first, *cells[part]] for first, *cells in lines[:end]])
            lines = lines[end:]

    def _lines(self, look: _Look) -> Iterator[list[str]]:
        """Yield the lines of all blocks: the group, then each method and, where there is one, the paper's line."""
        for block, methods in self.blocks().items():
            if block:
                seen = self.seen(block)
                yield [
                    look.source.format(look.escape(block)),
                    *(look.seen if target in seen else look.unseen for target in self.columns()),
                ]
            for cells in methods.values():
                name = next(cell["title"] for cell in cells if cell)
                yield [look.escape(name), *(look.pair.join(look.number(c, m) for m in SHOWN) for c in cells)]
                if any(not pd.isna(cell.get("paper_mAP")) for cell in cells):
                    yield [look.paper, *(look.pair.join(look.beside(c, m) for m in SHOWN) for c in cells)]

    def _in_pairs(self) -> bool:
        """Return whether the columns are `source → target`, as in the paper's ablations: one target for each source."""
        groups = self.cells.groupby(GROUP)["target"].nunique()
        one_each = bool(groups.eq(1).all()) and len(groups) == self.cells["source"].nunique()
        return self.name not in ("", "main") and one_each

    def columns(self) -> dict[str, str]:
        """Return the columns as key (the target, or `source → target`) -> heading."""
        if self._in_pairs():
            return {pair: pair for pair in dict.fromkeys(self.cells["source"] + " → " + self.cells["target"])}
        return headings(in_order(self.cells["target"], "target"))

    def blocks(self) -> dict[str, dict[str, list[_Cell]]]:
        """Return group (or "", where the columns name it) -> method -> one cell per column, {} where there is none.

        A cell has, beside the columns of `cells`, `<metric>_place`: 1 for the best of its group and column, 2, ...
        """
        cells, by = self.cells.copy(), [*GROUP, "target"]
        for metric in SHOWN:
            shown = cells.assign(shown=cells[metric].map("{:.1f}".format).astype(float)).groupby(by)["shown"]
            places = shown.rank(method="dense", ascending=False)  # a tie is what the reader sees as one
            cells[f"{metric}_place"] = places.where(shown.transform("size") > 1)
        pairs, names = self._in_pairs(), group_names(self.cells)
        column = {key: number for number, key in enumerate(self.columns())}
        blocks: dict[str, dict[str, list[_Cell]]] = {}
        for cell in cast(list[_Cell], cells.to_dict("records")):
            block = "" if pairs else names[tuple(cell[key] for key in GROUP)]
            place = column[f"{cell['source']} → {cell['target']}" if pairs else cell["target"]]
            lines = blocks.setdefault(block, {})
            lines.setdefault(cell["method"], [{} for _ in column])[place] = cell
        return {block: {one: lines[one] for one in in_order(lines, "method")} for block, lines in blocks.items()}

    def seen(self, block: str) -> set[str]:
        """Return the targets that are seen by the source of a block."""
        names = group_names(self.cells)
        cells = self.cells[self.cells["seen"] == 1]
        keys = cells[[*GROUP, "target"]].itertuples(index=False, name=None)
        return {target for *key, target in keys if names[tuple(key)] == block}

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
            words += look.escape(f"; {marks_legend(self.cells, self.against)}")
        lines = [*self.findings, Note(self.caption), *(replace(note, text=f"Note: {note.text}") for note in self.notes)]
        return [f"{words}.", *(look.escape(line.text if look.hintless else str(line)) for line in lines)]


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
    return "\n".join(
        [
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'rr' * len(names)}}}",
            r"\toprule",
            first,
            rules,
            *rest,
            r"\bottomrule",
            r"\end{tabular}}",
        ]
    )


@dataclass(frozen=True)
class _Screen:
    """A Table as Rich draws it: whole, or else without the spread, or else in parts below each other."""

    table: Table

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        names = list(self.table.columns())
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
        width = max(len(visible(title)) for title in self.table.cells["title"])
        drawn.add_column("Method", min_width=width, max_width=max(width, 11), overflow="fold")
        drawn.add_column("", style="dim", no_wrap=True)
        for name in list(self.table.columns().values())[part]:
            name = "mean of\nunseen" if name == MEAN else look.escape(name).replace(" → ", "\n→ ")
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


def headings(targets: Iterable[str]) -> dict[str, str]:
    """Return target -> heading; "synth-" goes where every target has it.

    >>> headings(["synth-mall", MEAN])
    {'synth-mall': 'mall', 'mean of unseen': 'mean of unseen'}
    """
    names = list(dict.fromkeys(targets))
    short = all(name.startswith("synth-") or name == MEAN for name in names)
    return {name: name.removeprefix("synth-") if short else name for name in names}


def difference(cell: "Mapping[Any, Any] | pd.Series[Any]", metric: str = "mAP") -> str:
    """Return the difference of a cell from the method it is compared with, its 95 % interval and mark where tested."""
    words = signed(cell[f"gain_{metric}"])
    if pd.notna(cell[f"gain_{metric}_p"]):
        words += f" [{signed(cell[f'gain_{metric}_low'])}, {signed(cell[f'gain_{metric}_high'])}]{mark(cell, metric)}"
    return words


def signed(value: float) -> str:
    """Return a difference with its sign and one decimal; nothing has none.

    >>> signed(1.25), signed(-0.3), signed(-0.04)
    ('+1.2', '−0.3', '0.0')
    """
    words = f"{value:+.1f}".replace("-", "−")
    return "0.0" if words in ("+0.0", "−0.0") else words


def p_value(value: float) -> str:
    """Return the words for a p-value, as small as it is worth saying.

    >>> p_value(0.0), p_value(0.022)
    ('p < 0.001', 'p = 0.022')
    """
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
