"""Fixtures that several test modules share."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from reidgen.data import prepare as prepare_module
from reidgen.recipe import RECIPES, Recipe

SMALL = RECIPES["quick"].change(name="small", identities=4, images=2, epochs=2, batches_per_epoch=3, warmup_epochs=0.0)


def quiet(what: str, done: int, total: int) -> None:
    """Report nothing."""


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two built-in domains with 6 training and 4 test identities each, prepared as a user would."""
    data = tmp_path_factory.mktemp("data")
    patch = pytest.MonkeyPatch()
    patch.setattr(prepare_module, "IDENTITIES", (6, 4))
    for name in ("synth-plaza", "synth-night"):
        prepare_module.prepare(name, data=data)
    patch.undo()
    return data


@pytest.fixture
def small_recipe() -> Recipe:
    """Six steps on the small data."""
    return SMALL


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
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small steps; two threads that wait for each other cost more on a busy machine
    yield
    torch.set_num_threads(before)
