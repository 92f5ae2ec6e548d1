"""A backbone and its weights: where published ones come from, how a file is read, and how its names are mapped."""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.parse import urldefrag, urlsplit

import safetensors.torch
import torch
from torch import Tensor

from reidgen.contracts import Backbone
from reidgen.data.download import download
from reidgen.entries import Archive
from reidgen.errors import DataError, RecipeError, WeightsError
from reidgen.files import sha256_file, weight_file
from reidgen.locks import hold
from reidgen.parts import BackboneRow
from reidgen.registry import blaming, load_class

PREFIXES = ("module.", "base.", "backbone.", "encoder_q.", "model.")  # of networks that hold this one as a part
WRAPPERS = ("state_dict", "model")  # keys of files that hold more than a state dict
ELSE = "fetch the file elsewhere and give it with --weights FILE, or train from scratch with --weights none"

log = logging.getLogger("reidgen")  # prints warnings on stderr


class Loaded(NamedTuple):
    """What a backbone started from: `origin` in words, "" for random weights; `unused`: keys that it has no place
    for."""

    origin: str = ""
    unused: tuple[str, ...] = ()


def build_backbone(
    row: BackboneRow, *, weights: str = "none", size: tuple[int, int] = (256, 128)
) -> tuple[Backbone, Loaded]:
    """Return the backbone of a row of BACKBONES with its weights loaded, and what was loaded.

    weights: "imagenet" (what the backbone's `imagenet` names, see `load_published`), "none", or the file of a state
    dict: the published names or this network's own, also behind a prefix or inside a wrapper, see `read_state_dict`.
    size: height and width of the images, for a backbone that must know them.
    Raises WeightsError when the file is missing, unreadable, or does not fit (the keys are named), RecipeError for a
    backbone without ImageNet weights, or of a size that it cannot take.
    """
    build = load_class(row.build, row.digest)
    if not issubclass(build, Backbone):
        raise RecipeError(f"backbone {row.name}: {row.build} is no reidgen.contracts.Backbone")
    try:
        with blaming():
            backbone: Backbone = build(**row.params, **({"size": size} if build.sized else {}))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"the backbone {row.name} cannot be built: {error}") from error
    if weights == "none":
        return backbone, Loaded()
    if weights == "imagenet":
        if not backbone.imagenet:
            raise RecipeError(f"backbone {row.name} has no ImageNet weights; use --weights none")
        return backbone, load_published(backbone)
    return backbone, load_file(backbone, Path(weights))


def load_published(backbone: Backbone) -> Loaded:
    """Load the weights that the backbone's `imagenet` names.

    They come from the backbone's own `published`, from an address (see `fetch`), or from torchvision, checked by its
    hash. Raises WeightsError when they cannot be had or do not fit.
    """
    name = backbone.imagenet
    if (own := backbone.published()) is not None:
        return Loaded(name, load_weights(backbone, own, name))
    if "://" in name:
        file, proof = fetch(name)
        return Loaded(f"{file.name} ({proof})", load_weights(backbone, read_state_dict(file), str(file)))
    from torchvision.models import get_weight  # for a second; those without its weights need it not

    try:
        state: Mapping[str, Tensor] = get_weight(name).get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(f"could not download {name} ({error}); {ELSE}") from error
    return Loaded(name, load_weights(backbone, state, name))


def load_file(backbone: Backbone, path: Path) -> Loaded:
    """Load the weights of a file. Raises WeightsError as `read_state_dict` and `load_weights` do."""
    return Loaded(path.name, load_weights(backbone, read_state_dict(path), str(path)))


def fetch(address: str) -> tuple[Path, str]:
    """Return the file of an address, and in words how it is known to be the right one; downloaded where it is not yet.

    address: of a file, or of Google Drive; behind a "#" the file's name, where the address does not end in it. The file
    lies where torch.hub keeps its own, and is whole or absent. One whose name ends in hex digits ("net-d9d0bb7b.pth")
    must have a SHA-256 that begins so, as torch.hub has it, each time it is used; of another, the SHA-256 is said, and
    that there is none to compare it with.
    Raises WeightsError when it cannot be had, or is another file.
    """
    url, name = urldefrag(address)
    name = name or urlsplit(url).path.rpartition("/")[2]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / name
    try:
        if not file.is_file():
            _download(url, file)
        return file, _proof(file, name)
    except DataError as error:
        raise WeightsError(f"{error}; it lies at {url}: {ELSE}") from error
    except OSError as error:
        raise WeightsError(f"cannot use {error.filename or file}: {error.strerror or error}; {ELSE}") from error


def _download(url: str, file: Path) -> None:
    """Download the file, in a folder beside its place until it is known to be right; several processes may want it."""
    aside = file.parent / f".{file.name}"
    with hold(aside):
        if not file.is_file():
            came = download(Archive(file=file.name, urls=(url,)), aside, say=log.warning)
            log.warning("%s: %s", file.name, _proof(came, file.name))
            came.replace(file)


def _proof(file: Path, name: str) -> str:
    """Return how the file is known to be the right one. Raises WeightsError, and removes it, when it is not."""
    digest, published = sha256_file(file), re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", name)
    if not published:
        return f"SHA-256 {digest}, unverified: no hash is published"
    if not digest.startswith(published[1]):
        file.unlink()
        raise WeightsError(
            f"{name} has SHA-256 {digest[:16]}..., published is {published[1]}...; it was removed: try again, or {ELSE}"
        )
    return f"SHA-256 {digest}, as published"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file or a torch file, read without executing anything.

    A state dict inside a checkpoint, under "state_dict" or "model", is found.
    Raises WeightsError when the file is missing, is no weight file, or holds something else than named tensors.
    """
    weight_file(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler meets bytes that mean anything
        raise WeightsError(
            f"{path} is no weight file that can be loaded safely; it must hold a state dict saved by torch, or be "
            ".safetensors"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise WeightsError(f"{path} holds no state dict (names and tensors); save model.state_dict() alone")
    return dict(state)


def load_weights(backbone: Backbone, state: Mapping[str, Tensor], where: str) -> tuple[str, ...]:
    """Load a state dict into a backbone that no row has changed yet, and return the keys that were not used.

    Every tensor of the backbone must be there, in its shape (or one that its `fit` can bring to it), under the
    published names or the backbone's own; the count of batches that a BatchNorm2d has seen may be missing. A prefix
    that all of them share (PREFIXES, also several) is taken off. A key that lies inside the backbone but that it lacks,
    as a further block, is a fault too, unless the backbone `leaves_out` such.
    Raises WeightsError, naming keys.
    """
    own = backbone.state_dict()
    prefix, names = _reading(backbone, own, state)
    found = dict(backbone.fit({key: state[name] for key, name in names.items() if name in state}))
    missing = [name for key, name in names.items() if key not in found and not key.endswith("num_batches_tracked")]
    unused = sorted(set(state) - set(names.values()))
    roots = {prefix + name.removeprefix(prefix).partition(".")[0] + "." for name in names.values()}
    left_out = tuple(prefix + one for one in backbone.leaves_out)
    extra = [key for key in unused if key.startswith(tuple(roots)) and not key.startswith(left_out)]
    wrong = [
        f"{names[key]} has {tuple(tensor.shape)}, the network {tuple(own[key].shape)}"
        for key, tensor in found.items()
        if tensor.shape != own[key].shape
    ]
    if missing or extra or wrong:
        faults = [
            f"{what} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
            for what, keys in (("lacks", missing), ("has the unknown", extra), ("differs in shape:", wrong))
            if keys
        ]
        raise WeightsError(f"{where} does not fit this backbone: it {'; it '.join(faults)}")
    backbone.load_state_dict(found, strict=False)
    return tuple(unused)


def _reading(backbone: Backbone, own: Iterable[str], state: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
    """Return the prefix and, by the backbone's own names, the names in a state dict, by which most of it is read."""
    readings = [
        (prefix, {key: prefix + name for key, name in names.items()})
        for names in ({key: _published(key, backbone) for key in own}, {key: key for key in own})
        for prefix in _prefixes(state)
    ]
    return max(readings, key=lambda reading: sum(name in state for name in reading[1].values()))


def _published(key: str, backbone: Backbone) -> str:
    """Return the name that weight files have for a tensor of the backbone."""
    for ours, theirs in backbone.renames:
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Return what may stand before every name of a network in this state dict: nothing, or PREFIXES
    after each other.
    """
    found = [""]
    for prefix in found:
        found += [
            prefix + one
            for one in PREFIXES
            if prefix.count(".") < 3 and any(key.startswith(prefix + one) for key in state)
        ]
    return found
