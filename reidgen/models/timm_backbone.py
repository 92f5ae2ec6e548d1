"""Every network of timm as a backbone; timm is an optional package, imported when one is asked for."""

import functools
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reidgen.contracts import IMAGENET_MEAN, IMAGENET_STD, Backbone
from reidgen.errors import RecipeError, WeightsError
from reidgen.models.transformers import refuse_size
from reidgen.registry import import_timm

NETWORK = "network."  # before timm's names of tensors


class TimmBackbone(Backbone):
    """A network of timm without its classifier: float (B, 3, H, W) -> its own pooled feature, (B, dim).

    name: as timm has it, with a tag of weights ("vit_small_patch16_224.augreg_in21k") or without. size: of the images,
    to which networks with a fixed input size are built. It has no places. Images come in ImageNet-normalised, and are
    brought to the mean and deviation that the network was trained with. Its dropout, of paths too, is off.
    Weights: "imagenet" are those of the tag, or of timm's default one, from where timm has them (the data may be
    others than ImageNet: the tag says so); a file of timm's is brought to the size by timm's own code.
    Raises RecipeError for a size that the network cannot take.
    """

    capturable = True
    sized = True
    factor: Tensor
    shift: Tensor

    def __init__(self, *, size: tuple[int, int], name: str) -> None:
        network: Any = _create(name, size)
        config: Mapping[str, Any] = network.pretrained_cfg
        heads = config.get("classifier") or ()
        super().__init__(
            dim=_dim(network, name, size),
            renames=[(NETWORK, "")],
            leaves_out=[f"{head}." for head in ([heads] if isinstance(heads, str) else heads)],
        )
        self.network = network
        self.arguments = (name, size)
        if config.get("url") or config.get("hf_hub_id"):
            self.imagenet = f"timm's {config['architecture']}" + (f".{config['tag']}" if config.get("tag") else "")
        ours, theirs = (IMAGENET_MEAN, IMAGENET_STD), (tuple(config["mean"]), tuple(config["std"]))
        factor = [here / there for here, there in zip(ours[1], theirs[1], strict=True)]
        shift = [(a - b) / there for a, b, there in zip(ours[0], theirs[0], theirs[1], strict=True)]
        self.converts = ours != theirs
        self.register_buffer("factor", torch.tensor(factor).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.converts:
            images = torch.addcmul(self.shift, images, self.factor)
        feature: Tensor = self.network(images)
        return feature

    def published(self) -> Mapping[str, Tensor]:
        try:
            state: Mapping[str, Tensor] = _create(*self.arguments, pretrained=True).state_dict()
        except Exception as error:  # whatever its hub's client may raise
            raise WeightsError(
                f"could not get {self.imagenet} ({' '.join(str(error).split())[:200]}); fetch the file elsewhere and "
                "give it with --weights FILE, or train from scratch with --weights none"
            ) from error
        return state

    def fit(self, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        own = self.state_dict()
        bring = getattr(sys.modules[type(self.network).__module__], "checkpoint_filter_fn", None)
        if bring is None or all(tensor.shape == own[key].shape for key, tensor in found.items()):
            return found
        try:
            brought = bring({key.removeprefix(NETWORK): tensor for key, tensor in found.items()}, self.network)
            return {key: brought.get(key.removeprefix(NETWORK), tensor) for key, tensor in found.items()}
        except Exception:  # of a file that it was not made for: what does not fit is said by who asked
            return found


def _create(name: str, size: tuple[int, int], *, pretrained: bool = False) -> nn.Module:
    """Return timm's network without classifier, built for the size where it is one that must be, and with no dropout:
    what it draws would not come from the step's own streams, and backbones are compared alike.

    Raises RecipeError without timm, and for a size that the network cannot take, or would not see whole: some pass
    over the rows that fill no patch.
    """
    timm = import_timm(f"timm:{name}")
    make = functools.partial(timm.create_model, name, pretrained=pretrained, num_classes=0)
    try:
        try:
            network: nn.Module = make(img_size=size)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            network = make()
    except Exception as error:  # as many kinds as there are networks
        if pretrained:
            raise
        raise _cannot(name, size, error) from error
    patches = getattr(network, "patch_embed", None)
    if isinstance(patch := getattr(patches, "patch_size", None), tuple) and not getattr(patches, "dynamic_img_pad", 0):
        refuse_size(f"backbone timm:{name}", size, patch)
    for module in network.modules():
        rates = {"p"} if isinstance(module, nn.modules.dropout._DropoutNd) else {"drop_prob", "drop_rate"}
        for rate in rates & vars(module).keys():
            setattr(module, rate, 0.0)
    return network


@torch.no_grad()
def _dim(network: nn.Module, name: str, size: tuple[int, int]) -> int:
    """Return the length of the feature, which timm has several words for: an image is tried."""
    try:
        found = network.eval()(torch.zeros(2, 3, *size))
    except Exception as error:  # as many kinds as there are networks
        raise _cannot(name, size, error) from error
    finally:
        network.train()
    if not isinstance(found, Tensor) or found.ndim != 2:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise RecipeError(f"backbone timm:{name} gives {got} for 2 images; it must give a feature (2, D)")
    return found.shape[1]


def _cannot(name: str, size: tuple[int, int], error: Exception) -> RecipeError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return RecipeError(f"backbone timm:{name} cannot take images of {size[0]}x{size[1]} ({reason}); try another size")
