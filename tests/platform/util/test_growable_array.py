"""Arrays that grow in their own memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tactful.util.growable_array import append_to, filled_array


@given(st.lists(st.lists(st.integers(-9, 9), max_size=90), max_size=8))
def test_grown_arrays_equal_lists(parts: list[list[int]]) -> None:
    array, said = np.zeros(0, np.int32), list[int]()
    before: list[tuple[object, list[int]]] = []
    for part in parts:
        array = append_to(array, np.array(part, np.int32))
        said = said + part
        before.append((array, said))
        assert [np.asarray(each).tolist() for each, _ in before] == [held for _, held in before]
        assert array.dtype == np.int32


def test_it_is_seldom_copied() -> None:
    array, copies = np.zeros(1_000), 0
    for _ in range(1_000):
        longer = append_to(array, np.ones(1))
        copies += not np.shares_memory(longer, array)
        array = longer
    assert copies <= 6
    assert array.sum() == 1_000


def test_what_is_filled_is_lengthened_where_it_lies() -> None:
    array = filled_array(1_000, np.nan, np.float32)
    longer = append_to(array, np.ones(100, np.float32))
    assert np.shares_memory(longer, array)
    assert array.dtype == np.float32
    assert (len(array), len(longer)) == (1_000, 1_100)
    assert np.isnan(longer[:1_000]).all() and (longer[1_000:] == 1.0).all()
