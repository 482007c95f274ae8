"""Metrics of `metrics.yaml` as guardrails of rollouts: `{metric: own.NAME}`.

They are judged at every look by the same confidence sequences as the built-in ones. A look reads
only the records since the look before; a user counts once the metric's window is over.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from tactful.errors import ConfigError
from tactful.experiment_metrics.columns import LogColumns, ReadSpan
from tactful.experiment_metrics.definitions import MetricSet
from tactful.experiment_metrics.effects import arm_sample, plain_mean
from tactful.experiment_metrics.outcomes import UnitOutcomes, unit_outcomes
from tactful.experiment_metrics.readout import MetricReadOuts, Question, times_of
from tactful.experiments.controller import SETTLE_MS, OwnOutcomes
from tactful.experiments.definitions import CHANGE, CONTROL, OWN, RolloutDefinition
from tactful.experiments.effects import guardrail_points
from tactful.experiments.store import StoredRollout
from tactful.schemas.experiments.metrics import MetricDefinition, MetricPlan
from tactful.schemas.experiments.readouts import ReadOutMessage
from tactful_bandits.analysis.samples import Sample
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.log.event_log import EventLog

_FOREVER = 2**62  # events of any time; the outcomes of a look end at its time


def check_own(definition: RolloutDefinition, metrics: MetricSet) -> None:
    """Check the own metrics of a rollout's guardrails.

    Raises:
        ConfigError: if one does not exist, cannot be judged at a look, has another direction, or
            has a window that no stage contains.
    """
    for guard in definition.guardrails:
        if not guard.own:
            continue
        name, where = guard.metric.removeprefix(OWN), f"rollout {definition.key!r}: {guard.metric}"
        metric = metrics.metrics.get(name)
        if metric is None:
            close = difflib.get_close_matches(name, metrics.metrics, 1)
            meant = f"; is it {OWN}{close[0]}?" if close else ""
            raise ConfigError(f"{where}: metrics.yaml has no metric {name!r}{meant}")
        if metric.kind == "quantile":
            raise ConfigError(
                f"{where}: a quantile has no interval that holds at every look: use a share, "
                "count, sum or ratio"
            )
        if (guard.better or "higher") != metric.direction:
            raise ConfigError(
                f"{where}: metrics.yaml gives it the direction {metric.direction}: write "
                f"better: {metric.direction}"
            )
        if metric.parts:
            metric = metrics.metrics[metric.numerator]
        if metric.lasts > definition.stage_hours * 3_600_000:
            raise ConfigError(
                f"{where}: its window of {metric.lasts / 3_600_000:g} hours is longer than a stage "
                f"of {definition.stage_hours:g}: no look would see an outcome; lengthen stage_hours"
            )


def own_outcomes(
    stored: StoredRollout, metrics: MetricSet, allows: Callable[[Event], bool]
) -> OwnOutcomes | None:
    """Return empty outcomes of the own guardrails of a rollout's stage; None without any."""
    names = [guard.metric.removeprefix(OWN) for guard in stored.definition.guardrails if guard.own]
    needed: dict[str, MetricDefinition] = {}
    for name in names:
        metric = metrics.metrics.get(name)
        if metric is not None:  # one that was removed since is judged by no look
            needed |= {part: metrics.metrics[part] for part in (*metric.parts, name)}
    if not names:
        return None
    return _StageOutcomes(stored.key, needed, stored.rollout.since + SETTLE_MS, allows)


def with_own_guardrails(
    read_outs: MetricReadOuts, stored: StoredRollout, message: ReadOutMessage
) -> ReadOutMessage:
    """Add own guardrails over time to the exact read-out of a rollout's stage.

    Raises:
        StreamingError: if the log cannot be read.
    """
    plan, shares = stored.rollout.plan, message.sample_ratio.expected
    own = {guard.metric for guard in plan.guardrails if guard.metric.startswith(OWN)}
    known = read_outs.definitions().metrics
    names = tuple(name for name in known if OWN + name in own)
    if not names or message.source != "exact" or not shares:
        return message
    analysis = MetricPlan(experiment=stored.key, goals=names)
    asked = Question(stored.key, shares, message.since, message.until, message.at)
    seen = read_outs.outcomes(analysis, asked)
    nothing = {guard.metric: None for guard in plan.guardrails}
    points = [
        point
        for at in times_of(seen, message.at)
        for point in guardrail_points(
            at, plan, {**nothing, **{OWN + name: _pair(seen, name, at) for name in names}}
        )
        if point.metric in own
    ]
    return msgspec.structs.replace(message, guardrails=[*message.guardrails, *points])


class _StageOutcomes:
    """Outcomes of own metrics in one stage."""

    def __init__(
        self,
        experiment: str,
        metrics: Mapping[str, MetricDefinition],
        since: int,
        allows: Callable[[Event], bool],
    ) -> None:
        self._metrics = metrics
        self._columns = LogColumns(
            experiment, metrics, ReadSpan(since, None, _FOREVER), allows=allows
        )

    def begin(self, logs: Sequence[EventLog], positions: Sequence[int]) -> None:
        for log, position in zip(logs, positions, strict=True):
            self._columns.read_before(log, position)

    def read(self, records: Iterable[tuple[int, bytes]]) -> None:
        self._columns.read(records)

    def forget(self, traces: SubjectIds) -> None:
        self._columns.forget(traces.people)

    def pairs(self, now: int) -> dict[str, tuple[Sample, Sample] | None]:
        seen = unit_outcomes(self._columns, (CONTROL, CHANGE), self._metrics, now=now)
        return {OWN + name: _pair(seen, name, now) for name in self._metrics}


def _pair(seen: UnitOutcomes, name: str, at: int) -> tuple[Sample, Sample] | None:
    outcomes = seen.metrics[name]
    over = outcomes.complete_at <= at
    control, change = (arm_sample(outcomes, over & (seen.arm == place)) for place in (0, 1))
    if control is None or change is None:
        return None
    if not (control.variance > 0 or change.variance > 0) and outcomes.metric.kind not in (
        "binary",
        "retention",
    ):
        return None
    return plain_mean(control), plain_mean(change)
