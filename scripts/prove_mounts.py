"""Two mounts of one network file system as two machines: each cell is done once, though workers are killed.

python scripts/prove_mounts.py results/cluster MOUNT MOUNT     # both of one folder, such as of one sshfs here

Each worker counts as a machine of its own, so that only its touches tell that it lives; the times are shortened.
"""

import os
import random
import sys
import tempfile
import time
from pathlib import Path

import proof

from reidgen import locks
from reidgen.errors import BusyError
from reidgen.locks import hold

CELLS, WORKERS, KILLS = 40, 8, 6
locks.BEAT, locks.FIRST_BEAT, locks.STALE = 0.5, 0.5, 6.0


def worker(root: Path, log: Path) -> None:
    random.seed(os.getpid())
    locks._place = lambda: f"machine {os.getpid()}"
    left = random.sample(range(CELLS), CELLS)
    while left:
        busy = []
        for cell in left:
            try:
                with hold(root / str(cell), wait=False):
                    if not (root / str(cell) / "done").exists():
                        proof.note(log, "begins", cell)
                        time.sleep(random.uniform(0.02, 0.2))
                        (root / str(cell) / "done").touch()
                        proof.note(log, "ends", cell)
            except BusyError:
                busy.append(cell)
        left = busy
        time.sleep(0.3)


def main() -> None:
    mounts = [Path(word) for word in sys.argv[2:4]]
    sys.argv = sys.argv[:2]
    folder = proof.folder(__doc__)
    name = f"mounts-{os.getpid()}"
    with tempfile.TemporaryDirectory() as temporary:
        log, killed, began = Path(temporary) / "log", 0, time.monotonic()
        alive = {proof.forked(worker, mounts[number % 2] / name, log): mounts[number % 2] for number in range(WORKERS)}
        while alive:
            if killed < KILLS:
                time.sleep(random.uniform(0.3, 1.0))
                victim = random.choice(list(alive))
                mount = alive.pop(victim)
                if proof.kill(victim, log):
                    killed += 1
                    alive[proof.forked(worker, mount / name, log)] = mount
                continue
            ended, status = os.waitpid(-1, 0)
            alive.pop(ended, None)
            if status:
                raise SystemExit("a worker failed by itself")
        judged = proof.judge(log, lost=CELLS - len(list((mounts[0] / name).glob("*/done"))))
        judged.refuse()
        row: dict[str, object] = {"cells": CELLS, "workers": WORKERS, "kills": killed, "overlaps": len(judged.overlaps)}
        row |= {"lost": judged.lost, "done twice": judged.twice}
        proof.write(folder / "mounts.csv", [row | {"seconds": time.monotonic() - began}])


if __name__ == "__main__":
    main()
