"""Crops of nobody in particular, of a prepared set or of any folder: which, of which camera, and pixels. No torch.

Shapes: N crops, B crops of a window, H x W pixels.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidgen.data.collection import collect
from reidgen.data.images import WINDOW, decode, file_of, resized, windows
from reidgen.data.manifest import load_index, load_prepared
from reidgen.data.naming import shown
from reidgen.data.pack import Pack, load_pack, pack_bytes
from reidgen.errors import DataError
from reidgen.features.store import DIGITS
from reidgen.files import sha256_file
from reidgen.runs import Progress

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Crops:
    """name: of the prepared set, or the folder or list; root: what paths are relative to. paths: N texts, sorted.
    camera_N: int64, the number of each one's camera in `cameras`; where no camera is known, `cameras` is empty and
    every crop has a number of its own, so that all others are "of another camera". remarks: sentences, such as what was
    left out. packed: gives the pixels of a prepared set of a size, None where the images themselves have to be read.
    """

    name: str
    root: Path
    paths: list[str]
    camera_N: NDArray[np.int64]
    cameras: list[str]
    remarks: list[str]
    packed: "Callable[[Size, Progress], _Rows | None]"

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def group_N(self) -> NDArray[np.int64]:
        """The camera of each crop, 0 of all where no camera is known."""
        return self.camera_N if self.cameras else np.zeros(len(self), dtype=np.int64)


class Window(NamedTuple):
    """Crops that could be read. rows_B: their rows; pixels: size -> uint8 (B, H, W, 3); broken: path -> why not."""

    rows_B: NDArray[np.int64]
    pixels: dict[Size, NDArray[np.uint8]]
    broken: dict[str, str]


def of_target(name: str, data: Path) -> Crops:
    """Return the crops of the test part of a prepared set, each file once. Who is on them is not looked at.

    Raises DataError when it is not prepared, or has no such crops.
    """
    prepared = load_prepared(name, data)
    index = load_index(prepared)
    tested = index[index["part"] != "train"].drop_duplicates("path").sort_values("path", ignore_index=True)
    if tested.empty:
        raise DataError(f"{name} has no images beside its training part, so there is nothing to judge a run on")
    camera = tested["camid"].map(lambda number: prepared.cameras.get(str(number), str(number)))

    def packed(size: Size, report: Progress) -> _Rows | None:
        if pack_bytes(prepared, *size):
            return None  # it would be written for this alone
        paths, pack = load_pack(prepared, *size, report)
        return _Rows(pack, np.searchsorted(paths, tested["path"].to_numpy(dtype=str)))

    return _crops(name, prepared.root, tested["path"].to_list(), camera, [], packed)


def of_images(images: Path, pattern: str | None = None) -> Crops:
    """Return the crops of a folder or a list, as `reidgen embed` takes them. Raises DataError."""
    found = collect(images, pattern)
    return _crops(
        str(images), found.root, found.crops["path"].to_list(), found.crops["camera"], found.remarks, lambda *_: None
    )


def _crops(
    name: str,
    root: Path,
    paths: list[str],
    camera: "pd.Series[str]",
    remarks: list[str],
    packed: "Callable[[Size, Progress], _Rows | None]",
) -> Crops:
    """Return the crops whose camera is known, or where none is, all."""
    known = (camera != "").to_numpy()
    if not known.any():
        return Crops(name, root, paths, np.arange(len(paths)), [], remarks, packed)
    if not known.all():
        remarks = [*remarks, f"left out, as their camera is not known: {int((~known).sum()):,} of {len(paths):,} crops"]
    names = sorted(set(camera[known]), key=lambda one: (len(one), one))
    rows = np.flatnonzero(known)

    def some(size: Size, report: Progress) -> _Rows | None:
        pixels = packed(size, report)
        return pixels if pixels is None or known.all() else _Rows(pixels, rows)

    number_N = camera[known].map(names.index).to_numpy(dtype=np.int64)
    return Crops(name, root, [paths[row] for row in rows], number_N, names, remarks, some)


class _Rows:
    """Some rows of a pixel cache, read when they are asked for."""

    def __init__(self, array: "NDArray[np.uint8] | Pack | _Rows", rows: NDArray[np.int64]) -> None:
        self._array, self._rows = array, rows

    def __getitem__(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._array[self._rows[wanted]]


def read_windows(crops: Crops, sizes: Iterable[Size], report: Progress) -> Iterator[Window]:
    """Yield all crops, WINDOW at a time, at every size: memory holds one window. Images that cannot be read are said.

    Of a prepared set the pixel cache is read where there is one of a size.
    """
    sizes = list(dict.fromkeys(sizes))
    packs = {size: pack for size in sizes if (pack := crops.packed(size, report)) is not None}
    rest = [size for size in sizes if size not in packs]
    work = functools.partial(_read, root=crops.root, sizes=rest)
    with contextlib.closing(windows(work, crops.paths, what="reading")) as decoded:
        for start in range(0, len(crops), WINDOW):
            rows_B = np.arange(start, min(start + WINDOW, len(crops)))
            read = next(decoded) if rest else [{} for _ in rows_B]
            broken = {crops.paths[row]: one for row, one in zip(rows_B, read, strict=True) if isinstance(one, str)}
            good = [(row, one) for row, one in zip(rows_B, read, strict=True) if not isinstance(one, str)]
            rows_B = np.array([row for row, _ in good], dtype=np.int64)
            pixels = {size: pack[rows_B] for size, pack in packs.items()}
            pixels |= {size: np.stack([one[size] for _, one in good]) for size in rest if good}
            yield Window(rows_B, pixels, broken)
            report("embedding", start + len(read), len(crops))


def _read(path: str, *, root: Path, sizes: list[Size]) -> dict[Size, NDArray[np.uint8]] | str:
    try:
        image, _ = decode(file_of(root, path))
    except DataError as error:
        return str(error)
    return {(height, width): resized(image, (width, height)) for height, width in sizes}


def drawn(paths: list[str], number: int, *words: int | str) -> NDArray[np.int64]:
    """Return `number` rows (all where there are fewer) in an order that the words decide, int64.

    An even draw without replacement that is the same on every machine: each path's SHA-256 with the words.

    >>> drawn(["a.jpg", "b.jpg", "c.jpg"], 2, "queries", 0).tolist()
    [0, 2]
    """
    key = "/".join(map(str, words))
    order = [hashlib.sha256(f"{key}/{path}".encode("utf-8", "surrogateescape")).digest() for path in paths]
    return np.array(sorted(range(len(paths)), key=lambda row: order[row])[:number], dtype=np.int64)


def digest_of(crops: Crops, path: str) -> str:
    """Return the first hex digits of the SHA-256 of an image's file. Raises DataError naming it."""
    try:
        return sha256_file(file_of(crops.root, path))[:DIGITS]
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read ({error.strerror or error})") from error
