"""The built-in benchmark `synth`: drawn pedestrians in six places, in the Market-1501 layout.

One population law makes the people of all domains (people.py); a domain is only a place and its cameras, and stands
in the table below as plain numbers. Nothing here knows or favours a method. The same seed gives the same bytes on
every machine: pixels are integers throughout, floats meet only exact IEEE operations (see drawing.py).
"""

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reidgen.errors import DataError, unknown
from reidgen.pool import share
from reidgen.synth.drawing import Board, Colour, Dice
from reidgen.synth.figures import Pose, draw_person
from reidgen.synth.people import Person, population
from reidgen.synth.scenes import draw_occluder, draw_scene

HEIGHT, WIDTH = 128, 64
IDENTITIES = (120, 60)  # of each domain: training, test
IMAGES_PER_CAMERA = 2
VIEWS_PER_CAMERA = 3  # places that one camera looks at

# Difficulty, for all domains alike.
MISALIGNMENT = 0.8  # how far a detector's box is off: 0 is exact, 1 that of a poor detector
CAMERA_DRIFT = 0.8  # how much exposure and white balance differ from image to image of one camera

Pixels = NDArray[np.int32]


@dataclass(frozen=True)
class Camera:
    """One camera of a domain: how it stands and how it is set."""

    turn: float  # the direction in which most people walk: 0 towards it, 0.25 to its right, 0.5 away
    spread: float  # how far they deviate from it, in turns
    exposure: int  # percent
    warmth: int  # percent added to red and taken from blue
    pitch: float = 0.0  # added to the domain's


@dataclass(frozen=True)
class Domain:
    """The style of one place: light, colour, sensor, scene, and how people are seen. Percentages unless said."""

    title: str
    wall: Colour
    floor: Colour
    horizon: float  # where the floor ends, as a share of the scene's height from its top
    things: tuple[str, ...]  # names of SCENERY; a view shows four
    occluders: tuple[str, ...]
    occluded: float  # share of images
    cut: float  # share of images in which the box cuts the person off
    company: float  # share of images with a passer-by behind
    pitch: float  # 0 eye level, 0.5 from high above
    light: int  # exposure
    shadows: int  # lifts (positive) or sinks (negative) the dark tones
    contrast: int
    saturation: int
    cast: Colour  # gains of red, green, blue
    haze: Colour  # what is added, 0..255: fog, glare, black level
    gradient: int  # light falls off by up to this much from one edge to the other
    lines: int  # rows that the sensor resolves (256 is sharp)
    noise: int  # about the standard deviation, in grey levels
    quality: int  # JPEG
    cameras: tuple[Camera, ...]


DOMAINS: dict[str, Domain] = {
    "plaza": Domain(
        title="a plaza at noon",
        wall=(176, 160, 138),
        floor=(168, 160, 148),
        horizon=0.58,
        things=("windows", "paving", "plants", "benches", "doors", "crowd", "fence"),
        occluders=("leaves", "bin", "person"),
        occluded=0.1,
        cut=0.14,
        company=0.28,
        pitch=0.06,
        light=104,
        shadows=0,
        contrast=104,
        saturation=104,
        cast=(102, 100, 97),
        haze=(4, 4, 6),
        gradient=12,
        lines=190,
        noise=3,
        quality=88,
        cameras=(
            Camera(0.04, 0.14, 100, 0),
            Camera(0.46, 0.16, 95, 3),
            Camera(0.2, 0.16, 105, -2),
            Camera(0.85, 0.3, 98, 2, 0.06),
        ),
    ),
    "mall": Domain(
        title="a bright mall, seen from its gallery",
        wall=(206, 200, 196),
        floor=(208, 200, 186),
        horizon=0.3,
        things=("shelves", "posters", "tiles", "lamps", "signs", "crowd", "paving"),
        occluders=("bin", "person", "rail"),
        occluded=0.22,
        cut=0.25,
        company=0.45,
        pitch=0.4,
        light=112,
        shadows=12,
        contrast=116,
        saturation=150,
        cast=(108, 100, 88),
        haze=(18, 14, 10),
        gradient=20,
        lines=150,
        noise=3,
        quality=80,
        cameras=(
            Camera(0.0, 0.15, 100, 2),
            Camera(0.5, 0.15, 110, -3),
            Camera(0.3, 0.2, 92, 4),
            Camera(0.7, 0.3, 104, 0, 0.05),
        ),
    ),
    "night": Domain(
        title="a street at night under sodium lamps",
        wall=(96, 88, 80),
        floor=(88, 84, 80),
        horizon=0.55,
        things=("windows", "cars", "lamps", "doors", "paving", "fence", "posters"),
        occluders=("hood", "person", "bin"),
        occluded=0.22,
        cut=0.2,
        company=0.25,
        pitch=0.12,
        light=66,
        shadows=-10,
        contrast=88,
        saturation=60,
        cast=(124, 96, 64),
        haze=(12, 9, 6),
        gradient=36,
        lines=100,
        noise=7,
        quality=65,
        cameras=(
            Camera(0.05, 0.15, 100, 0),
            Camera(0.52, 0.15, 120, 5),
            Camera(0.25, 0.15, 84, -6),
            Camera(0.8, 0.3, 106, 0),
        ),
    ),
    "station": Domain(
        title="a station hall with cold tubes and an old analogue recorder",
        wall=(150, 160, 160),
        floor=(128, 132, 132),
        horizon=0.42,
        things=("pillars", "signs", "tiles", "stairs", "benches", "crowd", "posters"),
        occluders=("pillar", "person", "seat", "rail"),
        occluded=0.28,
        cut=0.25,
        company=0.45,
        pitch=0.24,
        light=92,
        shadows=10,
        contrast=80,
        saturation=66,
        cast=(88, 104, 107),
        haze=(30, 33, 33),
        gradient=20,
        lines=60,
        noise=5,
        quality=50,
        cameras=(
            Camera(0.0, 0.2, 100, 0),
            Camera(0.5, 0.2, 92, -3),
            Camera(0.75, 0.15, 108, 3),
            Camera(0.3, 0.3, 98, 0),
        ),
    ),
    "campus": Domain(
        title="a campus road on a rainy morning",
        wall=(112, 124, 116),
        floor=(116, 120, 124),
        horizon=0.5,
        things=("plants", "fence", "cars", "puddles", "windows", "benches", "paving"),
        occluders=("leaves", "hood", "person"),
        occluded=0.24,
        cut=0.25,
        company=0.2,
        pitch=0.0,
        light=84,
        shadows=6,
        contrast=76,
        saturation=76,
        cast=(90, 98, 114),
        haze=(34, 39, 46),
        gradient=16,
        lines=90,
        noise=5,
        quality=65,
        cameras=(
            Camera(0.22, 0.1, 100, 0),
            Camera(0.78, 0.1, 92, -3),
            Camera(0.1, 0.2, 108, 3),
            Camera(0.55, 0.25, 96, 0),
        ),
    ),
    "garage": Domain(
        title="a car park under green tubes, wide open lens",
        wall=(132, 134, 120),
        floor=(104, 106, 100),
        horizon=0.36,
        things=("pillars", "cars", "doors", "lamps", "signs", "puddles"),
        occluders=("pillar", "hood", "bin"),
        occluded=0.28,
        cut=0.25,
        company=0.12,
        pitch=0.34,
        light=84,
        shadows=-10,
        contrast=124,
        saturation=84,
        cast=(92, 112, 80),
        haze=(4, 8, 2),
        gradient=32,
        lines=120,
        noise=6,
        quality=70,
        cameras=(
            Camera(0.95, 0.15, 100, 0),
            Camera(0.45, 0.15, 118, 2),
            Camera(0.3, 0.2, 84, -4),
            Camera(0.7, 0.25, 104, 0),
        ),
    ),
}


def draw_domain(
    name: str,
    folder: Path,
    *,
    seed: int = 0,
    identities: tuple[int, int] = IDENTITIES,
    progress: Callable[[int], None] | None = None,
    processes: int | None = None,
) -> None:
    """Write one domain below `folder` in the Market-1501 layout; equal arguments give equal bytes everywhere.

    bounding_box_train holds the first identities[0] persons, 8 images each (2 per camera). Of the other identities[1],
    query holds one image per person and camera, bounding_box_test the rest, and as many distractors (0000), who are
    never queried. Names read `0001_c1s1_000000_00.jpg` (person, camera, frame); images are JPEG, 128 high, 64 wide.
    progress: called with the number of images just written. processes: all cores by default; changes no byte.
    The caller makes the folder whole or absent: an interrupted call leaves part of the files.
    Raises DataError for an unknown domain, and when the folder cannot be written. Cost: about 10 ms per image and core.
    """
    if name not in DOMAINS:
        raise DataError(unknown("synthetic domain", name, DOMAINS))
    train, test = identities
    jobs = [(name, folder, seed, pid, train) for pid in [*range(1, train + test + 1), *range(0, -test, -1)]]
    report = progress or (lambda count: None)
    cores: int | None = getattr(os, "process_cpu_count", os.cpu_count)()  # the former since Python 3.13
    processes = min(processes or cores or 1, len(jobs))
    try:
        for part in ("bounding_box_train", "query", "bounding_box_test"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        if processes == 1:
            for job in jobs:
                report(_write_person(job))
            return
        with contextlib.closing(share(_write_person, jobs, processes=processes, chunk=4)) as counts:
            for count in counts:
                report(count)
    except OSError as error:
        what = error.strerror or error
        raise DataError(
            f"cannot draw {name} into {folder}: {what}; free some space or choose another folder"
        ) from error


def counts_of(name: str, identities: tuple[int, int] = IDENTITIES) -> dict[str, tuple[int, int, int]]:
    """Return part -> identities, images and cameras of a domain as `draw_domain` writes it; in the gallery all
    distractors are one identity, 0.

    >>> counts_of("plaza")["gallery"]
    (61, 300, 4)
    """
    (train, test), cameras = identities, len(DOMAINS[name].cameras)
    per_camera = {"train": IMAGES_PER_CAMERA * train, "query": test, "gallery": (IMAGES_PER_CAMERA - 1) * test}
    images = {part: cameras * number for part, number in per_camera.items()}
    return {
        "train": (train, images["train"], cameras),
        "query": (test, images["query"], cameras),
        "gallery": (test + 1, images["gallery"] + test, cameras),
    }


def _write_person(job: tuple[str, Path, int, int, int]) -> int:
    """Write all images of one person and return their number; pid 0, -1, -2... are distractors, with one image each."""
    name, folder, seed, pid, train = job
    cameras = range(len(DOMAINS[name].cameras))
    shots = [(camera, i) for camera in cameras for i in range(IMAGES_PER_CAMERA)]
    for camera, i in shots if pid > 0 else [(-pid % len(cameras), 0)]:
        part = "bounding_box_test" if pid <= 0 or i else "query"
        part = "bounding_box_train" if 0 < pid <= train else part
        frame = i if pid > 0 else -pid
        path = folder / part / f"{max(pid, 0):04d}_c{camera + 1}s1_{frame:06d}_00.jpg"
        draw_image(name, pid, camera=camera, shot=i, seed=seed).save(path, quality=DOMAINS[name].quality)
    return len(shots) if pid > 0 else 1


def draw_identity(name: str, pid: int, *, seed: int = 0) -> Person:
    """Return person `pid` of a domain: every domain draws other people from the same population."""
    return population(Dice(f"{seed}/{name}/{pid}"))


def draw_image(name: str, pid: int, *, camera: int, shot: int = 0, seed: int = 0) -> Image.Image:
    """Return the RGB image, 64 x 128, that a camera (counted from 0) of the domain takes of person `pid`."""
    domain, dice = DOMAINS[name], Dice(f"{seed}/{name}/{pid}/{camera}/{shot}")
    lens = domain.cameras[camera]
    board = Board(256, left=64)
    scene = _scene(name, camera, dice.integer(0, VIEWS_PER_CAMERA - 1), seed)
    x, y = dice.integer(0, 127), dice.integer(0, 63)
    board.image.paste(scene.crop((256 + x, y, 256 + x + 128, y + 256)), (320, 0))
    pitch = domain.pitch + lens.pitch + dice.between(-0.03, 0.03)
    light = 1 if camera % 2 else -1
    if dice.chance(domain.company):
        size = dice.between(130, 200)
        turn = lens.turn + dice.between(-0.5, 0.5)
        other = Pose(dice.between(-10, 138), dice.between(190, 232), size, turn, dice.between(-1, 1), pitch, 0, light)
        draw_person(board, population(dice), other)
    off = MISALIGNMENT * (2.4 if dice.chance(domain.cut) else 1)
    pose = Pose(
        x=64 + dice.bell(0, 9 * off),
        foot=245 + dice.bell(0, 12 * off) + (off > 2) * dice.between(0, 34),
        height=224 * (1 + dice.bell(0, 0.07 * off)),
        turn=lens.turn + dice.bell(0, lens.spread),
        stride=dice.between(-1, 1),
        pitch=pitch,
        lean=dice.bell(0, 0.05),
        light=light,
        arm=dice.pick({"swing": 70, "phone": 10, "pocket": 12, "fold": 8}),
        fold=dice.throw(),
    )
    draw_person(board, draw_identity(name, pid, seed=seed), pose)
    if dice.chance(domain.occluded):
        draw_occluder(board, dice, dice.choice(domain.occluders))
    return _photograph(board.image.crop((320, 0, 448, 256)), domain, lens, dice)


@functools.lru_cache(maxsize=64)
def _scene(name: str, camera: int, view: int, seed: int) -> Image.Image:
    domain, dice = DOMAINS[name], Dice(f"{seed}/{name}/scene/{camera}/{view}")
    board = Board(320)
    start = dice.integer(0, len(domain.things) - 1)
    things = [domain.things[(start + i) % len(domain.things)] for i in range(4)]
    draw_scene(
        board,
        dice,
        wall=dice.tint(domain.wall, 26),
        floor=dice.tint(domain.floor, 20),
        horizon=domain.horizon + dice.between(-0.06, 0.06),
        things=things,
    )
    return board.image


def _photograph(view: Image.Image, domain: Domain, camera: Camera, dice: Dice) -> Image.Image:
    """Return what the sensor makes of a 128 x 256 view: optics, light, colour, tone, noise, all in integers."""
    lines = max(24, int(domain.lines * dice.between(0.85, 1.15)))
    pixels = _resample(np.asarray(view).astype(np.int32), min(256, lines), min(128, lines // 2))
    pixels = _resample(pixels, 2 * HEIGHT, 2 * WIDTH)
    pixels = pixels[0::2] + pixels[1::2]
    pixels = pixels[:, 0::2] + pixels[:, 1::2]  # 0..1020
    # light: 256 is neutral; it falls off linearly across the view, in a direction that changes from image to image
    fall = domain.gradient * 256 // 100
    down, across = dice.integer(-fall, fall), dice.integer(-fall, fall)
    ramp = 256 + (np.arange(HEIGHT)[:, None] - 64) * down // 128 + (np.arange(WIDTH)[None, :] - 32) * across // 64
    pixels = (pixels * np.maximum(ramp, 16)[..., None].astype(np.int32)) >> 8
    grey = (pixels @ np.array([77, 150, 29], dtype=np.int32)) >> 8
    pixels = grey[..., None] + ((pixels - grey[..., None]) * domain.saturation) // 100
    exposure = domain.light * camera.exposure / 100 * (1 + CAMERA_DRIFT * dice.bell(0, 0.09))
    warmth = camera.warmth + CAMERA_DRIFT * dice.bell(0, 4)
    gains = [c * exposure * (100 + w) / 100 for c, w in zip(domain.cast, (warmth, 0, -warmth), strict=True)]
    for channel, gain in enumerate(gains):
        table = _tone(int(gain), domain.shadows, domain.contrast, domain.haze[channel])
        pixels[..., channel] = table[np.clip(pixels[..., channel], 0, 1023)]
    grain = np.frombuffer(dice.noise(HEIGHT * WIDTH * 6), dtype=np.uint8).astype(np.int32)
    grain = grain.reshape(2, HEIGHT, WIDTH, 3)
    grain = grain[0] + grain[1] - 255  # triangular, deviation 104
    grain = grain + grain[..., 1:2]  # half of it is common to the channels: deviation 147 and, in green, 208
    pixels += (grain * domain.noise + 84) // 168
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@functools.lru_cache(maxsize=1024)
def _tone(gain: int, shadows: int, contrast: int, haze: int) -> Pixels:
    """Return the grey level (0..255) of each amount of light (0..1023, 1020 is white at a gain of 10 000)."""
    light = np.arange(1024, dtype=np.float64) * gain / (1020 * 10_000)
    bend = shadows / 100
    curve = light * (1 + bend) / (1 + bend * light)
    level = (curve - 0.45) * contrast / 100 + 0.45
    return np.floor(np.clip(level * (255 - haze) + haze, 0, 255) + 0.5).astype(np.int32)


def _resample(pixels: Pixels, height: int, width: int) -> Pixels:
    """Return the image at another size, by linear interpolation with weights in 64ths (shrinking averages first)."""
    for axis, size in ((0, height), (1, width)):
        count = pixels.shape[axis]
        if size == count:
            continue
        places = (np.arange(size) * 2 + 1) * count * 32 // size - 32  # in 64ths of an old pixel
        places = np.clip(places, 0, (count - 1) * 64)
        low = places >> 6
        high = np.minimum(low + 1, count - 1)
        weight = (places & 63).astype(np.int32)
        weight = weight[:, None, None] if axis == 0 else weight[None, :, None]
        first, second = pixels.take(low, axis=axis), pixels.take(high, axis=axis)
        pixels = (first * (64 - weight) + second * weight + 32) >> 6
    return pixels
