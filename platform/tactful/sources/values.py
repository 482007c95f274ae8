"""Values of a message in the form that events need: ids as text, numbers as numbers, times."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any

from tactful_streaming.contract.log_entries import Property

MOST_TEXT = 2048
"""Characters of a text that are kept."""

_NUMBERS = frozenset({"price", "quantity", "dwell_ms"})
_MOST_LIST = 256
_DECIMAL = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?([eE][+-]?\d{1,3})?", re.ASCII)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)
# Milliseconds of the unit of a number, by the first number that is too large for it: the year 5138
# in seconds, milliseconds and microseconds.
_UNITS = ((1e11, 1000.0), (1e14, 1.0), (1e17, 1e-3), (1e20, 1e-6))


def as_id(value: Any) -> str | None:
    """Return an id as text, whole numbers included; None for what is no id."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return str(value) if type(value) is int or isinstance(value, float) else None


def as_property(name: str, value: Any) -> Property:
    """Return a value of `properties`; None for an object, and for a list without a scalar.

    The text of a number becomes a number where one is needed. A list as category becomes its first
    element. Longer texts and lists are cut.
    """
    if name == "category":
        value = value[0] if isinstance(value, list) and value else value
        return as_text(value) if isinstance(value, str | int | float) else None
    if isinstance(value, str):
        number = _number(value) if name in _NUMBERS else None
        return value[:MOST_TEXT] if number is None else number
    if isinstance(value, list):
        scalars = [_scalar(element) for element in value if not isinstance(element, list | dict)]
        return scalars[:_MOST_LIST] or None
    return None if isinstance(value, dict) else _scalar(value)


def as_context(value: Any) -> str | int | float | bool | None:
    """Return a value of `context`; None for a list and an object."""
    return None if isinstance(value, list | dict) else _scalar(value)


def as_text(value: Any) -> str | None:
    """Return text and numbers as text, cut if it is too long; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip()[:MOST_TEXT] or None


def as_moment(value: Any) -> int | None:
    """Return a time as epoch milliseconds; None if it is none.

    Numbers are seconds, milliseconds, microseconds or nanoseconds since 1970, by their size. Text
    is such a number, or ISO 8601; without an offset it is UTC.

    >>> as_moment(1630000000), as_moment("2021-08-26T17:46:40Z"), as_moment("2021-08-26 17:46:40")
    (1630000000000, 1630000000000, 1630000000000)
    """
    if isinstance(value, str):
        text = value.strip()
        if _DECIMAL.fullmatch(text):
            return as_moment(float(text))
        return _parsed(text) if len(text) <= 40 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e20:
        return None
    return next(int(value * unit) for limit, unit in _UNITS if value < limit)


def _parsed(text: str) -> int | None:
    try:
        moment = dt.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        return (moment - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> int | float | None:
    text = text.strip()
    if not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _scalar(value: Any) -> str | int | float | bool | None:
    if isinstance(value, str):
        return value[:MOST_TEXT]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)[:MOST_TEXT]
    return value if isinstance(value, int | float | bool) else None
