"""All entities of one kind: their rows, their features, and their packed form in the store."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.decode.row_cache import PlacedRows, Placing
from tactful_streaming.definitions.model import Feature, SessionWindow
from tactful_streaming.errors import EngineError, StateError
from tactful_streaming.kernels.gather import load_taking
from tactful_streaming.windows.column_cache import ColumnCache, KeptNumbers, keeps
from tactful_streaming.windows.columns import Selection
from tactful_streaming.windows.reads import LateValues, View
from tactful_streaming.windows.store import Outcome, Value, make_stores, with_groups
from tactful_streaming.windows.triggers import WindowResult, emit_windows, has_windows, next_pending

Loader = Callable[[Sequence[str]], Sequence[bytes | None]]
"""Gives the stored packed state of entities; None for one that has none."""

_FIRST_CAPACITY = 256
_SWEEP = 4096
_ROWS_AT_ONCE = 16_384
_NOBODY = 0
"""Row of keys nobody has seen: always empty."""

_ROW_BYTES = 210
"""Memory of a row beside its state: key, dictionary, columns."""

_SHRINK_TO = 0.9
_FREE = -1
"""When a row was touched that nobody has."""

_NEWEST = ""
"""Key of the time of its newest event in the packed state of an entity."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[dict[str, Any]] = msgspec.msgpack.Decoder(dict[str, Any])
_many_decoder: msgspec.msgpack.Decoder[list[dict[str, Any]]] = msgspec.msgpack.Decoder(
    list[dict[str, Any]]
)
_ARRAY_32 = b"\xdd"
"""How an array begins in msgpack, before its length in four bytes."""


@dataclass(frozen=True)
class NonZero:
    """Entities whose number is not 0, a part of all.

    Attributes:
        keys: their ids.
        numbers: of each, shape ``(len(keys),)``.
        following: where the next part begins; None after the last. Entities come and go between
            two parts: one may come twice, the last time as it is.
    """

    keys: list[str]
    numbers: Floats
    following: int | None


class EntityTable:
    """State of every entity of one kind.

    An entity has a row, the same in each store. It loses it when nothing of it can be read any
    more: when every feature ages and the newest event is older than the longest window. With a
    loader it can also leave memory alone (:meth:`shrink`): it comes back from the store when an
    event or a read asks for it.

    Attributes:
        features: what is computed.
        stores: where: events are counted by store, not by feature.
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
        """Begin empty.

        Args:
            features: features of one kind of entity.
            load: where entities come from that are not in memory; None: all are in memory.
            capacity: for how many rows there is room at first.
            emits: whether :meth:`emit` will be called.
            allowed_lateness_ms: for how long after its end a window may still change.
        """
        self.features = tuple(features)
        self.stores = tuple(make_stores(self.features, emits=emits))
        of_source = {feature.name: store for store in self.stores for feature in store.features}
        self._views = {f.name: View(f, of_source[f.name]) for f in self.features}
        self._kept: dict[str, ColumnCache] = {}
        self._numbers = KeptNumbers()
        self._placed: WeakKeyDictionary[Placing, PlacedRows] = WeakKeyDictionary()
        self._emitting = [view for view in self._views.values() if emits and has_windows(view)]
        self._load = load
        self._lateness_ms = allowed_lateness_ms
        self._capacity = capacity
        self._rows: dict[str, int] = {}
        self._keys: list[str | None] = [None]
        self._free: list[int] = []
        self._newest = np.zeros(capacity, np.int64)
        self._touched = np.zeros(capacity, np.int64)
        self._dirty = np.zeros(capacity, np.bool_)
        self._touches = 0
        self._dropped: set[str] = set()
        self._sweep_from = 1
        self._horizon = 0
        for store in self.stores:
            store.resize(capacity)

    def __len__(self) -> int:
        """Number of entities in memory."""
        return len(self._rows)

    @property
    def spans(self) -> dict[str, int | None]:
        """Keys of what is stored, and how far back each reaches, milliseconds; None: for ever.

        State whose key is missing, or whose span has grown, has to be computed from the log.
        """
        return {key: part.memory_ms for store in self.stores for key, part in store.parts.items()}

    @cached_property
    def memory_ms(self) -> int | None:
        """How long after its newest event an entity may matter, milliseconds; None: for ever."""
        spans = [store.memory_ms for store in self.stores]
        known = [span for span in spans if span is not None]
        return max(known, default=0) if len(known) == len(spans) else None

    @property
    def nbytes(self) -> int:
        """About how much memory the state takes."""
        kept = sum(cache.nbytes for cache in self._kept.values())
        kept += sum(placed.nbytes for placed in self._placed.values())
        return _ROW_BYTES * len(self._rows) + sum(store.nbytes for store in self.stores) + kept

    def keys_of(self, name: str) -> tuple[str, ...]:
        """Keys of what is stored for the feature `name`."""
        view = self._views[name]
        return view.store.keys_of(view.feature)

    def touch(self, keys: Sequence[str | None], timestamps: NDArray[np.int64]) -> Rows:
        """Note that entities had events.

        Args:
            keys: entity of each event, or None.
            timestamps: when each event happened, epoch milliseconds.

        Returns:
            Row of each entity, made if it had none; -1 for None.
        """
        known = self._rows
        if self._load is not None:
            self._fetch(keys)
        find: Any = known.get  # of None nothing is known
        rows = np.fromiter(map(find, keys, repeat(-1)), np.int64, len(keys))
        absent = np.flatnonzero(rows < 0).tolist()
        if absent:
            new: dict[Any, None] = dict.fromkeys(keys[number] for number in absent)
            new.pop(None, None)
            self._add_all([*new])
            rows[absent] = [find(keys[number], -1) for number in absent]
        touched = rows
        if len(rows) and rows.min() < 0:
            touched, timestamps = rows[rows >= 0], timestamps[rows >= 0]
        self._touches += 1
        self._touched[touched] = self._touches
        self._dirty[touched] = True
        np.maximum.at(self._newest, touched, timestamps)
        return rows

    def apply(self, number: int, events: Selection) -> Outcome:
        """Count `events` in store `number`."""
        self._note_change(events.rows)
        return self.stores[number].apply(events, self._lateness_ms)

    def read(self, key: str, at: int) -> dict[str, Value]:
        """All features of `key` at time `at`; of a key nobody has seen, zeros."""
        table, row = self._found(key)
        return {name: view.read(row, at) for name, view in table._views.items()}

    def read_late(self, key: str, at: int) -> LateValues:
        """As :meth:`read`, each feature when it is asked for, which is before anything changes."""
        table, row = self._found(key)
        return LateValues(table._views, row, at)

    def _found(self, key: str) -> tuple[EntityTable, int]:
        """The table and the row to read `key` from."""
        row = self._rows.get(key)
        if row is None:
            table = self._fetched([key])
            if table is not None:
                return table._found(key)
            row = _NOBODY
        return self, row

    def read_columns(self, keys: Sequence[str], names: Sequence[str], at: int) -> Floats:
        """Numbers of many keys at time `at`; shape ``(len(keys), len(names))``.

        Raises:
            EngineError: if a name is no feature with one number for each entity.
        """
        rows = np.fromiter(map(self._rows.get, keys, repeat(-1)), np.int64, len(keys))
        absent = np.flatnonzero(rows < 0).tolist()
        rows[absent] = _NOBODY
        columns = self._read_rows(rows, names, at)
        if absent:
            table = self._fetched([keys[number] for number in absent])
            if table is not None:
                columns[absent] = table.read_columns([keys[n] for n in absent], names, at)
        return columns

    def read_placed(self, placing: Placing, places: Rows, names: Sequence[str], at: int) -> Floats:
        """As :meth:`read_columns`, of the keys at some places.

        Args:
            placing: whose places they are; what was looked up is remembered as long as it lives.
            places: at least 0.
            names: as there.
            at: request time, epoch milliseconds.

        Raises:
            EngineError: if a name is no feature with one number for each entity.
        """
        if self._load is not None:  # rows come and go with what is asked for
            return self.read_columns(placing.keys_at(places), names, at)
        placed = self._placed.get(placing)
        if placed is None:
            placed = self._placed[placing] = PlacedRows()
        columns = self._columns_kept(names, at)
        if columns is None:
            return self._read_rows(placed.at(places, placing, self._rows, _NOBODY), names, at)
        placed.settle(placing)
        found, unknown = np.empty((len(names), len(places))), np.empty(len(places), np.int64)
        count = load_taking()(
            np.ascontiguousarray(places, np.int64),
            *(placed.rows, self._numbers.numbers, columns, found, unknown),
        )
        if count:
            some = unknown[:count]
            rows = placed.at(places[some], placing, self._rows, _NOBODY)
            found[:, some] = self._read_rows(rows, names, at).T
        return found.T

    def read_nonzero(self, name: str, at: int, start: int) -> NonZero | None:
        """The entities whose number is not 0 at time `at`, those of some rows.

        Args:
            name: a feature with one number for each entity.
            at: request time, epoch milliseconds.
            start: where to begin: 0, then what the part before says.

        Returns:
            None where entities may be in the store alone.

        Raises:
            EngineError: if the name is no such feature.
        """
        if self._load is not None:
            return None
        end = min(start + _ROWS_AT_ONCE, len(self._keys))
        rows = np.arange(start, end)
        numbers = self._read_rows(rows, [name], at)[:, 0]
        some = np.flatnonzero(numbers)
        keys: list[str] = []
        for row in rows[some].tolist():
            key = self._keys[row]
            assert key is not None
            keys.append(key)
        return NonZero(keys, numbers[some], end if end < len(self._keys) else None)

    def _read_rows(self, rows: Rows, names: Sequence[str], at: int) -> Floats:
        views = [self._number(name) for name in names]
        columns = np.empty((len(names), len(rows)))
        for column, view in zip(columns, views, strict=True):
            cache = self._cache(view) if at >= self._horizon else None
            column[:] = (cache or view).read_many(rows, at)
        return columns.T

    def next_pending(self, watermark: int) -> int | None:
        """Watermark before which nothing that is counted now fires; None if nothing waits."""
        return next_pending(self._emitting, watermark)

    def emit(self, before: int, after: int) -> list[WindowResult]:
        """Windows whose end lies in ``(before, after]``, and earlier ones that changed since.

        To be called before :meth:`expire`. Windows that changed within the allowed lateness come
        again whenever this is called, also with ``before == after``.
        """
        results = emit_windows(self._emitting, self._keys, before, after, self._lateness_ms)
        for result in results:
            # That a session has fired is part of the state, or it fires again after a restart.
            if isinstance(self._views[result.feature].feature.window, SessionWindow):
                self._dirty[[self._rows[key] for key in result.keys]] = True
        return results

    def expire(self, horizon: int) -> None:
        """Forget panes that no read at or after `horizon` can see.

        Some of the entities are looked at, too, and dropped if nothing of them is left.

        Args:
            horizon: the watermark minus the allowed lateness, epoch milliseconds.
        """
        self._horizon = horizon
        for store in self.stores:
            store.expire(horizon)
        memory = self.memory_ms
        if memory is None:
            return
        begin, end = self._sweep_from, min(self._sweep_from + _SWEEP, len(self._keys))
        self._sweep_from = end if end < len(self._keys) else 1
        silent = np.flatnonzero(self._newest[begin:end] + memory <= horizon) + begin
        rows = [row for row in silent.tolist() if self._keys[row] is not None]
        if rows:
            self._dropped.update(self._forget(rows))

    def pack_changes(self, horizon: int) -> dict[str, bytes | None]:
        """Packed state of each entity touched since the last call; None for each one dropped."""
        packed: dict[str, bytes | None] = dict.fromkeys(self._dropped)
        self._dropped.clear()
        rows = np.flatnonzero(self._dirty)
        self._dirty[rows] = False
        for row, state in zip(rows.tolist(), self._pack(rows, horizon), strict=True):
            key = self._keys[row]
            assert key is not None
            packed[key] = _encoder.encode(state)
        return packed

    def unpack(self, entities: Iterable[tuple[str, bytes]]) -> None:
        """Restore what :meth:`pack_changes` gave; the table has none of these entities.

        State of other features is passed over, and what is missing begins empty.

        Raises:
            StateError: if something else comes.
        """
        keys: list[str] = []
        blobs: list[bytes] = []
        for key, blob in entities:
            keys.append(key)
            blobs.append(blob)
        if not keys:
            return
        states = _decode_all(blobs)
        for store in self.stores:
            store.check(states)
        self._absorb(np.array(self._add_all(keys), np.int64), states)

    def holds(self, key: str) -> bool:
        """Whether anything is known of an entity."""
        if self._load is not None:
            self._fetch([key])
        return key in self._rows

    def merge(self, source_key: str, target_key: str) -> None:
        """Add the history of one entity to that of another; the first is then dropped.

        Of values that happened at the same time, those of `source_key` count as the later ones.
        Windows that have fired do not fire again.
        """
        if source_key == target_key:
            return
        if self._load is not None:
            self._fetch([source_key, target_key])
        source = self._rows.get(source_key)
        if source is None:
            return
        self.touch([target_key], self._newest[[source]])
        target = np.array([self._rows[target_key]], np.int64)
        self._absorb(target, self._pack(np.array([source], np.int64), self._horizon))
        self._dropped.update(self._forget([source]))

    def detach(self, key: str) -> bytes | None:
        """Remove an entity and give its packed state, as :meth:`unpack` takes it; None for nobody.

        Windows of it that have not fired do not fire here.
        """
        if self._load is not None:
            self._fetch([key])
        row = self._rows.get(key)
        if row is None:
            return None
        (state,) = self._pack(np.array([row], np.int64), self._horizon)
        self._dropped.update(self._forget([row]))
        return _encoder.encode(state)

    def shrink(self, limit: int) -> int:
        """Let entities leave memory, the longest untouched first, if it takes more than `limit`.

        Only those go that have not changed since they were packed, which has to be in the store by
        now, and that have nothing left to fire.

        Args:
            limit: bytes; :attr:`nbytes` is then about nine tenths of it.

        Returns:
            How many went.
        """
        size = self.nbytes
        if self._load is None or size <= limit or not self._rows:
            return 0
        share = 1 - _SHRINK_TO * limit / size
        used = len(self._keys)
        rows = np.flatnonzero((self._touched[:used] != _FREE) & ~self._dirty[:used])[1:]
        if self._emitting:
            spans = [part.memory_ms or 0 for view in self._emitting for part in view.parts]
            rows = rows[self._newest[rows] + max(spans) <= self._horizon]
        count = min(math.ceil(share * len(self._rows)), len(rows))
        if count:
            oldest = rows[np.argpartition(self._touched[rows], count - 1)[:count]]
            self._forget(oldest.tolist())
            for store in self.stores:
                store.expire(self._horizon)
        return count

    def forget(self, keys: Iterable[str]) -> None:
        """Let entities leave memory, whatever has changed of them."""
        self._forget([self._rows[key] for key in keys if key in self._rows])

    def drop_texts(self, keys: Iterable[str], drops: Callable[[str, str], bool]) -> None:
        """Take what was counted by some texts out of entities that are in memory.

        Whoever calls this stores what is left.

        Args:
            keys: of the entities.
            drops: whether something goes, by the source of a text and the text.
        """
        rows = [self._rows[key] for key in keys if key in self._rows]
        self._note_change(np.array(rows, np.int64))
        for store in self.stores:
            for row in rows:
                store.drop_texts(row, drops)

    def _pack(self, rows: Rows, horizon: int) -> list[dict[str, Any]]:
        states: list[dict[str, Any]] = [{_NEWEST: t} for t in self._newest[rows].tolist()]
        if len(rows):
            for store in self.stores:
                store.pack(rows, horizon, states)
        return states

    def _absorb(self, rows: Rows, states: Sequence[Mapping[str, Any]]) -> None:
        newest = np.array([state[_NEWEST] for state in states], np.int64)
        np.maximum.at(self._newest, rows, newest)
        self._note_change(rows)
        for store in self.stores:
            store.absorb(rows, states)

    def _fetch(self, keys: Sequence[str | None]) -> None:
        """Bring entities into memory that are only in the store."""
        absent: set[Any] = set(keys).difference(self._rows, self._dropped)
        absent.discard(None)
        if absent:
            assert self._load is not None
            asked = sorted(absent)  # as they lie in the store: neighbours share blocks
            blobs = zip(asked, self._load(asked), strict=True)
            self.unpack((key, blob) for key, blob in blobs if blob is not None)

    def _fetched(self, keys: Sequence[str]) -> EntityTable | None:
        """A table of entities that are only in the store; None if there are none."""
        if self._load is None:
            return None
        asked = list(dict.fromkeys(key for key in keys if key not in self._dropped))
        blobs = self._load(asked)
        found = [(k, blob) for k, blob in zip(asked, blobs, strict=True) if blob is not None]
        if not found:
            return None
        table = EntityTable(self.features, capacity=len(found) + 1)
        table.unpack(found)
        return table

    def _cache(self, view: View) -> ColumnCache | None:
        """What is kept of a view from the first time that many are read at once."""
        cache = self._kept.get(view.feature.name)
        if cache is None and keeps(view):
            cache = self._kept[view.feature.name] = ColumnCache(view, self._numbers)
        return cache

    def _columns_kept(self, names: Sequence[str], at: int) -> Rows | None:
        """Where the numbers of time `at` are kept; None where those of a name are not."""
        if at < self._horizon:
            return None
        caches = [self._kept.get(name) for name in names]
        columns = [cache.column for cache in caches if cache is not None and cache.holds(at)]
        return np.array(columns, np.int64) if len(columns) == len(names) else None

    def _note_change(self, rows: Rows) -> None:
        for cache in self._kept.values():
            cache.changed(rows)

    def _note_moves(self, keys: Sequence[str]) -> None:
        for placed in self._placed.values():
            placed.moved(keys)

    def _number(self, name: str) -> View:
        view = self._views.get(name)
        if view is None or not view.is_number:
            raise EngineError(
                f"{name!r} is not a feature with one number for each entity: columns are read of "
                "features without group_by, other than last_n and top_k"
            )
        return view

    def _add_all(self, keys: Sequence[str]) -> list[int]:
        """Give rows to entities, different ones that have none."""
        free = self._free[: -len(keys) - 1 : -1]
        del self._free[len(self._free) - len(free) :]
        for row, key in zip(free, keys, strict=False):
            self._keys[row] = key
        begin = len(self._keys)
        self._keys += keys[len(free) :]
        if len(self._keys) > self._capacity:
            self._grow(max(len(self._keys), self._capacity * 3 // 2 + 1))
        rows = [*free, *range(begin, len(self._keys))]
        self._touched[rows] = 0
        self._rows.update(zip(keys, rows, strict=True))
        self._dropped.difference_update(keys)
        self._note_moves(keys)
        return rows

    def _forget(self, rows: Sequence[int]) -> list[str]:
        """Free `rows`; returns their keys."""
        if not rows:
            return []
        gone = np.array(rows, np.int64)
        self._note_change(gone)
        for store in self.stores:
            store.clear(rows)
        keys: list[str] = []
        for row in rows:
            key = self._keys[row]
            assert key is not None
            keys.append(key)
            del self._rows[key]
            self._keys[row] = None
        self._free.extend(rows)
        self._note_moves(keys)
        self._newest[gone] = 0
        self._touched[gone] = _FREE
        self._dirty[gone] = False
        return keys

    def _grow(self, capacity: int) -> None:
        for store in self.stores:
            store.resize(capacity)
        more = capacity - self._capacity
        self._newest = np.concatenate([self._newest, np.zeros(more, np.int64)])
        self._touched = np.concatenate([self._touched, np.zeros(more, np.int64)])
        self._dirty = np.concatenate([self._dirty, np.zeros(more, np.bool_)])
        self._capacity = capacity


class PackedReader:
    """Reads features from packed entities, as an online store holds them. Not for many threads."""

    def __init__(self, features: Sequence[Feature]) -> None:
        """Read `features` of one kind of entity, as the engine that packed them had them."""
        self._table = EntityTable(features, capacity=2)

    def read(self, blob: bytes | None, at: int) -> dict[str, Value]:
        """Features of one entity at request time.

        Args:
            blob: the packed state; None for an entity nobody has seen.
            at: request time, epoch milliseconds.

        Raises:
            StateError: if `blob` is no packed state of an entity.
        """
        try:
            if blob is not None:
                self._table.unpack([(_NEWEST, blob)])
            return self._table.read(_NEWEST, at)
        finally:
            self._table.forget([_NEWEST])


def read_packed(features: Sequence[Feature], blob: bytes | None, at: int) -> dict[str, Value]:
    """Features of one entity from its packed state; :class:`PackedReader` is faster for many.

    Raises:
        StateError: if `blob` is no packed state of an entity.
    """
    return PackedReader(features).read(blob, at)


def newest_packed(blob: bytes) -> int:
    """Time of the newest event of an entity, from its packed state, epoch milliseconds.

    Raises:
        StateError: if `blob` is no packed state of an entity.
    """
    newest: int = _decode(blob)[_NEWEST]
    return newest


def combine_packed(blob: bytes | None, other: bytes, keys: Iterable[str]) -> bytes:
    """Packed state of an entity with the state of `keys` taken from another of the same entity.

    This is how state computed again from the log joins the state that was kept.

    Args:
        blob: what was kept; None if nothing was.
        other: what was computed.
        keys: keys of :attr:`EntityTable.spans`; what is missing in `other` is removed.

    Raises:
        StateError: if one is no packed state of an entity.
    """
    computed = _decode(other)
    state = _decode(blob) if blob is not None else {_NEWEST: 0}
    for key in keys:
        state.pop(key, None)
        if key in computed:
            state[key] = with_groups(key, computed)
    state[_NEWEST] = max(state[_NEWEST], computed[_NEWEST])
    return _encoder.encode(state)


def _decode_all(blobs: Sequence[bytes]) -> list[dict[str, Any]]:
    """As :func:`_decode`, of many in one call."""
    try:
        states = _many_decoder.decode(b"".join((_ARRAY_32, len(blobs).to_bytes(4, "big"), *blobs)))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        states = []
    if len(states) == len(blobs) and all(_is_time(state.get(_NEWEST)) for state in states):
        return states
    return [_decode(blob) for blob in blobs]


def _decode(blob: bytes) -> dict[str, Any]:
    try:
        state = _decoder.decode(blob)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StateError(f"the packed state of an entity is damaged: {error}") from error
    if not _is_time(state.get(_NEWEST)):
        raise StateError("the packed state of an entity is damaged: it has no newest time")
    return state


def _is_time(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63
