"""Kafka, and settings of processes that compute one log in it, each under a prefix of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.apache_kafka import Cluster, named_servers
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.online.store import RedisOnlineStore

PARTITIONS = 2
DELAY_MS, LATENESS_MS = 5_000, 300_000
"""The defaults of `engine.watermark_delay_ms` and `engine.allowed_lateness_ms`."""

_POLL_S = 0.05


@contextlib.contextmanager
def kafka(scratch: Path) -> Iterator[str]:
    """Run an Apache Kafka unless `TACTFUL_TEST_KAFKA` names one; its address.

    Raises:
        FileNotFoundError: if there is none here.
    """
    if named := named_servers():
        yield named
        return
    cluster = Cluster(scratch / "kafka")
    try:
        yield cluster.servers
    finally:
        cluster.stop()


@dataclass(frozen=True)
class Log:
    """A topic of events, new and empty."""

    servers: str
    topic: str

    def settings(self, kind: str, prefix: str, redis_url: str | None) -> dict[str, str]:
        """Return the settings of processes of one side, as environment variables.

        Args:
            kind: `flink` or `embedded`.
            prefix: of its keys in Redis.
            redis_url: of Redis; None: a server alone computes everything.
        """
        shared = {
            "TACTFUL_LOG__KIND": "kafka",
            "TACTFUL_LOG__BROKERS": self.servers,
            "TACTFUL_LOG__TOPIC": self.topic,
            "TACTFUL_LOG__CONSUMER_THREADS": str(PARTITIONS // 2),
            "TACTFUL_ENGINE__KIND": kind,
            "TACTFUL_FLINK__ENTITIES_TOPIC": f"{self.topic}-entities",
            "TACTFUL_FLINK__ERASED_TOPIC": f"{self.topic}-erased",
            "TACTFUL_IDENTITY__ENABLED": "false",
            "TACTFUL_CONSENT__DEFAULT": "assume",
            "TACTFUL_WORKER__GROUP": f"{self.topic}-{prefix}",
            "TACTFUL_SERVER__AFTER_WAIT_S": "60",
        }
        if redis_url is None:
            return shared
        redis = {"KIND": "redis", "PREFIX": prefix}
        shared |= {f"TACTFUL_ONLINE__{name}": value for name, value in redis.items()}
        return {**shared, "TACTFUL_REDIS_URL": redis_url}


def new_log(servers: str) -> Log:
    """Make a topic with a name of its own."""
    log = Log(servers, f"bench-{uuid.uuid4().hex[:12]}")
    ensure_topic(KafkaSettings(servers, log.topic), partitions=PARTITIONS)
    return log


def entities_job(servers: str, topic: str, *, parallelism: int) -> FlinkOptions:
    """Return the options of the job that serves from a log of `PARTITIONS` partitions."""
    return FlinkOptions(
        servers,
        topic,
        output="entities",
        entities_topic=f"{topic}-entities",
        erased_topic=f"{topic}-erased",
        group_id=f"{topic}-flink",
        watermark_delay_ms=DELAY_MS,
        allowed_lateness_ms=LATENESS_MS,
        parallelism=parallelism,
    )


@contextlib.contextmanager
def entities_topic(options: FlinkOptions) -> Iterator[list[KafkaPartition]]:
    """Make the topics that a job writes and reads beside the log; open that of its values."""
    entities = KafkaSettings(options.servers, options.entities_topic)
    ensure_topic(entities, partitions=PARTITIONS, compacted=True)
    erased = KafkaSettings(options.servers, options.erased_topic)
    ensure_topic(erased, partitions=1, compacted=True)
    with contextlib.closing(KafkaLog(entities)) as topic, contextlib.ExitStack() as stack:
        opened = (contextlib.closing(topic.partition(number)) for number in range(PARTITIONS))
        yield [stack.enter_context(one) for one in opened]


def ran(command: Sequence[str], what: str, **options: Any) -> str:
    """Run a command and return its output; `options` are those of `subprocess.run`.

    Raises:
        RuntimeError: if it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{what} failed: {done.stderr[-500:]}")
    return str(done.stdout)


def marks(store: RedisOnlineStore) -> dict[int, int]:
    """Return the offsets up to which the copy in Redis includes the log."""
    found = {number: store.marked(number) for number in range(PARTITIONS)}
    return {number: offset for number, offset in found.items() if offset is not None}


def await_true(holds: Callable[[], bool], seconds: float, absent: str) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: if it does not in time.
    """
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError(f"{absent} within {seconds:g} s")
        time.sleep(_POLL_S)


def compared(
    settings: Mapping[str, str], folder: Path, *against: str, timeout_s: float = 120
) -> dict[str, Any]:
    """Return the report of ``tactful flink compare`` on one side and another.

    Raises:
        RuntimeError: if they could not be compared.
    """
    report = folder / "compared.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tactful", "flink", "compare", *against]
    done = subprocess.run(
        [*command, "--timeout", str(timeout_s), "--json", str(report)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr[-500:])
    found: dict[str, Any] = json.loads(report.read_text("utf-8"))
    return found


def values_in(report: Mapping[str, Any], definitions: Definitions) -> int:
    """Return the number of values that a report has compared."""
    both = {kind["entity"]: kind["both"] for kind in report["kinds"]}
    return sum(count * len(definitions.of_entity(kind)) for kind, count in both.items())
