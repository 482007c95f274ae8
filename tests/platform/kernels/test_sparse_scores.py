"""Scores of a few rows: the same as a dictionary."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.kernels.sparse_scores import Scores, descending

pairs = st.lists(
    st.tuples(st.integers(0, 12), st.floats(-1.0, 3.0, width=32).filter(lambda it: it == it)),
    max_size=40,
)


@given(pairs, st.lists(st.integers(0, 14), max_size=10), st.sampled_from([13, 400]))
@settings(deadline=None)
def test_sums_are_those_of_a_dictionary(
    values: list[tuple[int, float]], asked: list[int], count: int
) -> None:
    sums: dict[int, float] = defaultdict(float)
    for row, value in values:
        sums[row] += value
    expected = {row: np.float32(total) for row, total in sums.items() if total > 0}
    made = Scores.summed(
        np.array([row for row, _ in values], np.int32),
        np.array([value for _, value in values], np.float64),
        count,
    )
    assert dict(zip(made.rows.tolist(), made.values, strict=True)) == expected
    assert made.rows.tolist() == sorted(expected)
    assert made.of(np.array(asked, np.int64)).tolist() == [expected.get(row, 0) for row in asked]
    best = sorted(expected, key=lambda row: (-expected[row], row))
    assert made.ranked.tolist() == best
    assert made.rows.dtype == np.int64
    assert made.values.dtype == np.float32


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38]), max_size=60),
    st.integers(0, 2**32),
)
@settings(deadline=None)
def test_the_best_come_first_and_ties_stay_in_order(odd: list[float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    more = generator.standard_normal(generator.integers(0, 60)).astype(np.float32)
    values = generator.permutation(np.concatenate([np.array(odd, np.float32), more]))
    assert descending(values).tolist() == np.argsort(-values, kind="stable").tolist()
