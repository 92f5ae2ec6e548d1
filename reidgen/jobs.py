"""What was submitted to a scheduler, and what became of it. No torch, and no submitit: any machine can ask.

<results>/jobs/<token>/ holds plan.json (on, since, cells, workers), written before anything is submitted, and what
submitit writes: the submission script, and for each job its pickle, output and errors. The jobs of a plan are called
reidgen-<token>, so that the queue itself tells which cells wait, also when the submitting command was killed.
"""

import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reidgen.files import read_regular, write_text
from reidgen.locks import Holder
from reidgen.runs import now

NAME = "reidgen-"  # before the token, in the queue
SLURM, LOCAL = "slurm", "local"
_ERRORS = "_0_log.err"  # behind the job, as submitit calls the file of its first process


@dataclass(frozen=True)
class Submitted:
    """The job of a cell. name: the scheduler's; waits: whether it is in the queue, or its worker lives; sure: whether
    that could be asked; died: how it ended without leaving a word, "" where it did not, or nobody knows; log: the file
    of its errors, "" before it began; since: when it was submitted, UTC.
    """

    name: str
    waits: bool
    died: str = ""
    log: str = ""
    sure: bool = True
    since: str = ""


@dataclass(frozen=True)
class Plan:
    """What one command submitted: the folder of its jobs, on what, and the run folders of its cells, in the order of
    the array; workers: of `local`, the processes that go through them; since: when it was last written, UTC.
    """

    folder: Path
    on: str
    cells: tuple[str, ...]
    workers: tuple[Holder, ...] = ()
    since: str = ""

    @property
    def name(self) -> str:
        """What the queue calls its jobs."""
        return f"{NAME}{self.folder.name}"

    def write(self) -> None:
        """Write plan.json. Raises ReidgenError where the folder cannot be written."""
        facts = {"on": self.on, "since": now(), "cells": self.cells, "workers": [asdict(one) for one in self.workers]}
        write_text(self.folder / "plan.json", json.dumps(facts, indent=1) + "\n")


def new_plan(results: Path, on: str, cells: Iterable[Path]) -> Plan:
    """Return a plan with a folder of its own, for runs below `results`; nothing is written yet."""
    root = results.resolve()
    names = tuple(cell.resolve().relative_to(root).as_posix() for cell in cells)
    return Plan(root / "jobs" / secrets.token_hex(4), on, names)


def submitted(results: Path) -> dict[Path, Submitted]:
    """Return the run folders that were submitted, each with its latest job."""
    plans = [plan for file in _by_age(results) if (plan := _read(file))]
    queue = _queue([plan.name for plan in plans if plan.on == SLURM])
    found: dict[Path, Submitted] = {}
    for plan in plans:
        jobs = _of_slurm(plan, queue) if plan.on == SLURM else _of_workers(plan)
        for name, job in zip(plan.cells, jobs, strict=True):
            here = (results / name).resolve()
            known = found.get(here)
            if known is None or job.waits or not (known.waits and known.sure):
                found[here] = replace(job, since=plan.since)
    return found


def _by_age(results: Path) -> list[Path]:
    files = []
    for file in (results / "jobs").glob("*/plan.json"):
        with contextlib.suppress(OSError):
            files.append((file.stat().st_mtime, file))
    return [file for _, file in sorted(files)]


def _read(file: Path) -> Plan | None:
    try:
        facts: Any = json.loads(read_regular(file))
        workers = tuple(holder for one in facts["workers"] if (holder := Holder.from_facts(one)))
        return Plan(file.parent, str(facts["on"]), tuple(map(str, facts["cells"])), workers, str(facts["since"]))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _of_slurm(plan: Plan, queue: Mapping[str, str] | None) -> list[Submitted]:
    """Return the job of each cell of an array, by its place in it. queue: job -> name, None where none can be asked."""
    waiting = {_place(job): job for job, name in (queue or {}).items() if name == plan.name}
    began: dict[int, tuple[str, str]] = {}  # the job, and the file of its errors
    for log in plan.folder.glob(f"*{_ERRORS}"):
        job = log.name.removesuffix(_ERRORS)
        began[_place(job)] = job, str(log)
    jobs = []
    for place in range(len(plan.cells)):
        name, text = began.get(place, ("", ""))
        if place in waiting or queue is None:
            jobs.append(Submitted(waiting.get(place, name), waits=True, log=text, sure=queue is not None))
        else:
            ended = f"its job {name} ended without a word (killed, cancelled, out of memory?)"
            jobs.append(Submitted(name, waits=False, died=ended if name else "", log=text))
    return jobs


def _place(job: str) -> int:
    """Return a job's place in its array: of 12_3 it is 3; a job alone is the first."""
    place = job.partition("_")[2]
    return int(place) if place.isdecimal() else 0


def _of_workers(plan: Plan) -> list[Submitted]:
    alive = [worker for worker in plan.workers if worker.lives()]
    job = Submitted(f"worker {alive[0].process}" if alive else "", waits=bool(alive))
    return [job] * len(plan.cells)


def _queue(names: Sequence[str]) -> dict[str, str] | None:
    """Return the jobs of these names that wait or run, job -> name; None where there is no SLURM to ask."""
    if not names:
        return {}
    words = ["squeue", "--noheader", "--array", "--format=%i|%j", f"--name={','.join(names)}"]
    try:
        text = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {job: name for job, _, name in (line.partition("|") for line in text.splitlines())}
