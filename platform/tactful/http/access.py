"""Endpoint that tells a caller who it is taken for and what it may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tactful.http.asgi import ANY_KEY, Call, Endpoint, Reply, json_reply
from tactful.http.common import caller_of
from tactful.schemas.access import Caller

if TYPE_CHECKING:
    from tactful.server.platform import Platform


async def _get_me(platform: Platform, call: Call) -> Reply:
    return json_reply(
        Caller(
            name=caller_of(call),
            note=call.key.note,
            scopes=sorted(call.key.scopes),
            expires_at=call.key.expires_at,
        )
    )


ACCESS_ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/me",
        "Read the rights of the caller",
        _get_me,
        details="For programs that show only what their key may see. Any valid key may ask.",
        scope=ANY_KEY,
        answer=Caller,
    ),
)
