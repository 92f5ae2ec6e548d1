"""The grid: methods x seeds on a source or a protocol's cells, each run evaluated on its targets. Runs
what is missing.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
from torch.distributed import is_torchelastic_launched

from reidgen.contracts import build_test_step
from reidgen.devices import devices_of
from reidgen.entries import Protocol
from reidgen.errors import BusyError, InterruptedRunError, RecipeError, ReidgenError, SharedImagesError
from reidgen.evaluation import evaluate
from reidgen.models.network import check_grid
from reidgen.planning import Cell, plan_cells
from reidgen.pool import spread
from reidgen.recipe import Recipe
from reidgen.rows import percent, tie_notes
from reidgen.runs import Progress, Run
from reidgen.status import FailedElsewhereError, failure_mark, forget_failure, note_failure, note_refused, read_failure
from reidgen.stopping import stop_signals
from reidgen.tables.average import means_of
from reidgen.teststeps import PLAIN, Way
from reidgen.together import train_together
from reidgen.tracking import check_followers, follow_results
from reidgen.training import check_weights, train

# what is being done, runs that are done (of the present one a part), runs in all
GridProgress = Callable[[str, float, int], None]
Outcome = tuple[Run, dict[str, str]]  # a finished run, and target -> why it was refused
WAIT = 10.0  # seconds between two looks at runs that another process holds


@dataclass(frozen=True)
class Failure:
    """A run of the grid that ended in an error: its recipe, and the sentence."""

    recipe: Recipe
    sentence: str


@dataclass(frozen=True)
class Grid:
    """What a bench left behind. sources: source -> the hash its rows carry, its targets; of those with a finished run.
    tests: the words of its tests.
    """

    sources: dict[str, tuple[str, list[str]]]
    failures: list[Failure]
    tests: tuple[str, ...] = (PLAIN,)


def bench(
    recipe: Recipe,
    *,
    methods: list[str],
    seeds: Sequence[int],
    data: Path,
    results: Path,
    protocol: Protocol | None = None,
    targets: Sequence[str] = (),
    ways: Sequence[Way] = (Way(),),
    device: str = "auto",
    log: Sequence[str] = (),
    report: GridProgress,
    say: Callable[[str], None],
) -> Grid:
    """Train and evaluate every missing cell of methods x seeds; return what there is then, and what failed.

    See `plan_cells` for the sources and targets. ways: how each run is tested on each target, see `evaluate`. log:
    where each is followed, see `reidgen.tracking`. Several may work on one results folder, on many machines. Safe to
    stop and repeat at any moment: finished runs and evaluated targets are skipped, test by test, an unfinished run goes
    on. With several GPUs ("auto", "cuda" or "cuda:0,1") each run has one to itself, in a process of its own. A run that
    ends in an error is noted and the others go on; a run that another process holds is put off until nothing else is
    left. A target that shares images with a source is left out. `say` gets one line per run and test, and one for
    whatever is not prepared, left out, put off or failed. `report` counts runs, the present one in part. Raises what
    `plan_cells` raises, InterruptedRunError, and RecipeError or PluginError for a test step that cannot be built.
    """
    if is_torchelastic_launched():
        raise RecipeError("bench uses every GPU of the machine by itself, one run each; repeat it without torchrun")
    devices = devices_of(device)
    check_followers(log)
    for way in ways:
        for step in way.steps:
            build_test_step(step)
    cells = plan_cells(
        recipe,
        methods=methods,
        seeds=seeds,
        data=data,
        results=results,
        protocol=protocol,
        targets=targets,
        ways=ways,
        say=say,
    )
    check_grid(recipe, methods)
    if untrained := {cell.run.folder: cell.recipe for cell in cells if not cell.trained}:
        check_weights(next(iter(untrained.values())))
    grid, refused = Grid({}, [], tuple(way.word for way in ways)), set[tuple[str, str]]()
    work = partial(_run, data=data, results=results, log=log)
    for cell, ended in _ended(cells, work, refused, devices=devices, report=report, say=say):
        source = cell.recipe.source
        if isinstance(ended, ReidgenError):
            grid.failures.append(Failure(cell.recipe, str(ended)))
            say(f"{cell.name} {cell.recipe.row.label} s{cell.recipe.seed}: failed: {ended}")
            continue
        run, refusals = ended
        if source not in grid.sources and (single := run.facts().get("single")):
            say(f"{source}: {single} training identities have a single image and are left out")
        for target, sentence in refusals.items():
            if (source, target) not in refused:
                refused.add((source, target))
                say(f"left out: {sentence}")
        grid.sources[source] = str(run.facts()["hash"]), list(cell.targets)
        rows = run.own_rows()
        for line in _summary(cell, rows, grid.tests, asked=protocol is not None, new=run.folder in untrained):
            say(f"{cell.name} {line}")
        for note in tie_notes(rows[rows["target"].isin(cell.targets) & rows["test"].isin(grid.tests)]):
            say(f"{cell.name} {note}")
    return grid


def work_off(
    cells: list[Cell],
    *,
    data: Path,
    results: Path,
    devices: list[str],
    ranks: int = 1,
    log: Sequence[str] = (),
    report: GridProgress,
    say: Callable[[str], None],
) -> list[Failure]:
    """Do what cells lack, and return those that failed: what `bench` does behind its plan, in a job of a cluster.

    ranks: processes that train one run together, by torchrun. Raises InterruptedRunError.
    """
    work = partial(_run, data=data, results=results, ranks=ranks, log=log)
    ended = _ended(cells, work, set(), devices=devices, report=report, say=say)
    return [Failure(cell.recipe, str(what)) for cell, what in ended if isinstance(what, ReidgenError)]


def _ended(
    cells: list[Cell],
    work: Callable[..., Outcome],
    refused: set[tuple[str, str]],
    *,
    devices: list[str],
    report: GridProgress,
    say: Callable[[str], None],
) -> Iterator[tuple[Cell, Outcome | ReidgenError]]:
    """Yield every cell with what it gave, when it has ended; those that another process holds come back at the end."""
    known = {cell.run.folder: failure_mark(cell.run) for cell in cells}
    work = partial(work, known=known)
    left = cells
    while left:
        busy: list[Cell] = []
        for cell, ended in _round(left, work, refused, devices=devices, report=report, done=len(cells) - len(left)):
            if isinstance(ended, BusyError):
                busy.append(cell)
                continue
            if isinstance(ended, ReidgenError) and failure_mark(cell.run) == known[cell.run.folder]:
                note_failure(cell.run, ended)  # of a process that could not say it itself
            yield cell, ended
        if len(busy) == len(left):
            report(f"{len(busy)} runs wait for another process", len(cells) - len(busy), len(cells))
            time.sleep(WAIT)
        elif busy:
            names = ", ".join(f"{cell.recipe.row.label} s{cell.recipe.seed}" for cell in busy)
            say(f"put off, as another process is at work on them: {names}")
        left = busy


def _round(
    cells: list[Cell],
    work: Callable[..., Outcome],
    refused: set[tuple[str, str]],
    *,
    devices: list[str],
    report: GridProgress,
    done: int,
) -> Iterator[tuple[Cell, Outcome | ReidgenError]]:
    """Yield each cell with what it gave: one after the other, or one per device. done: cells of earlier rounds."""
    total = done + len(cells)
    ended: Outcome | ReidgenError
    if len(devices) == 1:
        for number, cell in enumerate(cells, start=done):
            known = {target for source, target in refused if source == cell.recipe.source}
            left = {target: digest for target, digest in cell.targets.items() if target not in known}
            try:
                ended = work(replace(cell, targets=left), devices[0], report=_within(report, cell, number, total))
            except InterruptedRunError:
                raise
            except ReidgenError as error:
                ended = copy.copy(error)  # without its traceback, which would keep the run's tensors in memory
            yield cell, ended
        return
    what = f"{total} runs on {len(devices)} devices"
    with stop_signals() as stop:
        report(what, done, total)
        outcomes = spread(work, cells, devices=devices, stop=stop, imports=["torch._dynamo"])  # of optimizers
        for count, (number, ended) in enumerate(outcomes, start=done + 1):
            report(what, count, total)
            yield cells[number], ended


def _within(report: GridProgress, cell: Cell, number: int, total: int) -> Progress:
    """Return the progress of one run as part of the grid's: training is nine tenths of it, the targets
    share the rest.
    """
    share = 0.0

    def show(what: str, done: int, of: int) -> None:
        nonlocal share
        if what.startswith(f"{cell.recipe.row.label} s"):
            share = 0.9 * done / max(of, 1)
        target = next((place for place, name in enumerate(cell.targets) if what.startswith(f"{name}: ")), None)
        if target is not None:
            share = 0.9 + 0.1 * (target + done / max(of, 1)) / len(cell.targets)
        report(f"grid, {cell.name} {what}", number + min(share, 1.0), total)

    return show


def _silent(what: str, done: int, total: int) -> None:
    """Report nothing: of several processes none may draw the bar."""


def _run(
    cell: Cell,
    device: str,
    *,
    data: Path,
    results: Path,
    known: Mapping[Path, int] = {},
    ranks: int = 1,
    log: Sequence[str] = (),
    report: Progress = _silent,
) -> Outcome:
    """Train a cell and evaluate it on what it lacks, holding its folder; return its run, and target -> why it was
    refused.

    known: of each folder the failure that was there when the grid began, see `failure_mark`. ranks: processes that
    train it together. log: where it is followed. Raises BusyError when
    another process is at it, FailedElsewhereError when it failed in another process meanwhile.
    """
    run = cell.run
    if cell.trained and not cell.unevaluated:
        return run, {}
    refused = {}
    if ranks > 1 and not cell.trained:
        train_together(cell.recipe, run, ranks, data=data, results=results, device=device, log=log)
    with run.lock():
        if failure_mark(run) not in (0, known.get(run.folder)) and (failure := read_failure(run)):
            raise FailedElsewhereError(str(failure["sentence"]))
        try:
            forget_failure(run)
            train(cell.recipe, data=data, results=results, device=device, log=log, report=report)
            for target, ways in cell.unevaluated.items():
                try:
                    rows = evaluate(run, target, ways=ways, data=data, device=device, report=report)
                    follow_results(log, run, cell.recipe, rows)
                except SharedImagesError as error:
                    refused[target] = str(error)
            if refused:
                run.check_hold()
                note_refused(run, {target: cell.targets[target] for target in refused})
        except (BusyError, InterruptedRunError):
            raise
        except ReidgenError as error:
            run.check_hold()  # the failure of whoever has taken over is not ours to note
            note_failure(run, error)
            raise
    return run, refused


def rows_of(grid: Grid, rows: pd.DataFrame, *, alone: bool) -> pd.DataFrame:
    """Return the rows that belong to a grid's sources as `bench` returns them: of its sources only those that carry its
    hash.

    alone: nothing else, and only the grid's targets and tests; without it the rows of other sources stay as they are.
    """
    sources = grid.sources
    digest = rows["source"].map({source: digest for source, (digest, _) in sources.items()})
    tested = rows["test"].isin(grid.tests)
    if not alone:
        return rows[digest.isna() | (digest == rows["hash"])]
    cells = [(source, target) for source, (_, targets) in sources.items() for target in targets]
    return rows[tested & (digest == rows["hash"]) & pd.MultiIndex.from_frame(rows[["source", "target"]]).isin(cells)]


def _summary(cell: Cell, rows: pd.DataFrame, tests: Sequence[str], *, asked: bool, new: bool) -> Iterator[str]:
    """Yield lines for a finished run: training time, and for each test its mAP on each target, seen ones first."""
    run, targets = cell.run, list(cell.targets)
    recipe, facts = run.recipe(), run.facts()
    there = "" if new else "there already, "
    eager = f" without CUDA graphs ({facts['eager']})" if "eager" in facts else ""
    head = f"{run.method().label} s{recipe.seed}: {there}trained in {float(facts['seconds']):.0f} s{eager}; "
    for test in tests:
        own = rows[rows["target"].isin(targets) & (rows["test"] == test)]
        yield f"{head}{'' if test == PLAIN else f'{test}: '}mAP {_means(own, asked=asked)}"
        head = f"{run.method().label} s{recipe.seed}: "


def _means(rows: pd.DataFrame, *, asked: bool) -> str:
    """Return the mean over the unseen targets that the table's mean has; asked: by a protocol, which names them."""
    means = rows.groupby(["seen", "target"], as_index=False)["mAP"].mean()
    counted = [target for mean in means_of(rows, asked=asked).values() for target in mean.targets]
    unseen = means[(means["seen"] == 0) & means["target"].isin(counted)]["mAP"]
    known = means[means["seen"] == 1]
    seen = ", ".join(f"{target} {percent(value)}" for target, value in zip(known["target"], known["mAP"], strict=True))
    mean = f"mean of {len(unseen)} unseen {percent(unseen.mean())}" if len(unseen) else "no unseen target"
    return f"{f'{seen} (seen), ' if seen else ''}{mean}"
