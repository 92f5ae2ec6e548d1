"""Batches of P identities x K images, and their augmentation on the device.

Everything random follows from (seed, epoch, step), never from what ran before: a resumed run draws the same batches,
and so will any number of processes. Shapes: N images of the source, B = P K images of a batch, H x W pixels.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reidgen.data.pack import load_pack
from reidgen.data.prepare import load_index, load_prepared
from reidgen.errors import DataError
from reidgen.recipe import Recipe
from reidgen.runs import Progress

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
ZOOM = 1.125


@dataclass(frozen=True)
class Source:
    """The training images of one or several data sets.

    pixels_NHWC: uint8 on the CPU. label_N: int64, 0..classes-1, identities of different sets never merged.
    digest: SHA-256 that stands for the sets' indices.
    """

    pixels_NHWC: Tensor
    label_N: NDArray[np.int64]
    classes: int
    digest: str


def source_digest(recipe: Recipe, *, data: Path) -> str:
    """Return the SHA-256 that stands for the indices of the recipe's sources. Raises DataError when one is missing."""
    digests = [load_prepared(name, data).digest for name in recipe.sources]
    return digests[0] if len(digests) == 1 else hashlib.sha256("+".join(digests).encode()).hexdigest()


def load_source(recipe: Recipe, *, data: Path, report: Progress) -> Source:
    """Return the training images of all of the recipe's sources, at its size.

    Raises DataError when a source is not prepared, has no training part, has too few identities for a batch or one with
    a single image, or when two sources share images.
    """
    pixels, labels, classes = [], [], 0
    seen: set[str] = set()
    for name in recipe.sources:
        prepared = load_prepared(name, data)
        index = load_index(prepared)
        train = index[index["part"] == "train"]
        if train.empty:
            raise DataError(f"{name} has no training part and cannot be a source; it can be a target")
        if shared := seen & set(train["sha256"]):
            raise DataError(
                f"{name} shares {len(shared)} training images with another source of {recipe.source}; name one of them"
            )
        seen |= set(train["sha256"])
        paths, pack = load_pack(prepared, recipe.height, recipe.width, report)
        rows = np.searchsorted(paths, train["path"].to_numpy(dtype=str))
        pixels.append(torch.from_numpy(pack[rows]))
        pids, label = np.unique(train["pid"].to_numpy(), return_inverse=True)
        labels.append(label.astype(np.int64) + classes)
        classes += len(pids)
    label_N = np.concatenate(labels)
    if classes < recipe.identities:
        raise DataError(
            f"{recipe.source} has {classes} training identities, a batch of recipe {recipe.name} needs "
            f"{recipe.identities}; set identities in a recipe file"
        )
    if single := int((np.bincount(label_N) < 2).sum()):
        raise DataError(
            f"{single} of {classes} training identities of {recipe.source} have a single image, a triplet needs two; "
            "add images of them or remove them, then prepare the set again"
        )
    return Source(torch.cat(pixels), label_N, classes, source_digest(recipe, data=data))


def stream_seed(*words: int | str) -> int:
    """Return a 63-bit seed for an independent random stream that the words name, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "big") >> 1


def batches_per_epoch(recipe: Recipe, images: int) -> int:
    """Return the batches of an epoch: the recipe's number, or one pass over as many images as the source has."""
    return recipe.batches_per_epoch or max(1, images // recipe.batch)


def epoch_batches(label_N: NDArray[np.int64], *, recipe: Recipe, epoch: int) -> NDArray[np.int64]:
    """Return the image numbers of every batch of one epoch, int64 (batches, P K), each batch sorted by identity draw.

    Identities come in rounds: each round visits them in a new order, P at a time, none twice in a batch (the fewer than
    P left at its end wait for the next round). Each visit of an identity takes its next K images in a shuffled cycle,
    so none repeats before all were seen; with fewer than K images some stand twice in a batch.
    Needs at least P identities (the caller checks).
    Source: P x K batches of Hermans et al., arXiv 1703.07737. Difference from torchreid's sampler: every identity is
    visited equally often, whatever its number of images.
    """
    rng = np.random.Generator(np.random.PCG64(stream_seed("batches", recipe.seed, epoch)))
    images_of = [np.flatnonzero(label_N == label) for label in range(int(label_N.max()) + 1)]
    queues: list[list[int]] = [[] for _ in images_of]
    count = batches_per_epoch(recipe, len(label_N))
    batches: list[list[int]] = []
    while len(batches) < count:
        order = rng.permutation(len(images_of))
        for start in range(0, len(order) - recipe.identities + 1, recipe.identities):
            batch: list[int] = []
            for label in order[start : start + recipe.identities]:
                while len(queues[label]) < recipe.images:
                    queues[label].extend(rng.permutation(images_of[label]).tolist())
                batch.extend(queues[label][: recipe.images])
                del queues[label][: recipe.images]
            batches.append(batch)
    return np.array(batches[:count], dtype=np.int64)


def draw_augmentation(recipe: Recipe, *, step: int) -> Tensor:
    """Return the random numbers that augment one batch: float32 (B, 6) on the CPU.

    Columns: half the width of the view (-: mirrored), half its height (1: the whole image), the view's centre x and y
    (as `affine_grid` counts, 0 is the middle), then brightness factor, contrast factor.
    """
    generator = torch.Generator().manual_seed(stream_seed("augment", recipe.seed, step))
    chance = torch.rand((recipe.batch, 6), generator=generator)
    zoomed = chance[:, 0] < recipe.zoom
    half = torch.where(zoomed, 1 / ZOOM, 1.0)
    mirror = torch.where(chance[:, 1] < recipe.flip, -1.0, 1.0)
    centre = (2 * chance[:, 2:4] - 1) * (1 - half)[:, None]
    brightness = 1 + recipe.brightness * (2 * chance[:, 4] - 1)
    contrast = 1 + recipe.contrast * (2 * chance[:, 5] - 1)
    return torch.stack([half * mirror, half, centre[:, 0], centre[:, 1], brightness, contrast], dim=1)


def to_float(pixels_BHWC: Tensor) -> Tensor:
    """Return uint8 (B, H, W, 3) images as float32 (B, 3, H, W) in 0..1."""
    return pixels_BHWC.permute(0, 3, 1, 2).float() / 255


def standardize(images: Tensor) -> Tensor:
    """Return float32 (B, 3, H, W) images in 0..1 normalised with ImageNet's mean and deviation."""
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def augment(pixels_BHWC: Tensor, drawn_B6: Tensor) -> Tensor:
    """Return the augmented batch as float32 (B, 3, H, W), normalised with ImageNet's mean and deviation.

    pixels_BHWC: uint8, not modified. drawn_B6: from `draw_augmentation`, on the same device.
    Zoom, crop and mirror are one bilinear sampling (difference from [A]: a crop need not start at a whole pixel);
    then brightness, then contrast about the mean grey of the image, each clipped to 0..1 as torchvision does.
    """
    images = to_float(pixels_BHWC)
    theta = images.new_zeros((len(images), 2, 3))
    theta[:, 0, 0], theta[:, 1, 1] = drawn_B6[:, 0], drawn_B6[:, 1]
    theta[:, :, 2] = drawn_B6[:, 2:4]
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    brightness, contrast = drawn_B6[:, 4].view(-1, 1, 1, 1), drawn_B6[:, 5].view(-1, 1, 1, 1)
    images = (images * brightness).clamp_(0, 1)
    grey = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return standardize((grey + (images - grey) * contrast).clamp_(0, 1))
