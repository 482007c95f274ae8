"""A lock as work in the background takes it: again and again, and never before those who answer."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

_PAUSE_S = 0.002


class GivingWay(AbstractContextManager[None]):
    """A lock that is left alone for a moment after each time it was held.

    A lock is not handed over: whoever waits for it has to wake up first, and a thread that takes it
    again at once, part after part, has it back before that. An answer would then wait for all parts
    instead of one.
    """

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        """Hold `lock`."""
        self._lock = lock

    def __enter__(self) -> None:
        """Wait for it."""
        self._lock.__enter__()

    def __exit__(self, *raised: object) -> None:
        """Give it free, and let others have it."""
        self._lock.__exit__(None, None, None)
        time.sleep(_PAUSE_S)
