"""Apache Kafka with its default settings: refusals, quotas, and starts without a broker."""

import contextlib
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
from tests.streaming.brokers import patiently, topic_name

from benchmarks.apache_kafka import Cluster
from tactful_streaming.errors import LogError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import PartitionGroup
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.kafka.topics import ensure_topic, topic_id
from tactful_streaming.kafka.transactional_producer import TransactionalProducer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def cluster(apache_cluster: Callable[..., AbstractContextManager[Cluster]]) -> Iterator[Cluster]:
    with apache_cluster(3, "--sasl") as running:
        yield running


@pytest.fixture
def settings(cluster: Cluster) -> KafkaSettings:
    return KafkaSettings(cluster.servers, topic_name(), linger_ms=1)


@pytest.fixture
def secured(cluster: Cluster) -> KafkaSettings:
    return KafkaSettings(
        cluster.address("sasl"),
        topic_name(),
        security="sasl_plaintext",
        sasl_mechanism="SCRAM-SHA-256",
        username="alice",
        password="alice-secret",
        linger_ms=1,
        delivery_timeout_ms=600_000,
    )


def joined(settings: KafkaSettings) -> PartitionGroup:
    return PartitionGroup(
        settings,
        settings.topic,
        assigned=lambda _: 0,
        revoked=lambda _: None,
        lost=lambda _: None,
    )


@pytest.mark.parametrize(
    "wrong",
    [{"password": "wrong"}, {"username": "bob"}, {"sasl_mechanism": "SCRAM-SHA-512"}],
    ids=["password", "username", "mechanism"],
)
def test_wrong_credentials_are_called_that(secured: KafkaSettings, wrong: dict[str, Any]) -> None:
    """Nothing waits for its timeout of ten minutes, and nobody says that no broker answers."""
    ensure_topic(secured, consumer_threads=1)
    with KafkaLog(secured) as log:
        log.append([b"x"], ["u"])
    refused = replace(secured, **wrong)
    words = r"refused us .*check username, password"
    with pytest.raises(LogError, match=words):
        ensure_topic(refused, timeout_s=600)
    with pytest.raises(LogError, match=words):
        TransactionalProducer(refused, secured.topic)
    with pytest.raises(LogError, match=words), KafkaLog(refused, connect_timeout_s=600) as log:
        log.append([b"x"], ["u"])
    group = joined(refused)
    with pytest.raises(LogError, match=words):
        patiently(lambda: group.poll(1, 0.05) and False)
    group.close()


def test_a_quota_slows_clients_and_no_more(cluster: Cluster, settings: KafkaSettings) -> None:
    """Under quotas of bytes 40,000 records arrive, and appends are acknowledged, in order."""
    limited = replace(settings, extra={"client.id": settings.topic})
    ensure_topic(settings, partitions=1)
    with KafkaLog(settings) as log:
        for _ in range(4):
            log.append([bytes(300)] * 10_000, [None] * 10_000)
    cluster.tool(
        "kafka.admin.ConfigCommand",
        *("--alter", "--entity-type", "clients", "--entity-name", settings.topic),
        *("--add-config", "consumer_byte_rate=40000,producer_byte_rate=100000"),
    )
    with KafkaLog(limited) as log:
        partition = log.partition(0)
        count = 0
        while count < 40_000:
            count += len(partition.read(count, 10_000))
        incompressible = [random.Random(number).randbytes(20_000) for number in range(20)]
        appends = [log.submit([payload], [None]) for payload in incompressible]
        assert [append.result() for append in appends] == [{0: 40_001 + n} for n in range(20)]
        partition.close()


def test_a_start_while_a_broker_is_down(cluster: Cluster, settings: KafkaSettings) -> None:
    """Leaders move meanwhile; a new topic has leaders on the brokers that are left.

    The broker stays down, so this is the last test.
    """
    ensure_topic(settings, partitions=6, replication=3)
    with KafkaLog(settings) as log:
        log.append([b"x"], [None])
    cluster.kill(0)
    for one in (settings, replace(settings, topic=topic_name())):
        assert ensure_topic(one, partitions=6, replication=3, timeout_s=120) == 6
        assert topic_id(one)
        with KafkaLog(one) as log, contextlib.ExitStack() as stack:
            log.append([b"y"], [None])
            for number in range(6):
                partition = KafkaPartition(log, number, timeout_s=60)
                stack.callback(partition.close)
                assert partition.read(partition.end - 1, 1)[0][1] == b"y"
        producer = TransactionalProducer(one, one.topic)
        producer.write(one.topic, [(b"k", b"v")])
        producer.commit()
        producer.close()
