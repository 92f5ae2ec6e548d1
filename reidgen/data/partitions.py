"""Who is tested: queries cut from a test folder, the splits of small sets, single shots. By rule, never by chance."""

import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from reidgen.data.lists import beside, read_partitions
from reidgen.data.naming import shown
from reidgen.entries import Dataset
from reidgen.errors import DataError


def divide(dataset: Dataset, rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Return the rows with the column split, those of the part `test` divided into query and gallery.

    rows: part, path, name (the path below its folder), person (as the name says it), pid and camid; not modified.

    Drawn splits (splits = n, test_identities = m): the identities that have a match are ordered by the SHA-256 of the
    text "split,pid", and the first m are tested in that split; identities that nobody asks for stay in the gallery.
    Official ones (partitions): whom the first split does not test is trained on. single_shot: the images of an identity
    are ordered by the SHA-256 of "split,name"; "sides": the first is its query (camera 1), the second its gallery image
    (camera 2), others and identities of one image are left out; "gallery": the first is its only gallery image, those
    under another camera are its queries. both_directions: splits n to 2n-1 are 0 to n-1 with query and gallery
    exchanged. Rows of the part train are of split 0.

    Raises DataError when no query has a match, or the partitions do not fit the images.
    """
    if not {"query", "test"} & set(dataset.folders):  # nobody is asked for
        return rows.assign(split=0)
    if "test" in dataset.folders and not dataset.single_shot:
        rows = _cut(dataset, rows)
    train, test = rows[rows["part"] == "train"], rows[rows["part"] != "train"]
    able = _able(dataset, test)
    if not able:
        raise DataError(_no_match(dataset, test))
    asked = set(test["pid"] if dataset.single_shot else test["pid"][test["part"] == "query"])
    parts = [train.assign(split=0)]
    for split, people in enumerate(_tested(dataset, test, able, asked, root)):
        chosen = test["pid"].isin(people) | ~test["pid"].isin(asked)
        if dataset.partitions and split == 0:
            parts.append(test[~chosen].assign(split=0, part="train"))
        parts.append(_shots(dataset, test[chosen], split).assign(split=split))
    if dataset.both_directions:
        other = {"query": "gallery", "gallery": "query"}
        parts += [one.assign(part=one["part"].map(other), split=one["split"] + dataset.splits) for one in parts[1:]]
    return pd.concat(parts)


def matched(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Return for each query row (of one split) whether the gallery shows its identity under another camera."""
    query, gallery = rows[rows["part"] == "query"], rows[rows["part"] == "gallery"]
    cameras: dict[int, set[int]] = defaultdict(set)
    for pid, camid in zip(gallery["pid"].tolist(), gallery["camid"].tolist(), strict=True):
        cameras[pid].add(camid)
    asked = zip(query["pid"].tolist(), query["camid"].tolist(), strict=True)
    return pd.Series([bool(cameras.get(pid, set()) - {camid}) for pid, camid in asked], index=query.index, dtype=bool)


def split_ids(rows: pd.DataFrame) -> dict[int, list[int]]:
    """Return split -> the identities that are asked for in it, sorted; rows: of an index, with split, part and pid."""
    query = rows[rows["part"] == "query"]
    return {split: sorted(set(query["pid"][query["split"] == split].tolist())) for split in sorted(set(query["split"]))}


def _able(dataset: Dataset, test: pd.DataFrame) -> list[int]:
    """Return the identities that have a match."""
    if dataset.single_shot:
        people = test.groupby("pid")["camid"].agg(["size", "nunique"])
        return [int(pid) for pid in people.index[people["size" if dataset.single_shot == "sides" else "nunique"] > 1]]
    query = test[test["part"] == "query"]
    return [int(pid) for pid in query["pid"][matched(test)].unique()]


def _tested(dataset: Dataset, test: pd.DataFrame, able: list[int], asked: set[int], root: Path) -> list[set[int]]:
    """Return the identities that each split tests."""
    if dataset.partitions:
        return _official(dataset, test, asked, root)
    if dataset.splits == 1:
        return [asked]
    if len(able) < dataset.test_identities:
        raise DataError(
            f"{dataset.name}: test_identities = {dataset.test_identities}, but only {len(able)} people have a query "
            "with a match; get the whole set, or lower it in datasets.toml"
        )
    halves = []
    for split in range(dataset.splits):
        ordered = sorted(able, key=lambda pid: hashlib.sha256(f"{split},{pid}".encode()).digest())
        halves.append(set(ordered[: dataset.test_identities]))
    return halves


def _official(dataset: Dataset, test: pd.DataFrame, asked: set[int], root: Path) -> list[set[int]]:
    """Return the identities that each official split tests."""
    file = beside(root, dataset.partitions)
    assert file is not None  # `readers.locate` found it
    named = test.drop_duplicates("pid")
    pids = {_key(person): int(pid) for person, pid in zip(named["person"], named["pid"], strict=True)}
    are_tested, splits = read_partitions(file)
    if len(splits) != dataset.splits:
        raise DataError(
            f"{dataset.name}: {file} has {len(splits)} splits, expected {dataset.splits}; get the set again"
        )
    if strangers := set().union(*splits) - set(pids):
        raise DataError(
            f"{dataset.name}: {file} names {len(strangers)} people of whom there are no images, such as "
            f"{'-'.join(map(str, min(strangers)))}; extract the set again"
        )
    halves = [{pids[one] for one in people} for people in splits]
    return halves if are_tested else [asked - people for people in halves]


def _key(person: str) -> tuple[int | str, ...]:
    return tuple(int(one) if one.isdecimal() else one for one in person.split("-"))


def _shots(dataset: Dataset, test: pd.DataFrame, split: int) -> pd.DataFrame:
    """Return the rows of one split that single_shot leaves."""
    if not dataset.single_shot:
        return test
    order = test["name"].map(lambda name: hashlib.sha256(f"{split},{name}".encode()).hexdigest())
    test = test.assign(order=order).sort_values("order")
    place = test.groupby("pid").cumcount()
    if dataset.single_shot == "sides":
        chosen = test[(place < 2) & (test.groupby("pid")["pid"].transform("size") > 1)]
        query = place[chosen.index] == 0
        return chosen.assign(part=query.map({True: "query", False: "gallery"}), camid=query.map({True: 1, False: 2}))
    camera = test.groupby("pid")["camid"].transform("first")  # of the gallery image
    part = (place == 0).map({True: "gallery", False: "query"})
    return test.assign(part=part)[(place == 0) | (test["camid"] != camera)]


def _cut(dataset: Dataset, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with those of the part `test` divided into query and gallery, see `readers.read`."""
    part = rows["part"].replace("test", "gallery")
    nobody = (rows["person"] == "") | rows["pid"].isin(dataset.distractors)
    test = rows[(rows["part"] == "test") & ~nobody].sort_values("path")
    if dataset.query_cameras:
        part[test.index[test["camid"].isin(dataset.query_cameras)]] = "query"
        return rows.assign(part=part)
    shown_by = list(zip(test["pid"].tolist(), test["camid"].tolist(), strict=True))
    first = dict(zip(reversed(shown_by), reversed(test.index.tolist()), strict=True))
    images, cameras, queries = Counter(shown_by), defaultdict[int, list[int]](list), list[int]()
    for pid, camid in sorted(images):
        cameras[pid].append(camid)
    for pid, own in cameras.items():
        single = [camid for camid in own if images[pid, camid] == 1]
        stays = single[-1:] if len(own) - len(single) < 2 else []
        if len(own) > 1:
            queries += [first[pid, camid] for camid in own if camid not in stays]
    part.loc[queries] = "query"
    return rows.assign(part=part)


def _no_match(dataset: Dataset, test: pd.DataFrame) -> str:
    """Return the sentence for a set in which no query has a match: how many people, why, what to do."""
    people = test.groupby("pid")["camid"].agg(["size", "nunique"])
    single, one_camera = int((people["size"] == 1).sum()), int((people["nunique"] == 1).sum())
    cameras = sorted(test["camid"].unique())
    names = [shown(one) for one in test.drop_duplicates("camid").sort_values("camid")["camera"]]
    listing = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    if dataset.query_cameras and not set(dataset.query_cameras) & set(cameras):
        return f"{dataset.name}: query_cameras = {list(dataset.query_cameras)}, but the cameras are {listing}"
    sides = [test[test["part"] == part].drop_duplicates("pid").sort_values("pid") for part in ("query", "gallery")]
    if all(len(side) for side in sides) and not set(sides[0]["pid"]) & set(sides[1]["pid"]):
        asked, there = (shown(side["person"].iloc[0]) or "nobody" for side in sides)
        return (
            f"{dataset.name}: none of the {len(sides[0])} people in query (such as {asked}) is among the "
            f"{len(sides[1])} in gallery (such as {there}); name people alike in both folders"
        )
    for part, known in dataset.counts.items():
        if len(known) > 1 and 0 < (here := int((test["part"] == part).sum())) < known[1]:
            return (
                f"{dataset.name}: {here:,} {part} images, expected {known[1]:,}: the set is incomplete; get it again, "
                f"then run: reidgen prepare {dataset.name} --from DIR"
            )
    cure = (
        "check that the pattern reads person and camera; to train on the set, put its images into a sub-folder train, "
        "or "
        'write folders = { train = "." } in datasets.toml'
    )
    if any(file.endswith(".csv") for some in dataset.lists.values() for file in some):
        cure = (
            "correct the columns pid and camid; to train on the set, add the column split and write train in each line"
        )
    if len(cameras) == 1:
        return (
            f"{dataset.name}: no query can have a match: all {len(test):,} images of {len(people)} people are of one "
            f"camera ({listing}), and a match needs the same person under another camera; {cure}"
        )
    if single == len(people):
        return (
            f"{dataset.name}: no query can have a match: each of the {len(people)} people has a single image, and a "
            f"match needs the same person under another camera; {cure}"
        )
    return (
        f"{dataset.name}: no query can have a match: of {len(people)} people {single} have a single image and "
        f"{one_camera} are seen by one camera only (cameras: {listing}), and a match needs the same person under "
        f"another camera; {cure}"
    )
