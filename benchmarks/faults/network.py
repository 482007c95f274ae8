"""A link to a server on the loopback interface that can be slow, silent, cut, or half open."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

TROUBLES: Final = ("delay", "stall", "cut", "reset", "half-open")
"""Troubles of a link.

- delay: everything comes a fifth of a second later, in both directions;
- stall: nothing comes, and all of it later;
- cut: connections end, and new ones are closed at once;
- reset: the same by RST instead of FIN;
- half-open: the server sees connections end, the client does not: what it sends on them is gone,
  and no answer comes, also after the trouble.
"""

_DELAY_S = 0.2
_ENDING_S = 10.0
_BLOCK = 65_536
_RST = struct.pack("ii", 1, 0)


class Link:
    """Relays the connections of one port to a server; a context.

    Attributes:
        port: on which clients find the server.
    """

    def __init__(self, port: int, target: int) -> None:
        """Relay what comes to `port` to the port `target`."""
        self.port = port
        self._target = target
        self._trouble: str | None = None
        self._flows = asyncio.Event()
        self._pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        self._await(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all connections."""
        self._await(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ENDING_S)
        self._loop.close()

    def disturb(self, trouble: str) -> None:
        """Begin one of `TROUBLES`.

        Raises:
            ValueError: if there is no such trouble.
        """
        if trouble not in TROUBLES:
            raise ValueError(f"a link has no trouble {trouble!r}: choose from {TROUBLES}")
        self._await(self._change(trouble))

    def restore(self) -> None:
        """End the trouble: new connections work, and those that were neither cut nor half open."""
        self._await(self._change(None))

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_ENDING_S)

    async def _listen(self) -> None:
        self._flows.set()
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for pair in list(self._pairs):
            pair.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _change(self, trouble: str | None) -> None:
        self._trouble = trouble
        if trouble == "stall":
            self._flows.clear()
        else:
            self._flows.set()
        for pair in list(self._pairs):
            if trouble == "cut":
                pair.abort()
            elif trouble == "reset":
                pair.reset()
            elif trouble == "half-open":
                pair.half_open()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until an end closes it."""
        if self._trouble in ("cut", "reset"):
            if self._trouble == "reset":
                _end_by_reset(writer)
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # the server is down, and so is its port
            _end_by_reset(writer)
            writer.transport.abort()
            return
        pair = _Pair(writer, back)
        self._pairs.add(pair)
        if self._trouble == "half-open":
            pair.half_open()
        try:
            await asyncio.gather(self._pass(pair, reader, back), self._pass(pair, there, writer))
        finally:
            self._pairs.discard(pair)
            pair.abort()

    async def _pass(
        self, pair: _Pair, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        """Pass on what comes from one end, and that it has ended."""
        with suppress(OSError):
            while data := await source.read(_BLOCK):
                if self._trouble == "delay":
                    await asyncio.sleep(_DELAY_S)
                await self._flows.wait()
                if not pair.is_half_open:
                    target.write(data)
                    await target.drain()
        if not pair.is_half_open:
            with suppress(OSError, RuntimeError):
                target.write_eof()


class _Pair:
    """Two connections: of a client to the link, and of the link to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.is_half_open = False
        self._client = client
        self._server = server

    def abort(self) -> None:
        """End both, whatever is under way."""
        for writer in (self._client, self._server):
            writer.transport.abort()

    def reset(self) -> None:
        """End both with RST."""
        for writer in (self._client, self._server):
            _end_by_reset(writer)
        self.abort()

    def half_open(self) -> None:
        """End that to the server alone."""
        self.is_half_open = True
        self._server.transport.abort()


def _end_by_reset(writer: asyncio.StreamWriter) -> None:
    """Let the connection end by RST once it is closed."""
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
