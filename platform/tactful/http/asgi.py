"""Requests, responses and endpoints of the HTTP API, as handlers see them.

An `Endpoint` is a row of data: method, path, handler, types, scope. `tactful.http.resource` routes
requests to the handlers.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import urllib.parse
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec

from tactful.http.gzip_body import inflated
from tactful.metadata.key_cache import ApiKey, ValidKeys
from tactful.schemas import browser_access as browser
from tactful.schemas import problems
from tactful.schemas.problems import ProblemError
from tactful.subjects.minimise import Minimiser
from tactful_privacy.decoding import DECODE_ERRORS

if TYPE_CHECKING:
    from tactful.config.settings import Settings
    from tactful.http.limits.key_limits import KeyCounters
    from tactful.http.limits.rate_limits import RateLimits
    from tactful.metrics.registry import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")

JSON = b"application/json"
ARRIVED = "tactful.arrived"
"""Key of a scope: function that returns whether the whole body has arrived."""

PARAMETERS = "path_params"
"""Key of a scope: parameters in the path, by name."""

# Without a type, and of the types that browsers and curl give to a text, a body is JSON, too.
_READABLE = re.compile(
    rb"\s*($|[a-z]+/[a-z0-9.+-]*json|text/plain|application/x-www-form-urlencoded)", re.IGNORECASE
)
ANY_KEY = "any"
"""Scope of an endpoint that any valid key may call."""

_encoder = msgspec.json.Encoder()


class Tokens(Protocol):
    """Checks ID tokens (`tactful.http.oidc`)."""

    async def check(self, token: str) -> ApiKey:
        """Return the rights of the person that a token names, or raise `ProblemError`."""


class Host(Protocol):
    """Application that owns a resource, as far as the resource uses it."""

    @property
    def settings(self) -> Settings:
        """Checked settings."""

    @property
    def keys(self) -> ValidKeys:
        """Valid API keys."""

    @property
    def metrics(self) -> Metrics:
        """Metrics that count responses."""

    @property
    def tokens(self) -> Tokens | None:
        """Checks ID tokens; None if API keys are the only credentials."""

    @property
    def rates(self) -> RateLimits:
        """Rates of browser keys and devices."""

    @property
    def key_counters(self) -> KeyCounters:
        """Counts of keys with limits of their own."""

    @property
    def minimise(self) -> Minimiser | None:
        """Shortens named fields of requests; None if none are named."""


class Lifespan(Protocol):
    """Part of a server that starts and stops with it."""

    async def start(self) -> None:
        """Start."""

    async def stop(self) -> None:
        """Stop."""


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """No query parameters."""


class Reply(NamedTuple):
    """Response of a handler: a body, or parts of one, which are sent as they come."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    parts: AsyncGenerator[bytes] | None = None


@dataclass(frozen=True)
class Endpoint:
    """One row of the API."""

    method: str
    path: str  # template, e.g. ``/v1/users/{user_id}/features``
    summary: str
    handle: Callable[[Any, Call], Awaitable[Reply]]
    # scope the API key must have, or `ANY_KEY`; None for public endpoints
    scope: str | None = None
    # whether web pages may call it: CORS, and keys with the scope ``browser``
    browser: bool = False
    # whether keys with the scope ``analyst`` may call it, too: nothing in it is about people
    analyst: bool = False
    # whether programs that others have written call it: keys as the user name of Basic
    # authentication or as the query parameter `secret`, and bodies that gzip has compressed
    foreign: bool = False
    secret: str = ""
    # type of the request body, `query` of its parameters, `answer` of a successful response; None
    # of `answer` when that is not JSON of ours
    body: Any = None
    query: type[msgspec.Struct] = NoQuery
    answer: Any = None
    status: int = 200  # status of a successful response
    moved: str = ""  # description of a redirect, which is answered with 302; empty for none
    problems: tuple[str, ...] = ()  # codes of problems beside those every endpoint has
    media: tuple[str, ...] = ("application/json", "text/plain")
    answer_media: tuple[str, ...] = ("application/json",)
    details: str = ""  # description for the OpenAPI document

    @property
    def takes_key_in_query(self) -> bool:
        """Whether a page that can send no header may send its key as the only parameter."""
        return self.browser and self.query is NoQuery


class Call:
    """One request, for a handler.

    Its methods raise `ProblemError` for a body that is too large, too slow, encoded or not of the
    expected type, and for query parameters that are unknown, repeated or wrong.

    Attributes:
        headers: by lower-case name; the last of repeated ones.
        key: the key of the caller; one without a scope on a public path.
        peer: address of the connection; empty if unknown.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        headers: Mapping[bytes, bytes],
        key: ApiKey,
        limit: int,
        timeout: float,
        gzip: bool = False,
    ) -> None:
        """Wrap the request, without reading its body; `gzip` allows a compressed one."""
        self._next_part = receive
        self._body: bytes | None = None
        self._arrived: Callable[[], bool] | None = scope.get(ARRIVED)
        self.query_string: bytes = scope["query_string"]
        self._limit = limit
        self._timeout = timeout
        self._gzip = gzip
        self.headers = headers
        self.key = key
        self.path: Mapping[str, str] = scope.get(PARAMETERS) or {}
        self.peer: str = (scope.get("client") or ("",))[0]
        kind = headers.get(b"content-type")
        self.content_type = None if kind is None else kind.decode("latin-1")

    @property
    def trusted(self) -> bool:
        """Whether the caller has the rights of an administrator."""
        return self.key.allows("admin")

    @property
    def public(self) -> bool:
        """Whether the key lies in a web page, where everybody can read it."""
        return browser.SCOPE in self.key.scopes

    @property
    def browser_key(self) -> str:
        """Id of a key that lies in a web page; "" for another."""
        return self.key.id if self.public else ""

    def limit_body(self, most: int) -> None:
        """Lower the limit of the body to `most` bytes."""
        self._limit = min(self._limit, most)

    async def body(self, *, is_file: bool = False) -> bytes:
        """Return the body, which is read once and must not be larger than allowed.

        A file may have any type; everything else is JSON, or a text that browsers name so.
        """
        if self._body is None:
            self._body = await self._read(is_file)
        return self._body

    async def _read(self, is_file: bool) -> bytes:
        declared = self.headers.get(b"content-length", b"0")
        if len(declared) > 15 or not declared.isdigit() or int(declared) > self._limit:
            raise self._too_large()
        encoding = self.headers.get(b"content-encoding", b"identity").strip().lower()
        zipped = self._gzip and encoding in (b"gzip", b"x-gzip")
        if encoding != b"identity" and not zipped:
            other = " or compressed by gzip" if self._gzip else ""
            detail = f"send the body without Content-Encoding{other}"
            raise ProblemError("unsupported_encoding", detail)
        if not is_file and not _READABLE.match(self.headers.get(b"content-type", b"")):
            raise ProblemError("unsupported_media", "send JSON as application/json")
        body = await self._receive()
        return inflated(body, self._limit) if zipped else body

    async def _receive(self) -> bytes:
        if self._arrived is not None and self._arrived():
            return await self._receive_parts()  # a timer would cost more than the read
        try:
            async with asyncio.timeout(self._timeout):
                return await self._receive_parts()
        except TimeoutError:
            raise ProblemError("body_timeout", close=True) from None

    async def _receive_parts(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while size <= self._limit:
            message = await self._next_part()
            if message["type"] == "http.disconnect":
                raise Disconnected
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if not message.get("more_body"):
                break
        if size > self._limit:
            raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> ProblemError:
        # The connection stays open: a client that is still sending could not read the answer
        # otherwise. `GuardedProtocol` discards the rest, up to a limit.
        return ProblemError(
            "too_large", f"a body may have {self._limit} bytes: send smaller batches"
        )

    async def json(self, decoder: msgspec.json.Decoder[T]) -> T:
        """Read and decode a JSON body."""
        body = await self.body()
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise problems.invalid(error, "invalid", decoder.type) from None
        except DECODE_ERRORS:
            raise ProblemError("bad_body", "the body must be one JSON object in UTF-8") from None

    def query(self, kind: type[T]) -> T:
        """Decode the query parameters."""
        try:
            pairs = urllib.parse.parse_qsl(
                self.query_string.decode("ascii"),
                keep_blank_values=True,
                max_num_fields=32,
                errors="strict",
            )
        except ValueError:
            raise ProblemError("bad_query", "the query string cannot be read") from None
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ProblemError("bad_query", "a parameter is given twice")
        try:
            query = msgspec.convert(values, kind, strict=False)
        except msgspec.ValidationError as error:
            raise problems.invalid(error, "bad_query", kind) from None
        for name, value in values.items():
            # msgspec reads 0.5 as half a second after 1970; whole numbers are milliseconds.
            if isinstance(getattr(query, name), dt.datetime) and ":" not in value:
                raise ProblemError("bad_query", "write a time as RFC 3339", field=f"$.{name}")
        return query


class Disconnected(Exception):
    """The client closed the connection before the request was complete."""


def json_reply(value: Any, status: int = 200) -> Reply:
    """Make a response with `value` as JSON."""
    return Reply(status, _encoder.encode(value))
