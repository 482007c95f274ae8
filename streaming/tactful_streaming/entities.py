"""All entities of one kind: their rows, their features, and their packed form in the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_streaming.aggregates import (
    Aggregate,
    LastTime,
    Outcome,
    Selection,
    Value,
    WindowedTotal,
    make_aggregate,
)
from tactful_streaming.definitions import Feature, Window
from tactful_streaming.errors import EngineError, StateError
from tactful_streaming.panes import Floats, Rows

_FIRST_CAPACITY = 256
_SWEEP = 4096
_NOBODY = 0
"""Row of keys nobody has seen: always empty."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[Any])


class EntityTable:
    """State of every entity of one kind.

    An entity has a row, the same in each feature. It loses it when nothing of it can be read any
    more: when every feature ages and the newest event is older than the longest window.
    """

    def __init__(self, features: Sequence[Feature], capacity: int = _FIRST_CAPACITY) -> None:
        """Begin empty, for `features` of one kind of entity, with room for `capacity` rows."""
        self.features = tuple(features)
        self._capacity = capacity
        self._aggregates: list[Aggregate] = [
            make_aggregate(feature, self._capacity) for feature in features
        ]
        self._names = {feature.name: number for number, feature in enumerate(features)}
        self._rows: dict[str, int] = {}
        self._keys: list[str | None] = [None]
        self._free: list[int] = []
        self._newest = np.zeros(self._capacity, np.int64)
        self._dirty: set[int] = set()
        self._dropped: set[str] = set()
        self._sweep_from = 1
        windows = [
            feature.window if isinstance(feature.window, Window) else None for feature in features
        ]
        self._memory_ms: int | None = max(
            (window.size_ms for window in windows if window is not None), default=None
        )
        if any(window is None for window in windows):
            self._memory_ms = None

    def __len__(self) -> int:
        """Number of entities."""
        return len(self._rows)

    def touch(self, keys: Sequence[str | None], timestamps: NDArray[np.int64]) -> Rows:
        """Note that entities had events.

        Args:
            keys: entity of each event, or None.
            timestamps: when each event happened, epoch milliseconds.

        Returns:
            Row of each entity, made if it had none; -1 for None.
        """
        known = self._rows
        rows = [
            -1 if key is None else known[key] if key in known else self._add(key) for key in keys
        ]
        array = np.array(rows, np.int64)
        self._dirty.update(rows)
        self._dirty.discard(-1)
        present = array >= 0
        np.maximum.at(self._newest, array[present], timestamps[present])
        return array

    def apply(self, number: int, selection: Selection) -> Outcome:
        """Count `selection` in feature `number`."""
        return self._aggregates[number].apply(selection)

    def read(self, key: str, at: int) -> dict[str, Value]:
        """All features of `key` at time `at`; of a key nobody has seen, zeros."""
        row = self._rows.get(key, _NOBODY)
        return {
            feature.name: aggregate.read(row, at)
            for feature, aggregate in zip(self.features, self._aggregates, strict=True)
        }

    def read_columns(self, keys: Sequence[str], names: Sequence[str], at: int) -> Floats:
        """Numbers of many keys at time `at`; shape ``(len(keys), len(names))``.

        Raises:
            EngineError: if a name is no feature with one number for each entity.
        """
        get = self._rows.get
        rows = np.array([get(key, _NOBODY) for key in keys], np.int64)
        columns = np.empty((len(names), len(keys)))
        for column, name in enumerate(names):
            number = self._names.get(name)
            aggregate = self._aggregates[number] if number is not None else None
            if not isinstance(aggregate, WindowedTotal | LastTime):
                raise EngineError(
                    f"{name!r} is not a feature with one number for each entity: columns are read "
                    "of counts, sums and last times without group_by"
                )
            columns[column] = aggregate.read_many(rows, at)
        return columns.T

    def expire(self, watermark: int) -> None:
        """Forget panes that no read at or after `watermark` can see.

        Some of the entities are looked at, too, and dropped if nothing of them is left.
        """
        for aggregate in self._aggregates:
            aggregate.expire(watermark)
        if self._memory_ms is None:
            return
        begin, end = self._sweep_from, min(self._sweep_from + _SWEEP, len(self._keys))
        self._sweep_from = end if end < len(self._keys) else 1
        silent = np.flatnonzero(self._newest[begin:end] + self._memory_ms <= watermark) + begin
        for row in silent.tolist():
            key = self._keys[row]
            if key is not None:
                self._drop(row, key)

    def pack_changes(self, watermark: int) -> dict[str, bytes | None]:
        """Packed state of each entity touched since the last call; None for each one dropped."""
        packed: dict[str, bytes | None] = dict.fromkeys(self._dropped)
        self._dropped.clear()
        rows = np.array(sorted(self._dirty), np.int64)
        self._dirty.clear()
        if len(rows):
            columns = [aggregate.pack(rows, watermark) for aggregate in self._aggregates]
            newest = self._newest[rows].tolist()
            for row, *state in zip(rows.tolist(), newest, *columns, strict=True):
                key = self._keys[row]
                assert key is not None
                packed[key] = _encoder.encode(state)
        return packed

    def unpack(self, entities: Iterable[tuple[str, bytes]]) -> None:
        """Restore what :meth:`pack_changes` gave; the table has none of these entities.

        Raises:
            StateError: if something else comes.
        """
        keys: list[str] = []
        states: list[list[Any]] = []
        for key, blob in entities:
            try:
                state = _decoder.decode(blob)
            except msgspec.MsgspecError as error:
                raise StateError(f"the packed state of an entity is damaged: {error}") from error
            if len(state) != len(self._aggregates) + 1:
                raise StateError("the packed state of an entity has another number of features")
            keys.append(key)
            states.append(state)
        if not keys:
            return
        rows = np.array([self._add(key) for key in keys], np.int64)
        newest, *columns = zip(*states, strict=True)
        try:
            self._newest[rows] = newest
            for aggregate, column in zip(self._aggregates, columns, strict=True):
                aggregate.unpack(rows, column)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise StateError(f"the packed state of an entity is damaged: {error}") from error

    def _add(self, key: str) -> int:
        if self._free:
            row = self._free.pop()
            self._keys[row] = key
        else:
            row = len(self._keys)
            self._keys.append(key)
            if row >= self._capacity:
                self._grow(2 * self._capacity)
        self._rows[key] = row
        self._dropped.discard(key)
        return row

    def _drop(self, row: int, key: str) -> None:
        for aggregate in self._aggregates:
            aggregate.clear(row)
        del self._rows[key]
        self._keys[row] = None
        self._free.append(row)
        self._newest[row] = 0
        self._dirty.discard(row)
        self._dropped.add(key)

    def _grow(self, capacity: int) -> None:
        for aggregate in self._aggregates:
            aggregate.resize(capacity)
        self._newest = np.concatenate([self._newest, np.zeros(capacity - self._capacity, np.int64)])
        self._capacity = capacity


def read_packed(features: Sequence[Feature], blob: bytes | None, at: int) -> dict[str, Value]:
    """Features of one entity from its packed state, as an online store holds it.

    Args:
        features: features of that kind of entity, as the engine that packed it had them.
        blob: the packed state; None for an entity nobody has seen.
        at: request time, epoch milliseconds.

    Raises:
        StateError: if `blob` is no packed state of these features.
    """
    table = EntityTable(features, capacity=2)
    if blob is not None:
        table.unpack([("", blob)])
    return table.read("", at)
