"""Items for people of whom nothing is known: together they fit as many visits as possible."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from tactful.recall.tables import Interactions

MOST = 100
"""Items that are ordered; popularity orders the others."""

_KEPT = 0.3
_MONTH_MS = 28 * 86_400_000
_LATEST = 300_000


def covering_rows(
    seen: Interactions,
    count: int,  # number of rows of the catalogue
    *,
    whole: bool,  # from the whole history, else from its last four weeks
) -> NDArray[np.int32]:
    """Order at most a hundred rows so that the first ones are in as many visits as possible.

    A visit counts 1 for its first item in the order, and 0.3 of that for each further one. Items
    are chosen one by one, each the best addition: for such a sum of diminishing returns that is
    within 1 - 1/e of the best choice (Nemhauser, Wolsey and Fisher, Mathematical Programming 14,
    1978). By popularity alone the first items may all be of the same visits.
    """
    begin = max(len(seen.item) - _LATEST, 0)
    if not whole and len(seen.item):
        within = np.flatnonzero(seen.timestamp > seen.timestamp.max() - _MONTH_MS)
        begin = max(begin, int(within[0]))
    item, session = seen.item[begin:], seen.session[begin:]
    _, visit = np.unique(session, return_inverse=True)
    # Each item once in a visit, by item.
    pairs = np.unique(item * np.int64(max(len(visit), 1)) + visit)
    item, visit = np.divmod(pairs, np.int64(max(len(visit), 1)))
    starts = np.searchsorted(item, np.arange(count + 1))
    weights = np.ones(int(visit.max(initial=-1)) + 1)
    sizes = np.diff(starts)
    # Weights only fall: an item whose sum is still the largest after a new count is the best.
    waiting = [(-float(sizes[row]), row) for row in np.flatnonzero(sizes).tolist()]
    heapq.heapify(waiting)
    chosen: list[int] = []
    while waiting and len(chosen) < MOST:
        held, row = heapq.heappop(waiting)
        visits = visit[starts[row] : starts[row + 1]]
        gain = float(weights[visits].sum())
        if -held > gain and waiting and gain < -waiting[0][0]:
            heapq.heappush(waiting, (-gain, row))
            continue
        chosen.append(row)
        weights[visits] *= _KEPT
    return np.array(chosen, np.int32)
