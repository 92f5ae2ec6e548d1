"""How far a grid is: told from the results folder alone, for one bench, for many, and for jobs of a cluster."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import SMALL, finish, grid_toml
from tabled import frame, row
from typer.testing import CliRunner

from reidgen import cluster, jobs, locks, status
from reidgen.cli import app
from reidgen.cluster import missing, wait_for
from reidgen.commands.cluster import _grid
from reidgen.errors import RunError
from reidgen.jobs import new_plan, submitted
from reidgen.locks import Holder, hold
from reidgen.planning import Cell, plan_cells
from reidgen.rows import COLUMNS, to_csv
from reidgen.runs import Run
from reidgen.status import LOG, counts, failure_mark, note_failure, note_refused, read_failure, states


@pytest.fixture
def cells(small_data: Path, tmp_path: Path) -> list[Cell]:
    """Four cells on synth-night, of which nothing is there yet."""
    return plan_cells(SMALL, methods=["baseline", "snr"], seeds=[0, 1], data=small_data, results=tmp_path / "results",
                      protocol=None, targets=["synth-night"], say=print)  # fmt: skip


def trained(cell: Cell, *, rows: bool = True, **changes: object) -> Run:
    """Leave what a training and an evaluation leave."""
    run = cell.run
    run.folder.mkdir(parents=True, exist_ok=True)
    run.recipe_file.write_text(cell.recipe.to_toml())
    run.row_file.write_text("{}")
    run.weights.write_bytes(b"")
    finish(run)
    if rows:
        one = row(cell.recipe.method, "synth-night", data=cell.targets["synth-night"][:8]) | changes
        run.results.write_text(to_csv(frame(one)[list(COLUMNS)]))
    return run


def states_of(cells: list[Cell], tmp_path: Path) -> list[str]:
    return [one.state for one in states(cells, tmp_path / "results")]


def test_a_cell_is_done_when_it_has_rows_of_what_is_there_now(cells: list[Cell], tmp_path: Path) -> None:
    assert states_of(cells, tmp_path) == ["to do"] * 4
    trained(cells[0])
    trained(cells[1], rows=False)
    trained(cells[2], data="00000000")  # of an older version of the target
    trained(cells[3], test="flip")
    assert states_of(cells, tmp_path) == ["done", "to do", "to do", "to do"]
    note_refused(cells[2].run, {"synth-night": cells[2].targets["synth-night"]})
    assert states_of(cells, tmp_path) == ["done", "to do", "done", "to do"]
    cells[0].run.results.write_bytes(b"\0\xff")
    assert states_of(cells, tmp_path)[0] == "to do"


def test_who_is_at_a_cell_is_told(cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.001)
    with cells[1].run.lock():
        report = cells[1].run.telling(lambda what, done, total: None)
        report("SNR s0, epoch 2/4, loss 2.31, 410 images/s", 50, 100)
        while not (found := states(cells, tmp_path / "results"))[1].doing:
            pass
    one = found[1]
    assert one.state == "running" and one.images_per_s == 410 and one.share == pytest.approx(0.45)
    assert one.host == Holder.here().host and one.since and one.json()["seconds_left"] is None
    assert counts(found) == "4 cells: 1 running, 3 to do"
    assert states_of(cells, tmp_path) == ["to do"] * 4  # of a claim that was given back


def test_a_dead_worker_s_cell_is_to_do_again(cells: list[Cell], tmp_path: Path) -> None:
    folder = cells[0].run.folder / locks.CLAIM
    folder.mkdir(parents=True)
    (folder / "1").write_text(json.dumps(asdict(replace(Holder.here(), process=2**22 + 5))))
    assert states_of(cells, tmp_path)[0] == "to do"


def test_a_failure_is_kept_with_its_sentence_and_log(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cells[0].run
    assert failure_mark(run) == 0 and read_failure(run) is None
    monkeypatch.setenv(LOG, "/logs/12_3_0_log.err")
    note_failure(run, RunError("the loss is not finite at step 7"))
    one = states(cells, tmp_path / "results")[0]
    assert (one.state, one.sentence, one.log) == ("failed", "the loss is not finite at step 7", "/logs/12_3_0_log.err")
    assert failure_mark(run) > 0
    (run.folder / "failed").write_text("[" * 100_000)
    assert read_failure(run) is None
    trained(cells[0])
    assert states_of(cells, tmp_path)[0] == "done"


def fake_squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Put a squeue on the path that answers so."""
    folder.mkdir(exist_ok=True)
    text = "".join(f"print({line!r})\n" for line in lines)
    (folder / "squeue").write_text(f"#!{sys.executable}\n{text}")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_what_waits_in_the_queue_is_queued_and_what_left_it_without_a_word_failed(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_failure(cells[0].run, RunError("of an earlier try"))
    plan = new_plan(tmp_path / "results", "slurm", [cell.run.folder for cell in cells])
    plan.write()
    fake_squeue(tmp_path / "bin", monkeypatch, f"7_0|{plan.name}", f"7_1|{plan.name}", "8_2|another")
    (plan.folder / "7_2_0_log.err").touch()  # it began
    found = states(cells, tmp_path / "results")
    assert [one.state for one in found] == ["queued", "queued", "failed", "to do"]
    assert found[1].job == "7_1" and "its job 7_2 ended without a word" in found[2].sentence
    assert found[2].log == str(plan.folder.resolve() / "7_2_0_log.err")
    later = new_plan(tmp_path / "results", "slurm", [cells[2].run.folder])  # it was submitted once more
    later.write()
    fake_squeue(tmp_path / "bin", monkeypatch, f"7_0|{plan.name}", f"9|{later.name}")
    assert states_of(cells, tmp_path) == ["queued", "to do", "queued", "to do"]
    monkeypatch.setenv("PATH", "")  # no squeue here: nobody knows
    found = states(cells, tmp_path / "results")
    assert [(one.state, one.sure) for one in found] == [("failed", True), *[("queued", False)] * 3]
    assert counts(found) == "4 cells: 3 queued, 1 failed (3 of the queued unknown: squeue does not answer here)"
    assert len(missing(found)) == 1 and missing(found, "local") == cells  # whose claims divide them
    taken = new_plan(tmp_path / "results", "local", [cells[3].run.folder])
    replace(taken, workers=(Holder.here(),)).write()
    assert [one.sure for one in states(cells, tmp_path / "results")] == [True, False, False, True]
    replace(taken, workers=(replace(Holder.here(), process=2**22 + 5),)).write()
    assert states_of(cells, tmp_path)[3] == "to do"  # its worker has ended: that is known
    (taken.folder / "plan.json").unlink()
    (plan.folder / "plan.json").write_text("[" * 100_000)
    assert cells[3].run.folder.resolve() not in submitted(tmp_path / "results")


def test_what_living_workers_have_before_them_is_queued(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_failure(cells[1].run, RunError("of an earlier try"))
    plan = new_plan(tmp_path / "results", "local", [cell.run.folder for cell in cells[:2]])
    replace(plan, workers=(replace(Holder.here(), process=2**22 + 5), Holder.here())).write()
    assert states_of(cells, tmp_path) == ["queued", "queued", "to do", "to do"]
    monkeypatch.setattr(status, "now", lambda: "9999-01-01T00:00:00Z")
    note_failure(cells[0].run, RunError("the loss is not finite"))  # of one of these workers, which has gone on
    assert states_of(cells, tmp_path) == ["failed", "queued", "to do", "to do"]
    (cells[0].run.folder / "failed").unlink()
    (cells[1].run.folder / "failed").unlink()
    replace(plan, workers=(replace(Holder.here(), process=2**22 + 5),)).write()
    assert states_of(cells, tmp_path) == ["to do"] * 4


def test_a_queue_that_nobody_can_ask_is_not_waited_for_without_end(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one that answers again is."""
    monkeypatch.setattr(cluster, "POLL", 0.0)
    monkeypatch.setattr(cluster, "UNSURE", 0.0)
    new_plan(tmp_path / "results", "slurm", [cell.run.folder for cell in cells]).write()
    monkeypatch.setenv("PATH", "")
    said: list[str] = []
    found = wait_for(cells, tmp_path / "results", lambda what, done, total: said.append(what))
    assert [one.sure for one in found] == [False] * 4 and "squeue does not answer here" in said[0]
    assert "nobody can tell whether its job still waits" in _grid(found).failures[0].sentence
    answers: list[dict[str, str] | None] = [{}, None]
    monkeypatch.setattr(cluster, "UNSURE", 60.0)
    monkeypatch.setattr(jobs, "_queue", lambda names: answers.pop())
    found = wait_for(cells, tmp_path / "results", lambda what, done, total: None)
    assert [one.state for one in found] == ["to do"] * 4 and not answers


def test_the_command_tells_it(small_data: Path, cells: list[Cell], tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(grid_toml(SMALL))
    words = ["bench", "--methods", "baseline,snr", "--seeds", "2", "--recipe", str(tmp_path / "small.toml")]
    words += ["--target", "synth-night", "--data", str(small_data), "--results", str(tmp_path / "results"), "--status"]
    trained(cells[0])
    note_failure(cells[3].run, RunError("the loss is not finite"))
    with hold(cells[1].run.folder):
        told = CliRunner().invoke(app, words)
        document = CliRunner().invoke(app, [*words, "--json"])
    assert told.exit_code == 0, told.output
    assert "4 cells: 1 done, 1 running, 1 to do, 1 failed" in told.output
    assert "synth-plaza: snr s1 failed: the loss is not finite" in told.output
    assert "--methods snr --seeds 1," in told.output and "--status" not in told.output
    found = json.loads(document.stdout)
    assert [one["state"] for one in found["cells"]] == ["done", "running", "to do", "failed"]
    assert found["cells"][3]["sentence"] == "the loss is not finite" and found["cells"][1]["host"]
    assert all(set(one) == set(found["cells"][0]) for one in found["cells"])


def test_json_and_the_options_of_a_cluster_say_when_they_do_nothing() -> None:
    for words, message in {
        ("--json",): "--json goes with --status",
        ("--wait",): "--wait goes with --on",
        ("--gpus", "4", "--hours", "2"): "--gpus --hours goes with --on",
        ("--on", "pbs"): "--on pbs: give slurm, local or a TOML file with a table [cluster]",
    }.items():
        result = CliRunner().invoke(app, ["bench", "--source", "synth-plaza", *words])
        assert result.exit_code == 1 and message in result.output, (words, result.output)


def test_names_in_the_queue_are_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(jobs, "_queue", lambda names: asked.append(list(names)) or {})
    for _ in range(3):
        new_plan(tmp_path, "slurm", []).write()
    submitted(tmp_path)
    assert len(asked) == 1 and len(asked[0]) == 3
