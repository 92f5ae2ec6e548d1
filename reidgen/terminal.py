"""What every command prints with: results, notes, progress and errors. Rich is imported late, for --help's sake.

Whatever is printed is made safe for the terminal: control characters of a name become escapes, characters that the
output's encoding lacks become others.
"""

import codecs
import contextlib
import functools
import io
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

from reidgen.errors import InterruptedRunError, ReidgenError
from reidgen.escapes import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

P = ParamSpec("P")
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
        """A console that shows control characters instead of obeying them, and says when it cannot print."""

        def render_str(self, text: str, **options: Any) -> "Text":
            return super().render_str(visible(text, lines=True), **options)

        def print(self, *objects: Any, **options: Any) -> None:
            try:
                super().print(*objects, **options)
                self.file.flush()
            except BrokenPipeError:
                raise  # whoever reads has seen enough
            except OSError as error:
                if stderr:
                    return  # nobody can be told
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the end of the program fails once more
                raise ReidgenError(
                    f"cannot print the results: {error.strerror}; write them to another place"
                ) from error

    return Careful(stderr=stderr, highlight=False, markup=False, quiet=_silent())


def _silent() -> bool:
    """Tell whether this is one of torchrun's processes, but not the first, which speaks for all."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0"


def one_sentence(function: Callable[P, None]) -> Callable[P, None]:
    """Return `function` as one that ends every ReidgenError in one sentence and its exit code.

    So does an OSError that nobody foresaw: a name too long, a file that may not be read, a full disk.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        printable_output()
        try:
            function(*args, **kwargs)
        except ReidgenError as error:
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            raise  # whoever reads has seen enough
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            complain(f"{where}{error.strerror or error}")
            raise typer.Exit(ReidgenError.exit_code) from None
        except KeyboardInterrupt:
            complain("stopped; what is finished is kept, the same command goes on")
            raise typer.Exit(InterruptedRunError.exit_code) from None

    return run


def complain(sentence: str) -> None:
    err().print("error: ", style="red", end="")
    err().print(sentence, soft_wrap=True)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield the `report` that long work calls: a bar on a terminal, a line a minute elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not err().is_terminal:
        last = time.monotonic()

        def line(what: str, done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > 60:
                err().print(f"{what}: {done}/{total}", soft_wrap=True)
                last = time.monotonic()

        yield line
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True) as bars:
        task = bars.add_task("", total=None)
        stage = ""

        def bar(what: str, done: int, total: int) -> None:
            nonlocal stage
            if what.partition(",")[0] != stage:  # another kind of work: its time left starts anew
                stage = what.partition(",")[0]
                bars.reset(task)
            bars.update(task, description=what, completed=done, total=total)

        yield bar
