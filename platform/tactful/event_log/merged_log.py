"""The log that an engine reads, of one partition or of several merged ones.

Partitions are merged by the time that their records reach, as far as they have arrived, so that
during a replay no window closes because another partition was read first. Records are numbered
consecutively, and the partitions' offsets are stored in the engine's state by `log_offsets`::

    partition 0:  t=1  t=4         read:  0 (t=1)  1 (t=2)  2 (t=4)
    partition 1:  t=2              offsets: {0: 2, 1: 1}
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tactful.schemas.positions import Offsets, Position, as_text, parse, reaches
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.errors import (
    LogError,
    LogUnreachableError,
    OffsetError,
    TopicMissingError,
)
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topic_watch import TopicWatch
from tactful_streaming.kafka.topics import ask_topic
from tactful_streaming.log.event_log import EventLog

logger = logging.getLogger(__name__)

_QUEUE = 4_000
_CONSUME = 1_000
_PATIENCE_S = 1.0
_START_S = 30.0  # a broker that died is replaced in some ten seconds
_ASK_S = 3.0
_POLL_S = 1.0  # A signal is not seen before a wait for records has ended


class SinglePartitionLog:
    """A log of one partition that one thread reads continuously."""

    def __init__(self, log: EventLog, offset: int) -> None:
        """Read `log`, which the caller closes, from `offset` on."""
        self._log = log
        self._offset = offset

    @property
    def reached(self) -> Offsets:
        """Offset after the last read record, of partition 0."""
        return {0: self._offset}

    @property
    def ends(self) -> Offsets:
        """End of the log, of partition 0."""
        return {0: self._log.end}

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Read up to `limit` records from `offset` on."""
        records = self._log.read(offset, limit)
        self._offset = records[-1][0] + 1 if records else offset
        return records

    def close(self) -> None:
        """Do nothing: no resources are held."""


class _Receipt(msgspec.Struct, gc=False):
    """Time of receipt of an event inside another entry."""

    received_at: int | None = None


class _Head(msgspec.Struct, gc=False):
    """Fields that decide the order of records."""

    kind: str = ""
    timestamp: int = 0
    received_at: int | None = None
    event: _Receipt | None = None

    @property
    def reached(self) -> int:
        """Time that the entry moves event time to, see `time_reached`."""
        received = self.received_at if self.event is None else self.event.received_at
        return self.timestamp if received is None else min(self.timestamp, received)


_Queued = tuple[int, bytes, int, bool]
"""Offset, payload, time reached, and whether it is an event rather than a copy of an upsert."""

_EVENTS = frozenset({"event", "restricted"})  # kinds of entries that lie in one partition only

_of_json = msgspec.json.Decoder(_Head)
_of_msgpack = msgspec.msgpack.Decoder(_Head)


@dataclass(frozen=True)
class Span:
    """Records of a topic to read."""

    begin: int | None = 0  # number of the first record; None: the number of skipped records
    offsets: Offsets = field(default_factory=dict)  # where to begin; else at the oldest
    # Number of newest records to read, divided equally among the partitions without `offsets`;
    # None: all
    latest: int | None = None
    bounded: bool = False  # end at the present ends of the partitions
    ends: Offsets = field(default_factory=dict)  # other ends by partition, if it is bounded


class MergedLog:
    """All partitions of a topic as one log, read by one thread.

    Upserts and ticks are in every partition, so those of partition 0 are read. It is a read-only
    :class:`~tactful_streaming.EventLog` with dense numbers; reading may restart at its begin. Up to
    the ends at the start, the order depends on the records only.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        partitions: int,
        span: Span,
        *,
        opened: Callable[[Sequence[bytes]], list[bytes]] = list,
        wait_s: float = 0.1,
        topic_id: str | None = None,
    ) -> None:
        """Connect; raise OffsetError if a partition does not hold its first offset.

        After an outage the topic has to have the id `topic_id`; None: any.
        """
        self._settings = settings
        self._kafka = client.import_kafka()
        self._bounded = span.bounded
        self._opened = opened
        self._wait_s = wait_s
        self._problem: LogError | None = None
        self._full: set[int] = set()
        self._watch = TopicWatch(
            settings, topic_id, lambda asked: ask_topic(self._consumer, asked, _ASK_S)
        )
        self._watch.seen()
        config = settings.consumer_config("tactful-readers")
        self._consumer = client.connect("Consumer", config, self._on_error)
        try:
            self._bounds = {
                n: client.partition_bounds(self._consumer, settings, n, _START_S, repeat=True)
                for n in range(partitions)
            }
            for number, end in span.ends.items():
                self._bounds[number] = self._bounds[number][0], end
            self._starts = {n: self._start(n, span) for n in range(partitions)}
        except BaseException:
            self._consumer.close()
            raise
        self.begin = sum(self._starts.values()) if span.begin is None else span.begin
        self._rewind()

    @property
    def reach(self) -> Position:
        """End of a bounded log, over all partitions."""
        return as_text({number: end for number, (_, end) in self._bounds.items()})

    def reach_to(self, position: Position) -> bool:
        """End a bounded log at a position; return whether its partitions reach that."""
        try:
            ends = parse(position)
        except ValueError:
            return False
        held = {number: end for number, (_, end) in self._bounds.items()}
        if ends.keys() != held.keys() or not reaches(held, ends):
            return False
        self._bounds = {number: (low, ends[number]) for number, (low, _) in self._bounds.items()}
        self._rewind()
        return True

    @property
    def end(self) -> int:
        """Upper bound of the number after the last known record."""
        left = sum(max(self._end(n) - at, 0) for n, at in self.reached.items())
        return self._next + left

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Read up to `limit` records from `offset` on: the next number, or the begin.

        Empty if none came within the wait, also while the broker is away, or at the end of a
        bounded log.

        Raises:
            OffsetError: if `offset` is another one, or records were dropped before they were read.
            LogUnreachableError: if it is bounded and existing records did not come within the wait.
            TopicError: if the topic was deleted; of a bounded log, by one answer.
            LogError: for other permanent errors.
        """
        if offset != self._next:
            if offset != self.begin:
                raise OffsetError(f"record {offset} is not the next one, {self._next}")
            self._rewind()
        until = time.monotonic() + self._wait_s
        while not (self._bounded and self._is_over()):
            left = min(max(until - time.monotonic(), 0.0), _POLL_S)
            self._receive(left if not self._is_ready() else 0.0)
            records = self._take(limit)
            self.ends = {number: self._end(number) for number in self.reached}
            if records:
                return records
            if time.monotonic() >= until:
                if self._bounded and not self._is_over():
                    raise self._missing()
                break
        return []

    def append(self, payloads: object) -> int:
        """Raise: records are appended to the log itself."""
        raise LogError("this log is read only")

    def offset_at(self, timestamp: int) -> int:
        """Raise: numbers have no times."""
        raise LogError("this log cannot be searched by time")

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def _rewind(self) -> None:
        self._next = self.begin
        self.reached = dict(self._starts)  # offset after the last read record, by partition
        self._came = dict(self._starts)
        self._queues: dict[int, deque[_Queued]] = {number: deque() for number in self._starts}
        self._at_end = {n for n, at in self._starts.items() if at >= self._bounds[n][1]}
        self._waiting_since: float | None = None
        # Known end at the last read, by partition. Other threads use it, too, so it does not use
        # the client, which would wait for a read.
        self.ends = {number: self._end(number) for number in self.reached}
        if self._full:
            self._consumer.resume([self._tp(number) for number in self._full])
        self._full = set()
        self._consumer.assign([self._tp(number, at) for number, at in self._starts.items()])

    def _start(self, number: int, span: Span) -> int:
        low, high = self._bounds[number]
        oldest = low if span.latest is None else max(low, high - span.latest // len(self._bounds))
        start = span.offsets.get(number, oldest)
        if start < low:
            raise client.dropped_records(self._settings, number, low, start)
        return start

    def _end(self, number: int) -> int:
        known = self._bounds[number][1]
        if not self._bounded:
            _, high = self._consumer.get_watermark_offsets(self._tp(number), cached=True)
            known = max(known, high)
        return max(known, self._came[number])

    def _is_over(self) -> bool:
        return all(at >= self._bounds[number][1] for number, at in self.reached.items())

    def _is_ready(self) -> bool:
        """Return whether every partition has its next record queued, or has ended."""
        empty = {number for number, queue in self._queues.items() if not queue}
        return empty <= self._at_end and len(empty) < len(self._queues)

    def _receive(self, wait_s: float) -> None:
        """Queue received records; wait for the first one for at most `wait_s`."""
        if self._watch.doubt and self._watch.settled():
            logger.info("topic %s is read again", self._settings.topic)
        messages = self._consumer.consume(_CONSUME, 0)
        if not messages and wait_s > 0:
            first = self._consumer.poll(wait_s)
            messages = [] if first is None else [first, *self._consumer.consume(_CONSUME, 0)]
        payloads = self._opened([message.value() or b"" for message in messages])
        for message, payload in zip(messages, payloads, strict=True):
            number = message.partition()
            if message.error() is not None:
                self._on_message_error(message)
            elif self._bounded and message.offset() >= self._bounds[number][1]:
                self._find_end(number, self._bounds[number][1])
            else:
                self._queue(number, message.offset(), payload)
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        full = {number for number, queue in self._queues.items() if len(queue) > _QUEUE}
        if full - self._full:
            self._consumer.pause([self._tp(number) for number in full - self._full])
        if self._full - full:
            self._consumer.resume([self._tp(number) for number in self._full - full])
        self._full = full

    def _queue(self, number: int, offset: int, payload: bytes) -> None:
        try:
            head = (_of_json if payload[:1] == b"{" else _of_msgpack).decode(payload)
        except (ValueError, *DECODE_ERRORS):
            head = _Head("event")  # the engine reports it
        self._queues[number].append((offset, payload, head.reached, head.kind in _EVENTS))
        self._came[number] = offset + 1
        self._at_end.discard(number)
        if self._bounded and offset + 1 >= self._bounds[number][1]:
            self._at_end.add(number)

    def _find_end(self, number: int, offset: int) -> None:
        """Record the end of a partition; no records follow its last one before that."""
        self._at_end.add(number)
        self._came[number] = max(self._came[number], offset)
        if not self._queues[number]:
            self.reached[number] = self._came[number]

    def _take(self, limit: int) -> list[tuple[int, bytes]]:
        """Take the next records in the order of the times reached, as far as it is certain."""
        if self._is_ready():
            self._waiting_since = None
        elif not self._has_waited_enough():
            return []
        records: list[tuple[int, bytes]] = []
        queues = self._queues
        heads = {number: queue[0][2] for number, queue in queues.items() if queue}
        while heads and len(records) < limit:
            number = min(heads, key=lambda n: (heads[n], n))
            offset, payload, _, is_event = queues[number].popleft()
            self.reached[number] = offset + 1
            if is_event or number == 0:
                records.append((self._next, payload))
                self._next += 1
            if queues[number]:
                heads[number] = queues[number][0][2]
                continue
            del heads[number]
            if number not in self._at_end:
                break
            self.reached[number] = self._came[number]
        return records

    def _has_waited_enough(self) -> bool:
        """Return whether silent partitions have delayed the others for long enough."""
        if not any(self._queues.values()):
            self._waiting_since = None
            return False
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        if self._bounded or time.monotonic() - self._waiting_since < _PATIENCE_S:
            return False
        self._at_end |= {number for number, queue in self._queues.items() if not queue}
        self._waiting_since = None
        return True

    def _on_message_error(self, message: Any) -> None:
        error, number = message.error(), message.partition()
        if error.code() == self._kafka.KafkaError._PARTITION_EOF:
            # Records after an open transaction come when that ends.
            if not self._bounded or message.offset() >= self._bounds[number][1]:
                self._find_end(number, message.offset())
        elif error.code() == self._kafka.KafkaError._AUTO_OFFSET_RESET:
            self._problem = client.missing_offset(
                self._settings, number, self.reached[number], error
            )
        else:
            self._on_error(error)

    def _missing(self) -> LogUnreachableError:
        """Build the error for existing records that did not come."""
        number = next(n for n, at in self._came.items() if at < self._bounds[n][1])
        return LogUnreachableError(
            f"partition {number} of topic {self._settings.topic!r} at {self._settings.servers}: "
            f"record {self._came[number]} exists and did not come within {self._wait_s:g} s: check "
            "the broker",
            retry_after=2.0,
        )

    def _on_error(self, error: Any) -> None:
        problem = client.lasting_problem(error, self._settings)
        if isinstance(problem, TopicMissingError) and not self._bounded:
            if not self._watch.doubt:
                logger.warning("nothing is read until the brokers serve it: %s", problem)
            self._watch.begin()
        else:
            self._problem = problem or self._problem

    def _tp(self, number: int, offset: int = client.NO_OFFSET) -> Any:
        return self._kafka.TopicPartition(self._settings.topic, number, offset)


AppliedLog = SinglePartitionLog | MergedLog
"""A log that one thread reads continuously."""


def behind(reached: Offsets, ends: Offsets) -> int:
    """Count the records between two positions."""
    return sum(max(end - reached.get(number, 0), 0) for number, end in ends.items())
