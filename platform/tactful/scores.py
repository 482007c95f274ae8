"""Scores of a few rows out of many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """Scores of some rows; every other row scores 0.

    Attributes:
        rows: ascending, each once, shape (n,).
        values: their scores, shape (n,).
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def summed(cls, rows: NDArray[np.integer[Any]], values: NDArray[Any]) -> Scores:
        """The sums of the values of each row, shapes (m,); what sums to 0 or less is left out.

        They are added up in float64 and in the order they come in.
        """
        if not len(rows):
            return cls(np.zeros(0, np.int64), np.zeros(0, np.float32))
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order], values[order]
        first = np.empty(len(rows), np.bool_)
        first[0] = True
        np.not_equal(rows[1:], rows[:-1], out=first[1:])
        totals = np.bincount(np.cumsum(first) - 1, weights=values)
        positive = totals > 0
        return cls(rows[first][positive].astype(np.int64), totals[positive].astype(np.float32))

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of `rows`, shape of `rows`."""
        if not len(self.rows):
            return np.zeros(len(rows), np.float32)
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        found = np.where(self.rows[places] == rows, self.values[places], np.float32(0.0))
        return found.astype(np.float32, copy=False)

    def best(self) -> NDArray[np.int64]:
        """The rows, highest score first, ties by row."""
        return self.rows[np.lexsort((self.rows, -self.values))]
