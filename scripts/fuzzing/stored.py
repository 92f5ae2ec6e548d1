"""A small world of stored files, each of which is damaged before a command reads it."""

import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fuzzing.damage import damaged, misplaced
from fuzzing.verdicts import Ended, Tally, difference, judge, numbers_of, run

from reidgen import training
from reidgen.robustness import attack as attack_module

RECIPE = 'base = "quick"\nidentities = 4\nimages = 2\nepochs = 2\nbatches_per_epoch = 3\nwarmup_epochs = 0.0\n'

# Stored file -> where it lies below the world's folder. `unfinished` holds a run that was stopped, `published` no run.
FILES: dict[str, list[str]] = {
    **{
        name: [f"results/runs/*/*/{name}", f"unfinished/runs/*/*/{name}"]
        for name in ("done", "recipe.toml", "row.json", "log.csv", "results.csv", "results.csv.sha256")
    },
    **{
        name: [f"results/runs/*/*/{name}"]
        for name in ("per_query.csv.gz", "weights.safetensors", "stress.csv", "stress.csv.sha256", "attack.csv",
                     "show/*.json", "show/*.svg", "attack.csv.sha256", "attack/*.json", "attack/*.safetensors")
    },
    "state.pt": ["unfinished/runs/*/*/state.pt"],
    "attack/*.state.pt": ["results/runs/*/*/attack/*.state.pt"],
    "rows.csv": ["results/rows.csv", "published/rows.csv"],
    "rows.csv.sha256": ["results/rows.csv.sha256", "published/rows.csv.sha256"],
    "identities.csv.gz": ["results/identities.csv.gz", "published/identities.csv.gz"],
    "identities.csv.gz.sha256": ["results/identities.csv.gz.sha256", "published/identities.csv.gz.sha256"],
    "stress-rows.csv": ["published/stress-rows.csv"],
    "attack-rows.csv": ["published/attack-rows.csv"],
    "index.csv": ["data/*/index.csv"],
    "manifest.json": ["data/*/manifest.json"],
    "pixels-*.npy": ["data/*/pixels-*.npy"],
    ".claim": ["data/*/.claim/*", "results/runs/*/*/.claim/*"],
    "recipe file": ["small.toml"],
    "datasets.toml": ["datasets.toml"],
}  # fmt: skip
OWN = {"recipe file", "datasets.toml"}  # what the user writes: another one is another question
TRAIN = ["--recipe", "small.toml", "--source", "synth-plaza", "--device", "cpu"]
COMMANDS: dict[str, list[str]] = {
    "train (resume)": ["train", "--method", "snr", *TRAIN, "--results", "unfinished"],
    "train (finished)": ["train", "--method", "snr", *TRAIN],
    "evaluate": ["evaluate", "snr-tiny-s0", "--target", "synth-night", "--json", "--device", "cpu"],
    "bench": ["bench", "--methods", "baseline,snr", "--seeds", "1", *TRAIN],
    "table": ["table"],
    "table (published)": ["table", "--results", "published"],
    "table --explain": ["table", "--explain", "snr synth-plaza night"],
    "table stress": ["table", "stress"],
    "table stress (published)": ["table", "stress", "--results", "published"],
    "table attack": ["table", "attack"],
    "table attack (published)": ["table", "attack", "--results", "published"],
    "report": ["report"],
    "show": ["show", "distances", "snr-tiny-s0", "--target", "synth-night", "--device", "cpu"],
    "stress": ["stress", "snr-tiny-s0", "--target", "synth-night", "--device", "cpu"],
    "attack": ["attack", "snr-tiny-s0", "--target", "synth-night", "--losses", "point", "--device", "cpu"],
    "attack (another target)": [
        "attack",
        "snr-tiny-s0",
        "--target",
        "synth-plaza",
        "--losses",
        "point",
        "--device",
        "cpu",
    ],
    "attack (resume)": ["attack", "snr-tiny-s0", "--target", "synth-night", "--losses", "label", "--device", "cpu"],
    "prepare --check": ["prepare", "--check"],
    "prepare --check --deep": ["prepare", "--check", "--deep"],
    "prepare --list": ["prepare", "--list"],
    "methods": ["methods"],
}
# What a command writes and is as much its answer as what it prints.
WRITTEN: dict[str, list[str]] = {
    "train (resume)": ["unfinished/runs/*/*/weights.safetensors", "unfinished/runs/*/*/log.csv"],
    "bench": ["results/table.csv", "results/rows.csv"],
    "table": ["results/table.csv", "results/rows.csv", "results/table.tex"],
    "table (published)": ["published/table.csv", "published/rows.csv"],
    "table stress": ["results/stress.csv", "results/*.svg"],
    "table attack": ["results/attack.csv", "results/*.svg"],
    "table stress (published)": ["published/stress.csv"],
    "table attack (published)": ["published/attack.csv"],
    "report": ["results/report.html"],
    "show": ["results/runs/*/*/show/distances-*.svg", "results/runs/*/*/show/distances-*.json"],
}  # fmt: skip


class World:
    """Small prepared sets, finished and unfinished runs and their tables; everything is restored after each trial."""

    def __init__(self, folder: Path, *, names: Iterable[str] = tuple(COMMANDS)) -> None:
        """Prepare, train and measure what the commands of these names need."""
        self.folder = folder
        self.commands = {name: COMMANDS[name] for name in names}
        (folder / "small.toml").write_text(RECIPE)
        (folder / "datasets.toml").write_text("[mine]\npattern = '(?P<pid>[0-9]+)_c(?P<camid>[0-9]).*'\n")
        if not (folder / "data").is_dir():
            self._do("prepare", "synth-plaza", "synth-night")
        for name in ("bench", "stress", "attack", "show", "table stress", "table attack"):
            if name in self.commands:
                self._do(*COMMANDS[name])
        if "show" in self.commands:
            self._do("show", "ranks", "snr-tiny-s0", "--target", "synth-night", "--device", "cpu")
        if "train (resume)" in self.commands:
            self._stop_a_training()
        if "attack (resume)" in self.commands:
            self._stop_an_attack()
        for name in ("train (finished)", "evaluate", "table", "report"):
            self._do(*COMMANDS[name])
        (folder / "published").mkdir()
        for file in (folder / "results").glob("*"):
            if "rows.csv" in file.name or file.name.startswith("identities.csv.gz"):
                shutil.copy2(file, folder / "published")
        self._kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in self._files()}
        self.opened: dict[str, set[Path]] = {}
        self.makes: dict[str, set[Path]] = {}  # what a command writes anew, of WRITTEN
        self.truths = {name: self.truth(name) for name in self.commands}

    def _do(self, *words: str) -> None:
        ended = run(list(words))
        if ended.code or ended.fault:
            raise SystemExit(f"reidgen {' '.join(words)} failed undamaged:\n{ended.printed}")

    def _stop_a_training(self) -> None:
        """Leave a training in the middle, as a kill does behind a checkpoint, and one of another seed."""
        learn, every = training.Trainer.learn, training.CHECKPOINT_SECONDS

        def stop(self: training.Trainer, *inputs: object) -> None:
            if self.step == 4:
                raise KeyboardInterrupt
            learn(self, *inputs)  # type: ignore[arg-type]

        training.Trainer.learn, training.CHECKPOINT_SECONDS = stop, 0.0  # type: ignore[assignment,method-assign]
        run(COMMANDS["train (resume)"])
        run([*COMMANDS["train (resume)"], "--seed", "1"])
        training.Trainer.learn, training.CHECKPOINT_SECONDS = learn, every  # type: ignore[method-assign]
        if len(list((self.folder / "unfinished").rglob("state.pt"))) != 2:
            raise SystemExit("the trainings that were stopped have left no state")

    def _stop_an_attack(self) -> None:
        """Leave the search for a pattern behind its first epoch."""
        write = attack_module._write_search

        def stop(*inputs: Any) -> None:
            write(*inputs)
            raise KeyboardInterrupt

        attack_module._write_search = stop  # type: ignore[assignment]
        run(COMMANDS["attack (resume)"])
        attack_module._write_search = write
        if not list((self.folder / "results").rglob("attack/*.state.pt")):
            raise SystemExit("the attack that was stopped has left no state")

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]

    def restore(self, *touched: Path) -> None:
        """Put everything back as it was, with its times."""
        for path in touched:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for path in self.folder.rglob("*"):
            if path not in self._kept and (path.is_symlink() or not path.is_dir()):
                path.unlink()
        for path, (content, time_ns) in self._kept.items():
            facts = path.lstat() if path.exists() else None
            if facts is None or (facts.st_size, facts.st_mtime_ns) != (len(content), time_ns):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.write_bytes(content)
                os.utime(path, ns=(time_ns, time_ns))

    def files(self, kind: str) -> list[Path]:
        return sorted(path for pattern in FILES[kind] for path in self.folder.glob(pattern))

    def ended(self, name: str) -> Ended:
        """Run a command of this world and read what it wrote."""
        found = run(self.commands[name])
        if not found.code and not found.fault:
            patterns = WRITTEN.get(name, [])
            paths = [path for pattern in patterns for path in sorted(self.folder.glob(pattern)) if path.is_file()]
            found.written = {str(path.relative_to(self.folder)): numbers_of(path) for path in paths}
        return found

    def truth(self, name: str) -> Ended:
        """Return how a command ends undamaged, and note which files it opens."""
        with _listening() as opened:
            found = self.ended(name)
        if found.code or found.fault:
            raise SystemExit(f"{name} failed undamaged:\n{found.printed}")
        self.opened[name] = {self.folder / path for path in opened}
        kept = {path: time_ns for path, (_, time_ns) in self._kept.items()}
        made = [self.folder / local for local in found.written]
        self.makes[name] = {path for path in made if path.stat().st_mtime_ns != kept.get(path)}
        self.restore()
        return found

    def reads(self, name: str, kind: str) -> bool:
        """Tell whether the undamaged command opens a file of this kind."""
        return any(path in self.opened[name] for path in self.files(kind))

    def trial(self, kind: str, name: str, chance: random.Random) -> tuple[str, str]:
        """Damage one file, run one command, restore; return the verdict and what was done and found."""
        siblings = self.files(kind)
        read = [path for path in siblings if path in self.opened[name]]
        path = chance.choice(read or siblings)
        if chance.random() < 0.15:
            how = misplaced(path, siblings, chance)
        else:
            facts, content = path.stat(), path.read_bytes()
            for _ in range(10):
                how, other = damaged(content, chance)
                if other != content:
                    break
            path.write_bytes(other)
            os.utime(path, ns=(facts.st_mtime_ns, facts.st_mtime_ns))  # a disk that rots changes no time
            for seal in path.parent.glob("*.sha256"):
                if f"  {path.name}\n".encode() in seal.read_bytes() and chance.random() < 0.3:
                    seal.unlink()
                    how += ", and its digest lost"
        left = (path.lstat().st_mtime_ns, path.lstat().st_size) if path.is_file() else None
        try:
            found, truth = self.ended(name), self.truths[name]
            same = path.is_file() and left == (path.lstat().st_mtime_ns, path.lstat().st_size)
            if same or path not in self.makes[name]:  # not what it wrote, or ever writes: of another run
                local = str(path.relative_to(self.folder))
                found, truth = (
                    replace(one, written={key: text for key, text in one.written.items() if key != local})
                    for one in (found, truth)
                )
            names = (path.name, path.parent.name, path.parent.parent.name) if kind not in OWN else ()
            verdict = judge(found, truth, own=kind in OWN, gone=how == "removed", names=names)
            return verdict, f"{path.relative_to(self.folder)}: {how}{difference(found, truth)}"
        finally:
            self.restore(path)


_OPENED: list[set[Path] | None] = [None]


def _audit(event: str, given: tuple[object, ...]) -> None:
    if event == "open" and _OPENED[0] is not None and isinstance(given[0], str | os.PathLike):
        _OPENED[0].add(Path(given[0]))


@contextmanager
def _listening() -> Iterator[set[Path]]:
    """Yield a set that takes the path of every file that is opened."""
    if not getattr(_audit, "heard", False):
        sys.addaudithook(_audit)
        _audit.heard = True  # type: ignore[attr-defined]
    found: set[Path] = set()
    _OPENED[0] = found
    try:
        yield found
    finally:
        _OPENED[0] = None


def fuzz_stored(world: World, tally: Tally, seed: int, go_on: Callable[[int], bool]) -> None:
    """Try all pairs of a file and a command in turn, cheap ones more often.

    A pair whose command does not open the file is tried once; a file that few commands open is tried with each more
    often.
    """
    readers = {kind: sum(world.reads(name, kind) for name in world.commands) for kind in FILES}
    spent = {
        (kind, name): 0.0 if world.reads(name, kind) else 1.0
        for kind in FILES if world.files(kind) for name in world.commands
    }  # fmt: skip
    single = {pair for pair, time_ in spent.items() if time_}
    tried: Counter[tuple[str, str]] = Counter()
    trials = 0
    while go_on(trials):
        pair = min(spent, key=lambda one: (spent[one], tried[one], one))
        chance = random.Random(f"{seed} {pair} {tried[pair]}")
        began = time.process_time()
        verdict, told = world.trial(*pair, chance)
        weight = max(1, readers[pair[0]]) / len(world.commands)
        spent[pair] += 1e9 if pair in single else weight * (time.process_time() - began) ** 0.5
        tally.add("stored", *pair, verdict, f"seed {seed}, trial {tried[pair]}: {told}")
        tried[pair] += 1
        trials += 1
