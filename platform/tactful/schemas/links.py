"""Response of the first address that a visitor of the API opens."""

from __future__ import annotations

import msgspec


class ApiLinks(msgspec.Struct, kw_only=True, frozen=True):
    """Where the API is described.

    Attributes:
        name: name of the software.
        version: its version.
        documentation: page for readers.
        openapi: OpenAPI document for programs.
        health: readiness of the server.
    """

    name: str
    version: str
    documentation: str
    openapi: str
    health: str
