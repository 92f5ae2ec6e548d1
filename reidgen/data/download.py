"""Downloading an archive from its mirrors: resumed after a break, and never taken for whole when it is not."""

import contextlib
import hashlib
import http.client
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from reidgen.entries import Archive
from reidgen.errors import DataError
from reidgen.files import opened
from reidgen.runs import Progress

RETRIES = 4  # of one connection, each where the last one broke, after a growing pause
TIMEOUT = (15.0, 60.0)  # seconds: to connect, between bytes
PATIENCE, LEAST = 300.0, 2**20  # seconds in which at least so many bytes come, or that is no download


def download(archive: Archive, folder: Path, *, say: Callable[[str], None], report: Progress | None = None) -> Path:
    """Download an archive into `folder` and return the file. Its mirrors are tried in order.

    What a break leaves is kept in <folder>/.partial and continued by the next call, where the server can do that; it
    begins anew where it cannot. `say` gets one line per mirror, `report` megabytes.

    Raises DataError with every mirror's reason: it has not the file, answers with a web page (a login, or Google Drive's
    quota), breaks off, or gives a file of another MD5 than the published one, which is removed.
    """
    target, reasons = folder / archive.file, []
    for url in archive.urls:
        host = urlsplit(url).hostname or url
        key = hashlib.sha256(url.encode()).hexdigest()[:8]  # another mirror's bytes are never continued
        output = folder / ".partial" / f"{key}-{archive.file}"
        output.parent.mkdir(parents=True, exist_ok=True)
        say(f"downloading {archive.file} from {host} to {folder}")
        try:
            _fetch(url, output, report)
        except DataError as error:
            reasons.append(f"{host}: {error}")
            continue
        if reason := _wrong(output, archive.md5):
            output.unlink()
            reasons.append(f"{host}: {reason}")
            continue
        output.replace(target)
        shutil.rmtree(output.parent, ignore_errors=True)
        return target
    raise DataError(f"cannot download {archive.file} ({'; '.join(reasons)})")


def md5_file(file: Path) -> str:
    """Return the MD5 of a file's bytes, the only checksum that data sets were published with.

    Raises DataError when the file cannot be read.
    """
    try:
        with opened(file) as raw:
            return hashlib.file_digest(raw, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}; make it readable, or get it again") from error


def _fetch(url: str, output: Path, report: Progress | None) -> None:
    """Download one address to `output`. Raises DataError saying in a few words why that failed."""
    import gdown
    import requests
    import urllib3

    came, stalled = [0], threading.Event()

    def show(done: int, total: int | None) -> None:
        came[0] = done
        if report:
            report(f"download {output.name.partition('-')[2]} (MB)", done >> 20, max((total or done) >> 20, 1))

    for last in (False, True):
        try:
            with _watching(came, stalled):
                gdown.download(
                    url,
                    str(output),
                    quiet=True,
                    use_cookies=False,
                    resume=True,
                    progress=show,
                    timeout=TIMEOUT,
                    retries=RETRIES,
                    cancel=stalled,
                )
            return
        except gdown.exceptions.DownloadCancelled as error:
            raise DataError(
                f"sent less than {LEAST / 1e6:.2g} MB in {PATIENCE:g} seconds; what came is kept"
            ) from error
        except gdown.exceptions.FileURLRetrievalError as error:  # Google Drive's page instead of the file
            raise DataError(f"gives no file ({_reason(error)}); try tomorrow, or with a browser: {url}") from error
        except gdown.exceptions.DownloadError as error:
            parts = list(output.parent.glob(f"{output.name}????????.part"))
            if last or not parts or error.__cause__:  # with a cause: the connection broke, what came is kept
                raise DataError(_reason(error)) from error
            for part in parts:  # the server cannot continue: once more, from the beginning
                part.unlink()
        except requests.HTTPError as error:
            raise DataError(f"answers {_reason(error).partition(' for url')[0]}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
            raise DataError(_reason(error)) from error
        except (KeyError, ValueError) as error:  # what a malformed address or header ends in
            raise DataError(f"answers with what is no address or header ({_reason(error)})") from error
        except OSError as error:
            raise DataError(f"cannot write {output}: {error.strerror or error}; free some space") from error


@contextlib.contextmanager
def _watching(came: list[int], stalled: threading.Event) -> Iterator[None]:
    """Set `stalled` once fewer than LEAST bytes have come in PATIENCE seconds: a server that sends a byte now and then
    is never silent for as long as a timeout."""
    over = threading.Event()

    def watch() -> None:
        before = came[0]
        while not over.wait(PATIENCE):
            if came[0] - before < LEAST:
                stalled.set()
                return
            before = came[0]

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _reason(error: Exception) -> str:
    """Return the telling part of an error of gdown or requests, in one line."""
    text = " ".join(str(error).split())
    if found := re.search(r"\[Errno -?\d+\] ([^'\")]+)", text):  # deep inside what urllib3 says
        return found[1]
    if "timed out" in text:
        return "no answer in time"
    text = text.removeprefix("Failed to retrieve file url: ")
    for end in (" You may still", " The received bytes are kept", "; the partial file"):
        text = text.partition(end)[0]
    return text.rstrip(". ") or type(error).__name__


def _wrong(file: Path, md5: str) -> str:
    """Return why a downloaded file is not the archive, or ""."""
    with file.open("rb") as raw:
        start = raw.read(512).lstrip().lower()
    if not start:
        return "gives an empty file"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "answers with a web page instead of the file (a login, a quota, or it has moved)"
    if md5 and (found := md5_file(file)) != md5:
        return f"gives a file with MD5 {found}, published is {md5}; it was removed"
    return ""
