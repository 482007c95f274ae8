"""Clients without a key that never stop sending, send slowly, or do not read."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
from tests.platform.support import Live, build, small_settings, wait_until

from tactful.config.server import ServerSettings
from tactful.server.platform import Platform

MEGABYTE = 2**20
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
FLOODS = {  # what comes first, and then without end: the status
    "headers": (GET, b"a: b\r\n" * 10_000, 431),
    "long headers": (GET, b"a: " + b"b" * 60_000 + b"\r\n", 431),
    "header": (GET + b"a: ", b"b" * 60_000, 431),
    "name": (GET, b"a" * 60_000, 431),
    "line": (b"GET /", b"a" * 60_000, 414),
    "query": (b"GET /healthz?", b"a=b&" * 15_000, 414),
    "method": (b"", b"A" * 60_000, 400),
    "blank lines": (b"", b"\r\n" * 30_000, 431),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 10_000, 431),
    "trailer": (CHUNKED + b"0\r\na: ", b"b" * 60_000, 431),
    "chunk extension": (CHUNKED + b"5;a=", b"b" * 60_000, 431),
    "chunk size": (CHUNKED, b"0" * 60_000, 431),
}


def connected(live: Live) -> socket.socket:
    return socket.create_connection(("127.0.0.1", live.port), timeout=60)


def flood(live: Live, first: bytes, piece: bytes) -> tuple[bytes, int]:
    """Send until the server closes the connection; return its answer and the megabytes sent."""
    sent, answer = 0, b""
    with connected(live) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(first)
            while sent < 200 * MEGABYTE:
                connection.sendall(piece)
                sent += len(piece)
        with contextlib.suppress(OSError):
            while part := connection.recv(65_536):
                answer += part
    return answer, sent // MEGABYTE


@pytest.mark.parametrize(("first", "piece", "status"), FLOODS.values(), ids=FLOODS)
def test_endless_heads_are_refused(shared: Live, first: bytes, piece: bytes, status: int) -> None:
    """One such connection cost 760 MiB, and the others stalled for five seconds."""
    answer, sent = flood(shared, first, piece)
    assert sent < 20, "the system buffers some"
    if answer:  # a reset may overtake it
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close" in answer


def test_many_floods_delay_nobody(shared: Live) -> None:
    with ThreadPoolExecutor(4) as pool:
        floods = [pool.submit(flood, shared, first, piece) for first, piece, _ in FLOODS.values()]
        while not all(one.done() for one in floods):
            assert shared.http.get("/healthz").status_code == 200
        assert max(one.result()[1] for one in floods) < 20


def status_of(live: Live, request: bytes) -> int:
    with connected(live) as connection:
        connection.sendall(request)
        return int(connection.recv(4096).split()[1])


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431)])
def test_size_of_a_head(shared: Live, more: int, status: int) -> None:
    size = ServerSettings().head_bytes + more
    room = size - len(b"host: localhost\r\na: \r\n")
    assert status_of(shared, GET + b"a: " + b"b" * room + b"\r\n\r\n") == status
    assert status_of(shared, GET + b"a: b\r\n" * (99 + more) + b"\r\n") == status
    line = b"/healthz?" + b"a" * (size - 9)
    expected = 414 if more else 400  # the line was read: its parameter is unknown
    assert status_of(shared, b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n" % line) == expected


@pytest.mark.parametrize("host", [b"evil.example", b"localhost"])
def test_two_hosts_are_refused(shared: Live, host: bytes) -> None:
    """A proxy may decide by the first `Host` and the server by the last one."""
    two = b"GET /healthz HTTP/1.1\r\nhost: %b\r\nHost: localhost\r\n\r\n"
    assert status_of(shared, two % host) == 400


def test_a_body_of_another_transfer_coding_is_refused(shared: Live) -> None:
    """A body that claims to be compressed was read as it is."""
    coded = CHUNKED.replace(b"chunked", b"gzip, chunked")
    assert status_of(shared, coded + b"2\r\n[]\r\n0\r\n\r\n") == 400


def test_invalid_requests_fill_no_log(shared: Live, caplog: pytest.LogCaptureFixture) -> None:
    """Each one wrote a line, so anybody could fill the disk of the log."""
    for request in (b"nonsense\r\n\r\n", GET + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"):
        status_of(shared, request)
    assert caplog.records == []


def test_pipelined_requests_are_limited(shared: Live) -> None:
    with connected(shared) as connection:
        with contextlib.suppress(OSError):
            connection.sendall((GET + b"\r\n") * 20_000)
        answer = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(65_536):
                answer += part
    assert answer.count(b"HTTP/1.1 ") <= 34


def test_trailers_are_no_headers(shop: Live) -> None:
    """A key in a trailer, which proxies do not check, is none."""
    key = shop.create_key("ingest").encode()
    event = b'{"type": "view", "timestamp": 1600000000000, "user_id": "u"}'
    body = b"%x\r\n%b\r\n0\r\n" % (len(event), event)
    assert status_of(shop, CHUNKED + body + b"x-api-key: %b\r\n\r\n" % key) == 401
    asked = CHUNKED.replace(b"host:", b"x-api-key: %b\r\nhost:" % key)
    assert status_of(shop, asked + body + b"a: b\r\n\r\n") == 202


@pytest.fixture(scope="module", params=[0, 1], ids=["process", "worker"])
def hasty(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A server with keys and short times, for eight connections."""
    settings = small_settings(tmp_path_factory.mktemp("hasty"))
    server = replace(
        settings.server, dev=False, header_timeout_s=0.5, body_timeout_s=0.5, connections=8
    )
    platform = Platform.open(replace(settings, server=server), build)
    with Live(platform, workers=request.param) as live:
        yield live


TRICKLES = {
    "head": (GET, b"a: b\r\n"),
    "blank lines": (b"", b"\r\n"),
    "blank lines after a response": (GET + b"\r\n", b"\r\n"),
    "head after a response": (GET + b"\r\n" + GET, b"a: b\r\n"),
    "refused body": (POST + b"content-length: 9999\r\n\r\n", b"x"),
    "refused chunks": (CHUNKED, b"1\r\nx\r\n"),
    "upgrade": (GET + b"connection: upgrade\r\nupgrade: x\r\n\r\n", b"x"),
}


@pytest.mark.parametrize(("first", "piece"), TRICKLES.values(), ids=TRICKLES)
def test_a_trickle_ends(hasty: Live, first: bytes, piece: bytes) -> None:
    """A byte from time to time held a connection for ever."""
    with connected(hasty) as connection:
        connection.sendall(first)
        end = time.monotonic() + 30
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                connection.sendall(piece)
                time.sleep(0.05)
        assert time.monotonic() < end


def test_a_client_that_does_not_read_is_cut_off(hasty: Live) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hasty.port))
        asked = GET.replace(b"/healthz", b"/openapi.json") + b"\r\n"
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(30):
                connection.sendall(asked)

        def cut_off() -> bool:
            time.sleep(0.05)
            try:
                connection.send(b"\r")
            except TimeoutError:
                return False
            except OSError:
                return True
            return False

        wait_until(cut_off, 30)


@pytest.mark.slow
def test_idle_connections_give_way(hasty: Live) -> None:
    """A new connection closes the one that has been idle the longest, and is served."""
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(connected(hasty))
            with httpx.Client(base_url=hasty.url, timeout=60, verify=False) as http:
                assert http.get("/healthz").status_code == 200
