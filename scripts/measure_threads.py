"""How far results differ between 1, 2 and 4 threads, beside the spread over seeds: recipe quick on synth, Baseline and
SNR.

    python scripts/measure_threads.py results/threads-cpu-2026-11-26

Needs the sets of synth (reidgen prepare synth). Safe to stop and repeat: each number of threads has a results folder of
its own below FOLDER, where `reidgen bench` goes on. Writes FOLDER/threads.csv: per method and target, in points of mAP,
the largest difference of one run (same seed) between two numbers of threads, the mean of these differences over seeds
and pairs, the standard deviation over seeds (mean over the numbers of threads), and whether any number differs at all.
"""

import argparse
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import proof

from reidgen.runs import read_rows

THREADS = (1, 2, 4)


def main() -> None:
    """Run what is missing, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seeds", default="3", help="as in reidgen bench")
    parser.add_argument("--epochs", help="fewer, to see that it works")
    given = parser.parse_args()
    for threads in THREADS:
        start = f"import torch; torch.set_num_threads({threads}); from reidgen.__main__ import main; main()"
        # OMP_NUM_THREADS alone gives no more threads than there are cores
        command = [sys.executable, "-c", start, "bench", "--source", "synth", "--methods", "baseline,snr"]
        command += [
            "--seeds",
            given.seeds,
            "--data",
            str(given.data),
            "--results",
            str(results_of(given.folder, threads)),
        ]
        command += ["--device", "cpu", *(["--epochs", given.epochs] if given.epochs else [])]
        print(f"{threads} threads: {' '.join(command[3:])}", flush=True)
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=True)
    rows = pd.concat([read_rows(results_of(given.folder, threads)).assign(given=threads) for threads in THREADS])
    proof.write(given.folder / "threads.csv", compare(rows))


def results_of(folder: Path, threads: int) -> Path:
    """Return the results folder of one number of threads."""
    return folder / f"threads-{threads}"


def compare(rows: pd.DataFrame) -> list[dict[str, object]]:
    """Return per method and target how far runs of one seed differ between numbers of threads, and how far seeds do.

    rows: result rows with the number of threads as `given`; mAP as fractions, what is returned in points.
    """
    found = []
    unseen = rows[rows["seen"] == 0].assign(target="mean of unseen")
    for (method, target), block in pd.concat([rows, unseen]).groupby(["method", "target"]):
        runs = 100 * block.groupby(["seed", "given"])["mAP"].mean().unstack("given")
        pairs = [(runs[one] - runs[other]).abs() for one, other in itertools.combinations(runs.columns, 2)]
        apart = pd.concat(pairs)
        found.append(
            {
                "method": method,
                "target": target,
                "seeds": len(runs),
                "largest_between_threads": apart.max(),
                "mean_between_threads": apart.mean(),
                "std_over_seeds": runs.std().mean(),
                "alike": bool((apart == 0).all()),
            }
        )
    return found


if __name__ == "__main__":
    main()
