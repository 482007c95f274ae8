"""Pages and Python members complete a sum over a sparse graph together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.federated.wire_terms import AUTHORITY
from tests.platform.support import wait_until
from tests.sdk.device.test_pages_train import (
    VISITS,
    WEIGHTS,
    fleet,
    invitation,
    take_part,
    update_of,
)

from tactful_federated.core.graph import Graph
from tactful_federated.core.groups import Groups
from tactful_federated.core.invitation import Invitation
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.collectors import SecureCollector
from tactful_federated.secagg.messages import enrol
from tactful_federated.secagg.rounds import Account, SecureRounds
from tactful_federated.secagg.server import Payloads
from tactful_federated.transport.pages import JoinedTransports

pytestmark = [
    pytest.mark.service("chromium", "web"),
    pytest.mark.slow,  # reason: three renderers of a browser and two rounds of nine devices
    pytest.mark.timeout(600),
]

PAGES, MEMBERS = 3, 6
MASK = 4
"""Stage at which the vectors leave the devices."""


class Members:
    """Python devices as a transport; some are silent from the stage of the vectors on."""

    def __init__(self, invited: Invitation, visits: Sequence[list[str]]) -> None:
        self.silent = set[int]()
        self.devices = {
            number: self.device(number, invited, visit) for number, visit in enumerate(visits, 1)
        }

    @staticmethod
    def device(number: int, invited: Invitation, visit: list[str]) -> SecureRounds:
        identity = Ed25519PrivateKey.generate()
        return SecureRounds(
            invited.run,
            invited.plan,
            lambda weights, round_number: update_of(visit, invited),
            enrol(AUTHORITY, number, identity.public_key()),
            identity,
            AUTHORITY.public_key(),
            account=Account(lambda _: None),
            terms=invited,
        )

    def ids(self) -> Sequence[int]:
        return list(self.devices)

    def exchange(self, stage: int, questions: Payloads, weights: Vector) -> Payloads:
        return {
            number: self.devices[number].answer(stage, question, weights if stage == 1 else None)
            for number, question in questions.items()
            if stage < MASK or number not in self.silent
        }


def test_pages_and_python_members_complete_a_sparse_sum(
    web_client: Path, chromium_path: Path, tmp_path: Path
) -> None:
    groups = Groups(size=PAGES + MEMBERS, fewest=5, graph=Graph(neighbours=4, threshold=3))
    invited = msgspec.structs.replace(invitation(PAGES + MEMBERS), groups=groups)
    visits = [VISITS[number % len(VISITS)] for number in range(PAGES + MEMBERS)]
    members = Members(invited, visits[PAGES:])
    with fleet(chromium_path, web_client, tmp_path / "profile", PAGES, invited) as devices:
        pages = {take_part(*each) for each in zip(devices.pages, visits[:PAGES], strict=True)}
        wait_until(lambda: set(devices.transport.ids()) == pages)
        joined = JoinedTransports([devices.transport, members])
        collector = SecureCollector(joined, AUTHORITY.public_key(), run=invited.run, terms=invited)
        for number, silent in ((1, set[int]()), (3, {2})):
            members.silent = silent
            collected = collector.collect(sorted(joined.ids()), WEIGHTS, invited.plan, number)
            assert [page.evaluate("errors") for page in devices.pages] == [[]] * PAGES
            assert collected.reports == PAGES + MEMBERS - len(silent)
            summed = [*visits[:PAGES], *(visits[PAGES + d - 1] for d in members.devices)]
            for device in silent:
                summed.remove(visits[PAGES + device - 1])
            expected = sum(invited.plan.grid.encode(update_of(visit, invited)) for visit in summed)
            # Differences of the updates of pages by rounding, as in a complete graph.
            assert np.abs(collected.total - expected).max() <= 2 * PAGES
        for page in devices.pages:
            page.wait_for("stages.join() === '1,2,3,4,5,6,1,2,3,4,5,6'")
