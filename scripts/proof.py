"""What the proofs share: rows with the machine, the versions and the date, printed and written as CSV."""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import pandas as pd
import torch

from reidgen.devices import device_name
from reidgen.files import write_text
from reidgen.runs import now, provenance


def folder(description: str | None) -> Path:
    """Return the folder that the command line gives for the rows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="where the rows are written, as results/speed-cpu-2026-11-23")
    given: Path = parser.parse_args().folder
    return given


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Print the rows, and write them with where they came from: one CSV, whole or not at all."""
    facts = {
        "machine": device_name(torch.device("cpu")),
        "load": round(os.getloadavg()[0], 1),  # of other work too: compare within one run only where it is high
        "torch": torch.__version__,
        **provenance(),
        "date": now(),
    }
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda number: f"{number:.4g}"))
    write_text(path, table.assign(**facts).to_csv(index=False, float_format="%.6g"))
    print(f"written: {path}")


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown; what is missing is empty, a bar within a cell is escaped."""

    def cell(value: object) -> str:
        if value is None or value != value:
            return ""
        return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|")

    lines = [list(table.columns), ["---"] * len(table.columns)]
    lines += [[cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
