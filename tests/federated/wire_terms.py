"""Keys, draws and terms of the vectors of the wire format."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.core.invitation import Invitation
from tactful_federated.core.plan import TrainingPlan

DEVICES = (3, 20, 300, 70_000, 2**64 - 5)


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
