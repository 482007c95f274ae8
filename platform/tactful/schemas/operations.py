"""How an installation does: its metrics of a day, its long jobs, its machine."""

from __future__ import annotations

import msgspec


class MetricSeries(msgspec.Struct, kw_only=True, frozen=True):
    """Numbers of one metric, one by time of `MetricsPage.times`; null where none was measured.

    Attributes:
        name: of the series, e.g. ``tactful_engine_lag`` or
            ``tactful_request_seconds{quantile="0.99",route="/v1/events"}``.
        means: mean of each step.
        highest: highest number of each step.
    """

    name: str
    means: list[float | None]
    highest: list[float | None]


class MetricsPage(msgspec.Struct, kw_only=True, frozen=True):
    """Metrics that the server has kept of itself.

    Attributes:
        since: first time, epoch milliseconds.
        until: end, which is left out.
        step_s: length of a step in seconds.
        times: beginning of each step that has a point, epoch milliseconds.
        series: numbers by series.
    """

    since: int
    until: int
    step_s: int
    times: list[int]
    series: list[MetricSeries]
