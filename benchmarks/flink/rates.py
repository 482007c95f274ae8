"""Cost of an event to the Flink job beside our own worker, on the same log, one after the other."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.figures import Figure
from benchmarks.flink.place import PARTITIONS, entities_job, entities_topic, kafka, ran
from benchmarks.services import redis
from benchmarks.streaming.events import Topic, fill
from benchmarks.streaming.flink import Flink, Run, flink
from tactful.config.settings import PACKAGED_FEATURES
from tactful.metadata.connections import online_tag
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.online.comparison import RedisSide, compare_sides
from tactful_streaming.online.store import RedisOnlineStore

FIGURES = (
    ("flink_events_per_s", "events/s"),
    ("flink_cpu_us_per_event", "us"),
    ("flink_copier_cpu_us_per_event", "us"),
    ("flink_worker_events_per_s", "events/s"),
    ("flink_worker_cpu_us_per_event", "us"),
)
_POLL_S, _REST_S, _START_S = 0.02, 15.0, 300.0
_ROOT = Path(__file__).resolve().parents[2]


def rates(quick: bool, scratch: Path) -> list[Figure]:
    """Run the job, the copier of its values, and a worker over one log in turn.

    Raises:
        RuntimeError: if the values of both differ.
    """
    count, rounds = (50_000, 1) if quick else (400_000, 3)
    definitions = load_definitions(PACKAGED_FEATURES)
    runs: list[tuple[Run, Run, Run]] = []
    with ExitStack() as stack:
        servers = stack.enter_context(kafka(scratch))
        url = stack.enter_context(redis(scratch))
        cluster = stack.enter_context(flink(scratch))
        warming = fill(servers, f"warm-{uuid.uuid4().hex[:12]}", count // 4)
        _job(cluster, warming, definitions)
        for number in range(rounds):
            Redis.from_url(url).flushall()
            log = fill(servers, f"rate-{uuid.uuid4().hex[:12]}", count)
            job = _job(cluster, log, definitions)
            copier = _ours("copier", log, url, scratch / f"copier-{number}")
            worker = _ours("worker", log, url, scratch / f"worker-{number}")
            _check(url, definitions)
            runs.append((job, copier, worker))
    note = (
        f"{count:,} events, packaged definitions, {PARTITIONS} partitions, one after the other; "
        "CPU of the TaskManager with one subtask, of the worker that copies its values to Redis, "
        "and of the engine's worker with one thread; all values equal in Redis"
    )
    jobs, copiers, workers = zip(*runs, strict=True)
    values = (
        [run.events / run.wall_s for run in jobs],
        _costs(jobs),
        _costs(copiers),
        [run.events / run.wall_s for run in workers],
        _costs(workers),
    )
    return [_figure(*named, of, note) for named, of in zip(FIGURES, values, strict=True)]


def _costs(runs: Sequence[Run]) -> list[float]:
    return [1e6 * run.cpu_s / run.events for run in runs]


def _figure(name: str, unit: str, values: Sequence[float], note: str) -> Figure:
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return Figure(name, middle, unit, ordered[0], ordered[-1], len(ordered), note)


def _job(cluster: Flink, log: Topic, definitions: Definitions) -> Run:
    """Run the job as it serves, which publishes values all the while, until the log is read."""
    options = entities_job(log.servers, log.name, parallelism=1)
    script = compile_flink(definitions, options).text
    with entities_topic(options) as opened:
        return cluster.run_until(script, log.count, lambda: _await_rest(opened))


def _await_rest(partitions: Sequence[KafkaPartition]) -> float:
    """Return when the last row was published, once none has come for a while."""
    rows, changed, began = 0, time.time(), time.time()
    while not rows or time.time() - changed < _REST_S:
        if (present := sum(partition.end for partition in partitions)) != rows:
            rows, changed = present, time.time()
        if not rows and time.time() - began > _START_S:
            raise TimeoutError(f"the job published nothing within {_START_S:g} s")
        time.sleep(_POLL_S)
    return changed


def _ours(kind: str, log: Topic, redis_url: str, folder: Path) -> Run:
    words = [kind, log.servers, log.name, str(log.count), redis_url, str(folder)]
    output = ran([sys.executable, "-m", "benchmarks.flink.job", *words], f"the {kind}", cwd=_ROOT)
    took: dict[str, Any] = json.loads(output.splitlines()[-1])
    return Run(took["events"], took["cpu_s"], took["wall_s"])


def _check(redis_url: str, definitions: Definitions) -> None:
    with ExitStack() as stack:
        sides = []
        for prefix in ("copier", "worker"):
            store = RedisOnlineStore(redis_url, prefix=prefix, tag=online_tag(definitions))
            sides.append(RedisSide(prefix, stack.enter_context(closing(store)), PARTITIONS))
        found = compare_sides(sides[0], sides[1], definitions, settle=lambda: True)
    if found.different or not found.kinds[0].both:
        raise RuntimeError(f"{found.different} values of the job and the worker are different")
