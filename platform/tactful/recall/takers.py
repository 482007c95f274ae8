"""Count the people who took each item, up to the minimum of anonymous recommendations.

A co-committed consumer of the engine, like `tactful.rerank.frequency_caps`: it gets the events of
all servers in the order of the log, and depends on no definition of features. It writes its state
when a twentieth has changed: people who are lost in a crash are missing until they take the item
again, and an item is hidden rather than shown too early.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Protocol

import msgspec

from tactful.schemas.interactions import is_interaction
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Event, Item, time_reached
from tactful_streaming.engine.options import CoCommittedConsumer

NAME = "takers"
"""Name among the consumers of the engine."""

DAYS = 84
"""Time in which people are counted, as the longest window of sales."""

_HOUR_MS = 3_600_000
_DAY = 24
_HOURS = _DAY * DAYS
_BITS = 32
_PERSON = (1 << _BITS) - 1
_UNWRITTEN_SHARE = 20


class TakenByMany(Protocol):
    """Source of the items that enough people took."""

    def common(self, at: int) -> Sequence[str]:
        """Return the items that enough people took in the 84 days before `at` (epoch ms)."""


class Takers(CoCommittedConsumer):
    """The last people who took each item, by a hash of their history's key.

    ```text
    "tea" → [(hour 480000, person 0x9f…), (hour 479988, person 0x03…)], newest first, as uint64
    ```

    Of each item it keeps as many people as the minimum, by the last time of each: enough for an
    answer that is exact to a day, since a person who falls out was followed by as many others.
    """

    fields = frozenset({"item_id"})

    def __init__(self, least: int) -> None:
        """Start empty; `least` people make an item common."""
        self._least = least
        self._people: dict[str, bytes] = {}
        self._until: dict[str, int] = {}  # hour until which an item is common
        self._newest = 0
        self._changed = 0
        self._writes = False

    def common(self, at: int) -> Sequence[str]:
        """Return the items that enough people took in the 84 days before `at` (epoch ms).

        Another thread may count meanwhile.
        """
        hour = at // _HOUR_MS
        return [item for item, until in list(self._until.items()) if until > hour]

    def apply(self, event: Event, item: Item | None) -> None:
        """Ignore an event of no history."""

    def observe(self, history: str | None, event: Event, item: Item | None) -> None:
        """Count the person of an event that deals with an item."""
        taken = event.item_id
        if history is None or taken is None or not is_interaction(event.type):
            return
        hour, device = time_reached(event) // _HOUR_MS, event.device_id
        named_once = device is None or history.startswith(DEVICE_PREFIX)
        if named_once and hour + _HOURS - self._until.get(taken, 0) < _DAY:
            return  # most takes are of popular items, whose people need no update each time
        person = _person(history)
        # Someone who logged in counts once, also for what the device took before.
        same = {person, person if device is None else _person(DEVICE_PREFIX + device)}
        people, latest = [], hour << _BITS | person
        for entry in array("Q", self._people.get(taken, b"")):
            if entry & _PERSON in same:
                latest = max(latest, entry & ~_PERSON | person)
            else:
                people.append(entry)
        people = sorted([*people, latest], reverse=True)[: self._least]
        self._keep(taken, array("Q", people))
        self._newest = max(self._newest, hour)
        self._changed += 1

    def delete_users(self, keys: Collection[str]) -> None:
        """Delete users, by the keys of their histories."""
        kept = _without(self._people, keys)
        for item, packed in [*self._people.items()]:
            if kept.get(item) != packed:
                self._keep(item, array("Q", kept.get(item, b"")))

    def before_commit(self) -> None:
        """Decide on a write: when enough has changed since the last; drop items of old times."""
        self._writes = self._changed * _UNWRITTEN_SHARE > len(self._people)
        if self._writes:
            self._changed = 0
            for item, packed in [*self._people.items()]:
                if array("Q", packed[:8])[0] >> _BITS <= self._newest - _HOURS:
                    self._keep(item, array("Q"))

    def snapshot(self) -> bytes | None:
        """Return the people; None where `before_commit` decided against a write."""
        return msgspec.msgpack.encode(self._people) if self._writes else None

    def restore(self, state: bytes) -> None:
        """Continue from a snapshot, perhaps one with another minimum."""
        self._people, self._until, self._changed = {}, {}, 0
        for item, packed in _decode(state).items():
            people = array("Q", packed)[: self._least]
            self._keep(item, people)
            self._newest = max(self._newest, people[0] >> _BITS)

    def _keep(self, item: str, people: array[int]) -> None:
        if people:
            self._people[item] = people.tobytes()
        else:
            self._people.pop(item, None)
        if len(people) == self._least:
            self._until[item] = (people[-1] >> _BITS) + _HOURS
        else:
            self._until.pop(item, None)


def without_takers(state: bytes, people: Collection[str]) -> bytes:
    """Remove users, by the keys of their histories, from a snapshot of `Takers`."""
    return msgspec.msgpack.encode(_without(_decode(state), people))


def _decode(state: bytes) -> dict[str, bytes]:
    return msgspec.msgpack.decode(state, type=dict[str, bytes])


def _without(people: dict[str, bytes], keys: Collection[str]) -> dict[str, bytes]:
    gone, kept = {_person(key) for key in keys}, dict[str, bytes]()
    for item, packed in people.items():
        if left := [entry for entry in array("Q", packed) if entry & _PERSON not in gone]:
            kept[item] = array("Q", left).tobytes()
    return kept


def _person(history: str) -> int:
    """Return 32 bits of a key; two people with the same count as one, so as too few."""
    return int.from_bytes(blake2b(history.encode(), digest_size=_BITS // 8).digest())
