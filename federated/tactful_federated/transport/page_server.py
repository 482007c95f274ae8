"""HTTP server for web pages of named origins, on loopback behind a TLS proxy of the operator."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn

from tactful_federated.errors import SecureSumError
from tactful_federated.transport.pages import PageTransport, PollTimeError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_MOST_BYTES = 4 * 2**20
_PREFIX = "/v1/device/"
_STOP_S = 5.0


class Request(NamedTuple):
    """POST request of a page; names of headers are in lower case."""

    headers: Mapping[bytes, bytes]
    body: bytes


class Reply(NamedTuple):
    """Status, MessagePack or JSON body, and further headers."""

    status: int
    body: bytes = b""
    headers: Collection[tuple[bytes, bytes]] = ()


Route = Callable[[Request], Awaitable[Reply]]


def problem(status: int, code: str, *headers: tuple[bytes, bytes], **details: object) -> Reply:
    """Return a refusal with its code as JSON."""
    body = json.dumps({"code": code, **details}).encode()
    return Reply(status, body, [(b"content-type", b"application/json"), *headers])


def round_routes(transport: PageTransport) -> dict[str, Route]:
    """Return the routes of rounds: `poll` and `answer`."""

    async def poll(request: Request) -> Reply:
        try:
            question = await transport.poll(request.body)
        except SecureSumError as error:
            return refused(error)
        if question is None:
            return Reply(204)
        return Reply(200, question, [(b"content-type", b"application/msgpack")])

    async def answer(request: Request) -> Reply:
        try:
            transport.answer(request.body)
        except SecureSumError as error:
            return refused(error)
        return Reply(204)

    def refused(error: SecureSumError) -> Reply:
        code = "clock" if isinstance(error, PollTimeError) else "not_enrolled"
        return problem(401, code, time=transport.now_ms)

    return {"poll": poll, "answer": answer}


class PageApp:
    """ASGI application: POST routes below ``/v1/device/`` for pages of some origins.

    Args:
        routes: Routes by name, such as `round_routes`.
        origins: Origins of pages, such as ``https://shop.example``; requests of others are refused.
            A page that this server's proxy serves itself sends its own origin, so name it too.
    """

    def __init__(self, routes: Mapping[str, Route], origins: Collection[str]) -> None:
        """Keep routes and origins."""
        self._routes, self._origins = routes, frozenset(origins)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        given = dict(scope["headers"])
        origin = given.get(b"origin", b"").decode("latin-1")
        if origin not in self._origins:
            return await _send(send, Reply(403))
        reply = await self._reply(scope, given, receive)
        allowed = [(b"access-control-allow-origin", origin.encode()), (b"vary", b"origin")]
        await _send(send, reply._replace(headers=[*allowed, *reply.headers]))

    async def _reply(
        self, scope: Message, headers: Mapping[bytes, bytes], receive: Receive
    ) -> Reply:
        prefix, _, name = scope["path"].rpartition("/")
        route = self._routes.get(name)
        if f"{prefix}/" != _PREFIX or route is None:
            return Reply(404)
        if scope["method"] == "OPTIONS":
            preflight = {"methods": b"POST", "headers": b"content-type"}
            allowed = [(f"access-control-allow-{n}".encode(), v) for n, v in preflight.items()]
            return Reply(204, headers=[*allowed, (b"access-control-max-age", b"7200")])
        if scope["method"] != "POST":
            return Reply(405)
        body = await _read(receive)
        if body is None:
            return Reply(413)
        try:
            return await route(Request(headers, body))
        except asyncio.CancelledError:
            return Reply(503)  # the server stops while a poll waits


@contextmanager
def serving_pages(app: PageApp, port: int) -> Iterator[str]:
    """Serve an application on a port of loopback in a thread; yield its address.

    Args:
        app: Application.
        port: Port; 0 is a free one.
    """
    listening = socket.create_server(("127.0.0.1", port))
    # Access logs would hold who takes part, and when.
    config = uvicorn.Config(app, lifespan="off", access_log=False, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(_STOP_S)
        listening.close()


async def _read(receive: Receive) -> bytes | None:
    """Return the body of a request; None if it is too long."""
    parts, length, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > _MOST_BYTES:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


async def _send(send: Send, reply: Reply) -> None:
    headers = [*reply.headers, (b"cache-control", b"no-store")]
    if reply.status != 204:
        headers.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
