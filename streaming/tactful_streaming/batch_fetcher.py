"""Reads the partitions of a group's member in whole batches, ahead of who takes the records.

A thread for each broker asks for what lies behind the last answer, checks and unpacks it; records
are found when they are taken. Which partitions are read, and from where, is said by the group.

It is for brokers that are reached in the clear or by TLS. For others, and where the client is given
properties of its own, records come through the client (:mod:`tactful_streaming.message_queue`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from tactful_streaming.fetch_connection import Address, FetchConnection, Fetched, tls_context
from tactful_streaming.kafka_config import FETCH_WAIT_MS, MAX_KAFKA_BATCH, KafkaSettings
from tactful_streaming.message_queue import Run, Trouble
from tactful_streaming.record_batches import Batch, UnsoundError, read_batches, take_records

_logger = logging.getLogger(__name__)

# Codes of the protocol (https://kafka.apache.org/protocol#protocol_error_codes).
_OUT_OF_RANGE, _NO_PARTITION = 1, 3
# What goes by: another broker leads, or will in a moment.
_PASSING: Final = frozenset({_NO_PARTITION, 5, 6, 7, 8, 9, 13, 56, 74, 75, 76, 78, 100})
# Codes of the client, for what it finds out by itself.
_BAD_MESSAGE, _RESET, _END = -199, -140, -191

_AHEAD: Final = 64 * 2**20  # bytes, of all partitions
_TIMEOUT_S: Final = 5.0
_PAUSE_S: Final = 0.1
_ABSENT_S: Final = 5.0  # a topic that was just made may not be known to all brokers yet


@dataclass(eq=False)
class _Partition:
    """One that is read.

    Attributes:
        number: of the partition.
        position: offset to ask for next.
        wanted: lowest offset to hand out.
        missed: when it was last asked who leads it.
        leader: broker that is asked.
        paused: whether nothing of it is wanted for now.
        high: offset behind the newest record, as far as it is known.
        batches: what was read ahead.
        end: offset of the end that was reached last.
        trouble: what is to be told once what was read ahead is taken.
        failed: whether nothing more can be read.
    """

    number: int
    position: int
    wanted: int
    missed: float
    leader: Address | None = None
    paused: bool = False
    high: int = -1
    batches: deque[Batch] = field(default_factory=deque)
    end: int = -1
    trouble: Trouble | None = None
    failed: bool = False

    @property
    def ready(self) -> bool:
        """Whether there is anything to take or to tell."""
        return not self.paused if self.batches else self.trouble is not None

    def fail(self, code: int, reason: str) -> None:
        """Read nothing more, and have that told."""
        self.trouble, self.failed = Trouble(self.number, self.wanted, code, reason), True


class BatchFetcher:
    """What a member of a group reads. One thread uses it; others work for it."""

    def __init__(
        self,
        settings: KafkaSettings,
        leaders: Callable[[], Mapping[int, Address] | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet.

        Args:
            settings: where the topic lies.
            leaders: which broker leads each partition of the topic; None if nobody answers.
                Another thread calls it.
            clock: seconds that never go back.

        Raises:
            OSError: A certificate or a key cannot be read.
        """
        self._settings, self._leaders, self._clock = settings, leaders, clock
        self._context = tls_context(settings)
        self._changed = threading.Condition()
        self._partitions: dict[int, _Partition] = {}
        self._readers: dict[Address, FetchConnection | None] = {}
        self._threads: list[threading.Thread] = []
        self._problem: BaseException | None = None
        self._closed = False
        self._start(self._locate)

    @staticmethod
    def serves(settings: KafkaSettings) -> bool:
        """Whether brokers can be read with these settings."""
        checked = {"check.crcs"}  # as is always done
        return settings.security in ("plaintext", "ssl") and settings.extra.keys() <= checked

    def begin(self, number: int, offset: int) -> None:
        """Read a partition from an offset on, whatever was read of it before."""
        with self._changed:
            self._partitions[number] = _Partition(number, offset, offset, self._clock())
            self._changed.notify_all()

    def end(self, number: int) -> None:
        """Read a partition no more; what was read ahead is dropped."""
        with self._changed:
            self._partitions.pop(number, None)

    def pause(self, numbers: Collection[int], paused: bool = True) -> None:
        """Hand out nothing of partitions for now; with `paused` false, do it again."""
        with self._changed:
            for number in self._partitions.keys() & set(numbers):
                self._partitions[number].paused = paused

    def high(self, number: int) -> int:
        """Offset behind the newest record of a partition; -1 where that is not known yet."""
        return self._partitions[number].high

    def take(self, limit: int, wait_s: float) -> tuple[dict[int, Run], list[Trouble]]:
        """Records by partition, as many as are here, and what is to be told of partitions.

        Args:
            limit: most records in all, at least 1.
            wait_s: how long to wait for the first, seconds.

        Raises:
            Exception: What ended a thread; that is an error of this program.
        """
        runs: dict[int, Run] = {}
        troubles: list[Trouble] = []
        with self._changed:
            self._changed.wait_for(lambda: self._problem is not None or self._ready(), wait_s)
            if self._problem is not None:
                raise self._problem
            ready = self._ready()
            for place, one in enumerate(ready):
                # An equal part of what is left for each, so that none runs ahead of the others.
                part = -(-limit // (len(ready) - place))
                run = self._take(one, part) if part else None
                if run is not None:
                    runs[one.number] = run
                    limit -= len(run.records)
                if not one.batches and one.trouble is not None:
                    troubles.append(one.trouble)
                    one.trouble = None
            if runs:
                self._changed.notify_all()  # there is room again
        return runs, troubles

    def close(self) -> None:
        """Stop reading. Closing twice is harmless."""
        with self._changed:
            self._closed = True
            for connection in self._readers.values():
                if connection is not None:
                    connection.close()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _ready(self) -> list[_Partition]:
        return [one for one in self._partitions.values() if one.ready]

    def _take(self, one: _Partition, limit: int) -> Run | None:
        try:
            records, newest = take_records(one.batches, limit, one.wanted)
        except UnsoundError as error:
            one.batches.clear()
            one.fail(_BAD_MESSAGE, str(error))
            return None
        if records is None:
            return None
        one.wanted = records.offsets[-1] + 1
        return Run(records, newest)

    def _start(self, work: Callable[..., None], *arguments: Address) -> None:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:  # who takes is told: a silent end would look like peace
                with self._changed:
                    self._problem = error
                    self._changed.notify_all()

        thread = threading.Thread(target=run, name="tactful-fetch", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _locate(self) -> None:
        """Find out who leads the partitions of which that is not known."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._leaderless())
                if self._closed:
                    return
            found = self._leaders()
            with self._changed:
                for one in self._leaderless():
                    if found is None:
                        break
                    one.leader = found.get(one.number)
                    if one.leader is None and self._clock() - one.missed > _ABSENT_S:
                        one.fail(_NO_PARTITION, "the partition has had no leader for seconds")
                    elif one.leader is not None and one.leader not in self._readers:
                        self._readers[one.leader] = None
                        self._start(self._read, one.leader)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed, _PAUSE_S)

    def _leaderless(self) -> list[_Partition]:
        return [it for it in self._partitions.values() if it.leader is None and not it.failed]

    def _read(self, address: Address) -> None:
        """Read what a broker leads, for as long as it does."""
        turn, away_since, told = 0, None, False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanted(address))
                if self._closed:
                    return
                wanted = self._wanted(address)
                turn = (turn + 1) % len(wanted)
                # Where an answer is full before the last one's turn, another is last next time.
                asked = [(one, one.position) for one in wanted[turn:] + wanted[:turn]]
            try:
                fetched = self._connection(address).fetch(
                    self._settings.topic,
                    {one.number: position for one, position in asked},
                    wait_ms=FETCH_WAIT_MS,
                    most=MAX_KAFKA_BATCH,
                )
            except OSError as error:
                self._hang_up(address)
                away_since = away_since or self._clock()
                if self._clock() - away_since > _ABSENT_S and not told:
                    told = True
                    _logger.warning("broker %s:%d cannot be read from: %s", *address, error)
                continue
            away_since, told = None, False
            for one, position in asked:
                if one.number in fetched:
                    self._note(one, position, fetched[one.number])

    def _wanted(self, address: Address) -> list[_Partition]:
        """Those to ask this broker for: there is room for what it has of them."""
        room = _AHEAD // max(len(self._partitions), 1)
        return [
            one
            for one in self._partitions.values()
            if one.leader == address
            and not one.failed
            and sum(len(batch.data) for batch in one.batches) < room
        ]

    def _connection(self, address: Address) -> FetchConnection:
        connection = self._readers[address]
        if connection is None:
            connection = FetchConnection(address, self._context, timeout_s=_TIMEOUT_S)
            with self._changed:
                self._readers[address] = connection
                if self._closed:
                    raise ConnectionError("nothing is read any more")
        return connection

    def _hang_up(self, address: Address) -> None:
        with self._changed:
            connection, self._readers[address] = self._readers[address], None
            for one in self._partitions.values():
                if one.leader == address:
                    one.leader, one.missed = None, self._clock()
            self._changed.notify_all()
        if connection is not None:
            connection.close()

    def _note(self, one: _Partition, position: int, answer: Fetched) -> None:
        """Keep what a broker answered of a partition."""
        batches: list[Batch] = []
        after, unsound = position, ""
        if answer.error == 0:
            try:
                batches, after = read_batches(answer.batches, answer.aborted, position)
            except UnsoundError as error:
                unsound = str(error)
        with self._changed:
            if self._partitions.get(one.number) is not one:
                return  # it went while the broker was asked
            if unsound:
                one.fail(_BAD_MESSAGE, unsound)
            elif answer.error in _PASSING:
                one.leader, one.missed = None, self._clock()
            elif answer.error == _OUT_OF_RANGE:
                one.fail(_RESET, "the broker does not hold the offset")
            elif answer.error != 0:
                one.fail(answer.error, "the broker refuses to read the partition")
            else:
                one.batches.extend(batches)
                one.position, one.high = after, answer.high
                if answer.high < position and self._clock() - one.missed > _ABSENT_S:
                    # Its log ends before what was read of it: the topic may be gone.
                    one.leader, one.missed = None, self._clock()
                if after == position >= answer.stable and one.end != after:
                    one.end = after
                    one.trouble = Trouble(one.number, after, _END, "end of the partition")
            self._changed.notify_all()
