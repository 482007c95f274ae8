import math
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tactful_bandits.analysis.comparison import difference, fixed_horizon_interval
from tactful_bandits.analysis.cuped import (
    Paired,
    adjusted_difference,
    regression_coefficient,
    stratified_difference,
    winsorised,
)
from tactful_bandits.analysis.samples import Mean
from tactful_bandits.errors import StatisticsError

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def shoppers(rng: np.random.Generator, count: int, lift: float) -> Arrays:
    """Spending after and before assignment, of people who differ for good."""
    wealth = rng.gamma(2, 10, count)
    return wealth * (1 + lift) + rng.normal(0, 6, count) + 5, wealth + rng.normal(0, 6, count)


def test_adjustment_is_a_regression_on_the_covariate() -> None:
    rng = np.random.default_rng(1)
    (ya, xa), (yb, xb) = shoppers(rng, 400, 0), shoppers(rng, 300, 0.05)
    a, b = Paired.from_units(ya, xa), Paired.from_units(yb, xb)
    theta = np.polyfit(np.r_[xa, xb], np.r_[ya, yb], 1)[0]
    assert regression_coefficient(a, b) == pytest.approx(theta)
    count = 10**9  # of each unit: so many must not look like a constant covariate
    many = Paired(
        Mean(400 * count, ya.sum() * count, (ya**2).sum() * count),
        Mean(400 * count, xa.sum() * count, (xa**2).sum() * count),
        (ya * xa).sum() * count,
    )
    assert regression_coefficient(many, many) == pytest.approx(np.polyfit(xa, ya, 1)[0])
    by_hand = difference(Mean.from_units(ya - theta * xa), Mean.from_units(yb - theta * xb))
    got = adjusted_difference(a, b)
    assert (got.value, got.standard_error, got.degrees_of_freedom) == pytest.approx(
        (by_hand.value, by_hand.standard_error, by_hand.degrees_of_freedom)
    )
    assert got.standard_error < 0.6 * difference(a.outcome, b.outcome).standard_error


@pytest.mark.parametrize("relative", [False, True])
def test_adjusted_intervals_cover(relative: bool) -> None:
    rng = np.random.default_rng(2)
    truth = 1.0 / (25 if relative else 1)  # 20 · 0.05, of a control of 25
    covered = 0
    for _ in range(1000):
        control = Paired.from_units(*shoppers(rng, 600, 0))
        treatment = Paired.from_units(*shoppers(rng, 200, 0.05))
        estimate = adjusted_difference(control, treatment, relative=relative)
        covered += truth in fixed_horizon_interval(estimate)
    assert 0.93 <= covered / 1000 <= 0.97


@given(st.floats(-1e3, 1e3))
@example(7e-162)  # whose square has no digits
@example(2.748015583320415e-163)  # whose square is 0, and not its product with outcomes
def test_a_covariate_that_never_varies_adjusts_nothing(constant: float) -> None:
    y = np.arange(10.0)
    plain = difference(Mean.from_units(y), Mean.from_units(y[::2]))
    x = np.full(10, constant)
    got = adjusted_difference(Paired.from_units(y, x), Paired.from_units(y[::2], x[::2]))
    assert got.value == pytest.approx(plain.value)
    assert got.standard_error == pytest.approx(plain.standard_error)


def strata(rng: np.random.Generator) -> tuple[Arrays, Arrays]:
    """Two arms of units in three strata that differ much; the effect is 0.5, 1 and 1.5."""
    arms = []
    for lift, count in ((0.0, 450), (1.0, 150)):
        group = rng.integers(0, 3, count)
        arms.append((group * 10 + lift * (0.5 + 0.5 * group) + rng.normal(0, 2, count), group))
    return arms[0], arms[1]


def test_stratified_intervals_cover_and_are_narrower() -> None:
    rng = np.random.default_rng(3)
    covered, narrower = 0, []
    for _ in range(1000):
        (y, g), (z, h) = strata(rng)
        estimate = stratified_difference(
            [(Mean.from_units(y[g == s]), Mean.from_units(z[h == s])) for s in range(3)]
        )
        covered += 1.0 in fixed_horizon_interval(estimate)
        plain = difference(Mean.from_units(y), Mean.from_units(z))
        narrower.append(estimate.standard_error / plain.standard_error)
    assert 0.93 <= covered / 1000 <= 0.97
    assert np.mean(narrower) < 0.4


def test_one_stratum_is_no_stratification() -> None:
    rng = np.random.default_rng(4)
    a, b = Mean.from_units(rng.normal(size=50)), Mean.from_units(rng.normal(size=30))
    got, plain = stratified_difference([(a, b)]), difference(a, b)
    assert (got.value, got.units) == (plain.value, plain.units)
    assert astuple(got) == pytest.approx(astuple(plain))


def test_winsorising_caps_both_arms_alike() -> None:
    a, b = winsorised([1.0, 2, 3, 100], [1.0, 2, 3, 4], share=0.75)
    cap = float(np.quantile([1, 2, 3, 100, 1, 2, 3, 4], 0.75))
    assert a == Mean.from_units([1, 2, 3, cap])
    assert b == Mean.from_units([1, 2, 3, cap])
    assert winsorised([1, 2], [3, 4], share=1) == (Mean(2, 3, 5), Mean(2, 7, 25))


def test_what_cannot_be_adjusted_is_refused() -> None:
    with pytest.raises(StatisticsError, match="give a unit without history the covariate 0"):
        Paired(Mean(3, 3, 3), Mean(2, 2, 2), 1)
    with pytest.raises(StatisticsError, match="products are too large"):
        Paired(Mean(2, 2, 2), Mean(2, 2, 2), 3)
    with pytest.raises(StatisticsError, match="products are too large"):
        Paired(Mean(2, 2, 2), Mean(2, 2, 2), math.nan)
    with pytest.raises(StatisticsError, match="at least one stratum"):
        stratified_difference([])
    with pytest.raises(StatisticsError, match="share must be above"):
        winsorised([1, 2], [1, 2], share=0.5)
    nothing = Paired(Mean(2, 0, 0), Mean(2, 1, 1), 0)
    with pytest.raises(StatisticsError, match="from a control of 0"):
        adjusted_difference(nothing, nothing, relative=True)
