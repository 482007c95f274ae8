"""Secure sums under load and under kills: what they cost, and whether one is ever wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message

from benchmarks.figures import Figure
from tactful_federated.core.plan import TrainingPlan, Wishes, plan_training, without_noise
from tactful_federated.device.trainer import Device
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.collectors import SecureCollector
from tactful_federated.secagg.messages import Session, encode, enrol, terms_digest, weights_digest
from tactful_federated.secagg.rounds import Account, SecureRounds
from tactful_federated.secagg.server import SecureSumServer, sum_in_secret
from tactful_federated.serving.rounds import initial_weights
from tactful_federated.transport.flower_clear import FlowerPopulation, LocalGrid, client_app
from tactful_federated.transport.flower_secure import FlowerSecureTransport, secure_client_app

_AUTHORITY = Ed25519PrivateKey.generate()


def _plan(devices: int, parameters: int, fewest: int) -> TrainingPlan:
    wishes = Wishes(
        epsilon=8.0,
        delta=1e-4,
        population=devices * 4,
        rounds=100,
        report_goal=devices,
        over_selection=1.0,
        minimum_reports=fewest,
        parameters=parameters,
        most_bands=1,
    )
    return replace(without_noise(plan_training(wishes)), minimum_reports=fewest)


def _devices(plan: TrainingPlan, count: int) -> dict[int, SecureRounds]:
    def join(device: int) -> SecureRounds:
        def train(weights: Vector, round_number: int) -> Vector:
            random = np.random.default_rng((device, round_number))
            return random.normal(0, 0.01, plan.parameters).astype(np.float32)

        identity = Ed25519PrivateKey.generate()
        return SecureRounds(
            "bench",
            plan,
            train,
            enrol(_AUTHORITY, device, identity.public_key()),
            identity,
            _AUTHORITY.public_key(),
            account=Account(lambda session: None),
        )

    return {device: join(device) for device in range(1, count + 1)}


def server_time(quick: bool) -> list[Figure]:
    """100 devices, 50,000 parameters, 30 of them silent after they dealt shares."""
    count, size, runs = 100, 50_000, 1 if quick else 3
    plan = _plan(count, size, 60)
    spent, wrong = [], 0
    for run in range(runs):
        devices, on_devices = _devices(plan, count), 0.0
        silent = {int(d) for d in np.random.default_rng(run).choice(count, 30, replace=False) + 1}
        weights = np.zeros(size, dtype=np.float32)
        terms = weights_digest(weights), terms_digest(plan)
        session = Session("bench", run + 1, run.to_bytes(32, "big"), size, *terms)

        def ask(
            stage: int,
            questions: Mapping[int, bytes],
            devices: dict[int, SecureRounds] = devices,
            silent: set[int] = silent,
            weights: Vector = weights,
        ) -> dict[int, bytes]:
            nonlocal on_devices
            begun = time.process_time()
            answers = {
                device: devices[device].answer(stage, question, weights if stage == 1 else None)
                for device, question in questions.items()
                if stage < 3 or device not in silent
            }
            on_devices += time.process_time() - begun
            return answers

        server = SecureSumServer(session, _AUTHORITY.public_key(), fewest=60)
        begun = time.process_time()
        found = sum_in_secret(server, dict.fromkeys(devices, encode(session)), ask)
        spent.append(time.process_time() - begun - on_devices)
        expected = np.zeros(size, dtype=np.int64)
        for device in found.devices:
            random = np.random.default_rng((device, run + 1))
            expected += plan.grid.encode(random.normal(0, 0.01, size).astype(np.float32))
        wrong += not np.array_equal(found.values, expected)
    note = f"CPU of the server, 30 of 100 silent after sharing; {wrong} of {runs} sums wrong"
    middle = float(np.median(spent))
    return [Figure("secure_sum_100x50k_s", middle, "s", min(spent), max(spent), runs, note)]


def _mortal(devices: Mapping[int, SecureRounds], dies: Mapping[int, int]) -> LocalGrid:
    """A grid whose devices vanish at the stages that `dies` names."""

    def drops(node: int, message: Message) -> bool:
        asked = cast(Mapping[str, Any], message.content["secure-sum"])
        return int(asked["stage"]) >= dies.get(node, 9)

    app = secure_client_app(lambda context: devices[context.node_id])
    return LocalGrid(app, len(devices), drops=drops)


def kills(quick: bool) -> list[Figure]:
    """30 % of devices vanish at a random question in each of 50 rounds."""
    logging.getLogger("tactful_federated").setLevel(logging.ERROR)
    rounds, count, size = (10 if quick else 50), 20, 500
    plan = _plan(count, size, 3)
    random, wrong, void = np.random.default_rng(5), 0, 0
    for number in range(1, rounds + 1):
        devices = _devices(plan, count)
        chosen = random.choice(count, count * 3 // 10, replace=False) + 1
        dies = {int(d): int(random.integers(1, 6)) for d in chosen}
        grid = _mortal(devices, dies)
        collector = SecureCollector(
            FlowerSecureTransport(grid), _AUTHORITY.public_key(), run="bench"
        )
        weights = np.zeros(size, dtype=np.float32)
        found = collector.collect(list(devices), weights, plan, number)
        if not found.reports:
            void += 1
            continue
        expected = np.zeros(size, dtype=np.int64)
        for device in devices:
            if dies.get(device, 9) > 3:
                update = np.random.default_rng((device, number)).normal(0, 0.01, size)
                expected += plan.grid.encode(update.astype(np.float32))
        wrong += not np.array_equal(found.total, expected)
    note = (
        f"{rounds} rounds of {count} devices in one process, 30 % vanish at a random question;"
        f" {void} rounds were given up"
    )
    return [Figure("kill_wrong_sums", wrong, "sums", runs=rounds, note=note)]


def device_time(quick: bool) -> list[Figure]:
    """What one training message costs a device, through Flower's app, without the network."""
    vocabulary = Vocabulary.from_catalogue(
        [*SAMPLE_CATALOGUE, *(f"category {number}" for number in range(85))]
    )
    weights = initial_weights(vocabulary)
    device = Device(sample_history(1, baskets=60), vocabulary)
    grid = LocalGrid(client_app(lambda context: device), 1)
    spent = []
    population = FlowerPopulation(grid, vocabulary)
    for number in range(5 if quick else 30):
        asked = population.requests("train", [1], weights, number)
        begun = time.process_time()
        replies = grid.send_and_receive(asked)
        spent.append(time.process_time() - begun)
        if replies[0].has_error():
            raise RuntimeError(replies[0].error.reason)
    note = f"{weights.size:,} parameters, one local epoch over 60 visits; no network"
    low, middle, high = (float(v) for v in np.quantile(spent, (0.05, 0.5, 0.95)))
    return [Figure("device_cpu_s_per_message", middle, "s", low, high, len(spent), note)]
