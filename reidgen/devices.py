"""Where the work runs, and what that machine is called."""

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
