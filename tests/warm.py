"""Commands in processes of their own that begin at once: forked from one that has imported everything.

What they do, say and end with is what `python -m reidgen` does; only the imports are not repeated.
"""

import multiprocessing
import os
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
# The optimizer of every training imports torch._dynamo, for two seconds.
_CONTEXT.set_forkserver_preload(["reidgen.cli", "reidgen.grid", "reidgen.tables.compare", "torch._dynamo"])


def _run(script: str, words: list[str], environment: dict[str, str], out: str, err: str) -> None:
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.environ.update(environment)
    sys.argv = [script or "reidgen", *words]
    if script:
        runpy.run_path(script, run_name="__main__")
    else:
        runpy.run_module("reidgen", run_name="__main__")


class Command:
    """A command, or a script, that runs: `process`, and what it has printed."""

    def __init__(self, folder: Path, *words: object, script: object = "", **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "stdout", folder / "stderr"
        given = (str(script), list(map(str, words)), environment, str(self.out), str(self.err))
        self.process: BaseProcess = _CONTEXT.Process(target=_run, args=given)
        self.process.start()

    def ended(self) -> int:
        """Wait, and return the exit code; of one that a signal killed, its negative number."""
        self.process.join(120)
        assert self.process.exitcode is not None, "it goes on"
        return self.process.exitcode

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
