"""What is nearest to a query: against sorting all distances, by hand; the recall that is shown; the list and the page."""

import csv
import json
import re
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Page
from conftest import quiet
from extractors import Means
from PIL import Image
from test_prepare import crops, picture
from test_show import a_run
from typer.testing import CliRunner, Result

import reidgen as python
from reidgen.cli import app
from reidgen.data.collection import collect
from reidgen.errors import DataError, ReidgenError, RunError
from reidgen.features import approximate, store
from reidgen.features import nearest as nearest_module
from reidgen.features.approximate import index_of
from reidgen.features.nearest import Rule, nearest, rule_of
from reidgen.features.page import write_search_page
from reidgen.features.search import Answer, Queries, embed_queries, search
from reidgen.features.store import Features, open_features, write_features
from reidgen.features.stream import embed_images
from reidgen.runs import Run


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def made(file: Path, embedding_ND: np.ndarray, **known: list[str]) -> Features:
    """Write a feature file of these embeddings, of images that are none."""
    count = len(embedding_ND)
    columns = {"path": [f"{n:05}.jpg" for n in range(count)], "sha256": [f"{n:016x}" for n in range(count)]}
    rows = pd.DataFrame({**columns, "width": 8, "height": 16, "camera": "", "track": "", "person": ""} | known)
    info = {**Means().info, "dim": embedding_ND.shape[1], "images": "crops"}
    blocks = (embedding_ND[start : start + store.BLOCK] for start in range(0, count, store.BLOCK))
    write_features(file, info, rows[list(store.COLUMNS)], blocks)
    return open_features(file)


def as_queries(query_QD: np.ndarray) -> Queries:
    return Queries([f"q{n}" for n in range(len(query_QD))], ["" for _ in query_QD], query_QD, {})


def sorted_all(features: Features, query_D: np.ndarray) -> list[tuple[float, int]]:
    """Return all (distance, row), sorted: of equal distances the first row first."""
    rows = np.concatenate([block for _, block in features.blocks()])
    return sorted((sum((float(a) - float(b)) ** 2 for a, b in zip(one, query_D, strict=True)), n)
                  for n, one in enumerate(rows))  # fmt: skip


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Features:
    """90 rows in 13 blocks, 60 of them three times the same 20 embeddings, far apart in the file."""
    patch = pytest.MonkeyPatch()
    patch.setattr(store, "BLOCK", 7)
    rng = np.random.default_rng(0)
    some = unit(rng.normal(size=(20, 6)))
    embedding = np.concatenate([some, unit(rng.normal(size=(30, 6))), some, some[::-1]])
    labels = rng.integers(0, 7, size=(2, 90)).astype(str).tolist()
    labels[1][3:9] = [""] * 6
    features = made(tmp_path_factory.mktemp("tied") / "f.parquet", embedding, camera=labels[0], track=labels[1])
    patch.undo()
    return features


QUERIES = unit(np.random.default_rng(1).normal(size=(4, 6)))


@pytest.mark.parametrize("top", [1, 2, 10, 89, 90, 500])
def test_the_nearest_are_those_of_sorting_all_distances_ties_by_their_place(tied: Features, top: int) -> None:
    queries = np.concatenate([QUERIES, tied.take(np.array([0, 52]))])  # two are in the file, three times each
    found = nearest(tied, queries, Rule.rows(len(tied), top), quiet)
    for query_D, one in zip(queries, found, strict=True):
        wanted = sorted_all(tied, query_D)[:top]
        assert one.rows.tolist() == [row for _, row in wanted]
        np.testing.assert_allclose(one.distances, [distance for distance, _ in wanted], atol=1e-12)
    assert found[4].distances[:3].tolist() == [0.0] * min(3, top)


@pytest.mark.parametrize("top", [1, 3, 40, 500])
def test_by_track_each_counts_once_and_by_camera_each_has_its_list(tied: Features, top: int) -> None:
    for by in ("track", "camera"):
        answer = search(tied, as_queries(QUERIES), top=top, by=by, report=quiet)
        assert answer.recall is None
        for name, query_D in zip(("q0", "q1", "q2", "q3"), QUERIES, strict=True):
            hits = answer.hits[answer.hits["query"] == name]
            lists: dict[tuple[str, ...], list[tuple[float, int]]] = {}
            known = tied.rows[["camera", "track", "path"]].to_numpy().tolist()
            for distance, row in sorted_all(tied, query_D):
                camera, track, path = known[row]
                key = (camera,) if by == "camera" else (camera, track) if track else (path,)
                lists.setdefault(key, []).append((distance, row))
            if by == "track":
                first = [some[0][1] for some in lists.values()][:top]
                assert hits["path"].tolist() == tied.rows["path"][first].tolist()
                assert hits["crops"].tolist() == [len(some) for some in lists.values()][:top]
                assert hits["rank"].tolist() == list(range(1, len(first) + 1))
            else:
                wanted = [row for some in lists.values() for _, row in some[:top]]
                assert hits["path"].tolist() == tied.rows["path"][wanted].tolist()
                ranks = [rank for some in lists.values() for rank in range(1, len(some[:top]) + 1)]
                assert hits["rank"].tolist() == ranks


def test_collapsed_embeddings_keep_their_order_and_others_are_refused(tmp_path: Path) -> None:
    alike = made(tmp_path / "alike.npz", unit(np.ones((50, 3)) + 1e-5 * np.random.default_rng(0).normal(size=(50, 3))))
    found = nearest(alike, alike.take(np.array([7])), Rule.rows(50, 5), quiet)[0]
    assert found.rows.tolist() == [row for _, row in sorted_all(alike, alike.take(np.array([7]))[0])][:5]
    odd = unit(np.ones((9, 3)))
    odd[4, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        nearest(made(tmp_path / "odd.npz", odd), odd[:1], Rule.rows(9, 2), quiet)
    with pytest.raises(DataError, match=r"of shape \(1, 2\) cannot be compared with embeddings of 3"):
        nearest(alike, odd[:1, :2], Rule.rows(50, 2), quiet)
    for words, message in (
        ({"by": "crib"}, "--by 'crib' should be one of crop, track, camera"), ({"top": 0}, "--top 0: give 1 or more"),
        ({"by": "track"}, "knows no track of any image; embed the images again with --pattern"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            search(alike, as_queries(odd[:1]), **({"top": 3, "report": quiet} | words))  # type: ignore[arg-type]


def test_the_recall_that_is_shown_is_the_count_against_sorting_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximate, "ENOUGH", 0.0)  # as few cells as at first: the recall is far from 1
    rng = np.random.default_rng(0)
    features = made(tmp_path / "f.npz", unit(rng.normal(size=(3000, 16))))
    queries = as_queries(unit(rng.normal(size=(5, 16))))
    answer = search(features, queries, top=10, approximate_above=2999, report=quiet)
    index = index_of(features, quiet)
    sample, all_ND = (
        approximate._drawn(3000, 64),
        np.concatenate([block for _, block in features.blocks()]).astype(np.float64),
    )
    hits = 0
    for row in sample:
        distance_N = np.square(all_ND - all_ND[row]).sum(axis=1)
        exact = [n for n in np.argsort(distance_N, kind="stable") if n != row][:10]
        _, found = index._index.search(all_ND[[row]].astype(np.float32), 101)
        near = sorted((distance_N[n], n) for n in found[0] if n not in (row, -1))[:10]
        hits += len({n for _, n in near} & set(exact))
    assert (
        answer.recall == (pytest.approx(hits / (10 * len(sample))), 10, 64, "crop") and 0.2 < answer.recall.share < 0.95
    )
    exact_hits = search(features, queries, top=10, report=quiet).hits
    both = answer.hits.merge(exact_hits, on=["query", "path"])
    np.testing.assert_array_equal(both["distance_x"], both["distance_y"])  # whatever is found is measured exactly
    monkeypatch.undo()
    (tmp_path / "f.npz.faiss").unlink()
    better = search(features, queries, top=10, approximate_above=0, report=quiet)
    assert better.recall is not None and better.recall.share >= 0.9
    assert search(features, queries, top=10, approximate_above=3000, report=quiet).recall is None


@pytest.mark.parametrize("by", ["track", "camera"])
def test_by_track_or_camera_it_finds_as_many_as_the_exact_search_and_its_recall_is_of_that_list(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    people, each = 40, 50  # tracks longer than the candidates of top / MORE
    track = np.repeat(np.arange(people), each)
    known = {"track": [f"t{one}" for one in track], "camera": [f"c{one % 4}" for one in track]}
    centre = rng.normal(size=(people, 16))
    features = made(tmp_path / "f.npz", unit(centre[track] + rng.normal(size=(len(track), 16))), **known)
    queries = as_queries(unit(centre[:3] + rng.normal(size=(3, 16))))
    words = {"top": 15, "by": by, "report": quiet}
    exact = search(features, queries, **words).hits  # type: ignore[arg-type]
    monkeypatch.setattr(approximate, "ENOUGH", 0.0)
    monkeypatch.setattr(approximate, "SAMPLE", 16)
    answer = search(features, queries, **words, approximate_above=100)  # type: ignore[arg-type]
    assert len(answer.hits) == len(exact) == {"track": 3 * 15, "camera": 3 * 4 * 15}[by]
    both = answer.hits.merge(exact, on=["query", "path"])
    np.testing.assert_array_equal(both["distance_x"], both["distance_y"])
    assert len(both) > 0.3 * len(exact)  # few cells: some are missed, which is what recall tells
    # Its recall: the same search for images of the file, by hand, each left out of its own list.
    index, all_ND = index_of(features, quiet), features.take(np.arange(len(features)))
    sample, hits, wanted = approximate._drawn(len(features), 16), 0, 0
    rule = rule_of(features, by, 15)
    for row, found in zip(sample, index._found(all_ND[sample], rule, 15, sample), strict=True):
        lists: dict[str, list[int]] = {}
        for n in np.argsort(np.square(all_ND.astype(np.float64) - all_ND[row]).sum(axis=1), kind="stable"):
            if n != row:
                lists.setdefault(features.rows[by][n], []).append(n)
        own = [some[0] for some in lists.values()][:15]
        if by == "camera":
            own = [n for some in lists.values() for n in some[:15]]
        hits += len(own) if found is None else len(set(own) & set(found.rows.tolist()))
        wanted += len(own)
    assert answer.recall is not None and answer.recall[1:] == (15, 16, by)
    assert answer.recall.share == pytest.approx(hits / wanted) and 0.4 < hits / wanted < 1
    calls = list[int]()
    monkeypatch.setattr(approximate, "nearest", lambda *given: calls.append(1) or nearest(*given))
    assert index_of(features, quiet).recall(by, 15, quiet) == answer.recall and not calls  # kept beside the index
    (tmp_path / "f.npz.faiss.rows").write_bytes(b"damaged")
    assert index_of(features, quiet).recall(by, 15, quiet) == answer.recall and calls


def test_what_needs_more_candidates_than_are_looked_at_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximate, "MOST", 150)
    rng = np.random.default_rng(0)
    track = ["long"] * 900 + ["far"] * 100
    near = np.concatenate([np.tile([3.0, 0, 0, 0], (900, 1)), np.tile([-3.0, 0, 0, 0], (100, 1))])
    features = made(tmp_path / "f.npz", unit(near + 0.1 * rng.normal(size=(1000, 4))), track=track)
    queries = as_queries(unit(np.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])))
    found = search(features, queries, top=2, by="track", approximate_above=1, report=quiet)
    exact = search(features, queries, top=2, by="track", report=quiet)
    pd.testing.assert_frame_equal(found.hits, exact.hits)
    assert found.recall is not None and found.recall.share == 1.0


def test_many_queries_do_not_take_memory_for_all_their_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest_module, "QUERIES", 64, raising=False)
    rng = np.random.default_rng(0)
    features, query_QD = made(tmp_path / "f.npz", unit(rng.normal(size=(1000, 4)))), unit(rng.normal(size=(1000, 4)))
    tracemalloc.start()
    found = nearest(features, query_QD, Rule.rows(1000, 1), quiet)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6  # all products: 4 MB
    assert [one.rows.tolist() for one in found[::200]] == [[sorted_all(features, q)[0][1]] for q in query_QD[::200]]


def test_an_index_is_kept_and_built_anew_for_other_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    rng, built = np.random.default_rng(0), list[int]()
    real = approximate._build
    monkeypatch.setattr(approximate, "_build", lambda *words: built.append(1) or real(*words))
    features = made(tmp_path / "f.parquet", unit(rng.normal(size=(200, 8))))
    first = index_of(features, quiet).recall("crop", 10, quiet)
    assert index_of(features, quiet).recall("crop", 10, quiet) == first and len(built) == 1
    file = tmp_path / "f.parquet.faiss"
    file.write_bytes(file.read_bytes()[:100])
    index_of(features, quiet)
    index_of(made(tmp_path / "f.parquet", unit(rng.normal(size=(210, 8)))), quiet)
    assert len(built) == 3
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ReidgenError, match=r"needs FAISS: pip install 'reidgen\[search\]', or leave out"):
        index_of(features, quiet)


# Queries


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return a_run(tmp_path_factory.mktemp("results"), "snr")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve crops of three people and two cameras, and their features by `Means`."""
    folder = tmp_path_factory.mktemp("gallery")
    crops(folder / "in")
    embed_images(Means(), collect(folder / "in"), folder / "f.npz", said="in", say=print, report=quiet)
    return folder


def test_a_query_that_is_in_the_file_needs_no_network_and_another_network_is_refused(
    gallery: Path, tmp_path: Path
) -> None:
    features = open_features(gallery / "f.npz")

    def never() -> Means:
        raise AssertionError("nothing is to be embedded")

    queries = embed_queries(collect(gallery / "in" / "p1" / "c2_1.jpg"), features, never, quiet)
    hits = search(features, queries, top=3, report=quiet).hits
    assert hits.loc[0, ["path", "distance", "same"]].tolist() == ["p1/c2_1.jpg", 0.0, True] and not hits["same"][1]
    (tmp_path / "a.png").write_bytes(picture(70, "RGB", "PNG"))
    (tmp_path / "b.jpg").write_bytes((gallery / "in" / "p0" / "c1_0.jpg").read_bytes())
    (tmp_path / "c.jpg").write_bytes(b"")
    model = Means()
    queries = embed_queries(collect(tmp_path), features, lambda: model, quiet)
    assert queries.names == ["a.png", "b.jpg"] and queries.broken == {"c.jpg": "is empty"} and model.calls == [1]
    np.testing.assert_allclose(queries.embedding_QD[0], Means().embed([Image.open(tmp_path / "a.png")])[0], atol=1e-6)
    with pytest.raises(DataError, match=r"was embedded by synth/means \(plain, abababababababab\), not by synth/means"):
        embed_queries(collect(tmp_path), features, lambda: Means(digest="cd" * 32), quiet)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "c.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"no query can be read, such as c.jpg: is empty"):
        embed_queries(collect(tmp_path / "only"), features, never, quiet)


def reidgen(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_prints_writes_and_finds_the_run(run: Run, gallery: Path, tmp_path: Path) -> None:
    results, out = run.folder.parents[2], tmp_path / "f.npz"
    assert reidgen("embed", run.folder, "--images", gallery / "in", "--out", out, "--device", "cpu").exit_code == 0
    query = tmp_path / "=new.png"
    query.write_bytes(picture(70, "RGB", "PNG"))
    words = ["search", out, "--query", query, "--top", 4, "--device", "cpu"]
    found = reidgen(*words, "--results", results, "--out", tmp_path / "found.csv", "--page", tmp_path / "found.html")
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[0] == "=new.png:" and len(lines) == 8
    assert all(re.fullmatch(r"    \d  \d\.\d{4}  p\d/c(\d)_\d\.jpg, camera \1", line) for line in lines[1:5])
    assert lines[5:] == ["12 images, exact; distance: squared Euclidean of unit vectors, 0 to 4",
                         f"written: {tmp_path / 'found.csv'}", f"written: {tmp_path / 'found.html'}"]  # fmt: skip
    table = list(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    assert [f"{row['rank']:>5}  {float(row['distance']):.4f}  {row['path']}" for row in table] == [
        line.partition(",")[0] for line in lines[1:5]
    ]
    assert {row["query"] for row in table} == {"'=new.png"} and "data:image" not in (
        tmp_path / "found.html"
    ).read_text().replace('href="data:,"', "")
    told = json.loads(reidgen(*words, "--results", results, "--json").output.split("\n12 images")[0])
    assert [hit["path"] for hit in told["hits"]] == [row["path"] for row in table] and told["recall"] is None
    assert reidgen(*words, "--run", run.folder).output.splitlines()[1:5] == lines[1:5]
    by_camera = reidgen(*words, "--run", run.folder, "--by", "camera", "-q").output.splitlines()
    heads = [line for line in by_camera if line.endswith(":")]
    assert len(by_camera) == 10 and sorted(heads) == ["=new.png, camera 1:", "=new.png, camera 2:"]
    lost = reidgen(*words, "--results", tmp_path)
    assert lost.exit_code == 1 and "say where it is with --run FOLDER, or --results" in lost.output
    other = a_run(tmp_path / "others", "baseline")
    refused = reidgen(*words, "--run", other.folder)
    assert refused.exit_code == 1 and "distances between two networks mean nothing" in refused.output
    assert "error: --images shows the crops on a page" in reidgen(*words, "--images", gallery).output


def test_in_python_queries_are_paths_images_or_arrays(run: Run, gallery: Path, tmp_path: Path) -> None:
    results, out, new = run.folder.parents[2], tmp_path / "f.npz", tmp_path / "new.png"
    model = python.load(run, device="cpu")
    python.embed(model, gallery / "in", out, progress=False)
    new.write_bytes(picture(70, "RGB", "PNG"))
    image = Image.open(new)
    asked = {"top": 3, "results": results, "device": "cpu", "progress": False}
    found = python.search(out, new, **asked)
    hits = found.drop(columns=["query", "same"])
    assert found["query"].unique().tolist() == ["new.png"]
    for query in (image, np.array(image), [image], np.array(image)[None], [new], (one for one in [image])):
        again = python.search(out, query, **{**asked, "run": model})
        pd.testing.assert_frame_equal(again.drop(columns=["query", "same"]), hits)
        assert again["query"].unique().tolist() == [
            str(new) if isinstance(query, list) and query == [new] else "image 1"
        ]
    first = gallery / "in" / "p0" / "c1_0.jpg"
    several = python.search(out, [first, image], **asked)
    assert several["query"].unique().tolist() == [str(first), "image 2"]
    assert several[several["same"]]["path"].tolist() == ["p0/c1_0.jpg"]
    with pytest.raises(DataError, match="there is no query image"):
        python.search(out, [], **asked)
    with pytest.raises(RunError, match=r"x\.onnx is no run; .* in Python by reidgen.load_model"):
        python.load("x.onnx")


def test_many_queries_are_cut_short_in_the_terminal_alone(gallery: Path, tmp_path: Path) -> None:
    found = reidgen("search", gallery / "f.npz", "--query", gallery / "in", "--top", 2, "--out", tmp_path / "all.csv")
    assert found.output.count("the same picture") == 5
    assert "7 more queries; --out FILE.csv or --page FILE.html holds all" in found.output
    assert len(list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))) == 24


# The page

EVIL = "<script>alert(1)</script>"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three queries, with names that try to break it, a lost crop and a changed one."""
    folder = tmp_path_factory.mktemp("page")
    crops(folder / "in", people=4)
    rows = ["path,camera,track"]
    for number, path in enumerate(sorted((folder / "in").rglob("*.jpg"))):
        path.rename(path.with_name(f"{EVIL.replace('/', ' ')}{number}.jpg"))
    for number, path in enumerate(sorted((folder / "in").rglob("*.jpg"))):
        rows.append(f'"{path}",{EVIL if number % 3 else "door"},t{number // 2}')
    (folder / "in.csv").write_text("\n".join(rows))
    embed_images(Means(), collect(folder / "in.csv"), folder / "f.npz", said=EVIL, say=print, report=quiet)
    features = open_features(folder / "f.npz")
    queries = embed_queries(collect(folder / "in" / "p0"), features, Means, quiet)
    answer = search(features, queries, top=16, report=quiet)
    (folder / features.rows["path"][15]).unlink()
    (folder / features.rows["path"][14]).write_bytes(picture(99))
    shown = write_search_page(folder / "found.html", features, queries, answer, by="crop",
                              asked=folder / "in" / "p0", images=folder / "in.csv")  # fmt: skip
    assert shown == (len(queries.names), [features.rows["path"][15]])
    with pytest.raises(DataError, match="holds none of the crops that were found"):
        write_search_page(folder / "lost.html", features, queries, answer, by="crop",
                          asked=folder / "in" / "p0", images=folder / "elsewhere")  # fmt: skip
    assert not (folder / "lost.html").exists()
    by = search(features, queries, top=2, by="camera", report=quiet)
    write_search_page(folder / "bare.html", features, queries, by, by="camera", asked=folder, images=None)
    return folder / "found.html"


def test_the_page_holds_the_list_and_crops_only_where_they_are_asked_for(page: Path) -> None:
    text, bare = page.read_text(encoding="utf-8"), page.with_name("bare.html").read_text(encoding="utf-8")
    assert EVIL not in text + bare and "http" not in re.sub(r"http-equiv", "", text + bare)
    assert text.count("data:image/jpeg;base64,") == 4 * (1 + 15) and "data:image" not in bare
    assert text.count("has changed since it was embedded") == text.count("is not there") == 4
    assert bare.count("<h3>camera door</h3>") == 4 and "cosine = 1 - distance / 2" in bare
    distances = [float(one) for one in re.findall(r"<b>\d+</b> <span>([\d.]+)</span>", text)]
    assert len(distances) == 64 and distances[:16] == sorted(distances[:16]) and distances[0] == 0


def test_a_page_of_too_many_queries_says_so(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reidgen.features.page.MOST", 5)
    features = open_features(page.with_name("f.npz"))
    queries = as_queries(features.take(np.arange(3)))
    answer = Answer(search(features, queries, top=2, report=quiet).hits, approximate.Recall(0.973, 2, 64))
    shown = write_search_page(tmp_path / "p.html", features, queries, answer, by="crop", asked=tmp_path, images=None)
    text = (tmp_path / "p.html").read_text()
    assert shown == (2, []) and "2 of 3; the CSV (--out) holds all" in text
    assert "approximate (FAISS): finds 97.3 % of the exact 2 nearest, measured on 64 images" in text


FOCUS_RETURNS = """new Promise(done => { let tries = 500; const look = () => {
  const rank = document.activeElement.querySelector("b");
  if (rank && rank.textContent === "3") done(true); else if (tries--) setTimeout(look, 20); else done(false); }; look(); })"""


@pytest.fixture(scope="module", params=[(1280, False), (390, True)], ids=["wide-light", "narrow-dark"])
def opened(request: pytest.FixtureRequest, page: Path) -> Iterator[Page]:
    width, dark = request.param
    with Page(width=width, dark=dark) as chromium:
        chromium.open(page)
        yield chromium


@needs_chromium
def test_no_error_no_request_and_no_sideways_scrolling(opened: Page) -> None:
    assert opened.reported("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    asked = [request["request"]["url"] for request in opened.reported("Network.requestWillBeSent")]
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    assert opened.run("[...document.querySelectorAll('main img')].every(i => i.alt && i.complete && i.naturalWidth)")


@needs_chromium
def test_the_keyboard_reaches_all_and_compares(opened: Page) -> None:
    opened.run("document.getElementById('camera').focus()")
    opened.press("Tab")
    assert opened.run("document.activeElement.className") == "crop same"
    opened.press("ArrowRight")
    opened.press("Enter")
    assert opened.run("document.querySelector('dialog').open")
    assert opened.run("document.getElementById('crop-words').textContent").startswith("rank 2, distance ")
    opened.press("ArrowRight")
    opened.press("ArrowLeft")
    opened.press("ArrowDown")
    assert opened.run("document.getElementById('crop-words').textContent").startswith("rank 3, distance ")
    assert opened.run("document.getElementById('query').naturalWidth > 0")
    opened.press("Escape")
    assert not opened.run("document.querySelector('dialog').open")
    assert opened.run(FOCUS_RETURNS)  # a moment later, to what was shown last


@needs_chromium
def test_the_list_shows_one_camera_when_asked(opened: Page) -> None:
    choose = "(word => { const s = document.getElementById('camera'); s.value = word; s.dispatchEvent(new Event('change')); })"
    seen = "document.querySelectorAll('li:not([hidden])').length"
    opened.run(f"{choose}('door')")
    assert opened.run(seen) == 4 * 6
    assert opened.run("getComputedStyle(document.querySelector('li[hidden]')).display") == "none"
    opened.run(f"{choose}('')")
    assert opened.run(seen) == 64
