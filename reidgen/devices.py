"""Where the work runs, and what that machine is called."""

import math
import os
import platform
from pathlib import Path

import torch

from reidgen.errors import RecipeError


def choose_device(name: str) -> torch.device:
    """Return the device called `name`: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".

    Raises RecipeError when the name is unknown or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(f"no device {name}: {torch.cuda.device_count()} CUDA devices here; use --device cpu or auto")
    return device


def devices_of(name: str) -> list[str]:
    """Return the names of the devices that `name` means for independent work: all GPUs of the machine where it is "auto"
    or "cuda" and there are several, else `name` alone. Raises RecipeError as `choose_device` does."""
    if choose_device(name).type == "cuda" and name in ("auto", "cuda") and torch.cuda.device_count() > 1:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [name]


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
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the layout for convolutions: channels last on CUDA; on the CPU neither layout won clearly."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
