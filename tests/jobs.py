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
    return device, os.getpid()
