"""What `reidgen prepare --list` shows: every set, whether it is prepared, what it holds and how to get it."""

from pathlib import Path
from typing import TYPE_CHECKING

from reidgen.catalogue import load_catalogue
from reidgen.data.manifest import Prepared, how, load_prepared, prepared_names
from reidgen.entries import Dataset
from reidgen.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table

PURPOSE = (
    "For research on generalization. ReID identifies people: use only images that you have the right to use. Most of these "
    "licences forbid passing images on; withdrawn sets are never downloaded."
)


def listing(data: Path) -> "Table":
    """Return a table of the catalogue's sets and of all others in `data`: name and state left, the facts right."""
    from rich.table import Table
    from rich.text import Text

    known, here = load_catalogue(), prepared_names(data)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    colours = {"prepared": "green", "damaged": "red"}
    for name in dict.fromkeys([*known, *here]):
        state, facts = _prepared(name, data) if name in here else (known[name].status, _unprepared(known[name]))
        left = Text(name, style="bold").append(f"\n{state}", style=f"not bold {colours.get(state.split(',')[0], '')}")
        table.add_row(left, Text("\n".join(filter(None, facts))))
    return table


def _prepared(name: str, data: Path) -> tuple[str, list[str]]:
    """Return the state of a set that has a manifest, and the lines about it."""
    try:
        prepared = load_prepared(name, data)
    except DataError as error:
        return "damaged", [str(error)]
    state = f"prepared, {_size(prepared)}\n{prepared.dataset.status}"
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


def _size(prepared: Prepared) -> str:
    """Return what the images and all that was made of them take on the disk."""
    made = sum(file.stat().st_size for file in prepared.folder.iterdir() if file.is_file())
    size = prepared.bytes + made
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"
