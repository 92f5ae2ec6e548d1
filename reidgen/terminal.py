"""What every command prints with: results, notes, progress and errors. Rich is imported late, for --help's sake."""

import contextlib
import errno
import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

from reidgen.errors import InterruptedRunError, ReidgenError

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def out() -> "Console":
    """Return where results are printed; made late, because importing it takes as long as all the rest of --help."""
    from rich.console import Console

    return Console(highlight=False, markup=False, quiet=_silent())


@functools.cache
def err() -> "Console":
    """Return where progress, notes and errors are printed."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, quiet=_silent())


def _silent() -> bool:
    """Tell whether this is one of torchrun's processes, but not the first, which speaks for all."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0"


@dataclass
class Manner:
    """How a command speaks. quiet: results and errors alone; json: one document on stdout, all else on stderr."""

    quiet: bool = False
    json: bool = False


MANNER = Manner()  # set by --quiet and --json, anew in each command


def visible(text: str) -> str:
    """Return text whose control characters, which a terminal would obey, are written as escapes; lines stay lines.

    >>> visible("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def result(line: str) -> None:
    """Print a result: what a command was called for."""
    out().print(visible(line), soft_wrap=True)


def note(line: str) -> None:
    """Print what helps to understand a result or the work; --quiet leaves it out."""
    if not MANNER.quiet:
        (err() if MANNER.json else out()).print(visible(line), soft_wrap=True)


def document(value: object) -> None:
    """Print one JSON document. Raises ValueError for numbers that JSON lacks (NaN, infinite)."""
    out().print(json.dumps(value, indent=2, allow_nan=False), soft_wrap=True)


def one_sentence(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` as one that ends every ReidgenError, and every failure of a file, in one sentence and exit code."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ReidgenError as error:
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            if error.errno != errno.EPIPE:  # nobody reads any more: as in `reidgen table | head`
                complain(_failed_file(error))
            _drop_output()
            raise typer.Exit(ReidgenError.exit_code) from None
        except KeyboardInterrupt:
            complain("stopped; what is finished is kept, the same command goes on")
            raise typer.Exit(InterruptedRunError.exit_code) from None

    return run


def complain(sentence: str) -> None:
    with contextlib.suppress(OSError):  # stderr is full or gone: the exit code tells
        err().print("error: ", style="red", end="")
        err().print(visible(sentence), soft_wrap=True)


def _failed_file(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.filename is None:
        return f"cannot write the output or read the input: {reason}; what is finished is kept"
    return f"cannot use {error.filename}: {reason}"


def _drop_output() -> None:
    """Throw away what stdout still holds, which could not be written, so that Python does not fail on it at its end."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, float, int], None]]:
    """Yield the `report` that long work calls: a bar on a terminal, a line a minute elsewhere, nothing when quiet."""
    if MANNER.quiet:
        yield lambda what, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not err().is_terminal:
        last = time.monotonic()

        def line(what: str, done: float, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > 60:
                err().print(visible(f"{what}: {int(done)}/{total}"), soft_wrap=True)
                last = time.monotonic()

        yield line
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True) as bars:
        task = bars.add_task("", total=None)
        stage = ""

        def bar(what: str, done: float, total: int) -> None:
            nonlocal stage
            if what.partition(",")[0] != stage:  # another kind of work: its time left starts anew
                stage = what.partition(",")[0]
                bars.reset(task)
            bars.update(task, description=visible(what), completed=done, total=total)

        yield bar
