"""The comparison table against numbers worked by hand, numpy, and one golden Markdown file."""

import io
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from reidgen.errors import ReidgenError
from reidgen.methods import METHODS
from reidgen.runs import ADDED, COLUMNS, to_csv
from reidgen.tables import compare, looks
from reidgen.tables.compare import MEAN, make_table

GOLDEN = Path(__file__).parent / "golden" / "table.md"
PAPER = pd.read_csv(Path(compare.__file__).with_name("paper_tables.csv"))
SCORES = {"mAP": 0.3, "rank1": 0.5, "rank5": 0.6, "rank10": 0.7, "mINP": 0.1}
MADE = {
    "backbone": "tiny", "queries": 100, "gallery": 400, "unmatched": 0, "recipe": "quick", "hash": "1a2b3c4d5e6f7788",
    "data": "aaaa1111", "source_data": "bbbb2222", "version": "0.1.0", "commit": "abc1234", "torch": "2.9.1",
    "device": "cpu", "dtype": "float32", "date": "2026-05-01T10:00:00", **ADDED,
}  # fmt: skip


def row(
    method: str, target: str, *, source: str = "market", seed: int = 0, split: int = 0, **more: Any
) -> dict[str, Any]:
    place = {"source": source, "target": target, "seen": int(target in source.split("+")), "split": split}
    return {**place, "method": method, "seed": seed, **SCORES, **MADE, **more}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(COLUMNS)


def cell(table: compare.Table, method: str, target: str, source: str = "market") -> pd.Series:
    cells = table.cells
    found = cells[(cells["source"] == source) & (cells["method"] == method) & (cells["target"] == target)]
    assert len(found) == 1
    return found.iloc[0]


def line(markdown: str, start: str, nth: int = 0) -> list[str]:
    """The cells of the nth Markdown line whose first cell is `start`."""
    lines = [[part.strip() for part in text[2:-2].split(" | ")] for text in markdown.splitlines()]
    return [parts for parts in lines if parts[0] == start][nth]


def screen(table: compare.Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(table.rich())
    return capture.get()


def small() -> pd.DataFrame:
    """Two methods, two seeds, two sources; viper over two splits, duke lacks one seed of snr, one row made otherwise."""
    rows = [
        row(method, target, seed=seed, split=split, mAP=mAP + 0.04 * seed + 0.02 * split, rank1=mAP + 0.08)
        for method, plus in (("snr", 0.1), ("baseline", 0.0))
        for target, mAP, splits in (("market", 0.8 + plus, 1), ("duke", 0.2 + plus, 1), ("viper", 0.3 + plus, 2))
        for seed in (0, 1)
        for split in range(splits)
        if (method, target, seed) != ("snr", "duke", 1)
    ]
    rows += [row("baseline", target, source="synth-plaza") for target in ("synth-plaza", "viper", "duke")]
    rows += [row("my|norm", "market", date="2026-05-03T10:00:00"), row("snr", "grid", hash="ffff0000", date="2026-06")]
    return frame(*rows)


def test_mean_over_splits_then_seeds_worked_by_hand() -> None:
    """Seed 0: splits .20, .30 -> .25; seed 1: .30, .50 -> .40. Mean .325, std .15/sqrt(2) = .106066 (ddof 1).

    Over splits: .10/sqrt(2) = .070711 and .20/sqrt(2) = .141421, mean .106066.
    """
    scores = {(0, 0): 0.2, (0, 1): 0.3, (1, 0): 0.3, (1, 1): 0.5}
    rows = frame(*(row("snr", "viper", seed=seed, split=split, mAP=mAP) for (seed, split), mAP in scores.items()))
    found = cell(make_table(rows), "snr", "viper")
    assert found[["seen", "seeds", "splits"]].tolist() == [0, 2, 2]
    assert found["mAP"] == 32.5
    assert found["mAP_std_seeds"] == 10.606602
    assert found["mAP_std_splits"] == 10.606602
    assert found[["rank1", "rank1_std_seeds"]].tolist() == [50, 0]


def test_numbers_against_numpy_and_rows_not_modified() -> None:
    score = np.random.default_rng(0).uniform(size=(2, 3, 4, 5))  # target, seed, split, metric
    targets = ("duke", "viper")
    rows = frame(
        *(
            row("snr", target, seed=seed, split=split, **dict(zip(compare.METRICS, score[t, seed, split], strict=True)))
            for t, target in enumerate(targets)
            for seed in range(3)
            for split in range(4)
        )
    ).sample(frac=1, random_state=0)
    before = rows.copy()
    table = make_table(rows)
    pd.testing.assert_frame_equal(rows, before)
    for m, metric in enumerate(compare.METRICS):
        runs = 100 * score[..., m].mean(2)
        for t, target in enumerate(targets):
            found = cell(table, "snr", target)
            splits = 100 * score[t, :, :, m].std(1, ddof=1).mean()
            expected = [runs[t].mean(), runs[t].std(ddof=1), splits]
            assert found[[metric, f"{metric}_std_seeds", f"{metric}_std_splits"]].tolist() == pytest.approx(
                expected, abs=1e-6
            )
        mean = cell(table, "snr", MEAN)
        expected = [runs.mean(), runs.mean(0).std(ddof=1)]
        assert mean[[metric, f"{metric}_std_seeds"]].tolist() == pytest.approx(expected, abs=1e-6)
    assert mean["splits"] == 8


def test_one_seed_has_no_spread() -> None:
    table = make_table(frame(row("snr", "duke")))
    assert "±" not in table.markdown() + screen(table, 100) and "pm" not in table.latex()
    assert line(table.markdown(), "SNR") == ["SNR", "30.0 / 50.0", "30.0 / 50.0"]


def test_best_bold_second_underlined_ties_share() -> None:
    scores = {"baseline": 0.3001, "ibn": 0.2, "in": 0.3004, "snr": 0.25}  # .3001 and .3004 both print 30.0
    text = make_table(frame(*(row(name, "duke", mAP=mAP) for name, mAP in scores.items()))).markdown()
    assert line(text, "Baseline")[1] == line(text, "Baseline-IN")[1] == "**30.0** / **50.0**"
    assert line(text, "SNR")[1] == "<ins>25.0</ins> / **50.0**"
    assert line(text, "Baseline-IBN")[1] == "20.0 / **50.0**"


def test_marks_are_per_source_and_need_two_methods() -> None:
    rows = [row("baseline", "viper", mAP=0.5), row("snr", "viper", mAP=0.4), row("snr", "grid")]
    text = make_table(frame(*rows, row("snr", "viper", source="duke", mAP=0.1))).markdown()
    assert line(text, "Baseline")[2] == "**50.0** / **50.0**"
    assert line(text, "SNR")[1:3] == ["30.0 / 50.0", "<ins>40.0</ins> / **50.0**"]  # nothing to compare with on grid
    assert line(text, "SNR", 1)[2] == "10.0 / 50.0"


def test_seen_targets_are_marked_and_not_in_the_mean() -> None:
    rows = [row("snr", "market", mAP=0.9), row("snr", "duke", mAP=0.2), row("snr", "viper", mAP=0.4)]
    rows += [row("snr", "market", source="duke"), row("snr", "duke", source="duke", mAP=0.8)]
    table = make_table(frame(*rows))
    assert line(table.markdown(), "**Source: market**") == ["**Source: market**", "*seen*", "", "", ""]
    assert line(table.markdown(), "**Source: duke**") == ["**Source: duke**", "", "*seen*", "", ""]
    assert cell(table, "snr", MEAN)["mAP"] == 30
    assert cell(table, "snr", MEAN, "duke")["mAP"] == 30
    assert table.latex().count(r"\emph{seen}") == screen(table, 100).count("(seen)") == 2


def test_a_method_without_all_unseen_targets_has_no_mean() -> None:
    rows = [row("baseline", "duke"), row("baseline", "grid"), row("baseline", "viper"), row("snr", "duke")]
    table = make_table(frame(*rows))
    assert line(table.markdown(), "SNR")[2:] == ["–", "–", "–"]
    assert line(table.markdown(), "Baseline")[4] == "30.0 / 50.0"
    assert table.notes == ["market: snr has no mean of unseen, as it has no grid, viper (run: reidgen bench)"]


def test_the_mean_is_over_seeds_that_have_all_targets() -> None:
    rows = [row("snr", "duke", mAP=0.2), row("snr", "viper", mAP=0.4), row("snr", "duke", seed=1, mAP=0.8)]
    table = make_table(frame(*rows))
    assert cell(table, "snr", MEAN)[["mAP", "seeds"]].tolist() == [30, 1]
    assert cell(table, "snr", "duke")["mAP"] == 50
    assert len(table.notes) == 1 and "snr on " in table.notes[0]


def test_order_of_sources_methods_and_targets() -> None:
    targets = ["zoo", "viper", "arena", "ilids", "market"]
    rows = [
        row(m, t, source=s) for s in ("synth-a", "my", "duke", "market") for m in ("new", "snr", "ibn") for t in targets
    ]
    cells = make_table(frame(*rows)).cells
    assert list(cells["source"].unique()) == ["market", "duke", "my", "synth-a"]
    assert list(cells["method"].unique()) == ["ibn", "snr", "new"]
    assert list(cells["target"].unique()) == ["market", "viper", "ilids", "arena", "zoo", MEAN]


@pytest.mark.parametrize("column", ["hash", "backbone", "version", "source_data"])
def test_rows_made_otherwise_are_left_out(column: str) -> None:
    rows = [row("snr", "duke"), row("baseline", "duke"), row("snr", "duke", mAP=0.9, **{column: "other"})]
    rows += [row("snr", "duke", source="duke", **{column: "other"})]  # another source chooses for itself
    table = make_table(frame(*rows))
    assert cell(table, "snr", "duke")["mAP"] == 30
    assert len(table.notes) == 1
    assert (
        table.notes[0].startswith("market: 1 row left out, made otherwise: recipe quick@") and "other" in table.notes[0]
    )
    assert cell(table, "snr", "duke", "duke")["mAP"] == 30


def test_of_equally_many_rows_the_latest_count() -> None:
    old, new = row("snr", "duke"), row("snr", "duke", mAP=0.9, hash="0000", date="2026-05-02T10:00:00")
    assert cell(make_table(frame(new, old)), "snr", "duke")["mAP"] == 90


def test_other_data_and_repeated_rows_are_left_out() -> None:
    rows = [
        row("snr", "duke"),
        row("in", "duke"),
        row("ibn", "duke", data="cccc3333"),
        row("snr", "duke", mAP=0.4, date="2026-07"),
    ]
    table = make_table(frame(*rows))
    assert cell(table, "snr", "duke")["mAP"] == 40
    assert table.notes == [
        "1 row left out, repeated by a later one",
        "duke: 1 row left out, measured on another version of it: cccc3333",
    ]


def test_notes_name_unlike_seeds_splits_and_unmatched_queries() -> None:
    rows = [row(m, t, seed=seed) for m in ("baseline", "in", "snr") for t in ("duke", "grid") for seed in range(3)]
    rows = [
        r
        for r in rows
        if (r["method"], r["seed"]) != ("snr", 2) and (r["method"], r["target"], r["seed"]) != ("in", "grid", 0)
    ]
    rows += [
        row(m, "viper", split=split, unmatched=split, seed=s)
        for m, n in (("in", 3), ("snr", 2))
        for split in range(n)
        for s in (0, 1)
    ]
    rows += [row("baseline", "viper", split=split, seed=s) for split in range(3) for s in (0, 1)]
    notes = make_table(frame(*rows)).notes
    assert notes == [
        "market: seeds 0, 1, but baseline on duke has 0, 1, 2; baseline on grid has 0, 1, 2; in on duke has 0, 1, 2; in on grid has 1, 2",
        "market on viper: 2 of 6 runs have fewer than 3 splits",
        "viper: 3 queries without a match do not count",
    ]


def test_a_method_with_fewer_seeds_everywhere_is_named_once() -> None:
    rows = [
        row(m, t, seed=s)
        for m, n in (("baseline", 12), ("in", 12), ("snr", 2))
        for t in ("duke", "grid")
        for s in range(n)
    ]
    assert make_table(frame(*rows)).notes == ["market: seeds 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, but snr has 0, 1"]


def test_paper_numbers_are_those_of_the_file() -> None:
    main = PAPER[PAPER["table"] == "main"]
    rows = [
        row(r.method, r.target, source=r.source, mAP=0.25, rank1=0.5, backbone="resnet50") for r in main.itertuples()
    ]
    table = make_table(frame(*rows), paper=True)
    assert len(table.cells) == len(main) + len(main.drop_duplicates(["source", "method"]))
    for r in main.itertuples():
        found = cell(table, r.method, r.target, r.source)
        assert found[["paper_mAP", "paper_rank1"]].tolist() == [r.map, r.rank1]
        assert found[["diff_mAP", "diff_rank1"]].tolist() == pytest.approx([25 - r.map, 50 - r.rank1])
    # SNR from Market, unseen: (33.6 + 42.2 + 36.7 + 42.3 + 65.6) / 5 = 44.08
    assert cell(table, "snr", MEAN)["paper_mAP"] == 44.08
    text = table.markdown()
    assert line(text, "*paper (difference)*", 0)[2] == "19.8 (+5.2) / 35.3 (+14.7)"
    assert line(text, "*paper (difference)*", 5)[2] == "33.6 (−8.6) / 55.1 (−5.1)"
    assert table.notes == ["the paper's mean of unseen is taken here, over the same targets as ours"]


def test_paper_invents_nothing() -> None:
    rows = [row("snr", "duke"), row("snr", "my-set"), row("snr-conv", "duke"), row("snr", "duke", source="synth-plaza")]
    table = make_table(frame(*rows), paper=True)
    assert table.cells["paper_mAP"].dropna().tolist() == [29.7, 33.6]  # snr-conv stands in the design table
    text = table.markdown()
    assert text.count("*paper (difference)*") == 2 and line(text, "*paper (difference)*")[2:] == ["–", "–"]
    assert "synth-plaza: the paper has no numbers for this source" in table.notes
    assert "the paper's numbers are of resnet50, ours of tiny" in table.notes
    assert make_table(frame(*rows)).cells["paper_mAP"].isna().all()


def test_difference_of_nothing_has_no_sign() -> None:
    rows = [row("baseline", "duke", mAP=0.19799, rank1=0.35301)]
    assert line(make_table(frame(*rows), paper=True).markdown(), "*paper (difference)*")[1] == "19.8 (0.0) / 35.3 (0.0)"


@pytest.mark.parametrize("paper", [False, True])
def test_csv_reads_back_to_the_same_frame(paper: bool) -> None:
    rows = small()
    rows["mAP"] = np.random.default_rng(1).uniform(size=len(rows))
    table = make_table(rows.assign(hash=rows["hash"].replace("1a2b3c4d5e6f7788", "1234567890")), paper=paper)
    assert list(table.cells.columns) == compare.COLUMNS
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(table.csv())), table.cells, check_exact=True)


@pytest.mark.parametrize("paper", [False, True])
def test_latex_is_balanced_and_escaped(paper: bool) -> None:
    rows = pd.concat([small(), frame(row("a_b%&#", "duke", date="2026-05-01T10:00:00"))])
    text = make_table(rows, paper=paper).latex()
    assert text.startswith(
        "% \\input this file into a document with \\usepackage{booktabs,graphicx}"
    ) and "_b" not in text.replace(r"\_b", "")
    assert r"a\_b\%\&\# & " in text and r"\textbf{" in text and r"\underline{" in text and text.isascii()
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    body = [part for part in text.splitlines() if part.endswith(r" \\")]
    columns = len(re.search(r"begin{tabular}{(l[r]+)}", text)[1])  # type: ignore[index]
    assert columns == 1 + 2 * 5  # market, duke, viper, synth-plaza, mean
    spans = [sum(map(int, re.findall(r"multicolumn{(\d)}", part))) - part.count("multicolumn") for part in body]
    assert {re.sub(r"\\&", "", part).count("&") + 1 + span for part, span in zip(body, spans, strict=True)} == {columns}
    assert re.findall(r"\\(?:top|mid|bottom)rule", text) == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    for environment in ("table*", "tabular", "minipage"):  # and \\begin{document} of the file compiled by itself
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_shown(method: str) -> None:
    table = make_table(frame(row(method, "duke"), row("baseline", "grid")), paper=True)
    title = METHODS[method].title
    assert f"| {title.replace('_', chr(92) + '_')} | " in table.markdown()
    assert f"{title.replace('_', chr(92) + '_')} & " in table.latex()
    assert f" {title} " in screen(table, 100)


def test_terminal_fits_and_says_everything() -> None:
    places = ["synth-" + name for name in ("plaza", "underpass", "dusk", "snow", "lobby", "neon")]
    rows = [
        row(m, t, source="synth-plaza", seed=s, mAP=0.3 + s / 100)
        for m in ("a-sn", "snr")
        for t in places
        for s in (0, 1)
    ]
    table = make_table(frame(*rows))
    for width in (200, 160, 100, 80, 40):
        text = screen(table, width)
        assert max(map(len, text.splitlines())) <= width
        assert text.count("30.5") == 2 * 7 and "…" not in text  # every cell, at any width
        assert ("30.5 ±0.7" in text) == (width in (200, 160, 100, 40))
    assert "synth-dusk" not in table.markdown() and "| dusk | " in table.markdown()


def test_caption_says_where_the_numbers_come_from() -> None:
    rows = [row("snr", "duke", seed=10, device="cuda", date="2026-05-07T01:00:00"), row("snr", "duke", seed=9)]
    assert make_table(frame(*rows)).caption == (
        "market: recipe quick@1a2b3c4d, backbone tiny, reidgen 0.1.0; seeds 9, 10; dtype float32; device cpu, cuda; torch 2.9.1; "
        "commit abc1234; 2026-05-01 to 2026-05-07"
    )
    both = make_table(frame(*rows, row("snr", "duke", source="duke", hash="99"))).caption
    assert both.startswith("market: recipe quick@1a2b") and "; duke: recipe quick@99, " in both


def test_no_rows_is_an_error_that_says_what_to_run() -> None:
    with pytest.raises(ReidgenError, match="no results yet; run: reidgen bench"):
        make_table(frame())


def test_golden_markdown() -> None:
    """The whole table equals tests/golden/table.md. To renew it (then read the difference):

    python -c "import tests.test_tables as t; t.GOLDEN.write_text(t.make_table(t.small(), paper=True).markdown())"
    """
    assert make_table(small(), paper=True).markdown() == GOLDEN.read_text(encoding="utf-8")


def of_paper(name: str, **more: Any) -> pd.DataFrame:
    """One row of ours for each number of a table of the paper, and one on a target it does not have."""
    own = PAPER[PAPER["table"] == name]
    rows = [
        row(r.method, r.target, source=r.source, mAP=r.map / 100, rank1=r.rank1 / 100, **more) for r in own.itertuples()
    ]
    return frame(*rows, *(row(m, "pku", source=s) for m, s in set(zip(own["method"], own["source"], strict=True))))


@pytest.mark.parametrize("name", compare.TABLES)
def test_named_tables_show_what_the_paper_shows_and_equal_it(name: str) -> None:
    other = [row("my-norm", "duke"), row("snr-conv" if name != "design" else "ibn", "duke")]
    table = make_table(pd.concat([of_paper(name), frame(*other)]), name=name, paper=True)
    own = PAPER[PAPER["table"] == name]
    cells = table.cells[table.cells["target"] != MEAN]
    assert set(zip(*(cells[key] for key in compare.CELL), strict=True)) == set(
        zip(*(own[key] for key in compare.CELL), strict=True)
    )
    assert (cells["diff_mAP"].abs() < 1e-6).all() and (cells["diff_rank1"].abs() < 1e-6).all()
    assert not [note for note in table.notes if " yet (run: " in note]


def test_ablations_are_laid_out_as_in_the_paper() -> None:
    """One block, a column for each source and its only target, and no mean of one."""
    text = make_table(of_paper("loss"), name="loss").markdown().splitlines()
    assert text[0] == "| Method | market → duke | duke → market |"
    assert [line.split(" | ")[0] for line in text[2:7]] == [
        "| Baseline", "| SNR w/o L\\_SNR", "| SNR w/o L+", "| SNR w/o L-", "| SNR",
    ]  # fmt: skip
    assert text[6] == "| SNR | **33.6** / **55.1** | **33.9** / **66.7** |"
    main = make_table(of_paper("main"), name="main").markdown()
    assert main.startswith("| Method | market | duke | prid | grid | viper | ilids | mean of unseen |")
    assert "**Source: market+duke+cuhk03+msmt17**" in main
    assert r"market $\to$ duke" in make_table(of_paper("loss"), name="loss").latex()


@pytest.mark.parametrize("name", compare.TABLES)
def test_a_source_that_the_paper_does_not_have_keeps_all_its_targets(name: str) -> None:
    rows = [row(m, t, source="synth-plaza") for m in ("baseline", "snr") for t in ("synth-plaza", "synth-mall", "pku")]
    rows += [row("snr", "market"), row("snr", "pku")]  # of the paper's targets only the seen one
    table = make_table(frame(*rows), name=name)
    assert set(table.cells["target"][table.cells["source"] == "synth-plaza"]) == {
        "synth-plaza",
        "synth-mall",
        "pku",
        MEAN,
    }
    assert set(table.cells["target"][table.cells["source"] == "market"]) == {"market", "pku", MEAN}
    lacking = [
        note
        for note in table.notes
        if note.endswith(f"(run: reidgen bench --source synth-plaza --methods {name}, with this recipe)")
    ]
    assert len(lacking) == 1 and ("snr-no-loss" in lacking[0]) == (name == "loss")


def test_sets_of_the_papers_families_stand_beside_its_numbers() -> None:
    rows = [row("snr", "duke", source="duke+market+msmt17-v2+cuhk03-np-detected", seen=1, mAP=0.5)]
    rows += [row("snr", "duke", source="market-all", mAP=0.5)]  # trained on more than the paper's: not its number
    table = make_table(frame(*rows), name="main", paper=True)
    assert table.cells["paper_mAP"].dropna().tolist() == [73.2]
    assert "beside the paper's numbers for the family: duke+market+msmt17-v2+cuhk03-np-detected" in table.notes
    assert "market-all: the paper has no numbers for this source" in table.notes


@pytest.mark.parametrize(
    ("rows", "asked", "says"),
    [
        ([], {"name": "loss"}, "there are no results yet; run: reidgen bench --methods loss"),
        ([row("ibn", "duke")], {"name": "stage"}, "no results for the table stage yet; run: reidgen bench --methods stage"),
        ([row("ibn", "duke")], {"name": "stages"}, "unknown table 'stages'; did you mean 'stage'"),
        ([row("ibn", "duke")], {"against": "snrr"}, "unknown method 'snrr'; did you mean 'snr'"),
        ([row("ibn", "duke")], {"against": "snr"}, "no rows of snr to compare with; run: reidgen bench --methods snr"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_sentence(rows: list[dict[str, Any]], asked: dict[str, str], says: str) -> None:
    with pytest.raises(ReidgenError, match=says):
        make_table(frame(*rows), **asked)  # type: ignore[arg-type]


def compared(seeds: int, *, targets: int = 4, people: int = 40) -> tuple[pd.DataFrame, pd.DataFrame]:
    from test_significance import simulate

    methods = {"baseline": 0.3, "in": 0.3, "ibn": 0.4, "snr": 0.6}
    return simulate(
        targets={f"synth-{t}": 1 for t in "abcdefghijkl"[:targets]}, seeds=seeds, methods=methods, people=people
    )


@pytest.mark.parametrize(
    ("seeds", "covers", "mark"),
    [(1, "query identities only, as there is one seed", "‡"), (5, "query identities and seeds", "†")],
)
def test_marks_findings_and_what_the_interval_covers(seeds: int, covers: str, mark: str) -> None:
    rows, identities = compared(seeds)
    table = make_table(rows, identities=identities)
    snr, same = line(table.markdown(), "SNR")[1:], line(table.markdown(), "Baseline-IN")[1:]
    assert all(part.count(mark) == 2 for part in snr)
    assert seeds == 1 or not any(mark in part for part in same)  # one seed cannot tell luck of a run from merit
    assert f"intervals cover {covers}; not other galleries, cameras or targets" in table.findings
    assert re.search(
        rf"market, mean of unseen: mAP minus Baseline's, .*: .* SNR \+\d\d.\d \[\+.*\]{mark}$", table.findings[0]
    )
    ranks = table.cells.set_index(["method", "target"])["average_rank"]
    assert ranks["snr", MEAN] == 1 and ranks.dropna().size == 4
    assert any("average rank by mAP over 4 unseen targets: SNR 1.0, " in found for found in table.findings)
    assert f"{mark}: differs from Baseline (p \\< 0.05 after Holm's correction" in table.markdown()
    assert "†‡".replace(mark, "") not in table.markdown()
    assert mark in screen(table, 100) and {"†": r"$^\dagger$", "‡": r"$^\ddagger$"}[mark] in table.latex()
    assert table.latex().isascii()
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(table.csv())), table.cells, check_exact=True)


def test_one_seed_and_several_have_marks_of_their_own() -> None:
    rows, identities = compared(3)
    one = rows[(rows["method"] != "ibn") | (rows["seed"] == 0)]
    table = make_table(one, identities=identities)
    assert "‡" in "".join(line(table.markdown(), "Baseline-IBN")) and "†" in "".join(line(table.markdown(), "SNR"))
    assert "of one seed, whose luck is not counted" in table.markdown()


def test_a_difference_is_the_same_in_every_table() -> None:
    """The interval of SNR minus Baseline learns of seeds from methods that the named table leaves out."""
    rows, identities = compared(3)
    keys, gains = ["method", "target"], ["gain_mAP", "gain_mAP_low", "gain_mAP_high", "gain_mAP_p"]
    whole = make_table(rows, identities=identities).cells.set_index(keys)[gains]
    loss = make_table(rows, name="loss", identities=identities).cells.set_index(keys)[gains]
    assert 0 < len(loss) < len(whole)
    pd.testing.assert_frame_equal(loss, whole.loc[loss.index])


def test_holm_is_over_all_differences_of_the_table() -> None:
    cells = make_table(compared(2)[0], identities=compared(2)[1]).cells
    p, corrected = (cells[[f"gain_{m}_{part}" for m in ("mAP", "rank1")]].to_numpy().ravel() for part in ("p", "holm"))
    known = np.isfinite(p)
    assert known.sum() == 3 * 5 * 2
    order = np.argsort(p[known])
    assert corrected[known][order][0] == pytest.approx(min(1, 30 * p[known][order][0]), abs=2e-5)
    assert (np.diff(corrected[known][order]) >= 0).all() and np.isnan(corrected[~known]).all()


def test_against_another_method_and_without_its_numbers() -> None:
    rows, identities = compared(2)
    other = make_table(rows, identities=identities, against="snr")
    assert cell(other, "baseline", MEAN)["gain_mAP"] < 0 and "differs from SNR" in other.markdown()
    lost = make_table(rows, identities=identities[~identities["run"].str.contains("/in-")])
    assert sum("no interval for 5 of 15 differences" in found for found in lost.findings) == 1
    assert not make_table(rows).findings[0].startswith("no interval")  # nobody asked


TEX = shutil.which("pdflatex")


@pytest.mark.skipif(TEX is None, reason="needs pdflatex")
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", ["small", "wide", "long", "loss"])
def test_latex_compiles_and_fits_the_page(name: str, alone: bool, tmp_path: Path) -> None:
    if name == "small":
        odd = row("a_b%&#$~^{}\\<|>", "duke", source="a|b<c>", date="2026-05-01T10:00:00")
        table = make_table(pd.concat([small(), frame(odd)]), paper=True)
    elif name == "wide":
        table = make_table(compared(2, targets=12)[0], identities=compared(2, targets=12)[1])
    elif name == "long":
        rows = [
            row(m, t, source=s) for m in METHODS for t in PAPER["target"].unique() for s in ("market", "duke", "c", "d")
        ]
        table = make_table(frame(*rows), paper=True)
    else:
        table = make_table(of_paper("loss"), name="loss", paper=True)
    file = tmp_path / "table.tex"
    file.write_text(table.latex())
    if not alone:
        head = r"\documentclass[twocolumn]{article}\usepackage{booktabs,graphicx}\begin{document}"
        file = tmp_path / "paper.tex"
        file.write_text(head + r"A paper.\input{table.tex}And its end.\end{document}")
    done = subprocess.run(
        [str(TEX), "-interaction=nonstopmode", "-halt-on-error", file.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    log = file.with_suffix(".log").read_text(errors="replace")
    assert "Overfull" not in log and "Float too large" not in log and "Missing character" not in log


def test_one_hundred_methods_and_fifty_targets_are_cut_into_pages() -> None:
    rows = [row(f"m{m}", f"t{t}") for m in range(100) for t in range(50)]
    text = make_table(frame(*rows)).latex()
    bodies = re.findall(r"\\begin{tabular}(.*?)\\end{tabular}", text, flags=re.DOTALL)
    assert all(
        body.count(r"\\") <= looks.PAGE_LINES + 2 and body.count("cmidrule") <= looks.PAGE_COLUMNS for body in bodies
    )
    assert sum(body.count("\nm") for body in bodies) == 100 * 8 and text.count("table*") == 2 * text.count("caption")


def test_ten_thousand_rows_in_under_three_seconds() -> None:
    rows = [
        row(method, f"t{target}", seed=seed, split=split, source=f"s{source}")
        for method in METHODS for source in range(3) for target in range(7) for seed in range(4) for split in range(8)
    ]  # fmt: skip
    rows = frame(*rows)
    assert len(rows) >= 10_000
    start = time.perf_counter()
    table = make_table(rows, paper=True)
    assert table.markdown() and table.latex() and table.csv() and screen(table, 100)
    assert time.perf_counter() - start < 3


def test_the_command_on_ten_thousand_rows_is_fast_and_light(tmp_path: Path) -> None:
    """2 s where nothing else runs, start-up included; neither torch nor scipy.stats, which take as long each."""
    rng = np.random.default_rng(0)
    rows = [
        row(m, t, seed=seed, split=split, source=source, mAP=rng.uniform(), rank1=rng.uniform())
        for m in METHODS for source in ("market", "duke", "synth-plaza") for seed in range(6)
        for t, splits in {"market": 1, "duke": 1, "viper": 10, "ilids": 10, "grid": 10, "prid": 10, "pku": 1}.items() for split in range(splits)
    ]  # fmt: skip
    assert len(rows) >= 10_000
    (tmp_path / "rows.csv").write_text(to_csv(frame(*rows)))
    code = "import sys; from reidgen.cli import app; app(['table', '--paper', '--results', sys.argv[1]], standalone_mode=False)"
    code += "; assert not {'torch', 'scipy.stats', 'matplotlib', 'sklearn'} & set(sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table.tex").stat().st_size > 10_000
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 8  # of a processor that others use too


def test_table_with_intervals_is_fast() -> None:
    """6 methods, 6 targets, 3 seeds, 750 people."""
    from test_significance import simulate

    rows, identities = simulate(
        targets=dict.fromkeys("abcdef", 1), seeds=3, methods=dict.fromkeys([*list(METHODS)[:5], "snr"], 0.4), people=750
    )
    start = time.perf_counter()
    assert make_table(rows, identities=identities).cells["gain_mAP_p"].notna().sum() == 5 * 7
    assert time.perf_counter() - start < 4  # 1 s where nothing else runs
