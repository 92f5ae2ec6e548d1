"""Recorded steps: on a CPU a rehearsal by the same tensors gives the bits of plain steps; on a GPU a graph gives theirs."""

import contextlib
import functools
import gc
import inspect
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

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
from reidgen.registry import select_methods
from reidgen.runs import Progress, Run
from reidgen.steps import Flip
from reidgen.training import Trainer, train

pytestmark = pytest.mark.usefixtures("thin_tiny")
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
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    made = trainer(RECIPE.change(method="snr", compile=True), noise)
    assert made.work.recorder is None and made.eager == ""


def test_one_row_after_the_other_is_compiled(noise: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch compiles a function eight times (here once); then it warns, and would train the next row as it is."""
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    backend = Mock(side_effect=lambda graph, inputs: graph.forward)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    for number, method in enumerate(["baseline", "ibn"], start=1):
        steps(trainer(RECIPE.change(method=method, compile=True), noise), 1)
        assert backend.call_count == number


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


def test_a_cpu_embeds_fewer_images_at_a_time_than_a_gpu_and_finds_the_same(
    noise: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [evaluation.batch_on(torch.device(kind)) for kind in ("cpu", "cuda", "mps")] == [32, 256, 256]
    network = trainer(RECIPE.change(method="snr"), noise).network.eval()
    pixels = np.random.default_rng(1).integers(0, 256, (70, RECIPE.height, RECIPE.width, 3), dtype=np.uint8)
    done: list[int] = []
    few = evaluation.embed(network, pixels, rows_N=np.arange(70), report=lambda what, now, total: done.append(now))
    assert done == [32, 64, 70]
    monkeypatch.setattr(evaluation, "BATCH_CPU", 256)
    many = evaluation.embed(network, pixels, rows_N=np.arange(70), report=quiet)
    torch.testing.assert_close(few, many, rtol=0, atol=1e-6)


def test_a_batch_that_cannot_be_recorded_is_said_and_changes_nothing(
    noise: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(Rehearsal):
        def record(self, work: Work) -> Work:
            raise RuntimeError("operation not permitted when stream is capturing")

    network = trainer(RECIPE, noise).network.eval()
    pixels = np.random.default_rng(1).integers(0, 256, (29, RECIPE.height, RECIPE.width, 3), dtype=np.uint8)
    monkeypatch.setattr(evaluation, "BATCH", 4)
    plain = evaluation.embed(network, pixels, rows_N=np.arange(28), report=quiet)
    monkeypatch.setattr(evaluation, "recorder_for", lambda device: Refusing())
    assert torch.equal(evaluation.embed(network, pixels, rows_N=np.arange(28), report=quiet), plain)
    (line,) = caplog.messages
    assert line.startswith("embedding goes on batch by batch") and "not permitted" in line


def test_embeddings_in_bfloat16_are_of_length_1(noise: Source) -> None:
    network = trainer(RECIPE, noise).network.eval()
    pixels = np.random.default_rng(1).integers(0, 256, (9, RECIPE.height, RECIPE.width, 3), dtype=np.uint8)
    found = evaluation.embed(network, pixels, rows_N=np.arange(9), dtype="bfloat16", report=quiet)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(9), rtol=0, atol=1e-6)


class FakeCuda:
    """The calls of PyTorch that a recorder of a GPU makes, and the order in which they come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.streams = 0
        monkeypatch.setattr(graphs, "_STREAMS", graphs._Streams())
        monkeypatch.setattr(graphs, "FAILED", [])
        monkeypatch.setattr(torch.cuda, "Stream", self._made)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self._stream("current"))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: self.inside(f"stream {stream.name}"))
        monkeypatch.setattr(torch.cuda, "device", lambda number: self.inside(f"device {number}"))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=self.ask("replay")))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
        monkeypatch.setattr(torch.cuda, "graph", self._graph)
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            monkeypatch.setattr(torch._C, name, functools.partial(self._pool, name), raising=False)

    def ask(self, what: str) -> Work:
        return lambda: self.asked.append(what)

    @contextlib.contextmanager
    def inside(self, what: str) -> Iterator[None]:
        self.asked.append(what)
        try:
            yield
        finally:
            self.asked.append(f"end of {what}")

    def _stream(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, wait_stream=lambda other: self.asked.append(f"{name} waits for {other.name}"))

    def _made(self, number: int) -> SimpleNamespace:
        self.streams += 1
        return self._stream(f"own {number}")

    def _graph(
        self, graph: object, *, pool: tuple[int, int], stream: SimpleNamespace, capture_error_mode: str
    ) -> AbstractContextManager[None]:
        assert graphs.RECORDING.locked()  # before PyTorch waits for the device, which another recording forbids
        assert pool == (0, 7)
        return self.inside(f"recording on {stream.name}, {capture_error_mode}")

    def _pool(self, what: str, device: int, pool: tuple[int, int]) -> None:
        assert graphs.RECORDING.locked()
        self.asked.append(f"{what} {device} {pool}")


BEGIN = ["device 1", "stream current", "recording on own 1, thread_local"]
END = ["end of recording on own 1, thread_local", "end of stream current"]


def test_the_recorder_of_a_gpu_asks_for_one_stream_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls that PyTorch's notes ask for, seen from a CPU: it says nothing of what a GPU does with them."""
    cuda = FakeCuda(monkeypatch)
    recorder = graphs.CudaRecorder(torch.device("cuda:1"))
    recorder.warm(cuda.ask("work"))
    before = ["own 1 waits for current", "stream own 1", "work", "end of stream own 1", "current waits for own 1"]
    assert cuda.asked == before
    replay = recorder.record(cuda.ask("work"))
    assert cuda.asked == [*before, *BEGIN, "work", *END, "end of device 1"]
    assert not graphs.RECORDING.locked()
    replay()
    assert cuda.asked[-1] == "replay" and graphs.FAILED == []


def test_a_thread_records_on_one_stream_and_another_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever thread has made the recorder: what it records must not meet what another asks for."""
    cuda = FakeCuda(monkeypatch)
    one, same, other = (graphs.CudaRecorder(torch.device(name)) for name in ("cuda:1", "cuda", "cuda:0"))
    for recorder in (one, same, one):
        recorder.warm(cuda.ask("work"))
    assert cuda.streams == 1
    other.record(cuda.ask("work"))
    assert cuda.streams == 2 and "recording on own 0, thread_local" in cuda.asked
    with ThreadPoolExecutor(1) as threads:
        threads.submit(one.warm, cuda.ask("work")).result()
    one.record(cuda.ask("work"))
    assert cuda.streams == 3


@pytest.mark.parametrize("forgets", [True, False], ids=["older", "newer"])
@pytest.mark.parametrize("error", [RuntimeError("not permitted"), KeyboardInterrupt()])
def test_a_recording_that_failed_is_ended(error: BaseException, forgets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older PyTorch leaves it open, and what it holds with it; a newer one refuses to end it twice."""
    cuda = FakeCuda(monkeypatch)
    if not forgets:
        refusing = Mock(side_effect=RuntimeError("endAllocatePool: not currently recording to mempool_id"))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", refusing, raising=False)
    with pytest.raises(type(error)):
        graphs.CudaRecorder(torch.device("cuda:1")).record(Mock(side_effect=error))
    pools = ["_cuda_endAllocateToPool 1 (0, 7)", "_cuda_releasePool 1 (0, 7)"] if forgets else []
    assert cuda.asked == [*BEGIN, *END, *pools, "end of device 1"]
    assert len(graphs.FAILED) == forgets and not graphs.RECORDING.locked()


def test_what_a_replay_overwrites_was_copied() -> None:
    class InPlace(Rehearsal):
        def record(self, work: Work) -> Work:
            return lambda: step.result.add_(1)  # type: ignore[union-attr, func-returns-value]

    step = StaticStep(device=torch.device("cpu"), recorder=InPlace(), refused=pytest.fail)
    found = [step(lambda groups: groups[0][0] + 0, [(torch.zeros(2),)]) for _ in range(graphs.WARM + 3)]
    assert [float(one[0]) for one in found if one is not None] == [0.0] * graphs.WARM + [1.0, 2.0, 3.0]


class Forgetting(Rehearsal):
    """As a GPU's: what was recorded knows the work no more."""

    def record(self, work: Work) -> Work:
        return lambda: None


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_trainer_goes_with_the_last_who_knows_it(
    method: str, recorded: bool, noise: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes of a GPU hang on it, and Python looks for cycles when it likes."""
    monkeypatch.setattr(training, "recorder_for", lambda device: Forgetting() if recorded else None)
    made = trainer(RECIPE.change(method=method), noise)
    steps(made, graphs.WARM + 2)
    assert (made.work.replay is not None) == recorded
    known = [weakref.ref(one) for one in (made, made.network, made.losses, made.optimizer, made.sums)]
    gc.disable()
    try:
        del made
        assert [one() for one in known] == [None] * len(known)
    finally:
        gc.enable()


def test_a_training_leaves_nothing_of_its_trainer(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[weakref.ref[object]] = []
    plain = Trainer.fit

    def fit(self: Trainer, report: Progress) -> None:
        known.extend(weakref.ref(one) for one in (self, self.network, self.optimizer))
        plain(self, report)

    monkeypatch.setattr(Trainer, "fit", fit)
    gc.disable()
    try:
        train(small_recipe.change(epochs=1), data=small_data, results=tmp_path, device="cpu", report=quiet)
        assert [one() for one in known] == [None] * 3
    finally:
        gc.enable()


def test_a_full_memory_is_said_in_few_words() -> None:
    long = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 128.00 MiB. GPU 0 has a total capacity of 79")
    assert graphs._reason(long) == "the GPU's memory is full (128.00 MiB more were asked for)"
    assert graphs._reason(RuntimeError("one line\nand another")) == "one line"


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_rate_in_a_tensor_trains_as_a_number_does(
    kind: str, noise: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's fused optimizers run on a CPU as well; there, as on a GPU, the rate is a tensor of each group."""
    recipe = RECIPE.change(method="bin", optimizer=kind, lr=0.01)
    plain = trainer(recipe, noise)
    steps(plain, 8)
    real = Trainer._optimizer

    def fused(self: Trainer) -> torch.optim.Optimizer:
        made, device = self.device, torch.device("cpu")
        self.device = SimpleNamespace(type="cuda")  # type: ignore[assignment]
        monkeypatch.setattr(torch, "tensor", lambda value, device: torch.full((), value))
        try:
            return real(self)
        finally:
            self.device = made or device
            monkeypatch.undo()

    made = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_optimizer", fused)
            made.append(trainer(recipe, noise, tmp_path))
        steps(made[-1], 4)
        made[-1]._save()
    groups = made[-1].optimizer.param_groups
    assert made[-1].step == 8 and len(groups) == 2
    assert all(group["fused"] and isinstance(group["lr"], Tensor) for group in groups)
    rate = recipe.lr_at(7 / made[-1].per_epoch)
    assert [float(group["lr"]) for group in groups] == pytest.approx([rate, 20 * rate])
    torch.testing.assert_close(made[-1].network.state_dict(), plain.network.state_dict(), rtol=1e-3, atol=1e-4)
    other = trainer(recipe, noise, tmp_path)  # the same run goes on with numbers
    steps(other, 1)
    assert not any(isinstance(group["lr"], Tensor) or group["fused"] for group in other.optimizer.param_groups)


def test_tensors_of_another_shape_are_refused() -> None:
    def double(groups: Groups) -> Tensor:
        return 2 * groups[0][0]

    step = StaticStep(device=torch.device("cpu"), recorder=Rehearsal(), refused=pytest.fail)
    found = [step(double, [(torch.full((2,), float(number)),)]) for number in range(6)]
    assert [one.tolist() for one in found if one is not None] == [[2.0 * number] * 2 for number in range(6)]
    with pytest.raises(RecipeError, match=r"a part drew torch.float32 \(3,\), and torch.float32 \(2,\) in the first"):
        step(double, [(torch.zeros(3),)])


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return how far two states are from each other, of the length of the first."""
    both = [(one[name].double().flatten(), other[name].double().flatten()) for name in one]
    first, second = (torch.cat(values) for values in zip(*both, strict=True))
    return float((first - second).norm() / first.norm())


def weights(made: Trainer) -> dict[str, Tensor]:
    """Return a copy of all that is trained."""
    return {str(number): parameter.detach().clone() for number, parameter in enumerate(made.parameters)}


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FROM_EAGER = {"float32": 1e-3, "bfloat16": 1e-2}  # of the same kernels, some of which add in no fixed order


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize(
    ("method", "other"),
    [
        *((name, {}) for name in METHODS),
        *((name, {"dtype": "bfloat16"}) for name in select_methods("main")),
        ("baseline", {"optimizer": "sgd"}),
        ("snr", {"backbone": "resnet18"}),
        ("snr", {"backbone": "mobilenet_v2"}),
        ("baseline", {"backbone": "osnet-x0.25"}),
        ("baseline", {"backbone": "vit_b_16"}),
    ],
)
def test_a_graph_equals_eager_steps_on_a_gpu(
    method: str, other: dict[str, str], noise: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps, resumed after the fifth: losses, and how far from the eager network beside how far that has come. A
    rate that stands still from the recording on, say, is 0.4 of the way off; where sums have no fixed order, eager runs
    differ too.
    """
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    recipe = RECIPE.change(method=method, **other)
    near = FROM_EAGER[recipe.dtype]
    first = trainer(recipe, noise, tmp_path, "cuda")
    start = weights(first)
    steps(first, 5)
    assert first.work.replay is not None and first.eager == ""
    first._save()
    graph = trainer(recipe, noise, tmp_path, "cuda")
    steps(graph, 5)
    assert graph.work.replay is not None and graph.eager == ""
    monkeypatch.setenv("REIDGEN_GRAPHS", "0")
    eager = trainer(recipe, noise, device="cuda")
    steps(eager, 10)
    assert eager.work.recorder is None
    assert apart({"sums": eager.sums}, {"sums": graph.sums}) < 10 * near
    assert apart(weights(eager), weights(graph)) < 0.2 * apart(weights(eager), start)


@pytest.mark.gpu
@GPU
def test_a_row_that_cannot_be_recorded_falls_back_on_a_gpu(noise: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = norms.SNR.forward

    def looks(self: norms.SNR, map_BCHW: Tensor) -> Tensor:
        return plain(self, map_BCHW) if map_BCHW.sum().item() < 1e30 else map_BCHW

    recipe = RECIPE.change(method="snr")
    eager = trainer(recipe, noise, device="cuda")
    eager.work.recorder = None
    steps(eager, 8)
    monkeypatch.setattr(norms.SNR, "forward", looks)
    made = trainer(recipe, noise, device="cuda")
    steps(made, 8)
    assert made.work.replay is None and made.eager.startswith("PyTorch cannot record a step (")
    assert apart(eager.network.state_dict(), made.network.state_dict()) < FROM_EAGER["float32"]
    reserved = settled()
    block = torch.empty(2**29, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_reserved() > reserved
    del block
    assert settled() == reserved  # no recording is taken to be underway, which would keep it


@pytest.mark.gpu
@GPU
def test_trainings_one_after_the_other_take_the_memory_of_one_on_a_gpu(noise: Source) -> None:
    """The first leaves what PyTorch and cuBLAS keep for their stream; no later one leaves anything."""
    left: list[tuple[int, int]] = []
    for _ in range(6):
        made = trainer(RECIPE.change(method="snr"), noise, device="cuda")
        steps(made, graphs.WARM + 2)
        assert made.work.replay is not None
        del made
        left.append((settled(), torch.cuda.memory_allocated()))
    assert len(set(left[1:])) == 1


def settled() -> int:
    """Return the bytes that PyTorch holds on the GPU once it gave back what nothing uses."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


@pytest.mark.gpu
@GPU
def test_a_run_begun_on_a_cpu_goes_on_on_a_gpu_and_back(noise: Source, tmp_path: Path) -> None:
    recipe = RECIPE.change(method="snr")
    for device in ("cpu", "cuda", "cpu"):
        made = trainer(recipe, noise, tmp_path, device)
        steps(made, 5)
        made._save()
    assert made.step == 15 and bool(torch.isfinite(made.sums).all())


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("method", ["baseline", "snr", "a-sn", "bin"])
def test_embedding_by_a_graph_equals_that_without_on_a_gpu(
    method: str, noise: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trainer(RECIPE.change(method=method), noise, device="cuda").network.eval()
    pixels = np.random.default_rng(1).integers(0, 256, (61, RECIPE.height, RECIPE.width, 3), dtype=np.uint8)
    monkeypatch.setattr(evaluation, "BATCH", 8)
    graph = evaluation.embed(network, pixels, rows_N=np.arange(61), report=quiet)
    monkeypatch.setenv("REIDGEN_GRAPHS", "0")
    eager = evaluation.embed(network, pixels, rows_N=np.arange(61), report=quiet)
    torch.testing.assert_close(graph, eager, rtol=0, atol=1e-3)  # TF32 where the batch has another size
