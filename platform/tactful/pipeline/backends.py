"""The log, engine and online store of a server, opened as the settings say.

========  =======  ==============================================================================
log       online
========  =======  ==============================================================================
embedded  engine   everything in this process
embedded  redis    likewise, with a copy of the features in Redis for other processes
kafka     engine   this process reads all partitions of the topic and computes everything
kafka     redis    workers compute features of users and sessions, and copy them to Redis;
                   this process computes the others
========  =======  ==============================================================================
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from operator import methodcaller
from pathlib import Path

from tactful.catalogue.request_context import FeatureSource
from tactful.config.engine import EngineSettings
from tactful.config.identity import identity_of
from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.event_log.encryption import open_seal
from tactful.event_log.log_offsets import LOG_OFFSETS, LogOffsets
from tactful.event_log.merged_log import AppliedLog, MergedLog, SinglePartitionLog, Span
from tactful.metadata.connections import kafka_settings, make_log_topic, open_redis, retention_ms
from tactful.pipeline.applier import DeadLetterBuffer
from tactful.pipeline.online_features import SharedFeatures, own_definitions
from tactful.schemas.positions import Offsets, Position, as_text, merged
from tactful.util.clock import now_ms
from tactful.util.machine_memory import machine_memory, own_memory
from tactful_streaming.contract.log_entries import Entry, EntryFormat, encode_entry, route_key
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import CoCommittedConsumer, EngineOptions
from tactful_streaming.errors import LogError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.topics import check_partitions, check_topic, topic_id
from tactful_streaming.log.dead_letters import DeadLetters
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import SealedLog, SealedPartitions
from tactful_streaming.log.event_log import EventLog, PartitionedLog
from tactful_streaming.log.group_commit import Commit, GroupCommit, KeyedCommit
from tactful_streaming.log.outage_spool import Spool
from tactful_streaming.online.mirror import stored_blobs
from tactful_streaming.online.write_behind import WriteBehind
from tactful_streaming.rules.rules import Rules, load_rules
from tactful_streaming.state.store import RocksState

logger = logging.getLogger(__name__)

_DEAD_LETTERS = "dead-letters"
_LATE = "late"
_PROBE_S = 1.0
_MEBIBYTE = 1 << 20
_MOST_BYTES = 2048 * _MEBIBYTE


@dataclass(frozen=True)
class Backend:
    """An opened log and engine."""

    engine: Engine
    state: RocksState  # store of the engine's state; only the engine writes to it
    source: FeatureSource  # features that recommendations read
    followed: AppliedLog  # the log, as the engine reads it
    commit: Commit  # the log, as ingestion appends to it
    append: Callable[[Sequence[Entry]], None]
    ends: Callable[[], Offsets]  # known ends of the log by partition
    show: Callable[[Offsets], Position]  # converts offsets to the position that clients get
    format: EntryFormat
    # Open the partitions of the log: until the backend is closed, or for one search
    partitions: Callable[[], Sequence[EventLog]]
    searched: Callable[[], AbstractContextManager[Sequence[EventLog]]]
    letters: DeadLetterBuffer
    dead_letters: DeadLetters
    waiting_bytes: Callable[[], int]  # bytes accepted and not durable in the log yet
    trim: Callable[[int], object] = lambda needed: None  # applies retention before an offset
    problem: Callable[[], str | None] = lambda: None  # message while the log cannot be used
    # Message while the disk refuses all events; it tries the disk, at most once a second
    unwritable: Callable[[], str | None] = lambda: None
    spooled: Callable[[], int] = lambda: 0  # records that wait on disk for an absent broker
    late: DeadLetters | None = None  # log of late events, if they are kept
    rules: Rules | None = None
    shared: SharedFeatures | None = None  # features of users, if workers compute them
    copied: WriteBehind | None = None  # copy in the online store, if this process writes it
    # Logs in files that this process writes, by folder in the data directory
    written: Mapping[str, EmbeddedLog] = field(default_factory=dict)


def memory_limit(settings: EngineSettings) -> int | None:
    """Return the memory that a process with engines may take, bytes; None for any."""
    if settings.memory_mb == "auto":
        return min(machine_memory() // 4, _MOST_BYTES)
    return settings.memory_mb * _MEBIBYTE or None


def engine_options(settings: Settings) -> EngineOptions:
    """Build the options of every engine of the installation, also of a backfill.

    Raises:
        ConfigError: if the settings of identity contradict each other.
    """
    return EngineOptions(
        dedupe_days=settings.engine.dedupe_days,
        watermark_delay_ms=settings.engine.watermark_delay_ms,
        allowed_lateness_ms=settings.engine.allowed_lateness_ms,
        identity=identity_of(settings.identity),
    )


def open_backend(
    settings: Settings,
    definitions: Definitions,
    stack: contextlib.ExitStack,
    *,
    consumers: Mapping[str, CoCommittedConsumer],
    suppressed: Container[str] = frozenset(),
    rebuild: bool = False,
) -> Backend:
    """Open log, engine and online store; everything opened is closed with `stack`.

    Raises:
        ConfigError: if a secret is missing, or an address is invalid.
        StorageError: if the state was computed from another log.
        StreamingError: if log, state or rules cannot be used.
    """
    opening = _Opening(settings, definitions, stack, consumers, suppressed, rebuild)
    return opening.embedded() if settings.log.in_files else opening.kafka()


class DiskProbe:
    """Cached result of trying to write to the log; used by any thread."""

    def __init__(
        self, probe: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Try with `probe`, which raises LogError if the disk refuses."""
        self._probe = probe
        self._clock = clock
        self._tried_at = -math.inf
        self._problem: str | None = None

    def problem(self) -> str | None:
        """Return why the disk refuses; None if it accepts. It is tried at most once a second."""
        now = self._clock()
        if now - self._tried_at >= _PROBE_S:
            self._tried_at = now
            try:
                self._probe()
                self._problem = None
            except LogError as error:
                number = getattr(error, "errno", None)
                reason = os.strerror(number) if number else "repair it and restart the server"
                self._problem = f"events are refused, the disk cannot be written: {reason}"
        return self._problem


@dataclass
class _Opening:
    """Arguments of `open_backend`, with what both kinds of backend need."""

    settings: Settings
    definitions: Definitions
    stack: contextlib.ExitStack
    consumers: Mapping[str, CoCommittedConsumer]
    suppressed: Container[str]
    rebuild: bool

    def __post_init__(self) -> None:
        rules = self.settings.engine.rules
        self.rules = None if rules == Path() else load_rules(rules)
        if self.rules is not None and any(c.independent for c in self.consumers.values()):
            _warn_of_shared_keys(rules, self.rules)
        self.seal = open_seal(self.settings, clock=now_ms)
        if self.seal is not None:
            self.stack.callback(self.seal.close)
        self.dead_letters = self._open_letters(_DEAD_LETTERS)
        self.late = self._open_letters(_LATE) if self.settings.engine.keep_late else None
        self.letters = DeadLetterBuffer(self.dead_letters, self.late)

    def _open_letters(self, name: str) -> DeadLetters:
        letters = DeadLetters.open(
            self.settings.storage.data / name,
            retention_ms=retention_ms(self.settings.engine.dead_letter_days),
            durability=self.settings.storage.durability,
            seal=self.seal,
        )
        self.stack.callback(letters.close)
        return letters

    def embedded(self) -> Backend:
        settings, stack = self.settings, self.stack
        data = settings.storage.data
        log = EmbeddedLog(
            data / "log",
            durability=settings.storage.durability,
            retention_ms=retention_ms(settings.log.retention_days),
            retention_bytes=settings.log.retention_bytes or None,
        )
        stack.callback(log.close)
        sealed: EventLog = log if self.seal is None else SealedLog(log, self.seal)
        state = RocksState(data / "state")
        copied: WriteBehind | None = None
        if settings.online.shared:
            copied = WriteBehind(
                open_redis(settings.online, self.definitions),
                lambda: stored_blobs(state),
                max_bytes=settings.online.waiting_bytes,
            )
        engine = self._engine(self.definitions, state, self.consumers, copied)
        if engine.offset > log.end:
            raise StorageError(
                f"{data}: the engine's state is ahead of the log, so a part of the log is "
                "lost: restore it from a backup, or compute the features again "
                "from what is left with `tactful serve --rebuild`"
            )
        commit = GroupCommit(sealed, max_waiting_bytes=settings.limits.pending_bytes)

        def append(entries: Sequence[Entry]) -> None:
            sealed.append([encode_entry(entry) for entry in entries])

        return Backend(
            engine=engine,
            state=state,
            source=engine,
            followed=SinglePartitionLog(sealed, max(engine.offset, log.begin)),
            commit=commit,
            append=append,
            ends=lambda: {0: log.end},
            show=methodcaller("get", 0, 0),  # the offset in partition 0
            format="msgpack",
            partitions=lambda: [sealed],
            searched=lambda: contextlib.nullcontext([sealed]),
            letters=self.letters,
            dead_letters=self.dead_letters,
            late=self.late,
            rules=self.rules,
            trim=log.trim,
            waiting_bytes=lambda: commit.waiting_bytes,
            unwritable=DiskProbe(log.probe).problem,
            copied=copied,
            written=self._written(log),
        )

    def _written(self, log: EmbeddedLog | None = None) -> Mapping[str, EmbeddedLog]:
        logs = {"log": log, _DEAD_LETTERS: self.dead_letters.log}
        if self.late is not None:
            logs[_LATE] = self.late.log
        return {name: kept for name, kept in logs.items() if isinstance(kept, EmbeddedLog)}

    def kafka(self) -> Backend:
        settings, stack = self.settings, self.stack
        kafka = kafka_settings(settings.log)
        count = make_log_topic(settings.log, kafka)
        log = KafkaLog(kafka, max_waiting_bytes=settings.limits.pending_bytes)
        stack.callback(log.close)
        spool = self._spool(log)
        target: PartitionedLog = log if spool is None else spool
        waits: KafkaLog | SealedPartitions = log
        if self.seal is not None:
            target = waits = SealedPartitions(
                target, self.seal, max_waiting_bytes=settings.limits.pending_bytes
            )
            stack.callback(waits.close)
        state = RocksState(settings.storage.data / "state")
        engine, followed = self._topic_engine(kafka, count, state)
        shared = self._shared_features(engine, count) if settings.online.shared else None

        def append(entries: Sequence[Entry]) -> None:
            payloads = [encode_entry(entry, "json") for entry in entries]
            target.submit(payloads, [route_key(entry) for entry in entries]).result()

        def ends() -> Offsets:
            known = {number: log.known_end(number) for number in range(count)}
            return merged((followed.ends, known))

        def opened(until: contextlib.ExitStack) -> Sequence[EventLog]:
            closing = map(contextlib.closing, map(log.partition, range(count)))
            partitions = [until.enter_context(partition) for partition in closing]
            if self.seal is None:
                return partitions
            return [SealedLog(partition, self.seal) for partition in partitions]

        @contextlib.contextmanager
        def searched() -> Iterator[Sequence[EventLog]]:
            with contextlib.ExitStack() as search:
                yield opened(search)

        return Backend(
            engine=engine,
            state=state,
            source=engine if shared is None else shared,
            followed=followed,
            commit=KeyedCommit(target),
            append=append,
            ends=ends,
            show=as_text,
            format="json",
            partitions=lambda: opened(stack),
            searched=searched,
            letters=self.letters,
            dead_letters=self.dead_letters,
            late=self.late,
            rules=self.rules,
            problem=lambda: None if log.problem is None else "the event log cannot be reached",
            waiting_bytes=lambda: waits.waiting_bytes,
            spooled=lambda: 0 if spool is None else spool.waiting,
            written=self._written(),
            shared=shared,
        )

    def _spool(self, log: KafkaLog) -> Spool | None:
        if self.settings.log.on_outage != "spool":
            return None
        spool = Spool(
            log,
            self.settings.storage.data / "spool",
            max_bytes=self.settings.log.spool_bytes,
            durability=self.settings.storage.durability,
        )
        self.stack.callback(spool.close)
        return spool

    def _topic_engine(
        self, kafka: KafkaSettings, partitions: int, state: RocksState
    ) -> tuple[Engine, MergedLog]:
        """Open the engine, check that its state is of the topic, and resume reading."""
        data, computed = self.settings.storage.data, self.definitions
        if self.settings.online.shared:
            patterns = self.settings.engine.kind == "flink"
            computed = own_definitions(computed, patterns=patterns)
        read = LogOffsets(kafka.topic)
        engine = self._engine(computed, state, {**self.consumers, LOG_OFFSETS: read}, None)
        if read.topic != kafka.topic or (engine.offset and not read.offsets()):
            raise StorageError(
                f"{data}: the engine's state is of another log than topic {kafka.topic!r}: name "
                "another data directory, or compute it again with `tactful serve --rebuild`"
            )
        known = topic_id(kafka)
        check_topic(
            state,
            known,
            fresh=engine.offset == 0,
            where=f"topic {kafka.topic!r} and the state in {data}",
            cure="start `tactful serve --rebuild`",
        )
        if self.settings.online.shared:  # users are read where their partitions' workers write
            check_partitions(state, kafka, partitions, fresh=engine.offset == 0)
        followed = MergedLog(
            kafka,
            partitions,
            Span(begin=engine.offset, offsets=read.offsets()),
            opened=list if self.seal is None else self.seal.open,
            topic_id=known,
        )
        self.stack.callback(followed.close)
        read.offsets = lambda: followed.reached
        return engine, followed

    def _shared_features(self, engine: Engine, partitions: int) -> SharedFeatures:
        online = open_redis(
            self.settings.online,
            self.definitions,
            partitions=partitions,
            attempts=1,
            timeout_s=0.5,
        )
        shared = SharedFeatures(engine, self.definitions, online)
        self.stack.callback(shared.close)
        return shared

    def _engine(
        self,
        definitions: Definitions,
        state: RocksState,
        consumers: Mapping[str, CoCommittedConsumer],
        copied: WriteBehind | None,
    ) -> Engine:
        try:
            options = replace(
                engine_options(self.settings),
                memory_bytes=memory_limit(self.settings.engine),
                # The memory of a process of several tenants is not that of one engine.
                resident=None if self.settings.tenants.name else own_memory,
                consumers=consumers,
                suppressed=self.suppressed,
                cleaner=self.rules,
                memoryless=None if self.rules is None else self.rules.without_memory(),
                online=copied,
                rebuild=self.rebuild,
                on_dead_letter=self.letters.note,
                on_late=self.letters.note_late,
            )
            opened = Engine(definitions, state, options)
        except BaseException:
            if copied is not None:
                copied.close(0.0)
            state.close()
            raise
        self.stack.callback(opened.close)
        if copied is not None:
            self.stack.callback(copied.close)  # before the state, from which it may be refilled
        return opened


def _warn_of_shared_keys(path: Path, rules: Rules) -> None:
    shared = [rule.name for rule in rules.rules if rule.looks_across_users]
    if shared:
        logger.warning(
            "%s: no user is in the keys of %s, so events of one user decide about those of others:"
            " add `subject` to `by` or `same`. Published statistics do not follow these rules, nor"
            " others that look at earlier events",
            path,
            ", ".join(shared),
        )
