"""``tactful worker``: computes features on a share of the log's partitions, beside its like."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tactful.clock import now_ms
from tactful.command_options import config_option, data_option
from tactful.config import Settings, load_settings, secret
from tactful.errors import ConfigError, StorageError
from tactful.stop_signals import on_stop_signals

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

    from tactful.partition_erasures import PartitionErasures
    from tactful_streaming import Definitions, Erasures, Seal, Worker, WorkerProgress

logger = logging.getLogger(__name__)

FENCED = 75
"""Exit code that asks to be started again: this process was silent for too long."""

_FRESH_S = 0.004
_KEPT_S = 0.05
_SHOW_S = 1.0
_FOLLOW_S = 0.25

_RESULTS = {
    "applied": "entries",
    "duplicates": "duplicates",
    "late": "late",
    "invalid": "invalid",
    "dropped": "dropped",
}


@click.command()
@config_option
@data_option
@click.option("--threads", type=click.IntRange(1, 256), help="Members this process is.")
@click.option("--fired-topic", help="Topic for windows that fire.")
@click.option("--matches-topic", help="Topic for matches of sequences and pairs of joins.")
@click.option("--supervise", is_flag=True, help="Start it again when it crashes or asks for it.")
@click.option("--idle-exit", type=click.FloatRange(min=0), help="End after so many idle seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, one object a line.")
def worker(
    config: Path | None,
    data: Path | None,
    threads: int | None,
    fired_topic: str | None,
    matches_topic: str | None,
    supervise: bool,
    idle_exit: float | None,
    as_json: bool,
) -> None:
    """Compute features on a share of the log in Kafka, until SIGTERM or Ctrl-C.

    Start as many as there are cores, on any number of hosts: they share the partitions, and the
    others go on with those of one that ends or dies. Exit code 75 means: start it again.
    """
    settings = load_settings(
        config,
        overrides={
            "storage.data": data,
            "worker.threads": threads,
            "worker.fired_topic": fired_topic,
        },
    )
    if settings.log.kind != "kafka":
        raise ConfigError('log.kind is "embedded": workers share the partitions of a log in Kafka')
    if supervise:
        from tactful.supervision import supervise_this

        supervise_this(again=FENCED)
    from tactful import interpreter, logs
    from tactful.record_seal import open_seal
    from tactful_streaming import (
        FencedError,
        LogError,
        OnlineStoreError,
        StreamingError,
        load_definitions,
    )

    logs.configure(settings.logging)
    definitions = load_definitions(settings.features)
    with contextlib.ExitStack() as stack:
        erasures = stack.enter_context(followed_erasures(settings))
        try:
            seal = open_seal(settings, clock=now_ms)
            if seal is not None:
                stack.callback(seal.close)
            make = prepare_worker(settings, definitions, matches_topic, erasures, seal)
            interpreter.keep_what_is()
            crew = _Crew(settings.worker.threads, make)
        except (LogError, OnlineStoreError) as error:
            raise StorageError(str(error)) from error
        stack.enter_context(interpreter.short_delays())
        stack.enter_context(on_stop_signals(crew.stop))
        metrics = _serve_metrics(settings)
        last, since, shown = None, time.monotonic(), False
        while crew.wait(_SHOW_S):
            progress = crew.progress()
            if metrics is not None:
                metrics(progress)
            changed = progress != last
            if changed:
                last, since = progress, time.monotonic()
            if changed or not shown:
                _show(progress, as_json)
                shown = True
            if idle_exit is not None and time.monotonic() - since >= idle_exit:
                crew.stop()
    _show(crew.progress(), as_json)
    if isinstance(crew.failure, FencedError):
        click.echo(f"tactful: {crew.failure}", err=True)
        sys.exit(FENCED)
    if isinstance(crew.failure, StreamingError):
        raise StorageError(str(crew.failure)) from crew.failure
    if crew.failure is not None:
        raise crew.failure


class _Crew:
    """Members of the group, each in a thread of its own; when one fails, all stop."""

    def __init__(self, count: int, make: Callable[[int], Worker]) -> None:
        self.failure: BaseException | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._progress: dict[int, WorkerProgress] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(number, make), name=f"worker-{number}")
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def wait(self, seconds: float) -> bool:
        """Wait; whether anybody is still at work."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        return any(thread.is_alive() for thread in self._threads)

    def progress(self) -> list[WorkerProgress]:
        with self._lock:
            return [progress for _, progress in sorted(self._progress.items())]

    def _run(self, number: int, make: Callable[[int], Worker]) -> None:
        def progress(done: WorkerProgress) -> None:
            with self._lock:
                self._progress[number] = done

        worker: Worker | None = None
        try:
            worker = make(number)
            worker.run(self._stopping.is_set, progress)
            worker.close()
        except BaseException as error:
            logger.exception("a worker stops")
            self.failure = self.failure or error
            if worker is not None:
                worker.abandon()
        finally:
            self._stopping.set()


@contextlib.contextmanager
def followed_erasures(settings: Settings) -> Iterator[PartitionErasures]:
    """Who was erased, followed as long as the context lasts."""
    from tactful.connections import open_installation
    from tactful.partition_erasures import PartitionErasures
    from tactful.suppression import open_suppression

    settings.storage.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not settings.metadata.url_env:
        logger.warning(
            "the metadata is in %s: erasures reach this worker only if the server keeps its "
            "metadata there, too; name the server's database by metadata.url_env",
            settings.storage.data,
        )
    with contextlib.closing(open_installation(settings)) as metadata:
        suppression = open_suppression(settings, metadata, clock=now_ms)
        erasures = PartitionErasures(metadata, suppression, clock=now_ms)
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(_FOLLOW_S):
                try:
                    erasures.refresh()
                except Exception as error:
                    logger.warning("erasures are as they were: %s", error)

        thread = threading.Thread(target=follow, name="erasures", daemon=True)
        thread.start()
        try:
            yield erasures
        finally:
            ended.set()
            thread.join()


def prepare_worker(
    settings: Settings,
    definitions: Definitions,
    matches_topic: str | None,
    erasures: Erasures | None = None,
    seal: Seal | None = None,
) -> Callable[[int], Worker]:
    """Make the topics, and what makes a member of the group."""
    from tactful.connections import kafka_settings, make_topic, online_tag, retention_ms
    from tactful.linking import identity_of
    from tactful.shared_features import shared_definitions
    from tactful_streaming import JobOptions, Worker, load_rules, redis_online, topic_id

    kafka = kafka_settings(settings.log)
    computed = definitions
    if make_topic(settings.log, kafka) > 1:
        computed = shared_definitions(definitions)
        if left_out := len(definitions.all) - len(computed.all):
            logger.info("%d definitions of items and categories are the server's", left_out)
    fired_topic = settings.worker.fired_topic or None
    late_topic = settings.worker.late_topic or None
    for topic in filter(None, (fired_topic, matches_topic, late_topic)):
        make_topic(settings.log, replace(kafka, topic=topic))
    online = None
    if settings.online.kind == "redis":
        if settings.online.cluster:
            raise ConfigError(
                "online.cluster: workers write to one Redis, which can tell a former owner of a "
                "partition from the present one; a cluster cannot"
            )
        url = secret("online.url_env", settings.online.url_env)
        assert url is not None
        online = redis_online(
            url,
            prefix=settings.online.prefix,
            tag=online_tag(definitions),
            ttl_s=settings.online.ttl_days * 86_400 or None,
        )
    share = settings.worker
    options = JobOptions(
        kafka=kafka,
        data=settings.storage.data,
        group=share.group,
        features_topic=fired_topic,
        matches_topic=matches_topic,
        late_topic=late_topic,
        topic_id=topic_id(kafka),
        checkpoints=None if share.checkpoints == Path() else share.checkpoints,
        dead_letter_ms=retention_ms(settings.engine.dead_letter_days),
        dedupe_days=settings.engine.dedupe_days,
        watermark_delay_ms=settings.engine.watermark_delay_ms,
        allowed_lateness_ms=settings.engine.allowed_lateness_ms,
        memory_bytes=settings.engine.memory_mb * 1024 * 1024 or None,
        identity=identity_of(settings.identity),
    )
    rules = settings.engine.rules
    commit_s = settings.engine.commit_ms / 1000

    def make(number: int) -> Worker:
        return Worker(
            computed,
            options,
            online=online,
            cleaner=None if rules == Path() else lambda: load_rules(rules),
            erasures=erasures,
            seal=seal,
            publish_interval_s=None if online is None else _FRESH_S,
            # Many small commits hold the interpreter lock for less long than a large one.
            commit_interval_s=commit_s if online is None else min(commit_s, _KEPT_S),
            checkpoint_interval_s=share.checkpoint_s,
            idle_ms=round(share.idle_s * 1000),
            alignment_ms=share.lead_ms,
            instance=f"{share.instance}-{number}" if share.instance else None,
        )

    return make


class _Counts:
    """Exact totals of a worker process, which stay inside; Prometheus reads shares of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.totals: Mapping[str, int] = {}
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(
            "tactful_engine_records", "Log records the engines have seen", labels=["result"]
        )
        for result, count in _RESULTS.items():
            family.add_metric([result], self.totals.get(count, 0))
        yield family


@dataclass(frozen=True)
class _Gauges:
    """Metrics of a worker process; labels are numbers of partitions."""

    counts: _Counts
    lag: Any
    behind: Any
    watermark: Any

    def __call__(self, crew: Sequence[WorkerProgress]) -> None:
        self.counts.totals = _counts(crew)
        for gauge in (self.lag, self.behind, self.watermark):
            gauge.clear()
        for number, at in _partitions(crew).items():
            self.lag.labels(number).set(at["records"])
            self.behind.labels(number).set(at["behind_ms"] / 1000)
            self.watermark.labels(number).set(at["watermark"] / 1000)


def _serve_metrics(settings: Settings) -> _Gauges | None:
    if not settings.worker.metrics_port:
        return None
    from prometheus_client import CollectorRegistry, Gauge, start_http_server

    from tactful.public_metrics import PublicMetrics

    registry, public = CollectorRegistry(), CollectorRegistry()
    public.register(PublicMetrics(registry, time.monotonic))
    made = _Gauges(
        _Counts(registry),
        Gauge("tactful_worker_lag_records", "Records to read", ["partition"], registry=registry),
        Gauge(
            "tactful_worker_behind_seconds",
            "Age of the newest record read, while more wait",
            ["partition"],
            registry=registry,
        ),
        Gauge(
            "tactful_worker_watermark_seconds",
            "Event time reached, seconds since the epoch",
            ["partition"],
            registry=registry,
        ),
    )
    host, port = settings.worker.metrics_host, settings.worker.metrics_port
    try:
        start_http_server(port, host, public)
    except OSError as error:
        raise StorageError(f"worker.metrics_port: {host}:{port}: {error.strerror}") from error
    return made


def _counts(crew: Sequence[WorkerProgress]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for progress in crew:
        for name, value in asdict(progress).items():
            if name != "partitions":
                totals[name] = totals.get(name, 0) + value
    return totals


def _partitions(crew: Sequence[WorkerProgress]) -> dict[int, Mapping[str, Any]]:
    return {number: asdict(at) for progress in crew for number, at in progress.partitions.items()}


def _show(crew: Sequence[WorkerProgress], as_json: bool) -> None:
    counts, partitions = _counts(crew), _partitions(crew)
    if as_json:
        click.echo(json.dumps({**counts, "partitions": partitions}))
        return
    lag = sum(at["records"] for at in partitions.values())
    click.echo(
        f"{len(partitions)} partitions, {counts.get('entries', 0)} entries applied, {lag} to read, "
        f"{counts.get('rows', 0)} rows written, {counts.get('actions', 0)} actions"
    )
