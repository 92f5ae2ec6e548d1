"""Approximate search in large feature files by FAISS, its recall measured against the exact one.

The index is IVF with 8-bit scalars (`IVF<4 sqrt N>,SQ8`), and every candidate is measured exactly afterwards. Why this
one: it is built in one pass, block by block, in minutes where a graph (HNSW) takes hours on a few cores; it takes one
byte per number, a quarter of the file, so that a gallery larger than memory can be searched; and what 8 bits lose, the
exact distances of ten times as many candidates give back. Product quantizers are smaller and lose more than that.
It lies beside the features as NAME.faiss and is built anew for another content.
"""

# N rows of the file, S rows of the sample, Q queries, K candidates

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reidgen.errors import ReidgenError
from reidgen.features.nearest import Rule, among, nearest
from reidgen.features.store import Features
from reidgen.files import replacing
from reidgen.runs import Progress

SAMPLE, DEPTH = 64, 100  # images of the file by which recall is measured, and how many neighbours of each
ENOUGH = 0.95  # recall at DEPTH, until which more cells are probed
PER_CELL = 39  # images that FAISS wants to see of a cell
MORE = 10  # candidates per answer, which are then measured exactly


class Recall(NamedTuple):
    """The share of the exact `top` nearest that the approximate search finds, mean over `sample` images of the file."""

    share: float
    top: int
    sample: int


class Index:
    """An opened index of a feature file."""

    def __init__(
        self, features: Features, index: Any, sample_S: NDArray[np.int64], exact_SK: NDArray[np.int64]
    ) -> None:
        self.features, self._index, self._sample_S, self._exact_SK = features, index, sample_S, exact_SK

    def candidates(self, query_QD: NDArray[np.float32], count: int) -> list[NDArray[np.int64]]:
        """Return the rows that may be the nearest to each query, `count` at most."""
        _, found_QK = self._index.search(np.ascontiguousarray(query_QD), min(count, len(self.features)))
        return [rows[rows >= 0] for rows in found_QK]

    def recall(self, top: int) -> Recall:
        """Measure the recall of the first `top` (at most DEPTH) on the sample, itself left out."""
        top = min(top, self._exact_SK.shape[1])
        query_SD = self.features.take(self._sample_S)
        rule = Rule.rows(len(self.features), top + 1)
        shares = []
        for number, rows in enumerate(self.candidates(query_SD, MORE * (top + 1))):
            found = among(rows, self.features, query_SD[number], rule).rows
            found = found[found != self._sample_S[number]][:top]
            shares.append(len(np.intersect1d(found, self._exact_SK[number, :top])) / top)
        return Recall(float(np.mean(shares)), top, len(self._sample_S))


def index_of(features: Features, report: Progress) -> Index:
    """Return the index of a feature file, read from NAME.faiss or built and kept there.

    Raises ReidgenError when FAISS is missing or the file cannot be written.
    """
    faiss, file = _faiss(), features.file.with_name(f"{features.file.name}.faiss")
    if (held := _read(file, identity(features))) is not None:
        return Index(features, faiss.deserialize_index(held["index"]), held["sample"], held["exact"])
    index = _build(faiss, features, report)
    sample_S = _drawn(len(features), SAMPLE)
    depth = min(DEPTH, len(features) - 1)
    exact = nearest(features, features.take(sample_S), Rule.rows(len(features), depth + 1), report)
    exact_SK = np.array([one.rows[one.rows != row][:depth] for one, row in zip(exact, sample_S, strict=True)])
    made = Index(features, index, sample_S, exact_SK)
    while made.recall(depth).share < ENOUGH and index.nprobe < index.nlist:
        index.nprobe = min(2 * index.nprobe, index.nlist)
    held = {"index": faiss.serialize_index(index), "sample": sample_S, "exact": exact_SK}
    with replacing(file) as temporary, temporary.open("wb") as out:
        np.savez(out, of=np.array(identity(features)), **held)
    return made


def identity(features: Features) -> str:
    """Return the SHA-256 that stands for a file's embeddings: of the network and of all images, in their order."""
    return hashlib.sha256("\n".join([features.info["digest"], *features.rows["sha256"]]).encode()).hexdigest()


def _build(faiss: Any, features: Features, report: Progress) -> Any:
    cells = max(1, min(int(4 * len(features) ** 0.5), len(features) // PER_CELL))
    index = faiss.index_factory(features.dim, f"IVF{cells},SQ8")
    index.train(features.take(_drawn(len(features), 64 * cells)))
    for start, block_BD in features.blocks():
        index.add(np.ascontiguousarray(block_BD))
        report("indexing", start + len(block_BD), len(features))
    index.nprobe = max(1, cells // 64)
    return index


def _drawn(length: int, count: int) -> NDArray[np.int64]:
    """Return `count` different rows, sorted, always the same."""
    return np.sort(np.random.default_rng(0).choice(length, min(count, length), replace=False))


def _read(file: Path, wanted: str) -> dict[str, Any] | None:
    """Return what an index file holds; None where there is none, or it is damaged or of other embeddings."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            return {name: held[name] for name in ("index", "sample", "exact")} if str(held["of"]) == wanted else None
    except Exception:  # whatever numpy and zipfile raise on a damaged one: it is only a cache
        return None


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ReidgenError(
            "approximate search needs FAISS: pip install 'reidgen[search]', or leave out --approximate-above"
        ) from error
    return faiss
