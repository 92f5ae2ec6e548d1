"""Batches: composition, and augmentation against torchvision's own functions."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as reference

from reidgen.data.batches import augment, batches_per_epoch, draw_augmentation, epoch_batches, standardize, to_float
from reidgen.recipe import Recipe

RECIPE = Recipe(identities=4, images=3, batches_per_epoch=6)
LABELS = np.repeat(np.arange(10), [3, 4, 5, 6, 7, 8, 9, 1, 2, 12])


def test_every_batch_holds_p_identities_with_k_images() -> None:
    batches = epoch_batches(LABELS, recipe=RECIPE, epoch=0)
    assert batches.shape == (6, 12)
    visits: list[int] = []
    for batch in batches:
        labels = LABELS[batch].reshape(4, 3)
        assert (labels == labels[:, :1]).all() and len(np.unique(labels[:, 0])) == 4
        visits += labels[:, 0].tolist()
        for label, images in zip(labels[:, 0], batch.reshape(4, 3), strict=True):
            assert len(set(images)) == min(3, (LABELS == label).sum())
    for round_of in (visits[:8], visits[8:16], visits[16:]):  # two batches a round: 8 of the 10, none twice
        assert len(set(round_of)) == 8


def test_no_image_repeats_before_all_of_its_identity_were_seen() -> None:
    recipe = RECIPE.change(batches_per_epoch=40)
    images = epoch_batches(LABELS, recipe=recipe, epoch=1).reshape(-1)
    for label in range(7):
        taken = [image for image in images if LABELS[image] == label]
        size = int((LABELS == label).sum())
        for start in range(0, len(taken) - size + 1, size):
            assert len(set(taken[start : start + size])) == size


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first = epoch_batches(LABELS, recipe=RECIPE, epoch=0)
    assert np.array_equal(first, epoch_batches(LABELS, recipe=RECIPE, epoch=0))
    assert not np.array_equal(first, epoch_batches(LABELS, recipe=RECIPE, epoch=1))
    assert not np.array_equal(first, epoch_batches(LABELS, recipe=RECIPE.change(seed=1), epoch=0))
    assert batches_per_epoch(RECIPE.change(batches_per_epoch=0), 57) == 4


def pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 16, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_without_augmentation_the_image_is_only_normalised() -> None:
    recipe = RECIPE.change(zoom=0.0, flip=0.0, brightness=0.0, contrast=0.0)
    images = pixels(recipe.batch)
    expected = reference.normalize(
        images.permute(0, 3, 1, 2) / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(augment(images, draw_augmentation(recipe, step=0)), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(standardize(to_float(images)), expected)


def test_flip_brightness_and_contrast_equal_torchvision() -> None:
    recipe = RECIPE.change(zoom=0.0, flip=1.0, brightness=0.5, contrast=0.5)
    images, drawn = pixels(recipe.batch), draw_augmentation(recipe, step=7)
    out = augment(images, drawn)
    for one, (*_, brightness, contrast), result in zip(images, drawn.tolist(), out, strict=True):
        image = reference.hflip(one.permute(2, 0, 1) / 255)
        image = reference.adjust_contrast(reference.adjust_brightness(image, brightness), contrast)
        torch.testing.assert_close(result, standardize(image[None])[0], atol=2e-3, rtol=0)


def test_zoom_shows_a_crop_of_the_enlarged_image() -> None:
    recipe = RECIPE.change(zoom=1.0, flip=0.0, brightness=0.0, contrast=0.0)
    ramp = torch.arange(0, 160, 10, dtype=torch.uint8).view(1, 16, 1, 1).expand(recipe.batch, 16, 8, 3)
    drawn = draw_augmentation(recipe, step=0)
    rows = (augment(ramp, drawn) * 0.229 + 0.485)[:, 0].mean(2) * 255  # back to levels of red
    steps = rows[:, 2:-2].diff(dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, 10 / 1.125), atol=0.05, rtol=0)
    assert rows[:, 8].std() > 0.5  # at different places
    assert (drawn[:, 2:4].abs() <= 1 - 1 / 1.125 + 1e-6).all()


def test_augmentation_follows_its_probabilities() -> None:
    drawn = torch.cat([draw_augmentation(RECIPE, step=step) for step in range(400)])
    assert (drawn[:, 0] < 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (drawn[:, 1] < 1).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert 0.8 <= drawn[:, 4].min() < 0.81 and 1.19 < drawn[:, 4].max() <= 1.2
    assert 0.85 <= drawn[:, 5].min() < 0.86 and 1.14 < drawn[:, 5].max() <= 1.15
