"""Questions and answers between the process that keeps the state and those that serve requests.

Both ends of a socket pair that a child inherits: nobody else can connect, and each end notices at
once when the other dies. A frame is a length, a number and MessagePack; the answer to a question
has its number, so answers may come in any order.
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

from tactful.schemas.positions import Position
from tactful.schemas.problems import ProblemError

T = TypeVar("T")

_HEAD = struct.Struct("<IQ")
_PART = 1 << 16


class _Question(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Hello(_Question, frozen=True, array_like=True, tag=True):
    """What am I to do? Answered with pickled bytes."""


class Ready(_Question, frozen=True, array_like=True, tag=True):
    """I serve now."""


class Read(_Question, frozen=True, array_like=True, tag=True):
    """The features of one entity as of a time, epoch milliseconds. Answered with `Seen`.

    `device` is the id of the device that a person asks on: they may have refused on it. `claim` is
    what the request says of consent.
    """

    entity: str
    key: str
    at: int
    device: str | None = None
    claim: str | None = None


class ReadColumns(_Question, frozen=True, array_like=True, tag=True):
    """Features of many entities. Answered with the bytes of float64, row by row."""

    entity: str
    keys: list[str]
    names: list[str]
    at: int


class ReadNonZero(_Question, frozen=True, array_like=True, tag=True):
    """Which entities have a number that is not 0? Answered with `Numbers`, a part of them."""

    entity: str
    name: str
    at: int
    start: int


class Changes(_Question, frozen=True, array_like=True, tag=True):
    """Items that changed since a place in the list of changes. Answered with `Changed`."""

    epoch: int
    start: int


class Keys(_Question, frozen=True, array_like=True, tag=True):
    """Which API keys are valid? Answered with hashes and what is known of each."""


class Serves(_Question, frozen=True, array_like=True, tag=True):
    """I make lists from this: version of the model, or nothing, and number of items."""

    model: str
    items: int


class Rises(_Question, frozen=True, array_like=True, tag=True):
    """What rises in published statistics? Answered with a list of `tactful.recall.trending.Rise`."""


class Reach(_Question, frozen=True, array_like=True, tag=True):
    """Answer when the log is applied up to a position."""

    position: Position


class Note(_Question, frozen=True, array_like=True, tag=True):
    """A list was shown: log it."""

    recommendation_id: str
    impression: bytes


class Count(_Question, frozen=True, array_like=True, tag=True):
    """The samples of my metrics: name, labels, value."""

    samples: list[tuple[str, dict[str, str], float]]


class Forward(_Question, frozen=True, array_like=True, tag=True):
    """A request that the keeper of the state answers; the key was checked. Answered with `Told`."""

    method: str
    path: str
    parameters: dict[str, str]
    query: bytes
    headers: dict[bytes, bytes]
    trusted: bool
    public: bool
    body: bytes


Question = (
    Hello
    | Ready
    | Serves
    | Keys
    | Read
    | ReadColumns
    | ReadNonZero
    | Changes
    | Rises
    | Reach
    | Note
    | Count
    | Forward
)


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """Features, and what they are as of.

    Attributes:
        values: by name.
        offset: log offset before which everything is applied, as `FeatureSource.offset`.
        position: the same as it goes over the wire.
        properties: how a person is described; None for nobody, or who is not.
        shown: how often a person was shown each item today, where that is counted.
        personal: False: this person has not agreed that their history is read, and it was not.
    """

    values: dict[str, Any]
    offset: int | None
    position: Position
    properties: dict[str, Any] | None = None
    shown: dict[str, int] | None = None
    personal: bool = True


class Numbers(msgspec.Struct, frozen=True, array_like=True):
    """Entities with a number each.

    Attributes:
        keys: of the entities; None: they are to be asked for by key.
        numbers: bytes of float64, one for each key.
        following: where to go on; None after the last.
    """

    keys: list[str] | None
    numbers: bytes
    following: int | None


class Changed(msgspec.Struct, frozen=True, array_like=True):
    """Items that changed.

    Attributes:
        epoch: of the list of changes; another one than asked for begins at its beginning.
        next: where to go on.
        items: encoded.
        watermark: event time up to which events are expected to be complete, epoch milliseconds.
        offset: log offset before which everything is applied, as `FeatureSource.offset`.
        position: the same as it goes over the wire.
    """

    epoch: int
    next: int
    items: list[bytes]
    watermark: int
    offset: int | None
    position: Position


class Told(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a forwarded request."""

    status: int
    body: bytes
    content_type: bytes
    headers: list[tuple[bytes, bytes]]


class _Refused(msgspec.Struct, frozen=True, array_like=True):
    code: str
    detail: str | None
    field: str | None
    retry_after: int | None
    headers: list[tuple[bytes, bytes]]
    close: bool


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    value: Any = None
    refused: _Refused | None = None


_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_answers = msgspec.msgpack.Decoder(_Answer)
_encoder = msgspec.msgpack.Encoder()


def gone() -> ProblemError:
    """The problem of a request that comes while the keeper of the state does not answer."""
    return ProblemError("not_ready", "the feature engine does not answer", retry_after=1)


class Asker:
    """Asks and waits; for a few threads, one at a time."""

    def __init__(
        self,
        end: socket.socket,
        *,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask through `end`.

        Args:
            end: of a socket pair.
            timeout_s: how long an answer may take.
            clock: monotonic seconds.
        """
        self._end = end
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._received = bytearray()

    def ask(self, question: Question, kind: type[T]) -> T:
        """Ask and wait for the answer.

        Raises:
            ProblemError: if it was refused, or none came in time.
        """
        with self._lock:
            number = next(self._numbers)
            until = self._clock() + self._timeout_s
            try:
                self._end.settimeout(self._timeout_s)
                self._end.sendall(_frame(number, _encoder.encode(question)))
                # An answer that came too late for its question is passed over.
                while (found := self._next(until))[0] != number:
                    pass
            except OSError:
                raise gone() from None
        return _value(found[1], kind)

    def _next(self, until: float) -> tuple[int, bytes]:
        received = self._received
        while (frame := _cut(received)) is None:
            self._end.settimeout(max(until - self._clock(), 0.001))
            part = self._end.recv(_PART)
            if not part:
                raise ConnectionResetError
            received += part
        return frame


class Frames(asyncio.Protocol):
    """One end of a socket pair on an event loop."""

    def __init__(
        self, arrived: Callable[[int, bytes], None], lost: Callable[[], None] = lambda: None
    ) -> None:
        """Hand each frame to `arrived`, and tell `lost` of the end."""
        self._arrived = arrived
        self._lost = lost
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone, or this one was closed."""
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Cut into frames."""
        self._received += data
        while (frame := _cut(self._received)) is not None:
            self._arrived(*frame)

    def send(self, number: int, payload: bytes) -> None:
        """Send a frame; without an other end it is dropped."""
        if self._transport is not None:
            self._transport.write(_frame(number, payload))

    def close(self) -> None:
        """Close this end."""
        if self._transport is not None:
            self._transport.close()


class Caller:
    """Asks without waiting, on an event loop."""

    def __init__(self, lost: Callable[[], None]) -> None:
        """Tell `lost` when the other end is gone."""
        self._told_lost = lost
        self._is_lost = False
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._frames = Frames(self._arrived, self._lost)

    async def open(self, end: socket.socket) -> None:
        """Ask through `end` from now on."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._frames, sock=end)

    async def ask(self, question: Question, kind: type[T]) -> T:
        """Ask and wait for the answer.

        Raises:
            ProblemError: if it was refused, or the other end is gone.
        """
        if self._is_lost:
            raise gone()
        number = next(self._numbers)
        self._waiting[number] = answer = asyncio.get_running_loop().create_future()
        self._frames.send(number, _encoder.encode(question))
        try:
            return _value(await answer, kind)
        finally:
            self._waiting.pop(number, None)

    def tell(self, question: Question) -> None:
        """Ask what nobody has to wait for; the answer is not looked at."""
        self._frames.send(next(self._numbers), _encoder.encode(question))

    def close(self) -> None:
        """Close this end, after what was sent."""
        self._frames.close()

    def _arrived(self, number: int, payload: bytes) -> None:
        answer = self._waiting.get(number)
        if answer is not None and not answer.done():
            answer.set_result(payload)

    def _lost(self) -> None:
        self._is_lost = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(gone())
        self._told_lost()


def decode_question(payload: bytes) -> Question:
    """The question in a frame.

    Raises:
        msgspec.DecodeError: if there is none.
    """
    return _questions.decode(payload)


def answer(value: Any) -> bytes:
    """A good answer as the payload of a frame."""
    return _encoder.encode(_Answer(value))


def refusal(error: ProblemError) -> bytes:
    """A refusal as the payload of a frame."""
    return _encoder.encode(
        _Answer(
            refused=_Refused(
                error.kind.code,
                error.detail,
                error.field,
                error.retry_after,
                [*error.headers],
                error.close,
            )
        )
    )


def _value(payload: bytes, kind: type[T]) -> T:
    found = _answers.decode(payload)
    if (refused := found.refused) is not None:
        raise ProblemError(
            refused.code,
            refused.detail,
            field=refused.field,
            retry_after=refused.retry_after,
            headers=tuple(refused.headers),
            close=refused.close,
        )
    return msgspec.convert(found.value, kind)


def _frame(number: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), number) + payload


def _cut(received: bytearray) -> tuple[int, bytes] | None:
    """Take the first whole frame off; None while there is none."""
    if len(received) < _HEAD.size:
        return None
    length, number = _HEAD.unpack_from(received)
    end = _HEAD.size + length
    if len(received) < end:
        return None
    payload = bytes(memoryview(received)[_HEAD.size : end])
    del received[:end]
    return number, payload
