"""Running a command in this process, and the verdict on how it ended beside the undamaged one; the tally of them."""

import hashlib
import io
import re
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from typer.testing import CliRunner

from reidgen.cli import app

SECONDS = 120  # more is a hang; what is not damaged takes 5 at most
MEMORY = 4 * 2**30  # beyond what this process has: who asks for more fails
FAULTS = ("other", "traceback", "hang")
VERDICTS = ("noticed", "told", "same", "input", "absent", *FAULTS)


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
    """Return what a written file answers, without dates and speeds; its digest where it is no text, or damaged."""
    content = path.read_bytes()
    if path.suffix not in (".safetensors", ".gz", ".png"):
        with suppress(ValueError, KeyError):  # a damaged one of another run
            return _numbers(path.name, content.decode())
    return hashlib.sha256(content).hexdigest()


def _numbers(name: str, text: str) -> str:
    if name == "log.csv":
        return pd.read_csv(io.StringIO(text)).drop(columns=["images_per_s", "seconds"]).to_csv(index=False)
    if name == "rows.csv":  # what is evaluated again comes last
        return "\n".join(sorted(neutral(text).splitlines()))
    return re.sub(r'"check": "\w+"', "", neutral(text))  # the check covers a date


def difference(found: Ended, truth: Ended) -> str:
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
