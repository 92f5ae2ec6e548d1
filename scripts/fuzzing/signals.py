"""Commands that are killed or interrupted at random moments, and repeated."""

import multiprocessing
import multiprocessing.context
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fuzzing.stored import COMMANDS, TRAIN, World
from fuzzing.verdicts import SECONDS, Ended, Tally, neutral, numbers_of

import reidgen
from reidgen import training
from reidgen.__main__ import main as command
from reidgen.data import prepare as preparing
from reidgen.synth.domains import draw_domain

SIGNALS: dict[str, list[signal.Signals]] = {
    "kill -9": [signal.SIGKILL],
    "SIGTERM": [signal.SIGTERM],
    "SIGHUP": [signal.SIGHUP],
    "Ctrl-C": [signal.SIGINT],
    "Ctrl-C twice": [signal.SIGINT, signal.SIGINT],
    "SIGTERM, then Ctrl-C": [signal.SIGTERM, signal.SIGINT],
}
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
KILLED: dict[str, tuple[list[str], list[str]]] = {  # command -> words, what it writes
    "prepare": (["prepare", "synth-mall"], ["data/synth-mall/index.csv"]),
    "train": (
        ["train", "--method", "in", *TRAIN, "--results", "killed"],
        ["killed/runs/*/*/weights.safetensors", "killed/runs/*/*/log.csv"],
    ),
    "evaluate": (COMMANDS["evaluate"], ["results/runs/*/snr-*/per_query.csv.gz"]),
    "bench": (
        ["bench", "--methods", "in", "--seeds", "1", *TRAIN, "--results", "killed"],
        ["killed/runs/*/*/weights.safetensors", "killed/table.csv", "killed/runs/*/*/per_query.csv.gz"],
    ),
    "table": (COMMANDS["table"], ["results/table.csv", "results/identities.csv.gz"]),
    "show": (
        ["show", "distances", "snr-tiny-s0", "--target", "synth-plaza", "--device", "cpu"],
        ["results/runs/*/snr-*/show/distances-synth-plaza.*"],
    ),
    "stress": (
        ["stress", "snr-tiny-s0", "--target", "synth-plaza", "--device", "cpu"],
        ["results/runs/*/snr-*/stress.csv"],
    ),
    "attack": (
        ["attack", "snr-tiny-s0", "--target", "synth-night", "--losses", "pair", "--device", "cpu"],
        ["results/runs/*/snr-*/attack.csv", "results/runs/*/snr-*/attack/pair-*"],
    ),
    "report": (COMMANDS["report"], ["results/report.html"]),
}
FORKED = ("prepare", "stress")  # which this script makes small: a fresh Python would draw and measure more


def _session(leader: int) -> list[int]:
    """Return the living processes that `leader` and its children began."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) == leader and words[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def _begin(words: list[str], folder: Path, *, fresh: bool = False) -> multiprocessing.context.ForkProcess:
    """Start a command in a session of its own; fresh: in a Python that has yet to import everything."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(words, folder, fresh))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # what is this script's is not interrupted
    process.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _child(words: list[str], folder: Path, fresh: bool) -> None:
    os.setsid()
    with (folder.parent / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if fresh:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        os.execv(sys.executable, [sys.executable, "-m", "reidgen", *words])
    sys.modules["__main__"].__file__ = None  # whoever is spawned has nothing to import of this script
    training.CHECKPOINT_SECONDS = 0.1
    preparing.draw_domain = draw_domain  # type: ignore[attr-defined]  # in processes, as a user has it
    sys.argv = ["reidgen", *words]
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        command()
    except KeyboardInterrupt:  # before its first line or behind its last
        sys.exit(130)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def _end(process: multiprocessing.context.ForkProcess, folder: Path) -> Ended:
    """Wait for a process and for all that it began; what is still there is a hang, and is killed."""
    process.join(SECONDS)
    deadline = time.monotonic() + 20
    while (left := _session(int(process.pid or 0))) and process.exitcode is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    for one in left:
        os.kill(one, signal.SIGKILL)
    process.join()
    printed = neutral((folder.parent / "log").read_text(errors="replace"))
    fault = "hang" if left else "traceback" if "Traceback" in printed and not _early(printed) else ""
    return Ended(int(process.exitcode or 0), printed, fault=fault)


def _early(printed: str) -> bool:
    """Tell whether Ctrl-C met Python itself, before the first line of reidgen: nobody can catch that."""
    return printed.rstrip().endswith("KeyboardInterrupt") and str(Path(reidgen.__file__).parent) not in printed


def _wrote(world: World, patterns: list[str]) -> dict[str, str]:
    paths = [path for pattern in patterns for path in sorted(world.folder.glob(pattern))]
    return {str(path.relative_to(world.folder)): numbers_of(path) for path in paths}


def fuzz_signals(world: World, tally: Tally, seed: int, go_on: Callable[[int], bool]) -> None:
    """Send signals at random moments, repeat the command, and compare with the undisturbed one."""
    truths: dict[str, tuple[float, dict[str, str]]] = {}
    pairs = [(what, name) for name in KILLED for what in SIGNALS]
    random.Random(seed).shuffle(pairs)
    trials = 0
    while go_on(trials):
        what, name = pairs[trials % len(pairs)]
        chance = random.Random(f"{seed} {what} {name} {trials}")
        words, patterns = KILLED[name]
        if name not in truths:
            began = time.monotonic()
            undisturbed = _end(_begin(words, world.folder), world.folder)
            if undisturbed.code:
                raise SystemExit(f"{name} failed undisturbed:\n{undisturbed.printed}")
            truths[name] = time.monotonic() - began, _wrote(world, patterns)
            _forget(world)
        takes, truth = truths[name]
        fresh = name not in FORKED and chance.random() < 0.3
        process = _begin(words, world.folder, fresh=fresh)
        after = chance.uniform(0, takes + 3 * fresh)
        time.sleep(after)
        for one in SIGNALS[what]:
            if process.is_alive():
                os.kill(int(process.pid or 0), one)
            time.sleep(chance.uniform(0, 0.15))
        stopped = _end(process, world.folder)
        verdict, told = (
            stopped.fault,
            f"{'fresh, ' * fresh}after {after:.2f} s of {takes:.2f}:\n    {stopped.printed[-1500:]}",
        )
        if not verdict:
            table = _end(_begin(COMMANDS["table"], world.folder), world.folder)
            again = _end(_begin(words, world.folder), world.folder)
            wrote = _wrote(world, patterns)
            verdict = table.fault or again.fault
            verdict = verdict or ("noticed" if table.code or again.code else "same" if wrote == truth else "other")
            told += f"\n    table: {table.printed[-1500:]}\n    again: {again.printed[-1500:]}"
        tally.add("signals", what, name, verdict, f"seed {seed}, trial {trials}: {told}")
        _forget(world)
        trials += 1


def _forget(world: World) -> None:
    for name in ("killed", "data/synth-mall"):
        shutil.rmtree(world.folder / name, ignore_errors=True)
    world.restore()
