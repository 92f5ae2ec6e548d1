"""What is stored is what was computed: each changed character and each cut is noticed, or changes no number."""

import gzip
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import SMALL, finish, seal
from tabled import frame, row
from test_prepare import crops
from typer.testing import CliRunner

from reidgen.cli import app
from reidgen.data.manifest import read_manifest
from reidgen.data.prepare import prepare
from reidgen.errors import ReidgenError, RunError
from reidgen.integrity import UNSEALED, seal_of, sealed, trailer, without_trailer, write_sealed
from reidgen.robustness.trials import KINDS, read_trials, write_trials
from reidgen.rows import disagreement, read_csv, to_csv, write_rows
from reidgen.runs import Run, read_rows

QUERIES = pd.DataFrame(
    {
        "target": "duke", "test": "plain", "split": [0, 0, 0, 1], "path": list("abcd"), "pid": [7, 7, 8, 7], "camid": 0,
        "ap": [1.0, 0.5, None, 0.125], "first_match": [1, 2, 0, 9], "inp": [1.0, 0.5, None, 0.1],
    }
)  # fmt: skip
ROWS = frame(
    row("snr", "duke", mAP=0.75, rank1=0.5, rank5=1, rank10=1, mINP=0.75, queries=3, unmatched=1, row="00000000"),
    row("snr", "duke", split=1, mAP=0.125, rank1=0, rank5=0, rank10=1, mINP=0.1, queries=1, row="00000000"),
)


NAME = "snr-tiny-s0-1a2b3c4d5e6f7788-00000000"


def write_run(results: Path) -> Run:
    """A finished run on duke, of two splits, as training and evaluation leave it."""
    run = Run(results / "runs" / "market" / NAME)
    run.folder.mkdir(parents=True)
    run.recipe_file.write_text(SMALL.to_toml())
    run.row_file.write_text(json.dumps(SMALL.row_facts()))
    run.weights.write_bytes(b"weights")
    run.log.write_text("epoch,loss\n1,2.5\n2,1.25\n")
    finish(run)
    run.write_results("duke", ROWS, QUERIES)
    return run


@pytest.fixture(scope="module")
def tabled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of that run, of which a table was made."""
    results = tmp_path_factory.mktemp("tabled")
    write_run(results)
    assert CliRunner().invoke(app, ["table", "--results", str(results)]).exit_code == 0
    return results


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path)


@pytest.fixture
def tabled_run(tabled: Path, tmp_path: Path) -> Run:
    """A copy of it, to write into."""
    shutil.copytree(tabled, tmp_path, dirs_exist_ok=True)
    return Run(tmp_path / "runs" / "market" / NAME)


def changes(content: bytes, step: int = 1) -> Iterator[bytes]:
    """Yield the content with one character changed, a digit into another, and cut at every length."""
    for place in range(0, len(content), step):
        other = content[place] ^ (1 if 48 <= content[place] < 58 else 4)
        yield content[:place] + bytes([other]) + content[place + 1 :]
        yield content[:place]


def test_no_changed_character_of_done_is_read(run: Run) -> None:
    facts, content = run.facts(), run.done.read_bytes()
    for damaged in changes(content):
        run.done.write_bytes(damaged)
        with pytest.raises(RunError, match=r"done is damaged or cannot be read.*restore it from a copy, or remove it"):
            run.facts()
    run.done.write_bytes(content)
    assert run.facts() == facts
    for key in facts:
        run.done.write_text(json.dumps({name: value for name, value in facts.items() if name != key}))
        with pytest.raises(RunError, match="done is damaged"):
            run.facts()
    for content in (b"[]", b"3", b"[" * 100_000, b"\xff"):
        run.done.write_bytes(content)
        with pytest.raises(RunError, match="done is damaged"):
            run.facts()


def test_no_changed_byte_of_weights_or_recipe_is_read(run: Run) -> None:
    for file, read, words in (
        (run.weights, run.sound_weights, r"weights\.safetensors is damaged.*restore it from a copy, or remove .*done"),
        (run.recipe_file, run.recipe, r"recipe\.toml is not the recipe that this run was trained with; restore it"),
        (run.row_file, run.method, r"row\.json is not the row that this run was trained with; restore it"),
    ):
        content = file.read_bytes()
        for damaged in changes(content, step=5):
            file.write_bytes(damaged)
            with pytest.raises(RunError, match=words):
                read()
        file.write_bytes(content)
        read()
        file.unlink()
        with pytest.raises(RunError, match=r"is missing|has lost"):
            read()
        file.write_bytes(content)
    run.recipe_file.write_bytes(run.recipe_file.read_bytes().replace(b"\n", b"\r\n"))  # of a checkout on Windows
    run.recipe()


def test_results_of_another_run_are_none_of_this_one(run: Run) -> None:
    """Copied with their seal, so that nothing is damaged; what was measured is another network."""
    digest = ROWS["data"].iloc[0]
    assert run.evaluated("duke", digest)
    for other in ({"seed": 1}, {"hash": "0" * 16}, {"row": "11111111"}):
        run.write_results("duke", ROWS.assign(**other), QUERIES.drop(columns=["target", "test"]))
        assert not run.evaluated("duke", digest)
    run.write_results("duke", ROWS, QUERIES.drop(columns=["target", "test"]))
    assert run.evaluated("duke", digest)


def test_no_changed_character_of_a_log_is_read(run: Run) -> None:
    content = run.log.read_bytes()
    assert run.training_log()["loss"].tolist() == [2.5, 1.25]
    for damaged in changes(content):
        run.log.write_bytes(damaged)
        with pytest.raises(RunError, match=r"log\.csv is missing or damaged; .* the weights and results are good"):
            run.training_log()


def test_no_changed_character_of_results_is_read_and_all_are_made_again(run: Run) -> None:
    content, digest = run.results.read_bytes(), ROWS["data"].iloc[0]
    assert run.evaluated("duke", digest) and not run.evaluated("duke", "other") and not run.evaluated("pku", digest)
    for damaged in changes(content, step=3):
        run.results.write_bytes(damaged)
        assert not run.evaluated("duke", digest)
        with pytest.raises(
            RunError, match=r"results\.csv is not as it was written.*reidgen evaluate .* makes it again"
        ):
            read_rows(run.folder.parents[2])
    run.write_results("duke", ROWS, QUERIES)
    assert run.results.read_bytes() == content and run.evaluated("duke", digest)


def test_no_changed_byte_of_per_query_numbers_is_read_and_all_are_made_again(run: Run) -> None:
    content, digest = run.per_query.read_bytes(), ROWS["data"].iloc[0]
    for damaged in changes(content, step=3):
        run.per_query.write_bytes(damaged)
        assert not run.evaluated("duke", digest)
        with pytest.raises(
            RunError, match=r"per_query.* is missing or damaged; reidgen evaluate .* --target duke makes"
        ):
            run.queries()
    run.write_results("duke", ROWS, QUERIES)
    assert run.per_query.read_bytes() == content and run.evaluated("duke", digest)


NOW = ROWS.assign(version="0.2.0")


@pytest.mark.parametrize("lost", [("seal",), ("seal", "per_query.csv.gz")])
@pytest.mark.parametrize("edited", [False, True])
def test_results_that_have_lost_their_seal_are_damaged_and_made_again(
    run: Run, lost: tuple[str, ...], edited: bool
) -> None:
    run.write_results("duke", NOW, QUERIES)
    for name in lost:
        (seal_of(run.results) if name == "seal" else run.folder / name).unlink()
    if edited:
        run.results.write_text(to_csv(NOW.assign(mAP=0.48)))
    assert not run.evaluated("duke", NOW["data"].iloc[0])
    words = r"has no results\.csv\.sha256 beside it, as reidgen writes it.*reidgen evaluate .* --target duke makes"
    with pytest.raises(RunError, match=words):
        read_rows(run.folder.parents[2])
    result = CliRunner().invoke(app, ["table", "--results", str(run.folder.parents[2])])
    assert result.exit_code == 1 and "has no results.csv.sha256" in result.output
    run.write_results("pku", NOW.assign(target="pku"), QUERIES.assign(target="pku"))
    assert set(read_rows(run.folder.parents[2])["target"]) == {"pku"}  # what was not believed got no seal
    run.write_results("duke", NOW, QUERIES)
    assert set(read_rows(run.folder.parents[2])["target"]) == {"duke", "pku"}


def test_the_results_of_another_run_are_not_this_ones(tmp_path: Path) -> None:
    """Copied whole: rows, per-query numbers and their seal, as by a careless script."""
    runs = [Run(tmp_path / "runs" / "market" / f"snr-tiny-s{seed}-0a0b0c0d-11112222") for seed in (0, 1)]
    for seed, one in enumerate(runs):
        one.folder.mkdir(parents=True)
        one.write_results("duke", NOW.assign(seed=seed, hash="0a0b0c0d", row="11112222"), QUERIES)
    assert len(read_rows(tmp_path)) == len(NOW) * 2
    for file in runs[0].folder.iterdir():
        shutil.copy(file, runs[1].folder)
    with pytest.raises(RunError, match=r"s1-.*results\.csv holds the results of another run"):
        read_rows(tmp_path)
    digest = NOW["data"].iloc[0]
    assert runs[0].evaluated("duke", digest) and not runs[1].evaluated("duke", digest)
    runs[1].write_results("duke", NOW.assign(seed=1, hash="0a0b0c0d", row="11112222"), QUERIES)
    assert len(read_rows(tmp_path)) == len(NOW) * 2 and runs[1].evaluated("duke", digest)


def test_published_rows_without_their_seal_are_damaged_and_a_user_can_vouch_for_them(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    file = folder / "rows.csv"
    write_rows(file, pd.concat([ROWS, NOW]))
    seal_of(file).unlink()
    with pytest.raises(RunError, match=r"rows\.csv has no rows\.csv\.sha256 .* if it is right as it is: ") as caught:
        read_rows(folder)
    subprocess.run(str(caught.value).partition("as it is: ")[2], shell=True, check=True)
    assert len(read_rows(folder)) == 4


def test_a_folder_of_the_version_without_seals_must_agree_with_itself(run: Run) -> None:
    assert set(ROWS["version"]) == {UNSEALED}
    results = run.folder.parents[2]
    seal_of(run.results).unlink()
    assert len(read_rows(results)) == 2
    for name in ("mAP", "mINP", "rank1", "rank5", "rank10", "queries", "unmatched"):
        changed = ROWS.assign(**{name: [ROWS[name][0], 3 if name in ("queries", "unmatched") else 0.48]})
        run.results.write_text(to_csv(changed))
        with pytest.raises(RunError, match=rf"{name} of duke \(split 1\) is .*; restore both files from one copy"):
            read_rows(results)
    run.results.write_text(to_csv(ROWS.iloc[:1]))
    with pytest.raises(RunError, match="split 1 of duke has no row"):
        read_rows(results)
    assert disagreement(ROWS, QUERIES.iloc[:3]) == "split 1 of duke has no per-query numbers"
    run.per_query.unlink()
    assert len(read_rows(results)) == 1  # nothing is left that could tell


def test_a_kill_between_two_files_costs_nothing_but_this_target(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each of the renames: the seal, the numbers, the rows, the seal, of a new target and of one again."""
    run.write_results("duke", NOW, QUERIES)
    digest, results, rename = NOW["data"].iloc[0], run.folder.parents[2], Path.replace
    other, queries = NOW.assign(target="pku"), QUERIES.assign(target="pku")
    for again in (False, True):
        for last in range(8 if again else 4):
            renames = iter(range(last))

            def kill(self: Path, target: Path, renames: Iterator[int] = renames) -> Path:
                if next(renames, None) is None:
                    raise KeyboardInterrupt
                return rename(self, target)

            with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
                context.setattr(Path, "replace", kill)
                run.write_results("pku", other.assign(mAP=0.5) if again else other, queries.assign(ap=0.5))
            assert run.evaluated("duke", digest)
            there = read_rows(results)
            assert set(there["target"]) >= {"duke"} and set(there["target"]) <= {"duke", "pku"}
            if "pku" in set(there["target"]):  # the rows are those of the numbers
                mean = run.queries()[run.queries()["target"] == "pku"]["ap"].iloc[3]
                assert (there[there["target"] == "pku"]["mAP"].iloc[1] == 0.5) == (mean == 0.5) or not again
            run.write_results("pku", other, queries)
            assert run.evaluated("pku", digest)


def test_a_file_that_is_rewritten_is_proven_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that had no seal, as of reidgen 0.1.0; and a reader meets the old one or the new one, never none."""
    file, rename = tmp_path / "rows.csv", Path.replace
    file.write_text("old")

    def look(self: Path, target: Path) -> Path:
        assert sealed(file) in (None, True)
        moved = rename(self, target)
        assert sealed(file)
        return moved

    monkeypatch.setattr(Path, "replace", look)
    write_sealed(file, b"new")
    write_sealed(file, b"newer")
    assert file.read_bytes() == b"newer" and len(seal_of(file).read_text().splitlines()) == 1
    times = seal_of(file).stat().st_mtime_ns, file.stat().st_mtime_ns
    write_sealed(file, b"newer")
    assert (seal_of(file).stat().st_mtime_ns, file.stat().st_mtime_ns) == times
    file.write_text("old")
    assert sealed(file) is False


@pytest.mark.parametrize("kind", list(KINDS))
def test_trials_that_have_lost_their_seal_are_damaged(kind: str, tmp_path: Path) -> None:
    blank = {"str": "x", "int64": 0, "float64": 0.5}
    rows = pd.DataFrame([{name: blank[dtype] for name, dtype in KINDS[kind].items()}])
    file = tmp_path / "runs" / "market" / "snr-tiny-s0-0-0" / f"{kind}.csv"
    for version in ("0.2.0", "9.9"):
        write_trials(file, rows.assign(version=version), kind)
        assert len(read_trials(file, kind)) == 1
        seal_of(file).unlink()
        for content in (file.read_text(), file.read_text().replace("0.5", "0.48")):
            file.write_text(content)
            words = rf"{kind}\.csv has no {kind}\.csv\.sha256 .*or move it away and repeat: reidgen {kind}"
            with pytest.raises(RunError, match=words):
                read_trials(file, kind)
        result = CliRunner().invoke(app, ["table", kind, "--results", str(tmp_path)])
        assert result.exit_code == 1 and "has no" in result.output
    older = rows.drop(columns=["title", "row"]).assign(version=UNSEALED)
    older.to_csv(file, index=False)
    assert read_trials(file, kind)[["title", "row"]].to_numpy().tolist() == [["", ""]]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(("column", "value"), [("mAP", 1.5), ("rank1", -0.25), ("queries", -1)])
def test_trials_that_cannot_be_are_refused(kind: str, column: str, value: float, tmp_path: Path) -> None:
    blank = {"str": "x", "int64": 0, "float64": 0.5}
    rows = pd.DataFrame([{name: blank[dtype] for name, dtype in KINDS[kind].items()}])
    write_trials(tmp_path / "a.csv", rows.assign(drop=-0.5, mAP_se=float("nan")), kind)  # these can
    assert len(read_trials(tmp_path / "a.csv", kind)) == 1
    write_trials(tmp_path / "b.csv", rows.assign(**{column: value}), kind)
    words = {
        "mAP": "mAP = 1.5, which is no fraction",
        "rank1": "rank1 = -0.25, which is no fraction",
        "queries": "queries = -1",
    }
    with pytest.raises(RunError, match=rf"b\.csv holds {words[column]}; restore it .* repeat: reidgen {kind}"):
        read_trials(tmp_path / "b.csv", kind)


def test_sums_of_identities_that_have_lost_their_seal_are_damaged(tabled_run: Run, tmp_path: Path) -> None:
    seal_of(tmp_path / "identities.csv.gz").unlink()
    result = CliRunner().invoke(app, ["table", "--results", str(tmp_path)])
    assert result.exit_code == 1 and "identities.csv.gz has no identities.csv.gz.sha256" in result.output


def test_rows_that_table_wrote_are_checked_and_others_are_read_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    write_rows(file, ROWS)
    pd.testing.assert_frame_equal(read_csv(file), ROWS)
    content = file.read_bytes()
    for damaged in changes(content, step=3):
        file.write_bytes(damaged)
        with pytest.raises(
            RunError, match=r"rows\.csv is not as it was written.*sha256sum rows\.csv > rows\.csv\.sha256"
        ):
            read_rows(tmp_path)
    file.write_bytes(content.replace(b"\n", b"\r\n"))
    assert len(read_rows(tmp_path)) == 2
    seal_of(file).unlink()
    file.write_text(to_csv(ROWS.assign(mAP=0.48)))
    assert read_rows(tmp_path)["mAP"].tolist() == [0.48, 0.48]
    lines = to_csv(ROWS).splitlines()
    for text, words in (
        (
            "\n".join([*lines[:2], lines[2][: len(lines[2]) // 2]]),
            "damaged or holds no result rows|a line that was cut",
        ),
        (to_csv(ROWS.assign(mAP=48.0)), "mAP = 48, which is no fraction"),
        (to_csv(ROWS.assign(queries=-1)), "queries = -1"),
        ("a,b\n", "damaged or holds no result rows"),
    ):
        file.write_text(text)
        with pytest.raises(RunError, match=words):
            read_rows(tmp_path)


def test_table_twice_on_an_unchanged_folder_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    def made() -> dict[str, bytes]:
        result = CliRunner().invoke(app, ["table", "--results", str(tmp_path)])
        assert result.exit_code == 0, result.output
        return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    first = made()
    assert {"rows.csv", "rows.csv.sha256", "identities.csv.gz", "identities.csv.gz.sha256", "table.md"} <= set(first)
    assert made() == first
    (tmp_path / "identities.csv.gz").unlink()
    assert made() == first
    shutil.rmtree(tmp_path / "runs")
    assert made() == first


def test_no_changed_character_of_a_manifest_is_read(tmp_path: Path) -> None:
    mine = prepare("mine", data=tmp_path / "data", source=crops(tmp_path / "crops"))
    file = mine.folder / "manifest.json"
    content, whole = file.read_bytes(), read_manifest("mine", tmp_path / "data")
    for damaged in changes(content, step=11):
        file.write_bytes(damaged)
        try:
            assert read_manifest("mine", tmp_path / "data") == whole  # a blank between two values
        except (ReidgenError, ValueError, KeyError, TypeError):
            continue


def test_a_seal_is_what_sha256sum_reads(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "a.csv").write_text("x\n")
    assert sealed(tmp_path / "a.csv") is None
    seal(tmp_path / "a.csv")
    assert seal_of(tmp_path / "a.csv").read_text() == f"{hashlib.sha256(b'x' + bytes([10])).hexdigest()}  a.csv\n"
    assert sealed(tmp_path / "a.csv") and sealed(tmp_path / "b.csv", by=tmp_path / "a.csv") is False
    content = bytes(range(100))
    assert without_trailer(content + trailer(content)) == content
    assert without_trailer(b"") is None and without_trailer(content) is None


@pytest.mark.parametrize("name", ["results.csv", "per_query.csv.gz", "done", "recipe.toml", "weights.safetensors"])
def test_a_file_that_cannot_be_read_is_one_sentence(run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: a test may run as root, whom no permission stops."""
    real = io.open

    def refuse(file: object, *args: object, **kwargs: object) -> object:
        if Path(str(file)).name == name:
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *args, **kwargs)  # type: ignore[call-overload]

    by_number = os.open

    def refuse_number(file: object, *args: int, **kwargs: int) -> int:
        if Path(str(file)).name == name:
            raise PermissionError(13, "Permission denied", str(file))
        return by_number(file, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse_number)
    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    reads = {
        "results.csv": run.own_rows,
        "per_query.csv.gz": run.queries,
        "done": run.facts,
        "recipe.toml": run.recipe,
        "weights.safetensors": run.sound_weights,
    }
    with pytest.raises(RunError):
        reads[name]()
    assert run.evaluated("duke", ROWS["data"].iloc[0]) == (name not in ("results.csv", "per_query.csv.gz"))


def test_sums_of_two_identities_that_were_exchanged_are_not_read(tabled_run: Run, tmp_path: Path) -> None:
    """The mean stays, its interval would not."""
    file = tmp_path / "identities.csv.gz"
    sums = pd.read_csv(file, dtype="str", keep_default_na=False)
    first = sums[sums["split"] == "0"].index[:2]
    sums.loc[first, "pid"] = sums.loc[first[::-1], "pid"].to_numpy()
    content = file.read_bytes()
    file.write_bytes(gzip.compress(sums.to_csv(index=False).encode()))
    result = CliRunner().invoke(app, ["table", "--results", str(tmp_path)])
    assert result.exit_code == 1 and "identities.csv.gz is not as it was written" in result.output
    file.write_bytes(content)
    assert CliRunner().invoke(app, ["table", "--results", str(tmp_path)]).exit_code == 0


@pytest.mark.parametrize("name", ["manifest.json", "row.json", "claim", "point-10.json", "recipe.toml"])
def test_lists_in_lists_in_any_stored_file_are_no_traceback(name: str, tmp_path: Path) -> None:
    from reidgen.data.manifest import load_prepared
    from reidgen.locks import Holder
    from reidgen.robustness.attack import _kept_pattern
    from reidgen.tables.settings import read_settings

    file = tmp_path / "runs" / "market" / "snr-tiny-s0-1a2b3c4d-00000000" / name
    file.parent.mkdir(parents=True)
    file.write_text(("a = " if name.endswith("toml") else "") + "[" * 100_000)
    if name == "claim":
        assert Holder.read(file) is None
    elif name == "point-10.json":
        assert _kept_pattern(file, file, {}) is None
        file.unlink()
        os.mkfifo(file)
        assert _kept_pattern(file, file, {}) is None  # and is not waited for
    elif name == "recipe.toml":
        assert read_settings(tmp_path, ROWS.assign(source="market", hash="1a2b3c4d")) == {}
    else:
        with pytest.raises(ReidgenError, match=name):
            load_prepared(file.parent.name, file.parents[1]) if name == "manifest.json" else Run(file.parent).method()


@pytest.mark.parametrize("how", ["link", "folder", "pipe", "device"])
@pytest.mark.parametrize(
    "name", ["rows.csv", "identities.csv.gz", "results.csv", "per_query.csv.gz", "stress.csv", "stress-rows.csv"]
)
def test_what_is_no_file_is_no_absent_file(name: str, how: str, tabled_run: Run, tmp_path: Path) -> None:
    """Before, numbers or marks went missing without a word."""
    home = tabled_run.folder if name in ("results.csv", "per_query.csv.gz", "stress.csv") else tmp_path
    (home / name).unlink(missing_ok=True)
    {
        "link": lambda: (home / name).symlink_to(name),
        "folder": (home / name).mkdir,
        "pipe": lambda: os.mkfifo(home / name),
        "device": lambda: (home / name).symlink_to("/dev/zero"),
    }[how]()
    words = ["table", "stress"] if name.startswith("stress") else ["table"]
    result = CliRunner().invoke(app, [*words, "--results", str(tmp_path)])
    assert result.exit_code == 1 and f"{name} is no plain file, or a link to nowhere" in " ".join(result.output.split())


def test_a_pipe_in_the_place_of_a_log_or_a_recipe_is_not_waited_for(run: Run, tmp_path: Path) -> None:
    for file in (run.log, run.recipe_file):
        file.unlink()
        os.mkfifo(file)
    with pytest.raises(RunError, match="is missing or damaged"):
        run.training_log()
    assert CliRunner().invoke(app, ["table", "--results", str(tmp_path)]).exit_code == 0


def test_a_file_is_read_anew_when_it_has_changed_and_its_rows_are_the_readers_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, ROWS)
    first = read_csv(path)
    first.loc[0, "mAP"] = 0.0
    assert read_csv(path)["mAP"].tolist() == ROWS["mAP"].tolist()
    write_rows(path, ROWS.assign(mAP=[0.25, 0.5]))
    assert read_csv(path)["mAP"].tolist() == [0.25, 0.5]


def test_rows_whose_run_folder_is_gone_are_said_beside_those_that_have_one(run: Run) -> None:
    results = run.folder.parents[2]
    rows = read_rows(results)
    write_rows(results / "rows.csv", pd.concat([rows, rows.assign(seed=7)]))
    words = ["table", "--results", str(results)]
    said = CliRunner().invoke(app, words).output
    assert f"note: {len(rows)} rows of 1 run whose folders are not here: market/snr-tiny-s7-" in said
    shutil.rmtree(results / "runs")
    assert "whose folders are not here" not in CliRunner().invoke(app, words).output  # a published folder has none
