"""Finding what the user has of a data set, as a folder or as published archives; downloading what is open."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from reidgen.data.archives import MARKER, unpack
from reidgen.data.download import download, md5_file
from reidgen.data.readers import SUFFIXES, locate
from reidgen.entries import Archive, Dataset
from reidgen.errors import BrokenArchiveError, DataError
from reidgen.locks import locked
from reidgen.runs import Progress

Say = Callable[[str], None]
DEPTH = 2  # folders below --from or --data in which a set is looked for


def obtain(dataset: Dataset, *, data: Path, source: Path | None, say: Say, report: Progress | None = None) -> Path:
    """Return the folder that holds the set's images, unpacked or downloaded where that was necessary.

    source: the set's folder, or one above it; an archive of it, or a folder with its archives; or its CSV. Without it,
    `data` is searched in the same way, and then an open set is downloaded to <data>/archives. A folder is used where it
    lies; archives are unpacked below <data>/unpacked, see `archives.unpack`. What others publish freely for a set that
    is given on request, such as CUHK03's new protocol, is downloaded for who has the set itself.

    Raises DataError when nothing fits, saying how to get the set (sets that are given on request, or were withdrawn, are
    never downloaded), and what `unpack` and `download` raise. A downloaded archive that proves broken is removed.
    """
    if source is not None and source.suffix.lower() == ".csv":
        return locate(dataset, source)
    if source is not None and source.is_file():
        places = [source.parent, data, data / "archives"]
    elif source is not None:
        return (
            _folder(dataset, [source])
            or _located(dataset, source)
            or _unpacked(dataset, None, [source], data, say, report, fetch=False)
            or locate(dataset, source)
        )
    else:
        places = [data, data / "archives", data / "unpacked"]
        if found := _folder(dataset, places):
            say(f"{dataset.name}: found in {found}")
            return found
    if found := _unpacked(dataset, source, places, data, say, report):
        return found
    raise DataError(how_to_get(dataset))


def how_to_get(dataset: Dataset) -> str:
    """Return what to do for a set that is neither here nor to be downloaded: a sentence, or for one that is given on
    request or was withdrawn, three lines."""
    name, command = dataset.name, f"reidgen prepare {dataset.name} --from ARCHIVE_OR_FOLDER"
    get = " ".join(dataset.get.split()).rstrip(".")
    there = f" ({dataset.homepage})" if dataset.homepage else ""
    terms = f"; its terms: {dataset.licence}" if dataset.licence else ""
    if dataset.status == "request":
        return f"{name} is given on request only, so reidgen does not download it\n{get}{there}{terms}\nthen run: {command}"
    if dataset.status == "withdrawn":
        return (
            f"{name} was withdrawn and must not be passed on, so reidgen never downloads it\n{get}{there}\n"
            f"if you hold a copy and may use it, run: {command}"
        )
    return f"{name} needs its images: {get + there + ', then ' if get else ''}run: {command}"


def _folder(dataset: Dataset, places: list[Path]) -> Path | None:
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
    return root if any(path.suffix.lower() in SUFFIXES for path in root.rglob("*")) else None


def _chain(folder: Path) -> list[Path]:
    """Return the folder, the only folder in it, the only one in that, and so on."""
    inside = [one for one in folder.iterdir() if one.name != MARKER]
    return [folder, *(_chain(inside[0]) if len(inside) == 1 and inside[0].is_dir() else [])]


def _below(place: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield the folders below `place`, sorted, the nearer ones first; hidden ones are left out."""
    try:
        with os.scandir(place) as entries:
            folders = sorted(Path(one) for one in entries if one.is_dir() and not one.name.startswith("."))
    except OSError:
        return
    yield from folders
    if depth > 1:
        for folder in folders:
            yield from _below(folder, depth - 1)


def _unpacked(
    dataset: Dataset,
    given: Path | None,
    places: list[Path],
    data: Path,
    say: Say,
    report: Progress | None,
    *,
    fetch: bool = True,
) -> Path | None:
    """Return the set's folder in what is unpacked of its archives: the `given` file, those in `places`, and those that
    can be downloaded; None when the first, which is the set itself, is not to be had."""
    by_name = {name.casefold(): one for one in dataset.archives for name in (one.file, one.inside) if name}
    meant = by_name.get(given.name.casefold()) if given else None
    if given and meant is None:  # packed by someone else: it stands for the set itself
        meant = dataset.archives[0] if dataset.archives else Archive(file=given.name)
    files: dict[Path, str] = {}
    for archive in dataset.archives or (() if meant is None else (meant,)):
        # What is published beside the set itself may lie one folder above it.
        near = [*places, *(place.parent for place in places)] if files else places
        file = given if archive is meant else _file(archive, near)
        free = dataset.status == "open" or (dataset.status == "request" and files)
        if file is None and free and archive.urls and (fetch or files):
            file = _downloaded(dataset, archive, data / "archives", say, report)
        if file is not None:
            files[file] = _verified(dataset, archive, file, data)
        elif not files:
            return None
    if not files:
        return None
    say(f"{dataset.name}: unpacking {', '.join(str(file) for file in files)}")
    try:
        folder = unpack(files, data, report)
    except BrokenArchiveError:
        _remove_downloaded(dataset, list(files), data)
        raise
    inside = [*reversed(_chain(folder)), *_below(folder)]
    return next(filter(None, (_located(dataset, one) for one in inside)), None) or locate(dataset, folder)


def _downloaded(dataset: Dataset, archive: Archive, folder: Path, say: Say, report: Progress | None) -> Path:
    with locked(folder):
        try:
            return _file(archive, [folder]) or download(archive, folder, say=say, report=report)
        except DataError as error:
            by_hand = (
                f"get it with a browser ({dataset.homepage}), then run: reidgen prepare {dataset.name} --from FILE"
            )
            raise DataError(f"{dataset.name}: {error}; run the same command again, or {by_hand}") from error


def _file(archive: Archive, places: list[Path]) -> Path | None:
    """Return the archive, or the file in it that stands for it, in `places` or the folders below them, by its name."""
    names = {name.casefold() for name in (archive.file, archive.inside) if name}
    for place in places:
        for folder in (place, *_below(place)):
            try:
                with os.scandir(folder) as entries:
                    for one in entries:
                        if one.name.casefold() in names and one.is_file():
                            return Path(one)
            except OSError:
                continue
    return None


def _verified(dataset: Dataset, archive: Archive, file: Path, data: Path) -> str:
    """Return the file's MD5. Raises DataError when it bears the published name, but is another file."""
    try:
        found = md5_file(file)
    except OSError as error:
        raise DataError(f"{dataset.name}: cannot read {file}: {error.strerror}") from error
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
