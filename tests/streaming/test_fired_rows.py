"""Rows of fired windows: valid JSON of exactly what fired, whatever the names hold."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.fired_rows import encode_fired, encode_in_turn
from tactful_streaming.firing import Fired
from tactful_streaming.packed_rows import TOGETHER, PackedRows, Row

_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    ["%b", "100%", "a\nb", 'say "no"', "back\\slash", "ü|ö"]
)
_values = st.floats() | st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3)


@given(_names, st.lists(st.tuples(_names, _names, _values), max_size=5), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_row_says_what_fired(
    feature: str, rows: list[tuple[str, str, Any]], grouped: bool
) -> None:
    keys, groups = [key for key, _, _ in rows], [group for _, group, _ in rows]
    values = [value for _, _, value in rows]
    fired = Fired(feature, "user", 60_000, 360_000, keys, groups if grouped else None, values)
    encoded = encode_fired([fired, fired])
    assert len(encoded) == 2 * len(rows)
    for (name, payload), (key, group, value) in zip(encoded, rows + rows, strict=True):
        assert name == f"{key}|{group if grouped else ''}".encode()
        finite = not isinstance(value, float) or math.isfinite(value)
        assert json.loads(payload) == {
            "feature": feature,
            "entity_key": key,
            **({"group_key": group} if grouped else {}),
            "window_start": 60_000,
            "window_end": 360_000,
            "feature_value": value if finite else None,
        }


# Lengths around the eight bytes that are copied at a time, and texts that look like what ends them.
_plain = st.sampled_from(
    ["", "u", "%d", "née|ö", *("x" * n for n in range(6, 10)), "\x7f", "\U0001f600"]
)
_any = _plain | _plain | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_numbers = st.floats() | st.sampled_from([0.0, -0.0, 1e16, 1e-5, 1e-7, 5e-324, 0.1 + 0.2, 2.0**53])


def _lists(texts: st.SearchStrategy[Any], count: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(texts, min_size=count, max_size=count)


_columns = st.integers(16, 40).flatmap(
    lambda count: st.tuples(
        # One name with an escape, and none of them is put together: mostly there is none.
        _lists(_plain, count) | _lists(_plain, count) | _lists(_any, count),
        _lists(_plain, count),
        _lists(_numbers | st.lists(_any, max_size=2), count),
    )
)


def in_turn(*fired: Fired) -> tuple[list[Row], list[type]]:
    """All rows, and how each part of them was made."""
    parts = [*encode_in_turn(fired)]
    return [row for part in parts for row in part], [type(part) for part in parts]


@given(_any, _columns, st.booleans(), st.integers(0, 2**53))
@settings(max_examples=60, deadline=None)
def test_rows_put_together_are_those_of_the_encoder(
    feature: str, columns: tuple[list[str], list[str], list[Any]], grouped: bool, start: int
) -> None:
    keys, groups, values = columns
    fired = Fired(feature, "user", start, start + 7, keys, groups if grouped else None, values)
    rows, kinds = in_turn(fired, fired)
    assert rows == encode_fired([fired, fired])
    names = "".join(keys + groups if grouped else keys)
    escaped = json.dumps(names, ensure_ascii=False) != f'"{names}"'
    assert kinds == [list if escaped else PackedRows] * 2


@pytest.mark.parametrize("grouped", [False, True])
def test_many_rows_come_in_parts(grouped: bool) -> None:
    count = 2 * TOGETHER + 17
    keys = [f"u{number % 97}" for number in range(count)]
    groups = [f"c{number % 13:04}" for number in range(count)] if grouped else None
    values = [number / 7 for number in range(count)]
    fired = Fired("f", "user", 0, 1, keys, groups, values)
    rows, kinds = in_turn(fired)
    assert rows == encode_fired([fired])
    assert kinds == [PackedRows] * 3
    assert len(rows) == count


def test_packed_rows_read_as_pairs() -> None:
    fired = Fired("f", "user", 0, 1, [*map(str, range(20))], None, [float(n) for n in range(20)])
    (part,) = encode_in_turn([fired])
    expected = encode_fired([fired])
    assert len(part) == 20
    assert part[3] == expected[3]
    assert part[-1] == expected[-1]
    assert part[5:2:-1] == expected[5:2:-1]
    with pytest.raises(IndexError):
        part[20]
