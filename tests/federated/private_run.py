"""A small private run for tests, and a process that runs it until it is killed."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from tactful_federated.core.plan import TrainingPlan, Wishes, plan_training
from tactful_federated.core.private_training import PrivateTraining
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.model.vectors import Updates, Vector
from tactful_federated.secagg.collectors import ClearCollector

SIZE = 6
WISHES = Wishes(
    epsilon=4.0,
    delta=1e-4,
    population=60,
    rounds=20,
    report_goal=8,
    over_selection=1.5,
    minimum_reports=5,
    update_norm=1.0,
    parameters=SIZE,
    availability=1.0,
)


@cache
def small_plan(**changes: float) -> TrainingPlan:
    return plan_training(replace(WISHES, **changes))  # type: ignore[arg-type]


class Devices:
    """A population whose devices report what `update` says; None is silence."""

    def __init__(self, count: int, update: Callable[[int, int], Vector | None]) -> None:
        self.count, self.update = count, update
        self.asked: list[list[int]] = []

    def ids(self) -> Sequence[int]:
        return range(self.count)

    def train(self, ids: Sequence[int], weights: Vector, round_number: int) -> Updates:
        self.asked.append(list(ids))
        for device in ids:
            update = self.update(device, round_number)
            if update is not None:
                yield device, update


def constant(device: int, round_number: int) -> Vector:
    return np.full(SIZE, 0.25, dtype=np.float32)


def training(
    directory: Path, plan: TrainingPlan, optimizer: Optimizer | None = None
) -> PrivateTraining:
    return PrivateTraining(
        directory, plan, optimizer or Optimizer(momentum=0.0), np.zeros(SIZE, dtype=np.float32)
    )


def main() -> None:
    """Run rounds and kill this process in the middle of one, at the step that is named."""
    directory, step = Path(sys.argv[1]), sys.argv[2]
    run = training(directory, small_plan())

    def dies(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def trains(device: int, round_number: int) -> Vector:
        if step == "training" and round_number == 3:
            dies()
        return constant(device, round_number)

    devices = Devices(60, trains)
    for number in range(1, 6):
        if number == 3 and step == "saving":
            run._save = dies  # type: ignore[method-assign]
        if number == 3 and step == "recording":
            run.ledger.record_release = dies  # type: ignore[method-assign]
        outcome = run.run_round(ClearCollector(devices))
        told = " ".join(str(n) for n in [outcome.releases, *run.weights.tolist()])
        sys.stdout.write(told + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
