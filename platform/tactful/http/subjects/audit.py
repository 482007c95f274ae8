"""Endpoint of the audit trail, and the trail of looks at users."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import PageQuery, caller_of, stored
from tactful.schemas.problems import ProblemError
from tactful.schemas.subjects.audit import AuditPage

if TYPE_CHECKING:
    from tactful.server.platform import Platform
    from tactful.subjects.access_log import Access

_UNWRITTEN = "the audit trail cannot be written now, so nothing is shown"


class AuditQuery(PageQuery):
    """One page of the audit trail.

    Attributes:
        action: of the entries, such as `model.promote`, or its first part, such as `model`.
        actor: of the entries.
    """

    action: Annotated[str, Meta(max_length=64)] = ""
    actor: Annotated[str, Meta(max_length=255)] = ""


async def looked_at(platform: Platform, call: Call, person: str, action: Access) -> None:
    """Record that the caller looks at a user; `ProblemError` if that cannot be written."""
    record = partial(platform.accesses.record, person, action, by=caller_of(call))
    await stored(record, _UNWRITTEN)


async def try_for(platform: Platform, call: Call, person: str) -> None:
    """Record that the caller tries an answer for a user, before it is computed.

    Raises:
        ProblemError: if the user was erased, or that cannot be written.
    """
    if platform.permissions.is_erased(person):
        raise ProblemError("not_found", "this user was erased")
    await looked_at(platform, call, person, "try")


async def _get_audit(platform: Platform, call: Call) -> Reply:
    query = call.query(AuditQuery)
    read = partial(
        platform.audit.entries,
        actor=query.actor,
        action=query.action,
        cursor=query.cursor,
        limit=query.limit,
    )
    try:
        entries, cursor = await stored(read, "the audit trail cannot be read now")
    except ValueError:
        raise ProblemError("bad_query", "give a cursor as it was returned") from None
    return json_reply(AuditPage(entries=entries, next_cursor=cursor))


AUDIT_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/audit",
        "List changes and looks at users, with their authors",
        _get_audit,
        details=(
            "Newest first: accesses to users (`person`), models (`model`), rollouts (`rollout`), "
            "flags (`flag`), feature definitions (`features`), keys (`key`), every other change. "
            "Users are keyed hashes. It names operators of the installation: it needs `admin`."
        ),
        scope="admin",
        query=AuditQuery,
        answer=AuditPage,
        problems=("not_ready",),
    ),
)
