"""Exchange with the server as a generator without I/O: retries, decoding.

A call yields `Send`, `Pause` or `Work` and receives the result; its return value is the response.
`tactful.client.sync` drives it by blocking, `tactful.client.aio` by awaiting.
"""

from __future__ import annotations

import datetime as dt
import email.utils
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from tactful.client.trust import tls_problem
from tactful.errors import (
    ApiError,
    BadRequest,
    Busy,
    ClientError,
    ConnectionFailed,
    NotAllowed,
    ServerFault,
)
from tactful.schemas.problems import Problem
from tactful_privacy.decoding import DECODE_ERRORS

T = TypeVar("T")

TEMPORARY = frozenset({408, 429, 502, 503, 504})
"""Temporary failures: of the server, or of a proxy that cannot reach it."""


@dataclass(frozen=True)
class Send:
    """Send a request; its result is an `httpx.Response` or `httpx.TransportError`."""

    method: str
    path: str
    content: bytes | None = None
    content_type: str = "application/json"
    # query parameters; None values are left out
    params: Mapping[str, Any] = field(default_factory=dict)
    # returns further headers, called at each attempt
    headers: Callable[[], Mapping[str, str]] = dict

    def built(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Build the request with the address and headers of `http`."""
        params = {name: value for name, value in self.params.items() if value is not None}
        headers = {**self.headers()}
        if self.content is not None:
            headers["content-type"] = self.content_type
        return http.build_request(
            self.method, self.path, content=self.content, params=params or None, headers=headers
        )


@dataclass(frozen=True)
class Pause:
    """Wait for a number of seconds."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Run a function that may block on the disk; the driver sends its value."""

    run: Callable[[], Any]


Call = Generator[Send | Pause | Work, Any, T]
"""A call that returns a `T`."""


@dataclass(frozen=True)
class Policy:
    """Which failures are retried, and when."""

    base_url: str  # address of the server, for messages
    retries: int  # number of retries of a temporary failure
    first_pause_s: float  # upper end of the first random pause; each following one doubles
    # upper end of the growing pauses, and the longest pause that a server may request. A longer
    # request makes the call fail at once with that reason.
    longest_pause_s: float
    jitter: Callable[[], float]  # random numbers in [0, 1)
    clock: Callable[[], float]  # now in epoch seconds, for servers that answer with a date


def headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of every request."""
    accepted = {"accept": "application/json"}
    return accepted if api_key is None else {**accepted, "authorization": f"Bearer {api_key}"}


def limits(connections: int) -> httpx.Limits:
    """Limit the connections; at most twenty stay open when idle."""
    return httpx.Limits(max_connections=connections, max_keepalive_connections=min(20, connections))


def exchange(
    policy: Policy, request: Send, kind: type[T], *, retries: int | None = None
) -> Call[T]:
    """Send `request`, again if need be, and read the answer as a `kind`.

    `retries` replaces the number of `policy`.

    Raises:
        ConnectionFailed: if no attempt got a response.
        ApiError: if the last response is an error.
        ClientError: if the response is no `kind`.
    """
    attempt = 0
    most = policy.retries if retries is None else retries
    while True:
        last = attempt >= most
        asked: float | None = None
        try:
            response: httpx.Response = yield request
        except httpx.TransportError as error:
            if last:
                failed = f"{policy.base_url} does not answer ({type(error).__name__}): "
                reason = tls_problem(error) or "is `tactful serve` running there?"
                if isinstance(error, httpx.RemoteProtocolError) and "https:" not in failed:
                    reason += " If it speaks TLS, write https://"
                raise ConnectionFailed(failed + reason) from error
        else:
            if response.status_code not in TEMPORARY:
                return _decode(request.path, response, kind)
            asked = retry_after(response.headers.get("retry-after"), policy.clock())
            if last or (asked is not None and asked > policy.longest_pause_s):
                raise error_of(response, asked)
        yield Pause((asked or 0.0) + _growing(policy, attempt))
        attempt += 1


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds of a ``Retry-After`` header (RFC 9110, 10.2.3), or None.

    The header holds seconds or a date; `now` is in epoch seconds.
    """
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0.0, moment.timestamp() - now)


def _growing(policy: Policy, attempt: int) -> float:
    """Return a random part of an exponentially growing pause (full jitter).

    Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015).
    """
    longest: float = min(policy.longest_pause_s, policy.first_pause_s * 2**attempt)
    return longest * policy.jitter()


def _decode(path: str, response: httpx.Response, kind: type[T]) -> T:
    if not response.is_success:
        raise error_of(response, None)
    try:
        if kind is bytes:
            return response.content  # type: ignore[return-value]
        return msgspec.json.decode(response.content, type=kind)
    except DECODE_ERRORS as error:
        raise ClientError(
            f"{path}: the response cannot be decoded: {error}; use a client of the server's version"
        ) from error


def error_of(response: httpx.Response, asked: float | None) -> ApiError:
    """Return the error of a response; `asked` is its pause before another attempt, seconds."""
    status = response.status_code
    try:
        problem = msgspec.json.decode(response.content, type=Problem)
    except DECODE_ERRORS:
        problem = Problem(title=response.reason_phrase or "Error", status=status)
    if status in (401, 403):
        return NotAllowed(status, problem)
    if status in (429, 503):
        return Busy(status, problem, retry_after=asked)
    return BadRequest(status, problem) if status < 500 else ServerFault(status, problem)


def get(policy: Policy, path: str, kind: type[T], **params: Any) -> Call[T]:
    """Read a `kind`; parameters that are None are left out, and raises as `exchange`."""
    return exchange(policy, Send("GET", path, params=params), kind)


def segment(text: str) -> str:
    """Encode an id as one part of a path, whatever characters it has."""
    encoded = quote(text, safe="")
    # httpx would resolve these as directories.
    return encoded.replace(".", "%2E") if encoded in (".", "..") else encoded
