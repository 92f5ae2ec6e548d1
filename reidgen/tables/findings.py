"""The answers of the statistics, in sentences: what the mean is over, differences from one method, average ranks."""

from typing import Any

import pandas as pd

from reidgen.tables.average import Mean
from reidgen.tables.choose import GROUP, Note, group_names, names_together
from reidgen.tables.formats import difference, p_value
from reidgen.tables.paper import MEAN
from reidgen.tables.statistics import average_ranks


def means_in_words(cells: pd.DataFrame, means: dict[tuple[Any, ...], Mean]) -> list[Note]:
    """Return one line for the groups that have the same mean of unseen: over how many targets, and which."""
    groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for key in cells[GROUP][cells["target"] == MEAN].drop_duplicates().itertuples(index=False, name=None):
        groups.setdefault(tuple(means[key].targets), []).append(key)
    return [
        Note(
            f"{names_together(cells, same)}: mean of unseen: over {_the(len(targets))} that all methods have: "
            f"{', '.join(targets)}"
        )
        for targets, same in groups.items()
    ]


def _the(number: int) -> str:
    return "the one target" if number == 1 else f"the {number} targets"


def ranked(cells: pd.DataFrame, means: dict[tuple[Any, ...], Mean]) -> tuple[pd.DataFrame, list[Note]]:
    """Return the cells with the methods' average ranks by mAP over the mean's targets, on MEAN, and what they tell."""
    findings, ranks = [], dict[tuple[Any, ...], float]()
    titles = cells.drop_duplicates("method").set_index("method")["title"]
    names = group_names(cells)
    for key, block in cells.groupby(GROUP, sort=False):
        block = block[block["target"].isin(means[key].targets if key in means else [])]
        score = block.pivot(index="target", columns="method", values="mAP").dropna(axis=1)
        if len(score) < 3 or score.shape[1] < 3:
            continue
        found = average_ranks(score.to_numpy())
        rank = dict(zip(score.columns, found.average_M, strict=True))
        ranks |= {(*key, method, MEAN): number for method, number in rank.items()}
        listed = ", ".join(f"{titles[method]} {rank[method]:.1f}" for method in sorted(rank, key=rank.__getitem__))
        findings.append(
            Note(
                f"{names[key]}: average rank by mAP over {len(score)} unseen targets: {listed}; Friedman's test: "
                f"{p_value(found.p)}; closer than {found.critical_difference:.2f} are not told apart (Nemenyi, 0.05)"
            )
        )
    keys = cells[[*GROUP, "method", "target"]].itertuples(index=False, name=None)
    return cells.assign(average_rank=[ranks.get(key, float("nan")) for key in keys]), findings


def gained(cells: pd.DataFrame, titles: dict[str, str], *, asked: bool) -> list[Note]:
    """Return the difference of each method from the one it is compared with, and what its interval covers.

    titles: method -> its name in tables. asked: whether intervals were asked for.
    """
    compared = cells[cells["gain_mAP"].notna()]
    names = group_names(cells)
    known = compared["gain_mAP_p"].notna()
    findings = []
    for (*group, target), block in compared[known].groupby([*GROUP, "target"], sort=False):
        if target == MEAN or MEAN not in set(cells["target"]):
            listed = ", ".join(f"{cell['title']} {difference(cell)}" for cell in block.to_dict("records"))
            other = titles[block["against"].iloc[0]]
            where = f"{names[tuple(group)]}, {target}"
            findings.append(Note(f"{where}: mAP minus {other}'s, 95 % interval: {listed}"))
    if asked and known.any():
        covers = _covers(compared["gain_seeds"][known])
        findings.append(Note(f"intervals cover {covers}; not other galleries, cameras or targets"))
    if asked and not known.all():
        what = f"no interval for {(~known).sum()} of {len(known)} differences: the per-query numbers of their runs are "
        what += "gone"
        findings.append(
            Note(what, "to get them: reidgen evaluate RUN --target NAME, or reidgen bench, then reidgen table")
        )
    return findings


def _covers(seeds: "pd.Series[Any]") -> str:
    if seeds.gt(1).all():
        return "query identities and seeds"
    if seeds.eq(1).all():
        return "query identities only, as there is one seed"
    return "query identities, and seeds where there are several"
