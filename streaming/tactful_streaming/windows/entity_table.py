"""All entities of one kind: rows, features, packed state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.definitions.model import Feature, SessionWindow
from tactful_streaming.windows.columns import Selection
from tactful_streaming.windows.entity_rows import NOBODY, EntityRows
from tactful_streaming.windows.packed_entity import NEWEST, decode_all, encode
from tactful_streaming.windows.reads import ColumnCache, LazyValues, Placing, View
from tactful_streaming.windows.shared_aggregate import Outcome, Value, make_shared_aggregates
from tactful_streaming.windows.triggers import (
    ALL_ROWS,
    WindowResult,
    drop_infinite,
    emit_windows,
    has_windows,
    next_pending,
)

Loader = Callable[[Sequence[str]], Sequence[bytes | None]]
"""Returns the stored packed state of entities; None for one without."""

_FIRST_CAPACITY = 256
_ROWS_AT_ONCE = 16_384
_ROW_BYTES = 210  # memory of a row without its state: key, dictionary, columns
_SHRINK_TO = 0.9


@dataclass(frozen=True)
class NonZero:
    """One page of the entities whose number is not 0.

    Entities may change between two pages: an entity on both has its present number on the later
    one.
    """

    keys: list[str]
    numbers: Floats  # number of each entity, shape ``(len(keys),)``
    following: int | None  # start of the next page; None after the last


class EntityTable:
    """State of every entity of one kind.

    An entity has one row, the same in every shared aggregate::

        row   key     views by item               purchases, no groups
        0     None    (always empty)
        1     "ada"   {"shoes": 3.0, ...}         2.0
        2     "bob"   {"hats": 1.0}               0.0

    Its row is freed once no read can return anything of it: every feature ages and the newest event
    is older than the longest window. With a loader, :meth:`shrink` also removes entities from
    memory alone; an event or a read loads them again. While all are in memory, no read asks the
    store.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        load: Loader | None = None,
        *,
        capacity: int = _FIRST_CAPACITY,
        emits: bool = False,
        allowed_lateness_ms: int = 0,
    ) -> None:
        """Create an empty table for the features of one kind of entity, and room for `capacity`.

        `load` loads entities that are not in memory; None: all are. `emits` is whether :meth:`emit`
        will be called, and a window may change for `allowed_lateness_ms` after its end.
        """
        self.features = tuple(features)  # features computed
        # Shared by features; events are counted once in each.
        self.aggregates = tuple(make_shared_aggregates(self.features, emits=emits))
        of_feature = {f.name: shared for shared in self.aggregates for f in shared.features}
        self._views = {f.name: View(f, of_feature[f.name]) for f in self.features}
        self._cache = ColumnCache(self._views)
        self._emitting = [view for view in self._views.values() if emits and has_windows(view)]
        self._load = load
        self._spilled = load is not None  # whether entities may be in the store alone
        self._lateness_ms = allowed_lateness_ms
        self._rows = EntityRows(capacity)
        self._dropped: set[str] = set()
        self._horizon = 0
        for aggregate in self.aggregates:
            aggregate.resize(capacity)

    def __len__(self) -> int:
        """Return the number of entities in memory."""
        return len(self._rows.row_of)

    @property
    def may_spill(self) -> bool:
        """Whether entities may leave memory."""
        return self._load is not None

    @property
    def spans(self) -> dict[str, int | None]:
        """Keys of the stored columns, and the age of each, ms; None: no limit.

        A column whose key is missing, or whose span has grown, must be recomputed from the log.
        """
        columns = [item for aggregate in self.aggregates for item in aggregate.columns.items()]
        return {key: column.memory_ms for key, column in columns}

    @cached_property
    def memory_ms(self) -> int | None:
        """Time after its newest event in which an entity counts, ms; None: no limit."""
        spans = [aggregate.memory_ms for aggregate in self.aggregates]
        known = [span for span in spans if span is not None]
        return max(known, default=0) if len(known) == len(spans) else None

    @property
    def nbytes(self) -> int:
        """Approximate memory of the state."""
        state = sum(aggregate.nbytes for aggregate in self.aggregates)
        return _ROW_BYTES * len(self) + state + self._cache.nbytes

    def touch(self, keys: Sequence[str | None], timestamps: NDArray[np.int64]) -> Rows:
        """Record events of `keys`; return the row of each, new or not; -1 for None."""
        self._fetch(keys)
        rows = self._rows.find(keys)
        absent = np.flatnonzero(rows < 0).tolist()
        if absent:
            unknown = [keys[number] for number in absent]
            self._add([key for key in dict.fromkeys(unknown) if key is not None])
            rows[absent] = self._rows.find(unknown)
        touched = rows
        if len(rows) and rows.min() < 0:
            touched, timestamps = rows[rows >= 0], timestamps[rows >= 0]
        self._rows.touch(touched, timestamps)
        return rows

    def apply(self, number: int, events: Selection) -> Outcome:
        """Count `events` in the shared aggregate `number`."""
        self._cache.note_change(events.rows)
        return self.aggregates[number].apply(events, self._lateness_ms)

    def read(self, key: str, at: int) -> dict[str, Value]:
        """Return all features of `key` at time `at`; zeros for an unknown key.

        A number beyond the range of a double is left out.
        """
        table, row = self._find(key)
        values = ((name, view.read(row, at)) for name, view in table._views.items())
        return {name: value for name, value in values if value is not None}

    def read_late(self, key: str, at: int) -> LazyValues:
        """Like :meth:`read`, but each feature is computed at its first use."""
        table, row = self._find(key)
        return LazyValues(table._views, row, at)

    def read_columns(self, keys: Sequence[str], names: Sequence[str], at: int) -> Floats:
        """Return numbers of many keys at time `at`; shape ``(len(keys), len(names))``.

        NaN stands for a number beyond the range of a double.
        """
        rows = self._rows.find(keys)
        absent = np.flatnonzero(rows < 0).tolist()
        rows[absent] = NOBODY
        columns = self._cache.read(rows, names, at, self._horizon)
        if absent:
            table = self._fetched([keys[number] for number in absent])
            if table is not None:
                columns[absent] = table.read_columns([keys[n] for n in absent], names, at)
        return columns

    def read_placed(self, placing: Placing, places: Rows, names: Sequence[str], at: int) -> Floats:
        """Like :meth:`read_columns`, for the keys at `places` (0 or more) of `placing`.

        The rows of the keys are cached while `placing` lives.
        """
        if self._spilled:  # reads change which rows exist
            return self.read_columns(placing.keys_at(places), names, at)
        row_of = self._rows.row_of
        return self._cache.read_placed(placing, places, names, at, self._horizon, row_of)

    def read_nonzero(self, name: str, at: int, start: int) -> NonZero | None:
        """Return a page of the entities whose number is not 0 at time `at`.

        None if entities may be in the store alone. `start` is 0, then `following` of the page
        before.
        """
        if self._spilled:
            return None
        count = len(self._rows.keys)
        end = min(start + _ROWS_AT_ONCE, count)
        numbers = self._cache.read(np.arange(start, end), [name], at, self._horizon)[:, 0]
        present = np.flatnonzero((numbers != 0) & ~np.isnan(numbers))
        keys = list(map(self._rows.key, (start + present).tolist()))
        return NonZero(keys, numbers[present], end if end < count else None)

    def next_pending(self, watermark: int) -> int | None:
        """Return a watermark before which no window counted now ends; None without any."""
        return next_pending(self._emitting, watermark)

    def emit(self, before: int, after: int, most_rows: int = ALL_ROWS) -> Iterator[WindowResult]:
        """Yield windows with ends in ``(before, after]``, and earlier ones changed since.

        Read all of them before the next change, and before :meth:`expire`. Windows that changed
        within the allowed lateness are emitted again at each call, also with ``before == after``.
        A window with more than `most_rows` rows comes as several results.
        """
        keys, lateness = self._rows.keys, self._lateness_ms
        for result in emit_windows(self._emitting, keys, before, after, lateness, most_rows):
            feature = self._views[result.feature].feature
            # Emitted sessions are marked in the state, so that a restart does not repeat them.
            if isinstance(feature.window, SessionWindow):
                self._rows.dirty[[self._rows.row_of[key] for key in result.keys]] = True
                if feature.aggregate in ("sum", "mean"):
                    result = drop_infinite(result)
            yield result

    def expire(self, horizon: int) -> None:
        """Delete panes that no read from `horizon` on (watermark - lateness) returns.

        Each call also checks part of the entities, and drops the empty ones.
        """
        self._horizon = horizon
        for aggregate in self.aggregates:
            aggregate.expire(horizon)
        if self.memory_ms is not None:
            self._drop(self._rows.next_silent(horizon - self.memory_ms))

    def pack_changes(self, horizon: int) -> dict[str, bytes | None]:
        """Return packed state of each entity changed since the last call; None if dropped."""
        packed: dict[str, bytes | None] = dict.fromkeys(self._dropped)
        self._dropped.clear()
        rows = np.flatnonzero(self._rows.dirty)
        self._rows.dirty[rows] = False
        for row, state in zip(rows.tolist(), self._pack(rows, horizon), strict=True):
            packed[self._rows.key(row)] = encode(state)
        return packed

    def unpack(self, entities: Iterable[tuple[str, bytes]]) -> None:
        """Restore packed state of entities that the table does not hold.

        State of other features is ignored; features without state begin empty. StateError if a blob
        is no packed state of an entity.
        """
        blobs = dict(entities)
        if not blobs:
            return
        states = decode_all([*blobs.values()])
        for aggregate in self.aggregates:
            aggregate.check(states)
        self._absorb(np.array(self._add([*blobs]), np.int64), states)

    def holds(self, key: str) -> bool:
        """Return whether an entity has state."""
        self._fetch([key])
        return key in self._rows.row_of

    def merge(self, source_key: str, target_key: str) -> None:
        """Add the history of one entity to that of another, and drop the first.

        With equal timestamps, values of `source_key` count as later. Windows already emitted are
        not emitted again.
        """
        self._fetch([source_key, target_key])
        source = self._rows.row_of.get(source_key)
        if source is None or source_key == target_key:
            return
        target = self.touch([target_key], self._rows.newest[[source]])
        self._absorb(target, self._pack(np.array([source], np.int64), self._horizon))
        self._drop([source])

    def detach(self, key: str) -> bytes | None:
        """Remove an entity; return its state for :meth:`unpack`, None if unknown.

        Its open windows are not emitted here.
        """
        if not self.holds(key):
            return None
        row = self._rows.row_of[key]
        (state,) = self._pack(np.array([row], np.int64), self._horizon)
        self._drop([row])
        return encode(state)

    def shrink(self, limit: int) -> int:
        """Remove the longest untouched entities from memory if it exceeds `limit` bytes.

        Memory is then about nine tenths of it. Only entities without open windows go that have not
        changed since they were packed; their packed state must be in the store. Returns their
        number.
        """
        size = self.nbytes
        if self._load is None or size <= limit or not len(self):
            return 0
        share = 1 - _SHRINK_TO * limit / size
        rows = self._rows.unchanged()
        spans = [column.memory_ms or 0 for view in self._emitting for column in view.columns]
        if spans:
            rows = rows[self._rows.newest[rows] + max(spans) <= self._horizon]
        count = min(math.ceil(share * len(self)), len(rows))
        if count:
            self._spilled = True
            self._remove(self._rows.longest_untouched(rows, count).tolist())
            for aggregate in self.aggregates:
                aggregate.expire(self._horizon)
        return count

    def hold_all(self) -> None:
        """Note that all entities of the store are in memory."""
        self._spilled = False

    def forget(self, keys: Iterable[str]) -> None:
        """Remove entities from memory, including changes that were not packed."""
        row_of = self._rows.row_of
        self._remove([row_of[key] for key in keys if key in row_of])

    def drop_texts(self, keys: Iterable[str], drops: Callable[[str, str], bool]) -> None:
        """Delete from entities in memory the counts of texts with ``drops(source, text)``.

        The caller stores the rest.
        """
        row_of = self._rows.row_of
        rows = [row_of[key] for key in keys if key in row_of]
        self._cache.note_change(np.array(rows, np.int64))
        for aggregate in self.aggregates:
            for row in rows:
                aggregate.drop_texts(row, drops)

    def _find(self, key: str) -> tuple[EntityTable, int]:
        """Return the table and the row to read `key` from."""
        row = self._rows.row_of.get(key)
        if row is None and (table := self._fetched([key])) is not None:
            return table, table._rows.row_of[key]
        return self, NOBODY if row is None else row

    def _pack(self, rows: Rows, horizon: int) -> list[dict[str, Any]]:
        states: list[dict[str, Any]] = [{NEWEST: t} for t in self._rows.newest[rows].tolist()]
        if len(rows):
            for aggregate in self.aggregates:
                aggregate.pack(rows, horizon, states)
        return states

    def _absorb(self, rows: Rows, states: Sequence[Mapping[str, Any]]) -> None:
        newest = np.array([state[NEWEST] for state in states], np.int64)
        np.maximum.at(self._rows.newest, rows, newest)
        self._cache.note_change(rows)
        for aggregate in self.aggregates:
            aggregate.absorb(rows, states)

    def _fetch(self, keys: Sequence[str | None]) -> None:
        """Load entities that are only in the store."""
        if self._load is None or not self._spilled:
            return
        absent: set[Any] = set(keys).difference(self._rows.row_of, self._dropped, (None,))
        if absent:
            self.unpack(_load(self._load, sorted(absent)))  # neighbours share blocks on disk

    def _fetched(self, keys: Sequence[str]) -> EntityTable | None:
        """Return a table of entities that are only in the store; None if there are none."""
        if self._load is None or not self._spilled:
            return None
        loaded = _load(self._load, list(dict.fromkeys(k for k in keys if k not in self._dropped)))
        if not loaded:
            return None
        table = EntityTable(self.features, capacity=len(loaded) + 1)
        table.unpack(loaded)
        return table

    def _add(self, keys: Sequence[str]) -> list[int]:
        """Assign rows to different entities that have none."""
        capacity = self._rows.capacity
        rows = self._rows.add(keys)
        if self._rows.capacity > capacity:
            for aggregate in self.aggregates:
                aggregate.resize(self._rows.capacity)
        self._dropped.difference_update(keys)
        self._cache.note_moves(keys)
        return rows

    def _drop(self, rows: Sequence[int]) -> None:
        """Remove entities from memory and, with the next packed changes, from the store."""
        self._dropped.update(self._remove(rows))

    def _remove(self, rows: Sequence[int]) -> list[str]:
        """Remove entities from memory; return their keys."""
        if not rows:
            return []
        self._cache.note_change(np.array(rows, np.int64))
        for aggregate in self.aggregates:
            aggregate.clear(rows)
        keys = self._rows.remove(rows)
        self._cache.note_moves(keys)
        return keys


def _load(load: Loader, keys: Sequence[str]) -> list[tuple[str, bytes]]:
    blobs = zip(keys, load(keys), strict=True)
    return [(key, blob) for key, blob in blobs if blob is not None]


class PackedReader:
    """Reads features from packed entities of an online store; not thread-safe."""

    def __init__(self, features: Sequence[Feature]) -> None:
        """Read `features` of one kind of entity, those of the engine that packed them."""
        self._table = EntityTable(features, capacity=2)

    def read(self, blob: bytes | None, at: int) -> dict[str, Value]:
        """Return the features of one entity at request time; None is an unknown entity."""
        try:
            if blob is not None:
                self._table.unpack([("", blob)])
            return self._table.read("", at)
        finally:
            self._table.forget([""])


def read_packed(features: Sequence[Feature], blob: bytes | None, at: int) -> dict[str, Value]:
    """Return the features of one entity; :class:`PackedReader` is faster for many."""
    return PackedReader(features).read(blob, at)
