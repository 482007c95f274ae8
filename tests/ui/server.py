"""A small HTTP server with the routes the dashboard asks for, and states a test can put it in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.sdk.shop import serving

PROBLEM = "application/problem+json"


class FakePlatform:
    """Serves what `routes` says.

    Attributes:
        routes: status and answer by path; every other path is a 404 problem. The answer is a JSON
            value, raw bytes, or a function of the query that returns a JSON value.
        key: API key that ``/v1`` demands; None lets everybody in.
        asked: the paths asked for, in order.
        posted: path and JSON of each ``POST``, in order.
        put: path and JSON of each ``PUT``, in order.
        deleted: path of each ``DELETE``, in order.
    """

    def __init__(self) -> None:
        self.routes: dict[str, tuple[int, Any]] = {}
        self.key: str | None = None
        self.asked: list[str] = []
        self.posted: list[tuple[str, Any]] = []
        self.put: list[tuple[str, Any]] = []
        self.deleted: list[str] = []
        self.url = ""
        self.answer("/healthz", {"status": "ok", "version": "0.1.0"})
        self.answer("/readyz", {"status": "ok", "version": "0.1.0", "checks": {"engine": "ok"}})
        self.answer("/v1/statistics", {"statistics": [], "next_cursor": None})
        self.answer("/v1/models", {})
        self.sign_in_as("analyst", "monitor")
        self.publish()

    def answer(self, path: str, value: Any, status: int = 200) -> None:
        """Answer `path` with `value` from now on."""
        self.routes[path] = (status, value)

    def sign_in_as(self, *scopes: str) -> None:
        """Give the reader these scopes from now on."""
        self.answer("/v1/me", {"name": "key 0f3a9c21", "note": "", "scopes": list(scopes)})

    def publish(self, **reports: Any) -> None:
        """Offer exactly these reports."""
        listed = [{"name": name, "updated_at": 0, "bytes": 1} for name in reports]
        self.answer("/v1/reports", {"reports": listed, "next_cursor": None})
        for name, value in reports.items():
            self.answer(f"/v1/reports/{name}", value)

    def publish_statistic(self, statistic: dict[str, Any]) -> None:
        """Offer one private statistic, given in the form of a report's section."""
        about = {key: statistic[key] for key in ("name", "epsilon", "cap", "unit")}
        self.answer("/v1/statistics", {"statistics": [{**about, "title": ""}], "next_cursor": None})

        def page(query: dict[str, str]) -> dict[str, Any]:
            since, until = (int(query[name]) for name in ("since", "until"))
            cells = [each for each in statistic["sample"] if since <= each["pane_start"] < until]
            return {**about, "cells": cells, "next_cursor": None}

        self.answer(f"/v1/statistics/{about['name']}", page)

    def find(self, url: str, authorization: str) -> tuple[int, Any]:
        """Status and value for one request."""
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        self.asked.append(path)
        if self.key and path.startswith("/v1/") and self.key not in authorization:
            return 401, {"title": "Unauthorized", "status": 401, "detail": "no valid API key"}
        missing = {"title": "Not Found", "status": 404, "detail": f"there is no {path}"}
        status, value = self.routes.get(path, (404, missing))
        if callable(value):
            value = value({name: values[0] for name, values in query.items()})
        return status, value


@contextmanager
def running(platform: FakePlatform) -> Iterator[FakePlatform]:
    """Serve `platform` on a free loopback port for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, value = platform.find(self.path, self.headers.get("Authorization", ""))
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", PROBLEM if status >= 400 else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            platform.posted.append((urlsplit(self.path).path, json.loads(sent or b"null")))
            self.do_GET()

        def do_PUT(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            platform.put.append((urlsplit(self.path).path, json.loads(sent or b"null")))
            self.do_GET()

        def do_DELETE(self) -> None:
            platform.deleted.append(urlsplit(self.path).path)
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output quiet."""

    with serving(Handler) as platform.url:
        yield platform
