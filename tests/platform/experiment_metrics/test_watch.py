"""Harm of a guardrail is recorded once, and an alert follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from tests.platform.experiment_metrics.naive import BEGIN, DAY, HOUR
from tests.platform.experiment_metrics.test_readout import acted, exposure
from tests.platform.memory_log import log_of
from tests.platform.shop import Clock

from tactful.alerts.decisions import read_decisions
from tactful.alerts.rules import load_alerts
from tactful.experiment_metrics.definitions import load_metrics
from tactful.experiment_metrics.readout import MetricReadOuts
from tactful.experiment_metrics.registrations import MetricRegistrations
from tactful.experiment_metrics.watch import HARM_FOUND, MetricWatch
from tactful.experiments.baseline import ExactOutcomes
from tactful.metadata.audit import AuditTrail
from tactful.metadata.store import MetadataStore
from tactful.schemas.alerts import DecisionRule
from tactful_streaming.contract.log_entries import Event

TEXT = """
metrics:
  - {name: taps, kind: count, event: x.tap, window: 1d}
  - {name: buyers, kind: binary, event: purchase, window: 1d}
experiments:
  - {experiment: 结账, goals: [buyers], guardrails: [taps], arms: {旧: 0.5, 新: 0.5}}
  - {experiment: unknown, goals: [buyers], guardrails: [taps]}
"""


def harmed(units: int) -> list[Event]:
    made = []
    for number in range(units):
        arm = "旧新"[number % 2]
        made.append(exposure(number, BEGIN + number, arm))
        if arm == "旧" or number % 8 == 1:
            made.append(acted(number, BEGIN + HOUR, "x.tap"))
    return sorted(made, key=lambda event: event.timestamp)


def read_outs_of(metadata: MetadataStore, made: Sequence[Event], clock: Clock) -> MetricReadOuts:
    return MetricReadOuts(
        lambda: load_metrics(TEXT),
        MetricRegistrations(metadata, clock=clock),
        ExactOutcomes(lambda: [log_of(made)]),
        clock=clock,
    )


def watch_of(
    metadata: MetadataStore, made: Sequence[Event], clock: Clock, rollouts: Sequence[str] = ()
) -> MetricWatch:
    read_outs = read_outs_of(metadata, made, clock)
    return MetricWatch(read_outs, metadata, clock=clock, rollouts=lambda: rollouts)


def test_looks_at_guardrails_lose_no_unit_as_time_goes_on(sqlite: MetadataStore) -> None:
    clock = Clock()
    clock.at = BEGIN + DAY
    read_outs = read_outs_of(sqlite, harmed(40), clock)
    assert read_outs.register(by="ann") == ["结账", "unknown"]
    early = read_outs.of_recorded("结账")
    clock.at = BEGIN + 60 * DAY
    late = read_outs.of_recorded("结账")
    assert early.since == late.since == BEGIN - 27 * DAY
    assert early.sample_ratio.people == late.sample_ratio.people == {"旧": 20, "新": 20}
    assert read_outs.of_key("结账", days=28).sample_ratio.people == {"旧": 0, "新": 0}


def test_a_changed_file_is_recorded_before_the_hour_is_over(sqlite: MetadataStore) -> None:
    clock, read_outs = Clock(), read_outs_of(sqlite, [], Clock())
    changes = [False, True, False]
    watch = MetricWatch(read_outs, sqlite, clock=clock, changed=lambda: changes.pop(0))
    watch.run()
    assert read_outs.index().experiments[0].registered_by == ""
    watch.run()
    watch.run()
    assert read_outs.index().experiments[0].registered_by == "tactful serve"


def test_harm_is_recorded_once_and_becomes_an_alert(sqlite: MetadataStore) -> None:
    clock = Clock()
    clock.at = BEGIN + 2 * DAY
    watch = watch_of(sqlite, harmed(2_000), clock)
    assert watch.run() == [], "an hour is not over"
    clock.at += 2 * HOUR
    assert watch.run() == ["结账"]
    clock.at += 2 * HOUR
    assert watch.run() == [], "it is known"
    trail = AuditTrail(sqlite, clock=clock)
    (entry,), _ = trail.entries(action=HARM_FOUND)
    assert (entry.actor, entry.target, entry.detail) == ("system", "结账", "guardrail taps")
    rule = DecisionRule(name="harm", summary="Harm was found", actions=["experiment.harm*"])
    (decision,) = read_decisions(trail, [rule], 0)
    assert "结账 (by a rule)" in decision.message and "taps" in decision.message


def test_rollouts_and_harmless_experiments_are_left_alone(sqlite: MetadataStore) -> None:
    clock = Clock()
    clock.at = BEGIN + 2 * DAY
    for made, rollouts in ((harmed(2_000), ["结账"]), (harmed(40), [])):
        watch = watch_of(sqlite, made, clock, rollouts)
        clock.at += 2 * HOUR
        assert watch.run() == []


def test_a_packaged_rule_sends_harm_to_the_routes_of_alerts() -> None:
    rules = [rule for rule in load_alerts().rules if isinstance(rule, DecisionRule)]
    assert any(fnmatchcase(HARM_FOUND, action) for rule in rules for action in rule.actions)
