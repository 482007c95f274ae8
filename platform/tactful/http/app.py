"""The ASGI application.

Paths without parameters, among them the two busy ones, are found in a dictionary; the others by
Starlette's router. Whatever is wrong is answered with a problem.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.routing import Route, Router

from tactful.http.asgi import (
    Application,
    Endpoint,
    Host,
    Receive,
    Resource,
    Scope,
    Send,
    answer_with_problem,
)
from tactful.http.routes import ENDPOINTS
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

logger = logging.getLogger(__name__)


def make_application(platform: Platform) -> Application:
    """The application that serves `platform`; its lifespan starts and stops it."""
    answer = route(ENDPOINTS, platform)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(platform, receive, send)
        else:
            await answer(scope, receive, send)

    return application


def route(endpoints: Sequence[Endpoint], host: Host) -> Application:
    """An application that answers requests for some endpoints, and has no lifespan.

    Args:
        endpoints: what there is.
        host: what their handlers are given.
    """
    resources = {
        path: Resource(
            path,
            {endpoint.method: endpoint for endpoint in endpoints if endpoint.path == path},
            host,
        )
        for path in dict.fromkeys(endpoint.path for endpoint in endpoints)
    }
    # An id may hold a slash, which arrives decoded: so a parameter matches slashes, too.
    routes = [
        Route(path.replace("}", ":path}"), resource)
        for path, resource in resources.items()
        if "{" in path
    ]
    router = Router(routes, redirect_slashes=False, default=_nothing_here)
    fixed = {path: resource for path, resource in resources.items() if "{" not in path}

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await fixed.get(scope["path"], router)(scope, receive, send)

    return application


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    await answer_with_problem(
        ProblemError("not_found", "GET /openapi.json lists what there is"), scope, send
    )


async def _live(platform: Platform, receive: Receive, send: Send) -> None:
    """Start with the server, and stop when it has answered its last request."""
    await receive()
    try:
        await platform.start()
    except Exception as error:
        logger.exception("the platform cannot start")
        await send({"type": "lifespan.startup.failed", "message": type(error).__name__})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    try:
        await platform.stop()
    except Exception as error:
        logger.exception("the platform did not stop cleanly; it will recover at the next start")
        await send({"type": "lifespan.shutdown.failed", "message": type(error).__name__})
        return
    await send({"type": "lifespan.shutdown.complete"})
