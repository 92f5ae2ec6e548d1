"""Prepare a set once: read its names, decode every image, compare the counts, write index.csv and manifest.json."""

import contextlib
import functools
import hashlib
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from reidgen import __version__
from reidgen.catalogue import load_catalogue
from reidgen.data.archives import pieces, unpack
from reidgen.data.check import difference, stamp_files
from reidgen.data.crops import own_dataset
from reidgen.data.download import md5_file
from reidgen.data.images import decode, file_of, windows
from reidgen.data.judge import doubles, doubts, examples, remarks
from reidgen.data.lists import TABLES
from reidgen.data.manifest import (
    INDEX,
    OWN,
    Prepared,
    again,
    asked_pattern,
    load_prepared,
    read_manifest,
    write_manifest,
)
from reidgen.data.naming import shown
from reidgen.data.obtain import Say, is_file, obtain
from reidgen.data.partitions import matched
from reidgen.data.readers import Found, locate, read
from reidgen.entries import PARTS, Dataset, check_name
from reidgen.errors import DataError, unknown
from reidgen.files import writable, write_text
from reidgen.locks import locked
from reidgen.runs import Progress
from reidgen.synth.domains import IDENTITIES, counts_of, draw_domain


@dataclass(frozen=True)
class _Plan:
    """What is to be prepared. root: where its images lie, None for a built-in set, which is drawn; given: whether the
    user named the source, so that it is read anew."""

    dataset: Dataset
    root: Path | None
    given: bool


def prepare(
    name: str,
    *,
    data: Path,
    source: Path | None = None,
    pattern: str | None = None,
    seed: int = 0,
    accept_counts: bool = False,
    accept_duplicates: bool = False,
    say: Say = lambda line: None,
    report: Progress | None = None,
) -> Prepared:
    """Prepare the set `name` in data/<name>, from what `source` holds or, for a built-in set, from `seed`.

    source: a folder, an archive, or for own crops a list (.csv, .tsv, .txt); without it the set is looked for in `data`
    and downloaded if it is open, see `obtain`. A name that the catalogue does not know becomes a set of own crops, see
    `crops.own_dataset`; the manifest remembers how it was read. With `source` the work is always done; without it, a
    set that is complete, as asked for, and whose files did not change is returned at once, see `check`. Another process
    that prepares the same set is waited for. Counts that differ from the catalogue's, and a reading of own crops that
    cannot be right (`judge.doubts`), are an error, or with `accept_counts` are noted in the manifest; so is the same
    picture in two parts of own crops (`judge.doubles`) with `accept_duplicates`.

    Raises DataError when the source is missing or wrong, a name does not fit, data/<name> lies in the source, the
    counts differ, or an image cannot be decoded (named). A failed call never leaves a manifest for what it could not
    prove.
    """
    began = time.monotonic()
    plan = _plan(name, data, source, pattern, say, report)
    fixed = (
        not plan.given and _complete(name, data) is not None and not writable(data / name)
    )  # others', only to be whole
    with contextlib.nullcontext() if fixed else locked(data / name):
        if (before := _kept(plan, name, data, (seed, __version__), report)) is not None:
            return before
        root = plan.root or _draw(plan.dataset, data / name, seed, report)
        found = read(plan.dataset, root)
        own = found.dataset.status == "own"
        told = {"example": "\n".join(examples(found)), "remarks": remarks(found) if own else []}
        counts = _count(found.rows, found.junk)
        accepted = _compare(found.dataset, counts | {"all": _numbers(found.kept)}, root, accept_counts)
        if own:
            accepted = "; ".join(filter(None, [accepted, _judge(found, told, accept_counts, say)]))
        paths = found.kept["path"].tolist()
        stamp, size = stamp_files(root, paths)
        sha = _decode_all(found.dataset, root, paths, report)
        duplicates = _doubled(found, sha, told, accept_duplicates, say) if own else ""
        index = found.rows.assign(sha256=found.rows["path"].map(sha)).to_csv(index=False, lineterminator="\n")
        manifest = {
            "name": name,
            "root": "images" if found.dataset.status == "built-in" else str(root),
            "counts": counts,
            "digest": hashlib.sha256(index.encode()).hexdigest(),
            "version": __version__,
            "seed": seed,
            "example": told["example"],
            "seconds": round(time.monotonic() - began, 1),
            "stamp": stamp,
            "bytes": size,
            "outside": {path: sha[path] for path in sorted(set(paths) - set(found.rows["path"]))},
            "accepted": accepted,
            "duplicates": duplicates,
            "people": _names(found.kept, "pid", "person") if own else {},
            "cameras": _names(found.kept, "camid", "camera") if own else {},
            "remarks": told["remarks"],
            "entry": found.dataset.table(),  # in the form in which it is here
        }
        write_text(data / name / "index.csv", index)
        write_manifest(data / name, manifest)
    return load_prepared(name, data)


def _plan(name: str, data: Path, source: Path | None, pattern: str | None, say: Say, report: Progress | None) -> _Plan:
    """Return what is to be prepared and where it lies; nothing is written but what is downloaded and unpacked."""
    source = _opened(name, data, source, report)
    dataset = _choose(name, data, source, pattern)
    if dataset.status == "built-in":
        return _Plan(dataset, None, False)
    before = None if source else _complete(name, data)
    if before is not None:
        root = locate(dataset, before.root)
    elif name in load_catalogue():
        root = obtain(dataset, data=data, source=source, say=say, report=report)
    else:
        assert source is not None
        root = locate(dataset, source)
    if source is not None:
        listed = source.is_file() and source.suffix.lower() in TABLES
        _refuse_inside(name, data / name, source if listed else root)
    _refuse_foreign(name, data / name)
    return _Plan(dataset, root, source is not None)


def _refuse_inside(name: str, folder: Path, root: Path) -> None:
    """Raise DataError when the prepared set would be written into the folder that the user gave, or beside a list.

    root: that folder, or the list: its images may lie anywhere, and only where it lies itself is nothing written.
    """
    inside, given = folder.resolve(), root.resolve()
    if given.is_relative_to(inside) if root.is_file() else inside.is_relative_to(given):
        raise DataError(
            f"{name}: {folder} lies in {root}, which --from names and where nothing is written; choose another name, "
            "or another --data"
        )


def _refuse_foreign(name: str, folder: Path) -> None:
    """Raise DataError when there is an index.csv in the set's folder that reidgen did not write."""
    try:
        with (folder / "index.csv").open(encoding="utf-8", errors="replace") as file:
            head = file.readline().strip()
    except OSError:
        return
    if head and head != ",".join(INDEX):
        raise DataError(
            f"{name}: {folder / 'index.csv'} is not of reidgen and would be overwritten; move it, choose another name, "
            "or another --data"
        )


def _kept(plan: _Plan, name: str, data: Path, drawn: tuple[int, str], report: Progress | None) -> Prepared | None:
    """Return the set as it was prepared before, if that is what is asked for and its files did not change."""
    before = None if plan.given else _complete(name, data)
    if before is None or _rules(before.dataset) not in map(_rules, plan.dataset.variants()):
        return None
    return replace(before, already=True) if _unchanged(before, drawn, report) else None


def _judge(found: Found, told: dict[str, Any], accept: bool, say: Say) -> str:
    """Return why the reading of own crops is not plausible, "" where it is; a DataError unless `accept`."""
    if not (against := doubts(found)):
        return ""
    if accept:
        return "; ".join(against)
    _tell(found, told, say)
    raise DataError(
        f"{found.dataset.name}: this cannot be right: {'; '.join(against)}; say how to read the names with --pattern, "
        "or add --accept-counts if it is right"
    )


def _doubled(found: Found, sha: dict[str, str], told: dict[str, Any], accept: bool, say: Say) -> str:
    """Return which pictures stand in two parts, "" where none does; a DataError unless `accept`. Adds
    to what is told.
    """
    said, refused = doubles(found, sha)
    told["remarks"] += said
    if refused and not accept:
        _tell(found, told, say)
        raise DataError(
            f"{found.dataset.name}: {'; '.join(refused)}; remove them from one part, or add --accept-duplicates"
        )
    return "; ".join(refused)


def _tell(found: Found, told: dict[str, Any], say: Say) -> None:
    """Say how the names were read, before the set is refused."""
    for line in [*told["example"].splitlines(), *told["remarks"]]:
        say(f"{found.dataset.name}: {line}")


def _names(kept: pd.DataFrame, number: str, name: str) -> dict[str, str]:
    """Return number (as text) -> name, of those that are called otherwise."""
    first = kept.sort_values(name).drop_duplicates(number).sort_values(number)
    pairs = zip(first[number], first[name], strict=True)
    return {str(one): text for one, text in pairs if str(one) != text}


def _opened(name: str, data: Path, source: Path | None, report: Progress | None) -> Path | None:
    """Return `source`, unpacked if it is an archive of own crops; those of the catalogue's sets are
    left to `obtain`.
    """
    if source is None or source.suffix.lower() in TABLES or name in load_catalogue() or not is_file(name, source):
        return source
    check_name(name)
    return unpack({file: md5_file(file) for file in pieces(source)}, data, report)


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
            before = read_manifest(name, data)
        if before and pattern is None and asked_pattern(before.dataset) and before.root == source.resolve():
            pattern = before.dataset.pattern
        return own_dataset(name, source, pattern)
    if pattern is not None:
        raise DataError(
            f"--pattern for {name} needs the folder too: reidgen prepare {name} --from DIR --pattern PATTERN"
        )
    if (data / name / "manifest.json").is_file():
        return load_prepared(name, data).dataset
    raise DataError(f"{unknown('data set', name, known)}; {OWN}")


def _complete(name: str, data: Path) -> Prepared | None:
    with contextlib.suppress(DataError):
        return load_prepared(name, data)
    return None


def _rules(dataset: Dataset) -> Dataset:
    """Return the entry without what is only words, addresses or alternatives: what decides how its images are read."""
    return replace(
        dataset, title="", paper="", homepage="", licence="", status="", get="", archives=(), known_as=(), forms=()
    )


def _unchanged(before: Prepared, drawn: tuple[int, str], report: Progress | None) -> bool:
    """Tell whether the image folder still holds what the index names; a drawn set also depends on `drawn`."""
    built_in = before.dataset.status == "built-in"
    if built_in and (before.seed, before.version) != drawn:
        return False
    try:
        return not difference(before, report=report)
    except DataError:
        if built_in:  # is drawn again
            return False
        raise


def _draw(dataset: Dataset, folder: Path, seed: int, report: Progress | None) -> Path:
    """Draw a built-in set into <folder>/images, whole or not at all, and return that folder."""
    part, images = folder / "images.part", folder / "images"
    shutil.rmtree(part, ignore_errors=True)
    domain, done = dataset.name.removeprefix("synth-"), 0
    total = sum(images for _, images, _ in counts_of(domain, IDENTITIES).values())

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
    counts = {part: _numbers(one) for part in PARTS if len(one := first[first["part"] == part])}
    if "query" in counts:
        gallery, asked = first[first["part"] == "gallery"], first["pid"][first["part"] == "query"]
        counts["query"]["unmatched"] = int((~matched(first)).sum())
        counts["gallery"]["distractors"] = int((~gallery["pid"].isin(asked)).sum())
    counts["all"] = {"images": rows["path"].nunique(), "junk": junk, "splits": rows["split"].nunique()}
    return counts


def _numbers(rows: pd.DataFrame) -> dict[str, int]:
    return {"identities": rows["pid"].nunique(), "images": len(rows), "cameras": rows["camid"].nunique()}


def _compare(dataset: Dataset, counts: dict[str, dict[str, int]], root: Path, accept: bool) -> str:
    """Return how the set differs from what the catalogue says, "" where it does not; a DataError unless `accept`."""
    wrong = []
    for part, expected in dataset.counts.items():
        found = [counts.get(part, {}).get(key, 0) for key in ("identities", "images", "cameras")[: len(expected)]]
        if found != list(expected):
            wrong.append(f"{_counted(part, found)} (expected {_counted('', expected)})")
    if wrong and not accept:
        raise DataError(
            f"{dataset.name}: {root} is not the whole set or another version of it: {'; '.join(wrong)}; get it "
            f"again, then run: reidgen prepare {dataset.name} --from {shlex.quote(str(root))} (or add --accept-counts)"
        )
    return "; ".join(wrong)


def _counted(part: str, numbers: Sequence[int]) -> str:
    """Return numbers of identities, images and cameras in words."""
    words = (("person", "people"), ("image", "images"), ("camera", "cameras"))
    texts = [f"{number:,} {word[number != 1]}" for number, word in zip(numbers, words, strict=False)]
    if part == "all":
        return f"{', '.join(texts)} in all"
    return ", ".join(texts).replace(" ", f" {part} ", 1) if part else ", ".join(texts)


def _decoded(path: str, *, root: Path) -> tuple[str, str]:
    """Return the file's digest, or what is wrong with it."""
    try:
        return decode(file_of(root, path))[1], ""
    except DataError as error:
        return "", str(error)


def _decode_all(dataset: Dataset, root: Path, paths: list[str], report: Progress | None) -> dict[str, str]:
    """Return path -> digest, every image decoded. Raises DataError naming the bad ones."""
    work = functools.partial(_decoded, root=root)
    results = [one for window in windows(work, paths, what=f"check {dataset.name}", report=report) for one in window]
    bad = [f"{shown(path)} ({reason})" for path, (_, reason) in zip(paths, results, strict=True) if reason]
    if bad:
        more = ", ..." if len(bad) > 3 else ""
        raise DataError(
            f"{dataset.name}: {len(bad):,} of {len(paths):,} images in {root} cannot be decoded: "
            f"{', '.join(bad[:3])}{more};"
            f" replace or remove them, then run: {again(dataset, root)}"
        )
    return {path: digest for path, (digest, _) in zip(paths, results, strict=True)}
