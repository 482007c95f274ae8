"""Compare the arms of an experiment on its metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import msgspec
import numpy as np

from tactful.experiment_metrics.outcomes import MetricOutcomes, Truths, UnitOutcomes
from tactful.experiments.effects import bounds, chances, relative_to
from tactful.schemas.experiments.metrics import Correction, MetricDefinition, MetricPlan
from tactful.schemas.experiments.readouts import (
    ArmLevel,
    Bounds,
    Effect,
    EffectPoint,
    GuardrailPoint,
    SegmentEffects,
)
from tactful_bandits.analysis.comparison import (
    Comparison,
    compare,
    conclude,
    fixed_horizon_interval,
    level,
)
from tactful_bandits.analysis.cuped import Paired, adjusted_difference
from tactful_bandits.analysis.multiplicity import benjamini_hochberg, holm
from tactful_bandits.analysis.samples import Mean, Proportion, Quantile, Ratio, Sample
from tactful_bandits.analysis.skewed_means import SkewedMean, compare_skewed
from tactful_bandits.errors import StatisticsError
from tactful_bandits.rollouts.guardrails import Guardrail, GuardrailLook, check_guardrails

_CORRECTIONS: Mapping[Correction, Callable[[Sequence[float]], tuple[float, ...]]] = {
    "holm": holm,
    "bh": benjamini_hochberg,
    "none": lambda p_values: tuple(p_values),
}
_WORST_FIRST = ("harm", "undecided", "too few data", "no harm")
_KINDS: Mapping[str, str] = {
    "binary": "share of users with {events}",
    "count": "{events} of a user",
    "sum": "sum of {value} of a user's {events}",
    "ratio": "{numerator} over {denominator}",
    "quantile": "{level:g} quantile of {value} of {events}",
    "retention": "share of users who come back",
}


@dataclass(frozen=True)
class Planned:
    """Parts of an analysis that were fixed before the first exposure."""

    metrics: frozenset[str] = frozenset()  # names of metrics
    segments: frozenset[str] = frozenset()  # names of segments
    cuped: bool = False


@dataclass(frozen=True)
class Analysis:
    """Outcomes of an experiment, and how they are compared."""

    outcomes: UnitOutcomes
    plan: MetricPlan
    metrics: Mapping[str, MetricDefinition]
    planned: Planned = field(default_factory=Planned)


@dataclass(frozen=True)
class Compared:
    """One arm on one metric."""

    metric: MetricDefinition
    control: str
    arm: str
    pair: tuple[Sample, Sample]
    comparison: Comparison
    outcomes: int  # units with an outcome in the arm that has fewer
    adjusted: bool = False


def metric_effects(analysis: Analysis, within: Truths | None = None) -> list[Effect]:
    """Compare every arm with the control on each metric of the plan.

    `within` selects units; None for all.
    """
    plan = analysis.plan
    found = [it for name in plan.roles for it in _compared(analysis, name, within)]
    return effects_of_plan(found, plan, analysis.outcomes.arms, analysis.planned)


def effects_of_plan(
    found: Sequence[Compared], plan: MetricPlan, arms: Sequence[str], planned: Planned
) -> list[Effect]:
    """Return comparisons, in the order of the plan's metrics, as effects with verdicts.

    Verdicts of the goals are corrected together, and so are those of the secondary metrics. A
    metric without a comparison yet counts, too: otherwise a goal with a short window would be
    judged as the only one until the others follow, and the false claims of all looks would add up.
    """
    roles = plan.roles
    effects: list[Effect] = []
    for role, same in groupby(found, key=lambda it: roles[it.metric.name]):
        group = list(same)
        family = [*roles.values()].count(role) * (len(arms) - 1)
        correction: Correction = "none" if role == "guardrail" else plan.correction
        adjusted = _corrected(correction, [_p_value(it) for it in group], family)
        effects += [
            _effect(it, p, plan.alpha, role, it.metric.name not in planned.metrics)
            for it, p in zip(group, adjusted, strict=True)
        ]
    return effects


def segment_effects(analysis: Analysis) -> list[SegmentEffects]:
    """Compare the arms on the goals in each segment.

    Verdicts are corrected by Holm for all goals, arms and segments that were defined before the
    start, and apart for those that were not; comparisons without enough units count, too.
    """
    outcomes, planned = analysis.outcomes, analysis.planned.segments
    goals = msgspec.structs.replace(
        analysis.plan, guardrails=(), secondary=(), correction="none", cuped_ms=0
    )
    only_goals = replace(analysis, plan=goals)
    found = []
    for name, within in outcomes.segments.items():
        counts = np.bincount(outcomes.arm[within], minlength=len(outcomes.arms))
        found.append(
            SegmentEffects(
                segment=name,
                exploratory=name not in planned,
                people=dict(zip(outcomes.arms, map(int, counts), strict=True)),
                effects=metric_effects(only_goals, within),
            )
        )
    corrected = []
    for exploratory in (False, True):
        alike = [it for it in found if it.exploratory == exploratory]
        family = len(alike) * len(goals.goals) * (len(outcomes.arms) - 1)
        known = [effect.p or 0.0 for it in alike for effect in it.effects]
        p_values = iter(_corrected("holm", known, family))
        for segment in alike:
            effects = [
                _with_p(effect, next(p_values), analysis.plan.alpha, exploratory)
                for effect in segment.effects
            ]
            corrected.append(msgspec.structs.replace(segment, effects=effects))
    return corrected


def metric_points(analysis: Analysis, at: int) -> list[EffectPoint]:
    """Return the effects of the units that were complete at a time, epoch milliseconds."""
    return [
        EffectPoint(
            at=at,
            arm=it.arm,
            metric=it.metric.name,
            difference=it.comparison.estimate.value,
            anytime=bounds(it.comparison.anytime),
            people=it.comparison.estimate.units,
        )
        for name in analysis.plan.roles
        for it in _compared(analysis, name, _complete_by(analysis.outcomes.metrics[name], at))
    ]


def metric_guardrails(analysis: Analysis, at: int) -> list[GuardrailPoint]:
    """Judge the guardrails of each arm at a time; with several arms, the worst one counts."""
    points = []
    for guard in analysis.plan.guardrails:
        outcomes = analysis.outcomes.metrics[guard.metric]
        metric = outcomes.metric
        judged = Guardrail(
            guard.metric,
            better=metric.direction,
            margin=guard.margin,
            minimum_outcomes=metric.minimum_outcomes,
            smallest_loss=None,
        )
        looks = []
        for it in _compared(analysis, guard.metric, _complete_by(outcomes, at), adjust=False):
            control, treatment = map(plain_mean, it.pair)
            pair = None if it.outcomes < metric.minimum_outcomes else (control, treatment)
            (look,) = check_guardrails(
                [judged], {guard.metric: pair}, alpha=analysis.plan.alpha / _others(analysis)
            )
            looks.append((look, abs(control.value)))
        points += [_worst(at, looks)] if looks else []
    return points


def words_of(metric: MetricDefinition) -> str:
    """Describe a metric: by its own words, or by its definition."""
    if metric.words:
        return metric.words
    values = {
        "events": " or ".join(metric.events),
        "value": f"{metric.value} × {metric.times}" if metric.times else metric.value,
        "numerator": metric.numerator,
        "denominator": metric.denominator,
        "level": metric.level or 0.0,
    }
    words = _KINDS[metric.kind].format(**values)
    words += f" less {' and '.join(metric.minus)}" if metric.minus else ""
    return f"{words}, filtered" if metric.filter else words


def arm_sample(outcomes: MetricOutcomes, units: Truths) -> Sample | None:
    """Return the outcomes of some units as a sample; None if they are too few."""
    units = units & outcomes.complete
    values = outcomes.values[units]
    count = len(values)
    if count < 2:
        return None
    kind, metric = outcomes.metric.kind, outcomes.metric
    try:
        if kind in ("binary", "retention"):
            return Proportion(count, int(values.sum()))
        if kind == "ratio" and outcomes.denominators is not None:
            return Ratio.from_units(values, outcomes.denominators[units])
        if outcomes.event_units is not None and outcomes.event_values is not None:
            counted = units[outcomes.event_units]
            return Quantile.from_events(
                outcomes.event_values[counted], outcomes.event_units[counted], metric.level or 0.5
            )
        if metric.cap is not None and values.min() >= 0:
            return SkewedMean.from_units(values)
        return Mean.from_units(values)
    except StatisticsError:  # a ratio over nothing, or a quantile beyond all values
        return None


def _compared(
    analysis: Analysis, name: str, within: Truths | None = None, *, adjust: bool = True
) -> list[Compared]:
    """Compare each arm that has enough units with the control on one metric."""
    outcomes = analysis.outcomes.metrics[name]
    arms, of_unit = analysis.outcomes.arms, analysis.outcomes.arm
    chosen = np.ones(len(of_unit), bool) if within is None else within
    control_units = chosen & (of_unit == 0)
    control = arm_sample(outcomes, control_units)
    found: list[Compared] = []
    if control is None:
        return found
    for number, arm in enumerate(arms[1:], 1):
        units = chosen & (of_unit == number)
        treatment = arm_sample(outcomes, units)
        if treatment is None or not (control.variance > 0 or treatment.variance > 0):
            continue
        pair, alpha, cap = (control, treatment), analysis.plan.alpha, outcomes.metric.cap
        is_adjusted = adjust and _can_adjust(analysis, outcomes.metric)
        if is_adjusted:
            comparison = conclude(
                adjusted_difference(*(_paired(outcomes, it) for it in (control_units, units))),
                alpha=alpha,
            )
        else:
            comparison = _compare(*pair, cap, alpha)
        least = min(_with_outcome(outcomes, it) for it in (control_units, units))
        found.append(Compared(outcomes.metric, arms[0], arm, pair, comparison, least, is_adjusted))
    return found


def _compare(control: Sample, treatment: Sample, cap: float | None, alpha: float) -> Comparison:
    if isinstance(control, SkewedMean) and isinstance(treatment, SkewedMean):
        return compare_skewed(control, treatment, cap=cap, alpha=alpha)
    return compare(control, treatment, alpha=alpha)


def _can_adjust(analysis: Analysis, metric: MetricDefinition) -> bool:
    """Return whether CUPED was planned before the start and fits a metric."""
    planned = analysis.plan.cuped_ms > 0 and analysis.planned.cuped
    return planned and metric.kind in ("binary", "count", "sum")


def _paired(outcomes: MetricOutcomes, units: Truths) -> Paired:
    complete = units & outcomes.complete
    return Paired.from_units(outcomes.values[complete], outcomes.before[complete])


def _with_outcome(outcomes: MetricOutcomes, units: Truths) -> int:
    """Count the units with an outcome; of a share, those with the rarer of both outcomes."""
    values = outcomes.values[units & outcomes.complete]
    if outcomes.denominators is not None:
        return int(np.count_nonzero(outcomes.denominators[units & outcomes.complete]))
    counted = int(np.count_nonzero(values))
    if outcomes.metric.kind in ("binary", "retention"):
        return min(counted, len(values) - counted)
    return counted


def _complete_by(outcomes: MetricOutcomes, at: int) -> Truths:
    by_then: Truths = outcomes.complete_at <= at
    return by_then


def _others(analysis: Analysis) -> int:
    return max(1, len(analysis.plan.guardrails) * (len(analysis.outcomes.arms) - 1))


def plain_mean(sample: Sample) -> Sample:
    """Return a sample whose cap is fixed, and so needs no further cap from the data."""
    if isinstance(sample, SkewedMean):
        return Mean(sample.units, sample.total, sample.squares)
    return sample


def _worst(at: int, looks: Sequence[tuple[GuardrailLook, float]]) -> GuardrailPoint:
    """Return the look at the arm that fares worst; the loss is a share of the control's value."""
    look, scale = min(looks, key=lambda it: _WORST_FIRST.index(it[0].verdict))
    guard, loss = look.guardrail, None
    if look.loss is not None and scale:
        low, high = (end / scale + guard.margin for end in (look.loss.low, look.loss.high))
        loss = Bounds(
            low=low if math.isfinite(low) else None, high=high if math.isfinite(high) else None
        )
    return GuardrailPoint(
        at=at, metric=guard.metric, verdict=look.verdict, loss=loss, margin=guard.margin
    )


def _corrected(correction: Correction, p_values: Sequence[float], family: int) -> tuple[float, ...]:
    """Correct p-values for a number of comparisons, of which those that are missing have a 1."""
    missing = [1.0] * (family - len(p_values))
    return _CORRECTIONS[correction]([*p_values, *missing])[: len(p_values)]


def _p_value(compared: Compared) -> float:
    """Return the p-value of a comparison; 1 if its outcomes are too few for a verdict."""
    enough = compared.outcomes >= compared.metric.minimum_outcomes
    return compared.comparison.anytime_p if enough else 1.0


def _effect(compared: Compared, p: float, alpha: float, role: str, exploratory: bool) -> Effect:
    metric, estimate = compared.metric, compared.comparison.estimate
    control, treatment = map(plain_mean, compared.pair)
    chance, of_treatment, of_control = chances(
        estimate, higher_is_better=metric.direction == "higher"
    )
    effect = Effect(
        metric=metric.name,
        words=words_of(metric),
        better=metric.direction,
        control=_level(compared.control, control, alpha),
        treatment=_level(compared.arm, treatment, alpha),
        difference=estimate.value,
        relative=relative_to(control.value, estimate.value),
        fixed=bounds(compared.comparison.fixed_horizon),
        anytime=bounds(compared.comparison.anytime),
        chance_to_win=chance,
        loss_of_treatment=of_treatment,
        loss_of_control=of_control,
        verdict="",
        cap=metric.cap,
        role=role,
        outcomes=compared.outcomes,
        minimum_outcomes=metric.minimum_outcomes,
        adjusted=compared.adjusted,
    )
    return _with_p(effect, p, alpha, exploratory)


def _with_p(effect: Effect, p: float, alpha: float, exploratory: bool) -> Effect:
    """Return an effect with a corrected p-value, and the verdict by it."""
    verdict = "inconclusive"
    if (effect.outcomes or 0) < (effect.minimum_outcomes or 0):
        verdict = "too few data"
    elif p < alpha:
        verdict = "higher" if effect.difference > 0 else "lower"
    exploratory = exploratory or effect.exploratory
    return msgspec.structs.replace(effect, p=p, verdict=verdict, exploratory=exploratory)


def _level(arm: str, sample: Sample, alpha: float) -> ArmLevel:
    found = level(sample)
    return ArmLevel(
        arm=arm,
        value=found.value,
        interval=bounds(fixed_horizon_interval(found, alpha=alpha)),
        people=found.units,
    )
