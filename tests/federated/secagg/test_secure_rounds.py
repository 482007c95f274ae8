"""Whole rounds in secret: the same model as in the clear, over Flower, and with noise inside."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Message
from tests.federated.private_run import SIZE, WISHES, Devices, small_plan, training

from tactful_federated.core.plan import TrainingPlan, Wishes, plan_noise_in_sum, without_noise
from tactful_federated.core.private_training import PrivateTraining
from tactful_federated.device.ledger import DeviceLedger
from tactful_federated.errors import SecureSumError, SettingsError, WeightsError
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.collectors import ClearCollector, SecureCollector, SecureTransport
from tactful_federated.secagg.messages import (
    Opened,
    Session,
    encode,
    enrol,
    terms_digest,
    weights_digest,
)
from tactful_federated.secagg.rounds import Account, SecureRounds
from tactful_federated.transport.flower_clear import LocalGrid
from tactful_federated.transport.flower_secure import FlowerSecureTransport, secure_client_app
from tactful_privacy.mechanisms.gaussian import WideGaussian

AUTHORITY = Ed25519PrivateKey.generate()
BARE = without_noise(small_plan())
ZERO: Vector = np.zeros(SIZE, dtype=np.float32)


def own(device: int, round_number: int) -> Vector:
    return np.full(SIZE, 0.01 * device, dtype=np.float32)


def joins(device: int, plan: TrainingPlan, *calls: Callable[[Session], None]) -> SecureRounds:
    identity = Ed25519PrivateKey.generate()
    enrolled = enrol(AUTHORITY, device, identity.public_key())
    rounds = plan, lambda _, number: own(device, number), enrolled, identity, AUTHORITY.public_key()
    return SecureRounds("intent", *rounds, account=Account(*(calls or [lambda _: None])))


def asked(weights: Vector = ZERO, terms: TrainingPlan = BARE) -> bytes:
    digests = weights_digest(weights), terms_digest(terms)
    return encode(Session("intent", 1, b"n" * 32, SIZE, *digests))


def flower(devices: dict[int, SecureRounds], drops: Any = None) -> FlowerSecureTransport:
    app = secure_client_app(lambda context: devices[context.node_id])
    more = {} if drops is None else {"drops": drops}
    return FlowerSecureTransport(LocalGrid(app, len(devices), **more))


def over_flower(plan: TrainingPlan, count: int, drops: Any = None) -> SecureTransport:
    return flower({node: joins(node, plan) for node in range(1, count + 1)}, drops)


def collector(transport: SecureTransport) -> SecureCollector:
    return SecureCollector(transport, AUTHORITY.public_key(), run="intent")


def test_a_round_in_secret_moves_the_model_as_one_in_the_clear(tmp_path: Path) -> None:
    plan = replace(BARE, cohort=8, report_goal=8)
    secret, clear = training(tmp_path / "secret", plan), training(tmp_path / "clear", plan)
    assert secret.run_round(collector(over_flower(plan, 8))).released
    whole = Devices(9, own)
    whole.ids = lambda: range(1, 9)  # type: ignore[method-assign]
    assert clear.run_round(ClearCollector(whole)).released
    assert np.array_equal(secret.weights, clear.weights) and secret.weights.any()


def test_drop_outs_leave_the_sum_of_the_others() -> None:
    def drops(node: int, message: Message) -> bool:
        asked = message.content["secure-sum"]
        assert isinstance(asked, ConfigRecord)
        return (node, asked["stage"]) in {(2, 2), (5, 3), (7, 5)}

    found = collector(over_flower(BARE, 12, drops)).collect(range(1, 13), ZERO, BARE, 1)
    assert found.reports == 10
    expected = sum(BARE.grid.encode(own(d, 1)) for d in range(1, 13) if d not in (2, 5))
    assert np.array_equal(found.total, expected)


def test_too_few_devices_void_the_round_and_release_nothing(tmp_path: Path) -> None:
    run = training(tmp_path, small_plan())
    outcome = run.run_round(collector(over_flower(small_plan(), 12, lambda node, _: node > 4)))
    assert (outcome.released, run.weights.tolist()) == (False, [0.0] * SIZE)


def test_a_liar_is_not_asked_again() -> None:
    class Liar(SecureRounds):
        def answer(self, stage: int, question: bytes, weights: Vector | None) -> bytes:
            data = super().answer(stage, question, weights)
            return encode(Opened({d: bytes(33) for d in range(1, 9)}, {})) if stage == 5 else data

    devices = {node: joins(node, BARE) for node in range(1, 9)}
    devices[3].__class__ = Liar
    asking = collector(flower(devices))
    assert asking.collect(asking.ids(), ZERO, BARE, 1).reports == 8
    assert list(asking.ids()) == [1, 2, 4, 5, 6, 7, 8]


def test_who_is_not_asked_for_a_vector_is_not_charged(tmp_path: Path) -> None:
    """A round that ended before cost each of its devices a participation."""
    plan = replace(small_plan(), participations=1, separation=1)
    ledgers = {node: DeviceLedger(tmp_path / f"{node}.db") for node in range(1, 13)}

    def join(node: int) -> SecureRounds:
        ledger = ledgers[node]
        return joins(node, plan, lambda s: ledger.join(s, plan), lambda s: ledger.charge(s, plan))

    devices = {node: join(node) for node in ledgers}
    gone_at = {2: range(5, 13)}

    def drops(node: int, message: Message) -> bool:
        asked = message.content["secure-sum"]
        assert isinstance(asked, ConfigRecord)
        return node in gone_at.get(int(str(asked["stage"])), ())

    run = training(tmp_path / "run", plan)
    asking = collector(flower(devices, drops))
    for _ in range(3):
        assert not run.run_round(asking).released
    assert {ledger.times("intent") for ledger in ledgers.values()} == {0}
    assert run.able(range(1, 13)) == list(range(1, 13))
    gone_at = {2: range(12, 13)}  # one leaves before it is asked, the others are in the sum
    assert run.run_round(asking).released
    assert [node for node in ledgers if not ledgers[node].times("intent")] == [12]
    assert run.ledger.eligible(range(1, 13), 1, 5) == [12]
    run.close()


def test_an_impossible_sum_voids_the_round() -> None:
    class Poisoned(SecureRounds):
        def answer(self, stage: int, question: bytes, weights: Vector | None) -> bytes:
            if stage == 3 and self._update is not None:
                self._update = self._update + (1 << 30)
            return super().answer(stage, question, weights)

    devices = {node: joins(node, BARE) for node in range(1, 9)}
    devices[3].__class__ = Poisoned
    assert collector(flower(devices)).collect(range(1, 9), ZERO, BARE, 1).reports == 0


def test_one_modified_device_moves_a_sum_by_a_bounded_length() -> None:
    """Each coordinate within the range of honest sums moved it sqrt(parameters) times as far."""
    size = 700
    plan = replace(BARE, parameters=size)

    class Poisoned(SecureRounds):
        def answer(self, stage: int, question: bytes, weights: Vector | None) -> bytes:
            if stage == 3 and self._update is not None:
                self._update = self._update + np.asarray(self.added, dtype=np.int64)
            return super().answer(stage, question, weights)

        added: np.ndarray

    def moved(added: np.ndarray) -> float:
        """Length by which device 3 moves the sum, in bounds of an update; 0 if it is void."""
        devices = {node: joins(node, plan) for node in range(1, 9)}
        for joined in devices.values():
            joined._trainer = lambda weights, number: np.zeros(size, dtype=np.float32)
        devices[3].__class__ = Poisoned
        devices[3].added = added  # type: ignore[attr-defined]
        zeros = np.zeros(size, dtype=np.float32)
        found = collector(flower(devices)).collect(range(1, 9), zeros, plan, 1)
        assert found.total.any() == bool(found.reports)
        return float(np.linalg.norm(found.total.astype(float))) / plan.units

    assert moved(np.full(size, 8 * plan.units - 1)) == 0
    one = np.eye(1, size, dtype=np.int64)[0]
    assert moved(one * (8 * plan.units + 1)) == 0
    assert moved(one * 8 * plan.units) == 8  # what is not caught


@pytest.mark.slow
def test_a_noisy_sum_is_not_taken_for_a_poisoned_one() -> None:
    plan = plan_noise_in_sum(WISHES)
    for _ in range(4):
        assert collector(over_flower(plan, 12)).collect(range(1, 13), ZERO, plan, 1).reports == 12


def test_noise_inside_the_sum_has_the_planned_width() -> None:
    """The server adds nothing, and what it decodes is already noisy, as much as it should be."""
    size = 2_000
    plan = plan_noise_in_sum(replace(WISHES, parameters=size))
    assert plan.sigma_squared == 0 < plan.device_sigma_squared
    count = plan.minimum_reports

    def silent(device: int) -> SecureRounds:
        rounds = joins(device, plan)
        rounds._entropy = np.random.default_rng(device).bytes
        rounds._trainer = lambda weights, number: np.zeros(size, dtype=np.float32)
        return rounds

    devices = {node: silent(node) for node in range(1, count + 1)}
    weights = np.zeros(size, dtype=np.float32)
    found = collector(flower(devices)).collect(range(1, count + 1), weights, plan, 1)
    assert found.reports == count
    z = float(found.total.std()) / (plan.units * np.sqrt(plan.participations))
    assert z == pytest.approx(plan.noise_multiplier, rel=0.07)


def test_noise_in_the_sum_keeps_its_promise_and_its_room() -> None:
    plan = plan_noise_in_sum(WISHES)
    total = plan.device_sigma_squared * plan.minimum_reports
    needed = plan.noise_multiplier**2 * plan.participations * plan.units**2
    assert needed + 16 <= total <= needed * 1.001
    everybody = plan.cohort * plan.units + 10 * np.sqrt(plan.cohort * plan.device_sigma_squared)
    assert everybody < 1 << 31
    assert plan.bands == 1 and plan.epsilon == WISHES.epsilon


def test_the_tables_of_all_devices_are_paid_for() -> None:
    """What enters a sum are as many draws as reports, and each misses its distribution by a bit."""
    wishes = Wishes(epsilon=2.0, delta=1e-6, population=500_000, rounds=300, report_goal=1_000)
    plan = plan_noise_in_sum(wishes)
    error = float(WideGaussian(plan.device_sigma_squared).error)
    cells = plan.minimum_reports * plan.participations * plan.parameters
    tables = error * cells * (1 + math.exp(plan.epsilon))
    assert tables > wishes.delta / 100  # not lost in rounding
    z = plan.noise_multiplier
    assert dp_accounting.get_epsilon_gaussian(z, plan.delta - tables) <= plan.epsilon
    with pytest.raises(SettingsError, match="fewer minimum_reports"):
        plan_noise_in_sum(replace(wishes, delta=1e-7, report_goal=5_000))


@pytest.mark.parametrize("broken", [np.nan, None])
def test_a_device_whose_training_fails_sends_zeros(broken: float | None) -> None:
    """Were it silent, the number of reports, which is public, would tell of its history."""

    def fails(weights: Vector, number: int) -> Vector:
        if broken is None:
            raise WeightsError("training diverged")
        return np.full(SIZE, broken, dtype=np.float32)

    devices = {node: joins(node, BARE) for node in range(1, 9)}
    devices[3]._trainer = fails
    found = collector(flower(devices)).collect(range(1, 9), ZERO, BARE, 1)
    assert found.reports == 8
    expected = sum(BARE.grid.encode(own(node, 1)) for node in range(1, 9) if node != 3)
    assert found.total.tolist() == np.asarray(expected).tolist()


def test_a_device_agrees_to_its_own_plan_only(tmp_path: Path) -> None:
    device = joins(1, BARE)
    right = asked()
    for session, weights in (
        (encode(Session("other", 1, b"n" * 32, SIZE)), ZERO),
        (encode(Session("intent", 1, b"n" * 32, SIZE + 1)), ZERO),
        (right, None),
    ):
        with pytest.raises(SecureSumError, match="not for the run or the plan"):
            device.answer(1, session, weights)
    for stage in (2, 3, 4, 5):
        with pytest.raises(SecureSumError, match="no open session"):
            device.answer(stage, b"", None)
    device.answer(1, right, ZERO)
    with pytest.raises(SecureSumError, match="stages 1 to 5, not 6"):
        device.answer(6, b"", None)


def test_a_session_refused_by_the_ledger_is_not_trained() -> None:
    def refuse(session: Session) -> None:
        raise SecureSumError("joined before")

    device = joins(1, BARE, refuse)
    device._trainer = lambda weights, number: pytest.fail("trained")
    with pytest.raises(SecureSumError, match="joined before"):
        device.answer(1, asked(), ZERO)


def test_private_training_takes_noise_from_devices(tmp_path: Path) -> None:
    plan = plan_noise_in_sum(WISHES)
    run = PrivateTraining(tmp_path, plan, training(tmp_path / "x", plan)._optimizer, ZERO)
    assert run.run_round(collector(over_flower(plan, 14))).released
    assert run.weights.any()
