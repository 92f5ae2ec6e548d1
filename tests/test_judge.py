"""Own crops as they are prepared: what is told, doubted and refused, names as the user wrote them, nothing overwritten."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from test_prepare import crops, picture
from typer.testing import CliRunner

from reidgen.cli import app
from reidgen.data.batches import training_images
from reidgen.data.check import check
from reidgen.data.manifest import load_index, load_prepared, prepared_names
from reidgen.data.pack import load_pack
from reidgen.data.prepare import prepare
from reidgen.errors import DataError


def lay(root: Path, *paths: str, same: tuple[str, ...] = ()) -> Path:
    """Write an image of its own for every path, and one and the same for those of `same`."""
    for number, path in enumerate([*paths, *same]):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(picture(min(number, len(paths)), format="PNG"))
    return root


def three_parts(people: int = 3) -> list[str]:
    sides = [("train", 10), ("query", 1), ("gallery", 1)]
    paths = [f"{part}/{pid + i}/c{cam}_0.png" for part, pid in sides for i in range(people) for cam in (1, 2)]
    return [path for path in paths if not path.startswith("query") or "c1" in path]


def test_three_images_and_the_parts_are_told(tmp_path: Path) -> None:
    root = lay(tmp_path / "in", *three_parts(), "extra/7/c1_0.png", "readme.txt")
    result = CliRunner().invoke(app, ["prepare", "mine", "--from", str(root), "--data", str(tmp_path / "data")])
    assert result.exit_code == 0
    assert result.output.splitlines()[1:] == [
        "mine: gallery/1/c1_0.png is person 1, camera 1 (gallery)",
        "mine: train/10/c2_0.png is person 10, camera 2 (train)",
        "mine: query/2/c1_0.png is person 2, camera 1 (query)",
        "mine: parts: train in train, query in query, gallery in gallery",
        "mine: left out, as no part of the set: extra (1 image)",
        "mine: left out, as no images: 1 .txt",
    ]
    again = CliRunner().invoke(app, ["prepare", "mine", "--data", str(tmp_path / "data")])
    assert again.output.splitlines()[1:] == result.output.splitlines()[1:]


def test_a_part_that_is_given_alone_is_said(tmp_path: Path) -> None:
    root = crops(tmp_path / "set" / "Train")
    assert not any("read alone" in line for line in prepare("mine", data=tmp_path / "data", source=root).notes)
    lay(tmp_path / "set", "query/p0/c1_9.png")
    made = prepare("mine", data=tmp_path / "data", source=root)
    (line,) = [line for line in made.notes if "read alone" in line]
    assert line.startswith("Train is read alone, and tested, though") and line.endswith(f"give {tmp_path / 'set'}")


IMPLAUSIBLE = {
    "people in train and test": (
        [
            "train/7/c1_0.png",
            "train/7/c2_0.png",
            "train/8/c1_0.png",
            "test/7/c1_1.png",
            "test/7/c2_1.png",
            "test/9/c1_0.png",
        ],
        [],
        "1 people are in train and are tested, such as 7;",
    ),
    "frames as people": (
        [f"{i:04}_c1_0.png" for i in range(1, 8)] + ["0009_c1_0.png", "0009_c2_0.png"],
        [],
        "of 8 people tested 7 have one image",
    ),
    "times as cameras": (
        [f"p{pid}/{10 + 3 * pid + i}-30.png" for pid in range(4) for i in range(3)],
        ["--pattern", r"(?P<pid>[^/]+)/(?P<camid>\d+)-.*"],
        "of 12 cameras 12 show one person only",
    ),
    "frames as cameras": (
        [f"p{pid}/{i:02}.png" for pid in range(3) for i in range(8)],
        ["--pattern", r"(?P<pid>[^/]+)/(?P<camid>\d+)\..*"],
        "3 people and 8 cameras, one image each, as if it was a frame's number",
    ),
    "cameras as people": (
        [f"{who}/cam{cam}/{i}.png" for who in ("anna", "bob") for cam in (1, 2, 3) for i in (1, 2)],
        ["--pattern", r"(?P<pid>[^/]+)/(?P<camid>\d+)\..*"],
        "cam1, cam2, cam3 read as a person, but called as a part, a camera or a day is",
    ),
    "images as a person": (
        [f"{folder}/{cam}_{i}.png" for folder in ("images", "anna") for cam in (1, 2) for i in (1, 2)],
        ["--pattern", r"(?P<pid>[^/]+)/(?P<camid>\d+)_.*"],
        "images read as a person, but called as a part, a camera",
    ),
    "one person": (
        [f"crops/x/c{cam}_{i}.png" for cam in (1, 2) for i in (0, 1)],
        [],
        "all 4 images that are tested are of one person, x",
    ),
}


@pytest.mark.parametrize("kind", IMPLAUSIBLE)
def test_a_reading_that_cannot_be_right_is_shown_and_refused(tmp_path: Path, kind: str) -> None:
    paths, more, sentence = IMPLAUSIBLE[kind]
    root, data = lay(tmp_path / "in", *paths), tmp_path / "data"
    words = ["prepare", "mine", "--from", str(root), "--data", str(data), *more]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and sentence in result.output
    assert len(re.findall(r"^mine: .* is person .*, camera .* \(\w+\)$", result.output, re.MULTILINE)) == 3
    assert prepared_names(data) == []
    result = CliRunner().invoke(app, [*words, "--accept-counts"])
    made = load_prepared("mine", data)
    assert result.exit_code == 0 and sentence in made.accepted and made.again.endswith(" --accept-counts")


DOUBLED = {
    "query and gallery": ("query/1/c1_0.png", "gallery/1/c2_9.png", "1 picture of query in gallery too"),
    "one camera": ("query/1/c1_0.png", "gallery/1/c1_9.png", "1 picture of query in gallery too"),
    "train and query": ("train/10/c1_0.png", "query/1/c1_0.png", "1 picture of train in query too"),
    "train and gallery": ("train/10/c1_0.png", "gallery/3/c1_9.png", "1 picture of train in gallery too"),
}


@pytest.mark.parametrize("kind", DOUBLED)
def test_the_same_picture_in_two_parts_is_refused_unless_accepted(tmp_path: Path, kind: str) -> None:
    one, other, sentence = DOUBLED[kind]
    root, data = lay(tmp_path / "in", *(path for path in three_parts() if path not in (one, other)), same=(one, other)), tmp_path / "data"  # fmt: skip
    with pytest.raises(
        DataError, match=rf"{sentence} \(the same bytes\), such as {one} and {other}; .* --accept-duplicates"
    ):
        prepare("mine", data=data, source=root)
    assert prepared_names(data) == []
    made = prepare("mine", data=data, source=root, accept_duplicates=True)
    assert made.duplicates.startswith(sentence) and made.again.endswith(" --accept-duplicates")
    assert f"1 image with the very bytes of another, such as {max(one, other)} of {min(one, other)}" in made.notes
    assert prepare("mine", data=data).already


def test_copies_and_links_in_one_part_are_counted(tmp_path: Path) -> None:
    root = crops(tmp_path / "in")
    shutil.copy(root / "p0" / "c1_0.jpg", root / "p0" / "c1_0 (copy).jpg")
    (root / "p0" / "c1_9.jpg").symlink_to("c1_0.jpg")
    made = prepare("mine", data=tmp_path / "data", source=root)
    assert "2 images with the very bytes of another, such as p0/c1_0.jpg of p0/c1_0 (copy).jpg" in made.notes


def test_copies_under_another_camera_are_refused_where_queries_are_chosen(tmp_path: Path) -> None:
    root = crops(tmp_path / "in")
    shutil.copy(root / "p0" / "c1_0.jpg", root / "p0" / "c2_9.jpg")  # a match without merit
    with pytest.raises(DataError, match="1 picture of query in gallery too"):
        prepare("mine", data=tmp_path / "data", source=root)


def test_one_image_may_be_query_and_gallery_in_a_list(tmp_path: Path) -> None:
    root = crops(tmp_path / "in")
    lines = ["path,pid,camid,is_query,is_gallery"]
    lines += [f"p{pid}/c{cam}_0.jpg,{pid + 1},{cam},1,1" for pid in range(3) for cam in (1, 2)]
    (root / "list.csv").write_text("\n".join(lines))
    made = prepare("mine", data=tmp_path / "data", source=root / "list.csv")
    assert str(made) == "6 queries of 3 people, 6 gallery images of 3 people"
    index = load_index(made)
    assert made.example.splitlines()[0] == "p0/c1_0.jpg is person 1, camera 1 (query and gallery)"
    assert index.groupby("path")["part"].agg(sorted).map(tuple).unique().tolist() == [("gallery", "query")]
    assert len(load_pack(made, 16, 8)[0]) == 6
    check("mine", tmp_path / "data", deep=True)
    (root / "list.csv").write_text("\n".join([*lines[:-1], "p2/c2_0.jpg,3,2,1,0", "p2/c2_0.jpg,3,1,0,1"]))
    with pytest.raises(DataError, match=r"'p2/c2_0.jpg' is of one person and camera in query, of others in gallery"):
        prepare("mine", data=tmp_path / "data", source=root / "list.csv")


@pytest.mark.parametrize("queries", [True, False])
def test_crops_of_nobody_are_a_gallery(tmp_path: Path, queries: bool) -> None:
    root = crops(tmp_path / "in")
    known = (
        [f"p{pid}/c{cam}_{i}.jpg,p{pid},{cam}" for pid in (0, 1) for cam in (1, 2) for i in (0, 1)] if queries else []
    )
    unknown = [f"p2/c{cam}_{i}.jpg,,{'' if i else cam}" for cam in (1, 2) for i in (0, 1)]
    (root / "list.csv").write_text("\n".join(["path,pid,camid", *known, *unknown]))
    made = prepare("mine", data=tmp_path / "data", source=root / "list.csv")
    index = load_index(made)
    assert set(index["part"][index["path"].str.startswith("p2")]) == {"gallery"}
    assert set(index["pid"][index["path"].str.startswith("p2")]) == {0}
    assert ("query" in made.counts) == queries and made.person(0) == "unknown"
    assert "of nobody who is named, so that they match no query: 4 images of the gallery" in made.notes
    assert ("there are no queries: it can be embedded and searched, but is no target" in made.notes) != queries
    assert len(load_pack(made, 16, 8)[0]) == len(known) + 4
    check("mine", tmp_path / "data", deep=True)


def test_a_folder_of_nobody_is_embedded_and_never_trained_on(tmp_path: Path) -> None:
    root = lay(crops(tmp_path / "in"), "unknown/x.png", "unknown/y.png")
    made = prepare("mine", data=tmp_path / "data", source=root)
    assert str(made) == "6 queries of 3 people, 8 gallery images of 4 people (2 distractors)"
    assert "of nobody who is named, so that they match no query: 2 images of the gallery" in made.notes
    assert len(load_pack(made, 16, 8)[0]) == 14 and prepare("mine", data=tmp_path / "data").already
    _, rows = training_images("mine-all", data=tmp_path / "data")
    assert len(rows) == 12 and not rows["path"].str.startswith("unknown").any()


def test_names_stay_as_they_were_written(tmp_path: Path) -> None:
    root = lay(
        tmp_path / "in", *(f"{pid}/c0{cam}_{i}.png" for pid in ("007", "0012") for cam in (1, 2) for i in (0, 1))
    )
    made = prepare("mine", data=tmp_path / "data", source=root)
    assert set(load_index(made)["pid"]) == {7, 12}
    assert [made.person(7), made.person(12), made.camera(1), made.person(99)] == ["007", "0012", "01", "99"]
    (root / "list.csv").write_text(
        "path,pid,camid\n007/c01_0.png,Ann\tB,hall\n007/c02_0.png,Ann\tB,door\n0012/c01_0.png,x,Hall\n"
    )
    made = prepare("list", data=tmp_path / "data", source=root / "list.csv")
    assert [made.person(1), made.camera(1), made.camera(2)] == ["Ann\\tB", "Hall", "door"]
    assert "Hall and hall are taken for one camera" in made.notes
    with pytest.raises(
        DataError, match=r"none of the 1 people in query \(such as 007\) is among the 1 in gallery \(such as 0012\)"
    ):
        prepare(
            "mine", data=tmp_path / "data", source=lay(tmp_path / "q", "query/007/c1_0.png", "gallery/0012/c2_0.png")
        )


def test_a_set_of_reidgen_0_1_is_still_read(tmp_path: Path) -> None:
    made = prepare("mine", data=tmp_path / "data", source=crops(tmp_path / "in"))
    file = made.folder / "manifest.json"
    old = {
        key: one
        for key, one in json.loads(file.read_text()).items()
        if key not in ("people", "cameras", "remarks", "duplicates", "check")
    }
    old["entry"] = {"pattern": r"(?P<pid>[^/]+)/(?P<camid>\d{1,4})[_-][^/]+"}  # a guess that is no longer made
    file.write_text(json.dumps(old))
    before = load_prepared("mine", tmp_path / "data")
    assert (before.person(2), before.people, before.duplicates) == ("2", {}, "")
    assert before.again == f"reidgen prepare mine --from {tmp_path / 'in'}"
    prepare("mine", data=tmp_path / "data", source=tmp_path / "in")  # is read anew, not by the old guess
    assert load_prepared("mine", tmp_path / "data").dataset.pattern != old["entry"]["pattern"]


def test_nothing_is_written_into_what_from_names(tmp_path: Path) -> None:
    data = tmp_path / "data"
    root = crops(data / "mine")
    for name in ("index.csv", "manifest.json"):
        (root / name).write_text("the user's own")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    for source in (root, data):
        with pytest.raises(DataError, match=r"data/mine lies in .*, which --from names and where nothing is written"):
            prepare("mine", data=data, source=source)
    with pytest.raises(DataError, match=r"index.csv is not of reidgen and would be overwritten"):
        prepare("mine", data=data, source=crops(tmp_path / "other"))
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_bytes_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    root = crops(tmp_path / "in")
    odd = os.fsencode(root) + b"/jos\xe9"
    os.rename(root / "p0", odd)  # noqa: PTH104
    made = prepare("mine", data=tmp_path / "data", source=root)
    assert made.person(1) == "jos\\xe9" and r"jos\xe9/c1_0.jpg" in set(load_index(made)["path"])
    check("mine", tmp_path / "data", deep=True)
    assert len(load_pack(made, 16, 8)[0]) == 12
    os.unlink(odd + b"/c1_0.jpg")  # noqa: PTH108
    with pytest.raises(DataError, match=r"1 image vanished, such as jos\\xe9/c1_0.jpg"):
        check("mine", tmp_path / "data")


def test_what_a_list_gives_to_no_part_is_said(tmp_path: Path) -> None:
    root = crops(tmp_path / "in")
    lines = [f"p{pid}/c{cam}_{i}.jpg,p{pid},{cam},{'val' if pid == 2 else 'test'}" for pid in range(3) for cam in (1, 2) for i in (0, 1)]  # fmt: skip
    (root / "list.csv").write_text("\n".join(["path,pid,camid,split", *lines]))
    made = prepare("mine", data=tmp_path / "data", source=root / "list.csv")
    assert (
        made.counts["all"]["images"] == 8
        and "left out: 4 images of val, as there is a test part beside it" in made.notes
    )


@pytest.mark.parametrize("suffix", [".tsv", ".txt", ".CSV"])
def test_lists_are_not_taken_for_archives(tmp_path: Path, suffix: str) -> None:
    root = crops(tmp_path / "in")
    between = "\t" if suffix == ".tsv" else " " if suffix == ".txt" else ","
    lines = [
        between.join((f"p{pid}/c{cam}_{i}.jpg", str(pid + 1), str(cam)))
        for pid in range(3)
        for cam in (1, 2)
        for i in (0, 1)
    ]
    (root / f"list{suffix}").write_text("\n".join(lines))
    made = prepare("mine", data=tmp_path / "data", source=root / f"list{suffix}")
    assert str(made) == "6 queries of 3 people, 6 gallery images of 3 people"
    assert made.again.endswith(f"list{suffix}") and prepare("mine", data=tmp_path / "data").already
