"""Compute the effect of an arm on each metric, with intervals, chance to win and expected loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tactful.experiments.metrics import METRICS, Metric
from tactful.experiments.readout import comparable, revenue_cap
from tactful.schemas.experiments.readouts import (
    ArmLevel,
    Bounds,
    Effect,
    EffectPoint,
    GuardrailPoint,
)
from tactful_bandits.analysis.bayesian import posterior
from tactful_bandits.analysis.comparison import (
    Comparison,
    Estimate,
    Interval,
    compare,
    fixed_horizon_interval,
    level,
)
from tactful_bandits.analysis.multiplicity import holm
from tactful_bandits.analysis.samples import Sample
from tactful_bandits.analysis.skewed_means import (
    SkewedMean,
    capped_at,
    common_cap,
    compare_skewed,
)
from tactful_bandits.rollouts.guardrails import check_guardrails
from tactful_bandits.rollouts.plan import RolloutPlan

Samples = Mapping[str, Sample]
"""Outcomes of one arm by metric."""


def effects_of(
    control: str,
    arms: Mapping[str, Samples],
    *,
    alpha: float = 0.05,
    metrics: Mapping[str, Metric] = METRICS,
) -> list[Effect]:
    """Compare every arm with the control on each metric that both have.

    `alpha` is the probability that an interval misses the truth, each by itself, and that any
    verdict reports a difference that does not exist, all together (Holm), at any number of looks.
    """
    base = arms.get(control, {})
    compared = {
        (arm, metric): (_compare(base[metric], treatment[metric], alpha), _cap(base, treatment))
        for arm, treatment in arms.items()
        if arm != control
        for metric in metrics
        if comparable(metric, base, treatment)
    }
    adjusted = holm([comparison.anytime_p for comparison, _ in compared.values()])
    effects = []
    for ((arm, metric), (comparison, cap)), p in zip(compared.items(), adjusted, strict=True):
        verdict = "inconclusive"
        if p < alpha:
            verdict = "higher" if comparison.estimate.value > 0 else "lower"
        levels = [
            _level(name, samples[metric], cap, alpha)
            for name, samples in ((control, base), (arm, arms[arm]))
        ]
        effects.append(
            _effect((metric, metrics[metric]), comparison, (levels[0], levels[1]), verdict, cap)
        )
    return effects


def effect_points(
    at: int,
    control: str,
    arms: Mapping[str, Samples],
    *,
    alpha: float = 0.05,
    metrics: Mapping[str, Metric] = METRICS,
) -> list[EffectPoint]:
    """Return the effects at one time, for a chart over time."""
    base = arms.get(control, {})
    points = []
    for arm, treatment in arms.items():
        for metric in metrics:
            if arm == control or not comparable(metric, base, treatment):
                continue
            found = _compare(base[metric], treatment[metric], alpha)
            points.append(
                EffectPoint(
                    at=at,
                    arm=arm,
                    metric=metric,
                    difference=found.estimate.value,
                    anytime=bounds(found.anytime),
                    people=found.estimate.units,
                )
            )
    return points


def guardrail_points(
    at: int, plan: RolloutPlan, pairs: Mapping[str, tuple[Sample, Sample] | None]
) -> list[GuardrailPoint]:
    """Judge the guardrails of a plan at one time, as a look does."""
    points = []
    looks = check_guardrails(
        plan.guardrails, pairs, alpha=plan.stage_alpha, tightest_at=plan.tightest_at
    )
    for look in looks:
        guard, pair = look.guardrail, pairs[look.guardrail.metric]
        loss = None
        if look.loss is not None and pair is not None:
            # The loss beyond the margin, in units of the metric, becomes a share of the control.
            scale = abs(_judged_value(*pair))
            ends = (look.loss.low, look.loss.high)
            shares = [end / scale + guard.margin if scale else math.nan for end in ends]
            loss = Bounds(low=_finite(shares[0]), high=_finite(shares[1]))
        points.append(
            GuardrailPoint(
                at=at, metric=guard.metric, verdict=look.verdict, loss=loss, margin=guard.margin
            )
        )
    return points


def bounds(interval: Interval) -> Bounds:
    """Return an interval as a message; an infinite end is None."""
    return Bounds(low=_finite(interval.low), high=_finite(interval.high))


def relative_to(control: float, difference: float) -> float | None:
    """Return a difference as a share of the control's value; None of a control of 0."""
    return _finite(difference / abs(control)) if control else None


def chances(
    estimate: Estimate, *, higher_is_better: bool = True
) -> tuple[float | None, float | None, float | None]:
    """Return chance to win, and expected losses of choosing treatment and control.

    By a flat prior, for one look; None without variation.
    """
    if not estimate.standard_error > 0:
        return None, None, None
    belief = posterior(estimate)
    of_control, of_treatment = belief.risk(higher_is_better=higher_is_better)
    return belief.chance_to_win(higher_is_better=higher_is_better), of_treatment, of_control


def _compare(control: Sample, treatment: Sample, alpha: float) -> Comparison:
    if isinstance(control, SkewedMean) and isinstance(treatment, SkewedMean):
        return compare_skewed(control, treatment, cap=revenue_cap(control, treatment), alpha=alpha)
    return compare(control, treatment, alpha=alpha)


def _cap(*arms: Samples) -> float | None:
    """Return the cap of the arms' revenue; None without any."""
    spent: Sequence[Sample | None] = [arm.get("revenue") for arm in arms]
    return revenue_cap(*(sample for sample in spent if isinstance(sample, SkewedMean)))


def _judged_value(control: Sample, treatment: Sample) -> float:
    """Return the control's value as guardrails judge it: skewed outcomes are capped."""
    if isinstance(control, SkewedMean) and isinstance(treatment, SkewedMean):
        return capped_at(common_cap(control, treatment), control).value
    return control.value


def _level(arm: str, sample: Sample, cap: float | None, alpha: float) -> ArmLevel:
    if isinstance(sample, SkewedMean) and cap is not None:
        sample = capped_at(cap, sample)
    found = level(sample)
    return ArmLevel(
        arm=arm,
        value=found.value,
        interval=bounds(fixed_horizon_interval(found, alpha=alpha)),
        people=found.units,
    )


def _effect(
    named: tuple[str, Metric],
    compared: Comparison,
    levels: tuple[ArmLevel, ArmLevel],
    verdict: str,
    cap: float | None,
) -> Effect:
    (metric, about), estimate = named, compared.estimate
    chance, of_treatment, of_control = chances(estimate, higher_is_better=about.better == "higher")
    return Effect(
        metric=metric,
        words=about.words,
        better=about.better,
        control=levels[0],
        treatment=levels[1],
        difference=estimate.value,
        relative=relative_to(levels[0].value, estimate.value),
        fixed=bounds(compared.fixed_horizon),
        anytime=bounds(compared.anytime),
        chance_to_win=chance,
        loss_of_treatment=of_treatment,
        loss_of_control=of_control,
        verdict=verdict,
        cap=cap if metric == "revenue" else None,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
