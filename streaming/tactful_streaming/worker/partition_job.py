"""The work on one partition of the log by its owner: engine, state, and all that follows from it.

A commit first makes visible what fired, then stores the state with its offset. After a crash in
between, what fired is computed and published again: the same rows under the same keys. The same
holds for the copy in an online store, which may be written some time before the commit. Actions,
ticks and what other partitions have to know go into the log after the state that wants them is
stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from tactful_streaming.contract.log_entries import Entry, Tick, encode_entry, route_key
from tactful_streaming.contract.record_batch import Record, Records, payloads_of
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions, emitted_types
from tactful_streaming.engine.batches import Applied
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions, LateEvent
from tactful_streaming.errors import LogError, StateError
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import check_topic
from tactful_streaming.kafka.transactional_producer import TransactionalProducer
from tactful_streaming.log.dead_letters import DeadLetter, DeadLetters
from tactful_streaming.log.encrypted_log import Seal
from tactful_streaming.online.fenced_store import OpenOnline, PartitionView
from tactful_streaming.patterns.match import Match
from tactful_streaming.rules.rules import Cleaner
from tactful_streaming.state.partition_checkpoint import PartitionState
from tactful_streaming.windows.triggers import WindowResult
from tactful_streaming.worker.erasure import (
    Erasures,
    is_erased,
    note_purged,
    purge_partition,
    purged_number,
    without_fired,
    without_matches,
)
from tactful_streaming.worker.output_rows import encode_in_turn, encode_late, encode_matches

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobOptions:
    """What the work on each partition has in common.

    Attributes:
        kafka: where the log lies.
        data: folder for states on this host.
        group: consumer group of the workers, and the beginning of the names they write under.
        features_topic: where fired windows go; None: nothing fires.
        matches_topic: where matches of sequences and pairs of joins go; None: nowhere.
        late_topic: where events go that came too late for a feature; None: nowhere.
        topic_id: the id of the log's topic, so that one that was deleted and made anew is noticed;
            None: it is not.
        checkpoints: folder for checkpoints that all hosts share; None: none are made.
        dead_letter_ms: age at which events that rules set aside may be forgotten, milliseconds;
            None: never.
        dedupe_days: as of :class:`~tactful_streaming.Engine`.
        watermark_delay_ms: likewise.
        allowed_lateness_ms: likewise.
        memory_bytes: for the entities of each partition, as of the engine.
        identity: likewise.
        patience_s: how long to wait for the former owner of a state on this host, seconds.
    """

    kafka: KafkaSettings
    data: Path
    group: str = "tactful-worker"
    features_topic: str | None = None
    matches_topic: str | None = None
    late_topic: str | None = None
    topic_id: str | None = None
    checkpoints: Path | None = None
    dead_letter_ms: int | None = None
    dedupe_days: int = 7
    watermark_delay_ms: int = 0
    allowed_lateness_ms: int = 300_000
    memory_bytes: int | None = None
    identity: Identity | None = None
    patience_s: float = 30.0


class PartitionJob:
    """One partition at work. One thread uses it."""

    def __init__(
        self,
        number: int,
        definitions: Definitions,
        options: JobOptions,
        *,
        online: OpenOnline | None = None,
        cleaner: Cleaner | None = None,
        erasures: Erasures | None = None,
        seal: Seal | None = None,
    ) -> None:
        """Open the state of partition `number`, and shut its former owners out.

        Args:
            number: which partition.
            definitions: what to compute.
            options: where and how.
            online: opens the copy for processes that serve.
            cleaner: judges each event before it counts; of this partition alone. What it sets
                aside is kept beside the state.
            erasures: who was erased: what is stored of them is removed before anything else, and
                nothing of them counts any more.
            seal: opens what is sealed in the log, and seals what goes there.

        Raises:
            StateError: if the state is damaged, or a process on this host keeps it.
            TopicError: if the state is of a topic that is gone.
            LogError: if no broker answers.
        """
        self._number = number
        self._options = options
        self._seal = seal
        self._suppressed: Container[str] = frozenset()
        if erasures is not None:
            self._suppressed = erasures.suppressed
        self._purged = 0
        name = f"{options.kafka.topic}-{number}"
        folder = options.data / "partitions" / name
        checkpoints = None if options.checkpoints is None else options.checkpoints / name
        self._state = PartitionState(
            folder,
            checkpoints=checkpoints,
            patience_s=options.patience_s,
        )
        self._online: PartitionView | None = None
        self._producer: TransactionalProducer | None = None
        self._dead_letters: DeadLetters | None = None
        self._refused: list[DeadLetter] = []
        self.rows = 0
        try:
            check_topic(
                self._state.store,
                options.topic_id,
                fresh=self._state.offset == 0,
                where=f"topic {options.kafka.topic!r} and the state in {folder}",
                cure="move the state and its checkpoints away",
            )
            purged = None
            if erasures is not None:
                self._purged = purged_number(self._state.store)
                if self._purged < erasures.newest:
                    purged = purge_partition(self._state.store, folder, definitions, erasures, seal)
            if cleaner is not None:
                self._dead_letters = DeadLetters.open(
                    folder / "dead-letters", retention_ms=options.dead_letter_ms, seal=seal
                )
            self._producer = TransactionalProducer(options.kafka, f"{options.group}.{name}")
            if online is not None:
                self._online = online(number, self._state.store, self._state.offset)
            if purged is not None:
                self._finish_purge(*purged)
            if erasures is not None:
                erasures.purged(f"{options.group}.{name}", self._purged)
            self._partition_of: Callable[[str], int] | None = None
            if options.identity is not None:
                self._partition_of = self._producer.partition_of(options.kafka.topic)
            self._engine = Engine(
                definitions,
                self._state.store,
                EngineOptions(
                    dedupe_days=options.dedupe_days,
                    watermark_delay_ms=options.watermark_delay_ms,
                    allowed_lateness_ms=options.allowed_lateness_ms,
                    cleaner=cleaner,
                    online=self._online,
                    partition=number,
                    memory_bytes=options.memory_bytes,
                    identity=options.identity,
                    suppressed=self._suppressed,
                    partition_of=self._partition_of,
                    on_results=self._fired if options.features_topic is not None else None,
                    on_late=self._came_late if options.late_topic is not None else None,
                    on_match=self._matched if options.matches_topic is not None else None,
                    on_dead_letter=self._refused.extend if cleaner is not None else None,
                ),
            )
            self._end = self._find_end() if emitted_types(definitions) else 0
        except BaseException:
            self.close()
            raise
        self._committed = self._engine.offset
        self._ticked = 0

    @property
    def number(self) -> int:
        """Which partition."""
        return self._number

    @property
    def offset(self) -> int:
        """Next offset to apply."""
        return self._engine.offset

    @property
    def watermark(self) -> int:
        """Of the partition, epoch milliseconds."""
        return self._engine.watermark

    @property
    def engine(self) -> Engine:
        """The engine, to read features of."""
        return self._engine

    @property
    def purged(self) -> int:
        """Number of the last erasure of which nothing is kept here."""
        return self._purged

    def apply(self, records: Sequence[Record]) -> Applied:
        """Count records of the log."""
        if self._seal is not None:
            payloads = self._seal.open(payloads_of(records))
            records = Records([offset for offset, _ in records], payloads)
        return self._engine.apply(records)

    def publish(self) -> None:
        """Copy what was applied to the online store, if there is one, ahead of the next commit."""
        self._engine.publish()

    def commit(self) -> int:
        """Publish what fired and store the state.

        Returns:
            The offset up to which everything is durable.

        Raises:
            FencedError: if another process owns the partition now.
            LogError: if the rows cannot be published; nothing was stored.
            StateError: if the disk refused; the rows are published, and come again.
        """
        if self._engine.offset != self._committed:
            assert self._producer is not None
            self._producer.commit()
            if self._dead_letters is not None:
                self._dead_letters.add(self._refused)
                self._refused.clear()
            self._engine.commit()
            if self._online is not None:
                self._online.committed()
            self._committed = self._engine.offset
        return self._committed

    def append_actions(self) -> int:
        """Append committed actions to the log, where they are not there already.

        Returns:
            How many.

        Raises:
            LogError: as :meth:`commit`; they are appended later, or were.
        """
        if self._engine.offset < self._end:
            return 0
        waiting = self._engine.outbox()
        # One that was in the same batch as its cause, in a replay, is in the log already.
        actions = [
            action
            for action in waiting
            if not (self._engine.seen(action.event_id) or is_erased(action, self._suppressed))
        ]
        if actions:
            self._append(actions)
        self._engine.sent(waiting)
        return len(actions)

    def append_handovers(self) -> int:
        """Append what is committed and is for other partitions to these.

        Returns:
            How many entries.

        Raises:
            FencedError: as :meth:`commit`.
            LogError: likewise; they are appended later, or were. To append them again is harmless.
        """
        waiting = self._engine.transfers.ready()
        if not waiting:
            return 0
        assert self._producer is not None and self._partition_of is not None
        for entry in waiting.values():
            if is_erased(entry, self._suppressed):
                continue
            key = route_key(entry)
            assert key is not None
            row = key.encode(), encode_entry(entry, "json")
            if self._seal is not None:
                row = b"", self._seal.seal([row[1]])[0]
            self._producer.write(self._options.kafka.topic, [row], self._partition_of(key))
        self._producer.commit()
        self._engine.transfers.discard(waiting)
        return len(waiting)

    def tick(self, now: int) -> bool:
        """Let the clock speak in the log, if something waits for a time that has come.

        Args:
            now: epoch milliseconds.

        Returns:
            Whether there was a reason.

        Raises:
            LogError: as :meth:`commit`.
        """
        timer = self._engine.next_timer()
        due = timer is not None and timer + self._options.watermark_delay_ms <= now
        # One is enough, until it has been met in the log.
        if not due or self._ticked > self._engine.watermark + self._options.watermark_delay_ms:
            return False
        self._append([Tick(timestamp=now)])
        self._ticked = now
        return True

    def append_tick(self, timestamp: int) -> int:
        """Append a tick of that time, epoch milliseconds.

        Returns:
            The offset behind it.

        Raises:
            LogError: as :meth:`commit`.
        """
        return self._append([Tick(timestamp=timestamp)]) + 1

    def checkpoint(self) -> None:
        """Write a checkpoint of the committed state, where the options name a folder for them.

        Dead letters that are too old go, too.
        """
        if self._dead_letters is not None:
            try:
                self._dead_letters.trim()
            except (LogError, OSError) as error:
                _logger.warning("old dead letters stay for now: %s", error)
        if self._options.checkpoints is None:
            return
        try:
            self._state.checkpoint()
        except StateError as error:
            _logger.warning("no checkpoint was written; the one before holds: %s", error)

    def close(self) -> None:
        """Release everything; what was not committed is computed again by the next owner."""
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
        """Remove from the copy and from checkpoints what was removed from the state."""
        if self._online is not None:
            self._online.remove(traces.people, kind="user")
            self._online.remove(traces.sessions, kind="session")
        self._state.replace_checkpoints()
        note_purged(self._state.store, number)
        self._purged = number

    def _find_end(self) -> int:
        """Where the log ended when the partition became ours.

        Actions of a former owner are before it. A tick that moves no clock finds it: brokers are
        not asked, whose answer may leave out what is there.
        """
        return self.append_tick(0)

    def _append(self, entries: Sequence[Entry]) -> int:
        assert self._producer is not None
        values = [encode_entry(entry, "json") for entry in entries]
        if self._seal is not None:
            values = self._seal.seal(values)
        return self._producer.append(self._options.kafka.topic, values, self._number)

    def _fired(self, fired: list[WindowResult]) -> None:
        assert self._producer is not None and self._options.features_topic is not None
        for rows in encode_in_turn(without_fired(fired, self._suppressed)):
            self.rows += len(rows)
            self._producer.write(self._options.features_topic, rows)

    def _came_late(self, late: list[LateEvent]) -> None:
        assert self._producer is not None and self._options.late_topic is not None
        rows = encode_late(late)
        self.rows += len(rows)
        self._producer.write(self._options.late_topic, rows)

    def _matched(self, matches: list[Match]) -> None:
        assert self._producer is not None and self._options.matches_topic is not None
        rows = encode_matches(without_matches(matches, self._suppressed))
        self.rows += len(rows)
        self._producer.write(self._options.matches_topic, rows)


def purge_idle(
    options: JobOptions, definitions: Definitions, erasures: Erasures, seal: Seal | None = None
) -> None:
    """Erase people from states on this host that nobody uses: of partitions that went elsewhere.

    Args:
        options: where states lie, and of which topic.
        definitions: what they are computed by.
        erasures: who was erased.
        seal: opens dead letters that are sealed.

    Raises:
        StateError: if one is damaged.
    """
    for folder in sorted((options.data / "partitions").glob(f"{options.kafka.topic}-*")):
        try:
            state = PartitionState(folder, patience_s=0.0)
        except StateError:
            continue  # its owner does it
        try:
            if purged_number(state.store) < erasures.newest:
                # Not noted: its next owner has checkpoints and a copy to purge, too.
                purge_partition(state.store, folder, definitions, erasures, seal)
        finally:
            state.close()
