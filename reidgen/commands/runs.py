"""Commands that train and evaluate: one run, one target, or the whole grid."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reidgen import __version__
from reidgen.commands.cluster import (
    Gpus,
    Hours,
    Memory,
    On,
    Parallel,
    Partition,
    Setup,
    Status,
    Wait,
    asked_cluster,
    bench_on,
    print_forecast,
    print_status,
)
from reidgen.commands.models import open_and_say, refuse_without_model
from reidgen.commands.options import (
    Backbone,
    Compile,
    Data,
    Device,
    Epochs,
    Input,
    Json,
    Log,
    Model,
    ModelWeights,
    Plugin,
    Quiet,
    RecipeName,
    Results,
    RunNamesOrModel,
    Set,
    SetStep,
    Source,
    Target,
    Test,
    TrainedOn,
    Weights,
    read_seeds,
    whole_number,
)
from reidgen.commands.tables import Asked, print_table
from reidgen.errors import InterruptedRunError, RecipeError, ReidgenError, RunError
from reidgen.escapes import many
from reidgen.terminal import document, note, one_sentence, progress, result

if TYPE_CHECKING:
    import pandas as pd

    from reidgen.grid import Grid
    from reidgen.recipe import Recipe


@one_sentence
def train(
    method: Annotated[
        str | None, typer.Option(help="baseline, in, ibn, a-in, a-sn, snr (default), ...; see: reidgen methods")
    ] = None,
    source: Source = None,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=whole_number("--seed"),
            metavar="<int>",
            help="Decides the initial weights, batches and augmentation; 0 by default.",
        ),
    ] = None,
    recipe: RecipeName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    epochs: Epochs = None,
    compile: Compile = False,
    setting: Set = None,
    plugin: Plugin = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
    log: Log = None,
    quiet: Quiet = False,
) -> None:
    """Train one network; the same command resumes it.

    Example: reidgen train --method snr --source market --seed 0
    """
    from reidgen.catalogue import split_all
    from reidgen.parts import settings_of
    from reidgen.recipe import choose_recipe, idle

    asked = settings_of(setting or [])
    chosen = choose_recipe(
        recipe,
        source,
        compile=compile or None,
        plugins=plugin or (),
        settings=asked,
        method=method,
        seed=seed,
        backbone=backbone,
        weights=weights,
        epochs=epochs,
    )
    for line in idle(asked, [chosen.method]):
        note(line)
    from reidgen.runs import now
    from reidgen.training import train as run_training

    _follow(log, results)
    began = now()
    with progress() as report:
        run = run_training(chosen, data=data, results=results, device=device, log=log or (), report=report)
    facts = run.facts()
    already = " already," if facts["date"] < began else ""
    result(f"{run.folder}: trained{already} in {facts['seconds']} s on {facts['device']}")
    if facts["version"] != __version__:
        note(f"note: that was reidgen {facts['version']}, this is {__version__}; remove the folder to train it anew")
    if "eager" in facts:
        note(f"note: trained without CUDA graphs, which may be slower: {facts['eager']}")
    if "unverified" in (origin := facts.get("weights_from", "")):
        note(f"weights: {origin}")
    if unused := facts.get("weights_unused"):
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        note(f"{chosen.weights}: not used: {', '.join(unused[:3])}{more}")
    if single := facts.get("single"):
        note(f"{chosen.source}: {single} identities have a single image and were left out")
    target = next((name for name, everything in map(split_all, chosen.sources) if not everything), "NAME")
    plugins = [word for name in chosen.plugins for word in ("--plugin", name)]
    note(f"next: {shlex.join(['reidgen', 'evaluate', str(run.folder), '--target', target, *plugins])}")


@one_sentence
def evaluate(
    runs: RunNamesOrModel = None,
    target: Target = "",
    test: Test = "plain",
    setting: SetStep = None,
    model: Model = None,
    weights: ModelWeights = None,
    trained_on: TrainedOn = "",
    input: Input = None,
    plugin: Plugin = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate runs, or a model from elsewhere, on targets.

    Every test has rows of its own; another one overwrites none.

    Example: reidgen evaluate snr-tiny-s0 --target synth-night

    Example: reidgen evaluate snr-tiny-s0 --target synth-night --test plain,flip+centre+rerank --set rerank.k1=30

    Example: reidgen evaluate snr-tiny-s0 snr-tiny-s1 --target synth-night,synth-mall --json

    Example: reidgen evaluate --model osnet.onnx --trained-on msmt17 --input mean=imagenet --target market
    """
    from reidgen.catalogue import expand
    from reidgen.data.judge import copies_tested
    from reidgen.data.manifest import load_prepared
    from reidgen.parts import settings_of
    from reidgen.runs import find_run
    from reidgen.ways import select_ways

    ways = select_ways(test, settings_of(setting or []))
    if runs and model:
        raise RunError("give either RUNs or --model, not both: each has its own rows")
    if not target or not (runs or model):
        raise RunError(
            "what is evaluated on what? For example: reidgen evaluate snr-tiny-s0 --target synth-night, or reidgen "
            "evaluate --model osnet.onnx --target market"
        )
    refuse_without_model(model, weights=weights, trained_on=trained_on, input=input)
    found = list(dict.fromkeys(find_run(name, results) for name in runs or []))
    from reidgen.evaluation import evaluate as run_evaluation
    from reidgen.evaluation import judge

    opened = None
    if model:
        opened = open_and_say(model, weights, input, trained_on, device)
        found = [opened.run(results)]
    pairs = [(run, name) for run in found for name in expand(target.split(","))]
    rows_of_all: list[dict[str, object]] = []
    failed: list[str] = []
    for run, name in pairs:
        try:
            with progress() as report:
                if opened:
                    judged = opened.judged(run)
                    rows = judge(run, lambda: judged, name, ways=ways, data=data, report=report)  # noqa: B023
                else:
                    rows = run_evaluation(run, name, ways=ways, data=data, device=device, report=report)
        except InterruptedRunError:
            raise
        except ReidgenError as error:
            if len(pairs) == 1:
                raise
            failed.append(f"{run.folder.name} on {name}: {error}")
            continue
        told = rows.assign(run=str(run.folder)).to_dict("records")
        rows_of_all += [{str(key): None if value != value else value for key, value in row.items()} for row in told]
        if not json:
            for word, part in rows.groupby("test", sort=False):
                what = name if word == "plain" else f"{name}, {word}"
                _print_evaluation(part, what, f"{run.folder.name}: " if len(found) > 1 else "")
    if json:
        document(rows_of_all)
    for name in dict.fromkeys(str(row["target"]) for row in rows_of_all):
        if line := copies_tested(load_prepared(name, data)):
            note(line)
    for run in found:
        note(f"rows in {run.results}, per-query numbers in {run.per_query}")
    if failed:
        raise RunError("\n".join([f"{len(failed)} of {len(pairs)} evaluations failed:", *failed]))


def _print_evaluation(rows: "pd.DataFrame", target: str, before: str) -> None:
    """Print the mean over a target's splits; target: and its test; before: what each line begins with."""
    from reidgen.rows import percent, tie_notes

    kinds = {"mAP": "mAP", "Rank-1": "rank1", "Rank-5": "rank5", "Rank-10": "rank10", "mINP": "mINP"}
    mean, splits = rows.mean(numeric_only=True), len(rows)
    spread = f" (mean of {splits} splits, mAP ± {percent(rows['mAP'].std())})" if splits > 1 else ""
    numbers = ", ".join(f"{word} {percent(mean[key])}" for word, key in kinds.items())
    result(f"{before}{target}{' (seen)' if rows['seen'].any() else ''}: {numbers}{spread}")
    if unmatched := rows["unmatched"].sum():
        note(f"{before}{target}: {unmatched} of {rows['queries'].sum()} queries have no match and do not count")
    for line in tie_notes(rows):
        note(f"{before}{line}")


@one_sentence
def bench(
    context: typer.Context,
    source: Source = None,
    protocol: Annotated[
        str | None, typer.Option(help="Instead of a source: single, snr-multi, p1, p1-duke, p2, p3 or loo-duke.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Prepared sets, joined by commas; by default those of the catalogue, one of a family."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="main, ablations, placement, a group (mixing, losses), all, or names with commas.")
    ] = "main",
    seeds: Annotated[
        str, typer.Option(help="N: seeds 0 to N-1 of every method; or seeds such as 2,4 (4, for one).")
    ] = "3",
    test: Test = "plain",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would run, the disk it takes, and about how long.")
    ] = False,
    recipe: RecipeName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    epochs: Epochs = None,
    compile: Compile = False,
    setting: Set = None,
    plugin: Plugin = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
    status: Status = False,
    on: On = None,
    wait: Wait = False,
    partition: Partition = None,
    gpus: Gpus = None,
    hours: Hours = None,
    memory: Memory = None,
    parallel: Parallel = None,
    setup: Setup = None,
    log: Log = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train methods x seeds, evaluate them, write the table.

    On one source, or on the cells of a protocol. Safe to stop and repeat: only what is missing runs. A run that fails
    is noted and the others go on; a run that another process holds comes last. Several may share one results folder,
    from several machines; --on has a cluster do it (docs/cluster.md).

    Example: reidgen bench --source synth --methods main --seeds 3

    Example: reidgen bench --protocol p2 --methods baseline,snr

    Example: reidgen bench --source synth --test plain,centre,bn

    Example: reidgen bench --protocol p2 --on slurm --partition gpu --gpus 1 --hours 8 --wait

    Example: reidgen bench --protocol p2 --status
    """
    from reidgen.catalogue import expand
    from reidgen.parts import settings_of
    from reidgen.protocols import get_protocol
    from reidgen.recipe import choose_recipe, idle
    from reidgen.registry import select_methods
    from reidgen.ways import of_steps, select_ways

    options: dict[str, Any] = dict(partition=partition, gpus=gpus, hours=hours, memory=memory, parallel=parallel)
    options["setup"] = setup or None
    cluster = asked_cluster(on, wait, **options)
    if dry_run and status:
        raise RecipeError("--dry-run and --status are two questions; ask one of them")
    if json and not status:
        raise RecipeError("--json goes with --status; for the numbers: reidgen table --json")
    if source and protocol:
        raise RecipeError(f"--protocol {protocol} has sources of its own; leave out --source {source}, or --protocol")
    if target and protocol:
        raise RecipeError(f"--protocol {protocol} has targets of its own; leave out --target {target}, or --protocol")
    cells = get_protocol(protocol) if protocol else None
    asked, asked_of_steps = of_steps(settings_of(setting or []))
    ways = select_ways(test, asked_of_steps)
    chosen = choose_recipe(
        recipe,
        next(iter(cells.cells)) if cells else source,
        grid=True,
        compile=compile or None,
        plugins=plugin or (),
        settings=asked,
        backbone=backbone,
        weights=weights,
        epochs=epochs,
    )
    names = select_methods(methods)
    for line in idle(asked, names):
        note(line)
    chosen_seeds = read_seeds(seeds)
    chosen_targets = expand(target.split(",")) if target else []
    grid_of: dict[str, Any] = {
        "methods": names,
        "seeds": chosen_seeds,
        "data": data,
        "results": results,
        "protocol": cells,
        "targets": chosen_targets,
        "ways": ways,
        "say": note,
    }
    if dry_run or status or cluster:
        from reidgen.planning import plan_cells

        if not status:
            from reidgen.models.network import check_grid
            from reidgen.tracking import check_followers

            check_followers(log or ())
            check_grid(chosen, names)
        planned = plan_cells(chosen, **grid_of)
        if dry_run:
            print_forecast(planned, data=data, device=device)
            return
        if status:
            print_status(planned, results, [_again_of(context, cell.recipe) for cell in planned])
            return
        assert cluster is not None
        _follow(log, results)  # here, and not in each job
        whole = _again(context)
        left = bench_on(
            planned, cluster, wait=wait, data=data, results=results, device=device, log=log or (), again=whole
        )
        if left is not None:
            _print_grid(context, left, results, every=cells is not None)
        return
    from reidgen.grid import bench as run_bench

    _follow(log, results)
    with progress() as report:
        grid = run_bench(chosen, **grid_of, device=device, log=log or (), report=report)
    _print_grid(context, grid, results, every=cells is not None)


def _follow(log: list[str] | None, results: Path) -> None:
    """Say where what --log asks for is seen. Raises RecipeError for a tool that is unknown or not installed."""
    if log:
        from reidgen.tracking import check_followers, views

        check_followers(log)
        for line in views(log, results):
            note(line)


def _print_grid(context: typer.Context, grid: "Grid", results: Path, *, every: bool) -> None:
    """Print the table of a grid. Raises RunError for the runs that failed, each with the command that repeats it.

    every: its targets were named, by a protocol: all count in the mean.
    """
    if grid.sources:
        from reidgen.grid import rows_of
        from reidgen.tables.choose import Selection

        print_table(
            results,
            asked=Asked(selection=Selection(every=every)),
            choose=lambda rows: rows_of(grid, rows, alone=every),
        )
    if grid.failures:
        lines = [
            f"{many(len(grid.failures), 'run')} failed; the table holds the others. Each again, with what ended it:"
        ]
        for failure in grid.failures:
            lines += [_again_of(context, failure.recipe), f"    {failure.recipe.source}: {failure.sentence}"]
        raise RunError("\n".join(lines))


def _again_of(context: typer.Context, recipe: "Recipe") -> str:
    return _again(context, methods=recipe.method, seeds=f"{recipe.seed},")


def _again(context: typer.Context, **instead: str) -> str:
    """Return the command that was given, with some of its options replaced, as a shell takes it."""
    words = ["reidgen", str(context.info_name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        given = source is not None and source.name == "COMMANDLINE"
        if name in ("quiet", "dry_run", "status", "json") or not (given or name in instead):
            continue
        value = instead.get(name, context.params[name])
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0]] if one is True else [parameter.opts[0], shlex.quote(str(one))]
    return " ".join(words)


@one_sentence
def speed(
    methods: Annotated[
        str, typer.Option(help="main, ablations, placement, a group (mixing, losses), all, or names with commas.")
    ] = "baseline,snr",
    recipe: Annotated[str, typer.Option(help="paper, quick, modern or FILE.toml.")] = "quick",
    backbone: Annotated[
        str | None, typer.Option(help="One, several with commas, or all; timm:NAME is of timm.")
    ] = None,
    compile: Compile = False,
    setting: Set = None,
    plugin: Plugin = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure training, embedding and ranking on this machine.

    Each against what the machine could do. Needs no data set.

    Example: reidgen speed --recipe paper --methods baseline,snr

    Example: reidgen speed --methods baseline,snr,bau --backbone all
    """
    from reidgen.escapes import split_names
    from reidgen.parts import settings_of
    from reidgen.recipe import choose_recipe, idle
    from reidgen.registry import all_rows, select_methods

    asked = settings_of(setting or [])
    chosen = choose_recipe(recipe, None, compile=compile or None, plugins=plugin or (), settings=asked)
    names = select_methods(methods)
    bodies = [row.name for row in all_rows()[1]] if backbone == "all" else split_names(backbone or chosen.backbone)
    for line in idle(asked, names):
        note(line)
    from reidgen.devices import choose_device, device_name
    from reidgen.speed import kinds_of
    from reidgen.speed import speed as run_speed
    from reidgen.speed import table as speed_table

    kinds, refused = kinds_of(chosen, methods=names, backbones=bodies)
    for line in refused:
        note(f"left out: {line}")
    with progress() as report:
        rows = run_speed(kinds, device=device, report=report)
    where = device_name(choose_device(device))
    compiled = ", compiled" if chosen.compile else ""
    result(
        f"recipe {chosen.name}: {', '.join(bodies)}, {chosen.height}x{chosen.width}, batches of {chosen.batch}, "
        f"{chosen.dtype}{compiled}; {where}"
    )
    result(speed_table(rows))
    note(
        "limit: if the machine did nothing but the work's matrix products, as fast as the one above (batches: its "
        "copy); data: share of a step that draws, reads and augments the batch; parameters: without the classifier"
    )
