"""One noise pattern for all images: found on the source's training images, measured on queries of any target.

For measuring how robust one's own models are. A pattern is a whole number of grey levels per pixel and channel, so a
perturbed image is again an ordinary 8-bit image, and the bound holds to the last bit: after clipping to 0..255 no pixel
has moved by more than `bound` grey levels.
Shapes: N training images, B images of a batch, C identities, D features, H x W pixels.
Source: the authors' public code [A], see `reidgen.robustness.attack_losses`.
"""

import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from reidgen.data.augment import standardize, to_float
from reidgen.data.batches import Source, load_source
from reidgen.data.images import decode
from reidgen.data.manifest import load_prepared, source_digest, tested_part
from reidgen.devices import choose_device, device_name, enough_memory, memory_format
from reidgen.errors import DataError, RecipeError, unknown
from reidgen.evaluation import embed, load_network, origins_of, refuse_shared_images
from reidgen.files import replacing, write_text
from reidgen.integrity import trailer, without_trailer
from reidgen.models.network import ReIDNet
from reidgen.process import usual_settings
from reidgen.ranking import rank
from reidgen.recipe import Recipe
from reidgen.robustness.attack_losses import LOSSES
from reidgen.robustness.subject import Subject, load_subject
from reidgen.robustness.trials import CLEAN, add_trials, read_trials
from reidgen.runs import Progress, Run, now, provenance
from reidgen.seeds import stream_seed
from reidgen.synth.drawing import Dice

BOUND = 10  # grey levels of 255 [A]
BATCH = 64
EPOCHS = 100  # at most
PATIENCE = 5  # epochs without growth of the held-out effect ([A] stops at the sixth) ...
GROWTH = 0.005  # ... by so much; without it the last hundredth takes most of the time
HELD_OUT = 0.2  # of the training identities
CONTROLS = {"noise": 0, "blocks": 16}  # random signs: of every pixel; of squares, so many to the image's height
Pattern = NDArray[np.int16]  # (H, W, 3), grey levels


@dataclass(frozen=True)
class Found:
    """A pattern and how it was found: `effects` is the relative drop of the held-out mAP after each epoch.

    Held out from the search, that is: the network was trained on these people too.
    """

    pattern_HWC: Pattern
    effects: list[float]


def perturb(pixels_NHWC: NDArray[np.uint8], pattern_HWC: Pattern) -> NDArray[np.uint8]:
    """Return the images with the pattern added and clipped to 0..255, uint8; a pattern of another size is fitted.

    >>> perturb(np.array([[[[0, 100, 250]]]], np.uint8), np.array([[[-10, 10, 10]]], np.int16)).ravel().tolist()
    [0, 110, 255]
    """
    fitted = fit_pattern(pattern_HWC, *pixels_NHWC.shape[1:3])
    moved: NDArray[np.int16] = pixels_NHWC + fitted
    return moved.clip(0, 255).astype(np.uint8)


def fit_pattern(pattern_HWC: Pattern, height: int, width: int) -> Pattern:
    """Return the pattern at another size, bilinear (of which no value is beyond those around it), in whole grey levels.

    Differences from [A]: there the corners are aligned, and nothing is rounded.
    """
    if pattern_HWC.shape[:2] == (height, width):
        return pattern_HWC
    channels = torch.from_numpy(pattern_HWC).permute(2, 0, 1)[None].double()
    resized = functional.interpolate(channels, size=(height, width), mode="bilinear", align_corners=False)
    return resized[0].round().permute(1, 2, 0).to(torch.int16).numpy()


def control_pattern(name: str, *, bound: int, height: int, width: int) -> Pattern:
    """Return a pattern that knows nothing: every value is +bound or -bound, the strongest that the bound allows.

    name: "noise", each pixel and channel by itself; "blocks", each square of 1/16 of the height, which no low-pass
    filter (nor the network's own pooling) takes away as it does noise: the harder control.
    """
    squares = CONTROLS[name] or height
    side = max(1, height // squares)
    rows, columns = -(-height // side), -(-width // side)
    drawn = np.frombuffer(Dice(f"attack/{name}").noise(rows * columns * 3), np.uint8).reshape(rows, columns, 3)
    signs = (drawn % 2).astype(np.int16) * 2 - 1
    return np.ascontiguousarray(bound * signs.repeat(side, axis=0).repeat(side, axis=1)[:height, :width])


@enough_memory("attack", "use --device cpu, or attack a run of smaller height and width")
@usual_settings()
def find_pattern(
    network: ReIDNet,
    source: Source,
    *,
    loss: str,
    bound: int,
    seed: int,
    dtype: str,
    state: Path | None = None,
    report: Progress,
) -> Found:
    """Return the pattern that spoils the rankings of a trained network, found on its source's training images alone.

    A fifth of the identities is held out. The centres that stand for a gallery are those of the other identities: the
    mean of an identity's clean embeddings, normalised. Each step takes B images, adds the pattern, clips to 0..1 and
    follows the sign of the accumulated gradient (momentum 1, each gradient divided by its L1 norm) by a tenth of the
    bound, times exp(-0.01) per epoch [A]. After each epoch the pattern is rounded to grey levels and its effect
    measured: how far mAP falls among the held-out images, each a perturbed query against all the other clean ones. The
    best pattern is returned once it has not grown by GROWTH for PATIENCE epochs.
    Differences from [A]: there k-means finds 512 centres without labels (whoever trained a ReID network has the
    labels), and they are not normalised; a batch is one image, of a random size; the start is 0, where the point-wise
    loss has no slope, ours a tenth of the bound with random signs; an epoch begins with half the pattern where more
    than half of it is at the bound and that share stands still (MI_SGD.rescale), ours goes on as it is; the effect is
    that on the test sets, of a pattern that is not rounded; the sixth epoch without any growth is the last.

    network: in evaluation mode; its parameters stop asking for gradients. loss: a name of LOSSES. bound: grey levels.
    state: a file that holds the search after each epoch; one that this search left there is gone on with, another one
    ignored. On a CPU the same seed gives the same bits, however often the search was interrupted.
    """
    network.requires_grad_(False)
    device = next(network.parameters()).device
    pixels_NHWC, label_N = source.pixels_NHWC, source.label_N
    clean_ND = embed(network, pixels_NHWC.numpy(), rows_N=np.arange(len(label_N)), dtype=dtype, report=report).clone()
    chance = np.random.Generator(np.random.PCG64(stream_seed("attack", seed)))
    held = chance.permutation(source.classes)[: max(2, round(HELD_OUT * source.classes))]
    fit_N, held_N = (np.flatnonzero(np.isin(label_N, held, invert=invert)) for invert in (True, False))
    centre_CD = identity_centres(clean_ND[torch.from_numpy(fit_N).to(device)], label_N[fit_N])
    shape = pixels_NHWC.shape[1:3]
    start = torch.from_numpy(control_pattern("noise", bound=1, height=shape[0], width=shape[1]))
    delta = (start.permute(2, 0, 1)[None].float() * bound / 2550).to(device)
    asked = {"loss": loss, "bound": bound, "seed": seed, "source_data": source.digest}
    search = _Search(delta, torch.zeros_like(delta), start, [])
    if state and (left := _read_search(state, asked, device)):
        search = left
    for _ in search.effects:
        chance.permutation(fit_N)  # the orders that are used up
    limit = bound / 255
    while (epoch := len(search.effects)) < _epochs_expected(search.effects):
        order = torch.from_numpy(chance.permutation(fit_N))
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            images = to_float(pixels_NHWC[batch].to(device)).contiguous(memory_format=memory_format(device))
            gradient = pattern_gradient(
                network, images, search.delta, clean_BD=clean_ND[batch.to(device)], centre_CD=centre_CD, loss=loss
            )
            search.velocity += gradient / gradient.abs().sum().clamp_min(1e-30)
            step = limit / 10 * math.exp(-0.01 * epoch) * search.velocity.sign()
            search.delta = (search.delta - step).clamp(-limit, limit)
        pattern_HWC = (255 * search.delta[0]).round().permute(1, 2, 0).to(torch.int16).cpu()
        search.effects.append(_held_out_effect(network, source, clean_ND, held_N, pattern_HWC.numpy(), dtype=dtype))
        if search.effects[-1] == max(search.effects):
            search.best_HWC = pattern_HWC
        if state:
            _write_search(state, asked, search)
        what = f"{loss}-wise pattern, drop among trained people {100 * max(search.effects):.0f} %"
        report(what, len(search.effects), _epochs_expected(search.effects))
    return Found(np.ascontiguousarray(search.best_HWC.numpy()), search.effects)


def _epochs_expected(effects: list[float]) -> int:
    """Return after how many epochs the search ends if the effect grows no more."""
    reached = (epoch for epoch, effect in enumerate(effects, start=1) if max(effects) < effect + GROWTH)
    return min(EPOCHS, next(reached, 0) + PATIENCE)


@dataclass
class _Search:
    """Where a search stands: the pattern in 0..1 and its velocity, (1, 3, H, W); the best one yet, in grey levels."""

    delta: Tensor
    velocity: Tensor
    best_HWC: Tensor
    effects: list[float]


def _write_search(file: Path, asked: dict[str, object], search: _Search) -> None:
    buffer = io.BytesIO()  # so that a full disk meets our own write, with its clear error
    torch.save({"asked": asked, **vars(search)}, buffer)
    with replacing(file) as temporary:
        temporary.write_bytes(bytes(buffer.getbuffer()) + trailer(buffer.getbuffer()))  # torch checks no bytes


def _read_search(file: Path, asked: dict[str, object], device: torch.device) -> _Search | None:
    if not file.is_file():
        return None
    try:
        content = without_trailer(file.read_bytes())
        kept = torch.load(io.BytesIO(content or b""), map_location=device, weights_only=True)
        search = _Search(kept["delta"], kept["velocity"], kept["best_HWC"].cpu(), kept["effects"])
        return search if kept["asked"] == asked else None
    except Exception:  # torch raises anything, from UnpicklingError to IndexError, for a damaged file
        return None  # begun anew


def pattern_gradient(
    network: torch.nn.Module, images: Tensor, delta: Tensor, *, clean_BD: Tensor, centre_CD: Tensor, loss: str
) -> Tensor:
    """Return the gradient of a loss with respect to the pattern, of its shape (1, 3, H, W).

    images: float (B, 3, H, W) in 0..1; delta in the same unit; their sum is clipped to 0..1, where nothing flows.
    """
    delta = delta.detach().requires_grad_()
    features = network(standardize((images + delta).clamp(0, 1)))
    (gradient,) = torch.autograd.grad(LOSSES[loss](features, clean_BD, centre_CD), delta)
    return gradient


def identity_centres(feature_ND: Tensor, label_N: NDArray[np.int64]) -> Tensor:
    """Return the normalised mean feature of each identity, (C, D), in the order of their labels."""
    people, number_N = np.unique(label_N, return_inverse=True)
    sums = feature_ND.new_zeros((len(people), feature_ND.shape[1]))
    return functional.normalize(sums.index_add_(0, torch.from_numpy(number_N).to(sums.device), feature_ND))


def _held_out_effect(
    network: ReIDNet, source: Source, clean_ND: Tensor, held_N: NDArray[np.int64], pattern: Pattern, *, dtype: str
) -> float:
    """Return 1 - mAP / clean mAP. Every image gets a camera of its own, so that only itself is left
    out of its ranking.
    """
    images = perturb(source.pixels_NHWC[torch.from_numpy(held_N)].numpy(), pattern)
    query_QD = embed(network, images, rows_N=np.arange(len(images)), dtype=dtype, report=lambda what, done, of: None)
    gallery_GD = clean_ND[torch.from_numpy(held_N).to(clean_ND.device)]
    pid, camid = torch.from_numpy(source.label_N[held_N]), torch.arange(len(held_N))
    clean, attacked = (
        rank(side, gallery_GD, pid_Q=pid, pid_G=pid, camid_Q=camid, camid_G=camid).mAP
        for side in (gallery_GD, query_QD)
    )
    return 1 - attacked / clean


def load_pattern(
    run: Run, loss: str, *, bound: int = BOUND, data: Path, device: str = "auto", report: Progress
) -> Pattern:
    """Return the run's pattern for a loss and bound, found on the first call; an interrupted search goes on.

    It is kept in <run>/attack/<loss>-<bound>.safetensors (tensor `pattern`, int16 (H, W, 3), grey levels), .png (a
    view: grey is 0, black and white are the bound, four times as large) and .json, the proof, which says how it was
    found (`held_out_drop`: after each epoch, among people held out from the search, not from the network's training).
    Until then <loss>-<bound>.state.pt holds the search.
    """
    recipe, place = run.recipe(), run.folder / "attack" / f"{loss}-{bound}"
    tensor, proof, view, state = (place.with_suffix(end) for end in (".safetensors", ".json", ".png", ".state.pt"))
    asked = {"loss": loss, "bound": bound, "seed": recipe.seed, "source_data": _source_data(run, data)}
    if (kept := _kept_pattern(tensor, proof, asked)) is not None:
        try:
            decode(view)
        except DataError:
            with run.lock():
                _write_view(view, kept, bound)
        return kept
    network, source = load_network(run, choose_device(device)), load_source(recipe, data=data, report=report)

    def told(what: str, done: int, total: int) -> None:
        run.check_hold()  # the search keeps its state behind this
        report(f"{_name(run)}: {what}", done, total)

    with run.lock():
        found = find_pattern(
            network, source, loss=loss, bound=bound, seed=recipe.seed, dtype=recipe.dtype, state=state, report=told
        )
        run.check_hold()
        with replacing(tensor) as temporary:
            save_file({"pattern": torch.from_numpy(found.pattern_HWC)}, temporary)
        _write_view(view, found.pattern_HWC, bound)
        facts = {
            **asked,
            "digest": digest_of(found.pattern_HWC),
            "held_out_drop": [round(effect, 4) for effect in found.effects],
            **provenance(),
            "torch": torch.__version__,
            "device": device_name(choose_device(device)),
            "date": now(),
        }
        write_text(proof, json.dumps(facts, indent=1) + "\n")
        state.unlink(missing_ok=True)
    return found.pattern_HWC


def _source_data(run: Run, data: Path) -> str:
    """Return 8 digits that stand for the source as prepared here; of a run from elsewhere, as trained on."""
    try:
        return source_digest(run.recipe(), data=data)[:8]
    except DataError:
        return str(run.facts()["source_data"])[:8]


def _kept_pattern(tensor: Path, proof: Path, asked: dict[str, object]) -> Pattern | None:
    if not (tensor.is_file() and proof.is_file()):  # a pipe would be waited for
        return None
    try:
        facts = json.loads(proof.read_text(encoding="utf-8"))
        pattern: Pattern = load_file(tensor)["pattern"].numpy()
        return pattern if facts == {**facts, **asked, "digest": digest_of(pattern)} else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None  # found again


def _write_view(view: Path, pattern_HWC: Pattern, bound: int) -> None:
    with replacing(view) as temporary:
        grey = np.rint(127.5 + pattern_HWC * (127.5 / bound)).astype(np.uint8)
        enlarged = (4 * grey.shape[1], 4 * grey.shape[0])
        Image.fromarray(grey).resize(enlarged, Image.Resampling.NEAREST).save(temporary, "PNG")


def digest_of(pattern_HWC: Pattern) -> str:
    """Return 8 hex digits that stand for a pattern's size and values."""
    return hashlib.sha256(repr(pattern_HWC.shape).encode() + pattern_HWC.tobytes()).hexdigest()[:8]


def attack(
    run: Run,
    targets: Sequence[str],
    *,
    makers: Sequence[Run] = (),
    losses: Sequence[str] = tuple(LOSSES),
    bound: int = BOUND,
    data: Path,
    device: str = "auto",
    report: Progress,
) -> pd.DataFrame:
    """Return the rows of a run on targets whose queries carry a pattern, and write them into its attack.csv.

    The gallery stays clean. Patterns: none, both controls, and for each loss the one of every run in `makers` (by
    default of the run itself), at the run's size. bound: 1 to 255 grey levels. Only what is missing is found and
    measured. Raises RecipeError for an unknown loss or a bound out of range, RunError for a run or maker that is not
    finished, and what `evaluate` raises. What needs no long work to be refused is refused before any.
    """
    for loss in losses:
        if loss not in LOSSES:
            raise RecipeError(unknown("loss", loss, LOSSES))
    if not 1 <= bound <= 255:
        raise RecipeError(f"the bound must be 1 to 255 grey levels; got {bound}")
    for one in (run, *makers):
        one.facts()
    recipe, file = run.recipe(), run.folder / "attack.csv"
    digests = {}
    for target in targets:
        prepared = load_prepared(target, data)
        refuse_shared_images(origins_of(run.facts()), prepared, tested_part(prepared), data=data)
        digests[target] = prepared.digest[:8]
    size = {"height": recipe.height, "width": recipe.width}
    patterns: dict[tuple[str, str, str], Pattern] = {(CLEAN, "", ""): np.zeros((*size.values(), 3), np.int16)}
    for name in CONTROLS:
        patterns[name, "", ""] = control_pattern(name, bound=bound, **size)
    for maker in makers or [run]:
        for loss in losses:
            who = (_name(maker), _method_beside(maker, recipe))
            patterns[loss, *who] = load_pattern(maker, loss, bound=bound, data=data, device=device, report=report)
    key = ["pattern", "maker", "bound", "pattern_digest"]
    frames = []
    for target, digest in digests.items():

        def measured(target: str = target, digest: str = digest) -> pd.DataFrame:
            rows = read_trials(file, "attack")
            return rows[(rows["target"] == target) & (rows["data"] == digest)]

        wanted = {
            (name, maker, bound, digest_of(pattern)): (method, pattern)
            for (name, maker, method), pattern in patterns.items()
        }
        if wanted.keys() - set(measured()[key].itertuples(index=False, name=None)):
            subject = load_subject(run, target, data=data, device=device, report=report)
            clean = subject.score(subject.clean_ND, subject.clean_ND)
            with run.lock():
                done = set(measured()[key].itertuples(index=False, name=None))
                todo = [(cell, *rest) for cell, rest in wanted.items() if cell not in done]
                for number, (cell, method, pattern) in enumerate(todo, start=1):
                    rows = _measure(subject, pattern) if pattern.any() else clean
                    drop = 1 - rows["mAP"] / clean["mAP"]
                    rows = rows.assign(maker_method=method, own=int(cell[1] == _name(run)), drop=drop)
                    rows[key] = cell
                    run.check_hold()
                    add_trials(file, rows, "attack")
                    report(f"{target}: {cell[0]}", number, len(todo))
        rows = measured()
        frames.append(rows[[cell in wanted for cell in rows[key].itertuples(index=False, name=None)]])
    return pd.concat(frames, ignore_index=True)


def _measure(subject: Subject, pattern: Pattern) -> pd.DataFrame:
    query_ND = subject.embed_changed("query", lambda images, numbers: perturb(images, pattern))
    return subject.score(query_ND, subject.clean_ND)


def _name(run: Run) -> str:
    return f"{run.recipe().source}/{run.folder.name}"


def _method_beside(maker: Run, victim: Recipe) -> str:
    """Return the maker's method, with its backbone and source where they are not the victim's."""
    recipe, words = maker.recipe(), maker.method().label
    if recipe.backbone != victim.backbone:
        words += f" on {recipe.backbone}"
    return words if recipe.source == victim.source else f"{words} of {recipe.source}"
