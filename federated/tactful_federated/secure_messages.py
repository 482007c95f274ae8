"""What is said in a secure sum, to the byte, and the keys that are derived from it.

Five exchanges, after Bonawitz et al., "Practical secure aggregation for privacy-preserving machine
learning", CCS 2017, in the form that holds against a server that lies: keys are signed by enrolled
devices, and before anything is opened the survivors sign who they believe survived. All keys are
bound to the session and to the roster that its members saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from tactful_federated.errors import SecureSumError

FEWEST_DEVICES: Final = 3
"""Of fewer than three, a sum tells each the value of the other."""

_T = TypeVar("_T")


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Encoded as an array: no names, and nothing beside what is declared."""


class Session(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One sum.

    Attributes:
        run: Name of the training run.
        round: Number of the round.
        nonce: 32 bytes that no other session has.
        size: Number of values summed.
    """

    run: str
    round: int
    nonce: bytes
    size: int


class Enrolment(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A device's identity in a population, certified by who enrols devices.

    Attributes:
        device: Its number.
        identity: Its Ed25519 public key.
        certificate: Signature of the enrolling authority over both.
    """

    device: int
    identity: bytes
    certificate: bytes


class Advert(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """First answer: keys for this session.

    Attributes:
        enrolment: Who speaks.
        box_key: X25519 key by which shares are sealed.
        mask_key: X25519 key from which pairwise masks come.
        seed_digest: Commits to the seed of the device's own mask.
        signature: Of the identity over session and all of the above.
    """

    enrolment: Enrolment
    box_key: bytes
    mask_key: bytes
    seed_digest: bytes
    signature: bytes


class Roster(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Second question: the adverts of all members, by ascending number."""

    adverts: list[Advert]


class Boxes(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Second answer (by receiver) and third question (by sender): sealed pairs of shares."""

    sealed: dict[int, bytes]


class Masked(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Third answer: the masked vector, little-endian unsigned 32-bit integers."""

    values: bytes


class Survivors(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Fourth question: whose masked vectors arrived."""

    devices: list[int]


class Agreement(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Fourth answer: the identity's signature over session, roster, dealers and survivors."""

    signature: bytes


class Agreements(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Fifth question: the agreements of enough survivors."""

    signatures: dict[int, bytes]


class Opened(_Message, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Fifth answer: shares of survivors' seeds, and of the mask keys of those who fell silent."""

    seeds: dict[int, bytes]
    mask_keys: dict[int, bytes]


def encode(message: msgspec.Struct) -> bytes:
    """Bytes of a message."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes, kind: type[_T]) -> _T:
    """Message of bytes.

    Raises:
        SecureSumError: They are no message of that kind.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise SecureSumError(f"a message is no {kind.__name__}: {error}") from error


def threshold_of(members: int) -> int:
    """Shares that open a secret: more than two thirds.

    Two sets of survivors cannot both find so many honest signatures even if a third of the members
    sides with the server (Bonawitz et al. 2017, th. 6.5). The number follows from the roster, so a
    server has no say in it.
    """
    return 2 * members // 3 + 1


def enrol(authority: Ed25519PrivateKey, device: int, identity: Ed25519PublicKey) -> Enrolment:
    """Certify a device's identity key."""
    key = identity.public_bytes_raw()
    return Enrolment(device, key, authority.sign(_enrolment_text(device, key)))


def check_advert(advert: Advert, session: Session, authority: Ed25519PublicKey) -> None:
    """Check who speaks and that it is said in this session.

    Raises:
        SecureSumError: A signature is wrong or a key has the wrong length.
    """
    enrolment = advert.enrolment
    if any(len(key) != 32 for key in (advert.box_key, advert.mask_key, advert.seed_digest)):
        raise SecureSumError("a key in an advert does not have 32 bytes")
    text = _enrolment_text(enrolment.device, enrolment.identity)
    if not _is_signed(authority, enrolment.certificate, text):
        raise SecureSumError("an advert comes from a device that was not enrolled")
    if not is_signed_by(enrolment, advert.signature, advert_text(session, advert)):
        raise SecureSumError("the keys of an advert are not those that its device signed")


def is_signed_by(enrolment: Enrolment, signature: bytes, text: bytes) -> bool:
    """Whether the identity of an enrolment signed a text."""
    try:
        key = Ed25519PublicKey.from_public_bytes(enrolment.identity)
    except ValueError:
        return False
    return _is_signed(key, signature, text)


def advert_text(session: Session, advert: Advert) -> bytes:
    """What a device signs in its advert."""
    return _digest(
        "advert",
        encode(session),
        encode(advert.enrolment),
        advert.box_key + advert.mask_key + advert.seed_digest,
    )


def roster_digest(session: Session, roster: Roster) -> bytes:
    """Session and roster in 32 bytes; all later keys are bound to it."""
    return _digest("roster", encode(session), encode(roster))


def survivors_text(context: bytes, dealers: Iterable[int], survivors: Iterable[int]) -> bytes:
    """What a survivor signs: who dealt shares, and who survived."""
    return _digest(
        "survivors",
        context,
        msgspec.msgpack.encode(sorted(dealers)),
        msgspec.msgpack.encode(sorted(survivors)),
    )


def seed_commitment(session: Session, seed: bytes) -> bytes:
    """Commitment to a seed of 256 random bits."""
    return _digest("seed", encode(session), seed)


def agree(private: X25519PrivateKey, public: bytes, purpose: str, context: bytes) -> bytes:
    """Key of 32 bytes that two devices share for one purpose (X25519, HKDF-SHA-256).

    Raises:
        SecureSumError: The public key is no usable point.
    """
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise SecureSumError(f"a public key cannot be used: {error}") from error
    return HKDF(hashes.SHA256(), 32, None, purpose.encode() + b"\0" + context).derive(shared)


def pair_mask(
    private: X25519PrivateKey, public: bytes, context: bytes, size: int
) -> NDArray[np.uint32]:
    """Mask of a pair of devices."""
    return _expand(agree(private, public, "pair mask", context), size)


def own_mask(seed: bytes, context: bytes, size: int) -> NDArray[np.uint32]:
    """Mask that a device adds for itself."""
    return _expand(_digest("own mask", context, seed), size)


def box_purpose(sender: int, receiver: int) -> str:
    """One key for each direction, so that each seals one message only."""
    return f"box {sender} {receiver}"


def index_rosters(roster: Roster, check: Callable[[Advert], None]) -> dict[int, Advert]:
    """Members by number.

    Raises:
        SecureSumError: Too few, out of order, keys repeated, or `check` refuses one.
    """
    members = {advert.enrolment.device: advert for advert in roster.adverts}
    if len(members) < FEWEST_DEVICES:
        raise SecureSumError(f"a secure sum takes {FEWEST_DEVICES} devices, not {len(members)}")
    if [a.enrolment.device for a in roster.adverts] != sorted(members):
        raise SecureSumError("a roster lists its members in ascending order, each once")
    for keys in zip(
        *((a.enrolment.identity, a.box_key, a.mask_key) for a in roster.adverts), strict=True
    ):
        if len(set(keys)) != len(members):
            raise SecureSumError("two members of a roster have the same key")
    for advert in roster.adverts:
        check(advert)
    return members


def _expand(key: bytes, size: int) -> NDArray[np.uint32]:
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(4 * size))
    return np.frombuffer(stream, dtype="<u4")


def _digest(purpose: str, *parts: bytes) -> bytes:
    state = hashlib.sha256(b"tactful secure sum 1\0" + purpose.encode())
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    return state.digest()


def _enrolment_text(device: int, identity: bytes) -> bytes:
    return _digest("enrolment", str(device).encode(), identity)


def _is_signed(key: Ed25519PublicKey, signature: bytes, text: bytes) -> bool:
    try:
        key.verify(signature, text)
    except InvalidSignature:
        return False
    return True
