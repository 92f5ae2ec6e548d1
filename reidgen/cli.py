"""The commands: parse, call one function, print with Rich. Nothing else prints; torch is imported where it is needed."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from reidgen.errors import DataError, InterruptedRunError, ReidgenError

if TYPE_CHECKING:
    from rich.console import Console

    from reidgen.recipe import Recipe

app = typer.Typer(
    help="The benchmark for person re-identification on cameras nobody trained on.\n\n"
    "Begin with: reidgen prepare synth, then: reidgen bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
P = ParamSpec("P")

Data = Annotated[Path, typer.Option(envvar="REIDGEN_DATA", help="Folder of the prepared data sets.")]
Results = Annotated[Path, typer.Option(help="Folder of runs and tables.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Source = Annotated[str, typer.Option(help="Data set to train on; several joined by +.")]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="paper, quick or FILE.toml; by default quick for synth, else paper.")
]
Backbone = Annotated[str | None, typer.Option(help="resnet50, resnet18, mobilenet_v2 or tiny instead of the recipe's.")]
Weights = Annotated[
    str | None, typer.Option(help="imagenet, none or a torchvision state dict instead of the recipe's.")
]
Epochs = Annotated[int | None, typer.Option(help="Epochs instead of the recipe's.")]


@functools.cache
def _out() -> "Console":
    """Return where results are printed; made late, because importing it takes as long as all the rest of --help."""
    from rich.console import Console

    return Console(highlight=False, markup=False)


@functools.cache
def _err() -> "Console":
    """Return where progress, notes and errors are printed."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False)


def _command(function: Callable[P, None]) -> Callable[P, None]:
    """Make `function` a command that ends every ReidgenError in one sentence and its exit code."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except ReidgenError as error:
            _complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _complain("stopped; what is finished is kept, the same command goes on")
            raise typer.Exit(InterruptedRunError.exit_code) from None

    return app.command()(run)


def _complain(sentence: str) -> None:
    _err().print("error: ", style="red", end="")
    _err().print(sentence, soft_wrap=True)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield the `report` that long work calls: a bar on a terminal, a line a minute elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not _err().is_terminal:
        last = time.monotonic()

        def line(what: str, done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > 60:
                _err().print(f"{what}: {done}/{total}", soft_wrap=True)
                last = time.monotonic()

        yield line
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err(), transient=True) as progress:
        task = progress.add_task("", total=None)
        stage = ""

        def bar(what: str, done: int, total: int) -> None:
            nonlocal stage
            if what.partition(",")[0] != stage:  # another kind of work: its time left starts anew
                stage = what.partition(",")[0]
                progress.reset(task)
            progress.update(task, description=what, completed=done, total=total)

        yield bar


def _recipe(name: str | None, source: str, **settings: object) -> "Recipe":
    """Return the recipe that the options of train and bench mean."""
    from reidgen.catalogue import DEFAULT_SYNTH
    from reidgen.recipe import load_recipe

    names = [DEFAULT_SYNTH if name == "synth" else name for name in source.split("+")]
    default = "quick" if all(name.startswith("synth-") for name in names) else "paper"
    return load_recipe(name or default).change(source="+".join(names), **settings)


def main() -> None:
    """Run the command line."""
    # Threads that wait without spinning: on two cores shared with other work, a training step took 0.5 s, not 1.9 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(prog_name="reidgen")


def _version(wanted: bool) -> None:
    if wanted:
        from reidgen import __version__

        _out().print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@_command
def prepare(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets; synth means all built-in domains.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="The folder that holds the data set.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="For own crops: a regular expression with the groups pid and camid.")
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Show every data set, what is prepared and how to get the rest.")
    ] = False,
    data: Data = Path("data"),
) -> None:
    """Verify and index data sets; images stay where they are.

    The built-in sets, synth, are drawn. Without a name: lists every set.

    Example: reidgen prepare synth

    Example: reidgen prepare market --from ~/Market-1501-v15.09.15

    Example: reidgen prepare mycams --from ~/crops --pattern '(?P<pid>[^/]+)/cam(?P<camid>[0-9]+)_.*'
    """
    from reidgen.catalogue import expand, load_catalogue
    from reidgen.data.prepare import load_prepared, prepared_names
    from reidgen.data.prepare import prepare as run_prepare

    if source and not names:
        raise DataError(f"--from {source} needs the name of the data set: reidgen prepare NAME --from {source}")
    if listing or not names:
        known, here = load_catalogue(), prepared_names(data)
        for name in dict.fromkeys([*known, *here]):
            if name in here:
                try:
                    state, words = "prepared", str(load_prepared(name, data))
                except DataError as error:
                    state, words = "damaged", str(error)
            else:
                entry = known[name]
                state, words = (
                    entry.status,
                    f"{entry.title}; {entry.get}{f' ({entry.homepage})' if entry.homepage else ''}",
                )
            _out().print(f"{name:<15} {state:<9} {words}", soft_wrap=True)
        return
    for name in expand(names):
        with _progress() as report:
            prepared = run_prepare(name, data=data, source=source, pattern=pattern, report=report)
        _out().print(f"{name}: {prepared}{' (was prepared already)' if prepared.already else ''}", soft_wrap=True)
        if prepared.dataset.status == "own":
            _out().print(f"{name}: {prepared.example}", soft_wrap=True)


@_command
def train(
    method: Annotated[
        str, typer.Option(help="A name of the METHODS table: baseline, in, ibn, a-in, a-sn, snr, ...")
    ] = "snr",
    source: Source = "synth",
    seed: Annotated[int, typer.Option(help="Decides the initial weights, batches and augmentation.")] = 0,
    recipe: RecipeName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    epochs: Epochs = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
) -> None:
    """Train one network; the same command resumes it.

    Example: reidgen train --method snr --source market --seed 0
    """
    chosen = _recipe(recipe, source, method=method, seed=seed, backbone=backbone, weights=weights, epochs=epochs)
    from reidgen.training import train as run_training

    with _progress() as report:
        run = run_training(chosen, data=data, results=results, device=device, report=report)
    facts = run.facts()
    _out().print(f"{run.folder}: trained in {facts['seconds']} s on {facts['device']}", soft_wrap=True)
    _out().print(f"next: reidgen evaluate {run.folder} --target {chosen.sources[0]}", soft_wrap=True)


@_command
def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder, its name, or the beginning of its name.")],
    target: Annotated[str, typer.Option(help="A prepared data set, several joined by commas, or synth.")],
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
) -> None:
    """Evaluate one trained run on a target: mAP, CMC and mINP.

    Example: reidgen evaluate snr-tiny-s0 --target synth-night
    """
    from reidgen.catalogue import expand
    from reidgen.runs import find_run

    found = find_run(run, results)
    from reidgen.evaluation import evaluate as run_evaluation

    for name in expand(target.split(",")):
        with _progress() as report:
            rows = run_evaluation(found, name, data=data, device=device, report=report)
        mean, splits = rows.mean(numeric_only=True), len(rows)
        spread = f" (mean of {splits} splits, mAP ± {100 * rows['mAP'].std():.1f})" if splits > 1 else ""
        numbers = ", ".join(f"{name} {100 * mean[key]:.1f}" for name, key in
                            {"mAP": "mAP", "Rank-1": "rank1", "Rank-5": "rank5", "Rank-10": "rank10", "mINP": "mINP"}.items())  # fmt: skip
        _out().print(f"{name}: {numbers}{spread}", soft_wrap=True)
        if rows["unmatched"].sum():
            _out().print(
                f"{name}: {rows['unmatched'].sum()} of {rows['queries'].sum()} queries have no match and do not count"
            )
    _out().print(f"rows in {found.results}, per-query numbers in {found.per_query}", soft_wrap=True)


@_command
def bench(
    source: Source = "synth",
    methods: Annotated[
        str, typer.Option(help="main, ablations, loss, stage, design, all, or names with commas.")
    ] = "main",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1 of every method.")] = 3,
    recipe: RecipeName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    epochs: Epochs = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
) -> None:
    """Train methods x seeds on a source, evaluate on all targets, write the table.

    Safe to stop and repeat: only what is missing runs.

    Example: reidgen bench --source synth --methods main --seeds 3
    """
    from reidgen.methods import select_methods

    chosen, names = _recipe(recipe, source, backbone=backbone, weights=weights, epochs=epochs), select_methods(methods)
    from reidgen.bench import bench as run_bench

    with _progress() as report:
        digest = run_bench(chosen, methods=names, seeds=seeds, data=data, results=results, device=device, report=report,
                  say=lambda line: _out().print(line, soft_wrap=True))  # fmt: skip
    _print_table(results, paper=False, own=(chosen.source, digest))


@_command
def table(
    paper: Annotated[
        bool, typer.Option("--paper", help="Put the paper's number and the difference beside ours.")
    ] = False,
    results: Results = Path("results"),
) -> None:
    """Print the comparison table and write it as Markdown, CSV and LaTeX.

    Example: reidgen table --paper
    """
    _print_table(results, paper=paper)


def _print_table(results: Path, *, paper: bool, own: tuple[str, str] | None = None) -> None:
    """Write and print the table; with `own`, of that source only the rows with that hash, whatever else there is."""
    from reidgen.files import write_text
    from reidgen.runs import read_rows, to_csv
    from reidgen.tables import make_table

    rows = read_rows(results)
    shown = rows if own is None else rows[(rows["source"] != own[0]) | (rows["hash"] == own[1])]
    made = make_table(shown, paper=paper)
    texts = {"table.md": made.markdown(), "table.csv": made.csv(), "table.tex": made.latex(), "rows.csv": to_csv(rows)}
    for name, text in texts.items():
        write_text(results / name, text)
    _out().print(made.rich(), markup=True)
    for note in made.notes:
        _out().print(f"note: {note}", soft_wrap=True)
    _out().print(f"written: {', '.join(str(results / name) for name in texts)}", soft_wrap=True)
