"""Result rows and per-identity sums -> which differences from one method are more than chance. Pure: no torch."""

# B bootstrap draws, I identities, P splits, R runs, K metrics, T targets, S seeds
# N methods of a group, M of them with the same seeds: ours, theirs, the others

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidgen.tables.choose import CELL, GROUP
from reidgen.tables.identities import CELL as KEYS
from reidgen.tables.identities import run_names
from reidgen.tables.paper import MEAN, in_order
from reidgen.tables.statistics import Spread, bootstrap_scores, intervals, spread

METRICS = ("mAP", "rank1")


class _Drawn(NamedTuple):
    """The bootstrapped scores of one target: (method, seed) -> row R, scores (R, K, B), the number of identities."""

    column: dict[tuple[str, int], int]
    scores: NDArray[np.float64]
    identities: int


def differences(
    rows: pd.DataFrame, identities: pd.DataFrame, *, against: str, means: Mapping[tuple[Any, ...], Sequence[str]]
) -> pd.DataFrame:
    """Return for each group, other method and target the difference from `against`, in percent, with interval and
    p-value.

    Taken over the seeds that both methods have; on MEAN over the seeds that both have on every target of the mean.
    Columns: CELL, against, gain_seeds (how many seeds), and for mAP and rank1 gain_<metric>, _low and
    _high (95 % interval) and _p. With one seed the interval covers the choice of query identities only, with several
    that of the seeds too; never that of gallery, cameras or targets. NaN where a run has no per-identity numbers, or
    ones that do not give its row's scores.

    rows: comparable ones (one recipe per group), scores as fractions. identities: as `read_identities` returns them.
    means: group -> the targets that its mean of unseen is over.
    """
    own: dict[Any, pd.DataFrame] = {}
    if not identities.empty:
        numbers = rows.groupby([*GROUP, "method", "seed"]).ngroup()  # numbers group faster than names
        columns = dict.fromkeys([*KEYS, *GROUP, "method", "seed", "number", *METRICS])  # both name the test
        keys = rows.assign(run=run_names(rows), number=numbers)[list(columns)]
        identities = identities.merge(keys, on=KEYS, suffixes=("", "_said"))
        own = {key: part for key, part in identities.groupby([*GROUP, "target"])}
    found, spreads = [], list[Spread]()
    for group, block in rows.groupby(GROUP):
        of_target = {target: own.get((*group, target)) for target in block["target"].unique()}
        for cell, parts in _of_group(block, of_target, against, means.get(tuple(group), ())):
            key = dict(zip(GROUP, group, strict=True))
            found.append({**key, **cell, "against": against, "known": len(parts) > 0})
            spreads += parts
    if not found:
        return pd.DataFrame(columns=[*CELL, "against", "gain_seeds"])
    frame = pd.DataFrame(found)
    known = frame.pop("known")
    for name, values in zip(("low", "high", "p"), intervals(spreads), strict=True):
        for number, metric in enumerate(METRICS):
            scaled = values[number :: len(METRICS)] * (1 if name == "p" else 100)
            frame[f"gain_{metric}_{name}"] = pd.Series(scaled, index=frame.index[known], dtype="float64")
    return frame


def _of_group(
    block: pd.DataFrame, identities: dict[str, pd.DataFrame | None], against: str, mean: Sequence[str]
) -> Iterator[tuple[dict[str, str | float], list[Spread]]]:
    """Yield for each other method and target of one group the cell, and its spread per metric (none without
    identities).

    mean: the targets of the mean of unseen, those of them that the block has.
    """
    targets = in_order(block["target"], "target")
    unseen = [target for target in mean if target in targets]
    methods, seeds = in_order(block["method"], "method"), np.sort(block["seed"].unique())
    if against not in methods:
        return
    score = block.groupby(["method", "seed", "target"])[list(METRICS)].mean()
    every = pd.MultiIndex.from_product([methods, seeds, targets])
    score_NSTK = score.reindex(every).to_numpy().reshape(len(methods), len(seeds), len(targets), len(METRICS))
    drawn = {
        one: _NOTHING if own is None else _draw(own, block.loc[block["target"] == one, "split"].nunique())
        for one, own in identities.items()
    }
    theirs = methods.index(against)
    for target, over in [*((one, [one]) for one in targets), *([(MEAN, unseen)] if unseen else [])]:
        cut_NSTK = score_NSTK[:, :, [targets.index(one) for one in over]]
        has_NS = np.isfinite(cut_NSTK).all(axis=(2, 3))
        for ours in (number for number in range(len(methods)) if number != theirs):
            common_S = has_NS[ours] & has_NS[theirs]
            if not common_S.any():
                continue
            pair_2TSK = cut_NSTK[[ours, theirs]][:, common_S].swapaxes(1, 2)
            gain_K = 100 * (pair_2TSK[0] - pair_2TSK[1]).mean(axis=(0, 1))
            cell: dict[str, str | float] = {"method": methods[ours], "target": target, "gain_seeds": common_S.sum()}
            cell |= {f"gain_{metric}": gain for metric, gain in zip(METRICS, gain_K, strict=True)}
            runs = [[(methods[n], int(seed)) for seed in seeds[common_S]] for n in (ours, theirs)]
            parts = list[Spread]()
            if all(run in drawn[one].column for one in over for run in (*runs[0], *runs[1])):
                peers = [n for n in range(len(methods)) if n not in (ours, theirs) and has_NS[n][common_S].all()]
                score_MTSK = cut_NSTK[[ours, theirs, *peers]][:, common_S].swapaxes(1, 2)
                sizes = [drawn[one].identities for one in over]
                for k in range(len(METRICS)):
                    covariances = [_covariance(drawn[one], runs, k) for one in over]
                    parts.append(spread(score_MTSK[..., k], covariances, sizes))
            yield cell, parts


_NOTHING = _Drawn({}, np.zeros((0, len(METRICS), 0)), 0)


def _draw(own: pd.DataFrame, splits: int) -> _Drawn:
    """Return the bootstrapped scores of the runs on one target whose sums give their rows' scores, in
    all its splits.
    """
    whole = own.groupby(["number", "split"]).agg(
        {"queries": "sum", **dict.fromkeys(METRICS, "sum"), **{f"{metric}_said": "first" for metric in METRICS}}
    )
    wrong = [(whole[metric] / whole["queries"] - whole[f"{metric}_said"]).abs() > 1e-4 for metric in METRICS]
    right = whole[~(wrong[0] | wrong[1])].groupby("number").size()
    runs = right[right == splits].index
    run = runs.get_indexer(pd.Index(own["number"]))
    own, run = own[run >= 0], run[run >= 0]
    if own["pid"].nunique() < 2:
        return _NOTHING
    (pid, pids), (split, names) = pd.factorize(own["pid"], sort=True), pd.factorize(own["split"], sort=True)
    sum_IPRK = np.zeros((len(pids), len(names), len(runs), len(METRICS)))
    sum_IPRK[pid, split, run] = own[list(METRICS)]
    count_IP = np.zeros((len(pids), len(names)))
    count_IP[pid, split] = own["queries"]
    scores = bootstrap_scores(sum_IPRK.reshape(len(pids), len(names), -1), count_IP)
    first = np.unique(run, return_index=True)[1]
    names_R = zip(own["method"].iloc[first], own["seed"].iloc[first], strict=True)
    column = {(str(method), int(seed)): number for number, (method, seed) in enumerate(names_R)}
    return _Drawn(column, scores.T.reshape(len(runs), len(METRICS), len(scores)), len(pids))


def _covariance(drawn: _Drawn, runs: list[list[tuple[str, int]]], metric: int) -> NDArray[np.float64]:
    """Return the (S, S) covariance of the bootstrapped differences between two methods' runs, seed by seed."""
    ours, theirs = (drawn.scores[[drawn.column[run] for run in part], metric] for part in runs)
    gain_SB = ours - theirs
    gain_SB -= gain_SB.mean(1, keepdims=True)
    covariance_SS: NDArray[np.float64] = gain_SB @ gain_SB.T / (gain_SB.shape[1] - 1)
    return covariance_SS
