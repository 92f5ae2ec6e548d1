"""The command that brings data sets in."""

from pathlib import Path
from typing import Annotated

import typer

from reidgen.commands.options import Data, Json, Quiet
from reidgen.errors import DataError
from reidgen.terminal import document, note, one_sentence, out, progress, result


@one_sentence
def prepare(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets; synth means all built-in domains.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder or archive that holds the data set, or a CSV of your crops.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="For own crops: a regular expression with the groups pid and camid.")
    ] = None,
    accept_counts: Annotated[
        bool, typer.Option("--accept-counts", help="Take a set whose counts are not as expected, and note it.")
    ] = False,
    accept_duplicates: Annotated[
        bool, typer.Option("--accept-duplicates", help="Take own crops with a picture in two parts, and note it.")
    ] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="Show every data set and its state in short; of those named, all.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Prove prepared sets again (all, or those named) by names, sizes and times.")
    ] = False,
    deep: Annotated[bool, typer.Option("--deep", help="With --check: by the content of every file.")] = False,
    splits: Annotated[
        bool, typer.Option("--splits", help="Print who is tested in each split of a prepared set.")
    ] = False,
    data: Data = Path("data"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find, download or take data sets, verify and index them.

    A folder's images stay where they are.

    Without --from a set is looked for in the data folder, as a folder or as the published archive, and is downloaded
    if its authors publish it. The built-in sets, synth, are drawn. Without a name: lists every set.

    For research on generalization: use only images that you have the right to use. Most licences forbid passing images
    on; sets that were withdrawn are never downloaded.

    Example: reidgen prepare synth

    Example: reidgen prepare market --from ~/Market-1501-v15.09.15.zip

    Example: reidgen prepare mycams --from ~/crops --pattern '(?P<pid>[^/]+)/cam(?P<camid>[0-9]+)_.*'
    """
    from reidgen.catalogue import expand

    making = {
        "--from": source is not None,
        "--pattern": pattern is not None,
        "--accept-counts": accept_counts,
        "--accept-duplicates": accept_duplicates,
    }
    if json and not (listing or not names):
        raise DataError("--json goes with --list: reidgen prepare --list --json")
    _refuse_idle(names or [], making, {"--check": check or deep, "--splits": splits, "--list": listing})
    if source and len(names or []) > 1:
        _refuse_strangers(names or [], source)
    if check or deep:
        from reidgen.data.check import check_all

        with progress() as report:
            check_all(expand(names or []), data, deep=deep, report=report, say=result)
    elif splits:
        from reidgen.data.manifest import load_index, load_prepared
        from reidgen.data.partitions import split_ids

        for name in expand(names or []):
            prepared = load_prepared(name, data)
            for split, pids in split_ids(load_index(prepared)).items():
                result(f"{name} split {split}: {' '.join(map(prepared.person, pids))}")
    elif listing or not names:
        _print_listing(expand(names or []), data, json=json)
    else:
        from reidgen.data.prepare import prepare as run_prepare

        for name in expand(names):
            with progress() as report:
                prepared = run_prepare(
                    name,
                    data=data,
                    source=source,
                    pattern=pattern,
                    accept_counts=accept_counts,
                    accept_duplicates=accept_duplicates,
                    report=report,
                    say=note,
                )
            result(f"{name}: {prepared}{' (was prepared already)' if prepared.already else ''}")
            for line in prepared.notes:
                note(f"{name}: {line}")


def _print_listing(names: list[str], data: Path, *, json: bool) -> None:
    """Print every set in short, or all about those named, or either as JSON."""
    from reidgen.data.listing import PURPOSE, facts, in_full, in_short

    if json:
        document(facts(names, data))
        return
    if names:
        out().print(in_full(names, data))
    else:
        result(in_short(data))
    note("all about one: reidgen prepare --list NAME; to prepare it: reidgen prepare NAME")
    note(PURPOSE)


def _refuse_idle(names: list[str], making: dict[str, bool], asking: dict[str, bool]) -> None:
    """Raise DataError when an option would do nothing; making and asking: option -> whether it is given."""
    made, asked = ([option for option, given in some.items() if given] for some in (making, asking))
    if len(asked) > 1:
        raise DataError(f"{' and '.join(asked)} are different questions; ask one of them")
    if asked and made:
        raise DataError(f"{asked[0]} prepares nothing, so {' and '.join(made)} would do nothing; leave one of them out")
    if made and not names:
        raise DataError(f"{made[0]} needs the name of the data set: reidgen prepare NAME {made[0]} ...")
    if asking["--splits"] and not names:
        raise DataError("--splits needs the name of a prepared set: reidgen prepare --splits NAME")


def _refuse_strangers(names: list[str], source: Path) -> None:
    """Raise DataError when one source is given for several sets and is to be read as own crops for one of them."""
    from reidgen.catalogue import expand, load_catalogue

    known = load_catalogue()
    strangers = [name for name in expand(names) if name not in known]
    if strangers:
        raise DataError(
            f"--from {source} cannot be {len(names)} sets of which the catalogue does not know {', '.join(strangers)}; "
            f"prepare each by itself: reidgen prepare {strangers[0]} --from {source}"
        )
