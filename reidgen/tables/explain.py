"""One number of the table, explained: the runs, seeds and splits it was made of, and the commands that repeat it. Pure
text.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reidgen.errors import ReidgenError
from reidgen.methods import METHODS
from reidgen.recipe import RECIPES, read_recipe
from reidgen.rows import percent, with_bare_device
from reidgen.runs import Run
from reidgen.tables.choose import GROUP, TRAINED
from reidgen.tables.formats import SHOWN, difference, p_value, signed
from reidgen.tables.identities import run_names
from reidgen.tables.looks import Table
from reidgen.tables.paper import MEAN
from reidgen.teststeps import PLAIN, same_way


def explain(table: Table, cell: str, *, rows: pd.DataFrame, results: Path) -> str:
    """Return as text where one number of a table comes from: its runs, seeds, splits, provenance and repeating
    commands.

    cell: method, source and target, parted by blanks, commas or arrows, such as "snr market duke" or
    "snr,synth-plaza,mean", the source before the target; backbone, or the beginning of the recipe's hash, where there
    are several; and the word of a test that is not plain. Whatever leaves no doubt may be omitted, and so may "synth-".
    rows: all result rows that there are. results: where the run folders lie, if they are still there.
    Raises ReidgenError when no cell of the table, or more than one, is meant (they are listed).
    """
    found = _find(table.cells, cell)
    targets = table.means[tuple(found[GROUP])] if found["target"] == MEAN else [found["target"]]
    counted = _of_cell(table.rows, found, [*GROUP, "method"], targets)
    if found["target"] == MEAN:
        every = counted.groupby("seed")["target"].transform("nunique") == len(targets)
        counted = counted[every]  # a seed that lacks one of them is not in the mean
    counted = counted.assign(run=run_names(counted)).sort_values(["seed", "target", "split"])
    there = _of_cell(rows, found, ["source", "method", "test"], targets)
    several = found["target"] == MEAN
    parts = [_head(found, table), _runs(counted, several=several), _made(counted), _repeat(counted, results)]
    if left := len(there) - len(counted):
        parts.append(
            f"left out: {left} row{'s' * (left > 1)} of the same method, source and target, repeated by later ones or "
            "made otherwise (the table's notes say how)"
        )
    return "\n\n".join(parts) + "\n"


def _of_cell(rows: pd.DataFrame, found: "pd.Series[Any]", columns: list[str], targets: list[str]) -> pd.DataFrame:
    """Return the rows that have in `columns` what a cell has, on some targets."""
    return rows[(rows[columns] == found[columns]).all(axis=1) & rows["target"].isin(targets)]


def _find(cells: pd.DataFrame, cell: str) -> "pd.Series[Any]":
    """Return the row of the cells that the words of `cell` mean."""
    text = re.sub(r"\b(mean( of unseen)?|unseen)\b", "mean", cell.strip().lower())
    words = re.split(r"[\s,/→>]+(?![^(]*\))", text)
    fields = cells[["method", "source", "target", "backbone", "hash", "test"]].replace({"target": {MEAN: "mean"}})
    meant = cells[[_means(words, *line) for line in fields.itertuples(index=False, name=None)]]
    if len(meant) > 1 and len(plain := meant[meant["test"] == PLAIN]) == 1:
        meant = plain
    if len(meant) == 1:
        return meant.iloc[0]
    shown = ["method", "source", "target"] + [
        name for name in ("backbone", "hash", "test") if fields[name].nunique() > 1
    ]
    listed = [" ".join(line) for line in fields.loc[meant.index if len(meant) else fields.index, shown].to_numpy()]
    rest = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
    what = "several cells are" if len(meant) else "no cell of the table is"
    lines = list(fields.itertuples(index=False, name=None))
    strange = [word for word in words if word and not any(_means([word], *line) for line in lines)]
    lacking = f": nothing in it is called {', '.join(map(repr, strange))}" if strange else ""
    raise ReidgenError(
        f"{what} {cell!r}{lacking}; say {' '.join(shown).upper()}, one of: {'; '.join(listed[:6])}{rest}"
    )


def _means(words: Sequence[str], method: str, source: str, target: str, backbone: str, digest: str, test: str) -> bool:
    """Tell whether the words name a cell: source before target, each once; the others anywhere."""
    left = list(words)
    for word in words:
        if (
            word in (method.lower(), backbone.lower())
            or (len(word) > 3 and digest.startswith(word))
            or same_way(word, test.lower())
        ):
            left.remove(word)
    places = [{name.lower(), name.lower().removeprefix("synth-")} for name in (source, target)]
    if len(left) == 2:
        return left[0] in places[0] and left[1] in places[1]
    return not left or (len(left) == 1 and (left[0] in places[0] or left[0] in places[1]))


def _head(found: "pd.Series[Any]", table: Table) -> str:
    """Return the number itself, with its spread and its difference from the method it is compared with."""
    lines = [f"{found['title']}, {found['source']} → {found['target']}"]
    if found["test"] != PLAIN:
        lines[0] += f", tested with {found['test']}"
    if table.cells[TRAINED].drop_duplicates()["source"].duplicated().any():
        lines[0] += f" ({found['backbone']}, recipe {found['recipe']})"
    for metric, words in (("mAP", "mAP"), ("rank1", "Rank-1")):
        number = f"{words:<7} {found[metric]:.2f}"
        for over in ("seeds", "splits"):
            std = found[f"{metric}_std_{over}"]
            number += "" if pd.isna(std) else f" ± {std:.2f} over {int(found[over])} {over}"
        if pd.notna(found[f"gain_{metric}"]):
            number += f"; {difference(found, metric)} against {table.against}"
            if found["gain_seeds"] != found["seeds"]:
                n = int(found["gain_seeds"])
                number += f" over the {n} seed{'s' * (n > 1)} of both"
        if pd.notna(found[f"gain_{metric}_p"]):
            p, holm = found[f"gain_{metric}_p"], found[f"gain_{metric}_holm"]
            number += f", {p_value(p)}, after Holm's correction {p_value(holm)}"
        if pd.notna(found[f"paper_{metric}"]):
            number += f"; paper {found[f'paper_{metric}']:.1f}, difference {signed(found[f'diff_{metric}'])}"
        lines.append(number)
    return "\n".join(lines)


def _runs(counted: pd.DataFrame, *, several: bool) -> str:
    """Return one line per run (and target, for a mean): the means over its splits, and every split's mAP."""
    lines = ["mAP     R1      splits queries gallery run" + (" → target" if several else "")]
    for (run, target), block in counted.groupby(["run", "target"], sort=False):
        mean = 100 * block[list(SHOWN)].mean()
        line = f"{mean['mAP']:<7.2f} {mean['rank1']:<7.2f} {len(block):<6} "
        line += f"{block['queries'].iloc[0]:<7} {block['gallery'].iloc[0]:<7} {run}"
        lines.append(line + f" → {target}" if several else line)
        if len(block) > 1:
            lines.append(f"        mAP of the splits {', '.join(percent(mAP) for mAP in block['mAP'])}")
    return "\n".join(lines)


def _made(counted: pd.DataFrame) -> str:
    """Return what made the runs; a line per field, all values where they differ."""
    made = with_bare_device(counted).assign(
        recipe=counted["recipe"] + "@" + counted["hash"].str[:8], data=counted["target"] + "@" + counted["data"]
    )
    made = made.assign(date=made["date"].str[:10], source_data=made["source"] + "@" + made["source_data"])
    made = made.assign(threads=made["threads"].map(lambda n: str(n) if n else "not known"))
    fields = {
        "recipe": "recipe",
        "backbone": "backbone",
        "seed": "seeds",
        "version": "reidgen",
        "commit": "commit",
        "torch": "torch",
        "device": "device",
        "threads": "threads",
        "dtype": "dtype",
        "date": "evaluated",
        "source_data": "source",
        "data": "target",
    }
    return "\n".join(
        f"{words:<9} {', '.join(str(value) for value in sorted(set(made[field])) if value != '')}"
        for field, words in fields.items()
    )


def _repeat(counted: pd.DataFrame, results: Path) -> str:
    """Return the commands that make the numbers again, in another results folder so that nothing is overwritten.

    Whatever stands in the rows is quoted for a shell.
    """
    first, gone = counted.iloc[0], False
    lines = ready(first.to_dict(), counted["target"])
    for run, block in counted.groupby("run", sort=False):
        gone |= not first["model"] and not Run(results / "runs" / str(run)).recipe_file.is_file()
        lines += repeat_run(block.iloc[0].to_dict(), str(run), list(block["target"]), results)
    text = "to repeat it:\n" + "\n".join(f"    {line}" for line in lines)
    if gone:
        text += "\nrun folders are gone, so settings other than these are not known here; "
        text += f"the new ones must end in {first['hash']}"
    return text


def ready(row: Mapping[Any, Any], targets: Iterable[str]) -> list[str]:
    """Return the commands before those of `repeat_run`: for a row's code, and for the data of source and targets."""
    lines = []
    if commit := row["commit"]:
        changed = "   # some files had been changed" if commit.endswith("+") else ""
        lines.append(shlex.join(["git", "checkout", commit.removesuffix("+")]) + changed)
    own = [] if row["model"] else [name.removesuffix("-all") for name in row["source"].split("+")]
    return [*lines, shlex.join(["reidgen", "prepare", *dict.fromkeys([*own, *targets])])]


def repeat_run(row: Mapping[Any, Any], run: str, targets: Sequence[str], results: Path) -> list[str]:
    """Return the commands that train a run again, in another results folder, and evaluate it on `targets`.

    row: any of its result rows. run: the name of its folder below `results`/runs. Quoted for a shell. Of a model from
    elsewhere, the command that evaluates it; where its folder is gone, with its file's digest as a comment.
    """
    if row["model"]:
        return [_judge_again(row, Run(results / "runs" / run), targets)]
    file = Run(results / "runs" / run).recipe_file
    recipe = ["--recipe", str(file)] if file.is_file() else _recipe(row, results)
    method, bracket, changed = str(row["method"]).partition("(")
    made = ["--method", method, "--source", str(row["source"]), "--seed", str(row["seed"]), *recipe]
    if bracket and not file.is_file():
        made += _set(method, changed.removesuffix(")").split(","))
    where = ",".join(dict.fromkeys(targets))
    plugins = read_recipe(file).plugins if file.is_file() else ()
    others = [] if row["test"] == PLAIN else ["--test", str(row["test"])]
    others += [word for plugin in plugins for word in ("--plugin", plugin)]
    return [
        shlex.join(["reidgen", "train", *made, "--results", "again"]),
        shlex.join(["reidgen", "evaluate", run, "--target", where, *others, "--results", "again"]),
    ]


def _judge_again(row: Mapping[Any, Any], run: Run, targets: Sequence[str]) -> str:
    words = run.model_words() or [
        "--model",
        f"{str(row['method']).partition('@')[0]}.onnx",
        "--trained-on",
        str(row["source"]),
    ]
    test = [] if row["test"] == PLAIN else ["--test", str(row["test"])]
    where = ["--target", ",".join(dict.fromkeys(targets)), *test, "--results", "again"]
    return f"{shlex.join(['reidgen', 'evaluate', *words, *where])}   # its file: SHA-256 {row['model']}..."


def _set(method: str, changed: Sequence[str]) -> list[str]:
    """Return the options that make a variant: of each `parameter=value` the part of the method that has it."""
    parts = METHODS[method].parts if method in METHODS else []
    words = []
    for one in changed:
        owners = [part.name for part in parts if one.partition("=")[0] in part.params]
        one = one.replace("/", ",")
        words += ["--set", f"{owners[0]}.{one}" if owners else one]
    return words


def _recipe(row: Mapping[Any, Any], results: Path) -> list[str]:
    """Return the options for the recipe of a run whose folder is gone, and for a backbone that is not the recipe's."""
    if row["recipe"] not in RECIPES:
        named, kept = results / f"{row['recipe']}.toml", results / "recipe.toml"  # the latter: of a published folder
        return ["--recipe", str(kept if kept.is_file() and not named.is_file() else named)]
    own = RECIPES[row["recipe"]].backbone
    return ["--recipe", str(row["recipe"]), *(["--backbone", row["backbone"]] if row["backbone"] != own else [])]
