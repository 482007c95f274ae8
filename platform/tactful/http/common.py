"""What several parts of the API share: which part of a list, moments, and an event to show."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
from msgspec import Meta

from tactful.schemas.fields import to_milliseconds
from tactful.schemas.problems import ProblemError

Cursor = Annotated[str, Meta(max_length=512)]
Limit = Annotated[int, Meta(ge=1, le=1000)]

EVENT_EXAMPLE = {
    "event_id": "b7c1f0c2-1",
    "type": "view",
    "timestamp": "2026-03-01T12:00:00Z",
    "user_id": "u-17",
    "session_id": "s-3",
    "item_id": "sku-42",
    "properties": {"price": 12.5, "currency": "EUR", "dwell_ms": 4200},
    "context": {"page": "home", "locale": "de-DE"},
}


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """No query parameters."""


class PageQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which part of a list."""

    cursor: Cursor = ""
    limit: Limit = 100


def moment_of(moment: int | dt.datetime | None) -> int | None:
    """Epoch milliseconds of a moment in a query.

    Raises:
        ProblemError: if it is none.
    """
    try:
        return None if moment is None else to_milliseconds(moment)
    except ValueError as error:
        raise ProblemError("bad_query", str(error)) from None
