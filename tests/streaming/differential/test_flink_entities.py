"""The engine and Flink: packed entities of random definitions and logs, read value by value.

Flink starts once and runs one job for each log. What it publishes last of each entity is read by
the engine's own code, and has to give what the engine itself gives.
"""

import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.streaming.flink_cluster import LocalFlink, local_flink, write_log
from tests.streaming.random_definitions import random_definitions
from tests.streaming.random_streams import random_stream

from tactful.config.settings import PACKAGED_FEATURES
from tactful_streaming.contract.log_entries import Entry, Event, Restricted, encode_entry
from tactful_streaming.definitions.model import Definitions, Feature, ForwardDecay
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.entities import entities_tag, entity_kinds
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.entity_table import read_packed

pytestmark = [pytest.mark.service("flink"), pytest.mark.service("kafka")]

Record = Callable[[str, object], None]
Published = Mapping[tuple[str, str], tuple[int, bytes]]
"""Offset behind the last record counted, and packed value, by kind and key."""

_ODD = ("ä b", "", "☃", "𝔘", "\U0001f600|x", "a.b:c", "device:d1", "ﬀ", "quote \" \\ '")


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
    job = FlinkOptions(
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
        end_offsets=write_log(servers, f"log-{name}", logs),
    )
    flink.run(compile_flink(definitions, job).text, timeout=800)
    compared = 0
    for number, log in enumerate(logs):
        engine = Engine(definitions, MemoryState(), options)
        engine.apply([(offset, encode_entry(entry)) for offset, entry in enumerate(log)])
        published = read_entities(servers, job.entities_topic, number, definitions)
        compared += compare(engine, definitions, published)
    return compared


def compare(engine: Engine, definitions: Definitions, published: Published) -> int:
    """Compare what is read of every entity of a partition, at times from the newest on."""
    compared = 0
    for kind in entity_kinds(definitions):
        features = definitions.of_entity(kind)
        known = set(engine._state.tables[kind]._rows.row_of)
        assert {key for of, key in published if of == kind} >= known
        for key in known:
            _, blob = published[kind, key]
            for later in (0, 1, 61_000, 3_600_000, 40 * 86_400_000):
                at = engine._state.admission.newest + 300_000 + later
                expected, got = engine.read(kind, key, at), read_packed(features, blob, at)
                for feature in features:
                    assert_equal(feature, expected.get(feature.name), got.get(feature.name), key)
                    compared += 1
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
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "test", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, partition, 0)])
    found: dict[tuple[str, str], tuple[int, bytes]] = {}
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
    at = 0
    while at < end:
        for record in consumer.consume(5000, 0.5):
            offset, value = record.offset(), record.value()
            assert record.error() is None and offset is not None and value is not None
            at = offset + 1
            row = msgspec.msgpack.decode(value)
            if row[0] == 0:
                _, tag, counted, kind, key, packed = row
                assert tag == entities_tag(definitions)
                assert record.key() == f"{kind}:{key}".encode()
                found[kind, key] = counted, packed
    consumer.close()
    return found
