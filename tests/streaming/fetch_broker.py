"""A broker that answers fetches as a test says, and no other request."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

_EMPTY = 30  # bytes of an answer of a partition without batches

Lying = list[tuple[int, int, bytes]]
"""Batches of a partition: first and last offset, and bytes."""


class FetchBroker:
    """Keeps batches by partition.

    Attributes:
        batches: by partition.
        errors: code to answer of a partition in place of batches.
        aborted: transactions that were given up, by partition.
        asked: positions of each request so far.
        tamper: what becomes of an answer before it is sent; None hangs up, b"" says nothing.
        most: batches of a partition in an answer.
    """

    def __init__(self) -> None:
        self.batches: dict[int, Lying] = {}
        self.errors: dict[int, int] = {}
        self.aborted: dict[int, list[tuple[int, int]]] = {}
        self.asked: list[dict[int, int]] = []
        self.tamper: Callable[[bytes], bytes | None] = lambda answer: answer
        self.most = 2
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return host, port

    def close(self) -> None:
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as sent:
            while head := sent.read(4):
                request = sent.read(int.from_bytes(head))
                answer = self.tamper(self._answer(request))
                if answer is None:
                    return
                connection.sendall(answer)

    def _answer(self, request: bytes) -> bytes:
        kind, version, number, client = struct.unpack_from(">hhih", request)
        assert (kind, version) == (1, 4)
        at = 10 + client
        replica, wait_ms, least, most, committed = struct.unpack_from(">iiiib", request, at)
        assert (replica, least, committed) == (-1, 1, 1) and most > 0
        topics, name = struct.unpack_from(">ih", request, at + 17)
        topic = request[at + 23 : at + 23 + name]
        at += 23 + name
        assert topics == 1
        (count,) = struct.unpack_from(">i", request, at)
        asked = {}
        for place in range(count):
            partition, offset, _ = struct.unpack_from(">iqi", request, at + 4 + 16 * place)
            asked[partition] = offset
        assert at + 4 + 16 * count == len(request)
        self.asked.append(asked)
        parts = [self._of(partition, offset) for partition, offset in asked.items()]
        if all(len(part) <= _EMPTY for part in parts):
            time.sleep(wait_ms / 1000)
        body = struct.pack(">iiih", number, 0, 1, len(topic)) + topic
        body += struct.pack(">i", count) + b"".join(parts)
        return struct.pack(">i", len(body)) + body

    def _of(self, partition: int, offset: int) -> bytes:
        error, lying = self.errors.get(partition, 0), self.batches.get(partition, [])
        high = lying[-1][1] + 1 if lying else 0
        given_up = self.aborted.get(partition, [])
        found = [batch for _, last, batch in lying if last >= offset][: self.most]
        sent = b"" if error else b"".join(found)
        head = struct.pack(">ihqqi", partition, error, high, high, len(given_up) or -1)
        listed = b"".join(struct.pack(">qq", *one) for one in given_up)
        return head + listed + struct.pack(">i", len(sent)) + sent
