"""The settings of the recipes that result rows were made with, as far as run folders still hold them. No torch."""

import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from reidgen.runs import Run
from reidgen.tables.identities import run_names


def read_settings(results: Path, rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return hash -> settings for each recipe of the rows that a run folder still holds, without what the hash leaves
    out.

    A file that cannot be read counts as gone.
    """
    found: dict[str, dict[str, Any]] = {}
    runs = rows.drop_duplicates(["source", "method", "backbone", "seed", "hash", "row"])
    for run, digest in zip(run_names(runs), runs["hash"], strict=True):
        if digest in found:
            continue
        file = Run(results / "runs" / run).recipe_file
        if not file.is_file():
            continue
        try:
            settings = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        found[digest] = {
            key: value for key, value in settings.items() if key not in ("name", "method", "source", "seed")
        }
    return found
