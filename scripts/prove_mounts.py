"""Two mounts of one network file system as two machines: each cell is done once, though workers are killed.

python scripts/prove_mounts.py results/cluster MOUNT MOUNT     # both of one folder, such as of one sshfs here

Each worker counts as a machine of its own, so that only its touches tell that it lives; the times are shortened.
"""

import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import proof

from reidgen import locks
from reidgen.errors import BusyError
from reidgen.locks import hold

CELLS, WORKERS, KILLS = 40, 8, 6
locks.BEAT, locks.FIRST_BEAT, locks.STALE = 0.5, 0.5, 6.0


def note(log: Path, what: str, cell: int) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{os.getpid()},{what},{cell}\n".encode())
    os.close(file)


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
                        note(log, "begins", cell)
                        time.sleep(random.uniform(0.02, 0.2))
                        note(log, "ends", cell)
                        (root / str(cell) / "done").touch()
            except BusyError:
                busy.append(cell)
        left = busy
        time.sleep(0.3)


def start(root: Path, log: Path) -> int:
    if child := os.fork():
        return child
    try:
        worker(root, log)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wrong(log: Path, killed: set[int]) -> list[str]:
    """Return what is wrong: a cell that two were at, or that was done again though who had done it was not killed."""
    found, at, ends = list[str](), dict[str, int](), dict[str, int]()
    for line in log.read_text().splitlines():
        number, what, cell = line.split(",")
        if what == "ends":
            at.pop(cell, None)
            ends[cell] = int(number)
            continue
        for other in (at.get(cell), ends.get(cell)):
            if other and other not in killed:
                found.append(f"cell {cell}: {other} and {number}")
        at[cell] = int(number)
    return found + [f"{CELLS - len(ends)} cells are missing"] * (len(ends) < CELLS)


def main() -> None:
    mounts = [Path(word) for word in sys.argv[2:4]]
    sys.argv = sys.argv[:2]
    folder = proof.folder(__doc__)
    name = f"mounts-{os.getpid()}"
    with tempfile.TemporaryDirectory() as temporary:
        log, killed, began = Path(temporary) / "log", set[int](), time.monotonic()
        alive = {start(mounts[number % 2] / name, log): mounts[number % 2] for number in range(WORKERS)}
        while alive:
            if len(killed) < KILLS:
                time.sleep(random.uniform(0.3, 1.0))
                victim = random.choice(list(alive))
                os.kill(victim, signal.SIGKILL)
                os.waitpid(victim, 0)
                killed.add(victim)
                mount = alive.pop(victim)
                alive[start(mount / name, log)] = mount
                continue
            ended, status = os.waitpid(-1, 0)
            alive.pop(ended, None)
            if status:
                raise SystemExit("a worker failed by itself")
        if found := wrong(log, killed):
            raise SystemExit("\n".join(found))
        row: dict[str, object] = {"cells": CELLS, "workers": WORKERS, "kills": KILLS, "lost": 0, "done twice": 0}
        proof.write(folder / "mounts.csv", [row | {"seconds": time.monotonic() - began}])


if __name__ == "__main__":
    main()
