"""Requests about the server itself: health, metrics for Prometheus, its description."""

from __future__ import annotations

from typing import Any

from tactful.client.request import Request
from tactful.schemas.health import ApiLinks, Health


def links() -> Request[ApiLinks]:
    """Request name, version and addresses of the server."""
    return Request("GET", "/", ApiLinks)


def alive() -> Request[Health]:
    """Request whether the process is alive."""
    return Request("GET", "/healthz", Health)


def ready() -> Request[Health]:
    """Request whether the server is ready for traffic."""
    return Request("GET", "/readyz", Health)


def prometheus() -> Request[bytes]:
    """Request the metrics as Prometheus reads them."""
    return Request("GET", "/metrics", bytes)


def openapi() -> Request[dict[str, Any]]:
    """Request the OpenAPI document."""
    return Request("GET", "/openapi.json", dict[str, Any])


def documentation() -> Request[bytes]:
    """Request the page that describes all routes."""
    return Request("GET", "/docs", bytes)
