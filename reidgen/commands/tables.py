"""Commands that make tables and the report of what the runs left: no image is opened, torch is never imported."""

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reidgen.commands.options import Json, Plugin, Quiet, Results, read_seeds
from reidgen.errors import EmptyTableError, ReidgenError
from reidgen.escapes import many
from reidgen.terminal import MANNER, document, note, one_sentence, out, result

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from reidgen.tables.choose import Note, Selection
    from reidgen.tables.literature import Literature
    from reidgen.tables.looks import Table


@one_sentence
def table(
    name: Annotated[
        str,
        typer.Argument(
            help="main, loss, stage or design, as in the paper; placement; all; stress; attack. Without: all methods."
        ),
    ] = "",
    paper: Annotated[
        bool, typer.Option("--paper", help="Put the paper's number and the difference beside ours.")
    ] = False,
    literature: Annotated[
        bool,
        typer.Option("--literature", help="Add what others published of the same sources and targets, below ours."),
    ] = False,
    against: Annotated[str, typer.Option(help="The method that the others are compared with.")] = "baseline",
    target: Annotated[str, typer.Option(help="Only these targets, joined by commas; all of them enter the mean.")] = "",
    methods: Annotated[
        str,
        typer.Option(help="Only these: tables such as main, groups such as mixing, or names, joined by commas."),
    ] = "",
    best: Annotated[
        int | None, typer.Option(metavar="N", help="Only the N best by the mean of unseen, Baseline and SNR.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Only these recipes: beginnings of their hash, or names, joined by commas.")
    ] = "",
    backbone: Annotated[str, typer.Option(help="Only these backbones, joined by commas.")] = "",
    seeds: Annotated[
        str, typer.Option(help="Only these seeds: such as 2,4 (4, for one), or N for 0 to N-1, as in bench.")
    ] = "",
    test: Annotated[
        str, typer.Option(help="Only these tests: plain, or steps such as flip+centre, joined by commas.")
    ] = "",
    explain: Annotated[
        str | None, typer.Option(metavar="CELL", help="Lead from a number, such as 'snr market duke', to its runs.")
    ] = None,
    plugin: Plugin = None,
    json: Json = False,
    quiet: Quiet = False,
    results: Results = Path("results"),
) -> None:
    """Print the comparison table; write it as Markdown, CSV and LaTeX.

    Example: reidgen table --paper

    Example: reidgen table loss --against snr

    Example: reidgen table --target duke,viper --methods baseline,snr --seeds 0,1

    Example: reidgen table --best 5 --literature

    Example: reidgen table --explain "snr synth-plaza night"
    """
    selection = _selection(target, methods, recipe, backbone, seeds, test)
    if name in ("stress", "attack"):
        if paper or literature or best is not None or against != "baseline" or explain is not None or test:
            what = "--paper, --literature, --best, --against, --explain and --test"
            raise ReidgenError(f"{what} do not go with {name}, whose rows are of plain tests; leave them out")
        _print_robustness(name, results, selection)
        return
    from reidgen.methods import TABLES

    asked = Asked(paper=paper, literature=literature, best=best, against=against, selection=selection)
    if explain is not None:
        for option, given in {"--json": json, "--literature": literature, "--best": best is not None}.items():
            if given:
                raise ReidgenError(f"{option} does not go with --explain; leave one of them out")
        made, rows, _ = _make(results, "" if name == "all" else name, asked)
        from reidgen.tables.explain import explain as explained

        result(explained(made, explain, rows=rows, results=results))
        return
    empty: list[EmptyTableError] = []
    tables: list[Table | Literature] = []
    for one in TABLES if name == "all" else [name]:
        try:
            tables.append(print_table(results, one, asked))
        except EmptyTableError as error:
            empty.append(error)
            nothing = name != "all" or len(empty) == len(TABLES)
            if nothing and not literature:
                raise
            if str(error) not in map(str, empty[:-1]):
                note(f"note: {error}")
            if nothing:
                tables.append(_print_literature(selection))
    if json:
        documents = [made.json() for made in tables]
        document(documents if name == "all" else documents[0])


@one_sentence
def report(
    images: Annotated[
        bool, typer.Option("--images", help="Embed pictures of people too; mind the licence of the data.")
    ] = False,
    plugin: Plugin = None,
    quiet: Quiet = False,
    results: Results = Path("results"),
) -> None:
    """Write everything that is known into one offline HTML file.

    Example: reidgen report
    """
    from reidgen.report.page import make_report

    file = make_report(results, images=images)
    result(f"written: {file} ({file.stat().st_size / 1e6:.1f} MB)")


@dataclass(frozen=True)
class Asked:
    """What a table is to show, see the options of `table`; selection: None for all rows."""

    paper: bool = False
    literature: bool = False
    best: int | None = None
    against: str = "baseline"
    selection: "Selection | None" = None


def print_table(
    results: Path,
    name: str = "",
    asked: Asked = Asked(),
    *,
    choose: "Callable[[pd.DataFrame], pd.DataFrame]" = lambda rows: rows,
) -> "Table":
    """Print the table of the rows that `choose` returns of all rows, then write it; return it.

    A table of some methods or rows alone has files of its own, and leaves those of the whole one as they are.
    Where `results` cannot be written, a note says so. Where the paper has no number beside any row, `paper` prints
    the paper's own table and writes nothing. With --json, print no table: the caller prints the document.
    """
    from reidgen.rows import write_rows
    from reidgen.tables.choose import Selection
    from reidgen.tables.compare import paper_table
    from reidgen.tables.identities import keep_identities
    from reidgen.teststeps import PLAIN

    try:
        made, rows, identities = _make(results, name, asked, choose=choose)
    except EmptyTableError as error:
        selection = asked.selection or Selection()
        plain = not selection.tests or PLAIN in selection.tests
        if not asked.paper or not plain or selection.recipes or selection.seeds:  # which only runs have
            raise
        made = paper_table(name or "main", selection, literature=asked.literature)
        _print([made.rich()], [error, *made.notes])
        return made
    _print([made.rich()], made.notes)
    whole = asked.best is None and replace(asked.selection or Selection(), every=False) == Selection()
    stem = "-".join(filter(None, ["table", name, "" if whole else "selected"]))
    texts = {f"{stem}.md": made.markdown(), f"{stem}.csv": made.csv(), f"{stem}.tex": made.latex()}
    if made.literature and len(made.literature.rows):
        texts[f"{stem}-literature.csv"] = made.literature.csv()

    def keep() -> None:
        write_rows(results / "rows.csv", rows)
        keep_identities(results, identities)

    _write(results, texts, keep, kept="rows.csv")
    return made


def _print_literature(selection: "Selection") -> "Literature":
    """Print what is published of the targets that are asked for, where there are no rows of ours; write nothing."""
    from reidgen.tables.literature import of_targets

    found = of_targets(selection.targets)
    _print([found.rich()], [])
    return found


def _make(
    results: Path,
    name: str,
    asked: Asked,
    *,
    choose: "Callable[[pd.DataFrame], pd.DataFrame]" = lambda rows: rows,
) -> "tuple[Table, pd.DataFrame, pd.DataFrame]":
    """Return the table of a results folder, all its rows and their numbers per identity.

    Raises EmptyTableError also where published numbers of targets are asked for that no row is of.
    """
    from reidgen.runs import read_rows
    from reidgen.tables.choose import Selection, has_target
    from reidgen.tables.compare import make_table
    from reidgen.tables.identities import read_identities
    from reidgen.tables.settings import read_settings

    if results.is_file():
        raise ReidgenError(f"{results} is a file; --results takes the folder of runs and tables")
    rows, selection = read_rows(results), asked.selection or Selection()
    if asked.literature and selection.targets and not has_target(rows, selection.targets):
        raise EmptyTableError(f"there are no results on {', '.join(selection.targets)}")
    identities = read_identities(results, rows)
    made = make_table(
        choose(rows),
        name=name,
        paper=asked.paper,
        narrow=asked.paper,
        literature=asked.literature,
        best=asked.best,
        against=asked.against,
        identities=identities,
        selection=selection,
        settings=read_settings(results, rows),
    )
    return replace(made, notes=[*made.notes, *_gone(results, made.rows)]), rows, identities


def _gone(results: Path, rows: "pd.DataFrame") -> "list[Note]":
    """Return a note where some rows' run folders are there and others' are not: somebody may have removed these."""
    from reidgen.tables.choose import Note, count_rows
    from reidgen.tables.identities import run_names

    if not (results / "runs").is_dir():  # a published folder has none
        return []
    names = run_names(rows)
    gone = {name for name in names.unique() if not (results / "runs" / name).is_dir()}
    if not gone or len(gone) == names.nunique():
        return []
    few = ", ".join(sorted(gone)[:3]) + (", ..." if len(gone) > 3 else "")
    what = f"{count_rows(names.isin(gone))} of {many(len(gone), 'run')} whose folders are not here: {few}"
    return [
        Note(what, f"they stand in {results / 'rows.csv'}; to leave them out, remove it: what has a folder is kept")
    ]


def _selection(target: str, methods: str, recipe: str, backbone: str, seeds: str, test: str) -> "Selection":
    """Return what the options of `table` ask for."""
    from reidgen.escapes import split_names
    from reidgen.tables.choose import Selection

    return Selection(
        targets=tuple(split_names(target)),
        methods=tuple(split_names(methods)),
        recipes=tuple(split_names(recipe)),
        backbones=tuple(split_names(backbone)),
        seeds=_seeds(seeds) if seeds else (),
        tests=tuple(split_names(test)),
    )


def _seeds(words: str) -> tuple[int, ...]:
    """Return the seeds that --seeds selects: a number alone is that seed, as rows are looked for and not made."""
    return tuple(read_seeds(f"{words}," if words.strip().isdecimal() else words))


def _print_robustness(kind: str, results: Path, selection: "Selection") -> None:
    """Print the table of all stress or attack rows, then write it and draw its figures."""
    from reidgen.robustness.tables import attack_figures, attack_table, stress_figures, stress_table
    from reidgen.robustness.trials import KINDS, collect_trials
    from reidgen.tables.choose import select

    every = collect_trials(results, kind)
    rows = select(every, selection) if len(every) else every
    made = {"stress": stress_table, "attack": attack_table}[kind](rows)
    if MANNER.json:
        document(made.json())
    _print([grid.rich() for grid in made.grids], made.notes)
    figures = {"stress": stress_figures, "attack": attack_figures}[kind](rows)
    texts = {f"{kind}.md": made.markdown(), f"{kind}.csv": made.csv()}
    texts |= {f"{name}.svg": text for name, text in figures.items()}
    texts[f"{kind}-rows.csv"] = every[list(KINDS[kind])].to_csv(index=False, float_format="%.6g")
    _write(results, texts)


def _print(looks: "Iterable[RenderableType]", notes: Iterable[object]) -> None:
    for look in () if MANNER.json else looks:
        out().print(look, markup=True)
    for one in notes:
        note(f"note: {one}")


def _write(results: Path, texts: Mapping[str, str], keep: Callable[[], None] = lambda: None, *, kept: str = "") -> None:
    """Write the texts below `results`, and what `keep` writes; where that folder is not ours to write, say so.

    kept: the name of what `keep` writes.
    """
    from reidgen.files import write_text
    from reidgen.integrity import write_sealed
    from reidgen.locks import locked

    try:
        with locked(results):  # another bench of this folder may end at the same time
            for name, text in texts.items():
                if name.endswith("rows.csv"):
                    write_sealed(results / name, text.encode())
                else:
                    write_text(results / name, text)
            keep()
    except ReidgenError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        note(f"note: printed only, as results cannot be written there: {error}")
        return
    note(f"written: {', '.join(str(results / name) for name in [*texts, kept] if name)}")
