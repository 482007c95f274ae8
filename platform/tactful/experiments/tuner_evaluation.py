"""Judges a tuner by lists whose weights were left to chance, before it serves anybody.

A *probe* is a tuner that does what the champion does, with noise: its rollout gives some people
lists of weights around the champion's, and logs what was drawn with its density. By these lists
another tuner is judged, as if it drew with the same noise around its own weights.
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
from tactful.experiments.readout import arm_of
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
from tactful_streaming.contract.log_entries import Event, subject_key
from tactful_streaming.log.event_log import EventLog

_CHUNK = 2_048


class _Drawn(msgspec.Struct, frozen=True):
    state: list[float] = msgspec.field(name=STATE)
    drawn: list[float] = msgspec.field(name=DRAWN)
    log_density: float = msgspec.field(name=LOG_DENSITY)


@dataclass(slots=True)
class ProbedList:
    """A list whose weights were left to chance.

    Attributes:
        person: who was shown it.
        at: when, epoch milliseconds.
        items: what was in it.
        state: what the tuner was told.
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
    """Write a tuner that is the champion of another one, with noise.

    Args:
        candidate: the tuner that is to be judged.
        directory: where the probe goes; it may not be there yet.
        noise: standard deviation of an action, in (0, 1].

    Raises:
        ConfigError: if the candidate cannot be read, or the directory is there.
    """
    about = Tuner(candidate).manifest
    states, actions = len(about.state), len(about.champion)
    everywhere = np.full(states, 1e6, np.float32)
    network = NetworkPolicy(
        [(np.zeros((states, actions), np.float32), np.zeros(actions, np.float32))],
        np.zeros(states, np.float32),
        np.ones(states, np.float32),
        -everywhere,
        everywhere,
    )
    manifest = msgspec.structs.replace(about, noise=noise, trained_in="nowhere", figures={})
    try:
        directory.mkdir(parents=True)
        (directory / POLICY).write_bytes(network.to_bytes())
        (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    except OSError as error:
        raise ConfigError(f"{directory}: a probe cannot be written here: {error}") from error


def read_probed(
    log: EventLog, rollout: str, *, since: int, until: int, types: Collection[str], lasts: int
) -> list[ProbedList]:
    """Read the lists of a probe whose time is over.

    Args:
        log: as far as it may be used to measure.
        rollout: key of the rollout of the probe.
        since: earliest time of a list, epoch milliseconds.
        until: when the log ends, epoch milliseconds.
        types: of events that say an item of a list was taken.
        lasts: how long after a list what follows counts, milliseconds.
    """
    found: dict[str, ProbedList] = {}
    for records in read_batches(log, log.begin, log.end, size=_CHUNK):
        for offset, entry in decoded(records):
            if not isinstance(entry, Event) or not entry.recommendation_id:
                continue
            shown = found.get(entry.recommendation_id)
            if shown is None:
                probed = _probed(entry, offset, rollout)
                if probed is not None and since <= probed.at <= until - lasts:
                    found[entry.recommendation_id] = probed
            elif entry.type in types and entry.item_id in shown.items:
                shown.took |= shown.at <= entry.timestamp < shown.at + lasts
    return list(found.values())


def evaluate_tuner(
    candidate: Path, lists: Sequence[ProbedList], *, noise: float
) -> TunerEvaluation:
    """Judge a tuner by lists of a probe, and keep what was found in its directory.

    Args:
        candidate: its directory.
        lists: from `read_probed`.
        noise: of the probe.

    Raises:
        ConfigError: if the tuner cannot be read, or these lists say nothing of it.
    """
    tuner = Tuner(candidate)
    try:
        log = LoggedDecisions(
            np.array([each.took for each in lists], np.float64),
            np.exp([each.log_density for each in lists]),
            np.exp([tuner.log_density(each.state, each.drawn, noise) for each in lists]),
            units=np.unique([each.person for each in lists], return_inverse=True)[1],
            densities=True,
        )
        said = evaluate_policy(log)
    except (EvaluationError, PolicyError) as error:
        raise ConfigError(
            f"{candidate}: {len(lists)} lists of the probe say nothing of it: {error}"
        ) from error
    found = TunerEvaluation(
        verdict=said.verdict,
        gain=said.gain,
        low=said.interval.low,
        high=said.interval.high,
        effective=said.overlap.effective,
        lists=len(lists),
        reasons=said.reasons,
        network=network_check(candidate),
        noise=noise,
    )
    scratch = candidate / f".{EVALUATION}"
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    scratch.replace(candidate / EVALUATION)
    return found


def _probed(event: Event, offset: int, rollout: str) -> ProbedList | None:
    shown = as_impression(event, offset)
    person = subject_key(event)
    if shown is None or person is None or arm_of(shown, rollout) != CHANGE:
        return None
    told = {name: event.properties.get(name) for name in (STATE, DRAWN, LOG_DENSITY)}
    try:
        drawn = msgspec.convert(told, _Drawn)
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
