"""Own crops: which folders are the parts, and what names say, or that they are asked about. Readers open no image."""

import os
import re
import shlex
from pathlib import Path

import pytest

from reidgen.data.crops import own_dataset
from reidgen.data.judge import left_out
from reidgen.data.naming import numbers, same
from reidgen.data.readers import SUFFIXES, image_files, read
from reidgen.data.readings import never_a_person
from reidgen.entries import parse
from reidgen.errors import DataError


def touch(root: Path, *paths: str) -> Path:
    """Make empty files."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def readings(root: Path) -> dict[str, tuple[str, str, str]]:
    """Return path -> part, person, camera, as the set is read without a pattern."""
    found = read(own_dataset("mine", root), root)
    parts = dict(zip(found.rows["path"], found.rows["part"], strict=True))
    kept = found.kept
    return {
        path: (parts[path], person, camera)
        for path, person, camera in zip(kept["path"], kept["person"], kept["camera"], strict=True)
    }


# part folders as people have them: (train, query, gallery), each an image of the person 7 under another camera
NAMED = [
    ("train", "query", "gallery"),
    ("Train", "Query", "Gallery"),
    ("bounding_box_train", "query", "bounding_box_test"),
    ("image_train", "image_query", "image_test"),
    ("bbox_train", "probe", "bbox_test"),
    ("TRAINING", "test/query", "test/gallery"),
    ("train", "val/query", "val/gallery"),
]


@pytest.mark.parametrize("above", ["", "mine/", "data/crops/mine/"])
@pytest.mark.parametrize("names", NAMED)
def test_parts_are_found_at_any_depth_and_in_any_case(tmp_path: Path, names: tuple[str, ...], above: str) -> None:
    train, query, gallery = (f"{above}{one}" for one in names)
    paths = [f"{train}/3/c1_0.jpg", f"{train}/3/c2_0.jpg", f"{query}/7/c1_0.jpg", f"{gallery}/7/c2_0.jpg"]
    touch(tmp_path, *paths)
    assert readings(tmp_path) == {
        paths[0]: ("train", "3", "1"),
        paths[1]: ("train", "3", "2"),
        paths[2]: ("query", "7", "1"),
        paths[3]: ("gallery", "7", "2"),
    }
    entry = own_dataset("mine", tmp_path)
    assert parse("mine", entry.table(), where="again") == entry


@pytest.mark.parametrize("name", ["test", "Validation", "bbox_test", "MSMT17/bounding_box_test"])
def test_a_test_folder_alone_is_divided(tmp_path: Path, name: str) -> None:
    touch(
        tmp_path,
        *(f"{name}/7/c{cam}_{i}.jpg" for cam in (1, 2) for i in (0, 1)),
        "MSMT17/bounding_box_train/3/c1_0.jpg",
    )
    found = readings(tmp_path)
    assert [one for one in found.values() if one[0] == "train"] == [("train", "3", "1")]
    assert {one[0] for path, one in found.items() if path.startswith(name)} == {"query", "gallery"}


def test_what_is_beside_the_parts_is_left_out_aloud(tmp_path: Path) -> None:
    """As PKU-Reid is handed round: val holds query, gallery, and all of both once more."""
    touch(tmp_path, "train/3/c1_0.jpg", "val/query/7/c1_0.jpg", "val/gallery/7/c2_0.jpg", "val/all_imgs/7/c1_0.jpg")
    touch(
        tmp_path,
        "val/all_imgs/7/c2_0.jpg",
        "extra/9/c1_0.jpg",
        "cover.jpg",
        "train/3/x.heic",
        "train/.hidden.jpg",
        "a.txt",
    )
    found = readings(tmp_path)
    assert len(found) == 3 and not any("all_imgs" in path for path in found)
    assert left_out(own_dataset("mine", tmp_path), tmp_path, found) == [
        "left out, as no part of the set: . (1 image), extra (1 image), val/all_imgs (2 images)",
        "left out, as no images: 1 .heic, 1 .txt, 1 hidden",
    ]


@pytest.mark.parametrize(
    "paths",
    [
        ["a/train/3/c1_0.jpg", "b/train/3/c1_0.jpg"],
        ["a/query/7/c1_0.jpg", "a/gallery/7/c2_0.jpg", "b/query/7/c1_0.jpg", "b/gallery/7/c2_0.jpg"],
    ],
)
def test_two_sets_in_one_folder_are_refused(tmp_path: Path, paths: list[str]) -> None:
    with pytest.raises(DataError, match=r"several folders for the part (train|query): a/.*, b/.*; give one set alone"):
        own_dataset("mine", touch(tmp_path, *paths))


# path -> what it says: person and camera
READ = {
    "anna/c1_0001.jpg": ("anna", "1"),
    "crops/anna/c1_0001.jpg": ("anna", "1"),
    "anna/x_cam12_0001.jpg": ("anna", "12"),
    "anna/Camera-3_f7.png": ("anna", "3"),
    "anna/cam1/0001.jpg": ("anna", "1"),
    "anna/cam_b/0001.jpg": ("anna", "b"),
    "cam1/anna/0001.jpg": ("anna", "1"),
    "cam1/person_0001/0001.png": ("person_0001", "1"),
    "cam_a/person_0001.png": ("person_0001", "a"),
    "0002_c1s1_000451_03.jpg": ("0002", "1"),
    "anything/0002_c1s1_000451_03.jpg": ("0002", "1"),
    "0002/0002_c1s1_000451_03.jpg": ("0002", "1"),
    "0001_c2_f0046182.jpg": ("0001", "2"),
    "0001_c001_00016450_0.jpg": ("0001", "001"),
    "0001/0001C3T0001F001.jpg": ("0001", "3"),
    "person01_cam3_x.jpg": ("person01", "3"),
    "0017_cam2.jpg": ("0017", "2"),
    "anna/0003/c1_0001.jpg": ("anna", "1"),
    "anna/tracklet_3/c1_0001.jpg": ("anna", "1"),
    "0001/0001/0001_C6_F0001.jpg": ("0001", "6"),
    "anna/images/c1_0001.jpg": ("anna", "1"),
    "anna/cam1/0003/0001.jpg": ("anna", "1"),
    "cam1/anna/t3/0001.jpg": ("anna", "1"),
    "anna/c1t003/0001.jpg": ("anna", "1"),
}


@pytest.mark.parametrize("path", READ)
def test_names_that_say_who_and_where(tmp_path: Path, path: str) -> None:
    other = path.replace("anna", "bob").replace("person_0001", "person_0002").replace("person01", "person02")
    entry = own_dataset("mine", touch(tmp_path, path, other))
    assert entry.match(path) == READ[path]


# names that must be asked about, whatever the first guess would be
ASKED = {
    "a time of day": ["anna/12-30-05.jpg", "anna/12-31-07.jpg", "bob/12-30-09.jpg"],
    "a hash": ["anna/0a9c1e77.jpg", "bob/1b8c2d66.jpg"],
    "a UUID": ["anna/550e8400-e29b-41d4-a716-c12655440000.jpg", "bob/550e8400-e29b-41d4-c716-446655440000.jpg"],
    "a counter": ["anna/0001.jpg", "anna/0002.jpg", "bob/0001.jpg"],
    "a number that may be a camera": ["001/01_1.png", "001/02_1.png", "003/01_1.png"],
    "frames under a camera": ["cam1/0001.jpg", "cam1/0002.jpg", "cam2/0001.jpg"],
    "days above people": ["monday/anna/c1_1.jpg", "tuesday/anna/c2_1.jpg"],
    "dates as people": ["2024-01-05/c1_1.jpg", "2024-01-06/c2_1.jpg"],
    "sessions as people": ["session1/c1_1.jpg", "session2/c2_1.jpg"],
    "groups above people": ["hall/anna/c1_1.jpg", "door/bob/c2_1.jpg"],
    "images as a person": ["images/c1_1.jpg", "images/c2_1.jpg"],
}


@pytest.mark.parametrize("kind", ASKED)
def test_names_that_do_not_say_it_are_asked_about(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"(?s)^mine: cannot tell .*--pattern") as caught:
        own_dataset("mine", touch(tmp_path, *ASKED[kind]))
    assert "\n\n" not in str(caught.value)


# two readings that differ: none is taken
AGAINST = {
    "two cameras": ["cam01/person01_cam03_x.jpg", "cam02/person01_cam04_x.jpg"],
    "a folder's camera and a name's": ["anna/cam1/c2_0.jpg", "bob/cam1/c1_0.jpg"],
    "Market's names under a camera": ["cam2/0002_c1s1_000451_03.jpg"],
    "two cameras in a name": ["anna/cam1_c2_0.jpg"],
    "people or frames": [f"{who}/000{i}_c{i % 2 + 1}_7.jpg" for who in ("anna", "bob") for i in range(4)],
    "days of numbered people": [f"{day}/000{i}_c1_7.jpg" for day in ("north", "south") for i in range(4)],
}


@pytest.mark.parametrize("kind", AGAINST)
def test_readings_that_differ_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"(names the cameras|can be read as person)"):
        own_dataset("mine", touch(tmp_path, *AGAINST[kind]))


def test_patterns_are_offered_with_what_they_would_read(tmp_path: Path) -> None:
    """Each offer is a command's option that works, and reads what it says, of names that are there."""
    touch(tmp_path, *(f"{pid:03}/{cam:02}_{i}.png" for pid in (1, 3, 4) for cam in (1, 2) for i in range(1, 9)))
    with pytest.raises(DataError) as caught:
        own_dataset("mine", tmp_path)
    lines = str(caught.value).splitlines()
    offers = [shlex.split(line)[1] for line in lines if line.startswith("  --pattern ")]
    assert 2 <= len(offers) <= 3 and offers[0] == r"(?P<pid>[^/]+)/(?P<camid>\d+)[_-][^/]*"
    assert (
        "reads 001/01_1.png as person 001, camera 01, 003/02_1.png as person 003, camera 02: 3 people, 2 cameras"
        in lines[2]
    )
    for pattern, line in zip(offers, lines[2::2], strict=True):
        entry = own_dataset("mine", tmp_path, pattern)
        for path, person, camera in re.findall(r"(\S+) as person (\S+), camera (\w+)", line):
            assert entry.match(path) == (person, camera) and (tmp_path / path).is_file()


# names that hold no camera: a guess would be a piece of a time, a day, a hash, a frame's number or a part's folder
OFFERED = {
    "a time of day": [f"{who}/{h}-3{m}-0{m}.jpg" for who in ("anna", "bob") for h in (11, 12, 13) for m in (1, 2)],
    "a day and a time": [f"{who}/20240105_12{m}00.jpg" for who in ("anna", "bob") for m in range(30, 42)],
    "hashes": ["anna/0a9c1e77.jpg", "anna/1a9c1e66.jpg", "bob/1b8c2d66.jpg", "bob/2b8c2d77.jpg"],
    "hashes of many": [f"p{who}/{who}{i}{7 * i + who}e{i}f.jpg" for who in range(9) for i in range(1, 9)],
    "parts": ["query/anna/x.jpg", "query/bob/y.jpg", "gallery/anna/z.jpg", "gallery/bob/v.jpg"],
}


@pytest.mark.parametrize("kind", OFFERED)
def test_what_cannot_be_right_is_not_offered(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"no usual pattern reads these names plausibly") as caught:
        own_dataset("mine", touch(tmp_path, *OFFERED[kind]))
    assert "\n" not in str(caught.value) and "--from" in str(caught.value)


def test_a_frames_number_is_not_offered_as_camera(tmp_path: Path) -> None:
    """Twelve frames of two people each: no offer has more than two cameras."""
    touch(tmp_path, *(f"{who}/{i:04}.jpg" for who in ("anna", "bob") for i in range(12)))
    with pytest.raises(DataError) as caught:
        own_dataset("mine", tmp_path)
    assert re.findall(r"(\d+) cameras?$", str(caught.value), re.MULTILINE) == ["2"]


def test_the_likeliest_offer_comes_first(tmp_path: Path) -> None:
    """The last number is one of two cameras; the first, whose pattern is looked at earlier, counts images."""
    touch(tmp_path, *(f"p{who}/{i}_{i % 2 + 1}.jpg" for who in range(7) for i in range(1, 7)))
    with pytest.raises(DataError) as caught:
        own_dataset("mine", tmp_path)
    _, first, reads, *_ = str(caught.value).splitlines()
    assert first.endswith(r"[^/]*[_-](?P<camid>\d+)\.[^/.]+'") and reads.endswith("7 people, 2 cameras")


@pytest.mark.parametrize(
    "name", ["query", "Train", "cam01", "c3", "camera_b", "images", "all_imgs", "2024-01-05", "bbox_test"]
)
def test_folders_that_are_never_a_person(name: str) -> None:
    assert never_a_person(name)


@pytest.mark.parametrize("name", ["anna", "0001", "camilla", "carl", "c", "7", "cameron", "probst", "day"])
def test_folders_that_may_be_a_person(name: str) -> None:
    assert not never_a_person(name)


def test_junk_and_distractors_by_the_market_rule(tmp_path: Path) -> None:
    """-1 is left out and 0 is never asked for, in every layout; who is asked for or trained on is a person."""
    for layout in ("{}/c{}_{}.jpg", "c{1}/{0}/{2}.jpg", "{}_c{}s1_{}_0.jpg"):
        root = tmp_path / str(len(layout))
        touch(
            root, *(layout.format(pid, cam, i) for pid in ("-1", "0000", "0001", "2") for cam in (1, 2) for i in (0, 1))
        )
        found = read(own_dataset("mine", root), root)
        assert (found.junk, set(found.rows["pid"])) == (4, {0, 1, 2})
        assert set(found.rows["pid"][found.rows["part"] == "query"]) == {1, 2}
        assert found.dataset.distractors == (0,)
    touch(
        tmp_path / "q", *(f"{part}/{pid}/c{cam}_0.jpg" for part, cam in (("query", 1), ("gallery", 2)) for pid in "012")
    )
    assert own_dataset("mine", tmp_path / "q").distractors == ()
    mars = touch(
        tmp_path / "m",
        *(f"bbox_test/{pid}/{pid}C{cam}T0001F001.jpg" for pid in ("00-1", "0000", "0001") for cam in (1, 2, 3)),
    )
    found = read(own_dataset("mine", mars), mars)
    assert (found.junk, set(found.rows["pid"])) == (3, {0, 1})


def test_person_0_beside_names_stands_for_distractors(tmp_path: Path) -> None:
    """In folders and in a list alike: 0 is never asked for, and nobody else has its number."""
    paths = [f"{who}/c{cam}_{i}.jpg" for who in ("-1", "0", "00", "anna", "bob") for cam in (1, 2) for i in (0, 1)]
    root = touch(tmp_path, *(path for path in paths if not path.startswith("00/")))
    lines = [f"{path},{path.partition('/')[0]},{path.partition('/c')[2][0]}" for path in paths if path[:2] != "00"]
    (tmp_path / "list.csv").write_text("\n".join(["path,pid,camid", *lines]))
    for source in (root, tmp_path / "list.csv"):
        found = read(own_dataset("mine", source), root)
        assert (found.junk, found.dataset.distractors) == (4, (0,))
        assert set(found.kept["pid"][found.kept["person"] == "0"]) == {0}
        assert set(found.rows["pid"][found.rows["part"] == "query"]) == {1, 2}
    train = touch(tmp_path / "t", *(f"train/{who}/c{cam}_0.jpg" for who in ("0", "anna") for cam in (1, 2)))
    assert own_dataset("mine", train).distractors == ()


def layout_of_nobody(kind: str) -> tuple[list[str], list[str]]:
    """Return the paths of people and those of nobody, as people may lay them out."""
    crowd = {"beside": "mall/unknown", "in the gallery": "gallery/Unknown", "beside the parts": "Distractors"}[kind]
    parts = ("mall", "mall") if kind == "beside" else ("query", "gallery")
    people = [
        f"{part}/{who}/c{cam}_{i}.jpg"
        for i, (cam, part) in enumerate(zip((1, 2), parts, strict=True))
        for who in ("anna", "bob")
    ]
    return people, [f"{crowd}/{name}.jpg" for name in ("x", "c1_1", "deep/y")]


@pytest.mark.parametrize("kind", ["beside", "in the gallery", "beside the parts"])
def test_a_folder_of_nobody_is_of_the_gallery_whatever_its_names_say(tmp_path: Path, kind: str) -> None:
    people, crowd = layout_of_nobody(kind)
    entry = own_dataset("mine", touch(tmp_path, *people, *crowd))
    found = read(entry, tmp_path)
    rows = found.rows.set_index("path")
    assert set(rows["part"][crowd]) == {"gallery"} and set(rows["pid"][crowd]) == {0}
    assert set(found.kept["person"][found.kept["path"].isin(crowd)]) == {""}
    assert sorted(rows.index[rows["part"] == "query"]) == sorted(path for path in people if "c1_" in path)
    assert len(rows) == len(people) + len(crowd)
    assert parse("mine", entry.table(), where="again") == entry


@pytest.mark.parametrize("above", ["", "unknown/", "crops/nobody/"])
def test_crops_of_nobody_alone_are_a_gallery(tmp_path: Path, above: str) -> None:
    root = touch(tmp_path / "unknown" if not above else tmp_path, f"{above}x.jpg", f"{above}a/y.jpg")
    found = read(own_dataset("mine", root), root)
    assert found.rows["part"].tolist() == ["gallery"] * 2 and set(found.kept["person"]) == {""}
    with pytest.raises(DataError, match="belong into a folder called unknown"):
        own_dataset("mine", touch(tmp_path / "other", "x.jpg", "y.jpg"))


def test_nobody_is_trained_on_or_asked_for(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/a/c1_0.jpg", "train/unknown/x.jpg")
    with pytest.raises(DataError, match=r"'train/unknown/x.jpg' is of nobody, .* cannot be a train image"):
        read(own_dataset("mine", root), root)


NFC, NFD = "Jos\u00e9", "Jose\u0301"


@pytest.mark.parametrize(("one", "other"), [("0001", "1"), (NFC, NFD), ("Anna", "anna"), ("anna\u00a0", "anna")])
def test_spellings_of_one_person_are_joined_between_parts(tmp_path: Path, one: str, other: str) -> None:
    root = touch(
        tmp_path, f"query/{one}/c1_0.jpg", f"gallery/{other}/c2_0.jpg", "query/7/c1_0.jpg", "gallery/7/c02_0.jpg"
    )
    found = read(own_dataset("mine", root), root)
    assert found.rows["pid"].nunique() == 2
    assert any("taken for one person" in line for line in found.joined)
    assert found.joined[-1] == "02 and 2 are taken for one camera"


def test_spellings_in_one_part_are_refused_unless_only_unicode_differs(tmp_path: Path) -> None:
    for one, other in (("0001", "1"), ("Anna", "anna")):
        root = touch(tmp_path / one, f"{one}/c1_0.jpg", f"{other}/c2_0.jpg")
        with pytest.raises(DataError, match=rf"{one} and {other} may be one person or several \(in test\)"):
            read(own_dataset("mine", root), root)
    root = touch(tmp_path / "u", f"{NFC}/c1_0.jpg", f"{NFD}/c2_0.jpg")
    found = read(own_dataset("mine", root), root)
    assert found.rows["pid"].nunique() == 1
    assert found.joined == [f"{NFD} and {NFC} (letters in two Unicode forms) are taken for one person"]


def test_numbers_of_names() -> None:
    assert numbers(["0001", "2"]) == {"0001": 1, "2": 2}
    assert numbers(["b", "a", "A"]) == {"A": 1, "a": 1, "b": 2}
    assert numbers(["b", "0", "a", ""]) == {"0": 0, "a": 1, "b": 2, "": 3}
    assert numbers(["7", ""]) == {"7": 7, "": 0} and numbers(["0", ""]) == {"0": 0, "": 1}
    assert same(NFC) == same(NFD) and same("00-1") == same("-1") == "-1"


def test_each_folder_is_read_once_however_it_is_linked(tmp_path: Path) -> None:
    """Circles, links to each other, two links to one folder, and a link upwards: as many images as there are."""
    root = touch(tmp_path / "in", *(f"{name}/c{cam}_{i}.jpg" for name in "abc" for cam in (1, 2) for i in (0, 1)))
    for name in "abc":
        for other in "abc":
            (root / name / f"to_{other}").symlink_to(root / other)
    (root / "a" / "up").symlink_to(tmp_path)
    (root / "a" / "self").symlink_to("self")
    touch(tmp_path / "far", "c1_9.jpg")
    (root / "a" / "far").symlink_to(tmp_path / "far")
    (root / "b" / "far").symlink_to(tmp_path / "far")
    files = image_files(root, ".")
    assert len(files.images) == 13 and files.images.count("a/far/c1_9.jpg") == 1
    assert len(files.twice) == 11 and "b/far" in files.twice and "a/up" in files.twice
    assert image_files(root, "a").images == ["a/c1_0.jpg", "a/c1_1.jpg", "a/c2_0.jpg", "a/c2_1.jpg", *(
        f"a/to_{name}/c{cam}_{i}.jpg" for name in "bc" for cam in (1, 2) for i in (0, 1))][:4] + [
        "a/far/c1_9.jpg"] + [f"a/to_{name}/c{cam}_{i}.jpg" for name in "bc" for cam in (1, 2) for i in (0, 1)]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_devices_are_no_images(tmp_path: Path) -> None:
    root = touch(tmp_path, "a/c1_0.jpg")
    os.mkfifo(root / "pipe.jpg")
    (root / "a" / "c1_1.jpg").symlink_to(root / "pipe.jpg")
    (root / "a" / "c1_2.jpg").symlink_to("/dev/zero")
    files = image_files(root, ".")
    assert files.images == ["a/c1_0.jpg"] and files.others == {"pipes or devices": 3}


def test_every_suffix_that_pillow_reads_is_read() -> None:
    from PIL import Image

    from reidgen.data.images import KINDS

    Image.init()
    assert set(SUFFIXES) == {suffix for suffix, kind in Image.registered_extensions().items() if kind in KINDS}
    others = set(Image.registered_extensions().values()) - set(KINDS)
    assert others <= {"EPS", "PDF", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FITS", "IPTC", "GBR", "PALM"}


def test_own_sets_are_not_called_as_folders_of_the_data(tmp_path: Path) -> None:
    for name in ("archives", "unpacked", "synth"):
        with pytest.raises(DataError, match="cannot name a data set"):
            parse(name, {"pattern": r"(?P<pid>\d)_c(?P<camid>\d)"}, where="here")
