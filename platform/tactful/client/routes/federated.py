"""Requests about federated training: reports of rounds, and runs."""

from __future__ import annotations

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.federated import (
    FederatedReport,
    FederatedRounds,
    FederatedRuns,
    ReportTaken,
)


def report(body: FederatedReport) -> Request[ReportTaken]:
    """Report rounds of a run; it needs `ingest`, and may be repeated."""
    return Request("POST", "/v1/federated/runs", ReportTaken, body=body, repeatable=True)


def runs(*, cursor: str = "", limit: int = 100) -> Request[FederatedRuns]:
    """Request a page of runs, the latest report first."""
    params = {"cursor": cursor, "limit": limit}
    return Request("GET", "/v1/federated/runs", FederatedRuns, params=params)


def rounds(run: str, *, cursor: str = "", limit: int = 1000) -> Request[FederatedRounds]:
    """Request a page of the rounds of a run, in order."""
    params = {"cursor": cursor, "limit": limit}
    return Request("GET", f"/v1/federated/runs/{segment(run)}", FederatedRounds, params=params)
