"""Sheets of Excel."""

from __future__ import annotations

import datetime as dt
import random
import sys
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from tests.platform.imports.support import converted, understood, without_ids, write

from tactful.errors import ConfigError, DatasetError, TactfulError
from tactful.imports.formats.excel import ExcelReader
from tactful.imports.formats.rows import Place


def test_what_pandas_writes_is_understood(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "Customer ID": [17850, None],
            "Stock Code": ["0123", "71053"],
            "Order No": [7.0, 8.0],
            "Order Date": [dt.datetime(2024, 7, 31, 10), dt.datetime(2024, 1, 31, 10)],
            "Qty": [1, 2],
            "Unit Price": [2.5, None],
        }
    )
    frame.to_excel(tmp_path / "t.xlsx")
    elements, rejected = converted(tmp_path / "t.xlsx", time_zone="Europe/Berlin", order="file")
    assert without_ids(elements) == [
        {
            "user_id": "17850",
            "item_id": "0123",
            "session_id": "7",
            "timestamp": 1722412800000,
            "type": "purchase",
            "properties": {"price": 2.5, "quantity": 1},
        },
        {
            "device_id": "8",
            "item_id": "71053",
            "session_id": "8",
            "timestamp": 1706691600000,
            "type": "purchase",
            "properties": {"quantity": 2},
        },
    ]
    assert rejected == []


def sheet(path: Path, rows: list[list[object]], name: str = "Data", first: str = "Empty") -> Path:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.title = first
    filled = book.create_sheet(name)
    for row in rows:
        filled.append(row)
    book.save(path)
    return path


def test_titles_blank_rows_and_other_sheets(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        ["Sales of the year"],
        [],
        ["user", "item", "date"],
        ["ada", "tea", "31.01.2024"],
        [],
        ["bob", "cup", "01.02.2024"],
    ]
    reader = ExcelReader(sheet(tmp_path / "t.xlsx", rows))
    assert reader.columns == ["user", "item", "date"]
    assert "'Data'" in reader.about
    assert reader.notes == ["other sheets are not read: Empty (--sheet NAME)"]
    (found,) = reader.rows(Place(), 10)
    assert [*found.numbers] == [4, 6], "as the sheet numbers them"
    assert found.columns[0] == ("ada", "bob")
    one, two = reader.rows(Place(), 1)
    assert [rows.columns[0] for rows in reader.rows(one.end, 5)] == [("bob",)]
    assert two.end.rows == 3


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(TactfulError, match="pip install python-calamine"):
        ExcelReader(tmp_path / "t.xlsx")


def test_times_keep_their_milliseconds(tmp_path: Path) -> None:
    chance = random.Random(1)
    start = dt.datetime(2024, 1, 1)
    times = [start + dt.timedelta(milliseconds=chance.randrange(10**10)) for _ in range(500)]
    path = sheet(
        tmp_path / "t.xlsx",
        [["user", "item", "type", "time"], *(["u", "i", "view", time] for time in times)],
    )
    elements, _ = converted(path, order="file")
    found = [event["timestamp"] for event in elements]
    assert found == [
        round((time - dt.datetime(1970, 1, 1)).total_seconds() * 1000) for time in times
    ]


def test_wrong_sheets_and_damaged_files(tmp_path: Path) -> None:
    path = sheet(tmp_path / "t.xlsx", [["user"]])
    with pytest.raises(ConfigError, match="has the sheets Empty, Data"):
        ExcelReader(path, "Dat")
    with pytest.raises(DatasetError, match="is empty"):
        ExcelReader(path, "Empty")
    with pytest.raises(DatasetError, match="header but no rows"):
        ExcelReader(path)
    with pytest.raises(DatasetError, match="no readable Excel"):
        ExcelReader(write(tmp_path / "broken.xlsx", "PK\x03\x04 nothing"))
    with pytest.raises(DatasetError, match="damaged or cut"):
        understood(write(tmp_path / "broken.xlsx", "PK\x03\x04 nothing"))
    with pytest.raises(ConfigError, match="--delimiter has no effect"):
        understood(path, delimiter=";")
