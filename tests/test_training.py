"""The training loop: reproducible, resumable, alone in its folder, and clear when it cannot go on."""

import contextlib
import contextvars
import dataclasses
import functools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import quiet
from numpy.typing import NDArray
from torch._dynamo.backends.registry import lookup_backend

from reidgen import graphs, training
from reidgen.data import batches
from reidgen.errors import BusyError, DataError, InterruptedRunError, RecipeError, ReidgenError, RunError, WeightsError
from reidgen.files import fill, reserve
from reidgen.methods import METHODS
from reidgen.models.weights import build_backbone
from reidgen.recipe import Recipe, load_recipe
from reidgen.registry import get_backbone
from reidgen.runs import Run
from reidgen.stopping import stop_signals
from reidgen.training import train

pytestmark = pytest.mark.usefixtures("thin_tiny")


@pytest.fixture
def small_recipe(request: pytest.FixtureRequest, small_recipe: Recipe) -> Recipe:
    """Six steps on the small data, of few pixels."""
    return small_recipe if "gpu" in request.keywords else small_recipe.change(height=32, width=16)


def weights(run: Run) -> bytes:
    return run.weights.read_bytes()


def fit(recipe: Recipe, data: Path, results: Path, report: Callable[[str, int, int], None] = quiet) -> Run:
    return train(recipe, data=data, results=results, device="cpu", report=report)


@pytest.fixture(scope="module")
def whole(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Run]:
    """Return the run of a recipe, trained without a stop, once for all tests; none of them writes there."""
    return functools.cache(lambda recipe: fit(recipe, small_data, tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("method", ["baseline", "snr", "a-sn"])
def test_same_seed_same_weights_other_seed_other_weights(
    method: str, whole: Callable[[Recipe], Run], small_data: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = small_recipe.change(method=method)
    first, second = fit(recipe, small_data, tmp_path / "1"), whole(recipe)
    assert weights(first) == weights(second)
    assert weights(first) != weights(fit(recipe.change(seed=1), small_data, tmp_path / "1"))


def test_threads_train_at_once_what_is_trained_one_after_the_other(
    whole: Callable[[Recipe], Run],
    small_data: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Modules draw their start from a generator that all threads share: two would meet here between seed and draw."""
    build, meeting = training.build_network, threading.Barrier(2)

    def later(*given: Any, **named: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            if meeting.wait(1) == 0:
                time.sleep(0.3)  # the other one draws, and puts back what it found
        return build(*given, **named)

    monkeypatch.setattr(training, "build_network", later)
    recipes = [small_recipe.change(method=method, seed=seed) for seed in range(2) for method in ("baseline", "snr")]
    with ThreadPoolExecutor(len(recipes)) as pool:
        runs = list(pool.map(lambda recipe: fit(recipe, small_data, tmp_path), recipes))
    monkeypatch.undo()
    assert [weights(run) for run in runs] == [weights(whole(recipe)) for recipe in recipes]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_resume_equals_uninterrupted_bit_for_bit(
    stop: signal.Signals,
    whole: Callable[[Recipe], Run],
    small_data: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)
    uninterrupted, reached = whole(small_recipe), list[int]()

    def interrupt(what: str, done: int, total: int) -> None:
        if total == 6:  # training, not reading images
            reached.append(done)
            os.kill(os.getpid(), stop)

    before = signal.getsignal(stop)
    for step in range(1, 6):  # stopped after every single step
        with pytest.raises(InterruptedRunError, match=f"stopped at step {step} of 6.*the same command goes on"):
            fit(small_recipe, small_data, tmp_path / "parts", interrupt)
    assert signal.getsignal(stop) == before
    resumed = fit(small_recipe, small_data, tmp_path / "parts")
    assert reached == [1, 2, 3, 4, 5]
    assert weights(resumed) == weights(uninterrupted)
    logs = [pd.read_csv(run.log).drop(columns=["images_per_s", "seconds"]) for run in (uninterrupted, resumed)]
    pd.testing.assert_frame_equal(*logs)
    assert logs[0]["epoch"].tolist() == [1, 2] and not resumed.state.exists()


@pytest.mark.parametrize("method", ["snr", "bin", "bau"])
def test_a_crash_goes_on_from_the_last_checkpoint(
    method: str,
    whole: Callable[[Recipe], Run],
    small_data: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """bin has a rate of its own, bau a memory."""
    small_recipe = small_recipe.change(method=method)
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)

    def crash(what: str, done: int, total: int) -> None:
        if (done, total) == (5, 6):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(small_recipe, small_data, tmp_path / "crashed", crash)
    run = Run(next((tmp_path / "crashed" / "runs" / "synth-plaza").iterdir()))
    assert run.state.exists() and not run.done.exists()
    with pytest.raises(RunError, match="is not finished"):
        run.facts()
    assert weights(fit(small_recipe, small_data, tmp_path / "crashed")) == weights(whole(small_recipe))


def test_a_finished_run_is_left_alone_and_tells_what_it_is(
    small_data: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    run = fit(small_recipe, small_data, tmp_path)
    assert run.folder == tmp_path / "runs" / "synth-plaza" / f"snr-tiny-s0-{run.facts()['hash']}-{run.facts()['row']}"
    times = run.weights.stat().st_mtime_ns
    assert fit(small_recipe, small_data, tmp_path) == run and run.weights.stat().st_mtime_ns == times
    facts = json.loads(run.done.read_text())
    assert facts["steps"] == 6 and facts["classes"] == 6 and facts["torch"] == torch.__version__
    assert load_recipe(str(run.recipe_file)) == small_recipe
    assert {path.name for path in run.folder.iterdir()} <= {
        "recipe.toml",
        "row.json",
        "log.csv",
        "weights.safetensors",
        "done",
        ".claim",
    }
    log = pd.read_csv(run.log)
    assert list(log) == ["epoch", "loss", "cross_entropy", "triplet", "snr", "lr", "images_per_s", "seconds"]
    total = log["cross_entropy"] + log["triplet"] + log["snr"]
    pd.testing.assert_series_equal(log["loss"], total, check_names=False, rtol=1e-4)


def test_snr_loss_counts_only_where_the_row_says_so(small_data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    def logged(method: str) -> pd.DataFrame:
        return pd.read_csv(fit(small_recipe.change(method=method, epochs=1), small_data, tmp_path).log)

    plus, minus, both = (logged(method)["snr"].iloc[0] for method in ("snr-no-minus", "snr-no-plus", "snr"))
    assert "snr" not in logged("snr-no-loss") and "snr" not in logged("baseline")
    assert plus > 0 and minus > 0 and both == pytest.approx(plus + minus, rel=0.1)


def test_every_setting_of_a_recipe_and_every_parameter_of_a_row_changes_the_weights(
    small_data: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    """One that changes nothing is no setting; so is a folder that is used again for other settings."""
    recipe = small_recipe.change(epochs=2, batches_per_epoch=2, milestones=(1.0,), warmup_epochs=0.5)
    other = {
        "source": "synth-night",
        "seed": 1,
        "backbone": "osnet-x0.25",
        "height": 40,
        "width": 24,
        "dtype": "bfloat16",
        "identities": 5,
        "images": 3,
        "zoom": 0.9,
        "flip": 0.9,
        "brightness": 0.5,
        "contrast": 0.5,
        "epochs": 1,
        "batches_per_epoch": 1,
        "lr": 1e-3,
        "weight_decay": 0.1,
        "warmup_epochs": 0.0,
        "milestones": (0.5,),
        "label_smoothing": 0.5,
        "method": "snr-conv",
        "saturation": 0.5,
        "hue": 0.3,
        "jitter": 0.1,
        "erasing": 1.0,
        "optimizer": "sgd",
        "schedule": "cosine",
        "metric": "circle",
        "margin": 0.3,
    }
    # name: no setting; weights, sampling, pad, pooling: below; compile: a test of its own
    aside = {"name", "weights", "sampling", "pad", "pooling", "compile", "settings", "plugins"}
    assert set(other) | aside == {field.name for field in dataclasses.fields(Recipe)}
    snr = {
        "snr.reduction": 2,
        "snr.gates": 2,
        "snr.plus": False,
        "snr.minus": False,
        "snr.distance": "euclidean",
        "snr.triplets": "hard",
        "snr.weights": (2.0, 0.1, 0.5, 0.5),
    }
    parts = METHODS["snr"].parts
    assert set(snr) == {f"{part.name}.{parameter}" for part in parts for parameter in part.params}
    seen: dict[bytes, object] = {weights(fit(recipe, small_data, tmp_path)): "nothing"}
    changes = [{key: value} for key, value in other.items()] + [
        {"settings": ((key, value),)} for key, value in snr.items()
    ]
    for change in changes:
        run = fit(recipe.change(**change), small_data, tmp_path)
        state = weights(run)
        assert state not in seen, f"{change} trains what {seen[state]} does"
        seen[state] = change
    torch.save(build_backbone(get_backbone("tiny"))[0].state_dict(), tmp_path / "weights.pth")
    together = recipe.change(source="synth-plaza+synth-night", identities=4, batches_per_epoch=4)
    for run in (
        fit(recipe.change(weights=str(tmp_path / "weights.pth")), small_data, tmp_path),
        fit(together, small_data, tmp_path),
        fit(together.change(sampling="balanced"), small_data, tmp_path),
        fit(recipe.change(zoom=0.0, pad=3), small_data, tmp_path),
        fit(recipe.change(zoom=0.0), small_data, tmp_path),
        fit(recipe.change(method="in", pooling="gem"), small_data, tmp_path),
        fit(recipe.change(method="in"), small_data, tmp_path),
    ):
        assert weights(run) not in seen
        seen[weights(run)] = run.folder.name
    switched = recipe.change(method="a-sn")
    runs = [
        fit(switched.change(settings=some), small_data, tmp_path)
        for some in ((), (("sn.momentum", 0.5),), (("sn.eps", 0.1),))
    ]
    assert len({weights(run) for run in runs}) == 3


OTHER = {  # parameter of a part of today's rows: another value
    "bin.rate": 1.0,
    "bin.eps": 0.1,
    "bin.momentum": 0.9,
    "se.reduction": 2,
    "mixstyle.alpha": 10.0,
    "mixstyle.partner": "camera",
    "dsu.factor": 3.0,
    "bau-align.weight": 0.1,
    "bau-align.neighbours": 2,
    "bau-uniform.weight": 0.1,
    "bau-domain.weight": 0.1,
    "bau-domain.momentum": 0.9,
    "strong-view.operations": 1,
    "strong-view.magnitude": 30.0,
    "strong-view.jitter": 1.1,
    "strong-view.hue": 0.0,
}


@pytest.mark.parametrize("method", ["in", "bin", "se-stage4", "mixstyle", "dsu", "bau"])
def test_every_parameter_of_todays_rows_changes_the_weights(
    method: str, small_data: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    defaults = {f"{part.name}.{name}": part.params[name] for part in METHODS[method].parts for name in part.params}
    always = {key: 1.0 for key in defaults if key.endswith(".probability")}
    recipe = small_recipe.change(method=method, epochs=1)
    changes: list[dict[str, Any]] = [{}]
    for key, value in defaults.items():
        changes.append({key: not value if isinstance(value, bool) else 0.0 if key in always else OTHER[key]})
    seen: dict[bytes, object] = {}
    for change in changes:
        state = weights(fit(recipe.change(settings=tuple((always | change).items())), small_data, tmp_path))
        assert state not in seen, f"{change} trains what {seen[state]} does"
        seen[state] = change


def test_a_weight_belongs_to_its_place(small_data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    """The loss that is logged is the sum over places of weight times the place's own loss; each is asked for alone."""

    def snr_loss(weights: tuple[float, ...]) -> float:
        recipe = small_recipe.change(batches_per_epoch=1, epochs=1, settings=(("snr.weights", weights),))
        return float(pd.read_csv(fit(recipe, small_data, tmp_path).log)["snr"].iloc[0])

    alone = [snr_loss(tuple(float(place == one) for place in range(4))) for one in range(4)]
    assert len({round(value, 4) for value in alone}) == 4
    expected = sum(weight * value for weight, value in zip((4.0, 3.0, 2.0, 1.0), alone, strict=True))
    assert snr_loss((4.0, 3.0, 2.0, 1.0)) == pytest.approx(expected, rel=1e-5)
    assert snr_loss((2.0,)) == pytest.approx(2 * sum(alone), rel=1e-5)


def test_several_sources_keep_their_identities_apart(small_data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    run = fit(small_recipe.change(source="synth-plaza+synth-night", epochs=1), small_data, tmp_path)
    assert run.facts()["classes"] == 12 and run.folder.parent.name == "synth-plaza+synth-night"


def test_a_source_larger_than_memory_is_streamed_to_the_same_bits(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe.change(source="synth-plaza+synth-night")
    kept = fit(recipe, small_data, tmp_path / "kept")
    monkeypatch.setattr(batches, "free_memory", lambda device: 0.0)
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)

    def interrupt(what: str, done: int, total: int) -> None:
        if (done, total) == (2, 6):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        fit(recipe, small_data, tmp_path / "streamed", interrupt)
    assert weights(fit(recipe, small_data, tmp_path / "streamed")) == weights(kept)


def test_a_stream_reads_one_batch_ahead_and_no_more(
    small_data: Path, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "free_memory", lambda device: 0.0)
    source = training.load_source(small_recipe, data=small_data, report=quiet)
    asked: list[int] = []

    def numbers() -> Iterator[NDArray[np.int64]]:
        for number in range(5):
            asked.append(number)
            yield np.arange(number, number + 4)

    feeding = batches.feed(source, numbers(), share=slice(1, 3), device=torch.device("cpu"))
    for number, (images_B, pixels) in enumerate(feeding):
        assert asked[-1] == min(number + 1, 4) and images_B.tolist() == list(range(number, number + 4))
        assert torch.equal(pixels, source.pixels_NHWC[number + 1 : number + 3])
    assert number == 4


def test_a_label_belongs_to_one_source_and_keeps_its_pixels(small_data: Path, small_recipe: Recipe) -> None:
    parts = [training.load_source(small_recipe.change(source=name), data=small_data, report=quiet)
             for name in ("synth-plaza", "synth-night")]  # fmt: skip
    both = training.load_source(small_recipe.change(source="synth-plaza+synth-night"), data=small_data, report=quiet)
    assert torch.equal(both.pixels_NHWC, torch.cat([part.pixels_NHWC for part in parts]))
    assert both.label_N.tolist() == [*parts[0].label_N.tolist(), *(label + 6 for label in parts[1].label_N)]


def test_training_again_forgets_the_rows_of_older_weights(
    small_data: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    run = fit(small_recipe, small_data, tmp_path)
    run.results.write_text("old")
    run.per_query.write_text("old")
    run.done.unlink()
    assert fit(small_recipe, small_data, tmp_path) == run
    assert not run.results.exists() and not run.per_query.exists()


def test_two_processes_never_share_a_run_folder(small_data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    refused: list[str] = []

    def again(what: str, done: int, total: int) -> None:
        if total == 6 and not refused:
            with pytest.raises(RunError, match=r"is writing .*wait for it or stop it") as caught:
                contextvars.Context().run(fit, small_recipe, small_data, tmp_path)  # as another thread or process
            refused.append(str(caught.value))

    fit(small_recipe, small_data, tmp_path, again)
    assert refused


@pytest.mark.parametrize("seconds", [-1.0, 1e9], ids=["no checkpoint", "no weights"])
@pytest.mark.parametrize("logged", [True, False], ids=["nor log", "whatever it logs"])
def test_a_run_that_was_taken_over_is_left_alone(
    seconds: float,
    logged: bool,
    small_data: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By another machine, while this process was suspended: it wakes up behind its report of the last step."""
    recipe, written = small_recipe.change(epochs=1, batches_per_epoch=1), list[set[str]]()
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", seconds)
    if not logged:
        monkeypatch.setattr(training.Trainer, "_write_log", lambda trainer: None)

    def suspend(what: str, done: int, total: int) -> None:
        if ", epoch " in what:
            (claim,) = tmp_path.glob("runs/*/*/.claim/1")
            claim.with_name("2").touch()
            claim.unlink()
            written.append({str(one) for one in tmp_path.rglob("*")})

    with pytest.raises(BusyError, match="another process has taken over"):
        fit(recipe, small_data, tmp_path, suspend)
    assert written == [{str(one) for one in tmp_path.rglob("*")}]


def test_a_loss_that_is_not_finite_stops_the_run(small_data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss is not finite at step \d+ \(learning rate 1.00e\+30\)"):
        fit(small_recipe.change(lr=1e30, epochs=9), small_data, tmp_path)
    assert not list(tmp_path.glob("runs/*/*/done"))


def test_a_stop_behind_the_last_step_is_not_lost(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.Trainer._end_epoch

    def interrupted(self: training.Trainer) -> None:
        real(self)
        if self.step == self.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training.Trainer, "_end_epoch", interrupted)
    with pytest.raises(InterruptedRunError, match="is complete"):
        fit(small_recipe, small_data, tmp_path)
    assert len(list(tmp_path.glob("runs/*/*/done"))) == 1


def test_a_checkpoint_of_infinite_losses_is_refused(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a state would be refused at every resumption."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "REPORT_SECONDS", 1e9)
    real = training.Trainer.learn

    def infinite(self: training.Trainer, *args: Any) -> None:
        real(self, *args)
        self.sums[0] = torch.inf

    monkeypatch.setattr(training.Trainer, "learn", infinite)
    with pytest.raises(RunError, match="the loss is not finite at step 1"):
        fit(small_recipe, small_data, tmp_path)
    assert not list(tmp_path.glob("runs/*/*/state.pt"))


def test_what_cannot_be_trained_says_why(small_data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"market is not prepared in .*reidgen prepare market"):
        fit(small_recipe.change(source="market"), small_data, tmp_path)
    with pytest.raises(DataError, match="6 training identities, a batch of recipe small needs 7"):
        fit(small_recipe.change(identities=7), small_data, tmp_path)
    with pytest.raises(WeightsError, match=r"no weight file absent\.pth"):
        fit(small_recipe.change(weights="absent.pth"), small_data, tmp_path)
    with pytest.raises(RecipeError, match="unknown device 'tpu'"):
        train(small_recipe, data=small_data, results=tmp_path, device="tpu", report=quiet)


@pytest.mark.parametrize("method", ["baseline", "snr", "a-sn", "snr-conv"])
def test_a_compiled_step_differs_by_rounding_and_has_a_folder_of_its_own(
    method: str, small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as for a compiler, which itself takes minutes here and is left to the GPU's test."""
    if method == "snr-conv":  # at one place: to trace it takes a second for every twenty layers, and SNR stands at four
        (module,) = METHODS[method].modules
        at_one = dataclasses.replace(METHODS["snr-stage3"], name=method, modules=[module.at(3)])
        monkeypatch.setitem(METHODS, method, at_one)
    recipe = small_recipe.change(method=method, epochs=1)
    plain = fit(recipe, small_data, tmp_path)
    differentiate = lookup_backend("aot_eager_default_partitioner")  # the least memory is a compiler's own question
    backend = Mock(side_effect=differentiate)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    compiled = fit(recipe.change(compile=True), small_data, tmp_path)
    assert backend.called
    losses = [pd.read_csv(run.log)["loss"].iloc[-1] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert plain.folder != compiled.folder and compiled.recipe().compile


def test_a_machine_that_cannot_compile_says_so(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(graph: object, inputs: object) -> None:
        raise OSError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=refuse))
    with pytest.raises(
        RecipeError, match=r"cannot compile on this machine .*no C\+\+ compiler found.*leave out --compile"
    ):
        fit(small_recipe.change(method="baseline", compile=True), small_data, tmp_path)


def test_a_state_of_another_version_says_so(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)

    def interrupt(what: str, done: int, total: int) -> None:
        if total == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        fit(small_recipe, small_data, tmp_path, interrupt)
    monkeypatch.setattr(training, "provenance", lambda: {"version": "9.9", "commit": ""})
    with pytest.raises(RunError, match=r"was begun by reidgen .*, this is 9\.9"):
        fit(small_recipe, small_data, tmp_path)
    state = next(tmp_path.glob("runs/*/*/state.pt"))
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(RunError, match=r"state\.pt cannot be read; remove it"):
        fit(small_recipe, small_data, tmp_path)


def stopped(recipe: Recipe, data: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a run that was stopped after its first step."""
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)

    def interrupt(what: str, done: int, total: int) -> None:
        if total == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        fit(recipe, data, results, interrupt)
    return Run(next(results.glob("runs/*/*")))


def test_no_changed_byte_of_a_state_is_resumed_from(
    whole: Callable[[Recipe], Run],
    small_data: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch.load itself accepts most of these: it does not check the CRC of what it reads."""
    run = stopped(small_recipe, small_data, tmp_path, monkeypatch)
    content, loaded = run.state.read_bytes(), 0
    for place in np.linspace(0, len(content) - 1, 12, dtype=int).tolist():
        run.state.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with contextlib.suppress(Exception):
            torch.load(run.state, weights_only=True)
            loaded += 1
        with pytest.raises(RunError, match=r"state\.pt cannot be read; remove it to begin this run anew"):
            fit(small_recipe, small_data, tmp_path)
    assert loaded > 0
    run.state.write_bytes(content)
    assert weights(fit(small_recipe, small_data, tmp_path)) == weights(whole(small_recipe))


def test_the_state_of_another_run_is_not_resumed_from(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, of the same network, and in the place of the run's own."""
    other = stopped(small_recipe.change(seed=1), small_data, tmp_path / "other", monkeypatch)
    run = stopped(small_recipe, small_data, tmp_path / "own", monkeypatch)
    shutil.copy(other.state, run.state)
    with pytest.raises(
        RunError, match=r"state\.pt cannot be read; remove it .*it is the state of another run, synth-pl"
    ):
        fit(small_recipe, small_data, tmp_path / "own")


def full(*_: object) -> None:
    raise ReidgenError("cannot write: No space left on device")


def test_a_disk_that_fills_up_while_training_costs_nothing(
    whole: Callable[[Recipe], Run],
    small_data: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that is written behind the last step lies in room that was taken before the first."""
    uninterrupted = whole(small_recipe)
    real = training.Trainer.learn
    rooms: dict[str, tuple[int, int]] = {}

    def learn(self: training.Trainer, *args: torch.Tensor) -> None:
        rooms.update(
            {path.name: (path.stat().st_ino, path.stat().st_blocks) for path in self.run.folder.glob(".*.room.part")}
        )
        monkeypatch.setattr(training, "replacing", full)
        monkeypatch.setattr(training, "write_text", full)
        real(self, *args)

    monkeypatch.setattr(training.Trainer, "learn", learn)
    run = fit(small_recipe, small_data, tmp_path / "full")
    assert weights(run) == weights(uninterrupted) and len(run.training_log()) == 2
    for file in (run.weights, run.log, run.done):
        inode, blocks = rooms[f".{file.name}.room.part"]
        assert file.stat().st_ino == inode and 512 * blocks >= file.stat().st_size
    assert not list(run.folder.glob(".*.part"))


def test_weights_that_cannot_be_written_keep_the_state(
    whole: Callable[[Recipe], Run],
    small_data: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uninterrupted = whole(small_recipe)
    with monkeypatch.context() as context:
        context.setattr(training, "fill", full)
        with pytest.raises(
            RunError, match=r"No space left on device; the state of step 6 of 6 is kept, the same command"
        ):
            fit(small_recipe, small_data, tmp_path / "full")
        context.setattr(training, "replacing", full)
        with pytest.raises(RunError, match=r"No space left on device; the state of step 6 of 6 is kept"):
            fit(small_recipe, small_data, tmp_path / "full")
        with pytest.raises(RunError, match=r"No space left on device; no state could be written either"):
            fit(small_recipe.change(seed=1), small_data, tmp_path / "full")
    learned = []
    monkeypatch.setattr(training.Trainer, "learn", lambda *_: learned.append(1))
    assert weights(fit(small_recipe, small_data, tmp_path / "full")) == weights(uninterrupted) and not learned


def test_a_disk_without_room_for_the_weights_is_met_before_training(tmp_path: Path) -> None:
    reserve(tmp_path / "weights", 100_000)
    fill(tmp_path / "weights", b"content")
    assert (tmp_path / "weights").read_bytes() == b"content" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ReidgenError, match=r"cannot write .*weights: .*; free some space"):
        reserve(tmp_path / "weights", 1 << 62)
    (tmp_path / "file").touch()
    with pytest.raises(ReidgenError, match=r"cannot write .*; free some space"):
        reserve(tmp_path / "file" / "weights", 1)
    with pytest.raises(ReidgenError, match=r"cannot write .*; free some space"):
        fill(tmp_path / "file" / "weights", b"1")
    assert {path.name for path in tmp_path.iterdir()} == {"weights", "file"}


def test_a_closed_terminal_stops_a_training_but_not_that_of_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.is_set()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["baseline", "snr", "a-sn", "snr-conv"])
def test_the_first_step_on_a_gpu_equals_that_on_the_cpu(
    method: str, dtype: str, small_data: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = small_recipe.change(method=method, dtype=dtype, epochs=1, batches_per_epoch=1)
    cpu = fit(recipe, small_data, tmp_path / "cpu")
    gpu = train(recipe, data=small_data, results=tmp_path / "gpu", device="cuda", report=quiet)
    losses = [pd.read_csv(run.log)["loss"].iloc[0] for run in (cpu, gpu)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2 if dtype == "bfloat16" else 5e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # PyTorch's own, as it compiles
def test_compiled_training_on_a_gpu_equals_the_uncompiled(
    small_data: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = small_recipe.change(method="snr", epochs=1)
    runs = [
        train(recipe.change(compile=on), data=small_data, results=tmp_path, device="cuda", report=quiet)
        for on in (False, True)
    ]
    losses = [pd.read_csv(run.log)["loss"].iloc[-1] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("free", [None, 0.0])
@pytest.mark.parametrize("method", ["baseline", "snr", "a-sn", "efdmix", "bin"])
def test_no_step_waits_for_the_gpu(
    method: str,
    free: float | None,
    small_data: Path,
    small_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch raises at every hidden synchronization, from the second step on (the first makes constants).

    The step that is recorded waits once, as it must; those before and behind it do not.
    """
    if free is not None:
        monkeypatch.setattr(batches, "free_memory", lambda device: free)
    real = training.Trainer.learn

    def strict(self, *args):  # type: ignore[no-untyped-def]
        torch.cuda.set_sync_debug_mode("default" if self.step in (0, graphs.WARM) else "error")
        try:
            real(self, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(training.Trainer, "learn", strict)
    recipe = small_recipe.change(method=method, epochs=1, batches_per_epoch=2 * graphs.WARM)
    run = train(recipe, data=small_data, results=tmp_path, device="cuda", report=quiet)
    assert "eager" not in run.facts()
