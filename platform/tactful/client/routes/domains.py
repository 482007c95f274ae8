"""Requests about profiles that cross between domains."""

from __future__ import annotations

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.subjects.domains import (
    Crossed,
    Domains,
    NewCrossing,
    ProfileOwner,
    ProfileToken,
)


def domains() -> Request[Domains]:
    """Request the name and the keys of the domain, and the other domains."""
    return Request("GET", "/v1/domains", Domains)


def release(
    receiving: str, *, user_id: str | None = None, device_id: str | None = None
) -> Request[ProfileToken]:
    """Request the profile of a user of this domain, for another one."""
    body = ProfileOwner(user_id=user_id, device_id=device_id)
    return Request("POST", f"/v1/domains/{segment(receiving)}/tokens", ProfileToken, body=body)


def receive(
    releasing: str, token: str, *, user_id: str | None = None, device_id: str | None = None
) -> Request[Crossed]:
    """Request to store a profile that another domain has released, for a user of this one."""
    body = NewCrossing(user_id=user_id, device_id=device_id, token=token)
    return Request("POST", f"/v1/domains/{segment(releasing)}/profiles", Crossed, body=body)
