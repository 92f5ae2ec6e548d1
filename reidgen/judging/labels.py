"""Pairs that a person labels, and what they say of Rank-1 across cameras. No torch.

The pairs are a sample by design: queries drawn evenly of all crops, and of each the nearest crop of another camera by
each run. Labelled, they are independent draws of "is the nearest crop the same person", whose share is the estimate.
"""

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from reidgen.data.naming import shown
from reidgen.errors import DataError, RunError
from reidgen.escapes import no_formula
from reidgen.features.store import DIGITS
from reidgen.files import read_regular
from reidgen.judging.crops import Crops, digest_of
from reidgen.judging.judge import Judged
from reidgen.judging.neighbours import NOBODY
from reidgen.tables.statistics import LEVEL, holm

COUNT = 30  # queries; each run has one pair of each
SAME, OTHER, UNSURE = "same person", "other", "cannot tell"
LABELS = (SAME, OTHER, UNSURE)
FIELDS = ("pair", "pairs", "query_number", "query", "crop", "query_file", "crop_file", "runs", "sheet", "label")
ESTIMATED = (
    "estimated: the share of crops, each as likely to be drawn, whose nearest crop of another camera shows the same "
    "person; in brackets the 95 % interval of Clopper and Pearson",
    "a person whom no other camera saw counts as a miss, so that among people who were seen by two it is higher",
    "it is not the Rank-1 of reidgen evaluate, which asks only queries with a match and has the other people of the "
    "query's camera in its gallery",
    f"'{UNSURE}' counts as another person in the number and the lower end, as the same person in the upper end",
)
_MARK = "sha-"  # before digests, so that no spreadsheet takes one for a number


class Pair(NamedTuple):
    """A query and what is nearest to it by some runs. query_number: of the draw, from 1; query, crop: paths, fit for a
    spreadsheet; query_file, crop_file: 16 hex digits of their files' SHA-256; runs: the first 16 of the networks'."""

    query_number: int
    query: str
    crop: str
    query_file: str
    crop_file: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """All pairs that belong together, each once, however many runs found it. places: (query, crop), the real paths."""

    target: str
    pairs: list[Pair]
    places: list[tuple[str, str]]

    @property
    def digest(self) -> str:
        """16 hex digits that stand for all pairs, in their order."""
        return _digest_of(self.pairs)

    def lines(self) -> list[str]:
        """Return the lines of the CSV without their labels, the names of the columns first."""
        rows = [FIELDS[:-1], *(self._row(number, pair) for number, pair in enumerate(self.pairs, start=1))]
        return [_csv_line(row) for row in rows]

    def _row(self, number: int, pair: Pair) -> tuple[object, ...]:
        files = (_MARK + pair.query_file, _MARK + pair.crop_file)
        names = (pair.query_number, pair.query, pair.crop)
        runs = " ".join(_MARK + one for one in pair.runs)
        return (number, len(self.pairs), *names, *files, runs, _MARK + self.digest)


class Estimate(NamedTuple):
    """Rank-1 across cameras of one run: the share of `same` among `queries`, and its 95 % interval, fractions."""

    run: str
    queries: int
    same: int
    other: int
    unsure: int
    share: float
    low: float
    high: float


def draw_sheet(judged: Judged, crops: Crops, count: int = COUNT) -> Sheet:
    """Return the pairs of the first `count` queries that were drawn, for all runs of `judged`.

    A pair that several runs found stands there once. A query's pairs lie side by side, in an order that says nothing of
    the runs. Raises DataError where no camera is known, as a crop's nearest is then of its own track, and when an image
    cannot be read.
    """
    if not crops.cameras:
        raise DataError(
            f"pairs are across cameras, and no camera of {crops.name} is known; give --images with --pattern "
            "'(?P<camid>[^/]+)/[^/]+', or a .csv with a column camid"
        )
    found = np.logical_and.reduce([first != NOBODY for first in judged.first.values()])
    pairs, places = list[Pair](), list[tuple[str, str]]()
    for number, place in enumerate(np.flatnonzero(found)[:count].tolist(), start=1):
        query = judged.paths[judged.query_Q[place]]
        by_crop: dict[str, list[str]] = {}
        for digest, first_Q in judged.first.items():
            by_crop.setdefault(judged.paths[first_Q[place]], []).append(digest[:DIGITS])
        for crop in sorted(by_crop, key=lambda one: _shuffle(query, one)):
            files = digest_of(crops, query), digest_of(crops, crop)
            pairs.append(Pair(number, _name(query), _name(crop), *files, tuple(sorted(by_crop[crop]))))
            places.append((query, crop))
    return Sheet(crops.name, pairs, places)


def read_labels(file: Path) -> tuple[list[Pair], list[str]]:
    """Return the pairs of a CSV that the page saved, and their labels: one of LABELS, or "" where none was given.

    Commas, semicolons or tabs may part the columns, as spreadsheets save them. Raises DataError when the file cannot be
    read, is none of these, has another label, or anything but the labels was changed or left out.
    """
    try:
        text = read_regular(file).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{file} is not there; make a page with --pairs, label it and save its CSV") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    head = text.split("\n", 1)[0]
    rows = list(csv.reader(io.StringIO(text), delimiter=max(",;\t", key=head.count)))
    if not rows or tuple(cell.strip() for cell in rows[0]) != FIELDS:
        raise DataError(f"{file} is no CSV of labelled pairs, whose columns are {', '.join(FIELDS)}")
    body = [row for row in rows[1:] if any(row)]
    try:
        order = [int(row[0]) for row in body]
        made = [_pair(dict(zip(FIELDS, row, strict=True))) for row in body]
        pairs = [pair for _, pair in sorted(zip(order, made, strict=True))]
        sheets, whole = {row[8].strip() for row in body}, {int(row[1]) for row in body}
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"{file} has a line that is no labelled pair; {_RULE}") from error
    complete = whole == {len(body)} and sorted(order) == list(range(1, len(body) + 1))
    if not complete or sheets != {_MARK + _digest_of(pairs)}:
        raise DataError(f"{file} does not hold its pairs as they were saved; {_RULE}")
    labels = dict(zip(order, (" ".join(row[9].lower().split()) for row in body), strict=True))
    for number, label in labels.items():
        if label not in ("", *LABELS):
            raise DataError(f"{file}: pair {number} has the label {shown(label)!r}; write one of: {', '.join(LABELS)}")
    return pairs, [labels[number] for number in sorted(labels)]


_RULE = "keep every line and every column but label as the page saved them (an empty label is fine), or save it anew"


def check_labels(pairs: Sequence[Pair], runs: dict[str, str], crops: Crops, file: Path) -> None:
    """Raise RunError where the pairs are of other runs than those given (digest -> name), DataError of other images."""
    known = {digest for pair in pairs for digest in pair.runs}
    if strange := [name for digest, name in runs.items() if digest[:DIGITS] not in known]:
        raise RunError(
            f"{file} holds no pairs of {strange[0]} as it is now; labels count for the very networks that the page was "
            "made with: make a new one with --pairs pairs.html"
        )
    paths = {_name(path): path for path in crops.paths}
    queries, found = ({(pair[at], pair[at + 2]) for pair in pairs} for at in (1, 2))
    for name, digest in sorted(queries | found):
        if name not in paths:
            raise DataError(f"{file} is of other images: {name} is not among the crops of {crops.name}")
        if digest_of(crops, paths[name]) != digest:
            raise DataError(f"{file} is of other images: {name} has changed since the page was made")


def estimates(pairs: Sequence[Pair], labels: Sequence[str], runs: dict[str, str]) -> list[Estimate]:
    """Return the estimate for each run (digest -> name), in the order given.

    The queries up to the last one whose pairs are all labelled count; a pair among them that was passed over counts as
    "cannot tell". "cannot tell" counts as another person in the estimate and in the lower end of the interval, and as
    the same in the upper end. Raises DataError when no query is labelled.
    """
    hits = _hits(pairs, labels, runs)
    found = []
    for digest, name in runs.items():
        told = hits[digest]
        same, unsure, queries = int((told == 1).sum()), int(told.isna().sum()), len(told)
        low, high = interval(same, queries)[0], interval(same + unsure, queries)[1]
        found.append(Estimate(name, queries, same, queries - same - unsure, unsure, same / queries, low, high))
    return found


def comparisons(pairs: Sequence[Pair], labels: Sequence[str], runs: dict[str, str]) -> pd.DataFrame:
    """Return how the best run (by `estimates`) compares with each other one: run, other, only_run, only_other, p.

    only_*: queries that it alone got right, of those where both are known. p: of the exact sign test (McNemar's), after
    Holm's correction over these comparisons; that the best was chosen by the same labels makes it a little too small.
    """
    hits, told = _hits(pairs, labels, runs), estimates(pairs, labels, runs)
    best = list(runs)[int(np.argmax([one.share for one in told]))]
    rows = []
    for other in runs:
        if other == best:
            continue
        both = hits[[best, other]].dropna()
        mine, theirs = int((both[best] > both[other]).sum()), int((both[best] < both[other]).sum())
        rows.append({"run": runs[best], "other": runs[other], "only_run": mine, "only_other": theirs})
    found = pd.DataFrame(rows, columns=["run", "other", "only_run", "only_other"])
    p_C = [sign_test(*two) for two in found[["only_run", "only_other"]].to_numpy().tolist()]
    return found.assign(p=holm(np.array(p_C, dtype=np.float64)))


def interval(hits: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of Clopper and Pearson for a share, which covers it at least that often.

    Source: Clopper, Pearson, Biometrika 26, 1934.

    >>> [round(end, 4) for end in interval(15, 30)]
    [0.313, 0.687]
    """
    low = 0.0 if hits == 0 else float(betaincinv(hits, of - hits + 1, LEVEL / 2))
    high = 1.0 if hits == of else float(betaincinv(hits + 1, of - hits, 1 - LEVEL / 2))
    return low, high


def sign_test(one: int, other: int) -> float:
    """Return the two-sided p-value of the exact sign test, 1 without any difference.

    >>> sign_test(5, 0)
    0.0625
    """
    every = one + other
    return min(1.0, 2 * sum(math.comb(every, few) for few in range(min(one, other) + 1)) / float(2**every))


def _hits(pairs: Sequence[Pair], labels: Sequence[str], runs: dict[str, str]) -> pd.DataFrame:
    """Return a row per query that counts and a column per run: 1 same, 0 other, NaN not known."""
    given = pd.Series([label != "" for label in labels]).groupby([pair.query_number for pair in pairs]).all()
    if not given.any():
        raise DataError("no query has all of its pairs labelled yet; open the page, label them and save the CSV again")
    last = int(given[given].index.max())
    value = {SAME: 1.0, OTHER: 0.0, UNSURE: np.nan, "": np.nan}
    found: dict[str, dict[int, float]] = {digest: {} for digest in runs}
    for pair, label in zip(pairs, labels, strict=True):
        for digest in runs:
            if digest[:DIGITS] in pair.runs and pair.query_number <= last:
                found[digest][pair.query_number] = value[label]
    return pd.DataFrame(found)


def _pair(row: dict[str, str]) -> Pair:
    query_file, crop_file = (row[name].strip().removeprefix(_MARK) for name in ("query_file", "crop_file"))
    runs = tuple(one.removeprefix(_MARK) for one in row["runs"].split())
    return Pair(int(row["query_number"]), row["query"], row["crop"], query_file, crop_file, runs)


def _shuffle(query: str, crop: str) -> bytes:
    """Return what puts the crops of a query into an order that says nothing of the runs."""
    return hashlib.sha256(f"{query}\n{crop}".encode(errors="surrogateescape")).digest()


def _digest_of(pairs: Iterable[Pair]) -> str:
    return hashlib.sha256("\n".join(map(repr, map(tuple, pairs))).encode()).hexdigest()[:DIGITS]


def _name(path: str) -> str:
    return no_formula(shown(path))


def _csv_line(cells: Iterable[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()
