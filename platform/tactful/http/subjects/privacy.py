"""Endpoints of the promises about privacy: erasures, and the last audit.

The number of people who left is an exact number about people: erasures are listed for `admin` only,
and an analyst learns whether one is overdue, which is a fact about the operator.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import PageQuery, stored
from tactful.schemas.problems import ProblemError
from tactful.schemas.subjects.privacy import PrivacyStatus
from tactful.schemas.users import ErasureList

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_STATES = {"open": True, "done": False, "all": None}


class ErasuresQuery(PageQuery):
    """One page of the erasures, and their state."""

    state: Literal["open", "done", "all"] = "open"


async def _list_erasures(platform: Platform, call: Call) -> Reply:
    query = call.query(ErasuresQuery)
    after = _place(query.cursor) if query.cursor else None
    read = partial(
        platform.erasures.list, is_open=_STATES[query.state], limit=query.limit + 1, after=after
    )
    found = await stored(read, "erasures cannot be read now")
    page = found[: query.limit]
    more = len(found) > len(page)
    cursor = f"{page[-1].due_at}.{page[-1].receipt}" if more else None
    return json_reply(ErasureList(erasures=page, next_cursor=cursor))


def _place(cursor: str) -> tuple[int, str]:
    due_at, _, receipt = cursor.partition(".")
    if not (receipt.isalnum() and due_at.isascii() and due_at.isdecimal() and len(due_at) < 19):
        raise ProblemError("bad_query", "give a cursor as it was returned")
    return int(due_at), receipt


async def _get_status(platform: Platform, call: Call) -> Reply:
    from tactful.metadata.privacy_audits import last_audit  # with SQLAlchemy: no worker needs it

    metadata = platform.resources.installation.metadata

    def read() -> PrivacyStatus:
        return PrivacyStatus(
            erasures_overdue=platform.erasures.overdue() > 0,
            erase_days=platform.settings.consent.erase_days,
            audit=last_audit(metadata),
        )

    return json_reply(await stored(read, "the metadata cannot be read now"))


PRIVACY_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/erasures",
        "List the erasures",
        _list_erasures,
        details=(
            "Open ones by default, the one that is due first before the others. They contain no "
            "id. Their number is an exact number about users, so it needs the scope `admin`."
        ),
        scope="admin",
        query=ErasuresQuery,
        answer=ErasureList,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/v1/privacy/status",
        "Read whether the promises about privacy are kept",
        _get_status,
        details=(
            "Whether an erasure is overdue, and the last result of `tactful privacy audit --keep`. "
            "It contains no number of users."
        ),
        scope="analyst",
        answer=PrivacyStatus,
        problems=("not_ready",),
    ),
)
