"""Messages between the process that owns the state and its serving workers.

Both ends of a socket pair that a child inherits: nobody else can connect, and each end notices at
once when the other process ends. A response has the number of its request, so responses may come
in any order. A frame::

    | length: uint32 | number: uint64 | MessagePack: ["FeaturesRequest", "user", "u-17", ...] |
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from tactful.catalogue.request_context import CrossedVector
from tactful.metadata.key_cache import ApiKey
from tactful.schemas.positions import Position
from tactful.schemas.problems import ProblemError

T = TypeVar("T")

_HEAD = struct.Struct("<IQ")
_PART = 1 << 16


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of what a worker sends; the tag is the name of the class."""


class ConfigRequest(_Message, frozen=True, array_like=True, tag=True):
    """Ask for the configuration of this worker: a pickled `WorkerConfig`."""


class ReadyNotice(_Message, frozen=True, array_like=True, tag=True):
    """Report that this worker accepts requests."""


class FeaturesRequest(_Message, frozen=True, array_like=True, tag=True):
    """Ask for features of one entity at `at`, epoch milliseconds: `FeaturesResponse`.

    `device` is the id of the device that a user's request comes from, since consent may be refused
    on it; `claim` is the consent that the request claims.
    """

    entity: str
    key: str
    at: int
    device: str | None = None
    claim: str | None = None


class ColumnsRequest(_Message, frozen=True, array_like=True, tag=True):
    """Ask for features of many entities: the bytes of float64, row by row."""

    entity: str
    keys: list[str]
    names: list[str]
    at: int


class NonZeroRequest(_Message, frozen=True, array_like=True, tag=True):
    """Ask for the entities whose feature is not 0, page by page: `NonZeroResponse`."""

    entity: str
    name: str
    at: int
    start: int


class ChangesRequest(_Message, frozen=True, array_like=True, tag=True):
    """Ask for the items in the list of changes from `start` on: `ChangesResponse`."""

    epoch: int
    start: int


class KeysRequest(_Message, frozen=True, array_like=True, tag=True):
    """Ask for the valid API keys: pairs of hash and `ApiKey`.

    `used` are the ids of keys that this worker has seen for the first time today.
    """

    used: list[str] = []


class ServedNotice(_Message, frozen=True, array_like=True, tag=True):
    """Report the model version, empty for none, and the number of items in use."""

    model: str
    items: int


class TrendsRequest(_Message, frozen=True, array_like=True, tag=True):
    """Ask for rises in published statistics: list of `tactful.recall.trending.Rise`."""


class TakersRequest(_Message, frozen=True, array_like=True, tag=True):
    """Ask for the items that enough people took, from number `start` on: list of ids."""

    at: int
    start: int


class PositionRequest(_Message, frozen=True, array_like=True, tag=True):
    """Wait until the log is applied up to a position: None."""

    position: Position


class FlagVersionRequest(_Message, frozen=True, array_like=True, tag=True):
    """Wait until the version of the flags is not `number`, or for a time: the version."""

    number: int


class ImpressionNotice(_Message, frozen=True, array_like=True, tag=True):
    """Report the impression of a recommendation, to be logged."""

    recommendation_id: str
    impression: bytes


class MetricsNotice(_Message, frozen=True, array_like=True, tag=True):
    """Report the samples of this worker's metrics: name, labels, value."""

    samples: list[tuple[str, dict[str, str], float]]


class ForwardRequest(_Message, frozen=True, array_like=True, tag=True):
    """Forward an HTTP request whose key was checked: `tactful.http.asgi.Reply`."""

    method: str
    path: str
    parameters: dict[str, str]
    query: bytes
    headers: dict[bytes, bytes]
    key: ApiKey
    body: bytes
    peer: str = ""  # address of the connection


Request = (
    ConfigRequest
    | ReadyNotice
    | ServedNotice
    | KeysRequest
    | FeaturesRequest
    | ColumnsRequest
    | NonZeroRequest
    | ChangesRequest
    | TrendsRequest
    | TakersRequest
    | PositionRequest
    | FlagVersionRequest
    | ImpressionNotice
    | MetricsNotice
    | ForwardRequest
)


class FeaturesResponse(msgspec.Struct, frozen=True, array_like=True):
    """Features by name, and the log position that they include."""

    values: dict[str, Any]
    offset: int | None  # before which everything is applied, as `FeatureSource.offset`
    position: Position  # the same in its HTTP form
    properties: dict[str, Any] | None = None  # described properties of a user, if there are any
    shown: dict[str, int] | None = None  # impressions of each item to a user today, if counted
    personal: bool = True  # False: consent does not allow to read this history; it was not read
    crossed: list[CrossedVector] = []  # profiles that the user lets cross from other domains


class NonZeroResponse(msgspec.Struct, frozen=True, array_like=True):
    """Entities with a number each."""

    keys: list[str] | None  # keys of the entities; None: request them by key instead
    numbers: bytes  # of float64, one for each key
    following: int | None  # start of the next page; None after the last


class ChangesResponse(msgspec.Struct, frozen=True, array_like=True):
    """Items that changed."""

    epoch: int  # epoch of the list; if it differs from the requested one, `items` are the first
    next: int  # start of the next request
    items: list[bytes]  # encoded
    watermark: int  # event time up to which events are expected to be complete, epoch milliseconds
    offset: int | None  # before which everything is applied, as `FeatureSource.offset`
    position: Position  # the same in its HTTP form
    latest: int = 0  # time of the latest event about an item; 0 while it is unknown


class _Problem(msgspec.Struct, frozen=True, array_like=True):
    code: str
    detail: str | None
    field: str | None
    retry_after: int | None
    headers: tuple[tuple[bytes, bytes], ...]
    close: bool


class _Response(msgspec.Struct, frozen=True, array_like=True):
    value: Any = None
    problem: _Problem | None = None


_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_responses = msgspec.msgpack.Decoder(_Response)
_encoder = msgspec.msgpack.Encoder()


class BlockingClient:
    """Client that blocks until the response; for several threads, one at a time.

    A refusal, and no response in time, is a `ProblemError`.
    """

    def __init__(self, end: socket.socket, *, timeout_s: float = 5.0) -> None:
        """Use one end of a socket pair; `timeout_s` is the longest wait for a response."""
        self._end = end
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._received = bytearray()

    def request(self, request: Request, kind: type[T]) -> T:
        """Send a request and wait for the response, of type `kind`."""
        with self._lock:
            number = next(self._numbers)
            until = time.monotonic() + self._timeout_s
            try:
                self._end.settimeout(self._timeout_s)
                self._end.sendall(_frame(number, _encoder.encode(request)))
                # A late response to an earlier request is skipped.
                while (response := self._next(until))[0] != number:
                    pass
            except OSError:
                raise unreachable() from None
        return _decode_response(response[1], kind)

    def _next(self, until: float) -> tuple[int, bytes]:
        received = self._received
        while (frame := _take_frame(received)) is None:
            self._end.settimeout(max(until - time.monotonic(), 0.001))
            part = self._end.recv(_PART)
            if not part:
                raise ConnectionResetError
            received += part
        return frame


class FrameProtocol(asyncio.Protocol):
    """One end of a socket pair on an event loop."""

    def __init__(
        self, arrived: Callable[[int, bytes], None], lost: Callable[[], None] = lambda: None
    ) -> None:
        """Call `arrived` with the number and payload of each frame, and `lost` at the end."""
        self._arrived = arrived
        self._lost = lost
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Report that one of the ends was closed."""
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Split received bytes into frames."""
        self._received += data
        while (frame := _take_frame(self._received)) is not None:
            self._arrived(*frame)

    def send(self, number: int, payload: bytes) -> None:
        """Send a frame; it is dropped when the other end is closed."""
        if self._transport is not None:
            self._transport.write(_frame(number, payload))

    def close(self) -> None:
        """Close this end."""
        if self._transport is not None:
            self._transport.close()


class AsyncClient:
    """Client that sends requests and notices on an event loop.

    A refusal, and a closed other end, is a `ProblemError`.
    """

    def __init__(self, lost: Callable[[], None]) -> None:
        """Call `lost` when the other end is closed."""
        self._on_lost = lost
        self._is_lost = False
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._frames = FrameProtocol(self._arrived, self._lost)

    async def open(self, end: socket.socket) -> None:
        """Use one end of a socket pair from now on."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._frames, sock=end)

    async def request(self, request: Request, kind: type[T]) -> T:
        """Send a request and wait for the response, of type `kind`."""
        if self._is_lost:
            raise unreachable()
        number = next(self._numbers)
        self._waiting[number] = response = asyncio.get_running_loop().create_future()
        self._frames.send(number, _encoder.encode(request))
        try:
            return _decode_response(await response, kind)
        finally:
            self._waiting.pop(number, None)

    def notify(self, notice: Request) -> None:
        """Send a message without waiting; the response is ignored."""
        self._frames.send(next(self._numbers), _encoder.encode(notice))

    def close(self) -> None:
        """Close this end after everything was sent."""
        self._frames.close()

    def _arrived(self, number: int, payload: bytes) -> None:
        response = self._waiting.get(number)
        if response is not None and not response.done():
            response.set_result(payload)

    def _lost(self) -> None:
        self._is_lost = True
        for response in self._waiting.values():
            if not response.done():
                response.set_exception(unreachable())
        self._on_lost()


def unreachable() -> ProblemError:
    """Return the problem while the process that owns the state does not respond."""
    return ProblemError("not_ready", "the feature engine does not answer", retry_after=1)


def decode_request(payload: bytes) -> Request:
    """Decode the request in a frame, or raise `msgspec.DecodeError`."""
    return _requests.decode(payload)


def encode_response(value: Any) -> bytes:
    """Encode a successful response as the payload of a frame."""
    return _encoder.encode(_Response(value))


def encode_problem(error: ProblemError) -> bytes:
    """Encode a refusal as the payload of a frame."""
    kind, retry_after = error.kind.code, error.retry_after
    problem = _Problem(kind, error.detail, error.field, retry_after, error.headers, error.close)
    return _encoder.encode(_Response(problem=problem))


def _decode_response(payload: bytes, kind: type[T]) -> T:
    response = _responses.decode(payload)
    if response.problem is not None:
        raise ProblemError(**msgspec.structs.asdict(response.problem))
    return msgspec.convert(response.value, kind)


def _frame(number: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), number) + payload


def _take_frame(received: bytearray) -> tuple[int, bytes] | None:
    """Remove and return the first complete frame; None while there is none."""
    if len(received) < _HEAD.size:
        return None
    length, number = _HEAD.unpack_from(received)
    end = _HEAD.size + length
    if len(received) < end:
        return None
    payload = bytes(memoryview(received)[_HEAD.size : end])
    del received[:end]
    return number, payload
