"""Names of people and cameras: which spellings mean the same, which number a name gets, how a name is shown."""

import re
import unicodedata
from collections.abc import Iterable

NUMBER = re.compile(r"-?[0-9]{1,18}")
_JUNK = re.compile(r"0*-0*([0-9]{1,17})")  # -1, and the 00-1 of MARS


def shown(text: str) -> str:
    """Return `text` with every character that a terminal would not print as its escape.

    >>> shown("a\\tb"), shown("josé")
    ('a\\\\tb', 'josé')
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def same(name: str) -> str:
    """Return what all spellings of one name share: Unicode form, upper and lower case, leading zeros of a number.

    >>> same("0001") == same("1"), same("Anna") == same("anna"), same("p01") == same("p1")
    (True, True, False)
    """
    text = unicodedata.normalize("NFC", name.strip()).casefold()
    if minus := _JUNK.fullmatch(text):
        return f"-{int(minus[1])}"
    return str(int(text)) if NUMBER.fullmatch(text) else unicodedata.normalize("NFC", text)


def number_of(name: str) -> int | None:
    """Return the number that a name is, or None: 7 for "007", -1 for "00-1"."""
    text = same(name)
    return int(text) if NUMBER.fullmatch(text) else None


def numbers(names: Iterable[str]) -> dict[str, int]:
    """Return a number for each name, the same for all spellings of one: its own where all names are numbers, else its
    place in sorted order, from 1; a name that is 0 keeps it, as 0 means distractors. The empty name gets 0, or where
    that is taken a number of its own.

    >>> numbers(["12", "007", "7"])
    {'007': 7, '12': 12, '7': 7}
    >>> numbers(["bob", "Anna", "anna", ""])
    {'Anna': 1, 'anna': 1, 'bob': 2, '': 0}
    >>> numbers(["000", "bob", "7"])
    {'000': 0, '7': 1, 'bob': 2}
    """
    distinct = sorted({one for one in names if one})
    order = list(dict.fromkeys(map(same, distinct)))
    if all(NUMBER.fullmatch(one) for one in order):
        first = {one: int(one) for one in order}
    else:
        first = {"0": 0} | {one: place for place, one in enumerate((one for one in order if one != "0"), 1)}
    found = {name: first[same(name)] for name in distinct}
    if "" in set(names):
        taken = set(found.values())
        found[""] = max(taken) + 1 if 0 in taken else 0
    return found


def spellings(names: Iterable[str]) -> list[list[str]]:
    """Return the names that are written in several ways: all spellings of each, sorted."""
    found: dict[str, set[str]] = {}
    for name in names:
        found.setdefault(same(name), set()).add(name)
    return sorted(sorted(some) for some in found.values() if len(some) > 1)
