"""A folder that is ready for huggingface.co: card, configuration, weights. Nothing is uploaded."""

import json
import shutil
from pathlib import Path
from typing import Any

from reidgen.deploy.card import facts_of_card, markdown
from reidgen.deploy.export import FORMATS, Exported, export
from reidgen.errors import ReidgenError, RunError
from reidgen.files import write_text
from reidgen.runs import Run

FILES = {"weights": "model.safetensors", "recipe_file": "recipe.toml", "row_file": "row.json"}


def write_hub(
    run: Run, out: Path, *, pixels: str, resize: bool, data: Path, results: Path
) -> tuple[Exported, dict[str, Any]]:
    """Write a folder with README.md (a card with a YAML header), config.json, model.onnx and model.safetensors, with
    the recipe and row that tell what network these weights are of; return what was exported, and what the card says.

    Raises ReidgenError where huggingface-hub is not installed, RunError for a folder that holds something, and what
    `export` raises.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise ReidgenError(
            "a folder for the hub needs huggingface-hub, which is not installed; to get it: pip install huggingface-hub"
        ) from error
    if out.is_dir() and any(out.iterdir()):
        raise RunError(f"--out {out} is a folder that holds something already; give a new one")
    if out.suffix in FORMATS.values() or out.is_file():
        raise RunError(f"--out {out}: of the format hub it is a folder; give the name of a new one")
    exported = export(run, out / "model.onnx", pixels=pixels, resize=resize, data=data)
    facts = facts_of_card(run, exported, results)
    for part, name in FILES.items():
        shutil.copyfile(run.sound_weights() if part == "weights" else getattr(run, part), out / name)
    write_text(out / "config.json", json.dumps(facts["model"], indent=1, ensure_ascii=False) + "\n")
    write_text(out / "README.md", markdown(facts, hub=True))
    return exported, facts
