"""Archives as their authors published them, unpacked below <data>/unpacked: whole or not at all, and never beside it."""

import contextlib
import errno
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Self

from reidgen.data.cuhk03 import is_hdf5, unpack_mat
from reidgen.errors import BrokenArchiveError, DataError
from reidgen.locks import locked
from reidgen.runs import Progress

MARKER = "unpacked.json"  # written last into an unpacked folder
SUFFIXES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".gz", ".bz2", ".xz")
LOOSE = (".mat", ".txt", ".csv")  # what is published beside an archive and only copied

# Far beyond any data set of the field: the largest has 1.8 million files, and images hardly shrink.
DEPTH, FILES, RATIO, SMALL = 20, 5_000_000, 100, 100 * 2**20

_DAMAGE = (
    EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error,
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile,
)  # fmt: skip
_FOREIGN = {b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive", b"<": "a web page"}


def unpack(files: Mapping[Path, str], data: Path, report: Progress | None = None) -> Path:
    """Return the folder <data>/unpacked/<stem>-<digest8> that holds what is in `files`, unpacked on the first call.

    files: archives (zip; tar, also with gzip, bzip2 or xz; cuhk-03.mat), told by their content and not by their name,
    and LOOSE files that belong to them -> the MD5 of each. The archives' digests name the folder, so that sets that are
    made of the same archives share it. Where the first has a single folder at its top, everything else goes into that.
    An archive inside an archive is unpacked too, one level deep, in its place.

    Raises BrokenArchiveError when a file is damaged or no archive, or asks for what no data set needs: paths that leave
    the folder, links, devices, names that repeat or differ only in case, encryption, absurd sizes; and DataError when it
    cannot be written, as on a full disk. Then nothing is left.
    """
    loose = [file for file in files if file.suffix.lower() in LOOSE and not is_archive(file)]
    packed = [file for file in files if file not in loose] or loose
    digest = files[packed[0]]
    if len(packed) > 1:
        digest = hashlib.md5("".join(files[file] for file in packed).encode(), usedforsecurity=False).hexdigest()
    stem = re.sub(r"(\.(zip|tar|t?[gbx]z2?|tbz|mat))+$", "", packed[0].name, flags=re.IGNORECASE)
    home = data / "unpacked"
    folder = home / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', stem).strip('.-') or 'archive'}-{digest[:8]}"
    with locked(home):
        if not (folder / MARKER).is_file():
            for leftover in (*home.glob(".*.part"), folder):
                shutil.rmtree(leftover, ignore_errors=True)
            _unpack_new(packed, folder, {file.name: files[file] for file in packed}, report)
        inside = [one for one in folder.iterdir() if one.name != MARKER]
        top = inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
        for file in loose:
            with _sentences(file):
                if not (top / file.name).is_file() or (top / file.name).read_bytes() != file.read_bytes():
                    shutil.copyfile(file, part := top / f".{file.name}.part")
                    part.replace(top / file.name)
    return folder


def _unpack_new(files: list[Path], folder: Path, digests: dict[str, str], report: Progress | None) -> None:
    """Unpack all files under a temporary name and then give it the right one, or leave nothing."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        tops: list[Path] = []
        budget = _Budget(max(RATIO * sum(file.stat().st_size for file in files), SMALL))
        for file in files:
            with _sentences(file):
                _extract(file, part, budget, report)
            tops = tops or list(part.iterdir())
        if len(tops) == 1 and tops[0].is_dir():
            for other in set(part.iterdir()) - set(tops):
                other.rename(tops[0] / other.name)
        (part / MARKER).write_text(json.dumps(digests) + "\n")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_archive(file: Path) -> bool:
    """Tell whether `unpack` would read the file as an archive, going by its content."""
    with contextlib.suppress(OSError, *_DAMAGE):
        return zipfile.is_zipfile(file) or tarfile.is_tarfile(file) or is_hdf5(file)
    return False


@contextlib.contextmanager
def _sentences(file: Path) -> Iterator[None]:
    """Turn whatever the standard library's readers raise into one sentence."""
    try:
        yield
    except _DAMAGE as error:
        raise BrokenArchiveError(f"{file} is damaged ({_first_line(error)}); get it again") from error
    except FileExistsError as error:
        raise BrokenArchiveError(
            f"{file} holds {Path(str(error.filename)).name}, which is there already; unpack it by hand"
        ) from error
    except OSError as error:
        if error.errno is None:  # bzip2's decoder, on damage
            raise BrokenArchiveError(f"{file} is damaged ({_first_line(error)}); get it again") from error
        cure = "free some space, or choose another --data" if error.errno == errno.ENOSPC else "choose another --data"
        raise DataError(f"cannot unpack {file}: {error.strerror}; {cure}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].strip() or type(error).__name__


def _extract(file: Path, into: Path, budget: "_Budget", report: Progress | None) -> None:
    """Unpack one file of any kind; archives inside it too, but not those inside them."""
    with file.open("rb") as raw:
        start = raw.read(512).lstrip()
    if zipfile.is_zipfile(file) or tarfile.is_tarfile(file):
        _members(file, into, file, budget, report)
        inner = [
            one for one in sorted(into.rglob("*")) if one.suffix.lower() in (*SUFFIXES, ".mat") and is_archive(one)
        ]
        for one in inner:
            with _sentences(inside := file / one.relative_to(into)):
                _unpack_inner(one, inside, budget, report)
    elif is_hdf5(file):
        budget.bytes -= unpack_mat(file, into, budget.bytes, report)
    else:
        for magic, what in _FOREIGN.items():
            if start.startswith(magic):
                cure = "get it again" if magic == b"<" else "unpack it yourself and give the folder"
                raise BrokenArchiveError(f"{file} is {what}, which reidgen cannot unpack; {cure}")
        found = "is empty" if not start else "is no archive, or is cut off"
        raise BrokenArchiveError(f"{file} {found} (zip, tar, tar.gz, tar.bz2 and tar.xz are read); get it again")


def _unpack_inner(file: Path, called: Path, budget: "_Budget", report: Progress | None) -> None:
    """Unpack an archive that came out of another in its place: x.zip becomes the folder x."""
    if is_hdf5(file):
        budget.bytes -= unpack_mat(file, file.parent, budget.bytes, report)
        file.unlink()
        return
    folder = file.with_name(f"{file.name}.part")
    folder.mkdir()
    _members(file, folder, called, budget, report)
    file.unlink()
    stem = file.name.partition(".")[0]
    inside = folder / stem if [one.name for one in folder.iterdir()] == [stem] else folder
    if (file.parent / stem).exists():
        raise BrokenArchiveError(
            f"{file.name} would be unpacked to {stem}, which is in the archive too; unpack it by hand"
        )
    inside.rename(file.parent / stem)
    if inside != folder:
        folder.rmdir()


def _members(file: Path, into: Path, called: Path, budget: "_Budget", report: Progress | None) -> None:
    """Unpack a zip or tar member by member, each checked before a byte of it is written.

    called: the file's name in errors. budget: shrinks by what is unpacked.
    """
    size, what = file.stat().st_size, f"unpack {file.name} (MB)"
    gate = _Gate(limit=min(shutil.disk_usage(into).free, budget.bytes), most=budget.files, file=called)
    made: set[Path] = set()
    with file.open("rb") as raw:
        read_members = _zip_members if zipfile.is_zipfile(raw) else _tar_members
        raw.seek(0)
        for name, length, stream in read_members(raw, gate):
            target = into / name
            if target.parent not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            with stream, target.open("xb") as out:
                shutil.copyfileobj(stream, out, 2**20)
                if out.tell() != length:
                    raise EOFError(f"{name} is cut off")
            if report:
                report(what, raw.tell() >> 20, max(size >> 20, 1))
    budget.bytes -= gate.total
    budget.files -= len(gate.files)
    if not made:
        raise BrokenArchiveError(f"{file} holds no files; get it again")


@dataclass
class _Budget:
    """What may yet be unpacked of all archives together, those inside others too."""

    bytes: int
    files: int = FILES


@dataclass
class _Gate:
    """What has passed of one archive, and the refusal of what no data set needs."""

    limit: int  # bytes
    most: int  # files
    file: Path
    total: int = 0
    files: dict[str, str] = field(default_factory=dict)  # name for comparing -> name
    folders: dict[str, str] = field(default_factory=dict)

    def refuse(self, why: str) -> BrokenArchiveError:
        return BrokenArchiveError(f"{self.file} is not unpacked: {why}; get it again from its authors")

    def passes(self, name: str, size: int) -> bool:
        """Take note of a member. False: a file that a Mac added. Raises BrokenArchiveError for what is refused."""
        parts = name.split("/")
        if not name.isprintable():
            raise self.refuse(f"the name {name!a} cannot be printed")
        if name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name):
            raise self.refuse(f"the path {name!r} leads out of the folder")
        if len(parts) > DEPTH or max(len(part.encode()) for part in parts) > 240:
            raise self.refuse(f"the path {name[:60]!r}... is absurdly {'deep' if len(parts) > DEPTH else 'long'}")
        if parts[0] == "__MACOSX" or parts[-1].startswith("._"):
            return False
        self._compare("/".join(part for part in parts if part not in ("", ".")))
        self.total += size
        if self.total > self.limit:
            raise self.refuse(
                f"its files have more than {self.limit:,} bytes, which is absurd or more than is free on the disk"
            )
        if len(self.files) > self.most:
            raise self.refuse(f"it has more than {self.most:,} files")
        return True

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


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _one_name(one: str, other: str) -> str:
    return f"{one!r} and {other!r} cannot lie side by side on every system"


def _zip_members(raw: BinaryIO, gate: _Gate) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and content of the files in a zip, after all of them have passed."""
    with zipfile.ZipFile(raw) as archive:
        passed = []
        for info in archive.infolist():
            if info.is_dir():
                continue
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise gate.refuse(f"{info.filename!r} is a link or a device")
            if info.flag_bits & 1:
                raise gate.refuse(
                    f"{info.filename!r} is encrypted (with its password, unpack it yourself and give the folder)"
                )
            if gate.passes(info.filename, info.file_size):
                passed.append(info)
        for info in passed:
            yield info.filename, info.file_size, archive.open(info)


def _tar_members(raw: BinaryIO, gate: _Gate) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and content of the files in a tar, each after it has passed: to list a compressed one first
    would mean to decompress it twice."""
    with tarfile.open(fileobj=raw, tarinfo=_StrictTarInfo) as archive:
        for member in archive:
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise gate.refuse(f"{member.name!r} is a link, a device or a file with holes")
            if gate.passes(member.name, member.size):
                stream = archive.extractfile(member)
                assert stream is not None
                yield member.name, member.size, stream
        assert archive.fileobj is not None
        while archive.fileobj.read(2**20):  # to the end, where the checksum is
            pass


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
