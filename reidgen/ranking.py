"""Exact rankings of a gallery for many queries: CMC, mAP and mINP in bounded memory, on CPU and GPU alike."""

# Q queries, G gallery images, B queries of one block, D features, N rows of either side,
# M (query, match) pairs of the block, P most matches of any query in the block

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reidgen.devices import enough_memory
from reidgen.errors import DataError

COLLAPSED = 1e-6  # variance of embeddings, as a share of their mean square, below which distances are rounding
JUNK = -1  # Market-1501's pid for detections that are neither right nor wrong


@dataclass(frozen=True)
class Ranking:
    """Where each query's matches stand in its ranking; CPU tensors, one element per query.

    average_precision: float64 (Q,) in (0, 1], NaN where the query has no match left.
    first_match: int64 (Q,), rank of the nearest match, counted from 1; 0 where there is none.
    inverse_negative_penalty: float64 (Q,) in (0, 1], matches / rank of the last match; NaN where there is none.
    tied: bool (Q,), whether a match is exactly as far as an image that is none, so that the rule for ties decides;
        of all queries with a match where the gallery's embeddings differ by no more than float32 can tell.
    """

    average_precision: Tensor
    first_match: Tensor
    inverse_negative_penalty: Tensor
    tied: Tensor

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
def full_precision() -> Iterator[None]:
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


@enough_memory("ranking", "rank fewer gallery images, or use --device cpu (in Python: lower block_bytes)")
@torch.no_grad()
@full_precision()
def rank(
    query_QD: Tensor,
    gallery_GD: Tensor,
    *,
    pid_Q: Tensor,
    pid_G: Tensor,
    camid_Q: Tensor,
    camid_G: Tensor,
    distances: Callable[[slice], Tensor] | None = None,
    block_bytes: int = 256 << 20,
) -> Ranking:
    """Return where each query's matches stand when the gallery is sorted by squared Euclidean distance.

    A match has the query's pid and another camid. Left out of a query's ranking: images with its pid *and* its camid,
    and junk (pid -1). Distractors (a pid no query has) stay. Of equal distances a match stands behind what is none, so
    that no order of the gallery, such as that of file names, moves a number, and a network whose embeddings collapse
    earns nothing by it. Images with equal embeddings are equally far to the last bit. Average precision is
    the mean over the matches of (matches so far / rank), without interpolation; a query without a match gets NaN.

    query_QD, gallery_GD: floating (Q, D) and (G, D), compared in float32 (no TF32) on the queries' device; not
        modified. The gallery may lie elsewhere, also in `torch.from_numpy(np.load(path, mmap_mode="c"))`.
    pid_*, camid_*: integer (Q,) or (G,), numbered alike on both sides, on any device.
    distances: other distances to sort by (see `contracts.TestStep`): a function of a slice of queries that returns
        float32 (B, G), finite; images with equal embeddings are made equally far there, too.
    block_bytes: size of one block of distances, B queries against the whole gallery (at least one query). Each
        distance is computed once. The peak beside the features is about 3 blocks (0.8 GB for 1,000,000 images). Near
        ties of embeddings that differ may fall otherwise with other blocks or in another order of the gallery, where
        the matrix library then rounds the last bit otherwise.
    Raises DataError when shapes disagree, a side is empty, an embedding is not finite, or no query has a match;
    OutOfMemoryError.

    Source: Zheng et al., ICCV 2015 (Market-1501; CMC, mAP); Ye et al., TPAMI 2021 (mINP);
    torchreid@f8cd150:metrics/rank.py, whose argsort breaks ties at random, as the sort does (ours: matches last), and
    which knows no junk.
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
    copy_C, first_C = equal_rows(gallery_GD, pid_G != JUNK, gallery_rows, device)

    by_pid = pid_G.argsort(stable=True)
    by_pid = by_pid[pid_G[by_pid] != JUNK]
    first_Q = torch.searchsorted(pid_G[by_pid], pid_Q)
    count_Q = torch.searchsorted(pid_G[by_pid], pid_Q, right=True) - first_Q

    query_rows = min(queries, max(1, block_bytes // (4 * images)))
    buffer_BG = torch.empty(query_rows, images, device=device)  # one for all blocks: fresh pages are slow
    ranked = []
    for block in slices(queries, query_rows):
        distance_BG = buffer_BG[: block.stop - block.start]
        if distances:
            distance_BG.copy_(_checked(distances(block), distance_BG.shape))
            distance_BG[:, (pid_G == JUNK).to(device)] = torch.inf
        else:
            query_BD = query_QD[block].float()
            for columns in slices(images, gallery_rows):
                # The query's own norm is left out: it is the same for its whole row.
                part_DG = gallery_GD[columns].to(device, torch.float32).T
                torch.addmm(norm_G[columns], query_BD, part_DG, alpha=-2, out=distance_BG[:, columns])
        for rows in slices(len(distance_BG), max(1, query_rows // 16)):  # few at a time, for the caches
            if len(copy_C):  # the matrix library rounds by column
                distance_BG[rows][:, copy_C] = distance_BG[rows][:, first_C]
            row_M = torch.arange(len(distance_BG[rows])).repeat_interleave(count_Q[block][rows])
            column_M = by_pid[first_Q[block][rows][row_M] + _place_in_row(row_M, count_Q[block][rows])]
            own_M = camid_Q[block][rows][row_M] == camid_G[column_M]
            distance_BG[rows][row_M[own_M].to(device), column_M[own_M].to(device)] = torch.inf
            ranked.append(_rank_rows(distance_BG[rows], row_M[~own_M], column_M[~own_M]))
    ranking = Ranking(*(torch.cat(parts) for parts in zip(*ranked, strict=True)))
    if _collapsed(gallery_GD, gallery_rows, device):
        ranking = replace(ranking, tied=ranking.first_match > 0)
    if ranking.unmatched == queries:
        raise DataError(
            f"none of the {queries} queries has a match among {images} gallery images ({int((count_Q > 0).sum())} "
            "queries find their pid there, but only in their own camera); check that this is the right gallery, that "
            "it has more than one camera, and that pids and cameras are numbered alike on both sides"
        )
    return ranking


def _checked(distance_BG: Tensor, shape: torch.Size) -> Tensor:
    """Return distances that came from elsewhere. Raises DataError when they are of another shape or not finite."""
    if distance_BG.shape != shape:
        raise DataError(f"the distances of {shape[0]} queries to {shape[1]} images are {tuple(distance_BG.shape)}")
    if not distance_BG.isfinite().all():
        raise DataError(f"some distances of {shape[0]} queries to {shape[1]} images are not finite")
    return distance_BG


def _rank_rows(distance_BG: Tensor, row_M: Tensor, column_M: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return AP, first rank, INP and ties of each row, given its matches by row; infinite distances are left out."""
    device, rows = distance_BG.device, len(distance_BG)
    matches_B = row_M.bincount(minlength=rows)
    most = max(1, int(matches_B.max()))
    row, slot = row_M.to(device), _place_in_row(row_M, matches_B).to(device)

    match_BP = torch.full((rows, most), torch.inf, device=device)
    match_BP[row, slot] = distance_BG[row, column_M.to(device)]
    match_BP = match_BP.sort(dim=1).values
    # What is farther than the last match changes no rank; made equal, it sorts fast.
    last_B1 = match_BP.gather(1, (matches_B - 1).clamp(min=0)[:, None].to(device))
    sorted_BG = _sort_rows(distance_BG.minimum(last_B1.nextafter(torch.tensor(torch.inf, device=device))))

    def others(right: bool) -> Tensor:
        """Count the images that are no match and nearer than each match, or, with `right`, as far as it at most."""
        nearer_BP = torch.searchsorted(sorted_BG, match_BP, right=right)
        return (nearer_BP - torch.searchsorted(match_BP, match_BP, right=right)).cpu()

    before_BP = others(right=True)
    hits_P = torch.arange(1, most + 1)
    beside_BP = hits_P > matches_B[:, None]  # not a match: rows have fewer than `most`
    rank_BP = before_BP + hits_P
    tied_B = (before_BP > others(right=False)).masked_fill(beside_BP, False).any(dim=1)
    precision_BP = (hits_P.double() / rank_BP).masked_fill_(beside_BP, 0)
    last_B = rank_BP.gather(1, (matches_B - 1).clamp(min=0)[:, None]).squeeze(1)
    return (
        precision_BP.cumsum(dim=1)[:, -1] / matches_B,  # cumsum adds in order, so that padding changes no bit
        rank_BP[:, 0].masked_fill(matches_B == 0, 0),
        (matches_B.double() / last_B).masked_fill_(matches_B == 0, torch.nan),
        tied_B,
    )


def _sort_rows(values_BG: Tensor) -> Tensor:
    """Sort each row, in place on a CPU: NumPy sorts values with SIMD, five times as fast as torch.sort with index."""
    if values_BG.device.type != "cpu":
        return values_BG.sort(dim=1).values
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda rows: rows.sort(axis=1), np.array_split(values_BG.numpy(), threads)))
    return values_BG


def _place_in_row(row_M: Tensor, count_B: Tensor) -> Tensor:
    """Return 0, 1, 2, ... within each run of equal rows."""
    return torch.arange(len(row_M)) - (count_B.cumsum(0) - count_B)[row_M]


def slices(length: int, rows: int) -> Iterator[slice]:
    for start in range(0, length, rows):
        yield slice(start, min(start + rows, length))


def _squared_norms(side: str, features_ND: Tensor, rows: int, device: torch.device) -> Tensor:
    """Return float32 (N,) on `device`; DataError when a row is not finite or its distances could overflow."""
    norm_N = torch.empty(len(features_ND), device=device)  # filled in place: small results would split the heap
    for part in slices(len(features_ND), max(1, rows // 16)):
        torch.sum(features_ND[part].to(device, torch.float32).square(), dim=1, out=norm_N[part])
    bad = int((~(4 * norm_N).isfinite()).sum())
    if bad:
        raise DataError(
            f"{bad} of {len(norm_N)} {side} embeddings are not finite in float32 (NaN, infinite or too large to "
            "square); the training probably diverged: look at its loss, or embed again in float32"
        )
    return norm_N


def equal_rows(features_ND: Tensor, kept_N: Tensor, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return int64 (C,) and (C,): the kept rows that have the very values of an earlier one, and the first such row."""
    odd = features_ND.shape[1] % 2
    random = torch.Generator().manual_seed(0)
    factor_W = torch.randint(-(1 << 62), 1 << 62, (features_ND.shape[1] // 2 + odd,), generator=random).to(device)
    hash_N = torch.empty(len(features_ND), dtype=torch.int64, device=device)
    for part in slices(len(features_ND), max(1, rows // 128)):
        part_ND = functional.pad(features_ND[part].to(device, torch.float32), (0, odd)) + 0.0  # -0.0 becomes 0.0
        torch.sum(part_ND.view(torch.int64) * factor_W, dim=1, out=hash_N[part])  # integers: exact in any order
    kept = kept_N.nonzero().squeeze(1)
    hash_K, order_K = hash_N.cpu()[kept].sort(stable=True)
    first_K = torch.searchsorted(hash_K, hash_K)
    again = (first_K != torch.arange(len(first_K))).nonzero().squeeze(1)
    copy_C, first_C = kept[order_K[again]], kept[order_K[first_K[again]]]
    equal = [
        (features_ND[copy_C[part]].float() == features_ND[first_C[part]].float()).all(dim=1).cpu()
        for part in slices(len(copy_C), max(1, rows // 128))
    ]
    sure = torch.cat(equal) if equal else torch.zeros(0, dtype=torch.bool)
    return copy_C[sure].to(device), first_C[sure].to(device)


def _collapsed(features_ND: Tensor, rows: int, device: torch.device) -> bool:
    """Tell whether the embeddings lie so close together, beside their size, that rounding decides who is nearer."""
    total_D = torch.zeros(features_ND.shape[1], dtype=torch.float64, device=device)
    squares = torch.zeros((), dtype=torch.float64, device=device)
    for part in slices(len(features_ND), max(1, rows // 128)):
        part_ND = features_ND[part].to(device, torch.float32)
        total_D += part_ND.sum(dim=0)
        squares += part_ND.square().sum()
    spread = squares / len(features_ND) - (total_D / len(features_ND)).square().sum()
    return bool(spread <= COLLAPSED * squares / len(features_ND))


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
