"""Requests about published statistics, their privacy loss, and reports."""

from __future__ import annotations

from typing import Any, Literal

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.reports import ReportIndex
from tactful.schemas.statistics import Conclusion, StatisticsIndex, StatisticsPage

Kind = Literal["sum", "share", "quantile", "top", "consistent", "mean"]
"""Kinds of conclusion."""


def published() -> Request[StatisticsIndex]:
    """Request the published statistics."""
    return Request("GET", "/v1/statistics", StatisticsIndex)


def released(
    name: str,
    *,
    since: int | str | None = None,
    until: int | str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Request[StatisticsPage]:
    """Request one page of the released numbers of a statistic, oldest pane first.

    Args:
        name: of the statistic.
        since: start of the first pane (epoch ms or RFC 3339).
        until: end; panes start before it.
        cursor: of the page before.
        limit: number of cells.
    """
    params = {"since": since, "until": until, "cursor": cursor, "limit": limit}
    return Request("GET", f"/v1/statistics/{segment(name)}", StatisticsPage, params=params)


def conclude(
    name: str, conclusion: Kind, *, since: int | str, until: int | str, **options: Any
) -> Request[Conclusion]:
    """Request a conclusion from released numbers, which costs no privacy.

    Args:
        name: of the statistic.
        conclusion: its kind.
        since: start of the first pane (epoch ms or RFC 3339).
        until: end; panes start before it.
        options: `confidence`, `keys`, `part`, `rest`, `probability`, `k`.
    """
    path = f"/v1/statistics/{segment(name)}/{segment(conclusion)}"
    params = {"since": since, "until": until, **options}
    return Request("GET", path, Conclusion, params=params)


def ledger() -> Request[dict[str, Any]]:
    """Request the privacy loss of one user by published numbers this month."""
    return Request("GET", "/v1/privacy/ledger", dict[str, Any])


def reports(*, cursor: str | None = None, limit: int | None = None) -> Request[ReportIndex]:
    """Request one page of the reports of the server, by name."""
    return Request("GET", "/v1/reports", ReportIndex, params={"cursor": cursor, "limit": limit})


def report(name: str) -> Request[dict[str, Any]]:
    """Request one report."""
    return Request("GET", f"/v1/reports/{segment(name)}", dict[str, Any])
