"""Tables of delimited text: CSV, TSV and their relatives."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from tactful.errors import ConfigError, DatasetError
from tactful.imports.formats.rows import (
    SAMPLED_ROWS,
    Column,
    Place,
    Reader,
    RejectedRow,
    Rows,
    unique_names,
)
from tactful.imports.formats.text_file import LineReader, TextFile

_DELIMITERS = (",", ";", "\t", "|", "::")
_UNIT = "\x1f"  # stands for a delimiter of several characters
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", "::": "colons"}
_HEAD_ROWS = 100  # in which the header and the delimiter are searched
# A cell of data, which no header has: a number, a date or a time.
_DATA = re.compile(r"[-+]?\d[\d.,:/ T+Z-]*")


@dataclass(frozen=True)
class Dialect:
    """Delimiter of fields, and whether quotes enclose them."""

    delimiter: str
    quoted: bool = True

    def reader(self, lines: Iterable[str]) -> Any:
        """Return a reader of the standard library."""
        delimiter = self.delimiter
        if len(delimiter) > 1:
            lines = (line.replace(self.delimiter, _UNIT) for line in lines)
            delimiter = _UNIT
        if self.quoted:
            return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)

    def parse(self, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield sampled rows with the number of lines up to their end, as far as possible."""
        parser = self.reader(lines)
        with suppress(csv.Error):  # a sample may begin within a quoted text
            for row in parser:
                yield parser.line_num, row


class DelimitedReader(Reader):
    """Reader of CSV and TSV. Rows may be appended to a file that was sent."""

    grows: ClassVar[bool] = True
    unit = "B"

    def __init__(
        self, text: TextFile, delimiter: str | None = None, names: Sequence[str] | None = None
    ) -> None:
        """Find delimiter and header; with `names` the file has no header.

        Raises:
            DatasetError: if the file is empty or has no header.
        """
        self._samples = text.samples()
        lines = self._samples[0]
        self._skipped = 0  # lines before the header
        if lines and lines[0].lower().startswith("sep=") and len(lines[0].strip()) <= 5:
            delimiter = delimiter or lines[0].rstrip(text.newline + "\r")[4:] or None
            self._skipped = 1
        self._dialect = find_dialect(lines[self._skipped :], delimiter)
        sign = self._dialect.delimiter
        kind = "TSV" if sign == "\t" else f"CSV ({_NAMES.get(sign, repr(sign))})"
        super().__init__(text.path, f"{kind}, {text.about}")
        self._text = text
        self.decimal = "," if sign == ";" else "."  # as Excel writes both
        self.total = None if text.packed else text.path.stat().st_size
        head = list(islice(self._dialect.parse(lines[self._skipped :]), _HEAD_ROWS))
        if names is None:
            begin = header_of(text.path, [row for _, row in head])
            self.columns = unique_names([name.strip() for name in head[begin][1]])
            self._skipped += head[begin][0]
        else:
            width = Counter(len(row) for _, row in head if row).most_common(1)
            if not width:
                raise DatasetError(f"{text.path}: is empty")
            if len(names) != width[0][0]:
                raise ConfigError(
                    f"--columns has {len(names)} names, but {text.path} has {width[0][0]} columns"
                )
            self.columns = [*names]

    def sample(self) -> list[Column]:
        """Return rows from all over the file; those of another length are left out."""
        rows: list[list[str]] = []
        for number, lines in enumerate(self._samples):
            begin = 0 if number else self._skipped
            rows += [
                row for _, row in self._dialect.parse(lines[begin:]) if len(row) == self._width
            ]
            if len(rows) >= SAMPLED_ROWS:
                break
        return [*zip(*rows, strict=True)] or [()] * self._width

    def rows(self, start: Place, count: int) -> Iterator[Rows]:
        """Read the rows behind a place."""
        lines = LineReader(self._text, start)
        try:
            yield from self._rows(lines, count)
        except csv.Error as error:
            line = lines.place().rows
            raise DatasetError(
                f"{self.path}:{line}: {error}: is a quote opened and not closed before this line?"
            ) from error
        finally:
            lines.close()

    def _rows(self, lines: LineReader, count: int) -> Iterator[Rows]:
        passed = lines.place().rows
        text = iter(lines)
        if not passed:
            for _ in range(self._skipped):
                next(text, None)
            passed = lines.place().rows
        # csv reads no line before it needs one, so the place is that of the last row.
        parser = self._dialect.reader(text)
        while True:
            rows, numbers, before = [], [], parser.line_num
            for row in parser:
                if row:
                    rows.append(row)
                    numbers.append(passed + before + 1)
                before = parser.line_num
                if len(rows) == count:
                    break
            end = lines.place()
            if not rows:
                return
            yield self._mended(rows, numbers, end)

    def _mended(self, rows: list[list[str]], numbers: list[int], end: Place) -> Rows:
        """Fill up short rows, and reject long ones."""
        width, rejected = self._width, []
        if {*map(len, rows)} != {width}:
            kept = []
            for number, row in zip(numbers, rows, strict=True):
                if any(row[width:]):
                    message = f"the row has {len(row)} fields, the header {width}"
                    rejected.append(RejectedRow(number, "wrong_length", message))
                else:
                    kept.append((number, row[:width] + [""] * (width - len(row))))
            numbers, rows = [number for number, _ in kept], [row for _, row in kept]
        columns = [*zip(*rows, strict=True)] or [()] * width
        return Rows(columns, numbers, end, rejected)

    @property
    def _width(self) -> int:
        return len(self.columns)


def find_dialect(lines: Sequence[str], delimiter: str | None) -> Dialect:
    """Return the dialect that splits most lines into the same number of fields."""
    dialects = [Dialect(sign) for sign in ((delimiter,) if delimiter else _DELIMITERS)]
    # Quotes mean nothing in many files with tabs, such as product feeds.
    dialects += [
        Dialect(dialect.delimiter, quoted=False)
        for dialect in dialects
        if dialect.delimiter == "\t"
    ]
    best = (0.0, 1, 0), dialects[0]
    for dialect in dialects:
        widths = Counter(len(row) for _, row in dialect.parse(lines[:_HEAD_ROWS]) if row)
        for width, rows in widths.most_common(1):
            share = round(rows / widths.total(), 1)
            if width > 1 and (share, width, rows) > best[0]:
                best = (share, width, rows), dialect
    return best[1]


def header_of(path: Path, rows: Sequence[Sequence[str]]) -> int:
    """Return the number of the row with the names, below titles and blank lines.

    Raises:
        DatasetError: if the file is empty, or has no row of names.
    """
    filled = [sum(1 for cell in row if cell.strip()) for row in rows]
    if not any(filled):
        raise DatasetError(f"{path}: is empty")
    usual = sorted(size for size in filled if size)[sum(map(bool, filled)) // 2]
    # A title above the table fills one or two cells of a wide table.
    begin = next(at for at, size in enumerate(filled) if size > usual / 2)
    header = [cell.strip() for cell in rows[begin]]
    if any(_DATA.fullmatch(cell) for cell in header):
        shown = ", ".join(header[:8])
        raise DatasetError(
            f"{path}: has no header: its first row is {shown}. Name the columns in their order, "
            "such as --columns user,item,rating,timestamp"
        )
    return begin


def path_suffixes(path: Path) -> list[str]:
    """Return the extensions of a name in lower case, without that of gzip."""
    return [suffix.lower() for suffix in path.suffixes if suffix.lower() not in (".gz", ".gzip")]
