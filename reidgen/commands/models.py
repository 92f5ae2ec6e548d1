"""What the commands that take --model share: opening it, and saying how it is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reidgen.errors import RunError
from reidgen.terminal import note

if TYPE_CHECKING:
    from reidgen.foreign import Model


def refuse_without_model(
    model: str | None, *, weights: Path | None, trained_on: str, input: Sequence[str] | None
) -> None:
    """Raise RunError where options of a model from elsewhere are given, and no --model."""
    given = {"--weights": weights, "--trained-on": trained_on, "--input": input}
    if not model and (words := [option for option, value in given.items() if value]):
        raise RunError(f"{words[0]} is of a model from elsewhere; name it with --model, or leave out {words[0]}")


def open_and_say(
    name: str,
    weights: Path | None,
    inputs: Sequence[str] | None,
    trained_on: str,
    device: str,
    *,
    judged: bool = True,
) -> "Model":
    """Return a model from elsewhere, opened, and say on stderr how it is read, and what of its file is not used.

    judged: say also what it was trained on, which tells what a number means.
    """
    from reidgen.foreign import open_model
    from reidgen.models.inputs import read_words

    opened = open_model(name, weights=weights, inputs=inputs or (), trained_on=trained_on, device=device)
    note(f"{opened.label}: {opened.form}; {opened.network.dim} features; {opened.kind}, {opened.runtime}")
    asked = read_words(inputs or ())
    if weights and (assumed := [word for word, key in (("size", "height"), ("mean", "mean")) if key not in asked]):
        note(f"{opened.label}: a torch file does not say its {' and '.join(assumed)}, assumed as above (--input)")
    if opened.sources and judged:
        note(f"{opened.label}: trained on {opened.source}, as {'its file says' if opened.made else 'declared'}")
    elif judged:
        note(
            f"{opened.label}: what it was trained on is not declared (--trained-on), so whether a target was seen is "
            "not known"
        )
    if opened.unused:
        note(f"{opened.file}: not used: {', '.join(opened.unused)}")
    return opened
