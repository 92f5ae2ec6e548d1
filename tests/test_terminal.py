"""What is printed: on any encoding, with any name, on a full device, into a pipe; and what `table` does with its options."""

import errno
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import seal
from rich.console import Console
from tabled import frame, row
from test_significance import simulate
from typer.testing import CliRunner
from warm import Command

from reidgen import files, terminal
from reidgen.cli import app
from reidgen.commands import tables
from reidgen.errors import ReidgenError
from reidgen.escapes import no_formula, visible
from reidgen.methods import TABLES
from reidgen.robustness.tables import stress_table
from reidgen.robustness.trials import STRESS
from reidgen.rows import to_csv
from reidgen.runs import Run
from reidgen.tables.compare import make_table
from reidgen.tables.identities import keep_identities, run_names

EVIL = "[red]x\x1b[31m\u202ey[/red]"  # markup, a terminal sequence and a mark that turns the line round


def save(results: Path, rows: pd.DataFrame) -> Path:
    results.mkdir(exist_ok=True)
    (results / "rows.csv").write_text(to_csv(rows), encoding="utf-8")
    return results


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two seeds, with marks and intervals."""
    folder = tmp_path_factory.mktemp("simulated") / "results"
    rows, identities = simulate(targets={"duke": 1, "viper": 1}, seeds=2)
    save(folder, rows)
    keep_identities(folder, identities)
    return folder


@pytest.fixture
def results(simulated: Path, tmp_path: Path) -> Path:
    """A copy of it, to write into."""
    shutil.copytree(simulated, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, (done.output, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.output


def read_json(*words: str) -> Any:
    """The document on stdout, which holds nothing else."""
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def made_once(simulated: Path) -> Iterator[Path]:
    """That folder, of which each table is made once, and printed by every encoding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_make", functools.cache(tables._make))
        yield simulated


@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "gbk", "ascii", "utf-8"])
@pytest.mark.parametrize("words", [("table",), ("table", "--explain", "snr mean"), ("table", "main", "--paper")])
def test_what_can_be_printed_is_printed(encoding: str, words: tuple[str, ...], made_once: Path) -> None:
    """Every character of ours becomes one that the encoding has; the digits stay."""
    done = CliRunner(charset=encoding).invoke(app, [*words, "--results", str(made_once)])
    assert done.exit_code == 0, done.exception
    text = done.stdout_bytes.decode(encoding)
    assert "mean of unseen" in text and "�" not in text and "?" not in text
    if encoding == "ascii" and words == ("table",):
        assert "written:" in text and " +-" in text


@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "ascii"])
def test_the_bar_is_drawn_on_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    screen = Screen(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    terminal.err.cache_clear()
    terminal.printable_output()
    with terminal.progress() as report:
        report("grid – José ±", 1, 2)
    terminal.err.cache_clear()
    screen.flush()
    text = screen.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "1/2" in text and "---" in text and ("grid - Jose +-" if encoding == "ascii" else "grid - José ±") in text


def test_an_error_is_printed_on_any_encoding(results: Path) -> None:
    done = CliRunner(charset="ascii").invoke(app, ["table", "--results", str(results), "--target", "Müller–東"])
    assert done.exit_code == 1 and b"no results of target 'Muller-?'" in done.output_bytes


def test_the_commands_output_on_a_plain_console(results: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "200"}
    words = [sys.executable, "-m", "reidgen", "table", "--results", str(results)]
    shown = subprocess.run(words, capture_output=True, env=environment)
    assert shown.returncode == 0 and shown.stderr == b"" and b"written:" in shown.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_one_sentence(results: Path) -> None:
    done = Command(results / "said", "table", "--results", results, out=Path("/dev/full"))
    assert done.ended() == 1
    assert done.err.read_text() == (
        "error: cannot write the output or read the input: No space left on device; what is finished is kept\n"
    )


def test_a_reader_that_goes_ends_in_silence(results: Path) -> None:
    pipe = results / "pipe"
    os.mkfifo(pipe)
    done = Command(results / "said", "table", "--results", results, out=pipe)
    with pipe.open("rb", buffering=0) as reader:
        assert reader.read(1)
    assert done.ended() in (0, 1) and done.err.read_text() == ""


def test_a_notebooks_backend_does_not_end_the_report(results: Path) -> None:
    backend = "module://matplotlib_inline.backend_inline"
    done = Command(results / "said", "report", "--results", results, MPLBACKEND=backend)
    assert done.ended() == 0 and done.err.read_text() == "", done.err.read_text()


@pytest.mark.parametrize("name", ["table", "report"])
def test_a_name_of_300_characters_is_one_sentence(name: str) -> None:
    text = run(name, "--results", "x" * 300, code=1)
    assert text.startswith("error: ") and text.count("\n") == 1 and "name too long" in text


def test_control_characters_and_markup_are_shown(tmp_path: Path) -> None:
    """A folder of crops, a recipe, a method and a commit whose names would colour, turn or break the line."""
    rows = frame(
        *(row(f"m{EVIL}", f"t{EVIL}", mAP=0.3, source=f"s{EVIL}", commit=EVIL, recipe=EVIL, title=EVIL) for _ in "1")
    )
    text = run("table", "--results", str(save(tmp_path, rows)))
    shown = r"[red]x\x1b[31m\u202ey[/red]"
    assert "\x1b" not in text and "\u202e" not in text
    assert text.replace("\n", "").replace(" ", "").count(shown) >= 5
    for name in ("table.md", "table.tex"):
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert "\x1b" not in written and "\u202e" not in written
    assert all(len(cells.split(" | ")) == 2 for cells in (tmp_path / "table.md").read_text().splitlines()[:4])


def test_a_line_end_in_a_name_breaks_no_table(tmp_path: Path) -> None:
    table = make_table(frame(row("a\n\nb|c", "duke")))
    assert "| a\\\\n\\\\nb\\|c | " in table.markdown()
    assert r"a\textbackslash{}n\textbackslash{}nb\textbar{}c & " in table.latex()


def test_errors_show_what_they_name(tmp_path: Path) -> None:
    save(tmp_path, frame(row("snr", "duke")))
    text = run("table", "--results", str(tmp_path), "--target", EVIL, code=1)
    assert "\x1b" not in text and r"[red]x\x1b[31m\u202ey[/red]" in text.replace("\\\\", "\\")


def test_robustness_tables_show_markup_too() -> None:
    made = {
        **dict.fromkeys(STRESS, "0"),
        "source": "[red]x",
        "target": "a|b",
        "method": "m",
        "title": "[bold]m",
        "where": "query",
    }
    rows = pd.DataFrame([{**made, "shift": "clean"}]).astype(STRESS)
    table = stress_table(rows)
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        for grid in table.grids:
            console.print(grid.rich())
    assert "[red]x on a|b" in capture.get() and "[bold]m" in capture.get()
    assert "**[red]x on a\\|b" in table.markdown()


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_name_is_a_formula(name: str) -> None:
    table = make_table(frame(row(name, name, source=name, recipe=name, title=name)))
    cells = pd.read_csv(io.StringIO(table.csv()), dtype=str, keep_default_na=False)
    assert {cells.loc[0, column] for column in ("source", "method", "target", "title")} == {f"'{name}"}
    assert not cells.map(lambda text: text[:1] in tuple("=@+") or text == "-1").any(axis=None) or name == "-1"
    assert no_formula("snr") == "snr" and visible("a b") == "a b"


def test_table_prints_before_it_writes_and_needs_no_right_to_write(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, text: str) -> None:
        print("WRITING")
        raise ReidgenError(f"cannot write {path}: Read-only file system") from OSError(errno.EROFS, "Read-only")

    monkeypatch.setattr(files, "write_text", refuse)
    text = run("table", "--results", str(results))
    assert text.index("SNR") < text.index("WRITING")
    assert "note: printed only, as results cannot be written there: cannot write" in text


def test_a_full_disk_is_an_error_after_the_table_was_printed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> None:
        raise ReidgenError(f"cannot write {path}: No space left") from OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(files, "write_text", refuse)
    text = run("table", "--results", str(results), code=1)
    assert "SNR" in text and text.splitlines()[-1].startswith("error: cannot write")


def test_table_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """From run folders at first, then with what the first one kept: the same digits, up to the last p-value."""
    rows, identities = simulate(targets={"duke": 1, "viper": 2}, seeds=2)
    rows["run"] = run_names(rows)
    for name, block in rows.groupby("run"):
        folder = Run(tmp_path / "runs" / str(name))
        folder.folder.mkdir(parents=True)
        folder.results.write_text(to_csv(block))
        own = identities[identities["run"] == name]
        queries = own.loc[own.index.repeat(3)].assign(ap=lambda part: part["mAP"] / 3, camid=0, path="x", inp=0.1)
        place = queries.groupby(["target", "split", "pid"]).cumcount()
        queries["first_match"] = (place >= queries["rank1"]).astype(int) + 1
        columns = ["target", "split", "path", "pid", "camid", "ap", "first_match", "inp"]
        queries[columns].to_csv(folder.per_query, index=False, float_format="%.6g")
        seal(folder.results, folder.per_query)
    made = []
    for _ in range(3):
        text = run("table", "--results", str(tmp_path))
        made.append(
            {file.name: file.read_bytes() for file in tmp_path.glob("*.*") if file.is_file()} | {"": text.encode()}
        )
    assert "gain_mAP_p" in made[0]["table.csv"].decode() and "identities.csv.gz" in made[0]
    assert made[0] == made[1] == made[2]


def test_json_is_all_that_is_printed(results: Path) -> None:
    document = read_json("table", "--results", str(results))
    cells = pd.DataFrame(document["cells"])
    table = pd.read_csv(results / "table.csv")
    assert cells["mAP"].tolist() == table["mAP"].tolist() and cells["paper_mAP"].isna().all()
    assert document["cells"][0]["hash"] == "1a2b3c4d5e6f7788" and document["notes"] == []
    assert len(read_json("table", "all", "--results", str(results))) == len(TABLES)
    assert "--json does not go with --explain" in run(
        "table", "--json", "--explain", "x", "--results", str(results), code=1
    )


def test_the_options_select(results: Path) -> None:
    options = [
        "--target",
        "duke",
        "--methods",
        "baseline,snr",
        "--seeds",
        "0,",
        "--recipe",
        "1a2b",
        "--backbone",
        "tiny",
    ]
    document = read_json("table", "--results", str(results), *options)
    cells = {(cell["method"], cell["target"], cell["seeds"]) for cell in document["cells"]}
    assert cells == {(m, t, 1) for m in ("baseline", "snr") for t in ("duke", "mean of unseen")}
    assert "--seeds '1,x' is neither" in run("table", "--results", str(results), "--seeds", "1,x", code=1)


def test_two_recipes_the_run_folders_say_in_what_they_differ(tmp_path: Path) -> None:
    rows = frame(row("snr", "duke"), row("baseline", "duke"), row("snr", "viper", hash="ffff"))
    for name, lr in zip(run_names(rows), (1.0, 1.0, 2.0), strict=True):
        folder = Run(tmp_path / "runs" / name)
        folder.folder.mkdir(parents=True)
        folder.recipe_file.write_text(f'method = "x"\nseed = 3\nepochs = 4\nlr = {lr}\n')
    text = run("table", "--results", str(save(tmp_path, rows)))
    assert "made otherwise: recipe quick@ffff, lr 2.0 (here 1.0) (to show them: --recipe ffff)" in text


def test_the_papers_table_needs_no_run(tmp_path: Path) -> None:
    """SNR from Market, unseen: (33.6 + 42.2 + 36.7 + 42.3 + 65.6) / 5 = 44.08."""
    text = run("table", "--paper", "--results", str(tmp_path))
    assert "no run of ours" in text and "44.1" in text and not list(tmp_path.iterdir())
    assert "33.6" in run("table", "loss", "--paper", "--results", str(tmp_path))
    assert "there is no table placement in the paper" in run(
        "table", "placement", "--paper", "--results", str(tmp_path), code=1
    )
    assert "no run of ours" in run("table", "all", "--paper", "--results", str(tmp_path))
    assert "there are no results yet" in run("table", "--results", str(tmp_path), code=1)


def test_paper_shows_what_the_paper_has_or_was_asked_for(tmp_path: Path) -> None:
    rows = [row("snr", "duke"), row("snr", "pku"), row("snr", "synth-mall", source="synth-plaza")]
    save(tmp_path, frame(*rows))
    document = read_json("table", "--paper", "--results", str(tmp_path))
    assert {cell["target"] for cell in document["cells"]} == {"duke", "mean of unseen"}
    (note,) = [note for note in document["notes"] if note.startswith("not shown")]
    assert "source synth-plaza, target pku, target synth-mall" in note
    asked = read_json("table", "--paper", "--results", str(tmp_path), "--target", "duke,pku")
    assert {cell["target"] for cell in asked["cells"]} == {"duke", "pku", "mean of unseen"}


@pytest.mark.parametrize("words", [(), ("main",), ("--target", "grid"), ("main", "--target", "grid,viper")])
def test_the_papers_table_stands_alone_beside_runs_that_it_lacks(tmp_path: Path, words: tuple[str, ...]) -> None:
    """SNR from Market on GRID: 36.7 in the paper. Runs of a source that it lacks are not laid out, and nothing is
    written; with --target they are, where they have it.
    """
    kept = save(tmp_path, frame(row("snr", "synth-mall", source="synth-plaza"), row("snr", "pku")))
    before = {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()}
    document = read_json("table", *words, "--paper", "--results", str(tmp_path))
    cells = {(one["source"], one["method"], one["target"]): one["mAP"] for one in document["cells"]}
    assert cells["market", "snr", "grid"] == 36.7 and not {"synth-plaza", "synth-mall", "pku"} & {*sum(cells, ())}
    assert "--target" not in words or {target for *_, target in cells} <= {"grid", "viper", "mean of unseen"}
    text = run("table", *words, "--paper", "--results", str(tmp_path))
    assert "no run of ours" in text and ("note: there are no results of ours" in text) == ("--target" in words)
    assert "no numbers for any of the results" in text or "--target" in words
    assert {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()} == before


def test_the_papers_table_stands_for_plain_tests_alone(tmp_path: Path) -> None:
    """Beside runs that the paper lacks; of other tests there is nothing of the paper's to show, and that is said."""
    rows = frame(row("snr", "synth-mall", source="synth-plaza"))
    save(tmp_path, pd.concat([rows, rows.assign(test="centre")]))
    options = ("table", "--paper", "--results", str(tmp_path), "--test")
    assert "no run of ours" in run(*options, "plain,centre")
    text = run(*options, "centre", code=1)
    assert "the paper has no numbers for any of the results" in text and "no results of target" not in text


def test_targets_of_which_only_the_paper_has_numbers_are_a_note(tmp_path: Path) -> None:
    save(tmp_path, frame(row("snr", "duke"), row("snr", "pku")))
    options = ("table", "--paper", "--results", str(tmp_path))
    made = read_json(*options, "--target", "duke,prid", "--methods", "snr,in")
    assert {one["target"] for one in made["cells"]} == {"duke", "mean of unseen"}
    notes = [one for one in made["notes"] if "no results of ours" in one]
    assert notes == [
        f"there are no results of ours of the {what} (the paper's own numbers: reidgen table --paper {option})"
        for what, option in (("target prid", "--target prid"), ("method in", "--methods in"))
    ]
    assert "no results of target 'gird'" in run(*options, "--target", "gird", code=1)
    assert "no results of seed '7'" in run(*options, "--seeds", "7", code=1)
    assert "no results of target 'grid'" in run("table", "--results", str(tmp_path), "--target", "grid", code=1)


def test_latex_has_a_label_no_commands_and_two_hyphens(tmp_path: Path) -> None:
    rows = [row("snr", t) for t in ("duke", "mycams")] + [row("baseline", "duke"), row("a--b", "duke")]
    text = make_table(frame(*rows)).latex()
    assert r"\label{tab:reidgen}" in text and "reidgen evaluate" not in text and "--target" not in text
    assert "a-{}-b & " in text and "mycams is no set of the catalogue" in text
    assert r"\label{tab:reidgen-main}" in make_table(frame(*rows), name="main").latex()


def test_a_ctrl_c_while_an_object_is_freed_is_neither_shown_nor_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from reidgen.__main__ import _unraisable

    class Freed:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", _unraisable)
    with pytest.raises(KeyboardInterrupt):
        freed = Freed()
        del freed
        time.sleep(5)
    assert capsys.readouterr().err == ""


def test_a_name_with_colons_is_no_emoji() -> None:
    console = terminal._console(stderr=False)
    with console.capture() as printed:
        console.print("[bold]:smile:[/]", markup=True)
    assert printed.get() == ":smile:\n"
