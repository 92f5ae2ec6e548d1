"""Result rows and the numbers of single queries: their columns, and how files of rows are read, proven and written.

No torch here.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pandas as pd

from reidgen.errors import ReidgenError, RunError
from reidgen.files import sha256_file
from reidgen.integrity import UNSEALED, not_as_written, seal_anew, sealed, without_seal, write_sealed
from reidgen.teststeps import PLAIN

# One row per (run, target, test, split). Fractions in [0, 1]; `seen` is 1 where the target belongs to a source;
# `data` and `source_data` are the first 8 digits of the digests of the target's and the source's index. version,
# commit, torch, device and threads are those of the training; date is that of the evaluation. title: the method's name
# in tables, "" where METHODS knows it; row: first 8 digits of the digest of the method's row as it was trained. tied:
# queries of which a match is exactly as far as an image that is none (see `reidgen.ranking`). test: the word of the
# test steps (see `reidgen.teststeps`). model: first 16 digits of the SHA-256 of the file of a model from elsewhere, ""
# of what reidgen trained; its version, commit, torch, device and threads are those of the evaluation.
COLUMNS: dict[str, str] = {
    "source": "str",
    "target": "str",
    "seen": "int64",
    "split": "int64",
    "method": "str",
    "backbone": "str",
    "seed": "int64",
    "mAP": "float64",
    "rank1": "float64",
    "rank5": "float64",
    "rank10": "float64",
    "mINP": "float64",
    "queries": "int64",
    "gallery": "int64",
    "unmatched": "int64",
    "recipe": "str",
    "hash": "str",
    "data": "str",
    "source_data": "str",
    "version": "str",
    "commit": "str",
    "torch": "str",
    "device": "str",
    "dtype": "str",
    "date": "str",
    "title": "str",
    "row": "str",
    "threads": "int64",
    "tied": "int64",
    "test": "str",
    "model": "str",
}
# What rows of models from elsewhere say where those of runs name a recipe and a backbone, and its hash: they share a
# group with each other only, one for each declared source. The source of one that declares none is UNDECLARED.
ELSEWHERE, NO_RECIPE, UNDECLARED = "elsewhere", "00000000", "undeclared"
# One line per query of each (target, test, split): its AP and INP, empty where it has no match; first_match is 0 there.
QUERIES: dict[str, str] = {
    "target": "str",
    "test": "str",
    "split": "int64",
    "path": "str",
    "pid": "int64",
    "camid": "int64",
    "ap": "float64",
    "first_match": "int64",
    "inp": "float64",
}
TOLERANCE = 5e-6  # between a mean and its per-query numbers, both of six digits
# What files written before there was such a column hold in it: nothing, or for `threads` 0, not known.
ADDED: dict[str, str | int] = {"title": "", "row": "", "threads": 0, "tied": 0, "test": PLAIN, "model": ""}
KEY = ["target", "test", "split"]  # of a row in one run folder


def to_csv(rows: pd.DataFrame) -> str:
    """Return rows as CSV with the columns in their order and six significant digits."""
    return rows[list(COLUMNS)].to_csv(index=False, float_format="%.6g")


def is_there(path: Path) -> bool:
    """Tell whether a file is there. Raises RunError where something else is in its place: that is no absence."""
    if not path.is_file() and os.path.lexists(path):
        raise RunError(f"{path} is no plain file, or a link to nowhere; restore it from a copy, or remove it")
    return path.is_file()


@functools.cache
def _none() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})


def no_rows() -> pd.DataFrame:
    """Return no result rows, with all columns."""
    return _none().copy()


def read_csv(path: Path, *, remedy: Callable[[], str] | None = None) -> pd.DataFrame:
    """Return the rows of one file, none where it is absent; columns that came later get their default.

    remedy: gives what to do where it is damaged, at the end of the sentence; by default to restore it from a copy.
    Raises RunError where it is not `believed`.
    """
    if not is_there(path):
        return no_rows()
    remedy = remedy or functools.partial(restored, path)
    return believed(path, lambda: _parsed(path, sha256_file(path)), what="result", remedy=remedy).copy()


def believed(
    path: Path, parse: Callable[[], tuple[pd.DataFrame, str]], *, what: str, remedy: Callable[[], str]
) -> pd.DataFrame:
    """Return the rows of a file that is there, as `parse` returns them with what `impossible` says of them.

    What is believed: a file that is as its seal says, and without a seal one whose rows are all of reidgen 0.1.0, which
    wrote none, so that its published rows stay readable. Rows of any later version without a seal are damaged.
    Raises RunError when it is no file of such rows, torn, changed since it was written, or has lost its seal. what: the
    kind of rows. remedy: as in `read_csv`.
    """
    whole = sealed(path)
    if whole is False:
        raise RunError(f"{not_as_written(path)}; {remedy()}")
    try:
        rows, wrong = parse()
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError) as error:
        raise RunError(f"{path} is damaged or holds no {what} rows of this version; {remedy()}") from error
    if wrong:
        raise RunError(f"{path} holds {wrong}; {remedy()}")
    if not whole and {*rows["version"]} != {UNSEALED}:
        raise RunError(f"{without_seal(path)}; {remedy()}")
    return rows


@functools.lru_cache(maxsize=1)
def _parsed(path: Path, digest: str) -> tuple[pd.DataFrame, str]:
    """Return the rows of a file of that SHA-256, unproven, and what `impossible` says of them.

    The last file is kept: a table reads its own rows.csv, and again before it would write it.
    """
    with pd.option_context("mode.string_storage", "python"):  # with pyarrow's, a table takes half as long again
        rows = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False)
    missing = {name: value for name, value in ADDED.items() if name not in rows}
    rows = rows.assign(**missing)[list(COLUMNS)]
    return rows, impossible(rows, COLUMNS)


def tie_notes(rows: pd.DataFrame) -> list[str]:
    """Return a sentence for each target where equal distances decide about more than one query of a hundred."""
    notes = []
    for (target, test), part in rows.groupby(KEY[:2], sort=False):
        target = target if test == PLAIN else f"{target}, {test}"
        tied, queries = int(part["tied"].sum()), int(part["queries"].sum() - part["unmatched"].sum())
        if tied == queries > 0:
            notes.append(
                f"{target}: the embeddings have collapsed, images of all people are equally far; a match then counts "
                "behind the others, and these numbers say nothing else about the method"
            )
        elif tied > queries / 100:
            notes.append(
                f"{target}: {tied} of {queries} queries have a match exactly as far as another image and count it "
                "behind; embeddings that often tie are collapsing, rounded, or of the same pictures"
            )
    return notes


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Write a file of rows that `read_csv` can prove, unless it holds just these."""
    with contextlib.suppress(ReidgenError):  # one that is damaged is written anew
        if sealed(path) and read_csv(path).equals(rows[list(COLUMNS)].reset_index(drop=True)):
            return
    write_sealed(path, to_csv(rows).encode())


def impossible(rows: pd.DataFrame, columns: Mapping[str, str], *, free: Collection[str] = ()) -> str:
    """Return what no row can hold, "" where all is well: a line that was cut, or a number out of its range.

    columns: their types; a float64 is a fraction but for those in `free`, which may be any number, or none.
    """
    if rows.drop(columns=list(free)).isna().to_numpy().any():
        return "a line that was cut"
    for name, kind in columns.items():
        if kind == "float64" and name not in free and not rows[name].between(0, 1).all():
            return f"{name} = {rows.loc[~rows[name].between(0, 1), name].iloc[0]:g}, which is no fraction"
        if kind == "int64" and (rows[name] < 0).any():
            return f"{name} = {rows[name].min()}"
    return ""


def unreadable(path: Path, error: OSError) -> RunError:
    """Return the error to raise where the system refuses to read a file."""
    return RunError(f"{path} cannot be read ({error.strerror or error}); look at its permissions and its disk")


def restored(path: Path, again: str = "run again") -> str:
    """Return how a damaged file is replaced that nothing makes again; again: what to do without it."""
    return f"restore it from a copy, or move it away and {again}; if it is right as it is: {seal_anew(path)}"


def with_bare_device(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose device is the hardware's name alone; the threads behind a CPU's name are in `threads`, also of
    rows that were written before there was that column.
    """
    parts = rows["device"].str.extract(r"^(.*?)(?:, ([\d,]+) threads?)?$")
    named = parts[1].fillna("0").str.replace(",", "").astype("int64")
    return rows.assign(device=parts[0], threads=rows["threads"].where(rows["threads"] > 0, named))


def disagreement(rows: pd.DataFrame, queries: pd.DataFrame) -> str:
    """Return how result rows of one run differ from its per-query numbers, "" where they agree.

    Each target and test of the rows must have the same splits on both sides, and each row the mean, the CMC and the
    counts of its queries, to the six digits that both are written with.
    """
    matched = queries["first_match"] > 0
    found = queries.assign(queries=1, unmatched=(~matched).astype("int64"), mAP=queries["ap"], mINP=queries["inp"])
    for k in (1, 5, 10):
        found[f"rank{k}"] = (queries["first_match"] <= k).astype("float64").where(matched)
    how = {"queries": "sum", "unmatched": "sum"} | dict.fromkeys(("mAP", "mINP", "rank1", "rank5", "rank10"), "mean")
    means = found[found["target"].isin(rows["target"])].groupby(KEY).agg(how)
    rows = rows.drop_duplicates(KEY, keep="last").set_index(KEY).sort_index()
    for one in means.index.symmetric_difference(rows.index).tolist():
        return f"split {one[2]} of {_place(*one)} has {'no row' if one in means.index else 'no per-query numbers'}"
    for name in how:
        wrong = (rows[name] - means[name]).abs() > TOLERANCE
        for one in wrong.index[wrong].tolist():
            row, mean = rows[name][one], means[name][one]
            return f"{name} of {_place(*one)} (split {one[2]}) is {row:g}, its per-query numbers say {mean:g}"
    return ""


def _place(target: str, test: str, *_: int) -> str:
    return target if test == PLAIN else f"{target}, {test},"


def percent(fraction: float) -> str:
    """Return a score in percent with one decimal, the same one wherever it is shown: of the six digits that files hold.

    >>> percent(0.6125), f"{100 * 0.6125:.1f}"
    ('61.2', '61.3')
    """
    return f"{round(100 * float(f'{fraction:.6g}'), 6):.1f}"
