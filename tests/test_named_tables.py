"""The paper's own tables, and its numbers beside ours."""

from typing import Any

import pandas as pd
import pytest
from tabled import PAPER, cell, frame, line, of_paper, row, said

from reidgen.errors import ReidgenError
from reidgen.methods import PAPER_TABLES
from reidgen.tables import compare
from reidgen.tables.choose import Selection
from reidgen.tables.compare import MEAN, make_table

CELL = ["source", "method", "target"]


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
