"""What the proofs share: rows with the machine, the versions and the date, printed and written as CSV; and processes
that are killed while they work, with the log by which they are judged.

A line of the log is "process,what,cell": it begins or goes on with a cell, ends it or fails, or was killed. The file is
only appended to, so that its order is that of the world.
"""

import argparse
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import pandas as pd
import torch

from reidgen.data import prepare as preparing
from reidgen.devices import device_name
from reidgen.files import write_text
from reidgen.runs import now, provenance


def folder(description: str | None) -> Path:
    """Return the folder that the command line gives for the rows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="where the rows are written, as results/speed-cpu-2026-11-23")
    given: Path = parser.parse_args().folder
    return given


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Print the rows, and write them with where they came from: one CSV, whole or not at all."""
    facts: dict[str, Any] = {
        "machine": device_name(torch.device("cpu")),
        "load": round(os.getloadavg()[0], 1),  # of other work too: compare within one run only where it is high
        "torch": torch.__version__,
        **provenance(),
        "date": now(),
    }
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda number: f"{number:.4g}"))
    write_text(path, table.assign(**facts).to_csv(index=False, float_format="%.6g"))
    print(f"written: {path}")


def people(train: int, test: int) -> None:
    """Let the built-in domains have so many people, in this process and in those that it forks."""
    preparing.IDENTITIES = (train, test)  # type: ignore[attr-defined]


def prepare(data: Path) -> None:
    """Prepare the two built-in domains that the processes train and test on, with few people."""
    people(6, 4)
    for name in ("synth-plaza", "synth-night"):
        preparing.prepare(name, data=data)


def forked(work: Callable[..., object], *given: Any) -> int:
    """Do work in a forked process, and return its number; it ends with 1 where that raises."""
    if child := os.fork():
        return child
    try:
        work(*given)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def note(log: Path, what: str, cell: object = "", process: int = 0) -> None:
    """Append a line to the log, of this process where no other is given."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{process or os.getpid()},{what},{cell}\n".encode())
    os.close(file)


def kill(process: int, log: Path) -> bool:
    """Kill a child with -9 and note it; False where it had ended by itself.

    It is stopped first: whatever it did stands before the line, and whoever takes over comes behind it.
    """
    os.kill(process, signal.SIGSTOP)
    _, status = os.waitpid(process, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        if status:
            raise SystemExit("a process failed by itself")
        return False
    note(log, "killed", process=process)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


@dataclass(frozen=True)
class Judged:
    """What a log says. overlaps: sentences, of two processes that were at one cell; twice: how many times a cell was
    begun that had been done; lost: the cells that were not done.
    """

    overlaps: list[str]
    twice: int
    lost: int

    def refuse(self) -> None:
        """Raise SystemExit where anything is wrong."""
        if self.overlaps or self.twice or self.lost:
            raise SystemExit("\n".join([*self.overlaps, f"done twice: {self.twice}, lost: {self.lost}"]))


def judge(log: Path, *, lost: int) -> Judged:
    """Judge a log line by line: whoever is killed is at no cell from there on, but was until then.

    "ends" stands behind what keeps others from doing the cell again: a kill may come between, and the line be missing.
    So lost is counted by what lies there.
    """
    overlaps, twice = list[str](), 0
    at, done = dict[str, set[str]](), set[str]()
    for line in log.read_text().splitlines():
        process, what, cell = line.split(",")
        here = at.setdefault(cell, set())
        if what == "killed":
            for others in at.values():
                others.discard(process)
        elif what in ("ends", "fails"):
            here.discard(process)
            done |= {cell} if what == "ends" else set()
        else:
            overlaps += [f"{cell}: {process} {what} while {other} is at it" for other in sorted(here - {process})]
            twice += cell in done
            here.add(process)
    return Judged(overlaps, twice, lost)


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown; what is missing is empty, a bar within a cell is escaped."""

    def cell(value: object) -> str:
        if value is None or value != value:
            return ""
        return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|")

    lines = [list(table.columns), ["---"] * len(table.columns)]
    lines += [[cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
