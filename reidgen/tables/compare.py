"""Result rows -> the comparison table. Pure: no torch, nothing written.

rows -> choose (asked for, comparable) -> average (splits, then seeds, the mean of unseen)   -> Table.cells -> looks
                                       -> significance (differences, per-identity numbers)
cells, rows -> notes (what to know), findings (what the statistics say)
"""

from dataclasses import replace
from typing import Any

import pandas as pd

from reidgen.errors import EmptyTableError, ReidgenError, unknown
from reidgen.methods import FIRST, PAPER_TABLES, TABLES, group_of
from reidgen.registry import get_method
from reidgen.rows import ELSEWHERE, with_bare_device
from reidgen.tables import findings, notes
from reidgen.tables import literature as literatures
from reidgen.tables import paper as papers
from reidgen.tables.average import METRICS, Mean, average, means_of, titles
from reidgen.tables.choose import (
    CELL,
    GROUP,
    Note,
    Selection,
    Settings,
    comparable,
    distinct,
    group_names,
    names_together,
    only_of_paper,
    select,
)
from reidgen.tables.formats import SHOWN
from reidgen.tables.looks import Table
from reidgen.tables.paper import MEAN, in_order
from reidgen.tables.significance import differences
from reidgen.tables.statistics import holm
from reidgen.teststeps import PLAIN

__all__ = ["COLUMNS", "MEAN", "METRICS", "SHOWN", "TABLES", "Selection", "Table", "make_table", "paper_table"]

COLUMNS = ["source", "method", "target", "seen", "seeds", "splits"]
COLUMNS += [f"{metric}{part}" for metric in METRICS for part in ("", "_std_seeds", "_std_splits")]
COLUMNS += [f"{part}_{metric}" for metric in SHOWN for part in ("paper", "diff")] + ["recipe", "backbone", "version"]
COLUMNS += ["against", "gain_seeds"]
COLUMNS += [f"gain_{metric}{part}" for metric in SHOWN for part in ("", "_low", "_high", "_p", "_holm")]
COLUMNS += ["average_rank", "hash", "title", "test", "group"]


def make_table(
    rows: pd.DataFrame,
    *,
    name: str = "",
    paper: bool = False,
    narrow: bool = False,
    against: str = "baseline",
    best: int | None = None,
    literature: bool = False,
    identities: pd.DataFrame | None = None,
    selection: Selection = Selection(),
    settings: Settings | None = None,
) -> Table:
    """Return the comparison table of result rows: group x method by target, of everything there is or as asked for.

    A group holds what is compared with each other: one source, backbone, recipe and test. A cell is the mean over the
    splits of a run, then over seeds (std with ddof 1). The mean of unseen is over the targets that all methods of a
    group share, as `average.Mean` says; own crops and further sets of a family are **excluded**, unless `selection`
    names its targets. Whatever is left out, and every difference in seeds, splits or machines, is said in `notes`.

    name: one of TABLES: its methods and, of the paper's sources, its targets. paper: the paper's numbers for the
    same method and families of sets, and ours minus theirs. narrow: only sources and targets that the paper has, or
    targets that `selection` names. identities (see `read_identities`): for intervals and p-values of the
    differences from the method `against`; Holm's correction is over all of them in the table, mAP and Rank-1, so
    that a mark in a larger table needs a smaller p. best: only so many methods, those with the highest mAP on the
    mean of unseen of their group, beside Baseline and SNR; intervals, ranks and Holm's correction are those of the
    whole table. literature: what others published of the same sources and targets, apart from
    ours. settings: those of the recipes by hash, to say in what one that is left out differs.
    rows: the columns of `reidgen.rows.COLUMNS`, scores as fractions; not modified.
    Raises ReidgenError when there are no rows, or none of what was asked for.
    Source: the paper's numbers are those of Jin et al., CVPR 2020, as its slides show them (`paper_tables.csv`).

    >>> from reidgen.rows import COLUMNS as columns
    >>> rows = pd.DataFrame(dict.fromkeys(columns, ["0", "0"])).astype(columns)
    >>> rows = rows.assign(source="market", target="duke", method="snr", seed=[0, 1], mAP=[0.3, 0.34], rank1=0.5)
    >>> rows = rows.assign(test="plain")
    >>> make_table(rows, paper=True).cells.loc[0, ["mAP", "mAP_std_seeds", "paper_mAP", "diff_mAP"]].tolist()
    [32.0, 2.828427, 33.6, -1.6]
    """
    _check(rows, name, against)
    if selection.methods and against != FIRST:  # as Baseline is, which every word for several methods holds
        selection = replace(selection, methods=(*selection.methods, against))
    shown, peers, left_out, hides = _choose(rows, name=name, narrow=narrow, selection=selection, settings=settings)
    runs = shown.drop_duplicates([*CELL, "seed"])  # one row for all splits
    means = means_of(runs, asked=selection.every or bool(selection.targets))
    cells = average(shown, means)
    kept, not_best = _best(cells, best)
    if name not in ("", "main") and cells.groupby(GROUP)["target"].nunique().eq(2).all():
        cells = cells[cells["target"] != MEAN]  # the mean of one says nothing
    said = left_out + notes.notes_on(shown, runs, means) + (notes.lacking_methods(peers, name) if name else [])
    if paper:
        cells = _beside_paper(cells, means)
        said += notes.beside_paper(cells, name)
    order = {column: in_order(cells[column], column) for column in CELL}
    cells = cells.sort_values(CELL, key=lambda column: column.map(order[str(column.name)].index))
    known = pd.DataFrame() if identities is None else identities
    over = {key: mean.targets for key, mean in means.items()}
    cells = cells.merge(differences(peers, known, against=against, means=over), how="left", on=CELL)
    if hides:
        said += notes.corrected_alone(cells)
    cells, ranks = findings.ranked(cells, means)
    cells = _corrected(cells.assign(group=cells["method"].map(group_of)).reindex(columns=COLUMNS))
    cells = cells[[key in kept for key in cells[CELL[:-1]].itertuples(index=False, name=None)]].reset_index(drop=True)
    words = findings.means_in_words(cells, means)
    words += findings.gained(cells, titles(peers), asked=identities is not None) + ranks
    return Table(
        cells=cells,
        rows=shown,
        means={key: mean.targets for key, mean in means.items()},
        caption=_caption(shown),
        notes=said + not_best,
        findings=words,
        name=name,
        against=titles(peers).get(against, against),
        literature=literatures.beside(cells, over) if literature else None,
    )


def paper_table(name: str = "main", selection: Selection = Selection(), *, literature: bool = False) -> Table:
    """Return one of the paper's TABLES with the paper's own numbers, which needs no run; of a `selection` its targets,
    methods and backbones count. Raises ReidgenError for a table or name that the paper has not.
    """
    if name not in TABLES:
        raise ReidgenError(unknown("table", name, TABLES))
    if name not in PAPER_TABLES:
        raise EmptyTableError(f"there is no table {name} in the paper, which has {', '.join(PAPER_TABLES)}")
    numbers = papers.numbers()
    numbers = numbers[numbers["table"] == name].drop(columns="table")
    numbers = numbers.rename(columns={"paper_mAP": "mAP", "paper_rank1": "rank1"})
    rows = numbers.assign(
        seen=[int(t in s.split("+")) for s, t in zip(numbers["source"], numbers["target"], strict=True)]
    )
    rows = rows.assign(
        backbone="resnet50",
        hash="",
        test=PLAIN,
        recipe="",
        version="",
        title="",
        seed=0,
        split=0,
        **dict.fromkeys(METRICS[2:]),
    )
    rows = rows.assign(mAP=rows["mAP"] / 100, rank1=rows["rank1"] / 100).astype(dict.fromkeys(METRICS, "float64"))
    rows = select(rows, replace(selection, recipes=(), seeds=(), tests=()))
    means = means_of(rows, asked=True)
    cells = average(rows, means)
    if name != "main":
        cells = cells[cells["target"] != MEAN]
    order = {column: in_order(cells[column], column) for column in CELL}
    cells = cells.sort_values(CELL, key=lambda column: column.map(order[str(column.name)].index))
    cells = cells.assign(group=cells["method"].map(group_of)).reindex(columns=COLUMNS)
    cells = cells.assign(recipe="the paper's").reset_index(drop=True)
    cells = cells.round(dict.fromkeys(METRICS, 6)).assign(version="", seeds=1)
    caption = "the paper's numbers (Jin et al., CVPR 2020), no run of ours; resnet50"
    words = [Note("the mean of unseen is taken here, over the unseen targets")] if name == "main" else []
    over = {key: mean.targets for key, mean in means.items()}
    table = Table(cells=cells, rows=rows.iloc[:0], means=over, caption=caption, notes=words, findings=[], name=name)
    return replace(table, literature=literatures.beside(cells, over)) if literature else table


def _check(rows: pd.DataFrame, name: str, against: str) -> None:
    """Raise ReidgenError where there is nothing to show, or no table or method of that name."""
    if name and name not in TABLES:
        raise ReidgenError(unknown("table", name, [*TABLES, "all", "stress", "attack"]))
    if rows.empty:
        raise EmptyTableError(f"there are no results yet; run: reidgen bench{f' --methods {name}' if name else ''}")
    if against != "baseline" and against not in set(rows["method"]):
        get_method(against)
        raise ReidgenError(f"there are no rows of {against} to compare with; run: reidgen bench --methods {against}")


def _choose(
    rows: pd.DataFrame, *, name: str, narrow: bool, selection: Selection, settings: Settings | None
) -> tuple[pd.DataFrame, pd.DataFrame, list[Note], bool]:
    """Return the rows that the table shows, those of all methods beside them, what was left out, and whether the
    selection hides any.

    The other methods count in the differences, which are so the same in every table: they tell of the seeds.
    """
    said: list[Note] = []
    if narrow:
        selection, said = only_of_paper(rows, selection, papers.numbers())
    shown = select(rows, selection)
    hides = len(shown) < len(rows)
    if name and (shown := papers.select(shown, name)).empty:
        raise EmptyTableError(f"there are no results for the table {name} yet; run: reidgen bench --methods {name}")
    if narrow and not selection.targets:
        shown, others = papers.beside_paper(shown)
        if shown.empty:
            raise EmptyTableError(
                f"the paper has no numbers for any of the results' sources and targets: {', '.join(others)} (to show "
                "them, leave out --paper, or name them: --target NAME,NAME)"
            )
        if others:
            hint = "to show them too, name the targets: --target NAME,NAME"
            said.append(Note(f"not shown, as the paper has no numbers for them: {', '.join(others)}", hint))
    by_name = bool(selection.recipes)
    chosen = len(shown)
    shown, left_out = comparable(shown, recipes_asked=by_name, settings=settings)
    beside = select(rows, selection, every_method=True)
    if len(beside) == chosen:  # there is no other method
        return shown, shown, said + left_out, hides
    made = [*GROUP, "version", "source_data", "target", "data"]
    peers = beside.merge(shown[made].drop_duplicates(), on=made)
    return shown, comparable(peers, recipes_asked=by_name)[0], said + left_out, hides


def _best(cells: pd.DataFrame, number: int | None) -> tuple[set[tuple[str, ...]], list[Note]]:
    """Return which methods of each group are shown, as (*group, method), and a note for each group on the others.

    All of a group without a mean of unseen. Raises ReidgenError where the number is below 1.
    """
    if number is not None and number < 1:
        raise ReidgenError(f"--best {number}: give 1 or more methods to show")
    keys = list(dict.fromkeys(cells[CELL[:-1]].itertuples(index=False, name=None)))
    said, kept = list[Note](), set(keys)
    if number is None:
        return kept, said
    names = group_names(cells)
    for group, block in cells[cells["target"] == MEAN].groupby(GROUP, sort=False):
        ranked = block.assign(method=pd.Categorical(block["method"], in_order(block["method"], "method"), ordered=True))
        ranked = ranked.sort_values("method").sort_values("mAP", ascending=False, kind="stable")
        best = {FIRST, "snr", *ranked["method"].head(number)}
        out = [key for key in keys if key[:-1] == group and key[-1] not in best]
        kept -= set(out)
        if out:
            what = f"{names[group]}: not shown, as not among the {number} best by the mean of unseen: "
            what += ", ".join(in_order([key[-1] for key in out], "method"))
            said.append(Note(f"{what}; ranks and Holm's correction count them", "to show all, leave out --best"))
    return kept, said


def _beside_paper(cells: pd.DataFrame, means: dict[tuple[str, ...], Mean]) -> pd.DataFrame:
    """Return the cells with the paper's numbers and ours minus theirs; the paper's mean is over the same targets as
    ours.
    """
    columns = [f"paper_{metric}" for metric in SHOWN]
    cells = papers.beside(cells)
    pairs = {(*key, target) for key, mean in means.items() for target in mean.targets}
    keys = cells[[*GROUP, "target"]].itertuples(index=False, name=None)
    counted = cells[[key in pairs for key in keys]].groupby([*GROUP, "method"])[columns]
    whole = counted.mean()[counted.count()["paper_mAP"] == counted.size()].reset_index().assign(target=MEAN)
    of_mean = cells[CELL].merge(whole, how="left", on=CELL)[columns].set_axis(cells.index)
    cells = cells.assign(**{column: cells[column].fillna(of_mean[column]) for column in columns})
    return cells.assign(**{f"diff_{metric}": cells[metric] - cells[f"paper_{metric}"] for metric in SHOWN})


def _corrected(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with Holm's correction over all p-values in them, rounded to what is worth writing."""
    p_values = cells[[f"gain_{metric}_p" for metric in SHOWN]].to_numpy(dtype=float)
    holm_p = holm(p_values.ravel()).reshape(p_values.shape)
    cells = cells.assign(**{f"gain_{metric}_holm": holm_p[:, number] for number, metric in enumerate(SHOWN)})
    small = [f"gain_{metric}_{part}" for metric in SHOWN for part in ("p", "holm")]
    rounded = [cells.drop(columns=small).round(6), cells[small].map(lambda p: float(f"{p:.3g}"))]
    return pd.concat(rounded, axis=1)[COLUMNS].reset_index(drop=True)


def _caption(rows: pd.DataFrame) -> str:
    """Return one line that says how, with what and when the rows were made."""
    how: dict[str, list[tuple[Any, ...]]] = {}
    order = in_order(rows["source"], "source")
    firsts = rows.drop_duplicates(GROUP).sort_values(GROUP).to_dict("records")
    for first in sorted(firsts, key=lambda first: order.index(first["source"])):
        made = f"recipe {first['recipe']}@{first['hash'][:8]}, backbone {first['backbone']}, reidgen {first['version']}"
        made = f"judged by reidgen {first['version']}" if first["backbone"] == ELSEWHERE else made
        how.setdefault(made, []).append(tuple(first[column] for column in GROUP))
    groups = rows[GROUP].drop_duplicates()
    parts = [f"{names_together(groups, same)}: {made}" for made, same in how.items()]
    parts.append(notes.of_seeds(", ".join(distinct(rows["seed"]))))
    facts = with_bare_device(rows[["dtype", "device", "threads", "torch", "commit"]].drop_duplicates())
    for word in facts:
        if values := distinct(facts[word][facts[word] != 0]):
            parts.append(f"{word} {', '.join(values)}")
    days = sorted({date[:10] for date in distinct(rows["date"])})
    return "; ".join([*parts, *([" to ".join(dict.fromkeys((days[0], days[-1])))] if days else [])])
