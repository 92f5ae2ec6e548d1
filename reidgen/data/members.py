"""What is in a zip or tar, member by member: each has passed, or the archive is refused, before a byte of it is written."""

import bz2
import contextlib
import gzip
import lzma
import re
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Self

from reidgen.errors import BrokenArchiveError
from reidgen.files import opened

DEPTH, NAME = 20, 240  # folders in a path, bytes in a name: far beyond any data set of the field
HEADER = 2**20  # bytes of the headers before one file of a tar; a long path and its attributes have some thousands
JOIN = "join the pieces (zip -s 0 x.zip --out whole.zip, or cat x.zip.0* > whole.zip)"
GLOBALS = 100  # settings that a tar makes for all its files; git's have one


@dataclass
class Gate:
    """What has passed of one archive, and the refusal of what no data set needs."""

    limit: int  # bytes
    most: int  # files
    file: Path
    total: int = 0
    files: dict[str, str] = field(default_factory=dict)  # name for comparing -> name
    folders: dict[str, str] = field(default_factory=dict)

    def refuse(self, why: str) -> BrokenArchiveError:
        return BrokenArchiveError(f"{self.file} is not unpacked: {why}; get it again from its authors")

    def too_large(self) -> BrokenArchiveError:
        return self.refuse(
            f"its files have more than {self.limit:,} bytes, which is absurd or more than is free on the disk"
        )

    def passes(self, name: str, size: int) -> str:
        """Take note of a member; return the path under which it is unpacked, "" for what a Mac added or has no name.

        Backslashes stand for slashes, as in zips made on Windows; bytes that are no UTF-8 are read as Latin-1. Names of
        control characters, joiners or emoji are as good as others: whoever shows them escapes them.
        Raises BrokenArchiveError for what is refused.
        """
        name = _readable(name).replace("\\", "/")
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name):
            raise self.refuse(f"the path {name!r} leads out of the folder")
        if len(parts) > DEPTH or max(len(part.encode()) for part in parts) > NAME:
            raise self.refuse(f"the path {name[:60]!r}... is absurdly {'deep' if len(parts) > DEPTH else 'long'}")
        if "\0" in name:
            raise self.refuse(f"no file can be called {name!r}")
        path = "/".join(part for part in parts if part not in ("", "."))
        if not path and size:
            raise self.refuse("it holds a file without a name")
        if not path or parts[0] == "__MACOSX" or parts[-1].startswith("._") or parts[-1] == "Icon\r":
            return ""
        self._compare(path)
        self.total += size
        if self.total > self.limit:
            raise self.too_large()
        if len(self.files) > self.most:
            raise self.refuse(f"it has more than {self.most:,} files")
        return path

    def _compare(self, path: str) -> None:
        """Raise BrokenArchiveError when another member has this path, on some file system at least."""
        key = _folded(path)
        if other := self.files.get(key) or self.folders.get(key):
            raise self.refuse(f"the name {path!r} comes twice" if other == path else _one_name(other, path))
        self.files[key] = path
        parent = path.rpartition("/")[0]
        while parent and self.folders.get(key := _folded(parent)) != parent:
            if other := self.files.get(key) or self.folders.get(key):
                raise self.refuse(_one_name(other, path))
            self.folders[key] = parent
            parent = parent.rpartition("/")[0]


def _readable(name: str) -> str:
    """Return a name whose bytes Python could not read as UTF-8 as Latin-1, whose every byte is a letter."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("latin-1")
    return name


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _one_name(one: str, other: str) -> str:
    return f"{one!r} and {other!r} cannot lie side by side on every system"


def zip_members(raw: BinaryIO, gate: Gate) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield path, size and content of the files in a zip, after all of them have passed."""
    raw.seek(-min(22, raw.seek(0, 2)), 2)
    end = raw.read()
    if end.startswith(b"PK\5\6") and end[4:6] not in (b"\0\0", b"\xff\xff"):  # the number of this disk
        raise BrokenArchiveError(f"{gate.file} is the last piece of a split archive; {JOIN}")
    with zipfile.ZipFile(raw) as archive:
        passed = []
        for info in archive.infolist():
            kind, name = stat.S_IFMT(info.external_attr >> 16), _zip_name(info)
            if name.endswith(("/", "\\")) or kind == stat.S_IFDIR:
                continue
            if kind not in (0, stat.S_IFREG):
                raise gate.refuse(f"{name!r} is a link or a device")
            if info.flag_bits & 1:
                raise gate.refuse(f"{name!r} is encrypted (with its password, unpack it yourself and give the folder)")
            if path := gate.passes(name, info.file_size):
                passed.append((path, info))
        for path, info in passed:
            yield path, info.file_size, archive.open(info)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return the member's name: UTF-8 too where the archive does not say so, as those of a Mac do not."""
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode("cp437").decode("utf-8")
    return info.filename


def tar_members(raw: BinaryIO, gate: Gate) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield path, size and content of the files in a tar, each after it has passed: to list a compressed one first
    would mean to decompress it twice. What headers and padding take counts as the files do."""
    stream = _Fenced(_decompressed(raw), gate)
    stream.fence(HEADER)
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictTarInfo) as archive:  # type: ignore[call-overload]
        member: tarfile.TarInfo | None = archive.next()
        while member is not None:
            if len(archive.pax_headers) > GLOBALS:
                raise gate.refuse(f"it has more than {GLOBALS} global headers")
            if not member.isdir():
                if not member.isreg() or member.issparse():
                    raise gate.refuse(f"{member.name!r} is a link, a device or a file with holes")
                if path := gate.passes(member.name, member.size):
                    stream.fence(None)
                    content = archive.extractfile(member)
                    assert content is not None
                    yield path, member.size, content
            stream.fence(archive.offset + HEADER)
            member = archive.next()
    stream.fence(None)
    while stream.read(2**20):  # to the end, where the checksum is
        pass
    gate.total = max(gate.total, stream.tell())


def is_tar(file: Path) -> bool:
    """Tell whether the file begins as a tar, compressed or not. Raises what damaged compression raises."""
    with opened(file) as raw:
        stream = _Fenced(_decompressed(raw), Gate(limit=2 * HEADER, most=1, file=file))
        stream.fence(HEADER)
        try:
            tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictTarInfo).close()  # type: ignore[call-overload]
        except BrokenArchiveError:  # its first header is absurd
            return True
        except tarfile.TarError:
            return False
    return True


def _decompressed(raw: BinaryIO) -> IO[bytes]:
    start = raw.read(6)
    raw.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if start.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if start.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return lzma.LZMAFile(raw)
    return raw


class _Fenced:
    """A stream that is read to the gate's limit, and where there is a fence, no further than that: `tarfile` takes a
    header of a gigabyte into memory if a few bytes say that there is one."""

    def __init__(self, stream: IO[bytes], gate: Gate) -> None:
        self.stream, self.gate = stream, gate
        self.end: int | None = None

    def fence(self, end: int | None) -> None:
        self.end = end

    def read(self, size: int = -1) -> bytes:
        here = self.stream.tell()
        if self.end is not None and (size < 0 or here + size > self.end):
            raise self.gate.refuse(f"a file's headers have more than {HEADER:,} bytes, which is absurd")
        content = self.stream.read(size)
        if here + len(content) > self.gate.limit:
            raise self.gate.too_large()
        return content

    def seek(self, place: int) -> int:
        if place > self.gate.limit:
            raise self.gate.too_large()
        return self.stream.seek(place)

    def tell(self) -> int:
        return self.stream.tell()


class _StrictTarInfo(tarfile.TarInfo):
    """A header as `tarfile` reads it, but one that is damaged or missing is an error and not the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the blocks of zeros at the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error or 'it is cut off'}") from error
