"""Lists and partition files: what they say, and one sentence for everything that they can have wrong."""

from pathlib import Path

import layouts
import numpy as np
import pytest
from scipy.io import savemat

from reidgen.data.lists import Named, beside, common_root, read_list, read_partitions, read_table
from reidgen.errors import DataError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def written(root: Path, text: str | bytes, name: str = "list.txt") -> Path:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root / name


def test_lines_name_path_person_and_perhaps_camera(tmp_path: Path) -> None:
    touch(tmp_path, "train/0/a.jpg", "train/b.jpg", "train/c.jpg")
    file = written(tmp_path, "0/a.jpg 0\n\nb.jpg 12 3 \r\n./c.jpg\tx\n")
    assert read_list(file, root=tmp_path, folder="train", part="train") == [
        Named("train/0/a.jpg", "0", "", ""), Named("train/b.jpg", "12", "3", ""), Named("train/c.jpg", "x", "", ""),
    ]  # fmt: skip


def test_lists_lie_below_the_root_or_beside_it(tmp_path: Path) -> None:
    root = touch(tmp_path, "set/a.txt", "b.txt", "a.txt") / "set"
    assert beside(root, "a.txt") == root / "a.txt" and beside(root, "b.txt") == tmp_path / "b.txt"
    assert beside(root, "c.txt") is None
    assert common_root([tmp_path / "x/a.jpg", tmp_path / "x/y/b.jpg"]) == tmp_path / "x"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "list.txt names no images; extract"),
        ("a.jpg", "line 1 is 'a.jpg', expected a path and a person"),
        ("a.jpg 1\na b.jpg 1 2\n", "line 2 is 'a b.jpg 1 2', expected"),
        ("../a.jpg 1\n", "line 1 is '../a.jpg 1', expected"),
        ("/etc/a.jpg 1\n", "line 1 is '/etc/a.jpg 1', expected"),
        (b"\xff\xfe 1\n", "cannot read .*list.txt"),
        ("a.jpg 1\nb.jpg 2\n", "names 2 query images, but 1 of them are not in .*, such as 'q/b.jpg'; extract"),
    ],
)
def test_lines_in_error(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    touch(tmp_path, "q/a.jpg")
    with pytest.raises(DataError, match=sentence):
        read_list(written(tmp_path, text), root=tmp_path, folder="q", part="query")


def test_a_table_names_images_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    text = f'\ufeffcamid,pid,path,note,split\n 1 ,"anna, b",../a.jpg,x,Train\nhall,2,{tmp_path}/lists/b.jpg,,query\n'
    file = written(tmp_path / "lists", text, "one.csv")
    assert read_table(file, tmp_path) == [
        Named("a.jpg", "anna, b", "1", "train"), Named("lists/b.jpg", "2", "hall", "query"),
    ]  # fmt: skip
    touch(tmp_path, "a.jpg", "lists/b.jpg")
    assert [one.path for one in read_list(file, root=tmp_path, folder=".", part="query")] == ["lists/b.jpg"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"has the columns \(none\), but needs path, pid, camid"),
        ("path,pid\na,1\n", r"has the columns 'path', 'pid', but needs .* as its first line: path,pid,camid$"),
        ("path,pid,camid\n", "names no images; write one line per image"),
        ("path,pid,camid\na.jpg,1\n", "line 2 should have 3 values, with path, pid and camid"),
        ("path,pid,camid\na.jpg,1,2,3\n", "line 2 should have 3 values"),
        ("path,pid,camid\na.jpg,1,nan\n", "line 2 should have 3 values"),
        ("path,pid,camid,split\na.jpg,,2,query\n", "line 2: query images need a pid"),
        ("path,pid,camid,split\na.jpg,1,2,old\n", "line 2: split = 'old' should be one of train, query, gallery, test"),
        ("path,pid,camid,split\na.jpg,1,2,\n", "line 2: split = '' should be one of"),
        ("path,pid,camid,is_query,is_gallery\na.jpg,1,2,0,0\n", "line 2 is neither query nor gallery; write 1 in one"),
        ("path,pid,camid,is_query\na.jpg,1,2,perhaps\n", "line 2: is_query and is_gallery are 0 or 1, not 'perhaps'"),
        ("path,id,label,camid\na.jpg,1,2,3\n", "has the columns id and label; call the one that holds the pid pid"),
        ("0002,train/0002_c1s1_1.jpg\n", r"has the columns '0002', .*; write this as its first line: path,pid,camid$"),
        (b"path,pid,camid\n\xff.jpg,1,2\n", "cannot read .*save it as CSV in UTF-8"),
        ('path,pid,camid\n"a.jpg,1,2\n', "cannot read .*save it as CSV"),
        (b"path,pid,camid\n" + b"a" * 200_000 + b",1,2\n", "cannot read .*save it as CSV"),
    ],
)
def test_tables_in_error(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_table(written(tmp_path, text, "list.csv"), tmp_path)


A, B = Named("x/a.jpg", "7", "1", ""), Named("b.jpg", "8", "2", "")
DIALECTS: dict[str, tuple[str | bytes, list[Named]]] = {
    "tabs": ("path\tpid\tcamid\nx/a.jpg\t7\t1\nb.jpg\t8\t2\n", [A, B]),
    "semicolons": ("path;pid;camid\nx/a.jpg;7;1\nb.jpg;8;2\n", [A, B]),
    "blanks": ("path pid camid\nx/a.jpg 7   1\n\nb.jpg 8 2", [A, B]),
    "UTF-16": ("path,pid,camid\nx/a.jpg,7,1\nb.jpg,8,2\n".encode("utf-16"), [A, B]),
    "a mark": ("\ufeffpath,pid,camid\r\nx/a.jpg,7,1\r\nb.jpg,8,2\r\n", [A, B]),
    "commas behind": ("path,pid,camid,,\nx/a.jpg,7,1,,\nb.jpg,8,2,,\n", [A, B]),
    "commas behind values only": ("path,pid,camid\nx/a.jpg,7,1,\nb.jpg,8,2,\n", [A, B]),
    "no first line": ("x/a.jpg,7,1\nb.jpg,8,2\n", [A, B]),
    "no first line, with parts": ("x/a.jpg,7,1,train\nb.jpg,8,2,test\n", [A._replace(split="train"), B._replace(split="test")]),
    "Windows paths": ("path,pid,camid\nx\\a.jpg,7,1\n.\\b.jpg,8,2\n", [A, B]),
    "other names": ("camera,label,image_path,age\n1,7,x/a.jpg,30\n2,8,b.jpg,\n", [A, B]),
    "two words for one thing": ("path,id,pid,camid\nx/a.jpg,0,7,1\nb.jpg,1,8,2\n", [A, B]),
    "spreadsheet numbers": ("path,pid,camid\nx/a.jpg,7.0,1.0\nb.jpg,8.00,2\n", [A, B]),
    "junk as a spreadsheet writes it": ("path,pid,camid\nx/a.jpg,-1.0,1\n", [A._replace(pid="-1")]),
    "nothing": ("path,pid,camid\nx/a.jpg,7,1\nb.jpg,nan,nan\n", [A, B._replace(pid="", camid="")]),
    "nobody": ("path,pid,camid\nx/a.jpg,,1\n", [A._replace(pid="", split="gallery")]),
    "probe": ("path,pid,camid,split\nx/a.jpg,7,1,Probe\nb.jpg,8,2,GALLERY\n", [A._replace(split="query"), B._replace(split="gallery")]),
    "val alone": ("path,pid,camid,split\nx/a.jpg,7,1,val\nb.jpg,8,2,train\n", [A._replace(split="test"), B._replace(split="train")]),
    "val beside": ("path,pid,camid,split\nx/a.jpg,7,1,val\nb.jpg,8,2,test\n", [A._replace(split="val"), B._replace(split="test")]),
    "flags": ("path,label,camid,split,is_query,is_gallery\nx/a.jpg,7,1,validation,True,True\nb.jpg,8,2,train,,\n", [
        A._replace(split="query"), A._replace(split="gallery"), B._replace(split="train"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIALECTS)
def test_tables_as_people_write_them(tmp_path: Path, kind: str) -> None:
    text, named = DIALECTS[kind]
    touch(tmp_path, "x/a.jpg", "b.jpg")
    assert read_table(written(tmp_path, text, "list.csv"), tmp_path) == named


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = written(tmp_path, "path,pid,camid\n~/a.jpg,7,1\n", "list.csv")
    assert read_table(file, tmp_path) == [Named("home/a.jpg", "7", "1", "")]


def test_lists_of_sets_with_a_mark_backslashes_and_commas(tmp_path: Path) -> None:
    touch(tmp_path, "train/0/a.jpg", "train/b.jpg")
    for text in (
        "\ufeff0\\a.jpg 0\r\nb.jpg 1\r\n",
        "0/a.jpg,0\nb.jpg, 1\n",
        "\ufeff0/a.jpg 0\nb.jpg 1\n".encode("utf-16-le"),
    ):
        assert read_list(written(tmp_path, text), root=tmp_path, folder="train", part="train") == [
            Named("train/0/a.jpg", "0", "", ""), Named("train/b.jpg", "1", "", ""),
        ]  # fmt: skip


def test_new_protocol_counts_from_one(tmp_path: Path) -> None:
    root = layouts.build("cuhk03-np-detected", tmp_path, form="images")
    file = root / "cuhk03_new_protocol_config_detected.mat"
    names, (labels, parts) = layouts.cuhk03_names(6), layouts._new_protocol_parts(6)
    for part, places in parts.items():
        truth = [Named(f"images_detected/{names[i]}", str(labels[i]), names[i][6], "") for i in sorted(places)]
        assert read_list(file, root=root, folder="images_detected", part=part) == truth


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"labels": None}, "has no labels; get the file again"),
        ({"query_idx": None}, "has no query_idx; get the file again"),
        ({"query_idx": np.array([[0]])}, "is not as CUHK03's new protocol .query_idx counts from 1"),
        ({"query_idx": np.array([[3]])}, "is not as CUHK03's new protocol"),
        ({"query_idx": np.zeros((0, 1))}, "is not as CUHK03's new protocol"),
        ({"filelist": np.array([["../a.png"], ["b.png"]], dtype=object)}, "is not as CUHK03's new protocol"),
        ({"filelist": np.array([["c.png"], ["b.png"]], dtype=object)}, "but 1 of them are not in .*'i/c.png'"),
    ],
)
def test_new_protocol_in_error(tmp_path: Path, keys: dict[str, np.ndarray | None], sentence: str) -> None:
    touch(tmp_path, "i/a.png", "i/b.png")
    table = {"filelist": np.array([["a.png"], ["b.png"]], dtype=object), "labels": [[1], [1]], "camId": [[1], [2]]}
    table |= {"query_idx": np.array([[1]])} | keys
    savemat(tmp_path / "np.mat", {key: value for key, value in table.items() if value is not None})
    with pytest.raises(DataError, match=sentence):
        read_list(tmp_path / "np.mat", root=tmp_path, folder="i", part="query")


@pytest.mark.parametrize(
    "reader", [read_partitions, lambda file: read_list(file, root=file.parent, folder=".", part="gallery")]
)
@pytest.mark.parametrize("length", [0, 1, 127, 300, -100, -1])
def test_truncated_matlab_files(tmp_path: Path, reader: object, length: int) -> None:
    name, file = ("grid", "features_and_partitions.mat")
    if reader is not read_partitions:
        name, file = ("cuhk03-np-detected", "cuhk03_new_protocol_config_detected.mat")
    content = layouts._files(name, "", 6, 0)[file]
    with pytest.raises(DataError, match="get the file again"):
        reader(written(tmp_path, content[:length], "x.mat"))  # type: ignore[operator]


def test_partitions_say_who_is_tested_or_trained_on(tmp_path: Path) -> None:
    are_tested, splits = read_partitions(layouts.build("grid", tmp_path) / "features_and_partitions.mat")
    assert not are_tested
    assert splits == [{(pid,) for pid in people} for people in layouts.grid_training_people()]
    are_tested, splits = read_partitions(written(tmp_path, "split,pair,pid\n1,5,2\n0,1,7\n0,2,7\n", "testsets.csv"))
    assert are_tested and splits == [{(1, 7), (2, 7)}, {(5, 2)}]


@pytest.mark.parametrize("text", ["split,pair\n0,1\n", "split,pair,pid\n0,x,1\n", "split,pair,pid\n0,1\n", b"\xff\n"])
def test_test_sets_in_error(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(DataError, match="expected the columns split, pair, pid"):
        read_partitions(written(tmp_path, text, "testsets.csv"))
