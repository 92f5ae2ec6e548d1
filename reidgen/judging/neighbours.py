"""Nearest crops across cameras, and how alike two answers are. Pure arrays, no torch.

Shapes: Q queries, N crops, B crops of a block, K nearest, D features. Embeddings are float32, of length 1.
"""

import numpy as np
from numpy.typing import NDArray

BLOCK = 4096  # crops that are compared at a time: memory holds Q x BLOCK products
NOBODY = -1  # stands where there are fewer crops than were asked for


def nearest(
    query_QD: NDArray[np.float32],
    camera_Q: NDArray[np.int64],
    gallery_ND: NDArray[np.float32],
    camera_N: NDArray[np.int64],
    *,
    top: int = 1,
    inside: bool = False,
) -> NDArray[np.int64]:
    """Return the rows of the nearest crops to each query, nearest first, int64 (Q, top), NOBODY where there are fewer.

    Crops of another camera than `camera_Q` count, or with `inside` those of that camera alone. The gallery is read
    once, block by block, and may lie on disk. Of crops whose float32 products are equal the first row comes first.
    Cost: O(Q N D).
    """
    queries = len(query_QD)
    best_row, best_near = np.full((queries, top), NOBODY), np.full((queries, top), -np.inf, dtype=np.float32)
    for start in range(0, len(gallery_ND), BLOCK):
        near_QB = query_QD @ np.asarray(gallery_ND[start : start + BLOCK]).T
        other_QB = camera_Q[:, None] != camera_N[None, start : start + BLOCK]
        near_QB[other_QB if inside else ~other_QB] = -np.inf
        few = min(top, near_QB.shape[1])
        place = np.argpartition(-near_QB, few - 1, axis=1)[:, :few]
        row = np.concatenate([best_row, place + start], axis=1)
        near = np.concatenate([best_near, np.take_along_axis(near_QB, place, axis=1)], axis=1)
        row[np.isneginf(near)] = NOBODY
        order = np.lexsort((row, -near), axis=1)[:, :top]
        best_row, best_near = (np.take_along_axis(one, order, axis=1) for one in (row, near))
    return best_row


def overlap(one_QK: NDArray[np.int64], other_QK: NDArray[np.int64]) -> float:
    """Return which share of their K nearest two answers have in common, whatever the order, the mean over queries.

    With K = 1, the share of queries with the same nearest crop. NOBODY counts on neither side; NaN without queries.

    >>> overlap(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [4, 9]]))
    0.75
    """
    there_QK = one_QK != NOBODY
    common_QK = (one_QK[:, :, None] == other_QK[:, None, :]).any(2) & there_QK
    asked_Q = there_QK.sum(1)
    return float((common_QK.sum(1)[asked_Q > 0] / asked_Q[asked_Q > 0]).mean()) if (asked_Q > 0).any() else np.nan


def mutual(
    rows_Q: NDArray[np.int64],
    first_Q: NDArray[np.int64],
    gallery_ND: NDArray[np.float32],
    camera_N: NDArray[np.int64],
) -> float:
    """Return the share of queries that are, in their own camera, the nearest crop to their own nearest crop.

    rows_Q: the rows of the queries among the crops; first_Q: of each one's nearest crop of another camera.
    """
    found = first_Q != NOBODY
    rows, first = rows_Q[found], first_Q[found]
    if not len(rows):
        return np.nan
    back = nearest(np.asarray(gallery_ND[first]), camera_N[rows], gallery_ND, camera_N, inside=True)
    return float((back[:, 0] == rows).mean())
