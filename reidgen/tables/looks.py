"""The comparison table as a reader sees it: Markdown, LaTeX, CSV, terminal. The looks hold no arithmetic.

Each prints the numbers of `Table.cells`, percent with one decimal.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from reidgen.escapes import no_formula, visible
from reidgen.methods import FIRST, group_of
from reidgen.parts import GROUPS
from reidgen.tables.choose import GROUP, Note, group_names
from reidgen.tables.formats import (
    LATEX,
    MARKDOWN,
    PAGE_COLUMNS,
    PAGE_LINES,
    SHOWN,
    TERMINAL,
    TEX_HEAD,
    Cell,
    Look,
    floats,
    marks_legend,
    tabular,
)
from reidgen.tables.literature import Literature
from reidgen.tables.paper import MEAN, in_order

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable


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
    with. literature: what others published of these sources and targets, where that was asked for.
    """

    cells: pd.DataFrame
    rows: pd.DataFrame
    means: dict[tuple[Any, ...], list[str]]
    caption: str
    notes: list[Note]
    findings: list[Note]
    name: str = ""
    against: str = "Baseline"
    literature: Literature | None = None

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
            **({"literature": self.literature.json()} if self.literature else {}),
        }

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown, with legend, findings, provenance and notes below it."""
        names = [MARKDOWN.escape(name) for name in self.columns().values()]
        lines = [["Method", *names], [":--", *["--:"] * len(names)], *self._lines(MARKDOWN)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| – / – ", "| – ")
        text += "\n\n" + "\n".join(f"- {line}" for line in self._below(MARKDOWN)) + "\n"
        return text + (f"\n{self.literature.markdown()}" if self.literature else "")

    def latex(self) -> str:
        r"""Return the table as LaTeX that compiles by itself and by `\input`; it needs booktabs, and graphicx where it
        is wide.

        Its label is `tab:reidgen`, or `tab:reidgen-NAME`. More than PAGE_COLUMNS targets stand in several tabulars,
        more than PAGE_LINES lines in several floats.
        """
        legend, *below = self._below(LATEX)
        label = f"tab:reidgen-{self.name}" if self.name else "tab:reidgen"
        lines = floats(self._tabulars(), caption=rf"\caption{{{legend}}}\label{{{label}}}", below=below)
        lines += self.literature.latex(f"{label}-published") if self.literature else []
        return "\n".join([TEX_HEAD, *lines, r"\reidgenend", ""])

    def rich(self) -> "_Screen":
        """Return the table for a terminal, with legend, findings and caption; print the `notes` yourself."""
        return _Screen(self)

    def _tabulars(self) -> Iterator[str]:
        """Yield LaTeX tabulars that fit a page: so many columns, so many lines, cut before a source where possible."""
        names, lines = [LATEX.escape(name) for name in self.columns().values()], list(self._lines(LATEX))
        parts = -(-len(names) // PAGE_COLUMNS)
        step = -(-len(names) // parts)
        while lines:
            rules = {n: line[0] for n, line in enumerate(lines) if 0 < n <= PAGE_LINES and r"\midrule" in line[0]}
            sources = [n for n, first in rules.items() if r"\quad" not in first]
            end = len(lines) if len(lines) <= PAGE_LINES else max(sources or rules, default=PAGE_LINES)
            for part in (slice(start, start + step) for start in range(0, len(names), step)):
                yield tabular(names[part], [[first, *cells[part]] for first, *cells in lines[:end]])
            lines = lines[end:]

    def _lines(self, look: Look) -> Iterator[list[str]]:
        """Yield the lines of all blocks: the source, then each method and, where there is one, the paper's line.

        Where the methods are of several of the GROUPS, each of these has its name before it.
        """
        for block, methods in self.blocks().items():
            if block:
                seen = self.seen(block)
                yield [
                    look.source.format(look.escape(block)),
                    *(look.seen if target in seen else look.unseen for target in self.columns()),
                ]
            group = FIRST
            for method, cells in methods.items():
                if self.has_groups and group != (group := group_of(method)):
                    yield [look.group.format(group), *(look.unseen for _ in cells)]
                name = next(cell["title"] for cell in cells if cell)
                yield [look.escape(name), *(look.pair.join(look.number(c, m) for m in SHOWN) for c in cells)]
                if any(not pd.isna(cell.get("paper_mAP")) for cell in cells):
                    yield [look.paper, *(look.pair.join(look.beside(c, m) for m in SHOWN) for c in cells)]

    @functools.cached_property
    def has_groups(self) -> bool:
        """Whether the methods are of several of the GROUPS, so that their names are worth a line."""
        return len(set(map(group_of, self.cells["method"].unique())) & set(GROUPS)) > 1

    def _in_pairs(self) -> bool:
        """Return whether the columns are `source → target`, as in the paper's ablations: one target for each source."""
        groups = self.cells.groupby(GROUP)["target"].nunique()
        one_each = bool(groups.eq(1).all()) and len(groups) == self.cells["source"].nunique()
        return self.name not in ("", "main") and one_each

    def columns(self) -> dict[str, str]:
        """Return the columns as key (the target, or `source → target`) -> heading."""
        return self._columns

    @functools.cached_property
    def _columns(self) -> dict[str, str]:
        if self._in_pairs():
            return {pair: pair for pair in dict.fromkeys(self.cells["source"] + " → " + self.cells["target"])}
        shown = dict.fromkeys(in_order(self.cells["target"], "target"))
        if len(shown) == 2:
            shown.pop(MEAN, None)  # it is that of one target
        return headings(shown)

    def blocks(self) -> dict[str, dict[str, list[Cell]]]:
        """Return group (or "", where the columns name it) -> method -> one cell per column, {} where there is none.

        A cell has, beside the columns of `cells`, `<metric>_place`: 1 for the best of its group and column, 2, ...
        """
        return self._blocks

    @functools.cached_property
    def _blocks(self) -> dict[str, dict[str, list[Cell]]]:
        cells, by = self.cells.copy(), [*GROUP, "target"]
        for metric in SHOWN:
            shown = cells.assign(shown=cells[metric].map("{:.1f}".format).astype(float)).groupby(by)["shown"]
            places = shown.rank(method="dense", ascending=False)  # a tie is what the reader sees as one
            cells[f"{metric}_place"] = places.where(shown.transform("size") > 1)
        pairs, names = self._in_pairs(), self._names
        column = {key: number for number, key in enumerate(self.columns())}
        blocks: dict[str, dict[str, list[Cell]]] = {}
        for cell in cast(list[Cell], cells.to_dict("records")):
            block = "" if pairs else names[tuple(cell[key] for key in GROUP)]
            place = column.get(f"{cell['source']} → {cell['target']}" if pairs else cell["target"])
            lines = blocks.setdefault(block, {}).setdefault(cell["method"], [{} for _ in column])
            if place is not None:
                lines[place] = cell
        return {block: {one: lines[one] for one in in_order(lines, "method")} for block, lines in blocks.items()}

    def seen(self, block: str) -> set[str]:
        """Return the targets that are seen by the source of a block."""
        names = self._names
        cells = self.cells[self.cells["seen"] == 1]
        keys = cells[[*GROUP, "target"]].itertuples(index=False, name=None)
        return {target for *key, target in keys if names[tuple(key)] == block}

    @functools.cached_property
    def _names(self) -> dict[tuple[Any, ...], str]:
        return group_names(self.cells)

    def _below(self, look: Look) -> list[str]:
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


@dataclass(frozen=True)
class _Screen:
    """A Table as Rich draws it: whole, or else without the spread, or else in parts below each other."""

    table: Table

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        headings, slim = list(self.table.columns().values()), replace(TERMINAL, spread="")
        lines = {look: list(self.table._lines(look)) for look in (TERMINAL, slim)}
        widths = {
            look: [
                max(map(_width, {self._heading(name, look), *(line[number] for line in lines[look])}))
                for number, name in enumerate(headings, start=1)
            ]
            for look in lines
        }
        named = max(_width(line[0]) for line in lines[TERMINAL])
        first = min(max(named, self._least), max(self._least, 11))
        kind = max(map(len, SHOWN.values()))
        for number, look in ((1, TERMINAL), (1, slim), *((number, TERMINAL) for number in range(2, len(headings) + 1))):
            step = -(-len(headings) // number)
            parts = [slice(start, start + step) for start in range(0, len(headings), step)]
            wide = max(sum(wides) + 2 * len(wides) for part in parts for wides in [[first, kind, *widths[look][part]]])
            room = options.max_width - wide - 1  # one column of padding, one between two, and the edges
            if room >= 0:
                break
        width = max(first, min(named, first + room)) if room >= 0 else None
        for part in parts:
            yield self._draw(look, lines[look], widths[look], part, width)
        yield "\n".join(self.table._below(look)[: 2 + len(self.table.findings)])
        if self.table.literature:
            yield self.table.literature.rich()

    def _heading(self, name: str, look: Look) -> str:
        return "mean of\nunseen" if name == MEAN else look.escape(name).replace(" → ", "\n→ ")

    @functools.cached_property
    def _least(self) -> int:
        """The least width of the column of methods: no name of one is folded, nor a word of what a block is called."""
        tested = [block for block in self.table.blocks() if ", tested with " in block]
        words = [word[:20] for block in tested for word in block.split()]
        words += map(group_of, self.table.cells["method"].unique()) if self.table.has_groups else ()
        return max(len(visible(name)) for name in [*self.table.cells["title"], *words])

    def _draw(
        self, look: Look, lines: list[list[str]], widths: list[int], part: slice, first: int | None
    ) -> "RichTable":
        """Return some columns as a table of Rich. With all widths given it need not measure the cells, which takes it
        longer than to draw them. first: the width of the column of methods, None to let it be narrower than it should.
        """
        from rich import box
        from rich.table import Table as RichTable

        drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        least = self._least
        widest = None if first else max(least, 11)
        drawn.add_column("Method", min_width=least, max_width=widest, width=first, overflow="fold")
        drawn.add_column("", style="dim", no_wrap=True)
        for name, wide in zip(list(self.table.columns().values())[part], widths[part], strict=True):
            drawn.add_column(self._heading(name, look), justify="right", no_wrap=True, width=wide)
        for name, *cells in lines:
            if "\n" not in cells[-1]:
                drawn.add_section()
            drawn.add_row(name, "\n".join(SHOWN.values()) if "\n" in cells[-1] else "", *cells[part])
        return drawn


def _width(cell: str) -> int:
    """Return the columns of a terminal that a cell of Rich's markup takes."""
    from rich.text import Text

    return max(line.cell_len for line in Text.from_markup(cell, emoji=False).split("\n", allow_blank=True))


def headings(targets: Iterable[str]) -> dict[str, str]:
    """Return target -> heading; "synth-" goes where every target has it.

    >>> headings(["synth-mall", MEAN])
    {'synth-mall': 'mall', 'mean of unseen': 'mean of unseen'}
    """
    names = list(dict.fromkeys(targets))
    short = all(name.startswith("synth-") or name == MEAN for name in names)
    return {name: name.removeprefix("synth-") if short else name for name in names}
