"""Groups found together for a batch: the same cells and evictions as one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.windows.groups import GroupIndex

ROWS, GROUPS = 100, 2
EVENT = st.tuples(st.sampled_from([0, 0, ROWS]), st.integers(0, GROUPS), st.integers(0, 50))
STEP = st.one_of(
    st.lists(EVENT, min_size=1, max_size=6),
    st.tuples(st.just("clear"), st.sampled_from([0, ROWS])),
    st.tuples(st.just("take"), st.sampled_from([0, ROWS])),
    st.tuples(st.just("silent"), st.integers(0, 50)),
)


def step(index: GroupIndex, work: Any) -> tuple[Any, Any]:
    """Do one step; return the groups of events by the cells found, and what was removed."""
    if isinstance(work, list):
        rows, groups, times = zip(*work, strict=True)
        places, evicted = index.find(np.array(rows), [f"g{n}" for n in groups], np.array(times))
        found = [(index.rows.item(cell), index.texts[cell]) for cell in places.tolist()]
        index.free([one.cell for one in evicted])
        return found, [(index.texts[one.cell], one.newest, one.by) for one in evicted]
    kind, number = work
    if kind == "clear":
        index.clear([number])
        return None, None
    cells = index.take(number, "g1".__eq__) if kind == "take" else index.silent(number)
    gone = sorted((index.rows.item(cell), str(index.texts[cell])) for cell in cells)
    index.free(cells)
    return None, gone


@given(st.lists(STEP, max_size=12), st.integers(1, GROUPS + 1))
@settings(max_examples=250, deadline=None)
def test_repeats_are_found_as_one_by_one(steps: list[Any], most: int) -> None:
    plain, together = GroupIndex(most), GroupIndex(most, repeats=True)
    for work in steps:
        assert step(together, work) == step(plain, work)
        for row in (0, ROWS):
            cells, others = together.cells.get(row, {}), plain.cells.get(row, {})
            assert cells.keys() == others.keys()
            newest = [int(together.newest[cell]) for cell in cells.values()]
            assert newest == [int(plain.newest[others[group]]) for group in cells]
