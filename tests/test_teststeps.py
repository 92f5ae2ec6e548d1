"""Test steps: their words, what each does to a target's numbers, and that no number of one test stands for another's."""

import shlex
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, quiet, seal, thin
from test_evaluation import crops
from test_tables import MEAN, frame, row

from reidgen import evaluation, registry
from reidgen.contracts import Batches, TestStep, build_test_step
from reidgen.data.augment import standardize, to_float
from reidgen.data.manifest import load_prepared
from reidgen.data.manifest import tested_part as part_tested
from reidgen.data.pack import load_pack
from reidgen.data.prepare import prepare
from reidgen.errors import OutOfMemoryError, RecipeError, ReidgenError
from reidgen.evaluation import evaluate
from reidgen.models.network import build_network
from reidgen.models.norms import SwitchableNorm2d
from reidgen.recipe import load_recipe
from reidgen.registry import get_method
from reidgen.report.page import make_report
from reidgen.robustness.subject import load_subject
from reidgen.rows import read_csv, write_rows
from reidgen.runs import Run, read_rows
from reidgen.steps import BatchNorm, Centre, Flip, Rerank
from reidgen.tables.choose import Selection
from reidgen.tables.compare import make_table
from reidgen.tables.explain import explain
from reidgen.tables.identities import read_identities
from reidgen.teststeps import TEST_STEPS, StepRow
from reidgen.training import train
from reidgen.ways import select_ways


@pytest.fixture(scope="module", autouse=True)
def _thin() -> Iterator[None]:
    with thin():
        yield


@pytest.fixture(scope="module")
def run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = SMALL.change(method="baseline")
    return train(recipe, data=small_data, results=tmp_path_factory.mktemp("results"), device="cpu", report=quiet)


def scored(run: Run, data: Path, test: str, target: str = "synth-night") -> pd.DataFrame:
    return evaluate(run, target, ways=select_ways(test), data=data, device="cpu", report=quiet)


def test_centre_against_numpy_camera_by_camera() -> None:
    """Feature 2 is alike in all of camera 5; camera 7 has a single image."""
    rng = np.random.default_rng(0)
    embedding_ND = rng.normal(size=(9, 4)).astype(np.float32)
    embedding_ND[4:8, 2] = 0.25
    camid_N = np.array([2, 2, 2, 2, 5, 5, 5, 5, 7])
    expected = embedding_ND.astype(np.float64)
    for camera in (2, 5):
        own = expected[camid_N == camera]
        deviation = own.std(axis=0, ddof=1)
        expected[camid_N == camera] = (own - own.mean(axis=0)) / np.where(deviation > 1e-6, deviation, 1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    given = torch.from_numpy(embedding_ND)
    found = Centre().embeddings(given, torch.from_numpy(camid_N))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    whole = Centre(cameras=False).embeddings(given, torch.from_numpy(camid_N))
    standard = (embedding_ND - embedding_ND.mean(axis=0)) / embedding_ND.std(axis=0)
    np.testing.assert_allclose(whole, standard / np.linalg.norm(standard, axis=1, keepdims=True), atol=1e-6)
    assert np.array_equal(given, embedding_ND)


def test_every_test_has_rows_of_its_own(run: Run, small_data: Path) -> None:
    plain = scored(run, small_data, "plain")
    centred = scored(run, small_data, "centre")
    assert plain["test"].tolist() == ["plain"] and centred["test"].tolist() == ["centre"]
    assert plain["mAP"].iloc[0] != centred["mAP"].iloc[0]
    stored = read_csv(run.results).set_index("test")["mAP"]
    assert stored.round(5).to_dict() == {
        "plain": round(plain["mAP"].iloc[0], 5), "centre": round(centred["mAP"].iloc[0], 5),
    }  # fmt: skip
    scored(run, small_data, "centre,plain")
    assert read_csv(run.results).set_index("test")["mAP"].to_dict() == stored.to_dict()
    queries = run.queries()
    assert queries.groupby("test")["ap"].mean().to_numpy() == pytest.approx(stored.sort_index().to_numpy(), abs=1e-5)
    data = plain["data"].iloc[0]
    assert run.evaluated("synth-night", data, "centre") and not run.evaluated("synth-night", data, "flip")
    assert len(read_rows(run.folder.parents[2])) == 2


def test_tests_are_blocks_of_the_table_and_never_meet() -> None:
    rows = frame(
        *(
            row(method, target, mAP=mAP + gain, test=test)
            for method, mAP in (("baseline", 0.2), ("snr", 0.3))
            for target in ("duke", "prid")
            for test, gain in (("plain", 0.0), ("centre", 0.1))
        )
    )
    table = make_table(rows)
    assert table.cells.groupby("test")["mAP"].agg(["min", "max"]).to_numpy().tolist() == [[30.0, 40.0], [20.0, 30.0]]
    assert (table.cells["gain_mAP"].dropna() == 10).all()
    means = table.cells[table.cells["target"] == MEAN].set_index(["test", "method"])["mAP"]
    assert means.to_dict() == {
        ("plain", "baseline"): 20, ("plain", "snr"): 30, ("centre", "baseline"): 30, ("centre", "snr"): 40,
    }  # fmt: skip
    assert list(table.blocks()) == ["market", "market, tested with centre"]
    assert str(table.findings[0]).startswith("market (plain, centre): mean of unseen: over the 2 targets")
    notes = [str(note) for note in table.notes]
    assert "test steps that use the target's unlabelled images: centre" in notes
    assert any(note.startswith("transductive test steps") and note.endswith(": centre") for note in notes)
    only = make_table(rows, selection=Selection(tests=("centre",)))
    assert set(only.cells["test"]) == {"centre"} and "market, tested with centre" in only.markdown()
    plain = make_table(rows, selection=Selection(tests=("plain",)))
    assert not any("test step" in str(note) for note in plain.notes)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("centr", "unknown test step 'centr'; did you mean 'centre'"),
        ("centre+centre", "names centre twice"),
        ("plain+centre", "plain stands alone"),
        ("centre(camera=false)", "unknown parameter of centre 'camera'; did you mean 'cameras'"),
        ("centre(cameras=3)", "centre.cameras must be like 'true'"),
        ("", "--test names no test"),
        ("centre)", "is no test step"),
    ],
)
def test_a_word_that_means_nothing_is_one_sentence(words: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says.replace("(", r"\(").replace(")", r"\)")):
        select_ways(words)


def batch_norms(network: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]


def catch(caught: dict[int, list[torch.Tensor]], number: int, _: object, given: tuple[torch.Tensor]) -> None:
    caught.setdefault(number, []).append(given[0].clone())


def test_bn_is_a_model_whose_statistics_were_set_by_hand(
    run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per camera: the mean over its batches of each norm's mean and unbiased variance, in inputs that are caught."""
    prepared, recipe = load_prepared("synth-night", small_data), run.recipe()
    part = part_tested(prepared).drop_duplicates("path")
    paths, pack = load_pack(prepared, recipe.height, recipe.width, quiet)
    pixels = {str(path): torch.from_numpy(np.array(image)) for path, image in zip(paths, pack, strict=True)}
    expected, changed = {}, []
    for _, group in part.groupby("camid"):
        network = evaluation.load_network(run, torch.device("cpu"))
        before = [norm.running_mean.clone() for norm in batch_norms(network)]
        order = group.sort_values("sha256")["path"].tolist()
        sizes = [len(one) for one in np.array_split(np.arange(len(order)), -(-len(order) // 3))][:2]
        caught: dict[int, list[torch.Tensor]] = {}
        hooks = [
            norm.register_forward_pre_hook(partial(catch, caught, number))
            for number, norm in enumerate(batch_norms(network))
        ]
        for norm in batch_norms(network):
            norm.train()
        start = 0
        with torch.no_grad():
            for size in sizes:
                images = torch.stack([pixels[path] for path in order[start : start + size]])
                network(standardize(to_float(images)))
                start += size
        for hook in hooks:
            hook.remove()
        network.eval()
        for number, norm in enumerate(batch_norms(network)):
            flat = [one.transpose(0, 1).flatten(1).double().numpy() for one in caught[number]]
            norm.running_mean.copy_(torch.from_numpy(np.mean([one.mean(axis=1) for one in flat], axis=0)))
            norm.running_var.copy_(torch.from_numpy(np.mean([one.var(axis=1, ddof=1) for one in flat], axis=0)))
            changed.append(bool((norm.running_mean - before[number]).abs().max() > 1e-3))
        with torch.no_grad():
            found = network(standardize(to_float(torch.stack([pixels[path] for path in order]))))
        expected.update(zip(order, found, strict=True))
    assert all(changed) and part["camid"].nunique() > 1

    seen: list[evaluation.Images] = []
    real = evaluation.rank_split
    monkeypatch.setattr(evaluation, "rank_split", lambda images, steps: (seen.append(images), real(images, steps))[1])
    both = scored(run, small_data, "bn(size=3,batches=2),plain")
    wanted = torch.stack([expected[path] for path in seen[0].paths])
    torch.testing.assert_close(seen[0].embedding_ND, wanted, atol=2e-5, rtol=0)
    monkeypatch.undo()
    # The trained statistics are as they were, whatever came before.
    assert both["mAP"].tolist()[1] == scored(run, small_data, "plain")["mAP"].iloc[0] != both["mAP"].tolist()[0]


def test_bn_finds_every_norm_that_keeps_statistics_and_refuses_a_network_without() -> None:
    network = build_network(get_method("a-sn"), "tiny", classes=2)
    images = [torch.rand(4, 3, 64, 32, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    BatchNorm(batches=2, size=4).adapt(network.eval(), lambda size, most: images[:most])
    first = next(module for module in network.modules() if isinstance(module, SwitchableNorm2d))
    inside = [next(network.backbone.stages[0].children())(one) for one in images[:2]]
    torch.testing.assert_close(
        first.running_mean, torch.stack([one.mean(dim=(0, 2, 3)) for one in inside]).mean(0), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        first.running_var, torch.stack([one.var(dim=(0, 2, 3)) for one in inside]).mean(0), atol=1e-5, rtol=1e-4
    )
    assert not network.training and not first.training
    before = {name: value.clone() for name, value in network.state_dict().items()}
    BatchNorm().adapt(network, lambda size, most: [images[0][:1]])  # a camera with a single image
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(RecipeError, match="re-estimates BatchNorm, and the network has none"):
        BatchNorm().adapt(torch.nn.Linear(2, 2), lambda size, most: images)


@pytest.mark.parametrize("method", ["baseline", "a-in", "bin", "ibn-a", "dsu", "snr"])
def test_bn_moves_the_statistics_of_every_kind_of_norm_and_nothing_else(method: str) -> None:
    network = build_network(get_method(method), "tiny", classes=2).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(4, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        BatchNorm().adapt(network, lambda size, most: [images, images])
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    kept = {name for name in before if name.endswith(("running_mean", "running_var"))}
    assert moved - {name for name in before if name.endswith("num_batches_tracked")} == kept
    assert len(kept) == 2 if method == "a-in" else len(kept) > 2


def test_flip_is_the_mean_of_both_sides_and_nothing_on_symmetric_images(run: Run) -> None:
    network = evaluation.load_network(run, torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 255, (5, 64, 32, 3), dtype=np.uint8)

    def embedded(images: np.ndarray, *steps: TestStep) -> torch.Tensor:
        return evaluation.embed(network, images, rows_N=np.arange(5), steps=steps, report=quiet)

    symmetric = np.concatenate([pixels[:, :, :16], pixels[:, :, 15::-1]], axis=2)
    assert torch.equal(embedded(symmetric), embedded(symmetric, Flip()))
    assert not torch.equal(embedded(pixels), embedded(pixels, Flip()))
    with torch.no_grad():
        sides = [network.neck(network.pooled(standardize(to_float(torch.from_numpy(np.ascontiguousarray(one))))))
                 for one in (pixels, pixels[:, :, ::-1])]  # fmt: skip
    expected = torch.nn.functional.normalize(sides[0] + sides[1], dim=1)
    torch.testing.assert_close(embedded(pixels, Flip()), expected, atol=1e-6, rtol=0)


def test_steps_act_in_one_order_whatever_is_written() -> None:
    ways = select_ways("rerank+centre+flip+bn,bn+flip+centre+rerank,flip+rerank(k2=3,k1=30)", {"rerank.k1": 20})
    assert [way.word for way in ways] == ["bn+flip+centre+rerank", "flip+rerank(k1=30,k2=3)"]
    assert select_ways("rerank", {"rerank.weight": 0})[0].word == "rerank(weight=0)"
    with pytest.raises(RecipeError, match=r"--set rerank.k1: --test names no step rerank"):
        select_ways("flip", {"rerank.k1": 20})


def test_own_steps_have_one_order_whichever_was_loaded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("zebra", "ant"):
        own = StepRow(name=name, build="x", stage="embeddings", digest="1a2b3c4d5e", params={"kind": "a"})
        monkeypatch.setitem(TEST_STEPS, name, own)
    assert select_ways("zebra+ant+centre")[0].word == "centre+ant@1a2b3c4d+zebra@1a2b3c4d"
    with pytest.raises(RecipeError, match=r"--set ant.kind: 'b,c' holds one of"):
        select_ways("ant", {"ant.kind": "b,c"})


def test_a_recipe_holds_no_test_step(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "quick"\n[set]\nrerank.k1 = 30\n')
    with pytest.raises(RecipeError, match=r"\[set\] holds rerank.k1, of a test step, and a recipe says how to train"):
        load_recipe(str(tmp_path / "mine.toml"))


def test_shipped_steps_name_every_parameter_and_have_the_method_of_their_stage() -> None:
    for row_ in TEST_STEPS.values():
        assert row_.params == registry.parameters_of(registry.load_class(row_.build))
        assert set(row_.tags) <= set(row_.params)
        assert row_.unlabelled == row_.transductive == (row_.name in ("bn", "centre", "rerank"))
        build_test_step(row_)
    assert TEST_STEPS["rerank"].params == {"k1": 20, "k2": 6, "weight": 0.3}
    assert TEST_STEPS["bn"].params == {"batches": 50, "size": 64, "cameras": True}
    with pytest.raises(RecipeError, match="cannot be built: k1 and k2 must be at least 1"):
        build_test_step(TEST_STEPS["rerank"].set({"k1": 0}))


def test_all_steps_together_and_what_embeds_alike_is_embedded_once(
    run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = evaluation.embed
    monkeypatch.setattr(evaluation, "embed", lambda *args, **more: calls.append(1) or real(*args, **more))
    rows = scored(run, small_data, "plain,centre,rerank,centre+rerank,flip,flip+rerank")
    assert len(calls) == 2 and rows["mAP"].nunique() == 6
    stored = scored(run, small_data, "bn+flip+centre+rerank(k1=4)")
    assert stored["test"].tolist() == ["bn+flip+centre+rerank(k1=4)"]
    assert set(run.queries(["test"])["test"]) >= {"plain", "flip+rerank", "bn+flip+centre+rerank(k1=4)"}
    again = scored(run, small_data, "bn+flip+centre+rerank(k1=4)")
    assert again["mAP"].tolist() == stored["mAP"].tolist()
    lines = read_csv(run.results)
    assert not lines.duplicated(["target", "test", "split"]).any()


def test_a_step_that_fails_costs_the_others_nothing(
    run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(shutil.copytree(run.folder, tmp_path / run.folder.name))

    def full(*args: object) -> None:
        raise OutOfMemoryError("re-ranking: this computer's memory is full")

    monkeypatch.setattr(Rerank, "distances", full)
    data = load_prepared("synth-plaza", small_data).digest
    with pytest.raises(OutOfMemoryError):
        scored(run, small_data, "plain,rerank(k1=9),centre", target="synth-plaza")
    done = {word: run.evaluated("synth-plaza", data, word) for word in ("plain", "rerank(k1=9)", "centre")}
    assert done == {"plain": True, "rerank(k1=9)": False, "centre": False}


def test_a_word_with_commas_replaces_its_own_numbers_only(run: Run, small_data: Path) -> None:
    words = ["rerank(k1=4,k2=2)", "rerank(k1=4,k2=3)"]
    for word in ("plain", *words, *words):
        scored(run, small_data, word)
    counts = run.queries().groupby("test").size()
    assert counts[words[0]] == counts[words[1]] == counts["plain"]
    assert all(run.evaluated("synth-night", read_csv(run.results)["data"].iloc[0], word) for word in words)
    command = shlex.split(run.again().partition(" makes")[0])
    assert {way.word for way in select_ways(command[command.index("--test") + 1])} == set(counts.index)


def test_numbers_from_before_there_were_tests_are_plain(run: Run, small_data: Path, tmp_path: Path) -> None:
    scored(run, small_data, "plain,centre")
    shutil.copytree(run.folder, tmp_path / "runs" / "synth-plaza" / run.folder.name)
    old = Run(tmp_path / "runs" / "synth-plaza" / run.folder.name)
    rows = read_csv(old.results)
    rows[rows["test"] == "plain"].drop(columns="test").to_csv(old.results, index=False)
    queries = pd.read_csv(old.per_query, dtype=str, keep_default_na=False)
    queries[queries["test"] == "plain"].drop(columns="test").to_csv(old.per_query, index=False)
    seal(old.results, old.per_query)
    data = rows["data"].iloc[0]
    assert old.evaluated("synth-night", data) and not old.evaluated("synth-night", data, "flip")
    scored(old, small_data, "flip")
    assert read_csv(old.results)["test"].tolist() == ["plain", "flip"]
    found = old.queries()
    assert found.groupby("test", sort=False).size().to_dict() == {"plain": 16, "flip": 16}
    assert set(read_identities(tmp_path, read_csv(old.results))["test"]) == {"plain", "flip"}


def test_a_step_sees_the_images_of_one_split_each_once(
    run: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets.toml").write_text(
        "[halls]\npattern = '(?P<pid>[^/]+)/c(?P<camid>\\d+)_.*'\nsplits = 3\ntest_identities = 3\n"
    )
    prepared = prepare("halls", data=small_data, source=crops(tmp_path / "crops", identities=6, cameras=2))
    centred: list[list[int]] = []
    adapted: list[int] = []
    real_centre, real_bn = Centre.embeddings, BatchNorm.adapt

    def embeddings(self: Centre, embedding_ND: torch.Tensor, camid_N: torch.Tensor) -> torch.Tensor:
        centred.append(camid_N.bincount()[camid_N.unique()].tolist())
        return real_centre(self, embedding_ND, camid_N)

    def adapt(self: BatchNorm, network: torch.nn.Module, batches: Batches) -> None:
        adapted.append(sum(map(len, batches(64, 50))))
        real_bn(self, network, batches)

    monkeypatch.setattr(Centre, "embeddings", embeddings)
    monkeypatch.setattr(BatchNorm, "adapt", adapt)
    rows = scored(run, small_data, "centre,bn,bn(cameras=false)", target="halls")
    assert rows.groupby("test")["split"].agg(list).map(sorted).tolist() == [[0, 1, 2]] * 3
    part = part_tested(prepared).drop_duplicates(["split", "path"])
    counts = [group.groupby("camid").size().tolist() for _, group in part.groupby("split")]
    assert centred == counts and adapted == [n for one in counts for n in one] + [sum(one) for one in counts]
    queries = run.queries()
    means = queries[queries["target"] == "halls"].groupby(["test", "split"])["ap"].mean()
    np.testing.assert_allclose(means, rows.set_index(["test", "split"]).sort_index()["mAP"], atol=1e-5)


def test_stress_and_attack_start_from_the_plain_row(run: Run, small_data: Path) -> None:
    scored(run, small_data, "flip,plain")
    subject = load_subject(run, "synth-night", data=small_data, device="cpu", report=quiet)
    assert subject.results["test"].tolist() == ["plain"]


def both_tests(**more: object) -> pd.DataFrame:
    return frame(
        *(
            row(method, target, mAP=mAP + gain, test=test, **more)
            for method, mAP in (("baseline", 0.2), ("snr", 0.3))
            for target in ("duke", "prid")
            for test, gain in (("plain", 0.0), ("flip+rerank(k1=30,k2=3)", 0.1))
        )
    )


def test_explain_leads_to_the_plain_number_unless_a_test_is_named(tmp_path: Path) -> None:
    rows = both_tests()
    table = make_table(rows)
    plain = explain(table, "snr duke", rows=rows, results=tmp_path)
    assert plain.startswith("SNR, market → duke\n") and "mAP     30.00" in plain and "--test" not in plain
    tested = explain(table, "snr duke rerank(k1=30,k2=3)+flip", rows=rows, results=tmp_path)
    assert tested.startswith("SNR, market → duke, tested with flip+rerank(k1=30,k2=3)\n") and "mAP     40.00" in tested
    assert "--target duke --test 'flip+rerank(k1=30,k2=3)'" in tested
    with pytest.raises(ReidgenError, match="several cells are 'snr'; say METHOD SOURCE TARGET TEST, one of: snr"):
        explain(table, "snr", rows=rows, results=tmp_path)


def test_the_papers_numbers_stand_beside_plain_tests_only() -> None:
    cells = make_table(both_tests(), paper=True).cells
    assert cells.loc[cells["test"] == "plain", "paper_mAP"].notna().any()
    assert cells.loc[cells["test"] != "plain", ["paper_mAP", "diff_mAP"]].isna().all(axis=None)


def test_what_lacks_of_a_test_is_said_with_its_command_and_an_unknown_step_is_named() -> None:
    rows = both_tests()
    lacking = rows.drop(index=rows.index[(rows["test"] != "plain") & (rows["target"] == "prid")][-1])
    notes = [str(note) for note in make_table(lacking).notes]
    assert any(
        "tested with flip" in note and "--target prid --test 'flip+rerank(k1=30,k2=3)'" in note for note in notes
    )
    assert not any(note.startswith("market: prid is not") for note in notes)  # the plain block has it
    assert "test steps that use no other image of the target: flip" in notes
    strange = [str(note) for note in make_table(rows.assign(test="flip+mine@1a2b3c4d")).notes]
    assert any(note.startswith("what these test steps use of the target is not known here: mine (") for note in strange)


def test_rows_of_two_versions_of_a_method_do_not_meet_in_two_tests() -> None:
    rows = both_tests(row="aaaaaaaa", date="2026-05-01T10:00:00")
    newer = both_tests(row="bbbbbbbb", date="2026-06-01T10:00:00")
    table = make_table(pd.concat([rows, newer[newer["test"] == "plain"]], ignore_index=True))
    assert set(table.rows["row"]) == {"bbbbbbbb"} and set(table.cells["test"]) == {"plain"}


def test_the_report_has_a_block_for_every_test(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", both_tests())
    text = make_report(tmp_path).read_text()
    assert "market, tested with flip+rerank(k1=30,k2=3)" in text
    assert "Trained on market, SNR has the highest mAP on the mean of 2 unseen targets: 30.0" in text
    assert "transductive test steps" in text and "rerank" in text
    assert "2 (8 rows)" in text  # two runs, each tested twice
