"""One grid, many workers: processes on one folder, workers and torchrun through submitit, and where it is followed."""

import os
import re
import signal
import sys
import textwrap
import threading
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import warm
from conftest import SMALL, grid_toml, quiet
from typer.testing import CliRunner

from reidgen import grid, status, tracking, training
from reidgen.cli import app
from reidgen.cluster import Cluster, Work, missing, read_cluster, submit, wait_for
from reidgen.errors import BusyError, RecipeError, RunError
from reidgen.grid import FailedElsewhereError, bench
from reidgen.locks import held_here
from reidgen.planning import Cell, plan_cells
from reidgen.runs import Run, read_rows
from reidgen.stopping import stop_signals
from reidgen.together import train_together
from reidgen.training import train

# Long enough to be killed in the midst of it.
SHORT = 'base = "quick"\nidentities = 4\nimages = 2\nbatches_per_epoch = 4\nepochs = 2\nheight = 32\nwidth = 16\n'
SCRIPTS = Path(__file__).parents[1] / "scripts"


def planned(data: Path, results: Path, methods: list[str], seeds: int = 1, **changes: Any) -> list[Cell]:
    recipe = SMALL.change(epochs=1, batches_per_epoch=1, **changes)
    return plan_cells(recipe, methods=methods, seeds=range(seeds), data=data, results=results, protocol=None,
                      targets=["synth-night"], say=print)  # fmt: skip


def test_two_benches_on_one_folder_train_each_cell_once(small_data: Path, tmp_path: Path) -> None:
    """A short run of scripts/prove_claims.py."""
    short = "prove_claims.PROCESSES = (2,); prove_claims.METHODS = 'baseline,in'; prove_claims.CELLS = 2; "
    short += f"prove_claims.SEEDS = 1; prove_claims.PAUSE = (0.1, 0.5); prove_claims.RECIPE = {SHORT!r}"
    warm.proof(tmp_path, small_data, "prove_claims", short, "2")
    rows = pd.read_csv(tmp_path / "claims.csv")
    assert rows["kills"].tolist() == [2] and rows["trained twice"].tolist() == [0]


def test_a_simulated_grid_loses_no_cell_and_does_none_twice(small_data: Path, tmp_path: Path) -> None:
    """A short run of scripts/prove_grid.py."""
    short = "prove_grid.TABLES = 1; prove_grid.CLAIMS = 20"
    warm.proof(tmp_path, small_data, "prove_grid", short, "40", "4", "2")
    row = pd.read_csv(tmp_path / "grid.csv").iloc[0]
    assert (row["cells"], row["lost"], row["kills"]) == (40, 0, 2)


def test_what_failed_in_another_process_meanwhile_is_not_tried_again(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But what had failed before the grid began is."""
    cells = planned(small_data, tmp_path, ["baseline", "in"])
    status.note_failure(cells[0].run, RunError("long ago"))
    real, tried = grid.train, list[str]()

    def fail(recipe: Any, **rest: Any) -> Run:
        tried.append(recipe.method)
        if recipe.method == "baseline":
            status.note_failure(cells[1].run, RunError("just now, elsewhere"))
            return real(recipe, **rest)
        raise AssertionError

    monkeypatch.setattr(grid, "train", fail)
    said: list[str] = []
    left = grid.work_off(cells, data=small_data, results=tmp_path, devices=["cpu"], report=quiet, say=said.append)
    assert tried == ["baseline"] and [one.sentence for one in left] == ["just now, elsewhere"]
    assert status.read_failure(cells[0].run) is None and issubclass(FailedElsewhereError, RunError)
    assert status.read_failure(cells[1].run)


def test_who_was_taken_over_notes_no_failure(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cell is put off as one that another process holds."""
    (cell,) = planned(small_data, tmp_path, ["baseline"])

    def fail(*_: object, **__: object) -> Run:
        claim = held_here(cell.run.folder)
        assert claim
        claim.file.with_name("2").touch()
        raise RunError("its files were changed meanwhile")

    monkeypatch.setattr(grid, "train", fail)
    with pytest.raises(BusyError, match="another process has taken over"):
        grid._run(cell, "cpu", data=small_data, results=tmp_path)
    assert status.read_failure(cell.run) is None


def test_a_scheduler_s_warning_does_not_kill_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process answers it, and then ends torchrun gently."""
    run, python = Run(tmp_path / "run"), tmp_path / "python"
    run.folder.mkdir()
    python.write_text(f"#!/bin/sh\nkill -USR1 $$\nkill -USR2 $$\n: > {run.done}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    train_together(SMALL, run, 2, data=tmp_path, results=tmp_path, device="cpu", log=())
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # of this process


def test_a_failed_cell_leaves_its_sentence_and_goes_when_it_succeeds(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go() -> grid.Grid:
        return bench(SMALL.change(epochs=1, batches_per_epoch=1), methods=["baseline"], seeds=[0], data=small_data,
                     results=tmp_path, targets=["synth-night"], device="cpu", report=quiet, say=print)  # fmt: skip

    def fail(*_: object, **__: object) -> Run:
        raise RunError("the loss is not finite")

    (cell,) = planned(small_data, tmp_path, ["baseline"])
    with monkeypatch.context() as patch:
        patch.setattr(grid, "train", fail)
        assert go().failures
    (one,) = status.states([cell], tmp_path)
    assert (one.state, one.sentence) == ("failed", "the loss is not finite") and missing([one]) == [cell]
    assert not go().failures
    (one,) = status.states([cell], tmp_path)
    assert one.state == "done" and status.read_failure(cell.run) is None


def test_a_refused_target_leaves_no_cell_to_do(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reidgen.errors import SharedImagesError

    def refuse(*_: object, **__: object) -> pd.DataFrame:
        raise SharedImagesError("it shares images")

    monkeypatch.setattr(grid, "evaluate", refuse)
    cells = planned(small_data, tmp_path, ["baseline"])
    assert not grid.work_off(cells, data=small_data, results=tmp_path, devices=["cpu"], report=quiet, say=print)
    assert [one.state for one in status.states(cells, tmp_path)] == ["done"]


@pytest.mark.parametrize(("gpus", "methods"), [(1, ["baseline", "in"]), (2, ["in"])], ids=["alone", "torchrun"])
def test_workers_of_submitit_do_what_bench_does(
    gpus: int, methods: list[str], small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `--on local`: what was started is not started again while it lives; then the same rows, from workers."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("reidgen.cluster.POLL", 0.2)
    cells = planned(small_data, tmp_path / "jobs", methods)
    cluster = Cluster(on="local", gpus=gpus, parallel=1)
    (line,) = submit(cells, cluster, data=small_data, results=tmp_path / "jobs", device="cpu")
    assert line.startswith("started: 1 worker (process ")
    assert missing(status.states(cells, tmp_path / "jobs")) == []
    far: list[float] = []
    found = wait_for(cells, tmp_path / "jobs", lambda what, done, total: far.append(done / total))
    logs = "".join(file.read_text() for file in (tmp_path / "jobs").rglob("*_log.err"))
    assert [one.state for one in found] == ["done"] * len(methods), logs
    assert far[-1] == 1
    if gpus == 1:
        recipe = SMALL.change(epochs=1, batches_per_epoch=1)
        bench(recipe, methods=methods, seeds=[0], data=small_data, results=tmp_path / "plain",
              targets=["synth-night"], device="cpu", report=quiet, say=print)  # fmt: skip
        ours, theirs = (read_rows(tmp_path / name).drop(columns="date") for name in ("jobs", "plain"))
        pd.testing.assert_frame_equal(ours, theirs)


def test_a_job_that_failed_says_it_and_its_log(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Environment:
        cluster, raw_job_id = "slurm", "12"
        paths = types.SimpleNamespace(stderr=tmp_path / "12_0_log.err")
        requeued = 0

        def _requeue(self, countdown: int) -> None:
            Environment.requeued += 1

    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(JobEnvironment=Environment))
    monkeypatch.setenv(status.LOG, "")
    (cell,) = planned(small_data, tmp_path, ["baseline"], lr=1e30)
    with pytest.raises(RunError, match="not finite"):
        Work((cell,), small_data, tmp_path, device="cpu", gpus=1, log=())()
    (one,) = status.states([cell], tmp_path)
    assert one.state == "failed" and one.log == str(tmp_path / "12_0_log.err") and not Environment.requeued
    for answer, times in (("RUNNING", 1), ("COMPLETING", 1), ("", 1)):  # the latter: it was cancelled, or is requeued
        monkeypatch.setattr("reidgen.cluster._is_running", lambda job, answer=answer: answer == "RUNNING")
        real = training._Watch.look

        def stop(watch: Any, last: bool, real: Any = real) -> bool:
            os.kill(os.getpid(), signal.SIGUSR1)
            return bool(real(watch, last))

        (cell,) = planned(small_data, tmp_path / (answer or "none"), ["baseline"])
        with monkeypatch.context() as patch, pytest.raises(training.InterruptedRunError):
            patch.setattr(training._Watch, "look", stop)
            Work((cell,), small_data, tmp_path / (answer or "none"), device="cpu", gpus=1, log=())()
        assert Environment.requeued == times and cell.run.state.is_file()


def test_a_scheduler_s_warnings_stop_training_and_never_hard(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threading.current_thread() is threading.main_thread()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        with stop_signals() as stop:
            for _ in range(3):
                os.kill(os.getpid(), number)
            assert stop.is_set()
    with stop_signals() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")  # which may send SIGTERM twice
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_set()


def test_a_cluster_is_read_from_a_file_and_options_come_first(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[cluster]\npartition = "gpu"\ngpus = 4\nhours = 8\nmemory = 60.5\nsetup = "module load cuda"\n'
                    '[cluster.sbatch]\naccount = "lab"\n')  # fmt: skip
    found = read_cluster(str(file), hours=2.0, partition=None, setup=None)
    assert found == Cluster("slurm", "gpu", 4, 2.0, 60.5, setup=("module load cuda",), sbatch={"account": "lab"})
    assert read_cluster("local", parallel=3) == Cluster("local", parallel=3)
    for text, message in {
        "": "it has no table",
        "[cluster": "this is no TOML file",
        "[cluster]\ngpu = 1": "[cluster] gpu: there is no such key; known: on, partition",
        "[cluster]\ngpus = 1.5": "[cluster] gpus = 1.5: give a whole number from 0",
        "[cluster]\nhours = -1": "[cluster] hours = -1: give a number from 0",
        "[cluster]\nhours = 0": "[cluster] hours = 0: a job needs some time",
        "[cluster]\nsetup = [1]": "[cluster] setup = [1]: give lines",
        "[cluster]\nsbatch = 1": "[cluster] sbatch = 1: give a table",
        '[cluster]\non = "pbs"': "[cluster] on = 'pbs': give 'slurm' or 'local'",
    }.items():
        file.write_text(text)
        with pytest.raises(RecipeError) as caught:
            read_cluster(str(file))
        assert message in str(caught.value)


def test_each_file_of_the_settings_is_one(tmp_path: Path) -> None:
    """As docs/cluster.md shows them, each by its heading."""
    text = (SCRIPTS.parent / "docs" / "cluster.md").read_text()
    files = re.findall(r"^`(\w+\.toml)`: .*\n\n((?: {4}.*\n|\n)+)", text, flags=re.MULTILINE)
    assert [name for name, _ in files] == ["gpu.toml", "four.toml", "cpu.toml"]
    read = []
    for name, block in files:
        (tmp_path / name).write_text(textwrap.dedent(block))
        read.append(read_cluster(str(tmp_path / name)))
    assert [one.gpus for one in read] == [1, 4, 0] and read[1].sbatch["account"] == "lab-reid"
    assert text.count("[cluster]\n") == 3


def test_a_machine_without_slurm_says_so(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RecipeError, match="there is no sbatch on this machine"):
        submit(planned(small_data, tmp_path, ["in"]), Cluster(), data=small_data, results=tmp_path, device="cpu")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(RecipeError, match=r"run: pip install 'reidgen\[cluster\]'"):
        submit([], Cluster(), data=small_data, results=tmp_path, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_gpus_that_are_not_there_are_refused_before_anything_starts(small_data: Path, tmp_path: Path) -> None:
    cells = planned(small_data, tmp_path, ["in"])
    with pytest.raises(RecipeError, match="--gpus 2: this machine has none; --device cpu takes as many processes"):
        submit(cells, Cluster("local", gpus=2), data=small_data, results=tmp_path, device="auto")
    assert not (tmp_path / "jobs").exists()


def test_what_is_followed_is_said_with_what_shows_it(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tracking.views(["tensorboard", "mlflow"], Path("some results"))
    assert said[0].endswith("to see it: tensorboard --logdir 'some results/runs'")
    assert said[1].endswith("to see it: mlflow ui --backend-store-uri 'some results/mlruns'")
    monkeypatch.setattr("reidgen.training.train", lambda *_, **__: pytest.fail("it trains"))
    refused = CliRunner().invoke(app, ["train", "--log", "tensorbord", "--data", str(small_data)])
    assert refused.exit_code == 1 and "did you mean 'tensorboard'" in refused.output


def test_tensorboard_holds_log_csv_and_the_results(small_data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = SMALL.change(method="baseline")
    run = train(recipe, data=small_data, results=tmp_path, device="cpu", log=["tensorboard"], report=quiet)
    tracking.follow_results(["tensorboard"], run, recipe, _rows())
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    log = pd.read_csv(run.log)
    for name in ("loss", "cross_entropy", "lr", "images_per_s"):
        told = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert [step for step, _ in told] == [1, 2]
        assert [value for _, value in told] == pytest.approx(log[name].tolist(), rel=1e-4)
    assert [event.value for event in events.Scalars("test/synth-night/mAP")] == pytest.approx([0.3])
    assert [event.value for event in events.Scalars("test/synth-night/flip/mAP")] == pytest.approx([0.5])


def _rows() -> pd.DataFrame:
    tests = ["plain", "plain", "flip"]
    rows = pd.DataFrame({"target": "synth-night", "test": tests, "mAP": [0.2, 0.4, 0.5]})
    return rows.assign(rank1=0.5, rank5=0.6, mINP=0.1)


def test_wandb_and_mlflow_are_called_as_their_packages_say(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fakes of their public functions; the packages themselves are not installed here."""
    calls: list[tuple[Any, ...]] = []

    class WandbRun:
        def log(self, values: dict[str, float], step: int) -> None:
            calls.append(("wandb", step, sorted(values)))

        def finish(self) -> None:
            calls.append(("wandb ends",))

    def init(**words: Any) -> WandbRun:
        calls.append(("wandb begins", words["mode"], words["resume"], words["id"]))
        return WandbRun()

    mlflow = types.SimpleNamespace(
        set_tracking_uri=lambda uri: calls.append(("mlflow at", uri)),
        set_experiment=lambda name: None,
        start_run=lambda **words: calls.append(("mlflow begins", *words)) or types.SimpleNamespace(
            info=types.SimpleNamespace(run_id="abc")
        ),
        log_params=lambda values: calls.append(("mlflow", values["method"])),
        log_metrics=lambda values, step: calls.append(("mlflow", step, sorted(values))),
        end_run=lambda: calls.append(("mlflow ends",)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, __spec__=object()))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    mlflow.__spec__ = object()
    names = ["wandb", "mlflow"]
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    run = train(SMALL, data=small_data, results=tmp_path, device="cpu", log=names, report=quiet)
    first = list(calls)
    values = ["train/cross_entropy", "train/images_per_s", "train/loss", "train/lr", "train/snr", "train/triplet"]
    for step in (1, 2):
        assert ("wandb", step, values) in first and ("mlflow", step, values) in first
    assert first[0][:3] == ("wandb begins", "offline", "allow") and first[-2:] == [("wandb ends",), ("mlflow ends",)]
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"  # MLflow 3 keeps no files without
    assert ("mlflow at", (tmp_path / "mlruns").as_uri()) in first and ("mlflow begins", "run_name") in first
    calls.clear()
    tracking.follow_results(names, run, SMALL, _rows())
    assert calls[0] == first[0] and ("mlflow begins", "run_id") in calls  # the same runs
    assert any(call[:2] == ("wandb", 2) and "test/synth-night/mAP" in call[2] for call in calls if len(call) > 2)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecipeError, match=r"--log wandb: the package is not installed; run: pip install wandb"):
        tracking.check_followers(["wandb"])
    with pytest.raises(RecipeError, match="unknown --log 'tensorbord'; did you mean 'tensorboard'"):
        tracking.check_followers(["tensorbord"])


def test_a_tool_that_fails_ends_no_training(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __init__(self, *_: object) -> None:
            pass

        def write(self, values: object, epoch: int) -> None:
            raise OSError("no network")

        def close(self) -> None:
            raise AssertionError

    monkeypatch.setitem(tracking.FOLLOWERS, "tensorboard", Broken)
    run = train(SMALL, data=small_data, results=tmp_path, device="cpu", log=["tensorboard"], report=quiet)
    assert run.done.is_file() and len(caplog.messages) == 1
    assert caplog.messages[0] == "--log tensorboard: it is not followed any further (OSError: no network)"


def test_what_sbatch_refuses_is_not_in_the_queue(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sbatch", "srun", "squeue"):
        (tools / name).write_text("#!/bin/sh\necho invalid partition specified: gpux >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    (tmp_path / "small.toml").write_text(grid_toml(SMALL))
    words = ["bench", "--source", "synth-plaza", "--target", "synth-night", "--methods", "baseline", "--seeds", "1"]
    words += ["--recipe", str(tmp_path / "small.toml"), "--data", str(small_data), "--results", str(tmp_path / "r")]
    refused = CliRunner().invoke(app, [*words, "--on", "slurm", "--partition", "gpux"])
    said = " ".join(refused.output.split())
    assert refused.exit_code == 1 and "sbatch refused the jobs" in said and "invalid partition" in said
    assert not list(tmp_path.glob("r/jobs/*"))
    status = CliRunner().invoke(app, [*words, "--status"])
    assert "1 cell: 1 to do" in " ".join(status.output.split()), status.output
