"""Rows of entities by a place of the reader's own, so that many are read without their keys.

Who reads the same thousands of entities again and again, a catalogue for each list of candidates,
has an order of its own for them. To look up a thousand keys takes longer than to read a thousand
numbers, so the row that a key has in the table is remembered by its place, until an entity comes or
goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from tactful_streaming.arrays import Rows

_UNKNOWN: Final = -1
_MOST_MOVED: Final = 10_000


class Placing(Protocol):
    """Keys in fixed places: one that has a place keeps it, and new ones come behind."""

    def keys_at(self, places: Rows) -> Sequence[str]:
        """The keys of some places."""

    def place_of(self, key: str) -> int | None:
        """The place of a key; None if it has none."""


class PlacedRows:
    """The rows that the keys of one placing have in one table.

    Attributes:
        rows: by place, -1 for one that was not looked up; right once what moved is settled.
    """

    def __init__(self) -> None:
        """Begin with nothing looked up."""
        self.rows: Rows = np.zeros(0, np.int64)
        self._moved: list[str] = []

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return self.rows.nbytes

    def moved(self, keys: Sequence[str]) -> None:
        """Note that entities came or went."""
        if not len(self.rows):
            return
        self._moved += keys
        if len(self._moved) > _MOST_MOVED:
            # To look them all up now could take longer than what reads them later is worth.
            self._moved.clear()
            self.rows[:] = _UNKNOWN

    def settle(self, placing: Placing) -> None:
        """Take in which entities came or went; `placing` says which keys these are."""
        for key in self._moved:
            place = placing.place_of(key)
            if place is not None and place < len(self.rows):
                self.rows[place] = _UNKNOWN
        self._moved.clear()

    def at(self, places: Rows, placing: Placing, known: Mapping[Any, int], nobody: int) -> Rows:
        """The rows of the keys at `places`.

        Args:
            places: at least 0.
            placing: which keys these are.
            known: row of each key.
            nobody: row of the others.
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
            rows[unknown] = [known.get(key, nobody) for key in placing.keys_at(absent)]
            self.rows[absent] = rows[unknown]
        return rows

    def _grow(self, capacity: int) -> None:
        more = np.full(capacity - len(self.rows), _UNKNOWN)
        self.rows = np.concatenate([self.rows, more])
