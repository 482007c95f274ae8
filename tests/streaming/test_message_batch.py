"""Rows that are handed to the client's C library are those that its Python part would append."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import confluent_kafka
import numpy as np
import pytest
from tests.streaming.brokers import topic_name
from tests.streaming.shard import read_topic
from tests.streaming.test_message_queue import Message

from tactful_streaming import (
    FencedError,
    KafkaSettings,
    LogError,
    LogWriteError,
    TransactionalProducer,
    ensure_topic,
)
from tactful_streaming.message_batch import MessageBatches, errors_of
from tactful_streaming.packed_rows import PackedRows, Row


def packed(rows: Sequence[Row]) -> PackedRows:
    """The same rows in one text."""
    pieces = [piece for row in rows for piece in row]
    ends = np.cumsum([0, *map(len, pieces)])
    return PackedRows(np.frombuffer(bytearray(b"".join(pieces)) or bytearray(1), np.uint8), ends)


def some_rows(count: int) -> list[Row]:
    keys = [f"u{number % 31}".encode() if number % 5 else b"" for number in range(count)]
    return [(key, b"%d" % number + key * 40) for number, key in enumerate(keys)]


@pytest.fixture
def settings(kafka_servers: str) -> KafkaSettings:
    made = KafkaSettings(kafka_servers, topic_name(), linger_ms=1)
    ensure_topic(made, partitions=3)
    return made


def without_library(producer: TransactionalProducer) -> TransactionalProducer:
    """One that hands over objects, as where the library cannot be reached."""
    producer._batches = None
    return producer


def records(settings: KafkaSettings) -> dict[int, list[Row]]:
    """Keys and values of all records by partition, in order."""
    consumer = confluent_kafka.Consumer(settings.consumer_config("g"))
    found: dict[int, list[Row]] = {}
    for number, values in read_topic(settings).items():
        found[number] = []
        consumer.assign([confluent_kafka.TopicPartition(settings.topic, number, 0)])
        while len(found[number]) < len(values):
            message = consumer.poll(60)
            assert message is not None
            if message.error() is None:
                found[number].append((message.key() or b"", message.value() or b""))
    consumer.close()
    return found


def test_messages_are_laid_out_as_in_the_header() -> None:
    rows = [(b"key", b"value"), (b"", b"no key"), (b"k" * 300, b"v" * 5000), (b"k", b"")]
    held = packed(rows)
    batches = MessageBatches(None, 0)
    batches.lay_out(packed(some_rows(4)))[:] = -1  # what was there before does not show
    messages = batches.lay_out(held)
    assert messages.itemsize * messages.shape[1] == ctypes.sizeof(Message)
    for number, (key, value) in enumerate(rows):
        message = Message.from_address(messages[number].ctypes.data)
        assert ctypes.string_at(message.payload, message.len) == value
        assert (message.key is None) == (not key)
        assert not key or ctypes.string_at(message.key, message.key_len) == key
        assert message.key_len == len(key)
        assert (message.err, message.rkt, message.private) == (0, None, None)
        message.err = -184 + number
    assert errors_of(messages).tolist() == [-184, -183, -182, -181]


def test_the_installed_client_shows_where_its_handle_is(settings: KafkaSettings) -> None:
    """Without it rows are handed over as objects, which costs several times as much."""
    producer = TransactionalProducer(settings, f"owner-{settings.topic}")
    assert producer._batches is not None
    producer.close()


def test_rows_wait_for_the_commit_whatever_the_linger_of_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a short one, a worker's producers ask their sockets without a pause."""
    made: list[dict[str, Any]] = []

    class Noted:
        def __init__(self, config: dict[str, Any], **_: object) -> None:
            made.append(config)

        def init_transactions(self, timeout_s: float) -> None:
            pass

    monkeypatch.setattr(confluent_kafka, "Producer", Noted)
    monkeypatch.setattr(MessageBatches, "of", lambda *_: None)
    of_the_log = KafkaSettings("127.0.0.1:9092", linger_ms=1, extra={"linger.ms": 2})
    TransactionalProducer(of_the_log, "owner")
    (config,) = made
    assert config["linger.ms"] == 500
    assert config["message.timeout.ms"] > config["linger.ms"]  # or the client refuses both


def test_both_ways_append_the_same(settings: KafkaSettings) -> None:
    other = replace(settings, topic=topic_name())
    ensure_topic(other, partitions=3)
    rows = [row for row in some_rows(5000) if row[0]]
    for one, made in ((settings, packed(rows)), (other, rows)):
        producer = TransactionalProducer(one, f"owner-{one.topic}")
        if one is other:
            without_library(producer)
        producer.write(one.topic, made)
        producer.write(one.topic, packed(some_rows(70)), 2)
        producer.write(one.topic, some_rows(3), 2)
        producer.write(one.topic, packed([]))
        producer.commit()
        producer.close()
    found = records(settings)
    assert found == records(other)
    assert sorted(itertools.chain(*found.values())) == sorted(
        [*rows, *some_rows(70), *some_rows(3)]
    )
    assert all(found.values())


def test_what_has_no_room_waits(settings: KafkaSettings) -> None:
    narrow = replace(settings, extra={"queue.buffering.max.messages": 700})
    producer = TransactionalProducer(narrow, f"owner-{settings.topic}")
    rows = some_rows(1500)
    producer.write(settings.topic, packed(rows), 1)
    producer.commit()
    producer.close()
    assert sorted(records(settings)[1]) == sorted(rows)


def test_what_never_gets_room_is_refused(settings: KafkaSettings) -> None:
    clock = itertools.count(0.0, 1e9)
    narrow = replace(settings, linger_ms=1000, extra={"queue.buffering.max.messages": 10})
    producer = TransactionalProducer(narrow, f"owner-{settings.topic}", clock=lambda: next(clock))
    with pytest.raises(LogWriteError, match="no room for more rows"):
        producer.write(settings.topic, packed(some_rows(2000)), 1)
    producer.close()


def test_what_the_client_refuses_is_told(settings: KafkaSettings) -> None:
    producer = TransactionalProducer(settings, f"owner-{settings.topic}")
    with pytest.raises(LogError):
        producer.write("x" * 600, packed(some_rows(2)))
    producer.close()
    producer = TransactionalProducer(settings, f"owner-{settings.topic}")
    with pytest.raises(LogError):
        for _ in range(100):  # until it knows the topic, it takes what is for any partition
            producer.write(settings.topic, packed(some_rows(2)), 7)
            producer.commit()
    producer.close()


def test_a_former_owner_is_shut_out(settings: KafkaSettings) -> None:
    name = f"owner-{settings.topic}"
    first = TransactionalProducer(settings, name)
    first.write(settings.topic, packed(some_rows(20)), 0)
    first.commit()
    second = TransactionalProducer(settings, name)
    with pytest.raises(FencedError, match="another process has taken over"):
        for _ in range(100):
            first.write(settings.topic, packed(some_rows(20)), 0)
            first.commit()
    first.close()
    second.close()


def test_rows_may_go_once_they_are_handed_over(settings: KafkaSettings) -> None:
    """The library has copied them: their memory is used for something else at once."""
    waiting = replace(settings, linger_ms=500)
    producer = TransactionalProducer(waiting, f"owner-{settings.topic}")
    expected = []
    for number in range(20):
        rows = [(b"%d" % number, os.urandom(200)) for _ in range(100)]
        expected += rows
        made = packed(rows)
        producer.write(settings.topic, made, 0)
        made.letters[:] = 0
        made.ends[:] = 0
    producer.commit()
    producer.close()
    assert records(settings)[0] == expected
