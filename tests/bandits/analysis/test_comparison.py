import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from benchmarks.experiments import oracle
from tactful_bandits.analysis.comparison import (
    Alternative,
    Estimate,
    Interval,
    anytime_p_value,
    compare,
    confidence_sequence,
    difference,
    fixed_horizon_interval,
    fixed_horizon_p_value,
    level,
    proportion_sequence,
)
from tactful_bandits.analysis.samples import Mean, Proportion, Ratio
from tactful_bandits.errors import StatisticsError


def test_one_case_of_growthbook_by_value() -> None:
    control = Ratio(24848, 26942.0, 223719.0, 86180.0, 2211327.0, 266353.0)
    assert level(control).value == pytest.approx(26942 / 223719)
    # By hand: covariances per user, then the delta method.
    n = 24848
    mean_x, mean_y = 26942 / n, 223719 / n
    var_x = (86180 - n * mean_x**2) / (n - 1)
    var_y = (2211327 - n * mean_y**2) / (n - 1)
    cov = (266353 - n * mean_x * mean_y) / (n - 1)
    delta = var_x / mean_y**2 + var_y * mean_x**2 / mean_y**4 - 2 * cov * mean_x / mean_y**3
    assert control.variance == pytest.approx(delta, rel=1e-9)


values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40)


@given(values, values)
def test_means_agree_with_scipy(a: list[float], b: list[float]) -> None:
    one, other = Mean.from_units(a), Mean.from_units(b)
    assume(min(np.std(a), np.std(b)) > 1e-2)  # below, the two differ by cancellation only
    got = compare(one, other)
    expected = stats.ttest_ind(b, a, equal_var=False)
    interval = expected.confidence_interval()
    assert got.fixed_horizon.low == pytest.approx(interval.low, rel=1e-6, abs=1e-6)
    assert got.fixed_horizon.high == pytest.approx(interval.high, rel=1e-6, abs=1e-6)
    assert got.fixed_horizon_p == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-9)


@given(values.filter(lambda v: np.std(v) > 0.1))
def test_a_ratio_over_ones_is_a_mean(xs: list[float]) -> None:
    ratio, mean = Ratio.from_units(xs, np.ones(len(xs))), Mean.from_units(xs)
    assert ratio.value == pytest.approx(mean.value)
    assert ratio.variance == pytest.approx(mean.variance, rel=1e-6)
    hits = sum(x > 0 for x in xs)
    proportion, mean = Proportion(len(xs), hits), Mean.from_units([float(x > 0) for x in xs])
    assert proportion.value == mean.value
    assert proportion.variance == pytest.approx(mean.variance * (1 - 1 / len(xs)))


def users(
    rng: np.random.Generator, count: int, rate: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Hits and questions of users who differ much in both, as shoppers do."""
    questions = 1 + rng.poisson(rng.gamma(1.0, 8.0, count))
    taste = rng.beta(4 * rate, 4 * (1 - rate), count)
    return rng.binomial(questions, taste), questions


def test_the_standard_error_is_that_of_many_repetitions() -> None:
    rng = np.random.default_rng(11)
    repeats = [Ratio.from_units(*users(rng, 2000, 0.3)) for _ in range(800)]
    true = np.std([ratio.value for ratio in repeats])
    claimed = np.mean([level(ratio).standard_error for ratio in repeats])
    assert claimed == pytest.approx(true, rel=0.1)
    # The mistake to be caught: as if each question were a unit of its own.
    naive = np.mean(
        [level(Proportion(int(r.denominator), int(r.numerator))).standard_error for r in repeats]
    )
    assert naive < 0.6 * true


@pytest.mark.slow
@pytest.mark.parametrize("relative", [False, True])
def test_the_fixed_horizon_interval_covers(relative: bool) -> None:
    rng = np.random.default_rng(12)
    truth = (0.33 - 0.3) / (0.3 if relative else 1)
    repeats = 1000
    covered = 0
    for _ in range(repeats):
        control = Ratio.from_units(*users(rng, 900, 0.3))
        treatment = Ratio.from_units(*users(rng, 300, 0.33))
        covered += truth in compare(control, treatment, relative=relative).fixed_horizon
    # 0.95 give or take 5 standard deviations of the simulation.
    assert covered / repeats == pytest.approx(0.95, abs=5 * math.sqrt(0.95 * 0.05 / repeats))


def alarms(estimate: Estimate) -> list[bool]:
    """Whether the confidence sequence, and the interval meant for one look, call a difference."""
    return [0 not in confidence_sequence(estimate), 0 not in fixed_horizon_interval(estimate)]


def looks(seed: int, repeats: int, *, at: range, rate: float = 0.12) -> tuple[float, float]:
    """Simulate A/A tests that are looked at often; one user in ten gets the treatment.

    Returns the shares of tests in which some look called a difference: by the confidence sequence,
    and by the interval meant for one look.
    """
    rng = np.random.default_rng(seed)
    # All tests draw from one population: to make new users takes longer than to look at them.
    hits, questions = users(rng, 100_000, rate)
    ones = np.ones(len(hits), dtype=np.int64)
    sums = np.stack([ones, hits, questions, hits**2, questions**2, hits * questions], axis=1)
    raised = np.zeros(2)
    for _ in range(repeats):
        drawn = sums[rng.integers(len(sums), size=at[-1])]
        treated = rng.random(at[-1]) < 0.1
        running = [
            np.add.reduceat(drawn * arm[:, None], [0, *at[:-1]], axis=0).cumsum(axis=0)
            for arm in (~treated, treated)
        ]
        alarmed = np.zeros(2, dtype=bool)
        for totals in zip(*running, strict=True):
            alarmed |= alarms(difference(*(Ratio(int(n), *map(float, of)) for n, *of in totals)))
        raised += alarmed
    return float(raised[0] / repeats), float(raised[1] / repeats)


@pytest.mark.slow
def test_peeking_is_safe_with_the_confidence_sequence_only() -> None:
    repeats = 300
    anytime, fixed = looks(13, repeats, at=range(2000, 20_001, 600))
    # A sequence with exactly 5 % would fail here with probability 1e-4; seeded, so once for all.
    assert anytime <= stats.binom.isf(1e-4, repeats, 0.05) / repeats
    # The mistake to be caught: the planned-look interval, looked at thirty times.
    assert fixed > 0.15


@pytest.mark.slow
def test_peeking_is_safe_over_many_repetitions() -> None:
    anytime, fixed = looks(14, 4000, at=range(2000, 30_001, 400))
    assert anytime <= 0.05
    assert fixed > 0.2


@pytest.mark.slow
def test_peeking_is_safe_when_the_same_users_come_back() -> None:
    # Outside the theorem, and what a shop sees: from the first week on the users are the same,
    # and their questions grow. 60 looks at 2,500 users, 10 % of them treated.
    rng = np.random.default_rng(16)
    repeats, count, weeks = 600, 2500, 60
    raised = np.zeros(2)
    for _ in range(repeats):
        per_week = rng.gamma(1.0, 20 / weeks, count)
        asked = rng.poisson(per_week[:, None], (count, weeks))
        taste = rng.beta(0.48, 3.52, count)
        hit = rng.binomial(asked, taste[:, None])
        questions, hits = np.cumsum(asked, axis=1), np.cumsum(hit, axis=1)
        treated = rng.random(count) < 0.1
        alarmed = np.zeros(2, dtype=bool)
        for week in range(weeks):
            seen = questions[:, week] > 0
            arms = [
                Ratio.from_units(hits[arm & seen, week], questions[arm & seen, week])
                for arm in (~treated, treated)
            ]
            alarmed |= alarms(difference(*arms))
        raised += alarmed
    assert raised[0] / repeats <= 0.05
    assert raised[1] / repeats > 0.15


def test_the_confidence_sequence_finds_a_real_difference() -> None:
    rng = np.random.default_rng(15)
    control = Ratio.from_units(*users(rng, 9000, 0.30))
    treatment = Ratio.from_units(*users(rng, 1000, 0.36))
    got = compare(control, treatment)
    assert got.conclusive and got.anytime.low > 0
    assert got.estimate.value == pytest.approx(0.06, abs=0.02)


estimates = st.builds(
    Estimate, st.floats(-5, 5), st.floats(1e-3, 10), st.integers(4, 10**6), st.floats(2, 10**6)
)


@given(estimates, st.floats(1e-4, 0.5), st.floats(10, 1e6))
def test_interval_and_p_value_agree(estimate: Estimate, alpha: float, tightest_at: float) -> None:
    p = anytime_p_value(estimate, alpha=alpha, tightest_at=tightest_at)
    if not math.isclose(p, alpha, rel_tol=1e-9):
        interval = confidence_sequence(estimate, alpha=alpha, tightest_at=tightest_at)
        assert (p < alpha) == (0 not in interval)


@given(estimates.filter(lambda e: e.units > 100))
def test_the_sequence_is_wider_than_the_planned_look(estimate: Estimate) -> None:
    planned = fixed_horizon_interval(
        Estimate(estimate.value, estimate.standard_error, estimate.units, math.inf)
    )
    anytime = confidence_sequence(estimate)
    assert anytime.low < planned.low and planned.high < anytime.high
    assert anytime == confidence_sequence(estimate, tightest_at=5000)


@pytest.mark.parametrize("tightest_at", [100, 5000, 200_000])
def test_the_sequence_is_tightest_where_it_is_tuned(tightest_at: int) -> None:
    # The equation for rho is an approximation; near the optimum the width is flat.
    def multiple(tuned_for: float) -> float:
        estimate = Estimate(0.0, 1.0, tightest_at, 100.0)
        return confidence_sequence(estimate, tightest_at=tuned_for).high

    best = min(multiple(tightest_at * factor) for factor in np.geomspace(0.1, 10, 201))
    assert multiple(tightest_at) == pytest.approx(best, rel=0.002)


def test_no_variation_means_no_knowledge() -> None:
    got = compare(Proportion(50, 0), Proportion(50, 0))
    for interval in (got.fixed_horizon, got.anytime):
        assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert (got.fixed_horizon_p, got.anytime_p, got.conclusive) == (1.0, 1.0, False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Proportion(1, 0), "at least 2 units per arm, not 1"),
        (lambda: Proportion(10, 11), "11 successes of 10 units"),
        (lambda: Proportion(10, -1), "-1 successes"),
        (lambda: Mean(10, 10.0, 5.0), "the squares are too small"),
        (lambda: Mean.from_units([1.0, math.nan]), "sums must be finite"),
        (lambda: Mean.from_units([[1.0, 2.0]]), r"shape \[units\], not \(1, 2\)"),
        (lambda: Ratio.from_units([1, 2], [1, 2, 3]), r"not \(2,\), \(3,\)"),
        (lambda: Ratio.from_units([0, 0], [0, 0]), "denominator of 0.0: no data yet"),
        (lambda: Ratio(10, 10.0, 10.0, 20.0, 20.0, 50.0), "products are too large"),
        (lambda: compare(Proportion(9, 1), Proportion(9, 1), alpha=0.6), "alpha must be above 0"),
        (
            lambda: compare(Proportion(9, 1), Proportion(9, 1), tightest_at=0),
            "tightest_at must be a number of units above 0",
        ),
        (
            lambda: compare(Proportion(9, 0), Proportion(9, 1), relative=True),
            "no relative difference from a control of 0",
        ),
    ],
)
def test_impossible_data_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        make()


@given(st.floats(0.1, 1e9), st.integers(2, 10_000))
def test_units_all_alike_have_no_variance_but_rounding(value: float, units: int) -> None:
    assert Mean.from_units(np.full(units, value)).variance == 0
    assert Ratio.from_units(np.full(units, value), np.full(units, 3.0)).variance == 0


@given(st.floats(-6, 6), st.floats(0.01, 0.49), st.sampled_from(["greater", "less"]))
def test_one_sided_p_agrees_with_the_interval(z: float, alpha: float, side: Alternative) -> None:
    estimate = Estimate(z * 0.1, 0.1, 3000, 2998)
    fixed = fixed_horizon_interval(estimate, alpha=alpha, alternative=side)
    assert (fixed_horizon_p_value(estimate, alternative=side) < alpha) == (0 not in fixed)
    anytime = confidence_sequence(estimate, alpha=alpha, alternative=side)
    assert (anytime_p_value(estimate, alpha=alpha, alternative=side) < alpha) == (0 not in anytime)
    open_end, closed_end = anytime.high, anytime.low
    if side == "less":
        open_end, closed_end = -anytime.low, -anytime.high
    assert open_end == math.inf
    assert closed_end < (estimate.value if side == "greater" else -estimate.value)
    one, two = confidence_sequence(estimate, alternative="greater"), confidence_sequence(estimate)
    assert one.low > two.low, "one side is decided sooner than two"
    with pytest.raises(StatisticsError, match="alternative must be one of"):
        confidence_sequence(estimate, alternative="up")  # type: ignore[arg-type]


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


@pytest.mark.slow
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


def test_nothing_is_excluded_that_cannot_be() -> None:
    none = proportion_sequence(Proportion(2, 0))
    assert none.low == 0
    assert none.high < 1
    for alpha in (0.0, 1.0, math.nan):
        with pytest.raises(StatisticsError, match="alpha must lie"):
            proportion_sequence(Proportion(2, 1), alpha=alpha)
    with pytest.raises(StatisticsError, match="prior must be"):
        proportion_sequence(Proportion(2, 1), prior=(0, 1))


def test_every_reference_number_is_ours_too(published: Callable[[str], Any]) -> None:
    checked = list(oracle.comparisons(published("gbstats-oracle.json")))
    assert len(checked) >= 2000
    assert [what for what, ours, theirs in checked if not oracle.agree(ours, theirs)] == []


def test_a_wrong_formula_would_be_counted(
    published: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slightly_wide(*args: Any, **options: Any) -> Interval:
        interval = fixed_horizon_interval(*args, **options)
        return Interval(interval.low * (1 + 1e-6), interval.high, interval.confidence, "wrong")

    monkeypatch.setattr(oracle, "fixed_horizon_interval", slightly_wide)
    checked = oracle.comparisons(published("gbstats-oracle.json"))
    wrong = {what for what, ours, theirs in checked if not oracle.agree(ours, theirs)}
    assert len(wrong) == 2 * 48  # of "less" the lower end is infinite
