"""What `reidgen prepare --list` shows: every set, whether it is prepared, what it holds and how to get it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidgen.catalogue import load_catalogue
from reidgen.data.manifest import Prepared, how, load_prepared, prepared_names
from reidgen.entries import PARTS, Dataset
from reidgen.errors import DataError, unknown
from reidgen.escapes import visible
from reidgen.synth.domains import counts_of

if TYPE_CHECKING:
    from rich.table import Table

PURPOSE = (
    "For research on generalization. ReID identifies people: use only images that you have the right to use. Most of "
    "these licences forbid passing images on; withdrawn sets are never downloaded."
)


Counts = Mapping[str, Mapping[str, int]]  # part -> identities, images, cameras, as far as they are known
COLOURS = {"prepared": "green", "damaged": "red"}


def in_short(data: Path) -> str:
    """Return the catalogue's sets and all others in `data`, a line each: name, state, size of the
    whole, how it is got.
    """
    lines = [("set", "state", "people", "images", "how to get it")]
    for one in facts([], data):
        people, images = (f"{number:,}" if number else "" for number in (one["people"], one["images"]))
        lines.append((str(one["name"]), str(one["state"]), people, images, _way(one)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place in (2, 3) else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def in_full(names: list[str], data: Path) -> "Table":
    """Return a table of the sets `names`: name and state left, all that is known right. Raises DataError for no set."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    known, here = load_catalogue(), prepared_names(data)
    for name in _known(names, data):
        state, lines = _prepared(name, data) if name in here else (known[name].status, _unprepared(known[name]))
        left = Text(name, style="bold").append(f"\n{state}", style=f"not bold {COLOURS.get(state.split(',')[0], '')}")
        table.add_row(left, Text(visible("\n".join(filter(None, lines)), lines=True)))
    return table


def facts(names: list[str], data: Path) -> list[dict[str, Any]]:
    """Return what is known of the sets, of all where none is named: plain values, for JSON.

    state: "prepared", "damaged", or that of the catalogue; people, images: different ones in all parts, None where
    nobody says; counts: part -> identities, images, cameras; bytes: on the disk; how: the command, or what is wrong.
    Raises DataError for a name that is neither in the catalogue nor prepared.
    """
    known, here = load_catalogue(), prepared_names(data)
    found: list[dict[str, Any]] = []
    for name in _known(names, data):
        entry, prepared, problem = known.get(name), None, ""
        if name in here:
            try:
                prepared = load_prepared(name, data)
                entry = prepared.dataset
            except DataError as error:
                problem = str(error)
        whole = entry or Dataset(name=name, pattern="")
        state = "prepared" if prepared else "damaged" if problem else whole.status
        counts = prepared.counts if prepared else _named(whole)
        people, images = _in_all(whole, counts)
        found.append(
            {
                "name": name,
                "state": state,
                "status": whole.status,
                "title": whole.title,
                "licence": whole.licence,
                "homepage": whole.homepage,
                "people": people,
                "images": images,
                "counts": counts,
                "root": str(prepared.root) if prepared else "",
                "bytes": _bytes(prepared) if prepared else 0,
                "how": problem or ("" if prepared else how(whole)),
            }
        )
    return found


def _known(names: list[str], data: Path) -> list[str]:
    every = list(dict.fromkeys([*load_catalogue(), *prepared_names(data)]))
    for name in names:
        if name not in every:
            raise DataError(unknown("data set", name, every))
    return names or every


def _way(one: Mapping[str, Any]) -> str:
    """Return in a few words how a set is got."""
    if one["state"] == "prepared":
        return ""
    if one["state"] == "damaged":
        return f"see: --list {one['name']}"
    if one["state"] == "built-in":
        return "is drawn"
    return "--from DIR" if "--from" in one["how"] else "is downloaded"


def _named(entry: Dataset) -> Counts:
    """Return the catalogue's counts as a manifest has them; those of a built-in set as it will be drawn."""
    words = ("identities", "images", "cameras")
    counts: Mapping[str, tuple[int, ...]] = entry.counts
    if entry.status == "built-in":
        counts = counts_of(entry.name.removeprefix("synth-"))
    return {part: dict(zip(words, numbers, strict=False)) for part, numbers in counts.items()}


def _in_all(entry: Dataset, counts: Counts) -> tuple[int | None, int | None]:
    """Return the people (without mere distractors) and images of a whole set; None where nobody says.

    counts: as a manifest has them. What the catalogue says of a set of several splits in all goes before.
    """
    whole = {"identities": entry.counts["all"][0]} if "all" in entry.counts else {}
    whole |= counts.get("all", {})
    parts = [counts[part] for part in PARTS if part in counts]
    tested = counts.get("query", counts.get("gallery", {})).get("identities", 0)
    people = whole.get("identities", counts.get("train", {}).get("identities", 0) + tested)
    images = whole.get("images", sum(one["images"] for one in parts) if all("images" in one for one in parts) else 0)
    return people or None, images or None


def _prepared(name: str, data: Path) -> tuple[str, list[str]]:
    """Return the state of a set that has a manifest, and the lines about it."""
    try:
        prepared = load_prepared(name, data)
    except DataError as error:
        return "damaged", [str(error)]
    size = _bytes(prepared)
    state = f"prepared, {f'{size / 1e9:.1f} GB' if size >= 1e9 else f'{size / 1e6:,.0f} MB'}\n{prepared.dataset.status}"
    return state, [_title(prepared.dataset), str(prepared), f"images: {prepared.root}"]


def _unprepared(entry: Dataset) -> list[str]:
    return [_title(entry), _counts(entry), how(entry), entry.homepage]


def _title(entry: Dataset) -> str:
    """Return what the set is, and under which licence."""
    return (entry.title or "own crops") + (f" ({entry.licence})" if entry.licence else "")


def _counts(entry: Dataset) -> str:
    """Return what a complete set holds: images of people, by part, and in all where these are drawn from more."""
    words = {"train": "training images", "query": "queries", "gallery": "gallery images"}
    parts = [
        f"{entry.counts[part][1]:,} {word} of {entry.counts[part][0]:,} people"
        for part, word in words.items()
        if len(entry.counts.get(part, ())) > 1
    ]
    text = ", ".join(parts) + (f" (in the first of {entry.splits} splits)" if parts and entry.splits > 1 else "")
    if "all" in entry.counts:
        people, images, *_ = entry.counts["all"]
        text = ", ".join(filter(None, [text, f"{images:,} images of {people:,} people in all"]))
    return text


def _bytes(prepared: Prepared) -> int:
    """Return what the images and all that was made of them take on the disk."""
    made = sum(file.stat().st_size for file in prepared.folder.iterdir() if file.is_file())
    return prepared.bytes + made
