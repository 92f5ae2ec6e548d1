"""Archives: every published one unpacked as its authors laid it out, and nothing left of one that could not be."""

import contextlib
import csv
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import IO

import layouts
import numpy as np
import pytest
from PIL import Image

from reidgen.data import archives as module
from reidgen.data.archives import MARKER, is_archive, unpack
from reidgen.errors import BrokenArchiveError, DataError


def md5s(*files: Path) -> dict[Path, str]:
    return {file: hashlib.md5(file.read_bytes()).hexdigest() for file in files}


def published(name: str, root: Path) -> list[Path]:
    """Write the set's archives and return them in the catalogue's order."""
    layouts.archive(name, root)
    return [root / file for file in layouts._layout(name, "").archives]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["duke", "msmt17-v1", "msmt17-v2", "ilids", "clonedperson", "cuhk-sysu", "unrealperson"]
)
def test_unpacked_as_it_lies_in_the_original_layout(name: str, tmp_path: Path) -> None:
    """The same files as in the folder that the fixture writes without any archive."""
    [file] = published(name, tmp_path / "in")
    folder = unpack(md5s(file), tmp_path / "data")
    assert folder.name == f"{file.name.partition('.')[0]}-{hashlib.md5(file.read_bytes()).hexdigest()[:8]}"
    found = {path: one for path, one in content(folder).items() if path != MARKER}
    top = os.path.commonpath([*found, f"{next(iter(found)).partition('/')[0]}/x"])  # the archive's own top folder
    expected = content(layouts.build(name, tmp_path / "folder"))
    assert {path.removeprefix(f"{top}/") for path in found} in (
        {*expected},
        {p.removeprefix(f"{top}/") for p in expected},
    )
    assert sorted(found.values()) == sorted(expected.values())


def test_unpacked_once_and_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = published("cuhk03-np-detected", tmp_path / "in")
    calls: list[tuple[str, int, int]] = []
    folder = unpack(md5s(files[0], files[1]), tmp_path / "data", lambda *call: calls.append(call))
    assert ("unpack cuhk-03.mat, images_detected", 5, 5) in calls
    monkeypatch.setattr(module, "_extract", None)  # nothing is unpacked again
    assert unpack(md5s(files[0], files[2]), tmp_path / "data") == folder
    assert unpack(md5s(files[0]), tmp_path / "data") == folder
    assert {file.name for file in files[1:]} <= {one.name for one in (folder / "cuhk03_release").iterdir()}


def test_several_archives_become_one_folder(tmp_path: Path) -> None:
    market, distractors = published("market-500k", tmp_path / "in")
    folder = unpack(md5s(market, distractors), tmp_path / "data")
    assert content(folder / "Market-1501-v15.09.15") == content(layouts.build("market-500k", tmp_path / "folder"))
    assert unpack(md5s(market), tmp_path / "data") != folder


def test_cuhk03_mat_against_its_pixels(tmp_path: Path) -> None:
    mat = layouts.build("cuhk03-detected", tmp_path / "in") / "cuhk03_release" / "cuhk-03.mat"
    folder = unpack(md5s(mat), tmp_path / "data")
    names = layouts.cuhk03_names(6)
    for kind in ("labeled", "detected"):
        assert sorted(one.name for one in (folder / f"images_{kind}").iterdir()) == sorted(names)
        for name in names:
            with Image.open(folder / f"images_{kind}" / name) as image:
                assert np.array_equal(np.asarray(image), layouts.pixels(f"images_{kind}/{name}"))
    with (folder / "testsets.csv").open(newline="") as file:
        rows = [tuple(map(int, row)) for row in list(csv.reader(file))[1:]]
    assert rows == [(split, *one) for split, some in enumerate(layouts.cuhk03_test_sets(6)) for one in some]


def test_a_mat_whose_images_are_absurdly_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells may all refer to one image; in a zip it shares the budget of what lies beside it."""
    mat = layouts.build("cuhk03-detected", tmp_path / "in") / "cuhk03_release" / "cuhk-03.mat"
    pixels = 2 * len(layouts.cuhk03_names(6)) * 16 * 8 * 3
    monkeypatch.setattr(module, "RATIO", 0)
    monkeypatch.setattr(module, "SMALL", pixels)
    assert len(list(unpack(md5s(mat), tmp_path / "data").rglob("*.png"))) == 2 * len(layouts.cuhk03_names(6))
    layouts.pack({"cuhk-03.mat": mat.read_bytes()}, tmp_path / "x.zip")
    for file, size in ((mat, pixels - 1), (tmp_path / "x.zip", pixels + mat.stat().st_size - 1)):
        monkeypatch.setattr(module, "SMALL", size)
        with pytest.raises(
            BrokenArchiveError, match=r"cuhk-03.mat is not unpacked: its images have more than .* absurd"
        ):
            unpack(md5s(file), tmp_path / "other")


def test_what_is_an_archive(tmp_path: Path) -> None:
    [file] = published("duke", tmp_path)
    (tmp_path / "page.zip").write_bytes(b"<html>")
    assert is_archive(file) and not is_archive(tmp_path / "page.zip") and not is_archive(tmp_path / "nothing.zip")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [file] = published("duke", tmp_path / "in")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    with pytest.raises(DataError, match=r"cannot unpack .*zip: No space left on device; free some space") as caught:
        unpack(md5s(file), tmp_path / "data")
    assert not isinstance(caught.value, BrokenArchiveError)  # so that nobody removes the download
    assert [one.name for one in (tmp_path / "data" / "unpacked").iterdir()] == [".claim"]
    monkeypatch.undo()
    assert (unpack(md5s(file), tmp_path / "data") / MARKER).is_file()


def test_more_than_fits_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [file] = published("duke", tmp_path / "in")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(BrokenArchiveError, match=r"more than 1,000 bytes, which is absurd or more than is free"):
        unpack(md5s(file), tmp_path / "data")


def _nested(file: Path, *, archives: int, size: int, files: int = 1) -> Path:
    """Write a zip of zips, each of which holds `files` files of together `size` zeros."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(files):
            archive.writestr(f"x/{number}.bmp", bytes(size // files))
    layouts.pack({f"part{number}.zip": inner.getvalue() for number in range(archives)}, file)
    return file


def test_archives_inside_an_archive_share_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them would pass by itself; more must never lie on the disk than all of them may have together."""
    monkeypatch.setattr(module, "RATIO", 1)
    monkeypatch.setattr(module, "SMALL", 100_000)
    written, copy = [0], module.shutil.copyfileobj

    def counted(source: IO[bytes], target: IO[bytes], length: int) -> None:
        copy(source, target, length)
        written[0] += target.tell()

    monkeypatch.setattr(module.shutil, "copyfileobj", counted)
    few = _nested(tmp_path / "few.zip", archives=2, size=40_000)
    assert len(list(unpack(md5s(few), tmp_path / "data").rglob("*.bmp"))) == 2
    written[0] = 0
    bomb = _nested(tmp_path / "bomb.zip", archives=12, size=40_000)
    assert bomb.stat().st_size < 10_000
    with pytest.raises(
        BrokenArchiveError, match=r"bomb.zip/part\d+.zip is not unpacked: its files have more than .* absurd"
    ) as caught:
        unpack(md5s(bomb), tmp_path / "data")
    assert 80_000 < written[0] <= 100_000 and "\n" not in str(caught.value)
    assert {one.name for one in (tmp_path / "data" / "unpacked").iterdir() if "bomb" in one.name} == set()
    monkeypatch.setattr(module._Budget, "__init__", lambda self, size: vars(self).update(bytes=size, files=30))
    unpack(md5s(_nested(tmp_path / "a.zip", archives=2, size=100, files=10)), tmp_path / "data")
    with pytest.raises(BrokenArchiveError, match="it has more than 7 files"):
        unpack(md5s(_nested(tmp_path / "b.zip", archives=3, size=100, files=10)), tmp_path / "data")


def test_a_kill_leaves_nothing_taken_for_whole(tmp_path: Path) -> None:
    """Killed in the middle, as by the system; the next call removes what is left and unpacks anew."""
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(noise, "BMP")
    layouts.pack({f"x/{i:05d}.bmp": noise.getvalue() for i in range(3000)}, tmp_path / "x.tar")
    code = (
        "import sys, pathlib; from reidgen.data.archives import unpack\n"
        "unpack({pathlib.Path(sys.argv[1]): '0' * 32}, pathlib.Path(sys.argv[2]))"
    )
    home = tmp_path / "data" / "unpacked"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x.tar"), str(tmp_path / "data")])
    while process.poll() is None and not list(home.glob(".x-*.part/x/00100.bmp")):
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (home / "x-00000000").exists()
    folder = unpack({tmp_path / "x.tar": "0" * 32}, tmp_path / "data")
    assert len(list((folder / "x").iterdir())) == 3000 and {one.name for one in home.iterdir()} == {
        ".claim",
        folder.name,
    }
