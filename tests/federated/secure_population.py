"""Enrolled devices of the tests, and a wire that can lose, change and remember what it carries."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.core.graph import Graph
from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.client import SecureSumDevice
from tactful_federated.secagg.messages import Enrolment, Session, encode, enrol
from tactful_federated.secagg.server import SecureSumServer, SecureTotal, sum_in_secret
from tactful_federated.secagg.sparse import SparseSumDevice

AUTHORITY = Ed25519PrivateKey.generate()

Change = Callable[[int, int, bytes], bytes]


def session(size: int, *, nonce: bytes = b"n" * 32, round_number: int = 1) -> Session:
    return Session("run", round_number, nonce, size)


def member(
    number: int,
    of: Session,
    claim: Callable[[Session], None] = lambda _: None,
    graph: Graph | None = None,
) -> SecureSumDevice:
    identity = Ed25519PrivateKey.generate()
    enrolled = enrol(AUTHORITY, number, identity.public_key())
    kind = SparseSumDevice if graph else SecureSumDevice
    return kind(of, enrolled, identity, AUTHORITY.public_key(), claim=claim, graph=graph)


def stranger(number: int, of: Session) -> SecureSumDevice:
    identity = Ed25519PrivateKey.generate()
    forged = Enrolment(number, identity.public_key().public_bytes_raw(), b"c" * 64)
    return SecureSumDevice(of, forged, identity, AUTHORITY.public_key(), claim=lambda _: None)


@dataclass
class Wire:
    """Carries questions and answers.

    `silent` names for each stage the devices that fall silent from it on; `asked` and `answered`
    may change what passes; everything the server receives is kept.
    """

    devices: Mapping[int, SecureSumDevice]
    vectors: Mapping[int, np.ndarray]
    silent: Mapping[int, set[int]] = field(default_factory=dict)
    asked: Change = lambda stage, device, data: data
    answered: Change = lambda stage, device, data: data
    received: list[tuple[int, int, bytes]] = field(default_factory=list)
    refusals: list[tuple[int, int, str]] = field(default_factory=list)

    def ask(self, stage: int, questions: Mapping[int, bytes]) -> dict[int, bytes]:
        gone = set().union(*(self.silent.get(s, set()) for s in range(1, stage + 1)))
        answers = {}
        for number, question in questions.items():
            if number in gone:
                continue
            device, data = self.devices[number], self.asked(stage, number, question)
            try:
                answer = self._answer(device, stage, number, data)
            except SecureSumError as error:
                self.refusals.append((stage, number, str(error)))
                continue
            answers[number] = self.answered(stage, number, answer)
            self.received.append((stage, number, answers[number]))
        return answers

    def _answer(self, device: SecureSumDevice, stage: int, number: int, data: bytes) -> bytes:
        step = device.STEPS[stage - 1]
        if step == "advertise":
            return device.advertise()
        if step == "mask":
            return device.mask(data, self.vectors[number])
        return bytes(getattr(device, step)(data))


def lead(wire: Wire, of: Session) -> SecureTotal:
    server = SecureSumServer(of, AUTHORITY.public_key())
    return sum_in_secret(server, dict.fromkeys(wire.devices, encode(of)), wire.ask)


def wire(
    count: int, size: int = 8, graph: Graph | None = None, **options: object
) -> tuple[Wire, Session]:
    of = session(size)
    random = np.random.default_rng(count)
    vectors = {i: random.integers(-(1 << 20), 1 << 20, size) for i in range(1, count + 1)}
    devices = {i: member(i, of, graph=graph) for i in vectors}
    return Wire(devices, vectors, **options), of  # type: ignore[arg-type]
