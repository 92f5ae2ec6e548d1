"""Per-identity sums: from run folders, from the file beside rows.csv, and their damage."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_tables import frame, row

from reidgen.errors import RunError
from reidgen.rows import to_csv
from reidgen.runs import Run
from reidgen.tables.identities import FILE, keep_identities, read_identities, run_names

QUERIES = pd.DataFrame(
    {
        "target": "duke", "split": [0, 0, 0, 0, 1], "path": list("abcde"), "pid": [7, 7, 7, 8, 7], "camid": 0,
        "ap": [1.0, 0.5, np.nan, 0.25, 0.125], "first_match": [1, 2, 0, 1, 9], "inp": [1.0, 0.5, np.nan, 0.25, 0.1],
    }
)  # fmt: skip


def folder(results: Path) -> pd.DataFrame:
    """Write one run with two evaluated targets, one of which has no result row, and return its rows."""
    rows = frame(row("snr", "duke", split=0, mAP=7 / 12, rank1=2 / 3), row("snr", "duke", split=1, mAP=0.125, rank1=0))
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


def test_a_run_folder_is_read_again_only_when_its_bytes_changed_or_it_has_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the times say: `cp -a` and `rsync -a` bring a folder with those of its own."""
    rows = folder(tmp_path)
    queries = next(tmp_path.rglob("per_query.csv.gz"))
    read: list[int] = []
    real = Run.queries
    monkeypatch.setattr(Run, "queries", lambda *args: read.append(1) or real(*args))
    read_and_keep(tmp_path, rows)
    os.utime(queries)
    assert len(read_and_keep(tmp_path, rows)) == 3 and read == [1]
    more = pd.concat([rows, rows.assign(target="other")])
    assert len(read_and_keep(tmp_path, more)) == 6 and read == [1, 1]
    QUERIES.assign(ap=0.9, pid=[9, 9, 9, 8, 7]).to_csv(queries, index=False)
    os.utime(queries, ns=(0, 0))
    rows["mAP"] = 0.9
    for _ in range(2):  # nothing is left of the identity 7 of split 0, nor of the other target
        found = read_and_keep(tmp_path, rows)
        assert found[["split", "pid", "mAP"]].to_numpy().tolist() == [[0, 8, 0.9], [0, 9, 1.8], [1, 7, 0.9]]
    assert read == [1, 1, 1]


def test_a_target_that_was_prepared_anew_has_the_numbers_of_both_versions(tmp_path: Path) -> None:
    """The folder holds the new version's; rows.csv and the file of sums hold the old one's."""
    rows = folder(tmp_path)
    old = read_and_keep(tmp_path, rows)
    new = rows.assign(data="bbbb2222", mAP=[0.9, 0.9], rank1=[2 / 3, 0.0])
    QUERIES.assign(ap=0.9).to_csv(next(tmp_path.rglob("per_query.csv.gz")), index=False)
    for _ in range(2):
        found = read_and_keep(tmp_path, pd.concat([rows, new]))
        pd.testing.assert_frame_equal(found[found["data"] == "aaaa1111"], old)
        assert found.loc[found["data"] == "bbbb2222", "mAP"].tolist() == [1.8, 0.9, 0.9]
    with pytest.raises(RunError, match=r"the row says mAP 0\.48"):
        read_identities(tmp_path, pd.concat([rows, new.assign(mAP=0.48)]))


def test_a_mean_must_equal_its_per_query_numbers(tmp_path: Path) -> None:
    """Of folders without digests too, those of reidgen 0.1.0, and where only rows.csv and the sums are left."""
    rows = folder(tmp_path)
    read_and_keep(tmp_path, rows)
    words = r"snr.* on duke \(split 1\): the row says mAP 0.48 and Rank-1 0, its per-query numbers 0.125 and 0"
    changed = rows.assign(mAP=[7 / 12, 0.48])
    with pytest.raises(RunError, match=words + r"; reidgen evaluate .* --target duke makes it again"):
        read_identities(tmp_path, changed)
    with pytest.raises(RunError, match=r"results\.csv has lost the row of split 1 of duke; reidgen evaluate"):
        (tmp_path / FILE).unlink()
        read_identities(tmp_path, rows.iloc[:1])
    read_and_keep(tmp_path, rows)
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(RunError, match=words + "; restore rows.csv and identities.csv.gz .* from one copy"):
        read_identities(tmp_path, changed)
    both = pd.concat([rows, changed.assign(version="0.0.9")])  # of a run that was trained again with another version
    assert len(read_identities(tmp_path, both)) == 3


def test_a_file_of_sums_of_an_older_version_counts_where_the_folder_is_gone(tmp_path: Path) -> None:
    rows = folder(tmp_path)
    found = read_identities(tmp_path, rows)
    found.drop(columns="file").assign(mAP=found["mAP"]).to_csv(tmp_path / FILE, index=False, compression="gzip")
    older = found.drop(columns="file").assign(mAP=[0.0, 0.0, 0.0])
    older.to_csv(tmp_path / "stale.csv.gz", index=False, compression="gzip")
    (tmp_path / "stale.csv.gz").replace(tmp_path / FILE)
    pd.testing.assert_frame_equal(read_identities(tmp_path, rows), found)  # the folder is there: its numbers count
    found.drop(columns="file").to_csv(tmp_path / FILE, index=False, compression="gzip")
    shutil.rmtree(tmp_path / "runs")
    pd.testing.assert_frame_equal(read_identities(tmp_path, rows), found.assign(file=""))


def test_nothing_there_is_no_line(tmp_path: Path) -> None:
    assert read_identities(tmp_path, frame(row("snr", "duke"))).empty


@pytest.mark.parametrize("damage", [b"", b"no gzip", "half"])
@pytest.mark.parametrize("name", ["per_query.csv.gz", FILE])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: bytes | str) -> None:
    rows = folder(tmp_path)
    read_and_keep(tmp_path, rows)
    file = next(tmp_path.rglob(name))
    file.write_bytes(file.read_bytes()[:-20] if isinstance(damage, str) else damage)
    advice = r"is missing or damaged; reidgen evaluate .* makes it again \(the weights are good\)"
    if name == FILE:
        advice = "is not as it was written: damaged.*or remove it"
    with pytest.raises(RunError, match=f"{name} {advice}"):
        read_identities(tmp_path, rows)
    if name == FILE:
        (tmp_path / f"{FILE}.sha256").unlink()  # as in folders of reidgen 0.1.0
        with pytest.raises(RunError, match=f"{name} is missing or damaged; remove it"):
            read_identities(tmp_path, rows)
