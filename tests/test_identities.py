"""Per-identity sums: from run folders, from the file beside rows.csv, and their damage."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_tables import frame, row

from reidgen.errors import RunError
from reidgen.runs import Run, to_csv
from reidgen.tables.identities import FILE, keep_identities, read_identities, run_names

QUERIES = pd.DataFrame(
    {
        "target": "duke", "split": [0, 0, 0, 0, 1], "path": list("abcde"), "pid": [7, 7, 7, 8, 7], "camid": 0,
        "ap": [1.0, 0.5, np.nan, 0.25, 0.125], "first_match": [1, 2, 0, 1, 9], "inp": [1.0, 0.5, np.nan, 0.25, 0.1],
    }
)  # fmt: skip


def folder(results: Path) -> pd.DataFrame:
    """Write one run with two evaluated targets, one of which has no result row, and return its rows."""
    rows = frame(row("snr", "duke", split=0), row("snr", "duke", split=1))
    run = Run(results / "runs" / run_names(rows)[0])
    run.folder.mkdir(parents=True)
    run.results.write_text(to_csv(rows))
    pd.concat([QUERIES, QUERIES.assign(target="other")]).to_csv(run.per_query, index=False)
    return rows


def read_and_keep(results: Path, rows: pd.DataFrame) -> pd.DataFrame:
    found = read_identities(results, rows)
    keep_identities(results, found)
    return found


def test_sums_worked_by_hand(tmp_path: Path) -> None:
    """Identity 7 has two queries with a match in split 0: AP 1 + .5, one hit; the one without a match does not count."""
    found = read_identities(tmp_path, folder(tmp_path))
    assert found[["target", "split", "pid", "queries", "mAP", "rank1"]].to_numpy().tolist() == [
        ["duke", 0, 7, 2, 1.5, 1], ["duke", 0, 8, 1, 0.25, 1], ["duke", 1, 7, 1, 0.125, 0],
    ]  # fmt: skip
    assert set(found["run"]) == {"market/snr-tiny-s0-1a2b3c4d5e6f7788"} and set(found["data"]) == {"aaaa1111"}


def test_the_file_stands_in_for_run_folders_that_are_gone(tmp_path: Path) -> None:
    rows = folder(tmp_path)
    found = read_identities(tmp_path, rows)
    assert not (tmp_path / FILE).exists()
    pd.testing.assert_frame_equal(read_and_keep(tmp_path, rows), found)
    first = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).unlink()
    read_and_keep(tmp_path, rows.sample(frac=1, random_state=0))
    assert (tmp_path / FILE).read_bytes() == first
    shutil.rmtree(tmp_path / "runs")
    pd.testing.assert_frame_equal(read_and_keep(tmp_path, rows), found)
    assert read_identities(tmp_path, rows.assign(data="other")).empty
    assert read_identities(tmp_path, rows.iloc[:1])["split"].tolist() == [0, 0]


def test_a_run_folder_is_read_again_only_when_it_changed_or_has_more(tmp_path: Path) -> None:
    rows = folder(tmp_path)
    queries, file = next(tmp_path.rglob("per_query.csv.gz")), tmp_path / FILE
    first = read_and_keep(tmp_path, rows.iloc[:1])
    assert first["split"].tolist() == [0, 0]
    assert len(read_and_keep(tmp_path, rows)) == 3  # split 1 is new
    QUERIES.assign(ap=0.9).to_csv(queries, index=False)
    os.utime(queries, ns=(0, 0))
    assert read_identities(tmp_path, rows)["mAP"].tolist() == [1.5, 0.25, 0.125]
    stamp = file.stat().st_mtime_ns + 1_000_000_000
    os.utime(queries, ns=(stamp, stamp))
    assert read_identities(tmp_path, rows)["mAP"].tolist() == [1.8, 0.9, 0.9]


def test_nothing_there_is_no_line(tmp_path: Path) -> None:
    assert read_identities(tmp_path, frame(row("snr", "duke"))).empty


@pytest.mark.parametrize("damage", [b"", b"no gzip", "half"])
@pytest.mark.parametrize("name", ["per_query.csv.gz", FILE])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: bytes | str) -> None:
    rows = folder(tmp_path)
    read_and_keep(tmp_path, rows)
    file = next(tmp_path.rglob(name))
    file.write_bytes(file.read_bytes()[:-20] if isinstance(damage, str) else damage)
    stamp = file.stat().st_mtime_ns + 1_000_000_000
    os.utime(next(tmp_path.rglob("per_query.csv.gz")), ns=(stamp, stamp))
    with pytest.raises(RunError, match=f"{name} is missing or damaged; remove"):
        read_identities(tmp_path, rows)
