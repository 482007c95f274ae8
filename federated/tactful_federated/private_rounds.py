"""Rounds of private training on the server: planned, charged, summed, noised, kept, then told."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_federated.checkpoint import load_arrays, lock_directory, save_arrays, write_whole
from tactful_federated.correlated_noise import CorrelatedNoise, NoiseMemory
from tactful_federated.errors import BudgetError, CheckpointError
from tactful_federated.fixed_point import IntegerVector
from tactful_federated.optimizer import Doubles, ModelState, Optimizer, step
from tactful_federated.participation import Participation
from tactful_federated.plan import TrainingPlan
from tactful_federated.vectors import Vector

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Collected:
    """What a cohort sent.

    Attributes:
        total: Sum of its updates on the plan's grid, int64 ``[parameters]``.
        reports: How many devices it is the sum of. One whose update was unfit counts as a report
            of zeros: whether a round is released must not depend on what an update holds.
    """

    total: IntegerVector
    reports: int


class Collector(Protocol):
    """Asks devices and sums what they send; in the clear or in secret."""

    def ids(self) -> Sequence[int]:
        """Numbers of the devices that can be asked now."""

    def collect(
        self, ids: Sequence[int], weights: Vector, plan: TrainingPlan, round_number: int
    ) -> Collected:
        """Sum the updates of one round; at most `plan.cohort` devices, each at most once."""


@dataclass(frozen=True)
class Outcome:
    """What became of a round.

    Attributes:
        round: Its number, from 1.
        releases: Releases so far.
        released: Whether the model moved.
        reason: Why not, otherwise empty.
    """

    round: int
    releases: int
    released: bool
    reason: str = ""


def wait_for_devices(
    able: Callable[[], int], least: int, *, sleep: Callable[[float], None], poll: float
) -> None:
    """Wait until enough devices can be asked; the log says so once.

    Args:
        able: Counts the devices that can be asked now.
        least: How many it takes.
        sleep: Waits for seconds.
        poll: Seconds between two looks.
    """
    told = False
    while (found := able()) < least:
        if not told:
            _log.warning(
                "waiting: %d devices are online and may take part, of %d that it takes",
                found,
                least,
            )
        told = True
        sleep(poll)


class PrivateTraining:
    """One run in a directory of its own; it goes on where it stopped, also after a kill.

    Guarantee: everything that `weights`, `model` and `Outcome` ever show of one device's updates,
    over all rounds and restarts, is (plan.epsilon, plan.delta)-differentially private; unit and
    assumptions as of `TrainingPlan` and `CorrelatedNoise`. Numbers of reports are public.

    The order that it rests on: devices are charged, on disk, before they are asked; the new model
    is on disk before anybody is told; a plan is fixed by its first start. If the process dies in
    between, devices stay charged and nothing was shown.

    Args:
        directory: Of the run. It holds the noise memory, which must stay secret, and the ledger;
            restore both together or neither.
        plan: The plan; at a restart the same one.
        optimizer: How the server steps.
        weights: Initial weights, used at the first start.
        entropy: Cryptographically secure bytes, for noise and for the choice of cohorts.
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
        """Open the run, or begin it.

        Raises:
            CheckpointError: The directory is in use, damaged, or of another plan, or its
                checkpoint is older than its ledger.
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
        _fix_plan(directory / "plan.json", self.plan)
        self._noise = CorrelatedNoise(
            self.plan.root, self.plan.sigma_squared, entropy=self._entropy
        )
        self.ledger = Participation(
            directory / "participation.db",
            times=self.plan.participations,
            separation=self.plan.separation,
        )
        kept = load_arrays(self._path)
        if kept is None:
            if weights.size != self.plan.parameters:
                raise CheckpointError(
                    f"the plan is for {self.plan.parameters} parameters, not {weights.size}"
                )
            self.round, self.releases = 0, 0
            self._model, self._memory = ModelState.begin(weights), NoiseMemory.empty(weights.size)
            if self.ledger.released == 0:
                self._save(0, 0, self._model, self._memory)
        else:
            self._load(kept)
        if self.ledger.released > self.releases:
            raise CheckpointError(
                f"{self._path} is older than the ledger: going on would release rounds twice;"
                " restore the later checkpoint"
            )
        self.ledger.record_release(self.releases)

    @property
    def weights(self) -> Vector:
        """Weights that devices train from."""
        return self._model.broadcast()

    @property
    def model(self) -> Vector:
        """Weights to evaluate and to use."""
        return self._model.release()

    def able(self, devices: Sequence[int]) -> list[int]:
        """Those of the devices that may be asked for the next release, between two rounds.

        Who was asked for it in rounds that came to nothing may be asked again, or a void round
        would bar a population of about one cohort for good. Their own ledgers want the plan's
        separation in rounds; where too few are left, rounds are skipped until enough are free.
        """
        self.ledger.did_not_come(self.releases)
        free = self.ledger.free_from(devices, self.releases, self.round + 1)
        firsts, fewest = sorted(free.values()), self.plan.minimum_reports
        if len(firsts) >= fewest and (first := firsts[fewest - 1]) > self.round + 1:
            self._save(first - 1, self.releases, self._model, self._memory)
        return sorted(device for device, first in free.items() if first <= self.round + 1)

    def run_round(self, collector: Collector, weights: Vector | None = None) -> Outcome:
        """Run one round.

        Args:
            collector: Asks the devices.
            weights: What they get, if it is not what this run itself has come to; public.

        Raises:
            BudgetError: All releases of the plan are spent.
        """
        self.check_budget()
        eligible = self.able(collector.ids())
        if len(eligible) < self.plan.minimum_reports:
            return self._void("too few devices may take part now")
        cohort = self._draw(eligible)
        self.ledger.charge(cohort, self.releases, self.round + 1)
        given = self.weights if weights is None else weights
        collected = collector.collect(cohort, given, self.plan, self.round + 1)
        if collected.reports < self.plan.minimum_reports:
            return self._void("too few devices reported")
        return self.release(collected.total)

    def check_budget(self) -> None:
        """Raise `BudgetError` if all releases of the plan are spent."""
        if self.releases >= self.plan.rounds:
            raise BudgetError(
                f"all {self.plan.rounds} releases of the plan are spent: what is trained beyond"
                " them would not be covered; plan a new run"
            )

    def release(self, total: IntegerVector) -> Outcome:
        """Noise a sum of updates of charged devices, move the model, and keep it.

        Raises:
            BudgetError: All releases of the plan are spent.
            WeightsError: The sum does not fit.
        """
        self.check_budget()
        estimate, memory = self._noise.release(total, self._memory)
        average = self.plan.grid.decode(estimate) / self.plan.report_goal
        model = step(self._model, average, self._optimizer)
        self._save(self.round + 1, self.releases + 1, model, memory)
        self.ledger.record_release(self.releases)
        return Outcome(self.round, self.releases, released=True)

    def close(self) -> None:
        """Give the directory back."""
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
        """Keep a state on disk; only then is it what this run shows and goes on from."""
        save_arrays(
            self._path,
            {
                "counts": np.array([round_number, releases, model.steps]),
                "weights": model.weights,
                "velocity": model.velocity,
                "squares": model.squares,
                "average": model.average,
                "totals": memory.totals,
                "estimates": memory.estimates,
            },
        )
        self.round, self.releases = round_number, releases
        self._model, self._memory = model, memory

    def _load(self, kept: dict[str, NDArray[np.generic]]) -> None:
        try:
            self.round, self.releases, steps = (int(n) for n in kept["counts"].tolist())
            vectors = [
                cast(Doubles, kept[n]) for n in ("weights", "velocity", "squares", "average")
            ]
            self._memory = NoiseMemory(
                cast(NDArray[np.int64], kept["totals"]), cast(Doubles, kept["estimates"])
            )
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{self._path} is no checkpoint of a run") from error
        self._model = ModelState(steps, *vectors)


def _fix_plan(path: Path, plan: TrainingPlan) -> None:
    document = msgspec.json.format(msgspec.json.encode(asdict(plan)), indent=2)
    if not path.exists():
        write_whole(path, document)
    elif path.read_bytes() != document:
        raise CheckpointError(
            f"{path} holds another plan: a run keeps the one it began with; begin a new run"
        )
