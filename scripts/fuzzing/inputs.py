"""What users bring, well-formed and hostile (tests/hostile.py), damaged and prepared."""

import functools
import io
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import hostile
import layouts
from fuzzing.damage import damaged
from fuzzing.verdicts import Ended, Tally, difference, judge, little_memory, run
from PIL import Image

from reidgen.data import archives
from reidgen.data import mat as mat_files

Source = tuple[Path, list[str]]  # the file that is damaged, and the words behind `prepare`


def _crops(suffix: str, folder: Path) -> Source:
    files = {f"p{person}/c{camera}_{i}.jpg": layouts.image(f"{person}{camera}{i}.jpg")
             for person in range(3) for camera in (1, 2) for i in (0, 1)}  # fmt: skip
    file = folder / f"crops{suffix}"
    layouts.pack(files, file)
    return file, ["mine", "--from", str(file)]


def _csv(folder: Path) -> Source:
    lines = ["path,pid,camid"]
    for person in range(3):
        for camera in (1, 2):
            name = f"{person}_{camera}.jpg"
            (folder / name).write_bytes(layouts.image(name))
            lines.append(f"{name},{person},{camera}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder / "list.csv", ["mine", "--from", str(folder / "list.csv")]


def _toml(folder: Path) -> Source:
    for name in ("1_c1.jpg", "1_c2.jpg", "2_c1.jpg", "2_c2.jpg"):
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / name).write_bytes(layouts.image(name))
    (folder / "datasets.toml").write_text("[mine]\npattern = '(?P<pid>[0-9]+)_c(?P<camid>[0-9]).*'\n")
    return folder / "datasets.toml", ["mine", "--from", str(folder / "in")]


def _picture(format: str, folder: Path) -> Source:
    """One picture of many is damaged; what others say of it must stay."""
    (folder / "in").mkdir()
    for name in ("1_c1.png", "1_c2.jpg", "2_c1.jpg", "2_c2.jpg"):
        (folder / "in" / name).write_bytes(layouts.image(name))
    file = (folder / "in" / "1_c1.png").rename(folder / "in" / f"1_c1.{format.lower()}")
    Image.open(io.BytesIO(file.read_bytes())).save(file, format)
    return file, ["mine", "--from", str(folder / "in")]


def _of_layout(name: str, file: str, folder: Path, form: str = "") -> Source:
    root = layouts.build(name, folder / "in", form=form)
    return next(root.rglob(file)), [name, "--from", str(root), "--accept-counts"]


def _hostile(build: Callable[[Path], Path], name: str, folder: Path) -> Source:
    return build(folder), [name, "--from", str(folder), "--accept-counts"]


def _written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _matlab(content: Callable[[], bytes], folder: Path) -> Source:
    file, words = _of_layout("grid", "features_and_partitions.mat", folder)
    file.write_bytes(content())
    return file, words


def _bad_toml(content: bytes, folder: Path) -> Source:
    file, words = _toml(folder)
    file.write_bytes(content)
    return file, words


# Kind -> builders. A checked kind holds a checksum of its content: damaged it must be refused, or mean the same.
CHECKED = {"zip", "tar.gz"}
INPUTS: dict[str, list[Callable[[Path], Source]]] = {
    "zip": [functools.partial(_crops, ".zip")],
    "tar.gz": [functools.partial(_crops, ".tar.gz")],
    "tar": [functools.partial(_crops, ".tar")],
    "picture": [functools.partial(_picture, format) for format in ("JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP")],
    "CSV of crops": [_csv],
    "datasets.toml": [_toml],
    "cuhk-03.mat": [functools.partial(_of_layout, "cuhk03-detected", "cuhk-03.mat")],
    "new protocol .mat": [functools.partial(_of_layout, "cuhk03-np-detected", "*config_detected.mat", form="images")],
    "GRID .mat": [functools.partial(_of_layout, "grid", "features_and_partitions.mat")],
    "MSMT17 list": [functools.partial(_of_layout, "msmt17-v2", "list_train.txt")],
    "hostile tar": [
        functools.partial(lambda build, folder: (_written(folder, "x.tar", build()), ["mine", "--from",
                          str(folder / "x.tar")]), build) for build, _ in hostile.TARS.values()
    ],
    "hostile cuhk-03.mat": [
        functools.partial(lambda build, folder: (file := build(folder), ["cuhk03-detected", "--from", str(file),
                          "--accept-counts"]), build) for build, _ in hostile.HDF5.values()
    ],
    "hostile GRID .mat": [functools.partial(_matlab, build) for build, _ in hostile.MATLAB.values()],
    "hostile datasets.toml": [functools.partial(_bad_toml, content) for content, _ in hostile.TOML.values()],
}  # fmt: skip


def _prepared(words: list[str], folder: Path) -> Ended:
    """Prepare in a folder of its own; what the set's index says is the answer."""
    data = folder / "data"
    with little_memory():
        ended = run(["prepare", *words, "--data", str(data)])
    ended.printed = re.sub(r"\S*fuzz\S*", "PATH", ended.printed)
    for index in data.glob("*/index.csv"):
        ended.written["index.csv"] = index.read_text()
    return ended


def _input_trial(kind: str, chance: random.Random, work: Path) -> tuple[str, str]:
    build = chance.choice(INPUTS[kind])
    home = work / "home"
    home.mkdir()
    os.chdir(home)
    try:
        file, words = build(home)
        content = file.read_bytes()
        first = kind.startswith("hostile") and chance.random() < 0.5
        truth = Ended(1, "") if kind.startswith("hostile") else _prepared(words, home)
        shutil.rmtree(home / "data", ignore_errors=True)
        how, other = ("as it is", content) if first else damaged(content, chance)
        file.write_bytes(other)
        found = _prepared(words, home)
        if list(work.glob("evil*")):
            return "other", f"{how}: a file lies outside the data folder"
        verdict = judge(found, truth, own=kind not in CHECKED or how.endswith("gzip"))
        return verdict, f"{how}{difference(found, truth)}"
    finally:
        os.chdir(work)
        shutil.rmtree(home)


def fuzz_inputs(work: Path, tally: Tally, seed: int, go_on: Callable[[int], bool]) -> None:
    """Try each kind of input in turn."""
    before = archives.SMALL, mat_files.LIMIT
    archives.SMALL, mat_files.LIMIT = 2**25, 2**25  # so that what is too large takes no minutes to be made
    trials = 0
    while go_on(trials):
        kind = list(INPUTS)[trials % len(INPUTS)]
        verdict, told = _input_trial(kind, random.Random(f"{seed} {kind} {trials}"), work)
        tally.add("inputs", kind, "prepare", verdict, f"seed {seed}, trial {trials}: {told}")
        trials += 1
    archives.SMALL, mat_files.LIMIT = before
