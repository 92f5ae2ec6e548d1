"""Readers: each layout from a folder as people have it, and the protocol rules against hand-made lists."""

import hashlib
import re
from pathlib import Path

import pytest

from reidgen.catalogue import Dataset, get_dataset
from reidgen.data.readers import own_dataset, read
from reidgen.errors import DataError

FOLDERS = r"(?P<pid>[^/]+)/c(?P<camid>\w)_.*"
MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000451_03.jpg", "0007_c1s6_000451_01.jpg", "Thumbs.db"],
    "query": ["0001_c1s1_001051_00.jpg", "1488_c4s6_022241_00.jpg.jpg", ".0001_c1s1_001051_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg", "-1_c4s6_022316_11.jpg.jpg", "0000_c4s6_022316_04.jpg.jpg", "0000_c1s1_000151_01.jpg",
        "0001_c2s1_000301_00.jpg", "1488_c4s6_022241_02.jpg.jpg", "1488_c1s6_023021_02.jpg.jpg", "Thumbs.db",
    ],
    "gt_query": ["0001_c1s1_001051_00_good.mat"],
}  # fmt: skip


def touch(root: Path, *paths: str) -> Path:
    """Make empty files: readers open no image."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def market(root: Path) -> Path:
    return touch(root, *(f"{folder}/{name}" for folder, names in MARKET.items() for name in names))


def parts(dataset: Dataset, root: Path, split: int = 0) -> dict[str, list[str]]:
    rows = read(dataset, root).rows
    rows = rows[rows["split"] == split]
    return {part: rows["path"][rows["part"] == part].tolist() for part in sorted(set(rows["part"]))}


def own(**keys: object) -> Dataset:
    return Dataset(name="mine", **{"pattern": FOLDERS, **keys})  # type: ignore[arg-type]


@pytest.mark.parametrize("where", [".", ".."])
def test_market_rules(tmp_path: Path, where: str) -> None:
    root = market(tmp_path / "all" / "Market-1501-v15.09.15")
    found = read(get_dataset("market"), root / where)
    assert found.root == root.resolve()
    assert found.junk == 2
    assert found.rows.columns.tolist() == ["split", "part", "path", "pid", "camid"]
    rows = list(found.rows.itertuples(index=False, name=None))
    assert rows == [
        (0, "gallery", "bounding_box_test/0000_c1s1_000151_01.jpg", 0, 1),
        (0, "gallery", "bounding_box_test/0000_c4s6_022316_04.jpg.jpg", 0, 4),
        (0, "gallery", "bounding_box_test/0001_c2s1_000301_00.jpg", 1, 2),
        (0, "gallery", "bounding_box_test/1488_c1s6_023021_02.jpg.jpg", 1488, 1),
        (0, "gallery", "bounding_box_test/1488_c4s6_022241_02.jpg.jpg", 1488, 4),
        (0, "query", "query/0001_c1s1_001051_00.jpg", 1, 1),
        (0, "query", "query/1488_c4s6_022241_00.jpg.jpg", 1488, 4),
        (0, "train", "bounding_box_train/0002_c1s1_000451_03.jpg", 2, 1),
        (0, "train", "bounding_box_train/0002_c2s1_000451_03.jpg", 2, 2),
        (0, "train", "bounding_box_train/0007_c1s6_000451_01.jpg", 7, 1),
    ]


@pytest.mark.parametrize("layout", ["{pid:03d}/{cam:02d}_{o}.png", "{pid:03d}_{cam:02d}_{o}.png"])
def test_pku_asks_camera_one_of_camera_two(tmp_path: Path, layout: str) -> None:
    touch(tmp_path, *(layout.format(pid=pid, cam=cam, o=o) for pid in (1, 3) for cam in (1, 2) for o in range(1, 9)))
    rows = read(get_dataset("pku"), tmp_path).rows
    assert rows.groupby(["part", "camid"]).size().to_dict() == {("gallery", 2): 16, ("query", 1): 16}
    assert set(rows["pid"]) == {1, 3}


def test_own_crops_choose_queries(tmp_path: Path) -> None:
    """anna: two cameras of several images; bob: one camera; carl: single images; dora: one rich, two single cameras."""
    touch(tmp_path, *"anna/ca_1.jpg anna/ca_2.jpg anna/cb_1.JPG anna/cb_2.jpg bob/ca_1.jpg bob/ca_2.jpg".split())
    touch(tmp_path, *"carl/ca_1.jpg carl/cb_1.jpg dora/ca_1.jpg dora/ca_2.jpg dora/cb_1.jpg dora/cc_1.jpg".split())
    assert parts(own(), tmp_path) == {
        "query": "anna/ca_1.jpg anna/cb_1.JPG carl/ca_1.jpg dora/ca_1.jpg dora/cb_1.jpg".split(),
        "gallery": "anna/ca_2.jpg anna/cb_2.jpg bob/ca_1.jpg bob/ca_2.jpg carl/cb_1.jpg dora/ca_2.jpg dora/cc_1.jpg".split(),
    }
    rows = read(own(), tmp_path).rows
    assert rows.drop_duplicates("pid").set_index("path")["pid"].to_dict() == {
        "anna/ca_2.jpg": 1, "bob/ca_1.jpg": 2, "carl/cb_1.jpg": 3, "dora/ca_2.jpg": 4,
    }  # fmt: skip
    assert set(rows["camid"]) == {1, 2, 3}


def test_own_crops_with_parts(tmp_path: Path) -> None:
    touch(tmp_path, "train/x/c1_1.jpg", "train/y/c1_1.jpg", "test/a/c1_1.jpg", "test/a/c2_1.jpg")
    entry = own_dataset("mine", tmp_path)
    assert entry.folders == {"train": "train", "test": "test"}
    assert parts(entry, tmp_path) == {
        "train": ["train/x/c1_1.jpg", "train/y/c1_1.jpg"], "query": ["test/a/c1_1.jpg"], "gallery": ["test/a/c2_1.jpg"],
    }  # fmt: skip
    assert parts(own(folders={"train": "."}), tmp_path).keys() == {"train"}
    assert own_dataset("mine", market(tmp_path / "like market")).folders == get_dataset("market").folders


@pytest.mark.parametrize(
    ("paths", "camera"),
    [
        (["anna/c2_0001.jpg"], "2"),
        (["anna/0001_cam12.jpg"], "12"),
        (["anna/x_Camera-3_f7.png"], "3"),
        (["anna/cam4/0001.jpg"], "4"),
        (["crops/anna/05_0001.jpg"], "05"),
        (["0017_c6s1_000451_03.jpg"], "6"),
    ],
)
def test_own_crops_read_without_pattern(tmp_path: Path, paths: list[str], camera: str) -> None:
    match = own_dataset("mine", touch(tmp_path, *paths)).match(paths[0])
    assert match == ("0017" if "0017" in paths[0] else "anna", camera)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "c1_1.jpg", "c2_1.jpg")
    root = touch(tmp_path / "crops", "bob/c1_1.jpg")
    (root / "anna").symlink_to(tmp_path / "elsewhere")
    (root / "bob" / "loop").symlink_to(root)
    (root / "bob" / "c2_1.jpg").symlink_to(tmp_path / "gone.jpg")  # for prepare to report
    assert parts(own(), root) == {
        "query": ["anna/c1_1.jpg", "bob/c1_1.jpg"],
        "gallery": ["anna/c2_1.jpg", "bob/c2_1.jpg"],
    }


def test_numbers_are_kept_unless_they_collide(tmp_path: Path) -> None:
    touch(tmp_path / "a", "007/c1_1.jpg", "007/c2_1.jpg", "12/c1_1.jpg")
    assert set(read(own(), tmp_path / "a").rows["pid"]) == {7, 12}
    touch(tmp_path / "a", "7/c1_1.jpg")
    assert set(read(own(), tmp_path / "a").rows["pid"]) == {1, 2, 3}


def test_junk_stays_junk_where_numbers_collide(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{pid}/c{cam}_1.jpg" for pid in ("1", "01", "-1", "anna") for cam in (1, 2)))
    found = read(own(junk=(-1, 2)), tmp_path)
    assert found.junk == 2 and not found.rows["path"].str.startswith("-1/").any()
    assert set(found.rows["pid"]) == {1, 2, 3}  # a number that is given makes nobody junk


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


@pytest.mark.parametrize("seed", range(5))
def test_every_chosen_query_has_a_match(tmp_path: Path, seed: int) -> None:
    """Random crops against a naive count: queries are one per camera at most, disjoint from the gallery, matched."""
    bits = hashlib.sha256(str(seed).encode()).digest()
    for i, bit in enumerate(bits):
        touch(tmp_path, *(f"{i % 8}/c{i // 8}_{k}.jpg" for k in range(bit % 3)))
    rows = read(own(), tmp_path).rows
    query, gallery = rows[rows["part"] == "query"], rows[rows["part"] == "gallery"]
    assert not set(query["path"]) & set(gallery["path"])
    assert not query.duplicated(["pid", "camid"]).any()
    for row in query.itertuples():
        assert ((gallery["pid"] == row.pid) & (gallery["camid"] != row.camid)).any()
    two = rows.groupby("pid")["camid"].nunique()
    assert set(query["pid"]) == set(two[two > 1].index)


@pytest.mark.parametrize(
    ("paths", "keys", "sentence"),
    [
        ([], {}, "no images in .*; extract the set again"),
        (["notes.txt", "anna/Thumbs.db"], {}, "no images in"),
        (
            ["anna/c1_1.jpg", "anna/0001.jpg"],
            {},
            r"1 of 2 images have names that do not fit the pattern .*'anna/0001.jpg'",
        ),
        (["anna/c1_1.jpg", "an\nna/c1_1.jpg"], {}, r"1 of 2 images have names"),
        (
            ["anna/c1_1.jpg", "bob/c1_1.jpg"],
            {},
            "of 2 people 2 have a single image and 2 are seen by one camera only .*: 1",
        ),
        (["anna/c1_1.jpg", "anna/c1_2.jpg"], {}, "of 1 people 0 have a single image and 1 are seen by one camera"),
        (["a/c1_1.jpg", "a/c2_1.jpg"], {"query_cameras": (5,)}, r"query_cameras = \[5\], but the cameras are 1, 2"),
        (["a/c1_1.jpg", "a/c2_1.jpg"], {"splits": 2, "test_identities": 2}, "only 1 people have a query"),
        (
            ["q/1/c1_1.jpg", "g/2/c2_1.jpg"],
            {"folders": {"query": "q", "gallery": "g"}},
            "none of the 1 people in query .* is among the 1 in gallery",
        ),
        (
            ["x/q/1/c1_1.jpg"],
            {"folders": {"query": "q", "gallery": "g"}},
            "has not the sub-folders q, g .it has x.: give",
        ),
        (
            ["q/q/1/c1_1.jpg", "q/g/1/c2_1.jpg", "p/q/1/c1_1.jpg", "p/g/1/c2_1.jpg"],
            {"folders": {"query": "q", "gallery": "g"}},
            "holds 2 copies of the set",
        ),
    ],
)
def test_bad_folders(tmp_path: Path, paths: list[str], keys: dict[str, object], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        read(own(**keys), touch(tmp_path, *paths))
    assert str(caught.value).startswith("mine: ")


def test_wrong_places(tmp_path: Path) -> None:
    market(tmp_path / "m")
    with pytest.raises(DataError, match=re.escape(f"is one part of the set: give {tmp_path / 'm'}")):
        read(get_dataset("market"), tmp_path / "m" / "query")
    with pytest.raises(DataError, match="there is no folder"):
        read(get_dataset("market"), tmp_path / "nowhere")
    (tmp_path / "market.zip").touch()
    with pytest.raises(DataError, match=r"market.zip is a file; unpack it"):
        read(get_dataset("market"), tmp_path / "market.zip")


@pytest.mark.parametrize("paths", [["anna/0001.jpg", "anna/0002.jpg"], ["0001.jpg"], ["anna/c1_1.jpg", "bob/x.jpg"]])
def test_own_crops_without_a_camera_ask_for_a_pattern(tmp_path: Path, paths: list[str]) -> None:
    with pytest.raises(DataError, match=r"cannot tell the camera from .* such as .*--pattern"):
        own_dataset("mine", touch(tmp_path, *paths))


def test_a_few_names_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, *(f"anna/c{i}_1.jpg" for i in range(24)), "cover.jpg")
    with pytest.raises(DataError, match=r"1 of 25 images, such as 'cover.jpg'; remove or rename them, or say how"):
        own_dataset("mine", tmp_path)


def test_own_crops_with_half_of_the_parts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one of the folders query and gallery"):
        own_dataset("mine", touch(tmp_path, "query/a/c1_1.jpg"))
    with pytest.raises(DataError, match="no images in"):
        own_dataset("mine", touch(tmp_path / "empty", "a.txt"))
