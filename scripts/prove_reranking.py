"""Exact k-reciprocal re-ranking at MSMT17's size in a few GB: peak memory and time, in a process each.

python scripts/prove_reranking.py results/reranking-cpu-2026-11-27
"""

import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import proof
import torch
from prove_ranking import problem
from torch.nn import functional

from reidgen.contracts import TestStep
from reidgen.evaluation import Images, rank_split
from reidgen.steps import Centre, Rerank

MSMT17 = (11_659, 82_161, 3060)  # queries, gallery, people
SIZES = 512, 2048  # of OSNet's features, and of ResNet-50's
BLOCK = 4096  # embeddings that are drawn at a time


def images(queries: int, gallery: int, people: int, size: int) -> Images:
    """Return drawn embeddings, unit vectors about their person's centre, as `evaluate` has them before it ranks.

    They lie closer about it than those of `prove_ranking`: more neighbours are mutual, which costs more.
    """
    ids = problem(queries, gallery, people)
    whole = queries + gallery
    pid_N, camid_N = torch.cat([ids["pid_Q"], ids["pid_G"]]), torch.cat([ids["camid_Q"], ids["camid_G"]])
    generator = torch.Generator().manual_seed(1)
    centre_PD = 1.6 * torch.randn(people + 1, size, generator=generator)
    embedding_ND = torch.empty(whole, size)
    for start in range(0, whole, BLOCK):
        block = slice(start, start + BLOCK)
        noise = 3.5 * torch.randn(len(pid_N[block]), size, generator=generator)
        embedding_ND[block] = functional.normalize(centre_PD[pid_N[block]] + noise)
    paths = np.array([f"{number:06d}" for number in range(whole)])
    part = pd.DataFrame({"path": paths, "pid": pid_N, "camid": camid_N, "part": "gallery"})
    part.loc[: queries - 1, "part"] = "query"
    return Images(part, paths, camid_N, embedding_ND)


def measure(size: int) -> dict[str, float]:
    """Rank as `evaluate` does, plainly and with `centre+rerank`: seconds, CPU seconds, mAP, and the peak of the
    process's memory after each, in GB.
    """
    drawn = images(*MSMT17, size)
    ways: dict[str, Mapping[str, Sequence[TestStep]]] = {
        "plain": {"embeddings": [], "distances": []},
        "centre+rerank": {"embeddings": [Centre()], "distances": [Rerank()]},
    }
    found: dict[str, float] = {"queries": MSMT17[0], "gallery": MSMT17[1], "features": size, "before, GB": peak()}
    for word, way in ways.items():
        wall, cpu = time.perf_counter(), time.process_time()
        numbers, _ = rank_split(drawn, way)
        found[f"{word} mAP"] = numbers["mAP"]
        found |= {f"{word}, s": time.perf_counter() - wall, f"{word}, CPU s": time.process_time() - cpu}
        found[f"{word}, peak GB"] = peak()
    return found


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    folder = proof.folder(__doc__)
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        words = [sys.executable, __file__, "alone", str(size)]
        run = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        names, values = (line.split(";") for line in run.stdout.splitlines())
        rows.append(dict(zip(names, map(float, values), strict=True)))
    proof.write(folder / "reranking.csv", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["alone"]:
        result = measure(int(sys.argv[2]))
        print(";".join(result))
        print(";".join(map(str, result.values())))
    else:
        main()
