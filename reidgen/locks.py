"""Folders that one process holds at a time, on every file system, and who waits is told for whom.

A hold is a claim: a numbered file in <folder>/.claim, made by O_EXCL, which says who holds. It needs no lock of the
file system, so it serves where flock is missing (NFS without its lock daemon) and where it excludes one machine alone
(Lustre's localflock). The claim with the highest number counts:

    free       there is none, or it is called N-free: whoever makes N+1 holds the folder; of several one makes it
    held       its process is known to live on this machine, or it was touched within STALE seconds, which its process
               does every BEAT seconds, by the clock of the file system
    stale      its process is gone from this machine, or nothing touched it for STALE seconds: it is taken over as a
               free one is, by making N+1

A process that looked long ago may make a number that is too low, or that was held and given back already. So whoever
has made one looks once more, and removes it where there is a higher number, its own with -free, or the claim before it
gone or held (see `_passed`); until then others wait for it as for any other. It says at once who made it; one that says
nothing, of a process killed in that instant, is stale after STALE / 4. A process that was suspended until its claim was
taken over learns it before it writes, see `Claim.lost`.
"""

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from reidgen.errors import BusyError, DataError
from reidgen.escapes import visible
from reidgen.files import read_regular

CLAIM = ".claim"
BEAT, STALE = 15.0, 120.0  # seconds between two touches of a claim; from the last one until it counts as left behind
FIRST_BEAT = 2.0  # seconds until a claim says for the first time what its process does
FIRST_WORD, NEXT_WORD = 1.0, 60.0  # seconds of waiting until that is said, and said again
POLL = 0.1  # seconds between two tries

log = logging.getLogger("reidgen")  # prints warnings on stderr, in processes of their own too

_NAME = re.compile(r"(\d{1,18})(-free)?")
_FREE = "-free"


@dataclass(frozen=True)
class Holder:
    """Who holds a folder, as its claim says. since: UTC; place: the machine and, of containers, which of them: process
    numbers compare within one place only; started: what tells the process from a later one of its number, "" where the
    system does not say; job: the scheduler's, "" without one; token: different for every claim ever made."""

    host: str
    process: int
    since: str
    place: str
    started: str
    job: str
    token: str

    @classmethod
    def here(cls) -> Self:
        """Return this process as a holder from now on."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, process: int) -> Self:
        """Return a process of this machine as a holder from now on."""
        since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        host = socket.gethostname()
        return cls(host, process, since, _place(), _started(process), job_here(), secrets.token_hex(8))

    @classmethod
    def from_facts(cls, facts: object) -> Self | None:
        """Return the holder that a JSON object describes, None where it describes none."""
        if not isinstance(facts, Mapping):
            return None
        try:
            found = cls(**{one.name: facts[one.name] for one in fields(cls)})
        except KeyError:
            return None
        words = (found.host, found.since, found.place, found.started, found.job, found.token)
        return found if isinstance(found.process, int) and all(isinstance(one, str) for one in words) else None

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Return the holder that a claim names, None where it names none (yet)."""
        return cls.from_facts(_facts(file))

    def lives(self) -> bool | None:
        """Tell whether the process lives; None where that cannot be known: it is of another place, or the system does
        not tell a process from a later one of its number."""
        if self.place != _place() or os.name == "nt" or self.process <= 0:  # on Windows such a question kills
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is another user's
            pass
        now = _started(self.process)
        return now == self.started if now and self.started else None

    def __str__(self) -> str:
        job = f"job {self.job}, " if self.job else ""
        return visible(f"process {self.process} on {self.host!r} ({job}since {self.since})"[:200])


@dataclass(frozen=True)
class Seen:
    """What another process sees of a claim. holder: None where it cannot be read; empty: whether it says nothing yet;
    lives: None where only its touches can tell; touched: seconds since the last one, by the clock of the file system;
    doing: what it does, done, of, and the seconds that are left, as it last said."""

    holder: Holder | None
    empty: bool
    lives: bool | None
    touched: float
    doing: Mapping[str, Any]

    @property
    def held(self) -> bool:
        """Whether the claim counts."""
        return self.lives is True or (self.lives is None and self.touched <= (STALE / 4 if self.empty else STALE))


class Claim:
    """A hold on a folder, touched by a thread so that others see that its process lives, and what it does."""

    def __init__(self, file: Path, holder: Holder) -> None:
        self.file, self.holder = file, holder
        self._over, self._lost = threading.Event(), threading.Event()
        self._doing: dict[str, Any] = {}
        self._first: tuple[int, float, float] = (0, 0.0, 0.0)  # of how much; when, and how much was done then
        self._size = 0
        self._beats = threading.Thread(target=self._beat, daemon=True)

    @property
    def lost(self) -> bool:
        """Whether another process has taken over: this one gave no sign of life for longer than STALE seconds.

        The folder is asked, not only the last touch: a process that wakes up may go on before its thread does. A file
        system that does not answer tells nothing.
        """
        with contextlib.suppress(OSError):
            try:
                self.file.stat()
                gone = _newest(self.file.parent)[0] > int(self.file.name)  # its maker removes ours a moment later
            except FileNotFoundError:
                gone = True
            if gone:
                self._lost.set()
        return self._lost.is_set()

    def tell(self, what: str, done: float, total: int) -> None:
        """Have the claim say what its process does, see `Seen`; it is written with the next touch."""
        now = time.monotonic()
        of, began, before = self._first
        if of != total or done < before:
            self._first = of, began, before = total, now, float(done)
        speed = (done - before) / max(now - began, 1e-9)
        left = round((total - done) / speed) if speed > 0 else None
        self._doing = {"what": what, "done": done, "of": total, "left": left}

    def write(self, file: int) -> None:
        """Write into the claim's open file, and close it, who holds and what its process does."""
        try:
            text = json.dumps(asdict(self.holder) | {"doing": self._doing}).ljust(self._size)  # no rest of an old one
            self._size = len(text)
            os.write(file, text.encode())  # and not only its time: some network file systems take this machine's
        finally:
            os.close(file)

    def _beat(self) -> None:
        pause = min(FIRST_BEAT, BEAT)
        while not self._over.wait(pause):
            pause = BEAT
            try:
                self.write(os.open(self.file, os.O_WRONLY))  # not made anew where it is gone
            except FileNotFoundError:
                self._lost.set()
                return
            except OSError:  # a full disk, a network that is away: there is another touch
                continue

    def begin(self) -> None:
        """Begin to touch."""
        self._beats.start()

    def end(self) -> None:
        """Let the folder go."""
        self._over.set()
        self._beats.join()
        with contextlib.suppress(FileNotFoundError):
            try:
                self.file.rename(self.file.with_name(f"{self.file.name}{_FREE}"))
            except FileNotFoundError:  # taken over
                raise
            except OSError:
                self.file.unlink()


_MINE: ContextVar[Mapping[Path, Claim] | None] = ContextVar("claims of this thread", default=None)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, see `hold`, waiting for another process; an OSError inside becomes a DataError."""
    try:
        with hold(folder):
            yield
    except OSError as error:
        raise DataError(f"cannot use {error.filename or folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def hold(folder: Path, *, wait: bool = True) -> Iterator[Claim]:
    """Hold the folder for this process, made if it is not there; another process is waited for, and that is said.

    Raises BusyError, naming the holder, when it is held and `wait` is False; OSError when the folder cannot be written.
    Threads of one process exclude each other too. A claim that a dead process left never blocks.
    """
    claim = _acquire(folder, wait=wait)
    own = folder.resolve()
    _MINE.set({**(_MINE.get() or {}), own: claim})
    try:
        yield claim
    finally:
        _MINE.set({place: one for place, one in (_MINE.get() or {}).items() if place != own})
        claim.end()


def held_here(folder: Path) -> Claim | None:
    """Return the claim by which this thread holds the folder, None where it does not."""
    return (_MINE.get() or {}).get(folder.resolve())


def look(folder: Path) -> Seen | None:
    """Return what the folder's claim says, None where nothing was claimed or the claim was given back. No lock is
    needed, and nothing waits."""
    number, free = _newest(folder / CLAIM)
    return None if free else _look(folder / CLAIM / str(number), clock=_some_time_of)


def remove_free(folder: Path) -> None:
    """Remove a folder that holds nothing but claims that were given back; of whoever claims it meanwhile it stays."""
    with contextlib.suppress(OSError):
        if any(one.name != CLAIM for one in folder.iterdir()):
            return
        for one in (folder / CLAIM).iterdir():
            found = _NAME.fullmatch(one.name)
            if not found or found[2]:
                one.unlink()
        (folder / CLAIM).rmdir()  # fails where somebody has claimed it
        folder.rmdir()


def job_here() -> str:
    """Return the scheduler's name of the job that this process is part of, "" without one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{word}_ID", "") for word in ("JOB", "TASK"))
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")


def _acquire(folder: Path, *, wait: bool) -> Claim:
    began, said = time.monotonic(), 0.0
    while True:
        if claim := _claim(folder / CLAIM):
            return claim
        seen = look(folder)
        who = str((seen and seen.holder) or "another process")
        if not wait:
            raise BusyError(f"{who} is writing {folder}; wait for it or stop it, then try again")
        waited = time.monotonic() - began
        if waited >= (said + NEXT_WORD if said else FIRST_WORD):
            log.warning("waiting for %s, which uses %s; waited %.0f s so far", who, visible(str(folder)), waited)
            said = waited
        time.sleep(POLL)


def _claim(claims: Path) -> Claim | None:
    """Return the claim that this process made, None when another's counts."""
    claims.mkdir(parents=True, exist_ok=True)
    number, free = _newest(claims)
    if not free and (seen := _look(claims / str(number))) and seen.held:
        return None
    file = claims / str(number + 1)
    claim = Claim(file, Holder.here())  # before the file is there: what is asked takes longer than to make it
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except (FileExistsError, FileNotFoundError):  # the latter: `remove_free` of another process
        return None
    except PermissionError as error:  # sshfs's word for a file that is there; a folder of others says EACCES
        if error.errno != errno.EPERM:
            raise
        time_of(claims)  # raises where nothing can be written at all
        return None
    try:
        claim.write(opened)
        # A listing may miss what is renamed meanwhile, but not twice.
        if _passed(claims, number + 1) or _passed(claims, number + 1):
            file.unlink(missing_ok=True)
            return None
        claim.begin()
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # it is held by now, and lower numbers do not count
        for older in claims.iterdir():
            if (found := _NAME.fullmatch(older.name)) and int(found[1]) <= number:
                with contextlib.suppress(OSError):
                    older.unlink()
    return claim


def _passed(claims: Path, number: int) -> bool:
    """Tell whether a claim of this number comes too late: there is a higher one, or one of the same number was held and
    given back since this process looked, and another may have seen that it is free; or the one before it is gone or
    held, as numbers begin anew behind `remove_free`, or as its process has woken up."""
    found = [(int(one[1]), bool(one[2])) for file in claims.iterdir() if (one := _NAME.fullmatch(file.name))]
    before = number - 1
    if max(found, default=(0, False)) > (number, False) or (before and before not in dict(found)):
        return True
    return (before, False) in found and bool((seen := _look(claims / str(before))) and seen.held)


def _newest(claims: Path) -> tuple[int, bool]:
    """Return the highest number of a claim, 0 without one, and whether it is free."""
    try:
        names = [found for found in (_NAME.fullmatch(one.name) for one in claims.iterdir()) if found]
    except FileNotFoundError:
        names = []
    number = max((int(found[1]) for found in names), default=0)
    return number, not any(int(found[1]) == number and not found[2] for found in names)


def _look(file: Path, clock: Callable[[Path], float] | None = None) -> Seen | None:
    """Return what a claim says, None where it is gone. clock: what tells the time of a folder, by default `time_of`."""
    facts = _facts(file)
    holder = Holder.from_facts(facts)
    doing = facts.get("doing") if isinstance(facts, Mapping) else None
    lives = holder.lives() if holder else None
    try:
        now = file.stat()
        touched = max(0.0, (clock or time_of)(file.parent) - now.st_mtime) if lives is None else 0.0
    except FileNotFoundError:
        return None
    return Seen(holder, not now.st_size, lives, touched, doing if isinstance(doing, Mapping) else {})


def _facts(file: Path) -> object:
    """Return what a claim holds; where it is just being written, what it holds then."""
    for _ in range(3):
        try:
            return json.loads(read_regular(file))
        except OSError:
            return None
        except (ValueError, RecursionError):
            continue
    return None


def time_of(folder: Path) -> float:
    """Return what time it is on the file system of the folder, whose clock need not be this machine's.

    Where the folder cannot be written, this machine's time.
    """
    probe = (
        folder / f"now-{getattr(os, 'getuid', int)()}"
    )  # one of each user: another's may be no file of ours to write
    try:
        file = os.open(
            probe, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666
        )  # a pipe is not waited for
        try:
            os.write(file, b" ")
        finally:
            os.close(file)
        try:
            return probe.stat().st_mtime
        except FileNotFoundError:  # `remove_free` of another process; where the folder is gone too, that is raised
            return time_of(folder)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return time.time()


def _some_time_of(folder: Path) -> float:
    """Return the time by `time_of`, this machine's where that fails, as on a full disk: good enough to look."""
    try:
        return time_of(folder)
    except OSError:
        return time.time()


def _started(process: int) -> str:
    """Return when a process began, in the system's own count, "ended" where it has and nobody asked about it yet, ""
    where the system does not say."""
    try:
        words = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if words[0] in "ZX" else words[19]


def _place() -> str:
    """Return what tells this machine from others, and this container from those beside it on the same machine."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        facts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - the link's text is no path
    return " ".join(facts)
