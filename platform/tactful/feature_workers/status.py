"""Metrics and readiness of a worker process over HTTP, and its progress on standard output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from http.server import ThreadingHTTPServer
from threading import Thread
from typing import Any

import click
from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import MetricsHandler

from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.metrics.public import PublicMetrics
from tactful_streaming.worker.progress import WorkerProgress

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


class WorkerMetrics:
    """Metrics of a worker process; labels are numbers of partitions.

    The totals of records are exact; Prometheus reads shares of them only.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics."""
        self._totals: Mapping[str, int] = {}
        self._gauges = {
            field: (Gauge(name, text, ["partition"], registry=registry), unit)
            for field, (name, text, unit) in _GAUGES.items()
        }
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Return the counts of records."""
        family = CounterMetricFamily(
            "tactful_engine_records", "Log records the engines have seen", labels=["result"]
        )
        for result, count in _RESULTS.items():
            family.add_metric([result], self._totals.get(count, 0))
        yield family

    def __call__(self, workers: Sequence[WorkerProgress]) -> None:
        """Replace the figures by those of the present progress."""
        self._totals = _counts(workers)
        for field, (gauge, unit) in self._gauges.items():
            gauge.clear()
            for number, progress in _partitions(workers).items():
                gauge.labels(number).set(progress[field] / unit)


def serve_status(settings: Settings, problems: Callable[[], Sequence[str]]) -> WorkerMetrics | None:
    """Serve metrics, ``/healthz`` and ``/readyz`` on the configured port, if any.

    `problems` returns the reasons why the process computes nothing at present.
    """
    if not settings.worker.metrics_port:
        return None
    own, public = CollectorRegistry(), CollectorRegistry()
    public.register(PublicMetrics(own, time.monotonic))
    metrics = WorkerMetrics(own)

    class Handler(MetricsHandler):
        registry = public

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in ("/healthz", "/readyz"):
                self._answer([] if path == "/healthz" else problems())
            else:
                super().do_GET()

        def _answer(self, found: Sequence[str]) -> None:
            body = json.dumps({"status": "failed" if found else "ok", "problems": [*found]})
            self.send_response(503 if found else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

    host, port = settings.worker.metrics_host, settings.worker.metrics_port
    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise StorageError(f"worker.metrics_port: {host}:{port}: {error.strerror}") from error
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return metrics


def show_progress(workers: Sequence[WorkerProgress], as_json: bool) -> None:
    """Print the progress of all members as one line."""
    counts, partitions = _counts(workers), _partitions(workers)
    if as_json:
        click.echo(json.dumps({**counts, "partitions": partitions}))
        return
    lag = sum(at["records"] for at in partitions.values())
    click.echo(
        f"{len(partitions)} partitions, {counts.get('entries', 0)} entries applied, {lag} to read, "
        f"{counts.get('rows', 0)} rows written, {counts.get('actions', 0)} actions"
    )


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
