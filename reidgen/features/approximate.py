"""Approximate search in large feature files by FAISS, its recall measured against the exact one.

The index is IVF with 8-bit scalars (`IVF<4 sqrt N>,SQ8`), and every candidate is measured exactly afterwards. Why this
one: it is built in one pass, block by block, in minutes where a graph (HNSW) takes hours on a few cores; in memory it
takes one byte per number, a quarter of the file, so that a gallery larger than memory can be searched; and what 8 bits
lose, the exact distances of ten times as many candidates give back. By track or camera as many candidates are looked at
as the answer needs; a query that needs more than MOST is compared with the whole file. Product quantizers are smaller
and lose more.
It lies beside the features as NAME.faiss, with a copy of the embeddings from which single rows are read at once (a
.parquet gives whole row groups only), and is built anew for another content.
"""

# N rows of the file, S rows of the sample, Q queries, K candidates

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reidgen.errors import DataError, ReidgenError
from reidgen.features.nearest import Ranked, Rule, among, nearest, rule_of
from reidgen.features.store import Features, mapped_embeddings, write_arrays
from reidgen.files import replacing
from reidgen.runs import Progress

SAMPLE, DEPTH = 64, 100  # images of the file by which recall is measured, and how many neighbours of each
ENOUGH = 0.95  # recall at DEPTH, until which more cells are probed
PER_CELL = 39  # images that FAISS wants to see of a cell
MORE = 10  # candidates per answer, which are then measured exactly
NUMBERS = 2**22  # rows of candidates that are in memory at a time, of all queries together
MOST = 16384  # candidates of a query, beyond which the whole file is read instead


class Recall(NamedTuple):
    """The share of the exact `top` nearest that the approximate search finds, mean over `sample` images of the file.

    by: what `top` counts, see `search.search`: crops, tracks, or crops of every camera.
    """

    share: float
    top: int
    sample: int
    by: str = "crop"


class Sample(NamedTuple):
    """Images of the file by which recall is measured. query_SD: their embeddings; exact_SK: the rows of what is nearest
    to each, itself left out."""

    query_SD: NDArray[np.float32]
    exact_SK: NDArray[np.int64]


class Index:
    """An opened index of a feature file. embedding_ND: its embeddings, mapped from disk."""

    def __init__(self, index: Any, features: Features, embedding_ND: NDArray[np.float32], sample: Sample) -> None:
        self._index, self._features, self._embedding_ND, self._sample = index, features, embedding_ND, sample

    def nearest(self, query_QD: NDArray[np.float32], rule: Rule, top: int, report: Progress) -> list[Ranked]:
        """Return what is nearest to each query among candidates, measured exactly; of the whole file where it takes
        more than MOST of them until the rule has all that it keeps.
        """
        found = self._found(query_QD, rule, top)
        left = [number for number, one in enumerate(found) if one is None]
        exact = iter(nearest(self._features, query_QD[left], rule, report) if left else ())
        return [next(exact) if one is None else one for one in found]

    def recall(self, by: str, top: int, report: Progress) -> Recall:
        """Return the recall of the first `top` (at most DEPTH) on the sample, each image of it left out itself."""
        top = min(top, self._sample.exact_SK.shape[1])
        rule, own_S = rule_of(self._features, by, top), _drawn(len(self._features), SAMPLE)
        exact = self._exact(rule, own_S, report)
        found = self._found(self._sample.query_SD, rule, top, own_S)
        shares = [
            1.0 if one is None else len(np.intersect1d(one.rows, rows)) / len(rows)
            for one, rows in zip(found, exact, strict=True)
        ]
        return Recall(float(np.mean(shares)), top, len(shares), by)

    def _found(
        self, query_QD: NDArray[np.float32], rule: Rule, top: int, own_Q: NDArray[np.int64] | None = None
    ) -> list[Ranked | None]:
        """Return what is nearest to each query, None where it takes the whole file. own_Q: rows that are left out.

        Candidates, and the cells in which they are looked for, are doubled until the rule has all that it keeps.
        """
        found: list[Ranked | None] = [None] * len(query_QD)
        size_G, left = np.bincount(rule.group_N), list(range(len(query_QD)))
        count, probes = max(MORE * top, 100) + (own_Q is not None), self._index.nprobe
        while left and count < self._index.ntotal:
            for number, rows in zip(left, _candidates(self._index, query_QD[left], count, probes), strict=True):
                size = size_G
                if own_Q is not None:
                    rows, size = rows[rows != own_Q[number]], size_G.copy()
                    size[rule.group_N[own_Q[number]]] -= 1
                ranked = among(rows, self._embedding_ND, query_QD[number], rule)
                if rule.full(ranked.rows, size):
                    found[number] = ranked
            left = [number for number in left if found[number] is None]
            if count >= MOST:
                break
            count, probes = 2 * count, min(2 * probes, self._index.nlist)
        return found

    def _exact(self, rule: Rule, own_S: NDArray[np.int64], report: Progress) -> list[NDArray[np.int64]]:
        """Return the rows that a rule keeps of the whole file for each image of the sample, itself left out.

        It takes a pass over the file; the last rule's rows are kept as NAME.faiss.rows.
        """
        if not rule.group_N.any():  # one group: crops
            return list(self._sample.exact_SK[:, : rule.each])
        words = f"{identity(self._features)} {rule.each} {rule.groups} ".encode() + rule.group_N.tobytes()
        digest, file = hashlib.sha256(words).hexdigest(), _beside(self._features, ".faiss.rows")
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
                if str(held["of"]) == digest:
                    return np.split(held["rows"], held["starts"])
        except Exception:  # none, or damaged
            pass
        wider = dataclasses.replace(rule, each=rule.each + 1, groups=rule.groups + 1)
        ranked = nearest(self._features, self._sample.query_SD, wider, report)
        others = [one.rows[one.rows != row] for one, row in zip(ranked, own_S, strict=True)]
        kept = [rows[rule.cut(rows)] for rows in others]
        with replacing(file) as temporary, temporary.open("wb") as out:
            np.savez(out, of=digest, rows=np.concatenate(kept), starts=np.cumsum([len(rows) for rows in kept])[:-1])
        return kept


def _candidates(
    index: Any, query_QD: NDArray[np.float32], count: int, probes: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of `count` candidates for each query, from `probes` cells, else from as many as the index says."""
    options = {} if probes is None else {"params": _faiss().SearchParametersIVF(nprobe=probes)}
    step = max(1, NUMBERS // count)
    for start in range(0, len(query_QD), step):
        some = np.ascontiguousarray(query_QD[start : start + step])
        _, found_QK = index.search(some, min(count, index.ntotal), **options)
        yield from (rows[rows >= 0] for rows in found_QK)


def _share(index: Any, sample: Sample) -> float:
    """Return the share of the exact nearest crops that are among the candidates: these are measured exactly."""
    depth = sample.exact_SK.shape[1]
    found = _candidates(index, sample.query_SD, max(MORE * depth, 100) + 1)  # itself
    return float(
        np.mean([len(np.intersect1d(rows, own)) / depth for rows, own in zip(found, sample.exact_SK, strict=True)])
    )


def index_of(features: Features, report: Progress) -> Index:
    """Return the index of a feature file, read from NAME.faiss or built and kept there.

    Raises ReidgenError when FAISS is missing or the file cannot be written, DataError where a file has one image.
    """
    faiss, file = _faiss(), _beside(features, ".faiss")
    if len(features) < 2:
        raise DataError(f"{features.file} holds one image; leave out --approximate-above")
    if (held := _read(faiss, file, features)) is not None:
        return held
    index, rows_S, depth = _build(faiss, features, report), _drawn(len(features), SAMPLE), min(DEPTH, len(features) - 1)
    query_SD = features.take(rows_S)
    exact = nearest(features, query_SD, Rule.rows(len(features), depth + 1), report)
    exact_SK = np.array([one.rows[one.rows != row][:depth] for one, row in zip(exact, rows_S, strict=True)])
    sample = Sample(query_SD, exact_SK)
    while _share(index, sample) < ENOUGH and index.nprobe < index.nlist:
        index.nprobe = min(2 * index.nprobe, index.nlist)
    arrays = {"of": np.array(identity(features)), "index": faiss.serialize_index(index), **sample._asdict()}
    with replacing(file) as temporary:
        blocks = (block_BD for _, block_BD in features.blocks())
        write_arrays(temporary, arrays, (len(features), features.dim), blocks)
    made = _read(faiss, file, features)
    assert made is not None
    return made


def _beside(features: Features, end: str) -> Path:
    return features.file.with_name(features.file.name + end)


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
            return Index(faiss.deserialize_index(held["index"]), features, embedding_ND, sample)
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
