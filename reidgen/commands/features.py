"""Commands that use a trained run on crops of nobody in particular: embed and search them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reidgen.commands.models import open_and_say, refuse_without_model
from reidgen.commands.options import (
    Device,
    Input,
    Json,
    Model,
    ModelWeights,
    Plugin,
    Quiet,
    Results,
    RunOrModel,
    SetStep,
    View,
    whole_number,
)
from reidgen.data.naming import shown
from reidgen.errors import RunError
from reidgen.escapes import many
from reidgen.terminal import document, note, one_sentence, progress, result

if TYPE_CHECKING:
    import pandas as pd

    from reidgen.extractor import NetworkExtractor
    from reidgen.features.search import Answer
    from reidgen.features.stream import Made

PRINTED = 5  # queries in the terminal


@one_sentence
def embed(
    images: Annotated[
        Path,
        typer.Option(help="A folder of crops in any layout, or a .csv with a column path (and camid, track, pid)."),
    ],
    out: Annotated[Path, typer.Option(help="The file to write: NAME.parquet or NAME.npz.")],
    run: RunOrModel = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression that reads camid, track or pid from the end of a crop's path."),
    ] = None,
    test: View = "plain",
    setting: SetStep = None,
    model: Model = None,
    weights: ModelWeights = None,
    input: Input = None,
    plugin: Plugin = None,
    results: Results = Path("results"),
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Embed a folder of crops with a run or a model into one file.

    One row per image, sorted by path. Stop it at any time: the same command goes on, and later embeds only what is new
    or changed. An image that cannot be read is left out, named, and listed in NAME.broken.csv; the exit code is 0 as
    long as one can be read.

    Example: reidgen embed snr-tiny-s0 --images ~/crops --out features.parquet

    Example: reidgen embed snr-tiny-s0 --images ~/crops --out features.npz --pattern '(?P<camid>[^/]+)/[^/]+'

    Example: reidgen embed --model osnet.onnx --input mean=imagenet --images ~/crops --out features.parquet
    """
    from reidgen.data.collection import collect
    from reidgen.features.store import check_name
    from reidgen.parts import settings_of
    from reidgen.runs import find_run
    from reidgen.ways import only_way

    check_name(out)
    if bool(run) == bool(model):
        raise RunError("what embeds? For example: reidgen embed snr-tiny-s0 --images ~/crops --out features.parquet")
    refuse_without_model(model, weights=weights, trained_on="", input=input)
    way, found = only_way(test, settings_of(setting or [])), find_run(run, results) if run else None
    collection = collect(images.expanduser(), pattern)
    for line in collection.remarks:
        note(line)
    from reidgen.extractor import Extractor
    from reidgen.features.stream import embed_images
    from reidgen.foreign import ModelExtractor

    embedder: NetworkExtractor
    if found:
        embedder = Extractor(found, device=device, way=way)
    else:
        embedder = ModelExtractor(open_and_say(str(model), weights, input, "", device, judged=False), way=way)
    with progress() as report:
        made = embed_images(embedder, collection, out, said=str(images), say=note, report=report)
    if json:
        document(_facts(made, embedder.dim))
        return
    kept = made.images - made.new - len(made.copies)
    was = f", {kept:,} of them as they were" if made.new and kept else ", all as they were" if kept else ""
    result(f"{out}: {made.images:,} embeddings of {embedder.dim} numbers by {embedder.info['name']}{was}")
    if made.broken:
        few = "; ".join(f"{shown(path)} {what}" for path, what in list(made.broken.items())[:3])
        more = "; ..." if len(made.broken) > 3 else ""
        note(f"left out, as they cannot be read: {many(len(made.broken), 'image')} ({made.listed}): {few}{more}")
    if made.copies:
        path, first = next(iter(made.copies.items()))
        have = "has" if len(made.copies) == 1 else "have"
        copies = many(len(made.copies), "image")
        note(f"{copies} {have} the very bytes of another, such as {shown(path)} of {shown(first)}")
    note(_cameras(collection.crops))
    note(f"next: reidgen search {out} --query IMAGE")


def _cameras(crops: "pd.DataFrame") -> str:
    """Return which cameras were read, or which patterns would read folders as such."""
    if names := sorted(set(crops["camera"]) - {""}):
        told = ", ".join(map(shown, names[:PRINTED])) + (", ..." if len(names) > PRINTED else "")
        lacks = int((crops["camera"] == "").sum())
        return f"{many(len(names), 'camera')}: {told}" + (f"; none known of {many(lacks, 'image')}" if lacks else "")
    deep = crops["path"][crops["path"].str.contains("/")]
    if deep.empty:
        return "no camera is known"
    path = deep.iloc[0]
    folders = path.split("/")[:-1]
    offers = [
        f"--pattern '(?P<camid>[^/]+){'/[^/]+' * up}' would read {shown(folders[-up])}"
        for up in range(1, min(len(folders), 2) + 1)
    ]
    return f"no camera is known; of {shown(path)} {', '.join(offers)}"


def _facts(made: "Made", dim: int) -> dict[str, object]:
    return {
        "file": str(made.file),
        "images": made.images,
        "dim": dim,
        "new": made.new,
        "copies": len(made.copies),
        "broken": dict(made.broken),
    }


@one_sentence
def search(
    features: Annotated[Path, typer.Argument(metavar="FEATURES", help="A .parquet or .npz of reidgen embed.")],
    query: Annotated[Path, typer.Option(help="An image, or a folder (or a .csv) of them: each is a query.")],
    top: Annotated[
        int, typer.Option(parser=whole_number("--top"), metavar="<int>", help="How many crops, or tracks, per query.")
    ] = 20,
    by: Annotated[
        str | None,
        typer.Option(
            help="crop; track, each by its nearest crop; camera, a list for each. By default track where the file "
            "knows tracks, else crop."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the list of every query as CSV.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="The folder (or .csv) that was embedded: the page shows the crops then.")
    ] = None,
    approximate_above: Annotated[
        int | None,
        typer.Option(
            parser=whole_number("--approximate-above"),
            metavar="<int>",
            help="Search approximately (FAISS) where the file has more images; exact by default.",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="The run that made the file, where its name does not find it below --results.")
    ] = None,
    plugin: Plugin = None,
    results: Results = Path("results"),
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the crops that are most like a query, nearest first.

    The query is embedded by the run that made the file; of an image that is in the file itself, no run is needed. The
    distance is the squared Euclidean one of evaluate, from 0 to 4. What was found is likely, and proves nobody's
    identity.

    Example: reidgen search features.parquet --query person.jpg

    Example: reidgen search features.parquet --query people/ --top 50 --out found.csv --page found.html --images ~/crops
    """
    from reidgen.data.collection import collect
    from reidgen.features.nearest import rule_of
    from reidgen.features.page import how, write_search_page
    from reidgen.features.search import embed_queries, has_tracks, write_hits
    from reidgen.features.search import search as run_search
    from reidgen.features.store import open_features

    if images and not page:
        raise RunError("--images shows the crops on a page; say where with --page found.html")
    for option, file, ending in (("--page", page, ".html"), ("--out", out, ".csv")):
        if file and file.suffix.lower() != ending:
            raise RunError(f"{option} {file}: its name must end in {ending}")
    opened = open_features(features)
    by = by or ("track" if has_tracks(opened) else "crop")
    rule_of(opened, by, top)
    asked = collect(query.expanduser())

    def maker() -> "NetworkExtractor":
        from reidgen.foreign import maker_of

        return maker_of(features, opened.info, run=run, results=results, device=device)

    with progress() as report:
        queries = embed_queries(asked, opened, maker, report)
        answer = run_search(opened, queries, top=top, by=by, approximate_above=approximate_above, report=report)
    written = [] if out is None else [str(out)]  # before a line is printed: nobody may read to the end
    if out:
        write_hits(out, answer.hits)
    if page:
        shows = images.expanduser() if images else None
        on_page, lost = write_search_page(page, opened, queries, answer, by=by, asked=asked.root, images=shows)
        left = len(queries.names) - on_page
        if lost:
            note(f"{len(lost):,} of the crops cannot be shown from {images}, such as {shown(lost[0])}")
        written.append(str(page) + (f", without {left:,} of the queries (--out has all)" if left else ""))
    if json:
        recall = answer.recall._asdict() if answer.recall else None
        document({"queries": len(queries.names), "by": by, "recall": recall, "hits": answer.hits.to_dict("records")})
    else:
        _print_hits(answer, by)
    for path, what in queries.broken.items():
        note(f"left out: {shown(path)}: {what}")
    note(f"{many(len(opened), 'image')}, {how(answer)}; distance: squared Euclidean of unit vectors, 0 to 4")
    for made in written:
        note(f"written: {made}")


def _print_hits(answer: "Answer", by: str) -> None:
    from reidgen.features.page import where_of

    groups = list(answer.hits.groupby("query", sort=False))
    for name, hits in groups[:PRINTED]:
        for camera, some in hits.groupby("camera", sort=False) if by == "camera" else [("", hits)]:
            result(f"{shown(str(name))}{f', camera {shown(str(camera))}' if camera else ''}:")
            for hit in some.to_dict("records"):
                words = {str(key): value for key, value in hit.items()}
                told = [shown(hit["path"]), where_of(words), "the same picture" if hit["same"] else ""]
                result(f"{hit['rank']:>5}  {hit['distance']:.4f}  {', '.join(filter(None, told))}")
    if len(groups) > PRINTED:
        note(f"{len(groups) - PRINTED:,} more queries; --out FILE.csv or --page FILE.html holds all")
