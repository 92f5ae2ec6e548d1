"""Several plain benches on one results folder, killed with -9 at random moments: each cell is trained once, same table.

python scripts/prove_claims.py results/claims [KILLS [FOLDER]]     # FOLDER: on the file system to prove it on

Each process is `reidgen bench` as it stands; a hook of this script writes a line into a log when a run's training
begins, goes on or ends. A cell counts as trained once when exactly one training of it ended, and whoever was at it
before had been killed by then, see `proof.judge`.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import proof
import torch
import torch._dynamo  # which the first optimizer of a process would import

from reidgen import evaluation, grid, locks, training
from reidgen.cli import app
from reidgen.runs import Progress, provenance
from reidgen.tables import compare

LOADED = (evaluation, compare)  # before the forks, which then begin at once
KILLS = 20
RECIPE = """
base = "quick"
identities = 4
images = 2
batches_per_epoch = 8
epochs = 4
"""
METHODS, SEEDS, CELLS = "baseline,in,snr,ibn", 6, 24
PROCESSES = (2, 4)
PAUSE = (0.2, 3.0)  # seconds between two kills


def start(words: list[str], log: Path, out: Path) -> int:
    """Run a bench in a forked process; return its number."""
    return proof.forked(run, words, log, out)


def run(words: list[str], log: Path, out: Path) -> None:
    with out.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    real = training.Trainer.fit

    def fit(trainer: training.Trainer, report: Progress) -> None:
        name = trainer.run.folder.name
        proof.note(log, "begins" if trainer.step == 0 else "goes on", name)
        real(trainer, report)
        proof.note(log, "ends", name)

    training.Trainer.fit = fit  # type: ignore[assignment,method-assign]
    app(words, standalone_mode=False)


def prove(processes: int, kills: int, words: list[str], work: Path, expected: bytes) -> dict[str, object]:
    chance, results = random.Random(processes), work / f"results-{processes}"
    log, out = work / f"log-{processes}", work / f"out-{processes}"
    words = [*words, "--results", str(results)]
    alive, killed = {start(words, log, out) for _ in range(processes)}, 0
    began = time.monotonic()
    while alive:
        ends = time.monotonic() + chance.uniform(*PAUSE)
        while alive and time.monotonic() < ends:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended in alive:
                alive.discard(ended)
                if status:
                    raise SystemExit(f"a bench failed by itself:\n{out.read_text()}")
            time.sleep(0.01)
        if alive and killed < kills:
            victim = chance.choice(sorted(alive))
            alive.discard(victim)
            if proof.kill(victim, log):
                killed += 1
                alive.add(start(words, log, out))
    if killed < kills:
        raise SystemExit(f"all cells were done after {killed} kills of {kills}: prove it with more cells")
    judged = proof.judge(log, lost=CELLS - len(list(results.glob("runs/*/*/done"))))
    judged.refuse()
    assert (results / "table.csv").read_bytes() == expected, "another table"
    shutil.rmtree(results)
    return {
        "processes": processes, "kills": killed, "cells": CELLS, "overlaps": len(judged.overlaps),
        "trained twice": judged.twice, "lost": judged.lost,
        "seconds": time.monotonic() - began,
    }  # fmt: skip


def main() -> None:
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else KILLS
    place = sys.argv[3] if len(sys.argv) > 3 else None
    sys.argv = sys.argv[:2]
    folder = proof.folder(__doc__)
    training.CHECKPOINT_SECONDS = 0.1  # many checkpoints in a short training
    grid.WAIT = 0.5
    if not Path("/proc/self").exists():
        locks.STALE = 5.0
    provenance()
    torch.set_num_threads(1)  # before a fork there must be no other thread
    with tempfile.TemporaryDirectory(dir=place) as temporary:
        work = Path(temporary)
        data, recipe = work / "data", work / "short.toml"
        recipe.write_text(RECIPE)
        proof.prepare(data)
        words = ["bench", "--source", "synth-plaza", "--recipe", str(recipe), "--device", "cpu", "--data", str(data)]
        words += ["--methods", METHODS, "--seeds", str(SEEDS)]
        plain = start([*words, "--results", str(work / "plain")], work / "log", work / "out")
        _, status = os.waitpid(plain, 0)
        assert not status, (work / "out").read_text()
        expected = (work / "plain" / "table.csv").read_bytes()
        rows = [prove(processes, kills, words, work, expected) for processes in PROCESSES]
    proof.write(folder / "claims.csv", rows)


if __name__ == "__main__":
    main()
