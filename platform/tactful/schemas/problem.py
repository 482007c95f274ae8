"""Problem details as RFC 9457 defines them."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An error, as RFC 9457 problem details.

    Attributes:
        title: the kind of problem in words; the same for every occurrence.
        status: HTTP status.
        code: short stable name of the kind, for programs.
        type: URI of the kind.
        detail: what was wrong this time and what to do.
        request_id: to find the request in the server's log.
        field: path of the offending part of the body or query, e.g. ``$.count``.
    """

    title: str
    status: int
    code: str = ""
    type: str = "about:blank"
    detail: str | None = None
    request_id: str | None = None
    field: str | None = None
