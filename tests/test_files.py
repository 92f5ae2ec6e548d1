"""Files are whole or absent, whoever else writes them; pipes and devices are no files."""

import fcntl
import hashlib
import os
import threading
from pathlib import Path

import pytest

from reidgen.errors import ReidgenError
from reidgen.files import opened, read_regular, replacing, sha256_file, write_text


def test_writers_of_equal_process_numbers_do_not_meet(tmp_path: Path) -> None:
    """As in two containers: each of its threads has this process's number. One of them wins, none fails."""
    texts = [str(number) * 5000 for number in range(4)]
    failed: list[BaseException] = []

    def work(text: str) -> None:
        try:
            for _ in range(20):
                write_text(tmp_path / "x", text)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and (tmp_path / "x").read_text() in texts
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(ReidgenError, match=r"cannot write .*: No space left on device; free some space"):
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")
    assert (tmp_path / "x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_what_is_flushed_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows, on which nobody has tried it, flushes nothing else."""
    modes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: modes.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE))
    write_text(tmp_path / "x", "whole")
    assert modes == [os.O_RDWR] and (tmp_path / "x").read_text() == "whole"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "link").symlink_to("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert read_regular(tmp_path / "link") == b"content"
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"content").hexdigest()
    for name in ("pipe", "zero", "."):
        with pytest.raises(OSError, match=r"no regular file|Is a directory"), opened(tmp_path / name):
            pass
