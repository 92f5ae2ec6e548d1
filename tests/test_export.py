"""Export: what is written embeds as PyTorch does, says what it is, and is not kept where it differs; the card."""

import functools
import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, THIN, quiet
from test_models import every_pair
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry
from typer.testing import CliRunner

from reidgen.cli import app
from reidgen.deploy import card as card_module
from reidgen.deploy import export as export_module
from reidgen.deploy.card import source_terms, warnings_of
from reidgen.deploy.export import Deployed, export, verify
from reidgen.errors import ReidgenError, RunError
from reidgen.evaluation import evaluate, judge
from reidgen.files import replacing
from reidgen.foreign import open_model
from reidgen.integrity import passes_check
from reidgen.methods import METHODS
from reidgen.models import build_network, tiny
from reidgen.rows import read_csv
from reidgen.runs import Run
from reidgen.training import train

# Rows whose networks differ in evaluation, one of each part; `-m every` exports every row on every backbone.
OFTEN = {("a-sn", "tiny"), ("snr-conv", "tiny"), ("bin", "tiny")}
BLOCK, WIDTHS = tiny.Block, tiny.WIDTHS


class Short(BLOCK):
    """A residual block of one convolution: an export takes as long as the network has operators, not channels."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.conv2: nn.Module = nn.Identity()
        self.bn2: nn.Module = nn.Identity()


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """A smaller `tiny`, and the exporter's table of a thousand operators read once: half a second each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "Block", Short)
        patch.setattr(tiny, "WIDTHS", THIN)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="module")
def run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a trained SNR, evaluated on one target."""
    assert SMALL.method == "snr"
    made = train(SMALL, data=small_data, results=tmp_path_factory.mktemp("results"), device="cpu", report=quiet)
    evaluate(made, "synth-night", data=small_data, device="cpu", report=quiet)
    return made


@pytest.fixture(scope="module")
def exported(run: Run, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> export_module.Exported:
    return export(run, tmp_path_factory.mktemp("out") / "snr.onnx", data=small_data)


def test_an_exported_run_judged_as_a_model_has_its_own_map(
    run: Run, exported: export_module.Exported, small_data: Path, tmp_path: Path
) -> None:
    own = run.own_rows()
    model = open_model(str(exported.file), device="cpu")  # all that it needs stands in the file
    folder = model.run(tmp_path)
    rows = judge(folder, lambda: model.judged(folder), "synth-night", data=small_data, report=quiet)
    assert rows["mAP"].to_numpy() == pytest.approx(own["mAP"].to_numpy(), abs=1e-4)
    assert rows["source"].tolist() == ["synth-plaza"] and model.made["hash"] == run.hash
    assert exported.difference <= 1e-4 and exported.verified_on.endswith("images of synth-night")
    with pytest.raises(ReidgenError, match="says itself that it was trained on synth-plaza"):
        open_model(str(exported.file), trained_on="market", device="cpu")
    for word in ("mean=imagenet", "range=255", "order=bgr"):
        with pytest.raises(ReidgenError, match=f"says itself that it takes .* leave out --input {word.split('=')[0]}"):
            open_model(str(exported.file), inputs=[word], device="cpu")
    same = [f"size={SMALL.height}x{SMALL.width}", "range=1", "layout=nchw"]
    assert open_model(str(exported.file), inputs=same, device="cpu").form == model.form


def test_the_file_says_what_it_takes_and_gives(exported: export_module.Exported) -> None:
    import onnx

    whole = onnx.load(exported.file)
    onnx.checker.check_model(whole)
    said = json.loads({one.key: one.value for one in whole.metadata_props}["reidgen"])
    assert said["opset"] == 18 and whole.opset_import[0].version == 18
    assert (said["input"]["height"], said["input"]["width"], said["method"]) == (SMALL.height, SMALL.width, "snr")
    (images,), (embeddings,) = whole.graph.input, whole.graph.output
    assert images.name == "images" and embeddings.name == "embeddings"
    sides = [one.dim_param or one.dim_value for one in images.type.tensor_type.shape.dim]
    assert sides[1:] == [3, SMALL.height, SMALL.width] and isinstance(sides[0], str)
    assert {node.domain for node in whole.graph.node} <= {"", "ai.onnx"}  # plain operators
    assert not list(exported.file.parent.glob("*.data")) and not list(exported.file.parent.glob(".*"))
    assert not folders_in(exported.file.read_bytes())


def folders_in(content: bytes) -> list[str]:
    """Return the folders of this machine that a file names."""
    places = [str(Path(str(module.__file__)).parent) for module in (torch, export_module, nn)]
    return [place for place in places if place.encode() in content]


@pytest.mark.parametrize(("method", "backbone"), every_pair(OFTEN))
def test_rows_are_exported_as_plain_operators(
    method: str, backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (method, backbone) not in OFTEN:  # as it is shipped
        monkeypatch.setattr(tiny, "Block", BLOCK)
        monkeypatch.setattr(tiny, "WIDTHS", WIDTHS)
    torch.manual_seed(0)
    network = build_network(METHODS[method], backbone, classes=2, size=(64, 32)).eval()
    for name, vector in [*network.named_parameters(), *network.named_buffers()]:  # near what training would leave
        if vector.ndim == 1 and vector.is_floating_point():
            low, high = (-0.2, 0.2) if name.endswith(("bias", "mean")) else (0.7, 1.3)
            torch.nn.init.uniform_(vector.detach(), low, high)
    deployed = Deployed(network, pixels="float", size=None).eval()
    embed = export_module._write_onnx(deployed, tmp_path / "a.onnx", {}, (64, 32))
    pictures = list(np.random.default_rng(0).integers(0, 256, (6, 64, 32, 3), dtype=np.uint8))
    difference, _ = verify(deployed, embed, pictures, size=(64, 32))
    assert difference <= 1e-5


def test_bytes_of_any_size_are_resized_inside(run: Run, small_data: Path, tmp_path: Path) -> None:
    made = export(run, tmp_path / "any.onnx", pixels="uint8", resize=True, data=small_data)
    assert made.difference <= 1e-4 and made.resized is not None and made.resized < 0.05
    own = evaluate(run, "synth-night", data=small_data, device="cpu", report=quiet)
    model = open_model(str(made.file), device="cpu")
    folder = model.run(tmp_path)
    rows = judge(folder, lambda: model.judged(folder), "synth-night", data=small_data, report=quiet)
    assert rows["mAP"].to_numpy() == pytest.approx(own["mAP"].to_numpy(), abs=1e-4)


def test_a_program_of_torch_is_verified_likewise(run: Run, small_data: Path, tmp_path: Path) -> None:
    made = export(run, tmp_path / "snr.pt2", format="torch", data=small_data)
    assert made.difference <= 1e-4
    with zipfile.ZipFile(made.file) as program:
        assert not folders_in(b"".join(map(program.read, program.namelist())))
    said = {"reidgen.json": ""}
    program = torch.export.load(made.file, extra_files=said)
    assert json.loads(said["reidgen.json"])["method"] == "snr"
    found = program.module()(torch.rand(5, 3, SMALL.height, SMALL.width))
    assert found.shape == (5, made.facts["dim"])


def test_what_differs_is_not_kept(run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: object) -> export_module.Embed:
        file = given[1]
        assert isinstance(file, Path)
        file.write_bytes(b"an export")
        return lambda images: np.eye(len(images), 64, dtype=np.float32)

    monkeypatch.setattr(export_module, "_write_onnx", wrong)
    with pytest.raises(RunError, match=r"was not kept: it differs from PyTorch by up to"):
        export(run, tmp_path / "a.onnx", data=small_data)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_asked_for(run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, says in (
        ({"format": "onyx"}, "did you mean 'onnx'"),
        ({"pixels": "int"}, "unknown pixels"),
        ({"format": "torch"}, "ends in .pt2"),
    ):
        with pytest.raises(RunError, match=says):
            export(run, tmp_path / "a.onnx", data=small_data, **options)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ReidgenError, match=r'pip install "reidgen\[export\]"'):
        export(run, tmp_path / "a.onnx", data=small_data)


def test_the_command_writes_a_card_that_says_first_what_the_data_forbid(
    run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: export_module.Exported
) -> None:
    monkeypatch.setattr(export_module, "export", lambda *given, **options: exported)
    words = ["export", str(run.folder), "--out", str(exported.file), "--data", str(small_data)]
    found = CliRunner().invoke(app, [*words, "--results", str(run.folder.parents[2])])
    assert found.exit_code == 0, found.output
    assert "largest difference from PyTorch" in found.stdout
    facts = json.loads(exported.file.with_suffix(".card.json").read_text())
    assert passes_check(facts) and facts["sources"][0]["licence"] == "MIT" and facts["warnings"] == []
    assert {(one["target"], one["test"]) for one in facts["results"]} >= {("synth-night", "plain")}
    assert all(one["mAP"]["low"] <= one["mAP"]["value"] <= one["mAP"]["high"] for one in facts["results"])
    text = exported.file.with_suffix(".card.md").read_text()
    repeat = facts["repeat"]
    commit = read_csv(run.results)["commit"].iloc[0]
    assert not commit or repeat[0].split("   #")[0] == f"git checkout {commit.removesuffix('+')}"
    assert repeat[-3] == "reidgen prepare synth-plaza synth-night"
    assert repeat[-2].startswith("reidgen train --method snr --source synth-plaza --seed 0 --recipe recipe.toml")
    assert all(f"    {line}\n" in text for line in repeat)
    assert str(run.folder.parents[3]) not in text and "proves nobody's identity" in text


def test_a_run_that_was_evaluated_on_nothing_has_a_card_and_damaged_results_leave_no_file(
    run: Run, exported: export_module.Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Run(tmp_path / "runs" / run.folder.parent.name / run.folder.name)
    shutil.copytree(run.folder, fresh.folder, ignore=shutil.ignore_patterns("results.csv*", "per_query*"))
    made = []
    monkeypatch.setattr(export_module, "export", lambda *given, **options: made.append(given) or exported)
    words = ["export", str(fresh.folder), "--out", str(tmp_path / "a.onnx"), "--results", str(tmp_path)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0 and len(made) == 1, found.output
    text = exported.file.with_suffix(".card.md").read_text()
    assert "It has been evaluated on nothing yet" in text and "reidgen train --method snr" in text
    shutil.copy(run.results, fresh.results)
    broken = CliRunner().invoke(app, words)
    assert broken.exit_code == 1 and len(made) == 1, broken.output


def test_a_card_repeats_every_test_that_it_shows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run.own_rows()
    both = pd.concat([rows.assign(test="flip"), rows.assign(test="plain")], ignore_index=True)
    monkeypatch.setattr(Run, "own_rows", lambda run: both)
    assert " --test plain,flip " in card_module.commands(run, run.folder.parents[2])[-1]


def test_withdrawn_and_research_only_sources_are_warned_of_first() -> None:
    terms = [source_terms(name) for name in ("market-all", "duke", "synth-plaza", "my-crops")]
    lines = list(warnings_of(terms, {"weights_from": "ResNet50_Weights.IMAGENET1K_V2"}, "imagenet"))
    assert lines[0].startswith("trained on DukeMTMC-reID: withdrawn by those who published it")
    assert "no commercial use" in lines[0] and "research only" in lines[1]
    assert "ask whoever gave you the images" in lines[2] and "ImageNet" in lines[3] and len(lines) == 4


def test_a_start_from_somebodys_file_is_warned_of_and_folders_of_plugins_are_not_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = warnings_of([], {"weights_from": "imagenet-like.pth"}, "/home/me/imagenet-like.pth")
    assert line.startswith("started from imagenet-like.pth, whose terms are not known here")
    assert list(warnings_of([], {"weights_from": ""}, "none")) == []
    folder = tmp_path / "my secret project"
    made = f"reidgen evaluate a/b --target night --plugin '{folder / 'own.py'}' --plugin package.parts --results again"
    monkeypatch.setattr(card_module, "repeat_run", lambda *given: [made])
    said = card_module.commands(run, run.folder.parents[2])[-1]
    assert said == "reidgen evaluate a/b --target night --plugin own.py --plugin package.parts --results again"


@pytest.mark.parametrize("name", ["load", "save"])
def test_a_program_that_cannot_be_written_or_read_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.rand(1, 2),))
    monkeypatch.setattr(export_module, "_traced", lambda *given: program)

    def bad(*given: object, **options: object) -> None:
        if name == "save":
            Path(str(given[1])).write_bytes(b"half of it")
        raise RuntimeError("PytorchStreamReader failed\nreading the file")

    monkeypatch.setattr(torch.export, name, bad)
    deployed = Deployed(build_network(METHODS["baseline"], "tiny", classes=2), pixels="float", size=None)
    with (
        pytest.raises(RunError, match=r"cannot be written or read again: PytorchStreamReader failed; free some space"),
        replacing(tmp_path / "snr.pt2") as temporary,
    ):
        export_module._write_torch(deployed, temporary, {}, (64, 32))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_the_hub(
    run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: export_module.Exported
) -> None:
    from reidgen.deploy import hub

    def copied(run: Run, out: Path, **options: object) -> export_module.Exported:
        out.parent.mkdir()
        out.write_bytes(exported.file.read_bytes())
        return exported

    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "export", copied)
    options = {"pixels": "float", "resize": False, "data": small_data, "results": run.folder.parents[2]}
    hub.write_hub(run, tmp_path / "hub", **options)  # type: ignore[arg-type]
    names = {file.name for file in (tmp_path / "hub").iterdir()}
    assert names == {"README.md", "config.json", "model.onnx", "model.safetensors", "recipe.toml", "row.json"}
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\n") and "license: other" in card.split("---")[1]
    with pytest.raises(RunError, match="holds something already"):
        hub.write_hub(run, tmp_path / "hub", **options)  # type: ignore[arg-type]
