"""A web server on this machine that answers as badly as the ones that data sets lie on."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

PAGE = b"<!DOCTYPE html><html><body>Sorry, you cannot view or download this file at this time.</body></html>"
DRIVE_FORM = (
    '<html><body><form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="hidden" name="id" value="{id}"><input type="hidden" name="confirm" value="t"></form></body></html>'
)
DRIVE_QUOTA = (
    '<html><body><p class="uc-error-subcaption">Too many users have viewed this file recently.</p></body></html>'
)


@dataclass
class File:
    """One address. cut: after how many bytes the connection breaks, once per entry. ranges: whether it can continue.
    status: of every answer. page: sent instead of the content. drive: Google Drive asks for a confirmation first."""

    content: bytes = b""
    cut: list[int] = field(default_factory=list)
    ranges: bool = True
    status: int = 200
    page: str = ""
    drive: bool = False
    moved: bytes = b""  # the raw address to which the answer leads
    pause: float = 0.0  # seconds between single bytes
    asked: list[str] = field(default_factory=list)  # the Range headers of all requests


@dataclass
class Server:
    base: str
    files: dict[str, File] = field(default_factory=dict)

    def put(self, path: str, content: bytes = b"", **options: object) -> str:
        """Serve `content` and return its address."""
        self.files[path] = File(content, **options)  # type: ignore[arg-type]
        return f"{self.base}/{path}"


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.lstrip("/").partition("?")
            file = server.files.get(path) or server.files.get(f"{path}?{query.partition('&')[0]}")
            if file is None or file.status != 200:
                self.send_error(file.status if file else 404)
                return
            file.asked.append(self.headers.get("Range", ""))
            if file.moved:
                self.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: " + file.moved + b"\r\nContent-Length: 0\r\n\r\n")
                return
            if file.page or (file.drive and "confirm=t" not in query):
                self._page((file.page or DRIVE_FORM.format(id=query.removeprefix("id="))).encode())
                return
            start = 0
            if file.ranges and self.headers.get("Range"):
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(file.content) - 1}/{len(file.content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(file.content) - start))
            self.send_header("Content-Type", "application/octet-stream")
            if file.drive:
                self.send_header("Content-Disposition", 'attachment; filename="x.zip"')
            self.end_headers()
            end = start + file.cut.pop(0) if file.cut else len(file.content)
            with contextlib.suppress(OSError):  # whoever asked has gone
                while file.pause and start < end:
                    self.wfile.write(file.content[start : start + 1])
                    start += 1
                    time.sleep(file.pause)
            self.wfile.write(file.content[start:end])
            if end < len(file.content):
                self.close_connection = True

        def _page(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def redirect_google_drive(server: Server, patch: pytest.MonkeyPatch) -> None:
    """Let requests to Google's hosts end at `server`, under drive/."""
    send = requests.adapters.HTTPAdapter.send

    def here(
        self: requests.adapters.HTTPAdapter, request: requests.PreparedRequest, **kwargs: object
    ) -> requests.Response:
        assert request.url is not None
        host, _, path = request.url.removeprefix("https://").partition("/")
        if host.endswith("google.com"):
            request.url = f"{server.base}/drive?{path.partition('?')[2]}"
        return send(self, request, **kwargs)  # type: ignore[arg-type]

    patch.setattr(requests.adapters.HTTPAdapter, "send", here)
