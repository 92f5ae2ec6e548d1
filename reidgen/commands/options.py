"""The options that several commands share: few, and the same everywhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reidgen.terminal import one_sentence

if TYPE_CHECKING:
    from reidgen.recipe import Recipe

Data = Annotated[Path, typer.Option(envvar="REIDGEN_DATA", help="Folder of the prepared data sets.")]
Results = Annotated[Path, typer.Option(help="Folder of runs and tables.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Source = Annotated[
    str | None,
    typer.Option(help="Data set to train on; several joined by +; market-all: all its images; by default synth."),
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="paper, quick or FILE.toml; by default quick for synth, else paper.")
]
Backbone = Annotated[
    str | None, typer.Option(help="resnet50, resnet18, mobilenet_v2, tiny, ... instead of the recipe's.")
]
Weights = Annotated[
    str | None, typer.Option(help="imagenet, none or a torchvision state dict instead of the recipe's.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, its name, or the beginning of its name.")]
Target = Annotated[str, typer.Option(help="A prepared data set, several joined by commas, or synth.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the step with PyTorch: minutes at the start, other rounding.")
]
Epochs = Annotated[int | None, typer.Option(help="Epochs instead of the recipe's.")]


def _load_plugins(names: list[str] | None) -> list[str]:
    """Import what --plugin names, before any other option is looked at; return what a recipe keeps of it."""
    kept: list[str] = []
    if names:
        _load_into(kept, names)
    return kept


@one_sentence
def _load_into(kept: list[str], names: list[str]) -> None:
    from reidgen.registry import load_plugins

    kept += load_plugins(names)


Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        callback=_load_plugins,
        is_eager=True,
        help="A Python file, or a module, with methods or backbones of your own: code that runs. Repeatable.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PART.NAME=VALUE",
        help="A parameter of the methods that have it, such as snr.distance=euclidean (see: reidgen methods NAME).",
    ),
]


def recipe_of(
    name: str | None,
    source: str | None,
    *,
    compile: bool,
    grid: bool = False,
    plugins: list[str] | None = None,
    settings: list[str] | None = None,
    **changes: object,
) -> "Recipe":
    """Return the recipe that the options of train and bench mean; without a source, the recipe file's own.

    grid: of a whole grid, whose methods and seeds a recipe file cannot name.
    """
    from reidgen.catalogue import DEFAULT_SYNTH
    from reidgen.methods import read_setting
    from reidgen.recipe import load_recipe

    names = [DEFAULT_SYNTH if name == "synth" else name for name in source.split("+")] if source else []
    default = "quick" if all(name.startswith("synth-") for name in names) else "paper"
    chosen = load_recipe(name or default, without=("method", "seed") if grid else ())
    together = dict(chosen.settings) | dict(map(read_setting, settings or []))
    return chosen.change(
        source="+".join(names) or None,
        compile=compile or None,
        plugins=tuple(dict.fromkeys([*chosen.plugins, *(plugins or [])])),
        settings=tuple(together.items()),
        **changes,
    ).known()
