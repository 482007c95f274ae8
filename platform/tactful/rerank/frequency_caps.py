"""How often a person was shown an item today, counted from the lists in the log.

A passenger of the feature engine: it sees every list that any server logged, in the order of the
log, and comes back with the engine's state. It writes that state when a twentieth of it has
changed, so a crash may forget a twentieth of the day's counts: a cap is then kept a little late. A
list counts once the engine has applied it, some milliseconds after it was given; what is asked for
meanwhile does not know of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.rerank.placement_rules import ANY, PlacementRule
from tactful_streaming.contract.log_entries import Event, Item, subject_key
from tactful_streaming.engine.consumers import CoCommittedConsumer

DAY_MS = 86_400_000

_MOST_COUNTS = 2_000_000
_UNWRITTEN_SHARE = 20


class Shown(Protocol):
    """Who knows how often a person was shown an item today."""

    def of(self, subject: str | None, at: int) -> Mapping[str, int]:
        """How often each item was shown to a person on the UTC day of `at` (epoch ms)."""


class ShownToday(CoCommittedConsumer):
    """Counts of shown items by person, of the newest UTC day of each."""

    def __init__(self, *, most: int = _MOST_COUNTS) -> None:
        """Start empty.

        Args:
            most: counts to hold, one for each person and item. Beyond, whoever was shown nothing
                for the longest time is forgotten.
        """
        self._most = most
        self._held = 0
        self._changed = 0
        self._people: OrderedDict[str, tuple[int, dict[str, int]]] = OrderedDict()

    def of(self, subject: str | None, at: int) -> Mapping[str, int]:
        """How often each item was shown to a person on the UTC day of `at` (epoch ms)."""
        if subject is None:
            return {}
        day, counts = self._people.get(subject, (-1, {}))
        return counts if day == at // DAY_MS else {}

    def apply(self, event: Event, item: Item | None) -> None:
        """Count a list; other events are none of its business."""
        items = event.properties.get("items")
        if event.type != "impression" or not isinstance(items, list):
            return
        subject = subject_key(event)
        # The server's own lists: an event that a page sends says nothing of what was given.
        if subject is None or event.event_id != f"impression:{event.recommendation_id}":
            return
        today = event.timestamp // DAY_MS
        day, counts = self._people.get(subject, (-1, {}))
        if today < day:
            return
        if today > day:
            self._held -= len(counts)
            counts = {}
        for shown in items:
            if isinstance(shown, str):
                self._held += shown not in counts
                counts[shown] = counts.get(shown, 0) + 1
                self._changed += 1
        self._people[subject] = (today, counts)
        self._people.move_to_end(subject)
        while self._held > self._most:
            _, (_, forgotten) = self._people.popitem(last=False)
            self._held -= len(forgotten)

    def delete_users(self, keys: Collection[str]) -> None:
        """Know nothing of what was shown to some people, by the keys of their histories."""
        for subject in keys:
            _, counts = self._people.pop(subject, (-1, {}))
            self._held -= len(counts)

    def snapshot(self) -> bytes | None:
        """The counts, when enough of them have changed since the last time."""
        if self._changed * _UNWRITTEN_SHARE <= self._held or not self._changed:
            return None
        newest = max((day for day, _ in self._people.values()), default=0)
        for subject in [who for who, (day, _) in self._people.items() if day < newest - 1]:
            self._held -= len(self._people.pop(subject)[1])
        self._changed = 0
        return msgspec.msgpack.encode(list(self._people.items()))

    def restore(self, state: bytes) -> None:
        """Continue from a snapshot."""
        kind = list[tuple[str, tuple[int, dict[str, int]]]]
        self._people = OrderedDict(msgspec.msgpack.decode(state, type=kind))
        self._held = sum(len(counts) for _, counts in self._people.values())
        self._changed = 0


def without_people(state: bytes, people: Collection[str]) -> bytes:
    """A snapshot of `ShownToday` as if nothing had been shown to some people.

    Args:
        state: the snapshot.
        people: keys of their histories.
    """
    kind = list[tuple[str, tuple[int, dict[str, int]]]]
    held = msgspec.msgpack.decode(state, type=kind)
    return msgspec.msgpack.encode([(who, counts) for who, counts in held if who not in people])


def exhausted(
    rules: Sequence[PlacementRule], shown: Mapping[str, int], catalogue: Catalogue
) -> NDArray[np.int64]:
    """Rows that a person has been shown as often as the rules allow for a day.

    Args:
        rules: placement rules; those without `per_day` do not matter.
        shown: how often each item was shown.
        catalogue: the items.
    """
    if not shown or not any(rule.per_day for rule in rules):
        return np.zeros(0, np.int64)
    known = [
        (row, times)
        for item, times in shown.items()
        if (row := catalogue.rows.get(item)) is not None
    ]
    rows = np.array([row for row, _ in known], np.int64)
    counts = np.array([times for _, times in known], np.int64)
    found = [np.zeros(0, np.int64)]
    for rule in rules:
        if rule.per_day is None:
            continue
        if rule.item is not None:
            found.append(rows[counts >= rule.per_day])
        elif rule.campaign is not None:
            campaign = catalogue.campaign[catalogue.in_campaign]
            inside, every = catalogue.campaign[rows] >= 0, campaign >= 0
            if rule.campaign != ANY:
                number = catalogue.campaign_numbers.get(rule.campaign, -2)
                inside, every = catalogue.campaign[rows] == number, campaign == number
            if counts[inside].sum() >= rule.per_day:
                found.append(catalogue.in_campaign[every])
    return np.unique(np.concatenate(found))
