"""Independent jobs, one process per device: a job begins when a device is free."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from reidgen.errors import InterruptedRunError, ReidgenError, RunError

Job = TypeVar("Job")
Result = TypeVar("Result")


def spread(
    work: Callable[[Job, str], Result], jobs: Sequence[Job], *, devices: Sequence[str], stop: threading.Event
) -> Iterator[tuple[int, Result | ReidgenError]]:
    """Yield (number of the job, what `work(job, device)` returned or raised) as they end, each job in its own process.

    work: a function of a module; jobs and results go through pickle. The devices may be named alike ("cpu" twice).
    A ReidgenError of a job ends that job alone; so does its process's death without a word (killed, or out of memory),
    which comes back as a RunError. When `stop` is set, all get SIGTERM, at which training keeps its state, and are
    waited for; then InterruptedRunError is raised. When this process dies, each ends itself.
    """
    context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
    waiting, free = deque(enumerate(jobs)), deque(devices)
    running: dict[Connection, tuple[int, str, BaseProcess]] = {}
    try:
        while waiting or running:
            if stop.is_set():
                raise InterruptedRunError("stopped; what is finished is kept, the same command goes on")
            while waiting and free:
                (number, job), device = waiting.popleft(), free.popleft()
                here, there = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(target=_child, args=(work, job, device, there))
                process.start()
                there.close()  # here: so that the child's death closes the pipe
                running[here] = number, device, process
            for pipe in wait(list(running), timeout=0.5):
                assert isinstance(pipe, Connection)
                number, device, process = running.pop(pipe)
                try:
                    outcome = pipe.recv()
                except EOFError:
                    process.join()
                    outcome = RunError(
                        f"a process on {device} ended without a word (exit code {process.exitcode}; killed, or out of "
                        "memory?); the same command goes on"
                    )
                process.join()
                free.append(device)
                yield number, outcome
    finally:
        for _, _, process in running.values():
            process.terminate()
        for _, _, process in running.values():
            process.join()


def _child(work: Callable[[Job, str], Result], job: Job, device: str, pipe: Connection) -> None:
    os.setpgrp()  # Ctrl-C reaches the parent alone, which then sends the one SIGTERM
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(work(job, device))
    except ReidgenError as error:
        pipe.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
