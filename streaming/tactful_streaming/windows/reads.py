"""Reads features from the columns of their shared aggregates, and caches numbers.

Popular items are read with every recommendation and few events change them. A paned window reads
the same until its entity has an event or a new pane begins, so a cached number equals the number
that reading again would give.

The numbers of one entity are adjacent: they are read together, and entities lie far apart in
memory. A catalogue reads the same thousands of items for each request, in an order of its own.
Looking up a thousand keys takes longer than reading a thousand numbers, so the row of a key is
cached by its place in that order, until an entity is added or removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.definitions.model import Feature
from tactful_streaming.errors import EngineError
from tactful_streaming.kernels.feature_reads import load_gather
from tactful_streaming.windows.accumulators import most_frequent
from tactful_streaming.windows.entity_rows import NOBODY
from tactful_streaming.windows.pane_columns import AccumulatorPanes, PanedWindow, slide_of
from tactful_streaming.windows.panes import NumberPanes
from tactful_streaming.windows.shared_aggregate import SharedAggregate, Value, counts_values

WindowRows = tuple[Rows, list[str] | None, list[Any]]
"""Rows of a window, their groups if any, and their values."""

_LISTS = ("last_n", "top_k")
_UNKNOWN: Final = -1
_MOST_MOVED: Final = 10_000


class View:
    """Reader of one feature."""

    def __init__(self, feature: Feature, aggregate: SharedAggregate) -> None:
        """Read `feature` from `aggregate`, which computes it."""
        self.feature = feature
        self.aggregate = aggregate  # holds its state
        # Whether its value is one number for each row.
        self.is_number = feature.group_by is None and feature.aggregate not in _LISTS
        self.columns = aggregate.columns_of(feature)  # columns it is read from
        self._by_value = counts_values(feature)

    def read(self, row: int, at: int) -> Value | None:
        """Return the value of one row at time `at`; None if it is beyond the range of a double."""
        if self._by_value:
            return self._of_counts(self._by_group(row, at))
        if self.feature.group_by is not None:
            return self._by_group(row, at)
        value: Any = self.columns[0].read_one(row, self.feature, at)
        if value is None:
            return [] if self.feature.aggregate in _LISTS else 0.0
        if len(self.columns) > 1:
            value /= self.columns[1].read_one(row, self.feature, at)
        if type(value) is float and not math.isfinite(value):
            return None
        result: Value = value
        return result

    def read_many(self, rows: Rows, at: int) -> Floats:
        """Return the numbers of `rows` at time `at`, if the feature :attr:`is_number`.

        NaN stands for a number beyond the range of a double.
        """
        if self._by_value:
            return np.array([len(self._by_group(row, at)) for row in rows.tolist()], np.float64)
        numbers = self.read_cells(rows, at)
        numbers[np.isnan(numbers)] = 0
        numbers[np.isinf(numbers)] = np.nan
        return numbers

    def read_cells(self, cells: Rows, at: int) -> Floats:
        """Return the numbers of cells at time `at`; NaN without state, infinite beyond a double."""
        numbers = self.columns[0].read(cells, self.feature, at)
        if len(self.columns) > 1:
            numbers = numbers / self.columns[1].read(cells, self.feature, at)
        return numbers

    def window(self, end: int, most_rows: int) -> Iterator[WindowRows]:
        """Yield the rows with state of the window that ends at `end`, `most_rows` at once.

        A value beyond the range of a double is left out.
        """
        column = self.columns[0]
        assert isinstance(column, NumberPanes | AccumulatorPanes)
        cells, numbers = column.read_all(self.feature, end - 1)
        if len(self.columns) > 1:
            other = self.columns[1]
            assert isinstance(other, NumberPanes)
            numbers = numbers / other.read_all(self.feature, end - 1)[1]
        kept = np.isfinite(numbers)
        if not kept.all():
            cells, numbers = cells[kept], numbers[kept]
        return self._rows(cells, numbers, most_rows)

    def window_of(self, cells: Iterable[int], end: int, most_rows: int) -> Iterator[WindowRows]:
        """Like :meth:`window`, for some cells only; None is a value beyond a double."""
        ordered = np.array(sorted(cells), np.int64)
        if self._by_value:
            assert self.aggregate.groups is not None
            rows = np.unique(self.aggregate.groups.rows[ordered]).tolist()
            ordered = np.array(self.aggregate.groups.of_rows(rows), np.int64)
        numbers = self.read_cells(ordered, end - 1)
        present = ~np.isnan(numbers)
        return self._rows(ordered[present], numbers[present], most_rows)

    def _rows(self, cells: Rows, numbers: Floats, most_rows: int) -> Iterator[WindowRows]:
        if self._by_value:
            yield from self._counted_rows(cells, numbers, most_rows)
            return
        index = self.aggregate.groups
        for begin in range(0, len(cells), most_rows):
            part = cells[begin : begin + most_rows]
            values: list[Any] = numbers[begin : begin + most_rows].tolist()
            if np.isinf(numbers[begin : begin + most_rows]).any():
                values = [value if math.isfinite(value) else None for value in values]
            if index is None:
                yield part, None, values
            else:
                yield index.rows[part], index.names(part), values

    def _counted_rows(self, cells: Rows, numbers: Floats, most_rows: int) -> Iterator[WindowRows]:
        """Yield one row for all the counted values of an entity."""
        index = self.aggregate.groups
        assert index is not None
        counts: dict[int, dict[str, float]] = {}
        pairs = zip(index.rows[cells].tolist(), index.names(cells), numbers.tolist(), strict=True)
        for row, value, count in pairs:
            counts.setdefault(row, {})[value] = count
        rows = np.array([*counts], np.int64)
        for begin in range(0, len(rows), most_rows):
            part = rows[begin : begin + most_rows]
            yield part, None, [self._of_counts(counts[row]) for row in part.tolist()]

    def _by_group(self, row: int, at: int) -> dict[str, float]:
        assert self.aggregate.groups is not None
        cells = self.aggregate.groups.cells.get(row)
        if not cells:
            return {}
        numbers = self.read_cells(np.array([*cells.values()], np.int64), at).tolist()
        pairs = zip(cells, numbers, strict=True)
        return {group: number for group, number in pairs if -math.inf < number < math.inf}

    def _of_counts(self, counts: Mapping[str, float]) -> Value:
        if self.feature.aggregate == "distinct":
            return float(len(counts))
        return most_frequent(counts, self.feature)


@dataclass(eq=False)
class LazyValues(Mapping[str, Value]):
    """Features of one row at one time, each read at its first use, until the state changes."""

    _views: Mapping[str, View]
    _row: int
    _at: int
    _values: dict[str, Value] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Value:
        """Return the value of a feature; KeyError without one of this name."""
        if name not in self._values:
            value = self._views[name].read(self._row, self._at)
            if value is None:
                raise KeyError(name)
            self._values[name] = value
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the features with a value."""
        return (name for name in self._views if name in self)

    def __len__(self) -> int:
        """Return the number of features with a value."""
        return sum(1 for _ in self)


class Placing(Protocol):
    """Keys in fixed places; new keys are appended."""

    def keys_at(self, places: Rows) -> Sequence[str]:
        """Return the keys of some places."""

    def place_of(self, key: str) -> int | None:
        """Return the place of a key; None without one."""


class RowCache:
    """Rows of the keys of one placing in one table."""

    def __init__(self) -> None:
        """Create an empty cache."""
        # Row by place, -1: not looked up; valid after `settle`.
        self.rows: Rows = np.zeros(0, np.int64)
        self._moved: list[str] = []

    def moved(self, keys: Sequence[str]) -> None:
        """Record that entities were added or removed."""
        if not len(self.rows):
            return
        self._moved += keys
        if len(self._moved) > _MOST_MOVED:
            # Invalidating each key would take longer than looking up all places again.
            self._moved.clear()
            self.rows[:] = _UNKNOWN

    def settle(self, placing: Placing) -> None:
        """Invalidate the places of recorded entities."""
        for key in self._moved:
            place = placing.place_of(key)
            if place is not None and place < len(self.rows):
                self.rows[place] = _UNKNOWN
        self._moved.clear()

    def at(self, places: Rows, placing: Placing, row_of: Mapping[Any, int], default: int) -> Rows:
        """Return the rows of the keys at `places`, 0 or more; `default` for unknown keys."""
        self.settle(placing)
        try:
            rows = self.rows.take(places)
        except IndexError:
            capacity = max(int(places.max()) + 1, 3 * len(self.rows) // 2)
            more = np.full(capacity - len(self.rows), _UNKNOWN)
            self.rows = np.concatenate([self.rows, more])
            rows = self.rows.take(places)
        unknown = rows < 0
        if unknown.any():
            absent = places[unknown]
            rows[unknown] = [row_of.get(key, default) for key in placing.keys_at(absent)]
            self.rows[absent] = rows[unknown]
        return rows


@dataclass
class _Column:
    """Cached column of one feature: place in the matrix, pane of its numbers."""

    view: View
    slide: int
    number: int
    pane: int | None = None
    asked: int | None = None

    def holds(self, at: int) -> bool:
        """Return whether the cached numbers are those of time `at`."""
        if at // self.slide != self.pane:
            return False
        self.asked = None
        return True


class ColumnCache:
    """Reads numbers of entities, and caches those of paned windows.

    ::

        columns   {"views_5m": _Column(number=0, pane=28333), "buys_1h": _Column(number=1, ...)}
        numbers   row 0  [0.0, 0.0]
                  row 1  [7.0, nan]     nan: changed since it was read
    """

    def __init__(self, views: Mapping[str, View]) -> None:
        """Create an empty cache for the features of one table, by name."""
        self._views = views
        self._columns: dict[str, _Column] = {}
        self._numbers: Floats = np.zeros((0, 0))
        self._placed: WeakKeyDictionary[Placing, RowCache] = WeakKeyDictionary()

    @property
    def nbytes(self) -> int:
        """Approximate memory of the cache."""
        placed = sum(placed.rows.nbytes for placed in self._placed.values())
        return self._numbers.nbytes + placed

    def read(self, rows: Rows, names: Sequence[str], at: int, horizon: int) -> Floats:
        """Read numbers of `rows` at time `at`; shape ``(len(rows), len(names))``.

        Nothing is cached before `horizon`: its panes may be deleted already. Another feature than
        one with one number for each entity raises EngineError.
        """
        views = [self._view(name) for name in names]
        numbers = np.empty((len(names), len(rows)))
        for row, view in zip(numbers, views, strict=True):
            column = self._column(view) if at >= horizon else None
            row[:] = view.read_many(rows, at) if column is None else self._read(column, rows, at)
        return numbers.T

    def read_placed(
        self,
        placing: Placing,
        places: Rows,
        names: Sequence[str],
        at: int,
        horizon: int,
        row_of: Mapping[str, int],
    ) -> Floats:
        """Like :meth:`read`, for keys at `places` of `placing`; `row_of` gives their rows."""
        placed = self._placed.get(placing)
        if placed is None:
            placed = self._placed[placing] = RowCache()
        columns = self._held(names, at) if at >= horizon else None
        if columns is None:
            return self.read(placed.at(places, placing, row_of, NOBODY), names, at, horizon)
        placed.settle(placing)
        numbers, unknown = np.empty((len(names), len(places))), np.empty(len(places), np.int64)
        count = load_gather()(
            np.ascontiguousarray(places, np.int64),
            *(placed.rows, self._numbers, columns, numbers, unknown),
        )
        if count:
            absent = unknown[:count]
            rows = placed.at(places[absent], placing, row_of, NOBODY)
            numbers[:, absent] = self.read(rows, names, at, horizon).T
        return numbers.T

    def note_change(self, rows: Rows) -> None:
        """Invalidate the numbers of `rows`."""
        self._numbers[rows[rows < len(self._numbers)]] = np.nan

    def note_moves(self, keys: Sequence[str]) -> None:
        """Record that `keys` gained or lost their rows."""
        for placed in self._placed.values():
            placed.moved(keys)

    def _view(self, name: str) -> View:
        view = self._views.get(name)
        if view is None or not view.is_number:
            raise EngineError(
                f"{name!r} is not a feature with one number for each entity: columns are read of "
                "features without group_by, other than last_n and top_k"
            )
        return view

    def _column(self, view: View) -> _Column | None:
        """Return the column of a feature read from number panes, added at its first use."""
        column = self._columns.get(view.feature.name)
        if column is None:
            window = view.feature.window
            if not isinstance(window, PanedWindow) or not all(
                isinstance(column, NumberPanes) for column in view.columns
            ):
                return None
            column = _Column(view, slide_of(window), len(self._columns))
            self._columns[view.feature.name] = column
            added = np.full((len(self._numbers), 1), np.nan)
            self._numbers = np.hstack([self._numbers, added])
        return column

    def _held(self, names: Sequence[str], at: int) -> Rows | None:
        """Return the columns of `names` if all are cached for time `at`."""
        columns = [self._columns.get(name) for name in names]
        numbers = [column.number for column in columns if column is not None and column.holds(at)]
        return np.array(numbers, np.int64) if len(numbers) == len(names) else None

    def _read(self, column: _Column, rows: Rows, at: int) -> Floats:
        if not column.holds(at):
            # A single read at another time must not discard the cached numbers.
            pane = at // column.slide
            if pane != column.asked:
                column.asked = pane
                return column.view.read_many(rows, at)
            column.pane, column.asked = pane, None
            self._numbers[:, column.number] = np.nan
        last = int(rows.max()) if len(rows) else -1
        if last >= len(self._numbers):
            count, width = self._numbers.shape
            more = np.full((max(last + 1, 3 * count // 2) - count, width), np.nan)
            self._numbers = np.vstack([self._numbers, more])
        numbers: Floats = self._numbers[rows, column.number]
        unknown = np.isnan(numbers)
        if unknown.any():
            absent = rows[unknown]
            numbers[unknown] = column.view.read_many(absent, at)
            self._numbers[absent, column.number] = numbers[unknown]
        return numbers
