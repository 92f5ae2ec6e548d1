"""The pictures of a run: files, words and numbers, against evaluation; and what cannot be shown."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import SMALL, finish, quiet
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from test_prepare import crops

from reidgen.data.manifest import load_prepared, write_manifest
from reidgen.data.prepare import prepare
from reidgen.errors import DataError, RecipeError, RunError, SharedImagesError
from reidgen.evaluation import evaluate
from reidgen.files import sha256_file
from reidgen.integrity import passes_check
from reidgen.methods import METHODS
from reidgen.models.network import build_network
from reidgen.pictures import drawings, probes, show
from reidgen.pictures.show import KINDS, Picture
from reidgen.pictures.show import show as run_show
from reidgen.runs import Run, run_of

PLOTS = ("tsne", "distances", "gates")


def a_run(results: Path, method: str) -> Run:
    """Return a finished run of a network that nobody trained: enough to be looked at."""
    recipe = SMALL.change(method=method)
    run = run_of(recipe, results=results, digest="00000000")
    torch.manual_seed(0)
    network = build_network(METHODS[method], recipe.backbone, classes=6)
    run.folder.mkdir(parents=True)
    run.recipe_file.write_text(recipe.to_toml())
    run.row_file.write_text(json.dumps(recipe.row_facts()))
    safetensors.torch.save_file(network.state_dict(), run.weights)
    finish(run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return a_run(tmp_path_factory.mktemp("results"), "snr")


def shown(run: Run, kind: str, *targets: str, data: Path) -> list[Path]:
    return run_show(run, kind, targets or ["synth-night"], data=data, device="cpu", report=quiet)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_whole_described_and_repeatable(
    run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name, few in (("PEOPLE", 3), ("SAMPLE", 12), ("MISSES", 2), ("HITS", 1)):
        monkeypatch.setattr(show, name, few)
    if kind == "tsne":
        run = a_run(tmp_path, "baseline")  # five panels instead of 17
    files = shown(run, kind, data=small_data)
    stem = f"{kind}-synth-night"
    endings = [".png", ".svg", ".json"] if kind in PLOTS else [".png", ".json"]
    assert files == [run.folder / "show" / f"{stem}{ending}" for ending in endings]
    about = json.loads(files[-1].read_text())
    assert passes_check(about) and about["digests"] == {file.name: sha256_file(file) for file in files[:-1]}
    assert list(about) == ["title", "alt", "caption", "images", "files", "digests", "command", "date", "check"]
    assert about["files"] == [file.name for file in files[:-1]] and about["images"] == (kind not in PLOTS)
    assert about["command"] == f"reidgen show {kind} synth-plaza/{run.folder.name} --target synth-night"
    assert "synth-night" in about["title"] and re.search(r"\d", about["alt"]) and about["caption"].endswith(".")
    with Image.open(files[0]) as image:
        assert image.format == "PNG" and min(image.size) > 300
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    if kind in PLOTS:
        assert ElementTree.parse(files[1]).getroot().tag.endswith("svg")
    before = [file.read_bytes() for file in files[:-1]]
    shown(run, kind, data=small_data)
    assert [file.read_bytes() for file in files[:-1]] == before
    assert not list((run.folder / "show").glob(".*"))


def captured(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[object, ...]]:
    """Return a list that grows by the arguments of every call of drawings.<name>, which draws nothing then."""
    calls: list[tuple[object, ...]] = []

    def record(*args: object, **_kwargs: object) -> Figure:
        calls.append(args)
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(drawings, name, record)
    return calls


def test_ranked_lists_have_the_numbers_of_evaluation(
    run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = evaluate(run, "synth-night", data=small_data, device="cpu", report=quiet).iloc[0]
    queries = pd.read_csv(run.per_query)
    calls = captured(monkeypatch, "draw_ranks")
    about = json.loads(shown(run, "ranks", data=small_data)[-1].read_text())
    assert f"mAP {100 * row['mAP']:.1f} %, Rank-1 {100 * row['rank1']:.1f} % over 16 queries" in about["alt"]
    rows = calls[0][0]
    assert isinstance(rows, list) and len(rows) > 3
    known = {
        f"person {one.pid}, camera {one.camid}: AP {100 * one.ap:.1f} %, first match at rank {one.first_match}"
        for one in queries.itertuples()
    }
    for one in rows:
        assert isinstance(one, drawings.Row) and one.caption in known
        first = int(one.caption.rpartition(" ")[2])
        assert (one.match is None) == (first <= 10)
        assert one.match[1] == first if one.match else one.right.index(True) + 1 == first
    misses = queries[queries["first_match"] > 1].sort_values("ap", kind="stable").drop_duplicates("pid")[: show.MISSES]
    numbers = [float(one.caption.split("AP ")[1].split(" %")[0]) for one in rows]
    assert numbers[: len(misses)] == pytest.approx((100 * misses["ap"]).tolist(), abs=0.051)


def test_captions_name_people_and_cameras_as_their_user_does(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names with leading zeros, accents, a dollar sign (which would begin a formula) and a tab, shown in the picture and
    without a glyph that is missing.
    """
    names = ("007", "José", "$5$", "a\tb")
    for name, folder in zip(names, sorted(crops(tmp_path / "in", people=4).iterdir()), strict=True):
        folder.rename(folder.with_name(name))
        for file in sorted(folder.with_name(name).iterdir()):
            file.rename(file.with_name(file.name.replace("c", "cam0")))
    prepare("mine", data=tmp_path / "data", source=tmp_path / "in")
    draw, calls = drawings.draw_ranks, []
    monkeypatch.setattr(drawings, "draw_ranks", lambda rows, **more: calls.append(rows) or draw(rows, **more))
    shown(run, "ranks", "mine", data=tmp_path / "data")
    who = {re.match(r"person (.*), camera (\w+): AP", row.caption).groups() for row in calls[0]}
    assert {person for person, _ in who} == {"007", "José", r"\$5\$", "a\\tb"} and {camera for _, camera in who} <= {
        "01",
        "02",
    }


def test_several_targets_are_one_picture_of_domains_and_a_picture_each_of_the_rest(
    run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("synth-night", "synth-plaza")
    assert [file.stem for file in shown(run, "gates", *names, data=small_data)][-1] == "gates-synth-night+synth-plaza"
    calls = captured(monkeypatch, "draw_distances")
    files = shown(run, "distances", *names, data=small_data)
    assert len(calls) == 2
    assert [file.name for file in files if file.suffix == ".json"] == [f"distances-{name}.json" for name in names]
    about = json.loads((run.folder / "show" / "gates-synth-night+synth-plaza.json").read_text())
    assert about["command"].endswith("--target synth-night,synth-plaza")


@pytest.mark.parametrize(
    ("method", "symbols"),
    [("baseline", 1), ("a-in", 1), ("ibn", 2), ("in", 2), ("snr-conv", 4), ("snr-g2", 4)],
)
def test_every_method_shows_what_it_has(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch, method: str, symbols: int
) -> None:
    run = a_run(tmp_path, method)
    monkeypatch.setattr(show, "PEOPLE", 3)
    calls = captured(monkeypatch, "draw_maps")
    shown(run, "maps", data=small_data)
    heat = calls[0][0]
    assert isinstance(heat, drawings.Heat) and len({name for _, name in heat.heat}) == symbols
    calls = captured(monkeypatch, "draw_gates")
    if method == "snr-g2":
        shown(run, "gates", data=small_data)
        assert "stage 2, gate of R- (64 channels)" in calls[0][0] and len(calls[0][0]) == 8  # type: ignore[operator,arg-type]
    else:
        with pytest.raises(
            RecipeError, match=rf"{method} has no channel gates.*reidgen show ranks\|maps\|tsne\|distance"
        ):
            shown(run, "gates", data=small_data)


def test_constant_features_are_said_not_drawn(run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = captured(monkeypatch, "draw_tsne")
    monkeypatch.setattr(probes, "tsne", lambda feature_NC: feature_NC[:, :2])
    about = json.loads(shown(run, "tsne", data=small_data)[-1].read_text())
    panels = calls[0][0]
    assert isinstance(panels, list)
    assert {panel.name for panel in panels if panel.points is None} == {"F~"} and len(panels) == 17
    assert "Pooled F~ is one point" in about["caption"] and "F~ " not in about["alt"].replace("F~+", "").replace("F~-", "")  # fmt: skip


def test_the_first_of_several_splits_is_named(run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = show.tested_part

    def twice(prepared: object) -> pd.DataFrame:
        tested = load(prepared)  # type: ignore[arg-type]
        return pd.concat([tested, tested.assign(split=1)])

    monkeypatch.setattr(show, "tested_part", twice)
    captured(monkeypatch, "draw_distances")
    about = json.loads(shown(run, "distances", data=small_data)[-1].read_text())
    assert "synth-night, split 0 of 2" in about["caption"] and "16 queries" in about["caption"]


def test_what_cannot_be_shown_says_why(run: Run, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown picture 'rank'; did you mean 'ranks'\? Known: ranks, maps, tsne"):
        shown(run, "rank", data=small_data)
    with pytest.raises(DataError, match="pku is not prepared in"):
        shown(run, "ranks", "synth-night", "pku", data=small_data)
    with pytest.raises(DataError, match=r"only synth-plaza has test images here.*prepare the source \(synth-plaza\)"):
        shown(run, "tsne", "synth-plaza", data=small_data)
    unfinished = Run(tmp_path / "run")
    unfinished.folder.mkdir()
    unfinished.recipe_file.write_text(run.recipe_file.read_text())
    with pytest.raises(RunError, match="is not finished"):
        shown(unfinished, "maps", data=small_data)
    assert not (unfinished.folder / "show").exists()


def test_a_set_without_queries_or_trained_on_is_refused(run: Run, small_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    index = data / "synth-night" / "index.csv"
    manifest = json.loads((data / "synth-night" / "manifest.json").read_text())

    def change(lines: list[str]) -> None:
        import hashlib

        index.write_text("".join(lines))
        manifest["digest"] = hashlib.sha256(index.read_bytes()).hexdigest()
        write_manifest(data / "synth-night", manifest)

    lines = index.read_text().splitlines(keepends=True)
    trained = (data / "synth-plaza" / "index.csv").read_text().splitlines(keepends=True)
    digest = next(line.rpartition(",")[2] for line in trained if ",train," in line)
    change([lines[0], *(f"{line.rpartition(',')[0]},{digest}" for line in lines[1:])])
    with pytest.raises(SharedImagesError, match="synth-night shares 1 image files"):
        shown(run, "ranks", data=data)
    change([line for line in lines if ",query," not in line])
    with pytest.raises(DataError, match="synth-night has no query images"):
        shown(run, "maps", data=data)


def test_a_vanished_image_is_named(run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured(monkeypatch, "draw_distances")
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    shown(run, "distances", data=data)  # packs the pixels, after which ranks alone opens images
    shutil.rmtree(load_prepared("synth-night", data).root)
    with pytest.raises(DataError, match=r"synth-night: .*\.jpg is not there; run: reidgen prepare synth-night"):
        shown(run, "ranks", data=data)


def test_an_interrupted_picture_leaves_no_proof(run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, about = shown(run, "distances", data=small_data)
    assert about.exists()
    make = show._MAKERS["distances"]

    def broken(job: show._Job, targets: list[object]) -> Picture:
        made = make[0](job, targets)  # type: ignore[arg-type]
        text = made.figure.findobj(Text)[0]
        monkeypatch.setattr(text, "draw", lambda *_: 1 / 0)
        return made

    monkeypatch.setitem(show._MAKERS, "distances", (broken, make[1]))
    with pytest.raises(ZeroDivisionError):
        shown(run, "distances", data=small_data)
    assert not about.exists() and not list(about.parent.glob(".*"))
