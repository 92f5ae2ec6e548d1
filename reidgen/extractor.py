"""A trained run as something that embeds images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reidgen.data.images import decode
from reidgen.devices import choose_device
from reidgen.errors import DataError
from reidgen.evaluation import embed, load_network
from reidgen.runs import Run

Picture = str | Path | Image.Image | NDArray[np.uint8]


class Extractor:
    """The network of a finished run. dim: D, the length of an embedding. info: what is known of how it was trained."""

    def __init__(self, run: Run, *, device: str = "auto") -> None:
        self.network = load_network(run, choose_device(device))
        self.recipe = run.recipe()
        self.dim = self.network.backbone.dim
        method = run.method()
        self.info: dict[str, Any] = {
            "run": f"{self.recipe.source}/{run.folder.name}",
            "method": method.label,
            "title": method.full_title,
            "backbone": self.recipe.backbone,
            "source": self.recipe.source,
            "height": self.recipe.height,
            "width": self.recipe.width,
            **run.facts(),
        }

    def embed(self, images: Sequence[Picture]) -> NDArray[np.float32]:
        """Return the embeddings of images, float32 (N, D), L2-normalised: a dot product is the cosine.

        images: paths, PIL images, or arrays, uint8 (H, W, 3) in the order R, G, B. OpenCV reads B, G, R: give it
        `image[..., ::-1]`. Each is resized to the network's size as `reidgen evaluate` does.
        Raises DataError for a file that is no image and for an array of another form.
        """
        size = (self.recipe.width, self.recipe.height)
        if not len(images):
            return np.empty((0, self.dim), dtype=np.float32)
        pixels = np.stack([_pixels(image, size) for image in images])
        rows_N = np.arange(len(pixels))
        found = embed(
            self.network, pixels, rows_N=rows_N, dtype=self.recipe.dtype, report=lambda what, done, total: None
        )
        return found.cpu().numpy()


def _pixels(image: Picture, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image as the pixel cache holds it, uint8 (H, W, 3); size: (width, height)."""
    if isinstance(image, str | Path):
        try:
            picture, _ = decode(Path(image))
        except DataError as error:
            raise DataError(f"{image} {error}") from error
    elif isinstance(image, Image.Image):
        picture = image.convert("RGB")
    else:
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise DataError(f"an image must be uint8 (H, W, 3) in R, G, B; got {array.dtype} {array.shape}")
        picture = Image.fromarray(array)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
