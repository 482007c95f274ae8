"""Fusion of a caller's order with the ranking."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tactful.ranking.fusion import caller_orders, fused

NUMBERS = st.sampled_from([None, -1.0, 0.0, 0.5, 2.0, 1e20])


def place(values: list[float | None], index: int) -> int:
    """Return the place of a value, from 1; those without a number come last."""
    numbers = [-np.inf if value is None else value for value in values]
    return 1 + sum(value > numbers[index] for value in numbers)


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=4, max_size=4)
    ),
    st.booleans(),
)
def test_places_are_added_up(columns: list[list[float | None]], personal: bool) -> None:
    ranking = [0.0 if value is None else value for value in columns[0]]
    asked = np.array(columns[1:], np.float32)
    found = fused(np.array(ranking, np.float32), asked, personal=personal)
    given_columns = [column for column in columns[1:] if any(it is not None for it in column)]
    orders: list[list[float | None]] = [*given_columns]
    if personal or not given_columns:
        orders.append([*ranking])
    wanted = [sum(1 / (60 + place(order, n)) for order in orders) for n in range(len(ranking))]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_scores_of_all_candidates_are_the_order_of_the_caller() -> None:
    nothing = np.nan
    asked = np.array([[1.0, 2.0], [nothing, 3.0], [4.0, 5.0]], np.float32)
    assert caller_orders(asked).tolist() == [[1.0, 2.0]]
    asked[0, 0] = nothing
    assert caller_orders(asked) is asked
