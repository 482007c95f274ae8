"""Scores of a few rows out of many."""

from __future__ import annotations

from dataclasses import dataclass

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
