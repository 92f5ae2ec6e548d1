"""The pack: equal to decoding each image by itself, built once, and never taken for whole when it is not."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_prepare import crops, picture

from reidgen.data import images as images_module
from reidgen.data import pack as module
from reidgen.data.manifest import Prepared
from reidgen.data.pack import load_pack
from reidgen.data.prepare import prepare
from reidgen.errors import DataError, ReidgenError


@pytest.fixture
def mine(tmp_path: Path) -> Prepared:
    return prepare("mine", data=tmp_path / "data", source=crops(tmp_path / "crops"))


def packs(prepared: Prepared) -> list[str]:
    return sorted(path.name for path in prepared.folder.iterdir() if "pixels" in path.name)


def test_pixels_are_those_of_each_image(mine: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "WINDOW", 5)
    calls: list[tuple[str, int, int]] = []
    paths, pixels = load_pack(mine, 12, 6, lambda *call: calls.append(call))
    assert calls == [("pack mine 12x6", 5, 12), ("pack mine 12x6", 10, 12), ("pack mine 12x6", 12, 12)]
    assert paths == sorted(paths) and len(set(paths)) == 12
    assert (pixels.shape, pixels.dtype, len(pixels)) == ((12, 12, 6, 3), np.uint8, 12)
    assert np.array_equal(np.load(mine.folder / packs(mine)[0], mmap_mode="r"), pixels[:])  # others may read it too
    for path, one in zip(paths, pixels, strict=True):
        with Image.open(mine.root / path) as image:
            assert np.array_equal(one, np.asarray(image.resize((6, 12), Image.Resampling.BILINEAR)))
    with pytest.raises(ValueError, match="read-only"):
        pixels[0][:] = 0


def test_built_once_and_two_sizes_coexist(mine: Prepared) -> None:
    load_pack(mine, 12, 6)
    load_pack(mine, 16, 8)
    digest8 = mine.digest[:8]
    assert packs(mine) == [f"pixels-12x6-{digest8}.npy", f"pixels-16x8-{digest8}.npy"]
    for path in mine.root.rglob("*.jpg"):
        path.unlink()  # a pack needs no images
    assert load_pack(mine, 12, 6)[1].shape == (12, 12, 6, 3)


def test_rebuilt_when_the_set_changed(mine: Prepared, tmp_path: Path) -> None:
    load_pack(mine, 12, 6)
    load_pack(mine, 16, 8)
    (mine.folder / ".pixels-12x6-00000000.npy.1.part").write_bytes(b"of a killed build")
    (mine.root / "p0" / "c1_0.jpg").write_bytes(picture(999))
    (mine.folder / "manifest.json").unlink()
    again = prepare("mine", data=tmp_path / "data", source=mine.root)
    assert again.digest != mine.digest
    load_pack(again, 12, 6)
    assert packs(again) == [f"pixels-12x6-{again.digest[:8]}.npy", f"pixels-16x8-{mine.digest[:8]}.npy"]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array at all"])
def test_a_damaged_pack_is_built_again(mine: Prepared, content: bytes) -> None:
    expected = load_pack(mine, 12, 6)[1][:].copy()
    file = mine.folder / packs(mine)[0]
    for damage in (content, file.read_bytes()[:-100]):
        file.write_bytes(damage)
        assert np.array_equal(load_pack(mine, 12, 6)[1][:], expected)


def test_no_changed_bit_of_a_pack_is_read(mine: Prepared) -> None:
    """Wherever it lies: in the header, an image, the checks. It is built again, at once or by the same command."""
    expected = load_pack(mine, 12, 6)[1][:].copy()
    file = mine.folder / packs(mine)[0]
    content = file.read_bytes()
    assert len(content) == 128 + 12 * 12 * 6 * 3 + 4 * 12 + 4
    said = 0
    for place in (0, 9, 60, 127, 128, 1000, 128 + 2591, 128 + 2592, len(content) - 5, len(content) - 1):
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        pixels = load_pack(mine, 12, 6)[1]
        if 128 <= place < 128 + 2592:
            number, said = (place - 128) // 216, said + 1
            others = np.delete(np.arange(12), number)
            assert np.array_equal(pixels[others], expected[others])
            with pytest.raises(
                DataError, match=rf"pixels-12x6-.* is damaged: its image {number} is not .* was removed"
            ):
                pixels[np.arange(12)]
            assert packs(mine) == []
            pixels = load_pack(mine, 12, 6)[1]
        assert np.array_equal(pixels[:], expected) and file.read_bytes() == content
    assert said == 3


def test_the_pixels_of_another_set_are_none_of_this_one(mine: Prepared, tmp_path: Path) -> None:
    """Of as many images, whole, and in the place of its own."""
    expected = load_pack(mine, 12, 6)[1][:].copy()
    root = crops(tmp_path / "others")
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.write_bytes(picture(500 + number))
    other = prepare("other", data=tmp_path / "data", source=root)
    foreign = load_pack(other, 12, 6)[1][:].copy()
    assert foreign.shape == expected.shape and not np.array_equal(foreign, expected)
    shutil.copy(other.folder / packs(other)[0], mine.folder / packs(mine)[0])
    assert np.array_equal(load_pack(mine, 12, 6)[1][:], expected)


def test_an_image_is_checked_once(mine: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = load_pack(mine, 12, 6)[1]
    checked: list[int] = []
    real = module.zlib.crc32
    monkeypatch.setattr(module.zlib, "crc32", lambda block: checked.append(1) or real(block))
    for images in (np.array([3, 1, 3]), slice(0, 4), 2, np.array([], dtype=int)):
        pixels[images]
    assert len(checked) == 4 + 1  # an image that stands twice in one block is checked twice


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "is not there"), (picture(5), "is not the image that was prepared"), (b"", "is empty")],
)
def test_an_image_that_changed_is_named(mine: Prepared, content: bytes | None, sentence: str) -> None:
    path = mine.root / "p1" / "c1_0.jpg"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"mine: {path} {sentence}; run: reidgen prepare mine --from {mine.root}"):
        load_pack(mine, 12, 6)
    assert packs(mine) == []


def test_a_full_disk_leaves_nothing(mine: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "windows", full)
    with pytest.raises(ReidgenError, match=r"cannot write .*pixels-12x6.*No space left on device"):
        load_pack(mine, 12, 6)
    assert packs(mine) == []


BUILD = """
import pathlib, resource, signal, sys
from reidgen.data.manifest import load_prepared
from reidgen.data.pack import load_pack
from reidgen.errors import ReidgenError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails then, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    load_pack(load_prepared("mine", pathlib.Path(sys.argv[1])), 64, 32, lambda *call: print(call, flush=True))
except ReidgenError as error:
    sys.exit(str(error))
"""


def test_a_limit_on_the_file_is_as_a_full_disk(mine: Prepared) -> None:
    words = [sys.executable, "-c", BUILD, str(mine.folder.parent), "20000"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "cannot write" in result.stderr and "File too large; free some space" in result.stderr
    assert packs(mine) == []
    assert load_pack(mine, 64, 32)[1].shape == (12, 64, 32, 3)


def test_a_kill_leaves_nothing_taken_for_whole(tmp_path: Path) -> None:
    mine = prepare("mine", data=tmp_path / "data", source=crops(tmp_path / "crops", people=300, images=3))
    words = [sys.executable, "-c", BUILD, str(mine.folder.parent), str(10**9)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()  # one of two windows is written
    process.kill()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert all(name.startswith(".pixels-") and name.endswith(".part") for name in packs(mine))
    paths, pixels = load_pack(mine, 64, 32)
    assert len(paths) == len(pixels) == 1800 and packs(mine) == [f"pixels-64x32-{mine.digest[:8]}.npy"]
    with Image.open(mine.root / paths[-1]) as image:
        assert np.array_equal(pixels[-1], np.asarray(image.resize((32, 64), Image.Resampling.BILINEAR)))


def test_processes_change_nothing(mine: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    one = np.array(load_pack(mine, 12, 6)[1])
    (mine.folder / packs(mine)[0]).unlink()
    monkeypatch.setattr(images_module, "MANY", 10)
    assert np.array_equal(load_pack(mine, 12, 6)[1], one)
