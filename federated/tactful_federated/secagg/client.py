"""Device side of a secure sum: it answers five questions in order, each once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tactful_federated.core.graph import Graph
from tactful_federated.errors import SecureSumError
from tactful_federated.model.vectors import IntegerVector
from tactful_federated.secagg import messages
from tactful_federated.secagg.ring import Ring, ring_of
from tactful_federated.secagg.secret_sharing import SHARE_BYTES, split

_NONCE = bytes(12)
_SESSION_ENDED = -9


class SecureSumDevice:
    """One device in one session; create an object for each session.

    Guarantee: for every behaviour of the server, it learns about the vector of this device at most
    its sum with the vectors of at least `fewest - 1` other enrolled devices, of which it can
    subtract those of colluding devices. (In the model of Bonawitz et al. 2017, th. 6.5: the server
    and fewer than a third of the members may deviate arbitrarily.)

    Assumed: another party than the server enrols devices; ChaCha20, X25519, Ed25519 and SHA-256
    are secure.

    Call the methods in order, each at most once. An exception in one ends the session on this
    device and deletes its keys.

    Attributes:
        STEPS: Methods that answer the stages, in order.
    """

    STEPS: ClassVar[tuple[str, ...]] = ("advertise", "share", "mask", "confirm", "open")

    def __init__(
        self,
        session: messages.Session,
        enrolment: messages.Enrolment,
        identity: Ed25519PrivateKey,  # of this device
        authority: Ed25519PublicKey,  # to check enrolments with
        *,
        claim: Callable[[messages.Session], None],
        fewest: int = 3,  # smallest sum that the device takes part in, 3 or more
        graph: Graph | None = None,  # of the invitation; None is complete
        random: Callable[[int], bytes] = os.urandom,  # cryptographically secure bytes
    ) -> None:
        """Claim the session and draw its keys.

        `claim` is called before the first answer. It must raise if this device took part in a
        session of the same nonce, or in this or a later round of the run.
        """
        if len(session.nonce) != 32 or session.size < 1:
            raise SecureSumError("a session needs a nonce of 32 bytes and at least one value")
        claim(session)
        self._session, self._enrolment, self._identity = session, enrolment, identity
        self._authority, self._fewest, self._random = authority, max(3, fewest), random
        self._box_key = X25519PrivateKey.from_private_bytes(random(32))
        self._mask_key = X25519PrivateKey.from_private_bytes(random(32))
        self._seed = random(32)
        self._me = enrolment.device
        self._graph, self._ring = graph, Ring({}, 0)
        self._members: dict[int, messages.Advert] = {}
        self._context = b""
        self._dealers: frozenset[int] = frozenset()
        self._survivors: frozenset[int] = frozenset()
        self._shares: dict[int, tuple[bytes, bytes]] = {}
        self._answered = 0

    def advertise(self) -> bytes:
        """Return the first answer: the signed keys of this session."""
        with self._step("advertise"):
            advert = messages.Advert(
                self._enrolment,
                self._box_key.public_key().public_bytes_raw(),
                self._mask_key.public_key().public_bytes_raw(),
                messages.seed_commitment(self._session, self._seed),
                b"",
            )
            signature = self._identity.sign(messages.advert_text(self._session, advert))
            self._advert = messages.Advert(
                advert.enrolment, advert.box_key, advert.mask_key, advert.seed_digest, signature
            )
            return messages.encode(self._advert)

    def share(self, roster: bytes) -> bytes:
        """Return the second answer: encrypted shares of the secrets for each other member.

        Raises:
            SecureSumError: The roster is too small, has other keys for this device, or has keys
                that no enrolled device signed.
        """
        with self._step("share"):
            listed = messages.decode(roster, messages.Roster)
            self._members = messages.index_rosters(
                listed, lambda advert: messages.check_advert(advert, self._session, self._authority)
            )
            if self._members.get(self._me) != self._advert:
                raise SecureSumError("the roster does not list this device with its own keys")
            self._check_size(len(self._members), "members of the roster")
            self._context = messages.roster_digest(self._session, listed)
            self._ring = ring_of(self._context, self._members, self._graph)
            holders = self._ring.circles[self._me]
            secrets = (self._seed, self._mask_key.private_bytes_raw())
            seeds, keys = (split(s, self._ring.shares, len(holders), self._random) for s in secrets)
            sealed = {}
            for member, seed_share, key_share in zip(holders, seeds, keys, strict=True):
                if member == self._me:
                    self._shares[member] = seed_share, key_share
                else:
                    sealed[member] = self._box(self._me, member, member).encrypt(
                        _NONCE, seed_share + key_share, self._context
                    )
            return messages.encode(messages.Boxes(sealed))

    def mask(self, boxes: bytes, vector: IntegerVector) -> bytes:
        """Return the third answer: the vector plus all masks, modulo 2^32.

        The vector is int64 ``[size]``, and the sum must fit 31 bits and a sign.

        Raises:
            SecureSumError: Too few members dealt shares, or a device that is not a member did.
        """
        with self._step("mask"):
            received = messages.decode(boxes, messages.Boxes).sealed
            if self._me in received or not set(received) <= set(self._members):
                raise SecureSumError("shares are from a device that is not on the roster")
            self._check_vector(vector)
            self._dealers = frozenset({*received, self._me})
            self._check_size(len(self._dealers), "dealers of shares")
            self._keep_shares(received)
            return self._masked(vector, received)

    def confirm(self, survivors: bytes) -> bytes:
        """Return the fourth answer: the signature over the survivors.

        Raises:
            SecureSumError: The survivors are too few, do not include this device, or include one
                that dealt no shares.
        """
        with self._step("confirm"):
            listed_survivors = messages.decode(survivors, messages.Survivors).devices
            self._survivors = frozenset(listed_survivors)
            repeated = len(listed_survivors) != len(self._survivors)
            if repeated or not self._survivors <= self._dealers:
                raise SecureSumError("the survivors are not distinct members who dealt shares")
            if self._me not in self._survivors:
                raise SecureSumError("this device sent its vector and is not among the survivors")
            self._check_size(len(self._survivors), "survivors")
            self._ring.check(self._survivors)
            return messages.encode(messages.Agreement(self._identity.sign(self._survivors_text())))

    @property
    def partners(self) -> list[bytes]:
        """Identities of the other survivors; empty before `confirm`."""
        return [self._members[d].enrolment.identity for d in self._survivors - {self._me}]

    def open(self, agreements: bytes) -> bytes:
        """Return the fifth answer: shares that remove the masks.

        For each member it opens either the seed (survivors) or the mask key (others), never both.

        Raises:
            SecureSumError: Too few survivors signed the same list of survivors.
        """
        with self._step("open"):
            signatures = messages.decode(agreements, messages.Agreements).signatures
            self._check_signed(signatures, self._survivors, self._survivors_text(), "survivors")
            dropped = self._dealers - self._survivors
            opened = messages.Opened(
                {member: self._shares[member][0] for member in self._with_share(self._survivors)},
                {member: self._shares[member][1] for member in self._with_share(dropped)},
            )
            self._delete_keys()
            return messages.encode(opened)

    def _keep_shares(self, received: Mapping[int, bytes]) -> None:
        """Open boxes by sender and keep the shares in them."""
        for sender, box in received.items():
            try:
                shares = self._box(sender, self._me, sender).decrypt(_NONCE, box, self._context)
            except InvalidTag:
                continue  # a missing share is tolerated: the threshold is two thirds
            if len(shares) == 2 * SHARE_BYTES:
                self._shares[sender] = shares[:SHARE_BYTES], shares[SHARE_BYTES:]

    def _masked(self, vector: IntegerVector, others: Iterable[int]) -> bytes:
        """Return the vector plus its own mask and the masks with other dealers."""
        # Modulo 2^32. A pair mask is added by the smaller number and subtracted by the other.
        own = messages.own_mask(self._seed, self._context, len(vector))
        total = vector.astype(np.uint32) + own
        for other in others:
            public = self._members[other].mask_key
            pair = messages.pair_mask(self._mask_key, public, self._context, len(vector))
            total = total + pair if self._me < other else total - pair
        return messages.encode(messages.Masked(total.astype("<u4").tobytes()))

    def _with_share(self, members: Iterable[int]) -> list[int]:
        return sorted(member for member in members if member in self._shares)

    def _survivors_text(self) -> bytes:
        return messages.survivors_text(self._context, self._dealers, self._survivors)

    def _check_vector(self, vector: IntegerVector) -> None:
        if vector.shape != (self._session.size,) or vector.dtype != np.int64:
            raise SecureSumError(f"the session sums int64 vectors of shape ({self._session.size},)")

    def _check_signed(
        self, signatures: Mapping[int, bytes], signers: frozenset[int], text: bytes, group: str
    ) -> None:
        """Check that enough of the signers signed a text."""
        agreed = sum(
            device in signers
            and messages.is_signed(self._members[device].enrolment.identity, signature, text)
            for device, signature in signatures.items()
        )
        self._check_size(agreed, f"{group} who signed the same list")

    def _check_size(self, count: int, group: str) -> None:
        needed = max(messages.threshold_of(len(self._members)), self._fewest)
        if count < needed:
            raise SecureSumError(f"there are {count} {group}, and {needed} are needed")

    def _box(self, sender: int, receiver: int, other: int) -> ChaCha20Poly1305:
        public = self._members[other].box_key
        return ChaCha20Poly1305(
            messages.agree(self._box_key, public, f"box {sender} {receiver}", self._context)
        )

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Check the order of the answers; an exception ends the session."""
        answered, self._answered = self._answered, _SESSION_ENDED
        try:
            if self.STEPS.index(name) != answered:
                count = {5: "five", 6: "six"}[len(self.STEPS)]
                raise SecureSumError(f"a secure sum asks {count} questions in order, each once")
            yield
        except BaseException:
            self._delete_keys()
            raise
        self._answered = answered + 1

    def _delete_keys(self) -> None:
        self._answered = _SESSION_ENDED
        self._shares.clear()
        self._seed = b""
        self._box_key, self._mask_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
