"""Requests about the caller, and about who did what."""

from __future__ import annotations

from tactful.client.request import Request
from tactful.schemas.access import Caller
from tactful.schemas.subjects.audit import AuditPage


def me() -> Request[Caller]:
    """Request the name and the rights of the caller."""
    return Request("GET", "/v1/me", Caller)


def audit(
    *,
    action: str | None = None,
    actor: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Request[AuditPage]:
    """Request a page of the audit trail, newest first; it needs the scope ``admin``."""
    params = {"action": action, "actor": actor, "cursor": cursor, "limit": limit}
    return Request("GET", "/v1/audit", AuditPage, params=params)
