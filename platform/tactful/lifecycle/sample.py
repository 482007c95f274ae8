"""Visits of a uniform sample of users, five numbers each, for a fit.

::

    [19_990, 20_100, 7, 20_060, 5]   # first day, last day, days; last day and days until `begin`
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tactful.lifecycle.model import Floats, Visits

_USERS: Final = 50_000
_WIDTH = 5


class VisitSample:
    """Visits of users until a day, and those of them until `horizon_days` before it.

    Attributes:
        today: the day, in days since the epoch.
        horizon_days: days before it after which a visit is a return.
        begin: `horizon_days` before `today`.
        seen: users who were added and had a visit.
        priced: whether one of the added users spent something.
    """

    def __init__(
        self, today: int, horizon_days: int, rng: random.Random, *, most: int = _USERS
    ) -> None:
        """Take a uniform sample of at most `most` users, 20 bytes each."""
        self.today, self.horizon_days = today, horizon_days
        self.begin = today - horizon_days
        self.seen = 0
        self.priced = False
        self._rng, self._most = rng, most
        self._rows = array("i")

    def add(self, days: Sequence[int], *, spent: float = 0.0) -> None:
        """Add a user by days with events, ascending, and the sum of the prices paid.

        Days after `today` are ignored. A full sample keeps a random part (reservoir sampling).
        """
        self.priced |= spent > 0
        count = bisect_right(days, self.today)
        if not count:
            return
        earlier = bisect_right(days, self.begin)
        before = days[earlier - 1] if earlier else 0
        row = array("i", [days[0], days[count - 1], count, before, earlier])
        self.seen += 1
        if self.seen <= self._most:
            self._rows.extend(row)
        elif (place := self._rng.randrange(self.seen) * _WIDTH) < len(self._rows):
            self._rows[place : place + _WIDTH] = row

    @property
    def visits(self) -> Visits:
        """Visits of the users of the sample until `today`."""
        first, last, count = self._columns[:3]
        return _visits(first, last, count, self.today)

    @property
    def outcomes(self) -> tuple[Visits, Floats]:
        """Visits until `begin` of the users who had one, and 1 for each who has returned since."""
        first, last, _, before, earlier = self._columns
        known = earlier > 0
        visits = _visits(first[known], before[known], earlier[known], self.begin)
        return visits, (last[known] > self.begin).astype(np.float64)

    @property
    def _columns(self) -> NDArray[np.int32]:
        return np.frombuffer(self._rows, np.int32).reshape(-1, _WIDTH).T


def _visits(
    first: NDArray[np.int32], last: NDArray[np.int32], count: NDArray[np.int32], today: int
) -> Visits:
    repeats, recency, age = count - 1, last - first, today - first
    return Visits(*(column.astype(np.float64) for column in (repeats, recency, age)))
