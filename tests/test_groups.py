"""Tables of many methods: groups with their names, the best of them, and what the paper has no table of."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from tabled import compared, frame, row, said, screen
from typer.testing import CliRunner

import reidgen
from reidgen.cli import app
from reidgen.errors import EmptyTableError, ReidgenError
from reidgen.methods import METHODS
from reidgen.parts import GROUPS
from reidgen.rows import to_csv
from reidgen.tables import compare
from reidgen.tables.choose import Selection
from reidgen.tables.compare import make_table


def in_groups() -> pd.DataFrame:
    """Rows of a plug-in's method, that nobody here knows, of variants and of all groups, in no order."""
    scores = {
        "mine": 0.1,
        "bau": 0.5,
        "dsu": 0.45,
        "snr": 0.2,
        "in": 0.4,
        "mixstyle(alpha=0.3)": 0.3,
        "mixstyle": 0.35,
        "baseline": 0.25,
    }
    return frame(*(row(m, t, mAP=mAP) for m, mAP in scores.items() for t in ("duke", "viper")))


def test_groups_have_a_name_before_them_in_every_look() -> None:
    """Baseline first, then normalization, mixing, losses, what is not known last; variants behind their method."""
    table = make_table(in_groups())
    shown = [text[2:].split(" | ")[0] for text in table.markdown().splitlines()[2:] if text.startswith("| ")]
    order = ["Baseline", "*normalization*", "Baseline-IN", "SNR", "*mixing*", "MixStyle", "MixStyle (alpha=0.3)", "DSU"]
    assert shown[1:] == [*order, "*losses*", "BAU", "*other*", "mine"]
    words = re.findall(r"\\midrule\n\\quad\\emph{(\w+)}", table.latex())
    assert words == ["normalization", "mixing", "losses", "other"]
    found = [
        text.split()[0] for text in screen(table, 100).splitlines() if text.split()[:1] and text.split()[0] in words
    ]
    assert found == words
    groups = table.cells.drop_duplicates("method").set_index("method")["group"]
    assert groups["mixstyle(alpha=0.3)"] == "mixing" and groups["baseline"] == "baseline" and groups["mine"] == "other"


def test_the_name_of_a_group_is_never_cut() -> None:
    """Also where all titles are shorter."""
    rows = in_groups()
    text = screen(make_table(rows[rows["method"].isin(["snr", "dsu"])], against="snr"), 60)
    assert {"normalization", "mixing"} <= {word for line in text.splitlines() for word in line.split()}


def test_methods_of_one_group_need_no_name() -> None:
    rows = in_groups()
    text = make_table(rows[rows["method"].isin(["baseline", "in", "snr", "mine"])]).markdown()
    assert "normalization" not in text and "other" not in text


def test_a_plugins_row_stands_last_in_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(METHODS["dsu"], name="mine", title="My mixing", origin="my.py")
    monkeypatch.setitem(METHODS, "mine", own)
    rows = list(make_table(in_groups()).blocks()["market"])
    assert rows[-2:] == ["mine", "bau"] and rows[-3] == "dsu"


def test_groups_and_tables_select_methods_of_rows() -> None:
    cells = make_table(in_groups(), selection=Selection(methods=("mixing",))).cells
    assert set(cells["method"]) == {"baseline", "mixstyle", "dsu"}
    cells = make_table(in_groups(), selection=Selection(methods=("placement", "losses"))).cells
    assert set(cells["method"]) == {"baseline", "in", "snr", "bau"}
    cells = make_table(in_groups(), against="bau", selection=Selection(methods=("mixing",))).cells
    assert set(cells["method"]) == {"baseline", "mixstyle", "dsu", "bau"}  # what others are compared with is shown
    with pytest.raises(
        ReidgenError, match="there are no results of the group mixing; run: reidgen bench --methods mixing"
    ):
        make_table(frame(row("snr", "duke")), selection=Selection(methods=("mixing",)))


def test_a_part_of_the_table_is_written_beside_the_whole(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(to_csv(in_groups()))

    def written(*words: str) -> dict[str, bytes]:
        done = CliRunner().invoke(app, ["table", "--results", str(tmp_path), *words])
        assert done.exit_code == 0, done.output
        return {path.name: path.read_bytes() for path in tmp_path.glob("table*")}

    whole = written()
    assert set(whole) == {"table.md", "table.csv", "table.tex"}
    for words in (["--best", "2"], ["--methods", "snr"], ["--target", "duke"], ["--test", "plain"]):
        both = written(*words)
        assert {name: both[name] for name in whole} == whole and b"SNR" in both["table-selected.md"]


def test_the_best_are_shown_with_baseline_and_snr_and_nothing_else_changes() -> None:
    """Of .50, .45, .40, .35, .30, .25, .20, .10 the two best; what is left out is said."""
    whole, table = make_table(in_groups()), make_table(in_groups(), best=2)
    assert list(table.blocks()["market"]) == ["baseline", "snr", "dsu", "bau"]
    assert said(table.notes)[-1] == (
        "market: not shown, as not among the 2 best by the mean of unseen: in, mixstyle, mixstyle(alpha=0.3), mine; "
        "ranks and Holm's correction count them (to show all, leave out --best)"
    )
    both = whole.cells[whole.cells["method"].isin(table.cells["method"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(table.cells, both)
    assert list(make_table(in_groups(), best=99).blocks()["market"]) == list(whole.blocks()["market"])
    with pytest.raises(ReidgenError, match="--best 0: give 1 or more methods to show"):
        make_table(in_groups(), best=0)


def test_the_best_are_those_of_each_source_and_holms_correction_is_that_of_all() -> None:
    rows = in_groups()
    other = rows[rows["target"] == "viper"].assign(source="duke", mAP=1 - rows["mAP"])
    blocks = make_table(pd.concat([rows, other]), best=1).blocks()
    assert list(blocks["market"]) == ["baseline", "snr", "bau"] and list(blocks["duke"]) == ["baseline", "snr", "mine"]
    rows, identities = compared(2)
    gains = ["gain_mAP_holm", "average_rank"]
    part, whole = (make_table(rows, identities=identities, best=best).cells for best in (1, None))
    keys = ["method", "target"]
    pd.testing.assert_frame_equal(
        part.set_index(keys)[gains], whole.set_index(keys).loc[part.set_index(keys).index, gains]
    )


def test_the_paper_has_no_table_of_placements() -> None:
    rows = frame(row("snr", "duke"), row("in-plain", "duke"), row("dsu", "duke"))
    table = make_table(rows, name="placement", paper=True)
    assert set(table.cells["method"]) == {"snr", "in-plain"} and table.cells["paper_mAP"].dropna().tolist() == [33.6]
    assert "the paper has no table placement; its numbers here are from its other tables" in said(table.notes)
    with pytest.raises(EmptyTableError, match="there is no table placement in the paper"):
        compare.paper_table("placement")


def test_the_listing_of_methods_has_each_below_its_group() -> None:
    done = CliRunner().invoke(app, ["methods"])
    words = [text.split()[0] for text in done.output.splitlines() if text[:1] == " " and text.strip()]
    words = words[: words.index("backbone")]
    order = ["baseline"]
    for group in GROUPS:
        order += [group, *(name for name, one in METHODS.items() if one.group == group and name != "baseline")]
    assert done.exit_code == 0 and [word for word in words if word in order] == order


def test_the_best_in_python(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(to_csv(in_groups()))
    assert set(reidgen.table(best=1, results=tmp_path)["method"]) == {"baseline", "snr", "bau"}
