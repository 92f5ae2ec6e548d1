"""Processes: independent jobs, one process per device (`spread`); many small items shared among all cores (`share`).

Neither needs shared memory, Ctrl-C reaches this process alone, and no process outlives this one, however it ends.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import types
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from reidgen.errors import InterruptedRunError, ReidgenError, RunError

Job = TypeVar("Job")
Result = TypeVar("Result")

# A new process is forked from one that has imported what the first work needs and done nothing since, where there are
# such: a process of its own else imports torch for seconds. To fork this process itself could not use CUDA.
_FORKS = "forkserver" in multiprocessing.get_all_start_methods()  # not on Windows
_CONTEXT: Any = multiprocessing.get_context("forkserver" if _FORKS else "spawn")

CHUNK = 32  # items that a process is given at a time
AHEAD = 4  # chunks per process that may wait for an earlier one: bounds memory


def spread(
    work: Callable[[Job, str], Result],
    jobs: Sequence[Job],
    *,
    devices: Sequence[str],
    stop: threading.Event,
    imports: Sequence[str] = (),
) -> Iterator[tuple[int, Result | ReidgenError]]:
    """Yield (number of the job, what `work(job, device)` returned or raised) as they end, each job in its own process.

    work: a function of a module; jobs and results go through pickle. The devices may be named alike ("cpu" twice).
    imports: modules that it will import, beside its own.
    A ReidgenError of a job ends that job alone; so does its process's death without a word (killed, or out of memory),
    which comes back as a RunError. When `stop` is set, all get SIGTERM, at which training keeps its state, and are
    waited for; then InterruptedRunError is raised. When this process dies, each ends itself.
    """
    waiting, free = deque(enumerate(jobs)), deque(devices)
    running: dict[Connection, tuple[int, str, BaseProcess]] = {}
    try:
        while waiting or running:
            if stop.is_set():
                raise InterruptedRunError("stopped; what is finished is kept, the same command goes on")
            while waiting and free:
                (number, job), device = waiting.popleft(), free.popleft()
                here, there = _CONTEXT.Pipe(duplex=False)
                process: BaseProcess = _CONTEXT.Process(
                    target=_child, args=(work, job, device, there, dict(os.environ))
                )
                _start(process, work, imports)
                there.close()  # here: so that the child's death closes the pipe
                running[here] = number, device, process
            for pipe in wait(list(running), timeout=0.5):
                assert isinstance(pipe, Connection)
                number, device, process = running.pop(pipe)
                try:
                    outcome = pipe.recv()
                except (EOFError, ConnectionResetError):
                    outcome = _died(process, f"a process on {device}")
                process.join()
                free.append(device)
                yield number, outcome
    finally:
        for _, _, process in running.values():
            process.terminate()
        for _, _, process in running.values():
            process.join()


def share(
    work: Callable[[Job], Result], items: Sequence[Job], *, processes: int | None = None, chunk: int = CHUNK
) -> Generator[Result, None, None]:
    """Yield work(item) for all items, in order, computed by that many processes, by default one per core.

    work: a function of a module; items and results go through pickle. The first exception of `work`, by order, is
    raised here. Close the iterator when it is not read to its end; then, and when this process dies, the processes end.
    Raises RunError when one of them dies without a word.
    """
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    cores: int | None = getattr(os, "process_cpu_count", os.cpu_count)()  # the former since Python 3.13
    wanted = max(1, min(processes or cores or 1, len(chunks)))
    team: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(wanted):
            here, process = _worker(work)
            team[here] = process
        yield from _in_order(chunks, team)
    finally:
        with _no_ctrl_c():  # a second one comes through when all have ended
            for process in team.values():
                process.kill()
            for pipe, process in team.items():
                process.join()
                pipe.close()


def _start(process: BaseProcess, work: Callable[..., object], imports: Sequence[str] = ()) -> None:
    """Start a process that Ctrl-C does not reach, and that imports the caller's script only where the work lies there.

    multiprocessing has a new process import the main module under another name, so that a script without the guard
    `if __name__ == "__main__":` would run again in it. The first start says what the process that all are forked from
    imports.
    """
    main, module = sys.modules["__main__"], getattr(getattr(work, "func", work), "__module__", "")
    if module != "__main__":
        sys.modules["__main__"] = types.ModuleType("__main__")
        if _FORKS:
            _CONTEXT.set_forkserver_preload([module, *imports])
    try:
        with _no_ctrl_c():
            process.start()
    finally:
        sys.modules["__main__"] = main


def _worker(work: Callable[[Job], Result]) -> tuple[Connection, BaseProcess]:
    """Start a process that answers what it is sent; return the pipe to it, and the process."""
    here, there = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_serve, args=(there, dict(os.environ)), daemon=True)
    _start(process, work)
    there.close()
    with contextlib.suppress(OSError):  # it is dead, as whoever waits for its answer will find
        here.send(work)  # now that it runs: to take it in may mean to import much
    return here, process


def _in_order(chunks: Sequence[Sequence[Job]], team: dict[Connection, BaseProcess]) -> Iterator[Result]:
    """Yield the results of the chunks in order; each process has one chunk at a time."""
    free, given = list(team), 0
    ready: dict[int, list[Result] | Exception] = {}
    for number in range(len(chunks)):
        while number not in ready:
            while free and given < min(len(chunks), number + AHEAD * len(team)):
                pipe = free.pop()
                with contextlib.suppress(OSError):  # it is dead, as the next lines will find
                    pipe.send((given, chunks[given]))
                given += 1
            for answered in wait([pipe for pipe in team if pipe not in free]):
                assert isinstance(answered, Connection)
                try:
                    place, results = answered.recv()
                except (EOFError, ConnectionResetError):
                    raise _died(team[answered], "a worker process") from None
                ready[place] = results
                free.append(answered)
        results = ready.pop(number)
        if isinstance(results, Exception):
            raise results
        yield from results


def _serve(pipe: Connection, environment: Mapping[str, str]) -> None:
    _take_over(environment)
    _let_through()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems on which it cannot be blocked
    threading.Thread(target=_end_with_parent, args=(os._exit, 1), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent has closed the pipe
        work = pipe.recv()
        while True:
            place, chunk = pipe.recv()
            try:
                answer: list[object] | Exception = [work(item) for item in chunk]
            except Exception as error:
                error.add_note(f"in a worker process:\n{traceback.format_exc()}")
                answer = error
            pipe.send((place, answer))


def _died(process: BaseProcess, what: str) -> RunError:
    process.join()
    return RunError(
        f"{what} ended without a word (exit code {process.exitcode}; killed, or out of memory?); "
        "the same command goes on"
    )


@contextlib.contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """Hold back what asks this process to end: a process that is started meanwhile is started whole.

    It inherits that, so that none meets Ctrl-C while it still imports; the other signals it lets through itself.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    with unwarned():
        resource_tracker.ensure_running()  # starting it would let SIGINT through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Have processes that are started meanwhile ignore SIGUSR1 and SIGUSR2, as theirs do.

    Some schedulers warn a job's whole tree, where a process without a handler would die; the first one alone answers.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _let_through() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGHUP])


def _child(
    work: Callable[[Job, str], Result], job: Job, device: str, pipe: Connection, environment: Mapping[str, str]
) -> None:
    _take_over(environment)
    _let_through()
    if hasattr(os, "setpgrp"):  # Ctrl-C reaches the parent alone, which then sends the one SIGTERM
        os.setpgrp()
    else:  # Windows, untested
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(os.kill, os.getpid(), signal.SIGTERM), daemon=True).start()
    try:
        pipe.send(work(job, device))
    except ReidgenError as error:
        pipe.send(error)


def _take_over(environment: Mapping[str, str]) -> None:
    """Set the variables as they are in the parent now: the process that this one was forked from may have older ones.

    What a library read when it was imported (OMP_NUM_THREADS) is as it was at the first start.
    """
    os.environ.clear()
    os.environ.update(environment)


def _end_with_parent(end: Callable[..., object], *how: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    end(*how)
