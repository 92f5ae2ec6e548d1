"""The only training loop: every method, backbone and source goes through `train`."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import math
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reidgen import parallel
from reidgen.contracts import Batch, Step
from reidgen.data.augment import augment, draw_augmentation, standardize, to_float
from reidgen.data.batches import Source, batches_per_epoch, epoch_batches, feed, load_source
from reidgen.devices import device_name, enough_memory, memory_format, put_on
from reidgen.errors import InterruptedRunError, RecipeError, ReidgenError, RunError
from reidgen.files import fill, replacing, reserve, write_text
from reidgen.graphs import Groups, Recorder, StaticStep, bring, incapable, recorder_for
from reidgen.integrity import seal_of, text_digest, trailer, with_check, without_trailer
from reidgen.models.network import (
    ReIDNet,
    build_augmentations,
    build_losses,
    build_network,
    check_recipe,
    draws,
    hand_out,
    named_losses,
    own_chance,
)
from reidgen.models.norms import share_batch_norm
from reidgen.planning import planned_run
from reidgen.process import usual_settings
from reidgen.recipe import Recipe
from reidgen.registry import blaming, load_plugins
from reidgen.runs import Progress, Run, now, provenance
from reidgen.seeds import stream_seed
from reidgen.stopping import stop_signals
from reidgen.tracking import check_followers, following

CHECKPOINT_SECONDS = 60.0
REPORT_SECONDS = 0.5
MOMENTUM = 0.9  # of the optimizer "sgd" [A]
EMBEDDED = 256  # images at a time, of the sources, before the first step
COMPILED = 200  # steps that one process compiles, of rows and sizes; PyTorch's 8 leave the ninth as it is
LOWER = "lower identities or images (of a batch), height or width in a recipe file, or take a smaller --backbone"


@usual_settings()
def train(
    recipe: Recipe, *, data: Path, results: Path, device: str = "auto", log: Sequence[str] = (), report: Progress
) -> Run:
    """Train one network and return its run folder; a finished run returns at once, an unfinished one goes on.

    The same recipe, data and CPU build give the same weights, bit for bit, however often training was interrupted:
    initial weights, batches and augmentation depend on the seed and the step alone. The last epoch is the model; no
    target is ever looked at. log: where it is followed, see `reidgen.tracking`.
    `report` gets ("method s0, epoch 3/60, loss 2.31, 410 images/s", step, steps).
    Under torchrun the ranks share each batch, see `reidgen.parallel`; the batches, and but for rounding the result, are
    those of one process. Every rank returns the run; rank 0 alone writes.
    Raises DataError (source), WeightsError (weights), RunError (folder in use, loss not finite), RecipeError (device,
    or a batch that the ranks cannot share), InterruptedRunError after Ctrl-C, SIGTERM or SIGHUP, with the state kept,
    OutOfMemoryError.
    """
    check_followers(log)
    load_plugins(recipe.plugins)  # in a process of its own they are not there yet
    check_recipe(recipe)
    with parallel.joined(device) as place:
        parallel.check_share(recipe.identities)
        run = planned_run(recipe, data=data, results=results)
        if any(parallel.any_rank(run.done.is_file())):
            return run
        with parallel.first_holds(run.lock()):
            if run.done.is_file():  # by another process, since we looked
                return run
            check_weights(recipe)  # before gigabytes of pixels are packed
            report = run.telling(report)
            with enough_memory("training", LOWER), blaming():
                source = load_source(recipe, data=data, report=report)
                trainer = Trainer(recipe, source, run, place)  # first: without its weights there is no run to be found
                parallel.first(lambda: _begin(run, recipe))
                with following(log if parallel.number() == 0 else (), run, recipe, trainer.epoch) as trainer.follow:
                    trainer.fit(report)
    return run


def check_weights(recipe: Recipe) -> None:
    """Raise WeightsError when the recipe's weights cannot be had or do not fit; they are downloaded where necessary."""
    if recipe.weights != "none":
        with own_chance():
            build_network(
                recipe.row,
                recipe.backbone,
                classes=1,
                weights=recipe.weights,
                size=recipe.size,
                pooling=recipe.pooling,
            )


def _begin(run: Run, recipe: Recipe) -> None:
    run.check_hold()
    for older in (
        run.results,
        seal_of(run.results),
        run.per_query,
        run.folder / "stress.csv",
        seal_of(run.folder / "stress.csv"),
        run.folder / "attack.csv",
        seal_of(run.folder / "attack.csv"),
    ):
        older.unlink(missing_ok=True)  # of weights that are gone
    if (patterns := run.folder / "attack").is_dir():
        shutil.rmtree(patterns)
    write_text(run.recipe_file, recipe.own().to_toml())
    write_text(run.row_file, json.dumps(recipe.row_facts(), indent=2, ensure_ascii=False) + "\n")


class Trainer:
    """The state of one training: all that a checkpoint holds, and what is derived from the recipe."""

    def __init__(self, recipe: Recipe, source: Source, run: Run, device: torch.device) -> None:
        self.recipe, self.source, self.run, self.device = recipe, source, run, device
        self.row = recipe.row
        self.per_epoch = batches_per_epoch(recipe, len(source.label_N))
        self.steps = self.per_epoch * recipe.epochs
        domains = len(source.packs)
        with own_chance(stream_seed("weights", recipe.seed)):
            self.network = build_network(
                self.row,
                recipe.backbone,
                classes=source.classes,
                weights=recipe.weights,
                size=recipe.size,
                pooling=recipe.pooling,
            )
            self.losses = build_losses(self.row, recipe.losses, self.network, domains=domains)
        self.augmentations = build_augmentations(self.row)
        if parallel.count() > 1:
            share_batch_norm(self.network)
        put_on(self.network, device)
        self.losses.to(device)
        self.names = ("loss", *self.losses)
        self.parameters = [
            one for part in (self.network, self.losses) for one in part.parameters() if one.requires_grad
        ]
        self.optimizer = self._optimizer()
        self.measure = _compiled(_measure) if recipe.compile else _measure
        self.incapable = ""  # the part that keeps steps from being recorded
        self.refused: list[str] = []  # why PyTorch did not record one
        self.work = StaticStep(device=device, recorder=self._recorder(), refused=self.refused.append)
        self.share = parallel.share(recipe.batch)
        self.labels = [torch.from_numpy(values) for values in (source.label_N, source.camid_N, source.domain_N)]
        self.step = self.saved = 0
        self.seconds = 0.0
        self.rows: list[dict[str, float]] = []
        self.follow: Callable[[dict[str, float]], None] = lambda row: None
        self.sums = torch.zeros(len(self.names), device=device)  # of this epoch
        if run.state.is_file():
            self._resume()

    def _optimizer(self) -> torch.optim.Optimizer:
        recipe, fused = self.recipe, self.device.type == "cuda"
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                self._groups(), lr=recipe.lr, momentum=MOMENTUM, weight_decay=recipe.weight_decay, fused=fused
            )
        else:
            optimizer = torch.optim.Adam(self._groups(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
        if fused:  # a fused optimizer reads the rate and counts its steps on the device
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(recipe.lr, device=self.device)
        return optimizer

    def _recorder(self) -> Recorder | None:
        """Return what records the steps: on a GPU, in one process, without torch.compile, where all parts allow it."""
        recorder = recorder_for(self.device)
        if recorder is None or self.recipe.compile or parallel.count() > 1:
            return None
        self.incapable = incapable([*self.network.parts, *self.losses.values()])
        return None if self.incapable else recorder

    @property
    def eager(self) -> str:
        """Why no step was recorded, where it could have been; "" where one was, or will be."""
        return self.incapable or (f"PyTorch cannot record a step ({self.refused[0]})" if self.refused else "")

    def _groups(self) -> list[dict[str, Any]]:
        """Return the parameters by how many times the recipe's rate they have; those with a rate of their own have no
        weight decay.
        """
        rates = {
            parameter: float(module.rates[name])
            for _, module in self.network.drawing()
            for name, parameter in module.named_parameters(recurse=False)
            if name in module.rates
        }
        groups: list[dict[str, Any]] = [{"params": [one for one in self.parameters if one not in rates], "rate": 1.0}]
        for rate in sorted(set(rates.values())):
            own = [one for one in self.parameters if rates.get(one) == rate]
            groups.append({"params": own, "rate": rate, "weight_decay": 0.0})
        return groups

    @property
    def epoch(self) -> int:
        """The epochs that are done."""
        return self.step // self.per_epoch

    def fit(self, report: Progress) -> None:
        """Train to the end, write weights, then `done`."""
        parallel.first(self._reserve)
        if self.step == 0:
            self._begin_losses(report)
        feeding = feed(self.source, self._batches(), share=self.share, device=self.device)
        self.network.train()
        self.losses.train()
        with stop_signals() as stop, contextlib.closing(feeding):
            watch = _Watch(self, report)
            for images_B, pixels in feeding:
                self.learn(pixels, images_B)
                self.step += 1
                last = self.step % self.per_epoch == 0
                diverged, stopping, saving = parallel.any_rank(watch.look(last), stop.is_set(), watch.save_is_due())
                if diverged:
                    self._refuse()
                if last:
                    self._end_epoch()
                if stopping:
                    self._save()
                    raise InterruptedRunError(
                        f"stopped at step {self.step} of {self.steps}; the state is kept in {self.run.folder}, "
                        "the same command goes on from there"
                    )
                if saving:
                    self._save()
                    watch.saved()
                watch.begin()
        parallel.first(self._finish)
        if any(parallel.any_rank(stop.is_set())):  # since the last step
            raise InterruptedRunError(f"stopped; {self.run.folder} is complete, the same command goes on behind it")

    def _begin_losses(self, report: Progress) -> None:
        """Let each loss start from what the untrained network sees; the images are embedded once, if one asks."""

        @functools.cache
        def embed() -> tuple[Tensor, Tensor, Tensor]:
            images, parts = len(self.source.label_N), list[Tensor]()
            for rows in np.split(np.arange(images), range(EMBEDDED, images, EMBEDDED)):
                pixels = standardize(to_float(self.source.read(rows).to(self.device)))
                parts.append(self.network(pixels.contiguous(memory_format=memory_format(self.device))).float())
                report("embedding", int(rows[-1]) + 1, images)
            label, _, domain = bring(self.labels, self.device)
            return torch.cat(parts), label, domain

        self.network.eval()
        with torch.no_grad():
            for _, loss in named_losses(self.losses):
                loss.begin(embed)

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield the image numbers of every batch from this step on; a resumed run begins inside an epoch."""
        first, within = divmod(self.step, self.per_epoch)
        for epoch in range(first, self.recipe.epochs):
            batches = epoch_batches(self.source.label_N, self.source.domain_N, recipe=self.recipe, epoch=epoch)
            yield from batches[within:]
            within = 0

    def learn(self, pixels_BHWC: Tensor, images_B: NDArray[np.int64]) -> None:
        """Do one step on the pixels of this rank's rows, uint8 on the device, and the numbers of the whole batch's
        images. On a GPU the host draws for it and goes on; only a row's own augmentations may make it wait.
        """
        step = self._see(images_B)
        views = [draw_augmentation(self.recipe, step=self.step, view=view) for view in range(self.row.views)]
        augmentation = (torch.cat([view[self.share] for view in views]),)
        labels = (step.pid, step.camid, step.domain, step.view)
        given = pixels_BHWC
        if self.augmentations:  # these may decide on the host, so they are never recorded
            given = self._load(pixels_BHWC, bring(augmentation, self.device)[0], step)
        self._set_rates()
        self.work(self._do, [(given,), augmentation, labels, *draws(self.network, self.losses, step)])

    def _do(self, groups: Groups) -> None:
        """Do what a step does on the device: from tensors alone, and without a look at their values, for it may be
        recorded.
        """
        (given,), (drawn,), (pid, camid, domain, view), *parts = groups
        hand_out(self.network, self.losses, parts)
        images = given if self.augmentations else self._load(given, drawn, None)
        batch = Batch(pid, camid, domain, view, images=self.recipe.batch)
        losses = self.measure(self.network, self.losses, images, batch, self.recipe.dtype)
        self.optimizer.zero_grad(set_to_none=True)  # of a recording, gradients get memory of its own
        losses[0].backward()  # type: ignore[no-untyped-call]
        parallel.average_gradients(self.parameters)
        if self.device.type == "cuda":
            for group in self.optimizer.param_groups:  # Adam asks for this word where it is recorded, and only there
                if "capturable" in group:
                    group["capturable"] = torch.cuda.is_current_stream_capturing()
        self.optimizer.step()
        for _, module in self.network.drawing():
            module.after_step()
        self.sums += losses.detach()

    def _set_rates(self) -> None:
        """Set the learning rate of this step; on a GPU it is a tensor, which a recorded step reads."""
        for group in self.optimizer.param_groups:
            rate = self.recipe.lr_at(self.step / self.per_epoch) * group["rate"]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _see(self, images_B: NDArray[np.int64]) -> Step:
        """Return what parts may know of this step."""
        rows = torch.from_numpy(images_B)
        views = torch.arange(self.row.views).repeat_interleave(len(rows))
        own = torch.cat([torch.arange(len(rows))[self.share] + view * len(rows) for view in range(self.row.views)])
        pid, camid, domain = (values[rows].repeat(self.row.views) for values in self.labels)
        return Step(pid, camid, domain, views, own, seed=self.recipe.seed, number=self.step)

    def _load(self, pixels_BHWC: Tensor, drawn: Tensor, step: Step | None) -> Tensor:
        """Return the augmented images of this rank, all views; step: for a row's own augmentations."""
        views = self.row.views
        pixels = pixels_BHWC if views == 1 else pixels_BHWC.repeat(views, 1, 1, 1)
        images = augment(pixels, drawn, self.recipe)
        images = standardize(self._augment(images, step) if step else images)
        return images.contiguous(memory_format=memory_format(self.device))

    def _augment(self, images: Tensor, step: Step) -> Tensor:
        """Return the rows of all views, in 0..1, those behind the first as the row's augmentations leave them."""
        views = list(images.chunk(self.row.views))
        own = torch.arange(self.recipe.batch)[self.share]
        for number in range(1, self.row.views):
            here = step.view == number
            for order, augmentation in enumerate(self.augmentations):
                its = dataclasses.replace(
                    step,
                    pid=step.pid[here],
                    camid=step.camid[here],
                    domain=step.domain[here],
                    view=step.view[here],
                    own=own,
                    where=f"view {number}.{order}",
                )
                augmentation.drawn = bring(augmentation.draw(its), self.device)
                views[number] = augmentation(views[number])
        return torch.cat(views)

    def _refuse(self) -> NoReturn:
        lr = self.recipe.lr_at((self.step - 1) / self.per_epoch)
        kept = f"the checkpoint of step {self.saved} is kept" if self.saved else "no checkpoint was written yet"
        raise RunError(
            f"{self.run.folder}: the loss is not finite at step {self.step} (learning rate {lr:.2e}); {kept}; "
            "try a smaller lr or dtype float32 in a recipe file"
        )

    def _end_epoch(self) -> None:
        epoch = self.step // self.per_epoch
        means = dict(zip(self.names, (self.sums / self.per_epoch).tolist(), strict=True))
        lr = self.recipe.lr_at((self.step - 1) / self.per_epoch)
        before = self.rows[-1]["seconds"] if self.rows else 0.0
        speed = self.per_epoch * self.recipe.batch / max(self.seconds - before, 1e-9)
        self.rows.append({"epoch": epoch, **means, "lr": lr, "images_per_s": speed, "seconds": self.seconds})
        parallel.first(self._write_log)
        self.sums.zero_()

    def _log(self) -> str:
        return pd.DataFrame(self.rows).to_csv(index=False, float_format="%.6g")

    def _write_log(self) -> None:
        self.run.check_hold()
        with contextlib.suppress(ReidgenError):  # a full disk ends no training: the state and `_finish` hold it too
            write_text(self.run.log, self._log())
        self.follow(self.rows[-1])

    def _state(self) -> dict[str, Any]:
        return {
            "version": provenance()["version"],
            "run": self._name(),
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.rows,
            "sums": self.sums,
            "network": self.network.state_dict(),
            "losses": self.losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _name(self) -> str:
        return f"{self.run.folder.parent.name}/{self.run.folder.name}"

    def _save(self) -> None:
        """Write a checkpoint, but never of parameters or losses that are no longer finite."""
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (self.sums, *self.parameters)):
            self._refuse()
        parallel.first(self._write_state)
        self.saved = self.step

    def _write_state(self) -> None:
        self.run.check_hold()
        buffer = io.BytesIO()  # so that a full disk meets our own write, with its clear error
        torch.save(self._state(), buffer)
        with replacing(self.run.state) as temporary, temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.write(trailer(buffer.getbuffer()))  # torch does not check the bytes that it reads

    def _resume(self) -> None:
        try:
            content = without_trailer(self.run.state.read_bytes())
            if content is None:
                raise ValueError("its bytes do not fit their digest")
            state = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
            if state["version"] != provenance()["version"]:
                raise RunError(
                    f"{self.run.folder} was begun by reidgen {state['version']}, this is {provenance()['version']}; "
                    "remove the folder to begin anew, or finish it with the older version"
                )
            if state["run"] != self._name():
                raise ValueError(f"it is the state of another run, {state['run']}")
            self.network.load_state_dict(state["network"])
            self.losses.load_state_dict(state["losses"])
            groups = zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True)
            for begun, own in groups:  # a run that was begun on a CPU goes on on a GPU, and the other way round
                begun |= {key: own[key] for key in ("lr", "fused", "capturable") if key in own}
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
            OSError,
        ) as error:
            raise RunError(f"{self.run.state} cannot be read; remove it to begin this run anew ({error})") from error

    def _finish(self) -> None:
        self.run.check_hold()
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        content = safetensors.torch.save(tensors)
        log = self._log().encode()
        facts = {
            "weights_sha256": hashlib.sha256(content).hexdigest(),
            "recipe_sha256": text_digest(self.run.recipe_file),
            "row_sha256": text_digest(self.run.row_file),
            "log_sha256": hashlib.sha256(log).hexdigest(),
            "hash": self.run.hash,
            "row": self.row.digest,
            "sources": [origin._asdict() for origin in self.source.origins],
            "classes": self.source.classes,
            "single": self.source.single,
            "weights_from": self.network.started.origin,
            "weights_unused": self.network.started.unused,
            "source_data": self.source.digest,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            **({"eager": self.eager} if self.eager else {}),
            "torch": torch.__version__,
            **provenance(),
            "date": now(),
        }
        try:
            fill(self.run.weights, content)
            fill(self.run.log, log)
            fill(self.run.done, f"{json.dumps(with_check(facts), indent=2)}\n".encode())
        except ReidgenError as error:
            raise RunError(f"{error}; {self._keep()}") from error
        self.run.state.unlink(missing_ok=True)

    def _reserve(self) -> None:
        """Take the room of what `_finish` writes: a disk that is too full is met before training, not behind it."""
        size = sum(tensor.nbytes for tensor in self.network.state_dict().values())
        reserve(self.run.weights, size + 1024 * len(self.network.state_dict()))  # with safetensors' header
        reserve(self.run.log, 256 * (self.recipe.epochs + 1))
        reserve(self.run.done, 4096)

    def _keep(self) -> str:
        """Write the state when training cannot be finished, and say which one is kept: this, an older one or none."""
        with contextlib.suppress(ReidgenError):
            self._write_state()
            self.saved = self.step
        if not self.saved:
            return "no state could be written either, so this run begins anew"
        return f"the state of step {self.saved} of {self.steps} is kept, the same command goes on from there"


class _Watch:
    """The clock of a training: what is reported how often, and when a checkpoint is due."""

    def __init__(self, trainer: Trainer, report: Progress) -> None:
        self.trainer, self.report = trainer, report
        self.began = self.written = self.reported = time.monotonic()
        self.reported_step = trainer.step

    def begin(self) -> None:
        """Begin to count the seconds of a step: what is written between two steps does not count."""
        self.began = time.monotonic()

    def look(self, last: bool) -> bool:
        """Count the step's seconds, report what is due, and return whether the loss is no longer finite.

        The loss is looked at, which on a GPU waits for the work, at the last step of an epoch and every REPORT_SECONDS.
        """
        trainer, diverged, ended = self.trainer, False, time.monotonic()
        if last or ended - self.reported > REPORT_SECONDS:
            steps = trainer.step % trainer.per_epoch or trainer.per_epoch
            loss = float(trainer.sums[0]) / steps
            diverged = not math.isfinite(loss)
            ended = time.monotonic()
            self._report(loss, ended)
        trainer.seconds += ended - self.began
        return diverged

    def _report(self, loss: float, ended: float) -> None:
        trainer, recipe = self.trainer, self.trainer.recipe
        steps = trainer.step - self.reported_step
        speed = steps * recipe.batch / max(ended - self.reported, 1e-9)
        epoch = (trainer.step - 1) // trainer.per_epoch + 1
        what = f"{trainer.row.label} s{recipe.seed}, epoch {epoch}/{recipe.epochs}"
        self.report(f"{what}, loss {loss:.2f}, {speed:.0f} images/s", trainer.step, trainer.steps)
        self.reported, self.reported_step = ended, trainer.step

    def save_is_due(self) -> bool:
        """Return whether the last checkpoint is older than CHECKPOINT_SECONDS."""
        return time.monotonic() - self.written > CHECKPOINT_SECONDS

    def saved(self) -> None:
        """Note that a checkpoint was written."""
        self.written = time.monotonic()


def _measure(network: ReIDNet, losses: nn.ModuleDict, images: Tensor, batch: Batch, dtype: str) -> Tensor:
    """Return the losses of a batch of standardized images in the order of `Trainer.names`, float32: first their sum."""
    kind = images.device.type
    kept = kind != "cuda"  # a recorded step must cast its weights itself, each is used once anyway
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=dtype == "bfloat16", cache_enabled=kept):
        output = network(images)
    values = [loss(output, batch) for _, loss in named_losses(losses)]
    return torch.stack([functools.reduce(torch.add, values), *values])


def _compiled(work: Callable[..., Tensor]) -> Callable[..., Tensor]:
    torch._dynamo.config.recompile_limit = COMPILED
    compiled = torch.compile(work)

    def run(*inputs: object) -> Tensor:
        try:
            return compiled(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())
            raise RecipeError(f"PyTorch cannot compile on this machine ({reason}); leave out --compile") from error

    return run
