"""Private training on the server: charge, sum, add noise, save, then publish."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_federated.core.checkpoint import (
    RoundCounter,
    load_arrays,
    lock_directory,
    save_arrays,
    write_whole,
)
from tactful_federated.core.correlated_noise import CorrelatedNoise, NoiseMemory
from tactful_federated.core.participation import Participation
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.core.polling import Polling
from tactful_federated.core.server_optimizer import Doubles, ModelState, Optimizer, step
from tactful_federated.errors import BudgetError, CheckpointError
from tactful_federated.model.vectors import IntegerVector, Vector

_log = logging.getLogger(__name__)

_VECTORS = ("weights", "velocity", "squares", "average")


@dataclass(frozen=True, eq=False)
class Collected:
    """Sum of the updates of a cohort.

    An invalid update counts as a report of zeros, since the content of an update must not decide
    whether a round is released.
    """

    total: IntegerVector  # sum of updates on the grid of the plan, int64 [parameters]
    reports: int  # number of devices in the sum
    spared: frozenset[int] = frozenset()  # devices asked for no update, so not charged


class Collector(Protocol):
    """Interface that asks devices and sums their updates, in the clear or in secret."""

    def ids(self) -> Sequence[int]:
        """Return the numbers of the devices that are available now."""

    def collect(
        self, ids: Sequence[int], weights: Vector, plan: TrainingPlan, round_number: int
    ) -> Collected:
        """Sum the updates of a round: at most `plan.cohort` devices, each at most once."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a round.

    Attributes:
        round: Number of the round, from 1.
        releases: Number of releases so far.
        released: Whether the model changed.
        reason: Reason why it did not change, else empty.
        asked: Number of devices that were asked; None without a cohort.
        reports: Number of devices in the sum; None without a cohort.
        noisy_norm: Euclidean norm of the average update with its noise, as public as the model;
            None if the model did not change.
    """

    round: int
    releases: int
    released: bool
    reason: str = ""
    asked: int | None = None
    reports: int | None = None
    noisy_norm: float | None = None


def wait_for_devices(available: Callable[[], int], needed: int, polling: Polling) -> None:
    """Wait until enough devices can be asked; logs one warning."""
    warned = False
    while (count := available()) < needed:
        if not warned:
            _log.warning("waiting for devices: %d of %d are online and eligible", count, needed)
        warned = True
        polling.sleep(polling.interval)


class PrivateTraining:
    """Private run in its own directory; it resumes after a kill.

    Guarantee: all that `weights`, `model` and `Outcome` show of the updates of one device, over all
    rounds and restarts, is (plan.epsilon, plan.delta)-differentially private; unit and assumptions
    are those of `TrainingPlan` and `CorrelatedNoise`. Numbers of reports are public.

    The guarantee depends on the order of writes: devices are charged on disk before they are asked;
    the new model is on disk before it is published; the first start fixes the plan. If the process
    is killed in between, devices stay charged and nothing was published.

        plan.json         the plan of the first start
        participation.db  charges of devices, number of releases, name of the `RoundCounter`
        state.npz         round, releases, model and noise memory
        lock              held by the running process

    Args:
        directory: Directory of the run. The noise memory in it must stay secret; restore only its
            newest copy.
        plan: Plan of the run, the same at each start.
        optimizer: Server optimiser.
        weights: Initial weights, used at the first start.
        entropy: Source of cryptographically secure bytes, for noise and cohorts.
    """

    def __init__(
        self,
        directory: Path,
        plan: TrainingPlan,
        optimizer: Optimizer,
        weights: Vector,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Open or create the run.

        Raises:
            CheckpointError: The directory is in use, damaged or has another plan, or the
                checkpoint and the ledger are not from the newest copy.
            WeightsError: The weights do not fit the plan.
        """
        self.plan, self._optimizer, self._entropy = plan, optimizer, entropy
        self._lock = lock_directory(directory)
        try:
            self._open(directory, weights)
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self, directory: Path, weights: Vector) -> None:
        self._path = directory / "state.npz"
        plan = self.plan
        _fix_plan(directory / "plan.json", plan)
        self._noise = CorrelatedNoise(plan.root, plan.sigma_squared, entropy=self._entropy)
        self.ledger = Participation(
            directory / "participation.db", times=plan.participations, separation=plan.separation
        )
        name, new = self.ledger.name()
        self._counter = RoundCounter(directory, name, new=new)
        arrays = load_arrays(self._path)
        if arrays is None:
            if weights.size != plan.parameters:
                raise CheckpointError(
                    f"the plan is for {plan.parameters} parameters, not {weights.size}"
                )
            self.round, self.releases = 0, 0
            self._model, self._memory = ModelState.begin(weights), NoiseMemory.empty(weights.size)
            if self.ledger.released == 0:
                self._counter.check(0)
                self._save(0, 0, self._model, self._memory)
        else:
            self._load(arrays)
        if self.ledger.released > self.releases:
            raise CheckpointError(
                f"{self._path} is older than the ledger, so rounds would be released twice:"
                " restore the newer checkpoint"
            )
        if self.releases > self.ledger.released + 1:  # one more after a kill between both writes
            raise CheckpointError(
                f"the ledger beside {self._path} is older than it, so devices could take part too"
                " often: restore the newest copy of both"
            )
        self._counter.check(self.round)
        self._counter.write(self.round)
        self.ledger.record_release(self.releases)

    @property
    def weights(self) -> Vector:
        """Weights that devices train from, float32."""
        return self._model.broadcast()

    @property
    def model(self) -> Vector:
        """Weights to evaluate and to use, float32."""
        return self._model.release()

    def able(self, devices: Sequence[int]) -> list[int]:
        """Return the devices that may be asked for the next release; call between rounds.

        Devices asked for it in void rounds may be asked again; otherwise a void round would block a
        population of about one cohort for good. The ledgers of the devices require the separation
        of the plan in rounds, so rounds are skipped until enough devices are free.
        """
        self.ledger.did_not_come(self.releases)
        first_rounds = self.ledger.free_from(devices, self.releases, self.round + 1)
        sorted_rounds, needed = sorted(first_rounds.values()), self.plan.minimum_reports
        if len(sorted_rounds) >= needed and (first := sorted_rounds[needed - 1]) > self.round + 1:
            self._save(first - 1, self.releases, self._model, self._memory)
        return sorted(device for device, first in first_rounds.items() if first <= self.round + 1)

    def run_round(self, collector: Collector, weights: Vector | None = None) -> Outcome:
        """Run one round; `weights` are public ones to send instead of those of the run.

        Raises:
            BudgetError: All releases of the plan are spent.
        """
        self.check_budget()
        eligible = self.able(collector.ids())
        if len(eligible) < self.plan.minimum_reports:
            return self._void("too few devices may take part now")
        cohort = self._draw(eligible)
        self.ledger.charge(cohort, self.releases, self.round + 1)
        sent = self.weights if weights is None else weights
        collected = collector.collect(cohort, sent, self.plan, self.round + 1)
        self.ledger.refund(collected.spared, self.releases)
        if collected.reports < self.plan.minimum_reports:
            outcome = self._void("too few devices reported")
        else:
            outcome = self.release(collected.total)
        return replace(outcome, asked=len(cohort), reports=collected.reports)

    def check_budget(self) -> None:
        """Raise `BudgetError` if all releases of the plan are spent."""
        if self.releases >= self.plan.rounds:
            raise BudgetError(
                f"all {self.plan.rounds} releases of the plan are spent: the budget does not cover"
                " further training; plan a new run"
            )

    def release(self, total: IntegerVector) -> Outcome:
        """Add noise to a sum of updates of charged devices, step the model and save it.

        Raises:
            BudgetError: All releases of the plan are spent.
            WeightsError: The sum has the wrong shape or dtype.
        """
        self.check_budget()
        estimate, memory = self._noise.release(total, self._memory)
        average = self.plan.grid.decode(estimate) / self.plan.report_goal
        model = step(self._model, average, self._optimizer)
        self._save(self.round + 1, self.releases + 1, model, memory)
        self.ledger.record_release(self.releases)
        norm = float(np.linalg.norm(average))
        return Outcome(self.round, self.releases, released=True, noisy_norm=norm)

    def close(self) -> None:
        """Unlock the directory."""
        self.ledger.close()
        os.close(self._lock)

    def _void(self, reason: str) -> Outcome:
        self._save(self.round + 1, self.releases, self._model, self._memory)
        _log.warning("round %d is void: %s", self.round, reason)
        return Outcome(self.round, self.releases, released=False, reason=reason)

    def _draw(self, eligible: list[int]) -> list[int]:
        seed = int.from_bytes(self._entropy(16), "big")
        order = np.random.default_rng(seed).permutation(len(eligible))
        return [eligible[i] for i in order[: self.plan.cohort]]

    def _save(
        self, round_number: int, releases: int, model: ModelState, memory: NoiseMemory
    ) -> None:
        """Save a state to disk, then make it the current one."""
        save_arrays(
            self._path,
            {
                "counts": np.array([round_number, releases, model.steps]),
                **{name: getattr(model, name) for name in _VECTORS},
                "totals": memory.totals,
                "estimates": memory.estimates,
            },
        )
        self.round, self.releases = round_number, releases
        self._model, self._memory = model, memory
        self._counter.write(round_number)

    def _load(self, arrays: dict[str, NDArray[np.generic]]) -> None:
        try:
            self.round, self.releases, steps = (int(n) for n in arrays["counts"].tolist())
            vectors = [cast(Doubles, arrays[name]) for name in _VECTORS]
            self._memory = NoiseMemory(
                cast(NDArray[np.int64], arrays["totals"]), cast(Doubles, arrays["estimates"])
            )
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{self._path} is no checkpoint of a run: restore it") from error
        self._model = ModelState(steps, *vectors)


def _fix_plan(path: Path, plan: TrainingPlan) -> None:
    document = msgspec.json.format(msgspec.json.encode(asdict(plan)), indent=2)
    if not path.exists():
        write_whole(path, document)
    elif path.read_bytes() != document:
        raise CheckpointError(
            f"{path} holds another plan, and a run cannot change its plan: start a new run"
        )
