"""The catalogue: `datasets.toml` read into one Dataset per entry; families and the notation of sources.

Names: a set (`msmt17-v2`), a family of sets that show the same people (`msmt17`), a source (either, with `-all` behind
it where all its images are trained on and not its training part alone), several sources (`market-all+cuhk02`).
"""

import functools
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reidgen.entries import Dataset, parse, spelled_out
from reidgen.errors import DataError, SharedImagesError, unknown
from reidgen.files import opened

ALL = "-all"  # behind a source's name: train on all its images, not on its training part alone
DEFAULT_SYNTH = "synth-plaza"  # what "synth" means as a source
OWN_FILE = Path("datasets.toml")  # in the working folder: adds to what ships with reidgen
LARGEST, DEEPEST = 2**24, 20  # bytes of such a file; tables in tables
PROTOCOLS = "protocols"  # the table of the file that `reidgen.protocols` reads


def load_catalogue(extra: Path = OWN_FILE) -> dict[str, Dataset]:
    """Return every known data set by name: those that ship with reidgen, then those of the file `extra`, if any.

    Read anew only when a file has changed. Raises DataError, naming file, entry and key, when an entry is ill-formed or
    redefines a shipped one.
    """
    return dict(_parsed(extra, tuple(_state(file) for file in _files(extra))))


@functools.lru_cache(maxsize=8)
def _parsed(extra: Path, files: tuple[tuple[Path, int, int], ...]) -> Mapping[str, Dataset]:
    """Return the catalogue of the files in this state: path, time of change, size."""
    known: dict[str, Dataset] = {}
    for file, tables in load_files(extra):
        for name, table in spelled_out(tables).items():
            if name == PROTOCOLS:
                continue
            dataset = parse(name, table, where=f"{file}: [{name}]")
            if dataset.status == "built-in" and file == extra and name not in known:
                raise DataError(f'{file}: [{name}]: status = "built-in" is for the sets that reidgen draws; use "own"')
            if known.setdefault(name, dataset) != dataset:
                raise DataError(f"{file}: [{name}] differs from the entry that ships with reidgen; rename yours")
    return known


def load_files(extra: Path = OWN_FILE) -> list[tuple[Path, dict[str, Any]]]:
    """Return the shipped `datasets.toml` and the file `extra`, if there is one, each with its tables as TOML has them.

    Raises DataError when a file cannot be read.
    """
    return [(file, _read(file)) for file in _files(extra)]


def _files(extra: Path) -> list[Path]:
    beside, above = Path(__file__).with_name("datasets.toml"), Path(__file__).parents[1] / "datasets.toml"
    files = [beside if beside.is_file() else above]
    if extra.is_file() and not extra.samefile(files[0]):
        files.append(extra)
    return files


def _state(file: Path) -> tuple[Path, int, int]:
    known = file.stat()
    return file.resolve(), known.st_mtime_ns, known.st_size


def _read(file: Path) -> dict[str, Any]:
    try:
        with opened(file) as raw:
            if os.fstat(raw.fileno()).st_size > LARGEST:
                raise ValueError(f"it has more than {LARGEST:,} bytes")
            content = raw.read()
        tables = tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
        if _depth(tables) > DEEPEST:
            raise RecursionError
    except RecursionError as error:
        raise DataError(f"cannot read {file}: its tables and lists are nested more than {DEEPEST} deep") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    return tables


def _depth(tables: dict[str, Any]) -> int:
    """Return how deep tables and lists lie in each other, 1 where none does; no more than DEEPEST + 1."""
    level: list[dict[str, Any] | list[Any]] = [tables]
    depth = 0
    while level and depth <= DEEPEST:
        members = (member for one in level for member in (one.values() if isinstance(one, dict) else one))
        level = [member for member in members if isinstance(member, dict | list)]
        depth += 1
    return depth


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
    return list(dict.fromkeys(one for name in names for one in (synth if name.strip() == "synth" else [name.strip()])))


def split_all(source: str) -> tuple[str, bool]:
    """Return the name of one source's set (or family), and whether all its images are trained on.

    >>> split_all("market-all"), split_all("msmt17-v2")
    (('market', True), ('msmt17-v2', False))
    """
    return source.removesuffix(ALL), source.endswith(ALL)


def family_of(name: str, sets: Mapping[str, Dataset]) -> str:
    """Return the family of a set: the sets that show the same people. A set that is in none is one by itself.
    A family's own name stands for it as well.

    >>> family_of("my-crops", load_catalogue())
    'my-crops'
    """
    return (sets[name].family if name in sets else "") or name


def variants(name: str, sets: Mapping[str, Dataset]) -> list[str]:
    """Return the sets that a name in a protocol means, the preferred one first: that set, or else the family's sets.

    A family's sets of single shots are meant only where it has no others: CUHK03's classic test sets show people whom
    the new protocol trains on, and their numbers compare with no other's.

    >>> variants("cuhk03", load_catalogue())
    ['cuhk03-np-detected', 'cuhk03-np-labelled']
    """
    family = [name] if name in sets else [one for one in sets if family_of(one, sets) == name]
    return [one for one in family if not sets[one].single_shot] or family


def train_only(name: str, sets: Mapping[str, Dataset]) -> bool:
    """Tell whether the set `name` is known to have no test part."""
    return name in sets and set(sets[name].folders) == {"train"}


def refuse_relatives(sources: Sequence[str], sets: Mapping[str, Dataset]) -> None:
    """Raise SharedImagesError when two of the sources belong to one family and so show the same people.

    >>> refuse_relatives(["market", "market-all"], load_catalogue())
    Traceback (most recent call last):
    reidgen.errors.SharedImagesError: the sources market and market-all show the same people; name one of them
    """
    taken: dict[str, str] = {}
    for source in sources:
        family = family_of(split_all(source)[0], sets)
        if family in taken:
            raise SharedImagesError(f"the sources {taken[family]} and {source} show the same people; name one of them")
        taken[family] = source


def trained_whole(source: str, target: str, sets: Mapping[str, Dataset]) -> bool:
    """Tell whether the source trains on the target's people: of its family, with `-all` or as it has no test part.

    >>> [trained_whole(source, "market", load_catalogue()) for source in ("market", "market-all")]
    [False, True]
    """
    name, everything = split_all(source)
    return (everything or train_only(name, sets)) and family_of(name, sets) == family_of(target, sets)
