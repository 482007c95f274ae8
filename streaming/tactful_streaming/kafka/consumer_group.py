"""Membership in a Kafka consumer group: the assigned partitions and their records.

The state of an engine, not the group, holds the offset to read from: an assigned partition begins
at the offset of its state, and the offset committed to the group follows the state. A worker that
dies at any point therefore leaves a state and an offset that fit together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tactful_streaming.contract.log_entries import Records
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import KafkaSettings

_logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Lag:
    """Lag of one partition."""

    records: int  # records not read yet, by the broker's answer. Some brokers report too few.
    # Age of the newest record read while more are waiting; 0 at the end of the partition. It
    # depends on the records alone, not on the broker's answer.
    behind_ms: int


class PartitionGroup:
    """A member of a consumer group, for one thread; callbacks run in the same thread.

    Rebalances are cooperative: only partitions that change their owner stop, and the former owner
    revokes them first, while it still owns them.

    Shape of the data, by partition::

        _next    {3: 1041}            next offset to read, of every assigned partition
        _newest  {3: 1767268800000}   timestamp of the last record read, epoch ms
        _ends    {3: 1042}            end of the partition, once it was reached
    """

    def __init__(
        self,
        settings: KafkaSettings,
        group: str,
        *,
        assigned: Callable[[int], int | None],
        revoked: Callable[[Sequence[int]], None],
        lost: Callable[[Sequence[int]], None],
        instance: str | None = None,
    ) -> None:
        """Subscribe; the first polls join `group`.

        `assigned` opens the state of a newly assigned partition and returns the offset to read
        from; None: the offset committed to the group, else the oldest. `revoked` commits and closes
        the state of partitions, which another member may own when it returns. `lost` closes the
        state of those that another member took after this one missed its heartbeats. A member
        that keeps the name `instance` across a quick restart moves no partitions.
        """
        self._settings = settings
        self._kafka = client.import_kafka()
        self._assigned = assigned
        self._next: dict[int, int] = {}
        self._newest: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._moved: set[int] = set()
        self._problem: BaseException | None = None
        self._causes = client.Causes()
        self._away = False
        config = settings.consumer_config(group)
        if instance is not None:
            config["group.instance.id"] = instance
        self._consumer = client.connect("Consumer", config, self._on_error)
        self._consumer.subscribe(
            [settings.topic],
            on_assign=self._on_assign,
            on_revoke=lambda _, partitions: self._drop(partitions, revoked),
            on_lost=lambda _, partitions: self._drop(partitions, lost),
        )

    @property
    def partitions(self) -> frozenset[int]:
        """The assigned partitions."""
        return frozenset(self._next)

    def poll(self, limit: int, wait_s: float) -> dict[int, Records]:
        """Read records by partition, in order within each; rebalances happen in this call.

        Call it every few seconds also if there is nothing to read; otherwise the group removes this
        member.

        Raises:
            OffsetError, TopicError: if a partition does not hold the offset, or was deleted.
            Exception: a LogError that lasts, or the error of a callback.
        """
        self._moved.clear()
        first = self._consumer.poll(wait_s)
        more = self._consumer.consume(limit - 1, 0) if first is not None and limit > 1 else []
        records = self._split([first, *more] if first is not None else [])
        # Records of partitions that were assigned or revoked during this call may belong to an
        # earlier assignment, and a revoked partition may still deliver some.
        for number in (self._moved & records.keys()) | (records.keys() - self._next.keys()):
            records.pop(number, None)
            if number in self._next:
                self._ends.pop(number, None)
                self._consumer.seek(self._tp(number, self._next[number]))
        for number, run in records.items():
            self._next[number] = run.offsets[-1] + 1
        if records:
            self._answered()
        self._check()
        return records

    def commit(self, offsets: Mapping[int, int], *, wait: bool = False) -> None:
        """Commit to the group up to which offsets the state of assigned partitions is durable.

        Only monitoring and members without state read these offsets; after a failure the next
        commit covers them.
        """
        owned = [self._tp(number, at) for number, at in offsets.items() if number in self._next]
        if not owned:
            return
        try:
            self._consumer.commit(offsets=owned, asynchronous=not wait)
        except self._kafka.KafkaException as error:
            _logger.warning("offsets were not committed: %s", error)

    def pause(self, partitions: Collection[int]) -> None:
        """Stop reading partitions that are ahead of the others; they stay assigned."""
        self._consumer.pause([self._tp(number) for number in partitions if number in self._next])

    def resume(self, partitions: Collection[int]) -> None:
        """Continue to read paused partitions."""
        self._consumer.resume([self._tp(number) for number in partitions if number in self._next])

    def lag(self) -> dict[int, Lag]:
        """Return the lag of each assigned partition; sends no request."""
        lags = {}
        now = time.time_ns() // 1_000_000
        for number, position in self._next.items():
            _, high = self._consumer.get_watermark_offsets(self._tp(number), cached=True)
            # Transaction markers, which are not records, may lie behind the last record.
            end = self._ends.get(number, -1)
            behind = 0
            if end < position and number in self._newest:
                behind = max(now - self._newest[number], 0)
            lags[number] = Lag(records=max(high - max(position, end), 0), behind_ms=behind)
        return lags

    def close(self) -> None:
        """Revoke all partitions and leave the group."""
        self._consumer.close()
        self._check()

    def _check(self) -> None:
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _split(self, messages: Sequence[Any]) -> dict[int, Records]:
        """Group messages, which come in runs of one partition each, by partition."""
        # Mapping unbound methods is faster than a call for each message.
        message_class = self._kafka.Message
        errors = list(map(message_class.error, messages))
        sound = messages
        # By type: comparing an error of the client with None, as count() does, raises.
        if set(map(type, errors)) - {type(None)}:
            sound = [m for m, error in zip(messages, errors, strict=True) if error is None]
            for message, error in zip(messages, errors, strict=True):
                if error is not None:
                    self._on_message_error(message)
        runs: dict[int, list[Any]] = {}
        for number, group in groupby(sound, message_class.partition):
            runs.setdefault(number, []).extend(group)
        records = {}
        for number, run in runs.items():
            values = list(map(message_class.value, run))
            if None in values:
                values = [value or b"" for value in values]
            first, last = run[0].offset(), run[-1].offset()
            dense = last - first + 1 == len(run)
            offsets = range(first, last + 1) if dense else list(map(message_class.offset, run))
            records[number] = Records(offsets, values)
            self._newest[number] = run[-1].timestamp()[1]
        return records

    def _on_assign(self, consumer: Any, partitions: Sequence[Any]) -> None:
        numbers = [tp.partition for tp in partitions]
        _logger.info("partitions %s of topic %s are assigned", numbers, self._settings.topic)
        self._answered()
        try:
            starts = {number: self._start(number) for number in numbers}
        except BaseException as error:
            # The client would suppress an error that a callback raises.
            self._fail(error)
            consumer.incremental_assign([])  # otherwise the client assigns them without offsets
            return
        self._moved.update(numbers)
        self._next.update(starts)
        consumer.incremental_assign([self._tp(number, at) for number, at in starts.items()])

    def _start(self, number: int) -> int:
        position = self._assigned(number)
        low, _ = client.partition_bounds(self._consumer, self._settings, number, _TIMEOUT_S)
        if position is not None:
            if position < low:
                raise client.dropped_records(self._settings, number, low, position)
            return position
        try:
            committed = client.ask(lambda: self._consumer.committed([self._tp(number)], _TIMEOUT_S))
        except self._kafka.KafkaException as error:
            raise client.explain(error.args[0], self._settings) from error
        return max(int(committed[0].offset), low)

    def _drop(self, partitions: Sequence[Any], callback: Callable[[Sequence[int]], None]) -> None:
        numbers = [tp.partition for tp in partitions if tp.partition in self._next]
        _logger.info("partitions %s of topic %s are revoked", numbers, self._settings.topic)
        self._moved.update(numbers)
        try:
            if numbers:
                callback(numbers)
        except BaseException as error:
            self._fail(error)
        for number in numbers:
            del self._next[number]
            self._newest.pop(number, None)
            self._ends.pop(number, None)

    def _on_message_error(self, message: Any) -> None:
        number, offset, error = message.partition(), message.offset(), message.error()
        if error.code() == self._kafka.KafkaError._PARTITION_EOF:
            # A revoked partition may be assigned again at an earlier offset.
            if number in self._next:
                self._ends[number] = offset
        elif error.code() == self._kafka.KafkaError._AUTO_OFFSET_RESET:
            self._fail(client.missing_offset(self._settings, number, self._next.get(number)))
        else:
            self._on_error(error)

    def _on_error(self, error: Any) -> None:
        self._causes.note(error)
        # The loss of one broker of several is harmless; the loss of all is logged once.
        if error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN and not self._away:
            self._away = True
            problem = client.explain(error, self._settings, self._causes)
            _logger.warning("nothing is read until a broker answers: %s", problem)
        lasting = client.lasting_problem(error, self._settings, self._causes)
        # After MAX_POLL_EXCEEDED the client joins the group again by itself.
        if lasting is not None and error.code() != self._kafka.KafkaError._MAX_POLL_EXCEEDED:
            self._fail(lasting)

    def _answered(self) -> None:
        if self._away:
            self._away = False
            _logger.info("a broker of topic %s answers again", self._settings.topic)

    def _fail(self, problem: BaseException) -> None:
        """Make the next poll raise the first problem."""
        self._problem = self._problem or problem

    def _tp(self, number: int, offset: int = client.NO_OFFSET) -> Any:
        return self._kafka.TopicPartition(self._settings.topic, number, offset)
