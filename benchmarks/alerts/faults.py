"""Faults for each packaged rule, and the scrape that first shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.alerts.shop import BEGIN, HISTORY_WEEKS, WEEKS, Faults, Registry, Traffic
from tactful.schemas.alerts import AlertRule, ThresholdRule, milliseconds

FAULTS: Mapping[str, Sequence[Faults]] = {
    "ingest_errors": [Faults(rejected=share) for share in (0.25, 0.5, 1.0)],
    "server_errors": [Faults(failed=share) for share in (0.3, 0.6, 1.0)],
    "dead_letters": [Faults(dropped=share) for share in (0.5, 0.8, 1.0)],
    "log_unreachable": [Faults(gauges={"tactful_log_unreachable": 1.0})],
    "traffic": [Faults(traffic=share) for share in (0.0, 0.02, 0.05)],
    "engine_lag": [Faults(gauges={"tactful_engine_lag": lag}) for lag in (6e4, 2e5)],
    "watermark_stalled": [Faults(gauges={"tactful_watermark_stalled_seconds": 700.0})],
    "flink_job": [Faults(gauges={"tactful_flink_job_failing": 1.0})],
    "stale_features": [Faults(slow=share) for share in (0.3, 0.6, 1.0)],
    "commits_refused": [Faults(refused_commits=rate) for rate in (4.0, 12.0)],
    "recall": [Faults(short=share) for share in (0.6, 0.8, 1.0)],
    "recommendation_scores": [Faults(flat_scores=True)],
    "ctr": [Faults(clicks=share) for share in (0.0, 0.05)],
    "conversion": [Faults(purchases=share) for share in (0.0, 0.02)],
    "released_ctr": [Faults(clicks=0.0)],
    "impressions_lost": [Faults(lost=share) for share in (0.5, 1.0)],
    "model_age": [Faults(gauges={"tactful_model_age_days": 40.0})],
    "rollout_rolled_back": [Faults(gauges={"tactful_rollouts_rolled_back": 1.0})],
    "budget": [Faults(gauges={"tactful_budget_reserved_share": 0.95})],
    "federated_rounds": [Faults(failed_rounds=rate) for rate in (0.5, 2.0)],
    "disk": [Faults(gauges={"tactful_disk_free_share": share}) for share in (0.08, 0.01)],
    "certificates": [Faults(gauges={"tactful_certificate_days": days}) for days in (13.0, 0.0)],
    "webhooks": [Faults(gauges={"tactful_webhooks_buried": 1.0})],
    "alert_messages": [Faults(gauges={"tactful_alert_sinks_failing": 1.0})],
}
"""What goes wrong, in several strengths."""

LONGEST_MIN: Mapping[str, int] = {"ctr": 240, "conversion": 240, "recommendation_scores": 240}
"""Minutes for which a fault is followed; `SOON_MIN` for the others."""

SOON_MIN = 90


@dataclass(frozen=True)
class Injection:
    """A fault of a rule at a minute."""

    rule: str
    fault: Faults
    minute: int


def plan(
    rules: Sequence[AlertRule], traffic: Traffic, each: int, draw: np.random.Generator
) -> list[Injection]:
    """Draw `each` injections for every rule, at minutes of the eight weeks when the shop is busy.

    A fault of what people do can only be seen while people do it: from ten to one o'clock on days
    with at least 800 lines in the three hours from then on.
    """
    days = range(HISTORY_WEEKS * 7, WEEKS * 7)
    hours = traffic.lines.reshape(-1, 60).sum(axis=1)
    busy = [day for day in days if hours[day * 24 + 10 : day * 24 + 15].min() >= 250]
    injections = []
    for rule in rules:
        for number in range(each):
            minute = int(draw.choice(busy)) * 1440 + int(draw.integers(10 * 60, 12 * 60))
            strengths = FAULTS[rule.name]
            injections.append(Injection(rule.name, strengths[number % len(strengths)], minute))
    return sorted(injections, key=lambda it: it.minute)


class FirstShown:
    """Finds the scrape that first shows a fault, from the plain numbers and without the engine.

    For a threshold it is the first scrape whose value, over the span of the rule, lies beyond the
    level; of an anomaly or drift, the first whose whole span lies in the fault.
    """

    def __init__(self, rule: AlertRule) -> None:
        """Watch for a rule."""
        self._rule = rule
        self._span_s = milliseconds(rule.value.within) / 1000
        self._scrapes: list[tuple[float, float, float]] = []

    def shows(self, second: float, registry: Registry) -> bool:
        """Return whether the scrape `second` seconds after the fault began shows it."""
        rule = self._rule
        if not isinstance(rule, ThresholdRule):
            return second >= self._span_s
        signal = rule.value
        if signal.statistic:
            return second > 0
        if signal.change == "none":
            return _beyond(rule, registry.gauges[signal.metric])
        part = self._sum(registry, signal.labels)
        whole = 0.0
        if signal.share_of is not None:
            whole = self._sum(registry, signal.share_of, signal.whole)
        self._scrapes.append((second, part, whole))
        _, part_before, whole_before = (
            next(it for it in reversed(self._scrapes) if it[0] <= second - self._span_s)
            if self._scrapes[0][0] <= second - self._span_s
            else self._scrapes[0]
        )
        if signal.share_of is None:
            return _beyond(rule, part - part_before)
        grown = whole - whole_before
        return grown > 0 and grown >= signal.least and _beyond(rule, (part - part_before) / grown)

    def _sum(self, registry: Registry, wanted: Mapping[str, str], metric: str = "") -> float:
        def fits(value: str, pattern: str) -> bool:
            return value[:1] in "se" if pattern == "[se]*" else value == pattern

        return sum(
            total
            for (name, labels), total in registry.totals.items()
            if name == (metric or self._rule.value.metric)
            and all(fits(dict(labels)[label], pattern) for label, pattern in wanted.items())
        )


def _beyond(rule: ThresholdRule, value: float) -> bool:
    if rule.above is not None:
        return value > rule.above
    return rule.below is not None and value < rule.below


def day_of(minute: int) -> str:
    """Return the day and time of a minute, for a report."""
    return f"{np.datetime64(int(BEGIN.timestamp()) // 60 + minute, 'm')}"
