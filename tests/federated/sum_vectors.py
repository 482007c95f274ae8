"""Vectors of secure sums: questions, answers and refusals, over complete and sparse graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace
from tests.federated.wire_terms import AUTHORITY, DEVICES, INVITATION, draws, signing_key

from tactful_federated.core.graph import Graph
from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.client import SecureSumDevice
from tactful_federated.secagg.messages import (
    Agreements,
    Boxes,
    Dealt,
    Enrolment,
    Roster,
    Session,
    Survivors,
    decode,
    encode,
    enrol,
    roster_digest,
    terms_digest,
)
from tactful_federated.secagg.ring import ring_of
from tactful_federated.secagg.server import Payloads, SecureSumServer, sum_in_secret
from tactful_federated.secagg.sparse import SparseSumDevice
from tactful_federated.secagg.sparse_server import SparseSumServer

DROPPED = 300
"""The device whose masked vector does not arrive, so its mask key is opened."""

GRAPH = Graph(neighbours=4, threshold=3)
UNSAFE = ((3, 2), (0, 0), (4, 2), (4, 5), (-4, -3))
"""Neighbours and thresholds that no device accepts in an invitation."""

_SIZE = 12


class _Lie(NamedTuple):
    """Question that a device refuses, after the right ones before it but for one."""

    name: str
    stage: int
    message: object
    before: tuple[int, object] | None = None


def session_vectors(weights: bytes) -> dict[str, Any]:
    """Return a session of five devices, one of which drops out before its vector arrives."""
    session = Session("autumn 秋", 4, draws("nonce")(32), _SIZE, weights, terms_digest(INVITATION))
    vectors = _vectors(session, DEVICES, None)
    lies = _lies([bytes.fromhex(question) for question in vectors["devices"][0]["questions"]])
    return {**vectors, "refused": _refused(session, vectors["devices"][0], lies, None)}


def sparse_vectors(weights: bytes) -> dict[str, Any]:
    """Return a session over a sparse graph, and a smaller one that is complete in six stages."""
    session = Session("autumn 秋", 4, draws("sparse")(32), _SIZE, weights, terms_digest(INVITATION))
    vectors = _vectors(session, (4, *DEVICES, 2**63), GRAPH)
    questions = [bytes.fromhex(question) for question in vectors["devices"][0]["questions"]]
    lies = _sparse_lies(session, questions)
    return {
        "graph": {"neighbours": GRAPH.neighbours, "threshold": GRAPH.threshold},
        **vectors,
        "refused": _refused(session, vectors["devices"][0], lies, GRAPH),
        "withheld": _withheld(questions[3]),
        "complete": _vectors(replace(session, nonce=draws("small")(32)), DEVICES[:3], GRAPH),
        "unsafe": [list(each) for each in UNSAFE],
    }


def enrolment_of(number: int) -> Enrolment:
    """Return the enrolment of a device."""
    return enrol(AUTHORITY, number, signing_key(f"identity {number}").public_key())


def _vectors(session: Session, numbers: Sequence[int], graph: Graph | None) -> dict[str, Any]:
    """Return all questions and answers of a session, and its sum."""
    random = np.random.default_rng(2)
    numbers = sorted(numbers)
    shares = graph.threshold if graph else 4
    documents: dict[int, dict[str, Any]] = {}
    devices = {number: _device(number, session, graph) for number in numbers}
    for number in numbers:
        documents[number] = {
            "device": str(number),
            "identity": signing_key(f"identity {number}").private_bytes_raw().hex(),
            "enrolment": encode(enrolment_of(number)).hex(),
            # Two keys and the seed, then the coefficients of both polynomials.
            "random": draws(f"device {number}")(3 * 32 + 2 * (shares - 1) * 41).hex(),
            "vector": random.integers(-(1 << 20), 1 << 20, _SIZE).tolist(),
            "questions": [],
            "answers": [],
        }

    def ask(stage: int, questions: Payloads) -> Payloads:
        answers = {}
        for number, question in questions.items():
            vector = np.asarray(documents[number]["vector"], dtype=np.int64)
            answer = _answer(devices[number], stage, question, vector)
            documents[number]["questions"].append(question.hex())
            documents[number]["answers"].append(answer.hex())
            is_vector = devices[number].STEPS[stage - 1] == "mask"
            if not is_vector or number != DROPPED or len(numbers) == 3:
                answers[number] = answer
        return answers

    kind = SparseSumServer if graph else SecureSumServer
    server = kind(session, AUTHORITY.public_key(), graph=graph)
    total = sum_in_secret(server, dict.fromkeys(numbers, encode(session)), ask)
    return {
        "authority": AUTHORITY.public_key().public_bytes_raw().hex(),
        "devices": list(documents.values()),
        "survivors": [str(number) for number in sorted(total.devices)],
        "sum": total.values.tolist(),
    }


def _device(number: int, session: Session, graph: Graph | None) -> SecureSumDevice:
    return (SparseSumDevice if graph else SecureSumDevice)(
        session,
        enrolment_of(number),
        signing_key(f"identity {number}"),
        AUTHORITY.public_key(),
        claim=lambda _: None,
        graph=graph,
        random=draws(f"device {number}"),
    )


def _lies(right: Sequence[bytes]) -> list[_Lie]:
    """Return lies to the first device of a complete graph."""
    roster, boxes = decode(right[1], Roster).adverts, decode(right[2], Boxes).sealed
    survivors = decode(right[3], Survivors).devices
    agreements = decode(right[4], Agreements).signatures
    other = replace(roster[0], box_key=b"k" * 32)
    forged, first = replace(roster[1], signature=roster[2].signature), DEVICES[0]
    return [
        _Lie("too few members", 2, Roster(roster[:2])),
        _Lie("not in ascending order", 2, Roster(roster[::-1])),
        _Lie("without this device", 2, Roster(roster[1:])),
        _Lie(
            "another key of this device",
            2,
            Roster([other, *roster]),
        ),
        _Lie("a signature of another", 2, Roster([roster[0], forged, *roster[2:]])),
        _Lie("a member twice", 2, Roster([roster[0], roster[1], *roster[1:]])),
        _Lie("an unknown sender", 3, Boxes({**boxes, 4: b"box"})),
        _Lie("a box of its own", 3, Boxes({**boxes, first: b"box"})),
        _Lie("too few senders", 3, Boxes(dict(list(boxes.items())[:2]))),
        _Lie("without this device", 4, Survivors(survivors[1:])),
        _Lie("a survivor twice", 4, Survivors([*survivors, survivors[-1]])),
        _Lie("too few survivors", 4, Survivors(survivors[:3])),
        _Lie("an unknown survivor", 4, Survivors([*survivors, 9])),
        _Lie("too few signatures", 5, Agreements(dict(list(agreements.items())[:3]))),
        _Lie("a wrong signature", 5, Agreements({**agreements, first: b"s" * 64})),
        _Lie("not a message", 2, ["a roster"]),
        _Lie("one more field", 4, [survivors, 1]),
    ]


def _sparse_lies(session: Session, right: Sequence[bytes]) -> list[_Lie]:
    """Return lies to the first device of a sparse graph."""
    roster, first = decode(right[1], Roster), DEVICES[0]
    dealers, dealt = decode(right[2], Survivors).devices, decode(right[3], Dealt)
    agreements = decode(right[5], Agreements).signatures
    ring = ring_of(roster_digest(session, roster), dealers, GRAPH)
    near = ring.others(first)
    far = next(each for each in dealers if each not in ring.circles[first])
    few = dict(list(dealt.signatures.items())[:4])
    wrong = {**dealt.signatures, first: b"s" * 64, near[0]: b"s" * 64, near[1]: b"s" * 64}
    hidden = Survivors([each for each in dealers if each != near[0]])
    return [
        _Lie("too few members", 2, Roster(roster.adverts[:2])),
        _Lie("too few dealers", 3, Survivors(dealers[:4])),
        _Lie("an unknown dealer", 3, Survivors([*dealers, 9])),
        _Lie("a dealer twice", 3, Survivors([*dealers, dealers[-1]])),
        _Lie("dealers without this device", 3, Survivors(dealers[1:])),
        _Lie("too few signatures of dealers", 4, Dealt(few, dealt.sealed)),
        _Lie("wrong signatures of dealers", 4, Dealt(wrong, dealt.sealed)),
        _Lie("a hidden dealer", 4, dealt, (3, hidden)),
        _Lie("a box of no neighbour", 4, Dealt(dealt.signatures, {**dealt.sealed, far: b"box"})),
        _Lie("a box of its own", 4, Dealt(dealt.signatures, {**dealt.sealed, first: b"box"})),
        _Lie("the question of a complete graph", 4, Boxes(dealt.sealed)),
        _Lie("too few survivors", 5, Survivors(dealers[:4])),
        _Lie("a member cut off", 5, Survivors([d for d in dealers if d not in near[:2]])),
        _Lie("a survivor who dealt nothing", 5, Survivors([*dealers, 9])),
        _Lie("survivors without this device", 5, Survivors(dealers[1:])),
        _Lie("too few signatures", 6, Agreements(dict(list(agreements.items())[:4]))),
    ]


def _withheld(question: bytes) -> str:
    """Return the question of the vectors without a box: the first device sends the same answer.

    A server must not choose with whom a member masks.
    """
    dealt = decode(question, Dealt)
    return encode(Dealt(dealt.signatures, dict(list(dealt.sealed.items())[1:]))).hex()


def _refused(
    session: Session, document: dict[str, Any], lies: Sequence[_Lie], graph: Graph | None
) -> list[dict[str, Any]]:
    """Return the lies, each with the message of the refusal."""
    first, vector = DEVICES[0], np.asarray(document["vector"], dtype=np.int64)
    refused = []
    for name, stage, lie, before in lies:
        device = _device(first, session, graph)
        questions = [bytes.fromhex(question) for question in document["questions"][: stage - 1]]
        if before:
            questions[before[0] - 1] = encode(before[1])
        for number, question in enumerate(questions, 1):
            _answer(device, number, question, vector)
        try:
            _answer(device, stage, encode(lie), vector)
        except SecureSumError as error:
            entry = {"reason": name, "stage": stage, "question": encode(lie).hex()}
            if before:
                entry["before"] = [before[0], encode(before[1]).hex()]
            # The text about a message of another form differs between languages.
            refused.append(entry | ({} if " is not a " in str(error) else {"message": str(error)}))
        else:
            raise AssertionError(f"a device accepted: {name}")
    return refused


def _answer(device: SecureSumDevice, stage: int, question: bytes, vector: Any) -> bytes:
    step = device.STEPS[stage - 1]
    if step == "advertise":
        return device.advertise()
    if step == "mask":
        return device.mask(question, vector)
    return bytes(getattr(device, step)(question))
