"""What a grid is made of: its cells, and where the run of each lies. No torch here, for `bench --status`."""

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reidgen.catalogue import family_of, load_catalogue, split_all
from reidgen.data.manifest import Prepared, load_prepared, sound_sets, source_digest, tested_part
from reidgen.entries import Protocol
from reidgen.errors import DataError
from reidgen.files import sha256_file, weight_file
from reidgen.protocols import resolve
from reidgen.recipe import Recipe
from reidgen.runs import Run, run_of
from reidgen.teststeps import Way


@dataclass(frozen=True)
class Cell:
    """One run of the grid: what it is called, its recipe, its folder, target -> digest of what it is evaluated on,
    and the ways in which it is tested there.
    """

    name: str
    recipe: Recipe
    run: Run
    targets: dict[str, str]
    ways: tuple[Way, ...] = (Way(),)

    @property
    def trained(self) -> bool:
        return self.run.done.is_file()

    @property
    def unevaluated(self) -> dict[str, list[Way]]:
        """The targets whose rows are missing, and the ways to test of which they are."""
        trained = self.trained
        lacks = {
            target: [way for way in self.ways if not (trained and self.run.evaluated(target, digest, way.word))]
            for target, digest in self.targets.items()
        }
        return {target: ways for target, ways in lacks.items() if ways}


def plan_cells(
    recipe: Recipe,
    *,
    methods: list[str],
    seeds: Sequence[int],
    data: Path,
    results: Path,
    protocol: Protocol | None,
    targets: Sequence[str],
    ways: Sequence[Way] = (Way(),),
    say: Callable[[str], None],
) -> list[Cell]:
    """Return the cells of the grid, those that are finished too, having trained, packed and downloaded nothing.

    The source is the recipe's. Its targets are `targets`, or else the prepared sets of the catalogue, one of each
    family, so that no people count twice in a mean; with `protocol`, its cells instead, those that are prepared. A
    damaged set is left out; `say` gets a line on it, and on what is not prepared.
    Raises DataError when a source is not prepared and a run with it not finished, or when a target is not prepared or
    holds no query.
    """
    remarks: list[str] = []  # told once it is known that there is something to run
    sound = sound_sets(data, say=remarks.append)
    sources = _cells(recipe, protocol, targets, sound, data=data, say=remarks.append)
    grid = [(source, seed, method) for source in sources for seed in seeds for method in methods]
    weights = _weights_digest(recipe)  # alike for all
    digests = {source: _hash(recipe.change(source=source), weights, data=data) for source in sources}
    cells = []
    for number, (source, seed, method) in enumerate(grid, start=1):
        chosen = recipe.change(method=method, seed=seed, source=source)
        cells.append(
            Cell(
                f"[{number}/{len(grid)}]{f' {source}:' if protocol else ''}",
                chosen,
                _run_of(chosen, digests[source], weights, results=results),
                {target: sound[target].digest for target in sources[source]},
                tuple(ways),
            )
        )
    for line in remarks:
        say(line)
    return cells


def planned_run(recipe: Recipe, *, data: Path, results: Path) -> Run:
    """Return the folder that a recipe's run has or will have; its hash needs the source and the weight file.

    Where the source is not prepared any more, the run that was finished with it, if there is exactly one.
    Raises DataError when a source is neither prepared nor was trained on, WeightsError when the weight file is missing.
    """
    weights = _weights_digest(recipe)
    return _run_of(recipe, _hash(recipe, weights, data=data), weights, results=results)


def _hash(recipe: Recipe, weights: str, *, data: Path) -> str | DataError:
    """Return the hash of a recipe's runs, alike for all methods and seeds, or why its source tells none."""
    try:
        return recipe.hash(source_digest(recipe, data=data), weights)
    except DataError as error:
        return error


def _run_of(recipe: Recipe, digest: str | DataError, weights: str, *, results: Path) -> Run:
    if isinstance(digest, str):
        return run_of(recipe, results=results, digest=digest)
    start, row = run_of(recipe, results=results, digest="").folder.name.rsplit("-", 1)
    folder = results / "runs" / recipe.source
    runs = [Run(file.parent) for file in folder.glob(f"{glob.escape(start)}*-{row}/done")]
    there = [(run, run.facts()) for run in runs]
    same = [run for run, facts in there if recipe.hash(str(facts["source_data"]), weights) == facts["hash"]]
    if len(same) == 1:
        return same[0]
    raise digest


def _weights_digest(recipe: Recipe) -> str:
    if recipe.weights in ("imagenet", "none"):
        return recipe.weights
    return sha256_file(weight_file(recipe.weights))


def _cells(
    recipe: Recipe,
    protocol: Protocol | None,
    asked: Sequence[str],
    sound: Mapping[str, Prepared],
    *,
    data: Path,
    say: Callable[[str], None],
) -> dict[str, list[str]]:
    """Return source -> targets, those that can be run with the sets that are there; what is not there is said."""
    sets = load_catalogue()
    if protocol:
        cells, lines = resolve(protocol, sound, sets)
        for line in lines:
            say(line)
        return cells
    if asked:
        for name in asked:
            tested_part(load_prepared(name, data))
        return {recipe.source: list(asked)}
    if missing := [name for name in sets if name not in sound]:
        say(f"{len(missing)} sets of the catalogue are not prepared, so not evaluated (see: reidgen prepare --list)")
    can = [name for name, prepared in sound.items() if prepared.counts.get("query")]
    own = [split_all(name)[0] for name in recipe.sources]
    chosen: dict[str, str] = {}  # family -> its set: the source itself, else the first of the catalogue
    for name in sorted((name for name in sets if name in can), key=lambda name: name not in own):
        chosen.setdefault(family_of(name, sets), name)
    targets = [name for name in can if name in chosen.values()]
    if others := [name for name in can if name not in targets]:
        say(f"not evaluated, as own crops or of the same people as another: {', '.join(others)} (to do so: --target)")
    return {recipe.source: targets}
