"""Scores of a few rows out of many."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW_TO_SORT = 8


@dataclass(frozen=True)
class Scores:
    """Scores of some rows; every other row scores 0.

    rows   [3, 17, 29]      values [.5, .1, .9]      ranked [29, 3, 17]
    """

    rows: NDArray[np.int64]  # ascending, each once, shape (n,)
    values: NDArray[np.float32]  # their scores, shape (n,)

    @classmethod
    def summed(cls, rows: NDArray[np.integer[Any]], values: NDArray[Any], count: int) -> Scores:
        """Sum the values of each of `count` rows, shapes (m,); see `sum_by_key`."""
        if _FEW_TO_SORT * len(rows) < count:
            return cls(*sum_by_key(rows, values))
        # Many values for few rows: a total for each row is several times as fast as sorting.
        totals = np.bincount(rows, values, count)
        found = np.flatnonzero(totals > 0)
        return cls(found, totals.take(found).astype(np.float32))

    @classmethod
    def empty(cls) -> Scores:
        """Make scores of no row."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float32))

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of `rows`, in their shape."""
        if not len(self.rows):
            return np.zeros(len(rows), np.float32)
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        scores = np.where(self.rows[places] == rows, self.values[places], np.float32(0.0))
        return scores.astype(np.float32, copy=False)

    @cached_property
    def ranked(self) -> NDArray[np.int64]:
        """The rows, highest score first, ties by row."""
        return self.rows[descending(self.values)]


def sum_by_key(
    keys: NDArray[np.integer[Any]], values: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sum values by key, ascending, in float64 and in their order; drop sums of 0 or less."""
    whole = np.asarray(keys, np.int64)
    order = stable_order(whole)
    ordered = whole.take(order)
    first = begins(ordered)
    totals = np.bincount(np.cumsum(first) - 1, values.take(order))
    distinct = ordered.take(np.flatnonzero(first))  # faster than by flags
    positive = totals > 0
    if not positive.all():
        distinct, totals = distinct[positive], totals[positive]
    return distinct, totals.astype(np.float32)


def begins(ordered: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return whether each of some sorted numbers differs from the one before it."""
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def stable_order(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Argsort whole numbers below ``2**62 / len(keys)``, ties in the order they come in.

    The position is a part of the number that is sorted: numpy sorts numbers by vector instructions,
    and its own stable argsort takes two to four times as long.
    """
    bits = len(keys).bit_length()
    packed = keys << bits
    packed |= np.arange(len(keys))
    packed.sort()
    packed &= (1 << bits) - 1
    return packed


def descending(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Argsort values from the largest to the smallest, ties in the order they come in."""
    # The bits of floats are in order as integers are, those of negative ones in reverse.
    bits = (np.float32(0.0) - values).view(np.int32)
    return stable_order((bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64))
