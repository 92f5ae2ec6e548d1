"""Commands that train and evaluate: one run, one target, or the whole grid."""

from pathlib import Path
from typing import Annotated

import typer

from reidgen import __version__
from reidgen.commands.options import (
    Backbone,
    Compile,
    Data,
    Device,
    Epochs,
    RecipeName,
    Results,
    RunName,
    Source,
    Target,
    Weights,
    recipe_of,
)
from reidgen.commands.tables import print_table
from reidgen.errors import RecipeError
from reidgen.terminal import one_sentence, out, progress


@one_sentence
def train(
    method: Annotated[
        str, typer.Option(help="A name of the METHODS table: baseline, in, ibn, a-in, a-sn, snr, ...")
    ] = "snr",
    source: Source = "synth",
    seed: Annotated[int, typer.Option(help="Decides the initial weights, batches and augmentation.")] = 0,
    recipe: RecipeName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    epochs: Epochs = None,
    compile: Compile = False,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
) -> None:
    """Train one network; the same command resumes it.

    Example: reidgen train --method snr --source market --seed 0
    """
    chosen = recipe_of(recipe, source, method=method, seed=seed, backbone=backbone, weights=weights, epochs=epochs, compile=compile)  # fmt: skip
    from reidgen.catalogue import split_all
    from reidgen.training import train as run_training

    with progress() as report:
        run = run_training(chosen, data=data, results=results, device=device, report=report)
    facts = run.facts()
    out().print(f"{run.folder}: trained in {facts['seconds']} s on {facts['device']}", soft_wrap=True)
    if facts["version"] != __version__:
        out().print(
            f"note: that was reidgen {facts['version']}, this is {__version__}; remove the folder to train it anew"
        )
    if single := facts.get("single"):
        out().print(f"{chosen.source}: {single} identities have a single image and were left out", soft_wrap=True)
    target = next((name for name, everything in map(split_all, chosen.sources) if not everything), "NAME")
    out().print(f"next: reidgen evaluate {run.folder} --target {target}", soft_wrap=True)


@one_sentence
def evaluate(
    run: RunName,
    target: Target,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
) -> None:
    """Evaluate one trained run on a target: mAP, CMC and mINP.

    Example: reidgen evaluate snr-tiny-s0 --target synth-night
    """
    from reidgen.catalogue import expand
    from reidgen.runs import find_run, tie_notes

    found = find_run(run, results)
    from reidgen.evaluation import evaluate as run_evaluation

    for name in expand(target.split(",")):
        with progress() as report:
            rows = run_evaluation(found, name, data=data, device=device, report=report)
        mean, splits = rows.mean(numeric_only=True), len(rows)
        spread = f" (mean of {splits} splits, mAP ± {100 * rows['mAP'].std():.1f})" if splits > 1 else ""
        numbers = ", ".join(f"{name} {100 * mean[key]:.1f}" for name, key in
                            {"mAP": "mAP", "Rank-1": "rank1", "Rank-5": "rank5", "Rank-10": "rank10", "mINP": "mINP"}.items())  # fmt: skip
        out().print(f"{name}{' (seen)' if rows['seen'].any() else ''}: {numbers}{spread}", soft_wrap=True)
        if rows["unmatched"].sum():
            out().print(
                f"{name}: {rows['unmatched'].sum()} of {rows['queries'].sum()} queries have no match and do not count"
            )
        for note in tie_notes(rows):
            out().print(note, soft_wrap=True)
    out().print(f"rows in {found.results}, per-query numbers in {found.per_query}", soft_wrap=True)


@one_sentence
def bench(
    source: Annotated[
        str | None,
        typer.Option(help="Data set to train on; several joined by +; market-all: all its images; by default synth."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Instead of a source: single, snr-multi, p1, p1-duke, p2, p3 or loo-duke.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Prepared sets, joined by commas; by default those of the catalogue, one of a family."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="main, ablations, loss, stage, design, all, or names with commas.")
    ] = "main",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1 of every method.")] = 3,
    recipe: RecipeName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    epochs: Epochs = None,
    compile: Compile = False,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
) -> None:
    """Train methods x seeds on a source, evaluate on all targets, write the table; or all of a protocol.

    Safe to stop and repeat: only what is missing runs.

    Example: reidgen bench --source synth --methods main --seeds 3

    Example: reidgen bench --protocol p2 --methods baseline,snr
    """
    from reidgen.catalogue import expand
    from reidgen.methods import select_methods
    from reidgen.protocols import get_protocol

    if source and protocol:
        raise RecipeError(f"--protocol {protocol} has sources of its own; leave out --source {source}, or --protocol")
    if target and protocol:
        raise RecipeError(f"--protocol {protocol} has targets of its own; leave out --target {target}, or --protocol")
    cells = get_protocol(protocol) if protocol else None
    first = next(iter(cells.cells)) if cells else source or "synth"
    chosen = recipe_of(recipe, first, backbone=backbone, weights=weights, epochs=epochs, compile=compile)
    names = select_methods(methods)
    from reidgen.bench import bench as run_bench
    from reidgen.bench import rows_of

    with progress() as report:
        grid = run_bench(chosen, methods=names, seeds=seeds, data=data, results=results, protocol=cells,
                  targets=expand(target.split(",")) if target else (), device=device, report=report, say=lambda line: out().print(line, soft_wrap=True))  # fmt: skip
    print_table(results, choose=lambda rows: rows_of(grid, rows, alone=cells is not None))


@one_sentence
def speed(
    methods: Annotated[
        str, typer.Option(help="main, ablations, loss, stage, design, all, or names with commas.")
    ] = "baseline,snr",
    recipe: Annotated[str, typer.Option(help="paper, quick or FILE.toml.")] = "quick",
    backbone: Backbone = None,
    compile: Compile = False,
    device: Device = "auto",
) -> None:
    """Measure training, embedding and ranking on this machine, each against what the machine could do.

    Example: reidgen speed --recipe paper --methods baseline,snr
    """
    from reidgen.methods import select_methods
    from reidgen.recipe import load_recipe

    chosen = load_recipe(recipe).change(backbone=backbone, compile=compile or None)
    names = select_methods(methods)
    from reidgen.devices import choose_device, device_name
    from reidgen.speed import speed as run_speed
    from reidgen.speed import table as speed_table

    with progress() as report:
        rows = run_speed(chosen, methods=names, device=device, report=report)
    where = device_name(choose_device(device))
    out().print(
        f"recipe {chosen.name}: {chosen.backbone}, {chosen.height}x{chosen.width}, batches of {chosen.batch}, "
        f"{chosen.dtype}{', compiled' * chosen.compile}; {where}",
        soft_wrap=True,
    )
    out().print(speed_table(rows), soft_wrap=True)
    out().print(
        "limit: if the machine did nothing but the work's matrix products, as fast as the one above (batches: its copy); "
        "data: share of a step that draws, reads and augments the batch"
    )
