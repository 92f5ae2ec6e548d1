"""100,000 crops embedded, resumed and searched: time, and memory of all processes together.

    python scripts/prove_search.py results/search-cpu-2026-11-26

The crops are images of the built-in benchmark (128x64, JPEG), each with another light, moved a little; the network is
SNR on `tiny` at 64x32, trained for a single step: what is measured is the stream, not the network. Memory is the
proportional set size of the command and its processes, sampled four times a second.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import proof
from PIL import Image, ImageChops

from reidgen.data import prepare as preparing
from reidgen.pool import share
from reidgen.recipe import RECIPES
from reidgen.training import train

CROPS = int(os.environ.get("CROPS", "100000"))
RECIPE = RECIPES["quick"].change(name="stream", identities=4, images=4, epochs=1, batches_per_epoch=1)


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def draw(number: int, *, folder: Path, drawn: list[Path]) -> None:
    """Write one crop."""
    image = _opened(drawn[number % len(drawn)])
    gain, offset, left, up = np.random.default_rng(number).uniform((0.6, -25, -6, -12), (1.3, 25, 6, 12)).tolist()
    image = ImageChops.offset(image, round(left), round(up)).point([gain * grey + offset for grey in range(256)] * 3)
    file = folder / f"cam{number % 6}" / f"{number // 1000:03}" / f"{number:06}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=90)


@functools.cache
def _opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def processes(root: int) -> list[int]:
    """Return a process and all below it."""
    found, waiting = [root], [root]
    while waiting:
        one = waiting.pop()
        with contextlib.suppress(OSError):
            below = Path(f"/proc/{one}/task/{one}/children").read_text().split()
            tasks = [
                int(word)
                for task in Path(f"/proc/{one}/task").iterdir()
                for word in (task / "children").read_text().split()
            ]
            new = {int(word) for word in below} | set(tasks)
            found += sorted(new)
            waiting += sorted(new)
    return found


def size(root: int) -> float:
    """Return the megabytes that a process and all below it take."""
    total = 0.0
    for one in processes(root):
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) / 1024
    return total


def timed(what: str, *words: object, kill: float = 0.0) -> dict[str, object]:
    """Run a command of reidgen and return how long it took; kill: seconds after which it is killed."""
    command = [sys.executable, "-m", "reidgen", *map(str, words), "--device", "cpu"]
    began, peak = time.monotonic(), 0.0
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said: list[str] = []
    assert running.stdout is not None
    reader = threading.Thread(target=said.extend, args=(running.stdout,))
    reader.start()
    while running.poll() is None:
        peak = max(peak, size(running.pid))
        if kill and time.monotonic() - began > kill:
            running.kill()
        time.sleep(0.25)
    reader.join()
    used = os.times()
    row = {
        "what": what,
        "crops": CROPS,
        "seconds": time.monotonic() - began,
        "peak MB": peak,
        "exit": running.returncode,
    }
    print(
        json.dumps(row),
        f"{used.children_user + used.children_system:.0f} s of CPU so far",
        *said[-3:],
        sep="\n",
        flush=True,
    )
    return row


def main() -> None:
    out, rows = proof.folder(__doc__), []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        proof.people(8, 40)
        preparing.prepare("synth-plaza", data=place)
        run = train(RECIPE, data=place, results=place / "results", device="cpu", report=silent)
        drawn = sorted((place / "synth-plaza").rglob("*.jpg"))
        for _ in share(functools.partial(draw, folder=place / "crops", drawn=drawn), range(CROPS)):
            pass
        print(f"{CROPS} crops drawn", flush=True)
        embed = ["embed", run.folder, "--images", place / "crops", "--out", place / "f.parquet"]
        rows.append(timed("embed, killed", *embed, kill=60))
        rows.append(timed("embed, resumed", *embed))
        rows.append(timed("embed again, nothing new", *embed))
        search = ["search", place / "f.parquet", "--top", 20, "--quiet", "--out", place / "found.csv"]
        one = place / "crops" / "cam0" / "000" / "000000.jpg"
        many = place / "crops" / "cam1" / "001"
        rows.append(timed("search, 1 query, exact", *search, "--query", one))
        rows.append(timed(f"search, {len(list(many.iterdir()))} queries, exact", *search, "--query", many))
        search += ["--approximate-above", 1]
        rows.append(timed("search, 1 query, the index is built", *search, "--query", one))
        rows.append(
            timed("search, 1 query, approximate", *[word for word in search if word != "--quiet"], "--query", one)
        )
    proof.write(out / "search.csv", rows)


if __name__ == "__main__":
    main()
