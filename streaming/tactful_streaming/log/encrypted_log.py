"""Logs that encrypt (seal) appended records and decrypt them on reading.

Files, topics and their copies are unreadable without a key; readers of these classes get the
entries as they were written. A record whose key was deleted is read as a tick that moves no clock,
so offsets stay, and a replay has the same result as without the record.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from tactful_streaming.errors import BackpressureError, LogError
from tactful_streaming.log.event_log import EventLog, PartitionedLog, Positions

_LABEL = "partition-{}"
_TRIES = 10_000


class Seal(Protocol):
    """Encrypts and decrypts entries of the log; thread-safe."""

    def seal(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Encrypt entries, except those of no user; raise LogError if keys are missing."""

    def open(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Decrypt entries; one with a deleted key becomes a tick, a plain one stays.

        Raises:
            LogError: if keys are not available.
            LogCorruptedError: if a record was changed.
        """


class SealedLog:
    """An `EventLog` of encrypted records, with plain ones for its user."""

    def __init__(self, log: EventLog, seal: Seal) -> None:
        """Encrypt and decrypt records of `log`, which is closed with this object."""
        self._log = log
        self._seal = seal

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""
        return self._log.begin

    @property
    def end(self) -> int:
        """Offset of the next record."""
        return self._log.end

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append; durable on return. Returns the offset after the last payload."""
        return self._log.append(self._seal.seal(payloads))

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Read up to `limit` records from `offset` on; empty at the end of the log."""
        records = self._log.read(offset, limit)
        opened = self._seal.open([payload for _, payload in records])
        return [(at, payload) for (at, _), payload in zip(records, opened, strict=True)]

    def offset_at(self, timestamp: int) -> int:
        """Find the first record received at or after `timestamp`, epoch milliseconds."""
        return self._log.offset_at(timestamp)

    def close(self) -> None:
        """Close the log."""
        self._log.close()


class SealedPartitions:
    """A `PartitionedLog` of encrypted records.

    Kafka stores the routing key beside the record, so a user's id is replaced by a label that maps
    to the same partition.
    """

    def __init__(
        self, log: PartitionedLog, seal: Seal, *, max_waiting_bytes: int = 64 * 1024 * 1024
    ) -> None:
        """Append to `log`, which the caller closes.

        More than `max_waiting_bytes` not yet durable are refused; they include records that wait
        for encryption, which the log's own bound does not.
        """
        self._log = log
        self._seal = seal
        self._max_waiting_bytes = max_waiting_bytes
        self.waiting_bytes = 0  # submitted and not durable yet
        self._lock = threading.Lock()
        self._labels: dict[int, str] = {}
        # One thread keeps the order of submission. It waits for the disk when a user's first key is
        # created, which an event loop must not.
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="log-sealer")

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return self._log.partitions

    def partition_of(self, key: str) -> int:
        """Return the partition that holds all records of `key`."""
        return self._log.partition_of(key)

    def submit(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Future[Positions]:
        """Begin to append; done when durable. A record without a key goes to every partition.

        The future also fails with errors of the log's own ``submit``.
        """
        size = sum(map(len, payloads))
        with self._lock:
            if self.waiting_bytes and self.waiting_bytes + size > self._max_waiting_bytes:
                raise BackpressureError(
                    f"{self.waiting_bytes} bytes wait to be encrypted and written: slow down",
                    retry_after=1.0,
                )
            self.waiting_bytes += size
        done: Future[Positions] = Future()
        done.set_running_or_notify_cancel()
        done.add_done_callback(lambda _: self._release(size))

        def submit() -> None:
            try:
                labels = [None if key is None else self._label(key) for key in keys]
                appended = self._log.submit(self._seal.seal(payloads), labels)
            except BaseException as error:
                done.set_exception(error)
            else:
                appended.add_done_callback(lambda appended: _copy_result(appended, done))

        try:
            self._sealer.submit(submit)
        except RuntimeError as error:
            self._release(size)
            raise LogError("the log is closed: no more appends") from error
        return done

    def close(self) -> None:
        """Pass submitted records to the log, which stays open."""
        self._sealer.shutdown()

    def _release(self, size: int) -> None:
        with self._lock:
            self.waiting_bytes -= size

    def _label(self, key: str) -> str:
        number = self._log.partition_of(key)
        if number not in self._labels:
            for label in map(_LABEL.format, range(_TRIES)):
                self._labels.setdefault(self._log.partition_of(label), label)
                if number in self._labels:
                    break
        return self._labels[number]


def _copy_result(appended: Future[Positions], done: Future[Positions]) -> None:
    error = appended.exception()
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(appended.result())
