"""A training followed in TensorBoard, Weights & Biases or MLflow: each row of log.csv, and the results. Off by default.

TensorBoard's files lie in the run's folder, `tensorboard/`; W&B is offline (`wandb/` there; WANDB_MODE says otherwise),
MLflow writes `mlruns/` in the results folder (MLFLOW_TRACKING_URI says otherwise). A run that goes on is one run there
too. What these packages raise ends no training: it is said once.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from reidgen.errors import RecipeError, unknown
from reidgen.recipe import Recipe
from reidgen.runs import Run
from reidgen.teststeps import PLAIN

PROJECT = "reidgen"
Row = Mapping[str, float]

log = logging.getLogger("reidgen")


class Follower(Protocol):
    """One tool that a training is followed in."""

    def write(self, values: Row, epoch: int) -> None:
        """Write what was measured at the end of an epoch, by name."""

    def close(self) -> None:
        """Write out all that waits."""


class TensorBoard:
    """Event files; those of epochs that a run which goes on does again are not shown twice."""

    def __init__(self, run: Run, recipe: Recipe, epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=epoch + 1)

    def write(self, values: Row, epoch: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases, offline unless WANDB_MODE says otherwise."""

    def __init__(self, run: Run, recipe: Recipe, epoch: int) -> None:
        import wandb

        self.run: Any = wandb.init(
            project=PROJECT,
            dir=str(run.folder),
            id=hashlib.sha256(run.folder.name.encode()).hexdigest()[:16],
            name=run.folder.name,
            config=_settings(recipe),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
        )

    def write(self, values: Row, epoch: int) -> None:
        self.run.log(dict(values), step=epoch)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of MLflow; its number is kept in the run's folder, so that a run which goes on is the same one."""

    def __init__(self, run: Run, recipe: Recipe, epoch: int) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which MLflow 3 refuses without
        import mlflow

        self.mlflow: Any = mlflow
        results = run.folder.parents[2].resolve()
        mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or (results / "mlruns").as_uri())
        mlflow.set_experiment(PROJECT)
        kept = run.folder / "mlflow"
        if kept.is_file():
            mlflow.start_run(run_id=kept.read_text(encoding="utf-8").strip())
        else:
            begun = mlflow.start_run(run_name=run.folder.name)
            kept.write_text(f"{begun.info.run_id}\n", encoding="utf-8")
            mlflow.log_params(_settings(recipe))

    def write(self, values: Row, epoch: int) -> None:
        self.mlflow.log_metrics(dict(values), step=epoch)

    def close(self) -> None:
        self.mlflow.end_run()


FOLLOWERS: dict[str, Callable[[Run, Recipe, int], Follower]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def views(names: Sequence[str], results: Path) -> list[str]:
    """Return for each tool what shows what is followed from now on."""
    runs = shlex.quote(str(results / "runs"))
    commands = {
        "tensorboard": f"tensorboard --logdir {runs}",
        "wandb": f"wandb sync {runs}/*/*/wandb/offline-run-*",
        "mlflow": f"mlflow ui --backend-store-uri {shlex.quote(str(results / 'mlruns'))}",
    }
    what = "what is trained and evaluated from now on is followed there; to see it"
    return [f"--log {name}: {what}: {commands[name]}" for name in names]


def check_followers(names: Sequence[str]) -> None:
    """Raise RecipeError for a name that is none of FOLLOWERS, or whose package is not installed."""
    for name in names:
        if name not in FOLLOWERS:
            raise RecipeError(unknown("--log", name, FOLLOWERS))
        if importlib.util.find_spec(name) is None:
            raise RecipeError(f"--log {name}: the package is not installed; run: pip install {name}")


@contextlib.contextmanager
def following(names: Sequence[str], run: Run, recipe: Recipe, epoch: int) -> Iterator[Callable[[Row], None]]:
    """Yield what is called with each row of log.csv. epoch: how many are done already."""
    with _opened(names, run, recipe, epoch) as write:
        yield lambda row: write(
            {f"train/{name}": value for name, value in row.items() if name not in ("epoch", "seconds")},
            int(row["epoch"]),
        )


def follow_results(names: Sequence[str], run: Run, recipe: Recipe, rows: pd.DataFrame) -> None:
    """Write the results of a run on a target, the mean over its splits, where the run is followed."""
    values: dict[str, float] = {}
    for (target, test), part in rows.groupby(["target", "test"]):
        where = str(target) if test == PLAIN else f"{target}/{test}"
        values |= {f"test/{where}/{name}": float(part[name].mean()) for name in ("mAP", "rank1", "rank5", "mINP")}
    with _opened(names, run, recipe, recipe.epochs) as write:
        write(values, recipe.epochs)


@contextlib.contextmanager
def _opened(names: Sequence[str], run: Run, recipe: Recipe, epoch: int) -> Iterator[Callable[[Row, int], None]]:
    open_ones: dict[str, Follower] = {}

    def careful(name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # whatever such a package raises: the training is worth more
            open_ones.pop(name, None)
            log.warning("--log %s: it is not followed any further (%s: %s)", name, type(error).__name__, error)

    def write(values: Row, at: int) -> None:
        for name, follower in list(open_ones.items()):
            careful(name, lambda follower=follower: follower.write(values, at))  # type: ignore[misc]

    for name in names:
        careful(name, lambda name=name: open_ones.update({name: FOLLOWERS[name](run, recipe, epoch)}))  # type: ignore[misc]
    try:
        yield write
    finally:
        for name, follower in list(open_ones.items()):
            careful(name, follower.close)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {one.name: str(getattr(recipe, one.name)) for one in dataclasses.fields(recipe)}
