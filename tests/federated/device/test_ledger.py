"""A device keeps its own account of its participations, whatever a server says."""

from pathlib import Path

import pytest
from tests.federated.private_run import small_plan

from tactful_federated.device.ledger import DeviceLedger
from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.messages import Session

PLAN = small_plan()


def at(round_number: int, nonce: int = -1, run: str = "intent") -> Session:
    number = round_number if nonce < 0 else nonce
    return Session(run, round_number, number.to_bytes(32, "big"), 6)


def test_a_device_keeps_the_bounds_of_its_plan(tmp_path: Path) -> None:
    ledger = DeviceLedger(tmp_path / "ledger.db")
    for number in range(PLAN.participations):
        ledger.claim(at(number * PLAN.separation), PLAN)
    assert ledger.times("intent") == PLAN.participations
    with pytest.raises(SecureSumError, match="maximum of its plan"):
        ledger.claim(at(10_000), PLAN)
    ledger.claim(at(10_000, nonce=77, run="another run"), PLAN)


def test_sessions_are_joined_once_and_rounds_keep_their_distance(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = DeviceLedger(path)
    ledger.claim(at(10), PLAN)
    ledger.close()
    ledger = DeviceLedger(path)  # after a restart, too
    with pytest.raises(SecureSumError, match="took part in that session"):
        ledger.claim(at(10 + PLAN.separation, nonce=10), PLAN)
    for close in (10, 10 + PLAN.separation - 1, 3):
        with pytest.raises(SecureSumError, match="apart"):
            ledger.claim(at(close, nonce=99), PLAN)
    assert ledger.times("intent") == 1
    ledger.claim(at(10 + PLAN.separation, nonce=99), PLAN)  # what was refused was not charged
