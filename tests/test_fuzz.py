"""A short seeded part of scripts/fuzz.py: no damage gives another number, a traceback or a hang; and its judge."""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
STORED, INPUTS = 30, 13
QUICK = ("train (finished)", "evaluate", "table (published)", "prepare --check", "prepare --list")  # 0.1 s each


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(SCRIPTS))
    patch.setenv("OMP_NUM_THREADS", "1")  # as the script sets it: put back at the end
    import fuzz as module

    yield module
    patch.undo()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("fuzz", "fuzzing", "proof")]:
        sys.modules.pop(name)


def test_damaged_stored_files_give_no_other_numbers(
    fuzz: ModuleType, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_data, tmp_path / "data")
    world = fuzz.World(tmp_path, names=QUICK)
    tally = fuzz.Tally()
    fuzz.fuzz_stored(world, tally, 1, lambda trials: trials < STORED)
    assert not tally.faults
    assert sum(row["tried"] for row in tally.rows()) == STORED and sum(row["noticed"] for row in tally.rows()) > 10


def test_damaged_inputs_are_refused_or_mean_the_same(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tally = fuzz.Tally()
    fuzz.fuzz_inputs(tmp_path, tally, 0, lambda trials: trials < INPUTS)
    assert not tally.faults and len(tally.rows()) == INPUTS


def test_a_verdict_is_what_it_should_be(fuzz: ModuleType) -> None:
    from fuzzing.verdicts import Ended, judge, neutral

    truth = Ended(0, "snr 40.1\n", {"rows.csv": "40.1"})
    assert judge(truth, truth) == "same"
    assert judge(Ended(1, "error: it is damaged"), truth) == "noticed"
    assert judge(Ended(0, "snr 40.2\n", truth.written), truth) == "other"
    assert judge(Ended(0, truth.printed, {"rows.csv": "40.2"}), truth) == "other"
    assert judge(Ended(0, "", {}), truth, gone=True) == "absent"
    assert judge(Ended(0, "snr 40.2\n", truth.written), truth, own=True) == "input"
    told = Ended(0, "duke: left out, as it is damaged\n", truth.written)
    assert judge(told, truth) == "told"
    assert judge(Ended(-1, "", fault="hang"), truth) == "hang"
    assert neutral("trained in 3.5 s, 2026-11-26T10:00:00Z, mAP 3.5") == "trained in TIME, DATE, mAP 3.5"


@pytest.mark.parametrize("content", [b"", b"a", b"epoch,loss\n1,2.5\n2,1.25\n", os.urandom(5000)])
def test_every_damage_is_repeated_by_its_seed(fuzz: ModuleType, content: bytes) -> None:
    from fuzzing.damage import DAMAGES, number

    for name, damage in DAMAGES.items():
        once, again = (damage(content, random.Random(f"7 {name}")) for _ in range(2))
        assert once == again
    other = number(b"mAP,0.75\n", random.Random(2))
    assert other != b"mAP,0.75\n" and other.startswith(b"mAP,")


def test_a_log_counts_without_its_speeds_and_a_damaged_one_by_its_bytes(fuzz: ModuleType, tmp_path: Path) -> None:
    from fuzzing.verdicts import numbers_of

    answers = set()
    for seconds in (1, 2):
        (tmp_path / "log.csv").write_text(f"epoch,loss,images_per_s,seconds\n1,2.5,90,{seconds}\n")
        answers.add(numbers_of(tmp_path / "log.csv"))
    assert answers == {"epoch,loss\n1,2.5\n"}
    for damage in (b"epoch,lo\xe9s\n", b"", b"epoch,loss\n1,2.5\n"):
        (tmp_path / "log.csv").write_bytes(damage)
        answers.add(numbers_of(tmp_path / "log.csv"))
    assert len(answers) == 4
