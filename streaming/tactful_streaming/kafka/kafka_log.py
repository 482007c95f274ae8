"""The event log in Kafka: one topic, each partition an event log of its own.

Whoever appends names the person, whose key decides the partition by the murmur2 hash that Kafka's
own clients use; a record without a key is copied to every partition. An append is acknowledged when
all in-sync replicas have it, and is repeated until then without changing places.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from tactful_streaming.errors import (
    BackpressureError,
    LogError,
    LogUnreachableError,
    LogWriteError,
    OffsetError,
    TopicError,
)
from tactful_streaming.kafka.config import (
    MAX_KAFKA_PAYLOAD,
    Causes,
    KafkaSettings,
    ask,
    count_partitions,
    explain,
    import_kafka,
    lost_identity,
)
from tactful_streaming.log.embedded_log import Positions

_logger = logging.getLogger(__name__)

_PROBE_EVERY_S = 0.5
_OVERDUE_S = 1.0


class KafkaLog:
    """Appends to all partitions of a topic, from any number of threads.

    An append whose answer is an error may or may not be in the log, as with any network: the sender
    repeats it, and the event ids tell.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        max_waiting_bytes: int = 64 * 1024 * 1024,
        connect_timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect. Where no broker answers yet, appends are refused until one does.

        Args:
            settings: where the topic lies; :func:`~tactful_streaming.ensure_topic` makes it.
            max_waiting_bytes: bytes not yet acknowledged beyond which appends are refused.
            connect_timeout_s: how long to wait for a first answer, seconds.
            clock: monotonic seconds.

        Raises:
            TopicError: if the topic is not there.
            LogError: if the client is not installed or refuses the settings.
        """
        self._settings = settings
        self._kafka = import_kafka()
        self._max_waiting_bytes = max_waiting_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._flights: collections.deque[_Flight] = collections.deque()
        self._ends: dict[int, int] = {}
        self._count: int | None = None
        self._problem: LogError | None = None
        self._suspect = False
        self._fatal = False
        self._probe_at = 0.0
        self._closed = False
        self._causes = Causes()
        self._producer = self._connect()
        self._probe(connect_timeout_s)
        if isinstance(self._problem, TopicError):
            self._producer = None  # it refers to us: let it go now, with its threads
            raise self._problem
        self._thread = threading.Thread(target=self._serve, name="kafka-log", daemon=True)
        self._thread.start()

    @property
    def settings(self) -> KafkaSettings:
        """Where the log lies."""
        return self._settings

    @property
    def partitions(self) -> int:
        """How many partitions the log has.

        Raises:
            LogUnreachableError: if no broker has told yet.
        """
        if self._count is None:
            problem = self._problem or LogError("the log is closed")
            raise problem.with_traceback(None)
        return self._count

    @property
    def waiting_bytes(self) -> int:
        """Bytes accepted for appending and not yet acknowledged."""
        return self._waiting_bytes

    @property
    def problem(self) -> LogError | None:
        """Why appends are refused at present; None while they are not."""
        return self._problem

    def partition_of(self, key: str) -> int:
        """The partition that holds all records of `key`."""
        number: int = self._kafka.murmur2(key.encode(), self.partitions)
        return number

    def partition(self, number: int) -> KafkaPartition:
        """Partition `number` as an event log of its own, with a connection of its own."""
        if not 0 <= number < self.partitions:
            raise LogError(f"partition {number} is not one of 0 to {self.partitions - 1}")
        return KafkaPartition(self, number)

    def append(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Positions:
        """Append `payloads`; on the disks of the brokers on return.

        Args:
            payloads: what to append.
            keys: for each the key that routes it, or None for a copy in every partition.

        Returns:
            By partition, the offset behind the last record there. One may be missing after an
            outage: the records are there, the broker only did not say where.

        Raises:
            BackpressureError: if too much waits already; nothing was queued.
            LogError: as :meth:`submit` and its future.
        """
        return self.submit(payloads, keys).result()

    def submit(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Future[Positions]:
        """Begin to append; what was submitted earlier under the same key comes before.

        Returns:
            Done when everything is acknowledged. It fails with a LogWriteError where Kafka refused,
            or LogUnreachableError where no broker answered in time.

        Raises:
            BackpressureError: if too much waits already; nothing was queued.
            LogUnreachableError: if no broker answers; nothing was queued.
            LogError: if the log is closed, or a payload is over 5 MiB.
        """
        count = self.partitions
        route = self._kafka.murmur2
        routed = collections.defaultdict[int, list[dict[str, Any]]](list)
        for payload, key in zip(payloads, keys, strict=True):
            if key is None:
                for number in range(count):
                    routed[number].append({"value": payload})
            else:
                encoded = key.encode()
                routed[route(encoded, count)].append({"value": payload, "key": encoded})
        return self._produce(routed)

    def append_to(self, number: int, payloads: Sequence[bytes]) -> Positions:
        """Append to one partition, whatever the key, as :meth:`append`."""
        return self._produce({number: [{"value": it} for it in payloads]}).result()

    def known_end(self, number: int) -> int:
        """Offset behind the last record of partition `number` appended here; 0 if there is none."""
        return self._ends.get(number, 0)

    def close(self, timeout_s: float = 30.0) -> None:
        """Wait until what was submitted is acknowledged, for so long; the rest fails."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._thread.join()
        self._finish(self._producer, timeout_s)

    def __enter__(self) -> KafkaLog:
        """Use the log as a context manager that closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _connect(self) -> Any:
        config = self._settings.producer_config()
        try:
            return self._kafka.Producer(config, error_cb=self._on_error, logger=_logger)
        except (self._kafka.KafkaException, ValueError) as error:
            raise LogError(f"the Kafka client refuses its settings: {error}") from error

    def _produce(self, routed: Mapping[int, list[dict[str, Any]]]) -> Future[Positions]:
        sizes = [len(message["value"]) for messages in routed.values() for message in messages]
        size = sum(sizes)
        if sizes and max(sizes) > MAX_KAFKA_PAYLOAD:
            raise LogError(f"a record of {max(sizes)} bytes; at most {MAX_KAFKA_PAYLOAD} fit")
        overdue = self._clock() + self._settings.delivery_timeout_ms / 1000 + _OVERDUE_S
        flight = _Flight(len(sizes), size, overdue, self._land)
        refused: list[Any] = []
        with self._lock:
            if self._closed:
                raise LogError("the log is closed: no more appends")
            if self._problem is not None:
                raise self._problem.with_traceback(None)
            if self._waiting_bytes and self._waiting_bytes + size > self._max_waiting_bytes:
                raise BackpressureError(
                    f"{self._waiting_bytes} bytes wait for Kafka: slow down", retry_after=1.0
                )
            self._waiting_bytes += size
            self._flights.append(flight)
            # Under the lock, so that two appends do not mix and neither meets a closed producer.
            for number, messages in routed.items():
                refused += self._enqueue(number, messages, flight)
        if refused:
            flight.refused(refused)
        elif not sizes:
            flight.future.set_result({})
        return flight.future

    def _enqueue(self, number: int, messages: list[dict[str, Any]], flight: _Flight) -> list[Any]:
        """Hand messages to the client; the errors of those it did not take."""
        try:
            self._producer.produce_batch(
                self._settings.topic, messages, partition=number, on_delivery=flight.delivered
            )
        except self._kafka.KafkaException as error:
            return [error.args[0]] * len(messages)
        return [message["_error"] for message in messages if "_error" in message]

    def _land(self, flight: _Flight) -> None:
        """All records of an append have been answered for."""
        with self._lock:
            self._waiting_bytes -= flight.size
        if flight.error is None:
            for number, end in flight.ends.items():
                self._ends[number] = max(end, self._ends.get(number, 0))
            flight.future.set_result(flight.ends)
            return
        error = explain(flight.error, self._settings)
        if isinstance(error, LogUnreachableError):
            self._suspect = True
        elif not isinstance(error, TopicError):
            error = LogWriteError(f"Kafka did not take an append: {error}")
        self._fatal |= lost_identity(flight.error)
        flight.future.set_exception(error)

    def _on_error(self, error: Any) -> None:
        self._causes.note(error)
        if error.fatal():
            self._fatal = True
        elif error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN:
            self._suspect = True

    def _serve(self) -> None:
        """Take delivery reports, and look after the connection, until the log is closed."""
        while not self._closed:
            try:
                self._producer.poll(0.1)
            except self._kafka.KafkaException as error:
                self._on_error(error.args[0])
            # The client has been seen to keep messages past their time while it has no connection.
            if self._fatal or self._is_overdue():
                self._replace_producer()
            doubtful = self._suspect or self._problem is not None
            if doubtful and self._clock() >= self._probe_at:
                self._suspect = False
                self._probe(1.0)

    def _is_overdue(self) -> bool:
        while self._flights and self._flights[0].future.done():
            self._flights.popleft()
        return bool(self._flights) and self._flights[0].overdue < self._clock()

    def _replace_producer(self) -> None:
        _logger.warning("the Kafka producer gave up; it is replaced by a new one")
        with self._lock:
            given_up, self._producer = self._producer, self._connect()
            self._fatal = False
        self._finish(given_up, 0.0)

    def _finish(self, producer: Any, timeout_s: float) -> None:
        """Wait for the deliveries of a producer, then let those that are left fail."""
        with contextlib.suppress(self._kafka.KafkaException):  # of one that has given up
            if not producer.flush(timeout_s):
                return
        producer.purge()
        with contextlib.suppress(self._kafka.KafkaException):
            producer.flush(1.0)

    def _probe(self, timeout_s: float) -> None:
        """Ask for the topic: whether a broker answers, and whether the topic is as it was."""
        before = self._problem
        try:
            count = count_partitions(self._producer, self._settings, timeout_s)
        except self._kafka.KafkaException as error:
            self._producer.poll(0)
            self._problem = explain(error.args[0], self._settings, self._causes)
        else:
            self._problem = self._judge(count)
        self._probe_at = self._clock() + _PROBE_EVERY_S
        if self._problem is not None and before is None:
            _logger.warning("appends are refused: %s", self._problem)
        elif self._problem is None and before is not None:
            _logger.info("the event log can be reached again")

    def _judge(self, count: int | None) -> LogError | None:
        topic = self._settings.topic
        if count is None:
            return TopicError(
                f"topic {topic!r} is not at {self._settings.servers}: make it (ensure_topic). "
                "If it was deleted, what was in it is lost: restore it from a backup"
            )
        if self._count not in (None, count):
            return TopicError(
                f"topic {topic!r} had {self._count} partitions and has {count} now, so people "
                "would be routed elsewhere: restart everything that uses it, and rescale the state"
            )
        self._count = count
        return None


class _Flight:
    """The records of one append, on their way."""

    def __init__(
        self, count: int, size: int, overdue: float, land: Callable[[_Flight], None]
    ) -> None:
        self.size = size
        self.overdue = overdue
        self.future: Future[Positions] = Future()
        self.ends: dict[int, int] = {}
        self.error: Any = None
        self._left = count
        self._land = land
        self._lock = threading.Lock()
        self.future.set_running_or_notify_cancel()

    def delivered(self, error: Any, message: Any) -> None:
        # A broker that finds a repeated record there already does not say where it lies.
        if error is None and message.offset() is not None:
            self.ends[message.partition()] = message.offset() + 1
        self._count(1, error)

    def refused(self, errors: Sequence[Any]) -> None:
        self._count(len(errors), errors[0])

    def _count(self, count: int, error: Any) -> None:
        with self._lock:
            self.error = self.error or error
            self._left -= count
            landed = not self._left
        if landed:
            self._land(self)


class KafkaPartition:
    """One partition as an :class:`EventLog`, read from any offset by a consumer of its own.

    It belongs to no consumer group and commits nothing. One thread reads at a time.
    """

    def __init__(
        self,
        log: KafkaLog,
        number: int,
        *,
        wait_s: float = 0.1,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read partition `number` of `log`.

        Args:
            log: appends go through it; it stays the caller's to close.
            number: which partition.
            wait_s: how long a read at the end of the log waits for a record, seconds.
            timeout_s: how long a read waits for one that is known to be there, seconds.
            clock: monotonic seconds.
        """
        self._log = log
        self._number = number
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._settings = log.settings
        self._kafka = import_kafka()
        self._lock = threading.RLock()
        self._position: int | None = None
        self._read_end = 0
        self._told_end = 0
        self._problem: LogError | None = None
        config = self._settings.consumer_config("tactful-readers")
        self._consumer = self._kafka.Consumer(config, error_cb=self._on_error, logger=_logger)

    @property
    def begin(self) -> int:
        """Offset of the oldest record.

        Raises:
            LogError: if the broker cannot be asked or the topic is gone.
        """
        return self._bounds()[0]

    @property
    def end(self) -> int:
        """Offset the next record will get: the greatest of what the broker says and we have seen.

        Raises:
            LogError: if the broker cannot be asked or the topic is gone.
        """
        return self._bounds()[1]

    def append(self, payloads: Sequence[bytes]) -> int:
        """Append `payloads` to this partition; durable on return.

        Returns:
            The offset after the last payload.

        Raises:
            LogError: as :meth:`KafkaLog.append`.
        """
        positions = self._log.append_to(self._number, payloads)
        end = positions.get(self._number)
        return self.end if end is None else end

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from `offset` on; empty when none came within the wait.

        Offsets grow, but may skip numbers where the topic holds records of others.

        Raises:
            OffsetError: if the record at `offset` was dropped, or never was.
            TopicError: if the topic or the partition is gone.
            LogError: if the broker does not deliver what is known to be there.
        """
        with self._lock:
            messages = self._receive(offset, limit)
            records = [(message.offset(), message.value() or b"") for message in messages]
            if records:
                self._position = records[-1][0] + 1
                self._read_end = max(self._read_end, self._position)
            return records

    def offset_at(self, timestamp: int) -> int:
        """Offset of the first record appended at or after `timestamp`; the end if there is none.

        The records themselves are looked at, some twenty of them, since not every broker keeps an
        index by time.

        Args:
            timestamp: epoch milliseconds, compared with the time of appending.

        Raises:
            LogError: if a record cannot be read or carries no time.
        """
        with self._lock:
            begin, end = self._bounds()
            return begin + bisect.bisect_left(range(begin, end), timestamp, key=self._appended_at)

    def close(self) -> None:
        """Leave the broker. Closing twice is harmless."""
        with self._lock:
            self._consumer.close()

    def _bounds(self) -> tuple[int, int]:
        try:
            low, high = ask(
                lambda: self._consumer.get_watermark_offsets(self._tp(), timeout=self._timeout_s)
            )
        except self._kafka.KafkaException as error:
            problem = explain(error.args[0], self._settings)
            if isinstance(problem, TopicError) and self._is_there():
                # Just after an outage the client may not know again what the broker has.
                problem = LogUnreachableError(
                    f"{self._where()} is there and cannot be asked yet", retry_after=2.0
                )
            raise problem from error
        self._told_end = high
        return low, max(high, self._known_end())

    def _is_there(self) -> bool:
        """Whether the broker has the partition."""
        try:
            count = count_partitions(self._consumer, self._settings, self._timeout_s)
        except self._kafka.KafkaException as error:
            raise explain(error.args[0], self._settings) from error
        return count is not None and self._number < count

    def _known_end(self) -> int:
        return max(self._read_end, self._log.known_end(self._number))

    def _receive(self, offset: int, limit: int) -> list[Any]:
        """Messages from `offset` on; those after the first only as far as they are here already."""
        if limit <= 0:
            return []
        if offset != self._position:
            self._seek(offset)
        end = max(self._told_end, self._known_end())
        there = offset < end
        until = self._clock() + (self._timeout_s if there else self._wait_s)
        while True:
            message = self._consumer.poll(max(until - self._clock(), 0.0))
            self._check()
            if message is None:
                if there:
                    raise LogUnreachableError(
                        f"{self._where()}: record {offset} is there and was not delivered within "
                        f"{self._timeout_s} s: see whether the broker is well",
                        retry_after=2.0,
                    )
                return []
            if message.error() is None:
                more = self._consumer.consume(limit - 1, 0) if limit > 1 else []
                return [message, *(it for it in more if self._is_record(it))]
            # An end before that one is of an earlier read.
            if not self._is_record(message) and self._is_end(message) and message.offset() >= end:
                return []
            self._check()

    def _seek(self, offset: int) -> None:
        low, end = self._bounds()
        if offset < low or (offset > end and not self._exists(offset - 1)):
            raise OffsetError(
                f"offset {offset} is outside the log [{low}, {end}] in {self._where()}: what lay "
                "before was dropped by retention; what lies behind is not there, as when the topic "
                "was made anew"
            )
        self._assign(offset)

    def _exists(self, offset: int) -> bool:
        """Whether a record can be read, though the broker says that the log ends before it."""
        self._assign(offset)
        message = self._consumer.poll(self._wait_s)
        self._problem = None
        return message is not None and message.error() is None

    def _assign(self, offset: int) -> None:
        self._problem = None
        self._position = offset
        self._consumer.assign([self._tp(offset)])

    def _appended_at(self, offset: int) -> int:
        message = next(iter(self._receive(offset, 1)), None)
        kind, timestamp = message.timestamp() if message is not None else (0, 0)
        self._position = None
        if kind == self._kafka.TIMESTAMP_NOT_AVAILABLE:
            raise LogError(f"{self._where()}: record {offset} carries no time of appending")
        return int(timestamp)

    def _is_record(self, message: Any) -> bool:
        """Whether it is a record; what it is otherwise is noted if it matters."""
        error = message.error()
        if error is not None and not self._is_end(message):
            self._on_error(error)
        return error is None

    def _is_end(self, message: Any) -> bool:
        return bool(message.error().code() == self._kafka.KafkaError._PARTITION_EOF)

    def _on_error(self, error: Any) -> None:
        if error.code() == self._kafka.KafkaError._AUTO_OFFSET_RESET:
            self._problem = OffsetError(
                f"offset {self._position} is outside the log in {self._where()}: retention dropped "
                "it, or the topic was made anew"
            )
            return
        problem = explain(error, self._settings)
        # The client connects again by itself; only what it cannot mend is told.
        if not isinstance(problem, LogUnreachableError) and not error.retriable():
            self._problem = problem

    def _check(self) -> None:
        if self._problem is not None:
            problem, self._problem, self._position = self._problem, None, None
            raise problem

    def _tp(self, offset: int | None = None) -> Any:
        arguments = (self._settings.topic, self._number)
        tp = self._kafka.TopicPartition
        return tp(*arguments) if offset is None else tp(*arguments, offset)

    def _where(self) -> str:
        return f"partition {self._number} of topic {self._settings.topic!r}"
