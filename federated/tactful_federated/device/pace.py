"""Number of categories that a user chooses within some time, from the times of earlier visits.

The intent model knows an order of categories and no times. A probability within days is that
within n steps, averaged over how many steps came within as many days before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import require

DAY_S: Final = 86_400
MOST_STEPS: Final = 32
"""Largest number of steps to look ahead within a time; more count as this number."""

_PUBLIC_WEIGHT = 5.0
_MOST_VISITS = 500

Floats = NDArray[np.float64]


def steps_within(
    times: Sequence[float],
    steps: Sequence[int],
    now: float,
    seconds: float,
    public: Sequence[float] = (),
) -> Floats:
    """Estimate how many steps come within a time from now.

    Each earlier visit is a moment like now if as much time passed after it without another visit
    as has passed since the latest one, and if its time ahead is over. Visits of the same time as
    it, such as imported ones, do not count. Public shares count as five such moments.

    Args:
        times: Times of the visits, seconds since the epoch, rising.
        steps: Number of categories of each.
        now: Seconds since the epoch.
        seconds: Time to look ahead.
        public: Shares of 0, 1, ... steps among public histories.

    Returns:
        Shares of 0 to `MOST_STEPS` steps; all zero if nothing is known.
    """
    counts = np.zeros(MOST_STEPS + 1)
    known = np.asarray(public[: MOST_STEPS + 1], dtype=np.float64)
    counts[: len(known)] = _PUBLIC_WEIGHT * known
    for number in _after(times[-_MOST_VISITS:], steps[-_MOST_VISITS:], now, seconds):
        counts[min(number, MOST_STEPS)] += 1
    total = counts.sum()
    return counts / total if total else counts


def public_pace(
    histories: Sequence[tuple[Sequence[float], Sequence[int]]], seconds: float
) -> tuple[float, ...]:
    """Return the shares of 0 to `MOST_STEPS` steps after visits of public histories.

    Args:
        histories: Times and numbers of categories of the visits of each person, rising.
        seconds: Time to look ahead.
    """
    require(seconds > 0, f"the time ahead is {seconds:g} seconds: give more than 0")
    counts = np.zeros(MOST_STEPS + 1)
    for times, steps in histories:
        if times:
            for number in _after(times, steps, times[-1], seconds):
                counts[min(number, MOST_STEPS)] += 1
    return tuple((counts / max(1.0, counts.sum())).tolist())


def _after(times: Sequence[float], steps: Sequence[int], now: float, seconds: float) -> list[int]:
    """Return the number of steps in the time ahead of each moment like now."""
    if not times:
        return []
    at = np.asarray(times, dtype=np.float64)
    summed = np.concatenate([[0], np.cumsum(steps)])
    begin = at + max(0.0, now - at[-1])
    is_like = np.searchsorted(at, begin, "right") == np.searchsorted(at, at, "right")
    is_over = begin + seconds <= now
    first = np.searchsorted(at, begin, "right")
    last = np.searchsorted(at, begin + seconds, "right")
    found: list[int] = (summed[last] - summed[first])[is_like & is_over].tolist()
    return found
