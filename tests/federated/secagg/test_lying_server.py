"""What a server that lies about weights, plans and cohorts reads of one device: nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.federated.private_run import SIZE, WISHES, small_plan

from tactful_federated.core.invitation import Invitation, read_invitation
from tactful_federated.core.plan import TrainingPlan, plan_training, without_noise
from tactful_federated.core.private_training import Collected
from tactful_federated.device.ledger import DeviceLedger
from tactful_federated.errors import SecureSumError
from tactful_federated.model.vectors import Vector, check_vector
from tactful_federated.secagg.collectors import SecureCollector
from tactful_federated.secagg.messages import (
    Session,
    Survivors,
    decode,
    encode,
    enrol,
    terms_digest,
    weights_digest,
)
from tactful_federated.secagg.rounds import Account, SecureRounds
from tactful_federated.serving.rounds import invite, least_difference

AUTHORITY = Ed25519PrivateKey.generate()
PLAN = without_noise(small_plan())
GOOD: Vector = np.zeros(SIZE, dtype=np.float32)
OTHER: Vector = np.full(SIZE, 1e30, dtype=np.float32)
NAN: Vector = np.full(SIZE, np.nan, dtype=np.float32)
VICTIM, COHORT = 3, range(1, 9)

Lie = Callable[[int, Session, Vector], tuple[Session, Vector]]


def own(device: int) -> Vector:
    return np.full(SIZE, 0.01 * device, dtype=np.float32)


def device(number: int, account: Account | None = None) -> SecureRounds:
    identity = Ed25519PrivateKey.generate()

    def train(weights: Vector, round_number: int) -> Vector:
        # As training does: it fails on some weights, and the device then sends zeros.
        return own(number) if np.abs(check_vector(weights, SIZE)).max() < 1 else 0 * own(number)

    enrolled = enrol(AUTHORITY, number, identity.public_key())
    joined = PLAN, train, enrolled, identity, AUTHORITY.public_key()
    return SecureRounds("intent", *joined, account=account or Account(lambda _: None))


class Liar:
    """A server's line to devices; it sends each the session and the weights that `lie` returns."""

    def __init__(self, devices: Mapping[int, SecureRounds], lie: Lie) -> None:
        self.devices, self.lie = devices, lie
        self.refusals, self.opened = list[str](), 0
        self.dropped: set[int] = set()

    def ids(self) -> Sequence[int]:
        return list(self.devices)

    def exchange(
        self, stage: int, questions: Mapping[int, bytes], weights: Vector
    ) -> dict[int, bytes]:
        answers = {}
        for number, question in questions.items():
            sent = None
            if stage == 1:
                session, sent = self.lie(number, decode(question, Session), weights)
                question = encode(session)
            try:
                answers[number] = self.devices[number].answer(stage, question, sent)
                self.opened += stage == 5
            except SecureSumError as error:
                self.refusals.append(str(error))
        if stage == 3:  # who answered is said to have dropped out
            answers = {n: a for n, a in answers.items() if n not in self.dropped}
        return answers


def collect(server: Liar, weights: Vector = GOOD, round_number: int = 1) -> Collected:
    collector = SecureCollector(server, AUTHORITY.public_key(), run="intent")
    return collector.collect(server.ids(), weights, PLAN, round_number)


def others(change: Callable[[Session], Session], sent: Vector) -> Lie:
    """Lie to all but one."""
    return lambda n, session, weights: (
        (session, weights) if n == VICTIM else (change(session), sent)
    )


def names(**changes: bytes) -> Callable[[Session], Session]:
    return lambda session: msgspec.structs.replace(session, **changes)


LIES: dict[str, tuple[Lie, str]] = {
    "nan": (others(lambda s: s, NAN), "not those that the session names"),
    "other weights": (others(lambda s: s, OTHER), "not those that the session names"),
    "two sessions": (others(names(weights=weights_digest(OTHER)), OTHER), "8"),
    "named nan": (others(names(weights=weights_digest(NAN)), NAN), "not finite"),
    "another plan": (
        others(names(terms=terms_digest(replace(PLAN, update_norm=1e-9))), GOOD),
        "another plan",
    ),
    "protocol 1": (others(names(weights=b"", terms=b""), NAN), "update the server"),
}


@pytest.mark.parametrize("lie", LIES)
def test_weights_for_one_device_open_nothing(lie: str) -> None:
    """NaN weights for all but one made the sum the update of this device."""
    liar = Liar({number: device(number) for number in COHORT}, LIES[lie][0])
    found = collect(liar)
    assert (found.reports, liar.opened) == (0, 0) and not found.total.any()
    if lie != "two sessions":  # there the adverts of the others are for another session
        assert len(liar.refusals) == 7 and all(LIES[lie][1] in text for text in liar.refusals)


def test_weights_that_are_not_finite_are_refused_by_all() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        weights = GOOD.copy()
        weights[-1] = bad
        liar = Liar({number: device(number) for number in COHORT}, lambda n, s, w: (s, w))
        assert collect(liar, weights).reports == 0
        assert [text for text in liar.refusals if "not finite" in text] == liar.refusals


@settings(max_examples=20)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=8, max_size=8))
def test_all_devices_of_a_sum_have_the_same_weights(lies: list[tuple[bool, bool]]) -> None:
    """For all ways to send two sets of weights, each under the name of either."""
    weights = {True: GOOD, False: OTHER}

    def lie(number: int, session: Session, sent: Vector) -> tuple[Session, Vector]:
        named, given = lies[number - 1]
        return names(weights=weights_digest(weights[named]))(session), weights[given]

    found = collect(Liar({number: device(number) for number in COHORT}, lie))
    honest = [number for number in COHORT if lies[number - 1] == (True, True)]
    assert found.reports == (len(honest) if len(honest) >= PLAN.minimum_reports else 0)
    expected = sum(PLAN.grid.encode(own(number)) for number in honest) if found.reports else GOOD
    assert found.total.tolist() == np.asarray(expected).tolist()


def ledgers(folder: Path) -> dict[int, DeviceLedger]:
    return {number: DeviceLedger(folder / str(number)) for number in COHORT}


def accounts(kept: Mapping[int, DeviceLedger], fewest: int) -> dict[int, SecureRounds]:
    def account(ledger: DeviceLedger) -> Account:
        return Account(
            lambda session: ledger.join(session, PLAN),
            lambda session: ledger.charge(session, PLAN),
            lambda session, partners: ledger.agree(session, partners, fewest),
        )

    return {number: device(number, account(ledger)) for number, ledger in kept.items()}


def test_a_device_answers_one_set_of_weights_in_a_round(tmp_path: Path) -> None:
    kept = ledgers(tmp_path)
    devices = accounts(kept, 0)
    assert collect(Liar(devices, lambda n, s, w: (s, w))).reports == 8
    again = Liar(devices, lambda n, s, w: (s, w))
    assert collect(again, 0.5 + GOOD).reports == 0 and len(again.refusals) == 8
    assert {ledger.times("intent") for ledger in kept.values()} == {1}


@pytest.mark.parametrize("way", ["not asked", "said to have dropped out"])
def test_two_cohorts_that_differ_in_one_device_are_not_summed(tmp_path: Path, way: str) -> None:
    """The difference of the sums of two rounds, with the same weights, was one update."""
    devices = accounts(ledgers(tmp_path), PLAN.minimum_reports)
    first, second = (Liar(devices, lambda n, s, w: (s, w)) for _ in range(2))
    whole = collect(first)
    if way == "not asked":
        second.devices = {n: d for n, d in devices.items() if n != VICTIM}
    else:
        second.dropped = {VICTIM}
    rest = collect(second, round_number=1 + PLAN.separation)
    assert (whole.reports, rest.reports, second.opened) == (8, 0, 0)
    assert len(second.refusals) == 7 and "differ in 1 devices" in second.refusals[0]
    # Nor does the server get further by asking again for the signature, or for the shares.
    with pytest.raises(SecureSumError, match="no open session"):
        devices[1].answer(4, encode(Survivors([1])), None)
    same = Liar(devices, lambda n, s, w: (s, w))
    assert collect(same, round_number=1 + 2 * PLAN.separation).reports == 8


@settings(max_examples=30)
@given(st.lists(st.sets(st.integers(0, 9)), max_size=12), st.integers(1, 6))
def test_accepted_sums_differ_in_enough_devices_or_none(sums: list[set[int]], fewest: int) -> None:
    ledger, accepted = DeviceLedger(Path(":memory:")), list[set[int]]()
    session = Session("intent", 1, b"n" * 32, SIZE)
    for cohort in sums:
        allowed = all(len(cohort ^ c) >= fewest or cohort == c for c in accepted)
        try:
            ledger.agree(session, [bytes([n]) for n in cohort], fewest)
            accepted.append(cohort)
        except SecureSumError:
            assert not allowed
        else:
            assert allowed
    other = msgspec.structs.replace(session, run="another run")
    ledger.agree(other, [b"x"], fewest)


def test_an_invitation_bounds_the_difference_where_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def invited(name: str, tier: str = "secret", **changes: float) -> Invitation:
        wishes = replace(WISHES, **changes)  # type: ignore[arg-type]
        return invite(tmp_path / name, wishes, ["milk"], run="r", tier=tier)  # type: ignore[arg-type]

    assert invited("large").difference == 5
    assert invited("clear", "clear").difference is invited("small", population=18).difference
    assert "subtract two sums" in caplog.text and invited("small", population=18)
    # A run that began before there was a bound keeps its invitation, and old devices read it.
    path = tmp_path / "large" / "invitation.json"
    written = msgspec.json.decode(path.read_bytes())
    del written["difference"]
    path.write_bytes(msgspec.json.encode(written))
    assert invited("large") == read_invitation(path)
    assert "difference" not in msgspec.json.decode(
        (tmp_path / "clear/invitation.json").read_bytes()
    )
    once = replace(PLAN, participations=1)
    assert not least_difference(tmp_path / "none", WISHES, once, "secret")


def test_a_plan_has_one_digest_before_and_after_it_was_stored() -> None:
    planned = plan_training(replace(WISHES, epsilon=4))  # a whole number in a field of floats
    stored = msgspec.json.decode(msgspec.json.encode(planned), type=TrainingPlan)
    assert terms_digest(planned) == terms_digest(stored)
    changes: list[dict[str, Any]] = [{}, {"units": 7}, {"minimum_reports": 1}, {"update_norm": 9.0}]
    digests = [terms_digest(replace(planned, **change)) for change in changes]
    assert all(a != b for a, b in pairwise(sorted(digests)))
