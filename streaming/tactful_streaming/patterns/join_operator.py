"""Joins events with updates of their items that are near in time.

An event is paired with every update of its item at most ``within`` away, before or after it. Each
side is stored until the watermark is ``within`` past it, so each pair is found once, in any order
of arrival, unless the later side comes too late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from tactful_streaming.arrays import Rows
from tactful_streaming.contract.log_entries import Item
from tactful_streaming.definitions.model import Join
from tactful_streaming.patterns.match import Match, Texts
from tactful_streaming.state.key_layout import unpacked

MAX_PAIRS = 10  # most pairs of a key that can be read
SHARED_KEY = ""  # key of the item updates, which belong to no entity; each partition has a copy
_SWEEP_MS = 60_000
_DAMAGED = "the packed state of a join is damaged"
_encoder = msgspec.msgpack.Encoder()


class _JoinEvent(msgspec.Struct, array_like=True, frozen=True, gc=False):
    timestamp: int
    arrived: int  # watermark at its arrival
    key: str
    item_id: str
    event_id: str
    subject: str | None


class _JoinUpdate(msgspec.Struct, array_like=True, frozen=True, gc=False):
    timestamp: int
    arrived: int
    item_id: str


class _Pair(msgspec.Struct, array_like=True, frozen=True, gc=False, order=True):
    timestamp: int
    item_id: str
    event_id: str


class _PackedKey(msgspec.Struct, array_like=True):
    events: list[_JoinEvent]
    pairs: list[_Pair]


_key_decoder = msgspec.msgpack.Decoder(_PackedKey)
_updates_decoder = msgspec.msgpack.Decoder(list[_JoinUpdate])


class JoinOperator:
    """One join; an :class:`~tactful_streaming.patterns.match.Operator`."""

    def __init__(self, join: Join, *, remembered_ms: int = 30 * 86_400_000) -> None:
        """Create an operator without events; pairs can be read for `remembered_ms`."""
        self.name = join.name
        self.entity = join.entity
        self._types = frozenset(join.events)
        self.sources: tuple[str, ...] = ("event_id", "item_id")
        self.late = self.evicted = 0
        self._within = join.within_ms
        self._remembered_ms = remembered_ms
        self._events: dict[str, list[_JoinEvent]] = {}
        self._updates: dict[str, list[_JoinUpdate]] = {}
        self._items_of: dict[str, set[str]] = {}  # items of the stored events of a key
        self._pairs: dict[str, list[_Pair]] = {}
        self._matches: list[Match] = []
        self._dirty: set[str] = set()
        self._watermark = 0
        self._next_sweep = 0

    def apply(
        self, events: Sequence[Any], keys: Sequence[str | None], watermarks: Rows, texts: Texts
    ) -> None:
        """Apply accepted events in the order of the log; see `Operator`.

        An event too old for any pair is counted in `late`.
        """
        if not len(events):
            return
        # Updates between these events in the log may be applied after them.
        self.advance(self._watermark)
        types, within = self._types, self._within
        for event, key, item_id, subject, watermark in zip(
            events, keys, texts("item_id"), texts("user_id"), watermarks.tolist(), strict=True
        ):
            if event.type not in types or key is None or item_id is None:
                continue
            if event.timestamp + within < watermark:
                self.late += 1
                continue
            joined = _JoinEvent(event.timestamp, watermark, key, item_id, event.event_id, subject)
            for update in self._updates.get(item_id, ()):
                self._try(joined, update)
            self._remember(joined)
        self._watermark = int(watermarks[-1])

    def apply_items(self, items: Sequence[Item], watermarks: Rows) -> None:
        """Apply item updates in the order of the log, with the watermark after each."""
        for item, watermark in zip(items, watermarks.tolist(), strict=True):
            if item.timestamp + self._within < watermark:
                continue
            update = _JoinUpdate(item.timestamp, watermark, item.item_id)
            for event in self._events.get(item.item_id, ()):
                self._try(event, update)
            self._updates.setdefault(item.item_id, []).append(update)
            self._dirty.add(SHARED_KEY)

    def advance(self, watermark: int) -> None:
        """Delete, from time to time, events and updates that can no longer be paired."""
        if watermark < self._next_sweep:
            return
        self._next_sweep = watermark + max(self._within, _SWEEP_MS)
        horizon = watermark - self._within
        items_of: dict[str, set[str]] = {}
        for item_id, events in list(self._events.items()):
            for event in events:
                if event.timestamp < horizon:
                    self._dirty.add(event.key)
                else:
                    items_of.setdefault(event.key, set()).add(item_id)
            self._events[item_id] = [event for event in events if event.timestamp >= horizon]
            if not self._events[item_id]:
                del self._events[item_id]
        self._items_of = items_of
        for item_id, updates in list(self._updates.items()):
            left = [update for update in updates if update.timestamp >= horizon]
            if len(left) < len(updates):
                self._dirty.add(SHARED_KEY)
                self._updates[item_id] = left
                if not left:
                    del self._updates[item_id]
        oldest = watermark - self._remembered_ms
        for key, pairs in list(self._pairs.items()):
            if pairs[0].timestamp <= oldest:
                del self._pairs[key]
                self._dirty.add(key)

    def next_timer(self) -> int | None:
        """Return None: a pair is complete when its later side comes."""
        return None

    def take(self) -> list[Match]:
        """Return the pairs found since the last call."""
        matches, self._matches = self._matches, []
        return matches

    def read(self, key: str, at: int) -> list[tuple[str, int]]:
        """Return the items of the newest paired events of `key`, with the events' times."""
        return [
            (pair.item_id, pair.timestamp)
            for pair in self._pairs.get(key, ())
            if at - pair.timestamp < self._remembered_ms
        ]

    def pack_changes(self) -> dict[str, bytes | None]:
        """Return packed state of keys changed since the last call; None if none is left."""
        dirty, self._dirty = self._dirty, set()
        packed: dict[str, bytes | None] = {}
        for key in dirty:
            if key == SHARED_KEY:
                updates = [update for of_item in self._updates.values() for update in of_item]
                packed[key] = _encoder.encode(updates) if updates else None
            else:
                packed[key] = _pack_key(self._events_of(key), self._pairs.get(key, []))
        return packed

    def unpack(self, key: str, blob: bytes) -> None:
        """Restore the state of a key that :meth:`pack_changes` returned; else StateError."""
        problem = f"the packed state of {self.name} is damaged"
        if key == SHARED_KEY:
            for update in unpacked(_updates_decoder, blob, problem):
                self._updates.setdefault(update.item_id, []).append(update)
            return
        state = unpacked(_key_decoder, blob, problem)
        for event in state.events:
            self._remember(event)
        if state.pairs:
            self._pairs[key] = state.pairs

    def merge(self, source_key: str, target_key: str) -> None:
        """Move the state of one key to another: both are the same entity."""
        for event in self._take_events(source_key):
            self._remember(msgspec.structs.replace(event, key=target_key))
        for pair in self._pairs.pop(source_key, []):
            self._keep(target_key, pair)
        self._dirty |= {source_key, target_key}

    def detach(self, key: str) -> bytes | None:
        """Remove the state of a key and return it packed; None without any."""
        self._dirty.add(key)
        return _pack_key(self._take_events(key), self._pairs.pop(key, []))

    def _try(self, event: _JoinEvent, update: _JoinUpdate) -> None:
        """Pair an event and an update if they are near and neither had expired by then."""
        start, end = sorted((event.timestamp, update.timestamp))
        if end - start > self._within or start + self._within < max(event.arrived, update.arrived):
            return
        self._matches.append(
            Match(
                name=self.name,
                entity=self.entity,
                key=event.key,
                same=event.item_id,
                start=start,
                end=end,
                decided=end,
                events=(event.event_id,),
                subject=event.subject,
                item_timestamp=update.timestamp,
            )
        )
        self._keep(event.key, _Pair(event.timestamp, event.item_id, event.event_id))

    def _keep(self, key: str, pair: _Pair) -> None:
        pairs = self._pairs.setdefault(key, [])
        if pair not in pairs:
            pairs.append(pair)
            pairs.sort(reverse=True)
            del pairs[MAX_PAIRS:]
        self._dirty.add(key)

    def _remember(self, event: _JoinEvent) -> None:
        self._events.setdefault(event.item_id, []).append(event)
        self._items_of.setdefault(event.key, set()).add(event.item_id)
        self._dirty.add(event.key)

    def _events_of(self, key: str) -> list[_JoinEvent]:
        return [
            event
            for item_id in sorted(self._items_of.get(key, ()))
            for event in self._events.get(item_id, ())
            if event.key == key
        ]

    def _take_events(self, key: str) -> list[_JoinEvent]:
        """Remove and return the events of a key."""
        events = self._events_of(key)
        for item_id in self._items_of.pop(key, ()):
            self._events[item_id] = [e for e in self._events[item_id] if e.key != key]
        return events


def _pack_key(events: list[_JoinEvent], pairs: list[_Pair]) -> bytes | None:
    return _encoder.encode(_PackedKey(events, pairs)) if events or pairs else None


def without(blob: bytes, drops: Callable[[Iterable[str], str | None], bool]) -> bytes | None:
    """Return the packed state of a key without some events; `blob` itself if all stay.

    `drops` decides by the id of an event and its user, if known. None if nothing is left. `blob` is
    of any key but :data:`SHARED_KEY`.
    """
    state = unpacked(_key_decoder, blob, _DAMAGED)
    events = [event for event in state.events if not drops((event.event_id,), event.subject)]
    dropped = {event.event_id for event in state.events} - {event.event_id for event in events}
    pairs = [
        pair
        for pair in state.pairs
        if not (pair.event_id in dropped or drops((pair.event_id,), None))
    ]
    return blob if (events, pairs) == (state.events, state.pairs) else _pack_key(events, pairs)


def causes_in(blob: bytes) -> Iterator[tuple[str, str]]:
    """Yield the ids of events in a packed key, each with its user, where known."""
    for event in unpacked(_key_decoder, blob, _DAMAGED).events:
        if event.subject is not None:
            yield event.event_id, event.subject
