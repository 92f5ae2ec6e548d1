"""The grid: methods x seeds on one source, each run evaluated on every prepared target. Runs what is missing."""

from collections.abc import Callable
from pathlib import Path

from reidgen.catalogue import load_catalogue
from reidgen.data.batches import source_digest
from reidgen.data.prepare import prepared_names
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
) -> str:
    """Train and evaluate every missing cell of methods x seeds, and return the hash that its rows carry.

    Safe to stop and repeat at any moment: finished runs and evaluated targets are skipped, an unfinished run goes on.
    A target that shares images with a source is left out, with one line that says so. `say` gets one line per run, and one
    that names the catalogue's sets that are not prepared. Raises what `train` and `evaluate` raise.
    """
    source_digest(recipe, data=data)  # a source that is not prepared ends here
    here = prepared_names(data)
    if missing := [name for name in load_catalogue() if name not in here]:
        say(f"not prepared, so not evaluated: {', '.join(missing)} (see: reidgen prepare --list)")
    targets = targets_of(data)
    digest = ""
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
        digest = str(run.facts()["hash"])
        say(f"{cell} {_summary(run, [prepared.name for prepared in targets])}")
    return digest


def _summary(run: Run, targets: list[str]) -> str:
    """Return one line for a finished run: training time, and mAP on each target, seen ones first."""
    rows = read_csv(run.results)
    means = rows[rows["target"].isin(targets)].groupby(["seen", "target"], as_index=False)["mAP"].mean()
    unseen = means[means["seen"] == 0]["mAP"]
    known = means[means["seen"] == 1]
    seen = ", ".join(f"{target} {100 * value:.1f}" for target, value in zip(known["target"], known["mAP"], strict=True))
    mean = f"mean of {len(unseen)} unseen {100 * unseen.mean():.1f}" if len(unseen) else "no unseen target"
    recipe = run.recipe()
    return (
        f"{recipe.method} s{recipe.seed}: trained in {float(run.facts()['seconds']):.0f} s; mAP "
        f"{f'{seen} (seen), ' if seen else ''}{mean}"
    )
