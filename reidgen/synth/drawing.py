"""The tools that draw the built-in benchmark: chance from a key, and a board that takes simple shapes.

Every byte must be the same on every machine. So chance comes from `random.Random.random()` (the one call that Python
promises never to change); geometry uses + - * / and square roots (exact in IEEE arithmetic), never a sine or a power;
and polygons reach Pillow as whole pixels with x in [256, 512) and edges less than 128 wide, where its float32 edges
come out alike with and without fused multiply-add. Ellipses, blending and JPEG are integer work in Pillow.

Lengths are pixels at twice the final size: a board is 256 wide, of which an image shows 128.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
T = TypeVar("T")

BLACK, WHITE = (12, 12, 14), (244, 244, 242)


class Dice:
    """Chance from a text key: equal keys give equal throws, on every machine and in every version of Python."""

    def __init__(self, key: str) -> None:
        self._source = random.Random(key)
        self.throw = self._source.random

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self.throw()

    def bell(self, middle: float, reach: float) -> float:
        """Return a number within `reach` of `middle`, mostly near it (a sum of three throws)."""
        return middle + reach * ((self.throw() + self.throw() + self.throw()) * 2 / 3 - 1)

    def integer(self, low: int, high: int) -> int:
        """Return a whole number from low to high, both included."""
        return low + int((high - low + 1) * self.throw())

    def chance(self, share: float) -> bool:
        """Return True in `share` of the throws."""
        return self.throw() < share

    def choice(self, options: Sequence[T]) -> T:
        """Return one of `options`, all equally likely."""
        return options[int(len(options) * self.throw())]

    def pick(self, weights: Mapping[T, int]) -> T:
        """Return a key of `weights`, as often as its weight says."""
        left = self.throw() * sum(weights.values())
        for key, weight in weights.items():  # noqa: B007
            left -= weight
            if left < 0:
                break
        return key

    def noise(self, count: int) -> bytes:
        """Return `count` uniform bytes."""
        return self._source.randbytes(count)

    def tint(self, colour: Colour, reach: int) -> Colour:
        """Return `colour` moved by up to `reach` in brightness, and by half as much in each channel."""
        shift = self.between(-reach, reach)
        return bounded(int(c + shift + self.between(-reach, reach) / 2) for c in colour)


def bounded(channels: Iterable[int]) -> Colour:
    """Return three channels clipped to 0..255."""
    red, green, blue = (min(255, max(0, c)) for c in channels)
    return red, green, blue


def scaled(colour: Colour, percent: int) -> Colour:
    """Return `colour` with its brightness at `percent`."""
    return bounded(c * percent // 100 for c in colour)


def direction(turn: float) -> tuple[float, float]:
    """Return cosine and sine of a direction near `turn` turns (exact at the eighths), from a square made round."""
    quarter = (turn % 1.0) * 4
    along = quarter % 1.0
    x, y = ((1 - along, along), (-along, 1 - along), (along - 1, -along), (along, along - 1))[int(quarter)]
    length = math.sqrt(x * x + y * y)
    return x / length, y / length


class Board:
    """A drawing board, 256 wide; `left` is where x = 0 lies on it. Shapes past its edges are cut, never an error."""

    def __init__(self, height: int, *, left: int = 0) -> None:
        self.height = height
        self.image = Image.new("RGB", (512, height))
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        self._left = 256 + left

    def _x(self, x: float) -> int:
        return min(511, max(256, self._left + int(x + 1000.5) - 1000))

    def shape(self, points: Iterable[Point], colour: Colour, alpha: int = 255) -> None:
        """Fill a polygon."""
        corners = [(self._x(x), int(y + 1000.5) - 1000) for x, y in points]
        self._draw.polygon(corners, fill=(*colour, alpha))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, alpha: int = 255) -> None:
        """Fill a rectangle."""
        left, right = self._x(x0), self._x(x1)
        if right > left and y1 > y0:
            self._draw.rectangle((left, int(y0), right, int(y1)), fill=(*colour, alpha))

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, alpha: int = 255) -> None:
        """Fill an ellipse around (x, y)."""
        left, right = self._x(x - rx), self._x(x + rx)
        if right > left and ry > 0:
            self._draw.ellipse((left, int(y - ry), right, int(y + ry)), fill=(*colour, alpha))

    def taper(self, x: float, top: float, bottom: float, half0: float, half1: float, colour: Colour) -> None:
        """Fill an upright trapezium around x, given its half width at the top and at the bottom."""
        self.shape(((x - half0, top), (x + half0, top), (x + half1, bottom), (x - half1, bottom)), colour)

    def limb(self, start: Point, end: Point, width0: float, width1: float, colour: Colour, alpha: int = 255) -> None:
        """Fill a tapered bar from `start` to `end`, given its width at both."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.sqrt(dx * dx + dy * dy) or 1.0
        nx, ny = -dy / length / 2, dx / length / 2
        self.shape(
            (
                (start[0] + nx * width0, start[1] + ny * width0),
                (end[0] + nx * width1, end[1] + ny * width1),
                (end[0] - nx * width1, end[1] - ny * width1),
                (start[0] - nx * width0, start[1] - ny * width0),
            ),
            colour,
            alpha,
        )
