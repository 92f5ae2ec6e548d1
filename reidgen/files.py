"""Files that are either whole or absent: written under a temporary name, then renamed. Only regular files are read."""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from reidgen.errors import ReidgenError, WeightsError

LARGEST = 2**29  # bytes of a picture or a list that is read whole: as many as the most pixels that are decoded take


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, on failure it vanishes.

    The bytes reach the disk before the rename, so that a crash leaves the old file or the new one. The temporary name
    is drawn, not made of the process number: two containers that share the folder may have equal ones.
    Raises ReidgenError when the folder cannot be written (read-only, disk full), naming the file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:  # for writing: Windows cannot flush what is open for reading (untested)
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def writable(folder: Path) -> bool:
    """Tell whether the rights of an existing folder, or of its disk, let this process write there."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading. A pipe or a device, behind a link too, is an OSError before a byte is read:
    one would be waited for, the other has no end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    number = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "Is no regular file", str(path))
        file = os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise
    with file:
        yield file


def read_regular(path: Path) -> bytes:
    """Return the bytes of a regular file, see `opened`. One of more than LARGEST is an OSError before it is read."""
    with opened(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST:
            raise OSError(errno.EFBIG, f"Has {size:,} bytes, more than the {LARGEST:,} that are read", str(path))
        return file.read()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_file(path: str | Path) -> Path:
    """Return the path of an existing weight file. Raises WeightsError when there is none."""
    if not Path(path).is_file():
        raise WeightsError(f"no weight file {path}; give an existing file, or use --weights imagenet or none")
    return Path(path)


_NO_FALLOCATE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def _room(path: Path) -> Path:
    return path.with_name(f".{path.name}.room.part")


def reserve(path: Path, size: int) -> None:
    """Take `size` bytes of the disk beside `path`, into which `fill` writes later: a disk that fills up is no loss.

    Raises ReidgenError when there is not so much room. File systems that copy on write give no such promise.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _room(path).open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except (AttributeError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in _NO_FALLOCATE:
                    raise
                file.write(bytes(size))  # not on this system, or not on this file system
    except OSError as error:
        with contextlib.suppress(OSError):
            _room(path).unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def fill(path: Path, content: bytes) -> None:
    """Write `path`, whole or not at all, in the room that `reserve` took, or in new room where it took none.

    Raises ReidgenError as `replacing`; the room is free again then.
    """
    room = _room(path)
    try:
        with room.open("r+b" if room.is_file() else "wb") as file:
            file.write(content)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        room.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            room.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> ReidgenError:
    return ReidgenError(f"cannot write {path}: {error.strerror or error}; free some space or choose another folder")
