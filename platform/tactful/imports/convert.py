"""Turns rows into elements of the contract, as lines of JSON.

An event without an id gets one from its content and its place in the file: the same row makes the
same event in every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tactful.imports.cells import SKIPPED, CellReader, Problems, reader_of
from tactful.imports.formats.rows import LOCAL_MS, UTC_MS, Column, RejectedRow, Rows
from tactful.imports.moments import MomentReader
from tactful.imports.options import FIELDS, zone_of
from tactful.imports.plan import Mapped, Plan

_MOST_REMEMBERED = 200_000  # items or users whose last description is remembered

_encode = msgspec.json.Encoder().encode


@dataclass
class Converted:
    """Elements made of some rows.

    Attributes:
        lines: elements as JSON.
        numbers: row of each element.
        times: time of each event; 0 of others.
        rejected: rows that are no elements.
        skipped: number of rows that the plan skips.
        repeated: number of descriptions equal to the one before of the same item or user.
    """

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    skipped: int = 0
    repeated: int = 0


class Converter:
    """Converts rows of one file by a plan."""

    def __init__(
        self,
        plan: Plan,
        columns: Sequence[str],
        types: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        """Prepare for rows with these columns; `types` are those of `Reader.types`.

        `folder` may hold the pictures that cells name.

        Raises:
            ConfigError: if the time zone of the plan is unknown.
        """
        self._plan = plan
        zone = zone_of(plan.time_zone)
        places = {name: place for place, name in enumerate(columns) if name}
        self._fields = [
            (
                mapped.target,
                [places[name] for name in mapped.columns],
                _reader(mapped, plan, types, zone, folder),
            )
            for mapped in plan.fields
        ]
        self._guest = None if plan.guest is None else places[plan.guest]
        self._guest_reader = (
            None
            if plan.guest is None
            else reader_of(Mapped(target="device_id", columns=(plan.guest,), read="id"), plan, zone)
        )
        self._seen: dict[str, int] = {}

    def __call__(self, rows: Rows) -> Converted:
        """Convert rows; those that are no elements are rejected with a reason."""
        count = len(rows.numbers)
        found = Converted(rejected=[*rows.rejected])
        values: dict[str, list[Any]] = {}
        problems: Problems = {}
        for target, places, reader in self._fields:
            column = _joined([rows.columns[place] for place in places])
            values[target], wrong = reader(column)
            problems = wrong | problems
        for target, constant in self._plan.constants.items():
            values[target] = [constant] * count
        if self._plan.kind == "events":
            self._complete_events(rows, values)
        values = {target: values[target] for target in sorted(values, key=self._order)}
        self._require(values, count, problems)
        types = values.get("type") or [None] * count
        skipped = {place for place, type_ in enumerate(types) if type_ == SKIPPED}
        problems = {place: it for place, it in problems.items() if place not in skipped}
        found.rejected += [
            RejectedRow(rows.numbers[place], code, message)
            for place, (code, message) in sorted(problems.items())
        ]
        found.skipped = len(skipped)
        kept: Sequence[int] = range(count)
        if problems or skipped:
            kept = [p for p in kept if p not in problems and p not in skipped]
            values = {name: [column[p] for p in kept] for name, column in values.items()}
        numbers = [rows.numbers[place] for place in kept]
        if self._plan.kind == "events":
            self._events(found, values, numbers)
        else:
            self._descriptions(found, values, numbers)
        return found

    def _order(self, target: str) -> tuple[int, str]:
        """Return the place of a field, the same whatever column it comes from."""
        fields = FIELDS[self._plan.kind]
        return (fields.index(target), "") if target in fields else (len(fields), target)

    def _complete_events(self, rows: Rows, values: dict[str, list[Any]]) -> None:
        """Fill in guests, and make purchases of a negative quantity returns."""
        if self._guest is not None and self._guest_reader is not None:
            guests, _ = self._guest_reader(rows.columns[self._guest])
            users = values.get("user_id")
            values["device_id"] = (
                guests
                if users is None
                else [
                    guest if user is None else None
                    for user, guest in zip(users, guests, strict=True)
                ]
            )
        quantities = values.get("properties.quantity")
        if self._plan.returns and quantities is not None:
            negative = [quantity is not None and quantity < 0 for quantity in quantities]
            if any(negative):
                values["type"] = [
                    "return" if returned else type_
                    for returned, type_ in zip(negative, values["type"], strict=True)
                ]
                values["properties.quantity"] = [
                    None if quantity is None else abs(quantity) for quantity in quantities
                ]

    def _require(self, values: Mapping[str, list[Any]], count: int, problems: Problems) -> None:
        """Note the rows that lack what every element needs."""
        for name in _REQUIRED[self._plan.kind]:
            for place, value in enumerate(values[name]):
                if value is None:
                    problems.setdefault(place, ("missing_field", f"the row has no {name}"))
        if self._plan.kind == "events":
            nobody = [None] * count
            users = values.get("user_id", nobody), values.get("device_id", nobody)
            for place, (user, device) in enumerate(zip(*users, strict=True)):
                if user is None and device is None:
                    problems.setdefault(place, ("no_subject", "the row has no user"))

    def _events(
        self, found: Converted, values: Mapping[str, list[Any]], numbers: list[int]
    ) -> None:
        found.times = values["timestamp"] if numbers else []
        found.numbers = numbers
        places = _places(numbers)
        append, blake = found.lines.append, hashlib.blake2b
        for place, element in zip(places, _elements(values), strict=True):
            body = _encode(element)
            if "event_id" not in element:
                identity = blake(b"%b:%b" % (place, body), digest_size=16).hexdigest()
                body = b'{"event_id":"%b",%b' % (identity.encode(), body[1:])
            append(body)

    def _descriptions(
        self, found: Converted, values: Mapping[str, list[Any]], numbers: list[int]
    ) -> None:
        """Leave out descriptions that were sent just before, as rows of sales repeat them."""
        name = "item_id" if self._plan.kind == "items" else "user_id"
        for number, element in zip(numbers, _elements(values), strict=True):
            body = _encode(element)
            identity, mark = element[name], hash(body)
            if self._seen.get(identity) == mark:
                found.repeated += 1
                continue
            if identity in self._seen or len(self._seen) < _MOST_REMEMBERED:
                self._seen[identity] = mark
            found.lines.append(body)
            found.numbers.append(number)
        found.times = [0] * len(found.numbers)


_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "events": ("type", "timestamp"),
    "items": ("item_id",),
    "users": ("user_id",),
}


def _reader(
    mapped: Mapped, plan: Plan, types: Mapping[str, str], zone: Any, folder: Path | None
) -> Callable[[Column], tuple[list[Any], Problems]]:
    """Return the reader of a field; times in milliseconds need none but their zone."""
    type_ = types.get(mapped.columns[0])
    if mapped.read != "moment" or type_ not in (LOCAL_MS, UTC_MS) or mapped.moment is None:
        return reader_of(mapped, plan, zone, folder)
    if type_ == UTC_MS:
        return lambda column: ([*column], {})
    return CellReader(MomentReader(mapped.moment, zone).to_utc, "bad_timestamp", mapped.columns[0])


def _joined(columns: list[Column]) -> Column:
    """Join date and time of day."""
    if len(columns) == 1:
        return columns[0]
    date, clock = columns
    return [
        f"{day} {time}".strip() if day not in (None, "") else None
        for day, time in zip(date, ("" if time is None else time for time in clock), strict=True)
    ]


def _elements(values: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield an element for each row, without the fields that are empty."""
    names = [name for name in values if "." not in name]
    groups: dict[str, list[str]] = {}
    for name in values:
        head, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(head, []).append(rest)
    inner = [
        zip(*(values[f"{head}.{rest}"] for rest in rests), strict=True)
        for head, rests in groups.items()
    ]
    for row in zip(*(values[name] for name in names), strict=True):
        element = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for (head, rests), cells in zip(groups.items(), inner, strict=True):
            members = {
                name: value
                for name, value in zip(rests, next(cells), strict=True)
                if value is not None
            }
            if members:
                element[head] = members
        yield element


def _places(numbers: Sequence[int]) -> Iterable[bytes]:
    """Name the place of each event: its row, and its number among those of the row."""
    if len({*numbers}) == len(numbers):
        return (b"%d" % number for number in numbers)
    places, last, inner = [], 0, 0
    for number in numbers:
        inner = inner + 1 if number == last else 0
        last = number
        places.append(b"%d.%d" % (number, inner) if inner else b"%d" % number)
    return places
