import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tactful_bandits.analysis import comparison
from tactful_bandits.analysis.power import Design, days_needed
from tactful_bandits.analysis.samples import Mean
from tactful_bandits.errors import StatisticsError


def test_a_textbook_size() -> None:
    # Per arm 16 variances over the squared effect, at 80 % and 5 % (van Belle's rule, rounded up).
    assert Design(1.0).units_for(0.1) == pytest.approx(2 * 1570, abs=4)


@given(
    st.floats(0.01, 100), st.floats(0.05, 0.95), st.floats(0.05, 2), st.sampled_from(["one", "any"])
)
def test_size_power_and_effect_agree(
    variance: float, share: float, relative: float, looks: str
) -> None:
    design = Design(variance, treatment_share=share, looks=looks, noise_variance=3 * variance)
    effect = relative * math.sqrt(variance)
    units = design.units_for(effect, power=0.9)
    assert design.power(effect, units) >= 0.9
    assert units == 5 or design.power(effect, units - 1) < 0.9
    assert design.detectable_effect(units, power=0.9) <= effect * (1 + 1e-9)


@pytest.mark.parametrize("looks", ["one", "any"])
def test_planned_power_is_met(looks: str) -> None:
    rng = np.random.default_rng(5)
    design = Design(1.0, treatment_share=0.25, looks=looks, tightest_at=5000)
    units = design.units_for(0.15)
    tuned = partial(comparison.confidence_sequence, tightest_at=5000)
    interval_of = comparison.fixed_horizon_interval if looks == "one" else tuned
    seen = 0
    for _ in range(1000):
        control = Mean.from_units(rng.normal(0, 1, units - units // 4))
        treatment = Mean.from_units(rng.normal(0.15, 1, units // 4))
        seen += 0 not in interval_of(comparison.difference(control, treatment))
    assert stats.binomtest(seen, 1000, 0.8).pvalue > 1e-3


def test_noise_asks_for_more_units() -> None:
    exact, private = Design(0.1), Design(0.1, noise_variance=5000.0)
    assert private.units_for(0.01) > 1.05 * exact.units_for(0.01)
    assert private.power(0.01, 20_000) < exact.power(0.01, 20_000)


def test_days_follow_new_units_and_whole_weeks() -> None:
    falling = [100.0, 50, 25, 10, 10, 10, 10, 10]
    assert days_needed(150, falling, whole_weeks=False) == 2
    assert days_needed(150, falling) == 7
    # 225 after eight days; then the last week's mean, 125 / 7 a day.
    assert days_needed(325, falling, whole_weeks=False) == 8 + math.ceil(100 / (125 / 7))
    assert days_needed(325, falling) == 14
    with pytest.raises(StatisticsError, match="never reached"):
        days_needed(100, [50.0] + [0.0] * 7)
    for days in ([], [-1.0], [math.nan]):
        with pytest.raises(StatisticsError, match="new units of at least one day"):
            days_needed(1, days)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": 0}, "finite variance above 0"),
        ({"variance": 1, "noise_variance": -1}, "noise variance of at least 0"),
        ({"variance": 1, "treatment_share": 1}, "treatment_share"),
        ({"variance": 1, "alpha": 0}, "alpha must be"),
        ({"variance": 1, "looks": "many"}, '"one" or "any"'),
    ],
)
def test_what_cannot_be_planned_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        Design(**options)


def test_impossible_questions_are_refused() -> None:
    for ask in (
        lambda: Design(1).units_for(0),
        lambda: Design(1).units_for(1e-9),
        lambda: Design(1).units_for(1, power=0.01),
        lambda: Design(1).power(1, 3),
        lambda: Design(1).power(math.nan, 10),
    ):
        with pytest.raises(StatisticsError):
            ask()
