"""Re-ranking against a dense textbook version, loop by loop, and what no dense version can: a bound on memory."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reidgen import reranking
from reidgen.ranking import rank
from reidgen.reranking import rerank

Array = NDArray[np.float64]


def clustered(number: int, features: int = 16, *, people: int = 6, seed: int = 0) -> Array:
    """Unit vectors about a few centres."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(people, features))[rng.integers(people, size=number)] + rng.normal(size=(number, features))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)


def textbook(query: Array, gallery: Array, *, k1: int, k2: int, weight: float, cut_ties: bool) -> Array:
    """Zhong et al. (CVPR 2017), dense, image by image. cut_ties: take what a sort puts first, as the original does."""
    x = np.concatenate([query, gallery])
    squared = np.maximum(((x[:, None] - x[None]) ** 2).sum(2), 0)
    scaled = squared / squared.max(axis=1, keepdims=True)

    def nearest(i: int, size: int) -> set[int]:
        if cut_ties:
            return set(np.argsort(squared[i], kind="stable")[:size].tolist())
        own = squared[i].copy()
        own[i] = -1
        edge = np.sort(own)[size] if size < len(x) else np.inf
        return set(np.flatnonzero(own < edge).tolist())

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in nearest(i, k + 1) if i in nearest(j, k + 1)}

    v = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        own = reciprocal(i, k1)
        wide = set(own)
        for j in own:
            other = reciprocal(j, int(np.around(k1 / 2)))
            if len(other & own) > 2 / 3 * len(other):
                wide |= other
        members = sorted(wide)
        v[i, members] = np.exp(-scaled[i, members])
        v[i] /= v[i].sum()
    if k2 > 1:
        v = np.stack([v[sorted(nearest(i, k2))].mean(axis=0) for i in range(len(x))])
    shared = np.minimum(v[: len(query), None], v[None, len(query) :]).sum(2)
    return (1 - weight) * (1 - shared / (2 - shared)) + weight * scaled[: len(query), len(query) :]


def ours(query: Array, gallery: Array, **params: float) -> Array:
    distances = rerank(*(torch.from_numpy(one).float() for one in (query, gallery)), **params)  # type: ignore[arg-type]
    blocks = [distances(slice(start, min(start + 5, len(query)))) for start in range(0, len(query), 5)]
    return torch.cat(blocks).double().numpy()


@pytest.mark.parametrize("cut_ties", [True, False])
@pytest.mark.parametrize(
    ("queries", "images", "params"),
    [
        (17, 63, {"k1": 20, "k2": 6, "weight": 0.3}),
        (40, 23, {"k1": 7, "k2": 3, "weight": 0.0}),  # 7 / 2 is rounded to 4
        (1, 60, {"k1": 5, "k2": 1, "weight": 0.5}),  # 5 / 2 to 2
        (4, 9, {"k1": 20, "k2": 6, "weight": 0.3}),  # fewer images than neighbours
        (2, 1, {"k1": 1, "k2": 6, "weight": 1.0}),
    ],
)
def test_it_is_the_textbooks(
    queries: int, images: int, params: dict[str, float], cut_ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking, "PAIRS", 300)  # several parts of everything
    monkeypatch.setattr(reranking, "ROWS", 7)
    x = clustered(queries + images)
    expected = textbook(x[:queries], x[queries:], **params, cut_ties=cut_ties)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours(x[:queries], x[queries:], **params), expected, atol=1e-6)
    small = ours(x[:queries], x[queries:], **params, block_bytes=4 * 3 * (queries + images))
    np.testing.assert_allclose(small, expected, atol=1e-6)


def test_ties_and_duplicates_are_cut_by_no_order() -> None:
    """Copies on both sides, more of one image than there are neighbours, and a grid on which many are equally far."""
    x = clustered(50, people=3)
    x[[3, 30, 31, 44]] = x[5]
    x[32:40] = x[7]  # eight copies, with six neighbours
    grid = np.array([[a, b, c, 1 + 0 * a] for a in (-1.0, 1) for b in (-1.0, 1) for c in (-1.0, 1)]) / 2  # unit
    for points, params in (
        (x, {"k1": 5, "k2": 3, "weight": 0.3}),
        (np.concatenate([grid, grid]), {"k1": 3, "k2": 2, "weight": 0.3}),
    ):
        queries = 6
        expected = textbook(points[:queries], points[queries:], **params, cut_ties=False)  # type: ignore[arg-type]
        found = ours(points[:queries], points[queries:], **params)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        order = np.random.default_rng(1).permutation(len(points) - queries)
        moved = ours(points[:queries][::-1].copy(), points[queries:][order], **params)
        np.testing.assert_allclose(moved[::-1], found[:, order], atol=1e-6)


def test_it_is_ranked_in_blocks_with_junk_as_neighbours() -> None:
    x = clustered(60)
    pid = np.random.default_rng(2).integers(5, size=60)
    pid[20:26] = -1
    camid = np.arange(60) % 3
    query, gallery = (torch.from_numpy(part).float() for part in (x[:20], x[20:]))
    ids = {"pid_Q": pid[:20], "pid_G": pid[20:], "camid_Q": camid[:20], "camid_G": camid[20:]}
    given = {name: torch.from_numpy(ids_N) for name, ids_N in ids.items()}
    found = rank(query, gallery, **given, distances=rerank(query, gallery), block_bytes=4 * 40 * 3)
    expected = textbook(x[:20], x[20:], k1=20, k2=6, weight=0.3, cut_ties=True)
    for number in range(20):
        kept = (pid[20:] != -1) & ~((pid[20:] == pid[number]) & (camid[20:] == camid[number]))
        order = np.argsort(expected[number][kept], kind="stable")
        hits = (pid[20:][kept] == pid[number])[order]
        precision = (hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean()
        assert found.average_precision[number].item() == pytest.approx(precision)
    plain = rank(query, gallery, **given)
    assert found.mAP != plain.mAP


def test_sides_in_one_piece_are_not_copied_and_mean_the_same() -> None:
    """As `evaluation.sides_of` leaves them; others are joined."""
    both = torch.randn(30, 8)
    sides, part = (both[:10], both[10:]), (both[:10], both[11:])
    assert reranking._in_one(*sides).data_ptr() == both.data_ptr() and torch.equal(reranking._in_one(*sides), both)
    for other in (part, sides[::-1], (both[:10], both[10:].clone()), (both[:10], both[10:].double())):
        joined = reranking._in_one(*other)
        assert joined.data_ptr() != both.data_ptr() and torch.equal(joined, torch.cat(other))
    whole = slice(0, 10)
    assert torch.equal(rerank(*sides)(whole), rerank(*(side.clone() for side in sides))(whole))


def test_a_collapsed_network_earns_nothing() -> None:
    same = torch.ones(12, 4) / 2
    pid, camid = torch.arange(12) % 3, torch.arange(12) % 2
    ids = {"pid_Q": pid[:6], "pid_G": pid[6:], "camid_Q": camid[:6], "camid_G": camid[6:]}
    found = rank(same[:6], same[6:], **ids, distances=rerank(same[:6], same[6:], k1=3, k2=2))
    torch.testing.assert_close(found.average_precision, rank(same[:6], same[6:], **ids).average_precision)
    assert found.tied.all()
