"""Proving a prepared set again: its files are those that were decoded once."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from reidgen.data.images import file_of, windows
from reidgen.data.manifest import Prepared, load_index, load_prepared, prepared_names, write_manifest
from reidgen.data.naming import shown
from reidgen.data.pack import check_packs
from reidgen.data.readers import read
from reidgen.errors import DataError
from reidgen.escapes import many
from reidgen.files import read_regular, writable
from reidgen.locks import locked
from reidgen.runs import Progress


def check(name: str, data: Path, *, deep: bool = False, report: Progress | None = None) -> Prepared:
    """Return the prepared set `name` after proving that its folder holds the very files that were decoded: those that
    its index names, and those outside its splits.

    Names, sizes and times of change are compared, and where these differ, or with `deep`, the content of all files.
    With `deep` its pixel caches are read too. Raises DataError when the set is not prepared, or saying how its files
    differ, or which pixel cache is damaged (and removed).
    """
    prepared = load_prepared(name, data)
    with locked(prepared.folder) if writable(prepared.folder) else contextlib.nullcontext():
        if what := difference(prepared, deep=deep, report=report):
            raise DataError(f"{name}: {what} since it was prepared; restore the images, or run: {prepared.again}")
        if deep:
            try:
                check_packs(prepared)
            except DataError as error:
                raise DataError(f"{name}: {error}") from error
    return prepared


def check_all(names: list[str], data: Path, *, deep: bool, say: Callable[[str], None], report: Progress) -> None:
    """Check the sets, or all that are prepared where none is named; `say` gets a line on each.

    Raises DataError, after all were checked, when one is not whole, and when nothing is prepared.
    """
    names = names or prepared_names(data)
    if not names:
        raise DataError(f"nothing is prepared in {data}; run: reidgen prepare --list")
    broken = []
    for name in names:
        try:
            prepared = check(name, data, deep=deep, report=report)
            how = "by content" if deep else "by names, sizes and times"
            images = prepared.counts["all"]["images"] + len(prepared.outside)
            say(f"{name}: whole, {images:,} images compared {how}")
        except DataError as error:
            broken.append(name)
            say(str(error))
    if broken:
        raise DataError(f"{len(broken)} of {len(names)} sets are not whole: {', '.join(broken)}")


def difference(prepared: Prepared, *, deep: bool = False, report: Progress | None = None) -> str:
    """Return how the image folder differs from the index, "" where it does not; the manifest's stamp is brought up to
    date, where the set's folder can be written.

    Raises DataError when the folder cannot be read.
    """
    here, index = read(prepared.dataset, prepared.root), load_index(prepared)
    known = dict(zip(index["path"], index["sha256"], strict=True)) | prepared.outside
    paths = here.kept["path"].tolist()
    for odd, what in ((set(known) - set(paths), "vanished"), (set(paths) - set(known), "came")):
        if odd:
            return f"{many(len(odd), 'image')} {what}, such as {shown(min(odd))},"
    if here.rows.to_csv(index=False) != index.drop(columns="sha256").to_csv(index=False):
        return "its lists or splits have changed"
    found, _ = stamp_files(prepared.root, paths)
    if found == prepared.stamp and not deep:
        return ""
    work = functools.partial(_sha256, root=prepared.root)
    hashed = (one for window in windows(work, paths, what=f"check {prepared.name}", report=report) for one in window)
    changed = [path for path, new in zip(paths, hashed, strict=True) if known[path] != new]
    if changed:
        return f"{many(len(changed), 'image')} of {len(paths):,} changed, such as {shown(changed[0])},"
    if found != prepared.stamp and writable(prepared.folder):
        manifest = json.loads((prepared.folder / "manifest.json").read_text(encoding="utf-8"))
        write_manifest(prepared.folder, manifest | {"stamp": found})
    return ""


def stamp_files(root: Path, paths: Iterable[str]) -> tuple[str, int]:
    """Return a digest of the files' paths, sizes and times of change, and the sum of their sizes in bytes.

    Equal stamps: no file was written since, as far as the file system tells. A file that is not there counts as such.
    """
    digest, total, base = hashlib.sha256(), 0, str(root)
    for path in paths:
        try:
            # a text takes a third of the time of a Path
            facts = os.stat(file_of(root, path) if "\\x" in path else f"{base}/{path}")  # noqa: PTH116
        except OSError:
            digest.update(f"{path}\0gone\n".encode())
            continue
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
        total += facts.st_size
    return digest.hexdigest(), total


def _sha256(path: str, *, root: Path) -> str:
    """Return the first 16 digits of the file's SHA-256, as the index has them, or "" when it cannot be read."""
    try:
        return hashlib.sha256(read_regular(file_of(root, path))).hexdigest()[:16]
    except OSError:
        return ""
