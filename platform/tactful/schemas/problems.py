"""Errors of the HTTP API, as RFC 9457 problem details.

The kinds are a closed list, so that the OpenAPI document can name them and a program can rely on
their codes. A detail never quotes the request: ids and payloads are personal data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tactful.errors import TactfulError

MEDIA_TYPE = b"application/problem+json"

# An unknown field is named if it looks like a field: another text may be personal data.
_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,39}"
_UNKNOWN = re.compile(rf"Object contains unknown field `({_NAME})`")
_PLACE = re.compile(rf" - at (`key` in )?`(\$(\.{_NAME}|\[(\d+|\.\.\.)\])*)`$")
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True)
class Kind:
    """A kind of problem: its code, its status and its title."""

    code: str
    status: int
    title: str


KINDS: Mapping[str, Kind] = {
    kind.code: kind
    for kind in (
        Kind("bad_body", 400, "The body cannot be read"),
        Kind("bad_query", 400, "A query parameter is wrong"),
        Kind("no_key", 401, "A valid API key is needed"),
        Kind("key_expired", 401, "The API key has expired"),
        Kind("missing_scope", 403, "The API key lacks the scope"),
        Kind("no_consent", 403, "The person does not consent"),
        Kind("wrong_origin", 403, "Pages of this origin are not served"),
        Kind("not_found", 404, "There is nothing here"),
        Kind("method_not_allowed", 405, "The method is not allowed here"),
        Kind("body_timeout", 408, "The body took too long to arrive"),
        Kind("too_large", 413, "The body is too large"),
        Kind("uri_too_long", 414, "The request line is too long"),
        Kind("unsupported_encoding", 415, "The compression of the body is not read"),
        Kind("unsupported_media", 415, "The body must be JSON"),
        Kind("wrong_host", 421, "The request was sent to another host"),
        Kind("invalid", 422, "The request is not valid"),
        Kind("too_many_events", 429, "More is written than can be stored"),
        Kind("too_many_requests", 429, "The key or the device sends too fast"),
        Kind("quota_used_up", 429, "The key has sent all that it may send today"),
        Kind("head_too_large", 431, "The head of the request is too large"),
        Kind("internal", 500, "The server failed"),
        Kind("not_ready", 503, "The server is not ready"),
        Kind("overloaded", 503, "The server is overloaded"),
        Kind("not_caught_up", 503, "The position was not reached in time"),
    )
}


class Problem(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An error, as RFC 9457 problem details.

    Attributes:
        title: kind of problem in words; the same for every occurrence.
        status: HTTP status.
        code: short stable name of the kind, for programs.
        type: URI of the kind.
        detail: cause of this occurrence, and correction.
        request_id: id of the request in the server's log.
        field: path of the offending part of the body or query, e.g. ``$.count``.
    """

    title: str
    status: int
    code: str = ""
    type: str = "about:blank"
    detail: str | None = None
    request_id: str | None = None
    field: str | None = None


class ProblemError(TactfulError):
    """Ends a request with a problem.

    Attributes:
        kind: one of `KINDS`.
        detail: cause of this occurrence, and correction; never parts of the request.
        field: path of the offending part, e.g. ``$.count``.
        retry_after: seconds until a retry, for the ``Retry-After`` header.
        headers: further headers of the response.
        close: whether to close the connection.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        field: str | None = None,
        retry_after: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        close: bool = False,
    ) -> None:
        """Make the problem of kind `code`."""
        self.kind = KINDS[code]
        super().__init__(detail or self.kind.title)
        self.detail = detail
        self.field = field
        self.retry_after = retry_after
        self.headers = headers
        self.close = close

    def problem(self, request_id: str | None) -> Problem:
        """Return the problem details to send."""
        return Problem(
            title=self.kind.title,
            status=self.kind.status,
            code=self.kind.code,
            type=f"urn:tactful:problem:{self.kind.code}",
            detail=self.detail,
            request_id=request_id,
            field=self.field,
        )


def encode(problem: Problem) -> bytes:
    """Encode a problem as JSON."""
    return _encoder.encode(problem)


def invalid(error: msgspec.ValidationError, code: str, kind: Any) -> ProblemError:
    """Return the problem of a value of the wrong type, without quoting the value."""
    message = str(error)
    match = _PLACE.search(message)
    place = "$" if match is None else match[2]
    message = _PLACE.sub("", message)
    if "unknown field" in message:
        name = _UNKNOWN.fullmatch(message)
        message = "there is an unknown field" if name is None else f"the field {name[1]} is unknown"
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and place == "$":
            known = ", ".join(sorted(kind.__struct_encode_fields__))
            message += f"; known are {known}" if known else "; there are none"
    elif message.startswith("Invalid enum value"):
        message = "Invalid enum value"  # it quotes the value
    return ProblemError(code, message.replace("`", ""), field=place)
