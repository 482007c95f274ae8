"""A shop's pages, and a gate before the platform that sees every request and can make trouble."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

_TYPES = {".js": "text/javascript", ".html": "text/html; charset=utf-8"}
_PAGE = b"<!doctype html><title>shop</title><script src=/tactful.global.js></script><p>Tea</p>"


@dataclass(frozen=True)
class Seen:
    """One request that came to the gate."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class Gate:
    """What came, and what is to happen to what comes.

    Attributes:
        upstream: the platform.
        trouble: answers the next requests in its order: a status with headers, or a function that
            is called before the request is forwarded; None forwards.
        offline: whether connections are dropped.
        seen: every request but the browser's questions before it.
        asked: those questions.
    """

    upstream: str
    trouble: list[tuple[int, dict[str, str]] | Callable[[], object]] = field(default_factory=list)
    offline: bool = False
    seen: list[Seen] = field(default_factory=list)
    asked: list[Seen] = field(default_factory=list)
    url: str = ""

    def events(self) -> list[dict[str, Any]]:
        """All events that came, repetitions included."""
        return [event for each in self.seen if each.path == "/v1/events" for event in each.body]


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def pages(bundle: Path) -> Iterator[str]:
    """The shop's own origin: one page and the client."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = urlsplit(self.path).path.strip("/")
            if name == "account":  # as a shop answers its proxy, from the cookie of the login
                cookie = SimpleCookie(self.headers.get("cookie", "")).get("account")
                account = {"x-account": cookie.value} if cookie else {}
                return _answer(self, 200 if cookie else 401, account, b"")
            file = bundle / name
            body = file.read_bytes() if name and file.is_file() else _PAGE
            kind = _TYPES.get(Path(name).suffix, "text/html; charset=utf-8")
            _answer(self, 200, {"content-type": kind}, body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output quiet."""

    with serving(Handler) as url:
        yield url


@contextmanager
def gate(upstream: str) -> Iterator[Gate]:
    """A gate before `upstream`, on an origin of its own."""
    state = Gate(upstream)
    http = httpx.Client(base_url=upstream, timeout=60, trust_env=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_OPTIONS(self) -> None:
            self._pass(state.asked)

        def do_POST(self) -> None:
            self._pass(state.seen)

        def do_GET(self) -> None:
            self._pass(state.seen)

        def _pass(self, book: list[Seen]) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            parts = urlsplit(self.path)
            body = json.loads(content) if content else None
            book.append(Seen(self.command, parts.path, parse_qs(parts.query), headers, body))
            if state.offline:
                self.close_connection = True
                return
            if book is state.seen and state.trouble:
                trouble = state.trouble.pop(0)
                if not callable(trouble):
                    status, extra = trouble
                    problem = json.dumps({"code": "trouble", "status": status}).encode()
                    extra = {"access-control-expose-headers": "retry-after", **extra}
                    extra["access-control-allow-origin"] = headers.get("origin", "")
                    _answer(self, status, extra, problem)
                    return
                trouble()
            passed = {k: v for k, v in headers.items() if k not in ("host", "connection")}
            answer = http.request(self.command, self.path, content=content, headers=passed)
            hop = {"content-length", "connection", "transfer-encoding"}
            kept = {k: v for k, v in answer.headers.items() if k not in hop}
            _answer(self, answer.status_code, kept, answer.content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output quiet."""

    with http, serving(Handler) as state.url:
        yield state


def _answer(to: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    to.send_response(status)
    for name, value in headers.items():
        to.send_header(name, value)
    to.send_header("content-length", str(len(body)))
    to.end_headers()
    to.wfile.write(body)
