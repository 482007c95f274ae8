"""Effects say what an independent computation says, and raise few false alarms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tactful.experiment_metrics.effects import (
    Analysis,
    Planned,
    metric_effects,
    metric_guardrails,
    segment_effects,
    words_of,
)
from tactful.experiment_metrics.outcomes import MetricOutcomes, UnitOutcomes
from tactful.schemas.experiments.metrics import (
    MetricDefinition,
    MetricGuardrail,
    MetricPlan,
    SegmentDefinition,
)
from tactful.schemas.experiments.readouts import Effect

Floats = NDArray[np.float64]

BUYERS = MetricDefinition(name="buyers", kind="binary", events=("purchase",), window_ms=1)
SPEND = MetricDefinition(
    name="spend", kind="sum", events=("purchase",), value="properties.price", window_ms=1, cap=60
)
ORDERS = MetricDefinition(name="orders", kind="count", events=("purchase",), window_ms=1)
PER_ORDER = MetricDefinition(
    name="per_order", kind="ratio", numerator="spend", denominator="orders"
)
SLOW = MetricDefinition(
    name="slow", kind="quantile", events=("x.page",), value="properties.ms", window_ms=1,
    level=0.9, direction="lower",
)  # fmt: skip
_METRICS = {it.name: it for it in (BUYERS, SPEND, ORDERS, PER_ORDER, SLOW)}


def simulated(units: int, seed: int, *, lift: float = 0.0, share: float = 0.5) -> UnitOutcomes:
    """Return outcomes of units that were exposed one after another."""
    rng = np.random.default_rng(seed)
    arm = (rng.random(units) < share).astype(np.int64)
    taste = rng.gamma(2.0, 0.5, units)
    orders = rng.poisson(0.12 * taste * (1 + lift * arm)).astype(float)
    before = rng.poisson(0.12 * taste).astype(float)
    spend = np.clip(orders * rng.lognormal(3, 1, units), 0, 60)
    pages = rng.integers(1, 5, units)
    owners = np.repeat(np.arange(units), pages)
    columns: Mapping[str, tuple[Floats, Floats]] = {
        "buyers": ((orders > 0).astype(float), (before > 0).astype(float)),
        "spend": (spend, np.clip(before * 20, 0, 60)),
        "orders": (orders, before),
        "per_order": (spend, before),
        "slow": (pages.astype(float), before),
    }
    at, done = np.arange(units), np.ones(units, bool)
    found = {}
    for name, (values, earlier) in columns.items():
        more: dict[str, Any] = {"denominators": orders} if name == "per_order" else {}
        if name == "slow":
            more = {"event_units": owners, "event_values": rng.gamma(2, 100, len(owners))}
        found[name] = MetricOutcomes(_METRICS[name], at, done, values, earlier, **more)
    names = [f"u{number}" for number in range(units)]
    segments = {"even": at % 2 == 0, "odd": at % 2 == 1}
    return UnitOutcomes(("old", "new"), names, arm, at, found, segments, 0, 0)


def analysis_of(outcomes: UnitOutcomes, **plan: Any) -> Analysis:
    named = MetricPlan(experiment="e", **({"goals": tuple(_METRICS)} | plan))
    planned = Planned(frozenset(_METRICS), frozenset(("even", "odd")), cuped=True)
    return Analysis(outcomes, named, _METRICS, planned)


def by_metric(effects: list[Effect]) -> dict[str, Effect]:
    return {effect.metric: effect for effect in effects}


def test_effects_agree_with_an_independent_computation() -> None:
    outcomes = simulated(4_000, 1, lift=0.2)
    found = by_metric(metric_effects(analysis_of(outcomes)))
    control, treatment = outcomes.arm == 0, outcomes.arm == 1
    orders = outcomes.metrics["orders"].values
    welch = stats.ttest_ind(orders[treatment], orders[control], equal_var=False)
    low, high = welch.confidence_interval()
    assert found["orders"].difference == pytest.approx(
        orders[treatment].mean() - orders[control].mean()
    )
    assert found["orders"].fixed.low == pytest.approx(low, rel=1e-9)
    assert found["orders"].fixed.high == pytest.approx(high, rel=1e-9)

    shares = [outcomes.metrics["buyers"].values[arm].mean() for arm in (control, treatment)]
    assert found["buyers"].difference == pytest.approx(shares[1] - shares[0])
    spend = outcomes.metrics["spend"].values
    assert found["spend"].treatment.value == pytest.approx(spend[treatment].mean())
    ratios = [spend[arm].sum() / orders[arm].sum() for arm in (control, treatment)]
    assert found["per_order"].difference == pytest.approx(ratios[1] - ratios[0])
    # The error of a ratio by a jackknife over units, which uses no delta method.
    left_out = [(spend[arm].sum() - spend[arm]) / (orders[arm].sum() - orders[arm])
                for arm in (control, treatment)]  # fmt: skip
    errors = [(len(it) - 1) / len(it) * ((it - it.mean()) ** 2).sum() for it in left_out]
    width = 2 * 1.96 * sum(errors) ** 0.5
    fixed = found["per_order"].fixed
    assert fixed.low is not None and fixed.high is not None
    assert fixed.high - fixed.low == pytest.approx(width, rel=0.01)
    slow = outcomes.metrics["slow"]
    assert slow.event_units is not None and slow.event_values is not None
    expected = np.quantile(slow.event_values[treatment[slow.event_units]], 0.9)
    assert found["slow"].treatment.value == pytest.approx(expected)


def test_goals_are_corrected_together_and_guardrails_are_not() -> None:
    outcomes = simulated(3_000, 5, lift=0.35)
    raw = by_metric(metric_effects(analysis_of(outcomes, correction="none")))
    three = {"goals": ("buyers", "orders", "spend")}
    adjusted = by_metric(metric_effects(analysis_of(outcomes, **three)))
    p = sorted((raw[name].p or 0.0, name) for name in three["goals"])
    largest, expected = 0.0, {}
    for place, (value, name) in enumerate(p):
        largest = max(largest, min(1.0, value * (3 - place)))
        expected[name] = largest
    assert {name: adjusted[name].p for name in expected} == pytest.approx(expected)
    bh = by_metric(metric_effects(analysis_of(outcomes, correction="bh", **three)))
    controlled = stats.false_discovery_control([raw[name].p or 0.0 for name in three["goals"]])
    assert [bh[name].p for name in three["goals"]] == pytest.approx(list(controlled))
    guarded = by_metric(
        metric_effects(
            analysis_of(outcomes, goals=("buyers",), guardrails=(MetricGuardrail(metric="orders"),))
        )
    )
    assert guarded["orders"].p == raw["orders"].p
    assert guarded["orders"].role == "guardrail"


def test_goals_without_numbers_yet_count_in_the_correction() -> None:
    """At each look, p-values are those of a correction for all goals of the plan."""
    outcomes = simulated(3_000, 5, lift=0.35)
    (alone,) = metric_effects(analysis_of(outcomes, goals=("orders",)))
    late = replace(outcomes.metrics["buyers"], complete=np.zeros(3_000, bool))
    waiting = replace(outcomes, metrics={**outcomes.metrics, "buyers": late})
    for correction in ("holm", "bh"):
        two = analysis_of(waiting, goals=("orders", "buyers"), correction=correction)
        (effect,) = metric_effects(two)
        assert effect.p == pytest.approx(2 * (alone.p or 0.0)) and effect.p
    segments = tuple(SegmentDefinition(name=it, condition={}) for it in ("even", "odd"))
    one = analysis_of(outcomes, goals=("orders",), correction="none", segments=segments)
    raw = metric_effects(one, outcomes.segments["even"])[0].p or 0.0
    empty = {**outcomes.segments, "odd": np.zeros(3_000, bool)}
    (even, odd) = segment_effects(replace(one, outcomes=replace(outcomes, segments=empty)))
    assert odd.effects == [] and even.effects[0].p == pytest.approx(2 * raw)


def test_cuped_needs_to_be_planned_and_narrows_the_interval() -> None:
    outcomes = simulated(6_000, 2)
    planned = analysis_of(outcomes, goals=("orders",), cuped_ms=1)
    late = replace(planned, planned=replace(planned.planned, cuped=False))
    (adjusted,), (plain,) = metric_effects(planned), metric_effects(late)
    assert adjusted.adjusted and not plain.adjusted
    y, x = outcomes.metrics["orders"].values, outcomes.metrics["orders"].before
    slope = np.polyfit(x, y, 1)[0]
    rest = y - slope * (x - x.mean())
    means = [rest[outcomes.arm == arm].mean() for arm in (0, 1)]
    assert adjusted.difference == pytest.approx(means[1] - means[0], rel=1e-6)
    widths = [it.fixed.high - it.fixed.low for it in (adjusted, plain)]  # type: ignore[operator]
    assert widths[0] < widths[1]


def test_too_few_outcomes_give_no_verdict() -> None:
    outcomes = simulated(300, 3, lift=3.0)
    few = msgspec.structs.replace(BUYERS, minimum_outcomes=1_000)
    found = replace(outcomes.metrics["buyers"], metric=few)
    analysis = analysis_of(replace(outcomes, metrics={"buyers": found}), goals=("buyers",))
    (effect,) = metric_effects(analysis)
    assert (effect.verdict, effect.p, effect.minimum_outcomes) == ("too few data", 1.0, 1_000)


def test_segments_that_came_later_are_exploratory() -> None:
    outcomes = simulated(4_000, 4, lift=0.5)
    segments = tuple(SegmentDefinition(name=it, condition={}) for it in ("even", "odd"))
    analysis = analysis_of(outcomes, goals=("orders",), segments=segments)
    late = replace(analysis, planned=replace(analysis.planned, segments=frozenset({"even"})))
    even, odd = segment_effects(late)
    assert (even.exploratory, odd.exploratory) == (False, True)
    assert all(effect.exploratory for effect in odd.effects)
    assert even.people["old"] + even.people["new"] == 2_000


def test_guardrails_name_harm() -> None:
    harmed = analysis_of(
        simulated(8_000, 7, lift=-0.8),
        goals=("buyers",),
        guardrails=(MetricGuardrail(metric="orders", margin=0.02),),
    )
    (point,) = metric_guardrails(harmed, 8_000)
    assert point.verdict == "harm" and point.loss is not None and point.loss.low is not None
    assert point.loss.low > 0.02
    (early,) = metric_guardrails(harmed, 100)
    assert early.verdict == "too few data"


def test_a_metric_without_words_is_described() -> None:
    assert words_of(BUYERS) == "share of users with purchase"
    assert words_of(PER_ORDER) == "spend over orders"
    net = msgspec.structs.replace(
        SPEND, times="properties.months", minus=("refund",), filter={"properties.currency": "CNY"}
    )
    assert words_of(net) == (
        "sum of properties.price × properties.months of a user's purchase less refund, filtered"
    )


def false_alarms(experiments: int, *, units: int, looks: int) -> int:
    """Count equal arms of which some look at some goal claims a difference; seeds from 20,000."""
    alarms = 0
    for seed in range(experiments):
        outcomes = simulated(units, 20_000 + seed)
        analysis = analysis_of(outcomes, goals=("buyers", "spend", "orders", "per_order"))
        for look in range(1, looks + 1):
            effects = metric_effects(analysis, outcomes.exposed_at < units * look // looks)
            if any(effect.verdict in ("higher", "lower") for effect in effects):
                alarms += 1
                break
    return alarms


def test_equal_arms_rarely_differ_at_any_look() -> None:
    # At 5 %, more than 10 of 100 have a probability of 1 %.
    assert false_alarms(100, units=2_000, looks=8) <= 10


@pytest.mark.slow  # 500 experiments take 15 seconds
def test_equal_arms_rarely_differ_in_500_experiments() -> None:
    assert false_alarms(500, units=3_000, looks=10) <= 39  # 5 % and three standard errors, 0.97 %
