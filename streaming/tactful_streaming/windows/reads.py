"""Reads features from the columns of their shared aggregates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.definitions.model import Feature
from tactful_streaming.windows.accumulators import most_frequent
from tactful_streaming.windows.pane_columns import AccumulatorPanes
from tactful_streaming.windows.panes import NumberPanes
from tactful_streaming.windows.shared_aggregate import SharedAggregate, Value, counts_values

_LISTS = ("last_n", "top_k")


class View:
    """Reader of one feature.

    Attributes:
        aggregate: holds its state.
        is_number: whether its value is one number for each row.
        columns: columns it is read from.
    """

    def __init__(self, feature: Feature, aggregate: SharedAggregate) -> None:
        """Read `feature` from `aggregate`, which computes it."""
        self.feature = feature
        self.aggregate = aggregate
        self.is_number = feature.group_by is None and feature.aggregate not in _LISTS
        self.columns = aggregate.columns_of(feature)
        self._by_value = counts_values(feature)

    def read(self, row: int, at: int) -> Value:
        """Return the value of one row at time `at`."""
        if self._by_value:
            counted: Value = self._of_counts(self._by_group(row, at))
            return counted
        if self.feature.group_by is not None:
            return self._by_group(row, at)
        value = self._read_one(row, at)
        if value is None:
            return [] if self.feature.aggregate in _LISTS else 0.0
        result: Value = value
        return result

    def read_many(self, rows: Rows, at: int) -> Floats:
        """Return the numbers of `rows` at time `at`, if the feature :attr:`is_number`."""
        if self._by_value:
            return np.array([len(self._by_group(row, at)) for row in rows.tolist()], np.float64)
        numbers = self.read_cells(rows, at)
        numbers[np.isnan(numbers)] = 0
        return numbers

    def read_cells(self, cells: Rows, at: int) -> Floats:
        """Return the numbers of cells at time `at`; NaN without state."""
        numbers = self.columns[0].read(cells, self.feature, at)
        if len(self.columns) > 1:
            numbers = numbers / self.columns[1].read(cells, self.feature, at)
        return numbers

    def window(self, end: int) -> tuple[Rows, list[str] | None, list[Any]]:
        """Return the window that ends at `end`: rows with state, groups if any, values."""
        column = self.columns[0]
        assert isinstance(column, NumberPanes | AccumulatorPanes)
        cells, numbers = column.read_all(self.feature, end - 1)
        if len(self.columns) > 1:
            other = self.columns[1]
            assert isinstance(other, NumberPanes)
            numbers = numbers / other.read_all(self.feature, end - 1)[1]
        return self._rows(cells, numbers)

    def window_of(self, cells: Iterable[int], end: int) -> tuple[Rows, list[str] | None, list[Any]]:
        """Like :meth:`window`, for some cells only."""
        ordered = np.array(sorted(cells), np.int64)
        if self._by_value:
            assert self.aggregate.groups is not None
            rows = np.unique(self.aggregate.groups.rows[ordered]).tolist()
            ordered = np.array(self.aggregate.groups.of_rows(rows), np.int64)
        numbers = self.read_cells(ordered, end - 1)
        present = ~np.isnan(numbers)
        return self._rows(ordered[present], numbers[present])

    def _rows(self, cells: Rows, numbers: Floats) -> tuple[Rows, list[str] | None, list[Any]]:
        values: list[Any] = numbers.tolist()
        index = self.aggregate.groups
        if index is None:
            return cells, None, values
        rows, groups = index.rows[cells], index.names(cells)
        if not self._by_value:
            return rows, groups, values
        counts: dict[int, dict[str, float]] = {}
        for row, group, value in zip(rows.tolist(), groups, values, strict=True):
            counts.setdefault(row, {})[group] = value
        return np.array([*counts], np.int64), None, [*map(self._of_counts, counts.values())]

    def _by_group(self, row: int, at: int) -> dict[str, float]:
        assert self.aggregate.groups is not None
        cells = self.aggregate.groups.cells.get(row)
        if not cells:
            return {}
        numbers = self.read_cells(np.array([*cells.values()], np.int64), at)
        return {
            group: number
            for group, number in zip(cells, numbers.tolist(), strict=True)
            if number == number
        }

    def _read_one(self, row: int, at: int) -> Any:
        value: Any = self.columns[0].read_one(row, self.feature, at)
        if value is not None and len(self.columns) > 1:
            value /= self.columns[1].read_one(row, self.feature, at)
        return value

    def _of_counts(self, counts: Mapping[str, float]) -> Any:
        if self.feature.aggregate == "distinct":
            return float(len(counts))
        return most_frequent(counts, self.feature)


class LazyValues(Mapping[str, Value]):
    """Features of one row at one time, each read at its first use, until the state changes."""

    def __init__(self, views: Mapping[str, View], row: int, at: int) -> None:
        """Prepare to read the features of `row` at time `at`."""
        self._views = views
        self._row = row
        self._at = at
        self._values: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        """Return the value of a feature; KeyError without one of this name."""
        if name not in self._values:
            self._values[name] = self._views[name].read(self._row, self._at)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the features."""
        return iter(self._views)

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self._views)
