"""The model card of an exported run: what it is, what its data forbid, how good it is, and how to make it again."""

import dataclasses
import json
import shlex
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidgen.catalogue import load_catalogue, split_all
from reidgen.deploy.export import Exported
from reidgen.entries import Dataset
from reidgen.files import write_text
from reidgen.integrity import with_check
from reidgen.recipe import Recipe
from reidgen.robustness.subject import clustered_error
from reidgen.runs import Run, now
from reidgen.tables.explain import ready, repeat_run

WIDTH = 1.96  # standard errors on each side of a 95 % interval
# Words of a licence -> what it forbids.
_FORBIDS = {
    "withdrawn": "withdrawn by those who published it: do not publish or deploy weights that were trained on it",
    "research only": "research only: no commercial or operational use of the weights",
    "by-nc": "no commercial use",
    "-sa": "whatever is made of it goes under the same licence",
    "signed agreement": "what the signed agreement says holds for the weights too: ask those who sent the set",
    "no redistribution": "its images may not be passed on",
}
UNKNOWN = "the catalogue does not know its terms: ask whoever gave you the images before you pass the weights on"


def facts_of_card(run: Run, exported: Exported, results: Path) -> dict[str, Any]:
    """Return all that the card says, as JSON can hold it; first what the training data forbid."""
    sources = [source_terms(one["name"]) for one in run.facts()["sources"]]
    facts = run.facts()
    return {
        "warnings": list(warnings_of(sources, facts, run.recipe().weights)),
        "model": {**exported.facts, "file": exported.file.name, "format": exported.format},
        "sources": sources,
        "started_from": facts.get("weights_from", "") or "random weights",
        "recipe": _without_folders(run).to_toml(),
        "results": results_of(run),
        "verified": {
            "largest_difference": exported.difference,
            "on": exported.verified_on,
            "resized_inside_against_evaluate": exported.resized,
        },
        "speed": {"images_per_second": round(exported.speed, 1), "device": exported.device},
        "repeat": commands(run, results),
        "trained": {key: facts[key] for key in ("version", "commit", "torch", "device", "threads", "date")},
        "date": now(),
    }


def source_terms(name: str) -> dict[str, Any]:
    """Return what the catalogue says of a source (`market-all` is of market), and what its licence forbids."""
    own, everything = split_all(name)
    found = load_catalogue().get(own)
    forbids = list(_forbidden(found)) if found and (found.licence or found.status == "withdrawn") else [UNKNOWN]
    return {
        "name": name,
        "title": found.title if found else own,
        "all_images": everything,
        "licence": found.licence if found else "",
        "status": found.status if found else "own",
        "homepage": found.homepage if found else "",
        "forbids": forbids,
    }


def _forbidden(source: Dataset) -> Iterator[str]:
    licence = f"{source.licence} {source.status}".lower()
    yield from (what for words, what in _FORBIDS.items() if words in licence)


def warnings_of(sources: list[dict[str, Any]], facts: dict[str, Any], weights: str) -> Iterator[str]:
    """Yield what a reader must know before anything else: sources that were withdrawn, or are for research only, and
    what the terms of the weights are that it started from. weights: of its recipe: none, imagenet or a file.
    """
    for source in sorted(sources, key=lambda one: one["status"] != "withdrawn"):
        if source["forbids"]:
            yield f"trained on {source['title']}: {'; '.join(source['forbids'])}"
    if weights == "imagenet":
        yield "started from weights of ImageNet, whose images are for non-commercial research and education"
    elif weights != "none":
        name = facts.get("weights_from") or Path(weights).name
        yield f"started from {name}, whose terms are not known here: ask where it comes from before you pass it on"


def results_of(run: Run) -> list[dict[str, Any]]:
    """Return mAP and Rank-1 in percent on every target and test, with 95 % intervals over query identities.

    Raises RunError where the results are damaged.
    """
    if (rows := run.own_rows()).empty:
        return []
    queries, found = run.queries(), []
    for (target, test), part in rows.groupby(["target", "test"], sort=True):
        own = queries[(queries["target"] == target) & (queries["test"] == test) & (queries["first_match"] > 0)]
        hits = (own["first_match"] == 1).astype("float64")
        scores = {}
        for name, column, values in (("mAP", "mAP", own["ap"]), ("rank1", "rank1", hits)):
            mean, error = 100 * float(part[column].mean()), 100 * _error(values, own["pid"])
            low, high = max(mean - WIDTH * error, 0.0), min(mean + WIDTH * error, 100.0)
            scores[name] = {"value": _number(mean), "low": _number(low), "high": _number(high)}
        found.append(
            {"target": target, "test": test, "seen": bool(part["seen"].any()), "splits": len(part), "queries": len(own)}
            | scores
        )
    return sorted(found, key=lambda one: (one["test"] != "plain", one["seen"]))


def _error(values: "pd.Series[float]", people: "pd.Series[int]") -> float:
    if values.empty:
        return float("nan")
    return clustered_error(np.array(values, dtype=np.float64), np.array(people, dtype=np.int64))


def _number(value: float) -> float | None:
    return round(value, 6) if value == value else None


def commands(run: Run, results: Path) -> list[str]:
    """Return the commands that train the run again, by the recipe as recipe.toml, and evaluate it on its targets."""
    rows, name = run.own_rows(), f"{run.folder.resolve().parent.name}/{run.folder.resolve().name}"
    tests = sorted(rows["test"].unique(), key=lambda test: (test != "plain", test))
    if rows.empty:
        recipe, commit = run.recipe(), run.facts().get("commit", "")
        row = {"test": "plain", "model": "", "method": run.method().label, "source": recipe.source, "commit": commit}
        row |= {"seed": str(recipe.seed)}
        return ready(row, []) + _here(repeat_run(row, name, [], results)[:1], run)
    first = rows.iloc[0].to_dict() | {"test": ",".join(tests)}
    return ready(first, rows["target"]) + _here(repeat_run(first, name, list(rows["target"]), results), run)


def _here(lines: list[str], run: Run) -> list[str]:
    """Return commands with the recipe as recipe.toml, and plug-ins by their files' names alone."""
    found = []
    for words in map(shlex.split, lines):
        before = ["", *words]
        named = [Path(word).name if option == "--plugin" else word for option, word in zip(before, words, strict=False)]
        found.append(shlex.join("recipe.toml" if word == str(run.recipe_file) else word for word in named))
    return found


def _without_folders(run: Run) -> Recipe:
    """Return the recipe with the names of files alone: where they lay is nobody's business."""
    recipe = run.recipe()
    plugins = tuple(Path(one).name for one in recipe.plugins)
    return dataclasses.replace(recipe, weights=Path(recipe.weights).name, plugins=plugins)


def markdown(facts: dict[str, Any], *, hub: bool = False) -> str:
    """Return the card as Markdown; hub: with the YAML header that huggingface.co reads."""
    from jinja2 import Environment

    text = resources.files("reidgen.deploy").joinpath("card.md.jinja").read_text(encoding="utf-8")
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(text).render(**facts, header=_header(facts) if hub else "")


def _header(facts: dict[str, Any]) -> str:
    """Return the YAML header, as huggingface-hub writes it, so that what it holds is what the hub takes."""
    from huggingface_hub import ModelCardData

    made = ModelCardData(
        license="other",
        license_name="see-training-data",
        library_name="onnx" if facts["model"]["format"] == "onnx" else "pytorch",
        pipeline_tag="image-feature-extraction",
        tags=["person-re-identification", "domain-generalization", "reidgen"],
        datasets=None,
    )
    return f"---\n{made.to_yaml()}\n---\n"


def write_card(exported: Exported, facts: dict[str, Any]) -> list[Path]:
    """Write the card beside an exported file, NAME.card.md and NAME.card.json, and return both."""
    page, data = (exported.file.with_suffix(f".card{end}") for end in (".md", ".json"))
    write_text(page, markdown(facts))
    write_text(data, json.dumps(with_check(facts), indent=1, ensure_ascii=False) + "\n")
    return [page, data]
