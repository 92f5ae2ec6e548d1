"""Parts from outside: a method, a backbone and a loss from one file, and what a file must not do."""

import functools
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import SMALL, grid_toml, quiet
from warm import Command

from reidgen import grid, process, registry, training
from reidgen.backbones import BACKBONES
from reidgen.contracts import Backbone, Batch, Loss, Module, Output
from reidgen.errors import PluginError, RecipeError, ReidgenError
from reidgen.evaluation import evaluate
from reidgen.losses import dual_causality_loss
from reidgen.methods import IN, METHODS, SNR, SNR_LOSS, title_of
from reidgen.models.network import build_losses, build_network, check_row
from reidgen.models.norms import Pooled
from reidgen.parts import BackboneRow, Method, Part, read_setting, settings_of
from reidgen.recipe import Recipe, idle, read_recipe
from reidgen.registry import load_plugins
from reidgen.rows import COLUMNS, write_rows
from reidgen.runs import Run, read_rows
from reidgen.tables.choose import Selection
from reidgen.tables.compare import make_table
from reidgen.teststeps import TEST_STEPS
from reidgen.ways import select_ways

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_parts.py"
SHARED = Recipe().losses


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    tables = (METHODS, BACKBONES, TEST_STEPS, registry.PLUGINS)
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


HEAD = "from torch import nn\nfrom reidgen.parts import BackboneRow, Method, Part\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nROWS = [", r"mine\.py, line 2: the plug-in cannot be imported: SyntaxError"),
        ("\n\nimport nowhere_at_all", r"mine\.py, line 3: .* ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def f():\n    return 1 / 0\nf()", r"mine\.py, line 2: .*ZeroDivisionError"),
        ("x = undefined", r"mine\.py, line 1: .*NameError: name 'undefined'"),
        ("raise SystemExit(3)", r"mine\.py, line 1: .*SystemExit"),
        ("x = 1", r"mine\.py, line 1: a plug-in needs a list ROWS"),
        (HEAD + "ROWS = [1]", r"mine\.py, line 3: ROWS holds 1; it may hold Method, BackboneRow and StepRow"),
        (
            HEAD + "ROWS = [\n    Method(name='snr', title='', source='')]",
            r"mine\.py, line 4: the method 'snr' is taken by reidgen",
        ),
        (
            HEAD + "ROWS = [BackboneRow(name='tiny', build=nn.ReLU, source='')]",
            r"mine\.py, line 3: the backbone 'tiny' is taken by reidgen",
        ),
        (HEAD + "ROWS = 2 * [Method(name='a', title='', source='')]", r"line 3: the method 'a' is taken by mine\.py"),
        (
            HEAD + "ROWS = [Method(name='A b', title='', source='')]",
            r"line 3: .*'A b' cannot name a method; use at most 64",
        ),
        (
            HEAD + "ROWS = [Method(name='a', title='', source='', norm=Part(name='relu', build=nn.ReLU))]",
            r"line 3: the part 'relu' is built by .*ReLU.*, which is no class of this file",
        ),
    ],
)
def test_a_broken_plugin_is_named_with_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=message):
        load_plugins([write(tmp_path / "mine.py", text)])
    assert not registry.PLUGINS and "a" not in METHODS  # all of it or nothing


def test_a_plugin_that_is_not_there_says_so() -> None:
    for name in ("absent.py", "no_such_package.module"):
        with pytest.raises(PluginError, match=rf"no plug-in .*{name}; give the path of a Python file"):
            load_plugins([name])


def test_a_file_that_is_not_of_python_says_so(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"notes\.md is no Python file, whose name ends in \.py; give the path"):
        load_plugins([write(tmp_path / "notes.md", "not code")])


class Odd(nn := torch.nn.Module):  # type: ignore[misc, valid-type]
    def __init__(self, channels: int) -> None:
        raise TypeError("needs more")


class Flat(Backbone):
    def __init__(self) -> None:
        super().__init__(dim=4)
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.mean(dim=(2, 3)))


def row(**parts: object) -> Method:
    return Method(name="mine", title="Mine", source="", **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (row(losses=[SNR_LOSS]), "the loss snr reads 'pooled', which no module of the row offers"),
        (row(modules=[IN.at(1)], losses=[SNR_LOSS]), "reads 'pooled', which no module of the row offers"),
        (row(modules=[SNR.at(5)]), "snr stands at place 5; backbone tiny has 0 to 4"),
        (row(modules=[SNR.at(-1, before_relu=True)]), "snr stands at place -1"),
        (row(modules=[SNR]), "the module snr stands at no place"),
        (row(norm=IN.at(7)), "in stands at place 7"),
        (row(modules=[SNR.at(1, 2, 3)], losses=[SNR_LOSS]), "snr.weights needs one number, .* places 1, 2, 3; got 4"),
        (row(modules=[SNR.at(1), SNR.at(1)]), "two modules offer 'pooled' at place 1"),
        (row(modules=[SNR.but(gatez=3).at(1)]), "the part snr cannot be built on 32 channels: .*gatez"),
        (row(modules=[Part(name="odd", build=Odd, places=(1,))]), "the part odd cannot be built .*needs more"),
        (row(modules=[SNR.at(1)], losses=[SNR_LOSS.but(weights=(1.0,), distance="cos")]), "unknown snr.distance 'cos'"),
        (row(modules=[SNR.at(1)], losses=[SNR_LOSS.but(weights=(1.0,), plus=False, minus=False)]), "are both off"),
        (row(losses=[Part(name="triplet", build="reidgen.losses:Triplet")]), "two losses are called triplet"),
        (row(losses=[Part(name="odd", build=Odd)]), "the loss odd cannot be built: needs more"),
        (row(losses=[Part(name="gone", build="reidgen.losses:Gone")]), "reidgen.losses has no class Gone"),
        (
            row(losses=[Part(name="gone", build="gone.py:Gone")]),
            "comes from a plug-in that is not loaded; add --plugin",
        ),
        (row(losses=[Part(name="evil", build="os:system")]), "comes from a plug-in that is not loaded"),
    ],
)
def test_a_row_that_cannot_mean_anything_is_refused(method: Method, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_row(method, "tiny", SHARED)


def test_a_backbone_without_places_takes_no_module_but_trains_baseline() -> None:
    BACKBONES["flat"] = BackboneRow(name="flat", build=Flat, source="")
    with pytest.raises(RecipeError, match="snr stands at place 1; backbone flat has none"):
        check_row(METHODS["snr"], "flat", SHARED)
    with pytest.raises(RecipeError, match="a-in: the norm in replaces BatchNorm2d; backbone flat has none"):
        check_row(METHODS["a-in"], "flat", SHARED)
    network = build_network(METHODS["baseline"], "flat", classes=3)
    assert network(torch.randn(4, 3, 8, 4)).feature.shape == (4, 4)
    assert network.eval()(torch.randn(4, 3, 8, 4)).shape == (4, 4)


def test_refused_rows_touch_no_data(tmp_path: Path) -> None:
    METHODS["mine"] = row(modules=[SNR.at(9)])
    recipe = SMALL.change(method="mine", source="market")  # which is not there at all
    with pytest.raises(RecipeError, match="stands at place 9"):
        training.train(recipe, data=tmp_path / "data", results=tmp_path, device="cpu", report=quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: row(modules=[5]), "a module, a loss or an augmentation must be a Part; got 5"),
        (lambda: row(norm=[IN]), "norm must be a Part or NoneType"),
        (lambda: row(views=0), "views must be 1 to 8"),
        (lambda: row(views=True), "views must be a int; got True"),
        (lambda: Method(name=3, title="", source=""), "3 cannot name a method"),  # type: ignore[arg-type]
        (lambda: Method(name="a", title=5, source=""), "title must be a str; got 5"),  # type: ignore[arg-type]
        (lambda: Method(name="x" * 255, title="", source=""), "cannot name a method"),
        (lambda: Part(name="a", build=print), "build must be a str or type"),  # type: ignore[arg-type]
        (lambda: BackboneRow(name="b", build=Odd, source="", params={"x": {1}}), "the backbone b: x must be a text"),  # type: ignore[dict-item]
        (lambda: BackboneRow(name="b", build=Odd, source="", params=[1]), "params must be a Mapping"),  # type: ignore[arg-type]
        (lambda: Part(name="l.x", build=Odd), "'l.x' cannot name a part"),
        (lambda: Part(name="a", build=Odd, places=1), "places must be a tuple or list; got 1"),  # type: ignore[arg-type]
        (lambda: Part(name="a", build=Odd, places=("1",)), "places must be whole numbers"),  # type: ignore[arg-type]
        (lambda: Part(name="a", build=Odd, places=(1, 1)), "each once"),
        (lambda: Part(name="a", build=Odd, params={"x": {1}}), "x must be a text, a number"),  # type: ignore[dict-item]
        (lambda: Part(name="a", build=Odd, params={"x": float("nan")}), "x must be a text, a number"),
        (lambda: row(losses=[Part(name="epoch", build=Odd)]), "a loss cannot be called 'epoch'"),
        (lambda: METHODS["snr"].set({"snr.reduction": 10**400}), "snr.reduction must be like '16'"),
        (lambda: METHODS["snr"].set({"snr.weights": (True, False)}), "snr.weights must be like"),
        (lambda: METHODS["snr"].set({"snr.weights": float("inf")}), "snr.weights must be like"),
        (lambda: read_setting("snr.weights=[[1]]"), "a value is a text, a number"),
        (lambda: read_setting("snr.weights=1979-05-27"), "a value is a text, a number"),
        (lambda: settings_of(["snr.weights=1,2", "snr.weights=1"]), "snr.weights is given twice, as 1/2 and as 1"),
        (lambda: check_row(METHODS["snr"].set({"snr.gates": 3}), "tiny", SHARED), "gates 1 or 2; got 16 and 3"),
        (lambda: check_row(METHODS["snr"].set({"snr.reduction": 0}), "tiny", SHARED), "reduction must be at least 1"),
        (lambda: check_row(METHODS["snr"].set({"snr.weights": -1}), "tiny", SHARED), "snr.weights must lie within 0"),
        (lambda: check_row(METHODS["a-sn"].set({"sn.momentum": 7}), "tiny", SHARED), "momentum within 0 to 1"),
    ],
)
def test_what_is_no_row_no_part_and_no_value_is_refused(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def forward(self, x): return x[..., ::2]", r"the module Mine makes \(4, 32, 24, 8\) of \(4, 32, 24, 16\)"),
        ("def forward(self, x): return 1", "the module Mine makes int of"),
        ("def forward(self, x): return x.nonsense", r"mine\.py, line 5: AttributeError: .*nonsense"),
        ("offers = 'mine'\n    def forward(self, x): return x", "Mine offers 'mine' and leaves nothing"),
        (
            "def forward(self, x): return x\n    def draw(self, step): return 1 / 0",
            r"mine\.py, line 6: ZeroDivisionError",
        ),
    ],
)
def test_a_module_that_breaks_its_contract_is_refused_before_data_are_touched(
    body: str, message: str, tmp_path: Path
) -> None:
    text = HEAD + "from reidgen.contracts import Module\nclass Mine(Module):\n    " + body
    text += "\nROWS = [Method(name='mine', title='', source='', modules=[Part(name='m', build=Mine, places=(1,))])]"
    plugins = load_plugins([write(tmp_path / "mine.py", text)])
    with pytest.raises(RecipeError, match=message):
        recipe = SMALL.change(method="mine", plugins=plugins, source="market")
        training.train(recipe, data=tmp_path / "data", results=tmp_path / "r", device="cpu", report=quiet)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def forward(self, output, batch): return output.feature",
            "the loss mine gives .*; it must give a finite scalar",
        ),
        (
            "def forward(self, output, batch): return output.feature.sum() * float('nan')",
            "it must give a finite scalar",
        ),
        ("def forward(self, output, batch): return output.gone", r"mine\.py, line 5: AttributeError"),
    ],
)
def test_a_loss_that_breaks_its_contract_is_refused(body: str, message: str, tmp_path: Path) -> None:
    text = HEAD + "from reidgen.contracts import Loss\nclass Mine(Loss):\n    " + body
    text += "\nROWS = [Method(name='mine', title='', source='', losses=[Part(name='mine', build=Mine)])]"
    load_plugins([write(tmp_path / "mine.py", text)])
    with pytest.raises(RecipeError, match=message):
        check_row(METHODS["mine"], "tiny", SHARED)


def test_a_backbone_that_breaks_its_contract_is_refused(tmp_path: Path) -> None:
    text = HEAD + "from reidgen.contracts import Backbone\nclass Mine(Backbone):\n"
    text += "    def __init__(self):\n        super().__init__(dim=7)\n        self.net = nn.Conv2d(3, 5, 1)\n"
    text += "    def forward(self, x): return self.net(x)\nROWS = [BackboneRow(name='mine', build=Mine, source='')]"
    load_plugins([write(tmp_path / "mine.py", text)])
    with pytest.raises(RecipeError, match=r"the backbone gives \(4, 5, 64, 32\); it must give \(B, 7\) or such maps"):
        check_row(METHODS["baseline"], "mine", SHARED)


@pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v2", "resnet18"])
@pytest.mark.parametrize(
    "module", [SNR.at(0), SNR.at(1, 2, before_relu=True), SNR.but(gates=2).at(0, 3), SNR.at(0, before_relu=True)]
)
def test_snr_and_its_loss_work_at_every_place_and_before_the_relu(module: Part, backbone: str) -> None:
    """The loss of the whole network equals that of the maps that really enter the modules, by the equations."""
    torch.manual_seed(0)
    weights = tuple(0.3 + place for place in range(len(module.places)))
    method = row(modules=[module], losses=[SNR_LOSS.but(weights=weights, triplets="hard")])
    network = build_network(method, backbone, classes=3)
    loss = build_losses(method, [], network, domains=1)["snr"]
    entered = []
    for place, snr in network.placed:
        torch.nn.init.uniform_(snr.weight, 0.5, 1.5)  # type: ignore[arg-type]
        torch.nn.init.uniform_(snr.bias, 0.5, 1.0)  # type: ignore[arg-type]  # at 0 pooled F~ has no direction
        snr.register_forward_hook(lambda m, x, y, place=place: entered.append((place, m, x[0])))
    pid = torch.arange(6) // 2
    zero = torch.zeros_like(pid)
    found = loss(network(torch.randn(6, 3, 64, 32)), Batch(pid, zero, zero, zero, images=6))
    expected = torch.zeros(())
    assert [place for place, _, _ in entered] == list(module.places)
    for weight, (_, snr, map_BCHW) in zip(weights, entered, strict=True):
        mean, variance = map_BCHW.mean((2, 3), keepdim=True), map_BCHW.var((2, 3), keepdim=True, correction=0)
        weight_C, bias_C = snr.weight[:, None, None], snr.bias[:, None, None]
        normalized = (map_BCHW - mean) / (variance + 1e-5).sqrt() * weight_C + bias_C
        removed = map_BCHW - normalized
        gate = snr.gate(removed.mean((2, 3)))[:, :, None, None]
        other = 1 - gate if snr.gate_minus is None else snr.gate_minus(removed.mean((2, 3)))[:, :, None, None]
        maps = (normalized, normalized + gate * removed, normalized + other * removed)
        expected = expected + weight * dual_causality_loss(Pooled(*(one.mean((2, 3)) for one in maps)), pid)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4) and found.item() > 0


def test_settings_change_the_rows_that_have_them_and_no_other() -> None:
    settings = settings_of(["snr.distance=euclidean", "snr.weights=1"])
    snr, baseline = METHODS["snr"].set(settings), METHODS["baseline"].set(settings)
    assert baseline == METHODS["baseline"] and baseline.digest == METHODS["baseline"].digest
    assert snr.label == "snr(distance=euclidean,weights=1)" and snr.digest != METHODS["snr"].digest
    assert title_of(snr.label) == "SNR (distance=euclidean, weights=1)" == snr.full_title
    assert METHODS["snr"].set({"snr.distance": "cosine"}).label == "snr"  # the default is no change
    with pytest.raises(RecipeError, match="unknown parameter of snr 'distanc'; did you mean 'distance'"):
        METHODS["snr"].set({"snr.distanc": "x"})
    with pytest.raises(RecipeError, match=r"snr.plus must be like 'true' \(bool\); got 3"):
        METHODS["snr"].set({"snr.plus": 3})
    assert idle(settings, ["baseline", "in"])[0] == "note: the setting snr.distance changes nothing of baseline, in"
    assert idle(settings, ["baseline", "snr"]) == []
    with pytest.raises(RecipeError, match=r"--set ibn-a.share: the part ibn-a has no parameters; leave it out"):
        METHODS["ibn-a"].set({"ibn-a.share": 0.3})
    with pytest.raises(RecipeError, match=r"--set se.foo: unknown parameter of se 'foo'"):
        idle({"se.foo": 0.3}, ["mixstyle"])
    with pytest.raises(RecipeError, match="unknown part 'snrr'; did you mean 'snr'"):
        idle({"snrr.distance": "x"}, ["snr"])
    swapped = settings_of(["snr.weights=1", "snr.distance=euclidean"])
    assert METHODS["snr"].set(swapped).label == snr.label  # one name, in whatever order
    for words in ("snr.distance", "distance=3", "a.b.c=3"):
        with pytest.raises(RecipeError, match=r"write part\.parameter=value"):
            read_setting(words)


def test_shipped_rows_name_every_parameter_of_their_parts_and_every_default() -> None:
    for method in METHODS.values():
        for part in [*method.parts, *SHARED]:
            defaults = registry.parameters_of(registry.load_class(part.build))
            assert set(part.params) == set(defaults), (method.name, part.name)
            assert set(part.tags) <= set(part.params)


# As their authors have them: what a row's own parts are built with, whatever the classes' defaults.
AUTHORS = {
    "mixstyle": {"mixstyle": {"probability": 0.5, "alpha": 0.1, "partner": "random"}},
    "mixstyle-camera": {"mixstyle": {"probability": 0.5, "alpha": 0.1, "partner": "camera"}},
    "efdmix": {"efdmix": {"probability": 0.5, "alpha": 0.1, "partner": "random"}},
    "dsu": {"dsu": {"probability": 0.5, "factor": 1.0}},
    "bin": {"bin": {"rate": 20.0, "eps": 1e-5, "momentum": 0.1}},
    "a-sn": {"sn": {"eps": 1e-5, "momentum": 0.1}},
    "bau": {
        "in": {"affine": False},
        "strong-view": {"probability": 0.5, "operations": 2, "magnitude": 10.0, "jitter": 2.0, "hue": 0.1},
        "bau-align": {"weight": 1.5, "neighbours": 10},
        "bau-uniform": {"weight": 1.0},
        "bau-domain": {"weight": 1.0, "momentum": 0.1},
    },
}
PLACES = {
    "mixstyle": (1, 2), "mixstyle-camera": (1, 2), "efdmix": (1, 2), "dsu": (0, 1, 2, 3, 4), "bau": (1, 2, 3),
    "in-plain": (1, 2, 3), "dualnorm": (1, 2, 3), "ibn": (1, 2), "ibn-b": (0, 1, 2), "ibn-stem-1": (0, 1),
    "in": (1, 2, 3), "in-0123": (0, 1, 2, 3), "snr": (1, 2, 3, 4), "snr-123": (1, 2, 3), "se-stage4": (4,),
}  # fmt: skip


def test_rows_have_their_authors_parameters_and_places() -> None:
    for name, parts in AUTHORS.items():
        assert {part.name: dict(part.params) for part in METHODS[name].parts} == parts
    for name, places in PLACES.items():
        assert [part.places for part in METHODS[name].modules] == [places]
        assert [part.before_relu for part in METHODS[name].modules] == [
            name in ("dualnorm", "ibn", "ibn-b", "ibn-stem-1")
        ]


def test_the_example_runs_in_two_processes_and_stands_in_the_table(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = load_plugins([str(EXAMPLE)])
    assert len(EXAMPLE.read_text().splitlines()) < 140
    monkeypatch.setattr(grid, "devices_of", lambda device: ["cpu", "cpu"])
    methods = ["half-norm", "style-noise", "spread"]
    said: list[str] = []
    grid.bench(
        SMALL.change(plugins=plugins), methods=methods, seeds=[0], data=small_data, results=tmp_path,
        device="cpu", report=lambda what, done, total: None, say=said.append,
    )  # fmt: skip
    rows = read_rows(tmp_path)
    assert set(rows["method"]) == set(methods) and set(rows["title"]) == {"Half norm", "Style noise", "Spread"}
    assert "Style noise" in make_table(rows).markdown()
    log = pd.read_csv(next(tmp_path.glob("runs/*/spread-*/log.csv")))
    assert {"loss", "cross_entropy", "triplet", "spread"} <= set(log)
    run = Run(next(tmp_path.glob("runs/*/style-*/")))
    ways = select_ways("plain,root,root(power=0.25),root(power=1)+flip,flip")
    evaluated = evaluate(run, "synth-night", ways=ways, data=small_data, report=quiet)
    digits = registry.PLUGINS["own_parts.py"].digest[:8]
    words = ["plain", f"root@{digits}", f"root(power=0.25)@{digits}", f"flip+root(power=1)@{digits}", "flip"]
    assert evaluated["test"].tolist() == words and evaluated["mAP"].between(0, 1).all()
    assert evaluated["mAP"][4] == pytest.approx(evaluated["mAP"][3]) and evaluated["mAP"].nunique() > 2
    table = make_table(read_rows(tmp_path), selection=Selection(tests=("root",)))
    assert list(table.blocks()) == [f"synth-plaza, tested with root@{digits}"]
    assert "test steps that use no other image of the target: root" in map(str, table.notes)
    narrow = training.train(
        SMALL.change(plugins=plugins, backbone="narrow", method="snr"),
        data=small_data,
        results=tmp_path,
        device="cpu",
        report=quiet,
    )
    assert narrow.facts()["hash"] not in set(rows["hash"])


DRIVER = """
import os, signal, sys
from reidgen import training
from reidgen.cli import app
training.CHECKPOINT_SECONDS = 0.0
real = training.Trainer.learn
def learn(self, *args):
    if "KILL" in os.environ and self.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *args)
training.Trainer.learn = learn
app(sys.argv[1:])
"""


def test_a_plugin_that_draws_and_remembers_resumes_to_the_same_bits(small_data: Path, tmp_path: Path) -> None:
    """A row with both: a module that draws and a loss that keeps what it has seen. Killed, then gone on with."""
    file, driver, recipe = tmp_path / "both.py", tmp_path / "driver.py", tmp_path / "small.toml"
    both = 'Method(name="both", title="Both", source="", modules=[NOISE], losses=[Part(name="spread", build=Spread)])'
    file.write_text(f"{EXAMPLE.read_text()}\nROWS.append({both})\n")
    driver.write_text(DRIVER)
    chosen = SMALL.change(plugins=load_plugins([str(file)]), method="both")
    recipe.write_text(grid_toml(chosen))

    def bench(**more: str) -> int:
        words = ["bench", "--recipe", recipe, "--methods", "both", "--seeds", "1", "--target", "synth-night"]
        words += ["--device", "cpu", "--data", small_data, "--results", tmp_path / "killed"]
        return Command(tmp_path / "said", *words, script=driver, **more).ended()

    assert bench(KILL="1") == -signal.SIGKILL and list(tmp_path.glob("killed/runs/*/*/state.pt"))
    assert bench() == 0 and "| Both " in (tmp_path / "killed" / "table.md").read_text()
    whole = training.train(chosen, data=small_data, results=tmp_path / "whole", device="cpu", report=quiet)
    (killed,) = tmp_path.glob("killed/runs/*/*/weights.safetensors")
    assert killed.read_bytes() == whole.weights.read_bytes()


LOUD = """
import torch
from reidgen.contracts import Module
from reidgen.parts import Method, Part
torch.backends.mkldnn.enabled = False
class Loud(Module):
    def forward(self, map_BCHW):
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.backends.mkldnn.enabled = False
        return map_BCHW
ROWS = [Method(name="loud", title="Loud", source="", modules=[Part(name="loud", build=Loud).at(1)])]
"""


def test_what_a_plugin_sets_for_the_whole_process_changes_no_row_beside_its_own(
    small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As it is imported and as it works: without oneDNN, convolutions have other bits."""
    process._say_kept.cache_clear()
    recipe = SMALL.change(method="snr", epochs=1)
    train = functools.partial(training.train, data=small_data, device="cpu", report=quiet)
    alone = train(recipe, results=tmp_path / "alone")
    plugins = load_plugins([write(tmp_path / "loud.py", LOUD)])
    assert caplog.messages[-1].endswith("set back: torch.backends.mkldnn.enabled")
    train(recipe.change(method="loud", plugins=plugins), results=tmp_path / "beside")
    beside = train(recipe, results=tmp_path / "beside")
    assert beside.weights.read_bytes() == alone.weights.read_bytes()
    assert caplog.messages[-1].endswith("set back: torch.set_num_threads, torch.backends.mkldnn.enabled")


def test_an_edited_plugin_trains_anew_and_its_older_run_is_refused(small_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = EXAMPLE.read_text()
    recipe = SMALL.change(epochs=1)

    def fit() -> Run:
        for table in (METHODS, BACKBONES, TEST_STEPS, registry.PLUGINS):
            for name in [name for name, one in table.items() if getattr(one, "origin", "reidgen") != "reidgen"]:
                del table[name]
        registry.PLUGINS.clear()
        plugins = load_plugins([write(file, text)])
        chosen = recipe.change(method="style-noise", plugins=plugins)
        return training.train(chosen, data=small_data, results=tmp_path, device="cpu", report=quiet)

    first = fit()
    assert fit() == first
    text = text.replace("torch.randn((2", "0 * torch.randn((2")
    second = fit()
    assert second != first
    weights = [safetensors.torch.load_file(run.weights) for run in (first, second)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    evaluate(second, "synth-night", data=small_data, report=quiet)
    with pytest.raises(PluginError, match=r"is not the mine\.py that this run was trained with .* train again"):
        evaluate(first, "synth-night", data=small_data, report=quiet)
    assert len(read_rows(tmp_path)) == 1  # the older run has no rows
    registry.PLUGINS.clear()
    with pytest.raises(PluginError, match=r"not loaded; .*it was trained with --plugin .*mine\.py"):
        evaluate(second, "synth-night", data=small_data, report=quiet)
    assert read_recipe(second.recipe_file).plugins == (str(file.resolve()),)  # read without running it
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(PluginError, match=r"another plug-in is called mine\.py already"):
        registry.PLUGINS["mine.py"] = registry.Plugin("mine.py", file, "0", sys)
        load_plugins([write(other / "mine.py", text + "\n")])


def test_an_edited_backbone_is_refused_too(small_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    plugins = load_plugins([write(file, EXAMPLE.read_text())])
    recipe = SMALL.change(epochs=1, batches_per_epoch=1, backbone="narrow", method="baseline", plugins=plugins)
    first = training.train(recipe, data=small_data, results=tmp_path, device="cpu", report=quiet)
    load_plugins([write(file, EXAMPLE.read_text().replace("(2, 1, 2, 2, 1)", "(2, 2, 2, 1, 1)"))])  # as in a notebook
    with pytest.raises(PluginError, match=r"is not the mine\.py that this run was trained with"):
        evaluate(first, "synth-night", data=small_data, report=quiet)
    assert training.train(recipe, data=small_data, results=tmp_path, device="cpu", report=quiet) != first


@pytest.mark.parametrize("newest", ["aaaaaaaa", "ffffffff"])
def test_the_latest_of_two_versions_of_a_method_stands_in_the_table(newest: str, tmp_path: Path) -> None:
    """Whatever the names of their folders: the older one is left out, and said to be."""
    for digest in ("aaaaaaaa", "ffffffff"):
        rows = pd.DataFrame({key: ["0"] for key in COLUMNS}).astype(COLUMNS)
        day, score = ("2026-01-02", 0.5) if digest == newest else ("2026-01-01", 0.1)
        rows = rows.assign(method="mine", title="Mine", row=digest, source="market", target="duke", mAP=score, date=day)
        folder = tmp_path / "runs" / "market" / f"mine-0-s0-0-{digest}"
        folder.mkdir(parents=True)
        write_rows(folder / "results.csv", rows)
    made = make_table(read_rows(tmp_path))
    assert made.cells.loc[made.cells["target"] == "duke", "mAP"].tolist() == [50.0]
    assert any("earlier version" in str(note) for note in made.notes), made.notes


def test_an_installed_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_reid"
    package.mkdir()
    (package / "__init__.py").write_text(
        HEAD + "class Theirs(nn.Module): pass\nROWS = [Method(name='theirs', title='Theirs', source='them')]"
    )
    about = tmp_path / "their_reid-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-reid\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[reidgen]\nrows = their_reid\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.get_method("theirs").origin == "their_reid"
    assert "theirs" in {one.name for one in registry.all_rows()[0]}
    registry._forget(registry.PLUGINS["their_reid"])  # as in another process, which reads a run of it
    assert registry.load_class("their_reid:Theirs").__name__ == "Theirs"
    (package / "__init__.py").write_text("1 / 0")
    registry._forget(registry.PLUGINS["their_reid"])
    for name in [name for name in sys.modules if name.startswith("their_reid")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(registry, "BROKEN", {})
    assert "snr" in {one.name for one in registry.all_rows()[0]} and "ZeroDivisionError" in registry.broken()[0]
    monkeypatch.setattr(registry, "BROKEN", {})


class Erase(Module):
    """Blackens the left half of every image in training."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(images[..., :8]), images[..., 8:]], dim=3) if self.training else images


class Twin(Loss):
    """How far the two views of an image are apart."""

    def forward(self, output: Output, batch: Batch) -> torch.Tensor:
        first, second = output.feature[: batch.images], output.feature[batch.images :]
        assert torch.equal(batch.view, torch.arange(2).repeat_interleave(batch.images).to(batch.view))
        assert torch.equal(batch.pid[: batch.images], batch.pid[batch.images :])
        return (first - second).square().mean()


def test_an_augmentation_and_a_second_view_are_parts_too(small_data: Path, tmp_path: Path) -> None:
    METHODS["erase"] = row(modules=[Part(name="erase", build=Erase, places=(-1,))])
    METHODS["twin"] = row(losses=[Part(name="twin", build=Twin)], views=2)
    logs = {}
    for name in ("baseline", "erase", "twin"):
        recipe = SMALL.change(method=name, epochs=1)
        run = training.train(recipe, data=small_data, results=tmp_path, device="cpu", report=quiet)
        logs[name] = pd.read_csv(run.log)
    assert logs["twin"]["twin"].iloc[0] > 0  # the views are augmented differently
    # shared losses see the first view only; BatchNorm sees both, so that they are near baseline's and not the same
    assert logs["twin"]["cross_entropy"].iloc[0] == pytest.approx(logs["baseline"]["cross_entropy"].iloc[0], rel=0.1)
    assert logs["erase"]["loss"].iloc[0] != logs["baseline"]["loss"].iloc[0]


STEP = """
from reidgen.contracts import TestStep
from reidgen.parts import Method, Part
from reidgen.teststeps import StepRow


class Mine(TestStep):
    def __init__(self, *, share: float = 1.0) -> None:
        self.share = share

    def embeddings(self, embedding_ND, camid_N):
        return embedding_ND / self.share


class Short(TestStep):
    def embeddings(self, embedding_ND, camid_N):
        return embedding_ND[:7]


class Odd(TestStep):
    def views(self, images_BCHW):
        return images_BCHW, 1


class Other(TestStep):
    def adapt(self, network, batches):
        pass


ROWS = [{rows}]
"""


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("StepRow(name='mine', build=Mine, stage='embedding')", r"mine\.py, line 30: .*stage must be one of adapt"),
        ("StepRow(name='plain', build=Mine, stage='adapt')", "a test step cannot be called plain"),
        ("StepRow(name='flip', build=Mine, stage='adapt')", "the test step 'flip' is taken by reidgen"),
        ("StepRow(name='snr', build=Mine, stage='adapt')", "a test step and a part of a method are both called 'snr'"),
        (
            "StepRow(name='x', build=Mine, stage='adapt'), Method(name='y', title='Y', source='', "
            "losses=[Part(name='x', build=Mine)])",
            "a test step and a part of a method are both called 'x'",
        ),
    ],
)
def test_a_row_of_a_test_step_that_cannot_be_is_refused(rows: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=message):
        load_plugins([write(tmp_path / "mine.py", STEP.replace("{rows}", rows))])


@pytest.mark.parametrize(
    ("rows", "word", "message"),
    [
        ("StepRow(name='mine', build=Mine, stage='adapt')", "mine", "its class has embeddings of adapt, views"),
        ("StepRow(name='mine', build=object, stage='adapt')", "mine", "is no class of this file"),
        ("StepRow(name='mine', build=Mine, stage='embeddings')", "mine(shar=1)", "did you mean 'share'"),
        ("StepRow(name='mine', build=Mine, stage='embeddings')", "mine(share=0.0)", "divi|not finite"),
        ("StepRow(name='mine', build=Short, stage='embeddings')", "mine", r"Short makes \(7, 128\) of \(36, 128\)"),
        ("StepRow(name='mine', build=Odd, stage='views')", "mine", "Odd makes int of"),
        ("StepRow(name='mine', build=Other, stage='adapt')", "mine+bn", "bn each make the network anew"),
        ("StepRow(name='mine', build=Mine, stage='embeddings')", "mine@00000000", "the plug-in's mine is mine@"),
    ],
)
def test_a_test_step_that_breaks_its_contract_is_one_sentence(
    rows: str, word: str, message: str, small_data: Path, trained: Run, tmp_path: Path
) -> None:
    with pytest.raises(ReidgenError, match=message):
        load_plugins([write(tmp_path / "mine.py", STEP.replace("{rows}", rows))])
        evaluate(trained, "synth-night", ways=select_ways(f"plain,{word}"), data=small_data, report=quiet)


@pytest.fixture(scope="module")
def trained(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe, results = SMALL.change(method="baseline", epochs=1), tmp_path_factory.mktemp("results")
    return training.train(recipe, data=small_data, results=results, device="cpu", report=quiet)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000])
def test_a_setting_that_toml_cannot_read_is_refused(value: str) -> None:
    with pytest.raises(RecipeError, match="a value is a text, a number"):
        read_setting(f"snr.weights={value}")
