"""The report: its numbers against ones worked by hand, its page read as HTML and opened in a real Chromium."""

import base64
import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import CHROMIUM, Page
from conftest import seal

from reidgen.errors import ReidgenError, RunError
from reidgen.integrity import with_check
from reidgen.methods import METHODS
from reidgen.parts import GROUPS
from reidgen.report.page import headlines, make_report
from reidgen.report.sections import PICTURES, for_curves
from reidgen.rows import ADDED, COLUMNS, to_csv
from reidgen.tables.compare import make_table
from reidgen.tables.identities import keep_identities

REFERENCE = Path(__file__).parents[1] / "results" / "synth-main-2026-11-22"
EVIL = "<script>alert(1)</script>"
MADE = {
    "backbone": "tiny", "rank1": 0.5, "rank5": 0.6, "rank10": 0.7, "mINP": 0.1, "queries": 4, "gallery": 9,
    "unmatched": 0, "recipe": "quick", "hash": "1a2b3c4d", "data": "aaaa1111", "source_data": "bbbb2222",
    "version": "0.1.0", "commit": "abc1234", "torch": "2.9.1", "device": "cpu", "dtype": "float32",
    "date": "2026-05-01T10:00:00Z", **ADDED,
}  # fmt: skip
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def row(method: str, target: str, mAP: float, *, source: str = "market", seed: int = 0, **more: Any) -> dict[str, Any]:
    place = {"source": source, "target": target, "seen": int(source == target), "split": 0, "seed": seed}
    return {**place, "method": method, "mAP": mAP, **MADE, **more}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(COLUMNS)


def save(results: Path, *rows: dict[str, Any]) -> Path:
    results.mkdir(exist_ok=True)
    (results / "rows.csv").write_text(to_csv(frame(*rows)), encoding="utf-8")
    return results


def page(results: Path, *, images: bool = False) -> str:
    return make_report(results, images=images).read_text(encoding="utf-8")


class _Elements(HTMLParser):
    """All elements of a page as (tag, attributes)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(text: str, tag: str) -> list[dict[str, str | None]]:
    return [attributes for name, attributes in _Elements(text).found if name == tag]


def labels(text: str, start: str) -> list[str]:
    """The alternative texts that begin so."""
    found = [str(svg.get("aria-label")) for svg in elements(text, "svg")]
    return [label for label in found if label.startswith(start)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the committed synth rows, three seeds."""
    results = tmp_path_factory.mktemp("reference")
    shutil.copy(REFERENCE / "rows.csv", results)
    return make_report(results)


# What it says


def test_headline_worked_by_hand() -> None:
    """snr: (.40 + .50) / 2 per seed 0 = .45, seed 1 = .47; mean .46, std .0141. baseline .30, .32 -> .31. ibn .43, .45."""
    rows = [
        row(method, target, mAP + 0.02 * seed, seed=seed)
        for method, scores in {"baseline": (0.2, 0.4), "ibn": (0.38, 0.48), "snr": (0.4, 0.5)}.items()
        for target, mAP in zip(("duke", "viper"), scores, strict=True)
        for seed in (0, 1)
    ]
    ((headline, sure),) = headlines(make_table(frame(*rows)))
    assert headline == "Trained on market, SNR has the highest mAP on the mean of 2 unseen targets: 46.0, 15.0 points above Baseline (31.0)."  # fmt: skip
    assert sure == (
        "Whether the difference would hold for other people was not tested: there are no per-query numbers. "
        "Second is Baseline-IBN with 44.0 (± 1.4 over 2 seeds), 2.0 points behind: no more than the two spreads together."
    )


@pytest.mark.parametrize(
    ("p", "words"),
    [(0.0004, "that is significant (p < 0.001"), (0.2, "that is not significant, it may be chance (p = 0.200")],
)
def test_headline_says_what_the_test_says(p: float, words: str) -> None:
    table = make_table(frame(row("baseline", "duke", 0.2), row("snr", "duke", 0.3)))
    table.cells[["gain_mAP_holm", "gain_mAP_low", "gain_mAP_high"]] = [p, -1.0, 21.0]
    ((_, sure),) = headlines(table)
    assert words in sure and "−1.0 to +21.0" in sure and "With one seed, nobody knows" in sure


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("snr", "market", 0.5)], "measured on its own cameras only"),
        ([row("snr", "duke", 0.5)], "SNR reaches 50.0 mAP on the one unseen target."),
        ([row("snr", "duke", 0.5), row("baseline", "viper", 0.5)], "Baseline reaches 50.0 mAP on the one unseen target."),
        ([row("snr", "mycams", 0.5)], "the methods were measured on no unseen set of the catalogue"),
        ([row("snr", "duke", 0.3), row("baseline", "duke", 0.5)], "Baseline has the highest mAP on the one unseen target: 50.0."),
    ],
)  # fmt: skip
def test_headline_without_enough_to_compare(rows: list[dict[str, Any]], words: str) -> None:
    ((headline, _),) = headlines(make_table(frame(*rows)))
    assert words in headline


def test_one_more_evaluation_does_not_take_the_others_from_the_headline() -> None:
    """`evaluate snr --target pku` for one of several methods: the same finding as before."""
    rows = [row(m, t, 0.3 + plus) for m, plus in (("baseline", 0), ("snr", 0.2)) for t in ("duke", "viper")]
    before = headlines(make_table(frame(*rows)))
    assert headlines(make_table(frame(*rows, row("snr", "pku", 0.9)))) == before
    assert "SNR has the highest mAP on the mean of 2 unseen targets: 50.0, 20.0 points above Baseline" in before[0][0]


def test_one_headline_for_each_backbone() -> None:
    rows = [row("snr", "duke", 0.3), row("snr", "duke", 0.5, backbone="resnet50", hash="22")]
    assert [headline for headline, _ in headlines(make_table(frame(*rows)))] == [
        "Trained on market, resnet50, SNR reaches 50.0 mAP on the one unseen target.",
        "Trained on market, tiny, SNR reaches 30.0 mAP on the one unseen target.",
    ]


def test_reference_rows_give_every_number_of_the_committed_table(reference: Path) -> None:
    text = reference.read_text(encoding="utf-8")
    cells = pd.read_csv(REFERENCE / "table.csv")
    values = [float(cell["data-value"]) for cell in elements(text, "td") if "." in (cell.get("data-value") or "")]  # type: ignore[arg-type]
    assert sorted(values) == pytest.approx(sorted(cells["mAP"]))
    assert len(labels(text, "Heat map")) == 1 and len(labels(text, "Bars: mAP in percent")) == 7
    assert "Of more than" not in text


def test_every_cell_leads_to_its_runs_and_every_run_says_where_it_came_from(reference: Path) -> None:
    text = reference.read_text(encoding="utf-8")
    rows = {str(line["id"]): line for line in elements(text, "tr") if line.get("id")}
    links = [str(link["href"])[1:] for link in elements(text, "a") if "title" in link]
    assert len(links) == 6 * 7 and set(links) <= set(rows) and len(rows) == 18
    groups = {str(rows[link]["data-group"]) for link in links}
    assert groups == {f"synth-plaza {name}" for name in ("baseline", "a-in", "ibn", "a-sn", "in", "snr")}
    for fact in (
        "quick@9e5561ac",
        "d636b65604b7",
        "NVIDIA H100 80GB HBM3, float32",
        "2.11.0+cu130",
        "2026-11-22T17:57:48Z",
    ):
        assert fact in text
    assert "reidgen train --method a-in --source synth-plaza --seed 2 --recipe quick --results again" in text


def test_what_has_no_data_is_left_out_in_one_line_with_its_command(reference: Path) -> None:
    text = reference.read_text(encoding="utf-8")
    missing = re.findall(r"<li>(.*)</li>", text[text.index('id="missing"') : text.index('id="runs"')])
    commands = ["reidgen bench"] * 3 + [f"reidgen show {kind} RUN --target NAME" for kind in PICTURES]
    assert [line.partition("run: ")[2] for line in missing] == commands
    assert not any(f'<section id="{kind}"' in text for kind in PICTURES)


def test_the_paper_stands_beside_where_it_has_numbers(tmp_path: Path) -> None:
    text = page(save(tmp_path, row("snr", "duke", 0.3), row("snr", "market", 0.8)))
    assert "paper 33.6" in text and "paper 84.7" in text


def test_several_sources_give_one_heat_map_per_method(tmp_path: Path) -> None:
    rows = [
        row(m, t, 0.5, source=s) for m in ("baseline", "snr") for s in ("market", "msmt17") for t in ("duke", "viper")
    ]
    maps = labels(page(save(tmp_path, *rows)), "Heat map")
    assert [label.split(":")[0] for label in maps] == [
        "Heat map of mAP in percent, Baseline",
        "Heat map of mAP in percent, SNR",
    ]
    assert "market mean of unseen 50.0, duke 50.0, viper 50.0" in maps[0] and "msmt17 mean" in maps[0]


def make_run(
    results: Path, *, method: str = "snr", seed: int = 0, first: list[int], pids: list[int] | None = None
) -> Path:
    """A finished run on duke, with one query per rank of `first`; 0: without a match."""
    folder = results / "runs" / "market" / f"{method}-tiny-s{seed}-1a2b3c4d"
    folder.mkdir(parents=True)
    found = [rank for rank in first if rank]
    scores = {
        "mAP": sum(1 / rank for rank in found) / len(found),
        "rank1": sum(rank == 1 for rank in found) / len(found),
    }
    (folder / "results.csv").write_text(to_csv(frame({**row(method, "duke", 0.0, seed=seed), **scores})))
    queries = pd.DataFrame({"target": "duke", "split": 0, "path": "x.jpg", "pid": pids or range(len(first)), "camid": 0, "ap": [1 / rank if rank else None for rank in first], "first_match": first, "inp": 0.5})  # fmt: skip
    queries.to_csv(folder / "per_query.csv.gz", index=False)
    seal(folder / "results.csv", folder / "per_query.csv.gz")
    losses = {
        "epoch": [1, 2],
        "loss": [4.0 + seed, 2.0 + seed],
        "cross_entropy": [3.0, 1.0],
        "triplet": [1.0, 0.5],
        "snr": [0.0, 0.0],
    }
    pd.DataFrame(losses).to_csv(folder / "log.csv", index=False)
    (folder / "recipe.toml").write_text("# a recipe\n")
    return folder


def test_cmc_and_training_curves_worked_by_hand(tmp_path: Path) -> None:
    """Seed 0: ranks 1, 1, 3, 30 of 4 with a match -> 50 %, 75 % to rank 10; seed 1: 1, 2, 2, 2 -> 25 %, 100 %. Loss: 4.5 to 2.5."""
    make_run(tmp_path, first=[1, 1, 3, 30, 0])
    folder = make_run(tmp_path, seed=1, first=[1, 2, 2, 2])
    text = page(tmp_path)
    (cmc,) = labels(text, "CMC")
    assert cmc.endswith("trained on market, measured on duke: SNR 37.5 at rank 1, 87.5 at rank 10")
    assert labels(text, "Training curves, loss") == [
        "Training curves, loss on market, first to last epoch: SNR 4.50 to 2.50"
    ]
    assert not labels(text, "Training curves, SNR loss")  # all zero: the method has none
    assert f"--seed 1 --recipe {folder / 'recipe.toml'}" in text
    assert "so left out" not in text
    assert page(tmp_path) == text  # the same folder gives the same bytes
    (folder / "per_query.csv.gz").unlink()
    assert f"Without per-query numbers, so left out: {folder.name}." in page(tmp_path)


def test_differences_are_drawn_with_the_tables_interval(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        make_run(tmp_path, method="baseline", seed=seed, first=[2, 4, 4, 2, 5, 2])
        make_run(tmp_path, method="snr", seed=seed, first=[1, 2, 2, 1, 3, 1])
    text = page(tmp_path)
    drawn = labels(text, "Bars: mAP above Baseline")
    found = re.search(r"duke: SNR \+(\d+\.\d)(?: †)? \(\+?([−\d.-]+) to \+(\d+\.\d)\)", drawn[-1])
    assert found and float(found[2].replace("−", "-")) < float(found[1]) < float(found[3])
    assert float(found[1]) == pytest.approx(100 * ((1 + 0.5 + 0.5 + 1 + 1 / 3 + 1) - (0.5 + 0.25 + 0.25 + 0.5 + 0.2 + 0.5)) / 6, abs=0.05)  # fmt: skip


# Pictures of `reidgen show`


def draw(folder: Path, kind: str, *, images: bool, content: bytes = PIXEL, **more: Any) -> Path:
    show = folder / "show"
    show.mkdir(exist_ok=True)
    (show / f"{kind}-duke.png").write_bytes(content)
    facts = {"title": f"{kind} title", "alt": f"{kind} alt", "caption": "cap", "images": images, "files": [f"{kind}-duke.png"], "command": "reidgen show", "date": "2026-05-02"}  # fmt: skip
    (show / f"{kind}-duke.json").write_text(json.dumps({**facts, **more}))
    return show / f"{kind}-duke.json"


def untrained(results: Path, *methods: str) -> Path:
    """The folder of the first of these runs, with nothing in it: their numbers stand in rows.csv, and fill few plots."""
    save(results, *(row(method, "market", 0.5) for method in methods))
    folders = [results / "runs" / "market" / f"{method}-tiny-s0-1a2b3c4d" for method in methods]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders[0]


def test_people_are_never_embedded_without_being_asked_for(tmp_path: Path) -> None:
    folder = untrained(tmp_path, "snr")
    draw(folder, "ranks", images=True, content=PIXEL + b"people")
    draw(folder, "gates", images=False)
    people, pixel = (base64.b64encode(content).decode() for content in (PIXEL + b"people", PIXEL))
    without, with_images = page(tmp_path), page(tmp_path, images=True)
    assert people not in without and people in with_images and pixel in without and pixel in with_images
    assert (
        "Ranked lists: 1 picture with images of the data set left out" in without
        and "reidgen report --images" in without
    )
    assert [image["alt"] for image in elements(with_images, "img")] == ["ranks alt", "gates alt"]


def test_plots_stop_at_a_size_and_say_so(tmp_path: Path) -> None:
    folder = untrained(tmp_path, "snr")
    draw(folder, "tsne", images=False, content=PIXEL + bytes(4_000_000))
    draw(folder, "gates", images=False)
    text = page(tmp_path)
    assert len(text) < 5_000_000 and "Features by t-SNE: 1 left out to keep this file small" in text
    assert [image["alt"] for image in elements(text, "img")] == ["gates alt"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"files": ["../../../rows.csv"]}, "names no title, alternative text or file"),
        ({"files": []}, "names no title, alternative text or file"),
        ({"files": ["gone-duke.png"]}, "gone-duke.png is missing or cannot be read; repeat"),
        ({"alt": ""}, "names no title, alternative text or file"),
        ({"files": 3}, "is damaged; remove it and repeat"),
        ({"files": [["gates-duke.png"]]}, "is damaged; remove it and repeat"),
        ({"files": "gates-duke.png"}, "is damaged; remove it and repeat"),
        ({"title": 5}, "is damaged; remove it and repeat"),
        ({"alt": ["a"]}, "is damaged; remove it and repeat"),
        ({"caption": {"a": 1}}, "is damaged; remove it and repeat"),
        ({"date": None}, "is damaged; remove it and repeat"),
        ({"content": b"root:x:0:0"}, "gates-duke.png is no PNG picture; repeat"),
    ],
)
def test_a_damaged_picture_ends_in_one_sentence(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    draw(untrained(tmp_path, "snr"), "gates", images=False, **more)
    with pytest.raises(RunError, match=words):
        make_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_only_plain_files_of_the_run_are_embedded(tmp_path: Path) -> None:
    """A link, of the picture, its facts or their folder, leads out of the run: what it names is not put into the page."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(PIXEL + b"secret")
    folder = untrained(tmp_path, "snr", "baseline")
    picture = draw(folder, "gates", images=False).with_suffix(".png")
    picture.unlink()
    picture.symlink_to(secret)
    other = folder.with_name("baseline-tiny-s0-1a2b3c4d")
    real = draw(other, "tsne", images=False, content=PIXEL + b"secret").parent
    real.rename(tmp_path / "elsewhere")
    real.symlink_to(tmp_path / "elsewhere")
    text = page(tmp_path, images=True)
    assert not elements(text, "img") and base64.b64encode(PIXEL + b"secret").decode() not in text
    for title in ("Channel gates", "Features by t-SNE"):
        assert f"{title}: 1 left out, as links or no plain files of their run" in text


def test_a_run_folder_on_another_disk_may_be_a_link(tmp_path: Path) -> None:
    folder = untrained(tmp_path, "snr")
    draw(folder, "gates", images=False)
    folder.rename(tmp_path / "disk")
    folder.symlink_to(tmp_path / "disk")
    assert len(elements(page(tmp_path), "img")) == 1


@pytest.mark.parametrize(("name", "content"), [("per_query.csv.gz", b"nonsense"), ("per_query.csv.gz", gzip.compress(b"a\n", mtime=0)), ("show/gates-duke.json", b"[]")])  # fmt: skip
def test_a_damaged_file_of_a_run_ends_in_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    folder = make_run(tmp_path, first=[1, 2])
    draw(folder, "gates", images=False)
    (folder / name).write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        make_report(tmp_path)


def test_damaged_logs_cost_their_curves_and_nothing_else(tmp_path: Path) -> None:
    """Of five runs; the last log is a link to nothing."""
    logs = [make_run(tmp_path, seed=seed, first=[1, 2]) / "log.csv" for seed in range(5)]
    for log, content in zip(logs, (b"a,b\n1,2\n", b"", b"epoch,loss\n1,2\n2,", b"epoch,loss\n1,x\n"), strict=False):
        log.write_bytes(content)
    logs[-1].unlink()
    logs[-1].symlink_to(logs[-1])
    text = make_report(tmp_path).read_text()
    for log in logs:
        assert text.count(f"{log} ") == 1
    assert text.count("the weights and results are good") == 5
    assert "remove the folder" not in text and "CMC curves" in text


def test_per_query_numbers_that_are_damaged_are_made_again_without_training(tmp_path: Path) -> None:
    folder = make_run(tmp_path, first=[1, 2])
    (folder / "per_query.csv.gz").write_bytes(b"nonsense")
    with pytest.raises(
        RunError, match=rf"reidgen evaluate {folder} --target duke makes it again \(the weights are good"
    ):
        make_report(tmp_path)


def test_without_rows_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ReidgenError, match="reidgen bench"):
        make_report(tmp_path)


def test_many_rows_give_few_charts(tmp_path: Path) -> None:
    """6 sources, 4 methods, 10 targets: of 66 bar charts the means alone, and the file stays small."""
    targets = ["duke", "cuhk01", "prid", "grid", "viper", "ilids", "pku", "personx", "msmt17-v1", "sensereid"]
    rows = frame(
        *(
            row(f"m{method}", target, 0.3 + method / 50 + place / 100, source=f"s{source}")
            for source in range(6) for method in range(4) for place, target in enumerate(targets)
        )
    )  # fmt: skip
    (tmp_path / "rows.csv").write_text(to_csv(rows))
    text = page(tmp_path)
    assert len(text) < 5_000_000
    assert "Of more than 36 charts" in text
    assert len(labels(text, "Bars")) == 6 and len(labels(text, "Heat map")) == 4


# In a real browser

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def evil_results(results: Path) -> Path:
    """Names that try to break the page, of everything that a user names; two runs with pictures."""
    rows = [row(method, f"{target}{EVIL}", score, commit=EVIL, device=f'"{EVIL}', recipe=EVIL)
            for method, target, score in (("snr", "a", 0.3), (EVIL, "a", 0.4), (EVIL, "b", 0.5), ("baseline", "b", 0.2))]  # fmt: skip
    save(results, *rows)
    folder = make_run(results, method="ibn", first=[1, 2])
    draw(folder, "gates", images=False, title=EVIL, alt=f'"{EVIL}', caption=EVIL, command=EVIL, date=EVIL)
    return make_report(results)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evil_results(tmp_path_factory.mktemp("evil"))


@pytest.fixture(scope="module", params=["reference", "evil"])
def report(request: pytest.FixtureRequest, reference: Path, evil: Path) -> Path:
    return reference if request.param == "reference" else evil


@pytest.fixture(scope="module", params=[(1280, False), (390, True)], ids=["wide-light", "narrow-dark"])
def opened(request: pytest.FixtureRequest, report: Path) -> Iterator[Page]:
    width, dark = request.param
    with Page(width=width, dark=dark) as chromium:
        chromium.open(report)
        yield chromium


@needs_chromium
def test_no_error_and_no_request(opened: Page) -> None:
    assert opened.reported("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    asked = [request["request"]["url"] for request in opened.reported("Network.requestWillBeSent")]
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert opened.run("document.scripts.length") == 1


def test_the_file_names_no_address_on_the_net(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert (
        "http://" not in text
        and "https://" not in text
        and "//" not in re.sub(r"// what is missing.*|base64,[^\"]*", "", text)
    )
    assert len(text.encode()) < 5_000_000


@needs_chromium
def test_no_sideways_scrolling_and_all_is_reachable(opened: Page) -> None:
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    assert opened.run("[...document.querySelectorAll('.scroll')].every(box => box.tabIndex === 0 && box.ariaLabel)")
    assert opened.run(
        "[...document.querySelectorAll('a[href^=\"#\"]')].every(a => document.getElementById(a.hash.slice(1)))"
    )
    assert opened.run("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size === document.querySelectorAll('[id]').length")  # fmt: skip


@needs_chromium
def test_every_picture_has_alternative_text(opened: Page) -> None:
    assert opened.run("document.querySelectorAll('svg').length") > 2
    assert opened.run(
        "[...document.querySelectorAll('svg')].every(s => s.getAttribute('role') === 'img' && s.ariaLabel)"
    )
    assert opened.run("[...document.images].every(i => i.alt && i.complete && i.naturalWidth > 0)")


CONTRAST = """(selector => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * r + .7152 * g + .0722 * b; };
  const [x, y] = [getComputedStyle(document.querySelector(selector)).color, getComputedStyle(document.body).backgroundColor].map(light);
  return (Math.max(x, y) + .05) / (Math.min(x, y) + .05); })"""


@needs_chromium
@pytest.mark.parametrize("selector", ["body", ".soft", "small", "nav a", "main svg text"])
def test_text_is_readable_on_its_ground(opened: Page, selector: str) -> None:
    assert opened.run(f"{CONTRAST}('{selector}')") >= 4.5


@needs_chromium
def test_tables_sort_by_click_and_by_key(reference: Path) -> None:
    cells = pd.read_csv(REFERENCE / "table.csv")
    by_score = list(cells[cells["target"] == "synth-night"].sort_values("mAP", ascending=False)["mAP"])
    with Page() as chromium:
        chromium.open(reference)
        column = (
            "[...document.querySelector('.sortable').tBodies[0].rows].map(r => parseFloat(r.cells[5].dataset.value))"
        )
        states = "[...document.querySelectorAll('.sortable')[0].tHead.rows[0].cells].map(c => c.ariaSort)"
        head = "document.querySelector('.sortable').tHead.rows[0].cells[5].querySelector('button')"
        assert "night" in chromium.run(f"{head}.textContent") and set(chromium.run(states)) == {"none"}
        chromium.run(f"{head}.click()")
        assert chromium.run(column) == by_score and chromium.run(states)[5] == "descending"
        chromium.run(f"{head}.focus()")
        chromium.press("Enter")
        assert chromium.run(column) == by_score[::-1] and chromium.run(states).count("none") == 7
        chromium.run("document.querySelector('.sortable thead button').click()")
        names = chromium.run(
            "[...document.querySelector('.sortable').tBodies[0].rows].map(r => r.cells[0].textContent)"
        )
        assert names == sorted(names) and chromium.run(states)[0] == "ascending"


EIGHT = ["market", "duke", "msmt17-v2", "prid", "grid", "viper", "ilids", "pku", "sensereid"]


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of eight unseen targets and one seen, with marks."""
    from test_significance import simulate

    results = tmp_path_factory.mktemp("eight")
    rows, identities = simulate(
        targets=dict.fromkeys(EIGHT, 1), seeds=3, methods={"baseline": 0.3, "in": 0.31, "snr": 0.6}
    )
    (results / "rows.csv").write_text(to_csv(rows))
    keep_identities(results, identities)
    return make_report(results)


def test_all_panels_of_a_source_have_one_scale(eight: Path) -> None:
    """The x axis of every bar chart of a section ends at the same number at the same place."""
    text = eight.read_text(encoding="utf-8")
    for section in ("scores", "differences"):
        part = text[text.index(f'<section id="{section}"') :].partition("</section>")[0]
        charts = part.split("<svg")[1:]
        ticks = {tuple(re.findall(r">([−\d]+)</text>", chart)) for chart in charts}
        assert len(charts) == 10 and len(ticks) == 1


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_the_mean_stays_in_view_and_marks_shift_no_digit(eight: Path, width: int) -> None:
    with Page(width=width) as chromium:
        chromium.open(eight)
        rows = "[...document.querySelector('#tables table').tBodies[0].rows]"
        heads = chromium.run("[...document.querySelectorAll('#tables thead th')].map(h => h.textContent.trim())")
        assert heads[:2] == ["Method", "mean of unseen"] and len(heads) == 11
        left = f"{rows}.map(r => r.cells[1].getBoundingClientRect().left)"
        before = chromium.run(left)
        chromium.run("document.querySelector('#tables .scroll').scrollLeft = 10000")
        if width < 600:
            assert chromium.run("document.querySelector('#tables .scroll').scrollLeft") > 300
            assert chromium.run(left) == pytest.approx(before, abs=1)
        box = "document.querySelector('#tables .scroll').getBoundingClientRect()"
        assert chromium.run(f"{rows}.every(r => r.cells[1].getBoundingClientRect().left >= {box}.left)")
        assert chromium.run(f"{rows}.every(r => r.cells[1].getBoundingClientRect().right <= {box}.right)")
        assert chromium.run("document.querySelectorAll('#tables td sup').length") > 5
        right = "r.cells[1].querySelector('small').getBoundingClientRect().right"
        assert len(set(chromium.run(f"{rows}.map(r => Math.round({right}))"))) == 1  # with and without a mark


@needs_chromium
def test_missing_numbers_stay_below_and_a_number_marks_its_runs(evil: Path) -> None:
    with Page() as chromium:
        chromium.open(evil)
        heads = chromium.run("[...document.querySelector('.sortable').tHead.rows[0].cells].map(c => c.textContent)")
        column = heads.index(f"b{EVIL}")
        last = "[...document.querySelector('.sortable').tBodies[0].rows].at(-1)"
        for _ in range(2):
            chromium.run(f"document.querySelectorAll('.sortable thead button')[{column}].click()")
            assert chromium.run(f"{last}.cells[{column}].textContent") == "–"
        chromium.run("document.querySelector('td a').click()")
        chromium.run("new Promise(done => setTimeout(done, 50))")
        marked = chromium.run("[...document.querySelectorAll('tr.on')].map(r => r.dataset.group)")
        assert len(marked) == 1 and f"#{chromium.run('document.querySelector(`tr.on`).id')}" == chromium.run(
            "location.hash"
        )


# Thirty methods


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of all shipped methods and one that nobody knows, on two unseen targets."""
    names = [*METHODS, "mine"]
    rows = [row(m, t, 0.2 + n / 100 + x) for n, m in enumerate(names) for t, x in (("duke", 0), ("viper", 0.1))]
    return make_report(save(tmp_path_factory.mktemp("thirty"), *rows))


def test_a_block_without_baseline_begins_with_its_groups_name(tmp_path: Path) -> None:
    rows = [row(method, "duke", 0.3) for method in ("snr", "mixstyle")]
    rows += [{**row("baseline", "duke", 0.2), "source": "msmt17"}]
    text = make_report(save(tmp_path, *rows)).read_text(encoding="utf-8")
    body = text[text.index('<section id="tables"') :].partition("</section>")[0]
    assert re.findall(r'<tr class="group" data-of="(\w+)">', body) == ["normalization", "mixing"]


def test_groups_and_published_numbers_stand_in_the_page(thirty: Path, reference: Path) -> None:
    text = thirty.read_text(encoding="utf-8")
    body = text[text.index('<section id="tables"') :].partition("</section>")[0]
    heads = re.findall(r'<tr class="group" data-of="(\w+)"><th scope="rowgroup" colspan="4">', body)
    assert heads == [*GROUPS, "other"] and len(elements(body, "tr")) == 1 + 4 + len(METHODS) + 1
    part = text[text.index('<section id="literature"') :].partition("</section>")[0]
    assert "MUVA, arXiv 2603.14012 [N]" in part and "PAT: evaluated on the target during training" in part
    assert "sortable" not in part and "aria-sort" not in part and "<b>" not in part
    plain = reference.read_text(encoding="utf-8")  # six methods of one group, on sets that nobody published about
    assert 'id="literature"' not in plain and 'id="group"' not in plain and 'class="group"' not in plain


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_the_groups_filter_by_key_and_go_where_numbers_sort(thirty: Path, width: int) -> None:
    with Page(width=width) as chromium:
        chromium.open(thirty)
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
        rows = "[...document.querySelectorAll('#tables tbody tr')].filter(r => r.checkVisibility())"
        names = f"{rows}.map(r => r.cells[0].textContent)"
        everything = chromium.run(names)
        assert len(everything) == len(METHODS) + 1 + 4 and everything[:2] == ["Baseline", "normalization"]
        chromium.run("document.getElementById('group').focus()")
        chromium.press("ArrowDown")
        chromium.press("ArrowDown")
        assert chromium.run("document.getElementById('group').value") == "mixing"
        mixing = [method.title for method in METHODS.values() if method.group == "mixing"]
        assert chromium.run(names) == ["Baseline", "mixing", *mixing]
        chromium.run("document.querySelectorAll('#tables thead button')[1].focus()")
        chromium.press("Enter")
        assert chromium.run(names) == [*mixing[::-1], "Baseline"]  # by the mean, downwards; no name of a group left
        chromium.run("document.getElementById('group').focus()")
        chromium.press("ArrowUp")
        chromium.press("ArrowUp")
        assert chromium.run(f"{rows}.length") == len(METHODS) + 1
        scores = chromium.run(f"{rows}.map(r => parseFloat(r.cells[1].dataset.value))")
        assert scores == sorted(scores, reverse=True)
        for _ in range(2):  # upwards, and as it was, with the names of groups
            chromium.run("document.querySelectorAll('#tables thead button')[1].click()")
        assert chromium.run(names) == everything
        assert chromium.reported("Runtime.exceptionThrown") == []


def test_of_many_methods_curves_have_eight(tmp_path: Path) -> None:
    """Baseline, SNR and the six best by the mean of unseen, in the table's order; of eight or fewer all."""
    names = list(METHODS)
    cells = make_table(frame(*(row(m, "duke", 0.2 + n / 100) for n, m in enumerate(names)))).cells
    assert for_curves(cells) == [METHODS[m].title for m in ("baseline", "snr", *names[-6:])]
    assert for_curves(cells[cells["method"].isin(names[:8])]) == [METHODS[m].title for m in names[:8]]
    bn = [row(m, "duke", 0.9 - n / 100, test="bn") for n, m in enumerate(names)]  # the other way round
    both = make_table(frame(*bn, *(row(m, "duke", 0.2 + n / 100) for n, m in enumerate(names)))).cells
    assert for_curves(both) == for_curves(cells)
    for number, method in enumerate(names[:10]):
        make_run(tmp_path, method=method, first=[1, 2, number + 1])
    text = page(tmp_path)
    (cmc,) = labels(text, "CMC")
    drawn = [METHODS[m].title for m in names[:8]]  # the higher the number, the lower the mAP
    assert cmc.count("at rank 10") == 8 and all(title in cmc for title in drawn)
    assert text.count("Of many methods, Baseline, SNR and those with the highest mean of unseen are drawn.") == 2
    legend = text[text.index('<ul class="legend"') :].partition("</ul>")[0]
    assert legend.count("<li>") == 8 and len(set(re.findall(r"border-color: (#\w+)", legend))) == 8


def test_a_picture_and_its_words_are_those_that_were_written(tmp_path: Path) -> None:
    """A caption names numbers, and so does an SVG; files of reidgen 0.1.0 hold no digest."""
    folder = untrained(tmp_path, "snr")
    about = draw(folder, "tsne", images=False)
    facts = json.loads(about.read_text()) | {"digests": {"tsne-duke.png": hashlib.sha256(PIXEL).hexdigest()}}
    about.write_text(json.dumps(with_check(facts)))
    assert "tsne title" in page(tmp_path)
    about.write_text(about.read_text().replace('"cap"', '"cop"'))
    with pytest.raises(RunError, match=r"tsne-duke\.json is damaged; remove it and repeat"):
        page(tmp_path)
    about.write_text(json.dumps(facts))  # the check is lost, though it has been written
    with pytest.raises(RunError, match=r"tsne-duke\.json is damaged; remove it and repeat"):
        page(tmp_path)
    about.write_text(json.dumps(with_check(facts)))
    (folder / "show" / "tsne-duke.png").write_bytes(PIXEL + b"x")
    with pytest.raises(RunError, match=r"tsne-duke\.png is not the picture that was drawn; repeat"):
        page(tmp_path)
