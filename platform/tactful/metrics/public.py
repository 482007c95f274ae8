"""What Prometheus may read: how the machine does, and no exact total of what people did.

A total of events or of requests, read before and after, tells whether somebody came. So totals that
grow with what people do stay inside, and what an operator needs of them is told another way: times
as quantiles of the last minute, what went wrong with events as a share of them. What the machine
itself failed at is counted exactly. How many came is a question for a published statistic.

These figures are rounded, not noised: they are for those who run the server, behind a key, and no
substitute for a release.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

WINDOW_S = 60.0
"""Span of time that quantiles and shares are about."""

LEVELS = (0.0, 0.001, 0.01, 0.1, 1.0)
"""To which a share is rounded up."""

QUANTILES = (0.5, 0.99)

_BETWEEN_S = 5.0

_Labels = tuple[tuple[str, str], ...]
_Numbers = Mapping[tuple[str, _Labels], float]

FAILURES = frozenset({"tactful_answers", "tactful_impressions_lost", "tactful_commits_refused"})
"""Counters that are shown exactly: what the machine failed at, and of answers the errors."""

_INGESTED = "tactful_ingested"
_RECORDS = "tactful_engine_records"
_LETTERS = "tactful_dead_letters"


class _Families(Protocol):
    """Whatever has families of metrics."""

    def collect(self) -> Iterable[Metric]:
        """The families."""


class PublicMetrics:
    """The families that may be read from outside, made of those that are kept inside.

    A counter that is not known here is left out: a new one is inside until somebody decides.
    """

    def __init__(self, inside: _Families, clock: Callable[[], float]) -> None:
        """Read from `inside`.

        Args:
            inside: exact families.
            clock: seconds that only grow.
        """
        self._inside = inside
        self._clock = clock
        self._before: deque[tuple[float, _Numbers]] = deque([(clock(), {})])

    def collect(self) -> Iterator[Metric]:
        """The families, as `generate_latest` wants them."""
        families = list(self._inside.collect())
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
            elif family.type == "histogram":
                yield _quantiles(family, grown)
            elif family.name in FAILURES:
                yield _failures(family)
        yield from _shares(grown)

    def _grown(self, now: _Numbers) -> _Numbers:
        """By how much each total grew in the last minute, or since the reading before it."""
        at = self._clock()
        before = self._before
        while len(before) > 1 and before[1][0] <= at - WINDOW_S:
            before.popleft()
        since = before[0][1]
        if at - before[-1][0] >= _BETWEEN_S:
            before.append((at, now))
        return {key: max(0.0, value - since.get(key, 0.0)) for key, value in now.items()}


def level(part: float, whole: float) -> float:
    """A share rounded up to one of `LEVELS`; 0 of nothing."""
    return LEVELS[bisect.bisect_left(LEVELS, min(1.0, part / whole))] if whole > 0 else 0.0


def _failures(family: Metric) -> Metric:
    """A counter without the answers that went well, and without when it began."""
    found = CounterMetricFamily(family.name, family.documentation)
    found.samples = [
        sample
        for sample in family.samples
        if not sample.name.endswith("_created") and int(sample.labels.get("status", "500")) >= 400
    ]
    return found


def _quantiles(family: Metric, grown: _Numbers) -> Metric:
    """The bound of the bucket in which a quantile of the last minute lies, by labels."""
    buckets: dict[_Labels, list[tuple[float, float]]] = {}
    for (name, labels), count in grown.items():
        if name == f"{family.name}_bucket":
            bound = next(float(value) for label, value in labels if label == "le")
            others = tuple(it for it in labels if it[0] != "le")
            buckets.setdefault(others, []).append((bound, count))
    found = GaugeMetricFamily(family.name, f"{family.documentation}, quantiles of a minute")
    for labels, counts in sorted(buckets.items()):
        for quantile, bound in zip(QUANTILES, _bounds(sorted(counts)), strict=False):
            found.add_sample(family.name, {**dict(labels), "quantile": f"{quantile:g}"}, bound)
    return found


def _bounds(cumulative: Sequence[tuple[float, float]]) -> Iterator[float]:
    total = cumulative[-1][1]
    for quantile in QUANTILES if total else ():
        yield next(bound for bound, count in cumulative if count >= quantile * total)


def _shares(grown: _Numbers) -> Iterator[Metric]:
    """What went wrong with events, as a share of all of the last minute."""

    def totals(name: str, label: str, **wanted: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for (sample, labels), value in grown.items():
            of = dict(labels)
            if sample == f"{name}_total" and wanted.items() <= of.items():
                found[of[label]] = found.get(of[label], 0.0) + value
        return found

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
