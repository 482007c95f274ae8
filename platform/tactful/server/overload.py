"""Admission control: one request at a time, a bounded queue and a bounded wait.

A queue absorbs a burst and is empty soon after. A standing queue only adds its length to the time
of every answer. So while it stands, requests that would wait long are refused at once, until a
second has passed without a refusal. The idea is that of CoDel (Nichols and Jacobson, "Controlling
Queue Delay", ACM Queue 10(5), 2012), which drops what has waited too long; here the wait can be
predicted, since all requests need the same kind of work.

A request that would be refused is answered with a recommendation that is not personal, which takes
a small part of the time, as long as such answers take at most half of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator

from tactful.config.server import ServerSettings
from tactful.schemas.problems import KINDS, ProblemError
from tactful.schemas.recommendations import RecommendRequest

_STANDING_AFTER_S = 0.1
_CALM_AFTER_S = 1.0
_WEIGHT = 0.1  # of the latest turn in the mean duration of a turn
_CHEAPER_SHARE = 0.5


class CheaperAnswers:
    """Limits the time that answers take which are made instead of refusals."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with no time taken; `clock` returns monotonic seconds."""
        self._clock = clock
        self._taken_s = 0.0  # within the last second, those before it fade
        self._at = clock()

    def of(self, request: RecommendRequest, refusal: ProblemError) -> RecommendRequest:
        """Return the request to answer instead of a refusal.

        Raises:
            ProblemError: the refusal, if it has another reason than overload, the filters need the
                user, or such answers took half of the last second.
        """
        cheaper = request.cheaper() if refusal.kind is KINDS["overloaded"] else None
        if cheaper is None or self._faded(self._clock()) >= _CHEAPER_SHARE:
            raise refusal
        return cheaper

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time of one answer."""
        began = self._clock()
        try:
            yield
        finally:
            now = self._clock()
            self._taken_s = self._faded(now) + now - began
            self._at = now

    def _faded(self, now: float) -> float:
        return self._taken_s * math.exp(self._at - now)


class AdmissionControl:
    """Async lock that refuses tasks which it could not admit in time.

    Work that blocks the event loop gains nothing from running concurrently. Between two turns the
    loop reads its sockets once, so that arrivals are counted in the queue, and those beyond it get
    their 503 at once instead of a time-out later.
    """

    def __init__(
        self, settings: ServerSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with an empty queue; `clock` returns monotonic seconds."""
        self._lock = asyncio.Lock()
        self._queue = settings.recommend_queue
        self._wait_s = settings.recommend_wait_s
        self._standing_s = settings.recommend_standing_s
        self._clock = clock
        self.waiting = 0  # tasks in the queue
        self._turn_s = 0.0
        self._began = 0.0
        self._empty_at = clock()
        self._strict_until = self._empty_at

    async def __aenter__(self) -> None:
        """Wait for the turn; raise `ProblemError` at once if that would take too long."""
        if not self.waiting and not self._lock.locked():
            await self._lock.acquire()
            self._empty_at = self._began = self._clock()
            return
        self._check_queue()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._lock.acquire()
        except TimeoutError:
            raise self._refusal("it waited too long") from None
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._empty_at = self._clock()
        self._began = self._clock()

    async def __aexit__(self, *_: object) -> None:
        """Admit the next task after the loop has read its sockets."""
        asyncio.get_running_loop().call_soon(self._release)

    def _release(self) -> None:
        # Reading the sockets is part of a turn: the queue waits for it, too.
        took = self._clock() - self._began
        self._turn_s += _WEIGHT * (took - self._turn_s) if self._turn_s else took
        self._lock.release()

    def _check_queue(self) -> None:
        if self.waiting >= self._queue:
            raise self._refusal("the queue is full")
        if not self.waiting:
            return  # a single long turn is no overload: one task may always wait
        now = self._clock()
        strict = now - self._empty_at > _STANDING_AFTER_S or now < self._strict_until
        if strict and (self.waiting + 1) * self._turn_s > self._standing_s:
            raise self._refusal("more requests arrive than can be answered")

    def _refusal(self, detail: str) -> ProblemError:
        self._strict_until = self._clock() + _CALM_AFTER_S
        return ProblemError("overloaded", detail, retry_after=1)
