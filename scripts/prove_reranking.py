"""Exact k-reciprocal re-ranking at MSMT17's size in a few GB: peak memory and time, in a process of its own.

python scripts/prove_reranking.py results/reranking-cpu-2026-11-26
"""

import resource
import subprocess
import sys
import time

import proof
import torch
from prove_ranking import features, problem

from reidgen.ranking import rank
from reidgen.reranking import rerank

MSMT17 = (11_659, 82_161, 512, 3060)  # queries, gallery, features, people


def measure(queries: int, images: int, size: int, people: int) -> dict[str, float]:
    """Rank and re-rank: seconds, CPU seconds, mAP, and the peak of the process's memory after each, in GB.

    The embeddings lie closer about their people than those of `prove_ranking`: more neighbours are mutual, which costs
    more.
    """
    ids = problem(queries, images, people)
    centre_PD = 1.6 * torch.randn(people + 1, size, generator=torch.Generator().manual_seed(1))
    query_QD, gallery_GD = features(ids["pid_Q"], centre_PD, 2), features(ids["pid_G"], centre_PD, 3)
    found: dict[str, float] = {"queries": queries, "gallery": images, "features": size, "before, GB": peak()}
    for what in ("rank", "re-rank"):
        wall, cpu = time.perf_counter(), time.process_time()
        distances = rerank(query_QD, gallery_GD) if what == "re-rank" else None
        found[f"{what} mAP"] = rank(query_QD, gallery_GD, **ids, distances=distances).mAP
        found |= {f"{what}, s": time.perf_counter() - wall, f"{what}, CPU s": time.process_time() - cpu}
        found[f"{what}, peak GB"] = peak()
    return found


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    folder = proof.folder(__doc__)
    run = subprocess.run([sys.executable, __file__, "alone"], capture_output=True, text=True, check=True)
    names, values = (line.split(";") for line in run.stdout.splitlines())
    proof.write(folder / "reranking.csv", [dict(zip(names, map(float, values), strict=True))])


if __name__ == "__main__":
    if sys.argv[1:] == ["alone"]:
        result = measure(*MSMT17)
        print(";".join(result))
        print(";".join(map(str, result.values())))
    else:
        main()
