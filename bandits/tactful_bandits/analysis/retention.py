"""Retention: share of an arm's units that return.

A unit that joined yesterday could not yet return after a week; counting it as lost would penalise
the arm that grew faster. A unit therefore counts for a span of days only once the whole span has
passed, in all arms.
"""

import numpy as np
from numpy.typing import ArrayLike

from tactful_bandits.analysis.samples import Proportion, columns
from tactful_bandits.errors import StatisticsError


def retention(
    joined: ArrayLike,
    visitors: ArrayLike,
    visited: ArrayLike,
    *,
    span: tuple[float, float],
    now: float,
) -> Proportion:
    """Count the units that returned within a span after they joined.

    Args:
        joined: Day of each unit's first exposure, shape ``[units]``.
        visitors: Unit of each visit as an index into `joined`, shape ``[visits]``.
        visited: Day of each visit, the same shape.
        span: Days after joining, half-open: ``(7, 14)`` is the second week.
        now: Day up to which visits are known.

    Returns:
        The share of returning units among those whose span has passed.

    Raises:
        StatisticsError: The span is empty, a visit has no unit, or the span has passed for fewer
            than two units.
    """
    start, end = span
    if not 0 <= start < end:
        raise StatisticsError(f"span must start at 0 or later and end after its start, not {span}")
    (first,) = columns(joined)
    visitor, day = columns(visitors, visited)
    if len(visitor) and not (visitor.min() >= 0 and visitor.max() < len(first)):
        raise StatisticsError(f"visitors must be numbers of units, from 0 to {len(first) - 1}")
    unit = visitor.astype(np.intp)
    age = day - first[unit]
    returned = np.zeros(len(first), dtype=bool)
    returned[unit[(age >= start) & (age < end)]] = True
    old_enough = first + end <= now
    return Proportion(int(old_enough.sum()), int((returned & old_enough).sum()))
