"""The pixel cache: all images of a set, decoded and resized once, as one uint8 array on disk.

Behind the array of the .npy file stand the CRC-32 of each image, and that of the set's digest and of these numbers, so
that the pixels of another set are none of this one. CRC-32 is no proof against intent, but finds every burst of up to
32 bits and misses one accident of four billion; zlib's takes 6 microseconds for an image of 128x64, where embedding it
takes milliseconds.
"""

import functools
import hashlib
import io
import itertools
import math
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reidgen.data.images import decode, file_of, resized, windows
from reidgen.data.manifest import Prepared, load_index
from reidgen.errors import DataError
from reidgen.files import replacing, writable
from reidgen.locks import locked
from reidgen.runs import Progress


class Pack:
    """The pixels of a set's images, uint8 (N, H, W, 3), read-only and mapped from disk: memory holds what is touched.

    Indexed as an array along N. Each image is checked when it is first read. Raises DataError when it is damaged; the
    file is removed then, as it can be built again.
    """

    def __init__(self, file: Path, pixels_NHWC: NDArray[np.uint8], crc_N: NDArray[np.uint32]) -> None:
        self.file, self.shape, self.dtype, self.nbytes = file, pixels_NHWC.shape, pixels_NHWC.dtype, pixels_NHWC.nbytes
        self._pixels_NHWC, self._crc_N = pixels_NHWC, crc_N
        self._checked_N = np.zeros(len(crc_N), dtype=bool)

    def __len__(self) -> int:
        return len(self._crc_N)

    def __getitem__(self, images: int | slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        numbers = np.arange(len(self))[images].reshape(-1)
        for number in numbers[~self._checked_N[numbers]].tolist():
            if zlib.crc32(self._pixels_NHWC[number]) != self._crc_N[number]:
                raise self._damaged(number)
            self._checked_N[number] = True
        found: NDArray[np.uint8] = self._pixels_NHWC[images]
        return found

    def check(self) -> None:
        """Read all images. Raises DataError when one is damaged."""
        for number in range(len(self)):
            self[number]

    def _damaged(self, number: int) -> DataError:
        what = f"the pixel cache {self.file} is damaged: its image {number} is not what was written"
        try:
            self.file.unlink(missing_ok=True)
        except OSError:
            return DataError(f"{what}; remove it and repeat the command, which builds it again")
        return DataError(f"{what}; it was removed, repeat the command, which builds it again")


def load_pack(prepared: Prepared, height: int, width: int, report: Progress | None = None) -> tuple[list[str], Pack]:
    """Return the set's paths, sorted, and their pixels in the same order, built on the first call.

    The pixels are uint8 RGB (N, height, width, 3), mapped from pixels-HxW-<digest8>.npy, see `pack_file`. Images are
    resized by Pillow's bilinear filter, which averages when it shrinks.
    Building streams; packs of this size with another digest, and leftovers of killed builds, are removed.

    Raises DataError naming the file when an image has vanished or is not the one that was prepared.
    """
    index = load_index(prepared).drop_duplicates("path").sort_values("path")
    paths, digests = index["path"].tolist(), index["sha256"].tolist()
    shape = (len(paths), height, width, 3)
    file = pack_file(prepared, height, width)
    if (pixels := _mapped(file, shape, prepared.digest)) is None:
        with locked(file.parent):
            if _mapped(file, shape, prepared.digest) is None:
                for old in file.parent.glob(f"pixels-{height}x{width}-*.npy"):
                    old.unlink()
                for leftover in file.parent.glob(".pixels-*.part"):
                    leftover.unlink()
                beside = prepared.folder / file.name
                if beside != file and _mapped(beside, shape, prepared.digest):
                    _copy(beside, file, shape, prepared.digest)
                else:
                    _build(file, prepared, paths, digests, shape=shape, report=report)
        pixels = _mapped(file, shape, prepared.digest)
    assert pixels is not None
    return paths, pixels


def pack_file(prepared: Prepared, height: int, width: int) -> Path:
    """Return the file of the set's pixels at this size: where it lies, else where it will be written.

    Where REIDGEN_CACHE names a folder (such as a node's own disk), that is below it: copied from the set's folder where
    they are there, else built. Without it, it is the set's own folder; and where that has none and cannot be written,
    below the user's cache folder. There a set's pixels have a folder of their own, told by
    where the set lies, as several data folders may hold sets of one name.
    """
    name = f"pixels-{height}x{width}-{prepared.digest[:8]}.npy"
    beside = prepared.folder / name
    size = _bytes((prepared.counts["all"]["images"], height, width, 3))
    whole = beside.is_file() and beside.stat().st_size == size  # one of reidgen 0.1.0 has no checks
    if not os.environ.get("REIDGEN_CACHE") and (whole or writable(prepared.folder)):
        return beside
    return _cache_folder(prepared) / name


def _cache_folder(prepared: Prepared) -> Path:
    cache = os.environ.get("REIDGEN_CACHE")
    users = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(cache).expanduser() if cache else Path(users) / "reidgen"
    where = hashlib.sha256(str(prepared.folder.resolve()).encode()).hexdigest()[:8]
    return place / f"{prepared.name}-{where}"


def pack_bytes(prepared: Prepared, height: int, width: int) -> int:
    """Return the bytes that building the set's pixels at this size would write: 0 where they are there."""
    shape = (prepared.counts["all"]["images"], height, width, 3)
    return _bytes(shape) if _mapped(pack_file(prepared, height, width), shape, prepared.digest) is None else 0


def check_packs(prepared: Prepared) -> None:
    """Read every pack of the set as it is prepared now. Raises DataError when one is damaged."""
    images = load_index(prepared)["path"].nunique()
    folders = (prepared.folder, _cache_folder(prepared))
    for file in itertools.chain.from_iterable(
        sorted(folder.glob(f"pixels-*x*-{prepared.digest[:8]}.npy")) for folder in folders
    ):
        height, _, width = file.name.split("-")[1].partition("x")
        if not (height + width).isdigit():
            continue
        if pack := _mapped(file, (images, int(height), int(width), 3), prepared.digest):
            pack.check()


def _header(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return out.getvalue()


def _bytes(shape: tuple[int, ...]) -> int:
    """Return the size of the file: header, pixels, and the checks behind them."""
    return len(_header(shape)) + math.prod(shape) + 4 * shape[0] + 4


def _mapped(file: Path, shape: tuple[int, ...], digest: str) -> Pack | None:
    """Return the pack in `file`, or None when there is none, or not one of this shape and of the set with this digest
    with sound checks behind it.
    """
    header, size, images = _header(shape), math.prod(shape), shape[0]
    try:
        with file.open("rb") as content:
            if content.read(len(header)) != header:
                return None
            content.seek(len(header) + size)
            checks = content.read()
        crc_N = np.frombuffer(checks[:-4], dtype="<u4")
        if len(crc_N) != images or checks[-4:] != _last_check(checks[:-4], digest):
            return None
        return Pack(file, np.memmap(file, dtype=np.uint8, mode="r", offset=len(header), shape=shape), crc_N)
    except (OSError, ValueError):
        return None


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
        out.write(_header(shape))
        checks = bytearray()
        for (pixels, found), path, digest in zip(
            itertools.chain.from_iterable(windows(work, paths, what=what, report=report)), paths, digests, strict=True
        ):
            if found != digest:
                reason = found if pixels is None else "is not the image that was prepared"
                raise DataError(f"{prepared.name}: {prepared.root / path} {reason}; run: {prepared.again}")
            assert pixels is not None
            out.write(pixels.tobytes())
            checks += zlib.crc32(pixels.tobytes()).to_bytes(4, "little")
        out.write(checks + _last_check(checks, prepared.digest))


def _copy(there: Path, file: Path, shape: tuple[int, ...], digest: str) -> None:
    """Copy a pack to another disk, and read all of the copy. Raises DataError when an image of it is damaged."""
    with replacing(file) as temporary:
        shutil.copyfile(there, temporary)
        if (copied := _mapped(temporary, shape, digest)) is None:
            raise DataError(f"the pixel cache {there} could not be copied whole to {file.parent}; repeat the command")
        try:
            copied.check()
        except DataError as error:
            raise DataError(
                f"the pixel cache {there} is damaged, or was when it was copied to {file.parent}; remove it and repeat "
                "the command, which builds it again"
            ) from error


def _last_check(checks: bytes | bytearray, digest: str) -> bytes:
    return zlib.crc32(checks, zlib.crc32(digest.encode())).to_bytes(4, "little")


def _pixels(path: str, *, root: Path, size: tuple[int, int]) -> tuple[NDArray[np.uint8] | None, str]:
    """Return the resized image and its digest, or None and what is wrong with it."""
    try:
        image, digest = decode(file_of(root, path))
    except DataError as error:
        return None, str(error)
    return resized(image, size), digest
