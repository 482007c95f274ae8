"""Parts that endpoints share: paging, times, ids, stores."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from tactful.http.asgi import Call, Host
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import RecommendRequest
from tactful.subjects.permissions import without_claim
from tactful.util.addresses import sender_of
from tactful.util.fresh_values import StillComputing
from tactful_privacy.errors import LedgerError
from tactful_streaming.contract.log_entries import DEVICE_PREFIX
from tactful_streaming.errors import StreamingError

logger = logging.getLogger(__name__)

T = TypeVar("T")

Cursor = Annotated[str, Meta(max_length=512)]
NumberCursor = Annotated[Cursor, Meta(extra_json_schema={"pattern": "^[0-9]{0,18}$"})]
Limit = Annotated[int, Meta(ge=1, le=1000)]


class PageQuery(msgspec.Struct, forbid_unknown_fields=True):
    """One page of a list."""

    cursor: Cursor = ""
    limit: Limit = 100


class LogPageQuery(PageQuery):
    """One page of an audit log."""

    cursor: NumberCursor = ""


def moment_of(moment: int | dt.datetime | None) -> int | None:
    """Convert a time in a query to epoch milliseconds, or raise `ProblemError`."""
    try:
        return None if moment is None else to_milliseconds(moment)
    except ValueError as error:
        raise ProblemError("bad_query", str(error)) from None


def person_of(call: Call) -> str:
    """Return the user id in a path; raise `ProblemError` if empty or too long."""
    person = call.path["user_id"]
    if not 1 <= len(person.removeprefix(DEVICE_PREFIX)) <= 256:
        raise ProblemError("not_found", "the id of a user or device has 1 to 256 characters")
    return person


def cursor_number(cursor: str) -> int | None:
    """Return the number in a cursor, None without one, or raise `ProblemError`."""
    if cursor and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise ProblemError("bad_query", "give a cursor as it was returned")
    return int(cursor) if cursor else None


def caller_of(call: Call) -> str:
    """Return the person who signed in, or the public part of the API key, for the audit log."""
    if call.key.person:
        return call.key.person
    return f"key {call.key.id}" if call.key.id else "the API without keys"


def sender_address(host: Host, call: Call) -> str:
    """Return the address that a request came from, behind the proxies of the settings."""
    forwarded = call.headers.get(b"x-forwarded-for", b"").decode("latin-1")
    return sender_of(call.peer, forwarded, host.settings.server.trusted_proxies)


async def stored(work: Callable[[], T], unavailable: str) -> T:
    """Use a store in a thread; raise `ProblemError` if it cannot be used now."""
    try:
        return await asyncio.to_thread(work)
    except StillComputing as error:
        raise ProblemError("not_ready", str(error), retry_after=5) from None
    except (OSError, StreamingError, LedgerError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else ""
        logger.warning("%s: %s %s", unavailable, type(error).__name__, reason)
        raise ProblemError("not_ready", unavailable, retry_after=2) from None


def opts_out(host: Host, call: Call) -> bool:
    """Return whether the browser of the user sends a signal that the settings honour."""
    consent = host.settings.consent
    return (consent.honour_gpc and _is_set(call, b"sec-gpc")) or (
        consent.honour_dnt and _is_set(call, b"dnt")
    )


def prepared(host: Host, call: Call, request: RecommendRequest) -> RecommendRequest:
    """Return a request without what the settings or its browser exclude from its context."""
    if host.minimise is not None:
        request = host.minimise(request)
    return without_claim(request) if opts_out(host, call) else request


def _is_set(call: Call, header: bytes) -> bool:
    """Return whether a header is 1, or one of the values that a proxy joined is."""
    return b"1" in (value.strip() for value in call.headers.get(header, b"").split(b","))
