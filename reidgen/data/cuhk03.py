"""CUHK03 as it was published: one MATLAB 7.3 file (HDF5) with all images and the 20 classic test sets."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reidgen.errors import BrokenArchiveError
from reidgen.files import opened, write_text
from reidgen.runs import Progress

FOLDERS = {"labeled": "images_labeled", "detected": "images_detected"}
SIDE = 2000  # pixels; its largest image has some hundreds
CELLS = 100_000  # members of one cell array or table; the largest has 8,430


def is_hdf5(file: Path) -> bool:
    """Tell whether the file is HDF5, which is what MATLAB 7.3 writes."""
    with opened(file) as raw:  # the signature stands at the beginning, or behind MATLAB's 512 bytes
        return b"\x89HDF\r\n\x1a\n" in raw.read(520)


def unpack_mat(file: Path, into: Path, limit: int, report: Progress | None = None) -> int:
    """Write the images of cuhk-03.mat to into/images_labeled and into/images_detected, and into/testsets.csv;
    return the bytes of all pixels.

    An image is named pair_person_view_index.png, such as 1_001_1_01.png: camera pair 1-5, person in that pair from 1,
    view 1 (index 1-5) or 2 (index 6-10). testsets.csv: split (from 0), pair, pid. Raises BrokenArchiveError when the file is
    not laid out like that, keeps what it holds elsewhere (links, external and virtual storage: HDF5 would read any file
    of the machine), says that an array is absurdly large, or its pixels, which many cells may share, have more than
    `limit` bytes.

    Source: the README of cuhk03_release; names as in torchreid and the new protocol's file lists. MATLAB stores arrays
    by columns, so HDF5 shows every one of them transposed.
    """
    import h5py  # type: ignore[import-untyped]

    total = 0
    try:
        with h5py.File(file) as mat:
            for key, name in FOLDERS.items():
                (into / name).mkdir()
                pairs = _cells(mat, _named(mat, key))
                for number, pair in enumerate(pairs, start=1):
                    for image, label in _images(mat, pair, number):
                        if (total := total + image.nbytes) > limit:
                            raise BrokenArchiveError(
                                f"{file} is not unpacked: its images have more than {limit:,} bytes, which is absurd; "
                                "get it again"
                            )
                        Image.fromarray(image).save(into / name / f"{label}.png")
                    if report:
                        report(f"unpack {file.name}, {name}", number, len(pairs))
            lines = [
                f"{split},{int(pair)},{int(pid)}"
                for split, pairs in enumerate(_cells(mat, _named(mat, "testsets")))
                for pair, pid in _numbers(pairs).T
            ]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise BrokenArchiveError(
            f"{file} is no whole cuhk-03.mat ({str(error) or type(error).__name__}); get it again"
        ) from error
    except OSError as error:
        if error.errno is None:  # HDF5's own; a full disk has a number
            raise BrokenArchiveError(f"{file} is no whole cuhk-03.mat (HDF5 cannot read it); get it again") from error
        raise
    write_text(into / "testsets.csv", "\n".join(["split,pair,pid", *lines]) + "\n")
    return total


def _named(mat: Any, key: str) -> Any:
    """Return what lies in the file itself under that name."""
    import h5py

    if not isinstance(mat.get(key, getlink=True), h5py.HardLink):
        raise ValueError(f"{key} is a link")
    return mat[key]


def _whole(table: Any, most: int) -> Any:
    """Return the array that a data set holds, in this file and of `most` members, before a byte of it is read."""
    import h5py

    if not isinstance(table, h5py.Dataset):
        raise ValueError(f"{table.name} is no array")
    if table.external or table.is_virtual:
        raise ValueError(f"{table.name} is kept in another file")
    chunk = math.prod(table.chunks or ())  # which is read as a whole
    if max(table.size or 0, chunk) > most:
        raise ValueError(f"{table.name} says that it has {max(table.size or 0, chunk):,} members")
    return table[()]


def _references(cells: Any) -> np.ndarray[Any, np.dtype[np.object_]]:
    import h5py

    if h5py.check_ref_dtype(cells.dtype) is not h5py.Reference:
        raise ValueError(f"{cells.name} is {cells.dtype}, and no array of cells")
    return np.asarray(_whole(cells, CELLS))


def _cells(mat: Any, cells: Any) -> list[Any]:
    """Return what a MATLAB cell array of one row or column refers to."""
    return [mat[one] for one in _references(cells).ravel()]


def _numbers(table: Any) -> np.ndarray[Any, np.dtype[Any]]:
    if table.dtype.kind not in "iuf":
        raise ValueError(f"{table.name} is {table.dtype}, and no numbers")
    return np.asarray(_whole(table, CELLS))


def _images(mat: Any, pair: Any, number: int) -> Iterator[tuple[np.ndarray[Any, np.dtype[np.uint8]], str]]:
    """Yield the images of one camera pair (H, W, 3) and their names; a missing image is an empty array."""
    persons = _references(pair).T  # MATLAB: persons x 10; HDF5 shows 10 x persons
    for person, references in enumerate(persons, start=1):
        for index, reference in enumerate(references, start=1):
            image = mat[reference]
            if image.ndim < 3:
                continue
            if image.dtype != np.uint8 or image.shape[0] != 3 or max(image.shape) > SIDE:
                raise ValueError(f"image {index} of person {person} in pair {number} is {image.dtype} {image.shape}")
            yield _whole(image, 3 * SIDE * SIDE).T, f"{number}_{person:03d}_{1 if index <= 5 else 2}_{index:02d}"
