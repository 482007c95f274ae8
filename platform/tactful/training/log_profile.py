"""Profile of a log: the properties of its events and items, and counts of their values.

A profile holds at most five thousand distinct values of each property.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tactful.event_log.batches import decoded, read_batches
from tactful.event_log.impressions import is_served
from tactful_streaming.contract.log_entries import (
    PERSONALISATION,
    Event,
    Item,
    Property,
    event_for,
)
from tactful_streaming.log.event_log import EventLog

Progress = Callable[[int, int], None]
"""Called with how much of the log is read, and how much there is."""

MOST_VALUES = 5_000
"""Distinct values that are told apart; more count as many."""

_CHUNK = 2_048
_GREATEST = 1e30  # greater numbers are none that anybody could average
_MOST_PROPERTIES = 512
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]{2,}")
_PHONE = re.compile(r"(?:\+|00?)[1-9][\d\s()./-]{6,20}\d")
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)?")


@dataclass
class PropertyProfile:
    """Counts of the values of a property."""

    present: int = 0
    numbers: int = 0
    whole: int = 0
    texts: int = 0
    flags: int = 0  # true or false
    others: int = 0  # lists
    emails: int = 0
    phones: int = 0
    written_numbers: int = 0  # numbers as texts
    characters: int = 0  # of all texts
    least: float = float("inf")
    greatest: float = float("-inf")
    values: Counter[str | float] = field(default_factory=Counter)  # at most `MOST_VALUES`
    within: int = 0  # values until as many distinct ones had come

    def add(self, value: Property) -> None:
        """Count a value; None counts as missing."""
        if value is None:
            return
        self.present += 1
        if isinstance(value, bool):
            self.flags += 1
        elif isinstance(value, int | float) and abs(value) < _GREATEST:
            self.numbers += 1
            self.whole += isinstance(value, int) or value.is_integer()
            self.least, self.greatest = min(self.least, value), max(self.greatest, value)
        elif isinstance(value, str):
            self.texts += 1
            self.characters += len(value)
            self.emails += _EMAIL.search(value[:200]) is not None
            self.phones += _PHONE.fullmatch(value[:40]) is not None
            self.written_numbers += _NUMBER.fullmatch(value[:40]) is not None
        else:
            self.others += 1
            return
        if len(self.values) < MOST_VALUES or value in self.values:
            self.values[value] += 1
            self.within += len(self.values) < MOST_VALUES

    @property
    def distinct(self) -> int:
        """Number of distinct values, at most `MOST_VALUES`."""
        return len(self.values)

    @property
    def unique_share(self) -> float:
        """Distinct values among those that could be told apart, as a share."""
        return len(self.values) / max(self.within, 1)

    @property
    def commonest_share(self) -> float:
        """Share of the commonest value."""
        return max(self.values.values(), default=0) / max(self.present, 1)


@dataclass
class Kind:
    """Profile of the events of one type, or of the items."""

    count: int = 0
    with_item: int = 0  # events about an item
    properties: dict[str, PropertyProfile] = field(default_factory=dict)

    def add(self, properties: dict[str, Property]) -> None:
        """Count an event or item with its properties."""
        self.count += 1
        for name, value in properties.items():
            profile = self.properties.get(name)
            if profile is None:
                if len(self.properties) >= _MOST_PROPERTIES:
                    continue
                profile = self.properties[name] = PropertyProfile()
            profile.add(value)


@dataclass(frozen=True)
class LogProfile:
    """Profile of a log."""

    events: dict[str, Kind]  # by type
    items: Kind


def profile_log(log: EventLog, progress: Progress = lambda done, total: None) -> LogProfile:
    """Read a log once; of an item that came more than once each description counts.

    Impressions of the server and events that must not be used for personalisation are left out.
    """
    profile = LogProfile({}, Kind())
    begin, end = log.begin, log.end
    for records in read_batches(log, begin, end, size=_CHUNK):
        for _, entry in decoded(records):
            if isinstance(entry, Item):
                profile.items.add(entry.properties)
                continue
            event = event_for(entry, PERSONALISATION)
            if event is not None and not is_served(event):
                _add_event(profile, event)
        progress(records[-1][0] + 1 - begin, end - begin)
    return profile


def _add_event(profile: LogProfile, event: Event) -> None:
    kind = profile.events.setdefault(event.type, Kind())
    kind.with_item += event.item_id is not None
    kind.add(event.properties)
