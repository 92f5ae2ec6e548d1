"""OSNet, IBN-a and Vision Transformers against independent truths, and every row on every backbone, without memory."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50, vision_transformer

from reidgen.backbones import BACKBONES
from reidgen.contracts import Backbone
from reidgen.errors import RecipeError, WeightsError
from reidgen.methods import METHODS
from reidgen.models.network import build_network, check_row
from reidgen.models.transformers import VisionTransformer
from reidgen.models.weights import build_backbone, load_weights
from reidgen.parts import BackboneRow, backbone_from
from reidgen.recipe import RECIPES, Recipe
from reidgen.registry import get_backbone

# torchreid's networks without their classifier, with and without the head (linear layer to 512, BatchNorm1d), counted.
OSNET = {
    "osnet": (2_169_508, 1_905_828),
    "osnet-x0.75": (1_285_754, 1_087_610),
    "osnet-x0.5": (630_034, 497_426),
    "osnet-x0.25": (201_864, 134_792),
    "osnet-ibn": (2_170_532, 1_906_852),
    "osnet-ain": (2_169_508, 1_905_828),
    "osnet-ain-x0.75": (1_285_754, 1_087_610),
    "osnet-ain-x0.5": (630_034, 497_426),
    "osnet-ain-x0.25": (201_864, 134_792),
}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.usefixtures("no_start")
@pytest.mark.parametrize("name", OSNET)
def test_osnet_has_as_many_parameters_as_torchreids(name: str) -> None:
    with torch.device("meta"):
        body, _ = build_backbone(get_backbone(name))
        head = nn.Sequential(nn.Linear(body.dim, 512), nn.BatchNorm1d(512))
        found = body.eval()(torch.zeros(1, 3, 256, 128))
    assert (parameters(body) + parameters(head), parameters(body)) == OSNET[name]
    assert found.shape == (1, body.dim, 16, 8) and body.dim == body.channels[-1]
    if name == "osnet":  # by place
        assert [parameters(stage) for stage in body.stages] == [9_536, 234_632, 592_332, 806_160, 263_168]


def test_the_other_backbones_have_as_many_parameters_as_published() -> None:
    known = {"resnet50": 23_508_032, "resnet50-ibn-a": 23_508_032, "resnet18-ibn-a": 11_176_512}
    known["vit_b_16"] = 86_567_656 - 769_000 - (196 - 128) * 768  # torchvision's, without head, of 16 x 8 patches
    for name, wanted in known.items():
        with torch.device("meta"):
            assert parameters(build_backbone(get_backbone(name))[0]) == wanted, name


class ByHand:
    """OSNet as torchreid has it, one tensor operation after the other; its weights are drawn when their name is met."""

    def __init__(self, form: str, channels: tuple[int, ...]) -> None:
        self.form, self.channels = form, channels
        self.state: dict[str, Tensor] = {}

    def weight(self, name: str, *shape: int, positive: bool = False) -> Tensor:
        if name not in self.state:
            random = torch.randn(shape) * (2 / math.prod(shape[1:])) ** 0.5
            self.state[name] = torch.rand(shape) + 0.5 if positive else random
        return self.state[name]

    def conv(self, x: Tensor, name: str, out: int, kernel: int = 1, *, stride: int = 1, each: bool = False) -> Tensor:
        groups = out if each else 1
        weight = self.weight(f"{name}.weight", out, x.shape[1] // groups, kernel, kernel)
        return functional.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=groups)

    def norm(self, x: Tensor, name: str, *, instance: bool = False) -> Tensor:
        channels = x.shape[1]
        weight, bias = self.weight(f"{name}.weight", channels, positive=True), self.weight(f"{name}.bias", channels)
        if instance:
            mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
        else:
            mean = self.weight(f"{name}.running_mean", channels).view(1, -1, 1, 1)
            var = self.weight(f"{name}.running_var", channels, positive=True).view(1, -1, 1, 1)
        return (x - mean) / (var + 1e-5).sqrt() * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)

    def layer(self, x: Tensor, name: str, out: int) -> Tensor:
        return self.norm(self.conv(x, f"{name}.conv", out), f"{name}.bn").relu()

    def light(self, x: Tensor, name: str) -> Tensor:
        x = self.conv(self.conv(x, f"{name}.conv1", x.shape[1]), f"{name}.conv2", x.shape[1], 3, each=True)
        return self.norm(x, f"{name}.bn").relu()

    def gate(self, x: Tensor, name: str) -> Tensor:
        channels, hidden = x.shape[1], x.shape[1] // 16
        pooled = x.mean((2, 3))
        first = pooled @ self.weight(f"{name}.fc1.weight", hidden, channels, 1, 1)[..., 0, 0].T
        first = (first + self.weight(f"{name}.fc1.bias", hidden)).relu()
        second = first @ self.weight(f"{name}.fc2.weight", channels, hidden, 1, 1)[..., 0, 0].T
        return x * (second + self.weight(f"{name}.fc2.bias", channels)).sigmoid()[:, :, None, None]

    def block(self, x: Tensor, name: str, out: int, *, inside: bool, behind: bool) -> Tensor:
        middle = self.layer(x, f"{name}.conv1", out // 4)
        total = torch.zeros_like(middle)
        for stream in range(4):
            y = middle
            for step in range(stream + 1):
                older = f"conv2{'abcd'[stream]}" + (f".{step}" if stream else "")
                y = self.light(y, f"{name}.{f'conv2.{stream}.layers.{step}' if self.form == 'ain' else older}")
            total = total + self.gate(y, f"{name}.gate")
        y = self.conv(total, f"{name}.conv3.conv", out)
        y = self.norm(y, f"{name}.IN", instance=True) if inside else self.norm(y, f"{name}.conv3.bn")
        if x.shape[1] != out:
            x = self.norm(self.conv(x, f"{name}.downsample.conv", out), f"{name}.downsample.bn")
        y = y + x
        return (self.norm(y, f"{name}.IN", instance=True) if behind else y).relu()

    def __call__(self, x: Tensor) -> Tensor:
        inside = {"ain": ("conv2.0", "conv2.1", "conv3.1", "conv4.0")}.get(self.form, ())
        behind = {"ibn": ("conv2.0", "conv2.1")}.get(self.form, ())
        x = self.conv(x, "conv1.conv", self.channels[0], 7, stride=2)
        x = functional.max_pool2d(self.norm(x, "conv1.bn", instance=self.form != "plain").relu(), 3, 2, 1)
        for number, out in enumerate(self.channels[1:], start=2):
            for name in (f"conv{number}.0", f"conv{number}.1"):
                x = self.block(x, name, out, inside=name in inside, behind=name in behind)
            if number < 4:
                x = self.layer(x, f"pool{number}.0" if self.form == "ain" else f"conv{number}.2.0", out)
                x = functional.avg_pool2d(x, 2)
        return self.layer(x, "conv5", self.channels[3])


@pytest.mark.parametrize("name", ["osnet-x0.25", "osnet-ibn", "osnet-ain-x0.5"])
def test_osnet_computes_what_torchreids_names_say(name: str, tmp_path: Path) -> None:
    """A file in torchreid's names, behind `module.`, with head and classifier, on a network written by hand."""
    torch.manual_seed(0)
    row = get_backbone(name)
    by_hand = ByHand(str(row.params["form"]), tuple(int(c * row.params["width"]) for c in (64, 256, 384, 512)))
    images = torch.randn(2, 3, 64, 32)
    wanted = by_hand(images)
    head = {
        "fc.0.weight": torch.zeros(512, 2),
        "fc.1.running_mean": torch.zeros(512),
        "classifier.bias": torch.zeros(9),
    }
    torch.save({f"module.{key}": value for key, value in {**by_hand.state, **head}.items()}, tmp_path / "osnet.pth")
    body, loaded = build_backbone(row, weights=str(tmp_path / "osnet.pth"))
    assert loaded.unused == ("module.classifier.bias", "module.fc.0.weight", "module.fc.1.running_mean")
    with torch.no_grad():
        found = body.eval()(images)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * float(wanted.max()))
    assert found.std() > 0
    with pytest.raises(WeightsError, match=r"lacks conv2\.0\.conv1\.conv\.weight"):
        load_weights(body, {k: v for k, v in by_hand.state.items() if k != "conv2.0.conv1.conv.weight"}, "it")


def test_osnets_forms_are_told_apart_by_their_files() -> None:
    """What was published for one form is refused by another."""
    states = {}
    for form in ("plain", "ibn", "ain"):
        states[form] = ByHand(form, (16, 64, 96, 128))
        states[form](torch.randn(1, 3, 32, 16))
    for form, name in {"plain": "osnet-x0.25", "ain": "osnet-ain-x0.25"}.items():
        body, _ = build_backbone(get_backbone(name))
        load_weights(body, states[form].state, form)
        for other in states.keys() - {form}:
            with pytest.raises(WeightsError, match="does not fit this backbone: it"):
                load_weights(body, states[other].state, other)


def test_osnet_says_what_it_cannot_be() -> None:
    for params, message in (
        ({"form": "x"}, "form must be plain, ibn or ain"),
        ({"width": 0.3}, "width must be a multi"),
    ):
        row = BackboneRow(name="mine", build="reidgen.models.osnet:OSNet", source="", params=params)  # type: ignore[arg-type]
        with pytest.raises(RecipeError, match=message):
            build_backbone(row)


def test_ibn_a_takes_the_authors_names_and_is_resnet_where_in_becomes_bn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, _ = build_backbone(get_backbone("resnet18"))
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
    theirs, statistics = {}, {}
    names = {ours: published for ours, published in plain.renames}
    for key, tensor in plain.state_dict().items():
        ours = next(one for one in names if key.startswith(one))
        name = names[ours] + key.removeprefix(ours)
        if name.startswith(("layer1", "layer2", "layer3")) and ".bn1." in name:
            start, _, kind = name.rpartition(".")
            half = tensor.numel() // 2
            (theirs if kind in ("weight", "bias") else statistics)[f"{start}.IN.{kind}"] = (
                tensor[:half] if half else tensor
            )
            theirs[f"{start}.BN.{kind}"] = tensor[half:] if half else tensor
        else:
            theirs[name] = tensor
    assert {"layer1.0.bn1.IN.weight", "layer3.1.bn1.BN.running_var", "layer4.0.bn1.weight"} <= set(theirs)
    torch.save({**theirs, "fc.weight": torch.zeros(1000, 512)}, tmp_path / "weights.pth")
    body, loaded = build_backbone(get_backbone("resnet18-ibn-a"), weights=str(tmp_path / "weights.pth"))
    assert loaded == ("weights.pth", ("fc.weight",))
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert not torch.allclose(body.eval()(images), plain.eval()(images), rtol=0.1)
    for place in (1, 2, 3):
        for number, block in enumerate(body.stages[place]):  # type: ignore[arg-type]
            half = nn.BatchNorm2d(block.bn1.IN.num_features)
            start = f"layer{place}.{number}.bn1.IN."
            half.load_state_dict(
                block.bn1.IN.state_dict()
                | {k.removeprefix(start): v for k, v in statistics.items() if k.startswith(start)},
                strict=False,
            )
            block.bn1.IN = half.eval()
    with torch.no_grad():
        torch.testing.assert_close(body(images), plain(images), rtol=1e-4, atol=1e-4)


def test_the_row_ibn_a_of_torchvisions_weights_is_resnet50_where_in_becomes_bn(tmp_path: Path, no_start: None) -> None:
    torch.manual_seed(0)
    theirs = resnet50()
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, (2 / module.weight[0].numel()) ** 0.5)
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.2, 0.5)  # type: ignore[arg-type]
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    words = {"classes": 2, "weights": str(tmp_path / "weights.pth")}
    plain, ours = (build_network(METHODS[name], "resnet50", **words).eval() for name in ("baseline", "ibn-a"))  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 32)
    norms, replaced = dict(plain.backbone.named_modules()), 0
    with torch.no_grad():
        assert not torch.allclose(ours.backbone(images), plain.backbone(images), rtol=0.1)
        for name, module in list(ours.backbone.named_modules()):
            if name.endswith("bn1.IN"):
                half, whole = nn.BatchNorm2d(module.num_features).eval(), norms[name.removesuffix(".IN")]
                half.load_state_dict({**module.state_dict(), **{
                    key: getattr(whole, key)[: module.num_features] for key in ("running_mean", "running_var")
                }}, strict=False)  # fmt: skip
                ours.backbone.get_submodule(name.removesuffix(".IN")).IN = half
                replaced += 1
        torch.testing.assert_close(ours.backbone(images), plain.backbone(images))
    assert replaced == 13


def test_ibn_a_stands_first_in_every_block_of_stages_1_to_3() -> None:
    with torch.device("meta"):
        for name, layers in (("resnet50-ibn-a", 13), ("resnet18-ibn-a", 6)):
            keys = [key for key in build_backbone(get_backbone(name))[0].state_dict() if key.endswith("IN.weight")]
            assert len(keys) == layers and all(key.startswith(("stages.1", "stages.2", "stages.3")) for key in keys)


class SmallViT(VisionTransformer):
    imagenet = ""
    patch, layers, heads, width = 8, 2, 2, 16


def test_a_vision_transformer_is_exported_for_any_number_of_images() -> None:
    network = SmallViT(size=(32, 16)).eval()
    sides = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(network, (torch.rand(3, 3, 32, 16),), dynamic_shapes=sides, strict=False)
    images = torch.rand(5, 3, 32, 16)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), network(images))


def theirs_of(side: int) -> vision_transformer.VisionTransformer:
    torch.manual_seed(0)
    return vision_transformer.VisionTransformer(side, 8, 2, 2, 16, 64, num_classes=5).eval()


def test_a_vision_transformer_is_torchvisions_on_a_square() -> None:
    theirs = theirs_of(32)
    ours = SmallViT(size=(32, 32)).eval()
    assert load_weights(ours, theirs.state_dict(), "theirs") == ("heads.head.bias", "heads.head.weight")
    theirs.heads = nn.Identity()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    assert ours.channels == () and ours.dim == 16
    with pytest.raises(ValueError, match=r"built for 32x32; got \(32, 16\)"):
        ours(images[..., :16])


def cubic(values: Tensor, out: int) -> Tensor:
    """Interpolate along the first axis by cubic convolution with a = -0.75, edges repeated: a loop over positions."""
    found = []
    for position in range(out):
        x = (position + 0.5) * len(values) / out - 0.5
        start, total = int(x // 1), torch.zeros_like(values[0])
        for near in range(start - 1, start + 3):
            t = abs(x - near)
            weight = 1.25 * t**3 - 2.25 * t**2 + 1 if t <= 1 else -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            total = total + weight * values[min(max(near, 0), len(values) - 1)]
        found.append(total)
    return torch.stack(found)


def test_published_positions_are_brought_to_any_grid() -> None:
    theirs = theirs_of(48).state_dict()  # 6 x 6 patches
    ours = SmallViT(size=(64, 24))  # 8 x 3
    load_weights(ours, {f"module.{key}": value for key, value in theirs.items()}, "theirs")
    positions = theirs["encoder.pos_embedding"][0]
    down = cubic(positions[1:].view(6, 6, 16), 8)
    wanted = cubic(down.transpose(0, 1), 3).transpose(0, 1).reshape(24, 16)
    found = ours.encoder.pos_embedding[0]
    assert torch.equal(found[0], positions[0])  # the class token's
    torch.testing.assert_close(found[1:], wanted)
    assert ours(torch.randn(2, 3, 64, 24)).shape == (2, 16)
    again = SmallViT(size=(64, 24))
    load_weights(again, {f"backbone.{key}": value for key, value in ours.state_dict().items()}, "its own")
    assert torch.equal(again.encoder.pos_embedding, ours.encoder.pos_embedding)
    odd = {**theirs, "encoder.pos_embedding": theirs["encoder.pos_embedding"][:, :-1]}
    with pytest.raises(WeightsError, match=r"encoder\.pos_embedding has \(1, 36, 16\), the network \(1, 25, 16\)"):
        load_weights(ours, odd, "theirs")


@pytest.mark.parametrize(
    ("size", "near"), [((256, 100), "256x96 or 256x112"), ((10, 128), "16x128"), ((300, 130), "288x128 or 304x144")]
)
def test_sizes_that_patches_do_not_fill_are_refused_with_ones_that_fit(size: tuple[int, int], near: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"16x16 pixels; height and width {size[0]}x{size[1]} do not fit, {near} would"
    ):
        check_row(METHODS["baseline"], "vit_b_16", Recipe().losses, height=size[0], width=size[1])


@pytest.mark.usefixtures("no_start", "short_nets")
@pytest.mark.parametrize("backbone", [name for name in BACKBONES if "-x" not in name])  # OSNet's widths are one code
def test_every_row_on_every_backbone_is_built_or_refused_by_both_names(backbone: str) -> None:
    refused = []
    for method, row in METHODS.items():
        try:
            check_row(row, backbone, Recipe().losses, height=64, width=32)
        except RecipeError as error:
            assert row.label in str(error) and f"backbone {backbone}" in str(error)
            refused.append(method)
    placeless = [
        name
        for name, row in METHODS.items()
        if row.norm or any(place >= 0 for part in row.modules for place in part.places)
    ]
    twice = ["ibn-a"] if backbone.endswith("-ibn-a") else []  # it has that norm already
    assert refused == (placeless if backbone == "vit_b_16" else twice)
    losses = RECIPES["modern"].losses
    if backbone == "vit_b_16":
        with pytest.raises(
            RecipeError, match="baseline: pooling = gem pools a map, and backbone vit_b_16 gives features"
        ):
            check_row(METHODS["baseline"], backbone, losses, pooling="gem")
    else:
        check_row(METHODS["baseline"], backbone, losses, pooling="gem")


def test_every_backbone_says_who_says_so_and_is_kept_with_its_parameters() -> None:
    for row in BACKBONES.values():
        assert any(tag in row.source for tag in ("[S]", "[A]", "[B]", "reidgen's own")), row.name
        facts = Recipe(backbone=row.name, method="baseline").row_facts()
        assert backbone_from(facts) == row and facts["backbone"]["params"] == dict(row.params)
    older = {"backbone": {"name": "tiny", "build": "b", "source": "", "digest": "", "origin": "reidgen"}}
    assert backbone_from(older).params == {}


@pytest.mark.parametrize("name", ["Big", "a.", "timm:resnet18", ".a", "a b", "x" * 65, ""])
def test_names_that_no_folder_could_have_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"cannot name a backbone; use at most 64 of a-z, 0-9, '\.', '-' and '_'"):
        BackboneRow(name=name, build="b", source="")


def test_the_vit_of_the_row_is_torchvisions_vit_b_16() -> None:
    with torch.device("meta"):
        body, _ = build_backbone(get_backbone("vit_b_16"), size=(224, 224))
        theirs = vision_transformer.vit_b_16(weights=None)
        network = build_network(METHODS["baseline"], "vit_b_16", classes=3, size=(256, 128))
        assert network(torch.zeros(4, 3, 256, 128)).feature.shape == (4, 768)
    shapes: Callable[[nn.Module], dict[str, torch.Size]] = lambda one: {k: v.shape for k, v in one.state_dict().items()}  # noqa: E731
    assert shapes(body) == {key: shape for key, shape in shapes(theirs).items() if not key.startswith("heads.")}


class Sized(Backbone):
    """One weight for each pixel: a backbone of one's own that must know the images' size."""

    sized = True

    def __init__(self, *, size: tuple[int, int], dim: int = 2) -> None:
        if size[1] > 100:
            raise ValueError(f"too wide: {size[1]}")
        super().__init__(dim=dim)
        self.weight = nn.Parameter(torch.ones(dim, 3, *size))

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("bchw,dchw->bd", images, self.weight)


def test_a_backbone_of_ones_own_knows_the_size_and_its_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    row = BackboneRow(name="sized-0.5", build=Sized, source="", params={"dim": 3})
    monkeypatch.setitem(BACKBONES, row.name, row)
    check_row(METHODS["baseline"], row.name, Recipe().losses, height=64, width=32)
    network = build_network(METHODS["baseline"], row, classes=2, size=(64, 32))
    assert network(torch.ones(4, 3, 64, 32)).feature.tolist() == [[3.0 * 64 * 32] * 3] * 4
    with pytest.raises(RecipeError, match=r"the backbone sized-0\.5 cannot be built: too wide: 128"):
        check_row(METHODS["baseline"], row.name, Recipe().losses, height=256, width=128)
    wrong = BackboneRow(name="wrong", build=Sized, source="", params={"depth": 3})
    with pytest.raises(RecipeError, match=r"the backbone wrong cannot be built: .*depth"):
        build_backbone(wrong)
