"""Report a bandit by the log: shares, rewards, an off-policy verdict, and regret.

Estimates use the decisions in which every arm had a positive probability, each with its own: those
in shadow with `shadow_explore`, and those in service with `min_share`. In shadow the log also has
the probability that the bandit, as it was then, would have given the arm that was served. So the
estimate is of the bandit as it learnt, and no decision is judged by what was learnt from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.bandits.definitions import BanditDefinition
from tactful.bandits.rewards import JoinedDecision, RewardJoin
from tactful.event_log.batches import read_batches
from tactful.event_log.recipients import Recipients
from tactful.schemas.experiments.bandits import (
    BanditArmReport,
    BanditOutcomes,
    BanditPoint,
    BanditRegret,
    BanditVerdict,
)
from tactful.schemas.experiments.readouts import Bounds
from tactful.util.fresh_values import FreshValues
from tactful_bandits.errors import EvaluationError
from tactful_streaming.log.event_log import EventLog

NO_SHADOW = "no decision in shadow has explored: set shadow_explore above 0 to evaluate the shadow"
NO_SUPPORT = "no decision gave every arm a chance: set min_share or shadow_explore above 0"
TOO_FEW = "fewer than two users have decisions whose reward is known"

_CHUNK = 2_048
_POINTS = 60
_HOUR_MS = 3_600_000
_FRESH_MS = 10_000
_LEAST_EFFECTIVE = 200.0

Floats = NDArray[np.float64]


class BanditReports:
    """Reports the bandits of an installation, each at most once in ten seconds."""

    def __init__(
        self,
        logs: Callable[[], Sequence[EventLog]],
        *,
        clock: Callable[[], int],
        recipients: Callable[[], Recipients] = Recipients,
    ) -> None:
        """Read partitions with the events that may be used to measure."""
        self._logs, self._clock, self._recipients = logs, clock, recipients
        self._fresh: FreshValues[BanditOutcomes] = FreshValues(_FRESH_MS, clock)

    def of(self, definition: BanditDefinition, *, days: float) -> BanditOutcomes:
        """Report a bandit by the decisions of so many days.

        Raises:
            StreamingError: if the log cannot be read.
        """

        def report() -> BanditOutcomes:
            now = self._clock()
            since = now - int(days * 24 * _HOUR_MS)
            found, waiting = read_decisions(
                self._logs(), definition, since=since, now=now, recipients=self._recipients
            )
            return outcomes_of(definition, found, waiting=waiting, since=since, now=now)

        return self._fresh.get((msgspec.json.encode(definition), days), report)


def read_decisions(
    logs: Sequence[EventLog],
    definition: BanditDefinition,
    *,
    since: int,
    now: int,
    recipients: Callable[[], Recipients] = Recipients,
) -> tuple[list[JoinedDecision], int]:
    """Read the decisions with their rewards; also return the number of those that wait for one."""
    found: list[JoinedDecision] = []
    waiting = 0
    for log in logs:
        join = RewardJoin(definition, found.append, recipients=recipients())
        begin = max(log.begin, log.offset_at(since))
        for records in read_batches(log, begin, log.end, size=_CHUNK):
            join.feed(records)
        join.expire(now)
        waiting += len(join)
    return [decision for decision in found if decision.at >= since], waiting


def outcomes_of(
    definition: BanditDefinition,
    found: Sequence[JoinedDecision],
    *,
    waiting: int,
    since: int,
    now: int,
) -> BanditOutcomes:
    """Report decisions whose reward is known."""
    rewards = np.array([decision.reward for decision in found])
    supported = [decision for decision in found if decision.floor > 0]
    shadow = [decision for decision in supported if not decision.live]
    reasons: list[str] = []
    if not shadow and not supported:
        reasons.append(NO_SHADOW)
    verdict = _verdict(shadow, reasons) if shadow else None
    estimates, regret = _regret(definition, supported, reasons)
    return BanditOutcomes(
        decisions=len(found),
        waiting=waiting,
        reward=float(rewards.mean()) if found else None,
        least_propensity=min((decision.propensity for decision in found), default=None),
        arms=[
            msgspec.structs.replace(_arm(name, index, found), **estimates.get(index, {}))
            for index, name in enumerate(definition.names)
        ],
        series=_series(definition, found, since, now),
        verdict=verdict,
        regret=regret,
        reasons=reasons,
    )


def _arm(name: str, index: int, found: Sequence[JoinedDecision]) -> BanditArmReport:
    rewards = [decision.reward for decision in found if decision.arm == index]
    return BanditArmReport(
        name=name,
        decisions=len(rewards),
        share=len(rewards) / len(found) if found else 0.0,
        reward=float(np.mean(rewards)) if rewards else None,
    )


def _series(
    definition: BanditDefinition, found: Sequence[JoinedDecision], since: int, now: int
) -> list[BanditPoint]:
    names = definition.names
    step = max(_HOUR_MS, -(-(now - since) // _POINTS))
    spans: dict[int, list[JoinedDecision]] = {}
    for decision in found:
        spans.setdefault((decision.at - since) // step, []).append(decision)
    return [
        BanditPoint(
            at=since + span * step,
            decisions=len(inside),
            shares={
                name: sum(decision.arm == index for decision in inside) / len(inside)
                for index, name in enumerate(names)
            },
            reward=float(np.mean([decision.reward for decision in inside])),
        )
        for span, inside in sorted(spans.items())
    ]


def _verdict(shadow: Sequence[JoinedDecision], reasons: list[str]) -> BanditVerdict | None:
    # They import parts of SciPy that a server should not wait for.
    from tactful_bandits.evaluation.off_policy import LoggedDecisions
    from tactful_bandits.evaluation.verdict import evaluate_policy

    if len({decision.unit for decision in shadow}) < 2:
        reasons.append(TOO_FEW)
        return None
    rewards, propensities, units = _arrays(shadow)
    target = np.array([decision.probability for decision in shadow])
    try:
        found = evaluate_policy(LoggedDecisions(rewards, propensities, target, units=units))
    except EvaluationError as error:
        reasons.append(str(error))
        return None
    return BanditVerdict(
        verdict=found.verdict,
        gain=found.gain,
        interval=Bounds(low=found.interval.low, high=found.interval.high),
        reasons=list(found.reasons),
    )


def _regret(
    definition: BanditDefinition, supported: Sequence[JoinedDecision], reasons: list[str]
) -> tuple[dict[int, dict[str, object]], BanditRegret | None]:
    """Estimate every arm and the bandit by the same decisions, with units of users."""
    from tactful_bandits.evaluation.off_policy import LoggedDecisions, snips
    from tactful_bandits.evaluation.verdict import measure_overlap

    if not supported:
        reasons.append(NO_SUPPORT)
        return {}, None
    if len({decision.unit for decision in supported}) < 2:
        if TOO_FEW not in reasons:
            reasons.append(TOO_FEW)
        return {}, None
    rewards, propensities, units = _arrays(supported)
    chosen = np.array([decision.arm for decision in supported])
    own = np.array([decision.probability for decision in supported])
    try:
        bandit = snips(LoggedDecisions(rewards, propensities, own, units=units))
    except EvaluationError as error:
        reasons.append(str(error))
        return {}, None
    estimates: dict[int, dict[str, object]] = {}
    differences = {}
    for index in range(len(definition.arms)):
        target = (chosen == index).astype(np.float64)
        if not target.any():
            continue
        log = LoggedDecisions(rewards, propensities, target, units=units)
        value, effective = snips(log), measure_overlap(log).effective
        interval = value.interval()
        estimates[index] = {
            "value": value.value,
            "interval": Bounds(low=interval.low, high=interval.high),
            "effective": effective,
            "reliable": effective >= _LEAST_EFFECTIVE,
        }
        if effective >= _LEAST_EFFECTIVE:
            differences[index] = value.minus(bandit)
    if not differences:
        reasons.append(f"no arm has {_LEAST_EFFECTIVE:.0f} effective decisions yet")
        return estimates, None
    best = max(differences, key=lambda index: differences[index].value)
    reach = differences[best].interval(1 - 0.05 / len(differences))
    return estimates, BanditRegret(
        value=bandit.value,
        best=definition.names[best],
        regret=differences[best].value,
        interval=Bounds(low=reach.low, high=reach.high),
    )


def _arrays(found: Sequence[JoinedDecision]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return rewards, propensities and units of decisions."""
    return (
        np.array([decision.reward for decision in found]),
        np.array([decision.propensity for decision in found]),
        np.unique([decision.unit for decision in found], return_inverse=True)[1],
    )
