"""Rows of window results: valid JSON of exactly these results, with any names."""

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.windows.triggers import WindowResult
from tactful_streaming.worker.output_rows import encode_in_turn, encode_results

_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    ["%b", "100%", "a\nb", 'say "no"', "back\\slash", "ü|ö"]
)
_values = st.floats() | _names | st.lists(_names, max_size=3)


@given(_names, st.lists(st.tuples(_names, _names, _values), max_size=5), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_row_says_what_fired(
    feature: str, rows: list[tuple[str, str, Any]], grouped: bool
) -> None:
    keys, groups = [key for key, _, _ in rows], [group for _, group, _ in rows]
    values = [value for _, _, value in rows]
    fired = WindowResult(
        feature, "user", 60_000, 360_000, keys, groups if grouped else None, values
    )
    encoded = encode_results([fired, fired])
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


def test_many_rows_come_in_parts() -> None:
    count = 4017
    keys = [f"u{number % 97}" for number in range(count)]
    fired = WindowResult("f", "user", 0, 1, keys, None, [number / 7 for number in range(count)])
    parts = [*encode_in_turn([fired])]
    assert [len(part) for part in parts] == [2000, 2000, 17]
    assert [row for part in parts for row in part] == encode_results([fired])
    assert [json.loads(value)["entity_key"] for _, value in encode_results([fired])] == keys
