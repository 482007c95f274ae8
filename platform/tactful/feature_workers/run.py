"""Worker processes: members of the group in threads, metrics, progress."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
from prometheus_client import CollectorRegistry, Gauge, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily

from tactful.config import logging as logs
from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.event_log.encryption import open_seal
from tactful.feature_workers.prepare import followed_erasures, prepare_worker
from tactful.metrics.public import PublicMetrics
from tactful.util.clock import now_ms
from tactful.util.process_tuning import freeze_living_objects, short_delays
from tactful.util.signals import on_stop_signals
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import FencedError, LogError, OnlineStoreError, StreamingError
from tactful_streaming.worker.worker import Worker, WorkerProgress

logger = logging.getLogger(__name__)

_SHOW_S = 1.0

_RESULTS = {"applied": "entries"} | {n: n for n in ("duplicates", "late", "invalid", "dropped")}
"""Count of `WorkerProgress` for each result of a record."""

_GAUGES = {
    "records": ("tactful_worker_lag_records", "Records to read", 1),
    "behind_ms": (
        "tactful_worker_behind_seconds",
        "Age of the newest record read, while more wait",
        1000,
    ),
    "watermark": (
        "tactful_worker_watermark_seconds",
        "Event time reached, seconds since the epoch",
        1000,
    ),
}
"""Metric, help and divisor for each field of `PartitionProgress`."""


def run_workers(
    settings: Settings, matches_topic: str | None, *, idle_exit: float | None, as_json: bool
) -> bool:
    """Compute features until a stop signal, or `idle_exit` seconds without progress.

    Returns:
        False if another worker took over its partitions; it should be started again.

    Raises:
        StorageError: if the log, the state or Redis cannot be used.
    """
    logs.configure(settings.logging)
    definitions = load_definitions(settings.features)
    with contextlib.ExitStack() as stack:
        erasures = stack.enter_context(followed_erasures(settings))
        try:
            seal = open_seal(settings, clock=now_ms)
            if seal is not None:
                stack.callback(seal.close)
            make = prepare_worker(settings, definitions, matches_topic, erasures, seal)
            freeze_living_objects()
            workers = _WorkerThreads(settings.worker.threads, make)
        except (LogError, OnlineStoreError) as error:
            raise StorageError(str(error)) from error
        stack.enter_context(short_delays())
        stack.enter_context(on_stop_signals(workers.stop))
        _watch(workers, _serve_metrics(settings), idle_exit, as_json)
    _show(workers.progress(), as_json)
    if isinstance(workers.failure, FencedError):
        click.echo(f"tactful: {workers.failure}", err=True)
        return False
    if isinstance(workers.failure, StreamingError):
        raise StorageError(str(workers.failure)) from workers.failure
    if workers.failure is not None:
        raise workers.failure
    return True


def _watch(
    workers: _WorkerThreads, metrics: _WorkerMetrics | None, idle_exit: float | None, as_json: bool
) -> None:
    """Show the progress of the workers until they end, or are idle for too long."""
    last, since = None, time.monotonic()
    while workers.wait(_SHOW_S):
        progress = workers.progress()
        if metrics is not None:
            metrics(progress)
        if progress != last:
            last, since = progress, time.monotonic()
            _show(progress, as_json)
        if idle_exit is not None and time.monotonic() - since >= idle_exit:
            workers.stop()


class _WorkerThreads:
    """Members of the worker group, a thread each; when one fails, all stop."""

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
        """Wait, and return whether any member still runs."""
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


class _WorkerMetrics:
    """Metrics of a worker process; labels are numbers of partitions.

    The totals of records are exact; Prometheus reads shares of them only.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._totals: Mapping[str, int] = {}
        self._gauges = {
            field: (Gauge(name, text, ["partition"], registry=registry), unit)
            for field, (name, text, unit) in _GAUGES.items()
        }
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "tactful_engine_records", "Log records the engines have seen", labels=["result"]
        )
        for result, count in _RESULTS.items():
            family.add_metric([result], self._totals.get(count, 0))
        yield family

    def __call__(self, workers: Sequence[WorkerProgress]) -> None:
        self._totals = _counts(workers)
        for field, (gauge, unit) in self._gauges.items():
            gauge.clear()
            for number, progress in _partitions(workers).items():
                gauge.labels(number).set(progress[field] / unit)


def _serve_metrics(settings: Settings) -> _WorkerMetrics | None:
    if not settings.worker.metrics_port:
        return None
    registry, public = CollectorRegistry(), CollectorRegistry()
    public.register(PublicMetrics(registry, time.monotonic))
    metrics = _WorkerMetrics(registry)
    host, port = settings.worker.metrics_host, settings.worker.metrics_port
    try:
        start_http_server(port, host, public)
    except OSError as error:
        raise StorageError(f"worker.metrics_port: {host}:{port}: {error.strerror}") from error
    return metrics


def _counts(workers: Sequence[WorkerProgress]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for progress in workers:
        for name, value in asdict(progress).items():
            if name != "partitions":
                totals[name] = totals.get(name, 0) + value
    return totals


def _partitions(workers: Sequence[WorkerProgress]) -> dict[int, Mapping[str, Any]]:
    return {
        number: asdict(at) for progress in workers for number, at in progress.partitions.items()
    }


def _show(workers: Sequence[WorkerProgress], as_json: bool) -> None:
    counts, partitions = _counts(workers), _partitions(workers)
    if as_json:
        click.echo(json.dumps({**counts, "partitions": partitions}))
        return
    lag = sum(at["records"] for at in partitions.values())
    click.echo(
        f"{len(partitions)} partitions, {counts.get('entries', 0)} entries applied, {lag} to read, "
        f"{counts.get('rows', 0)} rows written, {counts.get('actions', 0)} actions"
    )
