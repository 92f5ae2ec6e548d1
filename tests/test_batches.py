"""Batches: sources, composition, and augmentation against torchvision's own functions."""

import hashlib
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import quiet
from PIL import Image
from torchvision.transforms import functional as reference

from reidgen.data.augment import augment, draw_augmentation, standardize, to_float
from reidgen.data.batches import batches_per_epoch, epoch_batches, load_source, training_images
from reidgen.data.manifest import load_index, load_prepared, source_digest
from reidgen.data.prepare import prepare
from reidgen.errors import DataError, SharedImagesError
from reidgen.recipe import Recipe

RECIPE = Recipe(identities=4, images=3, batches_per_epoch=6)
LABELS = np.repeat(np.arange(10), [3, 4, 5, 6, 7, 8, 9, 1, 2, 12])
ONE_DOMAIN = np.zeros_like(LABELS)


def test_every_batch_holds_p_identities_with_k_images() -> None:
    batches = epoch_batches(LABELS, ONE_DOMAIN, recipe=RECIPE, epoch=0)
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
    images = epoch_batches(LABELS, ONE_DOMAIN, recipe=recipe, epoch=1).reshape(-1)
    for label in range(7):
        taken = [image for image in images if LABELS[image] == label]
        size = int((LABELS == label).sum())
        for start in range(0, len(taken) - size + 1, size):
            assert len(set(taken[start : start + size])) == size


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first = epoch_batches(LABELS, ONE_DOMAIN, recipe=RECIPE, epoch=0)
    assert np.array_equal(first, epoch_batches(LABELS, ONE_DOMAIN, recipe=RECIPE, epoch=0))
    assert not np.array_equal(first, epoch_batches(LABELS, ONE_DOMAIN, recipe=RECIPE, epoch=1))
    assert not np.array_equal(first, epoch_batches(LABELS, ONE_DOMAIN, recipe=RECIPE.change(seed=1), epoch=0))
    assert batches_per_epoch(RECIPE.change(batches_per_epoch=0), 57) == 4


def test_batches_are_those_of_reidgen_0_1() -> None:
    """Balanced sampling came later; what runs from before it drew must stay, bit for bit, so that they can go on."""
    batches = epoch_batches(LABELS, ONE_DOMAIN, recipe=RECIPE.change(batches_per_epoch=40), epoch=3)
    assert batches[0].tolist() == [43, 44, 44, 3, 5, 4, 1, 2, 0, 11, 7, 9]
    assert hashlib.sha256(batches.tobytes()).hexdigest()[:16] == "159ecdc086bf8b20"


@pytest.mark.parametrize(
    ("identities", "per_batch"),
    [
        (4, [(2, 1, 1), (1, 2, 1), (1, 1, 2)] * 4),
        (6, [(2, 2, 2)] * 12),
        (2, [(1, 1, 0), (1, 0, 1), (0, 1, 1)] * 4),
        (5, [(2, 2, 1), (2, 1, 2), (1, 2, 2)] * 4),
    ],
)
def test_balanced_batches_hold_as_many_of_each_domain(identities: int, per_batch: list[tuple[int, int, int]]) -> None:
    """Three domains of 20, 5 and 3 identities; the counts of every batch are written down by hand."""
    domain_of = np.repeat([0, 1, 2], [20, 5, 3])
    label_N = np.repeat(np.arange(28), 4)
    recipe = RECIPE.change(identities=identities, images=2, batches_per_epoch=12, sampling="balanced")
    batches = epoch_batches(label_N, domain_of[label_N], recipe=recipe, epoch=0)
    assert batches.shape == (12, identities * 2)
    drawn = []
    for batch, counts in zip(batches, per_batch, strict=True):
        labels = label_N[batch].reshape(-1, 2)[:, 0]
        assert len(set(labels)) == identities
        assert tuple(np.bincount(domain_of[labels], minlength=3)) == counts
        drawn += labels.tolist()
    for domain, people in enumerate((20, 5, 3)):  # nobody comes twice in a round; its rest, too few, waits for the next
        here: set[int] = set()
        for place, counts in enumerate(per_batch):
            labels = [label for label in drawn[place * identities :][:identities] if domain_of[label] == domain]
            if len(here) + counts[domain] > people:
                here.clear()
            assert here.isdisjoint(labels)
            here |= set(labels)
    concat = epoch_batches(label_N, domain_of[label_N], recipe=recipe.change(sampling="concat"), epoch=0)
    assert not np.array_equal(batches, concat)
    assert np.array_equal(batches, epoch_batches(label_N, domain_of[label_N], recipe=recipe, epoch=0))


def crops(folder: Path, *, seed: int, people: int, cameras: int = 2, shots: int = 2) -> Path:
    """Write a folder per person with `shots` noisy crops per camera."""
    rng = np.random.default_rng(seed)
    for pid, camera, shot in itertools.product(range(people), range(cameras), range(shots)):
        path = folder / f"{pid + 1:03}" / f"c{camera + 1}_{shot}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 16, 3), dtype=np.uint8)).save(path)
    return folder


def test_offsets_of_several_sources_equal_a_naive_loop(small_data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("synth-plaza", "synth-night"):
        (data / name).symlink_to(small_data / name)
    prepare("mycams", data=data, source=crops(tmp_path / "mycams", seed=0, people=5, cameras=3))
    recipe = small_recipe.change(source="synth-night+mycams-all+synth-plaza")
    source = load_source(recipe, data=data, report=quiet)
    people: list[tuple[str, int]] = []
    cameras: list[tuple[str, int]] = []
    label_N, camid_N, domain_N = [], [], []
    for domain, name in enumerate(("synth-night", "mycams", "synth-plaza")):
        index = load_index(load_prepared(name, data))
        rows = index if name == "mycams" else index[index["part"] == "train"]
        people += [(name, pid) for pid in sorted(set(rows["pid"]))]
        cameras += [(name, camid) for camid in sorted(set(rows["camid"]))]
        for _, row in rows.sort_values("path").iterrows():
            label_N.append(people.index((name, row["pid"])))
            camid_N.append(cameras.index((name, row["camid"])))
            domain_N.append(domain)
    assert source.label_N.tolist() == label_N and source.classes == len(people) == 6 + 5 + 6
    assert source.camid_N.tolist() == camid_N and source.domain_N.tolist() == domain_N
    assert {source.label_N.dtype, source.camid_N.dtype, source.domain_N.dtype} == {np.dtype("int64")}
    assert len(source.pixels_NHWC) == len(label_N) and source.single == 0
    for number in (0, len(label_N) // 2, len(label_N) - 1):  # pixels belong to their labels
        name = recipe.sources[domain_N[number]]
        alone = load_source(small_recipe.change(source=name), data=data, report=quiet)
        assert torch.equal(source.pixels_NHWC[number], alone.pixels_NHWC[number - domain_N.index(domain_N[number])])


def test_the_pixels_are_in_memory_once(small_data: Path, small_recipe: Recipe) -> None:
    recipe = small_recipe.change(source="synth-night-all+synth-plaza-all", height=256, width=128)
    load_source(recipe, data=small_data, report=quiet)  # the packs are built
    tracemalloc.start()
    source = load_source(recipe, data=small_data, report=quiet)
    size = source.nbytes  # torch's own memory is not traced, NumPy's is: what is copied on the way
    assert source.pixels_NHWC.nbytes == size > 10e6
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.2 * size


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder, beside a datasets.toml whose entries `town` and `harbour` are one family."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets.toml").write_text(
        "".join(
            f"[{name}]\npattern = '(?P<pid>\\d+)_c(?P<camid>\\d+)_\\d+\\.png'\nfamily = 'coast'\ndistractors = [0]\n"
            "folders = { train = 'train', query = 'query', gallery = 'gallery' }\n"
            for name in ("town", "harbour")
        )
    )
    return tmp_path / "data"


def town(folder: Path, *, seed: int = 0) -> Path:
    """Write 5 people to train on, one of them with a single image, 3 to test, one of them alone, and 4 distractors."""
    names = {
        "train": [f"{pid}_c{camera}_0.png" for pid in (11, 12, 13, 14) for camera in (1, 2)] + ["15_c1_0.png"],
        "query": ["1_c1_0.png", "2_c1_0.png", "3_c1_0.png"],
        "gallery": ["1_c2_0.png", "2_c2_0.png", "2_c2_1.png"] + [f"0_c1_{shot}.png" for shot in range(4)],
    }
    rng = np.random.default_rng(seed)
    for part, files in names.items():
        (folder / part).mkdir(parents=True)
        for name in files:
            Image.fromarray(rng.integers(0, 255, (32, 16, 3), dtype=np.uint8)).save(folder / part / name)
    return folder


def test_all_images_are_counted_by_hand(own: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    prepare("town", data=own, source=town(tmp_path / "town"))
    part, whole = small_recipe.change(source="town"), small_recipe.change(source="town-all")
    source = load_source(part, data=own, report=quiet)
    assert (source.classes, len(source.label_N), source.single) == (4, 8, 1)
    source = load_source(whole, data=own, report=quiet)
    assert (source.classes, len(source.label_N), source.single) == (6, 13, 2)  # 3_c1_0 and 15_c1_0 are alone
    rows = training_images("town-all", data=own)[1]
    assert len(rows) == 9 + 3 + 3 and rows["path"].is_unique and not (rows["pid"] == 0).any()
    assert source_digest(part, data=own) == load_prepared("town", own).digest != source_digest(whole, data=own)


def test_a_file_of_several_splits_is_trained_on_once_and_a_training_part_is_that_of_the_first(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("town", data=own, source=town(tmp_path / "town"))
    index = load_index(load_prepared("town", own))
    second = index.assign(split=1, part=index["part"].replace({"train": "query", "query": "train"}))
    monkeypatch.setattr("reidgen.data.batches.load_index", lambda prepared: pd.concat([index, second]))
    assert training_images("town-all", data=own)[1]["path"].tolist() == sorted(index["path"][index["pid"] != 0])
    assert training_images("town", data=own)[1]["path"].tolist() == sorted(index["path"][index["part"] == "train"])


def test_sources_of_the_same_people_are_refused(own: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    prepare("town", data=own, source=town(tmp_path / "town"))
    prepare("harbour", data=own, source=town(tmp_path / "harbour", seed=1))
    for source in ("town+harbour", "town-all+town", "harbour+town-all"):
        first, second = source.split("+")
        with pytest.raises(SharedImagesError, match=f"the sources {first} and {second} show the same people"):
            load_source(small_recipe.change(source=source), data=own, report=quiet)
    for number, name in enumerate(("one", "two")):
        prepare(name, data=own, source=crops(tmp_path / name, seed=number + 2, people=4))
    (tmp_path / "two" / "001" / "c1_0.png").write_bytes((tmp_path / "one" / "003" / "c2_1.png").read_bytes())
    prepare("two", data=own, source=tmp_path / "two")
    with pytest.raises(
        SharedImagesError, match="the sources one-all and two-all share 1 image files; name one of them"
    ):
        load_source(small_recipe.change(source="town+one-all+two-all"), data=own, report=quiet)


def test_too_few_people_say_so(own: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    prepare("town", data=own, source=town(tmp_path / "town"))
    prepare("mycams", data=own, source=crops(tmp_path / "mycams", seed=2, people=2))
    with pytest.raises(DataError, match=r"town has 4 training identities of several images, a batch .* needs 5"):
        load_source(small_recipe.change(source="town", identities=5), data=own, report=quiet)
    both = small_recipe.change(source="town+mycams-all", identities=6)
    assert load_source(both, data=own, report=quiet).classes == 6
    with pytest.raises(DataError, match=r"mycams-all has 2 training identities of several images, a batch .* needs 3"):
        load_source(both.change(sampling="balanced"), data=own, report=quiet)
    with pytest.raises(DataError, match=r"mycams has no training part.*it can be a target, or mycams-all a source"):
        load_source(small_recipe.change(source="mycams"), data=own, report=quiet)


def pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 16, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_without_augmentation_the_image_is_only_normalised() -> None:
    recipe = RECIPE.change(zoom=0.0, flip=0.0, brightness=0.0, contrast=0.0)
    images = pixels(recipe.batch)
    expected = reference.normalize(
        images.permute(0, 3, 1, 2) / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    found = standardize(augment(images, draw_augmentation(recipe, step=0), recipe))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(standardize(to_float(images)), expected)


def test_flip_brightness_and_contrast_equal_torchvision() -> None:
    recipe = RECIPE.change(zoom=0.0, flip=1.0, brightness=0.5, contrast=0.5)
    images, drawn = pixels(recipe.batch), draw_augmentation(recipe, step=7)
    out = augment(images, drawn, recipe)
    for one, (brightness, contrast), result in zip(images, drawn[:, 4:6].tolist(), out, strict=True):
        image = reference.hflip(one.permute(2, 0, 1) / 255)
        image = reference.adjust_contrast(reference.adjust_brightness(image, brightness), contrast)
        torch.testing.assert_close(result, image, atol=2e-3, rtol=0)


def test_zoom_shows_a_crop_of_the_enlarged_image() -> None:
    recipe = RECIPE.change(zoom=1.0, flip=0.0, brightness=0.0, contrast=0.0)
    ramp = torch.arange(0, 160, 10, dtype=torch.uint8).view(1, 16, 1, 1).expand(recipe.batch, 16, 8, 3)
    drawn = draw_augmentation(recipe, step=0)
    rows = augment(ramp, drawn, recipe)[:, 0].mean(2) * 255
    steps = rows[:, 2:-2].diff(dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, 10 / 1.125), atol=0.05, rtol=0)
    assert rows[:, 8].std() > 0.5  # at different places
    assert (drawn[:, 2:4].abs() <= 1 - 1 / 1.125 + 1e-6).all()


def test_a_padded_crop_moves_the_image_by_whole_pixels_and_shows_black() -> None:
    recipe = RECIPE.change(zoom=0.0, flip=0.0, brightness=0.0, contrast=0.0, pad=3, height=32, width=16)
    images, moves = pixels(recipe.batch).repeat(1, 2, 2, 1), set()
    drawn = draw_augmentation(recipe, step=3)
    for one, centre, result in zip(images, drawn[:, 2:4], augment(images, drawn, recipe), strict=True):
        x, y = (centre * torch.tensor([16, 32]) / 2).round().int().tolist()
        padded = reference.pad(one.permute(2, 0, 1) / 255, 3)
        torch.testing.assert_close(result, padded[:, 3 + y : 35 + y, 3 + x : 19 + x], atol=1e-4, rtol=0)
        moves |= {x, y}
    many = torch.cat([draw_augmentation(recipe, step=step)[:, 2] for step in range(50)]) * 8
    assert sorted(set(many.round().int().tolist())) == [-3, -2, -1, 0, 1, 2, 3] and len(moves) > 3


def test_saturation_hue_and_erasing_equal_torchvision_on_single_images() -> None:
    recipe = RECIPE.change(zoom=0.0, flip=0.0, brightness=0.0, contrast=0.0, saturation=0.5, hue=0.2, erasing=1.0)
    images, drawn = pixels(recipe.batch), draw_augmentation(recipe, step=7)
    for one, (saturation, turn, *box), result in zip(
        images, drawn[:, 6:].tolist(), augment(images, drawn, recipe), strict=True
    ):
        image = reference.adjust_saturation(one.permute(2, 0, 1) / 255, saturation)
        image = reference.adjust_hue(image, turn)
        inside = [
            [box[0] <= (x + 0.5) / 8 < box[2] and box[1] <= (y + 0.5) / 16 < box[3] for x in range(8)]
            for y in range(16)
        ]
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None].expand(3, 16, 8)
        torch.testing.assert_close(result, torch.where(torch.tensor(inside), mean, image), atol=5e-3, rtol=0)


def test_jitter_and_erasing_follow_their_probabilities_and_change_no_older_draw() -> None:
    recipe = RECIPE.change(saturation=0.5, hue=0.2, jitter=0.3, erasing=0.4)
    drawn = torch.cat([draw_augmentation(recipe, step=step) for step in range(400)])
    plain = torch.cat([draw_augmentation(RECIPE, step=step) for step in range(400)])
    still = (drawn[:, 4:8] == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1)
    assert (~still).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert drawn[:, 8:].any(1).float().mean().item() == pytest.approx(0.4, abs=0.03)
    assert torch.equal(drawn[:, :4], plain[:, :4]) and torch.equal(drawn[~still, 4:6], plain[~still, 4:6])
    assert torch.equal(plain[:, 6:], torch.tensor([1.0, 0, 0, 0, 0, 0]).expand(len(plain), 6))


def test_augmentation_follows_its_probabilities() -> None:
    drawn = torch.cat([draw_augmentation(RECIPE, step=step) for step in range(400)])
    assert (drawn[:, 0] < 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (drawn[:, 1] < 1).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert 0.8 <= drawn[:, 4].min() < 0.81 and 1.19 < drawn[:, 4].max() <= 1.2
    assert 0.85 <= drawn[:, 5].min() < 0.86 and 1.14 < drawn[:, 5].max() <= 1.15
