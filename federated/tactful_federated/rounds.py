"""Federated averaging on the server: cohorts, report goals, momentum, void rounds.

FedAvg (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", 2017) with server momentum (Hsu et al., "Measuring the Effects of Non-Identical Data
Distribution", 2019). Every update weighs the same and the sum is always divided by the *report
goal*, however many devices reported, so that one device moves the model by at most
`update_norm / report_goal` whatever the others do: the property a later noise level is
calibrated to (McMahan et al., "Learning Differentially Private Recurrent Language Models", 2018,
estimator f_f).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import HistoryError, WeightsError, require
from tactful_federated.scores import Score
from tactful_federated.vectors import Vector, check_vector, l2_norm

_log = logging.getLogger(__name__)

_NORM_TOLERANCE = 1e-6
"""Relative slack on a reported norm: another machine may sum the squares in another order."""


class Population(Protocol):
    """Devices that can be asked, wherever they are."""

    def ids(self) -> Sequence[int]:
        """Numbers of the devices that can be asked now."""

    def train(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Iterable[tuple[int, Vector]]:
        """Updates in order of arrival; devices that vanish or fail are simply missing."""

    def evaluate(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Mapping[int, Score]:
        """Scores of the devices that answered."""


@dataclass(frozen=True)
class RoundSettings:
    """How the server runs a round.

    Attributes:
        cohort: Devices asked per round; more than `report_goal` makes up for drop-outs.
        report_goal: Updates that close a round, and the denominator of every round.
        minimum_reports: With fewer accepted updates the round is void.
        update_norm: Largest Euclidean norm of an update that is accepted, above 0.
        learning_rate: Server step size, above 0.
        momentum: Share of the last step that is repeated, 0 to below 1; 0 is plain FedAvg.
        averaging: Decay of the exponential average of the iterates that is evaluated and
            released, 0 to below 1; 0 releases the last iterate. The decay warms up as
            min(averaging, t / (t + 9)) over applied rounds t, so early iterates do not linger.
    """

    cohort: int = 24
    report_goal: int = 24
    minimum_reports: int = 16
    update_norm: float = 2.0
    learning_rate: float = 1.0
    momentum: float = 0.9
    averaging: float = 0.9

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a setting outside its range."""
        require(
            1 <= self.minimum_reports <= self.report_goal <= self.cohort,
            "a round needs 1 <= minimum_reports <= report_goal <= cohort, not "
            f"{self.minimum_reports}, {self.report_goal}, {self.cohort}",
        )
        for name in ("update_norm", "learning_rate"):
            value = getattr(self, name)
            require(value > 0 and np.isfinite(value), f"{name} must be finite and above 0")
        for name in ("momentum", "averaging"):
            require(0 <= getattr(self, name) < 1, f"{name} must be at least 0 and below 1")


@dataclass(frozen=True, eq=False)
class ServerState:
    """Everything a run needs to go on: three float64 vectors of shape (parameters,).

    Attributes:
        round: Rounds run so far, void ones included.
        applied: Rounds that changed the model.
        weights: Current iterate.
        velocity: Momentum buffer.
        average: Exponential average of the iterates.
    """

    round: int
    applied: int
    weights: NDArray[np.float64]
    velocity: NDArray[np.float64]
    average: NDArray[np.float64]

    def broadcast(self) -> Vector:
        """Weights devices train from, float32."""
        return self.weights.astype(np.float32)

    def release(self) -> Vector:
        """Weights to evaluate and to use, float32."""
        return self.average.astype(np.float32)


@dataclass(frozen=True)
class Tally:
    """What became of one round's requests; `reports` were used, `refused` were unfit."""

    reports: int
    refused: int
    void: bool


@dataclass(frozen=True)
class RoundResult:
    """One round as it is shown.

    Attributes:
        round: Number of the round, from 1.
        loss: Mean -log p(answer) in nats on the devices' held-out baskets, after the round.
        top1: Share of answers ranked first.
        top5: Share of answers among the first five.
        reports: Updates that entered the model.
        refused: Updates refused as unfit.
        void: True if too few updates came and the model did not change.
    """

    round: int
    loss: float
    top1: float
    top5: float
    reports: int
    refused: int = 0
    void: bool = False


def start(weights: Vector) -> ServerState:
    """State before the first round.

    Raises:
        WeightsError: The weights are no finite flat float32 vector.
    """
    initial = check_vector(weights, weights.size).astype(np.float64)
    return ServerState(0, 0, initial, np.zeros_like(initial), initial)


def sample_cohort(
    ids: Sequence[int], settings: RoundSettings, round_number: int, *, seed: int
) -> list[int]:
    """Draw the cohort of a round without replacement; fewer devices than `cohort` are all asked.

    The draw depends on the set of devices, the seed and the round, not on the order of `ids`.
    """
    everyone = sorted(set(ids))
    order = np.random.default_rng((seed, round_number)).permutation(len(everyone))
    return [everyone[i] for i in order[: settings.cohort]]


def apply_reports(
    state: ServerState,
    asked: Sequence[int],
    reports: Iterable[tuple[int, Vector]],
    settings: RoundSettings,
) -> tuple[ServerState, Tally]:
    """Fold the reports of one round into the model.

    A report counts if its device was asked and has not reported yet and its update is a finite
    float32 vector of the model's size and of norm at most `update_norm`. The first `report_goal`
    of them enter; below `minimum_reports` the round is void: only its number goes on. The result
    depends on which updates enter and not on their order.

    Args:
        state: State before the round.
        asked: The cohort.
        reports: (device, update) in order of arrival; reading stops at the report goal.
        settings: How the round is run.
    """
    accepted: dict[int, Vector] = {}
    refused = 0
    for device, update in reports:
        if device not in asked or device in accepted:
            _log.warning("round %d: an update nobody asked for was ignored", state.round + 1)
            continue
        reason = _unfit(update, state.weights.size, settings.update_norm)
        if reason:
            refused += 1
            _log.warning("round %d: an update was refused: %s", state.round + 1, reason)
            continue
        accepted[device] = update
        if len(accepted) == settings.report_goal:
            break
    tally = Tally(len(accepted), refused, len(accepted) < settings.minimum_reports)
    if tally.void:
        _log.warning(
            "round %d is void: %d reports of at least %d",
            state.round + 1,
            tally.reports,
            settings.minimum_reports,
        )
        unchanged = ServerState(
            state.round + 1, state.applied, state.weights, state.velocity, state.average
        )
        return unchanged, tally
    total = np.zeros_like(state.weights)
    for device in sorted(accepted):
        total += accepted[device]
    velocity = settings.momentum * state.velocity + total / settings.report_goal
    weights = state.weights + settings.learning_rate * velocity
    applied = state.applied + 1
    decay = min(settings.averaging, applied / (applied + 9))
    average = decay * state.average + (1 - decay) * weights
    return ServerState(state.round + 1, applied, weights, velocity, average), tally


def run_rounds(
    population: Population,
    state: ServerState,
    settings: RoundSettings,
    *,
    rounds: int,
    seed: int,
    progress: Callable[[RoundResult], None] | None = None,
) -> tuple[ServerState, list[RoundResult]]:
    """Run `rounds` more rounds; every device scores the released weights after each.

    Two runs from equal states with equal seeds and devices give equal results, and a run can be
    continued from a state that was kept.

    Args:
        population: The devices.
        state: Where to start.
        settings: How rounds are run.
        rounds: How many, at least 0.
        seed: Seed of the cohorts.
        progress: Called after each round.

    Raises:
        HistoryError: The population has fewer devices than `minimum_reports`.
    """
    results: list[RoundResult] = []
    for _ in range(rounds):
        ids = population.ids()
        if len(ids) < settings.minimum_reports:
            raise HistoryError(
                f"{len(ids)} devices can be asked, but a round needs {settings.minimum_reports}"
            )
        number = state.round + 1
        cohort = sample_cohort(ids, settings, number, seed=seed)
        state, tally = apply_reports(
            state, cohort, population.train(cohort, state.broadcast(), number), settings
        )
        score = sum(population.evaluate(ids, state.release(), number).values(), Score())
        results.append(
            RoundResult(
                round=number,
                loss=score.mean_loss,
                top1=score.top1_rate,
                top5=score.top5_rate,
                reports=tally.reports,
                refused=tally.refused,
                void=tally.void,
            )
        )
        if progress is not None:
            progress(results[-1])
    return state, results


def _unfit(update: Vector, size: int, norm: float) -> str:
    try:
        length = l2_norm(check_vector(update, size))
    except WeightsError as error:
        return str(error)
    return "" if length <= norm * (1 + _NORM_TOLERANCE) else "its norm exceeds the bound"
