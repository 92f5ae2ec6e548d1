"""Exact rankings of a gallery for many queries: CMC, mAP and mINP in bounded memory, on CPU and GPU alike."""

# Q queries, G gallery images, B queries of one block, D features, N rows of either side,
# M (query, match) pairs of the block, P most matches of any query in the block

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reidgen.devices import enough_memory
from reidgen.errors import DataError

JUNK = -1  # Market-1501's pid for detections that are neither right nor wrong


@dataclass(frozen=True)
class Ranking:
    """Where each query's matches stand in its ranking; CPU tensors, one element per query.

    average_precision: float64 (Q,) in (0, 1], NaN where the query has no match left.
    first_match: int64 (Q,), rank of the nearest match, counted from 1; 0 where there is none.
    inverse_negative_penalty: float64 (Q,) in (0, 1], matches / rank of the last match; NaN where there is none.
    """

    average_precision: Tensor
    first_match: Tensor
    inverse_negative_penalty: Tensor

    @property
    def mAP(self) -> float:
        """The mean average precision over the queries with a match, a fraction."""
        return self.average_precision.nanmean().item()

    @property
    def mINP(self) -> float:
        """The mean inverse negative penalty over the queries with a match, a fraction."""
        return self.inverse_negative_penalty.nanmean().item()

    @property
    def unmatched(self) -> int:
        """The number of queries without a match; they count in no mean."""
        return int((self.first_match == 0).sum())

    def rank(self, k: int) -> float:
        """Return CMC at `k`: the share of the queries with a match that have one among their first `k` images."""
        first = self.first_match[self.first_match > 0]
        return (first <= k).double().mean().item()


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep TF32 and bfloat16 out of the product: training may have set a lower precision for float32 matrices."""
    precision = torch.get_float32_matmul_precision()
    if precision == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


@enough_memory("ranking", "lower block_bytes, rank fewer gallery images, or use --device cpu")
@torch.no_grad()
@_full_precision()
def rank(
    query_QD: Tensor,
    gallery_GD: Tensor,
    *,
    pid_Q: Tensor,
    pid_G: Tensor,
    camid_Q: Tensor,
    camid_G: Tensor,
    block_bytes: int = 256 << 20,
) -> Ranking:
    """Return where each query's matches stand when the gallery is sorted by squared Euclidean distance.

    A match has the query's pid and another camid. Left out of a query's ranking: images with its pid *and* its camid,
    and junk (pid -1). Distractors (a pid no query has) stay. Equal distances keep gallery order. Average precision is
    the mean over the matches of (matches so far / rank), without interpolation; a query without a match gets NaN.

    query_QD, gallery_GD: floating (Q, D) and (G, D), compared in float32 (no TF32) on the queries' device; not modified. The
        gallery may lie elsewhere, also in `torch.from_numpy(np.load(path, mmap_mode="c"))`.
    pid_*, camid_*: integer (Q,) or (G,), numbered alike on both sides, on any device.
    block_bytes: size of one block of distances, B queries against the whole gallery (at least one query). Each
        distance is computed once. The peak beside the features is about 3 blocks (0.8 GB for 1,000,000 images). Near
        ties may fall otherwise with other blocks, where the matrix library then rounds the last bit otherwise.
    Raises DataError when shapes disagree, a side is empty, an embedding is not finite, or no query has a match; OutOfMemoryError.

    Source: Zheng et al., ICCV 2015 (Market-1501; CMC, mAP); Ye et al., TPAMI 2021 (mINP);
    torchreid@f8cd150:metrics/rank.py, whose argsort is unstable on ties (ours is stable) and which knows no junk.
    Cost: the product O(Q G D), then values alone are sorted, O(Q G log G): no index, no mask of size (Q, G).

    >>> ranking = rank(torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0], [3.0], [4.0]]),
    ...                pid_Q=torch.tensor([7]), pid_G=torch.tensor([7, 7, 3, 7]),
    ...                camid_Q=torch.tensor([0]), camid_G=torch.tensor([0, 1, 1, 2]))
    >>> ranking.average_precision  # the first image is left out: same camera; then hits at ranks 1 and 3
    tensor([0.8333], dtype=torch.float64)
    >>> ranking.rank(1), round(ranking.mINP, 4)
    (1.0, 0.6667)
    """
    pid_Q, pid_G, camid_Q, camid_G = (ids.cpu().long() for ids in (pid_Q, pid_G, camid_Q, camid_G))
    _check_shapes(query_QD, gallery_GD, pid_Q=pid_Q, pid_G=pid_G, camid_Q=camid_Q, camid_G=camid_G)
    (queries, features), images, device = query_QD.shape, len(gallery_GD), query_QD.device
    gallery_rows = max(1, block_bytes // (4 * features))
    _squared_norms("query", query_QD, gallery_rows, device)
    norm_G = _squared_norms("gallery", gallery_GD, gallery_rows, device)
    norm_G[(pid_G == JUNK).to(device)] = torch.inf  # and so is every distance to it

    by_pid = pid_G.argsort(stable=True)
    by_pid = by_pid[pid_G[by_pid] != JUNK]
    first_Q = torch.searchsorted(pid_G[by_pid], pid_Q)
    count_Q = torch.searchsorted(pid_G[by_pid], pid_Q, right=True) - first_Q

    query_rows = min(queries, max(1, block_bytes // (4 * images)))
    buffer_BG = torch.empty(query_rows, images, device=device)  # one for all blocks: fresh pages are slow
    ranked = []
    for block in _slices(queries, query_rows):
        query_BD = query_QD[block].float()
        distance_BG = buffer_BG[: len(query_BD)]
        for columns in _slices(images, gallery_rows):
            # The query's own norm is left out: it is the same for its whole row.
            part_DG = gallery_GD[columns].to(device, torch.float32).T
            torch.addmm(norm_G[columns], query_BD, part_DG, alpha=-2, out=distance_BG[:, columns])
        for rows in _slices(len(query_BD), max(1, query_rows // 16)):  # few at a time, for the caches
            row_M = torch.arange(len(distance_BG[rows])).repeat_interleave(count_Q[block][rows])
            column_M = by_pid[first_Q[block][rows][row_M] + _place_in_row(row_M, count_Q[block][rows])]
            own_M = camid_Q[block][rows][row_M] == camid_G[column_M]
            distance_BG[rows][row_M[own_M].to(device), column_M[own_M].to(device)] = torch.inf
            ranked.append(_rank_rows(distance_BG[rows], row_M[~own_M], column_M[~own_M]))
    ranking = Ranking(*(torch.cat(parts) for parts in zip(*ranked, strict=True)))
    if ranking.unmatched == queries:
        raise DataError(
            f"none of the {queries} queries has a match among {images} gallery images ({int((count_Q > 0).sum())} queries "
            "find their pid there, but only in their own camera); check that this is the right gallery, that it has more "
            "than one camera, and that pids and cameras are numbered alike on both sides"
        )
    return ranking


def _rank_rows(distance_BG: Tensor, row_M: Tensor, column_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return AP, first rank and INP of each row, given its matches in order of row; infinite distances are left out."""
    device, rows = distance_BG.device, len(distance_BG)
    matches_B = row_M.bincount(minlength=rows)
    slot_M = _place_in_row(row_M, matches_B)
    most = max(1, int(matches_B.max()))
    row, column, slot = row_M.to(device), column_M.to(device), slot_M.to(device)

    match_M = distance_BG[row, column]
    match_BP = torch.full((rows, most), -torch.inf, device=device)
    match_BP[row, slot] = match_M
    # What is farther than the last match changes no rank; made equal, it sorts fast.
    beyond_B1 = match_BP.amax(dim=1, keepdim=True).nextafter(torch.tensor(torch.inf, device=device))
    sorted_BG = _sort_rows(distance_BG.minimum(beyond_B1))
    nearer_M = torch.searchsorted(sorted_BG, match_BP)[row, slot]
    equal_M = torch.searchsorted(sorted_BG, match_BP, right=True)[row, slot] - nearer_M
    tied_M = (equal_M > 1).nonzero().squeeze(1)
    for part in _slices(len(tied_M), rows):
        tied = tied_M[part]
        pair, equal = (distance_BG[row[tied]] == match_M[tied, None]).nonzero(as_tuple=True)
        nearer_M[tied] += pair[equal < column[tied][pair]].bincount(minlength=len(tied))

    rank_BP = torch.full((rows, most), torch.iinfo(torch.int64).max)
    rank_BP[row_M, slot_M] = nearer_M.cpu() + 1
    rank_BP = rank_BP.sort(dim=1).values
    hits_P = torch.arange(1, most + 1)
    precision_BP = (hits_P.double() / rank_BP).masked_fill_(hits_P > matches_B[:, None], 0)
    last_B = rank_BP.gather(1, (matches_B - 1).clamp(min=0)[:, None]).squeeze(1)
    return (
        precision_BP.cumsum(dim=1)[:, -1] / matches_B,  # cumsum adds in order, so that padding changes no bit
        rank_BP[:, 0].masked_fill(matches_B == 0, 0),
        (matches_B.double() / last_B).masked_fill_(matches_B == 0, torch.nan),
    )


def _sort_rows(values_BG: Tensor) -> Tensor:
    """Sort each row, in place on a CPU: NumPy sorts values with SIMD, five times as fast as torch.sort with its index."""
    if values_BG.device.type != "cpu":
        return values_BG.sort(dim=1).values
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda rows: rows.sort(axis=1), np.array_split(values_BG.numpy(), threads)))
    return values_BG


def _place_in_row(row_M: Tensor, count_B: Tensor) -> Tensor:
    """Return 0, 1, 2, ... within each run of equal rows."""
    return torch.arange(len(row_M)) - (count_B.cumsum(0) - count_B)[row_M]


def _slices(length: int, rows: int) -> Iterator[slice]:
    for start in range(0, length, rows):
        yield slice(start, min(start + rows, length))


def _squared_norms(side: str, features_ND: Tensor, rows: int, device: torch.device) -> Tensor:
    """Return float32 (N,) on `device`; DataError when a row is not finite or its distances could overflow."""
    norm_N = torch.empty(len(features_ND), device=device)  # filled in place: small results would split the heap
    for part in _slices(len(features_ND), max(1, rows // 16)):
        torch.sum(features_ND[part].to(device, torch.float32).square(), dim=1, out=norm_N[part])
    bad = int((~(4 * norm_N).isfinite()).sum())
    if bad:
        raise DataError(
            f"{bad} of {len(norm_N)} {side} embeddings are not finite in float32 (NaN, infinite or too large to square); "
            "the training probably diverged: look at its loss, or embed again in float32"
        )
    return norm_N


def _check_shapes(query_QD: Tensor, gallery_GD: Tensor, **ids: Tensor) -> None:
    if query_QD.ndim != 2 or gallery_GD.ndim != 2 or query_QD.shape[1] != gallery_GD.shape[1]:
        raise DataError(
            f"query and gallery embeddings must be (Q, D) and (G, D) with one D, got {tuple(query_QD.shape)} and "
            f"{tuple(gallery_GD.shape)}; embed both with the same network"
        )
    for side, features_ND in (("query", query_QD), ("gallery", gallery_GD)):
        if features_ND.numel() == 0:
            raise DataError(
                f"the {side} has no embeddings: its shape is {tuple(features_ND.shape)}; prepare the data set again"
            )
    for name, id_N in ids.items():
        rows = len(query_QD if name.endswith("Q") else gallery_GD)
        if id_N.shape != (rows,):
            raise DataError(
                f"{name} must hold one number for each of the {rows} embeddings, got shape {tuple(id_N.shape)}"
            )
