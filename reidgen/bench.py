"""The grid: methods x seeds on a source or on a protocol's cells, each run evaluated on its targets. Runs what is missing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
from torch.distributed import is_torchelastic_launched

from reidgen.catalogue import family_of, load_catalogue, split_all
from reidgen.data.batches import source_digest
from reidgen.data.manifest import Prepared, load_prepared
from reidgen.devices import devices_of
from reidgen.entries import Protocol
from reidgen.errors import RecipeError, SharedImagesError
from reidgen.evaluation import evaluate, sound_sets
from reidgen.pool import spread
from reidgen.protocols import resolve
from reidgen.recipe import Recipe
from reidgen.runs import Progress, Run, read_csv, tie_notes
from reidgen.training import stop_signals, train


@dataclass(frozen=True)
class _Cell:
    """One run of the grid: what it is called, its recipe, and target -> digest of what it is evaluated on."""

    name: str
    recipe: Recipe
    targets: dict[str, str]


def bench(
    recipe: Recipe,
    *,
    methods: list[str],
    seeds: int,
    data: Path,
    results: Path,
    protocol: Protocol | None = None,
    targets: Sequence[str] = (),
    device: str = "auto",
    report: Progress,
    say: Callable[[str], None],
) -> dict[str, tuple[str, list[str]]]:
    """Train and evaluate every missing cell of methods x seeds; return source -> the hash its rows carry, its targets.

    The source is the recipe's. Its targets are `targets`, or else the prepared sets of the catalogue, one of each family, so
    that no people count twice in a mean; with `protocol`, its cells instead, those that are prepared. Safe to stop and
    repeat at any moment: finished runs and evaluated targets are skipped, an unfinished run goes on. With several GPUs
    ("auto" or "cuda") each run has one to itself, in a process of its own. A target that shares images with a source, or
    is damaged, is left out, with one line that says so. `say` gets one line per run, and one for whatever is not
    prepared or left out. Raises what `resolve`, `train` and `evaluate` raise.
    """
    if is_torchelastic_launched():
        raise RecipeError("bench uses every GPU of the machine by itself, one run each; repeat it without torchrun")
    sound = sound_sets(data, say=say)
    cells = _cells(recipe, protocol, targets, sound, data=data, say=say)
    grid = [(source, seed, method) for source in cells for seed in range(seeds) for method in methods]
    chosen = [
        _Cell(
            f"[{number}/{len(grid)}]{f' {source}:' if protocol else ''}",
            recipe.change(method=method, seed=seed, source=source),
            {target: sound[target].digest for target in cells[source]},
        )
        for number, (source, seed, method) in enumerate(grid, start=1)
    ]
    done: dict[str, tuple[str, list[str]]] = {}
    refused: set[tuple[str, str]] = set()
    for cell, run, refusals in _ended(chosen, refused, data=data, results=results, device=device, report=report):
        source = cell.recipe.source
        if source not in done and (single := run.facts().get("single")):
            say(f"{source}: {single} training identities have a single image and are left out")
        for target, sentence in refusals.items():
            if (source, target) not in refused:
                refused.add((source, target))
                say(f"left out: {sentence}")
        done[source] = str(run.facts()["hash"]), cells[source]
        say(f"{cell.name} {_summary(run, cells[source])}")
        rows = read_csv(run.results)
        for note in tie_notes(rows[rows["target"].isin(cells[source])]):
            say(f"{cell.name} {note}")
    return done


def _ended(
    cells: list[_Cell], refused: set[tuple[str, str]], *, data: Path, results: Path, device: str, report: Progress
) -> Iterator[tuple[_Cell, Run, dict[str, str]]]:
    """Yield every cell with its run and its refused targets, when it has ended: one after the other, or one per GPU."""
    work = partial(_run, data=data, results=results)
    if len(devices := devices_of(device)) == 1:
        for cell in cells:

            def show(what: str, done: int, total: int, name: str = cell.name) -> None:
                report(f"{name} {what}", done, total)

            known = {target for source, target in refused if source == cell.recipe.source}
            left = {target: digest for target, digest in cell.targets.items() if target not in known}
            yield cell, *work(replace(cell, targets=left), device, report=show)
        return
    with stop_signals() as stop:
        report(f"{len(cells)} runs on {len(devices)} devices", 0, len(cells))
        for ended, (number, outcome) in enumerate(spread(work, cells, devices=devices, stop=stop), start=1):
            report(f"{len(cells)} runs on {len(devices)} devices", ended, len(cells))
            yield cells[number], *outcome


def _silent(what: str, done: int, total: int) -> None:
    """Report nothing: of several processes none may draw the bar."""


def _run(
    cell: _Cell, device: str, *, data: Path, results: Path, report: Progress = _silent
) -> tuple[Run, dict[str, str]]:
    """Train a cell and evaluate it on what it lacks; return its run, and target -> why it was refused."""
    run = train(cell.recipe, data=data, results=results, device=device, report=report)
    refused = {}
    for target, digest in cell.targets.items():
        if not run.evaluated(target, digest):
            try:
                evaluate(run, target, data=data, device=device, report=report)
            except SharedImagesError as error:
                refused[target] = str(error)
    return run, refused


def _cells(
    recipe: Recipe,
    protocol: Protocol | None,
    asked: Sequence[str],
    sound: Mapping[str, Prepared],
    *,
    data: Path,
    say: Callable[[str], None],
) -> dict[str, list[str]]:
    """Return source -> targets, those that can be run with the sets that are there; what is not there is said."""
    sets = load_catalogue()
    if protocol:
        cells, lines = resolve(protocol, sound, sets)
        for line in lines:
            say(line)
        return cells
    source_digest(recipe, data=data)  # a source that is not prepared, or damaged, ends here
    if asked:
        for name in asked:
            load_prepared(name, data)
        return {recipe.source: list(asked)}
    if missing := [name for name in sets if name not in sound]:
        say(f"{len(missing)} sets of the catalogue are not prepared, so not evaluated (see: reidgen prepare --list)")
    can = [name for name, prepared in sound.items() if prepared.counts.get("query")]
    own = [split_all(name)[0] for name in recipe.sources]
    chosen: dict[str, str] = {}  # family -> its set: the source itself, else the first of the catalogue
    for name in sorted((name for name in sets if name in can), key=lambda name: name not in own):
        chosen.setdefault(family_of(name, sets), name)
    targets = [name for name in can if name in chosen.values()]
    if others := [name for name in can if name not in targets]:
        say(f"not evaluated, as own crops or of the same people as another: {', '.join(others)} (to do so: --target)")
    return {recipe.source: targets}


def rows_of(grid: dict[str, tuple[str, list[str]]], rows: pd.DataFrame, *, alone: bool) -> pd.DataFrame:
    """Return the rows that belong to a grid as `bench` returns it: of its sources only those that carry its hash.

    alone: nothing else, and only the grid's targets; without it the rows of other sources stay as they are.
    """
    digest = rows["source"].map({source: digest for source, (digest, _) in grid.items()})
    if not alone:
        return rows[digest.isna() | (digest == rows["hash"])]
    cells = [(source, target) for source, (_, targets) in grid.items() for target in targets]
    return rows[(digest == rows["hash"]) & pd.MultiIndex.from_frame(rows[["source", "target"]]).isin(cells)]


def _summary(run: Run, targets: list[str]) -> str:
    """Return one line for a finished run: training time, and mAP on each target, seen ones first."""
    rows = read_csv(run.results)
    means = rows[rows["target"].isin(targets)].groupby(["seen", "target"], as_index=False)["mAP"].mean()
    unseen = means[means["seen"] == 0]["mAP"]
    known = means[means["seen"] == 1]
    seen = ", ".join(f"{target} {100 * value:.1f}" for target, value in zip(known["target"], known["mAP"], strict=True))
    mean = f"mean of {len(unseen)} unseen {100 * unseen.mean():.1f}" if len(unseen) else "no unseen target"
    recipe = run.recipe()
    return (
        f"{recipe.method} s{recipe.seed}: trained in {float(run.facts()['seconds']):.0f} s; mAP "
        f"{f'{seen} (seen), ' if seen else ''}{mean}"
    )
