"""How a model from elsewhere wants its images: their size, layout, order of colours, range, mean and deviation."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from reidgen.contracts import IMAGENET_MEAN, IMAGENET_STD
from reidgen.errors import WeightsError, unknown

LAYOUTS, ORDERS, RANGES = ("nchw", "nhwc"), ("rgb", "bgr"), (1, 255)
EXAMPLES = {
    "size": "size=256x128",
    "layout": "layout=nchw",
    "order": "order=bgr",
    "range": "range=255",
    "mean": "mean=imagenet",
    "deviation": "deviation=imagenet",
    "output": "output=embeddings",
}
METADATA = "reidgen"  # the key of an ONNX file's metadata under which `reidgen export` writes what is here, as JSON
LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class Input:
    """How a model wants its images, with what `evaluation.embed_tested` asks of whatever says an image's size.

    layout: "nchw" or "nhwc"; order: "rgb" or "bgr"; range: 1 or 255, what white is. mean, deviation: of R, G, B, on
    that range: what is given is (pixel - mean) / deviation. output: the name of the output with the embeddings, "" for
    the only one.
    """

    height: int
    width: int
    layout: str = "nchw"
    order: str = "rgb"
    range: int = 1
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    output: str = ""
    dtype: ClassVar[str] = "float32"

    def prepare(self, pixels_BCHW: Tensor) -> Tensor:
        """Return RGB images in 0..1, float32 (B, 3, H, W), as the model wants them, still (B, 3, H, W)."""
        mean, deviation = (
            torch.tensor(three, dtype=pixels_BCHW.dtype, device=pixels_BCHW.device).view(1, 3, 1, 1)
            for three in (self.mean, self.deviation)
        )
        images = (pixels_BCHW * self.range - mean) / deviation
        return images.flip(1) if self.order == "bgr" else images

    def facts(self) -> dict[str, Any]:
        """Return what `from_facts` reads again."""
        return {**asdict(self), "mean": list(self.mean), "deviation": list(self.deviation)}

    def __str__(self) -> str:
        mean, deviation = (",".join(f"{number:g}" for number in three) for three in (self.mean, self.deviation))
        plain = not any(self.mean) and set(self.deviation) == {1.0}
        scaled = "" if plain else f", mean {mean}, deviation {deviation}"
        return f"{self.height}x{self.width}, {self.layout}, {self.order}, pixels in 0..{self.range}{scaled}"


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """Return what `--input KEY=VALUE` says, by the names of `Input`. Raises WeightsError for what is none of it.

    >>> read_words(["size=256x128", "mean=imagenet"])["deviation"]
    (0.229, 0.224, 0.225)
    """
    said = dict[str, str]()
    for word in words:
        key, _, value = word.partition("=")
        key, value = key.strip().lower(), value.strip()
        if key not in EXAMPLES:
            raise WeightsError(
                f"--input {word}: {unknown('key', key, EXAMPLES)}; for example: --input {EXAMPLES['size']}"
            )
        if key in said:
            raise WeightsError(f"--input {key} is given twice, as {said[key]} and as {value}; give it once")
        if others := [other for other in EXAMPLES if f",{other}=" in value.replace(" ", "")]:
            raise WeightsError(f"--input {word}: give {others[0]} with an --input of its own")
        if not value:
            raise WeightsError(f"--input {word}: it has no value; for example: --input {EXAMPLES[key]}")
        said[key] = value if key == "output" else value.lower()
    found: dict[str, Any] = {key: said[key] for key in ("layout", "order", "output") if key in said}
    for key, known in {"layout": LAYOUTS, "order": ORDERS}.items():
        if key in said and said[key] not in known:
            raise WeightsError(f"--input {key}={said[key]}: {unknown(key, said[key], known)}")
    if "size" in said:
        found["height"], found["width"] = _size(said["size"])
    if "range" in said:
        if said["range"] not in map(str, RANGES):
            raise WeightsError(
                f"--input range={said['range']}: pixels lie in 0..1 or 0..255; give range=1 or range=255"
            )
        found["range"] = int(said["range"])
    return found | _scaling(said, found.get("range", RANGES[0]))


def _size(text: str) -> tuple[int, int]:
    sides = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if not sides or not all(1 <= int(side) <= LARGEST for side in sides.groups()):
        raise WeightsError(f"--input size={text}: give height x width in pixels, such as size=256x128")
    return int(sides[1]), int(sides[2])


def _scaling(said: Mapping[str, str], white: int) -> dict[str, tuple[float, ...]]:
    """Return mean and deviation where one of them is said; `imagenet` for either stands for both."""
    if "imagenet" in (said.get("mean"), said.get("deviation")):
        return {
            "mean": tuple(white * number for number in IMAGENET_MEAN),
            "deviation": tuple(white * number for number in IMAGENET_STD),
        }
    found = {key: _three(key, said[key]) for key in ("mean", "deviation") if key in said}
    if not all(found.get("deviation", (1.0,))):
        raise WeightsError("--input deviation: it divides, so that no number of it may be 0")
    for key, numbers in found.items():
        _refuse_unfitting(key, said[key], numbers, white)
    for key, other, none in (("mean", "deviation", 1), ("deviation", "mean", 0)):
        if key in found and other not in found:
            raise WeightsError(
                f"--input {key}={said[key]} comes without a {other}, and a wrong one costs many points; add --input "
                f"{other}=R,G,B, or {other}={none} where there is none"
            )
    return found


def _refuse_unfitting(key: str, text: str, numbers: tuple[float, ...], white: int) -> None:
    """Raise WeightsError for a mean or deviation that no pixels of a range have."""
    if min(numbers) < 0 or max(numbers) > RANGES[-1]:
        raise WeightsError(f"--input {key}={text}: no pixels have it, neither in 0..1 nor in 0..255")
    if max(numbers) > white:
        raise WeightsError(
            f"--input {key}={text} is of pixels in 0..255, and they are taken to lie in 0..1; add --input range=255"
        )
    if white > 1 and any(0 < number < 1 for number in numbers):
        raise WeightsError(
            f"--input {key}={text} is of pixels in 0..1, and --input range=255 says that they lie in 0..255; give "
            f"{key} on that range"
        )


def _three(key: str, text: str) -> tuple[float, ...]:
    """Return three numbers, of R, G and B, from three or one."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        example = "0.485,0.456,0.406" if key == "mean" else "0.229,0.224,0.225"
        raise WeightsError(f"--input {key}={text}: give one number, three of R,G,B such as {example}, or imagenet")
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


def from_metadata(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return what a file's metadata say, {} where they say nothing of reidgen's. Raises WeightsError where damaged."""
    if METADATA not in metadata:
        return {}
    try:
        said = json.loads(metadata[METADATA])
        own = said["input"]
        found = Input(**{**own, "mean": tuple(own["mean"]), "deviation": tuple(own["deviation"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{where}: its metadata {METADATA!r} cannot be read ({error}); export it again") from error
    return {**said, "input": found}
