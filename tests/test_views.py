"""The strong view of BAU against torchvision and PIL on single images, and its probabilities."""

import colorsys

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from reidgen.contracts import Step
from reidgen.data.augment import draw_boxes, erase, turn_hue
from reidgen.data.views import FILL, OPERATIONS, StrongView
from reidgen.errors import RecipeError

SHARE = 10 / 30


def step(number: int = 0, rows: int = 8) -> Step:
    zero = torch.zeros(rows, dtype=torch.int64)
    return Step(zero, zero, zero, zero + 1, torch.arange(rows), seed=0, number=number, where="view 1.0")


def pixels(rows: int = 8) -> Tensor:
    return torch.randint(0, 256, (rows, 3, 16, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def by_pil(name: str, image: Image.Image) -> Image.Image:
    """Return what the authors' RandAugment makes of one image at magnitude 10 of 30, positive sign."""
    affine = {
        "shift x": (1, 0, 0.15 * image.width, 0, 1, 0),
        "shift y": (1, 0, 0, 0, 1, 0.15 * image.height),
        "shear x": (1, 0.1, 0, 0, 1, 0),
        "shear y": (1, 0, 0, 0.1, 1, 0),
    }
    if name in affine:
        return image.transform(image.size, Image.Transform.AFFINE, affine[name])
    simple = {
        "identity": lambda: image,
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "posterize": lambda: ImageOps.posterize(image, 2),
        "invert": lambda: ImageOps.invert(image),
        "solarize": lambda: ImageOps.solarize(image, 256 / 3),
        "solarize add": lambda: ImageOps.solarize(image.point(lambda value: min(value + 36, 255)), 128),
        "saturation": lambda: ImageEnhance.Color(image).enhance(0.7),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(0.7),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(0.7),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(0.7),
        "rotate": lambda: image.rotate(10),
    }
    return simple[name]()


@pytest.mark.parametrize("name", [name for name in OPERATIONS if not name.startswith(("shift", "shear", "rotate"))])
def test_an_operation_on_colours_equals_pils(name: str) -> None:
    images = pixels(2)
    found = OPERATIONS[name](images, SHARE)
    for one, result in zip(images, found, strict=True):
        expected = reference.pil_to_tensor(by_pil(name, reference.to_pil_image(one)))
        difference = (result.int() - expected.int()).abs()
        assert difference.max() <= (4 if name == "sharpness" else 2) and difference.float().mean() < 0.7, name


@pytest.mark.parametrize("name", ["shift x", "shift y", "shear x", "shear y", "rotate"])
def test_an_operation_on_places_moves_as_pil_does_with_one_sign(name: str) -> None:
    """About the centre or a corner, by whole pixels or not: a smooth image moves alike to within two pixels."""
    ramp = torch.linspace(20, 230, 32)
    image = (ramp[:, None] + ramp[None, :16] / 4).round().clamp(0, 255).to(torch.uint8).expand(3, 32, 16)
    other = reference.pil_to_tensor(by_pil(name, reference.to_pil_image(image.contiguous())))
    found = [OPERATIONS[name](image[None], sign * SHARE)[0] for sign in (1, -1)]
    inner = (slice(None), slice(8, 24), slice(5, 11))
    gaps = [(one[inner].int() - other[inner].int()).abs().float().mean() for one in found]
    assert min(gaps) < 16 and not torch.equal(found[0], image)
    assert not torch.equal(*found)


def test_the_hue_turns_as_colorsys_says() -> None:
    images = torch.rand(3, 3, 4, 2, generator=torch.Generator().manual_seed(1))
    turns = torch.tensor([0.1, -0.25, 0.0])
    found = turn_hue(images, turns[:, None, None, None])
    for image, turn, result in zip(images, turns.tolist(), found, strict=True):
        for y in range(4):
            for x in range(2):
                hue, saturation, value = colorsys.rgb_to_hsv(*image[:, y, x].tolist())
                expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
                torch.testing.assert_close(result[:, y, x], torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_boxes_have_the_areas_and_shapes_that_are_said_and_are_filled() -> None:
    boxes = draw_boxes(torch.ones(2000, dtype=torch.bool), torch.Generator().manual_seed(0))
    left, top, right, bottom = boxes.unbind(1)
    area, aspect = (right - left) * (bottom - top), (bottom - top) / (right - left)
    whole = (right - left < 1) & (bottom - top < 1)
    assert (boxes >= 0).all() and (boxes <= 1 + 1e-6).all() and whole.float().mean() > 0.9
    assert 0.02 - 1e-6 <= area.min() and area.max() <= 0.4 + 1e-6
    assert 0.3 - 1e-4 <= aspect[whole].min() and aspect[whole].max() <= 1 / 0.3 + 1e-3
    images = torch.rand(2, 3, 10, 5)
    box = torch.tensor([[0.2, 0.1, 0.6, 0.5], [0.0, 0.0, 0.0, 0.0]])
    found = erase(images, box, FILL)
    expected = images.clone()
    expected[0, :, 1:5, 1:3] = torch.tensor(FILL)[:, None, None]
    torch.testing.assert_close(found, expected)


def test_each_of_the_three_meets_half_of_the_images_and_off_they_leave_them() -> None:
    view = StrongView()
    counts = torch.zeros(3)
    for number in range(50):
        factors, boxes, order, changed = view.draw(step(number))
        planned = torch.zeros(8, dtype=torch.bool)
        for plan, rows in zip(view.plan, order, strict=True):
            picks = torch.tensor([pick for pick, _, count in plan for _ in range(count)])
            assert sorted(rows.tolist()) == list(range(8))
            planned[rows[picks > 0]] = True
        assert torch.equal(planned, changed)
        counts += torch.tensor(
            [planned.sum(), (factors != torch.tensor([1, 1, 1, 0])).any(1).sum(), boxes.any(1).sum()]
        )
    assert (counts / 400 > 0.4).all() and (counts / 400 < 0.6).all()
    images = pixels().float() / 255
    off = StrongView(probability=0.0)
    off.drawn = off.draw(step())
    torch.testing.assert_close(off(images), images)


def test_the_view_stays_in_range_and_follows_the_step() -> None:
    images, found = torch.rand(8, 3, 16, 8), []
    for number in (1, 1, 2):
        view = StrongView(probability=1.0)
        view.drawn = view.draw(step(number))
        found.append(view(images))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert found[0].dtype == torch.float32 and found[0].min() >= 0 and found[0].max() <= 1
    assert (found[0] != images).any(dim=(1, 2, 3)).all()


def test_what_means_nothing_is_refused() -> None:
    for wrong in ({"probability": 2.0}, {"operations": 17}, {"magnitude": 31.0}):
        with pytest.raises(RecipeError, match=r"magnitude within 0\.\.30"):
            StrongView(**wrong)
    for wrong in ({"jitter": 0.5}, {"hue": 0.6}):
        with pytest.raises(RecipeError, match=r"hue within 0\.\.0\.5"):
            StrongView(**wrong)
