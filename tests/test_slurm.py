"""A grid on a real SLURM of two nodes: whatever is cancelled, requeued, lost or killed, the table is that of plain bench.

scripts/slurm_here.sh start /tmp/slurm && REIDGEN_SLURM=/tmp/slurm/slurm.conf pytest -m slurm tests/test_slurm.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SMALL, grid_toml

from reidgen.locks import look
from reidgen.runs import Run

CONF = os.environ.get("REIDGEN_SLURM", "")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not CONF, reason="needs REIDGEN_SLURM, the slurm.conf of scripts/slurm_here.sh"),
]


def asked(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=900).stdout


def until(what: Callable[[], object], seconds: float = 240.0) -> object:
    """Wait until something is so, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s: {what}\n{asked('squeue')}\n{asked('sinfo')}")


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", CONF)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_whatever_happens_to_jobs_the_table_is_that_of_plain_bench(
    slurm: None, small_data: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(grid_toml(SMALL.change(epochs=60, batches_per_epoch=4)))
    words = [sys.executable, "-m", "reidgen", "bench", "--source", "synth-plaza", "--target", "synth-night,synth-plaza"]
    words += ["--methods", "baseline,in", "--seeds", "3", "--recipe", str(recipe), "--data", str(small_data)]
    words += ["--device", "cpu", "--results"]
    results = tmp_path / "slurm"
    on = [*words, str(results), "--on", "slurm", "--hours", "0.2", "--memory", "2"]

    def status() -> dict[str, list[dict[str, object]]]:
        found: dict[str, list[dict[str, object]]] = {}
        for cell in json.loads(asked(*words, str(results), "--status", "--json"))["cells"]:
            found.setdefault(str(cell["state"]), []).append(cell)
        return found

    def trains(job: str) -> Run | None:
        """The run that a job is training, once it has written its checkpoint's first epochs."""
        for folder in results.glob("runs/*/*"):
            seen = look(folder)
            if seen and seen.holder and seen.holder.job == job and (folder / "log.csv").is_file():
                return Run(folder)
        return None

    # The submitting command is killed while it waits; what it submitted goes on, and is not submitted again.
    with subprocess.Popen([*on, "--wait"], stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout
        line = next(line for line in waiting.stdout if line.startswith("submitted: job array "))
        waiting.kill()
    array = line.split()[3].rstrip(",")
    assert "nothing to submit" in asked(*on)

    until(lambda: trains(f"{array}_0") and trains(f"{array}_1"))
    cancelled, requeued = trains(f"{array}_0"), trains(f"{array}_1")
    assert cancelled and requeued
    asked("scontrol", "requeue", f"{array}_1")
    asked("scancel", f"{array}_0")
    until(lambda: cancelled.state.is_file() and requeued.state.is_file())  # SIGTERM: both wrote their checkpoints

    # A worker is killed, and a node is lost under another.
    until(lambda: trains(f"{array}_2"))
    run = trains(f"{array}_2")
    assert run
    seen = look(run.folder)
    assert seen and seen.holder
    os.kill(seen.holder.process, signal.SIGKILL)
    until(lambda: trains(f"{array}_3"))
    node = asked("squeue", "-h", "-j", f"{array}_3", "-o", "%N").strip()
    asked("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
    until(lambda: asked("squeue", "-h", "-j", f"{array}_3", "-o", "%T").strip() != "RUNNING")
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False, capture_output=True)
    until(lambda: "down" not in asked("sinfo", "-h", "-n", node, "-o", "%T"))  # its slurmd may have been faster

    # The scheduler's warning before the time limit, of a job that then goes on by itself.
    until(lambda: trains(f"{array}_4"))
    warned = trains(f"{array}_4")
    asked("scancel", "--signal=USR1", f"{array}_4")
    until(lambda: warned and warned.state.is_file())

    until(lambda: not asked("squeue", "-h"))
    found = status()
    assert {str(cell["job"]) for cell in found["failed"]} == {f"{array}_0", f"{array}_2"}, found
    assert all("ended without a word" in str(cell["sentence"]) for cell in found["failed"])
    assert all(Path(str(cell["log"])).is_file() for cell in found["failed"]) and len(found["done"]) == 4
    again = asked(*on, "--wait")
    assert ", 2 cells" in again and "6 cells: 6 done" in again
    asked(*words, str(tmp_path / "plain"))
    for name in ("table.csv", "identities.csv.gz"):
        assert (results / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    for file in (tmp_path / "plain").glob("runs/*/*/weights.safetensors"):
        assert (results / file.relative_to(tmp_path / "plain")).read_bytes() == file.read_bytes()


def test_a_refused_submission_is_a_sentence(slurm: None, small_data: Path, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "reidgen",
        "bench",
        "--source",
        "synth-plaza",
        "--methods",
        "baseline",
        "--seeds",
        "1",
    ]
    words += ["--data", str(small_data), "--results", str(tmp_path), "--on", "slurm", "--partition", "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    last = done.stderr.splitlines()[-1]  # behind sbatch's own words
    assert done.returncode == 1 and last.startswith("error: sbatch refused the jobs: "), done.stderr
    assert "invalid partition" in last
