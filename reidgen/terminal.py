"""What every command prints with: results, notes, progress and errors. Rich is imported late, for --help's sake."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ParamSpec

import typer

from reidgen.errors import InterruptedRunError, ReidgenError

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")


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


def one_sentence(function: Callable[P, None]) -> Callable[P, None]:
    """Return `function` as one that ends every ReidgenError in one sentence and its exit code."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except ReidgenError as error:
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
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
