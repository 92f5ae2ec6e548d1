"""What was read of people's own crops, told and judged: examples, doubts, and the same picture twice."""

import pandas as pd

from reidgen.data.crops import left_out
from reidgen.data.naming import shown
from reidgen.data.readers import Found

SINGLE = 0.8  # above this share of people with one image, frames were read as people; PRID, of real sets, has 0.79
LONELY = 0.5  # above this share of cameras that show one person, times or hashes were read as cameras


def examples(found: Found, number: int = 3) -> list[str]:
    """Return how the names of a few images were read, of parts, folders, people and cameras as
    different as there are.
    """
    parts = found.rows.drop_duplicates("path").set_index("path")["part"]
    images = found.kept.assign(part=found.kept["path"].map(parts).fillna("no split"))
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
    if crowd := int(kept["pid"].isin(dataset.distractors).sum()):
        sentences.append(
            f"person 0 stands for distractors, as in Market-1501: {crowd:,} images of the gallery; give it another "
            f"number "
            "if it is a person"
        )
    if nobody := int((kept["person"] == "").sum()):
        sentences.append(f"{nobody:,} images of the gallery are of nobody who is named, and match no query")
    if not {"query", "train"} & set(found.rows["part"]):
        sentences.append("there are no queries: it can be embedded and searched, but is no target")
    return [*sentences, *found.joined, *left_out(dataset, found.root, kept["path"])]


def doubts(found: Found) -> list[str]:
    """Return why the reading cannot be right: people on both sides, one image per person, cameras that
    show one person.
    """
    rows = found.rows[found.rows["split"] == found.rows["split"].min()]
    names = found.kept.drop_duplicates("pid").set_index("pid")["person"]
    somebody = ~rows["pid"].isin([*found.dataset.distractors, *names.index[names == ""]])
    train, test = rows[(rows["part"] == "train") & somebody], rows[(rows["part"] != "train") & somebody]
    found_doubts = []
    if both := sorted(set(train["pid"]) & set(test["pid"])):
        found_doubts.append(
            f"{len(both):,} people are in train and are tested, such as {shown(names[both[0]])}; whoever is tested "
            f"must not "
            "be trained on (parts that number their people apart need apart = true in datasets.toml)"
        )
    for side, word in ((train, "trained on"), (test, "tested")):
        images = side.drop_duplicates("path").groupby("pid").size()
        single = int((images == 1).sum())
        if len(images) > 2 and single > SINGLE * len(images):
            found_doubts.append(
                f"of {len(images):,} people {word} {single:,} have one image, as if it was no person's name"
            )
    people = pd.concat([train, test]).groupby("camid")["pid"].nunique()
    lonely = int((people == 1).sum())
    if len(people) > 2 and somebody.any() and rows["pid"][somebody].nunique() > 2 and lonely > LONELY * len(people):
        found_doubts.append(
            f"of {len(people):,} cameras {lonely:,} show one person only, as if it was no camera's name"
        )
    if "query" in set(test["part"]) and set(rows["pid"][rows["part"] != "train"]) == set(test["pid"].iloc[:1]):
        found_doubts.append(
            f"all {len(test):,} images that are tested are of one person, {shown(names[test['pid'].iloc[0]])}"
        )
    return found_doubts


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
    said = [f"{extra:,} images are there twice (the same bytes under two paths), such as {first} and {second}"]
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
                f"{pairs['digest'].nunique():,} pictures of {one} are in {pair['part_y']} too (the same bytes), such "
                f"as "
                f"{shown(pair['path_x'])} and {shown(pair['path_y'])}"
            )
    return said, refused
