"""The only training loop: every method, backbone and source goes through `train`."""

import contextlib
import io
import json
import math
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from reidgen.data.batches import (
    Source,
    augment,
    batches_per_epoch,
    draw_augmentation,
    epoch_batches,
    load_source,
    source_digest,
    stream_seed,
)
from reidgen.devices import choose_device, device_name, memory_format
from reidgen.errors import InterruptedRunError, RunError, WeightsError
from reidgen.files import replacing, sha256_file, write_text
from reidgen.losses import draw_triplets, dual_causality_loss, triplet_loss
from reidgen.methods import get_method
from reidgen.models.network import ReIDNet, build_network
from reidgen.recipe import Recipe
from reidgen.runs import Progress, Run, now, provenance, run_of

CHECKPOINT_SECONDS = 60.0
REPORT_SECONDS = 0.5
LOSSES = ("loss", "cross_entropy", "triplet", "snr")


def train(recipe: Recipe, *, data: Path, results: Path, device: str = "auto", report: Progress) -> Run:
    """Train one network and return its run folder; a finished run returns at once, an unfinished one goes on.

    The same recipe, data and CPU build give the same weights, bit for bit, however often training was interrupted:
    initial weights, batches and augmentation depend on the seed and the step alone. The last epoch is the model; no
    target is ever looked at. `report` gets ("method s0, epoch 3/60, loss 2.31, 410 images/s", step, steps).
    Raises DataError (source), WeightsError (weights), RunError (folder in use, loss not finite), InterruptedRunError
    after Ctrl-C or SIGTERM, with the state kept.
    """
    place = choose_device(device)
    run = run_of(recipe, results=results, digest=recipe.hash(source_digest(recipe, data=data), _weights_digest(recipe)))
    if run.done.is_file():
        return run
    with run.lock():
        if run.done.is_file():  # by another process, since we looked
            return run
        source = load_source(recipe, data=data, report=report)
        for older in (run.results, run.per_query):  # of weights that are gone
            older.unlink(missing_ok=True)
        write_text(run.recipe_file, recipe.to_toml())
        _Trainer(recipe, source, run, place).fit(report)
        run.state.unlink(missing_ok=True)
    return run


def _weights_digest(recipe: Recipe) -> str:
    if recipe.weights in ("imagenet", "none"):
        return recipe.weights
    path = Path(recipe.weights)
    if not path.is_file():
        raise WeightsError(f"no weight file {path}; give an existing file, or use --weights imagenet or none")
    return sha256_file(path)


class _Trainer:
    """The state of one training: all that a checkpoint holds, and what is derived from the recipe."""

    def __init__(self, recipe: Recipe, source: Source, run: Run, device: torch.device) -> None:
        self.recipe, self.source, self.run, self.device = recipe, source, run, device
        self.method = get_method(recipe.method)
        self.per_epoch = batches_per_epoch(recipe, len(source.label_N))
        self.steps = self.per_epoch * recipe.epochs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed("weights", recipe.seed))
            self.network: ReIDNet = build_network(
                recipe.method, recipe.backbone, classes=source.classes, weights=recipe.weights
            )
        self.network.to(device=device, memory_format=memory_format(device))  # type: ignore[call-overload]
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(
            parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=device.type == "cuda"
        )
        self.step = 0
        self.seconds = 0.0
        self.rows: list[dict[str, float]] = []
        self.sums = torch.zeros(len(LOSSES), device=device)  # of this epoch
        if run.state.is_file():
            self._resume()

    def fit(self, report: Progress) -> None:
        """Train to the end, write weights, then `done`."""
        pixels, labels = self.source.pixels_NHWC.to(self.device), torch.from_numpy(self.source.label_N)
        saved = reported = time.monotonic()
        reported_step = self.step
        batches = None  # of the epoch in work; a resumed run begins inside one
        self.network.train()
        with _stop_signals() as stop:
            while self.step < self.steps:
                began = time.monotonic()
                epoch, within = divmod(self.step, self.per_epoch)
                if within == 0 or batches is None:
                    batches = epoch_batches(self.source.label_N, recipe=self.recipe, epoch=epoch)
                index = torch.from_numpy(batches[within])
                self._step(pixels[index.to(self.device)], labels[index])
                self.step += 1
                ended = time.monotonic()
                if (last := within + 1 == self.per_epoch) or ended - reported > REPORT_SECONDS:
                    loss = self._check_losses(within + 1)[0]
                    ended = time.monotonic()  # on a GPU the numbers come when the work is done
                    speed = (self.step - reported_step) * self.recipe.batch / max(ended - reported, 1e-9)
                    what = f"{self.recipe.method} s{self.recipe.seed}, epoch {epoch + 1}/{self.recipe.epochs}"
                    report(f"{what}, loss {loss:.2f}, {speed:.0f} images/s", self.step, self.steps)
                    reported, reported_step = ended, self.step
                self.seconds += ended - began
                if last:
                    self._end_epoch(epoch)
                if stop.is_set():
                    self._save()
                    raise InterruptedRunError(
                        f"stopped at step {self.step} of {self.steps}; the state is kept in {self.run.folder}, "
                        "the same command goes on from there"
                    )
                if ended - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
        self._finish()

    def _step(self, pixels_BHWC: Tensor, label_B: Tensor) -> None:
        recipe = self.recipe
        drawn = draw_augmentation(recipe, step=self.step).to(self.device, non_blocking=True)
        images = augment(pixels_BHWC, drawn).contiguous(memory_format=memory_format(self.device))
        generator = torch.Generator().manual_seed(stream_seed("triplets", recipe.seed, self.step))
        triplets = None
        if recipe.snr_triplets == "random":
            positive, negative = draw_triplets(label_B, generator)
            triplets = positive.to(self.device, non_blocking=True), negative.to(self.device, non_blocking=True)
        label_B = label_B.to(self.device, non_blocking=True)
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
        loss = cross_entropy + triplet + snr
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(self.step / self.per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.sums += torch.stack([loss, cross_entropy, triplet, snr]).detach()

    def _check_losses(self, steps: int) -> list[float]:
        """Return this epoch's mean losses so far. Raises RunError when they are not finite."""
        means: list[float] = (self.sums / steps).tolist()
        if not all(map(math.isfinite, means)):
            lr = self.recipe.lr_at((self.step - 1) / self.per_epoch)
            kept = "the last checkpoint is kept" if self.run.state.is_file() else "no checkpoint was written yet"
            raise RunError(
                f"{self.run.folder}: the loss is not finite at step {self.step} (learning rate {lr:.2e}); {kept}; "
                "try a smaller lr or dtype float32 in a recipe file"
            )
        return means

    def _end_epoch(self, epoch: int) -> None:
        means = dict(zip(LOSSES, self._check_losses(self.per_epoch), strict=True))
        lr = self.recipe.lr_at((self.step - 1) / self.per_epoch)
        before = self.rows[-1]["seconds"] if self.rows else 0.0
        speed = self.per_epoch * self.recipe.batch / max(self.seconds - before, 1e-9)
        self.rows.append({"epoch": epoch + 1, **means, "lr": lr, "images_per_s": speed, "seconds": self.seconds})
        write_text(self.run.log, pd.DataFrame(self.rows).to_csv(index=False, float_format="%.6g"))
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
        """Write a checkpoint, but never of parameters that are no longer finite."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters()):
            self.sums += torch.nan
            self._check_losses(1)
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
            self.sums.copy_(state["sums"])
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
            raise RunError(f"{self.run.state} cannot be read; remove it to begin this run anew ({error})") from error

    def _finish(self) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        with replacing(self.run.weights) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors))
        facts = {
            "weights_sha256": sha256_file(self.run.weights),
            "hash": self.run.folder.name.rpartition("-")[2],
            "classes": self.source.classes,
            "source_data": self.source.digest,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "device": device_name(self.device),
            "torch": torch.__version__,
            **provenance(),
            "date": now(),
        }
        write_text(self.run.done, json.dumps(facts, indent=2) + "\n")


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
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
