"""Training in several processes: two ranks on Gloo equal one process, stop together and fail together."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, quiet
from warm import ranks

from reidgen import parallel, training
from reidgen.data.batches import epoch_batches
from reidgen.errors import RecipeError
from reidgen.models.norms import SharedBatchNorm2d, share_batch_norm
from reidgen.recipe import Recipe

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_parts.py"

# Run by each rank. In float64, so that rounding, which Adam magnifies, cannot hide a wrong gradient.
DRIVER = """
import json, os, signal, sys
from pathlib import Path
import safetensors.torch, torch
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
sys.path.insert(0, sys.argv[1])
from conftest import SMALL, quiet
from reidgen import parallel, training
from reidgen.contracts import Loss
from reidgen.errors import ReidgenError
from reidgen import methods
from reidgen.methods import METHODS
from reidgen.parts import Method, Part
from reidgen.models import tiny
from reidgen.registry import load_plugins
load_plugins([sys.argv[4]])

class Twin(Loss):
    def forward(self, output, batch):
        return (output.feature[: batch.images] - output.feature[batch.images :]).square().mean()

class Burst(Loss):
    def forward(self, output, batch):
        return output.feature.sum() * float("inf")

METHODS["burst"] = Method(name="burst", title="", source="", losses=[Part(name="burst", build=Burst)])
noise = METHODS["style-noise"].modules
METHODS["twin"] = Method(name="twin", title="", source="", modules=noise, losses=[Part(name="twin", build=Twin)], views=2)
METHODS["today"] = Method(
    name="today", title="", source="", norm=methods.BIN, views=2, augmentations=[methods.STRONG_VIEW],
    modules=[one.but(probability=1.0).at(place) for place, one in enumerate((methods.MIXSTYLE, methods.EFDMIX, methods.DSU))],
    losses=[methods.BAU_ALIGN, methods.BAU_UNIFORM, methods.BAU_DOMAIN],
)
data, results, rank = Path(sys.argv[2]), Path(sys.argv[3]), os.environ["RANK"]
training.REPORT_SECONDS = 0.0
tiny.WIDTHS = (16, 16, 32, 32)
SMALL = SMALL.change(height=32, width=16)

def fit(method, where, report=quiet, **change):
    train = training.train.__wrapped__  # in float64, which is no usual setting
    return train(SMALL.change(method=method, **change), data=data, results=results / where, device="cpu", report=report)

def failed(*words, **settings):
    try:
        fit(*words, **settings)
    except ReidgenError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"

def stop_me(what, done, total):
    if (done, total) == (4, 6):
        os.kill(os.getpid(), signal.SIGTERM)

said = {}
elastic = os.environ.pop("TORCHELASTIC_RUN_ID")
if rank == "0":  # alone, as if torchrun were not there
    alone = {method: fit(method, "alone") for method in ("a-in", "snr", "twin", "today")}
os.environ["TORCHELASTIC_RUN_ID"] = elastic
with parallel.joined("cpu"):
    report = stop_me if rank == "1" else quiet
    said["stopped"] = failed("a-in", "shared", report=report)
    shared = {method: fit(method, "shared") for method in ("a-in", "snr", "twin", "today")}
    said["diverged"] = failed("burst", "diverged")
    said["odd"] = failed("baseline", "odd", identities=3)
    blocked = results / "blocked"
    if rank == "0":
        blocked.write_text("a file, not a folder")
    said["blocked"] = failed("baseline", "blocked")
    if rank == "0":
        for method, run in shared.items():
            one, two = (safetensors.torch.load_file(r.weights) for r in (alone[method], run))
            start = torch.cat([t.flatten().double() for t in one.values()])
            off = torch.cat([t.flatten().double() for t in two.values()]) - start
            said[method] = (off.norm() / start.norm()).item()
(results / f"said-{rank}.json").write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What each of two ranks said."""
    folder = tmp_path_factory.mktemp("ranks")
    driver = folder / "driver.py"
    driver.write_text(DRIVER)
    both = ranks(folder, driver, Path(__file__).parent, small_data, folder, EXAMPLE)
    assert [one.ended() for one in both] == [0, 0], [one.err.read_text()[-3000:] for one in both]
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("method", ["a-in", "snr", "twin", "today"])
def test_two_processes_equal_one(method: str, said: list[dict[str, object]]) -> None:
    """Without BatchNorm (a-in), and with its shared moments; a-in was stopped and resumed on the way. twin has two views
    and a module that draws: the ranks draw alike, and the rows of a view stay together. today is BIN, MixStyle, EFDMix,
    DSU and BAU at once."""
    assert said[0][method] < 1e-10  # type: ignore[operator]


def test_all_ranks_stop_and_fail_together_and_say_the_same(said: list[dict[str, object]]) -> None:
    one, two = ({key: rank[key] for key in ("stopped", "diverged", "odd", "blocked")} for rank in said)
    assert one == two
    assert str(one["stopped"]).startswith("InterruptedRunError: stopped at step ")
    assert "the loss is not finite at step" in str(one["diverged"])
    assert "3 identities cannot be divided over 2 processes; use one of 1, 3" in str(one["odd"])
    assert str(one["blocked"]).startswith("RunError: cannot write in")


def test_a_process_that_is_killed_ends_the_others_in_one_sentence(small_data: Path, tmp_path: Path) -> None:
    driver, recipe = tmp_path / "driver.py", tmp_path / "short.toml"
    recipe.write_text(SMALL.change(identities=4).to_toml())
    driver.write_text("""
import os, signal, sys
from reidgen import training
from reidgen.cli import app
real = training.Trainer.learn
def learn(self, *args):
    if os.environ["RANK"] == "1" and self.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *args)
training.Trainer.learn = learn
app(sys.argv[1:])
""")
    words = ["train", "--recipe", recipe, "--device", "cpu", "--data", small_data, "--results", tmp_path]
    other, killed = ranks(tmp_path, driver, *words)
    assert killed.ended() == -signal.SIGKILL
    assert other.ended() == 1
    said = [line for one in (other, killed) for line in one.err.read_text().splitlines() if line.startswith("error:")]
    assert len(said) == 1 and said[0].startswith("error: another process of this training is gone; the same command")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_shares_of_all_ranks_are_the_batch(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, label_N = Recipe(identities=4, images=3, batches_per_epoch=5), np.repeat(np.arange(9), 6)
    batches = epoch_batches(label_N, np.zeros_like(label_N), recipe=recipe, epoch=0)
    monkeypatch.setattr(parallel, "count", lambda: ranks)
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr(parallel, "number", lambda rank=rank: rank)
        parallel.check_share(recipe.identities)
        shares.append(batches[:, parallel.share(recipe.batch)])
        for batch in label_N[shares[-1]]:
            assert len(np.unique(batch)) == 4 // ranks  # whole identities
    assert np.array_equal(np.concatenate(shares, axis=1), batches)


def test_shared_batch_norm_is_batch_norm_when_alone() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.BatchNorm2d(6), torch.nn.Sequential(torch.nn.BatchNorm2d(6)))
    shared = torch.nn.Sequential(torch.nn.BatchNorm2d(6), torch.nn.Sequential(torch.nn.BatchNorm2d(6)))
    share_batch_norm(shared)
    assert isinstance(shared[1][0], SharedBatchNorm2d) and shared.state_dict().keys() == plain.state_dict().keys()
    for _ in range(3):
        batch = torch.randn(4, 6, 5, 3) * 2 + 1
        torch.testing.assert_close(shared(batch), plain(batch), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared.eval()(batch), plain.eval()(batch), rtol=1e-4, atol=1e-5)


def test_one_gpu_is_not_for_several_processes(
    small_data: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="--device cuda:1 is one GPU, torchrun started 2 processes"):
        training.train(small_recipe, data=small_data, results=tmp_path, device="cuda:1", report=quiet)
