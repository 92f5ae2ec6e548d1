"""What a GPU shows in ten minutes: correctness first, then speed, memory, a profile, and bfloat16 beside float32.

    python scripts/prove_gpu.py results/gpu-NAME-DATE --minutes 10
    python scripts/prove_gpu.py FOLDER --rehearse      # all of it on a CPU, with tiny sizes: no number means anything

Needs this repository and PyTorch with what reidgen needs beside it, no installation, no network and no data set. The
most important parts come first; each writes its rows as soon as it has them, so that whoever stops it keeps what was
done. A part that fails is a row with its error, and the others go on; one that does not fit into the minutes is a row
too. FOLDER holds parts.csv (what was done, failed, left out), tests.csv, speed.csv, profile.csv, dtype.csv, and
README.md: all of it as tables, with hardware, versions and date.
"""

import argparse
import contextlib
import functools
import gc
import itertools
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

import pandas as pd
import torch
from proof import markdown

from reidgen import graphs, speed, training
from reidgen.data import prepare as prepare_module
from reidgen.devices import choose_device, device_name
from reidgen.evaluation import evaluate
from reidgen.files import write_text
from reidgen.recipe import RECIPES, Recipe
from reidgen.runs import Run, now, provenance
from reidgen.synth.domains import IDENTITIES
from reidgen.training import Trainer, train

REPOSITORY = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]  # which table, and its row
MAIN = ("baseline", "snr", "in", "ibn", "a-in", "a-sn")
DEAR = ("efdmix", "bau", "dsu", "bin", "snr-conv")
DOMAINS = ("synth-plaza", "synth-mall", "synth-night", "synth-station", "synth-campus", "synth-garage")


@dataclass(frozen=True)
class Sizes:
    """How large everything is: on a GPU as it is used, in a rehearsal as small as it goes."""

    recipe: Recipe
    main: tuple[str, ...] = MAIN
    dear: tuple[str, ...] = DEAR
    images: int = 8192  # to embed
    rankings: tuple[tuple[int, int, int], ...] = (  # queries, gallery, features
        (3_368, 19_281, 2048),  # Market-1501
        (11_659, 82_161, 2048),  # MSMT17
        (1_000, 1_000_000, 512),
    )
    steps: int = 12  # of a profile
    small: tuple[tuple[str, str | int], ...] = (("backbone", "mobilenet_v2"), ("height", 128), ("width", 64))
    quick: Recipe = RECIPES["quick"]
    domains: tuple[str, ...] = DOMAINS
    seeds: tuple[int, ...] = (0, 1, 2)
    tests: tuple[str, ...] = tuple(f"tests/test_{name}.py" for name in ("graphs", "training", "ranking", "kernels"))
    mark: str = "gpu"
    data: Path | None = None  # where the domains are prepared already
    rehearse: bool = False


FULL = Sizes(recipe=RECIPES["paper"].change(weights="none", source="synth-plaza"))
TINY = Sizes(
    recipe=RECIPES["quick"].change(identities=2, images=2, height=32, width=16, source="synth-plaza"),
    main=("baseline", "snr"),
    dear=("bau",),
    images=40,
    rankings=((5, 60, 8), (7, 80, 8)),
    steps=2,
    small=(),
    quick=RECIPES["quick"].change(identities=4, images=2, epochs=1, batches_per_epoch=2),
    domains=("synth-plaza", "synth-night"),
    seeds=(0, 1),
    tests=("tests/test_graphs.py::test_tensors_of_another_shape_are_refused",),
    mark="not gpu",
    rehearse=True,
)


@dataclass
class Part:
    """One thing to measure. seconds: how long it takes, guessed; it is begun only where as much is left."""

    name: str
    seconds: float
    rows: Callable[[], Rows]


@dataclass
class Proof:
    """The folder that the tables lie in, and the clock."""

    folder: Path
    sizes: Sizes
    device: torch.device
    minutes: float
    tables: dict[str, list[Row]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    limits: dict[str, float] = field(default_factory=dict)  # operations a second by dtype
    data: float = 0.0  # seconds that a batch takes before the network

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return 60 * self.minutes - (time.monotonic() - self.began)

    def add(self, table: str, row: Row) -> None:
        """Add a row to a table, and write it."""
        rows = self.tables.setdefault(table, [])
        rows.append(row)
        write_text(self.folder / f"{table}.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))

    def run(self, parts: list[Part]) -> None:
        """Do what fits, in order; what failed and what was left out are rows of `parts`."""
        for part in parts:
            if part.seconds > self.left:
                self._done(part, "left out", 0.0, f"about {part.seconds:.0f} s, {max(self.left, 0):.0f} s were left")
                continue
            began, state, why = time.monotonic(), "done", ""
            try:
                if self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(self.device)
                for table, row in part.rows():
                    self.add(table, row | self._peak() if table == "speed" else row)
            except Exception as error:  # whatever it is, the other parts go on
                state, why = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            self._done(part, state, time.monotonic() - began, why)
        write_text(self.folder / "README.md", self.page())

    def _peak(self) -> Row:
        """Return the most memory that this part has had at once, of a GPU."""
        cuda = self.device.type == "cuda"
        return {"peak_GB": torch.cuda.max_memory_allocated(self.device) / 1e9} if cuda else {}

    def _held(self) -> Row:
        """Return what is held of a GPU after a part, before Python looks for the cycles of what went wrong in it."""
        if self.device.type != "cuda":
            return {}
        held = float("nan")
        with contextlib.suppress(RuntimeError):  # of a GPU that answers no more, the part says why
            torch.cuda.empty_cache()
            held = torch.cuda.memory_reserved(self.device) / 1e9
            gc.collect()
            torch.cuda.empty_cache()
        return {"held_GB": held}

    def _done(self, part: Part, state: str, seconds: float, why: str) -> None:
        row: Row = {"part": part.name, "state": state, "seconds": round(seconds, 1), "why": why}
        self.add("parts", row | self._held() if seconds else row)
        print(f"{part.name}: {state}{f', {seconds:.1f} s' if seconds else ''}{f': {why}' if why else ''}", flush=True)
        write_text(self.folder / "README.md", self.page())

    def page(self) -> str:
        """Return all tables as Markdown, below what was measured where."""
        rehearsed = "**A rehearsal on a CPU with tiny sizes: no number here means anything.**\n\n"
        facts = "\n".join(f"- {name}: {value}" for name, value in self.facts().items())
        text = f"# What a GPU shows\n\n{rehearsed if self.sizes.rehearse else ''}{facts}\n"
        for name in ("parts", "tests", "speed", "profile", "dtype"):
            if rows := self.tables.get(name):
                table = pd.DataFrame(rows)
                if name == "tests":
                    table = table[table["outcome"] != "passed"] if (table["outcome"] != "passed").any() else table[:0]
                    passed = sum(row["outcome"] == "passed" for row in rows)
                    text += f"\n## tests\n\n{passed} of {len(rows)} passed{'; the others:' if len(table) else '.'}\n"
                    text += f"\n{markdown(table)}\n" if len(table) else ""
                else:
                    text += f"\n## {name}\n\n{markdown(table)}\n"
        return text

    def facts(self) -> Row:
        """Return where and with what this was measured."""
        cuda = self.device.type == "cuda"
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        return {
            "device": device_name(self.device),
            "memory": f"{torch.cuda.get_device_properties(self.device).total_memory / 2**30:.0f} GiB" if cuda else "",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "torch": f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}",
            "reidgen": " ".join(provenance().values()),
            "date": now(),
        }


def parts_of(proof: Proof) -> list[Part]:
    """Return everything there is to measure, the most important first. Seconds: guesses for one H100."""
    sizes = proof.sizes
    first, others = sizes.main[:2], sizes.main[2:]

    def part(name: str, seconds: float, rows: Callable[..., Rows], *what: object) -> Part:
        return Part(name, seconds, functools.partial(rows, proof, *what))

    def trainings(methods: Iterable[str], dtype: str, way: str, seconds: float = 9) -> list[Part]:
        return [part(f"training {name}, {dtype}, {way}", seconds, train_rows, name, dtype, way) for name in methods]

    def embeddings(dtype: str) -> list[Part]:
        return [part(f"embedding {name}, {dtype}", 9, embed_rows, name, dtype) for name in first]

    return [
        part("limits", 8, limit_rows),
        part("tests", 130, test_rows),
        *trainings(first, "bfloat16", "graphs"),
        *trainings(first, "bfloat16", "eager"),
        *embeddings("bfloat16"),
        *(part(f"profile {way}", 12, profile_rows, way, "baseline", "bfloat16", ()) for way in ("graphs", "eager")),
        *(
            part(f"profile small {method}", 12, profile_rows, "graphs", method, "float32", sizes.small)
            for method in ("baseline", "a-sn")
        ),
        *trainings(first, "float32", "graphs"),
        *trainings(first, "float32", "eager"),
        *trainings(others, "bfloat16", "graphs"),
        *(
            part(f"ranking {q:,} x {g:,} x {features}", 25, rank_rows, q, g, features)
            for q, g, features in sizes.rankings
        ),
        part("bfloat16 beside float32 on synth", 130, dtype_rows),
        *trainings(sizes.dear, "bfloat16", "graphs"),
        *trainings(others, "float32", "graphs"),
        *trainings(first, "bfloat16", "compile", 75),
        *embeddings("float32"),
        *trainings((*others, *sizes.dear), "bfloat16", "eager"),
        *trainings(others, "float32", "eager"),
        *trainings(first, "float32", "compile", 75),
    ]


def limit_rows(proof: Proof) -> Rows:
    """Measure the largest product and copy: what everything else is compared with."""
    for dtype in ("bfloat16", "float32"):
        proof.limits[dtype] = speed.matrix_product(proof.device, dtype)
        yield (
            "speed",
            {"what": "matrix product", "dtype": dtype, "value": proof.limits[dtype] / 1e12, "unit": "TFLOP/s"},
        )
    yield "speed", {"what": "copy", "value": speed.copy(proof.device) / 1e9, "unit": "GB/s"}
    recipe = proof.sizes.recipe
    proof.data = speed.batches(recipe, speed.noise(recipe), proof.device)
    yield "speed", {"what": "batches", "value": recipe.batch / proof.data, "unit": "images/s"}


@contextlib.contextmanager
def way_of(way: str, *, rehearse: bool) -> Iterator[None]:
    """Work with graphs, without, or with torch.compile; a rehearsal replays by hand and compiles nothing."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ))
        os.environ.pop("REIDGEN_GRAPHS", None)
        if way != "graphs":
            os.environ["REIDGEN_GRAPHS"] = "0"
        elif rehearse:
            stack.enter_context(patch.object(training, "recorder_for", lambda device: graphs.Rehearsal()))
        stack.enter_context(torch.compiler.set_stance("force_eager" if rehearse else "default"))
        yield


def made(
    proof: Proof, method: str, dtype: str, way: str = "graphs", other: tuple[tuple[str, str | int], ...] = ()
) -> Trainer:
    """Return a trainer on noise; other: what its recipe has otherwise."""
    recipe = proof.sizes.recipe.change(method=method, dtype=dtype, compile=way == "compile", **dict(other))
    return Trainer(recipe, speed.noise(recipe), Run(Path("none")), proof.device)


def train_rows(proof: Proof, method: str, dtype: str, way: str) -> Rows:
    """Measure training steps: images a second, share of the limit and of the data."""
    with way_of(way, rehearse=proof.sizes.rehearse):
        trainer = made(proof, method, dtype, way)
        found = speed.training(method, trainer, proof.limits.get(dtype, float("nan")), proof.data)
    eager = way == "graphs" and trainer.work.replay is None
    yield "speed", row_of(found, dtype, f"eager ({trainer.eager or 'too few steps'})" if eager else way)


def row_of(found: speed.Speed, dtype: str, way: str) -> Row:
    """Return a measured speed as a row of `speed`."""
    return {
        "what": found.what,
        "method": found.method,
        "dtype": dtype,
        "way": way,
        "value": found.value,
        "unit": found.unit,
        "of_limit": found.value / found.limit if found.limit else None,
        "data": found.data,
    }


@contextlib.contextmanager
def warnings_said() -> Iterator[list[str]]:
    """Give what the package warns of meanwhile, such as a batch that cannot be recorded."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("reidgen").addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger("reidgen").removeHandler(handler)


def embed_rows(proof: Proof, method: str, dtype: str) -> Rows:
    """Measure embedding from memory, with and without graphs."""
    for way in ("graphs", "eager"):
        with way_of(way, rehearse=proof.sizes.rehearse):
            trainer = made(proof, method, dtype)
            limit = proof.limits.get(dtype, float("nan"))
            with warnings_said() as said:
                found = speed.embedding(method, trainer, limit, images=proof.sizes.images)
            yield "speed", row_of(found, dtype, f"eager, for {said[0]}" if said else way)


def rank_rows(proof: Proof, queries: int, gallery: int, features: int) -> Rows:
    """Measure the ranking of drawn embeddings."""
    found = speed.ranking(features, proof.device, queries=queries, gallery=gallery)
    yield "speed", row_of(found, "float32", f"{queries:,} queries, {queries / found.value:.3g} s")


def profile_rows(proof: Proof, way: str, method: str, dtype: str, other: tuple[tuple[str, str | int], ...]) -> Rows:
    """Look into some steps of a method: the dearest kernels, and how long the device waits for the host."""
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity, profile

    cuda, steps = proof.device.type == "cuda", proof.sizes.steps
    with way_of(way, rehearse=proof.sizes.rehearse):
        trainer = made(proof, method, dtype, other=other)
        images_B = next(trainer._batches())
        pixels = trainer.source.read(images_B).to(proof.device)
        trainer.network.train()

        def several() -> None:
            for _ in range(steps):
                trainer.learn(pixels, images_B)
            if cuda:
                torch.cuda.synchronize(proof.device)

        several()
        began = time.perf_counter()
        several()
        whole = time.perf_counter() - began  # without the profiler, which slows the host down
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
            several()
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = [
        (event.key, event.count, getattr(event, own) / 1e3)
        for event in found.key_averages()
        if event.device_type == kind and not getattr(event, "is_user_annotation", False)  # a range names what others do
    ]
    busy = sum(milliseconds for _, _, milliseconds in events)
    what = f"{method}, {trainer.recipe.backbone}, {dtype}"
    common = {"what": what, "way": way, "step_ms": 1e3 * whole / steps}
    idle = 1 - busy / (1e3 * whole)
    calls = sum(count for _, count, _ in events) / steps
    yield "profile", {**common, "kernel": "all", "calls": calls, "ms": busy / steps, "share": 1 - idle}
    yield (
        "profile",
        {**common, "kernel": "idle: the device waits for the host", "ms": 1e3 * whole * idle / steps, "share": idle},
    )
    for key, count, milliseconds in sorted(events, key=lambda event: -event[2])[:15]:
        row = {
            "kernel": key[:100],
            "calls": count / steps,
            "ms": milliseconds / steps,
            "share": milliseconds / max(busy, 1e-9),
        }
        yield "profile", {**common, **row}


def dtype_rows(proof: Proof) -> Rows:
    """Train Baseline and SNR on synth in both types, seed by seed; the last rows are the differences of the means."""
    sizes, device, rows = proof.sizes, str(proof.device), list[Row]()
    quick = sizes.quick.change(source=sizes.domains[0])
    with tempfile.TemporaryDirectory() as work:
        data = sizes.data or Path(work) / "data"
        if not sizes.data:
            draw(sizes, data)
        for seed, method, dtype in itertools.product(sizes.seeds, ("baseline", "snr"), ("float32", "bfloat16")):
            if proof.left < 20:
                break
            recipe = quick.change(method=method, seed=seed, dtype=dtype)
            run = train(recipe, data=data, results=Path(work) / "results", device=device, report=_quiet)
            for target in sizes.domains:
                mAP = 100 * evaluate(run, target, data=data, device=device, report=_quiet)["mAP"].mean()
                rows.append({"method": method, "seed": seed, "dtype": dtype, "target": target, "mAP": mAP})
                yield "dtype", rows[-1]
    for row in differences(pd.DataFrame(rows, columns=["method", "seed", "dtype", "target", "mAP"]), sizes.domains[0]):
        yield "dtype", row


def draw(sizes: Sizes, data: Path) -> None:
    """Draw the domains of the built-in benchmark; in a rehearsal with few people."""
    people = (6, 4) if sizes.rehearse else IDENTITIES
    with patch.object(prepare_module, "IDENTITIES", people):
        for name in sizes.domains:
            prepare_module.prepare(name, data=data)


def differences(rows: pd.DataFrame, source: str) -> Iterator[Row]:
    """Yield bfloat16 minus float32, in points of mAP: of the source, and of the mean over the others; over the seeds
    that have both.
    """
    where = rows["target"].map(lambda target: "seen" if target == source else "mean of unseen")
    means = rows.assign(where=where).groupby(["method", "where", "seed", "dtype"])["mAP"].mean().unstack("dtype")
    apart = (means["bfloat16"] - means["float32"]).dropna()
    for (method, place), values in apart.groupby(["method", "where"]):
        error = values.std() / len(values) ** 0.5
        row = {"method": method, "seed": f"mean of {len(values)}", "dtype": "bfloat16 - float32", "target": place}
        yield row | {"mAP": values.mean(), "standard_error": error}


def _quiet(what: str, done: float, total: int) -> None:
    """Report nothing."""


class Watch:
    """A pytest plug-in: notes each test's outcome, and leaves out what does not fit into the seconds."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.rows: list[Row] = []

    def pytest_runtest_setup(self, item: Any) -> None:
        """Skip what comes too late."""
        import pytest

        if time.monotonic() > self.end:
            pytest.skip("no time left")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note how a test ended: its call, or what stopped it before."""
        if report.when == "call" or report.outcome != "passed":
            why = " ".join(str(report.longrepr).split())[-400:] if report.longrepr else ""
            self.rows.append({"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration, "why": why})


def test_rows(proof: Proof) -> Rows:
    """Run the tests that need a GPU, in this process, for a quarter of the minutes. Raises RuntimeError where one fails
    or none ran.
    """
    import pytest

    watch = Watch(min(15 * proof.minutes, proof.left))
    names = [str(REPOSITORY / name) for name in proof.sizes.tests]
    options = ["-q", "-m", proof.sizes.mark, "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(REPOSITORY)]
    code = pytest.main([*options, "-c", str(REPOSITORY / "pyproject.toml"), *names], plugins=[watch])
    for row in watch.rows:
        yield "tests", row
    failed = sum(row["outcome"] == "failed" for row in watch.rows)
    if failed or not watch.rows:
        raise RuntimeError(f"{failed} of {len(watch.rows)} tests failed, pytest ended with {int(code)}; see tests.csv")


def main() -> None:
    """Measure what fits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the tables are written, as results/gpu-h100-2026-12-01")
    parser.add_argument("--minutes", type=float, default=10, help="what does not fit is left out, and said")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny sizes")
    parser.add_argument("--only", default="", help="the parts whose names begin so, as: limits,training")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.rehearse:
        speed.SECONDS, speed.MATRIX_CPU, speed.COPY_BYTES = 0.0, 64, 1000
    device = choose_device("cpu" if given.rehearse else given.device)
    proof = Proof(given.folder, TINY if given.rehearse else FULL, device, given.minutes)
    proof.run([part for part in parts_of(proof) if part.name.startswith(tuple(given.only.split(",")))])
    print(proof.page())


if __name__ == "__main__":
    main()
