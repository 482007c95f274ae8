"""Logs whose records are sealed on their way in, and opened on their way out.

What lies in files, topics and their copies says nothing without a key; who reads through these
sees the entries as they were written. A record whose key is gone reads as a tick that moves no
clock, so offsets stay, and a replay gives what a log without it gives.
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
    """Seals entries of the log; for many threads."""

    def seal(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Each entry as it is to lie in the log; those of nobody stay as they are.

        Raises:
            LogError: if there are no keys to be had.
        """

    def open(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Each entry as it was; one whose key is gone is a tick, and one never sealed stays.

        Raises:
            LogError: if there are no keys to be had.
            LogCorruptedError: if a record was changed.
        """


class SealedLog:
    """An :class:`~tactful_streaming.EventLog` of sealed records, which its user sees opened."""

    def __init__(self, log: EventLog, seal: Seal) -> None:
        """Look at `log`, which is closed with this object, through `seal`."""
        self._log = log
        self._seal = seal

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""
        return self._log.begin

    @property
    def end(self) -> int:
        """Offset the next record will get."""
        return self._log.end

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append; durable on return. Returns the offset after the last payload."""
        return self._log.append(self._seal.seal(payloads))

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from `offset` on; empty at the end of the log."""
        records = self._log.read(offset, limit)
        opened = self._seal.open([payload for _, payload in records])
        return [(at, payload) for (at, _), payload in zip(records, opened, strict=True)]

    def offset_at(self, timestamp: int) -> int:
        """Offset of the first record received at or after `timestamp`, epoch milliseconds."""
        return self._log.offset_at(timestamp)

    def close(self) -> None:
        """Close the log."""
        self._log.close()


class SealedPartitions:
    """A :class:`~tactful_streaming.PartitionedLog` of sealed records.

    What routes a record is written beside it, so in the place of the key of a person there is one
    that leads to the same partition.
    """

    def __init__(
        self,
        log: PartitionedLog,
        seal: Seal,
        *,
        max_waiting_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        """Append to `log`, which stays the caller's to close.

        Args:
            log: takes the sealed records.
            seal: seals them.
            max_waiting_bytes: bytes not yet durable beyond which appends are refused. The log's own
                limit would be asked too late: what waits to be sealed has not come to it.
        """
        self._log = log
        self._seal = seal
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._labels: dict[int, str] = {}
        # One thread, so that what was submitted earlier is there earlier. It waits for the disk
        # where somebody gets their first key, which an event loop must not.
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="log-sealer")

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return self._log.partitions

    @property
    def waiting_bytes(self) -> int:
        """Bytes accepted for appending and not yet durable, those that wait to be sealed too."""
        return self._waiting_bytes

    def partition_of(self, key: str) -> int:
        """The partition that holds all records of `key`."""
        return self._log.partition_of(key)

    def submit(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Future[Positions]:
        """Begin to append; done when durable. A record without a key goes to every partition.

        The future also fails with what submitting to the log itself raises.

        Raises:
            BackpressureError: if too much waits.
            LogError: if this object is closed.
        """
        size = sum(map(len, payloads))
        with self._lock:
            if self._waiting_bytes and self._waiting_bytes + size > self._max_waiting_bytes:
                raise BackpressureError(
                    f"{self._waiting_bytes} bytes wait to be sealed and written: slow down",
                    retry_after=1.0,
                )
            self._waiting_bytes += size
        done: Future[Positions] = Future()
        done.set_running_or_notify_cancel()
        done.add_done_callback(lambda _: self._land(size))

        def submit() -> None:
            try:
                labels = [None if key is None else self._label(key) for key in keys]
                appended = self._log.submit(self._seal.seal(payloads), labels)
            except BaseException as error:
                done.set_exception(error)
            else:
                appended.add_done_callback(lambda ended: _pass_on(ended, done))

        try:
            self._sealer.submit(submit)
        except RuntimeError as error:
            self._land(size)
            raise LogError("the log is closed: no more appends") from error
        return done

    def close(self) -> None:
        """Hand on what was submitted; the log itself stays open."""
        self._sealer.shutdown()

    def _land(self, size: int) -> None:
        with self._lock:
            self._waiting_bytes -= size

    def _label(self, key: str) -> str:
        number = self._log.partition_of(key)
        if number not in self._labels:
            for label in map(_LABEL.format, range(_TRIES)):
                self._labels.setdefault(self._log.partition_of(label), label)
                if number in self._labels:
                    break
        return self._labels[number]


def _pass_on(ended: Future[Positions], done: Future[Positions]) -> None:
    error = ended.exception()
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(ended.result())
