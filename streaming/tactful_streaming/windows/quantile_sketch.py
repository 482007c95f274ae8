"""Quantile sketch whose results a replay repeats.

It is the compactor sketch of Karnin, Lang and Liberty, "Optimal quantile approximation in streams"
(FOCS 2016): level h holds values of weight ``2 ** h``; a full level is sorted, and every other
value moves up. Other implementations toss a fair coin for the half that moves, so that two runs
over one stream differ. Here the bits are a fixed sequence: the bound on the error holds for every
stream made without knowledge of the sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Self

from tactful_streaming.definitions.model import Feature
from tactful_streaming.errors import StateError

CAPACITY: Final = 200
"""Values in the highest level. The error of ranks is at most 1.7 % with 99 % confidence."""

_NUMBERS = 3  # numbers before the levels of a packed sketch: tosses, least and greatest value
_SHRINK = 2 / 3
_SMALLEST = 8


class Quantiles:
    """Quantiles of a stream of numbers; exact up to :data:`CAPACITY` of them."""

    __slots__ = ("_full", "_greatest", "_least", "_levels", "_tosses")
    packed_type: ClassVar[Any] = list[int | float | list[int | float]]

    def __init__(self, feature: Feature) -> None:
        """Create an empty sketch."""
        self._levels: list[list[float]] = [[]]
        self._least, self._greatest = math.inf, -math.inf
        self._tosses = 0
        self._full = CAPACITY

    @property
    def nbytes(self) -> int:
        """Approximate memory of the values held."""
        return 200 + 32 * self.held

    @property
    def held(self) -> int:
        """Number of values held."""
        return sum(map(len, self._levels))

    def add(self, value: float, timestamp: int) -> None:
        """Add one number."""
        if value < self._least:
            self._least = value
        if value > self._greatest:
            self._greatest = value
        lowest = self._levels[0]
        lowest.append(value)
        if len(lowest) >= self._full:
            self._compress()

    def merge(self, other: Quantiles) -> None:
        """Add the values of `other`."""
        self._least = min(self._least, other._least)
        self._greatest = max(self._greatest, other._greatest)
        self._tosses = max(self._tosses, other._tosses)
        while len(self._levels) < len(other._levels):
            self._levels.append([])
        for level, added in zip(self._levels, other._levels, strict=False):
            level.extend(added)
        self._compress()

    def quantile(self, q: float) -> float:
        """Return the least value not exceeded by at least the share `q` of all values."""
        if q <= 0:
            return self._least
        if q >= 1:
            return self._greatest
        weighed = sorted(
            (value, 1 << level) for level, values in enumerate(self._levels) for value in values
        )
        needed = q * sum(weight for _, weight in weighed)
        rank = 0
        for value, weight in weighed:
            rank += weight
            if rank >= needed:
                return value
        return self._greatest

    def pack(self) -> list[Any]:
        """Return the state in types that MessagePack can hold."""
        return [self._tosses, self._least, self._greatest, *map(list, self._levels)]

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        """Restore the state that :meth:`pack` returned."""
        numbers, levels = packed[:_NUMBERS], packed[_NUMBERS:]
        if not levels or list in map(type, numbers) or {list} != set(map(type, levels)):
            raise StateError("a packed sketch of quantiles is damaged")
        self = cls(feature)
        self._tosses, self._least, self._greatest = numbers
        self._levels = [list(values) for values in levels]
        self._full = self._capacity(0)
        return self

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> float:
        """Return the quantile."""
        assert feature.q is not None
        merged = parts[0]
        if len(parts) > 1:
            merged = cls(feature)
            for part in parts:
                merged.merge(part)
        return merged.quantile(feature.q)

    def _compress(self) -> None:
        """Move values up until every level has room."""
        level = 0
        while level < len(self._levels):
            values = self._levels[level]
            if len(values) >= self._capacity(level):
                if level + 1 == len(self._levels):
                    self._levels.append([])
                values.sort()
                # Of an odd number one value stays, so that the weights add up.
                stays = [values.pop()] if len(values) % 2 else []
                self._levels[level + 1].extend(values[self._toss() :: 2])
                self._levels[level] = stays
            level += 1
        self._full = self._capacity(0)

    def _capacity(self, level: int) -> int:
        depth = len(self._levels) - 1 - level
        return max(math.ceil(CAPACITY * _SHRINK**depth), _SMALLEST)

    def _toss(self) -> int:
        """Return the next bit of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
        self._tosses += 1
        mixed = self._tosses * 0x9E3779B97F4A7C15 % 2**64
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        return (mixed ^ mixed >> 31) & 1
