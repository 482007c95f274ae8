"""Calendar periods of several UTC days: weeks from Monday (ISO 8601), and months."""

from __future__ import annotations

import datetime
from typing import Literal

Period = Literal["week", "month"]

DAY_MS = 86_400_000
_EPOCH = datetime.date(1970, 1, 1)


def period_start(period: Period, at: int) -> int:
    """Return the first millisecond (epoch) of the period of a time.

    Example:
        >>> period_start("week", 0) // DAY_MS, period_start("month", 40 * DAY_MS) // DAY_MS
        (-3, 31)
    """
    day = at // DAY_MS
    if period == "week":
        return (day - (day + 3) % 7) * DAY_MS  # 1970-01-01 was a Thursday
    return (day - (_EPOCH + datetime.timedelta(days=day)).day + 1) * DAY_MS


def period_end(period: Period, start: int) -> int:
    """Return the first millisecond after the period that begins at `start`.

    Example:
        >>> period_end("month", 31 * DAY_MS) // DAY_MS
        59
    """
    longest = 7 if period == "week" else 31
    # The period after this one begins within so many days.
    return period_start(period, start + longest * DAY_MS)
