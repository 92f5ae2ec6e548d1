"""The speeds of this machine: every row is there, counted against hand-counted operations, and printed in columns."""

import pytest
import torch
from torch import nn

from reidgen import speed as module
from reidgen.backbones import BACKBONES
from reidgen.data.augment import standardize
from reidgen.errors import RecipeError
from reidgen.methods import METHODS
from reidgen.models import osnet
from reidgen.models.network import build_network
from reidgen.models.transformers import VisionTransformer
from reidgen.parts import BackboneRow
from reidgen.recipe import Recipe
from reidgen.speed import Speed, kinds_of, speed, table


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "MATRIX_CPU", 64)
    monkeypatch.setattr(module, "COPY_BYTES", 1000)
    monkeypatch.setattr(module, "QUERIES", 7)
    monkeypatch.setattr(module, "GALLERY", 210)


def counted_by_hand(method: str, recipe: Recipe) -> float:
    """Return the operations of one image's embedding: two for each weight at each place of each convolution's output."""
    total = 0

    def hook(layer: nn.Module, inputs: object, out: torch.Tensor) -> None:
        nonlocal total
        places = out.shape[-1] * out.shape[-2] if isinstance(layer, nn.Conv2d) else 1
        assert isinstance(layer.weight, torch.Tensor)
        total += 2 * layer.weight.numel() * places

    network = build_network(METHODS[method], recipe.backbone, classes=4).eval()
    for layer in network.backbone.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(hook)
    network(standardize(torch.zeros(1, 3, recipe.height, recipe.width)))
    return total


@pytest.mark.usefixtures("small")
def test_every_row_is_there_and_its_limit_is_the_work_counted_by_hand(
    small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "matrix_product", lambda device, dtype: 1e9)
    said: list[tuple[int, int]] = []
    kinds, refused = kinds_of(small_recipe, methods=["baseline", "snr"], backbones=["tiny"])
    rows = speed(kinds, device="cpu", report=lambda what, done, of: said.append((done, of)))
    assert not refused
    head = [build_network(METHODS[name], "tiny", classes=16).state_dict() for name in ("baseline", "snr")]
    counted = [sum(t.numel() for name, t in one.items() if name.endswith(("weight", "bias"))) for one in head]
    assert [row.parameters for row in rows if row.what == "training"] == [number - 16 * 128 for number in counted]
    assert [(row.what, row.method) for row in rows] == [
        ("matrix product", "float32"), ("copy", ""), ("batches", ""), ("training", "baseline"), ("embedding", "baseline"),
        ("training", "snr"), ("embedding", "snr"), ("ranking", "210 x 128"),
    ]  # fmt: skip
    assert rows[0].value == 1.0 and all(row.value > 0 for row in rows)
    assert rows[2].limit == pytest.approx(1e9 * rows[1].value / (3 * 5 * small_recipe.height * small_recipe.width))
    for training, embedding in (rows[3:5], rows[5:7]):
        embeds = counted_by_hand(embedding.method, small_recipe)
        assert embedding.limit == pytest.approx(1e9 / embeds)
        # forward, and backward twice as much, but for the first convolution, whose input needs no gradient
        assert training.limit is not None and 1e9 / embeds / 3.2 < training.limit < 1e9 / embeds / 2.5
        assert training.data is not None and 0 < training.data < 1
    assert said == sorted(said) and said[-1][0] < said[-1][1]


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_backward_pass_of_a_convolution_in_groups_counts_twice_the_forward(groups: int) -> None:
    layer, x = nn.Conv2d(8, 16, 3, 2, 1, groups=groups), torch.randn(2, 8, 10, 6, requires_grad=True)
    by_hand = 2 * layer.weight.numel() * 2 * 5 * 3  # two images, 5 x 3 places
    for image, times in ((x, 3), (x.detach(), 2)):  # an input may need no gradient
        with module.counted() as counter:
            layer(image).sum().backward()
        assert counter.get_total_flops() == times * by_hand


class SmallViT(VisionTransformer):
    patch, layers, heads, width = 8, 2, 2, 16


@pytest.mark.usefixtures("small")
def test_the_products_inside_attention_count(small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    row = BackboneRow(name="small_vit", build=SmallViT, source="")
    monkeypatch.setitem(BACKBONES, "small_vit", row)
    monkeypatch.setattr(module, "matrix_product", lambda device, dtype: 1e9)
    recipe = small_recipe.change(backbone="small_vit", height=64, width=32)
    rows = speed([recipe.change(method="baseline")], device="cpu", report=lambda *words: None)
    patches, tokens, width = 32, 33, 16
    linear = tokens * (3 * width**2 + width**2 + 2 * 4 * width**2)  # queries, keys and values; their sum; two layers
    by_hand = 2 * patches * 3 * 8**2 * width + 2 * (2 * linear + 2 * 2 * tokens**2 * width)
    (embedding,) = (row for row in rows if row.what == "embedding")
    assert embedding.limit == pytest.approx(1e9 / by_hand)
    assert torch.backends.mha.get_fastpath_enabled()  # as it was


def test_the_time_is_the_best_of_three_or_more_runs_after_one_to_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 0.0, 3.0, 10.0, 12.0, 20.0, 25.0, 0.0, 6.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    runs: list[int] = []
    assert module.seconds(lambda: runs.append(1), torch.device("cpu")) == 2.0 and len(runs) == 4
    assert module.seconds(lambda: runs.append(1), torch.device("cpu")) == 6.0 and len(runs) == 5  # slow work: once


def test_the_table_is_aligned() -> None:
    rows = [Speed("copy", "", 1234.56, "GB/s"), Speed("training", "snr", 50.0, "images/s", 200.0, 0.031, 1234)]
    assert table(rows).splitlines() == [
        "               measured            limit  of limit  data  parameters",
        "copy            1,234.6  GB/s",
        "training  snr      50.0  images/s  200.0       25%  3.1%       1,234",
    ]


@pytest.mark.usefixtures("small")
def test_several_backbones_are_measured_in_one_run_and_pairs_without_meaning_left_out(
    small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(osnet, "STREAMS", (1,))  # of four in each block
    recipe = small_recipe.change(height=32, width=16, identities=2)
    kinds, refused = kinds_of(recipe, methods=["baseline", "in"], backbones=["tiny", "vit_b_16"])
    assert [(kind.method, kind.backbone) for kind in kinds] == [
        ("baseline", "tiny"),
        ("in", "tiny"),
        ("baseline", "vit_b_16"),
    ]
    assert len(refused) == 1 and "in:" in refused[0] and "vit_b_16" in refused[0]
    rows = speed([kinds[0], kinds[0].change(backbone="osnet-x0.25")], device="cpu", report=lambda *words: None)
    assert [row.method for row in rows if row.what == "embedding"] == ["baseline, tiny", "baseline, osnet-x0.25"]
    with pytest.raises(RecipeError, match=r"in: in stands at place 1; backbone vit_b_16 has none"):
        kinds_of(recipe, methods=["in"], backbones=["vit_b_16"])


def test_an_unknown_method_is_named(small_recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="unknown method 'snrr'; did you mean 'snr'"):
        kinds_of(small_recipe, methods=["snrr"], backbones=["tiny"])
