"""Shared data that only others may write: evaluating, training, checking and a needless prepare, and where pixels go."""

import contextlib
import ctypes
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_prepare import crops
from typer.testing import CliRunner, Result

from reidgen.cli import app
from reidgen.data.check import check
from reidgen.data.manifest import Prepared, load_prepared
from reidgen.data.pack import load_pack, pack_bytes
from reidgen.data.prepare import prepare
from reidgen.errors import DataError

OVERRIDE = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what lets root pass over a file's rights


@contextlib.contextmanager
def as_a_guest() -> Iterator[None]:
    """Let the rights of files hold for this thread, also where it is root's; other users need nothing."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable
    if libc.capget(header, data):
        pytest.skip("root's rights cannot be taken away here")
    before, data[0] = data[0], data[0] & ~OVERRIDE
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = before
        assert libc.capset(header, data) == 0


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with `data`, whose set `mine` nobody here may write, and `home`, which all may."""
    place = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    prepare("mine", data=place / "data", source=crops(place / "crops"))
    (place / "home").mkdir()
    for path in [place, *place.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (place / "home").chmod(0o777)
    place.chmod(0o755)
    monkeypatch.setenv("HOME", str(place / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("REIDGEN_CACHE", raising=False)
    yield place
    for path in [place, *place.rglob("*")]:
        if path.is_dir():
            path.chmod(stat.S_IRWXU)
    shutil.rmtree(place)


def reidgen(*words: str | Path) -> Result:
    with as_a_guest():
        return CliRunner().invoke(app, [str(word) for word in words])


def test_pixels_of_a_set_that_cannot_be_written_go_to_the_users_cache(shared: Path) -> None:
    mine = load_prepared("mine", shared / "data")
    with as_a_guest():
        assert pack_bytes(mine, 12, 6) > 12 * 12 * 6 * 3  # with their checks
        paths, pixels = load_pack(mine, 12, 6)
        assert pack_bytes(mine, 12, 6) == 0
    (file,) = (shared / "home" / ".cache" / "reidgen").glob("mine-*/pixels-*.npy")
    assert len(paths) == 12 and np.array_equal(np.load(file), pixels[:])
    assert not list((shared / "data").rglob("*pixels*"))


def test_reidgen_cache_names_the_place(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REIDGEN_CACHE", "~/fast")
    mine = load_prepared("mine", shared / "data")
    load_pack(mine, 12, 6)  # also where the set's folder could be written
    (file,) = (shared / "home" / "fast").glob("mine-*/pixels-*.npy")
    other = prepare("mine", data=tmp_path, source=crops(tmp_path / "crops", people=4))
    load_pack(other, 12, 6)  # another set of this name elsewhere: both stay
    assert len(list((shared / "home" / "fast").glob("mine-*/pixels-*.npy"))) == 2 and file.is_file()
    monkeypatch.delenv("REIDGEN_CACHE")
    beside = load_pack(other, 16, 8)[1]
    monkeypatch.setenv("REIDGEN_CACHE", "~/fast")
    copied = load_pack(other, 16, 8)[1]  # what is there is copied to the node's disk, once
    assert copied.file.parent.parent == shared / "home" / "fast" and np.array_equal(copied[:], beside[:])
    when = copied.file.stat().st_mtime_ns
    assert load_pack(other, 16, 8)[1].file.stat().st_mtime_ns == when
    copied.file.unlink()
    content = bytearray(beside.file.read_bytes())
    content[200] ^= 1
    beside.file.write_bytes(content)
    with pytest.raises(DataError, match=r"the pixel cache .* is damaged, or was when it was copied"):
        load_pack(other, 16, 8)
    assert not copied.file.exists() and not list(copied.file.parent.glob(".*.part"))


def test_a_check_judges_the_set_and_not_the_rights(shared: Path) -> None:
    result = reidgen("prepare", "--check", "--data", shared / "data")
    assert (result.exit_code, result.output) == (
        0,
        "mine: whole, 12 images compared by names, sizes and times\n",
    )
    image = next((shared / "crops").rglob("*.jpg"))
    os.utime(image, (1, 1))  # as a copy does; the stamp in the manifest cannot be brought up to date
    with as_a_guest():
        assert check("mine", shared / "data").name == "mine"
    assert reidgen("prepare", "--deep", "--data", shared / "data").exit_code == 0
    image.chmod(0o644)
    image.write_bytes(b"another")
    with as_a_guest(), pytest.raises(DataError, match="1 image of 12 changed"):
        check("mine", shared / "data")


def test_a_needless_prepare_succeeds(shared: Path) -> None:
    result = reidgen("prepare", "mine", "--data", shared / "data")
    assert result.exit_code == 0 and "(was prepared already)" in result.output


def test_a_home_in_a_variable_is_expanded(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shared / "home" / "data").symlink_to(shared / "data")
    monkeypatch.setenv("REIDGEN_DATA", "~/data")
    monkeypatch.setenv("REIDGEN_RESULTS", "~/my results")
    assert "mine: whole" in reidgen("prepare", "--check").output
    result = reidgen("evaluate", "snr", "--target", "mine")
    assert f"in {shared / 'home' / 'my results'}; there: none yet" in result.output


def test_a_run_is_trained_and_evaluated_from_data_that_cannot_be_written(
    shared: Path, small_data: Path, tmp_path: Path
) -> None:
    data = shared / "home" / "data"
    for name in ("synth-plaza", "synth-night"):
        shutil.copytree(small_data / name, data / name, ignore=shutil.ignore_patterns("pixels-*", ".claim"))
    for path in [data, *data.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(data.rglob("*"))
    words = ["--data", data, "--results", shared / "home" / "r", "--device", "cpu"]
    (shared / "home" / "small.toml").write_text(
        'base = "quick"\nidentities = 4\nimages = 2\nepochs = 1\nbatches_per_epoch = 1\n'
    )
    result = reidgen(
        "bench", "--methods", "baseline", "--seeds", "1", "--recipe", shared / "home" / "small.toml", *words
    )
    assert result.exit_code == 0 and "[1/1] baseline s0: trained in" in result.output
    assert sorted(data.rglob("*")) == before and isinstance(load_prepared("synth-night", data), Prepared)
