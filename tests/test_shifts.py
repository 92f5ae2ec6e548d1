"""The shifts: the same pixels everywhere, identity at severity 0, and what each does to an image."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from reidgen.errors import ReidgenError
from reidgen.robustness.shifts import SEVERITIES, SHIFTS, Pixels, apply_shift, sheet, shifts_digest
from reidgen.synth.domains import draw_image

# SHA-256 of the drawn image's pixels at severity 3 in both directions; a failing test prints the new ones.
GOLDEN: dict[str, str] = {
    "brightness": "b8184dfc97b1c7a1",
    "gamma": "a28e8478230dadb1",
    "contrast": "5e8b7c72f2472e42",
    "saturation": "36c14306e4eb831d",
    "hue": "7a507ab5be484594",
    "white-balance": "6013a2350cdcbd2a",
    "resolution": "1dae67ad32dd913f",
    "blur": "30d9efc4e696a815",
    "noise": "8fbfe517a0998e18",
    "jpeg": "8cdf6b9125b5acc1",
    "occlusion": "1e2e97ac46bdc509",
}


@pytest.fixture(scope="module")
def image() -> Pixels:
    return np.asarray(draw_image("plaza", 3, camera=1))


def shifted(image: Pixels, name: str, severity: int, direction: int = 1, key: str = "a/b.jpg", seed: int = 0) -> Pixels:
    return apply_shift(image[None], name, severity, directions=[direction], keys=[key], seed=seed)[0]


def difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def test_golden_pixels(image: Pixels) -> None:
    both = {name: np.stack([shifted(image, name, 3, direction) for direction in (1, -1)]) for name in SHIFTS}
    assert {name: hashlib.sha256(pixels.tobytes()).hexdigest()[:16] for name, pixels in both.items()} == GOLDEN


@pytest.mark.parametrize("name", SHIFTS)
def test_severity_0_changes_nothing_and_more_changes_more(image: Pixels, name: str) -> None:
    before = image.copy()
    for direction in (1, -1) if SHIFTS[name].opposite else (1,):
        images = [shifted(image, name, severity, direction) for severity in range(SEVERITIES + 1)]
        assert all(one.dtype == np.uint8 and one.shape == image.shape for one in images)
        np.testing.assert_array_equal(images[0], image)
        moved = [difference(one, image) for one in images]
        assert moved == sorted(moved) and moved[1] > 0.3 and len(set(moved)) == SEVERITIES + 1
    np.testing.assert_array_equal(image, before)


def test_the_two_directions_are_opposite(image: Pixels) -> None:
    middle = image.mean()
    for name, up in (("brightness", True), ("gamma", False)):
        brighter, darker = (shifted(image, name, 3, direction).mean() for direction in ((1, -1) if up else (-1, 1)))
        assert darker < middle < brighter
    assert shifted(image, "contrast", 3).std() > image.std() > shifted(image, "contrast", 3, -1).std()
    warm, cold = (shifted(image, "white-balance", 3, direction).mean((0, 1)) for direction in (1, -1))
    assert warm[0] > cold[0] and warm[2] < cold[2] and warm[1] == cold[1]
    colourful, pale = (np.ptp(shifted(image, "saturation", 3, direction).astype(int), axis=2).mean() for direction in (1, -1))  # fmt: skip
    assert colourful > pale
    for name in set(SHIFTS) - {"brightness", "gamma", "contrast", "saturation", "hue", "white-balance"}:
        np.testing.assert_array_equal(shifted(image, name, 2, 1), shifted(image, name, 2, -1))


def test_known_values() -> None:
    grey = np.full((8, 4, 3), 128, np.uint8)
    assert shifted(grey, "gamma", 4)[0, 0, 0] == round(255 * (128 / 255) ** SHIFTS["gamma"].amounts[3])
    np.testing.assert_array_equal(shifted(grey, "contrast", 5), grey)  # its mean is itself
    np.testing.assert_array_equal(shifted(grey, "saturation", 5), grey)
    np.testing.assert_array_equal(shifted(grey, "hue", 5), grey)
    np.testing.assert_array_equal(shifted(grey, "blur", 5), grey)
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    hue = int(np.asarray(Image.fromarray(shifted(red, "hue", 4)).convert("HSV"))[0, 0, 0])
    assert abs(hue * 360 / 256 - SHIFTS["hue"].amounts[3]) < 2  # steps of 1.4 degrees
    black = np.zeros((100, 50, 3), np.uint8)
    covered = (shifted(black, "occlusion", 4) > 0).any(axis=2).mean()
    assert covered == pytest.approx(SHIFTS["occlusion"].amounts[3] / 100, abs=0.015)


def test_noise_has_its_deviation_and_comes_from_key_and_seed() -> None:
    grey = np.full((128, 64, 3), 128, np.uint8)
    noisy = shifted(grey, "noise", 3).astype(float) - 128
    assert noisy.std() == pytest.approx(SHIFTS["noise"].amounts[2], rel=0.02) and abs(noisy.mean()) < 0.3
    for name in ("noise", "occlusion"):
        one = shifted(grey, name, 3)
        np.testing.assert_array_equal(one, shifted(grey, name, 3))
        assert difference(one, shifted(grey, name, 3, key="other.jpg")) > 1
        assert difference(one, shifted(grey, name, 3, seed=1)) > 1


def test_the_order_of_the_images_changes_no_pixel(image: Pixels) -> None:
    images, keys = np.stack([image, image[::-1]]), ["x", "y"]
    for name in SHIFTS:
        forwards = apply_shift(images, name, 2, directions=[1, -1], keys=keys)
        backwards = apply_shift(images[::-1], name, 2, directions=[-1, 1], keys=keys[::-1])
        np.testing.assert_array_equal(forwards, backwards[::-1])


def test_bad_names_and_severities_are_said(image: Pixels) -> None:
    with pytest.raises(ReidgenError, match="unknown shift 'blurr'; did you mean 'blur'"):
        shifted(image, "blurr", 1)
    with pytest.raises(ReidgenError, match="severity must be 0 to 5; got 6"):
        shifted(image, "blur", 6)


def test_the_sheet_shows_every_shift_and_the_digest_stands_for_the_table(
    image: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = np.asarray(sheet(image))
    assert page.shape[0] > len(SHIFTS) * image.shape[0] and page.shape[1] > (2 * SEVERITIES + 1) * image.shape[1]
    before = shifts_digest()
    monkeypatch.setitem(SHIFTS, "blur", SHIFTS["noise"])
    assert shifts_digest() != before
