"""Where the work runs, and what that machine is called."""

import contextlib
import ctypes
import functools
import math
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from reidgen.errors import OutOfMemoryError, RecipeError
from reidgen.escapes import many

M = TypeVar("M", bound=nn.Module)
KEPT = 256 << 20  # bytes
KINDS = "auto, cpu, cuda, cuda:N, mps or xpu"


def choose_device(name: str) -> torch.device:
    """Return the device called `name`: "auto" (CUDA where there is one, else the CPU), or a name of PyTorch's such as
    "cpu", "cuda:1", "mps" or "xpu". "gpu" is "cuda", and a number N is "cuda:N".

    Raises RecipeError when the name is unknown, names several devices, or the device is not there.
    """
    if "," in name:
        raise RecipeError(
            f"--device {name} names several devices, which only bench uses, one run each; give one of them, or train "
            "on several with torchrun"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    called = f"cuda:{name}" if name.isdecimal() else {"gpu": "cuda"}.get(name, name)
    try:
        device = torch.device(called)
    except RuntimeError as error:
        raise RecipeError(f"unknown device {name!r}; use {KINDS}") from error
    if device.type not in ("cpu", "cuda", "mps", "xpu"):
        raise RecipeError(f"device {name!r} is not supported; use {KINDS}")
    found = _count(device.type)
    if (device.index or 0) >= found:
        raise RecipeError(f"no device {name}: {found} {device.type.upper()} devices here; use --device cpu or auto")
    return device


def _count(kind: str) -> int:
    """Return the number of devices of a kind that this machine has, and PyTorch can use."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return {"cuda": torch.cuda.device_count, "xpu": torch.xpu.device_count}.get(kind, lambda: 1)()


def devices_of(name: str) -> list[str]:
    """Return the names of the devices that `name` means for independent work: those with commas between ("cuda:0,1"),
    all GPUs of the machine where it is "auto" or "cuda" and there are several, else `name` alone.

    Raises RecipeError as `choose_device` does, and when a device is named twice.
    """
    if "," in name:
        chosen, kind = list[str](), ""
        for word in (word.strip() for word in name.split(",")):
            chosen.append(str(choose_device(f"{kind}{word}" if word.isdecimal() else word)))
            kind = word.partition(":")[0] + ":" if ":" in word else kind
        if len(set(chosen)) < len(chosen):
            raise RecipeError(f"--device {name} names a device twice; name each once")
        return chosen
    if choose_device(name).type == "cuda" and name in ("auto", "cuda", "gpu") and torch.cuda.device_count() > 1:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [name]


@contextlib.contextmanager
def enough_memory(work: str, lower: str) -> Iterator[None]:
    """Turn the end of memory, on a CPU or a GPU, into one sentence: what was done, and what to lower.

    Raises OutOfMemoryError. (Where the system kills the process instead, nobody is left to say it.)
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (what := full(error)):
            raise
        raise OutOfMemoryError(f"{work}: {what}; {lower}") from error


_ASKED = re.compile(r"(?:[Tt]ried to allocate|Unable to allocate) ([\d.]+ (?:bytes|[KMGTP]i?B))")
_FULL = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc")


def full(error: BaseException) -> str:
    """Return that a memory is full, and by how much, where an error of Python or PyTorch means this; else ""."""
    gpu = isinstance(error, torch.OutOfMemoryError)
    if not (gpu or isinstance(error, MemoryError) or any(word in str(error) for word in _FULL)):
        return ""
    asked = _ASKED.search(str(error))
    size = f" ({asked[1]} more were asked for)" if asked else ""
    whose = "the GPU's" if gpu or "CUDA" in str(error) else "this computer's"
    return f"{whose} memory is full{size}"


def free_memory(device: torch.device) -> float:
    """Return the bytes that are free on the device; infinite where a CPU's system does not say.

    The computer's are divided by torchrun's processes, which ask at the same time.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        return free / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    except (OSError, StopIteration):
        return math.inf


def device_name(device: torch.device) -> str:
    """Return the name of the hardware for result rows, as "NVIDIA H100 80GB HBM3" or "AMD EPYC, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, mps" if device.type == "mps" else f"{model}, {many(torch.get_num_threads(), 'thread')}"


def put_on(module: M, device: torch.device) -> M:
    """Return the module, moved to the device, with what has four dimensions in the layout of `memory_format`."""
    if device.type == "cpu":
        _keep_memory()
    module.to(device)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:  # torch's own `to` would refuse a module that has others, of a plug-in's Conv3d, say
            tensor.data = tensor.data.to(memory_format=memory_format(device))
    return module


@functools.cache
def _keep_memory() -> None:
    """Have glibc keep KEPT bytes that tensors give back, and take tensors of up to that size from there.

    By itself it hands every map of more than 32 MiB back to the system, and the next one meets a page fault every 4
    KiB: MobileNetV2 embedded 204 to 243 images per second, and 328 to 349 so (results/allocator-cpu-2026-11-27). No bit
    of a result changes. Other C libraries are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or Windows
        mallopt = ctypes.CDLL(None).mallopt
        for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
            mallopt(parameter, KEPT)


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the layout for convolutions: channels last on CUDA, and on a CPU where oneDNN computes them.

    On a CPU MobileNetV2 trains 1.2 to 1.6 times as fast so, ResNet-50 1.1 to 1.2 (results/layout-cpu-2026-11-27).
    """
    onednn = device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return torch.channels_last if onednn or device.type == "cuda" else torch.contiguous_format
