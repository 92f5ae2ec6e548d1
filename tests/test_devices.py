"""Devices: what their names mean, and one sentence where memory ends."""

import copy
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, quiet
from torch import nn

from reidgen import evaluation, ranking, training
from reidgen.data.batches import load_source
from reidgen.devices import choose_device, device_name, devices_of, enough_memory, memory_format, put_on
from reidgen.errors import OutOfMemoryError, RecipeError
from reidgen.models.network import build_network
from reidgen.robustness import attack

CPU = torch.device("cpu")
HUGE = 1 << 50  # bytes: more than any machine gives


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three CUDA devices, as far as PyTorch says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


def test_the_names_of_one_device(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, meant in {
        "auto": "cuda",
        "gpu": "cuda",
        "cuda": "cuda",
        "0": "cuda:0",
        "2": "cuda:2",
        "cpu": "cpu",
    }.items():
        assert choose_device(name) == torch.device(meant)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    assert choose_device("mps") == torch.device("mps") and choose_device("xpu:1") == torch.device("xpu", 1)
    assert device_name(torch.device("mps")).endswith(", mps")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("3", "no device 3: 3 CUDA devices here"),
        ("cuda:7", "no device cuda:7: 3 CUDA devices here"),
        ("mps", "no device mps: 0 MPS devices here; use --device cpu or auto"),
        ("xpu", "no device xpu: 0 XPU devices here"),
        ("cuda:0,1", "names several devices, which only bench uses, one run each"),
        ("tpu", "unknown device 'tpu'; use auto, cpu, cuda, cuda:N, mps or xpu"),
        ("meta", "device 'meta' is not supported; use auto"),
        ("", "unknown device ''"),
        ("-1", "unknown device '-1'"),
    ],
)
def test_a_device_that_is_not_there_is_named(name: str, sentence: str, gpus: None) -> None:
    with pytest.raises(RecipeError, match=sentence):
        choose_device(name)


def test_several_devices(gpus: None) -> None:
    every = ["cuda:0", "cuda:1", "cuda:2"]
    assert devices_of("auto") == devices_of("gpu") == devices_of("cuda") == devices_of("cuda:0,1,2") == every
    assert devices_of("0,2") == devices_of("cuda:0, cuda:2") == ["cuda:0", "cuda:2"]
    assert devices_of("cpu") == ["cpu"] and devices_of("1") == ["1"] and devices_of("cuda:1") == ["cuda:1"]
    with pytest.raises(RecipeError, match="names a device twice"):
        devices_of("cuda:1,1")
    with pytest.raises(RecipeError, match="no device cuda:3"):
        devices_of("cuda:0,3")


def test_the_end_of_memory_is_a_sentence_whoever_meets_it() -> None:
    """The first two are real: PyTorch's and NumPy's allocators refuse a petabyte."""
    for spend in (lambda: torch.empty(HUGE, dtype=torch.uint8), lambda: np.zeros(HUGE, np.uint8)):
        with pytest.raises(
            OutOfMemoryError, match=r"^work: this computer's memory is full \(1.* more were asked for\); less"
        ):
            with enough_memory("work", "less"):
                spend()
    full = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
    )
    for error in (full, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")):
        with pytest.raises(OutOfMemoryError, match=r"^work: the GPU's memory is full"), enough_memory("work", "less"):
            raise error
    with pytest.raises(RuntimeError, match="another"), enough_memory("work", "less"):
        raise RuntimeError("another")


def spend(*args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.empty(HUGE, dtype=torch.uint8)


def test_training_embedding_ranking_and_attack_say_what_to_lower(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = SMALL.change(method="baseline")
    network = build_network(recipe.row, "tiny", classes=2).eval()
    source = load_source(recipe, data=small_data, report=quiet)
    with monkeypatch.context() as patch:
        patch.setattr(training, "augment", spend)
        with pytest.raises(
            OutOfMemoryError, match=r"^training: this computer's memory is full .* lower identities or images"
        ):
            training.train(recipe, data=small_data, results=tmp_path, device="cpu", report=quiet)
        patch.setattr(evaluation, "to_float", spend)
        with pytest.raises(OutOfMemoryError, match=r"^embedding: .* full .*; use --device cpu, or"):
            evaluation.embed(network, source.packs[0], rows_N=np.arange(2), report=quiet)
        patch.setattr(attack, "identity_centres", spend)
        patch.setattr(attack, "embed", spend)
        with pytest.raises(OutOfMemoryError, match=r"^attack: .* full .*; use --device cpu, or"):
            attack.find_pattern(network, source, loss="point", bound=10, seed=0, dtype="float32", report=quiet)
        patch.setattr(ranking, "_squared_norms", spend)
        one = torch.tensor([0])
        with pytest.raises(OutOfMemoryError, match=r"^ranking: .* rank fewer .* lower block_bytes"):
            ranking.rank(torch.ones(1, 2), torch.ones(1, 2), pid_Q=one, pid_G=one, camid_Q=one, camid_G=one + 1)


def test_threads_wait_passively_also_from_python() -> None:
    """The OpenMP library itself says what it read, when torch loads it."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    words = [sys.executable, "-c", "import reidgen.ranking"]
    result = subprocess.run(
        words, env=environment | {"OMP_DISPLAY_ENV": "true"}, capture_output=True, text=True, check=True
    )
    if "OPENMP DISPLAY ENVIRONMENT" not in result.stderr:
        pytest.skip("this PyTorch does not use an OpenMP library that tells")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in result.stderr


def test_what_tensors_give_back_on_a_cpu_is_kept_for_the_next() -> None:
    """Ten tensors of 100 MiB after ten others: without it each meets its page faults anew."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    code = "import resource, sys, torch, reidgen.devices as devices\n"
    code += "if sys.argv[1:]: devices.put_on(torch.nn.Conv2d(1, 1, 1), torch.device('cpu'))\n"
    code += "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
    code += "for number in range(20):\n"
    code += "    before = before if number > 10 else faults()\n"
    code += "    torch.ones(100 << 18)\n"
    code += "print(faults() - before)"
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", code, *more], capture_output=True, check=True).stdout)
        for more in ([], ["put on"])
    )
    pages = (100 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert kept < pages and (plain > 9 * pages or plain < pages)  # where pages are large by themselves, or kept


def test_what_has_four_dimensions_gets_the_layout_and_the_rest_stays() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Linear(4, 2))
    wanted = copy.deepcopy(plain).to(device=CPU, memory_format=memory_format(CPU))  # torch's own way
    found = put_on(copy.deepcopy(plain), CPU)
    for name, tensor in wanted.state_dict().items():
        own = found.state_dict()[name]
        assert own.equal(tensor) and own.stride() == tensor.stride()
    deep = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv3d(1, 2, 3))  # which torch refuses as a whole
    assert put_on(deep, CPU) is deep and deep[0].weight.is_contiguous(memory_format=memory_format(CPU))
    assert deep[1].weight.is_contiguous()
