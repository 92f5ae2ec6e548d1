"""Recorded steps: on a CPU a rehearsal by the same tensors gives the bits of plain steps; on a GPU a graph gives theirs."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import quiet
from torch import Tensor

from reidgen import balance, evaluation, graphs, losses, training
from reidgen.contracts import Backbone, Loss, Module
from reidgen.data.batches import Source
from reidgen.errors import RecipeError
from reidgen.graphs import Groups, Rehearsal, StaticStep, Work
from reidgen.methods import METHODS
from reidgen.models import backbones, gates, mixing, norms, osnet, timm_backbone, tiny, transformers
from reidgen.recipe import RECIPES, Recipe
from reidgen.runs import Run
from reidgen.steps import Flip
from reidgen.training import Trainer, train

STEPS = 20
RECIPE = RECIPES["quick"].change(
    identities=3, images=2, height=32, width=16, batches_per_epoch=8, epochs=4, warmup_epochs=2.0, source="synth-plaza"
)


@pytest.fixture(scope="module")
def noise() -> Source:
    """Six people of two cameras and domains, two images each, of noise."""
    label_N = np.repeat(np.arange(6), 2)
    pixels = np.random.default_rng(0).integers(0, 256, (12, RECIPE.height, RECIPE.width, 3), dtype=np.uint8)
    return Source(
        (pixels[:6], pixels[6:]), np.arange(12) % 6, label_N, (label_N > 2).astype(np.int64), np.arange(12) % 2,
        classes=6, single=0, digest="", origins=(),
    )  # fmt: skip


def trainer(recipe: Recipe, source: Source, folder: Path = Path("none"), device: str = "cpu") -> Trainer:
    made = Trainer(recipe, source, Run(folder), torch.device(device))
    if made.step == 0:
        made._begin_losses(quiet)
    made.network.train()
    return made


def steps(made: Trainer, number: int) -> None:
    """Do some steps as `fit` does, without its clock."""
    batches = made._batches()
    for _ in range(number):
        images_B = next(batches)
        made.learn(made.source.read(images_B).to(made.device), images_B)
        made.step += 1


def state(made: Trainer) -> dict[str, Tensor]:
    whole = {**made.network.state_dict(), **made.losses.state_dict(prefix="losses."), "sums": made.sums}
    return whole | {
        f"optimizer {number} {name}": value
        for number, one in made.optimizer.state_dict()["state"].items()
        for name, value in one.items()
        if value is not None
    }


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class Counting(Rehearsal):
    """Counts how often work is done before it is recorded, recorded and replayed."""

    def __init__(self) -> None:
        self.warmed = self.recorded = self.replayed = 0

    def warm(self, work: Work) -> None:
        self.warmed += 1
        work()

    def record(self, work: Work) -> Work:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


@pytest.mark.parametrize("method", METHODS)
def test_steps_on_fixed_tensors_give_the_bits_of_plain_steps(
    method: str, noise: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty steps of every row, stopped and resumed after the ninth; the resumed one records anew."""
    recipe = RECIPE.change(method=method)
    plain = trainer(recipe, noise)
    assert plain.work.recorder is None and plain.eager == ""
    steps(plain, STEPS)

    counting = Counting()
    monkeypatch.setattr(training, "recorder_for", lambda device: counting)
    first = trainer(recipe, noise, tmp_path)
    steps(first, 9)
    first._save()
    assert (counting.warmed, counting.recorded, counting.replayed) == (graphs.WARM, 1, 9 - graphs.WARM)
    second = trainer(recipe, noise, tmp_path)
    assert second.step == 9
    steps(second, STEPS - 9)
    assert counting.recorded == 2 and first.eager == second.eager == ""
    assert_same_bits(state(second), state(plain))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"},
        {"optimizer": "sgd", "lr": 0.01},
        {"metric": "circle"},
        {"pooling": "gem"},
        {"pad": 2, "zoom": 0.0, "saturation": 0.1, "hue": 0.1, "jitter": 0.5, "erasing": 0.5},
    ],
    ids=lambda change: " ".join(change),
)
def test_so_do_other_settings(change: dict[str, object], noise: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPE.change(method="baseline", **change)
    plain = trainer(recipe, noise)
    steps(plain, 7)
    monkeypatch.setattr(training, "recorder_for", lambda device: Rehearsal())
    static = trainer(recipe, noise)
    steps(static, 7)
    assert static.work.replay is not None
    assert_same_bits(state(static), state(plain))


def test_what_a_step_reads_lies_at_one_place(noise: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay would see nothing else: the tensors of the first step are those of the last, with other numbers."""
    monkeypatch.setattr(training, "recorder_for", lambda device: Rehearsal())
    made = trainer(RECIPE.change(method="bau"), noise)
    steps(made, 1)
    before = [tensor.data_ptr() for group in made.work.inputs for tensor in group]
    numbers = [tensor.clone() for group in made.work.inputs for tensor in group]
    read = [tensor.data_ptr() for loss in made.losses.values() for tensor in loss.drawn]
    steps(made, 4)
    after = [tensor for group in made.work.inputs for tensor in group]
    assert [tensor.data_ptr() for tensor in after] == before and set(read) <= set(before)
    assert sum(not torch.equal(one, other) for one, other in zip(numbers, after, strict=True)) >= 4


def test_every_shipped_part_says_that_it_can_be_recorded() -> None:
    rooms = (balance, losses, backbones, gates, mixing, norms, osnet, timm_backbone, tiny, transformers)
    parts = {
        one
        for room in rooms
        for one in vars(room).values()
        if inspect.isclass(one) and issubclass(one, Module | Loss | Backbone) and one not in (Module, Loss, Backbone)
    }
    assert len(parts) > 25 and {one.__name__ for one in parts if not one.capturable} == set()


class Counter(Module):
    """A number of the host decides: recorded, it would stand still."""

    def forward(self, map_BCHW: Tensor) -> Tensor:
        return map_BCHW


def test_a_part_that_does_not_say_so_is_never_recorded(noise: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting()
    monkeypatch.setattr(training, "recorder_for", lambda device: counting)
    monkeypatch.setattr(norms.SNR, "capturable", False)
    made = trainer(RECIPE.change(method="snr"), noise)
    steps(made, 5)
    assert counting.warmed == 0
    assert made.eager == "SNR does not say that it can be recorded (capturable = True in its class)"
    assert graphs.incapable([torch.nn.Identity()]).startswith("Identity does not say")


def test_a_recording_that_fails_falls_back_and_says_why(noise: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Rehearsal):
        def record(self, work: Work) -> Work:
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            except RuntimeError as error:
                raise RuntimeError("the end of the capture failed too") from error

    plain = trainer(RECIPE.change(method="baseline"), noise)
    steps(plain, 8)
    monkeypatch.setattr(training, "recorder_for", lambda device: Failing())
    made = trainer(RECIPE.change(method="baseline"), noise)
    steps(made, 8)
    assert made.eager == "PyTorch cannot record a step (operation not permitted when stream is capturing)"
    assert_same_bits(state(made), state(plain))


def test_the_reason_is_kept_in_the_run(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe.change(method="baseline", epochs=1)
    run = train(recipe, data=small_data, results=tmp_path / "plain", device="cpu", report=quiet)
    assert "eager" not in run.facts()
    monkeypatch.setattr(training, "recorder_for", lambda device: Rehearsal())
    monkeypatch.setattr(tiny.Tiny, "capturable", False)
    run = train(recipe, data=small_data, results=tmp_path / "eager", device="cpu", report=quiet)
    assert run.facts()["eager"].startswith("Tiny does not say")


def test_nothing_is_recorded_with_torch_compile(noise: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "recorder_for", lambda device: Rehearsal())
    made = trainer(RECIPE.change(method="snr", compile=True), noise)
    assert made.work.recorder is None and made.eager == ""


def test_the_environment_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "CudaRecorder", lambda device: "a recorder")
    assert graphs.recorder_for(torch.device("cuda")) == "a recorder"
    assert graphs.recorder_for(torch.device("cpu")) is None
    monkeypatch.setenv("REIDGEN_GRAPHS", "0")
    assert graphs.recorder_for(torch.device("cuda")) is None


@pytest.mark.parametrize("flipped", [False, True])
def test_embedding_by_full_batches_equals_that_by_batches_as_they_come(
    flipped: bool, noise: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven batches of four and one of one image; a batch of another size may round otherwise, no more than that."""
    network = trainer(RECIPE.change(method="snr"), noise).network.eval()
    pixels = np.random.default_rng(1).integers(0, 256, (29, RECIPE.height, RECIPE.width, 3), dtype=np.uint8)
    monkeypatch.setattr(evaluation, "BATCH", 4)
    ways = [Flip()] if flipped else []
    plain = evaluation.embed(network, pixels, rows_N=np.arange(29), steps=ways, report=quiet)
    counting = Counting()
    monkeypatch.setattr(evaluation, "recorder_for", lambda device: counting)
    static = evaluation.embed(network, pixels, rows_N=np.arange(29), steps=ways, report=quiet)
    times = 2 if flipped else 1
    assert (counting.warmed, counting.recorded, counting.replayed) == (graphs.WARM, 1, 8 * times - graphs.WARM)
    torch.testing.assert_close(static, plain, rtol=0, atol=1e-6)
    assert torch.equal(static[:28], plain[:28])
    evaluation.embed(network, pixels, rows_N=np.arange(20), report=quiet)  # too few to gain by it
    assert counting.recorded == 1


def test_tensors_of_another_shape_are_refused() -> None:
    def double(groups: Groups) -> Tensor:
        return 2 * groups[0][0]

    step = StaticStep(double, device=torch.device("cpu"), recorder=Rehearsal(), refused=pytest.fail)
    found = [step([(torch.full((2,), float(number)),)]) for number in range(6)]
    assert [one.tolist() for one in found if one is not None] == [[2.0 * number] * 2 for number in range(6)]
    with pytest.raises(RecipeError, match=r"a part drew torch.float32 \(3,\), and torch.float32 \(2,\) in the first"):
        step([(torch.zeros(3),)])
