"""The statistics against truth: simulated coverage, uniform p-values, numbers worked by hand, scipy.stats, Demšar's table."""

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from reidgen.tables.statistics import Spread, average_ranks, bootstrap_scores, holm, intervals, nemenyi_q, spread

DEMSAR = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]  # q at 0.05 for 2 to 10 methods, his table 5a
TRUE = 0.03


def test_each_draw_takes_whole_identities_and_all_columns_alike() -> None:
    """Two identities with 1 and 3 queries, scores 1 and 0: a draw is (1, 1), (1, 2) or (2, 2), so 1, 1/4 or 0."""
    sums = np.array([[[1.0, 0.5]], [[0.0, 0.0]]])
    scores = bootstrap_scores(sums, np.array([[1.0], [3.0]]), draws=4000)
    values, counts = np.unique(scores[:, 0], return_counts=True)
    assert values.tolist() == [0, 0.25, 1]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert (scores[:, 1] == scores[:, 0] / 2).all()


def test_splits_count_alike_however_many_queries_they_have() -> None:
    rng = np.random.default_rng(0)
    count = rng.integers(0, 4, size=(30, 5)).astype(float)
    sums = count[..., None] * rng.uniform(size=(30, 5, 2))
    scores = bootstrap_scores(sums, count, draws=50, seed=3)
    kept = np.flatnonzero(count.sum(1))
    drawn = np.random.default_rng(3).integers(len(kept), size=(50, len(kept)))
    for draw, score in zip(drawn, scores, strict=True):
        sample = kept[draw]
        means = [sums[sample, split].sum(0) / count[sample, split].sum() for split in range(5)]
        assert score == pytest.approx(np.mean(means, axis=0))


def test_bootstrap_against_scipy() -> None:
    """One query per identity, one split: the ordinary bootstrap of a mean."""
    sample = np.random.default_rng(1).exponential(size=80)
    ours = bootstrap_scores(sample[:, None, None], np.ones((80, 1)), draws=10_000)[:, 0]
    theirs = scipy.stats.bootstrap((sample,), np.mean, n_resamples=10_000, method="basic", rng=2)
    assert ours.std(ddof=1) == pytest.approx(theirs.standard_error, rel=0.03)


def test_two_methods_and_only_seeds_are_the_paired_t_test() -> None:
    score = np.random.default_rng(2).uniform(size=(2, 1, 5))
    low, high, p = intervals([spread(score, [np.zeros((5, 5))], [10])])
    theirs = scipy.stats.ttest_rel(score[0, 0], score[1, 0])
    assert p == pytest.approx(theirs.pvalue, rel=1e-3)
    assert [low[0], high[0]] == pytest.approx(list(theirs.confidence_interval()), rel=1e-3)


def test_only_queries_are_a_t_test_over_identities() -> None:
    """One query per identity: the bootstrap's variance, made unbiased, with I - 1 degrees of freedom."""
    sample = np.random.default_rng(3).normal(0.2, 1, size=25)
    variance = np.array([[sample.var() / 25]])
    low, high, p = intervals([spread(np.array([[[sample.mean()]], [[0.0]]]), [variance], [25])])
    theirs = scipy.stats.ttest_1samp(sample, 0)
    assert p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert [low[0], high[0]] == pytest.approx(list(theirs.confidence_interval()), abs=1e-6)


@pytest.mark.parametrize(
    ("sds", "dfs"), [((1, 1), (9, 2)), ((0.1, 1), (50, 2)), ((1, 0.02), (9, 1)), ((3, 1), (700, 10))]
)
def test_sum_of_two_students_against_drawing_them(sds: tuple[float, float], dfs: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    total = sum(sd * rng.standard_t(df, size=400_000) for sd, df in zip(sds, dfs, strict=True))
    _, high, p = intervals([Spread(2.5 * max(sds), sds[0], dfs[0], sds[1], dfs[1])])
    assert np.mean(np.abs(total) > high - 2.5 * max(sds)) == pytest.approx(0.05, abs=0.003)
    assert np.mean(np.abs(total) > 2.5 * max(sds)) == pytest.approx(p[0], abs=0.003)


def test_all_alike_is_no_difference() -> None:
    low, high, p = intervals([spread(np.full((2, 1, 1), 0.4), [np.zeros((1, 1))], [30])])
    assert low[0] == pytest.approx(0, abs=1e-9) and high[0] == pytest.approx(0, abs=1e-9) and p[0] == pytest.approx(1)


def draw_rows(
    rng: np.random.Generator,
    *,
    seeds: int,
    methods: int = 2,
    identities: int = 60,
    seed_sd: float = 0.0,
    gain: float = TRUE,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums (I, 1, M x S) and counts (I, 1) of one simulated target.

    What a query scores depends on its identity (shared by all seeds), on the identity as this run sees it, on the
    run (seed_sd) and on itself; 2 to 8 queries per identity. Method 0 is truly better by `gain`.
    """
    count = rng.integers(2, 9, size=identities)
    mean = rng.normal(0, 0.15, size=(identities, methods, 1)) + rng.normal(0, 0.1, size=(identities, methods, seeds))
    mean = mean + rng.normal(0, seed_sd, size=(1, methods, seeds)) + rng.normal(0.5, 0.1, size=(identities, 1, 1))
    mean = mean + rng.normal(0, 0.2, size=mean.shape) / np.sqrt(count)[:, None, None]
    mean[:, 0] += gain
    return (mean * count[:, None, None]).reshape(identities, 1, -1), count[:, None].astype(float)


def compare(sums: NDArray[np.float64], count: NDArray[np.float64], seeds: int, number: int) -> Spread:
    score = (sums.sum(0) / count.sum()).reshape(-1, 1, seeds)
    drawn = bootstrap_scores(sums, count, draws=500, seed=number).reshape(500, -1, seeds)
    return spread(score, [np.atleast_2d(np.cov(drawn[:, 0] - drawn[:, 1], rowvar=False))], [len(sums)])


@pytest.mark.parametrize(
    ("seeds", "methods", "seed_sd", "least", "most"),
    [(1, 2, 0.0, 0.93, 0.97), (3, 2, 0.02, 0.93, 0.98), (3, 6, 0.02, 0.93, 0.98), (3, 6, 0.08, 0.93, 0.98), (5, 4, 0.03, 0.93, 0.98)],
)  # fmt: skip
def test_the_interval_covers_the_true_difference(
    seeds: int, methods: int, seed_sd: float, least: float, most: float
) -> None:
    """95 % within 2; with several methods up to one point more, as the less steady of two estimates is taken for the seeds."""
    rng = np.random.default_rng(seeds)
    spreads = [
        compare(*draw_rows(rng, seeds=seeds, methods=methods, seed_sd=seed_sd), seeds, number) for number in range(800)
    ]
    low, high, _ = intervals(spreads)
    assert least <= np.mean((low <= TRUE) & (high >= TRUE)) <= most


def test_images_or_seeds_drawn_naively_would_not_cover_it() -> None:
    """What the interval is not: images as if independent, and three seeds drawn with replacement."""
    rng, by_image, by_seed = np.random.default_rng(7), [], []
    for number in range(500):
        sums, count = draw_rows(rng, seeds=1)
        own = compare(sums, count, 1, number)
        by_image.append(own._replace(query_sd=own.query_sd / np.sqrt(count.mean()), query_df=count.sum() - 1))
        sums, count = draw_rows(rng, seeds=3, seed_sd=0.08)
        own = compare(sums, count, 3, number)
        by_seed.append(own._replace(seed_sd=own.seed_sd * np.sqrt(2 / 3), seed_df=1e6))
    for naive, most in ((by_image, 0.80), (by_seed, 0.85)):
        low, high, _ = intervals(naive)
        assert np.mean((low <= TRUE) & (high >= TRUE)) < most


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (5, 0.1)])
def test_p_is_uniform_where_there_is_no_difference(seeds: int, seed_sd: float) -> None:
    rng = np.random.default_rng(11)
    spreads = [compare(*draw_rows(rng, seeds=seeds, seed_sd=seed_sd, gain=0), seeds, number) for number in range(600)]
    _, _, p = intervals(spreads)
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.05
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.02)


def test_an_interval_without_zero_is_one_with_a_small_p() -> None:
    spreads = [Spread(d, q, 40, s, 4) for d in np.linspace(-3, 3, 25) for q in (0.1, 1.0) for s in (0.0, 0.5, 2.0)]
    low, high, p = intervals(spreads)
    assert (((low > 0) | (high < 0)) == (p < 0.05)).all()


def test_holm_worked_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04; the last may not be below the one before: .06."""
    assert holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005])) == pytest.approx(
        [0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True
    )
    assert holm(np.array([0.4, 0.9])).tolist() == [0.8, 0.9]
    assert holm(np.array([])).tolist() == []


@pytest.mark.parametrize("ties", [False, True])
def test_friedman_against_scipy(ties: bool) -> None:
    score = np.random.default_rng(5).uniform(size=(7, 5)) + np.arange(5) / 5
    score = score.round(1) if ties else score
    found = average_ranks(score)
    assert found.p == pytest.approx(scipy.stats.friedmanchisquare(*score.T).pvalue)
    assert found.average_M == pytest.approx(scipy.stats.rankdata(-score, axis=1).mean(0))


def test_critical_difference_against_demsar() -> None:
    """His example: 4 methods on 14 data sets, CD = 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25."""
    assert [nemenyi_q(methods) for methods in range(2, 11)] == pytest.approx(DEMSAR, abs=0.0011)
    assert nemenyi_q(16) == pytest.approx(scipy.stats.studentized_range.ppf(0.95, 16, np.inf) / 2**0.5, abs=1e-4)
    assert average_ranks(np.random.default_rng(6).uniform(size=(14, 4))).critical_difference == pytest.approx(
        1.25, abs=0.005
    )


def test_equal_methods_have_no_order() -> None:
    found = average_ranks(np.ones((4, 3)))
    assert found.average_M.tolist() == [2, 2, 2] and found.p == 1
