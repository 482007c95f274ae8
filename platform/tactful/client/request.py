"""A request of the HTTP API as data, which both clients can run.

The functions of `tactful.client.routes` make them::

    client.run(routes.models.versions())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import msgspec

from tactful.client.exchange import Call, Policy, Send, exchange
from tactful.errors import ClientError

T = TypeVar("T")


@dataclass(frozen=True)
class Request(Generic[T]):
    """One request, and the type of its answer.

    Attributes:
        method: ``GET``, ``PUT``, ``POST`` or ``DELETE``.
        path: path, with ids encoded by `tactful.client.exchange.segment`.
        answer: type of the answer, which the JSON of the response is decoded to; None for a
            response without a body that is of use.
        params: query parameters; those that are None are left out.
        body: JSON value of the body, or bytes as they are; None for no body.
        content_type: type of a body in bytes.
        repeatable: whether to send it again after a temporary failure. A ``POST`` is not, unless
            this says so.
    """

    method: str
    path: str
    answer: type[T]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    repeatable: bool | None = None


def call_of(request: Request[T], policy: Policy) -> Call[T]:
    """Return the exchange of a request, with the retries of `policy` where it is repeatable."""
    body = request.body
    content = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
    send = Send(
        request.method, request.path, content, request.content_type, params=dict(request.params)
    )
    again = request.method != "POST" if request.repeatable is None else request.repeatable
    return exchange(policy, send, request.answer, retries=policy.retries if again else 0)


def following(request: Request[T], page: T) -> Request[T] | None:
    """Return the request of the page after `page`; None after the last one.

    Raises:
        ClientError: if the answer has no pages.
    """
    if "next_cursor" not in getattr(page, "__struct_fields__", ()):
        raise ClientError(f"{request.method} {request.path} has no pages: use `run`")
    cursor = getattr(page, "next_cursor", None)
    if cursor is None:
        return None
    return replace(request, params={**request.params, "cursor": cursor})
