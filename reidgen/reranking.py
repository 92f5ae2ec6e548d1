"""k-reciprocal re-ranking, exact and sparse: no matrix of all images by all images is ever held."""

# Q queries, G gallery images, N = Q + G; B images of one block, D features, K neighbours, P pairs

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from reidgen.devices import enough_memory
from reidgen.ranking import equal_rows, full_precision, slices

PAIRS = 4_000_000  # of images whose weights are compared at a time
ROWS = 4096  # of sparse matrices that are multiplied at a time


class Neighbours(NamedTuple):
    """order_NK: int64 (N, K), each image's nearest, itself first; far_N: float32, its largest distance to any image.

    kept: of how many neighbours were asked for -> int64 (N,), how many each image has: the first ones of its row.
    """

    order_NK: NDArray[np.int64]
    far_N: Tensor
    kept: dict[int, NDArray[np.int64]]


@enough_memory("re-ranking", "use --device cpu (in Python: lower block_bytes)")
@torch.no_grad()
def rerank(
    query_QD: Tensor,
    gallery_GD: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    block_bytes: int = 256 << 20,
) -> Callable[[slice], Tensor]:
    """Return a function of a slice of queries that gives their re-ranked distances to the gallery, float32 (B, G).

        d(i, j) = |x_i - x_j|^2 / max_k |x_i - x_k|^2                          over all N images, queries and gallery
        R(i, k): the j among the k + 1 nearest of i that have i among their k + 1 nearest; R*(i): R(i, k1) and every
            R(j, k1 / 2) of its j of which more than 2/3 lies in R(i, k1)
        v(i): exp(-d(i, j)) on R*(i), 0 elsewhere, divided by its sum; then the mean of v over the k2 nearest of i
        re-ranked = (1 - weight) (1 - m / (2 - m)) + weight d(i, j),    m = sum of the minima of v(i) and v(j)

    The nearest of an image are itself and the others by distance. Of images that are exactly as far as each other, and
    of which not all can be among the k nearest, **none** is: no order of the images, such as that of file names,
    decides. (The original takes what its sort puts first.) k1 / 2 is rounded to even, as the original does. A neighbour
    may be of the query's own camera, junk, or another query: the result of a query depends on the other queries.

    query_QD, gallery_GD: float (Q, D) and (G, D) on one device, L2-normalised; compared in float32; not modified.
    weight: lambda, of the distance itself. block_bytes: size of one block of distances.
    Raises OutOfMemoryError.

    Source: Zhong et al., CVPR 2017; zhunzhong07/person-re-ranking@278f2c7 [A], from which the same distances come where
    no tie is cut. Difference: d is the *squared* Euclidean distance, once. torchreid and others hand that code squared
    distances, which it squares again, and fast-reid's path through FAISS mixes in the unscaled one: re-ranked numbers
    of toolkits differ for that reason.
    Cost: the product O(N^2 D), in blocks; kept are the K nearest and the rows of v, tens to hundreds of numbers an
    image.
    """
    features_ND = _in_one(query_QD, gallery_GD).float()
    queries, half = len(query_QD), round(k1 / 2)
    near = _neighbours(features_ND, sorted({k1 + 1, half + 1, k2}), block_bytes)
    norm_N = features_ND.square().sum(dim=1)
    v_NN = _weights(features_ND, norm_N, near, k1, half)
    if k2 > 1:
        mean_NN = _first(near, k2).astype(np.float32)
        v_NN = sparse.diags_array((1 / near.kept[k2]).astype(np.float32)) @ (mean_NN @ v_NN)
    v_QN, v_GN = v_NN.tocsr()[:queries], v_NN.tocsr()[queries:].tocsc()
    del v_NN

    @torch.no_grad()
    def distances(rows: slice) -> Tensor:
        own_BD, far_B = features_ND[:queries][rows], near.far_N[:queries][rows]
        with full_precision():
            found_BG = _squared(own_BD, norm_N[:queries][rows], features_ND[queries:], norm_N[queries:])
        found_BG.mul_(weight / far_B[:, None])
        done = 0
        for shared_BG in _shared(v_QN[rows], v_GN):
            shared = torch.from_numpy((1 - weight) * (1 - shared_BG / (2 - shared_BG))).to(found_BG.device)
            found_BG[done : done + len(shared)].add_(shared)
            done += len(shared)
        return found_BG

    return distances


def _in_one(query_QD: Tensor, gallery_GD: Tensor) -> Tensor:
    """Return both sides in one tensor (N, D): a view where the gallery lies right behind the queries, else a copy."""
    sides = query_QD, gallery_GD
    one = len({(side.untyped_storage().data_ptr(), side.dtype, side.stride()) for side in sides}) == 1
    if one and query_QD.is_contiguous() and gallery_GD.storage_offset() == query_QD.storage_offset() + query_QD.numel():
        return query_QD.as_strided((len(query_QD) + len(gallery_GD), query_QD.shape[1]), query_QD.stride())
    return torch.cat(sides)


def _squared(own_BD: Tensor, norm_B: Tensor, other_ND: Tensor, norm_N: Tensor) -> Tensor:
    """Return the squared Euclidean distances, float32 (B, N)."""
    found_BN = torch.addmm(norm_N, own_BD, other_ND.T, alpha=-2)
    return found_BN.add_(norm_B[:, None]).clamp_(min=0)


@full_precision()
def _neighbours(features_ND: Tensor, sizes: list[int], block_bytes: int) -> Neighbours:
    """Return the nearest images of each image, as many as the largest of `sizes`; see `rerank` for ties."""
    images, device = len(features_ND), features_ND.device
    norm_N, far_N = features_ND.square().sum(dim=1), torch.empty(images, device=device)
    take = min(images, sizes[-1] + 1)
    rows = max(1, block_bytes // (4 * images))
    copy_C, first_C = equal_rows(features_ND, torch.ones(images, dtype=torch.bool), rows * 128, device)
    order_NK = np.empty((images, take), dtype=np.int64)
    kept = {size: np.full(images, images, dtype=np.int64) for size in sizes}
    for block in slices(images, rows):
        found_BN = _squared(features_ND[block], norm_N[block], features_ND, norm_N)
        found_BN[:, copy_C] = found_BN[:, first_C]  # the matrix library rounds by column
        torch.amax(found_BN, dim=1, out=far_N[block])
        own_B = torch.arange(block.start, block.stop, device=device)
        found_BN[own_B - block.start, own_B] = -1  # itself comes first, whatever its copies
        value_BK, order_BK = found_BN.topk(take, dim=1, largest=False)
        order_NK[block] = order_BK.cpu().numpy()
        for size in sizes:
            if size < images:
                nearer_BK = value_BK[:, :size] < value_BK[:, size : size + 1]
                kept[size][block] = nearer_BK.sum(dim=1).cpu().numpy()
    return Neighbours(order_NK, far_N.clamp_(min=torch.finfo(torch.float32).tiny), kept)


def _first(near: Neighbours, size: int) -> sparse.csr_array:
    """Return which images are among the `size` nearest of each image, int32 (N, N), 1 where they are."""
    images, count_N = len(near.order_NK), near.kept[size]
    kept_NK = np.arange(near.order_NK.shape[1]) < count_N[:, None]
    ends = np.concatenate([[0], count_N.cumsum()])
    ones = np.ones(ends[-1], dtype=np.int32)
    return sparse.csr_array((ones, near.order_NK[kept_NK], ends), shape=(images, images))


def _reciprocal(near: Neighbours, size: int) -> sparse.csr_array:
    nearest = _first(near, size)
    return nearest.multiply(nearest.T).tocsr()


def _weights(features_ND: Tensor, norm_N: Tensor, near: Neighbours, k1: int, half: int) -> sparse.csr_array:
    """Return v before it is averaged, float32 (N, N)."""
    own, others = _reciprocal(near, k1 + 1), _reciprocal(near, half + 1)
    size_N, turned = others.sum(axis=1), others.T.tocsr()
    parts = []
    for block in slices(len(features_ND), ROWS):
        shared = own[block].multiply(own[block] @ turned).tocoo()  # how much of j's set lies in that of i, for j in it
        wide = 3 * shared.data > 2 * size_N[shared.col]
        ones = np.ones(wide.sum(), dtype=np.int32)
        taken = sparse.csr_array((ones, (shared.row[wide], shared.col[wide])), shape=shared.shape)
        found = (own[block] + taken @ others).tocoo()
        row_P, column_P = found.row.astype(np.int64), found.col.astype(np.int64)
        weight_P = np.exp(-_of_pairs(features_ND, norm_N, near.far_N, row_P + block.start, column_P))
        total_B = np.bincount(row_P, weights=weight_P, minlength=found.shape[0])
        weight_P = (weight_P / total_B[row_P]).astype(np.float32)
        parts.append(sparse.csr_array((weight_P, (row_P, column_P)), shape=found.shape))
    return sparse.vstack(parts, format="csr")


def _of_pairs(
    features_ND: Tensor, norm_N: Tensor, far_N: Tensor, row_P: NDArray[np.int64], column_P: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return d of pairs of images, float64 (P,)."""
    found = []
    for part in slices(len(row_P), max(1, PAIRS // features_ND.shape[1] * 4)):
        row, column = (torch.from_numpy(one[part]).to(features_ND.device) for one in (row_P, column_P))
        product = (features_ND[row] * features_ND[column]).sum(dim=1)
        squared = (norm_N[row] + norm_N[column] - 2 * product).clamp_(min=0)
        found.append((squared / far_N[row]).double().cpu().numpy())
    return np.concatenate(found) if found else np.zeros(0)


def _shared(v_BN: sparse.csr_array, v_GN: sparse.csc_array) -> Iterator[NDArray[np.float32]]:
    """Yield, for some queries after the other, the sums of the minima of their weights and those of each gallery image.

    v_GN: by columns, so that for each image that a query has weight on, the gallery images that have so lie together.
    """
    images = v_GN.shape[0]
    first_N, count_N = v_GN.indptr[:-1].astype(np.int64), np.diff(v_GN.indptr).astype(np.int64)
    pairs_B = np.add.reduceat(np.append(count_N[v_BN.indices], 0), v_BN.indptr[:-1])
    pairs_B[np.diff(v_BN.indptr) == 0] = 0
    start = 0
    while start < len(pairs_B):
        within = np.searchsorted(np.cumsum(pairs_B[start:]), PAIRS, side="right")
        stop = min(len(pairs_B), start + max(1, min(int(within), PAIRS // images)))
        own = slice(v_BN.indptr[start], v_BN.indptr[stop])
        row_E = np.repeat(np.arange(stop - start), np.diff(v_BN.indptr[start : stop + 1]))
        column_E = v_BN.indices[own]
        times_E = count_N[column_E]
        entry_P = np.repeat(np.arange(len(column_E)), times_E)
        place_P = np.arange(len(entry_P)) - np.repeat(times_E.cumsum() - times_E, times_E) + first_N[column_E][entry_P]
        least_P = np.minimum(v_BN.data[own][entry_P], v_GN.data[place_P])
        cell_P = row_E[entry_P] * images + v_GN.indices[place_P]
        total = np.bincount(cell_P, weights=least_P, minlength=(stop - start) * images)
        yield total.reshape(stop - start, images).astype(np.float32)
        start = stop
