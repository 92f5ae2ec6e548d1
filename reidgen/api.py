"""The commands as functions, for notebooks and scripts: `import reidgen`, then `reidgen.train(...)`.

They take what the commands take, and raise the package's own errors (`reidgen.errors`). `progress`: None shows a bar on
a terminal and a line a minute elsewhere, as in a notebook; False shows nothing.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidgen.catalogue import expand
from reidgen.errors import DataError, RecipeError, RunError
from reidgen.protocols import get_protocol
from reidgen.recipe import Recipe, choose_recipe, idle
from reidgen.registry import load_plugins, select_methods
from reidgen.runs import Run, find_run, read_rows
from reidgen.terminal import note
from reidgen.terminal import progress as shown
from reidgen.teststeps import PLAIN
from reidgen.ways import of_steps, only_way, select_ways

if TYPE_CHECKING:
    import pandas as pd

    from reidgen.data.manifest import Prepared
    from reidgen.evaluation import Judged
    from reidgen.extractor import Extractor, NetworkExtractor, Picture
    from reidgen.features.store import Features
    from reidgen.foreign import ModelExtractor

DATA = os.environ.get("REIDGEN_DATA") or "data"
RESULTS = os.environ.get("REIDGEN_RESULTS") or "results"
Names = str | Sequence[str]


@contextlib.contextmanager
def _reporting(progress: bool | None) -> Iterator[Callable[[str, float, int], None]]:
    if progress is False:
        yield lambda what, done, total: None
    else:
        with shown() as report:
            yield report


def _saying(progress: bool | None) -> Callable[[str], None]:
    return note if progress is not False else lambda line: None


def _several(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _folder(path: str | Path) -> Path:
    return Path(path).expanduser()


def prepare(
    *names: Names,
    source: str | Path | None = None,
    data: str | Path = DATA,
    progress: bool | None = None,
    **options: Any,
) -> "list[Prepared]":
    """Prepare data sets and return what they hold, see `reidgen prepare --help`.

    source: a folder, an archive or a CSV (`--from`). options: `pattern`, `accept_counts`, ... as of the command.
    Raises DataError.
    """
    from reidgen.data.prepare import prepare as run

    with _reporting(progress) as report:
        where = None if source is None else _folder(source)
        asked = [name for one in names for name in _several(one)]
        return [run(name, data=_folder(data), source=where, report=report, **options) for name in expand(asked)]


def train(
    method: str | None = None,
    source: str | None = None,
    *,
    recipe: str | Recipe | None = None,
    settings: Mapping[str, Any] = {},
    plugins: Names = (),
    data: str | Path = DATA,
    results: str | Path = RESULTS,
    device: str = "auto",
    progress: bool | None = None,
    **changes: Any,
) -> Run:
    """Train one network and return its run; a finished one returns at once, an unfinished one goes on.

    method, source: by default the recipe's, which are snr and synth where it does not say.
    settings: "part.parameter" -> value (`--set`). changes: fields of `reidgen.recipe.Recipe`, such as seed=1 or
    epochs=5.
    Raises DataError, RecipeError, WeightsError, RunError, PluginError.
    """
    chosen = choose_recipe(recipe, source, plugins=_several(plugins), settings=settings, method=method, **changes)
    for line in idle(settings, [chosen.method]):
        _saying(progress)(line)
    from reidgen.training import train as run

    with _reporting(progress) as report:
        return run(chosen, data=_folder(data), results=_folder(results), device=device, report=report)


def evaluate(
    run: "str | Path | Run | Extractor | ModelExtractor",
    target: Names,
    *,
    test: Names = PLAIN,
    settings: Mapping[str, Any] = {},
    plugins: Names = (),
    data: str | Path = DATA,
    results: str | Path = RESULTS,
    device: str = "auto",
    progress: bool | None = None,
) -> "pd.DataFrame":
    """Return the result rows of a run on targets, one per target, test and split, fractions in 0..1; see
    `rows.COLUMNS`.

    run: what `train`, `load` or `load_model` returned, a folder, or the beginning of a name. test: one word or several,
    as "flip+rerank"; settings: "step.parameter" -> value of its steps. Raises DataError, RunError, SharedImagesError,
    RecipeError.
    """
    load_plugins(_several(plugins))
    ways = select_ways(",".join(_several(test)), settings)
    import pandas as pd

    from reidgen.evaluation import judge, open_run
    from reidgen.foreign import ModelExtractor

    if isinstance(run, ModelExtractor):
        model, found = run.model, run.model.run(_folder(results))
        judged: Callable[[], Judged] = functools.partial(model.judged, found)
    else:
        found = _find(run, results)
        judged = functools.partial(open_run, found, device)
    targets = expand(_several(target))
    if not targets:
        raise DataError("evaluate needs a target, such as synth-night")
    with _reporting(progress) as report:
        rows = [judge(found, judged, name, ways=ways, data=_folder(data), report=report) for name in targets]
    return pd.concat(rows, ignore_index=True)


def bench(
    source: str | None = None,
    *,
    methods: Names = "main",
    seeds: int | Sequence[int] = 3,
    protocol: str | None = None,
    targets: Names = (),
    tests: Names = PLAIN,
    recipe: str | Recipe | None = None,
    settings: Mapping[str, Any] = {},
    plugins: Names = (),
    data: str | Path = DATA,
    results: str | Path = RESULTS,
    device: str = "auto",
    progress: bool | None = None,
    **changes: Any,
) -> "pd.DataFrame":
    """Train and evaluate what is missing of methods x seeds, and return the table's cells as `table` does.

    tests: the words of the tests that each run is put to. settings: also of their steps, "step.parameter" -> value.
    Raises RunError when a run failed, once the others have ended, and what `train` and `evaluate` raise.
    """
    cells = None if protocol is None else get_protocol(protocol)
    first = next(iter(cells.cells)) if cells else source
    plugins = load_plugins(_several(plugins))
    asked, asked_of_steps = of_steps(settings)
    ways = select_ways(",".join(_several(tests)), asked_of_steps)
    chosen = choose_recipe(recipe, first, grid=True, plugins=plugins, settings=asked, **changes)
    names = select_methods(",".join(_several(methods)))
    for line in idle(asked, names):
        _saying(progress)(line)
    from reidgen.grid import bench as run
    from reidgen.grid import rows_of

    with _reporting(progress) as report:
        grid = run(
            chosen,
            methods=names,
            seeds=_seeds(seeds),
            data=_folder(data),
            results=_folder(results),
            protocol=cells,
            targets=expand(_several(targets)) if targets else (),
            ways=ways,
            device=device,
            report=report,
            say=_saying(progress),
        )
    if grid.failures:
        raise RunError("; ".join(f"{one.recipe.method} s{one.recipe.seed}: {one.sentence}" for one in grid.failures))
    from reidgen.tables.choose import Selection

    rows = rows_of(grid, read_rows(_folder(results)), alone=cells is not None)
    return _cells(_folder(results), rows, selection=Selection(every=cells is not None))  # as the command's table


def table(
    name: str = "",
    *,
    paper: bool = False,
    against: str = "baseline",
    best: int | None = None,
    targets: Names = (),
    methods: Names = (),
    recipes: Names = (),
    backbones: Names = (),
    seeds: Sequence[int] = (),
    tests: Names = (),
    plugins: Names = (),
    results: str | Path = RESULTS,
) -> "pd.DataFrame":
    """Return the cells of a comparison table, in percent, one row per source, test, method and target; nothing is
    written.

    name: "" or a table's, such as main. best: only so many methods, beside Baseline and SNR. targets, methods, recipes,
    backbones, seeds, tests: select, as the command's options do.
    Raises ReidgenError when there are no results, or none of what was asked for.
    """
    load_plugins(_several(plugins))
    from reidgen.tables.choose import Selection

    chosen = Selection(
        targets=tuple(_several(targets)),
        methods=tuple(_several(methods)),
        recipes=tuple(_several(recipes)),
        backbones=tuple(_several(backbones)),
        seeds=tuple(seeds),
        tests=tuple(_several(tests)),
    )
    rows = read_rows(_folder(results))
    return _cells(_folder(results), rows, name=name, paper=paper, against=against, best=best, selection=chosen)


def load(
    run: str | Path | Run,
    *,
    test: str = PLAIN,
    plugins: Names = (),
    results: str | Path = RESULTS,
    device: str = "auto",
) -> "Extractor":
    """Return a trained network that embeds images: `.embed(paths, PIL images or arrays)`, `.dim`, `.info`.

    Arrays are uint8 (H, W, 3) in R, G, B; OpenCV reads B, G, R, so give it `image[..., ::-1]`. test: views of each
    image whose mean is embedded, such as flip. Raises RunError, WeightsError, RecipeError, PluginError.
    """
    load_plugins(_several(plugins))
    way = only_way(test)
    from reidgen.extractor import Extractor

    return Extractor(_find(run, results), device=device, way=way)


def embed(
    run: "str | Path | Run | NetworkExtractor",
    images: str | Path,
    out: str | Path,
    *,
    pattern: str | None = None,
    test: str = PLAIN,
    plugins: Names = (),
    results: str | Path = RESULTS,
    device: str = "auto",
    progress: bool | None = None,
) -> "Features":
    """Embed a folder (or a .csv) of crops into a file and return it, see `reidgen embed --help`.

    run: also what `load` or `load_model` returned, whose own test then counts.
    What the file holds: `.rows`, a DataFrame; `.blocks()` and `.take(rows)`, the embeddings, float32; `.info`, `.dim`.
    Images that cannot be read are left out and listed in OUT.broken.csv.
    Raises DataError, RunError, WeightsError, BusyError.
    """
    from reidgen.extractor import NetworkExtractor

    if isinstance(run, NetworkExtractor):
        model = run
    else:
        model = load(run, test=test, plugins=plugins, results=results, device=device)
    from reidgen.data.collection import collect
    from reidgen.features.store import open_features
    from reidgen.features.stream import embed_images

    if not isinstance(images, str | Path):
        raise DataError("embed writes a file of a folder or a .csv; for a list of images: load(run).embed(images)")
    crops = collect(_folder(images), pattern)
    with _reporting(progress) as report:
        made = embed_images(model, crops, _folder(out), said=str(images), say=_saying(progress), report=report)
    return open_features(made.file)


def search(
    features: "str | Path | Features",
    query: "Picture | Sequence[Picture]",
    *,
    top: int = 20,
    by: str | None = None,
    approximate_above: int | None = None,
    run: "str | Path | NetworkExtractor | None" = None,
    plugins: Names = (),
    results: str | Path = RESULTS,
    device: str = "auto",
    progress: bool | None = None,
) -> "pd.DataFrame":
    """Return what is nearest to a query image, or to each of several, in a file of `embed`; see
    `features.search.search` for the columns, `by` (by default "track" where tracks are known) and `approximate_above`.

    features: the file, or what `embed` returned. query: a path of an image, a folder or a .csv, a PIL image, an array
    as `load` says, or a list of such images, which must all be readable. run: the run that made the file, where its
    name does not find it; also what `load` or `load_model` returned. Raises DataError (among others when it was another
    one), RunError.
    """
    load_plugins(_several(plugins))
    from reidgen.data.collection import collect
    from reidgen.features.nearest import rule_of
    from reidgen.features.search import embed_pictures, embed_queries, has_tracks
    from reidgen.features.search import search as find
    from reidgen.features.store import Features, open_features

    opened = features if isinstance(features, Features) else open_features(_folder(features))
    by = ("track" if has_tracks(opened) else "crop") if by is None else by
    rule_of(opened, by, top)

    def maker() -> "NetworkExtractor":
        from reidgen.extractor import NetworkExtractor
        from reidgen.foreign import maker_of

        if isinstance(run, NetworkExtractor):
            return run
        name = str(run) if run is not None else None
        return maker_of(opened.file, opened.info, run=name, results=_folder(results), device=device)

    with _reporting(progress) as report:
        if isinstance(query, str | Path):
            queries = embed_queries(collect(_folder(query)), opened, maker, report)
        else:
            queries = embed_pictures(query, opened, maker)
        return find(opened, queries, top=top, by=by, approximate_above=approximate_above, report=report).hits


def judge(
    runs: "str | Path | Run | NetworkExtractor | Sequence[str | Path | Run | NetworkExtractor]",
    target: str | None = None,
    *,
    images: str | Path | None = None,
    pattern: str | None = None,
    queries: int = 500,
    plugins: Names = (),
    data: str | Path = DATA,
    results: str | Path = RESULTS,
    device: str = "auto",
    progress: bool | None = None,
) -> "pd.DataFrame":
    """Return what can be measured of runs on crops without names, one row per run, in the order of `reidgen judge`.

    runs: one or several: what `train`, `load` or `load_model` returned, a folder, or the beginning of a name.
    The crops are those of a prepared `target`, or `images`, a folder or a .csv. Columns: run, digest, source, seed and
    the names of `reidgen.judging.measures.MEASURES`, which say what each means; NaN where one cannot be had.
    Raises DataError, RunError, WeightsError, PluginError.
    """
    load_plugins(_several(plugins))
    if (target is None) == (images is None):
        raise DataError("judge takes either target=, a prepared set, or images=, a folder or a .csv")
    from reidgen.extractor import Extractor, NetworkExtractor
    from reidgen.foreign import ModelExtractor
    from reidgen.judging.crops import of_images, of_target
    from reidgen.judging.judge import judge as measure
    from reidgen.judging.measures import ordered

    alone = isinstance(runs, str | Path | Run | NetworkExtractor)
    names: Sequence[Any] = [runs] if alone else runs  # type: ignore[assignment]
    models = [
        run if isinstance(run, ModelExtractor) else Extractor(_find(run, results), device=device) for run in names
    ]
    crops = of_images(_folder(images), pattern) if images is not None else of_target(str(target), _folder(data))
    with _reporting(progress) as report:
        judged = measure(models, crops, data=_folder(data), queries=queries, report=report)
    return ordered(judged.rows)


def load_model(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    inputs: Names = (),
    trained_on: str = "",
    plugins: Names = (),
    device: str = "auto",
) -> "ModelExtractor":
    """Return a model from elsewhere that embeds images as what `load` returns does, and that `evaluate` judges.

    name: an .onnx file, or a backbone whose torch file is `weights`. inputs: "key=value", as --input. trained_on: as
    --trained-on. Raises WeightsError, RecipeError, DataError.
    """
    load_plugins(_several(plugins))
    from reidgen.foreign import ModelExtractor, open_model

    asked = _several(inputs)
    return ModelExtractor(open_model(str(name), weights=weights, inputs=asked, trained_on=trained_on, device=device))


def _find(run: "str | Path | Run | Extractor", results: str | Path) -> Run:
    given = run if isinstance(run, str | Path | Run) else run.run
    return given if isinstance(given, Run) else find_run(str(given), _folder(results))


def _cells(results: Path, rows: "pd.DataFrame", **options: Any) -> "pd.DataFrame":
    from reidgen.tables.compare import make_table
    from reidgen.tables.identities import read_identities

    return make_table(rows, identities=read_identities(results, rows), **options).cells


def _seeds(seeds: object) -> list[int]:
    """Return the seeds that a number of seeds, or a list of them, means. Raises RecipeError for anything else."""
    if isinstance(seeds, int) and not isinstance(seeds, bool) and 1 <= seeds <= 1000:
        return list(range(seeds))
    if isinstance(seeds, Sequence) and not isinstance(seeds, str) and seeds and all(type(one) is int for one in seeds):
        return list(dict.fromkeys(seeds))
    raise RecipeError(f"seeds = {seeds!r}: give 1 to 1,000 seeds, or a list of seeds such as [2, 4]")
