"""Sheets of Excel and OpenDocument, read by calamine.

A sheet is held in memory as a whole: some 100 bytes a cell. It has a million rows at most.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tactful.errors import ConfigError, DatasetError, TactfulError
from tactful.imports.formats.delimited import header_of
from tactful.imports.formats.rows import (
    SAMPLED_ROWS,
    Column,
    Place,
    Rows,
    WholeFileReader,
    unique_names,
)

_HEAD_ROWS = 100


class ExcelReader(WholeFileReader):
    """Reader of one sheet: xlsx, xlsm, xlsb, xls or ods."""

    def __init__(self, path: Path, sheet: str | None = None) -> None:
        """Choose a sheet, by default the largest, and find its header.

        Raises:
            ConfigError: if there is no such sheet.
            DatasetError: if the file is damaged or empty.
            TactfulError: if python-calamine is not installed.
        """
        try:
            import python_calamine as calamine
        except ImportError as error:
            raise TactfulError(
                "to read Excel, python-calamine is needed: pip install python-calamine"
            ) from error
        try:
            book = calamine.CalamineWorkbook.from_path(path)
            names = book.sheet_names
            if sheet is not None and sheet not in names:
                raise ConfigError(f"--sheet {sheet!r}: {path} has the sheets {', '.join(names)}")
            chosen = [sheet] if sheet is not None else names
            sheets = [book.get_sheet_by_name(name) for name in chosen]
            filled = max(sheets, key=lambda found: found.height, default=None)
        except TactfulError:
            raise
        except (calamine.CalamineError, OSError, ValueError) as error:
            raise DatasetError(f"{path}: is no readable Excel file: {error}") from error
        if filled is None or not filled.height:
            raise DatasetError(f"{path}: is empty")
        super().__init__(path, f"Excel, sheet {filled.name!r}")
        self._sheet = filled
        others = [name for name in names if name != filled.name]
        if others and sheet is None:
            self.notes.append(f"other sheets are not read: {', '.join(others)} (--sheet NAME)")
        head = [[_name(cell) for cell in row] for row in islice(self._cells(), _HEAD_ROWS)]
        self._header = header_of(path, head)
        self.columns = unique_names(head[self._header])
        last = filled.end[0] if filled.end is not None else 0  # from 0
        self.total = last - self._header
        if self.total <= 0:
            raise DatasetError(f"{path}: has a header but no rows")

    def sample(self) -> list[Column]:
        """Return rows at even distances."""
        step = max((self.total or 0) // SAMPLED_ROWS, 1)
        rows = [row for _, row in islice(self._rows(0), 0, None, step)]
        return [*zip(*rows, strict=True)] or [()] * len(self.columns)

    def _read(self, skip: int, count: int) -> Iterator[Rows]:
        rows = self._rows(skip)
        while block := list(islice(rows, count)):
            columns: list[Column] = [*zip(*(row for _, row in block), strict=True)]
            numbers = [number for number, _ in block]
            yield Rows(columns, numbers, Place(numbers[-1] - self._header - 1))

    def _rows(self, skip: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield rows of data that are not blank, with their number in the sheet."""
        rows = islice(self._cells(), self._header + 1 + skip, None)
        for number, row in enumerate(rows, self._header + 2 + skip):
            if any(cell != "" for cell in row):
                yield number, [_plain(cell) for cell in row]

    def _cells(self) -> Iterator[list[Any]]:
        return self._sheet.iter_rows()


def _name(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _plain(cell: Any) -> Any:
    """Return numbers without a fraction as whole numbers, and nothing as None."""
    if isinstance(cell, str):
        return cell or None
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() else cell
    return str(cell) if isinstance(cell, dt.timedelta) else cell
