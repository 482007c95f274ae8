"""Scores of a few rows out of many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tactful.row_kernels import RowKernels


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
        return cls(*kernels().sums(np.asarray(rows, np.int64), np.asarray(values, np.float64)))

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of `rows`, shape of `rows`."""
        if not len(self.rows):
            return np.zeros(len(rows), np.float32)
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        found = np.where(self.rows[places] == rows, self.values[places], np.float32(0.0))
        return found.astype(np.float32, copy=False)

    def best(self) -> NDArray[np.int64]:
        """The rows, highest score first, ties by row."""
        return self.rows[kernels().best(self.values)]


_loaded: list[RowKernels] = []


def load_kernels(cache: Path | None = None) -> None:
    """Have the machine code of rows and scores ready, which takes long the first time.

    Args:
        cache: as of `tactful.row_kernels.row_kernels`.
    """
    from tactful.row_kernels import row_kernels  # numba loads slowly, and many need no scores

    if not _loaded:
        _loaded.append(row_kernels(cache))


def kernels() -> RowKernels:
    """The machine code of rows and scores; it is loaded where nobody did."""
    if not _loaded:
        load_kernels()
    return _loaded[0]
