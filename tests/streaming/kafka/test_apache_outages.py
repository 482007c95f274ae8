"""Group members on Apache Kafka whose brokers go away at the worst moments."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from tests.streaming.brokers import patiently, topic_name

from benchmarks.apache_kafka import Cluster
from tactful_streaming.errors import LogUnreachableError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import PartitionGroup
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.kafka.transactional_producer import TransactionalProducer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_an_outage_that_begins_during_the_assignment(
    apache_cluster: Callable[..., AbstractContextManager[Cluster]],
) -> None:
    """The member neither worked nor ended: its client waited for the end of a rebalance."""
    with apache_cluster(1) as cluster:
        settings = KafkaSettings(cluster.servers, topic_name(), delivery_timeout_ms=8_000)
        ensure_topic(settings, partitions=4)
        with KafkaLog(settings) as log:
            log.append([b"x"], [None])
        opened: dict[int, TransactionalProducer] = {}
        attempts: list[int] = []

        def assigned(number: int) -> int:
            attempts.append(number)
            if len(attempts) == 2:
                cluster.kill()
            opened[number] = TransactionalProducer(settings, f"{settings.topic}.{number}")
            return 0

        def gone(numbers: object) -> None:
            assert isinstance(numbers, list)
            for number in numbers:
                opened.pop(number).close()

        group = PartitionGroup(settings, settings.topic, assigned=assigned, revoked=gone, lost=gone)
        patiently(lambda: group.poll(10, 0.05) or len(attempts) >= 2)
        assert isinstance(group.trouble, LogUnreachableError)
        # Longer than the group waits for a silent member.
        until = time.monotonic() + 12
        while time.monotonic() < until:
            assert group.poll(10, 0.05).keys() <= opened.keys()
        cluster.up()
        read: set[int] = set()

        def all_read() -> bool:
            read.update(group.poll(10, 0.05))
            return len(read) == 4

        patiently(all_read)
        assert group.trouble is None
        assert group.partitions == opened.keys() == {0, 1, 2, 3}
        cluster.kill()
        began = time.monotonic()
        group.close()
        assert time.monotonic() - began < 30
        assert not opened
