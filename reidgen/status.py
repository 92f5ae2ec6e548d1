"""How far a grid is: each cell done, running, queued, to do or failed, from what lies in the results folder. No torch.

<run>/failed (JSON: sentence, when, host, job, log) is left by a cell that ended in an error, and goes when it is tried
again; <run>/refused (JSON: target -> digest) by targets that share images with a source.
"""

import contextlib
import csv
import io
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reidgen.errors import ReidgenError, RunError
from reidgen.escapes import many
from reidgen.files import read_regular, write_text
from reidgen.jobs import Submitted, submitted
from reidgen.locks import Seen, job_here, look
from reidgen.planning import Cell
from reidgen.runs import Run, now

DONE, RUNNING, QUEUED, TO_DO, FAILED = STATES = ("done", "running", "queued", "to do", "failed")
LOG = "REIDGEN_JOB_LOG"  # the environment variable by which a job knows the file that its output goes to


@dataclass(frozen=True)
class State:
    """How far one cell is. state: one of STATES; holder: who is at it, "" where nobody is; since: UTC, of the holder or
    the failure; doing: what the holder does, done, of, left (seconds); job: the scheduler's; sentence, log: of a
    failure; sure: False of a queued one whose scheduler does not answer here, so that it may have left the queue.
    """

    cell: Cell
    state: str
    holder: str = ""
    host: str = ""
    since: str = ""
    doing: Mapping[str, Any] | None = None
    job: str = ""
    sentence: str = ""
    log: str = ""
    sure: bool = True

    @property
    def share(self) -> float:
        """The part of the cell's work that is done, training being nine tenths of it."""
        if self.state == DONE:
            return 1.0
        doing = self.doing or {}
        part = float(doing.get("done", 0)) / max(float(doing.get("of", 1)), 1.0)
        if self.cell.trained:
            lacking, targets = len(_lacking(self.cell)), max(len(self.cell.targets), 1)
            return 0.9 + 0.1 * (targets - lacking) / targets
        return 0.9 * part if self._trains else 0.0

    @property
    def _trains(self) -> bool:
        return "epoch " in str((self.doing or {}).get("what", ""))

    @property
    def images_per_s(self) -> int | None:
        """The speed of a training, None of anything else."""
        found = re.search(r"(\d+) images/s", str((self.doing or {}).get("what", "")))
        return int(found[1]) if found else None

    def json(self) -> dict[str, Any]:
        """Return the state as a JSON object."""
        recipe, doing = self.cell.recipe, self.doing or {}
        return {
            "source": recipe.source,
            "method": recipe.row.label,
            "backbone": recipe.backbone,
            "seed": recipe.seed,
            "state": self.state,
            "run": str(self.cell.run.folder),
            "lacks": sorted(_lacking(self.cell)) if self.state != DONE else [],
            "host": self.host,
            "holder": self.holder,
            "since": self.since,
            "doing": str(doing.get("what", "")),
            "images_per_s": self.images_per_s,
            "seconds_left": doing.get("left"),
            "job": self.job,
            "sentence": self.sentence,
            "log": self.log,
            "sure": self.sure,
        }


def states(cells: Sequence[Cell], results: Path) -> list[State]:
    """Return how far each cell is. Only small files are read, and nothing is proven: `bench` does that."""
    jobs = submitted(results)
    return [_state(cell, jobs.get(cell.run.folder.resolve())) for cell in cells]


def counts(found: Sequence[State]) -> str:
    """Return how many cells are in which state, as one line."""
    numbers = Counter(one.state for one in found)
    line = f"{many(len(found), 'cell')}: {', '.join(f'{numbers[state]} {state}' for state in STATES if numbers[state])}"
    unsure = sum(not one.sure for one in found)
    return f"{line} ({unsure} of the queued unknown: squeue does not answer here)" if unsure else line


def _state(cell: Cell, job: Submitted | None) -> State:
    if lacks_nothing(cell):  # whoever holds it now does something else
        return State(cell, DONE)
    seen = look(cell.run.folder)
    if seen and seen.held:
        return _running(cell, seen)
    failure = read_failure(cell.run)
    if job and job.waits and not (failure and (failure["when"] > job.since or not job.sure)):
        return State(cell, QUEUED, job=job.name, log=job.log, sure=job.sure)
    if failure:
        return State(
            cell,
            FAILED,
            host=failure["host"],
            since=failure["when"],
            job=failure["job"],
            sentence=failure["sentence"],
            log=failure["log"],
        )
    if job and job.died:
        return State(cell, FAILED, job=job.name, sentence=job.died, log=job.log)
    return State(cell, TO_DO)


def _running(cell: Cell, seen: Seen) -> State:
    holder = seen.holder
    if holder is None:
        return State(cell, RUNNING, doing=seen.doing)
    return State(cell, RUNNING, str(holder), holder.host, holder.since, seen.doing, job=holder.job)


def lacks_nothing(cell: Cell) -> bool:
    """Tell whether a cell is trained and evaluated, as far as can be told without proving its rows."""
    return cell.trained and not _lacking(cell)


def _lacking(cell: Cell) -> set[str]:
    """Return the targets of which results.csv lacks rows of some test, but for those that were refused; not proven."""
    wanted = {(target, way.word) for target in cell.targets for way in cell.ways}
    with contextlib.suppress(OSError, ValueError, csv.Error):
        text = read_regular(cell.run.results).decode()
        for row in csv.DictReader(io.StringIO(text, newline="")):
            target = str(row.get("target"))
            if row.get("data") == cell.targets.get(target, "")[:8]:
                wanted.discard((target, str(row.get("test", "plain"))))
    lacking = {target for target, _ in wanted}
    if lacking:
        lacking -= {target for target, digest in read_refused(cell.run).items() if digest == cell.targets.get(target)}
    return lacking


class FailedElsewhereError(RunError):
    """A cell failed in another process since this grid began; the sentence is that one's."""


def note_failure(run: Run, error: ReidgenError) -> None:
    """Leave in a run's folder that it ended in an error; where that cannot be written, nothing is left."""
    facts = {"sentence": str(error), "when": now(), "host": socket.gethostname(), "job": job_here()}
    facts["log"] = os.environ.get(LOG) or (str(run.log) if run.log.is_file() else "")
    with contextlib.suppress(ReidgenError):
        write_text(_failed(run), json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def read_failure(run: Run) -> dict[str, str] | None:
    """Return what `note_failure` left in a run's folder, None where there is nothing that can be read."""
    try:
        facts: Any = json.loads(read_regular(_failed(run)))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(facts, dict) or not isinstance(facts.get("sentence"), str):
        return None
    return {key: str(facts.get(key, "")) for key in ("sentence", "when", "host", "job", "log")}


def forget_failure(run: Run) -> None:
    """Remove what an earlier try left."""
    with contextlib.suppress(OSError):
        _failed(run).unlink(missing_ok=True)


def failure_mark(run: Run) -> int:
    """Return a number that tells one failure of a run from a later one, 0 where there is none."""
    try:
        return _failed(run).stat().st_mtime_ns
    except OSError:
        return 0


def note_refused(run: Run, refused: Mapping[str, str]) -> None:
    """Leave in a run's folder which targets share images with its source. refused: target -> digest of its index."""
    with contextlib.suppress(ReidgenError):
        write_text(run.folder / "refused", json.dumps(read_refused(run) | dict(refused), indent=2) + "\n")


def read_refused(run: Run) -> dict[str, str]:
    """Return what `note_refused` left, nothing where that cannot be read."""
    try:
        facts: Any = json.loads(read_regular(run.folder / "refused"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in facts.items()} if isinstance(facts, dict) else {}


def _failed(run: Run) -> Path:
    return run.folder / "failed"
