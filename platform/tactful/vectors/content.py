"""Vectors of items without events, from their descriptions.

A linear map from words, category and price to the learned vectors, fitted on the items that have
both. Gantner, Drumond, Freudenthaler, Rendle and Schmidt-Thieme, "Learning attribute-to-feature
mappings for cold-start recommendations" (ICDM 2010). Words are hashed, so that the map applies to
any description.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.contract.log_entries import Item

if TYPE_CHECKING:
    from scipy import sparse

_WORD = re.compile(r"\w+")
_BUCKETS = 1 << 13
_DAMPING = 1.0
_MOST_WORDS = 64


@dataclass(frozen=True)
class ContentVectors:
    """A map from descriptions to vectors."""

    # vector of each hashed word, shape (buckets, dimensions); no buckets for a map that was never
    # fitted and returns zero vectors
    weights: NDArray[np.float32]

    @classmethod
    def fit(
        cls, items: Sequence[Item | None], vectors: NDArray[np.float32], *, buckets: int = _BUCKETS
    ) -> ContentVectors:
        """Fit to vectors that are not zero, by damped least squares, one dimension each time."""
        from scipy.sparse.linalg import lsmr

        taught = [row for row, item in enumerate(items) if item is not None and vectors[row].any()]
        dimensions = vectors.shape[1]
        if not taught:
            return cls.empty(dimensions)
        words = _words([item for row in taught if (item := items[row]) is not None], buckets)
        weights = np.zeros((buckets, dimensions), np.float32)
        for dimension in range(dimensions):
            target = vectors[taught, dimension].astype(np.float64)
            weights[:, dimension] = lsmr(words, target, damp=_DAMPING, atol=1e-4, btol=1e-4)[0]
        return cls(weights)

    @classmethod
    def empty(cls, dimensions: int) -> ContentVectors:
        """Make a map that was never fitted."""
        return cls(np.zeros((0, dimensions), np.float32))

    def vectors(self, items: Sequence[Item]) -> NDArray[np.float32]:
        """Return unit vectors of items, or zero, shape (len(items), dimensions)."""
        made = np.zeros((len(items), self.weights.shape[1]), np.float32)
        if len(self.weights) and items:
            made[:] = _words(items, len(self.weights)) @ self.weights
            norms = np.linalg.norm(made, axis=1, keepdims=True)
            np.divide(made, norms, out=made, where=norms > 0)
        return made

    def fill(self, items: Sequence[Item | None], vectors: NDArray[np.float32]) -> None:
        """Replace zero vectors of described rows, in place."""
        rows = [row for row, item in enumerate(items) if item and not vectors[row].any()]
        vectors[rows] = self.vectors([item for row in rows if (item := items[row])])


def _words(items: Sequence[Item], buckets: int) -> sparse.csr_matrix:
    """Return one row for each item, of length 1, its words by their hashes."""
    from scipy import sparse  # only the writer of an index needs it: 20 MB

    columns: list[int] = []
    starts = [0]
    for item in items:
        columns.extend(crc32(word.encode()) % buckets for word in _described(item))
        starts.append(len(columns))
    counts = np.diff(starts)
    values = np.repeat(1.0 / np.sqrt(np.maximum(counts, 1)), counts)
    return sparse.csr_matrix((values, columns, starts), shape=(len(items), buckets))


def _described(item: Item) -> list[str]:
    """Return the words of a description, each with its field."""
    words = {f"title:{word}" for word in _WORD.findall((item.title or "").lower())[:_MOST_WORDS]}
    if item.category is not None:
        words.add(f"category:{item.category}")
    if item.price is not None and item.price > 0.0:
        words.add(f"price:{round(2.0 * math.log(item.price))}")
    return sorted(words)
