"""Filters of a search of the catalogue, and counts of what they find by field."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.term_index import Terms

_RANGES = 6


class Filters(NamedTuple):
    """Conditions of a search; None restricts nothing, an unknown price passes no limit."""

    search: str = ""
    category: str | None = None
    available: bool | None = None
    lowest: float | None = None  # price
    highest: float | None = None

    @property
    def terms(self) -> Terms | None:
        """Terms that an item must have; None where no item can match."""
        return Terms.of(self.search, self.category, self.available)

    def allow(self, prices: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return whether each price passes."""
        passing = np.ones(len(prices), np.bool_)
        if self.lowest is not None:
            passing &= prices >= np.float32(self.lowest)
        if self.highest is not None:
            passing &= prices <= np.float32(self.highest)
        return passing


class FacetCounts(NamedTuple):
    """Numbers of items that a search finds, of each field without its own filter."""

    total: int
    categories: Mapping[str, int]  # empty text for items without a category
    available: Mapping[bool, int]
    prices: list[tuple[float, float, int]]  # ranges with the number of items in them


def price_ranges(prices: NDArray[np.float32]) -> list[tuple[float, float, int]]:
    """Cut known prices into at most six ranges, about equally full, at round numbers.

    A range holds its lower end, the last one also its upper end.

    >>> price_ranges(np.array([1, 2, 3, 250], np.float32))
    [(1.0, 2.0, 1), (2.0, 3.0, 1), (3.0, 250.0, 2)]
    """
    known = prices[~np.isnan(prices)].astype(np.float64)
    if not len(known):
        return []
    inner = np.quantile(known, np.linspace(0, 1, _RANGES + 1)[1:-1])
    low, high = float(known.min()), float(known.max())
    cuts = [low, *sorted({cut for cut in map(_rounded, inner) if low < cut < high}), high]
    counts, _ = np.histogram(known, cuts if high > low else [low, np.nextafter(low, np.inf)])
    ends = zip(pairwise(cuts), counts.tolist(), strict=True)
    return [(begin, end, count) for (begin, end), count in ends if count]


def _rounded(price: float) -> float:
    """Round to two figures."""
    return float(f"{price:.2g}")
