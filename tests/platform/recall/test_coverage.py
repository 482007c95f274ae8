"""The first items for people of whom nothing is known, against a plain greedy choice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.recall.coverage import MOST, covering_rows
from tactful.recall.tables import Interactions

DAY = 86_400_000
VISITS = st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=5), max_size=12)


def interactions(visits: list[list[int]], days: float = 0.0) -> Interactions:
    rows = [(number, item) for number, visit in enumerate(visits) for item in visit]
    session, item = np.array(rows, np.int64).reshape(-1, 2).T
    return Interactions(session, item, np.arange(len(rows)) + np.int64(session * days * DAY))


def gains(visits: list[set[int]], chosen: list[int]) -> dict[int, float]:
    """Return what each further item would add."""
    items = {item for visit in visits for item in visit} - {*chosen}
    return {
        item: sum(0.3 ** len(visit & {*chosen}) for visit in visits if item in visit)
        for item in items
    }


@given(VISITS)
def test_each_item_is_the_best_addition(visits: list[list[int]]) -> None:
    order = covering_rows(interactions(visits), 9, whole=True).tolist()
    sets = [set(visit) for visit in visits]
    assert sorted(order) == sorted({item for visit in visits for item in visit})
    for place, item in enumerate(order):
        left = gains(sets, order[:place])
        assert left[item] == pytest.approx(max(left.values()), abs=1e-9)


def test_four_weeks_count_or_the_whole_history() -> None:
    """Item 1 was in most visits, and in none of the last four weeks."""
    seen = interactions([[1]] * 20 + [[2]] * 5, days=3)
    assert covering_rows(seen, 3, whole=True).tolist() == [1, 2]
    late = interactions([[1]] * 20 + [[2]] * 12, days=3)
    assert covering_rows(late, 3, whole=False).tolist() == [2]


def test_items_of_the_same_visits_give_place_to_those_of_others() -> None:
    visits = [[0, 1, 2]] * 10 + [[3]] * 8 + [[4]] * 5
    assert covering_rows(interactions(visits), 5, whole=True).tolist() == [0, 3, 4, 1, 2]


def test_no_more_than_a_hundred_are_ordered() -> None:
    visits = [[item] for item in range(300)]
    assert len(covering_rows(interactions(visits), 300, whole=True)) == MOST
    assert not len(covering_rows(interactions([]), 0, whole=False))
