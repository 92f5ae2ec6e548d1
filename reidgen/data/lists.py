"""Files that name the images of a part, and the official partitions: text lines, CSV tables and MATLAB files."""

import csv
import os
import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from reidgen.data.mat import load_mat
from reidgen.entries import PARTS
from reidgen.errors import DataError

TABLES = (".csv", ".tsv", ".txt")  # files of own crops that name path, person and camera
COLUMNS = ("path", "pid", "camid")
SPLITS = (*PARTS, "test")


class Named(NamedTuple):
    """An image on a list: its path below the image root; person and camera as the list says them, camera "" where the
    list does not; split: the part to which the list gives it, "" where all of them are of one part."""

    path: str
    pid: str
    camid: str
    split: str


def beside(root: Path, file: str) -> Path | None:
    """Return where `file` lies: below the image root, or beside it; None when it is in neither place."""
    places = [place / file for place in (root, root.parent)]
    return next((place for place in places if place.is_file()), None)


def read_list(file: Path, *, root: Path, folder: str, part: str) -> list[Named]:
    """Return the images of `part` that a list file names, in its order.

    A text holds lines "path person [camera]", the path below root/folder, with spaces or commas between them; backslashes
    stand for slashes. A .csv is read by `read_table`. A .mat is that
    of CUHK03's new protocol: filelist (below root/folder), labels, camId, and of each part the places in them, from 1.

    Raises DataError when the file cannot be read, is not laid out like that, names an image that is not there.
    """
    if file.suffix.lower() == ".csv":
        named = [one for one in read_table(file, root) if one.split in ("", part)]
    elif file.suffix.lower() == ".mat":
        named = _new_protocol(file, folder, part)
    else:
        named = _lines(file, folder)
    paths = [one.path for one in named]
    missing = [path for path in paths if not (_inside(path) and (root / path).is_file())]
    if missing:
        cure = (
            "correct the path or the file"
            if file.suffix.lower() == ".csv"
            else "extract the set again, or correct the list"
        )
        raise DataError(
            f"{file} names {len(paths):,} {part} images, but {len(missing):,} of them are not in {root}, such as "
            f"{missing[0]!a}; {cure}"
        )
    return named


def read_table(file: Path, root: Path) -> list[Named]:
    """Return the rows of a CSV with the columns path, pid, camid and perhaps split (train, query, gallery or test).

    A path is absolute or relative to the file's own folder; it comes back relative to `root`, with `/`.
    Raises DataError when the file is no such table, naming the line.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, skipinitialspace=True, strict=True)
            found = [one.strip() for one in reader.fieldnames or []]
            reader.fieldnames = found
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {error}; save it as CSV in UTF-8") from error
    lacking = [one for one in COLUMNS if one not in found]
    if lacking:
        raise DataError(
            f"{file} has the columns {', '.join(map(ascii, found)) or '(none)'}, but needs {', '.join(COLUMNS)} and may "
            "have split, separated by commas; write them in the first line"
        )
    if not rows:
        raise DataError(f"{file} names no images; write one line per image: path, pid, camid")
    named = []
    for number, row in rows:
        if None in row or None in row.values() or not all(row[one].strip() for one in COLUMNS):
            raise DataError(
                f"{file}: line {number} should have {len(found)} values, with path, pid and camid; correct it"
            )
        split = row.get("split", "").strip().lower()
        if "split" in found and split not in SPLITS:
            raise DataError(f"{file}: line {number}: split = {split!r} should be one of {', '.join(SPLITS)}")
        path = os.path.relpath(file.parent.resolve() / row["path"].strip(), root)
        named.append(Named(Path(path).as_posix(), row["pid"].strip(), row["camid"].strip(), split))
    return named


def read_partitions(file: Path) -> tuple[bool, list[set[tuple[int | str, ...]]]]:
    """Return the people of each official split, and whether they are the people tested (otherwise those trained on).

    A person is a tuple: its number, or camera pair and number. A .csv has the columns split (from 0), pair and pid of the
    people tested. A .mat is that of GRID: trainIdxAll, a struct per split whose third field numbers the people trained on.

    Raises DataError when the file cannot be read or is not laid out like that.
    Source: the third field: torchreid@58e6841:data/datasets/image/grid.py.
    """
    if file.suffix.lower() == ".mat":
        cells = load_mat(file, "trainIdxAll")["trainIdxAll"]
        try:
            return False, [{(int(one),) for one in cell.ravel()[0][2].ravel()} for cell in cells.ravel()]
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{file}: trainIdxAll is not as in GRID ({error}); get the file again") from error
    splits: dict[int, set[tuple[int | str, ...]]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            for row in csv.DictReader(text):
                splits.setdefault(int(row["split"]), set()).add((int(row["pair"]), int(row["pid"])))
    except (OSError, UnicodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"cannot read {file}: expected the columns split, pair, pid ({error}); unpack the set again"
        ) from error
    return True, [splits[one] for one in sorted(splits)]


def common_root(paths: Iterable[Path]) -> Path:
    """Return the folder that holds all the files."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def _lines(file: Path, folder: str) -> list[Named]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"cannot read {file}: {error}; extract the set again") from error
    named = []
    for number, line in enumerate(lines, start=1):
        words = line.replace("\\", "/").replace(",", " ").split()
        if not words:
            continue
        if len(words) not in (2, 3) or not _inside(words[0]):
            raise DataError(
                f"{file}: line {number} is {line[:100]!a}, expected a path and a person; extract the set again"
            )
        named.append(Named(_below(folder, words[0]), words[1], words[2] if len(words) == 3 else "", ""))
    if not named:
        raise DataError(f"{file} names no images; extract the set again")
    return named


def _new_protocol(file: Path, folder: str, part: str) -> list[Named]:
    key = f"{part}_idx"
    table = load_mat(file, "filelist", "labels", "camId", key)
    try:
        names = [str(one.ravel()[0]) for one in table["filelist"].ravel()]
        labels, cameras = table["labels"].ravel(), table["camId"].ravel()
        places = [int(one) - 1 for one in table[key].ravel()]
        if not places or min(places) < 0 or not all(map(_inside, names)):
            raise ValueError(f"{key} counts from 1, filelist holds names")
        return [Named(_below(folder, names[i]), str(int(labels[i])), str(int(cameras[i])), "") for i in places]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{file} is not as CUHK03's new protocol ({error}); get the file again") from error


def _inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def _below(folder: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(folder, path))
