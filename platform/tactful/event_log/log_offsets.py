"""Read offsets of a topic, stored in the engine's state with what was computed from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from tactful.schemas.positions import Offsets
from tactful_streaming.contract.log_entries import Event, Item
from tactful_streaming.engine.options import CoCommittedConsumer

LOG_OFFSETS: Final = "places"
"""Name of the consumer in the engine of a server."""


class LogOffsets(CoCommittedConsumer):
    """Co-committed consumer that stores the read offset of each partition of a topic."""

    def __init__(self, topic: str) -> None:
        """Begin at the start of `topic`."""
        self.topic = topic  # after a restore, the stored one
        self.offsets: Callable[[], Offsets] = dict  # next offset to read, by partition

    def apply(self, event: Event, item: Item | None) -> None:
        """Ignore events."""

    def snapshot(self) -> bytes:
        """Encode the offsets of the records that the engine has applied."""
        return msgspec.msgpack.encode((self.topic, dict(self.offsets())))

    def restore(self, state: bytes) -> None:
        """Restore stored offsets."""
        self.topic, offsets = msgspec.msgpack.decode(state, type=tuple[str, dict[int, int]])
        self.offsets = offsets.copy
