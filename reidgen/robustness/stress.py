"""How far a run falls when the style of the images moves by a known amount: every shift at every severity."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidgen.data.manifest import load_prepared
from reidgen.errors import RecipeError, unknown
from reidgen.evaluation import Judged
from reidgen.files import replacing
from reidgen.robustness.shifts import SEVERITIES, SHIFTS, apply_shift, sheet, shifts_digest
from reidgen.robustness.subject import Subject, load_subject
from reidgen.robustness.trials import CLEAN, add_trials, read_trials
from reidgen.runs import Progress, Run
from reidgen.synth.domains import draw_image

WHERE = ("query", "both")
TRIALS = [(CLEAN, 0), *((name, severity) for name in SHIFTS for severity in range(1, SEVERITIES + 1))]


def stress(
    run: Run,
    target: str,
    *,
    where: str = "query",
    model: Judged | None = None,
    data: Path,
    device: str = "auto",
    report: Progress,
) -> pd.DataFrame:
    """Return the rows of a run on a target under every shift and severity, and write them into its stress.csv.

    where: "query" shifts the queries and leaves the gallery as it is; "both" shifts both sides. A camera has its own
    direction: of the target's cameras by number, the first, third, ... go one way (brighter), the others the opposite
    way (darker) where the shift has two; so "both" drives the cameras of a target apart, and a shift with one way
    degrades all. The row with severity 0, shift "clean", is the unchanged target and equals its row in results.csv.
    model: a model from elsewhere, opened, of which `run` is the folder.
    Only what is missing is measured; rows of other images or of another table of severities are measured again.
    Raises RecipeError for another `where`, and what `evaluate` raises. Cost: 55 times the embedding of the shifted
    side, the gallery once.
    """
    if where not in WHERE:
        raise RecipeError(unknown("side", where, WHERE))
    file, prepared = run.folder / "stress.csv", load_prepared(target, data)

    def measured() -> pd.DataFrame:
        rows = read_trials(file, "stress")
        rows = rows[(rows["target"] == target) & (rows["where"] == where) & (rows["data"] == prepared.digest[:8])]
        return rows[rows["shifts"] == shifts_digest()].reset_index(drop=True)

    def missing() -> list[tuple[str, int]]:
        rows = measured()
        done = set(zip(rows["shift"], rows["severity"], strict=True))
        return [trial for trial in TRIALS if trial not in done]

    if not missing():
        return measured()
    subject = load_subject(run, target, model=model, data=data, device=device, report=report)
    clean = subject.score(subject.clean_ND, subject.clean_ND)
    with run.lock():
        for number, (shift, severity) in enumerate(todo := missing(), start=1):
            rows = _measure(subject, shift, severity, where=where) if severity else clean
            drop = 1 - rows["mAP"] / clean["mAP"]
            rows = rows.assign(where=where, shift=shift, severity=severity, drop=drop, shifts=shifts_digest())
            run.check_hold()
            add_trials(file, rows, "stress")
            report(f"{target}: {shift} {severity}", number, len(todo))
    return measured()


def write_sheet(path: Path) -> None:
    """Write a PNG that shows every shift at every severity, on a drawn person: no data set's licence is touched."""
    with replacing(path) as temporary:
        sheet(np.asarray(draw_image("plaza", 3, camera=1))).save(temporary, "PNG")


def _measure(subject: Subject, shift: str, severity: int, *, where: str) -> pd.DataFrame:
    directions_N = camera_directions(subject)

    def change(images: NDArray[np.uint8], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        keys = subject.paths[numbers].tolist()
        return apply_shift(images, shift, severity, directions=directions_N[numbers].tolist(), keys=keys)

    query_ND = subject.embed_changed("query", change)
    gallery_ND = subject.embed_changed("gallery", change) if where == "both" else subject.clean_ND
    return subject.score(query_ND, gallery_ND)


def camera_directions(subject: Subject) -> NDArray[np.int64]:
    """Return +1 or -1 for each of the subject's images, by turns over its cameras in the order of their numbers."""
    camid_N = np.empty(len(subject.paths), dtype=np.int64)
    camid_N[np.searchsorted(subject.paths, subject.tested["path"].to_numpy(dtype=str))] = subject.tested["camid"]
    _, place_N = np.unique(camid_N, return_inverse=True)
    return np.asarray(1 - 2 * (place_N % 2), dtype=np.int64)
