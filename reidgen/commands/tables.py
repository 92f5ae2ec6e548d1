"""Commands that make tables and the report of what the runs left: no image is opened, torch is never imported."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reidgen.commands.options import Plugin, Results
from reidgen.errors import EmptyTableError, ReidgenError
from reidgen.terminal import one_sentence, out

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType


@one_sentence
def table(
    name: Annotated[
        str,
        typer.Argument(help="main, loss, stage, design or all, as in the paper; stress; attack. Without: all methods."),
    ] = "",
    paper: Annotated[
        bool, typer.Option("--paper", help="Put the paper's number and the difference beside ours.")
    ] = False,
    against: Annotated[str, typer.Option(help="The method that the others are compared with.")] = "baseline",
    explain: Annotated[
        str | None, typer.Option(metavar="CELL", help="Lead from a number, such as 'snr market duke', to its runs.")
    ] = None,
    plugin: Plugin = None,
    results: Results = Path("results"),
) -> None:
    """Print the comparison table; write it as Markdown, CSV and LaTeX.

    Example: reidgen table --paper

    Example: reidgen table loss --against snr

    Example: reidgen table --explain "snr synth-plaza night"
    """
    if name in ("stress", "attack"):
        if paper or against != "baseline" or explain is not None:
            raise ReidgenError(f"--paper, --against and --explain do not go with {name}; leave them out")
        _print_robustness(name, results)
        return
    from reidgen.tables.paper import TABLES

    if explain is not None:
        _explain(explain, "" if name == "all" else name, against, results)
    elif name == "all":
        empty = 0
        for one in TABLES:
            try:
                print_table(results, one, paper=paper, against=against)
            except EmptyTableError as error:
                if (empty := empty + 1) == len(TABLES):
                    raise
                out().print(f"note: {error}", soft_wrap=True)
    else:
        print_table(results, name, paper=paper, against=against)


@one_sentence
def report(
    images: Annotated[
        bool, typer.Option("--images", help="Embed pictures of people too; mind the licence of the data.")
    ] = False,
    plugin: Plugin = None,
    results: Results = Path("results"),
) -> None:
    """Write everything that is known into one offline HTML file.

    Example: reidgen report
    """
    from reidgen.report.page import make_report

    file = make_report(results, images=images)
    out().print(f"written: {file} ({file.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)


def print_table(
    results: Path,
    name: str = "",
    *,
    paper: bool = False,
    against: str = "baseline",
    choose: "Callable[[pd.DataFrame], pd.DataFrame]" = lambda rows: rows,
) -> None:
    """Write and print the table of the rows that `choose` returns of all rows."""
    from reidgen.runs import read_rows, to_csv
    from reidgen.tables.compare import make_table
    from reidgen.tables.identities import read_identities

    rows = read_rows(results)
    identities = read_identities(results, rows, keep=True)
    made = make_table(choose(rows), name=name, paper=paper, against=against, identities=identities)
    stem = f"table-{name}" if name else "table"
    texts = {f"{stem}.md": made.markdown(), f"{stem}.csv": made.csv(), f"{stem}.tex": made.latex()}
    _write(results, {**texts, "rows.csv": to_csv(rows)}, [made.rich()], made.notes)


def _explain(cell: str, name: str, against: str, results: Path) -> None:
    from reidgen.runs import read_rows
    from reidgen.tables.explain import explain
    from reidgen.tables.identities import read_identities

    rows = read_rows(results)
    identities = read_identities(results, rows, keep=True)
    text = explain(rows, cell, results=results, name=name, against=against, identities=identities)
    out().print(text, soft_wrap=True)


def _print_robustness(kind: str, results: Path) -> None:
    """Write and print the table, and draw the figures, of all stress or attack rows."""
    from reidgen.robustness.tables import attack_figures, attack_table, stress_figures, stress_table
    from reidgen.robustness.trials import KINDS, collect_trials

    rows = collect_trials(results, kind)
    made = {"stress": stress_table, "attack": attack_table}[kind](rows)
    figures = {"stress": stress_figures, "attack": attack_figures}[kind](rows)
    texts = {f"{kind}.md": made.markdown(), f"{kind}.csv": made.csv()}
    texts |= {f"{name}.svg": text for name, text in figures.items()}
    texts[f"{kind}-rows.csv"] = rows[list(KINDS[kind])].to_csv(index=False, float_format="%.6g")
    _write(results, texts, [grid.rich() for grid in made.grids], made.notes)


def _write(results: Path, texts: Mapping[str, str], looks: "Iterable[RenderableType]", notes: Iterable[str]) -> None:
    from reidgen.files import write_text

    for name, text in texts.items():
        write_text(results / name, text)
    for look in looks:
        out().print(look, markup=True)
    for note in notes:
        out().print(f"note: {note}", soft_wrap=True)
    out().print(f"written: {', '.join(str(results / name) for name in texts)}", soft_wrap=True)
