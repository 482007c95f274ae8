"""One partition of a topic, read from any offset."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tactful_streaming.errors import LogError, LogUnreachableError, OffsetError, TopicMissingError
from tactful_streaming.kafka import client

if TYPE_CHECKING:
    from tactful_streaming.kafka.kafka_log import KafkaLog


class KafkaPartition:
    """One partition as an `EventLog`, read from any offset by a consumer of its own.

    It belongs to no consumer group and commits no offsets. One thread reads at a time. Each method
    raises LogError if no broker answers, or TopicError if the topic or the partition was deleted.
    """

    def __init__(
        self, log: KafkaLog, number: int, *, wait_s: float = 0.1, timeout_s: float = 10.0
    ) -> None:
        """Read partition `number` of `log`, which appends and which the caller closes."""
        self._log = log
        self._number = number
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._settings = log.settings
        self._kafka = client.import_kafka()
        self._lock = threading.RLock()
        self._position: int | None = None
        self._read_end = 0
        self._broker_end = 0
        self._problem: LogError | None = None
        self._throttled_until = 0.0
        config = self._settings.consumer_config("tactful-readers")
        config["throttle_cb"] = self._on_throttle
        self._consumer = client.connect("Consumer", config, self._on_error)

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""
        return self._bounds()[0]

    @property
    def end(self) -> int:
        """Offset of the next record, by the broker's answer or a record read or written here."""
        return self._bounds()[1]

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append to this partition; durable on return. Return the offset behind the last."""
        positions = self._log.append_to(self._number, payloads)
        end = positions.get(self._number)
        return self.end if end is None else end

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Read up to `limit` records from `offset` on; empty if none came within the wait.

        Offsets grow, but skip numbers if the topic holds records of other writers.
        """
        with self._lock:
            messages = self._receive(offset, limit)
            records = [(message.offset(), message.value() or b"") for message in messages]
            if records:
                self._position = records[-1][0] + 1
                self._read_end = max(self._read_end, self._position)
            return records

    def offset_at(self, timestamp: int) -> int:
        """Find the first record appended at or after `timestamp`; the end if there is none.

        This reads some twenty records, since not every broker has an index by time.
        """
        with self._lock:
            begin, end = self._bounds()
            return begin + bisect.bisect_left(range(begin, end), timestamp, key=self._appended_at)

    def close(self) -> None:
        """Disconnect. Closing twice is harmless."""
        with self._lock:
            self._consumer.close()

    def _bounds(self) -> tuple[int, int]:
        try:
            partition = self._consumer, self._settings, self._number
            low, high = client.partition_bounds(*partition, self._timeout_s, repeat=True)
        except TopicMissingError as error:
            raise self._log.doubt() from error
        self._broker_end = high
        return low, max(high, self._known_end())

    def _known_end(self) -> int:
        return max(self._read_end, self._log.known_end(self._number))

    def _receive(self, offset: int, limit: int) -> list[Any]:
        """Wait for the first message from `offset` on; more only if they were fetched already."""
        if limit <= 0:
            return []
        if offset != self._position:
            self._seek(offset)
        end = max(self._broker_end, self._known_end())
        exists = offset < end
        until = time.monotonic() + (self._timeout_s if exists else self._wait_s)
        while True:
            message = self._consumer.poll(max(until - time.monotonic(), 0.0))
            self._check()
            if message is None:
                if exists and time.monotonic() < self._throttled_until + self._timeout_s:
                    until = self._throttled_until + self._timeout_s
                    continue
                if exists:
                    raise LogUnreachableError(
                        f"{self._where()}: record {offset} exists and was not delivered within "
                        f"{self._timeout_s} s: check the broker",
                        retry_after=2.0,
                    )
                return []
            if message.error() is None:
                more = self._consumer.consume(limit - 1, 0) if limit > 1 else []
                return [message, *filter(self._is_record, more)]
            # An end-of-partition event before `end` belongs to an earlier read.
            if not self._is_record(message) and self._is_end(message) and message.offset() >= end:
                return []
            self._check()

    def _seek(self, offset: int) -> None:
        low, end = self._bounds()
        if offset < low or (offset > end and not self._is_readable(offset - 1)):
            raise OffsetError(
                f"offset {offset} is outside the log [{low}, {end}] in {self._where()}: retention "
                "dropped earlier records; later ones do not exist, as when the topic was made anew"
            )
        self._assign(offset)

    def _is_readable(self, offset: int) -> bool:
        """Whether a record exists behind the end that the broker reported."""
        self._assign(offset)
        message = self._consumer.poll(self._wait_s)
        self._problem = None
        return message is not None and message.error() is None

    def _assign(self, offset: int) -> None:
        self._problem = None
        self._position = offset
        topic = self._settings.topic
        self._consumer.assign([self._kafka.TopicPartition(topic, self._number, offset)])

    def _appended_at(self, offset: int) -> int:
        message = next(iter(self._receive(offset, 1)), None)
        kind, timestamp = message.timestamp() if message is not None else (0, 0)
        self._position = None
        if kind == self._kafka.TIMESTAMP_NOT_AVAILABLE:
            raise LogError(f"{self._where()}: record {offset} has no time of appending")
        return int(timestamp)

    def _is_record(self, message: Any) -> bool:
        """Whether a message is a record; an error message is kept for `_check`."""
        error = message.error()
        if error is not None and not self._is_end(message):
            self._on_error(error)
        return error is None

    def _is_end(self, message: Any) -> bool:
        return bool(message.error().code() == self._kafka.KafkaError._PARTITION_EOF)

    def _on_error(self, error: Any) -> None:
        if error.code() == self._kafka.KafkaError._AUTO_OFFSET_RESET:
            self._problem = client.missing_offset(
                self._settings, self._number, self._position, error
            )
        else:
            self._problem = client.lasting_problem(error, self._settings) or self._problem

    def _on_throttle(self, event: Any) -> None:
        """Note until when a broker delays answers to a client that has used up its quota."""
        self._throttled_until = time.monotonic() + event.throttle_time

    def _check(self) -> None:
        if self._problem is not None:
            problem, self._problem, self._position = self._problem, None, None
            raise self._log.doubt() if isinstance(problem, TopicMissingError) else problem

    def _where(self) -> str:
        return f"partition {self._number} of topic {self._settings.topic!r}"
