"""What is drawn: the numbers, marks and labels that a figure holds, read back from it."""

from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Text

from reidgen.pictures import drawings as pictures

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 4, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with pictures.styled():
        yield


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_right_and_wrong_differ_by_mark_and_colour() -> None:
    rows = [
        pictures.Row("hard", PIXELS, [PIXELS] * 3, [False, False, True], None),
        pictures.Row("harder", PIXELS, [PIXELS] * 3, [False] * 3, (PIXELS, 57)),
    ]
    figure = pictures.draw_ranks(rows, title="the title")
    marks = [text for text in texts(figure) if text[0] in "✓✗"]
    assert marks == ["✗ 1", "✗ 2", "✓ 3", "✗ 1", "✗ 2", "✗ 3", "✓ 57"]
    assert {"the title", "hard", "harder", "query"} <= set(texts(figure))
    frames = [patch.get_edgecolor() for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(frames) == 2 + 7 and len(set(frames)) == 3
    assert len(figure.axes[0].images) == 9


def test_a_stage_has_one_scale_of_heat() -> None:
    heat = {("stage 1", "F"): np.full((2, 4, 2), 1.0), ("stage 1", "F~"): np.full((2, 4, 2), 3.0)}
    heat[("stage 2", "F")] = np.full((2, 4, 2), 7.0)
    shift = {key: np.array([0.0, 0.25]) for key in heat}
    styles = {"unchanged": PIXELS, "darker": PIXELS // 2}
    figure = pictures.draw_maps(pictures.Heat(styles, heat, shift), title="the title")
    drawn = [image for image in figure.axes[0].images if image.cmap.name == "inferno"]
    assert [image.norm.vmax for image in drawn] == [3, 3, 3, 3, 7, 7] and {image.norm.vmin for image in drawn} == {0}
    found = texts(figure)
    assert found.count("0.25") == 3 and found.count("0.00") == 0  # the unchanged image has moved nowhere
    assert {"stage 1", "stage 2", "darker", "$F$", r"$\tilde{F}$"} <= set(found)


def test_tsne_shows_every_point_and_says_where_there_is_one_only() -> None:
    points = np.arange(12, dtype=np.float32).reshape(6, 2)
    panels = [
        pictures.Panel("stage 1", "F", points, 0.5),
        pictures.Panel("stage 1", "F~", None, 0.5),
        pictures.Panel("embedding", "", points, 0.75),
    ]
    figure = pictures.draw_tsne(panels, np.array([0, 1, 1, 0, 1, 1]), ["plaza", "night"], title="the title")
    drawn = [np.concatenate([group.get_offsets() for group in axes.collections]) for axes in figure.axes if axes.collections]  # fmt: skip
    assert len(drawn) == 2
    for found in drawn:
        np.testing.assert_array_equal(found[found[:, 0].argsort()], points)
    sizes = [len(group.get_offsets()) for group in figure.axes[0].collections]
    assert sizes == [2, 4]
    found_texts = " ".join(texts(figure))
    for words in ("same domain nearest: 50 %", "same domain nearest: 75 %", "chance: 50 %", "one point", "plaza", "night"):  # fmt: skip
        assert words in found_texts


def test_histograms_hold_the_shares_of_each_kind() -> None:
    positive, negative = np.zeros(2000, np.int64), np.zeros(2000, np.int64)
    positive[[399, 400, 419]] = 1, 2, 1
    negative[[1000, 1500]] = 3, 1
    figure = pictures.draw_distances(positive, negative, threshold=0.7, error=0.125, title="the title")
    outlines = [patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch) and not patch.get_fill()]
    first, second = (patch.get_data().values for patch in outlines)
    assert (first[19], first[20]) == (25, 75) and (second[50], second[75]) == (75, 25)
    assert first.sum() == second.sum() == pytest.approx(100)
    axes = figure.axes[0]
    assert axes.get_xlim() == pytest.approx((0.38, 1.52)) and axes.get_xlabel() and "%" in axes.get_ylabel()
    assert "equal error 12.5 % at 0.70" in " ".join(texts(figure)) and "(4 pairs)" in " ".join(texts(figure))


def test_gates_are_sorted_by_the_first_domain() -> None:
    plaza = np.array([[0.9, 0.1, 0.5], [0.7, 0.3, 0.5]], np.float32)
    night = np.array([[0.2, 0.6, 0.4]], np.float32)
    figure = pictures.draw_gates({"stage 1": [plaza, night]}, ["plaza", "night"], label="gate", title="the title")
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["plaza: mean"], [0.2, 0.5, 0.8], rtol=1e-6)
    np.testing.assert_allclose(lines["night: mean"], [0.6, 0.4, 0.2], rtol=1e-6)
    assert figure.axes[0].get_ylabel() == "gate" and figure.axes[0].get_ylim() == (-0.02, 1.02)
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(styles) == 2


def test_many_domains_are_told_apart() -> None:
    looks = {
        (pictures.COLOURS[n % len(pictures.COLOURS)], marks[n % len(marks)])
        for marks in (pictures.MARKERS, pictures.LINES)
        for n in range(28)
    }
    assert len(looks) == 2 * 28


def test_the_user_s_own_style_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)
    with pictures.styled():
        assert matplotlib.rcParams["font.size"] == pictures.STYLE["font.size"]
