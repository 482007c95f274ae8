"""Evaluation on devices: near what they would say in the clear, bounded, and never for nothing."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.federated.private_run import WISHES, Devices

from tactful_federated.core.evaluation_answer import ANSWER_SIZE, evaluator
from tactful_federated.core.invitation import Invitation, read_invitation
from tactful_federated.core.plan import without_noise
from tactful_federated.core.polling import Polling
from tactful_federated.core.private_evaluation import (
    PrivateEvaluations,
    plan_evaluations,
)
from tactful_federated.device.home import DeviceHome
from tactful_federated.device.trainer import Device
from tactful_federated.errors import BudgetError, HistoryError, SettingsError, WeightsError
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.scores import Score
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector, l2_norm
from tactful_federated.secagg.collectors import ClearCollector, SecureCollector
from tactful_federated.secagg.messages import enrol
from tactful_federated.secagg.rounds import Account, SecureRounds
from tactful_federated.serving.evaluations import invite_to_evaluations, serve_evaluation
from tactful_federated.serving.rounds import invite
from tactful_federated.transport.flower_clear import FlowerPopulation, LocalGrid
from tactful_federated.transport.flower_secure import FlowerSecureTransport, secure_client_app

VOCABULARY = Vocabulary.from_catalogue(SAMPLE_CATALOGUE)
MODEL = IntentModel(VOCABULARY.size, seed=3)
WEIGHTS = MODEL.vector()
MANY = replace(
    WISHES, delta=1e-6, population=40_000, report_goal=10_000, over_selection=1.0, rounds=4
)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_one_device_counts_at_most_one_whatever_it_holds(one: int, two: int, three: int) -> None:
    top1, top5, steps = sorted((one, two, three))
    answer = evaluator(lambda weights: Score(steps, top1, top5, 1.0))(WEIGHTS, 1)
    assert answer.shape == (ANSWER_SIZE,) and answer.dtype == np.float32
    assert l2_norm(answer) <= 1.0
    assert answer.any() == bool(steps)


@pytest.mark.slow
def test_noised_rates_are_near_the_true_ones_and_say_how_near(tmp_path: Path) -> None:
    """Seeded; six standard errors are a wrong alarm in about 1 of 10^8."""
    scores = [Score(4, n % 3, 2 + n % 3, 1.0) if n % 5 else Score() for n in range(15)]
    plan = plan_evaluations(MANY)

    def said(device: int, round_number: int) -> Vector:
        return evaluator(lambda weights: scores[device % 15])(WEIGHTS, round_number)

    run = PrivateEvaluations(tmp_path, plan, entropy=np.random.default_rng(1).bytes)
    found = run.evaluate(WEIGHTS, ClearCollector(Devices(MANY.population, said)))
    held = [score for score in scores if score.steps]
    # The cohort is drawn at random as well; 10,000 devices keep its share of the error below 0.01.
    assert abs(found.top1 - np.mean([s.top1_rate for s in held])) < 6 * found.top1_error + 0.02
    assert abs(found.top5 - np.mean([s.top5_rate for s in held])) < 6 * found.top5_error + 0.02
    assert 0 < found.top1_error < 0.05
    assert found.devices == pytest.approx(8_000, rel=0.1)
    run.close()


def test_evaluations_end_with_their_budget_also_after_a_restart(tmp_path: Path) -> None:
    few = replace(MANY, population=4_000, report_goal=2_000, rounds=2)
    plan = plan_evaluations(few)
    said = evaluator(lambda weights: Score(2, 1, 1, 1.0))
    collector = ClearCollector(Devices(few.population, lambda _, number: said(WEIGHTS, number)))
    entropy = np.random.default_rng(2).bytes
    for left in (1, 0):
        run = PrivateEvaluations(tmp_path, plan, entropy=entropy)
        # What was released before is not in what comes after.
        assert run.evaluate(WEIGHTS, collector).top1 == pytest.approx(0.5, abs=0.2)
        assert run.left == left
        run.close()
    run = PrivateEvaluations(tmp_path, plan)
    with pytest.raises(BudgetError, match="spent"):
        run.evaluate(WEIGHTS, collector)
    run.close()


def test_too_few_devices_or_nothing_but_noise_is_no_evaluation(tmp_path: Path) -> None:
    plan = plan_evaluations(WISHES)
    run = PrivateEvaluations(tmp_path, plan, entropy=np.random.default_rng(3).bytes)
    with pytest.raises(HistoryError, match="too few"):
        run.evaluate(WEIGHTS, ClearCollector(Devices(60, lambda device, number: None)))
    zeros = np.zeros(ANSWER_SIZE, dtype=np.float32)
    found = run.evaluate(WEIGHTS, ClearCollector(Devices(60, lambda device, number: zeros)))
    assert found.devices == 0 and math.isnan(found.top1) and math.isinf(found.top1_error)
    run.close()


def test_scores_are_added_in_a_secure_sum(tmp_path: Path) -> None:
    wishes = replace(WISHES, population=16, report_goal=4, minimum_reports=3)
    plan = replace(without_noise(plan_evaluations(wishes)), minimum_reports=3)
    authority = Ed25519PrivateKey.generate()
    held = {number: Device(sample_history(number), VOCABULARY) for number in range(1, 17)}

    def join(number: int) -> SecureRounds:
        identity = Ed25519PrivateKey.generate()
        enrolled = enrol(authority, number, identity.public_key())
        rounds = plan, evaluator(held[number].evaluate), enrolled, identity, authority.public_key()
        return SecureRounds(
            "evaluation", *rounds, account=Account(lambda session: asked.append(number))
        )

    asked: list[int] = []
    rounds = {number: join(number) for number in held}
    app = secure_client_app(lambda context: rounds[context.node_id])
    transport = FlowerSecureTransport(LocalGrid(app, len(rounds)))
    collector = SecureCollector(transport, authority.public_key(), run="evaluation")
    run = PrivateEvaluations(tmp_path, plan)
    found = run.evaluate(WEIGHTS, collector)
    scores = [held[number].evaluate(WEIGHTS) for number in asked]
    assert found.devices == pytest.approx(len(asked), rel=1e-4)
    assert found.top1 == pytest.approx(np.mean([s.top1_rate for s in scores]), abs=1e-4)
    assert found.top5 == pytest.approx(np.mean([s.top5_rate for s in scores]), abs=1e-4)
    run.close()


def test_evaluations_have_their_own_ledger(tmp_path: Path) -> None:
    server, wishes = tmp_path / "server", replace(WISHES, minimum_reports=1)
    trained = invite(server, wishes, list(SAMPLE_CATALOGUE), run="training", tier="clear")
    asked = invite_to_evaluations(server, wishes)
    assert invite_to_evaluations(server, wishes) == asked
    with pytest.raises(SettingsError, match="written with other settings"):  # the budget stays
        invite_to_evaluations(server, replace(wishes, epsilon=8.0))
    assert read_invitation(server / "evaluation.json") == asked
    found = {}
    for invitation in (trained, asked):  # one directory: the visits are kept once
        home = DeviceHome(tmp_path / "device", invitation)
        home.events.give_consent()
        if invitation is trained:
            home.remember(sample_history(1))
        population = FlowerPopulation(LocalGrid(home.app(), 1), VOCABULARY)
        ((_, found[invitation.run]),) = population.train([1], WEIGHTS, 1)
        home.close()
    assert found["training"].size == WEIGHTS.size and found["training"].any()
    score = Device(sample_history(1), VOCABULARY).evaluate(WEIGHTS)
    said = evaluator(lambda weights: score)(WEIGHTS, 1)
    assert score.steps and np.array_equal(found["training-evaluation"], said)


def test_a_served_evaluation_waits_and_retries(tmp_path: Path) -> None:
    wishes = replace(WISHES, rounds=1, population=24, report_goal=8, delta=1e-3, spare=1)
    invitation = Invitation(
        run="test-evaluation",
        tier="clear",
        plan=without_noise(plan_evaluations(wishes)),
        categories=list(SAMPLE_CATALOGUE),
        authority=bytes(32),
        signer=bytes(32),
        purpose="evaluation",
    )
    half = np.array([0.5, 0.25, 0.5], dtype=np.float32)
    devices = Devices(0, lambda device, number: half if number > 1 else None)

    def sleep(seconds: float) -> None:
        devices.count = 24

    collector = ClearCollector(devices)
    polling = Polling(sleep=sleep)
    for unfit in (WEIGHTS[:-1], np.full_like(WEIGHTS, np.nan)):  # devices would answer zeros
        with pytest.raises(WeightsError):
            serve_evaluation(tmp_path, invitation, unfit, collector, polling=polling)
    assert devices.count == 0, "nobody was waited for"
    found, left = serve_evaluation(tmp_path, invitation, WEIGHTS, collector, polling=polling)
    assert (len(devices.asked), left) == (2, 0)  # the first round was void
    assert found.top1 == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(BudgetError, match="spent"):
        serve_evaluation(tmp_path, invitation, WEIGHTS, collector)
