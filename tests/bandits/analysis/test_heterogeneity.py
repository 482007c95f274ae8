import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tactful_bandits.analysis.comparison import difference
from tactful_bandits.analysis.heterogeneity import effect_trend, honest_uplift, segment_effects
from tactful_bandits.analysis.samples import Mean, Proportion, Sample
from tactful_bandits.errors import StatisticsError


def shoppers(rng: np.random.Generator, count: int, effects: tuple[float, float]) -> tuple[Any, ...]:
    """Units of two kinds with effects of their own, three features, one of which tells the kind."""
    x = rng.normal(size=(count, 3))
    treated = rng.integers(0, 2, count)
    effect = np.where(x[:, 1] > 0, *effects)
    return x, treated, x[:, 0] + treated * effect + rng.normal(size=count)


search = functools.partial(honest_uplift, features=("age", "recency", "spend"), treatment_share=0.5)


def test_a_difference_that_is_there_is_found_and_estimated() -> None:
    rng = np.random.default_rng(1)
    found = search(*shoppers(rng, 8000, (1.0, 0.0)), segments=2, seed=0)
    best, worst = found.heterogeneity.segments
    assert best.name.startswith("recency > ")
    assert worst.name.startswith("recency <= ")
    assert 1.0 in best.interval
    assert 0.0 in worst.interval
    assert found.heterogeneity.p < 1e-6
    assert best.p < 1e-6
    assert best.share + worst.share == pytest.approx(1)
    predicted = found.predict([[0, 2, 0], [0, -2, 0]])
    assert predicted.tolist() == [best.estimate.value, worst.estimate.value]


def test_equal_segments_give_no_claim() -> None:
    rng = np.random.default_rng(2)
    claimed = covered = naive = 0
    for run in range(120):
        x, treated, outcome = shoppers(rng, 2000, (0.3, 0.3))
        found = search(x, treated, outcome, seed=run, smallest=150)
        claimed += found.heterogeneity.p < 0.05
        covered += all(0.3 in each.interval for each in found.heterogeneity.segments)
        # The mistake to be caught: judging segments by the units that chose them.
        leaves = found.predict(x)
        naive += len({*leaves.tolist()}) > 1
    assert stats.binomtest(claimed, 120, 0.05, "greater").pvalue > 1e-3
    assert stats.binomtest(covered, 120, 0.95, "less").pvalue > 1e-3
    assert naive > 100  # segments were searched for, and found, every time


def test_named_segments_are_corrected_for_their_number() -> None:
    pairs = {
        "new": (Proportion(1000, 100), Proportion(1000, 150)),
        "old": (Proportion(3000, 300), Proportion(3000, 300)),
    }
    got = segment_effects(pairs)
    assert [each.name for each in got.segments] == ["new", "old"]
    assert [each.share for each in got.segments] == [0.25, 0.75]
    assert got.segments[0].estimate == difference(*pairs["new"])
    assert got.segments[0].interval.confidence == 0.975
    assert got.segments[1].p == 1
    new, old = (each.estimate for each in got.segments)
    # Of two effects, Cochran's Q is the squared z-score of their difference.
    z = (new.value - old.value) / math.hypot(new.standard_error, old.standard_error)
    assert got.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert segment_effects({"all": pairs["new"]}).p == 1


def test_hillstrom_shows_no_segment_differences(read_parquet: Callable[[str], Any]) -> None:
    data = read_parquet("hillstrom/hillstrom.parquet")
    data = data[data["segment"] != "Womens E-Mail"]
    treated = (data["segment"] == "Mens E-Mail").to_numpy(float)
    found = honest_uplift(
        data[["recency", "history", "mens", "womens", "newbie"]].to_numpy(float),
        treated,
        data["visit"].to_numpy(float),
        features=("recency", "history", "mens", "womens", "newbie"),
        treatment_share=0.5,
        seed=3,
        smallest=2000,
    )
    # The published average is 7.7 points; in every segment the mail brings visits.
    for each in found.heterogeneity.segments:
        assert each.interval.low > 0
    average = sum(each.share * each.estimate.value for each in found.heterogeneity.segments)
    assert average == pytest.approx(0.077, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"treated": [0, 2] * 1000}, "treated must be 0 or 1"),
        ({"outcome": [np.nan] * 2000}, "every outcome a finite number"),
        ({"x": np.zeros((2000, 2))}, r"shape \[units, 3\]"),
        ({"x": np.zeros((1999, 3))}, "1999 rows of features for 2000 units"),
        ({"smallest": 501}, "2000 units are too few"),
        ({"segments": 1}, "segments and smallest be at least 2"),
    ],
)
def test_what_cannot_be_searched_is_refused(change: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {
        "x": np.zeros((2000, 3)),
        "treated": [0, 1] * 1000,
        "outcome": np.zeros(2000),
    }
    with pytest.raises(StatisticsError, match=message):
        search(**{"seed": 0, **asked, **change})
    with pytest.raises(StatisticsError, match="at least one segment"):
        segment_effects({})
    assert segment_effects({"a": (Mean(2, 2, 2), Mean(2, 2, 2))}).p == 1


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
        pairs: list[Any] = [
            [Proportion(n, int(rng.binomial(n, p))) for n, p in ((900, 0.1), (500, 0.13))]
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
