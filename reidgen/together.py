"""One run trained by several processes of torchrun, started from a process that is none of them."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from reidgen.errors import BusyError, InterruptedRunError, RunError
from reidgen.locks import look
from reidgen.pool import unwarned
from reidgen.recipe import Recipe
from reidgen.runs import Run
from reidgen.stopping import stop_signals

POLL = 0.2  # seconds between two looks at torchrun


def train_together(
    recipe: Recipe, run: Run, ranks: int, *, data: Path, results: Path, device: str, log: Sequence[str]
) -> None:
    """Train a run by that many processes, of which the first holds its folder; they print where this one does.

    Raises BusyError when another process holds it, InterruptedRunError after a signal that ends training, once the
    state is kept, and RunError when torchrun ended otherwise.
    """
    _refuse_held(run)
    with tempfile.TemporaryDirectory() as folder, stop_signals() as stop:
        file = Path(folder) / "recipe.toml"
        file.write_text(recipe.to_toml(), encoding="utf-8")
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        words += ["-m", "reidgen", "train", "--recipe", str(file), "--data", str(data), "--results", str(results)]
        words += ["--device", device, *(word for name in log for word in ("--log", name))]
        with unwarned():
            process = subprocess.Popen(words)
        with process:
            told = False
            while process.poll() is None:
                if stop.wait(POLL) and not told:
                    process.terminate()  # torchrun passes it on, and waits
                    told = True
                elif told:
                    process.wait()
    if run.done.is_file():
        return
    if stop.is_set():
        raise InterruptedRunError(f"stopped; the state is kept in {run.folder}, the same command goes on from there")
    _refuse_held(run)
    raise RunError(
        f"{recipe.row.label} s{recipe.seed}: training by {ranks} processes ended with exit code {process.returncode}; "
        "what they printed says why"
    )


def _refuse_held(run: Run) -> None:
    if (seen := look(run.folder)) and seen.held:
        raise BusyError(f"{seen.holder or 'another process'} is writing {run.folder}; wait for it or stop it")
