"""A grid on a cluster: its missing cells as an array of SLURM jobs, or as workers on this machine, both by submitit.

A job trains and evaluates its cell as `bench` does, holding the run's folder; when the scheduler is about to end it
(SIGUSR1, SIGUSR2 or SIGTERM), it writes its checkpoint and is put back into the queue. Workers on one machine each go
through all cells, and the claims on the folders divide them.
"""

import contextlib
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from reidgen.errors import InterruptedRunError, RecipeError, RunError
from reidgen.escapes import many
from reidgen.files import read_regular
from reidgen.jobs import LOCAL, SLURM, Plan, new_plan
from reidgen.locks import Holder
from reidgen.planning import Cell
from reidgen.runs import Run
from reidgen.status import FAILED, LOG, QUEUED, RUNNING, TO_DO, State, counts, states

POLL = 5.0  # seconds between two looks at a grid that is waited for
UNSURE = 300.0  # seconds for which a scheduler that does not answer is waited for: it may be starting anew
GRACE = 120  # seconds before the time limit at which the scheduler signals: a checkpoint of a large network takes some
FOR_EVER = 60 * 24 * 30  # minutes of a worker on this machine
_GPUS = ("auto", "cuda", "gpu")  # devices that mean all GPUs of a machine
_STARTED: list[Any] = []  # jobs of this machine, which are meant to outlive what started them
ARRAY = 1000  # jobs of one array: SLURM's own bound, where nobody has changed it, is 1,001


@dataclass(frozen=True)
class Cluster:
    """Where jobs run and what each may use.

    on: "slurm" or "local". gpus: of each run, more than one by torchrun. hours: of a job, which is then put back into
    the queue and goes on from its checkpoint. memory: GB. cpus: of a job. parallel: jobs at a time, of `local` the
    workers. Where a number is 0, the scheduler's default. setup: shell lines before the job. sbatch: more of its
    options.
    """

    on: str = SLURM
    partition: str = ""
    gpus: int = 0
    hours: float = 4.0
    memory: float = 0.0
    cpus: int = 0
    parallel: int = 0
    setup: tuple[str, ...] = ()
    sbatch: Mapping[str, str] = field(default_factory=dict)


def read_cluster(on: str, **options: Any) -> Cluster:
    """Return what `--on` means, "slurm", "local" or a TOML file with a table [cluster], with options that are given
    (not None) in the place of the table's.

    Raises RecipeError for another word, a key that is unknown or of another kind, and a number below 0.
    """
    table: dict[str, Any] = {"on": on}
    if on not in (SLURM, LOCAL):
        table = {"on": SLURM, **_table(Path(on))}
    table |= {key: value for key, value in options.items() if value is not None}
    known = {one.name: one for one in fields(Cluster)}
    for key, value in table.items():
        if key not in known:
            raise RecipeError(f"[cluster] {key}: there is no such key; known: {', '.join(known)}")
        default = getattr(Cluster(), key)
        if isinstance(default, tuple):
            lines = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else (0,)
            good, table[key] = all(isinstance(line, str) for line in lines), lines
        elif isinstance(default, Mapping):
            good = isinstance(value, Mapping)
        elif isinstance(default, str):
            good = isinstance(value, str)
        else:
            whole = isinstance(default, int)
            good = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and value >= 0
        if not good:
            raise RecipeError(f"[cluster] {key} = {value!r}: give {_KINDS[type(default)]}")
    if table.get("hours") == 0:
        raise RecipeError("[cluster] hours = 0: a job needs some time, such as 4; fractions of an hour count")
    if table["on"] not in (SLURM, LOCAL):
        raise RecipeError(f"[cluster] on = {table['on']!r}: give {SLURM!r} or {LOCAL!r}")
    return Cluster(**table)


_KINDS = {str: "a word", int: "a whole number from 0", float: "a number from 0", tuple: "lines", dict: "a table"}


def _table(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(read_regular(file).decode()).get("cluster")
    except FileNotFoundError:
        raise RecipeError(f"--on {file}: give {SLURM}, {LOCAL} or a TOML file with a table [cluster]") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"--on {file}: this is no TOML file ({error})") from error
    if not isinstance(table, dict):
        raise RecipeError(f"--on {file}: it has no table [cluster]; see docs/cluster.md")
    return table


def missing(found: Sequence[State], on: str = SLURM) -> list[Cell]:
    """Return the cells that are neither done nor queued nor running; on "local" also those of which nobody can tell
    whether they are queued: should a job begin after all, the claims divide them.
    """
    return [one.cell for one in found if one.state in (TO_DO, FAILED) or (on == LOCAL and not one.sure)]


def submit(
    cells: Sequence[Cell], cluster: Cluster, *, data: Path, results: Path, device: str, log: Sequence[str] = ()
) -> list[str]:
    """Submit cells and return what was submitted, in sentences. On slurm each is a job of an array; on local the
    workers each go through all of them.

    Raises RecipeError where submitit is not installed, there is no SLURM, or there are too few GPUs; RunError for what
    sbatch answers; ReidgenError where the results folder cannot be written.
    """
    submitit = _submitit()
    if cluster.on == SLURM and shutil.which("sbatch") is None:
        raise RecipeError("there is no sbatch on this machine; submit from one of the cluster's, or use --on local")
    here = [replace(cell, run=Run(cell.run.folder.resolve())) for cell in cells]
    work = Work(tuple(here), data.resolve(), results.resolve(), device=device, gpus=cluster.gpus, log=tuple(log))
    if cluster.on == LOCAL:
        return [_start_workers(submitit, new_plan(results, LOCAL, [cell.run.folder for cell in here]), work, cluster)]
    chunks = [here[start : start + ARRAY] for start in range(0, len(here), ARRAY)]
    return [
        _submit_array(submitit, new_plan(results, SLURM, [cell.run.folder for cell in chunk]), chunk, work, cluster)
        for chunk in chunks
    ]


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise RecipeError(f"--on needs submitit ({error}); run: pip install 'reidgen[cluster]'") from error
    return submitit


def _submit_array(submitit: Any, plan: Plan, cells: Sequence[Cell], work: "Work", cluster: Cluster) -> str:
    plan.write()  # first: whoever is killed behind sbatch has left what was submitted
    executor = submitit.SlurmExecutor(plan.folder, max_num_timeout=10**6)
    parameters: dict[str, Any] = {
        "job_name": plan.name,
        "time": max(1, round(60 * cluster.hours)),
        "partition": cluster.partition,
        "gpus_per_node": cluster.gpus,
        "mem": f"{round(1024 * cluster.memory)}MB" if cluster.memory else "",
        "cpus_per_task": cluster.cpus,
        "array_parallelism": cluster.parallel,
        "signal_delay_s": min(GRACE, round(1800 * cluster.hours)),
        "setup": list(cluster.setup),
        "additional_parameters": dict(cluster.sbatch),
    }
    executor.update_parameters(**{key: value for key, value in parameters.items() if value})
    try:
        with executor.batch():
            jobs = [executor.submit(replace(work, cells=(cell,))) for cell in cells]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        shutil.rmtree(plan.folder, ignore_errors=True)  # nothing of it is in the queue
        words = " ".join(str(error).split())
        raise RunError(
            f"sbatch refused the jobs: {words}; look at --partition and the like, or at [cluster]"
        ) from error
    job = jobs[0].job_id.partition("_")[0]
    many = f"job array {job}, {len(cells)} cells" if len(cells) > 1 else f"job {job}, 1 cell"
    return f"submitted: {many}, called {plan.name} in the queue; scripts and output in {plan.folder}"


def _start_workers(submitit: Any, plan: Plan, work: "Work", cluster: Cluster) -> str:
    gpus = _gpus(work.device)
    each = max(cluster.gpus, 1)
    if cluster.gpus > gpus and work.device in _GPUS:
        raise RecipeError(f"--gpus {each}: this machine has {gpus or 'none'}; --device cpu takes as many processes")
    number = min(cluster.parallel or max(gpus // each, 1), len(work.cells))
    if gpus and number * each > gpus:
        raise RecipeError(f"--parallel {number} with --gpus {each}: this machine has {gpus} of them")
    plan.write()
    workers = []
    for place in range(number):
        executor = submitit.LocalExecutor(plan.folder)
        visible = tuple(range(place * each, (place + 1) * each)) if gpus else ()
        executor.update_parameters(
            timeout_min=FOR_EVER,
            gpus_per_node=len(visible),
            visible_gpus=visible,
            setup=list(cluster.setup),
        )
        with _apart():
            job = executor.submit(work)
        _STARTED.append(job)
        workers.append(Holder.of(int(job.job_id)))
    replace(plan, workers=tuple(workers)).write()
    numbers = ", ".join(str(worker.process) for worker in workers)
    who = f"{many(number, 'worker')} (process {numbers}) for {many(len(work.cells), 'cell')}"
    return f"started: {who}; output in {plan.folder}"


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Have a process that is started meanwhile print nowhere: it outlives this command, whose output may be a pipe."""
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        os.close(nowhere)
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def _gpus(device: str) -> int:
    """Return how many GPUs of this machine workers may use."""
    if device not in _GPUS:
        return 0
    import torch

    return torch.cuda.device_count()


@dataclass(frozen=True)
class Work:
    """What a job does: train and evaluate cells as `bench` does. gpus: of each run, more than one by torchrun."""

    cells: tuple[Cell, ...]
    data: Path
    results: Path
    device: str
    gpus: int
    log: tuple[str, ...]

    def __call__(self) -> None:
        """Do it; a job that the scheduler is about to end is put back into the queue. Raises RunError for cells that
        failed, once all were tried.
        """
        import submitit

        from reidgen.grid import work_off
        from reidgen.terminal import note, progress

        environment = submitit.JobEnvironment()
        os.environ[LOG] = str(environment.paths.stderr)
        try:
            with progress() as report:
                failures = work_off(
                    list(self.cells),
                    data=self.data,
                    results=self.results,
                    devices=[self.device],
                    ranks=self.gpus,
                    log=self.log,
                    report=report,
                    say=note,
                )
        except InterruptedRunError:
            if environment.cluster == SLURM and _is_running(environment.raw_job_id):
                environment._requeue(0)
            raise
        if failures:
            raise RunError("; ".join(failure.sentence for failure in failures))

    def checkpoint(self) -> Any:
        """Return what a job does that goes on: the same, as all that it did lies in the results folder."""
        return _submitit().helpers.DelayedSubmission(self)


def _is_running(job: str) -> bool:
    """Tell whether a job that was signalled is still meant to run: it was neither cancelled nor requeued already."""
    try:
        words = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "RUNNING"
    except (OSError, subprocess.SubprocessError):
        return False


def wait_for(cells: Sequence[Cell], results: Path, report: Callable[[str, float, int], None]) -> list[State]:
    """Return how far the cells are once none of them is queued or running. `report` counts cells, those at work in
    part. When only such are left of which nobody can tell whether they are queued, it ends after UNSURE seconds."""
    told = time.monotonic()
    while True:
        found = states(cells, results)
        report(counts(found), sum(one.share for one in found), len(found))
        if any(one.state in (QUEUED, RUNNING) and one.sure for one in found):
            told = time.monotonic()
        elif all(one.sure for one in found) or time.monotonic() - told >= UNSURE:
            return found
        time.sleep(POLL)
