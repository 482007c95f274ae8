"""Admission of log records: decoding, deduplication, cleaning, user and time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
    event_key,
    named_keys,
    subject_key,
    time_reached,
)
from tactful_streaming.decode.projection import EVENT_KEY, Projection
from tactful_streaming.engine.dedupe import MEASURED, Deduplicator
from tactful_streaming.engine.descriptions import ItemVersions
from tactful_streaming.engine.event_time import EventTime
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.engine.selection import Batch, Plan
from tactful_streaming.errors import StateError
from tactful_streaming.identity.resolver import Move, Resolver
from tactful_streaming.log.dead_letters import UNREADABLE

_CLOCK_SKEW_MS = 300_000  # servers that receive events differ by less
_NO_EVENTS = Batch((), (), np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class RejectedRecord:
    """A record that does not count, by its position in the batch and the rule that rejects it."""

    position: int
    rule: str
    reason: str


@dataclass
class AdmittedBatch:
    """Result of the admission of some records."""

    batch: Batch  # events that count, in the order of the log, and ticks
    # Position of the record of each of them; None if they are all records.
    positions: list[int] | None = None
    items: list[Item] = field(default_factory=list)
    item_watermarks: list[int] = field(default_factory=list)  # watermark when each item update came
    users: list[User] = field(default_factory=list)
    # Histories that move, each with the numbers of events and items that come before.
    moves: list[tuple[int, int, Move]] = field(default_factory=list)
    # Keys of all events (`event_key`), also of those that do not count; empty if not needed.
    ids: Sequence[str] = ()
    duplicates: int = 0  # number of events that had been applied before
    # Number of records that are no entry, or an event without user and device, unless an impression
    invalid: int = 0
    dropped: int = 0  # number of events that the cleaner kept back
    rejected: list[RejectedRecord] = field(default_factory=list)  # records for the dead letters


@dataclass
class _Pending:
    """Columns of a batch admitted one by one, with a row for each event or tick."""

    payloads: Sequence[bytes]
    targets: Mapping[int, str]
    purposes: Mapping[int, Collection[str]]
    known: Mapping[str, int]
    admitted: AdmittedBatch
    events: list[Any] = field(default_factory=list)
    users: list[str | None] = field(default_factory=list)
    items: list[Item | None] = field(default_factory=list)
    versions: list[Item | None] = field(default_factory=list)
    watermarks: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def reject(self, position: int, reason: str) -> None:
        self.admitted.invalid += 1
        self.admitted.rejected.append(RejectedRecord(position, UNREADABLE, reason))

    def finish(self) -> AdmittedBatch:
        self.admitted.positions = self.positions
        self.admitted.batch = Batch(
            self.events,
            self.users,
            np.fromiter(map(attrgetter("timestamp"), self.events), np.int64, len(self.events)),
            np.array(self.watermarks, np.int64),
            self.items,
            self.versions,
        )
        return self.admitted


class Admission:
    """Admits records in the order of the log."""

    def __init__(
        self,
        plan: Plan,
        projection: Projection,
        dedupe: Deduplicator,
        options: EngineOptions,
        resolver: Resolver | None,
        *,
        reads_ids: bool,
    ) -> None:
        """Begin before the first event.

        `projection` has to decode what consumers read; with a cleaner, whole events. `reads_ids`
        asks for :attr:`AdmittedBatch.ids`.
        """
        self._plan = plan
        self._projection = projection
        self._dedupe = dedupe
        self.time = EventTime(options.watermark_delay_ms)
        self._reads_ids = reads_ids or dedupe.enabled
        self._cleaner = options.cleaner
        self._memoryless = options.memoryless
        consumers = list(options.consumers.values())
        self._independent = [c for c in consumers if self._memoryless is not None and c.independent]
        self._consumers = [c for c in consumers if c not in self._independent]
        self._reads_whole = any(consumer.fields is None for consumer in self._consumers)
        self._resolver = resolver
        self._suppressed = options.suppressed
        self._reads_items = plan.reads_items or bool(self._cleaner) or bool(consumers)
        self._handlers: dict[type, Callable[[int, Any, _Pending], None]] = {
            projection.event_class: self._admit_event,
            Item: self._admit_item,
            User: self._admit_user,
            Link: self._admit_link,
            Transfer: self._admit_link,
            type(None): lambda position, entry, pending: None,
        }
        self._received = 0  # newest time of receipt, epoch milliseconds
        self.catalogue: dict[str, Item] = {}
        # The last descriptions of each item, if features need the one of an event's time.
        self.versions = ItemVersions() if plan.reads_versions else None

    @property
    def newest(self) -> int:
        """Newest time reached (`time_reached`) by events, epoch milliseconds."""
        return self.time.newest

    @property
    def watermark(self) -> int:
        """Time up to which events should be complete, epoch milliseconds."""
        return self.time.watermark

    def seen(self, keys: Sequence[str], at: int | None, former: Sequence[str]) -> set[str]:
        """Return those of some events that would change nothing, see `Engine.seen_many`."""
        time = self.watermark if at is None else at
        marks = [key + MEASURED for key in keys] if self._independent else []
        known, is_new = self._dedupe.seen_many([*keys, *marks, *former]), self._dedupe.is_new
        if not known:
            return set()
        seen = {key for key in keys if not is_new(key, known, time)}
        if marks:
            seen = {key for key in seen if not is_new(key + MEASURED, known, time)}
        for key, other in zip(keys, former, strict=False):
            if not is_new(other, known, self.watermark):
                seen.add(key)
        return seen

    @property
    def ids_reached(self) -> int:
        """Time before which no later event is for the deduplication, with a receipt or without."""
        if not self._received:
            return self.watermark
        return min(self.watermark, max(self._received - _CLOCK_SKEW_MS, 0))

    def _time_of(self, event: Any) -> int:
        """Return the time of an event for the deduplication; other events do not change it."""
        received: int = event.received_at or 0
        if not received:
            return self.watermark
        self._received = max(self._received, received)
        return received

    def admit(self, payloads: Sequence[bytes]) -> AdmittedBatch:
        """Admit records; they advance the catalogue and the watermark."""
        targets: dict[int, str] = {}
        purposes: dict[int, Collection[str]] = {}
        known: Mapping[str, int] | None = None
        ids: list[str] = []
        plain = not (self._cleaner or self._reads_whole or self._independent or self._suppressed)
        decoded = self._projection.decode(payloads)
        event_class = self._projection.event_class
        if plain and set(map(type, decoded)) == {event_class}:
            users = self._projection.column(decoded, "user_id")
            ids = self._projection.column(decoded, EVENT_KEY) if self._reads_ids else []
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
            ids = [event_key(entry) for entry in decoded if type(entry) is event_class]
        if known is None:
            marks = [key + MEASURED for key in ids] if self._independent else []
            known = self._dedupe.seen_many([*ids, *marks]) if self._dedupe.enabled else {}
        admitted = AdmittedBatch(_NO_EVENTS, ids=ids)
        return self._admit_each(decoded, _Pending(payloads, targets, purposes, known, admitted))

    def _admit_all(
        self, events: Any, users: Any, ids: Sequence[str], payloads: Sequence[bytes]
    ) -> AdmittedBatch:
        """Admit events without repetitions and cleaner, column by column."""
        times = np.fromiter(map(attrgetter("timestamp"), events), np.int64, len(events))
        receipts = [-1 if e.received_at is None else e.received_at for e in events]
        received = np.fromiter(receipts, np.int64, len(events))
        reached = np.where(received >= 0, np.minimum(times, received), times)
        newest, watermarks = self.time.advance_all(reached, received)
        if self._dedupe.enabled:
            self._received = max(self._received, int(received.max()))
            self._dedupe.remember_many(ids, np.where(received > 0, received, watermarks))
        moves: list[tuple[int, int, Move]] = []
        if self._resolver is not None:
            tick = self._projection.tick
            moved = self._resolver.resolve_all(events, users, newest, payloads, tick)
            moves = [(place, 0, move) for place, move in moved]
        for consumer in self._consumers:
            for user, event in zip(users, events, strict=True):
                consumer.observe(user, event, None)
        items: list[Item | None] = []
        if self._plan.reads_items and self.catalogue:
            get: Any = self.catalogue.get
            items = list(map(get, self._projection.column(events, "item_id")))
        versions: list[Item | None] = []
        if self.versions is not None:
            item_ids = self._projection.column(events, "item_id")
            versions = self.versions.lookup(item_ids, times.tolist())
        batch = Batch(events, users, times, watermarks, items, versions)
        return AdmittedBatch(batch, moves=moves, ids=ids)

    def _admit_each(self, decoded: Sequence[Any], pending: _Pending) -> AdmittedBatch:
        """Admit records one by one, each by the handler of its type."""
        event_class = self._projection.event_class
        if self._resolver is not None:
            self._resolver.prepare(entry for entry in decoded if type(entry) is event_class)
        handler, other = self._handlers.get, self._admit_other
        for position, entry in enumerate(decoded):
            handler(type(entry), other)(position, entry, pending)
        return pending.finish()

    def _admit_event(self, position: int, event: Any, pending: _Pending) -> None:
        if event.user_id is None and event.device_id is None:
            # An impression without a user is logged for training only.
            if event.type != "impression":
                pending.reject(position, "an event of neither a user nor a device")
            return
        item = None
        if self._reads_items and event.item_id is not None:
            item = self.catalogue.get(event.item_id)
        if self._independent:
            self._measure(event, item, position, pending)
        dedupe, key = self._dedupe, None
        if dedupe.enabled:
            key = event_key(event)
            if not dedupe.is_new(key, pending.known, self._time_of(event)):
                pending.admitted.duplicates += 1
                return
        rejected, sent = len(pending.admitted.rejected), event
        if self._cleaner is not None:
            event = self._clean(event, item, position, pending)
            if event is not None and event.item_id is not None:
                item = self.catalogue.get(event.item_id)
        if event is not None:
            self.time.advance(time_reached(event), event.received_at)
        # A rejected event may come again, corrected.
        if key is not None and len(pending.admitted.rejected) == rejected:
            dedupe.remember(key, self._time_of(sent))
        if event is None:
            return
        user = self._history_of(event, item, position, pending)
        if user is None:  # of no history here: it only advances time
            event, item = self._projection.tick(event.timestamp), None
        self._append(position, event, user, item, pending)

    def _admit_item(self, position: int, item: Item, pending: _Pending) -> None:
        self.catalogue[item.item_id] = item
        if self.versions is not None:
            self.versions.add(item)
        pending.admitted.items.append(item)
        pending.admitted.item_watermarks.append(self.watermark)

    def _admit_user(self, position: int, user: User, pending: _Pending) -> None:
        pending.admitted.users.append(user)
        if self._resolver is not None:
            self._resolver.describe(user, self.newest)

    def _admit_link(self, position: int, entry: Link | Transfer, pending: _Pending) -> None:
        """Apply a link or transfer of a device from another partition."""
        if self._resolver is None or not self._resolver.is_partitioned:
            return
        try:
            if isinstance(entry, Link):
                self._resolver.link(entry, self.newest)
            else:
                self._resolver.receive(entry, self.newest)
        except StateError as error:
            pending.reject(position, str(error))
        self._note_moves(pending)

    def _admit_other(self, position: int, entry: Any, pending: _Pending) -> None:
        """Admit a tick, or reject a record that could not be decoded."""
        if isinstance(entry, Exception):
            pending.reject(position, f"not a log entry: {entry}")
            return
        self.time.advance(entry.timestamp)
        self._append(position, self._projection.tick(entry.timestamp), None, None, pending)

    def _append(
        self, position: int, event: Any, user: str | None, item: Item | None, pending: _Pending
    ) -> None:
        pending.events.append(event)
        pending.users.append(user)
        pending.items.append(item)
        if self.versions is not None:
            item_id = event.item_id
            version = self.versions.at(item_id, event.timestamp) if item_id is not None else None
            pending.versions.append(version)
        pending.positions.append(position)
        pending.watermarks.append(self.watermark)
        if user is not None:
            self._apply_consumers(user, event, item, pending.purposes.get(position))

    def _history_of(
        self, event: Any, item: Item | None, position: int, pending: _Pending
    ) -> str | None:
        """Return the key of the history of an event; None if it is in no history here."""
        if self._suppressed and self._is_suppressed(event):
            return None
        purposes = pending.purposes.get(position)
        if purposes is not None and PERSONALISATION not in purposes:
            # Its user is not resolved: no history gets it, and no device is linked.
            self._apply_consumers(None, event, item, purposes)
            return None
        if self._resolver is None:
            return subject_key(event)
        if position in pending.targets:
            return self._resolver.forwarded(pending.targets[position], event)
        user = self._resolver.subject(event, self.newest, pending.payloads[position])
        self._note_moves(pending)
        return user

    def _suppress(self, decoded: list[Any], targets: Mapping[int, str]) -> None:
        """Remove the records of erased users: no id is remembered, no record is set aside.

        Their events still advance time, but not with a cleaner, which might have rejected them.
        """
        for position, entry in enumerate(decoded):
            is_event = type(entry) is self._projection.event_class
            if is_event:
                erased = self._is_suppressed(entry) or targets.get(position) in self._suppressed
            else:
                erased = any(key in self._suppressed for key in named_keys(entry))
            if erased:
                ticks = is_event and self._cleaner is None
                decoded[position] = Tick(timestamp=time_reached(entry)) if ticks else None

    def _is_suppressed(self, event: Any) -> bool:
        user, device = event.user_id, event.device_id
        return (user is not None and user in self._suppressed) or (
            device is not None and DEVICE_PREFIX + device in self._suppressed
        )

    def _apply_consumers(
        self,
        history: str | None,
        event: Any,
        item: Item | None,
        purposes: Collection[str] | None,
    ) -> None:
        """Apply an event that may be used for `purposes`, or for all, to the consumers."""
        for consumer in self._consumers:
            if purposes is None or consumer.purpose in purposes:
                consumer.observe(history, event, item)

    def _measure(self, event: Any, item: Item | None, position: int, pending: _Pending) -> None:
        """Apply an event to the independent consumers, unless rules without memory reject it.

        It has a memory of repetitions of its own: what other rules set aside may come again.
        """
        assert self._memoryless is not None
        mark = event_key(event) + MEASURED
        dedupe, time = self._dedupe, self._time_of(event)
        if dedupe.enabled and not dedupe.is_new(mark, pending.known, time):
            return
        verdict = self._memoryless.clean(event, item, self.catalogue)
        if dedupe.enabled and (isinstance(verdict, Event) or verdict.action == "drop"):
            dedupe.remember(mark, time)
        elsewhere = position in pending.targets or (self._suppressed and self._is_suppressed(event))
        if not isinstance(verdict, Event) or elsewhere:
            return
        if verdict.item_id is not None:
            item = self.catalogue.get(verdict.item_id)
        purposes = pending.purposes.get(position)
        for consumer in self._independent:
            if purposes is None or consumer.purpose in purposes:
                consumer.apply(verdict, item)

    def _unwrap(self, decoded: list[Any]) -> tuple[dict[int, str], dict[int, Collection[str]]]:
        """Replace forwarded and restricted entries by their events.

        Returns targets and purposes, by position. An engine that reads the whole log has read the
        events that were forwarded: it skips their copies.
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

    def _note_moves(self, pending: _Pending) -> None:
        assert self._resolver is not None
        place = len(pending.events), len(pending.admitted.items)
        pending.admitted.moves += [(*place, move) for move in self._resolver.take_moves()]

    def _clean(self, event: Any, item: Item | None, position: int, pending: _Pending) -> Any | None:
        assert self._cleaner is not None
        verdict = self._cleaner.clean(event, item, self.catalogue)
        if isinstance(verdict, Event):
            return verdict
        pending.admitted.dropped += 1
        if verdict.action == "dead_letter":
            pending.admitted.rejected.append(RejectedRecord(position, verdict.rule, verdict.reason))
        return None
