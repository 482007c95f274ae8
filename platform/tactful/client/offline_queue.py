"""A queue of events on the client's disk for times without a connection.

The queue is an SQLite file, whose commits survive a killed process. Each event has its id before
it is written, so a batch that is sent twice (after a crash between response and removal, or by two
processes that share the file) counts once.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tactful.errors import QueueError, QueueFull

_LOCK_SECONDS = 10.0
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS held (one INTEGER PRIMARY KEY CHECK (one = 1),"
    " events INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    "INSERT OR IGNORE INTO held VALUES (1, 0, 0)",
)


@dataclass(frozen=True)
class Waiting:
    """The oldest events of a queue."""

    first: int  # number of the first event, for `OfflineQueue.remove`
    last: int  # number of the last event
    bodies: Sequence[bytes]  # the events as JSON, oldest first


class OfflineQueue:
    """A bounded, durable queue of events; safe to share between threads and processes."""

    def __init__(
        self,
        path: Path | str | None,
        *,
        max_bytes: int = 64 * 1024 * 1024,
        power_safe: bool = False,
    ) -> None:
        """Open the queue with the events that earlier processes left.

        Args:
            path: the file; a missing one is created, readable by its owner only. None keeps the
                queue in memory until the process ends.
            max_bytes: most bytes of JSON in the queue.
            power_safe: whether events survive a loss of power besides a killed process; each
                `put` then waits for the disk.

        Raises:
            QueueError: if the file cannot be used.
        """
        self._name = "the queue in memory" if path is None else str(path)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        try:
            if path is not None:
                Path(path).touch(mode=0o600)
            self._database = sqlite3.connect(
                ":memory:" if path is None else path,
                timeout=_LOCK_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            if path is not None:
                # A client without a file need not import this.
                from tactful_privacy.sqlite import use_write_ahead_log

                use_write_ahead_log(self._database, timeout_s=_LOCK_SECONDS)
            if not power_safe:
                self._database.execute("PRAGMA synchronous = NORMAL")
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from error
        with self._transaction() as database:
            for statement in _SCHEMA:
                database.execute(statement)

    def put(self, bodies: Iterable[bytes]) -> int:
        """Append all events or none; they are durable on return.

        Args:
            bodies: events as JSON, each with its `event_id`.

        Returns:
            The number of events.

        Raises:
            QueueFull: if the events do not fit.
            QueueError: if the file cannot be written.
        """
        rows = [(body,) for body in bodies]
        size = sum(len(body) for (body,) in rows)
        with self._transaction() as database:
            (held,) = database.execute("SELECT bytes FROM held").fetchone()
            if held + size > self._max_bytes:
                raise QueueFull(
                    f"{self._name} holds {held} bytes of events and cannot hold {size} more "
                    f"(at most {self._max_bytes}): call `flush` when the server can be reached, or "
                    "allow more with `max_bytes`"
                )
            database.executemany("INSERT INTO events (body) VALUES (?)", rows)
            self._count(database, len(rows), size)
        return len(rows)

    def oldest(self, *, count: int, max_bytes: int) -> Waiting | None:
        """Return the oldest events, at least one, or None when the queue is empty.

        Args:
            count: most events.
            max_bytes: most bytes, unless the first event alone has more.
        """
        query = "SELECT id, body FROM events ORDER BY id LIMIT ?"
        with self._transaction() as database:
            rows: list[tuple[int, bytes]] = database.execute(query, (count,)).fetchall()
        if not rows:
            return None
        size = 0
        bodies: list[bytes] = []
        for _, body in rows:
            size += len(body)
            if bodies and size > max_bytes:
                break
            bodies.append(body)
        return Waiting(rows[0][0], rows[len(bodies) - 1][0], bodies)

    def remove(self, waiting: Waiting) -> None:
        """Delete events that the server has."""
        among = (waiting.first, waiting.last)
        size = (
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM events WHERE id BETWEEN ? AND ?"
        )
        with self._transaction() as database:
            # Another process may have removed some of them.
            events, held = database.execute(size, among).fetchone()
            database.execute("DELETE FROM events WHERE id BETWEEN ? AND ?", among)
            self._count(database, -events, -held)

    def __len__(self) -> int:
        """Return the number of queued events."""
        with self._transaction() as database:
            return int(database.execute("SELECT events FROM held").fetchone()[0])

    def close(self) -> None:
        """Close the file; queued events stay in it."""
        with self._lock:
            self._database.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction; an error rolls it back."""
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                except BaseException:
                    self._database.execute("ROLLBACK")
                    raise
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._broken(error) from error

    @staticmethod
    def _count(database: sqlite3.Connection, events: int, size: int) -> None:
        database.execute("UPDATE held SET events = events + ?, bytes = bytes + ?", (events, size))

    def _broken(self, error: Exception) -> QueueError:
        return QueueError(
            f"{self._name} cannot be used as queue ({error}): is it writable, on a disk with "
            "space, and written by this client? Move a damaged file away to begin anew"
        )
