"""Reports of devices: exact probabilities, the same as OpenDP's, and estimates that cover."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import exp_bounds
from tactful_privacy.mechanisms.local import OneHotReport, RandomizedResponse

LOSSES = st.fractions(Fraction(1, 100), 20, max_denominator=500)


def e_to(x: Fraction) -> Fraction:
    """e^x, a hair too low."""
    return Fraction(exp_bounds(x, 256)[0], 1 << 256)


@given(st.integers(2, 3_000), LOSSES)
@settings(max_examples=60, deadline=None)
def test_no_answer_tells_more_than_epsilon(categories: int, epsilon: Fraction) -> None:
    response = RandomizedResponse(categories, epsilon)
    assert response.truth + (categories - 1) * response.other == 1
    ratio = response.truth / response.other
    assert ratio <= e_to(epsilon)
    assert ratio > e_to(epsilon * Fraction(999_999, 1_000_000))


def worst_ratio(rows: OneHotReport) -> Fraction:
    """Another true category changes two bits: one set that need not be, one unset that may be."""
    return rows.kept / rows.flipped * (1 - rows.flipped) / (1 - rows.kept)


@given(LOSSES, st.sampled_from(["symmetric", "optimized"]))
@settings(max_examples=60, deadline=None)
def test_no_row_tells_more_than_epsilon(epsilon: Fraction, kind: Any) -> None:
    worst = worst_ratio(OneHotReport(7, epsilon, kind=kind))
    assert e_to(epsilon * Fraction(999_999, 1_000_000)) < worst <= e_to(epsilon)
    # Planted: rows for twice the epsilon, as if one bit changed and not two.
    assert worst_ratio(OneHotReport(7, 2 * epsilon, kind=kind)) > e_to(epsilon)


def test_answers_have_the_stated_probabilities() -> None:
    response = RandomizedResponse(4, 1, entropy=np.random.default_rng(1).bytes)
    n = 40_000
    expected = np.array([response.other] * 2 + [response.truth] + [response.other], dtype=float)
    seen = np.bincount(response.report([2] * n), minlength=4)
    assert stats.chisquare(seen, expected * n).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["symmetric", "optimized"])
def test_bits_have_the_stated_probabilities_and_are_independent(kind: Any) -> None:
    report = OneHotReport(3, 1, kind=kind, entropy=np.random.default_rng(2).bytes)
    n = 40_000
    rows = report.report([1] * n)
    p = [report.flipped, report.kept, report.flipped]
    patterns = np.bincount(rows @ np.array([1, 2, 4]), minlength=8)
    expected = [
        math.prod(float(q if code >> bit & 1 else 1 - q) for bit, q in enumerate(p)) * n
        for code in range(8)
    ]
    assert stats.chisquare(patterns, expected).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("categories", "epsilon"), [(2, "1"), (5, "1/2"), (9, "3")])
def test_answers_are_those_of_opendp(categories: int, epsilon: str) -> None:
    """OpenDP cannot be seeded: false alarm rate 1e-9."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    response = RandomizedResponse(categories, epsilon)
    theirs = dp.m.make_randomized_response(list(range(categories)), prob=float(response.truth))
    computed = theirs.map(1)  # type: ignore[no-untyped-call]
    assert math.isclose(computed, Fraction(epsilon), rel_tol=1e-12)
    n = 6_000
    table = [
        np.bincount(response.report([1] * n), minlength=categories),
        np.bincount([theirs(1) for _ in range(n)], minlength=categories),
    ]
    assert stats.chi2_contingency(table).pvalue > 1e-9


@pytest.mark.parametrize("make", [
    lambda entropy: RandomizedResponse(5, 1, entropy=entropy),
    lambda entropy: OneHotReport(5, 1, entropy=entropy),
    lambda entropy: OneHotReport(5, 1, kind="symmetric", entropy=entropy),
])  # fmt: skip
def test_estimates_are_unbiased_and_their_intervals_cover(make: Any) -> None:
    mechanism = make(np.random.default_rng(3).bytes)
    truth = np.array([400, 300, 200, 100, 0])
    people = np.repeat(np.arange(5), truth)
    rounds, covered, total = 200, 0, np.zeros(5)
    for _ in range(rounds):
        reports = mechanism.report(people)
        estimate = (
            mechanism.estimate(reports, "0.9")
            if reports.ndim == 1
            else mechanism.estimate(reports.sum(axis=0).tolist(), len(people), "0.9")
        )
        covered += int(((estimate.low <= truth) & (truth <= estimate.high)).sum())
        total += estimate.counts
        assert (estimate.low <= estimate.high).all()
    # The intervals are exact for a sample from a population, so a little wide for these people.
    assert stats.binomtest(covered, 5 * rounds, 0.9, alternative="less").pvalue > 1e-3
    assert covered < 5 * rounds
    deviation = math.sqrt(1_000 * 4) / math.sqrt(rounds)
    assert np.abs(total / rounds - truth).max() < 5 * deviation


def test_planted_estimate_without_debiasing_is_caught() -> None:
    response = RandomizedResponse(5, 1, entropy=np.random.default_rng(4).bytes)
    people = np.repeat([0, 1], [9_000, 1_000])
    reports = response.report(people)
    raw = np.bincount(reports, minlength=5)
    estimate = response.estimate(reports, "0.999")
    assert not estimate.low[0] <= raw[0] <= estimate.high[0]
    assert estimate.low[0] <= 9_000 <= estimate.high[0]


@pytest.mark.parametrize("epsilon", ["1/2", "2", "5"])
def test_optimized_rows_tell_more_than_symmetric_ones(epsilon: str) -> None:
    def variance(kind: Any) -> float:
        """Of the estimate, for each report of somebody who does not hold the category."""
        rows = OneHotReport(3, epsilon, kind=kind)
        return float(rows.flipped * (1 - rows.flipped) / (rows.kept - rows.flipped) ** 2)

    assert variance("optimized") < variance("symmetric")
    e = math.exp(Fraction(epsilon))
    assert math.isclose(variance("optimized"), 4 * e / (e - 1) ** 2, rel_tol=1e-9)


@pytest.mark.parametrize("kind", [RandomizedResponse, OneHotReport])
def test_parameters_out_of_range_are_refused(kind: Any) -> None:
    for categories in (1, 100_001, True):
        with pytest.raises(ParameterError, match="categories"):
            kind(categories, 1)
    for epsilon in (0, 0.5, "nan", 41):
        with pytest.raises(ParameterError, match="epsilon"):
            kind(3, epsilon)
    assert kind(3, 1).report([]).shape[0] == 0


def test_what_is_no_report_is_refused() -> None:
    response, rows = RandomizedResponse(3, 1), OneHotReport(3, 1)
    for categories in ([3], [-1], [0.5], [[1]]):
        with pytest.raises(ParameterError, match="categories"):
            response.report(categories)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="no report"):
        response.estimate([])
    for bits, reports in (([1, 1], 2), ([1, 1, 3], 2), ([0, -1, 0], 2)):
        with pytest.raises(ParameterError, match="set_bits"):
            rows.estimate(bits, reports)
    with pytest.raises(ParameterError, match="no report"):
        rows.estimate([0, 0, 0], 0)
    with pytest.raises(ParameterError, match="kind"):
        OneHotReport(3, 1, kind="plain")  # type: ignore[arg-type]


def test_rows_are_those_of_opendp() -> None:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    report = OneHotReport(6, "3/2", kind="symmetric")
    theirs = dp.m.make_randomized_response_bitvec(
        dp.bitvector_domain(max_weight=1), dp.discrete_distance(), f=2 * float(report.flipped)
    )
    computed = theirs.map(1)  # type: ignore[no-untyped-call]
    assert math.isclose(computed, 1.5, rel_tol=1e-9)
