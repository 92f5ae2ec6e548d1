"""Names that people chose, made safe to show: nothing in them moves a cursor, turns a line round or is run."""

import re

from reidgen.errors import ReidgenError

_FORMULA = ("=", "+", "-", "@")


def visible(text: str, *, lines: bool = False) -> str:
    r"""Return `text` with every character that does not print written as its escape; with `lines`, line ends stay.

    That is: controls (terminal sequences begin with one), marks that reverse the reading direction, joiners, spaces
    other than the plain one, and bytes of a file name that are no text.

    >>> visible("a\x1b[31mb\u202ec")
    'a\\x1b[31mb\\u202ec'
    """
    if (text.replace("\n", "") if lines else text).isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or (lines and character == "\n")
        else character.encode("unicode_escape").decode()
        for character in text
    )


def no_formula(text: str) -> str:
    """Return a name for a CSV file that a spreadsheet opens: with ' in front where it would be taken for a formula.

    >>> no_formula("=1+1"), no_formula("snr")
    ("'=1+1", 'snr')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def many(number: int, noun: str) -> str:
    """Return a number of things in words.

    >>> many(1, "cell"), many(1200, "cell")
    ('1 cell', '1,200 cells')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def split_names(words: str) -> list[str]:
    """Return the names in `words`, which commas part, none of ""; a comma within parentheses belongs to its name.

    Raises ReidgenError where there is no name before, between or behind commas, as of a shell's variable that is not
    set.

    >>> split_names("baseline, snr(distance=euclidean,triplets=hard)")
    ['baseline', 'snr(distance=euclidean,triplets=hard)']
    """
    names = [part.strip() for part in re.split(r",(?![^(]*\))", words)] if words.strip() else []
    if "" in names:
        raise ReidgenError(f"{words[:80]!r} has an empty name before, between or behind its commas")
    return names
