"""Any folder or list of crops, as it is: which images, and what names or columns say of camera, track and person.

Nobody has to be named, and no part: it is what `reidgen embed` and `search` take. No torch here.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reidgen.data.lists import TABLES, read_images
from reidgen.data.naming import same, shown
from reidgen.data.readers import SUFFIXES, image_files
from reidgen.data.readings import cameras_in
from reidgen.entries import Dataset
from reidgen.errors import DataError
from reidgen.escapes import many

KNOWN = ("camera", "track", "person")  # what may be known of a crop, "" where it is not
_GROUPS = ("camid", "track", "pid")  # of a pattern, in the same order


@dataclass(frozen=True)
class Collection:
    """Crops. root: what their paths are relative to; crops: path and KNOWN, texts, sorted by path, each path once;
    remarks: sentences for people, such as what was left out."""

    root: Path
    crops: pd.DataFrame
    remarks: list[str]


def collect(images: Path, pattern: str | None = None) -> Collection:
    """Return the crops of a folder (at any depth, hidden files and what is no image by its suffix left out), of a list
    (.csv, .tsv or .txt, see `lists.read_images`), or of a single image.

    Of a folder, a camera is known where `pattern` says it, or without one where every name says it (c1, cam1, _c1s1_,
    a folder camera_2; see `readings`). pattern: a regular expression with one or several of the groups camid, track and
    pid, for the end of the path below the folder, as of `reidgen prepare`. Of a list its columns say it.

    Raises DataError when nothing is there, the list is none, or the pattern fits no path or has no such group.
    """
    if images.suffix.lower() in TABLES and images.is_file():
        if pattern is not None:
            raise DataError(f"{images} names cameras and tracks in columns; leave out --pattern")
        return _of_list(images)
    if images.is_file():
        return Collection(images.parent, _table([(images.name, "", "", "")]), [])
    if not images.is_dir():
        raise DataError(f"{images} is not there; give a folder of images, or a .csv with a column path")
    found = image_files(images, ".")
    if not found.images:
        raise DataError(
            f"no images in {images} ({', '.join(SUFFIXES[:8])}, ...); give the folder that holds your crops"
        )
    remarks = found.left_out
    rows = _by_pattern(images, found.images, pattern) if pattern is not None else _by_names(found.images)
    crops = _table(rows)
    if pattern is not None and (unfit := int((crops[list(KNOWN)] == "").all(axis=1).sum())):
        remarks.append(f"--pattern fits {len(crops) - unfit:,} of {len(crops):,} paths; of the others nothing is known")
    return Collection(images, crops, remarks)


def _of_list(file: Path) -> Collection:
    listed = read_images(file)
    crops = _table([(one.path, one.camid, one.track, one.pid) for one in listed])
    crops = crops.drop_duplicates("path", ignore_index=True)
    twice = len(listed) - len(crops)
    remarks = [f"{file} names {many(twice, 'image')} again; the first line of each counts"] if twice else []
    return Collection(file.parent, crops, remarks)


def _table(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    crops = pd.DataFrame(rows, columns=["path", *KNOWN], dtype=object)
    return crops.sort_values("path", kind="stable", ignore_index=True)


def _by_pattern(root: Path, paths: list[str], pattern: str) -> list[tuple[str, str, str, str]]:
    try:
        groups = set(re.compile(pattern).groupindex)
    except re.error as error:
        raise DataError(f"--pattern {pattern!a} is no regular expression: {error}") from error
    if not groups & set(_GROUPS):
        raise DataError(
            f"--pattern {pattern!a} has none of the groups camid, track and pid; for example "
            "'(?P<camid>[^/]+)/[^/]+' reads the folder of an image as its camera"
        )
    reading = Dataset(name="--pattern", pattern=pattern)
    named = [reading.groups(path) for path in paths]
    if not any(named):
        raise DataError(f"--pattern {pattern!a} fits no path in {root}, such as {shown(paths[0])!r}")
    found = [one or {} for one in named]
    return [
        (path, one.get("camid", ""), one.get("track", ""), one.get("pid", ""))
        for path, one in zip(paths, found, strict=True)
    ]


def _by_names(paths: list[str]) -> list[tuple[str, str, str, str]]:
    """Return the paths with their cameras where every one of them names one, and only one."""
    cameras = [{same(one) for one in cameras_in(path)} for path in paths]
    sure = all(len(some) == 1 for some in cameras)
    return [(path, next(iter(some)) if sure else "", "", "") for path, some in zip(paths, cameras, strict=True)]
