"""Cache of the table rows of entities by their places in the reader's own order.

A catalogue reads the same thousands of items for each request, in an order of its own. Looking up a
thousand keys takes longer than reading a thousand numbers, so the row of a key is cached by its
place, until an entity is added or removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from tactful_streaming.arrays import Rows

_UNKNOWN: Final = -1
_MOST_MOVED: Final = 10_000


class Placing(Protocol):
    """Keys in fixed places; new keys are appended."""

    def keys_at(self, places: Rows) -> Sequence[str]:
        """Return the keys of some places."""

    def place_of(self, key: str) -> int | None:
        """Return the place of a key; None without one."""


class RowCache:
    """Rows of the keys of one placing in one table.

    Attributes:
        rows: row by place, -1: not looked up; valid after :meth:`settle`.
    """

    def __init__(self) -> None:
        """Create an empty cache."""
        self.rows: Rows = np.zeros(0, np.int64)
        self._moved: list[str] = []

    @property
    def nbytes(self) -> int:
        """Approximate memory of the cache."""
        return self.rows.nbytes

    def moved(self, keys: Sequence[str]) -> None:
        """Record that entities were added or removed."""
        if not len(self.rows):
            return
        self._moved += keys
        if len(self._moved) > _MOST_MOVED:
            # Invalidating each key would take longer than looking up all places again.
            self._moved.clear()
            self.rows[:] = _UNKNOWN

    def settle(self, placing: Placing) -> None:
        """Invalidate the places of recorded entities."""
        for key in self._moved:
            place = placing.place_of(key)
            if place is not None and place < len(self.rows):
                self.rows[place] = _UNKNOWN
        self._moved.clear()

    def at(self, places: Rows, placing: Placing, row_of: Mapping[Any, int], default: int) -> Rows:
        """Return the rows of the keys at `places`.

        Args:
            places: at least 0.
            placing: keys of the places.
            row_of: row of each known key.
            default: row of other keys.
        """
        self.settle(placing)
        try:
            rows = self.rows.take(places)
        except IndexError:
            self._grow(max(int(places.max()) + 1, 3 * len(self.rows) // 2))
            rows = self.rows.take(places)
        unknown = rows < 0
        if unknown.any():
            absent = places[unknown]
            rows[unknown] = [row_of.get(key, default) for key in placing.keys_at(absent)]
            self.rows[absent] = rows[unknown]
        return rows

    def _grow(self, capacity: int) -> None:
        more = np.full(capacity - len(self.rows), _UNKNOWN)
        self.rows = np.concatenate([self.rows, more])
