"""Copies packed entities that a Flink job has computed to Redis, where servers read them.

The topic of the entities has the partitions of the log. Each has one owner among the copiers, as
the partitions of the log have among workers.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.errors import (
    FencedError,
    LogError,
    LogUnreachableError,
    LogWriteError,
    OnlineStoreError,
)
from tactful_streaming.flink.entities import entities_tag, entity_hash, entity_kinds
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import TEMPORARY, PartitionGroup
from tactful_streaming.online.fenced_store import FencedRedisStore
from tactful_streaming.worker.copied_partition import CopiedPartition
from tactful_streaming.worker.erasure import Erasures
from tactful_streaming.worker.progress import PartitionProgress, WorkerProgress

_logger = logging.getLogger(__name__)

_WAIT_S = 0.05
_TELL_S = 0.5
_RETRY_S = 1.0
_FLUSH_S = 10.0
_ASK_S = 30.0
_END: Final = b"end"


@dataclass(frozen=True)
class CopierOptions:
    """Options of all copiers of an installation."""

    kafka: KafkaSettings  # of the topic of the entities
    log_topic: str  # topic of the log
    erased_topic: str  # topic of the erased, which the job reads
    group: str  # consumer group that shares the partitions
    owner: str  # name of the group of workers, by which purged partitions are reported
    open_store: Callable[[int], FencedRedisStore]  # takes ownership of a partition in Redis
    topic_id: str | None = None  # id of the topic of the entities, and …
    log_id: str | None = None  # … of the log; None before Kafka 2.8
    erasures: Erasures | None = None  # erased users, removed from Redis, topic and job
    batch: int = 5_000  # most rows copied at once
    instance: str | None = None  # name that outlives a restart; None: a new one each time


class EntityCopier:
    """Owns the partitions that its group assigns; used by one thread.

    ::

        PartitionGroup.poll → {0: rows, 3: rows} → CopiedPartition 0, CopiedPartition 3 → Redis

    While Redis or the brokers are away, or after Redis lost its data, it waits, and continues from
    what Redis says was copied: with an empty Redis from the beginning of the topic, which keeps the
    last value of each entity.
    """

    def __init__(
        self,
        definitions: Definitions,
        options: CopierOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Join the group.

        `definitions` are those that the job was compiled from; `clock` returns monotonic seconds.

        Raises:
            LogError: if the Kafka client is not installed or refuses the settings.
        """
        self._options = options
        self._tag, self._kinds = entities_tag(definitions), entity_kinds(definitions)
        self._clock = clock
        self._partitions: dict[int, CopiedPartition] = {}
        self._tell_at = clock()
        self._counts: Counter[str] = Counter()
        self._purged = 0
        self._asked_at = clock()
        self._causes = client.Causes()
        self._group = PartitionGroup(
            options.kafka,
            options.group,
            assigned=self._assigned,
            revoked=self._drop,
            lost=self._drop,
            instance=options.instance,
            topic_id=options.topic_id,
        )

    @property
    def partitions(self) -> Mapping[int, CopiedPartition]:
        """The copies of the owned partitions, by number."""
        return self._partitions

    @property
    def trouble(self) -> LogError | None:
        """Reason why it waits for Redis or the brokers at present; None if it does not."""
        return self._group.trouble

    def run(
        self, stop: Callable[[], bool], progress: Callable[[WorkerProgress], None] = lambda _: None
    ) -> None:
        """Copy until `stop`, called after each batch, returns true.

        `progress` is called twice a second.

        Raises:
            FencedError: if this process was silent for so long that another one owns a partition:
                start it again.
            StreamingError: if a topic or Redis fails for good. Nothing is lost.
        """
        while not stop():
            if self.step():
                progress(self.progress())
        progress(self.progress())

    def step(self) -> bool:
        """Copy one batch; return whether it is time to tell the progress."""
        with self._patience():
            for number, rows in self._group.poll(self._options.batch, _WAIT_S).items():
                one = self._partitions[number]
                confirmed = one.apply(rows.offsets, rows.payloads, self._suppressed)
                if confirmed is not None:
                    self._report(one, confirmed)
            self._purge()
        if self._clock() < self._tell_at:
            return False
        self._tell_at = self._clock() + _TELL_S
        with self._patience():
            for one in self._partitions.values():
                one.check()
            self._ask_again()
        self._group.commit({n: one.copied.offset for n, one in self._partitions.items()})
        return True

    def progress(self) -> WorkerProgress:
        """Return the counts of this copier and the progress of each partition."""
        lag = self._group.lag()
        partitions = {
            number: PartitionProgress(
                offset=one.reached,
                committed=one.reached,
                watermark=one.watermark,
                records=lag[number].records,
                behind_ms=lag[number].behind_ms,
                idle=lag[number].records == 0,
                paused=False,
            )
            for number, one in sorted(self._partitions.items())
            if number in lag
        }
        counts = self._counts.copy()
        for one in self._partitions.values():
            counts.update(entries=one.entries, invalid=one.invalid)
        return WorkerProgress(partitions=partitions, **counts)

    def close(self) -> None:
        """Leave the group."""
        try:
            self._group.close()
        finally:
            self._drop([*self._partitions])

    def abandon(self) -> None:
        """Leave the group after an error."""
        self.close()

    @property
    def _suppressed(self) -> Container[str]:
        erasures = self._options.erasures
        return frozenset() if erasures is None else erasures.suppressed

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Close all copies, to be opened later, when Redis or the brokers fail for a while."""
        try:
            yield
        except TEMPORARY as error:
            self._suspend(error)
        except OnlineStoreError as error:
            self._suspend(_as_log_error(error))
        except FencedError as error:
            if any(one.is_fenced() for one in self._partitions.values()):
                raise
            self._suspend(_as_log_error(error))

    def _suspend(self, error: LogError) -> None:
        self._drop([*self._partitions])
        self._group.suspend(error)

    def _assigned(self, number: int) -> int:
        options = self._options
        try:
            store = options.open_store(number)
            self._partitions[number] = one = CopiedPartition(
                number,
                store,
                tag=self._tag,
                kinds=self._kinds,
                topic_id=options.topic_id,
                log_id=options.log_id,
            )
            if options.erasures is not None:
                self._purge_partition(one, options.erasures)
        except OnlineStoreError as error:
            self._drop([number])
            raise _as_log_error(error) from error
        return one.copied.offset

    def _drop(self, numbers: Sequence[int]) -> None:
        with ExitStack() as closing:  # closes all of them, also if some fail
            for number in numbers:
                one = self._partitions.pop(number, None)
                if one is not None:
                    self._counts.update(entries=one.entries, invalid=one.invalid)
                    closing.callback(one.close)

    def _purge(self) -> None:
        """Remove the users who were erased since the last call."""
        erasures = self._options.erasures
        if erasures is None or erasures.newest <= self._purged:
            return
        newest = erasures.newest
        for one in self._partitions.values():
            if one.copied.purged < newest:
                self._purge_partition(one, erasures)
        self._purged = newest

    def _purge_partition(self, one: CopiedPartition, erasures: Erasures) -> None:
        """Remove erased users from Redis and the topic, and ask the job to forget them.

        It is reported once the job has confirmed all that it was asked.
        """
        number, subjects = erasures.after(one.copied.purged)
        if subjects != SubjectIds():
            gone = {"user": subjects.people, "session": subjects.sessions}
            gone = {kind: keys for kind, keys in gone.items() if kind in self._kinds}
            one.purge(gone, number, asked=self._write_erased(one.number, gone))
            self._asked_at = self._clock()
        elif one.copied.purged != number:
            one.purge({}, number)
        if not one.copied.asked:
            self._report(one, number)

    def _report(self, one: CopiedPartition, number: int) -> None:
        if self._options.erasures is not None:
            name = f"{self._options.owner}.{self._options.log_topic}-{one.number}"
            self._options.erasures.purged(name, number)

    def _ask_again(self) -> None:
        """Ask for marks again after a while, as a job that was restored may owe them."""
        if self._clock() < self._asked_at + _ASK_S:
            return
        waiting = [number for number, one in self._partitions.items() if one.copied.asked]
        if waiting:
            self._asked_at = self._clock()
            self._write_erased(waiting[0], {})

    def _write_erased(self, partition: int, gone: Mapping[str, Collection[str]]) -> int:
        """Tell the job whom to forget, and write tombstones to a partition of the entities.

        Returns:
            The offset behind these rows in the topic of the erased.
        """
        options = self._options
        settings = replace(options.kafka, topic=options.erased_topic)
        problems: list[Any] = []
        written: list[int] = []

        def delivered(error: Any, row: Any) -> None:
            if error is not None:
                problems.append(error)
            elif row.topic() == options.erased_topic:
                written.append(row.offset() + 1)

        producer = client.connect("Producer", settings.producer_config(), self._causes.note)
        for kind, keys in gone.items():
            for key in sorted(keys):
                producer.produce(
                    options.erased_topic,
                    key=entity_hash(kind, key).encode(),
                    value=kind.encode(),
                    partition=0,
                    on_delivery=delivered,
                )
                producer.produce(
                    options.kafka.topic,
                    key=f"{kind}:{key}".encode(),
                    value=None,
                    partition=partition,
                    on_delivery=delivered,
                )
        producer.produce(
            options.erased_topic, key=b"@", value=_END, partition=0, on_delivery=delivered
        )
        left = producer.flush(_FLUSH_S)
        if problems:
            raise client.explain(problems[0], settings, self._causes)
        if left:
            raise LogWriteError(f"topic {options.erased_topic!r}: {left} rows were not confirmed")
        return max(written)


def _as_log_error(error: Exception) -> LogUnreachableError:
    return LogUnreachableError(str(error), retry_after=_RETRY_S)
