"""Learning over which time popularity counts: what orders the latest events best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.recall.blend import Window
from tactful.recall.tables import Interactions

_HOUR = 3_600_000.0
_SPANS: Mapping[Window, tuple[float, float | None]] = {
    "now": (48 * _HOUR, 2 * _HOUR / np.log2(1 / 0.8)),
    "week": (7 * 24 * _HOUR, None),
    "month": (28 * 24 * _HOUR, None),
    "ever": (np.inf, None),
}
"""Length of each window and half-life within it, milliseconds; None: all events count alike."""

_MOMENTS = 24
_FEWEST, _MOST = 100, 4_000
_CUTOFF = 20


class PopularityHistory(NamedTuple):
    """Orders of popularity at some moments, each from the events before it."""

    window: Window
    events: NDArray[np.int64]  # number of the first event after each moment, ascending
    orders: list[NDArray[np.int32]]  # rows by popularity then, best first

    def before(self, event: int) -> NDArray[np.int32]:
        """Return the latest order that knows nothing of an event or of later ones."""
        return self.orders[max(int(np.searchsorted(self.events, event, side="right")) - 1, 0)]


def fit_popularity(
    seen: Interactions,
    begin: int,  # events from this number on are predicted
    count: int,  # number of rows of the catalogue
) -> PopularityHistory:
    """Choose the window whose order has the next items in the highest places.

    A month and the whole history compete without a margin; a shorter window has to gain more by
    twice the standard error. With few events a month stays.
    """
    number = len(seen.item)
    events = np.unique(np.linspace(begin, number, _MOMENTS, endpoint=False).astype(np.int64))
    drawn = np.unique(np.linspace(begin, number - 1, _MOST).astype(np.int64))
    chosen = _history(seen, events, "month", count)
    if number - begin < _FEWEST:
        return chosen
    gains = _gains(seen, drawn, chosen)
    windows: tuple[tuple[Window, float], ...] = (("ever", 0.0), ("week", 2.0), ("now", 2.0))
    for window, errors in windows:
        other = _history(seen, events, window, count)
        found = _gains(seen, drawn, other)
        noise = (found - gains).std() / np.sqrt(len(gains))
        if (found - gains).mean() > errors * noise:
            chosen, gains = other, found
    return chosen


def _history(
    seen: Interactions, events: NDArray[np.int64], window: Window, count: int
) -> PopularityHistory:
    span, half_life = _SPANS[window]
    orders = []
    for event in events.tolist():
        age = seen.timestamp[event] - seen.timestamp[:event]
        inside = np.flatnonzero((age >= 0) & (age < span))
        weights = np.ones(len(inside)) if half_life is None else 0.5 ** (age[inside] / half_life)
        votes = np.bincount(seen.item[inside], weights, count)
        known = np.flatnonzero(votes)
        orders.append(known[np.lexsort((known, -votes[known]))].astype(np.int32))
    return PopularityHistory(window, events, orders)


def _gains(
    seen: Interactions, drawn: NDArray[np.int64], history: PopularityHistory
) -> NDArray[np.float64]:
    """Return the discounted gain of each event at twenty items."""
    gains = np.zeros(len(drawn))
    for place, event in enumerate(drawn.tolist()):
        at = np.flatnonzero(history.before(event)[:_CUTOFF] == seen.item[event])
        if len(at):
            gains[place] = 1.0 / np.log2(at[0] + 2.0)
    return gains
