"""Admission control: one at a time, a bounded queue before it, and a bounded wait in it."""

from __future__ import annotations

import asyncio
from types import TracebackType

from tactful.problems import ProblemError


class Turnstile:
    """Lets one task through at a time and turns away what it could not serve in time.

    Work that blocks the event loop gains nothing from running side by side. Between two pieces of
    work the loop reads its sockets once, so that arrivals line up here, where they are counted, and
    those beyond the queue get their 503 at once instead of a time-out later.
    """

    def __init__(self, *, queue: int, wait_s: float) -> None:
        """Allow `queue` tasks to wait, each up to `wait_s` seconds."""
        self._gate = asyncio.Lock()
        self._queue = queue
        self._wait_s = wait_s
        self.waiting = 0

    async def __aenter__(self) -> None:
        """Wait for the turn.

        Raises:
            ProblemError: if the queue is full or the wait was too long.
        """
        if not self.waiting and not self._gate.locked():
            await self._gate.acquire()
            return
        if self.waiting >= self._queue:
            raise ProblemError("overloaded", "the queue is full", retry_after=1)
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._gate.acquire()
        except TimeoutError:
            raise ProblemError("overloaded", "it waited too long", retry_after=1) from None
        finally:
            self.waiting -= 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the next one through in the loop's next round, before which it reads its sockets."""
        asyncio.get_running_loop().call_soon(self._gate.release)
