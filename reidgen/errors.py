"""The errors that a user can cause or cure. The CLI prints them as one sentence and exits with their code."""

import difflib
from collections.abc import Iterable


class ReidgenError(Exception):
    """Base of every error meant for the user: what was asked, what was found, what to do next."""

    exit_code = 1


class DataError(ReidgenError):
    """A data set is missing, incomplete, corrupt or not what its catalogue entry says."""


class BrokenArchiveError(DataError):
    """An archive is damaged, is none, or holds what no data set needs; another copy of it may be whole."""


class SharedImagesError(DataError):
    """A target shares image files with the training part of a source."""


class RecipeError(ReidgenError):
    """A setting, method, recipe or source is unknown or does not fit the others."""


class PluginError(RecipeError):
    """A plug-in cannot be imported, holds no rows, takes a known name, or is not the one a run was trained with."""


class WeightsError(ReidgenError):
    """A weight file is missing, unreadable or does not fit the network."""


class RunError(ReidgenError):
    """A run folder is in use, incomplete, or made by something else; or training diverged."""


class BusyError(RunError):
    """Another process holds the folder; it is named."""


class OutOfMemoryError(ReidgenError):
    """The computer's or the device's memory is too small for the work; what to lower is named."""


class EmptyTableError(ReidgenError):
    """There are no results for a table yet."""


class InterruptedRunError(ReidgenError):
    """Training or the grid was stopped by Ctrl-C or SIGTERM; its state is kept."""

    exit_code = 130


def unknown(kind: str, name: str, known: Iterable[str], *, says: str = "unknown") -> str:
    """Return the sentence for a mistyped name, or one that is not there: the nearest known one first, then all of them.

    >>> unknown("method", "snrr", ["baseline", "snr"])
    "unknown method 'snrr'; did you mean 'snr'? Known: baseline, snr"
    """
    known = list(dict.fromkeys(known))
    plain = {word.casefold(): word for word in reversed(known)}
    near = difflib.get_close_matches(name.casefold(), list(plain), n=1, cutoff=0.5)
    hint = f" did you mean {plain[near[0]]!r}?" if near else ""
    return f"{says} {kind} {name!r};{hint} Known: {', '.join(known)}"
