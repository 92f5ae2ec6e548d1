"""One process holds a folder at a time, on every file system; who waits is told for whom; the dead never block."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from reidgen import locks
from reidgen.errors import BusyError, DataError, RunError
from reidgen.locks import CLAIM, Holder, hold, locked, look
from reidgen.runs import Run

HOLD = """
import sys, time
from pathlib import Path
from reidgen import locks
with locks.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def left(folder: Path, holder: Holder | str, age: float = 0.0) -> Path:
    """Write a claim, last touched `age` seconds ago."""
    file = folder / CLAIM / "7"
    file.parent.mkdir()
    file.write_text(holder if isinstance(holder, str) else json.dumps(asdict(holder)))
    os.utime(file, (time.time() - age,) * 2)
    return file


def claims(folder: Path) -> list[str]:
    return sorted(one.name for one in (folder / CLAIM).iterdir() if one.name[0].isdigit())


def test_one_at_a_time_and_the_holder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for number in (1, 2):
        with hold(folder):
            for _ in range(2):
                with pytest.raises(
                    BusyError, match=f"process {os.getpid()} on .* is writing {folder}; wait for it or stop it"
                ):
                    with hold(folder, wait=False):
                        pass
        assert claims(folder) == [f"{number}-free"] and look(folder) is None


def test_no_two_threads_are_ever_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_killed_process_never_blocks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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
        ({}, 1000, False),  # it is suspended, but lives
        ({"started": "1"}, 0, True),  # the number was given to another process
        ({"started": ""}, 0, False),  # which nobody can know here
        ({"started": ""}, 1000, True),
        ({"process": 2**22 + 5, "place": "elsewhere"}, 0, False),  # of another machine or container nothing is known
        ({"process": 2**22 + 5, "place": "elsewhere"}, 100, False),
        ({"process": 2**22 + 5, "place": "elsewhere"}, 1000, True),
        ({"process": "one"}, 0, False),
        ("", 0, False),  # just made
        ("", 20, False),
        ("", 40, True),  # its process was killed in the instant between making and writing
        ("[]", 40, False),  # somebody's, in a form that is not known here
        ("[]", 1000, True),
        ("\0\xff{", 1000, True),
    ],
)
def test_what_a_dead_process_left_is_taken_over(
    change: dict[str, object] | str, age: float, taken_over: bool, tmp_path: Path
) -> None:
    left(tmp_path, change if isinstance(change, str) else replace(Holder.here(), **change), age)  # type: ignore[arg-type]
    seen = look(tmp_path)
    assert seen and seen.held is not taken_over
    if taken_over:
        with hold(tmp_path, wait=False):
            assert claims(tmp_path) == ["8"] and Holder.read(tmp_path / CLAIM / "8")
        assert claims(tmp_path) == ["8-free"]
    else:
        with pytest.raises(BusyError), hold(tmp_path, wait=False):
            pass
        assert claims(tmp_path) == ["7"]


def test_a_claim_that_cannot_be_read_is_not_taken_for_one_that_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a user whose umask is 077, say; root reads that all the same."""
    left(tmp_path, Holder.here(), 40)

    def refused(file: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(locks, "read_regular", refused)
    seen = look(tmp_path)
    assert seen and seen.holder is None and not seen.empty and seen.held


def test_a_process_that_has_ended_but_was_not_asked_about_is_dead(tmp_path: Path) -> None:
    """kill -9 of a worker whose parent is busy: a zombie."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still there
        with hold(tmp_path, wait=False):
            pass


def test_the_time_is_that_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is an hour fast takes nothing over."""
    left(tmp_path, replace(Holder.here(), place="elsewhere"))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    with pytest.raises(BusyError), hold(tmp_path, wait=False):
        pass


def test_a_holder_is_touched_and_says_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.001)
    with hold(tmp_path) as claim:
        file = tmp_path / CLAIM / "1"
        os.utime(file, (0, 0))
        claim.tell("SNR s0, epoch 1/2", 1, 10)
        claim.tell("SNR s0, epoch 1/2, 400 images/s", 5, 10)
        while not (seen := look(tmp_path)) or not seen.doing or file.stat().st_mtime == 0:
            time.sleep(0.001)
        assert seen.held and seen.holder == claim.holder and not claim.lost
        assert seen.doing["what"] == "SNR s0, epoch 1/2, 400 images/s" and seen.doing["left"] == 0
        assert (seen.doing["done"], seen.doing["of"]) == (5, 10)


def test_who_was_suspended_until_it_was_taken_over_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.001)
    run = Run(tmp_path)
    with run.lock():
        report = run.telling(lambda what, done, total: None)
        report("x", 1, 2)
        (tmp_path / CLAIM / "1").unlink()  # as whoever makes the next one does
        (tmp_path / CLAIM / "2").touch()
        claim = locks.held_here(tmp_path)
        while claim and not claim.lost:
            time.sleep(0.001)
        with pytest.raises(BusyError, match=r"another process has taken over .*, as this one stood still for too long"):
            report("x", 2, 2)
    assert claims(tmp_path) == ["2"]  # the other's is left alone


@pytest.mark.parametrize("removed", [True, False], ids=["and its claim removed", "and its claim not removed yet"])
def test_who_was_suspended_writes_nothing_when_it_wakes_up(removed: bool, tmp_path: Path) -> None:
    """Before its own thread has touched the claim: that comes up to 15 s later."""
    run = Run(tmp_path)
    with run.lock():
        run.check_hold()
        report = run.telling(lambda what, done, total: None)
        (tmp_path / CLAIM / "2").touch()
        if removed:
            (tmp_path / CLAIM / "1").unlink()
        (tmp_path / ".results.csv.1.part").touch()  # of whoever has taken over
        for write in (lambda: report("x", 1, 2), lambda: run.write_results("duke", pd.DataFrame(), pd.DataFrame())):
            with pytest.raises(BusyError, match="another process has taken over"):
                write()
    assert sorted(one.name for one in tmp_path.iterdir()) == [".claim", ".results.csv.1.part"]
    run.check_hold()  # who holds nothing has lost nothing


def test_a_file_system_that_does_not_answer_takes_no_claim_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(path: Path, **words: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with hold(tmp_path) as claim:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", away)
            assert not claim.lost
        assert not claim.lost


def test_a_claim_that_cannot_clean_up_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(tmp_path, replace(Holder.here(), process=2**22 + 5))
    real, begun = Path.iterdir, list[int]()

    def iterdir(path: Path) -> Iterator[Path]:
        if begun:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return real(path)

    begin = locks.Claim.begin
    monkeypatch.setattr(locks.Claim, "begin", lambda claim: (begin(claim), begun.append(1)))
    monkeypatch.setattr(Path, "iterdir", iterdir)
    with hold(tmp_path, wait=False):
        begun.clear()
        assert claims(tmp_path) == ["7", "8"]
    assert look(tmp_path) is None


def test_who_is_killed_before_it_holds_is_waited_for_by_nobody(tmp_path: Path) -> None:
    """Its claim is there, and it was looking whether another came first."""
    code = "import os, sys; from pathlib import Path; from reidgen import locks; "
    code += "locks._passed = lambda *_: os.kill(os.getpid(), 9); locks._claim(Path(sys.argv[1]) / locks.CLAIM)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -signal.SIGKILL
    assert claims(tmp_path) == ["1"]
    with hold(tmp_path, wait=False):
        assert claims(tmp_path) == ["2"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_hides_no_claim(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(tmp_path, replace(Holder.here(), place="elsewhere"))
    real = os.open

    def full(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", full)
    seen = look(tmp_path)
    assert seen and seen.held


def test_a_folder_of_given_back_claims_goes_and_one_that_is_held_stays(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    for _ in range(2):
        with hold(folder):
            locks.remove_free(folder)
            assert claims(folder)
    (folder / "kept").touch()
    locks.remove_free(folder)
    assert claims(folder) == ["2-free"]
    (folder / "kept").unlink()
    locks.remove_free(folder)
    assert not folder.exists()


def test_who_looked_before_the_numbers_began_anew_comes_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "parts"
    with hold(folder):
        pass
    real, looks = locks._newest, [(1, True)]  # what it saw, before
    locks.remove_free(folder)
    with hold(folder):
        monkeypatch.setattr(locks, "_newest", lambda claims: looks.pop() if looks else real(claims))
        assert locks._claim(folder / CLAIM) is None and not looks
        assert claims(folder) == ["1"]


def test_of_two_that_take_over_one_does(tmp_path: Path) -> None:
    """The slower one has seen the old claim, and comes when the faster one holds, or has held, the folder."""
    left(tmp_path, replace(Holder.here(), process=2**22 + 5))
    place, slow = tmp_path / CLAIM, locks._newest(tmp_path / CLAIM)

    def late(monkeypatch: pytest.MonkeyPatch) -> None:
        answers = [slow]
        real = locks._newest
        monkeypatch.setattr(locks, "_newest", lambda claims: answers.pop() if answers else real(claims))
        monkeypatch.setattr(locks, "_look", lambda file: None)
        assert locks._claim(place) is None

    with hold(tmp_path, wait=False):
        with pytest.MonkeyPatch.context() as patch:
            late(patch)
        assert claims(tmp_path) == ["8"]
    with hold(tmp_path, wait=False):  # claim 9: number 8 is gone, so that the slower one makes it
        with pytest.MonkeyPatch.context() as patch:
            late(patch)
        assert claims(tmp_path) == ["9"]


def test_who_looked_before_a_whole_hold_of_another_comes_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes the number that was given back, beside which a third process may make the next."""
    real, looks = locks._newest, [(0, True)]  # what it saw, before
    with hold(tmp_path):
        pass
    monkeypatch.setattr(locks, "_newest", lambda claims: looks.pop() if looks else real(claims))
    assert locks._claim(tmp_path / CLAIM) is None and not looks
    assert not (tmp_path / CLAIM / "1").exists() and look(tmp_path) is None
    with hold(tmp_path):
        assert (tmp_path / CLAIM / "2").exists()


def test_what_a_claim_says_moves_no_cursor(tmp_path: Path) -> None:
    left(tmp_path, replace(Holder.here(), host="\x1b[2J", since="\x1b[2J" * 99))
    with pytest.raises(BusyError) as caught, hold(tmp_path, wait=False):
        pass
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_pipes_in_the_place_of_claims_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / CLAIM).mkdir()
    os.mkfifo(tmp_path / CLAIM / "7")
    with pytest.raises(BusyError), hold(tmp_path, wait=False):
        pass
    os.utime(tmp_path / CLAIM / "7", (0, 0))
    with hold(tmp_path, wait=False):
        pass


def test_a_file_in_the_place_of_the_claims_is_said(tmp_path: Path) -> None:
    (tmp_path / CLAIM).touch()
    with pytest.raises(DataError, match=r"cannot use .*\.claim: File exists"), locked(tmp_path):
        pass


def test_the_scheduler_s_job_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with hold(tmp_path), pytest.raises(BusyError, match=r"\(job 12, since "), hold(tmp_path, wait=False):
        pass
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "11")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert Holder.here().job == "11_3"


def test_errors_become_sentences(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot use .*file"), locked(tmp_path / "file" / "folder"):
        pass
    with pytest.raises(DataError, match="cannot use x: No space left on device"), locked(tmp_path):
        raise OSError(28, "No space left on device", "x")


def test_a_run_names_who_writes_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with hold(run.folder):
        pass

    def other() -> None:
        with pytest.raises(RunError, match=f"process {os.getpid()} on .* is writing {run.folder}"), run.lock():
            pass
        ended.append(1)

    with run.lock(), run.lock():  # this thread may hold it several times over
        ended: list[int] = []
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert ended and look(run.folder)
    assert look(run.folder) is None


def test_what_show_is_writing_is_not_removed(tmp_path: Path) -> None:
    for name in (".log.csv.1.part", "show/.maps.png.2.part", "show/.old.png.3.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.utime(tmp_path / "show/.old.png.3.part", (0, 0))
    with Run(tmp_path).lock():
        assert [one.name for one in tmp_path.rglob("*.part")] == [".maps.png.2.part"]
