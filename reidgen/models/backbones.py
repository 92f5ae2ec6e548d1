"""ResNets and MobileNetV2, which know no method: torchvision's networks, so that its weights fit.

All have five places: 0 the stem, 1..4 the stages.
"""

from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn
from torchvision.models import mobilenetv2, resnet

from reidgen.contracts import Backbone
from reidgen.models.norms import InstanceBatchNorm2d
from reidgen.models.tiny import Block, ResidualStages, insert

IBN_RELEASE = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0"


class BasicBlock(resnet.BasicBlock):  # type: ignore[misc]
    """torchvision's block with a socket, `before_relu`, between the residual sum and the last ReLU."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.before_relu: nn.Module = nn.Identity()

    forward = Block.forward  # it has all that this one needs, by the same names


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


class _ResNet(ResidualStages):
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


class MobileNetV2(Backbone):
    """Sandler et al., CVPR 2018; torchvision's, with last stride 1 as in the ResNets: stride 16.

    width: every layer's channels times this, rounded to eights as torchvision does; ImageNet weights exist for 1 alone.
    The places end where the resolution changes. The blocks of stages 1 to 3 end without ReLU: there, a module that a
    row puts before the ReLU ends the stage.
    """

    capturable = True

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
