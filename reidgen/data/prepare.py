"""Prepare a set once: read its names, decode every image, compare the counts, write index.csv and manifest.json."""

import contextlib
import functools
import hashlib
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from reidgen import __version__
from reidgen.catalogue import load_catalogue
from reidgen.data.archives import pieces, unpack
from reidgen.data.check import difference, stamp_files
from reidgen.data.download import md5_file
from reidgen.data.images import decode, windows
from reidgen.data.lists import TABLES
from reidgen.data.manifest import OWN, Prepared, again, asked_pattern, load_prepared, read_manifest, write_manifest
from reidgen.data.obtain import Say, is_file, obtain
from reidgen.data.partitions import matched
from reidgen.data.readers import locate, own_dataset, read
from reidgen.entries import PARTS, Dataset, check_name, parse
from reidgen.errors import DataError, unknown
from reidgen.files import writable, write_text
from reidgen.locks import locked
from reidgen.runs import Progress
from reidgen.synth.domains import DOMAINS, IDENTITIES, IMAGES_PER_CAMERA, draw_domain


def prepare(
    name: str,
    *,
    data: Path,
    source: Path | None = None,
    pattern: str | None = None,
    seed: int = 0,
    accept_counts: bool = False,
    say: Say = lambda line: None,
    report: Progress | None = None,
) -> Prepared:
    """Prepare the set `name` in data/<name>, from what `source` holds or, for a built-in set, from `seed`.

    source: a folder, an archive, or for own crops a CSV; without it the set is looked for in `data` and downloaded if
    it is open, see `obtain`. A name that the catalogue does not know becomes a set of own crops, see
    `readers.own_dataset`; the manifest remembers how it was read. With `source` the work is always done; without it, a
    set that is complete, as asked for, and whose files did not change is returned at once, see `check`. Another process
    that prepares the same set is waited for. Counts that differ from the catalogue's are an error, or with
    `accept_counts` are noted in the manifest.

    Raises DataError when the source is missing or wrong, a name does not fit, the counts differ, or an image cannot be
    decoded (named). A failed call never leaves a manifest for what it could not prove.
    """
    began = time.monotonic()
    source = _opened(name, data, source, report)
    dataset = _choose(name, data, source, pattern)
    before = None if source else _complete(name, data)
    built_in = dataset.status == "built-in"
    root: Path | None = None
    if before is not None and not built_in:
        root = locate(dataset, before.root)
    elif not built_in and name in load_catalogue():
        root = obtain(dataset, data=data, source=source, say=say, report=report)
    elif not built_in:
        assert source is not None
        root = locate(dataset, source)
    fixed = before is not None and not writable(data / name)  # others' set, which only has to be whole
    with contextlib.nullcontext() if fixed else locked(data / name):
        before = None if source else _complete(name, data)
        if (
            before
            and _rules(before.dataset) in map(_rules, dataset.variants())
            and _unchanged(before, (seed, __version__), report)
        ):
            return replace(before, already=True)
        root = root or _draw(dataset, data / name, seed, report)
        found = read(dataset, root)
        dataset = found.dataset  # in the form in which it is here
        counts = _count(found.rows, found.junk)
        accepted = _compare(dataset, counts | {"all": _numbers(found.kept)}, root, accept_counts)
        paths = found.kept["path"].tolist()
        first_stamp, size = stamp_files(root, paths)
        sha = _decode_all(dataset, root, paths, report)
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
            "stamp": first_stamp,
            "bytes": size,
            "outside": {path: sha[path] for path in sorted(set(paths) - set(found.rows["path"]))},
            "accepted": accepted,
            "entry": dataset.table(),
        }
        write_text(data / name / "index.csv", index)
        write_manifest(data / name, manifest)
    return load_prepared(name, data)


def _opened(name: str, data: Path, source: Path | None, report: Progress | None) -> Path | None:
    """Return `source`, unpacked if it is an archive of own crops; those of the catalogue's sets are left to `obtain`."""
    if source is None or source.suffix.lower() in TABLES or name in load_catalogue() or not is_file(name, source):
        return source
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
        own = own_dataset(name, source, pattern)
        return parse(name, own.table(), where=f"--pattern for {name}")
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
        return decode(root / path)[1], ""
    except DataError as error:
        return "", str(error)


def _decode_all(dataset: Dataset, root: Path, paths: list[str], report: Progress | None) -> dict[str, str]:
    """Return path -> digest, every image decoded. Raises DataError naming the bad ones."""
    work = functools.partial(_decoded, root=root)
    results = [one for window in windows(work, paths, what=f"check {dataset.name}", report=report) for one in window]
    bad = [f"{path} ({reason})" for path, (_, reason) in zip(paths, results, strict=True) if reason]
    if bad:
        more = ", ..." if len(bad) > 3 else ""
        raise DataError(
            f"{dataset.name}: {len(bad):,} of {len(paths):,} images in {root} cannot be decoded: {', '.join(bad[:3])}{more}; "
            f"replace or remove them, then run: {again(dataset, root)}"
        )
    return {path: digest for path, (digest, _) in zip(paths, results, strict=True)}
