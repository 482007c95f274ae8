"""Count how often each item was shown to a user today, from the recommendations in the log.

A co-committed consumer of the engine gets the recommendations of all servers in the order of the
log, and is restored with the engine's state. It writes its state when a twentieth of it has
changed, so a crash may lose a twentieth of the day's counts: a cap then holds a little late. A
recommendation counts once the engine has applied it, some milliseconds after it was served;
requests in between do not see it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.event_log.impressions import is_served
from tactful.rerank.placement_rules import ANY, PlacementRule
from tactful_streaming.contract.log_entries import Event, Item, subject_key
from tactful_streaming.engine.options import CoCommittedConsumer

DAY_MS = 86_400_000

_MOST_COUNTS = 2_000_000
_UNWRITTEN_SHARE = 20
_Stored = list[tuple[str, tuple[int, dict[str, int]]]]


class Shown(Protocol):
    """Source of how often each item was shown to a user today."""

    def of(self, subject: str | None, at: int) -> Mapping[str, int]:
        """Return how often each item was shown to a user on the UTC day of `at` (epoch ms)."""


class ShownToday(CoCommittedConsumer):
    """Counts of shown items by user, of the newest UTC day of each.

    ```text
    "user:ada" → (day 20000, {"item-1": 2, "item-7": 1}); least recently shown user first
    ```
    """

    def __init__(self, *, most: int = _MOST_COUNTS) -> None:
        """Start empty.

        With more than `most` counts, one for each user and item, the user who was shown nothing for
        the longest time is dropped.
        """
        self._most = most
        self._held = 0
        self._changed = 0
        self._writes = False
        self._people: OrderedDict[str, tuple[int, dict[str, int]]] = OrderedDict()

    def of(self, subject: str | None, at: int) -> Mapping[str, int]:
        """Return how often each item was shown to a user on the UTC day of `at` (epoch ms)."""
        if subject is None:
            return {}
        day, counts = self._people.get(subject, (-1, {}))
        return counts if day == at // DAY_MS else {}

    def apply(self, event: Event, item: Item | None) -> None:
        """Count a recommendation; ignore other events."""
        items, subject = event.properties.get("items"), subject_key(event)
        if not is_served(event) or subject is None or not isinstance(items, list):
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
            _, (_, dropped) = self._people.popitem(last=False)
            self._held -= len(dropped)

    def delete_users(self, keys: Collection[str]) -> None:
        """Delete the counts of some users, by the keys of their histories."""
        for subject in keys:
            _, counts = self._people.pop(subject, (-1, {}))
            self._held -= len(counts)

    def before_commit(self) -> None:
        """Decide on a write: when enough counts have changed since the last; drop old days."""
        self._writes = self._changed * _UNWRITTEN_SHARE > self._held
        if self._writes:
            self._changed = 0
            newest = max((day for day, _ in self._people.values()), default=0)
            for subject in [key for key, (day, _) in self._people.items() if day < newest - 1]:
                self._held -= len(self._people.pop(subject)[1])

    def snapshot(self) -> bytes | None:
        """Return the counts; None where `before_commit` decided against a write."""
        return msgspec.msgpack.encode([*self._people.items()]) if self._writes else None

    def restore(self, state: bytes) -> None:
        """Continue from a snapshot."""
        self._people = OrderedDict(msgspec.msgpack.decode(state, type=_Stored))
        self._held = sum(len(counts) for _, counts in self._people.values())
        self._changed = 0


def without_people(state: bytes, people: Collection[str]) -> bytes:
    """Remove users, by the keys of their histories, from a snapshot of `ShownToday`."""
    held = msgspec.msgpack.decode(state, type=_Stored)
    return msgspec.msgpack.encode([(key, counts) for key, counts in held if key not in people])


def exhausted(
    rules: Sequence[PlacementRule], shown: Mapping[str, int], catalogue: Catalogue
) -> NDArray[np.int64]:
    """Return the rows that a user has been shown as often as the rules allow for a day."""
    if not shown or not any(rule.per_day for rule in rules):
        return np.zeros(0, np.int64)
    shown = dict(shown)  # another thread may count meanwhile
    found = [-1 if row is None else row for row in catalogue.rows.of_many(shown)]
    rows, counts = np.array(found, np.int64), np.array([*shown.values()], np.int64)
    rows, counts = rows[rows >= 0], counts[rows >= 0]
    capped = [np.zeros(0, np.int64)]
    for rule in rules:
        if rule.per_day is None:
            continue
        if rule.item is not None:
            capped.append(rows[counts >= rule.per_day])
        elif rule.campaign is not None:
            campaign = catalogue.campaign[catalogue.in_campaign]
            inside, every = catalogue.campaign[rows] >= 0, campaign >= 0
            if rule.campaign != ANY:
                number = catalogue.campaign_numbers.get(rule.campaign, -2)
                inside, every = catalogue.campaign[rows] == number, campaign == number
            if counts[inside].sum() >= rule.per_day:
                capped.append(catalogue.in_campaign[every])
    return np.unique(np.concatenate(capped))
