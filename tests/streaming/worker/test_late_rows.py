"""Rows of late events, each with the features that it does not count for."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tests.streaming.shard import append, definitions, new_shard, read_topic
from tests.streaming.streams import random_entries

from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import LateEvent
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.state.store import MemoryState
from tactful_streaming.worker.options import WorkerOptions
from tactful_streaming.worker.worker import Worker

pytest.importorskip("confluent_kafka")


def test_a_worker_writes_late_events_with_the_features_they_miss(
    kafka_servers: str, tmp_path: Path
) -> None:
    with new_shard(kafka_servers, tmp_path, lateness=0) as shard:
        late_topic = f"late-{shard.kafka.topic}"
        options = replace(shard.options, late_topic=late_topic)
        ensure_topic(replace(shard.kafka, topic=late_topic), consumer_threads=1)
        ends = append(shard, random_entries(5, 2_000))
        # Killed before it had committed everything, and begun anew: some rows come twice.
        for enough in (0.5, 1.0):
            worker = Worker(
                definitions(), options, pace=WorkerOptions(batch=100, idle_ms=200), now=lambda: 0
            )
            while sum(job.offset for job in worker.jobs.values()) < enough * sum(ends.values()):
                worker.step()
            if enough == 1.0:
                worker.commit()
                worker.close()
            else:
                worker.abandon()
        expected: Counter[tuple[int, int, str]] = Counter()
        events: dict[tuple[int, int], bytes] = {}

        def late(ones: list[LateEvent]) -> None:
            for one in ones:
                expected.update((one.partition, one.offset, name) for name in one.features)

        for number, records in read_topic(shard.kafka).items():
            events.update({(number, offset): payload for offset, payload in records})
            engine = Engine(
                definitions(),
                MemoryState(),
                replace(options.engine, partition=number, on_late=late),
            )
            engine.apply(records)
        found: set[tuple[int, int, str]] = set()
        late_rows = read_topic(replace(shard.kafka, topic=late_topic), uncommitted=True)
        for records in late_rows.values():
            for _, value in records:
                row = json.loads(value)
                place = (row["partition"], row["offset"])
                assert row["event"] == json.loads(events[place])
                found |= {(*place, feature) for feature in row["features"]}
        assert found == set(expected)
        assert len(found) > 100
