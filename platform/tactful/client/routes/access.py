"""Requests about the caller itself."""

from __future__ import annotations

from tactful.client.request import Request
from tactful.schemas.access import Caller


def me() -> Request[Caller]:
    """Request the name and the rights of the caller."""
    return Request("GET", "/v1/me", Caller)
