"""What happens to the pixels of a batch, on the device: augmentation by the recipe, and ImageNet's mean and deviation.

Everything random follows from (seed, step, view). Shapes: B images of a batch, H x W pixels.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from reidgen.contracts import IMAGENET_MEAN, IMAGENET_STD
from reidgen.recipe import Recipe
from reidgen.seeds import stream_seed

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
ZOOM = 1.125


def draw_augmentation(recipe: Recipe, *, step: int, view: int = 0) -> Tensor:
    """Return the random numbers that augment one view of a batch: float32 (B, 12) on the CPU.

    Columns: half the width of the view (-: mirrored), half its height (1: the whole image), the view's centre x and y
    (as `affine_grid` counts, 0 is the middle); factors of brightness, contrast and saturation; by how many turns the
    hue moves; left, top, right and bottom of the rectangle that is erased, see `draw_boxes`.
    """
    words = ("augment", recipe.seed, step) if view == 0 else ("augment", recipe.seed, step, view)
    generator = torch.Generator().manual_seed(stream_seed(*words))
    chance = torch.rand((recipe.batch, 6), generator=generator)
    zoomed = chance[:, 0] < recipe.zoom
    half = torch.where(zoomed, 1 / ZOOM, 1.0)
    mirror = torch.where(chance[:, 1] < recipe.flip, -1.0, 1.0)
    centre = (2 * chance[:, 2:4] - 1) * (1 - half)[:, None]
    if recipe.pad:  # a crop of the padded image: moved by whole pixels
        side = torch.tensor([recipe.width, recipe.height])
        centre = torch.floor(chance[:, 2:4] * (2 * recipe.pad + 1)).sub(recipe.pad) * 2 / side
    brightness = 1 + recipe.brightness * (2 * chance[:, 4] - 1)
    contrast = 1 + recipe.contrast * (2 * chance[:, 5] - 1)
    drawn = torch.stack([half * mirror, half, centre[:, 0], centre[:, 1], brightness, contrast], dim=1)
    more = torch.rand((recipe.batch, 4), generator=generator)
    colour = torch.stack([1 + recipe.saturation * (2 * more[:, 0] - 1), recipe.hue * (2 * more[:, 1] - 1)], dim=1)
    if recipe.jitter < 1:
        still = more[:, 2] >= recipe.jitter
        drawn[still, 4:], colour[still] = 1.0, torch.tensor([1.0, 0.0])
    return torch.cat([drawn, colour, draw_boxes(more[:, 3] < recipe.erasing, generator)], dim=1)


def draw_boxes(erase_B: Tensor, chance: torch.Generator) -> Tensor:
    """Return a rectangle for each image that is to be erased, in shares of its sides, (B, 4): left, top, right, bottom.

    Its area is 2 to 40 % of the image, its height over its width (in shares) 0.3 to 1 / 0.3; empty for the others.
    Source: Zhong et al., AAAI 2020. Difference: one that does not fit is cut to the image, not drawn again.
    """
    drawn = torch.rand((len(erase_B), 4), generator=chance)
    area = 0.02 + 0.38 * drawn[:, 0]
    aspect = 0.3 + (1 / 0.3 - 0.3) * drawn[:, 1]
    high, wide = (area * aspect).sqrt().clamp_max(1), (area / aspect).sqrt().clamp_max(1)
    left, top = drawn[:, 2] * (1 - wide), drawn[:, 3] * (1 - high)
    return torch.stack([left, top, left + wide, top + high], dim=1) * erase_B[:, None]


def to_float(pixels_BHWC: Tensor) -> Tensor:
    """Return uint8 (B, H, W, 3) images as float32 (B, 3, H, W) in 0..1."""
    return pixels_BHWC.permute(0, 3, 1, 2).float() / 255


def standardize(images: Tensor) -> Tensor:
    """Return float32 (B, 3, H, W) images in 0..1 normalised with ImageNet's mean and deviation."""
    mean, std = (_channels(values, images.device, images.dtype) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


@functools.cache
@torch.inference_mode(False)
def _channels(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return one number per channel, (3, 1, 1); made once, as a GPU's queue runs dry while it waits for such a copy."""
    return torch.tensor(values, device=device, dtype=dtype).view(3, 1, 1)


def augment(pixels_BHWC: Tensor, drawn: Tensor, recipe: Recipe) -> Tensor:
    """Return the augmented batch as float32 (B, 3, H, W) in 0..1, before ImageNet's mean and deviation are taken out.

    pixels_BHWC: uint8, not modified. drawn: from `draw_augmentation`, on the same device.
    Zoom or padding, crop and mirror are one bilinear sampling (difference from [A]: a crop of a zoomed image need not
    start at a whole pixel); what is padded is black. Then brightness, contrast about the mean grey of the image,
    saturation and hue, each clipped to 0..1 as torchvision does; then a rectangle becomes ImageNet's mean.
    """
    images = to_float(pixels_BHWC)
    theta = images.new_zeros((len(images), 2, 3))
    theta[:, 0, 0], theta[:, 1, 1] = drawn[:, 0], drawn[:, 1]
    theta[:, :, 2] = drawn[:, 2:4]
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    outside = "zeros" if recipe.pad else "border"
    images = functional.grid_sample(images, grid, padding_mode=outside, align_corners=False)
    images = jitter(images, drawn[:, 4:8], saturation=recipe.saturation > 0, hue=recipe.hue > 0)
    return erase(images, drawn[:, 8:], IMAGENET_MEAN) if recipe.erasing else images


def jitter(images: Tensor, factors_B4: Tensor, *, saturation: bool = True, hue: bool = True) -> Tensor:
    """Return the images with brightness, contrast and saturation times a factor each, and the hue moved by turns.

    Clipped to 0..1 after each, as torchvision does. saturation, hue: whether these two are done at all.
    """
    brightness, contrast, of_saturation, turn = factors_B4[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp_(0, 1)
    images = enhance(images, grey_of(images).mean((2, 3), keepdim=True), contrast)
    if saturation:
        images = enhance(images, grey_of(images), of_saturation)
    return turn_hue(images, turn) if hue else images


def grey_of(images: Tensor) -> Tensor:
    """Return the grey of RGB images, (B, 3, H, W) -> (B, 1, H, W)."""
    return (images * _channels(LUMA, images.device, images.dtype)).sum(1, keepdim=True)


def enhance(images: Tensor, plain: Tensor, factor: Tensor) -> Tensor:
    """Return what lies `factor` times as far from the plain image as the images do, clipped to 0..1."""
    return (plain + (images - plain) * factor).clamp_(0, 1)


def turn_hue(images: Tensor, turn_B111: Tensor) -> Tensor:
    """Return RGB images, float (B, 3, H, W) in 0..1, with their hue moved by a share of a turn each, (B, 1, 1, 1)."""
    value, spot = images.max(1)
    spread = value - images.amin(1)
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    red, green, blue = images.unbind(1)
    sixth = torch.where(spot == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sixth = torch.where(spot == 0, (green - blue) / safe, sixth) + 6 * turn_B111[:, 0]
    channels = []
    for start in (5, 3, 1):  # of HSV's f(n) = v - s v max(0, min(k, 4 - k, 1)), k = (n + sixth) mod 6
        k = (start + sixth) % 6
        channels.append(value - spread * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def erase(images: Tensor, boxes_B4: Tensor, colour: Sequence[float]) -> Tensor:
    """Return the images with the pixels whose middle lies in their rectangle, see `draw_boxes`, in one colour (3,)."""
    height, width = images.shape[-2:]
    x = (torch.arange(width, device=images.device) + 0.5) / width
    y = (torch.arange(height, device=images.device) + 0.5) / height
    left, top, right, bottom = boxes_B4[:, :, None].unbind(1)
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None]
    return torch.where(inside[:, None], _channels(tuple(colour), images.device, images.dtype), images)
