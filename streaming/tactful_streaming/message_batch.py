"""Hands rows to the Kafka client's C library at once, without an object for each.

The client takes a dictionary for each message, and makes the library's structures of them. Here
these are laid out as arrays, by addresses within the one text in which the rows lie. The library
copies what they point at before it returns. All the rest, transactions, delivery, errors, stays
with the producer, which has to be polled as ever.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.client_library import POINTER, Functions, reach
from tactful_streaming.packed_rows import PackedRows

_FUNCTIONS: Functions = {
    "rd_kafka_topic_new": (POINTER, [POINTER, ctypes.c_char_p, POINTER]),
    "rd_kafka_topic_destroy": (None, [POINTER]),
    "rd_kafka_last_error": (ctypes.c_int, []),
    "rd_kafka_produce_batch": (
        ctypes.c_int,
        [POINTER, ctypes.c_int32, ctypes.c_int, POINTER, ctypes.c_int],
    ),
}
_COPY: Final = 2
"""``RD_KAFKA_MSG_F_COPY``."""
_BY_KEY: Final = -1
"""``RD_KAFKA_PARTITION_UA``."""

Messages = NDArray[np.int64]
"""Structures ``rd_kafka_message_t`` of librdkafka's public header, a row of words each, on machines
with addresses of 64 bits. Their addresses are good as long as the rows that they stand for are
there."""

_WORDS: Final = 9
_ERROR: Final = 0


class MessageBatches:
    """Writes rows through one producer. One thread uses it, that of the producer."""

    def __init__(self, library: Any, handle: int) -> None:
        """Use the handle of a producer; :meth:`of` finds it."""
        self._room: Messages = np.empty((0, _WORDS), np.int64)
        self._library = library
        self._handle = handle

    @classmethod
    def of(cls, producer: Any, module: Any) -> MessageBatches | None:
        """For a `producer` of the client `module`; None where that cannot be had."""
        reached = reach(producer, module, _FUNCTIONS)
        return None if reached is None else cls(*reached)

    def lay_out(self, rows: PackedRows) -> Messages:
        """What stands for rows, to be handed over before the next; an empty key is none."""
        # Here, for it loads numba: who does not write packed rows does without.
        from tactful_streaming import row_kernel

        if len(self._room) < len(rows):
            self._room = np.empty((len(rows), _WORDS), np.int64)
        messages = self._room[: len(rows)]
        row_kernel.lay_out(rows.letters, rows.ends, messages)
        return messages

    def produce(self, topic: str, messages: Messages, partition: int | None) -> Messages:
        """Hand messages to the library, of a producer that is not closed.

        Args:
            topic: where to.
            messages: what to append.
            partition: which one; None: by the key.

        Returns:
            Those that were not taken; :func:`errors_of` says why.
        """
        errors = errors_of(messages)
        errors[:] = 0
        place = self._library.rd_kafka_topic_new(self._handle, topic.encode(), None)
        if place is None:
            errors[:] = self._library.rd_kafka_last_error()
            return messages
        try:
            taken = self._library.rd_kafka_produce_batch(
                place,
                _BY_KEY if partition is None else partition,
                _COPY,
                messages.ctypes.data,
                len(messages),
            )
        finally:
            self._library.rd_kafka_topic_destroy(place)
        return messages[:0] if taken == len(messages) else messages[errors != 0]


def errors_of(messages: Messages) -> NDArray[np.int32]:
    """The client's error code of each, 0 where it was taken."""
    return messages.view(np.int32)[:, _ERROR]
