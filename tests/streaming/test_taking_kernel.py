"""What is taken from many places is what numpy takes, and what is unknown is said."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.taking_kernel import load_taking


@given(st.lists(st.integers(-2, 5), max_size=8), st.lists(st.integers(0, 9), max_size=12))
@settings(deadline=None)
def test_it_is_what_numpy_takes(kept: list[int], wanted: list[int]) -> None:
    places = np.array(wanted, np.int64)
    rows = np.array(kept, np.int64)
    numbers = np.where(rows < 0, np.nan, rows.astype(np.float64))
    unknown = np.zeros((2, len(places)), np.int64)
    found = np.zeros(len(places), np.int64), np.zeros(len(places))
    take_rows, take_numbers = load_taking()

    counts = (
        take_rows(places, rows, found[0], unknown[0]),
        take_numbers(places, numbers, found[1], unknown[1]),
    )

    if max(wanted, default=-1) >= len(kept):
        assert counts == (-1, -1)
        return
    lacking = np.flatnonzero(rows[places] < 0).tolist()
    assert counts == (len(lacking),) * 2
    assert [each[: len(lacking)].tolist() for each in unknown] == [lacking] * 2
    assert np.array_equal(found[0], rows[places])
    assert np.array_equal(found[1], numbers[places], equal_nan=True)
