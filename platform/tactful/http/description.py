"""Endpoints that describe the API: its first address, a page for readers, the OpenAPI document."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.docs_page import render
from tactful.http.openapi import document
from tactful.schemas.health import ApiLinks

_HTML = b"text/html; charset=utf-8"
_PAGE_HEADERS = (
    # The page has neither scripts nor images; nothing that got into it could load any.
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def described(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return endpoints together with those that describe them all, themselves included."""

    @functools.cache
    def openapi(version: str) -> bytes:
        return msgspec.json.encode(document(every, version=version))

    @functools.cache
    def page(version: str) -> bytes:
        return render(msgspec.json.decode(openapi(version))).encode()

    async def get_openapi(host: Any, call: Call) -> Reply:
        return Reply(200, openapi(host.version))

    async def get_docs(host: Any, call: Call) -> Reply:
        return Reply(200, page(host.version), _HTML, _PAGE_HEADERS)

    async def get_start(host: Any, call: Call) -> Reply:
        vary = (b"vary", b"accept")
        if b"text/html" in call.headers.get(b"accept", b""):
            # Relative: a proxy may serve the API below a path of its own.
            return Reply(302, b"", headers=((b"location", b"docs"), vary))
        links = ApiLinks(
            name="tactful",
            version=host.version,
            documentation="/docs",
            openapi="/openapi.json",
            health="/readyz",
        )
        return json_reply(links)._replace(headers=(vary,))

    every = (
        *endpoints,
        Endpoint(
            "GET",
            "/",
            "Find the documentation",
            get_start,
            details="A browser is redirected to `/docs`; others get links.",
            answer=ApiLinks,
            moved="To the documentation, for a browser",
        ),
        Endpoint("GET", "/docs", "Read this page", get_docs, answer_media=("text/html",)),
        Endpoint("GET", "/openapi.json", "Read this document", get_openapi, answer=dict[str, Any]),
    )
    return every
