"""What one pane or session of one cell has gathered, where a number is not enough.

Each kind is a small object: values are added in the order of the log, two of a kind can be merged,
and one or several of them, oldest first, have a result. Equal streams give equal results however
they were cut into batches, panes, packed states and merges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final, Protocol, Self

from datasketches import HLL_4, hll_sketch, hll_union  # type: ignore[import-untyped]

from tactful_streaming.definitions.model import Feature
from tactful_streaming.errors import StateError
from tactful_streaming.windows.kll import QuantileSketch

HLL_LG_K: Final = 14
"""Two to this power are the registers of an HLL sketch.

The relative standard error of n distinct values is 1.04 / sqrt(2 ** 14) = 0.8 %: 95 % of estimates
lie within 1.6 % (Flajolet, Fusy, Gandouet and Meunier, "HyperLogLog", AofA 2007).
"""


class Accumulator(Protocol):
    """Gathers values.

    Attributes:
        packed_type: type of what :meth:`pack` gives, as msgpack holds it.
    """

    packed_type: ClassVar[Any]

    def __init__(self, feature: Feature) -> None:
        """Begin empty, for features that need the same as `feature`."""

    def add(self, value: Any, timestamp: int) -> None:
        """Gather `value`, which happened at `timestamp`."""

    def merge(self, other: Self) -> None:
        """Gather all that `other` has."""

    def pack(self) -> Any:
        """The state as something msgpack can hold."""

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        """What :meth:`pack` gave."""

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> Any:
        """The value of `feature` over `parts`, at least one, the oldest first."""

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""


class Total:
    """Number or sum of values: a count adds ones."""

    __slots__ = ("total",)
    nbytes = 56
    packed_type: ClassVar[Any] = int | float

    def __init__(self, feature: Feature) -> None:
        """Begin empty."""
        self.total = 0.0

    def add(self, value: Any, timestamp: int) -> None:
        """Add `value`."""
        self.total += value

    def merge(self, other: Total) -> None:
        """Add another total."""
        self.total += other.total

    def pack(self) -> float:
        """The total."""
        return self.total

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        """A total."""
        self = cls(feature)
        self.total = float(packed)
        return self

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> float:
        """The sum."""
        return sum((part.total for part in parts), 0.0)


class Least(Total):
    """The least value."""

    __slots__ = ()

    def __init__(self, feature: Feature) -> None:
        """Begin empty."""
        self.total = math.inf

    def add(self, value: Any, timestamp: int) -> None:
        """Keep the lesser."""
        self.total = min(self.total, value)

    def merge(self, other: Total) -> None:
        """Keep the lesser."""
        self.total = min(self.total, other.total)

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> float:
        """The least."""
        return float(min(part.total for part in parts))


class Greatest(Total):
    """The greatest value."""

    __slots__ = ()

    def __init__(self, feature: Feature) -> None:
        """Begin empty."""
        self.total = -math.inf

    def add(self, value: Any, timestamp: int) -> None:
        """Keep the greater."""
        self.total = max(self.total, value)

    def merge(self, other: Total) -> None:
        """Keep the greater."""
        self.total = max(self.total, other.total)

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> float:
        """The greatest."""
        return float(max(part.total for part in parts))


class Newest:
    """The value with the newest timestamp; of equally new ones, the one that came last."""

    __slots__ = ("timestamp", "value")
    nbytes = 88
    packed_type: ClassVar[Any] = tuple[int, int | float]

    def __init__(self, feature: Feature) -> None:
        """Begin empty."""
        self.timestamp, self.value = -1, 0.0

    def add(self, value: Any, timestamp: int) -> None:
        """Keep the newer."""
        if timestamp >= self.timestamp:
            self.timestamp, self.value = timestamp, value

    def merge(self, other: Newest) -> None:
        """Keep the newer."""
        self.add(other.value, other.timestamp)

    def pack(self) -> tuple[int, float]:
        """The value and its timestamp."""
        return self.timestamp, self.value

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        """A value and its timestamp."""
        self = cls(feature)
        self.timestamp, self.value = packed
        return self

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> float:
        """The newest value."""
        return float(max(reversed(parts), key=lambda part: part.timestamp).value)


class Distinct:
    """About how many different texts: an HLL sketch of 2 ** 14 registers of four bits."""

    __slots__ = ("_sketch",)
    packed_type: ClassVar[Any] = bytes

    def __init__(self, feature: Feature) -> None:
        """Begin empty."""
        self._sketch = hll_sketch(HLL_LG_K, HLL_4)

    def add(self, value: Any, timestamp: int) -> None:
        """Count `value` if it is new."""
        self._sketch.update(value)

    def merge(self, other: Distinct) -> None:
        """Count what `other` has."""
        union = hll_union(HLL_LG_K)
        union.update(self._sketch)
        union.update(other._sketch)
        self._sketch = union.get_result(HLL_4)

    def pack(self) -> bytes:
        """The sketch as ``datasketches`` writes it: readable in other languages, too."""
        packed: bytes = self._sketch.serialize_compact()
        return packed

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        """A sketch."""
        self = cls(feature)
        try:
            self._sketch = hll_sketch.deserialize(packed)
        except (ValueError, IndexError, RuntimeError) as error:  # exceptions of the C++ library
            raise StateError(f"a packed sketch is damaged: {error}") from error
        return self

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> float:
        """The estimate."""
        union = hll_union(HLL_LG_K)
        for part in parts:
            union.update(part._sketch)
        # Merged with itself it forgets the order in which values came, by which it would estimate
        # otherwise: only the registers count then, and these are the same in every order.
        union.update(union.get_result(HLL_4))
        estimate: float = union.get_estimate()
        return estimate

    @property
    def nbytes(self) -> int:
        """Sparse or dense size."""
        return 100 + int(self._sketch.get_compact_serialization_bytes())


class Values:
    """How often each text came; beyond `max_groups` texts, new ones are left out."""

    __slots__ = ("_counts", "_most")
    packed_type: ClassVar[Any] = dict[str, int]

    def __init__(self, feature: Feature) -> None:
        """Begin empty."""
        self._counts: dict[str, int] = {}
        self._most = feature.max_groups

    def add(self, value: Any, timestamp: int) -> None:
        """Count `value`."""
        if value in self._counts or len(self._counts) < self._most:
            self._counts[value] = self._counts.get(value, 0) + 1

    def drop(self, drops: Callable[[str], bool]) -> None:
        """Forget texts."""
        self._counts = {text: n for text, n in self._counts.items() if not drops(text)}

    def merge(self, other: Values) -> None:
        """Add the counts of `other`."""
        for value, count in other._counts.items():
            if value in self._counts or len(self._counts) < self._most:
                self._counts[value] = self._counts.get(value, 0) + count

    def pack(self) -> dict[str, int]:
        """The counts."""
        return dict(self._counts)

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        """The counts."""
        self = cls(feature)
        self._counts = dict(packed)
        return self

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> Any:
        """How many texts; or the most frequent."""
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
        """A dictionary of so many texts."""
        return 64 + 150 * len(self._counts)


class Quantiles:
    """A sketch of the distribution of numbers."""

    __slots__ = ("_sketch",)
    packed_type: ClassVar[Any] = list[int | float | list[int | float]]

    def __init__(self, feature: Feature) -> None:
        """Begin empty."""
        self._sketch = QuantileSketch()

    def add(self, value: Any, timestamp: int) -> None:
        """Add `value`."""
        self._sketch.add(value)

    def merge(self, other: Quantiles) -> None:
        """Add what `other` has."""
        self._sketch.merge(other._sketch)

    def pack(self) -> Any:
        """The sketch."""
        return self._sketch.pack()

    @classmethod
    def unpack(cls, packed: Any, feature: Feature) -> Self:
        """A sketch."""
        self = cls(feature)
        self._sketch = QuantileSketch.unpack(packed)
        return self

    @classmethod
    def result(cls, parts: Sequence[Self], feature: Feature) -> float:
        """The quantile."""
        assert feature.q is not None
        merged = parts[0]._sketch
        if len(parts) > 1:
            merged = QuantileSketch()
            for part in parts:
                merged.merge(part._sketch)
        return merged.quantile(feature.q)

    @property
    def nbytes(self) -> int:
        """The values it holds."""
        return 200 + 32 * self._sketch.held


ACCUMULATORS: Final[Mapping[str, type[Accumulator]]] = MappingProxyType(
    {
        "count": Total,
        "sum": Total,
        "min": Least,
        "max": Greatest,
        "last": Newest,
        "hll": Distinct,
        "values": Values,
        "kll": Quantiles,
    }
)
"""By the name that a part of the state has."""


def most_frequent(counts: Mapping[str, float], feature: Feature) -> list[tuple[str, int]]:
    """The `n` texts with the greatest counts, those first; of equals the least in text order."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(text, int(count)) for text, count in ranked[: feature.n]]
