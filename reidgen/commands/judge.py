"""The command that says what a run may be worth on crops of people whom nobody has named."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reidgen.commands.models import open_and_say, refuse_without_model
from reidgen.commands.options import (
    Data,
    Device,
    Input,
    Json,
    ModelWeights,
    Plugin,
    Quiet,
    Results,
    RunNamesOrModel,
    TrainedOn,
    whole_number,
)
from reidgen.errors import DataError, RunError
from reidgen.terminal import document, note, one_sentence, out, progress, result

if TYPE_CHECKING:
    import pandas as pd

    from reidgen.extractor import NetworkExtractor
    from reidgen.judging.crops import Crops
    from reidgen.judging.judge import Judged


@one_sentence
def judge(
    runs: RunNamesOrModel = None,
    target: Annotated[str, typer.Option(help="A prepared set of crops; their people need not be known.")] = "",
    images: Annotated[
        Path | None,
        typer.Option(help="Instead: a folder of crops, or a .csv with the columns path and camid, as embed takes."),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Regular expression that reads camid from the end of a crop's path.")
    ] = None,
    queries: Annotated[
        int, typer.Option(parser=whole_number("--queries"), metavar="<int>", help="How many crops are drawn to ask.")
    ] = 500,
    pairs: Annotated[
        Path | None, typer.Option(help="Write a page (.html) with pairs to label: the same person, or another?")
    ] = None,
    count: Annotated[
        int, typer.Option(parser=whole_number("--count"), metavar="<int>", help="Pairs per run on the page.")
    ] = 30,
    labels: Annotated[
        Path | None, typer.Option(help="The CSV that the page saved: estimate Rank-1 of each run from it.")
    ] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the numbers as CSV.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="FILE.onnx|NAME",
            help="Beside runs, or alone: an ONNX file, or a backbone (plugin:NAME) whose torch file --weights names.",
        ),
    ] = None,
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
    """Judge runs on your own cameras, with few labels or none.

    Without labels: how far runs agree, how stable they are under mild changes of light and quality, how far the cameras
    lie from the source's. These are hints. With 30 pairs that you label on a page, Rank-1 is estimated, with its
    interval.

    Example: reidgen judge snr-tiny-s0 baseline-tiny-s0 --target mycams

    Example: reidgen judge snr-tiny-s0 baseline-tiny-s0 --target mycams --pairs pairs.html

    Example: reidgen judge snr-tiny-s0 baseline-tiny-s0 --target mycams --labels pairs.csv

    Example: reidgen judge snr-tiny-s0 --model osnet.onnx --input mean=imagenet --trained-on msmt17 --target mycams
    """
    if not runs and not model:
        raise RunError(
            "what is judged? For example: reidgen judge snr-tiny-s0 --target mycams, or reidgen judge --model "
            "osnet.onnx --target mycams"
        )
    refuse_without_model(model, weights=weights, trained_on=trained_on, input=input)
    _check_options(target, images, pattern, queries=queries, count=count, pairs=pairs, labels=labels, out_file=out_file)
    from reidgen.judging.crops import of_images, of_target
    from reidgen.runs import find_run

    found = [find_run(name, results) for name in runs or []]
    crops = of_images(images.expanduser(), pattern) if images else of_target(target, data)
    for line in crops.remarks:
        note(line)
    from reidgen.extractor import Extractor
    from reidgen.foreign import ModelExtractor

    models: list[NetworkExtractor] = [Extractor(run, device=device) for run in found]
    if model:
        models.append(ModelExtractor(open_and_say(model, weights, input, trained_on, device)))
    if target:
        _note_seen(models, target, data)
    if labels:
        _estimate(models, crops, labels, out_file, json=json)
    elif pairs:
        _write_pairs(models, crops, pairs, count, data=data, json=json)
    else:
        _measure(models, crops, queries, out_file, data=data, json=json)


def _check_options(
    target: str,
    images: Path | None,
    pattern: str | None,
    *,
    queries: int,
    count: int,
    pairs: Path | None,
    labels: Path | None,
    out_file: Path | None,
) -> None:
    """Raise DataError when options are missing or contradict each other."""
    if bool(target) == bool(images):
        raise DataError("which crops? Give either --target, a prepared set, or --images, a folder or a .csv")
    if pattern and not images:
        raise DataError("--pattern reads the names of --images; a prepared set knows its cameras")
    if pairs and labels:
        raise DataError("--pairs makes a page and --labels reads what was saved from one; give one of them")
    if pairs and out_file:
        raise DataError("--pairs writes a page and no numbers; leave out --out")
    for option, number in (("--queries", queries), ("--count", count)):
        if number < 1:
            raise DataError(f"{option} {number}: give 1 or more")


def _note_seen(models: "list[NetworkExtractor]", target: str, data: Path) -> None:
    from reidgen.data.manifest import load_prepared

    family = load_prepared(target, data).dataset.family or target
    for model in models:
        if family in {one["family"] for one in model.info["sources"]}:
            note(f"{model.info['name']} was trained on cameras of {target}: here it is no judgement of unknown cameras")


def _measure(
    models: "list[NetworkExtractor]", crops: "Crops", queries: int, out_file: Path | None, *, data: Path, json: bool
) -> None:
    from reidgen.escapes import no_formula
    from reidgen.files import write_text
    from reidgen.judging.judge import judge as run_judge
    from reidgen.judging.measures import MEASURES, ORDER, VERDICT, ordered

    with progress() as report:
        judged = run_judge(models, crops, data=data, queries=queries, report=report)
    rows = ordered(judged.rows)
    if json:
        document(_facts(judged, crops, rows))
    else:
        out().print(_table(rows), markup=True)
    cameras = f"{len(crops.cameras)} cameras" if crops.cameras else "cameras that are not known"
    note(f"{len(judged.paths):,} crops of {cameras}, {len(judged.query_Q):,} of them drawn as queries")
    for measure in MEASURES:
        if rows[measure.name].notna().any():
            note(measure.sentence)
    if len(rows) > 1:
        note(f"order: by {ORDER.head}; {VERDICT}")
    else:
        note("one run alone: give others beside it to see how far they agree, and which comes first")
    for line in judged.notes:
        note(f"note: {line}")
    if out_file:
        told = rows.assign(run=rows["run"].map(no_formula), target=no_formula(crops.name))
        units = {measure.name: f"{measure.name} ({measure.unit})" for measure in MEASURES}
        write_text(out_file, told.rename(columns=units).to_csv(index=False, float_format="%.6g"))
        note(f"written: {out_file}")
    if crops.cameras:
        note("next: the same command with --pairs pairs.html, to label 30 pairs and estimate Rank-1")


def _facts(judged: "Judged", crops: "Crops", rows: "pd.DataFrame") -> dict[str, Any]:
    import json

    from reidgen.judging.measures import MEASURES, ORDER, VERDICT

    def records(frame: "pd.DataFrame") -> Any:
        return json.loads(frame.to_json(orient="records", double_precision=10))

    return {
        "target": crops.name,
        "crops": len(judged.paths),
        "cameras": len(crops.cameras),
        "queries": len(judged.query_Q),
        "runs": records(rows),
        "agreements": records(judged.agreements),
        "measures": {one.name: {"unit": one.unit, "says": one.says, "not": one.not_said} for one in MEASURES},
        "order": {"by": ORDER.name, "verdict": VERDICT},
        "notes": [*crops.remarks, *judged.notes],
    }


def _table(rows: "pd.DataFrame") -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from reidgen.judging.measures import MEASURES

    shown = [measure for measure in MEASURES if rows[measure.name].notna().any()]
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.add_column("run", overflow="fold")
    for measure in shown:
        drawn.add_column(f"{measure.head}\n{measure.short_unit}", justify="right")
    for name, row in zip(_short(rows["run"].to_list()), rows.to_dict("records"), strict=True):
        cells = ("–" if row[one.name] != row[one.name] else f"{row[one.name]:.{one.digits}f}" for one in shown)
        drawn.add_row(escape(name), *cells)
    return drawn


def _short(names: list[str]) -> list[str]:
    """Return runs' names without their digests, and without their source where it is one, as long as all differ."""
    bare = [re.sub(r"(-[0-9a-f]{8}){2}$", "", name) for name in names]
    alone = [name.rpartition("/")[2] for name in bare]
    return next(some for some in (alone, bare, names) if some is names or len(set(some)) == len(names))


def _write_pairs(
    models: "list[NetworkExtractor]", crops: "Crops", file: Path, count: int, *, data: Path, json: bool
) -> None:
    from reidgen.judging.judge import judge as run_judge
    from reidgen.judging.labels import draw_sheet
    from reidgen.judging.page import write_pairs_page

    with progress() as report:
        judged = run_judge(models, crops, data=data, queries=count, measures=False, report=report)
    for line in judged.notes:
        note(f"note: {line}")
    sheet = draw_sheet(judged, crops, count)
    write_pairs_page(file, sheet, crops)
    asked = len({pair.query_number for pair in sheet.pairs})
    if json:
        document({"file": str(file), "sheet": sheet.digest, "queries": asked, "pairs": len(sheet.pairs)})
    else:
        runs = f", as {len(models)} runs share those that they agree on" if len(models) > 1 else ""
        result(f"written: {file} with {len(sheet.pairs)} pairs of {asked} queries{runs}")
    note("the page holds pictures of people: keep it where the crops may be")
    note(f"open it in a browser, label, save {file.stem}.csv, then the same command with --labels {file.stem}.csv")


def _estimate(
    models: "list[NetworkExtractor]", crops: "Crops", file: Path, out_file: Path | None, *, json: bool
) -> None:
    import pandas as pd

    from reidgen.escapes import no_formula
    from reidgen.files import write_text
    from reidgen.judging.labels import ESTIMATED, check_labels, comparisons, estimates, read_labels

    runs = {model.info["digest"]: model.info["name"] for model in models}
    pairs, labels = read_labels(file)
    check_labels(pairs, runs, crops, file)
    found = sorted(estimates(pairs, labels, runs), key=lambda one: -one.share)
    short = dict(zip(runs.values(), _short(list(runs.values())), strict=True))
    apart = comparisons(pairs, labels, runs)
    if json:
        document({"target": crops.name, "runs": [one._asdict() for one in found], "apart": apart.to_dict("records")})
    for one in found:
        if not json:
            unsure = f", {one.unsure} not told" if one.unsure else ""
            result(
                f"{short[one.run]}: Rank-1 across cameras {100 * one.share:.0f} % "
                f"[{100 * one.low:.0f}, {100 * one.high:.0f}] ({one.same} of {one.queries} the same person{unsure})"
            )
    for row in apart.to_dict("records"):
        verdict = "apart" if row["p"] < 0.05 else "not told apart by these labels"
        note(
            f"{short[row['run']]} and {short[row['other']]}: {row['only_run']} queries only the first finds, "
            f"{row['only_other']} only the other; p = {row['p']:.2g}, {verdict}"
        )
    for line in ESTIMATED:
        note(line)
    if out_file:
        table = pd.DataFrame(found).assign(run=[no_formula(one.run) for one in found], target=no_formula(crops.name))
        write_text(out_file, table.to_csv(index=False, float_format="%.6g"))
        note(f"written: {out_file}")
