"""HTTP server of the two routes of `PageTransport`, on loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from tactful_federated.errors import SecureSumError
from tactful_federated.transport.pages import PageTransport, PollTimeError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_MOST_BYTES = 4 * 2**20
_PREFIX = "/v1/device/"
_STOP_S = 5.0


class PageApp:
    """ASGI application for pages of some origins.

    Args:
        transport: Transport that receives the requests.
        origins: Origins of pages, such as ``https://shop.example``; requests of others are refused.
            A page that this server's proxy serves itself sends its own origin, so name it too.
    """

    def __init__(self, transport: PageTransport, origins: Collection[str]) -> None:
        """Keep transport and origins."""
        self._transport, self._origins = transport, frozenset(origins)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        if origin not in self._origins:
            return await _reply(send, 403, [])
        headers = [(b"access-control-allow-origin", origin.encode()), (b"vary", b"origin")]
        route = scope["path"].removeprefix(_PREFIX)
        if not scope["path"].startswith(_PREFIX) or route not in ("poll", "answer"):
            return await _reply(send, 404, headers)
        if scope["method"] == "OPTIONS":
            headers += [
                (b"access-control-allow-methods", b"POST"),
                (b"access-control-allow-headers", b"content-type"),
                (b"access-control-max-age", b"7200"),
            ]
            return await _reply(send, 204, headers)
        if scope["method"] != "POST":
            return await _reply(send, 405, headers)
        body = await _read(receive)
        if body is None:
            return await _reply(send, 413, headers)
        await self._answer(route, body, headers, send)

    async def _answer(self, route: str, body: bytes, headers: Headers, send: Send) -> None:
        question: bytes | None = None
        try:
            if route == "poll":
                question = await self._transport.poll(body)
            else:
                self._transport.answer(body)
        except SecureSumError as error:
            code = "clock" if isinstance(error, PollTimeError) else "not_enrolled"
            problem = {"code": code, "time": self._transport.now_ms}
            headers.append((b"content-type", b"application/json"))
            return await _reply(send, 401, headers, json.dumps(problem).encode())
        if question is None:
            return await _reply(send, 204, headers)
        headers.append((b"content-type", b"application/msgpack"))
        await _reply(send, 200, headers, question)


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


async def _reply(send: Send, status: int, headers: Headers, body: bytes = b"") -> None:
    if status != 204:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    headers = [*headers, (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
