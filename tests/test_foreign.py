"""Models from elsewhere: files of known arithmetic, made by hand, judged as runs are, and what is refused about them."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pandas as pd
import pytest
import torch
from conftest import SMALL, quiet
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

import reidgen
from reidgen.cli import app
from reidgen.data.manifest import load_index, load_prepared
from reidgen.data.pack import load_pack
from reidgen.errors import DataError, RecipeError, ReidgenError, SharedImagesError, WeightsError
from reidgen.evaluation import judge
from reidgen.foreign import Model, ModelExtractor, maker_of, open_model
from reidgen.methods import METHODS
from reidgen.models import build_network
from reidgen.ranking import rank
from reidgen.robustness import stress as stress_module
from reidgen.rows import read_csv
from reidgen.runs import Run, read_rows
from reidgen.tables.compare import make_table
from reidgen.teststeps import PLAIN
from reidgen.training import train
from reidgen.ways import select_ways

H, W = 32, 16
IMAGENET = ("mean=imagenet",)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def model_file(
    file: Path,
    *,
    batch: int | str = "batch",
    layout: str = "nchw",
    order: str = "rgb",
    kind: int = TensorProto.FLOAT,
    sides: tuple[int | str, int | str] = (H, W),
    outputs: int = 1,
    pooled: bool = True,
    fixed: int = 0,
) -> Path:
    """Write an ONNX file: the mean of each 8x8 square and colour, R before G before B whatever it takes.

    fixed: a batch that stands inside only, where the shapes do not tell it.
    """
    shape = [batch, 3, *sides] if layout == "nchw" else [batch, *sides, 3]
    nodes, here = [], "images"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [here], ["float"], to=TensorProto.FLOAT))
        here = "float"
    if kind == TensorProto.UINT8:  # what the others are given from outside
        nodes += [helper.make_node("Div", [here, "white"], ["scaled"])]
        here = "scaled"
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [here], ["moved"], perm=[0, 3, 1, 2]))
        here = "moved"
    if order == "bgr":
        nodes.append(helper.make_node("Gather", [here, "turn"], ["turned"], axis=1))
        here = "turned"
    if pooled:
        nodes.append(helper.make_node("AveragePool", [here], ["small"], kernel_shape=[8, 8], strides=[8, 8]))
        here = "small"
    to = [fixed, -1] if fixed else [0, -1]
    nodes.append(
        helper.make_node("Reshape" if pooled else "Identity", [here, "flat"] if pooled else [here], ["features"])
    )
    names = ["features", *(f"more{number}" for number in range(1, outputs))]
    nodes += [helper.make_node("Identity", ["features"], [name]) for name in names[1:]]
    constants = [
        helper.make_tensor("flat", TensorProto.INT64, [2], to),
        helper.make_tensor("turn", TensorProto.INT64, [3], [2, 1, 0]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
    ]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(nodes, "squares", [helper.make_tensor_value_info("images", kind, shape)], made, constants)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    file.write_bytes(whole.SerializeToString())
    return file


def squares(images_NHWC: np.ndarray) -> np.ndarray:
    """Return what the file embeds, by NumPy: ImageNet-normalised, the mean of each square."""
    scaled = (images_NHWC / 255 - MEAN) / STD
    return scaled.reshape(-1, H // 8, 8, W // 8, 8, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(len(images_NHWC), -1)


def judged(model: Model, target: str, *, data: Path, results: Path, test: str = PLAIN) -> pd.DataFrame:
    run = model.run(results)
    return judge(run, lambda: model.judged(run), target, ways=select_ways(test), data=data, report=quiet)


def opened(file: Path, *inputs: str, trained_on: str = "") -> Model:
    return open_model(str(file), inputs=inputs or IMAGENET, trained_on=trained_on, device="cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("models") / "squares.onnx")


@pytest.fixture(scope="module")
def run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(SMALL, data=small_data, results=tmp_path_factory.mktemp("results"), device="cpu", report=quiet)


def test_a_file_is_judged_by_the_protocol_of_runs(file: Path, small_data: Path, tmp_path: Path) -> None:
    rows = judged(opened(file, trained_on="msmt17"), "synth-night", data=small_data, results=tmp_path)
    prepared = load_prepared("synth-night", small_data)
    index = load_index(prepared)
    paths, pack = load_pack(prepared, H, W, quiet)
    sides = []
    for part in ("query", "gallery"):
        own = index[index["part"] == part]
        features = torch.from_numpy(squares(pack[np.searchsorted(paths, own["path"])])).float()
        ids = [torch.tensor(own[name].to_numpy()) for name in ("pid", "camid")]
        sides.append((torch.nn.functional.normalize(features, dim=1), *ids))
    (query, pid_Q, camid_Q), (gallery, pid_G, camid_G) = sides
    expected = rank(query, gallery, pid_Q=pid_Q, pid_G=pid_G, camid_Q=camid_Q, camid_G=camid_G)
    row = rows.iloc[0]
    assert 0.1 < row["mAP"] < 0.95
    assert row["mAP"] == pytest.approx(expected.mAP, abs=1e-6) and row["rank1"] == pytest.approx(expected.rank(1))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert row["model"] == digest[:16] and row["method"] == f"squares@{digest[:8]}"
    assert (row["source"], row["seen"], row["title"]) == ("msmt17", 0, row["method"])
    pd.testing.assert_frame_equal(read_rows(tmp_path), read_csv(next((tmp_path / "runs").glob("*/*/results.csv"))))


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ({"layout": "nhwc"}, IMAGENET),
        ({"order": "bgr"}, (*IMAGENET, "order=bgr")),
        ({"batch": 1}, IMAGENET),
        ({"batch": 4}, IMAGENET),
        ({"sides": ("height", "width")}, (*IMAGENET, f"size={H}x{W}")),
        ({"layout": "nhwc", "sides": (None, None)}, (*IMAGENET, f"size={H}x{W}")),
        ({"outputs": 2}, (*IMAGENET, "output=more1")),
        ({}, ("mean=0.485,0.456,0.406", "deviation=0.229,0.224,0.225")),
        ({}, ("range=255", "mean=imagenet")),
        ({"kind": TensorProto.DOUBLE}, IMAGENET),
    ],
)
def test_whatever_form_a_file_has_it_embeds_the_same(kind: dict, inputs: tuple[str, ...], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, H, W, 3), dtype=np.uint8)
    model = opened(model_file(tmp_path / "a.onnx", **kind), *inputs)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    found = model.network.describe(model.network.prepare(pixels)).numpy()
    np.testing.assert_allclose(found, squares(images), atol=1e-5)
    assert model.network.dim == found.shape[1] == 24


def test_a_file_that_takes_bytes_gets_bytes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, H, W, 3), dtype=np.uint8)
    model = open_model(str(model_file(tmp_path / "a.onnx", kind=TensorProto.UINT8)), device="cpu")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    found = model.network.describe(model.network.prepare(pixels)).numpy()
    back = found.reshape(6, 3, -1) * STD[:, None] ** -1 - (MEAN / STD)[:, None]
    np.testing.assert_allclose(back.reshape(6, -1), squares(images), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "inputs", "says"),
    [
        ({}, (), "--input mean=imagenet"),
        ({"sides": ("h", "w")}, IMAGENET, "--input size=256x128"),
        ({"sides": (3, W), "layout": "nhwc"}, IMAGENET, "give --input layout=nchw or --input layout=nhwc"),
        ({"layout": "nhwc", "sides": ("h", 16)}, ("layout=nchw", *IMAGENET), "leave out --input layout=nchw"),
        ({}, ("size=64x32", *IMAGENET), "leave it out"),
        ({"outputs": 3}, IMAGENET, "--input output=features"),
        ({}, ("output=logits", *IMAGENET), "no output 'logits'"),
        ({"pooled": False}, IMAGENET, "--input output=NAME"),
        ({"fixed": 7}, IMAGENET, "--input"),
        ({}, ("sise=3",), "did you mean 'size'"),
        ({}, ("size=big",), "size=256x128"),
        ({}, ("mean=red",), "or imagenet"),
        ({}, ("mean=0", "deviation=0"), "may be 0"),
        ({}, ("range=2",), "range=255"),
        ({}, ("mean=123.675,116.28,103.53", "deviation=58.395,57.12,57.375"), "add --input range=255"),
        ({}, ("mean=0.5", "deviation=50"), "deviation=50 is of pixels in 0..255"),
        ({}, ("mean=0.485,0.456,0.406", "range=255"), "mean on that range"),
        ({}, ("mean=-0.5",), "no pixels have it"),
        ({"kind": TensorProto.UINT8}, IMAGENET, "takes bytes, 0 to 255, .* leave out --input mean"),
        ({"kind": TensorProto.UINT8}, ("mean=0.5", "deviation=0.5"), "leave out --input mean and deviation"),
        ({}, ("mean=0.485,0.456,0.406",), r"comes without a deviation, .* add --input deviation=R,G,B, or deviation=1"),
        ({}, ("deviation=0.5",), "comes without a mean, .* or mean=0 where there is none"),
        ({}, ("mean=imagenet", "mean=0.5"), "--input mean is given twice, as imagenet and as 0.5"),
        ({}, ("mean=imagenet,order=bgr",), "--input mean=imagenet,order=bgr: give order with an --input of its own"),
        ({}, ("mean",), "--input mean: it has no value; for example: --input mean=imagenet"),
        ({"kind": TensorProto.UINT8}, ("range=1",), "leave out --input range"),
    ],
)
def test_what_a_file_does_not_say_is_asked_for_by_its_option(
    kind: dict, inputs: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=says.replace("(", r"\(")) as error:
        open_model(str(model_file(tmp_path / "a.onnx", **kind)), inputs=inputs, device="cpu")
    assert "\n" not in str(error.value)


def test_what_is_no_extractor_is_refused(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(WeightsError, match="no ONNX model that onnxruntime can run"):
        opened(broken)
    with pytest.raises(WeightsError, match="there is no file"):
        opened(tmp_path / "gone.onnx")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, H, W]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "two", values[:2], values[2:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "two.onnx"
    )
    with pytest.raises(WeightsError, match=r"takes 2 inputs \(a, b\)"):
        opened(tmp_path / "two.onnx")
    with pytest.raises(WeightsError, match="--model NAME --weights FILE"):
        open_model("tiny")
    with pytest.raises(RecipeError, match="did you mean 'tiny'"):
        open_model("tinny", weights=file)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ReidgenError, match=r'pip install "reidgen\[export\]"'):
        opened(file)


@pytest.mark.parametrize("nested", [False, True])
def test_a_file_whose_weights_lie_beside_it_is_refused_and_one_file_of_it_is_not(nested: bool, tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(96, 4)).astype(np.float32), "w")
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, 8, 4])
    made = helper.make_tensor_value_info("e", TensorProto.FLOAT, ["b", 4])
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["e"])]
    initial = [weight]
    if nested:  # the weight stands in a branch
        branch = helper.make_graph([nodes[1]], "branch", [], [made], [weight])
        nodes[1] = helper.make_node("If", ["yes"], ["e"], then_branch=branch, else_branch=branch)
        initial = [helper.make_tensor("yes", TensorProto.BOOL, [], [True])]
    graph = helper.make_graph(nodes, "g", [images], [made], initial)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    file = tmp_path / "net.onnx"
    onnx.save_model(whole, file, save_as_external_data=True, location="net.onnx.data", size_threshold=100)
    assert (tmp_path / "net.onnx.data").is_file()
    with pytest.raises(
        WeightsError, match=r"keeps weights in another file, net.onnx.data.*; make it one file"
    ) as error:
        opened(file, "range=1")
    exec(str(error.value).split('python -c "')[1].rstrip('"'))  # what it says is what helps
    (tmp_path / "net.onnx.data").unlink()
    assert opened(tmp_path / "net-whole.onnx", "range=1").network.dim == 4


def test_an_upgrade_of_onnxruntime_leaves_a_model_the_one_it_is(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    before = opened(file)
    monkeypatch.setattr(onnxruntime, "__version__", "99.0")
    after = opened(file)
    assert (after.row, ModelExtractor(after).info["digest"]) == (before.row, ModelExtractor(before).info["digest"])
    assert after.run(tmp_path).folder == before.run(tmp_path).folder
    assert after.judged(after.run(tmp_path)).row["torch"] == "onnxruntime 99.0"


@pytest.mark.parametrize(
    "changed", [{"more": 1}, {"inputs": "mean=imagenet"}, {"weights": 3}, {"device": "cpu"}, {"inputs": [1]}]
)
def test_a_feature_file_that_says_otherwise_how_its_model_is_opened_is_refused(changed: dict, tmp_path: Path) -> None:
    asked = {"name": "a.onnx", "weights": None, "inputs": [], "trained_on": ""} | changed
    info = {"test": "plain", "name": "m", "asked": asked}
    with pytest.raises(DataError, match=r"x.npz does not say in a form that is known here .* embed the images again"):
        maker_of(Path("x.npz"), info, run=None, results=tmp_path, device="cpu")


def test_what_it_was_trained_on_is_declared_marked_and_refused(file: Path, small_data: Path, tmp_path: Path) -> None:
    seen = judged(opened(file, trained_on="synth-night"), "synth-night", data=small_data, results=tmp_path)
    assert seen["seen"].tolist() == [1]
    with pytest.raises(SharedImagesError, match="whose images were all trained on"):
        judged(opened(file, trained_on="synth-night-all"), "synth-night", data=small_data, results=tmp_path)
    assert opened(file, trained_on="market+other:lup").source == "market+lup"
    assert [one.family for one in opened(file, trained_on="msmt17-v2").sources] == ["msmt17"]
    assert opened(file).source == "undeclared"
    for words, says in {
        "msmt71": "did you mean 'msmt17'",
        "MSMT17": "did you mean 'msmt17'",
        "other:market": "--trained-on market",
        "other:a/b": "a name",
    }.items():
        with pytest.raises(DataError, match=says):
            opened(file, trained_on=words)


def test_every_test_but_bn_means_the_same_for_a_file(file: Path, small_data: Path, tmp_path: Path) -> None:
    rows = judged(opened(file), "synth-night", data=small_data, results=tmp_path, test="plain,flip,centre,rerank")
    assert rows["test"].tolist() == ["plain", "flip", "centre", "rerank"] and rows["mAP"].nunique() == 4
    with pytest.raises(RecipeError, match=r"the test step bn .* leave it out"):
        judged(opened(file), "synth-night", data=small_data, results=tmp_path, test="bn")


def test_in_tables_models_stand_apart_from_runs(file: Path, run: Run, small_data: Path, tmp_path: Path) -> None:
    from reidgen.evaluation import evaluate

    evaluate(run, "synth-night", data=small_data, device="cpu", report=quiet)
    trained = read_csv(run.results)
    for words in ("synth-plaza", ""):
        judged(opened(file, trained_on=words), "synth-night", data=small_data, results=tmp_path)
    models = read_rows(tmp_path)
    models.loc[models["source"] == "undeclared", "method"] = "other@00000000"  # as if of another file
    rows = pd.concat([trained, models], ignore_index=True)
    table = make_table(rows, against=str(trained["method"].iloc[0]))
    assert len(table.cells.groupby(["source", "backbone", "hash", "test"])) == 3
    alone = make_table(trained).cells
    ours = table.cells[table.cells["backbone"] != "elsewhere"].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours[["mAP", "target"]], alone[["mAP", "target"]])
    theirs = table.cells[table.cells["backbone"] == "elsewhere"]
    assert theirs["gain_mAP"].isna().all()
    undeclared = theirs[theirs["source"] == "undeclared"]
    assert (undeclared["target"] != "mean of unseen").all()
    text = table.markdown()
    assert "from elsewhere (declared: synth-plaza)" in text and "from elsewhere (training not declared)" in text
    assert "--trained-on NAME" in text and f"squares@{opened(file).digest[:8]}" in text
    assert "the runs of this table differ in" not in text


def test_another_reading_of_a_file_replaces_the_first_in_tables(file: Path, small_data: Path, tmp_path: Path) -> None:
    for inputs in (IMAGENET, ("range=1",)):
        judged(opened(file, *inputs), "synth-night", data=small_data, results=tmp_path)
    rows = read_rows(tmp_path)
    assert len(rows) == 2 and rows["row"].nunique() == 2
    rows.loc[rows["row"] == opened(file, "range=1").row, "date"] = "2099-01-01T00:00:00Z"
    table = make_table(rows)
    assert len(table.rows) == 1
    (note,) = [note for note in table.notes if "left out" in note.text]
    before = opened(file, *IMAGENET).row
    assert note.text.endswith(f"left out, judged before with other options, such as --input: {before}")
    assert "model.json" in note.hint and (opened(file, *IMAGENET).run(tmp_path).folder / "model.json").is_file()


def test_what_was_declared_last_of_a_file_counts(file: Path, small_data: Path, tmp_path: Path) -> None:
    for words in ("", "msmt17"):
        judged(opened(file, trained_on=words), "synth-night", data=small_data, results=tmp_path)
    rows = read_rows(tmp_path)
    for last, other, said in (
        ("msmt17", "undeclared", "judged when nothing was declared of it"),
        ("undeclared", "msmt17", "judged when declared as trained on msmt17"),
    ):
        dated = rows.assign(date=rows["source"].map({last: "2099-01-02T00:00:00Z", other: "2099-01-01T00:00:00Z"}))
        table = make_table(dated)
        assert set(table.cells["source"]) == {last} and len(table.rows) == 1
        (note,) = [note for note in table.notes if "left out" in note.text]
        assert note.text == f"1 row of {rows['method'][0]} left out, {said}; its latest declaration counts"
        declares = " --trained-on msmt17" if last == "msmt17" else ""
        assert f"reidgen evaluate --model FILE{declares} --target synth-night" in note.hint


@pytest.mark.parametrize("wrapper", ["plain", "state_dict", "model", "module"])
def test_a_torch_file_is_read_through_its_wrappers(wrapper: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(METHODS["baseline"], "tiny", classes=5).eval()
    torch.nn.init.uniform_(network.neck.running_var, 0.5, 2.0)
    state = {f"backbone.{key}": value for key, value in network.backbone.state_dict().items()}
    state |= {f"bottleneck.{key}": value for key, value in network.neck.state_dict().items()}
    state |= {"classifier.weight": network.classifier.weight.detach(), "fc.0.bias": torch.zeros(3)}
    if wrapper == "module":
        state = {f"module.{key}": value for key, value in state.items()}
    whole = {wrapper: state, "epoch": 3} if wrapper in ("state_dict", "model") else state
    torch.save(whole, tmp_path / "net.pth.tar")
    model = open_model("plugin:tiny", weights=tmp_path / "net.pth.tar", inputs=["size=32x16"], device="cpu")
    prefix = "module." if wrapper == "module" else ""
    assert model.unused == (f"{prefix}classifier.weight", f"{prefix}fc.0.bias")
    pixels = torch.rand(2, 3, 32, 16)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.network.describe(model.network.prepare(pixels)), network.describe(network.prepare(pixels))
        )
    assert model.kind == "torch tiny" and model.form.height == 32


def test_a_torch_file_without_a_neck_has_none_and_bn_works_on_it(small_data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(METHODS["baseline"], "tiny", classes=5).eval()
    torch.save(network.backbone.state_dict(), tmp_path / "net.pth")
    model = open_model("tiny", weights=tmp_path / "net.pth", inputs=["size=32x16"], device="cpu")
    assert model.unused == () and isinstance(model.network.neck, torch.nn.Identity)  # type: ignore[union-attr]
    rows = judged(model, "synth-night", data=small_data, results=tmp_path, test="plain,bn")
    assert rows["mAP"].nunique() == 2
    torch.save({"some.key": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not fit this backbone"):
        open_model("tiny", weights=tmp_path / "other.pth", device="cpu")
    with pytest.raises(WeightsError, match="layout and output"):
        open_model("tiny", weights=tmp_path / "net.pth", inputs=["layout=nhwc"], device="cpu")


def test_the_commands_judge_and_stress_a_model(
    file: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stress_module, "TRIALS", [("clean", 0), ("noise", 5)])
    where = ["--target", "synth-night", "--data", str(small_data), "--results", str(tmp_path)]
    named = ["--model", str(file), "--input", "mean=imagenet", "--trained-on", "msmt17", "--device", "cpu"]
    found = CliRunner().invoke(app, ["evaluate", *named, *where])
    assert found.exit_code == 0, found.output
    assert "trained on msmt17, as declared" in found.output and "synth-night: mAP" in found.output
    found = CliRunner().invoke(app, ["stress", *named, *where])
    assert found.exit_code == 0, found.output
    rows = pd.read_csv(next(tmp_path.glob("runs/msmt17/*/stress.csv")))
    assert rows["model"].nunique() == 1 and set(rows["severity"]) == {0, 5}
    found = CliRunner().invoke(app, ["table", "--explain", "night", "--results", str(tmp_path)])
    assert f"reidgen evaluate --model {file} --input mean=imagenet --trained-on msmt17" in found.stdout, found.output
    for words, says in {
        ("evaluate", *where): "what is evaluated on what?",
        ("evaluate", "a-run", *named, *where): "give either RUNs or --model, not both",
        ("evaluate", "a-run", "--trained-on", "market", *where): "name it with --model",
        ("stress", "a-run", "--weights", "x.pth", *where): "name it with --model",
    }.items():
        found = CliRunner().invoke(app, list(words))
        assert found.exit_code == 1 and says in found.stderr.replace("\n", " "), found.output


def test_in_python_a_model_embeds_and_is_judged_as_a_run_is(file: Path, small_data: Path, tmp_path: Path) -> None:
    model = reidgen.load_model(file, inputs="mean=imagenet", trained_on="msmt17", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, H, W, 3), dtype=np.uint8)
    expected = squares(images)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.embed(list(images)), expected, atol=1e-5)
    assert model.dim == 24 and model.info["source"] == "msmt17" and len(model.info["digest"]) == 64
    rows = reidgen.evaluate(model, "synth-night", data=small_data, results=tmp_path, progress=False)
    assert rows["model"].tolist() == [model.info["sha256"][:16]]


def test_a_model_embeds_and_finds_its_file_again(file: Path, small_data: Path, tmp_path: Path) -> None:
    crops, out = small_data / "synth-night", tmp_path / "night.npz"
    word = ["embed", "--model", str(file), "--input", *IMAGENET, "--images", str(crops), "--out", str(out)]
    made = CliRunner().invoke(app, word)
    assert made.exit_code == 0, made.output
    paths = [str(path) for path in sorted(crops.rglob("*.jpg"))[:3]]
    features = reidgen.embed(reidgen.load_model(file, inputs=IMAGENET), crops, tmp_path / "python.npz", progress=False)
    rows = [features.rows["path"].tolist().index(str(Path(path).relative_to(crops))) for path in paths]
    np.testing.assert_allclose(features.take(rows), reidgen.load_model(file, inputs=IMAGENET).embed(paths), atol=1e-5)
    turned = tmp_path / "query.png"
    Image.open(paths[0]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(turned)  # not in the file: it is embedded
    hits = reidgen.search(out, turned, top=1, progress=False)
    (own,) = reidgen.load_model(file, inputs=IMAGENET).embed([turned])
    expected = ((features.take(list(range(len(features.rows)))) - own) ** 2).sum(axis=1)
    assert hits["distance"].item() == pytest.approx(expected.min(), abs=1e-5)
    moved = file.rename(file.with_name("moved.onnx"))
    try:
        with pytest.raises(
            WeightsError, match=r"squares\.onnx, which is not there any more; say where it is with --run"
        ):
            reidgen.search(out, turned, top=1, progress=False)
        assert reidgen.search(out, turned, top=1, run=moved, progress=False).equals(hits)
    finally:
        moved.rename(file)
    with pytest.raises(WeightsError, match=r"--model nope\.onnx: there is no file nope\.onnx"):
        open_model("nope.onnx")
    neither = CliRunner().invoke(app, ["embed", *word[5:]])
    assert neither.exit_code == 1 and "what embeds? For example" in neither.output
