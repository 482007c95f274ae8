"""Deliveries to the webhook that several servers share: they outlive the one that sends.

The database holds no action, only its place in the log, so erasures and retention of the log reach
it. Each change checks the lease in its own transaction::

    webhook_positions   partition 3: 1207
    webhook_deliveries  partition 3, offset 1180, hash of the id, waiting, 2 attempts, due at …

Each server computes the same action and may append it, so the log can hold it more than once. The
hashes of sent ids are kept, and an id that is there already is not queued again. A delivery whose
action is not in the log any more cannot be sent, and is dead.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from tactful.metadata.lease import Lease
from tactful.metadata.tables import webhook_deliveries, webhook_positions
from tactful_streaming.contract.log_entries import Event, decode_entry
from tactful_streaming.errors import EntryError
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.sinks.webhook import Delivery

_positions, _rows = webhook_positions.c, webhook_deliveries.c
_encode_body = msgspec.json.Encoder().encode

_PRUNE_MS = 3_600_000
_LOST = "the log does not hold the action any more"


@dataclass(frozen=True)
class Sharing:
    """Terms on which servers share the deliveries of a log."""

    lease: Lease  # its holder delivers
    topic: str  # that the servers read
    kept_ms: int = 7 * 86_400_000  # for which an id is delivered once


class SharedDeliveries:
    """The deliveries of one partition, while this server holds the lease; thread-safe.

    Its methods raise LeaseLost if another server has the lease, and StorageError if the database
    cannot be used. Nothing was changed then.
    """

    def __init__(
        self,
        sharing: Sharing,
        partition: int,
        log: EventLog,
        *,
        clock: Callable[[], int],
    ) -> None:
        """Read where the holder before stopped; without one begin at the end of the log.

        `partition` is the number of the one that `log` reads; `clock` returns epoch milliseconds.
        """
        self._lease = sharing.lease
        self._clock = clock
        self._kept_ms, self._pruned = sharing.kept_ms, clock()
        topic = sharing.topic
        self._place = {"topic": topic, "log_partition": partition}
        self._is_position = sa.and_(
            _positions.topic == topic, _positions.log_partition == partition
        )
        self._is_row = sa.and_(_rows.topic == topic, _rows.log_partition == partition)
        self._lock = threading.Lock()
        self._offsets: dict[str, int] = {}
        self._waiting: dict[str, Delivery] = {}

        def open_queue(connection: sa.Connection) -> tuple[int, Sequence[sa.Row[tuple[object]]]]:
            stored = sa.select(_positions.position).where(self._is_position)
            position = connection.execute(stored).scalar()
            if position is None:
                position = end
                row = {**self._place, "position": position}
                connection.execute(sa.insert(webhook_positions).values(**row))
            if int(position) > end:  # the topic was made anew under its name
                position = end
                connection.execute(sa.delete(webhook_deliveries).where(self._is_row))
            query = sa.select(webhook_deliveries).where(self._is_row, _rows.state == "waiting")
            rows = connection.execute(query.order_by(_rows.log_offset)).all()
            return int(position), rows

        end = log.end
        self.position, rows = self._lease.write(open_queue)
        for row in rows:
            self._restore(row, log)

    def _restore(self, row: sa.Row[tuple[object]], log: EventLog) -> None:
        """Read the action of a waiting delivery from the log."""
        offset = int(row.log_offset)
        records = log.read(offset, 1) if offset >= log.begin else []
        try:
            entry = decode_entry(records[0][1]) if records else None
        except EntryError:
            entry = None
        state = int(row.attempts), int(row.due_at), str(row.problem)
        if isinstance(entry, Event) and event_key(entry.event_id) == row.event_key:
            delivery = Delivery(entry.event_id, _encode_body(entry), *state)
            self._waiting[entry.event_id] = delivery
            self._offsets[entry.event_id] = offset
        else:
            self._update(offset, state="dead", problem=_LOST)

    def add(self, events: Sequence[Event], position: int, offsets: Sequence[int] = ()) -> None:
        """Queue `events`, which lie at `offsets`, and store the position behind them."""
        found: dict[str, tuple[int, Event]] = {}
        for event, offset in zip(events, offsets, strict=True):
            found.setdefault(event_key(event.event_id), (offset, event))
        common = {**self._place, "attempts": 0, "due_at": 0, "problem": ""}

        def store(connection: sa.Connection) -> set[str]:
            moved = sa.update(webhook_positions).where(self._is_position).values(position=position)
            connection.execute(moved)
            same = _rows.event_key.in_(list(found))
            known = sa.select(_rows.event_key).where(self._is_row, same)
            new = found.keys() - {*connection.execute(known).scalars()} if found else set()
            rows = [
                {"log_offset": found[key][0], "event_key": key, "state": "waiting", **common}
                for key in new
            ]
            if rows:
                connection.execute(sa.insert(webhook_deliveries), rows)
            return new

        with self._lock:
            for key in self._lease.write(store):
                offset, event = found[key]
                self._waiting[event.event_id] = Delivery(event.event_id, _encode_body(event))
                self._offsets[event.event_id] = offset
            self.position = position
        self._prune()

    def due(self, now: int, limit: int) -> list[Delivery]:
        """Return up to `limit` deliveries that are due, the longest due first."""
        with self._lock:
            due = [delivery for delivery in self._waiting.values() if delivery.due <= now]
        return sorted(due, key=lambda it: (it.due, self._offsets[it.event_id]))[:limit]

    def done(self, delivery: Delivery) -> None:
        """Remove a delivery that arrived."""
        with self._lock:
            offset = self._offsets[delivery.event_id]
            self._update(offset, state="sent", due_at=self._clock(), problem="")
            self._drop(delivery)

    def retry(self, delivery: Delivery) -> None:
        """Store the new time and number of attempts of a delivery that still waits."""
        with self._lock:
            if delivery.event_id in self._waiting:
                self._store(delivery, "waiting")
                self._waiting[delivery.event_id] = delivery

    def mark_dead(self, delivery: Delivery) -> None:
        """End the attempts of a delivery that still waits; it is stored as dead."""
        with self._lock:
            if delivery.event_id in self._waiting:
                self._store(delivery, "dead")
                self._drop(delivery)

    def remove(self, matches: Callable[[Delivery], bool]) -> int:
        """Remove matching deliveries that wait; return their number."""
        with self._lock:
            matching = [it for it in self._waiting.values() if it.body and matches(it)]
        for delivery in matching:
            self.done(delivery)
        return len(matching)

    def _store(self, delivery: Delivery, state: str) -> None:
        values = {"attempts": delivery.attempts, "due_at": delivery.due}
        offset = self._offsets[delivery.event_id]
        self._update(offset, state=state, problem=delivery.problem, **values)

    def _update(self, offset: int, **values: object) -> None:
        place = sa.and_(self._is_row, _rows.log_offset == offset)
        statement = sa.update(webhook_deliveries).where(place).values(**values)
        self._lease.write(lambda connection: connection.execute(statement))

    def _prune(self) -> None:
        """Delete the hashes of ids that were sent or given up long ago."""
        now = self._clock()
        if now - self._pruned < _PRUNE_MS:
            return
        old = sa.delete(webhook_deliveries).where(
            self._is_row, _rows.state != "waiting", _rows.due_at < now - self._kept_ms
        )
        self._lease.write(lambda connection: connection.execute(old))
        self._pruned = now

    def _drop(self, delivery: Delivery) -> None:
        self._waiting.pop(delivery.event_id, None)
        self._offsets.pop(delivery.event_id, None)


def event_key(event_id: str) -> str:
    """Return the hash by which the database knows an action."""
    return hashlib.sha256(event_id.encode()).hexdigest()
