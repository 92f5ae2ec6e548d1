"""Pairs to label: which, the page in a real browser, its CSV read back, and the estimate against known numbers."""

import csv
import io
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Page
from conftest import quiet
from extractors import Means
from scipy.stats import binomtest
from test_judging import Halves
from test_prepare import crops, picture

from reidgen.errors import DataError, RunError
from reidgen.judging.crops import Crops, drawn, of_images
from reidgen.judging.judge import Judged, judge
from reidgen.judging.labels import (
    FIELDS,
    OTHER,
    SAME,
    UNSURE,
    Pair,
    Sheet,
    check_labels,
    comparisons,
    draw_sheet,
    estimates,
    interval,
    read_labels,
    sign_test,
)
from reidgen.judging.page import write_pairs_page

EVIL = "=1+1;\"'<script>alert(1)< script>, &lt; é"
RUNS = {"ab" * 32: "synth/means", "cd" * 32: "synth/halves"}


def made(folder: Path, count: int = 8) -> tuple[Sheet, Crops, Judged]:
    found = of_images(folder)
    judged = judge([Means(), Halves()], found, data=folder, queries=count, measures=False, report=quiet)
    return draw_sheet(judged, found, count), found, judged


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 crops of two cameras, some with names that try to break a page and a CSV."""
    root = crops(tmp_path_factory.mktemp("crops") / "in", people=5)
    for person in ("p0", "p3"):
        (root / person).rename(root / f"{EVIL}{person}")
    return root


def saved(sheet: Sheet, labels: list[str]) -> str:
    """Return the CSV as the page saves it."""
    head, *lines = sheet.lines()
    rows = [f"{line},{label}" for line, label in itertools.zip_longest(lines, labels[: len(lines)], fillvalue="")]
    return "\n".join([f"{head},label", *rows]) + "\n"


# Which pairs


def test_a_sheet_holds_each_runs_nearest_crop_of_each_query_and_a_shared_pair_once(folder: Path) -> None:
    sheet, found, judged = made(folder)
    asked = [found.paths[row] for row in drawn(found.paths, 8, "queries", 0)]
    wanted = set()
    for digest, first_Q in judged.first.items():
        for number, (query, row) in enumerate(zip(asked, first_Q, strict=True), start=1):
            assert found.camera_N[row] != found.camera_N[found.paths.index(query)]
            wanted.add((number, query, found.paths[row], digest[:16]))
    have = [(pair.query_number, *place, run)
            for pair, place in zip(sheet.pairs, sheet.places, strict=True) for run in pair.runs]  # fmt: skip
    assert set(have) == wanted and len(have) == len(wanted) == 16
    assert len(sheet.pairs) == len(
        {(pair.query_number, place) for pair, place in zip(sheet.pairs, sheet.places, strict=True)}
    )
    assert 8 < len(sheet.pairs) < 16  # they share some
    assert [pair.query_number for pair in sheet.pairs] == sorted(pair.query_number for pair in sheet.pairs)


def test_more_pairs_begin_with_the_fewer(folder: Path) -> None:
    few, more = made(folder, 5)[0], made(folder, 9)[0]
    assert more.pairs[: len(few.pairs)] == few.pairs and few.digest != more.digest


def test_no_pairs_without_cameras(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{'abcd'[number]}.jpg").write_bytes(picture(number))
    found = of_images(tmp_path)
    judged = judge([Means()], found, data=tmp_path, measures=False, report=quiet)
    with pytest.raises(DataError, match=r"no camera of .* is known"):
        draw_sheet(judged, found)


def test_draws_are_even_and_the_estimate_has_no_bias() -> None:
    paths, draws = [f"{n:03}.jpg" for n in range(60)], 1500
    hit_N = np.arange(60) % 5 < 3  # 60 %
    times, shares, held = np.zeros(60), [], 0
    for seed in range(draws):
        rows = drawn(paths, 12, "queries", seed)
        assert len(set(rows.tolist())) == 12
        times[rows] += 1
        shares.append(hit_N[rows].mean())
        low, high = interval(int(hit_N[rows].sum()), 12)
        held += low <= 0.6 <= high
    assert abs(np.mean(shares) - 0.6) < 3 * math.sqrt(0.24 / 12 * (48 / 59) / draws)
    assert np.abs(times - draws / 5).max() < 4.5 * math.sqrt(draws * 0.2 * 0.8)
    assert held / draws >= 0.95


# The estimate


@pytest.mark.parametrize(("hits", "of"), [(0, 30), (1, 30), (15, 30), (29, 30), (30, 30), (7, 12), (0, 1)])
def test_the_interval_is_clopper_and_pearsons_and_the_test_the_exact_one(hits: int, of: int) -> None:
    known = binomtest(hits, of)
    np.testing.assert_allclose(interval(hits, of), known.proportion_ci(method="exact"), atol=1e-9)
    assert sign_test(hits, of - hits) == pytest.approx(known.pvalue)


def three(*found: tuple[str, ...]) -> list[Pair]:
    """Return pairs: per query, the runs (a, b or ab) of each crop."""
    names = {"a": "ab" * 8, "b": "cd" * 8}
    return [Pair(number, f"q{number}", f"{crop}.jpg", "0", "0", tuple(sorted(names[one] for one in runs)))
            for number, some in enumerate(found, start=1) for crop, runs in enumerate(some)]  # fmt: skip


def test_the_estimate_by_hand_with_what_cannot_be_told() -> None:
    pairs = three(("ab",), ("ab",), ("a", "b"), ("a", "b"), ("ab",))
    labels = [SAME, OTHER, SAME, OTHER, UNSURE, SAME, SAME]
    a, b = estimates(pairs, labels, RUNS)
    # a: same, other, same, cannot tell, same; b: same, other, other, same, same
    assert a[:5] == ("synth/means", 5, 3, 1, 1) and b[:5] == ("synth/halves", 5, 3, 2, 0)
    assert a.share == 0.6 and b.share == 0.6
    assert a.low == pytest.approx(binomtest(3, 5).proportion_ci(method="exact").low)
    assert a.high == pytest.approx(binomtest(4, 5).proportion_ci(method="exact").high)
    assert (b.low, b.high) == interval(3, 5)


def test_who_stops_early_has_the_queries_so_far_and_what_was_passed_over_is_not_told() -> None:
    pairs = three(("ab",), ("a", "b"), ("ab",), ("a", "b"), ("ab",))
    labels = [SAME, SAME, "", SAME, SAME, "", ""]  # of query 2 one is left out; of 4 the half; 5 not reached
    a, b = estimates(pairs, labels, RUNS)
    assert a[1:5] == (3, 3, 0, 0) and b[1:5] == (3, 2, 0, 1)
    with pytest.raises(DataError, match="no query has all of its pairs labelled"):
        estimates(pairs, [""] * 7, RUNS)


def test_two_runs_are_compared_on_the_queries_where_they_differ() -> None:
    pairs = three(*[("ab",)] * 4, *[("a", "b")] * 9)
    labels = [SAME] * 4 + [SAME, OTHER] * 7 + [OTHER, SAME] + [UNSURE, SAME]
    found = comparisons(pairs, labels, RUNS).iloc[0]
    assert found.to_dict() == {"run": "synth/means", "other": "synth/halves", "only_run": 7, "only_other": 1,
                               "p": pytest.approx(binomtest(7, 8).pvalue)}  # fmt: skip


# The CSV


def test_a_saved_csv_is_read_back_also_from_a_spreadsheet(folder: Path, tmp_path: Path) -> None:
    sheet, found, _ = made(folder)
    labels = [(SAME, OTHER, UNSURE, "")[n % 4] for n in range(len(sheet.pairs))]
    file = tmp_path / "pairs.csv"
    file.write_text(saved(sheet, labels))
    assert read_labels(file) == (sheet.pairs, labels)
    check_labels(sheet.pairs, RUNS, found, file)
    rows = list(csv.reader(io.StringIO(saved(sheet, labels))))
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)
    out = io.StringIO()
    rows[1:] = [[*row[:-1], row[-1].upper()] for row in reversed(rows[1:])]  # sorted, and typed by hand
    csv.writer(out, delimiter=";", lineterminator="\r\n").writerows(rows)
    file.write_bytes(b"\xef\xbb\xbf" + out.getvalue().encode())
    assert read_labels(file) == (sheet.pairs, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "does not hold its pairs as they were saved"),
        (lambda lines: [*lines, lines[-1]], "does not hold its pairs as they were saved"),
        (lambda lines: [lines[0], *(one.replace("p1/", "p2/") for one in lines[1:])], "does not hold its pairs"),
        (
            lambda lines: [lines[0], *(one.replace(f"sha-{'cd' * 8}", f"sha-{'ce' * 8}") for one in lines[1:])],
            "does not",
        ),
        (lambda lines: [*lines[:2], f"{lines[2]}perhaps", *lines[3:]], "has the label 'perhaps'; write one of: same"),
        (lambda lines: [*lines[:2], "1,2,3", *lines[3:]], "has a line that is no labelled pair"),
        (lambda lines: lines[:1], "does not hold its pairs"),
        (lambda lines: ["path,label"], "is no CSV of labelled pairs"),
        (lambda lines: [], "is no CSV of labelled pairs"),
    ],
)
def test_a_changed_csv_is_refused(folder: Path, tmp_path: Path, change: object, message: str) -> None:
    sheet = made(folder)[0]
    file = tmp_path / "pairs.csv"
    file.write_text("\n".join(change(saved(sheet, []).splitlines())))  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        read_labels(file)


def test_labels_of_other_runs_or_images_are_refused(folder: Path, tmp_path: Path) -> None:
    sheet, found, _ = made(folder)
    with pytest.raises(RunError, match="holds no pairs of market/new as it is now"):
        check_labels(sheet.pairs, {**RUNS, "ef" * 32: "market/new"}, found, tmp_path)
    other = of_images(crops(tmp_path / "other", people=2))
    with pytest.raises(DataError, match="is not among the crops of"):
        check_labels(sheet.pairs, RUNS, other, tmp_path)
    copy = tmp_path / "copy"
    for path in found.paths:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes((folder / path).read_bytes())
    check_labels(sheet.pairs, RUNS, of_images(copy), tmp_path)
    (copy / sheet.places[0][0]).write_bytes(picture(77))
    with pytest.raises(DataError, match="has changed since the page was made"):
        check_labels(sheet.pairs, RUNS, of_images(copy), tmp_path)
    with pytest.raises(DataError, match="is not there; make a page with --pairs"):
        read_labels(tmp_path / "none.csv")


# The page in a real browser

KEPT = "database.then(at => settled(at.transaction('labels').objectStore('labels').getAll()))"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    sheet, found, _ = made(folder)
    write_pairs_page(folder.parent / "pairs.html", sheet, found)
    return folder.parent / "pairs.html"


def test_the_page_says_nothing_of_runs_and_holds_nothing_that_is_run(page: Path, folder: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "means" not in text and "halves" not in text and "<script>alert" not in text and "http://" not in text
    with pytest.raises(DataError, match=r"should end in \.html"):
        write_pairs_page(page.with_name("pairs.csv"), *made(folder)[:2])


@pytest.fixture(params=[(1280, False), (390, True)], ids=["wide-light", "narrow-dark"])
def opened(request: pytest.FixtureRequest, page: Path, tmp_path: Path) -> Iterator[Page]:
    width, dark = request.param
    with Page(width=width, height=800, dark=dark) as chromium:
        chromium.ask("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        chromium.open(page)
        yield chromium


@needs_chromium
def test_pairs_are_labelled_by_keys_and_by_touch_kept_and_saved(
    opened: Page, page: Path, folder: Path, tmp_path: Path
) -> None:
    sheet = made(folder)[0]
    place = "document.getElementById('place').textContent"
    every = len(sheet.pairs)
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    assert opened.run("document.getElementById('save').getBoundingClientRect().bottom <= innerHeight")
    assert opened.run(place) == f"Pair 1 of {every}" and opened.run("document.getElementById('back').disabled")
    for key in ("1", "2", "3", "ArrowLeft", "2", "1", "Backspace", "ArrowRight"):
        opened.press(key)
    wanted = [SAME, OTHER, OTHER, SAME]  # the third was changed
    assert opened.run(place) == f"Pair 5 of {every}" and opened.run("document.getElementById('done').value") == 4
    opened.run("document.querySelector('[data-label=\"cannot tell\"]').click()")
    opened.press("ArrowLeft")
    pressed = "document.querySelector('[aria-pressed=true]').dataset.label"
    assert opened.run(pressed) == UNSURE
    assert opened.run("[...document.images].every(i => i.alt && i.complete && i.naturalWidth)")
    assert opened.run(KEPT) == [*wanted, UNSURE]
    opened.open(page)  # again: what was labelled is kept
    opened.run("restored")
    assert opened.run(place) == f"Pair 6 of {every}"
    for _ in range(5, every):
        opened.press("1")
    assert opened.run("document.getElementById('total').textContent").startswith(
        f"{every - 3} same person, 2 other, 1 "
    )
    opened.run("document.getElementById('save').click()")
    file = tmp_path / "pairs.csv"
    for _ in range(200):
        if file.is_file() and file.stat().st_size:  # the browser makes it before it moves the text there
            break
        time.sleep(0.05)
    assert read_labels(file) == (sheet.pairs, [*wanted, UNSURE, *[SAME] * (every - 5)])
    assert file.read_text().splitlines()[0] == ",".join(FIELDS)
    assert f"'{EVIL}" in file.read_text().replace('""', '"')
    assert opened.reported("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    asked = [request["request"]["url"] for request in opened.reported("Network.requestWillBeSent")]
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


@needs_chromium
def test_labels_of_another_tab_are_not_overwritten_and_those_of_another_sheet_not_taken(
    page: Path, folder: Path
) -> None:
    every = len(made(folder)[0].pairs)
    with Page() as chromium:
        chromium.open(page)
        for sheet, at in (("data.sheet", 2), ("data.sheet", 3), ("'z'", 1), ("data.sheet + 'a'", 1)):
            chromium.run(
                "database.then(at => settled(at.transaction('labels', 'readwrite').objectStore('labels')"
                f".put('{SAME}', [{sheet}, {at}]))).then(() => 1)"
            )
        chromium.press("2")
        assert chromium.run(KEPT) == [OTHER, SAME, SAME, SAME, SAME]
        chromium.open(page)
        chromium.run("restored")
        assert chromium.run("labels") == [OTHER, "", SAME, SAME, *[""] * (every - 4)]
        assert chromium.run("document.getElementById('place').textContent") == f"Pair 2 of {every}"


@needs_chromium
def test_the_warning_goes_once_the_label_is_kept_or_saved(page: Path) -> None:
    words = "document.getElementById('kept').textContent"
    fails = "put = IDBObjectStore.prototype.put, IDBObjectStore.prototype.put = () => { throw new Error('full'); }, 1"
    with Page() as chromium:
        chromium.open(page)
        for again in (["ArrowLeft", "3"], []):
            chromium.run(f"globalThis.{fails}")
            chromium.press("2")
            chromium.run("database.then(() => 1)")  # which the page has asked before
            assert "save the CSV" in chromium.run(words) and chromium.run("lost.size") == 1
            chromium.run("IDBObjectStore.prototype.put = put, 1")
            for key in again:
                chromium.press(key)
            if not again:
                chromium.run("save(), 1")
            chromium.run("keep(0)")  # behind what was asked before
            assert chromium.run(words) == "" and chromium.run("lost.size") == 0


@needs_chromium
def test_a_browser_that_keeps_nothing_says_so_and_saves_all_the_same(page: Path, folder: Path, tmp_path: Path) -> None:
    forbidden = "Object.defineProperty(window, 'indexedDB', {get() { throw new DOMException('no', 'SecurityError'); }})"
    with Page() as chromium:
        chromium.ask("Page.addScriptToEvaluateOnNewDocument", source=forbidden)
        chromium.open(page)
        chromium.press("2")
        assert "does not keep your labels" in chromium.run("document.getElementById('kept').textContent")
        saved = chromium.run("csv()")
        assert chromium.reported("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    (tmp_path / "pairs.csv").write_text(saved)
    sheet = made(folder)[0]
    assert read_labels(tmp_path / "pairs.csv") == (sheet.pairs, [OTHER, *[""] * (len(sheet.pairs) - 1)])
