"""Statistical plots as SVG text for a web page: no images of anybody, no torch, nothing written.

Every plot has a transparent ground; its text and axes take the page's `currentColor` and font, and its colours reach a
contrast of 3 on white and on near-black, so that one drawing serves light and dark pages. It carries its alternative
text (role="img", aria-label), names no address, and is the same text for the same input.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 3.3  # inches; at 100 px an inch a plot fits on a phone as it is
LINE = 0.15  # inches from one line of a name to the next
FOLDED = 17  # columns of a line of a name, as a terminal counts them; a bar begins where such a line ends
SLANTED = 24  # the same, of the name of a column
Style = tuple[str, str]  # a colour and a line style ("solid", "dashed", "dotted"), by the names that CSS has too

_COLOURS = ("#7d8790", "#2f7ed8", "#d9730d", "#1f9d78", "#a463c9", "#d64550", "#a68a0d", "#2496b5")
_LINES = ("solid", "dashed", "dotted", "dashdot")
_INK = "#010203"  # stands for currentColor, which matplotlib does not know
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.formatter.useoffset": False,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.6,
}


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a colour and line style for each name; the first is grey, and 32 names are told apart.

    >>> styles(["baseline", "snr"])
    {'baseline': ('#7d8790', 'solid'), 'snr': ('#2f7ed8', 'solid')}
    """
    n = len(_COLOURS)
    return {name: (_COLOURS[i % n], _LINES[i // n % len(_LINES)]) for i, name in enumerate(dict.fromkeys(names))}


def heat_map(values: pd.DataFrame, *, framed: pd.DataFrame, limits: tuple[float, float], alt: str) -> str:
    """Return a grid of coloured cells with their numbers, rows and columns named as in `values`; NaN stays empty.

    framed: bool, like `values`: the cells with a frame. limits: the values at the two ends of the colours.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    rows = _along(values.index, columns=FOLDED, least=0.27, line=LINE)
    slope = 40  # degrees; lines of a slanted name are as far apart as those of a level one
    columns = _along(values.columns, columns=SLANTED, least=0.44, line=LINE / np.sin(np.radians(slope)))

    def draw(axes: "Axes") -> None:
        numbers = values.to_numpy(float)
        for row, column in np.argwhere(~np.isnan(numbers)).tolist():
            number = numbers[row, column]
            colour = colormaps["cividis"]((number - limits[0]) / max(limits[1] - limits[0], 1e-9))
            luminance = np.dot(np.power(colour[:3], 2.2), (0.21, 0.72, 0.07))
            ink = "#000000" if luminance > 0.18 else "#ffffff"  # there both have the same contrast
            x, y, wide, high = columns.starts[column], rows.starts[row], columns.sizes[column], rows.sizes[row]
            # add_patch would fit the axes to each, whose ends are known
            axes.add_artist(Rectangle((x, y), wide - 0.015, high - 0.015, color=colour, linewidth=0))
            if framed.iat[row, column]:
                inner = (x + 0.025, y + 0.025), wide - 0.065, high - 0.065
                axes.add_artist(Rectangle(*inner, fill=False, edgecolor=ink))
            axes.text(x + wide / 2, y + high / 2, f"{number:.1f}", ha="center", va="center", color=ink)
        axes.set(xlim=(0, columns.total), ylim=(rows.total, 0))
        axes.set_xticks(*columns.ticks, rotation=slope, ha="right", rotation_mode="anchor")
        axes.set_yticks(*rows.ticks)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    return _svg(draw, (columns.total, rows.total), alt)


def bars(values: pd.DataFrame, *, limits: tuple[float, float], style: dict[str, Style], label: str, alt: str) -> str:
    """Return one bar for each row, from 0 to `value`, with a whisker from `low` to `high` where they are numbers.

    values: index: the names, drawn from above, a long one in several lines; columns: value, low, high, and `text`,
    which stands at the bar's end.
    limits: the lowest and highest end of all bars and whiskers that share this scale, 0 among them.
    style: name -> Style; only the colour counts. label: what the axis shows, with its unit.
    """

    names = _along(values.index, columns=FOLDED, least=0.24, line=LINE)

    def draw(axes: "Axes") -> None:
        place = names.starts + names.sizes / 2
        axes.barh(place, values["value"], height=LINE, color=[style[name][0] for name in values.index], alpha=0.85)
        axes.hlines(place, values["low"], values["high"], color=_INK, linewidth=1.1)
        ends = values[["value", "low", "high"]].assign(zero=0.0)
        span = limits[1] - limits[0] or 1.0
        for y, right, text in zip(place, ends.max(axis=1), values["text"], strict=True):
            axes.text(right + 0.02 * span, y, text, va="center", fontsize=8)
        axes.axvline(0, color=_INK, linewidth=0.6)
        axes.set_xlim(limits[0] - 0.02 * span if limits[0] < 0 else 0.0, limits[1] + 0.34 * span)
        axes.set_ylim(names.total + 0.08, -0.08)
        axes.set_yticks(*names.ticks)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)

    return _svg(draw, (WIDTH - 1.3, names.total + 0.16), alt)


def curves(
    lines: dict[str, "pd.Series[float]"], *, style: dict[str, Style], labels: Sequence[str], alt: str, top: float = 0
) -> str:
    """Return one line for each series, its index along the x axis; `labels` are those of the x and the y axis.

    top: the y axis goes from 0 to here; at 0 it fits the lines.
    """
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        for name, line in lines.items():
            colour, dash = style[name]
            marker = "o" if len(line) == 1 else ""
            axes.plot(line.index, line.to_numpy(), color=colour, linestyle=dash, marker=marker, markersize=3)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.grid(True)
        if top:
            axes.set_ylim(0, top)

    return _svg(draw, (WIDTH - 0.5, 1.9), alt)


class _Along(NamedTuple):
    """Names along an axis, in inches: where the place of each starts, its size, and where which lines of them stand."""

    starts: "np.ndarray[Any, Any]"
    sizes: "np.ndarray[Any, Any]"
    total: float
    ticks: tuple[list[float], list[str]]


def _along(names: Iterable[str], *, columns: int, least: float, line: float) -> _Along:
    """Return the places of names whose lines have at most so many columns and are `line` apart, each `least` in size.

    Every line is a tick of its own, so that the page's font, whatever its widths, ends it at the axis.
    """
    folded = [fold(name, columns) for name in names]
    sizes = np.array([max(least, line * len(lines) + 0.06) for lines in folded])
    starts = np.cumsum(sizes) - sizes
    at, texts = list[float](), list[str]()
    for middle, lines in zip(starts + sizes / 2, folded, strict=True):
        at += [float(middle + line * (number - (len(lines) - 1) / 2)) for number in range(len(lines))]
        texts += lines
    return _Along(starts, sizes, float(sizes.sum()), (at, texts))


def fold(name: str, columns: int) -> list[str]:
    """Return a name in lines of at most so many columns, broken behind spaces and signs where that is possible.

    >>> fold("osnet_x0_25_msmt17@61b26041", 17)
    ['osnet_x0_25_', 'msmt17@61b26041']
    """
    from rich.cells import cell_len, chop_cells

    lines = [""]
    for word in re.findall(r"[^\s_@+=,.:/-]*[\s_@+=,.:/-]*", name):
        if cell_len(lines[-1] + word.rstrip()) <= columns:
            lines[-1] += word
        else:
            lines += chop_cells(word, columns)
    return [line.strip() for line in lines if line.strip()] or [name]


def _svg(draw: Callable[["Axes"], None], size: tuple[float, float], alt: str) -> str:
    """Return what `draw` puts on axes of `size` (inches), as an <svg> element for a page."""
    import matplotlib
    from matplotlib.figure import Figure

    text = io.StringIO()
    # The salt keeps the ids of two drawings in one page apart.
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": alt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the page's font draws it
        figure = Figure(figsize=size)
        axes = figure.add_axes((0, 0, 1, 1))
        draw(axes)
        for artist in (*axes.texts, *axes.patches, *axes.collections, *axes.lines):
            artist.set_in_layout(False)  # they lie within the axes; to measure each takes half the time
        box = figure.get_tightbbox().padded(0.03)  # bbox_inches="tight" would draw everything twice
        figure.savefig(
            text, format="svg", bbox_inches=box, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn).groups()  # type: ignore[union-attr]
    pixels = round(float(width) * 100 / 72)
    opening = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {height}" width="{pixels}">'
    drawn = re.sub(r"<svg[^>]*>", lambda _: opening, drawn, count=1)
    drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn).replace("xlink:href", "href").replace(_INK, "currentColor")
    drawn = re.sub("'DejaVu Sans',[^;\"]*sans-serif", "system-ui, sans-serif", drawn)
    return re.sub(r"\s*\n\s*", "\n", drawn).strip()
