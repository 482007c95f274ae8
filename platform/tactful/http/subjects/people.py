"""Endpoints of one user for operators: timeline, devices, recommendations seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import PageQuery, person_of, stored
from tactful.http.subjects.audit import looked_at
from tactful.schemas.problems import ProblemError
from tactful.schemas.subjects.people import PersonDevices, SeenRecommendations, Timeline
from tactful.schemas.users import PersonExport

if TYPE_CHECKING:
    from tactful.server.platform import Platform
    from tactful.subjects.access_log import Access

T = TypeVar("T")

_UNREADABLE = "log or state cannot be read now"
_READS_LOG = (
    "Newest first. It reads the whole log, which takes time if the log is long. The look is "
    "recorded in the audit trail."
)


async def _get_timeline(platform: Platform, call: Call) -> Reply:
    from tactful.subjects.history import timeline

    query = call.query(PageQuery)
    collect = partial(timeline, cursor=query.cursor, limit=query.limit)
    return json_reply(await _collected(platform, call, "timeline", collect))


async def _get_devices(platform: Platform, call: Call) -> Reply:
    from tactful.subjects.history import devices

    return json_reply(await _collected(platform, call, "devices", devices))


async def _get_recommendations(platform: Platform, call: Call) -> Reply:
    from tactful.subjects.history import recommendations

    query = call.query(PageQuery)
    collect = partial(recommendations, cursor=query.cursor, limit=query.limit)
    return json_reply(await _collected(platform, call, "recommendations", collect))


async def _collected(
    platform: Platform, call: Call, action: Access, collect: Callable[[PersonExport], T]
) -> T:
    """Record the look at the user in the path, and collect something from the export."""
    person = person_of(call)
    if platform.permissions.is_erased(person):
        raise ProblemError("not_found", "this user was erased")
    await looked_at(platform, call, person, action)
    export = await stored(partial(platform.export, person), _UNREADABLE)
    try:
        return collect(export)
    except ValueError:
        raise ProblemError("bad_query", "give a cursor as it was returned") from None


_look: Any = partial(
    Endpoint, "GET", scope="admin", details=_READS_LOG, problems=("not_found", "not_ready")
)

PEOPLE_ENDPOINTS: tuple[Endpoint, ...] = (
    _look(
        "/v1/users/{user_id}/timeline",
        "List the events of a user",
        _get_timeline,
        query=PageQuery,
        answer=Timeline,
    ),
    _look(
        "/v1/users/{user_id}/devices",
        "List the devices of a user",
        _get_devices,
        answer=PersonDevices,
    ),
    _look(
        "/v1/users/{user_id}/recommendations",
        "List the recommendations that a user has seen",
        _get_recommendations,
        query=PageQuery,
        answer=SeenRecommendations,
    ),
)
