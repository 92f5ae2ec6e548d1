"""The paper's tables: their numbers, and which methods, sources and targets each of them shows. No torch here."""

from collections.abc import Iterable
from functools import cache
from importlib import resources

import pandas as pd

from reidgen.catalogue import family_of, load_catalogue
from reidgen.methods import FIRST, METHODS, group_of
from reidgen.parts import GROUPS
from reidgen.registry import select_methods
from reidgen.teststeps import PLAIN

MEAN = "mean of unseen"  # stands in the column `target` of a table's cells


@cache
def numbers() -> pd.DataFrame:
    """Return the numbers of all the paper's tables: table, source, method, target, paper_mAP, paper_rank1 in percent.

    Source: Jin et al., CVPR 2020, as its slides show them [S]. The tables agree where they meet.
    """
    with resources.files("reidgen.tables").joinpath("paper_tables.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file).rename(columns={"map": "paper_mAP", "rank1": "paper_rank1"})


def families(names: "pd.Series[str]") -> "pd.Series[str]":
    """Return for each source or target the name it has in the paper: the family of its set; of several sources, in a
    fixed order.

    >>> families(pd.Series(["market", "duke+cuhk03-detected"])).tolist()
    ['market', 'cuhk03+duke']
    """
    known = load_catalogue()
    kin = {name: "+".join(sorted(family_of(part, known) for part in name.split("+"))) for name in names.unique()}
    return names.map(kin)


def beside(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with the columns paper_mAP and paper_rank1: the paper's numbers for their
    method and families, beside plain tests only, as the paper's are.
    """
    paper = numbers().drop(columns="table").drop_duplicates(["source", "method", "target"])
    paper = paper.assign(source=families(paper["source"]), target=families(paper["target"]))
    keys = cells.assign(source=families(cells["source"]), target=families(cells["target"]))
    theirs = keys.merge(paper, how="left", on=["source", "method", "target"]).set_index(cells.index)
    plain = cells["test"] == PLAIN
    return cells.assign(**{column: theirs[column].where(plain) for column in ("paper_mAP", "paper_rank1")})


def has_source(sources: "pd.Series[str]") -> "pd.Series[bool]":
    """Return for each source whether the paper has it, or one of its family."""
    return families(sources).isin(set(families(numbers()["source"])))


def is_variant(names: "pd.Series[str]") -> "pd.Series[bool]":
    """Return for each source or target whether the paper's name for it is another one, that of its family."""
    return families(names) != names.map(lambda name: "+".join(sorted(name.split("+"))))


def select(rows: pd.DataFrame, table: str) -> pd.DataFrame:
    """Return the rows that the paper's table shows: its methods and, of a source it has, its targets.

    A source that the paper does not have, or without a row on any of the paper's unseen targets, keeps all its targets.
    """
    rows = rows[rows["method"].isin(select_methods(table))]
    own = numbers()[numbers()["table"] == table]
    pairs = set(zip(families(own["source"]), families(own["target"]), strict=True))
    kin = zip(families(rows["source"]), families(rows["target"]), strict=True)
    shown = pd.Series([pair in pairs for pair in kin], index=rows.index, dtype=bool)
    unseen = (shown & (rows["seen"] == 0)).groupby(rows["source"]).transform("any")
    return rows[shown | ~unseen]


def beside_paper(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of the sources and targets that the paper has numbers for, and the names of the others."""
    pairs = set(zip(families(numbers()["source"]), families(numbers()["target"]), strict=True))
    kin = zip(families(rows["source"]), families(rows["target"]), strict=True)
    shown = pd.Series([pair in pairs for pair in kin], index=rows.index, dtype=bool)
    others = [in_order(set(rows[column]) - set(rows[column][shown]), column) for column in ("source", "target")]
    return rows[shown], [f"source {name}" for name in others[0]] + [f"target {name}" for name in others[1]]


def expected_methods(table: str, source: str) -> list[str]:
    """Return the methods that the paper's table shows for a source; for a source the paper does not have, all of the
    table.
    """
    own = numbers()[numbers()["table"] == table]
    of_source = own["method"][families(own["source"]) == families(pd.Series([source]))[0]]
    return [name for name in select_methods(table) if of_source.empty or name in set(of_source)]


def in_order(names: Iterable[str], column: str) -> list[str]:
    """Return the names of a column without repeats: in the paper's order, then by alphabet, MEAN last.

    column: source, method or target; of tests `plain` is first; any other is by alphabet alone. Of methods Baseline is
    first, then come the GROUPS, within them the order of METHODS, a plug-in's rows last; a variant stands right behind
    its method.
    """
    different = names.unique() if isinstance(names, pd.Series) else names  # of 100,000 rows it is much faster
    distinct = pd.Series(sorted(set(different)), dtype=str)
    first: list[str] = []
    kin = dict(zip(distinct, distinct, strict=True))
    if column == "method":
        groups = [FIRST, *GROUPS]
        first = sorted(METHODS, key=lambda name: groups.index(group_of(name)))
        kin = {name: name.partition("(")[0] for name in distinct}
    elif column == "test":
        first = [PLAIN]
    elif column in ("source", "target"):
        first = _theirs(column)
        kin = dict(zip(distinct, families(distinct), strict=True))
    return sorted(
        kin, key=lambda name: (name == MEAN, first.index(kin[name]) if kin[name] in first else len(first), name)
    )


@cache
def _theirs(column: str) -> list[str]:
    """Return the paper's sources or targets in its order: all shipped, so that no file of the user's moves them."""
    return list(dict.fromkeys(families(numbers()[column])))
