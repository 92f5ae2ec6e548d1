"""From a number of the table to its runs and commands."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_significance import simulate
from test_tables import frame, row

from reidgen.errors import ReidgenError
from reidgen.recipe import RECIPES, load_recipe
from reidgen.tables.compare import make_table
from reidgen.tables.explain import explain as explain_cell


def explain(rows: pd.DataFrame, cell: str, *, results: Path, **of_table: Any) -> str:
    return explain_cell(make_table(rows, **of_table), cell, rows=rows, results=results)


def small():  # type: ignore[no-untyped-def]
    rows = [row(m, t, seed=s, split=p, mAP=0.3 + s / 10 + p / 100)
            for m in ("baseline", "snr") for t in ("duke", "synth-mall", "market") for s in (0, 1) for p in (0, 1)]  # fmt: skip
    return frame(*rows, row("snr", "duke", source="duke"), row("snr", "duke", hash="0000", mAP=0.9))


def test_the_whole_text(tmp_path: Path) -> None:
    assert explain(small(), "snr market duke", results=tmp_path) == (
        """SNR, market → duke
mAP     35.50 ± 7.07 over 2 seeds ± 0.71 over 2 splits; 0.0 against Baseline
Rank-1  50.00 ± 0.00 over 2 seeds ± 0.00 over 2 splits; 0.0 against Baseline

mAP     R1      splits queries gallery run
30.50   50.00   2      100     400     market/snr-tiny-s0-1a2b3c4d5e6f7788
        mAP of the splits 30.0, 31.0
40.50   50.00   2      100     400     market/snr-tiny-s1-1a2b3c4d5e6f7788
        mAP of the splits 40.0, 41.0

recipe    quick@1a2b3c4d
backbone  tiny
seeds     0, 1
reidgen   0.1.0
commit    abc1234
torch     2.9.1
device    cpu
threads   not known
dtype     float32
evaluated 2026-05-01
source    market@bbbb2222
target    duke@aaaa1111

to repeat it:
    git checkout abc1234
    reidgen prepare market duke
    reidgen train --method snr --source market --seed 0 --recipe quick --results again
    reidgen evaluate market/snr-tiny-s0-1a2b3c4d5e6f7788 --target duke --results again
    reidgen train --method snr --source market --seed 1 --recipe quick --results again
    reidgen evaluate market/snr-tiny-s1-1a2b3c4d5e6f7788 --target duke --results again
run folders are gone, so settings other than these are not known here; the new ones must end in 1a2b3c4d5e6f7788

left out: 1 row of the same method, source and target, repeated by later ones or made otherwise (the table's notes say how)
"""
    )


@pytest.mark.parametrize(
    ("cell", "head"),
    [
        ("snr,market,mall", "SNR, market → synth-mall"),
        ("market → mall snr", "SNR, market → synth-mall"),
        ("snr market mean of unseen", "SNR, market → mean of unseen"),
        ("SNR market mean", "SNR, market → mean of unseen"),
        ("snr market unseen", "SNR, market → mean of unseen"),
        ("baseline duke", "Baseline, market → duke"),
        ("duke snr duke", "SNR, duke → duke"),
        ("snr/market/market", "SNR, market → market"),
    ],
)
def test_what_a_user_would_type(cell: str, head: str, tmp_path: Path) -> None:
    assert explain(small(), cell, results=tmp_path).splitlines()[0] == head


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("snr mall duke", "no cell of the table is 'snr mall duke'; say METHOD SOURCE TARGET, one of: baseline market"),
        ("snr duke", "several cells are 'snr duke'; say METHOD SOURCE TARGET, one of: snr market duke"),
        ("", "no cell of the table is ''; say"),
        ("a b c d", "no cell of the table is 'a b c d': nothing in it is called 'a', 'b', 'c', 'd'; say"),
        ("foo duke", "no cell of the table is 'foo duke': nothing in it is called 'foo'; say"),
    ],
)
def test_unclear_cells_are_errors_that_list_them(cell: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ReidgenError) as raised:
        explain(small(), cell, results=tmp_path)
    assert str(raised.value).startswith(says) and "\n" not in str(raised.value)


def test_the_mean_lists_every_run_and_target(tmp_path: Path) -> None:
    text = explain(small(), "snr market mean", results=tmp_path)
    assert text.count("s0-1a2b3c4d5e6f7788 → ") == 2 and " → market" not in text
    assert "--target duke,synth-mall --results again" in text


def test_a_kept_run_folder_gives_its_recipe(tmp_path: Path) -> None:
    """The recipe file with --source, --method and --seed is the run's recipe: the same hash."""
    recipe = RECIPES["quick"].change(method="snr", source="market", seed=1, epochs=3)
    file = tmp_path / "runs/market/snr-tiny-s1-1a2b3c4d5e6f7788/recipe.toml"
    file.parent.mkdir(parents=True)
    file.write_text(recipe.to_toml())
    text = explain(small(), "snr market duke", results=tmp_path)
    assert f"--seed 1 --recipe {file} --results again" in text
    assert load_recipe(str(file)).change(method="snr", source="market", seed=1) == recipe


def test_settings_the_rows_know_are_given(tmp_path: Path) -> None:
    rows = frame(
        row("snr", "duke", source="market-all", recipe="paper", commit="abc+"), row("snr", "duke", recipe="mine")
    )
    text = explain(rows, "snr market-all duke", results=tmp_path)
    assert "--recipe paper --backbone tiny --results" in text and "reidgen prepare market duke" in text
    assert "git checkout abc   # some files had been changed" in text
    assert f"--recipe {tmp_path / 'mine.toml'}" in explain(rows, "snr market duke", results=tmp_path)
    (tmp_path / "recipe.toml").touch()  # as published folders have it
    assert f"--recipe {tmp_path / 'recipe.toml'}" in explain(rows, "snr market duke", results=tmp_path)
    (tmp_path / "mine.toml").touch()
    assert f"--recipe {tmp_path / 'mine.toml'}" in explain(rows, "snr market duke", results=tmp_path)


def test_the_difference_is_the_tables(tmp_path: Path) -> None:
    """The words of the table's finding stand in the explanation, with the same digits and mark."""
    rows, identities = simulate(targets={"duke": 1, "viper": 1}, seeds=2)
    (finding, *_) = [n.text for n in make_table(rows, identities=identities).findings if "minus Baseline" in n.text]
    words = finding.partition(" SNR ")[2]
    text = explain(rows, "snr market mean", results=tmp_path, identities=identities)
    assert "95 %" in finding and f"; {words} against Baseline, p" in text.splitlines()[1]


def test_the_papers_difference_is_the_tables(tmp_path: Path) -> None:
    rows = frame(row("snr", "duke", mAP=0.25, rank1=0.5), row("baseline", "duke"))
    text = explain(rows, "snr duke", results=tmp_path, paper=True)
    assert "paper 33.6, difference −8.6" in text and "33.6 (−8.6)" in make_table(rows, paper=True).markdown()


def test_a_difference_over_fewer_seeds_says_so(tmp_path: Path) -> None:
    rows = frame(*(row("snr", "duke", seed=s, mAP=0.3 + s / 10) for s in (0, 1)), row("baseline", "duke"))
    assert "; 0.0 against Baseline over the 1 seed of both" in explain(rows, "snr duke", results=tmp_path)


def test_the_mean_is_explained_by_its_targets_and_seeds_alone(tmp_path: Path) -> None:
    rows = frame(
        *(row(m, t, seed=s) for m in ("baseline", "snr") for t in ("duke", "viper") for s in (0, 1)),
        row("snr", "duke", seed=2),
        row("snr", "pku"),
        row("snr", "mycams"),
    )
    text = explain(rows, "snr mean", results=tmp_path)
    assert text.count(" → duke") == text.count(" → viper") == 2 and "pku" not in text and "mycams" not in text


def test_backbone_or_hash_says_which_of_several(tmp_path: Path) -> None:
    rows = frame(row("snr", "duke"), row("snr", "duke", backbone="resnet50", hash="9999eeee", mAP=0.5))
    with pytest.raises(ReidgenError, match="several cells are 'snr duke'; say METHOD SOURCE TARGET BACKBONE HASH"):
        explain(rows, "snr duke", results=tmp_path)
    for words in ("snr duke resnet50", "9999 snr duke"):
        assert "mAP     50.00" in explain(rows, words, results=tmp_path)


def test_a_variants_name_holds_together(tmp_path: Path) -> None:
    rows = frame(row("snr(a=1,b=2)", "duke"), row("snr", "duke"))
    assert explain(rows, "SNR(a=1,b=2) duke", results=tmp_path).startswith("SNR (a=1, b=2), market → duke")


def test_a_variant_is_trained_again_by_its_settings(tmp_path: Path) -> None:
    """Of a run whose folder is gone, the part that has the parameter is named; `snr.distance` is SNR's."""
    text = explain(frame(row("snr(distance=euclidean)", "duke", row="abcd1234")), "duke", results=tmp_path)
    assert "--method snr --source market --seed 0 --recipe quick --set snr.distance=euclidean --results again" in text
    assert "reidgen evaluate market/snr-tiny-s0-1a2b3c4d5e6f7788-abcd1234 --target duke" in text


def test_commands_are_quoted_for_the_shell(tmp_path: Path) -> None:
    """What stands in the rows is one word to a shell: nothing of it runs."""
    evil = "x;touch pwned #"
    folder = tmp_path / "my results"
    rows = frame(row("snr", f"d {evil}", commit=f"{evil}+", source=f"s {evil}", recipe=f"r {evil}"))
    text = explain(rows, "snr", results=folder)
    commands = text.partition("to repeat it:\n")[2].partition("run folders")[0].splitlines()
    assert len(commands) == 4
    words = [shlex.split(command.partition("   #")[0] if "checkout" in command else command) for command in commands]
    assert words[0][:3] == ["git", "checkout", evil] and words[1] == ["reidgen", "prepare", f"s {evil}", f"d {evil}"]
    assert str(folder / f"r {evil}.toml") in words[2]
    script = "git() { :; }; reidgen() { :; }\n" + "\n".join(commands)
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True)
    assert not (tmp_path / "pwned").exists()


def test_the_interval_is_the_tables(tmp_path: Path) -> None:
    rows, identities = simulate(targets={"duke": 1}, seeds=2)
    cells = make_table(rows, identities=identities).cells
    found = cells[(cells["method"] == "snr") & (cells["target"] == "duke")].iloc[0]
    text = explain(rows, "snr duke", results=tmp_path, identities=identities)
    assert f"[{found['gain_mAP_low']:+.1f}, {found['gain_mAP_high']:+.1f}]" in text
