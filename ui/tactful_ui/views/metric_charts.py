"""Charts of the page "Operations": which metrics each shows, and in which unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tactful_ui.components.time_series import Line
from tactful_ui.components.words import text as _

_MOST_LINES = 3
_FRESH = "tactful_freshness_seconds"
_TOOK = "tactful_request_seconds"
_ROUTE = "/v1/recommend"
_ANSWERS = "tactful_answers_per_second"
_INGESTED = "tactful_ingested_per_second"


@dataclass(frozen=True)
class MetricChart:
    """A chart of some series.

    Attributes:
        key: name of its files.
        title: title for readers.
        unit: title of its axis.
        series: names for readers by series.
        family: metric of which the series with the largest numbers are shown, by their labels.
        scale: factor from the metric's unit to the chart's.
    """

    key: str
    title: str
    unit: str
    series: Mapping[str, str] = field(default_factory=dict)
    family: str = ""
    scale: float = 1.0

    @property
    def names(self) -> list[str]:
        """Names to ask the server for."""
        return [self.family] if self.family else [*self.series]

    def lines(self, found: Mapping[str, Sequence[float | None]]) -> list[Line]:
        """Return the lines of the series that were found."""
        named = self._largest(found) if self.family else self.series
        return [
            Line(name, [None if x is None else x * self.scale for x in found[series]])
            for series, name in named.items()
            if series in found
        ]

    def _largest(self, found: Mapping[str, Sequence[float | None]]) -> dict[str, str]:
        """Return the series of the family with the largest numbers, named by their labels."""

        def largest(name: str) -> float:
            return max((x for x in found[name] if x is not None), default=0.0)

        own = [name for name in found if name.partition("{")[0] == self.family]
        own = sorted((name for name in own if largest(name)), key=lambda name: -largest(name))
        return {name: _labels(name) for name in own[:_MOST_LINES]}


def charts(*, exact: bool) -> list[MetricChart]:
    """List the charts of a reader; those of `exact` rates are for administrators."""
    return [*(_exact() if exact else ()), *_public()]


def _exact() -> list[MetricChart]:
    return [
        MetricChart(
            "events",
            _("Events accepted"),
            _("events/s"),
            {f'{_INGESTED}{{kind="event",result="accepted"}}': _("accepted")},
        ),
        MetricChart(
            "recommendations",
            _("Recommendations"),
            _("recommendations/s"),
            family="tactful_recommendations_per_second",
        ),
    ]


def _public() -> list[MetricChart]:
    statuses = ("429", "500", "503")
    return [
        MetricChart("freshness", _("Freshness of features"), "ms", _quantiles(_FRESH), scale=1000),
        MetricChart(
            "requests",
            _("Time of a recommendation"),
            "ms",
            _quantiles(_TOOK, f',route="{_ROUTE}"'),
            scale=1000,
        ),
        MetricChart(
            "lag",
            _("Records not applied yet"),
            _("records"),
            {"tactful_engine_lag": _("lag")},
        ),
        MetricChart(
            "watermark",
            _("Age of the watermark"),
            "s",
            {"tactful_watermark_age_seconds": _("age")},
        ),
        MetricChart(
            "refused",
            _("Rejected share of elements, by code"),
            "%",
            family="tactful_rejections_share",
            scale=100,
        ),
        MetricChart(
            "answers",
            _("Refused and failed requests"),
            _("answers/s"),
            {f'{_ANSWERS}{{status="{status}"}}': status for status in statuses},
        ),
        MetricChart(
            "fallback",
            _("Incomplete recommendations"),
            "%",
            family="tactful_recommendations_share",
            scale=100,
        ),
        MetricChart(
            "errors",
            _("Error lines in the log"),
            _("lines/min"),
            {"tactful_logged_errors_per_second": _("errors")},
            scale=60,
        ),
        MetricChart(
            "memory", _("Memory"), "MB", {"tactful_memory_bytes": _("memory")}, scale=1 / 2**20
        ),
        MetricChart(
            "disk", _("Free disk"), "GB", {"tactful_disk_free_bytes": _("free")}, scale=1 / 2**30
        ),
    ]


def _quantiles(metric: str, labels: str = "") -> dict[str, str]:
    return {
        f'{metric}{{quantile="{q}"{labels}}}': f"p{100 * float(q):.0f}" for q in ("0.99", "0.5")
    }


def _labels(series: str) -> str:
    """Return the values of a series' labels: ``in_future, event``."""
    pairs = series.partition("{")[2].rstrip("}").split(",")
    return ", ".join(pair.partition("=")[2].strip('"') for pair in pairs)
