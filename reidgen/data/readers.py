"""From a folder in its original layout to rows (split, part, path, pid, camid), by the catalogue's entry alone."""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from reidgen.catalogue import Dataset
from reidgen.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

# How a folder of own crops is read when no pattern is given: the first that fits every image.
FOLDER_PATTERNS = (
    r"(?i)(?P<pid>[^/]+)/(?:camera|cam|c)[ _-]?(?P<camid>\d+)/[^/]+",  # anna/cam1/0001.jpg
    r"(?i)(?P<pid>[^/]+)/(?:[^/]*[^a-z/])?(?:camera|cam|c)[ _-]?(?P<camid>\d+)(?!\d)[^/]*",  # anna/x_cam1_0001.jpg
    r"(?P<pid>[^/]+)/(?P<camid>\d{1,4})[_-][^/]+",  # anna/01_0001.jpg, but not anna/0001.jpg: that counts images
)
FLAT_PATTERN = r"(?i)(?P<pid>-?\d+)_(?:cam|c)(?P<camid>\d+).*"  # 0002_c1s1_000451_03.jpg

_OWN_FOLDERS = {
    "train": ("bounding_box_train", "train"),
    "query": ("query",),
    "gallery": ("bounding_box_test", "gallery"),
    "test": ("test",),
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What `read` found. root: the image root that the paths start from; rows: see `read`; junk: images left out;
    example: one image and how its name was read, for people."""

    root: Path
    rows: pd.DataFrame
    junk: int
    example: str


def read(dataset: Dataset, root: Path) -> Found:
    """Return what names tell of the set that lies in `root`, or in the one folder below it that has its sub-folders.

    The rows have the columns split, part, path, pid and camid of ARCHITECTURE.md, sorted by (split, part, path); no
    image is opened. Left out: hidden files, files that are no images by their suffix, junk identities. Other names
    that are not numbers (or would collide as numbers: 1 and 01) are numbered in sorted order, from 1.

    A folder `train` is all training. A folder `test` is divided: with query_cameras, their images are the queries
    and all others the gallery; otherwise, of each identity seen by two cameras or more, the first image (by path) of
    each camera is a query and the rest is gallery. Where that would leave a query without a match (cameras with a
    single image), the last such camera keeps its image in the gallery. An identity seen by one camera is gallery.

    With splits = n and test_identities = m, the identities that have a match are ordered by the SHA-256 of the
    text "split,pid" and the first m are tested in that split; identities that nobody asks for stay in the gallery.

    Raises DataError when the folder is missing, wrong or empty, names do not fit the pattern, or no query has a match.
    """
    root = locate(dataset, root)
    found = {part: _images(root, folder) for part, folder in dataset.folders.items()}
    for part, paths in found.items():
        if not paths:
            raise DataError(
                f"{dataset.name}: no images in {root / dataset.folders[part]} ({', '.join(SUFFIXES)}); "
                f"extract the set again, or give another folder: reidgen prepare {dataset.name} --from DIR"
            )
    kept, junk, example = _named(dataset, found)
    if "test" in dataset.folders:
        kept = _cut(dataset, kept)
    kept = _splits(dataset, kept) if set(dataset.folders) != {"train"} else kept.assign(split=0)
    rows = kept[["split", "part", "path", "pid", "camid"]].sort_values(["split", "part", "path"], ignore_index=True)
    return Found(root=root, rows=rows, junk=junk, example=example)


def own_dataset(name: str, root: Path, pattern: str | None = None) -> Dataset:
    """Return an entry for a folder of own crops that the catalogue does not know.

    Its parts are the sub-folders train, query and gallery (or Market's names for them), or train and test; a folder
    without any of them is all test. To train on own crops, put them into a sub-folder train. Without `pattern`, images
    in a folder per person are read by the first of FOLDER_PATTERNS that fits them all, others by FLAT_PATTERN.

    Raises DataError when the folder is missing or empty, or no pattern fits.
    """
    _directory(name, root)
    there = {part: one for part, names in _OWN_FOLDERS.items() for one in names if (root / one).is_dir()}
    if ("query" in there) != ("gallery" in there):
        raise DataError(f"{name}: {root} has one of the folders query and gallery; give both, or test instead of them")
    if "query" in there:
        there.pop("test", None)
    folders = there or {"test": "."}
    if pattern is not None:
        return Dataset(name=name, pattern=pattern, folders=folders)
    inside = {folder: _images(root, folder) for folder in folders.values()}
    paths = [path.removeprefix(f"{folder}/") for folder, paths in inside.items() for path in paths]
    if not paths:
        raise DataError(f"{name}: no images in {root} ({', '.join(SUFFIXES)}); give the folder that holds your crops")
    unfit = paths
    for one in (*FOLDER_PATTERNS, FLAT_PATTERN):
        dataset = Dataset(name=name, pattern=one, folders=folders, junk=(-1,) if one == FLAT_PATTERN else ())
        left = [path for path in paths if ("/" in path) != ("/" in one) or not dataset.match(path)]
        if not left:
            return dataset
        unfit = min(unfit, left, key=len)
    some = f"the names of {len(unfit):,} of {len(paths):,} images," if len(unfit) < len(paths) else "names"
    cure = "remove or rename them, or " if len(unfit) < len(paths) else ""
    raise DataError(
        f"{name}: cannot tell the camera from {some} such as {unfit[0]!r}; {cure}say how, for example: "
        rf"reidgen prepare {name} --from {root} --pattern '(?P<pid>[^/]+)/(?P<camid>\d+)_.*'"
    )


def locate(dataset: Dataset, root: Path) -> Path:
    """Return `root`, resolved, or the only folder in it that has all of the set's sub-folders.

    Raises DataError that says what is there instead.
    """
    _directory(dataset.name, root)
    root = root.resolve()
    wanted = list(dataset.folders.values())
    try:
        inside = sorted(one for one in root.iterdir() if one.is_dir())
    except OSError as error:
        raise DataError(f"{dataset.name}: cannot read the folder {root}: {error.strerror}") from error
    fits = [one for one in [root, root.parent, *inside] if all((one / folder).is_dir() for folder in wanted)]
    if root in fits:
        return root
    below = [one for one in fits if one != root.parent]
    if len(below) == 1:
        _directory(dataset.name, below[0])
        return below[0]
    if root.parent in fits:
        what = f"is one part of the set: give {root.parent}"
    elif below:
        what = f"holds {len(below)} copies of the set: give one of them, such as {below[0]}"
    else:
        listing = ", ".join([one.name for one in inside if one.name.isprintable()][:5]) or "no folders"
        what = f"has not the sub-folders {', '.join(wanted)} (it has {listing}): give the folder that holds them"
    raise DataError(f"{dataset.name}: {root} {what}, with reidgen prepare {dataset.name} --from DIR")


def _directory(name: str, root: Path) -> None:
    """Raise DataError when `root` is no folder whose path can be written down."""
    try:
        str(root.resolve()).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{name}: the path {str(root.resolve())!a} is not valid UTF-8; rename the folder") from error
    if root.is_file():
        raise DataError(f"{name}: {root} is a file; unpack it, then run: reidgen prepare {name} --from FOLDER")
    if not root.is_dir():
        raise DataError(f"{name}: there is no folder {root}; run: reidgen prepare {name} --from DIR")


def _images(root: Path, folder: str) -> list[str]:
    """Return the image files below root/folder, sorted, relative to root with `/`; hidden ones are left out.

    Links are followed, but not in circles; a link to nothing is returned, for whoever opens it to report.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}")

    paths = []
    for here, below, names in os.walk(root / folder, followlinks=True, onerror=stop):
        inside = Path(here)
        below[:] = [one for one in below if not inside.resolve().is_relative_to((inside / one).resolve())]
        for path in (inside / name for name in names):
            if (
                path.suffix.lower() in SUFFIXES
                and not path.name.startswith(".")
                and (path.is_file() or path.is_symlink())
            ):
                paths.append(path.relative_to(root).as_posix())
    return sorted(paths)


def _named(dataset: Dataset, found: dict[str, list[str]]) -> tuple[pd.DataFrame, int, str]:
    """Return one row per image with part, path, pid and camid as numbers; the number of junk images, which have no
    row; and an example for people."""
    names: list[tuple[str, str, str, str]] = []
    unfit: list[str] = []
    for part, paths in found.items():
        prefix = f"{PurePosixPath(dataset.folders[part])}/"
        for path in paths:
            read_as = dataset.match(path.removeprefix(prefix))
            if read_as is None or not path.isprintable():
                unfit.append(path)
            else:
                names.append((part, path, *read_as))
    if unfit:
        total = len(names) + len(unfit)
        raise DataError(
            f"{dataset.name}: {len(unfit):,} of {total:,} images have names that do not fit the pattern "
            f"{dataset.pattern}, such as {unfit[0]!a}; rename or remove them, or correct the pattern"
        )
    rows = pd.DataFrame(names, columns=["part", "path", "pid", "camid"])
    part, path, pid, camid = names[0]
    junk = rows["pid"].map(lambda name: bool(_NUMBER.fullmatch(name)) and int(name) in dataset.junk).astype(bool)
    kept = rows[~junk]  # before numbers are given, which must not turn junk into a person or a person into junk
    pids, camids = _numbers(kept["pid"]), _numbers(rows["camid"])
    kept = kept.assign(pid=kept["pid"].map(pids).astype("int64"), camid=kept["camid"].map(camids).astype("int64"))
    return kept, int(junk.sum()), f"{path} is person {pid}, camera {camid}"


_NUMBER = re.compile(r"-?[0-9]{1,18}")


def _numbers(names: Iterable[str]) -> dict[str, int]:
    """Return a number for each name: its own where all are distinct numbers, else its place in sorted order, from 1."""
    distinct = sorted(set(names))
    if all(_NUMBER.fullmatch(name) for name in distinct):
        own = {name: int(name) for name in distinct}
        if len(set(own.values())) == len(own):
            return own
    return {name: number for number, name in enumerate(distinct, start=1)}


def _cut(dataset: Dataset, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with those of the part `test` divided into query and gallery."""
    test = rows[rows["part"] == "test"].sort_values("path")
    if dataset.query_cameras:
        query = test["camid"].isin(dataset.query_cameras)
    else:
        sizes = test.groupby(["pid", "camid"]).size().reset_index(name="images")
        people = sizes.groupby("pid")["images"]
        cameras, rich = people.transform("size"), people.transform(lambda images: (images > 1).sum())
        last_single = sizes[sizes["images"] == 1].drop_duplicates("pid", keep="last").index
        stays = sizes.index.isin(last_single) & (rich < 2)
        asked = pd.MultiIndex.from_frame(sizes[(cameras > 1) & ~stays][["pid", "camid"]])
        first = ~test.duplicated(["pid", "camid"])
        query = first & pd.MultiIndex.from_frame(test[["pid", "camid"]]).isin(asked)
    part = rows["part"].copy()
    part[query.index] = query.map({True: "query", False: "gallery"})
    return rows.assign(part=part)


def matched(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Return for each query row (of one split) whether the gallery shows its identity under another camera."""
    query, gallery = rows[rows["part"] == "query"], rows[rows["part"] == "gallery"]
    seen = gallery.groupby("pid")["camid"].agg(["min", "max"])
    low, high = query["pid"].map(seen["min"]), query["pid"].map(seen["max"])
    return low.notna() & ((low != query["camid"]) | (high != query["camid"]))


def _splits(dataset: Dataset, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a column split, the test rows chosen and repeated for each split."""
    query = rows[rows["part"] == "query"]
    matches = matched(rows)
    if not matches.any():
        raise DataError(_no_match(dataset, rows))
    if dataset.splits == 1:
        return rows.assign(split=0)
    able = [int(pid) for pid in query["pid"][matches].unique()]
    if len(able) < dataset.test_identities:
        raise DataError(
            f"{dataset.name}: test_identities = {dataset.test_identities}, but only {len(able)} people have a query "
            "with a match; lower it in datasets.toml"
        )
    train = rows[rows["part"] == "train"].assign(split=0)
    test, asked = rows[rows["part"] != "train"], set(query["pid"])
    parts = [train]
    for split in range(dataset.splits):
        ordered = sorted(able, key=lambda pid: hashlib.sha256(f"{split},{pid}".encode()).digest())
        keep = test["pid"].isin(ordered[: dataset.test_identities]) | ~test["pid"].isin(asked)
        parts.append(test[keep].assign(split=split))
    return pd.concat(parts)


def _no_match(dataset: Dataset, rows: pd.DataFrame) -> str:
    """Return the sentence for a set in which no query has a match: how many people, why, what to do."""
    test = rows[rows["part"] != "train"]
    people = test.groupby("pid")["camid"].agg(["size", "nunique"])
    single, one_camera = int((people["size"] == 1).sum()), int((people["nunique"] == 1).sum())
    cameras = sorted(test["camid"].unique())
    listing = ", ".join(str(camera) for camera in cameras[:8]) + (", ..." if len(cameras) > 8 else "")
    if dataset.query_cameras and not set(dataset.query_cameras) & set(cameras):
        return f"{dataset.name}: query_cameras = {list(dataset.query_cameras)}, but the cameras are {listing}"
    pids = [set(test["pid"][test["part"] == part]) for part in ("query", "gallery")]
    if all(pids) and not pids[0] & pids[1]:
        return (
            f"{dataset.name}: none of the {len(pids[0])} people in query (such as {min(pids[0])}) is among the "
            f"{len(pids[1])} in gallery (such as {min(pids[1])}); name people alike in both folders"
        )
    return (
        f"{dataset.name}: no query can have a match: of {len(people)} people {single} have a single image and "
        f"{one_camera} are seen by one camera only (cameras: {listing}). A match needs the same person under another "
        "camera: check that the pattern reads person and camera, or prepare it only as a source with "
        'folders = { train = "." } in datasets.toml'
    )
