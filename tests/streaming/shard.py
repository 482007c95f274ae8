"""Support for tests of workers: a log in Kafka, and its uninterrupted results."""

import functools
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.streaming.brokers import session_ms

from benchmarks.kills import topics
from tactful_streaming.contract.log_entries import Entry, encode_entry, route_key
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.patterns.match import Match
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.triggers import WindowResult
from tactful_streaming.worker.output_rows import encode_matches, encode_results
from tactful_streaming.worker.partition_job import JobOptions

DEFINITIONS = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 5m, slide: 1m}}
- {name: spend, entity: user, event: purchase, aggregate: sum, of: properties.price,
   window: {size: 30m, slide: 10m, decay: 0.7}}
- {name: categories, entity: user, event: [view, purchase], aggregate: count, group_by: category,
   window: {size: 20m, slide: 5m, decay: 0.9}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: bought, entity: user, sequence: [view, purchase], within: 30m, emit: thanks}
"""

Logs = Mapping[int, Sequence[tuple[int, bytes]]]

Rows = dict[str, Any]
"""The last row under each key: what a table of the topic holds."""


@dataclass(frozen=True)
class Shard:
    """A log of a test's own."""

    log: KafkaLog
    options: JobOptions

    @property
    def kafka(self) -> KafkaSettings:
        return self.options.kafka


@contextmanager
def new_shard(
    servers: str, folder: Path, partitions: int = 4, *, lateness: int = 60_000, **options: Any
) -> Iterator[Shard]:
    name = uuid.uuid4().hex
    settings = [
        KafkaSettings(
            servers,
            topic=f"{what}-{name}",
            linger_ms=1,
            session_timeout_ms=session_ms(),
            delivery_timeout_ms=60_000,
        )
        for what in ("log", "fired", "matches")
    ]
    for one in settings:
        ensure_topic(one, consumer_threads=partitions // 2)
    made = JobOptions(
        kafka=settings[0],
        data=folder / "data",
        group=f"group-{name}",
        features_topic=settings[1].topic,
        matches_topic=settings[2].topic,
        engine=EngineOptions(watermark_delay_ms=30_000, allowed_lateness_ms=lateness),
        **options,
    )
    with KafkaLog(settings[0]) as log:
        yield Shard(log, made)


@functools.cache
def definitions() -> Definitions:
    return load_definitions(DEFINITIONS)


def append(shard: Shard, entries: Sequence[Entry]) -> Mapping[int, int]:
    """Append entries to the log; the ends of the partitions."""
    payloads = [encode_entry(entry, "json") for entry in entries]
    return shard.log.append(payloads, [route_key(entry) for entry in entries])


def read_topic(
    settings: KafkaSettings, *, uncommitted: bool = False
) -> dict[int, list[tuple[int, bytes]]]:
    """All records of a topic, with their offsets, by partition.

    If a producer was replaced while the broker still had requests of its transaction, the broker of
    the tests may never end that transaction, and so hide later commits of others.
    `uncommitted` reads these, too. It shows the records that were given up in any case: rows that
    come again with the same values.
    """
    return topics.read_topic(settings.servers, settings.topic, uncommitted=uncommitted)


def fired_table(shard: Shard, *, uncommitted: bool = False) -> Rows:
    """The last row of each feature, entity, group and window."""
    assert shard.options.features_topic is not None
    topic = replace(shard.kafka, topic=shard.options.features_topic)
    rows: Rows = {}
    for records in read_topic(topic, uncommitted=uncommitted).values():
        add_fired(rows, [value for _, value in records])
    return rows


def match_table(shard: Shard, *, uncommitted: bool = False) -> set[str]:
    assert shard.options.matches_topic is not None
    topic = replace(shard.kafka, topic=shard.options.matches_topic)
    found = read_topic(topic, uncommitted=uncommitted).values()
    return {value.decode() for records in found for _, value in records}


def add_fired(rows: Rows, records: Sequence[bytes]) -> None:
    for record in records:
        row = json.loads(record)
        value = row.pop("feature_value")
        rows[json.dumps(row, sort_keys=True)] = value


@dataclass
class Truth:
    """Results of an uninterrupted run."""

    fired: Rows
    matches: set[str]
    engines: dict[int, Engine]


def truth(shard: Shard, logs: Logs) -> Truth:
    """Apply whole partitions in one go, in memory."""
    made = Truth({}, set(), {})

    def fired(ones: list[WindowResult]) -> None:
        add_fired(made.fired, [value for _, value in encode_results(ones)])

    def matched(matches: list[Match]) -> None:
        made.matches.update(value.decode() for _, value in encode_matches(matches))

    for number, records in logs.items():
        engine = Engine(
            definitions(),
            MemoryState(),
            replace(shard.options.engine, on_results=fired, on_match=matched),
        )
        engine.apply(records)
        engine.commit()
        made.engines[number] = engine
    return made


def actions_of(logs: Logs) -> list[str]:
    """Ids of the actions in a log, as often as they are there."""
    entries = [json.loads(value) for records in logs.values() for _, value in records]
    return [entry["event_id"] for entry in entries if entry.get("type") == "x.thanks"]
