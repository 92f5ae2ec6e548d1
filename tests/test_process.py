"""What is set for the whole process: a plug-in's code does not change it, and a notebook's settings move no number."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, quiet

from reidgen import process
from reidgen.evaluation import evaluate
from reidgen.extractor import Extractor
from reidgen.process import settings_kept, usual_settings
from reidgen.training import train

CHANGES: dict[str, Callable[[], object]] = {
    "torch.set_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.set_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch.set_default_device": lambda: torch.set_default_device("meta"),
    "torch.set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "torch.set_num_threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch.backends.cudnn.enabled": lambda: setattr(torch.backends.cudnn, "enabled", False),
    "torch.backends.cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch.backends.cudnn.allow_tf32": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "torch.backends.mkldnn.enabled": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "os.chdir": lambda: os.chdir("/"),
}
LEFT_ALONE = {"torch.set_grad_enabled", "torch.set_num_threads", "os.chdir"}  # by `usual_settings`


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    process._say_kept.cache_clear()
    with settings_kept("a test"):
        yield


def held() -> list[object]:
    """What a whole process has, as what it makes and PyTorch say."""
    made = torch.ones(1, requires_grad=True) * 2
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    flags = [cudnn.enabled, cudnn.benchmark, cudnn.allow_tf32, mkldnn.enabled]
    matrix = torch.get_float32_matmul_precision()
    return [made.dtype, made.device, made.requires_grad, torch.get_num_threads(), matrix, *flags, Path().absolute()]


@pytest.mark.parametrize("name", CHANGES)
def test_what_somebodys_code_sets_for_the_whole_process_is_set_back(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert set(CHANGES) == set(process.settings())
    before = held()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), settings_kept("mine.py"):
            CHANGES[name]()
            assert held() != before
            raise ZeroDivisionError
        assert held() == before
    said = "mine.py changes what holds for the whole process, and so every row's numbers; set back: "
    assert caplog.messages == [said + name]  # once


def test_code_that_sets_nothing_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    with settings_kept("mine.py"):
        torch.manual_seed(3)
        assert (torch.ones(2) @ torch.ones(2)) == 2
    with torch.inference_mode(), settings_kept("mine.py"):
        assert not torch.is_grad_enabled()
    assert not caplog.messages


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in LEFT_ALONE])
def test_a_notebooks_settings_are_put_aside_and_come_back(name: str) -> None:
    usual = held()
    CHANGES[name]()
    own = held()
    assert own != usual
    with usual_settings():
        assert held() == usual
        with usual_settings():
            assert held() == usual
        assert held() == usual
    assert held() == own


@pytest.mark.usefixtures("thin_tiny")
def test_a_notebooks_settings_move_no_number(small_data: Path, tmp_path: Path) -> None:
    """Trained, evaluated and embedded to the same bits; without oneDNN alone they would be others."""
    found, image = [], np.random.default_rng(0).integers(0, 256, (60, 30, 3), dtype=np.uint8)
    for folder in ("usual", "own"):
        run = train(SMALL.change(method="snr"), data=small_data, results=tmp_path / folder, device="cpu", report=quiet)
        rows = evaluate(run, "synth-night", data=small_data, device="cpu", report=quiet)
        found.append((run.weights.read_bytes(), rows.drop(columns="date"), Extractor(run, device="cpu").embed([image])))
        for name in set(CHANGES) - LEFT_ALONE:
            CHANGES[name]()
    (weights, rows, embedding), (own_weights, own_rows, own_embedding) = found
    assert own_weights == weights
    pd.testing.assert_frame_equal(own_rows, rows)
    assert (own_embedding == embedding).all()


def test_of_two_threads_the_last_sets_back() -> None:
    torch.set_float32_matmul_precision("medium")
    begun, ended, seen = threading.Event(), threading.Event(), list[str]()

    def longer() -> None:
        with usual_settings():
            begun.set()
            ended.wait(60)
            seen.append(torch.get_float32_matmul_precision())

    thread = threading.Thread(target=longer)
    with usual_settings():
        thread.start()
        begun.wait(60)
    ended.set()
    thread.join()
    assert seen == ["highest"] and torch.get_float32_matmul_precision() == "medium"
