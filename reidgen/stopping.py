"""Ctrl-C, a scheduler's warning and a closed terminal as an event that is looked at between two steps of the work."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C, SIGTERM or SIGHUP sets, so that training stops between two steps; a second stops
    hard. SIGUSR1 and SIGUSR2, a scheduler's warning, set it too; in its jobs nothing stops hard, as it may warn twice.

    SIGHUP, a terminal that was closed, is left alone where nohup ignores it.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number not in gentle:
            raise KeyboardInterrupt
        stop.set()

    warnings = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]  # not on Windows
    numbers = [signal.SIGINT, signal.SIGTERM, *warnings]
    gentle = set(numbers if "SUBMITIT_EXECUTOR" in os.environ else warnings)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
