"""Plan, write and read a probe, and evaluate a tuner by its recommendations before it serves.

A *probe* is a tuner that acts as the champion does, with noise: its rollout serves some users
weights around the champion's, and logs each draw with its density. Another tuner is evaluated by
these recommendations, as if it drew with the same noise around its own weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from tactful.errors import ConfigError
from tactful.event_log.batches import decoded, read_batches
from tactful.event_log.impressions import as_impression, is_served
from tactful.event_log.recipients import Recipients
from tactful.experiments.definitions import CHANGE
from tactful.experiments.tally import arm_of
from tactful.rerank import tuned_objective
from tactful_bandits.errors import EvaluationError, PolicyError
from tactful_bandits.evaluation.off_policy import LoggedDecisions
from tactful_bandits.evaluation.verdict import evaluate_policy
from tactful_bandits.tuner.network import NetworkPolicy
from tactful_privacy.durable_files import replace_file
from tactful_streaming.contract.log_entries import Event, subject_key
from tactful_streaming.log.event_log import EventLog

_CHUNK = 2_048
_Z95, _Z80 = 1.959963984540054, 0.8416212335729143
_MOST_NEEDED = 1e15
_LEAST_EFFECTIVE = 200  # as in `evaluate_policy`
_TYPICAL = 500  # number of states that a plan assumes


class _Drawn(msgspec.Struct, frozen=True):
    state: list[float] = msgspec.field(name=tuned_objective.STATE)
    drawn: list[float] = msgspec.field(name=tuned_objective.DRAWN)
    log_density: float = msgspec.field(name=tuned_objective.LOG_DENSITY)


@dataclass(slots=True)
class ProbedList:
    """A recommendation with randomised weights."""

    person: str  # key of its user
    at: int  # time, epoch milliseconds
    items: frozenset[str]  # its item ids
    state: Sequence[float]  # input of the tuner
    drawn: Sequence[float]  # its action, with the noise
    log_density: float  # of `drawn`
    user_id: str | None = None
    device_id: str | None = None
    took: bool = False  # whether something was taken from it in time


def write_probe(candidate: Path, directory: Path, *, noise: float) -> None:
    """Write a probe: a tuner that acts as the champion of a candidate does, with noise.

    The noise is the standard deviation of an action, in (0, 1]. Raise ConfigError if the candidate
    cannot be read, or the directory exists.
    """
    original = tuned_objective.Tuner(candidate).manifest
    states, actions = len(original.state), len(original.champion)
    everywhere = np.full(states, 1e6, np.float32)
    network = NetworkPolicy(
        [(np.zeros((states, actions), np.float32), np.zeros(actions, np.float32))],
        np.zeros(states, np.float32),
        np.ones(states, np.float32),
        -everywhere,
        everywhere,
    )
    manifest = msgspec.structs.replace(original, noise=noise, trained_in="nowhere", figures={})
    try:
        directory.mkdir(parents=True)
        (directory / tuned_objective.POLICY).write_bytes(network.to_bytes())
        (directory / tuned_objective.MANIFEST).write_bytes(
            msgspec.json.format(msgspec.json.encode(manifest))
        )
    except OSError as error:
        raise ConfigError(f"{directory}: a probe cannot be written here: {error}") from error


class ProbePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Number of recommendations that a probe needs before its evaluation can say anything."""

    lists: int  # recommendations of the probe with outcomes
    noise: float  # standard deviation of its noise
    taken: float  # assumed share of recommendations from which something is taken
    change: float  # relative change of that share that is to be seen
    # share of the probe's recommendations that count for the candidate: 20,000 at .0001 say as
    # much as 2
    effective_share: float


def plan_probe(
    candidate: Path,
    *,
    noise: float,
    taken: float,
    change: float,
    states: Sequence[Sequence[float]] = (),
) -> ProbePlan:
    """Compute how many recommendations of a probe show a change of a candidate's share.

    They show it at 95 % confidence with a probability of 80 %. A weight is the ratio of two normal
    densities with means ``d`` apart, so its mean square is ``exp(d² / noise²)``, and the variance
    of a self-normalised gain is about ``taken (1 - taken) (exp(d² / noise²) - 1)`` divided by the
    number of recommendations (Owen, "Monte Carlo theory, methods and examples", 2013, section 9.2).
    At least as many are needed as give 200 effective ones, as the verdict demands.

    Args:
        candidate: Directory of the tuner.
        noise: Standard deviation of the probe's noise, in (0, 1].
        taken: Share of recommendations from which something is taken, in (0, 1).
        change: Relative change of that share, in (0, 1].
        states: States of the shop; without any, normal ones by the statistics of its training.

    Raises:
        ConfigError: if the tuner cannot be read.
    """
    tuner = tuned_objective.Tuner(candidate)
    rows = states or tuner.typical_states(_TYPICAL, np.random.default_rng(0)).tolist()
    squared = np.array([tuner.squared_distance(row) for row in rows])
    # Beyond this no number of recommendations is enough; the bound keeps the result finite.
    spread = float(np.exp(np.minimum(squared / noise**2, 40.0)).mean())
    variance = taken * (1 - taken) * (spread - 1)
    needed = ((_Z95 + _Z80) / (change * taken)) ** 2 * variance
    lists = math.ceil(min(max(needed, _LEAST_EFFECTIVE * spread), _MOST_NEEDED))
    return ProbePlan(
        lists=lists, noise=noise, taken=taken, change=change, effective_share=1 / spread
    )


def read_probed(
    log: EventLog, rollout: str, *, since: int, until: int, types: Collection[str], lasts: int
) -> list[ProbedList]:
    """Read the recommendations of a probe whose outcome time is over.

    They begin at `since` or later, and the log, of events that may be used to measure, ends at
    `until`. Events of `types` take an item, within `lasts` milliseconds.
    """
    lists: dict[str, ProbedList] = {}
    recipients = Recipients()
    for records in read_batches(log, log.begin, log.end, size=_CHUNK):
        for offset, entry in decoded(records):
            if not isinstance(entry, Event):
                continue
            recipients.note(entry)
            if not entry.recommendation_id:
                continue
            shown = lists.get(entry.recommendation_id)
            if shown is None:
                probed = _probed(entry, offset, rollout)
                if probed is not None and since <= probed.at <= until - lasts:
                    lists[entry.recommendation_id] = probed
            elif entry.type in types and entry.item_id in shown.items:
                in_time = shown.at <= entry.timestamp < shown.at + lasts
                if in_time and recipients.includes(shown.user_id, shown.device_id, entry):
                    shown.took = True
    return list(lists.values())


def evaluate_tuner(
    candidate: Path, lists: Sequence[ProbedList], *, noise: float, change: float = 0.05
) -> tuned_objective.TunerEvaluation:
    """Evaluate a tuner by recommendations of a probe, and write the result to its directory.

    With fewer recommendations than show a `change` in the plan for these states and outcomes, the
    verdict is `inconclusive`: a look before that stops at chance results.

    Raises:
        ConfigError: if the tuner cannot be read, or cannot be evaluated by these recommendations.
    """
    tuner = tuned_objective.Tuner(candidate)
    if len(lists) < 2:
        raise ConfigError(
            f"{candidate}: cannot be evaluated by {len(lists)} lists of the probe: roll the probe "
            "out, and wait until outcomes of its recommendations are in the log"
        )
    try:
        log = LoggedDecisions(
            np.array([shown.took for shown in lists], np.float64),
            np.exp([shown.log_density for shown in lists]),
            np.exp([tuner.log_density(shown.state, shown.drawn, noise) for shown in lists]),
            units=np.unique([shown.person for shown in lists], return_inverse=True)[1],
            densities=True,
        )
        result = evaluate_policy(log)
    except (EvaluationError, PolicyError) as error:
        raise ConfigError(
            f"{candidate}: cannot be evaluated by {len(lists)} lists of the probe: {error}"
        ) from error
    reasons, verdict = result.reasons, result.verdict
    needed = _needed(candidate, lists, noise, change)
    if len(lists) < needed:
        verdict = "inconclusive"
        told = f"{len(lists):,} recommendations, and a change of {change:.0%} needs {needed:,}"
        reasons = (*reasons, f"{told}: see tactful tuner plan")
    evaluation = tuned_objective.TunerEvaluation(
        verdict=verdict,
        gain=result.gain,
        low=result.interval.low,
        high=result.interval.high,
        effective=result.overlap.effective,
        lists=len(lists),
        reasons=reasons,
        needed=needed,
        network=tuned_objective.network_check(candidate),
        noise=noise,
    )
    replace_file(
        candidate / tuned_objective.EVALUATION, msgspec.json.format(msgspec.json.encode(evaluation))
    )
    return evaluation


def _needed(candidate: Path, lists: Sequence[ProbedList], noise: float, change: float) -> int:
    taken = sum(shown.took for shown in lists) / len(lists)
    if not 0 < taken < 1:
        return 0  # the evaluation says itself that there is nothing to compare
    # Each state belongs to many recommendations; some hundreds of them are enough for the mean.
    states = [shown.state for shown in lists[:: max(1, len(lists) // _TYPICAL)]]
    return plan_probe(candidate, noise=noise, taken=taken, change=change, states=states).lists


def _probed(event: Event, offset: int, rollout: str) -> ProbedList | None:
    shown = as_impression(event, offset)
    person = subject_key(event)
    if shown is None or not is_served(event) or person is None:
        return None
    if arm_of(event, rollout) != CHANGE:
        return None
    try:
        drawn = msgspec.convert(event.properties, _Drawn)
    except msgspec.ValidationError:
        return None
    if not all(map(math.isfinite, (*drawn.state, *drawn.drawn, drawn.log_density))):
        return None
    return ProbedList(
        person,
        event.timestamp,
        frozenset(shown.items),
        drawn.state,
        drawn.drawn,
        drawn.log_density,
        event.user_id,
        event.device_id,
    )
