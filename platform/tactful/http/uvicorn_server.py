"""uvicorn server (uvloop, httptools) of the application, with limits for clients."""

from __future__ import annotations

import asyncio
import logging
import socket
import weakref
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from types import FrameType
from typing import Any, ClassVar, NoReturn, TypeVar, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tactful.config.server import ServerSettings
from tactful.http.asgi import ARRIVED
from tactful.http.resource import STREAMED
from tactful.http.tls.certificate import HANDSHAKE_S, SHUTDOWN_S, Certificate, open_certificate
from tactful.schemas import problems
from tactful.schemas.problems import ProblemError
from tactful.util.process_tuning import (
    end_start,
    return_large_pieces,
    short_delays,
)

T = TypeVar("T")

_DISCARD_BYTES = 64 * 1024 * 1024
_HEADERS = 100
_PIPELINED = 32

_CONNECTIONS = "uvicorn.error.connections"
_NOT_HTTP = ("bad_body", "this is not an HTTP/1.1 request")
_LINE_TOO_LONG = ("uri_too_long", "`server.head_bytes` limits the bytes of a request line")
_HEAD_TOO_LARGE = (
    "head_too_large",
    f"`server.head_bytes` limits the bytes of a head; it may have {_HEADERS} headers",
)


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


def _is_unread(coding: bytes) -> bool:
    """Whether a transfer coding is none that the server reads."""
    return coding.strip().lower() != b"chunked"


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with limits for clients that are slow or never stop sending.

    ======================================================  =====================================
    beyond this limit                                       the connection is closed
    ======================================================  =====================================
    request line of `server.head_bytes`                     after 414
    headers of `server.head_bytes`, or 100 of them          after 431
    as many bytes in chunk extensions or trailers           after 431, if nothing was answered
    head that takes `server.header_timeout_s`
    response of which the client reads nothing for
    `server.body_timeout_s`
    64 MiB of the body of a refused request
    32 requests behind the one that is being answered
    `server.connections` in this process                    the one that has been idle the longest
    ======================================================  =====================================

    httptools, unlike h11, has no such limits. A piece that was read at once, 256 KiB, may exceed
    those of bytes before they are checked.
    """

    settings = ServerSettings()
    idle: ClassVar[dict[GuardedProtocol, None]] = {}  # connections without a request, oldest first
    _head_timer: asyncio.TimerHandle | None = None
    _unsent_timer: asyncio.TimerHandle | None = None
    _refusal: tuple[str, str] | None = None  # code and detail
    _in_head = False
    _head_size = 0
    _surplus = 0  # bytes received since the last piece of a body
    _discarded = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Disable the access log, whatever the logging settings: paths contain ids.

        Warnings of invalid requests are not logged either: they would let anybody fill a disk.
        """
        super().__init__(*args, **kwargs)
        self.access_log = False
        self.logger = logging.getLogger(_CONNECTIONS)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head; close an idle connection if there are too many."""
        super().connection_made(transport)
        self._expect_head()
        self.idle[self] = None
        if len(self.connections) > self.settings.connections:
            oldest = next(iter(self.idle))
            del self.idle[oldest]
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers, which would keep the connection in memory."""
        self.idle.pop(self, None)
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self._unsent_timer is not None:
            self._unsent_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and start the timer of a head that did not arrive as a whole."""
        self._surplus += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._surplus > self.settings.head_bytes:
            self._refusal = _HEAD_TOO_LARGE
            self.send_400_response("")
        elif self._head_timer is None and (self._in_head or self in self.idle):
            self._expect_head()

    def on_message_begin(self) -> None:
        """Note the beginning of a head."""
        self._stop_timer()
        super().on_message_begin()
        self._in_head = True
        self._head_size = self._surplus = self._discarded = 0

    def on_url(self, url: bytes) -> None:
        """Limit the request line."""
        super().on_url(url)
        if len(self.url) > self.settings.head_bytes:
            self._refuse(_LINE_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Limit size and number of headers; drop trailers, which are none of the head."""
        self._head_size += len(name) + len(value) + 4
        if self._head_size > self.settings.head_bytes or len(self.headers) >= _HEADERS:
            self._refuse(_HEAD_TOO_LARGE)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Prepare the response to a complete head."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        coded = any(name == b"transfer-encoding" and _is_unread(v) for name, v in self.headers)
        if len(self.pipeline) >= _PIPELINED or hosts > 1 or coded:
            self._refuse(_NOT_HTTP)
        self._stop_timer()
        self._in_head = False
        self._surplus = 0
        before = self.cycle
        super().on_headers_complete()
        cycle = self.cycle
        if cycle is before:
            return
        self.idle.pop(self, None)
        # The task of the cycle has not begun yet. A response to HEAD has no body to wait for.
        self.scope[ARRIVED] = _arrived(cycle)  # type: ignore[literal-required]
        if self.scope["method"] != "HEAD":
            cycle.transport = cast(asyncio.Transport, _JoiningTransport(self.transport, cycle))

    def on_body(self, body: bytes) -> None:
        """Discard what arrives after the response, up to the limit."""
        self._surplus = 0
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _DISCARD_BYTES:
                self.transport.close()
            return
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Note that the connection is idle, unless another request waits."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_unsent()
        elif self.cycle.response_complete:
            self.idle[self] = None

    def shutdown(self) -> None:
        """Finish the request at hand; end a response that is sent in parts."""
        if self.cycle is not None and self.cycle.scope.get(STREAMED):
            self.transport.close()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._watch_unsent()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection after the client has read the response."""
        super().timeout_keep_alive_handler()
        self._watch_unsent()

    def send_400_response(self, msg: str) -> None:
        """Respond to invalid HTTP with a problem, where no other response comes first."""
        self._stop_timer()
        cycle = self.cycle
        if cycle is None or (
            cycle.response_complete
            if self._in_head
            else cycle.more_body and not cycle.response_started
        ):
            error = ProblemError(*(self._refusal or _NOT_HTTP))
            body = problems.encode(error.problem(None))
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b"
                % (
                    error.kind.status,
                    HTTPStatus(error.kind.status).phrase.encode(),
                    problems.MEDIA_TYPE,
                    len(body),
                    body,
                )
            )
        self._in_head = False
        self.transport.close()

    def _refuse(self, refusal: tuple[str, str]) -> NoReturn:
        """Stop the parser, which makes uvicorn call `send_400_response`."""
        self._refusal = refusal
        raise ValueError(refusal[0])

    def _expect_head(self) -> None:
        self._stop_timer()
        timeout = self.settings.header_timeout_s
        self._head_timer = self.loop.call_later(timeout, self._close_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
        self._watch_unsent()

    def _watch_unsent(self, before: int | None = None) -> None:
        """Close the connection unless fewer bytes than `before` wait for the client to read."""
        if self._unsent_timer is not None:
            self._unsent_timer.cancel()
        unsent = self.transport.get_write_buffer_size()
        if before is not None and unsent >= before:
            self.transport.abort()
        elif unsent:
            timeout = self.settings.body_timeout_s
            self._unsent_timer = self.loop.call_later(timeout, self._watch_unsent, unsent)


class _Config(uvicorn.Config):
    """uvicorn's configuration with the context of TLS of a `Certificate`."""

    certificate: Certificate | None = None

    def load(self) -> None:
        """Load the application and the protocol; set the context."""
        super().load()
        if self.certificate is not None:
            self.ssl = self.certificate.context


class Server(uvicorn.Server):
    """uvicorn server that returns after a signal instead of raising it again."""

    certificate: Certificate | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully; a second interrupt stops at once."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()


def make_server(application: Any, settings: ServerSettings, *, lifespan: bool = True) -> Server:
    """Make the server of `application`; it listens when it runs.

    Raises:
        ConfigError: if the settings name a certificate that cannot be used.
    """
    logging.getLogger(_CONNECTIONS).setLevel(logging.ERROR)
    protocol = type("Protocol", (GuardedProtocol,), {"settings": settings, "idle": {}})
    config = _Config(
        application,
        http=protocol,
        ws="none",
        lifespan="on" if lifespan else "off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # only new devices need the address: `sender_address`
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.shutdown_s,
    )
    server = Server(config)
    config.certificate = server.certificate = open_certificate(settings)
    return server


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
    certificate = server.certificate
    following = None if certificate is None else asyncio.create_task(certificate.follow())
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    if server.started:
        end_start()
        started()
    try:
        await serving
    finally:
        if following is not None:
            following.cancel()


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

    class Loop(uvloop.Loop):
        """Event loop with limits for clients that do not begin or end TLS."""

        async def create_server(self, *args: Any, **options: Any) -> Any:
            """Create a server; uvicorn sets no limits, whose defaults are a minute and a half."""
            if options.get("ssl") is not None:
                limits = {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": SHUTDOWN_S}
                options = limits | options
            return await super().create_server(*args, **options)

    return Loop
