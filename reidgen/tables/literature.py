"""What others published: numbers of other recipes and toolkits, to stand apart from ours. No torch here.

They are never ranked, marked or tested: a plain ResNet-50 from Market to Duke is published anywhere between 19 and 34
mAP, by toolkit. Compare within what one source prints.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from reidgen.catalogue import ALL, expand, family_of, load_catalogue, split_all, variants
from reidgen.errors import ReidgenError, unknown
from reidgen.tables.formats import LATEX, MARKDOWN, SHOWN, TERMINAL, Look, floats, tabular
from reidgen.tables.paper import MEAN, in_order, numbers

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

COLUMNS = ("protocol", "source", "target", "method", "backbone", "year", "mAP", "rank1", "printed", "tag", "remark")
NUMBERS = {"year": "Int64", "mAP": "float64", "rank1": "float64"}  # the other columns are texts
KINDS = {name: NUMBERS.get(name, "str") for name in COLUMNS}
TAGS = {
    "S": "the paper's slides",
    "A": "the authors' code or log",
    "B": "an independent re-implementation or rerun",
    "R": "a table in the authors' README",
    "N": "a secondary note that names the paper's table",
    "D": "recollection, unconfirmed",
}
HEAD = "Published, not run here"
CAUTION = (
    "published numbers are of other recipes, weights, input sizes and versions of the sets (MSMT17 V1 and V2, with or "
    "without val): compare within what one source prints; ours are of the last epoch; nothing is ranked or tested"
)
SNR_HERE = "SNR, CVPR 2020, arXiv 2005.11037, its slides"


class Line(NamedTuple):
    """One method as one source prints it; scores: one pair (mAP, Rank-1 in percent) per column, NaN where none."""

    method: str
    year: str
    backbone: str
    printed: str
    tag: str
    scores: list[tuple[float, float]]


class Block(NamedTuple):
    """The lines of one protocol, or of one source in it. columns: the targets, by family."""

    title: str
    columns: list[str]
    lines: list[Line]


@cache
def published() -> pd.DataFrame:
    """Return all published numbers with the columns COLUMNS, mAP and rank1 in percent, NaN where nobody prints it.

    protocol: of `datasets.toml`; or supervised (a set to itself), single-all (all images of one source), synthetic
    (rendered people) or test-time (a source that is not told). source: as reidgen writes it, by families; empty where
    a mean is over several. target: a family, or MEAN. year: of the method, <NA> where not known. printed: who printed
    it. tag: one of TAGS. SNR's and its Baseline's rows are those of `paper_tables.csv`, whose other rows `table
    --paper` shows.
    """
    with resources.files("reidgen.tables").joinpath("literature.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file, dtype=KINDS, keep_default_na=False, na_values=dict.fromkeys(NUMBERS, ""))
    return pd.concat([_of_snr(), rows], ignore_index=True)


def _of_snr() -> pd.DataFrame:
    """Return the rows of SNR and its Baseline in the paper's main table."""
    rows = numbers()[(numbers()["table"] == "main") & numbers()["method"].isin(["baseline", "snr"])]
    rows = rows.rename(columns={"paper_mAP": "mAP", "paper_rank1": "rank1"})
    several, own = rows["source"].str.contains("+", regex=False), rows["source"] == rows["target"]
    protocol = pd.Series("single", index=rows.index).mask(own, "supervised").mask(several, "snr-multi")
    rows = rows.assign(protocol=protocol, method=rows["method"].map({"baseline": "Baseline", "snr": "SNR"}))
    rows = rows.assign(backbone="ResNet-50", printed=SNR_HERE, tag="S", remark="")
    return rows.assign(year=pd.array([2020] * len(rows), dtype="Int64"))[list(COLUMNS)]


@dataclass(frozen=True)
class Literature:
    """Published numbers, and the ways to print them. rows: of `published`, in its order."""

    rows: pd.DataFrame

    def blocks(self) -> Iterator[Block]:
        """Yield the protocols in the file's order; one in which a target has several sources source by source."""
        for protocol, rows in self.rows.groupby("protocol", sort=False):
            one_each = rows.groupby("target")["source"].nunique().eq(1).all()
            parts = [rows] if one_each else [part for _, part in rows.groupby("source", sort=False)]
            for part in parts:
                sources = part["source"].unique()
                trained = f", trained on {sources[0] or 'what is not told'}" if len(sources) == 1 else ""
                columns = in_order(part["target"], "target")
                yield Block(f"{protocol}{trained}", columns, list(_lines(part, columns)))

    def csv(self) -> str:
        """Return the rows as CSV, as they stand in the package."""
        return self.rows.to_csv(index=False, lineterminator="\n")

    def json(self) -> dict[str, Any]:
        """Return the rows as what JSON can hold, null where there is no number, and the notes."""
        return {"rows": json.loads(self.rows.to_json(orient="records")), "notes": self.notes()}

    def notes(self) -> list[str]:
        """Return what to know before reading them: how far they compare, what the tags say, a line per remark."""
        if self.rows.empty:
            return ["no published number is known for a source and a target of this table"]
        tags = (f"[{tag}] {words}" for tag, words in TAGS.items() if tag in set(self.rows["tag"]))
        said = [CAUTION, "; ".join(tags)]
        for remark, rows in self.rows[self.rows["remark"] != ""].groupby("remark", sort=False):
            said.append(f"{', '.join(dict.fromkeys(rows['method']))}: {remark}")
        return said

    def markdown(self) -> str:
        """Return a table for each block, with year, backbone, source and tag in columns, and the notes below."""
        escape, text = MARKDOWN.escape, ""
        for block in self.blocks():
            heads = ["Method", "Year", "Backbone", "Printed in", *map(escape, block.columns)]
            lines = [heads, [":--", "--:", ":--", ":--", *["--:"] * len(block.columns)]]
            for one in block.lines:
                about = [one.method, one.year or "–", one.backbone or "–", f"{one.printed} [{one.tag}]"]
                lines.append([*map(escape, about), *(_pair(MARKDOWN, scores) for scores in one.scores)])
            rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            text += f"**{HEAD}: {escape(block.title)}**\n\n{rows}\n\n"
        return text + "\n".join(f"- {escape(note)}" for note in self.notes()) + "\n"

    def latex(self, label: str) -> list[str]:
        """Return floats that hold all blocks: each method with year, backbone, tag and the number of its source."""
        if self.rows.empty:
            return []
        sources, parts = self.sources(), []
        for block in self.blocks():
            lines = [[rf"\midrule\emph{{{LATEX.escape(block.title)}}}", *[LATEX.unseen] * len(block.columns)]]
            for one in block.lines:
                name = rf"{LATEX.escape(one.method)} \emph{{({LATEX.escape(_about(one, sources))})}}"
                lines.append([name, *(_pair(LATEX, scores) for scores in one.scores)])
            names = [LATEX.escape(name) for name in block.columns]
            parts += [tabular(names, lines[start : start + 40]) for start in range(0, len(lines), 40)]
        caption = rf"\caption{{{HEAD}: {LATEX.scores} in \%.}}\label{{{label}}}"
        below = [f"{number}: {source}" for source, number in sources.items()] + self.notes()
        return floats(parts, caption=caption, below=map(LATEX.escape, below))

    def rich(self) -> "_Screen":
        """Return the blocks for a terminal, with sources and notes below."""
        return _Screen(self)

    def sources(self) -> dict[str, int]:
        """Return who printed something -> a number that stands for it."""
        return {printed: number for number, printed in enumerate(self.rows["printed"].unique(), 1)}


def _lines(rows: pd.DataFrame, columns: list[str]) -> Iterator[Line]:
    keys = ["method", "year", "backbone", "printed", "tag"]
    rows = rows.assign(year=rows["year"].astype("string").fillna(""))
    for key, own in rows.groupby(keys, sort=False):
        found = dict(zip(own["target"], zip(own["mAP"], own["rank1"], strict=True), strict=True))
        scores = [found.get(target, (float("nan"), float("nan"))) for target in columns]
        method, year, backbone, printed, tag = map(str, key)
        yield Line(method, year, backbone, printed, tag, scores)


def _pair(look: Look, scores: tuple[float, float]) -> str:
    """Return mAP and Rank-1 as a format has them beside or below each other."""
    if all(map(pd.isna, scores)) and look is MARKDOWN:
        return look.missing
    return look.pair.join(look.missing if pd.isna(score) else f"{score:.1f}" for score in scores)


def _about(line: Line, sources: dict[str, int]) -> str:
    """Return year, backbone, tag and the number of its source."""
    return ", ".join(filter(None, (line.year, line.backbone, f"[{line.tag}] {sources[line.printed]}")))


@dataclass(frozen=True)
class _Screen:
    """Literature as Rich draws it: under each method, in a line of its own, its year, backbone, tag and source."""

    literature: Literature

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        sources = self.literature.sources()
        for block in self.literature.blocks():
            yield self._draw(block, sources)
        escape = TERMINAL.escape
        if sources:
            yield "Printed in: " + "; ".join(f"{number} {escape(source)}" for source, number in sources.items())
        yield "\n".join(map(escape, self.literature.notes()))

    def _draw(self, block: Block, sources: dict[str, int]) -> "RichTable":
        from rich import box
        from rich.table import Table as RichTable

        escape = TERMINAL.escape
        drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"{HEAD}: {escape(block.title)}")
        drawn.title_justify, drawn.title_style = "left", "bold"
        drawn.add_column("Method", overflow="fold")
        drawn.add_column("", style="dim", no_wrap=True)
        for name in block.columns:
            drawn.add_column(escape(name).replace("mean of unseen", "mean of\nunseen"), justify="right", no_wrap=True)
        for one in block.lines:
            name = f"{escape(one.method)}\n[dim]{escape(_about(one, sources))}[/dim]"
            drawn.add_row(name, "\n".join(SHOWN.values()), *(_pair(TERMINAL, scores) for scores in one.scores))
        return drawn


def beside(cells: pd.DataFrame, means: dict[tuple[Any, ...], list[str]]) -> Literature:
    """Return what is published of the sources and targets of a table, the same or of their family.

    A set of single shots, such as the classic `cuhk03-detected`, and Market with its distractors are **not** taken for
    their families, nor all images (`market-all`) for the training part. The mean of unseen is taken where ours is
    over the targets of the protocol. cells, means: of a Table; not modified.
    """
    every = published()
    kin = {name: meant(name) for name in pd.concat([cells["source"], cells["target"], every["source"]]).unique()}
    pairs = {(kin[source], kin[target]) for source, target in zip(cells["source"], cells["target"], strict=True)}
    keys = list(zip(every["source"].map(kin), every["target"], strict=True))
    pairs -= {(source, MEAN) for source, _ in pairs}
    for (source, *_), targets in means.items():
        here = {target for one, target in keys if one == kin.get(source) and target != MEAN}
        if here and {meant(target) for target in targets} == here:
            pairs.add((kin[source], MEAN))
    return Literature(every[[key in pairs for key in keys]].reset_index(drop=True))


def of_targets(targets: Sequence[str]) -> Literature:
    """Return all that is published, or of these targets and their families. Raises ReidgenError where one has none."""
    every = published()
    kin = {name: meant(name) for name in expand(targets)}
    for name, family in kin.items():
        if family not in set(every["target"]):
            known = unknown("target", name, in_order(set(every["target"]) - {MEAN}, "target"))
            raise ReidgenError(f"no published number is known for it: {known}")
    return Literature(every[every["target"].isin(kin.values())].reset_index(drop=True) if kin else every)


def meant(name: str) -> str:
    """Return what a source or target stands for in published tables: the families of its sets, in a fixed order.

    >>> meant("msmt17-v2+market-all"), meant("cuhk03-np-detected"), meant("cuhk03-detected")
    ('market-all+msmt17', 'cuhk03', 'cuhk03-detected')
    """
    sets, parts = load_catalogue(), []
    for part in name.split("+"):
        bare, everything = split_all(part)
        family = family_of(bare, sets)
        parts.append((family if bare in variants(family, sets) else bare) + ALL * everything)
    return "+".join(sorted(parts))
