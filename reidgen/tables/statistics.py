"""Is a difference more than chance? Paired bootstrap over identities, seeds, Holm, average ranks. Pure arrays, no
torch.

Only `scipy.special` is used: `scipy.stats` takes longer to import than a table may take; the tests compare with it.
"""

# B bootstrap draws, I identities, P splits, K columns (runs x metrics), T targets, S seeds, C comparisons,
# N blocks that rank the methods, M methods, Z points of integration

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtr, stdtr, stdtrit

DRAWS = 2000
# Degrees of freedom that the other methods lend: more is sharper while all are alike in steadiness, and wrong sooner.
LENT_DF = 2
LEVEL = 0.05  # of the intervals, the marks and the critical difference
_Array = NDArray[np.float64]


def bootstrap_scores(sum_IPK: _Array, count_IP: _Array, *, draws: int = DRAWS, seed: int = 0) -> _Array:
    """Return each column's score on `draws` samples of the identities, float64 (B, K): paired, as all share a sample.

    A sample draws I identities with replacement, each with all its queries in all splits. A column's score is the mean
    over the splits of (its sum over the sample / the sample's queries); a split in which a sample has no query does not
    count.

    sum_IPK: per identity, split and column the sum over the queries (of AP, or of hits). count_IP: the number of
    queries. An identity without any query is **excluded**. Cost: one product, O(B I P K).

    >>> bootstrap_scores(np.full((4, 1, 1), 3.0), np.full((4, 1), 6.0), draws=2)
    array([[0.5],
           [0.5]])
    """
    present = count_IP.sum(1) > 0
    sum_IPK, count_IP = sum_IPK[present], count_IP[present]
    identities, splits, columns = sum_IPK.shape
    drawn = np.random.default_rng(seed).integers(identities, size=(draws, identities))
    drawn += identities * np.arange(draws)[:, None]
    times_BI = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
    count_BP = times_BI @ count_IP
    share_BP = np.divide(1, count_BP, out=np.zeros_like(count_BP), where=count_BP > 0)
    share_BP /= (count_BP > 0).sum(1, keepdims=True)
    scores_KB = np.zeros((columns, draws))  # this way round, the draws of a column lie side by side
    for split in range(splits):
        scores_KB += sum_IPK[:, split].T @ (times_BI * share_BP[:, split, None]).T
    return scores_KB.T


class Spread(NamedTuple):
    """The uncertainty of one mean difference: deviations (0 where there is none) and degrees of freedom of its two
    parts.
    """

    difference: float
    query_sd: float
    query_df: float
    seed_sd: float
    seed_df: float


def spread(score_MTS: _Array, covariance_TSS: Sequence[_Array], identities_T: Sequence[int]) -> Spread:
    """Return method 0 minus method 1, meaned over seeds and targets, and what queries and seeds make of its
    uncertainty.

    Queries: the bootstrap's covariance between *different* seeds, so that only what all seeds share counts here; with
    one seed its variance. Seeds: the standard error over the seeds, which holds what differs between them, the
    interaction with the queries too. Its variance is the two methods' own (S-1 degrees of freedom, as in the paired
    t-test), to which that of all M methods (two-way analysis of variance) lends LENT_DF: three seeds alone tell little.
    Targets are taken as they are, their identities as independent.

    score_MTS: the runs' scores, of the two methods and of all others with the same targets and seeds. covariance_TSS:
    per target the (S, S) covariance of the bootstrapped differences. identities_T: the identities per target, 2 or
    more.
    """
    methods, targets, seeds = score_MTS.shape
    apart = ~np.eye(seeds, dtype=bool) if seeds > 1 else np.ones((1, 1), dtype=bool)
    n_T = np.array(identities_T)
    part_T = np.array([cov_SS[apart].mean() for cov_SS in covariance_TSS]) * n_T / (n_T - 1) / targets**2
    part_T = part_T.clip(min=0)
    query_df = part_T.sum() ** 2 / (part_T**2 / (n_T - 1)).sum() if part_T.any() else 1.0
    score_MS = score_MTS.mean(1)
    difference_S = score_MS[0] - score_MS[1]
    seed_sd, seed_df = 0.0, 1
    if seeds > 1:
        rest_MS = score_MS - score_MS.mean(0) - score_MS.mean(1, keepdims=True) + score_MS.mean()
        pooled_df = (methods - 1) * (seeds - 1)
        pooled, own, own_df = 2 * (rest_MS**2).sum() / pooled_df, difference_S.var(ddof=1), seeds - 1
        lent_df = min(LENT_DF, pooled_df - own_df)  # none with two methods
        seed_df = lent_df + own_df
        seed_sd = ((lent_df * pooled + own_df * own) / seed_df / seeds) ** 0.5
    return Spread(difference_S.mean(), part_T.sum() ** 0.5, query_df, seed_sd, seed_df)


def intervals(spreads: Sequence[Spread]) -> tuple[_Array, _Array, _Array]:
    """Return the lower and upper ends of the 95 % intervals of the differences, and their two-sided p-values, each
    (C,).

    A difference deviates from the true one by query_sd * t(query_df) + seed_sd * t(seed_df), two independent Student
    variables; an interval that excludes 0 is one with p < 0.05.
    **Deliberately not** the percentiles of a bootstrap that draws seeds too: three seeds drawn with replacement spread
    by sqrt(2/3) of what they should, and where seeds matter most such an interval held the true difference in 83 % of
    2,000 simulations, this one in 94 to 98 % of them for 1 to 5 seeds and 2 to 6 methods alike in steadiness. Where
    seeds are all that matters, a method twice or three times as unsteady as five others is held in 93 or 90 %.
    Source: Student deviates for both parts as in Fisher's answer to the Behrens-Fisher problem (1935); the lent degrees
    of freedom as in the moderated t of Smyth (2004). Difference: their number is fixed, not estimated.
    """
    estimate, query_sd, query_df, seed_sd, seed_df = np.array(spreads, dtype=np.float64).reshape(-1, 5).T
    swap = seed_sd > query_sd  # integrate over the smaller part: the other one's distribution is then smooth enough
    tiny = 1e-12  # a deviation of 0 stands for "all alike"
    wide, wide_df = np.where(swap, seed_sd, query_sd).clip(min=tiny), np.where(swap, seed_df, query_df)
    slim, slim_df = np.where(swap, query_sd, seed_sd), np.where(swap, query_df, seed_df)
    z_Z = np.linspace(-8, 8, 81)
    weight_Z = np.exp(-(z_Z**2) / 2)
    weight_Z /= weight_Z.sum()
    slim_CZ = slim[:, None] * stdtrit(slim_df[:, None], ndtr(z_Z))

    def beyond(size_C: _Array) -> _Array:
        p_C: _Array = 2 * stdtr(wide_df[:, None], -(size_C[:, None] + slim_CZ) / wide[:, None]) @ weight_Z
        return p_C

    low, high = (
        np.zeros_like(wide),
        sum(sd * stdtrit(df, 1 - LEVEL / 4) for sd, df in ((wide, wide_df), (slim, slim_df))),
    )
    for _ in range(26):
        middle = (low + high) / 2
        outside = beyond(middle) > LEVEL
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    return estimate - high, estimate + high, beyond(np.abs(estimate)).clip(max=1)


def holm(p_C: _Array) -> _Array:
    """Return Holm's adjusted p-values: the chance of any false mark among all these comparisons; NaN stays NaN.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.

    >>> holm(np.array([0.01, 0.04, 0.03, np.nan])).round(4).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    order = np.argsort(p_C)[: np.isfinite(p_C).sum()]
    adjusted = np.full(len(p_C), np.nan)
    adjusted[order] = np.maximum.accumulate(p_C[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


class Ranks(NamedTuple):
    """Average ranks of M methods (1 is best), the p-value of Friedman's test, and Nemenyi's critical difference at
    0.05.
    """

    average_M: _Array
    p: float
    critical_difference: float


def average_ranks(score_NM: _Array) -> Ranks:
    """Return how M methods rank on average in N blocks, the highest score first; ties share their mean rank.

    Two average ranks that differ by less than the critical difference are not told apart.
    Source: Friedman 1937, with the correction for ties; Nemenyi 1963; both as in Demšar, JMLR 7, 2006.

    >>> average_ranks(np.array([[0.1, 0.2, 0.3], [0.2, 0.1, 0.4]])).average_M.tolist()
    [2.5, 2.5, 1.0]
    """
    blocks, methods = score_NM.shape
    better_NM = (score_NM[:, None, :] > score_NM[:, :, None]).sum(2)
    equal_NM = (score_NM[:, None, :] == score_NM[:, :, None]).sum(2)
    rank_NM = better_NM + (equal_NM + 1) / 2
    away_NM = rank_NM - (methods + 1) / 2
    chi2 = (methods - 1) * (away_NM.sum(0) ** 2).sum() / (away_NM**2).sum() if away_NM.any() else 0.0
    difference = nemenyi_q(methods) * (methods * (methods + 1) / (6 * blocks)) ** 0.5
    return Ranks(rank_NM.mean(0), float(chdtrc(methods - 1, chi2)), difference)


def nemenyi_q(methods: int) -> float:
    """Return the 95 % quantile of the studentized range of `methods` normal variables, divided by sqrt(2).

    >>> round(nemenyi_q(10), 3)
    3.164
    """
    z_Z = np.linspace(-8, 8, 2001)
    density_Z = np.exp(-(z_Z**2) / 2) / (2 * np.pi) ** 0.5 * (z_Z[1] - z_Z[0])
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        within = methods * density_Z @ (ndtr(z_Z + middle) - ndtr(z_Z)) ** (methods - 1)
        low, high = (middle, high) if within < 1 - LEVEL else (low, middle)
    return float(high / 2**0.5)
