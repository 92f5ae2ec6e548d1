"""Approximate search in large feature files by FAISS, its recall measured against the exact one.

The index is IVF with 8-bit scalars (`IVF<4 sqrt N>,SQ8`), and every candidate is measured exactly afterwards. Why this
one: it is built in one pass, block by block, in minutes where a graph (HNSW) takes hours on a few cores; in memory it
takes one byte per number, a quarter of the file, so that a gallery larger than memory can be searched; and what 8 bits
lose, the exact distances of ten times as many candidates give back. Product quantizers are smaller and lose more.
It lies beside the features as NAME.faiss, with a copy of the embeddings from which single rows are read at once (a
.parquet gives whole row groups only), and is built anew for another content.
"""

# N rows of the file, S rows of the sample, Q queries, K candidates

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reidgen.errors import DataError, ReidgenError
from reidgen.features.nearest import Ranked, Rule, among, nearest
from reidgen.features.store import Features, mapped_embeddings, write_arrays
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


class Sample(NamedTuple):
    """Images of the file by which recall is measured. query_SD: their embeddings; exact_SK: the rows of what is nearest
    to each, itself left out."""

    query_SD: NDArray[np.float32]
    exact_SK: NDArray[np.int64]


class Index:
    """An opened index. embedding_ND: the embeddings, mapped from disk."""

    def __init__(self, index: Any, embedding_ND: NDArray[np.float32], sample: Sample) -> None:
        self._index, self._embedding_ND, self._sample = index, embedding_ND, sample

    def nearest(self, query_QD: NDArray[np.float32], rule: Rule, top: int) -> list[Ranked]:
        """Return what is nearest to each query among MORE times `top` candidates, measured exactly."""
        found = _candidates(self._index, query_QD, top)
        return [among(rows, self._embedding_ND, query_D, rule) for rows, query_D in zip(found, query_QD, strict=True)]

    def recall(self, top: int) -> Recall:
        """Return the recall of the first `top` (at most DEPTH) on the sample."""
        return _recall(self._index, self._sample, top)


def _candidates(index: Any, query_QD: NDArray[np.float32], top: int, besides: int = 0) -> list[NDArray[np.int64]]:
    _, found_QK = index.search(np.ascontiguousarray(query_QD), min(max(MORE * top, 100) + besides, index.ntotal))
    return [rows[rows >= 0] for rows in found_QK]


def _recall(index: Any, sample: Sample, top: int) -> Recall:
    """Return the recall on the sample: what is among the candidates and of the exact `top` is found, as candidates are
    measured exactly, and nothing else is nearer.
    """
    top = min(top, sample.exact_SK.shape[1])
    found = _candidates(index, sample.query_SD, top, besides=1)  # itself
    shares = [len(np.intersect1d(rows, own[:top])) / top for rows, own in zip(found, sample.exact_SK, strict=True)]
    return Recall(float(np.mean(shares)), top, len(shares))


def index_of(features: Features, report: Progress) -> Index:
    """Return the index of a feature file, read from NAME.faiss or built and kept there.

    Raises ReidgenError when FAISS is missing or the file cannot be written, DataError where a file has one image.
    """
    faiss, file = _faiss(), features.file.with_name(f"{features.file.name}.faiss")
    if len(features) < 2:
        raise DataError(f"{features.file} holds one image; leave out --approximate-above")
    if (held := _read(faiss, file, features)) is not None:
        return held
    index, rows_S, depth = _build(faiss, features, report), _drawn(len(features), SAMPLE), min(DEPTH, len(features) - 1)
    query_SD = features.take(rows_S)
    exact = nearest(features, query_SD, Rule.rows(len(features), depth + 1), report)
    exact_SK = np.array([one.rows[one.rows != row][:depth] for one, row in zip(exact, rows_S, strict=True)])
    sample = Sample(query_SD, exact_SK)
    while _recall(index, sample, depth).share < ENOUGH and index.nprobe < index.nlist:
        index.nprobe = min(2 * index.nprobe, index.nlist)
    arrays = {"of": np.array(identity(features)), "index": faiss.serialize_index(index), **sample._asdict()}
    with replacing(file) as temporary:
        blocks = (block_BD for _, block_BD in features.blocks())
        write_arrays(temporary, arrays, (len(features), features.dim), blocks)
    made = _read(faiss, file, features)
    assert made is not None
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


def _read(faiss: Any, file: Path, features: Features) -> Index | None:
    """Return the index in a file; None where there is none, or it is damaged or of other embeddings."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            if str(held["of"]) != identity(features):
                return None
            sample = Sample(held["query_SD"], held["exact_SK"])
            embedding_ND = mapped_embeddings(file, (len(features), features.dim))
            return Index(faiss.deserialize_index(held["index"]), embedding_ND, sample)
    except Exception:  # whatever numpy, zipfile and FAISS raise on a damaged one: it can be built again
        return None


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ReidgenError(
            "approximate search needs FAISS: pip install 'reidgen[search]', or leave out --approximate-above"
        ) from error
    return faiss
