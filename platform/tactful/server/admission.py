"""Admission control: one at a time, a bounded queue before it, and a bounded wait in it.

A queue absorbs a burst and is empty soon after. A queue that stands helps nobody: it only adds its
length to the time of every answer. So once it stands, whoever would wait long is refused at once,
until a second has passed in which nobody was. The idea is that of CoDel (Nichols and Jacobson,
"Controlling Queue Delay", ACM Queue 10(5), 2012), which drops what has waited too long; here the
wait can be foreseen, since all wait for the same kind of work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from tactful.schemas.problems import ProblemError

_STANDING_AFTER_S = 0.1
_CALM_AFTER_S = 1.0
_WEIGHT = 0.1


class Turnstile:
    """Lets one task through at a time and turns away what it could not serve in time.

    Work that blocks the event loop gains nothing from running side by side. Between two pieces of
    work the loop reads its sockets once, so that arrivals line up here, where they are counted, and
    those beyond the queue get their 503 at once instead of a time-out later.

    Attributes:
        waiting: how many wait now.
    """

    def __init__(
        self,
        *,
        queue: int,
        wait_s: float,
        standing_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a turnstile that nobody is in.

        Args:
            queue: how many may wait.
            wait_s: how long each may wait while the queue is a burst.
            standing_s: how long it may wait, as foreseen, once the queue stands.
            clock: seconds that never go back.
        """
        self._gate = asyncio.Lock()
        self._queue = queue
        self._wait_s = wait_s
        self._standing_s = standing_s
        self._clock = clock
        self.waiting = 0
        self._turn_s = 0.0
        self._began = 0.0
        self._empty_at = clock()
        self._strict_until = self._empty_at

    async def __aenter__(self) -> None:
        """Wait for the turn.

        Raises:
            ProblemError: if the queue is full, it stands, or the wait was too long.
        """
        if not self.waiting and not self._gate.locked():
            await self._gate.acquire()
            self._empty_at = self._began = self._clock()
            return
        self._admit()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._gate.acquire()
        except TimeoutError:
            raise self._refusal("it waited too long") from None
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._empty_at = self._clock()
        self._began = self._clock()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the next one through in the loop's next round, before which it reads its sockets."""
        asyncio.get_running_loop().call_soon(self._release)

    def _release(self) -> None:
        # Reading the sockets is part of a turn: those in the queue wait for it, too.
        took = self._clock() - self._began
        self._turn_s += _WEIGHT * (took - self._turn_s) if self._turn_s else took
        self._gate.release()

    def _admit(self) -> None:
        if self.waiting >= self._queue:
            raise self._refusal("the queue is full")
        if not self.waiting:
            return  # one may always wait: a single piece of work that takes long is no overload
        now = self._clock()
        strict = now - self._empty_at > _STANDING_AFTER_S or now < self._strict_until
        if strict and (self.waiting + 1) * self._turn_s > self._standing_s:
            raise self._refusal("more is asked than can be answered")

    def _refusal(self, detail: str) -> ProblemError:
        self._strict_until = self._clock() + _CALM_AFTER_S
        return ProblemError("overloaded", detail, retry_after=1)
