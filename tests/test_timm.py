"""timm's networks as backbones, without weights: its own forward, sizes, means, files, rows and folders."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from conftest import SMALL, quiet
from torch import Tensor, nn
from typer.testing import CliRunner

from reidgen import registry
from reidgen.backbones import BACKBONES
from reidgen.cli import app
from reidgen.contracts import Batch
from reidgen.data.augment import standardize
from reidgen.errors import RecipeError, WeightsError
from reidgen.evaluation import evaluate, load_network
from reidgen.methods import METHODS
from reidgen.models.network import build_losses, build_network, check_row, named_losses
from reidgen.models.norms import share_batch_norm
from reidgen.models.weights import build_backbone
from reidgen.pictures.show import show
from reidgen.recipe import Recipe, load_recipe
from reidgen.registry import get_backbone
from reidgen.runs import read_rows, run_of
from reidgen.tables.compare import make_table
from reidgen.tables.identities import read_identities, run_names
from reidgen.training import train

VIT, RESNET, MOBILENET = "timm:vit_tiny_patch16_224", "timm:resnet10t", "timm:mobilenetv3_small_050"
SIZE = (64, 32)
SHARED = Recipe().losses


@pytest.mark.parametrize("name", [VIT, RESNET, MOBILENET])
def test_the_feature_is_timms_own(name: str) -> None:
    """Of images in 0..1, each side with its own mean and deviation."""
    torch.manual_seed(0)
    body, loaded = build_backbone(get_backbone(name), size=SIZE)
    assert loaded == ("", ()) and body.channels == ()
    arguments = {"img_size": SIZE} if name == VIT else {}
    theirs = timm.create_model(name.removeprefix("timm:"), num_classes=0, **arguments).eval()
    theirs.load_state_dict({key.removeprefix("network."): value for key, value in body.state_dict().items()})
    images = torch.rand(2, 3, *SIZE)
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert (name == VIT) == (theirs.pretrained_cfg["mean"] == (0.5, 0.5, 0.5))
    with torch.no_grad():
        found, wanted = body.eval()(standardize(images)), theirs((images - mean) / std)
    assert found.shape == (2, body.dim)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [VIT, RESNET])
def test_a_step_of_training_moves_the_weights(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(METHODS["baseline"], name, classes=3, size=SIZE).train()
    losses = build_losses(METHODS["baseline"], SHARED, network, domains=1)
    before = {key: value.clone() for key, value in network.named_parameters() if value.requires_grad}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    pid, zero = torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.int64)
    output = network(torch.randn(4, 3, *SIZE))
    batch = Batch(pid, zero, zero, zero, images=4)
    total: Tensor = torch.stack([loss(output, batch) for _, loss in named_losses(losses)]).sum()
    total.backward()
    optimizer.step()
    assert torch.isfinite(total)
    assert all(value.grad is not None for value in network.parameters() if value.requires_grad)
    moved = [key for key, value in network.named_parameters() if key in before and not torch.equal(value, before[key])]
    assert len(moved) == len(before) or name == RESNET  # whose branches begin at zero
    assert {"neck.weight", "classifier.weight"} < set(moved)
    embedding = network.eval()(torch.randn(2, 3, *SIZE))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_a_file_of_timms_is_brought_to_the_size_by_timms_own_code(tmp_path: Path) -> None:
    """At 224x224 with its classifier, as it lies on its hub; and one that already has the size is taken as it is."""
    torch.manual_seed(0)
    published = timm.create_model("vit_tiny_patch16_224", img_size=112, num_classes=5)
    file = tmp_path / "model.pth"
    torch.save(published.state_dict(), file)
    body, loaded = build_backbone(get_backbone(VIT), weights=str(file), size=SIZE)
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file)},
        img_size=SIZE,
        num_classes=0,
    )
    assert loaded == ("model.pth", ("head.bias", "head.weight"))
    assert body.state_dict()["network.pos_embed"].shape == (1, 9, 192)
    for key, value in body.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key.removeprefix("network.")]), key
    torch.save(body.state_dict(), file)
    again, _ = build_backbone(get_backbone(VIT), weights=str(file), size=SIZE)
    assert torch.equal(again.state_dict()["network.pos_embed"], body.state_dict()["network.pos_embed"])
    torch.save({key: value for key, value in published.state_dict().items() if key != "pos_embed"}, file)
    with pytest.raises(WeightsError, match=r"model\.pth does not fit this backbone: it lacks pos_embed"):
        build_backbone(get_backbone(VIT), weights=str(file), size=SIZE)


def test_the_classifier_beside_a_networks_own_names_is_left_out(tmp_path: Path) -> None:
    name = "test_convnext"  # its classifier is head.fc, its own norm head.norm
    torch.save(timm.create_model(name).state_dict(), tmp_path / "x.pth")
    _, loaded = build_backbone(get_backbone(f"timm:{name}"), weights=str(tmp_path / "x.pth"), size=SIZE)
    assert loaded.unused == ("head.fc.bias", "head.fc.weight")
    torch.save({**timm.create_model(name).state_dict(), "head.more": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"has the unknown head\.more"):
        build_backbone(get_backbone(f"timm:{name}"), weights=str(tmp_path / "x.pth"), size=SIZE)


@pytest.mark.parametrize("name", ["tiny_vit_5m_224", "rexnet_100"])  # dropping paths, and features, if left alone
def test_nothing_is_dropped_at_random(name: str) -> None:
    body, _ = build_backbone(get_backbone(f"timm:{name}"), size=SIZE)
    images = torch.randn(4, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(body.train()(images), body(images))


def test_imagenet_is_timms_download(monkeypatch: pytest.MonkeyPatch) -> None:
    make, asked = timm.create_model, []

    def answer(name: str, *, pretrained: bool = False, **arguments: object) -> nn.Module:
        asked.append((name, pretrained))
        network: nn.Module = make(name, **arguments)
        if pretrained:
            nn.init.constant_(next(network.parameters()), 0.25)
        return network

    monkeypatch.setattr(timm, "create_model", answer)
    body, loaded = build_backbone(get_backbone(f"{RESNET}.c3_in1k"), weights="imagenet", size=SIZE)
    assert asked[-1] == ("resnet10t.c3_in1k", True) and loaded.origin == "timm's resnet10t.c3_in1k"
    assert (next(body.parameters()) == 0.25).all()

    def fail(name: str, *, pretrained: bool = False, **arguments: object) -> nn.Module:
        if pretrained:
            raise OSError("no route\nto host")
        return answer(name, **arguments)

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        WeightsError, match=r"could not get timm's resnet10t\.c3_in1k \(no route to host\); .*--weights FILE"
    ):
        build_backbone(get_backbone(RESNET), weights="imagenet", size=SIZE)
    with pytest.raises(RecipeError, match=r"backbone timm:seresnet18 has no ImageNet weights; use --weights none"):
        build_backbone(get_backbone("timm:seresnet18"), weights="imagenet", size=SIZE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm:vit_tny_patch16_224",
            r"timm [0-9.]+ has no 'vit_tny_patch16_224'; near it: timm:vit_tiny_patch16_224, ",
        ),
        ("timm:resnet10t.no_such_tag", r"has no 'resnet10t.no_such_tag'; near it: timm:resnet10t\.c3_in1k"),
        ("timm:swin", "near it: timm:.*swin"),
        ("timm:", r"has no ''.*; all of its names: python -c 'import timm"),
        ("timm:hf-hub:someone/net", "has no 'hf-hub:someone/net'"),
        ("timm", r"unknown backbone 'timm';.* Known: .*, timm:NAME"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(backbone=name).known()


def test_the_listing_has_every_backbone_and_describes_one() -> None:
    def said(*words: str) -> str:
        return " ".join(CliRunner().invoke(app, ["methods", *words]).output.split())

    listed = said()
    assert all(f" {name} " in listed for name in [*BACKBONES, "timm:NAME"])
    assert said("osnet-ain-x0.5").endswith("Zhou et al., TPAMI 2021; form ain, width 0.5 (from reidgen)")
    assert said(RESNET).startswith(f"{RESNET}: a backbone; timm's network with its own pooling")
    assert said("timm:resnt10t").startswith("error: timm ") and "near it: timm:resnet10t" in said("timm:resnt10t")


def test_without_timm_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    registry._of_timm.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        RecipeError, match=rf"backbone {RESNET} needs timm .*; install it: pip install 'reidgen\[timm\]'"
    ):
        get_backbone(RESNET)
    monkeypatch.undo()
    assert get_backbone(RESNET).origin == f"timm {timm.__version__}"


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        ("snr", VIT, "snr: snr stands at place 1; backbone timm:vit_tiny_patch16_224 has none"),
        ("a-in", VIT, "a-in: the norm in replaces BatchNorm2d; backbone timm:vit_tiny_patch16_224 has none"),
        ("a-in", MOBILENET, "a-in: .* backbone timm:mobilenetv3_small_050 has BatchNormAct2d, which is more than that"),
        (
            "baseline",
            "timm:nest_tiny",
            r"backbone timm:nest_tiny cannot take images of 64x32 \(.*square.*\); try another",
        ),
        (
            "baseline",
            "timm:vit_small_patch14_dinov2",
            "timm:vit_small_patch14_dinov2 cuts .* of 14x14 pixels; .* 64x32 do not fit, 56x28 or 70x42 would",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_by_both_names(method: str, name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_row(METHODS[method], name, SHARED, height=64, width=32)


def test_a_norm_stands_for_every_batch_norm_of_a_network_that_has_them_alone() -> None:
    check_row(METHODS["a-in"], RESNET, SHARED, height=64, width=32)
    with torch.device("meta"):
        network = build_network(METHODS["a-in"], RESNET, classes=2, size=SIZE)
    assert len(network.replaced) > 8 and not any(isinstance(one, nn.BatchNorm2d) for one in network.modules())


def test_batch_norms_with_more_in_them_share_their_batch_too() -> None:
    """One rank: the same values as before; the names of the weights stay."""
    torch.manual_seed(0)
    body, _ = build_backbone(get_backbone(MOBILENET), size=SIZE)
    images, names = torch.randn(4, 3, *SIZE), list(body.state_dict())
    wanted = body.train()(images)
    share_batch_norm(body)
    assert list(body.state_dict()) == names
    torch.testing.assert_close(body(images), wanted, rtol=1e-3, atol=1e-4)


def test_from_training_to_pictures(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = SMALL.change(backbone="timm:test_vit", method="baseline", epochs=1, batches_per_epoch=1)
    run = train(recipe, data=small_data, results=tmp_path, device="cpu", report=quiet)
    assert run.folder.name.startswith("baseline-timm-test_vit-s0-")
    assert run.backbone() == get_backbone("timm:test_vit") and run.backbone().origin == f"timm {timm.__version__}"
    rows = evaluate(run, "synth-night", data=small_data, device="cpu", report=quiet)
    assert rows["backbone"].unique() == ["timm:test_vit"]
    read = read_rows(tmp_path)
    assert "timm:test_vit" in make_table(read, identities=read_identities(tmp_path, read)).caption
    assert show(run, "tsne", ["synth-night"], data=small_data, device="cpu", report=quiet)
    with pytest.raises(RecipeError, match=r"backbone timm:test_vit has no stages whose maps .* show ranks\|tsne\|dist"):
        show(run, "maps", ["synth-night"], data=small_data, device="cpu", report=quiet)
    assert train(recipe, data=small_data, results=tmp_path, device="cpu", report=quiet) == run
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RecipeError, match=r"backbone timm:test_vit needs timm .*pip install 'reidgen\[timm\]'"):
        load_network(run, torch.device("cpu"))


def test_folders_have_no_colon_and_tables_find_them(tmp_path: Path) -> None:
    recipe = Recipe(backbone=VIT, method="baseline", weights="none")
    run = run_of(recipe, results=tmp_path, digest="0123abcd")
    assert run.folder.name == f"baseline-timm-vit_tiny_patch16_224-s0-0123abcd-{recipe.row.digest}"
    row = {
        "source": "synth-plaza",
        "method": "baseline",
        "backbone": VIT,
        "seed": 0,
        "hash": "0123abcd",
        "row": recipe.row.digest,
    }
    assert run_names(pd.DataFrame([row]))[0] == f"synth-plaza/{run.folder.name}"
    run.folder.mkdir(parents=True)
    run.recipe_file.write_text(recipe.to_toml())
    assert load_recipe(str(run.recipe_file)).backbone == VIT
