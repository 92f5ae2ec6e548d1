"""Kill training and the grid with -9 at random moments: each goes on, ends with the same bits, and leaves nothing
half-written.

python scripts/prove_safety.py results/speed-cpu-2026-11-23
"""

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import proof
import torch
import torch._dynamo  # which the first optimizer of a process would import

from reidgen import bench, evaluation, training
from reidgen.cli import app
from reidgen.rows import COLUMNS
from reidgen.runs import provenance
from reidgen.tables import compare

LOADED = (bench, evaluation, compare)  # before the forks, which then begin at once
LOG = Path(tempfile.gettempdir()) / f"prove_safety.{os.getpid()}.log"
KILLS, SEED = 30, 0  # per command; of the moments
RECIPE = """
base = "quick"
identities = 4
batches_per_epoch = 8
epochs = 3
"""


def command(*words: str) -> Callable[[], None]:
    return lambda: app(list(words), standalone_mode=False)


def in_child(work: Callable[[], None], *, kill_after: float | None = None) -> bool:
    """Run `work` in a forked process, killed after that many seconds; return whether it ended before that, and well."""
    if (child := os.fork()) == 0:
        with LOG.open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    ends = time.monotonic() + (kill_after if kill_after is not None else 1e9)
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"the command failed by itself:\n{LOG.read_text()}")
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return not os.WIFSIGNALED(status)


def check(results: Path) -> None:
    """Read every file that a killed process may have left under its final name; all must be whole."""
    for path in results.rglob("*.csv"):
        text = path.read_text()
        assert text.endswith("\n"), path
        table = pd.read_csv(path)
        if path.name in ("results.csv", "rows.csv"):
            assert list(table) == list(COLUMNS) and not table[["mAP", "rank1"]].isna().any().any(), path
    for path in results.rglob("per_query.csv.gz"):
        gzip.decompress(path.read_bytes())
    for path in results.rglob("done"):
        facts = json.loads(path.read_text())
        digest = hashlib.sha256((path.parent / "weights.safetensors").read_bytes()).hexdigest()
        assert facts["weights_sha256"] == digest, path
    for path in results.rglob("state.pt"):
        torch.load(path, weights_only=True)
    for name in ("table.md", "table.tex"):
        if (results / name).is_file():
            assert (results / name).read_text().endswith("\n"), name


def outcome(results: Path) -> tuple[dict[str, str], pd.DataFrame]:
    """Return what must be equal however often a grid was killed: the digests of the weights and of every query's
    numbers, and the rows without their date."""
    digests = {
        str(path.relative_to(results)): hashlib.sha256(unpack(path.read_bytes())).hexdigest()
        for name, unpack in (("weights.safetensors", bytes), ("per_query.csv.gz", gzip.decompress))
        for path in sorted(results.rglob(name))
    }
    files = sorted(results.glob("runs/*/*/results.csv"))
    rows = [pd.read_csv(path).drop(columns="date") for path in files]
    return digests, pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def prove(what: str, words: list[str], work: Path) -> dict[str, object]:
    """Kill a command KILLS times, in as many folders as it takes; every folder must end like an undisturbed one."""
    whole = work / f"{what}-whole"
    began = time.monotonic()
    in_child(command(*words, "--results", str(whole)))
    takes = time.monotonic() - began
    expected = outcome(whole)
    chance, kills, folders, worst = random.Random(SEED), 0, 0, 0
    while kills < KILLS:
        results, here = work / f"{what}-{folders}", 0
        after = chance.uniform(0, takes)
        while not in_child(command(*words, "--results", str(results)), kill_after=after):
            kills, here = kills + 1, here + 1
            check(results)
            # at most five times in one folder: it must also come to its end
            after = chance.uniform(0, takes) if here < 5 and kills < KILLS else 1e9
        found = outcome(results)
        assert found[0] == expected[0], f"{what}: other weights or queries after {here} kills"
        pd.testing.assert_frame_equal(found[1], expected[1])
        check(results)
        shutil.rmtree(results)
        folders, worst = folders + 1, max(worst, here)
    return {
        "what": what, "kills": kills, "folders": folders, "most kills in one": worst, "seconds undisturbed": takes,
        "ended with other bits": 0, "half-written files": 0,
    }  # fmt: skip


def main() -> None:
    folder = proof.folder(__doc__)
    training.CHECKPOINT_SECONDS = 0.1  # many checkpoints in a short training
    provenance()
    torch.set_num_threads(1)  # before a fork there must be no other thread
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        data, recipe = work / "data", work / "short.toml"
        recipe.write_text(RECIPE)
        proof.prepare(data)
        words = ["--source", "synth-plaza", "--recipe", str(recipe), "--device", "cpu", "--data", str(data)]
        rows = [
            prove("train", ["train", "--method", "snr", *words], work),
            prove("bench", ["bench", "--methods", "baseline,snr", "--seeds", "1", *words], work),
        ]
    proof.write(folder / "safety.csv", rows)


if __name__ == "__main__":
    main()
