"""The pixel cache: all images of a set, decoded and resized once, as one uint8 array on disk."""

import functools
import hashlib
import itertools
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reidgen.data.images import decode, file_of, locked, windows
from reidgen.data.manifest import Prepared, load_index
from reidgen.errors import DataError
from reidgen.files import replacing, writable
from reidgen.runs import Progress

Pack = np.memmap[tuple[int, ...], np.dtype[np.uint8]]


def load_pack(prepared: Prepared, height: int, width: int, report: Progress | None = None) -> tuple[list[str], Pack]:
    """Return the set's paths, sorted, and their pixels in the same order, built on the first call.

    The pixels are uint8 RGB (N, height, width, 3), read-only and mapped from pixels-HxW-<digest8>.npy, see `pack_file`:
    memory holds what is touched. Images are resized by Pillow's bilinear filter, which averages when it shrinks.
    Building streams; packs of this size with another digest, and leftovers of killed builds, are removed.

    Raises DataError naming the file when an image has vanished or is not the one that was prepared.
    """
    index = load_index(prepared).drop_duplicates("path").sort_values("path")
    paths, digests = index["path"].tolist(), index["sha256"].tolist()
    shape = (len(paths), height, width, 3)
    file = pack_file(prepared, height, width)
    if (pixels := _mapped(file, shape)) is None:
        with locked(file.parent):
            if _mapped(file, shape) is None:
                for old in file.parent.glob(f"pixels-{height}x{width}-*.npy"):
                    old.unlink()
                for leftover in file.parent.glob(".pixels-*.part"):
                    leftover.unlink()
                _build(file, prepared, paths, digests, shape=shape, report=report)
        pixels = _mapped(file, shape)
    assert pixels is not None
    return paths, pixels


def pack_file(prepared: Prepared, height: int, width: int) -> Path:
    """Return the file of the set's pixels at this size: where it lies, else where it will be written.

    That is the set's own folder; where REIDGEN_CACHE names a folder, below that; and where neither is so and the set's
    folder cannot be written, below the user's cache folder. There a set's pixels have a folder of their own, told by
    where the set lies, as several data folders may hold sets of one name.
    """
    name = f"pixels-{height}x{width}-{prepared.digest[:8]}.npy"
    beside = prepared.folder / name
    cache = os.environ.get("REIDGEN_CACHE")
    if beside.is_file() or (not cache and writable(prepared.folder)):
        return beside
    users = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(cache).expanduser() if cache else Path(users) / "reidgen"
    where = hashlib.sha256(str(prepared.folder.resolve()).encode()).hexdigest()[:8]
    return place / f"{prepared.name}-{where}" / name


def pack_bytes(prepared: Prepared, height: int, width: int) -> int:
    """Return the bytes that building the set's pixels at this size would write: 0 where they are there."""
    images = prepared.counts["all"]["images"]
    there = _mapped(pack_file(prepared, height, width), (images, height, width, 3))
    return images * height * width * 3 if there is None else 0


def _mapped(file: Path, shape: tuple[int, ...]) -> Pack | None:
    """Return the array in `file`, or None when there is none or not of this shape."""
    try:
        pixels = np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None


def _build(
    file: Path,
    prepared: Prepared,
    paths: list[str],
    digests: list[str],
    *,
    shape: tuple[int, ...],
    report: Progress | None,
) -> None:
    """Write the .npy file window by window, so that memory holds one window at most."""
    work = functools.partial(_pixels, root=prepared.root, size=(shape[2], shape[1]))
    what = f"pack {prepared.name} {shape[1]}x{shape[2]}"
    with replacing(file) as temporary, temporary.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for (pixels, found), path, digest in zip(
            itertools.chain.from_iterable(windows(work, paths, what=what, report=report)), paths, digests, strict=True
        ):
            if found != digest:
                reason = found if pixels is None else "is not the image that was prepared"
                raise DataError(f"{prepared.name}: {prepared.root / path} {reason}; run: {prepared.again}")
            assert pixels is not None
            out.write(pixels.tobytes())


def _pixels(path: str, *, root: Path, size: tuple[int, int]) -> tuple[NDArray[np.uint8] | None, str]:
    """Return the resized image and its digest, or None and what is wrong with it."""
    try:
        image, digest = decode(file_of(root, path))
    except DataError as error:
        return None, str(error)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR)), digest
