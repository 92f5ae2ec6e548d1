"""A trained run as one file that runs without reidgen: pixels in, unit embeddings out, verified before it is kept."""

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reidgen.contracts import IMAGENET_MEAN, IMAGENET_STD
from reidgen.data.images import decode, file_of
from reidgen.data.manifest import load_index, load_prepared, prepared_names
from reidgen.errors import DataError, ReidgenError, RunError, unknown
from reidgen.escapes import many
from reidgen.evaluation import load_network
from reidgen.files import replacing
from reidgen.models.inputs import METADATA, Input
from reidgen.models.network import ReIDNet
from reidgen.runs import Run, provenance
from reidgen.synth.domains import draw_image

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
PIXELS = ("float", "uint8")
OPSET = 18  # of ONNX: the first in which Resize averages when it shrinks, as Pillow does
TOLERANCE = 1e-4  # of 1 - cosine, between what the file makes and what PyTorch makes
IMAGES = 48  # that a file is verified on
TRACED = 3  # images that it is traced with; verified on other numbers of them
Embed = Callable[[NDArray[Any]], NDArray[np.float32]]  # (B, 3, H, W) -> (B, D)


class Deployed(nn.Module):
    """The network of a run as it is exported: pixels in, unit embeddings out.

    forward: (B, 3, H, W), R, G, B, float32 in 0..1, or uint8 where `pixels` is "uint8"; of any size where `size` is
    given, which is resized inside then (bilinear, averaging when it shrinks) -> float32 (B, D), L2-normalised.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: ReIDNet, *, pixels: str, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.network, self.pixels, self.size = network, pixels, size
        for name, three in (("mean", IMAGENET_MEAN), ("deviation", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(three).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if self.pixels == "uint8":
            images = images.float() / 255
        if self.size is not None:
            images = functional.interpolate(images, self.size, mode="bilinear", antialias=True).clamp(0, 1)
        images = (images - self.mean) / self.deviation  # as `ReIDNet.prepare`, whose cache must not meet a trace
        return functional.normalize(self.network.describe(images), dim=1)


@dataclass(frozen=True)
class Exported:
    """What `export` wrote. difference: the largest 1 - cosine from PyTorch; verified_on: which images, in words.

    resized: the same from embeddings as `evaluate` makes them, where the file resizes inside, else None. speed: images
    a second that the file embedded while it was verified, on `device`.
    """

    file: Path
    format: str
    difference: float
    verified_on: str
    images: int
    resized: float | None
    speed: float
    device: str
    facts: dict[str, Any]


class Checked(NamedTuple):
    """Images that a file is verified on: uint8 (H, W, 3) each, as they are; what they are, in words."""

    pictures: list[NDArray[np.uint8]]
    words: str


def export(
    run: Run,
    out: Path,
    *,
    format: str = "onnx",
    pixels: str = "float",
    resize: bool = False,
    data: Path,
) -> Exported:
    """Write a finished run into one file, once it is verified against PyTorch on real images.

    format: "onnx", or "torch" (a torch.export program, .pt2). pixels: "float" (0..1) or "uint8". resize: whether images
    of any size are resized inside. Batches are of any size. An ONNX file holds in its metadata, under "reidgen", what
    `reidgen evaluate --model` reads. The network is that of the CPU, in float32.
    Images: of the test part of a set that is prepared below `data`, of another than the sources where there is one,
    else drawn ones.
    Raises RunError when the largest 1 - cosine exceeds TOLERANCE, or the run's network cannot be exported: nothing is
    kept then; ReidgenError for a package that is missing, and an `out` that cannot be written.
    """
    for kind, word, known in (("format", format, FORMATS), ("pixels", pixels, PIXELS)):
        if word not in known:
            raise RunError(unknown(kind, word, [*known, *(["hub"] if kind == "format" else [])]))
    if out.suffix != FORMATS[format]:
        raise RunError(f"--out {out}: a file of the format {format} ends in {FORMATS[format]}; name it so")
    _require(format)
    recipe = run.recipe()
    network = load_network(run, torch.device("cpu"))
    network.to(memory_format=torch.contiguous_format)  # torch.export.save knows no other
    deployed = Deployed(network.requires_grad_(False), pixels=pixels, size=recipe.size if resize else None).eval()
    form = Input(recipe.height, recipe.width, range=255 if pixels == "uint8" else 1, output="embeddings")
    facts = facts_of(run, network, form, resize=resize, format=format)
    checked = pictures_of(run, data)
    write = {"onnx": _write_onnx, "torch": _write_torch}[format]
    with replacing(out) as temporary:
        embed = write(deployed, temporary, facts, recipe.size)
        difference, speed = verify(deployed, embed, checked.pictures, size=None if resize else recipe.size)
        if not difference <= TOLERANCE:
            raise RunError(
                f"{out} was not kept: it differs from PyTorch by up to {difference:.2g} in cosine on {checked.words}, "
                f"and {TOLERANCE:g} is allowed"
            )
        resized = _from_evaluate(network, embed, checked.pictures, pixels, recipe.size) if resize else None
    threads = torch.get_num_threads()
    device = f"CPU, {many(threads, 'thread')}"
    return Exported(out, format, difference, checked.words, len(checked.pictures), resized, speed, device, facts)


def facts_of(run: Run, network: ReIDNet, form: Input, *, resize: bool, format: str) -> dict[str, Any]:
    """Return what an exported file says of itself: how it wants its images, and where it comes from."""
    recipe, facts, method = run.recipe(), run.facts(), run.method()
    return {
        "input": form.facts(),
        "resize": resize,
        "dim": network.dim,
        "run": f"{recipe.source}/{run.folder.resolve().name}",
        "method": method.label,
        "title": method.full_title,
        "backbone": recipe.backbone,
        "recipe": recipe.name,
        "hash": facts["hash"],
        "row": method.digest,
        "seed": recipe.seed,
        "sources": facts["sources"],
        "weights_sha256": facts["weights_sha256"],
        "trained_by": facts["version"],
        "exported_by": provenance(),
        "torch": torch.__version__,
        **({"opset": OPSET} if format == "onnx" else {}),
    }


def _require(format: str) -> None:
    """Raise ReidgenError where a package is missing that the format needs."""
    if format != "onnx":
        return
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ReidgenError(
            f'an ONNX file needs {error.name}, which is not installed; to get it: pip install "reidgen[export]"'
        ) from error


def _example(deployed: Deployed, size: tuple[int, int]) -> Tensor:
    """Return images that the network is traced with; drawn at random, as a constant image has no deviation."""
    sides = (size[0] + 16, size[1] + 8) if deployed.size else size
    images = torch.rand(TRACED, 3, *sides, generator=torch.Generator().manual_seed(0))
    return (255 * images).to(torch.uint8) if deployed.pixels == "uint8" else images


def _traced(deployed: Deployed, size: tuple[int, int]) -> "torch.export.ExportedProgram":
    """Return the network as a program. Raises RunError when a part of it cannot be traced."""
    sides = {0: torch.export.Dim("batch")}
    if deployed.size:
        sides |= {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                deployed, (_example(deployed, size),), dynamic_shapes={"images": sides}, strict=False
            )
    except Exception as error:  # whatever the code of a part meets
        raise _untraceable(error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # the folders of this machine, which would stand in the file
    return program


def _untraceable(error: Exception) -> RunError:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return RunError(
        f"the network cannot be exported: {line[:200]}; a part of its row or backbone does what the "
        "exporter cannot follow"
    )


def _unwritten(error: Exception) -> RunError:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return RunError(
        f"the exported file cannot be written or read again: {line[:200]}; free some space, choose another --out, or "
        "another --format"
    )


def _write_onnx(deployed: Deployed, file: Path, facts: dict[str, Any], size: tuple[int, int]) -> Embed:
    program = _traced(deployed, size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["embeddings"],
                verbose=False,
            )
    except Exception as error:  # the exporter's own kinds
        raise _untraceable(error) from error
    assert made is not None
    made.model.metadata_props[METADATA] = json.dumps(facts)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        made.save(str(file), external_data=False)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except OSError:
        raise  # of the disk, which `replacing` says
    except Exception as error:  # onnx's and onnxruntime's own kinds
        raise _unwritten(error) from error
    return lambda images: np.asarray(session.run(["embeddings"], {"images": images})[0], dtype=np.float32)


def _write_torch(deployed: Deployed, file: Path, facts: dict[str, Any], size: tuple[int, int]) -> Embed:
    program = _traced(deployed, size)
    named = file.with_suffix(FORMATS["torch"])  # torch.export.save insists on the suffix
    try:
        torch.export.save(program, named, extra_files={f"{METADATA}.json": json.dumps(facts)})
        read = torch.export.load(named).module()
        if named != file:
            named.replace(file)
    except OSError:
        raise  # of the disk, which `replacing` says
    except Exception as error:  # torch's own kinds, for a full disk too
        raise _unwritten(error) from error
    finally:
        if named != file:
            named.unlink(missing_ok=True)

    def embed(images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = read(torch.from_numpy(images)).numpy()
        return found

    return embed


def pictures_of(run: Run, data: Path) -> Checked:
    """Return the images that a file is verified on: real ones where a set is prepared, else drawn ones."""
    sources = {one["name"] for one in run.facts()["sources"]}
    names = sorted(prepared_names(data), key=lambda name: (name in sources, name))
    for name in names:
        try:
            prepared = load_prepared(name, data)
            index = load_index(prepared)
            tested = index[index["part"] != "train"].drop_duplicates("path").sort_values("sha256")
            paths = tested["path"].tolist()[:IMAGES]
            found = [np.asarray(decode(file_of(prepared.root, path))[0]) for path in paths]
        except DataError:
            continue  # damaged, or its images are gone: another will do
        if found:
            return Checked(found, f"{len(found)} images of {name}")
    drawn = [np.asarray(draw_image("plaza", number % 12, camera=1 + number % 2)) for number in range(IMAGES)]
    return Checked(drawn, f"{IMAGES} drawn images, as no data set is prepared")


def verify(
    deployed: Deployed, embed: Embed, pictures: Sequence[NDArray[np.uint8]], *, size: tuple[int, int] | None
) -> tuple[float, float]:
    """Return the largest 1 - cosine between a file's embeddings and PyTorch's, and the file's images a second.

    size: to which images are resized before; None: they are given as they are, those of one size together. Batches are
    of one image and of many.
    """
    worst, seconds, images = 0.0, 0.0, 0
    for batch in _batches(pictures, size):
        given = batch if deployed.pixels == "uint8" else (batch / np.float32(255)).astype(np.float32)
        with torch.inference_mode():
            expected = deployed(torch.from_numpy(given)).double().numpy()
        started = time.perf_counter()
        found = embed(given).astype(np.float64)
        seconds, images = seconds + time.perf_counter() - started, images + len(batch)
        if found.shape != expected.shape or not np.isfinite(found).all():
            return float("inf"), 0.0
        length = np.linalg.norm(found, axis=1)
        cosine = (found * expected).sum(1) / np.maximum(length * np.linalg.norm(expected, axis=1), 1e-12)
        worst = max(worst, float((1 - cosine).max()), float(np.abs(length - 1).max()))
    return worst, images / max(seconds, 1e-9)


def _batches(pictures: Sequence[NDArray[np.uint8]], size: tuple[int, int] | None) -> list[NDArray[np.uint8]]:
    """Return uint8 (B, 3, H, W): the first image alone, then all of each size together."""
    images = [_resized(picture, size) if size else picture for picture in pictures]
    groups: dict[tuple[int, ...], list[NDArray[np.uint8]]] = {}
    for image in images[1:]:
        groups.setdefault(image.shape, []).append(image)
    stacks = [images[:1], *groups.values()]
    return [np.ascontiguousarray(np.stack(one).transpose(0, 3, 1, 2)) for one in stacks]


def _resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = size
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def _from_evaluate(
    network: ReIDNet, embed: Embed, pictures: Sequence[NDArray[np.uint8]], pixels: str, size: tuple[int, int]
) -> float:
    """Return the largest 1 - cosine between a file that resizes inside and what `evaluate` embeds.

    Pillow rounds to whole grey levels when it resizes, the file does not.
    """
    worst = 0.0
    outside = Deployed(network, pixels="uint8", size=None).eval()
    for picture in pictures:
        whole = np.ascontiguousarray(picture.transpose(2, 0, 1)[None])
        found = embed(whole if pixels == "uint8" else (whole / np.float32(255)).astype(np.float32))
        small = np.ascontiguousarray(_resized(picture, size).transpose(2, 0, 1)[None])
        with torch.inference_mode():
            expected = outside(torch.from_numpy(small)).numpy()
        worst = max(worst, float(1 - (found * expected).sum()))
    return worst
