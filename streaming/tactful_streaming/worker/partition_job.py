"""The job of one partition: its engine, its state, and the rows it writes.

A commit first publishes the results of windows, then stores the state with its offset. After a
crash in between, the results are computed and published again: the same rows under the same keys.
The same holds for the copy in an online store, which may be written some time before the commit.
Actions, ticks and entries for other partitions are appended to the log after the state that caused
them is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tactful_streaming.contract.log_entries import (
    Entry,
    Record,
    Records,
    Row,
    Tick,
    encode_entry,
    payloads_of,
    route_key,
)
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions, emitted_types
from tactful_streaming.engine.batches import Applied
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import DEFAULT_OPTIONS, EngineOptions, LateEvent
from tactful_streaming.errors import LogError, StateError
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import check_partitions, check_topic
from tactful_streaming.kafka.transactional_producer import TransactionalProducer
from tactful_streaming.log.dead_letters import DeadLetter, DeadLetters
from tactful_streaming.log.encrypted_log import Seal
from tactful_streaming.online.fenced_store import OpenOnline, PartitionView
from tactful_streaming.patterns.match import Match
from tactful_streaming.rules.rules import Cleaner
from tactful_streaming.state.checkpoints import OpenCheckpoints
from tactful_streaming.state.partition_checkpoint import PartitionState
from tactful_streaming.windows.triggers import WindowResult
from tactful_streaming.worker import erasure
from tactful_streaming.worker.output_rows import encode_in_turn, encode_late, encode_matches

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobOptions:
    """Options that the jobs of all partitions share."""

    kafka: KafkaSettings  # the log
    data: Path  # folder for states on this host
    group: str = "tactful-worker"  # consumer group, and prefix of the transactional ids
    features_topic: str | None = None  # topic for the results of windows; None: none are emitted
    matches_topic: str | None = None  # topic for matches of sequences and joins; None: none
    late_topic: str | None = None  # topic for events too late for a feature; None: none
    topic_id: str | None = None  # id of the log's topic, to notice its deletion; None: unchecked
    checkpoints: OpenCheckpoints | None = None  # in a place that all hosts share; None: none
    partitions: int | None = None  # number of partitions of the log; None: unchecked
    dead_letter_ms: int | None = None  # age at which rejected events may be deleted; None: never
    engine: EngineOptions = DEFAULT_OPTIONS  # a job sets options that depend on its partition
    online: OpenOnline | None = None  # opens the copy of a partition's entities; None: no copy
    make_cleaner: Callable[[], Cleaner] | None = None  # for each partition; None: all events count
    erasures: erasure.Erasures | None = None  # erased users, deleted from each state that is opened
    seal: Seal | None = None  # of an encrypted log; None: it is not encrypted
    patience_s: float = 30.0  # time to wait for the former owner of a state on this host, seconds


class PartitionJob:
    """The owner of one partition; used by one thread.

    ::

        records → engine ──→ state (RocksDB) → checkpoints
                    │  └───→ copy of entities in the online store
                    └→ producer: results, matches, late events; actions, ticks, transfers → log

    Methods that write raise FencedError if another process owns the partition now, and LogError if
    no broker answers; this is written later, or again, which is harmless.
    """

    _portions: Generator[None, None, Applied] | None = None  # rest of a batch that emits many rows

    def __init__(self, number: int, definitions: Definitions, options: JobOptions) -> None:
        """Open the state of partition `number`, and fence its former owners.

        Users who were erased since the state was written are deleted before anything else.

        Raises:
            StateError: if the state is damaged, or a process on this host keeps it.
            TopicError: if the state is of a topic that is gone, or had fewer partitions.
            LogError: if no broker answers.
        """
        if options.partitions is not None and number >= options.partitions:
            now = f"{number + 1} or more"
            raise client.changed_partitions(options.kafka, options.partitions, now)
        self.number = number
        self._options = options
        self._seal = options.seal
        self._name = f"{options.kafka.topic}-{number}"
        self._suppressed: Container[str] = (
            frozenset() if options.erasures is None else options.erasures.suppressed
        )
        self.purged = 0  # number of the last erasure that this partition was purged by
        self._online: PartitionView | None = None
        self._producer: TransactionalProducer | None = None
        self._dead_letters: DeadLetters | None = None
        self._rejected: list[DeadLetter] = []
        self.rows = 0  # rows written
        self._portions: Generator[None, None, Applied] | None = None
        folder = options.data / "partitions" / self._name
        checkpoints = options.checkpoints
        self._state = PartitionState(
            folder,
            checkpoints=None if checkpoints is None else checkpoints(self._name),
            patience_s=options.patience_s,
        )
        try:
            self._open_stores(folder, definitions)
            self._partition_of: Callable[[str], int] | None = None
            if options.engine.identity is not None:
                self._partition_of = self._writer.partition_of(options.kafka.topic)
            self.engine = Engine(definitions, self._state.store, self._engine_options())
            # Behind all actions of former owners. The tick moves no watermark; the answer of a
            # broker may miss records that are there.
            self._end = self.append_tick(0) if emitted_types(definitions) else 0
        except BaseException:
            self.close()
            raise
        self._committed = self.engine.offset
        self._ticked = 0

    def _open_stores(self, folder: Path, definitions: Definitions) -> None:
        """Open the producer, the copy and the dead letters; delete erased users from all."""
        options, store = self._options, self._state.store
        check_topic(
            store,
            options.topic_id,
            fresh=self._state.offset == 0,
            where=f"topic {options.kafka.topic!r} and the state in {folder}",
            cure="move the state and its checkpoints away",
        )
        if options.partitions is not None:
            fresh = self._state.offset == 0
            check_partitions(store, options.kafka, options.partitions, fresh=fresh)
        erasures, purged = options.erasures, None
        if erasures is not None:
            self.purged = erasure.purged_number(store)
            if self.purged < erasures.newest:
                purged = erasure.purge_partition(store, folder, definitions, erasures, self._seal)
        if options.make_cleaner is not None:
            self._dead_letters = DeadLetters.open(
                folder / "dead-letters", retention_ms=options.dead_letter_ms, seal=self._seal
            )
        self._producer = TransactionalProducer(options.kafka, f"{options.group}.{self._name}")
        if options.online is not None:
            self._online = options.online(self.number, store, self._state.offset)
        if purged is not None:
            self._finish_purge(*purged)
        if erasures is not None:
            erasures.purged(f"{options.group}.{self._name}", self.purged)

    def _engine_options(self) -> EngineOptions:
        options = self._options
        make_cleaner = options.make_cleaner
        return replace(
            options.engine,
            cleaner=None if make_cleaner is None else make_cleaner(),
            online=self._online,
            partition=self.number,
            suppressed=self._suppressed,
            partition_of=self._partition_of,
            on_results=self._write_results if options.features_topic is not None else None,
            on_late=self._write_late if options.late_topic is not None else None,
            on_match=self._write_matches if options.matches_topic is not None else None,
            on_dead_letter=None if make_cleaner is None else self._rejected.extend,
        )

    @property
    def _writer(self) -> TransactionalProducer:
        assert self._producer is not None
        return self._producer

    @property
    def offset(self) -> int:
        """Next offset to apply."""
        return self.engine.offset

    @property
    def watermark(self) -> int:
        """Watermark of the partition, epoch milliseconds."""
        return self.engine.watermark

    @property
    def is_emitting(self) -> bool:
        """Whether portions of window results are still to be written by :meth:`emit_portion`."""
        return self._portions is not None

    def apply(self, records: Sequence[Record]) -> Applied | None:
        """Count records of the log; None if windows of so many rows ended that portions follow.

        Until :meth:`emit_portion` has written the last one, nothing else may be applied, and
        :meth:`commit` writes nothing: after a crash the next owner aborts the portions that were
        written, and computes them again.
        """
        if self._seal is not None:
            payloads = self._seal.open(payloads_of(records))
            records = Records([offset for offset, _ in records], payloads)
        self._portions = self.engine.apply_in_portions(records)
        return self.emit_portion()

    def emit_portion(self) -> Applied | None:
        """Write the next portion; return the counts of the records after the last one."""
        assert self._portions is not None
        try:
            next(self._portions)
        except StopIteration as end:
            self._portions = None
            applied: Applied = end.value
            return applied
        except BaseException:
            self._portions = None  # the engine refuses to go on
            raise
        return None

    def publish(self) -> None:
        """Copy applied changes to the online store, if any, before the next commit."""
        if not self.is_emitting:
            self.engine.publish()

    def commit(self) -> int:
        """Publish the results of windows, store the state, and return its offset.

        Between two portions it returns the offset stored before.
        """
        if self.is_emitting:
            return self._committed
        if self.engine.offset != self._committed:
            self._writer.commit()
            if self._dead_letters is not None:
                self._dead_letters.add(self._rejected)
                self._rejected.clear()
            self.engine.commit()
            self._committed = self.engine.offset
        if self._online is not None:
            self._online.committed()  # the writer may have been refused after the last commit
        return self._committed

    def append_actions(self, now: int) -> int:
        """Append committed actions, received `now`, to the log, unless they are there already."""
        # An append would commit the portions that were written.
        if self.engine.offset < self._end or self.is_emitting:
            return 0
        waiting = self.engine.outbox()
        # An action in the same batch as its cause, in a replay, is in the log already.
        actions = [
            action
            for action in waiting
            if not (
                self.engine.seen(action.event_id) or erasure.is_erased(action, self._suppressed)
            )
        ]
        if actions:
            received = [msgspec.structs.replace(action, received_at=now) for action in actions]
            self._append(received)
        self.engine.sent(waiting)
        return len(actions)

    def append_transfers(self) -> int:
        """Append committed entries for other partitions to these."""
        waiting = self.engine.transfers.ready()
        if not waiting or self.is_emitting:
            return 0
        assert self._partition_of is not None
        for entry in waiting.values():
            if erasure.is_erased(entry, self._suppressed):
                continue
            key = route_key(entry)
            assert key is not None
            row = key.encode(), encode_entry(entry, "json")
            if self._seal is not None:
                row = b"", self._seal.seal([row[1]])[0]
            self._writer.write(self._options.kafka.topic, [row], self._partition_of(key))
        self._writer.commit()
        self.engine.transfers.discard(waiting)
        return len(waiting)

    def tick(self, now: int) -> bool:
        """Append a tick to the log if a timer is due at `now`, epoch ms; return whether."""
        timer = self.engine.next_timer()
        due = timer is not None and timer + self._options.engine.watermark_delay_ms <= now
        # One tick is enough, until it has been read from the log.
        if (
            not due
            or self.is_emitting
            or self._ticked > self.engine.watermark + self._options.engine.watermark_delay_ms
        ):
            return False
        self._append([Tick(timestamp=now)])
        self._ticked = now
        return True

    def append_tick(self, timestamp: int) -> int:
        """Append a tick of a time, epoch milliseconds; return the offset behind it."""
        return self._append([Tick(timestamp=timestamp)]) + 1

    def checkpoint(self) -> None:
        """Write a checkpoint, if configured, and delete old dead letters."""
        if self._dead_letters is not None:
            try:
                self._dead_letters.trim()
            except (LogError, OSError) as error:
                _logger.warning("old dead letters are not deleted yet: %s", error)
        if self._options.checkpoints is None:
            return
        try:
            self._state.checkpoint()
        except StateError as error:
            _logger.warning("no checkpoint was written; the previous one stays valid: %s", error)

    def close(self) -> None:
        """Release everything; the next owner computes uncommitted results again."""
        try:
            if self._producer is not None:
                self._producer.close()
            if self._online is not None:
                self._online.close()
            if self._dead_letters is not None:
                self._dead_letters.close()
        finally:
            self._state.close()

    def _finish_purge(self, number: int, traces: SubjectIds) -> None:
        """Delete from the copy and from checkpoints what was deleted from the state."""
        if self._online is not None:
            self._online.remove(traces.people, kind="user")
            self._online.remove(traces.sessions, kind="session")
        self._state.replace_checkpoints()
        erasure.note_purged(self._state.store, number)
        self.purged = number

    def _append(self, entries: Sequence[Entry]) -> int:
        values = [encode_entry(entry, "json") for entry in entries]
        if self._seal is not None:
            values = self._seal.seal(values)
        return self._writer.append(self._options.kafka.topic, values, self.number)

    def _write_results(self, results: list[WindowResult]) -> None:
        for rows in encode_in_turn(erasure.drop_erased_results(results, self._suppressed)):
            self._write(self._options.features_topic, rows)

    def _write_late(self, late: list[LateEvent]) -> None:
        self._write(self._options.late_topic, encode_late(late))

    def _write_matches(self, matches: list[Match]) -> None:
        kept = erasure.drop_erased_matches(matches, self._suppressed)
        self._write(self._options.matches_topic, encode_matches(kept))

    def _write(self, topic: str | None, rows: list[Row]) -> None:
        assert topic is not None
        self.rows += len(rows)
        self._writer.write(topic, rows)


def purge_idle(options: JobOptions, definitions: Definitions, erasures: erasure.Erasures) -> None:
    """Delete erased users from unused states of former partitions on this host."""
    for folder in sorted((options.data / "partitions").glob(f"{options.kafka.topic}-*")):
        try:
            state = PartitionState(folder, patience_s=0.0)
        except StateError:
            continue  # its owner purges it
        try:
            if erasure.purged_number(state.store) < erasures.newest:
                # Not noted: its next owner has checkpoints and a copy to purge, too.
                erasure.purge_partition(state.store, folder, definitions, erasures, options.seal)
        finally:
            state.close()
