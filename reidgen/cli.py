"""The command line: `reidgen` with its commands, in the order in which one uses them."""

import os
from typing import Annotated

import typer

from reidgen.commands.data import prepare
from reidgen.commands.probes import attack, show, stress
from reidgen.commands.runs import bench, evaluate, speed, train
from reidgen.commands.tables import report, table
from reidgen.terminal import out

app = typer.Typer(
    help="The benchmark for person re-identification on cameras nobody trained on.\n\n"
    "Begin with: reidgen prepare synth, then: reidgen bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for function in (prepare, train, evaluate, bench, table, report, show, stress, attack, speed):
    app.command()(function)


def main() -> None:
    """Run the command line."""
    # Threads that wait without spinning: on two cores shared with other work, a training step took 0.5 s, not 1.9 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["MPLBACKEND"] = "agg"  # figures go into files; a notebook's backend is not installed here
    app(prog_name="reidgen")


def _version(wanted: bool) -> None:
    if wanted:
        from reidgen import __version__

        out().print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
