"""Public view of the metrics for Prometheus, without exact totals of activity.

A total of events or requests that is read twice reveals whether a certain user was active between.
So such totals are not published; operators get quantiles of durations over the last minute, and
failures of events as a share of all. Failures of the machine itself are counted exactly. The number
of users is a question for a published statistic.

These figures are rounded and carry no noise: they are for operators, behind a key, and no
substitute for a release.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

WINDOW_S = 60.0
"""Span of quantiles and shares."""

LEVELS = (0.0, 0.001, 0.01, 0.1, 1.0)
"""Levels that a share is rounded up to."""

QUANTILES = (0.5, 0.99)

_BETWEEN_S = 5.0

_Labels = tuple[tuple[str, str], ...]
_Numbers = Mapping[tuple[str, _Labels], float]

FAILURES = frozenset(
    {
        "tactful_answers",
        "tactful_impressions_lost",
        "tactful_commits_refused",
        "tactful_logged_errors",
        "tactful_federated_rounds",
        "tactful_task_failures",
    }
)
"""Counters of failures, published exactly; of responses only those with an error status."""

UNPUBLISHED = frozenset({"tactful_recommendation_score"})
"""Histograms that are not published: a minute may hold the scores of one user alone."""

_INGESTED = "tactful_ingested"
_RECORDS = "tactful_engine_records"
_LETTERS = "tactful_dead_letters"
_SOURCED = "tactful_source_messages"
_REJECTIONS = "tactful_rejections"


class PublicMetrics:
    """Published families, computed from exact ones.

    A counter that is not named in this module is left out: publishing is a decision.
    """

    def __init__(self, exact: Collector, clock: Callable[[], float]) -> None:
        """Read from `exact`; `clock` returns monotonic seconds."""
        self._exact = exact
        self._clock = clock
        self._before: deque[tuple[float, _Numbers]] = deque([(clock(), {})])

    def collect(self) -> Iterator[Metric]:
        """Yield the families for `generate_latest`."""
        families = list(self._exact.collect())
        grown = self._grown(
            {
                (sample.name, tuple(sorted(sample.labels.items()))): float(sample.value)
                for family in families
                if family.type != "gauge"
                for sample in family.samples
                if not sample.name.endswith("_created")
            }
        )
        for family in families:
            if family.type == "gauge":
                yield family
            elif family.type == "histogram" and family.name not in UNPUBLISHED:
                yield _quantiles(family, grown)
            elif family.name in FAILURES:
                yield _failures(family)
        yield from _shares(grown)
        yield _rejection_shares(grown)
        family = GaugeMetricFamily(
            "tactful_recommendations_share",
            "Share of recommendations that are not complete, rounded up",
            labels=["kind"],
        )
        yield _other_shares(grown, "tactful_recommendations", "kind", "complete", family)
        family = GaugeMetricFamily(
            "tactful_phrases_share",
            "Share of spoken questions that were not heard, by reason, rounded up",
            labels=["result"],
        )
        yield _other_shares(grown, "tactful_phrases", "result", "heard", family)
        yield _source_shares(grown)

    def _grown(self, now: _Numbers) -> _Numbers:
        """Return the increase of each total in the last minute, or since the last read."""
        at = self._clock()
        before = self._before
        while len(before) > 1 and before[1][0] <= at - WINDOW_S:
            before.popleft()
        since = before[0][1]
        if at - before[-1][0] >= _BETWEEN_S:
            before.append((at, now))
        return {key: max(0.0, value - since.get(key, 0.0)) for key, value in now.items()}


def level(part: float, whole: float) -> float:
    """Round a share up to one of `LEVELS`; 0 for an empty whole."""
    return LEVELS[bisect.bisect_left(LEVELS, min(1.0, part / whole))] if whole > 0 else 0.0


def _failures(family: Metric) -> Metric:
    """Return a counter without successful responses and without its creation time."""
    failures = CounterMetricFamily(family.name, family.documentation)
    failures.samples = [
        sample
        for sample in family.samples
        if not sample.name.endswith("_created")
        and int(sample.labels.get("status", "500")) >= 400
        and sample.labels.get("result") != "done"
    ]
    return failures


def _quantiles(family: Metric, grown: _Numbers) -> Metric:
    """Return the upper bucket bound of each quantile of the last minute, by labels."""
    buckets: dict[_Labels, list[tuple[float, float]]] = {}
    for (name, labels), count in grown.items():
        if name == f"{family.name}_bucket":
            bound = next(float(value) for label, value in labels if label == "le")
            others = tuple(label for label in labels if label[0] != "le")
            buckets.setdefault(others, []).append((bound, count))
    gauges = GaugeMetricFamily(family.name, f"{family.documentation}, quantiles of a minute")
    for labels, counts in sorted(buckets.items()):
        for quantile, bound in zip(QUANTILES, _bounds(sorted(counts)), strict=False):
            gauges.add_sample(family.name, {**dict(labels), "quantile": f"{quantile:g}"}, bound)
    return gauges


def _bounds(cumulative: Sequence[tuple[float, float]]) -> Iterator[float]:
    total = cumulative[-1][1]
    for quantile in QUANTILES if total else ():
        yield next(bound for bound, count in cumulative if count >= quantile * total)


def _shares(grown: _Numbers) -> Iterator[Metric]:
    """Yield failures of events, as shares of all events of the last minute."""

    def totals(name: str, label: str, **wanted: str) -> dict[str, float]:
        sums: dict[str, float] = {}
        for (sample, labels), value in grown.items():
            own = dict(labels)
            if sample == f"{name}_total" and wanted.items() <= own.items():
                sums[own[label]] = sums.get(own[label], 0.0) + value
        return sums

    rejected = GaugeMetricFamily(
        "tactful_rejected_share",
        "Share of elements that were rejected, rounded up",
        labels=["kind"],
    )
    for kind in sorted(totals(_INGESTED, "kind")):
        of_kind = totals(_INGESTED, "result", kind=kind)
        whole = sum(of_kind.values())
        rejected.add_metric([kind], level(of_kind.get("rejected", 0.0), whole))
    yield rejected

    records = totals(_RECORDS, "result")
    seen = sum(records.values())
    share = GaugeMetricFamily(
        "tactful_engine_records_share",
        "Share of log records that did not count as they are, rounded up",
        labels=["result"],
    )
    for result, value in sorted(records.items()):
        if result != "applied":
            share.add_metric([result], level(value, seen))
    yield share
    letters = grown.get((f"{_LETTERS}_total", ()), 0.0)
    yield GaugeMetricFamily(
        "tactful_dead_letters_share",
        "Share of events that rules set aside, rounded up",
        value=level(letters, max(seen, letters)),
    )


def _rejection_shares(grown: _Numbers) -> Metric:
    """Return the rejected elements by code, as shares of all of their kind."""
    shares = GaugeMetricFamily(
        "tactful_rejections_share",
        "Share of elements that were rejected with a code, rounded up",
        labels=["kind", "code"],
    )
    whole: dict[str, float] = {}
    for labels, value in _of(grown, _INGESTED):
        whole[labels["kind"]] = whole.get(labels["kind"], 0.0) + value
    for labels, value in _of(grown, _REJECTIONS):
        kind = labels["kind"]
        shares.add_metric([kind, labels["code"]], level(value, whole.get(kind, 0.0)))
    return shares


def _other_shares(
    grown: _Numbers, counter: str, label: str, usual: str, family: GaugeMetricFamily
) -> Metric:
    """Return all values of a label but the usual one, as shares of the whole counter."""
    counts = _of(grown, counter)
    whole = sum(value for _, value in counts)
    for labels, value in counts:
        if labels[label] != usual:
            family.add_metric([labels[label]], level(value, whole))
    return family


def _of(grown: _Numbers, name: str) -> list[tuple[dict[str, str], float]]:
    """List the labels and increases of one counter, in order."""
    return [
        (dict(labels), value)
        for (sample, labels), value in sorted(grown.items())
        if sample == f"{name}_total"
    ]


def _source_shares(grown: _Numbers) -> Metric:
    """Return the ignored and the refused messages, as shares of all of their source."""
    shares = GaugeMetricFamily(
        "tactful_source_messages_share",
        "Share of the messages of a source that no rule fits, or that were refused, rounded up",
        labels=["source", "kind", "result"],
    )
    counts = [
        (dict(labels), value)
        for (sample, labels), value in grown.items()
        if sample == f"{_SOURCED}_total"
    ]
    for own, value in sorted(counts, key=lambda count: sorted(count[0].items())):
        whole = sum(other for labels, other in counts if labels["source"] == own["source"])
        if own["result"] != "accepted":
            shares.add_metric(
                [own[label] for label in ("source", "kind", "result")], level(value, whole)
            )
    return shares
