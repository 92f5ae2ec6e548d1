"""A trained run on a target: embeddings, ranking, result rows and per-query numbers."""

import copy
import functools
import logging
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reidgen.catalogue import split_all
from reidgen.contracts import Batches, Network, TestStep, build_test_step
from reidgen.data.augment import to_float
from reidgen.data.batches import Origin, one_ahead, training_images
from reidgen.data.manifest import Prepared, load_prepared, prepared_names, tested_part
from reidgen.data.naming import shown
from reidgen.data.pack import Pack, load_pack
from reidgen.devices import choose_device, enough_memory, full, memory_format, put_on
from reidgen.errors import PluginError, RecipeError, SharedImagesError, WeightsError
from reidgen.escapes import many
from reidgen.graphs import WARM, Groups, StaticStep, incapable, recorder_for
from reidgen.models.network import ReIDNet, build_network
from reidgen.models.weights import read_state_dict
from reidgen.process import usual_settings
from reidgen.ranking import rank
from reidgen.registry import blaming
from reidgen.rows import COLUMNS
from reidgen.runs import Progress, Run, now
from reidgen.teststeps import STAGES, Way

BATCH, BATCH_CPU = 256, 32  # images embedded at a time; a CPU loses by more (results/allocator-cpu-2026-11-27)

log = logging.getLogger("reidgen")


class Sides(NamedTuple):
    """Both sides of one split, as `reidgen.ranking.rank` takes them: embeddings float32, ids int64 on the CPU."""

    query_QD: Tensor
    gallery_GD: Tensor
    pid_Q: Tensor
    pid_G: Tensor
    camid_Q: Tensor
    camid_G: Tensor


class Form(Protocol):
    """In which form images are embedded: height and width in pixels, and the dtype, "float32" or "bfloat16"."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True)
class Judged:
    """A network that is judged on targets, trained here or from elsewhere.

    run: the folder that its rows go into. sources: what it was trained on. row: what all its result rows say.
    """

    run: Run
    network: Network
    form: Form
    sources: Sequence[Origin]
    row: Mapping[str, Any]


@usual_settings()
def load_network(run: Run, device: torch.device) -> ReIDNet:
    """Return the trained network of a finished run, in evaluation mode on `device`.

    Raises RunError when the run is not finished, or its weights are lost or damaged; WeightsError when they are of
    another network.
    """
    recipe, facts = run.recipe(), run.facts()
    state = read_state_dict(run.sound_weights())
    try:
        network = build_network(
            run.method(),
            run.backbone(),
            classes=int(facts["classes"]),
            size=recipe.size,
            pooling=recipe.pooling,
        )
    except RecipeError as error:
        if not recipe.plugins:
            raise
        words = " ".join(f"--plugin {shlex.quote(name)}" for name in recipe.plugins)
        raise PluginError(f"{run.folder.name}: {error}; it was trained with {words}") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{run.weights} does not fit {recipe.method} on {recipe.backbone}; train the run again"
        ) from error
    return put_on(network, device).eval()


@enough_memory("embedding", "use --device cpu, or train with a smaller height and width")
@usual_settings()
@torch.inference_mode()
def embed(
    network: Network,
    pixels: Pack | NDArray[np.uint8],
    *,
    rows_N: NDArray[np.int64],
    dtype: str = "float32",
    steps: Sequence[TestStep] = (),
    report: Progress,
) -> Tensor:
    """Return the embeddings of the images `rows_N`, float32 (N, D), L2-normalised, on the network's device.

    pixels: uint8 (images, H, W, 3), may be memory-mapped; read batch by batch, one ahead. dtype: "float32" or
    "bfloat16" (autocast). steps: test steps that make several views of an image; what the network makes of them behind
    its neck is averaged before it is normalised. Of many images on a GPU, where the network's parts allow it, a batch
    is recorded and replayed, the last one filled up. Where the memory is full, half as many images are embedded at a
    time, down to one; that may round the last bit otherwise. Raises OutOfMemoryError.
    """
    size = batch_on(network.device)
    while True:
        try:
            return _embed(network, pixels, rows_N, dtype, steps, report, size=size)
        except RuntimeError as error:
            if size == 1 or not (what := full(error)):
                raise
        size //= 2  # out of the error's reach, which holds what the last try had
        log.warning("%s: embedding begins again with %s at a time", what, many(size, "image"))


def _embed(
    network: Network,
    pixels: Pack | NDArray[np.uint8],
    rows_N: NDArray[np.int64],
    dtype: str,
    steps: Sequence[TestStep],
    report: Progress,
    *,
    size: int,
) -> Tensor:
    parts, done = [], 0
    describe = _describer(network, dtype, size=size, batches=len(rows_N) / size)
    for images in _batches(network, pixels, np.split(rows_N, range(size, len(rows_N), size))):
        found = [describe(view).float() for view in _views(images, steps)]  # of length 1 also where dtype is bfloat16
        parts.append(functional.normalize(functools.reduce(torch.add, found) / len(found), dim=1))
        report("embedding", done := done + len(images), len(rows_N))
    return torch.cat(parts)


def batch_on(device: torch.device) -> int:
    """Return how many images are embedded at a time."""
    return min(BATCH, BATCH_CPU) if device.type == "cpu" else BATCH


def _say_refused(reason: str) -> None:
    log.warning("embedding goes on batch by batch, with the same result: PyTorch cannot record a batch (%s)", reason)


def _describer(network: Network, dtype: str, *, size: int, batches: float) -> Callable[[Tensor], Tensor]:
    """Return what gives the features behind the neck of up to `size` images, (B, D)."""

    def describe(groups: Groups) -> Tensor:
        with _autocast(network, dtype):
            return network.describe(groups[0][0])

    device = network.device
    recorder = recorder_for(device) if batches > 2 * WARM else None
    if recorder is None or incapable(getattr(network, "parts", [network])):
        return lambda images: describe([(images,)])
    step = StaticStep(device=device, recorder=recorder, refused=_say_refused)

    def filled(images: Tensor) -> Tensor:
        missing = size - len(images)
        whole = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
        found = step(describe, [(whole.contiguous(memory_format=memory_format(device)),)])
        assert found is not None
        return found[: len(images)]

    return filled


def _batches(
    network: Network, pixels: Pack | NDArray[np.uint8], blocks: Sequence[NDArray[np.int64]]
) -> Iterator[Tensor]:
    """Yield each block of images as the network takes them, float (B, 3, H, W) on its device."""
    device = network.device
    for _, block in one_ahead(lambda rows_B: torch.from_numpy(pixels[rows_B]), blocks, device):
        yield network.prepare(to_float(block)).contiguous(memory_format=memory_format(device))


def _views(images: Tensor, steps: Sequence[TestStep]) -> list[Tensor]:
    views = [images]
    for step in steps:
        with blaming():
            views = [_alike(other, view, step) for view in views for other in step.views(view)]
    return views


def _alike(found: object, given: Tensor, step: TestStep) -> Tensor:
    """Return what a test step made. Raises RecipeError where it has another shape than what it was given."""
    if not isinstance(found, Tensor) or found.shape != given.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise RecipeError(
            f"the test step {type(step).__name__} makes {got} of {tuple(given.shape)}; it must keep the shape"
        )
    return found


def _autocast(network: Network, dtype: str) -> torch.autocast:
    kind = network.device.type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=dtype == "bfloat16", cache_enabled=kind != "cuda")


def evaluate(
    run: Run,
    target: str,
    *,
    ways: Sequence[Way] = (Way(),),
    data: Path,
    device: str = "auto",
    report: Progress,
) -> pd.DataFrame:
    """Return the result rows of a finished run on a target, as `judge` does, and write them into the run folder.

    Raises what `judge` raises, and RunError (unfinished, in use).
    """
    return judge(run, lambda: open_run(run, device), target, ways=ways, data=data, report=report)


@usual_settings()
def judge(
    run: Run,
    open_network: Callable[[], Judged],
    target: str,
    *,
    ways: Sequence[Way] = (Way(),),
    data: Path,
    report: Progress,
) -> pd.DataFrame:
    """Return the result rows of a network on a target, one per way to test and split, and write them into `run`.

    open_network: called once the folder is held and the target is known to be there.
    A target of a source's family is marked as seen; one whose queries or gallery were trained on is refused, see
    `refuse_shared_images`. mAP, CMC and mINP by the Market-1501 rule, see `reidgen.ranking`.
    ways: as `reidgen.ways.select_ways` returns them. What a step learns of the target, it learns of the images of
    one split (queries and gallery, each once): that is all that whoever has this gallery would have. Ways that embed
    alike share the embeddings.
    Raises DataError (target not prepared, no query, no match), SharedImagesError, RunError (in use),
    RecipeError (a step that would change a network that is fixed), PluginError (a step of a plug-in).
    """
    prepared = load_prepared(target, data)
    acting = {
        way.word: {stage: [build_test_step(row) for row in way.of_stage(stage)] for stage in STAGES} for way in ways
    }
    with run.lock():
        report = run.telling(report)
        judged = open_network()
        _refuse_adapting(judged.network, ways)
        tested = tested_part(prepared)
        refuse_shared_images(judged.sources, prepared, tested, data=data)
        seen = is_seen(judged.sources, prepared)
        common = {**judged.row, "target": target, "seen": int(seen), "data": prepared.digest[:8], "date": now()}
        tables: dict[str, pd.DataFrame] = {}
        for embedding in dict.fromkeys(way.embedding for way in ways):
            alike = [way.word for way in ways if way.embedding == embedding]
            first = acting[alike[0]]
            with torch.inference_mode():
                splits = list(_embedded(judged.network, prepared, tested, first, recipe=judged.form, report=report))
            for word in alike:  # each is written as soon as it is there: one that fails costs the others nothing
                rows, queries = [], []
                for split, images in splits:
                    numbers, per_query = rank_split(images, acting[word])
                    rows.append({**common, "test": word, "split": split, **numbers})
                    queries.append(per_query.assign(split=split))
                tables[word] = pd.DataFrame(rows)[list(COLUMNS)].astype(COLUMNS)
                run.write_results(target, tables[word], _named(pd.concat(queries), prepared), test=word)
    return pd.concat([tables[way.word] for way in ways], ignore_index=True)


def open_run(run: Run, device: str) -> Judged:
    """Return the network of a finished run, ready to be judged.

    Raises RecipeError for a device that is not there, and what `load_network` raises.
    """
    place = choose_device(device)
    recipe, facts, method = run.recipe(), run.facts(), run.method()
    row = {
        "source": recipe.source,
        "method": method.label,
        "backbone": recipe.backbone,
        "seed": recipe.seed,
        "recipe": recipe.name,
        "hash": facts["hash"],
        "source_data": str(facts["source_data"])[:8],
        **{key: facts[key] for key in ("version", "commit", "torch", "device", "threads")},
        "dtype": recipe.dtype,
        "title": method.full_title,
        "row": method.digest,
        "model": "",
    }
    return Judged(run, load_network(run, place), recipe, origins_of(facts), row)


def _refuse_adapting(network: Network, ways: Sequence[Way]) -> None:
    """Raise RecipeError when a test step adapts the network, and it cannot be changed."""
    adapting = [step.label for way in ways for step in way.of_stage("adapt")]
    if network.fixed and adapting:
        raise RecipeError(
            f"the test step {adapting[0]} changes the network's own numbers, and those of an ONNX file are fixed; "
            "leave it out, or give the network as a torch file"
        )


def _named(queries: pd.DataFrame, prepared: Prepared) -> pd.DataFrame:
    """Return the per-query numbers as they are written, with people and cameras as the user's names say them."""
    return queries[["split", "path", "pid", "camid", "ap", "first_match", "inp"]].assign(
        path=queries["path"].map(shown),  # a name of several lines stays one
        person=queries["pid"].map(prepared.person),
        camera=queries["camid"].map(prepared.camera),
    )


class Images(NamedTuple):
    """The rows of one split, and its embeddings: of `paths`, sorted, each once; camid_N: their cameras, on the CPU."""

    part: pd.DataFrame
    paths: NDArray[np.str_]
    camid_N: Tensor
    embedding_ND: Tensor


def _embedded(
    network: Network,
    prepared: Prepared,
    tested: pd.DataFrame,
    steps: Mapping[str, Sequence[TestStep]],
    *,
    recipe: Form,
    report: Progress,
) -> Iterator[tuple[int, Images]]:
    """Yield each split with its embeddings: embedded once for all splits, or anew where a step adapts the network."""
    if not steps["adapt"]:
        paths, embedding_ND = embed_tested(
            network, prepared, tested, recipe=recipe, steps=steps["views"], report=report
        )
    for split, part in tested.groupby("split", sort=True):
        own = part.drop_duplicates("path").sort_values("path")
        names, camid_N = own["path"].to_numpy(dtype=str), torch.tensor(own["camid"].to_numpy(), dtype=torch.int64)
        if steps["adapt"]:
            own_ND = _embed_adapted(network, prepared, own, steps, recipe=recipe, report=report)
        else:
            numbers = torch.from_numpy(np.searchsorted(paths, names))
            whole = len(names) == len(paths)  # a single split: no copy of its embeddings
            own_ND = embedding_ND if whole else embedding_ND[numbers.to(embedding_ND.device)]
        yield int(str(split)), Images(part, names, camid_N, own_ND)


def _embed_adapted(
    network: Network,
    prepared: Prepared,
    own: pd.DataFrame,
    steps: Mapping[str, Sequence[TestStep]],
    *,
    recipe: Form,
    report: Progress,
) -> Tensor:
    """Return the embeddings of some rows of the index, each group of them by a copy of the network adapted to it."""
    (step,) = steps["adapt"]
    parts = []
    groups = own.groupby("camid", sort=True) if step.cameras else [(0, own)]
    for _, group in groups:
        adapted = copy.deepcopy(network)
        with blaming(), _autocast(network, recipe.dtype):
            step.adapt(adapted, _unlabelled(network, prepared, group, steps["views"], recipe=recipe, report=report))
        paths, embedding_ND = embed_tested(
            adapted.eval(), prepared, group, recipe=recipe, steps=steps["views"], report=report
        )
        parts.append((paths, embedding_ND))
    order = np.argsort(np.concatenate([paths for paths, _ in parts]))
    return torch.cat([embedding_ND for _, embedding_ND in parts])[torch.from_numpy(order).to(parts[0][1].device)]


def _unlabelled(
    network: Network,
    prepared: Prepared,
    group: pd.DataFrame,
    views: Sequence[TestStep],
    *,
    recipe: Form,
    report: Progress,
) -> Batches:
    """Return what gives a group's images to a step that adapts the network: see `TestStep.adapt`."""
    paths, pack = load_pack(prepared, recipe.height, recipe.width, report)
    order = group.sort_values(["sha256", "path"])["path"].to_numpy(dtype=str)
    rows_N = np.searchsorted(paths, order)

    def batches(size: int, most: int) -> Iterator[Tensor]:
        blocks = np.array_split(rows_N, -(-len(rows_N) // size))[:most]
        for images in _batches(network, pack, blocks):
            yield from _views(images, views)

    return batches


def embed_tested(
    network: Network,
    prepared: Prepared,
    tested: pd.DataFrame,
    *,
    recipe: Form,
    steps: Sequence[TestStep] = (),
    report: Progress,
) -> tuple[NDArray[np.str_], Tensor]:
    """Return the different paths of `tested`, sorted, and their embeddings in that order, as `embed` gives them."""
    paths, pack = load_pack(prepared, recipe.height, recipe.width, report)
    wanted = np.unique(tested["path"].to_numpy(dtype=str))
    what = f"{prepared.name}: embedding"
    embedding_ND = embed(
        network,
        pack,
        rows_N=np.searchsorted(paths, wanted),
        dtype=recipe.dtype,
        steps=steps,
        report=lambda _, done, of: report(what, done, of),
    )
    # Equal files are equally far from all, but a batch may round the same image otherwise at another place.
    digest = tested.drop_duplicates("path").sort_values("path")["sha256"].to_numpy(dtype=str)
    _, first, group = np.unique(digest, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[group] != np.arange(len(digest)))
    with torch.inference_mode():
        embedding_ND[torch.from_numpy(copies)] = embedding_ND[torch.from_numpy(first[group][copies])]
    return wanted, embedding_ND


def sides_of(part: pd.DataFrame, paths: NDArray[np.str_], embedding_ND: Tensor) -> Sides:
    """Return both sides of one split's rows, in their order, given the embeddings of `paths`, which are sorted."""
    query, gallery = part[part["part"] == "query"], part[part["part"] == "gallery"]

    rows = pd.concat([query, gallery])
    numbers = torch.from_numpy(np.searchsorted(paths, rows["path"].to_numpy(dtype=str)))
    own_ND = embedding_ND[numbers.to(embedding_ND.device)]  # both sides in one piece: `rerank` needs them so

    def column(rows: pd.DataFrame, name: str) -> Tensor:
        return torch.tensor(rows[name].to_numpy(), dtype=torch.int64)

    return Sides(
        query_QD=own_ND[: len(query)],
        gallery_GD=own_ND[len(query) :],
        pid_Q=column(query, "pid"),
        pid_G=column(gallery, "pid"),
        camid_Q=column(query, "camid"),
        camid_G=column(gallery, "camid"),
    )


def rank_split(images: Images, steps: Mapping[str, Sequence[TestStep]]) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the numbers of one split in a way to test, and those of each query.

    Memory: beside the images' embeddings one more copy, of both sides, and what the steps and `rank` hold.
    """
    part, embedding_ND = images.part, images.embedding_ND
    query, gallery = part[part["part"] == "query"], part[part["part"] == "gallery"]
    for step in steps["embeddings"]:
        with blaming():
            embedding_ND = _alike(step.embeddings(embedding_ND, images.camid_N), embedding_ND, step)
    sides = sides_of(part, images.paths, embedding_ND)
    del embedding_ND  # what the steps made, as large as the sides
    with blaming():
        others = [step.distances(sides.query_QD, sides.gallery_GD) for step in steps["distances"]]
        ranking = rank(**sides._asdict(), distances=others[0] if others else None)
    numbers = {
        "mAP": ranking.mAP,
        "rank1": ranking.rank(1),
        "rank5": ranking.rank(5),
        "rank10": ranking.rank(10),
        "mINP": ranking.mINP,
        "queries": len(query),
        "gallery": len(gallery),
        "unmatched": ranking.unmatched,
        "tied": int(ranking.tied.sum()),
    }
    per_query = query[["path", "pid", "camid"]].assign(
        ap=ranking.average_precision.numpy(),
        first_match=ranking.first_match.numpy(),
        inp=ranking.inverse_negative_penalty.numpy(),
    )
    return numbers, per_query


def origins_of(facts: Mapping[str, Any]) -> list[Origin]:
    """Return the sources of a finished run, as it recorded them when it was trained."""
    return [Origin(**one) for one in facts["sources"]]


def is_seen(sources: Iterable[Origin], target: Prepared) -> bool:
    """Tell whether the target belongs to the family of a source, whose cameras the network was trained on.

    The target's family is that of its manifest: what the working folder's own datasets.toml says changes nothing.
    """
    return (target.dataset.family or target.name) in {source.family for source in sources}


def refuse_shared_images(sources: Iterable[Origin], target: Prepared, tested: pd.DataFrame, *, data: Path) -> None:
    """Raise SharedImagesError when the target's queries or gallery were trained on.

    They were when a source trained on all images of the target's family, or on a file with the same bytes; within one
    set a file is told by its path, as Market-1501 itself may hold equal files in both parts. Sources are compared as
    they are prepared in `data`; of a run brought from elsewhere the names alone can be.
    """
    here = prepared_names(data)
    for source in sources:
        if source.whole and source.family == (target.dataset.family or target.name):
            raise SharedImagesError(
                f"target {target.name} shows people whose images were all trained on, by source {source.name}"
            )
        name, _ = split_all(source.name)
        if name not in here:
            continue
        key = "path" if name == target.name else "sha256"
        shared = set(training_images(source.name, data=data)[1][key]) & set(tested[key])
        if shared:
            raise SharedImagesError(
                f"target {target.name} shares {len(shared)} image files with the training images of source "
                f"{source.name}; its result would not be one on unseen cameras"
            )
