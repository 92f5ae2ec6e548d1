"""Damage every stored file and input, kill and interrupt every command: is a wrong number ever given without a word?

    python scripts/fuzz.py results/fuzz-cpu-2026-11-26 --minutes 10

Three parts share the time, each a file of fuzzing/. stored: a file of a small results or data folder is damaged (bits,
bytes, cuts, a number edited to another plausible one, another file in its place; at times the file of its digests is
lost as well), then a command runs in this process. inputs: archives, MATLAB files, pictures, lists, CSV and TOML,
well-formed and hostile (tests/hostile.py), are damaged and prepared. signals: processes are killed or interrupted at
random moments; `table` must then find nothing damaged, and the command is repeated.

What a trial comes to: noticed (an error in a sentence, exit code not 0), told (exit code 0, and a new line says what
is missing or damaged), same (the undamaged command's numbers), input (other numbers of a file that is the user's own
question and has no checksum: a recipe, datasets.toml, a list, a CSV, a MATLAB file, a plain tar), absent (less, as the
file was removed: what was never made looks the same), and the three faults:
other (other numbers without a word), traceback, hang (more than SECONDS, or a process left behind). A seed repeats it.
"""

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # of all processes: other numbers of threads round otherwise
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # its builders of good and of hostile inputs

import pandas as pd
import proof
import torch
from fuzzing.inputs import fuzz_inputs
from fuzzing.signals import fuzz_signals
from fuzzing.stored import World, fuzz_stored
from fuzzing.verdicts import VERDICTS, Tally

from reidgen.data import prepare as preparing
from reidgen.robustness import stress as stress_module
from reidgen.robustness.trials import CLEAN
from reidgen.synth.domains import draw_domain


def until(seconds: float) -> Callable[[int], bool]:
    """Return what says whether there is still time."""
    ends = time.monotonic() + seconds
    return lambda trials: time.monotonic() < ends


def _by_verdict(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return table.groupby("part")[["tried", *VERDICTS]].sum().reset_index()


def main() -> None:
    """Fuzz for so many minutes, write summary.csv, and end with 1 where a fault was found."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="where summary.csv is written")
    parser.add_argument("--minutes", type=float, default=10, help="how long, without building the small world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=("stored", "inputs", "signals"), help="only this one")
    asked = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("REIDGEN_")]:
        del os.environ[name]
    # Signals first: who forks must have no other thread.
    shares = {asked.part: 1.0} if asked.part else {"signals": 0.25, "stored": 0.55, "inputs": 0.2}
    folder, tally = asked.folder.resolve(), Tally()
    torch.set_num_threads(1)
    proof.people(6, 4)
    preparing.draw_domain = functools.partial(draw_domain, processes=1)  # type: ignore[attr-defined]
    few = [trial for trial in stress_module.TRIALS if trial[0] in (CLEAN, "brightness")]
    stress_module.TRIALS = few
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        home = Path(temporary).resolve()
        (home / "world").mkdir()
        (home / "inputs").mkdir()
        os.chdir(home / "world")
        world = World(home / "world") if set(shares) - {"inputs"} else None
        for part, share in shares.items():
            go_on = until(60 * asked.minutes * share)
            if part == "inputs":
                os.chdir(home / "inputs")
                fuzz_inputs(home / "inputs", tally, asked.seed, go_on)
                os.chdir(home / "world")
            else:
                assert world
                {"stored": fuzz_stored, "signals": fuzz_signals}[part](world, tally, asked.seed, go_on)
        os.chdir(folder.parent if folder.parent.is_dir() else "/")
    proof.write(folder / "summary.csv", tally.rows())
    print(_by_verdict(tally.rows()).to_string(index=False))
    raise SystemExit(f"{len(tally.faults)} faults" if tally.faults else 0)


if __name__ == "__main__":
    main()
