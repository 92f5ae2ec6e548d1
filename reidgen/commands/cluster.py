"""What `reidgen bench` does beside its own work: says what it would do and how far it is, has a cluster do it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reidgen.commands.options import whole_number
from reidgen.errors import RecipeError
from reidgen.terminal import MANNER, document, note, out, progress, result

if TYPE_CHECKING:
    from reidgen.cluster import Cluster
    from reidgen.grid import Grid
    from reidgen.planning import Cell
    from reidgen.status import State

Status = Annotated[
    bool, typer.Option("--status", help="Only say which cells are done, running, queued or failed; asks at any time.")
]
On = Annotated[
    str | None,
    typer.Option(metavar="WHERE", help="slurm, local or a TOML file with a table [cluster]: have jobs do it."),
]
Wait = Annotated[bool, typer.Option("--wait", help="With --on: wait for all cells, then print the table.")]
Partition = Annotated[str | None, typer.Option(help="With --on slurm: the partition.")]
Gpus = Annotated[
    int | None,
    typer.Option(
        parser=whole_number("--gpus"), metavar="<int>", help="With --on: GPUs of each run; several: torchrun."
    ),
]
Hours = Annotated[float | None, typer.Option(help="With --on slurm: of a job, which then goes on in a next one; 4.")]
Memory = Annotated[float | None, typer.Option(help="With --on slurm: GB of a job.")]
Parallel = Annotated[
    int | None,
    typer.Option(parser=whole_number("--parallel"), metavar="<int>", help="With --on: jobs, or workers, at a time."),
]
Setup = Annotated[
    list[str] | None, typer.Option(metavar="LINE", help="With --on: a shell line before the job; repeatable.")
]


def print_forecast(cells: "list[Cell]", *, data: Path, device: str) -> None:
    """Print what each cell lacks, the disk that takes, and about how long; nothing is done."""
    from reidgen.forecast import forecast

    with progress() as report:
        lines = forecast(cells, data=data, device=device, report=report)
    for line in lines:
        result(line)


def print_status(cells: "Sequence[Cell]", results: Path, again: "Sequence[str]") -> None:
    """Print how far cells are, as a table or one JSON document. again: of each, the command that does it alone."""
    from reidgen.status import FAILED, counts, states

    found = states(cells, results)
    if MANNER.json:
        document({"cells": [one.json() for one in found], "summary": counts(found)})
        return
    result(counts(found))
    if not all(one.sure for one in found):
        result("whether those still wait: ask from a machine of the cluster; --on local takes them, jobs or not")
    _print_states(found)
    for one, command in zip(found, again, strict=True):
        if one.state == FAILED:
            result(f"{one.cell.recipe.source}: {_name(one)} failed: {one.sentence}")
            result(f"    log: {one.log or 'none'}")
            result(f"    {command}")


def _print_states(found: "Sequence[State]") -> None:
    """Print the cells at which somebody is; the queued ones are counted, and stand with their jobs in --json."""
    from rich.table import Table

    from reidgen.status import RUNNING

    table = Table(box=None, pad_edge=False)
    for title in ("running", "where", "since (UTC)", "images/s", "left", "what"):
        table.add_column(title, overflow="fold")
    for one in found:
        if one.state == RUNNING:
            where = f"{one.host}, job {one.job}" if one.job else one.host
            doing = one.doing or {}
            speed = str(one.images_per_s or "")
            table.add_row(_name(one), where, one.since, speed, _span(doing.get("left")), str(doing.get("what", "")))
    if table.row_count:
        out().print(table)


def _name(one: "State") -> str:
    return f"{one.cell.recipe.row.label} s{one.cell.recipe.seed}"


def _span(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else f"{rest} s"


def bench_on(
    cells: "Sequence[Cell]",
    cluster: "Cluster",
    *,
    wait: bool,
    data: Path,
    results: Path,
    device: str,
    log: Sequence[str],
    again: str,
) -> "Grid | None":
    """Submit the cells that are neither done nor queued nor running; with `wait` return the grid once all have ended.

    again: the command that was given.
    """
    from reidgen.cluster import missing, submit, wait_for
    from reidgen.status import counts, states

    if "," in device:
        raise RecipeError(f"--device {device}: jobs of --on have one each; leave --device out, or name one")
    found = states(cells, results)
    note(counts(found))
    if todo := missing(found, cluster.on):
        for line in submit(todo, cluster, data=data, results=results, device=device, log=log):
            result(line)
    elif not wait:
        result("nothing to submit: all cells are done, queued or running")
    if not wait:
        note(f"how far they are: {again} --status")
        return None
    with progress() as report:
        found = wait_for(cells, results, report)
    result(counts(found))
    return _grid(found)


_NOBODY = "nobody is at it any more; its job was cancelled, or never began"
_UNKNOWN = (
    "it was submitted to SLURM, but squeue does not answer here, so nobody can tell whether its job still waits; "
    "look from a machine of the cluster, or use --on local"
)


def _grid(found: "Sequence[State]") -> "Grid":
    """Return what the cells left behind, as `reidgen.grid.bench` does."""
    from reidgen.grid import Failure, Grid
    from reidgen.status import DONE

    sources = {
        one.cell.recipe.source: (one.cell.run.hash, list(one.cell.targets)) for one in found if one.state == DONE
    }
    failures = [
        Failure(
            one.cell.recipe,
            (one.sentence or (_NOBODY if one.sure else _UNKNOWN)) + (f" (log: {one.log})" if one.log else ""),
        )
        for one in found
        if one.state != DONE
    ]
    return Grid(sources, failures, tuple(way.word for way in found[0].cell.ways) if found else ())


def asked_cluster(on: str | None, wait: bool, **options: object) -> "Cluster | None":
    """Return what --on and its options mean, None without --on. Raises RecipeError for options that say nothing
    without it, and what `read_cluster` raises.
    """
    if on is not None:
        from reidgen.cluster import read_cluster

        return read_cluster(on, **options)
    given = [f"--{name}" for name, value in options.items() if value is not None] + ["--wait"] * wait
    if given:
        raise RecipeError(f"{' '.join(given)} goes with --on slurm, local or FILE.toml; add it")
    return None
