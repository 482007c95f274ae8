"""How one request is answered: the ASGI mechanics every endpoint shares.

An `Endpoint` is a row of data: method, path, handler, types, scope. A `Resource` is
the ASGI application of one path: it finds the endpoint by method, checks the API key, runs the
handler and turns whatever happens into one answer with a request id. There is no framework in the
way; an empty request costs some twenty microseconds here.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
import traceback
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec

from tactful.metadata.key_cache import ApiKey, ValidKeys
from tactful.schemas import browser_access as browser
from tactful.schemas import problems
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.config.settings import Settings
    from tactful.metrics.registry import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")

logger = logging.getLogger(__name__)

JSON = b"application/json"
ARRIVED = "tactful.arrived"
"""Key of a scope: says whether the whole body is there, so that nobody has to wait for it."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_UNKNOWN_FIELD = re.compile(r"unknown field")
_FIELD = re.compile(r" - at `(.*)`$")
_LOOPBACK_HOST = re.compile(rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_SCHEME = re.compile(rb"https?://")
_encoder = msgspec.json.Encoder()


class Host(Protocol):
    """What a resource needs of whom it serves; handlers know more of it."""

    @property
    def settings(self) -> Settings:
        """Checked settings."""

    @property
    def keys(self) -> ValidKeys:
        """The API keys."""

    @property
    def metrics(self) -> Metrics:
        """Where answers are counted."""


class Reply(NamedTuple):
    """What a handler answers with."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """One row of the API.

    Attributes:
        method: HTTP method.
        path: template, e.g. ``/v1/users/{user_id}/features``.
        summary: what it does, in one line.
        handle: answers a call.
        scope: scope the API key must have; None for everybody.
        browser: whether it is for web pages, too: CORS, and keys with the scope ``browser``.
        body: type of the request body, or None.
        query: struct of the query parameters, or None.
        answer: type of the body of a good answer; None when it is not JSON of ours.
        status: status of a good answer.
        request_example: a body that is answered with `status`.
        answer_example: what such an answer looks like.
        parameters_example: path and query parameters that go with it.
        problems: codes of problems beside those every endpoint has.
        media: media types of the request body.
        answer_media: media type of a good answer.
        details: more to say about it.
    """

    method: str
    path: str
    summary: str
    handle: Callable[[Any, Call], Awaitable[Reply]]
    scope: str | None = None
    browser: bool = False
    body: Any = None
    query: type[msgspec.Struct] | None = None
    answer: Any = None
    status: int = 200
    request_example: Any = None
    answer_example: Any = None
    parameters_example: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    media: tuple[str, ...] = ("application/json",)
    answer_media: str = "application/json"
    details: str = ""


class Call:
    """One request, as a handler sees it.

    Attributes:
        headers: by lower-case name; of repeated ones the last.
        content_type: as sent, or None.
        path: parameters of the path.
        query_string: as sent.
        trusted: whether the caller may do what only administrators may.
        public: whether the key is one that everybody can read.
    """

    __slots__ = (
        "_arrived",
        "_limit",
        "_receive",
        "_timeout",
        "content_type",
        "headers",
        "path",
        "public",
        "query_string",
        "trusted",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        headers: Mapping[bytes, bytes],
        trusted: bool,
        public: bool,
        limit: int,
        timeout: float,
    ) -> None:
        """Wrap the request; nothing is read yet."""
        self._receive = receive
        self._arrived: Callable[[], bool] | None = scope.get(ARRIVED)
        self.query_string: bytes = scope["query_string"]
        self._limit = limit
        self._timeout = timeout
        self.headers = headers
        self.trusted = trusted
        self.public = public
        self.path: Mapping[str, str] = scope.get("path_params") or {}
        kind = headers.get(b"content-type")
        self.content_type = None if kind is None else kind.decode("latin-1")

    async def body(self) -> bytes:
        """Read the body, and stop as soon as it is larger than allowed.

        Raises:
            ProblemError: if it is too large, too slow or encoded.
        """
        declared = self.headers.get(b"content-length", b"0")
        if len(declared) > 15 or not declared.isdigit() or int(declared) > self._limit:
            raise self._too_large()
        if self.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise ProblemError("unsupported_encoding", "send the body without Content-Encoding")
        if self._arrived is not None and self._arrived():
            return await self._read()  # a timer costs more than all that it would watch
        try:
            async with asyncio.timeout(self._timeout):
                return await self._read()
        except TimeoutError:
            raise ProblemError("body_timeout", close=True) from None

    async def _read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while size <= self._limit:
            message = await self._receive()
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
        """Read and decode a JSON body.

        Raises:
            ProblemError: if it is not JSON or not what it should be.
        """
        return decoded(await self.body(), decoder)

    def query(self, kind: type[T]) -> T:
        """The query parameters.

        Raises:
            ProblemError: if one is unknown, given twice or wrong.
        """
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
            return msgspec.convert(values, kind, strict=False)
        except msgspec.ValidationError as error:
            raise invalid(error, "bad_query", kind) from None


class Disconnected(Exception):
    """The caller went away before the request was complete; there is nobody to answer."""


class Resource:
    """The ASGI application of one path."""

    def __init__(self, path: str, endpoints: Mapping[str, Endpoint], platform: Host) -> None:
        """Serve `endpoints`, by method, on `path`."""
        self._path = path
        self._endpoints = endpoints
        self._platform = platform
        self._allow = ", ".join(sorted(endpoints)).encode()
        pages = any(endpoint.browser for endpoint in endpoints.values())
        self._origins = browser.parse_origins(
            platform.settings.server.cors_origins if pages else ""
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        try:
            reply = await self._answer(scope, receive, headers)
        except Disconnected:
            return
        except ProblemError as error:
            reply = _problem_reply(error, request_id)
        except Exception as error:
            _log_failure(self._path, scope["method"], request_id, error)
            failure = ProblemError("internal", "report it with the request id")
            reply = _problem_reply(failure, request_id)
        if self._origins.allowed:
            crossing = self._origins.headers(self._origins.of(headers))
            reply = reply._replace(headers=(*reply.headers, *crossing))
        await send_reply(reply, request_id, send)
        seconds = time.perf_counter() - started
        self._platform.metrics.answered(self._path, reply.status, seconds)

    async def _answer(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> Reply:
        method = scope["method"]
        endpoint = self._endpoints.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            if method == "OPTIONS" and self._origins.of(headers) is not None:
                return Reply(204, b"", headers=browser.PREFLIGHT)
            raise ProblemError("method_not_allowed", headers=((b"allow", self._allow),))
        platform = self._platform
        server = platform.settings.server
        trusted, public = server.dev, False
        if server.dev:
            _check_host(headers)
        elif endpoint.scope is not None:
            key = self._authorise(headers, endpoint, scope["query_string"])
            trusted, public = key.allows("admin"), browser.SCOPE in key.scopes
        limit = platform.settings.limits.body_bytes
        call = Call(scope, receive, headers, trusted, public, limit, server.body_timeout_s)
        return await endpoint.handle(platform, call)

    def _authorise(
        self, headers: Mapping[bytes, bytes], endpoint: Endpoint, query: bytes
    ) -> ApiKey:
        sent = headers.get(b"x-api-key")
        if sent is None:
            scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer":
                sent = b""
        # Addresses end up in logs, so only a key that is no secret may lie in one.
        in_address = not sent and endpoint.browser and query.startswith(b"key=")
        if in_address:
            sent = query[4:]
        key = self._platform.keys.check(sent.strip().decode("latin-1"))
        if key is None or (in_address and browser.SCOPE not in key.scopes):
            raise ProblemError(
                "no_key",
                "send `Authorization: Bearer KEY`; `tactful keys create` makes keys",
                headers=((b"www-authenticate", b'Bearer realm="tactful"'),),
            )
        if endpoint.browser and browser.SCOPE in key.scopes:
            if self._origins.of(headers) is None:
                raise ProblemError(
                    "wrong_origin",
                    "a browser key works from pages of the origins in `server.cors_origins` only",
                )
        elif not key.allows(endpoint.scope or "admin"):
            raise ProblemError(
                "missing_scope", f"this needs a key with the scope {endpoint.scope!r}"
            )
        return key


def decoded(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a JSON body.

    Raises:
        ProblemError: if it is not JSON or not what it should be.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error, "invalid", decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProblemError("bad_body", "the body must be one JSON object in UTF-8") from None


def json_reply(value: Any, status: int = 200) -> Reply:
    """Answer with `value` as JSON."""
    return Reply(status, _encoder.encode(value))


async def send_reply(reply: Reply, request_id: bytes, send: Send) -> None:
    """Send one whole answer."""
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [
                (b"content-type", reply.content_type),
                (b"content-length", b"%d" % len(reply.body)),
                (b"x-request-id", request_id),
                (b"cache-control", b"no-store"),
                *reply.headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": reply.body})


async def answer_with_problem(error: ProblemError, scope: Scope, send: Send) -> None:
    """Answer a request that belongs to no resource."""
    request_id = _request_id(dict(scope["headers"]))
    await send_reply(_problem_reply(error, request_id), request_id, send)


def invalid(error: msgspec.ValidationError, code: str, kind: Any) -> ProblemError:
    """The problem of a value that does not fit its type, without repeating what was sent."""
    said = str(error)
    place = _FIELD.search(said)
    said = _FIELD.sub("", said).replace("`", "")
    if _UNKNOWN_FIELD.search(said):
        said = "there is an unknown field"
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and place is None:
            said += f"; known are {', '.join(sorted(kind.__struct_encode_fields__))}"
    path = "$" if place is None else place[1]
    return ProblemError(code, said, field=path)


def _problem_reply(error: ProblemError, request_id: bytes) -> Reply:
    headers = list(error.headers)
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.close:
        headers.append((b"connection", b"close"))
    body = problems.encode(error.problem(request_id.decode()))
    return Reply(error.kind.status, body, problems.MEDIA_TYPE, tuple(headers))


def _request_id(headers: Mapping[bytes, bytes]) -> bytes:
    """The caller's request id when it is a sane one, else a new one."""
    sent = headers.get(b"x-request-id")
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent
    return secrets.token_hex(8).encode()


def _check_host(headers: Mapping[bytes, bytes]) -> None:
    """Without keys, refuse requests a web page from elsewhere sent here.

    Under a name of its own (DNS rebinding) it is told by the Host header, else by the Origin header
    that comes with every request which may change something: a browser lies about neither.
    """
    host = headers.get(b"host")
    if host is not None and not _LOOPBACK_HOST.fullmatch(host):
        raise ProblemError("wrong_host", "with --dev only loopback names are served")
    origin = headers.get(b"origin")
    if origin is not None and not _LOOPBACK_HOST.fullmatch(_SCHEME.sub(b"", origin, count=1)):
        raise ProblemError("wrong_host", "with --dev only pages of this machine are answered")


def _log_failure(path: str, method: str, request_id: bytes, error: Exception) -> None:
    """Log where it failed, but not the message: it may quote what a person sent."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error(
        "%s %s failed with %s, request %s\n%s",
        method,
        path,
        type(error).__name__,
        request_id.decode(),
        where,
    )
