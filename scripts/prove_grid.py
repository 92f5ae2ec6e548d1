"""A simulated grid of 1,000 cells and 100 workers, some of which are killed: no cell is lost or done twice.

python scripts/prove_grid.py results/cluster [CELLS WORKERS KILLS [FOLDER]]    # FOLDER: where it is to be proven

Nothing is trained: a cell's training writes its files, its evaluation its rows, and both a line into a log. Claims,
rows, their seals and failures are the real ones, of `reidgen.grid`. Then the time of a claim, of `--status`, and of
`reidgen table` from 100 drawn rows for each cell, 100,000 of 1,000: seconds of the clock, three times.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import proof

from reidgen import evaluation, grid
from reidgen.catalogue import load_catalogue
from reidgen.errors import BusyError, RunError
from reidgen.files import sha256_file
from reidgen.integrity import text_digest, with_check
from reidgen.locks import hold
from reidgen.methods import METHODS as EVERY
from reidgen.planning import Cell, plan_cells
from reidgen.recipe import Recipe, choose_recipe
from reidgen.rows import COLUMNS, write_rows
from reidgen.runs import Run, now
from reidgen.status import counts, lacks_nothing, states
from reidgen.tables.average import METRICS

METHODS = ["baseline", "in", "ibn", "a-in", "snr"]
TABLES = 3  # how often it is made
CLAIMS = 1000  # that are timed
FAILS = 7  # the seed whose runs of the last method end in an error
LOG = Path()


def fake_train(recipe: Recipe, *, run: Run, **_: object) -> Run:
    if run.done.is_file():
        return run
    proof.note(LOG, "begins", run.folder.name)
    time.sleep(random.uniform(0.0, 0.05))
    if recipe.seed == FAILS and recipe.method == METHODS[-1]:
        proof.note(LOG, "fails", run.folder.name)
        raise RunError("the loss is not finite at step 7")
    run.recipe_file.write_text(recipe.own().to_toml())
    run.row_file.write_text(json.dumps(recipe.row_facts()))
    run.weights.write_bytes(b"")
    facts: dict[str, Any] = dict.fromkeys(("device", "torch", "version", "commit"), "simulated")
    facts |= {"sources": [], "classes": 1, "threads": 1, "seconds": 0, "source_data": "0" * 8, "date": now()}
    facts |= {"hash": run.hash, "row": run.row_digest, "weights_sha256": sha256_file(run.weights)}
    facts |= {"recipe_sha256": text_digest(run.recipe_file), "row_sha256": text_digest(run.row_file)}
    run.done.write_text(json.dumps(with_check(facts)))
    proof.note(LOG, "ends", run.folder.name)
    return run


def fake_evaluate(run: Run, target: str, *, digest: str, **_: object) -> pd.DataFrame:
    recipe = run.recipe()
    chance = random.Random(run.folder.name)
    aps = [round(chance.random(), 6) for _ in range(8)]
    queries = pd.DataFrame({"split": 0, "path": list("abcdefgh"), "pid": range(8), "camid": 0, "ap": aps})
    queries = queries.assign(first_match=1, inp=aps, person="", camera="")
    row: dict[str, Any] = {name: "" if kind == "str" else 0 for name, kind in COLUMNS.items()}
    row |= {"source": recipe.source, "target": target, "method": recipe.method, "backbone": recipe.backbone}
    row |= {"seed": recipe.seed, "mAP": sum(aps) / 8, "rank1": 1.0, "rank5": 1.0, "rank10": 1.0, "mINP": sum(aps) / 8}
    row |= {"queries": 8, "gallery": 8, "hash": run.hash, "row": run.row_digest, "data": digest[:8], "test": "plain"}
    row |= {"recipe": recipe.name, "version": "simulated", "source_data": "0" * 8, "dtype": "float32", "threads": 1}
    rows = pd.DataFrame([row]).astype(COLUMNS)
    run.write_results(target, rows, queries, test="plain")
    return rows


def worker(cells: list[Cell], known: dict[Path, int], data: Path, results: Path) -> None:
    """Go through the cells as `bench` does, from a place of its own, until all are done or failed."""
    start = random.randrange(len(cells))
    left = cells[start:] + cells[:start]
    while left:
        busy = []
        for cell in left:
            if lacks_nothing(cell):
                continue  # `_run` would prove its rows, which 100 workers on one machine do for minutes
            grid.train = lambda recipe, cell=cell, **rest: fake_train(recipe, run=cell.run, **rest)  # type: ignore
            grid.evaluate = lambda run, target, cell=cell, **rest: fake_evaluate(  # type: ignore
                run, target, digest=cell.targets[target], **rest
            )
            try:
                grid._run(cell, "cpu", data=data, results=results, known=known)
            except BusyError:
                busy.append(cell)
            except RunError:
                pass
        left = busy
        if left:
            time.sleep(0.2)


def start(*work: Any) -> int:
    return proof.forked(seeded, *work)


def seeded(*work: Any) -> None:
    random.seed(os.getpid())
    worker(*work)


def main() -> None:
    global LOG
    size, workers, kills = (int(word) for word in [*sys.argv[2:5], "1000", "100", "30"][:3])
    place = sys.argv[5] if len(sys.argv) > 5 else None
    sys.argv = sys.argv[:2]
    folder = proof.folder(__doc__)
    with tempfile.TemporaryDirectory(dir=place) as temporary:
        work = Path(temporary)
        data, results, LOG = work / "data", work / "results", work / "log"
        proof.prepare(data)
        recipe = choose_recipe(None, "synth-plaza", grid=True)
        asked: dict[str, Any] = dict(methods=METHODS, seeds=range(size // len(METHODS)), data=data, results=results)
        cells = plan_cells(recipe, **asked, protocol=None, targets=["synth-night"], say=print)
        known = dict.fromkeys((cell.run.folder for cell in cells), 0)
        began, killed = time.monotonic(), 0
        alive = {start(cells, known, data, results) for _ in range(workers)}
        while alive:
            if killed < kills:
                time.sleep(random.uniform(0.1, 0.5))
                victim = random.choice(sorted(alive))
                alive.discard(victim)
                if proof.kill(victim, LOG):
                    killed += 1
                    alive.add(start(cells, known, data, results))
                elif not alive:
                    break
            ended, status = os.waitpid(-1, 0 if killed >= kills else os.WNOHANG)
            alive.discard(ended)
            if ended and status:
                raise SystemExit("a worker failed by itself")
        seconds = time.monotonic() - began
        lines = [line.split(",") for line in LOG.read_text().splitlines()]
        found = states(cells, results)
        failing = {
            cell.run.folder.name for cell in cells if cell.recipe.seed == FAILS and cell.recipe.method == METHODS[-1]
        }
        tried = Counter(name for _, what, name in lines if what == "begins")
        print(counts(found))
        lost = [one for one in found if one.state != "done" and one.cell.run.folder.name not in failing]
        judged = proof.judge(LOG, lost=len(lost))
        judged.refuse()
        assert {one.state for one in found} == {"done", "failed"}, counts(found)
        assert all(tried[name] <= 1 + killed for name in failing)
        row: dict[str, object] = {
            "cells": len(cells), "workers": workers, "kills": killed, "overlaps": len(judged.overlaps),
            "lost": judged.lost, "trained twice": judged.twice,
            "seconds": seconds, "claim ms": claim_ms(work / "claims"),
        }  # fmt: skip
        words = [sys.executable, "-m", "reidgen", "bench", "--source", "synth-plaza", "--methods", ",".join(METHODS)]
        words += ["--seeds", str(size // len(METHODS)), "--target", "synth-night", "--status", "--data", str(data)]
        row["status s"] = cpu(
            lambda: subprocess.run([*words, "--results", str(results)], check=True, capture_output=True)
        )
        row["table s"] = table_seconds(work / "table", rows=100 * size)
        proof.write(folder / "grid.csv", [row])


def table_seconds(results: Path, *, rows: int) -> str:
    """Return the seconds of each `reidgen table` from the first so many of 100,000 rows: 5 sources, 25 methods,
    8 seeds, 20 targets, 5 splits.
    """
    sources, targets = (list(load_catalogue(Path()))[:number] for number in (5, 20))
    drawn = random.Random(0)
    common: dict[str, Any] = {name: "" if kind == "str" else 0 for name, kind in COLUMNS.items()}
    common |= {"backbone": "resnet50", "recipe": "paper", "hash": "0123abcd", "version": "0.2.0", "queries": 200}
    common |= {"test": "plain", "date": "2026-11-26", "threads": 1, "row": "r", "gallery": 1000}
    drawn_rows = [
        common
        | {"source": source, "target": target, "seen": int(source == target), "method": method, "seed": seed}
        | {"split": split, **{metric: drawn.random() for metric in METRICS}}
        for source, method, seed, target, split in itertools.islice(
            itertools.product(sources, list(EVERY)[:25], range(8), targets, range(5)), rows
        )
    ]
    results.mkdir()
    write_rows(results / "rows.csv", pd.DataFrame(drawn_rows).astype(COLUMNS)[list(COLUMNS)])
    taken = []
    for _ in range(TABLES):
        began = time.monotonic()
        words = [sys.executable, "-m", "reidgen", "table", "--results", str(results)]
        subprocess.run(words, check=True, capture_output=True)
        taken.append(f"{time.monotonic() - began:.1f}")
    return " ".join(taken)


def claim_ms(folder: Path) -> float:
    """Return the milliseconds of claiming and giving back a folder, the mean of CLAIMS."""
    began = time.monotonic()
    for number in range(CLAIMS):
        with hold(folder / str(number)):
            pass
    return 1000 * (time.monotonic() - began) / CLAIMS


def cpu(action: Any) -> float:
    """Return the seconds of processor that a command took: this machine may have other work."""
    before = os.times()
    action()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


assert evaluation  # imported before the forks
if __name__ == "__main__":
    main()
