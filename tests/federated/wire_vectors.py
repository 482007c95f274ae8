"""Test vectors of the wire format of devices: all bytes follow from fixed keys and draws.

`python -m tests.federated.wire_vectors` writes them to the file that the reference publishes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec.structs import replace

from tactful_federated.core.compression import to_bytes
from tactful_federated.core.groups import Groups
from tactful_federated.core.invitation import Invitation
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.device.batched_trainer import SimulatedPopulation
from tactful_federated.device.limits import latest
from tactful_federated.device.model_package import pack_model
from tactful_federated.device.personalise import _epochs
from tactful_federated.errors import SecureSumError
from tactful_federated.model.lstm_batched import StackedModel
from tactful_federated.model.lstm_numpy import IntentPredictor, fit_temperature
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import BOUNDARY, Vocabulary, split_by_time, windows
from tactful_federated.model.vectors import FixedPoint, Vector, clip_to_norm
from tactful_federated.secagg.client import SecureSumDevice
from tactful_federated.secagg.messages import (
    Agreements,
    Boxes,
    Enrolment,
    Roster,
    Session,
    Survivors,
    agree,
    answer_text,
    decode,
    encode,
    enrol,
    own_mask,
    pair_mask,
    poll_text,
    terms_digest,
    weights_digest,
)
from tactful_federated.secagg.secret_sharing import split
from tactful_federated.secagg.server import Payloads, SecureSumServer, sum_in_secret
from tactful_federated.transport.pages import Answer, Poll, Question
from tactful_privacy.mechanisms.gaussian import WideGaussian

PUBLISHED = Path(__file__).parents[2] / "docs" / "reference" / "secure-sum-vectors.json"
DEVICES = (3, 20, 300, 70_000, 2**64 - 5)
DROPPED = 300
"""The device whose masked vector does not arrive, so its mask key is opened."""


def draws(label: str) -> Callable[[int], bytes]:
    """Return a source of bytes that are a function of the label."""
    stream, position = hashlib.shake_256(label.encode()).digest(1 << 13), 0

    def draw(length: int) -> bytes:
        nonlocal position
        position += length
        assert position <= len(stream)
        return stream[position - length : position]

    return draw


def signing_key(label: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(draws(label)(32))


AUTHORITY = signing_key("authority")
INVITATION = Invitation(
    run="autumn 秋",
    tier="secret",
    plan=TrainingPlan(
        epsilon=2,  # a whole number in a field of type float is 2.0 on the wire
        delta=1e-6,
        rho=0.1005,
        noise_multiplier=2.2305,
        participations=6,
        separation=3,
        bands=2,
        rounds=18,
        cohort=7,
        report_goal=5,
        minimum_reports=3,
        update_norm=2.0,
        units=1 << 20,
        parameters=168,
        sigma_squared=2**60 + 1,  # has no exact float64
        step_noise=0.5,
        model_noise=0.25,
        independent_model_noise=0.75,
    ),
    categories=["drinks", "soap", "tea", "茶"],
    authority=AUTHORITY.public_key().public_bytes_raw(),
    signer=signing_key("signer").public_key().public_bytes_raw(),
    learning_rate=1.5,
    embedding=4,
    hidden=3,
    difference=3,
)


def wire_vectors() -> dict[str, Any]:
    """Return all vectors; bytes are hexadecimal."""
    weights = np.random.default_rng(1).normal(0, 0.5, 168).astype(np.float32)
    grouped = replace(INVITATION, groups=Groups(size=4, fewest=3))
    noisy = replace(INVITATION, plan=dataclasses.replace(INVITATION.plan, sigma_squared=2**64 + 1))
    return {
        "protocol": 2,
        "terms": {
            "invitation": msgspec.json.encode(INVITATION).decode(),
            "digest": terms_digest(INVITATION).hex(),
            "grouped": msgspec.json.encode(grouped).decode(),
            "grouped_digest": terms_digest(grouped).hex(),
            "noisy": msgspec.json.encode(noisy).decode(),
            "noisy_digest": terms_digest(noisy).hex(),
        },
        "weights": {"bytes": to_bytes(weights).hex(), "digest": weights_digest(weights).hex()},
        "shares": _shares(),
        "masks": _masks(),
        "session": _session(weights_digest(weights)),
        "tokens": _tokens(),
        "grid": _grid(),
        "model": _model(weights),
        "package": _package(weights),
        "intent": _intent(weights),
        "noise": [_noise(sigma_squared) for sigma_squared in (49, 16_384, 16_385, 2**60 + 1)],
        "pages": _pages(),
    }


def _noise(sigma_squared: int) -> dict[str, Any]:
    """Return draws of the tier noise-in-sum; values beyond 2^53 do not occur."""
    entropy, used = draws(f"noise {sigma_squared}"), b""

    def record(length: int) -> bytes:
        nonlocal used
        used += (drawn := entropy(length))
        return drawn

    drawn = WideGaussian(sigma_squared, entropy=record).sample(60).tolist()
    return {"sigma_squared": str(sigma_squared), "random": used.hex(), "count": 60, "draws": drawn}


def _intent(weights: Vector) -> dict[str, Any]:
    """Return predictions of `IntentPredictor` and `DeviceIntent`, and a head fitted to visits."""
    vocabulary, widths = INVITATION.vocabulary, {"embedding": 4, "hidden": 3}
    shared = IntentPredictor(weights, vocabulary.size, temperature=1.3, **widths)
    visits = [["tea", "soap"], ["drinks", "茶", "tea"], ["soap"], ["tea", "tea", "drinks"]] * 4
    history = [*vocabulary.sequence(visits).tolist(), BOUNDARY]
    sequence, cut = split_by_time(visits, vocabulary, 0.25)
    held_out = windows(sequence, start=cut, context=8)
    asked, shuffle = windows(sequence[:cut], context=8), np.random.default_rng(6)
    steps = [rows.tolist() for rows in asked.batches(16, shuffle)]
    settings = TrainerSettings(learning_rate=0.5)
    head = next(_epochs(shared, asked, "head", settings, 6))
    assert [rows.tolist() for rows in asked.batches(16, np.random.default_rng(6))] == steps
    likely = {name: 0.5 - place / 8 for place, name in enumerate(vocabulary.categories)}
    return {
        "visits": visits,
        "history": history,
        "about": [
            {
                "categories": list(categories),
                "steps": ahead,
                "probability": shared.likely_within(
                    history,
                    [[vocabulary.token(name) for name in categories]],
                    steps=ahead,
                    seed=0,
                    continuations=1_000,
                )[-1, 0],
            }
            for categories, ahead in [(["tea"], 1), (["茶"], 3), (["soap", "drinks"], 2)]
        ],
        "likely": likely,
        "coarse": {name: math.floor(10 * p / 0.5) / 10 for name, p in likely.items()},
        "loss": shared.loss(held_out),
        "steps": steps,
        "head": head.tolist(),
        "temperature": fit_temperature(*shared.questions(held_out)),
        "draws": np.random.default_rng(0).random(5).tolist(),
    }


def _package(weights: Vector) -> dict[str, Any]:
    signer, vocabulary = signing_key("signer"), INVITATION.vocabulary
    package = pack_model(weights, vocabulary, 7, signer, embedding=4, hidden=3, temperature=1.3)
    return {"signer": INVITATION.signer.hex(), "version": 7, "bytes": package.hex()}


def _pages() -> dict[str, Any]:
    """Return the requests of a page to the two routes of its server."""
    number, time_ms, ticket = DEVICES[0], 1_790_000_000_000, draws("ticket")(16)
    identity, enrolment = signing_key(f"identity {number}"), encode(_enrolment(number))
    question, data = Question(ticket, 1, b"question", b"weights"), b"answer"
    polled = identity.sign(poll_text(enrolment, time_ms))
    answered = identity.sign(answer_text(enrolment, ticket, data))
    return {
        "identity": identity.private_bytes_raw().hex(),
        "enrolment": enrolment.hex(),
        "time": time_ms,
        "poll": encode(Poll(enrolment, time_ms, polled)).hex(),
        "question": encode(question).hex(),
        "ticket": ticket.hex(),
        "data": data.hex(),
        "answer": encode(Answer(enrolment, ticket, data, answered)).hex(),
    }


def _tokens() -> dict[str, Any]:
    # By code points "\uff5e" comes before "\U0001f375"; by UTF-16 units after it.
    catalogue = [
        "tea",
        " ",
        "\U0001f375",
        "",
        "soap",
        "\uff5e",
        "tea",
        "\x1c",
        "茶",
        "\ufeff",
        "Tea",
    ]
    vocabulary = Vocabulary.from_catalogue(catalogue)
    visits = [["tea", "soap", "soap"], [], ["cake", "tea"], ["茶"] * 2, ["soap", "Tea", "cake"]]
    sequence, cut = split_by_time(visits, vocabulary, 0.3)
    asked = windows(sequence, start=2, scored=3, context=2)
    return {
        "catalogue": catalogue,
        "categories": list(vocabulary.categories),
        "fingerprint": vocabulary.fingerprint,
        "visits": visits,
        "sequence": sequence.tolist(),
        "held_out": 0.3,
        "training": sequence[:cut].tolist(),
        "windows": {
            "start": 2,
            "scored": 3,
            "context": 2,
            "inputs": asked.inputs.tolist(),
            "answers": asked.answers.tolist(),
        },
        "latest": {"most": 6, "visits": latest(visits, 6)},
    }


def _grid() -> list[dict[str, Any]]:
    random = np.random.default_rng(4)
    return [
        {
            "update": to_bytes(update).hex(),
            "update_norm": norm,
            "units": units,
            "clipped": to_bytes(clip_to_norm(update, norm)).hex(),
            "whole": FixedPoint(norm, units).encode(update).tolist(),
        }
        for width, norm, units in [(0.1, 2.0, 1 << 20), (3.0, 2.0, 1 << 20), (1.0, 0.3, 7)]
        for update in [random.normal(0, width, 9).astype(np.float32)]
    ]


def _model(weights: Vector) -> dict[str, Any]:
    """Return results of the model; other computers may differ by rounding."""
    vocabulary, widths = INVITATION.vocabulary, {"embedding": 4, "hidden": 3}
    history = np.random.default_rng(3).integers(1, vocabulary.size, 60)
    asked = windows(history, scored=6, context=4)
    settings = TrainerSettings(
        batch_size=4, learning_rate=1.5, update_norm=0.9, gradient_norm=0.4, proximal=0.01
    )
    model = StackedModel(vocabulary.size, **widths)
    population = SimulatedPopulation({0: asked}, vocabulary.size, settings=settings, **widths)
    ((_, update),) = population.train([0], weights, 5)
    predictor = IntentPredictor(weights, vocabulary.size, temperature=1.3, **widths)
    return {
        **widths,
        "vocabulary": vocabulary.size,
        "weights": to_bytes(weights).hex(),
        "temperature": 1.3,
        "histories": [[], [1, 3], history[:20].tolist()],
        "probabilities": [
            predictor.predict(tokens).tolist() for tokens in ([], [1, 3], history[:20].tolist())
        ],
        "inputs": asked.inputs.tolist(),
        "answers": asked.answers.tolist(),
        "gradient": model.gradient(weights[None], asked.inputs[None], asked.answers[None])[
            0
        ].tolist(),
        "batches": [rows.tolist() for rows in asked.batches(4, np.random.default_rng((0, 5)))],
        "settings": asdict(settings),
        "update": update.tolist(),
    }


def _shares() -> dict[str, Any]:
    random = draws("shares")
    secret, drawn = random(32), draws("polynomial")
    return {
        "secret": secret.hex(),
        "threshold": 4,
        "holders": 5,
        "random": draws("polynomial")(41 * 3).hex(),
        "shares": [share.hex() for share in split(secret, 4, 5, drawn)],
    }


def _masks() -> dict[str, Any]:
    random = draws("masks")
    seed, context, private, other = (random(32) for _ in range(4))
    key = X25519PrivateKey.from_private_bytes(private)
    public = X25519PrivateKey.from_private_bytes(other).public_key().public_bytes_raw()
    return {
        "seed": seed.hex(),
        "context": context.hex(),
        "private": private.hex(),
        "public": public.hex(),
        "size": 40,
        "own": to_bytes(own_mask(seed, context, 40)).hex(),
        "agreed": agree(key, public, "box 3 20", context).hex(),
        "pair": to_bytes(pair_mask(key, public, context, 40)).hex(),
    }


def _session(weights: bytes) -> dict[str, Any]:
    """Return a session of five devices, one of which drops out before its vector arrives."""
    random = np.random.default_rng(2)
    session = Session("autumn 秋", 4, draws("nonce")(32), 12, weights, terms_digest(INVITATION))
    documents: dict[int, dict[str, Any]] = {}
    devices = {number: _device(number, session) for number in DEVICES}
    for number in DEVICES:
        documents[number] = {
            "device": str(number),
            "identity": signing_key(f"identity {number}").private_bytes_raw().hex(),
            "enrolment": encode(_enrolment(number)).hex(),
            # Two keys and the seed, then the coefficients of both polynomials.
            "random": draws(f"device {number}")(3 * 32 + 2 * 3 * 41).hex(),
            "vector": random.integers(-(1 << 20), 1 << 20, 12).tolist(),
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
            if stage != 3 or number != DROPPED:
                answers[number] = answer
        return answers

    server = SecureSumServer(session, AUTHORITY.public_key())
    total = sum_in_secret(server, dict.fromkeys(DEVICES, encode(session)), ask)
    return {
        "authority": AUTHORITY.public_key().public_bytes_raw().hex(),
        "devices": list(documents.values()),
        "survivors": [str(number) for number in sorted(total.devices)],
        "sum": total.values.tolist(),
        "refused": _refused(session, documents[DEVICES[0]]),
    }


def _enrolment(number: int) -> Enrolment:
    return enrol(AUTHORITY, number, signing_key(f"identity {number}").public_key())


def _device(number: int, session: Session) -> SecureSumDevice:
    return SecureSumDevice(
        session,
        _enrolment(number),
        signing_key(f"identity {number}"),
        AUTHORITY.public_key(),
        claim=lambda _: None,
        random=draws(f"device {number}"),
    )


def _refused(session: Session, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return questions that the first device refuses at a stage, after right ones before it."""
    right = [bytes.fromhex(question) for question in document["questions"]]
    roster, boxes = decode(right[1], Roster).adverts, decode(right[2], Boxes).sealed
    survivors = decode(right[3], Survivors).devices
    agreements = decode(right[4], Agreements).signatures
    forged, first = replace(roster[1], signature=roster[2].signature), DEVICES[0]
    lies: list[tuple[str, int, object]] = [
        ("too few members", 2, Roster(roster[:2])),
        ("not in ascending order", 2, Roster(roster[::-1])),
        ("without this device", 2, Roster(roster[1:])),
        ("another key of this device", 2, Roster([replace(roster[0], box_key=b"k" * 32), *roster])),
        ("a signature of another", 2, Roster([roster[0], forged, *roster[2:]])),
        ("a member twice", 2, Roster([roster[0], roster[1], *roster[1:]])),
        ("an unknown sender", 3, Boxes({**boxes, 4: b"box"})),
        ("a box of its own", 3, Boxes({**boxes, first: b"box"})),
        ("too few senders", 3, Boxes(dict(list(boxes.items())[:2]))),
        ("without this device", 4, Survivors(survivors[1:])),
        ("a survivor twice", 4, Survivors([*survivors, survivors[-1]])),
        ("too few survivors", 4, Survivors(survivors[:3])),
        ("an unknown survivor", 4, Survivors([*survivors, 9])),
        ("too few signatures", 5, Agreements(dict(list(agreements.items())[:3]))),
        ("a wrong signature", 5, Agreements({**agreements, first: b"s" * 64})),
        ("not a message", 2, ["a roster"]),
        ("one more field", 4, [survivors, 1]),
    ]
    refused = []
    for name, stage, lie in lies:
        device, vector = _device(first, session), np.asarray(document["vector"], dtype=np.int64)
        for number, question in enumerate(right[: stage - 1], 1):
            _answer(device, number, question, vector)
        try:
            _answer(device, stage, encode(lie), vector)
        except SecureSumError:
            refused.append({"reason": name, "stage": stage, "question": encode(lie).hex()})
        else:
            raise AssertionError(f"a device accepted: {name}")
    return refused


def _answer(device: SecureSumDevice, stage: int, question: bytes, vector: Any) -> bytes:
    if stage == 1:
        return device.advertise()
    if stage == 3:
        return device.mask(question, vector)
    return {2: device.share, 4: device.confirm, 5: device.open}[stage](question)


if __name__ == "__main__":
    document = json.dumps(wire_vectors(), indent=1, ensure_ascii=False)
    PUBLISHED.write_text(document + "\n", "utf-8")
