"""How one format writes names, numbers and marks: Markdown, LaTeX, the terminal. No arithmetic, no whole table."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reidgen.escapes import visible
from reidgen.tables.statistics import LEVEL

SHOWN = {"mAP": "mAP", "rank1": "R1"}  # what fits on a page, and its heading; the CSV holds all metrics
PAGE_COLUMNS, PAGE_LINES = 8, 44  # of one LaTeX tabular
Cell = dict[str, Any]  # one row of Table.cells, and `<metric>_place`: 1, 2, ... or NaN; {} where there is no number


@dataclass(frozen=True)
class Look:
    """How one format writes a number, its marks, a pair of numbers and a name."""

    best: str
    second: str
    spread: str
    pair: str
    scores: str
    source: str
    group: str
    seen: str
    paper: str
    escape: Callable[[str], str]
    unseen: str = ""
    difference: str = "{} ({})"
    missing: str = "–"
    minus: str = "−"
    hintless: bool = False  # whether commands to run are left out

    def number(self, cell: Cell, metric: str) -> str:
        """Return our number with its marks and spread."""
        if not cell:
            return self.missing
        text = {1: self.best, 2: self.second}.get(cell[f"{metric}_place"], "{}").format(f"{cell[metric]:.1f}")
        text += self.escape(mark(cell, metric))
        std = cell[f"{metric}_std_seeds"]
        return text if pd.isna(std) else text + self.spread.format(f"{std:.1f}")

    def beside(self, cell: Cell, metric: str) -> str:
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


def tex(text: str) -> str:
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


MARKDOWN = Look(  # <ins>, not <u>: GitHub's sanitizer drops <u>
    best="**{}**",
    second="<ins>{}</ins>",
    spread="±{}",
    pair=" / ",
    scores="mAP / Rank-1",
    source="**Source: {}**",
    group="*{}*",
    seen="*seen*",
    paper="*paper (difference)*",
    escape=markdown,
)
TERMINAL = Look(
    best="[bold]{}[/bold]",
    second="[underline]{}[/underline]",
    spread=" ±{}",
    pair="\n",
    scores="mAP, Rank-1 (R1)",
    source="[bold]{}[/bold]",
    group="[dim]{}[/dim]",
    seen="(seen)",
    paper="[dim]  paper[/dim]",
    difference="[dim]{} {}[/dim]",
    escape=markup,
)
LATEX = Look(
    best=r"\textbf{{{}}}",
    second=r"\underline{{{}}}",
    spread=r"$_{{\pm{}}}$",
    pair=" & ",
    scores="mAP and Rank-1 (R1)",
    source="\\midrule\n\\emph{{Source: {}}}",
    group="\\midrule\n\\quad\\emph{{{}}}",
    seen=r"\multicolumn{2}{c}{\emph{seen}}",
    unseen=r"\multicolumn{2}{c}{}",
    paper=r"\quad paper$_\mathrm{difference}$",
    difference="{}$_{{{}}}$",
    missing="--",
    minus="-",
    hintless=True,
    escape=tex,
)
TEX_HEAD = r"""% \input this file into a document with \usepackage{booktabs,graphicx}, or compile it as it is.
\makeatletter\ifx\@nodocument\relax\def\reidgenend{}\else\def\reidgenend{\end{document}}
\documentclass{article}\usepackage{booktabs,graphicx}\usepackage[margin=2cm]{geometry}\begin{document}\fi\makeatother
\providecommand{\resizebox}[3]{#3}"""


def tabular(names: list[str], lines: list[list[str]]) -> str:
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


def floats(tabulars: Iterable[str], *, caption: str, below: Iterable[str]) -> list[str]:
    """Return LaTeX floats of a page or less that hold the tabulars, with the lines `below` under the last of them."""
    pages: list[list[str]] = []
    room = 0
    for one in tabulars:
        room -= one.count("\n")
        if room < 0:
            pages.append([])
            room = PAGE_LINES + 10 - one.count("\n")
        pages[-1].append(one)
    notes = r"\par\medskip\begin{minipage}{\textwidth}\raggedright\tiny" + "\n" + "\\par\n".join(below)
    pages[-1].append(notes + r"\end{minipage}")
    captions = [caption, *[r"\caption{The table before, continued.}"] * (len(pages) - 1)]
    lines = []
    for words, parts in zip(captions, pages, strict=True):
        lines += [r"\begin{table*}[tp]", r"\centering\scriptsize\setlength{\tabcolsep}{2.5pt}"]
        lines += [words + r"\par\smallskip", "\\par\\medskip\n".join(parts), r"\end{table*}"]
    return lines


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


def difference(cell: "Mapping[Any, Any] | pd.Series[Any]", metric: str = "mAP") -> str:
    """Return the difference of a cell from the method it is compared with, its 95 % interval and mark where tested."""
    words = signed(cell[f"gain_{metric}"])
    if pd.notna(cell[f"gain_{metric}_p"]):
        low, high = (_end(cell[f"gain_{metric}_{end}"]) for end in ("low", "high"))
        words += f" [{low}, {high}]{mark(cell, metric)}"
    return words


def signed(value: float) -> str:
    """Return a difference with its sign and one decimal; nothing has none.

    >>> signed(1.25), signed(-0.3), signed(-0.04)
    ('+1.2', '−0.3', '0.0')
    """
    words = _end(value)
    return "0.0" if words in ("+0.0", "−0.0") else words


def _end(value: float) -> str:
    """Return an end of an interval: its sign says on which side of nothing it lies, however near."""
    return f"{value:+.1f}".replace("-", "−")


def p_value(value: float) -> str:
    """Return the words for a p-value, as small as it is worth saying.

    >>> p_value(0.0), p_value(0.022)
    ('p < 0.001', 'p = 0.022')
    """
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
