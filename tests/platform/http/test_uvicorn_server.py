"""Responses are one write, head and body together; memory is returned."""

from __future__ import annotations

import asyncio
import gc
from unittest.mock import AsyncMock, MagicMock

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from tactful.config.server import ServerSettings
from tactful.http import uvicorn_server as serving
from tactful.http.asgi import ARRIVED, Receive, Scope, Send
from tactful.http.resource import Application
from tactful.http.routes import make_application
from tactful.http.uvicorn_server import listen, make_server, run

_ASKED = (
    b"%b / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n%b\r\n"
    b"hi%b /second HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nhi"
)


class _Wire(asyncio.Transport):
    """Transport that records every write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


async def _written(application: Application, sent: bytes) -> _Wire:
    """Return the transport after the server has answered the bytes of a connection."""
    server = make_server(application, ServerSettings(), lifespan=False)
    config, state = server.config, ServerState()
    config.load()
    protocol = config.http_protocol_class(config, state, {})  # type: ignore[call-arg]
    wire = _Wire()
    protocol.connection_made(wire)
    protocol.data_received(sent)
    while state.tasks:
        await asyncio.gather(*state.tasks)
        await asyncio.sleep(0)
    protocol.eof_received()
    return wire


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    body = scope["path"].encode() + message["body"]
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def _broken(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    raise ValueError


@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
def test_head_and_body_are_one_write(method: bytes) -> None:
    wire = asyncio.run(_written(_echo, _ASKED % (method, b"", method)))
    bodies = [b"/hi", b"/secondhi"] if method == b"POST" else [b"", b""]
    assert len(wire.writes) == 2  # one for each of two pipelined requests
    for written, body in zip(wire.writes, bodies, strict=True):
        head, _, rest = written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert rest == body
    assert not wire.closed


def test_a_promise_to_read_on_does_not_wait() -> None:
    wire = asyncio.run(_written(_echo, _ASKED % (b"POST", b"expect: 100-continue\r\n", b"POST")))
    assert len(wire.writes) == 3
    assert wire.writes[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.writes[1].endswith(b"\r\n\r\n/hi")


def test_what_breaks_after_its_head_leaves_the_head() -> None:
    wire = asyncio.run(_written(_broken, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"))
    assert b"".join(wire.writes).startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.closed


def test_a_request_says_whether_its_body_is_there() -> None:
    said: list[bool] = []

    async def listens(scope: Scope, receive: Receive, send: Send) -> None:
        said.append(scope[ARRIVED]())
        if said[-1]:
            await _echo(scope, receive, send)

    head = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n"
    for sent in (b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", head + b"hi", head + b"h", head):
        asyncio.run(_written(listens, sent))
    assert said == [True, True, False, False]


def test_answered_requests_leave_no_reference_cycles() -> None:
    asked = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nhi"
    left: list[int] = []

    async def counts(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope[ARRIVED]()
        left.append(sum(type(one) is RequestResponseCycle for one in gc.get_objects(0)))
        await _echo(scope, receive, send)

    gc.collect()
    gc.disable()  # so that new objects stay in the youngest generation
    try:
        asyncio.run(_written(counts, 30 * asked))
    finally:
        gc.enable()
    # All requests are read at once, and each that is answered is gone.
    assert left == sorted(left, reverse=True)
    assert left[0] - left[-1] >= 28


def test_memory_is_returned_from_the_first_answer_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nobody asks")

    told: list[str] = []
    monkeypatch.setattr(serving, "return_large_pieces", lambda: told.append("returns"))
    server = make_server(nothing, ServerSettings(), lifespan=False)

    def started() -> None:
        told.append("started")
        server.should_exit = True

    with listen("127.0.0.1", 0) as listener:
        assert run(server, listener, started=started)
    assert told == ["returns", "started"]


@pytest.mark.parametrize(("kind", "starts"), [("websocket", 0), ("lifespan", 1)])
def test_only_a_lifespan_starts_the_platform(kind: str, starts: int) -> None:
    platform = MagicMock(start=AsyncMock(), stop=AsyncMock())
    platform.settings.server.cors_origins = ""

    async def connect() -> None:
        await make_application(platform)({"type": kind}, AsyncMock(), AsyncMock())

    asyncio.run(connect())
    assert platform.start.await_count == platform.stop.await_count == starts
