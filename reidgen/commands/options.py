"""The options that several commands share: few, and the same everywhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from reidgen.recipe import Recipe

Data = Annotated[Path, typer.Option(envvar="REIDGEN_DATA", help="Folder of the prepared data sets.")]
Results = Annotated[Path, typer.Option(help="Folder of runs and tables.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Source = Annotated[str, typer.Option(help="Data set to train on; several joined by +; market-all: all its images.")]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="paper, quick or FILE.toml; by default quick for synth, else paper.")
]
Backbone = Annotated[str | None, typer.Option(help="resnet50, resnet18, mobilenet_v2 or tiny instead of the recipe's.")]
Weights = Annotated[
    str | None, typer.Option(help="imagenet, none or a torchvision state dict instead of the recipe's.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, its name, or the beginning of its name.")]
Target = Annotated[str, typer.Option(help="A prepared data set, several joined by commas, or synth.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the step with PyTorch: minutes at the start, other rounding.")
]
Epochs = Annotated[int | None, typer.Option(help="Epochs instead of the recipe's.")]


def recipe_of(name: str | None, source: str, *, compile: bool, **settings: object) -> "Recipe":
    """Return the recipe that the options of train and bench mean."""
    from reidgen.catalogue import DEFAULT_SYNTH
    from reidgen.recipe import load_recipe

    names = [DEFAULT_SYNTH if name == "synth" else name for name in source.split("+")]
    default = "quick" if all(name.startswith("synth-") for name in names) else "paper"
    return load_recipe(name or default).change(source="+".join(names), compile=compile or None, **settings)
