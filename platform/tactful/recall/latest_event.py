"""Time of the latest event about an item: data that end long ago leave every window empty."""

from __future__ import annotations

import msgspec

from tactful.schemas.interactions import is_interaction
from tactful_streaming.contract.log_entries import Event, Item, time_reached
from tactful_streaming.engine.event_time import EventTime
from tactful_streaming.engine.options import CoCommittedConsumer

NAME = "latest_event"
"""Name among the consumers of the engine."""

_Snapshot = tuple[int, list[int]]


class LatestEvent(CoCommittedConsumer):
    """Keeps the latest time of an event that deals with an item, by the rules of event time.

    The watermark is another time: impressions, which the server logs itself, advance it, too. One
    stray date in a loaded history changes nothing.
    """

    fields = frozenset[str]()

    def __init__(self) -> None:
        """Start without any event."""
        self._time = EventTime(0)

    def at(self) -> int:
        """Return the time of the latest event, epoch milliseconds; 0 while none is known."""
        return self._time.newest

    def apply(self, event: Event, item: Item | None) -> None:
        """Take in the time of an event, if it deals with an item."""
        if is_interaction(event.type):
            self._time.advance(time_reached(event), event.received_at)

    def snapshot(self) -> bytes:
        """Return the time."""
        return msgspec.msgpack.encode((self._time.newest, self._time.ahead))

    def restore(self, state: bytes) -> None:
        """Continue from a snapshot."""
        newest, ahead = msgspec.msgpack.decode(state, type=_Snapshot)
        self._time = EventTime(0)
        self._time.resume(newest, newest, ahead)
