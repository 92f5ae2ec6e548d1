"""ResNets, MobileNetV2 and `tiny`, which know no method, and how a backbone of any family is built.

All of these have five places: 0 the stem, 1..4 the stages. The networks are torchvision's, so that its weights fit;
`tiny` is four small stages of torchvision's BasicBlock.
"""

from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn
from torchvision.models import mobilenetv2, resnet

from reidgen.contracts import Backbone
from reidgen.errors import RecipeError
from reidgen.methods import BackboneRow
from reidgen.models.norms import InstanceBatchNorm2d
from reidgen.models.weights import Loaded, load_file, load_published
from reidgen.registry import blaming, load_class

TINY_WIDTHS = (32, 64, 128, 128)
IBN_RELEASE = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0"


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
            insert(stage, module)
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


class _IBNa(_ResNet):
    """A ResNet whose blocks of stages 1 to 3 have IBN-a as their first norm; stage 4 and the stem keep BatchNorm [A].

    Source: Pan et al., ECCV 2018; XingangPan/IBN-Net@d167338:ibnnet/resnet_ibn.py, with its names and weights.
    Difference: last stride 1, as in every ResNet here.
    """

    def __init__(self) -> None:
        super().__init__()
        for stage in self.stages[1:4]:
            assert isinstance(stage, nn.Sequential)
            for block in stage:
                block.bn1 = InstanceBatchNorm2d(block.conv1.out_channels)  # type: ignore[union-attr, arg-type]


class ResNet50IBNa(_IBNa):
    """ResNet-50-IBN-a, with the authors' ImageNet weights."""

    block = Bottleneck
    layers: ClassVar[list[int]] = [3, 4, 6, 3]
    imagenet = f"{IBN_RELEASE}/resnet50_ibn_a-d9d0bb7b.pth"


class ResNet18IBNa(_IBNa):
    """ResNet-18-IBN-a, with the authors' ImageNet weights."""

    block = BasicBlock
    layers: ClassVar[list[int]] = [2, 2, 2, 2]
    imagenet = f"{IBN_RELEASE}/resnet18_ibn_a-2f571257.pth"


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

    width: every layer's channels times this, rounded to eights as torchvision does; ImageNet weights exist for 1 alone.
    The places end where the resolution changes. The blocks of stages 1 to 3 end without ReLU: there, a module that a
    row puts before the ReLU ends the stage.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        features = mobilenetv2.MobileNetV2(width_mult=width).features
        features[14].conv[1][0].stride = (1, 1)
        bounds = (0, 1, 4, 7, 14, 19)
        stages = [nn.Sequential(*features[start:end]) for start, end in pairwise(bounds)]
        super().__init__(
            stages,
            [_channels(stage) for stage in stages],
            renames=[
                (f"stages.{place}.{layer - start}.", f"features.{layer}.")
                for place, (start, end) in enumerate(pairwise(bounds))
                for layer in range(start, end)
            ],
        )
        self.imagenet = "MobileNet_V2_Weights.IMAGENET1K_V1" if width == 1 else ""

    def put_before_relu(self, place: int, module: nn.Module) -> None:
        stage = self.stages[place]
        assert isinstance(stage, nn.Sequential)
        if place in (0, 4):
            insert(stage[-1], module)
        else:
            stage.append(module)


def _channels(stage: nn.Module) -> int:
    """Return the channels that a stage passes on: those of its last convolution."""
    return [module.out_channels for module in stage.modules() if isinstance(module, nn.Conv2d)][-1]


def insert(block: nn.Module, module: nn.Module) -> None:
    """Put `module` between the norm and the ReLU of a block (convolution, norm, ReLU)."""
    assert isinstance(block, nn.Sequential)
    block[2] = nn.Sequential(module, block[2])


def build_backbone(
    row: BackboneRow, *, weights: str = "none", size: tuple[int, int] = (256, 128)
) -> tuple[Backbone, Loaded]:
    """Return the backbone of a row of BACKBONES with its weights loaded, and what was loaded.

    weights: "imagenet" (what the backbone's `imagenet` names, see `load_published`), "none", or the file of a state
    dict: the published names or this network's own, also behind a prefix or inside a wrapper, see `read_state_dict`.
    size: height and width of the images, for a backbone that must know them.
    Raises WeightsError when the file is missing, unreadable, or does not fit (the keys are named), RecipeError for a
    backbone without ImageNet weights, or of a size that it cannot take.
    """
    build = load_class(row.build, row.digest)
    if not issubclass(build, Backbone):
        raise RecipeError(f"backbone {row.name}: {row.build} is no reidgen.contracts.Backbone")
    try:
        with blaming():
            backbone: Backbone = build(**row.params, **({"size": size} if build.sized else {}))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"the backbone {row.name} cannot be built: {error}") from error
    if weights == "none":
        return backbone, Loaded()
    if weights == "imagenet":
        if not backbone.imagenet:
            raise RecipeError(f"backbone {row.name} has no ImageNet weights; use --weights none")
        return backbone, load_published(backbone)
    return backbone, load_file(backbone, Path(weights))
