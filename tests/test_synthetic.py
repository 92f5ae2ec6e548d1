"""The built-in benchmark: the same bytes everywhere, the layout of Market-1501, and domains that differ in style only.

After a wanted change of the drawing, renew GOLDEN with the digest that the failing test prints.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidgen.errors import DataError
from reidgen.synth.domains import DOMAINS, counts_of, draw_domain, draw_identity, draw_image
from reidgen.synth.drawing import Board, Dice, direction
from reidgen.synth.figures import Pose, draw_person
from reidgen.synth.people import population
from reidgen.synth.scenes import OCCLUDERS, SCENERY, draw_occluder, draw_scene

GOLDEN = {
    "plaza": "f44139a76c5bcdcd453079266185ebdd0dc67e469b1db0973150ce42826559af",
    "mall": "36dadf0929770f9054e16c1ecf2b5c93b6b66cbd23c8fbffd790bbb82b8af77e",
    "night": "adf80cb22efac7bddadeb98163dad2693d217027518e6fa241678ed6d1486a75",
    "station": "8d1cd27e2195be03a1056738c7d34afe9284297d76dbe0c14d08c69b714e9762",
    "campus": "a87cc289a50f4f98b5e38025cf66f099794d1af7a5a6bd485b2915c6141f879b",
    "garage": "3c739227f168fe560b9123189c15ec97189679dad165f472eca91895d351479c",
}


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.jpg")):
        total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def plaza(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plaza")
    draw_domain("plaza", folder, identities=(3, 2), processes=1)
    return folder


@pytest.mark.parametrize("name", DOMAINS)
def test_bytes_are_the_same_everywhere(name: str, tmp_path: Path) -> None:
    draw_domain(name, tmp_path, identities=(2, 1), processes=1)
    for path in tmp_path.rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128))
    assert digest(tmp_path) == GOLDEN[name]


def test_the_number_of_processes_changes_no_byte(plaza: Path, tmp_path: Path) -> None:
    draw_domain("plaza", tmp_path, identities=(3, 2), processes=2)
    assert digest(tmp_path) == digest(plaza)


def test_an_image_does_not_depend_on_what_was_drawn_before() -> None:
    """The scene caches, and nothing else, outlive an image."""
    script = (
        "import hashlib; from reidgen.synth.domains import draw_image\n"
        "print(hashlib.sha256(draw_image('station', 9, camera=2, shot=1, seed=4).tobytes()).hexdigest())"
    )
    for pid in range(3):
        draw_image("station", pid, camera=2, seed=4)
    here = hashlib.sha256(draw_image("station", 9, camera=2, shot=1, seed=4).tobytes()).hexdigest()
    fresh = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == here


def test_another_seed_draws_other_images(plaza: Path, tmp_path: Path) -> None:
    draw_domain("plaza", tmp_path, seed=1, identities=(3, 2), processes=1)
    for path in plaza.rglob("*.jpg"):
        assert (tmp_path / path.relative_to(plaza)).read_bytes() != path.read_bytes()


def test_market_layout(plaza: Path) -> None:
    parts = {part: names(plaza / part) for part in ("bounding_box_train", "query", "bounding_box_test")}
    assert {path.name for path in plaza.iterdir()} == set(parts)
    pattern = re.compile(r"(\d{4})_c([1-4])s1_\d{6}_00\.jpg")
    seen = {}
    for part, files in parts.items():
        matches = [pattern.fullmatch(name) for name in files]
        assert all(matches), files
        seen[part] = Counter((int(match[1]), int(match[2])) for match in matches if match)
    cameras = (1, 2, 3, 4)
    assert seen["bounding_box_train"] == {(pid, camera): 2 for pid in (1, 2, 3) for camera in cameras}
    assert seen["query"] == {(pid, camera): 1 for pid in (4, 5) for camera in cameras}
    assert seen["bounding_box_test"] == seen["query"] + Counter({(0, 1): 1, (0, 2): 1})
    assert len({name for files in parts.values() for name in files}) == sum(len(files) for files in parts.values())


def test_counts_are_those_that_are_drawn(plaza: Path) -> None:
    found = {}
    for part, folder in (("train", "bounding_box_train"), ("query", "query"), ("gallery", "bounding_box_test")):
        files = names(plaza / folder)
        found[part] = (len({one[:4] for one in files}), len(files), len({one.split("_c")[1][0] for one in files}))
    assert counts_of("plaza", (3, 2)) == found


def test_progress_counts_the_images(tmp_path: Path) -> None:
    steps: list[int] = []
    draw_domain("mall", tmp_path, identities=(1, 1), progress=steps.append, processes=1)
    assert steps == [8, 8, 1]
    assert len(list(tmp_path.rglob("*.jpg"))) == 17


def test_six_domains_with_several_cameras() -> None:
    assert next(iter(DOMAINS)) == "plaza"
    assert len(DOMAINS) >= 6
    for domain in DOMAINS.values():
        assert len(domain.cameras) >= 3
        assert set(domain.things) <= set(SCENERY)
        assert set(domain.occluders) <= set(OCCLUDERS)


def test_domains_differ_in_style_as_their_titles_say() -> None:
    """Measured on the same number of images each: brightness, colourfulness and cast."""
    light, colour, warmth = {}, {}, {}
    for name in DOMAINS:
        images = [draw_image(name, pid, camera=pid % 4) for pid in range(1, 13)]
        pixels = np.stack([np.asarray(image) for image in images]).astype(np.int64)
        light[name] = pixels.mean()
        colour[name] = (pixels.max(axis=3) - pixels.min(axis=3)).mean()
        warmth[name] = (pixels[..., 0] - pixels[..., 2]).mean()
    assert max(light, key=light.__getitem__) == "mall"
    assert min(light, key=light.__getitem__) in ("night", "garage")
    assert light["mall"] > light["plaza"] + 15 > light["night"] + 60
    assert max(colour, key=colour.__getitem__) == "mall"
    assert colour["station"] < colour["plaza"]
    assert warmth["night"] > 10 > 0 > warmth["campus"]


def test_people_differ_between_domains_but_follow_one_law() -> None:
    assert draw_identity("plaza", 1) == draw_identity("plaza", 1)
    assert draw_identity("plaza", 1) != draw_identity("night", 1) != draw_identity("night", 2)
    dark = {
        name: sum(sum(draw_identity(name, pid).upper_colour) < 240 for pid in range(300)) / 300
        for name in ("plaza", "night", "mall")
    }
    assert max(dark.values()) - min(dark.values()) < 0.12
    assert 0.3 < min(dark.values()) < 0.7  # few colours dominate, in every domain


def test_a_person_covers_the_board_in_every_direction() -> None:
    for turn in (0, 0.13, 0.25, 0.5, 0.75, 0.9):
        board = Board(256, left=64)
        draw_person(board, population(Dice("anyone")), Pose(64, 240, 220, turn))
        drawn = np.asarray(board.image)[:, 320:448].max(axis=2) > 0
        assert 0.1 < drawn.mean() < 0.5
        assert drawn[60:200].any(axis=1).all()  # no gap between head and feet


@pytest.mark.parametrize("kind", OCCLUDERS)
def test_occluders_hide_a_part_and_never_all(kind: str) -> None:
    for i in range(10):
        board = Board(256, left=64)
        draw_occluder(board, Dice(f"{kind}/{i}"), kind)
        drawn = np.asarray(board.image)[:, 320:448].max(axis=2) > 0
        assert 0.005 < drawn.mean() < 0.65


@pytest.mark.parametrize("thing", SCENERY)
def test_scenery_draws_something(thing: str) -> None:
    boards = [Board(320), Board(320)]
    for board, things in zip(boards, ([], [thing]), strict=True):
        draw_scene(board, Dice("scene"), wall=(120, 120, 120), floor=(90, 90, 90), horizon=0.5, things=things)
    assert boards[0].image.tobytes() != boards[1].image.tobytes()


def test_directions_are_unit_vectors() -> None:
    for i in range(-40, 80):
        x, y = direction(i / 40)
        assert x * x + y * y == pytest.approx(1)
    assert direction(0) == (1, 0)
    assert direction(0.25) == (0, 1)
    assert direction(0.625) == pytest.approx((-(0.5**0.5), -(0.5**0.5)))


def test_an_unknown_domain_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'plaza'"):
        draw_domain("plazza", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot draw plaza into"):
        draw_domain("plaza", tmp_path / "file", identities=(1, 0), processes=1)


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_ctrl_c_is_quiet(tmp_path: Path, delay: float) -> None:
    """Ctrl-C reaches the whole process group; the workers, starting or drawing, leave it to their parent."""
    program = (
        "import sys; from pathlib import Path; from reidgen.synth.domains import draw_domain\n"
        "try:\n    print(1, flush=True); draw_domain('plaza', Path(sys.argv[1]), processes=4)\n"
        "except KeyboardInterrupt:\n    sys.exit(7)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout and process.stderr and process.stdout.readline()
        time.sleep(0.2 + delay)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 7
