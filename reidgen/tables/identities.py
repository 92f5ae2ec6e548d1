"""Per-identity sums of the per-query numbers: what significance needs, small enough to be committed. No torch here.

`reidgen table` writes them beside rows.csv as identities.csv.gz, so that a results folder without its run folders still
says which differences are more than chance.
"""

import contextlib
import os
import zlib
from pathlib import Path

import pandas as pd

from reidgen.errors import RunError
from reidgen.files import replacing
from reidgen.runs import Run

FILE = "identities.csv.gz"
CELL = ["run", "data", "target", "split"]  # data: as in the result rows; run: the folder below results/runs
COLUMNS = {**dict.fromkeys(CELL[:3], "str"), "split": "int64", "pid": "int64"}
COLUMNS |= {"queries": "int64", "mAP": "float64", "rank1": "int64"}


def run_names(rows: pd.DataFrame) -> "pd.Series[str]":
    """Return for each result row the name of its run folder below results/runs, `<source>/<method>-...`."""
    method = rows["method"].str.split("(").str[0]  # of a variant the row's digest tells which
    run = rows["source"] + "/" + method + "-" + rows["backbone"] + "-s" + rows["seed"].astype(str) + "-" + rows["hash"]
    return run + ("-" + rows["row"]).where(rows["row"] != "", "")


def read_identities(results: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Return per run, data version, target, split and identity of the rows: its queries, and the sums of their AP and hits.

    Read from the run folders' per_query.csv.gz, and from identities.csv.gz where their folders are gone or have not changed
    since it was written. Queries without a match are **excluded**.
    mAP is the sum of AP, a fraction per query, with the digits that the file keeps; rank1 counts the queries whose first
    match has rank 1. Result rows without such numbers have no line.
    Raises RunError when a file is damaged.
    """
    file = results / FILE
    wanted = rows.assign(run=run_names(rows))[CELL].drop_duplicates()
    older = _kept(results)
    known = older[CELL].drop_duplicates().merge(wanted, on=CELL).groupby("run").size()
    newer = []
    for run, cells in wanted.groupby("run"):
        queries = Run(results / "runs" / str(run)).per_query
        if not queries.is_file():
            continue
        if known.get(run, 0) < len(cells) or queries.stat().st_mtime_ns > file.stat().st_mtime_ns:
            newer.append(_of_run(queries, cells))
    return _joined([older, *newer]).merge(wanted, on=CELL)


def keep_identities(results: Path, identities: pd.DataFrame) -> None:
    """Put what `read_identities` returned into identities.csv.gz, beside what it holds of other runs.

    Raises RunError when that file is damaged, ReidgenError when it cannot be written.
    """
    if identities.empty:
        return
    older = _kept(results)
    joined = _joined([older, identities])
    if joined.equals(older):
        with contextlib.suppress(OSError):
            (results / FILE).touch()  # as new as the run folders that it agrees with
        return
    with replacing(results / FILE) as temporary:
        gzip = {"method": "gzip", "mtime": 0, "compresslevel": 5}  # the same bytes each time
        joined.to_csv(temporary, index=False, compression=gzip, float_format="%.6g")


def _kept(results: Path) -> pd.DataFrame:
    """Return what identities.csv.gz holds, nothing where it is absent."""
    file = results / FILE
    return _read(file, COLUMNS) if file.is_file() else pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the lines of all frames, of equal identities the last, in a fixed order."""
    found = pd.concat([frame for frame in frames if len(frame)] or frames[:1])
    return found.drop_duplicates([*CELL, "pid"], keep="last").sort_values([*CELL, "pid"], ignore_index=True)


def _of_run(file: Path, cells: pd.DataFrame) -> pd.DataFrame:
    queries = _read(file, {"target": "str", "split": "int64", "pid": "int64", "ap": "float64", "first_match": "int64"})
    queries = queries[queries["first_match"] > 0]
    hits = queries.assign(mAP=queries["ap"], rank1=(queries["first_match"] == 1).astype("int64"), queries=1)
    sums = hits.groupby(["target", "split", "pid"], as_index=False)[["queries", "mAP", "rank1"]].sum()
    sums["mAP"] = sums["mAP"].map(lambda sum_: float(f"{sum_:.6g}"))  # as the file holds it: the same table each time
    return sums.merge(cells, on=["target", "split"])[list(COLUMNS)]


def _read(file: Path, columns: dict[str, str]) -> pd.DataFrame:
    try:
        return pd.read_csv(
            file,
            usecols=list(columns),
            dtype=columns,
            keep_default_na=False,
            na_values={"ap": [""]},
            compression="gzip",
        )
    except (ValueError, KeyError, EOFError, OSError, zlib.error) as error:
        remedy = "remove it" if file.name == FILE else f"remove the folder {os.fspath(file.parent)} and run again"
        raise RunError(f"{file} is missing or damaged; {remedy}") from error
