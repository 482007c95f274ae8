"""Cache of the numbers of paned windows, until an event or the clock changes them.

Popular items are read with every recommendation and few events change them. A paned window reads
the same until its entity has an event or a new pane begins, so a cached number equals the number
that reading again would give.

The numbers of one entity are adjacent: they are read together, and entities lie far apart in
memory. A catalogue reads the same thousands of items for each request, in an order of its own.
Looking up a thousand keys takes longer than reading a thousand numbers, so the row of a key is
cached by its place in that order, until an entity is added or removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.errors import EngineError
from tactful_streaming.kernels.feature_reads import load_gather
from tactful_streaming.windows.entity_rows import NOBODY
from tactful_streaming.windows.pane_columns import PanedWindow, slide_of
from tactful_streaming.windows.panes import NumberPanes
from tactful_streaming.windows.reads import View

_UNKNOWN: Final = -1
_MOST_MOVED: Final = 10_000


class Placing(Protocol):
    """Keys in fixed places; new keys are appended."""

    def keys_at(self, places: Rows) -> Sequence[str]:
        """Return the keys of some places."""

    def place_of(self, key: str) -> int | None:
        """Return the place of a key; None without one."""


class RowCache:
    """Rows of the keys of one placing in one table.

    Attributes:
        rows: row by place, -1: not looked up; valid after :meth:`settle`.
    """

    def __init__(self) -> None:
        """Create an empty cache."""
        self.rows: Rows = np.zeros(0, np.int64)
        self._moved: list[str] = []

    @property
    def nbytes(self) -> int:
        """Approximate memory of the cache."""
        return self.rows.nbytes

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
            self._grow(max(int(places.max()) + 1, 3 * len(self.rows) // 2))
            rows = self.rows.take(places)
        unknown = rows < 0
        if unknown.any():
            absent = places[unknown]
            rows[unknown] = [row_of.get(key, default) for key in placing.keys_at(absent)]
            self.rows[absent] = rows[unknown]
        return rows

    def _grow(self, capacity: int) -> None:
        more = np.full(capacity - len(self.rows), _UNKNOWN)
        self.rows = np.concatenate([self.rows, more])


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
        return self._numbers.nbytes + sum(placed.nbytes for placed in self._placed.values())

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
