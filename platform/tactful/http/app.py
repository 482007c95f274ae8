"""The ASGI application of a server: its routes, and its lifespan."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tactful.http.asgi import Application, Receive, Scope, Send, route
from tactful.http.routes import ENDPOINTS

if TYPE_CHECKING:
    from tactful.server.platform import Platform

logger = logging.getLogger(__name__)


def make_application(platform: Platform) -> Application:
    """Make the application that serves `platform`; its lifespan starts and stops it."""
    answer = route(ENDPOINTS, platform)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _run_lifespan(platform, receive, send)
        else:
            await answer(scope, receive, send)

    return application


async def _run_lifespan(platform: Platform, receive: Receive, send: Send) -> None:
    """Start the platform with the server, and stop it after the last response."""
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
