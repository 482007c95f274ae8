"""Compares what two computations of one log keep of users and sessions, value by value.

Packed entities may differ in their bytes although they say the same: an old pane that one of them
has dropped, for example. Both are therefore read by the engine's own code, at the same times. An
entity whose values differ is read again after both sides have passed the end of the log: if neither
copy has changed meanwhile, both had counted the same events, and the difference is real::

    log       … e7 e8 e9 | end at the first reading
    first     marked 9     {"views": 3}   → later marked 12, the same bytes
    second    marked 10    {"views": 4}   → later marked 12, the same bytes: views differs
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

from tactful_streaming.definitions.model import Definitions, Feature, ForwardDecay
from tactful_streaming.errors import StateError
from tactful_streaming.flink.entities import entity_hash, entity_kinds
from tactful_streaming.online.store import RedisOnlineStore
from tactful_streaming.state.key_layout import entity_prefix, named
from tactful_streaming.state.store import StateStore
from tactful_streaming.windows.entity_table import PackedReader
from tactful_streaming.windows.packed_entity import newest_packed

_PIECE: Final = 256
_EXAMPLES: Final = 3
_TOLERANCE: Final = 1e-9
_LATER_MS: Final = (0, 60_000, 3_600_000, 86_400_000)
"""Times after the newest event at which entities are read, so that windows age in between."""

_Entity = tuple[str, str]  # kind and key
_Blobs = tuple[bytes | None, bytes | None]


class Side(Protocol):
    """Packed entities that one of the two computations keeps."""

    name: str

    def reached(self) -> Mapping[int, int]:
        """Return the offset of the log up to which each partition is counted, and read from now."""

    def keys(self, kind: str) -> Iterable[str]:
        """Return the keys of all entities of a kind, some perhaps twice."""

    def get_many(self, keys: Sequence[str], *, kind: str) -> list[bytes | None]:
        """Read the packed entities of `keys`, in their order; None for a missing one."""


class RedisSide:
    """Values that workers of an engine, or copiers of a Flink job, keep in Redis."""

    def __init__(self, name: str, store: RedisOnlineStore, partitions: int) -> None:
        """Read `store`, which has marks of that many partitions."""
        self.name = name
        self._store = store
        self._partitions = range(partitions)

    def reached(self) -> dict[int, int]:
        """Return the marks."""
        marks = {number: self._store.marked(number) for number in self._partitions}
        return {number: offset for number, offset in marks.items() if offset is not None}

    def keys(self, kind: str) -> list[str]:
        """Return the keys of all entities of a kind, some perhaps twice."""
        return self._store.keys(kind)

    def get_many(self, keys: Sequence[str], *, kind: str) -> list[bytes | None]:
        """Read the packed entities of `keys`, in their order; None for a missing one."""
        return self._store.get_many(keys, kind=kind)


States = Sequence[tuple[StateStore, Mapping[int, int]]]
"""Opened states of engines, and of each the next offset of the partitions that it counts."""


class StateSide:
    """Values that engines keep in their own states."""

    def __init__(self, name: str, open_states: Callable[[], States]) -> None:
        """Read states, which `open_states` opens anew each time, as they are at that time."""
        self.name = name
        self._open = open_states
        self._states: States = ()

    def reached(self) -> dict[int, int]:
        """Open the states again, and return their offsets."""
        self.close()
        self._states = self._open()
        return {number: at for _, offsets in self._states for number, at in offsets.items()}

    def keys(self, kind: str) -> Iterator[str]:
        """Iterate over the keys of all entities of a kind."""
        for store, _ in self._states:
            for key, _ in named(store, entity_prefix(kind)):
                yield key

    def get_many(self, keys: Sequence[str], *, kind: str) -> list[bytes | None]:
        """Read the packed entities of `keys`, in their order; None for a missing one."""
        prefix = entity_prefix(kind)
        blobs: list[bytes | None] = [None] * len(keys)
        for store, _ in self._states:
            found = store.get_many([prefix + key.encode() for key in keys])
            blobs = [new if old is None else old for old, new in zip(blobs, found, strict=True)]
        return blobs

    def close(self) -> None:
        """Close the states."""
        for store, _ in self._states:
            store.close()
        self._states = ()


@dataclass(frozen=True)
class Example:
    """A value that differs; of numbers alone, since texts may be personal."""

    entity: str  # hash of kind and key
    first: float | None
    second: float | None


@dataclass(frozen=True)
class ComparedFeature:
    """Result of one definition."""

    entity: str
    feature: str
    different: int
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class ComparedKind:
    """Result of one kind of entity. An entity without any value now counts as missing."""

    entity: str
    both: int  # entities that both sides have
    only_first: int
    only_second: int


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two sides."""

    first: str
    second: str
    at: int  # request time, epoch milliseconds: the newest event
    kinds: tuple[ComparedKind, ...]
    features: tuple[ComparedFeature, ...]
    unsettled: int  # entities that changed at each reading, until the time was over

    @property
    def different(self) -> int:
        """Number of values that differ, and of entities that one side alone has."""
        values = sum(feature.different for feature in self.features)
        return values + sum(kind.only_first + kind.only_second for kind in self.kinds)


def compare_sides(
    first: Side,
    second: Side,
    definitions: Definitions,
    *,
    settle: Callable[[], bool],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Compare the values of all users and sessions at the same request times.

    Values are equal bit by bit, but for decay by a half-life: 1e-9 of the value.

    Args:
        first: one side, which has reached the offset to compare at.
        second: the other one.
        definitions: those that both compute.
        settle: waits until both sides have passed the present end of the log; False if the time is
            over.
        progress: called with the numbers of entities read and to read.

    Raises:
        StateError: if a packed entity is damaged.
        OnlineStoreError: if Redis fails.
    """
    comparer = _Comparer((first, second), definitions, progress)
    suspects = comparer.read_all()
    before: dict[_Entity, _Blobs] = {}
    while suspects:
        before = comparer.read_again(suspects, before)
        suspects = [*before]
        if suspects and not settle():
            break
    return comparer.result(unsettled=len(suspects))


class _Comparer:
    def __init__(
        self,
        sides: tuple[Side, Side],
        definitions: Definitions,
        progress: Callable[[int, int], None],
    ) -> None:
        self._sides = sides
        self._features = {kind: definitions.of_entity(kind) for kind in entity_kinds(definitions)}
        self._readers = {kind: PackedReader(of) for kind, of in self._features.items()}
        self._progress = progress
        self._done = self._total = 0
        self._at = 0
        self._both: Counter[str] = Counter()
        self._alone: Counter[tuple[str, int]] = Counter()
        self._different: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], list[Example]] = {}

    def read_all(self) -> list[_Entity]:
        """Read all entities; return those whose bytes differ."""
        keys = [
            (kind, key)
            for kind in self._features
            for key in dict.fromkeys(key for side in self._sides for key in side.keys(kind))
        ]
        suspects = []
        for (kind, key), blobs in self._read(keys):
            self._both[kind] += None not in blobs
            if blobs[0] != blobs[1]:
                suspects.append((kind, key))
        return suspects

    def read_again(
        self, suspects: Sequence[_Entity], before: Mapping[_Entity, _Blobs]
    ) -> dict[_Entity, _Blobs]:
        """Read entities; count those that differ as `before`, and return the others that differ."""
        differing = {}
        for entity, blobs in self._read(suspects):
            differences = self._differences(entity[0], blobs)
            if differences and before.get(entity) == blobs:
                self._count(entity, blobs, differences)
            elif differences:
                differing[entity] = blobs
        return differing

    def result(self, *, unsettled: int) -> Comparison:
        return Comparison(
            first=self._sides[0].name,
            second=self._sides[1].name,
            at=self._at,
            kinds=tuple(
                ComparedKind(kind, self._both[kind], self._alone[kind, 0], self._alone[kind, 1])
                for kind in self._features
            ),
            features=tuple(
                ComparedFeature(
                    kind,
                    feature.name,
                    self._different[kind, feature.name],
                    tuple(self._examples.get((kind, feature.name), ())),
                )
                for kind, features in self._features.items()
                for feature in features
            ),
            unsettled=unsettled,
        )

    def _read(self, entities: Sequence[_Entity]) -> Iterator[tuple[_Entity, _Blobs]]:
        """Read both copies of entities; the newest event of all becomes the request time."""
        self._total += len(entities)
        for kind in self._features:
            keys = iter([key for of, key in entities if of == kind])
            while piece := list(islice(keys, _PIECE)):
                copies = [side.get_many(piece, kind=kind) for side in self._sides]
                for key, first, second in zip(piece, *copies, strict=True):
                    self._at = max(self._at, *map(self._newest, self._sides, (first, second)))
                    yield (kind, key), (first, second)
                self._done += len(piece)
                self._progress(self._done, self._total)

    def _newest(self, side: Side, blob: bytes | None) -> int:
        try:
            return 0 if blob is None else newest_packed(blob)
        except StateError as error:
            raise StateError(f"{side.name}: {error}") from error

    def _differences(self, kind: str, blobs: _Blobs) -> dict[str, tuple[Any, Any]]:
        """Return the values that differ at any time, by feature."""
        found: dict[str, tuple[Any, Any]] = {}
        for later in _LATER_MS:
            first, second = (self._readers[kind].read(blob, self._at + later) for blob in blobs)
            for feature in self._features[kind]:
                pair = first.get(feature.name), second.get(feature.name)
                if not _same(feature, *pair):
                    found.setdefault(feature.name, pair)
        return found

    def _count(
        self, entity: _Entity, blobs: _Blobs, differences: Mapping[str, tuple[Any, Any]]
    ) -> None:
        kind, key = entity
        if None in blobs:
            self._alone[kind, blobs.index(None) ^ 1] += 1
            return
        for name, pair in differences.items():
            self._different[kind, name] += 1
            examples = self._examples.setdefault((kind, name), [])
            if len(examples) < _EXAMPLES:
                examples.append(Example(entity_hash(kind, key), *map(_number, pair)))


def _same(feature: Feature, first: Any, second: Any) -> bool:
    if first == second:
        return True
    if not isinstance(feature.window, ForwardDecay):
        return False
    if isinstance(first, dict) and isinstance(second, dict):
        alike = first.keys() == second.keys()
        return alike and all(_close(first[group], second[group]) for group in first)
    return isinstance(first, float) and isinstance(second, float) and _close(first, second)


def _close(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=_TOLERANCE, abs_tol=1e-300)


def _number(value: object) -> float | None:
    return value if isinstance(value, float) else None
