"""Protocols: named sets of experiments, the `[protocols.*]` tables of `datasets.toml`, and what of them can be run."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from reidgen.catalogue import (
    ALL,
    OWN_FILE,
    PROTOCOLS,
    family_of,
    load_catalogue,
    load_files,
    refuse_relatives,
    split_all,
    train_only,
    trained_whole,
    variants,
)
from reidgen.entries import Dataset, Protocol
from reidgen.errors import DataError, SharedImagesError, unknown

KEYS = ("title", "paper", "cells")


def load_protocols(extra: Path = OWN_FILE) -> dict[str, Protocol]:
    """Return every protocol by name: those that ship with reidgen, then those of the file `extra`, if any.

    Raises DataError, naming file, protocol and key, when one is ill-formed, names a set that nobody knows, redefines a
    shipped one, or has a cell whose sources show the same people, or whose target is trained on whole.
    """
    sets, known = load_catalogue(extra), dict[str, Protocol]()
    for file, tables in load_files(extra):
        group = tables.get(PROTOCOLS, {})
        if not isinstance(group, dict):
            raise DataError(f"{file}: protocols should be tables such as [protocols.p2]; found {group!r}")
        for name, table in group.items():
            protocol = _parse(name, table, sets, where=f"{file}: [protocols.{name}]")
            if known.setdefault(name, protocol) != protocol:
                raise DataError(
                    f"{file}: [protocols.{name}] differs from the one that ships with reidgen; rename yours"
                )
    return known


def get_protocol(name: str) -> Protocol:
    """Return the protocol `name`. Raises DataError, naming the nearest one."""
    known = load_protocols()
    if name not in known:
        raise DataError(unknown("protocol", name, known))
    return known[name]


def resolve(
    protocol: Protocol, prepared: Collection[str], sets: Mapping[str, Dataset]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return what can be run of a protocol with the sets that are prepared, source -> targets, and what to say about
    it.

    A family becomes the first of its sets that is prepared, the same one wherever the protocol names it. A cell
    without all its sources, and a target that is not prepared, are left out: one line each, with the command to run.
    Raises DataError when no cell is left.
    """
    names = dict.fromkeys(name for source, targets in protocol.cells.items() for name in (*_bare(source), *targets))
    here = {name: [one for one in variants(name, sets) if one in prepared] for name in names}
    cells: dict[str, list[str]] = {}
    lines = [
        f"{name}: {found[0]} is used" + (f"; prepared too: {', '.join(found[1:])}" if found[1:] else "")
        for name, found in here.items()
        if found and found[0] != name
    ]
    left_out: list[str] = []

    def missing(names: Iterable[str]) -> str:
        lacking = [name for name in names if not here[name]]
        commands = " and ".join(f"reidgen prepare {variants(name, sets)[0]}" for name in lacking)
        return f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not prepared (run: {commands})"

    for source, targets in protocol.cells.items():
        if not all(here[name] for name in _bare(source)):
            left_out.append(f"source {source} is left out: {missing(_bare(source))}")
            continue
        left_out += [f"target {name} is left out: {missing([name])}" for name in targets if not here[name]]
        if found := [here[name][0] for name in targets if here[name]]:
            parts = [split_all(one) for one in source.split("+")]
            cells["+".join(here[name][0] + ALL * everything for name, everything in parts)] = found
        else:
            left_out.append(f"source {source} is left out: none of its targets is prepared")
    left_out = list(dict.fromkeys(left_out))
    if not cells:
        raise DataError(f"nothing of the protocol {protocol.name} can be run; {'; '.join(left_out)}")
    return cells, [*lines, *left_out]


def _bare(source: str) -> list[str]:
    """Return the names in a source, without `-all`."""
    return [split_all(one)[0] for one in source.split("+")]


def _parse(name: str, table: object, sets: Mapping[str, Dataset], *, where: str) -> Protocol:
    """Return the Protocol that a table of TOML values describes; `where` opens every error (file and protocol)."""
    if not isinstance(table, Mapping):
        raise DataError(f"{where}: expected a table, found {table!r}")
    for key in table:
        if key not in KEYS:
            raise DataError(f"{where}: {unknown('key', key, KEYS)}")
    title, paper, cells = table.get("title", ""), table.get("paper", ""), table.get("cells")
    for key, text in (("title", title), ("paper", paper)):
        if not isinstance(text, str):
            raise DataError(f"{where}: {key} = {text!r} should be a text")
    if not isinstance(cells, Mapping) or not cells:
        raise DataError(f'{where}: cells = {cells!r} should be a table such as {{ "market+duke" = ["grid", "viper"] }}')
    for source, targets in cells.items():
        _check_cell(source, targets, sets, where=f"{where}: cells: {source!r}")
    return Protocol(name=name, title=title, paper=paper, cells={key: tuple(names) for key, names in cells.items()})


def _check_cell(source: str, targets: object, sets: Mapping[str, Dataset], *, where: str) -> None:
    if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
        raise DataError(f'{where} = {targets!r} should be a list of targets such as ["grid", "viper"]')
    known = dict.fromkeys([*sets, *(family_of(name, sets) for name in sets)])
    for name in (*_bare(source), *targets):
        if name not in known:
            raise DataError(f"{where}: {unknown('data set or family', name, known)}")
    sources = source.split("+")
    try:
        refuse_relatives(sources, sets)
    except SharedImagesError as error:
        raise DataError(f"{where}: {error}") from error
    for target in targets:
        if any(trained_whole(one, target, sets) for one in sources):
            raise DataError(f"{where}: all images of the target {target} are trained on; leave it out")
        if train_only(target, sets):
            raise DataError(f"{where}: {target} has no test part and cannot be a target")
