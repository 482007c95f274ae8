"""The vectors of items by row, in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NO_ROWS = np.zeros(0, np.int64)


class StoredVectors:
    """Vectors of a build, and those that replace or follow them; immutable."""

    def __init__(
        self,
        built: NDArray[np.float32],
        *,
        kept: NDArray[np.bool_] | None = None,
        rows: NDArray[np.int64] = _NO_ROWS,
        vectors: NDArray[np.float32] | None = None,
    ) -> None:
        """Wrap the arrays.

        Args:
            built: shape (n, dimensions).
            kept: whether each of those is valid; None if all are.
            rows: rows with other vectors, ascending.
            vectors: their vectors, shape (len(rows), dimensions).
        """
        self._built = np.ascontiguousarray(built, np.float32)
        self._kept = kept
        self._rows = rows
        self._vectors = self._built[:0] if vectors is None else np.ascontiguousarray(vectors)

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of rows, or zero, shape (len(rows), dimensions)."""
        built = rows < len(self._built)
        if self._kept is None and built.all():
            return self._built.take(rows, axis=0)
        vectors = np.zeros((len(rows), self._built.shape[1]), np.float32)
        if self._kept is not None:
            built[built] = self._kept[rows[built]]
        vectors[built] = self._built.take(rows[built], axis=0)
        if len(self._rows):
            places = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
            fresh = self._rows[places] == rows
            vectors[fresh] = self._vectors[places[fresh]]
        return vectors


@dataclass(frozen=True)
class RowVectors:
    """Vectors of some rows, which are read only when they are needed.

    Attributes:
        stored: the vectors of all rows.
        rows: shape (n,).
    """

    stored: StoredVectors
    rows: NDArray[np.int64]

    def read(self) -> NDArray[np.float32]:
        """Read the vectors, or zero, shape (n, dimensions)."""
        return self.stored.of(self.rows)


def products(vectors: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute inner products, each of which depends on its two vectors alone.

    A matrix product of BLAS adds up in an order that depends on the number of rows, so a feature
    would differ in its last bits between training and serving.

    Args:
        vectors: shape (n, dimensions), C-contiguous.
        directions: shape (m, dimensions), C-contiguous.

    Returns:
        Shape (m, n).
    """
    matrix: NDArray[np.float32] = np.einsum("nd,md->mn", vectors, directions)
    return matrix
