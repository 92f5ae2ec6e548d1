"""The comparison table against numbers worked by hand, numpy, and one golden Markdown file."""

import cProfile
import functools
import io
import pstats
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from reidgen.errors import ReidgenError
from reidgen.methods import METHODS, PAPER_TABLES
from reidgen.rows import ADDED, COLUMNS, percent, to_csv
from reidgen.tables import compare, looks
from reidgen.tables.choose import Note, Selection
from reidgen.tables.compare import MEAN, make_table
from reidgen.tables.formats import difference, signed

CELL = ["source", "method", "target"]
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


def said(notes: list[Note]) -> list[str]:
    return [str(note) for note in notes]


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
    assert line(table.markdown(), "SNR") == ["SNR", "30.0 / 50.0"]


def test_the_mean_of_one_target_has_no_column_and_that_of_two_has() -> None:
    one, two = (make_table(frame(*(row("snr", target) for target in names))) for names in (["duke"], ["duke", "viper"]))
    assert set(one.cells["target"]) == {"duke", MEAN} and list(one.columns()) == ["duke"]
    assert MEAN not in one.markdown().splitlines()[0] and "mean of" not in screen(one, 80).split("──")[0]
    assert list(two.columns()) == ["duke", "viper", MEAN]


def test_what_a_block_is_called_is_folded_only_where_there_is_no_room() -> None:
    rows = [row("snr", target, test="flip+centre") for target in ("duke", "viper", "grid", "prid", "ilids", "cuhk03")]
    lines = screen(make_table(frame(*rows[:2])), 80).splitlines()
    assert any(line.rstrip() == " market, tested with flip+centre" for line in lines)
    assert all(len(line) <= 80 for line in lines)
    assert not any("market, tested with flip" in line for line in screen(make_table(frame(*rows)), 80).splitlines())


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


def test_the_mean_is_over_the_targets_that_all_methods_share() -> None:
    """The mean of the one target that both have; what is missing is a remark with the command that fills it."""
    rows = [row("baseline", "duke", mAP=0.2), row("baseline", "grid"), row("baseline", "viper"), row("snr", "duke")]
    table = make_table(frame(*rows))
    assert [cell(table, method, MEAN)["mAP"] for method in ("baseline", "snr")] == [20, 30]
    assert line(table.markdown(), "SNR")[2:] == ["–", "–", "**30.0** / **50.0**"]
    run = "reidgen evaluate market/snr-tiny-s0-1a2b3c4d5e6f7788 --target"
    assert said(table.notes) == [
        f"market: grid is not in the mean of unseen, as snr lacks it (run: {run} grid)",
        f"market: viper is not in the mean of unseen, as snr lacks it (run: {run} viper)",
    ]
    assert said(table.findings) == ["market: mean of unseen: over the one target that all methods have: duke"]


def test_one_more_evaluation_of_one_run_takes_the_mean_from_nobody() -> None:
    """`evaluate snr --target pku`, for one of six runs: the means of all six stay as they were."""
    rows = [
        row(m, t, seed=s, mAP=0.2 + s / 100, mINP=n / 10)
        for n, m in enumerate(("baseline", "in", "snr"))
        for t in ("duke", "viper")
        for s in (0, 1)
    ]
    before = make_table(frame(*rows)).cells
    table = make_table(frame(*rows, row("snr", "pku", mAP=0.9)))
    after = table.cells[table.cells["target"] != "pku"].reset_index(drop=True)
    pd.testing.assert_frame_equal(after, before)
    assert [note.text for note in table.notes] == [
        "market: seeds 0, 1, but snr on pku has seed 0",
        "market: pku is not in the mean of unseen, as baseline, in lack it",
    ]
    every = [
        *rows,
        *(row(m, "pku", mAP=0.9) for m in ("baseline", "in", "snr")),
    ]  # of all methods, but of one seed each
    table = make_table(frame(*every))
    after = table.cells[table.cells["target"] != "pku"].reset_index(drop=True)
    pd.testing.assert_frame_equal(after, before)
    assert "market: pku is not in the mean of unseen, as some seeds lack it" in [note.text for note in table.notes]


def test_a_stranger_takes_the_mean_from_nobody() -> None:
    """A method that shares no target with the others has no mean; theirs stays."""
    rows = [row(m, t, mAP=0.2) for m in ("baseline", "snr") for t in ("duke", "viper")]
    table = make_table(frame(*rows, row("my-norm", "pku", mAP=0.9)))
    assert [cell(table, method, MEAN)["mAP"] for method in ("baseline", "snr")] == [20, 20]
    assert line(table.markdown(), "my-norm")[-1] == "–"
    assert "market: not in the mean of unseen: my-norm, without duke, viper" in [note.text for note in table.notes]


def test_the_mean_is_over_seeds_that_have_all_targets() -> None:
    rows = [row("snr", t, seed=s, mAP=mAP) for t, mAP in (("duke", 0.2), ("viper", 0.4)) for s in (0, 1)]
    table = make_table(frame(*rows, row("snr", "duke", seed=2, mAP=0.8)))
    assert cell(table, "snr", MEAN)[["mAP", "seeds"]].tolist() == [30, 2]
    assert cell(table, "snr", "duke")["mAP"] == 40
    assert "market: not in the mean of unseen: seed 2 of snr, without viper" in [note.text for note in table.notes]


def test_own_crops_and_relatives_enter_no_mean_unless_asked_for() -> None:
    """cuhk03's two sets show the same people: bench's choice, the catalogue's first, counts. `mycams` is in no catalogue."""
    scores = {"duke": 0.2, "cuhk03-np-labelled": 0.7, "cuhk03-np-detected": 0.4, "mycams": 0.9}
    methods = {"baseline": 0.1, "snr": 0.2}
    rows = frame(*(row(m, t, mAP=mAP, mINP=mINP) for m, mINP in methods.items() for t, mAP in scores.items()))
    table = make_table(rows)
    assert cell(table, "snr", MEAN)["mAP"] == 30  # (20 + 40) / 2
    assert [note.text for note in table.notes] == [
        "market: mycams is no set of the catalogue, so not in the mean of unseen",
        "market: cuhk03-np-labelled is not in the mean of unseen, as it shows people of cuhk03-np-detected",
    ]
    asked = make_table(rows, selection=Selection(targets=("duke", "cuhk03-np-labelled", "mycams")))
    assert cell(asked, "snr", MEAN)["mAP"] == 60  # (20 + 70 + 90) / 3
    assert set(asked.cells["target"]) == {"duke", "cuhk03-np-labelled", "mycams", MEAN} and not asked.notes
    protocol = make_table(rows, selection=Selection(every=True))  # which names all its targets
    assert cell(protocol, "snr", MEAN)["mAP"] == 55
    own = make_table(frame(row("snr", "mycams"), row("snr", "market")))
    assert MEAN not in set(own.cells["target"]) and "mean of unseen |" not in own.markdown()


def test_a_family_counts_by_the_set_that_all_methods_have() -> None:
    rows = [row(m, t, mAP=0.4) for m in ("baseline", "snr") for t in ("duke", "cuhk03-np-labelled")]
    table = make_table(frame(*rows, row("snr", "cuhk03-np-detected", mAP=0.9)))
    assert cell(table, "snr", MEAN)["mAP"] == 40
    assert list(table.means.values()) == [["duke", "cuhk03-np-labelled"]]


def test_order_of_sources_methods_and_targets() -> None:
    targets = ["zoo", "viper", "arena", "ilids", "market"]
    rows = [
        row(m, t, source=s) for s in ("synth-a", "my", "duke", "market") for m in ("new", "snr", "ibn") for t in targets
    ]
    cells = make_table(frame(*rows)).cells
    assert list(cells["source"].unique()) == ["market", "duke", "my", "synth-a"]
    assert list(cells["method"].unique()) == ["ibn", "snr", "new"]
    assert list(cells["target"].unique()) == ["market", "viper", "ilids", "arena", "zoo", MEAN]


@pytest.mark.parametrize(
    ("column", "differs"),
    [
        (
            "hash",
            "in what it differs from 1a2b3c4d is not known, as run folders are gone (to show them: --recipe other)",
        ),
        ("version", "reidgen other (here 0.1.0)"),
        ("source_data", "source data other (here bbbb2222)"),
    ],
)
def test_rows_made_otherwise_are_left_out(column: str, differs: str) -> None:
    rows = [row("snr", "duke"), row("baseline", "duke"), row("snr", "duke", mAP=0.9, **{column: "other"})]
    rows += [row("snr", "duke", source="duke", **{column: "other"})]  # another source chooses for itself
    table = make_table(frame(*rows))
    assert cell(table, "snr", "duke")["mAP"] == 30
    recipe = f"quick@{'other' if column == 'hash' else '1a2b3c4d'}"
    assert str(table.notes[0]) == f"market: 1 row of snr left out, made otherwise: recipe {recipe}, {differs}"
    assert cell(table, "snr", "duke", "duke")["mAP"] == 30


def test_two_recipes_the_note_says_in_which_settings_and_both_can_be_shown() -> None:
    rows = frame(row("snr", "duke"), row("baseline", "duke"), row("snr", "duke", mAP=0.9, hash="ffff0000", recipe="my"))
    settings = {"1a2b3c4d5e6f7788": {"lr": 1.0, "epochs": 20}, "ffff0000": {"lr": 2.0, "epochs": 20}}
    note = make_table(rows, settings=settings).notes[0]
    assert note.text == "market: 1 row of snr left out, made otherwise: recipe my@ffff0000, lr 2.0 (here 1.0)"
    assert note.hint == "to show them: --recipe ffff0000"
    for word in ("ffff", "my", "my@ffff0000"):
        other = make_table(rows, selection=Selection(recipes=(word,)))
        assert cell(other, "snr", "duke")["mAP"] == 90 and not other.notes
    both = make_table(rows, selection=Selection(recipes=("quick", "my")))
    assert list(both.blocks()) == ["market, recipe 1a2b3c4d", "market, recipe ffff0000"]
    assert line(both.markdown(), "SNR", 1)[1] == "90.0 / 50.0"  # alone in its group: nothing to be best of


def test_backbones_are_groups_compared_within() -> None:
    """Each backbone has its own best, mean, differences and headline; the hash goes with the backbone."""
    rows = [
        row(m, t, mAP=mAP, backbone=b, hash=h)
        for b, h, plus in (("tiny", "1111", 0), ("resnet50", "2222", 0.3))
        for m, mAP in (("baseline", 0.1 + plus), ("snr", 0.2 + plus))
        for t in ("duke", "viper")
    ]
    table = make_table(frame(*rows))
    assert list(table.blocks()) == ["market, resnet50", "market, tiny"] and not table.notes
    assert table.markdown().count("**Source: market, ") == 2
    for nth, number in enumerate(("50.0", "20.0")):
        assert line(table.markdown(), "SNR", nth)[1] == f"**{number}** / **50.0**"
    means = table.cells[table.cells["target"] == MEAN].set_index(["backbone", "method"])
    assert means["mAP"].to_dict() == {
        ("resnet50", "baseline"): 40, ("resnet50", "snr"): 50, ("tiny", "baseline"): 10, ("tiny", "snr"): 20,
    }  # fmt: skip
    assert means["gain_mAP"].dropna().tolist() == [10, 10]
    assert list(make_table(frame(*rows), selection=Selection(backbones=("tiny",))).blocks()) == ["market"]
    assert "Source: market, resnet50" in screen(table, 100) or "market, resnet50" in screen(table, 100)


def test_what_was_asked_for_is_shown() -> None:
    rows = small()
    table = make_table(rows, selection=Selection(targets=("duke", "viper"), methods=("snr",), seeds=(0,)))
    shown = table.cells[table.cells["target"] != MEAN]
    assert shown[["source", "method", "target", "seeds"]].to_numpy().tolist() == [
        ["market", "snr", "duke", 1], ["market", "snr", "viper", 1],
    ]  # fmt: skip
    assert shown["gain_mAP"].tolist() == [10, 10]  # Baseline is not shown, but still what is compared with
    words = make_table(rows, selection=Selection(methods=("loss",))).cells
    assert set(words["method"]) == {"baseline", "snr"}
    synth = make_table(rows, selection=Selection(targets=("synth",))).cells
    assert set(synth["target"]) == {"synth-plaza"}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"targets": ("dukee",)}, "there are no results of target 'dukee'; did you mean 'duke'"),
        ({"methods": ("snrr",)}, "results of method 'snrr'; did you mean 'snr'"),
        ({"recipes": ("paper",)}, "no results of recipe 'paper'; Known: quick@1a2b3c4d5e6f7788, quick@ffff0000"),
        ({"backbones": ("resnet50",)}, "no results of backbone 'resnet50'; Known: tiny"),
        ({"seeds": (7,)}, "no results of seed '7'; Known: 0, 1"),
        ({"targets": ("grid",), "methods": ("baseline",)}, "no result has all that was asked for"),
    ],
)
def test_what_was_asked_for_and_is_not_there_is_one_sentence(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ReidgenError, match=re.escape(says)):
        make_table(small(), selection=Selection(**asked))


def test_runs_that_differ_in_machine_are_said_in_one_line() -> None:
    rows = [row("snr", "duke", threads=1), row("baseline", "duke", threads=2, device="gpu", torch="2.11", commit="ff")]
    notes = said(make_table(frame(*rows)).notes)
    assert notes == [
        "the runs of this table differ in device (cpu, gpu); threads (1, 2); torch (2.11, 2.9.1); commit (abc1234, ff)"
    ]
    older = make_table(frame(row("snr", "duke", threads=0), row("baseline", "duke", threads=2)))
    assert said(older.notes) == ["the runs of this table differ in threads (2, not known)"]
    assert "threads 2;" in older.caption and not make_table(frame(row("snr", "duke"))).notes


def test_a_device_is_named_without_its_threads_which_are_a_column() -> None:
    rows = [row(name, "duke", device=f"EPYC, 1 thread{s}", threads=1) for name, s in (("snr", "s"), ("baseline", ""))]
    table = make_table(frame(*rows))
    assert not table.notes and "device EPYC; threads 1; " in table.caption
    older = row("snr", "duke", device="EPYC, 1 threads", threads=0)  # of before there was the column
    assert not make_table(frame(older, rows[1])).notes
    assert "device EPYC; threads 1024; " in make_table(frame(older | {"device": "EPYC, 1,024 threads"})).caption


def test_methods_with_the_very_same_numbers_are_named_once() -> None:
    scores = [(test, target, 0.3 + 0.1 * n) for test in ("plain", "bn") for n, target in enumerate(["duke", "pku"])]
    rows = [row(m, t, mAP=mAP, test=test) for m in ("in", "dualnorm") for test, t, mAP in scores]
    rows += [row("snr", t, mAP=mAP + 1e-6 * (t == "pku"), test=test) for test, t, mAP in scores]
    same = "market (plain, bn): dualnorm and in have the same numbers to the last digit (on this backbone they may be"
    assert [note for note in said(make_table(frame(*rows)).notes) if "same numbers" in note] == [f"{same} one network)"]
    assert not any("same numbers" in note for note in said(make_table(frame(*rows[4:])).notes))


def test_versions_of_a_method_do_not_mix() -> None:
    """The latest version counts; a row that does not say its version goes with it."""
    rows = [row("snr", "duke", seed=0, mAP=0.9, row="aaaa"), row("snr", "duke", seed=1, row="bbbb", date="2026-06-01")]
    table = make_table(frame(*rows, row("snr", "duke", seed=2), row("baseline", "duke", row="cccc")))
    assert cell(table, "snr", "duke")[["mAP", "seeds"]].tolist() == [30, 2]
    assert "market: 1 row of snr left out, made by an earlier version of the method: aaaa" in said(table.notes)


def test_variants_stand_beside_their_method_and_titles_come_from_the_rows() -> None:
    variant = "snr(distance=euclidean,triplets=hard)"
    rows = [row(m, "duke") for m in ("snr-conv", variant, "snr", "baseline")]
    rows += [row("mine", "duke", title="My Norm"), row("twin", "duke", title="SNR")]
    table = make_table(frame(*rows))
    names = [text.split(" | ")[0] for text in table.markdown().splitlines()[3:9]]
    assert names == [
        "| Baseline", "| SNR-conv", "| SNR [snr]", "| SNR (distance=euclidean, triplets=hard)", "| My Norm", "| SNR [twin]",
    ]  # fmt: skip


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
    assert said(table.notes) == [
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
    notes = [note.text for note in make_table(frame(*rows)).notes]
    assert notes == [
        "market: seeds 0, 1, but baseline on duke has seeds 0, 1, 2; baseline on grid has seeds 0, 1, 2; "
        "in on duke has seeds 0, 1, 2; in on grid has seeds 1, 2",
        "market: not in the mean of unseen: seed 2 of baseline, without viper",
        "market: not in the mean of unseen: seed 0 of in, without grid",
        "market: not in the mean of unseen: seed 2 of in, without viper",
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
    assert said(make_table(frame(*rows)).notes) == [
        "market: seeds 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, but snr has seeds 0, 1"
    ]


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
    assert said(table.notes) == ["the paper's mean of unseen is taken here, over the same targets as ours"]


def test_paper_invents_nothing() -> None:
    rows = [row("snr", "duke"), row("snr", "my-set"), row("snr-conv", "duke"), row("snr", "duke", source="synth-plaza")]
    table = make_table(frame(*rows), paper=True)
    # snr-conv stands in the design table; my-set enters no mean
    assert table.cells["paper_mAP"].dropna().tolist() == [29.7, 29.7, 33.6, 33.6]
    text = table.markdown()
    assert text.count("*paper (difference)*") == 2 and line(text, "*paper (difference)*")[2] == "–"
    assert "synth-plaza: the paper has no numbers for this source" in said(table.notes)
    assert "the paper's numbers are of resnet50, ours of tiny" in said(table.notes)
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
    read = pd.read_csv(io.StringIO(table.csv()))
    pd.testing.assert_frame_equal(read, table.cells.drop(columns="hash"), check_exact=True)


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
    assert text.count(r"\label{tab:reidgen}") == 1
    spans = [sum(map(int, re.findall(r"multicolumn{(\d)}", part))) - part.count("multicolumn") for part in body]
    assert {re.sub(r"\\&", "", part).count("&") + 1 + span for part, span in zip(body, spans, strict=True)} == {columns}
    assert re.findall(r"\\(?:top|mid|bottom)rule", text) == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    for environment in ("table*", "tabular", "minipage"):  # and \\begin{document} of the file compiled by itself
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1


@functools.cache
def looks_of_all() -> tuple[str, str, str]:
    table = make_table(frame(row("baseline", "grid"), *(row(method, "duke") for method in METHODS)), paper=True)
    return table.markdown(), table.latex(), screen(table, 100)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_shown(method: str) -> None:
    markdown, latex, terminal = looks_of_all()
    title = METHODS[method].title
    assert f"| {title.replace('_', chr(92) + '_')} | " in markdown
    assert f"{title.replace('_', chr(92) + '_')} & " in latex
    assert f" {title} " in terminal


def test_terminal_fits_and_says_everything() -> None:
    places = ["synth-" + name for name in ("plaza", "mall", "night", "station", "campus", "garage")]
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
    assert "| synth-night" not in table.markdown() and "| night | " in table.markdown()


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


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_named_tables_show_what_the_paper_shows_and_equal_it(name: str) -> None:
    other = [row("my-norm", "duke"), row("snr-conv" if name != "design" else "ibn", "duke")]
    table = make_table(pd.concat([of_paper(name), frame(*other)]), name=name, paper=True)
    own = PAPER[PAPER["table"] == name]
    cells = table.cells[table.cells["target"] != MEAN]
    assert set(zip(*(cells[key] for key in CELL), strict=True)) == set(zip(*(own[key] for key in CELL), strict=True))
    assert (cells["diff_mAP"].abs() < 1e-6).all() and (cells["diff_rank1"].abs() < 1e-6).all()
    assert not [note for note in said(table.notes) if " yet (run: " in note]


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
        for note in said(table.notes)
        if note.endswith(f"(run: reidgen bench --source synth-plaza --methods {name}, with this recipe)")
    ]
    assert len(lacking) == 1 and ("snr-no-loss" in lacking[0]) == (name == "loss")
    alone = make_table(frame(*rows), name=name, selection=Selection(methods=("snr",)))
    assert lacking[0] in said(alone.notes) and "baseline" not in lacking[0]  # what is not asked for is there


def test_the_same_seeds_of_several_tests_are_said_once() -> None:
    rows = [
        row(m, "duke", seed=s, test=t)
        for m, s in (("baseline", 0), ("baseline", 1), ("snr", 1))
        for t in ("plain", "bn")
    ]
    found = [note for note in said(make_table(frame(*rows)).notes) if "seed" in note]
    assert found == ["market (plain, bn): seeds 0, 1, but snr has seed 1"]


def test_a_selection_says_what_its_correction_counts() -> None:
    rows, identities = compared(2)
    words = "Holm's correction is over the {} differences asked for here; the fewer are asked for, the more have a mark"
    for nothing_hidden in (Selection(), Selection(tests=("plain",))):
        whole = make_table(rows, identities=identities, selection=nothing_hidden)
        assert not any("Holm's correction is over" in note for note in said(whole.notes))
    tested = {
        asked: int(part.cells[["gain_mAP_p", "gain_rank1_p"]].notna().to_numpy().sum())
        for asked in (("in", "baseline"), ("in", "snr", "baseline"))
        for part in [make_table(rows, identities=identities, selection=Selection(methods=asked))]
        if words.format(int(part.cells[["gain_mAP_p", "gain_rank1_p"]].notna().to_numpy().sum())) in said(part.notes)
    }
    assert len(tested) == 2 and len(set(tested.values())) == 2


def test_an_end_of_an_interval_keeps_its_side_of_nothing() -> None:
    cell = {"gain_mAP": -3.3, "gain_mAP_p": 0.04, "gain_mAP_low": -6.6, "gain_mAP_high": -0.009, "gain_seeds": 2}
    assert difference(cell | {"gain_mAP_holm": 1.0}) == "−3.3 [−6.6, −0.0]"
    assert signed(-0.009) == "0.0"


def test_a_score_has_one_rounding_whether_it_comes_from_a_file_or_not() -> None:
    for exact in np.random.default_rng(0).integers(0, 10_000, 2000) / 10_000 + 4e-9:
        assert percent(exact) == percent(float(f"{exact:.6g}"))


def test_sets_of_the_papers_families_stand_beside_its_numbers() -> None:
    rows = [row("snr", "duke", source="duke+market+msmt17-v2+cuhk03-np-detected", seen=1, mAP=0.5)]
    rows += [row("snr", "duke", source="market-all", mAP=0.5)]  # trained on more than the paper's: not its number
    table = make_table(frame(*rows), name="main", paper=True)
    assert table.cells["paper_mAP"].dropna().tolist() == [73.2]
    assert "beside the paper's numbers for the family: duke+market+msmt17-v2+cuhk03-np-detected" in said(table.notes)
    assert "market-all: the paper has no numbers for this source" in said(table.notes)


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


NAMES = [
    "duke",
    "msmt17-v1",
    "cuhk01",
    "cuhk-sysu",
    "prid",
    "grid",
    "viper",
    "ilids",
    "sensereid",
    "pku",
    "personx",
    "synth-mall",
]


@functools.cache
def compared(seeds: int, *, targets: int = 4, people: int = 40) -> tuple[pd.DataFrame, pd.DataFrame]:
    from test_significance import simulate

    methods = {"baseline": 0.3, "in": 0.3, "ibn": 0.4, "snr": 0.6}
    return simulate(targets=dict.fromkeys(NAMES[:targets], 1), seeds=seeds, methods=methods, people=people)


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
    assert f"intervals cover {covers}; not other galleries, cameras or targets" in said(table.findings)
    differs = rf"market, mean of unseen: mAP minus Baseline's, .*: .* SNR \+\d\d.\d \[\+.*\]{mark}$"
    assert re.search(differs, said(table.findings)[1])
    ranks = table.cells.set_index(["method", "target"])["average_rank"]
    assert ranks["snr", MEAN] == 1 and ranks.dropna().size == 4
    assert any("average rank by mAP over 4 unseen targets: SNR 1.0, " in found for found in said(table.findings))
    assert f"{mark}: differs from Baseline (p \\< 0.05 after Holm's correction" in table.markdown()
    assert "†‡".replace(mark, "") not in table.markdown()
    assert mark in screen(table, 100) and {"†": r"$^\dagger$", "‡": r"$^\ddagger$"}[mark] in table.latex()
    assert table.latex().isascii()
    read = pd.read_csv(io.StringIO(table.csv()))
    pd.testing.assert_frame_equal(read, table.cells.drop(columns="hash"), check_exact=True)


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
    assert sum("no interval for 5 of 15 differences" in found for found in said(lost.findings)) == 1
    assert not any(found.startswith("no interval") for found in said(make_table(rows).findings))  # nobody asked


def everything() -> compare.Table:
    """All shipped methods on seven targets, two seeds each, and as many words about them as intervals and ranks take."""
    rows = [row(m, t, seed=s, mAP=0.3 + s / 50) for m in METHODS for t in NAMES[:7] for s in (0, 1)]
    listed = ", ".join(f"{method.title} +10.1 [+8.2, +12.3]†" for method in METHODS.values())
    return replace(
        make_table(frame(*rows)), findings=[Note(f"market, mean of unseen: mAP minus Baseline's: {listed}")] * 2
    )


TEX = shutil.which("pdflatex")


@pytest.mark.skipif(TEX is None, reason="needs pdflatex")
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", ["small", "wide", "long", "loss", "all", "published"])
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
    elif name == "all":
        table = everything()
    elif name == "published":
        table = make_table(frame(*(row("snr", t) for t in ("market", "duke", "grid"))), literature=True)
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
    assert not (alone and name in ("small", "all", "loss")) or "(1 page," in log


def test_one_hundred_methods_and_fifty_targets_are_cut_into_pages() -> None:
    rows = [row(f"m{m}", f"t{t}") for m in range(100) for t in range(50)]
    text = make_table(frame(*rows)).latex()
    bodies = re.findall(r"\\begin{tabular}(.*?)\\end{tabular}", text, flags=re.DOTALL)
    assert all(
        body.count(r"\\") <= looks.PAGE_LINES + 2 and body.count("cmidrule") <= looks.PAGE_COLUMNS for body in bodies
    )
    assert sum(body.count("\nm") for body in bodies) == 100 * -(-51 // looks.PAGE_COLUMNS) and text.count(
        "table*"
    ) == 2 * text.count("caption")


def calls(work: Callable[[], object]) -> int:
    """How many functions a piece of work calls: what it costs, on a busy machine too."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return pstats.Stats(profile).total_calls


def test_the_work_grows_with_the_cells_and_not_with_the_rows() -> None:
    """1,120 rows make the same cells as 70 of them, in all looks."""

    def work(seeds: int, splits: int) -> int:
        rows = frame(
            *(
                row(method, target, seed=seed, split=split)
                for method in list(METHODS)[:5] for target in NAMES[:7]
                for seed in range(seeds) for split in range(splits)
            )
        )  # fmt: skip

        def make() -> None:
            table = make_table(rows, paper=True)
            assert table.markdown() and table.latex() and table.csv() and screen(table, 100)

        return calls(make)

    work(2, 1)  # what is read once
    assert work(4, 8) < 1.5 * work(2, 1)


def test_the_command_on_many_rows_is_light(tmp_path: Path) -> None:
    """Neither torch nor scipy.stats is imported, which take as long as all the rest."""
    rng = np.random.default_rng(0)
    splits_of = {"market": 1, "duke": 1, "viper": 10, "ilids": 10, "grid": 10, "prid": 10, "pku": 1}
    rows = [
        row(m, t, seed=seed, split=split, source=source, mAP=rng.uniform(), rank1=rng.uniform())
        for m in METHODS for source in ("market", "duke") for seed in range(2)
        for t, splits in splits_of.items() for split in range(splits)
    ]  # fmt: skip
    assert len(rows) >= 2_000
    (tmp_path / "rows.csv").write_text(to_csv(frame(*rows)))
    code = "import sys; from reidgen.cli import app; "
    code += "app(['table', '--paper', '--results', sys.argv[1]], standalone_mode=False)"
    code += "; assert not {'torch', 'scipy.stats', 'matplotlib', 'sklearn'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table.tex").stat().st_size > 10_000


def test_intervals_of_more_people_take_no_more_calls() -> None:
    """3 methods, 2 targets, 2 seeds: the bootstrap is a matrix product, whatever the number of people."""
    from test_significance import simulate

    def work(people: int) -> int:
        methods = dict.fromkeys(("baseline", "in", "snr"), 0.4)
        rows, identities = simulate(targets=dict.fromkeys(NAMES[:2], 1), seeds=2, methods=methods, people=people)
        tables = []
        number = calls(lambda: tables.append(make_table(rows, identities=identities)))
        assert tables[0].cells["gain_mAP_p"].notna().sum() == 2 * 3
        return number

    work(20)
    assert work(200) < 1.1 * work(20)
