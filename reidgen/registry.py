"""What can be named: the rows that ship with reidgen, those of plug-ins, and timm's backbones. No torch here, but
plug-ins and timm import it.

A plug-in is a Python file (or an importable module) with a list ROWS of `Method`, `BackboneRow` and `StepRow`, and the
classes that they name. It is code that runs. It comes by `--plugin`, by `plugins` in a recipe file, or from an
installed package with an entry point of the group "reidgen"; of these the last are imported only when a name is not
known otherwise.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from reidgen.backbones import BACKBONES
from reidgen.errors import PluginError, RecipeError, ReidgenError, unknown
from reidgen.methods import METHODS, PAPER_TABLES, WORDS
from reidgen.parts import GROUPS, TIMM, BackboneRow, Method, Part
from reidgen.process import settings_kept
from reidgen.teststeps import PLAIN, TEST_STEPS, StepRow

ENTRY_POINTS = "reidgen"  # the group's name in a package's metadata
SHIPPED = "reidgen."
PARTS = (  # where shipped parts lie: nothing else is ever imported because a row names it
    "reidgen.models.norms",
    "reidgen.models.mixing",
    "reidgen.models.gates",
    "reidgen.models.tiny",
    "reidgen.models.backbones",
    "reidgen.models.osnet",
    "reidgen.models.timm_backbone",
    "reidgen.models.transformers",
    "reidgen.losses",
    "reidgen.balance",
    "reidgen.data.views",
    "reidgen.steps",
)


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A loaded plug-in: as it was asked for, its file, the SHA-256 of its source, and the imported module."""

    name: str
    file: Path
    digest: str
    module: ModuleType


PLUGINS: dict[str, Plugin] = {}  # by the file's name, or the module's
_GIVE = "give the path of a Python file, or the name of an importable module"
P = TypeVar("P", bound=Part)
R = TypeVar("R")
Row = Method | BackboneRow | StepRow
_KINDS: dict[type, tuple[str, dict[str, Any]]] = {  # of a row: what it is called, and where it stands
    Method: ("method", METHODS),
    BackboneRow: ("backbone", BACKBONES),
    StepRow: ("test step", TEST_STEPS),
}
BROKEN: dict[str, str] = {}  # installed modules that could not be used, and why


def load_plugins(names: Iterable[str]) -> tuple[str, ...]:
    """Import plug-ins and add their rows; return what a recipe keeps of them: absolute files and modules' names.

    names: files ("mine.py") and importable modules ("package.module"). One that is loaded already is left as it is.
    Raises PluginError, with file and line, when one is missing, cannot be imported, holds no rows or takes a name that
    is known already.
    """
    kept = []
    for name in names:
        path = Path(name)
        with contextlib.suppress(RuntimeError):  # a user whose home nobody knows
            path = path.expanduser()
        if path.suffix == ".py" or path.is_file():
            path = path.resolve()
            _load_file(path)
            kept.append(str(path))
        else:
            _load_module(name)
            kept.append(name)
    return tuple(dict.fromkeys(kept))


def _load_file(path: Path) -> None:
    if not path.is_file():
        raise PluginError(f"no plug-in {path}; {_GIVE}")
    if path.suffix != ".py":
        raise PluginError(f"{path} is no Python file, whose name ends in .py; {_GIVE}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if path.name in PLUGINS:
        known = PLUGINS[path.name]
        if known.digest == digest:
            return
        if known.file != path:
            raise PluginError(f"another plug-in is called {path.name} already ({known.file}); rename one of them")
        _forget(known)  # edited since, as in a notebook
    spec = importlib.util.spec_from_file_location(f"reidgen_plugin_{path.stem}_{digest[:8]}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # before it runs: dataclasses and pickle look there
    try:
        with settings_kept(path.name):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module.__name__]
        _refuse(path, error)
    _register(Plugin(path.name, path, digest, module))


def _forget(plugin: Plugin) -> None:
    del PLUGINS[plugin.name]
    for _, table in _KINDS.values():
        for name in [name for name, row in table.items() if row.origin == plugin.name]:
            del table[name]


def _load_module(name: str) -> None:
    if name in PLUGINS:
        return
    if not all(part.isidentifier() for part in name.split(".")):
        raise PluginError(f"no plug-in {name!r}; {_GIVE}")
    try:
        with settings_kept(name):
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name == error.name or name.startswith(f"{error.name}."):
            raise PluginError(f"no plug-in {name}; {_GIVE}") from error
        _refuse(Path(name), error)
    except BaseException as error:
        _refuse(Path(name), error)
    file = Path(module.__file__ or name)
    top = Path(sys.modules[name.partition(".")[0]].__file__ or file)  # what a module imports lies in its package
    sources = sorted(top.parent.rglob("*.py")) if top.name == "__init__.py" else [file]
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()
    _register(Plugin(name, file, digest, module))


def _refuse(path: Path, error: BaseException) -> NoReturn:
    """Raise PluginError for what a plug-in's import raised, with the place in the file."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    file, line = str(path), 0
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno or 0
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).name == path.name]
        for frame in own or frames[-1:]:
            file, line = frame.filename, frame.lineno or 0
    what = error.msg if isinstance(error, SyntaxError) else str(error) or "no reason given"
    raise PluginError(f"{file}, line {line}: the plug-in cannot be imported: {type(error).__name__}: {what}") from error


@contextlib.contextmanager
def blaming() -> Iterator[None]:
    """Turn what the code of a plug-in raises into one sentence with its file and line; all else goes through. What it
    sets for the whole process is set back.
    """
    try:
        with settings_kept(", ".join(PLUGINS)) if PLUGINS else contextlib.nullcontext():
            yield
    except ReidgenError:
        raise
    except Exception as error:
        files = {str(plugin.file) for plugin in PLUGINS.values()}
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
        if not own:
            raise
        raise PluginError(f"{own[-1].filename}, line {own[-1].lineno}: {type(error).__name__}: {error}") from error


def _register(plugin: Plugin) -> None:
    """Add a plug-in's rows, or none of them. Raises PluginError for what is no row and for a name that is taken."""
    rows = getattr(plugin.module, "ROWS", None)
    allowed = "Method, BackboneRow and StepRow"
    if not isinstance(rows, list | tuple) or not rows:
        raise PluginError(f"{plugin.file}, line 1: a plug-in needs a list ROWS of {allowed}; it has none")
    made: list[Row] = []
    for row in rows:
        if type(row) not in _KINDS:
            raise PluginError(f"{plugin.file}, {_line(plugin, 'ROWS')}: ROWS holds {row!r}; it may hold {allowed}")
        kind, table = _KINDS[type(row)]
        known = {**table, **{other.name: other for other in made if type(other) is type(row)}}
        if row.name in known:
            owner = known[row.name].origin
            raise PluginError(
                f"{plugin.file}, {_line(plugin, row.name)}: the {kind} {row.name!r} is taken by {owner}; choose "
                "another name"
            )
        if isinstance(row, Method) and (row.name in WORDS or row.title in {other.title for other in METHODS.values()}):
            raise PluginError(
                f"{plugin.file}, {_line(plugin, row.name)}: the method {row.name!r} or its title {row.title!r} stands "
                "for another one; choose others"
            )
        made.append(_own(row, plugin))
    if both := _named_twice(made):
        raise PluginError(
            f"{plugin.file}, {_line(plugin, both)}: a test step and a part of a method are both called {both!r}, so "
            f"--set {both}... would mean two things; rename one of them"
        )
    PLUGINS[plugin.name] = plugin
    for row in made:
        _KINDS[type(row)][1][row.name] = row


def _named_twice(made: list[Row]) -> str:
    """Return a name that is that of a test step and of a method's part, with these rows too; "" where there is none."""
    steps = {*TEST_STEPS, *(row.name for row in made if isinstance(row, StepRow))}
    methods = [*METHODS.values(), *(row for row in made if isinstance(row, Method))]
    return min(steps & {part.name for row in methods for part in row.parts}, default="")


def _own(row: Row, plugin: Plugin) -> Row:
    """Return a plug-in's row with its classes as paths, its parameters complete, and where it comes from."""
    if isinstance(row, BackboneRow):
        build, digest = _path_of(row.build, plugin, row.name)
        return dataclasses.replace(row, build=build, digest=digest, origin=plugin.name)

    def own(part: P) -> P:
        build, digest = _path_of(part.build, plugin, part.name)
        defaults = parameters_of(part.build) if isinstance(part.build, type) else {}
        return dataclasses.replace(part, build=build, digest=digest, params={**defaults, **part.params})

    if isinstance(row, StepRow):
        return dataclasses.replace(own(row), origin=plugin.name)
    return dataclasses.replace(row.with_parts(own), origin=plugin.name, tables=())


def _path_of(build: str | type, plugin: Plugin, name: str) -> tuple[str, str]:
    """Return the path of a part's class, and the plug-in's digest where the class is its own."""
    if isinstance(build, type):
        if build.__module__.startswith(SHIPPED):
            return f"{build.__module__}:{build.__qualname__}", ""
        if getattr(plugin.module, build.__qualname__, None) is build:
            return f"{plugin.name}:{build.__qualname__}", plugin.digest
    elif build.startswith(SHIPPED):
        return build, ""
    raise PluginError(
        f"{plugin.file}, {_line(plugin, name)}: the part {name!r} is built by {build!r}, which is no class of this file"
    )


def parameters_of(build: type) -> dict[str, Any]:
    """Return the parameters of a part's class with their defaults: what its constructor takes by keyword only."""
    own = inspect.signature(build).parameters.values()
    return {one.name: one.default for one in own if one.kind is one.KEYWORD_ONLY and one.default is not one.empty}


def _line(plugin: Plugin, word: str) -> str:
    """Return "line N", where the plug-in's file first has `word` as a string or as a name that it assigns."""
    try:
        tree = ast.parse(plugin.file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return "line 1"
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Constant) and node.value == word) or (isinstance(node, ast.Name) and node.id == word)
    ]
    return f"line {min(lines, default=1)}"


def load_class(build: str | type, digest: str = "") -> Any:
    """Return the class that a part's path names; this may import torch.

    Raises PluginError when it belongs to a plug-in that is not loaded, or is loaded with another source than `digest`.
    """
    if isinstance(build, type):
        return build
    place, _, name = build.partition(":")
    if place not in PLUGINS and place not in PARTS:
        _load_installed()
    if place in PARTS:
        module: ModuleType = importlib.import_module(place)
    elif place not in PLUGINS:
        raise PluginError(f"{build} comes from a plug-in that is not loaded; add --plugin with the path of {place}")
    elif digest and PLUGINS[place].digest != digest:
        raise PluginError(
            f"{PLUGINS[place].file} is not the {place} that this run was trained with ({digest[:8]}, now "
            f"{PLUGINS[place].digest[:8]}); train again, or give the older file with --plugin"
        )
    else:
        module = PLUGINS[place].module
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise PluginError(f"{place} has no class {name}")
    return found


def _load_installed() -> None:
    """Import the plug-ins of installed packages, those that are not there yet; one that is broken is passed by."""
    for point in entry_points(group=ENTRY_POINTS):
        name = point.value.partition(":")[0]
        if name not in BROKEN:
            try:
                _load_module(name)
            except PluginError as error:
                BROKEN[name] = str(error)


def broken() -> list[str]:
    """Return why installed packages that offer rows could not be used, a sentence for each."""
    return list(BROKEN.values())


def get_method(name: str) -> Method:
    """Return the row of METHODS called `name`. Raises RecipeError, naming the nearest one."""
    return _get("method", name, METHODS, lambda: METHODS)


def get_backbone(name: str) -> BackboneRow:
    """Return the row of BACKBONES called `name`, or one made for `timm:NAME`.

    Raises RecipeError, naming the nearest one, or the package that is missing.
    """
    if name.startswith(TIMM):
        return _of_timm(name)
    return _get("backbone", name, BACKBONES, lambda: [*BACKBONES, f"{TIMM}NAME"])


def get_test_step(name: str) -> StepRow:
    """Return the row of TEST_STEPS called `name`. Raises RecipeError, naming the nearest one."""
    return _get("test step", name, TEST_STEPS, lambda: [PLAIN, *TEST_STEPS])


def _get(kind: str, name: str, table: Mapping[str, R], known: Callable[[], Iterable[str]]) -> R:
    if name not in table:
        _load_installed()
    if name not in table:
        raise no_row(kind, name, known())
    return table[name]


def no_row(kind: str, name: str, known: Iterable[str]) -> RecipeError:
    """Return the error to raise for a name that no row has, with the nearest one of those that are known."""
    return RecipeError(f"{unknown(kind, name, known)} (one from a plug-in needs --plugin FILE)")


@functools.cache
def _of_timm(name: str) -> BackboneRow:
    """Return the row of one of timm's networks. Raises RecipeError as `import_timm`, and for one that timm has not."""
    timm = import_timm(name)
    own, known = name.removeprefix(TIMM), {*timm.list_models(), *timm.list_pretrained()}
    if own not in known:
        near = difflib.get_close_matches(own, sorted(known), n=3) or [one for one in sorted(known) if own in one][:3]
        hint = f"; near it: {', '.join(TIMM + one for one in near)}" if near else ""
        raise RecipeError(
            f"timm {timm.__version__} has no {own!r}{hint}; all of its names: python -c "
            "'import timm; print(timm.list_models())'"
        )
    return BackboneRow(
        name=name,
        build="reidgen.models.timm_backbone:TimmBackbone",
        source="timm's network with its own pooling [B]",
        params={"name": own},
        origin=f"timm {timm.__version__}",
    )


def import_timm(backbone: str) -> ModuleType:
    """Return the package timm. Raises RecipeError where it is not installed, or cannot be imported."""
    try:
        import timm
    except ImportError as error:
        raise RecipeError(
            f"backbone {backbone} needs timm ({error}); install it: pip install 'reidgen[timm]'"
        ) from error
    found: ModuleType = timm
    return found


def all_rows() -> tuple[list[Method], list[BackboneRow], list[StepRow]]:
    """Return every method, every backbone and every test step, those of installed packages too."""
    _load_installed()
    return list(METHODS.values()), list(BACKBONES.values()), list(TEST_STEPS.values())


def select_methods(words: str) -> list[str]:
    """Return the methods that `words` asks for, once each, joined by commas: names, tables, groups, "ablations", "all".

    "ablations": the paper's tables but main. A group comes with Baseline before it.
    Raises RecipeError, naming the nearest method, for an unknown word.

    >>> select_methods("main")
    ['baseline', 'a-in', 'ibn', 'a-sn', 'in', 'snr']
    >>> select_methods("snr, design")
    ['snr', 'baseline', 'snr-conv', 'snr-g2']
    """
    chosen: list[str] = []
    for word in (word.strip() for word in words.split(",")):
        if word == "all":
            chosen += METHODS
        elif word == "ablations":
            chosen += [name for name, row in METHODS.items() if set(row.tables) & {*PAPER_TABLES[1:]}]
        elif word in GROUPS:
            chosen += [name for name, row in METHODS.items() if name == "baseline" or row.group == word]
        else:
            chosen += [name for name, row in METHODS.items() if word in row.tables] or [_method_of(word).name]
    return list(dict.fromkeys(chosen))


def words_for_methods() -> list[str]:
    """Return every word that `select_methods` knows."""
    tables = dict.fromkeys(table for row in METHODS.values() for table in row.tables)
    return [*METHODS, *tables, *GROUPS, "ablations", "all"]


def _method_of(word: str) -> Method:
    """Return a method, as `get_method`; the nearest word of an unknown one may be a group's or a table's."""
    return _get("method", word, METHODS, words_for_methods)
