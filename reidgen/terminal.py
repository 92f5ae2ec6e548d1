"""What every command prints with: results, notes, progress and errors. Rich is imported late, for --help's sake.

Whatever is printed is made safe for the terminal: control characters of a name become escapes, characters that the
output's encoding lacks become others.
"""

import codecs
import contextlib
import errno
import functools
import io
import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from reidgen.errors import InterruptedRunError, ReidgenError
from reidgen.escapes import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

P = ParamSpec("P")
R = TypeVar("R")
# What stands for a character of ours that an encoding lacks; of others the accents go, and what is left becomes "?".
_PLAIN = {
    "–": "-",
    "−": "-",
    "→": "->",
    "±": "+-",
    "†": "*",
    "‡": "#",
    "×": "x",
    "…": "...",
    "━": "-",
    "─": "-",
    "’": "'",
}


def printable_output() -> None:
    """Have stdout and stderr print what they can of a text whose characters their encoding lacks, and not fail.

    >>> "mAP 3 ± 1 – é".encode("ascii", "reidgen-plain").decode()
    'mAP 3 +- 1 - e'
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="reidgen-plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    bare = unicodedata.normalize("NFKD", "".join(_PLAIN.get(character, character) for character in text))
    return "".join(c if c.isascii() else "" if unicodedata.combining(c) else "?" for c in bare), error.end


codecs.register_error("reidgen-plain", _plain)


@functools.cache
def out() -> "Console":
    """Return where results are printed; made late, because importing it takes as long as all the rest of --help."""
    return _console(stderr=False)


@functools.cache
def err() -> "Console":
    """Return where progress, notes and errors are printed."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    class Careful(Console):
        """A console that shows the control characters of what it prints, and does not obey them."""

        def render_str(self, text: str, **options: Any) -> "Text":
            return super().render_str(visible(text, lines=True), **options)

    return Careful(stderr=stderr, highlight=False, markup=False, emoji=False, quiet=_silent())


def _silent() -> bool:
    """Tell whether this is one of torchrun's processes, but not the first, which speaks for all."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0"


@dataclass
class Manner:
    """How a command speaks. quiet: results and errors alone; json: one document on stdout, all else on stderr."""

    quiet: bool = False
    json: bool = False


MANNER = Manner()  # set by --quiet and --json, anew in each command


def result(line: str) -> None:
    """Print a result: what a command was called for."""
    out().print(line, soft_wrap=True)


def note(line: str) -> None:
    """Print what helps to understand a result or the work; --quiet leaves it out."""
    if not MANNER.quiet:
        (err() if MANNER.json else out()).print(line, soft_wrap=True)


def document(value: object) -> None:
    """Print one JSON document. Raises ValueError for numbers that JSON lacks (NaN, infinite)."""
    out().print(json.dumps(value, indent=2, allow_nan=False), soft_wrap=True)


def one_sentence(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` as one that ends every ReidgenError, and every failure of a file, in one sentence and exit
    code.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        printable_output()
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
        err().print(sentence, soft_wrap=True)


def _failed_file(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.filename is None:
        return f"cannot write the output or read the input: {reason}; what is finished is kept"
    return f"cannot use {error.filename}: {reason}"


def _drop_output() -> None:
    """Throw away what stdout still holds, which could not be written, so that Python does not fail on it at its end."""
    out.cache_clear()  # and what the console holds of it
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
                err().print(f"{what}: {int(done)}/{total}", soft_wrap=True)
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
