"""Prepared sets: what manifest.json and index.csv say, read without looking at an image."""

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reidgen.catalogue import ALL, load_catalogue, split_all
from reidgen.data.naming import shown
from reidgen.data.readings import AUTOMATIC
from reidgen.entries import PARTS, Dataset, check_name, parse
from reidgen.errors import DataError, unknown
from reidgen.files import sha256_file, write_text
from reidgen.integrity import passes_check, with_check
from reidgen.recipe import Recipe

# The columns of index.csv.
INDEX = {"split": "int64", "part": "str", "path": "str", "pid": "int64", "camid": "int64", "sha256": "str"}
OWN = "for your own crops run: reidgen prepare NAME --from DIR"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A complete data set in `folder` (<data>/<name>), whose images lie in `root` as they came: nothing is copied.

    counts: "train", "query" and "gallery", those that there are -> {"identities", "images", "cameras"} of split 0;
    the query also has "unmatched" (images without a match), the gallery "distractors" (of people nobody asks for);
    "all" -> {"images" (different files), "junk" (files left out), "splits"}. digest: SHA-256 of index.csv.
    version: of reidgen. seed: of a drawn set. example: how a few names were read, a line each. seconds: what preparing
    took. stamp: see `check.stamp_files`; bytes: of all images; accepted: how the counts differ from the catalogue's, or
    why own crops are not plausible, "" where all is well; outside: path -> digest, as in the index, of the images that
    no split shows. duplicates: which pictures stand in two parts, and were accepted. people, cameras: number (as text)
    -> name, of own crops, where that is not the number itself. remarks: what else was found. Manifests of reidgen 0.1
    lack all from stamp on. already: `prepare` found it complete and its files unchanged.
    """

    dataset: Dataset
    folder: Path
    root: Path
    counts: dict[str, dict[str, int]]
    digest: str
    version: str
    seed: int
    example: str
    seconds: float
    stamp: str = ""
    bytes: int = 0
    accepted: str = ""
    outside: dict[str, str] = field(default_factory=dict)
    duplicates: str = ""
    people: dict[str, str] = field(default_factory=dict)
    cameras: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    already: bool = False

    @property
    def name(self) -> str:
        return self.dataset.name

    def person(self, pid: int) -> str:
        """Return the person `pid` as the names of the images say it, fit to be printed; "unknown" for nobody."""
        return shown(self.people.get(str(pid), str(pid))) or "unknown"

    def camera(self, camid: int) -> str:
        """Return the camera `camid` as the names of the images say it, fit to be printed; "unknown" where none does."""
        return shown(self.cameras.get(str(camid), str(camid))) or "unknown"

    def __str__(self) -> str:
        """The counts in one line, for people."""
        words = {"train": "training images", "query": "queries", "gallery": "gallery images"}
        parts = [(word, self.counts[part]) for part, word in words.items() if part in self.counts]
        text = ", ".join(f"{one['images']:,} {word} of {one['identities']:,} people" for word, one in parts)
        rest = {"distractors": "gallery", "unmatched": "query", "junk": "all"}
        extra = [f"{n:,} {word}" for word, part in rest.items() if (n := self.counts.get(part, {}).get(word, 0))]
        if (splits := self.counts["all"]["splits"]) > 1:
            extra.append(f"in the first of {splits} splits")
        text += f" ({', '.join(extra)})" if extra else ""
        return text + (f"; accepted: {self.accepted}" if self.accepted else "")

    @property
    def notes(self) -> list[str]:
        """What a user should know who prepared it: how own names were read, and what may be done with the images."""
        entry = self.dataset
        notes = [*self.example.splitlines(), *self.remarks] if entry.status == "own" else []
        if entry.status == "withdrawn":
            notes.append(" ".join(entry.get.split()))
        if entry.licence and entry.status != "built-in":
            forbidden = "" if "no redistribution" in entry.licence else "; pass no image on unless these allow it"
            notes.append(f"terms: {entry.licence}{forbidden}")
        return notes

    @property
    def index(self) -> Path:
        return self.folder / "index.csv"

    @property
    def again(self) -> str:
        """The command that prepares it again."""
        return again(self.dataset, self.root, accepted=bool(self.accepted), doubled=bool(self.duplicates))


def prepared_names(data: Path) -> list[str]:
    """Return the names of the sets in `data` that have a manifest, sorted; other folders are none of ours.

    A manifest that is a link to nowhere counts: who loads the set says what is wrong.
    """
    names = []
    for folder in data.glob("*/"):
        if os.path.lexists(folder / "manifest.json"):
            with contextlib.suppress(DataError):
                check_name(folder.name)
                names.append(folder.name)
    return sorted(names)


def load_prepared(name: str, data: Path) -> Prepared:
    """Return the prepared set `name`, from its manifest and index alone: its images are not looked at.

    Raises DataError, with the command to run, when it is not prepared or its index does not fit the manifest.
    """
    if not name:
        raise DataError(
            "an empty name is no data set; join several sources by one + (market+duke), several targets by one comma"
        )
    file = data / name / "manifest.json"
    if os.path.lexists(file) and not file.is_file():
        raise DataError(f"{name}: {file} is no plain file, or a link to nowhere; remove it and prepare the set again")
    if not file.is_file():
        known = load_catalogue()
        if name not in known:
            raise DataError(f"{unknown('data set', name, [*known, *prepared_names(data)])}; {OWN}")
        raise DataError(f"{name} is not prepared in {data}; {how(known[name])}")
    try:
        prepared = read_manifest(name, data)
        digest = sha256_file(prepared.index)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, DataError) as error:
        raise DataError(f"{name}: {file} or its index.csv is damaged ({error}); prepare the set again") from error
    if digest != prepared.digest:
        raise DataError(f"{name}: {prepared.index} is not the one that manifest.json names; run: {prepared.again}")
    return prepared


def load_index(prepared: Prepared) -> pd.DataFrame:
    """Return index.csv with the columns of ARCHITECTURE.md: split, pid and camid int64, the others text."""
    return pd.read_csv(prepared.index, dtype=INDEX, keep_default_na=False, encoding="utf-8")


_KINDS = {"counts": dict, "digest": str, "version": str, "seed": int, "example": str, "seconds": (int, float)}
_LATER_KINDS = {"stamp": str, "bytes": int, "accepted": str, "outside": dict, "duplicates": str, "people": dict}
_LATER_KINDS |= {"cameras": dict, "remarks": list}


def read_manifest(name: str, data: Path) -> Prepared:
    """Return what the manifest says; raises OSError, ValueError, KeyError, TypeError or DataError when
    it is damaged.
    """
    file = data / name / "manifest.json"
    manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "check" not in manifest and (odd := set(manifest) - {"name", "entry", "root", *_KINDS, *_LATER_KINDS}):
        raise DataError(f"it has the unknown key {min(odd)!r}")
    if passes_check(manifest) is False:  # reidgen 0.1.0 wrote none
        raise DataError("it is not as it was written")
    dataset = parse(name, manifest["entry"], where=str(file))
    if dataset.status == "built-in" and name not in load_catalogue():
        raise DataError(f"{name} is no built-in set")
    values = {key: manifest[key] for key in _KINDS} | {key: manifest[key] for key in _LATER_KINDS if key in manifest}
    for key, kind in (_KINDS | _LATER_KINDS).items():
        if key in values and not isinstance(values[key], kind):  # type: ignore[arg-type]
            raise TypeError(f"{key} = {values[key]!r}")
    wanted = {"all": {"images", "junk", "splits"}} | {part: {"identities", "images"} for part in PARTS}
    for part, keys in wanted.items():
        one = values["counts"].get(part)
        good = isinstance(one, dict) and keys <= set(one) and all(type(number) is int for number in one.values())
        if not good and (part == "all" or part in values["counts"]):
            raise TypeError(f"counts of {part} = {one!r}")
    return Prepared(dataset=dataset, folder=data / name, root=data / name / manifest["root"], **values)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the proof that the set in `folder` is complete, with a check of its own."""
    write_text(folder / "manifest.json", json.dumps(with_check(manifest), indent=2, ensure_ascii=False) + "\n")


def how(dataset: Dataset) -> str:
    """Return how to come by a set that is not prepared, ending in the command."""
    command = f"run: reidgen prepare {dataset.name}"
    if dataset.status == "built-in" or (dataset.status == "open" and any(one.urls for one in dataset.archives)):
        return command
    get = " ".join(dataset.get.split()).rstrip(".")
    if dataset.status == "withdrawn":
        return f"{get}; if you hold a copy and may use it, {command} --from DIR"
    return f"{get + ', then ' if get else ''}{command} --from DIR"


def again(dataset: Dataset, root: Path, *, accepted: bool = False, doubled: bool = False) -> str:
    """Return the command that prepares a set again from the same images, with what was accepted of it."""
    if dataset.status == "built-in":
        return f"reidgen prepare {dataset.name}"
    table = dataset.list_format == "table"
    tables = [root / one for some in dataset.lists.values() for one in some if table or one.endswith(".csv")]
    pattern = f" --pattern {shlex.quote(dataset.pattern)}" if asked_pattern(dataset) else ""
    flag = " --accept-counts" * accepted + " --accept-duplicates" * doubled
    return f"reidgen prepare {dataset.name} --from {shlex.quote(str((tables or [root])[0]))}{pattern}{flag}"


def asked_pattern(dataset: Dataset) -> bool:
    """Tell whether a set of own crops is read by a pattern that its user gave."""
    return dataset.pattern not in AUTOMATIC and not dataset.lists and dataset.name not in load_catalogue()


def source_digest(recipe: Recipe, *, data: Path) -> str:
    """Return the SHA-256 that stands for what the recipe's sources train on: the digest of the index of a set whose
    training part is the only source, else made of all their digests. Raises DataError when a set is not prepared."""
    parts = [(load_prepared(name, data).digest, everything) for name, everything in map(split_all, recipe.sources)]
    if len(parts) == 1 and not parts[0][1]:
        return parts[0][0]
    return hashlib.sha256("+".join(digest + ALL * everything for digest, everything in parts).encode()).hexdigest()


def tested_part(prepared: Prepared) -> pd.DataFrame:
    """Return the index's rows of all splits but training. Raises DataError when there is no query among them."""
    index = load_index(prepared)
    tested = index[index["part"] != "train"]
    if not (tested["part"] == "query").any():
        raise DataError(f"{prepared.name} has no query images and cannot be a target; see reidgen prepare --help")
    return tested


def sound_sets(data: Path, *, say: Callable[[str], None]) -> dict[str, Prepared]:
    """Return the prepared sets below `data` by name; one that is damaged is said, and left out."""
    sound = {}
    for name in prepared_names(data):
        try:
            sound[name] = load_prepared(name, data)
        except DataError as error:
            say(f"left out: {error}")
    return sound
