"""Simulation of a private run in one process, on generated shoppers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.core.fedavg import Trainees
from tactful_federated.core.invitation import Tier
from tactful_federated.core.plan import TrainingPlan, Wishes, plan_noise_in_sum, plan_training
from tactful_federated.core.private_training import Collector, Outcome, PrivateTraining
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.device.batched_trainer import SimulatedPopulation
from tactful_federated.device.ledger import DeviceLedger
from tactful_federated.device.trainer import Device
from tactful_federated.errors import WeightsError, require
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.scores import Score
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary, windows
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.collectors import ClearCollector, SecureCollector
from tactful_federated.secagg.messages import Session, enrol
from tactful_federated.secagg.rounds import Account, SecureRounds
from tactful_federated.transport.flower_clear import LocalGrid
from tactful_federated.transport.flower_secure import FlowerSecureTransport, secure_client_app

_RUN = "simulation"
_EVALUATED = 40
_NORM = 1.0


@dataclass(frozen=True)
class PrivateSimulation:
    """Result of a private simulation, with scores on shoppers outside the population."""

    plan: TrainingPlan
    releases: int  # including those of earlier starts
    void: int  # void rounds of this start
    before: Score  # of the initial model
    after: Score  # of the trained model


@dataclass(frozen=True)
class SimulatedRound:
    """Round of a private simulation, for who watches it."""

    plan: TrainingPlan
    outcome: Outcome
    epsilon: float  # privacy loss of one device if the run ends here
    seconds: float
    score: Score  # on shoppers outside the population


@dataclass(frozen=True)
class PrivateSimulationSettings:
    """Settings of `simulate_privately`.

    Attributes:
        devices: Population; all devices are reachable.
        rounds: Number of releases.
        report_goal: Updates of a round.
        epsilon: Privacy loss of each device over the whole run; delta is 0.1 / devices.
        tier: Server's view: updates, their sum, or their sum with noise of the devices.
        seed: Seed of shoppers and initial weights, not of noise.
        ray_workers: Number of Ray workers; 0 trains in this process.
        embedding: Width of a token's vector in the model.
        hidden: Width of the LSTM state.
    """

    devices: int
    rounds: int
    report_goal: int
    epsilon: float
    tier: Tier = "clear"
    seed: int = 7
    ray_workers: int = 0
    embedding: int = 32
    hidden: int = 32

    def __post_init__(self) -> None:
        """Raise `SettingsError` on an unknown tier."""
        require(
            self.tier in ("clear", "secret", "noise-in-sum"),
            f"tier is {self.tier!r}: give clear, secret or noise-in-sum",
        )

    def plan(self, parameters: int) -> TrainingPlan:
        """Plan the run of a model of so many parameters.

        Raises:
            SettingsError: There is no plan for these settings.
        """
        wishes = Wishes(
            epsilon=self.epsilon,
            delta=0.1 / self.devices,
            population=self.devices,
            rounds=self.rounds,
            report_goal=self.report_goal,
            over_selection=1.2,
            availability=1.0,
            update_norm=_NORM,
            parameters=parameters,
        )
        return plan_noise_in_sum(wishes) if self.tier == "noise-in-sum" else plan_training(wishes)


def simulate_privately(
    directory: Path,
    settings: PrivateSimulationSettings,
    *,
    progress: Callable[[Outcome], None] | None = None,
    watch: Callable[[SimulatedRound], None] | None = None,
) -> PrivateSimulation:
    """Train on generated shoppers as a deployment would, and evaluate on others.

    A restart with the same settings resumes in the directory. If sums are secret, each device has
    its own ledger in the subdirectory `devices`.

    Args:
        directory: Directory of the run.
        settings: Settings of the run.
        progress: Called after each round.
        watch: Called after each round with the score of the model, which takes a moment.

    Raises:
        SettingsError: There is no plan for the settings.
        CheckpointError: The directory cannot be used.
    """
    vocabulary, seed = Vocabulary.from_catalogue(SAMPLE_CATALOGUE), settings.seed
    widths = settings.embedding, settings.hidden
    initial = IntentModel(vocabulary.size, *widths, seed=seed).vector()
    plan = settings.plan(initial.size)
    void = 0
    with (
        closing(PrivateTraining(directory, plan, Optimizer(momentum=0.5), initial)) as training,
        _population(vocabulary, settings) as population,
    ):
        collector = _collector(settings.tier, plan, population, directory / "devices")
        while training.releases < plan.rounds and void < plan.rounds:
            begun = time.monotonic()
            outcome = training.run_round(collector)
            seconds = time.monotonic() - begun
            void += not outcome.released
            if progress:
                progress(outcome)
            if watch:
                sums = outcome.round if settings.tier == "noise-in-sum" else outcome.releases
                score = _evaluate(training.model, vocabulary, settings)
                watch(SimulatedRound(plan, outcome, plan.epsilon_after(sums), seconds, score))
        before, after = (
            _evaluate(weights, vocabulary, settings) for weights in (initial, training.model)
        )
        return PrivateSimulation(plan, training.releases, void, before, after)


@contextmanager
def _population(vocabulary: Vocabulary, settings: PrivateSimulationSettings) -> Iterator[Trainees]:
    questions = {
        device: windows(vocabulary.sequence(sample_history(device, seed=settings.seed)), context=8)
        for device in range(1, settings.devices + 1)
    }
    options: dict[str, Any] = {
        "settings": TrainerSettings(learning_rate=1.0, update_norm=_NORM),
        "seed": settings.seed,
        "embedding": settings.embedding,
        "hidden": settings.hidden,
    }
    if not settings.ray_workers:
        yield SimulatedPopulation(questions, vocabulary.size, **options)
        return
    from tactful_federated.simulation.ray import RayPopulation

    population = RayPopulation(questions, vocabulary.size, workers=settings.ray_workers, **options)
    with closing(population):
        yield population


def _evaluate(
    weights: Vector, vocabulary: Vocabulary, settings: PrivateSimulationSettings
) -> Score:
    """Score weights on generated shoppers outside the population."""
    half, widths = TrainerSettings(held_out=0.5), (settings.embedding, settings.hidden)
    total, first = Score(), settings.devices + 1
    for shopper in range(first, first + _EVALUATED):
        history = sample_history(shopper, seed=settings.seed)
        total += Device(history, vocabulary, half, widths=widths).evaluate(weights)
    return total


def _collector(tier: Tier, plan: TrainingPlan, population: Trainees, ledgers: Path) -> Collector:
    if tier == "clear":
        return ClearCollector(population)
    authority = Ed25519PrivateKey.generate()
    ledgers.mkdir(parents=True, exist_ok=True)

    def join(device: int) -> SecureRounds:
        def train(weights: Vector, round_number: int) -> Vector:
            for _, update in population.train([device], weights, round_number):
                return update
            raise WeightsError("training diverged")

        def account(call: Callable[[DeviceLedger, Session, TrainingPlan], None]) -> Any:
            def opened(session: Session) -> None:
                # Opened for each call: thousands of open files would exceed the limit.
                with closing(DeviceLedger(ledgers / f"{device}.db")) as ledger:
                    call(ledger, session, plan)

            return opened

        identity = Ed25519PrivateKey.generate()
        return SecureRounds(
            _RUN,
            plan,
            train,
            enrol(authority, device, identity.public_key()),
            identity,
            authority.public_key(),
            account=Account(account(DeviceLedger.join), account(DeviceLedger.charge)),
        )

    devices = {device: join(device) for device in population.ids()}
    grid = LocalGrid(secure_client_app(lambda context: devices[context.node_id]), len(devices))
    return SecureCollector(FlowerSecureTransport(grid), authority.public_key(), run=_RUN)
