"""What is measured of runs without labels: against loops over all crops, and numbers worked by hand."""

import errno
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import quiet
from extractors import Means
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import kendalltau
from test_foreign import model_file
from test_prepare import crops, picture
from test_show import a_run
from typer.testing import CliRunner, Result

import reidgen
from reidgen.cli import app
from reidgen.data.batches import training_images
from reidgen.errors import DataError, ReidgenError, RunError
from reidgen.judging import neighbours
from reidgen.judging.cameras import Moments, Sums, distance, pixel_sums, share_of_cameras
from reidgen.judging.crops import drawn, of_images, of_target
from reidgen.judging.judge import TRIALS, judge
from reidgen.judging.measures import MEASURES, ORDER, ordered
from reidgen.judging.neighbours import NOBODY, mutual, nearest, overlap
from reidgen.robustness.shifts import apply_shift


class Halves(Means):
    """Embeds an image by the mean colours of its upper half."""

    def __init__(self) -> None:
        super().__init__("cd" * 32)
        self.dim = 6
        self.info["name"] = "synth/halves"

    def embed(self, images: Iterable[Any]) -> NDArray[np.float32]:
        found = super().embed(images)[:, :6].astype(np.float64)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture(scope="module")
def some() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    embedding = unit(rng.normal(size=(40, 5)))
    embedding[20:25] = embedding[5:10]  # five pairs are equally near to all
    return embedding, rng.integers(0, 3, size=40)


def by_loop(
    query: NDArray[np.float32], camera: int, gallery: NDArray[np.float32], cameras: NDArray[np.int64], inside: bool
) -> list[int]:
    allowed = [row for row in range(len(gallery)) if (cameras[row] == camera) == inside]
    return sorted(allowed, key=lambda row: (-round(float(gallery[row].astype(float) @ query.astype(float)), 6), row))


@pytest.mark.parametrize("block", [4096, 7])
@pytest.mark.parametrize("inside", [False, True])
def test_nearest_crops_are_those_of_a_loop_over_all(
    some: tuple[NDArray[np.float32], NDArray[np.int64]], inside: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)
    gallery, cameras = some
    found = nearest(gallery[:9], cameras[:9], gallery, cameras, top=30, inside=inside)
    for row in range(9):
        wanted = by_loop(gallery[row], int(cameras[row]), gallery, cameras, inside)[:30]
        assert found[row].tolist() == wanted + [NOBODY] * (30 - len(wanted))


def test_mutual_by_a_loop(some: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    gallery, cameras = some
    rows = np.arange(40)
    first = nearest(gallery, cameras, gallery, cameras)[:, 0]
    hits = [
        by_loop(gallery[there], int(cameras[row]), gallery, cameras, True)[0] == row for row, there in enumerate(first)
    ]
    assert mutual(rows, first, gallery, cameras) == np.mean(hits)
    assert np.isnan(mutual(rows[:1], np.array([NOBODY]), gallery, cameras))


def test_overlap_by_hand() -> None:
    one = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, NOBODY, NOBODY, NOBODY]])
    other = np.array([[4, 3, 0, 11], [1, 2, 3, 4], [9, NOBODY, NOBODY, NOBODY]])
    assert overlap(one, other) == (0.5 + 0 + 1) / 3
    assert overlap(one[:, :1], other[:, :1]) == 1 / 3
    assert np.isnan(overlap(one[:0], other[:0]))


def test_moments_of_cameras_distance_and_share_against_numpy() -> None:
    rng = np.random.default_rng(1)
    value, camera = rng.normal(size=(50, 3)) * [1, 2, 3] + 5, rng.integers(0, 3, size=50)
    camera[camera == 1] = 2  # nobody is of camera 1
    sums = Sums(3, 3)
    for start in range(0, 50, 8):
        sums.add(value[start : start + 8], camera[start : start + 8])
    found = sums.moments()
    for one in (0, 2):
        np.testing.assert_allclose(found.mean_CD[one], value[camera == one].mean(0))
        np.testing.assert_allclose(found.deviation_CD[one], value[camera == one].std(0))
    assert found.count_C.tolist() == [(camera == 0).sum(), 0, (camera == 2).sum()] and np.isnan(found.mean_CD[1]).all()
    between = sum((camera == one).sum() * ((value[camera == one].mean(0) - value.mean(0)) ** 2).sum() for one in (0, 2))
    assert share_of_cameras(sums) == pytest.approx(between / ((value - value.mean(0)) ** 2).sum())


def test_the_distance_from_a_source_by_hand() -> None:
    camera = Moments(np.array([9, 9]), np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 8.0]]))
    source = Moments(np.array([9]), np.zeros((1, 2)), np.array([[1.0, 7.0]]))
    # (9 + 0 + 16 + 36) / 2 and (0 + 0 + 0 + 1) / 2; the source's own size is sqrt((1 + 49) / 2) = 5
    np.testing.assert_allclose(distance(camera, source, scale=1.0), [30.5**0.5, 0.5**0.5])
    np.testing.assert_allclose(distance(camera, source), [30.5**0.5 / 5, 0.5**0.5 / 5])


def test_pixels_of_a_camera_are_counted_as_the_pixels_they_are() -> None:
    images = np.random.default_rng(2).integers(0, 256, size=(6, 4, 2, 3), dtype=np.uint8)
    found = pixel_sums([(images[:4], np.zeros(4, int)), (images[4:], np.ones(2, int))], 2).moments()
    np.testing.assert_allclose(found.mean_CD[0], images[:4].reshape(-1, 3).mean(0))
    np.testing.assert_allclose(found.deviation_CD[1], images[4:].reshape(-1, 3).std(0))


def test_all_measures_against_loops(tmp_path: Path) -> None:
    root = crops(tmp_path, people=6)
    models = [Means(), Halves()]
    found = of_images(root)
    judged = judge(models, found, data=tmp_path, queries=9, report=quiet)
    images = [np.asarray(Image.open(root / path)) for path in found.paths]
    rows = drawn(found.paths, 9, "queries", 0).tolist()
    lists, camera = {}, found.camera_N
    for model in models:
        gallery = model.embed(images)
        ranked = [by_loop(gallery[row], int(camera[row]), gallery, camera, False) for row in rows]
        lists[model.info["name"]] = ranked
        stays: dict[int, list[float]] = {1: [], 10: []}
        for shift, severity in TRIALS:
            changed = apply_shift(
                np.stack([images[row] for row in rows]), shift, severity,
                directions=[1 if camera[row] == 0 else -1 for row in rows], keys=[found.paths[row] for row in rows],
            )  # fmt: skip
            for query, row, clean in zip(model.embed(changed), rows, ranked, strict=True):
                now = by_loop(query, int(camera[row]), gallery, camera, False)
                for top in stays:
                    stays[top].append(len({*now[:top]} & {*clean[:top]}) / top)
        mine = judged.rows.set_index("run").loc[model.info["name"]]
        assert mine["stability_1"] == pytest.approx(100 * np.mean(stays[1]), abs=0.6)  # rounding of near ties
        assert mine["stability_10"] == pytest.approx(100 * np.mean(stays[10]), abs=0.6)
    one, other = lists.values()
    for top in (1, 10):
        alike = 100 * np.mean([len({*a[:top]} & {*b[:top]}) / top for a, b in zip(one, other, strict=True)])
        assert judged.rows[f"agreement_{top}"].tolist() == pytest.approx([alike] * 2)
    assert judged.rows["seeds_1"].isna().all() and judged.rows["pixel_distance"].isna().all()
    assert "no distance from the source that is not known" in judged.notes[-1]
    again = judge([Means(), Halves()], of_images(root), data=tmp_path, queries=9, report=quiet)
    assert again.rows.equals(judged.rows)


def test_runs_that_differ_in_the_seed_alone_are_compared_apart(tmp_path: Path) -> None:
    models = [Means(), Halves(), Halves()]
    for number, model in enumerate(models):
        model.info |= {"digest": f"{number}" * 64, "name": f"r{number}", "title": "A" if number else "B", "source": "x"}
        model.info |= {"row": "0", "hash": "0", "backbone": "tiny", "seed": number}
    judged = judge(models, of_images(crops(tmp_path)), data=tmp_path, queries=9, report=quiet)
    rows = judged.rows.set_index("run")
    assert np.isnan(rows["seeds_1"]["r0"]) and rows["seeds_1"]["r1"] == rows["seeds_1"]["r2"] == 100
    assert rows["agreement_1"]["r1"] == rows["agreement_1"]["r2"] == rows["agreement_1"]["r0"] < 100


def test_a_prepared_set_and_its_folder_say_the_same_and_the_source_is_compared(small_data: Path) -> None:
    model = Means()
    model.info["source"] = "synth-plaza"
    target = of_target("synth-night", small_data)
    judged = judge([model], target, data=small_data, queries=20, report=quiet)
    prepared, index = training_images("synth-plaza", data=small_data)
    sources = [np.asarray(Image.open(prepared.root / path).resize((8, 16), Image.Resampling.BILINEAR))
               for path in index["path"]]  # fmt: skip
    images = np.stack([np.asarray(Image.open(target.root / path).resize((8, 16), Image.Resampling.BILINEAR))
                       for path in target.paths])  # fmt: skip
    far = []
    for camera in range(len(target.cameras)):
        mine, theirs = images[target.camera_N == camera].reshape(-1, 3), np.stack(sources).reshape(-1, 3)
        squares = (mine.mean(0) - theirs.mean(0)) ** 2 + (mine.std(0) - theirs.std(0)) ** 2
        far.append(squares.mean() ** 0.5)
    row = judged.rows.iloc[0]
    assert row["pixel_distance"] == pytest.approx(np.mean(far)) and row["feature_distance"] > 0
    folder = of_images(target.root, r".*c(?P<camid>\d+).*")
    assert set(folder.paths) >= set(target.paths)


def test_what_cannot_be_judged_is_said(tmp_path: Path) -> None:
    root = crops(tmp_path / "in", people=3)
    with pytest.raises(RunError, match="synth/means is given twice"):
        judge([Means(), Means()], of_images(root), data=tmp_path, report=quiet)
    with pytest.raises(DataError, match="is of one camera, 1; how people"):
        judge([Means()], of_images(crops(tmp_path / "one", cameras=1)), data=tmp_path, report=quiet)
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "a.jpg").write_bytes(picture(1))
    with pytest.raises(DataError, match="holds 1 crop"):
        judge([Means()], of_images(tmp_path / "single"), data=tmp_path, report=quiet)
    (root / "p0" / "c1_0.jpg").write_bytes(b"none")
    judged = judge([Means()], of_images(root), data=tmp_path, report=quiet)
    assert len(judged.paths) == 11 and "1 image, such as p0/c1_0.jpg" in judged.notes[0]
    assert len(judged.query_Q) == 11
    for path in (tmp_path / "in").rglob("*.jpg"):
        path.write_bytes(b"none")
    with pytest.raises(DataError, match="0 of 12 images can be read"):
        judge([Means()], of_images(root), data=tmp_path, report=quiet)


def test_a_disk_without_room_for_the_embeddings_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(ReidgenError, match=r"no room for 0 MiB of embeddings in .* set TMPDIR"):
        judge([Means()], of_images(crops(tmp_path)), data=tmp_path, report=quiet)


def test_without_cameras_all_other_crops_count_and_it_is_said(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{'abcdefghijkl'[number]}.jpg").write_bytes(picture(number))
    judged = judge([Means()], of_images(tmp_path), data=tmp_path, report=quiet)
    gallery = Means().embed([tmp_path / path and np.asarray(Image.open(tmp_path / path)) for path in judged.paths])
    for row, first in zip(judged.query_Q, judged.first["ab" * 32], strict=True):
        assert first == by_loop(gallery[row], row, gallery, np.arange(12), False)[0]
    assert judged.rows[["mutual_1", "camera_share"]].isna().all(axis=None)
    assert any("no camera is known" in note for note in judged.notes)


# The command


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["judge", *map(str, words)])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for method in ("snr", "baseline"):
        a_run(folder, method)
    return folder


def test_the_command_measures_orders_and_says_what_numbers_mean(
    results: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reidgen.judging.judge.TRIALS", TRIALS[::9])
    words = [
        "snr",
        "baseline",
        "--target",
        "synth-night",
        "--results",
        results,
        "--data",
        small_data,
        "--queries",
        "12",
    ]
    found = run(*words, "--out", tmp_path / "judge.csv")
    assert found.exit_code == 0, found.output
    for measure in MEASURES:
        if measure.name != "seeds_1":
            assert measure.sentence in " ".join(found.output.split())
    assert "only labelled pairs can tell" in " ".join(found.output.split())
    told = json.loads(run(*words, "--json").stdout)
    assert len(told["runs"]) == 2 and told["queries"] == 12 and told["measures"]["mutual_1"]["unit"] == "%"
    values = [one["stability_10"] for one in told["runs"]]
    assert values == sorted(values, reverse=True) and told["order"]["by"] == "stability_10"
    lines = (tmp_path / "judge.csv").read_text().splitlines()
    assert "agreement_1 (%)" in lines[0] and "pixel_distance (grey levels)" in lines[0] and len(lines) == 3


def test_python_and_the_command_give_the_same(results: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reidgen.judging.judge.TRIALS", TRIALS[:1])
    rows = reidgen.judge(["snr", "baseline"], "synth-night", queries=5, data=small_data, results=results, device="cpu")
    words = ["snr", "baseline", "--target", "synth-night", "--results", results, "--data", small_data, "--queries", 5]
    told = json.loads(run(*words, "--device", "cpu", "--json").stdout)["runs"]
    for name in ("run", "agreement_1", "stability_10", "feature_distance"):
        assert [one[name] for one in told] == (rows[name] if name == "run" else rows[name].round(10)).tolist()
    with pytest.raises(DataError, match="either target=, a prepared set, or images="):
        reidgen.judge("snr", results=results)


def test_a_model_from_elsewhere_is_judged_beside_runs_and_alone(
    results: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reidgen.judging.judge.TRIALS", TRIALS[:1])
    file = model_file(tmp_path / "squares.onnx")
    words = ["--model", file, "--input", "mean=imagenet", "--target", "synth-night", "--data", small_data]
    words += ["--queries", 12, "--device", "cpu"]
    both = run("snr", *words, "--results", results, "--json")
    assert both.exit_code == 0, both.output
    told = json.loads(both.stdout)
    own = next(one for one in told["runs"] if one["run"].startswith("squares@"))
    # Its nearest crops, by the same measure, of the same network in Python.
    model = reidgen.load_model(file, inputs="mean=imagenet", device="cpu")
    judged = judge([model], of_target("synth-night", small_data), data=small_data, queries=12, report=quiet)
    for name in ("mutual_1", "stability_10", "camera_share"):
        assert own[name] == pytest.approx(judged.rows[name].item())
    assert own["agreement_1"] is not None and own["digest"] == model.info["digest"]
    assert any("--trained-on declares it" in line for line in told["notes"])
    alone = run(*words, "--trained-on", "synth-night", "--pairs", tmp_path / "pairs.html")
    assert alone.exit_code == 0, alone.output
    assert "was trained on cameras of synth-night" in " ".join(alone.output.split())
    rows = reidgen.judge(
        ["snr", model], "synth-night", queries=12, data=small_data, results=results, device="cpu", progress=False
    )
    assert [one["run"] for one in told["runs"]] == rows["run"].tolist()
    for wrong, says in (
        ((), "what is judged? For example"),
        (("snr", "--trained-on", "market"), "name it with --model"),
    ):
        found = run(*wrong, "--target", "synth-night", "--data", small_data, "--results", results)
        assert found.exit_code == 1 and says in " ".join(found.output.split())


def test_the_command_from_page_to_estimate(results: Path, small_data: Path, tmp_path: Path) -> None:
    words = ["snr", "baseline", "--target", "synth-night", "--results", results, "--data", small_data]
    page = tmp_path / "pairs.html"
    made = run(*words, "--pairs", page, "--count", "5")
    assert made.exit_code == 0 and "pairs of 5 queries, as 2 runs share" in made.output
    held = json.loads(page.read_text().split("const data = ")[1].split(";\n")[0])
    lines = [held["head"] + ",label", *(f"{pair['line']},same person" for pair in held["pairs"])]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    found = run(*words, "--labels", tmp_path / "pairs.csv", "--out", tmp_path / "rank1.csv")
    assert found.exit_code == 0, found.output
    assert found.output.count("Rank-1 across cameras 100 % [48, 100] (5 of 5 the same person)") == 2
    assert "not told apart by these labels" in found.output and "counts as a miss" in found.output
    told = json.loads(run(*words, "--labels", tmp_path / "pairs.csv", "--json").stdout)
    assert [one["share"] for one in told["runs"]] == [1, 1]
    assert (tmp_path / "rank1.csv").read_text().count("synth-night") == 2
    other = run("snr", "--images", crops(tmp_path / "in"), "--results", results, "--labels", tmp_path / "pairs.csv")
    assert other.exit_code == 1 and "is of other images" in other.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which crops? Give either --target"),
        (["--target", "a", "--images", "b"], "which crops? Give either --target"),
        (["--target", "a", "--pattern", "x"], "--pattern reads the names of --images"),
        (["--target", "a", "--pairs", "p.html", "--labels", "p.csv"], "give one of them"),
        (["--target", "a", "--pairs", "p.html", "--out", "p.csv"], "leave out --out"),
        (["--target", "a", "--queries", "0"], "--queries 0: give 1 or more"),
        (["--target", "a", "--count", "-1"], "--count -1: give 1 or more"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words: list[str], message: str) -> None:
    found = run("snr", *words)
    assert found.exit_code == 1 and message in " ".join(found.output.split())


# The calibration


def test_tau_is_kendalls_also_on_a_sample_that_holds_models_twice() -> None:
    spec = importlib.util.spec_from_file_location("calibrate", Path(__file__).parents[1] / "scripts/calibrate_judge.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=9), rng.integers(0, 4, size=9).astype(float)  # with ties
    times = script.resampled(9)[:20]
    for weight, found in zip(times, script.tau(one, other, times), strict=True):
        rows = np.repeat(np.arange(9), weight.astype(int))
        assert found == pytest.approx(kendalltau(one[rows], other[rows]).statistic)
    names = ["a", "b", "c", "d"]
    alike = {("a", "b"): 9, ("a", "c"): 8, ("b", "c"): 1, ("a", "d"): 0, ("b", "d"): 0, ("c", "d"): 0}
    pairs = pd.DataFrame([{"run": one, "other": other, "agreement_10": alike[min(one, other), max(one, other)]}
                          for one in names for other in names if one != other])  # fmt: skip
    measured = pd.DataFrame({"run": names, "mAP": [9, 5, 3, 1], "stability_10": [1, 2, 3, 4]})
    agree, stable = script.in_few(pairs, measured)
    # abc: a 8.5, b 5, c 4.5; abd: a 4.5 and b 4.5 tie, the first is taken; acd: likewise; bcd: b and c tie
    assert (
        agree["groups"] == 4
        and agree["best_is_best"] == 1
        and agree["tau"] == pytest.approx((1 + 3 * 0.8165) / 4, abs=1e-3)
    )
    assert stable["best_is_best"] == 0 and stable["tau"] == -1
    held = script.simulate(np.arange(200) % 4 == 0, 0.0, draws=400)
    assert held["truth"] == 0.25 and held["coverage"] >= 0.95 and abs(held["bias"]) < 0.02


def test_runs_are_ordered_by_stability() -> None:
    rows = pd.DataFrame({"run": ["a", "b", "c"], "agreement_10": [1.0, 3.0, 2.0], "stability_10": [5.0, 4.0, 6.0]})
    assert ordered(rows)["run"].tolist() == ["c", "a", "b"] and ORDER.name == "stability_10"
