"""Do the rows still train to the same bits? Trains every row of a file and compares its weights' SHA-256.

    OMP_NUM_THREADS=1 python scripts/prove_bits.py FILE --write    at the commit before a change
    OMP_NUM_THREADS=1 python scripts/prove_bits.py FILE            behind it

`tiny`, synth-plaza, two epochs of the recipe quick, CPU, one thread. The bits are those of one kind of machine and one
build of PyTorch, which the file names first. Leave lines out of it to compare fewer rows.
"""

import argparse
import hashlib
import os
import platform
import tempfile
from pathlib import Path

import torch

from reidgen.data.prepare import prepare
from reidgen.methods import METHODS
from reidgen.recipe import RECIPES
from reidgen.runs import provenance
from reidgen.training import train


def quiet(what: str, done: int, total: int) -> None:
    """Report nothing."""


def digest(method: str, *, data: Path, results: Path) -> str:
    """Return the SHA-256 of the weights that a row trains."""
    recipe = RECIPES["quick"].change(method=method, source="synth-plaza", epochs=2)
    run = train(recipe, data=data, results=results, device="cpu", report=quiet)
    return hashlib.sha256(run.weights.read_bytes()).hexdigest()


def main() -> None:
    """Compare, or write, and end with 1 where a row differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("golden", type=Path)
    parser.add_argument("--write", action="store_true", help="write the file instead, of all rows")
    asked = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: other numbers of threads add in another order")
    lines = [] if asked.write else asked.golden.read_text().splitlines()
    golden = {name: value for value, name in (line.split() for line in lines if line and not line.startswith("#"))}
    different = []
    with tempfile.TemporaryDirectory() as work:
        data, results = Path(work) / "data", Path(work) / "results"
        prepare("synth-plaza", data=data)
        found = {}
        for method in golden or METHODS:
            found[method] = digest(method, data=data, results=results)
            same = found[method] == golden.get(method, found[method])
            different += [] if same else [method]
            print(f"{found[method]}  {method}{'' if same else '   DIFFERENT'}", flush=True)
    if asked.write:
        about = f"# reidgen {provenance()['version']}, commit {provenance()['commit']}; torch {torch.__version__}; "
        about += f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}; one thread\n"
        asked.golden.write_text(about + "".join(f"{value}  {name}\n" for name, value in found.items()))
    raise SystemExit(f"{len(different)} of {len(found)} rows differ: {', '.join(different)}" if different else 0)


if __name__ == "__main__":
    main()
