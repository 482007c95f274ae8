"""Field types and limits that several requests share."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from msgspec import Meta

Identifier = Annotated[str, Meta(min_length=1, max_length=256)]
Scalar = str | int | float | bool | None
MAX_COUNT = 1_000
MAX_BATCH = 100
LAST_MOMENT = 32_503_680_000_000
Moment = (
    Annotated[int, Meta(ge=0, le=LAST_MOMENT)]
    | Annotated[
        dt.datetime, Meta(tz=True, extra_json_schema={"pattern": "^(19[7-9][0-9]|2[0-9]{3})-"})
    ]
)
"""Epoch milliseconds from 1970 up to the year 3000, or RFC 3339 with an offset."""
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
ShortText = Annotated[str, Meta(max_length=255)]


def to_milliseconds(moment: int | dt.datetime) -> int:
    """Convert a `Moment` to epoch milliseconds, rounded down.

    >>> to_milliseconds(dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    1772323200000

    Raises:
        ValueError: if it is before 1970 or after the year 3000.
    """
    if isinstance(moment, int):
        return moment
    milliseconds = (moment - _EPOCH) // dt.timedelta(milliseconds=1)
    if not 0 <= milliseconds <= LAST_MOMENT:
        raise ValueError("the time must lie between the years 1970 and 3000")
    return milliseconds
