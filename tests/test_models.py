"""Every method on every backbone, and weights that fit or say why not."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from reidgen.backbones import BACKBONES
from reidgen.contracts import Step
from reidgen.errors import RecipeError, WeightsError
from reidgen.losses import dual_causality_loss
from reidgen.methods import METHODS
from reidgen.models import build_network
from reidgen.models.gates import BatchInstanceNorm2d, SqueezeExcite
from reidgen.models.mixing import DSU, EFDMix, MixStyle
from reidgen.models.network import GeM, check_row, draws, hand_out
from reidgen.models.norms import SNR, InstanceBatchNorm2d, SNRConv, SwitchableNorm2d
from reidgen.models.weights import build_backbone
from reidgen.parts import GROUPS, Part
from reidgen.recipe import RECIPES
from reidgen.registry import get_backbone, select_methods

CHANNELS = {"resnet50": 2048, "resnet18": 512, "mobilenet_v2": 1280, "osnet-x0.75": 384, "tiny": 128}
PLACED = [name for name in BACKBONES if name != "vit_b_16"]
PID = torch.arange(4) // 2


@functools.cache
def networks() -> list[str]:
    """Return the methods that differ in their network; of those that differ in losses alone, the first."""
    kinds = {json.dumps([METHODS[name].facts()[key] for key in ("norm", "modules")]): name for name in [*METHODS][::-1]}
    return [name for name in METHODS if name in kinds.values()]


def every_pair(often: set[tuple[str, str]]) -> list[Any]:
    """Return every row on every backbone on which it has a meaning (which test_backbones.py proves), as parameters of
    a test; those that are not tested often carry the mark `every`, and those that differ in losses alone from another
    are not among these.
    """
    vit = [name for name, row in METHODS.items() if not row.norm and not any(map(_is_placed, row.modules))]
    return [
        pytest.param(method, name, marks=() if (method, name) in often else pytest.mark.every)
        for name in BACKBONES
        for method in (vit if name == "vit_b_16" else METHODS)
        if not (method == "ibn-a" and name.endswith("-ibn-a"))
        if (method, name) in often or method in networks()
    ]


def _is_placed(part: Part) -> bool:
    return any(place >= 0 for place in part.places)


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize(
    ("method", "backbone"),
    [(method, name) for name in CHANNELS for method in (METHODS if name == "tiny" else networks())],
)
def test_every_method_on_every_family_of_backbones(method: str, backbone: str, request: pytest.FixtureRequest) -> None:
    """On whole networks baseline and SNR, the others on short ones."""
    if method not in ("baseline", "snr"):
        request.getfixturevalue("short_nets")
    torch.manual_seed(0)
    row = METHODS[method]
    network = build_network(row, backbone, classes=7)
    images = torch.randn(4, 3, 64, 32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | SwitchableNorm2d | BatchInstanceNorm2d):
            module.momentum = 1.0  # so that the running averages are those of this batch
        if isinstance(module, BatchInstanceNorm2d):
            nn.init.constant_(module.gate, 0.5)  # at its start the half of Instance Norm learns nothing yet
    zero = torch.zeros_like(PID)
    step = Step(PID, torch.arange(4) % 2, zero, zero, torch.arange(4), seed=0, number=0)
    hand_out(network, nn.ModuleDict(), draws(network, nn.ModuleDict(), step))
    output = network(images)
    feature, logits = output.feature, output.logits
    assert feature.shape == (4, CHANNELS[backbone]) and logits.shape == (4, 7)
    pooled = output.offered.get("pooled", {})
    assert tuple(pooled) == tuple(place for part in row.modules if part.name == "snr" for place in part.places)
    loss = nn.functional.cross_entropy(logits, PID) + feature.square().mean()
    for part in pooled.values():
        loss = loss + dual_causality_loss(part, PID, plus=True, minus=True)
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient for {name}"
            largest = parameter.grad.abs().max()  # nan, where any is
            assert torch.isfinite(largest), f"gradient of {name} is not finite"
            before_pooling = name == "backbone.after.4.weight" and isinstance(network.backbone.after[4], SNR)
            if not before_pooling:  # there the mean of gamma (F - mu) / sigma is 0 whatever gamma is
                assert largest > 0, f"gradient of {name} is zero"
    assert not network.neck.bias.requires_grad

    network.eval()
    with torch.no_grad():
        embedding = network(images)
        alone = network(images[:2])
    assert embedding.shape == (4, CHANNELS[backbone]) and torch.isfinite(embedding).all()
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(embedding[:2], alone, rtol=1e-3, atol=1e-4)  # in evaluation no image sees another
    with torch.no_grad():
        assert not torch.allclose(nn.functional.normalize(feature, dim=1), embedding, atol=1e-3)
    assert embedding.std(dim=0).max() > 1e-4, "the embedding is constant"


@pytest.mark.usefixtures("no_start", "short_nets")
@pytest.mark.parametrize("backbone", [name for name in PLACED if "-x" not in name])  # OSNet's widths are one code
def test_each_row_puts_its_modules_where_it_says(backbone: str) -> None:
    @functools.cache
    def modules(method: str) -> list[nn.Module]:
        with torch.device("meta"):
            return list(build_network(METHODS[method], backbone, classes=2).modules())

    def count(method: str, kind: type[nn.Module]) -> int:
        return sum(isinstance(module, kind) for module in modules(method))

    norms, own = count("baseline", nn.BatchNorm2d), count("baseline", nn.InstanceNorm2d)
    assert norms >= 8 and (own > 0) == any(form in backbone for form in ("ibn", "ain"))
    assert count("a-in", nn.BatchNorm2d) == 0 and count("a-in", nn.InstanceNorm2d) == norms + own
    assert count("a-sn", nn.BatchNorm2d) == 0 and count("a-sn", SwitchableNorm2d) == norms
    added = {"in": 3, "ibn": 2, "dualnorm": 3, "ibn-b": 3, "ibn-stem-1": 2, "in-0123": 4, "in-plain": 3, "bau": 3}
    assert {method: count(method, nn.InstanceNorm2d) - own for method in added} == added
    assert all(count(method, nn.BatchNorm2d) == norms for method in added)
    assert count("bin", BatchInstanceNorm2d) == norms and count("bin", nn.BatchNorm2d) == 0
    assert count("mixstyle", MixStyle) == count("efdmix", EFDMix) == 2 and count("dsu", DSU) == 5
    assert count("snr-123", SNR) == 3 and count("se-stage4", SqueezeExcite) == 1
    assert all(count(name, nn.BatchNorm2d) == norms for name in ("mixstyle", "dsu", "se-stage4"))
    affine = [module.affine for module in modules("in-plain") if isinstance(module, nn.InstanceNorm2d)]
    assert affine.count(False) == 3 and affine.count(True) == own
    assert count("snr", SNR) == 4 and count("snr", nn.BatchNorm2d) == norms
    assert count("snr-conv", SNRConv) == 4 and count("snr-stage3", SNR) == 1


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.norm and name != "ibn-a"])
def test_a_rows_norm_takes_the_place_of_the_batch_norm_in_ibn_a_too(method: str) -> None:
    network = build_network(METHODS[method], "resnet18-ibn-a", classes=2)
    embedding = network.eval()(torch.randn(2, 3, 32, 16))
    assert embedding.shape == (2, 512) and torch.isfinite(embedding).all()
    layer = next(module for module in network.modules() if isinstance(module, InstanceBatchNorm2d))
    assert not isinstance(layer.BN, nn.BatchNorm2d) and isinstance(layer.IN, nn.InstanceNorm2d)


@pytest.mark.parametrize(
    ("backbone", "blocks"), [("resnet50", [3, 4, 6]), ("resnet18", [2, 2, 2]), ("mobilenet_v2", [3, 3, 7])]
)
def test_ibn_a_replaces_the_first_norm_of_every_block_of_stages_1_to_3(backbone: str, blocks: list[int]) -> None:
    """13 layers in ResNet-50, as in the authors' code; on MobileNetV2 the norm of the expansion."""
    network = build_network(METHODS["ibn-a"], backbone, classes=2)
    names = [name for name, module in network.named_modules() if isinstance(module, InstanceBatchNorm2d)]
    assert len(names) == sum(blocks)
    if backbone != "mobilenet_v2":
        where = [f"backbone.stages.{1 + stage}.{b}.bn1" for stage, count in enumerate(blocks) for b in range(count)]
        assert names == where
    first = network.get_submodule(names[0])
    assert isinstance(first, InstanceBatchNorm2d)


@pytest.mark.usefixtures("drawn_once", "short_nets")
@pytest.mark.parametrize("backbone", PLACED)
@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_before_relu_stands_between_the_sum_and_the_relu(backbone: str, place: int) -> None:
    """An inserted constant of -1 leaves nothing after the ReLU; MobileNetV2's stages 1 to 3 end without one."""

    class Minus(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full_like(x, -1)

    body, _ = build_backbone(get_backbone(backbone))
    body = body.eval()
    body.put_before_relu(place, Minus())
    outputs: list[torch.Tensor] = []
    body.after[place].register_forward_hook(lambda module, given, out: outputs.append(out))
    with torch.no_grad():
        body(torch.randn(1, 3, 32, 16))
    linear = backbone.startswith("mobilenet_v2") and place in (1, 2, 3)
    assert outputs[0].unique().tolist() == ([-1.0] if linear else [0.0])


@pytest.mark.parametrize("backbone", ["resnet50", "resnet18", "mobilenet_v2", "mobilenet_v2-1.4"])
def test_baseline_is_torchvision_with_the_last_stride_1(
    backbone: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    name, _, width = backbone.partition("-")
    theirs = getattr(torchvision_models, name)(weights=None, **({"width_mult": float(width)} if width else {}))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    request.getfixturevalue("no_start")  # all of ours is read
    ours = (
        build_network(METHODS["baseline"], backbone, classes=2, weights=str(tmp_path / "weights.pth")).eval().backbone
    )
    for module in theirs.modules():  # undo the last stride in theirs as well
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            last = module
    if name == "mobilenet_v2":
        theirs.features[14].conv[1][0].stride = (1, 1)
        trunk = theirs.features
    else:
        last.stride = (1, 1)
        theirs.layer4[0].downsample[0].stride = (1, 1)
        (theirs.layer4[0].conv2 if backbone == "resnet50" else theirs.layer4[0].conv1).stride = (1, 1)
        trunk = nn.Sequential(*list(theirs.children())[:-2])
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), trunk.eval()(images))
    assert ours(images).shape[2:] == (4, 2)  # stride 16


@pytest.mark.usefixtures("no_start")
@pytest.mark.parametrize("method", ["a-in", "a-sn", "snr", "ibn", "snr-conv"])
def test_affine_parameters_carry_over_where_a_norm_is_replaced(method: str, tmp_path: Path) -> None:
    theirs = torchvision_models.resnet18(weights=None)
    with torch.no_grad():
        theirs.layer2[0].bn1.weight.uniform_(2, 3)
        theirs.layer4[1].conv2.weight.uniform_(2, 3)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    network = build_network(METHODS[method], "resnet18", classes=2, weights=str(tmp_path / "weights.pth"))
    assert torch.equal(network.backbone.stages[2][0].bn1.weight, theirs.layer2[0].bn1.weight)
    assert torch.equal(network.backbone.stages[4][1].conv2.weight, theirs.layer4[1].conv2.weight)


@pytest.mark.usefixtures("thin_tiny")
@pytest.mark.parametrize("prefix", ["", "base.", "module.", "backbone.", "encoder_q.", "module.encoder_q.", "model."])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
def test_weights_of_other_toolkits_load_and_what_is_not_used_is_named(
    tmp_path: Path, prefix: str, wrapper: str
) -> None:
    row = get_backbone("tiny")
    theirs, file = build_backbone(row)[0].state_dict(), tmp_path / "weights.pth"
    state = {f"{prefix}{key}": tensor + 1 for key, tensor in theirs.items()} | {"classifier.weight": torch.ones(2)}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, file)
    backbone, started = build_backbone(row, weights=str(file))
    assert started.unused == ("classifier.weight",)
    assert all(torch.equal(tensor, theirs[key] + 1) for key, tensor in backbone.state_dict().items())
    state.pop(f"{prefix}{next(iter(theirs))}")
    torch.save(state, file)
    with pytest.raises(WeightsError, match=r"does not fit this backbone: it lacks"):
        build_backbone(row, weights=str(file))


@pytest.mark.usefixtures("no_start")
def test_weights_that_do_not_fit_stop_and_name_the_keys(tmp_path: Path) -> None:
    state = torchvision_models.resnet18(weights=None).state_dict()

    def attempt(state: object, backbone: str = "resnet18") -> None:
        torch.save(state, tmp_path / "weights.pth")
        build_network(METHODS["baseline"], backbone, classes=2, weights=str(tmp_path / "weights.pth"))

    attempt(state)
    with pytest.raises(WeightsError, match=r"lacks layer1\.0\.conv1\.weight$"):
        attempt({key: value for key, value in state.items() if key != "layer1.0.conv1.weight"})
    with pytest.raises(WeightsError, match=r"has the unknown layer4\.2\.conv1\.weight"):  # of a deeper network
        attempt(state | {"layer4.2.conv1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"conv1\.weight has \(1, 1\), the network \(64, 3, 7, 7\)"):
        attempt(state | {"conv1.weight": torch.zeros(1, 1)})
    with pytest.raises(WeightsError, match=r"lacks features\.0\.0\.weight, .* and \d+ more"):
        attempt(state, "mobilenet_v2")
    with pytest.raises(WeightsError, match="holds no state dict"):
        attempt([1, 2])
    with pytest.raises(WeightsError, match="loaded safely"):
        attempt(nn.Linear(2, 2))  # a pickled module could execute code
    with pytest.raises(WeightsError, match="holds no state dict"):
        attempt({1: torch.zeros(1)})
    for text in ("not weights", "", ".", "source,target\n", "table", "a", "b", "e", "G", "J", "Q", "s"):
        (tmp_path / "text.pth").write_text(text)
        with pytest.raises(WeightsError, match="loaded safely"):
            build_network(METHODS["baseline"], "resnet18", classes=2, weights=str(tmp_path / "text.pth"))
    with pytest.raises(WeightsError, match="no weight file"):
        build_network(METHODS["baseline"], "resnet18", classes=2, weights=str(tmp_path / "absent.pth"))
    for backbone in ("tiny", "mobilenet_v2-1.4"):
        with pytest.raises(RecipeError, match=f"backbone {backbone} has no ImageNet weights; use --weights none"):
            build_network(METHODS["baseline"], backbone, classes=2, weights="imagenet")


@pytest.mark.usefixtures("no_start")
@pytest.mark.parametrize("backbone", ["resnet50", "resnet18", "mobilenet_v2"])
def test_imagenet_weights_come_from_torchvision_checked_by_hash(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download itself is torchvision's; here it is answered from memory."""
    theirs = getattr(torchvision_models, backbone)(weights=None)
    nn.init.uniform_(next(theirs.parameters()))
    asked: list[tuple[str, bool]] = []

    def answer(self: object, *, progress: bool, check_hash: bool) -> dict[str, torch.Tensor]:
        asked.append((str(self), check_hash))
        return theirs.state_dict()

    monkeypatch.setattr(torchvision_models.WeightsEnum, "get_state_dict", answer)
    network = build_network(METHODS["snr"], backbone, classes=2, weights="imagenet")
    assert asked and asked[0][0].endswith("IMAGENET1K_V1") and asked[0][1]
    first = next(parameter for parameter in network.backbone.parameters())
    assert torch.equal(first, next(theirs.parameters()))


@pytest.mark.usefixtures("no_start")
def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, *, progress: bool, check_hash: bool) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision_models.WeightsEnum, "get_state_dict", fail)
    with pytest.raises(WeightsError, match=r"could not download ResNet50.*--weights FILE"):
        build_network(METHODS["snr"], "resnet50", classes=2, weights="imagenet")


def test_methods_table() -> None:
    assert select_methods("main") == ["baseline", "a-in", "ibn", "a-sn", "in", "snr"]
    assert select_methods("all") == list(METHODS) and len(METHODS) == 31
    assert select_methods("mixing") == ["baseline", "mixstyle", "mixstyle-camera", "efdmix", "dsu"]
    assert select_methods("losses") == ["baseline", "bau-align", "bau-uniform", "bau"]
    assert set(select_methods("placement")) == {
        *("baseline", "ibn", "in", "snr", "dualnorm", "ibn-a", "ibn-b", "ibn-stem-1", "in-0123", "in-plain", "snr-123")
    }
    assert {row.group for row in METHODS.values()} == set(GROUPS)
    assert "in" not in select_methods("ablations") and "snr-g2" in select_methods("ablations")
    assert all(any(tag in row.source for tag in ("[S]", "[A]", "[B]", "[C]", "[D]")) for row in METHODS.values())
    with pytest.raises(RecipeError, match="did you mean 'snr'"):
        select_methods("baseline,snrr")


def test_gem_equals_its_equation_and_is_refused_behind_a_norm() -> None:
    torch.manual_seed(0)
    pool, maps = GeM(), torch.rand(2, 4, 3, 2) - 0.1
    expected = [
        [(sum(max(v, 1e-6) ** 3 for v in channel.flatten().tolist()) / 6) ** (1 / 3) for channel in image]
        for image in maps
    ]
    torch.testing.assert_close(pool(maps), torch.tensor(expected))
    network = build_network(METHODS["baseline"], "tiny", classes=2, pooling="gem")
    network(torch.randn(4, 3, 32, 16)).feature.sum().backward()
    assert network.pool is not None and network.pool.p.grad is not None
    for method, part in (("snr", "snr"), ("snr-stage4", "snr"), ("dsu", "dsu")):
        with pytest.raises(RecipeError, match=rf"{method}: pooling = gem .* {part} stands behind the last ReLU"):
            check_row(METHODS[method], "tiny", RECIPES["quick"].losses, pooling="gem")
    for method in ("in-plain", "snr-123", "se-stage4"):  # a gate of 0 to 1 behind a ReLU gives nothing negative
        check_row(METHODS[method], "tiny", RECIPES["quick"].losses, pooling="gem")
