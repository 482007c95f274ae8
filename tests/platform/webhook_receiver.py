"""A server of a shop that receives webhooks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Shop(ThreadingHTTPServer):
    """It answers with `status`, its first answers with `first`, and not before `answers` is set."""

    def __init__(self, *first: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.attempts: list[tuple[dict[str, str], bytes]] = []
        self.answers = threading.Event()
        self.answers.set()
        self.first = first
        self.status = 200


class _Handler(BaseHTTPRequestHandler):
    server: Shop

    def do_POST(self) -> None:
        shop = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        shop.attempts.append(({**self.headers}, body))
        number = len(shop.attempts) - 1
        status = shop.first[number] if number < len(shop.first) else shop.status
        shop.answers.wait(60)
        with contextlib.suppress(OSError):  # the sender was killed
            self.send_response(status)
            if status == 503:
                self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def receiving(*first: int) -> Iterator[Shop]:
    """Run a shop's server while the context lasts."""
    with Shop(*first) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.answers.set()
        server.shutdown()
        thread.join()
