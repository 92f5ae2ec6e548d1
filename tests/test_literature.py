"""Published numbers: the file is well formed and agrees with itself, and stands beside ours where both are of one thing."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from tabled import PAPER, frame, row, said
from typer.testing import CliRunner, Result

from reidgen.catalogue import family_of, load_catalogue, split_all
from reidgen.cli import app
from reidgen.errors import ReidgenError
from reidgen.protocols import load_protocols
from reidgen.rows import to_csv
from reidgen.tables import compare
from reidgen.tables.compare import MEAN, make_table
from reidgen.tables.literature import COLUMNS, HEAD, TAGS, meant, of_targets, published

FILE = Path(compare.__file__).with_name("literature.csv")
P1 = "market-all+cuhk02+cuhk03-np-detected-all+cuhk-sysu"
SMALL = ("prid", "grid", "viper", "ilids")


def table(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["table", *map(str, words)])


# The file


def test_every_row_is_of_known_sets_protocols_and_tags() -> None:
    rows, sets = published(), load_catalogue()
    families = {family_of(name, sets) for name in sets}
    assert tuple(rows.columns) == COLUMNS and tuple(FILE.read_text().splitlines()[0].split(",")) == COLUMNS
    assert set(rows["target"]) <= families | {MEAN}
    assert {split_all(part)[0] for source in rows["source"] if source for part in source.split("+")} <= families
    others = {"supervised", "single-all", "synthetic", "test-time"}
    assert set(rows["protocol"]) <= set(load_protocols(Path())) | others
    assert set(rows["tag"]) == set(TAGS)
    for name in ("method", "printed"):
        assert rows[name].str.strip().eq(rows[name]).all() and rows[name].ne("").all()
    assert rows["year"].dropna().between(2016, 2026).all()


def test_every_number_is_a_percentage_with_one_decimal() -> None:
    rows = published()
    numbers = rows[["mAP", "rank1"]]
    assert numbers.notna().any(axis=1).all() and ((numbers > 0) & (numbers < 100) | numbers.isna()).all(axis=None)
    texts = pd.read_csv(FILE, dtype=str, keep_default_na=False)
    assert pd.concat([texts["mAP"], texts["rank1"]]).map(lambda text: bool(re.fullmatch(r"\d{1,2}\.\d|", text))).all()
    both = rows[numbers.notna().all(axis=1)]
    classes = both["target"].isin(["market", "duke", "msmt17"])  # many matches for a query: Rank-1 is above mAP
    assert (both["rank1"] > both["mAP"])[classes].all()


def test_no_two_rows_say_the_same_thing() -> None:
    keys = ["protocol", "source", "target", "method", "backbone", "printed"]
    assert not published().duplicated(keys).any()


def test_a_row_of_a_protocol_is_of_one_of_its_cells() -> None:
    protocols = load_protocols(Path())
    rows = published()[published()["protocol"].isin(set(protocols) - {"single"})]
    for protocol, source, target in rows[["protocol", "source", "target"]].itertuples(index=False, name=None):
        cells = {meant(one): targets for one, targets in protocols[protocol].cells.items()}
        if target == MEAN:
            assert source == "" or meant(source) in cells
        else:
            assert target in cells[meant(source)], (protocol, source, target)
    alone = published()[published()["protocol"].isin(["single", "single-all", "synthetic"])]
    assert not alone["source"].str.contains("+", regex=False).any() and (alone["source"] != alone["target"]).all()
    own = published()[published()["protocol"] == "supervised"]
    assert (own["source"] == own["target"]).all()


def test_printed_means_are_those_of_the_printed_targets() -> None:
    """Whoever prints all targets of a protocol and their mean: the two agree, but for rounding."""
    rows = published()[published()["protocol"].isin(["p1", "p1-duke", "p2", "p3"])]
    checked = 0
    for (protocol, *_), own in rows.groupby(["protocol", "method", "printed"]):
        own = own.set_index("target")[["mAP", "rank1"]]
        if MEAN in own.index and len(own) == (5 if protocol.startswith("p1") else 4):
            found = own.drop(index=MEAN).to_numpy().mean(axis=0)
            assert np.abs(found - own.loc[MEAN].to_numpy(dtype=float)).max() < 0.11, (protocol, own)
            checked += 1
    assert checked >= 18


def test_snr_is_that_of_the_papers_tables() -> None:
    own = published()[published()["printed"].str.contains("its slides")]
    main = PAPER[(PAPER["table"] == "main") & PAPER["method"].isin(["snr", "baseline"])]
    keys = ["source", "method", "target", "mAP", "rank1"]
    theirs = main.assign(method=main["method"].map({"snr": "SNR", "baseline": "Baseline"})).rename(
        columns={"map": "mAP"}
    )
    assert sorted(own[keys].itertuples(index=False, name=None)) == sorted(
        theirs[keys].itertuples(index=False, name=None)
    )
    assert set(own["protocol"]) == {"single", "supervised", "snr-multi"} and set(own["year"]) == {2020}
    assert not {"its slides"} & set(pd.read_csv(FILE)["printed"])  # written once


@pytest.mark.parametrize(
    ("method", "words"),
    [("BAU", "the best of epochs 50, 55 and 60"), ("CILP-FGDI", "on the target"), ("PAT", "on the target"), ("MetaBIN", "on the target")],
)  # fmt: skip
def test_whoever_looks_at_the_target_has_a_remark(method: str, words: str) -> None:
    rows = published()[published()["method"] == method]
    assert len(rows) and rows["remark"].str.contains(words).all()


# Of each table that was read, two cells or so as they are printed there: protocol, target, method, mAP / Rank-1, tag.
PRINTED = """
p1 prid CILP-FGDI 80.1/71.0 R
p1 viper BAU 74.6/66.1 D
p1 ilids ACL 86.5/81.8 R
p1-duke mean_of_unseen MetaBIN 72.3/64.7 R
p2 cuhk03 META 36.3/35.1 R
p2 market BAU 77.1/90.4 D
p3 msmt17 GMN 24.8/51.0 R
single market->duke MUVA 52.0/72.1 N
single duke->msmt17 PAT 19.2/43.9 N
single msmt17->market CLIP-FGDI_(rerun) 44.7/73.0 N
single market->duke DSU 32.0/52.0 D
single duke->market DSU 32.4/63.7 D
single duke->market MixStyle 24.1/51.5 N
single duke->market MixStyle_(camera) 29.0/58.2 N
single market->duke SNR 33.6/55.1 N
single market->grid EFDMix 35.5/26.7 N
single market->duke OSNet-AIN 30.5/52.4 R
loo-duke market SVIL 65.0/86.1 N
loo-duke cuhk03 OSNet-AIN 27.1/27.4 R
single-all msmt17-all->duke OSNet-IBN 45.6/67.4 R
"""


@pytest.mark.parametrize("line", PRINTED.strip().splitlines())
def test_a_number_is_the_one_that_was_printed_with_its_tag(line: str) -> None:
    protocol, where, method, numbers, tag = line.split()
    source, target = where.split("->") if "->" in where else ("", where)
    rows = published()
    rows = rows[(rows["protocol"] == protocol) & (rows["target"] == target.replace("_", " "))]
    rows = rows[(rows["method"] == method.replace("_", " ")) & (rows["tag"] == tag)]
    rows = rows[rows["source"] == source] if source else rows
    assert numbers in [f"{row.mAP}/{row.rank1}" for row in rows.itertuples()], rows.to_string()


# Beside ours


def beside(*rows: dict[str, object]) -> pd.DataFrame:
    made = make_table(frame(*rows), literature=True)
    assert made.literature
    return made.literature.rows


def test_it_stands_beside_the_same_source_and_target_alone() -> None:
    rows = beside(row("snr", "duke"), row("baseline", "duke"), row("snr", "grid"))
    assert set(zip(rows["source"], rows["target"], strict=True)) == {("market", "duke"), ("market", "grid")}
    every = published()
    assert len(rows) == ((every["source"] == "market") & every["target"].isin(["duke", "grid"])).sum()


def test_a_familys_set_stands_for_it_and_other_images_do_not() -> None:
    """V2 and its training part are MSMT17; all images, single shots and a gallery with distractors are another thing."""
    assert set(beside(row("snr", "duke", source="msmt17-v2"))["source"]) == {"msmt17"}
    assert set(beside(row("snr", "duke", source="msmt17-v1-all"))["source"]) == {"msmt17-all"}
    assert set(beside(row("snr", "cuhk03-np-labelled"))["target"]) == {"cuhk03"}
    for target in ("cuhk03-detected", "pku"):
        assert beside(row("snr", target)).empty
    assert beside(row("snr", "market-500k", source="duke")).empty
    assert beside(row("snr", "duke", source="market-all")).empty


def test_a_protocols_mean_stands_beside_ours_over_the_same_targets() -> None:
    rows = beside(*(row("snr", target, source=P1) for target in SMALL))
    mean = rows[rows["target"] == MEAN].set_index(["method", "tag"])
    assert mean["mAP"]["CILP-FGDI", "R"] == 82.2 and set(rows["protocol"]) == {"p1"}
    rows = beside(*(row("snr", target, source=P1) for target in SMALL[:3]))
    assert MEAN not in set(rows["target"]) and len(rows)
    multi = beside(row("snr", "cuhk03-np-detected", source="msmt17-v2+market+cuhk-sysu"))
    assert set(multi["protocol"]) == {"p2"} and set(multi["target"]) == {"cuhk03"}


def test_ours_are_ranked_and_tested_as_without_it() -> None:
    """Nothing published is best, second or tested, in no look."""
    rows = frame(row("baseline", "duke", mAP=0.2), row("snr", "duke", mAP=0.25))
    with_it, without = make_table(rows, literature=True), make_table(rows)
    pd.testing.assert_frame_equal(with_it.cells, without.cells)
    assert with_it.markdown().startswith(without.markdown()) and said(with_it.notes) == said(without.notes)
    ours, theirs = with_it.markdown().split(HEAD, 1)
    assert "**25.0**" in ours and not re.search(r"\*\*\d|<ins>|[†‡]", theirs)
    tail = with_it.latex().partition("-published")[2]
    assert tail and not re.search(r"textbf|underline|dagger", tail)
    assert with_it.latex().endswith("\\end{table*}\n\\reidgenend\n")


def test_each_line_says_year_backbone_source_and_tag() -> None:
    made = make_table(frame(row("snr", "duke"), row("snr", "msmt17-v2")), literature=True)
    assert made.literature
    text = made.markdown()
    assert (
        "| MixStyle | 2021 | ResNet-50 | MixStyle, ICLR 2021, arXiv 2104.02008, Table 2 [N] | 23.8 / 42.2 | – |" in text
    )
    assert "| PAT | – | ViT-B/16 | MUVA, arXiv 2603.14012 [N] | 48.9 / 67.9 | 18.2 / 42.8 |" in text
    assert "- PAT: evaluated on the target during training" in text and "ours are of the last epoch" in text
    console = Console(width=100, file=io.StringIO())
    with console.capture() as capture:
        console.print(made.rich())
    screen = capture.get()
    number = re.search(r"(\d+) MUVA, arXiv 2603.14012[;\s]", screen)
    assert number and f"2026, [N] {number[1]}" in screen and "PAT: evaluated on the target" in screen
    assert f"PAT \\emph{{(ViT-B/16, [N] {number[1]})}} & 48.9 & 67.9 & 18.2 & 42.8" in made.latex()
    read = pd.read_csv(io.StringIO(made.literature.csv()), keep_default_na=False, na_values={"mAP": "", "rank1": ""})
    assert read["mAP"].tolist() == pytest.approx(made.literature.rows["mAP"].tolist(), nan_ok=True)


def test_where_nothing_agrees_one_sentence_says_so() -> None:
    made = make_table(frame(row("snr", "synth-mall", source="synth-plaza")), literature=True)
    what = "no published number is known for a source and a target of this table"
    assert (
        f"- {what}\n" in made.markdown() and made.literature and made.literature.json() == {"rows": [], "notes": [what]}
    )
    assert "published" not in made.latex()


# The command


def test_without_runs_it_prints_what_is_published_of_the_targets(tmp_path: Path) -> None:
    done = table("--results", tmp_path, "--literature", "--target", "grid,msmt17-v2")
    assert done.exit_code == 0 and not list(tmp_path.iterdir())
    assert "single" in done.output and "EFDMix" in done.output and "CILP-FGDI" in done.output
    assert "ClonedPerson" not in done.output and "supervised, trained on duke" not in done.output
    found = json.loads(table("--results", tmp_path, "--literature", "--target", "grid", "--json", "--quiet").stdout)
    assert {one["target"] for one in found["rows"]} == {"grid"} and any(one["year"] is None for one in found["rows"])
    every = table("--results", tmp_path, "--literature")
    assert all(f"{HEAD}: {protocol}" in every.output for protocol in ("p1,", "p2", "p3", "loo-duke", "single-all"))
    wrong = table("--results", tmp_path, "--literature", "--target", "dukee")
    assert wrong.exit_code == 1 and "did you mean 'duke'" in wrong.output
    with pytest.raises(ReidgenError, match="no published number is known for it: unknown target 'viperr'"):
        of_targets(["viperr"])


def test_with_runs_it_stands_below_ours_in_every_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(to_csv(frame(row("snr", "duke"), row("baseline", "duke"))))
    done = table("--results", tmp_path, "--literature")
    assert done.exit_code == 0 and done.output.index("mean of unseen: over") < done.output.index(HEAD)
    for name in ("table.md", "table.tex", "table-literature.csv"):
        assert "DTIN" in (tmp_path / name).read_text()
    assert "DTIN" not in (tmp_path / "table.csv").read_text()
    found = json.loads(table("--results", tmp_path, "--literature", "--json", "--quiet").stdout)
    assert len(found["cells"]) == 4 and any(one["method"] == "DTIN" for one in found["literature"]["rows"])
    assert "literature" not in json.loads(table("--results", tmp_path, "--json", "--quiet").stdout)
    other = table("--results", tmp_path, "--literature", "--target", "viper")
    assert other.exit_code == 0 and "there are no results on viper" in other.output and HEAD in other.output


def test_the_papers_own_table_has_it_below_too(tmp_path: Path) -> None:
    done = table("--results", tmp_path, "--paper", "--literature")
    assert done.exit_code == 0 and "the paper's numbers" in done.output and HEAD in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("stress", "--literature"), "do not go with stress"),
        (("--literature", "--explain", "snr"), "--literature does not go with --explain"),
        (("--best", "3", "--explain", "snr"), "--best does not go with --explain"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = table("--results", tmp_path, *words)
    assert done.exit_code == 1 and says in " ".join(done.output.split())
