"""Robust seasonal expectation of a value: median and MAD of the same hour in earlier periods.

Numbers of events scatter about in proportion to their root, so all is done on square roots; so do
shares, by the number of events behind them. The scale of an hour is the larger of its own MAD and
that of all hours together: three or four values alone would often make it far too small.
"""

from __future__ import annotations

import math
import statistics
from typing import Literal, NamedTuple

from tactful.alerts.memory import Season

HOUR_MS = 3_600_000
_MAD_TO_SIGMA = 1.4826
_PERIODS = 8
_LEAST_SCALE = 0.5  # the standard deviation of the root of a Poisson number


class Expected(NamedTuple):
    """Expectation for one moment."""

    median: float  # of the value itself
    scale: float  # standard deviation of its root

    def deviation(self, value: float, weight: float = 1.0) -> float:
        """Return the distance of a value, in robust standard deviations, with its sign.

        A share that `weight` events are behind scatters at least as much as their number makes it.
        """
        scale = max(self.scale, _LEAST_SCALE / math.sqrt(max(weight, 1.0)))
        return (math.sqrt(max(value, 0.0)) - math.sqrt(max(self.median, 0.0))) / scale


def slot_of(hour: int, season: Literal["hour_of_week", "hour_of_day"]) -> int:
    """Return the slot of an hour, counted from the epoch, which was a Thursday."""
    return hour % (168 if season == "hour_of_week" else 24)


def record(season: Season, hour: int, slot: int, value: float, periods: int) -> None:
    """Add the value of a full hour once; the oldest of nine is dropped."""
    if hour <= season.hour:
        return
    season.hour = hour
    values = season.slots.setdefault(slot, [])
    values.append(value)
    del values[:-_PERIODS]
    season.scale = _common_scale(season, periods)


def expect(
    season: Season, now: int, kind: Literal["hour_of_week", "hour_of_day"], periods: int
) -> Expected | None:
    """Return what to expect of the value of the hour before `now`; None with too few periods.

    Between full hours the expectation lies between those of the two.
    """
    hour, rest = divmod(now, HOUR_MS)
    pair = [season.slots.get(slot_of(it, kind), []) for it in (hour, hour + 1)]
    if any(len(values) < periods for values in pair):
        return None
    part = rest / HOUR_MS
    roots = [[math.sqrt(max(value, 0.0)) for value in values] for values in pair]
    medians = [statistics.median(values) for values in roots]
    own = max(map(_mad, roots))
    scale = max(own, season.scale)
    # The root of the mixed medians: an hour that is half over holds half of each.
    mixed = (1 - part) * medians[0] ** 2 + part * medians[1] ** 2
    # Within the hour its events need not be spread evenly: the difference of the two may not count.
    slack = abs(medians[0] - medians[1]) / 2 * min(part, 1 - part) * 2
    return Expected(mixed, scale + slack)


def _mad(values: list[float]) -> float:
    median = statistics.median(values)
    return _MAD_TO_SIGMA * statistics.median(abs(value - median) for value in values)


def _common_scale(season: Season, periods: int) -> float:
    """Return the scale of all slots together, of those that are not always empty."""
    distances: list[float] = []
    for values in season.slots.values():
        if len(values) < periods or not any(values):
            continue
        roots = [math.sqrt(max(value, 0.0)) for value in values]
        median = statistics.median(roots)
        distances += [abs(root - median) for root in roots]
    return _MAD_TO_SIGMA * statistics.median(distances) if distances else 0.0
