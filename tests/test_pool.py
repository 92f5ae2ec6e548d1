"""One process per device: what comes back, that an error ends its job alone, and that nothing is left running."""

import threading
from pathlib import Path

import pytest
import warm
from conftest import SMALL, quiet
from jobs import warned, work

from reidgen import grid as bench_module
from reidgen.errors import DataError, InterruptedRunError, RunError
from reidgen.pool import share, spread
from reidgen.runs import read_rows

warm.begin()


def running(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if Path(f"/proc/{path.name}").exists()]


def test_every_job_comes_back_from_a_process_of_its_own_and_no_device_has_two(tmp_path: Path) -> None:
    jobs = [("do", str(tmp_path))] * 4
    ended = dict(spread(work, jobs, devices=["one", "two"], stop=threading.Event()))
    assert sorted(ended) == [0, 1, 2, 3] and len({pid for _, pid in ended.values()}) == 4
    assert {device for device, _ in ended.values()} == {"one", "two"} and not running(tmp_path)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [("wrong", DataError, "no such data"), ("die", RunError, "a process on one ended without a word (exit code -9")],
)
def test_an_error_ends_its_own_job_alone(what: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    jobs = [(what, str(tmp_path)), ("do", str(tmp_path))]
    ended = dict(spread(work, jobs, devices=["one"], stop=threading.Event()))
    assert type(ended[0]) is error and message in str(ended[0])
    assert ended[1][0] == "one" and not running(tmp_path)  # the device is free again


def test_a_scheduler_s_warning_to_the_whole_tree_kills_no_process(tmp_path: Path) -> None:
    jobs = [("warned", str(tmp_path)), ("do", str(tmp_path))]
    ended = dict(spread(work, jobs, devices=["one"], stop=threading.Event()))
    assert [ended[number][0] for number in (0, 1)] == ["one", "one"]
    assert list(share(warned, [1, 2, 3], processes=1)) == [1, 2, 3]


def test_a_process_has_the_environment_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not that of the first start, which all are forked from."""
    for said in ("first", "second"):
        monkeypatch.setenv("REIDGEN_SAY", said)
        ended = dict(spread(work, [("say", str(tmp_path))], devices=["one"], stop=threading.Event()))
        assert ended[0][0] == said


def test_a_stop_ends_all(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(InterruptedRunError, match="the same command goes on"):
        list(spread(work, [("sleep", str(tmp_path))], devices=["one"], stop=stop))
    assert not running(tmp_path)


def test_a_grid_on_two_devices_equals_one_after_the_other(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the children; this process has one thread already

    def run(where: str) -> list[str]:
        said: list[str] = []
        bench_module.bench(SMALL, methods=["baseline", "in"], seeds=[0], data=small_data, results=tmp_path / where,
                           device="cpu", report=quiet, say=said.append)  # fmt: skip
        return said

    alone = run("alone")
    monkeypatch.setattr(bench_module, "devices_of", lambda name: ["cpu", "cpu"])
    spread_out = run("spread")
    one, two = (read_rows(tmp_path / where).drop(columns="date") for where in ("alone", "spread"))
    assert len(one) == 4 and one.equals(two)
    assert sorted(line.split(": trained")[0] for line in spread_out) == sorted(
        line.split(": trained")[0] for line in alone
    )
