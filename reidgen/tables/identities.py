"""Per-identity sums of the per-query numbers: what significance needs, small enough to be committed. No torch here.

`reidgen table` writes them beside rows.csv as identities.csv.gz, so that a results folder without its run folders still
says which differences are more than chance.
"""

import os
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


def read_identities(results: Path, rows: pd.DataFrame, *, keep: bool = False) -> pd.DataFrame:
    """Return per run, data version, target, split and identity of the result rows: its queries, and the sums of their AP and hits.

    Read from the run folders' per_query.csv.gz, and from identities.csv.gz where their folders are gone or have not changed
    since it was written. With `keep`, what is new is written there. Queries without a match are **excluded**.
    mAP is the sum of AP, a fraction per query; rank1 counts the queries whose first match has rank 1. Result rows without such
    numbers have no line.
    Raises RunError when a file is damaged, ReidgenError when it cannot be written.
    """
    file = results / FILE
    wanted = rows.assign(run=run_names(rows))[CELL].drop_duplicates()
    older = _read(file, COLUMNS) if file.is_file() else pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    known = older[CELL].drop_duplicates().merge(wanted, on=CELL).groupby("run").size()
    newer = []
    for run, cells in wanted.groupby("run"):
        queries = Run(results / "runs" / str(run)).per_query
        if not queries.is_file():
            continue
        if known.get(run, 0) < len(cells) or queries.stat().st_mtime_ns > file.stat().st_mtime_ns:
            newer.append(_of_run(queries, cells))
    if newer:
        found = pd.concat([frame for frame in (older, *newer) if len(frame)] or [older])
        older = found.drop_duplicates([*CELL, "pid"], keep="last").sort_values([*CELL, "pid"], ignore_index=True)
        if keep:
            with replacing(file) as temporary:
                gzip = {"method": "gzip", "mtime": 0, "compresslevel": 5}  # the same bytes each time
                older.to_csv(temporary, index=False, compression=gzip, float_format="%.6g")
    return older.merge(wanted, on=CELL)


def _of_run(file: Path, cells: pd.DataFrame) -> pd.DataFrame:
    queries = _read(file, {"target": "str", "split": "int64", "pid": "int64", "ap": "float64", "first_match": "int64"})
    queries = queries[queries["first_match"] > 0]
    hits = queries.assign(mAP=queries["ap"], rank1=(queries["first_match"] == 1).astype("int64"), queries=1)
    sums = hits.groupby(["target", "split", "pid"], as_index=False)[["queries", "mAP", "rank1"]].sum()
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
    except (ValueError, KeyError, EOFError, OSError) as error:
        remedy = "remove it" if file.name == FILE else f"remove the folder {os.fspath(file.parent)} and run again"
        raise RunError(f"{file} is missing or damaged; {remedy}") from error
