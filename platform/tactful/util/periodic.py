"""Periodic work of a server beside its requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

_LOG = logging.getLogger(__name__)


async def repeat(
    seconds: float,
    work: Callable[[], Awaitable[object]],
    *,
    failures: tuple[type[Exception], ...],
    message: str,
) -> None:
    """Run `work` for ever, with a pause before each run; log `failures`.

    Other errors end the loop.
    """
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except failures as error:
            _LOG.warning("%s: %s", message, error)
