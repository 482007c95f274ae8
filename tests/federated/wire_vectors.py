"""Test vectors of the wire format of devices: all bytes follow from fixed keys and draws.

`python -m tests.federated.wire_vectors` writes them to the file that the reference publishes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec.structs import replace
from tests.federated.sum_vectors import GRAPH, enrolment_of, session_vectors, sparse_vectors
from tests.federated.trigger_vectors import trigger_vectors
from tests.federated.wire_terms import DEVICES, INVITATION, draws, signing_key

from tactful_federated.core.compression import to_bytes
from tactful_federated.core.groups import Groups
from tactful_federated.device.batched_trainer import SimulatedPopulation
from tactful_federated.device.limits import latest
from tactful_federated.device.model_package import pack_model
from tactful_federated.device.personalise import _epochs
from tactful_federated.model.lstm_batched import StackedModel
from tactful_federated.model.lstm_numpy import IntentPredictor, fit_temperature
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import BOUNDARY, Vocabulary, split_by_time, windows
from tactful_federated.model.vectors import FixedPoint, Vector, clip_to_norm
from tactful_federated.secagg.messages import (
    agree,
    answer_text,
    encode,
    own_mask,
    pair_mask,
    poll_text,
    terms_digest,
    weights_digest,
)
from tactful_federated.secagg.secret_sharing import split
from tactful_federated.transport.pages import Answer, Poll, Question
from tactful_privacy.mechanisms.gaussian import WideGaussian

PUBLISHED = Path(__file__).parents[2] / "docs" / "reference" / "secure-sum-vectors.json"


def wire_vectors() -> dict[str, Any]:
    """Return all vectors; bytes are hexadecimal."""
    weights = np.random.default_rng(1).normal(0, 0.5, 168).astype(np.float32)
    grouped = replace(INVITATION, groups=Groups(size=4, fewest=3))
    sparse = replace(INVITATION, groups=Groups(size=9, fewest=5, graph=GRAPH))
    noisy = replace(INVITATION, plan=dataclasses.replace(INVITATION.plan, sigma_squared=2**64 + 1))
    return {
        "protocol": 2,
        "terms": {
            "invitation": msgspec.json.encode(INVITATION).decode(),
            "digest": terms_digest(INVITATION).hex(),
            "grouped": msgspec.json.encode(grouped).decode(),
            "grouped_digest": terms_digest(grouped).hex(),
            "sparse": msgspec.json.encode(sparse).decode(),
            "sparse_digest": terms_digest(sparse).hex(),
            "noisy": msgspec.json.encode(noisy).decode(),
            "noisy_digest": terms_digest(noisy).hex(),
        },
        "weights": {"bytes": to_bytes(weights).hex(), "digest": weights_digest(weights).hex()},
        "shares": _shares(),
        "masks": _masks(),
        "session": session_vectors(weights_digest(weights)),
        "sparse": sparse_vectors(weights_digest(weights)),
        "tokens": _tokens(),
        "grid": _grid(),
        "model": _model(weights),
        "package": _package(weights),
        "intent": _intent(weights),
        "triggers": trigger_vectors(weights),
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
    identity, enrolment = signing_key(f"identity {number}"), encode(enrolment_of(number))
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


if __name__ == "__main__":
    document = json.dumps(wire_vectors(), indent=1, ensure_ascii=False)
    PUBLISHED.write_text(document + "\n", "utf-8")
