"""How far the images and embeddings of cameras lie from others: mean and deviation of each number. No torch.

Shapes: C cameras, N crops, B crops of a block, D numbers of a crop (channels, or features).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]


class Moments(NamedTuple):
    """Of C groups: count_C, and mean and deviation (population) of each number, float64 (C, D); NaN where none is."""

    count_C: NDArray[np.int64]
    mean_CD: _Array
    deviation_CD: _Array


class Sums:
    """Count, sum and sum of squares of each group so far: `add` blocks, then ask for `moments`."""

    def __init__(self, groups: int, numbers: int) -> None:
        self.count_C = np.zeros(groups)
        self.sum_CD, self.square_CD = np.zeros((groups, numbers)), np.zeros((groups, numbers))

    def add(self, value_BD: NDArray[np.floating], group_B: NDArray[np.int64], square_BD: _Array | None = None) -> None:
        """Add a block. square_BD: the squares' means where a value is itself a mean, as of the pixels of an image."""
        value_BD = value_BD.astype(np.float64)
        of_CB = (group_B[None] == np.arange(len(self.count_C))[:, None]).astype(np.float64)
        self.count_C += of_CB.sum(1)
        self.sum_CD += of_CB @ value_BD
        self.square_CD += of_CB @ (np.square(value_BD) if square_BD is None else square_BD)

    def moments(self) -> Moments:
        """Return the moments of each group."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.sum_CD / self.count_C[:, None]
            variance = self.square_CD / self.count_C[:, None] - np.square(mean)
        return Moments(self.count_C.astype(np.int64), mean, np.sqrt(variance.clip(min=0)))

    def whole(self) -> "Moments":
        """Return the moments of all groups together, C = 1."""
        one = Sums(1, self.sum_CD.shape[1])
        one.count_C, one.sum_CD, one.square_CD = (
            some.sum(0, keepdims=True) for some in (self.count_C, self.sum_CD, self.square_CD)
        )
        return one.moments()


def pixel_sums(blocks: Iterable[tuple[NDArray[np.uint8], NDArray[np.int64]]], groups: int) -> Sums:
    """Return the sums of red, green and blue over all pixels: blocks of (uint8 (B, H, W, 3), their groups)."""
    sums = Sums(groups, 3)
    for pixels_BHWC, group_B in blocks:
        add_pixels(sums, pixels_BHWC, group_B)
    return sums


def add_pixels(sums: Sums, pixels_BHWC: NDArray[np.uint8], group_B: NDArray[np.int64]) -> None:
    """Add a block of images to the sums of their channels; an image counts once, whatever its size."""
    flat = pixels_BHWC.reshape(len(pixels_BHWC), -1, 3).astype(np.float64)
    sums.add(flat.mean(1), group_B, np.square(flat).mean(1))


def distance(camera: Moments, source: Moments, *, scale: float | None = None) -> _Array:
    """Return how far each camera lies from the source, float64 (C,): the root of the mean over the numbers of
    (difference of means)^2 + (difference of deviations)^2, in units of `scale`.

    That is the 2-Wasserstein distance of two normal distributions with independent numbers, per number. scale: None
    takes the root mean square of the source's deviations, so that 1 means as far as two of its images differ.
    """
    squares = np.square(camera.mean_CD - source.mean_CD) + np.square(camera.deviation_CD - source.deviation_CD)
    unit = float(np.sqrt(np.square(source.deviation_CD).mean())) if scale is None else scale
    found: _Array = np.sqrt(squares.mean(1)) / max(unit, 1e-12)
    return found


def share_of_cameras(sums: Sums) -> float:
    """Return which share of the variance of all numbers lies between the cameras, 0..1: 0 when all have one mean."""
    each, whole = sums.moments(), sums.whole()
    total = float(np.square(whole.deviation_CD).sum())
    there = each.count_C > 0
    between = each.count_C[there] @ np.square(each.mean_CD[there] - whole.mean_CD).sum(1) / each.count_C.sum()
    return float(between / total) if total > 0 else 0.0
