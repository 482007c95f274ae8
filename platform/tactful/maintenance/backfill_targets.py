"""The states of an installation, with the logs that they were computed from.

========  ===================================  ====================================================
log       state, in a data directory           computed from
========  ===================================  ====================================================
embedded  ``state``                            the log in files
kafka     ``state``, of a server               all partitions of the topic, merged
kafka     ``partitions/<topic>-<number>``,     that partition
          of workers
========  ===================================  ====================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.event_log.encryption import RecordSeal, log_in_files, open_seal
from tactful.event_log.log_offsets import LogOffsets
from tactful.event_log.merged_log import MergedLog, Span
from tactful.feature_workers.checkpoint_place import checkpoint_place
from tactful.metadata.connections import kafka_settings
from tactful.pipeline.backends import engine_options
from tactful.pipeline.online_features import own_definitions, shared_definitions
from tactful.schemas.positions import Offsets
from tactful.util.clock import now_ms
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.backfill import PartComputation
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.engine.schema_evolution import required_features
from tactful_streaming.errors import StateError
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.log.encrypted_log import SealedLog
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.rules.rules import load_rules
from tactful_streaming.state.key_layout import CONSUMER, read_meta
from tactful_streaming.state.partition_checkpoint import PartitionState
from tactful_streaming.state.store import RocksState, StateStore

_OFFSETS = "places"
_WAIT_S = 10.0  # longer than a healthy broker takes to deliver existing records


def require_state(settings: Settings) -> None:
    """Raise StorageError if the data directory has no state."""
    state = settings.storage.data / "state"
    folders = list((settings.storage.data / "partitions").glob(f"{settings.log.topic}-*/state"))
    on_kafka = not settings.log.in_files
    if not (state / "CURRENT").is_file() and not (on_kafka and folders):
        raise StorageError(
            f"{state}: there is no state; `tactful serve`{' or `tactful worker`' * on_kafka} "
            "begins one"
        )


@contextlib.contextmanager
def opened_parts(
    settings: Settings, definitions: Definitions, suppressed: Container[str] = frozenset()
) -> Iterator[Sequence[Part]]:
    """List the states in the data directory, with their logs open.

    Records of the keys in `suppressed`, those of erased users, are skipped. Without a state it
    raises StorageError, and StreamingError if the log cannot be used.
    """
    require_state(settings)
    state = settings.storage.data / "state"
    with contextlib.ExitStack() as stack:
        if settings.log.in_files:
            log = stack.enter_context(log_in_files(settings, clock=now_ms))
            yield [Part(settings, definitions, suppressed, log)]
            return
        seal = open_seal(settings, clock=now_ms)
        if seal is not None:
            stack.callback(seal.close)
        topic = stack.enter_context(KafkaLog(kafka_settings(settings.log)))
        parts: list[Part] = []
        if (state / "CURRENT").is_file():
            parts.append(_ServerPart(settings, definitions, suppressed, topic, seal, stack))
        numbers = [n for n in range(topic.partitions) if _folder(settings, n).is_dir()]
        if numbers and settings.identity.enabled and len(numbers) < topic.partitions:
            missing = sorted(set(range(topic.partitions)) - set(numbers))
            raise StorageError(
                f"{settings.storage.data} lacks the states of partitions "
                f"{', '.join(map(str, missing))}. Histories of devices move between partitions "
                "(identity.enabled), so all of them are computed together: give the workers of "
                "all hosts one data directory, or let one worker take all partitions from the "
                "checkpoints, then run this there"
            )
        parts += [
            _WorkerPart(settings, definitions, suppressed, topic, n, seal, stack) for n in numbers
        ]
        yield parts


class Part:
    """The state of a log in files, and the computation of its missing features."""

    number = 0  # partition of the state; 0 if it is of the whole log
    linked = False  # whether histories of devices move to it from other partitions

    def __init__(
        self,
        settings: Settings,
        definitions: Definitions,
        suppressed: Container[str],
        log: EventLog | None,
        scratch: str = "",
    ) -> None:
        """Compute the features of `definitions` in a scratch state below ``backfill``."""
        self.path = settings.storage.data / "state"
        self.scratch = settings.storage.data / "backfill" / scratch
        self.definitions = definitions
        self._settings = settings
        self._suppressed = suppressed
        self._log = log

    @property
    def begin(self) -> int:
        """Oldest offset of the log, as the state counts offsets."""
        return 0 if self._log is None else self._log.begin

    def computation(
        self, state: StateStore, scratch: StateStore, missing: Collection[str], offset: int
    ) -> PartComputation:
        """Begin or resume to compute features up to `offset`, that of `state`."""
        assert self._log is not None
        return PartComputation(
            self._log, scratch, self.definitions, missing, offset, self._options()
        )

    def _options(self) -> EngineOptions:
        return computing_options(self._settings, self._suppressed)

    def partition_of(self, key: str) -> int:
        """Return the partition of a key."""
        return 0

    def read(self) -> RocksState:
        """Open the state to read it beside its writer; the caller closes it."""
        return RocksState(self.path, read_only=True)

    def hold(self, stack: contextlib.ExitStack) -> StateStore:
        """Open the state exclusively until `stack` is closed."""
        state = RocksState(self.path)
        stack.callback(state.close)
        return state

    def merged(self) -> None:
        """Update copies of the state after a merge, while it is held; here there is none."""


class _ServerPart(Part):
    """The state of a server that reads all partitions as one log.

    State and scratch state hold the offset of each partition.
    """

    def __init__(
        self,
        settings: Settings,
        definitions: Definitions,
        suppressed: Container[str],
        topic: KafkaLog,
        seal: RecordSeal | None,
        stack: contextlib.ExitStack,
    ) -> None:
        own = definitions
        if settings.online.shared:
            own = own_definitions(definitions, patterns=settings.engine.kind == "flink")
        super().__init__(settings, own, suppressed, None, "server")
        self._partitions = topic.partitions
        self._seal = seal
        self._stack = stack

    def computation(
        self, state: StateStore, scratch: StateStore, missing: Collection[str], offset: int
    ) -> PartComputation:
        wanted = required_features(self.definitions, missing)
        meta = read_meta(scratch)
        if meta is not None and meta.fingerprint != wanted.fingerprint:
            scratch.clear()
            meta = None
        kafka = kafka_settings(self._settings.log)
        read = LogOffsets(kafka.topic)
        log = MergedLog(
            kafka,
            self._partitions,
            Span(
                begin=0 if meta is None else meta.offset,
                offsets=_offsets_in(scratch),
                bounded=True,
                ends=_offsets_in(state),
            ),
            opened=list if self._seal is None else self._seal.open,
            wait_s=_WAIT_S,
        )
        self._stack.callback(log.close)
        options = replace(self._options(), consumers={_OFFSETS: read})
        part = PartComputation(log, scratch, self.definitions, missing, None, options)
        read.offsets = lambda: log.reached
        return part


class _WorkerPart(Part):
    """The state of one partition, of a worker."""

    def __init__(
        self,
        settings: Settings,
        definitions: Definitions,
        suppressed: Container[str],
        topic: KafkaLog,
        number: int,
        seal: RecordSeal | None,
        stack: contextlib.ExitStack,
    ) -> None:
        several = topic.partitions > 1
        own = shared_definitions(definitions) if several else definitions
        partition = KafkaPartition(topic, number, wait_s=_WAIT_S)
        stack.callback(partition.close)
        log: EventLog = partition if seal is None else SealedLog(partition, seal)
        self._folder = _folder(settings, number)
        super().__init__(settings, own, suppressed, log, self._folder.name)
        self.path = self._folder / "state"
        self.number = number
        self.linked = several and settings.identity.enabled
        self._topic = topic
        self._held: PartitionState | None = None

    def _options(self) -> EngineOptions:
        options = replace(super()._options(), partition=self.number)
        return replace(options, partition_of=self._topic.partition_of) if self.linked else options

    def hold(self, stack: contextlib.ExitStack) -> StateStore:
        opened = checkpoint_place(self._settings)
        try:
            self._held = PartitionState(
                self._folder,
                checkpoints=None if opened is None else opened(self._folder.name),
                patience_s=0.0,
            )
        except StateError as error:
            raise StorageError(str(error)) from error
        stack.callback(self._held.close)
        return self._held.store

    def partition_of(self, key: str) -> int:
        return self._topic.partition_of(key)

    def merged(self) -> None:
        """Replace the checkpoints, which are of the same offset."""
        assert self._held is not None
        self._held.replace_checkpoints()


def computing_options(settings: Settings, suppressed: Container[str]) -> EngineOptions:
    """Build the options of an engine, with rules of its own that have no state."""
    options = replace(engine_options(settings), suppressed=suppressed)
    if settings.engine.rules != Path():
        options = replace(options, cleaner=load_rules(settings.engine.rules))
    return options


def _folder(settings: Settings, number: int) -> Path:
    return settings.storage.data / "partitions" / f"{settings.log.topic}-{number}"


def _offsets_in(state: StateStore) -> Offsets:
    """Read the offsets of partitions in a state."""
    stored = state.get(CONSUMER + _OFFSETS.encode())
    if stored is None:
        return {}
    try:
        _, offsets = msgspec.msgpack.decode(stored, type=tuple[str, dict[int, int]])
    except DECODE_ERRORS as error:
        raise StorageError(f"the offsets in a state are damaged: {error}") from error
    return offsets
