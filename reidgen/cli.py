"""The command line: `reidgen` with its commands, in the order in which one uses them."""

import os
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from reidgen.commands.data import prepare
from reidgen.commands.deploy import export
from reidgen.commands.features import embed, search
from reidgen.commands.judge import judge
from reidgen.commands.methods import methods
from reidgen.commands.probes import attack, show, stress
from reidgen.commands.runs import bench, evaluate, speed, train
from reidgen.commands.tables import report, table
from reidgen.terminal import MANNER, out

app = typer.Typer(
    help="The benchmark for person re-identification on cameras nobody trained on.\n\n"
    "Begin with: reidgen prepare synth, then: reidgen bench",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
MAKING = (prepare, methods, train, evaluate, bench, table, report, show, stress, attack)
USING = (embed, search, judge, export, speed)


class _Command(TyperCommand):
    """A command that refuses what would count in silence otherwise: the last of an option that is given twice where one
    value counts, and an empty value, as of a shell's variable that is not set, which would mean the default.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for one in () if ctx.resilient_parsing else {one.name: one for one in given}.values():
            option, value = one if isinstance(one, TyperOption) else None, values[one.name]
            name = option.opts[0] if option else (one.metavar or str(one.name)).strip("[].")
            if "" in (value if isinstance(value, list | tuple) else [value]):
                ctx.fail(
                    f"{name} is given an empty value; give it another{'' if one.required else ', or leave it out'}"
                )
            if option and given.count(option) > 1 and not (option.multiple or option.is_flag):
                ctx.fail(f"{name} is given twice, and only the last would count; give it once")
        return super().parse_args(ctx, args)


for function in (*MAKING, *USING):
    app.command(cls=_Command)(function)


def main() -> None:
    """Run the command line."""
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
    MANNER.quiet = MANNER.json = False  # each command says anew how it speaks
