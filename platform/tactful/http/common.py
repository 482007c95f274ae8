"""Parts that endpoints share: paging, times, ids, stores."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from tactful.http.asgi import Call
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.problems import ProblemError
from tactful_privacy.errors import LedgerError
from tactful_streaming.errors import StreamingError

T = TypeVar("T")

Cursor = Annotated[str, Meta(max_length=512)]
NumberCursor = Annotated[Cursor, Meta(extra_json_schema={"pattern": "^[0-9]{0,18}$"})]
Limit = Annotated[int, Meta(ge=1, le=1000)]


class PageQuery(msgspec.Struct, forbid_unknown_fields=True):
    """One page of a list."""

    cursor: Cursor = ""
    limit: Limit = 100


def moment_of(moment: int | dt.datetime | None) -> int | None:
    """Convert a time in a query to epoch milliseconds, or raise `ProblemError`."""
    try:
        return None if moment is None else to_milliseconds(moment)
    except ValueError as error:
        raise ProblemError("bad_query", str(error)) from None


def person_of(call: Call) -> str:
    """Return the user id in a path; raise `ProblemError` if empty or too long."""
    person = call.path["user_id"]
    if not 1 <= len(person) <= 256:
        raise ProblemError("not_found", "a user id has 1 to 256 characters")
    return person


async def stored(work: Callable[[], T], unavailable: str) -> T:
    """Use a store in a thread; raise `ProblemError` if it cannot be used now."""
    try:
        return await asyncio.to_thread(work)
    except (OSError, StreamingError, LedgerError):
        raise ProblemError("not_ready", unavailable, retry_after=2) from None
