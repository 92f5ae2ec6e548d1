"""Files that name the images of a part, and the official partitions: text lines, CSV tables and MATLAB files."""

import codecs
import csv
import io
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from reidgen.data.mat import load_mat
from reidgen.data.naming import shown
from reidgen.entries import PARTS
from reidgen.errors import DataError
from reidgen.files import read_regular

TABLES = (".csv", ".tsv", ".txt")  # files of own crops that name path, person and camera
COLUMNS = ("path", "pid", "camid")
SPLITS = (*PARTS, "test")
# How others call the columns and the parts.
_COLUMN_NAMES = {
    "path": "path file filename file_name filepath file_path image image_name image_path img img_name img_path impath",
    "pid": "pid person person_id personid identity identity_id label id pers_id",
    "camid": "camid cam cam_id camera camera_id cameraid",
    "split": "split part subset set",
    "is_query": "is_query isquery query",
    "is_gallery": "is_gallery isgallery gallery",
}
_SPLIT_NAMES = {
    "train": "train training",
    "query": "query queries probe",
    "gallery": "gallery",
    "test": "test testing",
    "val": "val valid validation dev",
}
_COLUMN = {word: key for key, words in _COLUMN_NAMES.items() for word in words.split()}
_SPLIT = {word: key for key, words in _SPLIT_NAMES.items() for word in words.split()}
_NOTHING = ("nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "N/A", "NA")  # what tables write for nothing
_YES, _NO = ("1", "1.0", "true", "yes", "y", "t"), ("", "0", "0.0", "false", "no", "n", "f")


class Listed(NamedTuple):
    """An image of a list that need not say who is on it: its path below the list's folder (or relative to it), and
    what the list says of person, camera and track (crops that follow each other), "" where it does not."""

    path: str
    pid: str
    camid: str
    track: str


class Named(NamedTuple):
    """An image on a list: its path below the image root; person and camera as the list says them, "" where it does not
    (a person who is not known is of the gallery); split: the part to which the list gives it, "" where all of them are
    of one part, "val" where it belongs to none."""

    path: str
    pid: str
    camid: str
    split: str


def beside(root: Path, file: str) -> Path | None:
    """Return where `file` lies: below the image root, or beside it; None when it is in neither place."""
    places = [place / file for place in (root, root.parent)]
    return next((place for place in places if place.is_file()), None)


def read_list(file: Path, *, root: Path, folder: str, part: str, table: bool = False) -> list[Named]:
    """Return the images of `part` that a list file names, in its order.

    A text holds lines "path person [camera]", the path below root/folder, with blanks or commas between them and `/` or
    `\\` in it. A .csv, or any list where `table` says so, is
    read by `read_table`. A .mat is that of CUHK03's new protocol: filelist (below root/folder), labels, camId, and of
    each part the places in them, from 1.

    Raises DataError when the file cannot be read, is not laid out like that, names an image that is not there.
    """
    table = table or file.suffix.lower() == ".csv"
    if table:
        named = [one for one in read_table(file, root) if one.split in ("", part)]
    elif file.suffix.lower() == ".mat":
        named = _new_protocol(file, folder, part)
    else:
        named = _lines(file, folder)
    paths = [one.path for one in named]
    missing = [path for path in paths if not (_inside(path) and (root / path).is_file())]
    if missing:
        cure = "correct the path or the file" if table else "extract the set again, or correct the list"
        raise DataError(
            f"{file} names {len(paths):,} {part} images, but {len(missing):,} of them are not in {root}, such as "
            f"{shown(missing[0])!r}; {cure}"
        )
    return named


def read_table(file: Path, root: Path) -> list[Named]:
    """Return the rows of a table with the columns path, pid, camid and perhaps split (train, query, gallery or test).

    Columns may be called and parted as others do: see _COLUMN_NAMES and _SPLIT_NAMES; commas, semicolons, tabs or
    blanks between them; is_query and is_gallery instead of split; no first line with names, where three values begin
    with an image. A path is absolute or relative to the file's own folder, with `/` or `\\`; it comes back relative to
    `root`, with `/`. Numbers as spreadsheets write them (7.0) are those numbers, nan is nothing. An image that is query
    and gallery comes back twice. Without a pid (and camid) an image is of the gallery, and of nobody. `val` is the test
    part where there is no other.

    Raises DataError when the file is no such table, naming the line.
    """
    head, rows = _cells(file, (3, 4))
    found = _found_columns(file, head, _COLUMN, COLUMNS)
    if not rows:
        raise DataError(f"{file} names no images; write one line per image: path, pid, camid")
    base, named = file.parent.resolve(), []
    for number, cells in rows:
        row = dict.fromkeys(found, "") | dict(zip(found, cells, strict=False))
        pid, camid = _value(row["pid"]), _value(row["camid"])
        if len(cells) != len(found) or not row["path"] or (pid and not camid):
            wanted = [one for one in found if one]
            raise DataError(
                f"{file}: line {number} should have {len(found)} values, with path, pid and camid; correct it, for "
                f"example to: {','.join(_EXAMPLE.get(one, '') for one in wanted)}"
            )
        path = Path(os.path.relpath(_image(base, row["path"]), root)).as_posix()
        for split in _splits(file, number, row):
            if not pid and split in ("train", "query"):
                raise DataError(f"{file}: line {number}: {split} images need a pid; write it, or gallery instead")
            named.append(Named(path, pid, camid, split))
    return _placed(named)


def read_images(file: Path) -> list[Listed]:
    """Return the rows of a table as `read_table` takes it, of which the path alone must be there; a text of one path
    per line will do, and a column may be called track. Paths come back relative to the file's own folder, with `/`.

    Raises DataError when the file cannot be read, or a line has no path.
    """
    head, rows = _cells(file, (1, 3, 4))
    found = _found_columns(file, head, _COLUMN | dict.fromkeys(_TRACK.split(), "track"), COLUMNS[:1])
    if not rows:
        raise DataError(f"{file} names no images; write the path of one per line, behind a first line path,camid")
    base, listed = file.parent.resolve(), []
    for number, cells in rows:
        row = dict.fromkeys(("pid", "camid", "track"), "") | dict(zip(found, cells, strict=False))
        if not row.get("path"):
            raise DataError(f"{file}: line {number} has no path; write one, or remove the line")
        path = Path(os.path.relpath(_image(base, row["path"]), base)).as_posix()
        listed.append(Listed(path, *(_value(row[key]) for key in ("pid", "camid", "track"))))
    return listed


_TRACK = "track tracklet trackid track_id trackletid tracklet_id"
_EXAMPLE = {"path": "images/0001.jpg", "pid": "7", "camid": "2", "split": "gallery", "is_query": "0", "is_gallery": "1"}


def _placed(named: list[Named]) -> list[Named]:
    """Return the rows with `val` as the test part where there is no other, and as gallery where nobody is named."""
    splits = {one.split for one in named}
    if "val" in splits and not splits & {"query", "gallery", "test"}:
        named = [one._replace(split="test") if one.split == "val" else one for one in named]
    tested = [one for one in named if one.split in ("", "test")]
    if tested and not splits & {"query", "gallery"} and not any(one.pid for one in tested):
        named = [one._replace(split="gallery") if one.split in ("", "test") else one for one in named]
    return named


def _cells(file: Path, bare: tuple[int, ...]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the cells of a table's first line, and (number, cells) of the others, parted as the first line tells.

    bare: how many columns a table may have that begins with an image, and not with names of its columns.
    """
    text = text_of(file)
    first = next((line for line in text.splitlines() if line.strip()), "")

    def known(delimiter: str) -> tuple[int, int]:
        cells = first.split(delimiter)
        return sum(_key(one.strip(' "')) in _COLUMN for one in cells), len(cells)

    delimiter = max((",", "\t", ";", "|"), key=known)
    blanks = known(delimiter)[1] == 1 and len(first.split()) > 2
    found: list[tuple[int, list[str]]] = []
    try:
        if blanks:
            found = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1)]
        else:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
            found = [(reader.line_num, [one.strip() for one in cells]) for cells in reader]
    except csv.Error as error:
        raise DataError(f"cannot read {file}: {error}; save it as CSV in UTF-8") from error
    found = [(number, cells) for number, cells in found if any(cells)]
    head = found[0][1] if found else []
    while head and not head[-1]:  # a comma at the end of the line
        head = head[:-1]
    if not any(_key(one) in _COLUMN for one in head) and len(head) in bare and _is_image(head[0]):
        named = [*COLUMNS, "split"][: len(head)]
        return named, [(number, _trimmed(cells, len(named))) for number, cells in found]
    return head, [(number, _trimmed(cells, len(head))) for number, cells in found[1:]]


def _trimmed(cells: list[str], length: int) -> list[str]:
    while len(cells) > length and not cells[-1]:
        cells = cells[:-1]
    return cells


def _is_image(cell: str) -> bool:
    return bool(re.fullmatch(r".*[^.\\/]\.[A-Za-z][A-Za-z0-9]{2,4}", cell)) and not cell.lower().endswith(TABLES)


def _key(cell: str) -> str:
    return re.sub(r"[ -]", "_", cell.casefold())


def _found_columns(file: Path, head: list[str], known: Mapping[str, str], needed: tuple[str, ...]) -> list[str]:
    """Return what each column holds, "" where that is nothing `known`."""
    keys = [known.get(_key(one), "") for one in head]
    for key in set(keys) - {""}:
        places = [place for place, one in enumerate(keys) if one == key]
        exact = [place for place in places if _key(head[place]) == key]
        if len(places) > 1 and len(exact) != 1:
            both = " and ".join(shown(head[place]) for place in places)
            raise DataError(f"{file} has the columns {both}; call the one that holds the {key} {key}")
        for place in places:
            if len(places) > 1 and place != exact[0]:
                keys[place] = ""
    if lacking := [one for one in needed if one not in keys]:
        names = ", ".join(repr(shown(one)) for one in head[:9]) or "(none)"
        more = "split" if needed == COLUMNS else "pid, camid and track"
        line = ",".join([*COLUMNS, "split"] if len(head) > 3 else COLUMNS if needed == COLUMNS else ["path", "camid"])
        raise DataError(
            f"{file} has the columns {names}, but needs {', '.join(needed)} and may have {more} (no {lacking[0]} is "
            f"there); write this as its first line: {line}"
        )
    return keys


def _value(cell: str) -> str:
    """Return a person or camera as it is meant: "" for nothing, 7 for 7.0."""
    if cell in _NOTHING:
        return ""
    return cell.partition(".")[0] if re.fullmatch(r"-?[0-9]+\.0+", cell) else cell


def _image(base: Path, cell: str) -> Path:
    """Return the path that a cell means, as it is written or, where that is not there, with `\\` as the separator."""
    path = base / Path(cell).expanduser() if cell.startswith("~") else base / cell
    return base / cell.replace("\\", "/") if "\\" in cell and not path.exists() else path


def _splits(file: Path, number: int, row: dict[str, str]) -> list[str]:
    """Return the parts to which a row gives its image, "" where the table names none."""
    split = _SPLIT.get(row.get("split", "").casefold(), "")
    if row.get("split") and not split:
        raise DataError(f"{file}: line {number}: split = {shown(row['split'])!r} should be one of {', '.join(SPLITS)}")
    flags = {part: row[f"is_{part}"].casefold() for part in ("query", "gallery") if f"is_{part}" in row}
    flags = {part: "" if flag in map(str.casefold, _NOTHING) else flag for part, flag in flags.items()}
    if odd := [flag for flag in flags.values() if flag not in _YES + _NO]:
        raise DataError(f"{file}: line {number}: is_query and is_gallery are 0 or 1, not {shown(odd[0])!r}")
    both = [part for part, flag in flags.items() if flag in _YES]
    if split in ("train", "query", "gallery") or not flags:
        if "split" in row and not split:
            raise DataError(f"{file}: line {number}: split = '' should be one of {', '.join(SPLITS)}")
        return [split]
    if not both:
        raise DataError(f"{file}: line {number} is neither query nor gallery; write 1 in one, or train as its split")
    return both


def text_of(file: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark; the mark is left out.

    Raises DataError when it cannot be read or is in another encoding.
    """
    try:
        content = read_regular(file)
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}; save it as CSV in UTF-8") from error
    except UnicodeError as error:
        raise DataError(f"cannot read {file}: {error}; save it as CSV in UTF-8") from error


def read_partitions(file: Path) -> tuple[bool, list[set[tuple[int | str, ...]]]]:
    """Return the people of each official split, and whether they are the people tested (otherwise those trained on).

    A person is a tuple: its number, or camera pair and number. A .csv has the columns split (from 0), pair and pid of
    the people tested. A .mat is that of GRID: trainIdxAll, a struct per split whose third field numbers the people
    trained on.

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
        for row in csv.DictReader(io.StringIO(text_of(file), newline="")):
            splits.setdefault(int(row["split"]), set()).add((int(row["pair"]), int(row["pid"])))
    except (DataError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"cannot read {file}: expected the columns split, pair, pid ({error}); unpack the set again"
        ) from error
    return True, [splits[one] for one in sorted(splits)]


def common_root(paths: Iterable[Path]) -> Path:
    """Return the folder that holds all the files."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def _lines(file: Path, folder: str) -> list[Named]:
    named = []
    for number, line in enumerate(text_of(file).splitlines(), start=1):
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
