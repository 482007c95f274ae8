"""Asks one broker of Kafka for record batches, and for nothing else.

It speaks one request of the protocol, Fetch of version 4, which all brokers since 0.11 understand
(https://kafka.apache.org/protocol#The_Messages_Fetch). The client's C library makes an object of
every record it fetches and passes it through three queues; whole batches it does not give away.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tactful_streaming.kafka_config import KafkaSettings

_FETCH, _VERSION = 1, 4
_CLIENT: Final = b"tactful"
_READ_COMMITTED: Final = 1
_LARGEST: Final = 2**30
_LENGTH: Final = struct.Struct(">i")
_ABORTED: Final = struct.Struct(">qq")

Address = tuple[str, int]
"""Host and port of a broker."""


class ProtocolError(OSError):
    """What a broker answered cannot be read."""


@dataclass(frozen=True)
class Fetched:
    """What a broker answered of one partition.

    Attributes:
        error: code of the protocol; 0 is none.
        high: offset behind the newest record.
        stable: offset before which every transaction is over.
        aborted: producer and first offset of transactions that were given up.
        batches: as they lie on the broker; the last may be cut short.
    """

    error: int
    high: int
    stable: int
    aborted: list[tuple[int, int]]
    batches: memoryview


class FetchConnection:
    """A connection to one broker. One thread uses it."""

    def __init__(
        self, address: Address, context: ssl.SSLContext | None, *, timeout_s: float
    ) -> None:
        """Connect.

        Args:
            address: of the broker.
            context: for TLS; None speaks in the clear.
            timeout_s: how long to wait for the broker at most, seconds.

        Raises:
            OSError: There is nobody, or TLS fails.
        """
        self._asked = 0
        self._socket = socket.create_connection(address, timeout_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self._socket = context.wrap_socket(self._socket, server_hostname=address[0])
        except BaseException:
            self._socket.close()
            raise

    def fetch(
        self, topic: str, positions: Mapping[int, int], *, wait_ms: int, most: int
    ) -> dict[int, Fetched]:
        """What lies in partitions from some offsets on; waits for it if there is nothing.

        Args:
            topic: whose partitions.
            positions: first offset wanted of each.
            wait_ms: how long the broker is to wait, milliseconds.
            most: bytes of each partition; a batch that is larger comes all the same.

        Raises:
            OSError: The connection is lost, or the answer cannot be read.
        """
        self._asked = (self._asked + 1) % 2**31
        name = topic.encode()
        request = b"".join(
            [
                struct.pack(">hhih", _FETCH, _VERSION, self._asked, len(_CLIENT)),
                _CLIENT,
                # Whom it is for (no replica), how long, from how many bytes on, how many at most.
                struct.pack(">iiiib", -1, wait_ms, 1, _LARGEST // 16, _READ_COMMITTED),
                struct.pack(">ih", 1, len(name)),
                name,
                _LENGTH.pack(len(positions)),
                *(struct.pack(">iqi", number, at, most) for number, at in positions.items()),
            ]
        )
        self._socket.sendall(_LENGTH.pack(len(request)) + request)
        (length,) = _LENGTH.unpack(self._receive(_LENGTH.size))
        if not _LENGTH.size <= length <= _LARGEST:
            raise ProtocolError(f"the broker answers with {length:,} bytes")
        answer = self._receive(length)
        if _LENGTH.unpack_from(answer) != (self._asked,):
            raise ProtocolError("the broker answers another question")
        try:
            return _read(memoryview(answer), 2 * _LENGTH.size)
        except struct.error as error:
            raise ProtocolError(f"the broker's answer is cut short: {error}") from error

    def close(self) -> None:
        """Hang up; from another thread, too, which ends a wait."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _receive(self, length: int) -> bytearray:
        room = bytearray(length)
        view, got = memoryview(room), 0
        while got < length:
            came = self._socket.recv_into(view[got:])
            if not came:
                raise ConnectionError("the broker hung up")
            got += came
        return room


def tls_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """How to speak TLS with the brokers; None where they are spoken to in the clear."""
    if settings.security not in ("ssl", "sasl_ssl"):
        return None
    context = ssl.create_default_context(
        cafile=None if settings.ca_file is None else str(settings.ca_file)
    )
    if settings.certificate_file is not None:
        context.load_cert_chain(settings.certificate_file, settings.key_file, settings.key_password)
    return context


def _read(answer: memoryview, at: int) -> dict[int, Fetched]:
    """The answer from its topics on; there is one."""
    fetched: dict[int, Fetched] = {}
    (topics,) = _LENGTH.unpack_from(answer, at)
    at += _LENGTH.size
    for _ in range(topics):
        (name,) = struct.unpack_from(">h", answer, at)
        at += 2 + name
        (partitions,) = _LENGTH.unpack_from(answer, at)
        at += _LENGTH.size
        for _ in range(partitions):
            number, error, high, stable, given_up = struct.unpack_from(">ihqqi", answer, at)
            at += struct.calcsize(">ihqqi")
            aborted = [
                _ABORTED.unpack_from(answer, at + place * _ABORTED.size)
                for place in range(max(given_up, 0))
            ]
            at += len(aborted) * _ABORTED.size
            (length,) = _LENGTH.unpack_from(answer, at)
            at += _LENGTH.size
            batches = answer[at : at + max(length, 0)]
            at += len(batches)
            fetched[number] = Fetched(error, high, stable, aborted, batches)
    return fetched
