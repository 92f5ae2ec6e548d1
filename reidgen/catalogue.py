"""The catalogue: `datasets.toml` read into one frozen Dataset per entry, validated on load."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from reidgen.errors import DataError, unknown

DEFAULT_SYNTH = "synth-plaza"  # what "synth" means as a source
STATUSES = ("open", "request", "withdrawn", "built-in", "own")
PARTS = ("train", "query", "gallery")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What `datasets.toml` says about one data set; its keys are explained at the top of that file.

    folders: part -> folder below the image root; the parts are train, query and gallery, or `test` instead of the
    last two, whose queries `readers.read` then chooses. counts: part -> (identities, images).
    """

    name: str
    pattern: str
    title: str = ""
    paper: str = ""
    homepage: str = ""
    licence: str = ""
    status: str = "own"
    get: str = ""
    folders: Mapping[str, str] = field(default_factory=lambda: {"test": "."})
    query_cameras: tuple[int, ...] = ()
    junk: tuple[int, ...] = ()
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    splits: int = 1
    test_identities: int = 0

    def match(self, path: str) -> tuple[str, str] | None:
        """Return the identity and camera that `path` (relative, with `/`) names, or None when it does not fit.

        >>> Dataset(name="own", pattern=r"(?P<pid>[^/]+)/c(?P<camid>[0-9]).*").match("crops/anna/c2_001.jpg")
        ('anna', '2')
        """
        parts = path.split("/")
        tails = range(len(parts) - 1, -1, -1) if "/" in self.pattern else [len(parts) - 1]
        for start in tails:
            if found := re.fullmatch(self.pattern, "/".join(parts[start:])):
                return found["pid"] or "", found["camid"] or ""
        return None

    def table(self) -> dict[str, Any]:
        """Return the entry as plain values, defaults left out, such that `parse` gives this Dataset again."""
        values = {key.name: getattr(self, key.name) for key in fields(self) if key.name != "name"}
        default = Dataset(name=self.name, pattern="")
        return {key: value for key, value in values.items() if value != getattr(default, key)}


def load_catalogue(extra: Path = Path("datasets.toml")) -> dict[str, Dataset]:
    """Return every known data set by name: those that ship with reidgen, then those of the file `extra`, if any.

    Raises DataError, naming file, entry and key, when an entry is ill-formed or redefines a shipped one.
    """
    beside, above = Path(__file__).with_name("datasets.toml"), Path(__file__).parents[1] / "datasets.toml"
    shipped = beside if beside.is_file() else above
    known = _load_file(shipped)
    if extra.is_file() and not extra.samefile(shipped):
        for name, dataset in _load_file(extra).items():
            if dataset.status == "built-in" and name not in known:
                raise DataError(f'{extra}: [{name}]: status = "built-in" is for the sets that reidgen draws; use "own"')
            if known.setdefault(name, dataset) != dataset:
                raise DataError(f"{extra}: [{name}] differs from the entry that ships with reidgen; rename yours")
    return known


def get_dataset(name: str) -> Dataset:
    """Return the catalogue's entry `name`. Raises DataError, naming the nearest one."""
    known = load_catalogue()
    if name not in known:
        raise DataError(unknown("data set", name, known))
    return known[name]


def expand(names: Iterable[str]) -> list[str]:
    """Return `names` once each, in order, with "synth" replaced by all built-in domains.

    >>> expand(["market", "market"])
    ['market']
    """
    synth = [name for name, dataset in load_catalogue().items() if dataset.status == "built-in"]
    return list(dict.fromkeys(one for name in names for one in (synth if name == "synth" else [name])))


def check_name(name: str, where: str = "the name") -> None:
    """Raise DataError when no folder or source could be called `name`; `where` opens the error.

    >>> check_name("my-crops2")
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name == "synth":
        raise DataError(f"{where} {name!r} cannot name a data set; use a-z, 0-9, - and _, and not 'synth'")


def parse(name: str, table: object, *, where: str) -> Dataset:
    """Return the Dataset that a table of TOML values describes; `where` opens every error (file and entry).

    Raises DataError when a key is unknown, missing or ill-typed, the pattern is no regular expression or lacks
    a group, or the keys contradict each other.
    """
    check_name(name, f"{where}:")
    if not isinstance(table, Mapping):
        raise DataError(f"{where}: expected a table, found {table!r}")
    known = [key for key in fields(Dataset) if key.name != "name"]
    for key in table:
        if key not in [one.name for one in known]:
            raise DataError(f"{where}: {unknown('key', key, [one.name for one in known])}")
    values: dict[str, Any] = {"name": name}
    for one in known:
        if one.name in table:
            value = _typed(one.name, table[one.name])
            if value is None:
                raise DataError(f"{where}: {one.name} = {table[one.name]!r} should be {_KINDS.get(one.name, 'a text')}")
            values[one.name] = value
        elif one.default is MISSING and one.default_factory is MISSING:
            raise DataError(f"{where}: the key {one.name!r} is missing")
    dataset = Dataset(**values)
    _check(dataset, where)
    return dataset


_KINDS = {
    "folders": 'a table of texts such as { train = "train", test = "test" }',
    "counts": "a table such as { train = [751, 12936] } of identities and images",
    "query_cameras": "a list of numbers such as [1]",
    "junk": "a list of numbers such as [-1]",
    "splits": "a number from 1 to 100",
    "test_identities": "a number, 0 or more",
    "status": f"one of {', '.join(STATUSES)}",
}


def _typed(key: str, value: Any) -> Any:
    """Return `value` as the field `key` holds it, or None when its type is wrong."""
    numbers = isinstance(value, list | tuple) and all(type(one) is int for one in value)
    if key in ("query_cameras", "junk"):
        return tuple(value) if numbers else None
    if key in ("splits", "test_identities"):
        low, high = (1, 100) if key == "splits" else (0, 10**9)
        return value if type(value) is int and low <= value <= high else None
    if key == "folders":
        good = isinstance(value, dict) and value and all(map(_below, value.values()))
        return value if good else None
    if key == "counts":
        good = isinstance(value, dict) and all(
            isinstance(two, list | tuple) and len(two) == 2 and all(type(one) is int for one in two)
            for two in value.values()
        )
        return {part: tuple(two) for part, two in value.items()} if good else None
    if key == "status":
        return value if value in STATUSES else None
    return value if isinstance(value, str) else None


def _below(folder: object) -> bool:
    """Tell whether `folder` is a relative path that stays below the image root."""
    return (
        isinstance(folder, str) and not PurePosixPath(folder).is_absolute() and ".." not in PurePosixPath(folder).parts
    )


def _check(dataset: Dataset, where: str) -> None:
    """Raise DataError when the keys, each well typed, do not make sense together."""
    try:
        missing = {"pid", "camid"} - set(re.compile(dataset.pattern).groupindex)
    except re.error as error:
        raise DataError(f"{where}: pattern = {dataset.pattern!r} is no regular expression: {error}") from error
    if missing:
        raise DataError(
            f"{where}: pattern = {dataset.pattern!r} lacks the group{'s' * (len(missing) > 1)} {' and '.join(sorted(missing))}; "
            r"write for example (?P<pid>\d+)_c(?P<camid>\d+).*"
        )
    for key in (*dataset.folders, *dataset.counts):
        if key not in (*PARTS, "test") or (key == "test" and key in dataset.counts):
            raise DataError(f"{where}: {unknown('part', key, PARTS)}")
    parts = set(dataset.folders)
    if ("query" in parts) != ("gallery" in parts) or {"test", "query"} <= parts:
        raise DataError(f"{where}: folders has {', '.join(sorted(parts))}; give query and gallery, or test instead")
    if dataset.query_cameras and "test" not in parts:
        raise DataError(f"{where}: query_cameras works on the folder test, but folders has {', '.join(sorted(parts))}")
    if (dataset.splits > 1) != (dataset.test_identities > 0):
        raise DataError(f"{where}: splits and test_identities come together, such as 10 and 316")


def _load_file(file: Path) -> dict[str, Dataset]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    return {name: parse(name, table, where=f"{file}: [{name}]") for name, table in tables.items()}
