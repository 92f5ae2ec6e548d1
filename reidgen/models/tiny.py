"""The backbone `tiny`, for a CPU, and what all backbones of residual stages share. torchvision is not needed here."""

from itertools import pairwise

from torch import Tensor, nn

from reidgen.contracts import Backbone

WIDTHS = (32, 64, 128, 128)


class ResidualStages(Backbone):
    """A backbone whose stages end in residual blocks with a socket, `before_relu`, behind a stem: convolution, norm,
    ReLU.
    """

    capturable = True

    def put_before_relu(self, place: int, module: nn.Module) -> None:
        stage = self.stages[place]
        assert isinstance(stage, nn.Sequential)
        if place == 0:
            insert(stage, module)
        else:
            stage[-1].before_relu = module


def insert(block: nn.Module, module: nn.Module) -> None:
    """Put `module` between the norm and the ReLU of a block (convolution, norm, ReLU)."""
    assert isinstance(block, nn.Sequential)
    block[2] = nn.Sequential(module, block[2])


class Tiny(ResidualStages):
    """Four small stages of one residual block each: stride 8."""

    def __init__(self) -> None:
        widths = (WIDTHS[0], *WIDTHS)
        stem = nn.Sequential(_convolution(3, widths[0], stride=2), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        pairs = zip(pairwise(widths), (1, 2, 2, 1), strict=True)
        stages = [stem, *(nn.Sequential(Block(inputs, width, stride)) for (inputs, width), stride in pairs)]
        for module in nn.Sequential(*stages).modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(stages, widths)


class Block(nn.Module):
    """A residual block of two 3x3 convolutions with the names and the order of torchvision's BasicBlock."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        shortcut = None
        if stride != 1 or inputs != width:
            shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.conv1, self.bn1 = _convolution(inputs, width, stride=stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut
        self.before_relu: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        out: Tensor = self.relu(self.before_relu(x + skip))
        return out


def _convolution(inputs: int, width: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
