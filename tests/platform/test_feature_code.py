"""Columns that are laid out in machine code are those that numpy and plain Python give."""

from __future__ import annotations

from statistics import median

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tactful.scores import kernels

DAY = 86_400_000.0
NOW = 1_700_000_000_000

amounts = st.floats(0, 1e6)
lists = st.dictionaries(st.integers(-1, 20), amounts, max_size=6)


@given(
    st.sets(st.integers(0, 20)),
    st.lists(st.integers(0, 20), max_size=5),
    st.tuples(lists, lists, st.dictionaries(st.integers(-1, 20), st.integers(0, NOW), max_size=6)),
    st.tuples(st.floats(1, 9), st.floats(1, 99)),
    st.lists(st.floats(-1e9, 1e9) | st.just(np.nan), min_size=5, max_size=5),
    st.permutations(range(12)),
)
@settings(deadline=None)
def test_columns_of_a_person_are_those_of_numpy(
    asked: set[int],
    session: list[int],
    taken: tuple[dict[int, float], dict[int, float], dict[int, int]],
    divisors: tuple[float, float],
    numbers: list[float],
    order: list[int],
) -> None:
    rows = np.array(sorted(asked), np.int64)
    columns = np.array(order[:11])
    found = np.full((12, len(rows)), -9, np.float32)
    month, year, ever = taken
    done = [*session, *month, *year, *ever]
    values = [*[1.0] * len(session), *month.values(), *year.values(), *ever.values()]

    kernels().of_person(
        rows,
        np.array(done, np.int64),
        np.array(values, np.float64),
        tuple(np.cumsum([len(each) for each in (session, *taken)]).tolist()),
        *divisors,
        NOW,
        tuple(numbers),
        columns,
        found,
    )

    def of(values: dict[int, float], absent: float = 0.0) -> NDArray[np.float32]:
        return np.array([values.get(row, absent) for row in rows.tolist()], np.float32)

    expected = np.full((12, len(rows)), -9, np.float32)
    expected[columns] = [
        of(dict.fromkeys(session, 1.0)),
        of(month),
        of(year),
        *(of(year) / np.float32(divisor) for divisor in divisors),
        of({row: (NOW - last) / DAY for row, last in ever.items()}, np.nan),
        *(np.full(len(rows), number, np.float32) for number in numbers),
    ]
    assert np.array_equal(found, expected, equal_nan=True)


@given(
    st.lists(st.integers(0, 9), max_size=8),
    st.integers(0, 8),
    st.lists(
        st.floats(0, 2, width=32) | st.sampled_from([np.nan, np.inf]), min_size=10, max_size=10
    ),
    st.lists(st.integers(-1, 3), min_size=10, max_size=10),
)
@settings(deadline=None)
def test_a_visit_has_a_latest_category_and_a_usual_price(
    visited: list[int], counted: int, prices: list[float], categories: list[int]
) -> None:
    visits = np.zeros(4, np.float32)

    last, usual = kernels().of_visit(
        np.array(visited, np.int64),
        counted,
        np.array(prices, np.float32),
        np.array(categories, np.int32),
        visits,
    )

    of_visit = [categories[row] for row in visited[:counted]]
    assert visits.tolist() == [of_visit.count(category) for category in range(4)]
    assert last == (categories[visited[0]] if visited else -2)
    known = [prices[row] for row in visited if prices[row] == prices[row]]
    expected = np.float32(max(median(known), 0.01)) if known else np.float32(np.nan)
    assert np.array_equal(np.float32(usual), expected, equal_nan=True)


@given(st.integers(0, 2**32), st.integers(0, 12))
@settings(deadline=None)
def test_columns_of_everybody_are_those_of_numpy(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    sold, of_categories = generator.random((3, count)) * 100, generator.random(4)
    categories = generator.integers(-1, 4, count)
    columns = generator.permutation(6)[:5]
    found = np.full((6, count), -9, np.float32)

    kernels().of_everybody(
        sold, of_categories[categories[categories >= 0]], categories, columns, found
    )

    week, month, quarter = sold.astype(np.float32)
    known = np.where(categories >= 0, of_categories[categories], np.nan)
    expected = np.full((6, count), -9, np.float32)
    expected[columns] = [week, month, quarter, week / (month + np.float32(1.0)), known]
    assert np.array_equal(found, expected, equal_nan=True)
