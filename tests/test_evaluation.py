"""Evaluation: rows, per-query numbers, splits, and targets that are refused."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import quiet
from PIL import Image

from reidgen import evaluation
from reidgen.data.manifest import sound_sets
from reidgen.data.manifest import tested_part as part_tested
from reidgen.data.prepare import prepare
from reidgen.errors import DataError, OutOfMemoryError, RunError, SharedImagesError
from reidgen.evaluation import evaluate
from reidgen.recipe import Recipe
from reidgen.rows import COLUMNS, read_csv, tie_notes
from reidgen.runs import Run, find_run, read_rows
from reidgen.training import train


@pytest.fixture(scope="module")
def run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    from conftest import SMALL

    return train(SMALL, data=small_data, results=tmp_path_factory.mktemp("results"), device="cpu", report=quiet)


def evaluated(run: Run, target: str, data: Path) -> pd.DataFrame:
    return evaluate(run, target, data=data, device="cpu", report=quiet)


def crops(folder: Path, identities: int, cameras: int) -> Path:
    """Write a folder per person with three noisy crops per camera."""
    rng = np.random.default_rng(0)
    for pid in range(identities):
        for camera in range(cameras):
            for shot in range(3):
                path = folder / f"{pid:03}" / f"c{camera + 1}_{shot}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (32, 16, 3), dtype=np.uint8)).save(path)
    return folder


def test_a_full_memory_halves_the_images_at_a_time(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = evaluation.open_run(run, "cpu").network
    pixels = np.random.default_rng(0).integers(0, 256, (50, 48, 32, 3), dtype=np.uint8)
    describe, room, sizes = network.describe, [9], list[int]()

    def narrow(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return describe(images)

    def embedded() -> torch.Tensor:
        return evaluation.embed(network, pixels, rows_N=np.arange(50), report=quiet)

    plain = embedded()
    monkeypatch.setattr(network, "describe", narrow)
    torch.testing.assert_close(embedded(), plain, rtol=0, atol=1e-5)
    assert sizes == [32, 16, *[8] * 6, 2]
    full = "the GPU's memory is full (2.00 GiB more were asked for)"
    assert [record.getMessage() for record in caplog.records] == [
        f"{full}: embedding begins again with {size} images at a time" for size in (16, 8)
    ]
    room[0] = 0
    with pytest.raises(OutOfMemoryError, match=r"^embedding: the GPU's memory is full .*; use --device cpu, or train"):
        embedded()
    assert sizes[-2:] == [2, 1] and caplog.messages[-1].endswith("begins again with 1 image at a time")


def test_a_target_is_replaced_and_others_stay_also_one_whose_name_it_begins(tmp_path: Path) -> None:
    run = Run(tmp_path)
    blank = {name: ["x"] if kind == "str" else [1] for name, kind in COLUMNS.items()} | {"test": ["plain"]}

    def write(target: str, ap: float) -> None:
        queries = pd.DataFrame({"target": [target], "split": [0], "path": ["a, b\x85cams,.jpg"], "ap": [ap]})
        run.write_results(target, pd.DataFrame({**blank, "target": [target], "mAP": [ap]}), queries)

    for target, ap in (("cams-2", 0.5), ("cams", 0.25), ("cams-2", 0.75), ("cams", 0.125)):
        write(target, ap)
    for found in (pd.read_csv(run.per_query), read_csv(run.results).rename(columns={"mAP": "ap"})):
        assert found.set_index("target")["ap"].to_dict() == {"cams-2": 0.75, "cams": 0.125} and len(found) == 2
    for target in ("target", "cams", "target"):  # a set may be called as the first column is
        write(target, 1.0)
    assert sorted(pd.read_csv(run.per_query)["target"]) == ["cams", "cams-2", "target"]
    run.per_query.write_bytes(run.per_query.read_bytes()[:-9])
    assert not run.evaluated("cams-2", "x") and not run.evaluated("cams", "x")
    write("cams", 0.5)  # what has lost its queries keeps its rows and counts as not evaluated
    assert run.evaluated("cams", "x") and not run.evaluated("cams-2", "x")
    assert sorted(read_csv(run.results)["target"]) == ["cams", "cams-2", "target"]
    run.per_query.unlink()
    assert not run.evaluated("cams", "x")


def test_numbers_of_before_names_were_kept_stay(tmp_path: Path) -> None:
    run, blank = Run(tmp_path), {name: ["x"] if kind == "str" else [1] for name, kind in COLUMNS.items()}
    blank |= {"test": ["plain"]}
    old = pd.DataFrame({"target": ["old"], "split": [0], "path": ["a, b.jpg"], "ap": [0.5]})
    for target, queries in (("old", old), ("new", old.assign(target="new", person="anna", camera="hall"))):
        run.write_results(target, pd.DataFrame({**blank, "target": [target], "mAP": [0.5]}), queries)
    found = pd.read_csv(run.per_query, keep_default_na=False)
    assert found.to_dict("records") == [
        {"target": "old", "test": "plain", "split": 0, "path": "a, b.jpg", "ap": 0.5, "person": "", "camera": ""},
        {
            "target": "new",
            "test": "plain",
            "split": 0,
            "path": "a, b.jpg",
            "ap": 0.5,
            "person": "anna",
            "camera": "hall",
        },
    ]


def test_rows_and_per_query_numbers_agree(run: Run, small_data: Path) -> None:
    for target, seen in (("synth-plaza", 1), ("synth-night", 0)):
        rows = evaluated(run, target, small_data)
        row = rows.iloc[0]
        assert list(rows) == list(COLUMNS) and len(rows) == 1
        assert (row["seen"], row["queries"], row["gallery"], row["unmatched"]) == (seen, 16, 20, 0)
        queries = pd.read_csv(run.per_query)
        queries = queries[queries["target"] == target]
        assert len(queries) == 16
        assert row["mAP"] == pytest.approx(queries["ap"].mean(), abs=1e-5)
        assert row["mINP"] == pytest.approx(queries["inp"].mean(), abs=1e-5)
        for k in (1, 5, 10):
            assert row[f"rank{k}"] == pytest.approx((queries["first_match"] <= k).mean())
    evaluated(run, "synth-night", small_data)  # again: its rows are replaced, the others stay
    assert sorted(read_csv(run.results)["target"]) == ["synth-night", "synth-plaza"]
    pd.testing.assert_frame_equal(read_rows(run.folder.parents[2]), read_csv(run.results))


def test_many_splits_give_a_row_each(
    run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets.toml").write_text(
        "[mycams]\npattern = '(?P<pid>[^/]+)/c(?P<camid>\\d+)_.*'\nsplits = 4\ntest_identities = 3\n"
    )
    prepare("mycams", data=small_data, source=crops(tmp_path / "crops", identities=7, cameras=2))
    rows = evaluated(run, "mycams", small_data)
    assert rows["split"].tolist() == [0, 1, 2, 3] and (rows["queries"] == 6).all()
    assert rows["mAP"].nunique() > 1
    queries = pd.read_csv(run.per_query)
    means = queries[queries["target"] == "mycams"].groupby("split")["ap"].mean()
    np.testing.assert_allclose(means, rows["mAP"], atol=1e-5)


def test_a_query_without_a_match_is_reported_not_dropped(
    run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = crops(tmp_path / "crops", identities=4, cameras=2)
    for path in (folder / "003").glob("c2_*"):
        path.unlink()
    (tmp_path / "datasets.toml").write_text(
        "[lonely]\npattern = '(?P<pid>[^/]+)/c(?P<camid>\\d+)_.*'\nquery_cameras = [1]\n"
    )
    prepare("lonely", data=small_data, source=folder)
    row = evaluated(run, "lonely", small_data).iloc[0]
    assert row["queries"] == 12 and row["unmatched"] == 3
    named = pd.read_csv(run.per_query, dtype=str).query("target == 'lonely'")
    assert (named["person"] == named["path"].str.split("/").str[0]).all() and set(named["person"]) > {"003"}
    assert set(named["camera"]) == {"1"}
    queries = pd.read_csv(run.per_query)
    queries = queries[queries["target"] == "lonely"]
    assert queries["ap"].isna().sum() == 3 and row["mAP"] == pytest.approx(queries["ap"].mean(), abs=1e-5)


def test_a_target_with_training_images_of_the_source_is_refused(run: Run, small_data: Path, tmp_path: Path) -> None:
    folder = crops(tmp_path / "crops", identities=3, cameras=2)
    stolen = next((small_data / "synth-plaza").rglob("bounding_box_train/*.jpg"))
    (folder / "000" / "c1_9.jpg").write_bytes(stolen.read_bytes())
    prepare("thief", data=small_data, source=folder)
    with pytest.raises(SharedImagesError, match=r"target thief shares 1 image files with .* source synth-plaza"):
        evaluated(run, "thief", small_data)


def test_a_run_on_all_images_has_no_seen_target(small_data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    """16 queries and 16 of the 20 gallery images join the 48 training images; the 4 distractors do not."""
    whole = train(
        small_recipe.change(source="synth-plaza-all", method="baseline"),
        data=small_data,
        results=tmp_path,
        device="cpu",
        report=quiet,
    )
    assert whole.folder.parent.name == "synth-plaza-all"
    assert (whole.facts()["classes"], whole.facts()["single"]) == (6 + 4, 0)
    with pytest.raises(SharedImagesError, match="target synth-plaza shows people whose images were all trained on"):
        evaluated(whole, "synth-plaza", small_data)
    row = evaluated(whole, "synth-night", small_data).iloc[0]
    assert (row["source"], row["target"], row["seen"]) == ("synth-plaza-all", "synth-night", 0)


def test_equal_files_are_equally_far_and_a_collapsed_run_is_said(
    run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops of two people of which each has a picture of the other; then a network whose embeddings are all zero."""
    folder = crops(tmp_path / "crops", identities=4, cameras=2)
    prepare("calm", data=small_data, source=folder)
    row = evaluated(run, "calm", small_data).iloc[0]
    assert row["tied"] == 0 and tie_notes(evaluated(run, "calm", small_data)) == []
    real = evaluation.embed

    def shaken(*args: object, **kwargs: object) -> torch.Tensor:
        embedding_ND = real(*args, **kwargs)
        return embedding_ND + 1e-6 * torch.arange(len(embedding_ND))[:, None]

    monkeypatch.setattr(evaluation, "embed", shaken)
    (folder / "000" / "c2_9.png").write_bytes((folder / "001" / "c2_1.png").read_bytes())
    (small_data / "calm" / "manifest.json").unlink()
    prepared = prepare("calm", data=small_data, source=folder)
    tested = part_tested(prepared)
    network = evaluation.load_network(run, torch.device("cpu"))
    paths, embedding_ND = evaluation.embed_tested(network, prepared, tested, recipe=run.recipe(), report=quiet)
    one, other = (paths.tolist().index(name) for name in ("000/c2_9.png", "001/c2_1.png"))
    assert torch.equal(embedding_ND[one], embedding_ND[other])
    monkeypatch.setattr(evaluation, "embed", lambda *args, **kwargs: 0 * real(*args, **kwargs))
    rows = evaluated(run, "calm", small_data)
    assert rows["tied"].iloc[0] == rows["queries"].iloc[0]
    assert tie_notes(rows)[0].startswith("calm: the embeddings have collapsed, images of all people are equally far;")
    few = rows.assign(tied=1, queries=50)
    assert tie_notes(few)[0].startswith("calm: 1 of 50 queries have a match exactly as far as another image")
    assert tie_notes(few.assign(queries=100)) == []


def test_a_damaged_set_is_said_and_left_out(small_data: Path, tmp_path: Path) -> None:
    for name in ("synth-plaza", "synth-night"):
        shutil.copytree(small_data / name, tmp_path / name)
    (tmp_path / "synth-night" / "index.csv").write_text("")
    said: list[str] = []
    assert list(sound_sets(tmp_path, say=said.append)) == ["synth-plaza"]
    assert len(said) == 1 and said[0].startswith("left out: synth-night: ") and "reidgen prepare" in said[0]


def test_what_cannot_be_evaluated_says_why(run: Run, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pku is not prepared"):
        evaluated(run, "pku", small_data)
    with pytest.raises(RunError, match="no run is called 'nothing'"):
        find_run("nothing", run.folder.parents[2])
    assert find_run("snr-tiny", run.folder.parents[2]) == run == find_run(str(run.folder), tmp_path)
    unfinished = Run(tmp_path / "run")
    unfinished.folder.mkdir()
    unfinished.recipe_file.write_text(run.recipe_file.read_text())
    unfinished.row_file.write_text(run.row_file.read_text())
    with pytest.raises(RunError, match="is not finished"):
        evaluated(unfinished, "synth-night", small_data)
    unfinished.done.write_text("{")
    with pytest.raises(
        RunError, match=r"damaged or cannot be read, .*; restore it from a copy, or remove it and repeat"
    ):
        evaluated(unfinished, "synth-night", small_data)
    unfinished.done.write_text(run.done.read_text())
    with pytest.raises(RunError, match=r"has lost its weights\.safetensors"):
        evaluated(unfinished, "synth-night", small_data)
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"cannot write in .*choose another --results"),
        Run(tmp_path / "file" / "x").lock(),
    ):
        pass


def test_the_recipe_decides_the_run_folder(small_recipe: Recipe) -> None:
    assert small_recipe.hash("a") == small_recipe.change(method="in", seed=3, source="market", name="x").hash("a")
    assert small_recipe.hash("a") != small_recipe.hash("b")
    assert small_recipe.hash("a") != small_recipe.change(lr=1e-3).hash("a")
