"""The grid: methods x seeds on one source, each run evaluated on every prepared target. Runs what is missing."""

from collections.abc import Callable
from pathlib import Path

from reidgen.errors import SharedImagesError
from reidgen.evaluation import evaluate, targets_of
from reidgen.recipe import Recipe
from reidgen.runs import Progress, Run, read_csv
from reidgen.training import train


def bench(
    recipe: Recipe,
    *,
    methods: list[str],
    seeds: int,
    data: Path,
    results: Path,
    device: str = "auto",
    report: Progress,
    say: Callable[[str], None],
) -> None:
    """Train and evaluate every missing cell of methods x seeds; all seeds of a table fill up evenly.

    Safe to stop and repeat at any moment: finished runs and evaluated targets are skipped, an unfinished run goes on.
    A target that shares images with a source is left out, with one line that says so. `say` gets one line per run.
    """
    targets = targets_of(data)
    grid = [(seed, method) for seed in range(seeds) for method in methods]
    for number, (seed, method) in enumerate(grid, start=1):
        cell = f"[{number}/{len(grid)}]"

        def show(what: str, done: int, total: int, cell: str = cell) -> None:
            report(f"{cell} {what}", done, total)

        run = train(recipe.change(method=method, seed=seed), data=data, results=results, device=device, report=show)
        for prepared in targets:
            if run.evaluated(prepared.name, prepared.digest):
                continue
            try:
                evaluate(run, prepared.name, data=data, device=device, report=show)
            except SharedImagesError as error:
                say(f"left out: {error}")
        say(f"{cell} {_summary(run, [prepared.name for prepared in targets])}")


def _summary(run: Run, targets: list[str]) -> str:
    """Return one line for a finished run: training time, and mAP on each target, seen ones first."""
    rows = read_csv(run.results)
    means = rows[rows["target"].isin(targets)].groupby(["seen", "target"])["mAP"].mean()
    unseen = means[means.index.get_level_values("seen") == 0]
    seen = ", ".join(f"{target} {100 * value:.1f}" for (flag, target), value in means.items() if flag)
    mean = f"mean of {len(unseen)} unseen {100 * unseen.mean():.1f}" if len(unseen) else "no unseen target"
    recipe = run.recipe()
    return (
        f"{recipe.method} s{recipe.seed}: trained in {float(run.facts()['seconds']):.0f} s; mAP "
        f"{f'{seen} (seen), ' if seen else ''}{mean}"
    )
