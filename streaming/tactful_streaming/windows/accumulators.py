"""Accumulators: state of one pane or session of one cell, such as a sketch.

Values are added in the order of the log, two accumulators of a kind can be merged, and one or
several, oldest first, have a result. Equal streams give equal results, however they are split into
batches, panes, packed states and merges.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import Any, ClassVar, Final, Protocol, Self

from datasketches import HLL_4, hll_sketch, hll_union  # type: ignore[import-untyped]

from tactful_streaming.definitions.model import Feature
from tactful_streaming.errors import StateError
from tactful_streaming.windows.quantile_sketch import Quantiles

HLL_LG_K: Final = 14
"""Logarithm to base 2 of the number of registers of an HLL sketch.

The relative standard error of n distinct values is 1.04 / sqrt(2 ** 14) = 0.8 %: 95 % of estimates
lie within 1.6 % (Flajolet, Fusy, Gandouet and Meunier, "HyperLogLog", AofA 2007).
"""


class Accumulator(Protocol):
    """Collects values."""

    packed_type: ClassVar[Any]  # type of the result of `pack`

    def __init__(self, feature: Feature) -> None:
        """Create an empty accumulator for features that need the same state as `feature`."""

    def add(self, value: Any, timestamp: int) -> None:
        """Add `value` of an event at `timestamp`."""

    def merge(self, other: Self) -> None:
        """Add the values of `other`."""

    def pack(self) -> Any:
        """Return the state in types that MessagePack can hold."""

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        """Restore the state that :meth:`pack` returned."""

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> Any:
        """Return the value of `feature` over `parts`, at least one, oldest first."""

    @property
    def nbytes(self) -> int:
        """Approximate memory of the state."""


class _Total:
    """Number or sum of values; a count adds ones."""

    __slots__ = ("total",)
    nbytes = 56
    packed_type: ClassVar[Any] = int | float
    initial: ClassVar[float] = 0.0
    combine: ClassVar[Any] = staticmethod(operator.add)  # of two numbers

    def __init__(self, feature: Feature) -> None:
        self.total = self.initial

    def add(self, value: Any, timestamp: int) -> None:
        self.total = self.combine(self.total, value)

    def merge(self, other: _Total) -> None:
        self.total = self.combine(self.total, other.total)

    def pack(self) -> float:
        return self.total

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        self = cls(feature)
        self.total = float(packed)
        return self

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> float:
        total = float(reduce(cls.combine, (part.total for part in parts), cls.initial))
        return total if total == total else math.inf  # beyond a double, with both signs


class _Least(_Total):
    """Least value."""

    __slots__ = ()
    initial = math.inf
    combine = staticmethod(min)


class _Greatest(_Total):
    """Greatest value."""

    __slots__ = ()
    initial = -math.inf
    combine = staticmethod(max)


class _Newest:
    """Value with the newest timestamp; of equals, the one that came last."""

    __slots__ = ("timestamp", "value")
    nbytes = 88
    packed_type: ClassVar[Any] = tuple[int, int | float]

    def __init__(self, feature: Feature) -> None:
        self.timestamp, self.value = -1, 0.0

    def add(self, value: Any, timestamp: int) -> None:
        if timestamp >= self.timestamp:
            self.timestamp, self.value = timestamp, value

    def merge(self, other: _Newest) -> None:
        self.add(other.value, other.timestamp)

    def pack(self) -> tuple[int, float]:
        return self.timestamp, self.value

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        self = cls(feature)
        self.timestamp, self.value = packed
        return self

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> float:
        return float(max(reversed(parts), key=lambda part: part.timestamp).value)


class _Distinct:
    """Approximate number of different texts, by an HLL sketch with four-bit registers."""

    __slots__ = ("_sketch",)
    packed_type: ClassVar[Any] = bytes

    def __init__(self, feature: Feature) -> None:
        self._sketch = hll_sketch(HLL_LG_K, HLL_4)

    def add(self, value: Any, timestamp: int) -> None:
        self._sketch.update(value)

    def merge(self, other: _Distinct) -> None:
        union = hll_union(HLL_LG_K)
        union.update(self._sketch)
        union.update(other._sketch)
        self._sketch = union.get_result(HLL_4)

    def pack(self) -> bytes:
        return bytes(self._sketch.serialize_compact())

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        self = cls(feature)
        try:
            self._sketch = hll_sketch.deserialize(packed)
        except (ValueError, IndexError, RuntimeError) as error:  # exceptions of the C++ library
            raise StateError(f"a packed sketch is damaged: {error}") from error
        return self

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> float:
        union = hll_union(HLL_LG_K)
        for part in parts:
            union.update(part._sketch)
        # Without this second merge the estimate depends on the order of the values; after it, on
        # the registers alone, which are the same in every order.
        union.update(union.get_result(HLL_4))
        return float(union.get_estimate())

    @property
    def nbytes(self) -> int:
        return 100 + int(self._sketch.get_compact_serialization_bytes())


class Values:
    """Count of each text; beyond `max_groups` texts, new ones are ignored."""

    __slots__ = ("_counts", "_most")
    packed_type: ClassVar[Any] = dict[str, int]

    def __init__(self, feature: Feature) -> None:
        """Create an empty accumulator."""
        self._counts: dict[str, int] = {}
        self._most = feature.max_groups

    def add(self, value: Any, timestamp: int) -> None:
        """Count `value`."""
        if value in self._counts or len(self._counts) < self._most:
            self._counts[value] = self._counts.get(value, 0) + 1

    def drop(self, drops: Callable[[str], bool]) -> None:
        """Delete texts."""
        self._counts = {text: n for text, n in self._counts.items() if not drops(text)}

    def merge(self, other: Values) -> None:
        """Add the counts of `other`."""
        for value, count in other._counts.items():
            if value in self._counts or len(self._counts) < self._most:
                self._counts[value] = self._counts.get(value, 0) + count

    def pack(self) -> dict[str, int]:
        """Return the counts."""
        return dict(self._counts)

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        """Return the counts."""
        self = cls(feature)
        self._counts = dict(packed)
        return self

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> Any:
        """Return the number of texts, or the most frequent ones."""
        merged = parts[0]
        if len(parts) > 1:
            merged = cls(feature)
            for part in parts:
                merged.merge(part)
        if feature.aggregate == "distinct":
            return float(len(merged._counts))
        return most_frequent(merged._counts, feature)

    @property
    def nbytes(self) -> int:
        """Approximate memory of the dictionary."""
        return 64 + 150 * len(self._counts)


ACCUMULATORS: Final[Mapping[str, type[Accumulator]]] = MappingProxyType(
    {
        "count": _Total,
        "sum": _Total,
        "min": _Least,
        "max": _Greatest,
        "last": _Newest,
        "hll": _Distinct,
        "values": Values,
        "kll": Quantiles,
    }
)
"""Accumulators by kind."""


def most_frequent(counts: Mapping[str, float], feature: Feature) -> list[tuple[str, int]]:
    """Return the `n` texts with the greatest counts, ties in text order."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(text, int(count)) for text, count in ranked[: feature.n]]
