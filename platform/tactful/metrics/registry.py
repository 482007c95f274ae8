"""What the server counts about itself, for Prometheus.

Labels are routes, results and status classes. There is nothing of a person in them: no ids, no
items, no categories. Exact totals of what people did stay inside: `PublicMetrics` says what is read
of them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from tactful.metrics.multiprocess import SummedRegistry, Told, samples
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
        others: what other processes of the same server count.
    """

    def __init__(
        self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Register the metrics in `registry`; `clock` gives seconds that only grow."""
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

        # A series is looked up by its labels once, not at every request.
        self._series_of_ingested = functools.cache(self._ingested.labels)
        self._series_of_requests = functools.cache(self._requests.labels)
        self._series_of_answers = functools.cache(self._answers.labels)
        self._series_of_applied = functools.cache(self._applied.labels)

    def ingested(self, kind: str, result: str, count: int) -> None:
        """Count elements of an ingestion request."""
        if count:
            self._series_of_ingested(kind, result).inc(count)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` is the template of the path, never the path itself."""
        self._series_of_requests(route).observe(seconds)
        self._series_of_answers(route, status).inc()

    def applied(self, result: str, count: int) -> None:
        """Count log records the engine has gone through."""
        if count:
            self._series_of_applied(result).inc(count)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Offer a value that is read when the metrics are."""
        Gauge(f"tactful_{name}", text, registry=self._registry).set_function(read)

    def rules(self, report: Callable[[], RuleReport]) -> None:
        """Offer what rules set aside, as `report` says when the metrics are read."""
        self._registry.register(_DeadLetters(report))

    def samples(self) -> list[Told]:
        """Every number, exact, to be told to another process of the same server."""
        return samples(self._registry)

    def render(self) -> bytes:
        """The text Prometheus reads: of this process and of those in `others`."""
        return generate_latest(self._public)


class _DeadLetters(Collector):
    """A count that somebody else keeps, as Prometheus wants to see it."""

    def __init__(self, report: Callable[[], RuleReport]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "tactful_dead_letters",
            "Events that rules set aside since the start",
            value=self._report().dead_lettered,
        )
