"""Device side of a secure sum: it answers five questions in order, each once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tactful_federated.core.invitation import Invitation
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.errors import SecureSumError, WeightsError
from tactful_federated.model.vectors import IntegerVector, Vector
from tactful_federated.secagg import messages
from tactful_federated.secagg.secret_sharing import SHARE_BYTES, split
from tactful_privacy.mechanisms.gaussian import WideGaussian

_log = logging.getLogger(__name__)

Trainer = Callable[[Vector, int], Vector]
"""Maps weights and the number of a round to an update."""

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
    """

    def __init__(
        self,
        session: messages.Session,
        enrolment: messages.Enrolment,
        identity: Ed25519PrivateKey,  # of this device
        authority: Ed25519PublicKey,  # to check enrolments with
        *,
        claim: Callable[[messages.Session], None],
        fewest: int = 3,  # smallest sum that the device takes part in, 3 or more
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
        self._members: dict[int, messages.Advert] = {}
        self._context = b""
        self._dealers: frozenset[int] = frozenset()
        self._survivors: frozenset[int] = frozenset()
        self._shares: dict[int, tuple[bytes, bytes]] = {}
        self._answered = 0

    def advertise(self) -> bytes:
        """Return the first answer: the signed keys of this session."""
        with self._stage(1):
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
        with self._stage(2):
            listed = messages.decode(roster, messages.Roster)
            self._members = messages.index_rosters(
                listed, lambda advert: messages.check_advert(advert, self._session, self._authority)
            )
            if self._members.get(self._me) != self._advert:
                raise SecureSumError("the roster does not list this device with its own keys")
            self._check_size(len(self._members), "members of the roster")
            self._context = messages.roster_digest(self._session, listed)
            count = len(self._members)
            secrets = (self._seed, self._mask_key.private_bytes_raw())
            seeds, keys = (
                split(s, messages.threshold_of(count), count, self._random) for s in secrets
            )
            sealed = {}
            for member, seed_share, key_share in zip(self._members, seeds, keys, strict=True):
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
        with self._stage(3):
            received = messages.decode(boxes, messages.Boxes).sealed
            if self._me in received or not set(received) <= set(self._members):
                raise SecureSumError("shares are from a device that is not on the roster")
            if vector.shape != (self._session.size,) or vector.dtype != np.int64:
                raise SecureSumError(
                    f"the session sums int64 vectors of shape ({self._session.size},)"
                )
            self._dealers = frozenset({*received, self._me})
            self._check_size(len(self._dealers), "dealers of shares")
            for sender, box in received.items():
                try:
                    shares = self._box(sender, self._me, sender).decrypt(_NONCE, box, self._context)
                except InvalidTag:
                    continue  # a missing share is tolerated: the threshold is two thirds
                if len(shares) == 2 * SHARE_BYTES:
                    self._shares[sender] = shares[:SHARE_BYTES], shares[SHARE_BYTES:]
            # Modulo 2^32. A pair mask is added by the smaller number and subtracted by the other.
            total = vector.astype(np.uint32) + messages.own_mask(
                self._seed, self._context, len(vector)
            )
            for sender in received:
                public = self._members[sender].mask_key
                pair = messages.pair_mask(self._mask_key, public, self._context, len(vector))
                total = total + pair if self._me < sender else total - pair
            return messages.encode(messages.Masked(total.astype("<u4").tobytes()))

    def confirm(self, survivors: bytes) -> bytes:
        """Return the fourth answer: the signature over the survivors.

        Raises:
            SecureSumError: The survivors are too few, do not include this device, or include one
                that dealt no shares.
        """
        with self._stage(4):
            listed_survivors = messages.decode(survivors, messages.Survivors).devices
            self._survivors = frozenset(listed_survivors)
            repeated = len(listed_survivors) != len(self._survivors)
            if repeated or not self._survivors <= self._dealers:
                raise SecureSumError("the survivors are not distinct members who dealt shares")
            if self._me not in self._survivors:
                raise SecureSumError("this device sent its vector and is not among the survivors")
            self._check_size(len(self._survivors), "survivors")
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
        with self._stage(5):
            signatures = messages.decode(agreements, messages.Agreements).signatures
            text = self._survivors_text()
            agreed = [
                device
                for device, signature in signatures.items()
                if device in self._survivors
                and messages.is_signed(self._members[device].enrolment.identity, signature, text)
            ]
            self._check_size(len(agreed), "survivors who signed the same list")
            dropped = self._dealers - self._survivors
            opened = messages.Opened(
                {member: self._shares[member][0] for member in self._with_share(self._survivors)},
                {member: self._shares[member][1] for member in self._with_share(dropped)},
            )
            self._delete_keys()
            return messages.encode(opened)

    def _with_share(self, members: Iterable[int]) -> list[int]:
        return sorted(member for member in members if member in self._shares)

    def _survivors_text(self) -> bytes:
        return messages.survivors_text(self._context, self._dealers, self._survivors)

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
    def _stage(self, number: int) -> Iterator[None]:
        """Check the order of the answers; an exception ends the session."""
        expected, self._answered = self._answered + 1, _SESSION_ENDED
        try:
            if number != expected:
                raise SecureSumError("a secure sum asks five questions in order, each once")
            yield
        except BaseException:
            self._delete_keys()
            raise
        self._answered = number

    def _delete_keys(self) -> None:
        self._answered = _SESSION_ENDED
        self._shares.clear()
        self._seed = b""
        self._box_key, self._mask_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()


def _allow(*_: object) -> None:
    """Allow anything."""


@dataclass(frozen=True)
class Account:
    """Callbacks that keep the account of a device; each raises `SecureSumError` to refuse.

    Attributes:
        join: Called before the first answer of a session; see `claim` of `SecureSumDevice`.
        charge: Called before the vector leaves the device.
        agree: Called with the identities of the other survivors before the device signs.
    """

    join: Callable[[messages.Session], None]
    charge: Callable[[messages.Session], None] = _allow
    agree: Callable[[messages.Session, Sequence[bytes]], None] = _allow


class SecureRounds:
    """Answers of a device to the questions of a server in the rounds of one run.

    An update is clipped, on the grid of the plan, noised if the plan says so, and masked. A device
    whose training fails sends zeros, since a missing answer would reveal the failure. The device
    uses its own copy of the plan and refuses questions for another size or run. It refuses weights
    that are not finite and those that the session does not name: all devices of a sum have the same
    weights and terms, so a server cannot have one of them train and the others fail. A device
    answers for one set of weights in a round, and is charged when its vector leaves it.

    Args:
        run: Name of the run that the device takes part in.
        plan: Plan of the run.
        trainer: Trains on the history of the device.
        enrolment: Enrolment of the device.
        identity: Private key of the device.
        authority: Key to check enrolments with.
        account: Keeps the account of the device.
        terms: Invitation that device and server share; None is the plan, for one sum in a round.
        entropy: Source of cryptographically secure bytes.
    """

    def __init__(
        self,
        run: str,
        plan: TrainingPlan,
        trainer: Trainer,
        enrolment: messages.Enrolment,
        identity: Ed25519PrivateKey,
        authority: Ed25519PublicKey,
        *,
        account: Account,
        terms: Invitation | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Join a run; no session is open."""
        self._run, self._plan, self._trainer = run, plan, trainer
        self._enrolment, self._identity, self._authority = enrolment, identity, authority
        self._account, self._entropy = account, entropy
        self._terms = messages.terms_digest(terms or plan)
        self._fewest = terms.fewest if terms else plan.minimum_reports
        self._asked: messages.Session | None = None
        self._session: SecureSumDevice | None = None
        self._update: IntegerVector | None = None

    def answer(self, stage: int, question: bytes, weights: Vector | None) -> bytes:
        """Answer the question of a stage from 1 to 5; the weights come at stage 1.

        Raises:
            SecureSumError: The question does not belong to this run or stage, or the session
                was aborted.
        """
        if stage == 1:
            return self._begin(question, weights)
        session, asked, update = self._session, self._asked, self._update
        if session is None or asked is None or update is None:
            raise SecureSumError("this device has no open session")
        if not 2 <= stage <= 5:
            raise SecureSumError(f"a secure sum has stages 1 to 5, not {stage}")
        self._session = None  # an exception ends the session
        if stage == 2:
            answer = session.share(question)
        elif stage == 3:
            answer = session.mask(question, update)
            self._account.charge(asked)
        elif stage == 4:
            answer = session.confirm(question)
            self._account.agree(asked, session.partners)
        else:
            self._update = None
            return session.open(question)
        self._session = session
        return answer

    def _begin(self, question: bytes, weights: Vector | None) -> bytes:
        self._session = None
        asked = messages.decode(question, messages.Session)
        if asked.run != self._run or asked.size != self._plan.parameters or weights is None:
            raise SecureSumError("the session is not for the run or the plan of this device")
        self._check_terms(asked, weights)
        session = SecureSumDevice(
            asked,
            self._enrolment,
            self._identity,
            self._authority,
            claim=self._account.join,
            fewest=self._fewest,
            random=self._entropy,
        )
        update = self._train(weights, asked.round)
        if self._plan.device_sigma_squared:
            noise = WideGaussian(self._plan.device_sigma_squared, entropy=self._entropy)
            update = update + noise.sample(len(update))
        self._session, self._asked, self._update = session, asked, update
        return session.advertise()

    def _check_terms(self, asked: messages.Session, weights: Vector) -> None:
        """Check that all devices of the session have these weights and these terms."""
        if not (asked.weights and asked.terms):
            raise SecureSumError(
                "the server has protocol 1 of secure sums, in which it can send each device other"
                " weights, and this device has protocol 2: update the server"
            )
        if asked.terms != self._terms:
            raise SecureSumError(
                "the server has another plan or other settings than the invitation of this device:"
                " get the invitation of the server"
            )
        if asked.weights != messages.weights_digest(weights):
            raise SecureSumError("the weights are not those that the session names")
        if not np.isfinite(weights).all():
            raise SecureSumError("the weights hold a value that is not finite")

    def _train(self, weights: Vector, round_number: int) -> IntegerVector:
        try:
            return self._plan.grid.encode(self._trainer(weights, round_number))
        except WeightsError as error:
            _log.warning("round %d: this device sends zeros: %s", round_number, error)
            return np.zeros(self._plan.parameters, dtype=np.int64)
