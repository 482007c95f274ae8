"""``tactful worker``: what it measures and passes on, and a topic that vanishes under it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.support import wait_until
from tests.streaming.brokers import topic_name
from tests.streaming.redis_cluster import RedisCluster

from benchmarks.ports import free_port
from tactful.config.engine import EngineSettings
from tactful.config.load import load_settings
from tactful.config.privacy import StatisticsSettings
from tactful.config.server import WorkerSettings
from tactful.config.settings import Settings
from tactful.config.storage import LogSettings, OnlineSettings
from tactful.errors import ConfigError, StorageError
from tactful.feature_workers import prepare as feature_worker
from tactful.feature_workers.prepare_copier import prepare_copier
from tactful.feature_workers.status import serve_status
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.state.partition_checkpoint import PartitionState
from tactful_streaming.state.store import MemoryState
from tactful_streaming.worker.partition_job import JobOptions
from tactful_streaming.worker.progress import PartitionProgress, WorkerProgress
from tactful_streaming.worker.worker import WorkerOptions

EVENTS = 60


def configured(folder: Path, servers: str, topic: str) -> Path:
    file = folder / "tactful.toml"
    file.write_text(
        f'[storage]\ndata = "{folder / "data"}"\n'
        f'[log]\nkind = "kafka"\nbrokers = "{servers}"\ntopic = "{topic}"\nconsumer_threads = 1\n'
        f'[worker]\ngroup = "{topic}"\n'
    )
    return file


@contextmanager
def started(config: Path, output: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tactful", "worker", "--config", str(config), "--json", *more]
    with output.open("wb") as out, output.with_suffix(".err").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def applied(output: Path) -> int:
    lines = [line for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return int(json.loads(lines[-1]).get("entries", 0)) if lines else 0


def produce(servers: str, topic: str, count: int) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers})
    for number in range(count):
        event = Event(
            event_id=f"e{number}", type="view", timestamp=1_700_000_000_000, user_id=f"u{number}"
        )
        producer.produce(topic, encode_entry(event, "json"), partition=number % 2)
    assert producer.flush(30) == 0


def delete(servers: str, topic: str) -> None:
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": servers})
    admin.delete_topics([topic], operation_timeout=10)[topic].result(120)


def offsets(data: Path, topic: str) -> list[int]:
    found = []
    for number in range(2):
        state = PartitionState(data / "partitions" / f"{topic}-{number}")
        found.append(state.offset)
        state.close()
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.service("kafka")
def test_a_vanished_topic_is_told_and_its_state_stays(kafka_servers: str, tmp_path: Path) -> None:
    topic = topic_name()
    config = configured(tmp_path, kafka_servers, topic)
    with started(config, tmp_path / "first", "--supervise") as first:
        wait_until(lambda: "partitions" in (tmp_path / "first").read_text(), 120)
        produce(kafka_servers, topic, EVENTS)
        wait_until(lambda: applied(tmp_path / "first") == EVENTS, 120)
        delete(kafka_servers, topic)
        ended = first.wait(120)
    # The client library itself may crash over it; then the next one finds another topic, or none.
    said = (tmp_path / "first.err").read_text()
    assert ended == 1, said[-1500:]
    assert "If it was deleted" in said or ("it crashed" in said and "made anew" in said)
    with started(config, tmp_path / "second") as second:
        # The topic is made anew by whoever comes first, here the worker.
        assert second.wait(120) == 1
    lines = (tmp_path / "second.err").read_text().splitlines()
    (reason,) = [line for line in lines if line.startswith("tactful: ")]
    assert f"topic '{topic}'" in reason
    assert "deleted and made anew" in reason
    assert "move the state and its checkpoints away" in reason
    assert offsets(tmp_path / "data", topic) == [EVENTS // 2, EVENTS // 2]
    (tmp_path / "data").rename(tmp_path / "before")
    produce(kafka_servers, topic, 10)
    with started(config, tmp_path / "third") as third:
        wait_until(lambda: applied(tmp_path / "third") == 10, 120)
        third.terminate()
        assert third.wait(120) == 0
    assert offsets(tmp_path / "data", topic) == [5, 5]


def progress(**records: int) -> WorkerProgress:
    counts = ("rows", "actions", "handovers", "ticks", "late", "duplicates", "invalid", "dropped")
    partitions = {
        int(name[1:]): PartitionProgress(
            offset=9,
            committed=9,
            watermark=5000,
            records=waiting,
            behind_ms=waiting * 100,
            idle=False,
            paused=False,
        )
        for name, waiting in records.items()
    }
    totals = dict.fromkeys(counts, 0) | {"late": 1}
    return WorkerProgress(entries=7, partitions=partitions, **totals)


def test_prometheus_reads_how_far_each_partition_is_behind() -> None:
    port = free_port()
    gauges = serve_status(Settings(worker=WorkerSettings(metrics_port=port)), list)
    assert gauges is not None

    def scraped() -> dict[str, float]:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    gauges([progress(p0=17), progress(p3=0)])
    found = scraped()
    assert found['tactful_worker_lag_records{partition="0"}'] == 17
    assert found['tactful_worker_behind_seconds{partition="0"}'] == 1.7
    assert found['tactful_worker_lag_records{partition="3"}'] == 0
    assert found['tactful_worker_watermark_seconds{partition="3"}'] == 5
    assert found['tactful_engine_records_share{result="late"}'] == 1.0, "2 of 16, rounded up"
    assert found['tactful_engine_records_share{result="invalid"}'] == 0.0
    assert not {7, 14, 16} & set(found.values()), "no exact total of what people did"
    gauges([progress(p3=2)])
    found = scraped()
    assert found['tactful_worker_lag_records{partition="3"}'] == 2
    assert not any('partition="0"' in name for name in found), "it belongs to another worker now"
    with pytest.raises(StorageError, match=f"worker.metrics_port: 127.0.0.1:{port}"):
        serve_status(Settings(worker=WorkerSettings(metrics_port=port)), list)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[JobOptions, WorkerOptions]]:
    """Return a function that prepares a worker with some settings and returns its options."""
    made: list[Any] = []
    monkeypatch.setattr(
        feature_worker, "Worker", lambda _, options, pace: made.append((options, pace))
    )
    monkeypatch.setattr(feature_worker, "topic_id", lambda _: "an id")
    monkeypatch.setattr(feature_worker, "make_log_topic", lambda *_: 1)
    kafka = KafkaSettings("broker:9092", "log")
    monkeypatch.setattr(feature_worker, "kafka_settings", lambda _: kafka)
    definitions = load_definitions(
        "- {name: n, entity: user, event: view, aggregate: count, window: {size: 1m}}"
    )

    def prepare(**sections: Any) -> tuple[JobOptions, WorkerOptions]:
        settings = Settings(log=LogSettings(kind="kafka", brokers="broker:9092"), **sections)
        feature_worker.prepare_worker(settings, definitions, None)(0)
        options: tuple[JobOptions, WorkerOptions] = made.pop()
        return options

    return prepare


def test_old_dead_letters_are_forgotten_by_workers_too(
    prepared: Callable[..., tuple[JobOptions, WorkerOptions]],
) -> None:
    for days, expected in ((0.5, 43_200_000), (0.0, None)):
        options, _ = prepared(engine=EngineSettings(dead_letter_days=days))
        assert options.dead_letter_ms == expected
        assert options.topic_id == "an id"


def test_workers_follow_the_clock_of_the_settings(
    prepared: Callable[..., tuple[JobOptions, WorkerOptions]],
) -> None:
    """A worker appends ticks to the log under the same settings as the server does."""
    assert prepared()[1].sends_ticks
    assert not prepared(engine=EngineSettings(clock="events"))[1].sends_ticks
    assert not prepared(statistics=StatisticsSettings(clock="replay"))[1].sends_ticks


def test_workers_write_to_a_cluster(
    prepared: Callable[..., tuple[JobOptions, WorkerOptions]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All keys of a partition are in the slot of its number in braces."""
    with RedisCluster(tmp_path) as cluster:
        monkeypatch.setenv("TACTFUL_REDIS_URL", cluster.url)
        options, _ = prepared(online=OnlineSettings(kind="redis", cluster=True))
        assert options.online is not None
        options.online(7, MemoryState(), 0).close()
        (name,) = cluster.clients[cluster.node_of("{7}")].keys()
    assert name.endswith(b":{7}:@epoch:7")


def beside_flink(folder: Path, servers: str, topic: str) -> Settings:
    file = configured(folder, servers, topic)
    file.write_text(
        file.read_text()
        + '[engine]\nkind = "flink"\n[online]\nkind = "redis"\n[identity]\nenabled = false\n'
        f'[flink]\nentities_topic = "{topic}-entities"\nerased_topic = "{topic}-erased"\n'
    )
    return load_settings(file, environ={})


def test_the_topics_of_a_flink_job(
    tmp_path: Path, kafka_servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have the partitions of the log, and are compacted; others are refused."""
    from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

    monkeypatch.setenv("TACTFUL_REDIS_URL", "redis://127.0.0.1:1/0")
    topic = topic_name()
    settings = beside_flink(tmp_path, kafka_servers, topic)
    definitions = load_definitions(settings.features)
    prepare_copier(settings, definitions)
    admin = AdminClient({"bootstrap.servers": kafka_servers})
    named = [f"{topic}-entities", f"{topic}-erased"]
    known = admin.list_topics(timeout=30).topics
    assert [len(known[name].partitions) for name in (topic, *named)] == [2, 2, 1]
    for resource, future in admin.describe_configs(
        [ConfigResource(ConfigResource.Type.TOPIC, name) for name in named]
    ).items():
        assert future.result(30)["cleanup.policy"].value == "compact", resource
    ensure_topic(KafkaSettings(kafka_servers, f"{topic}-odd"), partitions=3)
    other = replace(settings, flink=replace(settings.flink, entities_topic=f"{topic}-odd"))
    with pytest.raises(StorageError, match="has 3 partitions and the log 2"):
        prepare_copier(other, definitions)
    items_alone = load_definitions(
        "- {name: n, entity: item, event: view, aggregate: count, window: {size: 1m}}"
    )
    with pytest.raises(ConfigError, match="there is nothing to copy"):
        prepare_copier(settings, items_alone)
