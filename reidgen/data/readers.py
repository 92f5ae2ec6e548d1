"""From a folder in its original layout to rows (split, part, path, pid, camid), by the catalogue's entry alone."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from reidgen.data.lists import Named, beside, common_root, read_list, read_table
from reidgen.data.partitions import divide
from reidgen.entries import Dataset
from reidgen.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
DEPTH = 2  # folders below the one given in which a set is looked for

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
    """What `read` found. dataset: the entry in the form that fitted; root: the image root that the paths start from;
    rows: see `read`; kept: path, pid and camid of every image of the set, once, of those too that no split shows; junk:
    images left out; example: one image and how its name was read, for people."""

    dataset: Dataset
    root: Path
    rows: pd.DataFrame
    kept: pd.DataFrame
    junk: int
    example: str


def read(dataset: Dataset, root: Path) -> Found:
    """Return what names and lists tell of the set that lies in `root`, see `locate`, in the first of its forms that fits.

    The rows have the columns split, part, path, pid and camid of ARCHITECTURE.md, sorted by (split, part, path); no
    image is opened. Left out: hidden files, files that are no images by their suffix, those of `skip`, junk identities.
    Other names that are not numbers (or would collide as numbers: 1 and 01) are numbered in sorted order, from 1. In a
    set whose parts number their people apart, those tested are counted on from the last one trained on.

    A folder `train` is all training. A folder `test` is divided: with query_cameras, their images are the queries
    and all others the gallery; otherwise, of each identity seen by two cameras or more, the first image (by path) of
    each camera is a query and the rest is gallery. Where that would leave a query without a match (cameras with a
    single image), the last such camera keeps its image in the gallery. An identity seen by one camera is gallery.
    Splits and single shots: `partitions.divide`.

    Raises DataError when the folder is missing, wrong or empty, names do not fit the pattern, a list or partition file
    does not fit the images, or no query has a match.
    """
    root = locate(dataset, root)
    dataset = next(one for one in dataset.variants() if not _lacking(one, root))
    kept, junk, example = _numbered(dataset, _named(dataset, root))
    columns = ["split", "part", "path", "pid", "camid"]
    rows = divide(dataset, kept, root)[columns].sort_values(["split", "part", "path"], ignore_index=True)
    kept = kept[["path", "pid", "camid"]].sort_values("path", ignore_index=True)
    return Found(dataset=dataset, root=root, rows=rows, kept=kept, junk=junk, example=example)


def own_dataset(name: str, root: Path, pattern: str | None = None) -> Dataset:
    """Return an entry for a folder of own crops that the catalogue does not know, or for a CSV that names them.

    A folder's parts are the sub-folders train, query and gallery (or Market's names for them), or train and test; a
    folder without any of them is all test. To train on own crops, put them into a sub-folder train. Without `pattern`,
    images in a folder per person are read by the first of FOLDER_PATTERNS that fits them all, others by FLAT_PATTERN.
    The parts of a CSV are what its column split says; without it all is test. See `lists.read_table`.

    Raises DataError when the folder is missing or empty, no pattern fits, or the CSV is none.
    """
    if root.is_file() and root.suffix.lower() == ".csv":
        return _own_table(name, root, pattern)
    _directory(name, root)
    there = {part: (one,) for part, names in _OWN_FOLDERS.items() for one in names if (root / one).is_dir()}
    _both(name, root, there, "the folders")
    if "query" in there:
        there.pop("test", None)
    folders = there or {"test": (".",)}
    if pattern is not None:
        return Dataset(name=name, pattern=pattern, folders=folders)
    inside = {folder: _images(root, folder) for [folder] in folders.values()}
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


def _own_table(name: str, file: Path, pattern: str | None) -> Dataset:
    """Return the entry for the own crops that a CSV names; its image root is the folder above all of them."""
    if pattern is not None:
        raise DataError(f"{name}: {file} names person and camera itself; leave out --pattern")
    file = file.resolve()
    rows = read_table(file, file.parent)
    root = common_root([file, *(Path(os.path.normpath(file.parent / one.path)) for one in rows)])
    lists = {one.split or "test": (file.relative_to(root).as_posix(),) for one in rows}
    _both(name, file, lists, "the splits")
    if {"query", "test"} <= set(lists):
        raise DataError(f"{name}: {file} has the splits query and test; name query and gallery, or test alone")
    folders = {part: (".",) for part in lists}
    return Dataset(name=name, pattern=".*", folders=folders, lists=lists, junk=(-1,))


def _both(name: str, where: Path, parts: Iterable[str], what: str) -> None:
    """Raise DataError when there is a query part without a gallery, or the other way round."""
    if ("query" in parts) != ("gallery" in parts):
        raise DataError(f"{name}: {where} has one of {what} query and gallery; give both, or test instead of them")


def locate(dataset: Dataset, root: Path) -> Path:
    """Return the image root, resolved: `root`, or the only folder below it (up to two levels) or directly above it that
    has all of the set's sub-folders, lists and partitions, in one of its forms. `root` may also be one of its lists.

    Raises DataError that says what is there instead.
    """
    root = (root.is_file() and _root_of_table(dataset, root.resolve())) or root
    _directory(dataset.name, root)
    root = root.resolve()
    forms, levels = dataset.variants(), [[root], _folders(dataset.name, root)]
    for form in forms:
        for depth in range(DEPTH + 1):
            if depth == len(levels):
                levels.append([below for one in levels[-1] for below in _folders(dataset.name, one)])
            fits = [one for one in levels[depth] if not _lacking(form, one)]
            if len(fits) > 1:
                what = f"holds {len(fits)} copies of the set: give one of them, such as {fits[0]}"
                raise DataError(_advice(dataset, root, what))
            if fits:
                _directory(dataset.name, fits[0])
                return fits[0]
    for form in forms:
        if not _lacking(form, root.parent):
            if {_folder(root.parent, one) for some in form.folders.values() for one in some} == {root.name}:
                return root.parent
            raise DataError(_advice(dataset, root, f"is one part of the set: give {root.parent}"))
    lacking = _lacking(forms[0], root)
    inside = ", ".join([one.name for one in _folders(dataset.name, root) if one.name.isprintable()][:5]) or "no folders"
    what = f"lacks {', '.join(lacking)} (it has {inside}): give the folder that holds them"
    raise DataError(_advice(dataset, root, what))


def _advice(dataset: Dataset, root: Path, what: str) -> str:
    return f"{dataset.name}: {root} {what}, with reidgen prepare {dataset.name} --from DIR"


def _folder(root: Path, options: str) -> str | None:
    """Return the first of the folders "a|b" that is below `root`."""
    return next((one for one in options.split("|") if (root / one).is_dir()), None)


def _lacking(dataset: Dataset, root: Path) -> list[str]:
    """Return what would have to be in `root` for it to be the set's image root, and is not."""
    wanted = dict.fromkeys(one for some in dataset.folders.values() for one in some)
    folders = [one.replace("|", " or ") for one in wanted if _folder(root, one) is None]
    files = dict.fromkeys([*(one for some in dataset.lists.values() for one in some), dataset.partitions])
    return folders + [file for file in files if file and beside(root, file) is None]


def _folders(name: str, place: Path) -> list[Path]:
    """Return the folders in `place` that may be read, sorted; hidden ones are left out."""
    try:
        folders = [one for one in place.iterdir() if one.is_dir() and not one.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{name}: cannot read the folder {place}: {error.strerror}") from error
    return sorted(one for one in folders if os.access(one, os.R_OK | os.X_OK))


def _root_of_table(dataset: Dataset, file: Path) -> Path | None:
    """Return the image root when `file` is a list of the set, which its path below the image root tells."""
    for one in (one for some in dataset.lists.values() for one in some):
        if file.as_posix().endswith(f"/{one}"):
            return Path(file.as_posix().removesuffix(one))
    return None


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


def _parts(dataset: Dataset, root: Path) -> Iterator[tuple[str, str, list[Named]]]:
    """Yield (part, folder, images) for each list and each folder of the set; a folder's images name nobody yet."""
    for part, some in dataset.folders.items():
        folders = [_folder(root, one) or one for one in some]
        for file in dataset.lists.get(part, ()):
            found = beside(root, file)
            assert found is not None  # `locate` saw it
            yield part, folders[0], read_list(found, root=root, folder=folders[0], part=part)
        if part not in dataset.lists:
            listed = [(folder, [Named(path, "", "", "") for path in _images(root, folder)]) for folder in folders]
            if not any(images for _, images in listed):
                raise DataError(
                    f"{dataset.name}: no images in {root / folders[0]} ({', '.join(SUFFIXES)}); "
                    f"extract the set again, or give another folder: reidgen prepare {dataset.name} --from DIR"
                )
            yield from ((part, folder, images) for folder, images in listed)


def _named(dataset: Dataset, root: Path) -> pd.DataFrame:
    """Return one row per image: part, path, name (the path below its folder), person and camera as texts."""
    rows: list[tuple[str, str, str, str, str]] = []
    unfit: list[str] = []
    nobody = {one for some in dataset.folders.values() for options in some for one in options.split("|")}
    for part, folder, images in _parts(dataset, root):
        prefix = f"{PurePosixPath(folder)}/"
        for path, pid, camid, _ in images:
            if dataset.skips(path):
                continue
            person, camera = (pid, camid) if pid and camid else dataset.match(path) or ("", "")
            person, camera = pid or person, camid or camera
            if not person or not camera or person in nobody or not path.isprintable():  # a part's folder is no person
                unfit.append(path)
            rows.append((part, path, path.removeprefix(prefix), person, camera))
    if unfit:
        raise DataError(
            f"{dataset.name}: {len(unfit):,} of {len(rows):,} images have names that do not fit the pattern "
            f"{dataset.pattern}, such as {unfit[0]!a}; rename or remove them, or correct the pattern"
        )
    if not rows:
        raise DataError(f"{dataset.name}: skip = {dataset.skip!r} leaves no image in {root}; correct datasets.toml")
    named = pd.DataFrame(rows, columns=["part", "path", "name", "person", "camera"])
    if len(twice := named[named["path"].duplicated(keep=False)]):
        parts = " and ".join(twice["part"][twice["path"] == twice["path"].iloc[0]])
        raise DataError(
            f"{dataset.name}: {twice['path'].iloc[0]!a} is named twice, in {parts}; each image belongs to one part, once: "
            "correct the list or the folders"
        )
    return named


_NUMBER = re.compile(r"-?[0-9]{1,18}")


def _numbered(dataset: Dataset, rows: pd.DataFrame) -> tuple[pd.DataFrame, int, str]:
    """Return the rows with the numbers pid and camid, without junk; the number of junk images; an example for people."""
    first = rows.iloc[0]
    example = f"{first['path']} is person {first['person']}, camera {first['camera']}"
    junk = rows["person"].map(lambda name: bool(_NUMBER.fullmatch(name)) and int(name) in dataset.junk).astype(bool)
    kept = rows[~junk]  # before numbers are given, which must not turn junk into a person or a person into junk
    if dataset.apart:
        train = kept["part"] == "train"
        pid = kept["person"][train].map(_numbers(kept["person"][train])).astype("int64")
        others = kept["person"][~train].map(_numbers(kept["person"][~train])).astype("int64")
        pid = pd.concat([pid, others + (pid.max() + 1)])
    else:
        pid = kept["person"].map(_numbers(kept["person"])).astype("int64")
    cameras = dataset.cameras or _numbers(rows["camera"])
    strange = kept[~kept["camera"].isin(list(cameras))]
    if len(strange):
        raise DataError(
            f"{dataset.name}: {len(strange):,} images are of cameras that are not in the catalogue, such as "
            f"{strange['path'].iloc[0]!a} (known: {', '.join(cameras)}); remove them, or correct datasets.toml"
        )
    return kept.assign(pid=pid, camid=kept["camera"].map(cameras).astype("int64")), int(junk.sum()), example


def _numbers(names: Iterable[str]) -> dict[str, int]:
    """Return a number for each name: its own where all are distinct numbers, else its place in sorted order, from 1."""
    distinct = sorted(set(names))
    if all(_NUMBER.fullmatch(name) for name in distinct):
        own = {name: int(name) for name in distinct}
        if len(set(own.values())) == len(own):
            return own
    return {name: number for number, name in enumerate(distinct, start=1)}
