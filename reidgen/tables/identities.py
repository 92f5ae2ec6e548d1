"""Per-identity sums of the per-query numbers: what significance needs, small enough to be committed. No torch here.

`reidgen table` writes them beside rows.csv as identities.csv.gz, so that a results folder without its run folders still
says which differences are more than chance. Each line names the file that it was made of by the digest of its bytes:
times of change say nothing of a folder that was copied.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from reidgen.errors import RunError
from reidgen.files import sha256_file
from reidgen.integrity import not_as_written, seal_anew, sealed, without_seal, write_sealed
from reidgen.rows import KEY, TOLERANCE, is_there
from reidgen.runs import Run, folder_name
from reidgen.tables.choose import each
from reidgen.teststeps import PLAIN

FILE = "identities.csv.gz"
CELL = ["run", "data", *KEY]  # data: as in the result rows; run: the folder below results/runs
COLUMNS = {**dict.fromkeys(CELL[:4], "str"), "split": "int64", "pid": "int64"}
COLUMNS |= {"queries": "int64", "mAP": "float64", "rank1": "int64", "file": "str"}
# file: first 16 digits of the SHA-256 of per_query.csv.gz; "" in files of reidgen 0.1.0, which is that of no file


def run_names(rows: pd.DataFrame) -> "pd.Series[str]":
    """Return for each result row the name of its run folder below results/runs, `<source>/<method>-...`."""
    keys = list(each(rows, "source", "method", "backbone", "seed", "hash", "row"))
    names = {key: _run_name(*key) for key in dict.fromkeys(keys)}  # a run has many rows
    return pd.Series([names[key] for key in keys], index=rows.index, name="run", dtype="str")


def _run_name(source: str, method: str, backbone: str, seed: int, digest: str, row: str) -> str:
    name = method.partition("(")[0]  # of a variant the row's digest tells which
    return f"{source}/{folder_name(name, backbone, seed, digest, row)}"


def read_identities(results: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Return per run, data version, target, test, split and identity of the rows: its queries, and the sums of their AP
    and hits.

    Read from the run folders' per_query.csv.gz, and from identities.csv.gz where their folders are gone or their files
    are those that it was made of. A folder holds a target as it was prepared last: of rows on several versions of it,
    in the order of `runs.read_rows`, the last are the folder's, and the others have what identities.csv.gz kept.
    Queries without a match are **excluded**. mAP is the sum of AP, a fraction per query, with the digits that the file
    keeps; rank1 counts the queries whose first match has rank 1. Result rows without such numbers have no line.
    Raises RunError when a file is damaged, when a split has numbers but no row, and when a row is not their mean.
    """
    older = _kept(results)
    if older.empty and not (results / "runs").is_dir():
        return older
    rows = rows.assign(run=run_names(rows))
    wanted = rows[CELL].drop_duplicates(keep="last")
    present = wanted.drop_duplicates(["run", *KEY], keep="last")
    known = older[[*CELL, "file"]].drop_duplicates().merge(present, on=CELL).groupby(["run", "file"]).size()
    files: dict[str, str] = {}
    newer = []
    for name, cells in present.groupby("run"):
        run = Run(results / "runs" / str(name))
        if is_there(run.per_query):
            files[str(name)] = sha256_file(run.per_query)[:16]
            if known.get((name, files[str(name)]), 0) < len(cells):
                newer.append(_of_run(run, cells, files[str(name)]))
    fresh = [files.get(run, file) == file for run, file in zip(older["run"], older["file"], strict=True)]
    past = ~pd.MultiIndex.from_frame(older[CELL]).isin(pd.MultiIndex.from_frame(present))
    found = _joined([older[past | np.array(fresh, dtype=bool)], *newer]).merge(wanted, on=CELL)
    _check(results, rows, found)
    return found


def _check(results: Path, rows: pd.DataFrame, identities: pd.DataFrame) -> None:
    """Raise RunError for the first row that is not the mean of its queries; older rows of one cell may be others."""
    sums = identities.groupby(CELL)[["queries", "mAP", "rank1"]].sum()
    means = sums[["mAP", "rank1"]].div(sums["queries"], axis=0).add_prefix("mean_").reset_index()
    both = rows[[*CELL, "mAP", "rank1"]].merge(means, on=CELL)
    both["off"] = sum((both[name] - both[f"mean_{name}"]).abs() for name in ("mAP", "rank1")) > 2 * TOLERANCE
    wrong = both[both.groupby(CELL)["off"].transform("all")] if len(both) else both
    for row in wrong.head(1).to_dict("records"):
        run = Run(results / "runs" / row["run"])
        what = f"{row['run']} on {row['target']} (split {row['split']}): the row says mAP {row['mAP']:g} and Rank-1 "
        what += f"{row['rank1']:g}, its per-query numbers {row['mean_mAP']:.6g} and {row['mean_rank1']:.6g}"
        if run.per_query.is_file():
            raise RunError(f"{what}; {run.again()}")
        raise RunError(
            f"{what}; restore rows.csv and {FILE} in {results} from one copy, or evaluate the run again: {run.again()}"
        )


def keep_identities(results: Path, identities: pd.DataFrame) -> None:
    """Put what `read_identities` returned into identities.csv.gz, beside what it holds of other runs.

    Raises RunError when that file is damaged, ReidgenError when it cannot be written.
    """
    if identities.empty:
        return
    older = _kept(results)
    cells = pd.MultiIndex.from_frame(identities[CELL])
    joined = _joined([older[~pd.MultiIndex.from_frame(older[CELL]).isin(cells)], identities])
    if joined.equals(older):
        return
    packed = gzip.compress(joined.to_csv(index=False, float_format="%.6g").encode(), compresslevel=5, mtime=0)
    write_sealed(results / FILE, packed)  # the same each time: no name and no time in it


def _kept(results: Path) -> pd.DataFrame:
    """Return what identities.csv.gz holds, nothing where it is absent. Raises RunError when it has changed."""
    file = results / FILE
    return _read(file) if is_there(file) else pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the lines of all frames, of equal identities the last, in a fixed order."""
    found = pd.concat([frame for frame in frames if len(frame)] or frames[:1])
    return found.drop_duplicates([*CELL, "pid"], keep="last").sort_values([*CELL, "pid"], ignore_index=True)


def _of_run(run: Run, cells: pd.DataFrame, digest: str) -> pd.DataFrame:
    queries = run.queries([*KEY, "pid", "ap", "first_match"])
    there = queries[KEY].drop_duplicates()
    known = pd.MultiIndex.from_frame(cells[KEY[:2]])
    lost = there[pd.MultiIndex.from_frame(there[KEY[:2]]).isin(known)].merge(cells, on=KEY, how="left")
    if len(lost := lost[lost["run"].isna()]):
        target, test, split = lost[KEY].iloc[0]
        what = target if test == PLAIN else f"{target}, {test}"
        raise RunError(f"{run.results} has lost the row of split {split} of {what}; {run.again()}")
    queries = queries[queries["first_match"] > 0]
    hits = queries.assign(mAP=queries["ap"], rank1=(queries["first_match"] == 1).astype("int64"), queries=1)
    sums = hits.groupby([*KEY, "pid"], as_index=False)[["queries", "mAP", "rank1"]].sum()
    sums["mAP"] = sums["mAP"].map(lambda sum_: float(f"{sum_:.6g}"))  # as the file holds it: the same table each time
    return sums.merge(cells, on=KEY).assign(file=digest)[list(COLUMNS)]


def _read(file: Path) -> pd.DataFrame:
    """Return what a file holds. Without a seal only files of reidgen 0.1.0 are believed, which lack a column `file`."""
    whole = sealed(file)
    how = f"restore it from a copy, or remove it; if it is right as it is: {seal_anew(file)}"
    if whole is False:
        raise RunError(f"{not_as_written(file)}; {how}")
    try:
        found = pd.read_csv(file, dtype=COLUMNS, keep_default_na=False, compression="gzip")
        if not whole and "file" in found:
            raise RunError(f"{without_seal(file)}; {how}")
        older = {name: value for name, value in {"file": "", "test": PLAIN}.items() if name not in found}
        return found.assign(**older)[list(COLUMNS)]
    except (ValueError, KeyError, EOFError, OSError, zlib.error) as error:
        raise RunError(f"{file} is missing or damaged; remove it") from error
