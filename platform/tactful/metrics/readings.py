"""Readings: every metric of a server at one moment, as numbers by name.

A gauge is read as it is, a counter as its increase by the second, a duration as its quantiles. So
the numbers of different metrics are drawn, compared and averaged in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.registry import Collector

from tactful.metrics.public import PublicMetrics

LEFT_OUT = "route"
"""Label that counters are summed over: an alert is about answers, whatever their route."""

_RATE = "_per_second"


@dataclass(frozen=True)
class Reading:
    """Numbers of one moment by series.

    Attributes:
        public: what `tactful.metrics.public` allows, e.g.
            ``tactful_request_seconds{quantile="0.99",route="/v1/events"}``.
        exact: rates of activity, for administrators, e.g.
            ``tactful_ingested_per_second{kind="event",result="accepted"}``.
    """

    public: Mapping[str, float] = field(default_factory=dict)
    exact: Mapping[str, float] = field(default_factory=dict)


class Reader:
    """Takes readings; rates are those since the reading before."""

    def __init__(self, exact: Collector, public: PublicMetrics, clock: Callable[[], float]) -> None:
        """Read totals from `exact`; `clock` returns monotonic seconds."""
        self._exact = exact
        self._public = public
        self._clock = clock
        self._at = clock()
        self._totals: dict[str, float] = {}

    def take(self) -> Reading:
        """Read all metrics now."""
        now = self._clock()
        seconds = max(now - self._at, 1e-3)
        totals = _totals(self._exact.collect())
        rates = {
            name: max(0.0, total - self._totals.get(name, 0.0)) / seconds
            for name, total in totals.items()
        }
        self._at, self._totals = now, totals
        families = list(self._public.collect())
        public = {
            series(sample.name, sample.labels): float(sample.value)
            for family in families
            if family.type == "gauge"
            for sample in family.samples
        }
        failures = {name: rates.get(name, 0.0) for name in _totals(families)}
        exact = {name: rate for name, rate in rates.items() if name not in failures}
        return Reading(public | failures, exact)


def series(name: str, labels: Mapping[str, str]) -> str:
    """Return the name of a series, as Prometheus writes it."""
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


def family_of(name: str) -> str:
    """Return the metric of a series: its name without labels."""
    return name.partition("{")[0]


def _totals(families: Iterable[Metric]) -> dict[str, float]:
    """Return the counters by the name of their rate, summed over routes."""
    totals: dict[str, float] = {}
    for family in families:
        for sample in family.samples if family.type == "counter" else ():
            if sample.name.endswith("_total"):
                labels = {k: v for k, v in sample.labels.items() if k != LEFT_OUT}
                name = series(sample.name.removesuffix("_total") + _RATE, labels)
                totals[name] = totals.get(name, 0.0) + float(sample.value)
    return totals
