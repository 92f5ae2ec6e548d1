"""How fast this machine trains, embeds and ranks, each against its own limit, measured in the same run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from reidgen.data.augment import augment, draw_augmentation, standardize
from reidgen.data.batches import Source, epoch_batches
from reidgen.devices import choose_device, memory_format
from reidgen.errors import RecipeError
from reidgen.evaluation import batch_on, embed
from reidgen.graphs import WARM
from reidgen.models.network import check_recipe
from reidgen.ranking import rank
from reidgen.recipe import Recipe
from reidgen.runs import Progress, Run
from reidgen.training import Trainer

FEW = 32  # images at a time that show a CPU's pace
SECONDS, SLOW = 1.0, 5.0  # how long each thing is repeated, and what takes too long for that
MATRIX, MATRIX_CPU = 8192, 2048  # rows of the square matrices of the product, on an accelerator and on a CPU
COPY_BYTES = 256 << 20
QUERIES, GALLERY, PER_PERSON = 200, 19_281, 20  # Market-1501's gallery


@dataclass(frozen=True)
class Speed:
    """One measured speed. limit: the same unit, what the machine's matrix product alone would allow (of "batches": its
    copy); None where the row is a limit itself. data: the share of a training step that is spent on its batch, a
    fraction. parameters: of the network without its classifier."""

    what: str
    method: str
    value: float
    unit: str
    limit: float | None = None
    data: float | None = None
    parameters: int | None = None


def kinds_of(recipe: Recipe, *, methods: Sequence[str], backbones: Sequence[str]) -> tuple[list[Recipe], list[str]]:
    """Return the recipe with each method on each backbone, and a sentence for each pair that has no meaning.

    Raises RecipeError for an unknown name, or where no pair is left.
    """
    kinds, refused = list[Recipe](), list[str]()
    for kind in (recipe.change(backbone=body, method=name).known() for body in backbones for name in methods):
        try:
            check_recipe(kind)
            kinds.append(kind)
        except RecipeError as error:
            refused.append(str(error))
    if not kinds:
        raise RecipeError(refused[0])
    return kinds, refused


def speed(kinds: Sequence[Recipe], *, device: str = "auto", report: Progress) -> list[Speed]:
    """Measure training and embedding by each recipe, and ranking; needs no data set and writes nothing.

    kinds: one or more recipes that differ in method and backbone alone, see `kinds_of`.

    The pixels are noise, the weights random: neither changes the time. Each row is the best of repeated runs after one
    to warm up. The limit of a row is the speed at which this machine, in the same run, multiplies large float32 (or
    bfloat16) matrices, divided by the floating point operations that PyTorch counts in the work (convolutions and
    products, forward and backward); pooling, normalization, losses and memory traffic make up the difference. Batches
    (drawn, read, augmented) read a byte and write a float32 per value: their limit is the speed of a large copy.
    Raises RecipeError for an unknown device.
    """
    place, kinds = choose_device(device), [kind.change(weights="none", source="synth-plaza") for kind in kinds]
    recipe, several = kinds[0], len({kind.backbone for kind in kinds}) > 1
    steps = 3 + 2 * len(kinds)
    report("speed: matrix product and copy", 0, steps)
    flops, copied = matrix_product(place, recipe.dtype), copy(place)
    rows = [
        Speed("matrix product", recipe.dtype, flops / 1e9, "GFLOP/s"),
        Speed("copy", "", copied / 1e9, "GB/s"),
    ]
    source, features = noise(recipe), 0
    data, moved = batches(recipe, source, place), 5 * 3 * recipe.height * recipe.width
    rows.append(Speed("batches", "", recipe.batch / data, "images/s", copied / moved))
    for number, kind in enumerate(kinds):
        name = f"{kind.method}, {kind.backbone}" if several else kind.method
        report(f"speed: {name}", 2 + 2 * number, steps)
        trainer = Trainer(kind, source, Run(Path("none")), place)
        features = trainer.network.backbone.dim
        rows += [training(name, trainer, flops, data), embedding(name, trainer, flops)]
    report("speed: ranking", steps - 1, steps)
    return [*rows, ranking(features, place)]


def pace(recipe: Recipe, *, device: str) -> tuple[float, float]:
    """Return how many images a second this machine trains and embeds with a recipe, measured on noise
    for some seconds: on a CPU with a few images at a time, which are as fast there as many.
    """
    place, recipe = choose_device(device), recipe.change(weights="none", source="synth-plaza", compile=False)
    if place.type == "cpu":
        recipe = recipe.change(identities=min(recipe.identities, max(2, FEW // recipe.images)))
    trainer = Trainer(recipe, noise(recipe), Run(Path("none")), place)
    pixels, images_B = trainer.source.packs[0], np.arange(recipe.batch)
    images_BHWC = trainer.source.read(images_B).to(place)
    trainer.network.train()
    training = recipe.batch / seconds(lambda: trainer.learn(images_BHWC, images_B), place)
    network, rows_N = trainer.network.eval(), np.arange(min(len(pixels), batch_on(place)))

    def run() -> Tensor:
        return embed(network, pixels, rows_N=rows_N, dtype=recipe.dtype, report=lambda what, done, total: None)

    return training, len(rows_N) / seconds(run, place)


def table(rows: Sequence[Speed]) -> str:
    """Return the rows as aligned text, one line each below a line of titles."""
    lines = [("", "", "measured", "", "limit", "of limit", "data", "parameters")]
    for row in rows:
        of_limit = f"{row.value / row.limit:.0%}" if row.limit else ""
        data = f"{row.data:.1%}" if row.data is not None else ""
        limit = f"{row.limit:,.1f}" if row.limit else ""
        parameters = f"{row.parameters:,}" if row.parameters is not None else ""
        lines.append((row.what, row.method, f"{row.value:,.1f}", row.unit, limit, of_limit, data, parameters))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = (0, 1, 3)
    return "\n".join(
        "  ".join(
            c.ljust(w) if n in left else c.rjust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Return the best time of `action` after one run to warm up, the device's queue emptied before and after each.

    It runs for SECONDS and three times at least; what takes longer than SLOW, once, and not to warm up.
    """
    taken: list[float] = []
    began = time.perf_counter()
    action()
    _wait(device)
    if (first := time.perf_counter() - began) > SLOW:
        return first
    while len(taken) < 3 or sum(taken) < SECONDS:
        _wait(device)
        began = time.perf_counter()
        action()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return min(taken)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def matrix_product(device: torch.device, dtype: str) -> float:
    """Return the floating point operations per second of a large product, in TF32 where convolutions use it."""
    rows = MATRIX_CPU if device.type == "cpu" else MATRIX
    left, right = (torch.rand(rows, rows, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(left)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if torch.backends.cudnn.allow_tf32 else "highest")
    try:
        return 2 * rows**3 / seconds(lambda: torch.mm(left, right, out=out), device)
    finally:
        torch.set_float32_matmul_precision(before)


def copy(device: torch.device) -> float:
    """Return the bytes per second that a large copy reads and writes."""
    left = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    right = torch.ones_like(left)
    return 2 * COPY_BYTES / seconds(lambda: right.copy_(left), device)


def counted() -> FlopCounterMode:
    """Return PyTorch's counter of floating point operations, which takes the backward pass of a convolution in groups
    (depthwise, as MobileNetV2 and OSNet have them) for that of one without; here it does not.
    """
    mapping = {torch.ops.aten.convolution_backward: _backward}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _backward(grad: list[int], x: list[int], weight: list[int], *more: Any, **_: object) -> int:
    """Return the operations of a convolution's backward pass: the forward's for each gradient, input's and weight's."""
    transposed, asked = more[4], more[7]
    return int(conv_flop_count(x, weight, grad, transposed=transposed)) * sum(map(bool, asked[:2]))


def noise(recipe: Recipe) -> Source:
    """Return a source of noise: four batches' worth of identities, each with as many images as a batch takes."""
    classes = 4 * recipe.identities
    label_N = np.repeat(np.arange(classes), recipe.images)
    zero_N = np.zeros_like(label_N)
    pixels = np.random.default_rng(0).integers(0, 256, (len(label_N), recipe.height, recipe.width, 3), dtype=np.uint8)
    return Source(
        (pixels,), np.arange(len(label_N)), label_N, zero_N, zero_N, classes=classes, single=0, digest="", origins=()
    )


def batches(recipe: Recipe, source: Source, device: torch.device) -> float:
    """Return the seconds that a batch takes before the network: drawn, read from the device's memory, augmented."""
    recipe = recipe.change(batches_per_epoch=4)
    pixels_NHWC, index_B = source.pixels_on(device), torch.arange(recipe.batch)

    def draw() -> None:
        drawn = draw_augmentation(recipe, step=0).to(device, non_blocking=True)
        pixels_BHWC = pixels_NHWC[index_B.to(device, non_blocking=True)]
        standardize(augment(pixels_BHWC, drawn, recipe)).contiguous(memory_format=memory_format(device))

    order = seconds(lambda: epoch_batches(source.label_N, source.domain_N, recipe=recipe, epoch=0), device) / 4
    return order + seconds(draw, device)


def training(name: str, trainer: Trainer, flops: float, data: float) -> Speed:
    """Return the speed of training steps; flops: of the matrix product, data: the seconds that a batch takes.

    On a GPU several steps follow each other before it is waited for, as in training, so that the host may be ahead.
    """
    recipe, source, device = trainer.recipe, trainer.source, trainer.device
    pixels_NHWC, images_B = source.pixels_on(device), np.arange(recipe.batch)

    def step() -> None:
        trainer.learn(pixels_NHWC[torch.from_numpy(images_B).to(device, non_blocking=True)], images_B)

    trainer.network.train()
    with torch.compiler.set_stance("force_eager"), counted() as counter:
        step()
    if recipe.compile:
        step()
    together = 2 * WARM if device.type == "cuda" else 1

    def several() -> None:
        for _ in range(together):
            step()

    whole = seconds(several, device) / together
    limit = recipe.batch * flops / counter.get_total_flops()
    parts = [part for part in trainer.network.children() if part is not trainer.network.classifier]
    parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    return Speed("training", name, recipe.batch / whole, "images/s", limit, data / whole, parameters)


def embedding(name: str, trainer: Trainer, flops: float, *, images: int = 0) -> Speed:
    """Return the speed of embedding so many images, taken from memory; 0: as many as the source has."""
    recipe, pixels = trainer.recipe, trainer.source.packs[0]
    rows_N = np.arange(images or len(pixels)) % len(pixels)
    network = trainer.network.eval()

    def run(rows_N: NDArray[np.int64] = rows_N) -> Tensor:
        return embed(network, pixels, rows_N=rows_N, dtype=recipe.dtype, report=lambda what, done, total: None)

    counted_N = rows_N[: batch_on(trainer.device)]  # one batch: of what is replayed nobody counts anything
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # of attention, whose products inside nobody counts
    try:
        with counted() as counter:
            run(counted_N)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    limit = len(counted_N) * flops / counter.get_total_flops()
    return Speed("embedding", name, len(rows_N) / seconds(run, trainer.device), "images/s", limit)


def ranking(features: int, device: torch.device, *, queries: int = 0, gallery: int = 0) -> Speed:
    """Return the speed of ranking drawn embeddings; 0: QUERIES in a gallery of GALLERY images."""
    queries, gallery = queries or QUERIES, gallery or GALLERY
    generator = torch.Generator().manual_seed(0)
    people = gallery // PER_PERSON
    centre_PD = torch.randn(people + 1, features, generator=generator)
    pid_G = torch.arange(gallery) // PER_PERSON
    pid_Q = torch.randint(people, (queries,), generator=generator)

    def seen(pid_N: Tensor) -> Tensor:
        noise = torch.randn(len(pid_N), features, generator=generator)
        return torch.nn.functional.normalize(centre_PD[pid_N] + 2 * noise).to(device)

    query_QD, gallery_GD = seen(pid_Q), seen(pid_G)
    camid_Q, camid_G = torch.zeros(queries, dtype=torch.int64), torch.arange(gallery) % 6
    out_QG = torch.empty(queries, gallery, device=device)
    product = seconds(lambda: torch.mm(query_QD, gallery_GD.T, out=out_QG), device)
    ranked = seconds(
        lambda: rank(query_QD, gallery_GD, pid_Q=pid_Q, pid_G=pid_G, camid_Q=camid_Q, camid_G=camid_G), device
    )
    return Speed("ranking", f"{gallery:,} x {features}", queries / ranked, "queries/s", queries / product)
