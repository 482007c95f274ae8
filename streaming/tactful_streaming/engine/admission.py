"""What of the log counts: records are decoded, told from repetitions, cleaned, and put in time."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np

from tactful_streaming.contract.log_entries import (
    DEVICE_PREFIX,
    PERSONALISATION,
    Event,
    Item,
    Link,
    Tick,
    Transfer,
    User,
    subject_key,
)
from tactful_streaming.decode.projection import Projection
from tactful_streaming.engine.consumers import CoCommittedConsumer
from tactful_streaming.engine.dedupe import Deduplicator
from tactful_streaming.engine.selection import Batch, Plan
from tactful_streaming.errors import StateError
from tactful_streaming.identity.resolver import Move, Resolver
from tactful_streaming.log.dead_letters import UNREADABLE
from tactful_streaming.patterns.join_operator import ItemVersions
from tactful_streaming.rules.rules import Cleaner


@dataclass(frozen=True)
class Refused:
    """A record that does not count.

    Attributes:
        position: which of the records it is.
        rule: name of the rule that refused it, or :data:`~tactful_streaming.UNREADABLE`.
        reason: why, for people.
    """

    position: int
    rule: str
    reason: str


@dataclass
class Admitted:
    """What became of some records.

    Attributes:
        batch: events that count, in the order of the log, and ticks.
        positions: which of the records each of them is; None if they are all records.
        items: item updates, in the order of the log.
        item_watermarks: watermark when each came.
        users: user updates.
        moves: histories that move, each with the numbers of events and items that come before.
        ids: ids of all events, also of those that do not count; empty if nobody asks.
        duplicates: how many events had been applied before.
        invalid: how many records are no entry, or an event of nobody other than an impression.
        dropped: how many events the cleaner kept back.
        refused: records to be set aside.
    """

    batch: Batch
    positions: list[int] | None = None
    items: list[Item] = field(default_factory=list)
    item_watermarks: list[int] = field(default_factory=list)
    users: list[User] = field(default_factory=list)
    moves: list[tuple[int, int, Move]] = field(default_factory=list)
    ids: Sequence[str] = ()
    duplicates: int = 0
    invalid: int = 0
    dropped: int = 0
    refused: list[Refused] = field(default_factory=list)


class Intake:
    """Admits records in the order of the log.

    Attributes:
        newest: newest timestamp admitted, epoch milliseconds.
        watermark: `newest` minus the delay; it never goes back.
        catalogue: newest description of each item.
        versions: the last descriptions of each item, if features ask what held at a time.
    """

    def __init__(
        self,
        plan: Plan,
        projection: Projection,
        dedupe: Deduplicator,
        *,
        watermark_delay_ms: int,
        reads_ids: bool,
        cleaner: Cleaner | None,
        consumers: Mapping[str, CoCommittedConsumer],
        resolver: Resolver | None,
        suppressed: Container[str] = frozenset(),
    ) -> None:
        """Begin before the first event.

        Args:
            plan: what the features ask of events.
            projection: decodes; with a cleaner or consumers it has to decode whole events.
            dedupe: what has been applied before.
            watermark_delay_ms: how far the watermark stays behind the newest event.
            reads_ids: whether somebody wants :attr:`Admitted.ids`.
            cleaner: judges each event that is no repetition.
            consumers: get each event that counts.
            resolver: says whose an event is; None: what it says itself.
            suppressed: keys of people of whom nothing counts.
        """
        self._plan = plan
        self._projection = projection
        self._dedupe = dedupe
        self._delay = watermark_delay_ms
        self._reads_ids = reads_ids or dedupe.enabled
        self._cleaner = cleaner
        self._consumers = list(consumers.values())
        self._resolver = resolver
        self._suppressed = suppressed
        self.newest = 0
        self.watermark = 0
        self.catalogue: dict[str, Item] = {}
        self.versions = ItemVersions() if plan.reads_versions else None

    def resume(self, newest: int, watermark: int) -> None:
        """Go on from a stored state."""
        self.newest = newest
        self.watermark = max(watermark, newest - self._delay, 0)

    def admit(self, payloads: Sequence[bytes]) -> Admitted:
        """Admit records; the catalogue and the watermark go on with them."""
        targets: dict[int, str] = {}
        purposes: dict[int, Collection[str]] = {}
        known: Mapping[str, int] | None = None
        ids: list[str] = []
        plain = not self._cleaner and not self._consumers and not self._suppressed
        decoded = self._projection.decode(payloads)
        event_class = self._projection.event_class
        if plain and set(map(type, decoded)) == {event_class}:
            users = self._projection.column(decoded, "user_id")
            ids = self._projection.column(decoded, "event_id") if self._reads_ids else []
            if None not in users:
                if self._dedupe.enabled:
                    known = self._dedupe.seen_many(ids)
                if not known and len(set(ids)) == len(ids):
                    return self._admit_all(decoded, users, ids, payloads)
        else:
            targets, purposes = self._unwrap(decoded)
            if self._suppressed:
                self._suppress(decoded, targets)
        if not ids and self._reads_ids:
            ids = [entry.event_id for entry in decoded if type(entry) is event_class]
        if known is None:
            known = self._dedupe.seen_many(ids) if self._dedupe.enabled else {}
        return self._admit_each(decoded, targets, purposes, ids, known, payloads)

    def _admit_all(
        self,
        events: Any,
        users: Any,
        ids: Sequence[str],
        payloads: Sequence[bytes],
    ) -> Admitted:
        """Admit events none of which is a repetition, with nobody to ask about each."""
        times = np.fromiter(map(attrgetter("timestamp"), events), np.int64, len(events))
        newest = np.maximum(np.maximum.accumulate(times), self.newest)
        watermarks = np.maximum(newest - self._delay, self.watermark)
        self.newest, self.watermark = int(newest[-1]), int(watermarks[-1])
        if self._dedupe.enabled:
            self._dedupe.remember_many(ids, watermarks.tolist())
        moves: list[tuple[int, int, Move]] = []
        if self._resolver is not None:
            moved = self._resolver.resolve_all(
                events, users, newest, payloads, self._projection.tick
            )
            moves = [(place, 0, move) for place, move in moved]
        items: list[Item | None] = []
        if self._plan.reads_items and self.catalogue:
            get: Any = self.catalogue.get
            items = list(map(get, self._projection.column(events, "item_id")))
        versions: list[Item | None] = []
        if self.versions is not None:
            versions = self.versions.lookup(
                self._projection.column(events, "item_id"), times.tolist()
            )
        batch = Batch(events, users, times, watermarks, items, versions)
        return Admitted(batch, moves=moves, ids=ids)

    def _admit_each(
        self,
        decoded: Sequence[Any],
        targets: Mapping[int, str],
        purposes: Mapping[int, Collection[str]],
        ids: Sequence[str],
        known: Mapping[str, int],
        payloads: Sequence[bytes],
    ) -> Admitted:
        event_class, dedupe, catalogue = self._projection.event_class, self._dedupe, self.catalogue
        reads_items = self._plan.reads_items or bool(self._cleaner) or bool(self._consumers)
        resolver = self._resolver
        if resolver is not None:
            resolver.prepare(entry for entry in decoded if type(entry) is event_class)
        events: list[Any] = []
        users: list[str | None] = []
        watermarks: list[int] = []
        items: list[Item | None] = []
        versions: list[Item | None] = []
        positions: list[int] = []
        nothing = np.empty(0, np.int64)
        admitted = Admitted(Batch(events, (), nothing, nothing), positions, ids=ids)
        for position, entry in enumerate(decoded):
            kind = type(entry)
            item = user = None
            if kind is event_class:
                if entry.user_id is None and entry.device_id is None:
                    # A list shown to nobody in particular is logged for training only.
                    if entry.type != "impression":
                        self._refuse(admitted, position, "an event of neither a user nor a device")
                    continue
                if dedupe.enabled and not dedupe.is_new(entry.event_id, known, self.watermark):
                    admitted.duplicates += 1
                    continue
                if reads_items and entry.item_id is not None:
                    item = catalogue.get(entry.item_id)
                event_id = entry.event_id if dedupe.enabled else None
                refused = len(admitted.refused)
                if self._cleaner is not None:
                    entry = self._clean(entry, item, position, admitted)
                    if entry is not None and entry.item_id is not None:
                        item = catalogue.get(entry.item_id)
                if entry is not None:
                    self._advance(entry.timestamp)
                # One that is set aside may come again, mended.
                if event_id is not None and len(admitted.refused) == refused:
                    dedupe.remember(event_id, self.watermark)
                if entry is None:
                    continue
                if self._suppressed and self._is_suppressed(entry):
                    entry, item = self._projection.tick(entry.timestamp), None
                elif position in purposes and PERSONALISATION not in purposes[position]:
                    # Who it is of is not asked for: no history gets it, and no device is linked.
                    self._show(entry, item, purposes[position])
                    entry, item = self._projection.tick(entry.timestamp), None
                elif position in targets:
                    assert resolver is not None
                    user = resolver.forwarded(targets[position], entry)
                else:
                    user = self._subject(entry, payloads[position], admitted)
                if user is None and entry.device_id is not None:
                    entry, item = self._projection.tick(entry.timestamp), None
            elif kind is Item:
                catalogue[entry.item_id] = entry
                if self.versions is not None:
                    self.versions.add(entry)
                admitted.items.append(entry)
                admitted.item_watermarks.append(self.watermark)
                continue
            elif kind is User:
                admitted.users.append(entry)
                if resolver is not None:
                    resolver.describe(entry, self.newest)
                continue
            elif kind is Link or kind is Transfer:
                self._take_over(entry, position, admitted)
                continue
            elif isinstance(entry, Exception):
                self._refuse(admitted, position, f"not a log entry: {entry}")
                continue
            elif entry is None:
                continue
            else:
                entry = self._projection.tick(entry.timestamp)
                self._advance(entry.timestamp)
            events.append(entry)
            users.append(user)
            items.append(item)
            if self.versions is not None:
                item_id = entry.item_id
                version = (
                    self.versions.at(item_id, entry.timestamp) if item_id is not None else None
                )
                versions.append(version)
            positions.append(position)
            watermarks.append(self.watermark)
            if user is not None:
                self._show(entry, item, purposes.get(position))
        admitted.batch = Batch(
            events,
            users,
            np.fromiter(map(attrgetter("timestamp"), events), np.int64, len(events)),
            np.array(watermarks, np.int64),
            items,
            versions,
        )
        return admitted

    def _suppress(self, decoded: list[Any], targets: Mapping[int, str]) -> None:
        """Leave nothing of who was erased: not even an id is remembered, or a record set aside.

        Time passes all the same; but not where there are rules, which might not have believed it.
        """
        for position, entry in enumerate(decoded):
            kind = type(entry)
            if kind is self._projection.event_class:
                of_theirs = self._is_suppressed(entry) or targets.get(position) in self._suppressed
                if of_theirs and self._cleaner is None:
                    decoded[position] = Tick(timestamp=entry.timestamp)
                    continue
            elif kind is User:
                of_theirs = entry.user_id in self._suppressed
            elif kind is Link:
                names = (entry.user_id, DEVICE_PREFIX + entry.device_id)
                of_theirs = any(name in self._suppressed for name in names)
            elif kind is Transfer:
                of_theirs = entry.target in self._suppressed or entry.source in self._suppressed
            else:
                continue
            if of_theirs:
                decoded[position] = None

    def _is_suppressed(self, event: Any) -> bool:
        user, device = event.user_id, event.device_id
        return (user is not None and user in self._suppressed) or (
            device is not None and DEVICE_PREFIX + device in self._suppressed
        )

    def _show(self, event: Any, item: Item | None, purposes: Collection[str] | None) -> None:
        """Let the consumers count an event that may be used for `purposes`, or for everything."""
        for consumer in self._consumers:
            if purposes is None or consumer.purpose in purposes:
                consumer.apply(event, item)

    def _unwrap(self, decoded: list[Any]) -> tuple[dict[int, str], dict[int, Collection[str]]]:
        """Put events in the place of what carries them.

        Returns:
            By position, whose each event is that was sent on, and what each may be used for that
            is restricted. An engine that reads the whole log has met those before that were sent
            on: for it there is nothing in their place.
        """
        targets: dict[int, str] = {}
        purposes: dict[int, Collection[str]] = {}
        for position, entry in enumerate(decoded):
            if type(entry) is self._projection.restricted_class:
                decoded[position] = entry.event
                purposes[position] = entry.purposes
            elif type(entry) is self._projection.forwarded_class:
                counts = self._resolver is not None and self._resolver.is_partitioned
                decoded[position] = entry.event if counts else None
                targets[position] = entry.target
        return targets, purposes

    def _subject(self, event: Any, payload: bytes, admitted: Admitted) -> str | None:
        """Key of the person behind an event; None if it is left to another partition."""
        if self._resolver is None:
            return subject_key(event)
        user = self._resolver.subject(event, self.newest, payload)
        self._note_moves(admitted)
        return user

    def _take_over(self, entry: Link | Transfer, position: int, admitted: Admitted) -> None:
        """Take what another partition says of a device."""
        if self._resolver is None or not self._resolver.is_partitioned:
            return
        try:
            if isinstance(entry, Link):
                self._resolver.link(entry, self.newest)
            else:
                self._resolver.receive(entry, self.newest)
        except StateError as error:
            self._refuse(admitted, position, str(error))
        self._note_moves(admitted)

    def _note_moves(self, admitted: Admitted) -> None:
        assert self._resolver is not None
        place = len(admitted.batch.events), len(admitted.items)
        admitted.moves += [(*place, move) for move in self._resolver.take_moves()]

    def _clean(
        self, event: Any, item: Item | None, position: int, admitted: Admitted
    ) -> Any | None:
        assert self._cleaner is not None
        verdict = self._cleaner.clean(event, item, self.catalogue)
        if isinstance(verdict, Event):
            return verdict
        admitted.dropped += 1
        if verdict.action == "dead_letter":
            admitted.refused.append(Refused(position, verdict.rule, verdict.reason))
        return None

    def _refuse(self, admitted: Admitted, position: int, reason: str) -> None:
        admitted.invalid += 1
        admitted.refused.append(Refused(position, UNREADABLE, reason))

    def _advance(self, timestamp: int) -> None:
        if timestamp > self.newest:
            self.newest = timestamp
            self.watermark = max(self.watermark, timestamp - self._delay)
