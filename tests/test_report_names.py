"""The report of models from elsewhere beside runs: what their groups, targets and long names look like on the page."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page
from test_report import frame, labels, needs_chromium, page, row, save

from reidgen.report.page import headlines, make_report
from reidgen.rows import ELSEWHERE, NO_RECIPE, UNDECLARED
from reidgen.tables.compare import make_table

OSNET = "osnet_x0_25_msmt17@61b26041"
OTHER = "fastreid_sbs_r50@77aa0001"
CAMERAS = "cameras-of-the-railway-station-in-november"
LONG = f"{'W' * 60}@61b26041"  # one word, of the widest letter


def theirs(method: str, target: str, mAP: float, source: str, **more: Any) -> dict[str, Any]:
    """A row of a model from elsewhere."""
    said = {"backbone": ELSEWHERE, "recipe": ELSEWHERE, "hash": NO_RECIPE, "model": "61b26041", "title": method}
    return row(method, target, mAP, source=source, **{**said, **more})


def mixed() -> list[dict[str, Any]]:
    """Three groups of models from elsewhere and one of runs, with several tests; two targets are synthetic ones."""
    return [
        theirs(OSNET, "pku", 0.509, "msmt17"),
        theirs(OSNET, "synth-night", 0.467, "msmt17"),
        theirs(OSNET, "synth-night", 0.575, "msmt17", test="centre"),
        theirs(OSNET, "synth-night", 0.479, "msmt17", test="flip"),
        theirs(LONG, "synth-night", 0.2, "synth-plaza"),
        row("snr", "pku", 0.13, source="synth-plaza"),
        row("snr", "synth-night", 0.19, source="synth-plaza"),
        row("snr", "synth-night", 0.25, source="synth-plaza", test="centre"),
        row("baseline", "synth-night", 0.26, source="synth-plaza", test="flip"),
        row("snr", "synth-night", 0.23, source="synth-plaza", test="flip"),
        row("snr", CAMERAS, 0.3, source="synth-plaza"),
        theirs(OTHER, "synth-night", 0.467, UNDECLARED),
        theirs(OTHER, "synth-night", 0.479, UNDECLARED, test="flip"),
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_report(save(tmp_path_factory.mktemp("mixed"), *mixed()))


# What it says


def test_one_headline_for_what_was_trained_and_other_tests_in_a_few_words() -> None:
    """(50.9 + 46.7) / 2 = 48.8; (13 + 19) / 2 = 16. With flip, Baseline is best, and has no plain test."""
    assert headlines(make_table(frame(*mixed()))) == [
        (
            f"Models from elsewhere (declared: msmt17): {OSNET} reaches 48.8 mAP on the mean of 2 unseen targets.",
            "The highest mAP with other test steps: centre 57.5 on synth-night, flip 47.9 on synth-night.",
        ),
        (f"Models from elsewhere (declared: synth-plaza): {LONG} reaches 20.0 mAP on the one unseen target.", ""),
        (
            "Trained on synth-plaza, tiny, SNR reaches 16.0 mAP on the mean of 2 unseen targets.",
            "The highest mAP with other test steps: centre 25.0 on synth-night, flip 26.0 by Baseline on synth-night.",
        ),
        (
            "Models from elsewhere (training not declared): no target is known to be unseen.",
            "To declare what a model was trained on, evaluate it again with --trained-on NAME.",
        ),
    ]


def test_without_a_plain_test_the_first_has_the_headline() -> None:
    tests = [row("snr", "duke", 0.3, test="flip"), row("snr", "duke", 0.4, test="centre")]
    assert headlines(make_table(frame(*tests))) == [
        (
            "Trained on market, tested with centre, SNR reaches 40.0 mAP on the one unseen target.",
            "The highest mAP with other test steps: flip 30.0.",
        )
    ]


def test_models_that_were_measured_on_their_own_cameras_or_own_crops_only() -> None:
    for target, seen, words in (
        ("market", 1, "the methods were measured on its own cameras only."),
        ("mycams", 0, "the methods were measured on no unseen set of the catalogue."),
    ):
        ((headline, _),) = headlines(make_table(frame(theirs(OSNET, target, 0.5, "market", seen=seen))))
        assert headline == f"Models from elsewhere (declared: market): {words}"


def test_what_is_not_declared_is_never_called_a_source(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    told = "msmt17 (as declared), synth-plaza (as declared), synth-plaza, not declared"
    assert f"<dt>Trained on</dt><dd>{told}</dd>" in text
    assert "Trained on from" not in text and "trained on from" not in text and "trained on models" not in text
    captions = re.findall(r"<caption>(.*)</caption>", text)
    assert captions[0] == "Models from elsewhere (declared: msmt17)" and "Trained on synth-plaza, tiny" in captions
    (bars,) = labels(text, "Bars: mAP in percent, models from elsewhere (training not declared), measured on")
    assert bars.endswith(f"synth-night: {OTHER} 46.7 (one seed)")
    assert not re.search(r"\bundeclared\b", re.sub(r"(?s)<section id=.runs.*", "", text))


def test_a_target_has_one_name_on_the_page(report: Path, tmp_path: Path) -> None:
    """Beside others or alone, in tables, charts and sentences: that by which commands take it."""
    for text in (report.read_text(encoding="utf-8"), page(save(tmp_path, row("snr", "synth-night", 0.3)))):
        assert text.count("synth-night") > 5
        assert not re.search(r"(?<!synth-)\bnight\b", text)


# In a real browser


@pytest.fixture(scope="module", params=[1280, 768, 390, 320])
def opened(request: pytest.FixtureRequest, report: Path) -> Iterator[Page]:
    with Page(width=request.param) as chromium:
        chromium.open(report)
        yield chromium


@needs_chromium
def test_no_chart_of_scores_is_cut_off(opened: Page) -> None:
    """Every name, number and bar lies within the chart's column, with nothing to scroll."""
    cut = """[...document.querySelectorAll('#scores svg')].flatMap(svg => {
      const box = svg.parentElement.getBoundingClientRect();
      return [...svg.querySelectorAll('text, path')].filter(part => !part.closest('defs'))
        .map(part => [part.textContent, part.getBoundingClientRect()])
        .filter(([_, at]) => at.left < box.left - 1 || at.right > box.right + 1).map(([text]) => text);
    })"""
    assert opened.run("document.querySelectorAll('#scores svg text').length") > 50
    assert opened.run(cut) == []
    boxes = "[...document.querySelectorAll('#scores figure > div')]"
    assert opened.run(f"{boxes}.every(box => box.scrollWidth <= box.clientWidth)")


@needs_chromium
def test_a_heat_map_begins_with_cells_in_view(opened: Page) -> None:
    """The right edge of each map's first column of numbers is in view without scrolling."""
    first = """[...document.querySelectorAll('#heat svg')].map(svg => {
      const cells = [...svg.querySelectorAll('text')].filter(text => /^[\\d.]+$/.test(text.textContent.trim()));
      return Math.min(...cells.map(cell => cell.getBoundingClientRect().right));
    })"""
    right = opened.run("document.querySelector('#heat figure > div').getBoundingClientRect().right")
    found = opened.run(first)
    assert len(found) == 5 and all(edge <= right for edge in found)


@needs_chromium
@pytest.mark.parametrize("section", ["tables", "runs"])
def test_a_name_stays_whole_in_its_column(opened: Page, section: str) -> None:
    """No name runs out of the column that stays in view, which leaves at least half of the table to the numbers."""
    heads = f"[...document.querySelectorAll('#{section} tbody th[scope=row]')]"
    assert {OSNET, LONG, "SNR"} <= set(opened.run(f"{heads}.map(head => head.textContent)"))
    assert opened.run(f"{heads}.every(head => head.scrollWidth <= head.clientWidth)")
    wide = f"{heads}.map(head => head.offsetWidth / head.closest('.scroll').clientWidth)"
    assert max(opened.run(wide)) <= 0.5
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")


@needs_chromium
def test_a_long_name_of_a_target_takes_lines_of_a_heading(opened: Page) -> None:
    """It is whole, on a phone in a column far narrower than the name is on a line, and nothing is to scroll on a desk."""
    head = f"[...document.querySelectorAll('#tables thead th')].find(head => head.textContent.startsWith('{CAMERAS}'))"
    assert opened.run(f"{head}.scrollWidth <= {head}.clientWidth && ({head}.clientWidth < 260 || innerWidth > 600)")
    assert opened.run(f"(box => box.scrollWidth <= box.clientWidth || innerWidth < 1000)({head}.closest('.scroll'))")


@needs_chromium
def test_a_name_of_usual_length_stays_on_a_line_where_there_is_room(report: Path) -> None:
    with Page(width=1280) as chromium:
        chromium.open(report)
        lines = """(name => {
          const heads = [...document.querySelectorAll('#tables tbody th')], range = document.createRange();
          range.selectNodeContents(heads.find(head => head.textContent === name));
          return new Set([...range.getClientRects()].map(part => part.top)).size; })"""
        short, usual, long = (chromium.run(f"{lines}('{name}')") for name in ("SNR", OSNET, LONG))
        assert short == usual == 1 < long
