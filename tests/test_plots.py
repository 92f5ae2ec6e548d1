"""The plots, read back from their SVG: numbers, sizes, colours and texts that a reader would see."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from reidgen.methods import METHODS
from reidgen.report.plots import bars, curves, heat_map, styles

NASTY = 'a <b> & $x_1$ "q" 行人'
FOLDED_NASTY = ['a <b> & $x_1$ "q"', "行人"]  # 17 columns and 4
STYLE = styles(["Baseline", "SNR", NASTY])


def parse(svg: str) -> ElementTree.Element:
    """The drawing as XML: it must be well-formed, although it goes into HTML."""
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in parse(svg).iter("text")]


def filled(svg: str, colour: str) -> list[tuple[float, float]]:
    """Width and height of every area of a colour, from its path's corners."""
    sizes = []
    for node in parse(svg).iter("path"):
        if f"fill: {colour}" in node.get("style", ""):
            corners = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", node.get("d", "")), float)
            sizes.append(tuple(np.ptp(corners, axis=0)))
    return sizes


def bar_values() -> pd.DataFrame:
    values = {"value": [10.0, 30.0, -5.0], "low": [9.0, np.nan, -9.0], "high": [11.0, np.nan, -1.0]}
    return pd.DataFrame({**values, "text": ["10.0", "30.0 †", "−5.0"]}, index=["Baseline", "SNR", NASTY])


def drawings() -> dict[str, str]:
    grid = pd.DataFrame([[10.0, np.nan], [20.0, 90.0]], index=["Baseline", NASTY], columns=["duke", "market"])
    lines = {"Baseline": pd.Series([3.0, 2.0], index=[1, 2]), NASTY: pd.Series([1.0], index=[1])}
    return {
        "heat": heat_map(grid, framed=grid > 50, limits=(10, 90), alt=f"heat {NASTY}"),
        "bars": bars(bar_values(), limits=(0, 100), style=STYLE, label="mAP in %", alt=f"bars {NASTY}"),
        "curves": curves(lines, style=STYLE, labels=("epoch", "loss"), alt=f"curves {NASTY}"),
    }


@pytest.mark.parametrize("name", ["heat", "bars", "curves"])
def test_every_drawing_suits_a_page(name: str) -> None:
    root = parse(svg := drawings()[name])
    assert root.get("role") == "img" and root.get("aria-label") == f"{name} {NASTY}"
    assert "http" not in svg and "<style" not in svg and "DejaVu" not in svg
    assert "currentColor" in svg and not filled(svg, "#ffffff"), "the ground is the page's"


def test_bars_of_all_methods_fit_on_a_phone() -> None:
    titles = [method.title for method in METHODS.values()]
    values = pd.DataFrame({"value": 50.0, "low": 40.0, "high": 60.0, "text": "+50.0 †"}, index=titles)
    svg = bars(values, limits=(0, 100), style=styles(titles), label="mAP above Baseline, points", alt="x")
    assert float(parse(svg).get("width", "0")) <= 390 - 2 * 16


LONG = ["osnet_x0_25_msmt17@61b26041", "n" * 60, "SNR (distance=euclidean, triplets=semi-hard)", "行人重识别模型" * 5]


def test_long_names_take_lines_and_no_width_from_bars_or_cells() -> None:
    """A plot with long names is as wide as one with names of a line, and each line of a name stands at its bar."""
    short = ["u" * 17, "a", "b", "c"]
    values = {"value": 50.0, "low": 40.0, "high": 60.0, "text": "50.0"}
    drawn = [
        bars(pd.DataFrame(values, index=names), limits=(0, 100), style=styles(names), label="mAP", alt="x")
        for names in (short, LONG)
    ]
    assert filled(drawn[0], "#7d8790")[0] == pytest.approx(filled(drawn[1], "#7d8790")[0], rel=1e-3)
    lines = [text for text in texts(drawn[1]) if text not in texts(drawn[0])]
    assert "".join(lines).replace(" ", "") == "".join(LONG).replace(" ", "")
    assert lines[:2] == ["osnet_x0_25_", "msmt17@61b26041"] and lines[2] == "n" * 17
    assert len(lines) == 2 + 4 + 4 + 5  # of two columns each, eight of the last name's signs fill a line
    grids = [pd.DataFrame([[10.0, 90.0]] * 4, index=names, columns=["duke", "a" * 60]) for names in (short, LONG)]
    maps = [heat_map(grid, framed=grid > 95, limits=(10, 90), alt="x") for grid in grids]
    cells = [filled(svg, "#00224e") for svg in maps]
    assert cells[0][0][0] == pytest.approx(cells[1][0][0], rel=1e-3)
    assert cells[1][1][1] > 2 * cells[0][1][1]  # four lines high
    assert max(float(parse(svg).get("width", "0")) for svg in (*drawn, *maps)) <= 390 - 2 * 16


def test_the_same_input_gives_the_same_text_and_ids_differ_between_drawings() -> None:
    first, again = drawings(), drawings()
    assert first == again
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in first.values()]
    assert all(not one & other for one, other in itertools.combinations(ids, 2)) and any(ids)


def test_heat_map_colours_and_names_every_cell_that_has_a_number() -> None:
    svg = drawings()["heat"]
    assert texts(svg) == ["duke", "market", "Baseline", *FOLDED_NASTY, "10.0", "20.0", "90.0"]
    low, high = "#00224e", "#fee838"  # the ends of cividis
    assert len(filled(svg, low)) == 1 and len(filled(svg, high)) == 1
    frames = [node for node in parse(svg).iter("path") if "fill: none; stroke: #0" in node.get("style", "")]
    assert len(frames) == 1


def test_bars_are_as_long_as_their_values() -> None:
    svg = drawings()["bars"]
    lengths = [filled(svg, STYLE[name][0])[0][0] for name in ("Baseline", "SNR", NASTY)]
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=1e-3) and lengths[2] / lengths[0] == pytest.approx(
        0.5, rel=1e-3
    )
    assert {"10.0", "30.0 †", "−5.0", "mAP in %", *FOLDED_NASTY} <= set(texts(svg))


def test_a_bar_without_an_interval_has_no_whisker() -> None:
    values = bar_values()
    none = values.assign(low=np.nan, high=np.nan)
    drawn = [
        parse(bars(part, limits=(0, 100), style=STYLE, label="mAP", alt="x")).iter("path") for part in (values, none)
    ]
    whiskers = [[p for p in paths if p.get("d") and "stroke-width: 1.1" in p.get("style", "")] for paths in drawn]
    assert list(map(len, whiskers)) == [2, 0]  # of three bars, two have one


def test_curves_draw_each_series_in_its_style_and_a_single_point_as_a_dot() -> None:
    svg = drawings()["curves"]
    assert svg.count(f"stroke: {STYLE['Baseline'][0]}") >= 1 and svg.count("<use") > 0
    assert {"epoch", "loss"} <= set(texts(svg))
    free, fixed = (curves({"SNR": pd.Series([40.0, 50.0], index=[1, 2])}, style=STYLE, labels=("a", "b"), alt="x", top=top) for top in (0, 100))  # fmt: skip
    assert "100" in texts(fixed) and "100" not in texts(free)


def luminance(colour: str) -> float:
    """Relative luminance by the definition of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("ground", ["#ffffff", "#14171b"])
def test_colours_are_told_from_light_and_dark_pages(ground: str) -> None:
    for colour, _ in styles(METHODS).values():
        light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_every_method_has_its_own_style() -> None:
    assert len(set(styles(METHODS).values())) == len(METHODS)
