"""Readiness of a server and of its worker processes."""

from __future__ import annotations

import msgspec


class WorkerHealth(msgspec.Struct, kw_only=True, frozen=True):
    """Health of one worker process (``tactful serve --workers``).

    Attributes:
        number: number of its place, from 0; a replacement has the same.
        state: ``ready``; ``starting``; ``down``, until it is replaced; ``silent``, it runs and has
            reported nothing for five seconds; ``behind``, it has used another model or fewer
            items than the server for five seconds.
        restarts: number of replacements since the server started.
        model_version: ranking model; None while it does not serve, or without a model.
        items_behind: number of items that it lacks; None while it does not serve.
    """

    number: int
    state: str
    restarts: int
    model_version: str | None = None
    items_behind: int | None = None


class Health(msgspec.Struct, kw_only=True, frozen=True):
    """Whether the server is alive (``/healthz``) or ready for traffic (``/readyz``).

    Attributes:
        status: ``ok``, ``starting``, ``stopping`` or ``failed``.
        version: version of the server.
        checks: result of each check: ``ok``, or the failure in words.
        workers: health of the worker processes; None without workers.
        holds_lease: whether it publishes, sends and schedules at present; of several servers one
            does. Servers that do not are as ready for traffic.
    """

    status: str
    version: str
    checks: dict[str, str] = {}
    workers: list[WorkerHealth] | None = None
    holds_lease: bool = True


class ApiLinks(msgspec.Struct, kw_only=True, frozen=True):
    """Addresses that describe the API.

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
