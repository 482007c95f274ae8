"""Fuzz of HTTP: invalid requests to every route, pipelined and one by one, and mere bytes.

Each thread keeps a connection to the server; a request depends on the seed and its number.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import quote, quote_from_bytes

import msgspec

from benchmarks.faults.decoders import STORED
from benchmarks.faults.fuzz import CRASHES, SEED
from benchmarks.faults.mutate import Mutator
from benchmarks.figures import Figure
from tactful.util.signals import end_process

FIGURES: Final = [("fuzz_http_requests", "requests"), ("fuzz_http_failures", "requests")]
REQUESTS: Final = 52_000
QUICK_REQUESTS: Final = 500
"""Of each kind of server."""

_THREADS: Final = 4
_HANG_S: Final = 60.0
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3})")
_ERASURES: Final = 0.01  # share of the requests that could erase; each rewrites files


def figures(quick: bool) -> list[Figure]:
    """Fuzz a server without and with worker processes."""
    count = QUICK_REQUESTS if quick else REQUESTS
    totals, failures, notes = 0, 0, []
    for workers in (0, 2):
        sent, statuses, wrong = fuzz_server(workers, count)
        totals, failures = totals + sent, failures + len(wrong)
        kinds = Counter(f"{status // 100}xx" for status in statuses.elements())
        told = ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
        notes.append(f"{workers} workers: {told}" + "".join(f"; {it}" for it in wrong[:5]))
        print(f"http, {notes[-1]}", file=sys.stderr, flush=True)
    note = "; ".join(notes)
    return [
        Figure("fuzz_http_requests", totals, "requests", note=note),
        Figure("fuzz_http_failures", failures, "requests", runs=totals, note="5xx, hang or death"),
    ]


def fuzz_server(workers: int, count: int) -> tuple[int, Counter[int], list[str]]:
    """Send `count` requests; return their number, the statuses of answers, and the failures."""
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), workers) as (port, process):
        document = json.loads(
            _ask(port, b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")[1]
        )
        family = _family(process.pid)
        clients = [_Client(port, document, f"{SEED}/{workers}/{n}") for n in range(_THREADS)]
        threads = [
            threading.Thread(target=client.run, args=(count // _THREADS,)) for client in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wrong = [text for client in clients for text in client.wrong]
        if process.poll() is not None or not family <= _family(process.pid):
            wrong.append("a process of the server died")
        else:
            status, _ = _ask(port, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            wrong += [] if status == 200 else [f"/healthz answers {status} afterwards"]
        errors = (Path(folder) / "errors").read_text(errors="replace")
        if "Traceback" in errors:
            wrong.append("the log contains a traceback")
        if wrong:
            CRASHES.mkdir(parents=True, exist_ok=True)
            (CRASHES / f"server-{workers}-workers.txt").write_text(errors[-200_000:])
        statuses = sum((client.statuses for client in clients), Counter[int]())
        return sum(client.sent for client in clients), statuses, wrong


@contextlib.contextmanager
def _server(folder: Path, workers: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    given = STORED / "configuration"
    settings = {
        "TACTFUL_STORAGE__DATA": str(folder / "data"),
        "TACTFUL_STORAGE__REPORTS": str(folder),
        "TACTFUL_ENGINE__FEATURES": str(given / "features.yaml"),
        "TACTFUL_ENGINE__RULES": str(given / "rules.yaml"),
        "TACTFUL_STATISTICS__DEFINITIONS": str(given / "statistics.yaml"),
        "TACTFUL_STATISTICS__CLOCK": "replay",
        "TACTFUL_RECOMMEND__PLACEMENT": str(given / "placement.yaml"),
        "TACTFUL_CONSENT__DEFAULT": "assume",
        "TACTFUL_SERVER__HEADER_TIMEOUT_S": "2",
        "TACTFUL_SERVER__BODY_TIMEOUT_S": "2",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    command = [sys.executable, "-m", "tactful", "serve", "--json", "--dev", "--port", "0"]
    command += ["--workers", str(workers)]
    (folder / "data").mkdir(mode=0o700)
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **settings}, stdout=-1, stderr=errors
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError((folder / "errors").read_text(errors="replace"))
        port = int(json.loads(line)["url"].rpartition(":")[2].strip("/"))
        end = time.monotonic() + 120
        while _ask(port, b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")[0] != 200:
            if time.monotonic() > end:
                raise TimeoutError("the server is not ready")
            time.sleep(0.1)
        yield port, process
    finally:
        process.stdout.close()
        end_process(process, 90)


def _family(process: int) -> set[int]:
    """Return the child processes of a process."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{process}/task").iterdir()
        return {int(n) for task in tasks for n in (task / "children").read_text().split()}
    return set()


def _ask(port: int, request: bytes) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", port), _HANG_S) as connection:
        connection.sendall(request)
        return _Answers(connection).read()


class _Answers:
    """Reads the answers of a connection one by one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._data = bytearray()

    def read(self, head: bool = False) -> tuple[int, bytes]:
        """Return status and body of the next answer; EOFError if the server closed before."""
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            self._more()
        lines = bytes(self._data[:end]).lower().split(b"\r\n")
        del self._data[: end + 4]
        status = int(lines[0].split(b" ")[1])
        if status == 100:
            return self.read(head)
        fields = dict(line.split(b": ", 1) for line in lines[1:])
        if head or status in (204, 304):
            return status, b""
        if fields.get(b"transfer-encoding") == b"chunked":
            body = bytearray()
            while size := int(self._until(b"\r\n"), 16):
                body += self._take(size)
                self._take(2)
            self._take(2)
            return status, bytes(body)
        return status, self._take(int(fields.get(b"content-length", b"0")))

    def rest(self) -> bytes:
        """Return everything until the server closes."""
        with contextlib.suppress(EOFError):
            while True:
                self._more()
        return bytes(self._data)

    def _until(self, mark: bytes) -> bytes:
        while (end := self._data.find(mark)) < 0:
            self._more()
        return self._take(end + len(mark))[:end]

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            self._more()
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    def _more(self) -> None:
        try:
            data = self._connection.recv(65_536)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        self._data += data


class _Client:
    """One thread with a connection of its own."""

    def __init__(self, port: int, document: dict[str, Any], seed: str) -> None:
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self._port = port
        self._random = Random(seed)
        self._operations = [
            (path, method.upper(), operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        bodies = [body for *_, operation in self._operations if (body := _example(operation))]
        self._texts = Mutator([b"u-17", b"x/../y", b"limit=2&cursor=x&at=5"], "", seed).inputs()
        self._bodies = {
            path + method: Mutator([body, *bodies], "json", f"{seed}{path}{method}").inputs()
            for path, method, operation in self._operations
            for body in [_example(operation) or b"{}"]
        }
        self._raw = Mutator(_RAW, "", seed + "raw").inputs()

    def run(self, count: int) -> None:
        """Send `count` requests."""
        while self.sent < count and len(self.wrong) < 20:
            try:
                if self._random.random() < 0.2:
                    self._send_bytes()
                else:
                    self._send_requests()
            except TimeoutError:
                self.wrong.append("no answer in time")
            except ValueError as error:
                self.wrong.append(f"an answer cannot be read: {error}")
            except ConnectionRefusedError as error:
                self.wrong.append(f"the server cannot be reached: {error}")
                return
            except ConnectionError:
                pass  # the server closes after an answer that says so

    def _send_bytes(self) -> None:
        data = next(self._raw)
        self.sent += 1
        with socket.create_connection(("127.0.0.1", self._port), _HANG_S) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            for status in _STATUS.findall(_Answers(connection).rest()):
                self._judge(int(status), "bytes", data)

    def _send_requests(self) -> None:
        """Send some requests on one connection, all at once or each after an answer."""
        with socket.create_connection(("127.0.0.1", self._port), _HANG_S) as connection:
            answers = _Answers(connection)
            for _ in range(1 + int(12 * self._random.random())):
                depth = 1 if self._random.random() < 0.5 else self._random.randint(2, 16)
                made = [self._request() for _ in range(depth)]
                connection.sendall(b"".join(data for *_, data in made))
                self.sent += depth
                for place, method, data in made:
                    try:
                        status, body = answers.read(method == "HEAD")
                    except EOFError:
                        return  # the server closes after an answer that says so
                    self._judge(status, place, data, body)

    def _judge(self, status: int, place: str, data: bytes, body: bytes = b"") -> None:
        self.statuses[status] += 1
        if status >= 500 and status != 503:
            self.wrong.append(f"{status} of {place}")
            CRASHES.mkdir(parents=True, exist_ok=True)
            name = f"request-{len(self.wrong)}-{self._port}"
            (CRASHES / f"{name}.input").write_bytes(data)
            (CRASHES / f"{name}.txt").write_bytes(f"{status} of {place}\n".encode() + body)

    def _request(self) -> tuple[str, str, bytes]:
        """Make a request; return the operation, its method and the bytes."""
        draw = self._random
        path, method, _ = draw.choice(self._operations)
        if method == "DELETE" and draw.random() > _ERASURES:
            method = "GET"
        place = f"{method} {path}"
        body = next(self._bodies[path + method]) if path + method in self._bodies else b""
        if draw.random() < 0.05:
            method = draw.choice(("GET", "PUT", "POST", "PATCH", "HEAD", "OPTIONS", "TRACE"))
        path = re.sub(r"\{\w+\}", lambda _: self._text(), path)
        if draw.random() < 0.5:
            path += "?" + self._query()
        if draw.random() < 0.02:
            path += quote_from_bytes(next(self._texts))[:200]
        headers = [b"host: localhost", b"content-type: " + draw.choice(_TYPES)]
        if draw.random() < 0.1:
            headers.append(draw.choice(_HEADERS))
        if body or draw.random() < 0.9:
            headers.append(b"content-length: %d" % len(body))
        head = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (
            method.encode(),
            path.encode(),
            b"\r\n".join(headers),
        )
        return place, method, head + body

    def _text(self) -> str:
        if self._random.random() < 0.3:
            return self._random.choice(_PARTS)
        return quote_from_bytes(next(self._texts)[:300], safe="") or "x"

    def _query(self) -> str:
        if self._random.random() < 0.3:
            return quote_from_bytes(next(self._texts)[:2000], safe="=&")
        pairs = [
            f"{self._random.choice(_NAMES)}={quote(self._random.choice(_VALUES))}"
            for _ in range(self._random.randint(1, 3))
        ]
        return "&".join(pairs)


def _example(operation: dict[str, Any]) -> bytes | None:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    example = content.get("example")
    if example is None and content.get("examples"):
        example = next(iter(content["examples"].values())).get("value")
    return None if example is None else msgspec.json.encode(example)


_RAW: Final = (
    b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n[]",
    b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n" * 3,
    b"PUT /v1/items HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2\r\n[]\r\n0\r\n\r\n",
    b"OPTIONS /v1/recommend HTTP/1.1\r\nhost: localhost\r\norigin: https://a.example\r\n"
    b"access-control-request-method: POST\r\nupgrade: websocket\r\n"
    b"connection: upgrade\r\nexpect: 100-continue\r\n\r\n",
)
_TYPES: Final = (
    *([b"application/json"] * 8),
    *(b"application/x-ndjson", b"text/plain", b"text/html; charset=\xff", b"x"),
)
_HEADERS: Final = (
    *(b"x-request-id: " + b"a" * 300, b"authorization: Bearer x", b"x-api-key: tk_a_b", b"te: x"),
    *(b"content-encoding: gzip", b"content-encoding: identity", b"expect: 100-continue"),
    *(b"origin: https://shop.example", b"dnt: 1", b"sec-gpc: 1", b"connection: keep-alive"),
    *(b"accept: text/html", b"accept-encoding: br", b"if-none-match: *", b"range: bytes=0-"),
)
_PARTS: Final = (
    *("taken.daily", "places.daily", "cheaper-first"),
    *("..", "%2e%2e", "x%2Ffeatures", "%00", "%ff", "device%3Ax", "u-17", "%25", "a" * 300),
    *("forecast", "start", "log", "-", "%F0%9F%98%80", "%1f", "..%2f..%2fetc%2fpasswd"),
)
_NAMES: Final = (
    *("at", "limit", "cursor", "since", "until", "after", "format", "key", "level", "x", ""),
    *("events", "confidence", "target", "top", "q", "step", "identifier", "user_id", "n"),
)
_VALUES: Final = (
    *("", "0", "1", "-1", "2", "1001", "1e3", "0.5", "9" * 30, str(2**63), str(-(2**63)), "x"),
    *("2026-03-01T12:00:00Z", "2026-03-01", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+14:00"),
    *("html", "json", "0:1,1:2", "nan", "inf", "\x00", "é", "a:b:c", "null", "true", "[]"),
)
