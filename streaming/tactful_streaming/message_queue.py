"""Takes messages from the Kafka client without making an object of each.

The client makes a Python object of every message, with its topic, key and payload, of which an
engine wants the payloads alone, and all of them in one text. So the partitions of a consumer are
led into a queue of our own, which the client's C library is asked for, and the text is written from
where the messages lie. All the rest, the group, its callbacks, errors and commits, stays with the
consumer, which has to be polled as ever.

Where the library cannot be reached (:mod:`tactful_streaming.client_library`), messages are taken
from the consumer as usual.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.client_library import POINTER, Functions, reach
from tactful_streaming.records import Lines, Records

_NO_PARTITION: Final = -2

_Numbers = NDArray[np.int64]
_FUNCTIONS: Functions = {
    "rd_kafka_queue_new": (POINTER, [POINTER]),
    "rd_kafka_queue_get_partition": (POINTER, [POINTER, ctypes.c_char_p, ctypes.c_int32]),
    "rd_kafka_queue_forward": (None, [POINTER, POINTER]),
    "rd_kafka_queue_destroy": (None, [POINTER]),
    "rd_kafka_consume_batch_queue": (
        ctypes.c_ssize_t,
        [POINTER, ctypes.c_int, POINTER, ctypes.c_size_t],
    ),
    "rd_kafka_message_timestamp": (ctypes.c_int64, [POINTER, POINTER]),
    "rd_kafka_message_errstr": (ctypes.c_char_p, [POINTER]),
    "rd_kafka_message_destroy": (None, [POINTER]),
}


@dataclass(frozen=True)
class Run:
    """Messages of one partition, in order.

    Attributes:
        records: offsets and payloads.
        newest: when the last was appended, epoch milliseconds; -1 where that is not known.
    """

    records: Records
    newest: int


@dataclass(frozen=True)
class Trouble:
    """What the client says of a partition in place of a message.

    Attributes:
        partition: its number.
        offset: where reading is.
        code: error code of the client; the end of the partition is one.
        reason: in words.
    """

    partition: int
    offset: int
    code: int
    reason: str


class MessageQueue:
    """Messages of some partitions of one consumer. One thread uses it, that of the consumer."""

    def __init__(self, library: Any, handle: int, consumer: Any) -> None:
        """Use the handle of a consumer; :meth:`of` finds it."""
        # Here, for it loads numba: who does not use the queue does without.
        from tactful_streaming import message_kernel

        self._kernel: Any = message_kernel
        self._library = library
        self._handle = handle
        self._consumer = consumer  # which goes after its queue
        self._queue: int | None = library.rd_kafka_queue_new(handle)
        self._destroy = ctypes.cast(library.rd_kafka_message_destroy, POINTER).value
        self._room = np.zeros(0, np.int64)

    @classmethod
    def of(cls, consumer: Any, module: Any) -> MessageQueue | None:
        """A queue for a new `consumer` of the client `module`; None where that cannot be had."""
        reached = reach(consumer, module, _FUNCTIONS)
        return None if reached is None else cls(*reached, consumer)

    def lead(self, topic: str, partition: int) -> None:
        """Lead a partition here, before it is assigned: what comes earlier would not come here."""
        queue = self._library.rd_kafka_queue_get_partition(self._handle, topic.encode(), partition)
        self._library.rd_kafka_queue_forward(queue, self._queue)
        self._library.rd_kafka_queue_destroy(queue)

    def take(self, limit: int, wait_s: float) -> tuple[dict[int, Run], list[Trouble]]:
        """Messages by partition, as many as are here, and what went wrong.

        Args:
            limit: most messages in all, at least 1.
            wait_s: how long to wait for the first, seconds.
        """
        if len(self._room) < limit:
            self._room = np.zeros(limit, np.int64)
        place = self._room.ctypes.data
        count = self._consume(place, 1, round(1000 * wait_s))
        if count and limit > 1:
            count += self._consume(place + 8, limit - 1, 0)
        if not count:
            return {}, []
        messages = self._room[:count]
        try:
            return self._read(messages)
        finally:
            self._kernel.release(messages, self._destroy)

    def close(self) -> None:
        """Let go of what is here, before the consumer is closed. Closing twice is harmless."""
        if self._queue is not None:
            self._library.rd_kafka_queue_destroy(self._queue)
            self._queue = None

    def __del__(self) -> None:
        """Close: a consumer that nobody closed would wait for what is here for ever."""
        self.close()

    def _consume(self, place: int, limit: int, wait_ms: int) -> int:
        taken: int = self._library.rd_kafka_consume_batch_queue(self._queue, wait_ms, place, limit)
        return max(taken, 0)

    def _read(self, messages: _Numbers) -> tuple[dict[int, Run], list[Trouble]]:
        errors, partitions, offsets, lengths = np.empty((4, len(messages)), np.int64)
        self._kernel.describe(messages, errors, partitions, offsets, lengths)
        troubles = [
            Trouble(
                int(partitions[at]), int(offsets[at]), int(errors[at]), self._reason(messages[at])
            )
            for at in np.flatnonzero(errors).tolist()
        ]
        runs: dict[int, Run] = {}
        # They come in runs of one partition each.
        last_of_runs = np.flatnonzero(np.diff(partitions, append=_NO_PARTITION))
        for number in sorted(set(partitions[last_of_runs].tolist())):
            chosen = partitions == number
            if troubles:
                chosen &= errors == 0
            if chosen.all():
                run = self._run(messages, offsets, lengths)
            elif chosen.any():
                run = self._run(messages[chosen], offsets[chosen], lengths[chosen])
            else:
                continue
            runs[number] = run
        return runs, troubles

    def _run(self, messages: _Numbers, offsets: _Numbers, lengths: _Numbers) -> Run:
        lines = Lines.of_lengths(lengths)
        self._kernel.write_lines(messages, lines.letters)
        first, last = offsets.item(0), offsets.item(-1)
        known: Sequence[int] = range(first, last + 1)
        if len(known) != len(offsets):
            known = offsets.tolist()
        newest = self._library.rd_kafka_message_timestamp(messages.item(-1), None)
        return Run(Records(known, lines), newest)

    def _reason(self, message: int) -> str:
        said: bytes | None = self._library.rd_kafka_message_errstr(int(message))
        return "" if said is None else said.decode(errors="replace")
