"""A trained run and a target, embedded once, so that many changes of the target's images can be measured.

Shapes: N different images of the test part, by path; D features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from reidgen.contracts import Network
from reidgen.data.manifest import load_prepared, tested_part
from reidgen.data.pack import Pack, load_pack
from reidgen.devices import device_name
from reidgen.evaluation import Judged, embed, embed_tested, judge, open_run, sides_of
from reidgen.ranking import rank
from reidgen.runs import Progress, Run, now, provenance
from reidgen.teststeps import PLAIN

BLOCK = 1024  # images changed and embedded at a time: bounds memory; a multiple of the evaluation's batch
Change = Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.uint8]]  # images and their numbers -> images
_FACTS = (
    "source",
    "target",
    "seen",
    "split",
    "method",
    "backbone",
    "seed",
    "recipe",
    "hash",
    "data",
    "source_data",
    "dtype",
    "title",
    "row",
    "model",
)


@dataclass(frozen=True)
class Subject:
    """What is put to the test.

    results: the target's rows of results.csv, one per split. tested: the index's rows of query and gallery.
    paths: their N different paths, sorted; pixels_NHWC: uint8, all of the set's, of which `rows_N` are those of
    `paths`.
    clean_ND: the embeddings of the unchanged images, as `evaluate` computes them.
    """

    results: pd.DataFrame
    tested: pd.DataFrame
    network: Network
    dtype: str
    paths: NDArray[np.str_]
    pixels_NHWC: Pack
    rows_N: NDArray[np.int64]
    clean_ND: Tensor

    def embed_changed(self, part: str, change: Change) -> Tensor:
        """Return clean_ND with the rows of `part` ("query" or "gallery") embedded anew, from changed images."""
        changed_ND = self.clean_ND.clone()
        names = np.unique(self.tested.loc[self.tested["part"] == part, "path"].to_numpy(dtype=str))
        numbers = np.searchsorted(self.paths, names)
        for start in range(0, len(numbers), BLOCK):
            block = numbers[start : start + BLOCK]
            images = change(self.pixels_NHWC[self.rows_N[block]], block)
            fresh = embed(self.network, images, rows_N=np.arange(len(block)), dtype=self.dtype, report=_quiet)
            changed_ND[torch.from_numpy(block).to(changed_ND.device)] = fresh
        return changed_ND

    def score(self, query_ND: Tensor, gallery_ND: Tensor) -> pd.DataFrame:
        """Return mAP, mAP_se, rank1 and queries per split; whose they are, of the split's row in results.csv; how
        measured.

        query_ND, gallery_ND: embeddings of all N images, of which each side takes its own.
        """
        scores, here = [], {**provenance(), "torch": torch.__version__, "device": device_name(self.clean_ND.device)}
        for split, part in self.tested.groupby("split", sort=True):
            sides = sides_of(part, self.paths, query_ND)
            sides = sides._replace(gallery_GD=sides_of(part, self.paths, gallery_ND).gallery_GD)
            ranking = rank(**sides._asdict())
            scores.append(
                {
                    "split": split,
                    "mAP": ranking.mAP,
                    "rank1": ranking.rank(1),
                    "queries": len(sides.pid_Q),
                    **here,
                    "date": now(),
                    "mAP_se": clustered_error(ranking.average_precision.numpy(), sides.pid_Q.numpy()),
                }
            )
        return self.results[list(_FACTS)].merge(pd.DataFrame(scores), on="split")


def load_subject(
    run: Run, target: str, *, model: Judged | None = None, data: Path, device: str = "auto", report: Progress
) -> Subject:
    """Return a finished run, or a model from elsewhere and its folder, and a target, ready to be tested.

    Evaluates the target first where results.csv does not hold it, so that whatever `evaluate` refuses is refused here.
    Hold no lock of the run: evaluation takes it. Raises what `evaluate` and `load_network` raise.
    """
    prepared = load_prepared(target, data)
    judged = model or open_run(run, device)
    if not run.evaluated(target, prepared.digest):
        judge(run, lambda: judged, target, data=data, report=report)
    results = run.own_rows()
    recipe, tested, network = judged.form, tested_part(prepared), judged.network
    paths, clean_ND = embed_tested(network, prepared, tested, recipe=recipe, report=report)
    every, pixels = load_pack(prepared, recipe.height, recipe.width, report)
    rows_N = np.searchsorted(every, paths)
    results = results[(results["target"] == target) & (results["test"] == PLAIN)]
    return Subject(results, tested, network, recipe.dtype, paths, pixels, rows_N, clean_ND)


def clustered_error(value_Q: NDArray[np.float64], pid_Q: NDArray[np.int64]) -> float:
    """Return the standard error of the mean of `value_Q`, where the queries of one identity are not independent.

    The square root of  I / (I - 1) * sum over the I identities of (sum of its values - mean)^2  / Q^2; NaN with one
    identity. Values that are NaN (a query without a match) do not count. With one query per identity this is the usual
    deviation (ddof 1) / sqrt(Q).
    Source: the linearized ratio estimator of cluster sampling; Cochran, Sampling Techniques, 3rd ed., ch. 9.

    >>> clustered_error(np.array([0.0, 0.0, 1.0, 1.0]), np.array([1, 1, 2, 2]))  # two independent values, not four
    0.5
    """
    valid = ~np.isnan(value_Q)
    _, person = np.unique(pid_Q[valid], return_inverse=True)
    residual_I = np.bincount(person, weights=value_Q[valid] - value_Q[valid].mean())
    people = len(residual_I)
    if people < 2:
        return float("nan")
    return float(np.sqrt(people / (people - 1) * np.square(residual_I).sum()) / valid.sum())


def _quiet(what: str, done: int, total: int) -> None:
    """Report nothing: one change of a part is one step of its caller's progress."""
