"""Answers as data frames of polars and pandas."""

from __future__ import annotations

import datetime as dt
import importlib.util
from typing import Any

import narwhals
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.client.frames import Backend, as_records, to_frame
from tactful.errors import ClientError
from tactful.schemas.items import CatalogueItem, ItemPage
from tactful.schemas.statistics import StatisticCell, StatisticsPage
from tactful.schemas.users import Consent

BACKENDS: tuple[Backend, ...] = ("polars", "pandas")
NOON = 1_772_366_400_000


def cell(hour: int, key: str = "tea") -> StatisticCell:
    start = NOON + hour * 3_600_000
    return StatisticCell(pane_start=start, key=key, value=hour + 0.5, low=-1.0, high=9.0)


def page(*cells: StatisticCell, cursor: str | None = None) -> StatisticsPage:
    about: dict[str, Any] = {"name": "views", "epsilon": 1.0, "cap": 5, "unit": "user-day"}
    return StatisticsPage(**about, cells=[*cells], next_cursor=cursor)


def rows(frame: Any) -> list[dict[str, Any]]:
    return [*narwhals.from_native(frame).iter_rows(named=True)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_pages_become_rows_with_times(backend: Backend) -> None:
    frame = to_frame([page(cell(0), cell(1), cursor="x"), page(cell(2))], backend=backend)
    assert type(frame).__module__.startswith(backend)
    found = rows(frame)
    assert [row["value"] for row in found] == [0.5, 1.5, 2.5]
    assert [row["pane_start"] for row in found] == [
        dt.datetime(2026, 3, 1, 12 + hour, tzinfo=dt.UTC) for hour in range(3)
    ]
    assert rows(to_frame(page(), backend=backend)) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_nested_and_mixed_values_have_columns_of_one_type(backend: Backend) -> None:
    items = [
        CatalogueItem(item_id="a", timestamp=NOON, price=2, properties={"size": 4, "tags": ["x"]}),
        CatalogueItem(item_id="b", timestamp=NOON, price=2.5, properties={"size": "large"}),
    ]
    found = rows(to_frame(ItemPage(items=items), backend=backend))
    assert [row["properties.size"] for row in found] == ["4", "large"]
    assert found[0]["properties.tags"] == '["x"]'
    assert [row["price"] for row in found] == [2.0, 2.5]
    consent = Consent(
        person="u", allowed=["service"], said={"service": True}, default=[], history=[]
    )
    assert rows(to_frame(consent, backend=backend)) == [], "an empty history has no rows"
    assert rows(to_frame([{"a": 1}, {"b": "x"}], backend=backend))[0]["a"] == 1


SCALAR = (
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=4)
)
VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUE, min_size=1), min_size=1, max_size=6))
def test_whatever_properties_hold_becomes_a_frame(
    backend: Backend, records: list[dict[str, Any]]
) -> None:
    frame = narwhals.from_native(to_frame(records, backend=backend))
    assert len(frame) == len(records)
    assert {*frame.columns} == {name for record in records for name in record}


def test_records_of_a_frame_leave_missing_values_out() -> None:
    frame = to_frame([{"item_id": "a", "price": 2.5}, {"item_id": "b"}], backend="pandas")
    assert [*as_records(frame)] == [{"item_id": "a", "price": 2.5}, {"item_id": "b"}]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    gone = {"polars"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in gone else found(name)
    )
    assert type(to_frame([{"a": 1}])).__module__.startswith("pandas")
    with pytest.raises(ClientError, match=r"narwhals and polars: `pip install 'tactful\[notebook"):
        to_frame([{"a": 1}], backend="polars")
