"""Prepare a set once: read its names, decode every image, compare the counts, write index.csv and manifest.json."""

import contextlib
import difflib
import functools
import hashlib
import json
import shlex
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from reidgen import __version__
from reidgen.catalogue import PARTS, Dataset, check_name, load_catalogue, parse
from reidgen.data.images import decode, locked, windows
from reidgen.data.readers import FLAT_PATTERN, FOLDER_PATTERNS, locate, matched, own_dataset, read
from reidgen.data.synthetic import DOMAINS, IDENTITIES, IMAGES_PER_CAMERA, draw_domain
from reidgen.errors import DataError, unknown
from reidgen.files import sha256_file, write_text
from reidgen.runs import Progress

_AUTOMATIC = (*FOLDER_PATTERNS, FLAT_PATTERN)
_OWN = "for your own crops run: reidgen prepare NAME --from DIR"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A complete data set in `folder` (<data>/<name>), whose images lie in `root` as they came: nothing is copied.

    counts: "train", "query" and "gallery", those that there are -> {"identities", "images", "cameras"} of split 0;
    the query also has "unmatched" (images without a match), the gallery "distractors" (of people nobody asks for);
    "all" -> {"images" (different files), "junk" (files left out), "splits"}. digest: SHA-256 of index.csv.
    version: of reidgen. seed: of a drawn set. example: how one name was read. seconds: what preparing took.
    already: `prepare` found it complete and its names unchanged.
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
    already: bool = False

    @property
    def name(self) -> str:
        return self.dataset.name

    def __str__(self) -> str:
        """The counts in one line, for people."""
        words = {"train": "training images", "query": "queries", "gallery": "gallery images"}
        parts = [(word, self.counts[part]) for part, word in words.items() if part in self.counts]
        text = ", ".join(f"{one['images']:,} {word} of {one['identities']:,} people" for word, one in parts)
        rest = {"distractors": "gallery", "unmatched": "query", "junk": "all"}
        extra = [f"{n:,} {word}" for word, part in rest.items() if (n := self.counts.get(part, {}).get(word, 0))]
        return text + (f" ({', '.join(extra)})" if extra else "")

    @property
    def index(self) -> Path:
        return self.folder / "index.csv"

    @property
    def again(self) -> str:
        """The command that prepares it again."""
        return _again(self.dataset, self.root)


def prepare(
    name: str,
    *,
    data: Path,
    source: Path | None = None,
    pattern: str | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> Prepared:
    """Prepare the set `name` in data/<name>, from the folder `source` or, for a built-in set, from `seed`.

    A name that the catalogue does not know becomes a set of own crops, see `readers.own_dataset`; the manifest
    remembers how it was read. With `source` the work is always done; without it, a set that is complete, as asked
    for, and whose folder still holds the names of its index is returned at once, no image opened. Another process
    that prepares the same set is waited for.

    Raises DataError when the source is missing or wrong, a name does not fit, the counts differ from the
    catalogue, or an image cannot be decoded (named). A failed call never leaves a manifest for what it could not prove.
    """
    began = time.monotonic()
    dataset = _choose(name, data, source, pattern)
    before = _complete(name, data)
    built_in = dataset.status == "built-in"
    if not built_in and source is None:
        if before is None:
            raise DataError(f"{name} needs its images: {_how(dataset)}")
    images = source or (before.root if before else None)
    root = None if built_in or images is None else locate(dataset, images)
    with locked(data / name):
        before = None if source else _complete(name, data)
        if before and before.dataset == dataset and _unchanged(before, (seed, __version__)):
            return replace(before, already=True)
        root = root or _draw(dataset, data / name, seed, report)
        found = read(dataset, root)
        counts = _count(found.rows, found.junk)
        _compare(dataset, counts, root)
        sha = _decode_all(dataset, root, sorted(found.rows["path"].unique()), report)
        index = found.rows.assign(sha256=found.rows["path"].map(sha)).to_csv(index=False, lineterminator="\n")
        manifest = {
            "name": name,
            "root": "images" if built_in else str(root),
            "counts": counts,
            "digest": hashlib.sha256(index.encode()).hexdigest(),
            "version": __version__,
            "seed": seed,
            "example": found.example,
            "seconds": round(time.monotonic() - began, 1),
            "entry": dataset.table(),
        }
        write_text(data / name / "index.csv", index)
        write_text(data / name / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return load_prepared(name, data)


def prepared_names(data: Path) -> list[str]:
    """Return the names of the sets in `data` that have a manifest, sorted; other folders are none of ours."""
    names = []
    for path in data.glob("*/manifest.json"):
        with contextlib.suppress(DataError):
            check_name(path.parent.name)
            names.append(path.parent.name)
    return sorted(names)


def load_prepared(name: str, data: Path) -> Prepared:
    """Return the prepared set `name`, from its manifest and index alone: its images are not looked at.

    Raises DataError, with the command to run, when it is not prepared or its index does not fit the manifest.
    """
    file = data / name / "manifest.json"
    if not file.is_file():
        known = load_catalogue()
        if name not in known:
            raise DataError(f"{unknown('data set', name, [*known, *prepared_names(data)])}; {_OWN}")
        raise DataError(f"{name} is not prepared in {data}; {_how(known[name])}")
    try:
        prepared = _read_manifest(name, data)
        digest = sha256_file(prepared.index)
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise DataError(f"{name}: {file} or its index.csv is damaged ({error}); prepare the set again") from error
    if digest != prepared.digest:
        raise DataError(f"{name}: {prepared.index} is not the one that manifest.json names; run: {prepared.again}")
    return prepared


_KINDS = {"counts": dict, "digest": str, "version": str, "seed": int, "example": str, "seconds": (int, float)}


def _read_manifest(name: str, data: Path) -> Prepared:
    """Return what the manifest says; raises OSError, ValueError, KeyError, TypeError or DataError when it is damaged."""
    file = data / name / "manifest.json"
    manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    dataset = parse(name, manifest["entry"], where=str(file))
    if dataset.status == "built-in" and name.removeprefix("synth-") not in DOMAINS:
        raise DataError(f"{name} is no built-in set")
    values = {key: manifest[key] for key in _KINDS}
    for key, kind in _KINDS.items():
        if not isinstance(values[key], kind):  # type: ignore[arg-type]
            raise TypeError(f"{key} = {values[key]!r}")
    wanted = {"all": {"images", "junk", "splits"}} | {part: {"identities", "images"} for part in PARTS}
    for part, keys in wanted.items():
        one = values["counts"].get(part)
        good = isinstance(one, dict) and keys <= set(one) and all(type(number) is int for number in one.values())
        if not good and (part == "all" or part in values["counts"]):
            raise TypeError(f"counts of {part} = {one!r}")
    return Prepared(dataset=dataset, folder=data / name, root=data / name / manifest["root"], **values)


def load_index(prepared: Prepared) -> pd.DataFrame:
    """Return index.csv with the columns of ARCHITECTURE.md: split, pid and camid int64, the others text."""
    kinds = {"split": "int64", "part": "str", "path": "str", "pid": "int64", "camid": "int64", "sha256": "str"}
    return pd.read_csv(prepared.index, dtype=kinds, keep_default_na=False, encoding="utf-8")


def _how(dataset: Dataset) -> str:
    """Return how to come by a set, ending in the command."""
    if dataset.status == "built-in":
        return f"run: reidgen prepare {dataset.name}"
    return f"{dataset.get + ', then ' if dataset.get else ''}run: reidgen prepare {dataset.name} --from DIR"


def _again(dataset: Dataset, root: Path) -> str:
    """Return the command that prepares a set again from the same images."""
    if dataset.status == "built-in":
        return f"reidgen prepare {dataset.name}"
    asked = dataset.pattern not in _AUTOMATIC and dataset.name not in load_catalogue()
    pattern = f" --pattern {shlex.quote(dataset.pattern)}" if asked else ""
    return f"reidgen prepare {dataset.name} --from {shlex.quote(str(root))}{pattern}"


def _choose(name: str, data: Path, source: Path | None, pattern: str | None) -> Dataset:
    """Return the catalogue's entry, or that of own crops: from the folder, or as it was prepared before."""
    known = load_catalogue()
    if name in known:
        if pattern is not None:
            raise DataError(f"{name} has its pattern in the catalogue; leave out --pattern, or choose another name")
        if source is not None and known[name].status == "built-in":
            raise DataError(f"{name} is drawn, not read from a folder; leave out --from, or choose another name")
        return known[name]
    if source is not None:
        check_name(name)
        before = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, DataError):
            before = _read_manifest(name, data)
        if before is None and (near := difflib.get_close_matches(name, known, n=1, cutoff=0.8)):
            raise DataError(
                f"unknown data set {name!r}; did you mean {near[0]!r}? Choose another name for your own crops"
            )
        if before and pattern is None and before.dataset.pattern not in _AUTOMATIC and before.root == source.resolve():
            pattern = before.dataset.pattern
        own = own_dataset(name, source, pattern)
        return parse(name, own.table(), where=f"--pattern for {name}")
    if (data / name / "manifest.json").is_file():
        return load_prepared(name, data).dataset
    raise DataError(f"{unknown('data set', name, known)}; {_OWN}")


def _complete(name: str, data: Path) -> Prepared | None:
    with contextlib.suppress(DataError):
        return load_prepared(name, data)
    return None


def _unchanged(before: Prepared, drawn: tuple[int, str]) -> bool:
    """Tell whether the image folder still holds what the index names, going by names; a drawn set also by `drawn`."""
    built_in = before.dataset.status == "built-in"
    if built_in and (before.seed, before.version) != drawn:
        return False
    try:
        rows = read(before.dataset, before.root).rows
    except DataError:
        if built_in:  # is drawn again
            return False
        raise
    return rows.to_csv(index=False) == load_index(before).drop(columns="sha256").to_csv(index=False)


def _draw(dataset: Dataset, folder: Path, seed: int, report: Progress | None) -> Path:
    """Draw a built-in set into <folder>/images, whole or not at all, and return that folder."""
    part, images = folder / "images.part", folder / "images"
    shutil.rmtree(part, ignore_errors=True)
    domain, done = dataset.name.removeprefix("synth-"), 0
    per_person = len(DOMAINS[domain].cameras) * IMAGES_PER_CAMERA
    total = sum(IDENTITIES) * per_person + IDENTITIES[1]  # each test person has a distractor

    def count(images: int) -> None:
        nonlocal done
        done += images
        if report:
            report(f"draw {dataset.name}", done, total)

    draw_domain(domain, part, seed=seed, identities=IDENTITIES, progress=count)
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(images, ignore_errors=True)
    part.rename(images)
    return images.resolve()


def _count(rows: pd.DataFrame, junk: int) -> dict[str, dict[str, int]]:
    """Return the manifest's counts, see Prepared."""
    first = rows[rows["split"] == 0]
    counts = {
        part: {"identities": one["pid"].nunique(), "images": len(one), "cameras": one["camid"].nunique()}
        for part in PARTS
        if len(one := first[first["part"] == part])
    }
    if "query" in counts:
        gallery, asked = first[first["part"] == "gallery"], first["pid"][first["part"] == "query"]
        counts["query"]["unmatched"] = int((~matched(first)).sum())
        counts["gallery"]["distractors"] = int((~gallery["pid"].isin(asked)).sum())
    counts["all"] = {"images": rows["path"].nunique(), "junk": junk, "splits": rows["split"].nunique()}
    return counts


def _compare(dataset: Dataset, counts: dict[str, dict[str, int]], root: Path) -> None:
    """Raise DataError when the set holds not what the catalogue says."""
    for part, (identities, images) in dataset.counts.items():
        found = counts.get(part, {"identities": 0, "images": 0})
        if (found["identities"], found["images"]) != (identities, images):
            raise DataError(
                f"{dataset.name}: {found['images']:,} {part} images of {found['identities']:,} people in {root}, expected "
                f"{images:,} of {identities:,} (datasets.toml); extract the archive again, then run: "
                f"reidgen prepare {dataset.name} --from {root}"
            )


def _check(path: str, *, root: Path) -> tuple[str, str]:
    """Return the file's digest, or what is wrong with it."""
    try:
        return decode(root / path)[1], ""
    except DataError as error:
        return "", str(error)


def _decode_all(dataset: Dataset, root: Path, paths: list[str], report: Progress | None) -> dict[str, str]:
    """Return path -> digest, every image decoded. Raises DataError naming the bad ones."""
    work = functools.partial(_check, root=root)
    results = [one for window in windows(work, paths, what=f"check {dataset.name}", report=report) for one in window]
    bad = [f"{path} ({reason})" for path, (_, reason) in zip(paths, results, strict=True) if reason]
    if bad:
        more = ", ..." if len(bad) > 3 else ""
        raise DataError(
            f"{dataset.name}: {len(bad):,} of {len(paths):,} images in {root} cannot be decoded: {', '.join(bad[:3])}{more}; "
            f"replace or remove them, then run: {_again(dataset, root)}"
        )
    return {path: digest for path, (digest, _) in zip(paths, results, strict=True)}
