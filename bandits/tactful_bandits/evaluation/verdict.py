"""Verdict on a policy from logged decisions: better, worse or inconclusive.

An estimate alone is not enough. Weights may be few and large, propensities wrong, or the result
may depend on the clipping of weights. Then the verdict is "inconclusive", with the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tactful_bandits.analysis.comparison import Interval
from tactful_bandits.errors import EvaluationError
from tactful_bandits.evaluation.off_policy import (
    LoggedDecisions,
    OffPolicyEstimate,
    clipped_ips,
    direct_method,
    doubly_robust,
    ips,
    logged_value,
    self_normalised_doubly_robust,
    shrunk_doubly_robust,
    snips,
    switch_doubly_robust,
)

_LIMITS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_ALPHA_OF_CHECK = 0.001


@dataclass(frozen=True, slots=True)
class Overlap:
    """Diagnostics of the importance weights."""

    decisions: int  # number of logged decisions
    # Effective sample size, ``(Σ w)² / Σ w²`` (Kish 1965): the number of decisions of the policy
    # itself with the same information, if rewards do not depend on the weights
    effective: float
    # Effective sample size of the decisions with a reward other than the most frequent one, such as
    # clicks
    effective_rewards: float
    largest_weight: float  # largest importance weight
    # Mean weight; expected to be 1 if propensities are right and the log covers the policy
    mean_weight: float
    # Interval at confidence 0.999; a log whose interval excludes 1 is not reliable
    mean_weight_interval: Interval
    share_of_top: float  # share of all weight in the heaviest hundredth of the decisions
    never_logged: float  # share of decisions whose logged arm has probability 0 under the policy


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Gain over the logging policy with weights clipped at a limit."""

    limit: float
    clipped: float
    gain: float
    interval: Interval


@dataclass(frozen=True)
class PolicyEvaluation:
    """Evaluation of a policy on a log."""

    estimates: dict[str, OffPolicyEstimate]  # estimates by name of the estimator
    logged: OffPolicyEstimate  # estimate of the logging policy
    # Difference to the logging policy, by `snips`, or with a model `self_normalised_doubly_robust`
    gain: float
    interval: Interval  # interval of the gain
    overlap: Overlap  # diagnostics of the weights
    sensitivity: tuple[Sensitivity, ...]  # gain with weights clipped at several limits
    # ``better`` or ``worse`` than the logging policy, or ``inconclusive``
    verdict: Literal["better", "worse", "inconclusive"]
    reasons: tuple[str, ...]  # reasons for ``inconclusive``; empty otherwise


def measure_overlap(log: LoggedDecisions) -> Overlap:
    """Compute diagnostics of the importance weights."""
    w = log.weights
    values, counts = np.unique(log.rewards, return_counts=True)
    mean = logged_value(replace(log, rewards=w))
    heaviest = np.sort(w)[::-1][: max(1, len(w) // 100)]
    return Overlap(
        decisions=len(w),
        effective=_effective(w),
        effective_rewards=_effective(w[log.rewards != values[counts.argmax()]]),
        largest_weight=float(w.max()),
        mean_weight=mean.value,
        mean_weight_interval=mean.interval(1 - _ALPHA_OF_CHECK),
        share_of_top=float(heaviest.sum() / w.sum()) if w.sum() else 0.0,
        never_logged=float((w == 0).mean()),
    )


def evaluate_policy(
    log: LoggedDecisions,
    *,
    confidence: float = 0.95,
    limits: Sequence[float] = _LIMITS,
    least_effective: float = 200,
    least_effective_rewards: float = 30,
) -> PolicyEvaluation:
    """Evaluate a policy on a log and compare it with the logging policy.

    Args:
        log: Decisions of one logging policy, or of several, each with its propensity.
        confidence: Confidence of the intervals.
        limits: Clipping limits of the sensitivity analysis.
        least_effective: Effective decisions that a verdict needs.
        least_effective_rewards: Effective decisions with a reward other than the usual one that a
            verdict needs, for asymptotic intervals.

    Raises:
        EvaluationError: `confidence` or a limit is out of range, or there is no overlap at all.
    """
    if not limits:
        raise EvaluationError("give at least one limit for the sensitivity analysis")
    logged = logged_value(log)
    estimates = _estimates(log, limits)
    name = "snips" if log.expected is None else "self_normalised_doubly_robust"
    gain = estimates[name].minus(logged)
    interval = gain.interval(confidence)
    overlap = measure_overlap(log)
    sensitivity = tuple(_sensitivity(log, limit, logged, confidence) for limit in limits)
    reasons = _reasons(interval, gain.value, overlap, sensitivity, least_effective)
    if overlap.effective_rewards < least_effective_rewards:
        reasons.append(
            f"only {overlap.effective_rewards:.0f} effective rewards, fewer than"
            f" {least_effective_rewards:g}"
        )
    verdict: Literal["better", "worse", "inconclusive"] = "inconclusive"
    if not reasons:
        verdict = "better" if gain.value > 0 else "worse"
    return PolicyEvaluation(
        estimates, logged, gain.value, interval, overlap, sensitivity, verdict, tuple(reasons)
    )


def _estimates(log: LoggedDecisions, limits: Sequence[float]) -> dict[str, OffPolicyEstimate]:
    middle = limits[len(limits) // 2]
    estimates = {"ips": ips(log), "clipped_ips": clipped_ips(log, middle), "snips": snips(log)}
    if log.expected is not None:
        estimates["direct_method"] = direct_method(log)
        estimates["doubly_robust"] = doubly_robust(log)
        estimates["self_normalised_doubly_robust"] = self_normalised_doubly_robust(log)
        estimates["switch_doubly_robust"] = switch_doubly_robust(log, middle)
        estimates["shrunk_doubly_robust"] = shrunk_doubly_robust(log, middle)
    return estimates


def _reasons(
    interval: Interval,
    gain: float,
    overlap: Overlap,
    sensitivity: Sequence[Sensitivity],
    least_effective: float,
) -> list[str]:
    reasons = []
    if interval.low <= 0 <= interval.high:
        reasons.append("the interval of the gain covers 0")
    if overlap.effective < least_effective:
        reasons.append(
            f"only {overlap.effective:.0f} effective decisions, fewer than {least_effective:g}"
        )
    mean = overlap.mean_weight_interval
    if not mean.low <= 1 <= mean.high:
        reasons.append(
            f"weights have a mean of {overlap.mean_weight:.3g} where 1 is expected: propensities"
            " are wrong, or the log does not cover the policy"
        )
    if any(clipped.gain * gain <= 0 for clipped in sensitivity):
        reasons.append("the sign of the gain depends on where weights are clipped")
    return reasons


def _sensitivity(
    log: LoggedDecisions, limit: float, logged: OffPolicyEstimate, confidence: float
) -> Sensitivity:
    # Without a model, clipped weights are divided by their mean: otherwise clipping would
    # look like a loss.
    if log.expected is None:
        estimate = snips(replace(log, target=np.minimum(log.target, limit * log.propensities)))
    else:
        estimate = doubly_robust(log, limit=limit)
    difference = estimate.minus(logged)
    share = float((log.weights > limit).mean())
    return Sensitivity(limit, share, difference.value, difference.interval(confidence))


def _effective(w: NDArray[np.float64]) -> float:
    squares = float((w**2).sum())
    return float(w.sum()) ** 2 / squares if squares else 0.0
