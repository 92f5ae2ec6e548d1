"""scripts/prove_gpu.py, rehearsed: every part on a CPU with tiny sizes, one that fails, and what does not fit."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
import torch

from reidgen import evaluation, graphs, speed

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def prove_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import prove_gpu

    yield prove_gpu
    sys.modules.pop("prove_gpu")


@pytest.mark.usefixtures("thin_tiny")
def test_every_part_writes_its_rows_and_one_that_fails_stops_no_other(
    prove_gpu: ModuleType, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(proof: object) -> Iterator[tuple[str, dict[str, object]]]:
        yield "tests", {"test": "one", "outcome": "passed", "seconds": 0.1, "why": ""}
        yield "tests", {"test": "two", "outcome": "failed", "seconds": 0.1, "why": "it | differs"}
        raise RuntimeError("1 of 2 tests failed")

    for name, value in (("SECONDS", 0.0), ("MATRIX_CPU", 64), ("COPY_BYTES", 1000)):
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(prove_gpu, "test_rows", broken)
    monkeypatch.setattr(evaluation, "BATCH", 5)
    for module in (graphs, evaluation):  # of three batches the last two are replayed
        monkeypatch.setattr(module, "WARM", 1)
    few = {"images": 15, "steps": 1, "quick": prove_gpu.TINY.quick.change(height=32, width=16)}
    sizes = dataclasses.replace(prove_gpu.TINY, data=small_data, seeds=(0,), dear=(), **few)
    proof = prove_gpu.Proof(tmp_path, sizes, torch.device("cpu"), minutes=10)
    parts = prove_gpu.parts_of(proof)
    proof.run(parts)

    done = pd.read_csv(tmp_path / "parts.csv")
    assert list(done["part"]) == [part.name for part in parts]
    failed = done[done["state"] != "done"]
    assert list(failed["part"]) == ["tests"] and failed["why"].tolist() == ["RuntimeError: 1 of 2 tests failed"]
    rows = pd.read_csv(tmp_path / "speed.csv")
    kinds = {("training", way) for way in ("graphs", "eager", "compile")} | {
        ("embedding", way) for way in ("graphs", "eager")
    }
    both = rows[rows["what"].isin(["training", "embedding"])]
    assert set(zip(both["what"], both["way"], strict=True)) == kinds  # so none fell back
    assert set(both["method"]) == {"baseline", "snr"} and set(both["dtype"]) == {"float32", "bfloat16"}
    assert (rows["value"] > 0).all() and list(rows["what"][:4]) == [
        "matrix product",
        "matrix product",
        "copy",
        "batches",
    ]
    assert (rows["what"] == "ranking").sum() == 2
    profile = pd.read_csv(tmp_path / "profile.csv")
    assert set(profile["way"]) == {"graphs", "eager"} and "aten::convolution_backward" in set(profile["kernel"])
    dtype = pd.read_csv(tmp_path / "dtype.csv")
    apart = dtype[dtype["dtype"] == "bfloat16 - float32"]
    assert len(apart) == 4 and len(dtype) == 2 * 2 * 2 + 4
    page = (tmp_path / "README.md").read_text()
    assert "no number here means anything" in page and "1 of 2 passed; the others:" in page and "it \\| differs" in page
    assert f"torch: {torch.__version__}" in page and "## profile" in page


def test_what_does_not_fit_is_named(prove_gpu: ModuleType, tmp_path: Path) -> None:
    proof = prove_gpu.Proof(tmp_path, prove_gpu.TINY, torch.device("cpu"), minutes=0)
    proof.run(prove_gpu.parts_of(proof))
    done = pd.read_csv(tmp_path / "parts.csv")
    assert set(done["state"]) == {"left out"} and (done["why"].str.contains("0 s were left")).all()
    assert "left out" in (tmp_path / "README.md").read_text()


def test_the_differences_of_the_types_by_hand(prove_gpu: ModuleType) -> None:
    """Seed 0: +1 on both unseen; seed 1: +3 and +1, so 2; seed 2 has float32 alone. Mean 1.5, error 0.5."""
    scores = {
        (0, "float32"): (10.0, 20.0, 30.0), (0, "bfloat16"): (10.0, 21.0, 31.0), (1, "float32"): (10.0, 20.0, 30.0),
        (1, "bfloat16"): (10.0, 23.0, 31.0), (2, "float32"): (99.0, 99.0, 99.0),
    }  # fmt: skip
    rows = pd.DataFrame(
        [
            {"method": "snr", "seed": seed, "dtype": dtype, "target": target, "mAP": value}
            for (seed, dtype), values in scores.items()
            for target, value in zip("abc", values, strict=True)
        ]
    )
    unseen, seen = prove_gpu.differences(rows, "a")
    assert unseen["target"] == "mean of unseen" and unseen["seed"] == "mean of 2"
    assert unseen["mAP"] == pytest.approx(1.5) and unseen["standard_error"] == pytest.approx(0.5)
    assert seen["target"] == "seen" and seen["mAP"] == 0


def test_tests_are_noted_and_end_with_their_time(prove_gpu: ModuleType) -> None:
    watch = prove_gpu.Watch(100)
    watch.pytest_runtest_setup(None)
    for when, outcome in (("setup", "passed"), ("call", "failed"), ("teardown", "passed"), ("setup", "skipped")):
        watch.pytest_runtest_logreport(
            SimpleNamespace(
                when=when, outcome=outcome, nodeid="t", duration=1.0, longrepr="why" if outcome == "failed" else ""
            )
        )
    assert [(row["outcome"], row["why"]) for row in watch.rows] == [("failed", "why"), ("skipped", "")]
    with pytest.raises(pytest.skip.Exception, match="no time left"):
        prove_gpu.Watch(-1).pytest_runtest_setup(None)


def test_a_way_is_left_as_it_was_found(prove_gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from reidgen import training

    monkeypatch.setenv("REIDGEN_GRAPHS", "1")
    with prove_gpu.way_of("graphs", rehearse=True):
        assert isinstance(training.recorder_for(torch.device("cpu")), graphs.Rehearsal)
    with prove_gpu.way_of("eager", rehearse=True):
        assert training.recorder_for(torch.device("cuda")) is None
    assert training.recorder_for is graphs.recorder_for
