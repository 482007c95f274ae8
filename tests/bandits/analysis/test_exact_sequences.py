import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from tactful_bandits.analysis.exact_sequences import exact_difference_sequence, proportion_sequence
from tactful_bandits.analysis.samples import Proportion
from tactful_bandits.errors import StatisticsError


@settings(max_examples=30)
@given(st.integers(2, 40), st.floats(0, 1), st.floats(0.5, 4), st.floats(0.5, 4))
def test_the_ends_are_where_the_mixture_reaches_one_over_alpha(
    units: int, share: float, a: float, b: float
) -> None:
    s = round(units * share)
    interval = proportion_sequence(Proportion(units, s), alpha=0.1, prior=(a, b))
    mixture, _ = integrate.quad(
        lambda p: p**s * (1 - p) ** (units - s) * stats.beta.pdf(p, a, b), 0, 1, limit=200
    )
    for end in (interval.low, interval.high):
        if 0 < end < 1:
            likelihood = end**s * (1 - end) ** (units - s)
            assert mixture / likelihood == pytest.approx(10, rel=1e-4)
    assert s / units in interval


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_it_covers_at_every_look_from_the_second_unit_on(share: float) -> None:
    rng = np.random.default_rng(3)
    runs, units = 150, 300
    missed = 0
    for _ in range(runs):
        counts = np.cumsum(rng.random(units) < share)
        looks = range(1, units, 5)
        missed += any(
            share not in proportion_sequence(Proportion(look + 1, int(counts[look])))
            for look in looks
        )
    assert stats.binomtest(missed, runs, 0.05, "greater").pvalue > 1e-3


def test_a_difference_is_covered_and_seen() -> None:
    alike = exact_difference_sequence(Proportion(400, 40), Proportion(400, 42))
    assert 0 in alike
    apart = exact_difference_sequence(Proportion(4000, 400), Proportion(4000, 700))
    assert apart.low > 0
    assert 0.075 in apart
    assert apart.confidence == 0.95


def test_nothing_is_excluded_that_cannot_be() -> None:
    none = proportion_sequence(Proportion(2, 0))
    assert none.low == 0
    assert none.high < 1
    for alpha in (0.0, 1.0, math.nan):
        with pytest.raises(StatisticsError, match="alpha must lie"):
            proportion_sequence(Proportion(2, 1), alpha=alpha)
    with pytest.raises(StatisticsError, match="prior must be"):
        proportion_sequence(Proportion(2, 1), prior=(0, 1))
