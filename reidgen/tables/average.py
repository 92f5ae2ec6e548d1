"""Comparable result rows -> the cells of a table: splits, then seeds, and the mean over the targets that all share."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from reidgen.catalogue import family_of, load_catalogue
from reidgen.entries import Dataset
from reidgen.methods import title_of
from reidgen.rows import UNDECLARED
from reidgen.tables.choose import CELL, GROUP, each
from reidgen.tables.paper import MEAN, in_order

METRICS = ("mAP", "rank1", "rank5", "rank10", "mINP")


@dataclass(frozen=True)
class Mean:
    """What the mean of unseen of one group is over, and why other unseen targets are not in it.

    targets: in the table's order. whole: the runs (method, seed) that have all of them. lacking: other target -> the
    methods that lack it, none where only some of their seeds do. own: not in the shipped catalogue. relatives: target
    -> the one of its family that is in the mean.
    """

    targets: list[str]
    whole: set[tuple[str, int]]
    lacking: dict[str, list[str]] = field(default_factory=dict)
    own: list[str] = field(default_factory=list)
    relatives: dict[str, str] = field(default_factory=dict)


@cache
def shipped() -> dict[str, Dataset]:
    """Return the catalogue that ships with reidgen, without the sets of anybody's working folder."""
    return load_catalogue(Path())


def means_of(rows: pd.DataFrame, *, asked: bool) -> dict[tuple[Any, ...], Mean]:
    """Return for each group of comparable rows what its mean of unseen is over.

    asked: the targets were asked for by name; without it own crops do not count, and a family of sets counts once.
    Where nobody declares what a model was trained on, no target is known to be unseen, and there is no mean.
    """
    unseen = rows[(rows["seen"] == 0) & (rows["source"] != UNDECLARED)]
    return {tuple(key): _mean(block, asked=asked) for key, block in unseen.groupby(GROUP)}


def _mean(unseen: pd.DataFrame, *, asked: bool) -> Mean:
    has: dict[tuple[str, int], set[str]] = {}
    for method, seed, target in each(unseen, "method", "seed", "target"):
        has.setdefault((method, seed), set()).add(target)
    every = in_order(unseen["target"], "target")
    own = [] if asked else [target for target in every if target not in shipped()]
    has = {run: targets - set(own) for run, targets in has.items()}
    targets = _shared({run: targets for run, targets in has.items() if targets})
    relatives = {} if asked else _relatives(every, targets)
    targets -= set(relatives)
    of_method: dict[str, set[str]] = {}
    for (method, _), found in has.items():
        of_method[method] = of_method.get(method, set()) | found
    lacking = {
        target: in_order([method for method, found in of_method.items() if target not in found], "method")
        for target in every
        if target not in targets and target not in own and target not in relatives
    }
    return Mean(
        targets=in_order(targets, "target"),
        whole={run for run, found in has.items() if targets and targets <= found},
        lacking=lacking,
        own=own,
        relatives=relatives,
    )


def _shared(has: dict[tuple[str, int], set[str]]) -> set[str]:
    """Return the targets that the mean is over: ones that each method has, in one run at least.

    A method without any target in common with the others does not take the mean from them: it has none itself. Where
    runs of one method have different targets, those are taken that keep the most numbers (targets x runs that have them
    all): neither one more evaluation of a single seed nor one unfinished run moves the mean of all others far.
    """
    methods = in_order({method for method, _ in has}, "method")
    of_method = {m: set().union(*(found for (name, _), found in has.items() if name == m)) for m in methods}
    while methods and not (common := set.intersection(*(of_method[method] for method in methods))):
        fewest = min(len(of_method[method]) for method in methods)
        methods.remove([method for method in methods if len(of_method[method]) == fewest][-1])
    if not methods:
        return set()
    has = {run: found & common for run, found in has.items() if run[0] in methods}
    times = Counter(target for found in has.values() for target in found)
    often = sorted(in_order(common, "target"), key=lambda target: -times[target])
    best: set[str] = set()
    most = 0
    for number in range(1, len(often) + 1):
        targets = set(often[:number])
        whole = [run for run, found in has.items() if targets <= found]
        if {method for method, _ in whole} == set(methods) and number * len(whole) >= most:
            best, most = targets, number * len(whole)
    return best


def _relatives(every: list[str], targets: set[str]) -> dict[str, str]:
    """Return the targets that do not count as another one of their family does: the first of the catalogue."""
    sets = shipped()
    order = list(sets)
    counts: dict[str, str] = {}
    for target in sorted(targets, key=order.index):
        counts.setdefault(family_of(target, sets), target)
    chosen = {target: counts.get(family_of(target, sets), target) for target in every if target in sets}
    return {target: other for target, other in chosen.items() if other != target}


def average(rows: pd.DataFrame, means: dict[tuple[Any, ...], Mean]) -> pd.DataFrame:
    """Return the cells in percent: splits averaged first, then seeds; the target MEAN per seed over the mean's targets.

    rows: comparable ones, scores as fractions; not modified. Spreads have ddof 1.
    """
    metrics, run = list(METRICS), [*CELL, "seed"]
    percent = rows.assign(**{metric: 100 * rows[metric] for metric in metrics})
    splits = percent.groupby([*run, "seen"])
    spreads = splits[metrics].std().add_suffix("_std_splits")
    runs = pd.concat([splits[metrics].mean(), spreads, splits.size().rename("splits")], axis=1).reset_index()
    runs = pd.concat([runs, _over_targets(runs, means)])
    seeds = runs.groupby([*CELL, "seen"])
    averages = seeds[[*metrics, *spreads.columns]].mean()
    parts = [
        averages,
        seeds[metrics].std().add_suffix("_std_seeds"),
        seeds.size().rename("seeds"),
        seeds["splits"].max(),
    ]
    cells = pd.concat(parts, axis=1).reset_index()
    made = rows.drop_duplicates(GROUP)
    made = made.assign(recipe=made["recipe"] + "@" + made["hash"].str[:8])[[*GROUP, "recipe", "version"]]
    return cells.merge(made, on=GROUP).assign(title=cells["method"].map(titles(rows)))


def _over_targets(runs: pd.DataFrame, means: dict[tuple[Any, ...], Mean]) -> pd.DataFrame:
    """Return for each run that has all targets of its group's mean the mean over them."""
    counts = [
        key in means and target in means[key].targets and (method, seed) in means[key].whole
        for *key_, method, target, seed in each(runs, *CELL, "seed")
        for key in [tuple(key_)]
    ]
    of_seed = runs[counts].groupby([*GROUP, "method", "seed"])
    found = of_seed[list(METRICS)].mean().join(of_seed["splits"].sum())
    return found.reset_index().assign(target=MEAN, seen=0)


def titles(rows: pd.DataFrame) -> dict[str, str]:
    """Return method -> its name in tables: what its rows say, else what METHODS says; two never have the same name."""
    said = rows[rows["title"] != ""].drop_duplicates("method", keep="last").set_index("method")["title"]
    found = {method: str(said.get(method, "")) or title_of(method) for method in rows["method"].unique()}
    times = Counter(found.values())
    return {method: name if times[name] == 1 else f"{name} [{method}]" for method, name in found.items()}
