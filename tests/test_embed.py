"""Crops through a network into a feature file: the same embedding everywhere, streamed, resumed, broken images said."""

import contextlib
import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, finish, quiet
from extractors import Means
from PIL import Image
from test_models import CHANNELS, every_pair, networks
from test_prepare import crops, picture
from test_show import a_run
from typer.testing import CliRunner

import reidgen
from reidgen import evaluation, extractor, locks
from reidgen.cli import app
from reidgen.data import images
from reidgen.data.collection import collect
from reidgen.data.manifest import Prepared, load_prepared
from reidgen.data.prepare import prepare
from reidgen.errors import BusyError, DataError, RecipeError, ReidgenError
from reidgen.extractor import Extractor
from reidgen.features import store
from reidgen.features.store import open_features
from reidgen.features.stream import Made, embed_images
from reidgen.locks import hold
from reidgen.methods import METHODS
from reidgen.models import backbones, osnet
from reidgen.models.network import build_network
from reidgen.runs import Run, run_of

ROOT = Path(__file__).parents[1]


def embedded(
    folder: Path, out: Path, model: Means | Extractor, pattern: str | None = None, said: list[str] | None = None
) -> Made:
    say = [] if said is None else said
    return embed_images(model, collect(folder, pattern), out, said=str(folder), say=say.append, report=quiet)


def vectors(file: Path) -> np.ndarray:
    return np.concatenate([block for _, block in open_features(file).blocks()])


# The same embedding, wherever it is made


OFTEN = {(method, name) for name in CHANNELS for method in (METHODS if name == "tiny" else networks())}


@pytest.fixture(scope="module")
def tested(small_data: Path) -> tuple[Prepared, pd.DataFrame, list[Path]]:
    """Return a target, three of its tested images as rows, and their paths."""
    prepared = load_prepared("synth-night", small_data)
    rows = evaluation.tested_part(prepared).drop_duplicates("path").sort_values("path").iloc[:3]
    return prepared, rows, [prepared.root / path for path in rows["path"]]


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize(("method", "backbone"), every_pair(OFTEN))
def test_evaluate_embed_and_load_give_the_same_embedding(
    method: str,
    backbone: str,
    tested: tuple[Prepared, pd.DataFrame, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (
        method,
        backbone,
    ) in OFTEN:  # with all blocks, `-m every`; here a stage has one, and a block of OSNet one stream
        for resnet in (backbones.ResNet50, backbones.ResNet18):
            monkeypatch.setattr(resnet, "layers", [1, 1, 1, 1])
        monkeypatch.setattr(osnet, "STREAMS", (1,))
    torch.manual_seed(0)
    recipe = SMALL.change(method=method, backbone=backbone, height=32, width=16)
    network = build_network(METHODS[method], backbone, classes=6, size=recipe.size).eval()
    monkeypatch.setattr(extractor, "load_network", lambda run, device: network)  # its weights are another test's
    run = run_of(recipe, results=tmp_path, digest="00000000")
    run.folder.mkdir(parents=True)
    run.recipe_file.write_text(recipe.to_toml())
    run.row_file.write_text(json.dumps(recipe.row_facts()))
    run.weights.write_bytes(b"")
    finish(run)
    prepared, rows, paths = tested
    _, wanted = evaluation.embed_tested(network, prepared, rows, recipe=recipe, report=quiet)
    model = reidgen.load(run, device="cpu")
    np.testing.assert_allclose(model.embed(paths), wanted.numpy(), atol=1e-5)
    table = tmp_path / "some.csv"
    table.write_text("".join(f"{path}\n" for path in paths))
    embedded(table, tmp_path / "some.npz", model)
    features = open_features(tmp_path / "some.npz")
    assert [table.parent / path == here or (table.parent / path).samefile(here)
            for path, here in zip(features.rows["path"], paths, strict=True)] == [True] * 3  # fmt: skip
    np.testing.assert_allclose(features.take(np.arange(3)), wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(wanted.numpy(), axis=1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return a_run(tmp_path_factory.mktemp("results"), "snr")


def test_flip_embeds_the_mean_of_both_views_and_a_step_of_a_whole_target_is_refused(run: Run, tmp_path: Path) -> None:
    image = Image.open(io.BytesIO(picture(1)))
    plain, both = reidgen.load(run, device="cpu"), reidgen.load(run, device="cpu", test="flip")
    network, size = plain.network, (plain.recipe.width, plain.recipe.height)
    pixels = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BILINEAR))).permute(2, 0, 1)[None] / 255
    mean, deviation = (torch.tensor(three).view(3, 1, 1) for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        view = (pixels - mean) / deviation
        found = network.describe(view) + network.describe(view.flip(3))
    wanted = torch.nn.functional.normalize(found, dim=1).numpy()
    np.testing.assert_allclose(both.embed([image]), wanted, atol=1e-5)
    assert both.info["test"] == "flip" and both.info["digest"] != plain.info["digest"]
    assert reidgen.load(run, device="cpu").info["digest"] == plain.info["digest"] and len(plain.info["digest"]) == 64
    for word, message in (("centre", "centre needs a whole target"), ("plain,flip", "names 2 tests")):
        with pytest.raises(RecipeError, match=message):
            reidgen.load(run, device="cpu", test=word)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 2, 3)), r"got float64 .*: give \(255 \* image\)"),
        (np.zeros((3, 8, 4), np.uint8), r"channels come last, give image.transpose\(1, 2, 0\)"),
        (np.zeros((3, 8, 4), np.float32), r"astype\('uint8'\) of one in 0..1, and channels come last"),
        (np.zeros((4, 2), np.uint8), r"of a grey one give np.stack\(\[image\] \* 3"),
        (np.zeros((4, 2, 4), np.uint8), r"with alpha give Image.fromarray"),
        (np.zeros((4, 2, 3), np.int64), r"must be uint8 \(H, W, 3\) in R, G, B; got int64"),
        (np.zeros((0, 2, 3), np.uint8), r"got uint8 \(0, 2, 3\)"),
    ],
)  # fmt: skip
def test_an_array_that_is_no_image_is_refused_with_its_cure(run: Run, image: np.ndarray, message: str) -> None:
    model = reidgen.load(run, device="cpu")
    with pytest.raises(DataError, match=message):
        model.embed([image])


def test_one_image_without_a_list_is_refused_and_a_generator_is_read_a_batch_at_a_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = reidgen.load(run, device="cpu")
    array = np.full((8, 4, 3), 90, np.uint8)
    for single in ("a.jpg", Path("a.jpg"), Image.fromarray(array), array):
        with pytest.raises(DataError, match=r"give a list, also of one: embed\(\[image\]\)"):
            model.embed(single)  # type: ignore[arg-type]
    monkeypatch.setattr(extractor, "BATCH", 2)
    arrays = [np.full((8, 4, 3), value, np.uint8) for value in range(0, 250, 50)]
    np.testing.assert_allclose(model.embed(iter(arrays)), model.embed(np.stack(arrays)), atol=1e-6)
    assert model.embed(iter([])).shape == (0, model.dim)


def test_an_opened_picture_is_what_its_file_is(run: Run, tmp_path: Path) -> None:
    """Grey, transparent, of 16 bits, turned by EXIF, tiny: as `evaluate` decodes them."""
    model, kept = reidgen.load(run, device="cpu"), odd_crops(tmp_path)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(Image.open(path)) for path in kept]
        np.testing.assert_allclose(model.embed(opened), model.embed(kept), atol=1e-6)


def odd_crops(folder: Path) -> list[Path]:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray((np.arange(128, dtype=np.uint16) * 500).reshape(16, 8))
    content = {
        "a grey.png": picture(1, "L", "PNG"),
        "alpha.png": picture(2, "RGBA", "PNG"),
        "palette.gif": picture(3, "P", "GIF"),
        "turned.jpg": picture(4, exif=exif),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in content.items():
        (folder / name).write_bytes(made)
    wide.save(folder / "wide.png")
    Image.new("RGB", (1, 1), "red").save(folder / "tiny.bmp")
    Image.new("LA", (3, 5), (9, 100)).save(folder / "ä,b\n.webp", lossless=True)
    return sorted(folder.iterdir())


# The file


@pytest.mark.parametrize("ending", store.SUFFIXES)
def test_each_row_is_what_a_loop_over_the_images_gives(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "WINDOW", 4)
    monkeypatch.setattr("reidgen.features.stream.BLOCK", 3)
    monkeypatch.setattr(store, "BLOCK", 3)
    odd_crops(tmp_path / "in" / "below")
    crops(tmp_path / "in", people=2)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / ".hidden.jpg").write_bytes(picture(9))
    model, out = Means(), tmp_path / f"features{ending}"
    made = embedded(tmp_path / "in", out, model)
    paths = sorted(
        str(path.relative_to(tmp_path / "in"))
        for path in (tmp_path / "in").rglob("*")
        if path.suffix not in ("", ".txt") and path.name[0] != "."
    )
    features, wanted = open_features(out), []
    assert made.images == made.new == len(features) == len(paths) == 15 and max(model.calls) <= 4
    assert features.rows["path"].tolist() == paths and features.dim == 12
    for row, path in zip(features.rows.to_dict("records"), paths, strict=True):
        image, _ = images.decode(tmp_path / "in" / path)
        wanted.append(Means().embed([image.resize((8, 16), Image.Resampling.BILINEAR)])[0])
        assert (row["width"], row["height"]) == image.size
        assert row["sha256"] == hashlib.sha256((tmp_path / "in" / path).read_bytes()).hexdigest()[:16]
    np.testing.assert_array_equal(vectors(out), wanted)
    np.testing.assert_array_equal(features.take(np.array([14, 0, 0, 7])), np.array(wanted)[[14, 0, 0, 7]])
    facts = {"name": "synth/means", "test": "plain", "height": 16, "width": 8, "dim": 12, "rows": 15, "broken": 0}
    assert features.info.items() >= {**facts, "digest": "ab" * 32, "images": str(tmp_path / "in")}.items()
    assert features.info["embedded_by"] == reidgen.__version__
    assert [path.name for path in sorted(tmp_path.iterdir())] == [out.name, "in"]


def test_parquet_and_npz_are_equal_and_others_can_read_them(tmp_path: Path) -> None:
    crops(tmp_path / "in", people=2)
    for ending in store.SUFFIXES:
        embedded(tmp_path / "in", tmp_path / f"f{ending}", Means())
    parquet, zipped = (open_features(tmp_path / f"f{ending}") for ending in store.SUFFIXES)
    pd.testing.assert_frame_equal(parquet.rows, zipped.rows)
    assert parquet.info == zipped.info and set(parquet.rows["camera"]) == {"1", "2"}
    table = pd.read_parquet(tmp_path / "f.parquet")
    assert list(table) == ["path", "embedding", "sha256", "run", "width", "height", "camera", "track", "person"]
    assert table["track"].isna().all() and set(table["run"]) == {"ab" * 8}
    with np.load(tmp_path / "f.npz") as held:
        assert held["path"].tolist() == table["path"].tolist() and set(held["run"]) == {"ab" * 8}
        np.testing.assert_array_equal(held["embedding"], np.stack(table["embedding"].to_list()))
        assert held["embedding"].dtype == np.float32 and json.loads(str(held["info"]))["rows"] == 8


@pytest.mark.parametrize("ending", store.SUFFIXES)
def test_a_damaged_file_is_said_and_never_built_upon(ending: str, tmp_path: Path) -> None:
    crops(tmp_path / "in")
    out = tmp_path / f"features{ending}"
    embedded(tmp_path / "in", out, Means())
    content = bytearray(out.read_bytes())
    content[content.find(vectors(out)[5].tobytes()) + 2] ^= 1
    out.write_bytes(content)
    with pytest.raises(DataError, match="is damaged or no feature file"):
        open_features(out).check()
    with pytest.raises(DataError, match="remove it and run reidgen embed again"):
        embedded(tmp_path / "in", out, Means())
    for broken in (b"", b"PK", bytes(content[:300])):
        out.write_bytes(broken)
        with pytest.raises(DataError, match="is damaged or no feature file"):
            open_features(out)
    out.unlink()
    with pytest.raises(DataError, match="make it with: reidgen embed RUN"):
        open_features(out)


# Going on

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
from extractors import Means
from reidgen.data import images
from reidgen.data.collection import collect
from reidgen.features.stream import embed_images
images.WINDOW = 4
class Killed(Means):
    def embed(self, some):
        if len(self.calls) == 2 and "torch" not in sys.modules:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(some)
folder, out = map(Path, sys.argv[1:])
embed_images(Killed(), collect(folder), out, said=str(folder), say=print, report=lambda *_: None)
"""


def test_killed_in_the_middle_the_same_command_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "WINDOW", 4)
    folder, out = crops(tmp_path / "in", people=4), tmp_path / "out" / "f.npz"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(out)], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL and not out.exists()
    assert len(list((out.parent / ".f.npz.parts").glob("*.npz"))) == 2
    (out.parent / ".f.npz.0123.part").write_bytes(b"what a kill leaves while the file is written")
    model = Means()
    made = embedded(folder, out, model)
    assert (made.images, made.new, model.calls) == (16, 8, [4, 4])
    embedded(folder, tmp_path / "whole.npz", Means())
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["f.npz"]


def test_only_what_is_new_or_changed_is_embedded_and_a_renamed_image_is_neither(tmp_path: Path) -> None:
    folder, out = crops(tmp_path / "in"), tmp_path / "f.parquet"
    embedded(folder, out, Means())
    before = out.stat().st_mtime_ns
    model = Means()
    assert embedded(folder, out, model).new == 0 and model.calls == [] and out.stat().st_mtime_ns == before
    (folder / "p0" / "c1_9.jpg").write_bytes(picture(77))
    (folder / "p1" / "c1_0.jpg").write_bytes(picture(78))
    (folder / "p2" / "c1_0.jpg").rename(folder / "p2" / "c2_7.jpg")
    (folder / "p2" / "c1_1.jpg").unlink()
    made = embedded(folder, out, model)
    assert (made.images, made.new, model.calls) == (12, 2, [2])
    embedded(folder, tmp_path / "anew.parquet", Means())
    assert out.read_bytes() == (tmp_path / "anew.parquet").read_bytes()
    embedded(folder, out, Means(), pattern="(?P<pid>[^/]+)/.*")  # what is known of the crops alone has changed
    assert set(open_features(out).rows["person"]) == {"p0", "p1", "p2"}


def test_embeddings_of_two_networks_are_never_mixed(tmp_path: Path) -> None:
    folder, out, said = crops(tmp_path / "in"), tmp_path / "f.npz", list[str]()
    embedded(folder, out, Means())
    parts = tmp_path / ".f.npz.parts"
    parts.mkdir()
    (parts / "000000-left.npz").write_bytes(out.read_bytes())  # an interrupted call of the first network
    (parts / "000001-torn.npz").write_bytes(out.read_bytes()[:500])
    other, kept = Means(digest="cd" * 32), out.read_bytes()
    refused = r"f.npz holds embeddings of another network, synth/means; give another --out, or remove it"
    with pytest.raises(DataError, match=refused):
        embedded(folder, out, other, said=said)
    assert out.read_bytes() == kept and not other.calls
    out.unlink()
    assert embedded(folder, out, other, said=said).new == 12 and other.calls == [12]
    assert open_features(out).info["digest"] == "cd" * 32 and not parts.exists()
    assert not said


def test_a_file_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    folder, out = crops(tmp_path / "in"), tmp_path / "f.npz"
    with hold(tmp_path / ".f.npz.parts"), pytest.raises(BusyError, match=f"process {os.getpid()}"):
        embedded(folder, out, Means())
    assert not out.exists() and embedded(folder, out, Means()).new == 12
    assert not (tmp_path / ".f.npz.parts").exists()


def test_the_claim_stays_until_the_hold_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another process could hold it too, and numbers begin anew beside one that looks."""
    parts, ended = tmp_path / ".f.npz.parts", list[list[str]]()
    real = locks.Claim.end

    def end(claim: locks.Claim) -> None:
        ended.append([one.name for one in (parts / locks.CLAIM).iterdir()])
        real(claim)

    monkeypatch.setattr(locks.Claim, "end", end)
    embedded(crops(tmp_path / "in"), tmp_path / "f.npz", Means())
    assert ended == [["1"]] and not parts.exists()


def test_broken_images_are_named_and_listed_and_mended_ones_come_in(tmp_path: Path) -> None:
    folder, out = crops(tmp_path / "in", people=2), tmp_path / "f.npz"
    (folder / "=x.jpg").write_bytes(b"")
    (folder / "p0" / "torn.jpg").write_bytes(picture(5)[:200])
    (folder / "p0" / "lost.jpg").symlink_to(tmp_path / "nowhere")
    made = embedded(folder, out, Means())
    assert made.images == 8 and list(made.broken) == ["=x.jpg", "p0/lost.jpg", "p0/torn.jpg"]
    assert made.listed == tmp_path / "f.broken.csv"
    listed = list(csv.reader(made.listed.read_text().splitlines()))
    assert listed[:3] == [["path", "what"], ["'=x.jpg", "is empty"], ["p0/lost.jpg", "is not there"]]
    assert open_features(out).info["broken"] == 3
    for name in made.broken:
        (folder / name).unlink()
    (folder / "p0" / "torn.jpg").write_bytes(picture(5))
    made = embedded(folder, out, Means())
    assert (made.images, made.new, made.listed) == (9, 1, None) and not (tmp_path / "f.broken.csv").exists()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 images can be read, such as a.jpg: is empty"):
        embedded(tmp_path / "bad", tmp_path / "bad.npz", Means())
    assert not list(tmp_path.glob(".bad*"))


def test_images_with_the_same_bytes_are_embedded_once_and_counted(tmp_path: Path) -> None:
    folder = crops(tmp_path / "in", people=2)
    for name in ("p1/c2_0.jpg", "p1/c2_1.jpg", "p0/z.jpg"):
        (folder / name).write_bytes((folder / "p0" / "c1_1.jpg").read_bytes())
    model = Means()
    made = embedded(folder, tmp_path / "f.npz", model)
    assert model.calls == [6] and made.images == 9
    assert made.copies == dict.fromkeys(["p0/z.jpg", "p1/c2_0.jpg", "p1/c2_1.jpg"], "p0/c1_1.jpg")
    found = dict(zip(open_features(tmp_path / "f.npz").rows["path"], vectors(tmp_path / "f.npz").tolist(), strict=True))
    assert found["p0/z.jpg"] == found["p1/c2_0.jpg"] == found["p0/c1_1.jpg"] != found["p0/c1_0.jpg"]


def test_many_images_are_decoded_by_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = crops(tmp_path / "in", people=2)
    embedded(folder, tmp_path / "here.npz", Means())
    monkeypatch.setattr(images, "MANY", 1)
    embedded(folder, tmp_path / "there.npz", Means())
    assert (tmp_path / "here.npz").read_bytes() == (tmp_path / "there.npz").read_bytes()


# The command


def test_the_command_says_what_it_did(run: Run, tmp_path: Path) -> None:
    folder, out = crops(tmp_path / "in", people=2), tmp_path / "f.parquet"
    (folder / "torn.jpg").write_bytes(b"x")
    (folder / "p1" / "copy.jpg").write_bytes((folder / "p0" / "c1_0.jpg").read_bytes())
    name = f"synth-plaza/{run.folder.name}"
    words = ["embed", str(run.folder), "--images", str(folder), "--out", str(out), "--device", "cpu"]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    lines = first.output.splitlines()
    assert lines[0] == f"{out}: 9 embeddings of 128 numbers by {name}"
    assert lines[1].startswith(f"left out, as they cannot be read: 1 image ({tmp_path / 'f.broken.csv'}): torn.jpg ")
    assert lines[2] == "1 image has the very bytes of another, such as p1/copy.jpg of p0/c1_0.jpg"
    assert lines[3] == "no camera is known; of p0/c1_0.jpg --pattern '(?P<camid>[^/]+)/[^/]+' would read p0"
    assert lines[4] == f"next: reidgen search {out} --query IMAGE"
    (folder / "p1" / "new.jpg").write_bytes(picture(50))
    again = CliRunner().invoke(app, [*words, "--quiet"])
    assert again.output == f"{out}: 10 embeddings of 128 numbers by {name}, 8 of them as they were\n"
    told = json.loads(CliRunner().invoke(app, [*words, "--json", "--quiet"]).output)
    assert (told["images"], told["new"], told["copies"], list(told["broken"])) == (10, 0, 1, ["torn.jpg"])
    info = open_features(out).info
    assert (info["method"], info["recipe"], info["backbone"], info["height"]) == ("snr", "small", "tiny", SMALL.height)
    model = reidgen.load(run, device="cpu")
    np.testing.assert_allclose(
        vectors(out)[:2], model.embed([folder / "p0" / "c1_0.jpg", folder / "p0" / "c1_1.jpg"]), atol=1e-5
    )
    flipped = CliRunner().invoke(app, [*words, "--test", "flip"])
    assert flipped.exit_code == 1 and f"{out} holds embeddings of another network, {name}; give" in flipped.output
    assert (
        CliRunner().invoke(app, [*words[:-3], str(tmp_path / "flip.npz"), *words[-2:], "--test", "flip"]).exit_code == 0
    )
    assert open_features(tmp_path / "flip.npz").info["test"] == "flip" and open_features(out).info["test"] == "plain"


def test_evaluate_counts_the_tested_images_that_have_the_bytes_of_another(tmp_path: Path) -> None:
    folder = crops(tmp_path / "in", images=3)
    for name in ("p0/c1_8.jpg", "p0/c1_9.jpg"):
        (folder / name).write_bytes((folder / "p0" / "c1_1.jpg").read_bytes())
    prepare("mine", data=tmp_path, source=folder)
    own = a_run(tmp_path / "results", "snr")
    words = ["evaluate", str(own.folder), "--target", "mine", "--data", str(tmp_path), "--device", "cpu"]
    said = CliRunner().invoke(app, words).output.splitlines()
    assert (
        said[1]
        == "mine: 2 of 20 images that are tested have the very bytes of another, such as p0/c1_8.jpg of p0/c1_1.jpg"
    )
    assert len(CliRunner().invoke(app, [*words, "--quiet"]).output.splitlines()) == 1


def test_cameras_are_said_and_what_other_images_leave_the_file(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "f.npz"
    words = ["embed", str(run.folder), "--out", str(out), "--device", "cpu", "--images"]
    one, other = crops(tmp_path / "one", people=2), crops(tmp_path / "other" / "yard" / "monday", people=1)
    first = CliRunner().invoke(app, [*words, str(one)]).output.splitlines()
    count = len(list(one.rglob("*.jpg")))
    assert first[1] == "2 cameras: 1, 2" and first[0].startswith(f"{out}: {count} embeddings")
    second = CliRunner().invoke(app, [*words, str(other.parents[1])]).output.splitlines()
    assert second[0] == f"{count} images that {out} held before, of {one}, left out now"
    (other / "p0" / "x.jpg").write_bytes(picture(3))
    third = CliRunner().invoke(app, [*words, str(other.parents[1])]).output.splitlines()
    assert "left out" not in third[0]
    assert third[-2].startswith(
        "no camera is known; of yard/monday/p0/c1_0.jpg --pattern '(?P<camid>[^/]+)/[^/]+' would"
    )
    assert third[-2].endswith("would read p0, --pattern '(?P<camid>[^/]+)/[^/]+/[^/]+' would read monday")
    pattern = "(?P<camid>[^/]+)/[^/]+/[^/]+"
    fourth = CliRunner().invoke(app, [*words, str(other.parents[1]), "--pattern", pattern]).output.splitlines()
    assert "1 camera: monday" in fourth


def test_in_python_what_load_and_embed_return_can_be_given_again(
    run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reidgen.judging.judge.TRIALS", [("blur", 1)])  # of 22: what they measure is others' test
    model = reidgen.load(run, device="cpu")
    asked = {"data": small_data, "results": tmp_path, "device": "cpu", "progress": False}
    rows = [reidgen.evaluate(one, "synth-night", **asked)["mAP"].tolist() for one in (model, run)]
    assert rows[0] == rows[1]
    for runs in (model, [model], run):
        assert reidgen.judge(runs, "synth-night", **asked)["run"].tolist() == [model.info["name"]]
    features = reidgen.embed(model, crops(tmp_path / "in"), tmp_path / "f.npz", progress=False)
    assert reidgen.search(features, tmp_path / "in" / "p0", top=1, progress=False)["distance"].max() < 1e-5
    assert repr(model) == f"Extractor({model.info['name']}: 128 numbers per image)"
    assert repr(features) == f"Features({tmp_path / 'f.npz'}: {len(features)} x 128 by {model.info['name']})"
    with pytest.raises(DataError, match=r"for a list of images: load\(run\).embed\(images\)"):
        reidgen.embed(model, [tmp_path / "a.jpg"], tmp_path / "g.npz")  # type: ignore[arg-type]
    for wrong, says in ((None, "embed takes several images"), ([None], "cv2.imread gives None where it fails")):
        with pytest.raises(DataError, match=says):
            model.embed(wrong)  # type: ignore[arg-type, list-item]
    with pytest.raises(DataError, match=r"nothere\.jpg is not there"):
        model.embed(["nothere.jpg"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "f.csv"], "f.csv must end in .parquet or .npz"),
        (["--out", "f.npz", "--test", "rerank"], "the test step rerank needs a whole target"),
        (["--out", "f.npz", "--test", "plain,flip"], "--test plain,flip names 2 tests"),
        (["--out", "f.npz", "--pattern", "x"], "--pattern 'x' has none of the groups camid, track and pid"),
    ],
)
def test_a_mistake_is_said_before_anything_is_embedded(
    words: list[str], message: str, run: Run, tmp_path: Path
) -> None:
    folder = crops(tmp_path / "in")
    result = CliRunner().invoke(app, ["embed", str(run.folder), "--images", str(folder), "--device", "cpu", *words])
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1
    assert result.output.startswith("error: ") and message in result.output


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ReidgenError, match=r"pip install 'reidgen\[search\]', or give a name that ends in .npz"):
        embedded(crops(tmp_path / "in"), tmp_path / "f.parquet", Means())
    embedded(tmp_path / "in", tmp_path / "f.npz", Means())
