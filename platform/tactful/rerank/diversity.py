"""Diversity: an item loses value the more similar it is to the items above it.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): the next item is the one with the
largest value less its similarity to the most similar item above it. Chosen over determinantal point
processes because a recommendation may be longer than the vectors have dimensions, near duplicates
and items without a vector are common, and the loss of an item is one number.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray


class Diversity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Diversity options of an arm."""

    # loss of an item that equals one above it, in units of the score, from 0 to 100.
    # The classical trade-off is 1 / (1 + strength).
    strength: Annotated[float, Meta(ge=0, le=100)] = 0.0
    # number of first places that are diversified, from 1 to 100; the others go by value
    places: Annotated[int, Meta(ge=1, le=100)] = 20


class Likeness:
    """Similarity of each item to the most similar of those chosen so far, from 0 to 1.

    The similarity of two items with vectors is their cosine, at least 0. Otherwise it is 1 if they
    are known to be of one category, and 0 if not.
    """

    def __init__(self, vectors: NDArray[np.float32], category: NDArray[np.int32]) -> None:
        """Start without chosen items; vectors have unit length, or zero where there is none."""
        self._vectors = vectors
        self._category = category
        self._placed: NDArray[np.bool_] = np.any(vectors != 0, axis=1)
        self.nearest: NDArray[np.float32] = np.zeros(len(vectors), np.float32)

    def choose(self, item: int) -> None:
        """Add a chosen item."""
        number = self._category[item]
        alike = ((self._category == number) & (number >= 0)).astype(np.float32)
        if self._placed[item]:
            cosine = np.clip(self._vectors @ self._vectors[item], 0.0, 1.0)
            alike = np.where(self._placed, cosine, alike)
        np.maximum(self.nearest, alike, out=self.nearest)
