"""Which differences of a table are more than chance, and what it says about them."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from tabled import NAMES, calls, cell, compared, line, said, screen

from reidgen.tables.choose import Selection
from reidgen.tables.compare import MEAN, make_table


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
