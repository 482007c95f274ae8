"""Shared aggregates: events counted once for all features of one source.

Features of one kind of entity that count the same events by the same groups share an aggregate. It
has one state column for each kind of state they need. The packed state of a column has its own key,
so that features added or removed later leave the state of the others readable.
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
from tactful_streaming.definitions.model import (
    DAY,
    Feature,
    ForwardDecay,
    SessionWindow,
    Window,
)
from tactful_streaming.windows.columns import DecayedTotals, LastTimes, RecentValues, Selection
from tactful_streaming.windows.groups import CELL_BYTES, EvictedGroup, GroupIndex
from tactful_streaming.windows.packed_entity import (
    NAMES_AT,
    SEPARATOR,
    AnyColumn,
    Recorded,
    check_groups,
    check_rows,
)
from tactful_streaming.windows.pane_columns import (
    AccumulatorPanes,
    PanedColumn,
    PanedWindow,
    oldest_open,
    slide_of,
)
from tactful_streaming.windows.panes import NumberPanes
from tactful_streaming.windows.sessions import Sessions

Value = float | dict[str, float] | list[tuple[str, int]]
"""Value of a feature: a number; a number for each group; (value, timestamp), newest first; or
(value, count), most frequent first."""

_NUMERIC = ("sum", "mean", "min", "max", "last", "quantile")
_FOLDED = ("count", "sum", "min", "max")
_KINDS = {"mean": ("sum", "count"), "quantile": ("kll",), "top_k": ("count",)}


@dataclass(frozen=True)
class Outcome:
    """Evictions and late events of a selection."""

    evicted: int = 0  # number of groups removed for others
    # Positions of late events in the selection, by feature.
    late_by: Mapping[str, Rows] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Events that a shared aggregate counts, and the fields it reads."""

    events: tuple[str, ...]  # types of the events, sorted
    # Source of the number, as `of` of a feature; None: none is read. An event without a finite
    # number does not count.
    amounts: str | None
    # Source of the text; None: none is read. An event without text does not count.
    texts: str | None
    grouped: bool  # whether each text is a group with its own cell
    max_groups: int  # most groups of an entity

    @classmethod
    def of(cls, feature: Feature) -> Source:
        """Return the source of `feature`."""
        amounts = feature.of if feature.aggregate in _NUMERIC else None
        texts = feature.group_by if amounts or feature.group_by else feature.of
        grouped = feature.group_by is not None or counts_values(feature)
        most = feature.max_groups if grouped else 0
        return cls(tuple(sorted(feature.events)), amounts, texts, grouped, most)


def counts_values(feature: Feature) -> bool:
    """Return whether each different value of `feature` is counted in its own cell."""
    exact = feature.aggregate == "top_k" or feature.sketch == "exact"
    return exact and not isinstance(feature.window, SessionWindow)


class SharedAggregate:
    """State of all features computed from one source.

    With groups, two entities in the rows 1 and 2, and features that count by minute::

        groups     row 1: {"shoes": cell 0, "hats": cell 2}    row 2: {"shoes": cell 1}
        columns    {"4f2180aa.9ab0c1": counts by minute of the cells 0, 1 and 2}
    """

    def __init__(self, source: Source, *, emits: bool) -> None:
        """Create an aggregate without features."""
        self.source = source
        self.key = _short(asdict(source), 8)  # short name of the source, the same in every process
        self.features: list[Feature] = []
        self.columns: dict[str, AnyColumn] = {}  # state columns by the key of their packed state
        self.kinds: dict[str, str] = {}  # kind of state of each column, such as "count" or "hll"
        # Cells of groups; None: each row is a cell.
        self.groups: GroupIndex | None = None
        if source.grouped:
            self.groups = GroupIndex(source.max_groups, repeats=source.texts == DAY)
        # Time after its newest event in which a cell counts, milliseconds; None: no limit.
        self.memory_ms: int | None = None
        self._emits = emits
        self._keys_of: dict[str, tuple[str, ...]] = {}

    def serve(self, feature: Feature) -> None:
        """Add a feature with this source."""
        self.features.append(feature)
        kinds = _KINDS.get(feature.aggregate, (feature.aggregate,))
        if feature.aggregate == "distinct" and feature.sketch is not None:
            kinds = (feature.sketch,)
        if counts_values(feature):
            kinds = ("count",)
        elif feature.aggregate == "top_k" or feature.sketch == "exact":
            kinds = ("values",)
        self._keys_of[feature.name] = tuple(self._column(kind, feature) for kind in kinds)
        spans = [column.memory_ms for column in self.columns.values()]
        known = [span for span in spans if span is not None]
        self.memory_ms = max(known) if len(known) == len(spans) else None

    def columns_of(self, feature: Feature) -> tuple[AnyColumn, ...]:
        """Return the columns that `feature` is read from."""
        return tuple(self.columns[key] for key in self._keys_of[feature.name])

    @property
    def nbytes(self) -> int:
        """Approximate memory of the state."""
        cells = 0 if self.groups is None else CELL_BYTES * len(self.groups)
        return cells + sum(column.nbytes for column in self.columns.values())

    def resize(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""
        if self.groups is None:
            for column in self.columns.values():
                column.resize(capacity)

    def apply(self, events: Selection, lateness_ms: int) -> Outcome:
        """Count events; a window may change for `lateness_ms` after its end."""
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
                column.settle((group.cell, events.watermarks.item(group.by)) for group in evicted)
        self._free([group.cell for group in evicted])
        memory, now = self.memory_ms, int(horizons[-1])
        count = sum(memory is None or group.newest + memory > now for group in evicted)
        return Outcome(count, late_by)

    def name_of(self, cell: int) -> tuple[int, str | None]:
        """Return the row and the group of a cell."""
        if self.groups is None:
            return cell, None
        return self.groups.rows.item(cell), self.groups.texts[cell]

    def clear(self, rows: Sequence[int]) -> None:
        """Delete rows."""
        cells = rows if self.groups is None else self.groups.of_rows(rows)
        gone = np.array(cells, np.int64)
        for column in self.columns.values():
            column.clear(gone)
        if self.groups is not None:
            self.groups.clear(rows)

    def drop_texts(self, row: int, drops: Callable[[str, str], bool]) -> None:
        """Delete from a row what was counted by texts with ``drops(source, text)``."""
        if self.source.texts is None:
            return
        dropped = partial(drops, self.source.texts)
        if self.groups is not None:
            self._free(self.groups.take(row, dropped))
            return
        for column in self.columns.values():
            if isinstance(column, RecentValues | Sessions):
                column.drop_texts(row, dropped)

    def expire(self, horizon: int) -> None:
        """Delete state that no read from `horizon` on returns; part of it in each call."""
        for column in self.columns.values():
            column.expire(horizon)
        memory = self.memory_ms
        if self.groups is not None and memory is not None:
            silent = self.groups.silent(horizon - memory)
            if silent:
                self._free(silent)

    def pack(self, rows: Rows, horizon: int, into: Sequence[dict[str, Any]]) -> None:
        """Add the packed state of each row, by the keys of the columns, to `into`."""
        if self.groups is None:
            for key, column in self.columns.items():
                _put(into, key, self._pack_rows(column, rows, horizon))
            return
        groups = [self.groups.cells.get(row, {}) for row in rows.tolist()]
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
        """Raise StateError unless decoded `states` have the form of :meth:`pack`."""
        if self.groups is None:
            check_rows(self.columns, states)
        else:
            check_groups(self.key, self.columns, states)

    def absorb(self, rows: Rows, states: Sequence[Mapping[str, Any]]) -> None:
        """Merge packed state of :meth:`pack` into rows."""
        if self.groups is None:
            for key, column in self.columns.items():
                having = [number for number, state in enumerate(states) if key in state]
                packed = [states[number][key] for number in having]
                if not having:
                    continue
                if isinstance(column, Recorded):
                    counts = [len(data) // (8 * column.width) for data in packed]
                    _absorb_records(column, rows[having], counts, packed)
                else:
                    column.absorb(rows[having], packed)
            return
        evicted: list[EvictedGroup] = []
        for place in (self.key, *self.columns):
            # A column packed apart from the others holds the names of its groups.
            named = [
                number for number, state in enumerate(states) if _names(state, self.key, place)
            ]
            if named:
                evicted += self._absorb_groups(place, rows[named], [states[n] for n in named])
        if evicted:
            self._free([group.cell for group in evicted])

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
        # Present groups come first: their times are known before others need room.
        pairs, cells_of = zip(of_group.tolist(), groups, strict=True), self.groups.cells
        absent = [group not in cells_of.get(row, ()) for row, group in pairs]
        order = np.argsort(absent, kind="stable")
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
                counts_of = np.frombuffer(b"".join(state[0] for state in packed), "<u2")
                _absorb_records(column, own, counts_of, [state[1] for state in packed])
            else:
                column.absorb(own, [state for states_of in packed for state in states_of[0]])
        return evicted

    def _pack_rows(self, column: AnyColumn, rows: Rows, horizon: int) -> Sequence[Any]:
        if not isinstance(column, Recorded):
            return column.pack(rows, horizon)
        counts, records = column.pack_records(rows, horizon)
        return _slices(records.astype("<f8"), [0, *np.cumsum(counts).tolist()])

    def _pack_groups(
        self, column: AnyColumn, cells: Rows, ends: Sequence[int], horizon: int
    ) -> Sequence[Any]:
        """Return the packed cells of each row; None if all are empty."""
        if not isinstance(column, Recorded):
            states = column.pack(cells, horizon)
            of_rows = [states[begin:end] for begin, end in pairwise(ends)]
            return [[of_row, None] if any(of_row) else None for of_row in of_rows]
        counts, records = column.pack_records(cells, horizon)
        borders = np.concatenate([[0], np.cumsum(counts)])[np.array(ends)].tolist()
        numbers, data = _slices(counts.astype("<u2"), ends), _slices(records.astype("<f8"), borders)
        return [[n, of_row] if of_row else None for n, of_row in zip(numbers, data, strict=True)]

    def _column(self, kind: str, feature: Feature) -> str:
        """Return the key of the column of `kind` for `feature`, added if missing."""
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
        key = self.key + SEPARATOR + _short([kind, shape], 6)
        column = self.columns.get(key)
        if column is None:
            self.columns[key] = self._make(kind, feature)
            self.kinds[key] = kind
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
        """Return the late events by feature, and which events count for any feature."""
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


def make_shared_aggregates(features: Iterable[Feature], *, emits: bool) -> list[SharedAggregate]:
    """Create the shared aggregates of `features`, in the order of their first use."""
    stores: dict[Source, SharedAggregate] = {}
    for feature in features:
        source = Source.of(feature)
        if source not in stores:
            stores[source] = SharedAggregate(source, emits=emits)
        stores[source].serve(feature)
    return list(stores.values())


def _short(canonical: Any, length: int) -> str:
    encoded = msgspec.json.encode(canonical, order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:length]


def _names(state: Mapping[str, Any], key: str, place: str) -> Any:
    """Return groups and newest times at `place` of a packed state; None without any."""
    if place == key:
        return state.get(key)
    packed = state.get(place)
    return packed[NAMES_AT:] if packed is not None and len(packed) > NAMES_AT else None


def _absorb_records(column: Recorded, cells: Rows, counts: Any, packed: Sequence[bytes]) -> None:
    """Merge packed records into a column; ``counts[i]`` of them belong to ``cells[i]``."""
    records = np.frombuffer(b"".join(packed), "<f8").reshape(-1, column.width)
    column.absorb_records(np.repeat(cells, counts), records)


def _put(into: Sequence[dict[str, Any]], key: str, column: Sequence[Any]) -> None:
    for state, value in zip(into, column, strict=True):
        if value:
            state[key] = value


def _slices(array: NDArray[Any], borders: Sequence[int]) -> list[bytes]:
    """Return the bytes of ``array[borders[i] : borders[i + 1]]`` for each i."""
    data, size = array.tobytes(), array.itemsize * (array.shape[1] if array.ndim > 1 else 1)
    return [data[begin * size : end * size] for begin, end in pairwise(borders)]
