"""The commands as a user meets them: help, one-line errors, exit codes, no torch where none is needed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import SMALL, grid_toml, quiet
from typer.main import get_command
from typer.testing import CliRunner, Result
from warm import Command

from reidgen import __version__
from reidgen.cli import app
from reidgen.recipe import RECIPES, load_recipe
from reidgen.registry import select_methods
from reidgen.training import train

ROOT = Path(__file__).parents[1]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
PLACES = {"--data", "--results", "--device", "--plugin"}
ELSEWHERE = {"--model", "--weights", "--trained-on", "--input"}
RECIPE = {"--recipe", "--backbone", "--weights", "--epochs", "--compile", "--set"}
OPTIONS = {
    "prepare": {"--from", "--pattern", "--accept-counts", "--list", "--check", "--deep", "--splits", "--data"}
    | {"--accept-duplicates", "--json", "--quiet"},
    "methods": {"--plugin", "--quiet"},
    "train": {"--method", "--source", "--seed", "--log", "--quiet"} | RECIPE | PLACES,
    "evaluate": {"--target", "--test", "--set", "--json", "--quiet"} | ELSEWHERE | PLACES,
    "bench": {"--source", "--protocol", "--target", "--test", "--methods", "--seeds", "--dry-run", "--log", "--quiet"}
    | {"--on", "--wait", "--partition", "--gpus", "--hours", "--memory", "--parallel", "--setup", "--status", "--json"}
    | RECIPE
    | PLACES,
    "table": {
        "--against",
        "--backbone",
        "--explain",
        "--best",
        "--json",
        "--literature",
        "--methods",
        "--paper",
        "--plugin",
        "--quiet",
        "--recipe",
        "--results",
        "--seeds",
        "--target",
        "--test",
    },
    "report": {"--images", "--results", "--plugin", "--quiet"},
    "show": {"--target", "--quiet"} | PLACES,
    "stress": {"--target", "--where", "--picture", "--quiet"} | ELSEWHERE | PLACES,
    "export": {"--out", "--format", "--pixels", "--resize", "--plugin", "--data", "--results", "--json", "--quiet"},
    "speed": {"--methods", "--recipe", "--backbone", "--compile", "--set", "--plugin", "--device", "--quiet"},
    "embed": {
        "--images",
        "--out",
        "--model",
        "--weights",
        "--input",
        "--pattern",
        "--test",
        "--set",
        "--plugin",
        "--results",
        "--device",
        "--json",
        "--quiet",
    },
    "search": {"--query", "--top", "--by", "--out", "--page", "--images", "--approximate-above", "--run", "--plugin"}
    | {"--results", "--device", "--json", "--quiet"},
    "judge": {"--target", "--images", "--pattern", "--queries", "--pairs", "--count", "--labels", "--out", "--json"}
    | ELSEWHERE
    | {"--quiet"}
    | PLACES,
    "attack": {"--target", "--from", "--losses", "--bound", "--quiet"} | PLACES,
}


def reidgen(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_option_set_is_frozen() -> None:
    """Few dials, the same everywhere: a new option is a decision, made here too."""
    found = {name: {word for p in command.params for word in p.opts if word.startswith("--") and word != "--help"}
             for name, command in COMMANDS.items()}  # fmt: skip
    assert found == OPTIONS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_is_in_the_readme(name: str) -> None:
    result = reidgen(name, "--help")
    assert result.exit_code == 0
    assert f"Example: reidgen {name}" in result.output
    assert f"reidgen {name}" in (ROOT / "README.md").read_text()
    for option in OPTIONS[name]:
        assert option in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_what_would_count_in_silence_is_refused(name: str) -> None:
    """An empty value, which would mean the default, and all but the last of an option where one value counts."""
    options = [one for one in COMMANDS[name].params if one.opts[0].startswith("--")]
    arguments = [one for one in COMMANDS[name].params if one not in options]
    for parameter in COMMANDS[name].params:
        if not getattr(parameter, "is_flag", False):
            before = [parameter.opts[0]] if parameter in options else ["x"] * arguments.index(parameter)
            result = reidgen(name, *before, "")
            named = parameter.opts[0] if parameter in options else f"{parameter.metavar or parameter.name}".strip("[].")
            ends = "give it another" if parameter.required else "give it another, or leave it out"
            assert result.exit_code == 2 and f"Error: {named} is given an empty value; {ends}\n" in result.output
            if parameter in options:
                assert f"{named} is given an empty" in reidgen(name, f"{named}=").output
    for option in options:
        if not (option.multiple or option.is_flag):
            result = reidgen(name, option.opts[0], "1", option.opts[0], "2")
            assert result.exit_code == 2 and f"{option.opts[0]} is given twice" in result.output
    twice = [word for one in options if one.multiple or one.is_flag for word in [one.opts[0], "x"][: 2 - one.is_flag]]
    assert "given twice" not in reidgen(name, *twice, *twice, "--help").output


def test_version() -> None:
    assert reidgen("--version").output.strip() == __version__


def test_quiet_leaves_results_and_errors(tmp_path: Path) -> None:
    loud, silent = reidgen("methods").output, reidgen("methods", "--quiet").output
    assert "snr" in silent and "re-implementation" not in silent and loud.startswith(silent.rstrip())
    rows = (ROOT / "results" / "synth-main-2026-11-22" / "rows.csv").read_text().splitlines(keepends=True)
    (tmp_path / "rows.csv").write_text(rows[0] + "".join(row for row in rows if ",snr," in row))
    made = reidgen("report", "--quiet", "--results", tmp_path)
    assert made.exit_code == 0 and made.output.startswith("written: ") and made.output.count("\n") == 1
    assert reidgen("report", "-q", "--results", tmp_path / "none").output.startswith("error: there are no results yet")


def test_methods_shows_groups_tables_and_recipes(tmp_path: Path) -> None:
    lines = reidgen("methods", "mixing").output.splitlines()[3:]
    assert [line.split()[0] for line in lines if line[1:2].strip()] == select_methods("mixing")
    for name, recipe in RECIPES.items():
        (tmp_path / f"{name}.toml").write_text(reidgen("methods", name).output)
        assert load_recipe(str(tmp_path / f"{name}.toml"), without=("method", "seed")).change(name=name) == recipe
    assert "did you mean 'mixing'?" in reidgen("methods", "mixxing").output


def test_help_table_and_status_never_import_torch(small_data: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys; from reidgen.cli import app\n"
        "from typer.testing import CliRunner\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    result = CliRunner().invoke(app, words)\n"
        "    assert result.exit_code == 0, result.output\n"
        "    assert not {'torch', 'torchvision'} & {*sys.modules}, words\n"
    )
    rows = sorted((ROOT / "results").glob("synth*/rows.csv"))
    assert rows, "the reference rows are missing"
    (tmp_path / "rows.csv").write_bytes(rows[0].read_bytes())
    status = ["bench", "--source", "synth-plaza", "--status", "--data", str(small_data), "--results", str(tmp_path)]
    table = ["table", "--results", str(tmp_path)]
    result = python(code, json.dumps([["--help"], ["bench", "--help"], table, ["prepare", "--list"], status]))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--method", "snrr"], "unknown method 'snrr'; did you mean 'snr'?"),
        (["bench", "--methods", "baseline,snrr"], "unknown method 'snrr'; did you mean 'snr'?"),
        (["bench", "--test", "plain,rerang"], "unknown test step 'rerang'; did you mean 'rerank'?"),
        (["bench", "--set", "rerank.k1=30"], "--set rerank.k1: --test names no step rerank"),
        (["evaluate", "x", "--target", "market", "--test", "flip+flip"], "--test flip+flip names flip twice"),
        (["evaluate", "x", "--target", "market", "--set", "snr.gates=2"], "--set snr.gates: --test names no step snr"),
        (["table", "stress", "--test", "flip"], "--test do not go with stress, whose rows are of plain tests"),
        (["methods", "rerang"], "unknown name 'rerang'; did you mean 'rerank'?"),
        (["train", "--source", "markt"], "unknown data set 'markt'; did you mean 'market'?"),
        (["train", "--source", "market"], "market is not prepared"),
        (["train"], "run: reidgen prepare synth-plaza"),
        (["bench"], "run: reidgen prepare synth-plaza"),
        (["train", "--recipe", "quik"], "unknown recipe 'quik'; did you mean 'quick'?"),
        (["train", "--backbone", "resnet51"], "unknown backbone 'resnet51'; did you mean 'resnet50'?"),
        (["train", "--epochs", "0"], "epochs must lie within 1 to 100,000; got 0"),
        (["train", "--seed", "7" * 5000], "error: --seed: a number of 5,000 digits is too large; give one such as"),
        (["bench", "--epochs", "-" + "7" * 5000], "error: --epochs: a number of 5,000 digits is too large; give"),
        (["bench", "--seeds", "7" * 5000], "error: --seeds: a number of 5,000 digits is too large; give 3, or"),
        (["attack", "x", "--target", "y", "--bound", "7" * 5000], "error: --bound: a number of 5,000 digits is too"),
        (["train", "--epochs", "1.5"], "error: --epochs '1.5' is no whole number; give one, such as --epochs 3"),
        (["prepare", "markt"], "unknown data set 'markt'; did you mean 'market'?"),
        (["prepare", "market", "--from", "nowhere"], "nowhere"),
        (["prepare", "market", "--from", "empty"], "empty"),
        (["prepare", "prid"], "--from"),
        (["evaluate", "snr", "--target", "synth"], "no run is called 'snr'"),
        (["table"], "run: reidgen bench"),
        (["table", "--results", "a[/b]"], "run: reidgen bench"),
        (["prepare", "--from", "empty"], "needs the name of the data set"),
        (["prepare", "--pattern", "x"], "--pattern needs the name of the data set"),
        (["prepare", "--accept-counts"], "--accept-counts needs the name of the data set"),
        (["prepare", "--splits"], "--splits needs the name of a prepared set"),
        (["prepare", "--list", "markt"], "unknown data set 'markt'; did you mean 'market'?"),
        (["prepare", "--json", "market"], "--json goes with --list"),
        (["bench", "--seeds", "0"], "--seeds 0: give 1 to 1,000 seeds, or seeds such as 2,4"),
        (["bench", "--seeds", "1,x"], "--seeds '1,x' is neither a number of seeds nor seeds such as 2,4"),
        (["train", "--seed", str(10**20)], "seed must lie within 0 to 9,223,372,036,854,775,807"),
        (["train", "--device", "cuda:0,1"], "--device cuda:0,1 names several devices, which only bench uses"),
        (["bench", "--results", "r" * 300], f"cannot use {'r' * 300}: File name too long"),
        (["train", "--source", "s" * 300], "unknown data set 'sss"),
        (["train", "--recipe", "r" * 300], "File name too long"),
        (["evaluate", "r" * 300, "--target", "synth"], "File name too long"),
        (["prepare", "--check", "--from", "x", "mine"], "--check prepares nothing, so --from would do nothing"),
        (["prepare", "--deep", "--accept-counts"], "--check prepares nothing, so --accept-counts would do nothing"),
        (["prepare", "--splits", "mine", "--pattern", "x"], "--splits prepares nothing, so --pattern would do nothing"),
        (["prepare", "--list", "--from", "x", "--pattern", "x"], "so --from and --pattern would do nothing"),
        (["prepare", "--check", "--splits", "mine"], "--check and --splits are different questions"),
        (["prepare", "market", "mine", "--from", "empty"], "the catalogue does not know mine; prepare each by itself"),
        (["train", "--source", "synth+synth-plaza"], "names a data set twice"),
        (["train", "--source", "synth-plaza-all"], "run: reidgen prepare synth-plaza"),
        (
            ["train", "--source", "market, duke"],
            "source 'market, duke': what is trained on together is joined by plus, as market+duke",
        ),
        (["train", "--source", "market+"], "source 'market+' has an empty name"),
        (["table", "--target", ","], "',' has an empty name before, between or behind its commas"),
        (["evaluate", "x", "--target", "duke", "--test", "plain,"], "'plain,' has an empty name"),
        (
            ["evaluate", "x", "--target", "duke", "--test", "rerank(k1=1,k1=2)"],
            "rerank(k1=1,k1=2): rerank.k1 is given twice",
        ),
        (
            ["evaluate", "x", "--target", "duke", "--test", "rerank(k1=30,)"],
            "--test rerank(k1=30,): rerank.: write part.par",
        ),
        (["train", "--set", "snr.weights="], "--set snr.weights=: write part.parameter=value"),
        (["bench", "--protocol", "p22"], "unknown protocol 'p22'; did you mean 'p2'?"),
        (["bench", "--protocol", "p2", "--source", "market"], "leave out --source market, or --protocol"),
        (["bench", "--protocol", "p2"], "nothing of the protocol p2 can be run; "),
    ],
)
def test_a_mistake_ends_in_one_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = reidgen(*words)
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1, result.output
    assert result.output.startswith("error: ") and message in result.output


def test_weights_that_are_missing_stop_before_training(small_data: Path, tmp_path: Path) -> None:
    result = reidgen("train", "--weights", "absent.pth", "--data", small_data, "--results", tmp_path)
    assert result.exit_code == 1 and "no weight file absent.pth" in result.output
    assert not list(tmp_path.rglob("*"))  # neither a log nor a run's folder


def test_the_main_job_end_to_end(small_data: Path, tmp_path: Path) -> None:
    """Train, evaluate, bench and table as commands; the tables hold the means of the rows, as pandas counts them."""
    recipe = tmp_path / "small.toml"
    recipe.write_text(grid_toml(SMALL.change(epochs=1)))
    common = ["--recipe", recipe, "--data", small_data, "--results", tmp_path / "results", "--device", "cpu"]
    result = reidgen("train", "--method", "snr", *common)
    assert result.exit_code == 0 and "next: reidgen evaluate" in result.output
    result = reidgen("evaluate", "snr-tiny-s0", "--target", "synth-night", *common[2:])
    assert result.exit_code == 0
    assert re.search(
        r"synth-night: mAP \d+\.\d, Rank-1 \d+\.\d, Rank-5 \d+\.\d, Rank-10 \d+\.\d, mINP \d+\.\d", result.output
    )
    result = reidgen("bench", "--methods", "baseline,snr", "--seeds", "2", *common)
    assert result.exit_code == 0, result.output
    assert "sets of the catalogue are not prepared, so not evaluated (see: reidgen prepare --list)" in result.output
    assert "[4/4] snr s1: trained in" in result.output and "synth-plaza" in result.output
    rows = pd.read_csv(tmp_path / "results" / "rows.csv")
    assert len(rows) == 2 * 2 * 2 and rows["commit"].notna().all()
    (tmp_path / "copy").mkdir()
    for file in (tmp_path / "results").glob("rows.csv*"):  # with its seal
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    assert reidgen("table", "--results", tmp_path / "copy").exit_code == 0  # rows whose run folders are gone stay
    assert pd.read_csv(tmp_path / "copy" / "rows.csv").equals(rows)
    again = reidgen("bench", "--methods", "baseline,snr", "--seeds", "2", *common)
    assert again.exit_code == 0 and pd.read_csv(tmp_path / "results" / "rows.csv").equals(rows)
    means = 100 * rows.groupby(["method", "target"])["mAP"].mean()
    written = {name: (tmp_path / "results" / name).read_text().splitlines() for name in ("table.md", "table.tex")}
    for (method, _), mean in means.items():
        title = {"snr": "SNR", "baseline": "Baseline"}[method]
        for lines in written.values():
            assert any(title in line and f"{mean:.1f}" in line for line in lines), (title, mean, lines)
    result = reidgen("table", "--paper", "--target", "synth", "--results", tmp_path / "results")
    assert result.exit_code == 0 and all(f"{mean:.1f}" in result.output for mean in means)
    both = reidgen(
        "evaluate", "snr-tiny-s0", "snr-tiny-s1", "--target", "synth-night,synth-plaza", *common[2:], "--json"
    )
    told = json.loads(both.stdout)  # one document, and nothing else
    assert both.exit_code == 0 and "rows in " in both.stderr and len(told) == 4
    assert {(one["seed"], one["target"]): round(one["mAP"], 6) for one in told} == {
        (seed, target): round(one["mAP"].item(), 6)
        for (seed, target), one in rows[rows["method"] == "snr"].groupby(["seed", "target"])
    }
    some = reidgen("evaluate", "snr-tiny-s0", "snr-tiny-s1", "--target", "synth-night,synth-mall", *common[2:], "-q")
    assert some.exit_code == 1 and "2 of 4 evaluations failed" in some.stderr
    assert [line.split(": mAP")[0] for line in some.stdout.splitlines()] == [
        f"{Path(one['run']).name}: synth-night" for one in told if one["target"] == "synth-night"
    ]
    short = reidgen("bench", "--methods", "baseline,snr", "--seeds", "2", *common, "--quiet")
    assert short.exit_code == 0 and "[1/4]" not in short.output and "Baseline" in short.output


def test_short_help_and_whole_summaries() -> None:
    text = reidgen("-h").output
    assert text == reidgen("--help").output and "..." not in text.partition("Commands:")[2]
    assert set(COMMANDS) <= set(text.split())
    assert reidgen("bench", "-h").output == reidgen("bench", "--help").output
    assert "--install-completion" in text
    result = CliRunner().invoke(app, [], env={"_REIDGEN_COMPLETE": "complete_bash", "COMP_WORDS": "reidgen ev", "COMP_CWORD": "1"},
                                prog_name="reidgen")  # fmt: skip
    assert result.output.split() == ["evaluate"]


@pytest.mark.parametrize(
    "words", [["prepare", "--list"], ["prepare", "synth-night"], ["evaluate", "snr", "--target", "synth-night"]]
)
def test_output_that_cannot_be_written_is_a_sentence(
    words: list[str],
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a shell runs them, `> /dev/full`; train and bench print through the same function."""
    from reidgen.cli import main

    if words[0] == "evaluate":
        train(
            SMALL.change(epochs=1, batches_per_epoch=1), data=small_data, results=tmp_path, device="cpu", report=quiet
        )
        words = [*words, "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["reidgen", *words, "--data", str(small_data)])
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "stdout", full)
        main()
    assert ended.value.code == 1
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert sentence.startswith("error: cannot write the output") and "No space left on device" in sentence


def test_names_reach_the_terminal_without_their_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe, a run or a target whose name holds what a terminal or Rich would obey is printed as it stands."""
    monkeypatch.chdir(tmp_path)
    Path("[red]x\x1b[2J.toml").write_text("height = 1")
    for words in (
        ["train", "--recipe", "[red]x\x1b[2J.toml"],
        ["evaluate", "[red]x\x1b[2J", "--target", "a"],
        ["prepare", "[red]x\x1b[2J"],
        ["bench", "--methods", "[red]x\x1b[2J"],
    ):
        result = reidgen(*words)
        assert result.exit_code == 1 and "\x1b" not in result.output
        assert "[red]x\\x1b[2J" in result.output and len(result.output.splitlines()) == 1


def test_a_stopped_bench_goes_on(small_data: Path, tmp_path: Path) -> None:
    """Stopped in each of three ways, one after the other, and each time gone on with by the same command."""
    (tmp_path / "long.toml").write_text(grid_toml(SMALL.change(epochs=60)))
    words = ["bench", "--methods", "baseline", "--seeds", "1", "--recipe", tmp_path / "long.toml"]
    words += ["--data", small_data, "--results", tmp_path, "--device", "cpu"]

    def epochs() -> int:
        return max((len(log.read_text().splitlines()) - 1 for log in tmp_path.glob("runs/*/*/log.csv")), default=0)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        before, command = epochs(), Command(tmp_path / number.name, *words)
        until = time.monotonic() + 120
        while epochs() <= before and command.process.is_alive() and time.monotonic() < until:
            time.sleep(0.02)
        command.signal(number)
        code, printed = command.ended(), command.err.read_text()
        assert not list(tmp_path.glob("runs/*/*/done")) and epochs() > before, (code, epochs(), before, printed)
        if number == signal.SIGKILL:
            assert code == -number
        else:
            assert code == 130, printed
            assert "the state is kept" in printed and len(printed.strip().splitlines()) == 1
        assert next(tmp_path.glob("runs/*/*/state.pt")).stat().st_size > 0
    last = Command(tmp_path / "last", *words)
    assert last.ended() == 0, last.err.read_text()
    assert "[1/1] baseline s0" in last.out.read_text() and epochs() == 60


def test_a_stop_while_everything_is_imported_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from reidgen import __main__

    class Stopping:
        def find_spec(self, name: str, *more: object) -> None:
            if name == "reidgen.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "reidgen.cli")
    monkeypatch.setattr(sys, "meta_path", [Stopping(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "error: stopped; what is finished is kept, the same command goes on\n"
