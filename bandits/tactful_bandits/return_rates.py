"""Retention: which share of an arm's units comes back.

A unit that joined yesterday could not yet come back after a week. Counting it as lost makes the arm
look bad that grew faster; so a unit counts for a span of days only once the whole span lies behind
it, in every arm alike.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tactful_bandits.errors import StatisticsError
from tactful_bandits.samples import Proportion, columns


def retention(
    joined: ArrayLike,
    visitors: ArrayLike,
    visited: ArrayLike,
    *,
    span: tuple[float, float],
    now: float,
) -> Proportion:
    """Count the units that came back within a span after they joined.

    Args:
        joined: When each unit was first exposed, in days, shape ``[units]``.
        visitors: Number of the unit of each visit, its place in `joined`; shape ``[visits]``.
        visited: When each visit was, in days, the same shape.
        span: Days after joining, half-open: ``(7, 14)`` asks for the second week.
        now: Until when visits are known, in days.

    Returns:
        The share of the units that have the span behind them, of those that came back in it.

    Raises:
        StatisticsError: The span is empty, a visit is of no unit, or fewer than two units have the
            span behind them yet.
    """
    start, end = span
    if not 0 <= start < end:
        raise StatisticsError(f"a span of days must start at 0 or later and end after, not {span}")
    (first,) = columns(joined)
    who, when = columns(visitors, visited)
    if len(who) and not (who.min() >= 0 and who.max() < len(first)):
        raise StatisticsError(f"visitors must be numbers of units, from 0 to {len(first) - 1}")
    unit = who.astype(np.intp)
    age = when - first[unit]
    came = np.zeros(len(first), dtype=bool)
    came[unit[(age >= start) & (age < end)]] = True
    old_enough = first + end <= now
    return Proportion(int(old_enough.sum()), int((came & old_enough).sum()))


def retention_curve(
    joined: ArrayLike,
    visitors: ArrayLike,
    visited: ArrayLike,
    *,
    days: Sequence[int],
    now: float,
) -> dict[int, Proportion]:
    """Retention on each of some days after joining, such as 1, 7 and 28, day n as ``[n, n + 1)``.

    The arguments and errors are those of `retention`.
    """
    return {day: retention(joined, visitors, visited, span=(day, day + 1), now=now) for day in days}
