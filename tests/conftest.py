"""Fixtures that several test modules share."""

import contextlib
import functools
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import typer.testing
from torch import Tensor, nn

from reidgen.data import prepare as prepare_module
from reidgen.files import sha256_file
from reidgen.integrity import seal_of, text_digest, with_check
from reidgen.models import tiny
from reidgen.recipe import RECIPES, Recipe
from reidgen.runs import Run
from reidgen.synth.domains import draw_domain

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where Triton is imported: kernels then run on a CPU
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start, as `_one_thread` has it here
# A shell's background job ignores Ctrl-C and `nohup` a hang-up; tests send both, to themselves and to their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# The commands' parameters do not change between two calls in one process; to read them takes 30 ms.
typer.testing._get_command = functools.cache(typer.testing._get_command)
pd.options.mode.string_storage = "python"  # as `read_csv` has it: half as long again with pyarrow's
SMALL = RECIPES["quick"].change(
    name="small", height=48, identities=4, images=2, epochs=2, batches_per_epoch=3, warmup_epochs=0.0
)


def finish(run: Run, **facts: object) -> None:
    """Write `done` as training would have, for the recipe and weights that lie in the folder: `facts`, else what was there."""
    whole = {"hash": "00000000", "classes": 6, "source_data": "0", "seconds": 1}
    whole |= dict.fromkeys(("version", "commit", "torch", "device", "date"), "")
    whole |= json.loads(run.done.read_text()) if run.done.is_file() else {}
    whole |= {"row": "00000000", "threads": 1}
    whole |= {"sources": [{"name": "synth-plaza", "family": "synth-plaza", "whole": False}]}
    digests = {"recipe": text_digest(run.recipe_file), "row": text_digest(run.row_file)}
    whole |= {f"{name}_sha256": digest for name, digest in digests.items()}
    whole |= {"weights_sha256": sha256_file(run.weights), **facts}
    if run.log.is_file():
        whole["log_sha256"] = text_digest(run.log)
    run.done.write_text(json.dumps(with_check(whole)))


def seal(path: Path, *others: Path) -> None:
    """Seal what a test wrote by hand, and others of its folder with it, as the command that writes such files would."""
    seal_of(path).write_text("".join(f"{sha256_file(file)}  {file.name}\n" for file in (path, *others)))


def grid_toml(recipe: Recipe) -> str:
    """Return a recipe file's text for a grid, which has its methods, seeds and source from elsewhere."""
    lines = recipe.to_toml().splitlines(keepends=True)
    return "".join(line for line in lines if line.split(" = ")[0] not in ("method", "seed", "source"))


def quiet(what: str, done: int, total: int) -> None:
    """Report nothing."""


# The files that take longest come first, so that no core waits at the end for one of them (`make test`).
LONG = tuple(
    "training models broken cluster embed tables report bench export attack obtain terminal graphs cli backbones show robustness".split()
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are cores: tests wait for processes of their own a quarter of the time."""
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by their file, the longest first; within a file the order stays."""
    place = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two built-in domains with 6 training and 4 test identities each, prepared as a user would."""
    data = tmp_path_factory.mktemp("data")
    patch = pytest.MonkeyPatch()
    patch.setattr(prepare_module, "IDENTITIES", (6, 4))
    # Here, not in processes, which take longer to start than to draw; their bytes are the same (test_synthetic.py).
    patch.setattr(prepare_module, "draw_domain", functools.partial(draw_domain, processes=1))
    for name in ("synth-plaza", "synth-night"):
        prepare_module.prepare(name, data=data)
    patch.undo()
    return data


@pytest.fixture
def small_recipe() -> Recipe:
    """Six steps on the small data."""
    return SMALL


THIN = (16, 16, 32, 32)  # widths of `tiny`


class HalfBlock(nn.Module):
    """A block of `tiny` with one convolution, where a row may put its modules as in a whole one."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1, self.before_relu = nn.BatchNorm2d(width), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.before_relu(self.bn1(self.conv1(x))))


@contextlib.contextmanager
def thin() -> Iterator[None]:
    """Make the backbone `tiny` with fewer channels and layers: a third of the time per step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "WIDTHS", THIN)
        patch.setattr(tiny, "Block", HalfBlock)
        yield


@pytest.fixture
def thin_tiny(request: pytest.FixtureRequest) -> Iterator[None]:
    """A thin `tiny`, for what does not depend on its size.

    What a GPU computes is compared at the size that was measured there.
    """
    with contextlib.nullcontext() if "gpu" in request.keywords else thin():
        yield


@pytest.fixture
def short_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNets with one block in each stage, OSNet with two streams in each block, ViT with two layers: for what is alike
    in all of them.
    """
    from reidgen.models import backbones, osnet, transformers  # for a second

    for name in ("ResNet50", "ResNet18", "ResNet50IBNa", "ResNet18IBNa"):
        monkeypatch.setattr(getattr(backbones, name), "layers", [1, 1, 1, 1])
    monkeypatch.setattr(osnet, "STREAMS", (1, 2))
    monkeypatch.setattr(transformers.ViTB16, "layers", 2)


DRAWN: dict[object, Tensor] = {}


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the start of a tensor of one shape once: to draw a ResNet-50 takes longer than to train it for a step."""

    def once(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def start(tensor: Tensor, *args: Any, **named: Any) -> Tensor:
            key = (draw.__name__, tensor.shape, args, tuple(named.items()))
            if key not in DRAWN:
                DRAWN[key] = draw(tensor, *args, **named).detach().clone()
            with torch.no_grad():
                return tensor.copy_(DRAWN[key])

        return start

    for name in ("kaiming_uniform_", "kaiming_normal_"):
        monkeypatch.setattr(nn.init, name, once(getattr(nn.init, name)))


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave weights as they are made: those of networks without memory hold nothing, and to draw them takes long."""
    for name in ("kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test reaches this machine only."""
    look_up = socket.getaddrinfo

    def local(host: object, *args: object, **kwargs: object) -> object:
        if host not in ("127.0.0.1", "localhost", None):
            raise socket.gaierror(-2, "Name or service not known")
        return look_up(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", local)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small steps; two threads that wait for each other cost more on a busy machine
    yield
    torch.set_num_threads(before)
