"""People's own crops: which folders are the parts, and how person and camera are read from their names, or refused.

A guess that is wrong gives a number that is wrong, and nobody sees it. So a camera is read only where a name says that
it is one, a person never from the name of a part or a camera, and where two readings differ none is taken.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from reidgen.data.lists import TABLES, common_root, read_table
from reidgen.data.naming import number_of, same, shown
from reidgen.data.offers import question
from reidgen.data.readers import KINDS_IN_WORDS, check_folder, image_files, is_below
from reidgen.data.readings import (
    READINGS,
    Names,
    Reading,
    cameras_in,
    difference,
    holds_nobody,
    part_of,
    read_names,
    varies,
)
from reidgen.entries import Dataset, parse
from reidgen.errors import DataError


def own_dataset(name: str, root: Path, pattern: str | None = None) -> Dataset:
    """Return an entry for a folder of own crops that the catalogue does not know, or for a list that names them.

    A folder's parts are the folders called as in PART_NAMES, at any depth and in any case; what lies beside them is
    left out. `test`, or `val` where there is no other, is divided by `readers.read`. A folder without any part is all
    test. To train on own crops, put them into a sub-folder train. Without `pattern`, names are read by the one of
    READINGS that fits all of them, see `_choose`. A list (.csv, .tsv, .txt) says it all itself, see `lists.read_table`.
    Person -1 is junk, as in Market-1501; person 0 are distractors, unless somebody asks for it or trains on it. What
    lies in a folder called `unknown` or the like (readings.NOBODY) is of nobody: gallery, whatever its names say.

    Raises DataError when the folder is missing or empty, its parts are not clear, or the names can be read in no way or
    in several: it then offers patterns, each with what it would read.
    """
    if root.is_file() and root.suffix.lower() in TABLES:
        return _own_table(name, root, pattern)
    check_folder(name, root)
    images = image_files(root, ".").images
    if not images:
        raise DataError(f"{name}: no images in {root} ({KINDS_IN_WORDS}); give the folder that holds your crops")
    parts = _find_parts(name, root, images)
    nobody = (".",) if not parts and holds_nobody(root.name) else _find_nobody(images)
    folders = _with_nobody(parts, nobody, images)
    if set(folders) - {"train"} != {"gallery"} or not _are_nobody(folders["gallery"], nobody, images):
        _both(name, root, folders, "the folders")
    named = [path for path in images if not is_below(path, nobody)]
    inside = {part: [path for path in named if is_below(path, some)] for part, some in folders.items()}
    if any(inside.values()):
        pattern = pattern or _choose(name, root, inside)
    entry = {"pattern": pattern or READINGS[0].pattern, "folders": folders, "nobody": nobody}
    dataset = parse(name, entry, where=f"--pattern for {name}")
    who = {part: {(dataset.match(path) or ("", ""))[0] for path in paths} for part, paths in inside.items()}
    return _with_junk(dataset, who)


def _find_parts(name: str, root: Path, images: list[str]) -> dict[str, str]:
    """Return part -> its folder below `root`; empty where no folder is called as a part."""
    found: dict[str, set[str]] = {}
    for folder in {path.rpartition("/")[0] for path in images}:
        parts = folder.split("/")
        for depth in range(len(parts), 0, -1):  # the innermost: val/query is query
            if part := part_of(parts[depth - 1]):
                found.setdefault(part, set()).add("/".join(parts[:depth]))
                break

    def only(*parts: str) -> str:
        folders = sorted(set().union(*(found.get(part, set()) for part in parts)))
        if len(folders) > 1:
            several = ", ".join(map(shown, folders[:3])) + (", ..." if len(folders) > 3 else "")
            raise DataError(
                f"{name}: {root} has several folders for the part {parts[0]}: {several}; give one set alone, with "
                f"reidgen prepare {name} --from DIR"
            )
        return folders[0]

    chosen = {"train": only("train")} if "train" in found else {}
    if "query" in found:
        query = only("query")
        for part in ("test", "val"):  # what is above the queries is not beside them
            found[part] = {one for one in found.get(part, set()) if not query.startswith(f"{one}/")}
        gallery = next((part for part in ("gallery", "test", "val") if found.get(part)), "")
        chosen |= {"query": query} | ({"gallery": only(gallery)} if gallery else {})
    elif "gallery" in found:
        chosen |= {"gallery": only("gallery")}
    elif there := next((part for part in ("test", "val") if found.get(part)), ""):
        chosen |= {"test": only(there)}
    return chosen


def _find_nobody(images: list[str]) -> tuple[str, ...]:
    """Return the folders whose images are of nobody, by their names: the outermost ones."""
    found = set()
    for folder in {path.rpartition("/")[0] for path in images}:
        parts = folder.split("/")
        found |= {*["/".join(parts[: depth + 1]) for depth, one in enumerate(parts) if holds_nobody(one)][:1]}
    return tuple(sorted(found))


def _with_nobody(parts: dict[str, str], nobody: tuple[str, ...], images: list[str]) -> dict[str, tuple[str, ...]]:
    """Return part -> its folders: without any part all is test, or of nobody alone gallery; what is of nobody and
    beside the parts is of the gallery.
    """
    if not parts:
        return {"gallery" if _are_nobody((".",), nobody, images) else "test": (".",)}
    folders: dict[str, tuple[str, ...]] = {part: (one,) for part, one in parts.items()}
    apart = [one for one in nobody if not any(_overlap(one, part) for part in parts.values())]
    if apart:
        part = "test" if "test" in parts else "gallery"
        folders[part] = (*folders.get(part, ()), *apart)
    return folders


def _overlap(one: str, other: str) -> bool:
    return is_below(f"{one}/", [other]) or is_below(f"{other}/", [one])


def _are_nobody(folders: Iterable[str], nobody: Iterable[str], images: list[str]) -> bool:
    """Tell whether all images of some folders are of nobody."""
    return all(is_below(path, nobody) for path in images if is_below(path, folders))


def _both(name: str, where: Path, parts: Iterable[str], what: str) -> None:
    """Raise DataError when there is a query part without a gallery, or the other way round."""
    if ("query" in parts) != ("gallery" in parts):
        raise DataError(f"{name}: {where} has one of {what} query and gallery; give both, or test instead of them")


def _with_junk(dataset: Dataset, who: dict[str, set[str]]) -> Dataset:
    """Return the entry with Market's rule for the people -1 and 0. who: part -> names of the people in it."""
    zero = {part for part, people in who.items() if any(number_of(one) == 0 for one in people)}
    crowd = bool(zero) and not zero & {"train", "query"}
    return replace(dataset, junk=(-1,), distractors=(0,) if crowd else ())


def _choose(name: str, root: Path, inside: dict[str, list[str]]) -> str:
    """Return the pattern that reads all images; inside: part -> its images, relative to `root`.

    A reading fits when all images have their person and camera by it, nobody is called as a part or a camera, and
    folders that it does not look at are the same for all images of a part. Names of Market-1501 and MARS win over
    folders. Others must agree on who is the same person, and no folder or name may speak of another camera.
    Raises DataError otherwise.
    """
    paths = [path for some in inside.values() for path in some]
    fits: list[tuple[Reading, Names]] = []
    unfit, unclear = paths, False
    for reading in READINGS:
        names, left = read_names(reading.pattern, reading.levels, paths)
        if not left and not reading.flat and any(varies(some, reading.levels) for some in inside.values()):
            unclear = True
            continue
        if not left:
            fits.append((reading, names))
        elif len(left) < len(unfit):
            unfit = left
    if any(reading.market for reading, _ in fits):
        fits = [one for one in fits if one[0].market][:1]
    if len(fits) > 1:
        fits = [one for one in fits if len({person for person, _ in one[1]}) > 1] or fits
    if not fits:
        what = f"cannot tell which folder of names such as {shown(paths[0])!r} is the person"
        raise DataError(question(name, root, inside, what if unclear else _complaint(paths, unfit)))
    _, names = fits[0]
    for path, (_, camera) in zip(paths, names, strict=True):
        for other in cameras_in(path):
            if same(other) != same(camera):
                what = f"{shown(path)!r} names the cameras {camera} and {other}"
                raise DataError(question(name, root, inside, what, [one.pattern for one, _ in fits]))
    for reading, others in fits[1:]:
        if (place := difference(names, others)) is not None:
            (person, camera), (other, view) = names[place], others[place]
            what = (
                f"{shown(paths[place])!r} can be read as person {shown(person)}, camera {camera}, and as person "
                f"{shown(other)}, camera {view}"
            )
            raise DataError(question(name, root, inside, what, [fits[0][0].pattern, reading.pattern]))
    return fits[0][0].pattern


def _complaint(paths: list[str], unfit: list[str]) -> str:
    if len(unfit) == len(paths):
        return f"cannot tell the camera from names such as {shown(unfit[0])!r}"
    some = f"the names of {len(unfit):,} of {len(paths):,} images"
    return f"cannot tell the camera from {some}, such as {shown(unfit[0])!r}; remove or rename them, or"


# --- lists --------------------------------------------------------------------------------------------------------


def _own_table(name: str, file: Path, pattern: str | None) -> Dataset:
    """Return the entry for the own crops that a list names; its image root is the folder above all of them."""
    if pattern is not None:
        raise DataError(f"{name}: {file} names person and camera itself; leave out --pattern")
    file = file.resolve()
    rows = read_table(file, file.parent)
    root = common_root([file, *(Path(os.path.normpath(file.parent / one.path)) for one in rows)])
    parts = dict.fromkeys(one.split or "test" for one in rows if one.split != "val")
    crowd = set(parts) - {"train"} == {"gallery"} and not any(one.pid for one in rows if one.split == "gallery")
    if not crowd:  # crops of nobody are a gallery without queries
        _both(name, file, parts, "the splits")
    if {"query", "test"} <= set(parts):
        raise DataError(f"{name}: {file} has the splits query and test; name query and gallery, or test alone")
    lists = {part: (file.relative_to(root).as_posix(),) for part in parts}
    folders = {part: (".",) for part in parts}
    dataset = Dataset(name=name, pattern=".*", folders=folders, lists=lists, list_format="table")
    who = {part: {one.pid for one in rows if (one.split or "test") in (part, "test")} for part in parts}
    return _with_junk(dataset, who)
