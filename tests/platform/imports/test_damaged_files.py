"""Damaged and hostile files end in an error of this package, or in elements, and never hang."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.imports.formats.test_product_feed import RSS
from tests.platform.imports.formats.test_shopify import HEAD, ROWS
from tests.platform.imports.support import converted
from tests.platform.imports.test_guess import EVENTS, ITEMS, USERS

from tactful.errors import TactfulError
from tactful.imports.formats.rows import readable


def _frame() -> pd.DataFrame:
    return pd.read_csv(io.StringIO(EVENTS[3][0]))


@cache
def _sheet() -> bytes:  # a workbook holds the time at which it was written
    book, file = openpyxl.Workbook(), io.BytesIO()
    assert book.active is not None
    for row in [["user", "item", "type", "time"], ["ada", "tea", "view", "2024-01-31"]]:
        book.active.append(row)
    book.save(file)
    return file.getvalue()


SOUND: dict[str, Callable[[], bytes]] = {
    "csv": lambda: EVENTS[0][0].encode(),
    "german": lambda: EVENTS[5][0].encode("utf-16"),
    "items": lambda: ITEMS.encode(),
    "users": lambda: USERS.encode("cp1252"),
    "lines": lambda: _frame().to_json(orient="records", lines=True).encode(),
    "array": lambda: _frame().to_json(orient="records").encode(),
    "feed": lambda: RSS.encode(),
    "shopify": lambda: (HEAD + ROWS).encode(),
    "packed": lambda: gzip.compress(EVENTS[2][0].encode()),
    "parquet": lambda: _frame().to_parquet(None),
    "excel": _sheet,
}


@pytest.mark.parametrize("kind", SOUND)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_file_ends_in_an_error_or_elements(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    content = bytearray(SOUND[kind]())
    cut = data.draw(st.integers(0, len(content)), label="kept")
    del content[cut:]
    for _ in range(data.draw(st.integers(0, 4), label="changes")):
        if content:
            place = data.draw(st.integers(0, len(content) - 1))
            piece = data.draw(st.binary(max_size=3) | st.sampled_from([b'"', b"\n", b"\0", b"[["]))
            content[place : place + 1] = piece
    path = tmp_path_factory.mktemp("damaged") / "file"
    path.write_bytes(content)
    try:
        with readable(path):
            elements, rejected = converted(path)
    except TactfulError as error:
        assert "file" in str(error)
    else:
        assert elements or rejected


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_end_in_an_error_or_elements(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path: Path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    try:
        with readable(path):
            converted(path)
    except TactfulError as error:
        assert "file" in str(error)
