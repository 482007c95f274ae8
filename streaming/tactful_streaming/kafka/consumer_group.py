"""Membership in a Kafka consumer group: which partitions are ours, and their records.

The state of an engine, not the group, knows how far a partition was read: an assigned partition
begins where its state says, and the offset committed to the group follows the state. A worker that
dies at any point therefore leaves a state and an offset that fit together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tactful_streaming.contract.record_batch import Records
from tactful_streaming.errors import LogError, LogUnreachableError, OffsetError
from tactful_streaming.kafka.config import Causes, KafkaSettings, ask, explain, import_kafka

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lag:
    """How far reading is behind one partition.

    Attributes:
        records: records not read yet, as far as the broker tells. Some brokers tell too few.
        behind_ms: age of the newest record read, while more are waiting; 0 at the end of the
            partition. It rests on the records alone, so no broker can get it wrong.
    """

    records: int
    behind_ms: int


class PartitionGroup:
    """A member of a consumer group. All methods are for one thread, and callbacks run in it.

    Partitions move cooperatively: only those that change hands stop, and their former owner is told
    first, while it still owns them.
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
        timeout_s: float = 10.0,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Join `group`; the first polls do the joining.

        Args:
            settings: where the topic lies.
            group: name of the group.
            assigned: called with each partition that has become ours; opens its state and returns
                the offset to read from. None: from what the group committed last, else the oldest.
            revoked: called with partitions about to leave: commit their state, then close it. They
                are given on when it returns.
            lost: called with partitions that were given on without us, after we were silent for
                too long: close their state, commit nothing.
            instance: name of this member that outlives a restart, so that a quick one moves no
                partitions; None for a new member each time.
            timeout_s: how long to wait for an answer of the broker, seconds.
            clock: now, epoch milliseconds.

        Raises:
            LogError: if the client is not installed or refuses the settings.
        """
        self._settings = settings
        self._kafka = import_kafka()
        self._assigned = assigned
        self._revoked = revoked
        self._lost = lost
        self._timeout_s = timeout_s
        self._clock = clock
        self._next: dict[int, int] = {}
        self._newest: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._moved: set[int] = set()
        self._problem: BaseException | None = None
        self._causes = Causes()
        self._away = False
        config = settings.consumer_config(group)
        if instance is not None:
            config["group.instance.id"] = instance
        try:
            self._consumer = self._kafka.Consumer(config, error_cb=self._on_error, logger=_logger)
        except (self._kafka.KafkaException, ValueError) as error:
            raise LogError(f"the Kafka client refuses its settings: {error}") from error
        self._consumer.subscribe(
            [settings.topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that are ours."""
        return frozenset(self._next)

    def poll(self, limit: int, wait_s: float) -> dict[int, Records]:
        """Records by partition, in order within each; this is also when partitions come and go.

        Must be called often, every few seconds, also with nothing to read: silence means death.

        Args:
            limit: most records in all.
            wait_s: how long to wait for the first, seconds; more are taken as far as they are here.

        Raises:
            OffsetError: if a partition does not hold the offset it is to be read from.
            TopicError: if the topic or a partition is gone.
            LogError: for anything else that does not mend by itself.
            Exception: whatever a callback raised.
        """
        self._moved.clear()
        first = self._consumer.poll(wait_s)
        more = self._consumer.consume(limit - 1, 0) if first is not None and limit > 1 else []
        records = self._split([first, *more] if first is not None else [])
        # They came or went in the midst of this call: these may be of their life before. So may
        # what comes of one that has left, until the client has heard of it.
        for number in (self._moved & records.keys()) | (records.keys() - self._next.keys()):
            records.pop(number, None)
            if number in self._next:
                self._ends.pop(number, None)
                self._consumer.seek(self._tp(number, self._next[number]))
        for number, run in records.items():
            self._next[number] = run.offsets[-1] + 1
        if records:
            self._answered()
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        return records

    def commit(self, offsets: Mapping[int, int], *, wait: bool = False) -> None:
        """Tell the group how far the state of our partitions is durable.

        Nothing depends on it but those who watch the group, and a member without state; where it
        fails, the next one makes up for it.

        Args:
            offsets: by partition, the next offset to read.
            wait: until the group has taken it, as before a partition is given on.
        """
        ours = [self._tp(number, at) for number, at in offsets.items() if number in self._next]
        if not ours:
            return
        try:
            self._consumer.commit(offsets=ours, asynchronous=not wait)
        except self._kafka.KafkaException as error:
            _logger.warning("offsets were not committed: %s", error)

    def pause(self, partitions: Collection[int]) -> None:
        """Stop reading partitions that are ahead of the others; they stay ours."""
        self._consumer.pause([self._tp(number) for number in partitions if number in self._next])

    def resume(self, partitions: Collection[int]) -> None:
        """Go on reading paused partitions where they stopped."""
        self._consumer.resume([self._tp(number) for number in partitions if number in self._next])

    def lag(self) -> dict[int, Lag]:
        """How far reading is behind each of our partitions; asks no broker."""
        lags = {}
        now = self._clock()
        for number, position in self._next.items():
            _, high = self._consumer.get_watermark_offsets(self._tp(number), cached=True)
            # Behind the last record there may be marks of transactions, which nobody reads.
            end = self._ends.get(number, -1)
            behind = 0
            if end < position and number in self._newest:
                behind = max(now - self._newest[number], 0)
            lags[number] = Lag(records=max(high - max(position, end), 0), behind_ms=behind)
        return lags

    def close(self) -> None:
        """Leave the group; partitions are revoked first."""
        self._consumer.close()
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _split(self, messages: Sequence[Any]) -> dict[int, Records]:
        """Records by partition; messages come in runs of one partition each."""
        # Methods of the class, mapped, spare each record some steps of Python.
        message_class = self._kafka.Message
        errors = list(map(message_class.error, messages))
        sound = messages
        # By type: an error of the client fails when it is compared with None, as count() does.
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
            records[number] = Records(self._offsets(run), values)
            self._newest[number] = run[-1].timestamp()[1]
        return records

    def _offsets(self, run: Sequence[Any]) -> Sequence[int]:
        """Offset of each message of one partition, in which they only grow."""
        first, last = run[0].offset(), run[-1].offset()
        if last - first + 1 == len(run):
            return range(first, last + 1)
        return list(map(self._kafka.Message.offset, run))

    def _on_assign(self, consumer: Any, partitions: Sequence[Any]) -> None:
        numbers = [it.partition for it in partitions]
        _logger.info("partitions %s of topic %s are ours", numbers, self._settings.topic)
        self._answered()
        try:
            starts = {number: self._start(number) for number in numbers}
        except BaseException as error:
            # Callbacks run inside the client, which would swallow it.
            self._fail(error)
            consumer.incremental_assign([])  # or the client assigns them, from nowhere
            return
        self._moved.update(numbers)
        self._next.update(starts)
        consumer.incremental_assign([self._tp(number, at) for number, at in starts.items()])

    def _start(self, number: int) -> int:
        position = self._assigned(number)
        try:
            of, timeout_s = self._tp(number), self._timeout_s
            low, _ = ask(lambda: self._consumer.get_watermark_offsets(of, timeout=timeout_s))
            if position is None:
                (committed,) = ask(lambda: self._consumer.committed([of], timeout_s))
                return int(max(committed.offset, low))
        except self._kafka.KafkaException as error:
            raise explain(error.args[0], self._settings) from error
        if position < low:
            raise OffsetError(
                f"partition {number} of topic {self._settings.topic!r} begins at offset {low} and "
                f"its state needs {position}: retention dropped what was not applied. Restore the "
                "log from a backup, or rebuild from what is left"
            )
        return position

    def _on_revoke(self, consumer: Any, partitions: Sequence[Any]) -> None:
        self._drop(partitions, self._revoked)

    def _on_lost(self, consumer: Any, partitions: Sequence[Any]) -> None:
        self._drop(partitions, self._lost)

    def _drop(self, partitions: Sequence[Any], tell: Callable[[Sequence[int]], None]) -> None:
        numbers = [it.partition for it in partitions if it.partition in self._next]
        _logger.info("partitions %s of topic %s leave", numbers, self._settings.topic)
        self._moved.update(numbers)
        try:
            if numbers:
                tell(numbers)
        except BaseException as error:
            self._fail(error)
        for number in numbers:
            del self._next[number]
            self._newest.pop(number, None)
            self._ends.pop(number, None)

    def _on_message_error(self, message: Any) -> None:
        number, offset, error = message.partition(), message.offset(), message.error()
        if error.code() == self._kafka.KafkaError._PARTITION_EOF:
            # One that has left may come back to an earlier offset, which this would hide.
            if number in self._next:
                self._ends[number] = offset
        elif error.code() == self._kafka.KafkaError._AUTO_OFFSET_RESET:
            self._fail(
                OffsetError(
                    f"partition {number} of topic {self._settings.topic!r} does not hold offset "
                    f"{self._next.get(number)}: retention dropped it, or the topic was made anew"
                )
            )
        else:
            self._on_error(error)

    def _on_error(self, error: Any) -> None:
        self._causes.note(error)
        problem = explain(error, self._settings, self._causes)
        # One broker of several may go without harm; that none is left is told, once.
        if error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN and not self._away:
            self._away = True
            _logger.warning("nothing is read until one comes back: %s", problem)
        # The client connects and joins again by itself; only what it cannot mend is told.
        mends = isinstance(problem, LogUnreachableError) or error.retriable()
        silent = error.code() == self._kafka.KafkaError._MAX_POLL_EXCEEDED
        if not (mends or silent):
            self._fail(problem)

    def _answered(self) -> None:
        if self._away:
            self._away = False
            _logger.info("a broker of topic %s answers again", self._settings.topic)

    def _fail(self, problem: BaseException) -> None:
        """Have the next poll raise it; what went wrong first says most."""
        self._problem = self._problem or problem

    def _tp(self, number: int, offset: int | None = None) -> Any:
        tp = self._kafka.TopicPartition
        topic = self._settings.topic
        return tp(topic, number) if offset is None else tp(topic, number, offset)
