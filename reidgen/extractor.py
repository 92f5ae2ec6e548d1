"""What embeds images: a trained run, or anything else of the same form."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reidgen.contracts import Network, build_test_step
from reidgen.data.images import as_shown, decode, is_alone, resized
from reidgen.devices import choose_device
from reidgen.errors import DataError, RecipeError
from reidgen.evaluation import BATCH, embed, load_network
from reidgen.runs import Run
from reidgen.teststeps import Way

Picture = str | Path | Image.Image | NDArray[np.uint8]


class Embedder(Protocol):
    """What `reidgen embed`, `search` and what comes after them need of a network, wherever it comes from.

    dim: D, the length of an embedding. info: what is known of it, at least `name` (a run as source/folder, or a file),
    `digest` (64 hex digits; whatever changes an embedding changes it), `height` and `width` of the images that the
    network is given, and `test` (the word of its views, `plain` for none); JSON can hold it.
    """

    @property
    def dim(self) -> int: ...

    @property
    def info(self) -> dict[str, Any]: ...

    def embed(self, images: Iterable[Picture]) -> NDArray[np.float32]:
        """Return the embeddings, float32 (N, D), L2-normalised; see `Extractor.embed`."""


class NetworkExtractor:
    """Any network of the contract `Network` as an Embedder.

    info: as of `Embedder`, also `dtype`, the recipe's. way: test steps that make views of an image, such as flip; their
    mean is embedded. What a step learns of a whole target (bn, centre, rerank) means nothing for single images:
    RecipeError.
    """

    def __init__(self, network: Network, dim: int, info: dict[str, Any], way: Way = Way()) -> None:
        check_views(way)
        self.network, self.dim, self.info = network, dim, info
        self._steps = [build_test_step(step) for step in way.steps]

    def embed(self, images: Iterable[Picture]) -> NDArray[np.float32]:
        """Return the embeddings of images, float32 (N, D), L2-normalised: a dot product is the cosine.

        images: paths, PIL images, or arrays, uint8 (H, W, 3) in the order R, G, B; read a batch at a time, so that a
        generator, or a list of any number of paths, costs the memory of its embeddings only. OpenCV reads B, G, R: give
        it `image[..., ::-1]`; nothing in an array tells which it is, and a swapped one gives wrong embeddings without
        an error. Paths and PIL images are turned as EXIF says and laid over white where they are transparent. Each is
        brought to the network's size as `reidgen evaluate` does it.
        Raises DataError for a file that is no image, an array of another form, and a single image without a list.
        """
        if is_alone(images):
            raise DataError("embed takes several images, so give a list, also of one: embed([image])")
        waiting, parts = iter(images), [np.empty((0, self.dim), dtype=np.float32)]
        while batch := list(islice(waiting, BATCH)):
            pixels = np.stack([_pixels(image, (self.info["width"], self.info["height"])) for image in batch])
            parts.append(self._embed_pixels(pixels))
        return np.concatenate(parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.info['name']}: {self.dim} numbers per image)"

    def _embed_pixels(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = embed(
            self.network,
            pixels_BHWC,
            rows_N=np.arange(len(pixels_BHWC)),
            dtype=self.info["dtype"],
            steps=self._steps,
            report=lambda what, done, total: None,
        )
        return found.cpu().numpy()


class Extractor(NetworkExtractor):
    """The network of a finished run. dim: D, the length of an embedding. info: what is known of how it was trained.
    run: where it lies.
    """

    def __init__(self, run: Run, *, device: str = "auto", way: Way = Way()) -> None:
        check_views(way)
        network = load_network(run, choose_device(device))
        recipe, facts, method = run.recipe(), run.facts(), run.method()
        decisive = [*(facts[f"{part}_sha256"] for part in ("weights", "recipe", "row")), way.word]
        info = {
            "name": f"{recipe.source}/{run.folder.resolve().name}",
            "digest": hashlib.sha256("\n".join(decisive).encode()).hexdigest(),
            "test": way.word,
            "method": method.label,
            "title": method.full_title,
            "recipe": recipe.name,
            "backbone": recipe.backbone,
            "source": recipe.source,
            "seed": recipe.seed,
            "height": recipe.height,
            "width": recipe.width,
            "dtype": recipe.dtype,
            **facts,
        }
        super().__init__(network, network.backbone.dim, info, way)
        self.recipe, self.run = recipe, run


def check_views(way: Way) -> None:
    """Raise RecipeError when a test step does not make views of single images."""
    if others := [step.name for step in way.steps if step.stage != "views"]:
        raise RecipeError(
            f"the test step {others[0]} needs a whole target, so it cannot embed single images; leave it out, or use "
            "it in reidgen evaluate"
        )


def _pixels(image: Picture, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image as the pixel cache holds it, uint8 (H, W, 3); size: (width, height)."""
    if isinstance(image, str | Path):
        try:
            picture, _ = decode(Path(image))
        except DataError as error:
            raise DataError(f"{image} {error}") from None
    elif isinstance(image, Image.Image):
        picture = as_shown(image)
    else:
        picture = Image.fromarray(_checked(np.asarray(image)))
    return resized(picture, size)


def _checked(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array that is an image. Raises DataError that says how it becomes one."""
    if array.dtype == object:
        raise DataError(
            f"an image is a path, a PIL image or an array; got {array} (cv2.imread gives None where it fails)"
        )
    wanted = f"an image must be uint8 (H, W, 3) in R, G, B; got {array.dtype} {array.shape}"
    if cures := list(_cures(array)):
        raise DataError(f"{wanted}: {', and '.join(cures)}")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DataError(wanted)
    return array


def _cures(array: NDArray[Any]) -> Iterator[str]:
    if array.dtype.kind == "f":
        yield "give (255 * image).round().astype('uint8') of one in 0..1"
    if array.ndim == 2:
        yield "of a grey one give np.stack([image] * 3, axis=2)"
    elif array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        yield "channels come last, give image.transpose(1, 2, 0)"
    elif array.ndim == 3 and array.shape[2] == 4:
        yield "of one with alpha give Image.fromarray(image)"
