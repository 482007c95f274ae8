import math

import numpy as np
import pytest

from tactful_bandits.analysis.comparison import Estimate
from tactful_bandits.analysis.group_sequential import (
    Spending,
    crossing_probability,
    error_of_peeking,
    group_sequential_bounds,
    obrien_fleming_spending,
    pocock_spending,
    repeated_interval,
)
from tactful_bandits.errors import StatisticsError

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        # As tabulated for five equal looks at 5 % two-sided (Jennison and Turnbull 2000, and the
        # programs ld98 and gsDesign).
        (obrien_fleming_spending, [4.877, 3.357, 2.680, 2.290, 2.031]),
        (pocock_spending, [2.438, 2.427, 2.410, 2.397, 2.386]),
    ],
)
def test_published_bounds(spending: Spending, published: list[float]) -> None:
    assert group_sequential_bounds(FIVE, spending=spending) == pytest.approx(published, abs=1e-3)


def test_one_look_is_the_usual_test() -> None:
    assert group_sequential_bounds([1.0]) == pytest.approx([1.959964], abs=1e-6)


@pytest.mark.parametrize("spending", [obrien_fleming_spending, pocock_spending])
def test_uneven_looks_spend_alpha_and_no_more(spending: Spending) -> None:
    looks = [0.1, 0.15, 0.5, 1.0]
    bounds = np.array(group_sequential_bounds(looks, alpha=0.1, spending=spending))
    rng = np.random.default_rng(4)
    steps = rng.normal(size=(200_000, 4)) * np.sqrt(np.diff([0, *looks]))
    z = np.abs(np.cumsum(steps, axis=1)) / np.sqrt(looks)
    crossed = np.maximum.accumulate(z > bounds, axis=1).mean(axis=0)
    assert crossed == pytest.approx([spending(0.1, look) for look in looks], abs=0.0025)


def test_later_looks_do_not_change_earlier_bounds() -> None:
    assert group_sequential_bounds(FIVE[:3]) == pytest.approx(group_sequential_bounds(FIVE)[:3])


def test_a_look_that_may_spend_nothing_calls_nothing() -> None:
    assert group_sequential_bounds([0.001, 1.0])[0] == math.inf
    assert obrien_fleming_spending(0.05, 0) == pocock_spending(0.05, 0) == 0
    interval = repeated_interval(Estimate(1, 0.1, 100, 98), 2.5)
    assert (interval.low, interval.high) == (0.75, 1.25)
    assert repeated_interval(Estimate(1, 0, 100, 98), 2.5).high == math.inf


@pytest.mark.parametrize("wrong", [[], [0.0, 1.0], [0.5, 0.5], [0.6, 0.4], [0.5, 1.1]])
def test_information_that_does_not_rise_is_refused(wrong: list[float]) -> None:
    with pytest.raises(StatisticsError, match=r"information must rise|at most 1"):
        group_sequential_bounds(wrong)


def test_published_errors_of_repeated_tests() -> None:
    # Armitage, McPherson, Rowe (1969), table 2, at 5 %.
    for looks, error in ((1, 0.05), (2, 0.083), (5, 0.142), (10, 0.193)):
        assert error_of_peeking(range(1, looks + 1)) == pytest.approx(error, abs=6e-4)


def test_planned_bounds_cross_as_often_as_they_may() -> None:
    looks = [0.3, 0.5, 1.0]
    bounds = group_sequential_bounds(looks, alpha=0.1)
    assert crossing_probability([300, 500, 1000], bounds) == pytest.approx(0.1, abs=1e-6)


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(StatisticsError, match="must rise"):
        error_of_peeking([2, 1])
    with pytest.raises(StatisticsError, match="alpha must be"):
        error_of_peeking([1, 2], alpha=0)
    with pytest.raises(StatisticsError, match="as many bounds"):
        crossing_probability([1, 2], [2])
