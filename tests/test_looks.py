"""What a table looks like as Markdown (one golden file), CSV, LaTeX and in a terminal."""

import functools
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tabled import NAMES, PAPER, compared, frame, of_paper, row, screen, small

from reidgen.methods import METHODS
from reidgen.rows import percent
from reidgen.tables import compare, looks
from reidgen.tables.choose import Note
from reidgen.tables.compare import make_table
from reidgen.tables.formats import difference, signed

GOLDEN = Path(__file__).parent / "golden" / "table.md"


def test_what_a_block_is_called_is_folded_only_where_there_is_no_room() -> None:
    rows = [row("snr", target, test="flip+centre") for target in ("duke", "viper", "grid", "prid", "ilids", "cuhk03")]
    lines = screen(make_table(frame(*rows[:2])), 80).splitlines()
    assert any(line.rstrip() == " market, tested with flip+centre" for line in lines)
    assert all(len(line) <= 80 for line in lines)
    assert not any("market, tested with flip" in line for line in screen(make_table(frame(*rows)), 80).splitlines())


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


def test_golden_markdown() -> None:
    """The whole table equals tests/golden/table.md. To renew it (then read the difference):

    PYTHONPATH=tests python -c "import test_looks as t; t.GOLDEN.write_text(t.make_table(t.small(), paper=True).markdown())"
    """
    assert make_table(small(), paper=True).markdown() == GOLDEN.read_text(encoding="utf-8")


def test_an_end_of_an_interval_keeps_its_side_of_nothing() -> None:
    cell = {"gain_mAP": -3.3, "gain_mAP_p": 0.04, "gain_mAP_low": -6.6, "gain_mAP_high": -0.009, "gain_seeds": 2}
    assert difference(cell | {"gain_mAP_holm": 1.0}) == "−3.3 [−6.6, −0.0]"
    assert signed(-0.009) == "0.0"


def test_a_score_has_one_rounding_whether_it_comes_from_a_file_or_not() -> None:
    for exact in np.random.default_rng(0).integers(0, 10_000, 2000) / 10_000 + 4e-9:
        assert percent(exact) == percent(float(f"{exact:.6g}"))


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
