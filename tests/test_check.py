"""--check: what was prepared is proved again, quickly where nothing was written, by content where something was."""

import json
import os
import shutil
from pathlib import Path

import pytest
from test_prepare import crops, picture
from typer.testing import CliRunner

from reidgen.catalogue import load_catalogue
from reidgen.cli import app
from reidgen.data import check as module
from reidgen.data.check import check, stamp_files
from reidgen.data.manifest import Prepared, load_prepared
from reidgen.data.pack import load_pack
from reidgen.data.prepare import prepare
from reidgen.errors import DataError


@pytest.fixture
def mine(tmp_path: Path) -> Prepared:
    return prepare("mine", data=tmp_path / "data", source=crops(tmp_path / "crops"))


def test_unchanged_files_are_not_opened(mine: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mine.stamp and mine.bytes == sum(path.stat().st_size for path in mine.root.rglob("*.jpg"))
    monkeypatch.setattr(module, "windows", None)
    assert check("mine", mine.folder.parent) == mine


def test_touched_files_are_hashed_once(mine: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in mine.root.rglob("*.jpg"):
        os.utime(path)
    check("mine", mine.folder.parent)
    again = load_prepared("mine", mine.folder.parent)
    assert again.stamp != mine.stamp and again.digest == mine.digest
    monkeypatch.setattr(module, "windows", None)
    check("mine", mine.folder.parent)


def test_the_same_size_and_time_need_deep(mine: Prepared) -> None:
    path = mine.root / "p0" / "c1_0.jpg"
    facts, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    check("mine", mine.folder.parent)
    with pytest.raises(DataError, match=r"mine: 1 image of 12 changed, such as p0/c1_0.jpg, since it was prepared; "):
        check("mine", mine.folder.parent, deep=True)


def test_deep_reads_the_pixel_cache(mine: Prepared) -> None:
    load_pack(mine, 12, 6)
    load_pack(mine, 32, 16)
    file = next(mine.folder.glob("pixels-32x16-*.npy"))
    content = bytearray(file.read_bytes())
    content[128 + 5 * 32 * 16 * 3] ^= 255
    file.write_bytes(content)
    check("mine", mine.folder.parent)
    with pytest.raises(DataError, match=r"mine: the pixel cache .*pixels-32x16.* is damaged: its image 5 .*removed"):
        check("mine", mine.folder.parent, deep=True)
    assert check("mine", mine.folder.parent, deep=True) == mine
    assert [path.name[:12] for path in mine.folder.glob("pixels-*")] == ["pixels-12x6-"]


def _changed(root: Path) -> None:
    (root / "p1" / "c1_0.jpg").write_bytes(picture(99))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_changed, r"1 image of 12 changed, such as p1/c1_0.jpg,"),
        (lambda root: (root / "p1" / "c1_0.jpg").unlink(), r"1 image vanished, such as p1/c1_0.jpg,"),
        (lambda root: (root / "p1" / "c1_9.jpg").write_bytes(picture(9)), r"1 image came, such as p1/c1_9.jpg,"),
        (lambda root: (root / "p1").rename(root / "p7"), r"4 images vanished, such as p1/c1_0.jpg,"),
        (shutil.rmtree, r"there is no file or folder"),
    ],
)
def test_a_change_is_named(mine: Prepared, change: object, sentence: str) -> None:
    change(mine.root)  # type: ignore[operator]
    for deep in (False, True):
        with pytest.raises(DataError, match=rf"mine: .*{sentence}.*run: reidgen prepare mine"):
            check("mine", mine.folder.parent, deep=deep)


def test_a_stamp_is_that_of_a_naive_loop(tmp_path: Path) -> None:
    root = crops(tmp_path)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))
    before, size = stamp_files(root, paths)
    assert size == sum(len((root / path).read_bytes()) for path in paths)
    assert stamp_files(root, paths) == (before, size) and stamp_files(root, paths[1:])[0] != before
    (root / paths[0]).unlink()
    assert stamp_files(root, paths)[0] not in (before, stamp_files(root, paths[1:])[0])


def test_the_command(mine: Prepared, tmp_path: Path) -> None:
    data = str(mine.folder.parent)
    prepare("other", data=mine.folder.parent, source=crops(tmp_path / "others", people=4))
    run = lambda *words: CliRunner().invoke(app, ["prepare", *words, "--data", data])  # noqa: E731
    whole = "mine: whole, 12 images compared by names, sizes and times\n"
    assert run("--check", "mine").output == whole
    assert run("--check").output == whole + whole.replace("mine", "other").replace("12", "16")
    assert run("--deep", "mine").output == whole.replace("names, sizes and times", "content")
    (mine.folder / "manifest.json").write_text(json.dumps([]))
    result = run("--check")
    assert result.exit_code == 1 and "other: whole" in result.output
    assert result.output.splitlines()[-1] == "error: 1 of 2 sets are not whole: mine"
    assert run("--splits", "other").output == "other split 0: p0 p1 p2 p3\n"


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_of_named_sets_says_all(mine: Prepared, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    words = ["prepare", "--list", "mine", "duke", "viper", "market", "--data", str(mine.folder.parent)]
    result = CliRunner().invoke(app, words)
    lines = result.output.splitlines()
    assert result.exit_code == 0 and max(map(len, lines[:-2])) <= width
    text = " ".join(result.output.split())
    for words in (
        "duke",
        "withdrawn",
        "in 2019",
        "prepared, 0 MB",
        "6 queries of 3 people",
        "run: reidgen prepare market",
        "1,264 images of 632 people in all",
    ):
        assert words in text
    place = next(number for number, line in enumerate(lines) if line.startswith("mine "))
    assert lines[place + 1].startswith("prepared, 0 MB") and lines[place + 2].startswith("own ")


def test_the_list_has_a_line_for_each_set_and_is_never_cut(mine: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    (mine.folder.parent / "bad").mkdir()
    (mine.folder.parent / "bad" / "manifest.json").write_text("[]")
    result = CliRunner().invoke(app, ["prepare", "--list", "--data", str(mine.folder.parent)])
    lines = [line.split() for line in result.output.splitlines()[1:-2]]
    assert [line[0] for line in lines] == [*load_catalogue(), "bad", "mine"]
    rows = {line[0]: " ".join(line[1:]) for line in lines}
    assert rows["market"] == "open 1,501 32,217 is downloaded"  # Zheng et al.: 12,936 + 3,368 + 15,913 without junk
    assert rows["viper"].startswith("open 632 1,264") and rows["duke"].endswith("--from DIR")
    assert rows["mine"] == "prepared 3 12" and rows["bad"] == "damaged see: --list bad"
    assert rows["synth-mall"] == "built-in 180 1,500 is drawn"  # as prepare of the README says
    result = CliRunner().invoke(app, ["prepare", "--list", "--data", str(mine.folder.parent), "--json"])
    sets = {one["name"]: one for one in json.loads(result.stdout)}
    assert list(sets) == [*load_catalogue(), "bad", "mine"] and not result.stderr
    assert (sets["mine"]["state"], sets["mine"]["counts"]["query"]["images"]) == ("prepared", 6)
    assert (sets["mine"]["people"], sets["mine"]["images"]) == (3, 12)
    assert (sets["synth-mall"]["people"], sets["synth-mall"]["images"]) == (180, 1500)
    assert sets["synth-mall"]["counts"]["gallery"] == {"identities": 61, "images": 300, "cameras": 4}
    assert (sets["pku"]["people"], sets["market-500k"]["images"]) == (None, None)  # nobody states them
    assert sets["bad"]["state"] == "damaged" and "prepare the set again" in sets["bad"]["how"]
    assert sets["duke"]["state"] == "withdrawn" and sets["market"]["counts"]["train"]["images"] == 12936


@pytest.mark.parametrize("how", ["link", "folder", "pipe"])
def test_a_manifest_that_is_no_file_is_said_by_a_check_of_all(how: str, mine: Prepared) -> None:
    file = mine.folder / "manifest.json"
    file.unlink()
    {"link": lambda: file.symlink_to("manifest.json"), "folder": file.mkdir, "pipe": lambda: os.mkfifo(file)}[how]()
    result = CliRunner().invoke(app, ["prepare", "--check", "--data", str(mine.folder.parent)])
    assert result.exit_code == 1 and "mine: " in result.output and "is no plain file, or a link to" in result.output
