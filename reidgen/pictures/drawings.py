"""Figures for people to look at, drawn by matplotlib from numbers alone: no torch, no file, no data set.

White ground, colours that colour-blind readers tell apart (Okabe and Ito 2008), and never colour alone: right and wrong
also differ by a mark, domains by the shape of their points, curves by their line.
"""

import math
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3)

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P")
LINES = ("-", "--", "-.", ":")
RIGHT, WRONG, QUERY = "#009E73", "#D55E00", "#444444"
SYMBOLS = {"F": "$F$", "F~": r"$\tilde{F}$", "F~+": r"$\tilde{F}^{+}$", "F~-": r"$\tilde{F}^{-}$"}
# Fixed, so that the same numbers make the same bytes whatever the user's matplotlibrc says; of the salt come SVG's
# names.
TITLE: dict[str, Any] = {"fontsize": 12, "weight": "bold"}
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "reidgen",
}


def styled() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn and saved."""
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **STYLE})


@dataclass(frozen=True)
class Row:
    """One ranked list: the query, the nearest gallery images, whether each is right, and what stands above.

    match: the first right image and its rank, where it is not among the nearest.
    """

    caption: str
    query: Pixels
    gallery: Sequence[Pixels]
    right: Sequence[bool]
    match: tuple[Pixels, int] | None


def draw_ranks(rows: Sequence[Row], *, title: str) -> Figure:
    """Return the ranked lists, one below the other; all images are drawn one wide and two high."""
    pitch, height = 1.14, 3.0
    columns = max(len(row.gallery) for row in rows)
    width = pitch * (columns + 2) + 0.8
    figure, axes = _canvas(width, height * len(rows), inch=0.72, title=title)
    for number, row in enumerate(rows):
        top = number * height + 0.5
        axes.text(0, top - 0.12, row.caption, va="bottom")
        _tile(axes, 0, top, row.query, frame=QUERY, text="query")
        for rank, (image, right) in enumerate(zip(row.gallery, row.right, strict=True), 1):
            _tile(axes, 0.4 + pitch * rank, top, image, **_verdict(rank, right))
        if row.match:
            left = 0.8 + pitch * (columns + 1)
            axes.text(left - 0.3, top + 1, "…", ha="center", va="center")
            _tile(axes, left, top, row.match[0], **_verdict(row.match[1], right=True))
    return figure


def _verdict(rank: int, right: bool) -> dict[str, str]:
    return {"frame": RIGHT if right else WRONG, "text": f"{'✓' if right else '✗'} {rank}"}


def _canvas(width: float, height: float, *, inch: float, title: str) -> tuple[Figure, Axes]:
    """Return a new figure and its axes, which count in tiles from the upper left, below the title;
    `inch`: of a tile.
    """
    title = _wrapped(title, width * inch)
    head = (0.25 + 0.2 * title.count("\n") + 0.1) / inch
    size = (width * inch, (height + head) * inch)
    margin = 0.15
    figure = Figure(figsize=(size[0] + 2 * margin, size[1] + 2 * margin))
    outer = figure.get_size_inches()
    axes = figure.add_axes((margin / outer[0], margin / outer[1], size[0] / outer[0], size[1] / outer[1]))
    axes.set(xlim=(0, width), ylim=(height, -head))
    axes.axis("off")
    axes.text(0, -head, title, va="top", **TITLE)
    return figure, axes


def _wrapped(title: str, inches: float) -> str:
    """Return the title in as many lines as it needs, by the mean width of its letters."""
    return textwrap.fill(title, max(20, int(inches * 9)), break_on_hyphens=False)


def _tile(axes: Axes, left: float, top: float, image: Pixels, *, frame: str, text: str) -> None:
    _fill(axes, left, top, image)
    axes.add_patch(Rectangle((left, top), 1, 2, fill=False, edgecolor=frame, linewidth=3))
    axes.text(left + 0.5, top + 2.07, text, color=frame, ha="center", va="top", weight="bold")


@dataclass(frozen=True)
class Heat:
    """One person in several styles, and what the stages make of each.

    images: by style. heat: (stage, map) -> (styles, h, w), how strongly each position is activated.
    shift: (stage, map) -> (styles,), how far the map moved from the first style's.
    """

    images: dict[str, Pixels]
    heat: dict[tuple[str, str], NDArray[np.float32]]
    shift: dict[tuple[str, str], NDArray[np.float64]]


def draw_maps(heat: Heat, *, title: str) -> Figure:
    """Return a grid, styles downwards, stages and their maps sideways; each stage has one scale of heat.

    The scale ends where half a percent of the stage's heat lies above: a single spot would darken all the rest.
    """
    stages = list(dict.fromkeys(stage for stage, _ in heat.heat))
    names = {stage: [name for of, name in heat.heat if of == stage] for stage in stages}
    pitch, height, gap, inch, top = 1.06, 2.42, 0.35, 0.62, 1.3
    bottom = top + height * len(heat.images)
    width = max(2.7 + pitch * len(heat.heat) + gap * len(stages), 8)
    figure, axes = _canvas(width, bottom + 0.9, inch=inch, title=title)
    for row, (style, image) in enumerate(heat.images.items()):
        axes.text(0, top + row * height + 1, style.replace(" ", "\n"), va="center")
        _fill(axes, 1.7, top + row * height, image)
    left = 2.7 + gap
    for stage in stages:
        values = np.concatenate([heat.heat[stage, name].ravel() for name in names[stage]])
        look: dict[str, Any] = {"norm": Normalize(0, float(np.percentile(values, 99.5))), "cmap": "inferno"}
        stretch = pitch * len(names[stage]) - 0.06
        axes.text(left + stretch / 2, top - 0.45, stage, ha="center", va="bottom", weight="bold")
        for column, name in enumerate(names[stage]):
            x = left + pitch * column
            axes.text(x + 0.5, top - 0.1, SYMBOLS[name], ha="center", va="bottom")
            for row, image in enumerate(heat.images.values()):
                y = top + row * height
                _fill(axes, x, y, image.mean(axis=2), cmap="gray", vmin=0, vmax=255)
                _fill(axes, x, y, heat.heat[stage, name][row], alpha=0.7, **look)
                if row:
                    number = f"{heat.shift[stage, name][row]:.2f}"
                    axes.text(x + 0.5, y + 2.03, number, ha="center", va="top", fontsize=8)
        scale = axes.inset_axes((left, bottom + 0.2, stretch, 0.18), transform=axes.transData)
        figure.colorbar(ScalarMappable(**look), cax=scale, orientation="horizontal", alpha=0.7)
        scale.tick_params(labelsize=8)
        scale.locator_params(nbins=max(2, len(names[stage])))
        left += stretch + 0.06 + gap
    axes.text(0, bottom + 0.29, "activation", va="center")
    note = "Below a map: how far the change of style moves it (1: as far as another person)"
    axes.text(0, 0.25, textwrap.fill(note, int(width * inch * 12)), va="center", fontsize=9)
    return figure


def _fill(axes: Axes, left: float, top: float, image: NDArray[Any], **look: Any) -> None:
    """Draw an image into the tile whose upper left corner is given, one wide and two high."""
    axes.imshow(image, extent=(left, left + 1, top + 2, top), aspect="auto", interpolation="bilinear", **look)


@dataclass(frozen=True)
class Panel:
    """One t-SNE: points (N, 2), or None where all images are one point; and the domain accuracy of the nearest."""

    stage: str
    name: str
    points: NDArray[np.float32] | None
    accuracy: float


def draw_tsne(panels: Sequence[Panel], domain_N: NDArray[np.int64], domains: Sequence[str], *, title: str) -> Figure:
    """Return a grid of panels, maps downwards, stages sideways, and the embedding last."""
    stages = list(dict.fromkeys(panel.stage for panel in panels))
    names = list(dict.fromkeys(panel.name for panel in panels if panel.name)) or [""]  # the embedding alone
    drawn = {panel.name for panel in panels if panel.points is not None}
    heights = [1 if name in drawn else 0.35 for name in names]
    width = max(2.35 * len(stages) + 0.3, 6)
    figure = Figure(figsize=(width, 2.4 * sum(heights) + 1.3), layout="constrained")
    grid = figure.subplots(len(names), len(stages), squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.axis("off")
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(domain_N))  # so that no domain covers the others
    for panel in panels:
        axes = grid[names.index(panel.name) if panel.name else 0, stages.index(panel.stage)]
        symbol = f", pooled {SYMBOLS[panel.name]}" if panel.name else ""
        axes.axis("on")
        axes.spines[:].set(visible=True, color="#bbbbbb")
        axes.set(xticks=[], yticks=[], title=f"{panel.stage}{symbol}")
        if panel.points is None:
            axes.text(
                0.5,
                0.5,
                "one point: for every image\nIN's spatial mean\nis its bias",
                ha="center",
                va="center",
                transform=axes.transAxes,
            )
            continue
        axes.set_xlabel(f"same domain nearest: {100 * panel.accuracy:.0f} %", fontsize=9)
        for number in range(len(domains)):
            x, y = panel.points[order[domain_N[order] == number]].T
            marker, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
            axes.scatter(x, y, s=9, marker=marker, color=colour, alpha=0.6, linewidths=0, rasterized=True)
    handles = [
        Line2D([], [], linestyle="", marker=MARKERS[n % len(MARKERS)], color=COLOURS[n % len(COLOURS)], label=name)
        for n, name in enumerate(domains)
    ]
    chance = (
        "same domain nearest: share of the images whose nearest image of another person is of their own domain "
        f"(chance: {100 / len(domains):.0f} %)"
    )
    figure.suptitle(_wrapped(title, figure.get_figwidth()), **TITLE)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(domains), 5), frameon=False, title=chance)
    return figure


def draw_distances(
    positive: NDArray[np.int64], negative: NDArray[np.int64], *, threshold: float, error: float, title: str
) -> Figure:
    """Return both histograms in bins of 0.02, each as shares of its own pairs, and the distance of equal error."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 2, 101)
    for counts, name, colour, line in (
        (positive, "same person, another camera", COLOURS[0], "-"),
        (negative, "different people", COLOURS[1], "--"),
    ):
        share = 100 * counts.reshape(100, -1).sum(axis=1) / counts.sum()
        label = f"{name} ({counts.sum():,} pairs)"
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.2)
        axes.stairs(share, edges, color=colour, linestyle=line, linewidth=1.8, label=label)
    axes.axvline(threshold, color="#444444", linestyle=":", label=f"equal error {100 * error:.1f} % at {threshold:.2f}")
    filled = np.flatnonzero(positive.reshape(100, -1).sum(axis=1) + negative.reshape(100, -1).sum(axis=1))
    axes.set(xlim=(edges[filled[0]], edges[filled[-1] + 1]), ylim=(0, None))
    axes.set(
        xlabel="Euclidean distance of the embeddings (0: equal, 2: opposite)", ylabel="share of the pairs per 0.02 (%)"
    )
    figure.suptitle(_wrapped(title, figure.get_figwidth()), **TITLE)
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def draw_gates(
    gates: dict[str, list[NDArray[np.float32]]], domains: Sequence[str], *, label: str, title: str
) -> Figure:
    """Return a panel per gate: mean gate value of each channel, a curve for each domain, and the spread of the first.

    gates: panel's title -> for each domain (N, C) values in 0..1. Channels are sorted by the first domain's mean.
    """
    columns = min(4, len(gates))
    rows = math.ceil(len(gates) / columns)
    figure = Figure(figsize=(max(2.9 * columns, 6.5), 2.7 * rows + 1.0), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, (name, values) in zip(panels.flat, gates.items(), strict=True):
        order = values[0].mean(axis=0).argsort(kind="stable")
        channel = np.arange(1, len(order) + 1)
        low, high = np.percentile(values[0][:, order], (10, 90), axis=0)
        axes.fill_between(
            channel, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label=f"{domains[0]}: 80 % of the images"
        )
        for number in reversed(range(len(domains))):  # the first on top
            style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number % len(LINES)]}
            axes.plot(
                channel, values[number].mean(axis=0)[order], linewidth=1.4, label=f"{domains[number]}: mean", **style
            )
        axes.set(title=name, ylim=(-0.02, 1.02), xlim=(1, len(order)), xlabel="channel, sorted by its mean")
    for axes in panels[:, 0]:
        axes.set_ylabel(label)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.suptitle(_wrapped(title, figure.get_figwidth()), **TITLE)
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
    return figure
