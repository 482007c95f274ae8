"""Identity resolution: links devices to users by explicit events alone.

A login, an order or an explicit link names a user and a first-party device id. From then on the
anonymous events of the device belong to that user, and its earlier history is merged into theirs.
When another user logs in, the device changes hands; a logout ends the link. Only `user_id`,
`device_id`, the type and the timestamp of an event are read: never its context, its properties, or
other data that would identify users who have not named themselves.

A user who refuses (a user upsert with ``consent.identity: false``) is unlinked, and is not linked
again before consent and a login. Anonymous events on devices that they hold are counted under a
separate key, which is never merged into a history. A history that was merged before stays merged:
it cannot be divided.

With several partitions, the device's own partition decides. A :class:`~tactful_streaming.Link`
informs it of a login elsewhere. It sends the device's history to the user's partition as a
:class:`~tactful_streaming.Transfer`, and later anonymous events as
:class:`~tactful_streaming.Forwarded`. A single engine that reads the whole log skips all three.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_streaming.contract.log_entries import (
    APART,
    DEVICE_PREFIX,
    PERSONALISATION,
    Entry,
    Forwarded,
    Link,
    Transfer,
    User,
    decode_entry,
    event_for,
)
from tactful_streaming.errors import EngineError
from tactful_streaming.identity.device_links import UNNAMED, DeviceLinks, Mark
from tactful_streaming.state.key_layout import CONSENT, RECEIVED
from tactful_streaming.state.store import Change, StateStore

CONSENT_PROPERTY = "consent.identity"
"""Property of a user upsert: whether devices may be linked to them. Without it nothing changes."""

_DAY_MS = 86_400_000
_SWEEP = 256


@dataclass(frozen=True)
class Identity:
    """Rules that link devices to users."""

    # Types of events that link their device to their user, if they name both.
    logins: frozenset[str] = frozenset({"x.login", "x.link", "purchase"})
    # Types of events that end the link of their device; an event that names a user ends only that
    # user's link.
    logouts: frozenset[str] = frozenset({"x.logout", "x.unlink"})
    # Time after the last login for which a user holds a device, milliseconds.
    ttl_ms: int = 180 * _DAY_MS
    # Most devices of a user in one partition; the one with the oldest login is unlinked.
    devices_per_user: int = 50
    marks_per_device: int = 32  # most logins and logouts remembered for a device
    # Whether only users who agreed (``consent.identity: true``) are linked; otherwise all who did
    # not refuse.
    consent_required: bool = False

    def __post_init__(self) -> None:
        """Check the rules.

        Raises:
            EngineError: if a type both begins and ends links, or a bound is too low.
        """
        if both := self.logins & self.logouts:
            raise EngineError(
                f"identity: {', '.join(sorted(both))} cannot both begin and end links: name each "
                "type of event once"
            )
        if min(self.ttl_ms, self.devices_per_user, self.marks_per_device - 1) < 1:
            raise EngineError(
                "identity: ttl_ms and devices_per_user are at least 1, marks_per_device at least 2"
            )


@dataclass(frozen=True)
class Move:
    """The merge of the history of one key into that of another."""

    source: str
    target: str
    timestamp: int  # time of the login, epoch milliseconds
    transfer_id: str | None = None  # set if the target is in another partition
    state: bytes | None = None  # packed history from another partition; None if it is in this one


class Resolver:
    """Resolves each event of the log to the key of its user.

    Its state commits with the engine's. The results follow from the order of the log and its
    timestamps alone.
    """

    def __init__(
        self,
        identity: Identity,
        store: StateStore,
        *,
        check: Callable[[bytes], None],
        partition: int = 0,
        partition_of: Callable[[str], int] | None = None,
    ) -> None:
        """Continue from the links in `store`; StateError if one is damaged.

        `check` raises a StateError for an invalid packed history. `partition` is the number of this
        partition of the log, and `partition_of` gives the one that a key is routed to; None: there
        is one.
        """
        self._identity = identity
        self._store = store
        self._check = check
        self._partition = partition
        self._partition_of = partition_of
        self._types = identity.logins | identity.logouts
        self.links = DeviceLinks(store, ttl_ms=identity.ttl_ms)
        self._consents: dict[str, bool] = {}
        self._received: dict[str, int] = {}
        self._sweep_from = RECEIVED
        self._moves: list[Move] = []
        self._leaving: list[Entry] = []

    @property
    def is_partitioned(self) -> bool:
        """Whether there are other partitions, which send links and transfers."""
        return self._partition_of is not None

    def resolve(self, key: str, at: int, newest: int) -> str:
        """Return the key of the history of ``device:<device_id>`` at time `at`.

        `newest` is the newest event timestamp so far, epoch milliseconds.
        """
        if self.links.is_empty:
            return key
        return self._owner(key.removeprefix(DEVICE_PREFIX), at, newest) or key

    def resolve_all(
        self,
        events: MutableSequence[Any],
        users: list[str | None],
        newest: NDArray[np.int64],
        payloads: Sequence[bytes],
        leave: Callable[[int], Any],
    ) -> list[tuple[int, Move]]:
        """Replace `users`, as the events name them, by the keys of their histories.

        `newest` holds the newest event timestamp after each event, and `payloads` its record. A
        forwarded event is replaced by what `leave` makes from its timestamp.

        Returns:
            Moves, each with the event before which it happens.
        """
        types = self._types
        linking = [place for place, event in enumerate(events) if event.type in types]
        places = [
            place
            for place, event in enumerate(events)
            if event.user_id is None or event.type in types
        ]
        if self.links.is_empty and not linking:
            return []
        self.prepare(events[place] for place in places)
        moves: list[tuple[int, Move]] = []
        for place in places:
            event = events[place]
            key = self.subject(event, int(newest[place]), payloads[place])
            users[place] = key
            if key is None:
                events[place] = leave(event.timestamp)
            if self._moves:
                moves += [(place, move) for move in self.take_moves()]
        return moves

    def prepare(self, events: Iterable[Any]) -> None:
        """Read the links of the devices of some events at once."""
        if not self.links.is_empty:
            devices = {event.device_id for event in events if event.device_id is not None}
            self.links.prepare(devices)

    def subject(self, event: Any, newest: int, payload: bytes) -> str | None:
        """Return the key of the user of an event; apply the links that it makes or ends.

        The event has a user or a device; `newest` is the newest timestamp, its own included. None
        if it is forwarded to another partition and does not count in this one.
        """
        device_id: str | None = event.device_id
        user_id: str | None = event.user_id
        timestamp: int = event.timestamp
        if device_id is None:
            return user_id
        key = DEVICE_PREFIX + device_id
        linkable = not device_id.endswith(APART)
        if user_id is None and linkable:
            owner = self._owner(device_id, timestamp, newest)
            if owner is not None and self._is_elsewhere(owner):
                whole = event_for(decode_entry(payload), PERSONALISATION)
                assert whole is not None
                self._leaving.append(Forwarded(target=owner, timestamp=timestamp, event=whole))
                key = ""
            else:
                key = owner or key
        if event.type in self._types and linkable:
            ends = event.type in self._identity.logouts
            if ends or user_id is not None:
                link = Link(device_id=device_id, timestamp=timestamp, user_id=user_id, ends=ends)
                if self._is_elsewhere(DEVICE_PREFIX + device_id):
                    self._leaving.append(link)
                else:
                    self.link(link, newest)
        return user_id if user_id is not None else key or None

    def forwarded(self, target: str, event: Any) -> str:
        """Return the key of the history of an event that another partition forwarded.

        `target` is its user, as the other partition resolved it.
        """
        if self._may_link(target):
            return target
        # Distinct from the unclaimed history in the partition of the device.
        return f"{unclaimed_key(event.device_id)}{self._partition}"

    def link(self, link: Link, newest: int) -> None:
        """Apply a login or logout to a device of this partition."""
        if not link.device_id.endswith(APART):
            mark = Mark(link.timestamp, link.user_id, link.ends)
            self._mark(link.device_id, mark, newest)

    def receive(self, transfer: Transfer, newest: int) -> None:
        """Apply a history from another partition, once, unless its user refuses by now."""
        id_ = transfer.transfer_id
        if id_ in self._received or self._store.get(RECEIVED + id_.encode()) is not None:
            return
        self._check(transfer.state)
        self._received[id_] = newest
        if not self._may_link(transfer.target):
            return
        # Under a separate key until it is merged: the device's may be in use for stray events.
        source = f"{transfer.source}{APART}{id_}"
        move = Move(source, transfer.target, transfer.timestamp, state=transfer.state)
        self._moves.append(move)

    def describe(self, user: User, newest: int) -> None:
        """Store the consent that a user upsert gives or withdraws."""
        consent = user.properties.get(CONSENT_PROPERTY)
        if type(consent) is not bool or consent is self._consent(user.user_id):
            return
        self._consents[user.user_id] = consent
        if not consent:
            self.links.unlink(user.user_id, newest)

    def take_moves(self) -> list[Move]:
        """Return and clear the moves before the last event or entry, in order."""
        moves, self._moves = self._moves, []
        return moves

    def take_leaving(self) -> list[Entry]:
        """Return and clear the entries for other partitions."""
        leaving, self._leaving = self._leaving, []
        return leaving

    def changes(self, newest: int) -> Iterator[Change]:
        """Yield the writes of a commit; deletes a bounded number of expired ones."""
        yield from self.links.changes(newest)
        for user_id, consent in self._consents.items():
            yield CONSENT + user_id.encode(), b"\1" if consent else b"\0"
        for id_, when in self._received.items():
            yield RECEIVED + id_.encode(), when.to_bytes(8, "big")
        start, self._sweep_from = self._sweep_from, RECEIVED
        for number, (key, when_seen) in enumerate(self._store.scan(RECEIVED, start)):
            if number == _SWEEP:
                self._sweep_from = key
                break
            if int.from_bytes(when_seen, "big") + self._identity.ttl_ms <= newest:
                yield key, None

    def mark_committed(self) -> None:
        """Note that the last :meth:`changes` are in the store."""
        self.links.mark_committed()
        self._consents.clear()
        self._received.clear()

    def _owner(self, device_id: str, at: int, newest: int) -> str | None:
        """Return the key of an anonymous event of a device; None if it has no user yet."""
        known = self.links.marks(device_id, newest)
        owner = known.owner(at, self._identity.ttl_ms) if known is not None else None
        if owner is None or (owner != UNNAMED and self._may_link(owner)):
            return owner
        return unclaimed_key(device_id)

    def _mark(self, device_id: str, mark: Mark, newest: int) -> None:
        user_id = mark.user_id
        if user_id is not None and not self._may_link(user_id):
            mark = Mark(mark.timestamp, UNNAMED, mark.ends)
        claim = self.links.add(
            device_id,
            mark,
            newest,
            most_marks=self._identity.marks_per_device,
            most_devices=self._identity.devices_per_user,
        )
        if claim is None:
            return
        source = DEVICE_PREFIX + device_id
        if claim == UNNAMED:
            self._moves.append(Move(source, unclaimed_key(device_id), mark.timestamp))
            return
        transfer_id = None
        if self._is_elsewhere(claim):
            identity = msgspec.json.encode([device_id, claim, mark.timestamp])
            transfer_id = hashlib.sha256(identity).hexdigest()[:32]
        self._moves.append(Move(source, claim, mark.timestamp, transfer_id))

    def _may_link(self, user_id: str) -> bool:
        consent = self._consent(user_id)
        return not self._identity.consent_required if consent is None else consent

    def _consent(self, user_id: str) -> bool | None:
        """Return the last consent of a user; None if there is none."""
        consent = self._consents.get(user_id)
        if consent is None:
            stored = self._store.get(CONSENT + user_id.encode())
            consent = None if stored is None else stored == b"\1"
        return consent

    def _is_elsewhere(self, key: str) -> bool:
        if self._partition_of is None:
            return False
        # An unclaimed history stays with the device.
        return self._partition_of(key.removesuffix(APART)) != self._partition


def unclaimed_key(device_id: str) -> str:
    """Return the key of the events of a device whose user has no name."""
    return f"{DEVICE_PREFIX}{device_id}{APART}"
