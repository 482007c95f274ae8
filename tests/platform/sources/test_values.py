"""Values of messages in the form that events need."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.sources.values import MOST_TEXT, as_context, as_id, as_moment, as_property

YEAR_2000, YEAR_2200 = 946_684_800, 7_258_118_400


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ("  a ", "a"),
        (" ", None),
        (17, "17"),
        (17.0, "17"),
        (17.5, "17.5"),
        (10**30, str(10**30)),
        (True, None),
        (None, None),
        (["a"], None),
        ({"id": 1}, None),
    ],
)
def test_ids(value: Any, text: str | None) -> None:
    assert as_id(value) == text


@given(st.integers(YEAR_2000 * 1000, YEAR_2200 * 1000))
def test_a_time_is_the_same_in_every_unit(milliseconds: int) -> None:
    for value in (milliseconds, milliseconds / 1000, milliseconds * 1000, milliseconds * 10**6):
        for form in (value, str(value)):
            assert as_moment(form) == pytest.approx(milliseconds, abs=1)
    moment = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    for text in (moment.isoformat(), moment.isoformat().replace("+00:00", "Z")):
        assert as_moment(text) == pytest.approx(milliseconds, abs=1)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "",
        "soon",
        "2021-13-01",
        -1,
        1e20,
        float("nan"),
        [1],
        "1" * 50,
    ],
)
def test_what_is_no_time(value: Any) -> None:
    assert as_moment(value) is None


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("price", "19.99", 19.99),
        ("price", "1e3", 1000),
        ("price", "1,299.00", "1,299.00"),
        ("quantity", "2", 2),
        ("order_id", "0017", "0017"),
        ("category", ["drinks", "tea"], "drinks"),
        ("category", 5, "5"),
        ("category", {"a": 1}, None),
        ("brand", {"a": 1}, None),
        ("tags", ["a", {"b": 1}, ["c"], 2], ["a", 2]),
        ("tags", [[]], None),
        ("text", "x" * 5000, "x" * MOST_TEXT),
        ("price", float("inf"), None),
        ("price", 2**70, str(2**70)),
        ("flag", False, False),
    ],
)
def test_properties(name: str, value: Any, kept: Any) -> None:
    assert as_property(name, value) == kept


def test_a_context_holds_scalars() -> None:
    assert [as_context(it) for it in ("a", 1, True, ["a"], {"a": 1})] == ["a", 1, True, None, None]
