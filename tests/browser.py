"""A headless Chromium, driven through its DevTools protocol over a pair of pipes: nothing to install but Chromium."""

import atexit
import base64
import functools
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class _Browser:
    """The one browser of this process. `events` holds what each page of it has reported."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._folder = tempfile.TemporaryDirectory()
        there, self._write = os.pipe()  # the browser reads orders from its file 3 and writes answers to its file 4
        self._read, here = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        command = [CHROMIUM, *flags, f"--user-data-dir={self._folder.name}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{there} 4>&{here}', "bash", *command], pass_fds=(there, here),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(there)
        os.close(here)
        self._left, self._number = b"", 0
        self.events: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def end(self) -> None:
        """End it."""
        os.close(self._write)  # it ends with its pipe
        self._process.wait(timeout=20)
        os.close(self._read)
        self._folder.cleanup()

    def ask(self, session: str, method: str, **params: Any) -> dict[str, Any]:
        """Send one order, to a page or without a session to the browser, and return its answer."""
        self._number += 1
        number, order = self._number, {"id": self._number, "method": method, "params": params}
        if session:
            order["sessionId"] = session
        os.write(self._write, json.dumps(order).encode() + b"\0")
        while (message := self.hear()).get("id") != number:
            pass
        assert "error" not in message, (method, message)
        answer: dict[str, Any] = message["result"]
        return answer

    def hear(self) -> dict[str, Any]:
        """Wait for one message and return it; what a page reports goes into its `events`."""
        while b"\0" not in self._left:
            assert select.select([self._read], [], [], 120)[0], "the browser does not answer"
            read = os.read(self._read, 1 << 20)
            assert read, "the browser ended"
            self._left += read
        text, self._left = self._left.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        if "id" not in message:
            self.events[message.get("sessionId", "")].append(message)
        return message


@functools.cache
def _browser() -> _Browser:
    """Start the browser, for all tests of this process: a start takes longer than most of them."""
    browser = _Browser()
    atexit.register(browser.end)
    return browser


class Page:
    """One page with storage of its own, as in a new browser. `events` holds what it reported: console lines, errors,
    requests.
    """

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        ask = functools.partial(_browser().ask, "")
        self._context = ask("Target.createBrowserContext")["browserContextId"]
        target = ask("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events = _browser().events[self._session]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.ask("Emulation.setFocusEmulationEnabled", enabled=True)  # several may be open
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _browser().ask("", "Target.disposeBrowserContext", browserContextId=self._context)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one order and return its answer; what the page reports meanwhile goes into `events`."""
        return _browser().ask(self._session, method, **params)

    def open(self, file: Path) -> None:
        """Open a file and wait until it is loaded."""
        before = len(self.events)
        self.ask("Page.navigate", url=file.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events[before:]):
            _browser().hear()

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key where the focus is."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            code = {
                "Enter": 13,
                "Tab": 9,
                "Backspace": 8,
                **{digit: ord(digit) for digit in "0123456789"},
                "Escape": 27,
                "ArrowLeft": 37,
                "ArrowUp": 38,
                "ArrowRight": 39,
                "ArrowDown": 40,
            }[key]
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, file: Path) -> None:
        """Write the whole page as PNG."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def reported(self, *methods: str) -> list[dict[str, Any]]:
        """Return the parameters of what the browser reported by these names."""
        return [event["params"] for event in self.events if event.get("method") in methods]
