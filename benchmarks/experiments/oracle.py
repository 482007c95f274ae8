"""Every number of GrowthBook's statistics that the reference file holds, against ours."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from tactful_bandits.analysis.bayesian import Prior, posterior
from tactful_bandits.analysis.comparison import (
    Alternative,
    Estimate,
    Interval,
    anytime_p_value,
    confidence_sequence,
    difference,
    fixed_horizon_interval,
    fixed_horizon_p_value,
)
from tactful_bandits.analysis.cuped import Paired, adjusted_difference
from tactful_bandits.analysis.sample_ratio import check_sample_ratio
from tactful_bandits.analysis.samples import Mean, Proportion, Ratio

_TOLERANCE = 1e-7
_SIDES: dict[str, Alternative] = {
    "two_sided": "two-sided",
    "greater": "greater",
    "lesser": "less",
}


def shared_file(*parts: str) -> Path:
    """A file of the folder of development data, which is no part of the repository."""
    root = Path(__file__).resolve().parents[3] / "shared"
    return Path(os.environ.get("TACTFUL_SHARED", root)).joinpath("data", *parts)


def figures() -> list[Figure]:
    """How many reference numbers differ, of how many."""
    oracle = json.loads(shared_file("growthbook", "gbstats-oracle.json").read_text("utf-8"))
    checked = list(comparisons(oracle))
    wrong = [what for what, ours, theirs in checked if not agree(ours, theirs)]
    cases = f"{len(oracle['cases'])} cases and {len(oracle['srm'])} sample ratios"
    note = f"numbers of {cases}, to 1e-7 (1e-12 near 0)"
    if wrong:
        note += f"; differ: {', '.join(wrong[:5])}"
    return [Figure("oracle_mismatches", len(wrong), "1", runs=len(checked), note=note)]


def agree(ours: float, theirs: float) -> bool:
    """Whether two numbers are the same to the tolerance."""
    return math.isclose(ours, theirs, rel_tol=_TOLERANCE, abs_tol=1e-12)


def comparisons(oracle: Any) -> Iterator[tuple[str, float, float]]:
    """What each number is, as we compute it and as the reference has it."""
    for number, case in enumerate(oracle["cases"]):
        estimate = _estimate(case)
        for test, expected in case["expected"].items():
            where = f"case {number} {case['kind']} {case['difference']} {test}"
            for what, ours, theirs in _one_test(test, expected, estimate, case):
                yield f"{where} {what}", ours, float(theirs)
    for number, case in enumerate(oracle["srm"]):
        ours = check_sample_ratio(case["users"], case["weights"]).fixed_horizon_p
        yield f"sample ratio {number}", ours, case["p"]


def _estimate(case: Any) -> Estimate:
    relative = case["difference"] == "relative"
    if case["kind"] == "cuped":
        return adjusted_difference(_paired(case["a"]), _paired(case["b"]), relative=relative)
    return difference(_sample(case["a"]), _sample(case["b"]), relative=relative)


def _sample(x: Any) -> Proportion | Mean | Ratio:
    if "m_sum" in x:
        return Ratio(
            x["n"],
            x["m_sum"],
            x["d_sum"],
            x["m_sum_squares"],
            x["d_sum_squares"],
            x["m_d_sum_of_products"],
        )
    return (
        Mean(x["n"], x["sum"], x["sum_squares"])
        if "sum_squares" in x
        else Proportion(x["n"], x["sum"])
    )


def _level(x: Any) -> float:
    return (_paired(x).outcome if "post_sum" in x else _sample(x)).value


def _paired(x: Any) -> Paired:
    return Paired(
        Mean(x["n"], x["post_sum"], x["post_sum_squares"]),
        Mean(x["n"], x["pre_sum"], x["pre_sum_squares"]),
        x["post_pre_sum_of_products"],
    )


def _one_test(
    test: str, expected: Any, estimate: Estimate, case: Any
) -> Iterator[tuple[str, float, Any]]:
    if test.startswith("bayes"):
        yield from _bayesian(test, expected, estimate, case)
        return
    alpha = case["alpha"]
    side = _SIDES[test.removeprefix("sequential_").removesuffix("_N5000")]
    sequential = test.startswith("sequential")
    yield "value", estimate.value, expected["expected"]
    yield "standard error", estimate.standard_error, expected["stddev"]
    interval = (
        confidence_sequence(estimate, alpha=alpha, tightest_at=5000, alternative=side)
        if sequential
        else fixed_horizon_interval(estimate, alpha=alpha, alternative=side)
    )
    yield from _ends(interval, expected)
    if not sequential:
        yield "p", fixed_horizon_p_value(estimate, alternative=side), expected["pValue"]
    elif side == "two-sided":
        yield "p", anytime_p_value(estimate, alpha=alpha, tightest_at=5000), expected["pValue"]
    else:
        ours = anytime_p_value(estimate, alpha=alpha, tightest_at=5000, alternative=side)
        yield "p", _bisected(estimate, side, alpha, ours), expected["pValue"]


def _bisected(estimate: Estimate, side: Alternative, tuned_for: float, exact: float) -> float:
    """The one-sided p-value as the reference approximates it, if ours is what it approximates.

    It halves a range of alpha until the end of the interval is within 1e-6 of 0, and once more.
    """
    low, high = 1e-5, 0.4999
    if not low < exact < high:
        return min(max(exact, low), high)
    while True:
        middle = (low + high) / 2
        # The tuning stays that for the alpha of the case, in terms of the alpha that is tried.
        tightest_at = 5000 * _tuning(middle) / _tuning(tuned_for)
        interval = confidence_sequence(
            estimate, alpha=middle, tightest_at=tightest_at, alternative=side
        )
        end = interval.low if side == "greater" else -interval.high
        low, high = (middle, high) if end < 0 else (low, middle)
        if abs(end) < 1e-6:
            return (low + high) / 2


def _tuning(alpha: float) -> float:
    log_term = -2 * math.log(2 * alpha)
    return log_term + math.log1p(log_term)


def _bayesian(
    test: str, expected: Any, estimate: Estimate, case: Any
) -> Iterator[tuple[str, float, Any]]:
    prior = Prior() if test == "bayes_improper" else Prior(0, 0.3)
    if case["difference"] == "absolute":  # the reference's priors speak of relative differences
        prior = prior.scaled(_level(case["a"]))
    believed = posterior(estimate, prior)
    yield "mean", believed.mean, expected["expected"]
    yield "standard deviation", believed.standard_deviation, expected["stddev"]
    yield from _ends(believed.credible_interval(alpha=case["alpha"]), expected)
    yield "chance to win", believed.chance_to_win(), expected["chanceToWin"]
    risks = zip(("control", "treatment"), believed.risk(), expected["risk"], strict=True)
    yield from ((f"risk of the {arm}", ours, theirs) for arm, ours, theirs in risks)


def _ends(interval: Interval, expected: Any) -> Iterator[tuple[str, float, Any]]:
    yield "low end", interval.low, expected["ci"][0]
    yield "high end", interval.high, expected["ci"][1]
