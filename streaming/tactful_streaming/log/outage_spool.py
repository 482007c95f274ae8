"""A disk queue in front of a partitioned log, for outages of its brokers.

While the log accepts appends they go there directly. Otherwise they are made durable on disk and
acknowledged; a thread sends them once the log can be reached, and until it has sent the last,
new appends join the queue. An append therefore never overtakes one that was acknowledged before it
began. A crash may send some records twice; their event ids identify them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import msgspec

from tactful_streaming.errors import BackpressureError, LogError, LogUnreachableError, TopicError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.event_log import Durability, PartitionedLog, Positions
from tactful_streaming.log.segment import BLANK

_logger = logging.getLogger(__name__)

_SEND_RECORDS = 1000
_RETRY_S = 0.2
_RETRY_REFUSED_S = 5.0

_OUTAGE = (LogUnreachableError, TopicError)

_Record = tuple[str | None, bytes]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


class Spool(contextlib.AbstractContextManager["Spool"]):
    """A `PartitionedLog` that accepts appends while the log behind it cannot be reached.

    One process at a time may use a spool's directory.

    ::

        log reachable:  submit -> log
        outage:         submit -> _queue -> _disk (acknowledged) -> log
                                  writer thread             sender thread
    """

    def __init__(
        self,
        log: PartitionedLog,
        path: Path,
        *,
        max_bytes: int = 1024 * 1024 * 1024,
        durability: Durability = "power",
    ) -> None:
        """Begin to send the records that an earlier process left in directory `path`."""
        self._log = log
        self._max_bytes = max_bytes
        self._disk = EmbeddedLog(
            path,
            segment_bytes=min(16 * 1024 * 1024, max_bytes // 4),
            durability=durability,
            retention_bytes=0,
        )
        self._sent_file = path / "sent"
        self._sent = self._read_sent()
        self._changed = threading.Condition()
        self._spooling = self._sent < self._disk.end
        self._queue: list[tuple[list[bytes], Future[Positions]]] = []
        self._queued_bytes = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._write, name="spool-writer", daemon=True),
            threading.Thread(target=self._send, name="spool-sender", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return self._log.partitions

    @property
    def waiting(self) -> int:
        """Number of records on disk that have not been sent."""
        return self._disk.end - self._sent

    def partition_of(self, key: str) -> int:
        """Return the partition that holds all records of `key`."""
        return self._log.partition_of(key)

    def submit(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Future[Positions]:
        """Begin to append; done when durable, in the log or on disk.

        Returns:
            By partition, the offset behind the last record; empty for records on disk. It fails
            with a LogError if the log or the disk refused.
        """
        done: Future[Positions] = Future()
        done.set_running_or_notify_cancel()
        with self._changed:
            if self._closed:
                raise LogError("the spool is closed: no more appends")
            if not self._spooling:
                try:
                    direct = self._log.submit(payloads, keys)
                except _OUTAGE:
                    self._start_spooling()
            if self._spooling:
                self._enqueue(payloads, keys, done)
                return done
        direct.add_done_callback(lambda future: self._settle(future, payloads, keys, done))
        return done

    def append(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Positions:
        """Append and wait until it is durable, as :meth:`submit`."""
        return self.submit(payloads, keys).result()

    def close(self) -> None:
        """Write accepted records to disk and stop. The next process sends the remaining ones."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._disk.close()

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _start_spooling(self) -> None:
        if not self._spooling:
            _logger.warning("the event log cannot be reached: new records are spooled to disk")
            self._spooling = True

    def _settle(
        self,
        direct: Future[Positions],
        payloads: Sequence[bytes],
        keys: Sequence[str | None],
        done: Future[Positions],
    ) -> None:
        """Set the result of a direct append, or spool it if the log could not be reached."""
        error = direct.exception()
        if isinstance(error, _OUTAGE):
            with self._changed:
                if not self._closed:
                    self._start_spooling()
                    try:
                        self._enqueue(payloads, keys, done)
                        return
                    except BackpressureError as refusal:
                        error = refusal
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(direct.result())

    def _enqueue(
        self, payloads: Sequence[bytes], keys: Sequence[str | None], done: Future[Positions]
    ) -> None:
        records = [_encode(record) for record in zip(keys, payloads, strict=True)]
        size = sum(map(len, records))
        if self._disk.size + self._queued_bytes + size > self._max_bytes:
            raise BackpressureError(
                "the disk queue for an unreachable event log is full: check the broker, or allow "
                "more space (max_bytes)",
                retry_after=10.0,
            )
        self._queue.append((records, done))
        self._queued_bytes += size
        self._changed.notify_all()

    def _write(self) -> None:
        """Write queued records to disk by group commit, until the spool is closed and empty."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                group = self._queue[:]
            if not group:
                return
            failure: LogError | None = None
            try:
                self._disk.append([record for records, _ in group for record in records])
            except LogError as error:
                failure = error
            with self._changed:
                # After the write: an empty queue ends the spooling.
                del self._queue[: len(group)]
                self._queued_bytes = sum(
                    len(record) for records, _ in self._queue for record in records
                )
                self._changed.notify_all()
            for _, done in group:
                if failure is not None:
                    done.set_exception(failure)
                else:
                    done.set_result({})

    def _send(self) -> None:
        """Send records from disk in order, until the spool is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._spooling or self._closed)
                if self._closed:
                    return
                if self._sent == self._disk.end:
                    if self._queue:
                        self._changed.wait(_RETRY_S)
                    else:
                        self._spooling = False
                        _logger.info("all spooled records are in the event log")
                    continue
            pause = self._send_some()
            if pause:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, pause)

    def _send_some(self) -> float:
        """Send one batch; returns the pause before the next, seconds."""
        try:
            batch = self._disk.read(self._sent, _SEND_RECORDS)
            # Blank records take the places of lost ones.
            records = [_decode(record) for _, record in batch if record != BLANK]
            payloads, keys = [payload for _, payload in records], [key for key, _ in records]
            sending = self._log.submit(payloads, keys) if records else None
            while sending is not None:
                with contextlib.suppress(TimeoutError):
                    sending.result(_RETRY_S)
                    break
                if self._closed:
                    return _RETRY_S
        except (*_OUTAGE, BackpressureError):
            return _RETRY_S
        except LogError as error:
            # They were acknowledged, so they are kept.
            _logger.error("spooled records cannot be sent on: %s", error)
            return _RETRY_REFUSED_S
        self._sent = batch[-1][0] + 1
        self._write_sent()
        with contextlib.suppress(OSError):  # a disk that refuses: trimmed after a later batch
            self._disk.trim(self._sent)
        return 0.0

    def _read_sent(self) -> int:
        """Read the offset up to which records were sent; a lower one sends some again."""
        try:
            sent = int(self._sent_file.read_text())
        except (FileNotFoundError, ValueError):
            return self._disk.begin
        return sent if self._disk.begin <= sent <= self._disk.end else self._disk.begin

    def _write_sent(self) -> None:
        written = self._sent_file.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk: some records are sent again
            written.write_text(str(self._sent))
            written.replace(self._sent_file)
