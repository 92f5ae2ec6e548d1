"""The options that several commands share: few, and the same everywhere."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from reidgen.terminal import MANNER, one_sentence

LONGEST = 19  # digits of a seed


@one_sentence
def _folder(path: Path) -> Path:
    """Return a folder's path with ~ expanded, as no shell does in a variable. Raises OSError for a name that is too
    long.
    """
    home = path
    with contextlib.suppress(RuntimeError):  # nobody knows this user's home: a folder called ~NAME
        home = path.expanduser()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        home.stat()
    return home


def _speak_quietly(quiet: bool) -> bool:
    MANNER.quiet = quiet
    logging.getLogger("reidgen").setLevel(logging.ERROR if quiet else logging.NOTSET)  # for whom one waits
    return quiet


def _speak_json(json: bool) -> bool:
    MANNER.json = json
    return json


def whole_number(option: str) -> Callable[[str | int], int]:
    """Return the parser of an option that takes a whole number; what is none, or too long, ends in one sentence."""

    @one_sentence
    def number(text: str | int) -> int:  # also the default
        from reidgen.errors import RecipeError

        digits = str(text).strip().removeprefix("-").removeprefix("+")
        if not (digits.isascii() and digits.isdecimal()):
            raise RecipeError(f"{option} {str(text)[:40]!r} is no whole number; give one, such as {option} 3")
        if len(digits) > 1000:  # fewer are numbers, and whoever uses them knows their bounds
            raise RecipeError(f"{option}: a number of {len(digits):,} digits is too large; give one such as {option} 3")
        return int(text)

    return number


Data = Annotated[Path, typer.Option(envvar="REIDGEN_DATA", callback=_folder, help="Folder of the prepared data sets.")]
Results = Annotated[Path, typer.Option(envvar="REIDGEN_RESULTS", callback=_folder, help="Folder of runs and tables.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps or xpu.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_speak_quietly, help="Only results and errors: no progress, no notes.")
]
Json = Annotated[
    bool,
    typer.Option("--json", callback=_speak_json, help="Print one JSON document on stdout, all else on stderr."),
]
Log = Annotated[
    list[str] | None,
    typer.Option("--log", metavar="TOOL", help="Follow it in tensorboard, wandb or mlflow too (offline). Repeatable."),
]
Source = Annotated[
    str | None,
    typer.Option(help="Data set to train on; several joined by +; market-all: all its images; by default synth."),
]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help="paper, quick, modern or FILE.toml; by default quick for synth, else paper."),
]
Backbone = Annotated[
    str | None,
    typer.Option(help="resnet50, osnet-ain, vit_b_16, timm:NAME, ... (reidgen methods) instead of the recipe's."),
]
Weights = Annotated[
    str | None, typer.Option(help="imagenet, none or the file of a state dict instead of the recipe's.")
]
Test = Annotated[
    str,
    typer.Option(
        help="plain, or test steps such as flip+centre+rerank (see: reidgen methods); several tests joined by commas."
    ),
]
View = Annotated[
    str, typer.Option(help="plain, or a test step that makes views of an image, such as flip; their mean is embedded.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, its name, or the beginning of its name.")]
RunOrModel = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="A run folder, its name, or the beginning of its name.")
]
RunNamesOrModel = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RUN...]", help="Run folders, their names, or the beginnings of their names."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FILE.onnx|NAME",
        help="Instead of a RUN: an ONNX file, or a backbone (plugin:NAME) whose torch file --weights names.",
    ),
]
ModelWeights = Annotated[Path | None, typer.Option("--weights", help="The torch file of --model NAME.")]
TrainedOn = Annotated[
    str,
    typer.Option(
        "--trained-on",
        metavar="NAME",
        help="What the model was trained on, such as msmt17, or other:NAME; several joined by +.",
    ),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="KEY=VALUE",
        help="How it wants its images, where its file does not say: size=256x128, layout=nchw|nhwc, order=rgb|bgr, "
        "range=1|255, mean=imagenet or R,G,B, deviation=R,G,B, output=NAME.",
    ),
]
Target = Annotated[str, typer.Option(help="A prepared data set, several joined by commas, or synth.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the step with PyTorch: minutes at the start, other rounding.")
]
Epochs = Annotated[
    int | None, typer.Option(parser=whole_number("--epochs"), metavar="<int>", help="Epochs instead of the recipe's.")
]


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
        help="A Python file, or a module, with your own methods, backbones or test steps: code that runs. Repeatable.",
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
SetStep = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STEP.NAME=VALUE",
        help="A parameter of a test step that --test names, such as rerank.k1=30 (see: reidgen methods NAME).",
    ),
]


def read_seeds(words: str) -> list[int]:
    """Return the seeds that --seeds means: "3" is 0 to 2, "2,4" these two, "4," that one alone.

    Raises RecipeError for anything else.

    >>> read_seeds("3"), read_seeds("2,4"), read_seeds("4,")
    ([0, 1, 2], [2, 4], [4])
    """
    from reidgen.errors import RecipeError

    parts = [part.strip() for part in words.split(",")]
    if digits := max((len(part) for part in parts if part.isdecimal() and len(part) > LONGEST), default=0):
        raise RecipeError(f"--seeds: a number of {digits:,} digits is too large; give 3, or seeds such as 2,4")
    if parts[-1] == "" and len(parts) > 1:
        parts.pop()
    if not all(part.isascii() and part.isdecimal() and len(part) <= LONGEST for part in parts):
        raise RecipeError(f"--seeds {words[:40]!r} is neither a number of seeds nor seeds such as 2,4 (or 4, for one)")
    numbers = [int(part) for part in parts]
    if "," in words:
        return list(dict.fromkeys(numbers))
    if not 1 <= numbers[0] <= 1000:
        raise RecipeError(f"--seeds {numbers[0]:,}: give 1 to 1,000 seeds, or seeds such as 2,4")
    return list(range(numbers[0]))
