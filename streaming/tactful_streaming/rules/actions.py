"""Changes of normalising rules, compiled to functions from event to event."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from tactful_streaming.contract.log_entries import LATEST_TIMESTAMP, Event, Property
from tactful_streaming.rules.fields import EVENT_TEXTS, reader, received_at, write
from tactful_streaming.rules.model import FieldChange

Apply = Callable[[Event, int | None], Event]
"""From an event and its time of receipt to the changed event, or the same object."""

_MAX_TEXT = 2048
_MAX_ID = 256


def compile_changes(changes: Sequence[FieldChange]) -> Apply:
    """Compile `changes` to a function, which returns the same object without a change."""
    applies: list[Apply] = []
    for (field, special), group in groupby(
        changes, key=lambda c: (c.field, c.operation in _SPECIAL)
    ):
        if special:
            applies += [_SPECIAL[change.operation](field, change.operand) for change in group]
        else:
            applies.append(_on_value(field, [_value_change(c.operation, c.operand) for c in group]))
    if len(applies) == 1:
        return applies[0]

    def apply(event: Event, received: int | None) -> Event:
        for change in applies:
            event = change(event, received)
        return event

    return apply


def _on_value(field: str, steps: Sequence[Callable[[Property], Property]]) -> Apply:
    """Change one field step by step; a result that is not valid in it changes nothing."""
    read = reader(field)
    most = _MAX_ID if field in EVENT_TEXTS or field == "properties.category" else _MAX_TEXT

    def apply(event: Event, received: int | None) -> Event:
        new = old = read(event, None, received)
        for step in steps:
            new = step(new)
        kind = type(new)
        if new is old or (new == old and kind is type(old)):
            return event
        if kind is str:
            new = new[:most] or None  # type: ignore[index]
        elif kind is float and not math.isfinite(new):  # type: ignore[arg-type]
            return event
        if field == "timestamp" and not _is_timestamp(new):
            return event
        return write(event, field, new)

    return apply


def _value_change(operation: str, operand: Any) -> Callable[[Property], Property]:
    if operation == "set":
        return lambda value: operand
    if operation == "default":
        return lambda value: operand if value is None else value
    if operation == "remove":
        return lambda value: None
    if operation == "map":
        table = dict(operand)
        return lambda value: table.get(value, value) if type(value) is str else value
    if operation in _ON_TEXT:
        on_text = _ON_TEXT[operation]
        # An empty text becomes None, also for the next step.
        return lambda value: on_text(value) or None if type(value) is str and value else value
    if operation == "number":
        return _number
    if operation == "text":
        return lambda value: str(value) if type(value) is int else value
    on_number = _on_number(operation, operand)
    return lambda value: on_number(value) if type(value) is int or type(value) is float else value


_ON_TEXT: dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "lower": str.lower,
    "upper": str.upper,
    "squeeze": lambda text: " ".join(text.split()),
}


def _on_number(operation: str, operand: Any) -> Callable[[Any], Property]:
    if operation == "absolute":
        return abs
    if operation == "at_least":
        return lambda value: value if value >= operand else operand
    if operation == "at_most":
        return lambda value: value if value <= operand else operand
    if operation == "times":
        return lambda value: value * operand
    assert operation == "round"
    return lambda value: round(value, operand)


def _number(value: Property) -> Property:
    """Convert a text of digits, with a point before a fraction, to a number."""
    if type(value) is not str:
        return value
    text = value.strip()
    digits = text.removeprefix("-").replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        return value
    return float(text) if "." in text else int(text)


def _rename(old: str, operand: Any) -> Apply:
    new = str(operand)
    read_old, read_new = reader(old), reader(new)

    def apply(event: Event, received: int | None) -> Event:
        value = read_old(event, None, received)
        if value is None:
            return event
        if read_new(event, None, received) is None:
            event = write(event, new, value)
        return write(event, old, None)

    return apply


def _convert(field: str, conversion: Any) -> Apply:
    read_amount, read_currency = reader(field), reader(conversion.currency)
    rates = dict(conversion.rates)

    def apply(event: Event, received: int | None) -> Event:
        currency = read_currency(event, None, received)
        rate = rates.get(currency) if type(currency) is str else None
        amount = read_amount(event, None, received)
        if rate is None or (type(amount) is not int and type(amount) is not float):
            return event
        converted = amount * rate
        if not math.isfinite(converted):
            return event
        return write(write(event, field, converted), conversion.currency, conversion.to)

    return apply


def _correct_clock(field: str, sent: Any) -> Apply:
    read_sent = reader(str(sent))

    def apply(event: Event, received: int | None) -> Event:
        sent_at, arrived = read_sent(event, None, received), received_at(event, received)
        if arrived is None or (type(sent_at) is not int and type(sent_at) is not float):
            return event
        if not math.isfinite(sent_at):
            return event
        corrected = event.timestamp + arrived - int(sent_at)
        if corrected == event.timestamp or not _is_timestamp(corrected):
            return event
        return write(event, "timestamp", corrected)

    return apply


_SPECIAL: dict[str, Callable[[str, Any], Apply]] = {
    "rename": _rename,
    "convert": _convert,
    "correct_clock": _correct_clock,
}


def _is_timestamp(value: object) -> bool:
    return type(value) is int and 0 <= value <= LATEST_TIMESTAMP
