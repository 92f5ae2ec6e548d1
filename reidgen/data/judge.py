"""What was read of people's own crops, told and judged: examples, doubts, and the same picture twice."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from reidgen.data.lists import read_table
from reidgen.data.manifest import Prepared, tested_part
from reidgen.data.naming import shown
from reidgen.data.readers import Found, image_files
from reidgen.data.readings import never_a_person, part_of
from reidgen.entries import Dataset
from reidgen.escapes import many

SINGLE = 0.8  # above this share of people with one image, frames were read as people; PRID, of real sets, has 0.79
LONELY = 0.5  # above this share of cameras that show one person, times or hashes were read as cameras
MANY = 6  # cameras, above which more cameras than people, with one image each, are frames that were read as cameras


def examples(found: Found, number: int = 3) -> list[str]:
    """Return how the names of a few images were read, of parts, folders, people and cameras as
    different as there are.
    """
    parts: dict[str, set[str]] = defaultdict(set)
    for path, part in zip(found.rows["path"], found.rows["part"], strict=True):
        parts[path].add(part)
    words = {path: " and ".join(sorted(some, reverse=True)) for path, some in parts.items()}
    images = found.kept.assign(part=[words.get(path, "no split") for path in found.kept["path"]])
    images["folder"] = images["path"].str.rpartition("/")[0]
    chosen = [0]
    while len(chosen) < min(number, len(images)):
        news = pd.Series(0, index=images.index)
        for fact in ("part", "person", "camera", "folder"):
            news += ~images[fact].isin(images[fact].iloc[chosen])
        news.iloc[chosen] = -1
        chosen.append(int(news.to_numpy().argmax()))
    lines = []
    for path, person, camera, part in images.iloc[chosen][["path", "person", "camera", "part"]].itertuples(index=False):
        who = f"person {shown(str(person)) or 'unknown'}, camera {shown(str(camera)) or 'unknown'}"
        lines.append(f"{shown(str(path))} is {who} ({part})")
    return lines


def remarks(found: Found) -> list[str]:
    """Return sentences on a set of own crops: its parts, who is a distractor, what was joined, and
    what was left out.
    """
    dataset, kept = found.dataset, found.kept
    folders = ", ".join(f"{part} in {shown(folder)}" for part, some in dataset.folders.items() for folder in some)
    sentences = [f"parts: {folders}"] if not dataset.lists and dataset.folders != {"test": (".",)} else []
    others = _other_parts(found.root)
    if dataset.folders == {"test": (".",)} and others:
        sentences.append(
            f"{shown(found.root.name)} is read alone, and tested, though it is called as a part and beside it lie "
            f"{_few(others)}; for the whole set give {found.root.parent}"
        )
    if crowd := int(kept["pid"].isin(dataset.distractors).sum()):
        sentences.append(
            f"person 0 stands for distractors, as in Market-1501: {many(crowd, 'image')} of the gallery; give it "
            "another number if it is a person"
        )
    if nobody := int((kept["person"] == "").sum()):
        sentences.append(f"of nobody who is named, so that they match no query: {many(nobody, 'image')} of the gallery")
    if not {"query", "train"} & set(found.rows["part"]):
        sentences.append("there are no queries: it can be embedded and searched, but is no target")
    return [*sentences, *found.joined, *left_out(dataset, found.root, kept["path"])]


def _other_parts(root: Path) -> list[str]:
    """Return the folders beside `root` that are called as parts, where it is called as one itself."""
    others: list[str] = []
    if part_of(root.name):
        with contextlib.suppress(OSError):  # not ours to look into
            others = [one.name for one in root.parent.iterdir() if part_of(one.name) and one != root and one.is_dir()]
    return sorted(others)


def left_out(dataset: Dataset, root: Path, read: Iterable[str]) -> list[str]:
    """Return sentences on what lies in `root` and is not among the images `read`: folders and files, counted.

    What a list does not name is no business of the set's, and is not looked for.
    """
    if dataset.lists:
        files = {root / file for some in dataset.lists.values() for file in some}
        val = sum(
            one.split == "val" for file in files if dataset.list_format == "table" for one in read_table(file, root)
        )
        return [f"left out: {many(val, 'image')} of val, as there is a test part beside it"] if val else []
    found, known = image_files(root, "."), set(read)
    sentences = []
    folders = sorted(one for some in dataset.folders.values() for one in some)
    inside = tuple(f"{one}/" for one in folders)  # what is junk there is counted as junk
    others = [path for path in found.images if path not in known and not path.startswith(inside) and folders != ["."]]
    if beside := Counter(_top(path, folders) for path in others):
        counted = ", ".join(f"{shown(folder)} ({many(count, 'image')})" for folder, count in sorted(beside.items()))
        sentences.append(f"left out, as no part of the set: {counted}")
    return sentences + found.left_out


def _top(path: str, folders: list[str]) -> str:
    """Return the folder of `path` that is highest and holds none of `folders`."""
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        folder = "/".join(parts[:depth])
        if not any(f"{one}/".startswith(f"{folder}/") for one in folders):
            return folder
    return "/".join(parts) or "."


def doubts(found: Found) -> list[str]:
    """Return why the reading cannot be right: people who are called as a camera or a part, and what `against` finds."""
    rows = found.rows[found.rows["split"] == found.rows["split"].min()]
    names = found.kept.drop_duplicates("pid").set_index("pid")["person"]
    somebody = ~rows["pid"].isin([*found.dataset.distractors, *names.index[names == ""]])
    tested = rows["part"] != "train"
    alone = set(rows["pid"][tested]) == set(rows["pid"][tested & somebody])
    odd = [] if found.dataset.lists else sorted({name for name in names if never_a_person(name)})
    said = [f"{_few(odd)} read as a person, but called as a part, a camera or a day is"] if odd else []
    return said + against(rows[somebody], names=names.to_dict(), alone=alone)


def _few(names: list[str]) -> str:
    return ", ".join(map(shown, names[:3])) + (", ..." if len(names) > 3 else "")


def against(images: pd.DataFrame, *, names: Mapping[Any, str] = {}, alone: bool) -> list[str]:
    """Return what speaks against a reading: people on both sides, one image per person, cameras that show one person,
    frames as cameras, one person alone.

    images: part, path, pid and camid of all who are somebody. names: pid -> how its user calls it, where that is not
    the pid. alone: whether nobody else is tested, distractors for example.
    """
    train, test = images[images["part"] == "train"], images[images["part"] != "train"]
    found = []
    if both := sorted(set(train["pid"]) & set(test["pid"])):
        found.append(
            f"{len(both):,} people are in train and are tested, such as {shown(str(names.get(both[0], both[0])))}; "
            "whoever is tested must not be trained on (parts that number their people apart need apart = true in "
            "datasets.toml)"
        )
    for side, word in ((train, "trained on"), (test, "tested")):
        sizes = side.drop_duplicates("path").groupby("pid").size()
        single = int((sizes == 1).sum())
        if len(sizes) > 2 and single > SINGLE * len(sizes):
            found.append(f"of {len(sizes):,} people {word} {single:,} have one image, as if it was no person's name")
    people, shown_by = images["pid"].nunique(), images.groupby("camid")["pid"].nunique()
    lonely = int((shown_by == 1).sum())
    if len(shown_by) > 2 and people > 2 and lonely > LONELY * len(shown_by):
        found.append(f"of {len(shown_by):,} cameras {lonely:,} show one person only, as if it was no camera's name")
    pairs = images.drop_duplicates("path").groupby(["pid", "camid"]).size()
    if len(shown_by) > max(MANY, people) and (pairs == 1).sum() > SINGLE * len(pairs):
        whom = f"{people:,} {'person' if people == 1 else 'people'}"
        found.append(f"{whom} and {len(shown_by):,} cameras, one image each, as if it was a frame's number")
    if alone and {"query", "test"} & set(test["part"]) and test["pid"].nunique() == 1:
        who = test["pid"].iloc[0]
        found.append(f"all {len(test):,} images that are tested are of one person, {shown(str(names.get(who, who)))}")
    return found


def copies_tested(prepared: Prepared) -> str:
    """Return a sentence on the queries and gallery images that have the very bytes of another, "" where none has."""
    tested = tested_part(prepared).drop_duplicates("path").sort_values("path")
    again = tested[tested["sha256"].duplicated()]
    if again.empty:
        return ""
    path = str(again["path"].iloc[0])
    first = str(tested.loc[tested["sha256"] == again["sha256"].iloc[0], "path"].iloc[0])
    have = f"{len(again):,} of {len(tested):,} images that are tested {'have' if len(again) > 1 else 'has'}"
    return f"{prepared.name}: {have} the very bytes of another, such as {shown(path)} of {shown(first)}"


def doubles(found: Found, digests: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return what is to be said on files with the same bytes, and what is to be refused.

    digests: path -> digest of every image. Refused: the same picture in train and in query or gallery, and, under two
    paths, in query and gallery. Where reidgen itself chose the queries, a copy of the query's own person and camera is
    only
    said: it never counts as a match.
    """
    kept = found.kept.assign(digest=found.kept["path"].map(digests))
    copies = kept[kept["digest"].duplicated(keep=False)].sort_values(["digest", "path"])
    if copies.empty:
        return [], []
    first, second = (shown(one) for one in copies["path"].iloc[:2])
    extra = len(copies) - copies["digest"].nunique()
    said = [f"{many(extra, 'image')} with the very bytes of another, such as {second} of {first}"]
    rows = found.rows[found.rows["path"].isin(copies["path"])].drop(columns="split").drop_duplicates()
    rows = rows.assign(digest=rows["path"].map(digests))
    refused = []
    drawn = "test" in found.dataset.folders
    for one, others in (("train", ["query", "gallery"]), ("query", ["gallery"])):
        pairs = rows[rows["part"] == one].merge(rows[rows["part"].isin(others)], on="digest")
        pairs = pairs[pairs["path_x"] != pairs["path_y"]]
        if drawn and one == "query":
            pairs = pairs[(pairs["pid_x"] != pairs["pid_y"]) | (pairs["camid_x"] != pairs["camid_y"])]
        if len(pairs):
            pair = pairs.sort_values(["path_x", "path_y"]).iloc[0]
            refused.append(
                f"{many(pairs['digest'].nunique(), 'picture')} of {one} in {pair['part_y']} too (the same bytes), such "
                f"as {shown(pair['path_x'])} and {shown(pair['path_y'])}"
            )
    return said, refused
