"""Parquet as pandas and others write it."""

from __future__ import annotations

import datetime as dt
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.platform.imports.support import converted, without_ids, write

from tactful.errors import DatasetError, TactfulError
from tactful.imports.formats.parquet import ParquetReader
from tactful.imports.formats.rows import LOCAL_MS, UTC_MS, ChangedFile, Place


def rows_of(reader: ParquetReader, start: Place, count: int = 3) -> list[tuple[Any, ...]]:
    batches = reader.rows(start, count)
    return [row for rows in batches for row in zip(*rows.columns, strict=True)]


def test_types_of_arrow_become_values(tmp_path: Path) -> None:
    at = dt.datetime(2024, 1, 31, 10, 5, 6, 789_123)
    table = pa.table(
        {
            "local": pa.array([at, None], pa.timestamp("us")),
            "utc": pa.array(
                [at.replace(tzinfo=ZoneInfo("Europe/Berlin"))] * 2,
                pa.timestamp("ns", "Europe/Berlin"),
            ),
            "day": pa.array([at.date(), None], pa.date32()),
            "who": pa.array(["ada", None]).dictionary_encode(),
            "raw": pa.array([b"tea", None]),
            "price": pa.array([Decimal("2.50"), None], pa.decimal128(8, 2)),
            "user": pa.array([{"id": 7, "geo": {"city": "Ulm"}}, None]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    reader = ParquetReader(tmp_path / "t.parquet")
    assert reader.columns == [
        "local",
        "utc",
        "day",
        "who",
        "raw",
        "price",
        "user.id",
        "user.geo.city",
    ]
    assert reader.types == {"local": LOCAL_MS, "utc": UTC_MS, "day": LOCAL_MS}
    first, second = rows_of(reader, Place())
    assert first == (
        1706695506789,
        1706691906789,
        1706659200000,
        "ada",
        "tea",
        Decimal("2.50"),
        7,
        "Ulm",
    )
    assert second == (None, 1706691906789, None, None, None, None, None, None)


def test_reading_goes_on_within_a_row_group(tmp_path: Path) -> None:
    table = pa.table({"n": list(range(100))})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=30)
    reader = ParquetReader(tmp_path / "t.parquet")
    ends = [rows.end for rows in reader.rows(Place(), 7)]
    for end in ends:
        assert rows_of(reader, end, 7) == [(n,) for n in range(end.rows, 100)]
    numbers = [number for rows in reader.rows(ends[3], 7) for number in rows.numbers]
    assert numbers == [*range(ends[3].rows + 1, 101)]
    pq.write_table(table.slice(1), tmp_path / "t.parquet")
    with pytest.raises(ChangedFile):
        rows_of(ParquetReader(tmp_path / "t.parquet"), ends[0])


def test_the_sample_comes_from_all_over_the_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": list(range(50_000))}), tmp_path / "t.parquet", row_group_size=500)
    (numbers,) = ParquetReader(tmp_path / "t.parquet").sample()
    assert min(numbers) == 0
    assert max(numbers) > 45_000


def test_what_pandas_writes_is_understood(tmp_path: Path) -> None:
    """An index without a name is no column, and ids with gaps are no fractions."""
    frame = pd.DataFrame(
        {
            "customer_id": [17850.0, None, 13047.0],
            "stock_code": ["85123A", "71053", None],
            "invoice_no": ["536365", "536366", "536367"],
            "quantity": [6, -1, 2],
            "unit_price": [2.55, 3.39, None],
            "invoice_date": pd.to_datetime(["2010-12-01 08:26"] * 3),
        },
        index=[5, 7, 9],
    )
    frame.to_parquet(tmp_path / "t.parquet")
    elements, rejected = converted(tmp_path / "t.parquet", time_zone="Europe/London")
    common = {"timestamp": 1291191960000}
    assert without_ids(elements) == [
        {
            "user_id": "17850",
            "item_id": "85123A",
            "session_id": "536365",
            "type": "purchase",
            "properties": {"price": 2.55, "quantity": 6},
        }
        | common,
        {
            "device_id": "536366",
            "item_id": "71053",
            "session_id": "536366",
            "type": "return",
            "properties": {"price": 3.39, "quantity": 1},
        }
        | common,
        {
            "user_id": "13047",
            "session_id": "536367",
            "type": "purchase",
            "properties": {"quantity": 2},
        }
        | common,
    ]
    assert rejected == []


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TactfulError, match="pip install pyarrow"):
        ParquetReader(tmp_path / "t.parquet")


def test_damaged_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no readable Parquet"):
        ParquetReader(write(tmp_path / "t.parquet", "PAR1 and no more PAR1"))
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), tmp_path / "t.parquet")
    with pytest.raises(DatasetError, match="no rows"):
        ParquetReader(tmp_path / "t.parquet")
