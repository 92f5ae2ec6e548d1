"""How far a grid is: each cell done, running, queued or failed, from what lies in the results folder. No torch here.

<run>/failed (JSON: sentence, when, host, job, log) is left by a cell that ended in an error, and goes when it is tried
again.
"""

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from reidgen.errors import ReidgenError, RunError
from reidgen.files import read_regular, write_text
from reidgen.locks import job_here
from reidgen.runs import Run, now

LOG = "REIDGEN_JOB_LOG"  # the environment variable by which a job knows the file that its output goes to


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


def _failed(run: Run) -> Path:
    return run.folder / "failed"
