"""Which result rows a table shows: what was asked for, and of that what may be compared. Pure, no torch.

    rows -> select (by names: targets, methods, recipes, ...) -> comparable (like with like, the latest)

Whatever is left out becomes a Note.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from reidgen.errors import EmptyTableError, ReidgenError, unknown
from reidgen.methods import FIRST, METHODS
from reidgen.parts import GROUPS
from reidgen.registry import select_methods
from reidgen.rows import ELSEWHERE, UNDECLARED
from reidgen.teststeps import PLAIN, same_way

# Rows of one group are compared with each other. The first three say what was trained, the last how it was tested.
GROUP = ["source", "backbone", "hash", "test"]
TRAINED = GROUP[:3]
CELL = [*GROUP, "method", "target"]
FROM_ELSEWHERE = "from elsewhere"  # begins the name of a group of such models; no source has a space in its name
Settings = Mapping[str, Mapping[str, Any]]  # hash of a recipe -> its settings, where a run folder still holds them


@dataclass(frozen=True)
class Note:
    """One thing to know about a table. hint: the command that changes it; left out where no command belongs."""

    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.hint})" if self.hint else self.text


@dataclass(frozen=True)
class Selection:
    """What of the rows a table shows, by name; an empty field means all.

    targets: "synth" stands for all built-in ones. methods: names, or words for several, such as "main" or
    "mixing". recipes: names, or beginnings of a hash; several of them stand in one table as groups, as tests and
    backbones do. every: all targets enter the mean of unseen, own crops and further sets of a family too, as they do
    where `targets` names them.
    """

    targets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    tests: tuple[str, ...] = ()
    every: bool = False


def select(rows: pd.DataFrame, asked: Selection, *, every_method: bool = False) -> pd.DataFrame:
    """Return the rows that were asked for; with `every_method`, those of the other methods too.

    rows: with the columns target, method, recipe, hash, backbone, seed and, where tests are asked for, test. Raises
    ReidgenError for a name without any row, EmptyTableError where no row has all that was asked for.
    """
    for word in set(asked.methods) & {*GROUPS}:
        if not any(_is_method(name, word) for name in rows["method"].unique() if name != FIRST):
            raise ReidgenError(f"there are no results of the group {word}; run: reidgen bench --methods {word}")
    chosen = _named(rows, "target", asked.targets, "target", _is_target)
    if not every_method:
        chosen &= _named(rows, "method", asked.methods, "method", _is_method)
    if asked.recipes:
        recipe = rows["recipe"] + "@" + rows["hash"]
        chosen &= _named(rows.assign(recipe=recipe), "recipe", asked.recipes, "recipe", _is_recipe)
    chosen &= _named(rows, "backbone", asked.backbones, "backbone", str.__eq__)
    if asked.seeds:
        chosen &= _named(rows.assign(seed=rows["seed"].astype(str)), "seed", map(str, asked.seeds), "seed", str.__eq__)
    if asked.tests:
        chosen &= _named(rows, "test", asked.tests, "test", same_way)
    if len(rows) and not chosen.any():
        raise EmptyTableError("no result has all that was asked for; leave out one of the options")
    return rows[chosen]


def only_of_paper(rows: pd.DataFrame, asked: Selection, paper: pd.DataFrame) -> tuple[Selection, list[Note]]:
    """Return the selection without the targets and methods of which only the paper has numbers, and notes on them.

    rows, paper: with the columns target and method. Raises EmptyTableError where nothing else was asked for.
    """
    targets, said = _ours(rows["target"], paper["target"], asked.targets, "--target", _is_target)
    methods, also = _ours(rows["method"], paper["method"], asked.methods, "--methods", _is_method)
    return replace(asked, targets=targets, methods=methods), said + also


def _ours(
    ours: "pd.Series[str]",
    paper: "pd.Series[str]",
    words: tuple[str, ...],
    option: str,
    means: Callable[[str, str], bool],
) -> tuple[tuple[str, ...], list[Note]]:
    """Return the words without those that mean nothing of ours, but something of the paper's, and a note on these."""

    def known(word: str, names: "pd.Series[str]") -> bool:
        return any(means(str(name), word) for name in names.unique())

    lacking = [word for word in words if not known(word, ours) and known(word, paper)]
    if not lacking:
        return words, []
    text = f"there are no results of ours of the {ours.name}{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
    if len(lacking) == len(words):
        raise EmptyTableError(text)
    hint = f"the paper's own numbers: reidgen table --paper {option} {','.join(lacking)}"
    return tuple(word for word in words if word not in lacking), [Note(text, hint)]


def _named(
    rows: pd.DataFrame, column: str, words: Iterable[str], kind: str, means: Callable[[str, str], bool]
) -> "pd.Series[bool]":
    """Return which rows have in `column` what one of the words means; all rows where there is no word."""
    if not (words := list(words)):
        return pd.Series(True, index=rows.index)
    there = list(map(str, rows[column].unique()))
    meant = {word: {name for name in there if means(name, word)} for word in words}
    for word, names in meant.items():
        if not names:
            raise ReidgenError(unknown(kind, word, sorted(there), says="there are no results of"))
    return rows[column].isin(set().union(*meant.values()))


def has_target(rows: pd.DataFrame, targets: Iterable[str]) -> bool:
    """Tell whether rows are of one of the targets at least."""
    return any(_is_target(name, word) for name in rows["target"].unique() for word in targets)


def _is_target(name: str, word: str) -> bool:
    return name == word or (word == "synth" and name.startswith("synth-"))


def _is_method(name: str, word: str) -> bool:
    if name == word:
        return True
    tables = {table for method in METHODS.values() for table in method.tables}
    return word in {*tables, *GROUPS, "ablations", "all"} and name in select_methods(word)


def _is_recipe(name: str, word: str) -> bool:
    recipe, _, digest = name.rpartition("@")
    return word == recipe or digest.startswith(word.rpartition("@")[2])


def comparable(
    rows: pd.DataFrame, *, recipes_asked: bool = False, settings: Settings | None = None
) -> tuple[pd.DataFrame, list[Note]]:
    """Return the rows that may share a table, the latest of each, and a note for whatever is left out.

    Per source and backbone: the recipe, version and source data with the most rows (ties: the latest date); with
    `recipes_asked` every recipe is a group of its own. Per method of what was trained alike: rows of one version of the
    method, the latest. Per target: the data with the most rows. settings: to say in what a recipe that is left out
    differs.
    """
    made = ["hash", "backbone", "version", "source_data"]
    rows = rows.fillna(dict.fromkeys([*made, "data"], "")).sort_values("date", kind="stable", ignore_index=True)
    latest = ~rows.duplicated(
        ["source", "method", "row", "target", "test", "split", "seed", *made, "data"], keep="last"
    )
    notes = [] if latest.all() else [Note(f"{count_rows(~latest)} left out, repeated by a later one")]
    rows, said = _declared_last(rows[latest])
    notes += said

    within = TRAINED if recipes_asked else TRAINED[:2]
    alike = _most_rows(rows, within, made)
    notes += _made_otherwise(rows, alike, within, settings or {})
    rows = rows[alike]

    current = latest_version(rows)
    for (source, method, backbone), others in rows[~current].groupby(["source", "method", "backbone"]):
        versions = ", ".join(distinct(others["row"]))
        what = f"{source}: {count_rows(others['row'].notna())} of {method} left out, "
        if backbone == ELSEWHERE:
            what += f"judged before with other options, such as --input: {versions}"
            notes.append(Note(what, "the options of each stand in the model.json of its run folder"))
        else:
            notes.append(Note(f"{what}made by an earlier version of the method: {versions}"))
    rows = rows[current]

    alike = _most_rows(rows, ["target"], ["data"])
    for target, block in rows[~alike].groupby("target"):
        digests = ", ".join(distinct(block["data"].str[:8]))
        left = count_rows(block["data"].notna())
        notes.append(Note(f"{target}: {left} left out, measured on another version of it: {digests}"))
    rows = rows[alike]
    return rows.assign(seen=rows.groupby(["source", "target"])["seen"].transform("max")), notes


def _declared_last(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Note]]:
    """Return the rows without those of models from elsewhere that were declared otherwise later: one file was trained
    once. rows: by date.
    """
    models = rows[rows["backbone"] == ELSEWHERE]
    source = models.groupby("method")["source"].last()
    others = models[models["source"] != models["method"].map(source)]
    notes = []
    latest = dict(zip(source.index, source, strict=True))
    for (method, before), block in others.groupby(["method", "source"]):
        now = str(latest[method])
        said = "when nothing was declared of it" if before == UNDECLARED else f"when declared as trained on {before}"
        what = f"{count_rows(block['row'].notna())} of {method} left out, judged {said}; its latest declaration counts"
        again = [] if now == UNDECLARED else ["--trained-on", now]
        targets = ",".join(distinct(block["target"]))
        command = " ".join(["reidgen evaluate --model FILE", *again, "--target", targets])
        notes.append(Note(what, f"to judge it there as the others: {command}, with the model's other options"))
    return rows.drop(others.index), notes


def _most_rows(rows: pd.DataFrame, within: list[str], key: list[str]) -> "pd.Series[bool]":
    """Return which rows have the key that most rows of their group have; of equals, the one with the latest date."""
    key = [column for column in key if column not in within]
    if not rows[[*within, *key]].drop_duplicates().duplicated(within).any():  # one key in each group
        return pd.Series(True, index=rows.index)
    groups = rows.groupby([*within, *key])["date"].agg(["size", "max"]).reset_index()
    best = groups.sort_values(["size", "max", *key], kind="stable").drop_duplicates(within, keep="last")
    kept = pd.MultiIndex.from_frame(best[[*within, *key]])
    return pd.Series(pd.MultiIndex.from_frame(rows[[*within, *key]]).isin(kept), index=rows.index)


def latest_version(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows are of the latest version of their method; a row that does not say its version counts as such.

    rows: by date.
    """
    keys = [*TRAINED, "method"]
    known = rows[rows["row"] != ""].drop_duplicates([*keys, "row"], keep="last")
    if not known.duplicated(keys).any():
        return pd.Series(True, index=rows.index)
    known = known.drop_duplicates(keys, keep="last")
    latest = rows[keys].merge(known[[*keys, "row"]], how="left", on=keys)["row"].set_axis(rows.index)
    return (rows["row"] == "") | (rows["row"] == latest)


def _made_otherwise(
    rows: pd.DataFrame, alike: "pd.Series[bool]", within: list[str], settings: Settings
) -> Iterable[Note]:
    """Yield a note for each recipe, version or source data that is left out: how many rows, and in what they differ."""
    if alike.all():
        return
    kept = {key: block.iloc[0] for key, block in rows[alike].groupby(within)}
    names = group_names(rows, within)
    for key, others in rows[~alike].groupby(within):
        for _, block in others.groupby(["hash", "version", "source_data"]):
            first, here = block.iloc[0], kept[key]
            methods = ", ".join(distinct(block["method"]))
            what = f"{names[key]}: {count_rows(block['hash'].notna())} of {methods} left out, made otherwise"
            recipe = f"recipe {first['recipe']}@{first['hash'][:8]}"
            differs = "; ".join(_differences(first, here, settings))
            hint = f"to show them: --recipe {first['hash'][:8]}" if first["hash"] != here["hash"] else ""
            yield Note(f"{what}: {recipe}, {differs}", hint)


def _differences(row: "pd.Series[Any]", here: "pd.Series[Any]", settings: Settings) -> Iterable[str]:
    """Yield in what a row was made otherwise than another, one phrase each, as `epochs 10 (here 20)`."""
    own, other = settings.get(row["hash"]), settings.get(here["hash"])
    found = []
    if row["hash"] != here["hash"] and own is not None and other is not None:
        for key in dict.fromkeys([*own, *other]):
            if own.get(key) != other.get(key):
                found.append(f"{key} {own.get(key, 'none')} (here {other.get(key, 'none')})")
    elif row["hash"] != here["hash"]:
        found += [
            f"{name} {row[column]} (here {here[column]})"
            for name, column in {"recipe": "recipe", "dtype": "dtype"}.items()
            if row[column] != here[column]
        ]
    for name, column in {"reidgen": "version", "source data": "source_data"}.items():
        if row[column] != here[column]:
            found.append(f"{name} {row[column][:8]} (here {here[column][:8]})")
    if found:
        yield from found
    elif own is not None and other is not None:
        yield f"which has the same settings as {here['hash'][:8]}, on other images of the source or other weights"
    else:
        yield f"in what it differs from {here['hash'][:8]} is not known, as run folders are gone"


def group_names(table: pd.DataFrame, within: list[str] = GROUP) -> dict[tuple[Any, ...], str]:
    """Return what each group of a table of rows or cells is called: its source, and whatever else tells it from others.

    The backbone stands behind the source where that source has several, the beginning of the hash where the recipe
    does, and always the word of a test that is not plain. A model from elsewhere is always called so.
    """
    groups = list(table[GROUP].drop_duplicates().itertuples(index=False, name=None))
    backbones, recipes = dict[str, set[str]](), dict[tuple[str, str], set[str]]()
    for source, backbone, recipe, _ in groups:
        backbones.setdefault(source, set()).add(backbone)
        recipes.setdefault((source, backbone), set()).add(recipe)
    names = {}
    for key in dict.fromkeys(tuple(group[GROUP.index(column)] for column in within) for group in groups):
        source, backbone, *more = key
        name = elsewhere_name(source) if backbone == ELSEWHERE else source
        if len(backbones[source]) > 1 and backbone != ELSEWHERE:
            name += f", {backbone}"
        if more and len(recipes[source, backbone]) > 1:
            name += f", recipe {more[0][:8]}"
        if more[1:] and more[1] != PLAIN:
            name += f", tested with {more[1]}"
        names[key] = name
    return names


def elsewhere_name(source: str) -> str:
    """Return what the group of the models from elsewhere is called that were trained on a source, as declared."""
    return f"{FROM_ELSEWHERE} ({'training not declared' if source == UNDECLARED else f'declared: {source}'})"


def trained_on(name: str) -> str:
    """Return a group's name as part of a sentence: what its models were trained on.

    >>> trained_on("market, tiny"), trained_on(elsewhere_name("market"))
    ('trained on market, tiny', 'models from elsewhere (declared: market)')
    """
    return f"models {name}" if name.startswith(FROM_ELSEWHERE) else f"trained on {name}"


def names_together(table: pd.DataFrame, keys: Iterable[tuple[Any, ...]]) -> str:
    """Return the names of groups in one phrase, what was trained alike once, as `market (plain, centre) and duke`."""
    names = group_names(table, TRAINED)
    tests: dict[str, list[str]] = {}
    for *trained, test in keys:
        tests.setdefault(names[tuple(trained)], []).append(test)
    return " and ".join(
        name if words == [PLAIN] else f"{name} ({', '.join(sorted(words, key=lambda word: (word != PLAIN, word)))})"
        for name, words in tests.items()
    )


def distinct(values: "pd.Series[Any]") -> list[str]:
    """Return the different values as sorted words, without the empty one."""
    return [str(value) for value in sorted(set(values.dropna().unique())) if value != ""]


def each(rows: pd.DataFrame, *columns: str) -> "zip[tuple[Any, ...]]":
    """Return the values of some columns, row by row: by far faster than to go through Series of words."""
    return zip(*(rows[column].tolist() for column in columns), strict=True)


def count_rows(chosen: "pd.Series[bool]") -> str:
    """Return how many rows are chosen, in words."""
    n = int(chosen.sum())
    return f"{n:,} row{'s' * (n != 1)}"
