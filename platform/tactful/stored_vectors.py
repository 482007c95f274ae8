"""The vectors of items by row, where they lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tactful.scores import kernels

if TYPE_CHECKING:
    from tactful.companion import Companion

_NO_ROWS = np.zeros(0, np.int64)


class StoredVectors:
    """Vectors as they were built, and those that replace them or came later. It never changes."""

    def __init__(
        self,
        built: NDArray[np.float32],
        *,
        kept: NDArray[np.bool_] | None = None,
        rows: NDArray[np.int64] = _NO_ROWS,
        vectors: NDArray[np.float32] | None = None,
    ) -> None:
        """Keep them.

        Args:
            built: shape (n, dimensions).
            kept: which of those hold; None for all of them.
            rows: rows that have others, ascending.
            vectors: the others, shape (len(rows), dimensions).
        """
        self._built = np.ascontiguousarray(built, np.float32)
        self._kept = kept
        self._rows = rows
        self._vectors = self._built[:0] if vectors is None else np.ascontiguousarray(vectors)
        self._words = (
            self._built.ctypes.data,
            0 if kept is None else kept.ctypes.data,
            len(self._built),
            self._rows.ctypes.data,
            self._vectors.ctypes.data,
            len(self._rows),
            self._built.shape[1],
        )

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows, shape (len(rows), dimensions); zero where there is none."""
        built = rows < len(self._built)
        if self._kept is None and built.all():
            return self._built.take(rows, axis=0)
        found = np.zeros((len(rows), self._built.shape[1]), np.float32)
        if self._kept is not None:
            built[built] = self._kept[rows[built]]
        found[built] = self._built.take(rows[built], axis=0)
        if len(self._rows):
            places = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
            fresh = self._rows[places] == rows
            found[fresh] = self._vectors[places[fresh]]
        return found

    def begin_products(
        self,
        rows: NDArray[np.int64],
        directions: NDArray[np.float32],
        columns: Sequence[int],
        found: NDArray[np.float32],
        companion: Companion | None,
    ) -> Callable[[], object]:
        """Inner products of the vectors of rows with directions.

        Args:
            rows: at least 0, shape (n,).
            directions: shape (m, dimensions).
            columns: which of `found` each direction fills.
            found: shape (columns, n).
            companion: makes them meanwhile; None where there is none.

        Returns:
            What is to be called before they are read.
        """
        directions = _padded(directions)
        if companion is None:
            kernels().products(_padded(self.of(rows)), directions, np.array(columns), found)
            return _nothing
        words = (
            *(rows.ctypes.data, len(rows), *self._words),
            *(directions.ctypes.data, *directions.shape, found.ctypes.data, *columns),
        )
        code = kernels().products_of_rows.address
        work = companion.begin(code, words, rows, directions, found, self)
        return partial(companion.finish, work)


@dataclass(frozen=True)
class RowVectors:
    """The vectors of some rows: to read a thousand takes longer than to say which they are.

    Attributes:
        stored: where they lie.
        rows: which, shape (n,).
    """

    stored: StoredVectors
    rows: NDArray[np.int64]

    def __getitem__(self, kept: NDArray[np.int64]) -> RowVectors:
        """Some of them."""
        return RowVectors(self.stored, self.rows[kept])

    def read(self) -> NDArray[np.float32]:
        """All of them, shape (n, dimensions); zero where there is none."""
        return self.stored.of(self.rows)


def _padded(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors as long as machine code takes them, by zeros at the end."""
    from tactful.cell_code import LANES  # numba loads slowly; with the kernels it is there

    missing = -vectors.shape[1] % LANES
    return np.pad(vectors, ((0, 0), (0, missing))) if missing else vectors


def _nothing() -> None:
    """There is nothing left to do."""
