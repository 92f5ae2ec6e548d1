"""One process holds a folder at a time, on file systems without flock too; who waits is told; the dead never block."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from reidgen import locks
from reidgen.errors import BusyError, DataError, RunError
from reidgen.locks import HELD, LOCK, Holder, hold, locked
from reidgen.runs import Run

HOLD = """
import errno, sys, time
from pathlib import Path
from reidgen import locks
def missing(*_):
    raise OSError(int(sys.argv[2]), "no locks here")
if int(sys.argv[2]):
    locks.fcntl.flock = missing
with locks.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(
    params=[0, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=["flock", "ENOLCK", "ENOSYS", "EOPNOTSUPP"]
)
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The errno with which flock answers on the file system at hand, 0 where it works."""
    number: int = request.param

    def flock(*_: object) -> None:
        raise OSError(number, "no locks here")

    if number:
        monkeypatch.setattr(locks.fcntl, "flock", flock)
    return number


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(locks.fcntl, "flock", flock)


def left(folder: Path, holder: Holder | str, age: float = 0.0) -> Path:
    """Write the lock file of a file system without flock, last touched `age` seconds ago."""
    file = folder / HELD
    file.write_text(holder if isinstance(holder, str) else json.dumps(asdict(holder)))
    os.utime(file, (time.time() - age,) * 2)
    return file


def test_one_at_a_time_and_the_holder_is_named(missing: int, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        with hold(folder):
            for inside in (folder, folder):
                with pytest.raises(
                    BusyError, match=f"process {os.getpid()} on .* is writing {folder}; wait for it or stop it"
                ):
                    with hold(inside, wait=False):
                        pass
        assert [one.name for one in folder.iterdir()] == [LOCK] and not (folder / LOCK).read_bytes()


def test_no_two_threads_are_ever_inside(missing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL", 0.001)
    inside, most, ended = [0], [0], []

    def work() -> None:
        for _ in range(5):
            with hold(tmp_path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1
        ended.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and len(ended) == 4


def test_a_killed_process_never_blocks(missing: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path), str(missing)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {process.pid} on "), hold(tmp_path, wait=False):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with hold(tmp_path, wait=False):
            pass
    assert capfd.readouterr().err == ""  # no library's warning either


def test_who_waits_says_for_whom_and_how_long(
    missing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "POLL", 0.001)
    monkeypatch.setattr(locks, "FIRST_WORD", 0.0)
    said, go = threading.Event(), threading.Event()
    caplog.handler.addFilter(lambda record: said.set() or True)

    def other() -> None:
        with hold(tmp_path):
            go.set()
            said.wait(20)

    thread = threading.Thread(target=other)
    thread.start()
    go.wait(20)
    with caplog.at_level(logging.WARNING), hold(tmp_path):
        thread.join()
    first = caplog.messages[0]
    assert first.startswith(f"waiting for process {os.getpid()} on ")
    assert f", which uses {tmp_path}; waited 0 s so far" in first


@pytest.mark.parametrize(
    ("change", "age", "taken_over"),
    [
        ({"process": 2**22 + 5}, 0, True),  # Linux numbers end before that
        ({}, 0, False),
        ({}, 1000, True),  # the number was given to another process
        ({"process": 2**22 + 5, "place": "elsewhere"}, 0, False),  # of another machine or container nothing is known
        ({"process": 2**22 + 5, "place": "elsewhere"}, 1000, True),
        ({"process": "one"}, 0, False),
        ("", 0, False),  # just made
        ("", 1000, True),
        ("[]", 1000, True),
        ("\0\xff{", 1000, True),
    ],
)
def test_what_a_dead_process_left_is_taken_over(
    no_flock: None, change: dict[str, object] | str, age: float, taken_over: bool, tmp_path: Path
) -> None:
    left(tmp_path, change if isinstance(change, str) else replace(Holder.here(), **change), age)  # type: ignore[arg-type]
    if taken_over:
        with hold(tmp_path, wait=False):
            assert Holder.read(tmp_path / HELD)
        assert [one.name for one in tmp_path.iterdir()] == [LOCK]
    else:
        with pytest.raises(BusyError), hold(tmp_path, wait=False):
            pass


def test_a_holder_that_lives_long_is_not_taken_for_dead(
    no_flock: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.001)
    with hold(tmp_path):
        os.utime(tmp_path / HELD, (0, 0))
        while (tmp_path / HELD).stat().st_mtime == 0:
            time.sleep(0.001)


def test_of_two_that_remove_what_was_left_one_removes_it(no_flock: None, tmp_path: Path) -> None:
    """The slower one finds the new lock of the faster one, and leaves it."""
    file = left(tmp_path, replace(Holder.here(), process=2**22 + 5))
    old = file.read_bytes()
    with hold(tmp_path, wait=False):
        locks._remove(file, old)
        assert Holder.read(file) and Holder.read(file).process == os.getpid()  # type: ignore[union-attr]
        with pytest.raises(BusyError), hold(tmp_path, wait=False):
            pass


def test_a_lock_file_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    with hold(tmp_path):
        (tmp_path / LOCK).unlink()
        with hold(tmp_path, wait=False):  # the name is free: this is what removing it means
            pass


def test_a_pipe_as_lock_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(DataError, match=r"cannot use .*\.lock: is no regular file"), locked(tmp_path):
        pass


def test_errors_become_sentences(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot use .*file"), locked(tmp_path / "file" / "folder"):
        pass
    with pytest.raises(DataError, match="cannot use x: No space left on device"), locked(tmp_path):
        raise OSError(28, "No space left on device", "x")


def test_a_run_names_who_writes_it(missing: int, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.lock():
        with pytest.raises(RunError, match=f"process {os.getpid()} on .* is writing {run.folder}"), run.lock():
            pass
    with run.lock():
        pass


def test_what_show_is_writing_is_not_removed(tmp_path: Path) -> None:
    for name in (".log.csv.1.part", "show/.maps.png.2.part", "show/.old.png.3.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.utime(tmp_path / "show/.old.png.3.part", (0, 0))
    with Run(tmp_path).lock():
        assert [one.name for one in tmp_path.rglob("*.part")] == [".maps.png.2.part"]
