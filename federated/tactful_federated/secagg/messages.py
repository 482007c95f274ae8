"""Messages of a secure sum, to the byte, and the keys derived in it.

Five exchanges, after Bonawitz et al., "Practical secure aggregation for privacy-preserving machine
learning", CCS 2017, in the variant for a malicious server: enrolled devices sign their keys, and
the survivors sign the list of survivors before any share is opened. All keys are bound to the
session and to the roster of its members.

A session names the digests of the weights and of the terms of the run (plan and settings). Keys and
signatures cover the session, so devices that were sent other weights or another plan have no roster
in common. This is protocol 2; sessions of protocol 1 had no digests, and devices refuse them.

    stage  server -> device        device -> server
    1      Session                 Advert      session keys, signed
    2      Roster                  Boxes       encrypted shares, by receiver
    3      Boxes (by sender)       Masked      vector + own mask +- pair masks, modulo 2^32
    4      Survivors               Agreement   signature over the survivors
    5      Agreements              Opened      shares that remove the masks

Messages are MessagePack arrays of their fields, in the order of the classes below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from tactful_federated.core.compression import to_bytes
from tactful_federated.core.groups import FEWEST_DEVICES
from tactful_federated.errors import SecureSumError
from tactful_federated.model.vectors import Vector
from tactful_privacy.decoding import DECODE_ERRORS

_T = TypeVar("_T")


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base class of messages, encoded as arrays without names and extra fields."""


class Session(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Stage 1, question: parameters of the session.

    Attributes:
        run: Name of the training run.
        round: Number of the round.
        nonce: 32 bytes, unique to the session.
        size: Number of values in a vector.
        weights: `weights_digest` of the weights to train from; empty in protocol 1.
        terms: `terms_digest` of the run; empty in protocol 1.
    """

    run: str
    round: int
    nonce: bytes
    size: int
    weights: bytes = b""
    terms: bytes = b""


class Enrolment(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Certified identity of a device in a population.

    Attributes:
        device: Number of the device.
        identity: Ed25519 public key of the device, 32 bytes.
        certificate: Signature of the enrolling authority over both.
    """

    device: int
    identity: bytes
    certificate: bytes


class Advert(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Stage 1, answer: keys for this session."""

    enrolment: Enrolment  # of the sender
    box_key: bytes  # X25519 key to encrypt shares with
    mask_key: bytes  # X25519 key of the pairwise masks
    seed_digest: bytes  # commitment to the seed of the own mask
    signature: bytes  # of the identity, over the session and the fields above


class Roster(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Stage 2, question: adverts of all members, by ascending number."""

    adverts: list[Advert]


class Boxes(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Stage 2, answer (by receiver) and stage 3, question (by sender): shares."""

    sealed: dict[int, bytes]


class Masked(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Stage 3, answer: masked vector, little-endian unsigned 32-bit integers."""

    values: bytes


class Survivors(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Stage 4, question: devices whose masked vectors arrived."""

    devices: list[int]


class Agreement(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Stage 4, answer: signature over session, roster, dealers and survivors."""

    signature: bytes


class Agreements(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Stage 5, question: signatures of enough survivors."""

    signatures: dict[int, bytes]


class Opened(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Stage 5, answer: shares of seeds (survivors) and of mask keys (the others)."""

    seeds: dict[int, bytes]
    mask_keys: dict[int, bytes]


def encode(message: object) -> bytes:
    """Encode a message."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes, kind: type[_T]) -> _T:
    """Decode a message.

    Raises:
        SecureSumError: The bytes are not a message of that class.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except DECODE_ERRORS as error:
        raise SecureSumError(f"a message is not a {kind.__name__}: {error}") from error


def threshold_of(members: int) -> int:
    """Return the number of shares that open a secret: more than two thirds.

    Two lists of survivors cannot both get so many honest signatures, even if a third of the members
    collude with the server (Bonawitz et al. 2017, th. 6.5). The number depends only on the roster,
    so a server cannot choose it.
    """
    return 2 * members // 3 + 1


def enrol(authority: Ed25519PrivateKey, device: int, identity: Ed25519PublicKey) -> Enrolment:
    """Certify a device's identity key."""
    key = identity.public_bytes_raw()
    return Enrolment(device, key, authority.sign(_enrolment_text(device, key)))


def enrol_page(authority: Ed25519PrivateKey, identity: bytes) -> Enrolment:
    """Certify the identity key of a page, whose number follows from the key.

    Raises:
        SecureSumError: The key does not have 32 bytes.
    """
    if len(identity) != 32:
        raise SecureSumError(f"an identity key has 32 bytes, not {len(identity)}")
    number = int.from_bytes(hashlib.sha256(identity).digest()[:8], "big")
    return enrol(authority, number, Ed25519PublicKey.from_public_bytes(identity))


def check_advert(advert: Advert, session: Session, authority: Ed25519PublicKey) -> None:
    """Check the sender of an advert, and that it belongs to this session.

    Raises:
        SecureSumError: A signature is wrong or a key has the wrong length.
    """
    enrolment = advert.enrolment
    if any(len(key) != 32 for key in (advert.box_key, advert.mask_key, advert.seed_digest)):
        raise SecureSumError("a key in an advert does not have 32 bytes")
    if not is_enrolled(enrolment, authority):
        raise SecureSumError("an advert is from a device that is not enrolled")
    if not is_signed(enrolment.identity, advert.signature, advert_text(session, advert)):
        raise SecureSumError("the signature of an advert is wrong")


def check_agreement_keys(advert: Advert) -> None:
    """Check that no key in an advert has a small order, with which no device can agree.

    Raises:
        SecureSumError: A key has.
    """
    for key in (advert.box_key, advert.mask_key):
        agree(X25519PrivateKey.generate(), key, "check", b"")


def is_signed(key: bytes, signature: bytes, text: bytes) -> bool:
    """Return whether a text was signed by the owner of a public Ed25519 key."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except (ValueError, InvalidSignature):
        return False
    return True


def advert_text(session: Session, advert: Advert) -> bytes:
    """Return the bytes that a device signs in its advert."""
    return _digest(
        "advert",
        encode(session),
        encode(advert.enrolment),
        advert.box_key + advert.mask_key + advert.seed_digest,
    )


def roster_digest(session: Session, roster: Roster) -> bytes:
    """Return the digest of session and roster that binds all later keys."""
    return _digest("roster", encode(session), encode(roster))


def survivors_text(context: bytes, dealers: Iterable[int], survivors: Iterable[int]) -> bytes:
    """Return the bytes that a survivor signs: dealers of shares and survivors."""
    return _digest(
        "survivors",
        context,
        msgspec.msgpack.encode(sorted(dealers)),
        msgspec.msgpack.encode(sorted(survivors)),
    )


def seed_commitment(session: Session, seed: bytes) -> bytes:
    """Return the commitment to a seed of 256 random bits."""
    return _digest("seed", encode(session), seed)


def weights_digest(weights: Vector) -> bytes:
    """Return the digest of weights, of their exact bits."""
    return _digest("weights", to_bytes(weights))


def terms_digest(terms: object) -> bytes:
    """Return the digest of a plan or an invitation, equal before and after it was stored."""
    # Converted by type: 2 in a field of type float is 2.0 on a device that read it from a file.
    typed = msgspec.convert(_values_of(terms), type=type(terms))
    return _digest("terms", encode(_packable(_values_of(typed))))


def _values_of(terms: object) -> object:
    return msgspec.to_builtins(terms, builtin_types=(bytes,))


def _packable(value: object) -> object:
    """Replace integers of more than 64 bits, which MessagePack lacks, by their decimal text."""
    if isinstance(value, dict):
        return {key: _packable(part) for key, part in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def poll_text(enrolment: bytes, time_ms: int) -> bytes:
    """Return the bytes that a page signs to fetch a question at a time since the epoch."""
    return _digest("poll", enrolment, str(time_ms).encode())


def answer_text(enrolment: bytes, ticket: bytes, data: bytes) -> bytes:
    """Return the bytes that a page signs to send an answer."""
    return _digest("answer", enrolment, ticket, data)


def is_enrolled(enrolment: Enrolment, authority: Ed25519PublicKey) -> bool:
    """Return whether an authority certified an enrolment."""
    text = _enrolment_text(enrolment.device, enrolment.identity)
    return is_signed(authority.public_bytes_raw(), enrolment.certificate, text)


def agree(private: X25519PrivateKey, public: bytes, purpose: str, context: bytes) -> bytes:
    """Derive the 32-byte key of two devices for a purpose (X25519, HKDF-SHA-256).

    Raises:
        SecureSumError: The public key is not a valid point.
    """
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise SecureSumError(f"a public key is not valid: {error}") from error
    return HKDF(hashes.SHA256(), 32, None, purpose.encode() + b"\0" + context).derive(shared)


def pair_mask(
    private: X25519PrivateKey, public: bytes, context: bytes, size: int
) -> NDArray[np.uint32]:
    """Return the mask of a pair of devices, uint32 ``[size]``."""
    return _expand(agree(private, public, "pair mask", context), size)


def own_mask(seed: bytes, context: bytes, size: int) -> NDArray[np.uint32]:
    """Return the own mask of a device, uint32 ``[size]``."""
    return _expand(_digest("own mask", context, seed), size)


def index_rosters(roster: Roster, check: Callable[[Advert], None]) -> dict[int, Advert]:
    """Check a roster and return its adverts by device.

    Raises:
        SecureSumError: Too few members, wrong order, repeated keys, or `check` refuses one.
    """
    members = {advert.enrolment.device: advert for advert in roster.adverts}
    if len(members) < FEWEST_DEVICES:
        raise SecureSumError(f"a secure sum needs {FEWEST_DEVICES} devices, not {len(members)}")
    if [a.enrolment.device for a in roster.adverts] != sorted(members):
        raise SecureSumError("a roster does not list each member once, in ascending order")
    for keys in zip(
        *((a.enrolment.identity, a.box_key, a.mask_key) for a in roster.adverts), strict=True
    ):
        if len(set(keys)) != len(members):
            raise SecureSumError("two members of a roster have the same key")
    for advert in roster.adverts:
        check(advert)
    return members


def _expand(key: bytes, size: int) -> NDArray[np.uint32]:
    # Key stream of ChaCha20 with a zero nonce: each key expands one mask only.
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(4 * size))
    return np.frombuffer(stream, dtype="<u4")


def _digest(purpose: str, *parts: bytes) -> bytes:
    state = hashlib.sha256(b"tactful secure sum 1\0" + purpose.encode())
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    return state.digest()


def _enrolment_text(device: int, identity: bytes) -> bytes:
    return _digest("enrolment", str(device).encode(), identity)
