"""Hostile and odd archives, MATLAB files and catalogues: one sentence before memory or time is taken."""

import os
import resource
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile
import numpy as np
import pytest
from hostile import tar_of, zip_of

from reidgen.catalogue import load_catalogue
from reidgen.data import archives, mat
from reidgen.data.archives import MARKER, is_archive, pieces, unpack
from reidgen.data.lists import read_list, read_partitions
from reidgen.data.mat import load_mat
from reidgen.errors import BrokenArchiveError, DataError, RecipeError


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No more than 1 GiB beyond what the process has: who asks for more gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def unpacked(content: bytes, tmp_path: Path, name: str = "x.dat") -> dict[str, bytes]:
    (tmp_path / name).write_bytes(content)
    folder = unpack({tmp_path / name: "0" * 32}, tmp_path / "data")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*") if path.is_file() and path.name != MARKER
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile.TARS)
def test_what_a_tar_takes_beside_its_files_is_bounded(
    name: str, tmp_path: Path, little_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "RATIO", 1)
    monkeypatch.setattr(archives, "SMALL", 2**21)
    build, sentence = hostile.TARS[name]
    content = build()
    assert len(content) < 2**20
    (tmp_path / "x.tar").write_bytes(content)
    assert is_archive(tmp_path / "x.tar")
    with pytest.raises(BrokenArchiveError, match=r"x\.tar is not unpacked: ") as caught:
        unpacked(content, tmp_path, "x.tar")
    assert sentence in str(caught.value)
    assert [one.name for one in (tmp_path / "data" / "unpacked").iterdir()] == [".claim"]


def test_headers_of_real_archives_pass(tmp_path: Path) -> None:
    long = "/".join(["d" * 200] * 10) + "/c1.jpg"
    assert unpacked(tar_of([(long, b"x"), ("y", b"")]), tmp_path) == {long: b"x", "y": b""}
    assert unpacked(hostile.tar_with_globals(1), tmp_path, "z.dat") == {"x": b""}


NAMES = {
    "emoji and a joiner": "p0/👩\u200d🚀 c1.jpg",
    "a no-break space": "p0/Screenshot 10.00\u202fAM\xa0.png",
    "a tab": "p0/a\tb.jpg",
    "a direction mark": "p0/\u202egpj.1c",
    "an escape code": "p0/\x1b[2Jc1.jpg",
    "a newline": "p0/c1\n.jpg",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_odd_names_are_unpacked_as_they_are(name: str, kind: str, tmp_path: Path) -> None:
    pack = zip_of if kind == "zip" else tar_of
    assert unpacked(pack([(NAMES[name], b"x"), ("p0/y.jpg", b"y")]), tmp_path) == {NAMES[name]: b"x", "p0/y.jpg": b"y"}


def test_what_a_mac_adds_is_left_out(tmp_path: Path) -> None:
    members = [("Icon\r", b""), ("p0/Icon\r", b"x"), ("p0/._a.jpg", b"x"), ("__MACOSX/b", b"x"), ("p0/a.jpg", b"a")]
    assert unpacked(zip_of(members), tmp_path) == {"p0/a.jpg": b"a"}


def test_names_in_bytes(tmp_path: Path) -> None:
    """Latin-1 in a tar, and UTF-8 without its flag in a zip, as a Mac writes it; a zip's other bytes are of MS-DOS."""
    assert unpacked(tar_of([("josé/c1.jpg".encode("latin-1"), b"x")]), tmp_path) == {"josé/c1.jpg": b"x"}
    members = [("josé/c1.jpg".encode(), b"x"), ("josé/c2.jpg".encode("cp437"), b"y")]
    assert unpacked(zip_of(members), tmp_path, "y.zip") == {"josé/c1.jpg": b"x", "josé/c2.jpg": b"y"}
    with pytest.raises(BrokenArchiveError, match=r"the name 'josé/c1\.jpg' comes twice"):
        unpacked(tar_of([("josé/c1.jpg".encode("latin-1"), b"x"), ("josé/c1.jpg", b"y")]), tmp_path, "z.tar")


def test_a_zip_made_on_windows(tmp_path: Path) -> None:
    members = [("in\\", b""), ("in\\p0\\", b""), ("in\\p0\\c1_0.jpg", b"x"), ("in\\p1\\c1_0.jpg", b"y")]
    assert unpacked(zip_of(members), tmp_path) == {"in/p0/c1_0.jpg": b"x", "in/p1/c1_0.jpg": b"y"}
    for name in ("..\\evil", "a\\..\\..\\evil", "\\\\host\\evil", "C:\\evil"):
        with pytest.raises(BrokenArchiveError, match="leads out of the folder"):
            unpacked(zip_of([(name, b"x")]), tmp_path, "y.zip")


@pytest.mark.parametrize("name", ["", ".", "./", "//", "/"])
@pytest.mark.parametrize("content", [b"", b"x"])
def test_a_member_without_a_name(name: str, content: bytes, tmp_path: Path) -> None:
    packed = zip_of([(name, content), ("p0/a.jpg", b"a")])
    if content and name in ("", "."):
        with pytest.raises(BrokenArchiveError, match="it holds a file without a name"):
            unpacked(packed, tmp_path)
    else:
        assert unpacked(packed, tmp_path) == {"p0/a.jpg": b"a"}


def test_several_zips_of_one_download(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"crops-2024-{number:03d}.zip").write_bytes(zip_of([(f"crops/p{number}/c1.jpg", b"x")]))
    (tmp_path / "crops-2025-002.zip").write_bytes(b"another download")
    found = pieces(tmp_path / "crops-2024-002.zip")
    assert [file.name[-7:-4] for file in found] == ["001", "002", "003"]
    folder = unpack(dict.fromkeys(found, "0" * 32), tmp_path / "data")
    assert sorted(one.name for one in (folder / "crops").iterdir()) == ["p1", "p2", "p3"]
    (tmp_path / "crops-2024-002.zip").unlink()
    with pytest.raises(DataError, match=r"one of several zips .*crops-2024-002.zip is not beside it; get it too"):
        pieces(tmp_path / "crops-2024-003.zip")
    with pytest.raises(DataError, match=r"crops-2025-001.zip is not beside it"):
        pieces(tmp_path / "crops-2025-002.zip")
    assert pieces(tmp_path / "crops.zip") == [tmp_path / "crops.zip"]


@pytest.mark.parametrize("name", ["x.zip.001", "x.z01", "x.tar.gz.part2"])
def test_a_piece_of_a_split_archive(name: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenArchiveError, match="is one piece of a split archive; join"):
        unpacked(np.random.default_rng(0).bytes(5000), tmp_path, name)


def test_the_last_piece_of_a_split_zip(tmp_path: Path) -> None:
    content = bytearray(zip_of([("a", b"x")]))
    content[-18:-16] = b"\1\0"  # the number of this disk
    with pytest.raises(BrokenArchiveError, match=r"is the last piece of a split archive; join"):
        unpacked(bytes(content), tmp_path, "x.zip")


def test_a_changed_bit_anywhere_in_a_tar_gz(tmp_path: Path) -> None:
    """Refused, or nothing was changed by it: in gzip's header are bits without a meaning."""
    whole = tar_of([("p0/c1.jpg", bytes(range(256)) * 8), ("p1/c1.jpg", b"y" * 700)], zipped=True)
    truth = unpacked(whole, tmp_path)
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        home = tmp_path / str(place)
        home.mkdir()
        try:
            assert unpacked(bytes(content), home) == truth
        except BrokenArchiveError as error:
            assert "\n" not in str(error)


def test_an_archive_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of([("a", b"x")]))
    real = os.open

    def closed(path: str | Path, *more: int) -> int:
        if Path(path).name == "x.zip":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *more)

    monkeypatch.setattr("reidgen.files.os.open", closed)
    with pytest.raises(DataError, match=r"cannot read .*x\.zip: Permission denied; make it readable"):
        unpack({tmp_path / "x.zip": "0" * 32}, tmp_path / "data")


@pytest.mark.parametrize("name", hostile.HDF5)
def test_cuhk03_keeps_to_its_file_and_its_size(name: str, tmp_path: Path, little_memory: None) -> None:
    build, sentence = hostile.HDF5[name]
    file = build(tmp_path)
    assert file.stat().st_size < 2**20
    with pytest.raises(BrokenArchiveError, match=r"is no whole cuhk-03\.mat") as caught:
        unpack({file: "0" * 32}, tmp_path / "data")
    assert sentence in str(caught.value)
    assert [one.name for one in (tmp_path / "data" / "unpacked").iterdir()] == [".claim"]


@pytest.mark.parametrize("name", hostile.MATLAB)
def test_matlab_files_take_no_more_memory_than_they_have_bytes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mat, "LIMIT", 2**20)
    build, sentence = hostile.MATLAB[name]
    (tmp_path / "x.mat").write_bytes(build())
    assert (tmp_path / "x.mat").stat().st_size < 2**20
    with pytest.raises(DataError, match=r"cannot read .*x\.mat: .*; get the file again") as caught:
        load_mat(tmp_path / "x.mat", "filelist")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_matlab_files_that_scipy_writes(packed: bool, tmp_path: Path) -> None:
    from scipy.io import savemat

    cells = np.empty((2, 2), dtype=object)
    cells[:] = [["a", np.zeros((0, 3))], [np.arange(3), {"x": 1, "y": "zz"}]]
    table = {"cells": cells, "text": "äb", "flags": np.array([True]), "none": np.zeros((0, 0)), "c": np.array([1j])}
    table |= {"structs": np.array([(1, "a"), (2, "b")], dtype=[("f", object), ("g", object)]), "i": np.int8([[1, 2]])}
    savemat(tmp_path / "x.mat", table, do_compression=packed)
    found = load_mat(tmp_path / "x.mat", *table)
    assert found["text"].tolist() == ["äb"] and found["c"].tolist() == [[1j]] and found["i"].tolist() == [[1, 2]]
    assert found["cells"][1, 0].tolist() == [[0, 1, 2]] and found["structs"]["g"][0, 1].tolist() == ["b"]
    with pytest.raises(DataError, match=r"has no other and no more; get"):
        load_mat(tmp_path / "x.mat", "other", "more")


@pytest.mark.parametrize("name", hostile.TOML)
def test_a_catalogue_of_ones_own_that_does_harm(name: str, tmp_path: Path) -> None:
    content, sentence = hostile.TOML[name]
    (tmp_path / "datasets.toml").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_catalogue(tmp_path / "datasets.toml")
    text = str(caught.value)
    assert sentence in text and len(text) < 1000 and text.isprintable()


def test_a_byte_order_mark_and_windows_lines_in_a_catalogue(tmp_path: Path) -> None:
    (tmp_path / "datasets.toml").write_bytes(f"\ufeff[mine]\r\n{hostile.PATTERN}\r\n".encode())
    assert "mine" in load_catalogue(tmp_path / "datasets.toml")


@pytest.mark.parametrize("change", [
    lambda text: f"\ufeff{text}", lambda text: text.replace("/", "\\"), lambda text: text.replace(" ", ","),
    lambda text: text.replace(" ", ", ").replace("\n", "\r\n"), lambda text: f"\ufeff{text}".replace("/", "\\"),
])  # fmt: skip
def test_lists_as_windows_writes_them(change: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "train" / "0").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "train" / "0" / name).touch()
    (tmp_path / "list.txt").write_bytes(change("0/a.jpg 0 1\n0/b.jpg 0 2\n").encode())
    found = read_list(tmp_path / "list.txt", root=tmp_path, folder="train", part="train")
    assert [tuple(one)[:3] for one in found] == [("train/0/a.jpg", "0", "1"), ("train/0/b.jpg", "0", "2")]


def test_partitions_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "testsets.csv").write_bytes("\ufeffsplit,pair,pid\r\n0,1,7\r\n".encode())
    assert read_partitions(tmp_path / "testsets.csv") == (True, [{(1, 7)}])


def test_pipes_and_devices_behind_links_are_refused_before_they_are_read(tmp_path: Path) -> None:
    from reidgen.data.check import _sha256
    from reidgen.data.images import decode

    os.mkfifo(tmp_path / "pipe")
    for name, target in (("a.jpg", tmp_path / "pipe"), ("b.jpg", "/dev/zero"), ("c.jpg", "/dev/full")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(DataError, match="is no regular file"):
            decode(tmp_path / name)
        assert _sha256(name, root=tmp_path) == ""
        with pytest.raises(DataError, match="no regular file"):
            load_mat(tmp_path / name, "x")
        assert not is_archive(tmp_path / name)


def test_files_of_absurd_size_are_refused_before_they_are_read(tmp_path: Path) -> None:
    """50 GB that take no room on the disk, plain and behind a link; read whole they would take it in memory."""
    from reidgen.data.check import _sha256
    from reidgen.data.images import decode
    from reidgen.data.lists import text_of
    from reidgen.recipe import read_recipe

    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(50 * 10**9)
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(DataError, match=r"^has 50,000,000,000 bytes, more than the 536,870,912 that are read$"):
            decode(tmp_path / name)
        assert _sha256(name, root=tmp_path) == ""
        with pytest.raises(DataError, match="Has 50,000,000,000 bytes"):
            text_of(tmp_path / name)
        with pytest.raises(RecipeError, match=r"cannot read the recipe .*: Has 50,000,000,000 bytes"):
            read_recipe(tmp_path / name)


@pytest.mark.parametrize("format", ["BMP", "PNG", "TIFF", "GIF", "PPM", "QOI", "TGA"])
def test_pictures_that_say_they_are_huge_take_no_memory(format: str, tmp_path: Path) -> None:
    from reidgen.data.images import decode

    head = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    wide = {  # format -> 40,000 x 40,000 pixels and hardly a byte of them
        "BMP": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 40_000, 40_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "PNG": png + struct.pack(">I", 9) + b"IDAT",
        "TIFF": b"II*\0\x08\0\0\0\x04\0" + b"".join(
            struct.pack("<HHII", tag, kind, 1, value)
            for tag, kind, value in ((256, 4, 40_000), (257, 4, 40_000), (262, 3, 1), (273, 4, 8))
        ) + bytes(4),
        "GIF": b"GIF89a" + struct.pack("<HHBBB", 40_000, 40_000, 0, 0, 0) + b"," + struct.pack("<HHHHBB", 0, 0, 40_000, 40_000, 0, 2),
        "PPM": b"P6 40000 40000 255 ",
        "QOI": b"qoif" + struct.pack(">IIBB", 40_000, 40_000, 3, 0),
        "TGA": bytes([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]) + struct.pack("<HHBB", 40_000, 40_000, 24, 0),
    }[format]  # fmt: skip
    (tmp_path / "x.jpg").write_bytes(wide)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"exceeds limit of .* pixels"):
        decode(tmp_path / "x.jpg")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
