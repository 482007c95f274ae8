"""The vectors of items by row, where they lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def products(vectors: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products of vectors and directions, each of which depends on its two vectors alone.

    A matrix product of BLAS adds up in an order that depends on the number of rows, so a feature
    would differ in its last bits between training and serving.

    Args:
        vectors: shape (n, dimensions), C-contiguous.
        directions: shape (m, dimensions), C-contiguous.

    Returns:
        Shape (m, n).
    """
    found: NDArray[np.float32] = np.einsum("nd,md->mn", vectors, directions)
    return found
