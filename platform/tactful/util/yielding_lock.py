"""A lock as work in the background takes it: again and again, and never before those who answer."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

_LEAST_S = 0.0003
_SHARE = 2.0


class GivingWay(AbstractContextManager[None]):
    """A lock that is left alone after each time it was held, and for twice as long.

    A lock is not handed over: whoever waits for it has to wake up first, and a thread that takes it
    again at once, part after part, has it back before that. An answer would then wait for all parts
    instead of one.
    """

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        """Hold `lock`."""
        self._lock = lock
        self._since = 0.0

    def __enter__(self) -> None:
        """Wait for it."""
        self._lock.__enter__()
        self._since = time.perf_counter()

    def __exit__(self, *raised: object) -> None:
        """Give it free, and let others have it."""
        held = time.perf_counter() - self._since
        self._lock.__exit__(None, None, None)
        time.sleep(max(_LEAST_S, _SHARE * held))
