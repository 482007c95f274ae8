"""Views: how each feature is read from the parts of its store, row by row or all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.definitions.model import Feature
from tactful_streaming.windows.accumulators import most_frequent
from tactful_streaming.windows.pane_columns import AccumulatorPanes, NumberPanes
from tactful_streaming.windows.store import Store, Value, counts_values

_LISTS = ("last_n", "top_k")


class View:
    """One feature, as read.

    Attributes:
        feature: what is read.
        store: where its state is.
        is_number: whether its value is one number for each row.
    """

    def __init__(self, feature: Feature, store: Store) -> None:
        """Read `feature` from `store`, which serves it."""
        self.feature = feature
        self.store = store
        self.is_number = feature.group_by is None and feature.aggregate not in _LISTS
        self.columns = store.columns_of(feature)
        self._by_value = counts_values(feature)

    def read(self, row: int, at: int) -> Value:
        """The value of one row at time `at`."""
        if self._by_value:
            counted: Value = self._of_counts(self._by_group(row, at))
            return counted
        if self.feature.group_by is not None:
            return self._by_group(row, at)
        value = self._read_one(row, at)
        if value is None:
            return [] if self.feature.aggregate in _LISTS else 0.0
        found: Value = value
        return found

    def read_many(self, rows: Rows, at: int) -> Floats:
        """The numbers of `rows` at time `at`, of a feature that :attr:`is_number`."""
        if self._by_value:
            return np.array([len(self._by_group(row, at)) for row in rows.tolist()], np.float64)
        numbers = self.read_cells(rows, at)
        numbers[np.isnan(numbers)] = 0
        return numbers

    def read_cells(self, cells: Rows, at: int) -> Floats:
        """Numbers of cells at time `at`; NaN where there is nothing."""
        numbers = self.columns[0].read(cells, self.feature, at)
        if len(self.columns) > 1:
            numbers = numbers / self.columns[1].read(cells, self.feature, at)
        return numbers

    def window(self, end: int) -> tuple[Rows, list[str] | None, list[Any]]:
        """The window that ends at `end`, of all that have something in it.

        Returns:
            Rows, groups if there are any, and values.
        """
        column = self.columns[0]
        assert isinstance(column, NumberPanes | AccumulatorPanes)
        cells, numbers = column.read_all(self.feature, end - 1)
        if len(self.columns) > 1:
            other = self.columns[1]
            assert isinstance(other, NumberPanes)
            numbers = numbers / other.read_all(self.feature, end - 1)[1]
        return self._rows(cells, numbers)

    def window_of(self, cells: Iterable[int], end: int) -> tuple[Rows, list[str] | None, list[Any]]:
        """As :meth:`window`, of some cells only."""
        found = np.array(sorted(cells), np.int64)
        if self._by_value:
            assert self.store.groups is not None
            found = np.array(self.store.groups.of_rows(sorted({*self.rows_of(found)})), np.int64)
        numbers = self.read_cells(found, end - 1)
        present = ~np.isnan(numbers)
        return self._rows(found[present], numbers[present])

    def rows_of(self, cells: Rows) -> list[int]:
        """Row of each cell."""
        rows: list[int] = (
            cells if self.store.groups is None else self.store.groups.rows[cells]
        ).tolist()
        return rows

    def groups_of(self, cells: Rows) -> list[str] | None:
        """Group of each cell; None where there are none."""
        if self.store.groups is None:
            return None
        names = list(map(self.store.groups.texts.__getitem__, cells.tolist()))
        assert None not in names
        return cast("list[str]", names)

    def _rows(self, cells: Rows, numbers: Floats) -> tuple[Rows, list[str] | None, list[Any]]:
        rows = cells if self.store.groups is None else self.store.groups.rows[cells]
        groups = self.groups_of(cells)
        values: list[Any] = numbers.tolist()
        if not self._by_value:
            return rows, groups, values
        assert groups is not None
        counts: dict[int, dict[str, float]] = {}
        for row, group, value in zip(rows.tolist(), groups, values, strict=True):
            counts.setdefault(row, {})[group] = value
        return np.array([*counts], np.int64), None, [*map(self._of_counts, counts.values())]

    def _by_group(self, row: int, at: int) -> dict[str, float]:
        cells = self.store.cells_of(row)
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
    """The features of one row at a time, each read when it is asked for first.

    They are those of that time as long as nothing is applied.
    """

    def __init__(self, views: Mapping[str, View], row: int, at: int) -> None:
        """Read nothing yet."""
        self._views = views
        self._row = row
        self._at = at
        self._values: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        """The value of a feature.

        Raises:
            KeyError: if there is no such feature.
        """
        if name not in self._values:
            self._values[name] = self._views[name].read(self._row, self._at)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the features."""
        return iter(self._views)

    def __len__(self) -> int:
        """How many features there are."""
        return len(self._views)
