"""Requests about privacy: the ledger, erasures, the last audit."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.statistics import Conclusion
from tactful.schemas.subjects.privacy import PrivacyLedger, PrivacyStatus
from tactful.schemas.users import ErasureList


def ledger() -> Request[PrivacyLedger]:
    """Request the privacy loss of one user this month, by day and purpose."""
    return Request("GET", "/v1/privacy/ledger", PrivacyLedger)


def conclusion(
    name: str, kind: str, since: datetime, until: datetime, *, k: int | None = None
) -> Request[Conclusion]:
    """Request a conclusion from a statistic, such as ``sum`` or ``top``, each with its noise."""
    params = {"since": since.isoformat(), "until": until.isoformat(), "k": k}
    path = f"/v1/statistics/{segment(name)}/{segment(kind)}"
    return Request("GET", path, Conclusion, params=params)


def status() -> Request[PrivacyStatus]:
    """Request whether the promises about privacy are kept."""
    return Request("GET", "/v1/privacy/status", PrivacyStatus)


def erasures(
    state: Literal["open", "done", "all"] = "open", *, cursor: str | None = None, limit: int = 100
) -> Request[ErasureList]:
    """Request a page of the erasures; it needs the scope ``admin``."""
    params = {"state": state, "cursor": cursor, "limit": limit}
    return Request("GET", "/v1/erasures", ErasureList, params=params)
