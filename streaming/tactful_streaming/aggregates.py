"""Stores: events of one selection, counted once for all features that need them.

Features of one kind of entity that count the same events by the same groups share a store. In it
each kind of thing they need is a part (``parts.py``), whose packed state has a key of its own: a
feature that is added or removed later leaves the state of the others readable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from tactful_streaming.cells import CELL_BYTES, Cells, Evicted
from tactful_streaming.definitions import Feature, ForwardDecay, SessionWindow, Window
from tactful_streaming.panes import PanedWindow, Rows, oldest_open, slide_of
from tactful_streaming.parts import (
    DecayedTotals,
    GatheredPanes,
    LastTimes,
    NumberPanes,
    PanedPart,
    Part,
    RecentValues,
    Selection,
)
from tactful_streaming.sessions import Sessions

Value = float | dict[str, float] | list[tuple[str, int]]
"""A feature as read: a number; a number for each group; (value, timestamp) newest first; or
(value, count) most frequent first."""

_NUMERIC = ("sum", "mean", "min", "max", "last", "quantile")
_FOLDED = ("count", "sum", "min", "max")
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


def is_empty(state: Any) -> bool:
    """Whether the packed state of a cell says that there is nothing."""
    return not state and not isinstance(state, float)


def counts_values(feature: Feature) -> bool:
    """Whether each different value of `feature` is counted in a cell of its own."""
    told_apart = feature.aggregate == "top_k" or feature.sketch == "exact"
    return told_apart and not isinstance(feature.window, SessionWindow)


class Store:
    """State of all features that are computed from one source.

    Attributes:
        source: which events count.
        features: what they count for.
        parts: what is kept, by the key of its packed form.
        cells: cells of groups; None where each row is a cell.
    """

    def __init__(self, source: Source, *, firing: bool) -> None:
        """Begin empty, without a feature."""
        self.source = source
        self.features: list[Feature] = []
        self.parts: dict[str, Part] = {}
        self.cells = Cells(source.max_groups) if source.grouped else None
        self._firing = firing
        self._parts_of: dict[str, tuple[Part, ...]] = {}
        self._keys_of: dict[str, tuple[str, ...]] = {}

    @property
    def key(self) -> str:
        """Short name of the source, the same in every process."""
        return self._key("")

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
        keys = tuple(self._part(kind, feature) for kind in kinds)
        self._keys_of[feature.name] = keys
        self._parts_of[feature.name] = tuple(self.parts[key] for key in keys)

    def parts_of(self, feature: Feature) -> tuple[Part, ...]:
        """What `feature` is read from."""
        return self._parts_of[feature.name]

    def keys_of(self, feature: Feature) -> tuple[str, ...]:
        """Keys of the parts that `feature` is read from."""
        return self._keys_of[feature.name]

    @property
    def memory_ms(self) -> int | None:
        """How long after its newest event a cell may matter, milliseconds; None: for ever."""
        spans = [part.memory_ms for part in self.parts.values()]
        known = [span for span in spans if span is not None]
        return max(known) if len(known) == len(spans) else None

    @property
    def nbytes(self) -> int:
        """About how much memory the state takes."""
        cells = 0 if self.cells is None else CELL_BYTES * len(self.cells)
        return cells + sum(part.nbytes for part in self.parts.values())

    def resize(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""
        if self.cells is None:
            for part in self.parts.values():
                part.resize(capacity)

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
        evicted: list[Evicted] = []
        cells = events.rows
        if self.cells is not None:
            assert events.texts is not None
            cells, evicted = self.cells.find(events.rows, events.texts, events.timestamps)
            self._fit()
        for key, part in self.parts.items():
            late = part.apply(cells, events, lateness_ms)
            if len(late):
                late = late if kept is None else kept[late]
                late_by |= {name: late for name, keys in self._keys_of.items() if key in keys}
        if not evicted:
            return Outcome(0, late_by)
        for part in self.parts.values():
            if isinstance(part, Sessions):
                part.settle((one.cell, events.watermarks.item(one.by)) for one in evicted)
        self._free([one.cell for one in evicted])
        memory, now = self.memory_ms, int(horizons[-1])
        gone = sum(memory is None or one.newest + memory > now for one in evicted)
        return Outcome(gone, late_by)

    def name_of(self, cell: int) -> tuple[int, str | None]:
        """Row and group of a cell."""
        if self.cells is None:
            return cell, None
        return self.cells.rows.item(cell), self.cells.groups[cell]

    def cells_of(self, row: int) -> Mapping[str, int]:
        """Cell of each group of a row."""
        assert self.cells is not None
        return self.cells.of_row(row)

    def clear(self, rows: Sequence[int]) -> None:
        """Forget rows."""
        cells = rows if self.cells is None else self.cells.of_rows(rows)
        gone = np.array(cells, np.int64)
        for part in self.parts.values():
            part.clear(gone)
        if self.cells is not None:
            self.cells.clear(rows)

    def expire(self, horizon: int) -> None:
        """Forget what no read at or after `horizon` can see, a part of all in a call."""
        for part in self.parts.values():
            part.expire(horizon)
        memory = self.memory_ms
        if self.cells is not None and memory is not None:
            silent = self.cells.silent(horizon - memory)
            if silent:
                self._free(silent)

    def pack(self, rows: Rows, horizon: int) -> dict[str, Sequence[Any]]:
        """State of each row for each part, as something msgpack can hold; empty for nothing."""
        if self.cells is None:
            return {key: part.pack(rows, horizon) for key, part in self.parts.items()}
        groups = [self.cells.of_row(row) for row in rows.tolist()]
        cells = np.array([cell for of_row in groups for cell in of_row.values()], np.int64)
        newest = self.cells.newest[cells].tolist()
        packed: dict[str, Sequence[Any]] = {}
        for key, part in self.parts.items():
            states = iter(zip(newest, part.pack(cells, horizon), strict=True))
            packed[key] = [
                [
                    (group, when, state)
                    for group, (when, state) in zip(of_row, states, strict=False)
                    if not is_empty(state)
                ]
                for of_row in groups
            ]
        return packed

    def absorb(self, rows: Rows, key: str, packed: Sequence[Any]) -> None:
        """Add what :meth:`pack` gave for one part to what is there."""
        part = self.parts[key]
        if self.cells is None:
            part.absorb(rows, packed)
            return
        counts = [len(groups) for groups in packed]
        flat = [group for groups in packed for group in groups]
        if not flat:
            return
        groups, newest, states = zip(*flat, strict=True)
        cells, evicted = self.cells.find(
            np.repeat(rows, counts), groups, np.array(newest, np.int64)
        )
        self._fit()
        part.absorb(cells, states)
        if evicted:
            self._free([one.cell for one in evicted])

    def _part(self, kind: str, feature: Feature) -> str:
        """Key of the part that keeps `kind` for `feature`, made if there is none."""
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
        key = self._key([kind, shape])
        part = self.parts.get(key)
        if part is None:
            self.parts[key] = self._make(kind, feature)
        elif isinstance(part, PanedPart):
            assert isinstance(window, PanedWindow)
            part.windows.append(window)
        if isinstance(part := self.parts[key], RecentValues):
            assert window is None or isinstance(window, Window)
            part.serve(window)
        return key

    def _make(self, kind: str, feature: Feature) -> Part:
        window = feature.window
        if kind == "last_n":
            assert feature.n is not None
            return RecentValues(feature.n)
        if kind == "last_time":
            return LastTimes()
        if isinstance(window, ForwardDecay):
            return DecayedTotals(kind, window)
        if isinstance(window, SessionWindow):
            return Sessions(kind, feature, self.name_of if self._firing else None)
        assert isinstance(window, PanedWindow)
        if kind in _FOLDED:
            return NumberPanes(kind, window, firing=self._firing)
        return GatheredPanes(kind, feature, firing=self._firing)

    def _key(self, shape: Any) -> str:
        source = self.source
        canonical = [source.events, source.amounts, source.texts, source.grouped, source.max_groups]
        encoded = msgspec.json.encode([*canonical, shape], order="sorted")
        return hashlib.sha256(encoded).hexdigest()[:12]

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
        assert self.cells is not None
        for part in self.parts.values():
            part.resize(self.cells.capacity)

    def _free(self, cells: list[int]) -> None:
        assert self.cells is not None
        gone = np.array(cells, np.int64)
        for part in self.parts.values():
            part.clear(gone)
        self.cells.free(cells)


def make_stores(features: Iterable[Feature], *, firing: bool) -> list[Store]:
    """Stores for `features`, in the order in which they are first needed."""
    stores: dict[Source, Store] = {}
    for feature in features:
        source = Source.of(feature)
        if source not in stores:
            stores[source] = Store(source, firing=firing)
        stores[source].serve(feature)
    return list(stores.values())
