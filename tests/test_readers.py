"""Readers: each layout from a folder as people have it, and the protocol rules against hand-made lists."""

import hashlib
import re
from pathlib import Path

import layouts
import pandas as pd
import pytest

from reidgen.catalogue import get_dataset, load_catalogue
from reidgen.data.crops import own_dataset
from reidgen.data.readers import locate, read
from reidgen.entries import Dataset, parse
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


def numbered(name: str, paths: list[str]) -> dict[str, tuple[str, str, str]]:
    """Read the names as a person would, by cutting them at fixed places: path -> part, person, camera."""
    rows = {}
    for path in paths:
        folder, file = path.rsplit("/", 1)
        words = file.split("_")
        part = {"bounding_box_train": "train", "bounding_box_test": "gallery", "query": "query", "images": "gallery"}
        part |= {"test_probe": "query", "test_gallery": "gallery", "test/query": "query", "test/gallery": "gallery"}
        part |= {"cam_a": "query", "cam_b": "gallery", "probe": "query", "gallery": "gallery"}
        found = part.get(folder.removeprefix("single_shot/"), "train")
        match name:
            case "market" | "market-500k" | "duke" | "personx" | "cuhk03 as market":
                found, person, camera = part[folder.split("/")[-1]], words[0], words[1][1:].split("s")[0]
            case "cuhk02":
                person, camera = folder.split("/")[0] + words[0], folder
            case "cuhk-sysu":
                person, camera = str(int(words[0][1:])), "1"
            case "prid" | "viper":
                person, camera = (words[1][:4] if name == "prid" else words[0]), folder[-1]
            case "grid" | "sensereid":
                person, camera = words[0], words[1].split(".")[0]
            case "randperson" | "clonedperson":
                person, camera = words[0], words[1] + words[2]
            case "unrealperson":
                person, camera = folder.split("/")[0][-1] + "." + words[0], folder.split("/")[0][8] + words[1]
        rows[path] = (found, person, camera)
    return rows


def check_rows(rows: pd.DataFrame, truth: dict[str, tuple[str, str, str]]) -> None:
    """Compare with path -> part, person, camera: the parts, and that numbers and names stand for each other."""
    assert {row.path: row.part for row in rows.itertuples()} == {path: one[0] for path, one in truth.items()}
    for column, place in (("pid", 1), ("camid", 2)):
        pairs = {(value, truth[path][place]) for path, value in zip(rows["path"], rows[column], strict=True)}
        assert len(pairs) == len({one for one, _ in pairs}) == len({one for _, one in pairs})


SETS = [("cuhk-sysu", "named")] + [
    (name, "") for name in "market market-500k duke personx cuhk02 cuhk-sysu sensereid randperson clonedperson".split()
]


@pytest.mark.parametrize(("name", "form"), SETS)
def test_names_of_whole_sets(tmp_path: Path, name: str, form: str) -> None:
    """Every image once, in its part; the same number for the same person and camera, and only for them."""
    layouts.build(name, tmp_path, form=form)
    found = read(get_dataset(name), tmp_path)
    paths = [path.relative_to(found.root).as_posix() for path in found.root.rglob("*.*g")]
    truth = numbered(name, [path for path in paths if "gt_bbox" not in path])
    truth = {path: one for path, one in truth.items() if one[1] != "-1"}
    assert len(found.rows) == len(truth) > 15
    check_rows(found.rows, truth)
    if name != "cuhk02":
        assert all(pid == int(truth[path][1]) for path, pid in zip(found.rows["path"], found.rows["pid"], strict=True))


@pytest.mark.parametrize("listed", [True, False])
def test_unrealperson_is_what_the_paper_lists_or_everything(tmp_path: Path, listed: bool) -> None:
    root = layouts.build("unrealperson", tmp_path)
    truth = numbered("unrealperson", [one[0] for one in layouts.unreal_names(6)])
    if listed:
        truth = {path: one for path, one in truth.items() if "_73." not in path}
    else:
        (root / "list_unreal_train.txt").unlink()
    found = read(get_dataset("unrealperson"), tmp_path if listed else root)
    assert found.root == root and bool(found.dataset.counts) == listed
    assert (found.rows["pid"].nunique(), len(found.rows), found.rows["camid"].nunique()) == (
        6,
        18 + 6 * (not listed),
        3,
    )
    check_rows(found.rows, truth)


def test_personx_numbers_its_cameras_from_one(tmp_path: Path) -> None:
    rows = read(get_dataset("personx"), layouts.build("personx", tmp_path)).rows
    names = {
        int(path.split("_c")[1].split("s")[0]): camid for path, camid in zip(rows["path"], rows["camid"], strict=True)
    }
    assert names == {3: 1, 4: 2, 8: 3, 10: 4, 11: 5, 12: 6}
    (tmp_path / "PersonX" / "query" / "0002_c5s2_09.jpg").touch()
    with pytest.raises(DataError, match=r"1 image of cameras that are not in the catalogue, such as .*0002_c5s2_09"):
        read(get_dataset("personx"), tmp_path)


def test_cuhk02_people_differ_by_camera_pair(tmp_path: Path) -> None:
    """1,816 people are 971 + 306 + 107 + 193 + 239 that all count from 1; here 5 + 4 + 3 + 2 + 2."""
    rows = read(get_dataset("cuhk02"), layouts.build("cuhk02", tmp_path)).rows
    assert sum([971, 306, 107, 193, 239]) == get_dataset("cuhk02").counts["train"][0] == 1816
    assert rows["pid"].nunique() == 5 + 4 + 3 + 2 + 2 and rows["camid"].nunique() == 10
    per_pair = rows.assign(pair=rows["path"].str[:2]).groupby("pair")["pid"].agg(set)
    assert [len(one) for one in per_pair] == [5, 4, 3, 2, 2]
    assert not set.intersection(*per_pair) and set(per_pair.explode()) == set(range(1, 17))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_msmt17_follows_its_lists(tmp_path: Path, version: str) -> None:
    root = layouts.build(f"msmt17-{version}", tmp_path)
    (root / ("train" if version == "v1" else "mask_train_v2") / "0000" / "0000_999_01_0303noon_0000_0.jpg").touch()
    folder = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}[version]
    for name, lists in ((f"msmt17-{version}", ["train", "val"]), (f"msmt17-{version}-noval", ["train"])):
        rows = read(get_dataset(name), tmp_path).rows
        truth = set()
        for part, some in (("train", lists), ("query", ["query"]), ("gallery", ["gallery"])):
            for one in some:
                for line in (root / f"list_{one}.txt").read_text().splitlines():
                    path, pid = line.split()
                    person = int(pid) if part == "train" else int(pid) + 6  # six people, 0 to 5, are trained on
                    truth.add((part, f"{folder[part != 'train']}/{path}", person, int(path.split("_")[2])))
        assert set(zip(rows["part"], rows["path"], rows["pid"], rows["camid"], strict=True)) == truth
        assert len(rows) == len(truth)
    assert not set(rows["pid"][rows["part"] == "train"]) & set(rows["pid"][rows["part"] == "gallery"])


@pytest.mark.parametrize("kind", ["detected", "labelled"])
def test_cuhk03_new_protocol_in_both_forms(tmp_path: Path, kind: str) -> None:
    """The .mat and the Market-like folders say the same of the same images, and the view is the camera."""
    dataset, word = get_dataset(f"cuhk03-np-{kind}"), kind.replace("labelled", "labeled")
    first = read(dataset, layouts.build(dataset.name, tmp_path / "1", form="images"))
    second = read(dataset, layouts.build(dataset.name, tmp_path / "2", form="market"))
    assert first.dataset.lists and not second.dataset.lists
    truth = set()
    for path in sorted((second.root / word).rglob("*.png")):
        part, person, camera = numbered("cuhk03 as market", [path.relative_to(second.root).as_posix()]).popitem()[1]
        truth.add((part, int(person), int(camera), path.read_bytes()))
    for found in (first, second):
        rows = found.rows
        images = [(found.root / path).read_bytes() for path in rows["path"]]
        assert set(zip(rows["part"], rows["pid"], rows["camid"], images, strict=True)) == truth
    views = first.rows["path"].str.split("_").str[3].astype(int)
    assert (first.rows["camid"] == views).all() and set(views) == {1, 2}
    assert not set(first.rows["pid"][first.rows["part"] == "train"]) & set(
        first.rows["pid"][first.rows["part"] != "train"]
    )


@pytest.mark.parametrize("name", [name for name in load_catalogue() if not name.startswith("synth")])
def test_each_layout_is_found_from_above_and_from_its_only_part(tmp_path: Path, name: str) -> None:
    dataset = get_dataset(name)
    form = "images" if name.startswith("cuhk03") else ""
    root = locate(dataset, layouts.build(name, tmp_path / "sets", form=form))
    assert locate(dataset, root) == root
    if dataset.folders != {"test": (".",)} and name != "unrealperson":
        assert locate(dataset, tmp_path / "sets") == locate(dataset, root.parent) == root
    folders = {one for some in dataset.folders.values() for one in some}
    if len(folders) == 1 and folders != {"."}:
        assert locate(dataset, root / folders.pop().split("|")[0]) == root


@pytest.mark.parametrize("name", ["cuhk03-np-detected", "cuhk03-np-labelled"])
def test_cuhk03_is_read_from_its_bare_parts(tmp_path: Path, name: str) -> None:
    """As the new protocol's archive is handed round: bounding_box_train, query and bounding_box_test alone."""
    word = "detected" if name.endswith("detected") else "labeled"
    root = layouts.build(name, tmp_path, form="market") / word
    bare = root.rename(tmp_path / "elsewhere")
    found = read(get_dataset(name), bare)
    assert found.root == bare and set(found.rows["part"]) == {"train", "query", "gallery"}


def test_a_list_stands_for_its_set(tmp_path: Path) -> None:
    root = layouts.build("msmt17-v1", tmp_path)
    assert locate(get_dataset("msmt17-v1"), root / "list_val.txt") == root
    with pytest.raises(DataError, match=r"msmt17-v1: .*list.zip is a file; unpack it"):
        locate(get_dataset("msmt17-v1"), touch(tmp_path, "list.zip") / "list.zip")


def test_files_that_belong_to_a_set_are_asked_for(tmp_path: Path) -> None:
    grid = layouts.build("grid", tmp_path)
    (grid / "features_and_partitions.mat").rename(tmp_path / "features_and_partitions.mat")
    read(get_dataset("grid"), grid)  # beside the folder will do
    (tmp_path / "features_and_partitions.mat").unlink()
    with pytest.raises(
        DataError, match=r"grid: .*underground_reid lacks features_and_partitions.mat \(it has gallery, probe"
    ):
        read(get_dataset("grid"), grid)


@pytest.mark.parametrize("layout", ["{pid:03d}/{cam:02d}_{o}.png", "{pid:03d}_{cam:02d}_{o}.png"])
def test_pku_asks_camera_one_of_camera_two(tmp_path: Path, layout: str) -> None:
    touch(tmp_path, *(layout.format(pid=pid, cam=cam, o=o) for pid in (1, 3) for cam in (1, 2) for o in range(1, 9)))
    rows = read(get_dataset("pku"), tmp_path).rows
    assert rows.groupby(["part", "camid"]).size().to_dict() == {("gallery", 2): 16, ("query", 1): 16}
    assert set(rows["pid"]) == {1, 3}


def table(folder: Path, text: str, *, name: str = "list.csv") -> Path:
    """Write a CSV, and an empty file for every image that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    for line in text.splitlines()[1:]:
        touch(folder, line.split(",")[0])
    (folder / name).write_text(text)
    return folder / name


def test_own_crops_as_a_table(tmp_path: Path) -> None:
    lines = ["path,pid,camid", "x/1.jpg,anna,hall", "2.jpg,anna,door", "x/3.png,bob,door", "4.jpg,bob,hall"]
    file = table(tmp_path / "crops", "\n".join(lines))
    dataset = own_dataset("mine", file)
    assert parse("mine", dataset.table(), where="again") == dataset
    for root in (file, file.parent):
        found = read(dataset, root)
        assert found.root == file.parent.resolve()
        assert list(found.rows[["part", "path", "pid", "camid"]].itertuples(index=False, name=None)) == [
            ("gallery", "4.jpg", 2, 2), ("gallery", "x/1.jpg", 1, 2), ("query", "2.jpg", 1, 1), ("query", "x/3.png", 2, 1),
        ]  # fmt: skip


def test_a_table_may_name_parts_and_absolute_paths(tmp_path: Path) -> None:
    lines = [
        "Path, pid, camid, split".lower(),
        "a.jpg,7,1,train",
        "b.jpg,7,2,train",
        "c.jpg,8,1,query",
        "d.jpg,8,2,gallery",
    ]
    file = table(tmp_path / "all" / "lists", "\n".join(lines))
    touch(tmp_path / "all" / "far", "e.jpg")
    with file.open("a") as text:
        text.write(f"\n{tmp_path}/all/far/e.jpg,-1,2,gallery\n../far/e2.jpg,9,2,Gallery\n")
    touch(tmp_path / "all" / "far", "e2.jpg")
    found = read(own_dataset("mine", file), file)
    assert (found.root, found.junk) == ((tmp_path / "all").resolve(), 1)
    assert dict(zip(found.rows["path"], found.rows["part"], strict=True)) == {
        "lists/a.jpg": "train", "lists/b.jpg": "train", "lists/c.jpg": "query", "lists/d.jpg": "gallery", "far/e2.jpg": "gallery",
    }  # fmt: skip


def test_a_table_that_grows_beyond_its_folder(tmp_path: Path) -> None:
    file = table(tmp_path / "crops", "path,pid,camid\na.jpg,1,1\nb.jpg,1,2\n")
    dataset = own_dataset("mine", file)
    with file.open("a") as text:
        text.write("../c.jpg,1,2\n")
    touch(tmp_path, "c.jpg")
    with pytest.raises(
        DataError, match=r"1 of them are not in .*crops, such as '\.\./c.jpg'; correct the path or the file$"
    ):
        read(dataset, file.parent)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,pid,camid,split\na.jpg,1,1,query\n", "has one of the splits query and gallery; give both, or test"),
        ("path,pid,camid,split\na.jpg,1,1,query\nb.jpg,1,2,gallery\nc.jpg,1,2,test\n", "has the splits query and test"),
        ("path,pid,camid\na.jpg,1,1\na.jpg,1,2\n", "'a.jpg' is named twice, in test and test"),
        ("path,pid,camid\na.jpg,1,1\nb.jpg,1,1\n", r"all 2 images of 1 people are of one camera \(1\)"),
    ],
)
def test_tables_that_cannot_be_prepared(tmp_path: Path, text: str, sentence: str) -> None:
    file = table(tmp_path, text)
    with pytest.raises(DataError, match=sentence):
        read(own_dataset("mine", file), file)


def test_a_table_takes_no_pattern(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names person and camera itself; leave out --pattern"):
        own_dataset("mine", table(tmp_path, "path,pid,camid\na.jpg,1,1\n"), ".*")


def test_a_parts_folder_is_no_person(tmp_path: Path) -> None:
    touch(tmp_path, "query/1/c1_1.jpg", "gallery/1/c2_1.jpg", "gallery/c2_9.jpg")
    with pytest.raises(DataError, match=r"1 of 3 images have names that do not fit .*'gallery/c2_9.jpg'"):
        read(own(folders={"query": "query", "gallery": "gallery"}), tmp_path)


def test_parts_that_share_an_image(tmp_path: Path) -> None:
    touch(tmp_path, "q/1/c1_1.jpg", "g/1/c2_1.jpg")
    with pytest.raises(DataError, match=r"'q/1/c1_1.jpg' is named twice, in query and gallery"):
        read(own(folders={"query": "q", "gallery": "."}), tmp_path)


def test_skip_leaves_files_out(tmp_path: Path) -> None:
    touch(tmp_path, "1/c1_1.jpg", "1/c2_1.jpg", "2/c1_1.jpg", "old/9.jpg")
    assert parts(own(skip="old/.*"), tmp_path)["gallery"] == ["1/c2_1.jpg", "2/c1_1.jpg"]
    with pytest.raises(DataError, match=r"skip = '\.\*' leaves no image"):
        read(own(skip=".*"), tmp_path)


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
    assert entry.folders == {"train": ("train",), "test": ("test",)}
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
        (["crops/anna/c05_0001.jpg"], "05"),
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


def test_numbers_are_kept(tmp_path: Path) -> None:
    touch(tmp_path, "007/c1_1.jpg", "007/c2_1.jpg", "12/c1_1.jpg")
    assert set(read(own(), tmp_path).rows["pid"]) == {7, 12}


def test_junk_stays_junk_where_others_are_numbered(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{pid}/c{cam}_1.jpg" for pid in ("1", "-1", "00-1", "anna") for cam in (1, 2)))
    found = read(own(junk=(-1, 2)), tmp_path)
    assert found.junk == 4 and not found.rows["path"].str.contains("-1/").any()
    assert set(found.rows["pid"]) == {1, 2}  # a number that is given makes nobody junk


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
        (["anna/c1_1.jpg", "an\nna/0001.jpg"], {}, r"1 of 2 images have names .*such as 'an\\\\nna/0001.jpg'"),
        (
            ["anna/c1_1.jpg", "bob/c1_1.jpg"],
            {},
            r"all 2 images of 2 people are of one camera \(1\), and a match needs .* sub-folder train",
        ),
        (["anna/c1_1.jpg", "bob/c2_1.jpg"], {}, "each of the 2 people has a single image, and a match needs"),
        (
            ["anna/c1_1.jpg", "anna/c1_2.jpg", "bob/c2_1.jpg"],
            {},
            r"of 2 people 1 have a single image and 2 are seen by one camera only \(cameras: 1, 2\)",
        ),
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
            "lacks q, g .it has x.: give",
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
    with pytest.raises(DataError, match="there is no file or folder"):
        read(get_dataset("market"), tmp_path / "nowhere")
    (tmp_path / "market.zip").touch()
    with pytest.raises(DataError, match=r"market.zip is a file; unpack it"):
        read(get_dataset("market"), tmp_path / "market.zip")


@pytest.mark.parametrize(
    "paths",
    [["anna/0001.jpg", "anna/0002.jpg"], ["0001.jpg"], ["anna/c1_1.jpg", "bob/x.jpg"], ["crops/anna/05_0001.jpg"]],
)
def test_own_crops_without_a_camera_ask_for_a_pattern(tmp_path: Path, paths: list[str]) -> None:
    with pytest.raises(DataError, match=r"(?s)cannot tell the camera from .* such as .*--pattern"):
        own_dataset("mine", touch(tmp_path, *paths))


def test_a_few_names_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, *(f"anna/c{i}_1.jpg" for i in range(24)), "cover.jpg")
    with pytest.raises(DataError, match=r"1 of 25 images, such as 'cover.jpg'; remove or rename them, or"):
        own_dataset("mine", tmp_path)


def test_own_crops_with_half_of_the_parts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one of the folders query and gallery"):
        own_dataset("mine", touch(tmp_path, "query/a/c1_1.jpg"))
    with pytest.raises(DataError, match="no images in"):
        own_dataset("mine", touch(tmp_path / "empty", "a.txt"))
