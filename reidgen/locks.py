"""Folders that one process holds at a time, on every file system, and who waits is told for whom.

The lock is `flock` on <folder>/.lock (on Windows, untested: `msvcrt.locking`), which ends with its process. Where the
file system has none (NFS without its lock daemon, some Lustre mounts), the file <folder>/.lock-held is the lock: it is
there while a process holds the folder, which touches it every BEAT seconds. One that was not touched for STALE seconds,
or whose process is gone from this machine, was left by a dead process and is taken over. Either file says who holds.
"""

import contextlib
import errno
import functools
import json
import logging
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from reidgen.errors import BusyError, DataError
from reidgen.escapes import visible

LOCK, HELD = ".lock", ".lock-held"
BEAT, STALE = 15.0, 120.0  # seconds between two touches of HELD; from the last one until it counts as left behind
FIRST_WORD, NEXT_WORD = 1.0, 60.0  # seconds of waiting until that is said, and said again
POLL = 0.1  # seconds between two tries

log = logging.getLogger("reidgen")  # prints warnings on stderr, in processes of their own too

_MISSING = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}  # what says that there is no flock
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}  # what says that another process has it


@dataclass(frozen=True)
class Holder:
    """Who holds a folder, as its lock file says. since: UTC; place: the machine and, of containers, which of them:
    process numbers compare within one place only; token: different for every lock ever taken."""

    host: str
    process: int
    since: str
    place: str
    token: str

    @classmethod
    def here(cls) -> Self:
        """Return this process as a holder from now on."""
        since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return cls(socket.gethostname(), os.getpid(), since, _place(), secrets.token_hex(8))

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Return the holder that a lock file names, None where it names none (yet)."""
        try:
            found = cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        words = (found.host, found.since, found.place, found.token)
        return found if isinstance(found.process, int) and all(isinstance(one, str) for one in words) else None

    def gone(self) -> bool:
        """Tell whether the process is known to have ended: it was one of this place, and is there no more."""
        if self.place != _place() or os.name == "nt" or self.process <= 0:  # on Windows such a question kills
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # it is another user's
            return False
        return False

    def __str__(self) -> str:
        return visible(f"process {self.process} on {self.host!r} (since {self.since})"[:200])


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, see `hold`, waiting for another process; an OSError inside becomes a DataError."""
    try:
        with hold(folder):
            yield
    except OSError as error:
        raise DataError(f"cannot use {error.filename or folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def hold(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the folder for this process, made if it is not there; another process is waited for, and that is said.

    Raises BusyError, naming the holder, when it is held and `wait` is False; OSError when the folder cannot be written.
    Threads of one process exclude each other too. A lock that a dead process left never blocks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    release = _acquire(folder, wait=wait)
    try:
        yield
    finally:
        release()


def _acquire(folder: Path, *, wait: bool) -> Callable[[], None]:
    """Return what ends the hold."""
    began, said = time.monotonic(), 0.0
    while True:
        taken: Callable[[], None] | None
        try:
            taken = _flock(folder / LOCK)
        except OSError as error:
            if error.errno not in _MISSING:
                raise
            taken = _claim(folder)
        if taken is not None:
            return taken
        holder = Holder.read(folder / HELD) or Holder.read(folder / LOCK)
        who = str(holder or "another process")
        if not wait:
            raise BusyError(f"{who} is writing {folder}; wait for it or stop it, then try again")
        waited = time.monotonic() - began
        if waited >= (said + NEXT_WORD if said else FIRST_WORD):
            log.warning("waiting for %s, which uses %s; waited %.0f s so far", who, visible(str(folder)), waited)
            said = waited
        time.sleep(POLL)


def _flock(path: Path) -> Callable[[], None] | None:
    """Return what ends the hold, None when another has it. Raises OSError, of an errno in _MISSING where there is no
    flock."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        if _lock(file) and _is_at(file, path):  # not one that somebody removed meanwhile
            with contextlib.suppress(OSError):  # a full disk
                os.ftruncate(file, 0)
                os.write(file, json.dumps(asdict(Holder.here())).encode())
            return functools.partial(_let_go, file)
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


def _let_go(file: int) -> None:
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
    _unlock(file)
    os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


if os.name == "nt":  # untested
    import msvcrt

    _FAR = 2**30  # a byte behind the text, which stays readable for others

    def _lock(file: int) -> bool:
        os.lseek(file, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
        os.lseek(file, 0, os.SEEK_SET)
        return True

    def _unlock(file: int) -> None:
        os.lseek(file, _FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]

else:
    import fcntl

    def _lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
        return True

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


class _Claimed:
    """A hold by a file that is there, touched by a thread so that others see that its process lives."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder, self.over = path, holder, threading.Event()
        self.beats = threading.Thread(target=self._beat, daemon=True)
        self.beats.start()

    def _beat(self) -> None:
        while not self.over.wait(BEAT):
            with contextlib.suppress(OSError):
                if Holder.read(self.path) == self.holder:
                    os.utime(self.path)

    def __call__(self) -> None:
        self.over.set()
        self.beats.join()
        if Holder.read(self.path) == self.holder:
            self.path.unlink(missing_ok=True)


def _claim(folder: Path) -> _Claimed | None:
    """Return the hold by the file HELD, None when another has it; one that was left behind is removed first."""
    path, holder = folder / HELD, Holder.here()
    if (other := _left_behind(path)) is not None:
        _remove(path, other)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return None
    try:
        os.write(file, json.dumps(asdict(holder)).encode())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    return _Claimed(path, holder)


def _left_behind(path: Path) -> bytes | None:
    """Return what the lock file says when its process is dead, as far as one can tell; None when it may live."""
    try:
        content, touched = path.read_bytes(), path.stat().st_mtime
    except FileNotFoundError:
        return None
    holder = Holder.read(path)
    return content if (holder and holder.gone()) or _time_of(path.parent) - touched > STALE else None


def _time_of(folder: Path) -> float:
    """Return what time it is on the file system of the folder, whose clock need not be this machine's."""
    probe = folder / f"{LOCK}-{secrets.token_hex(8)}"
    try:
        probe.write_bytes(b" ")
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _remove(path: Path, content: bytes) -> None:
    """Remove the lock file if it still says that; of several processes that try, one removes it."""
    aside = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() != content:
            return
        path.rename(aside)
        if aside.read_bytes() != content:  # another process was faster, and this is its new lock: give it back
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _place() -> str:
    """Return what tells this machine from others, and this container from those beside it on the same machine."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        facts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - the link's text is no path
    return " ".join(facts)
