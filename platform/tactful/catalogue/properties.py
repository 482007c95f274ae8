"""Properties of items as columns of codes, to filter by any of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tactful.util.growable_array import append_to, filled_array
from tactful_streaming.contract.log_entries import Item

Scalar = str | int | float | bool
_Value = Scalar | tuple[Scalar, ...]
_Key = tuple[Any, ...]

MOST_PROPERTIES = 64
"""Properties that can be filtered by, in the order in which they first came."""

MOST_COUNTED = 5_000
"""Different values of a property, or lists of them, that `PropertyColumns.counts` counts."""

_UNKNOWN = -1
_SPARE = 1_000


@dataclass(frozen=True)
class _Dictionary:
    """Distinct values of a property, by code.

        values ["red", ("red", "blue"), 4.5]   containing {"red": [0, 1], "blue": [1], 4.5: [2]}

    Numbers, texts and truth values stay apart: 1, "1" and true are three values.
    """

    values: list[_Value] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)  # NaN for no number
    containing: dict[_Key, list[int]] = field(default_factory=dict)
    _codes: dict[_Key, int] = field(default_factory=dict)

    def code_of(self, value: _Value) -> int:
        """Return the code of a value, a new one for a new value."""
        parts = tuple(map(_typed, value)) if isinstance(value, tuple) else _typed(value)
        code = self._codes.get(parts)
        if code is None:
            code = self._codes[parts] = len(self.values)
            self.values.append(value)
            self.numbers.append(_number(value))
            of_parts = parts if isinstance(value, tuple) else (parts,)
            for part in dict.fromkeys(of_parts):
                self.containing.setdefault(part, []).append(code)
        return code


@dataclass(frozen=True)
class _Column:
    codes: NDArray[np.int32]  # of each row, -1 where the property is unknown
    values: _Dictionary

    def passing(self, codes: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return whether the value of each row is among those that pass, by code."""
        known = np.append(codes, False)  # the last element is that of code -1
        passing: NDArray[np.bool_] = known[self.codes]
        return passing


class PropertyColumns:
    """The properties of all items, one row for each; a shop's own names and types.

    A property has one code for each distinct value, so a row takes four bytes for each property.
    """

    def __init__(self, count: int, columns: dict[str, _Column] | None = None) -> None:
        """Begin with `count` rows without properties."""
        self._count = count
        self._columns = {} if columns is None else columns

    def placed(
        self, count: int, to: slice | NDArray[np.int64], rows: slice | NDArray[np.int64]
    ) -> PropertyColumns:
        """Copy `rows` to the rows `to` of `count` rows; the others have no properties."""
        columns = {}
        for name, column in self._columns.items():
            codes = filled_array(count, _UNKNOWN, np.int32)
            codes[to] = column.codes[rows]
            columns[name] = replace(column, codes=codes)
        return PropertyColumns(count, columns)

    def grown(self, count: int) -> PropertyColumns:
        """Append rows without properties, up to `count`; only the latest may grow."""
        more = filled_array(count - self._count, _UNKNOWN, np.int32)
        columns = {
            name: replace(column, codes=append_to(column.codes, more))
            for name, column in self._columns.items()
        }
        return PropertyColumns(count, columns)

    def describe(self, items: Iterable[tuple[int, Item]]) -> None:
        """Write the properties of some rows, in place of all they had."""
        for row, item in items:
            for former in self._columns.values():
                former.codes[row] = _UNKNOWN
            for name, value in item.properties.items():
                kept = _kept(value)
                column = None if kept is None else self._column(name)
                if kept is not None and column is not None:
                    column.codes[row] = column.values.code_of(kept)
        for name, column in self._columns.items():
            if len(column.values.values) > 2 * self._count + _SPARE:
                self._columns[name] = _compacted(column)

    def among(self, name: str, values: Collection[Scalar]) -> NDArray[np.bool_]:
        """Return whether each row has one of some values, alone or in a list."""
        column = self._columns.get(name)
        if column is None:
            return np.zeros(self._count, np.bool_)
        wanted = np.zeros(len(column.values.values), np.bool_)
        for value in values:
            wanted[column.values.containing.get(_typed(value), [])] = True
        return column.passing(wanted)

    def between(self, name: str, lowest: float, highest: float) -> NDArray[np.bool_]:
        """Return whether each row has a number of at least `lowest` and at most `highest`."""
        column = self._columns.get(name)
        if column is None:
            return np.zeros(self._count, np.bool_)
        numbers = np.array(column.values.numbers, np.float64)
        return column.passing((numbers >= lowest) & (numbers <= highest))

    def read(
        self, name: str, amounts: Mapping[str, float], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the amount of each row by its value of a property, 0 for none.

        A list has the largest amount of its elements. Amounts are by text or whole number, like the
        groups of a feature.
        """
        column = self._columns.get(name)
        if column is None:
            return np.zeros(len(rows), np.float32)
        by_code = np.zeros(len(column.values.values) + 1, np.float32)
        for (_, value), codes in column.values.containing.items():
            if (amount := amounts.get(_group_of(value))) is not None:
                by_code[codes] = np.maximum(by_code[codes], np.float32(amount))
        amount_of: NDArray[np.float32] = by_code[column.codes[rows]]
        return amount_of

    def values_of(self, name: str, rows: NDArray[np.int64]) -> list[object]:
        """Return the value of a property of each row; None where it is unknown."""
        column = self._columns.get(name)
        if column is None:
            return [None] * len(rows)
        values = column.values.values
        return [None if code < 0 else values[code] for code in column.codes[rows].tolist()]

    def counts(self, name: str, rows: NDArray[np.int64]) -> dict[str, int]:
        """Count rows by the values of a property as texts; a row counts for each of a list.

        Rows without the property count for the empty text. Only the most frequent values or
        lists are counted if there are more than `MOST_COUNTED`.
        """
        column = self._columns.get(name)
        if column is None:
            return {"": len(rows)} if len(rows) else {}
        values, counts = column.values.values, dict[str, int]()
        items = np.bincount(column.codes[rows] - _UNKNOWN)
        held = np.flatnonzero(items)
        if len(held) > MOST_COUNTED:
            held = held[np.argsort(-items[held], kind="stable")[:MOST_COUNTED]]
        for at, count in zip(held.tolist(), items[held].tolist(), strict=True):
            value = values[at - 1] if at else ""  # the first number is that of no value
            for part in dict.fromkeys(value) if isinstance(value, tuple) else (value,):
                text = str(part).lower() if isinstance(part, bool) else str(part)
                counts[text] = counts.get(text, 0) + count
        return counts

    def known(self, name: str) -> NDArray[np.bool_]:
        """Return whether each row has a property."""
        column = self._columns.get(name)
        return np.zeros(self._count, np.bool_) if column is None else column.codes >= 0

    @property
    def names(self) -> Sequence[str]:
        """Names of the properties that can be filtered by."""
        return tuple(self._columns)

    def _column(self, name: str) -> _Column | None:
        column = self._columns.get(name)
        if column is None and len(self._columns) < MOST_PROPERTIES:
            codes = filled_array(self._count, _UNKNOWN, np.int32)
            column = self._columns[name] = _Column(codes, _Dictionary())
        return column


def _typed(value: Scalar) -> _Key:
    """Return a key under which 1 and 1.0 are equal, and 1 and true are not."""
    if isinstance(value, bool):
        return bool, value
    return (str, value) if isinstance(value, str) else (float, float(value))


def _group_of(value: Scalar) -> str:
    """Return the group that a feature has for a value; empty for none."""
    if isinstance(value, str):
        return value
    whole = not isinstance(value, bool) and float(value).is_integer()
    return str(int(value)) if whole else ""


def _kept(value: object) -> _Value | None:
    """Return a value that can be filtered by; None for none."""
    if isinstance(value, list):
        parts = tuple(part for part in value if isinstance(part, str | int | float | bool))
        return parts or None
    return value if isinstance(value, str | int | float | bool) else None


def _number(value: _Value) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(cast("float", value)) if is_number else math.nan


def _compacted(column: _Column) -> _Column:
    """Leave out values that no row has any more, such as former stocks."""
    used, places = np.unique(column.codes, return_inverse=True)
    values = _Dictionary()
    codes = [
        _UNKNOWN if code < 0 else values.code_of(column.values.values[code])
        for code in used.tolist()
    ]
    compact = filled_array(len(column.codes), _UNKNOWN, np.int32)
    compact[:] = np.array(codes, np.int32)[places]
    return _Column(compact, values)
