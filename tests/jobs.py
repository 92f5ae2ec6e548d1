"""What a process of its own does in tests of `reidgen.pool`: a module without torch, so that each begins at once."""

import os
import signal
import time
from pathlib import Path

from reidgen.errors import DataError


def work(job: tuple[str, str], device: str) -> tuple[str, int]:
    """Do what the job's first word says; its second is a folder in which every process leaves its number."""
    what, folder = job
    (Path(folder) / str(os.getpid())).write_text(device)
    if what == "wrong":
        raise DataError("no such data")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "say":
        return os.environ["REIDGEN_SAY"], os.getpid()
    if what == "sleep":
        time.sleep(600)
    if what == "warned":  # as some schedulers warn a job's whole tree; the parent is the process that all come from
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), number)
            os.kill(os.getppid(), number)
    return device, os.getpid()


def warned(number: int) -> int:
    """Warn the process that does this, and return the number."""
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR2)
    return number
