"""Columns of a sample, and tests of what they hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from tactful.errors import DatasetError
from tactful.imports.amounts import (
    Decimal_,
    NumberFormat,
    are_numbers,
    currency_of,
    number_format,
)
from tactful.imports.cells import is_boolean, is_flag, is_nothing, present, read_id
from tactful.imports.event_types import types_of
from tactful.imports.formats.rows import LOCAL_MS, UTC_MS, Reader
from tactful.imports.moments import (
    MomentFormat,
    MomentReader,
    UnclearTimes,
    moment_format,
)
from tactful.imports.names import TIME, candidates, is_other_time, like_times
from tactful.imports.options import ImportOptions, known_column, zone_of
from tactful.imports.plan import Mapped, Read

_MOSTLY = 0.9  # share of cells that have to be of a type
_MOST_WORDS = 200  # different types of events
_WHOLE = re.compile(r"\d+[.,]0")
_CODE = re.compile(r"0\d+")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?")
_TESTED = 2_000  # cells that are tested, at even distances


class Columns:
    """The sampled columns of a file."""

    def __init__(self, reader: Reader, options: ImportOptions) -> None:
        """Sample a file.

        Raises:
            DatasetError: if it has no rows.
        """
        self.path = reader.path
        self.options = options
        self.types = reader.types
        self._decimal = reader.decimal
        self._hints = reader.hints
        self._moments: dict[tuple[str, ...], tuple[MomentFormat | None] | UnclearTimes] = {}
        self._numbers: dict[str, NumberFormat] = {}
        self._sample = {
            name: column
            for name, column in zip(reader.columns, reader.sample(), strict=True)
            if name
        }
        if not self._sample:
            raise DatasetError(f"{reader.path}: no column has a name")
        if not any(len(column) for column in self._sample.values()):
            raise DatasetError(f"{reader.path}: has a header but no rows")
        self.names = [*self._sample]
        self._cells = {name: present(column) for name, column in self._sample.items()}

    def cells(self, name: str) -> list[Any]:
        """Return the sampled cells of a column that are not empty."""
        return self._cells[name]

    def filled(self, name: str) -> float:
        """Return the share of cells that are not empty."""
        return len(self._cells[name]) / max(len(self._sample[name]), 1)

    def shares_values(self, name: str, other: str) -> float:
        """Return the share of a column's values that stand beside several ones of another."""
        beside: dict[str, set[str]] = {}
        for left, right in zip(self._sample[name], self._sample[other], strict=True):
            if not (is_nothing(left) or is_nothing(right)):
                beside.setdefault(str(left), set()).add(str(right))
        return sum(len(values) > 1 for values in beside.values()) / max(len(beside), 1)

    def find(self, field: str) -> str | None:
        """Return the likeliest column of a field that is not empty."""
        if field in self._hints:
            return self._hints[field]
        return next((name for name in candidates(field, self.names) if self._cells[name]), None)

    def find_number(self, field: str) -> str | None:
        """Return the likeliest column of a field that holds numbers."""
        for name in candidates(field, self.names):
            cells = self._tested(name)
            if cells and are_numbers(cells, self.number(name)) >= _MOSTLY:
                return name
        return None

    def find_flag(self, field: str) -> str | None:
        """Return the likeliest column of a field that holds truth values or amounts in stock."""
        for name in candidates(field, self.names):
            cells = self._tested(name)
            if cells and sum(map(is_flag, cells)) >= _MOSTLY * len(cells):
                return name
        return None

    def find_time(self, field: str) -> str | None:
        """Return the likeliest column of a field that holds times, clear ones or not."""
        for name in [*candidates(field, self.names), *like_times(field, self.names)]:
            if not self._cells[name]:
                continue
            try:
                if self.moment((name,)) is not None:
                    return name
            except UnclearTimes:
                return name
        return self._only_dates if field == TIME else None

    @cached_property
    def _only_dates(self) -> str | None:
        """The only column of dates, whatever its name; numbers could be anything."""
        found = []
        for name in self.names:
            if is_other_time(name) or not self._cells[name]:
                continue
            try:
                form = self.moment((name,))
            except UnclearTimes:
                found.append(name)
                continue
            if form is not None and form.style not in ("number", "compact", "serial"):
                found.append(name)
        return found[0] if len(found) == 1 else None

    def no_time(self, name: str) -> str | None:
        """Return a cell of a column that is no time."""
        for cell in self._cells[name]:
            try:
                if moment_format([cell]) is None:
                    return str(cell)[:40]
            except UnclearTimes:
                continue
        return None

    def moment(self, names: tuple[str, ...]) -> MomentFormat | None:
        """Return the format of the times in a column, or in date and time of day.

        Raises:
            UnclearTimes: if they can be read in several ways.
        """
        found = self._moments.get(names)
        if found is None:
            found = self._moments[names] = self._moment(names)
        if isinstance(found, UnclearTimes):
            raise found
        return found[0]

    def _moment(self, names: tuple[str, ...]) -> tuple[MomentFormat | None] | UnclearTimes:
        type_ = self.types.get(names[0])
        if type_ in (LOCAL_MS, UTC_MS) and len(names) == 1:
            return (MomentFormat("typed", zoned=type_ == UTC_MS),)
        try:
            return (moment_format(self._joined(names), self.options.date_order),)
        except UnclearTimes as error:
            return error

    def _joined(self, names: tuple[str, ...]) -> list[Any]:
        """Return the cells of a column, or of date and time of day, that are not empty."""
        if len(names) == 1:
            return self._cells[names[0]]
        pairs = zip(*(self._sample[name] for name in names), strict=True)
        return present(f"{date} {clock or ''}".strip() for date, clock in pairs if date)

    def times(self, mapped: Mapped) -> list[int]:
        """Return the sampled times of a field that can be read, in the order of the file."""
        assert mapped.moment is not None
        read = MomentReader(mapped.moment, zone_of(self.options.time_zone))
        found = []
        for cell in self._joined(mapped.columns):
            try:
                found.append(read(cell))
            except (ValueError, TypeError, OverflowError):
                continue
        return found

    def number(self, name: str) -> NumberFormat:
        """Return how the numbers of a column are written."""
        if self.options.decimal is not None:
            return NumberFormat("," if self.options.decimal == "comma" else ".")
        if name not in self._numbers:
            self._numbers[name] = number_format(self._cells[name], self._usual_decimal)
        return self._numbers[name]

    @cached_property
    def _usual_decimal(self) -> Decimal_:
        """The decimal sign of the columns that show it, for those that do not."""
        for name in self.names:
            cells = self._tested(name)
            form = number_format(cells)
            if form.decimal == "," and are_numbers(cells, form) >= _MOSTLY:
                return ","
        return self._decimal

    def joins(self, date: str, clock: str) -> bool:
        """Whether one column has dates and the other times of day."""
        tested = [str(cell) for cell in self._tested(clock)]
        if not tested or not all(_CLOCK.fullmatch(cell) for cell in tested):
            return False
        try:
            return self.moment((date, clock)) is not None
        except UnclearTimes:
            return True

    def names_currency(self, name: str) -> bool:
        """Whether the prices of a column name their currency."""
        cells = self._tested(name)
        return sum(1 for cell in cells if currency_of(cell)) >= _MOSTLY * len(cells) > 0

    def is_plain_number(self, name: str) -> bool:
        """Whether all cells are numbers without the zeros in front that codes have."""
        cells = self._tested(name)
        if not cells or any(is_boolean(cell) for cell in cells):
            return False
        texts = [cell.strip() for cell in cells if isinstance(cell, str)]
        if any(len(text) > 15 or _CODE.fullmatch(text) for text in texts):
            return False
        return are_numbers(cells, self.number(name)) == 1.0

    def is_whole_with_point(self, name: str) -> bool:
        """Whether ids are written as ``17850.0``, as pandas does where cells are empty."""
        texts = [cell.strip() for cell in self._tested(name) if isinstance(cell, str)]
        return bool(texts) and all(_WHOLE.fullmatch(text) for text in texts)

    def has_comma(self, name: str) -> bool:
        """Whether any number of a column is written with a comma."""
        return any("," in cell for cell in self._tested(name) if isinstance(cell, str))

    def words(self, name: str, given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
        """Return the types of the words in a column, and the words without type, by frequency."""
        counts = Counter(map(_word, self._cells[name]))
        most = [word for word, _ in counts.most_common(_MOST_WORDS)]
        return types_of(most, given)

    def share_of_types(self, name: str, given: Mapping[str, str]) -> float:
        """Return the share of cells that are words for a type of events."""
        types, _ = self.words(name, given)
        cells = self._tested(name)
        known = sum(1 for cell in cells if _word(cell) in types)
        return known / len(cells) if cells else 0.0

    def named(self, name: str, option: str) -> tuple[str, ...]:
        """Return the columns that an option names.

        Raises:
            ConfigError: if the file has no such column.
        """
        return known_column(name, self.names, option)

    def mapped(self, target: str, names: tuple[str, ...], read: Read) -> Mapped:
        """Return a field with what its column needs to be read.

        Raises:
            DatasetError: if a column of times holds none, or unclear ones.
        """
        if read == "moment":
            return Mapped(target=target, columns=names, read=read, moment=self._clear(names))
        numbers = read == "number" or (read == "value" and self.is_plain_number(names[0]))
        number = self.number(names[0]) if numbers else None
        whole = read == "id" and self.is_whole_with_point(names[0])
        return Mapped(target=target, columns=names, read=read, number=number, whole=whole)

    def _clear(self, names: tuple[str, ...]) -> MomentFormat:
        shown = " + ".join(names)
        try:
            form = self.moment(names)
        except UnclearTimes as error:
            raise DatasetError(f"{self.path}: the times in {shown} {error}") from error
        if form is None:
            cells = self._cells[names[0]]
            example = str(cells[0])[:40] if cells else ""
            raise DatasetError(
                f"{self.path}: the column {shown} holds no times that can be read: {example!r}"
            )
        return form

    def _tested(self, name: str) -> list[Any]:
        cells = self._cells[name]
        return cells[:: max(len(cells) // _TESTED, 1)]


def _word(cell: Any) -> str:
    return "" if isinstance(cell, list | dict) else read_id(cell, whole=True)
