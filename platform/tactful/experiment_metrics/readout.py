"""Read the metrics of an experiment: effects, course by day, guardrails and segments.

Exact outcomes are counted from the log inside the trusted zone, for any past experiment whose
exposures the log still has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from tactful.errors import ConfigError
from tactful.experiment_metrics.columns import LogColumns, ReadSpan
from tactful.experiment_metrics.definitions import MetricSet
from tactful.experiment_metrics.effects import (
    Analysis,
    metric_effects,
    metric_guardrails,
    metric_points,
    segment_effects,
)
from tactful.experiment_metrics.outcomes import UnitOutcomes, unit_outcomes
from tactful.experiment_metrics.registrations import MetricRegistrations
from tactful.experiments.baseline import DAY_MS, SPAN_MS, ExactOutcomes
from tactful.experiments.stage_readout import POINTS, ratio_check
from tactful.schemas.experiments.metrics import MetricIndex, MetricPlan, SegmentDefinition
from tactful.schemas.experiments.readouts import ReadOutMessage
from tactful.util.fresh_values import FreshValues
from tactful_bandits.assignment.conditions import attribute_names

_HOUR_MS = 3_600_000
_FRESH_MS = 30_000  # a read-out is computed again after this

NO_PLAN = "no analysis names it: add it to the experiments of metrics.yaml"


@dataclass(frozen=True)
class Question:
    """An experiment to read: its arms, and the time of its exposures."""

    key: str
    shares: Mapping[str, float]  # share of the units by arm, the control first
    since: int  # first time of exposures, epoch milliseconds
    until: int | None  # last time of them; None while they go on
    now: int  # time of the read-out


class MetricReadOuts:
    """Reads the metrics of an installation's experiments."""

    def __init__(
        self,
        definitions: Callable[[], MetricSet],
        registrations: MetricRegistrations,
        outcomes: ExactOutcomes,
        *,
        clock: Callable[[], int],
        arms: Callable[[str], Mapping[str, float]] = lambda key: {},
    ) -> None:
        """Use definitions, what was registered of them, and the outcomes that may be read.

        `arms` returns the shares of an experiment of a flag, the control first; nothing if there is
        no such experiment.
        """
        self._definitions = definitions
        self._registrations = registrations
        self._outcomes = outcomes
        self._clock = clock
        self._arms = arms
        # Also lets one read-out after another read the log.
        self._fresh: FreshValues[ReadOutMessage] = FreshValues(_FRESH_MS, clock)

    def definitions(self) -> MetricSet:
        """Return the metrics and analyses; raise MetricError if their file is wrong."""
        return self._definitions()

    def index(self) -> MetricIndex:
        """Describe all metrics and analyses; StorageError if the database cannot be used."""
        return self._definitions().index(self._registrations.latest())

    def register(self, *, by: str) -> list[str]:
        """Record the present form of each analysis; return the experiments that changed.

        Raises:
            MetricError: if the definitions are wrong.
            StorageError: if the database cannot be used.
        """
        return self._registrations.register(self._definitions(), by=by)

    def of_key(self, key: str, *, days: float) -> ReadOutMessage:
        """Read an experiment that only `metrics.yaml` or a flag defines.

        Without a start in its analysis, exposures of the last `days` count.

        Raises:
            ConfigError: if no analysis names it, or its arms are unknown.
            StorageError: if the database cannot be used.
            StreamingError: if the log cannot be read.
        """
        return self._read(key, lambda now: now - int(days * DAY_MS))

    def of_recorded(self, key: str) -> ReadOutMessage:
        """Read an experiment from 28 days before the first record of its analysis.

        Raises as `of_key`. The begin is fixed. If it moved on with the time of the look, units
        would leave again, and no verdict would hold at any number of looks.
        """
        first = self._registrations.first(key)
        return self._read(key, lambda now: (now if first is None else first) - SPAN_MS)

    def _read(self, key: str, begin: Callable[[int], int]) -> ReadOutMessage:
        plan = self._plan(key)
        if plan is None:
            raise ConfigError(f"there is no experiment {key!r} to read: {NO_PLAN}")
        shares = plan.arms or self._arms(key)
        if not shares:
            raise ConfigError(
                f"the arms of experiment {key!r} are unknown: give their shares as arms in "
                "metrics.yaml, the control first"
            )

        def read() -> ReadOutMessage:
            now = self._clock()
            since = begin(now) if plan.start is None else plan.start
            asked = Question(key, shares, since, None, now)
            seen = self.outcomes(plan, asked)
            people = seen.people()
            total = len(seen.units) + seen.crossed
            crossed = seen.crossed / total if total else 0.0
            base = ReadOutMessage(
                key=key,
                source="exact",
                at=now,
                since=since,
                until=None,
                sample_ratio=ratio_check(people, shares, crossed=crossed),
                confidence=1 - plan.alpha,
            )
            return self._with_metrics(base, plan, seen)

        return self._fresh.get((key, begin(0)), read)

    def extended(self, message: ReadOutMessage) -> ReadOutMessage:
        """Add the metrics of its analysis to the exact read-out of a rollout or experiment.

        Without an analysis the read-out is returned as it is. Raises as `of_key`.
        """
        plan = self._plan(message.key)
        if plan is None or message.source != "exact" or not message.sample_ratio.expected:
            return message
        asked = Question(
            message.key,
            message.sample_ratio.expected,
            message.since,
            message.until,
            message.at,
        )

        def read() -> ReadOutMessage:
            return self._with_metrics(message, plan, self.outcomes(plan, asked))

        return self._fresh.get((message.key, message.stage, message.since, message.at), read)

    def outcomes(self, plan: MetricPlan, asked: Question) -> UnitOutcomes:
        """Read the outcomes of each unit from the log; raise StreamingError if it is unreadable."""
        metrics = self._definitions().of_plan(plan)
        span = ReadSpan(asked.since, asked.until, asked.now, plan.cuped_ms)
        columns = LogColumns(
            asked.key,
            metrics,
            span,
            allows=self._outcomes.allows,
            attributes=_attributes(plan.segments),
        )
        for log in self._outcomes.logs():
            columns.read_log(log)
        return unit_outcomes(
            columns,
            [*asked.shares],
            metrics,
            now=asked.now,
            cuped_ms=plan.cuped_ms,
            segments=plan.segments,
        )

    def _plan(self, key: str) -> MetricPlan | None:
        return self._definitions().plans.get(key)

    def _with_metrics(
        self, message: ReadOutMessage, plan: MetricPlan, seen: UnitOutcomes
    ) -> ReadOutMessage:
        metrics = self._definitions().of_plan(plan)
        start = int(seen.exposed_at.min()) if len(seen.units) else message.at
        planned = self._registrations.planned(plan, metrics, start)
        analysis = Analysis(seen, plan, metrics, planned)
        effects = metric_effects(analysis)
        series, guardrails = [*message.series], [*message.guardrails]
        for at in times_of(seen, message.at):
            series += metric_points(analysis, at)
            guardrails += metric_guardrails(analysis, at)
        return msgspec.structs.replace(
            message,
            effects=[*message.effects, *effects],
            series=series,
            guardrails=guardrails,
            segments=segment_effects(analysis),
            notes=[*message.notes, *_notes(analysis, {effect.metric for effect in effects})],
            reason="" if effects or message.effects else _reason(analysis, message.at),
        )


def times_of(seen: UnitOutcomes, now: int) -> list[int]:
    """Return the ends of days at which outcomes were complete, at most 40 of them, then now.

    Within 40 hours these are the ends of hours.
    """
    complete = [it.complete_at[it.complete] for it in seen.metrics.values()]
    times = np.unique(np.concatenate(complete)) if complete else np.zeros(0, np.int64)
    if not len(times):
        return []
    step = _HOUR_MS if now - int(times[0]) <= POINTS * _HOUR_MS else DAY_MS
    ends = np.unique(-(-times // step)) * step
    places = np.unique(np.linspace(len(ends) - 1, 0, min(POINTS, len(ends))).astype(int))
    return sorted({min(int(end), now) for end in ends[places]})


def _attributes(segments: Sequence[SegmentDefinition]) -> frozenset[str]:
    return frozenset().union(*(attribute_names(it.condition) for it in segments))


def _notes(analysis: Analysis, compared: Collection[str]) -> list[str]:
    plan, planned, notes = analysis.plan, analysis.planned, []
    if len(analysis.outcomes.units):
        open_ = [name for name in plan.roles if not analysis.outcomes.metrics[name].complete.any()]
        equal = [name for name in plan.roles if name not in compared and name not in open_]
        if open_:
            notes.append("the window is over for no unit yet: " + ", ".join(open_))
        if equal:
            notes.append(
                "not compared, as too few units or no different outcomes: " + ", ".join(equal)
            )
    changed = sorted({*plan.roles} - planned.metrics)
    if changed:
        notes.append(
            "registered after the first exposure, or changed since, or others of its role dropped, "
            "so only exploratory: " + ", ".join(changed)
        )
    if plan.cuped_ms and not planned.cuped:
        notes.append(
            "cuped was not registered before the first exposure, so effects are not adjusted"
        )
    if analysis.outcomes.unknown:
        notes.append("units in arms that the experiment does not have are left out")
    return notes


def _reason(analysis: Analysis, now: int) -> str:
    seen = analysis.outcomes
    if not len(seen.units):
        return "no unit was exposed in this time"
    waiting = [it for it in seen.metrics.values() if not it.complete.any()]
    if len(waiting) == len(seen.metrics):
        first = min(int(it.complete_at.min()) for it in waiting)
        hours = -(-(first - now) // _HOUR_MS)
        return f"the window of no metric is over for any unit; the first is in {hours} hours"
    return "no two arms have two units with different outcomes whose window is over"
