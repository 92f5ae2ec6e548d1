"""Rows of robustness: what a changed image costs a run, in stress.csv and attack.csv of its folder. No torch here.

Each row says which run and images it is of, as the target's row in results.csv, and with what it was measured itself. A
file is rewritten whole after every measurement, so an interrupted command goes on where it stopped.
"""

from pathlib import Path

import pandas as pd

from reidgen.integrity import write_sealed
from reidgen.rows import COLUMNS, believed, impossible, is_there, restored
from reidgen.runs import below_runs

# mAP, rank1 and drop are fractions; drop is 1 - mAP / mAP of the clean images, of the same run, target and split.
# mAP_se is the standard error of mAP over query identities, empty where there is one identity. version, commit, torch,
# device, date: those of the measurement (in results.csv all but the date are those of the training).
_SCORES = {"mAP": "float64", "mAP_se": "float64", "rank1": "float64", "drop": "float64", "queries": "int64"}
_WHO = {name: COLUMNS[name] for name in ("source", "target", "seen", "split", "method", "backbone", "seed")}
_MADE = dict.fromkeys(
    ("recipe", "hash", "data", "source_data", "version", "commit", "torch", "device", "dtype", "date"), "str"
)
# title, row, model: as in the result rows; at the end, as files of reidgen 0.1.0 have none of them.
_ADDED = {"title": "str", "row": "str", "model": "str"}
# where: "query" or "both". shift: a name of SHIFTS, or CLEAN with severity 0. shifts: digest of the table of
# severities.
STRESS = {**_WHO, "where": "str", "shift": "str", "severity": "int64", **_SCORES, "shifts": "str", **_MADE, **_ADDED}
# pattern: CLEAN, a control or a loss. maker: the run that made it ("" for clean images and controls); maker_method: its
# method, with its backbone and source where they differ from the run's; own: whether it is the run itself. bound: grey
# levels of 255. pattern_digest: of the pattern's values.
ATTACK = {
    **_WHO,
    "pattern": "str",
    "maker": "str",
    "maker_method": "str",
    "own": "int64",
    "bound": "int64",
    **_SCORES,
    "pattern_digest": "str",
    **_MADE,
    **_ADDED,
}
CLEAN = "clean"
KINDS = {"stress": STRESS, "attack": ATTACK}


def read_trials(path: Path, kind: str) -> pd.DataFrame:
    """Return the rows of one file, none where it is absent; kind: a name of KINDS. Columns that came later are "".

    Raises RunError for a file that is not `reidgen.rows.believed`.
    """
    columns = KINDS[kind]
    if not is_there(path):
        return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in columns.items()})

    def parse() -> tuple[pd.DataFrame, str]:
        rows = pd.read_csv(path, dtype=columns, keep_default_na=False, na_values={"mAP_se": [""]})
        rows = rows.assign(**dict.fromkeys(_ADDED.keys() - set(rows), ""))[list(columns)]
        return rows, impossible(rows, columns, free=("mAP_se", "drop"))

    return believed(path, parse, what=kind, remedy=lambda: restored(path, f"repeat: reidgen {kind}"))


def write_trials(path: Path, rows: pd.DataFrame, kind: str) -> None:
    """Write rows as CSV with the columns in their order and six significant digits, whole or not at all."""
    write_sealed(path, rows[list(KINDS[kind])].to_csv(index=False, float_format="%.6g").encode())


def add_trials(path: Path, rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Append rows to a file and return all of its rows, as a reader finds them."""
    old = read_trials(path, kind)
    write_trials(path, pd.concat([part for part in (old, rows) if len(part)]), kind)
    return read_trials(path, kind)


def collect_trials(results: Path, kind: str) -> pd.DataFrame:
    """Return the rows of every run below `results`, and those of <kind>-rows.csv whose run folders are gone."""
    files = [results / f"{kind}-rows.csv", *below_runs(results, f"{kind}.csv")]
    frames = [frame for frame in (read_trials(file, kind) for file in files) if len(frame)]
    if not frames:
        return read_trials(files[0], kind)
    made = ["source", "method", "row", "backbone", "seed", "hash", "target", "split"]
    cell = {"stress": ["where", "shift", "severity"], "attack": ["pattern", "maker", "bound"]}[kind]
    return pd.concat(frames).drop_duplicates([*made, *cell], keep="last").reset_index(drop=True)
