"""The engine's worker, or the copier of a Flink job, on a log that is there: what it takes.

Usage: python -m benchmarks.flink.job KIND SERVERS TOPIC COUNT REDIS FOLDER

KIND is `worker` or `copier`. Both write to Redis, under their kind as prefix. The last line printed
is JSON: events, cpu_s (of all threads, from the first batch on) and wall_s.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.flink.place import DELAY_MS, LATENESS_MS
from tactful.config.settings import PACKAGED_FEATURES
from tactful.metadata.connections import online_tag
from tactful.pipeline.online_features import shared_definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.online.fenced_store import FencedRedisStore, redis_online
from tactful_streaming.worker.entity_copier import CopierOptions, EntityCopier
from tactful_streaming.worker.partition_job import JobOptions
from tactful_streaming.worker.worker import Worker, WorkerOptions

_PUBLISH_S, _COMMIT_S = 0.004, 0.05
"""As `tactful worker` with Redis does."""

_PATIENCE_S = 600.0

_Member = tuple[Callable[[], object], Callable[[], None], Callable[[], int]]
"""Of a member of a group: a step, its end, and the number of events that it has come to."""


def main(kind: str, servers: str, topic: str, count: int, redis_url: str, folder: Path) -> None:
    """Run the worker over `count` events of `topic`, or copy what a job made of them."""
    step, close, applied = {"worker": _worker, "copier": _copier}[kind](
        servers, topic, redis_url, folder
    )
    until = time.monotonic() + _PATIENCE_S
    try:
        while not applied():
            started = time.perf_counter(), time.process_time()
            step()
            assert time.monotonic() < until, "nothing is read"
        while (reached := applied()) < count:
            step()
            assert time.monotonic() < until, f"only {reached} of {count} events were reached"
        wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    finally:
        close()
    print(json.dumps({"events": count, "cpu_s": cpu, "wall_s": wall}))


def _worker(servers: str, topic: str, redis_url: str, folder: Path) -> _Member:
    definitions = load_definitions(PACKAGED_FEATURES)
    options = JobOptions(
        kafka=KafkaSettings(servers, topic),
        data=folder,
        group=f"{topic}-worker",
        engine=EngineOptions(watermark_delay_ms=DELAY_MS, allowed_lateness_ms=LATENESS_MS),
        online=redis_online(redis_url, prefix="worker", tag=online_tag(definitions)),
    )
    pace = WorkerOptions(
        publish_interval_s=_PUBLISH_S, commit_interval_s=_COMMIT_S, sends_ticks=False
    )
    worker = Worker(shared_definitions(definitions), options, pace=pace)
    return worker.step, worker.close, lambda: sum(job.offset for job in worker.jobs.values())


def _copier(servers: str, topic: str, redis_url: str, _: Path) -> _Member:
    definitions = load_definitions(PACKAGED_FEATURES)
    options = CopierOptions(
        kafka=KafkaSettings(servers, f"{topic}-entities"),
        log_topic=topic,
        erased_topic=f"{topic}-erased",
        group=f"{topic}-copier",
        owner=topic,
        open_store=partial(
            FencedRedisStore, redis_url, prefix="copier", tag=online_tag(definitions)
        ),
    )
    copier = EntityCopier(definitions, options)
    return copier.step, copier.close, lambda: sum(c.reached for c in copier.partitions.values())


if __name__ == "__main__":
    kind, servers, topic, count, redis_url, folder = sys.argv[1:]
    main(kind, servers, topic, int(count), redis_url, Path(folder))
