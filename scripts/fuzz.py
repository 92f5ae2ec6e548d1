"""Damage every stored file and input, kill and interrupt every command: is a wrong number ever given without a word?

    python scripts/fuzz.py results/fuzz-cpu-2026-11-26 --minutes 10

Three parts share the time. stored: a file of a small results or data folder is damaged (bits, bytes, cuts, a number
edited to another plausible one, another file in its place; at times the file of its digests is lost as well), then a
command runs in this process. inputs: archives, MATLAB files, pictures, lists, CSV and TOML, well-formed and hostile
(tests/hostile.py), are damaged and prepared. signals: processes are killed or interrupted at random moments; `table`
must then find nothing damaged, and the command is repeated.

What a trial comes to: noticed (an error in a sentence, exit code not 0), told (exit code 0, and a new line says what
is missing or damaged), same (the undamaged command's numbers), input (other numbers of a file that is the user's own
question and has no checksum: a recipe, datasets.toml, a list, a CSV, a MATLAB file, a plain tar), absent (less, as the
file was removed: what was never made looks the same), and the three faults:
other (other numbers without a word), traceback, hang (more than SECONDS, or a process left behind). A seed repeats it.
"""

import argparse
import functools
import gzip
import hashlib
import io
import multiprocessing
import multiprocessing.context
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # of all processes: other numbers of threads round otherwise
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # its builders of good and of hostile inputs

import hostile
import layouts
import pandas as pd
import proof
import torch
from PIL import Image
from typer.testing import CliRunner

import reidgen
from reidgen import training
from reidgen.__main__ import main as command
from reidgen.cli import app
from reidgen.data import archives
from reidgen.data import mat as mat_files
from reidgen.data import prepare as preparing
from reidgen.robustness import attack as attack_module
from reidgen.robustness import stress as stress_module
from reidgen.robustness.trials import CLEAN
from reidgen.synth.domains import draw_domain

SECONDS = 120  # more is a hang; what is not damaged takes 5 at most
MEMORY = 4 * 2**30  # beyond what this process has: who asks for more fails
RECIPE = 'base = "quick"\nidentities = 4\nimages = 2\nepochs = 2\nbatches_per_epoch = 3\nwarmup_epochs = 0.0\n'
FAULTS = ("other", "traceback", "hang")
VERDICTS = ("noticed", "told", "same", "input", "absent", *FAULTS)

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
_TRAIN = ["--recipe", "small.toml", "--source", "synth-plaza", "--device", "cpu"]
COMMANDS: dict[str, list[str]] = {
    "train (resume)": ["train", "--method", "snr", *_TRAIN, "--results", "unfinished"],
    "train (finished)": ["train", "--method", "snr", *_TRAIN],
    "evaluate": ["evaluate", "snr-tiny-s0", "--target", "synth-night", "--json", "--device", "cpu"],
    "bench": ["bench", "--methods", "baseline,snr", "--seeds", "1", *_TRAIN],
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


# --- damage ---------------------------------------------------------------------------------------------------------

NUMBER = re.compile(rb"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])")
ABSURD = [b"nan", b"inf", b"-1", b"1e309", b"9" * 30, b"", b"x", b"\0", b"1.5", b"[" * 2000, b"\x1b[2J", b"true", b"{}"]


def _place(content: bytes, chance: random.Random) -> int:
    return chance.randrange(max(1, len(content)))


def bit(content: bytes, chance: random.Random) -> bytes:
    """Flip one bit, or twenty."""
    damaged = bytearray(content or b"\0")
    for _ in range(chance.choice((1, 1, 20))):
        damaged[_place(damaged, chance)] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def some_bytes(content: bytes, chance: random.Random) -> bytes:
    """Overwrite, zero, insert, drop or double a few bytes, or exchange two pieces."""
    at, size = _place(content, chance), chance.choice((1, 4, 64, 512))
    end, other = at + size, _place(content, chance)
    piece = content[at:end]
    return chance.choice((
        content[:at] + chance.randbytes(len(piece)) + content[end:],
        content[:at] + bytes(len(piece)) + content[end:],
        content[:at] + chance.randbytes(size) + content[at:],
        content[:at] + content[end:],
        content[:end] + piece + content[end:],
        content[:other] + piece + content[other + size :],
    ))  # fmt: skip


def cut(content: bytes, chance: random.Random) -> bytes:
    """Cut it at any length, at the end of a line, or to nothing; or let it go on behind its end."""
    lines = content.splitlines(keepends=True)
    return chance.choice((
        content[: _place(content, chance)],
        b"".join(lines[: chance.randrange(len(lines) + 1)]),
        b"",
        content + chance.randbytes(20),
        content + content,
    ))  # fmt: skip


def line(content: bytes, chance: random.Random) -> bytes:
    """Drop, double or exchange lines."""
    lines = content.splitlines(keepends=True) or [b""]
    one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
    what = chance.randrange(3)
    if what == 0:
        del lines[one]
    elif what == 1:
        lines.insert(two, lines[one])
    else:
        lines[one], lines[two] = lines[two], lines[one]
    return b"".join(lines)


def number(content: bytes, chance: random.Random) -> bytes:
    """Edit a number of a text to another plausible one, exchange two, or write something absurd in its place."""
    found = list(NUMBER.finditer(content))
    if not found:
        return some_bytes(content, chance)
    one, two = chance.choice(found), chance.choice(found)
    what = chance.randrange(4)
    if what == 0 and one.start() != two.start():
        one, two = sorted((one, two), key=lambda match: match.start())
        middle = content[one.end() : two.start()]
        return content[: one.start()] + two[0] + middle + one[0] + content[two.end() :]
    if what == 1:
        return content[: one.start()] + chance.choice(ABSURD) + content[one.end() :]
    digits = bytearray(one[0])
    at = chance.choice([place for place, digit in enumerate(digits) if 48 <= digit < 58])
    digits[at] = chance.choice([digit for digit in b"0123456789" if digit != digits[at]])
    return content[: one.start()] + bytes(digits) + content[one.end() :]


DAMAGES = {"bits": bit, "bytes": some_bytes, "cut": cut, "lines": line, "number": number}


def damaged(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Return how the content was damaged, and the outcome; a gzip may be damaged inside and packed again."""
    how = chance.choice(list(DAMAGES))
    if content[:2] == b"\x1f\x8b" and how in ("lines", "number"):
        return f"{how} inside gzip", gzip.compress(DAMAGES[how](gzip.decompress(content), chance), mtime=0)
    return how, DAMAGES[how](content, chance)


def misplaced(path: Path, siblings: list[Path], chance: random.Random) -> str:
    """Put something else where a file was: nothing, a folder, a pipe, a link, or another file of its kind."""
    others = [one for one in siblings if one != path]
    hows = ["removed", "a folder", "a pipe", "a link to itself", "a device behind a link", "another one"]
    how = chance.choice(hows if others else hows[:-1])
    content = chance.choice(others).read_bytes() if others else b""
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a pipe":
        os.mkfifo(path)
    elif how.endswith(("itself", "link")):
        path.symlink_to(path.name if how.endswith("itself") else "/dev/zero")
    elif how == "another one":
        path.write_bytes(content)
    return how


# --- running and judging --------------------------------------------------------------------------------------------


class Hang(BaseException):
    """The command took more than SECONDS."""


@dataclass
class Ended:
    """How a command ended: what it printed and wrote, dates and durations taken out."""

    code: int
    printed: str
    written: dict[str, str] = field(default_factory=dict)
    fault: str = ""


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise Hang in this process after so many seconds."""

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def little_memory() -> Iterator[None]:
    """Let who asks for more than MEMORY fail."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run(words: list[str]) -> Ended:
    """Run a command in this process, in the working folder."""
    try:
        with limit(SECONDS):
            ended = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    except Hang:
        return Ended(-1, "", fault="hang")
    printed = neutral(ended.output)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        trace = "".join(traceback.format_exception(ended.exception))
        return Ended(ended.exit_code, printed + trace, fault="traceback")
    if ended.exit_code and not re.search(r"^error: \S", ended.output, re.MULTILINE):
        return Ended(ended.exit_code, printed, fault="traceback")  # it ended without a sentence
    return Ended(ended.exit_code, printed)


def neutral(text: str) -> str:
    """Take out what differs each time: dates, durations and sizes of files."""
    text = re.sub(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2})?Z?)?", "DATE", text)
    return re.sub(r"\b\d+(?:\.\d+)? (?:s|MB|h|min|minutes|seconds)\b", "TIME", text)


def told_by(found: Ended, truth: Ended, names: Collection[str]) -> str:
    """Return the first new line that says what is damaged or missing and has one of the names, else ""."""
    words = re.compile(
        r"damaged|missing|left out|cannot be|not as it was|not the one|has lost|no longer|not prepared|not whole"
        r"|is not|[Ww]ithout|no result|are gone|made again"
    )
    for what in (None, *found.written):
        new, old = (one.printed if what is None else one.written.get(what, "") for one in (found, truth))
        known = set(old.splitlines())
        for line_ in new.splitlines():
            if line_ not in known and words.search(line_) and (not names or any(name in line_ for name in names)):
                return line_
    return ""


def judge(found: Ended, truth: Ended, *, own: bool = False, gone: bool = False, names: Collection[str] = ()) -> str:
    """Return the verdict on a command that met damage. own: it is the user's own question; gone: it was removed.

    names: of the file and its folder, one of which a remark must name.
    """
    if found.fault:
        return found.fault
    if found.code:
        return "noticed"
    if found.printed == truth.printed and found.written == truth.written:
        return "same"
    if told_by(found, truth, names):
        return "told"
    return "input" if own else "absent" if gone else "other"


def numbers_of(path: Path) -> str:
    """Return what a written file answers, without dates and speeds."""
    content = path.read_bytes()
    if path.name == "log.csv":
        return pd.read_csv(path).drop(columns=["images_per_s", "seconds"]).to_csv(index=False)
    if path.name == "rows.csv":  # what is evaluated again comes last
        return "\n".join(sorted(neutral(content.decode()).splitlines()))
    if path.suffix in (".safetensors", ".gz", ".png"):
        return hashlib.sha256(content).hexdigest()
    return re.sub(r'"check": "\w+"', "", neutral(content.decode()))  # the check covers a date


# --- the world of stored files --------------------------------------------------------------------------------------


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

        training.Trainer.learn, training.CHECKPOINT_SECONDS = stop, 0.0  # type: ignore[method-assign]
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

        attack_module._write_search = stop
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
            return verdict, f"{path.relative_to(self.folder)}: {how}{_difference(found, truth)}"
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


def _difference(found: Ended, truth: Ended) -> str:
    """Return the first lines that differ, or how the command failed."""
    if found.code or found.fault:
        return f"\n    {found.printed.strip()[-1500:]}"
    for what in (None, *truth.written):
        new, old = (one.printed if what is None else one.written.get(what, "") for one in (found, truth))
        for one, two in zip([*new.splitlines(), ""], [*old.splitlines(), ""], strict=False):
            if one != two:
                return f"\n    {what or 'printed'}: {one[:300]!r}\n    before: {two[:300]!r}"
    return ""


class Tally:
    """The verdicts, per part, file kind and command."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str], Counter[str]] = {}
        self.faults: list[str] = []

    def add(self, part: str, what: str, command: str, verdict: str, told: str) -> None:
        self.counts.setdefault((part, what, command), Counter())[verdict] += 1
        if verdict in FAULTS:
            self.faults.append(f"{verdict}: {what} x {command}: {told}")
            print(self.faults[-1], flush=True)

    def rows(self) -> list[dict[str, object]]:
        return [
            {"part": part, "what": what, "command": command, "tried": sum(found.values())}
            | {verdict: found[verdict] for verdict in VERDICTS}
            for (part, what, command), found in sorted(self.counts.items())
        ]


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


# --- inputs ---------------------------------------------------------------------------------------------------------

Source = tuple[Path, list[str]]  # the file that is damaged, and the words behind `prepare`


def _crops(suffix: str, folder: Path) -> Source:
    files = {f"p{person}/c{camera}_{i}.jpg": layouts.image(f"{person}{camera}{i}.jpg")
             for person in range(3) for camera in (1, 2) for i in (0, 1)}  # fmt: skip
    file = folder / f"crops{suffix}"
    layouts.pack(files, file)
    return file, ["mine", "--from", str(file)]


def _csv(folder: Path) -> Source:
    lines = ["path,pid,camid"]
    for person in range(3):
        for camera in (1, 2):
            name = f"{person}_{camera}.jpg"
            (folder / name).write_bytes(layouts.image(name))
            lines.append(f"{name},{person},{camera}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder / "list.csv", ["mine", "--from", str(folder / "list.csv")]


def _toml(folder: Path) -> Source:
    for name in ("1_c1.jpg", "1_c2.jpg", "2_c1.jpg", "2_c2.jpg"):
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / name).write_bytes(layouts.image(name))
    (folder / "datasets.toml").write_text("[mine]\npattern = '(?P<pid>[0-9]+)_c(?P<camid>[0-9]).*'\n")
    return folder / "datasets.toml", ["mine", "--from", str(folder / "in")]


def _picture(format: str, folder: Path) -> Source:
    """One picture of many is damaged; what others say of it must stay."""
    (folder / "in").mkdir()
    for name in ("1_c1.png", "1_c2.jpg", "2_c1.jpg", "2_c2.jpg"):
        (folder / "in" / name).write_bytes(layouts.image(name))
    file = (folder / "in" / "1_c1.png").rename(folder / "in" / f"1_c1.{format.lower()}")
    Image.open(io.BytesIO(file.read_bytes())).save(file, format)
    return file, ["mine", "--from", str(folder / "in")]


def _of_layout(name: str, file: str, folder: Path, form: str = "") -> Source:
    root = layouts.build(name, folder / "in", form=form)
    return next(root.rglob(file)), [name, "--from", str(root), "--accept-counts"]


def _hostile(build: Callable[[Path], Path], name: str, folder: Path) -> Source:
    return build(folder), [name, "--from", str(folder), "--accept-counts"]


def _written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _matlab(content: Callable[[], bytes], folder: Path) -> Source:
    file, words = _of_layout("grid", "features_and_partitions.mat", folder)
    file.write_bytes(content())
    return file, words


def _bad_toml(content: bytes, folder: Path) -> Source:
    file, words = _toml(folder)
    file.write_bytes(content)
    return file, words


# Kind -> builders. A checked kind holds a checksum of its content: damaged it must be refused, or mean the same.
CHECKED = {"zip", "tar.gz"}
INPUTS: dict[str, list[Callable[[Path], Source]]] = {
    "zip": [functools.partial(_crops, ".zip")],
    "tar.gz": [functools.partial(_crops, ".tar.gz")],
    "tar": [functools.partial(_crops, ".tar")],
    "picture": [functools.partial(_picture, format) for format in ("JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP")],
    "CSV of crops": [_csv],
    "datasets.toml": [_toml],
    "cuhk-03.mat": [functools.partial(_of_layout, "cuhk03-detected", "cuhk-03.mat")],
    "new protocol .mat": [functools.partial(_of_layout, "cuhk03-np-detected", "*config_detected.mat", form="images")],
    "GRID .mat": [functools.partial(_of_layout, "grid", "features_and_partitions.mat")],
    "MSMT17 list": [functools.partial(_of_layout, "msmt17-v2", "list_train.txt")],
    "hostile tar": [
        functools.partial(lambda build, folder: (_written(folder, "x.tar", build()), ["mine", "--from",
                          str(folder / "x.tar")]), build) for build, _ in hostile.TARS.values()
    ],
    "hostile cuhk-03.mat": [
        functools.partial(lambda build, folder: (file := build(folder), ["cuhk03-detected", "--from", str(file),
                          "--accept-counts"]), build) for build, _ in hostile.HDF5.values()
    ],
    "hostile GRID .mat": [functools.partial(_matlab, build) for build, _ in hostile.MATLAB.values()],
    "hostile datasets.toml": [functools.partial(_bad_toml, content) for content, _ in hostile.TOML.values()],
}  # fmt: skip


def _prepared(words: list[str], folder: Path) -> Ended:
    """Prepare in a folder of its own; what the set's index says is the answer."""
    data = folder / "data"
    with little_memory():
        ended = run(["prepare", *words, "--data", str(data)])
    ended.printed = re.sub(r"\S*fuzz\S*", "PATH", ended.printed)
    for index in data.glob("*/index.csv"):
        ended.written["index.csv"] = index.read_text()
    return ended


def _input_trial(kind: str, chance: random.Random, work: Path) -> tuple[str, str]:
    build = chance.choice(INPUTS[kind])
    home = work / "home"
    home.mkdir()
    os.chdir(home)
    try:
        file, words = build(home)
        content = file.read_bytes()
        first = kind.startswith("hostile") and chance.random() < 0.5
        truth = Ended(1, "") if kind.startswith("hostile") else _prepared(words, home)
        shutil.rmtree(home / "data", ignore_errors=True)
        how, other = ("as it is", content) if first else damaged(content, chance)
        file.write_bytes(other)
        found = _prepared(words, home)
        if list(work.glob("evil*")):
            return "other", f"{how}: a file lies outside the data folder"
        verdict = judge(found, truth, own=kind not in CHECKED or how.endswith("gzip"))
        return verdict, f"{how}{_difference(found, truth)}"
    finally:
        os.chdir(work)
        shutil.rmtree(home)


def fuzz_inputs(work: Path, tally: Tally, seed: int, go_on: Callable[[int], bool]) -> None:
    """Try each kind of input in turn."""
    before = archives.SMALL, mat_files.LIMIT
    archives.SMALL, mat_files.LIMIT = 2**25, 2**25  # so that what is too large takes no minutes to be made
    trials = 0
    while go_on(trials):
        kind = list(INPUTS)[trials % len(INPUTS)]
        verdict, told = _input_trial(kind, random.Random(f"{seed} {kind} {trials}"), work)
        tally.add("inputs", kind, "prepare", verdict, f"seed {seed}, trial {trials}: {told}")
        trials += 1
    archives.SMALL, mat_files.LIMIT = before


# --- signals --------------------------------------------------------------------------------------------------------

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
        ["train", "--method", "in", *_TRAIN, "--results", "killed"],
        ["killed/runs/*/*/weights.safetensors", "killed/runs/*/*/log.csv"],
    ),
    "evaluate": (COMMANDS["evaluate"], ["results/runs/*/snr-*/per_query.csv.gz"]),
    "bench": (
        ["bench", "--methods", "in", "--seeds", "1", *_TRAIN, "--results", "killed"],
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
    preparing.draw_domain = draw_domain  # in processes, as a user has it
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


# --- all --------------------------------------------------------------------------------------------------------------


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
    preparing.IDENTITIES = (6, 4)
    preparing.draw_domain = functools.partial(draw_domain, processes=1)
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
