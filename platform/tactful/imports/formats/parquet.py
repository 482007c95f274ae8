"""Parquet files, read in batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tactful.errors import DatasetError, TactfulError
from tactful.imports.formats.rows import (
    LOCAL_MS,
    UTC_MS,
    Column,
    Place,
    Rows,
    WholeFileReader,
    unique_names,
)

_HEAD_ROWS = 2_000  # sampled at the beginning
_GROUPS, _GROUP_ROWS = 20, 500  # sampled in the rest, at even distances
_INDEX = "__index_level_"  # column that pandas makes of an index without a name


class ParquetReader(WholeFileReader):
    """Reader of Parquet."""

    def __init__(self, path: Path) -> None:
        """Read the schema.

        Raises:
            DatasetError: if the file is damaged or empty.
            TactfulError: if pyarrow is not installed.
        """
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise TactfulError("to read Parquet, pyarrow is needed: pip install pyarrow") from error
        self._arrow = pyarrow
        try:
            self._file = pyarrow.parquet.ParquetFile(path, memory_map=True)
        except (pyarrow.ArrowException, OSError) as error:
            raise DatasetError(f"{path}: is no readable Parquet file: {error}") from error
        metadata = self._file.metadata
        super().__init__(path, f"Parquet, {metadata.num_row_groups:,} row groups")
        if not metadata.num_rows:
            raise DatasetError(f"{path}: has columns but no rows")
        self.total = metadata.num_rows
        fields = _flat_fields(self._file.schema_arrow.empty_table())
        names = ["" if name.startswith(_INDEX) else name for name, _ in fields]
        self.columns = unique_names(names)
        self.types = {
            name: UTC_MS if type_.tz else LOCAL_MS
            for name, (_, type_) in zip(self.columns, fields, strict=True)
            if pyarrow.types.is_timestamp(type_)
        } | {
            name: LOCAL_MS
            for name, (_, type_) in zip(self.columns, fields, strict=True)
            if pyarrow.types.is_date(type_)
        }

    def sample(self) -> list[Column]:
        """Return rows of the beginning and of row groups all over the file."""
        groups = self._file.num_row_groups
        step = max(groups // _GROUPS, 1)
        wanted = [(0, _HEAD_ROWS), *((group, _GROUP_ROWS) for group in range(step, groups, step))]
        columns: list[list[Any]] = [[] for _ in self.columns]
        for group, count in wanted:
            batch = next(self._batches(count, [group]), None)
            for column, values in zip(columns, self._values(batch), strict=True):
                column += values
        return [*columns]

    def _read(self, skip: int, count: int) -> Iterator[Rows]:
        group, passed = 0, 0
        while group < self._file.num_row_groups:
            size = self._file.metadata.row_group(group).num_rows
            if passed + size > skip:
                break
            group, passed = group + 1, passed + size
        for batch in self._batches(count, [*range(group, self._file.num_row_groups)]):
            begin = max(skip - passed, 0)
            passed += len(batch)
            if begin < len(batch):
                rest = batch.slice(begin)
                numbers = range(passed - len(rest) + 1, passed + 1)
                yield Rows(self._values(rest), numbers, Place(passed))

    def _batches(self, count: int, groups: list[int]) -> Iterator[Any]:
        try:
            yield from self._file.iter_batches(batch_size=count, row_groups=groups)
        except self._arrow.ArrowException as error:
            raise DatasetError(f"{self.path}: is damaged: {error}") from error

    def _values(self, batch: Any) -> list[Column]:
        """Convert a batch to values of Python, times to milliseconds."""
        if batch is None:
            return [[] for _ in self.columns]
        table = self._arrow.Table.from_batches([batch])
        return [self._column(column) for column in _flat(table).columns]

    def _column(self, column: Any) -> Column:
        arrow, type_ = self._arrow, column.type
        if arrow.types.is_timestamp(type_):
            column = column.cast(arrow.timestamp("ms", type_.tz), safe=False).cast(arrow.int64())
        elif arrow.types.is_date(type_):
            column = column.cast(arrow.timestamp("ms")).cast(arrow.int64())
        elif arrow.types.is_binary(type_) or arrow.types.is_large_binary(type_):
            return [_text(value) for value in column.to_pylist()]
        values: Column = column.to_pylist()
        return values


def _flat(table: Any) -> Any:
    """Replace structs by their members, as columns with a dot."""
    while any(field.type.num_fields and _is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def _flat_fields(table: Any) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in _flat(table).schema]


def _is_struct(type_: Any) -> bool:
    return str(type_).startswith("struct<")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
