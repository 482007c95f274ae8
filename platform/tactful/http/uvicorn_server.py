"""Runs the application on uvicorn (uvloop, httptools), one process, with slow callers kept out."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tactful.config.server import ServerSettings
from tactful.http.asgi import ARRIVED
from tactful.schemas import problems
from tactful.schemas.problems import ProblemError
from tactful.util import gc_tuning as interpreter
from tactful.util.malloc import return_large_pieces

_DISCARD_BYTES = 64 * 1024 * 1024


class _Joining:
    """The transport of one answer: its head waits for the body, so that both are one packet.

    uvicorn writes the two one after the other, which is two system calls here and two wake-ups
    there: a tenth of the processor time of a list.
    """

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        # The cycle holds this: held in turn, both would stay until the collector looks.
        self._cycle = weakref.ref(cycle)
        self._head = b""
        self._waits = True

    def write(self, data: bytes) -> None:
        """Write, but for the head, which is the first that is written of an answer."""
        cycle = self._cycle()
        # Before the response it is a ``100 Continue``.
        if self._waits and cycle is not None and cycle.response_started:
            self._waits, self._head = False, data
            return
        self._transport.write(self._head + data)
        self._head = b""

    def is_closing(self) -> bool:
        """Whether nobody is there any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close, after a head that no body came for."""
        if self._head:
            self.write(b"")
        self._transport.close()


def _arrived(cycle: RequestResponseCycle) -> Callable[[], bool]:
    """Says whether the whole body is there; the scope that holds it is held by the cycle."""
    held = weakref.ref(cycle)
    return lambda: (there := held()) is not None and not there.more_body


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with two guards it does not have.

    The head of a request must arrive in time, or one socket per attacker is held for ever; and
    what is left of a body that was refused is thrown away only up to a limit.
    """

    header_timeout_s = 10.0
    _head_timer: asyncio.TimerHandle | None = None
    _in_head = False
    _discarded = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Never log requests: their paths hold ids, whatever the logging is configured to."""
        super().__init__(*args, **kwargs)
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head, if all of it did not come at once, as it mostly does."""
        super().data_received(data)
        if self._in_head and self._head_timer is None:
            self._expect_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._stop_timer()
        super().on_message_begin()
        self._in_head = True
        self._discarded = 0

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop_timer()
        self._in_head = False
        before = self.cycle
        super().on_headers_complete()
        cycle = self.cycle
        if cycle is before:
            return
        # Its task has not begun yet. An answer to HEAD has no body to wait for.
        self.scope[ARRIVED] = _arrived(cycle)  # type: ignore[literal-required]
        if self.scope["method"] != "HEAD":
            cycle.transport = cast(asyncio.Transport, _Joining(self.transport, cycle))

    def on_body(self, body: bytes) -> None:
        """Throw away what comes after the answer, up to the limit."""
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _DISCARD_BYTES:
                self.transport.close()
            return
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, as a problem like every other error."""
        self._stop_timer()
        self._in_head = False
        error = ProblemError("bad_body", "this is not an HTTP/1.1 request")
        body = problems.encode(error.problem(None))
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (problems.MEDIA_TYPE, len(body), body)
        )
        self.transport.close()

    def _expect_head(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(self.header_timeout_s, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """A uvicorn server that ends with a return, not with the signal that stopped it."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully; a second interrupt stops at once."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()


def make_server(application: Any, settings: ServerSettings, *, lifespan: bool = True) -> Server:
    """The server of `application`; it listens when it is run.

    Args:
        application: what it serves.
        settings: how it listens.
        lifespan: whether the application starts and stops with it.
    """
    protocol = type("Protocol", (GuardedProtocol,), {"header_timeout_s": settings.header_timeout_s})
    return Server(
        uvicorn.Config(
            application,
            http=protocol,
            ws="none",
            lifespan="on" if lifespan else "off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # nothing here asks who the caller is by address
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=settings.shutdown_s,
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a taken port is noticed before anything else is opened.

    Raises:
        OSError: if the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host.strip("[]"), port), family=family, backlog=2048)


def run(server: Server, listener: socket.socket, *, started: Callable[[], None]) -> bool:
    """Serve until a signal says stop.

    Args:
        server: from `make_server`.
        listener: from `listen`.
        started: called when the server answers.

    Returns:
        Whether it came to serving at all.
    """
    return_large_pieces()
    with interpreter.short_delays():

        async def serve() -> None:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.005)
            if server.started:
                interpreter.freeze_living_objects()
                started()
            await serving

        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve())
    return server.started


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop; None for that of the standard library."""
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop
