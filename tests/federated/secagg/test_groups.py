"""Several secure sums in a round: exact, each on its own, and paid for by the noise of each."""

import itertools
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import dp_accounting
import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.federated.private_run import SIZE, WISHES, training

from tactful_federated.core.graph import Graph
from tactful_federated.core.groups import FEWEST_DEVICES, Groups, divide, group_cohort
from tactful_federated.core.invitation import Invitation, read_invitation
from tactful_federated.core.model_epsilon import epsilon_of_model
from tactful_federated.core.plan import (
    TrainingPlan,
    Wishes,
    plan_noise_in_sum,
    plan_training,
    without_noise,
)
from tactful_federated.core.private_training import PrivateTraining
from tactful_federated.errors import SecureSumError, SettingsError
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.collectors import SecureCollector
from tactful_federated.secagg.messages import Session, decode, enrol, threshold_of
from tactful_federated.secagg.rounds import Account, SecureRounds
from tactful_federated.serving.rounds import invite

AUTHORITY = Ed25519PrivateKey.generate()
ZERO: Vector = np.zeros(SIZE, dtype=np.float32)
GROUPED = replace(WISHES, group_size=4)  # cohorts of 12, 3 sums of 4


def invitation(plan: TrainingPlan, groups: Groups | None) -> Invitation:
    return Invitation(
        run="intent",
        tier="secret",
        plan=plan,
        categories=["milk"],
        authority=AUTHORITY.public_key().public_bytes_raw(),
        signer=b"s" * 32,
        groups=groups or msgspec.UNSET,
    )


def device(number: int, terms: Invitation) -> SecureRounds:
    identity = Ed25519PrivateKey.generate()

    def train(weights: Vector, round_number: int) -> Vector:
        return np.full(SIZE, 0.01 * number, dtype=np.float32)

    enrolled = enrol(AUTHORITY, number, identity.public_key())
    joined = terms.plan, train, enrolled, identity, AUTHORITY.public_key()
    return SecureRounds("intent", *joined, account=Account(lambda _: None), terms=terms)


class Line:
    """Carries the questions of all groups; each device is silent from its stage on."""

    def __init__(self, terms: Invitation, count: int, silent: Mapping[int, int] | None = None):
        self.devices = {number: device(number, terms) for number in range(1, count + 1)}
        self.silent = silent or {}
        self.groups: dict[bytes, set[int]] = {}
        self.calls = list[int]()

    def ids(self) -> Sequence[int]:
        return list(self.devices)

    def exchange(
        self, stage: int, questions: Mapping[int, bytes], weights: Vector
    ) -> dict[int, bytes]:
        self.calls.append(stage)
        answers = {}
        for number, question in questions.items():
            if stage == 1:
                nonce = decode(question, Session).nonce
                self.groups.setdefault(nonce, set()).add(number)
            if stage < self.silent.get(number, 9):
                sent = weights if stage == 1 else None
                answers[number] = self.devices[number].answer(stage, question, sent)
        return answers


def collector(line: Line, terms: Invitation) -> SecureCollector:
    return SecureCollector(line, AUTHORITY.public_key(), run="intent", terms=terms)


def opens(group: set[int], silent: Mapping[int, int], fewest: int) -> bool:
    members = [d for d in group if silent.get(d, 9) > 1]
    needed = max(fewest, threshold_of(len(members)))
    return sum(silent.get(d, 9) > 5 for d in group) >= needed


@settings(max_examples=8, deadline=None)
@given(st.dictionaries(st.integers(1, 24), st.integers(1, 5), max_size=8))
@example({})
@example(dict.fromkeys(range(1, 25), 3))
def test_a_round_is_the_plain_sum_of_the_groups_that_stay(silent: dict[int, int]) -> None:
    plan = replace(without_noise(plan_training(WISHES)), cohort=24, report_goal=24)
    terms = invitation(plan, Groups(size=6, fewest=3))
    line = Line(terms, 24, silent)
    found = collector(line, terms).collect(line.ids(), ZERO, plan, 1)
    assert sorted(map(len, line.groups.values())) == [6, 6, 6, 6]
    whole = [group for group in line.groups.values() if opens(group, silent, 3)]
    summed = {d for group in whole for d in group if silent.get(d, 9) > 3}
    expected = sum(
        (plan.grid.encode(np.full(SIZE, 0.01 * d, dtype=np.float32)) for d in summed),
        np.zeros(SIZE, dtype=np.int64),
    )
    assert found.reports == len(summed) and found.total.tolist() == expected.tolist()
    assert len(line.calls) <= 5  # all groups in the same exchanges


def test_a_group_that_fails_leaves_the_others_and_its_devices_are_not_charged() -> None:
    plan = replace(without_noise(plan_training(WISHES)), cohort=12)
    terms = invitation(plan, Groups(size=6, fewest=3))
    line = Line(terms, 12)
    first = collector(line, terms)
    first._entropy = lambda count: bytes(count - 1) + bytes([next(numbers)])
    numbers = itertools.count(1)
    victims = divide(range(1, 13), terms.groups or None, 1)[0]
    line.silent = dict.fromkeys(victims[:4], 2)
    found = first.collect(range(1, 13), ZERO, plan, 1)
    assert found.reports == 6 and found.spared == set(victims)


def test_groups_over_sparse_graphs_are_as_exact_and_charge_with_the_vector() -> None:
    plan = replace(without_noise(plan_training(WISHES)), cohort=24, report_goal=24)
    terms = invitation(plan, Groups(12, 5, Graph(neighbours=6, threshold=3)))
    line = Line(terms, 24, {2: 6, 5: 4, 9: 3, 11: 2})
    summing = collector(line, terms)
    # Of some graphs, too many neighbours of one device are silent, and the sum is given up.
    summing._entropy = np.random.default_rng(1).bytes
    found = summing.collect(line.ids(), ZERO, plan, 1)
    summed = set(range(1, 25)) - {5, 9, 11}
    expected = sum(plan.grid.encode(np.full(SIZE, 0.01 * d, dtype=np.float32)) for d in summed)
    assert found.reports == 21 and found.total.tolist() == np.asarray(expected).tolist()
    assert found.spared == {9, 11} and line.calls == [1, 2, 3, 4, 5, 6]
    # A device whose invitation names no graph has other terms, and joins no such sum.
    old = Line(terms, 12)
    old.devices[1] = device(1, invitation(plan, Groups(12, 5)))
    with pytest.raises(SecureSumError, match="another plan or other settings"):
        collector(old, terms).collect(old.ids(), ZERO, plan, 1)


def test_every_group_of_every_possible_cohort_is_large_enough() -> None:
    for minimum, over in itertools.product(range(3, 22, 3), (1, 1.3)):
        cohort = math.ceil(minimum * 1.5 * over)
        for size in range(3, cohort):
            try:
                groups = group_cohort(cohort, minimum, size)
            except SettingsError as error:
                assert "raise the group size" in str(error)
                continue
            assert groups and FEWEST_DEVICES <= groups.fewest <= groups.size <= size
            for eligible in range(minimum, cohort + 1):
                found = divide(range(eligible), groups, 7)
                assert sorted(itertools.chain(*found)) == list(range(eligible))
                assert groups.fewest <= min(map(len, found)) <= max(map(len, found)) <= groups.size
    assert group_cohort(13, 8, 0) is group_cohort(13, 8, 13) is None


def test_a_device_opens_no_sum_smaller_than_its_invitation_says() -> None:
    plan = replace(without_noise(plan_training(WISHES)), cohort=12)
    honest = invitation(plan, Groups(size=6, fewest=5))
    line = Line(honest, 12)
    lying = collector(line, honest)
    lying._groups = Groups(size=4, fewest=3)  # the server divides further than it said
    assert lying._terms == honest
    refused = 0
    for number, each in line.devices.items():
        answer = each.answer

        def answers(stage: int, question: bytes, weights: Vector | None, a=answer) -> bytes:  # type: ignore[no-untyped-def]
            nonlocal refused
            try:
                return bytes(a(stage, question, weights))
            except SecureSumError as error:
                assert "and 5 are needed" in str(error)
                refused += 1
                return b""

        line.devices[number].answer = answers  # type: ignore[method-assign]
    assert lying.collect(range(1, 13), ZERO, plan, 1).reports == 0
    assert refused == 12


LARGE = Wishes(epsilon=2.0, delta=1e-6, population=500_000, rounds=300, report_goal=1_000)


def test_noise_of_every_group_is_whole_and_its_price_is_named() -> None:
    one, several = plan_noise_in_sum(LARGE), plan_noise_in_sum(replace(LARGE, group_size=200))
    groups = replace(LARGE, group_size=200).groups
    assert groups == Groups(size=186, fewest=95) and one.epsilon == several.epsilon == 2.0
    # A server that sees the sum of one group has the noise of the whole promise in it.
    needed = several.noise_multiplier**2 * several.participations * several.units**2
    assert needed + 16 <= groups.fewest * several.device_sigma_squared <= needed * 1.001
    most = groups.size * several.units
    noise = 10 * math.sqrt(groups.size * several.device_sigma_squared)
    assert most + noise < 1 << 31
    # Seven sums cost sevenfold variance, and the plan says so.
    assert (several.step_noise / one.step_noise) ** 2 == pytest.approx(666 / 95, rel=0.02)
    # What leaves the server has the noise of all groups, by the accountant.
    assert epsilon_of_model(one) == pytest.approx(2.0, rel=5e-3) and epsilon_of_model(one) <= 2
    z = math.sqrt(several.minimum_reports * several.device_sigma_squared / several.participations)
    multiplier = z / several.units
    least = dp_accounting.get_epsilon_gaussian(multiplier, several.delta)
    assert least <= epsilon_of_model(several) <= least * 1.05 < 0.8
    secret = plan_training(replace(LARGE, group_size=200))
    assert secret == plan_training(LARGE) and epsilon_of_model(secret) == 2.0


def test_noise_of_colluding_devices_does_not_count() -> None:
    honest = replace(LARGE, corrupt=0.05)
    plan = plan_noise_in_sum(honest)
    assert honest.noisy == 666 - 65
    needed = plan.noise_multiplier**2 * plan.participations * plan.units**2
    assert needed + 16 <= honest.noisy * plan.device_sigma_squared <= needed * 1.001
    with pytest.raises(SettingsError, match="may collude"):
        plan_noise_in_sum(replace(LARGE, corrupt=0.05, minimum_reports=60))


def test_groups_pay_for_the_tables_of_one_group() -> None:
    """A single sum of this size is refused: its tables would cost more than delta."""
    wishes = replace(LARGE, delta=1e-7, report_goal=5_000)
    with pytest.raises(SettingsError, match="fewer minimum_reports"):
        plan_noise_in_sum(wishes)
    plan = plan_noise_in_sum(replace(wishes, group_size=200))
    assert epsilon_of_model(plan) <= plan.epsilon


def test_noise_of_groups_is_measured_as_planned() -> None:
    wishes = replace(WISHES, parameters=2_000, group_size=6, minimum_reports=8)
    plan, groups = plan_noise_in_sum(wishes), wishes.groups
    terms = invitation(plan, groups)
    line = Line(terms, 12)
    for each in line.devices.values():
        each._trainer = lambda weights, number: np.zeros(2_000, dtype=np.float32)
    zeros = np.zeros(2_000, dtype=np.float32)
    found = collector(line, terms).collect(range(1, 13), zeros, plan, 1)
    assert found.reports == 12
    wanted = math.sqrt(12 * plan.device_sigma_squared)
    assert float(found.total.std()) == pytest.approx(wanted, rel=0.08)


def test_an_invitation_names_its_groups_and_others_stay_as_they_were(tmp_path: Path) -> None:
    wishes = replace(WISHES, minimum_reports=8, group_size=6)
    several = invite(tmp_path / "several", wishes, ["milk"], run="r", tier="secret")
    assert several.groups == Groups(6, 4) and several.fewest == 4
    assert several.difference == 4
    assert read_invitation(tmp_path / "several/invitation.json") == several
    one = invite(tmp_path / "one", WISHES, ["milk"], run="r", tier="secret")
    assert one.fewest == one.plan.minimum_reports == 5
    assert b"groups" not in (tmp_path / "one/invitation.json").read_bytes()
    large = replace(wishes, population=2_000, report_goal=400, minimum_reports=0, corrupt=0.1)
    sparse = invite(
        tmp_path / "sparse", replace(large, group_size=0), ["milk"], run="r", tier="secret"
    )
    assert sparse.graph and sparse.graph.neighbours < 300 and sparse.fewest == 266
    assert read_invitation(tmp_path / "sparse/invitation.json") == sparse
    weak = msgspec.structs.replace(sparse, groups=Groups(9, 5, Graph(neighbours=6, threshold=3)))
    (tmp_path / "weak.json").write_bytes(msgspec.json.encode(weak))
    with pytest.raises(SettingsError, match="not safe"):
        read_invitation(tmp_path / "weak.json")
    with pytest.raises(SettingsError, match="larger sums"):
        invite(tmp_path / "dense", replace(wishes, corrupt=0.3), ["milk"], run="r", tier="secret")
    with pytest.raises(SettingsError, match="go with secret sums"):
        invite(tmp_path / "clear", wishes, ["milk"], run="r", tier="clear")
    with pytest.raises(SettingsError, match="raise the group size"):
        invite(tmp_path / "small", replace(wishes, group_size=3), ["milk"], run="r", tier="secret")


def grouped_run(directory: Path) -> tuple[PrivateTraining, Invitation]:
    wishes = replace(WISHES, minimum_reports=8, group_size=6)
    plan = plan_training(wishes)
    return training(directory, plan), invitation(plan, wishes.groups)


def main() -> None:
    """Run rounds of two groups; kill this process at a stage of the second one."""
    run, terms = grouped_run(Path(sys.argv[1]))
    line = Line(terms, 60)
    exchange = line.exchange

    def dies(stage: int, questions: Mapping[int, bytes], weights: Vector) -> dict[int, bytes]:
        if stage == int(sys.argv[2]) and run.round == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return exchange(stage, questions, weights)

    line.exchange = dies  # type: ignore[method-assign]
    for _ in range(2):
        outcome = run.run_round(collector(line, terms))
        sys.stdout.write(f"{outcome.releases} {run.weights.tolist()}\n")
        sys.stdout.flush()


@pytest.mark.slow  # two processes that import the package
@pytest.mark.parametrize("stage", [3, 5])
def test_kill_9_between_groups_keeps_the_charges(tmp_path: Path, stage: int) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", __name__, str(tmp_path), str(stage)]
    died = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert died.returncode == -9, died.stderr
    (told,) = died.stdout.splitlines()
    run, terms = grouped_run(tmp_path)
    assert run.releases == run.ledger.released == 1
    assert told == f"1 {run.weights.tolist()}"
    assert len(run.ledger.eligible(range(1, 61), 1)) == 60 - 2 * 12
    assert run.run_round(collector(Line(terms, 60), terms)).releases == 2
    run.close()


if __name__ == "__main__":
    main()
