"""Rows written in transactions: where they land, and when they are refused."""

import itertools
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import confluent_kafka
import pytest
from confluent_kafka import KafkaError
from tests.streaming.brokers import topic_name
from tests.streaming.shard import read_topic

from tactful_streaming.contract.log_entries import Row
from tactful_streaming.errors import (
    FencedError,
    LogError,
    LogUnreachableError,
    LogWriteError,
    TopicMissingError,
)
from tactful_streaming.kafka import transactional_producer
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.kafka.transactional_producer import TransactionalProducer


def some_rows(count: int) -> list[Row]:
    keys = [f"u{number % 31}".encode() if number % 5 else b"" for number in range(count)]
    return [(key, b"%d" % number + key * 40) for number, key in enumerate(keys)]


@pytest.fixture
def settings(kafka_servers: str) -> KafkaSettings:
    made = KafkaSettings(kafka_servers, topic_name(), linger_ms=1)
    ensure_topic(made, partitions=3)
    return made


def records(settings: KafkaSettings) -> dict[int, list[Row]]:
    """Keys and values of all records by partition, in order."""
    consumer = confluent_kafka.Consumer(settings.consumer_config("g"))
    rows_by_partition: dict[int, list[Row]] = {}
    for number, values in read_topic(settings).items():
        rows_by_partition[number] = []
        consumer.assign([confluent_kafka.TopicPartition(settings.topic, number, 0)])
        while len(rows_by_partition[number]) < len(values):
            message = consumer.poll(60)
            assert message is not None
            if message.error() is None:
                rows_by_partition[number].append((message.key() or b"", message.value() or b""))
    consumer.close()
    return rows_by_partition


def test_rows_wait_for_the_commit_with_any_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a short one, a worker's producers ask their sockets without a pause."""
    made: list[dict[str, Any]] = []

    class Noted:
        def __init__(self, config: dict[str, Any], **_: object) -> None:
            made.append(config)

        def init_transactions(self, timeout_s: float) -> None:
            pass

    monkeypatch.setattr(confluent_kafka, "Producer", Noted)
    of_the_log = KafkaSettings("127.0.0.1:9092", linger_ms=1, extra={"linger.ms": 2})
    TransactionalProducer(of_the_log, "owner")
    (config,) = made
    assert config["linger.ms"] == 500
    assert config["message.timeout.ms"] > config["linger.ms"]  # or the client refuses both


def test_rows_are_appended_by_key_or_to_one_partition(settings: KafkaSettings) -> None:
    rows = [row for row in some_rows(5000) if row[0]]
    producer = TransactionalProducer(settings, f"owner-{settings.topic}")
    producer.write(settings.topic, rows)
    producer.write(settings.topic, some_rows(70), 2)
    producer.write(settings.topic, [])
    producer.commit()
    producer.close()
    rows_by_partition = records(settings)
    assert rows_by_partition[2][-70:] == some_rows(70)
    del rows_by_partition[2][-70:]
    assert all(rows_by_partition.values())
    for number, part in rows_by_partition.items():
        keys = {key for key, _ in part}
        assert part == [row for row in rows if row[0] in keys], number
    assert sum(map(len, rows_by_partition.values())) == len(rows)


@pytest.mark.slow
def test_rows_without_room_wait(settings: KafkaSettings) -> None:
    narrow = replace(settings, extra={"queue.buffering.max.messages": 700})
    producer = TransactionalProducer(narrow, f"owner-{settings.topic}")
    rows = some_rows(1500)
    producer.write(settings.topic, rows, 1)
    producer.commit()
    producer.close()
    assert sorted(records(settings)[1]) == sorted(rows)


def test_rows_are_refused_after_the_timeout(settings: KafkaSettings) -> None:
    clock = itertools.count(0.0, 1e9)
    narrow = replace(settings, linger_ms=1000, extra={"queue.buffering.max.messages": 10})
    producer = TransactionalProducer(narrow, f"owner-{settings.topic}", clock=lambda: next(clock))
    with pytest.raises(LogWriteError, match="no room for more rows"):
        producer.write(settings.topic, some_rows(2000), 1)
    producer.close()


def test_rows_the_client_refuses_are_an_error(settings: KafkaSettings) -> None:
    producer = TransactionalProducer(settings, f"owner-{settings.topic}")
    with pytest.raises(LogError):
        producer.write("x" * 600, some_rows(2))
    producer.close()
    producer = TransactionalProducer(settings, f"owner-{settings.topic}")
    with pytest.raises(LogError):
        for _ in range(100):  # until it knows the topic, it takes what is for any partition
            producer.write(settings.topic, some_rows(2), 7)
            producer.commit()
    producer.close()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 5000])
def test_a_fenced_producer_says_so_whatever_is_called(
    settings: KafkaSettings, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First in the commit; later calls meet a client that reports only that it has failed.

    The rows are sent after the other has taken over. If they were sent before, the broker in memory
    drops the connection at each attempt to commit instead of answering.
    """
    monkeypatch.setattr(transactional_producer, "_LINGER_MS", 20_000)
    check_fencing(settings, rows, sent_before=False)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 5000])
def test_a_producer_is_fenced_after_its_rows_were_sent(apache_servers: str, rows: int) -> None:
    settings = KafkaSettings(apache_servers, topic_name())
    ensure_topic(settings, partitions=3)
    check_fencing(settings, rows, sent_before=True)


def check_fencing(settings: KafkaSettings, rows: int, *, sent_before: bool) -> None:
    name = f"owner-{settings.topic}"
    fenced = TransactionalProducer(settings, name)
    fenced.write(settings.topic, some_rows(rows), 1)
    if sent_before:
        assert fenced._producer.flush(60) == 0
    owner = TransactionalProducer(settings, name)
    with pytest.raises(FencedError, match="another process has taken over"):
        fenced.commit()
    for _ in range(2):
        with pytest.raises(FencedError):
            fenced.write(settings.topic, some_rows(rows), 1)
        with pytest.raises(FencedError):
            fenced.append(settings.topic, [b"x"], 1)
    fenced.close()
    owner.write(settings.topic, some_rows(3), 0)
    owner.commit()
    owner.close()
    assert len(read_topic(settings, uncommitted=True)[0]) == 3


@pytest.mark.parametrize("code", ["_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"])
@pytest.mark.parametrize("said", ["_FATAL", "_STATE"])
def test_a_failed_client_is_asked_why(
    code: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it raises from its poll, or refuses single rows."""
    error, state = (
        confluent_kafka.KafkaError(getattr(confluent_kafka.KafkaError, name), fatal=True)
        for name in (code, said)
    )

    def refuse(topic: str, messages: list[dict[str, Any]], partition: int, **_: object) -> int:
        messages[0]["_error"] = state
        return len(messages) - 1

    made = MagicMock()
    made.produce_batch.side_effect = refuse
    made.flush.side_effect = confluent_kafka.KafkaException(state)
    monkeypatch.setattr(confluent_kafka, "Producer", lambda *_, **__: made)
    producer = TransactionalProducer(KafkaSettings("127.0.0.1:1"), "owner")
    producer.write("t", [])
    made.begin_transaction.side_effect = [None, confluent_kafka.KafkaException(error)]
    with pytest.raises(FencedError):
        producer.write("t", some_rows(2))
    made.produce_batch.side_effect = lambda *arguments, **_: len(arguments[1])
    made.poll.side_effect = confluent_kafka.KafkaException(error)
    with pytest.raises(FencedError):
        producer.write("t", some_rows(2))
    producer.close()


@pytest.mark.parametrize("then", ["_CONFLICT", "_FATAL", "_STATE", "_TIMED_OUT"])
def test_a_fenced_producer_stays_fenced(then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that fails while it flushes stays in progress, as an outage to later calls."""
    fenced, later = (
        confluent_kafka.KafkaException(KafkaError(getattr(KafkaError, name)))
        for name in ("_FENCED", then)
    )
    made = MagicMock()
    made.produce_batch.side_effect = lambda *arguments, **_: len(arguments[1])
    made.commit_transaction.side_effect = fenced
    monkeypatch.setattr(confluent_kafka, "Producer", lambda *_, **__: made)
    producer = TransactionalProducer(KafkaSettings("127.0.0.1:1"), "owner")
    producer.write("t", some_rows(2))
    with pytest.raises(FencedError):
        producer.commit()
    made.begin_transaction.side_effect = made.produce_batch.side_effect = later
    made.commit_transaction.side_effect = later
    with pytest.raises(FencedError):
        producer.write("t", some_rows(2))
    with pytest.raises(FencedError):
        producer.commit()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (KafkaError._MSG_TIMED_OUT, LogUnreachableError, "topic 'rows' at .* no broker answers"),
        (KafkaError.NOT_ENOUGH_REPLICAS, LogUnreachableError, "not served at present"),
        (KafkaError.KAFKA_STORAGE_ERROR, LogUnreachableError, "KAFKA_STORAGE_ERROR"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, TopicMissingError, "topic 'rows' at"),
        (KafkaError.MSG_SIZE_TOO_LARGE, LogError, "MSG_SIZE_TOO_LARGE"),
        (None, LogUnreachableError, "_INCONSISTENT"),
    ],
)
def test_a_failed_commit_names_the_failed_record(
    monkeypatch: pytest.MonkeyPatch, code: int | None, kind: type[LogError], words: str
) -> None:
    """The client says only that some messages were not delivered, whatever the reason."""

    def deliver(topic: str, messages: Any, partition: int, on_delivery: Any) -> int:
        message = MagicMock()
        message.topic.return_value = topic
        for error in (None, code, KafkaError._PURGE_QUEUE):
            on_delivery(None if error is None else KafkaError(error), message)
        return len(messages)

    made = MagicMock()
    made.produce_batch.side_effect = deliver
    lost = KafkaError(KafkaError._INCONSISTENT, "1 message(s) failed delivery")
    made.commit_transaction.side_effect = confluent_kafka.KafkaException(lost)
    monkeypatch.setattr(confluent_kafka, "Producer", lambda *_, **__: made)
    producer = TransactionalProducer(KafkaSettings("127.0.0.1:9092"), "owner")
    if code is not None:
        producer.write("rows", [(b"k", b"v")])
    else:
        producer._begin()
    with pytest.raises(LogError, match=words) as caught:
        producer.commit()
    assert type(caught.value) is kind
