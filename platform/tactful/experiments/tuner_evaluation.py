"""Evaluate a tuner by recommendations with randomised weights, before it serves.

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
from tactful.event_log.impressions import as_impression
from tactful.experiments.definitions import CHANGE
from tactful.experiments.tally import arm_of
from tactful.rerank.tuned_objective import (
    DRAWN,
    EVALUATION,
    LOG_DENSITY,
    MANIFEST,
    POLICY,
    STATE,
    Tuner,
    TunerEvaluation,
    network_check,
)
from tactful_bandits.errors import EvaluationError, PolicyError
from tactful_bandits.evaluation.off_policy import LoggedDecisions
from tactful_bandits.evaluation.verdict import evaluate_policy
from tactful_bandits.tuner.network import NetworkPolicy
from tactful_privacy.durable_files import replace_file
from tactful_streaming.contract.log_entries import Event, subject_key
from tactful_streaming.log.event_log import EventLog

_CHUNK = 2_048


class _Drawn(msgspec.Struct, frozen=True):
    state: list[float] = msgspec.field(name=STATE)
    drawn: list[float] = msgspec.field(name=DRAWN)
    log_density: float = msgspec.field(name=LOG_DENSITY)


@dataclass(slots=True)
class ProbedList:
    """A recommendation with randomised weights.

    Attributes:
        person: key of its user.
        at: time, epoch milliseconds.
        items: its item ids.
        state: input of the tuner.
        drawn: its action, with the noise.
        log_density: of `drawn`.
        took: whether something was taken from it in time.
    """

    person: str
    at: int
    items: frozenset[str]
    state: Sequence[float]
    drawn: Sequence[float]
    log_density: float
    took: bool = False


def write_probe(candidate: Path, directory: Path, *, noise: float) -> None:
    """Write a probe: a tuner that acts as the champion of a candidate does, with noise.

    Args:
        candidate: the tuner that is to be evaluated.
        directory: of the probe; it must not exist yet.
        noise: standard deviation of an action, in (0, 1].

    Raises:
        ConfigError: if the candidate cannot be read, or the directory exists.
    """
    original = Tuner(candidate).manifest
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
        (directory / POLICY).write_bytes(network.to_bytes())
        (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    except OSError as error:
        raise ConfigError(f"{directory}: a probe cannot be written here: {error}") from error


def read_probed(
    log: EventLog, rollout: str, *, since: int, until: int, types: Collection[str], lasts: int
) -> list[ProbedList]:
    """Read the recommendations of a probe whose outcome time is over.

    Args:
        log: events that may be used to measure.
        rollout: key of the rollout of the probe.
        since: earliest time of a recommendation, epoch milliseconds.
        until: time at which the log ends, epoch milliseconds.
        types: types of events by which an item counts as taken.
        lasts: time after a recommendation in which outcomes count, milliseconds.
    """
    lists: dict[str, ProbedList] = {}
    for records in read_batches(log, log.begin, log.end, size=_CHUNK):
        for offset, entry in decoded(records):
            if not isinstance(entry, Event) or not entry.recommendation_id:
                continue
            shown = lists.get(entry.recommendation_id)
            if shown is None:
                probed = _probed(entry, offset, rollout)
                if probed is not None and since <= probed.at <= until - lasts:
                    lists[entry.recommendation_id] = probed
            elif entry.type in types and entry.item_id in shown.items:
                shown.took |= shown.at <= entry.timestamp < shown.at + lasts
    return list(lists.values())


def evaluate_tuner(
    candidate: Path, lists: Sequence[ProbedList], *, noise: float
) -> TunerEvaluation:
    """Evaluate a tuner by recommendations of a probe, and write the result to its directory.

    Args:
        candidate: its directory.
        lists: from `read_probed`.
        noise: of the probe.

    Raises:
        ConfigError: if the tuner cannot be read, or cannot be evaluated by these recommendations.
    """
    tuner = Tuner(candidate)
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
    evaluation = TunerEvaluation(
        verdict=result.verdict,
        gain=result.gain,
        low=result.interval.low,
        high=result.interval.high,
        effective=result.overlap.effective,
        lists=len(lists),
        reasons=result.reasons,
        network=network_check(candidate),
        noise=noise,
    )
    replace_file(candidate / EVALUATION, msgspec.json.format(msgspec.json.encode(evaluation)))
    return evaluation


def _probed(event: Event, offset: int, rollout: str) -> ProbedList | None:
    shown = as_impression(event, offset)
    person = subject_key(event)
    if shown is None or person is None or arm_of(shown, rollout) != CHANGE:
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
    )
