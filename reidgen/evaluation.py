"""A trained run on a target: embeddings, ranking, result rows and per-query numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from reidgen.data.batches import standardize, to_float
from reidgen.data.pack import load_pack
from reidgen.data.prepare import Prepared, load_index, load_prepared, prepared_names
from reidgen.devices import choose_device, memory_format
from reidgen.errors import DataError, RunError, SharedImagesError, WeightsError
from reidgen.models.backbones import read_state_dict
from reidgen.models.network import ReIDNet, build_network
from reidgen.ranking import rank
from reidgen.recipe import Recipe
from reidgen.runs import COLUMNS, Progress, Run, now

BATCH = 256


def load_network(run: Run, device: torch.device) -> ReIDNet:
    """Return the trained network of a finished run, in evaluation mode on `device`.

    Raises RunError when the run is not finished or has lost its weights, WeightsError when they are of another network.
    """
    recipe, facts = run.recipe(), run.facts()
    if not run.weights.is_file():
        raise RunError(f"{run.folder} has lost its weights.safetensors; remove the folder and train again")
    state = read_state_dict(run.weights)
    network = build_network(recipe.method, recipe.backbone, classes=int(facts["classes"]))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{run.weights} does not fit {recipe.method} on {recipe.backbone}; train the run again"
        ) from error
    return network.to(device=device, memory_format=memory_format(device)).eval()  # type: ignore[call-overload, no-any-return]


@torch.inference_mode()
def embed(network: ReIDNet, pixels_NHWC: NDArray[np.uint8], *, dtype: str = "float32", report: Progress) -> Tensor:
    """Return the embeddings of all images, float32 (N, D), L2-normalised, on the network's device.

    pixels_NHWC: uint8, may be memory-mapped; read batch by batch. dtype: "float32" or "bfloat16" (autocast).
    """
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(pixels_NHWC), BATCH):
        block = torch.from_numpy(np.array(pixels_NHWC[start : start + BATCH])).to(
            device
        )  # a copy: the pack is read-only
        images = standardize(to_float(block)).contiguous(memory_format=memory_format(device))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            parts.append(network(images).float())
        report("embedding", min(start + BATCH, len(pixels_NHWC)), len(pixels_NHWC))
    return torch.cat(parts)


def evaluate(run: Run, target: str, *, data: Path, device: str = "auto", report: Progress) -> pd.DataFrame:
    """Return the result rows of a finished run on a target, one per split, and write them into the run folder.

    A target that is one of the sources is marked as seen; another target that shares an image file with a source's
    training part is refused. mAP, CMC and mINP by the Market-1501 rule, see `reidgen.ranking`.
    Raises DataError (target not prepared, no query, no match, shared images), RunError (unfinished, in use).
    """
    prepared = load_prepared(target, data)
    place = choose_device(device)
    with run.lock():
        recipe, facts = run.recipe(), run.facts()
        index = load_index(prepared)
        tested = index[index["part"] != "train"]
        if not (tested["part"] == "query").any():
            raise DataError(f"{target} has no query images and cannot be a target; see reidgen prepare --help")
        if target not in recipe.sources:
            _refuse_shared_images(recipe, target, tested, data)
        network = load_network(run, place)
        paths, pack = load_pack(prepared, recipe.height, recipe.width, report)
        wanted = np.unique(tested["path"].to_numpy(dtype=str))
        rows_N = np.searchsorted(paths, wanted)
        pixels = pack if len(rows_N) == len(pack) else pack[rows_N]
        embedding_ND = embed(
            network, pixels, dtype=recipe.dtype, report=lambda _, done, of: report(f"{target}: embedding", done, of)
        )
        common = {
            "source": recipe.source,
            "target": target,
            "seen": int(target in recipe.sources),
            "method": recipe.method,
            "backbone": recipe.backbone,
            "seed": recipe.seed,
            "recipe": recipe.name,
            "hash": facts["hash"],
            "data": prepared.digest[:8],
            "source_data": str(facts["source_data"])[:8],
            **{key: facts[key] for key in ("version", "commit", "torch", "device")},
            "dtype": recipe.dtype,
            "date": now(),
        }
        rows, queries = [], []
        for split, part in tested.groupby("split", sort=True):
            numbers, per_query = _rank_split(part, wanted, embedding_ND)
            rows.append({**common, "split": split, **numbers})
            queries.append(per_query.assign(target=target, split=split))
        table = pd.DataFrame(rows)[list(COLUMNS)].astype(COLUMNS)
        per_query = pd.concat(queries)[["target", "split", "path", "pid", "camid", "ap", "first_match", "inp"]]
        run.write_results(target, table, per_query)
    return table


def _rank_split(
    part: pd.DataFrame, paths: NDArray[np.str_], embedding_ND: Tensor
) -> tuple[dict[str, float], pd.DataFrame]:
    query, gallery = part[part["part"] == "query"], part[part["part"] == "gallery"]

    def pick(rows: pd.DataFrame) -> Tensor:
        numbers = torch.from_numpy(np.searchsorted(paths, rows["path"].to_numpy(dtype=str)))
        return embedding_ND[numbers.to(embedding_ND.device)]

    def column(rows: pd.DataFrame, name: str) -> Tensor:
        return torch.tensor(rows[name].to_numpy(), dtype=torch.int64)

    ranking = rank(
        pick(query),
        pick(gallery),
        pid_Q=column(query, "pid"),
        pid_G=column(gallery, "pid"),
        camid_Q=column(query, "camid"),
        camid_G=column(gallery, "camid"),
    )
    numbers = {
        "mAP": ranking.mAP,
        "rank1": ranking.rank(1),
        "rank5": ranking.rank(5),
        "rank10": ranking.rank(10),
        "mINP": ranking.mINP,
        "queries": len(query),
        "gallery": len(gallery),
        "unmatched": ranking.unmatched,
    }
    per_query = query[["path", "pid", "camid"]].assign(
        ap=ranking.average_precision.numpy(),
        first_match=ranking.first_match.numpy(),
        inp=ranking.inverse_negative_penalty.numpy(),
    )
    return numbers, per_query


def _refuse_shared_images(recipe: Recipe, target: str, tested: pd.DataFrame, data: Path) -> None:
    """Compare with the sources that are prepared here; a run brought from elsewhere can only be checked by name."""
    for name in set(recipe.sources) & set(prepared_names(data)):
        source = load_index(load_prepared(name, data))
        shared = set(source.loc[source["part"] == "train", "sha256"]) & set(tested["sha256"])
        if shared:
            raise SharedImagesError(
                f"target {target} shares {len(shared)} image files with the training part of source {name}; "
                "its result would not be one on unseen cameras"
            )


def targets_of(data: Path) -> list[Prepared]:
    """Return the prepared sets below `data` that have query images, by name."""
    sets = [load_prepared(name, data) for name in prepared_names(data)]
    return [prepared for prepared in sets if prepared.counts.get("query")]
