"""Membership in a Kafka consumer group: the assigned partitions and their records.

The state of an engine, not the group, holds the offset to read from: an assigned partition begins
at the offset of its state, and the offset committed to the group follows the state. A worker that
dies at any point therefore leaves a state and an offset that fit together.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from tactful_streaming.contract.log_entries import Records
from tactful_streaming.errors import (
    FencedError,
    LogError,
    LogSettingsError,
    LogUnreachableError,
    TopicMissingError,
)
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topic_watch import TopicWatch
from tactful_streaming.kafka.topics import ask_topic

_logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_ASK_TIMEOUT_S = 3.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_REJOIN_S = 3.0

TEMPORARY = (LogUnreachableError, TopicMissingError)
"""Errors after which a member waits and tries again."""


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

    The group gives partitions to this member, which opens their states and only then assigns them
    to the client. While brokers are away or a topic seems to be missing, partitions wait, and
    their states are opened again and again with growing pauses::

        given by the group → _waiting → state open, in _next, assigned to the client → revoked
                                 ↑_____________ suspend() ____________|

    Shape of the data, by partition::

        _next    {3: 1041}            next offset to read, of every open partition
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
        topic_id: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Subscribe; the first polls join `group`.

        `assigned` opens the state of a newly assigned partition and returns the offset to read
        from; None: the offset committed to the group, else the oldest. After an error of
        `TEMPORARY` it is called again later. `revoked` commits and closes the state of partitions,
        which another member may own when it returns. `lost` closes the state of those that another
        member took after this one missed its heartbeats. A member that keeps the name `instance`
        across a quick restart moves no partitions. After an outage the topic has to have the id
        `topic_id` (None: the first one seen).
        """
        self._settings = settings
        self._kafka = client.import_kafka()
        self._assigned = assigned
        self._next: dict[int, int] = {}
        self._newest: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._waiting: list[int] = []
        self._clock = clock
        self._pause_s, self._open_at = _FIRST_PAUSE_S, 0.0
        self._problem: BaseException | None = None
        self._leaving = False
        self._joined = False  # whether the group has answered with a share, perhaps an empty one
        self._trouble: LogError | None = None
        self._excluded = False  # from an exclusion until the group gives partitions
        self._causes = client.Causes()
        self._watches = {settings.topic: TopicWatch(settings, topic_id, self._ask, clock=clock)}
        self._config = settings.member_config(group)
        if instance is not None:
            self._config["group.instance.id"] = instance
        self._revoked, self._lost = revoked, lost
        self._join()

    @property
    def partitions(self) -> frozenset[int]:
        """The assigned partitions whose states are open."""
        return frozenset(self._next)

    @property
    def trouble(self) -> LogError | None:
        """Reason why partitions wait for the brokers at present; None if none does."""
        return self._trouble

    def poll(self, limit: int, wait_s: float) -> dict[int, Records]:
        """Read records by partition, in order within each; rebalances happen in this call.

        Call it every few seconds also if there is nothing to read; otherwise the group removes this
        member.

        Raises:
            OffsetError: if a partition does not hold the offset.
            TopicError: if the brokers report the topic missing for so long that it was deleted.
            Exception: a LogError that lasts, or the error of a callback.
        """
        if self._clock() >= self._join_at:
            self._consumer.close()
            self._join()
        first = self._consumer.poll(wait_s)
        more = self._consumer.consume(limit - 1, 0) if first is not None and limit > 1 else []
        records = self._split([first, *more] if first is not None else [])
        # A partition that was revoked, or that waits, may still deliver records.
        records = {number: run for number, run in records.items() if number in self._next}
        for number, run in records.items():
            self._next[number] = run.offsets[-1] + 1
        self._check()
        try:
            self._open_waiting()
        except Exception as error:
            self._fail(error)  # by the next call: these records have been read
        return records

    def suspend(self, problem: LogError) -> None:
        """Stop reading until later polls have opened all states again; they are closed now."""
        opened = [*self._next]
        self._close(opened)
        self._waiting += opened
        self._postpone(problem)

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

    def at_end(self, timeout_s: float = _ASK_TIMEOUT_S) -> bool:
        """Ask the brokers whether everything in the assigned partitions has been read.

        It is False before the group has assigned partitions, and while any waits for the brokers
        or none of them answers within `timeout_s`. A member that was assigned none has read its
        share.
        """
        if not self._joined or self._waiting or self._trouble is not None:
            return False
        for number, position in self._next.items():
            try:
                _, high = client.partition_bounds(self._consumer, self._settings, number, timeout_s)
            except LogError:
                return False
            # The markers of transactions, behind the last record, are not read.
            if max(position, self._ends.get(number, -1)) < high:
                return False
        return True

    def close(self) -> None:
        """Revoke all partitions and leave the group.

        Raises:
            Exception: an error of a callback, or a problem that no poll has raised yet.
        """
        self._leaving = True
        self._consumer.close()
        self._check()

    def _join(self) -> None:
        self._join_at = math.inf
        self._consumer = client.connect("Consumer", self._config, self._on_error)
        self._consumer.subscribe(
            [self._settings.topic],
            on_assign=self._on_assign,
            on_revoke=lambda _, partitions: self._drop(partitions, self._revoked),
            on_lost=lambda _, partitions: self._drop(partitions, self._lost),
        )

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
        runs = _by_partition(message_class, sound)
        self._newest |= {number: run[-1].timestamp()[1] for number, run in runs.items()}
        return {number: _records(message_class, run) for number, run in runs.items()}

    def _on_assign(self, _: Any, partitions: Sequence[Any]) -> None:
        numbers = [tp.partition for tp in partitions]
        _logger.info("partitions %s of topic %s are assigned", numbers, self._settings.topic)
        self._watches[self._settings.topic].seen()
        self._joined = True
        self._excluded = False
        self._waiting += numbers
        self._consumer.incremental_assign([])  # otherwise the client assigns them without offsets

    def _open_waiting(self) -> None:
        """Open the states of waiting partitions, unless the brokers do not serve them yet."""
        if self._excluded or (self._trouble is None and not self._waiting):
            return
        for topic, watch in [*self._watches.items()]:
            if not watch.settled():
                return
            if topic != self._settings.topic:
                del self._watches[topic]
        if self._waiting and self._clock() < self._open_at:
            return
        while self._waiting:
            number = self._waiting[0]
            try:
                start = self._start(number)
            except TEMPORARY as error:
                # The next attempt begins with the others.
                self._waiting.append(self._waiting.pop(0))
                self._postpone(error)
                return
            self._next[self._waiting.pop(0)] = start
            self._consumer.incremental_assign([self._tp(number, start)])
            self._pause_s = _FIRST_PAUSE_S
        if self._trouble is not None:
            self._trouble = None
            _logger.info("topic %s is read again", self._settings.topic)

    def _postpone(self, problem: LogError) -> None:
        self._open_at = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._doubt(problem)

    def _doubt(self, problem: LogError) -> None:
        """Open no states before all topics concerned are known to exist; log the first problem."""
        topic = problem.topic if isinstance(problem, TopicMissingError) else self._settings.topic
        if topic not in self._watches:
            named = replace(self._settings, topic=topic)
            self._watches[topic] = TopicWatch(named, None, self._ask, clock=self._clock)
            self._watches[topic].seen()
        self._watches[topic].begin()
        if self._trouble is None:
            _logger.warning("nothing is read until the brokers serve it: %s", problem)
        self._trouble = problem

    def _ask(self, settings: KafkaSettings) -> str | None:
        return ask_topic(self._consumer, settings, _ASK_TIMEOUT_S)

    def _start(self, number: int) -> int:
        low, _ = client.partition_bounds(self._consumer, self._settings, number, _TIMEOUT_S)
        position = self._assigned(number)
        if position is not None:
            if position < low:
                raise client.dropped_records(self._settings, number, low, position)
            return position
        try:
            asked = [self._tp(number)]
            (committed,) = client.ask(lambda: self._consumer.committed(asked, _TIMEOUT_S))
        except self._kafka.KafkaException as error:
            raise client.explain(error.args[0], self._settings) from error
        if committed.error is not None:
            raise client.explain(committed.error, self._settings)
        if 0 <= committed.offset < low:
            _warn_of_dropped(self._settings.topic, number, low, self._config["group.id"])
        return max(int(committed.offset), low)

    def _drop(self, partitions: Sequence[Any], callback: Callable[[Sequence[int]], None]) -> None:
        numbers = [tp.partition for tp in partitions]
        _logger.info("partitions %s of topic %s are revoked", numbers, self._settings.topic)
        self._waiting = [number for number in self._waiting if number not in numbers]
        opened = [number for number in numbers if number in self._next]
        try:
            if opened:
                callback(opened)
        except BaseException as error:
            # The client would suppress an error that a callback raises.
            self._fail(error)
        self._close(opened)

    def _close(self, numbers: Sequence[int]) -> None:
        """Remove open partitions, and no others, from the client.

        In a rebalance the client would else remove all that were given, fail at those it was not
        assigned, and wait for ever for the end of the rebalance.
        """
        partitions = [self._tp(number) for number in numbers]
        self._consumer.resume(partitions)  # a pause would last until after the next assignment
        self._consumer.incremental_unassign(partitions)
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
            self._fail(client.missing_offset(self._settings, number, self._next.get(number), error))
        else:
            self._on_error(error)

    def _on_error(self, error: Any) -> None:
        if self._leaving:
            return  # brokers that refused a poll refuse again; nothing depends on them any more
        self._causes.note(error)
        problem = client.explain(error, self._settings, self._causes)
        # The loss of one broker of several is harmless; the loss of all is logged once.
        down = error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN
        kafka = self._kafka.KafkaError
        # The code is that of any end of a client: its text has the reason.
        reasons = kafka.GROUP_ID_NOT_FOUND, kafka.UNSUPPORTED_VERSION
        unknown_group, unsupported = (kafka(code).str() in error.str() for code in reasons)
        if unknown_group and not self._next:
            self._excluded, self._join_at = True, self._clock() + _REJOIN_S
            self._doubt(_excluded_from(self._config["group.id"]))
        elif unsupported and self._settings.group_protocol == "consumer":
            self._fail(_without_protocol(self._settings))
        elif error.fatal() or error.code() == self._kafka.KafkaError._FATAL:
            self._fail(FencedError(f"the client was shut out of its group ({error.str()})"))
        elif down or isinstance(problem, TopicMissingError):
            self._doubt(problem)
        # After MAX_POLL_EXCEEDED the client joins the group again by itself.
        elif error.code() != self._kafka.KafkaError._MAX_POLL_EXCEEDED and not isinstance(
            problem, LogUnreachableError
        ):
            self._fail(problem)

    def _fail(self, problem: BaseException) -> None:
        """Make the next poll raise the first problem."""
        self._problem = self._problem or problem

    def _tp(self, number: int, offset: int = client.NO_OFFSET) -> Any:
        return self._kafka.TopicPartition(self._settings.topic, number, offset)


def _warn_of_dropped(topic: str, number: int, low: int, group: str) -> None:
    _logger.warning(
        "partition %d of topic %s begins at offset %d: retention dropped records that group %s had "
        "not read",
        *(number, topic, low, group),
    )


def _by_partition(message_class: Any, messages: Sequence[Any]) -> dict[int, list[Any]]:
    runs: dict[int, list[Any]] = {}
    for number, run in groupby(messages, message_class.partition):
        runs.setdefault(number, []).extend(run)
    return runs


def _records(message_class: Any, run: Sequence[Any]) -> Records:
    """Convert messages of one partition; those without a value become empty."""
    values = list(map(message_class.value, run))
    if None in values:
        values = [value or b"" for value in values]
    first, last = run[0].offset(), run[-1].offset()
    dense = last - first + 1 == len(run)
    offsets = range(first, last + 1) if dense else list(map(message_class.offset, run))
    return Records(offsets, values)


def _excluded_from(group: str) -> LogUnreachableError:
    """Make the error for a member of `consumer` in a group of `classic`.

    Brokers exclude it while a group has members of the protocol `classic` with data of their
    assignor. Those of this client have such data after the second rebalance of a group, and keep
    the partitions.
    """
    return LogUnreachableError(
        f"group {group!r} has members of the protocol classic, and brokers admit none of the "
        "protocol consumer beside them: stop them all",
        retry_after=_REJOIN_S,
    )


def _without_protocol(settings: KafkaSettings) -> LogSettingsError:
    """Make the error for brokers before Apache Kafka 4.0."""
    return LogSettingsError(
        f"brokers at {settings.servers} have no groups of the protocol consumer, which is part of "
        "Apache Kafka 4.0: set group_protocol to classic"
    )
