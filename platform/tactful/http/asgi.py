"""ASGI mechanics that every endpoint shares: routing, API keys, bodies, problems, lifespan.

An `Endpoint` is a row of data: method, path, handler, types, scope. A `Resource` is the ASGI
application of one path: it selects the endpoint by method, checks the API key, runs the handler
and makes one response with a request id of any outcome. Paths without parameters, among them the
two busy ones, are found in a dictionary; the others by `Paths`. An empty request takes some twenty
microseconds here.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import logging
import re
import secrets
import time
import traceback
import urllib.parse
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec

from tactful.http import credentials
from tactful.http.gzip_body import inflated
from tactful.http.paths import Paths
from tactful.metadata.key_cache import ApiKey, ValidKeys
from tactful.schemas import browser_access as browser
from tactful.schemas import problems
from tactful.schemas.problems import ProblemError
from tactful.subjects.minimise import Minimiser
from tactful_privacy.decoding import DECODE_ERRORS

if TYPE_CHECKING:
    from tactful.config.server import ServerSettings
    from tactful.config.settings import Settings
    from tactful.http.rate_limits import RateLimits
    from tactful.metrics.registry import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")

logger = logging.getLogger(__name__)

JSON = b"application/json"
ARRIVED = "tactful.arrived"
"""Key of a scope: function that returns whether the whole body has arrived."""

PARAMETERS = "path_params"
"""Key of a scope: parameters in the path, by name."""

STREAMED = "tactful.streamed"
"""Key of a scope: whether the response is sent in parts, which a stopping server ends."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
# Without a type, and of the types that browsers and curl give to a text, a body is JSON, too.
_READABLE = re.compile(
    rb"\s*($|[a-z]+/[a-z0-9.+-]*json|text/plain|application/x-www-form-urlencoded)", re.IGNORECASE
)
ANY_KEY = "any"
"""Scope of an endpoint that any valid key may call."""

_NO_KEY = ApiKey("", frozenset(), "", 0, None)
_EVERY_RIGHT = ApiKey("", frozenset({"admin"}), "", 0, None)
_GONE = 499  # as proxies log it: nobody gets an answer
_THIS_MACHINE = browser.Origins(this_machine=True)
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


class _KeyInQuery(msgspec.Struct, forbid_unknown_fields=True):
    """API key of a web page, where it can send no header."""

    key: str = ""


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


class Resource:
    """ASGI application of one path."""

    def __init__(self, path: str, endpoints: Mapping[str, Endpoint], host: Host) -> None:
        """Serve `endpoints`, by method, on `path`."""
        self._path = path
        self._endpoints = endpoints
        self._host = host
        allowed = {*endpoints, *(["HEAD"] if "GET" in endpoints else [])}
        self._allow = ", ".join(sorted(allowed)).encode()
        pages = any(endpoint.browser for endpoint in endpoints.values())
        self._pages = pages
        self._origins = _page_origins(host.settings.server) if pages else browser.Origins()
        # Looking a series up by its labels at every request would be slow.
        self._observe = host.metrics.requests.labels(path).observe
        self._answers = functools.cache(functools.partial(host.metrics.answers.labels, path))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        traces = self._host.metrics.traces
        if traces is None:
            await self._respond(scope, receive, send)
            return
        parent = dict(scope["headers"]).get(b"traceparent")
        with traces.request(scope["method"], self._path, parent) as answered:
            answered(await self._respond(scope, receive, send))

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer one request; return the status, 499 if the client has gone."""
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        try:
            reply = await self._answer(scope, receive, headers)
        except Disconnected:
            return _GONE
        except ProblemError as error:
            reply = _problem_reply(error, request_id)
        except Exception as error:
            _log_failure(self._path, scope["method"], request_id, error)
            failure = ProblemError("internal", "report it with the request id")
            reply = _problem_reply(failure, request_id)
        if self._origins:
            cors = self._origins.headers(self._origins.of(headers))
            reply = reply._replace(headers=(*reply.headers, *cors))
        if reply.parts is None or scope["method"] == "HEAD":
            await send_reply(reply, request_id, send)
        else:
            scope[STREAMED] = True
            await _send_parts(reply, request_id, receive, send)
        self._observe(time.perf_counter() - started)
        self._answers(reply.status).inc()
        return reply.status

    async def _answer(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> Reply:
        method = scope["method"]
        endpoint = self._endpoints.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            if method == "OPTIONS" and self._origins.of(headers) is not None:
                return Reply(204, b"", headers=browser.PREFLIGHT)
            if method == "OPTIONS" and self._pages and b"origin" in headers:
                raise _wrong_origin(self._host.settings.server, headers)
            raise ProblemError("method_not_allowed", headers=((b"allow", self._allow),))
        settings = self._host.settings
        server = settings.server
        key = _NO_KEY
        if server.dev:
            _check_host(headers)
            key = _EVERY_RIGHT
        elif endpoint.scope is not None:
            tokens = self._host.tokens
            token = "" if tokens is None else credentials.id_token(headers)
            if tokens is not None and token:
                key = _allowed(await tokens.check(token), endpoint)
            else:
                key = self._authorise(headers, endpoint, scope["query_string"])
        limit = settings.limits.body_bytes
        timeout, gzip = server.body_timeout_s, endpoint.foreign
        call = Call(scope, receive, headers, key, limit, timeout, gzip)
        if call.public:
            self._host.rates.count(key.id)
            call.limit_body(settings.limits.browser_body_bytes)
        if scope["query_string"] and endpoint.query is NoQuery:
            call.query(_KeyInQuery if endpoint.takes_key_in_query else NoQuery)
        return await endpoint.handle(self._host, call)

    def _authorise(
        self, headers: Mapping[bytes, bytes], endpoint: Endpoint, query: bytes
    ) -> ApiKey:
        sent = credentials.in_headers(headers, basic=endpoint.foreign)
        # Addresses end up in logs: only a key that can do little may be in one.
        in_address = ""
        if not sent and endpoint.takes_key_in_query:
            in_address = credentials.of_page(query)
        elif not sent and endpoint.secret:
            in_address = credentials.in_query(query, endpoint.secret)
        key = self._host.keys.check(sent or in_address)
        if key is None or (in_address and not credentials.may_be_in_address(key)):
            raise ProblemError(
                "no_key",
                "send `Authorization: Bearer KEY`; `tactful keys create` makes keys",
                headers=((b"www-authenticate", b'Bearer realm="tactful"'),),
            )
        if endpoint.browser and browser.SCOPE in key.scopes:
            if self._origins.of(headers) is None:
                raise _wrong_origin(self._host.settings.server, headers)
            return key
        return _allowed(key, endpoint)


def _allowed(key: ApiKey, endpoint: Endpoint) -> ApiKey:
    """Return the key of a caller who may call an endpoint, or raise `ProblemError`."""
    analyst = endpoint.analyst and key.allows("analyst")
    if endpoint.scope != ANY_KEY and not analyst and not key.allows(endpoint.scope or "admin"):
        raise ProblemError("missing_scope", f"this needs a key with the scope {endpoint.scope!r}")
    return key


def json_reply(value: Any, status: int = 200) -> Reply:
    """Make a response with `value` as JSON."""
    return Reply(status, _encoder.encode(value))


async def send_reply(reply: Reply, request_id: bytes, send: Send) -> None:
    """Send one whole response."""
    headers = _headers(reply, request_id)
    if reply.status not in (204, 304):
        length = b"%d" % len(reply.body)
        headers += [(b"content-type", reply.content_type), (b"content-length", length)]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _headers(reply: Reply, request_id: bytes) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-request-id", request_id), *reply.headers]
    if not any(name == b"cache-control" for name, _ in reply.headers):
        headers.append((b"cache-control", b"no-store"))
    return headers


async def _send_parts(reply: Reply, request_id: bytes, receive: Receive, send: Send) -> None:
    """Send a response as its parts come, until they end or the client has left."""
    assert reply.parts is not None
    headers = _headers(reply, request_id)
    headers.append((b"content-type", reply.content_type))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    left = asyncio.ensure_future(_left(receive))
    try:
        while not left.done():
            part = asyncio.ensure_future(anext(reply.parts, None))
            await asyncio.wait({part, left}, return_when=asyncio.FIRST_COMPLETED)
            if not part.done():
                part.cancel()
                await asyncio.wait({part})
                break
            body = part.result()
            if body is None:
                break
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        left.cancel()
        await reply.parts.aclose()


async def _left(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def route(
    endpoints: Sequence[Endpoint], host: Host, lifespan: Lifespan | None = None
) -> Application:
    """Make an application; `host` is the first argument of the handlers of `endpoints`.

    `lifespan` starts before the first request and stops after the last response.
    """
    paths = Paths(
        {
            path: Resource(
                path,
                {endpoint.method: endpoint for endpoint in endpoints if endpoint.path == path},
                host,
            )
            for path in dict.fromkeys(endpoint.path for endpoint in endpoints)
        }
    )

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            resource, scope[PARAMETERS] = paths.find(scope["raw_path"])
            await (resource or _not_found)(scope, receive, send)
        elif scope["type"] == "lifespan" and lifespan is not None:
            await _run_lifespan(lifespan, receive, send)

    return application


async def _run_lifespan(lifespan: Lifespan, receive: Receive, send: Send) -> None:
    await receive()
    try:
        await lifespan.start()
    except Exception as error:
        logger.exception("the platform cannot start")
        await send({"type": "lifespan.startup.failed", "message": type(error).__name__})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    try:
        await lifespan.stop()
    except Exception as error:
        logger.exception("the platform did not stop cleanly; it will recover at the next start")
        await send({"type": "lifespan.shutdown.failed", "message": type(error).__name__})
        return
    await send({"type": "lifespan.shutdown.complete"})


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    request_id = _request_id(dict(scope["headers"]))
    error = ProblemError("not_found", "GET /docs describes all paths")
    await send_reply(_problem_reply(error, request_id), request_id, send)


def _problem_reply(error: ProblemError, request_id: bytes) -> Reply:
    headers = list(error.headers)
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.close:
        headers.append((b"connection", b"close"))
    body = problems.encode(error.problem(request_id.decode()))
    return Reply(error.kind.status, body, problems.MEDIA_TYPE, tuple(headers))


def _request_id(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the caller's request id if it is valid, else a new one."""
    sent = headers.get(b"x-request-id")
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent
    return secrets.token_hex(8).encode()


def _page_origins(server: ServerSettings) -> browser.Origins:
    """Return the origins whose pages may call the server: with --dev those of this machine."""
    return _THIS_MACHINE if server.dev else browser.parse_origins(server.cors_origins)


def _check_host(headers: Mapping[bytes, bytes]) -> None:
    """Refuse requests of foreign web pages while no keys are checked.

    The Host header reveals a page that uses a name of its own (DNS rebinding), else the Origin
    header, which comes with every request that may change something: browsers forge neither.
    """
    host = headers.get(b"host")
    if host is not None and not browser.is_this_machine(host):
        raise ProblemError("wrong_host", "with --dev only loopback names are served")
    if b"origin" in headers and _THIS_MACHINE.of(headers) is None:
        raise ProblemError("wrong_host", browser.refusal(headers, dev=True))


def _wrong_origin(server: ServerSettings, headers: Mapping[bytes, bytes]) -> ProblemError:
    return ProblemError("wrong_origin", browser.refusal(headers, dev=server.dev))


def _log_failure(path: str, method: str, request_id: bytes, error: Exception) -> None:
    """Log the place of a failure without its message, which may quote personal data."""
    where = "".join(traceback.format_tb(error.__traceback__))
    failure, request = type(error).__name__, request_id.decode()
    logger.error("%s %s failed with %s, request %s\n%s", method, path, failure, request, where)
