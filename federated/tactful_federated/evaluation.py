"""How good a model is on the devices themselves: a private query with a budget of its own.

Counts of right answers tell of people as updates do, so they leave devices the same way: bounded,
summed (in secret where the tier says so), noised, charged before anybody is asked. An evaluation is
a run with its own plan and ledgers; who takes part in training and in evaluations loses at most the
sum of their epsilons, at the sum of their deltas.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from tactful_federated.errors import HistoryError
from tactful_federated.optimizer import Optimizer
from tactful_federated.plan import TrainingPlan, Wishes, plan_noise_in_sum, plan_training
from tactful_federated.private_rounds import Collector, PrivateTraining
from tactful_federated.scores import Score
from tactful_federated.vectors import Vector

ANSWER_SIZE: Final = 3
"""That there was a question, and the shares of answers ranked first and among the first five."""

_NORM = math.sqrt(ANSWER_SIZE)
_ADDED = Optimizer(momentum=0.0, averaging=0.0)


@dataclass(frozen=True)
class Evaluation:
    """What devices said of a model; all of it is noised.

    Attributes:
        round: Its number in the run.
        devices: How many had a question.
        top1: Mean over these devices of the share of answers ranked first, in [0, 1].
        top5: The same of the first five.
        top1_error: Standard deviation of the noise in `top1`, to first order.
        top5_error: In `top5`.
    """

    round: int
    devices: float
    top1: float
    top5: float
    top1_error: float
    top5_error: float


def plan_evaluations(wishes: Wishes, *, noise_in_sum: bool = False) -> TrainingPlan:
    """Plan a run of evaluations.

    Args:
        wishes: `rounds` is how many evaluations. What is asked of an update is fixed here: a bound
            on the norm of 1, `ANSWER_SIZE` parameters, and noise that is new each time.
        noise_in_sum: Whether devices add the noise; see `plan_noise_in_sum`.

    Raises:
        SettingsError: As `plan_training`.
    """
    wished = replace(wishes, parameters=ANSWER_SIZE, update_norm=1.0, most_bands=1)
    return plan_noise_in_sum(wished) if noise_in_sum else plan_training(wished)


def evaluator(evaluate: Callable[[Vector], Score]) -> Callable[[Vector, int], Vector]:
    """What a device answers with in an evaluation, in the place of a trainer.

    Its norm is at most 1 whatever its history holds, and each device counts the same.

    Args:
        evaluate: Scores weights on the device's own, held-out visits.
    """

    def answer(weights: Vector, round_number: int) -> Vector:
        score = evaluate(weights)
        if not score.steps:
            return np.zeros(ANSWER_SIZE, dtype=np.float32)
        shares = np.array([1.0, score.top1_rate, score.top5_rate]) / _NORM
        # Towards zero, so that no rounding exceeds the bound.
        return np.nextafter(shares.astype(np.float32), np.float32(0.0))

    return answer


class PrivateEvaluations:
    """Evaluations in a directory of their own; they go on where they stopped, also after a kill.

    Guarantee: as of `PrivateTraining`, for everything that `evaluate` returns, over all of them.

    Args:
        directory: Of the run of evaluations, not of training.
        plan: As `plan_evaluations` made it; at a restart the same one.
        entropy: Cryptographically secure bytes.
    """

    def __init__(
        self, directory: Path, plan: TrainingPlan, *, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Open the run, or begin it.

        Raises:
            CheckpointError: The directory is in use, damaged, or of another plan.
        """
        # The released averages add up in the weights of a run that steps by them alone.
        zeros = np.zeros(ANSWER_SIZE, dtype=np.float32)
        self._run = PrivateTraining(directory, plan, _ADDED, zeros, entropy=entropy)

    @property
    def left(self) -> int:
        """Evaluations that the plan still allows."""
        return self._run.plan.rounds - self._run.releases

    def able(self, devices: Sequence[int]) -> int:
        """How many of the devices may be asked now."""
        return len(self._run.able(devices))

    def evaluate(self, weights: Vector, collector: Collector) -> Evaluation:
        """Ask a cohort how good a model is.

        Args:
            weights: Of the model, as devices are to score it.
            collector: Sums what devices answer; their trainer is an `evaluator`.

        Raises:
            BudgetError: All evaluations of the plan are spent.
            HistoryError: Too few devices answered; those asked stay charged.
        """
        plan, before = self._run.plan, self._run.weights.astype(np.float64)
        outcome = self._run.run_round(collector, weights)
        if not outcome.released:
            raise HistoryError(f"no evaluation: {outcome.reason}; ask again when more are online")
        count, top1, top5 = (self._run.weights - before) * _NORM
        noise = plan.step_noise * _NORM
        if count < 5 * noise:  # no more than noise: a ratio of it would say anything
            return Evaluation(outcome.round, 0.0, math.nan, math.nan, math.inf, math.inf)
        rates = [min(1.0, max(0.0, float(part / count))) for part in (top1, top5)]
        errors = [float(noise / count * math.hypot(1.0, rate)) for rate in rates]
        return Evaluation(outcome.round, float(count * plan.report_goal), *rates, *errors)

    def close(self) -> None:
        """Give the directory back."""
        self._run.close()
