"""The commands as functions, for notebooks and scripts: `import reidgen`, then `reidgen.train(...)`.

They take what the commands take, and raise the package's own errors (`reidgen.errors`). `progress`: None shows a bar on
a terminal and a line a minute elsewhere, as in a notebook; False shows nothing.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidgen.catalogue import DEFAULT_SYNTH, expand
from reidgen.methods import Value
from reidgen.protocols import get_protocol
from reidgen.recipe import Recipe, load_recipe, refuse_idle
from reidgen.registry import load_plugins, select_methods
from reidgen.runs import Run, find_run, read_rows
from reidgen.terminal import progress as shown

if TYPE_CHECKING:
    import pandas as pd

    from reidgen.data.manifest import Prepared
    from reidgen.extractor import Extractor

DATA, RESULTS = Path("data"), Path("results")


@contextlib.contextmanager
def _reporting(progress: bool | None) -> Iterator[Callable[[str, float, int], None]]:
    if progress is False:
        yield lambda what, done, total: None
    else:
        with shown() as report:
            yield report


def _recipe(
    recipe: str | Recipe | None,
    source: str | None,
    plugins: Sequence[str],
    settings: Mapping[str, Value],
    **changes: Any,
) -> Recipe:
    """Return the recipe that arguments mean: `quick` for synth, else `paper`, where none is named."""
    loaded = load_plugins(plugins)
    names = [DEFAULT_SYNTH if name == "synth" else name for name in source.split("+")] if source else []
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe or ("quick" if all(name.startswith("synth-") for name in names) else "paper"))
    return recipe.change(
        source="+".join(names) or None,
        plugins=tuple(dict.fromkeys([*recipe.plugins, *loaded])),
        settings=tuple((dict(recipe.settings) | dict(settings)).items()),
        **changes,
    ).known()


def prepare(
    *names: str,
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
        where = Path(source) if source else None
        return [run(name, data=Path(data), source=where, report=report, **options) for name in expand(names)]


def train(
    method: str = "snr",
    source: str | None = "synth",
    *,
    recipe: str | Recipe | None = None,
    settings: Mapping[str, Value] = {},
    plugins: Sequence[str] = (),
    data: str | Path = DATA,
    results: str | Path = RESULTS,
    device: str = "auto",
    progress: bool | None = None,
    **changes: Any,
) -> Run:
    """Train one network and return its run; a finished one returns at once, an unfinished one goes on.

    settings: "part.parameter" -> value (`--set`). changes: fields of `reidgen.recipe.Recipe`, such as seed=1 or
    epochs=5.
    Raises DataError, RecipeError, WeightsError, RunError, PluginError.
    """
    chosen = _recipe(recipe, source, plugins, settings, method=method, **changes)
    refuse_idle(chosen.settings, [method])
    from reidgen.training import train as run

    with _reporting(progress) as report:
        return run(chosen, data=Path(data), results=Path(results), device=device, report=report)


def evaluate(
    run: str | Path | Run,
    target: str | Sequence[str],
    *,
    plugins: Sequence[str] = (),
    data: str | Path = DATA,
    results: str | Path = RESULTS,
    device: str = "auto",
    progress: bool | None = None,
) -> "pd.DataFrame":
    """Return the result rows of a run on targets, one per target and split, fractions in 0..1; see `runs.COLUMNS`.

    run: what `train` returned, a folder, or the beginning of a name. Raises DataError, RunError, SharedImagesError.
    """
    load_plugins(plugins)
    found = _find(run, results)
    import pandas as pd

    from reidgen.evaluation import evaluate as rank_target

    targets = expand([target] if isinstance(target, str) else target)
    with _reporting(progress) as report:
        rows = [rank_target(found, name, data=Path(data), device=device, report=report) for name in targets]
    return pd.concat(rows, ignore_index=True)


def bench(
    source: str | None = None,
    *,
    methods: str | Sequence[str] = "main",
    seeds: int | Sequence[int] = 3,
    protocol: str | None = None,
    targets: Sequence[str] = (),
    recipe: str | Recipe | None = None,
    settings: Mapping[str, Value] = {},
    plugins: Sequence[str] = (),
    data: str | Path = DATA,
    results: str | Path = RESULTS,
    device: str = "auto",
    progress: bool | None = None,
    **changes: Any,
) -> "pd.DataFrame":
    """Train and evaluate what is missing of methods x seeds, and return the table's cells as `table` does.

    Raises RunError when a run failed, once the others have ended, and what `train` and `evaluate` raise.
    """
    cells = get_protocol(protocol) if protocol else None
    first = next(iter(cells.cells)) if cells else source
    chosen = _recipe(recipe, first, plugins, settings, **changes)
    names = select_methods(methods if isinstance(methods, str) else ",".join(methods))
    refuse_idle(chosen.settings, names)
    from reidgen.errors import RunError
    from reidgen.grid import bench as run
    from reidgen.grid import rows_of

    with _reporting(progress) as report:
        grid = run(
            chosen,
            methods=names,
            seeds=list(range(seeds)) if isinstance(seeds, int) else list(seeds),
            data=Path(data),
            results=Path(results),
            protocol=cells,
            targets=expand(targets) if targets else (),
            device=device,
            report=report,
            say=lambda line: None,
        )
    if grid.failures:
        raise RunError("; ".join(f"{one.recipe.method} s{one.recipe.seed}: {one.sentence}" for one in grid.failures))
    return _cells(Path(results), rows_of(grid.sources, read_rows(Path(results)), alone=cells is not None))


def table(
    name: str = "", *, plugins: Sequence[str] = (), results: str | Path = RESULTS, **options: Any
) -> "pd.DataFrame":
    """Return the cells of a comparison table, in percent, one row per source, method and target; nothing is written.

    name: "" or a paper's table. options: `paper`, `against`, ... of `reidgen.tables.compare.make_table`.
    Raises ReidgenError when there are no results.
    """
    load_plugins(plugins)
    return _cells(Path(results), read_rows(Path(results)), name=name, **options)


def load(
    run: str | Path | Run, *, plugins: Sequence[str] = (), results: str | Path = RESULTS, device: str = "auto"
) -> "Extractor":
    """Return a trained network that embeds images: `.embed(...)`, `.dim`, `.info`. Raises RunError, WeightsError."""
    load_plugins(plugins)
    from reidgen.extractor import Extractor

    return Extractor(_find(run, results), device=device)


def _find(run: str | Path | Run, results: str | Path) -> Run:
    return run if isinstance(run, Run) else find_run(str(run), Path(results))


def _cells(results: Path, rows: "pd.DataFrame", **options: Any) -> "pd.DataFrame":
    from reidgen.tables.compare import make_table
    from reidgen.tables.identities import read_identities

    return make_table(rows, identities=read_identities(results, rows), **options).cells
