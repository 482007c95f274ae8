"""Sorting more than fits into memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tactful.imports.time_order import Timed, by_time

elements = st.lists(st.tuples(st.integers(-3, 3), st.binary(max_size=20)), max_size=60)


@given(elements, st.integers(1, 2_000))
def test_elements_are_sorted_and_equal_times_keep_their_order(
    pairs: list[tuple[int, bytes]], run_bytes: int
) -> None:
    given = [Timed(time, number, line) for number, (time, line) in enumerate(pairs)]
    assert list(by_time(given, run_bytes)) == sorted(given, key=lambda it: it.time)
