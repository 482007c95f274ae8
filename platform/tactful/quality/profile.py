"""Profile of elements: a bounded summary of each field, of a first and a second half.

::

    ("view", "properties.price") -> first half:  900 of 1,000 have it, numbers, 0.5 to 90
                                    second half: 40 of 1,000 have it, text

Memory is bounded by the number of fields, values and remembered elements, not by their number.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tactful.quality.findings import findings_of
from tactful.schemas.data.quality import FieldQuality, Quality, SourceVolume
from tactful_streaming.contract.log_entries import (
    Entry,
    Event,
    Forwarded,
    Item,
    Restricted,
    User,
    import_of,
)

MOST_VALUES = 200
"""Different values of a field that are counted: beyond, they are not compared."""

_MOST_FIELDS = 1_000
_MOST_REMEMBERED = 1_000_000
_SHOWN = 5
_SHOWN_CHARACTERS = 60
_EVENT_FIELDS = ("user_id", "device_id", "session_id", "item_id", "recommendation_id")
_ITEM_FIELDS = ("title", "category", "price")
_IDS = frozenset({*_EVENT_FIELDS, "title"})  # their values are not compared


@dataclass(slots=True)
class _Half:
    """Values of one field in one half."""

    present: int = 0
    types: Counter[str] = field(default_factory=Counter)
    values: set[Any] | None = field(default_factory=set)  # None: too many
    counts: Counter[Any] = field(default_factory=Counter)
    lowest: float | None = None
    highest: float | None = None

    def add(self, value: Any, *, compares: bool) -> None:
        self.present += 1
        kind = type(value)
        self.types[_TYPES.get(kind, "other")] += 1
        if kind is int or kind is float:
            if self.lowest is None or value < self.lowest:
                self.lowest = value
            if self.highest is None or value > self.highest:
                self.highest = value
        elif kind is list:
            return
        if self.values is not None:
            if compares:
                self.counts[value] += 1
            self.values.add(value)
            if len(self.values) > MOST_VALUES:
                self.values = None
                self.counts.clear()


_TYPES: dict[type, str] = {
    str: "text",
    int: "number",
    float: "number",
    bool: "boolean",
    list: "list",
}


class Profile:
    """Profile that grows with each element."""

    def __init__(self) -> None:
        """Begin empty."""
        self._elements: Counter[tuple[str, bool]] = Counter()
        self._fields: dict[tuple[str, str], tuple[_Half, _Half]] = {}
        self._sources: dict[str, list[int]] = {}
        self._refused: Counter[str] = Counter()
        self._ids: set[bytes] = set()
        self._contents: set[bytes] = set()
        self._duplicates = self._look_alikes = 0
        self._first_at: int | None = None
        self._last_at: int | None = None

    def refuse(self, code: str, count: int = 1) -> None:
        """Count elements that are not accepted."""
        self._refused[code] += count

    def add(self, entry: Entry, *, late: bool) -> None:
        """Add an element of the first half, or, if `late`, of the second."""
        import_id = import_of(entry)
        if isinstance(entry, Restricted | Forwarded):
            entry = entry.event
        if not isinstance(entry, Event | Item | User):
            return
        kind = entry.type if isinstance(entry, Event) else type(entry).__name__.lower()
        self._elements[kind, late] += 1
        at = entry.timestamp
        self._first_at = at if self._first_at is None else min(self._first_at, at)
        self._last_at = at if self._last_at is None else max(self._last_at, at)
        source = f"import {import_id}" if import_id else _sender(entry)
        self._sources.setdefault(source, [0, 0])[late] += 1
        for name, value in _values(entry):
            self._half(kind, name, late).add(value, compares=name not in _IDS)
        if isinstance(entry, Event):
            self._remember(entry)

    def _half(self, kind: str, name: str, late: bool) -> _Half:
        halves = self._fields.get((kind, name))
        if halves is None:
            if len(self._fields) >= _MOST_FIELDS:
                return _Half()  # it is not kept
            halves = self._fields[kind, name] = (_Half(), _Half())
        return halves[late]

    def _remember(self, event: Event) -> None:
        if len(self._ids) >= _MOST_REMEMBERED:
            return
        sender = f"{event.sender}\0{event.device_id}\0{event.user_id}\0{event.event_id}"
        if not self._is_new(self._ids, sender.encode()) and event.event_id:
            self._duplicates += 1
            return
        same = msgspec.structs.replace(
            event, event_id="", received_at=None, sender=None, import_id=msgspec.UNSET
        )
        if event.type != "impression" and not self._is_new(
            self._contents, msgspec.msgpack.encode(same)
        ):
            self._look_alikes += 1

    @staticmethod
    def _is_new(known: set[bytes], content: bytes) -> bool:
        digest = hashlib.blake2b(content, digest_size=12).digest()
        before = len(known)
        known.add(digest)
        return len(known) > before

    def quality(self) -> Quality:
        """Return what was found."""
        fields = [*self._field_qualities()]
        total = self._elements.total()
        # A shop without duplicates has none of these numbers.
        findings = findings_of(
            fields,
            elements=total,
            duplicates=self._duplicates,
            look_alikes=self._look_alikes,
            refused=self._refused.total(),
        )
        return Quality(
            passed=not any(finding.level == "fail" for finding in findings),
            elements=total,
            first_at=self._first_at,
            last_at=self._last_at,
            duplicates=self._duplicates,
            look_alikes=self._look_alikes,
            refused=dict(self._refused.most_common()),
            sources=[
                SourceVolume(source=name, before=before, after=after)
                for name, (before, after) in sorted(self._sources.items())
            ],
            fields=fields,
            findings=findings,
        )

    def _field_qualities(self) -> Iterator[FieldQuality]:
        for (kind, name), (before, after) in sorted(self._fields.items()):
            earlier, later = self._elements[kind, False], self._elements[kind, True]
            share, new = _new_values(before, after)
            values = (before.values, after.values)
            yield FieldQuality(
                of=kind,
                field=name,
                elements=earlier + later,
                missing=_missing(before.present + after.present, earlier + later),
                missing_before=_missing(before.present, earlier),
                missing_after=_missing(after.present, later),
                types=dict((before.types + after.types).most_common()),
                distinct=None if None in values else _distinct(values),
                lowest=_least((before.lowest, after.lowest)),
                highest=_greatest((before.highest, after.highest)),
                new_share=share,
                new_values=new,
            )


def _values(entry: Event | Item | User) -> Iterator[tuple[str, Any]]:
    """Yield the fields of an element that have a value."""
    names = _EVENT_FIELDS if isinstance(entry, Event) else _ITEM_FIELDS
    for name in names if not isinstance(entry, User) else ():
        value = getattr(entry, name)
        if value is not None:
            yield name, value
    for name, value in entry.properties.items():
        if value is not None:
            yield f"properties.{name}", value
    if isinstance(entry, Event):
        for name, scalar in entry.context.items():
            if scalar is not None:
                yield f"context.{name}", scalar


def _sender(entry: Event | Item | User) -> str:
    return (entry.sender or "platform") if isinstance(entry, Event) else "server"


def _missing(present: int, elements: int) -> float:
    return 1 - present / elements if elements else 0.0


def _distinct(values: Iterable[set[Any] | None]) -> int | None:
    union = set[Any]().union(*(known or () for known in values))
    return len(union) if len(union) <= MOST_VALUES else None


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _greatest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _new_values(before: _Half, after: _Half) -> tuple[float | None, list[str]]:
    """Return the share and some of the values that only the second half has."""
    known, counts = before.values, after.counts
    if known is None or after.values is None or not before.present or not counts:
        return None, []
    new = Counter({value: number for value, number in counts.items() if value not in known})
    shown = [str(value)[:_SHOWN_CHARACTERS] for value, _ in new.most_common(_SHOWN)]
    return new.total() / counts.total(), shown
