"""uvicorn server (uvloop, httptools) of the application, with limits for clients."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tactful.config.server import ServerSettings
from tactful.http.asgi import ARRIVED
from tactful.schemas import problems
from tactful.schemas.problems import ProblemError
from tactful.util.process_tuning import (
    freeze_living_objects,
    return_large_pieces,
    short_delays,
)

T = TypeVar("T")

_DISCARD_BYTES = 64 * 1024 * 1024


class _JoiningTransport:
    """Transport of one response that sends head and body in one packet.

    uvicorn writes them separately, which takes two system calls here and two wake-ups at the
    client: a tenth of the processor time of a recommendation.
    """

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        # The cycle holds this object: a strong reference would leave both to the collector.
        self._cycle = weakref.ref(cycle)
        self._head = b""
        self._waits = True

    def write(self, data: bytes) -> None:
        """Write, except the head, which is the first part of a response and waits."""
        cycle = self._cycle()
        # Before the response it is a ``100 Continue``.
        if self._waits and cycle is not None and cycle.response_started:
            self._waits, self._head = False, data
            return
        self._transport.write(self._head + data)
        self._head = b""

    def is_closing(self) -> bool:
        """Whether the connection is closed."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close, after writing a head that has no body."""
        if self._head:
            self.write(b"")
        self._transport.close()


def _arrived(cycle: RequestResponseCycle) -> Callable[[], bool]:
    """Return a function that returns whether the whole body has arrived."""
    reference = weakref.ref(cycle)  # the cycle holds the scope, which holds the function
    return lambda: (cycle := reference()) is not None and not cycle.more_body


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with two additional limits.

    The head of a request must arrive in time, or an attacker holds a socket for ever; and the
    rest of a refused body is discarded only up to a limit.
    """

    header_timeout_s = 10.0
    _head_timer: asyncio.TimerHandle | None = None
    _in_head = False
    _discarded = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Disable the access log, whatever the logging settings: paths contain ids."""
        super().__init__(*args, **kwargs)
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the timer if a head did not arrive as a whole, which it mostly does."""
        super().data_received(data)
        if self._in_head and self._head_timer is None:
            self._expect_head()

    def on_message_begin(self) -> None:
        """Note the beginning of a head."""
        self._stop_timer()
        super().on_message_begin()
        self._in_head = True
        self._discarded = 0

    def on_headers_complete(self) -> None:
        """Prepare the response to a complete head."""
        self._stop_timer()
        self._in_head = False
        before = self.cycle
        super().on_headers_complete()
        cycle = self.cycle
        if cycle is before:
            return
        # The task of the cycle has not begun yet. A response to HEAD has no body to wait for.
        self.scope[ARRIVED] = _arrived(cycle)  # type: ignore[literal-required]
        if self.scope["method"] != "HEAD":
            cycle.transport = cast(asyncio.Transport, _JoiningTransport(self.transport, cycle))

    def on_body(self, body: bytes) -> None:
        """Discard what arrives after the response, up to the limit."""
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _DISCARD_BYTES:
                self.transport.close()
            return
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Respond to invalid HTTP with a problem."""
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
        self._head_timer = self.loop.call_later(self.header_timeout_s, self._close_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn server that returns after a signal instead of raising it again."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully; a second interrupt stops at once."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()


def make_server(application: Any, settings: ServerSettings, *, lifespan: bool = True) -> Server:
    """Make the server of `application`; it listens when it runs."""
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
            proxy_headers=False,  # no code uses the address of the client
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=settings.shutdown_s,
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; raise OSError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host.strip("[]"), port), family=family, backlog=2048)


def run(server: Server, listener: socket.socket, *, started: Callable[[], None]) -> bool:
    """Serve until SIGTERM or SIGINT; call `started` and return True if it accepted requests."""
    run_loop(serve(server, listener, started))
    return server.started


async def serve(server: Server, listener: socket.socket, started: Callable[[], None]) -> None:
    """Serve until the server exits; call `started` when it accepts requests."""
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    if server.started:
        freeze_living_objects()
        started()
    await serving


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop, with allocator and collector set for short delays."""
    return_large_pieces()
    with short_delays(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory of event loops; None where it is not installed."""
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop
