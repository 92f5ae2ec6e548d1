"""Archives, MATLAB files and TOML that someone made in order to do harm, or that an odd tool made: small, and built in memory.

TARS, HDF5, MATLAB and TOML: name -> (content, a part of the sentence with which it is refused).
"""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

Content = Callable[[], bytes]


def tar_of(members: Iterable[tuple[str | bytes, bytes]], *, zipped: bool = False) -> bytes:
    """Return a tar (or tar.gz) of members whose names may be raw bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if zipped else "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zip_of(members: Iterable[tuple[str | bytes, bytes]]) -> bytes:
    """Return a zip of members under exactly these names; bytes are written as they are, without the flag for UTF-8."""
    members = list(members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, (name, content) in enumerate(members):
            info = zipfile.ZipInfo("x")
            info.filename = name if isinstance(name, str) else f"{number:08d}".ljust(len(name), "#")
            archive.writestr(info, content)
    packed = file.getvalue()
    for number, (name, _) in enumerate(members):
        if isinstance(name, bytes):
            assert len(name) >= 8
            packed = packed.replace(f"{number:08d}".ljust(len(name), "#").encode(), name)
    return packed


def _header(kind: bytes, size: int, name: str = "x") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def _record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    size = len(body) + len(str(len(body)))
    return f"{size if len(str(size)) == len(str(len(body))) else size + 1}".encode() + body


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def tar_with_header(kind: bytes, size: int) -> bytes:
    """Return a tar.gz of some kilobytes whose first header has `size` zeros."""
    return gzip.compress(_header(kind, size) + bytes(size) + _header(tarfile.REGTYPE, 0) + bytes(1024), 1)


def tar_of_folders(count: int) -> bytes:
    return gzip.compress(b"".join(_header(tarfile.DIRTYPE, 0, f"d{i % 10}/") for i in range(count)) + bytes(1024), 1)


def tar_with_tail(size: int) -> bytes:
    """Return a tar.gz of one file that goes on with zeros behind its end."""
    return gzip.compress(_header(tarfile.REGTYPE, 1) + _padded(b"x") + bytes(size), 1)


def tar_with_globals(count: int) -> bytes:
    records = b"".join(_record(f"k{i}", "v") for i in range(count))
    return _header(tarfile.XGLTYPE, len(records)) + _padded(records) + _header(tarfile.REGTYPE, 0) + bytes(1024)


def tar_of_holes(size: int) -> bytes:
    """Return a tar.gz of one file whose map of holes takes `size` bytes."""
    records = b"".join(
        _record(f"GNU.sparse.{key}", value) for key, value in (("major", "1"), ("minor", "0"), ("name", "x"))
    )
    head = _header(tarfile.XHDTYPE, len(records)) + _padded(records)
    return gzip.compress(head + _header(tarfile.REGTYPE, size) + b"99999999\n" + b"1\n" * (size // 2) + bytes(1024), 1)


MEGABYTES = 4  # set what an archive may have to less
TARS: dict[str, tuple[Content, str]] = {
    "a PAX header": (lambda: tar_with_header(tarfile.XHDTYPE, 2**22), "headers have more than 1,048,576 bytes"),
    "a PAX header that is not there": (
        lambda: _header(tarfile.XHDTYPE, 2**33) + bytes(1024), "headers have more than 1,048,576 bytes",
    ),
    "a global PAX header": (lambda: tar_with_header(tarfile.XGLTYPE, 2**22), "headers have more than 1,048,576 bytes"),
    "a long name": (lambda: tar_with_header(tarfile.GNUTYPE_LONGNAME, 2**22), "headers have more than 1,048,576 bytes"),
    "a long link": (lambda: tar_with_header(tarfile.GNUTYPE_LONGLINK, 2**22), "headers have more than 1,048,576 bytes"),
    "a map of holes": (lambda: tar_of_holes(2**22), "headers have more than 1,048,576 bytes"),
    "settings for all files": (lambda: tar_with_globals(200), "more than 100 global headers"),
    "folders": (lambda: tar_of_folders(MEGABYTES * 2048), "which is absurd"),
    "zeros behind its end": (lambda: tar_with_tail(MEGABYTES * 2**20), "which is absurd"),
}  # fmt: skip


# --- cuhk-03.mat --------------------------------------------------------------------------------------------------


def _hdf5(change: Callable[[object, Path], None]) -> Callable[[Path], Path]:
    """Return what writes a cuhk-03.mat into a folder, changed, beside the file secret.bin that it is not to read."""

    def build(folder: Path) -> Path:
        import h5py
        import layouts

        (folder / "secret.bin").write_bytes(b"secret" * 100)
        mat = layouts.build("cuhk03-detected", folder / "in") / "cuhk03_release" / "cuhk-03.mat"
        with h5py.File(mat, "r+") as file:
            change(file, folder)
        return mat

    return build


def _first_image(file) -> str:  # type: ignore[no-untyped-def]
    """Return the name of the first image of the first camera pair."""
    for row in file[file["labeled"][0, 0]][()].T:
        for reference in row:
            if file[reference].ndim == 3:
                return str(file[reference].name)
    raise AssertionError


def _points_to(file, table) -> None:  # type: ignore[no-untyped-def]
    """Put the array where the first image of the first camera pair was."""
    cells = file[file["labeled"][0, 0]]
    cells[0, 0] = table.ref


def _external(file, folder: Path) -> None:  # type: ignore[no-untyped-def]
    stored = [(str(folder / "secret.bin"), 0, 384)]
    _points_to(file, file.create_dataset("evil", shape=(3, 8, 16), dtype="u1", external=stored))


def _virtual(file, folder: Path) -> None:  # type: ignore[no-untyped-def]
    import h5py

    layout = h5py.VirtualLayout(shape=(3, 8, 16), dtype="u1")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", shape=(3, 8, 16))
    _points_to(file, file.create_virtual_dataset("evil", layout))


def _linked(how: str) -> Callable[[object, Path], None]:
    def change(file, folder: Path) -> None:  # type: ignore[no-untyped-def]
        import h5py

        file.move("labeled", "hidden")
        file["labeled"] = h5py.SoftLink("/hidden") if how == "soft" else h5py.ExternalLink(str(folder / "o.h5"), "/x")

    return change


def _large(name: str, kind: str, shape: tuple[int, ...]) -> Callable[[object, Path], None]:
    """An array of nothing that says it is large: HDF5 keeps what was never written in no byte."""

    def change(file, folder: Path) -> None:  # type: ignore[no-untyped-def]
        import h5py

        dtype = h5py.ref_dtype if kind == "cells" else kind
        table = file.create_dataset("evil", shape=shape, dtype=dtype, chunks=True)
        if name == "pair":
            file["labeled"][0, 0] = table.ref
        elif name == "image":
            _points_to(file, table)
        elif name == "testset":
            file["testsets"][0, 0] = table.ref
        else:
            del file[name]
            file.move("evil", name)

    return change


def _chunky(file, folder: Path) -> None:  # type: ignore[no-untyped-def]
    table = file.create_dataset("evil", (3, 8, 16), "u1", chunks=(3, 2**12, 2**12), maxshape=(3, None, None),
                                compression="gzip")  # fmt: skip
    table[:] = 1
    _points_to(file, table)


HDF5: dict[str, tuple[Callable[[Path], Path], str]] = {
    "external storage": (_hdf5(_external), "is kept in another file"),
    "virtual storage": (_hdf5(_virtual), "is kept in another file"),
    "a soft link": (_hdf5(_linked("soft")), "labeled is a link"),
    "an external link": (_hdf5(_linked("external")), "labeled is a link"),
    "30 GiB of cells": (_hdf5(_large("labeled", "cells", (2**16, 2**16))), "says that it has 4,294,967,296 members"),
    "30 GiB of people": (_hdf5(_large("pair", "cells", (2**16, 2**16))), "says that it has 4,294,967,296 members"),
    "an image of 30 GiB": (_hdf5(_large("image", "u1", (3, 2**16, 2**17))), "is uint8 (3, 65536, 131072)"),
    "a test set of 30 GiB": (_hdf5(_large("testset", "f8", (2, 2**31))), "says that it has 4,294,967,296 members"),
    "test sets of texts": (_hdf5(_large("testset", "S100", (2, 2))), "and no numbers"),
    "a chunk larger than its image": (_hdf5(_chunky), "says that it has 50,331,648 members"),
}


# --- MATLAB files of version 5 ------------------------------------------------------------------------------------


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(of: int, sizes: tuple[int, ...], *inside: bytes, name: bytes = b"filelist") -> bytes:
    head = element(6, struct.pack("<II", of, 0)) + element(5, struct.pack(f"<{len(sizes)}i", *sizes)) + element(1, name)
    return element(14, head + b"".join(inside))


def matlab(*matrices: bytes, packed: bool = False, version: bytes = b"MATLAB 5.0 MAT-file") -> bytes:
    if packed:
        matrices = tuple(struct.pack("<II", 15, len(one)) + one for one in map(zlib.compress, matrices))
    return version.ljust(124) + b"\x00\x01IM" + b"".join(matrices)


def _deep(levels: int) -> bytes:
    inside = matrix(6, (1, 1), element(9, struct.pack("<d", 1)))
    for _ in range(levels):
        inside = matrix(1, (1, 1), inside)
    return inside


CELL, STRUCT, DOUBLE, OBJECT = 1, 2, 6, 3
MATLAB: dict[str, tuple[Content, str]] = {
    "30 GiB of cells": (lambda: matlab(matrix(CELL, (2**16, 2**15))), "says that it has 2,147,483,648 members"),
    "the same, packed": (
        lambda: matlab(matrix(CELL, (2**16, 2**15)), packed=True), "says that it has 2,147,483,648 members",
    ),
    "30 GiB of structs": (
        lambda: matlab(matrix(STRUCT, (2**16, 2**15), struct.pack("<HHI", 5, 4, 32), element(1, b""))),
        "says that it has 2,147,483,648 members",
    ),
    "cells in cells in cells": (lambda: matlab(_deep(5000)), "more than 10 deep"),
    "a negative size": (lambda: matlab(matrix(CELL, (-1, 1))), "negative size"),
    "an object": (lambda: matlab(matrix(OBJECT, (1, 1))), "an array of class 3"),
    "zeros": (
        lambda: matlab(matrix(DOUBLE, (2**21, 1), element(9, bytes(2**24))), packed=True), "more than 1,048,576 bytes",
    ),
    "another version": (lambda: matlab(version=b"MATLAB 4.0"), "no MATLAB file of version 5 to 7"),
    "an element that ends behind it": (lambda: matlab(struct.pack("<II", 14, 2**31)), "it is cut off"),
    "no matrix": (lambda: matlab(element(9, bytes(8))), "an element of type 9"),
}  # fmt: skip


# --- datasets.toml ------------------------------------------------------------------------------------------------

PATTERN = r"pattern = '(?P<pid>\d+)_c(?P<camid>\d).*'"
TOML: dict[str, tuple[bytes, str]] = {
    "lists in lists": (b"[mine]\njunk = " + b"[" * 5000 + b"]" * 5000, "nested more than 20 deep"),
    "tables in tables": (b"[mine" + b".a" * 3000 + b"]\nb = 1", "nested more than 20 deep"),
    "lists that are just too deep": (b"[mine]\njunk = " + b"[" * 40 + b"]" * 40, "nested more than 20 deep"),
    "inline tables": (b"[mine]\njunk = " + b"{a=" * 5000 + b"1" + b"}" * 5000, "nested more than 20 deep"),
    "a long number": (b"[mine]\nsplits = " + b"9" * 5000, "cannot read"),
    "many bytes": (b"#" * (2**24 + 1), "more than 16,777,216 bytes"),
    "an absurd repetition": (b"[mine]\npattern = '.{1,99999999999}'", "is no regular expression"),
    "UTF-16": (f"[mine]\n{PATTERN}".encode("utf-16"), "cannot read"),
    "a number that is none": (f"[mine]\nsplits = nan\n{PATTERN}".encode(), "should be a number"),
    "an escape code": (b'[mine]\npattern = "\\u001b[2J"', r"'\x1b[2J'"),
}
