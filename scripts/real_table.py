"""The paper's claim on real people, on a machine without network: what to take along, and what to run there.

    python scripts/real_table.py carry FOLDER --data data --source market --target pku --weights mobilenet_v2.pth
    python scripts/real_table.py run FOLDER RESULTS --minutes 9      # there; again, with the same RESULTS, to go on
    python scripts/real_table.py run FOLDER RESULTS --rehearse       # on any CPU, in a minute: no number means anything

`carry` takes the training part of the sources and the test parts of the targets, as the sets that they were prepared
from: index and original image files, and the weights. Nothing is encoded anew: Market-1501's images are 128x64 as they
come, those to train on 32 MB of JPEG, so that the pixels there are the pixels here. A set cut to its parts has an
index, so a digest, of its own: its rows stand apart from those of the whole set, and it is no target.
`run` trains MobileNetV2 with the recipe `paper` at 128x64: the six methods of the paper's first table, one seed after
the other, then all other methods, until the minutes are over. Each is evaluated on the targets and the built-in
benchmark, which is drawn there. After every run RESULTS holds rows.csv and identities.csv.gz of all, each with its
.sha256: these four files alone, taken along, are enough to go on from on another machine; the folder of a run that the
end cut off holds its state, and the run goes on from there. At the end `reidgen table` writes its table.
The command may run several times at once on one RESULTS: what another one is at is passed over. On one H100 six at once
under NVIDIA's MPS trained 14,500 images/s together, six in threads of one process 11,800, one alone 12,000.
"""

import argparse
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

import pandas as pd

from reidgen.catalogue import expand
from reidgen.data.manifest import load_index, load_prepared, write_manifest
from reidgen.data.prepare import prepare
from reidgen.errors import BusyError, DataError, InterruptedRunError, ReidgenError
from reidgen.evaluation import evaluate
from reidgen.files import sha256_file, write_text
from reidgen.locks import locked
from reidgen.planning import planned_run
from reidgen.recipe import RECIPES, Recipe
from reidgen.registry import select_methods
from reidgen.rows import write_rows
from reidgen.runs import Progress, read_rows
from reidgen.tables.identities import keep_identities, read_identities
from reidgen.teststeps import Way
from reidgen.training import train
from reidgen.ways import select_ways

REPOSITORY = Path(__file__).resolve().parents[1]
PLAN, WEIGHTS, IMAGES = "plan.json", "weights.pth", "images.zip"
SEEDS = (0, 1, 2)


def recipe_of(source: str, weights: str, dtype: str) -> Recipe:
    """Return the recipe of the table."""
    paper = RECIPES["paper"].change(backbone="mobilenet_v2", weights=weights, height=128, width=64)
    return paper.change(source=source, dtype=dtype)


def rehearsal_of(recipe: Recipe) -> Recipe:
    """Return the same with everything tiny."""
    small = recipe.change(
        backbone="tiny", weights="none", height=32, width=16, identities=4, images=2, warmup_epochs=0.0
    )
    return small.change(epochs=1, batches_per_epoch=2)


def carry(folder: Path, data: Path, sources: Sequence[str], targets: Sequence[str], weights: Path | None) -> float:
    """Write what `run` needs into the folder; return its size in MB. Raises DataError when a set is not prepared."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys([*sources, *targets]):
        parts = ["train"] * (name in sources) + ["query", "gallery"] * (name in targets)
        megabytes = cut(name, data, folder / name, parts)
        print(f"{name}: {', '.join(parts)}: {megabytes:.1f} MB")
    if weights:
        shutil.copyfile(weights, folder / WEIGHTS)
    write_text(folder / PLAN, json.dumps({"source": "+".join(sources), "targets": list(targets)}))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    print(f"{folder}: {size:.1f} MB in all")
    return size


def cut(name: str, data: Path, folder: Path, parts: Sequence[str]) -> float:
    """Write some parts of a prepared set as a prepared set of their own, its images in one file; return their MB."""
    whole = load_prepared(name, data)
    index = load_index(whole)
    rows = index[index["part"].isin(parts)]
    if missing := [part for part in parts if part not in set(rows["part"])]:
        raise DataError(f"{name} has no {' and no '.join(missing)}")
    folder.mkdir(exist_ok=True)
    write_text(folder / "index.csv", rows.to_csv(index=False, lineterminator="\n"))
    with zipfile.ZipFile(folder / IMAGES, "w") as archive:  # as they are: pictures cannot be packed further
        for path in rows["path"].drop_duplicates():
            archive.write(whole.root / path, arcname=path)
    manifest = json.loads((whole.folder / "manifest.json").read_text(encoding="utf-8"))
    for key in ("check", "stamp", "bytes", "outside", "duplicates"):
        manifest.pop(key, None)
    counts = {part: numbers for part, numbers in whole.counts.items() if part in parts}
    counts["all"] = {"images": int(rows["path"].nunique()), "junk": 0, "splits": int(rows["split"].nunique())}
    accepted = f"only {' and '.join(parts)} of the set with the digest {whole.digest[:8]}"
    manifest |= {"root": "images", "counts": counts, "digest": sha256_file(folder / "index.csv"), "accepted": accepted}
    write_manifest(folder, manifest)
    return (folder / IMAGES).stat().st_size / 1e6


def unpack(folder: Path, data: Path) -> None:
    """Lay the carried sets into a data folder; each image is proven against the index when its pixels are packed."""
    for manifest in sorted(folder.glob("*/manifest.json")):
        place = data / manifest.parent.name
        if (place / "manifest.json").is_file():
            continue
        place.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(manifest.parent / IMAGES) as archive:
            archive.extractall(place / "images")
        shutil.copyfile(manifest.parent / "index.csv", place / "index.csv")
        shutil.copyfile(manifest, place / "manifest.json")  # last: it proves the set


def missing(
    plan: Recipe, targets: Sequence[str], ways: Sequence[Way], data: Path, results: Path, methods: Sequence[str]
) -> Iterator[Recipe]:
    """Yield the recipes whose runs' rows lack a target or a test, in the order in which they matter."""
    asked = set(itertools.product(targets, [way.word for way in ways]))
    rows, main = rows_in(results), select_methods("main")
    for some in ([name for name in methods if name in main], [name for name in methods if name not in main]):
        for seed, method in itertools.product(SEEDS, some):
            recipe = plan.change(method=method, seed=seed)
            digest = planned_run(recipe, data=data, results=results).hash
            own = rows[(rows["hash"] == digest) & (rows["seed"] == seed) & (rows["row"] == recipe.row.digest)]
            if asked - set(zip(own["target"], own["test"], strict=True)):
                yield recipe


def rows_in(results: Path) -> pd.DataFrame:
    """Return the rows of all runs, here and brought along."""
    there = (results / "rows.csv").is_file() or (results / "runs").is_dir()
    return read_rows(results) if there else pd.DataFrame(columns=["hash", "seed", "row", "target", "test"])


def work(
    plan: Recipe,
    targets: Sequence[str],
    data: Path,
    results: Path,
    methods: str,
    device: str,
    end: float,
    tests: str = "plain",
) -> int:
    """Train and evaluate what is missing until the end, in seconds of `time.monotonic`; return how many runs are left.

    What the end cuts off keeps its state. What fails is said, and counts as left, as does what another process is at.
    """
    ways, left = select_ways(tests), 0
    waiting = list(missing(plan, targets, ways, data, results, select_methods(methods)))
    for number, recipe in enumerate(waiting):
        if time.monotonic() >= end:
            return left + len(waiting) - number
        try:
            said = one_run(recipe, targets, ways, data, results, device, end)
        except InterruptedRunError as cut:
            print(f"{recipe.method} s{recipe.seed}: {cut}", flush=True)
            return left + len(waiting) - number
        except ReidgenError as error:
            said, left = f"{'passed over' if isinstance(error, BusyError) else 'failed'}: {error}", left + 1
        print(f"{recipe.method} s{recipe.seed}: {said}; {len(waiting) - number - 1} to go", flush=True)
    return left


def stopping_at(end: float) -> Progress:
    """Return what takes a training's reports, and behind the end, in seconds of `time.monotonic`, stops it as a
    scheduler does: once it listens, as it does not while it sets up.
    """
    before, told = signal.getsignal(signal.SIGTERM), False

    def report(what: str, done: float, total: int) -> None:
        nonlocal told
        if not told and time.monotonic() >= end and signal.getsignal(signal.SIGTERM) != before:
            told = True
            signal.raise_signal(signal.SIGTERM)

    return report


def one_run(
    recipe: Recipe, targets: Sequence[str], ways: Sequence[Way], data: Path, results: Path, device: str, end: float
) -> str:
    """Train one run until the end, evaluate it, keep its rows with those of the others, and return what to say."""
    run = train(recipe, data=data, results=results, device=device, report=stopping_at(end))
    rows = [evaluate(run, target, ways=ways, data=data, device=device, report=_quiet) for target in targets]
    keep(results)
    plain = [found[found["test"] == ways[0].word]["mAP"].mean() for found in rows]
    means = ", ".join(f"{target} {100 * mAP:.1f}" for target, mAP in zip(targets, plain, strict=True))
    facts = run.facts()
    eager = f" without CUDA graphs ({facts['eager']})" if "eager" in facts else ""
    return f"trained in {float(facts['seconds']):.0f} s{eager}; mAP {means}"


def keep(results: Path) -> None:
    """Write the rows of all runs, with what their intervals need."""
    with locked(results):
        rows = read_rows(results)
        keep_identities(results, read_identities(results, rows))
        write_rows(results / "rows.csv", rows)


def _quiet(what: str, done: float, total: int) -> None:
    """Report nothing."""


def run(given: argparse.Namespace) -> None:
    """Do what fits into the minutes, then write the table."""
    end = time.monotonic() + 60 * given.minutes
    if not (given.folder / PLAN).is_file():
        raise ReidgenError(
            f"{given.folder} holds nothing that was carried; begin with: real_table.py carry {given.folder}"
        )
    carried = json.loads((given.folder / PLAN).read_text())
    data = given.results / "data"
    drawn = [] if given.rehearse else expand(["synth"])
    with locked(data):
        unpack(given.folder, data)
        for name in drawn:
            prepare(name, data=data)
    targets = [*carried["targets"], *drawn]
    weights = given.folder / WEIGHTS
    recipe = recipe_of(carried["source"], str(weights) if weights.is_file() else "imagenet", given.dtype)
    recipe = rehearsal_of(recipe) if given.rehearse else recipe
    methods = "baseline,snr" if given.rehearse else given.methods
    left = work(recipe, targets, data, given.results, methods, given.device, end, given.test)
    table = [sys.executable, "-m", "reidgen", "table", "--results", str(given.results.resolve())]
    subprocess.run(table, cwd=REPOSITORY, check=True)
    print(f"{left} runs are left; repeat the command to go on" if left else "every run is there")


def main() -> None:
    """Carry, or run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("carry")
    one.add_argument("folder", type=Path)
    one.add_argument("--data", type=Path, default=Path("data"))
    one.add_argument("--source", default="market", help="as market, or market+msmt17-v2")
    one.add_argument("--target", default="pku", help="names with commas between them")
    one.add_argument(
        "--weights", type=Path, help="ImageNet weights of MobileNetV2; without it, `run` needs the network"
    )
    two = verbs.add_parser("run")
    two.add_argument("folder", type=Path)
    two.add_argument("results", type=Path)
    two.add_argument("--minutes", type=float, default=9)
    two.add_argument("--methods", default="all", help="the six of the paper come first")
    two.add_argument("--test", default="plain", help="as `bench --test`; of the first the mAP is printed")
    two.add_argument("--dtype", default="float32")
    two.add_argument("--device", default="auto")
    two.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    if given.verb == "carry":
        carry(given.folder, given.data, given.source.split("+"), given.target.split(","), given.weights)
    else:
        run(given)


if __name__ == "__main__":
    try:
        main()
    except ReidgenError as error:
        sys.exit(f"error: {error}")
