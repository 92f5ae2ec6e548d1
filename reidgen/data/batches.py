"""The images of the sources, and batches of P identities x K images.

Everything random follows from (seed, epoch, step), never from what ran before: a resumed run draws the same batches,
and so will any number of processes. Shapes: N images of the source, B = P K images of a batch, H x W pixels.
"""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from reidgen.catalogue import ALL, load_catalogue, refuse_relatives, split_all
from reidgen.data.manifest import Prepared, load_index, load_prepared, source_digest
from reidgen.data.pack import Pack, load_pack
from reidgen.devices import free_memory
from reidgen.errors import DataError, SharedImagesError
from reidgen.graphs import bring, pinned
from reidgen.recipe import Recipe
from reidgen.runs import Progress
from reidgen.seeds import stream_seed


class Origin(NamedTuple):
    """One source of a training, as it is written (`market-all`); its family; whether all images of its people count."""

    name: str
    family: str
    whole: bool


@dataclass(frozen=True)
class Source:
    """The training images of one or several data sets, which are its domains.

    packs: the pixels of each domain, mapped from disk; row_N: int64, an image's row in its domain's.
    label_N: int64, 0..classes-1; domain_N: int64, 0.. in the recipe's order; camid_N: int64, 0... Identities and
    cameras of different sets are never merged, each has its own number.
    single: identities that are left out, as they have a single image. digest: SHA-256 that stands for the sets'
    indices.
    origins: one for each source.
    """

    packs: tuple[Pack | NDArray[np.uint8], ...]
    row_N: NDArray[np.int64]
    label_N: NDArray[np.int64]
    domain_N: NDArray[np.int64]
    camid_N: NDArray[np.int64]
    classes: int
    single: int
    digest: str
    origins: tuple[Origin, ...]

    @property
    def nbytes(self) -> int:
        """The size of all pixels."""
        return len(self.row_N) * int(self.packs[0][0].nbytes)

    @functools.cached_property
    def pixels_NHWC(self) -> Tensor:
        """All pixels in memory, uint8 on the CPU; read at the first use."""
        return self.pixels_on(torch.device("cpu"))

    def pixels_on(self, device: torch.device) -> Tensor:
        """Return all pixels, uint8 (N, H, W, 3) on the device, read a few at a time."""
        pixels = torch.empty((len(self.row_N), *self.packs[0].shape[1:]), dtype=torch.uint8, device=device)
        for images_B in np.split(np.arange(len(self.row_N)), range(8, len(self.row_N), 8)):  # few: one copy, not two
            pixels[images_B[0] : images_B[-1] + 1] = self.read(images_B)
        return pixels

    def read(self, images_B: NDArray[np.int64]) -> Tensor:
        """Return the pixels of some images from disk, uint8 (B, H, W, 3) on the CPU."""
        pixels = np.empty((len(images_B), *self.packs[0].shape[1:]), dtype=np.uint8)
        for domain, pack in enumerate(self.packs):
            here = np.flatnonzero(self.domain_N[images_B] == domain)
            pixels[here] = pack[self.row_N[images_B[here]]]
        return torch.from_numpy(pixels)


def training_images(source: str, *, data: Path) -> tuple[Prepared, pd.DataFrame]:
    """Return a source's set and the rows of its index that are trained on, by path, each file once.

    They are the training part of its first split; with `-all` behind the name, all images of people in all parts and
    splits, **without** distractors and images of nobody, which are no one person.
    Raises DataError when the set is not prepared or has no such images.
    """
    name, everything = split_all(source)
    prepared = load_prepared(name, data)
    index = load_index(prepared)
    if everything:
        # The catalogue's word, where it has one: a manifest may be older than what is known of distractors.
        entry = load_catalogue().get(name, prepared.dataset)
        nobody = [int(pid) for pid, name in prepared.people.items() if not name]
        rows = index[~index["pid"].isin([*entry.distractors, *nobody])].drop_duplicates("path")
    else:
        rows = index[(index["part"] == "train") & (index["split"] == 0)]
    if rows.empty:
        raise DataError(
            f"{name} has no training part and cannot be a source; it can be a target, or {name}{ALL} a source"
        )
    return prepared, rows.sort_values("path", ignore_index=True)


def load_source(recipe: Recipe, *, data: Path, report: Progress) -> Source:
    """Return the training images of all of the recipe's sources, at its size.

    Identities with a single image are left out, as a triplet needs two, and counted. The pixels stay on disk.
    Raises DataError when a source is not prepared, has no images to train on or too few identities for a batch;
    SharedImagesError when two sources show the same people or share image files.
    """
    refuse_relatives(recipe.sources, load_catalogue())
    parts = [training_images(source, data=data) for source in recipe.sources]
    _refuse_shared_files(recipe.sources, [set(rows["sha256"]) for _, rows in parts])
    table = pd.concat([rows.assign(domain=domain) for domain, (_, rows) in enumerate(parts)], ignore_index=True)
    images = table.groupby(["domain", "pid"])["path"].transform("size")
    table, single = table[images > 1], int((images == 1).sum())
    people = table.groupby("domain")["pid"].nunique().reindex(range(len(parts)), fill_value=0)
    least = -(-recipe.identities // len(parts)) if recipe.sampling == "balanced" else 1  # of every source
    asked = [(recipe.source, int(people.sum()), recipe.identities)]
    asked += [(source, has, least) for source, has in zip(recipe.sources, people, strict=True)]
    for name, has, needs in asked:
        if has < needs:
            raise DataError(
                f"{name} has {has} training identities{' of several images' * (single > 0)}, a batch of recipe "
                f"{recipe.name} needs {needs}; set identities in a recipe file"
            )
    packs, rows = [], []
    for domain, (prepared, _) in enumerate(parts):
        paths, pack = load_pack(prepared, recipe.height, recipe.width, report)
        here = table["domain"] == domain  # side by side
        packs.append(pack)
        rows.append(np.searchsorted(paths, table["path"].to_numpy(dtype=str)[here]))
    return Source(
        packs=tuple(packs),
        row_N=np.concatenate(rows),
        label_N=np.array(table.groupby(["domain", "pid"]).ngroup(), dtype=np.int64),
        domain_N=np.array(table["domain"], dtype=np.int64),
        camid_N=np.array(table.groupby(["domain", "camid"]).ngroup(), dtype=np.int64),
        classes=int(people.sum()),
        single=single,
        digest=source_digest(recipe, data=data),
        origins=origins(recipe, data=data),
    )


def origins(recipe: Recipe, *, data: Path) -> tuple[Origin, ...]:
    """Return what each source is, by what its prepared set says. Raises DataError when one is not prepared."""
    found = []
    for source in recipe.sources:
        name, everything = split_all(source)
        entry = load_prepared(name, data).dataset
        found.append(Origin(source, entry.family or name, everything or set(entry.folders) == {"train"}))
    return tuple(found)


def _refuse_shared_files(sources: list[str], files: list[set[str]]) -> None:
    for first, second in itertools.combinations(range(len(sources)), 2):
        if shared := files[first] & files[second]:
            raise SharedImagesError(
                f"the sources {sources[first]} and {sources[second]} share {len(shared)} image files; name one of them"
            )


def batches_per_epoch(recipe: Recipe, images: int) -> int:
    """Return the batches of an epoch: the recipe's number, or one pass over as many images as the source has."""
    return recipe.batches_per_epoch or max(1, images // recipe.batch)


def epoch_batches(
    label_N: NDArray[np.int64], domain_N: NDArray[np.int64], *, recipe: Recipe, epoch: int
) -> NDArray[np.int64]:
    """Return the image numbers of every batch of one epoch, int64 (batches, P K), each batch sorted by identity draw.

    Identities come in rounds: each round visits them in a new order, P at a time, none twice in a batch (the fewer than
    P left at its end wait for the next round). Each visit of an identity takes its next K images in a shuffled cycle,
    so none repeats before all were seen; with fewer than K images some stand twice in a batch.
    With the recipe's sampling "balanced" each of the D domains has its own rounds and gives P // D identities to every
    batch; the rest of P goes round the domains, one each. With "concat" all identities are one pool.
    Needs at least that many identities (the caller checks). label_N, domain_N: of a Source.
    Source: P x K batches of Hermans et al., arXiv 1703.07737. Difference from torchreid's sampler: every identity is
    visited equally often, whatever its number of images.
    """
    rng = np.random.Generator(np.random.PCG64(stream_seed("batches", recipe.seed, epoch)))
    images_of = np.split(np.argsort(label_N, kind="stable"), np.cumsum(np.bincount(label_N))[:-1])
    pools = [np.arange(len(images_of))]
    if recipe.sampling == "balanced":
        pools = [np.unique(label_N[domain_N == domain]) for domain in np.unique(domain_N)]
    rounds = [pool[:0] for pool in pools]
    queues: list[list[int]] = [[] for _ in images_of]
    batches: list[list[int]] = []
    for number in range(batches_per_epoch(recipe, len(label_N))):
        batch: list[int] = []
        for place, pool in enumerate(pools):
            share = quota(place, number, identities=recipe.identities, domains=len(pools))
            if len(rounds[place]) < share:
                rounds[place] = pool[rng.permutation(len(pool))]
            drawn, rounds[place] = rounds[place][:share], rounds[place][share:]
            for label in drawn:
                while len(queues[label]) < recipe.images:
                    queues[label].extend(rng.permutation(images_of[label]).tolist())
                batch.extend(queues[label][: recipe.images])
                del queues[label][: recipe.images]
        batches.append(batch)
    return np.array(batches, dtype=np.int64)


def quota(domain: int, batch: int, *, identities: int, domains: int) -> int:
    """Return how many identities a domain gives to a batch: P // D, and one of the rest in turn.

    >>> [[quota(domain, batch, identities=8, domains=3) for domain in range(3)] for batch in range(3)]
    [[3, 3, 2], [3, 2, 3], [2, 3, 3]]
    """
    each, rest = divmod(identities, domains)
    turn = (domain - batch * rest) % domains  # the domains that come first in this batch's turn give one more
    return each + 1 if turn < rest else each


def feed(
    source: Source, batches: Iterable[NDArray[np.int64]], *, share: slice, device: torch.device
) -> Generator[tuple[NDArray[np.int64], Tensor], None, None]:
    """Return a generator of each batch's image numbers, int64 (B,), with the pixels of its rows `share` on `device`,
    uint8 (., H, W, 3).

    All pixels are kept on the device where they take less than half of its free memory. Else a thread reads from the
    packs, one batch ahead, into pinned memory where the device is a GPU. Both give the same bits.
    """
    if source.nbytes < free_memory(device) / 2:
        return _kept(source.pixels_on(device), batches, share)
    return one_ahead(lambda images_B: source.read(images_B[share]), batches, device)


def _kept(
    pixels_NHWC: Tensor, batches: Iterable[NDArray[np.int64]], share: slice
) -> Generator[tuple[NDArray[np.int64], Tensor], None, None]:
    for images_B in batches:
        (rows,) = bring((torch.from_numpy(images_B[share]),), pixels_NHWC.device)
        yield images_B, pixels_NHWC[rows]


def one_ahead(
    read: Callable[[NDArray[np.int64]], Tensor], batches: Iterable[NDArray[np.int64]], device: torch.device
) -> Generator[tuple[NDArray[np.int64], Tensor], None, None]:
    """Yield each batch of image numbers and what `read` returns for it, on `device`; a thread reads the next one
    meanwhile.

    Where the device is a GPU, it comes from pinned memory, which the host need not wait for.
    """

    def fetch(images_B: NDArray[np.int64]) -> Tensor:
        return pinned(read(images_B), device)

    ahead: deque[tuple[NDArray[np.int64], Future[Tensor]]] = deque()

    def ready() -> tuple[NDArray[np.int64], Tensor]:
        images_B, pixels = ahead.popleft()
        return images_B, pixels.result().to(device, non_blocking=True)

    reader = ThreadPoolExecutor(max_workers=1)
    try:
        for images_B in batches:
            ahead.append((images_B, reader.submit(fetch, images_B)))
            if len(ahead) == 2:
                yield ready()
        while ahead:
            yield ready()
    finally:  # also where the caller stops early: what is queued is not read
        reader.shutdown(cancel_futures=True)
