"""Result rows -> the comparison table. Pure: no torch, nothing written.

    rows -> comparable (one recipe, one version of the data) -> _average (splits, then seeds) -> Table.cells -> four looks
                                                             -> differences from one method, per-identity numbers

The looks are those of `reidgen.tables.looks`.
"""

from typing import Any

import pandas as pd

from reidgen.errors import EmptyTableError, ReidgenError, unknown
from reidgen.registry import get_method
from reidgen.tables import paper as papers
from reidgen.tables.looks import SHOWN, Table, mark, title
from reidgen.tables.paper import MEAN, TABLES, in_order
from reidgen.tables.significance import differences
from reidgen.tables.statistics import average_ranks, holm

__all__ = ["CELL", "COLUMNS", "MEAN", "METRICS", "SHOWN", "TABLES", "Table", "comparable", "make_table"]

METRICS = ("mAP", "rank1", "rank5", "rank10", "mINP")
CELL = ["source", "method", "target"]
_ALIKE = ["source", "hash", "backbone", "version", "source_data"]  # what makes rows of one source comparable
COLUMNS = [*CELL, "seen", "seeds", "splits"]
COLUMNS += [f"{metric}{part}" for metric in METRICS for part in ("", "_std_seeds", "_std_splits")]
COLUMNS += [f"{part}_{metric}" for metric in SHOWN for part in ("paper", "diff")] + ["recipe", "backbone", "version"]
COLUMNS += ["against", "gain_seeds"]
COLUMNS += [f"gain_{metric}{part}" for metric in SHOWN for part in ("", "_low", "_high", "_p", "_holm")] + [
    "average_rank"
]


def make_table(
    rows: pd.DataFrame,
    *,
    name: str = "",
    paper: bool = False,
    against: str = "baseline",
    identities: pd.DataFrame | None = None,
) -> Table:
    """Return the comparison table of result rows: source x method by target, of everything there is or as the paper lays it out.

    A cell is the mean over the splits of a run, then over seeds (std with ddof 1). The mean over unseen targets is
    taken per seed, over the seeds that have every unseen target its source has rows for; it is missing otherwise.
    Only like goes with like: per source the recipe hash, backbone, version and source data with the most rows (ties:
    the latest date), per target the data with the most rows, per run, target and split the latest row. Whatever is
    **excluded**, and every difference in seeds or splits, is said in `notes`.
    With `name`, one of the paper's TABLES, its methods and, of its sources, its targets; with `paper`, the paper's numbers
    for the same method and families of sets, and ours minus theirs. With `identities` (see `read_identities`),
    intervals and p-values of the differences from the method `against`; Holm's correction is over all of them in the
    table, mAP and Rank-1, so that a mark in a larger table needs a smaller p.

    rows: the columns of `reidgen.runs.COLUMNS`, scores as fractions; not modified.
    Raises ReidgenError when there are no rows, or no table or method of that name.
    Source: the paper's numbers are those of Jin et al., CVPR 2020, as its slides show them (`paper_tables.csv`).

    >>> from reidgen.runs import COLUMNS as columns
    >>> rows = pd.DataFrame(dict.fromkeys(columns, ["0", "0"])).astype(columns)
    >>> rows = rows.assign(source="market", target="duke", method="snr", seed=[0, 1], mAP=[0.3, 0.34], rank1=0.5)
    >>> make_table(rows, paper=True).cells.loc[0, ["mAP", "mAP_std_seeds", "paper_mAP", "diff_mAP"]].tolist()
    [32.0, 2.828427, 33.6, -1.6]
    """
    if name and name not in TABLES:
        raise ReidgenError(unknown("table", name, [*TABLES, "all", "stress", "attack"]))
    if rows.empty:
        raise ReidgenError(f"there are no results yet; run: reidgen bench{f' --methods {name}' if name else ''}")
    if against != "baseline" and against not in set(rows["method"]):
        get_method(against)
        raise ReidgenError(f"there are no rows of {against} to compare with; run: reidgen bench --methods {against}")
    everything = rows
    if name and (rows := papers.select(rows, name)).empty:
        raise EmptyTableError(f"there are no results for the table {name} yet; run: reidgen bench --methods {name}")
    rows, notes = comparable(rows)
    if name:  # a difference and its interval are the same in every table: the other methods tell of the seeds too
        everything = everything.merge(rows[[*_ALIKE, "target", "data"]].drop_duplicates())
    cells = _average(rows)
    if name not in ("", "main") and cells.groupby("source")["target"].nunique().eq(2).all():
        cells = cells[cells["target"] != MEAN]  # the mean of one says nothing
    notes += _unlike(rows) + (_lacking(rows, name) if name else [])
    if paper:
        cells, about_paper = _beside_paper(cells)
        notes += about_paper
    order = {column: in_order(cells[column], column) for column in CELL}
    cells = cells.sort_values(CELL, key=lambda column: column.map(order[str(column.name)].index))
    known = pd.DataFrame() if identities is None else identities
    gains = differences(comparable(everything)[0] if name else rows, known, against=against)
    cells, ranked = _ranked(cells.merge(gains, how="left", on=CELL))
    cells = cells.reindex(columns=COLUMNS)
    corrected = holm(cells[[f"gain_{metric}_p" for metric in SHOWN]].to_numpy(dtype=float).ravel()).reshape(
        len(cells), -1
    )
    cells = cells.assign(**{f"gain_{metric}_holm": corrected[:, number] for number, metric in enumerate(SHOWN)})
    p_values = [f"gain_{metric}_{part}" for metric in SHOWN for part in ("p", "holm")]
    cells = cells.round({one: 6 for one in COLUMNS if one not in p_values}).reset_index(drop=True)
    cells[p_values] = cells[p_values].map(lambda p: float(f"{p:.3g}"))
    findings = _gained(cells, identities is not None) + ranked
    return Table(cells=cells, caption=_caption(rows), notes=notes, findings=findings, name=name)


def comparable(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows that may share a table, the latest of each, and a note for whatever is left out."""
    made = _ALIKE[1:]
    rows = rows.fillna(dict.fromkeys([*made, "data"], "")).sort_values("date", kind="stable", ignore_index=True)
    latest = ~rows.duplicated([*CELL, "split", "seed", *made, "data"], keep="last")
    notes = [] if latest.all() else [f"{_count(~latest)} left out, repeated by a later one"]
    rows = rows[latest]
    key = _made(rows) + ", source data " + rows["source_data"].str[:8]
    alike = _most_rows(
        rows, "source", rows["hash"] + "/" + rows["backbone"] + "/" + rows["version"] + "/" + rows["source_data"]
    )
    for source, others in key[~alike].groupby(rows["source"]):
        notes.append(f"{source}: {_count(others.notna())} left out, made otherwise: {'; '.join(_distinct(others))}")
    rows = rows[alike]
    alike = _most_rows(rows, "target", rows["data"])
    for target, others in rows["data"][~alike].groupby(rows["target"]):
        digests = ", ".join(_distinct(others.str[:8]))
        notes.append(f"{target}: {_count(others.notna())} left out, measured on another version of it: {digests}")
    rows = rows[alike]
    return rows.assign(seen=rows.groupby(["source", "target"])["seen"].transform("max")), notes


def _most_rows(rows: pd.DataFrame, within: str, key: "pd.Series[str]") -> "pd.Series[bool]":
    """Return which rows have the key that most rows of their group have; of equals, the one with the latest date."""
    groups = rows.groupby([rows[within], key.rename("key")])["date"].agg(["size", "max"]).reset_index()
    best = groups.sort_values(["size", "max"], kind="stable").drop_duplicates(within, keep="last")
    return key == rows[within].map(best.set_index(within)["key"])


def _average(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the cells in percent: splits averaged first, then seeds; the target MEAN per seed over all unseen targets."""
    metrics, run = list(METRICS), [*CELL, "seed"]
    percent = rows.assign(**{metric: 100 * rows[metric] for metric in metrics})
    splits = percent.groupby([*run, "seen"])
    runs = (
        splits[metrics]
        .mean()
        .join(splits[metrics].std().add_suffix("_std_splits"))
        .join(splits.size().rename("splits"))
    )
    runs = runs.reset_index()
    unseen = runs[runs["seen"] == 0]
    over = {**dict.fromkeys(metrics, "mean"), "splits": "sum", "target": "nunique"}
    means = unseen.groupby(["source", "method", "seed"]).agg(over).reset_index()
    complete = means["target"] == means["source"].map(unseen.groupby("source")["target"].nunique())
    runs = pd.concat([runs, means[complete].assign(target=MEAN, seen=0)])
    seeds = runs.groupby([*CELL, "seen"])
    cells = seeds[[*metrics, *(f"{metric}_std_splits" for metric in metrics)]].mean()
    cells = cells.join(seeds[metrics].std().add_suffix("_std_seeds"))
    cells = cells.join(seeds.agg(seeds=("seed", "nunique"), splits=("splits", "max"))).reset_index()
    made = rows.assign(recipe=rows["recipe"] + "@" + rows["hash"].str[:8]).drop_duplicates("source")
    return cells.merge(made[["source", "recipe", "backbone", "version"]], on="source")


def _unlike(rows: pd.DataFrame) -> list[str]:
    """Return a note for each difference in seeds or splits, each missing mean and each query without a match."""
    notes = []
    for source, block in rows.groupby("source"):
        seeds = block.groupby(["method", "target"])["seed"].agg(lambda seed: ", ".join(_distinct(seed))).rename("seeds")
        usual, unusual = seeds.mode()[0], []
        for method, own in seeds.reset_index().groupby("method"):
            if own["seeds"].nunique() == 1:
                own = own.head(1).assign(target=method)
            else:
                own = own.assign(target=f"{method} on " + own["target"])
            own = own[own["seeds"] != usual]
            unusual += [f"{name} has {has}" for name, has in zip(own["target"], own["seeds"], strict=True)]
        if unusual:
            notes.append(f"{source}: seeds {usual}, but {'; '.join(unusual)}")
        unseen = set(block["target"][block["seen"] == 0])
        for method, targets in block.groupby("method")["target"]:
            if lacks := in_order(unseen - set(targets), "target"):
                notes.append(
                    f"{source}: {method} has no mean of unseen, as it has no {', '.join(lacks)} (run: reidgen bench)"
                )
    for where, splits in rows.groupby([*CELL, "seed"])["split"].nunique().groupby(["source", "target"]):
        if few := int((splits < splits.max()).sum()):
            notes.append(f"{where[0]} on {where[1]}: {few} of {len(splits)} runs have fewer than {splits.max()} splits")
    unmatched = rows.groupby(["target", "split"])["unmatched"].max().groupby("target").sum()
    notes += [f"{target}: {n} queries without a match do not count" for target, n in unmatched[unmatched > 0].items()]
    return notes


def _lacking(rows: pd.DataFrame, name: str) -> list[str]:
    """Return a note for each source that lacks methods of the paper's table `name`, with the command that fills it."""
    notes = []
    for source, methods in rows.groupby("source")["method"]:
        if lacks := [one for one in papers.expected_methods(name, str(source)) if one not in set(methods)]:
            command = f"reidgen bench --source {source} --methods {name}"
            notes.append(f"{source}: no {', '.join(lacks)} yet (run: {command}, with this recipe)")
    return notes


def _beside_paper(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the cells with the paper's numbers and ours minus theirs, and what to know before comparing."""
    columns = [f"paper_{metric}" for metric in SHOWN]
    cells = papers.beside(cells)
    unseen = cells[(cells["seen"] == 0) & (cells["target"] != MEAN)].groupby(["source", "method"])[columns]
    whole = unseen.mean()[unseen.count()["paper_mAP"] == unseen.size()].reset_index().assign(target=MEAN)
    means = cells[CELL].merge(whole, how="left", on=CELL)[columns].set_axis(cells.index)
    cells = cells.assign(**{column: cells[column].fillna(means[column]) for column in columns})
    cells = cells.assign(**{f"diff_{metric}": cells[metric] - cells[f"paper_{metric}"] for metric in SHOWN})
    others = set(cells["source"]) - set(cells["source"][papers.has_source(cells["source"])])
    notes = [f"{', '.join(sorted(others))}: the paper has no numbers for this source"] * bool(others)
    compared = cells[cells["paper_mAP"].notna()]
    if compared["target"].eq(MEAN).any():
        notes.append("the paper's mean of unseen is taken here, over the same targets as ours")
    named = pd.concat([compared["source"], compared["target"]])
    if variants := _distinct(named[papers.is_variant(named)]):
        notes.append(f"beside the paper's numbers for the family: {', '.join(variants)}")
    if backbones := _distinct(compared["backbone"][compared["backbone"] != "resnet50"]):
        notes.append(f"the paper's numbers are of resnet50, ours of {', '.join(backbones)}")
    return cells, notes


def _ranked(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the cells with the methods' average ranks (by mAP, over a source's unseen targets) on MEAN, and what they tell."""
    findings, ranks = [], dict[tuple[str, str, str], float]()
    for source, block in cells[(cells["seen"] == 0) & (cells["target"] != MEAN)].groupby("source", sort=False):
        score = block.pivot(index="target", columns="method", values="mAP").dropna(axis=1)
        if len(score) < 3 or score.shape[1] < 3:
            continue
        found = average_ranks(score.to_numpy())
        average = dict(zip(score.columns, found.average_M, strict=True))
        ranks |= {(str(source), method, MEAN): rank for method, rank in average.items()}
        listed = ", ".join(f"{title(one)} {average[one]:.1f}" for one in sorted(average, key=lambda one: average[one]))
        findings.append(
            f"{source}: average rank by mAP over {len(score)} unseen targets: {listed}; Friedman's test: {p_value(found.p)}; "
            f"closer than {found.critical_difference:.2f} are not told apart (Nemenyi, 0.05)"
        )
    keys = pd.MultiIndex.from_frame(cells[CELL])
    return cells.assign(average_rank=[ranks.get(key, float("nan")) for key in keys]), findings


def _gained(cells: pd.DataFrame, asked: bool) -> list[str]:
    """Return the difference of each method from the one it is compared with, and what its interval covers."""
    compared = cells[cells["gain_mAP"].notna()]
    findings, known = [], compared["gain_mAP_p"].notna()
    for (source, target), block in compared[known].groupby(["source", "target"], sort=False):
        if target == MEAN or MEAN not in set(cells["target"]):
            listed = [
                f"{title(one['method'])} {_signed(one['gain_mAP'])} [{_signed(one['gain_mAP_low'])}, "
                f"{_signed(one['gain_mAP_high'])}]{mark(one)}"
                for one in block.to_dict("records")
            ]
            other = title(block["against"].iloc[0])
            findings.append(f"{source}, {target}: mAP minus {other}'s, 95 % interval: {', '.join(listed)}")
    if asked and known.any():
        seeds = compared["gain_seeds"][known]
        what = "query identities and seeds" if seeds.gt(1).all() else "query identities only, as there is one seed"
        what = (
            "query identities, and seeds where there are several" if seeds.nunique() > 1 and seeds.eq(1).any() else what
        )
        findings.append(f"intervals cover {what}; not other galleries, cameras or targets")
    if asked and not known.all():
        findings.append(
            f"no interval for {(~known).sum()} of {len(known)} differences: the per-query numbers of their runs are gone "
            "(to get them: reidgen evaluate RUN --target NAME, or reidgen bench, then reidgen table)"
        )
    return findings


def _caption(rows: pd.DataFrame) -> str:
    """Return one line that says how, with what and when the rows were made."""
    made = _made(rows).groupby(rows["source"]).first()
    parts = [f"{', '.join(made.index[made == how])}: {how}" for how in _distinct(made)]
    for name, column in (
        ("seeds", "seed"),
        ("dtype", "dtype"),
        ("device", "device"),
        ("torch", "torch"),
        ("commit", "commit"),
    ):
        parts += [f"{name} {', '.join(values)}" for values in [_distinct(rows[column])] if values]
    days = _distinct(rows["date"].str[:10])
    return "; ".join([*parts, " to ".join(dict.fromkeys((days[0], days[-1])))])


def _made(rows: pd.DataFrame) -> "pd.Series[str]":
    """Return for each row the words for its recipe, backbone and version."""
    recipe = "recipe " + rows["recipe"] + "@" + rows["hash"].str[:8]
    return recipe + ", backbone " + rows["backbone"] + ", reidgen " + rows["version"]


def _distinct(values: "pd.Series[Any]") -> list[str]:
    return [str(value) for value in sorted(set(values.dropna())) if value != ""]


def _count(chosen: "pd.Series[bool]") -> str:
    n = int(chosen.sum())
    return f"{n:,} row{'s' * (n != 1)}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def p_value(value: float) -> str:
    """Return the words for a p-value, as small as it is worth saying.

    >>> p_value(0.0), p_value(0.022)
    ('p < 0.001', 'p = 0.022')
    """
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
