"""Train a tuner in the simulated shop, and evaluate it by recommendations before it serves.

Training needs the extra `tuner`; evaluation does not.

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

from tactful.errors import ConfigError, ModelError
from tactful.event_log.batches import decoded, read_batches
from tactful.event_log.impressions import as_impression, is_served
from tactful.event_log.recipients import Recipients
from tactful.experiments.definitions import CHANGE
from tactful.experiments.tally import arm_of
from tactful.rerank import tuned_objective
from tactful_bandits.errors import EvaluationError, MissingExtraError, PolicyError
from tactful_bandits.evaluation.off_policy import LoggedDecisions
from tactful_bandits.evaluation.verdict import evaluate_policy
from tactful_bandits.tuner.network import NetworkPolicy
from tactful_bandits.tuner.weight_bounds import CHAMPION, OBJECTIVES, WeightBounds
from tactful_privacy.durable_files import replace_file
from tactful_streaming.contract.log_entries import Event, subject_key
from tactful_streaming.log.event_log import EventLog

_CHUNK = 2_048
_EVALUATED = 9_000  # first seed of the shops in which policies are compared; none learns there
_EVALUATED_HOURS = 500
_SHOPS = 4


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


def train_in_simulator(
    directory: Path, *, hours: int, seed: int, rivals: bool = True
) -> dict[str, float]:
    """Train, compare, and write a directory that `tactful.rerank.tuned_objective.Tuner` reads.

    An older tuner there is replaced at the end. Return click rates in shops without training,
    relative to the champion's and, with `rivals`, to those of the best fixed and the best linear
    weights, and the worst loss during training.

    Raises:
        ModelError: if the extra is not installed.
    """
    try:
        import torch

        from tactful_bandits.tuner import baselines
        from tactful_bandits.tuner.tuner import make_tuner, tune_in_market, worst_loss
    except (MissingExtraError, ModuleNotFoundError) as error:
        raise ModelError(
            f"training a tuner needs PyTorch: pip install 'tactful[tuner]' ({error})"
        ) from error
    from tactful_bandits.tuner import simulator

    torch.set_num_threads(1)
    bounds = WeightBounds(CHAMPION)
    agent = make_tuner(bounds, seed)
    course = tune_in_market(agent, seed, hours, bounds)
    network = agent.export()

    def rate(policy: baselines.StatePolicy) -> float:
        rates, _, _ = baselines.play(
            policy, _EVALUATED + seed, _EVALUATED_HOURS, bounds, environments=_SHOPS
        )
        return float(rates.mean())

    def always(action: baselines.Floats) -> baselines.StatePolicy:
        return lambda states: np.tile(action, (len(states), 1))

    tuned = rate(lambda states: np.array([network.act(state) for state in states], np.float64))
    figures = {
        "tuner_vs_champion": tuned / rate(always(np.zeros(len(CHAMPION)))),
        "worst_loss_where_it_learnt": worst_loss(course.expected_click_rate, course.champion),
    }
    if rivals:
        figures["tuner_vs_static"] = tuned / rate(always(baselines.best_static(bounds, seed + 500)))
        linear = baselines.linear_policy(baselines.linear_contextual(bounds, seed + 600))
        figures["tuner_vs_linear"] = tuned / rate(linear)
    manifest = tuned_objective.TunerManifest(
        champion=CHAMPION,
        reach=bounds.reach,
        objectives=OBJECTIVES,
        state=simulator.STATE,
        trained_in="simulator",
        figures=figures,
    )
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / tuned_objective.POLICY, network.to_bytes())
    document = msgspec.json.format(msgspec.json.encode(manifest))
    replace_file(directory / tuned_objective.MANIFEST, document)
    return figures


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
    candidate: Path, lists: Sequence[ProbedList], *, noise: float
) -> tuned_objective.TunerEvaluation:
    """Evaluate a tuner by recommendations of a probe, and write the result to its directory.

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
    evaluation = tuned_objective.TunerEvaluation(
        verdict=result.verdict,
        gain=result.gain,
        low=result.interval.low,
        high=result.interval.high,
        effective=result.overlap.effective,
        lists=len(lists),
        reasons=result.reasons,
        network=tuned_objective.network_check(candidate),
        noise=noise,
    )
    replace_file(
        candidate / tuned_objective.EVALUATION, msgspec.json.format(msgspec.json.encode(evaluation))
    )
    return evaluation


def _probed(event: Event, offset: int, rollout: str) -> ProbedList | None:
    shown = as_impression(event, offset)
    person = subject_key(event)
    if shown is None or not is_served(event) or person is None:
        return None
    if arm_of(shown, rollout) != CHANGE:
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
