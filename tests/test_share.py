"""Many items shared among processes: in order, and nothing is left running, however this process ends."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe, synchronize
from pathlib import Path

import pytest

from reidgen import pool
from reidgen.errors import RunError
from reidgen.pool import share


def square(item: int | str) -> int:
    """Do what an item says: a number is squared, a word is done."""
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "wrong":
        raise OSError(28, "No space left on device", "x")
    if item == "bug":
        raise ZeroDivisionError("a bug")
    assert isinstance(item, int)
    return item * item


def process_of(item: int) -> int:
    return os.getpid()


def alive(number: int | str) -> bool:
    """Tell whether the process runs: one that has ended may still have a number until it is asked for."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_items_come_back_in_order_without_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")  # as with a full /dev/shm

    monkeypatch.setattr(synchronize.SemLock, "__init__", full)
    assert list(share(square, range(50), processes=2, chunk=3)) == [item * item for item in range(50)]
    assert list(share(square, [], processes=2)) == []


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ("die", RunError, r"a worker process ended without a word \(exit code -9; killed, or out of memory\?\)"),
        ("wrong", OSError, "No space left on device"),
        ("bug", ZeroDivisionError, "a bug"),
    ],
)
def test_what_ends_the_sharing(item: str, error: type[Exception], message: str) -> None:
    found = []
    with pytest.raises(error, match=message) as caught:
        for one in share(square, [1, 2, item, 3], processes=1, chunk=2):
            found.append(one)
    assert found == [1, 4]
    assert item != "bug" or "line" in caught.value.__notes__[0]  # where it happened is not lost


def test_a_sharing_that_is_left_ends_its_processes() -> None:
    with contextlib.closing(share(process_of, range(100), processes=2, chunk=1)) as found:
        some = set(itertools.islice(found, 3))
        assert all(map(alive, some))
    assert not any(map(alive, some))


SCRIPT = """
import os, sys, time
from pathlib import Path
from reidgen.pool import share

def work(item):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    for one in share(work, range(100), processes=2, chunk=1):
        pass
"""


@pytest.mark.parametrize("signals", ["INT", "INT INT", "TERM", "HUP", "KILL"])
def test_workers_end_with_their_parent(signals: str, tmp_path: Path) -> None:
    """Two times Ctrl-C come as quickly as can be, to the whole group, as from a terminal."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "ids").mkdir()
    words = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "ids")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True) as process:
        while len(list((tmp_path / "ids").iterdir())) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        for name in signals.split():
            number = getattr(signal, f"SIG{name}")
            os.killpg(process.pid, number) if name == "INT" else process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode
    while any(
        alive(path.name) for path in (tmp_path / "ids").iterdir()
    ):  # it is for whoever runs the tests to end a hang
        time.sleep(0.01)


def test_a_job_without_process_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, on which nobody has tried it."""
    monkeypatch.delattr(os, "setpgrp")
    monkeypatch.setattr(pool, "_end_with_parent", lambda *how: None)
    monkeypatch.setattr(signal, "signal", lambda *how: None)
    here, there = Pipe(duplex=False)
    pool._child(lambda job, device: (job, device), 3, "cpu", there, dict(os.environ))
    assert here.recv() == (3, "cpu")
    here.close()
    there.close()


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('begun', flush=True)\nfrom reidgen.pool import share\nprint(list(share(abs, [-1, -2], processes=2, chunk=1)))\n"
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.stdout, ended.stderr) == ("begun\n[1, 2]\n", "")
