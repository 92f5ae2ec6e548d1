"""Rankings against a naive loop, against scikit-learn, and over all orders of images that are equally far."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional

from reidgen.errors import DataError
from reidgen.ranking import Ranking, rank


def naive_rank(query_QD: Tensor, gallery_GD: Tensor, *, pid_Q: Tensor, pid_G: Tensor, camid_Q: Tensor, camid_G: Tensor):
    """Return AP, first rank and INP per query as lists: the reference, one query and one image at a time."""
    average_precision, first_match, inverse_negative_penalty = [], [], []
    for query_D, pid, camid in zip(query_QD.double(), pid_Q.tolist(), camid_Q.tolist(), strict=True):
        kept = [
            i
            for i, (other, camera) in enumerate(zip(pid_G.tolist(), camid_G.tolist(), strict=True))
            if other != -1 and not (other == pid and camera == camid)
        ]
        distance = {i: (query_D - gallery_GD[i].double()).square().sum().item() for i in kept}
        order = sorted(kept, key=lambda i: (distance[i], bool(pid_G[i] == pid)))  # of ties the matches come last
        ranks = [place for place, i in enumerate(order, start=1) if pid_G[i] == pid]
        average_precision.append(
            sum(hits / r for hits, r in enumerate(ranks, start=1)) / len(ranks) if ranks else math.nan
        )
        first_match.append(ranks[0] if ranks else 0)
        inverse_negative_penalty.append(len(ranks) / ranks[-1] if ranks else math.nan)
    return average_precision, first_match, inverse_negative_penalty


def problem(
    seed: int, *, queries: int = 23, images: int = 120, pids: int = 9, cameras: int = 3, tied: bool = False
) -> dict[str, Tensor]:
    """Return random arguments for rank(): junk (-1), distractors (0), pids that only one side has."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    def features(rows: int) -> Tensor:  # integers in few dimensions: exact in float32, and many distances are equal
        return integers(-2, 3, rows, 4).float() if tied else torch.randn(rows, 16, generator=generator)

    return {
        "query_QD": features(queries),
        "gallery_GD": features(images),
        "pid_Q": integers(1, pids + 3, queries),  # the last two have no match
        "pid_G": integers(-1, pids + 1, images),
        "camid_Q": integers(0, cameras, queries),
        "camid_G": integers(0, cameras, images),
    }


def on(device: str, arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in arguments.items()}


def assert_same(left: Ranking, right: Ranking) -> None:
    torch.testing.assert_close(vars(left), vars(right), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_naive_loop(seed: int, tied: bool) -> None:
    arguments = problem(seed, tied=tied, pids=2 if seed == 5 else 9)
    before = {name: value.clone() for name, value in arguments.items()}
    ranking = rank(**arguments)
    average_precision, first_match, inverse_negative_penalty = naive_rank(**arguments)
    np.testing.assert_allclose(ranking.average_precision, average_precision, rtol=1e-14)
    assert ranking.first_match.tolist() == first_match
    np.testing.assert_array_equal(ranking.inverse_negative_penalty, inverse_negative_penalty)
    assert ranking.unmatched == first_match.count(0) > 0
    assert ranking.mAP == pytest.approx(np.nanmean(average_precision))
    assert ranking.mINP == pytest.approx(np.nanmean(inverse_negative_penalty))
    matched = [first for first in first_match if first]
    for k in (1, 5, 120):
        assert ranking.rank(k) == pytest.approx(sum(first <= k for first in matched) / len(matched))
    assert all(torch.equal(arguments[name], before[name]) for name in before), "the arguments were modified"


def test_a_tie_worked_by_hand() -> None:
    """Distances 1, 4, 4, 4, 9 with the matches at 1, 4 and 4: ranks 1, 3, 4, since the other one at 4 comes first."""
    ranking = rank(
        torch.tensor([[0.0]]), torch.tensor([[2.0], [1.0], [2.0], [3.0], [-2.0]]),
        pid_Q=torch.tensor([7]), pid_G=torch.tensor([7, 7, 3, 4, 7]),
        camid_Q=torch.tensor([0]), camid_G=torch.ones(5, dtype=torch.int64),
    )  # fmt: skip
    assert ranking.average_precision.tolist() == [pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)]
    assert ranking.first_match.tolist() == [1] and ranking.tied.tolist() == [True]
    assert ranking.inverse_negative_penalty.tolist() == [3 / 4]


@pytest.mark.parametrize("seed", range(4))
def test_of_all_orders_of_ties_the_worst_counts(seed: int) -> None:
    """No order of equally far images, of all there are, gives less, and one gives just this."""
    arguments = problem(seed, queries=6, images=8, pids=2, cameras=3, tied=True)
    arguments["query_QD"], arguments["gallery_GD"] = arguments["query_QD"][:, :1], arguments["gallery_GD"][:, :1]
    ranking = rank(**arguments)
    for query, pid in enumerate(arguments["pid_Q"].tolist()):
        distance_G = (arguments["query_QD"][query] - arguments["gallery_GD"]).square().sum(1)
        same_G = arguments["pid_G"] == pid
        kept_G = (arguments["pid_G"] != -1) & ~(same_G & (arguments["camid_G"] == arguments["camid_Q"][query]))
        found = []
        for order in itertools.permutations(kept_G.nonzero().squeeze(1).tolist()):
            if all(distance_G[a] <= distance_G[b] for a, b in itertools.pairwise(order)):
                ranks = [place for place, image in enumerate(order, start=1) if same_G[image]]
                found.append([sum(n / r for n, r in enumerate(ranks, start=1)) / max(1, len(ranks)), *ranks])
        worst = min(found)
        if len(worst) > 1:
            assert ranking.average_precision[query].item() == pytest.approx(worst[0])
            assert ranking.first_match[query] == max(ranks[1] for ranks in found)
            assert ranking.tied[query] == (max(found) > worst)


def test_a_collapsed_network_earns_nothing_whatever_its_files_are_called() -> None:
    arguments = problem(0) | {"query_QD": torch.ones(23, 4), "gallery_GD": torch.ones(120, 4)}
    first = sorted(arguments["pid_G"].tolist(), key=lambda pid: pid == 9)
    for pid_G in (arguments["pid_G"], torch.tensor(first), torch.tensor(first[::-1])):
        ranking = rank(**arguments | {"pid_G": pid_G, "camid_G": torch.full((120,), 5)})
        matches_Q = (pid_G == arguments["pid_Q"][:, None]).sum(1)
        kept = int((pid_G != -1).sum())
        assert ranking.first_match.tolist() == [kept - n + 1 if n else 0 for n in matches_Q.tolist()]
        assert ranking.tied.tolist() == (matches_Q > 0).tolist()


@pytest.mark.parametrize(("spread", "collapsed"), [(0.3, False), (1e-2, False), (3e-4, True), (1e-7, True), (0, True)])
def test_embeddings_that_nearly_collapse_count_as_tied(spread: float, collapsed: bool) -> None:
    """At 3e-4 a distance is of the size of a few roundings of the products that it is the difference of."""
    arguments = problem(7)
    centre_D = torch.full((16,), 0.25)
    for name in ("query_QD", "gallery_GD"):
        arguments[name] = centre_D + spread * arguments[name] / 4
    ranking = rank(**arguments)
    matched = ranking.first_match > 0
    assert torch.equal(ranking.tied, matched) if collapsed else not ranking.tied[matched].all()


@pytest.mark.parametrize("features", [3, 37, 512])
@pytest.mark.parametrize("images", [333, 1001])
def test_equal_embeddings_are_equally_far_to_the_last_bit(images: int, features: int) -> None:
    """Every match has a copy far away in the gallery that is none, and stands behind it: ranks 2, 4, 6 and so on.

    The matrix library rounds by column: without care a few of these distances differ in the last bit.
    """
    generator = torch.Generator().manual_seed(features)
    match_GD = functional.normalize(torch.randn(images, features, generator=generator))
    match_GD[7, 0] = 0.0
    copy_GD = match_GD.clone()
    copy_GD[7, 0] = -0.0
    for block_bytes in (19 * 4 * features, 50 * 4 * features, 256 << 20):
        ranking = rank(
            functional.normalize(torch.randn(41, features, generator=generator)),
            torch.cat([match_GD, copy_GD[torch.randperm(images, generator=generator)]]),
            pid_Q=torch.ones(41, dtype=torch.int64), pid_G=torch.arange(2 * images) // images + 1,
            camid_Q=torch.zeros(41, dtype=torch.int64), camid_G=torch.ones(2 * images, dtype=torch.int64),
            block_bytes=block_bytes,
        )  # fmt: skip
        # other images may be equally far by chance, which makes it less; a match before its copy makes it more
        assert (ranking.average_precision <= 0.5).all() and (ranking.average_precision > 0.49).all()
        assert (ranking.inverse_negative_penalty == 0.5).all() and ranking.tied.all()


def test_average_precision_equals_scikit_learn() -> None:
    arguments = problem(1, queries=40, images=300)
    distance_QG = torch.cdist(arguments["query_QD"].double(), arguments["gallery_GD"].double())
    pid_G, camid_G = arguments["pid_G"], arguments["camid_G"]
    for query, ap in enumerate(rank(**arguments).average_precision.tolist()):
        same = pid_G == arguments["pid_Q"][query]
        kept = (pid_G != -1) & ~(same & (camid_G == arguments["camid_Q"][query]))
        if same[kept].any():
            assert ap == pytest.approx(average_precision_score(same[kept], -distance_QG[query, kept]), rel=1e-12)
        else:
            assert math.isnan(ap)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("block_bytes", [700, 3 * 4 * 120, 7 * 4 * 120, 20 * 4 * 120])
def test_block_size_changes_nothing(block_bytes: int, tied: bool) -> None:
    arguments = problem(2, tied=tied)
    assert_same(rank(**arguments, block_bytes=block_bytes), rank(**arguments))


def test_the_order_of_a_gallery_without_ties_changes_nothing() -> None:
    arguments = problem(3)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    shuffled = {name: value[order] if name.endswith(("_G", "_GD")) else value for name, value in arguments.items()}
    assert_same(rank(**arguments), rank(**shuffled))


def test_a_query_of_pid_minus_one_matches_no_junk() -> None:
    arguments = problem(4)
    arguments["pid_Q"][0] = -1
    assert rank(**arguments).first_match[0] == 0


def test_memory_mapped_half_precision_gallery_and_low_matrix_precision(tmp_path) -> None:
    arguments = problem(5, tied=True)
    np.save(tmp_path / "gallery.npy", arguments["gallery_GD"].half().numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "gallery.npy", mmap_mode="c"))
    expected = rank(**arguments)
    assert_same(rank(**arguments | {"gallery_GD": mapped}, block_bytes=2000), expected)
    torch.set_float32_matmul_precision("medium")
    try:
        assert_same(rank(**arguments), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camid_Q": torch.zeros(23), "camid_G": torch.zeros(120)}, r"none of the 23 queries .*more than one camera"),
        ({"pid_G": torch.full((120,), 99)}, r"none of the 23 queries .*\(0 queries find their pid"),
        ({"pid_G": torch.full((120,), -1)}, "none of the 23 queries"),
        ({"query_QD": torch.empty(0, 16)}, "the query has no embeddings"),
        ({"gallery_GD": torch.empty(0, 16)}, "the gallery has no embeddings"),
        ({"gallery_GD": torch.ones(120, 5)}, r"one D, got \(23, 16\) and \(120, 5\)"),
        ({"query_QD": torch.ones(16)}, r"one D, got \(16,\)"),
        ({"pid_Q": torch.ones(22)}, r"pid_Q must hold one number for each of the 23 .*got shape \(22,\)"),
        ({"camid_G": torch.ones(120, 1)}, r"camid_G must hold .*\(120, 1\)"),
        ({"query_QD": torch.full((23, 16), torch.nan)}, "23 of 23 query embeddings are not finite"),
        ({"gallery_GD": torch.full((120, 16), torch.inf)}, "120 of 120 gallery embeddings are not finite"),
        ({"gallery_GD": torch.full((120, 16), 1e30)}, "too large to square"),
    ],
)
def test_what_cannot_be_ranked_is_said_in_one_sentence(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rank(**problem(0) | change)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("block_bytes", [700, 256 << 20])
@pytest.mark.parametrize("tied", [False, True])
def test_cuda_equals_cpu(tied: bool, block_bytes: int) -> None:
    arguments = problem(6, tied=tied)
    expected = rank(**arguments)
    assert_same(rank(**on("cuda", arguments), block_bytes=block_bytes), expected)
    assert_same(rank(**arguments | {"query_QD": arguments["query_QD"].cuda()}, block_bytes=block_bytes), expected)
