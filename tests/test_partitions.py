"""Splits, single shots and official partitions: the protocols' numbers, rules by hand, digests that never change."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import layouts
import pandas as pd
import pytest
from scipy.io import savemat

from reidgen.catalogue import get_dataset
from reidgen.data.partitions import divide, matched, split_ids
from reidgen.data.readers import read
from reidgen.entries import Dataset
from reidgen.errors import DataError

SMALL = ("prid", "grid", "viper", "ilids", "cuhk01")
# What each split holds: people and images of query and gallery, splits; from the protocols, not from the catalogue.
PROTOCOL = {
    "prid": (100, 100, 649, 649, 10),
    "grid": (125, 125, 126, 900, 10),
    "viper": (316, 316, 316, 316, 20),
    "ilids": (60, 60, 60, 60, 10),
    "cuhk01": (486, 972, 486, 972, 10),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """The rows of the small sets in their real size."""
    root = tmp_path_factory.mktemp("small")
    return {name: read(get_dataset(name), layouts.build(name, root)).rows for name in SMALL}


def touch(root: Path, *paths: str) -> Path:
    """Make empty files: readers open no image."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def own(**keys: object) -> Dataset:
    return Dataset(name="mine", **{"pattern": r"(?P<pid>[^/]+)/c(?P<camid>\w)_.*", **keys})  # type: ignore[arg-type]


def drawn(split: int, words: list[str]) -> list[str]:
    """Order texts by the SHA-256 of "split,text", as the rule says."""
    return sorted(words, key=lambda word: hashlib.sha256(f"{split},{word}".encode()).hexdigest())


def sides(rows: pd.DataFrame, split: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    one = rows[rows["split"] == split]
    return one[one["part"] == "query"], one[one["part"] == "gallery"]


@pytest.mark.parametrize("name", SMALL)
def test_each_split_is_as_the_protocol_says(small: dict[str, pd.DataFrame], name: str) -> None:
    people, images, shown, gallery_images, splits = PROTOCOL[name]
    rows = small[name]
    assert sorted(set(rows["split"])) == list(range(splits))
    seen = set()
    for split in range(splits):
        query, gallery = sides(rows, split)
        assert (query["pid"].nunique(), len(query)) == (people, images)
        assert (gallery["pid"].nunique(), len(gallery)) == (shown, gallery_images)
        assert set(query["pid"]) <= set(gallery["pid"]) and not set(query["path"]) & set(gallery["path"])
        assert matched(rows[rows["split"] == split]).all()
        seen.add(frozenset(query["pid"]))
    assert len(seen) == 10  # no half twice, but for VIPeR's other direction


@pytest.mark.parametrize(("name", "tested"), [("viper", 316), ("cuhk01", 486), ("ilids", 60)])
def test_halves_are_drawn_by_the_rule(small: dict[str, pd.DataFrame], name: str, tested: int) -> None:
    people = {"viper": layouts.viper_people(), "cuhk01": list(range(1, 972)), "ilids": list(range(1, 120))}[name]
    for split in range(10):
        half = {int(pid) for pid in drawn(split, [str(pid) for pid in people])[:tested]}
        assert set(sides(small[name], split)[0]["pid"]) == half == set(split_ids(small[name])[split])


def test_prid_strangers_stay_in_the_gallery(small: dict[str, pd.DataFrame]) -> None:
    """Cameras a and b share 1 to 200; 201 to 749 of camera b are always there, 201 to 385 of camera a never."""
    for split in range(10):
        query, gallery = sides(small["prid"], split)
        tested = {int(pid) for pid in drawn(split, [str(pid) for pid in range(1, 201)])[:100]}
        assert set(query["pid"]) == tested and set(gallery["pid"]) == tested | set(range(201, 750))
        assert query["path"].str.startswith("single_shot/cam_a/").all() and set(query["camid"]) == {1}
        assert gallery["path"].str.startswith("single_shot/cam_b/").all() and set(gallery["camid"]) == {2}


def test_grid_follows_its_own_partitions(small: dict[str, pd.DataFrame]) -> None:
    for split, trained in enumerate(layouts.grid_training_people()):
        query, gallery = sides(small["grid"], split)
        tested = set(range(1, 251)) - set(trained)
        assert set(query["pid"]) == tested and set(gallery["pid"]) == tested | {0}
        assert (gallery["pid"] == 0).sum() == 775
    train = small["grid"][small["grid"]["part"] == "train"]
    assert set(train["pid"]) == set(layouts.grid_training_people()[0]) and len(train) == 250
    assert set(train["split"]) == {0}


def test_viper_is_asked_in_both_directions(small: dict[str, pd.DataFrame]) -> None:
    for split in range(10):
        query, gallery = sides(small["viper"], split)
        back, forth = sides(small["viper"], split + 10)
        assert set(query["path"]) == set(forth["path"]) and set(gallery["path"]) == set(back["path"])
        assert query["path"].str.startswith("cam_a/").all() and back["path"].str.startswith("cam_b/").all()
        assert set(query["camid"]) == set(forth["camid"]) == {1}


def test_ilids_shows_two_images_of_each_person(small: dict[str, pd.DataFrame]) -> None:
    assert sum(map(int, layouts.ILIDS)) == 476 and len(layouts.ILIDS) == 119
    for split in range(10):
        query, gallery = sides(small["ilids"], split)
        for pid, path in zip(query["pid"], query["path"], strict=True):
            names = [f"{pid:04d}{k:03d}.jpg" for k in range(1, 1 + int(layouts.ILIDS[pid - 1]))]
            first, second = drawn(split, names)[:2]
            assert path == f"Persons/{first}" and gallery["path"][gallery["pid"] == pid].item() == f"Persons/{second}"
        assert set(query["camid"]) == {1} and set(gallery["camid"]) == {2}


def test_ilids_is_the_same_in_whatever_folder_it_lies(tmp_path: Path, small: dict[str, pd.DataFrame]) -> None:
    (layouts.build("ilids", tmp_path) / "Persons").rename(tmp_path / "i-LIDS_Pedestrian" / "images")
    rows = read(get_dataset("ilids"), tmp_path).rows
    assert rows["path"].str.replace("images/", "Persons/").tolist() == small["ilids"]["path"].tolist()


def test_cuhk01_has_two_images_under_each_view(small: dict[str, pd.DataFrame]) -> None:
    query, gallery = sides(small["cuhk01"], 3)
    assert set(query["path"].str[-7:-4]) == {"001", "002"} and set(gallery["path"].str[-7:-4]) == {"003", "004"}
    assert (set(query["camid"]), set(gallery["camid"])) == ({1}, {2})


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("prid", "4ecb19a739753f9e 871262b4d36a82be"),
        ("viper", "a1b2062670545be7 cc0099f6f65197d2"),  # of 632 made-up numbers: no public list has the real ones
        ("ilids", "18dd913988da5dcd 1f018752525871a0"),
        ("cuhk01", "fd21ba764906afd7 df647aa85b1615b4"),
    ],
)
def test_drawn_splits_never_change(small: dict[str, pd.DataFrame], name: str, digest: str) -> None:
    """The same on every machine for ever: who is tested, and by which images."""
    ids = json.dumps(split_ids(small[name]))
    rows = small[name].to_csv(index=False)
    assert [hashlib.sha256(text.encode()).hexdigest()[:16] for text in (ids, rows)] == digest.split()


@pytest.mark.parametrize("kind", ["detected", "labelled"])
def test_cuhk03_classic_test_sets(tmp_path: Path, kind: str) -> None:
    """20 splits; one gallery image of each person tested, and all its images of the other view as queries."""
    rows = read(get_dataset(f"cuhk03-{kind}"), layouts.build(f"cuhk03-{kind}", tmp_path, form="images")).rows
    names = layouts.cuhk03_names(6)
    everybody = {name[:5] for name in names}
    assert sorted(set(rows["split"])) == list(range(20))
    for split, people in enumerate(layouts.cuhk03_test_sets(6)):
        tested = {f"{pair}_{pid:03d}" for pair, pid in people}
        query, gallery = sides(rows, split)
        assert set(gallery["path"].str[-14:-9]) == tested and len(gallery) == len(tested) == gallery["pid"].nunique()
        truth = {}
        for person in tested:
            shown, *others = drawn(split, [name for name in names if name.startswith(person)])
            truth[shown] = [name for name in others if name[6] != shown[6]]
        assert set(gallery["path"].str[-14:]) == set(truth)
        assert sorted(query["path"].str[-14:]) == sorted(one for some in truth.values() for one in some)
        assert (query["camid"] == query["path"].str[-8].astype(int)).all()
        assert matched(rows[rows["split"] == split]).all()
    train = rows[rows["part"] == "train"]
    first = {f"{pair}_{pid:03d}" for pair, pid in layouts.cuhk03_test_sets(6)[0]}
    assert set(train["path"].str[-14:]) == {name for name in names if name[:5] in everybody - first}
    assert set(train["split"]) == {0} and not set(train["pid"]) & set(sides(rows, 0)[0]["pid"])


def test_split_ids_are_those_asked_for() -> None:
    rows = pd.DataFrame(
        [(0, "query", 7), (0, "query", 3), (0, "query", 3), (0, "gallery", 9), (1, "query", 4), (0, "train", 1)]
    )
    assert split_ids(rows.set_axis(["split", "part", "pid"], axis=1)) == {0: [3, 7], 1: [4]}


def test_splits_follow_the_sha256_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{pid}/c{cam}_1.jpg" for pid in range(1, 21) for cam in (1, 2)), "90/c2_1.jpg", "91/c1_1.jpg")
    dataset = own(query_cameras=(1,), splits=10, test_identities=8)
    rows = read(dataset, tmp_path).rows
    assert sorted(set(rows["split"])) == list(range(10))
    for split in range(10):
        order = sorted(range(1, 21), key=lambda pid: hashlib.sha256(f"{split},{pid}".encode()).hexdigest())
        one = rows[rows["split"] == split]
        assert set(one["pid"][one["part"] == "query"]) == set(order[:8])
        assert set(one["pid"][one["part"] == "gallery"]) == {*order[:8], 90}
    assert rows["path"].nunique() < 42
    digest = hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()
    assert digest[:16] == "1d6c7c019fa86844"  # the same on every machine for ever


def test_a_single_image_has_no_other_side(tmp_path: Path) -> None:
    touch(tmp_path, "1/c1_1.jpg", "1/c1_2.jpg", "2/c1_1.jpg", "3/c1_1.jpg", "3/c2_1.jpg", "3/c2_2.jpg")
    rows = read(own(single_shot="sides"), tmp_path).rows
    assert rows.groupby("part")["pid"].agg(list).to_dict() == {"query": [1, 3], "gallery": [1, 3]}
    rows = read(own(single_shot="gallery"), tmp_path).rows  # person 1 is seen by one camera, person 2 once
    query, gallery = sides(rows, 0)
    assert gallery["pid"].tolist() == [1, 2, 3] and set(query["pid"]) == {3}
    assert not set(query["camid"]) & set(gallery["camid"][gallery["pid"] == 3])
    with pytest.raises(DataError, match="each of the 2 people has a single image"):
        read(own(single_shot="sides"), touch(tmp_path / "none", "1/c1_1.jpg", "2/c2_1.jpg"))


def test_nothing_is_modified() -> None:
    columns = ["part", "path", "name", "person", "pid", "camid"]
    rows = pd.DataFrame([("test", f"{k}", f"{k}", "7", 7, k) for k in range(4)], columns=columns)
    before = rows.copy()
    divide(own(), rows, Path())
    pd.testing.assert_frame_equal(rows, before)


@pytest.mark.parametrize(
    ("people", "keys", "sentence"),
    [
        (list(range(1, 126)), {}, "has 1 splits, expected 10; get the set again"),
        (
            [*range(1, 125), 251],
            {"splits": 1, "test_identities": 0},
            "names 1 people of whom there are no images, such as 251",
        ),
    ],
)
def test_partitions_of_another_set(tmp_path: Path, people: list[int], keys: dict[str, int], sentence: str) -> None:
    root = layouts.build("grid", tmp_path)
    one = {"a": [0], "b": [0], "c": [people]}
    savemat(root / "features_and_partitions.mat", {"trainIdxAll": pd.Series([one]).to_numpy()})
    with pytest.raises(DataError, match=sentence):
        read(replace(get_dataset("grid"), **keys), root)


def test_a_set_without_any_match_for_lack_of_images_is_called_incomplete() -> None:
    market = get_dataset("market")
    rows = pd.DataFrame({"part": ["query", "gallery"], "path": ["a", "b"], "pid": [1, 1], "camid": [2, 2]})
    rows = rows.assign(person="0001", camera="2")
    with pytest.raises(DataError, match="market: 1 query images, expected 3,368: the set is incomplete; get it again"):
        divide(market, rows, Path())
