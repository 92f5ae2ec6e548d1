"""Downloads from a server on this machine that breaks off, lies and refuses: right, or one sentence, and then right."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import gdown
import numpy as np
import pytest
from server import DRIVE_QUOTA, PAGE, Server, redirect_google_drive, serving

from reidgen.data import download as module
from reidgen.data.download import download, md5_file
from reidgen.entries import Archive
from reidgen.errors import DataError

CONTENT = np.random.default_rng(0).bytes(3 * 2**20)
MD5 = hashlib.md5(CONTENT).hexdigest()
CHUNK = 2**19  # gdown writes so much at a time
DRIVE = "https://drive.google.com/uc?id=abc"


@pytest.fixture(scope="module")
def _server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    _server.files.clear()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,google.com")
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # no pauses between tries
    return _server


def fetch(folder: Path, *urls: str, md5: str = MD5) -> Path:
    return download(Archive(file="set.zip", urls=urls, md5=md5), folder, say=lambda line: None)


def whole(folder: Path) -> bool:
    """Tell whether the folder holds the file and nothing else."""
    return [one.name for one in folder.iterdir()] == ["set.zip"] and (folder / "set.zip").read_bytes() == CONTENT


def refused(folder: Path, *urls: str, md5: str = MD5) -> str:
    """Return the sentence of a download that fails and leaves nothing that could be taken for the file."""
    with pytest.raises(DataError) as caught:
        fetch(folder, *urls, md5=md5)
    assert "\n" not in str(caught.value) and not (folder / "set.zip").exists()
    return str(caught.value)


def test_in_one_go_with_a_line_and_progress(tmp_path: Path, server: Server) -> None:
    lines: list[str] = []
    calls: list[tuple[str, int, int]] = []
    archive = Archive(file="set.zip", urls=(server.put("a/b.zip?dl=1", CONTENT),), md5=MD5)
    assert (
        download(archive, tmp_path, say=lines.append, report=lambda *call: calls.append(call)) == tmp_path / "set.zip"
    )
    assert whole(tmp_path) and lines == [f"downloading set.zip from 127.0.0.1 to {tmp_path}"]
    assert calls[-1] == ("download set.zip (MB)", 3, 3)
    assert md5_file(tmp_path / "set.zip") == MD5


def test_a_cut_connection_is_continued_where_it_broke(tmp_path: Path, server: Server) -> None:
    url = server.put("set.zip", CONTENT, cut=[2**20, 2**19])
    fetch(tmp_path, url)
    assert whole(tmp_path)
    assert server.files["set.zip"].asked[:3] == ["", f"bytes={2**20}-", f"bytes={2**20 + 2**19}-"]


def test_a_second_call_continues_what_the_first_left(tmp_path: Path, server: Server) -> None:
    url = server.put("set.zip", CONTENT, cut=[CHUNK] * (module.RETRIES + 1))
    sentence = refused(tmp_path, url)
    assert sentence.startswith("cannot download set.zip (127.0.0.1: ") and "incomplete" in sentence
    server.files["set.zip"].asked.clear()
    fetch(tmp_path, url)
    assert whole(tmp_path) and f"bytes={CHUNK * (module.RETRIES + 1)}-" in server.files["set.zip"].asked


@pytest.mark.parametrize("cuts", [1, module.RETRIES + 1])
def test_a_server_that_cannot_continue_is_asked_from_the_beginning(tmp_path: Path, server: Server, cuts: int) -> None:
    url = server.put("set.zip", CONTENT, cut=[2**20] * cuts, ranges=False)
    if cuts > 2:
        refused(tmp_path, url)
        server.files["set.zip"].cut.clear()
    fetch(tmp_path, url)
    assert whole(tmp_path)


def test_no_network_keeps_what_came(tmp_path: Path, server: Server) -> None:
    url = server.put("set.zip", CONTENT, cut=[CHUNK] * (module.RETRIES + 1))
    refused(tmp_path, url)
    kept = {one.name: one.stat().st_size for one in (tmp_path / ".partial").iterdir()}
    base, server.base = server.base, "http://127.0.0.1:9"
    moved = next((tmp_path / ".partial").iterdir())
    key = hashlib.sha256(b"http://127.0.0.1:9/set.zip").hexdigest()[:8]
    moved.rename(moved.with_name(key + moved.name[8:]))  # as if the same address were dead now
    sentence = refused(tmp_path, "http://127.0.0.1:9/set.zip")
    server.base = base
    assert "Connection refused" in sentence
    assert [one.stat().st_size for one in (tmp_path / ".partial").iterdir()] == list(kept.values())


@pytest.mark.parametrize("status", [404, 403, 503])
def test_the_next_mirror_is_tried(tmp_path: Path, server: Server, status: int) -> None:
    good = server.put("good.zip", CONTENT)
    fetch(tmp_path, server.put("bad.zip", status=status), good)
    assert whole(tmp_path)


def test_every_mirror_is_named_with_its_reason(tmp_path: Path, server: Server) -> None:
    sentence = refused(tmp_path, server.put("a", status=404), server.put("b", PAGE), "http://127.0.0.1:9/c")
    assert sentence == (
        "cannot download set.zip (127.0.0.1: answers 404 Client Error: Not Found; 127.0.0.1: answers with a web page instead "
        "of the file (a login, a quota, or it has moved); 127.0.0.1: Connection refused)"
    )
    fetch(tmp_path, server.put("d", CONTENT))
    assert whole(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PAGE, "a web page instead of the file"),
        (b"", "an empty file"),
        (CONTENT[:-1], f"MD5 {hashlib.md5(CONTENT[:-1]).hexdigest()}, published is {MD5}; it was removed"),
    ],
)
def test_another_file_is_removed_and_a_second_try_succeeds(
    tmp_path: Path, server: Server, content: bytes, reason: str
) -> None:
    url = server.put("set.zip", content)
    assert reason in refused(tmp_path, url)
    server.put("set.zip", CONTENT)
    fetch(tmp_path, url)
    assert whole(tmp_path)


def test_google_drive_asks_for_a_confirmation(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    redirect_google_drive(server, monkeypatch)
    server.put("drive?id=abc", CONTENT, drive=True, cut=[CHUNK])
    fetch(tmp_path, DRIVE)
    assert whole(tmp_path) and f"bytes={CHUNK}-" in server.files["drive?id=abc"].asked


def test_google_drives_quota_is_a_sentence(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    redirect_google_drive(server, monkeypatch)
    server.put("drive?id=abc", page=DRIVE_QUOTA)
    sentence = refused(tmp_path, DRIVE)
    assert sentence == (
        "cannot download set.zip (drive.google.com: gives no file (Too many users have viewed this file recently); try "
        f"tomorrow, or with a browser: {DRIVE})"
    )
    server.put("drive?id=abc", CONTENT, drive=True)
    fetch(tmp_path, DRIVE)
    assert whole(tmp_path)


def test_a_full_disk_is_a_sentence(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gdown, "download", full)
    assert "cannot write" in (sentence := refused(tmp_path, server.put("x", CONTENT))) and "free some space" in sentence


def test_a_byte_now_and_then_is_no_download(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never silent for as long as a timeout; the next mirror is tried."""
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    drop, good = server.put("drop", CONTENT, pause=0.01), server.put("good", CONTENT)
    sentence = refused(tmp_path, drop)
    assert sentence == "cannot download set.zip (127.0.0.1: sent less than 1 MB in 0.2 seconds; what came is kept)"
    monkeypatch.setattr(module, "LEAST", 1)
    monkeypatch.setattr(module, "PATIENCE", 20.0)
    fetch(tmp_path, good)
    assert whole(tmp_path)


MALFORMED = [
    b"http://[::1", b"http://", b"//", b"http://127.0.0.1:port/", b"http://127.0.0.1:99999/", b"http://a..b/", b"://", b"ftp://x/",
    b"http://" + b"a" * 300 + b"/", b"http://\xff\xfe/", b"http://%00/", b"file:///etc/passwd", b"http://127.0.0.1:-1/",
    b"http://[v1.x]/", b"http://\xc2\xa0.b/", b"data:,x", b"http://127.0.0.1\\@x/", b"mailto:x",
]  # fmt: skip


@pytest.mark.parametrize("address", MALFORMED)
def test_a_redirect_to_a_malformed_address_is_a_sentence(tmp_path: Path, server: Server, address: bytes) -> None:
    assert refused(tmp_path, server.put("set.zip", moved=address)).startswith("cannot download set.zip (127.0.0.1: ")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> int:
        raise PermissionError(13, "Permission denied", str(tmp_path / "x.zip"))

    monkeypatch.setattr("reidgen.files.os.open", closed)
    with pytest.raises(DataError, match=r"cannot read .*x\.zip: Permission denied; make it readable"):
        md5_file(tmp_path / "x.zip")
