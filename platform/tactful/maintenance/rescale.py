"""Move the states of workers to a log with another number of partitions.

The log continues in a new topic, in which users are routed by the new number. The old topic and
states are unchanged, so one can go back. The new states are built in a folder of their own and
put in place by one rename.

A killed run resumes: ``rescaling.json`` holds the offsets to which the old partitions were drained,
and the first new state the number of moved keys.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from tactful.config.settings import Settings
from tactful.errors import ConfigError, StorageError
from tactful.feature_workers.prepare import prepare_worker
from tactful.metadata.connections import kafka_settings, make_topic
from tactful.metadata.directory_lock import open_directory
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file, sync
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.rescale import Progress, rescale
from tactful_streaming.errors import StateError
from tactful_streaming.kafka.client import import_kafka
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.log.encrypted_log import Seal
from tactful_streaming.state.key_layout import read_meta
from tactful_streaming.state.partition_checkpoint import PartitionState
from tactful_streaming.state.store import RocksState
from tactful_streaming.worker.erasure import Erasures
from tactful_streaming.worker.worker import Worker

_STATES = "partitions"
_DRAFT = "partitions.rescaling"
_NOTE = "rescaling.json"
_WAIT_S = 1.0


@dataclass(frozen=True)
class Target:
    """The new log."""

    topic: str  # name of the new topic, created on demand; it must be empty
    partitions: int
    data: Path  # data directory of its workers


class Drained(msgspec.Struct, frozen=True):
    """Drained partitions of the old topic, and the new topic."""

    source: str  # old topic
    topic: str  # new topic
    partitions: int
    ends: list[int]  # end offset of each old partition


def rescale_workers(
    settings: Settings,
    definitions: Definitions,
    target: Target,
    *,
    matches_topic: str | None = None,  # topic of matches, as for workers
    erasures: Erasures | None = None,  # erased users, as for workers
    seal: Seal | None = None,  # opens and seals records, as for workers
    progress: Progress = lambda moved, total: None,
    stop: Callable[[], bool] = lambda: False,  # polled; True interrupts
    patience_s: float = 60.0,  # time to wait for all partitions of the consumer group, seconds
) -> Drained | None:
    """Move the states of all partitions of the log to those of a new topic.

    Servers and workers must be stopped; otherwise it fails and leaves no new states. After a crash,
    call it again with the same arguments. It returns None if it was stopped.

    Raises:
        ConfigError: if the target is the source.
        StorageError: if the target is in use, or a server or worker runs.
        StreamingError: if the log or a state cannot be used.
    """
    kafka = kafka_settings(settings.log)
    _check(settings, target)
    note = target.data / _NOTE
    drained = _read_note(note)
    wanted = (kafka.topic, target.topic, target.partitions)
    fits = drained is not None and wanted == (drained.source, drained.topic, drained.partitions)
    if (target.data / _STATES).exists():
        if fits and drained is not None and not (target.data / _DRAFT).exists():
            note.unlink()  # killed after the last step
            return drained
        problem = "states exist already: name a new data directory"
        raise StorageError(f"{target.data / _STATES}: {problem}")
    new = replace(kafka, topic=target.topic)
    _make_empty_topic(settings, new, target.partitions)
    if drained is None or not fits or not _is_at_end(kafka, drained):
        make = partial(
            prepare_worker, settings, definitions, matches_topic, erasures, seal, resized=True
        )
        drained = _drain(settings, target, make, stop=stop, patience_s=patience_s)
        if drained is None:
            return None
    with contextlib.ExitStack() as stack:
        sources = _open_sources(settings, kafka, drained, stack)
        with contextlib.ExitStack() as opened:
            targets = [
                RocksState(target.data / _DRAFT / f"{new.topic}-{number}" / "state", sync=True)
                for number in range(target.partitions)
            ]
            for state in targets:
                opened.callback(state.close)
            if not all(_is_whole(state) for state in targets):
                # The partitioner of ingestion and of every Kafka client.
                murmur2 = import_kafka().murmur2
                rescale(
                    sources,
                    targets,
                    lambda key: int(murmur2(key.encode(), target.partitions)),
                    progress=progress,
                )
        if not _is_at_end(kafka, drained):
            note.unlink()
            raise StorageError(
                f"topic {kafka.topic!r} received records after its partitions were drained, so "
                "nothing was changed: stop the servers and workers, and run this again"
            )
        _publish(target.data)
    note.unlink()
    return drained


def _check(settings: Settings, target: Target) -> None:
    if target.topic == settings.log.topic:
        raise ConfigError(
            f"--topic {target.topic!r} is the present topic, which routes users by the old number "
            "of partitions; name a new one"
        )
    if target.data.absolute() == settings.storage.data.absolute():
        raise ConfigError(f"--into {target.data} is the present data directory; name a new one")


def _make_empty_topic(settings: Settings, kafka: KafkaSettings, partitions: int) -> None:
    count = make_topic(settings.log, kafka, partitions=partitions)
    if count != partitions:
        raise StorageError(
            f"topic {kafka.topic!r} exists with {count} partitions: name another one, or ask for "
            f"{count}"
        )
    for partition in _opened(kafka, partitions):
        if partition.begin or partition.read(0, 1):
            raise StorageError(
                f"topic {kafka.topic!r} holds records: the states begin with the first record of a "
                "new topic, so name an empty one"
            )


def _drain(
    settings: Settings,
    target: Target,
    prepare: Callable[[], Callable[[int], Worker]],
    *,
    stop: Callable[[], bool],
    patience_s: float,
) -> Drained | None:
    """Apply all old partitions to their ends and to one time, and write the offsets."""
    shutil.rmtree(target.data / _DRAFT, ignore_errors=True)
    (target.data / _NOTE).unlink(missing_ok=True)
    kafka = kafka_settings(settings.log)
    count = make_topic(settings.log, kafka)
    for folder in sorted((settings.storage.data / _STATES).glob(f"{kafka.topic}-*")):
        _open_idle(folder).close()
    worker = prepare()(0)
    try:
        if not worker.drain(count, patience_s=patience_s, stop=stop):
            worker.close()
            return None
        ends = [worker.jobs[number].offset for number in range(count)]
        worker.close()
    except BaseException:
        worker.abandon()
        raise
    drained = Drained(kafka.topic, target.topic, target.partitions, ends)
    open_directory(target.data)
    replace_file(target.data / _NOTE, msgspec.json.encode(drained))
    return drained


def _read_note(path: Path) -> Drained | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Drained)
    except (FileNotFoundError, *DECODE_ERRORS):
        return None


def _open_idle(folder: Path) -> PartitionState:
    try:
        return PartitionState(folder, patience_s=0.0)
    except StateError as error:
        raise StorageError(f"{error}. Stop all workers, and run this again") from error


def _open_sources(
    settings: Settings, kafka: KafkaSettings, drained: Drained, stack: contextlib.ExitStack
) -> list[RocksState]:
    sources = []
    for number, end in enumerate(drained.ends):
        state = _open_idle(settings.storage.data / _STATES / f"{kafka.topic}-{number}")
        stack.callback(state.close)
        if state.offset != end:
            raise StorageError(
                f"{settings.storage.data}: the state of partition {number} is at offset "
                f"{state.offset} instead of {end}, to which it was drained: a worker ran since. "
                "Stop all workers, empty the new data directory, and run this again"
            )
        sources.append(state.store)
    return sources


def _is_whole(state: RocksState) -> bool:
    try:
        return read_meta(state) is not None
    except StateError:
        return False


def _is_at_end(kafka: KafkaSettings, drained: Drained) -> bool:
    """Return whether the old topic has no records after the drained ones."""
    partitions = _opened(kafka, len(drained.ends))
    return not any(
        partition.read(end, 1) for partition, end in zip(partitions, drained.ends, strict=True)
    )


def _opened(kafka: KafkaSettings, count: int) -> Iterator[KafkaPartition]:
    """Open the partitions of a topic, one at a time."""
    with KafkaLog(kafka) as log:
        for number in range(count):
            with contextlib.closing(KafkaPartition(log, number, wait_s=_WAIT_S)) as partition:
                yield partition


def _publish(data: Path) -> None:
    """Move the new states into place durably, by one rename."""
    try:
        (data / _DRAFT).rename(data / _STATES)
        sync(data)
    except OSError as error:
        raise StorageError(f"{data}: the new states cannot be put in place: {error}") from error
