"""Tombstones in topics of rows: records with the keys of erased users, without a value."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.errors import LogUnreachableError, LogWriteError
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import KafkaSettings

_TOGETHER = 5_000
_TIMEOUT_S = 10.0
_WAIT_S = 0.2


class _Row(msgspec.Struct):
    """A row of windows or matches, a late event, or the event in it."""

    entity_key: str | None = None
    user_id: str | None = None
    device_id: str | None = None
    event: _Row | None = None


_decoder = msgspec.json.Decoder(_Row)


def write_tombstones(settings: KafkaSettings, subjects: SubjectIds) -> int:
    """Append a tombstone for each key with rows of the users; return their number.

    The whole topic is read. Compaction removes the rows, and readers of keyed rows drop theirs; a
    key whose newest record is a tombstone gets no other one. LogError if the topic cannot be read
    or written.
    """
    kafka, causes = client.import_kafka(), client.Causes()
    config = {**settings.consumer_config("tactful-erasure"), "auto.offset.reset": "earliest"}
    consumer = client.connect("Consumer", config, causes.note)
    keys: dict[int, set[bytes]] = {}
    try:
        for number in range(client.count_partitions(consumer, settings, _TIMEOUT_S) or 0):
            owned: set[bytes] = set()
            for message in _messages(kafka, consumer, settings, number):
                key, value = message.key(), message.value()
                if key and value is None:
                    owned.discard(key)
                elif key and _is_of(value, subjects):
                    owned.add(key)
            keys[number] = owned
    except kafka.KafkaException as error:
        raise client.explain(error.args[0], settings, causes) from error
    finally:
        consumer.close()
    _append(settings, keys, causes.note)
    return sum(map(len, keys.values()))


def _messages(kafka: Any, consumer: Any, settings: KafkaSettings, number: int) -> Iterator[Any]:
    """Read one partition to its end; transactional control records take up offsets there."""
    low, high = client.partition_bounds(consumer, settings, number, _TIMEOUT_S)
    if low == high:
        return
    consumer.assign([kafka.TopicPartition(settings.topic, number, low)])
    limit = time.monotonic() + _TIMEOUT_S
    while True:
        # The call waits for so many messages or so long, also behind the end of the partition.
        messages = consumer.consume(_TOGETHER, timeout=_WAIT_S)
        if messages:
            limit = time.monotonic() + _TIMEOUT_S
        elif time.monotonic() > limit:
            raise LogUnreachableError(
                f"topic {settings.topic!r}: no answer within {_TIMEOUT_S:g} s", retry_after=5.0
            )
        for message in messages:
            error = message.error()
            if error is None:
                yield message
            elif error.code() == kafka.KafkaError._PARTITION_EOF:
                return
            else:
                raise client.explain(error, settings)


def _is_of(value: bytes, subjects: SubjectIds) -> bool:
    """Return whether a row is of the users: by its value, since keys are not unique to a user."""
    try:
        row: _Row | None = _decoder.decode(value)
    except DECODE_ERRORS:
        return False
    while row is not None:
        if row.entity_key is not None:
            return row.entity_key in subjects.people or row.entity_key in subjects.sessions
        if row.user_id is not None:
            return row.user_id in subjects.users
        if row.device_id is not None:
            return row.device_id in subjects.devices
        row = row.event
    return False


def _append(
    settings: KafkaSettings, keys: dict[int, set[bytes]], on_error: Callable[[Any], None]
) -> None:
    """Append the tombstones durably, each to the partition of its rows."""
    if not any(keys.values()):
        return
    problems: list[Any] = []
    producer = client.connect("Producer", settings.producer_config(), on_error)

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            problems.append(error)

    for number, owned in keys.items():
        for key in sorted(owned):
            producer.produce(
                settings.topic, key=key, value=None, partition=number, on_delivery=delivered
            )
    left = producer.flush(_TIMEOUT_S)
    if problems:
        raise client.explain(problems[0], settings)
    if left:
        raise LogWriteError(f"topic {settings.topic!r}: {left} tombstones were not confirmed")
