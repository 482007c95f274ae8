"""A private run in one process, on generated shoppers: a plan at work before it is deployed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.cohort import SimulatedPopulation
from tactful_federated.collectors import ClearCollector, SecureCollector
from tactful_federated.device import Device
from tactful_federated.device_ledger import DeviceLedger
from tactful_federated.errors import FederatedError, SettingsError, WeightsError
from tactful_federated.model import IntentModel
from tactful_federated.optimizer import Optimizer
from tactful_federated.plan import TrainingPlan, Wishes, plan_noise_in_sum, plan_training
from tactful_federated.private_rounds import Collector, Outcome, PrivateTraining
from tactful_federated.rounds import Population
from tactful_federated.sample import SAMPLE_CATALOGUE, sample_history
from tactful_federated.scores import Score
from tactful_federated.secure_messages import Session, enrol
from tactful_federated.secure_round import SecureRounds
from tactful_federated.tokens import Vocabulary, Windows, windows
from tactful_federated.trainer_settings import TrainerSettings
from tactful_federated.vectors import Vector

Tier = Literal["clear", "secret", "noise-in-sum"]

_RUN = "simulation"
_JUDGES = 40
_NORM = 1.0


@dataclass(frozen=True)
class PrivateSimulation:
    """What a private simulation came to.

    Attributes:
        plan: The plan.
        releases: Releases in all, those of earlier starts included.
        void: Rounds of this start that released nothing.
        before: How the initial model answers shoppers who are not in the population.
        after: How the trained one does.
    """

    plan: TrainingPlan
    releases: int
    void: int
    before: Score
    after: Score


def simulate_privately(
    directory: Path,
    *,
    devices: int,
    rounds: int,
    report_goal: int,
    epsilon: float,
    tier: Tier = "clear",
    seed: int = 7,
    ray_workers: int = 0,
    embedding: int = 32,
    hidden: int = 32,
    progress: Callable[[Outcome], None] | None = None,
) -> PrivateSimulation:
    """Train on generated shoppers as a deployment would, and judge on others.

    Started again with the same arguments, it goes on in its directory. Where sums are secret, each
    device claims its sessions in a ledger of its own, in `devices` there.

    Args:
        directory: Of the run.
        devices: Population, all of which can be reached.
        rounds: Releases.
        report_goal: Updates of a round.
        epsilon: For each device and the whole run; delta is a tenth of 1 / devices.
        tier: Whether updates are read, summed in secret, or summed in secret with noise inside.
        seed: Of shoppers and initial weights, never of noise.
        ray_workers: Ray's workers that train the devices; 0 trains them in this process.
        embedding: Width of a token's vector in the model.
        hidden: Width of the model's LSTM state.
        progress: Called after each round.

    Raises:
        SettingsError: The numbers do not make a plan.
        CheckpointError: The directory cannot be used.
    """
    if tier not in ("clear", "secret", "noise-in-sum"):
        raise SettingsError(f"tier is {tier!r}: give clear, secret or noise-in-sum")
    vocabulary = Vocabulary.from_catalogue(SAMPLE_CATALOGUE)
    model = IntentModel(vocabulary.size, embedding=embedding, hidden=hidden, seed=seed)
    initial = model.vector()
    wishes = Wishes(
        epsilon=epsilon,
        delta=0.1 / devices,
        population=devices,
        rounds=rounds,
        report_goal=report_goal,
        over_selection=1.2,
        availability=1.0,
        update_norm=_NORM,
        parameters=initial.size,
    )
    plan = plan_noise_in_sum(wishes) if tier == "noise-in-sum" else plan_training(wishes)
    options = {
        "settings": TrainerSettings(learning_rate=1.0, update_norm=_NORM),
        "seed": seed,
        "embedding": embedding,
        "hidden": hidden,
    }
    questions = {device: _questions(device, seed, vocabulary) for device in range(1, devices + 1)}
    void = 0
    with (
        closing(PrivateTraining(directory, plan, Optimizer(momentum=0.5), initial)) as training,
        _population(questions, vocabulary.size, ray_workers, options) as population,
    ):
        collector = _collector(tier, plan, population, directory / "devices")
        while training.releases < plan.rounds and void < plan.rounds:
            outcome = training.run_round(collector)
            void += not outcome.released
            if progress:
                progress(outcome)
        after = training.model
        return PrivateSimulation(
            plan,
            training.releases,
            void,
            _judge(model, initial, vocabulary, devices, seed),
            _judge(model, after, vocabulary, devices, seed),
        )


@contextmanager
def _population(
    questions: Mapping[int, Windows],
    vocabulary_size: int,
    ray_workers: int,
    options: Mapping[str, Any],
) -> Iterator[Population]:
    if not ray_workers:
        yield SimulatedPopulation(questions, vocabulary_size, **options)
        return
    from tactful_federated.ray_population import RayPopulation

    population = RayPopulation(questions, vocabulary_size, workers=ray_workers, **options)
    with closing(population):
        yield population


def _questions(device: int, seed: int, vocabulary: Vocabulary) -> Windows:
    return windows(vocabulary.sequence(sample_history(device, seed=seed)), context=8)


def _judge(
    model: IntentModel, weights: Vector, vocabulary: Vocabulary, devices: int, seed: int
) -> Score:
    """Shoppers beyond the population; they are generated, so their exact counts tell of nobody."""
    settings = TrainerSettings(held_out=0.5)
    total = Score()
    for other in range(devices + 1, devices + 1 + _JUDGES):
        history = sample_history(other, seed=seed)
        total += Device(history, vocabulary, model, settings).evaluate(weights)
    return total


def _collector(tier: Tier, plan: TrainingPlan, population: Population, ledgers: Path) -> Collector:
    if tier == "clear":
        return ClearCollector(population)
    authority = Ed25519PrivateKey.generate()
    ledgers.mkdir(parents=True, exist_ok=True)

    def join(device: int) -> SecureRounds:
        def train(weights: Vector, round_number: int) -> Vector:
            for _, update in population.train([device], weights, round_number):
                return update
            raise WeightsError("training diverged")

        def claim(session: Session) -> None:
            # Opened anew each time: thousands of devices would hold too many files.
            with closing(DeviceLedger(ledgers / f"{device}.db")) as ledger:
                ledger.claim(session, plan)

        identity = Ed25519PrivateKey.generate()
        return SecureRounds(
            _RUN,
            plan,
            train,
            enrol(authority, device, identity.public_key()),
            identity,
            authority.public_key(),
            claim=claim,
        )

    devices = {device: join(device) for device in population.ids()}
    return SecureCollector(LocalTransport(devices), authority.public_key(), run=_RUN)


class LocalTransport:
    """Devices of this process, asked one after the other; see `SecureTransport`."""

    def __init__(self, devices: Mapping[int, SecureRounds]) -> None:
        """Number the devices."""
        self._devices = devices

    def ids(self) -> Sequence[int]:
        """Numbers of the devices."""
        return list(self._devices)

    def exchange(
        self, stage: int, questions: Mapping[int, bytes], weights: Vector
    ) -> Mapping[int, bytes]:
        """Answers of the devices that gave one."""
        answers = {}
        for device, question in questions.items():
            given = np.array(weights) if stage == 1 else None
            try:
                answers[device] = self._devices[device].answer(stage, question, given)
            except FederatedError:
                continue  # a device that gives up is one that fell silent
        return answers
