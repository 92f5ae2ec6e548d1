"""The comparison table against numbers worked by hand and numpy: which rows count, and what is said of them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tabled import NAMES, calls, cell, frame, line, row, said, screen, small

from reidgen.errors import ReidgenError
from reidgen.methods import METHODS
from reidgen.rows import to_csv
from reidgen.tables import compare
from reidgen.tables.choose import Selection
from reidgen.tables.compare import MEAN, make_table


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


def test_the_same_seeds_of_several_tests_are_said_once() -> None:
    rows = [
        row(m, "duke", seed=s, test=t)
        for m, s in (("baseline", 0), ("baseline", 1), ("snr", 1))
        for t in ("plain", "bn")
    ]
    found = [note for note in said(make_table(frame(*rows)).notes) if "seed" in note]
    assert found == ["market (plain, bn): seeds 0, 1, but snr has seed 1"]


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
