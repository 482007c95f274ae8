"""Readiness of a server and of its worker processes."""

from __future__ import annotations

import msgspec


class WorkerHealth(msgspec.Struct, kw_only=True, frozen=True):
    """How one of the processes is that answer requests (``tactful serve --workers``).

    Attributes:
        number: of its place, from 0; whoever replaces it has the same.
        state: ``ready``; ``starting``; ``down``, until another one is started; ``silent``, it runs
            and has said nothing for five seconds; ``behind``, it has served another model or fewer
            items than the server has for five seconds.
        restarts: how often it was replaced since the server started.
        model_version: what it ranks by; None while it does not serve, or without a model.
        items_behind: how many items it does not know yet; None while it does not serve.
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
        checks: what was looked at, each ``ok`` or what is wrong in words.
        workers: the processes that answer requests; None where there is only the server's own.
    """

    status: str
    version: str
    checks: dict[str, str] = {}
    workers: list[WorkerHealth] | None = None
