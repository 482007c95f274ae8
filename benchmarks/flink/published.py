"""Published values of some people, compared with those of an engine on the same events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from benchmarks.flink.place import DELAY_MS, LATENESS_MS, PARTITIONS
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.flink.entities import KINDS
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.entity_table import read_packed

Values = dict[tuple[str, str], bytes]
"""Packed values by kind and key."""

_LATER_MS = (0, 60_000, 3_600_000, 86_400_000, 40 * 86_400_000)
_IDLE_S, _BATCH = 10.0, 10_000


def read_values(servers: str, topic: str, keys: frozenset[bytes]) -> tuple[Values, int]:
    """Read a topic of entities to its end.

    Args:
        servers: of Kafka.
        topic: of the entities.
        keys: keys of the records to keep, such as ``b"user:u1"``.

    Returns:
        The last value of each, and the number of rows read.

    Raises:
        TimeoutError: if the broker delivers nothing for a while.
    """
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "bench-people", "enable.auto.commit": False}
        | {"enable.partition.eof": True, "fetch.message.max.bytes": 8 << 20}
    )
    rows: dict[bytes, Any] = {}
    ended, count, last = 0, 0, time.monotonic()
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        while ended < PARTITIONS:
            for record in consumer.consume(_BATCH, 1.0):
                last = time.monotonic()
                if (error := record.error()) is not None:
                    ended += error.name() == "_PARTITION_EOF"
                    continue
                count += 1
                if (key := record.key()) in keys:
                    rows[key] = record.value()
            if time.monotonic() > last + _IDLE_S:
                raise TimeoutError(f"{topic} was not delivered to its end")
    finally:
        consumer.close()
    values: Values = {}
    for value in rows.values():
        if value is not None:
            _, _, _, kind, name, packed = msgspec.msgpack.decode(value)
            values[kind, name] = packed
    return values, count


def engines(definitions: Definitions, events: Mapping[int, Sequence[bytes]]) -> list[Engine]:
    """Apply the events of each partition to an engine of its own."""
    options = EngineOptions(watermark_delay_ms=DELAY_MS, allowed_lateness_ms=LATENESS_MS)
    applied = []
    for number in range(PARTITIONS):
        engine = Engine(definitions, MemoryState(), options)
        engine.apply(list(enumerate(events.get(number, ()))))
        applied.append(engine)
    return applied


def different(
    definitions: Definitions,
    truth: Sequence[tuple[Engine, frozenset[tuple[str, str]]]],
    values: Values,
    newest: int,
) -> tuple[int, int]:
    """Compare values at the end of the log and as they age.

    Args:
        definitions: of the features.
        truth: engines, each with the kinds and keys that it knows.
        values: that the job has published.
        newest: time of the newest event, epoch milliseconds.

    Returns:
        The numbers of compared and of different values. An entity that was not published, or was
        deleted, has the values of one without events.
    """
    compared = wrong = 0
    for engine, keys in truth:
        for kind, key in keys:
            features = definitions.of_entity(kind)
            packed = values.get((kind, key))
            for later in _LATER_MS:
                at = newest + later
                expected = engine.read(kind, key, at)
                found = read_packed(features, packed, at)
                for feature in features:
                    compared += 1
                    wrong += expected.get(feature.name) != found.get(feature.name)
    return compared, wrong


def known_keys(events: Sequence[bytes]) -> frozenset[tuple[str, str]]:
    """Return kind and key of all users and visits of some events."""
    fields = {"user": "user_id", "session": "session_id"}
    assert fields.keys() == set(KINDS)
    decoded = [msgspec.json.decode(event) for event in events]
    return frozenset((kind, event[field]) for kind, field in fields.items() for event in decoded)
