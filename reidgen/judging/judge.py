"""Several runs on crops without names: everything in `measures`, from one pass over the images.

Shapes: N crops, Q queries drawn of them, B crops of a window, K nearest, D features, C cameras.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidgen.data.batches import training_images
from reidgen.data.images import decode, file_of, resized
from reidgen.data.naming import shown
from reidgen.errors import DataError, ReidgenError, RunError
from reidgen.escapes import many
from reidgen.judging.cameras import Sums, add_pixels, distance, pixel_sums, share_of_cameras
from reidgen.judging.crops import Crops, Size, drawn, read_windows
from reidgen.judging.measures import MEASURES, TOP
from reidgen.judging.neighbours import mutual, nearest, overlap
from reidgen.robustness.shifts import SHIFTS, apply_shift
from reidgen.rows import UNDECLARED
from reidgen.runs import Progress

if TYPE_CHECKING:
    from reidgen.extractor import Embedder

QUERIES = 500  # drawn of all crops; a share of them is known to about 4 points
SEVERITIES = (1, 2)  # of the shifts: what one hardly sees, and a little more
TRIALS = [(name, severity) for name in SHIFTS for severity in SEVERITIES]
SAMPLE = 500  # training images that stand for the source


@dataclass
class Seen:
    """What one run makes of the crops. gallery_ND: float32, on disk; first_QK: rows of each query's nearest crops of
    other cameras; camera: sums of the embeddings by camera; values: name of a measure -> its value."""

    model: "Embedder"
    gallery_ND: NDArray[np.float32]
    first_QK: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, TOP), dtype=np.int64))
    camera: Sums | None = None
    values: dict[str, float] = field(default_factory=dict)

    @property
    def size(self) -> Size:
        return int(self.model.info["height"]), int(self.model.info["width"])

    @property
    def training(self) -> tuple[Any, ...]:
        """What two runs share that differ in the seed alone."""
        info = self.model.info
        return tuple(info.get(key, info["digest"]) for key in ("title", "row", "hash", "backbone", "source"))


@dataclass(frozen=True)
class Judged:
    """What was measured. rows: one per run, in the order given: run, digest, source, seed and the names of MEASURES,
    NaN where one cannot be had. agreements: one per two runs: run, other, agreement_1, agreement_10 (%). paths: of all
    crops that could be read; query_Q: the rows of the queries in the order of their draw; first: digest of a run -> the
    row of each query's nearest crop of another camera, NOBODY where there is none. notes: sentences for people."""

    rows: pd.DataFrame
    agreements: pd.DataFrame
    paths: list[str]
    camera_N: NDArray[np.int64]
    query_Q: NDArray[np.int64]
    first: dict[str, NDArray[np.int64]]
    notes: list[str]


def judge(
    models: "Sequence[Embedder]",
    crops: Crops,
    *,
    data: Path,
    queries: int = QUERIES,
    seed: int = 0,
    measures: bool = True,
    report: Progress,
) -> Judged:
    """Return what can be measured of networks on crops whose people nobody has named, see `measures.MEASURES`.

    data: where the sources are prepared; where one is not, the distances from it are NaN and a note says so. queries:
    how many crops are drawn as queries. measures: False finds nearest crops alone. The images are read once for all
    networks; embeddings lie in a temporary folder, 4 N D bytes for each network, so that memory does not grow with the
    crops but by their names.
    Raises DataError when no image can be read, there is one camera alone, or fewer than two crops; RunError when two
    networks are the same or one gives numbers that are not finite; ReidgenError when the disk has no room.
    """
    _check(models, crops)
    with tempfile.TemporaryDirectory(prefix="reidgen-judge-") as folder:
        chosen = drawn(crops.paths, min(queries, len(crops)), "queries", seed)
        pool = _Pool(models, crops, chosen, Path(folder))
        pool.read(crops, report)
        for number, one in enumerate(pool.seen):
            _find(one, pool)
            report("nearest crops", number + 1, len(pool.seen))
        notes = pool.notes
        if measures:
            _measure_stability(pool, report)
            for one in pool.seen:
                _measure_cameras(one, pool, crops)
            notes += _measure_sources(pool, data, report)
        agreements = _agreements(pool.seen)
        if not crops.cameras:
            notes.append(
                "no camera is known: all other crops count as of another camera, often the next frame of the same "
                "track, so the numbers are higher than across cameras and say nothing of people seen by two; --images "
                "with --pattern '(?P<camid>[^/]+)/[^/]+', or with a .csv, names cameras"
            )
        return Judged(
            rows=_rows(pool.seen, agreements),
            agreements=agreements.drop(columns="seeds"),
            paths=pool.paths,
            camera_N=pool.camera_N,
            query_Q=pool.query_Q,
            first={one.model.info["digest"]: one.first_QK[:, 0] for one in pool.seen},
            notes=notes,
        )


def _check(models: "Sequence[Embedder]", crops: Crops) -> None:
    digests = [model.info["digest"] for model in models]
    if twice := {one.info["name"] for one in models if digests.count(one.info["digest"]) > 1}:
        raise RunError(f"{min(twice)} is given twice; name each run once")
    if len(crops) < 2:
        raise DataError(f"{crops.name} holds {len(crops)} crop; nearest crops need at least two")
    if len(crops.cameras) == 1:
        raise DataError(
            f"{crops.name} is of one camera, {shown(crops.cameras[0])}; how people are found again needs crops of two"
        )


class _Pool:
    """The crops that could be read, through every network: filled by `read`."""

    def __init__(self, models: "Sequence[Embedder]", crops: Crops, chosen: NDArray[np.int64], folder: Path) -> None:
        self.seen = []
        for number, model in enumerate(models):
            self.seen.append(Seen(model, _on_disk(folder / str(number), (len(crops), model.dim))))
        self.sizes = list(dict.fromkeys(one.size for one in self.seen))
        self.cameras = len(crops.cameras) or 1
        self.sums = {size: Sums(self.cameras, 3) for size in self.sizes}
        self.chosen, self.notes, self.paths = chosen, list[str](), list[str]()
        self.camera_N = self.query_Q = np.empty(0, dtype=np.int64)
        self.query_pixels: dict[Size, NDArray[np.uint8]] = {}

    def read(self, crops: Crops, report: Progress) -> None:
        """Read all crops and embed them. Raises DataError when none can be read."""
        found, broken, done = list[int](), dict[str, str](), 0
        asked, pixels_of = set(self.chosen.tolist()), {size: dict[int, Any]() for size in self.sizes}
        for window in read_windows(crops, self.sizes, report):
            broken |= window.broken
            if not len(window.rows_B):
                continue
            found += window.rows_B.tolist()
            for one in self.seen:
                embedding_BD = one.model.embed(window.pixels[one.size])
                if not np.isfinite(embedding_BD).all():
                    raise RunError(f"{one.model.info['name']} gives numbers that are not finite; it probably diverged")
                one.gallery_ND[done : done + len(window.rows_B)] = embedding_BD
            for size, pixels in window.pixels.items():
                add_pixels(self.sums[size], pixels, crops.group_N[window.rows_B])
                here = {row: pixels[place] for place, row in enumerate(window.rows_B.tolist()) if row in asked}
                pixels_of[size] |= here
            done += len(window.rows_B)
        if broken:
            path, what = next(iter(broken.items()))
            self.notes.append(
                f"left out, as they cannot be read: {many(len(broken), 'image')}, such as {shown(path)} {what}"
            )
        if done < 2:
            raise DataError(f"{crops.name}: {done} of {len(crops):,} images can be read; nearest crops need two")
        self.paths, self.camera_N = [crops.paths[row] for row in found], crops.camera_N[found]
        place = {row: number for number, row in enumerate(found)}
        self.query_Q = np.array([place[row] for row in self.chosen.tolist() if row in place], dtype=np.int64)
        rows = [row for row in self.chosen.tolist() if row in place]
        self.query_pixels = {size: np.stack([some[row] for row in rows]) for size, some in pixels_of.items()}
        for one in self.seen:
            one.gallery_ND = one.gallery_ND[:done]


def _on_disk(file: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return a new float32 array in a file whose room is taken at once: a disk that is full later would kill.

    Raises ReidgenError when there is not so much room.
    """
    size = 4 * shape[0] * shape[1]
    try:
        with file.open("wb") as out:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(out.fileno(), 0, size)
            else:
                out.write(bytes(size))
    except OSError as error:
        what = f"no room for {size / 2**20:,.0f} MiB of embeddings in {file.parent.parent}"
        raise ReidgenError(f"{what} ({error.strerror}); set TMPDIR to a folder with more") from error
    return np.memmap(file, dtype=np.float32, mode="r+", shape=shape)


def _find(one: Seen, pool: _Pool) -> None:
    query_QD = np.asarray(one.gallery_ND[pool.query_Q])
    one.first_QK = nearest(query_QD, pool.camera_N[pool.query_Q], one.gallery_ND, pool.camera_N, top=TOP)


def _measure_stability(pool: _Pool, report: Progress) -> None:
    """Shift the queries a little, as `reidgen stress` does, and compare what is nearest then."""
    camera_Q, keys = pool.camera_N[pool.query_Q], [pool.paths[row] for row in pool.query_Q]
    directions = (1 - 2 * (camera_Q % 2)).tolist()
    same = {one.model.info["digest"]: np.zeros((len(TRIALS), 2)) for one in pool.seen}
    for number, (shift, severity) in enumerate(TRIALS):
        changed = {
            size: apply_shift(pixels, shift, severity, directions=directions, keys=keys)
            for size, pixels in pool.query_pixels.items()
        }
        for one in pool.seen:
            query_QD = one.model.embed(changed[one.size])
            found_QK = nearest(query_QD, camera_Q, one.gallery_ND, pool.camera_N, top=TOP)
            first = overlap(found_QK[:, :1], one.first_QK[:, :1])
            same[one.model.info["digest"]][number] = first, overlap(found_QK, one.first_QK)
        report("mild shifts", number + 1, len(TRIALS))
    for one in pool.seen:
        first, listed = 100 * same[one.model.info["digest"]].mean(0)
        one.values |= {"stability_1": first, "stability_10": listed}


def _measure_cameras(one: Seen, pool: _Pool, crops: Crops) -> None:
    """How the embeddings lie by camera, and whether nearest crops are so from both sides."""
    one.camera = Sums(pool.cameras, one.model.dim)
    group_N = pool.camera_N if crops.cameras else np.zeros(len(pool.paths), dtype=np.int64)
    for start in range(0, len(group_N), 4096):
        one.camera.add(np.asarray(one.gallery_ND[start : start + 4096]), group_N[start : start + 4096])
    if crops.cameras:
        one.values["camera_share"] = 100 * share_of_cameras(one.camera)
        one.values["mutual_1"] = 100 * mutual(pool.query_Q, one.first_QK[:, 0], one.gallery_ND, pool.camera_N)


def _measure_sources(pool: _Pool, data: Path, report: Progress) -> list[str]:
    """Measure how far the cameras lie from what each run was trained on; return a note for each source not at hand."""
    by_source: dict[tuple[str, Size], list[Seen]] = {}
    for one in pool.seen:
        by_source.setdefault((str(one.model.info.get("source", "")), one.size), []).append(one)
    notes: dict[str, str] = {}
    for number, ((source, size), runs) in enumerate(by_source.items()):
        try:
            images = _source_images(source, size, data)
        except DataError as error:
            notes[source] = f"no distance from the source {source or 'that is not known'}: {error}"
            continue
        of_pixels = pixel_sums([(images, np.zeros(len(images), dtype=np.int64))], 1).moments()
        apart = float(np.nanmean(distance(pool.sums[size].moments(), of_pixels, scale=1.0)))
        for one in runs:
            assert one.camera is not None
            own = Sums(1, one.model.dim)
            own.add(one.model.embed(images), np.zeros(len(images), dtype=np.int64))
            far = float(np.nanmean(distance(one.camera.moments(), own.moments())))
            one.values |= {"pixel_distance": apart, "feature_distance": far}
        report("sources", number + 1, len(by_source))
    return list(notes.values())


def _source_images(source: str, size: Size, data: Path) -> NDArray[np.uint8]:
    """Return SAMPLE training images of the sources, as many of each. Raises DataError when they are not there."""
    if not source or source == UNDECLARED:
        raise DataError("what it was trained on is not recorded; of a model, --trained-on declares it")
    names, found = source.split("+"), []
    for name in names:
        prepared, index = training_images(name, data=data)
        paths = index["path"].to_list()
        for row in drawn(paths, -(-SAMPLE // len(names)), "source").tolist():
            try:
                image, _ = decode(file_of(prepared.root, paths[row]))
            except DataError as error:
                raise DataError(f"{shown(paths[row])} of {name} {error}") from error
            found.append(resized(image, (size[1], size[0])))
    return np.stack(found)


def _agreements(seen: list[Seen]) -> pd.DataFrame:
    """Return how far every two runs agree, each both ways round; seeds: whether they differ in the seed alone."""
    rows = []
    for one in seen:
        for other in seen:
            if one is other:
                continue
            first = overlap(one.first_QK[:, :1], other.first_QK[:, :1])
            rows.append(
                {
                    "run": one.model.info["name"],
                    "other": other.model.info["name"],
                    "seeds": one.training == other.training,
                    "agreement_1": 100 * first,
                    "agreement_10": 100 * overlap(one.first_QK, other.first_QK),
                }
            )
    return pd.DataFrame(rows, columns=["run", "other", "seeds", "agreement_1", "agreement_10"])


def _rows(seen: list[Seen], agreements: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for one in seen:
        info = one.model.info
        mine = agreements[agreements["run"] == info["name"]]
        alike, others = mine[mine["seeds"].astype(bool)], mine[~mine["seeds"].astype(bool)]
        values = dict(one.values)
        if len(others):
            values |= {name: others[name].mean() for name in ("agreement_1", "agreement_10")}
        if len(alike):
            values["seeds_1"] = alike["agreement_1"].mean()
        known = {"run": info["name"], "digest": info["digest"], "source": info.get("source", "")}
        rows.append(
            known
            | {"seed": info.get("seed")}
            | {measure.name: values.get(measure.name, np.nan) for measure in MEASURES}
        )
    return pd.DataFrame(rows)
