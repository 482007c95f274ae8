"""Topics that others made, change or copy: said clearly, and no record lost or counted twice."""

import logging
import random
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic
from tests.streaming.brokers import patiently, topic_name
from tests.streaming.kafka.test_consumer_group import Worker, fill, finish, member

from tactful_streaming.errors import LogError, LogWriteError, OffsetError, TopicError
from tactful_streaming.kafka import topic_identity
from tactful_streaming.kafka.config import MAX_KAFKA_PAYLOAD, KafkaSettings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.topic_policy import check_policy
from tactful_streaming.kafka.topics import ensure_topic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def settings(apache_servers: str) -> KafkaSettings:
    return KafkaSettings(apache_servers, topic_name(), linger_ms=1, delivery_timeout_ms=120_000)


@pytest.fixture
def admin(apache_servers: str) -> Any:
    return AdminClient({"bootstrap.servers": apache_servers})


def make_topic(admin: Any, name: str, **properties: str) -> None:
    """Make a topic as its administrators do."""
    config = {key.replace("_", "."): value for key, value in properties.items()}
    topic = NewTopic(name, num_partitions=1, replication_factor=1, config=config)
    admin.create_topics([topic], operation_timeout=30)[name].result(60)


def drop_records(admin: Any, name: str, before: int) -> None:
    """Delete the records of partition 0 before an offset, as retention does."""
    for answer in admin.delete_records([TopicPartition(name, 0, before)]).values():
        answer.result(60)


def test_a_topic_that_would_lose_records_is_reported(settings: KafkaSettings, admin: Any) -> None:
    ensure_topic(settings, partitions=1)
    assert check_policy(settings, retention_ms=None, retention_bytes=None) == []
    name = topic_name()
    short = {"retention_ms": "3600000", "max_message_bytes": "1048588"}
    make_topic(admin, name, **short, unclean_leader_election_enable="true")
    foreign = replace(settings, topic=name)
    problems = check_policy(foreign, retention_ms=86_400_000, retention_bytes=None)
    assert [problem.partition(": ")[2].split()[0] for problem in problems] == [
        "retention.ms",
        "max.message.bytes",
        "unclean.leader.election.enable",
    ]
    ensure_topic(foreign, partitions=1)
    with KafkaLog(foreign) as log, pytest.raises(LogWriteError, match="MSG_SIZE_TOO_LARGE"):
        log.append([random.Random(0).randbytes(2_000_000)], ["u"])
    for policy in ("compact", "compact,delete"):
        name = topic_name()
        make_topic(admin, name, cleanup_policy=policy)
        with pytest.raises(TopicError, match=r"is compacted.*Set its cleanup.policy to delete"):
            check_policy(replace(settings, topic=name), retention_ms=None, retention_bytes=None)


def test_a_position_before_the_begin_of_the_log_is_reported(
    settings: KafkaSettings, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Retention was shorter than an absence: by every kind of reader."""
    ensure_topic(settings, partitions=1)
    with KafkaLog(settings) as log:
        log.append([b"%d" % number for number in range(10)], ["u"] * 10)
        partition = log.partition(0)
        assert partition.read(0, 3)[-1] == (2, b"2")
        rows = member(settings, lambda _: None)  # without a state, as a sink
        patiently(lambda: rows.poll(3, 0.05))
        rows.commit({0: 3}, wait=True)
        rows.close()
        drop_records(admin, settings.topic, 6)
        with pytest.raises(OffsetError, match="retention dropped"):
            partition.read(4, 1)
        partition.close()
        stateful = member(settings, lambda _: 3, topic_name())
        with pytest.raises(OffsetError, match=r"begins at offset 6 and the state needs 3"):
            patiently(lambda: stateful.poll(1, 0.05) and False)
        stateful.close()
        caplog.set_level(logging.WARNING)
        rows = member(settings, lambda _: None)
        records: list[tuple[int, bytes]] = []

        def read() -> bool:
            records.extend(rows.poll(9, 0.05).get(0, []))
            return len(records) == 4

        patiently(read)
        rows.close()
        assert records[0] == (6, b"6")
        assert "retention dropped records that group" in caplog.text


def test_partitions_that_are_added_stop_the_log(
    settings: KafkaSettings, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users would be routed to other partitions than before."""
    monkeypatch.setattr(topic_identity, "_ASK_EVERY_S", 0.2)
    ensure_topic(settings, partitions=4)
    expected: dict[int, list[bytes]] = {number: [] for number in range(4)}
    with KafkaLog(settings) as log:
        fill(log, expected, 100)
        admin.create_partitions([NewPartitions(settings.topic, 6)])[settings.topic].result(60)

        def refused() -> bool:
            try:
                fill(log, expected, 10, start=sum(map(len, expected.values())))
            except TopicError as error:
                assert "had 4 partitions and has 6 now" in str(error)
                return True
            return False

        patiently(refused)
        for number in range(4):  # the records of the refused append were not sent
            expected[number] = expected[number][: log.known_end(number)]
        with KafkaLog(settings) as resized:
            assert resized.partitions == 6
            state: dict[int, list[bytes]] = {}
            reader = Worker(settings, state)
            finish([reader], {**expected, 4: [], 5: []})
            reader.group.close()


def test_large_messages_and_many_partitions(settings: KafkaSettings) -> None:
    """50 partitions; a message of 15 MB in one of them delays no other for long."""
    ensure_topic(settings, partitions=50)
    large = random.Random(0).randbytes(15_000_000)  # which compression leaves as it is
    with KafkaLog(settings) as log:
        log.append([b"0"], [None])
        log.append([large, b"1"], ["u", "u"])
        log.append([b"2"], [None])
        number = log.partition_of("u")
        partition = log.partition(number)
        read: list[bytes] = []
        while len(read) < 4:
            read += [payload for _, payload in partition.read(len(read), 9)]
        partition.close()
        assert read == [b"0", large, b"1", b"2"]
        state: dict[int, list[bytes]] = {}
        expected = {each: [b"0", b"2"] for each in range(50)} | {number: read}
        members = [Worker(settings, state), Worker(settings, state)]
        finish(members, expected)
        for each in members:
            each.group.close()
        with pytest.raises(LogError, match=f"at most {MAX_KAFKA_PAYLOAD}"):
            log.append([bytes(MAX_KAFKA_PAYLOAD + 1)], ["u"])
