"""Commands that use a trained run on crops of nobody in particular: embed and search them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reidgen.commands.options import (
    Device,
    Json,
    Plugin,
    Quiet,
    Results,
    RunName,
    SetStep,
    View,
)
from reidgen.data.naming import shown
from reidgen.terminal import document, note, one_sentence, progress, result

if TYPE_CHECKING:
    from reidgen.features.stream import Made


@one_sentence
def embed(
    run: RunName,
    images: Annotated[
        Path,
        typer.Option(help="A folder of crops in any layout, or a .csv with a column path (and camid, track, pid)."),
    ],
    out: Annotated[Path, typer.Option(help="The file to write: NAME.parquet or NAME.npz.")],
    pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression that reads camid, track or pid from the end of a crop's path."),
    ] = None,
    test: View = "plain",
    setting: SetStep = None,
    plugin: Plugin = None,
    results: Results = Path("results"),
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Embed a folder of crops with a trained run, into one file.

    One row per image, sorted by path. Stop it at any time: the same command goes on, and later embeds only what is new
    or changed. An image that cannot be read is left out, named, and listed in NAME.broken.csv; the exit code is 0 as
    long as one can be read.

    Example: reidgen embed snr-tiny-s0 --images ~/crops --out features.parquet

    Example: reidgen embed snr-tiny-s0 --images ~/crops --out features.npz --pattern '(?P<camid>[^/]+)/[^/]+'
    """
    from reidgen.data.collection import collect
    from reidgen.features.store import check_name
    from reidgen.parts import read_setting
    from reidgen.runs import find_run
    from reidgen.ways import only_way

    check_name(out)
    way, found = only_way(test, dict(map(read_setting, setting or []))), find_run(run, results)
    collection = collect(images.expanduser(), pattern)
    for line in collection.remarks:
        note(line)
    from reidgen.extractor import Extractor
    from reidgen.features.stream import embed_images

    model = Extractor(found, device=device, way=way)
    with progress() as report:
        made = embed_images(model, collection, out, said=str(images), say=note, report=report)
    if json:
        document(_facts(made, model.dim))
        return
    kept = made.images - made.new - len(made.copies)
    was = f", {kept:,} of them as they were" if made.new and kept else ", all as they were" if kept else ""
    result(f"{out}: {made.images:,} embeddings of {model.dim} numbers by {model.info['name']}{was}")
    if made.broken:
        few = "; ".join(f"{shown(path)} {what}" for path, what in list(made.broken.items())[:3])
        more = "; ..." if len(made.broken) > 3 else ""
        note(f"left out, as they cannot be read: {len(made.broken):,} images ({made.listed}): {few}{more}")
    if made.copies:
        path, first = next(iter(made.copies.items()))
        note(f"{len(made.copies):,} images have the very bytes of another, such as {shown(path)} of {shown(first)}")
    if not collection.crops["camera"].any():
        note("no camera is known; --pattern '(?P<camid>[^/]+)/[^/]+' would read the folder of an image as its camera")
    note(f"next: reidgen search {out} --query IMAGE")


def _facts(made: "Made", dim: int) -> dict[str, object]:
    return {
        "file": str(made.file),
        "images": made.images,
        "dim": dim,
        "new": made.new,
        "copies": len(made.copies),
        "broken": dict(made.broken),
    }
