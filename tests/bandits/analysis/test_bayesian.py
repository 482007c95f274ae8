import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from tactful_bandits.analysis.bayesian import Posterior, Prior, posterior
from tactful_bandits.analysis.comparison import Estimate, difference
from tactful_bandits.analysis.samples import Proportion
from tactful_bandits.errors import StatisticsError

effects = st.floats(-5, 5)
deviations = st.floats(0.05, 5)


@given(effects, deviations, effects, deviations)
def test_the_posterior_is_prior_times_likelihood(
    value: float, error: float, mean: float, deviation: float
) -> None:
    got = posterior(Estimate(value, error, 100, 98), Prior(mean, deviation))
    ratios = [
        stats.norm.logpdf(value, d, error)
        + stats.norm.logpdf(d, mean, deviation)
        - stats.norm.logpdf(d, got.mean, got.standard_deviation)
        for d in (got.mean, got.mean + got.standard_deviation, got.mean - got.standard_deviation)
    ]
    assert ratios == pytest.approx([ratios[0]] * 3, abs=1e-6)


@given(effects, deviations)
def test_risks_are_expected_losses(mean: float, deviation: float) -> None:
    believed = Posterior(mean, deviation)
    law = stats.norm(mean, deviation)
    end = 12 * deviation + abs(mean)
    gain, _ = integrate.quad(lambda d: d * law.pdf(d), 0, end, points=[max(mean, 0)])
    loss, _ = integrate.quad(lambda d: -d * law.pdf(d), -end, 0, points=[min(mean, 0)])
    assert believed.risk() == pytest.approx((gain, loss), abs=1e-6)
    assert believed.risk(higher_is_better=False) == (believed.risk()[1], believed.risk()[0])
    assert believed.chance_to_win() == pytest.approx(law.sf(0))
    assert believed.chance_to_win(higher_is_better=False) == pytest.approx(law.cdf(0))
    interval = believed.credible_interval(alpha=0.1)
    assert (interval.low, interval.high) == pytest.approx(law.interval(0.9))


def test_a_belief_moves_to_other_units_with_the_difference() -> None:
    relative = posterior(Estimate(0.1, 0.02, 100, 98), Prior(0.01, 0.05))
    absolute = posterior(Estimate(0.3, 0.06, 100, 98), Prior(0.01, 0.05).scaled(3))
    assert Prior(standard_deviation=1) == Prior(0, 1)
    assert absolute.mean == pytest.approx(3 * relative.mean)
    assert absolute.standard_deviation == pytest.approx(3 * relative.standard_deviation)


def test_what_cannot_be_believed_is_refused() -> None:
    for mean, deviation in ((math.nan, 1.0), (0.0, 0.0), (0.0, math.nan)):
        with pytest.raises(StatisticsError, match="a prior needs"):
            Prior(mean, deviation)
    with pytest.raises(StatisticsError, match="no variation was seen"):
        posterior(Estimate(1, 0, 10, 8))
    with pytest.raises(StatisticsError, match="alpha must lie"):
        Posterior(0, 1).credible_interval(alpha=0)


def test_the_posterior_of_two_samples() -> None:
    """Both arms may be given instead of the estimate of their difference."""
    arms = Proportion(1_000, 100), Proportion(1_000, 130)
    estimate = difference(*arms)
    assert posterior(*arms) == posterior(estimate)
    prior = Prior(0.0, 0.01)
    assert posterior(*arms, prior) == posterior(estimate, prior) == posterior(estimate, prior=prior)
    assert posterior(*arms).chance_to_win() > 0.95
    wrong: Any = posterior
    for arguments in ((arms[0],), (arms[0], prior), (estimate, arms[1])):
        with pytest.raises(StatisticsError, match="the samples of both arms"):
            wrong(*arguments)
