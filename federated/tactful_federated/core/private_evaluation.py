"""Private evaluation of a model on devices, with its own privacy budget.

Counts of right answers reveal information about users as updates do, so they are treated alike:
bounded, summed (in secret, if the tier says so), noised, and charged before a device is asked. An
evaluation is a run with its own plan and ledgers. The loss of a device in training and evaluations
is at most the sum of their epsilons, at the sum of their deltas.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tactful_federated.core.evaluation_answer import ANSWER_NORM, ANSWER_SIZE
from tactful_federated.core.plan import TrainingPlan, Wishes, plan_noise_in_sum, plan_training
from tactful_federated.core.private_training import Collector, PrivateTraining
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.errors import HistoryError
from tactful_federated.model.vectors import Vector

_SUM = Optimizer(momentum=0.0, averaging=0.0)


@dataclass(frozen=True)
class Evaluation:
    """Noisy result of an evaluation.

    Attributes:
        round: Number of the round in the run.
        devices: Number of devices that had a question.
        top1: Mean over these devices of the share of answers ranked first, in [0, 1].
        top5: Mean of the share among the first five.
        top1_error: Standard deviation of the noise in `top1`, to first order.
        top5_error: Standard deviation of the noise in `top5`.
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
        wishes: Requirements; `rounds` is the number of evaluations. The norm (1), the parameters
            (`ANSWER_SIZE`) and independent noise are set here.
        noise_in_sum: Whether devices add the noise; see `plan_noise_in_sum`.

    Raises:
        SettingsError: See `plan_training`.
    """
    wished = replace(wishes, parameters=ANSWER_SIZE, update_norm=1.0, most_bands=1)
    return plan_noise_in_sum(wished) if noise_in_sum else plan_training(wished)


class PrivateEvaluations:
    """Run of evaluations in its own directory; it resumes after a kill.

    Guarantee: that of `PrivateTraining`, for all results of `evaluate` together.

    Args:
        directory: Directory of the evaluations, not of the training.
        plan: Plan from `plan_evaluations`; the same at each start.
        entropy: Source of cryptographically secure bytes.
    """

    def __init__(
        self, directory: Path, plan: TrainingPlan, *, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Open or create the run.

        Raises:
            CheckpointError: The directory is in use, damaged, or has another plan.
        """
        # An optimizer without momentum adds each released average to the weights.
        zeros = np.zeros(ANSWER_SIZE, dtype=np.float32)
        self._run = PrivateTraining(directory, plan, _SUM, zeros, entropy=entropy)

    @property
    def left(self) -> int:
        """Number of evaluations that the plan still allows."""
        return self._run.plan.rounds - self._run.releases

    def able(self, devices: Sequence[int]) -> int:
        """Return the number of devices that may be asked now."""
        return len(self._run.able(devices))

    def evaluate(self, weights: Vector, collector: Collector) -> Evaluation:
        """Evaluate a model on a cohort of devices whose trainer is an `evaluator`.

        Raises:
            BudgetError: All evaluations of the plan are spent.
            HistoryError: Too few devices answered; the devices asked stay charged.
        """
        plan, before = self._run.plan, self._run.weights.astype(np.float64)
        outcome = self._run.run_round(collector, weights)
        if not outcome.released:
            raise HistoryError(
                f"no evaluation: {outcome.reason}; try again when more devices are online"
            )
        count, top1, top5 = (self._run.weights - before) * ANSWER_NORM
        noise = plan.step_noise * ANSWER_NORM
        if count < 5 * noise:  # no more than noise, so a ratio would be meaningless
            return Evaluation(outcome.round, 0.0, math.nan, math.nan, math.inf, math.inf)
        rates = [min(1.0, max(0.0, float(part / count))) for part in (top1, top5)]
        errors = [float(noise / count * math.hypot(1.0, rate)) for rate in rates]
        return Evaluation(outcome.round, float(count * plan.report_goal), *rates, *errors)

    def close(self) -> None:
        """Unlock the directory."""
        self._run.close()
