"""Export rows and backbones to ONNX, and print the largest difference from PyTorch in onnxruntime.

    python scripts/prove_export.py FOLDER [--rows all] [--backbones tiny] [--size 64x32]

Networks are freshly built, with parameters drawn so that no norm is an identity, and verified on drawn people in
batches of one and of many. Writes FOLDER/export.csv after each; what stands there is not repeated. A row that has no
meaning on a backbone is left out, with the reason.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from reidgen.backbones import BACKBONES
from reidgen.deploy.export import TOLERANCE, Deployed, _write_onnx, verify
from reidgen.errors import ReidgenError
from reidgen.methods import METHODS
from reidgen.models import build_network
from reidgen.synth.domains import draw_image

COLUMNS = ["row", "backbone", "difference", "seconds", "said"]


def prove(row: str, backbone: str, size: tuple[int, int], folder: Path) -> dict[str, object]:
    """Return the line of one row on one backbone."""
    started = time.monotonic()
    torch.manual_seed(0)
    try:
        network = build_network(METHODS[row], backbone, classes=2, size=size)
        stir(network)
        deployed = Deployed(network.eval(), pixels="float", size=None).eval()
        file = folder / "export.onnx"
        embed = _write_onnx(deployed, file, {}, size)
        pictures = [np.asarray(draw_image("plaza", number, camera=number % 2)) for number in range(6)]
        difference, said = verify(deployed, embed, pictures, size=size)[0], ""
        file.unlink()
    except ReidgenError as error:
        difference, said = float("nan"), str(error)
    seconds = round(time.monotonic() - started, 1)
    return {"row": row, "backbone": backbone, "difference": f"{difference:.2g}", "seconds": seconds, "said": said}


def stir(network: nn.Module) -> None:
    """Draw every vector of parameters, and what norms know of their inputs, near what training would leave."""
    for name, vector in [*network.named_parameters(), *network.named_buffers()]:
        if vector.ndim == 1 and vector.is_floating_point():
            low, high = (-0.2, 0.2) if name.endswith(("bias", "mean")) else (0.7, 1.3)
            nn.init.uniform_(vector.detach(), low, high)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default="all")
    parser.add_argument("--backbones", default="tiny")
    parser.add_argument("--size", default="64x32")
    asked = parser.parse_args()
    rows = list(METHODS) if asked.rows == "all" else asked.rows.split(",")
    backbones = list(BACKBONES) if asked.backbones == "all" else asked.backbones.split(",")
    height, width = map(int, asked.size.split("x"))
    asked.folder.mkdir(parents=True, exist_ok=True)
    file = asked.folder / "export.csv"
    with file.open(newline="") if file.is_file() else Path("/dev/null").open() as known:
        done = {(line["row"], line["backbone"]) for line in csv.DictReader(known)}
    worst = 0.0
    for backbone in backbones:
        for row in rows:
            if (row, backbone) in done:
                continue
            line = prove(row, backbone, (height, width), asked.folder)
            new = not file.is_file()
            with file.open("a", newline="") as out:
                writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
                writer.writerows([dict(zip(COLUMNS, COLUMNS, strict=True)), line] if new else [line])
            print(*line.values(), flush=True)
            worst = max(worst, float(str(line["difference"])) if not line["said"] else 0.0)
    print(f"largest difference {worst:.2g}, allowed {TOLERANCE:g}")


if __name__ == "__main__":
    main()
