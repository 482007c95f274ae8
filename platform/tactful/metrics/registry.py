"""Metrics of the server, for Prometheus.

Labels are routes, results and status codes, never personal data: no ids, items or categories.
Exact totals of user activity are not published: see `tactful.metrics.public`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from tactful.metrics.multiprocess import SampleRow, SummedRegistry, samples
from tactful.metrics.public import PublicMetrics
from tactful_streaming.rules.rules import RuleReport

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()

_REQUEST_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_FRESHNESS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)


class Metrics:
    """All metrics of one server, in a registry of their own.

    Attributes:
        freshness: seconds from accepting an event until its features were visible.
        impressions_lost: impressions that could not be logged because the log was full.
        commits_refused: commits of the engine's state that the disk refused; they are repeated.
        actions: actions of sequences and joins that were appended to the log.
        others: metrics of other processes of the same server.
    """

    def __init__(
        self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Register the metrics in `registry`; `clock` returns monotonic seconds."""
        self._registry = registry
        self.others = SummedRegistry(registry)
        self._public = PublicMetrics(self.others, clock)
        self._ingested = Counter(
            "tactful_ingested_total",
            "Elements of ingestion requests, by kind and result",
            ("kind", "result"),
            registry=registry,
        )
        self._requests = Histogram(
            "tactful_request_seconds",
            "Time from the head of a request to the end of its answer",
            ("route",),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self._answers = Counter(
            "tactful_answers_total",
            "Answers by route and status",
            ("route", "status"),
            registry=registry,
        )
        self._applied = Counter(
            "tactful_engine_records_total",
            "Log records the engine has seen, by result",
            ("result",),
            registry=registry,
        )
        self.freshness = Histogram(
            "tactful_freshness_seconds",
            "Time from accepting an event until its features are visible",
            buckets=_FRESHNESS_BUCKETS,
            registry=registry,
        )
        self.impressions_lost = Counter(
            "tactful_impressions_lost_total",
            "Impressions that could not be logged because the log had no room",
            registry=registry,
        )
        self.commits_refused = Counter(
            "tactful_commits_refused_total",
            "Commits of the engine's state that the disk refused; each is tried again",
            registry=registry,
        )
        self.actions = Counter(
            "tactful_actions_total",
            "Actions of sequences and joins that were appended to the log",
            registry=registry,
        )

        # Looking a series up by its labels at every request would be slow.
        self._series_of_ingested = functools.cache(self._ingested.labels)
        self._series_of_requests = functools.cache(self._requests.labels)
        self._series_of_answers = functools.cache(self._answers.labels)
        self._series_of_applied = functools.cache(self._applied.labels)

    def ingested(self, kind: str, result: str, count: int) -> None:
        """Count elements of an ingestion request."""
        if count:
            self._series_of_ingested(kind, result).inc(count)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a response; `route` is the template of the path, never the path itself."""
        self._series_of_requests(route).observe(seconds)
        self._series_of_answers(route, status).inc()

    def applied(self, result: str, count: int) -> None:
        """Count log records that the engine has read."""
        if count:
            self._series_of_applied(result).inc(count)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Register a gauge; `read` is called when the metrics are read."""
        Gauge(f"tactful_{name}", text, registry=self._registry).set_function(read)

    def rules(self, report: Callable[[], RuleReport]) -> None:
        """Register the count of events that rules set aside."""
        self._registry.register(_DeadLetters(report))

    def samples(self) -> list[SampleRow]:
        """Return all samples, exact, to send them to another process of the same server."""
        return samples(self._registry)

    def render(self) -> bytes:
        """Return the text that Prometheus reads, of this process and of `others`."""
        return generate_latest(self._public)


class _DeadLetters(Collector):
    """Collector of the count in a report of rules."""

    def __init__(self, report: Callable[[], RuleReport]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "tactful_dead_letters",
            "Events that rules set aside since the start",
            value=self._report().dead_lettered,
        )
