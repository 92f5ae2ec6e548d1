"""What a grid would do: the runs and what each lacks, the disk for pixels, and about how long. Nothing is written."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from reidgen.catalogue import split_all
from reidgen.data.batches import batches_per_epoch, training_images
from reidgen.data.manifest import Prepared, load_prepared
from reidgen.data.pack import pack_bytes, pack_file
from reidgen.devices import devices_of
from reidgen.escapes import many
from reidgen.grid import GridProgress
from reidgen.planning import Cell
from reidgen.recipe import Recipe
from reidgen.speed import pace
from reidgen.teststeps import PLAIN, Way


def forecast(cells: list[Cell], *, data: Path, device: str, report: GridProgress) -> list[str]:
    """Return lines: one per cell, one on the disk, one on the time. cells: of `plan_cells`.

    The time is that of training and embedding, at the pace of this machine, which is measured on noise for each method
    that has something to do; decoding, ranking and re-ranking come on top, and where a step adapts the network, further
    splits. Raises DataError when a set is not prepared any more.
    """
    lines = [f"{cell.name} {cell.recipe.method} s{cell.recipe.seed}: {_lacks(cell)}" for cell in cells]
    todo = [cell for cell in cells if cell.unevaluated or not cell.trained]
    if not todo:
        return [*lines, f"{many(len(cells), 'run')}: all complete; nothing to do"]
    lines.append(_disk(todo, data))
    methods = {cell.recipe.method: cell.recipe for cell in todo}
    paces: dict[str, tuple[float, float]] = {}
    devices = devices_of(device)
    for number, (method, recipe) in enumerate(methods.items()):
        report(f"measuring {method}", number, len(methods))
        paces[method] = pace(recipe, device=devices[0])
    seconds = sum(_seconds(cell, paces[cell.recipe.method], data) for cell in todo)
    untrained = sum(not cell.trained for cell in cells)
    evaluations = sum(len(ways) for cell in cells for ways in cell.unevaluated.values())
    each = f" on {len(devices)} devices, one run each" if len(devices) > 1 else ""
    lines.append(
        f"{many(len(cells), 'run')}: {untrained} to train, {many(evaluations, 'evaluation')}; about "
        f"{_span(seconds / len(devices))} of training and embedding on this machine{each}"
    )
    return lines


def _lacks(cell: Cell) -> str:
    if cell.trained and not cell.unevaluated:
        return "complete"
    training = "goes on from its checkpoint" if cell.run.state.is_file() else "to train"
    parts = [] if cell.trained else [training]
    if cell.unevaluated:
        parts.append(f"to evaluate on {', '.join(_named(*lack) for lack in cell.unevaluated.items())}")
    return ", ".join(parts)


def _named(target: str, ways: list[Way]) -> str:
    words = [way.word for way in ways]
    return target if words == [PLAIN] else f"{target} ({', '.join(words)})"


def _sets(cell: Cell, data: Path) -> list[Prepared]:
    """Return the sets whose pixels a cell needs."""
    sources = [] if cell.trained else [split_all(source)[0] for source in cell.recipe.sources]
    return [load_prepared(name, data) for name in dict.fromkeys([*sources, *cell.unevaluated])]


def _disk(cells: Iterable[Cell], data: Path) -> str:
    """Return what the pixel caches that are not there yet take, where, and what is free there."""
    needs: dict[Path, int] = {}
    names: dict[str, int] = {}
    for cell in cells:
        size = cell.recipe.height, cell.recipe.width
        for prepared in _sets(cell, data):
            file = pack_file(prepared, *size)
            if file not in needs:
                needs[file] = names[prepared.name] = pack_bytes(prepared, *size)
    if not (total := sum(needs.values())):
        return "pixel caches: all there"
    place = next(file.parent for file, need in needs.items() if need)
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    listed = ", ".join(f"{name} {bytes_text(need)}" for name, need in names.items() if need)
    return (
        f"pixel caches: {bytes_text(total)} to write ({listed}) in {place.parent}; "
        f"{bytes_text(shutil.disk_usage(there).free)} free there"
    )


def _seconds(cell: Cell, pace_of: tuple[float, float], data: Path) -> float:
    training, embedding = pace_of
    images = 0 if cell.trained else _images_to_train(cell.recipe, data)
    embedded = 0
    for name, ways in cell.unevaluated.items():
        passes = sum(_passes(way) for way in {way.embedding: way for way in ways}.values())
        embedded += passes * load_prepared(name, data).counts["all"]["images"]
    return images / training + embedded / embedding


def _passes(way: Way) -> int:
    """Return how often the network sees each image: again to adapt it, and twice where a step makes views."""
    return (1 + len(way.of_stage("adapt"))) << len(way.of_stage("views"))


def _images_to_train(recipe: Recipe, data: Path) -> int:
    images = sum(len(training_images(source, data=data)[1]) for source in recipe.sources)
    return recipe.epochs * batches_per_epoch(recipe, images) * recipe.batch


def bytes_text(size: float) -> str:
    """Return a number of bytes for people.

    >>> bytes_text(3_210_000_000), bytes_text(45_000_000)
    ('3.2 GB', '45 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def _span(seconds: float) -> str:
    """Return a time for people: seconds, minutes, or hours and minutes."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
