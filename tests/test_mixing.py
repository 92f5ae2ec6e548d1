"""MixStyle, EFDMix and DSU against a naive loop with the same draws, and what they do at test time: nothing."""

import copy

import pytest
import torch
from torch import Tensor

from reidgen.contracts import Step
from reidgen.errors import RecipeError
from reidgen.models.mixing import DSU, EFDMix, MixStyle

CAMERAS = torch.tensor([0, 0, 1, 1, 2, 2])
EPS = 1e-6  # the authors', beside the variance
KINDS = [MixStyle, EFDMix, DSU]


def step(number: int = 0, *, camid: Tensor = CAMERAS, where: str = "after.1", own: Tensor | None = None) -> Step:
    zero = torch.zeros(len(camid), dtype=torch.int64)
    own = torch.arange(len(camid)) if own is None else own
    return Step(zero, camid, zero, zero, own, seed=0, number=number, where=where)


def drawn(module: MixStyle | EFDMix | DSU, mixes: bool = True) -> MixStyle | EFDMix | DSU:
    """Return the module with the draws of the first step whose coin says so."""
    for number in range(100):
        module.drawn = module.draw(step(number))
        active = bool(module.drawn[0].any()) if isinstance(module, DSU) else bool((module.drawn[0] < 1).any())
        if active == mixes:
            return module
    raise AssertionError("no such step")


def maps() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(6, 5, 4, 3, dtype=torch.float64) * torch.rand(6, 5, 1, 1) * 3 + torch.randn(6, 5, 1, 1)


def plain_style(values: Tensor) -> tuple[float, float]:
    """Return mean and deviation of the values of one channel of one image."""
    mean = sum(values.flatten().tolist()) / values.numel()
    variance = sum((value - mean) ** 2 for value in values.flatten().tolist()) / (values.numel() - 1)
    return mean, (variance + EPS) ** 0.5


@pytest.mark.parametrize("partner", ["random", "camera"])
def test_mixstyle_equals_a_loop_over_images_and_channels(partner: str) -> None:
    module, images = drawn(MixStyle(5, partner=partner)), maps()
    weight, other = module.drawn
    found = module(images)
    for image in range(6):
        for channel in range(5):
            mean, deviation = plain_style(images[image, channel])
            mean2, deviation2 = plain_style(images[other[image], channel])
            share = float(weight[image])
            new = (share * mean + (1 - share) * mean2, share * deviation + (1 - share) * deviation2)
            expected = (images[image, channel] - mean) / deviation * new[1] + new[0]
            torch.testing.assert_close(found[image, channel], expected, rtol=1e-6, atol=1e-7)


def test_the_gradient_of_mixstyle_takes_styles_for_constants() -> None:
    module, images = drawn(MixStyle(5)), maps().requires_grad_()
    weight, other = module.drawn
    module(images).sum().backward()
    assert images.grad is not None
    for image in range(6):
        own, others = plain_style(images[image, 0])[1], plain_style(images[other[image], 0])[1]
        factor = (float(weight[image]) * own + (1 - float(weight[image])) * others) / own
        torch.testing.assert_close(images.grad[image, 0], torch.full((4, 3), factor).double(), rtol=1e-6, atol=0)


def test_efdmix_equals_a_loop_over_sorted_values_and_its_gradient_is_one() -> None:
    module, images = drawn(EFDMix(5)), maps().requires_grad_()
    weight, other = module.drawn
    found = module(images)
    for image in range(6):
        for channel in range(5):
            own = images[image, channel].flatten().tolist()
            theirs = sorted(images[other[image], channel].flatten().tolist())
            rank = {position: number for number, position in enumerate(sorted(range(len(own)), key=own.__getitem__))}
            share = float(weight[image])
            expected = [share * own[position] + (1 - share) * theirs[rank[position]] for position in range(len(own))]
            torch.testing.assert_close(found[image, channel].flatten().tolist(), expected, rtol=1e-6, atol=1e-7)
    found.sum().backward()
    assert images.grad is not None and torch.equal(images.grad, torch.ones_like(images))


def test_dsu_equals_a_loop_and_its_gradient_finite_differences() -> None:
    module, images = drawn(DSU(5)), maps()
    one, two = module.drawn
    module.drawn = (one.double(), two.double())
    found = module(images)
    for channel in range(5):
        styles = [plain_style(images[image, channel]) for image in range(6)]
        spread = []
        for kind in (0, 1):
            middle = sum(style[kind] for style in styles) / 6
            spread.append((sum((style[kind] - middle) ** 2 for style in styles) / 5 + EPS) ** 0.5)
        for image, (mean, deviation) in enumerate(styles):
            new_mean = mean + float(two[image, channel]) * spread[0]
            new_deviation = deviation + float(one[image, channel]) * spread[1]
            expected = (images[image, channel] - mean) / deviation * new_deviation + new_mean
            torch.testing.assert_close(found[image, channel], expected, rtol=1e-5, atol=1e-6)
    assert torch.autograd.gradcheck(module, (images.requires_grad_(),))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_happens_at_test_time_and_where_the_coin_says_no(kind: type) -> None:
    images = maps().float()
    assert kind(5).eval()(images) is images
    still = drawn(kind(5), mixes=False)
    torch.testing.assert_close(still(images), images, rtol=1e-6, atol=1e-6)
    assert kind(5, probability=0.0).draw(step())[0].unique().tolist() == ([0.0] if kind is DSU else [1.0])


@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_step_and_the_layer_and_hold_of_every_row_of_the_batch(kind: type) -> None:
    module = kind(5, probability=1.0)
    same = [module.draw(step(3)) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*same, strict=True))
    assert not torch.equal(module.draw(step(4))[0], same[0][0])
    assert not torch.equal(module.draw(step(3, where="after.2"))[0], same[0][0])
    mine = module.draw(step(3, own=torch.tensor([4, 5])))
    assert all(torch.equal(part, whole[4:]) for part, whole in zip(mine, same[0], strict=True))


def test_a_coin_of_a_half_mixes_in_half_of_the_steps() -> None:
    module = MixStyle(5)
    mixed = sum(bool((module.draw(step(number))[0] < 1).any()) for number in range(400))
    assert 160 < mixed < 240


def test_partners_of_another_camera_where_there_is_one() -> None:
    module = MixStyle(5, probability=1.0, partner="camera")
    seen = set()
    for number in range(50):
        partner = module.draw(step(number))[1]
        assert (CAMERAS[partner] != CAMERAS).all()
        seen |= set(partner.tolist())
    assert seen == set(range(6))
    alone = module.draw(step(camid=torch.zeros(6, dtype=torch.int64)))[1]
    assert alone.tolist() == list(range(6))


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_bfloat16_and_copies(kind: type) -> None:
    module, images = drawn(kind(5)), maps().float()
    expected = module(images)
    torch.testing.assert_close(module(images.contiguous(memory_format=torch.channels_last)), expected)
    low = module(images.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.05, atol=0.1)
    assert copy.deepcopy(module).drawn == ()


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"unknown partner 'camara'; did you mean 'camera'"):
        MixStyle(5, partner="camara")
    for wrong in ({"probability": 1.5}, {"alpha": 0.0}):
        with pytest.raises(RecipeError, match=r"probability must lie within 0\.\.1"):
            EFDMix(5, **wrong)
    with pytest.raises(RecipeError, match=r"factor be at least 0"):
        DSU(5, factor=-1.0)
    with pytest.raises(ValueError, match="maps of one position have no style"):
        drawn(MixStyle(5))(torch.zeros(6, 5, 1, 1))
