"""Diversity: an item loses value the more similar it is to the items above it.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): the next item is the one with the
largest value less its similarity to the most similar item above it. Chosen over determinantal point
processes because a recommendation may be longer than the vectors have dimensions, near duplicates
and items without a vector are common, and the loss of an item is one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ConfigError
from tactful.util.scalars import is_number

MOST_STRENGTH = 100.0


@dataclass(frozen=True)
class Diversity:
    """Diversity options of an arm."""

    # loss of an item that equals one above it, in units of the score, from 0 to `MOST_STRENGTH`.
    # The classical trade-off is 1 / (1 + strength).
    strength: float = 0.0
    # number of first places that are diversified, from 1 to 100; the others go by value
    places: int = 20

    @classmethod
    def of(cls, options: object, *, where: str) -> Diversity:
        """Parse options as read from a file.

        Raises:
            ConfigError: if one is unknown or out of range.
        """
        if not isinstance(options, Mapping) or not options.keys() <= {"strength", "places"}:
            raise ConfigError(f"{where}: must be `strength` and `places` by name")
        strength, places = options.get("strength", 0.0), options.get("places", 20)
        if not is_number(strength) or not 0.0 <= strength <= MOST_STRENGTH:
            raise ConfigError(f"{where}.strength: must be a number from 0 to {MOST_STRENGTH:g}")
        if not is_number(places) or places != int(places) or not 1 <= places <= 100:
            raise ConfigError(f"{where}.places: must be a whole number from 1 to 100")
        return cls(float(strength), int(places))


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
