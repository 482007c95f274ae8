import numpy as np
import pytest
from scipy import stats

from tactful_bandits.analysis.diagnostics import effect_trend, error_of_peeking
from tactful_bandits.analysis.group_sequential import crossing_probability, group_sequential_bounds
from tactful_bandits.analysis.samples import Mean, Proportion, Sample
from tactful_bandits.errors import StatisticsError


def test_published_errors_of_repeated_tests() -> None:
    # Armitage, McPherson, Rowe (1969), table 2, at 5 %.
    for looks, error in ((1, 0.05), (2, 0.083), (5, 0.142), (10, 0.193)):
        assert error_of_peeking(range(1, looks + 1)) == pytest.approx(error, abs=6e-4)


def test_planned_bounds_cross_as_often_as_they_may() -> None:
    looks = [0.3, 0.5, 1.0]
    bounds = group_sequential_bounds(looks, alpha=0.1)
    assert crossing_probability([300, 500, 1000], bounds) == pytest.approx(0.1, abs=1e-6)


def days(rng: np.random.Generator, effects: list[float]) -> list[tuple[Sample, Sample]]:
    def arm(mean: float) -> Mean:
        return Mean.from_units(rng.normal(mean, 1, 2000))

    return [(arm(0), arm(effect)) for effect in effects]


def test_courses_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    fading = effect_trend(days(rng, [0.5, 0.4, 0.3, 0.2, 0.1]))
    assert fading.course == "fading"
    assert fading.slope == pytest.approx(-0.1, abs=0.03)
    assert effect_trend(days(rng, [0.1, 0.2, 0.3, 0.4, 0.5])).course == "growing"
    assert effect_trend(days(rng, [-0.1, -0.2, -0.3, -0.4, -0.5])).course == "growing"
    assert effect_trend(days(rng, [-0.5, -0.3, -0.2, -0.1])).course == "fading"
    assert effect_trend(days(rng, [0.3] * 6)).course == "steady"


def test_a_steady_effect_is_seldom_called_a_trend() -> None:
    rng = np.random.default_rng(2)
    called = 0
    for _ in range(300):
        pairs: list[tuple[Sample, Sample]] = [
            (
                Proportion(900, int(rng.binomial(900, 0.1))),
                Proportion(500, int(rng.binomial(500, 0.13))),
            )
            for _ in range(10)
        ]
        called += effect_trend(pairs).course != "steady"
    assert stats.binomtest(called, 300, 0.05).pvalue > 1e-3


def test_the_line_is_weighed_least_squares() -> None:
    rng = np.random.default_rng(3)
    pairs: list[tuple[Sample, Sample]] = [
        (Mean.from_units(rng.normal(0, 1, n)), Mean.from_units(rng.normal(n / 500, 2, n)))
        for n in (100, 300, 50, 400)
    ]
    got = effect_trend(pairs)
    effects = [t.value - c.value for c, t in pairs]
    errors = [np.sqrt(t.variance / t.units + c.variance / c.units) for c, t in pairs]
    slope, _ = np.polyfit(range(4), effects, 1, w=1 / np.array(errors))
    assert got.slope == pytest.approx(slope)


def test_what_has_no_trend_is_refused() -> None:
    pair = (Proportion(100, 10), Proportion(100, 12))
    with pytest.raises(StatisticsError, match="at least 3 days, not 2"):
        effect_trend([pair] * 2)
    with pytest.raises(StatisticsError, match="without any variation"):
        effect_trend([pair, pair, (Proportion(100, 0), Proportion(100, 0))])
    with pytest.raises(StatisticsError, match="must rise"):
        error_of_peeking([2, 1])
    with pytest.raises(StatisticsError, match="alpha must be"):
        error_of_peeking([1, 2], alpha=0)
    with pytest.raises(StatisticsError, match="as many bounds"):
        crossing_probability([1, 2], [2])
