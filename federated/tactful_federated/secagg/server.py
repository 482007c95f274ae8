"""Server side of a secure sum: it forwards messages and can read only the sum."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tactful_federated.core.graph import Graph
from tactful_federated.core.groups import FEWEST_DEVICES
from tactful_federated.errors import SecureSumError
from tactful_federated.model.vectors import IntegerVector
from tactful_federated.secagg import messages
from tactful_federated.secagg.ring import Ring, ring_of
from tactful_federated.secagg.secret_sharing import SHARE_BYTES, Opening, most_wrong, open_secrets

_log = logging.getLogger(__name__)

_T = TypeVar("_T", bound=msgspec.Struct)

Payloads = Mapping[int, bytes]
"""Encoded messages by device."""

Exchange = Callable[[int, Payloads], Payloads]
"""Sends the question of a stage to each device and returns the answers in time."""


@dataclass(frozen=True, eq=False)
class SecureTotal:
    """Result of a secure sum."""

    values: IntegerVector  # sum of the survivors' vectors; exact if it fits 31 bits and a sign
    devices: frozenset[int]  # the survivors


class SecureSumServer:
    """Server side of one session; call the methods in order.

    Devices may drop out at every stage, as long as more than two thirds of the roster answer each
    later stage; each method raises `SecureSumError` if fewer did. An answer that is malformed,
    badly signed or of another device is ignored, like a missing one. Wrong shares are corrected and
    their senders named (`liars`), up to a sixth of the roster if all of it answers.

    Args:
        session: Session with a new nonce.
        authority: Key to check enrolments with, since devices refuse rosters with unknown members.
        fewest: Smallest sum, 3 or more; with fewer devices the session is aborted.
        graph: Graph of the invitation; None is a complete one.

    Attributes:
        liars: Devices that dealt or opened wrong shares, also if the sum was aborted. No other
            device is named, if at most a sixth of the roster (one of fewer than 12) lies.
        STEPS: Methods that read the answers of the stages, in order.
    """

    STEPS: ClassVar[tuple[str, ...]] = ("list_members", "deliver", "collect", "gather", "unmask")

    def __init__(
        self,
        session: messages.Session,
        authority: Ed25519PublicKey,
        *,
        fewest: int = FEWEST_DEVICES,
        graph: Graph | None = None,
    ) -> None:
        """Create a session without members."""
        self._session, self._authority = session, authority
        self._fewest = max(FEWEST_DEVICES, fewest)
        self._graph, self._ring = graph, Ring({}, 0)
        self._members: dict[int, messages.Advert] = {}
        self._context = b""
        self._sealed: dict[int, dict[int, bytes]] = {}
        self._survivors: list[int] = []
        self.liars: frozenset[int] = frozenset()
        self._total = np.zeros(session.size, dtype=np.uint32)

    def list_members(self, answers: Payloads) -> dict[int, bytes]:
        """Read adverts; return the roster for each member."""
        for device, advert in self._decoded(answers, messages.Advert):
            try:
                messages.check_advert(advert, self._session, self._authority)
                messages.check_agreement_keys(advert)
            except SecureSumError as error:
                _log.warning("ignored an advert: %s", error)
                continue
            if advert.enrolment.device == device:
                self._members[device] = advert
        # Devices refuse a roster with a key twice, so two devices with one key would end the round.
        keys_of = {
            d: (a.enrolment.identity, a.box_key, a.mask_key) for d, a in self._members.items()
        }
        counts = Counter(key for keys in keys_of.values() for key in keys)
        self._members = {
            device: advert
            for device, advert in sorted(self._members.items())
            if all(counts[key] == 1 for key in keys_of[device])
        }
        if len(self._members) < self._fewest:
            raise SecureSumError(f"{len(self._members)} devices joined; {self._fewest} are needed")
        roster = messages.Roster(list(self._members.values()))
        self._context = messages.roster_digest(self._session, roster)
        self._ring = ring_of(self._context, self._members, self._graph)
        data = messages.encode(roster)
        return dict.fromkeys(self._members, data)

    def deliver(self, answers: Payloads) -> dict[int, bytes]:
        """Read encrypted shares; return those for each device that sent some."""
        self._read_boxes(answers)
        return {
            receiver: messages.encode(messages.Boxes(self._boxes_for(receiver)))
            for receiver in self._sealed
        }

    def collect(self, answers: Payloads) -> dict[int, bytes]:
        """Read masked vectors; return the list of survivors, for each survivor."""
        for device, masked in self._decoded(answers, messages.Masked):
            if device in self._sealed and len(masked.values) == 4 * self._session.size:
                self._total = self._total + np.frombuffer(masked.values, dtype="<u4")
                self._survivors.append(device)
        self._survivors.sort()
        self._check_size(len(self._survivors), "sent a vector")
        return dict.fromkeys(self._survivors, messages.encode(messages.Survivors(self._survivors)))

    def gather(self, answers: Payloads) -> dict[int, bytes]:
        """Read agreements; return all of them for each device that agreed."""
        text = messages.survivors_text(self._context, self._sealed, self._survivors)
        signatures = self._read_agreements(
            answers, self._survivors, text, "agreed on the survivors"
        )
        return dict.fromkeys(signatures, messages.encode(messages.Agreements(signatures)))

    def unmask(self, answers: Payloads) -> SecureTotal:
        """Read the shares that open the masks; return the sum.

        Raises:
            SecureSumError: Too few devices answered, or too many shares do not match the
                commitments.
        """
        survivors, dropped = set(self._survivors), set(self._sealed) - set(self._survivors)
        opened = {
            device: message
            for device, message in self._decoded(answers, messages.Opened)
            if device in survivors
            and set(message.seeds) <= survivors
            and set(message.mask_keys) <= dropped
        }
        self._check_size(len(opened), "opened their shares")
        secrets = self._open(opened, dropped).secrets
        # total = sum of vectors + own masks of survivors + pair masks with dropped devices; the
        # pair masks among survivors cancel.
        total = self._total
        for device in self._survivors:
            total = total - messages.own_mask(secrets[device], self._context, self._session.size)
        for device in sorted(dropped):
            key = X25519PrivateKey.from_private_bytes(secrets[device])
            for other in survivors.intersection(self._ring.circles[device]):
                public = self._members[other].mask_key
                mask = messages.pair_mask(key, public, self._context, self._session.size)
                # The inverse of what the survivor added: see `SecureSumDevice.mask`.
                total = total - mask if other < device else total + mask
        values = total.view(np.int32).astype(np.int64)
        return SecureTotal(values, frozenset(self._survivors))

    def _open(self, opened: Mapping[int, messages.Opened], dropped: set[int]) -> Opening:
        """Reconstruct the seeds of survivors and the mask keys of others; name liars."""
        threshold = self._ring.shares
        places = {device: place for place, device in enumerate(self._members, 1)}
        possible = max(1, len(self._members) // 6)  # liars that are assumed at most
        shares: dict[int, dict[int, bytes]] = {}
        for dealer in (*self._survivors, *sorted(dropped)):
            kind = "mask_keys" if dealer in dropped else "seeds"
            sent = {places[h]: getattr(m, kind).get(dealer, b"") for h, m in opened.items()}
            held = {place: share for place, share in sent.items() if len(share) == SHARE_BYTES}
            if len(held) < threshold:
                if len(sent) - len(held) > possible:  # it sent most holders none
                    self.liars |= {dealer}
                raise SecureSumError(
                    f"there are {len(held)} shares of a secret, and {threshold} are needed"
                )
            shares[dealer] = dict(sorted(held.items()))

        def is_right(dealer: int, secret: bytes) -> bool:
            return self._is_right(dealer, secret, is_key=dealer in dropped)

        opening = open_secrets(shares, threshold, is_right)
        if opening.failed:
            # If nothing could be opened, or too few shares came, it may have been the holders.
            self.liars = frozenset(
                dealer
                for dealer in opening.failed
                if opening.secrets and most_wrong(len(shares[dealer]), threshold) >= possible
            )
            raise SecureSumError(
                f"shares of device {opening.failed[0]} do not match the commitment of its device"
            )
        # If a holder of more wrong shares did not lie, their dealers did, which are too many.
        most, devices = max(possible, most_wrong(len(opened), threshold)), list(self._members)
        self.liars = frozenset(devices[h - 1] for h, n in opening.wrong.items() if n > most)
        if opening.wrong:
            _log.warning(
                "corrected %d wrong shares; the devices that lied: %s",
                opening.wrong.total(),
                sorted(self.liars) or "not certain",
            )
        return opening

    def _is_right(self, dealer: int, secret: bytes, *, is_key: bool) -> bool:
        """Compare a mask key or a seed with the commitment in the advert of its dealer."""
        advert = self._members[dealer]
        if not is_key:
            return messages.seed_commitment(self._session, secret) == advert.seed_digest
        key = X25519PrivateKey.from_private_bytes(secret)
        return key.public_key().public_bytes_raw() == advert.mask_key

    def _read_boxes(self, answers: Payloads) -> None:
        """Keep the boxes of members who dealt shares to all of their neighbours."""
        for device, boxes in self._decoded(answers, messages.Boxes):
            if device in self._members and set(boxes.sealed) == set(self._ring.others(device)):
                self._sealed[device] = boxes.sealed
        self._check_size(len(self._sealed), "dealt shares")

    def _boxes_for(self, receiver: int) -> dict[int, bytes]:
        senders = (s for s in self._ring.others(receiver) if s in self._sealed)
        return {sender: self._sealed[sender][receiver] for sender in senders}

    def _read_agreements(
        self, answers: Payloads, signers: Container[int], text: bytes, action: str
    ) -> dict[int, bytes]:
        """Return the right signatures over a text, by signer."""
        signatures = {
            device: agreement.signature
            for device, agreement in self._decoded(answers, messages.Agreement)
            if device in signers
            and messages.is_signed(
                self._members[device].enrolment.identity, agreement.signature, text
            )
        }
        self._check_size(len(signatures), action)
        return signatures

    def _decoded(self, answers: Payloads, kind: type[_T]) -> Iterator[tuple[int, _T]]:
        for device, data in answers.items():
            try:
                yield device, messages.decode(data, kind)
            except SecureSumError as error:
                _log.warning("ignored an answer: %s", error)

    def _check_size(self, count: int, action: str) -> None:
        needed = max(messages.threshold_of(len(self._members)), self._fewest)
        if count < needed:
            raise SecureSumError(f"{count} devices {action}, and {needed} are needed")


def sum_in_secret(server: SecureSumServer, invited: Payloads, ask: Exchange) -> SecureTotal:
    """Run a session from the invitations to the sum.

    Args:
        server: Server side of the session.
        invited: Session message for each device.
        ask: Sends the questions of a stage, from 1 on.

    Raises:
        SecureSumError: The sum was aborted; the server learned nothing.
    """
    (found,) = sum_groups([server], [invited], ask)
    if isinstance(found, SecureSumError):
        raise found
    return found


def sum_groups(
    servers: Sequence[SecureSumServer], invited: Sequence[Payloads], ask: Exchange
) -> list[SecureTotal | SecureSumError]:
    """Run sessions of disjoint groups of devices at once, in the same exchanges.

    A group that is aborted is asked no more, and the others go on.

    Args:
        servers: Server side of each session.
        invited: Session message for each device of each session.
        ask: Sends the questions of a stage, from 1 on.

    Returns:
        Sum of each session, or the reason why it was aborted.
    """
    found: dict[int, SecureTotal | SecureSumError] = {}
    questions: dict[int, Payloads] = dict(enumerate(invited))
    for stage in range(1, 1 + max(len(server.STEPS) for server in servers)):
        if not questions:
            break
        asked = {device: data for own in questions.values() for device, data in own.items()}
        answers = ask(stage, asked)
        for group, own in list(questions.items()):
            received = {device: answers[device] for device in own if device in answers}
            step = servers[group].STEPS[stage - 1]
            try:
                if step == "unmask":
                    found[group] = servers[group].unmask(received)
                else:
                    questions[group] = getattr(servers[group], step)(received)
            except SecureSumError as error:
                found[group] = error
                del questions[group]
    return [found[group] for group in range(len(servers))]
