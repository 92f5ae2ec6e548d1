"""The tables and figures of stress and attack, against numbers worked by hand."""

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from reidgen.errors import ReidgenError
from reidgen.robustness import tables
from reidgen.robustness.shifts import SHIFTS
from reidgen.robustness.tables import (
    PATTERN_NAMES,
    PATTERN_ORDER,
    attack_figures,
    attack_table,
    stress_figures,
    stress_table,
)  # fmt: skip
from reidgen.robustness.trials import ATTACK, CLEAN, STRESS, add_trials, collect_trials, read_trials, write_trials


def row(kind: dict[str, str], **values: object) -> dict[str, object]:
    """Return a row with ordinary values where none is given."""
    blank = {name: {"str": "x", "int64": 0, "float64": 0.5}[dtype] for name, dtype in kind.items()}
    blank |= {
        "title": "",
        "row": "",
        "source": "synth-plaza",
        "target": "synth-night",
        "mAP_se": 0.02,
        "date": "2026-01-01T00:00:00Z",
    }
    return blank | values


def stress_rows(drops: dict[str, float], *, seed: int = 0, **values: object) -> pd.DataFrame:
    """Return all rows of each method; at severity s it has lost s times its number, for every shift."""
    rows = []
    for method, drop in drops.items():
        about = {"method": method, "seed": seed, "where": "query", **values}
        rows.append(row(STRESS, shift=CLEAN, severity=0, mAP=0.8, drop=0.0, **about))
        for shift in SHIFTS:
            for s in range(1, 6):
                rows.append(row(STRESS, shift=shift, severity=s, mAP=0.8 * (1 - drop * s), drop=drop * s, rank1=0.4, **about))  # fmt: skip
    return pd.DataFrame(rows).astype(STRESS)


def attack_rows(cells: dict[tuple[str, str, str, str], float], **values: object) -> pd.DataFrame:
    """Return a row for each (victim, target, pattern, method of the maker): mAP falls from 0.5 by that share."""
    rows = []
    for (method, target, pattern, maker), drop in cells.items():
        about = {"maker": f"s/{maker}" * bool(maker), "maker_method": maker, "own": int(maker == method), "bound": 10}
        about |= {"seen": int(target == "synth-plaza"), "mAP": 0.5 * (1 - drop), "drop": drop, **values}
        rows.append(row(ATTACK, method=method, target=target, pattern=pattern, **about))
    return pd.DataFrame(rows).astype(ATTACK)


def test_the_stress_table_holds_the_mean_drop_per_shift_and_over_all() -> None:
    made = stress_table(stress_rows({"snr": 0.1, "baseline": 0.15}))
    (grid,) = made.grids
    assert list(grid.values.columns) == ["baseline", "snr"]
    assert list(grid.values.index) == [
        "clean mAP", "clean Rank-1", *(f"drop: {shift}" for shift in SHIFTS), "drop: all shifts", "shifted mAP", "shifted Rank-1",
    ]  # fmt: skip
    np.testing.assert_allclose(grid.values.loc["drop: blur"], [45, 30])
    np.testing.assert_allclose(grid.values.loc["drop: all shifts"], [45, 30])
    np.testing.assert_allclose(grid.values.loc["shifted mAP"], [80 * 0.55, 80 * 0.7])
    lines = grid.markdown().splitlines()
    assert lines[0] == "**synth-plaza on synth-night, queries shifted**"
    assert "| drop: blur | 45.0 | 30.0 |" in lines and "| clean mAP | **80.0** | **80.0** |" in lines
    assert "| shifted mAP | 44.0 | **56.0** |" in lines


def test_seeds_are_averaged_with_their_deviation_and_splits_before_them() -> None:
    rows = pd.concat([stress_rows({"snr": drop}, seed=seed, split=split)
                      for seed, split, drop in ((0, 0, 0.08), (0, 1, 0.12), (1, 0, 0.12), (1, 1, 0.12))])  # fmt: skip
    (grid,) = stress_table(rows).grids
    assert grid.values.loc["drop: hue", "snr"] == pytest.approx(33)  # seeds: 30 and 36
    assert grid.spread.loc["drop: hue", "snr"] == pytest.approx(np.std([30, 36], ddof=1))
    assert "| drop: hue | 33.0 ±4.2 |" in grid.markdown()
    cells = pd.read_csv(io.StringIO(stress_table(rows).csv())).set_index(["table", "row", "method"])
    assert cells.loc[(grid.title, "drop: hue", "snr")].tolist() == pytest.approx(
        [33, np.std([30, 36], ddof=1)], abs=1e-3
    )


def test_what_is_not_whole_or_not_alike_does_not_count() -> None:
    rows = stress_rows({"baseline": 0.1, "snr": 0.1})
    part = rows[~((rows["method"] == "snr") & (rows["shift"] == "blur") & (rows["severity"] == 5))]
    made = stress_table(part)
    (grid,) = made.grids
    assert np.isnan(grid.values.loc["drop: blur", "snr"]) and np.isnan(grid.values.loc["drop: all shifts", "snr"])
    assert "| drop: blur | 30.0 | – |" in grid.markdown()
    assert "synth-plaza on synth-night: SNR s0 lacks shifts; repeat: reidgen stress" in made.notes
    other = stress_rows({"in": 0.5}, shifts="other")
    made = stress_table(pd.concat([rows, other]))
    assert list(made.grids[0].values.columns) == ["baseline", "snr"]
    assert "synth-plaza, x on synth-night: 56 rows left out, made otherwise" in made.notes


def test_two_versions_of_a_method_share_no_line_and_the_latest_counts() -> None:
    """By the date, whatever their digests are; their own name stands above."""
    mine = {"method": "mine", "title": "Mine"}
    old = stress_rows({"mine": 0.1}, row="ffffffff", date="2026-01-01T00:00:00Z").assign(**mine)
    new = stress_rows({"mine": 0.15}, row="aaaaaaaa", date="2026-01-02T00:00:00Z").assign(**mine)
    for rows in (pd.concat([old, new]), pd.concat([new, old])):
        made = stress_table(rows)
        assert made.grids[0].values.loc["drop: blur"].tolist() == pytest.approx([45])
        assert "synth-plaza: 56 rows of mine left out, made by an earlier version of the method" in made.notes
        assert "Mine" in made.markdown() and "Mine" in stress_figures(rows)["stress-synth-plaza-synth-night-query"]
    both = pd.concat([old.assign(row=""), new])  # a row that does not say its version goes with the others
    assert not any("earlier" in note for note in stress_table(both).notes)


def test_patterns_by_an_earlier_version_of_a_method_are_left_out() -> None:
    cells = {("snr", "duke", "point", "mine"): 0.2, ("snr", "duke", CLEAN, ""): 0.0}
    old, new = (
        attack_rows({**cells, ("snr", "duke", "point", "mine"): drop}, date=f"2026-01-0{day}T00:00:00Z")
        for day, drop in ((1, 0.2), (2, 0.6))
    )
    rows = pd.concat([
        old.assign(maker=old["maker"].replace("s/mine", "synth/mine-tiny-s0-00000000aaaaaaaa-ffffffff")),
        new.assign(maker=new["maker"].replace("s/mine", "synth/mine-tiny-s0-00000000aaaaaaaa-aaaaaaaa")),
    ])  # fmt: skip
    made = attack_table(rows)
    assert "synth-plaza: 1 rows left out, of patterns by an earlier version of mine" in made.notes
    assert made.grids[-1].values.loc["mine", "snr"] == pytest.approx(60)


def test_the_attack_table_has_own_patterns_and_the_mean_of_the_common_unseen_targets() -> None:
    cells = {}
    for method, share in (("baseline", 0.8), ("snr", 0.4)):
        for target in ("synth-plaza", "synth-night", "synth-mall"):
            cells[method, target, CLEAN, ""] = 0.0
            cells[method, target, "noise", ""] = 0.1
            cells[method, target, "list", method] = share + 0.1 * (target == "synth-mall")
        other = "snr" if method == "baseline" else "baseline"
        cells[method, "synth-night", "list", other] = 0.2 if method == "snr" else 0.3
    cells["baseline", "market", CLEAN, ""] = 0.0
    made = attack_table(attack_rows(cells))
    seen, unseen, transfer = made.grids
    assert seen.title == "synth-plaza, bound 10/255, on synth-plaza (seen)"
    assert unseen.title == "synth-plaza, bound 10/255, on mean of unseen (synth-mall, synth-night)"
    np.testing.assert_allclose(unseen.values.loc["list-wise: mAP"], [50 * 0.15, 50 * 0.55])
    np.testing.assert_allclose(seen.values.loc["random noise: mAP"], [45, 45])
    np.testing.assert_allclose(unseen.values.loc["random noise: drop"], [10, 10])
    np.testing.assert_allclose(unseen.values.loc["list-wise: drop"], [85, 45])
    assert transfer.title.startswith("synth-plaza, bound 10/255, list-wise: drop in % on unseen targets (synth-night)")
    assert list(transfer.values.index) == ["Baseline", "SNR"] and list(transfer.values.columns) == ["baseline", "snr"]
    np.testing.assert_allclose(transfer.values.loc["Baseline"], [80, 20])  # Baseline's pattern in Baseline, in SNR
    np.testing.assert_allclose(transfer.values.loc["SNR"], [30, 40])
    assert any("as not tried with every pattern: synth-mall" in note for note in made.notes)
    assert "synth-plaza: market left out of the mean, as not every method has it" in made.notes


def test_a_run_that_lacks_a_target_under_a_pattern_is_not_in_that_mean() -> None:
    """As an interrupted command leaves it: two methods alike must not differ by the targets that they met."""
    cells = {}
    for method in ("baseline", "snr"):
        for target, drop in (("synth-night", 0.2), ("synth-mall", 0.8)):
            cells |= {(method, target, CLEAN, ""): 0.0, (method, target, "list", method): drop}
    whole = attack_rows(cells)
    night = whole["target"] == "synth-night"
    second = whole[night].assign(seed=1)  # met one target only
    (grid,) = attack_table(pd.concat([whole, second])).grids
    np.testing.assert_allclose(grid.values.loc["list-wise: drop"], [50, 50])
    assert grid.spread.isna().all(axis=None)
    stopped = whole[night | (whole["method"] == "baseline") | (whole["pattern"] == CLEAN)]
    made = attack_table(stopped)
    np.testing.assert_allclose(made.grids[0].values.loc["list-wise: drop"], [50, np.nan])
    what = "synth-plaza: SNR s0 was not tried on all unseen targets with list, so not in that mean; repeat:"
    assert any(note.startswith(what) for note in made.notes)
    assert attack_figures(stopped)
    apart = pd.concat([whole[night], whole[~night].assign(seed=1)])  # no run met both
    made = attack_table(apart)
    assert made.grids == [] and attack_figures(apart) == {}
    assert made.csv() == "table,row,method,percent,std_seeds\n" and made.json()["cells"] == []


def test_another_run_of_the_same_method_is_not_the_run_itself() -> None:
    own = attack_rows({("snr", "synth-night", "list", "snr"): 0.9})
    other = attack_rows({("snr", "synth-night", "list", "snr"): 0.1}, own=0, maker="s/snr-other-seed")
    _, transfer = attack_table(pd.concat([own, other])).grids
    assert transfer.values["snr"].to_dict() == pytest.approx({"SNR": 90, "another run of its method": 10})


def test_victims_of_two_backbones_have_tables_and_figures_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    small = attack_rows({("snr", "synth-night", "list", "snr"): 0.5, ("snr", "synth-night", "list", "in"): 0.4})
    large = attack_rows({("in", "synth-night", "list", "in"): 0.3, ("in", "synth-night", "list", "snr tiny"): 0.2})
    rows = pd.concat([small.assign(backbone="tiny"), large.assign(backbone="resnet50", hash="other")])
    titles = [grid.title.partition(", bound")[0] for grid in attack_table(rows).grids]
    assert titles == ["synth-plaza, resnet50"] * 2 + ["synth-plaza, tiny"] * 2
    matrix = attack_table(rows).grids[1].values["in"]
    assert matrix.to_dict() == pytest.approx({"Baseline-IN": 30, "snr tiny": 20})
    assert list(attack_figures(rows)) == ["attack-synth-plaza-resnet50-10", "attack-synth-plaza-tiny-10"]
    two = pd.concat(
        [stress_rows({"snr": 0.1}, backbone="tiny"), stress_rows({"snr": 0.1}, backbone="resnet50", hash="o")]
    )
    assert [grid.title for grid in stress_table(two).grids] == [
        f"synth-plaza, {name} on synth-night, queries shifted" for name in ("resnet50", "tiny")
    ]
    assert len(stress_figures(two)) == 2
    for name in ("attack_figure", "stress_figure"):  # drawn above; now their names count
        monkeypatch.setattr(tables, name, lambda *_: "drawn")
    with_colon = rows.replace({"backbone": {"tiny": "timm:vit"}})  # which no file of Windows may have
    assert list(attack_figures(with_colon)) == ["attack-synth-plaza-resnet50-10", "attack-synth-plaza-timm-vit-10"]
    assert not any(":" in name for name in stress_figures(two.replace({"backbone": {"tiny": "timm:vit"}})))


def test_figures_are_the_same_text_twice_and_name_what_they_show() -> None:
    rows = pd.concat([stress_rows({"snr": 0.1, "baseline": 0.15}, seed=seed) for seed in (0, 1)])
    figures = stress_figures(rows)
    assert figures == stress_figures(rows) and list(figures) == ["stress-synth-plaza-synth-night-query"]
    (text,) = figures.values()
    words = {element.text for element in ElementTree.fromstring(text).iter() if element.text}
    about = "synth-plaza on synth-night, queries shifted; band: ± std over seeds"
    assert words >= {*SHIFTS, "Baseline", "SNR", "severity", "mAP in %", about}
    cells = {("snr", "synth-night", name, "snr" if name in PATTERN_ORDER[3:] else ""): 0.1 for name in PATTERN_ORDER}
    (text,) = attack_figures(attack_rows(cells)).values()
    words = {element.text for element in ElementTree.fromstring(text).iter() if element.text}
    assert words >= {*PATTERN_NAMES.values(), "SNR", "synth-night"}


def test_rows_survive_their_file_and_a_vanished_run(tmp_path: Path) -> None:
    rows = stress_rows({"snr": 0.1})
    rows.loc[3, "mAP_se"] = np.nan
    write_trials(tmp_path / "stress-rows.csv", rows, "stress")
    pd.testing.assert_frame_equal(read_trials(tmp_path / "stress-rows.csv", "stress"), rows[list(STRESS)])
    newer = rows.iloc[:4].assign(mAP=0.1)
    assert len(add_trials(tmp_path / "runs" / "s" / "r" / "stress.csv", newer, "stress")) == 4
    both = collect_trials(tmp_path, "stress")
    assert len(both) == len(rows) and (both["mAP"] == 0.1).sum() == 4


@pytest.mark.parametrize(("kind", "table"), [("stress", stress_table), ("attack", attack_table)])
def test_no_rows_say_what_to_run(kind: str, table: object, tmp_path: Path) -> None:
    with pytest.raises(ReidgenError, match=f"there are no {kind} rows yet; run: reidgen {kind} RUN --target"):
        table(collect_trials(tmp_path, kind))  # type: ignore[operator]
