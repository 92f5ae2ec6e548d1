"""Archives as their authors published them, unpacked below <data>/unpacked: whole or not at all, and nowhere else."""

import contextlib
import errno
import gzip
import hashlib
import json
import lzma
import re
import secrets
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reidgen.data.cuhk03 import is_hdf5, unpack_mat
from reidgen.data.members import JOIN, Gate, is_tar, tar_members, zip_members
from reidgen.data.readers import MARKER
from reidgen.errors import BrokenArchiveError, DataError
from reidgen.files import opened
from reidgen.locks import locked
from reidgen.runs import Progress

SUFFIXES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".gz", ".bz2", ".xz")
LOOSE = (".mat", ".txt", ".csv")  # what is published beside an archive and only copied

# Far beyond any data set of the field: the largest has 1.8 million files, and images hardly shrink.
FILES, RATIO, SMALL = 5_000_000, 100, 100 * 2**20

_DAMAGE = (
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
)
_FOREIGN = {
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"<": "a web page",
}
_PIECE = re.compile(r"(?P<whole>.+)-(?P<number>\d{3})\.zip", re.IGNORECASE)  # of a download in several zips


def unpack(files: Mapping[Path, str], data: Path, report: Progress | None = None) -> Path:
    """Return the folder <data>/unpacked/<stem>-<digest8> that holds what is in `files`, unpacked on the first call.

    files: archives (zip; tar, also with gzip, bzip2 or xz; cuhk-03.mat), told by their content and not by their name,
    and LOOSE files that belong to them -> the MD5 of each. The archives' digests name the folder, so that sets that are
    made of the same archives share it. Where the first has a single folder at its top, everything else goes into that.
    An archive inside an archive is unpacked too, one level deep, in its place.

    Raises BrokenArchiveError when a file is damaged or no archive, or asks for what no data set needs: paths that leave
    the folder, links, devices, names that repeat or differ only in case, encryption, absurd sizes; and DataError when
    it cannot be written, as on a full disk. Then nothing is left.
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
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
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
        return _is_zip(file) or is_tar(file) or is_hdf5(file)
    return False


def _is_zip(file: Path) -> bool:
    with opened(file) as raw:
        return zipfile.is_zipfile(raw)


def pieces(file: Path) -> list[Path]:
    """Return the zips of one download to which the file belongs, x-001.zip, x-002.zip and so on, or the file alone.

    Raises DataError when one of them, before the last that is there, is not beside the others.
    """
    if not (name := _PIECE.fullmatch(file.name)):
        return [file]
    try:
        found = {
            int(other["number"]): one
            for one in file.parent.iterdir()
            if (other := _PIECE.fullmatch(one.name)) and other["whole"] == name["whole"] and one.is_file()
        }
    except OSError as error:
        raise DataError(f"cannot read the folder {file.parent}: {error.strerror}") from error
    if lacking := sorted(set(range(1, max(found, default=1))) - set(found)):
        raise DataError(
            f"{file} is one of several zips of one download, but {name['whole']}-{lacking[0]:03d}.zip is not beside "
            "it; get it too, or rename the file if it is whole by itself"
        )
    return [found[number] for number in sorted(found)]


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
        if error.filename == str(file):
            raise DataError(f"cannot read {file}: {error.strerror}; make it readable, or get it again") from error
        cure = "free some space, or choose another --data" if error.errno == errno.ENOSPC else "choose another --data"
        raise DataError(f"cannot unpack {file}: {error.strerror}; {cure}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].strip() or type(error).__name__


def _extract(file: Path, into: Path, budget: "_Budget", report: Progress | None) -> None:
    """Unpack one file of any kind; archives inside it too, but not those inside them."""
    with opened(file) as raw:
        start = raw.read(512).lstrip()
    if _is_zip(file) or is_tar(file):
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
        if re.search(r"\.(z?\d{2,3}|part\d+)$", file.name.lower()):
            raise BrokenArchiveError(f"{file} is one piece of a split archive; {JOIN}")
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
    gate = Gate(limit=min(shutil.disk_usage(into).free, budget.bytes), most=budget.files, file=called)
    made: set[Path] = set()
    with opened(file) as raw:
        read_members = zip_members if zipfile.is_zipfile(raw) else tar_members
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
