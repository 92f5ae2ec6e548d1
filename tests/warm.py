"""Commands in processes of their own that begin at once: forked from one that has imported everything.

What they do, say and end with is what `python -m reidgen` does; only the imports are not repeated.
"""

import multiprocessing
import os
import runpy
import socket
import sys
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

from reidgen.pool import unwarned

PROOF = """
import functools, shutil, sys
from PIL import Image
sys.path.insert(0, {scripts!r})
import {name}, proof
proof.prepare = functools.partial(shutil.copytree, {data!r})
Image.init()  # here, not in each process that is forked from this one
{settings}
sys.exit({name}.main())
"""
_CONTEXT = multiprocessing.get_context("forkserver")
LATER = ["pydantic.type_adapter", "reidgen.losses", "reidgen.models.tiny", "rich.progress"]  # what a command imports
# The optimizer of every training imports torch._dynamo, for two seconds.
_CONTEXT.set_forkserver_preload(["reidgen.cli", "reidgen.grid", "reidgen.tables.compare", "torch._dynamo", *LATER])


def begin() -> None:
    """Start the process that all are forked from, those of `reidgen.pool` too."""
    with unwarned():  # as `reidgen.pool` does
        forkserver.ensure_running()


def _run(script: str, words: list[str], environment: dict[str, str], out: str, err: str) -> None:
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    # anew, as the first ones may stand for files, which can be sought in, and these for pipes
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
    os.environ.update(environment)
    sys.argv = [script or "reidgen", *words]
    if script:
        runpy.run_path(script, run_name="__main__")
    else:
        runpy.run_module("reidgen", run_name="__main__")


class Command:
    """A command, or a script, that runs: `process`, and what it has printed.

    out: where its output goes, by default a file in the folder.
    """

    def __init__(
        self, folder: Path, *words: object, script: object = "", out: Path | None = None, **environment: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = out or folder / "stdout", folder / "stderr"
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


def proof(folder: Path, data: Path, name: str, settings: str, *words: object) -> None:
    """Run a short form of a script in scripts/, in a process without other threads, which may fork; it must end well.

    data: what its `proof.prepare` would have prepared. settings: lines of Python after its import.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scripts = str(Path(__file__).parents[1] / "scripts")
    script = folder / "short.py"
    script.write_text(PROOF.format(name=name, scripts=scripts, data=str(data), settings=settings))
    command = Command(folder, folder, *words, script=script)
    assert command.ended() == 0, command.out.read_text()[-2000:] + command.err.read_text()[-2000:]


def ranks(folder: Path, script: Path, *words: object, count: int = 2) -> list[Command]:
    """Start a script as torchrun does on one machine: one process per rank, told by the same variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    common["TORCHELASTIC_RUN_ID"] = "tests"
    return [
        Command(
            folder / str(rank),
            *words,
            script=script,
            **{name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()},
        )
        for rank in range(count)
    ]
