"""Commands that look into trained runs: pictures, controlled shifts of style, universal perturbations."""

from pathlib import Path
from typing import Annotated

import typer

from reidgen.commands.models import open_and_say, refuse_without_model
from reidgen.commands.options import (
    Data,
    Device,
    Input,
    Model,
    ModelWeights,
    Plugin,
    Quiet,
    Results,
    RunName,
    Target,
    TrainedOn,
    whole_number,
)
from reidgen.errors import RunError
from reidgen.terminal import note, one_sentence, out, progress, result


@one_sentence
def show(
    kind: Annotated[str, typer.Argument(help="ranks, maps, tsne, distances or gates.")],
    run: RunName,
    target: Target,
    plugin: Plugin = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw pictures of a trained run into its folder.

    Ranked lists, activation maps, t-SNE, distances, channel gates.

    Example: reidgen show ranks snr-tiny-s0 --target synth-night
    """
    from reidgen.catalogue import expand
    from reidgen.runs import find_run

    found = find_run(run, results)
    from reidgen.pictures.show import show as run_show

    with progress() as report:
        files = run_show(found, kind, expand(target.split(",")), data=data, device=device, report=report)
    result(f"written: {', '.join(map(str, files))}")


@one_sentence
def stress(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run folder, its name, or the beginning of its name.")
    ] = None,
    target: Target = "",
    where: Annotated[str, typer.Option(help="What is shifted: query, or both sides.")] = "query",
    picture: Annotated[
        Path | None, typer.Option(help="Only write a PNG that shows every shift at every severity.")
    ] = None,
    model: Model = None,
    weights: ModelWeights = None,
    trained_on: TrainedOn = "",
    input: Input = None,
    plugin: Plugin = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure how far a run falls when the images' style moves.

    By known amounts of light, colour, sharpness or quality.

    Example: reidgen stress snr-tiny-s0 --target synth-night

    Example: reidgen stress --model osnet.onnx --input mean=imagenet --target market
    """
    if picture:
        if run or picture.suffix != ".png":
            raise RunError(
                "--picture writes a PNG and measures nothing; for example: reidgen stress --picture sheet.png"
            )
        from reidgen.robustness.stress import write_sheet

        write_sheet(picture)
        result(f"written: {picture}")
        return
    if not target or bool(run) == bool(model):
        raise RunError("which run on which target? For example: reidgen stress snr-tiny-s0 --target synth-night")
    from reidgen.catalogue import expand
    from reidgen.runs import find_run

    refuse_without_model(model, weights=weights, trained_on=trained_on, input=input)
    if model:
        opened = open_and_say(model, weights, input, trained_on, device)
        found = opened.run(results)
        judged = opened.judged(found)
    else:
        found, judged = find_run(str(run), results), None
    from reidgen.robustness.stress import stress as run_stress
    from reidgen.robustness.tables import stress_table

    for name in expand(target.split(",")):
        with progress() as report:
            rows = run_stress(found, name, where=where, model=judged, data=data, device=device, report=report)
        made = stress_table(rows)
        for grid in made.grids:
            out().print(grid.rich(), markup=True)
    for line in made.notes:
        note(f"note: {line}")
    note(f"rows in {found.folder / 'stress.csv'}; compare methods: reidgen table stress")


@one_sentence
def attack(
    run: RunName,
    target: Target,
    makers: Annotated[
        str, typer.Option("--from", help="Runs whose patterns are used instead of its own, joined by commas.")
    ] = "",
    losses: Annotated[
        str, typer.Option(help="Of point, label, pair and list, joined by commas.")
    ] = "point,label,pair,list",
    bound: Annotated[
        int,
        typer.Option(
            parser=whole_number("--bound"),
            metavar="<int>",
            help="Grey levels that a pixel may move by, 1 to 255; each bound has its own patterns.",
        ),
    ] = 10,
    plugin: Plugin = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Find a noise pattern that breaks a run, and measure how far.

    The pattern is found on the source's training images.

    It exists to measure the robustness of your own models.

    Example: reidgen attack snr-tiny-s0 --target synth-plaza,synth-night --from baseline-tiny-s0
    """
    from reidgen.catalogue import expand
    from reidgen.runs import find_run

    names = [name.strip() for name in makers.split(",")] if makers else []
    found, others = find_run(run, results), [find_run(name, results) for name in names]
    from reidgen.robustness.attack import attack as run_attack

    with progress() as report:
        rows = run_attack(
            found,
            expand(target.split(",")),
            makers=others,
            losses=[loss.strip() for loss in losses.split(",")],
            bound=bound,
            data=data,
            device=device,
            report=report,
        )
    scores = rows.groupby(["target", "pattern", "maker"], sort=False)[["mAP", "rank1", "drop"]].mean()
    for row in (100 * scores).reset_index().to_dict("records"):
        by = f" of {row['maker']}" if others and row["maker"] else ""
        numbers = f"mAP {row['mAP']:.1f}, Rank-1 {row['rank1']:.1f}, drop {row['drop']:.0f} %"
        result(f"{row['target']}: {row['pattern']}{by}: {numbers}")
    patterns = ", ".join(str(one.folder / "attack") for one in others or [found])
    note(f"rows in {found.folder / 'attack.csv'}, patterns in {patterns}")
    note("compare: reidgen table attack")
