import asyncio
import contextlib
import dataclasses
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.streaming import brokers
from tests.streaming.brokers import ApacheBroker, Broker, Proxy, new_log, patiently, topic_name

from tactful_streaming.errors import (
    BackpressureError,
    LogError,
    LogSettingsError,
    LogUnreachableError,
    LogWriteError,
    OffsetError,
    TopicError,
    TopicMissingError,
)
from tactful_streaming.kafka import client, kafka_log, topic_identity, topic_watch
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.log.event_log import Positions
from tactful_streaming.log.group_commit import KeyedCommit

pytest.importorskip("confluent_kafka")

BOTH_BROKERS = pytest.mark.parametrize(
    "broker_and_proxy", ["memory", pytest.param("apache", marks=pytest.mark.slow)], indirect=True
)
Proxied = tuple[Broker | ApacheBroker, Proxy]


@pytest.fixture
def log(kafka_servers: str) -> Iterator[KafkaLog]:
    with new_log(kafka_servers, linger_ms=1) as log:
        yield log


def contents(log: KafkaLog, ends: Positions) -> dict[int, list[bytes]]:
    """All records of the partitions in `ends`, read up to there."""
    by_partition = {}
    for number, end in ends.items():
        partition = log.partition(number)
        records = read_to(partition, end)
        partition.close()
        by_partition[number] = records
    return by_partition


def read_to(partition: KafkaPartition, end: int) -> list[bytes]:
    records: list[bytes] = []
    while len(records) < end:
        fetched = partition.read(len(records), 1000)
        assert [at for at, _ in fetched] == [*range(len(records), len(records) + len(fetched))]
        records += [payload for _, payload in fetched]
    return records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"servers": "broker"}, "kafka.servers is host:port"),
        ({"servers": "a:1, b:2"}, "kafka.servers"),
        ({"topic": "a/b"}, "kafka.topic has 1 to 249"),
        ({"topic": ".."}, "kafka.topic"),
        ({"security": "tls"}, "kafka.security is one of plaintext, ssl"),
        ({"ca_file": Path(__file__)}, "kafka.ca_file needs security ssl"),
        ({"security": "ssl", "ca_file": Path("/absent.pem")}, "names /absent.pem, which is no"),
        ({"security": "ssl", "key_file": Path(__file__)}, "and key_file come together"),
        ({"security": "ssl", "key_password": "x"}, "kafka.key_password needs key_file"),
        ({"password": "x"}, "kafka.password needs security sasl_ssl"),
        ({"security": "sasl_ssl"}, "kafka.sasl_mechanism is one of PLAIN"),
        ({"security": "sasl_ssl", "sasl_mechanism": "PLAIN"}, "kafka.username is needed"),
        (
            {"security": "sasl_ssl", "sasl_mechanism": "PLAIN", "username": "u"},
            "kafka.password is needed by SASL",
        ),
        ({"linger_ms": -1}, "kafka.linger_ms is 0 to 1000"),
        ({"delivery_timeout_ms": 10}, "kafka.delivery_timeout_ms is 1000 to"),
        ({"session_timeout_ms": 10}, "kafka.session_timeout_ms"),
        ({"extra": {"acks": "1", "enable.idempotence": False}}, "may not set acks, enable.idemp"),
        ({"extra": {"sasl.password": "x"}}, "may not set sasl.password"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LogSettingsError) as caught:
        KafkaSettings(**{"servers": "broker:9092", **changes})
    assert message in str(caught.value)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    key = tmp_path / "client.pem"
    key.touch()
    settings = KafkaSettings(
        servers="[::1]:9093",
        security="sasl_ssl",
        sasl_mechanism="SCRAM-SHA-512",
        username="tactful",
        password="hunter2",
        certificate_file=key,
        key_file=key,
        key_password="hunter3",
    )
    assert "hunter" not in repr(settings)
    config = settings.producer_config()
    assert config["sasl.password"] == "hunter2"
    assert config["ssl.key.location"] == str(key)
    assert "ssl.ca.location" not in config
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.topic = "other"  # type: ignore[misc]


def test_settings_the_client_refuses_are_explained(kafka_servers: str) -> None:
    settings = KafkaSettings(servers=kafka_servers, extra={"no.such.property": 1})
    with pytest.raises(LogError, match=r"refuses its settings.*no\.such\.property"):
        KafkaLog(settings)


def test_extra_settings_cannot_weaken_durability() -> None:
    settings = KafkaSettings(servers="broker:9092", extra={"compression.type": "zstd"})
    producer, consumer = settings.producer_config(), settings.member_config("g")
    assert producer["compression.type"] == "zstd"
    assert (producer["acks"], producer["enable.idempotence"]) == ("all", True)
    assert consumer["enable.auto.commit"] is False
    assert consumer["partition.assignment.strategy"] == "cooperative-sticky"


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(LogError, match=r"pip install 'tactful\[kafka\]'"):
        KafkaLog(KafkaSettings(servers="broker:9092"))


def test_topics_are_made_once(kafka_servers: str) -> None:
    settings = KafkaSettings(servers=kafka_servers, topic=topic_name())
    assert ensure_topic(settings, consumer_threads=3, retention_ms=1000) == 6
    assert ensure_topic(settings, consumer_threads=5) == 6
    with KafkaLog(settings) as log:
        assert log.partitions == 6


@pytest.mark.slow
def test_a_missing_topic_is_reported(kafka_servers: str) -> None:
    settings = KafkaSettings(servers=kafka_servers, topic=topic_name())
    with pytest.raises(TopicMissingError, match=r"at .* does not exist .*make it first"):
        KafkaLog(settings)


def reference_murmur2(data: bytes) -> int:
    """The hash of Kafka's default partitioner, in 32-bit arithmetic."""
    length = len(data)
    h = 0x9747B28C ^ length
    for (k,) in struct.iter_unpack("<I", data[: length // 4 * 4]):
        k = k * 0x5BD1E995 & 0xFFFFFFFF
        k = (k ^ k >> 24) * 0x5BD1E995 & 0xFFFFFFFF
        h = (h * 0x5BD1E995 & 0xFFFFFFFF) ^ k
    tail = data[length // 4 * 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * 0x5BD1E995 & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return (h ^ h >> 15) & 0x7FFFFFFF


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.integers(1, 200))
def test_users_are_routed_as_by_kafkas_own_clients(key: str, partitions: int) -> None:
    from confluent_kafka import murmur2

    assert murmur2(key.encode(), partitions) == reference_murmur2(key.encode()) % partitions


def test_keys_stay_together_in_order_and_copies_go_everywhere(log: KafkaLog) -> None:
    rng = random.Random(1)
    expected: dict[int, list[bytes]] = {number: [] for number in range(log.partitions)}
    ends: Positions = {}
    for turn in range(30):
        payloads, keys = [], []
        for number in range(rng.randrange(1, 20)):
            key = rng.choice([None, *(f"user {n}" for n in range(9))])
            payload = b"%d.%d" % (turn, number)
            payloads.append(payload)
            keys.append(key)
            for target in range(log.partitions) if key is None else [log.partition_of(key)]:
                expected[target].append(payload)
        appended = log.append(payloads, keys)
        assert all(len(expected[number]) == end for number, end in appended.items())
        ends = {**ends, **appended}
    assert contents(log, ends) == {number: expected[number] for number in ends}
    assert [log.known_end(number) for number in ends] == [*ends.values()]
    assert log.append([], []) == {}
    with pytest.raises(ValueError, match="shorter"):
        log.append([b"x"], [])
    with pytest.raises(LogError, match="not one of 0 to 3"):
        log.partition(4)


def test_many_threads_append(log: KafkaLog) -> None:
    def append(name: int) -> None:
        for turn in range(50):
            log.append([b"%d %d %d" % (name, turn, n) for n in range(7)], [f"{name}"] * 7)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(8)))
    ends = {n: log.known_end(n) for n in range(log.partitions) if log.known_end(n)}
    by_partition = contents(log, ends)
    for name in range(8):
        records = by_partition[log.partition_of(f"{name}")]
        sent = [record for record in records if record.split()[0] == b"%d" % name]
        assert [b"%d %d %d" % (name, turn, n) for turn in range(50) for n in range(7)] == sent
    assert log.waiting_bytes == 0


def test_backpressure_refuses_before_memory_grows(kafka_servers: str) -> None:
    settings = KafkaSettings(servers=kafka_servers, topic=topic_name(), linger_ms=500)
    ensure_topic(settings)
    with KafkaLog(settings, max_waiting_bytes=1000) as log:
        first = log.submit([b"x" * 5000], ["u"])
        with pytest.raises(BackpressureError) as caught:
            log.submit([b"y"], ["u"])
        assert caught.value.retry_after >= 1
        assert first.result(120) == {log.partition_of("u"): 1}
        assert log.append([b"y"], ["u"]) == {log.partition_of("u"): 2}


def test_oversized_records_are_refused_alone(log: KafkaLog) -> None:
    with pytest.raises(LogError, match="at most 16777216"):
        log.append([b"small", bytes(17 * 1024 * 1024)], ["u", "u"])
    assert log.append([b"small", bytes(16 * 1024 * 1024)], ["u", "u"])[log.partition_of("u")] == 2


def test_records_the_client_refuses_are_not_acknowledged(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from confluent_kafka import KafkaError, KafkaException

    def refuse(topic: str, messages: list[dict[str, Any]], **_: object) -> int:
        messages[-1]["_error"] = KafkaError(KafkaError._QUEUE_FULL)
        for message in messages[:-1]:
            message["_error"] = KafkaError(KafkaError.INVALID_RECORD)
        return 0

    for answer in (refuse, KafkaException(KafkaError(KafkaError._STATE))):
        client = Mock(**{"produce_batch.side_effect": answer, "flush.return_value": 0})
        client.poll.side_effect = lambda _: time.sleep(0.01)
        with monkeypatch.context() as patch:
            patch.setattr(log, "_producer", client)
            with pytest.raises(LogWriteError, match="did not take an append"):
                log.append([b"a", b"b"], ["u", "v"])
    assert log.waiting_bytes == 0
    assert log.append([b"a"], ["u"])


def test_a_closed_log(kafka_servers: str) -> None:
    log = new_log(kafka_servers, linger_ms=500)
    waiting = log.submit([b"x"] * 100, ["u"] * 100)
    log.close()
    log.close()
    assert waiting.result(0) == {log.partition_of("u"): 100}
    with pytest.raises(LogError, match="closed"):
        log.append([b"x"], ["u"])


def test_without_a_broker_appends_are_refused_until_one_answers() -> None:
    settings = KafkaSettings(servers="127.0.0.1:9", topic="absent")
    with pytest.raises(LogUnreachableError, match="no broker answers"):
        ensure_topic(settings, timeout_s=0.5)
    with KafkaLog(settings, connect_timeout_s=0.2) as log:
        for _ in range(2):
            with pytest.raises(LogUnreachableError, match="no broker answers") as caught:
                log.append([b"x"], ["u"])
        assert caught.value.retry_after > 0
        with pytest.raises(LogUnreachableError):
            log.partition_of("u")


def appended(log: KafkaLog, payload: bytes) -> bool:
    try:
        log.append([payload], ["u"])
    except LogUnreachableError:
        return False
    return True


@pytest.mark.slow
@BOTH_BROKERS
def test_appends_fail_fast_without_broker_and_recover(
    broker_and_proxy: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker in memory keeps nothing: what is judged is refusal and recovery."""
    # It gives the topic another id, too, which would be a topic made anew.
    monkeypatch.setattr(topic_identity, "identity_of", lambda described: None)
    broker, _ = broker_and_proxy
    with new_log(broker.servers, linger_ms=1, delivery_timeout_ms=1000) as log:
        patiently(lambda: appended(log, b"before"))
        broker.kill()
        with pytest.raises(LogUnreachableError):
            log.append([b"during"], ["u"])
        patiently(lambda: log.problem is not None)
        with pytest.raises(LogUnreachableError, match="no broker answers"):
            log.submit([b"during"], ["u"])
        broker.start()
        # In memory the topic is gone, unless the broker makes topics by itself.
        ensure_topic(log.settings, consumer_threads=2)
        patiently(lambda: log.problem is None)
        number = log.partition_of("u")
        patiently(lambda: appended(log, b"after"))
        assert contents(log, {number: log.known_end(number)})[number][-1] == b"after"


class Stuck:
    """A producer that finds no broker for its records, though it reaches all."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def produce_batch(self, topic: str, messages: list[dict[str, Any]], **_: Any) -> None:
        kafka = client.import_kafka().KafkaError
        for message in messages:
            message["_error"] = kafka(kafka._MSG_TIMED_OUT)


@pytest.mark.slow
def test_a_producer_that_fails_beside_answering_brokers_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a topic was away, appends failed on although all else was well."""
    monkeypatch.setattr(kafka_log, "_STUCK_S", 1.0)
    with (
        brokers.running_broker() as broker,
        new_log(broker.servers, linger_ms=1, delivery_timeout_ms=1000) as log,
    ):
        with log._lock:
            log._producer = Stuck(log._producer)
        assert not appended(log, b"x")
        patiently(lambda: appended(log, b"y"), 30.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "message"),
    [(None, "restore it from a backup"), (10, "had 4 partitions and has 10 now")],
)
def test_a_changed_topic_is_not_written_to(
    count: int | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        brokers.running_broker() as broker,
        new_log(broker.servers, linger_ms=1, delivery_timeout_ms=1000) as log,
    ):
        broker.kill()
        with pytest.raises(LogUnreachableError):
            log.append([b"x"], ["u"])
        monkeypatch.setattr(client, "count_partitions", lambda *_: count)
        monkeypatch.setattr(client, "topic_exists", lambda *_: False)
        monkeypatch.setattr(topic_watch, "_BELIEVED_AFTER_S", 1.0)
        broker.start()
        patiently(lambda: isinstance(log.problem, TopicError))
        with pytest.raises(TopicError, match=message):
            log.append([b"x"], ["u"])


def make_anew(log: KafkaLog) -> None:
    from confluent_kafka.admin import AdminClient

    kafka: Any = client.import_kafka()
    admin, topic = AdminClient(log.settings.client_config()), log.settings.topic
    anew = kafka.cimpl.NewTopic(topic, log.partitions)
    admin.delete_topics([topic], operation_timeout=10)[topic].result(60)

    def made() -> bool:
        with contextlib.suppress(kafka.KafkaException):  # the old one is not gone yet
            admin.create_topics([anew])[topic].result(60)
            return True
        return False

    patiently(made)


@pytest.mark.slow
@pytest.mark.service("kafka")
@pytest.mark.parametrize("idle", [False, True])
def test_nothing_is_appended_to_a_topic_made_anew(
    kafka_servers: str, monkeypatch: pytest.MonkeyPatch, idle: bool
) -> None:
    """The writer went on: the new topic has as many partitions, and the broker takes records."""
    monkeypatch.setattr(topic_identity, "_ASK_EVERY_S", 0.3 if idle else 600.0)
    with new_log(kafka_servers, threads=1, linger_ms=1) as log:
        log.append([b"x"], [None])
        patiently(lambda: log._identity.known)
        assert log.problem is None
        make_anew(log)
        # The first records may arrive; their offsets show that they are in another topic.
        with contextlib.suppress(LogError):
            if not idle:
                log.append([b"y"], [None])
        patiently(lambda: log.problem is not None, 5)
        patiently(lambda: isinstance(log.problem, TopicError))
        with pytest.raises(TopicError, match="was deleted and made anew"):
            log.append([b"z"], [None])
        time.sleep(0.7)  # further answers change nothing
        assert isinstance(log.problem, TopicError)
        assert isinstance(log.doubt(), TopicError)


@pytest.mark.service("kafka")
def test_an_outage_that_ends_with_a_topic_made_anew(
    kafka_servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is accepted before the id of the topic that is there again is known."""
    monkeypatch.setattr(topic_identity, "_ASK_EVERY_S", 600.0)
    with new_log(kafka_servers, threads=1, delivery_timeout_ms=1500) as log:
        log.append([b"x"], [None])
        patiently(lambda: log._identity.known)
        with monkeypatch.context() as away:
            away.setattr(client, "count_partitions", lambda *_: None)
            away.setattr(client, "topic_exists", lambda *_: False)
            log.doubt()
            patiently(lambda: log.problem is not None)
            make_anew(log)
        patiently(lambda: isinstance(log.problem, TopicError))
        partition = KafkaPartition(log, 0)
        assert partition.end == 1  # as known here
        assert client.partition_bounds(partition._consumer, log.settings, 0, 5) == (0, 0)
        partition.close()


@pytest.mark.slow
@BOTH_BROKERS
def test_cut_connections_lose_no_acknowledged_record(broker_and_proxy: Proxied) -> None:
    acknowledged: dict[str, list[bytes]] = {f"u{n}": [] for n in range(4)}
    stop = threading.Event()

    def append(log: KafkaLog, key: str) -> None:
        number = 0
        while not stop.is_set():
            payload = b"%s %d" % (key.encode(), number)
            try:
                log.append([payload], [key])
            except LogError:
                time.sleep(0.01)  # a sender would repeat it; here the next one will do
            else:
                acknowledged[key].append(payload)
            number += 1

    broker, proxy = broker_and_proxy
    with new_log(broker.servers, linger_ms=1, delivery_timeout_ms=1500) as log:
        pool = ThreadPoolExecutor(len(acknowledged))
        appending = [pool.submit(append, log, key) for key in acknowledged]
        counts = []
        for seconds in (0.1, 3.0, 0.5):
            time.sleep(0.3)
            proxy.cut()
            time.sleep(seconds)
            counts.append(sum(map(len, acknowledged.values())))
            proxy.restore()
            patiently(lambda: sum(map(len, acknowledged.values())) > counts[-1] + 20)
        stop.set()
        assert [done.result() for done in appending] == [None] * len(acknowledged)
        partitions = {key: log.partition_of(key) for key in acknowledged}
        ends = {number: log.known_end(number) for number in partitions.values()}
        by_partition = contents(log, ends)
    for key, payloads in acknowledged.items():
        records = by_partition[partitions[key]]
        sent = [record for record in records if record.startswith(key.encode() + b" ")]
        assert set(payloads) <= set(sent)
        assert [record for record in sent if record in set(payloads)] == payloads


@BOTH_BROKERS
def test_reading_goes_on_after_an_outage(broker_and_proxy: Proxied) -> None:
    broker, proxy = broker_and_proxy
    with new_log(broker.servers, linger_ms=1) as log:
        log.append_to(0, [b"%d" % n for n in range(10)])
        partition = log.partition(0)
        assert len(read_to(partition, 10)) == 10
        proxy.cut()
        assert partition.read(10, 5) == []
        proxy.restore()
        patiently(lambda: log.problem is None)
        log.append_to(0, [b"more"])
        assert partition.read(10, 5) == [(10, b"more")]
        partition.close()


@pytest.mark.slow
@BOTH_BROKERS
def test_reads_wait_for_records_of_other_writers(broker_and_proxy: Proxied) -> None:
    broker, proxy = broker_and_proxy
    with new_log(broker.servers, linger_ms=1) as log:
        log.append_to(0, [b"%d" % n for n in range(10)])
        with KafkaLog(log.settings) as another:
            proxy.answers_after = 0.3
            partition = KafkaPartition(another, 0, wait_s=0.05)
            assert partition.read(0, 100) == [(n, b"%d" % n) for n in range(10)]
            proxy.answers_after = 0.0
            time.sleep(1)  # by now the client has heard that this is the end
            log.append_to(0, [b"more"])
            assert partition.end == 11
            assert partition.read(10, 100) == [(10, b"more")]
            assert partition.read(11, 100) == []
            partition.close()


@BOTH_BROKERS
def test_an_undelivered_record_is_an_error(broker_and_proxy: Proxied) -> None:
    broker, proxy = broker_and_proxy
    with new_log(broker.servers, linger_ms=1) as log:
        partition = KafkaPartition(log, 0, timeout_s=0.5)

        def delivered(offset: int, record: bytes) -> bool:
            with contextlib.suppress(LogUnreachableError):
                return partition.read(offset, 1) == [(offset, record)]
            return False

        log.append_to(0, [b"x"])
        patiently(lambda: delivered(0, b"x"))
        log.append_to(0, [b"y"])
        proxy.cut()
        with pytest.raises(LogUnreachableError, match=r"record 1 exists|no broker answers"):
            while not partition.read(1, 1):
                pass
            partition.read(0, 1)
        proxy.restore()
        patiently(lambda: delivered(1, b"y"))
        partition.close()


@pytest.mark.slow
def test_an_unknown_partition_is_verified_before_it_is_gone(
    kafka_servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from confluent_kafka import KafkaError, KafkaException

    with new_log(kafka_servers, linger_ms=1) as log:
        log.append_to(0, [b"x"])
        partition = KafkaPartition(log, 0, timeout_s=0.3)
        consumer = Mock(wraps=partition._consumer)
        unknown = KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
        consumer.get_watermark_offsets.side_effect = unknown
        monkeypatch.setattr(partition, "_consumer", consumer)
        with pytest.raises(LogUnreachableError, match="does not know it yet"):
            partition.read(0, 1)
        monkeypatch.setattr(client, "count_partitions", lambda *_: None)
        monkeypatch.setattr(client, "topic_exists", lambda *_: False)
        monkeypatch.setattr(topic_watch, "_BELIEVED_AFTER_S", 1.0)
        log.doubt()
        patiently(lambda: isinstance(log.problem, TopicError))
        with pytest.raises(TopicError, match="is not there any more"):
            partition.read(0, 1)
        partition.close()


@pytest.mark.parametrize("times", [1, 2])
def test_dropped_requests_are_repeated(
    kafka_servers: str, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """A client that learns of other brokers drops what it asked the ones it knew."""
    from confluent_kafka import KafkaError, KafkaException

    with new_log(kafka_servers, linger_ms=1) as log:
        log.append_to(0, [b"x"])
        partition = log.partition(0)
        consumer = Mock(wraps=partition._consumer)
        dropped = KafkaException(KafkaError(KafkaError._DESTROY_BROKER))
        consumer.get_watermark_offsets.side_effect = [*[dropped] * times, *[DEFAULT] * 9]
        monkeypatch.setattr(partition, "_consumer", consumer)
        assert partition.read(0, 1) == [(0, b"x")]
        assert consumer.get_watermark_offsets.call_count == times + 1
        partition.close()


VANISH = """
import sys
from confluent_kafka.admin import AdminClient
from tactful_streaming.errors import LogUnreachableError, TopicError
from tactful_streaming.kafka import topic_watch
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.kafka_partition import KafkaPartition

topic_watch._BELIEVED_AFTER_S = 1.0
settings = KafkaSettings(servers=sys.argv[1], topic=sys.argv[2], linger_ms=1)
ensure_topic(settings, consumer_threads=2)
texts = []
with KafkaLog(settings) as log:
    log.append_to(0, [b"x"])
    partition = KafkaPartition(log, 0, timeout_s=1.0)
    admin = AdminClient({"bootstrap.servers": settings.servers})
    admin.delete_topics([settings.topic], operation_timeout=10)[settings.topic].result()
    while not texts:
        try:
            partition.read(0, 1)
        except LogUnreachableError:
            pass
        except TopicError as error:
            texts.append(str(error))
    partition.close()
try:
    KafkaLog(settings)
except TopicError as error:
    texts.append(str(error))
print(*texts, sep="\\n")
"""


@pytest.mark.alone
def test_a_vanished_topic(kafka_servers: str) -> None:
    # The client library itself can crash over a topic that vanishes, so this has a process of its
    # own, which is begun again then, as a service manager would. On a busy machine it nearly always
    # does: that is the library's fault, and says nothing of the messages that are tested here.
    for _ in range(20):
        command = [sys.executable, "-c", VANISH, kafka_servers, topic_name()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        # What it does to memory that it has given back ends in one of these.
        if done.returncode not in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS):
            break
    else:
        pytest.skip("the client library crashed each of twenty times over the topic that vanished")
    assert done.returncode == 0, done.stderr
    reading, opening = done.stdout.splitlines()
    assert "If it was deleted, its records are lost" in reading
    assert "does not exist (all answers of 2 s report it missing): make it first" in opening


def test_a_topic_made_anew_does_not_hold_the_old_offset() -> None:
    with brokers.mock_cluster() as servers, KafkaLog(brokers.mock_topic(servers)) as log:
        log.append_to(0, [b"x"] * 3)
        partition = log.partition(0)
        with pytest.raises(OffsetError, match="offset 500 is outside the log"):
            partition.read(500, 1)
        partition.close()


def test_every_coroutine_gets_its_own_position(log: KafkaLog) -> None:
    async def run() -> dict[int, dict[int, bytes]]:
        commit = KeyedCommit(log)
        claimed: dict[int, dict[int, bytes]] = {n: {} for n in range(log.partitions)}

        async def client(name: int) -> None:
            for turn in range(20):
                sent = [b"%d.%d.%d" % (name, turn, n) for n in range(1 + (name + turn) % 4)]
                positions = await commit.append_keyed(sent, [f"{name}"] * len(sent))
                ((number, end),) = positions.items()
                claimed[number].update(enumerate(sent, end - len(sent)))

        await asyncio.gather(*(client(name) for name in range(30)))
        await commit.close()
        with pytest.raises(LogError, match="closing"):
            await commit.append_keyed([b"x"], ["u"])
        return claimed

    claimed = asyncio.run(run())
    ends = {number: len(records) for number, records in claimed.items() if records}
    by_partition = contents(log, ends)
    for number, records in by_partition.items():
        assert dict(enumerate(records)) == claimed[number]


def test_close_waits_for_appends_also_cancelled_ones(kafka_servers: str) -> None:
    async def run(log: KafkaLog) -> None:
        commit = KeyedCommit(log)
        gone = asyncio.create_task(commit.append_keyed([b"gone"], ["u"]))
        stays = asyncio.create_task(commit.append_keyed([b"stays"], ["u"]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await commit.close()
        assert await stays == {log.partition_of("u"): 2}

    with new_log(kafka_servers, linger_ms=300) as log:
        asyncio.run(run(log))
