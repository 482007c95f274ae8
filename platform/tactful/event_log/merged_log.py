"""What an engine follows: a log as a whole, be it of one partition or of many.

A log of many partitions is read as one, in the order of event time as far as its records are here
already. That keeps the partitions together while much is to be read: a window of one does not close
because another was read first. What was read is numbered through, and the offsets behind it, by
partition, are kept in the engine's state beside its own: :class:`LogOffsets` carries them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from tactful.schemas.positions import Offsets, Position, as_text, parse, reaches
from tactful_streaming.contract.log_entries import Event, Item
from tactful_streaming.engine.consumers import CoCommittedConsumer
from tactful_streaming.errors import LogError, LogUnreachableError, OffsetError
from tactful_streaming.kafka.client import (
    dropped_records,
    import_kafka,
    lasting_problem,
    missing_offset,
    open_consumer,
    partition_bounds,
)
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.log.event_log import EventLog

_QUEUE = 4_000
_CONSUME = 1_000
_PATIENCE_S = 1.0
_POLL_S = 1.0
"""A signal is not seen before a wait for records has ended."""


class AppliedLog(Protocol):
    """A log from which one thread reads on and on."""

    @property
    def reached(self) -> Offsets:
        """By partition, the offset behind what was read last."""

    @property
    def ends(self) -> Offsets:
        """By partition, the offset behind the last record that is known to be there."""

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from number `offset` on, which is behind what was read last."""

    def close(self) -> None:
        """Release what is held, other than a log that was given."""


class SinglePartitionLog:
    """A log of one partition, as it is."""

    def __init__(self, log: EventLog, offset: int) -> None:
        """Follow `log`, which stays the caller's to close, from `offset` on."""
        self._log = log
        self._offset = offset

    @property
    def reached(self) -> Offsets:
        """The offset behind what was read last, of partition 0."""
        return {0: self._offset}

    @property
    def ends(self) -> Offsets:
        """The end of the log, of partition 0."""
        return {0: self._log.end}

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from `offset` on."""
        records = self._log.read(offset, limit)
        self._offset = records[-1][0] + 1 if records else offset
        return records

    def close(self) -> None:
        """Nothing is held."""


class LogOffsets(CoCommittedConsumer):
    """A passenger of the engine that keeps how far each partition of a topic was read.

    Attributes:
        topic: what is read; what was read, once restored.
        offsets: gives the next offset to read, by partition.
    """

    def __init__(self, topic: str) -> None:
        """Begin with nothing read of `topic`."""
        self.topic = topic
        self.offsets: Callable[[], Offsets] = dict
        self._kept: dict[int, int] = {}

    def apply(self, event: Event, item: Item | None) -> None:
        """Events are none of its business."""

    def snapshot(self) -> bytes | None:
        """The offsets, as they belong to what the engine has applied."""
        now = dict(self.offsets())
        if now == self._kept:
            return None
        self._kept = now
        return msgspec.msgpack.encode((self.topic, now))

    def restore(self, state: bytes) -> None:
        """Go back to what was stored."""
        self.topic, self._kept = msgspec.msgpack.decode(state, type=tuple[str, dict[int, int]])
        self.offsets = self._kept.copy


class _Head(msgspec.Struct, gc=False):
    """What decides the order of records."""

    kind: str = ""
    timestamp: int = 0


_Queued = tuple[int, bytes, int, bool]
"""Offset, payload, event time, and whether it is an event rather than a copy of an upsert."""

_EVENTS = frozenset({"event", "restricted"})
"""Kinds of what lies in one partition alone."""

_of_json = msgspec.json.Decoder(_Head)
_of_msgpack = msgspec.msgpack.Decoder(_Head)


class MergedLog:
    """All partitions of a topic as one log, read by one thread from a connection of its own.

    Upserts and ticks lie in every partition, so those of partition 0 stand for all. It is an
    :class:`~tactful_streaming.EventLog` to read, whose numbers are dense; reading may begin again
    at its begin. Between the ends as they were at the start, the order follows from the records
    alone.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        partitions: int,
        *,
        begin: int | None = 0,
        offsets: Offsets | None = None,
        latest: int | None = None,
        bounded: bool = False,
        ends: Offsets | None = None,
        opened: Callable[[Sequence[bytes]], list[bytes]] = list,
        wait_s: float = 0.1,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect.

        Args:
            settings: where the topic lies.
            partitions: how many it has.
            begin: number of the first record that is read; None: how many are left out before it.
            offsets: by partition, where to begin; those that are missing begin with their oldest.
            latest: begin so many records before the end, by partition an equal share, where
                `offsets` says nothing; None: with the oldest.
            bounded: end where the partitions end now, instead of following them.
            ends: by partition, where to end instead, if it is bounded.
            opened: what sealed payloads say.
            wait_s: how long a read waits for a record: at the end, or if it is bounded at most.
            timeout_s: how long to wait for an answer of the broker.
            clock: monotonic seconds.

        Raises:
            OffsetError: if a partition does not hold the offset it shall be read from.
            LogError: if the broker does not answer or refuses.
        """
        self._settings = settings
        self._kafka = import_kafka()
        self._bounded = bounded
        self._opened = opened
        self._wait_s = wait_s
        self._clock = clock
        self._problem: LogError | None = None
        self._full: set[int] = set()
        config = settings.consumer_config("tactful-readers")
        self._consumer = open_consumer(config, self._on_error)
        try:
            self._bounds = {
                n: partition_bounds(self._consumer, settings, n, timeout_s)
                for n in range(partitions)
            }
            for number, end in (ends or {}).items():
                self._bounds[number] = self._bounds[number][0], end
            self._starts = {n: self._start(n, offsets or {}, latest) for n in range(partitions)}
        except BaseException:
            self._consumer.close()
            raise
        self.begin = sum(self._starts.values()) if begin is None else begin
        self._rewind()

    @property
    def reach(self) -> Position:
        """Where it ends if it is bounded, over all partitions."""
        return as_text({number: end for number, (_, end) in self._bounds.items()})

    def reach_to(self, position: Position) -> bool:
        """End there, which a bounded log can where its partitions go so far; whether it does."""
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
    def reached(self) -> Offsets:
        """By partition, the offset behind what was read last."""
        return self._reached

    @property
    def ends(self) -> Offsets:
        """By partition, the offset behind the last record that was known at the last read.

        Asked for in other threads, too, so it does not touch the client: that would wait for a read
        which waits for records.
        """
        return self._ends

    @property
    def end(self) -> int:
        """The number that a record behind all that are known to be there would get, at most."""
        left = sum(max(self._end(n) - at, 0) for n, at in self._reached.items())
        return self._next + left

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` records from number `offset` on: behind what was read last, or the begin.

        Empty when none came within the wait, or at the end if it is bounded. While the broker is
        away that is all that happens to a log that is followed.

        Raises:
            OffsetError: if `offset` is another one, or records were dropped before they were read.
            LogUnreachableError: if it is bounded and what is there did not come within the wait.
            TopicError: if the topic or a partition is gone.
            LogError: for anything else that does not mend by itself.
        """
        if offset != self._next:
            if offset != self.begin:
                raise OffsetError(f"record {offset} is not next: that is {self._next}")
            self._rewind()
        until = self._clock() + self._wait_s
        while not (self._bounded and self._is_over()):
            left = min(max(until - self._clock(), 0.0), _POLL_S)
            self._receive(left if not self._is_ready() else 0.0)
            records = self._take(limit)
            self._ends = {number: self._end(number) for number in self._reached}
            if records:
                return records
            if self._clock() >= until:
                if self._bounded and not self._is_over():
                    raise self._missing()
                break
        return []

    def append(self, payloads: object) -> int:
        """Refused: what is appended goes through the log itself."""
        raise LogError("this log is only read")

    def offset_at(self, timestamp: int) -> int:
        """Refused: numbers have no times."""
        raise LogError("this log cannot be searched by time")

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _rewind(self) -> None:
        self._next = self.begin
        self._reached = dict(self._starts)
        self._came = dict(self._starts)
        self._queues: dict[int, deque[_Queued]] = {number: deque() for number in self._starts}
        self._at_end = {n for n, at in self._starts.items() if at >= self._bounds[n][1]}
        self._waiting_since: float | None = None
        self._ends = {number: self._end(number) for number in self._reached}
        if self._full:
            self._consumer.resume([self._tp(number) for number in self._full])
        self._full = set()
        self._consumer.assign([self._tp(number, at) for number, at in self._starts.items()])

    def _start(self, number: int, offsets: Offsets, latest: int | None) -> int:
        low, high = self._bounds[number]
        oldest = low if latest is None else max(low, high - latest // len(self._bounds))
        start = offsets.get(number, oldest)
        if start < low:
            raise dropped_records(self._settings, number, low, start)
        return start

    def _end(self, number: int) -> int:
        known = self._bounds[number][1]
        if not self._bounded:
            _, high = self._consumer.get_watermark_offsets(self._tp(number), cached=True)
            known = max(known, high)
        return max(known, self._came[number])

    def _is_over(self) -> bool:
        return all(at >= self._bounds[number][1] for number, at in self._reached.items())

    def _is_ready(self) -> bool:
        """Whether every partition has its next record here, or none."""
        for number, queue in self._queues.items():
            if not queue and number not in self._at_end:
                return False
        return any(self._queues.values())

    def _receive(self, wait_s: float) -> None:
        """Queue what has come, waiting for the first for at most `wait_s`."""
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
        except (msgspec.MsgspecError, ValueError, RecursionError):
            head = _Head("event")  # the engine says what is wrong with it
        self._queues[number].append((offset, payload, head.timestamp, head.kind in _EVENTS))
        self._came[number] = offset + 1
        self._at_end.discard(number)
        if self._bounded and offset + 1 >= self._bounds[number][1]:
            self._at_end.add(number)

    def _find_end(self, number: int, offset: int) -> None:
        """Note where a partition ends: what lies between its last record and there is no record."""
        self._at_end.add(number)
        self._came[number] = max(self._came[number], offset)
        if not self._queues[number]:
            self._reached[number] = self._came[number]

    def _take(self, limit: int) -> list[tuple[int, bytes]]:
        """The next records, in the order of event time, as far as that is certain."""
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
            self._reached[number] = offset + 1
            if is_event or number == 0:
                records.append((self._next, payload))
                self._next += 1
            if queues[number]:
                heads[number] = queues[number][0][2]
                continue
            del heads[number]
            if number not in self._at_end:
                break
            self._reached[number] = self._came[number]
        return records

    def _has_waited_enough(self) -> bool:
        """Whether partitions that say nothing have held the others up for long enough."""
        if not any(self._queues.values()):
            self._waiting_since = None
            return False
        if self._waiting_since is None:
            self._waiting_since = self._clock()
        if self._bounded or self._clock() - self._waiting_since < _PATIENCE_S:
            return False
        self._at_end |= {number for number, queue in self._queues.items() if not queue}
        self._waiting_since = None
        return True

    def _on_message_error(self, message: Any) -> None:
        error, number = message.error(), message.partition()
        if error.code() == self._kafka.KafkaError._PARTITION_EOF:
            # What is behind an open transaction is there, and comes when that ends.
            if not self._bounded or message.offset() >= self._bounds[number][1]:
                self._find_end(number, message.offset())
        elif error.code() == self._kafka.KafkaError._AUTO_OFFSET_RESET:
            self._problem = missing_offset(self._settings, number, self._reached[number])
        else:
            self._on_error(error)

    def _missing(self) -> LogUnreachableError:
        """What to say of records that are there and did not come."""
        number = next(n for n, at in self._came.items() if at < self._bounds[n][1])
        return LogUnreachableError(
            f"partition {number} of topic {self._settings.topic!r} at {self._settings.servers}: "
            f"record {self._came[number]} is there and did not come within {self._wait_s:g} s: see "
            "whether the broker is well",
            retry_after=2.0,
        )

    def _on_error(self, error: Any) -> None:
        self._problem = lasting_problem(error, self._settings) or self._problem

    def _tp(self, number: int, offset: int | None = None) -> Any:
        tp, topic = self._kafka.TopicPartition, self._settings.topic
        return tp(topic, number) if offset is None else tp(topic, number, offset)


def behind(reached: Offsets, ends: Offsets) -> int:
    """How many records lie between two positions."""
    return sum(max(end - reached.get(number, 0), 0) for number, end in ends.items())
