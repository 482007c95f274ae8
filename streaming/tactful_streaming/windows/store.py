"""Stores: events of one selection, counted once for all features that need them.

Features of one kind of entity that count the same events by the same groups share a store. In it
each kind of thing they need is a column (``parts.py``), whose packed state has a key of its own: a
feature that is added or removed later leaves the state of the others readable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_streaming.arrays import Rows
from tactful_streaming.definitions.model import Feature, ForwardDecay, SessionWindow, Window
from tactful_streaming.windows.columns import (
    DecayedTotals,
    LastTimes,
    RecentValues,
    Selection,
)
from tactful_streaming.windows.groups import CELL_BYTES, EvictedGroup, GroupIndex
from tactful_streaming.windows.packed_check import (
    NAMES_AT,
    AnyColumn,
    Recorded,
    check_groups,
    check_rows,
)
from tactful_streaming.windows.pane_columns import AccumulatorPanes, NumberPanes, PanedColumn
from tactful_streaming.windows.panes import PanedWindow, oldest_open, slide_of
from tactful_streaming.windows.sessions import Sessions

Value = float | dict[str, float] | list[tuple[str, int]]
"""A feature as read: a number; a number for each group; (value, timestamp) newest first; or
(value, count) most frequent first."""

_NUMERIC = ("sum", "mean", "min", "max", "last", "quantile")
_FOLDED = ("count", "sum", "min", "max")
_SEPARATOR = "."
"""Between the key of a store and that of a part of it."""

_KINDS = {"mean": ("sum", "count"), "quantile": ("kll",), "top_k": ("count",)}


@dataclass(frozen=True)
class Outcome:
    """What became of a selection beside being counted.

    Attributes:
        evicted: groups that had to make room.
        late_by: for each feature that events came too late for, their positions in the selection.
    """

    evicted: int = 0
    late_by: Mapping[str, Rows] = field(default_factory=dict)

    @property
    def late(self) -> int:
        """How often an event came too late for a feature."""
        return sum(map(len, self.late_by.values()))


@dataclass(frozen=True)
class Source:
    """Which events a store counts, and what it needs of each.

    Attributes:
        events: their types, sorted.
        amounts: where its number comes from, as `of` of a feature; None: none is needed. An event
            without a finite number does not count.
        texts: where its text comes from; None: none is needed. An event without does not count.
        grouped: whether the text is a group, with a cell of its own.
        max_groups: how many groups an entity may have.
    """

    events: tuple[str, ...]
    amounts: str | None
    texts: str | None
    grouped: bool
    max_groups: int

    @classmethod
    def of(cls, feature: Feature) -> Source:
        """What `feature` is computed from."""
        amounts = feature.of if feature.aggregate in _NUMERIC else None
        texts = feature.group_by if amounts or feature.group_by else feature.of
        grouped = feature.group_by is not None or counts_values(feature)
        return cls(
            tuple(sorted(feature.events)),
            amounts,
            texts,
            grouped,
            feature.max_groups if grouped else 0,
        )


def counts_values(feature: Feature) -> bool:
    """Whether each different value of `feature` is counted in a cell of its own."""
    told_apart = feature.aggregate == "top_k" or feature.sketch == "exact"
    return told_apart and not isinstance(feature.window, SessionWindow)


class Store:
    """State of all features that are computed from one source.

    Attributes:
        source: which events count.
        key: short name of the source, the same in every process.
        features: what they count for.
        columns: what is kept, by the key of its packed form.
        cells: cells of groups; None where each row is a cell.
        memory_ms: how long after its newest event a cell may matter, milliseconds; None: for ever.
    """

    def __init__(self, source: Source, *, emits: bool) -> None:
        """Begin empty, without a feature."""
        self.source = source
        self.key = _short(asdict(source), 8)
        self.features: list[Feature] = []
        self.columns: dict[str, AnyColumn] = {}
        self.groups = GroupIndex(source.max_groups) if source.grouped else None
        self.memory_ms: int | None = None
        self._emits = emits
        self._columns_of: dict[str, tuple[AnyColumn, ...]] = {}
        self._keys_of: dict[str, tuple[str, ...]] = {}

    @property
    def events(self) -> tuple[str, ...]:
        """Types of the events that count."""
        return self.source.events

    def serve(self, feature: Feature) -> None:
        """Compute `feature`, too, whose source is this store's."""
        self.features.append(feature)
        kinds = _KINDS.get(feature.aggregate, (feature.aggregate,))
        if feature.aggregate == "distinct" and feature.sketch is not None:
            kinds = (feature.sketch,)
        if counts_values(feature):
            kinds = ("count",)
        elif feature.aggregate == "top_k" or feature.sketch == "exact":
            kinds = ("values",)
        keys = tuple(self._column(kind, feature) for kind in kinds)
        self._keys_of[feature.name] = keys
        self._columns_of[feature.name] = tuple(self.columns[key] for key in keys)
        spans = [column.memory_ms for column in self.columns.values()]
        known = [span for span in spans if span is not None]
        self.memory_ms = max(known) if len(known) == len(spans) else None

    def columns_of(self, feature: Feature) -> tuple[AnyColumn, ...]:
        """What `feature` is read from."""
        return self._columns_of[feature.name]

    def keys_of(self, feature: Feature) -> tuple[str, ...]:
        """Keys of the parts that `feature` is read from."""
        return self._keys_of[feature.name]

    @property
    def nbytes(self) -> int:
        """About how much memory the state takes."""
        cells = 0 if self.groups is None else CELL_BYTES * len(self.groups)
        return cells + sum(column.nbytes for column in self.columns.values())

    def resize(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""
        if self.groups is None:
            for column in self.columns.values():
                column.resize(capacity)

    def apply(self, events: Selection, lateness_ms: int) -> Outcome:
        """Count the selected events.

        Args:
            events: what counts.
            lateness_ms: for how long after its end a window may still change.
        """
        late_by: dict[str, Rows] = {}
        kept: Rows | None = None
        horizons = events.watermarks - lateness_ms
        if np.any(events.timestamps <= horizons):
            late_by, wanted = self._late(events, horizons)
            if not wanted.all():
                kept = np.flatnonzero(wanted)
                events = events.take(kept)
        if not len(events.rows):
            return Outcome(0, late_by)
        evicted: list[EvictedGroup] = []
        cells = events.rows
        if self.groups is not None:
            assert events.texts is not None
            cells, evicted = self.groups.find(events.rows, events.texts, events.timestamps)
            self._fit()
        for key, column in self.columns.items():
            late = column.apply(cells, events, lateness_ms)
            if len(late):
                late = late if kept is None else kept[late]
                late_by |= {name: late for name, keys in self._keys_of.items() if key in keys}
        if not evicted:
            return Outcome(0, late_by)
        for column in self.columns.values():
            if isinstance(column, Sessions):
                column.settle((one.cell, events.watermarks.item(one.by)) for one in evicted)
        self._free([one.cell for one in evicted])
        memory, now = self.memory_ms, int(horizons[-1])
        gone = sum(memory is None or one.newest + memory > now for one in evicted)
        return Outcome(gone, late_by)

    def name_of(self, cell: int) -> tuple[int, str | None]:
        """Row and group of a cell."""
        if self.groups is None:
            return cell, None
        return self.groups.rows.item(cell), self.groups.texts[cell]

    def cells_of(self, row: int) -> Mapping[str, int]:
        """Cell of each group of a row."""
        assert self.groups is not None
        return self.groups.of_row(row)

    def clear(self, rows: Sequence[int]) -> None:
        """Forget rows."""
        cells = rows if self.groups is None else self.groups.of_rows(rows)
        gone = np.array(cells, np.int64)
        for column in self.columns.values():
            column.clear(gone)
        if self.groups is not None:
            self.groups.clear(rows)

    def drop_texts(self, row: int, drops: Callable[[str, str], bool]) -> None:
        """Take what was counted by some texts out of a row.

        Args:
            row: whose.
            drops: whether something goes, by the source of a text and the text.
        """
        if self.source.texts is None:
            return
        gone = partial(drops, self.source.texts)
        if self.groups is not None:
            self._free(self.groups.take(row, gone))
            return
        for column in self.columns.values():
            if isinstance(column, RecentValues | Sessions):
                column.drop_texts(row, gone)

    def expire(self, horizon: int) -> None:
        """Forget what no read at or after `horizon` can see, a part of all in a call."""
        for column in self.columns.values():
            column.expire(horizon)
        memory = self.memory_ms
        if self.groups is not None and memory is not None:
            silent = self.groups.silent(horizon - memory)
            if silent:
                self._free(silent)

    def pack(self, rows: Rows, horizon: int, into: Sequence[dict[str, Any]]) -> None:
        """Put the state of each row, under its keys, into a mapping that msgpack can hold."""
        if self.groups is None:
            for key, column in self.columns.items():
                _put(into, key, self._pack_rows(column, rows, horizon))
            return
        groups = [self.groups.of_row(row) for row in rows.tolist()]
        cells = np.array([cell for of_row in groups for cell in of_row.values()], np.int64)
        ends = np.cumsum([0, *map(len, groups)]).tolist()
        newest = _slices(self.groups.newest[cells].astype("<i8"), ends)
        names = [
            [list(of_row), when] if of_row else None
            for of_row, when in zip(groups, newest, strict=True)
        ]
        _put(into, self.key, names)
        for key, column in self.columns.items():
            _put(into, key, self._pack_groups(column, cells, ends, horizon))

    def check(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Raise StateError unless `states`, read from msgpack, have the form that `pack` gives."""
        if self.groups is None:
            check_rows(self.columns, states)
        else:
            check_groups(self.key, self.columns, states)

    def absorb(self, rows: Rows, states: Sequence[Mapping[str, Any]]) -> None:
        """Add what :meth:`pack` put into `states` to what is there."""
        if self.groups is None:
            for key, column in self.columns.items():
                having = [number for number, state in enumerate(states) if key in state]
                if having:
                    packed = [states[number][key] for number in having]
                    self._absorb_rows(column, rows[having], packed)
            return
        evicted: list[EvictedGroup] = []
        for place in (self.key, *self.columns):
            # A column has the names of its groups with it if it was packed apart from the others.
            named = [
                number for number, state in enumerate(states) if _names(state, self.key, place)
            ]
            if named:
                evicted += self._absorb_groups(place, rows[named], [states[n] for n in named])
        if evicted:
            self._free([one.cell for one in evicted])

    def _absorb_groups(
        self, place: str, rows: Rows, states: Sequence[Mapping[str, Any]]
    ) -> list[EvictedGroup]:
        assert self.groups is not None
        names = [_names(state, self.key, place) for state in states]
        counts = [len(groups) for groups, _ in names]
        ends = np.cumsum([0, *counts]).tolist()
        groups = [group for of_row, _ in names for group in of_row]
        newest = np.frombuffer(b"".join(when for _, when in names), "<i8")
        of_group = np.repeat(rows, counts)
        # Groups that are there first: they are as new as both say before others ask for room.
        order = np.argsort(
            [
                group not in self.groups.of_row(row)
                for row, group in zip(of_group.tolist(), groups, strict=True)
            ],
            kind="stable",
        )
        cells = np.empty(len(order), np.int64)
        cells[order], evicted = self.groups.find(
            of_group[order], [groups[n] for n in order.tolist()], newest[order]
        )
        self._fit()
        shared = place == self.key
        for key in self.columns if shared else [place]:
            having = [
                number
                for number, state in enumerate(states)
                if key in state and shared == (len(state[key]) == NAMES_AT)
            ]
            if not having:
                continue
            column, packed = self.columns[key], [states[number][key] for number in having]
            own = np.concatenate([cells[ends[n] : ends[n + 1]] for n in having])
            if isinstance(column, Recorded):
                each = np.frombuffer(b"".join(one[0] for one in packed), "<u2")
                records = np.frombuffer(b"".join(one[1] for one in packed), "<f8")
                column.absorb_records(np.repeat(own, each), records.reshape(-1, column.width))
            else:
                column.absorb(own, [state for one in packed for state in one[0]])
        return evicted

    def _absorb_rows(self, column: AnyColumn, rows: Rows, packed: Sequence[Any]) -> None:
        if not isinstance(column, Recorded):
            column.absorb(rows, packed)
            return
        each = [len(data) // (8 * column.width) for data in packed]
        records = np.frombuffer(b"".join(packed), "<f8").reshape(-1, column.width)
        column.absorb_records(np.repeat(rows, each), records)

    def _pack_rows(self, column: AnyColumn, rows: Rows, horizon: int) -> Sequence[Any]:
        if not isinstance(column, Recorded):
            return column.pack(rows, horizon)
        counts, records = column.pack_records(rows, horizon)
        return _slices(records.astype("<f8"), [0, *np.cumsum(counts).tolist()])

    def _pack_groups(
        self, column: AnyColumn, cells: Rows, ends: Sequence[int], horizon: int
    ) -> Sequence[Any]:
        """For each row the states of its cells; None if there is nothing in any of them."""
        if not isinstance(column, Recorded):
            states = column.pack(cells, horizon)
            of_rows = [states[begin:end] for begin, end in pairwise(ends)]
            return [[of_row, None] if any(of_row) else None for of_row in of_rows]
        counts, records = column.pack_records(cells, horizon)
        borders = np.concatenate([[0], np.cumsum(counts)])[np.array(ends)].tolist()
        return [
            [count, data] if data else None
            for count, data in zip(
                _slices(counts.astype("<u2"), ends),
                _slices(records.astype("<f8"), borders),
                strict=True,
            )
        ]

    def _column(self, kind: str, feature: Feature) -> str:
        """Key of the column that keeps `kind` for `feature`, made if there is none."""
        window = feature.window
        shape: Any
        if kind in ("last_n", "last_time"):
            shape = feature.n
        elif isinstance(window, ForwardDecay):
            shape = {"half_life": window.half_life_ms}
        elif isinstance(window, SessionWindow):
            shape = {"gap": window.gap_ms, "most": feature.max_groups if kind == "values" else None}
        else:
            assert isinstance(window, PanedWindow)
            shape = {"slide": slide_of(window)}
        key = self.key + _SEPARATOR + _short([kind, shape], 6)
        column = self.columns.get(key)
        if column is None:
            self.columns[key] = self._make(kind, feature)
        elif isinstance(column, PanedColumn):
            assert isinstance(window, PanedWindow)
            column.windows.append(window)
        if isinstance(column := self.columns[key], RecentValues):
            assert window is None or isinstance(window, Window)
            column.serve(window)
        return key

    def _make(self, kind: str, feature: Feature) -> AnyColumn:
        window = feature.window
        if kind == "last_n":
            assert feature.n is not None
            return RecentValues(feature.n)
        if kind == "last_time":
            return LastTimes()
        if isinstance(window, ForwardDecay):
            return DecayedTotals(kind, window)
        if isinstance(window, SessionWindow):
            return Sessions(kind, feature, self.name_of if self._emits else None)
        assert isinstance(window, PanedWindow)
        if kind in _FOLDED:
            return NumberPanes(kind, window, emits=self._emits)
        return AccumulatorPanes(kind, feature, emits=self._emits)

    def _late(self, events: Selection, horizons: Rows) -> tuple[dict[str, Rows], Any]:
        """Events too late for each feature with panes, and which are not for all features."""
        late_by: dict[str, Rows] = {}
        wanted = np.zeros(len(events.rows), np.bool_)
        for feature in self.features:
            window = feature.window
            if not isinstance(window, PanedWindow) or feature.aggregate == "last_n":
                wanted[:] = True
                continue
            late = events.timestamps // slide_of(window) < oldest_open(window, horizons)
            wanted |= ~late
            if late.any():
                late_by[feature.name] = np.flatnonzero(late)
        return late_by, wanted

    def _fit(self) -> None:
        assert self.groups is not None
        for column in self.columns.values():
            column.resize(self.groups.capacity)

    def _free(self, cells: list[int]) -> None:
        assert self.groups is not None
        gone = np.array(cells, np.int64)
        for column in self.columns.values():
            column.clear(gone)
        self.groups.free(cells)


def make_stores(features: Iterable[Feature], *, emits: bool) -> list[Store]:
    """Stores for `features`, in the order in which they are first needed."""
    stores: dict[Source, Store] = {}
    for feature in features:
        source = Source.of(feature)
        if source not in stores:
            stores[source] = Store(source, emits=emits)
        stores[source].serve(feature)
    return list(stores.values())


def with_groups(key: str, state: Mapping[str, Any]) -> Any:
    """Packed state of the column `key`, with the names of its groups if it has any."""
    names = state.get(key.partition(_SEPARATOR)[0])
    return state[key] if names is None else [*state[key][:NAMES_AT], *names]


def _short(canonical: Any, length: int) -> str:
    encoded = msgspec.json.encode(canonical, order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:length]


def _names(state: Mapping[str, Any], key: str, place: str) -> Any:
    """Groups and their newest times at `place` in a packed state; None if there are none."""
    if place == key:
        return state.get(key)
    packed = state.get(place)
    return packed[NAMES_AT:] if packed is not None and len(packed) > NAMES_AT else None


def _put(into: Sequence[dict[str, Any]], key: str, column: Sequence[Any]) -> None:
    for state, value in zip(into, column, strict=True):
        if value:
            state[key] = value


def _slices(array: NDArray[Any], borders: Sequence[int]) -> list[bytes]:
    """Bytes of ``array[borders[i] : borders[i + 1]]`` for each i."""
    data, size = array.tobytes(), array.itemsize * (array.shape[1] if array.ndim > 1 else 1)
    return [data[begin * size : end * size] for begin, end in pairwise(borders)]
