"""Vision transformers of torchvision at any size of images."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import vision_transformer

from reidgen.contracts import Backbone
from reidgen.errors import RecipeError

POSITIONS = "encoder.pos_embedding"


class VisionTransformer(Backbone):
    """torchvision's Vision Transformer: float (B, 3, H, W) -> the class token behind the last layer, (B, dim).

    It has no places. size: height and width of the images, multiples of `patch`. Published positions, of a square, are
    brought to the grid of H / patch x W / patch by bicubic interpolation in two dimensions; a file with as many
    positions as this grid is taken as it is.
    Raises RecipeError for a size that patches do not fill.
    Source: Dosovitskiy et al., ICLR 2021; torchvision's encoder and names. Difference: torchvision's forward takes
    squares only, so that the patches are cut here.
    """

    capturable = True
    sized = True
    patch: ClassVar[int]
    layers: ClassVar[int]
    heads: ClassVar[int]
    width: ClassVar[int]  # features of a token

    def __init__(self, *, size: tuple[int, int]) -> None:
        refuse_size(type(self).__name__, size, (self.patch, self.patch))
        network = vision_transformer.VisionTransformer(
            self.patch, self.patch, self.layers, self.heads, self.width, 4 * self.width, num_classes=1
        )
        super().__init__(dim=self.width, leaves_out=["heads."])
        self.grid = (size[0] // self.patch, size[1] // self.patch)
        self.conv_proj, self.class_token, self.encoder = network.conv_proj, network.class_token, network.encoder
        positions = torch.empty(1, 1 + math.prod(self.grid), self.width)
        self.encoder.pos_embedding = nn.Parameter(positions.normal_(std=0.02))  # as torchvision's start

    def forward(self, images: Tensor) -> Tensor:
        patches_BDHW = self.conv_proj(images)
        if patches_BDHW.shape[2:] != self.grid:
            height, width = (side * self.patch for side in self.grid)
            raise ValueError(f"this network was built for {height}x{width}; got {tuple(images.shape[2:])}")
        patches_BTD = patches_BDHW.flatten(2).transpose(1, 2)
        tokens_BTD = torch.cat([self.class_token.expand(images.shape[0], -1, -1), patches_BTD], dim=1)
        token_BD: Tensor = self.encoder(tokens_BTD)[:, 0]
        return token_BD

    def fit(self, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        positions = found.get(POSITIONS)
        if positions is None or positions.ndim != 3 or positions.shape == self.encoder.pos_embedding.shape:
            return found
        side = math.isqrt(max(positions.shape[1] - 1, 0))
        if positions.shape[1] != 1 + side**2 or not side or positions.shape[2] != self.dim:
            return found
        square_1DHW = positions[:, 1:].transpose(1, 2).reshape(1, self.dim, side, side)
        grid_1DHW = functional.interpolate(square_1DHW, size=self.grid, mode="bicubic", align_corners=False)
        return {**found, POSITIONS: torch.cat([positions[:, :1], grid_1DHW.flatten(2).transpose(1, 2)], dim=1)}


def refuse_size(name: str, size: tuple[int, int], patch: tuple[int, int]) -> None:
    """Raise RecipeError, with sizes that fit, when images of this height and width are not filled by patches."""
    if all(side % step == 0 for side, step in zip(size, patch, strict=True)):
        return
    less = [side // step * step for side, step in zip(size, patch, strict=True)]
    more = [-(-side // step) * step for side, step in zip(size, patch, strict=True)]
    near = [f"{height}x{width}" for height, width in (less, more) if height and width]
    raise RecipeError(
        f"{name} cuts images into patches of {patch[0]}x{patch[1]} pixels; height and width {size[0]}x{size[1]} do not "
        f"fit, {' or '.join(near)} would"
    )


class ViTB16(VisionTransformer):
    """ViT-B/16, 86 million parameters, with torchvision's first ImageNet weights, at 224x224."""

    imagenet = "ViT_B_16_Weights.IMAGENET1K_V1"
    patch, layers, heads, width = 16, 12, 12, 768
