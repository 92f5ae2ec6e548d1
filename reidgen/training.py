"""The only training loop: every method, backbone and source goes through `train`."""

import contextlib
import glob
import io
import json
import math
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reidgen import parallel
from reidgen.data.batches import (
    Source,
    augment,
    batches_per_epoch,
    draw_augmentation,
    epoch_batches,
    feed,
    load_source,
    source_digest,
    stream_seed,
)
from reidgen.devices import device_name, enough_memory, memory_format
from reidgen.errors import DataError, InterruptedRunError, RecipeError, RunError
from reidgen.files import replacing, sha256_file, write_text
from reidgen.losses import Triplets, draw_triplets, dual_causality_loss, triplet_loss
from reidgen.methods import get_method
from reidgen.models.backbones import weight_file
from reidgen.models.network import ReIDNet, build_network
from reidgen.models.norms import share_batch_norm
from reidgen.recipe import Recipe
from reidgen.runs import Progress, Run, now, provenance, run_of

CHECKPOINT_SECONDS = 60.0
REPORT_SECONDS = 0.5
LOWER = "lower identities or images (of a batch), height or width in a recipe file, or take a smaller --backbone"
LOSSES = ("loss", "cross_entropy", "triplet", "snr")


def train(recipe: Recipe, *, data: Path, results: Path, device: str = "auto", report: Progress) -> Run:
    """Train one network and return its run folder; a finished run returns at once, an unfinished one goes on.

    The same recipe, data and CPU build give the same weights, bit for bit, however often training was interrupted:
    initial weights, batches and augmentation depend on the seed and the step alone. The last epoch is the model; no
    target is ever looked at. `report` gets ("method s0, epoch 3/60, loss 2.31, 410 images/s", step, steps).
    Under torchrun the ranks share each batch, see `reidgen.parallel`; the batches, and but for rounding the result, are
    those of one process. Every rank returns the run; rank 0 alone writes.
    Raises DataError (source), WeightsError (weights), RunError (folder in use, loss not finite), RecipeError (device, or
    a batch that the ranks cannot share), InterruptedRunError after Ctrl-C or SIGTERM, with the state kept,
    OutOfMemoryError.
    """
    with parallel.joined(device) as place:
        parallel.check_share(recipe.identities)
        run = planned_run(recipe, data=data, results=results)
        if any(parallel.any_rank(run.done.is_file())):
            return run
        with parallel.first_holds(run.lock()):
            if run.done.is_file():  # by another process, since we looked
                return run
            check_weights(recipe)  # before gigabytes of pixels are packed
            with enough_memory("training", LOWER):
                source = load_source(recipe, data=data, report=report)
                trainer = Trainer(recipe, source, run, place)  # first: without its weights there is no run to be found
                parallel.first(lambda: _begin(run, recipe))
                trainer.fit(report)
    return run


def planned_run(recipe: Recipe, *, data: Path, results: Path) -> Run:
    """Return the folder that a recipe's run has or will have; its hash needs the source and the weight file.

    Where the source is not prepared any more, the run that was finished with it, if there is exactly one.
    Raises DataError when a source is neither prepared nor was trained on, WeightsError when the weight file is missing.
    """
    weights = _weights_digest(recipe)
    try:
        return run_of(recipe, results=results, digest=recipe.hash(source_digest(recipe, data=data), weights))
    except DataError:
        name = run_of(recipe, results=results, digest="").folder
        runs = [Run(file.parent) for file in name.parent.glob(f"{glob.escape(name.name)}*/done")]
        there = [(run, run.facts()) for run in runs]
        same = [run for run, facts in there if recipe.hash(str(facts["source_data"]), weights) == facts["hash"]]
        if len(same) == 1:
            return same[0]
        raise


def check_weights(recipe: Recipe) -> None:
    """Raise WeightsError when the recipe's weights cannot be had or do not fit; they are downloaded where necessary."""
    if recipe.weights != "none":
        with torch.random.fork_rng(devices=[]):
            build_network(recipe.method, recipe.backbone, classes=1, weights=recipe.weights)


def _begin(run: Run, recipe: Recipe) -> None:
    for older in (run.results, run.per_query, run.folder / "stress.csv", run.folder / "attack.csv"):
        older.unlink(missing_ok=True)  # of weights that are gone
    if (patterns := run.folder / "attack").is_dir():
        shutil.rmtree(patterns)
    write_text(run.recipe_file, recipe.to_toml())


def _weights_digest(recipe: Recipe) -> str:
    if recipe.weights in ("imagenet", "none"):
        return recipe.weights
    return sha256_file(weight_file(recipe.weights))


class Trainer:
    """The state of one training: all that a checkpoint holds, and what is derived from the recipe."""

    def __init__(self, recipe: Recipe, source: Source, run: Run, device: torch.device) -> None:
        self.recipe, self.source, self.run, self.device = recipe, source, run, device
        torch.backends.cudnn.benchmark = True  # every batch has the same shape
        self.method = get_method(recipe.method)
        self.per_epoch = batches_per_epoch(recipe, len(source.label_N))
        self.steps = self.per_epoch * recipe.epochs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed("weights", recipe.seed))
            self.network: ReIDNet = build_network(
                recipe.method, recipe.backbone, classes=source.classes, weights=recipe.weights
            )
        if parallel.count() > 1:
            share_batch_norm(self.network.backbone)
        self.network.to(device=device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=device.type == "cuda"
        )
        self.losses = _compiled(self._losses) if recipe.compile else self._losses
        self.share = parallel.share(recipe.batch)
        self.step = self.saved = 0
        self.seconds = 0.0
        self.rows: list[dict[str, float]] = []
        self.sums = torch.zeros(len(LOSSES), device=device)  # of this epoch
        if run.state.is_file():
            self._resume()

    def fit(self, report: Progress) -> None:
        """Train to the end, write weights, then `done`."""
        labels = torch.from_numpy(self.source.label_N)
        saved = reported = time.monotonic()
        reported_step = self.step
        feeding = feed(self.source, self._batches(), share=self.share, device=self.device)
        self.network.train()
        with stop_signals() as stop, contextlib.closing(feeding):
            began = time.monotonic()
            for images_B, pixels in feeding:
                epoch, within = divmod(self.step, self.per_epoch)
                self.learn(pixels, labels[torch.from_numpy(images_B)])
                self.step += 1
                ended = time.monotonic()
                diverged = False
                if (last := within + 1 == self.per_epoch) or ended - reported > REPORT_SECONDS:
                    loss = float(self.sums[0]) / (within + 1)
                    diverged = not math.isfinite(loss)
                    ended = time.monotonic()  # on a GPU the number comes when the work is done
                    speed = (self.step - reported_step) * self.recipe.batch / max(ended - reported, 1e-9)
                    what = f"{self.recipe.method} s{self.recipe.seed}, epoch {epoch + 1}/{self.recipe.epochs}"
                    report(f"{what}, loss {loss:.2f}, {speed:.0f} images/s", self.step, self.steps)
                    reported, reported_step = ended, self.step
                self.seconds += ended - began
                diverged, stopping, saving = parallel.any_rank(
                    diverged, stop.is_set(), ended - saved > CHECKPOINT_SECONDS
                )
                if diverged:
                    self._refuse()
                if last:
                    self._end_epoch(epoch)
                if stopping:
                    self._save()
                    raise InterruptedRunError(
                        f"stopped at step {self.step} of {self.steps}; the state is kept in {self.run.folder}, "
                        "the same command goes on from there"
                    )
                if saving:
                    self._save()
                    saved = time.monotonic()
                began = time.monotonic()
        parallel.first(self._finish)
        if any(parallel.any_rank(stop.is_set())):  # since the last step
            raise InterruptedRunError(f"stopped; {self.run.folder} is complete, the same command goes on behind it")

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield the image numbers of every batch from this step on; a resumed run begins inside an epoch."""
        first, within = divmod(self.step, self.per_epoch)
        for epoch in range(first, self.recipe.epochs):
            batches = epoch_batches(self.source.label_N, self.source.domain_N, recipe=self.recipe, epoch=epoch)
            yield from batches[within:]
            within = 0

    def learn(self, pixels_BHWC: Tensor, label_B: Tensor) -> None:
        """Do one step on the pixels of this rank's rows, uint8 on the device, and the labels of the whole batch."""
        recipe = self.recipe
        drawn = draw_augmentation(recipe, step=self.step)[self.share].to(self.device, non_blocking=True)
        triplets = None
        if recipe.snr_triplets == "random":
            generator = torch.Generator().manual_seed(stream_seed("triplets", recipe.seed, self.step))
            positive, negative = draw_triplets(label_B, generator)
            triplets = positive.to(self.device, non_blocking=True), negative.to(self.device, non_blocking=True)
        images = augment(pixels_BHWC, drawn).contiguous(memory_format=memory_format(self.device))
        losses = self.losses(images, label_B.to(self.device, non_blocking=True), triplets)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(self.step / self.per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        losses[0].backward()  # type: ignore[no-untyped-call]
        parallel.average_gradients(self.parameters)
        self.optimizer.step()
        self.sums += losses.detach()

    def _losses(self, images: Tensor, label_B: Tensor, triplets: Triplets | None) -> Tensor:
        """Return the four LOSSES of a batch of standardized images, float32 (4,)."""
        recipe = self.recipe
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
            feature_BD, logits = self.network(images)
        cross_entropy = functional.cross_entropy(logits.float(), label_B, label_smoothing=recipe.label_smoothing)
        triplet = triplet_loss(feature_BD, label_B)
        snr = torch.zeros((), device=self.device)
        if self.method.plus or self.method.minus:
            for where, pooled in self.network.pooled().items():
                snr = snr + recipe.snr_weights[where - 1] * dual_causality_loss(
                    pooled,
                    label_B,
                    distance=recipe.snr_distance,
                    triplets=triplets,
                    plus=self.method.plus,
                    minus=self.method.minus,
                )
        return torch.stack([cross_entropy + triplet + snr, cross_entropy, triplet, snr])

    def _refuse(self) -> NoReturn:
        lr = self.recipe.lr_at((self.step - 1) / self.per_epoch)
        kept = f"the checkpoint of step {self.saved} is kept" if self.saved else "no checkpoint was written yet"
        raise RunError(
            f"{self.run.folder}: the loss is not finite at step {self.step} (learning rate {lr:.2e}); {kept}; "
            "try a smaller lr or dtype float32 in a recipe file"
        )

    def _end_epoch(self, epoch: int) -> None:
        means = dict(zip(LOSSES, (self.sums / self.per_epoch).tolist(), strict=True))
        lr = self.recipe.lr_at((self.step - 1) / self.per_epoch)
        before = self.rows[-1]["seconds"] if self.rows else 0.0
        speed = self.per_epoch * self.recipe.batch / max(self.seconds - before, 1e-9)
        self.rows.append({"epoch": epoch + 1, **means, "lr": lr, "images_per_s": speed, "seconds": self.seconds})
        text = pd.DataFrame(self.rows).to_csv(index=False, float_format="%.6g")
        parallel.first(lambda: write_text(self.run.log, text))
        self.sums.zero_()

    def _state(self) -> dict[str, Any]:
        return {
            "version": provenance()["version"],
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.rows,
            "sums": self.sums,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _save(self) -> None:
        """Write a checkpoint, but never of parameters or losses that are no longer finite."""
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (self.sums, *self.network.parameters())):
            self._refuse()
        parallel.first(self._write_state)
        self.saved = self.step

    def _write_state(self) -> None:
        buffer = io.BytesIO()  # so that a full disk meets our own write, with its clear error
        torch.save(self._state(), buffer)
        with replacing(self.run.state) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def _resume(self) -> None:
        try:
            state = torch.load(self.run.state, map_location=self.device, weights_only=True)
            if state["version"] != provenance()["version"]:
                raise RunError(
                    f"{self.run.folder} was begun by reidgen {state['version']}, this is {provenance()['version']}; "
                    "remove the folder to begin anew, or finish it with the older version"
                )
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]
            self.saved = self.step
            self.sums.copy_(state["sums"])
        except (
            pickle.UnpicklingError,
            RuntimeError,
            EOFError,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:
            raise RunError(f"{self.run.state} cannot be read; remove it to begin this run anew ({error})") from error

    def _finish(self) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        with replacing(self.run.weights) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors))
        facts = {
            "weights_sha256": sha256_file(self.run.weights),
            "hash": self.run.folder.name.rpartition("-")[2],
            "classes": self.source.classes,
            "single": self.source.single,
            "source_data": self.source.digest,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            **provenance(),
            "date": now(),
        }
        write_text(self.run.done, json.dumps(facts, indent=2) + "\n")
        self.run.state.unlink(missing_ok=True)


def _compiled(work: Callable[..., Tensor]) -> Callable[..., Tensor]:
    compiled = torch.compile(work)

    def run(*inputs: object) -> Tensor:
        try:
            return compiled(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())
            raise RecipeError(f"PyTorch cannot compile on this machine ({reason}); leave out --compile") from error

    return run


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets, so that training stops between two steps; a second one stops hard."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
