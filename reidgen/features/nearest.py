"""The nearest rows of a feature file to some queries, exactly, in one pass over the file. No torch here."""

# Q queries, N rows of the file, B rows of one block, D features, G groups

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidgen.errors import DataError
from reidgen.features.store import Features
from reidgen.runs import Progress

BY = ("crop", "track", "camera")
QUERIES = 1024  # whose products with a block are in memory at a time
SLACK = 1e-4  # by which float32 products may be wrong, of vectors of length 1; what lies nearer is measured exactly


@dataclass(frozen=True)
class Rule:
    """Which rows of a ranking are kept: of the nearest `groups` groups, `each` nearest rows of each.

    group_N: int64, the group of each row of the file, 0..G-1.
    """

    group_N: NDArray[np.int64]
    each: int
    groups: int

    @classmethod
    def rows(cls, length: int, top: int) -> "Rule":
        """The nearest rows, whatever they are of."""
        return cls(np.zeros(length, dtype=np.int64), top, 1)

    def cut(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which of some rows, nearest first, are kept."""
        _, first, group = np.unique(self.group_N[rows], return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))  # of the groups, by their nearest row
        by_group = np.argsort(group, kind="stable")
        starts = np.searchsorted(group[by_group], np.arange(len(first)))
        within = np.empty(len(rows), dtype=np.int64)
        within[by_group] = np.arange(len(rows)) - starts[group[by_group]]
        return (within < self.each) & (order[group] < self.groups)

    def full(self, rows: NDArray[np.int64], size_G: NDArray[np.int64]) -> bool:
        """Tell whether some kept rows are as many as the rule keeps of groups of such sizes; int64 (G,)."""
        there, counts = np.unique(self.group_N[rows], return_counts=True)
        enough = len(there) == min(self.groups, np.count_nonzero(size_G))
        return bool(enough and (counts == np.minimum(self.each, size_G[there])).all())

    def limits(self, rows: NDArray[np.int64], distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return for each group how near a further row of it must be to be kept beside those; float64 (G,)."""
        group = self.group_N[rows]
        there, first, counts = np.unique(group, return_index=True, return_counts=True)
        full = len(there) == self.groups
        found = np.full(int(self.group_N.max()) + 1, distances[first].max() if full else np.inf)
        found[there] = np.inf
        last = {int(one): float(distance) for one, distance in zip(group, distances, strict=True)}  # the farthest
        for one in there[counts == self.each].tolist():
            found[one] = last[one]
        return found


def rule_of(features: Features, by: str, top: int) -> Rule:
    """Return what `search` keeps of a ranking, and raise what it raises for `by` and `top`."""
    rows = features.rows
    if by not in BY:
        raise DataError(f"--by {by!r} should be one of {', '.join(BY)}")
    if top < 1:
        raise DataError(f"--top {top}: give 1 or more")
    if by == "crop" or not len(rows):
        return Rule.rows(len(rows), top)
    if not rows[by].any():
        raise DataError(
            f"{features.file} knows no {by} of any image; embed the images again with --pattern, or from a .csv with a "
            f"column {'track' if by == 'track' else 'camid'}"
        )
    if by == "camera":
        group_N, names = pd.factorize(rows["camera"])
        return Rule(group_N.astype(np.int64), top, len(names))
    alone = rows["track"] == ""
    key = rows["camera"] + "\n" + rows["track"].where(~alone, "\n" + rows["path"])
    return Rule(pd.factorize(key)[0].astype(np.int64), 1, top)


class Ranked(NamedTuple):
    """What is nearest to one query, nearest first, of equal distances the first row of the file first.

    rows: int64 (K,); distances: float64 (K,), squared Euclidean, of unit vectors 0 to 4.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]


@dataclass
class _Best:
    """The best rows for a query so far."""

    rule: Rule
    ranked: Ranked = field(default_factory=lambda: Ranked(np.empty(0, np.int64), np.empty(0)))
    limit_G: NDArray[np.float64] | None = None

    def near(self, rough_B: NDArray[np.float32], start: int) -> NDArray[np.int64]:
        """Return the rows of a block, from 0, that may be kept."""
        if self.limit_G is None:
            return np.arange(len(rough_B))
        group_B = self.rule.group_N[start : start + len(rough_B)]
        return np.flatnonzero(rough_B <= self.limit_G[group_B] + SLACK)

    def add(self, rows: NDArray[np.int64], distances: NDArray[np.float64]) -> None:
        """Put further rows among the best."""
        rows, distances = np.append(self.ranked.rows, rows), np.append(self.ranked.distances, distances)
        order = np.lexsort((rows, distances))
        kept = order[self.rule.cut(rows[order])]
        self.ranked = Ranked(rows[kept], distances[kept])
        if len(kept):
            self.limit_G = self.rule.limits(*self.ranked)


def nearest(features: Features, query_QD: NDArray[np.float32], rule: Rule, report: Progress) -> list[Ranked]:
    """Return the nearest rows of a file to each query, by the project's ranking: squared Euclidean distance.

    query_QD: float32 (Q, D), of length 1 as the file's. The file is read once, block by block; memory holds one block
    and its products with QUERIES queries. Which rows come into question float32 products tell, with SLACK to spare;
    these are measured by the difference itself in float64, so that equal embeddings are equally far to the last bit,
    whatever block they lie in, and of equal distances the first row comes first: the answer is that of sorting all
    distances.
    Raises DataError when the embeddings have another length, or one is not finite. Cost: O(Q N D).
    """
    if query_QD.ndim != 2 or query_QD.shape[1] != features.dim:
        raise DataError(f"queries of shape {query_QD.shape} cannot be compared with embeddings of {features.dim}")
    best = [_Best(rule) for _ in query_QD]
    norm_Q = np.square(query_QD).sum(axis=1)
    for start, block_BD in features.blocks():
        if not np.isfinite(block_BD).all():
            raise DataError(f"{features.file} holds embeddings that are not finite; the network probably diverged")
        norm_B = np.square(block_BD).sum(axis=1)
        for first in range(0, len(query_QD), QUERIES):
            some = slice(first, first + QUERIES)
            rough_QB = query_QD[some] @ block_BD.T
            rough_QB *= -2
            rough_QB += norm_Q[some, None]
            rough_QB += norm_B
            for one, query_D, rough_B in zip(best[some], query_QD[some], rough_QB, strict=True):
                near = one.near(rough_B, start)
                if len(near):
                    one.add(near + start, distances_to(query_D, block_BD[near]))
        report("searching", start + len(block_BD), len(features))
    return [one.ranked for one in best]


def among(
    rows: NDArray[np.int64], embedding_ND: NDArray[np.float32], query_D: NDArray[np.float32], rule: Rule
) -> Ranked:
    """Return the nearest of some rows to one query, as `nearest` ranks them. embedding_ND may be mapped from disk."""
    best = _Best(rule)
    rows = np.unique(rows)
    best.add(rows, distances_to(query_D, np.asarray(embedding_ND[rows])))
    return best.ranked


def distances_to(query_D: NDArray[np.float32], rows_BD: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the squared Euclidean distances of rows to a query, float64 (B,); equal rows have equal bits."""
    found: NDArray[np.float64] = np.square(rows_BD.astype(np.float64) - query_D).sum(axis=1)
    return found
