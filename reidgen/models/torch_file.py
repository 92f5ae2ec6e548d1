"""A backbone with the weights of a torch file from elsewhere, as a network that embeds."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reidgen.contracts import IMAGENET_MEAN, IMAGENET_STD
from reidgen.devices import put_on
from reidgen.errors import WeightsError
from reidgen.methods import METHODS
from reidgen.models.inputs import Input
from reidgen.models.network import ReIDNet, build_network
from reidgen.models.weights import load_weights, read_state_dict
from reidgen.parts import BackboneRow

SIZE = (256, 128)  # where nothing is said
# What the BatchNorm1d behind the pooled feature is called: here, in BoT and its descendants, in fast-reid.
NECKS = ("neck", "bottleneck", "bnneck", "heads.bottleneck.0", "heads.bnneck", "feat_bn")
STATISTICS = ("weight", "bias", "running_mean", "running_var")


class TorchNetwork(ReIDNet):
    """A backbone, global average pool, and the neck of its file, none where the file has none; fed as `form` says."""

    form: Input

    def prepare(self, pixels_BCHW: Tensor) -> Tensor:
        return self.form.prepare(pixels_BCHW)


class OpenedTorch(NamedTuple):
    """network: on its device, in evaluation mode. unused: keys of the file that it has no place for."""

    network: TorchNetwork
    form: Input
    unused: tuple[str, ...]


def open_torch(row: BackboneRow, file: Path, asked: Mapping[str, Any], *, device: torch.device) -> OpenedTorch:
    """Return a backbone with the weights of a file: a state dict, also in a checkpoint or behind prefixes.

    asked: what `inputs.read_words` returned; without it images are 256x128 and ImageNet-normalised, as the contract of
    a backbone says. A head's BatchNorm1d of as many features as the backbone gives (NECKS) becomes the neck; a
    classifier and any other layer behind the backbone is left out, and its keys are returned.
    Raises WeightsError when the file does not fit, RecipeError when the backbone cannot be built.
    """
    if "layout" in asked or "output" in asked:
        raise WeightsError("--input layout and output are of an ONNX file; a backbone takes nchw and has one output")
    white = asked.get("range", 1)
    form = Input(
        **{
            "height": SIZE[0],
            "width": SIZE[1],
            "mean": tuple(white * number for number in IMAGENET_MEAN),
            "deviation": tuple(white * number for number in IMAGENET_STD),
            **asked,
        }
    )
    state = read_state_dict(file)
    built = build_network(METHODS["baseline"], row, classes=1, size=(form.height, form.width))
    network = TorchNetwork(built.backbone, classes=1)
    network.form = form
    unused = load_weights(network.backbone, state, str(file))
    unused = _load_neck(network, state, unused)
    network = put_on(network, device).eval()
    return OpenedTorch(network, form, unused)


def _load_neck(network: ReIDNet, state: Mapping[str, Tensor], unused: tuple[str, ...]) -> tuple[str, ...]:
    """Load the neck of the file, or take the network's out; return what is unused still."""
    for key in unused:
        name = re.fullmatch(rf"((?:.*\.)?(?:{'|'.join(map(re.escape, NECKS))}))\.running_mean", key)
        if name is None:
            continue
        found = {one: state[f"{name[1]}.{one}"] for one in STATISTICS if f"{name[1]}.{one}" in state}
        if all(tensor.shape == (network.dim,) for tensor in found.values()):
            network.neck.load_state_dict(found, strict=False)
            return tuple(one for one in unused if not one.startswith(f"{name[1]}."))
    network.neck = nn.Identity()  # type: ignore[assignment]
    return unused
