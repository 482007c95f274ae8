"""Rows of the entities in memory: keys, newest times, last touches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Rows
from tactful_streaming.windows.columns import grown

NOBODY: Final = 0  # row of every unknown key; always empty
_SWEEP: Final = 4096
_FREE: Final = -1  # last touch of a row without an entity


class EntityRows:
    """One row for each entity in memory, used again once the entity is removed.

    With the entities "a" and "c"::

        keys     [None, "a", None, "c"]           None: free, or the row NOBODY
        newest   [0, 1700000050000, 0, 1700000090000]    of the newest event, epoch milliseconds
        touched  [0, 5, -1, 7]                    -1: free
        dirty    [False, False, False, True]      changed since the row was packed
        row_of   {"a": 1, "c": 3}
    """

    def __init__(self, capacity: int) -> None:
        """Create an empty index with room for `capacity` rows."""
        self.keys: list[str | None] = [None]
        self.row_of: dict[str, int] = {}
        self.newest = np.zeros(capacity, np.int64)
        self.dirty = np.zeros(capacity, np.bool_)
        self._touched = np.zeros(capacity, np.int64)
        self._touches = 0
        self._free: list[int] = []
        self._sweep_from = 1

    @property
    def capacity(self) -> int:
        """Number of rows that fit; every row is below it."""
        return len(self.newest)

    def find(self, keys: Sequence[str | None]) -> Rows:
        """Return the row of each key; -1 for an unknown key or None."""
        find: Any = self.row_of.get
        return np.fromiter(map(find, keys, repeat(-1)), np.int64, len(keys))

    def key(self, row: int) -> str:
        """Return the key of a row in use."""
        key = self.keys[row]
        assert key is not None
        return key

    def add(self, keys: Sequence[str]) -> list[int]:
        """Assign rows to different keys that have none."""
        free = self._free[: -len(keys) - 1 : -1]
        del self._free[len(self._free) - len(free) :]
        for row, key in zip(free, keys, strict=False):
            self.keys[row] = key
        begin = len(self.keys)
        self.keys += keys[len(free) :]
        if len(self.keys) > self.capacity:
            capacity = max(len(self.keys), self.capacity * 3 // 2 + 1)
            self.newest = grown(self.newest, capacity, 0)
            self._touched = grown(self._touched, capacity, 0)
            self.dirty = grown(self.dirty, capacity, 0)
        rows = [*free, *range(begin, len(self.keys))]
        self._touched[rows] = 0
        self.row_of.update(zip(keys, rows, strict=True))
        return rows

    def touch(self, rows: Rows, timestamps: NDArray[np.int64]) -> None:
        """Record an event of each row at its time; the rows count as changed."""
        self._touches += 1
        self._touched[rows] = self._touches
        self.dirty[rows] = True
        np.maximum.at(self.newest, rows, timestamps)

    def remove(self, rows: Sequence[int]) -> list[str]:
        """Free rows in use; return their keys."""
        keys = list(map(self.key, rows))
        for row, key in zip(rows, keys, strict=True):
            del self.row_of[key]
            self.keys[row] = None
        self._free.extend(rows)
        index = np.array(rows, np.int64)
        self.newest[index] = 0
        self._touched[index] = _FREE
        self.dirty[index] = False
        return keys

    def next_silent(self, until: int) -> list[int]:
        """Return rows without an event after `until`; each call checks part of all."""
        begin, end = self._sweep_from, min(self._sweep_from + _SWEEP, len(self.keys))
        self._sweep_from = end if end < len(self.keys) else 1
        silent = (np.flatnonzero(self.newest[begin:end] <= until) + begin).tolist()
        return [row for row in silent if self.keys[row] is not None]

    def unchanged(self) -> Rows:
        """Return the rows in use that did not change since they were packed."""
        used = len(self.keys)
        return np.flatnonzero((self._touched[:used] != _FREE) & ~self.dirty[:used])[1:]

    def longest_untouched(self, rows: Rows, count: int) -> Rows:
        """Return the `count` of `rows` whose last events came first; at least one."""
        return rows[np.argpartition(self._touched[rows], count - 1)[:count]]
