"""What a server does again and again beside answering."""

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
    told: str,
) -> None:
    """Do some work for ever, each time after a while.

    Args:
        seconds: to wait before each time.
        work: what is done.
        failures: what may go wrong; it is told, and the next time is waited for.
        told: what to say then.
    """
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except failures as error:
            _LOG.warning("%s: %s", told, error)
