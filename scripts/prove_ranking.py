"""Ranking against the distance product alone at Market-1501's size, and 1,000,000 gallery images in bounded memory.

python scripts/prove_ranking.py results/speed-cpu-2026-11-23
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TypedDict

import numpy as np
import proof
import torch
from torch import Tensor

from reidgen.ranking import rank

MARKET = (3368, 19_281, 2048, 751)  # queries, gallery, features, people
LARGE = (1000, 1_000_000, 512, 20_000)
REPEATS = 5


class Ids(TypedDict):
    """Who is on each query and gallery image, and by which camera: int64, (Q,) or (G,)."""

    pid_Q: Tensor
    pid_G: Tensor
    camid_Q: Tensor
    camid_G: Tensor


def problem(queries: int, images: int, people: int) -> Ids:
    """Return pids and cameras: people of unequal numbers of images, a sixth of the gallery are distractors (pid 0)."""
    rng = np.random.default_rng(0)
    share = rng.gamma(2.0, size=people)
    pid_G = rng.choice(np.arange(1, people + 1), images, p=share / share.sum())
    pid_G[rng.random(images) < 1 / 6] = 0
    pid_Q = rng.choice(np.unique(pid_G[pid_G > 0]), queries)
    camid_Q, camid_G = rng.integers(0, 6, queries), rng.integers(0, 6, images)
    return {
        "pid_Q": torch.from_numpy(pid_Q),
        "pid_G": torch.from_numpy(pid_G),
        "camid_Q": torch.from_numpy(camid_Q),
        "camid_G": torch.from_numpy(camid_G),
    }


def features(pid_N: Tensor, centre_PD: Tensor, seed: int) -> Tensor:
    """Return unit vectors about their person's centre, spread so that mAP is neither 0 nor 1."""
    noise = torch.randn(len(pid_N), centre_PD.shape[1], generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(centre_PD[pid_N] + 3.5 * noise)


def market() -> list[dict[str, object]]:
    queries, images, size, people = MARKET
    ids = problem(queries, images, people)
    centre_PD = torch.randn(people + 1, size, generator=torch.Generator().manual_seed(1))
    query_QD, gallery_GD = features(ids["pid_Q"], centre_PD, 2), features(ids["pid_G"], centre_PD, 3)
    out_QG = torch.empty(queries, images)
    taken: dict[str, list[tuple[float, float]]] = {"product": [], "ranking": []}
    for _ in range(REPEATS):  # in turn, so that other work on the machine meets both
        for what in taken:
            wall, cpu = time.perf_counter(), time.process_time()
            if what == "product":
                torch.mm(query_QD, gallery_GD.T, out=out_QG)
            else:
                result = rank(query_QD, gallery_GD, **ids)
            taken[what].append((time.perf_counter() - wall, time.process_time() - cpu))
    product, ranking = (tuple(map(min, zip(*times, strict=True))) for times in taken.values())
    over = {"over the product": ranking[0] / product[0] - 1, "over, CPU time": ranking[1] / product[1] - 1}
    common = {"queries": queries, "gallery": images, "features": size}
    return [
        {"what": "distance product", **common, "seconds": product[0], "CPU seconds": product[1]},
        {"what": "ranking", **common, "seconds": ranking[0], "CPU seconds": ranking[1], **over, "mAP": result.mAP},
    ]


def large(file: Path) -> None:
    """Write the features, or, where they are written, rank them memory-mapped and print seconds, bytes and mAP.

    Each in a process of its own, whose memory holds nothing else.
    """
    queries, images, size, people = LARGE
    ids = problem(queries, images, people)
    centre_PD = torch.randn(people + 1, size, generator=torch.Generator().manual_seed(1))
    if not file.exists():
        mapped = np.lib.format.open_memmap(file, "w+", np.float32, (images, size))
        for start in range(0, images, 10_000):
            part = slice(start, start + 10_000)
            mapped[part] = features(ids["pid_G"][part], centre_PD, 3 + start).numpy()
        return
    query_QD = features(ids["pid_Q"], centre_PD, 2)
    del centre_PD
    gallery_GD = torch.from_numpy(np.load(file, mmap_mode="c"))
    before, peak, done = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, anonymous_bytes())

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.perf_counter()
    result = rank(query_QD, gallery_GD, **ids)
    seconds = time.perf_counter() - began
    done.set()
    watching.join()
    print(seconds, peak - before, result.mAP)


def anonymous_bytes() -> int:
    """Return the memory of this process that is no mapped file: the system drops a file's pages when it needs room."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def main() -> None:
    folder = proof.folder(__doc__)
    rows = market()
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, __file__, "--large", str(Path(temporary) / "gallery.npy")]
        subprocess.run(command, check=True)
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    seconds, beyond, mean = map(float, printed)
    queries, images, size, _ = LARGE
    row = {"what": "ranking, memory-mapped", "queries": queries, "gallery": images, "features": size}
    rows.append({**row, "seconds": seconds, "GB beyond the features": beyond / 1e9, "mAP": mean})
    proof.write(folder / "ranking.csv", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--large"]:
        large(Path(sys.argv[2]))
    else:
        main()
