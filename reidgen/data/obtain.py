"""Finding what the user has of a data set, as a folder or as published archives; downloading what is open."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reidgen.data.archives import pieces, unpack
from reidgen.data.download import download, md5_file
from reidgen.data.lists import TABLES
from reidgen.data.readers import MARKER, SUFFIXES, locate
from reidgen.entries import Archive, Dataset
from reidgen.errors import BrokenArchiveError, DataError
from reidgen.locks import locked
from reidgen.runs import Progress

Say = Callable[[str], None]
DEPTH = 2  # folders below --from or --data in which a set is looked for


@dataclass(frozen=True)
class _Plan:
    """Where a set is looked for. folders: places below which a folder may be called as the set is; root: a folder that
    may be the set, whatever it is called; given: an archive of it; archives: places in or below which its archives may
    lie; fetch: whether the set itself may be downloaded."""

    folders: tuple[Path, ...] = ()
    root: Path | None = None
    given: Path | None = None
    archives: tuple[Path, ...] = ()
    fetch: bool = True


def obtain(dataset: Dataset, *, data: Path, source: Path | None, say: Say, report: Progress | None = None) -> Path:
    """Return the folder that holds the set's images, unpacked or downloaded where that was necessary.

    source: the set's folder, or one above it; an archive of it, or a folder with its archives; or its list. Without it,
    `data` is searched in the same way, and then an open set is downloaded to <data>/archives. A folder is used where it
    lies; archives are unpacked below <data>/unpacked, see `archives.unpack`. What others publish freely for a set that
    is given on request, such as CUHK03's new protocol, is downloaded for who has the set itself.

    Raises DataError when nothing fits, saying how to get the set (sets that are given on request, or were withdrawn,
    are never downloaded), and what `unpack` and `download` raise. A downloaded archive that proves broken is removed.
    """
    if source is not None and source.suffix.lower() in TABLES:
        return locate(dataset, source)
    plan = _plan(dataset, source, data)
    if found := _folder(dataset, plan.folders) or (plan.root and _located(dataset, plan.root)):
        if source is None:
            say(f"{dataset.name}: found in {found}")
        return found
    if files := _archives(dataset, plan, data, say, report):
        return _unpacked(dataset, files, data, say, report)
    if plan.root:
        return locate(dataset, plan.root)  # which says what it lacks
    raise DataError(how_to_get(dataset))


def _plan(dataset: Dataset, source: Path | None, data: Path) -> _Plan:
    if source is None:
        places = (data, data / "archives", data / "unpacked")
        return _Plan(folders=places, archives=places)
    if is_file(dataset.name, source):
        return _Plan(given=source, archives=(source.parent, data, data / "archives"))
    return _Plan(folders=(source,), root=source, archives=(source,), fetch=False)


def is_file(name: str, source: Path) -> bool:
    """Tell whether `source` is a file. Raises DataError when it may not even be asked for."""
    try:
        return source.is_file()
    except OSError as error:
        raise DataError(f"{name}: cannot read {source}: {error.strerror}") from error


def how_to_get(dataset: Dataset) -> str:
    """Return what to do for a set that is neither here nor to be downloaded: a sentence, or for one that is given on
    request or was withdrawn, three lines."""
    name, command = dataset.name, f"reidgen prepare {dataset.name} --from ARCHIVE_OR_FOLDER"
    get = " ".join(dataset.get.split()).rstrip(".")
    there = f" ({dataset.homepage})" if dataset.homepage else ""
    terms = f"; its terms: {dataset.licence}" if dataset.licence else ""
    if dataset.status == "request":
        return (
            f"{name} is given on request only, so reidgen does not download it\n{get}{there}{terms}\n"
            f"then run: {command}"
        )
    if dataset.status == "withdrawn":
        return (
            f"{name} was withdrawn and must not be passed on, so reidgen never downloads it\n{get}{there}\n"
            f"if you hold a copy and may use it, run: {command}"
        )
    return f"{name} needs its images: {get + there + ', then ' if get else ''}run: {command}"


def _folder(dataset: Dataset, places: Sequence[Path]) -> Path | None:
    """Return the first folder below `places` that is called as the set is and holds its folders and an image."""
    names = {name.casefold() for name in (dataset.name, *dataset.known_as)}
    names |= {re.sub(r"\.(zip|tar|tgz).*", "", archive.file.casefold()) for archive in dataset.archives[:1]}
    for place in places:
        for folder in _below(place):
            name = folder.name.casefold()
            if (folder / MARKER).is_file():
                name = re.sub(r"-[0-9a-f]{8}$", "", name)
            if name in names and (found := _located(dataset, folder)):
                return found
    return None


def _located(dataset: Dataset, folder: Path) -> Path | None:
    try:
        root = locate(dataset, folder)
    except DataError:
        return None
    folders = {root / one for some in dataset.folders.values() for options in some for one in options.split("|")}
    for place in (root, *(one.resolve() for one in sorted(folders))):  # whose folders may be links
        if any(path.suffix.lower() in SUFFIXES for path in place.rglob("*")):
            return root
    return None


def _chain(folder: Path) -> list[Path]:
    """Return the folder, the only folder in it, the only one in that, and so on."""
    inside = [one for one in folder.iterdir() if one.name != MARKER]
    return [folder, *(_chain(inside[0]) if len(inside) == 1 and inside[0].is_dir() else [])]


def _below(place: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield the folders below `place` that may be read, sorted, the nearer ones first; hidden ones are left out."""
    try:
        with os.scandir(place) as entries:
            folders = sorted(Path(one) for one in entries if one.is_dir() and not one.name.startswith("."))
    except OSError:
        return
    folders = [one for one in folders if os.access(one, os.R_OK | os.X_OK)]
    yield from folders
    if depth > 1:
        for folder in folders:
            yield from _below(folder, depth - 1)


def _archives(dataset: Dataset, plan: _Plan, data: Path, say: Say, report: Progress | None) -> dict[Path, str]:
    """Return the set's archives that are here or are downloaded -> their MD5, the set itself first; none without it."""
    wanted, meant = dataset.archives, None
    if plan.given:
        by_name = {name.casefold(): one for one in wanted for name in (one.file, one.inside) if name}
        # One that is called otherwise was packed by someone else: it stands for the set itself.
        wanted = wanted or (Archive(file=plan.given.name),)
        meant = by_name.get(plan.given.name.casefold(), wanted[0])
    files: dict[Path, str] = {}
    for archive in wanted:
        if plan.given and archive is meant:
            found = pieces(plan.given)
        else:
            # What is published beside the set itself may lie one folder above it.
            near = [*plan.archives, *(place.parent for place in plan.archives)] if files else plan.archives
            found = _files(archive, near)
        if not found and archive.urls and (plan.fetch or files) and _may_download(dataset, bool(files)):
            found = [_downloaded(dataset, archive, data / "archives", say, report)]
        if not found and not files:
            return {}
        files |= {file: _verified(dataset, archive, file, data) for file in found}
    return files


def _may_download(dataset: Dataset, is_companion: bool) -> bool:
    """Tell whether an archive may be downloaded: of an open set, or what others publish for who has the set itself."""
    return dataset.status == "open" or (dataset.status == "request" and is_companion)


def _unpacked(dataset: Dataset, files: dict[Path, str], data: Path, say: Say, report: Progress | None) -> Path:
    """Return the set's folder in what is unpacked of its archives."""
    say(f"{dataset.name}: unpacking {', '.join(str(file) for file in files)}")
    try:
        folder = unpack(files, data, report)
    except BrokenArchiveError:
        _remove_downloaded(dataset, list(files), data)
        raise
    for inside in (*reversed(_chain(folder)), *_below(folder)):
        if found := _located(dataset, inside):
            return found
    return locate(dataset, folder)  # which says what it lacks


def _downloaded(dataset: Dataset, archive: Archive, folder: Path, say: Say, report: Progress | None) -> Path:
    with locked(folder):
        try:
            there = _files(archive, [folder])
            return there[0] if there else download(archive, folder, say=say, report=report)
        except DataError as error:
            by_hand = (
                f"get it with a browser ({dataset.homepage}), then run: reidgen prepare {dataset.name} --from FILE"
            )
            raise DataError(f"{dataset.name}: {error}; run the same command again, or {by_hand}") from error


def _files(archive: Archive, places: Sequence[Path]) -> list[Path]:
    """Return the archive, or the file in it that stands for it, in `places` or the folders below them, by its name: the
    first one, or none."""
    names = {name.casefold() for name in (archive.file, archive.inside) if name}
    for place in places:
        for folder in (place, *_below(place)):
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for one in entries:
                    if one.name.casefold() in names and one.is_file():
                        return [Path(one)]
    return []


def _verified(dataset: Dataset, archive: Archive, file: Path, data: Path) -> str:
    """Return the file's MD5. Raises DataError when it bears the published name, but is another file."""
    found = md5_file(file)
    if archive.md5 and found != archive.md5 and file.name.casefold() == archive.file.casefold():
        if _remove_downloaded(dataset, [file], data):
            cure = "it was removed, run the same command again"
        elif archive != dataset.archives[0]:  # what is published beside the set itself
            cure = f"get it again{f', from {archive.urls[0]}' if archive.urls else ''}"
        else:
            cure = "get it again, or, if someone packed it anew, rename it and give it with --from"
        raise DataError(f"{dataset.name}: {file} has the MD5 {found}, published is {archive.md5}; {cure}")
    return found


def _remove_downloaded(dataset: Dataset, files: list[Path], data: Path) -> bool:
    """Remove those of the files that can be downloaded again; tell whether there were any."""
    if dataset.status != "open":
        return False
    again = {archive.file for archive in dataset.archives if archive.urls}
    gone = [file for file in files if file.parent == data / "archives" and file.name in again]
    for file in gone:
        file.unlink(missing_ok=True)
    return bool(gone)
