"""Eleven controlled shifts of an image's style or quality, five severities each, the same pixels on every machine.

They act on decoded uint8 RGB images (H, W, 3) at the size that the network sees: resolution and blur are relative to
the image's height, noise and JPEG's blocks of 8 x 8 pixels are not. Brightness, gamma, contrast and white balance are
tables of 256 values, saturation is one product per pixel; Pillow does the rest in its own fixed-point arithmetic,
chance comes from a text key. So nothing depends on a matrix library, on threads or on the order of the images.

The severities were set by eye on drawn images and by what cameras do (`sheet` shows them all): 1 is a change that one
hardly sees, 3 what one meets between two cameras of a site, 5 a bad camera on a bad day. White balance and occlusion
were then adjusted once on curves of Baseline on the built-in benchmark, which fell too steeply or not at first.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from reidgen.errors import ReidgenError, unknown
from reidgen.synth.drawing import Dice

Pixels = NDArray[np.uint8]
SEVERITIES = 5


@dataclass(frozen=True)
class Shift:
    """One kind of change: what it does to an image, and by how much at severity 1 to 5.

    change: (image (H, W, 3), amount, key) -> image; `key` names the image and decides what chance decides.
    opposite: the amount that moves the other way (darker instead of brighter), None where there is only one way.
    unit: what the amounts count.
    """

    change: Callable[[Pixels, float, str], Pixels]
    amounts: tuple[float, ...]
    unit: str
    opposite: Callable[[float], float] | None = None


def apply_shift(
    pixels_NHWC: Pixels, name: str, severity: int, *, directions: Sequence[int], keys: Sequence[str], seed: int = 0
) -> Pixels:
    """Return the images shifted, uint8 (N, H, W, 3), a new array; severity 0 changes nothing.

    name: one of SHIFTS. severity: 0 to 5. directions: +1 or -1 per image; -1 takes the opposite amount where the shift
    has one. keys: a text per image, such as its path: with `seed` it decides noise and the place of an occlusion, so
    that an image meets the same dice at every severity. Raises ReidgenError for an unknown name or severity.

    >>> grey = np.full((1, 2, 2, 3), 100, np.uint8)
    >>> apply_shift(grey, "brightness", 1, directions=[1], keys=["a.jpg"])[0, 0, 0].tolist()
    [115, 115, 115]
    """
    if name not in SHIFTS:
        raise ReidgenError(unknown("shift", name, SHIFTS))
    if severity not in range(SEVERITIES + 1):
        raise ReidgenError(f"severity must be 0 to {SEVERITIES}; got {severity}")
    if severity == 0:
        return np.array(pixels_NHWC)
    shift, shifted = SHIFTS[name], np.empty_like(pixels_NHWC)
    amount = shift.amounts[severity - 1]
    for n, (image, direction, key) in enumerate(zip(pixels_NHWC, directions, keys, strict=True)):
        directed = shift.opposite(amount) if shift.opposite and direction < 0 else amount
        shifted[n] = shift.change(np.asarray(image), directed, f"{seed}/{key}")
    return shifted


def _table(values: NDArray[np.float64]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


LEVELS = np.arange(256, dtype=np.float64)


def _brightness(image: Pixels, factor: float, key: str) -> Pixels:
    return _table(LEVELS * factor)[image]


def _gamma(image: Pixels, exponent: float, key: str) -> Pixels:
    return _table(255 * (LEVELS / 255) ** exponent)[image]


def _contrast(image: Pixels, factor: float, key: str) -> Pixels:
    grey = _grey(image)
    mean = int(grey.sum(dtype=np.int64)) // grey.size
    return _table(mean + factor * (LEVELS - mean))[image]


def _saturation(image: Pixels, factor: float, key: str) -> Pixels:
    grey = _grey(image).astype(np.float64)[..., None]
    return _table(grey + factor * (image - grey))


def _grey(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).convert("L"))


def _hue(image: Pixels, degrees: float, key: str) -> Pixels:
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.uint8(round(degrees * 256 / 360) % 256)  # the circle closes as uint8 overflows
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _white_balance(image: Pixels, gain: float, key: str) -> Pixels:
    red, green, blue = (_table(LEVELS * g)[image[..., c]] for c, g in enumerate((gain, 1.0, 1 / gain)))
    return np.stack([red, green, blue], axis=-1)


def _resolution(image: Pixels, share: float, key: str) -> Pixels:
    height, width = image.shape[:2]
    small = (max(1, round(width * share)), max(1, round(height * share)))
    shrunk = Image.fromarray(image).resize(small, Image.Resampling.BILINEAR)  # averages, as a sensor does
    return np.asarray(shrunk.resize((width, height), Image.Resampling.BILINEAR))


def _blur(image: Pixels, percent: float, key: str) -> Pixels:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(percent / 100 * image.shape[0])))


def _noise(image: Pixels, deviation: float, key: str) -> Pixels:
    drawn = np.frombuffer(Dice(f"noise/{key}").noise(4 * image.size), np.uint8).reshape(*image.shape, 4)
    bell = (drawn.sum(axis=-1, dtype=np.int64) - 510) / 147.8  # four uniform bytes: nearly normal, exact on any machine
    return _table(image + deviation * bell)


def _jpeg(image: Pixels, quality: float, key: str) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file).convert("RGB"))


def _occlusion(image: Pixels, percent: float, key: str) -> Pixels:
    """Cover a box of the image's own aspect; the box of a higher severity holds that of a lower one."""
    dice = Dice(f"occlusion/{key}")
    colour, across, down = dice.tint((110, 110, 110), 90), dice.throw(), dice.throw()
    side = (percent / 100) ** 0.5
    height, width = round(image.shape[0] * side), round(image.shape[1] * side)
    top, left = round(down * (image.shape[0] - height)), round(across * (image.shape[1] - width))
    covered = image.copy()
    covered[top : top + height, left : left + width] = colour
    return covered


def _inverse(amount: float) -> float:
    return 1 / amount


def _negative(amount: float) -> float:
    return -amount


SHIFTS: dict[str, Shift] = {
    "brightness": Shift(_brightness, (1.15, 1.35, 1.6, 1.9, 2.3), "times as bright, or as dark", _inverse),
    "gamma": Shift(_gamma, (1.15, 1.35, 1.65, 2.0, 2.5), "exponent, or its inverse", _inverse),
    "contrast": Shift(_contrast, (1.2, 1.5, 1.9, 2.4, 3.0), "times the contrast, or its inverse", _inverse),
    "saturation": Shift(_saturation, (1.25, 1.55, 2.0, 2.7, 4.0), "times the saturation, or its inverse", _inverse),
    "hue": Shift(_hue, (6, 12, 20, 30, 42), "degrees, either way", _negative),
    "white-balance": Shift(
        _white_balance, (1.06, 1.13, 1.2, 1.28, 1.37), "red gain and blue loss (warm), or inverse (cold)", _inverse
    ),
    "resolution": Shift(_resolution, (0.7, 0.5, 0.35, 0.25, 0.17), "of the lines and columns are left"),
    "blur": Shift(_blur, (0.6, 1.2, 2.0, 3.0, 4.5), "Gaussian deviation, % of the image's height"),
    "noise": Shift(_noise, (5, 10, 18, 28, 42), "standard deviation, grey levels of 255"),
    "jpeg": Shift(_jpeg, (50, 30, 20, 12, 6), "JPEG quality"),
    "occlusion": Shift(_occlusion, (4, 8, 14, 22, 32), "% of the area covered"),
}


def shifts_digest() -> str:
    """Return 8 hex digits that stand for the table of severities: rows of another table are not compared with ours."""
    table = [(name, shift.amounts, shift.unit) for name, shift in SHIFTS.items()]
    return hashlib.sha256(repr(table).encode()).hexdigest()[:8]


def sheet(image: Pixels, *, key: str = "sheet") -> Image.Image:
    """Return one image under every shift: a row per shift, severities 5..1 of the opposite way, 0, then 1..5.

    image: uint8 (H, W, 3), best 128 x 64. Under each picture stands its amount.
    """
    height, width = image.shape[:2]
    step_x, step_y, left = width + 6, height + 16, 96
    columns = range(-SEVERITIES, SEVERITIES + 1)
    page = Image.new("RGB", (left + step_x * len(columns), 18 + step_y * len(SHIFTS)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for place, column in enumerate(columns):
        draw.text((left + place * step_x + width / 2, 3), f"{column:+}".replace("+0", "0"), "black", font, anchor="ma")
    for row, (name, shift) in enumerate(SHIFTS.items()):
        y = 18 + row * step_y
        draw.text((4, y + height / 2), name, "black", font)
        for place, column in enumerate(columns):
            if column < 0 and not shift.opposite:
                continue
            x, amount = left + place * step_x, shift.amounts[abs(column) - 1]
            shifted = apply_shift(image[None], name, abs(column), directions=[column], keys=[key])
            page.paste(Image.fromarray(shifted[0]), (x, y))
            said = shift.opposite(amount) if column < 0 and shift.opposite else amount
            draw.text(
                (x + width / 2, y + height + 1), f"{said:.3g}" if column else "unchanged", "gray", font, anchor="ma"
            )
    return page
