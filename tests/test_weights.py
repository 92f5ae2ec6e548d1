"""Published weights that lie at an address: fetched once, checked by their hash, or said to be unverified."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from server import PAGE, Server, redirect_google_drive, serving
from torch import Tensor
from typer.testing import CliRunner

from reidgen.backbones import BACKBONES
from reidgen.cli import app
from reidgen.errors import WeightsError
from reidgen.methods import METHODS
from reidgen.models import build_network
from reidgen.models.backbones import ResNet18IBNa
from reidgen.models.osnet import DRIVE, OSNet
from reidgen.models.weights import build_backbone, fetch
from reidgen.registry import get_backbone
from reidgen.runs import Run

OSNET_ID = DRIVE["ain", 0.25]


@pytest.fixture(scope="module")
def _server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    _server.files.clear()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,google.com,github.com")
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # no pauses between tries
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return _server


def saved(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def kept(tmp_path: Path) -> list[str]:
    return sorted(one.name for one in (tmp_path / "hub" / "checkpoints").iterdir() if one.is_file())


def published(backbone: OSNet | ResNet18IBNa, prefix: str = "") -> dict[str, Tensor]:
    found = {}
    for key, tensor in backbone.state_dict().items():
        ours, theirs = next((ours, theirs) for ours, theirs in backbone.renames if key.startswith(ours))
        found[prefix + theirs + key.removeprefix(ours)] = tensor
    return found


def test_osnets_weights_come_from_their_drive_behind_its_confirmation(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    redirect_google_drive(server, monkeypatch)
    torch.manual_seed(1)
    theirs = OSNet(form="ain", width=0.25)
    content = saved(published(theirs, "module.") | {"module.classifier.weight": torch.zeros(2, 2)})
    address = f"drive?id={OSNET_ID}"
    server.put(address, content, drive=True)
    network = build_network(METHODS["baseline"], "osnet-ain-x0.25", classes=2, weights="imagenet")
    for mine, one in zip(network.backbone.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(mine, one)
    digest = hashlib.sha256(content).hexdigest()
    said = f"osnet_ain_x0_25_imagenet.pth (SHA-256 {digest}, unverified: no hash is published)"
    assert network.started == (said, ("module.classifier.weight",))
    assert "downloading osnet_ain_x0_25_imagenet.pth from drive.google.com" in caplog.text and digest in caplog.text
    assert kept(tmp_path) == ["osnet_ain_x0_25_imagenet.pth"]
    asked = len(server.files[address].asked)
    assert build_backbone(get_backbone("osnet-ain-x0.25"), weights="imagenet")[1] == network.started
    assert len(server.files[address].asked) == asked  # the second time from its place


def test_a_training_says_and_keeps_that_its_weights_are_unverified(
    server: Server, tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redirect_google_drive(server, monkeypatch)
    content = saved(published(OSNet(form="ain", width=0.25), "module.") | {"module.fc.0.bias": torch.zeros(2)})
    server.put(f"drive?id={OSNET_ID}", content, drive=True)
    recipe = SMALL.change(
        backbone="osnet-ain-x0.25", weights="imagenet", method="baseline", epochs=1, batches_per_epoch=1
    )
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    words = ["--recipe", tmp_path / "r.toml", "--data", small_data, "--results", tmp_path / "runs", "--device", "cpu"]
    result = CliRunner().invoke(app, ["train", *map(str, words)])
    assert result.exit_code == 0, result.output
    said = f"osnet_ain_x0_25_imagenet.pth (SHA-256 {hashlib.sha256(content).hexdigest()}, unverified: no hash is published)"
    assert f"weights: {said}" in result.output and "not used: module.fc.0.bias" in result.output
    (done,) = (tmp_path / "runs").rglob("done")
    assert Run(done.parent).facts()["weights_from"] == said


def test_every_drive_id_belongs_to_a_backbone_and_has_torchreids_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kaiming_uniform_", "kaiming_normal_"):  # without memory, idle
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    with torch.device("meta"):
        found = {name: build_backbone(row)[0].imagenet for name, row in BACKBONES.items() if name.startswith("osnet")}
    assert len(found) == len(DRIVE) == len(set(found.values())) == 9
    assert found["osnet"] == f"https://drive.google.com/uc?id={DRIVE['plain', 1.0]}#osnet_x1_0_imagenet.pth"
    assert found["osnet-ain-x0.75"].endswith(f"{DRIVE['ain', 0.75]}#osnet_ain_x0_75_imagenet.pth")
    assert found["osnet-ibn"].endswith("#osnet_ibn_x1_0_imagenet.pth")


def test_a_hash_in_the_name_is_compared_each_time(server: Server, tmp_path: Path) -> None:
    content = b"some weights"
    digest = hashlib.sha256(content).hexdigest()
    name = f"net-{digest[:8]}.pth"
    address = server.put(name, content)
    file, proof = fetch(address)
    assert file.read_bytes() == content and proof == f"SHA-256 {digest}, as published"
    assert kept(tmp_path) == [name]
    file.write_bytes(b"other bytes")
    with pytest.raises(
        WeightsError, match=rf"{name} has SHA-256 [0-9a-f]+\.\.\., published is {digest[:8]}\.\.\.; it was rem"
    ):
        fetch(address)
    assert kept(tmp_path) == []
    assert fetch(address)[0].read_bytes() == content


def test_another_file_than_the_published_one_never_takes_its_place(server: Server, tmp_path: Path) -> None:
    address = server.put("net-0123abcd.pth", b"not it")
    with pytest.raises(
        WeightsError, match=r"published is 0123abcd\.\.\.; it was removed: try again, or fetch the file else"
    ):
        fetch(address)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("options", [{"status": 404}, {"content": PAGE}, {"content": b""}])
def test_a_download_that_fails_says_why_and_what_to_do(
    server: Server, tmp_path: Path, options: dict[str, object]
) -> None:
    content = options.pop("content", b"")
    address = server.put("net.pth", content, **options)  # type: ignore[arg-type]
    with pytest.raises(
        WeightsError,
        match=r"cannot download net\.pth \(127\.0\.0\.1: .*\); it lies at http://127.*/net\.pth: fetch .* --weights FILE, or train",
    ):
        fetch(address)
    assert kept(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_a_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file where a folder should be")
    with pytest.raises(WeightsError, match=r"cannot use .*hub.*: Not a directory; fetch the file elsewhere"):
        fetch(server.put("net.pth", b"x"))


def test_ibn_a_takes_the_authors_release(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's name has the head of its SHA-256; here the row's is that of what the test serves."""
    assert ResNet18IBNa.imagenet.endswith("/v1.0/resnet18_ibn_a-2f571257.pth")
    theirs = ResNet18IBNa()
    content = saved(published(theirs) | {"fc.bias": torch.zeros(1000)})
    name = f"resnet18_ibn_a-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(ResNet18IBNa, "imagenet", server.put(name, content))
    body, loaded = build_backbone(get_backbone("resnet18-ibn-a"), weights="imagenet")
    assert loaded.unused == ("fc.bias",) and loaded.origin.endswith("as published)")
    assert torch.equal(body.stages[1][0].bn1.IN.weight, theirs.stages[1][0].bn1.IN.weight)  # type: ignore[index, union-attr]
    assert torch.equal(body.stages[4][1].conv2.weight, theirs.stages[4][1].conv2.weight)  # type: ignore[index, union-attr]


def test_a_kept_file_that_cannot_be_read_is_a_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = fetch(server.put("net.pth", b"x"))

    def closed(*_: object) -> int:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("reidgen.files.os.open", closed)
    with pytest.raises(WeightsError, match=r"cannot use .*net\.pth: Permission denied; fetch the file elsewhere"):
        fetch(server.put("net.pth", b"x"))
