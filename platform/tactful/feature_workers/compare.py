"""Compares what a Flink job and the engine's workers, or two of either, keep of one log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tactful.config.settings import Settings
from tactful.errors import ConfigError, StorageError
from tactful.event_log.log_offsets import LOG_OFFSETS, LogOffsets
from tactful.metadata.connections import kafka_settings, open_redis
from tactful.pipeline.online_features import shared_definitions
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import StreamingError
from tactful_streaming.flink.entities import entity_kinds
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.online.comparison import (
    Comparison,
    RedisSide,
    Side,
    States,
    StateSide,
    compare_sides,
)
from tactful_streaming.state.key_layout import CONSUMER, read_meta
from tactful_streaming.state.store import RocksState, open_beside

_POLL_S: Final = 0.3
_TAIL: Final = 100
_SHOWN: Final = 4


def compare_computations(
    settings: Settings,
    *,
    prefix: str | None = None,
    states: Sequence[Path] = (),
    timeout_s: float = 60.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Compare what is under the prefix of the settings in Redis with another computation.

    It waits until both have counted the log as it is now.

    Args:
        settings: of the log, of Redis and of the definitions that both compute.
        prefix: prefix of the other computation in the same Redis; None: `states`.
        states: data directories of all workers, or of a server without workers, instead.
        timeout_s: longest wait, seconds.
        progress: called with the numbers of entities read and to read.

    Raises:
        ConfigError: if there is nothing to compare by these settings.
        StorageError: if one of both has not come far enough in time, computes other definitions, or
            cannot be read.
    """
    definitions = load_definitions(settings.features)
    _check(settings, definitions, prefix)
    until = time.monotonic() + timeout_s
    try:
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(contextlib.closing(KafkaLog(kafka_settings(settings.log))))
            opened = [log.partition(number) for number in range(log.partitions)]
            for partition in opened:
                stack.callback(partition.close)
            first: Side = _redis_side(settings, definitions, None, len(opened), stack)
            second: Side
            if prefix is not None:
                second = _redis_side(settings, definitions, prefix, len(opened), stack)
            else:
                second = _state_side(settings, definitions, states, len(opened))
                stack.callback(second.close)

            def settle() -> str | None:
                return _await_ends((first, second), opened, until)

            problem = settle()
            if problem is not None:
                raise StorageError(problem)
            return compare_sides(
                first,
                second,
                definitions,
                settle=lambda: settle() is None,
                progress=progress,
            )
    except StreamingError as error:
        raise StorageError(str(error)) from error


def _check(settings: Settings, definitions: Definitions, prefix: str | None) -> None:
    if settings.log.in_files:
        raise ConfigError("log.kind is not kafka: Flink reads no other log")
    if not settings.online.shared:
        raise ConfigError("online.kind is not redis: name the settings of the side in Redis")
    if prefix == settings.online.prefix:
        raise ConfigError(f"{prefix!r} is online.prefix itself: name that of the other side")
    if not entity_kinds(definitions):
        raise ConfigError(f"{settings.features}: no feature is of a user or session")


def _redis_side(
    settings: Settings,
    definitions: Definitions,
    prefix: str | None,
    partitions: int,
    stack: contextlib.ExitStack,
) -> RedisSide:
    online = settings.online
    if prefix is not None:
        online = replace(online, prefix=prefix)
    store = stack.enter_context(
        contextlib.closing(open_redis(online, definitions, partitions=partitions))
    )
    return RedisSide(online.prefix, store, partitions)


def _state_side(
    settings: Settings, definitions: Definitions, folders: Sequence[Path], partitions: int
) -> StateSide:
    topic = settings.log.topic
    fingerprints = {it.fingerprint for it in (definitions, shared_definitions(definitions))}

    def opened() -> States:
        states: list[tuple[RocksState, Mapping[int, int]]] = []
        with contextlib.ExitStack() as on_error:
            for path, number in _state_folders(folders, topic, partitions):
                store = open_beside(path)
                on_error.callback(store.close)
                states.append((store, _offsets(store, path, topic, number, fingerprints)))
            missing = set(range(partitions)).difference(*(offsets for _, offsets in states))
            if len(missing) == partitions:
                places = ", ".join(map(str, folders))
                raise StorageError(f"{places}: there is no state of topic {topic!r}")
            on_error.pop_all()
        return states

    return StateSide(", ".join(map(str, folders)), opened)


def _state_folders(
    folders: Sequence[Path], topic: str, partitions: int
) -> Iterator[tuple[Path, int | None]]:
    """Iterate over the states of partitions, or of a server that computes all of them: None."""
    for folder in folders:
        own = {number: folder / "partitions" / f"{topic}-{number}" for number in range(partitions)}
        found = {number: path for number, path in own.items() if path.is_dir()}
        for number, path in found.items():
            yield path / "state", number
        if not found and (folder / "state").is_dir():
            yield folder / "state", None


def _offsets(
    store: RocksState,
    path: Path,
    topic: str,
    number: int | None,
    fingerprints: Collection[str],
) -> Mapping[int, int]:
    """Return the offsets that a state includes; check that it is of the log and definitions."""
    meta = read_meta(store)
    if meta is None:
        return {}
    if meta.fingerprint not in fingerprints or meta.missing:
        raise StorageError(f"{path}: the state is not, or not yet, of these definitions")
    if number is not None:
        return {number: meta.offset}
    read, stored = LogOffsets(topic), store.get(CONSUMER + LOG_OFFSETS.encode())
    if stored is not None:
        read.restore(stored)
    if read.topic != topic:
        raise StorageError(f"{path}: the state is of topic {read.topic!r}, not of {topic!r}")
    return read.offsets()


def _await_ends(
    sides: tuple[Side, Side], partitions: Sequence[KafkaPartition], until: float
) -> str | None:
    """Wait until both sides include all records; return why they do not when the time is over."""
    ends = {number: _end(partition) for number, partition in enumerate(partitions)}
    while True:
        behind = []
        for side in sides:
            reached = side.reached()
            behind += [
                f"{side.name}: partition {number} is at {reached.get(number, 'no offset')}, and "
                f"the log ended at {end}"
                for number, end in ends.items()
                if reached.get(number, 0) < end
            ]
        if not behind:
            return None
        if time.monotonic() >= until:
            return f"there is no common offset to compare at: {'; '.join(behind[:_SHOWN])}"
        time.sleep(_POLL_S)


def _end(partition: KafkaPartition) -> int:
    """Return the offset behind the last record; behind it there may be markers of transactions."""
    begin, end = partition.begin, partition.end
    back = _TAIL
    while True:
        at = max(begin, end - back)
        last = None
        while records := partition.read(at, _TAIL):
            at = last = records[-1][0] + 1
            if last >= end:
                break
        if last is not None:
            return last
        if end - back <= begin:
            return 0
        back *= 10
