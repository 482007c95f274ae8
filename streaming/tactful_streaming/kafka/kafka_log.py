"""The event log in Kafka: one topic, each partition an event log of its own.

The key of a record, a user's id, selects the partition by the murmur2 hash of Kafka's own clients;
a record without a key is copied to every partition. An append is acknowledged when all in-sync
replicas have it; until then the client retries it without reordering.
"""

from __future__ import annotations

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
    TopicError,
)
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import MAX_KAFKA_PAYLOAD, KafkaSettings
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.kafka.topic_identity import TopicIdentity
from tactful_streaming.kafka.topic_watch import START_S, TopicWatch
from tactful_streaming.log.event_log import Positions

_logger = logging.getLogger(__name__)

_PROBE_EVERY_S = 0.5
_ANSWER_S = 1.0
_OVERDUE_S = 1.0
_STUCK_S = 10.0
_CONTROLLER_S = 5.0


class KafkaLog(contextlib.AbstractContextManager["KafkaLog"]):
    """Appends to all partitions of a topic, from any number of threads.

    An append that fails may or may not be in the log, as with any network: the sender repeats it,
    and event ids identify the repetition.

    Shape of the data::

        submit([b"e1", b"e2"], ["ann", None])
        -> partition 2: e1 (hash of "ann"), e2;  partitions 0, 1, 3: e2
        -> Future({0: 17, 1: 9, 2: 31, 3: 4})    offset behind the last record of each
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        max_waiting_bytes: int = 64 * 1024 * 1024,
        connect_timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect. Until a broker answers, appends are refused.

        Args:
            settings: address and name of the topic, which `ensure_topic` creates.
            max_waiting_bytes: bytes not yet acknowledged beyond which appends are refused.
            connect_timeout_s: longest wait for a first answer, seconds.
            clock: monotonic seconds.

        Raises:
            TopicMissingError: if all answers of two seconds report the topic missing.
            LogError: if the client is not installed or refuses the settings.
        """
        self._settings = settings
        self._kafka = client.import_kafka()
        self._max_waiting_bytes = max_waiting_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._pending: collections.deque[_PendingAppend] = collections.deque()
        self._ends: dict[int, int] = {}
        self._count: int | None = None
        self._problem: LogError | None = None
        self._suspect = False
        self._fatal = False
        self._probe_at = 0.0
        self._closed = False
        self._causes = client.Causes()
        self._absent = False  # whether the last answer of a broker was that it has no such topic
        self._found: int | None = None  # number of partitions by the last answer
        self._failing_since: float | None = None  # first failure behind the last success
        self._answer_s = connect_timeout_s
        self._identity = TopicIdentity(settings, clock=clock)
        self._watch = TopicWatch(
            settings, None, self._ask, unseen_s=START_S, every_s=0.0, clock=clock
        )
        self._producer = self._connect()
        self._open(connect_timeout_s)
        self._thread = threading.Thread(target=self._serve, name="kafka-log", daemon=True)
        self._thread.start()

    @property
    def settings(self) -> KafkaSettings:
        """Address and name of the topic."""
        return self._settings

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        if self._count is None:
            problem = self._problem or LogError("the log is closed")
            raise problem.with_traceback(None)
        return self._count

    @property
    def waiting_bytes(self) -> int:
        """Bytes submitted and not yet acknowledged."""
        return self._waiting_bytes

    @property
    def problem(self) -> LogError | None:
        """Reason why appends are refused at present; None if they are not."""
        return self._problem

    def partition_of(self, key: str) -> int:
        """Return the partition that holds all records of `key`."""
        number: int = self._kafka.murmur2(key.encode(), self.partitions)
        return number

    def partition(self, number: int) -> KafkaPartition:
        """Open partition `number` as an event log with a connection of its own."""
        if not 0 <= number < self.partitions:
            raise LogError(f"partition {number} is not one of 0 to {self.partitions - 1}")
        return KafkaPartition(self, number)

    def append(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Positions:
        """Append `payloads`; all in-sync replicas have them on return.

        Returns:
            By partition, the offset behind the last record. After an outage a partition may be
            missing: its records are in the log at offsets that the broker did not report.
        """
        return self.submit(payloads, keys).result()

    def submit(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Future[Positions]:
        """Begin to append, behind all earlier records of the same key."""
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
        """Append to one partition as :meth:`append`."""
        return self._produce({number: [{"value": payload} for payload in payloads]}).result()

    def known_end(self, number: int) -> int:
        """Return the offset behind the last record this object appended to a partition, or 0."""
        return self._ends.get(number, 0)

    def doubt(self) -> LogError:
        """Check the topic, which a reader does not find; return the error for the reader."""
        self._suspect = True
        problem = self._problem
        return problem if isinstance(problem, TopicError) else client.unknown_yet(self._settings)

    def close(self, timeout_s: float = 30.0) -> None:
        """Wait at most `timeout_s` for acknowledgements, then fail the remaining appends."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._thread.join()
        self._identity.close()
        self._finish(self._producer, timeout_s)

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _open(self, timeout_s: float) -> None:
        """Wait for the topic, which brokers do not know when it was just created."""
        until = self._clock() + timeout_s
        problem = self._check_topic()
        while self._absent and not isinstance(problem, TopicError) and self._clock() <= until:
            time.sleep(_PROBE_EVERY_S / 5)
            problem = self._check_topic()
        if isinstance(problem, TopicError):
            self._producer = None  # breaks the reference cycle, which ends its threads
            raise problem
        self._answer_s = _ANSWER_S
        self._note(problem)

    def _connect(self) -> Any:
        return client.connect("Producer", self._settings.producer_config(), self._on_error)

    def _produce(self, routed: Mapping[int, list[dict[str, Any]]]) -> Future[Positions]:
        sizes = [len(message["value"]) for messages in routed.values() for message in messages]
        size = sum(sizes)
        if sizes and max(sizes) > MAX_KAFKA_PAYLOAD:
            raise LogError(f"a record of {max(sizes)} bytes; at most {MAX_KAFKA_PAYLOAD} fit")
        overdue = self._clock() + self._settings.delivery_timeout_ms / 1000 + _OVERDUE_S
        append = _PendingAppend(len(sizes), size, overdue, self._complete)
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
            self._pending.append(append)
            # Under the lock, so that two appends do not interleave or use a closed producer.
            for number, messages in routed.items():
                refused += self._enqueue(number, messages, append)
        if refused:
            append.refused(refused)
        elif not sizes:
            append.future.set_result({})
        return append.future

    def _enqueue(
        self, number: int, messages: list[dict[str, Any]], append: _PendingAppend
    ) -> list[Any]:
        """Pass messages to the client; return the errors of those it refused."""
        try:
            self._producer.produce_batch(
                self._settings.topic, messages, partition=number, on_delivery=append.delivered
            )
        except self._kafka.KafkaException as error:
            return [error.args[0]] * len(messages)
        return [message["_error"] for message in messages if "_error" in message]

    def _complete(self, append: _PendingAppend) -> None:
        """Set the result of an append, all records of which were delivered or failed."""
        with self._lock:
            self._waiting_bytes -= append.size
        if append.error is None:
            for number, end in append.ends.items():
                if end <= self._ends.get(number, 0):
                    self._identity.hurry()  # a topic made anew begins at offset 0
                self._ends[number] = max(end, self._ends.get(number, 0))
            self._failing_since = None
            append.future.set_result(append.ends)
            return
        error = client.explain(append.error, self._settings)
        if isinstance(error, LogUnreachableError | TopicError):
            self._suspect = True
            self._failing_since = self._failing_since or self._clock()
        else:
            error = LogWriteError(f"Kafka did not take an append: {error}")
        self._fatal |= client.lost_identity(append.error)
        append.future.set_exception(error)

    def _on_error(self, error: Any) -> None:
        self._causes.note(error)
        if error.fatal():
            self._fatal = True
        elif error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN:
            self._suspect = True

    def _serve(self) -> None:
        """Process delivery reports and check the connection until the log is closed."""
        while not self._closed:
            try:
                self._producer.poll(0.1)
            except self._kafka.KafkaException as error:
                self._on_error(error.args[0])
            # Without a connection the client may keep messages beyond their timeout.
            if self._fatal or self._is_overdue():
                self._replace_producer()
            self._suspect |= self._identity.has_changed()
            doubtful = self._suspect or self._problem is not None
            if doubtful and self._clock() >= self._probe_at:
                self._suspect = False
                self._probe()

    def _is_overdue(self) -> bool:
        while self._pending and self._pending[0].future.done():
            self._pending.popleft()
        return bool(self._pending) and self._pending[0].overdue < self._clock()

    def _replace_producer(self) -> None:
        _logger.warning("the Kafka producer failed and is replaced by a new one")
        with self._lock:
            failed, self._producer = self._producer, self._connect()
            self._fatal = False
        self._finish(failed, 0.0)

    def _finish(self, producer: Any, timeout_s: float) -> None:
        """Wait for the deliveries of a producer, then fail the remaining ones."""
        with contextlib.suppress(self._kafka.KafkaException):  # of a failed producer
            if not producer.flush(timeout_s):
                return
        producer.purge()
        with contextlib.suppress(self._kafka.KafkaException):
            producer.flush(1.0)

    def _probe(self) -> None:
        """Check that a broker answers and that the topic is unchanged.

        A producer whose appends fail all the same for some time is replaced: after a topic was away
        it may not look for the topic's brokers again.
        """
        self._note(self._check_topic())
        if self._problem is not None:
            self._failing_since = None
        elif self._failing_since and self._clock() - self._failing_since > _STUCK_S:
            self._fatal, self._failing_since = True, None

    def _note(self, problem: LogError | None) -> None:
        before, self._problem = self._problem, problem
        self._probe_at = self._clock() + _PROBE_EVERY_S
        if self._problem is not None and before is None:
            _logger.warning("appends are refused: %s", self._problem)
        elif self._problem is None and before is not None:
            _logger.info("the event log can be reached again")

    def _check_topic(self) -> LogError | None:
        self._watch.begin()
        try:
            if not self._watch.settled():
                problem = self._watch.trouble
                # Until it is believed, senders wait for the topic as for brokers.
                if isinstance(problem, TopicError):
                    problem = LogUnreachableError(str(problem), retry_after=2.0)
                return problem
        except LogError as error:
            return error
        if self._count is not None and self._found not in (None, self._count):
            return client.changed_partitions(self._settings, self._count, self._found)
        self._count = self._found
        return None

    def _ask(self, settings: KafkaSettings) -> str | None:
        self._absent = False
        try:
            self._found = client.count_partitions(
                self._producer, settings, self._answer_s, self._causes
            )
        except self._kafka.KafkaException as error:
            self._producer.poll(0)
            raise client.explain(error.args[0], settings, self._causes) from error
        self._absent = self._found is None
        if self._absent:
            raise client.explain_absence(settings, _CONTROLLER_S)
        self._watch.seen(self._identity.known)
        return self._identity.ask(self._answer_s)


class _PendingAppend:
    """The records of one append that the client has not delivered yet."""

    def __init__(
        self, count: int, size: int, overdue: float, complete: Callable[[_PendingAppend], None]
    ) -> None:
        self.size = size
        self.overdue = overdue
        self.future: Future[Positions] = Future()
        self.ends: dict[int, int] = {}
        self.error: Any = None
        self._left = count
        self._complete = complete
        self._lock = threading.Lock()
        self.future.set_running_or_notify_cancel()

    def delivered(self, error: Any, message: Any) -> None:
        # A broker that already has a retried record does not report its offset.
        if error is None and message.offset() is not None:
            self.ends[message.partition()] = message.offset() + 1
        self._count(1, error)

    def refused(self, errors: Sequence[Any]) -> None:
        self._count(len(errors), errors[0])

    def _count(self, count: int, error: Any) -> None:
        with self._lock:
            self.error = self.error or error
            self._left -= count
            completed = not self._left
        if completed:
            self._complete(self)
