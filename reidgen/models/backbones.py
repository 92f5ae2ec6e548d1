"""Backbones with two sockets, which know no method: what normalizes, and what stands at the end of a stage.

Every backbone has five places: 0 the stem, 1..4 the stages. The networks are torchvision's, so that its weights fit;
`tiny` is four small stages of torchvision's BasicBlock.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_weight, mobilenetv2, resnet

from reidgen.errors import RecipeError, WeightsError

Norm = Callable[[int], nn.Module]  # channels -> a layer
Insert = Callable[[int, int], nn.Module]  # place, channels -> a module, nn.Identity where nothing stands

# torchvision's first ImageNet weights, those of the paper's time [A]
IMAGENET = {
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "mobilenet_v2": "MobileNet_V2_Weights.IMAGENET1K_V1",
}
TINY_WIDTHS = (32, 64, 128, 128)
HEADS = ("fc.", "classifier.")  # torchvision's classifiers, not used here
BATCH_NORM_STATE = ("running_mean", "running_var", "num_batches_tracked")


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


@dataclass
class _Parts:
    """A network taken apart: the five places, their channels, and what puts a module before each one's last ReLU."""

    network: nn.Module
    stages: list[nn.Module]
    channels: list[int]
    inside: Sequence[Callable[[nn.Module], object]]
    pool: nn.Module  # between the stem and stage 1


class Backbone(nn.Module):
    """Five places in a row, each followed by its socket.

    forward: float (B, 3, H, W), ImageNet-normalised -> float (B, channels[-1], H', W').
    stride: 16 for all but `tiny` (8); the last stage does not subsample [A].
    """

    def __init__(self, parts: _Parts, *, after_stage: Insert, before_relu: Insert) -> None:
        super().__init__()
        for place, (channels, put) in enumerate(zip(parts.channels, parts.inside, strict=True)):
            if not isinstance(module := before_relu(place, channels), nn.Identity):
                put(module)
        self.stages = nn.ModuleList(parts.stages)
        self.after = nn.ModuleList(after_stage(place, channels) for place, channels in enumerate(parts.channels))
        self.pool = parts.pool
        self.channels = tuple(parts.channels)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for place, (stage, after) in enumerate(zip(self.stages, self.after, strict=True)):
            x = after(stage(x))
            if place == 0:
                x = self.pool(x)
        return x


def build_backbone(
    name: str, *, norm_layer: Norm = nn.BatchNorm2d, after_stage: Insert, before_relu: Insert, weights: str = "none"
) -> Backbone:
    """Return the backbone `name` with its sockets filled and its weights loaded.

    norm_layer(channels) stands wherever torchvision has BatchNorm2d; after_stage(place, channels) follows each place;
    before_relu(place, channels) stands between the residual sum and the last ReLU of each place (MobileNetV2's blocks
    end without ReLU: there it ends the stage).
    weights: "imagenet" (torchvision's download, checked by its hash), "none", or the file of a torchvision state dict.
    Raises WeightsError when the file is missing, unreadable, or does not fit (the keys are named).
    """
    parts = _BUILDERS[name](norm_layer)
    if weights == "imagenet":
        if name not in IMAGENET:
            raise RecipeError(f"backbone {name} has no ImageNet weights; use --weights none")
        _load(parts.network, _download(IMAGENET[name]), IMAGENET[name])
    elif weights != "none":
        _load(parts.network, read_state_dict(Path(weights)), weights)
    return Backbone(parts, after_stage=after_stage, before_relu=before_relu)


def _resnet(block: type[nn.Module], layers: list[int], norm_layer: Norm) -> _Parts:
    network = resnet.ResNet(block, layers, norm_layer=norm_layer)
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    first = network.layer4[0]
    (first.conv2 if block is Bottleneck else first.conv1).stride = (1, 1)  # last stride 1 [A]
    first.downsample[0].stride = (1, 1)
    stem = nn.Sequential(network.conv1, network.bn1, network.relu)
    return _Parts(
        network=network,
        stages=[stem, *stages],
        channels=[64, *(width * (4 if block is Bottleneck else 1) for width in (64, 128, 256, 512))],
        inside=[lambda module: _insert(stem, module), *(_into_block(stage[-1]) for stage in stages)],
        pool=network.maxpool,
    )


def _tiny(norm_layer: Norm) -> _Parts:
    def stage(inputs: int, width: int, stride: int) -> nn.Sequential:
        down = None
        if stride != 1 or inputs != width:
            down = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), norm_layer(width))
        return nn.Sequential(BasicBlock(inputs, width, stride, down, norm_layer=norm_layer))

    widths = (TINY_WIDTHS[0], *TINY_WIDTHS)
    stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), norm_layer(widths[0]), nn.ReLU(inplace=True))
    pairs = zip(pairwise(widths), (1, 2, 2, 1), strict=True)
    stages = [stage(inputs, width, stride) for (inputs, width), stride in pairs]
    network = nn.Sequential(stem, *stages)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    inside = [lambda module: _insert(stem, module), *(_into_block(stage[-1]) for stage in stages)]
    return _Parts(network=network, stages=[stem, *stages], channels=list(widths), inside=inside, pool=nn.Identity())


def _mobilenet_v2(norm_layer: Norm) -> _Parts:
    network = mobilenetv2.MobileNetV2(norm_layer=norm_layer)
    features = network.features
    features[14].conv[1][0].stride = (1, 1)  # last stride 1, as in the ResNets
    bounds = (0, 1, 4, 7, 14, 19)  # the places end where the resolution changes
    stages = [nn.Sequential(*features[start:end]) for start, end in pairwise(bounds)]
    return _Parts(
        network=network,
        stages=list(stages),
        channels=[32, 24, 32, 96, 1280],
        inside=[
            lambda module: _insert(features[0], module),
            *(stage.append for stage in stages[1:4]),
            lambda module: _insert(features[18], module),
        ],
        pool=nn.Identity(),
    )


def _insert(block: nn.Sequential, module: nn.Module) -> None:
    """Put `module` between the norm and the ReLU of a block (convolution, norm, ReLU)."""
    block[2] = nn.Sequential(module, block[2])


def _into_block(block: nn.Module) -> Callable[[nn.Module], None]:
    return lambda module: setattr(block, "before_relu", module)


_BUILDERS: dict[str, Callable[[Norm], _Parts]] = {
    "resnet50": lambda norm_layer: _resnet(Bottleneck, [3, 4, 6, 3], norm_layer),
    "resnet18": lambda norm_layer: _resnet(BasicBlock, [2, 2, 2, 2], norm_layer),
    "mobilenet_v2": _mobilenet_v2,
    "tiny": _tiny,
}


def weight_file(path: str | Path) -> Path:
    """Return the path of an existing weight file. Raises WeightsError when there is none."""
    if not Path(path).is_file():
        raise WeightsError(f"no weight file {path}; give an existing file, or use --weights imagenet or none")
    return Path(path)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file or a torch file, read without executing anything.

    Raises WeightsError when the file is missing, is no weight file, or holds something else than named tensors.
    """
    weight_file(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler meets bytes that mean anything
        raise WeightsError(
            f"{path} is no weight file that can be loaded safely; it must hold a state dict saved by torch, or be .safetensors"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise WeightsError(f"{path} holds no torchvision state dict (names and tensors); save model.state_dict() alone")
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


def _load(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor that the network shares with torchvision's, and stop at any other difference.

    What replaces a BatchNorm2d takes over its affine weight and bias; its own other parameters keep their start.
    """
    own = network.state_dict()
    batch_norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    convolutions = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    missing, extra = [], []
    for key in own:
        layer, _, kind = key.rpartition(".")
        needed = (
            key in convolutions or kind in ("weight", "bias") or (layer in batch_norms and kind in BATCH_NORM_STATE[:2])
        )
        if needed and not key.startswith(HEADS) and key not in state:
            missing.append(key)
    for key in state:
        replaced = key.endswith(BATCH_NORM_STATE) and f"{key.rpartition('.')[0]}.weight" in own
        if key not in own and not key.startswith(HEADS) and not replaced:
            extra.append(key)
    wrong = [
        f"{key} has {tuple(state[key].shape)}, the network {tuple(own[key].shape)}"
        for key in own
        if key in state and not key.startswith(HEADS) and state[key].shape != own[key].shape
    ]
    if missing or extra or wrong:
        faults = [
            f"{what} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
            for what, keys in (("lacks", missing), ("has the unknown", extra), ("differs in shape:", wrong))
            if keys
        ]
        raise WeightsError(f"{where} does not fit this backbone: it {'; it '.join(faults)}")
    network.load_state_dict({k: v for k, v in state.items() if k in own and not k.startswith(HEADS)}, strict=False)
