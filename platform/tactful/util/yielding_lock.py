"""A lock wrapper for background work that lets request threads take the lock between steps."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

_LEAST_S = 0.0003
_SHARE = 2.0


class YieldingLock(AbstractContextManager[None]):
    """Lock wrapper that sleeps after each release, twice as long as it held the lock.

    A lock is not handed over: a waiting thread has to wake up first. A thread that takes the lock
    again at once, step after step, is faster, and a request would wait for all steps.
    """

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        """Wrap `lock`."""
        self._lock = lock
        self._since = 0.0

    def __enter__(self) -> None:
        """Acquire the lock."""
        self._lock.__enter__()
        self._since = time.perf_counter()

    def __exit__(self, *raised: object) -> None:
        """Release the lock and sleep."""
        held = time.perf_counter() - self._since
        self._lock.__exit__(None, None, None)
        time.sleep(max(_LEAST_S, _SHARE * held))
