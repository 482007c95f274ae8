from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.experiments import coverage as simulated
from tactful_bandits.analysis.comparison import difference, fixed_horizon_interval
from tactful_bandits.analysis.noisy_samples import (
    RatioSums,
    ReleasedProportion,
    ReleasedRatio,
    units_behind_noise,
)
from tactful_bandits.analysis.sample_ratio import check_sample_ratio
from tactful_bandits.analysis.samples import Proportion, Ratio
from tactful_bandits.errors import StatisticsError
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

CASES = simulated.cases()
EXACT = RatioSums(0, 0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_nominal_95_percent_are_between_93_and_97(name: str) -> None:
    assert 0.93 <= simulated.coverage(*CASES[name], 1000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", ["released ratio at ε = 0.2", "released ratio at ε = 1"])
def test_an_interval_that_forgets_the_noise_would_be_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        simulated._Noise, "variance", property(lambda _: 0.0, lambda *_: None), False
    )
    assert simulated.coverage(*simulated.cases()[name], 300) < 0.9


@given(st.integers(2, 10**6), st.floats(0, 1))
def test_without_noise_it_is_the_exact_proportion(units: int, share: float) -> None:
    exact = Proportion(units, round(units * share))
    released = ReleasedProportion(exact.successes, units - exact.successes, 0, 0)
    assert released.units == exact.units
    assert released.value == exact.value
    assert released.variance == pytest.approx(exact.variance)
    assert released.degrees_of_freedom == exact.degrees_of_freedom


def test_without_noise_it_is_the_exact_ratio() -> None:
    rng = np.random.default_rng(1)
    y = 1 + rng.poisson(3, 500)
    exact = Ratio.from_units(rng.binomial(y, 0.2), y)
    released = ReleasedRatio(exact.units, RatioSums(*astuple(exact)[1:]), EXACT)
    assert released.value == exact.value
    assert released.variance == pytest.approx(exact.variance * 499 / 500)
    assert released.degrees_of_freedom == 499


def test_noise_on_the_squares_leaves_fewer_degrees_of_freedom() -> None:
    sums = RatioSums(120, 1000, 200, 5000, 500)
    noisy = ReleasedRatio(1000, sums, RatioSums(50, 50, 1e4, 1e4, 1e4))
    clear = ReleasedRatio(1000, sums, RatioSums(50, 50, 0, 0, 0))
    assert noisy.variance == clear.variance
    assert noisy.degrees_of_freedom < 50 < clear.degrees_of_freedom
    r, squares = 0.12, 152 + 50 + 0.12**2 * 50
    uncertainty = 1e4 * (1 + 4 * r**2 + r**4)
    degrees = 1 / (1 / 999 + uncertainty / (2 * squares**2))
    assert noisy.degrees_of_freedom == pytest.approx(degrees, rel=1e-9)


def test_a_share_below_zero_is_kept_and_still_has_an_interval() -> None:
    drowned = ReleasedProportion(-3, 50, 200, 200)
    assert drowned.value == -3 / 47
    interval = fixed_horizon_interval(difference(ReleasedProportion(5, 45, 200, 200), drowned))
    assert 0 in interval
    assert interval.high - interval.low > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReleasedProportion(1, 0.5, 1, 1), "at least 2 units per arm, not 1.5 after noise"),
        (lambda: ReleasedProportion(-9, 3, 1, 1), "at least 2 units per arm, not -6"),
        (lambda: ReleasedProportion(9, 3, -1, 1), "variances of noise must be"),
        (lambda: ReleasedProportion(9, 3, float("nan"), 1), "variances of noise must be"),
        (lambda: ReleasedRatio(9, RatioSums(1, 0, 1, 1, 1), EXACT), "noise outweighs the data"),
        (lambda: ReleasedRatio(1, RatioSums(1, 1, 1, 1, 1), EXACT), "at least 2 units"),
    ],
)
def test_releases_that_say_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        make()


@pytest.mark.slow
def test_released_counts_hold_a_rollout_as_seldom_as_exact_ones() -> None:
    """SRM behind noise that outweighs chance: at 5 % hardly ever, and seen where it is there."""
    rng = np.random.default_rng(3)
    noise, looks, runs = DiscreteLaplace(1, "0.5", entropy=rng.bytes), 24, 200
    variance = float(noise.variance)

    def alarms(true_share: float) -> float:
        found = 0
        for _ in range(runs):
            treated = np.cumsum(rng.binomial(40, true_share, looks))
            added = np.cumsum(noise.sample(4 * looks).reshape(4, looks), axis=1)
            for look in range(looks):
                n, t, v = 40 * (look + 1), int(treated[look]), variance * (look + 1)
                cells = np.array([0.3 * (n - t), 0.7 * (n - t), 0.3 * t, 0.7 * t]) + added[:, look]
                if min(cells[:2].sum(), cells[2:].sum()) < 2:
                    continue
                control = ReleasedProportion(cells[0], cells[1], v, v)
                arm = ReleasedProportion(cells[2], cells[3], v, v)
                counts = units_behind_noise(control, arm, 0.1)
                if check_sample_ratio(counts, (0.9, 0.1), alpha=0.05, concentration=100).mismatch:
                    found += 1
                    break
        return found / runs

    assert alarms(0.1) <= 0.05
    assert alarms(0.22) >= 0.9


def test_counts_without_noise_are_themselves() -> None:
    control, treatment = ReleasedProportion(30, 70, 0, 0), ReleasedProportion(5, 6, 0, 0)
    assert units_behind_noise(control, treatment, 0.1) == (100, 11)
    with pytest.raises(StatisticsError, match="between 0 and 1"):
        units_behind_noise(control, treatment, 1.0)
