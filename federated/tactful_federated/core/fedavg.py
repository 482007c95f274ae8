"""Rounds of federated averaging on the server: cohorts, report goals, void rounds.

FedAvg (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", 2017). All updates have equal weight, and the sum is divided by the *report goal*, not by the
number of reports. One device therefore moves the average by at most `update_norm / report_goal`,
independently of the others; noise can be calibrated to this bound (McMahan et al., "Learning
Differentially Private Recurrent Language Models", 2018, estimator f_f).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tactful_federated.core.server_optimizer import ModelState, Optimizer, step
from tactful_federated.errors import HistoryError, WeightsError, require, require_positive
from tactful_federated.model.scores import Score, Scores
from tactful_federated.model.vectors import Updates, Vector, check_vector, l2_norm

_log = logging.getLogger(__name__)

_NORM_TOLERANCE = 1e-6
"""Relative tolerance of a reported norm, since machines sum squares in different orders."""


class Trainees(Protocol):
    """Interface to devices that train, local or remote."""

    def ids(self) -> Sequence[int]:
        """Return the numbers of the devices that are available now."""

    def train(self, ids: Sequence[int], weights: Vector, round_number: int) -> Updates:
        """Yield updates in order of arrival; devices that fail are left out."""


class Population(Trainees, Protocol):
    """Interface to devices that also evaluate."""

    def evaluate(self, ids: Sequence[int], weights: Vector, round_number: int) -> Scores:
        """Return the scores of the devices that answered."""


@dataclass(frozen=True)
class RoundSettings:
    """Settings of a round on the server.

    Attributes:
        cohort: Devices asked in a round; more than `report_goal` to allow for drop-outs.
        report_goal: Updates that close a round, and the divisor of their sum.
        minimum_reports: Fewest accepted updates; with fewer the round is void.
        update_norm: Largest Euclidean norm of an accepted update, above 0.
        optimizer: Server optimiser.
    """

    cohort: int = 24
    report_goal: int = 24
    minimum_reports: int = 16
    update_norm: float = 2.0
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a setting outside its range."""
        require(
            1 <= self.minimum_reports <= self.report_goal <= self.cohort,
            "a round needs 1 <= minimum_reports <= report_goal <= cohort, not "
            f"{self.minimum_reports}, {self.report_goal}, {self.cohort}",
        )
        require_positive(self, "update_norm")


@dataclass(frozen=True, eq=False)
class ServerState:
    """State of a run between two rounds."""

    round: int  # number of rounds so far, including void ones
    model: ModelState  # model and moments; `model.steps` counts the rounds that were not void


@dataclass(frozen=True)
class Tally:
    """Counts of the updates of one round: `reports` were used, `refused` were invalid."""

    reports: int
    refused: int
    void: bool


@dataclass(frozen=True)
class RoundResult:
    """Public figures of one round, on the devices' held-out baskets after it."""

    round: int  # from 1
    loss: float  # mean -log p(answer) in nats
    top1: float  # share of answers ranked first
    top5: float  # share of answers among the first five
    reports: int  # updates that were used
    refused: int = 0  # updates that were invalid
    void: bool = False  # whether too few updates arrived, so that the model did not change


def start(weights: Vector) -> ServerState:
    """Return the state before the first round.

    Raises:
        WeightsError: The weights are not a finite, flat float32 vector.
    """
    return ServerState(0, ModelState.begin(weights))


def sample_cohort(
    ids: Sequence[int], settings: RoundSettings, round_number: int, *, seed: int
) -> list[int]:
    """Draw the cohort of a round without replacement; all devices if too few exist.

    The draw depends on the set of devices, the seed and the round, not on the order of `ids`.
    """
    devices = sorted(set(ids))
    order = np.random.default_rng((seed, round_number)).permutation(len(devices))
    return [devices[i] for i in order[: settings.cohort]]


def apply_reports(
    state: ServerState, asked: Sequence[int], reports: Updates, settings: RoundSettings
) -> tuple[ServerState, Tally]:
    """Apply the updates of one round, in order of arrival, to the model.

    An update is used if its device was asked and has not reported yet, and if it is a finite
    float32 vector of the size of the model with a norm of at most `update_norm`. The first
    `report_goal` of them are used; with fewer than `minimum_reports` the round is void and the
    model does not change. The result depends on the set of updates, not on their order.
    """
    number, model = state.round + 1, state.model
    accepted: dict[int, Vector] = {}
    refused = 0
    for device, update in reports:
        if device not in asked or device in accepted:
            _log.warning("round %d: ignored an update that was not requested", number)
            continue
        problem = _problem(update, model.weights.size, settings.update_norm)
        if problem:
            refused += 1
            _log.warning("round %d: refused an update: %s", number, problem)
            continue
        accepted[device] = update
        if len(accepted) == settings.report_goal:
            break
    tally = Tally(len(accepted), refused, len(accepted) < settings.minimum_reports)
    if tally.void:
        needed = settings.minimum_reports
        _log.warning("round %d is void: %d of %d reports", number, tally.reports, needed)
        return ServerState(number, model), tally
    total = np.zeros_like(model.weights)
    for device in sorted(accepted):  # in a fixed order: float addition is not associative
        total += accepted[device]
    average = total / settings.report_goal
    return ServerState(number, step(model, average, settings.optimizer)), tally


def run_rounds(
    population: Population,
    state: ServerState,
    settings: RoundSettings,
    *,
    rounds: int,
    seed: int,
    progress: Callable[[RoundResult], None] | None = None,
) -> tuple[ServerState, list[RoundResult]]:
    """Run `rounds` more rounds; after each, every device scores the averaged weights.

    Runs from equal states with equal seeds and devices give equal results, and a run can continue
    from a saved state.

    Args:
        population: The devices.
        state: State to start from.
        settings: Settings of the rounds.
        rounds: Number of rounds, at least 0.
        seed: Seed of the cohorts.
        progress: Called after each round.

    Returns:
        State after the last round, and the figures of each round.

    Raises:
        HistoryError: The population has fewer devices than `minimum_reports`.
    """
    results: list[RoundResult] = []
    for _ in range(rounds):
        ids = population.ids()
        if len(ids) < settings.minimum_reports:
            raise HistoryError(
                f"{len(ids)} devices are available, but a round needs {settings.minimum_reports}"
            )
        number = state.round + 1
        cohort = sample_cohort(ids, settings, number, seed=seed)
        state, tally = apply_reports(
            state, cohort, population.train(cohort, state.model.broadcast(), number), settings
        )
        score = sum(population.evaluate(ids, state.model.release(), number).values(), Score())
        figures = score.mean_loss, score.top1_rate, score.top5_rate
        results.append(RoundResult(number, *figures, tally.reports, tally.refused, tally.void))
        if progress is not None:
            progress(results[-1])
    return state, results


def _problem(update: Vector, size: int, norm: float) -> str:
    """Return the reason to refuse an update, or ""."""
    try:
        length = l2_norm(check_vector(update, size))
    except WeightsError as error:
        return str(error)
    return "" if length <= norm * (1 + _NORM_TOLERANCE) else "its norm exceeds update_norm"
