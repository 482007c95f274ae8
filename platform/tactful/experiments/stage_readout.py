"""Read the effects of a rollout's stage, or of an experiment, at any time.

Exact outcomes are counted from the log inside the trusted zone. Released ones are the counts that
private looks have published (`tactful.experiments.controller`); nothing is drawn for a read-out,
so it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from tactful.errors import ConfigError
from tactful.experiments.baseline import DAY_MS, ExactOutcomes
from tactful.experiments.controller import SETTLE_MS, noise_of, observations, pair_of
from tactful.experiments.definitions import CHANGE, CONTROL, OWN
from tactful.experiments.effects import effect_points, effects_of, guardrail_points
from tactful.experiments.readout import column_samples
from tactful.experiments.store import RolloutStore, StoredRollout
from tactful.experiments.tally import read_on
from tactful.experiments.timed_tally import OutcomesUntil, TimedTally
from tactful.schemas.experiments.readouts import (
    EffectPoint,
    GuardrailPoint,
    RatioCheck,
    ReadOutMessage,
)
from tactful.schemas.experiments.rollouts import LookRecord
from tactful.util.fresh_values import FreshValues
from tactful_bandits.analysis.sample_ratio import SampleRatio, check_sample_ratio
from tactful_bandits.analysis.samples import Sample
from tactful_bandits.assignment.assign import Experiment
from tactful_bandits.rollouts.lifecycle import Rollout
from tactful_bandits.rollouts.plan import RolloutPlan
from tactful_streaming.log.event_log import EventLog

POINTS = 40
"""Most times in a series."""

CLICKS = ("click", "add_to_cart", "purchase")
"""Types of events by which an item of a recommendation counts as taken in an experiment."""

NOT_RELEASED = (
    "it is judged by exact outcomes, so it has no released numbers: `epsilon` in its definition "
    "makes looks release counts"
)
NO_USERS = "no two arms have two users whose recommendations are over"

_HOUR_MS = 3_600_000
_FRESH_MS = 30_000  # an exact read-out is counted again after this
_LARGEST_STEP = DAY_MS


@dataclass(frozen=True)
class StageSpan:
    """Time in which one stage of a rollout had a control."""

    stage: int
    share: float  # of the users who got the change
    since: int  # epoch milliseconds
    until: int | None  # None while it goes on


def controlled_stages(rollout: Rollout) -> list[StageSpan]:
    """Return the stages with a control that were begun, in order.

    After a hold a stage begins again; only its last part is returned, as in looks.
    """
    spans: dict[int, StageSpan] = {}
    stage = -1
    for number, line in enumerate(rollout.history):
        if line.after != "canary":
            continue
        stage += line.before != "held"
        ends = [later.at for later in rollout.history[number + 1 :] if later.after != "held"]
        if line.share < 1:
            spans[stage] = StageSpan(stage, line.share, line.at, ends[0] if ends else None)
    return [*spans.values()]


class ReadOuts:
    """Reads the effects of an installation's rollouts and experiments."""

    def __init__(
        self, store: RolloutStore, outcomes: ExactOutcomes, *, clock: Callable[[], int]
    ) -> None:
        """Use a store, the outcomes that may be read, and a clock, epoch milliseconds."""
        self._store = store
        self._outcomes = outcomes
        self._clock = clock
        self._logs: Sequence[EventLog] | None = None
        # Also lets one read-out after another read the log.
        self._fresh: FreshValues[ReadOutMessage] = FreshValues(_FRESH_MS, clock)

    def of_rollout(
        self, stored: StoredRollout, *, exact: bool, stage: int | None = None
    ) -> ReadOutMessage:
        """Read a stage of a rollout: the last one with a control, or a given one.

        Raises:
            ConfigError: if the stage has not begun, or has no control.
            StorageError: if the database cannot be used.
            StreamingError: if the log cannot be read.
        """
        spans = {span.stage: span for span in controlled_stages(stored.rollout)}
        if stage is not None and stage not in spans:
            known = f"there are {', '.join(map(str, spans))}" if spans else "there are none"
            raise ConfigError(f"stage {stage} has not begun, or has no control; {known}")
        if not spans:
            return self._nothing(stored.key, exact, "no stage with a control has begun")
        span = spans[max(spans) if stage is None else stage]
        stages = [*spans]
        if not exact:
            return self._released(stored, span, stages)

        def read() -> ReadOutMessage:
            return self._exact(stored, span, stages)

        return self._fresh.get((stored.key, span), read)

    def of_experiment(
        self,
        experiment: Experiment,
        *,
        days: float,
        types: Collection[str] = CLICKS,
        lasts: int = _HOUR_MS,
    ) -> ReadOutMessage:
        """Read the exact outcomes of an experiment's last days; raise as `of_rollout`."""

        def read() -> ReadOutMessage:
            now = self._clock()
            since = now - int(days * DAY_MS)
            tally = self._count(experiment.key, (since, None), types=types, lasts=lasts, now=now)
            shares = {name: share for name, share in experiment.shares.items() if share > 0}
            return self._message(experiment.key, shares, tally, (since, None), now)

        return self._fresh.get((experiment.key, days, tuple(types), lasts), read)

    def _exact(self, stored: StoredRollout, span: StageSpan, stages: list[int]) -> ReadOutMessage:
        now, definition = self._clock(), stored.definition
        since = span.since + SETTLE_MS
        tally = self._count(
            stored.key,
            (since, span.until),
            types=definition.outcomes,
            lasts=definition.lasts,
            now=now,
        )
        shares = {CONTROL: 1 - span.share, CHANGE: span.share}
        message = self._message(
            stored.key, shares, tally, (since, span.until), now, plan=stored.rollout.plan
        )
        return _of_stage(message, span, stages)

    def _count(
        self,
        key: str,
        times: tuple[int, int | None],
        *,
        types: Collection[str],
        lasts: int,
        now: int,
    ) -> TimedTally:
        since, until = times
        length = (now if until is None else until) - since
        step = _HOUR_MS if length <= POINTS * _HOUR_MS else _LARGEST_STEP
        tally = TimedTally(
            key,
            step=step,
            since=since,
            until=until,
            types=types,
            lasts=lasts,
            allows=self._outcomes.allows,
            recipients=self._outcomes.recipients(),
        )
        if self._logs is None:
            self._logs = self._outcomes.logs()
        for log in self._logs:
            read_on(log, tally, log.offset_at(since))
        tally.close(now)
        return tally

    def _message(
        self,
        key: str,
        shares: Mapping[str, float],
        tally: TimedTally,
        times: tuple[int, int | None],
        now: int,
        *,
        plan: RolloutPlan | None = None,
    ) -> ReadOutMessage:
        control = next(iter(shares))
        seen = tally.outcomes()
        people = {arm: seen.exposed.get(arm, 0) for arm in shares}
        total = sum(people.values()) + seen.crossed
        crossed = seen.crossed / total if total else 0.0
        series: list[EffectPoint] = []
        guardrails: list[GuardrailPoint] = []
        arms: dict[str, Mapping[str, Sample]] = {}
        for until in tally.until_each(POINTS):
            arms, at = _samples(until, shares), min(until.at, now)
            series += effect_points(at, control, arms)
            if plan is not None:
                pairs = {
                    guard.metric: pair_of(guard.metric, arms[CONTROL], arms[CHANGE])
                    for guard in plan.guardrails
                }
                points = guardrail_points(at, plan, pairs)
                # Own metrics are read by `tactful.experiment_metrics`.
                guardrails += [point for point in points if not point.metric.startswith(OWN)]
        effects = effects_of(control, arms)
        return ReadOutMessage(
            key=key,
            source="exact",
            at=now,
            since=times[0],
            until=times[1],
            sample_ratio=ratio_check(people, shares, plan, crossed=crossed),
            effects=effects,
            series=series,
            guardrails=guardrails,
            reason="" if effects else NO_USERS,
        )

    def _released(
        self, stored: StoredRollout, span: StageSpan, stages: list[int]
    ) -> ReadOutMessage:
        epsilon = stored.definition.epsilon
        if epsilon is None:
            return self._nothing(stored.key, False, NOT_RELEASED)
        looks = [
            look
            for look in reversed(self._store.looks(stored.key, limit=None, since=span.since))
            if look.released is not None and (span.until is None or look.at <= span.until)
        ]
        shares = {CONTROL: 1 - span.share, CHANGE: span.share}
        message = self._of_looks(stored, looks, shares, float(noise_of(epsilon).variance))
        times = {"since": span.since, "until": span.until, "epsilon": epsilon}
        return _of_stage(message, span, stages, **times)

    def _of_looks(
        self,
        stored: StoredRollout,
        looks: Sequence[LookRecord],
        shares: Mapping[str, float],
        variance: float,
    ) -> ReadOutMessage:
        plan = stored.rollout.plan
        released = [look.released for look in looks if look.released is not None]
        steps = range(len(looks) - 1, -1, -max(1, -(-len(looks) // POINTS)))
        series: list[EffectPoint] = []
        guardrails: list[GuardrailPoint] = []
        arms: dict[str, Mapping[str, Sample]] = {}
        units = dict.fromkeys(shares, 0)
        for number in reversed(steps):
            seen = observations(released[: number + 1], variance, shares[CHANGE])
            units = dict(zip(shares, seen.units, strict=True))
            arms = {}
            for metric, pair in seen.samples.items():
                if pair is not None:
                    arms = {arm: {metric: it} for arm, it in zip(shares, pair, strict=True)}
            series += effect_points(looks[number].at, CONTROL, arms)
            guardrails += guardrail_points(looks[number].at, plan, seen.samples)
        effects = effects_of(CONTROL, arms)
        noisy = {arm: sum(sum(look[arm]) for look in released) for arm in shares}
        # The test uses exact counts with the same evidence, the message shows what was released.
        checked = ratio_check(units, shares, plan, shown=noisy)
        return ReadOutMessage(
            key=stored.key,
            source="released",
            at=self._clock(),
            since=0,
            until=None,
            sample_ratio=checked,
            effects=effects,
            series=series,
            guardrails=guardrails,
            reason="" if effects else NO_USERS,
        )

    def _nothing(self, key: str, exact: bool, reason: str) -> ReadOutMessage:
        return ReadOutMessage(
            key=key,
            source="exact" if exact else "released",
            at=self._clock(),
            since=0,
            until=None,
            sample_ratio=RatioCheck(verdict="too few data", p=None, expected={}, people={}),
            reason=reason,
        )


def _samples(until: OutcomesUntil, shares: Mapping[str, float]) -> dict[str, Mapping[str, Sample]]:
    return {arm: column_samples(until.arms[arm]) if arm in until.arms else {} for arm in shares}


def _of_stage(
    message: ReadOutMessage, span: StageSpan, stages: list[int], **more: object
) -> ReadOutMessage:
    return msgspec.structs.replace(message, stage=span.stage, stages=stages, **more)


def ratio_check(
    people: Mapping[str, int],
    shares: Mapping[str, float],
    plan: RolloutPlan | None = None,
    *,
    crossed: float | None = None,
    shown: Mapping[str, int] | None = None,
) -> RatioCheck:
    """Check the arms' users against their shares, at the level of a plan's looks.

    `crossed` is the share of users who are left out; `shown` are counts for the message, where they
    are not the checked ones.
    """
    checked: SampleRatio | None = None
    if sum(people.values()) and len(shares) > 1:
        # The level of a look, so that both say the same.
        alpha = 0.001 if plan is None else plan.sample_ratio_alpha / len(plan.stages)
        counts = [people[arm] for arm in shares]
        checked = check_sample_ratio(counts, [*shares.values()], alpha=alpha)
    verdict = "too few data"
    if checked is not None:
        verdict = "mismatch" if checked.mismatch else "ok"
    return RatioCheck(
        verdict=verdict,
        p=None if checked is None else checked.fixed_horizon_p,
        expected=dict(shares),
        people=dict(people if shown is None else shown),
        crossed=crossed,
    )
