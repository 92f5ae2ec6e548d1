"""One entry of `datasets.toml`: a data set or a protocol, validated key by key."""

import functools
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from reidgen.errors import DataError, unknown

STATUSES = ("open", "request", "withdrawn", "built-in", "own")
PARTS = ("train", "query", "gallery")
SHOTS = ("", "sides", "gallery")
PATIENCE = 2.0  # seconds of computing that one name may take to be matched; it takes some microseconds
TABLES = (".csv", ".mat")  # list files that name person and camera themselves
FORMATS = ("", "table")
RESERVED = (
    "synth",
    "protocols",
    "archives",
    "unpacked",
)  # all built-in sets, a table of the catalogue, folders of the data


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file as its authors published it. urls: mirrors, in the order in which they are tried; none: not to be
    downloaded. md5: 32 hexadecimal digits, "" where nobody publishes any. inside: the file in it that stands for it,
    once unpacked."""

    file: str
    urls: tuple[str, ...] = ()
    md5: str = ""
    inside: str = ""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A named set of experiments. cells: source (several joined by "+") -> its targets.

    A name means a data set or a family (then the first variant of the catalogue that is prepared); with "-all" behind
    it, all images of the source are trained on, not its training part alone.
    """

    name: str
    title: str
    paper: str
    cells: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What `datasets.toml` says about one data set; its keys are explained at the top of that file.

    folders: part -> folders below the image root ("a|b": the first that is there); the parts are train, query and
    gallery, or `test` instead of the last two, whose queries `readers.read` then chooses. lists: part -> files that
    name its images; list_format: "table" where they are tables whatever their suffix. counts: part -> (identities,
    images) or (identities, images, cameras), of split 0, and "all" -> those of the whole set, before any are drawn;
    (identities,) where nobody states more. nobody: folders below the image root whose images are of nobody who is
    known, and of the gallery. family: "" means the set's own name.
    forms: other forms in which people have the set; each is some of these keys again, see `variants`.
    """

    name: str
    pattern: str
    title: str = ""
    paper: str = ""
    homepage: str = ""
    licence: str = ""
    status: str = "own"
    get: str = ""
    family: str = ""
    archives: tuple[Archive, ...] = ()
    known_as: tuple[str, ...] = ()
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"test": (".",)})
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    list_format: str = ""
    skip: str = ""
    cameras: Mapping[str, int] = field(default_factory=dict)
    query_cameras: tuple[int, ...] = ()
    junk: tuple[int, ...] = ()
    distractors: tuple[int, ...] = ()
    nobody: tuple[str, ...] = ()
    apart: bool = False
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    splits: int = 1
    test_identities: int = 0
    both_directions: bool = False
    single_shot: str = ""
    partitions: str = ""
    forms: tuple[Mapping[str, Any], ...] = ()

    def match(self, path: str) -> tuple[str, str] | None:
        """Return the identity and camera that `path` (relative, with `/`) names, or None when it does not fit.

        Both are texts; what several groups (pair, pid, pid2, ...) name is joined by "-". A pattern without a camera
        gives camera 1.

        Raises DataError when that takes longer than PATIENCE.

        >>> Dataset(name="own", pattern=r"(?P<pid>[^/]+)/c(?P<camid>[0-9]).*").match("crops/anna/c2_001.jpg")
        ('anna', '2')
        >>> Dataset(name="own", pattern=r"P(?P<pair>\\d)/cam(?P<camid>\\d)/(?P<pid>\\d+).png").match("P3/cam2/017.png")
        ('3-017', '3-2')
        """
        groups = self.groups(path)
        if groups is None:
            return None
        pair = [groups["pair"]] if "pair" in groups else []
        pid, camid = ([*pair, *(groups[key] for key in groups if key.startswith(word))] for word in _WORDS)
        return "-".join(pid), "-".join(camid) or "1"

    def groups(self, path: str) -> dict[str, str] | None:
        """Return what each group of the pattern reads in the shortest end of `path` (whole names) that fits, None where
        none does. Raises DataError as `match`.
        """
        parts = path.split("/")
        tails = range(len(parts) - 1, -1, -1) if "/" in self.pattern else [len(parts) - 1]
        for start in tails:
            if found := self._fits("pattern", "/".join(parts[start:])):
                return found.groupdict("")
        return None

    def skips(self, path: str) -> bool:
        """Tell whether `path` (below the image root) is no part of the protocol. Raises DataError as `match`."""
        return bool(self.skip and self._fits("skip", path))

    def _fits(self, key: str, path: str) -> re.Match[str] | None:
        """Return how the regular expression `key` fits all of `path`. Raises DataError when that takes too long."""
        pattern: str = getattr(self, key)
        if not _timed():
            return re.fullmatch(pattern, path)
        signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
        try:
            return re.fullmatch(pattern, path)
        except _TooLongError:
            raise DataError(
                f"{self.name}: {key} = {_short(pattern)} takes too long on names such as {path!a}; write it without "
                "repetitions inside of repetitions"
            ) from None
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def table(self) -> dict[str, Any]:
        """Return the entry as plain values, defaults left out, such that `parse` gives this Dataset again."""
        default = asdict(Dataset(name=self.name, pattern=""))
        return {key: value for key, value in asdict(self).items() if key != "name" and value != default[key]}

    def variants(self) -> list["Dataset"]:
        """Return the set as it is described first, then each of its other forms, none of which has forms itself."""
        table = {key: value for key, value in self.table().items() if key != "forms"}
        return [parse(self.name, {**table, **form}, where=f"[{self.name}]") for form in ({}, *self.forms)]


_WORDS = ("pid", "camid")


class _TooLongError(Exception):
    """A regular expression has had its time."""


def _timed() -> bool:
    """Tell whether a regular expression can be ended here: not in threads beside the main one, and not on Windows."""
    return threading.current_thread() is threading.main_thread() and _alarm_is_set()


@functools.cache
def _alarm_is_set() -> bool:
    def end(*_: object) -> None:
        raise _TooLongError

    if not hasattr(signal, "setitimer"):
        return False
    signal.signal(signal.SIGVTALRM, end)  # comes only where _fits has set the timer
    return True


def _short(value: object) -> str:
    """Return what a file has there, for an error."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def check_name(name: str, where: str = "the name") -> None:
    """Raise DataError when no folder or source could be called `name`; `where` opens the error.

    >>> check_name("my-crops2")
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name in RESERVED or name.endswith("-all"):
        raise DataError(
            f"{where} {name!r} cannot name a data set; use a-z, 0-9, - and _, none of {', '.join(RESERVED)}, "
            "and no '-all' at the end"
        )


def spelled_out(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a file such that none says `like` any more: what it does not say itself is as in the table
    that it is like. `like` a name that is not in the file stays, for `parse` to report.

    >>> spelled_out({"a": {"pattern": "x", "title": "A"}, "b": {"like": "a", "title": "B"}})["b"]
    {'pattern': 'x', 'title': 'B'}
    """
    whole: dict[str, Any] = {}
    for name, table in tables.items():
        model = whole.get(str(table.get("like"))) if isinstance(table, Mapping) else None
        if isinstance(model, Mapping):
            whole[name] = {**model, **{key: one for key, one in table.items() if key != "like"}}
        else:
            whole[name] = table
    return whole


def parse(name: str, table: object, *, where: str) -> Dataset:
    """Return the Dataset that a table of TOML values describes; `where` opens every error (file and entry).

    Where a list is expected, one of its members alone will do. Raises DataError when a key is unknown, missing or
    ill-typed, a pattern is no regular expression or lacks a group, or the keys contradict each other.
    """
    check_name(name, f"{where}:")
    if isinstance(table, Mapping) and "like" in table:
        raise DataError(f"{where}: like = {table['like']!r} should name an entry above it in the same file")
    dataset = Dataset(name=name, **_fields(Dataset, table, where=where, leave="name"))
    for key, good, wish in _rules(dataset):
        if not good:
            raise DataError(f"{where}: {key} = {_short(getattr(dataset, key))}: {wish}")
    for archive in dataset.archives:
        for key, text, good, wish in _archive_rules(archive):
            if not good:
                raise DataError(f"{where}: archives: {key} = {_short(text)}: {wish}")
    for number, form in enumerate(dataset.forms):
        if "forms" in form:
            raise DataError(f"{where}: forms[{number}] cannot have forms itself")
        parse(name, {**dataset.table(), "forms": (), **form}, where=f"{where}: forms[{number}]")
    return dataset


def _fields(kind: type, table: object, *, where: str, leave: str = "") -> dict[str, Any]:
    """Return the arguments of the dataclass `kind` that a table gives, each as its annotation wants it."""
    if not isinstance(table, Mapping):
        raise DataError(f"{where}: expected a table, found {_short(table)}")
    hints, known = get_type_hints(kind), {one.name: one for one in fields(kind) if one.name != leave}
    for key in table:
        if key not in known:
            raise DataError(f"{where}: {unknown('key', key, known)}")
    for key, one in known.items():
        if key not in table and one.default is MISSING and one.default_factory is MISSING:
            raise DataError(f"{where}: the key {key!r} is missing")
    return {key: _value(hints[key], value, key=key, where=where) for key, value in table.items()}


def _value(kind: Any, value: object, *, key: str, where: str) -> Any:
    """Return `value` as the annotation `kind` wants it, lists as tuples; `key` may be a path such as folders.train."""
    origin = get_origin(kind) or kind
    if origin is tuple:
        members = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(get_args(kind)[0], one, key=key, where=where) for one in members)
    if origin is Mapping and isinstance(value, Mapping):
        return {name: _value(get_args(kind)[1], one, key=f"{key}.{name}", where=where) for name, one in value.items()}
    if origin is Archive and isinstance(value, Mapping):
        return Archive(**_fields(Archive, value, where=f"{where}: {key}"))
    if kind is Any or (origin in (str, int, bool) and type(value) is origin):
        return value
    words = {str: "a text", int: "a number", bool: "true or false"}
    raise DataError(f"{where}: {key} = {_short(value)} should be {words.get(origin, 'a table')}")


def _rules(dataset: Dataset) -> Iterator[tuple[str, bool, str]]:
    """Yield (key, whether it is as it should be, what it should be) in the order in which mistakes are to be told."""
    parts, tested = set(dataset.folders), "test" in dataset.folders
    yield "status", dataset.status in STATUSES, f"should be one of {', '.join(STATUSES)}"
    for key, pattern in (("pattern", dataset.pattern), ("skip", dataset.skip)):
        yield key, _compiles(pattern), "is no regular expression"
    lacking = sorted(_needed(dataset) - _groups(dataset.pattern))
    wish = f"lacks the group{'s' * (len(lacking) > 1)} {' and '.join(lacking)}; write for example"
    yield "pattern", not lacking, rf"{wish} (?P<pid>\d+)_c(?P<camid>\d+).*"
    known = f"the parts are {', '.join(PARTS)}, or test instead of the last two"
    yield "folders", bool(parts) and parts <= {*PARTS, "test"} and all(dataset.folders.values()), known
    alone = "query" in parts and "gallery" not in parts
    yield "folders", not alone, "give both query and gallery, or test instead of them"
    yield "folders", not {"test", "query"} <= parts, "give query and gallery, or test, but not both"
    yield "lists", set(dataset.lists) <= parts, f"lists are for parts of folders: {', '.join(dataset.folders)}"
    yield "list_format", dataset.list_format in FORMATS, 'should be "table", or be left out'
    yield "counts", set(dataset.counts) <= {*PARTS, "all"}, f"the parts are {', '.join(PARTS)}, and all of them"
    good = all(0 < len(one) <= 3 and min(one) >= 0 for one in dataset.counts.values())
    yield "counts", good, "should be like { train = [751, 12936, 6] }: identities, images, cameras"
    for key, paths in (("folders", dataset.folders), ("lists", dataset.lists), ("nobody", {"": dataset.nobody})):
        yield key, all(_below(one) for some in paths.values() for one in some), "should be paths below the image root"
    yield "partitions", _below(dataset.partitions), "should be a path below the image root"
    yield "known_as", all(map(_plain, dataset.known_as)), "should be names of folders"
    yield "splits", 1 <= dataset.splits <= 100, "should be a number from 1 to 100"
    yield "test_identities", dataset.test_identities >= 0, "should be a number, 0 or more"
    together = (dataset.splits > 1) == (dataset.test_identities > 0)
    yield "splits", together, "splits and test_identities come together, such as 10 and 316"
    yield "query_cameras", not dataset.query_cameras or tested, "works on the folder test"
    yield "single_shot", dataset.single_shot in SHOTS, 'should be "sides" or "gallery"'
    yield "single_shot", not dataset.single_shot or tested, "works on the folder test"
    yield "apart", not dataset.apart or ("train" in parts and len(parts) > 1), "needs a train and a test part"


def _archive_rules(archive: Archive) -> Iterator[tuple[str, str, bool, str]]:
    """Yield (key, one value of it, whether it is as it should be, what it should be)."""
    yield "file", archive.file, _plain(archive.file), "should be the name of a file"
    for url in archive.urls:
        yield "urls", url, _is_address(url), "should be an address that begins with http:// or https://"
    good = not archive.md5 or bool(re.fullmatch("[0-9a-f]{32}", archive.md5))
    yield "md5", archive.md5, good, "should be 32 digits of 0-9 and a-f"


def _is_address(url: str) -> bool:
    try:
        return bool(re.match("https?://.", url) and urlsplit(url).hostname)
    except ValueError:
        return False


def _needed(dataset: Dataset) -> set[str]:
    """Return the groups that the pattern must have: what no list names, and no camera where no camera matters."""
    unlisted = any(
        file == "names" or not (file.endswith(TABLES) or dataset.list_format == "table")
        for part in dataset.folders
        for file in dataset.lists.get(part, ("names",))
    )
    needed = {"camid"} if unlisted and dataset.single_shot != "sides" and set(dataset.folders) != {"train"} else set()
    return needed | ({"pid"} if set(dataset.folders) - set(dataset.lists) else set())


def _groups(pattern: str) -> set[str]:
    return set(re.compile(pattern).groupindex)


def _compiles(pattern: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python may read otherwise
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, MemoryError):  # such as .{1,99999999999}
        return False
    return True


def _below(path: str) -> bool:
    """Tell whether `path`, or each of "a|b", is relative and stays below the image root."""
    options = [PurePosixPath(one) for one in path.split("|")]
    return not any(one.is_absolute() or ".." in one.parts for one in options)


def _plain(name: str) -> bool:
    return name not in ("", ".", "..") and not re.search(r"[/\\]", name)
