"""Routes of the HTTP API: selection of the endpoint, API keys, problems, lifespan.

A `Resource` is the ASGI application of one path: it selects the endpoint by method, checks the API
key, runs the handler and makes one response with a request id of any outcome. Paths without
parameters, among them the two busy ones, are found in a dictionary; the others by `Paths`. An empty
request takes some twenty microseconds here.
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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from tactful.http import credentials
from tactful.http.asgi import (
    ANY_KEY,
    PARAMETERS,
    Call,
    Disconnected,
    Endpoint,
    Host,
    Lifespan,
    NoQuery,
    Receive,
    Reply,
    Scope,
    Send,
)
from tactful.http.paths import Paths
from tactful.metadata.key_cache import ApiKey
from tactful.schemas import browser_access as browser
from tactful.schemas import problems
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.config.server import ServerSettings

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

STREAMED = "tactful.streamed"
"""Key of a scope: whether the response is sent in parts, which a stopping server ends."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_NO_KEY = ApiKey("", frozenset(), "", 0, None)
_EVERY_RIGHT = ApiKey("", frozenset({"admin"}), "", 0, None)
_CHALLENGE = ((b"www-authenticate", b'Bearer realm="tactful"'),)
_GONE = 499  # as proxies log it: nobody gets an answer
_THIS_MACHINE = browser.Origins(this_machine=True)


class _KeyInQuery(msgspec.Struct, forbid_unknown_fields=True):
    """API key of a web page, where it can send no header."""

    key: str = ""


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
        request_id = request_id_of(headers)
        try:
            reply = await self._answer(scope, receive, headers)
        except Disconnected:
            return _GONE
        except ProblemError as error:
            reply = _problem_reply(error, request_id)
        except Exception as error:
            _log_failure(self._path, scope["method"], request_id, error)
            reply = _problem_reply(_failure_of(error), request_id)
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
        if key.limits is not None:
            self._host.key_counters.request(key)
        if settings.limits.request_rate and endpoint.scope is not None:
            self._host.rates.count_request()
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
        if key is None and (ended := self._host.keys.expired_at(sent or in_address)) is not None:
            raise _expired(ended)
        if key is None or (in_address and not credentials.may_be_in_address(key)):
            raise ProblemError(
                "no_key",
                "send `Authorization: Bearer KEY`; `tactful keys create` makes keys",
                headers=_CHALLENGE,
            )
        if endpoint.browser and browser.SCOPE in key.scopes:
            if self._origins.of(headers) is None:
                raise _wrong_origin(self._host.settings.server, headers)
            return key
        return _allowed(key, endpoint)


def _expired(ended: int) -> ProblemError:
    moment = dt.datetime.fromtimestamp(ended / 1000, dt.UTC)
    return ProblemError(
        "key_expired",
        f"it expired at {moment:%Y-%m-%dT%H:%M:%SZ}: ask for a new one; `tactful keys rotate` "
        "makes it before the end",
        headers=_CHALLENGE,
    )


def _allowed(key: ApiKey, endpoint: Endpoint) -> ApiKey:
    """Return the key of a caller who may call an endpoint, or raise `ProblemError`."""
    analyst = endpoint.analyst and key.allows("analyst")
    if endpoint.scope != ANY_KEY and not analyst and not key.allows(endpoint.scope or "admin"):
        raise ProblemError("missing_scope", f"this needs a key with the scope {endpoint.scope!r}")
    return key


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
            await run_lifespan(lifespan, receive, send)

    return application


async def run_lifespan(lifespan: Lifespan, receive: Receive, send: Send) -> None:
    """Start, say so, and stop when the server does."""
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
    await send_problem(ProblemError("not_found", "GET /docs describes all paths"), scope, send)


async def send_problem(error: ProblemError, scope: Scope, send: Send) -> None:
    """Send a problem as the whole response."""
    request_id = request_id_of(dict(scope["headers"]))
    await send_reply(_problem_reply(error, request_id), request_id, send)


def _problem_reply(error: ProblemError, request_id: bytes) -> Reply:
    headers = list(error.headers)
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.close:
        headers.append((b"connection", b"close"))
    body = problems.encode(error.problem(request_id.decode()))
    return Reply(error.kind.status, body, problems.MEDIA_TYPE, tuple(headers))


def request_id_of(headers: Mapping[bytes, bytes]) -> bytes:
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


def _failure_of(error: Exception) -> ProblemError:
    """Return the problem that a client sees: it tries again where memory or threads ran out."""
    no_thread = isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    if no_thread or isinstance(error, MemoryError):
        return ProblemError("overloaded", "the server has no memory left", retry_after=2)
    return ProblemError("internal", "report it with the request id")


def _log_failure(path: str, method: str, request_id: bytes, error: Exception) -> None:
    """Log the place of a failure without its message, which may quote personal data."""
    where = "".join(traceback.format_tb(error.__traceback__))
    failure, request = type(error).__name__, request_id.decode()
    logger.error("%s %s failed with %s, request %s\n%s", method, path, failure, request, where)
