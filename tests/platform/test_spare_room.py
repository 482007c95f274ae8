"""Arrays that grow in their own memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tactful.spare_room import lengthened


@given(st.lists(st.lists(st.integers(-9, 9), max_size=90), max_size=8))
def test_what_grows_holds_all_that_was_added_and_what_was_before_stays(
    parts: list[list[int]],
) -> None:
    array, said = np.zeros(0, np.int32), list[int]()
    before: list[tuple[object, list[int]]] = []
    for part in parts:
        array = lengthened(array, np.array(part, np.int32))
        said = said + part
        before.append((array, said))
        assert [np.asarray(each).tolist() for each, _ in before] == [held for _, held in before]
        assert array.dtype == np.int32


def test_it_is_seldom_copied() -> None:
    array, copies = np.zeros(1_000), 0
    for _ in range(1_000):
        longer = lengthened(array, np.ones(1))
        copies += not np.shares_memory(longer, array)
        array = longer
    assert copies <= 6
    assert array.sum() == 1_000
