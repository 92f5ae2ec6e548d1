"""SNR against its naive form and Baseline on a CPU: step time, peak memory, and how far values and gradients differ.

    python scripts/prove_normalization.py results/speed-cpu-2026-11-23

ResNet-50 at 256x128, the recipe's batch of 64 (up to 6.5 GB). Each form is measured in processes of its own, as peak
memory never falls, and in turns, so that other work on the machine meets all forms.
"""

import copy
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import proof
import torch
from torch import Tensor, nn

from reidgen.data.augment import augment, draw_augmentation
from reidgen.models.norms import SNR, Pooled
from reidgen.recipe import Recipe
from reidgen.runs import Run
from reidgen.speed import noise
from reidgen.training import Trainer

RECIPE = Recipe(weights="none", batches_per_epoch=100)
STEPS, TURNS = 3, 2
FORMS = ("baseline", "snr", "naive")


def naive_forward(self: SNR, map_BCHW: Tensor) -> Tensor:
    """SNR as the paper's equations stand, map by map, with torch's Instance Norm."""
    normalized = nn.functional.instance_norm(map_BCHW, weight=self.weight, bias=self.bias, eps=self.eps)
    removed = map_BCHW - normalized
    gate = self.gate(removed.mean((2, 3)))[:, :, None, None]
    restored, contaminated = normalized + gate * removed, normalized + (1 - gate) * removed
    self.offered = Pooled(*(map_.mean((2, 3)) for map_ in (normalized, restored, contaminated)))
    return restored  # type: ignore[no-any-return]


def measure(form: str) -> None:
    """Print one form's best step, the step's CPU time, the share of data in it and the process's peak memory."""
    if form == "naive":
        SNR.forward = naive_forward  # type: ignore[method-assign]
    recipe = RECIPE.change(method="baseline" if form == "baseline" else "snr")
    source, image_B = noise(recipe), np.arange(recipe.batch)
    trainer, pixels_BHWC = Trainer(recipe, source, Run(Path("none")), torch.device("cpu")), source.read(image_B)
    trainer.network.train()
    times = []
    for _ in range(1 + STEPS):
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.learn(pixels_BHWC, image_B)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    data = []
    for _ in range(1 + STEPS):
        cpu = time.process_time()
        augment(source.read(image_B), draw_augmentation(recipe, step=0), recipe)
        data.append(time.process_time() - cpu)
    wall, cpu = map(min, zip(*times[1:], strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"seconds": wall, "CPU seconds": cpu, "peak GB": peak, "data share": min(data[1:]) / cpu}))


def differences() -> list[dict[str, object]]:
    """Return how far SNR's output, pooled features and gradients are from the naive form's, relative in norm."""
    torch.manual_seed(0)
    rows: list[dict[str, object]] = []
    for channels, height, width in ((256, 64, 32), (512, 32, 16), (1024, 16, 8), (2048, 16, 8)):
        ours = SNR(channels)
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
        naive, found = copy.deepcopy(ours), []
        start, weight = torch.relu(torch.randn(4, channels, height, width)), torch.randn(4, channels, height, width)
        for module, forward in ((ours, SNR.forward), (naive, naive_forward)):
            inputs = start.clone().requires_grad_()
            out = forward(module, inputs)
            assert isinstance(module.offered, Pooled)
            _, restored, contaminated = module.offered
            loss = (out * weight).sum() + restored.square().sum() + contaminated.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            grads = torch.cat(
                [parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None]
            )
            assert inputs.grad is not None
            found.append((out, torch.cat(module.offered[1:]), inputs.grad, grads))
        names = ("value", "pooled", "gradient of the input", "gradient of the parameters")
        off = {name: ((a - b).norm() / b.norm()).item() for name, a, b in zip(names, *found, strict=True)}
        rows.append({"form": f"differences at {channels} x {height} x {width}", **off})
    return rows


def main() -> None:
    folder = proof.folder(__doc__)
    found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for form in FORMS * TURNS:
        ended = subprocess.run([sys.executable, __file__, "--form", form], check=True, capture_output=True, text=True)
        found[form].append(json.loads(ended.stdout))
    rows: list[dict[str, Any]] = [
        {"form": form, "batch": RECIPE.batch, **{key: min(turn[key] for turn in turns) for key in turns[0]}}
        for form, turns in found.items()
    ]
    for row in rows:
        row["of Baseline"] = row["seconds"] / rows[0]["seconds"]
        row["of Baseline, CPU time"] = row["CPU seconds"] / rows[0]["CPU seconds"]
    proof.write(folder / "normalization.csv", rows)
    proof.write(folder / "normalization-differences.csv", differences())


if __name__ == "__main__":
    measure(sys.argv[2]) if sys.argv[1:2] == ["--form"] else main()
