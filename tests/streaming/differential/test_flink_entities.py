"""The engine and Flink: packed entities of random definitions and logs, read value by value.

Flink starts once and runs one job for each log. What it publishes last of each entity is read by
the engine's own code, and has to give what the engine itself gives.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.streaming.brokers import patiently
from tests.streaming.flink_cluster import (
    LocalFlink,
    append,
    flink_processes,
    local_flink,
    write_log,
)
from tests.streaming.random_definitions import random_definitions
from tests.streaming.random_streams import START, random_stream

from tactful.config.settings import PACKAGED_FEATURES
from tactful_streaming.contract.log_entries import Entry, Event, Restricted, encode_entry
from tactful_streaming.definitions.model import Definitions, Feature, ForwardDecay
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.entities import entities_tag, entity_hash, entity_kinds
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.flink.rest_client import FlinkCluster, build_runner
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.entity_table import read_packed
from tactful_streaming.worker.copied_partition import Copied

pytestmark = [pytest.mark.service("flink"), pytest.mark.service("kafka")]

Record = Callable[[str, object], None]
Published = Mapping[tuple[str, str], tuple[int, bytes]]
"""Offset behind the last record counted, and packed value, by kind and key."""

_ODD = ("ä b", "", "☃", "𝔘", "\U0001f600|x", "a.b:c", "device:d1", "ﬀ", "quote \" \\ '")

LARGE = """
- {name: kinds, entity: user, event: view, aggregate: count, group_by: item_id, max_groups: 30,
   window: {size: 1h, slide: 1m, decay: 0.97}}
- {name: prices, entity: user, event: view, aggregate: mean, of: properties.price,
   group_by: session_id, max_groups: 3, window: {size: 20m, slide: 1m}}
- {name: last, entity: user, event: view, aggregate: last, of: properties.price,
   window: {size: 20m, slide: 5m}}
- {name: times, entity: user, event: view, aggregate: last_time, group_by: item_id, max_groups: 50}
- {name: different, entity: user, event: view, aggregate: distinct, of: item_id,
   window: {size: 2h, slide: 1h}}
- {name: exactly, entity: user, event: view, aggregate: distinct, of: item_id, sketch: exact,
   max_groups: 100, window: {size: 1h, slide: 20m}}
- {name: top, entity: user, event: view, aggregate: top_k, of: item_id, n: 9, max_groups: 100,
   window: {size: 1h, slide: 20m}}
- {name: middle, entity: user, event: view, aggregate: quantile, of: properties.price, q: 0.5,
   window: {size: 1h, slide: 20m}}
- {name: upper, entity: user, event: view, aggregate: quantile, of: properties.price, q: 0.83,
   window: {size: 1h, slide: 20m}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 40}
- {name: faded, entity: user, event: view, aggregate: count, window: {half_life: 10m}}
- {name: visit_top, entity: session, event: view, aggregate: top_k, of: item_id, n: 5,
   max_groups: 20, window: {gap: 1m}}
- {name: visit_middle, entity: session, event: view, aggregate: quantile, of: properties.price,
   q: 0.9, window: {gap: 1m}}
- {name: visit_different, entity: session, event: view, aggregate: distinct, of: item_id,
   window: {gap: 5m}}
"""


@pytest.fixture(scope="module")
def flink(flink_home: Path) -> Iterator[LocalFlink]:
    with local_flink(flink_home) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(200, 212))
def test_random_definitions(
    seed: int, flink: LocalFlink, kafka_servers: str, record_property: Record
) -> None:
    rng = random.Random(seed)
    definitions = random_definitions(seed, 24, sequences=1, joins=0)
    logs = [odd_stream(seed + part, 1500) for part in range(rng.choice([1, 3]))]
    options = EngineOptions(
        watermark_delay_ms=rng.choice([0, 5000, 60_000]),
        allowed_lateness_ms=rng.choice([0, 0, 60_000, 1_000_000]),
    )
    compared = check(flink, kafka_servers, definitions, logs, options)
    record_property("values_compared", compared)
    assert compared > 300


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_packaged_definitions(flink: LocalFlink, kafka_servers: str) -> None:
    definitions = load_definitions(PACKAGED_FEATURES)
    logs = [odd_stream(seed, 3000) for seed in (1, 2)]
    options = EngineOptions(watermark_delay_ms=5000, allowed_lateness_ms=300_000)
    assert check(flink, kafka_servers, definitions, logs, options) > 1000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_large_states(flink: LocalFlink, kafka_servers: str) -> None:
    """Groups beyond their bound, sketches beyond their lists, and packed again and again."""
    definitions = load_definitions(LARGE)
    rng = random.Random(5)
    log: list[Entry] = []
    for number in range(6000):
        timestamp = START + 400 * number + rng.choice([0, 0, -rng.randrange(400_000)])
        texts = [f"t{rng.randrange(90_000)}", rng.choice(_ODD), f"\U0001f600{number % 40}"]
        (text,) = rng.choices(texts, [6, 1, 1])
        log.append(
            Event(
                event_id=f"e{number}",
                type="view",
                timestamp=timestamp,
                user_id=rng.choice(["ada", "ada", "bob"]),
                session_id=f"s{number // 900}",
                item_id=text or None,
                properties={"price": rng.choice([rng.gauss(0, 1e6), rng.gauss(0, 9), -0.0])},
            )
        )
    options = EngineOptions(watermark_delay_ms=5000, allowed_lateness_ms=60_000)
    assert check(flink, kafka_servers, definitions, [log], options) > 100


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_erased_people_only_advance_time(flink: LocalFlink, kafka_servers: str) -> None:
    definitions = random_definitions(200, 24, sequences=0, joins=0)
    options = EngineOptions(
        watermark_delay_ms=5000, suppressed=frozenset({"u1", "device:d1", "device:d0", "☃"})
    )
    log = odd_stream(200, 1500)
    assert check(flink, kafka_servers, definitions, [log], options) > 300


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_lost_worker_of_the_cluster_changes_no_value(
    flink_home: Path, kafka_servers: str, tmp_path: Path
) -> None:
    """Values and marks come again from the last checkpoint, and end as if nothing had been."""
    definitions = load_definitions(PACKAGED_FEATURES)
    name = uuid.uuid4().hex
    options = EngineOptions(watermark_delay_ms=5000, allowed_lateness_ms=300_000)
    job = replace(job_of(kafka_servers, name, options), checkpoint_ms=300, state_backend="rocksdb")
    logs = [odd_stream(seed, 4000) for seed in (7, 8)]
    write_log(kafka_servers, job.topic, [[], []])
    with (
        flink_processes(flink_home, tmp_path) as processes,
        FlinkCluster(processes.url) as cluster,
    ):
        jar = cluster.upload(build_runner(flink_home))
        running = cluster.run(jar, compile_flink(definitions, job).text)
        for begin in range(0, 4000, 1000):
            for number, log in enumerate(logs):
                append(kafka_servers, job.topic, log[begin : begin + 1000], partition=number)
            if begin in (1000, 2000):
                time.sleep(1.5)
                processes.kill_worker()
                processes.start()
        patiently(lambda: reached(kafka_servers, job, definitions) == [4000, 4000], 180)
        assert cluster.state(running) == "RUNNING"
        cluster.cancel(running)
    for number, log in enumerate(logs):
        engine = Engine(definitions, MemoryState(), options)
        engine.apply([(offset, encode_entry(entry)) for offset, entry in enumerate(log)])
        published = read_entities(kafka_servers, job.entities_topic, number, definitions)
        assert compare(engine, definitions, published) > 500


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_entities_that_no_feature_reads_are_removed(
    flink_home: Path, kafka_servers: str, tmp_path: Path
) -> None:
    """By the time of the log, and unless an event came meanwhile."""
    definitions = load_definitions(
        "- {name: n, entity: user, event: view, aggregate: count, window: {size: 1s}}\n"
    )
    options = EngineOptions(watermark_delay_ms=0, allowed_lateness_ms=0)
    job = replace(job_of(kafka_servers, uuid.uuid4().hex, options), look_ms=1000)
    write_log(kafka_servers, job.topic, [[]])

    def view(number: int, user: str, after_ms: int) -> Entry:
        return Event(event_id=str(number), type="view", timestamp=START + after_ms, user_id=user)

    def rows() -> list[tuple[str, bool]]:
        """User, and whether there is a value."""
        found = read_rows(kafka_servers, job.entities_topic, 0)
        return [(row[4], row[5] is not None) for row in found if row is not None and row[0] == 0]

    with (
        flink_processes(flink_home, tmp_path) as processes,
        FlinkCluster(processes.url) as cluster,
    ):
        script = compile_flink(definitions, job).text
        running = cluster.run(cluster.upload(build_runner(flink_home)), script)
        append(kafka_servers, job.topic, [view(1, "ada", 0), view(2, "bob", 500)])
        patiently(lambda: {("ada", True), ("bob", True)} <= set(rows()), 120)
        time.sleep(3)
        assert ("ada", False) not in rows(), "no time has passed in the log"
        append(kafka_servers, job.topic, [view(3, "cyd", 3000), view(4, "bob", 3000)])
        patiently(lambda: ("ada", False) in rows(), 60)
        assert ("bob", False) not in rows()
        append(kafka_servers, job.topic, [view(5, "ada", 3500)])
        patiently(lambda: rows()[-1] == ("ada", True), 60)
        cluster.cancel(running)


def reached(servers: str, job: FlinkOptions, definitions: Definitions) -> list[int | None]:
    """Offset that the last marks of each partition reach."""
    offsets: list[int | None] = []
    for number in range(2):
        copied = Copied()
        for row in read_rows(servers, job.entities_topic, number):
            if row is not None and row[0] == 1:
                _, _, offset, kind, subtask, subtasks, *_ = row
                copied.note(kind, subtask, subtasks, offset)
        copied.advance(entity_kinds(definitions))
        offsets.append(copied.reached)
    return offsets


def odd_stream(seed: int, count: int) -> list[Entry]:
    """A random stream in which some ids are odd, and some events restricted to purposes."""
    rng = random.Random(-seed)
    entries: list[Entry] = []
    for entry in random_stream(seed, count):
        if isinstance(entry, Event) and rng.random() < 0.1:
            entry = msgspec.structs.replace(entry, user_id=rng.choice(_ODD))
        if isinstance(entry, Event) and rng.random() < 0.05:
            entry = msgspec.structs.replace(entry, session_id=rng.choice(_ODD))
        if isinstance(entry, Event) and rng.random() < 0.1:
            sender = rng.choice(["browser", "server"])
            entry = msgspec.structs.replace(entry, sender=sender)
        if isinstance(entry, Event) and rng.random() < 0.1:
            purposes = rng.choice([("personalisation",), ("measurement",), ()])
            entry = Restricted(timestamp=entry.timestamp, purposes=purposes, event=entry)
        entries.append(entry)
    return entries


def check(
    flink: LocalFlink,
    servers: str,
    definitions: Definitions,
    logs: Sequence[Sequence[Entry]],
    options: EngineOptions,
) -> int:
    """Compute logs by both, and compare all values; return the number of compared values."""
    name = uuid.uuid4().hex
    ends = write_log(servers, f"log-{name}", logs)
    job = replace(job_of(servers, name, options), end_offsets=ends)
    erase(servers, job.erased_topic, options.suppressed)
    flink.run(compile_flink(definitions, job).text, timeout=800)
    compared = 0
    for number, log in enumerate(logs):
        engine = Engine(definitions, MemoryState(), options)
        engine.apply([(offset, encode_entry(entry)) for offset, entry in enumerate(log)])
        published = read_entities(servers, job.entities_topic, number, definitions)
        compared += compare(engine, definitions, published)
    return compared


def job_of(servers: str, name: str, options: EngineOptions) -> FlinkOptions:
    return FlinkOptions(
        servers,
        topic=f"log-{name}",
        entities_topic=f"entities-{name}",
        erased_topic=f"erased-{name}",
        output="entities",
        group_id=name,
        watermark_delay_ms=options.watermark_delay_ms,
        allowed_lateness_ms=options.allowed_lateness_ms,
        parallelism=2,
        state_backend="hashmap",
    )


def erase(servers: str, topic: str, people: Any) -> None:
    """Write the erased people to their topic, if there are any."""
    from confluent_kafka import Producer

    if not people:
        return
    ensure_topic(KafkaSettings(servers, topic), partitions=1, compacted=True)
    producer = Producer({"bootstrap.servers": servers})
    for person in people:
        producer.produce(topic, key=entity_hash("user", person).encode(), value=b"user")
    assert producer.flush(60) == 0


def compare(engine: Engine, definitions: Definitions, published: Published) -> int:
    """Compare what is read of every entity of a partition, at times from the newest on.

    Returns:
        The number of values that are something.
    """
    compared = 0
    for kind in entity_kinds(definitions):
        features = definitions.of_entity(kind)
        known = set(engine._state.tables[kind]._rows.row_of)
        assert {key for of, key in published if of == kind} >= known
        for key in known:
            _, blob = published[kind, key]
            # At the newest event, when most windows hold something, and as they age.
            for later in (0, 1, 9_000, 61_000, 300_000, 3_600_000, 40 * 86_400_000):
                at = engine._state.admission.newest + later
                expected, got = engine.read(kind, key, at), read_packed(features, blob, at)
                for feature in features:
                    value = expected.get(feature.name)
                    assert_equal(feature, value, got.get(feature.name), key)
                    compared += bool(value)
    return compared


def assert_equal(feature: Feature, expected: Any, got: Any, key: str) -> None:
    """Values are equal bit by bit; decayed by a half-life, to the last bits of a power of two."""
    if isinstance(feature.window, ForwardDecay):
        expected, got = pytest.approx(expected, rel=1e-14, abs=1e-300), got
    assert got == expected, (feature, key)


def read_entities(
    servers: str, topic: str, partition: int, definitions: Definitions
) -> dict[tuple[str, str], tuple[int, bytes]]:
    """The last published value of each entity in a partition of the topic."""
    found: dict[tuple[str, str], tuple[int, bytes]] = {}
    for row in read_rows(servers, topic, partition):
        if row is not None and row[0] == 0:
            _, tag, counted, kind, key, packed = row
            assert tag == entities_tag(definitions)
            found[kind, key] = counted, packed
    return found


def read_rows(servers: str, topic: str, partition: int) -> list[Any]:
    """All rows of a partition; None for a tombstone."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "test", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, partition, 0)])
    rows: list[Any] = []
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
    at = 0
    while at < end:
        for record in consumer.consume(5000, 0.5):
            offset, value = record.offset(), record.value()
            assert record.error() is None and offset is not None
            at = offset + 1
            rows.append(None if value is None else msgspec.msgpack.decode(value))
    consumer.close()
    return rows
