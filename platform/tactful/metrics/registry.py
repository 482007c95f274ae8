"""Metrics of the server, for Prometheus.

Labels are routes, results and status codes, never personal data: no ids, items or categories.
Exact totals of user activity are not published: see `tactful.metrics.public`.
"""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from tactful.metrics.public import PublicMetrics
from tactful.metrics.readings import Reader
from tactful.metrics.tracing import Traces
from tactful_streaming.rules.rules import RuleReport

SampleRow = tuple[str, dict[str, str], float]
"""Name, labels and value of a sample: ``("tactful_answers_total", {"status": "200"}, 17.0)``."""

RecommendationKind = Literal["complete", "fallback", "not_personal", "overloaded"]
"""How complete a recommendation is: with fewer items, without consent, or under overload."""

Stage = Literal["log", "apply", "commit", "recall", "rank", "arrange"]
"""Part of the work on events and requests."""

LABELS = frozenset(
    {
        "code",
        "kind",
        "le",
        "quantile",
        "result",
        "route",
        "source",
        "stage",
        "state",
        "status",
        "step",
        "task",
    }
)
"""Names of all labels; each has a few values that the code names, and none is personal."""

_Key = tuple[str, tuple[tuple[str, str], ...]]
_GROWING = ("_total", "_bucket", "_count", "_sum")
CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()

_REQUEST_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STEPS = frozenset({"click", "add_to_cart", "purchase"})
"""Event types that count as steps of a visit."""

_STAGE_BUCKETS = (*(x / 10_000 for x in (1, 2, 5, 10, 20, 50, 100, 200, 500)), 0.1, 0.5, 2.0)
_LOW_SCORES = (-10.0, -5.0, -2.0, -1.0, -0.5, -0.2, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
_SCORE_BUCKETS = (*_LOW_SCORES, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0)
_STAGE_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)
_PHRASE_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_FRESHNESS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)


class Metrics:
    """All metrics of one server, in a registry of their own.

    `others` has the metrics of other processes of the same server. A route in a label is the
    template of a path, never the path.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
        *,
        tenant: str = "",
    ) -> None:
        """Register the metrics in `registry`; `clock` returns monotonic seconds.

        With a `tenant`, every published sample has its name as the label ``tenant``.
        """
        self._registry = registry
        self._tenant = tenant
        self.others = SummedRegistry(registry)
        self._public = PublicMetrics(self.others, clock)
        self._clock = clock
        self.traces: Traces | None = None  # makes spans beside the metrics, if it is switched on

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        text = "Elements of ingestion requests, by kind and result"
        self._ingested = counter("tactful_ingested_total", text, "kind", "result")
        text = "Elements of ingestion requests that were rejected, by kind and code"
        self._rejected = counter("tactful_rejections_total", text, "kind", "code")
        text = "Recommendations, by how complete they are"
        self._recommended = counter("tactful_recommendations_total", text, "kind")
        text = "Error lines of the server's log"
        self.errors = counter("tactful_logged_errors_total", text)
        text = "Messages of other programs, by source, kind and result"
        self._sourced = counter("tactful_source_messages_total", text, "source", "kind", "result")
        text = "Answers by route and status"
        self.answers = counter("tactful_answers_total", text, "route", "status")
        text = "Log records the engine has seen, by result"
        self._applied = counter("tactful_engine_records_total", text, "result")
        text = "Impressions that could not be logged because the log had no room"
        self.impressions_lost = counter("tactful_impressions_lost_total", text)
        text = "Commits of the engine's state that the disk refused; each is tried again"
        self.commits_refused = counter("tactful_commits_refused_total", text)
        text = "Actions of sequences and joins that were appended to the log"
        self.actions = counter("tactful_actions_total", text)
        self.requests = Histogram(
            "tactful_request_seconds",
            "Time from the head of a request to the end of its answer",
            ("route",),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.freshness = Histogram(
            "tactful_freshness_seconds",
            "Time from accepting an event until its features are visible",
            buckets=_FRESHNESS_BUCKETS,
            registry=registry,
        )
        text = "Recommendations by length: whole, short or empty"
        self._lists = counter("tactful_recommended_lists_total", text, "result")
        text = "Steps of visits: recommendation, click, add_to_cart, purchase"
        self._steps = counter("tactful_steps_total", text, "step")
        text = "Federated rounds by result: done or failed"
        self.federated_rounds = counter("tactful_federated_rounds_total", text, "result")
        self._scores = Histogram(
            "tactful_recommendation_score",
            "Scores of first items of recommendations",
            buckets=_SCORE_BUCKETS,
            registry=registry,
        )
        self._stages = Histogram(
            "tactful_stage_seconds",
            "Time of a stage: log, apply, commit; recall, rank and arrange of a recommendation",
            ("stage",),
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        text = "Attempts of background tasks that failed; each is tried again"
        self._failed = counter("tactful_task_failures_total", text, "task")
        # Looking a series up by its labels at every request would be slow.
        self._series_of_ingested = functools.cache(self._ingested.labels)
        self._series_of_applied = functools.cache(self._applied.labels)
        self._series_of_sourced = functools.cache(self._sourced.labels)
        self._series_of_recommended = functools.cache(self._recommended.labels)
        self._series_of_stage = functools.cache(self._stages.labels)
        self._series_of_list = functools.cache(self._lists.labels)
        self._series_of_step = functools.cache(self._steps.labels)
        text = "Spoken questions: heard, refused with a reason, or unavailable"
        self._phrases = counter("tactful_phrases_total", text, "result")
        self._phrase_seconds = _phrase_seconds(registry)

    def ingested(self, kind: str, result: str, count: int) -> None:
        """Count elements of an ingestion request."""
        if count:
            self._series_of_ingested(kind, result).inc(count)

    def rejected(self, kind: str, codes: Iterable[str]) -> None:
        """Count rejected elements by code, as the API documents the codes."""
        for code in codes:
            self._rejected.labels(kind, code).inc()

    def recommended(self, kind: RecommendationKind) -> None:
        """Count a recommendation."""
        self._series_of_recommended(kind).inc()

    def stage(self, stage: Stage, seconds: float) -> None:
        """Note the time of one stage."""
        self._series_of_stage(stage).observe(seconds)
        if self.traces is not None:
            self.traces.stage(stage, seconds)

    def phrase(self, result: str, seconds: float) -> None:
        """Count a spoken question: ``heard``, ``unavailable``, or the reason why it is refused."""
        self._phrases.labels(result).inc()
        self._phrase_seconds.observe(seconds)

    def failed(self, task: str) -> None:
        """Count a failed attempt of a background task, by its name in the code."""
        self._failed.labels(task).inc()

    def sourced(self, source: str, kind: str, result: str, count: int) -> None:
        """Count messages of a source; kinds are those of `tactful.sources.mapping`."""
        self._series_of_sourced(source, kind, result).inc(count)

    def applied(self, result: str, count: int) -> None:
        """Count log records that the engine has read."""
        if count:
            self._series_of_applied(result).inc(count)

    def listed(self, asked: int, found: int, score: float | None = None) -> None:
        """Count a recommendation of `asked` items, of which some were found.

        `score` is that of the first item, None where scores are no margins of the ranking.
        """
        result = "whole" if found >= asked else "short" if found else "empty"
        self._series_of_list(result).inc()
        self._series_of_step("recommendation").inc()
        if score is not None:
            self._scores.observe(score)

    def stepped(self, types: Iterable[str]) -> None:
        """Count events that are steps of a visit, by their types."""
        for step, count in collections.Counter(types).items():
            if step in STEPS:
                self._series_of_step(step).inc(count)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Register a gauge; `read` is called when the metrics are read."""
        Gauge(f"tactful_{name}", text, registry=self._registry).set_function(read)

    def gauges(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        """Register gauges by the values of a label; `read` returns all of them."""
        self._registry.register(_Gauges(f"tactful_{name}", text, label, read))

    def rules(self, report: Callable[[], RuleReport]) -> None:
        """Register the count of events that rules set aside."""
        self._registry.register(_DeadLetters(report))

    def samples(self) -> list[SampleRow]:
        """Return all samples, exact, to send them to another process of the same server."""
        return _rows(self._registry)

    def reader(self) -> Reader:
        """Return a reader of all metrics as numbers, of this process and of `others`."""
        return Reader(self.others, self._public, self._clock)

    def all_samples(self) -> list[SampleRow]:
        """Return all samples, exact, of this process and of `others`; not to be published."""
        return _rows(self.others)

    def render(self) -> bytes:
        """Return the text that Prometheus reads, of this process and of `others`."""
        return generate_latest(
            _Labelled(self._public, self._tenant) if self._tenant else self._public
        )


class _Labelled(Collector):
    """Collector that adds the name of a tenant to every sample of another one."""

    def __init__(self, collector: Collector, tenant: str) -> None:
        """Label the samples of `collector`."""
        self._collector = collector
        self._tenant = tenant

    def collect(self) -> Iterator[Metric]:
        """Yield the families for `generate_latest`."""
        for family in self._collector.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "tenant": self._tenant})
                for sample in family.samples
            ]
            yield family


def _phrase_seconds(registry: CollectorRegistry) -> Histogram:
    return Histogram(
        "tactful_phrase_seconds",
        "Time of a spoken question until its text is known or it is refused",
        buckets=_PHRASE_BUCKETS,
        registry=registry,
    )


def _rows(collector: Collector) -> list[SampleRow]:
    return [
        (sample.name, dict(sample.labels), float(sample.value))
        for family in collector.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


class SummedRegistry(Collector):
    """Registry whose numbers include the samples of other processes.

    Families are those of this process: others are left out.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Add to the numbers of `registry`."""
        self._registry = registry
        self._others: dict[int, dict[_Key, float]] = {}
        self._ended: dict[_Key, float] = {}

    def take(self, process: int, rows: Iterable[SampleRow]) -> None:
        """Replace the samples of a process."""
        self._others[process] = {_key(name, labels): value for name, labels, value in rows}

    def end(self, process: int) -> None:
        """Drop the gauges of an ended process; keep its counts: a sum must not decrease."""
        for key, value in self._others.pop(process, {}).items():
            if key[0].endswith(_GROWING):
                self._ended[key] = self._ended.get(key, 0.0) + value

    def collect(self) -> Iterator[Metric]:
        """Yield the families for `generate_latest`."""
        others = [*self._others.values(), self._ended]
        for family in self._registry.collect():
            if any(others):
                family.samples = _added(family, others)
            yield family


def _added(family: Metric, others: Sequence[dict[_Key, float]]) -> list[Sample]:
    names = {family.name, *(family.name + suffix for suffix in _GROWING)}
    sums: dict[_Key, float] = {}
    for numbers in others:
        for key, value in numbers.items():
            if key[0] in names:
                sums[key] = sums.get(key, 0.0) + value
    own = [
        sample._replace(value=sample.value + sums.pop(_key(sample.name, sample.labels), 0.0))
        for sample in family.samples
    ]
    return own + [Sample(name, dict(labels), value) for (name, labels), value in sums.items()]


def _key(name: str, labels: dict[str, str]) -> _Key:
    return name, tuple(sorted(labels.items()))


class _Gauges(Collector):
    """Collector of numbers by the values of one label."""

    def __init__(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._read = read

    def describe(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(self._name, self._text, labels=[self._label])

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label])
        for value, number in sorted(self._read().items()):
            family.add_metric([value], number)
        yield family


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
