"""What to know about a table before believing it: what its rows differ in, and what is missing. Pure text."""

import shlex
from collections import Counter
from typing import Any

import pandas as pd

from reidgen.escapes import many
from reidgen.methods import PAPER_TABLES
from reidgen.rows import ELSEWHERE, UNDECLARED, with_bare_device
from reidgen.tables import paper as papers
from reidgen.tables.average import METRICS, Mean
from reidgen.tables.choose import GROUP, Note, distinct, each, group_names, names_together
from reidgen.tables.formats import SHOWN
from reidgen.tables.identities import run_names
from reidgen.teststeps import PLAIN, TEST_STEPS, names_in

MANY = 6  # runs in one command
MADE_WITH = {"device": "device", "threads": "threads", "torch": "torch", "version": "reidgen", "commit": "commit"}


def notes_on(rows: pd.DataFrame, runs: pd.DataFrame, means: dict[tuple[Any, ...], Mean]) -> list[Note]:
    """Return what to know about comparable rows: unlike machines, seeds and splits, gaps, queries without a match.

    runs: the first of the rows of each run and target, whatever its split.
    """
    notes = [*_steps(rows), *_elsewhere(rows), *_made_with(rows[rows["model"] == ""])]
    names = group_names(rows)
    notes += _seeds(rows, runs)
    for key, block in runs.groupby(GROUP):
        if key in means:
            notes += _gaps(names[key], block, means[key])
    return [*notes, *_same(rows), *_splits(rows, names), *_unmatched(rows)]


def _steps(rows: pd.DataFrame) -> list[Note]:
    """Return what the shown test steps use of the target, which a reader of their numbers must know."""
    shown = dict.fromkeys(name for word in rows["test"].unique() for name in names_in(word))
    known = [step for name, step in TEST_STEPS.items() if name in shown]
    notes = []
    if none := [step.name for step in known if not step.unlabelled]:
        notes.append(Note(f"test steps that use no other image of the target: {', '.join(none)}"))
    if unlabelled := [step.name for step in known if step.unlabelled]:
        notes.append(Note(f"test steps that use the target's unlabelled images: {', '.join(unlabelled)}"))
    if transductive := [step.name for step in known if step.transductive]:
        what = "transductive test steps, a query's result depends on the other queries of its split"
        notes.append(Note(f"{what}: {', '.join(transductive)}"))
    if others := [name for name in shown if name not in TEST_STEPS]:
        what = f"what these test steps use of the target is not known here: {', '.join(others)}"
        notes.append(Note(what, "to see it, name the plug-in that they are from: --plugin FILE"))
    return notes


def _elsewhere(rows: pd.DataFrame) -> list[Note]:
    """Return what to know of models from elsewhere, which stand in groups of their own."""
    models = rows[rows["backbone"] == ELSEWHERE]
    notes = []
    if len(models):
        what = "models from elsewhere: recipe, epochs and seed are theirs, so their numbers say nothing of a method; "
        what += "they are averaged and compared with no run of reidgen; device and versions are those of the evaluation"
        notes.append(Note(what))
    if names := distinct(models["method"][models["source"] == UNDECLARED]):
        what = f"{', '.join(names)}: what it was trained on is not declared, so seen targets are not marked, and there "
        notes.append(Note(f"{what}is no mean of unseen", "to declare it, evaluate it again with --trained-on NAME"))
    return notes


def _made_with(rows: pd.DataFrame) -> list[Note]:
    """Return one line for all that the runs differ in beside recipe, source and seed: their numbers
    may differ by it.
    """
    rows, differs = with_bare_device(rows[list(MADE_WITH)].drop_duplicates()), []
    for column, words in MADE_WITH.items():
        values = {str(value) if value else "not known" for value in rows[column].unique()}
        if len(values) > 1:
            differs.append(f"{words} ({', '.join(sorted(values))})")
    return [Note(f"the runs of this table differ in {'; '.join(differs)}")] if differs else []


def _seeds(rows: pd.DataFrame, runs: pd.DataFrame) -> list[Note]:
    """Return a note where methods or targets have other seeds than most; groups that have the same share one."""
    groups: dict[str, list[tuple[Any, ...]]] = {}
    for key, block in runs.groupby(GROUP):
        if unlike := _unlike_seeds(block):
            groups.setdefault(unlike, []).append(key)
    return [Note(f"{names_together(rows, keys)}: {unlike}") for unlike, keys in groups.items()]


def _unlike_seeds(block: pd.DataFrame) -> str:
    """Return which seeds most have in a group, and who has others; "" where all have the same."""
    of_method: dict[str, dict[str, set[int]]] = {}
    for method, target, seed in each(block, "method", "target", "seed"):
        of_method.setdefault(method, {}).setdefault(target, set()).add(seed)
    lists = {
        method: {target: ", ".join(map(str, sorted(seeds))) for target, seeds in sorted(targets.items())}
        for method, targets in sorted(of_method.items())
    }
    times = Counter(seeds for targets in lists.values() for seeds in targets.values())
    usual, unusual = min(times, key=lambda seeds: (-times[seeds], seeds)), list[str]()
    for method, targets in lists.items():
        alike = len(set(targets.values())) == 1
        own = {method: next(iter(targets.values()))} if alike else {f"{method} on {t}": s for t, s in targets.items()}
        unusual += [f"{where} has {of_seeds(seeds)}" for where, seeds in own.items() if seeds != usual]
    return f"{of_seeds(usual)}, but {'; '.join(unusual)}" if unusual else ""


def of_seeds(numbers: str) -> str:
    """Return one or several seeds, joined by commas, in words."""
    return f"seed{'s' * (',' in numbers)} {numbers}"


def _gaps(name: str, block: pd.DataFrame, mean: Mean) -> list[Note]:
    """Return a note for each target that is not in the mean of unseen, and for each method or seed that is not."""
    notes = []
    test = str(block["test"].iloc[0])
    unseen: dict[tuple[str, int], set[str]] = {}
    for method, seed, target, seen in each(block, "method", "seed", "target", "seen"):
        unseen.setdefault((method, seed), set()).update([] if seen else [target])
    has = dict(sorted(unseen.items()))
    for target, methods in mean.lacking.items():
        lacking = [run for run, targets in has.items() if targets and target not in targets]
        missing = _names_of(lacking, block)
        why = f"{', '.join(methods)} {'lacks' if len(methods) == 1 else 'lack'} it" if methods else "some seeds lack it"
        notes.append(Note(f"{name}: {target} is not in the mean of unseen, as {why}", _evaluate(missing, target, test)))
    if mean.own:
        listed = ", ".join(mean.own)
        are = "is no set" if len(mean.own) == 1 else "are no sets"
        notes.append(Note(f"{name}: {listed} {are} of the catalogue, so not in the mean of unseen", _take_in(mean.own)))
    for target, other in mean.relatives.items():
        what = f"{name}: {target} is not in the mean of unseen, as it shows people of {other}"
        notes.append(Note(what, _take_in([other, target])))
    return notes + _not_in_mean(name, has, mean, block)


def _names_of(runs: list[tuple[str, int]], block: pd.DataFrame) -> list[str]:
    """Return the names of runs, given as (method, seed); of several versions of one, the first."""
    first = block.drop_duplicates(["method", "seed"])
    named = dict(zip(each(first, "method", "seed"), run_names(first), strict=True)) if runs else {}
    return [named[run] for run in runs]


def _not_in_mean(name: str, has: dict[tuple[str, int], set[str]], mean: Mean, block: pd.DataFrame) -> list[Note]:
    """Return a note for the seeds of each method that lack a target of the mean, and so are not in it.

    has: (method, seed) -> its unseen targets. block: the rows.
    """
    test = str(block["test"].iloc[0])
    lacking: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for (method, seed), targets in has.items():
        if lacks := tuple(target for target in mean.targets if target not in targets):
            lacking.setdefault((method, lacks), []).append(seed)
    notes = []
    for (method, lacks), seeds in lacking.items():
        who = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} of {method}"
        who = who if any(one == method for one, _ in mean.whole) else method
        what = f"{name}: not in the mean of unseen: {who}, without {', '.join(lacks)}"
        notes.append(Note(what, _evaluate(_names_of([(method, seed) for seed in seeds], block), ",".join(lacks), test)))
    return notes


def _evaluate(runs: list[str], target: str, test: str) -> str:
    """Return the command that evaluates runs on a target; of many, the first."""
    if not runs:
        return ""
    if all(f"-{ELSEWHERE}-" in run for run in runs):
        return f"run: reidgen evaluate --model FILE --target {target}, with the model's other options"
    more = f", and likewise for {len(runs) - MANY} more" if len(runs) > MANY else ""
    words = [] if test == PLAIN else ["--test", test]
    return f"run: {shlex.join(['reidgen', 'evaluate', *runs[:MANY], '--target', target, *words])}{more}"


def _take_in(targets: list[str]) -> str:
    return f"to take such in, name all targets, as in: --target {','.join(targets)}"


def _same(rows: pd.DataFrame) -> list[Note]:
    """Return a note where methods have the same numbers to the last digit, in several rows that differ."""
    of_method = rows.groupby([*GROUP, "method"])
    sums, spreads = of_method[[*METRICS]].sum(), of_method[[*METRICS]].std().add_suffix("_std")
    numbers = pd.concat([sums, spreads, of_method.size()], axis=1).round(9)
    alike: dict[tuple[Any, ...], list[str]] = {}
    for (*group, method), *values in numbers[numbers["mAP_std"] > 0].itertuples(name=None):
        alike.setdefault((tuple(group), *values), []).append(method)
    groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for (group, *_), methods in alike.items():
        groups.setdefault(tuple(methods), []).append(group)
    return [
        Note(
            f"{names_together(rows, keys)}: {' and '.join(methods)} have the same numbers to the last digit",
            "on this backbone they may be one network",
        )
        for methods, keys in groups.items()
        if len(methods) > 1
    ]


def _splits(rows: pd.DataFrame, names: dict[tuple[Any, ...], str]) -> list[Note]:
    notes = []
    counts = rows.groupby([*GROUP, "target", "method", "seed"])["split"].nunique()
    for (*group, target), splits in counts.groupby([*GROUP, "target"]):
        if few := int((splits < splits.max()).sum()):
            where = f"{names[tuple(group)]} on {target}"
            notes.append(Note(f"{where}: {few} of {len(splits)} runs have fewer than {splits.max()} splits"))
    return notes


def _unmatched(rows: pd.DataFrame) -> list[Note]:
    unmatched = rows.groupby(["target", "split"])["unmatched"].max().groupby("target").sum()
    unmatched = unmatched[unmatched > 0]
    return [Note(f"{target}: {n} queries without a match do not count") for target, n in unmatched.items()]


def corrected_alone(cells: pd.DataFrame) -> list[Note]:
    """Return a note on a table of some rows alone, whose marks are corrected for these and for no other."""
    tested = int(cells.reindex(columns=[f"gain_{metric}_p" for metric in SHOWN]).notna().to_numpy().sum())
    what = f"Holm's correction is over the {many(tested, 'difference')} asked for here"
    return [Note(f"{what}; the fewer are asked for, the more have a mark")] if tested else []


def lacking_methods(rows: pd.DataFrame, name: str) -> list[Note]:
    """Return a note for each source that lacks methods of the paper's table `name`, with the command that fills it."""
    notes = []
    for source, methods in rows.groupby("source")["method"]:
        if lacks := [one for one in papers.expected_methods(name, str(source)) if one not in set(methods)]:
            command = f"reidgen bench --source {source} --methods {name}"
            notes.append(Note(f"{source}: no {', '.join(lacks)} yet", f"run: {command}, with this recipe"))
    return notes


def beside_paper(cells: pd.DataFrame, name: str = "") -> list[Note]:
    """Return what to know before comparing with the paper's numbers.

    cells: with the columns paper_mAP and backbone. name: of the table that they are laid out as.
    """
    others = sorted(set(cells["source"]) - {UNDECLARED} - set(cells["source"][papers.has_source(cells["source"])]))
    notes = [Note(f"{', '.join(others)}: the paper has no numbers for this source")] if others else []
    if name and name not in PAPER_TABLES:
        notes.append(Note(f"the paper has no table {name}; its numbers here are from its other tables"))
    compared = cells[cells["paper_mAP"].notna()]
    if compared["target"].eq(papers.MEAN).any():
        notes.append(Note("the paper's mean of unseen is taken here, over the same targets as ours"))
    named = pd.concat([compared["source"], compared["target"]])
    if variants := distinct(named[papers.is_variant(named)]):
        notes.append(Note(f"beside the paper's numbers for the family: {', '.join(variants)}"))
    if backbones := distinct(compared["backbone"][compared["backbone"] != "resnet50"]):
        notes.append(Note(f"the paper's numbers are of resnet50, ours of {', '.join(backbones)}"))
    return notes
