"""Headless Chromium over the DevTools protocol: open a page, wait for what it should say, look."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect
from websockets.sync.connection import Connection

_POLL_SECONDS = 0.2


class Page:
    """One tab of the browser; `complaints` are the errors that it wrote to the console."""

    def __init__(self, connection: Connection) -> None:
        """Drive the tab at the other end of `connection`."""
        self._connection = connection
        self._sent = 0
        self.complaints: list[str] = []
        for domain in ("Log", "Runtime"):
            self._call(f"{domain}.enable", {})
        # A field takes what was written when it loses the focus, which a hidden window never has.
        self._call("Emulation.setFocusEmulationEnabled", {"enabled": True})

    def open(self, url: str, *, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        """Start loading `url` in a window of this size, as a reader with this colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setDeviceMetricsOverride", size)
        self._call("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._call("Page.navigate", {"url": url})

    def wait_for(self, expression: str, *, seconds: float = 60.0) -> None:
        """Wait until a JavaScript expression is true; a TimeoutError quotes the page."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression} stayed false; the page says:\n{self.text()}")
            time.sleep(_POLL_SECONDS)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", {"expression": expression, "returnByValue": True})
        return answer["result"].get("value")

    def run(self, code: str) -> Any:
        """Run the body of an async JavaScript function; a RuntimeError quotes what it throws."""
        params = {"expression": f"(async () => {{ {code} }})()", "returnByValue": True}
        answer = self._call("Runtime.evaluate", {**params, "awaitPromise": True})
        if (thrown := answer.get("exceptionDetails")) is not None:
            raise RuntimeError(thrown.get("exception", {}).get("description", thrown["text"]))
        return answer["result"].get("value")

    def upload(self, selector: str, file: Path) -> None:
        """Choose a file for the first field that a CSS selector finds."""
        root = self._call("DOM.getDocument", {})["root"]["nodeId"]
        node = self._call("DOM.querySelector", {"nodeId": root, "selector": selector})["nodeId"]
        self._call("DOM.setFileInputFiles", {"files": [str(file)], "nodeId": node})

    def text(self) -> str:
        """Text that a reader can read."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def screenshot(self, path: Path) -> None:
        """Write a PNG or WebP of the window, by the name of `path`."""
        answer = self._call("Page.captureScreenshot", {"format": path.suffix.removeprefix(".")})
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, params: dict[str, Any]) -> Any:
        self._sent += 1
        self._connection.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while True:
            answer = json.loads(self._connection.recv(timeout=60))
            self.complaints += _complaints(answer)
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]


def _complaints(message: dict[str, Any]) -> list[str]:
    """Errors that a message of the browser reports."""
    params = message.get("params", {})
    match message.get("method"):
        case "Log.entryAdded" if params["entry"]["level"] == "error":
            return [f"{params['entry']['text']} {params['entry'].get('url', '')}"]
        case "Runtime.exceptionThrown":
            return [json.dumps(params["exceptionDetails"])]
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
            return [json.dumps(params["args"])]
    return []


@contextmanager
def browser(executable: str | Path, profile: Path, *switches: str) -> Iterator[Page]:
    """A page of a Chromium that lives for the length of the block, with its own empty profile."""
    command = [str(executable), "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += ["--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", *switches]
    command.append("about:blank")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _debugging_port(process, profile)
        with connect(_page_address(port), max_size=None, proxy=None) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def tabs(executable: str | Path, profile: Path, count: int, *switches: str) -> Iterator[list[Page]]:
    """So many tabs of one such browser."""
    with ExitStack() as stack:
        opened = [stack.enter_context(browser(executable, profile, *switches))]
        port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
        for _ in range(count - 1):
            tab = httpx.put(f"http://127.0.0.1:{port}/json/new?about:blank", trust_env=False).json()
            address = tab["webSocketDebuggerUrl"]
            opened.append(Page(stack.enter_context(connect(address, max_size=None, proxy=None))))
        yield opened


def _debugging_port(process: subprocess.Popen[bytes], profile: Path) -> int:
    told = profile / "DevToolsActivePort"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Chromium ended at once with status {process.returncode}")
        if told.exists() and (lines := told.read_text().splitlines()):
            return int(lines[0])
        time.sleep(_POLL_SECONDS)
    raise TimeoutError("Chromium did not open its debugging port")


def _page_address(port: int) -> str:
    targets = httpx.get(f"http://127.0.0.1:{port}/json", trust_env=False).json()
    return str(next(each for each in targets if each["type"] == "page")["webSocketDebuggerUrl"])
