"""Any folder or list of crops: which images, and what names, a pattern or columns say of camera, track and person."""

from pathlib import Path

import pytest
from conftest import quiet
from extractors import Means
from test_prepare import picture

from reidgen.data.collection import collect
from reidgen.errors import DataError
from reidgen.features.stream import embed_images


def known(folder: Path, pattern: str | None = None) -> list[tuple[str, ...]]:
    return list(collect(folder, pattern).crops.itertuples(index=False, name=None))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture())
    return root


def test_a_camera_is_known_where_every_name_says_it_or_the_pattern_does(tmp_path: Path) -> None:
    named = touch(tmp_path / "a", "x/0001_c2s1_01.jpg", "cam_3/y.png")
    assert known(named) == [("cam_3/y.png", "3", "", ""), ("x/0001_c2s1_01.jpg", "2", "", "")]
    touch(named, "z.jpg")
    assert [camera for _, camera, _, _ in known(named)] == ["", "", ""]
    doors = touch(tmp_path / "b", "door/t1/1.jpg", "door/t1/2.jpg", "hall/3.jpg")
    assert known(doors, r"(?P<camid>[^/]+)/(?P<track>t\d+)/[^/]+") == [
        ("door/t1/1.jpg", "door", "t1", ""), ("door/t1/2.jpg", "door", "t1", ""), ("hall/3.jpg", "", "", "")]  # fmt: skip
    said = collect(doors, r"(?P<camid>[^/]+)/(?P<track>t\d+)/[^/]+").remarks
    assert said == ["--pattern fits 2 of 3 paths; of the others nothing is known"]
    assert known(doors, r"(?P<camid>[a-z]+)(/.*)?/\d\.jpg")[0][1] == "door"
    for pattern, message in (
        ("(?P<camid>", "is no regular expression"), (".*", "has none of the groups camid, track and pid"),
        (r"(?P<pid>\d+)_.*", "fits no path"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            collect(doors, pattern)


def test_a_list_says_it_in_columns_and_needs_a_path_only(tmp_path: Path) -> None:
    touch(tmp_path / "deep", "b.jpg", "a.jpg")
    table = tmp_path / "list.csv"
    table.write_text(
        "file,camera,track_id,identity,more\ndeep\\b.jpg,7.0,t9,anna,x\ndeep/a.jpg,nan,,,\ndeep/a.jpg,1,,,\n"
    )
    assert known(table) == [("deep/a.jpg", "", "", ""), ("deep/b.jpg", "7", "t9", "anna")]
    assert collect(table).remarks == [f"{table} names 1 image again; the first line of each counts"]
    table.write_text(f"{tmp_path / 'deep' / 'b.jpg'}\ndeep/absent.jpg\n")
    assert known(table) == [("deep/absent.jpg", "", "", ""), ("deep/b.jpg", "", "", "")]
    made = embed_images(Means(), collect(table), tmp_path / "f.npz", said="list", say=print, report=quiet)
    assert made.images == 1 and made.broken == {"deep/absent.jpg": "is not there"}
    for text, message in (
        ("camera\n1\n", "needs path and may have pid, camid and track"),
        ("path,camid\n,1\n", "line 2 has no path"),
        ("path\n", "names no images"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            collect(table)
    with pytest.raises(DataError, match="leave out --pattern"):
        collect(table, "x")
    with pytest.raises(DataError, match="is not there; give a folder"):
        collect(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in"):
        collect(tmp_path / "empty")
