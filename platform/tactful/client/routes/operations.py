"""Requests about how an installation does: metrics, jobs, machine."""

from __future__ import annotations

from collections.abc import Sequence

from tactful.client.request import Request
from tactful.schemas.operations import JobIndex, MetricsPage, SystemInfo


def metrics(
    names: Sequence[str] = (),
    *,
    since: int | str | None = None,
    until: int | str | None = None,
    step: int | None = None,
) -> Request[MetricsPage]:
    """Request the metrics of a time, by default of the last hour.

    Args:
        names: metrics or single series; all if empty.
        since: first time (epoch ms or RFC 3339).
        until: end.
        step: seconds that one number stands for; None lets the server choose.
    """
    params = {"names": " ".join(names) or None, "since": since, "until": until, "step": step}
    return Request("GET", "/v1/metrics", MetricsPage, params=params)


def jobs(*, limit: int | None = None, cursor: str | None = None) -> Request[JobIndex]:
    """Request the long jobs of the installation, newest first."""
    return Request("GET", "/v1/jobs", JobIndex, params={"limit": limit, "cursor": cursor})


def system() -> Request[SystemInfo]:
    """Request how the server and its machine do."""
    return Request("GET", "/v1/system", SystemInfo)
