"""The judge of the proofs that kill: what it must find, and what it must not."""

import importlib
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    return importlib.import_module("proof")


WORK = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while True:
    os.write(file, f"{os.getpid()},begins,a\\n".encode())
"""


@pytest.mark.parametrize(
    ("lines", "overlaps", "twice"),
    [
        ("1,begins,a 1,ends,a 2,begins,b 2,ends,b", 0, 0),
        ("1,begins,a 2,begins,a 2,ends,a", 1, 0),
        ("1,begins,a 2,begins,a 2,ends,a 1,killed,", 1, 0),  # killed, but only later
        ("1,begins,a 1,killed, 2,goes on,a 2,ends,a", 0, 0),
        ("1,begins,a 1,killed, 2,goes on,a 3,goes on,a 2,killed, 3,ends,a", 1, 0),
        ("1,begins,a 1,ends,a 2,begins,a 2,ends,a", 0, 1),
        ("1,begins,a 1,ends,a 1,killed, 2,begins,a 2,ends,a", 0, 1),  # it was done, and proven
        ("1,begins,a 2,begins,b 1,ends,a 2,ends,b", 0, 0),
        ("1,begins,a 1,fails,a 2,begins,a 2,fails,a", 0, 0),
    ],
)
def test_a_log_is_judged_in_order(lines: str, overlaps: int, twice: int, proof: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(lines.replace("goes on", "goes_on").split()) + "\n")
    judged = proof.judge(tmp_path / "log", lost=0)
    assert (len(judged.overlaps), judged.twice) == (overlaps, twice)
    if overlaps or twice:
        with pytest.raises(SystemExit, match="done twice"):
            judged.refuse()
    else:
        judged.refuse()
    with pytest.raises(SystemExit, match="lost: 1"):
        proof.judge(tmp_path / "log", lost=1).refuse()


def test_what_a_process_did_stands_before_its_death(proof: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log"

    child = os.posix_spawn(sys.executable, [sys.executable, "-c", WORK, str(log)], dict(os.environ))
    while not log.exists() or not log.read_text():
        time.sleep(0.001)
    assert proof.kill(child, log)
    lines = log.read_text().splitlines()
    assert lines[-1] == f"{child},killed," and set(lines[:-1]) == {f"{child},begins,a"}
    with pytest.raises(ProcessLookupError):
        os.kill(child, signal.SIGCONT)
