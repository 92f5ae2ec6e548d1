"""Time and memory at 1, 2, 4 and 8 times as many identities, gallery images and targets; each should grow linearly at
most.

    python scripts/prove_growth.py results/speed-cpu-2026-11-23

Each row is measured in a process of its own. `growth` is the time of this row against that of 1x, in CPU seconds: other
work on the machine does not change it much.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import proof
import torch
from prove_ranking import features, problem

from reidgen.data import prepare as preparing
from reidgen.data.batches import epoch_batches, load_source
from reidgen.evaluation import evaluate
from reidgen.ranking import rank
from reidgen.recipe import RECIPES
from reidgen.training import train

TIMES = (1, 2, 4, 8)
RECIPE = RECIPES["quick"].change(name="growth", identities=4, images=4, epochs=1, batches_per_epoch=1)


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def prepared(folder: Path, name: str, train_people: int, test_people: int) -> None:
    proof.people(train_people, test_people)
    preparing.prepare(name, data=folder)


def draw_batches(times: int) -> Callable[[], object]:
    """Ten epochs' batches of 750 identities (Market-1501's), with 17 images each."""
    label_N = np.repeat(np.arange(750 * times), 17)
    recipe = RECIPES["paper"].change(batches_per_epoch=0)
    return lambda: [epoch_batches(label_N, np.zeros_like(label_N), recipe=recipe, epoch=epoch) for epoch in range(10)]


def training_steps(times: int) -> Callable[[], object]:
    """60 training steps on 12 identities' images: their cost must not depend on how many identities the source has."""
    folder = Path(tempfile.mkdtemp())
    prepared(folder, "synth-plaza", 12 * times, 4)
    recipe = RECIPE.change(batches_per_epoch=60)
    load_source(recipe, data=folder, report=silent)
    return lambda: train(recipe, data=folder, results=folder / "r", device="cpu", report=silent)


def gallery(times: int) -> Callable[[], object]:
    """200 queries against 20,000 images of 512 features."""
    ids = problem(200, 20_000 * times, 750 * times)
    centre_PD = torch.randn(750 * times + 1, 512, generator=torch.Generator().manual_seed(1))
    query_QD, gallery_GD = features(ids["pid_Q"], centre_PD, 2), features(ids["pid_G"], centre_PD, 3)
    return lambda: rank(query_QD, gallery_GD, **ids)


def targets(times: int) -> Callable[[], object]:
    """One run evaluated on so many targets."""
    folder = Path(tempfile.mkdtemp())
    prepared(folder, "synth-plaza", 6, 12)
    run = train(RECIPE, data=folder, results=folder / "r", device="cpu", report=silent)
    for number in range(times):
        preparing.prepare(f"target{number}", data=folder, source=copied(folder, number))

    def work() -> None:
        for number in range(times):
            evaluate(run, f"target{number}", data=folder, device="cpu", report=silent)

    work()  # builds the pixel caches, which is not measured here
    for file in (run.results, run.per_query):
        file.unlink()
    return work


def copied(folder: Path, number: int) -> Path:
    """Return a folder of crops: the test images of synth-plaza under names of their own."""
    crops = folder / f"crops{number}"
    for path in (folder / "synth-plaza").rglob("*.jpg"):
        pid, camera = path.name.split("_")[:2]
        if path.parent.name in ("query", "bounding_box_test") and int(pid) > 0:
            place = crops / pid / f"{camera}_{path.stem}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return crops


WORK = {
    "draw ten epochs": draw_batches,
    "60 training steps": training_steps,
    "rank a gallery": gallery,
    "evaluate": targets,
}
OF = {
    "draw ten epochs": "identities",
    "60 training steps": "identities",
    "rank a gallery": "gallery images",
    "evaluate": "targets",
}


def measure(what: str, times: int) -> None:
    torch.set_num_threads(1)
    work = WORK[what](times)
    cpu = time.process_time()
    work()
    seconds, peak = time.process_time() - cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"CPU seconds": seconds, "peak GB": peak / 1e6}))


def main() -> None:
    folder, rows = proof.folder(__doc__), []
    for what in WORK:
        first = 0.0
        for times in TIMES:
            command = [sys.executable, __file__, "--work", what, str(times)]
            with tempfile.TemporaryDirectory() as temporary:
                own = {**os.environ, "TMPDIR": temporary}
                ended = subprocess.run(command, check=True, capture_output=True, text=True, env=own)
            found = json.loads(ended.stdout.splitlines()[-1])
            first = first or found["CPU seconds"]
            rows.append({"what": what, "of": OF[what], "times": times, **found, "growth": found["CPU seconds"] / first})
    proof.write(folder / "growth.csv", rows)


if __name__ == "__main__":
    measure(sys.argv[2], int(sys.argv[3])) if sys.argv[1:2] == ["--work"] else main()
