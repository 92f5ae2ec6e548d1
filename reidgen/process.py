"""What is set for the whole process and moves numbers: a plug-in's code does not change it; while reidgen trains and
judges, it is as PyTorch has it of itself. No torch here until then.
"""

import contextlib
import functools
import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

log = logging.getLogger("reidgen")
Setting = tuple[Callable[[], Any], Callable[[Any], object]]  # how it is read, and how it is set


@contextlib.contextmanager
def settings_kept(whose: str) -> Iterator[None]:
    """Set back what somebody's code sets for the whole process, and say so once: whatever is trained beside it would
    have other numbers, and nothing would tell. (How PyTorch chooses among orders of a sum is left alone.)
    """
    before = {name: value for name in settings() if (value := _now(name)) is not None}
    try:
        yield
    finally:
        changed = [name for name, value in before.items() if _now(name) != value]
        for name in changed:
            settings()[name][1](before[name])
        if changed:
            _say_kept(whose, ", ".join(changed))


USUAL = {
    "torch.set_float32_matmul_precision": "highest",
    "torch.backends.cudnn.enabled": True,
    "torch.backends.cudnn.benchmark": False,
    "torch.backends.cudnn.allow_tf32": True,
    "torch.backends.mkldnn.enabled": True,
}
_LOCK, _INSIDE, _BEFORE = threading.Lock(), [0], dict[str, Any]()


@contextlib.contextmanager
def usual_settings() -> Iterator[None]:
    """Work with PyTorch's own settings, whatever a notebook has set for its code: a run's numbers come from its recipe.
    Of several threads the first sets, and the last sets back. (How many threads compute is left alone: rows say it.)
    """
    torch = importlib.import_module("torch")
    own = _set({"torch.set_default_device": torch.device("cpu")})  # a thread's own
    with _LOCK:
        if not _INSIDE[0]:
            _BEFORE.update(_set(USUAL | {"torch.set_default_dtype": torch.float32}))
        _INSIDE[0] += 1
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE[0] -= 1
            if not _INSIDE[0]:
                _set(_BEFORE)
                _BEFORE.clear()
        _set(own)


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    """Set what differs, and return how it was."""
    before = {name: _now(name) for name in values}
    changed = {name: was for name, was in before.items() if was is not None and was != values[name]}
    for name in changed:
        settings()[name][1](values[name])
    return changed


@functools.cache
def settings() -> dict[str, Setting]:
    """Return what moves numbers, by how it is usually set."""
    torch = importlib.import_module("torch")

    def flag(holder: Any, name: str) -> Setting:
        return lambda: getattr(holder, name), lambda value: setattr(holder, name, value)

    def set_device(device: Any) -> None:
        torch.set_default_device(None if device.type == "cpu" else device)  # "cpu" would be looked at in every call

    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    return {
        "torch.set_float32_matmul_precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        "torch.set_default_dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "torch.set_default_device": (torch.get_default_device, set_device),
        "torch.set_grad_enabled": (torch.is_grad_enabled, torch.set_grad_enabled),
        "torch.set_num_threads": (torch.get_num_threads, torch.set_num_threads),
        "torch.backends.cudnn.enabled": flag(cudnn, "enabled"),
        "torch.backends.cudnn.benchmark": flag(cudnn, "benchmark"),
        "torch.backends.cudnn.allow_tf32": flag(cudnn, "allow_tf32"),
        "torch.backends.mkldnn.enabled": flag(mkldnn, "enabled"),
        "os.chdir": (os.getcwd, os.chdir),
    }


def _now(name: str) -> object:
    try:
        return settings()[name][0]()
    except (RuntimeError, OSError):  # set half in PyTorch's older way and half in its newer; a folder that is gone
        return None


@functools.cache
def _say_kept(whose: str, what: str) -> None:
    log.warning("%s changes what holds for the whole process, and so every row's numbers; set back: %s", whose, what)
