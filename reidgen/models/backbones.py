"""The shipped backbones, which know no method, and weights that fit them.

All have five places: 0 the stem, 1..4 the stages. The networks are torchvision's, so that its weights fit; `tiny` is
four small stages of torchvision's BasicBlock.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError

import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_weight, mobilenetv2, resnet

from reidgen.contracts import Backbone
from reidgen.errors import RecipeError, WeightsError
from reidgen.methods import BackboneRow
from reidgen.registry import load_class

TINY_WIDTHS = (32, 64, 128, 128)
PREFIXES = ("module.", "base.", "backbone.", "encoder_q.", "model.")  # of networks that hold this one as a part
WRAPPERS = ("state_dict", "model")  # keys of files that hold more than a state dict


class BasicBlock(resnet.BasicBlock):  # type: ignore[misc]
    """torchvision's block with a socket, `before_relu`, between the residual sum and the last ReLU."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.before_relu: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        out: Tensor = self.relu(self.before_relu(x + skip))
        return out


class Bottleneck(resnet.Bottleneck):  # type: ignore[misc]
    """torchvision's block with a socket, `before_relu`, between the residual sum and the last ReLU."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.before_relu: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        out: Tensor = self.relu(self.before_relu(x + skip))
        return out


class _Stages(Backbone):
    """A backbone whose stages end in residual blocks with a socket, behind a stem of convolution, norm and ReLU."""

    def put_before_relu(self, place: int, module: nn.Module) -> None:
        stage = self.stages[place]
        assert isinstance(stage, nn.Sequential)
        if place == 0:
            _insert(stage, module)
        else:
            stage[-1].before_relu = module


class _ResNet(_Stages):
    """torchvision's ResNet with last stride 1 [A]: stride 16."""

    block: ClassVar[type[nn.Module]]
    layers: ClassVar[list[int]]

    def __init__(self) -> None:
        network = resnet.ResNet(self.block, self.layers)
        deep = self.block is Bottleneck
        first = network.layer4[0]
        (first.conv2 if deep else first.conv1).stride = (1, 1)
        first.downsample[0].stride = (1, 1)
        stages = [network.layer1, network.layer2, network.layer3, network.layer4]
        super().__init__(
            [nn.Sequential(network.conv1, network.bn1, network.relu), *stages],
            [64, *(width * (4 if deep else 1) for width in (64, 128, 256, 512))],
            pool=network.maxpool,
            renames=[
                ("stages.0.0.", "conv1."),
                ("stages.0.1.", "bn1."),
                *((f"stages.{place}.", f"layer{place}.") for place in (1, 2, 3, 4)),
            ],
        )


class ResNet50(_ResNet):
    """He et al., CVPR 2016; the paper's backbone [S], with torchvision's first ImageNet weights, those
    of its time [A].
    """

    block = Bottleneck
    layers: ClassVar[list[int]] = [3, 4, 6, 3]
    imagenet = "ResNet50_Weights.IMAGENET1K_V1"


class ResNet18(_ResNet):
    """He et al., CVPR 2016."""

    block = BasicBlock
    layers: ClassVar[list[int]] = [2, 2, 2, 2]
    imagenet = "ResNet18_Weights.IMAGENET1K_V1"


class Tiny(_Stages):
    """Four small stages of one BasicBlock each: stride 8, for a CPU."""

    def __init__(self) -> None:
        def stage(inputs: int, width: int, stride: int) -> nn.Sequential:
            down = None
            if stride != 1 or inputs != width:
                down = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            return nn.Sequential(BasicBlock(inputs, width, stride, down))

        widths = (TINY_WIDTHS[0], *TINY_WIDTHS)
        stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        pairs = zip(pairwise(widths), (1, 2, 2, 1), strict=True)
        stages = [stem, *(stage(inputs, width, stride) for (inputs, width), stride in pairs)]
        for module in nn.Sequential(*stages).modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(stages, widths)


class MobileNetV2(Backbone):
    """Sandler et al., CVPR 2018; torchvision's, with last stride 1 as in the ResNets: stride 16.

    The places end where the resolution changes. The blocks of stages 1 to 3 end without ReLU: there, a module that a
    row puts before the ReLU ends the stage.
    """

    imagenet = "MobileNet_V2_Weights.IMAGENET1K_V1"

    def __init__(self) -> None:
        features = mobilenetv2.MobileNetV2().features
        features[14].conv[1][0].stride = (1, 1)
        bounds = (0, 1, 4, 7, 14, 19)
        super().__init__(
            [nn.Sequential(*features[start:end]) for start, end in pairwise(bounds)],
            [32, 24, 32, 96, 1280],
            renames=[
                (f"stages.{place}.{layer - start}.", f"features.{layer}.")
                for place, (start, end) in enumerate(pairwise(bounds))
                for layer in range(start, end)
            ],
        )

    def put_before_relu(self, place: int, module: nn.Module) -> None:
        stage = self.stages[place]
        assert isinstance(stage, nn.Sequential)
        if place in (0, 4):
            _insert(stage[-1], module)
        else:
            stage.append(module)


def _insert(block: nn.Module, module: nn.Module) -> None:
    """Put `module` between the norm and the ReLU of a block (convolution, norm, ReLU)."""
    assert isinstance(block, nn.Sequential)
    block[2] = nn.Sequential(module, block[2])


def build_backbone(row: BackboneRow, *, weights: str = "none") -> tuple[Backbone, list[str]]:
    """Return the backbone of a row of BACKBONES with its weights loaded, and what of the weight file it does not use.

    weights: "imagenet" (torchvision's download, checked by its hash), "none", or the file of a state dict:
    torchvision's names or this network's own, also behind a prefix or inside a wrapper, see `read_state_dict`.
    Raises WeightsError when the file is missing, unreadable, or does not fit (the keys are named), RecipeError for a
    backbone without ImageNet weights.
    """
    backbone = load_class(row.build, row.digest)()
    if not isinstance(backbone, Backbone):
        raise RecipeError(f"backbone {row.name}: {row.build} is no reidgen.contracts.Backbone")
    if weights == "none":
        return backbone, []
    if weights == "imagenet":
        if not backbone.imagenet:
            raise RecipeError(f"backbone {row.name} has no ImageNet weights; use --weights none")
        return backbone, load_weights(backbone, _download(backbone.imagenet), backbone.imagenet)
    return backbone, load_weights(backbone, read_state_dict(Path(weights)), weights)


def weight_file(path: str | Path) -> Path:
    """Return the path of an existing weight file. Raises WeightsError when there is none."""
    if not Path(path).is_file():
        raise WeightsError(f"no weight file {path}; give an existing file, or use --weights imagenet or none")
    return Path(path)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file or a torch file, read without executing anything.

    A state dict inside a checkpoint, under "state_dict" or "model", is found.
    Raises WeightsError when the file is missing, is no weight file, or holds something else than named tensors.
    """
    weight_file(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler meets bytes that mean anything
        raise WeightsError(
            f"{path} is no weight file that can be loaded safely; it must hold a state dict saved by torch, or be "
            ".safetensors"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise WeightsError(f"{path} holds no state dict (names and tensors); save model.state_dict() alone")
    return dict(state)


def _download(name: str) -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = get_weight(name).get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"could not download {name} ({error}); fetch the file elsewhere and give it with --weights FILE, "
            "or train from scratch with --weights none"
        ) from error
    return state


def load_weights(backbone: Backbone, state: Mapping[str, Tensor], where: str) -> list[str]:
    """Load a state dict into a backbone that no row has changed yet, and return the keys that were not used.

    Every tensor of the backbone must be there, in its shape, under the published names or the backbone's own; the count
    of batches that a BatchNorm2d has seen may be missing. A prefix that all of them share (PREFIXES, also several) is
    taken off. A key that lies inside the backbone but that it lacks, as a further block, is a fault too.
    Raises WeightsError, naming keys.
    """
    own = backbone.state_dict()
    readings = [
        (prefix, {key: prefix + name for key, name in names.items()})
        for names in ({key: _published(key, backbone) for key in own}, {key: key for key in own})
        for prefix in _prefixes(state)
    ]
    prefix, names = max(readings, key=lambda reading: sum(name in state for name in reading[1].values()))
    missing = [name for key, name in names.items() if name not in state and not key.endswith("num_batches_tracked")]
    unused = sorted(set(state) - set(names.values()))
    roots = {prefix + name.removeprefix(prefix).partition(".")[0] + "." for name in names.values()}
    extra = [key for key in unused if key.startswith(tuple(roots))]
    wrong = [
        f"{name} has {tuple(state[name].shape)}, the network {tuple(own[key].shape)}"
        for key, name in names.items()
        if name in state and state[name].shape != own[key].shape
    ]
    if missing or extra or wrong:
        faults = [
            f"{what} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
            for what, keys in (("lacks", missing), ("has the unknown", extra), ("differs in shape:", wrong))
            if keys
        ]
        raise WeightsError(f"{where} does not fit this backbone: it {'; it '.join(faults)}")
    backbone.load_state_dict({key: state[name] for key, name in names.items() if name in state}, strict=False)
    return unused


def _published(key: str, backbone: Backbone) -> str:
    """Return the name that weight files have for a tensor of the backbone."""
    for ours, theirs in backbone.renames:
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Return what may stand before every name of a network in this state dict: nothing, or PREFIXES
    after each other.
    """
    found = [""]
    for prefix in found:
        found += [
            prefix + one
            for one in PREFIXES
            if prefix.count(".") < 3 and any(key.startswith(prefix + one) for key in state)
        ]
    return found
