"""Prepare: from images to index.csv and manifest.json; everything broken ends in one sentence, never in a manifest."""

import hashlib
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from reidgen.catalogue import load_catalogue
from reidgen.cli import app
from reidgen.data import images as images_module
from reidgen.data import prepare as module
from reidgen.data.check import check
from reidgen.data.images import decode, windows
from reidgen.data.manifest import load_index, load_prepared, prepared_names
from reidgen.data.prepare import prepare
from reidgen.errors import DataError


def picture(seed: int = 0, mode: str = "RGB", format: str = "JPEG", **options: object) -> bytes:
    """Return the bytes of a tiny image file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def crops(root: Path, *, people: int = 3, cameras: int = 2, images: int = 2) -> Path:
    """Make a folder per person: p0/c1_0.jpg and so on."""
    for pid in range(people):
        for cam in range(1, cameras + 1):
            for i in range(images):
                path = root / f"p{pid}" / f"c{cam}_{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(pid * 100 + cam * 10 + i))
    return root


def market(root: Path) -> Path:
    names = {
        "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000451_03.jpg"],
        "query": ["0001_c1s1_001051_00.jpg.jpg"],
        "bounding_box_test": ["-1_c1s1_000401_03.jpg", "0000_c1s1_000151_01.jpg", "0001_c2s1_000301_00.jpg"],
    }
    for folder, files in names.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "Thumbs.db").write_bytes(b"no image")
        for i, name in enumerate(files):
            (root / folder / name).write_bytes(picture(i))
    return root


@pytest.fixture
def small_market(monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_catalogue()
    small = replace(known["market"], counts={"train": (1, 2, 2), "query": (1,), "gallery": (2, 2)})
    monkeypatch.setattr(module, "load_catalogue", lambda: known | {"market": small})


def test_own_crops_from_folder_to_index(tmp_path: Path) -> None:
    root, data = crops(tmp_path / "crops"), tmp_path / "data"
    calls: list[tuple[str, int, int]] = []
    made = prepare("mine", data=data, source=root, report=lambda *call: calls.append(call))
    assert calls == [("check mine", 12, 12)]
    assert (made.already, made.root, made.name, made.index) == (False, root, "mine", data / "mine" / "index.csv")
    assert made.example.splitlines() == [
        "p0/c1_0.jpg is person p0, camera 1 (query)",
        "p1/c2_1.jpg is person p1, camera 2 (gallery)",
        "p2/c1_0.jpg is person p2, camera 1 (query)",
    ]
    assert (made.people, made.cameras) == ({"1": "p0", "2": "p1", "3": "p2"}, {})
    assert [made.person(2), made.camera(2)] == ["p1", "2"]
    assert made.counts == {
        "query": {"identities": 3, "images": 6, "cameras": 2, "unmatched": 0},
        "gallery": {"identities": 3, "images": 6, "cameras": 2, "distractors": 0},
        "all": {"images": 12, "junk": 0, "splits": 1},
    }
    assert str(made) == "6 queries of 3 people, 6 gallery images of 3 people"
    index = load_index(made)
    assert index.columns.tolist() == ["split", "part", "path", "pid", "camid", "sha256"]
    assert index.equals(index.sort_values(["split", "part", "path"]))
    for row in index.itertuples():
        assert row.sha256 == hashlib.sha256((root / str(row.path)).read_bytes()).hexdigest()[:16]
    assert made.digest == hashlib.sha256(made.index.read_bytes()).hexdigest()
    assert load_prepared("mine", data) == made
    assert prepared_names(data) == ["mine"]
    assert sorted(path.name for path in made.folder.iterdir() if path.name != ".claim") == [
        "index.csv",
        "manifest.json",
    ]


def test_again_is_at_once_until_something_changes(tmp_path: Path) -> None:
    root, data = crops(tmp_path / "crops"), tmp_path / "data"
    first = prepare("mine", data=data, source=root)
    assert prepare("mine", data=data).already  # the manifest knows the folder
    assert not prepare("mine", data=data, source=root).already  # who names a folder wants it read
    (root / "p0" / "c1_9.jpg").write_bytes(picture())
    assert prepare("mine", data=data).counts["all"]["images"] == 13
    (root / "p0" / "c1_9.jpg").unlink()
    back = prepare("mine", data=data)
    assert not back.already and back.digest == first.digest
    changed = prepare("mine", data=data, source=root, pattern=r"(?P<pid>p\d)/c\d_(?P<camid>\d)\.jpg")
    assert not changed.already and changed.digest != first.digest
    assert changed.again.endswith(r"--pattern '(?P<pid>p\d)/c\d_(?P<camid>\d)\.jpg'")
    changed.index.unlink()
    assert prepare("mine", data=data, source=root).digest == changed.digest  # the pattern is remembered
    other = Path(shutil.copytree(root, tmp_path / "other"))
    moved = prepare("mine", data=data, source=other)
    assert not moved.already and moved.digest == first.digest  # the digest does not know where images lie
    shutil.rmtree(other)
    assert load_prepared("mine", data).root == other
    with pytest.raises(DataError, match="there is no file or folder"):
        prepare("mine", data=data)
    assert not prepare("mine", data=data, source=root).already


@pytest.mark.usefixtures("small_market")
def test_market_counts_are_compared(tmp_path: Path) -> None:
    root, data = market(tmp_path / "m"), tmp_path / "data"
    made = prepare("market", data=data, source=tmp_path)
    assert made.root == root
    assert made.counts["all"] == {"images": 5, "junk": 1, "splits": 1}
    assert made.counts["gallery"]["distractors"] == 1
    assert str(made).endswith("2 gallery images of 2 people (1 distractors, 1 junk)")
    (root / "bounding_box_train" / "0002_c1s1_000451_03.jpg").unlink()
    shutil.rmtree(data)
    sentence = (
        f"market: {root} is not the whole set or another version of it: 1 train person, 1 image, 1 camera (expected 1 person, "
        f"2 images, 2 cameras); get it again, then run: reidgen prepare market --from {root} (or add --accept-counts)"
    )
    with pytest.raises(DataError) as caught:
        prepare("market", data=data, source=root)
    assert str(caught.value) == sentence
    assert prepared_names(data) == []
    accepted = prepare("market", data=data, source=root, accept_counts=True)
    assert accepted.accepted == "1 train person, 1 image, 1 camera (expected 1 person, 2 images, 2 cameras)"
    assert str(accepted).endswith(f"; accepted: {accepted.accepted}") and accepted.again.endswith(" --accept-counts")
    assert accepted.digest != made.digest
    assert prepare("market", data=data).already


def _cut_viper(root: Path) -> None:
    for path in sorted(root.glob("cam_?/*.bmp")):
        if int(path.name[:3]) in layouts.viper_people()[432:]:
            path.unlink()


# What is taken away leaves every drawn half its size: only the whole tells.
CUT = {
    "viper": (_cut_viper, "432 people, 864 images in all (expected 632 people, 1,264 images)"),
    "ilids": (
        lambda root: next(root.rglob("0001004.jpg")).unlink(),
        "119 people, 475 images in all (expected 119 people, 476 images)",
    ),
    "cuhk01": (
        lambda root: [one.unlink() for one in root.rglob("0971*.png")],
        "970 people, 3,880 images in all (expected 971 people, 3,884 images)",
    ),
    "prid": (
        lambda root: (root / "single_shot" / "cam_a" / "person_0200.png").unlink(),
        "749 people, 948 images in all (expected 749 people, 949 images)",
    ),
    "grid": (
        lambda root: next(root.glob("gallery/0250_*")).unlink(),
        "251 people, 1,274 images in all (expected 251 people, 1,275 images)",
    ),
}


@pytest.mark.parametrize("name", CUT)
def test_an_incomplete_small_set_is_not_taken_for_whole(name: str, tmp_path: Path) -> None:
    root, data = layouts.build(name, tmp_path), tmp_path / "data"
    cut, sentence = CUT[name]
    cut(root)
    result = CliRunner().invoke(app, ["prepare", name, "--from", str(root), "--data", str(data)])
    text = result.output
    assert (
        result.exit_code == 1
        and text.startswith("error: ")
        and "\nerror" not in text
        and sentence in " ".join(text.split())
    )
    assert prepared_names(data) == []


def test_images_outside_every_split_are_decoded_and_checked(tmp_path: Path) -> None:
    root, data = layouts.build("ilids", tmp_path), tmp_path / "data"
    made = prepare("ilids", data=data, source=root)
    shown = set(load_index(made)["path"])
    paths = {path.relative_to(root).as_posix() for path in root.rglob("*.jpg")}
    assert len(paths) == 476 and paths - shown == set(made.outside) != set()
    assert made.bytes == sum((root / path).stat().st_size for path in paths)
    odd = root / min(made.outside)
    facts, content = odd.stat(), odd.read_bytes()
    assert made.outside[min(made.outside)] == hashlib.sha256(content).hexdigest()[:16]
    odd.write_bytes(bytes(len(content)))
    with pytest.raises(DataError, match=f"ilids: 1 image of 476 changed, such as {min(made.outside)},"):
        check("ilids", data)
    os.utime(odd, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    check("ilids", data)
    with pytest.raises(DataError, match=f"1 image of 476 changed, such as {min(made.outside)},"):
        check("ilids", data, deep=True)
    with pytest.raises(DataError, match=rf"1 of 476 images in .* cannot be decoded: {min(made.outside)} \("):
        prepare("ilids", data=data, source=root)


@pytest.mark.parametrize(
    ("mode", "format", "options"),
    [
        ("L", "PNG", {}), ("1", "PNG", {}), ("LA", "PNG", {}), ("RGBA", "PNG", {}), ("P", "PNG", {}),
        ("P", "PNG", {"transparency": b"\x00\x80\xff"}), ("P", "GIF", {}), ("CMYK", "JPEG", {}), ("L", "JPEG", {}),
        ("RGB", "BMP", {}), ("RGB", "WEBP", {}), ("RGB", "TIFF", {}),
    ],
)  # fmt: skip
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str, format: str, options: dict[str, object]) -> None:
    content = picture(mode=mode, format=format, **options)
    (tmp_path / "x.png").write_bytes(content)  # what counts is the content, not the suffix
    image, digest = decode(tmp_path / "x.png")
    assert (image.mode, image.size, digest) == ("RGB", (8, 16), hashlib.sha256(content).hexdigest()[:16])


def deep() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((16, 8), 30_000, dtype=np.int32)).save(out, "TIFF")
    return out.getvalue()


BROKEN = {
    "zero bytes": (b"", "is empty"),
    "truncated JPEG": (picture()[:-40], "truncated"),
    "header only": (picture()[:30], ""),
    "truncated PNG": (picture(format="PNG")[:200], ""),
    "PNG with a wrong checksum": (picture(format="PNG")[:-20] + bytes(20), ""),
    "a page": (b"<html>quota exceeded</html>", "cannot identify image file"),
    "32 bits": (deep(), "save it as 8-bit RGB"),
    "a bomb": (picture(format="BMP")[:18] + b"\xff\xff\x00\x00" * 2 + picture(format="BMP")[26:], "exceeds limit"),
    "a zip": (b"PK\x03\x04" + bytes(100), "cannot identify image file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named(tmp_path: Path, kind: str) -> None:
    root, data = crops(tmp_path / "crops"), tmp_path / "data"
    content, reason = BROKEN[kind]
    (root / "p1" / "c1_0.jpg").write_bytes(content)
    with pytest.raises(
        DataError, match=r"mine: 1 of 12 images in .* cannot be decoded: p1/c1_0.jpg \(.*" + reason
    ) as caught:
        prepare("mine", data=data, source=root)
    assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)
    assert prepared_names(data) == []
    (root / "p1" / "c1_0.jpg").write_bytes(picture())
    assert not prepare("mine", data=data, source=root).already


def test_many_broken_images_are_counted(tmp_path: Path) -> None:
    root = crops(tmp_path / "crops")
    for path in sorted(root.rglob("*.jpg"))[:5]:
        path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"5 of 12 .* p0/c1_0.jpg \(is empty\), .*p0/c2_0.jpg \(is empty\), \.\.\.; replace"
    ):
        prepare("mine", data=tmp_path / "data", source=root)


def test_what_is_asked_for_wrongly(tmp_path: Path) -> None:
    data, root = tmp_path / "data", crops(tmp_path / "crops")
    for name, source, pattern, sentence in [
        ("markt", None, None, "unknown data set 'markt'; did you mean 'market'.* for your own crops run"),
        ("prid", None, None, "prid needs its images: get .*, then run: reidgen prepare prid --from ARCHIVE_OR_FOLDER"),
        ("market", root, "x", "market has its pattern in the catalogue; leave out --pattern"),
        ("market", root, None, "lacks bounding_box_train"),
        ("synth-plaza", root, None, "synth-plaza is drawn, not read from a folder; leave out --from"),
        ("mine", root, "(?P<pid>x", "--pattern for mine: .* is no regular expression"),
        ("mine", root, "(?P<pid>x)", "--pattern for mine: .* lacks the group .*camid"),
        ("my cams", root, None, "^the name 'my cams' cannot name a data set"),
        ("mine", root, "x", "lacks the group"),
        ("mine", None, "x", "--pattern for mine needs the folder too: reidgen prepare mine --from DIR"),
        ("mine", root / "none", None, "there is no file or folder"),
    ]:
        with pytest.raises(DataError, match=sentence):
            prepare(name, data=data, source=source, pattern=pattern)
    assert not data.exists()  # a question that fails leaves nothing
    for name, sentence in [
        ("synth-plaza", "synth-plaza is not prepared in .*data; run: reidgen prepare synth-plaza$"),
        ("market", "market is not prepared in .*; run: reidgen prepare market$"),
        ("mine", "unknown data set 'mine'"),
        ("", r"an empty name is no data set; .* \(market\+duke\), several targets by one comma$"),
    ]:
        with pytest.raises(DataError, match=sentence):
            load_prepared(name, data)


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", "{}", '{"entry": {"pattern": 3}}', {"counts": []}, {"counts": {"all": {}}}, {"seed": "0"}, {"root": 3}],
)
def test_a_damaged_manifest(tmp_path: Path, damage: str | dict[str, object]) -> None:
    root, data = crops(tmp_path / "crops"), tmp_path / "data"
    prepare("mine", data=data, source=root)
    file = data / "mine" / "manifest.json"
    file.write_text(damage if isinstance(damage, str) else json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(DataError, match=r"damaged .*; prepare the set again"):
        load_prepared("mine", data)
    assert not prepare("mine", data=data, source=root).already
    assert load_prepared("mine", data)


def test_an_index_that_the_manifest_does_not_name(tmp_path: Path) -> None:
    root, data = crops(tmp_path / "crops"), tmp_path / "data"
    made = prepare("mine", data=data, source=root)
    made.index.write_text(made.index.read_text().replace("p0/", "p1/"))
    with pytest.raises(
        DataError, match=f"is not the one that manifest.json names; run: reidgen prepare mine --from {root}"
    ):
        load_prepared("mine", data)
    made.index.unlink()
    with pytest.raises(DataError, match="prepare the set again"):
        load_prepared("mine", data)
    assert prepare("mine", data=data, source=root).digest == made.digest


def test_a_kill_between_the_files_leaves_nothing_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, data = crops(tmp_path / "crops"), tmp_path / "data"

    def killed(folder: Path, manifest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare("mine", data=data, source=root)
    assert prepared_names(data) == []
    monkeypatch.undo()
    assert not prepare("mine", data=data, source=root).already


def test_a_built_in_set_is_drawn_once_per_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDENTITIES", (1, 1))
    seconds, calls = tmp_path / "synth-plaza" / "images.part", []
    seconds.mkdir(parents=True)
    (seconds / "leftover.jpg").touch()  # of a killed call
    made = prepare("synth-plaza", data=tmp_path, report=lambda *call: calls.append(call))
    draws = [(done, total) for what, done, total in calls if what == "draw synth-plaza"]
    assert draws[-1] == (17, 17)
    assert not seconds.exists()
    assert made.root == tmp_path / "synth-plaza" / "images"
    assert json.loads((tmp_path / "synth-plaza" / "manifest.json").read_text())["root"] == "images"  # data may move
    assert {part: made.counts[part]["images"] for part in ("train", "query", "gallery")} == {
        "train": 8, "query": 4, "gallery": 5,
    }  # fmt: skip
    assert prepare("synth-plaza", data=tmp_path).already
    next((made.root / "query").iterdir()).unlink()
    assert prepare("synth-plaza", data=tmp_path).digest == made.digest
    shutil.rmtree(made.root / "query")
    assert not prepare("synth-plaza", data=tmp_path).already
    other = prepare("synth-plaza", data=tmp_path, seed=1)
    assert not other.already and other.digest != made.digest
    monkeypatch.setattr(module, "__version__", "99")  # another version may draw otherwise
    assert prepare("synth-plaza", data=tmp_path, seed=1).digest == other.digest
    assert load_prepared("synth-plaza", tmp_path).version == "99"
    tmp_path.rename(tmp_path.with_name("moved"))
    assert prepare("synth-plaza", data=tmp_path.with_name("moved"), seed=1).already


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot use .*data"):
        prepare("mine", data=tmp_path / "data", source=crops(tmp_path / "crops"))


def test_odd_folders_beside_the_sets(tmp_path: Path) -> None:
    for name in ("My Old", "synth", "empty", ".git"):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "manifest.json").write_text("{}")
    assert prepared_names(tmp_path) == []


def test_a_path_that_cannot_be_written_down(tmp_path: Path) -> None:
    root = tmp_path / "cr\udcffps"
    try:
        crops(root)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    with pytest.raises(DataError, match="is not valid UTF-8; rename the folder"):
        prepare("mine", data=tmp_path / "data", source=root)


def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{i}" for i in range(40)]
    monkeypatch.setattr(images_module, "WINDOW", 16)
    one = list(windows(str.upper, paths, what="x"))
    monkeypatch.setattr(images_module, "MANY", 10)
    calls: list[tuple[str, int, int]] = []
    assert list(windows(str.upper, paths, what="x", report=lambda *call: calls.append(call))) == one
    assert calls == [("x", 16, 40), ("x", 32, 40), ("x", 40, 40)]


def test_a_name_near_a_shipped_one_is_a_name_like_others(tmp_path: Path) -> None:
    assert prepare("market2", data=tmp_path / "data", source=crops(tmp_path / "crops")).name == "market2"


def test_a_manifest_of_an_older_version_still_loads(tmp_path: Path) -> None:
    root, data = crops(tmp_path / "crops"), tmp_path / "data"
    made = prepare("mine", data=data, source=root)
    file = data / "mine" / "manifest.json"
    old = {
        key: value
        for key, value in json.loads(file.read_text()).items()
        if key not in ("stamp", "bytes", "accepted", "check")
    }
    file.write_text(json.dumps(old | {"entry": {"pattern": made.dataset.pattern, "folders": {"test": "."}}}))
    assert load_prepared("mine", data).digest == made.digest
    assert prepare("mine", data=data).already and load_prepared("mine", data).stamp == made.stamp


def test_own_crops_in_an_archive(tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "crops"), "zip", crops(tmp_path / "crops"))
    made = prepare("mine", data=tmp_path / "data", source=tmp_path / "crops.zip")
    assert made.counts["all"]["images"] == 12 and made.root.parent == (tmp_path / "data" / "unpacked").resolve()
    assert prepare("mine", data=tmp_path / "data").already


def test_own_crops_in_several_zips_of_one_download(tmp_path: Path) -> None:
    root = crops(tmp_path / "in", people=4)
    for number in (1, 2):
        people = sorted(root.iterdir())[2 * number - 2 : 2 * number]
        files = {f"{one.name}/{file.name}": file.read_bytes() for one in people for file in one.iterdir()}
        layouts.pack(files, tmp_path / f"crops-{number:03d}.zip")
    prepared = prepare("mine", data=tmp_path / "data", source=tmp_path / "crops-001.zip")
    assert prepared.counts["all"]["images"] == 16


def test_notes_say_what_may_be_done_with_a_set(tmp_path: Path) -> None:
    duke = prepare("duke", data=tmp_path / "data", source=layouts.build("duke", tmp_path), accept_counts=True)
    assert duke.notes == [
        "Duke University withdrew it in 2019, as the people filmed on its campus had not consented",
        "terms: CC BY-NC-SA 4.0; withdrawn; pass no image on unless these allow it",
    ]
    mine = prepare("mine", data=tmp_path / "data", source=crops(tmp_path / "crops"))
    assert mine.notes == mine.example.splitlines() and len(mine.notes) == 3


def test_words_of_the_catalogue_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, root = load_catalogue(), layouts.build("duke", tmp_path)
    prepare("duke", data=tmp_path / "data", source=root, accept_counts=True)
    monkeypatch.setattr(module, "load_catalogue", lambda: {"duke": replace(known["duke"], get="x", archives=())})
    assert prepare("duke", data=tmp_path / "data").already
    monkeypatch.setattr(module, "load_catalogue", lambda: {"duke": replace(known["duke"], junk=(1,))})
    assert not prepare("duke", data=tmp_path / "data", accept_counts=True).already
