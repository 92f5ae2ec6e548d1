"""One number of the table, explained: the runs, seeds and splits it was made of, and the commands that repeat it. Pure text."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reidgen.errors import ReidgenError
from reidgen.recipe import RECIPES
from reidgen.runs import Run
from reidgen.tables.compare import SHOWN, comparable, make_table, p_value
from reidgen.tables.identities import run_names
from reidgen.tables.looks import title
from reidgen.tables.paper import MEAN


def explain(
    rows: pd.DataFrame,
    cell: str,
    *,
    results: Path,
    name: str = "",
    against: str = "baseline",
    identities: pd.DataFrame | None = None,
) -> str:
    """Return as text where one number of the table comes from: its runs, seeds, splits, provenance and repeating commands.

    cell: method, source and target in this order or with the method last, parted by blanks, commas or arrows, such as
    "snr market duke" or "snr,synth-plaza,mean"; whatever leaves no doubt may be omitted, and so may "synth-".
    The other arguments are those of `make_table`; results: where the run folders lie, if they are still there.
    Raises ReidgenError when no cell of the table, or more than one, is meant (they are listed).
    """
    table = make_table(rows, name=name, against=against, identities=identities)
    found = _find(table.cells, cell)
    source, method, target = found["source"], found["method"], found["target"]
    of = (rows["source"] == source) & (rows["method"] == method)
    of &= (rows["seen"] == 0) if target == MEAN else (rows["target"] == target)
    shown = set(table.cells["target"][table.cells["source"] == source])
    counted = comparable(rows)[0]
    counted = counted[(counted["source"] == source) & (counted["method"] == method) & counted["target"].isin(shown)]
    counted = counted[counted["seen"] == 0] if target == MEAN else counted[counted["target"] == target]
    counted = counted.assign(run=run_names(counted)).sort_values(["seed", "target", "split"])
    parts = [_head(found), _runs(counted, several=target == MEAN), _made(counted), _repeat(counted, results)]
    if left := int(of.sum() - len(counted)):
        parts.append(
            f"left out: {left} row{'s' * (left > 1)} of the same cell, repeated by later ones or made otherwise (the table's notes say how)"
        )
    return "\n\n".join(parts) + "\n"


def _find(cells: pd.DataFrame, cell: str) -> "pd.Series[str]":
    """Return the row of the cells that the words of `cell` mean."""
    words = re.split(r"[\s,/→>]+", re.sub(r"\bmean( of unseen)?\b", "mean", cell.strip().lower()))
    fields = cells[["source", "method", "target"]].replace({"target": {MEAN: "mean"}})
    meant = pd.Series(False, index=cells.index)
    for columns in (("method", "source", "target"), ("source", "target", "method"), ("source", "method", "target")):
        for omitted in [(), ("source",), ("target",), ("method",)] if len(words) < 3 else [()]:
            asked = [column for column in columns if column not in omitted]
            if len(asked) == len(words):
                alike = [_alike(fields[column], word) for column, word in zip(asked, words, strict=True)]
                meant |= pd.concat(alike, axis=1).all(axis=1)
    if meant.sum() == 1:
        return cells[meant].iloc[0]
    listed = [
        " ".join(line)
        for line in fields[meant if meant.any() else fields.index >= 0][["method", "source", "target"]].to_numpy()
    ]
    more = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
    what = "several cells are" if meant.any() else "no cell of the table is"
    raise ReidgenError(f"{what} {cell!r}; say METHOD SOURCE TARGET, one of: {'; '.join(listed[:6])}{more}")


def _alike(names: "pd.Series[str]", word: str) -> "pd.Series[bool]":
    return (names == word) | (names == f"synth-{word}")


def _head(found: "pd.Series[str]") -> str:
    """Return the number itself, with its spread and its difference from the method it is compared with."""
    lines = [f"{title(found['method'])}, {found['source']} → {found['target']}"]
    for metric, words in (("mAP", "mAP"), ("rank1", "Rank-1")):
        number = f"{words:<7} {float(found[metric]):.2f}"
        for over in ("seeds", "splits"):
            std, n = found[f"{metric}_std_{over}"], int(float(found[over]))
            number += "" if pd.isna(std) else f" ± {float(std):.2f} over {n} {over}"
        if pd.notna(found[f"gain_{metric}"]):
            number += f"; {float(found[f'gain_{metric}']):+.2f} against {title(found['against'])}"
        if pd.notna(found[f"gain_{metric}_p"]):
            low, high, p, holm = (float(found[f"gain_{metric}_{part}"]) for part in ("low", "high", "p", "holm"))
            number += (
                f", 95 % interval {low:+.2f} to {high:+.2f}, {p_value(p)}, after Holm's correction {p_value(holm)}"
            )
        lines.append(number)
    return "\n".join(lines)


def _runs(counted: pd.DataFrame, *, several: bool) -> str:
    """Return one line per run (and target, for a mean): the means over its splits, and every split's mAP."""
    lines = ["mAP     R1      splits queries gallery run" + " → target" * several]
    for (run, target), block in counted.groupby(["run", "target"], sort=False):
        mean = 100 * block[list(SHOWN)].mean()
        line = f"{mean['mAP']:<7.2f} {mean['rank1']:<7.2f} {len(block):<6} {block['queries'].iloc[0]:<7} {block['gallery'].iloc[0]:<7} {run}"
        lines.append(line + f" → {target}" * several)
        if len(block) > 1:
            lines.append(f"        mAP of the splits {', '.join(f'{100 * mAP:.1f}' for mAP in block['mAP'])}")
    return "\n".join(lines)


def _made(counted: pd.DataFrame) -> str:
    """Return what made the runs; a line per field, all values where they differ."""
    made = counted.assign(
        recipe=counted["recipe"] + "@" + counted["hash"].str[:8], data=counted["target"] + "@" + counted["data"]
    )
    made = made.assign(date=made["date"].str[:10], source_data=made["source"] + "@" + made["source_data"])
    fields = {"recipe": "recipe", "backbone": "backbone", "seed": "seeds", "version": "reidgen", "commit": "commit"}
    fields |= {
        "torch": "torch",
        "device": "device",
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
    """Return the commands that make the numbers again, in another results folder so that nothing is overwritten."""
    first, lines = counted.iloc[0], list[str]()
    if commit := first["commit"]:
        lines.append(f"git checkout {commit.rstrip('+')}" + "   # some files had been changed" * commit.endswith("+"))
    names = dict.fromkeys([*(name.removesuffix("-all") for name in first["source"].split("+")), *counted["target"]])
    lines.append(f"reidgen prepare {' '.join(names)}")
    gone = False
    for run, block in counted.groupby("run", sort=False):
        gone |= not Run(results / "runs" / str(run)).recipe_file.is_file()
        lines += repeat_run(block.iloc[0].to_dict(), str(run), list(block["target"]), results)
    text = "to repeat it:\n" + "\n".join(f"    {line}" for line in lines)
    if gone:
        text += f"\nrun folders are gone, so settings other than these are not known here; the new ones must end in {first['hash']}"
    return text


def repeat_run(row: Mapping[Any, Any], run: str, targets: Sequence[str], results: Path) -> list[str]:
    """Return the commands that train a run again, in another results folder, and evaluate it on `targets`.

    row: any of its result rows. run: the name of its folder below `results`/runs.
    """
    file = Run(results / "runs" / run).recipe_file
    recipe = str(file) if file.is_file() else _recipe(row, results)
    made = f"--method {row['method']} --source {row['source']} --seed {row['seed']} --recipe {recipe}"
    return [
        f"reidgen train {made} --results again",
        f"reidgen evaluate {run} --target {','.join(dict.fromkeys(targets))} --results again",
    ]


def _recipe(row: Mapping[Any, Any], results: Path) -> str:
    """Return the recipe option of a run whose folder is gone, and the backbone where it is not the recipe's own."""
    if row["recipe"] not in RECIPES:
        return str(results / f"{row['recipe']}.toml")
    own = RECIPES[row["recipe"]].backbone
    return str(row["recipe"]) + (f" --backbone {row['backbone']}" if row["backbone"] != own else "")
