"""OSNet: four streams of one to four small convolutions in each block, weighed by one gate, and its forms with IN."""

from itertools import pairwise

from torch import Tensor, nn

from reidgen.contracts import Backbone
from reidgen.models.norms import InstanceNorm2d
from reidgen.models.tiny import insert

CHANNELS = (64, 256, 384, 512)  # at width 1: of the stem, and of conv2 to conv4
STREAMS = (1, 2, 3, 4)  # 3x3 convolutions in each stream of a block
REDUCTION, GATE_REDUCTION = 4, 16
# Where IN stands: for the stem's norm, behind the sum of a block, and for the last norm inside a block's branch. Blocks
# are (place, number).
STEM = ("ibn", "ain")
AFTER_SUM = {"ibn": {(1, 0), (1, 1)}}
IN_BRANCH = {"ain": {(1, 0), (1, 1), (2, 1), (3, 0)}}
# ImageNet weights by form and width: the ids on Google Drive [A]. The authors publish no hash.
DRIVE = {
    ("plain", 1.0): "1LaG1EJpHrxdAxKnSCJ_i0u-nbxSAeiFY",
    ("plain", 0.75): "1uwA9fElHOk3ZogwbeY5GkLI6QPTX70Hq",
    ("plain", 0.5): "16DGLbZukvVYgINws8u8deSaOqjybZ83i",
    ("plain", 0.25): "1rb8UN5ZzPKRc_xvtHlyDh-cSz88YX9hs",
    ("ibn", 1.0): "1sr90V6irlYYDd4_4ISU2iruoRG8J__6l",
    ("ain", 1.0): "1-CaioD9NaqbHK_kzSMW8VE4_3KcsRjEo",
    ("ain", 0.75): "1apy0hpsMypqstfencdH-jKIUEFOW4xoM",
    ("ain", 0.5): "1KusKvEYyKGDTUBVRxRiz55G31wkihB6l",
    ("ain", 0.25): "1SxQt2AvmEcgWNhaRb2xC4rP6ZwVDP0Wt",
}


class OSNet(Backbone):
    """Zhou et al., ICCV 2019 and TPAMI 2021: stride 16, at width 1 with 1.9 million parameters.

    form: "plain"; "ibn": IN for the stem's norm, and an affine IN behind the residual sum of both blocks of stage 1;
    "ain": IN for the stem's norm, and for the last norm inside four of the six blocks. width: of every layer.
    Places: 0 the stem, 1 and 2 two blocks and a transition that halves the map, 3 two blocks, 4 a 1x1 convolution.
    Source: KaiyangZhou/deep-person-reid@f8cd150:torchreid/models/{osnet,osnet_ain}.py, with its names and weights.
    Difference: its head (a linear layer to 512 features, BatchNorm, ReLU) is left out, for the neck of every backbone
    here stands there.
    """

    capturable = True

    def __init__(self, *, form: str = "plain", width: float = 1.0) -> None:
        if form not in ("plain", "ibn", "ain"):
            raise ValueError(f"form must be plain, ibn or ain; got {form!r}")
        channels = [int(one * width) for one in CHANNELS]
        if width <= 0 or width % 0.25:
            raise ValueError(f"width must be a multiple of 0.25, such as 0.5 or 1; got {width}")
        stem = _layer(3, channels[0], 7, stride=2, padding=3, norm=_norm(channels[0], form in STEM))
        stages = [stem]
        for place, (inputs, outputs) in enumerate(pairwise(channels), start=1):
            blocks: list[nn.Module] = [
                _Block(
                    outputs if number else inputs,
                    outputs,
                    after_sum=(place, number) in AFTER_SUM.get(form, ()),
                    in_branch=(place, number) in IN_BRANCH.get(form, ()),
                )
                for number in (0, 1)
            ]
            if place < 3:
                blocks.append(nn.Sequential(*_layer(outputs, outputs), nn.AvgPool2d(2)))
            stages.append(nn.Sequential(*blocks))
        super().__init__(
            [*stages, _layer(channels[3], channels[3])],
            [*channels, channels[3]],
            pool=nn.MaxPool2d(3, stride=2, padding=1),
            renames=_renames(form),
        )
        self.imagenet = _address(form, width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def blocks(self, place: int) -> list[nn.Module]:
        """Return the blocks of a place, in order; a transition is none."""
        if place in (1, 2, 3):
            return [block for block in self.stages[place].children() if isinstance(block, _Block)]
        return super().blocks(place)

    def put_before_relu(self, place: int, module: nn.Module) -> None:
        stage = self.stages[place]
        assert isinstance(stage, nn.Sequential)
        if place == 3:
            block = stage[-1]
            assert isinstance(block, _Block)
            block.before_relu = module
        else:
            insert(stage if place in (0, 4) else stage[-1], module)


class _Block(nn.Module):
    """An omni-scale block: (B, inputs, H, W) -> (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, *, after_sum: bool, in_branch: bool) -> None:
        super().__init__()
        middle = outputs // REDUCTION
        self.reduce = _layer(inputs, middle)
        self.streams = nn.ModuleList(nn.Sequential(*(_light(middle) for _ in range(depth))) for depth in STREAMS)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(middle, middle // GATE_REDUCTION, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle // GATE_REDUCTION, middle, 1),
            nn.Sigmoid(),
        )
        self.expand = nn.Sequential(nn.Conv2d(middle, outputs, 1, bias=False), _norm(outputs, in_branch))
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.after_sum: nn.Module = InstanceNorm2d(outputs) if after_sum else nn.Identity()
        self.before_relu: nn.Module = nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        streams = [stream(reduced) for stream in self.streams]
        gated = sum(stream * self.gate(stream) for stream in streams)  # one gate for all
        out: Tensor = self.relu(self.before_relu(self.after_sum(self.expand(gated) + self.shortcut(x))))
        return out


def _norm(channels: int, instance: bool) -> nn.Module:
    return InstanceNorm2d(channels) if instance else nn.BatchNorm2d(channels)


def _layer(
    inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, padding: int = 0, norm: nn.Module | None = None
) -> nn.Sequential:
    """Return a convolution, a norm and a ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, norm or nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _light(channels: int) -> nn.Sequential:
    """Return a light 3x3 convolution: a 1x1 one without norm, then one per channel, norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def _address(form: str, width: float) -> str:
    """Return where the ImageNet weights lie, and the name that torchreid keeps them by; "" where there are none."""
    if (form, width) not in DRIVE:
        return ""
    name = f"osnet_{'' if form == 'plain' else f'{form}_'}x{str(float(width)).replace('.', '_')}_imagenet.pth"
    return f"https://drive.google.com/uc?id={DRIVE[form, width]}#{name}"


def _renames(form: str) -> list[tuple[str, str]]:
    """Return our prefixes and torchreid's, which has other ones for AIN."""
    layer = (("0.", "conv."), ("1.", "bn."))
    found = [(f"stages.0.{ours}", f"conv1.{theirs}") for ours, theirs in layer]
    found += [(f"stages.4.{ours}", f"conv5.{theirs}") for ours, theirs in layer]
    for place in (1, 2, 3):
        transition = f"pool{place + 1}.0." if form == "ain" else f"conv{place + 1}.2.0."
        found += [(f"stages.{place}.2.{ours}", transition + theirs) for ours, theirs in layer]
        for number in (0, 1):
            here, there = f"stages.{place}.{number}.", f"conv{place + 1}.{number}."
            last = "IN." if (place, number) in IN_BRANCH.get(form, ()) else "conv3.bn."
            found += [(f"{here}reduce.{ours}", f"{there}conv1.{theirs}") for ours, theirs in layer]
            found += [(f"{here}shortcut.{ours}", f"{there}downsample.{theirs}") for ours, theirs in layer]
            found += [(f"{here}gate.1.", f"{there}gate.fc1."), (f"{here}gate.3.", f"{there}gate.fc2.")]
            found += [(f"{here}expand.0.", f"{there}conv3.conv."), (f"{here}expand.1.", there + last)]
            found += [(f"{here}after_sum.", f"{there}IN.")]
            for stream, depth in enumerate(STREAMS):
                for step in range(depth):
                    theirs = f"{there}conv2.{stream}.layers.{step}."
                    if form != "ain":
                        theirs = f"{there}conv2{'abcd'[stream]}." + (f"{step}." if depth > 1 else "")
                    ours = f"{here}streams.{stream}.{step}."
                    found += [(f"{ours}{own}.", theirs + name) for own, name in enumerate(("conv1.", "conv2.", "bn."))]
    return found
