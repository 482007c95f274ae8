import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tactful_bandits.analysis.sample_ratio import check_sample_ratio
from tactful_bandits.errors import StatisticsError

shares = st.lists(st.integers(1, 20), min_size=2, max_size=4).map(
    lambda parts: [part / sum(parts) for part in parts]
)


def test_one_case_of_growthbook_by_value() -> None:
    got = check_sample_ratio([1000, 1200], [0.5, 0.5])
    assert got.fixed_horizon_p == pytest.approx(2.007865612426481e-05, rel=1e-7)
    nothing = check_sample_ratio([0, 0], [0.5, 0.5])
    assert nothing.log_e_value == pytest.approx(0)
    assert (nothing.fixed_horizon_p, nothing.mismatch) == (1.0, False)


@given(shares, st.data(), st.floats(1, 5000))
def test_the_e_value_is_the_product_of_predictions(
    theta: list[float], data: st.DataObject, concentration: float
) -> None:
    # Each arriving unit is predicted by Polya's urn; its prediction over its expected share is
    # the factor by which the evidence grows.
    arms = data.draw(st.lists(st.integers(0, len(theta) - 1), max_size=60))
    counts = [0] * len(theta)
    log_e_value = 0.0
    for seen, arm in enumerate(arms):
        predicted = (concentration * theta[arm] + counts[arm]) / (concentration + seen)
        log_e_value += math.log(predicted / theta[arm])
        counts[arm] += 1
    got = check_sample_ratio(counts, theta, concentration=concentration)
    assert got.log_e_value == pytest.approx(log_e_value, rel=1e-6, abs=1e-8)


@given(shares, st.data())
def test_the_e_value_is_a_martingale_under_the_expected_shares(
    theta: list[float], data: st.DataObject
) -> None:
    counts = data.draw(st.lists(st.integers(0, 5000), min_size=len(theta), max_size=len(theta)))
    now = check_sample_ratio(counts, theta).log_e_value
    growth = sum(
        share
        * math.exp(
            check_sample_ratio([n + (i == arm) for i, n in enumerate(counts)], theta).log_e_value
            - now
        )
        for arm, share in enumerate(theta)
    )
    assert growth == pytest.approx(1, rel=1e-6)


def alarms(seed: int, true_share: float) -> tuple[float, float]:
    """Shares of experiments, expected 10 %, where one of 120 looks alarms: e-value, chi-square."""
    rng = np.random.default_rng(seed)
    repeats = 300
    raised = np.zeros(2)
    for _ in range(repeats):
        treated = np.cumsum(rng.binomial(500, true_share, 120))
        checks = [
            check_sample_ratio([500 * look - int(n), int(n)], [0.9, 0.1], alpha=0.05)
            for look, n in enumerate(treated, start=1)
        ]
        raised += [
            any(check.mismatch for check in checks),
            any(check.fixed_horizon_p < 0.05 for check in checks),
        ]
    return float(raised[0] / repeats), float(raised[1] / repeats)


@pytest.mark.slow
def test_watching_all_the_time_is_safe_with_the_e_value_only() -> None:
    anytime, fixed = alarms(21, true_share=0.1)
    # A check with exactly 5 % would fail here with probability 1e-4; seeded, so once for all.
    assert anytime <= stats.binom.isf(1e-4, 300, 0.05) / 300
    # The mistake to be caught: chi-square at every look.
    assert fixed > 0.25


@pytest.mark.slow
def test_a_real_mismatch_is_found() -> None:
    assert alarms(22, true_share=0.108)[0] > 0.95


@pytest.mark.parametrize(
    ("counts", "theta", "message"),
    [
        ([1, 2, 3], [0.5, 0.5], "one count and one share per arm"),
        ([1], [1.0], "one count and one share per arm"),
        ([1, -2], [0.5, 0.5], "counts must be whole and not negative"),
        ([1, 2.5], [0.5, 0.5], "counts must be whole and not negative"),
        ([1, math.inf], [0.5, 0.5], "counts must be whole and not negative"),
        ([1, 2], [0.5, 0.4], "sum to 1"),
        ([1, 2], [1.0, 0.0], "leave arms of weight 0 out"),
    ],
)
def test_impossible_counts_are_refused(counts: list[int], theta: list[float], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        check_sample_ratio(counts, theta)
    for name, value in (("alpha", 0.0), ("alpha", 1.0), ("concentration", 0.0)):
        with pytest.raises(StatisticsError, match=name):
            check_sample_ratio([1, 1], [0.5, 0.5], **{name: value})
